"""How long does the first `map` of a fresh environment take, against the import of sentence-transformers?

    python benchmarks/first_answer.py

Each run is a fresh process with an empty cache directory and no compiled loops. It loads the embedded sample (this
compiles too, and counts), mines its rows with BM25, and mines again with one more candidate per row and compiled loops.
`import sentence_transformers` is timed alternately in other processes, after an import of this library, which both
need.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from measuring import in_child, in_turns, seconds_of, spread_of
from runner import Benchmark, Part, Run, spread, table

import hnm_datasets as hnm

NAMES = {
    "first": "load the sample and map `BM25Negatives` over its rows",
    "mine": "… of it the map",
    "second": "the next map",
    "import": "`import sentence_transformers`",
}


def mine() -> dict[str, Any]:
    """Load the sample and mine twice."""
    found: dict[str, Any] = {}

    def load() -> None:
        found["corpus"], found["rows"] = hnm.load_sample()

    def map_(k: int) -> None:
        found["rows"].map(hnm.BM25Negatives(found["corpus"], k=k), batched=True)

    loading, mining, second = seconds_of(load), seconds_of(partial(map_, 10)), seconds_of(partial(map_, 11))
    return {"first": loading + mining, "mine": mining, "second": second, "rows": len(found["rows"])}


def load_rival() -> dict[str, Any]:
    """Import sentence-transformers."""

    def load() -> None:
        import sentence_transformers  # noqa: F401

    return {"import": seconds_of(load)}


def measure(run: Run) -> dict[str, Any]:
    def fresh(function: Any) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=run.scratch) as place:
            return in_child(function, Path(place) / "cache", compiled=Path(place) / "compiled")

    runs = in_turns({"ours": partial(fresh, mine), "theirs": partial(fresh, load_rival)}, run.repeats)
    parts = {"first": "ours", "mine": "ours", "second": "ours", "import": "theirs"}
    times = {part: spread_of([one[part] for one in runs[side]]) for part, side in parts.items()}
    return {"rows": runs["ours"][0]["rows"], "times": times}


def show(found: dict[str, Any]) -> str:
    theirs = found["times"]["import"]["median_s"]
    rows = [
        (NAMES[part], spread(times, 2, " s"), f"{times['median_s'] / theirs:.2f}")
        for part, times in found["times"].items()
    ]
    return f"{found['rows']:,} rows. Target: the first map takes no longer than the import.\n\n" + table(
        "What|Seconds|/ the import", rows
    )


if __name__ == "__main__":
    Benchmark({"": Part("", measure, show)}, file=lambda _: "first-answer").run()
