"""Is this checkout as fast as an older one?

    python benchmarks/commits.py OLDER SET    # OLDER: another checkout; SET: a BEIR folder or a Hub id

Each case runs in its own process, alternately in both checkouts.
"""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_child, in_turns, seconds_of, spread_of
from models import make_model
from runner import Benchmark, Part, Run, git_commit, table

HERE = Path(__file__).parents[1]
CASES = ("bm25", "dense", "fuse", "tuples", "audit")
ROWS = 4000
#: Passages of the corpus to open.
LARGE = 1_000_000


def least(case: str, source: str) -> dict[str, float]:
    """Return the shortest time of three calls in this process, in seconds."""
    import datasets

    import hnm_datasets as hnm

    datasets.disable_progress_bars()
    corpus, queries = hnm.load_beir(source)
    rows = queries.select(range(min(ROWS, len(queries))))

    def apply(step: Any, to: Any) -> Any:
        return to.map(step, batched=True, load_from_cache_file=False, keep_in_memory=True)

    if case == "dense":
        step: Any = hnm.DenseNegatives(corpus, make_model("static"), k=100)
    elif case in ("bm25", "fuse"):
        step = hnm.BM25Negatives(corpus, k=100)
        if case == "fuse":
            model = make_model("static")
            index = hnm.DenseIndex(corpus.embed(model), "IVF256,Flat", nprobe=4)
            dense = hnm.DenseNegatives(corpus, model, k=100, index=index)
            step = hnm.FuseNegatives({"bm25": step, "dense": dense})
    else:
        rows = apply(hnm.BM25Negatives(corpus, k=100 if case == "tuples" else 10), rows)
        step = hnm.ToNTuples(corpus, n=5)
    if case == "audit":
        rows = datasets.concatenate_datasets([apply(hnm.ToTriplets(corpus, with_ids=True), rows)] * 5)
        return {"seconds": seconds_of(lambda: hnm.audit_negatives(rows, corpus))}
    apply(step, rows.select(range(50)))
    return {"seconds": min(seconds_of(lambda: apply(step, rows)) for _ in range(3))}


def make_large() -> dict[str, str]:
    """Copy a corpus of a million short passages into the cache."""
    import datasets

    import hnm_datasets as hnm

    passages = {
        "id": map(str, range(LARGE)),
        "text": (f"passage number {row} of a large corpus" for row in range(LARGE)),
    }
    rows = datasets.Dataset.from_dict({name: list(values) for name, values in passages.items()})
    return {"fingerprint": hnm.Corpus.from_dataset(rows).fingerprint}


def opening(fingerprint: str) -> dict[str, float]:
    """Return the seconds until a cached corpus returns its last passage, in a process that has not read it yet."""
    import hnm_datasets as hnm

    # First open a small one, to import and compile what it needs.
    corpus = hnm.load_sample()[0]
    corpus[corpus.ids(np.zeros(1, dtype=np.int64))[0].as_py()]
    return {"seconds": seconds_of(lambda: hnm.Corpus(fingerprint)[str(LARGE - 1)])}


def measure(run: Run) -> dict[str, Any]:
    older, source = Path(run.sets[0]).resolve(), run.sets[1]
    source = str(Path(source).resolve()) if Path(source).exists() else source

    def once(side: str, checkout: Path, case: str) -> float:
        os.environ["PYTHONPATH"] = str(checkout)
        return in_child(least, run.scratch / side, case=case, source=source)["seconds"]

    found = {}
    for case in CASES:
        runs = {side: partial(once, side, place, case) for side, place in (("older", older), ("newer", HERE))}
        found[case] = {side: spread_of(seconds) for side, seconds in in_turns(runs, run.repeats).items()}

    def opened(side: str, checkout: Path, fingerprint: str) -> float:
        os.environ["PYTHONPATH"] = str(checkout)
        return in_child(opening, run.scratch / side, fingerprint=fingerprint)["seconds"]

    runs = {}
    for side, place in (("older", older), ("newer", HERE)):
        os.environ["PYTHONPATH"] = str(place)
        name = in_child(make_large, run.scratch / side)["fingerprint"]
        runs[side] = partial(opened, side, place, name)
        runs[side]()  # the first opening may hash the new files
    found["open"] = {side: spread_of(seconds) for side, seconds in in_turns(runs, run.repeats).items()}
    words = ["git", "-C", str(older), "rev-parse", "HEAD"]
    commit = subprocess.run(words, capture_output=True, text=True).stdout.strip()
    return {"commits": {"older": commit, "newer": git_commit()}, "rows": ROWS, "found": found}


def show(found: dict[str, Any]) -> str:
    rows = [
        (case, one["older"], one["newer"], f"{one['older']['min_s'] / one['newer']['min_s']:.2f}")
        for case, one in found["found"].items()
    ]
    about = f"{found['rows']:,} queries at most. Older: commit {found['commits']['older'][:12]}.\n\n"
    return about + table("case|older|newer|older / newer, least seconds", rows)


if __name__ == "__main__":
    Benchmark({"": Part("", measure, show)}, sets="+", file=lambda _: "commits").run()
