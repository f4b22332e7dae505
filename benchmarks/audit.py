"""Measure how long an audit takes and how much memory it needs, for rows in each of several forms.

    python benchmarks/audit.py --rows 100000 1000000

The rows are synthetic: a query of eight words, one positive, five negatives, drawn at random from half as many passages
of fifty random words as there are rows. One row in a thousand has a known positive among its negatives, which the audit
must count. Rows lie on disk, as they do after `map`. Each measurement runs in a process of its own; memory is what it
takes anonymously beyond what it had before (memory-mapped files count as nothing).

Results go to audit.json and .md in `--output`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _common import MIB, Parts, in_child, measured, run_script, table
from datasets import Dataset, load_from_disk

import hnm_datasets as hnm

SEED = 0
NEGATIVES = 5
CHUNK = 20_000
FORMS = ("mined", "triplets", "n-tuples", "flagembedding")


def task_make(folder: str, rows: int) -> dict[str, Any]:
    """Write the rows and their passages to disk."""
    place, passages = Path(folder), rows // 2
    words = np.array([f"word{i}" for i in range(5000)])

    def texts(count: int, length: int, seed: int) -> list[str]:
        rng = np.random.default_rng((SEED, seed))
        return [" ".join(words[line]) for line in rng.integers(0, len(words), (count, length))]

    def passages_of(starts: list[int]) -> Iterator[dict[str, str]]:
        for start in starts:
            count = min(CHUNK, passages - start)
            ids = range(start, start + count)
            yield from ({"id": f"p{i}", "text": text} for i, text in zip(ids, texts(count, 50, start), strict=True))

    def rows_of(starts: list[int]) -> Iterator[dict[str, Any]]:
        for start in starts:
            count = min(CHUNK, rows - start)
            rng = np.random.default_rng((SEED, rows + start))
            drawn = np.argsort(rng.random((count, 64)), axis=1)[:, : NEGATIVES + 1] * (passages // 64)
            drawn += rng.integers(0, passages // 64, drawn.shape)
            spoiled = np.arange(start, start + count) % 1000 == 0
            drawn[spoiled, 1] = drawn[spoiled, 0]
            scores = rng.random((count, NEGATIVES + 1), dtype=np.float32)
            for row, (line, query) in enumerate(zip(drawn.tolist(), texts(count, 8, rows + start), strict=True)):
                yield {
                    "query_id": f"q{start + row}",
                    "query": query,
                    "positive_ids": [f"p{line[0]}"],
                    "positive_scores": scores[row, :1],
                    "negative_ids": [f"p{i}" for i in line[1:]],
                    "negative_scores": scores[row, 1:],
                    "negative_ranks": np.arange(1, NEGATIVES + 1, dtype=np.int32),
                }

    starts = {"starts": list(range(0, passages, CHUNK))}
    corpus = hnm.Corpus.from_dataset(Dataset.from_generator(passages_of, gen_kwargs=starts))
    mined = Dataset.from_generator(rows_of, gen_kwargs={"starts": list(range(0, rows, CHUNK))})
    mined.save_to_disk(place / "mined")
    shapes = {"triplets": hnm.ToTriplets(corpus, n=1), "n-tuples": hnm.ToNTuples(corpus, n=NEGATIVES)}
    for form, step in shapes.items():
        mined.map(step, batched=True, remove_columns=mined.column_names).save_to_disk(place / form)
    hnm.convert(mined, "flagembedding", corpus).save_to_disk(place / "flagembedding")
    return {"corpus": corpus.fingerprint}


def task_audit(folder: str, corpus: str, form: str) -> dict[str, Any]:
    """Audit the rows of one form."""
    rows, passages = load_from_disk(str(Path(folder) / form)), hnm.Corpus(corpus)
    spent: dict[str, float] = {}
    hnm.audit_negatives(rows.select(range(100)), passages)
    judgements = load_from_disk(str(Path(folder) / "mined")) if form == "mined" else None
    with measured(spent):
        audit = hnm.audit_negatives(rows, passages, judgements=judgements)
    return {"seconds": spent["total"], "defects": {defect.name: defect.count for defect in audit.defects}}


def part_forms(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    found = []
    for rows in args.rows:
        folder = scratch / str(rows)
        made = in_child("make", scratch / "cache", folder=folder, rows=rows)
        for form in args.forms:
            runs = [
                in_child("audit", scratch / "cache", watch=True, folder=folder, form=form, **made)
                for _ in range(args.repeats)
            ]
            expected = len(range(0, rows, 1000))
            if any(run["defects"].get("known-positives") != expected for run in runs):
                raise RuntimeError(f"the audit of {form} did not count {expected} known positives: {runs}")
            found.append({"rows": rows, "form": form, "runs": runs})
    return found


def show_forms(found: list[dict[str, Any]]) -> str:
    lines = []
    for one in found:
        seconds = sorted(run["seconds"] for run in one["runs"])
        memory = max(run["memory"]["anonymous"] for run in one["runs"])
        lines.append(
            (
                f"{one['rows']:,}",
                one["form"],
                f"{seconds[len(seconds) // 2]:.1f} s ({seconds[0]:.1f} to {seconds[-1]:.1f})",
                f"{memory / MIB:,.0f} MiB",
                f"{one['runs'][0]['defects'].get('known-positives', 0):,}",
            )
        )
    about = "A query, a positive and five negatives (triplets: one) a row; passages of fifty words.\n\n"
    return about + table("Rows|Form|Time|Memory, anonymous|Known positives found", lines)


PARTS: Parts = {"forms": ("Time and memory of an audit", part_forms, show_forms)}


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000], help="numbers of rows")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="only these")
    run_script(parser, PARTS, {"make": task_make, "audit": task_audit})


if __name__ == "__main__":
    main()
