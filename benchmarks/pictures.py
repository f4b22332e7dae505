"""How do mined negatives look? Two pictures for the README, each for light and for dark pages.

    python benchmarks/pictures.py                          # the embedded sample, MiniLM
    python benchmarks/pictures.py SET --model PATH         # another set, another model

The first picture shows one query. It is the first query with one known positive, all wanted dense negatives, and the
largest number of different titles among its passages. The second picture shows the model's scores of the negatives of
BM25 and of the model, for all queries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import matplotlib.style
from inputs import load_set
from matplotlib.figure import Figure
from models import make_model
from PIL import Image
from runner import Benchmark, Part, Run, option, set_name
from sentence_transformers import SentenceTransformer

import hnm_datasets as hnm
from hnm_datasets.pictures.query import plot_query
from hnm_datasets.pictures.scores import plot_scores

#: The background of dark pages is not pure black.
STYLES = {
    "light": ["default"],
    "dark": ["dark_background", {"figure.facecolor": "#0d1117", "axes.facecolor": "#0d1117"}],
}


def choose_row(mined: datasets.Dataset, corpus: hnm.Corpus, negatives: int) -> dict[str, Any]:
    """Choose the query with the most different passages."""
    chosen, most = None, 0
    for row in mined:
        if len(row["positive_ids"]) == 1 and len(row["negative_ids"]) == negatives:
            passages = (corpus[name] for name in row["positive_ids"] + row["negative_ids"])
            titles = len({(passage["title"] or passage["id"]).casefold() for passage in passages})
            if titles > most:
                chosen, most = row, titles
    if chosen is None:
        raise ValueError(f"No query has one positive and {negatives} negatives. Ask for fewer: --negatives.")
    return chosen


def save(name: str, make: Callable[[], Figure], folder: Path) -> str:
    """Draw a picture in all styles, and return its title."""
    for style, settings in STYLES.items():
        with matplotlib.style.context(settings):
            figure = make()
            figure.savefig(target := folder / f"{name}-{style}.png")
            # The pictures have few colors: a palette halves the size of the files.
            with Image.open(target) as image:
                image.convert("RGB").quantize(256).save(target, optimize=True)
    return "; ".join(axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")) or (
        figure.texts[0].get_text()
    )


def shown(name: str, what: str) -> str:
    """Return HTML that shows the picture for light or dark pages."""
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png">\n'
        f'  <img alt="{what}" src="{name}-light.png" width="800">\n</picture>\n'
    )


def measure(run: Run) -> dict[str, Any]:
    """Draw both pictures."""
    source = run.sets[0] if run.sets else None
    corpus, queries = load_set(source, run.split)
    model = SentenceTransformer(run.model, device="cpu") if run.model else make_model("minilm")
    mined, k = queries, run.candidates
    margin, top = hnm.RelativeMargin(run.margin), hnm.TopNegatives(run.negatives)
    for step in (hnm.DenseNegatives(corpus, model, k=50), margin, top):
        mined = mined.map(step, batched=True)
    row = choose_row(mined, corpus, run.negatives)
    miners = {"bm25": hnm.BM25Negatives(corpus, k=k), "dense": hnm.DenseNegatives(corpus, model, k=k)}
    fused = queries.map(hnm.FuseNegatives(miners), batched=True)
    return {
        "set": set_name(source) if source else "the embedded sample",
        "model": Path(run.model).name if run.model else "MiniLM",
        "query": row.get("query_id", row["query"]),
        "queries": len(queries),
        **{name: getattr(run, name) for name in ("negatives", "margin", "candidates")},
        "query_says": save("query", lambda: plot_query(row, corpus, model), run.out),
        "scores_say": save("scores", lambda: plot_scores(fused, by="dense"), run.out),
    }


def show(found: dict[str, Any]) -> str:
    one, two = found["query_says"], found["scores_say"]
    return (
        f"{shown('query', one)}\nThe query `{found['query']}` of {found['set']}: of those with one positive and "
        f"{found['negatives']} negatives by `DenseNegatives(k=50)` and `RelativeMargin({found['margin']:g})`, the "
        f"first whose passages have the most different titles. {one}.\n\n{shown('scores', two)}\nThe best "
        f"{found['candidates']} of each source for {found['queries']:,} queries, scored by {found['model']}. {two}.\n"
    )


if __name__ == "__main__":
    Benchmark(
        {"": Part("", measure, show)},
        {
            "split": option("test", "of the set"),
            "model": option(None, "a path or Hub id; without it MiniLM, as the offline package has it", str),
            "negatives": option(5, "of the query that is drawn"),
            "margin": option(0.05, "of RelativeMargin, for its negatives"),
            "candidates": option(10, "of each source, for the scores"),
        },
        sets="?",
        file=lambda _: "pictures",
        repeats=None,
    ).run()
