"""How long does an audit take, and how much memory does it need, for rows in each form?

    python benchmarks/audit.py --rows 100000 1000000

The rows are synthetic: a query of eight words, one positive and five negatives. There are half as many passages as
rows, each of fifty random words. One row in a thousand has a known positive among its negatives, which the audit must
count. The rows are on disk, as after `map`. Each measurement runs in its own process. Memory is the increase in
anonymous memory, so memory-mapped files do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk
from measuring import MIB, in_child, in_turns, measured, spread_of
from runner import SEED, Benchmark, Part, Run, option, spread, table

import hnm_datasets as hnm

NEGATIVES = 5
CHUNK = 20_000
FORMS = ["mined", "triplets", "n-tuples", "flagembedding"]


def make(folder: str, rows: int) -> dict[str, Any]:
    """Write the rows and the passages to disk."""
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


def audit(folder: str, corpus: str, form: str) -> dict[str, Any]:
    """Audit the rows in one format."""
    rows, passages = load_from_disk(str(Path(folder) / form)), hnm.Corpus(corpus)
    hnm.audit_negatives(rows.select(range(100)), passages)
    judgments = load_from_disk(str(Path(folder) / "mined")) if form == "mined" else None
    with measured() as spent:
        audit = hnm.audit_negatives(rows, passages, judgments=judgments)
    return {"seconds": spent["total"], "defects": {defect.name: defect.count for defect in audit.defects}}


def measure(run: Run) -> list[dict[str, Any]]:
    found = []
    for rows in run.rows:
        folder, cache = run.scratch / str(rows), run.scratch / "cache"
        made = in_child(make, cache, folder=folder, rows=rows)
        asked = {
            form: partial(in_child, audit, cache, watch=True, folder=folder, form=form, **made) for form in run.forms
        }
        expected = len(range(0, rows, 1000))
        for form, runs in in_turns(asked, run.repeats).items():
            if any(one["defects"].get("known-positives") != expected for one in runs):
                raise RuntimeError(f"the audit of {form} did not count {expected} known positives: {runs}")
            found.append({"rows": rows, "form": form, "runs": runs})
    return found


def show(found: list[dict[str, Any]]) -> str:
    lines = []
    for one in found:
        runs = one["runs"]
        memory = max(run["memory"]["anonymous"] for run in runs) / MIB
        seconds = spread(spread_of([run["seconds"] for run in runs]), 1)
        lines.append((one["rows"], one["form"], seconds, f"{memory:,.0f} MiB", runs[0]["defects"]["known-positives"]))
    about = "A query, a positive and five negatives (triplets: one) a row; passages of fifty words.\n\n"
    return about + table("Rows|Form|Time|Memory, anonymous|Known positives found", lines)


if __name__ == "__main__":
    Benchmark(
        {"forms": Part("Time and memory of an audit", measure, show)},
        {"rows": option([100_000], "numbers of rows"), "forms": option(FORMS, "only these", choices=FORMS)},
    ).run()
