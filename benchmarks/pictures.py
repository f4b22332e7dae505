"""Two pictures of mined negatives for the README, each for light and for dark pages.

    python benchmarks/pictures.py                          # the embedded sample, MiniLM
    python benchmarks/pictures.py FOLDER --model PATH      # a set in BEIR's form, another model

The first shows one query: of those with one known positive and as many dense negatives as wanted, the one whose
passages have the most different titles; of several such, the first of the set. The second shows the scores of what
BM25 and the model find for all queries, both by the model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import matplotlib.style
from matplotlib.figure import Figure
from models import make_model
from PIL import Image
from runner import RESULTS, git_commit, machine
from sentence_transformers import SentenceTransformer

import hnm_datasets as hnm
from hnm_datasets.pictures.query import plot_query
from hnm_datasets.pictures.scores import plot_scores

#: Dark pages are not quite black.
STYLES = {
    "light": ["default"],
    "dark": ["dark_background", {"figure.facecolor": "#0d1117", "axes.facecolor": "#0d1117"}],
}


def choose_row(mined: datasets.Dataset, corpus: hnm.Corpus, negatives: int) -> dict[str, Any]:
    """Choose the query whose passages differ the most."""
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
    """Draw a picture in all styles, and return what its title says."""
    for style, settings in STYLES.items():
        with matplotlib.style.context(settings):
            figure = make()
            figure.savefig(target := folder / f"{name}-{style}.png")
            # A few colours in many shades: a palette holds them in half the bytes.
            with Image.open(target) as image:
                image.convert("RGB").quantize(256).save(target, optimize=True)
    return "; ".join(axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")) or (
        figure.texts[0].get_text()
    )


def shown(name: str, what: str) -> str:
    """Return the HTML that shows a picture as the page is, light or dark."""
    return (
        f'<picture>\n  <source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png">\n'
        f'  <img alt="{what}" src="{name}-light.png" width="800">\n</picture>\n'
    )


def main() -> None:
    """Draw both pictures and write how they were made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="a set in BEIR's form (default: the embedded sample)")
    parser.add_argument("--split", default="test", help="of the folder")
    parser.add_argument("--model", help="a path or Hub id (default: MiniLM, as the offline package has it)")
    parser.add_argument("--negatives", type=int, default=5, help="of the query that is drawn")
    parser.add_argument("--margin", type=float, default=0.05, help="of RelativeMargin, for its negatives")
    parser.add_argument("--candidates", type=int, default=10, help="of each source, for the scores")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the pictures go")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    args.output.mkdir(parents=True, exist_ok=True)
    corpus, queries = hnm.load_beir(args.folder, args.split) if args.folder else hnm.load_sample()
    model = SentenceTransformer(args.model, device="cpu") if args.model else make_model("minilm")

    mined = queries
    margin, top = hnm.RelativeMargin(args.margin), hnm.TopNegatives(args.negatives)
    for step in (hnm.DenseNegatives(corpus, model, k=50), margin, top):
        mined = mined.map(step, batched=True)
    row = choose_row(mined, corpus, args.negatives)
    k = args.candidates
    miners = {"bm25": hnm.BM25Negatives(corpus, k=k), "dense": hnm.DenseNegatives(corpus, model, k=k)}
    fused = queries.map(hnm.FuseNegatives(miners), batched=True)

    one = save("query", lambda: plot_query(row, corpus, model), args.output)
    spread = save("scores", lambda: plot_scores(fused, by="dense"), args.output)
    on = machine()
    versions = ", ".join(" ".join(pair) for pair in on["versions"].items())
    # Names in place of paths.
    command = " ".join(["python benchmarks/pictures.py", *(Path(word).name for word in sys.argv[1:])])
    text = (
        f"# Pictures\n\n{shown('query', one)}\nThe query `{row.get('query_id', row['query'])}` of "
        f"{args.folder.resolve().name if args.folder else 'the embedded sample'}: of those with one positive and "
        f"{args.negatives} negatives by `DenseNegatives(k=50)` and `RelativeMargin({args.margin:g})`, the first whose "
        f"passages have the most different titles. {one}.\n\n{shown('scores', spread)}\nThe best {k} of "
        f"each source for {len(queries):,} queries, scored by {Path(args.model).name if args.model else 'MiniLM'}. "
        f"{spread}.\n\n`{command}`. {on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB; "
        f"{datetime.now(UTC).date().isoformat()}, commit {git_commit()}; {versions}.\n"
    )
    (args.output / "pictures.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
