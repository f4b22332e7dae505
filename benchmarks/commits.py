"""Is this checkout as fast as an older one?

    python benchmarks/commits.py OLDER SET    # OLDER: another checkout; SET: a folder in BEIR's form or a Hub id

Each case runs in a process of its own, in both checkouts in turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from models import make_model
from runner import RESULTS, git_commit, in_turns, machine, seconds_of, spread_of, table

HERE = Path(__file__).parents[1]
CASES = ("bm25", "fuse", "tuples", "audit")
ROWS, REPEATS = 4000, 3


def measure(case: str, source: str) -> float:
    """Return the least seconds of three calls, in this process."""
    import datasets

    import hnm_datasets as hnm

    datasets.disable_progress_bars()
    corpus, queries = hnm.load_beir(source)
    rows = queries.select(range(min(ROWS, len(queries))))

    def apply(step: Any, to: Any) -> Any:
        return to.map(step, batched=True, load_from_cache_file=False, keep_in_memory=True)

    if case in ("bm25", "fuse"):
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
        return seconds_of(lambda: hnm.audit_negatives(rows, corpus))
    apply(step, rows.select(range(50)))
    return min(seconds_of(lambda: apply(step, rows)) for _ in range(3))


def main() -> None:
    """Run all cases in both checkouts and write the ratios."""
    if sys.argv[1] == "--case":
        print(measure(*sys.argv[2:]))
        return
    older, source = Path(sys.argv[1]).resolve(), sys.argv[2]
    found = {}
    with tempfile.TemporaryDirectory() as caches:

        def run(checkout: Path, case: str) -> float:
            words = [sys.executable, __file__, "--case", case, str(Path(source).resolve())]
            cache = Path(caches) / checkout.name
            environment = os.environ | {"PYTHONPATH": str(checkout), "HF_DATASETS_CACHE": str(cache)}
            return float(subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout)

        for case in CASES:
            runs = {"older": lambda c=case: run(older, c), "newer": lambda c=case: run(HERE, c)}
            found[case] = {name: spread_of(seconds) for name, seconds in in_turns(runs, REPEATS).items()}
            print(case, found[case], flush=True)
    rows = [
        (case, one["older"], one["newer"], f"{one['older']['min_s'] / one['newer']['min_s']:.2f}")
        for case, one in found.items()
    ]
    words = ["git", "-C", str(older), "rev-parse", "HEAD"]
    commits = {"older": subprocess.run(words, capture_output=True, text=True).stdout.strip(), "newer": git_commit()}
    record = {"commits": commits, "machine": machine(), "rows": ROWS, "repeats": REPEATS, "found": found}
    (RESULTS / "commits.json").write_text(json.dumps(record, indent=1) + "\n")
    shown = table("case|older|newer|older / newer, least seconds", rows)
    (RESULTS / "commits.md").write_text(f"# Is this checkout as fast as an older one?\n\n{shown}\n`{commits}`\n")


if __name__ == "__main__":
    main()
