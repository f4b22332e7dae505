"""Measures of mined rows that need no training."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher
from numpy.typing import NDArray

from hnm_datasets.audit.false_negatives import FalseNegatives
from hnm_datasets.audit.run import audit_negatives
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.mining.chain import mined_with
from hnm_datasets.mining.counting import list_lengths
from hnm_datasets.mining.names import plain_name
from hnm_datasets.mining.report import MiningReport
from hnm_datasets.piloting.parts import miners_of, models_of
from hnm_datasets.rows import Rows
from hnm_datasets.runtime.bars import with_bars
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.runtime.notices import one_call
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.json_files import read_object
from hnm_datasets.storage.kept_rows import content_digest
from hnm_datasets.storage.writing import written_aside
from hnm_datasets.transforms.base import Transform

#: Rows with texts that an audit reads; counts cover all rows.
_AUDITED_TEXTS = 200
#: Rows that are mined before timing starts.
_WARM_UP_ROWS = 10


class Cost(NamedTuple):
    """The cost of mining a sample on this machine.

    Attributes:
        preparing: Seconds for work done once: indexes and embeddings of the corpus.
        mining: Seconds for the rows of the sample.
        bytes: Bytes added to the cache directory.
    """

    preparing: float
    mining: float
    bytes: int


class Spent(NamedTuple):
    """The cost of one strategy, as stored in the cache directory.

    Attributes:
        made: The seconds and bytes for each index or set of embeddings, by name. Both are near zero if the cache
            directory already had it, such as from an earlier strategy.
        mining: Seconds for the rows of the sample.
    """

    made: dict[str, tuple[float, int]]
    mining: float


def costs_of(spent: Mapping[str, Spent]) -> dict[str, Cost]:
    """Return the cost of each strategy as if it were the only one: shared indexes and embeddings count for each."""
    made: dict[str, tuple[float, int]] = {}
    for one in spent.values():
        for name, (seconds, size) in one.made.items():
            before = made.get(name, (0.0, 0))
            made[name] = max(before[0], seconds), max(before[1], size)
    return {
        name: Cost(sum(made[part][0] for part in one.made), one.mining, sum(made[part][1] for part in one.made))
        for name, one in spent.items()
    }


class Hardness(NamedTuple):
    """How hard negatives are.

    Attributes:
        above: The share of negatives that score above the positives of their row.
        below: By how much the positives of a row score higher, on average.
        words: The share of the query's words that a negative contains.
    """

    above: float | None
    below: float | None
    words: float | None


def mine_sample(rows: Dataset, steps: Sequence[Any], num_proc: int | None) -> tuple[Dataset, Spent]:
    """Map steps over a sample; return the mined rows and the cost, which is measured on the first call only.

    A call that resumes an interrupted one adds its time to that of the first.
    """
    name = fingerprint({"kind": "spent", "rows": content_digest(rows), "steps": Hasher.hash(list(steps))})
    interrupted = cache_root() / "pilot" / f"{name}.interrupted.json"
    made, mining = _read(interrupted) if interrupted.exists() else Spent({}, 0.0)
    start: float | None = None
    try:
        _prepare(rows, steps, made)
        start = time.perf_counter()
        mined = mine_quietly(rows, steps, num_proc)
    except KeyboardInterrupt:
        mining += 0.0 if start is None else time.perf_counter() - start
        interrupted.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(interrupted) as aside:
            _write(aside, Spent(made, mining))
        raise
    spent = Spent(made, mining + time.perf_counter() - start)
    if len(mined) != len(rows):
        raise ValueError(
            f"the steps returned {len(mined):,} rows for {len(rows):,}. Remove the step that changes the number of "
            f"rows. The pilot makes the rows for the training itself."
        )
    if steps and NEGATIVE_IDS not in mined.column_names:
        raise KeyError(f"the steps wrote no column {NEGATIVE_IDS!r}. Start with a miner, such as BM25Negatives.")
    # Keep the first measurement: a repeated call reads everything from caches.
    about = About(
        "pilot", "pilot", "cost of mining", options={"rows": len(rows), "steps": list(map(plain_name, steps))}
    )
    folder = build_once(cache_root() / "pilot", name, lambda aside: _write(aside / "spent.json", spent), about)
    interrupted.unlink(missing_ok=True)
    return mined, _read(folder / "spent.json")


def _prepare(rows: Dataset, steps: Sequence[Any], made: dict[str, tuple[float, int]]) -> None:
    """Prepare steps and map them over some rows; add the cost of what is prepared to `made`."""
    warm_up = rows.select(range(min(_WARM_UP_ROWS, len(rows))))
    with one_call():
        for step in steps:
            # Compiling and one-time preparation must not count as time per row.
            for name, part in _prepared(step):
                before, start = _size(cache_root()), time.perf_counter()
                try:
                    # Encoding a corpus may take hours, so show its progress.
                    with with_bars():
                        part.prepare()
                finally:
                    seconds, size = made.get(name, (0.0, 0))
                    grown = max(0, _size(cache_root()) - before)
                    made[name] = seconds + time.perf_counter() - start, size + grown
            warm_up = warm_up.map(step, batched=True)


def mine_quietly(rows: Dataset, steps: Sequence[Any], num_proc: int | None) -> Dataset:
    """Map steps over rows, and log each warning once instead of once per batch."""
    with one_call():
        for step in steps:
            # Else the error by which `map` with workers ends at Ctrl-C would count as a failure of the strategy.
            with interruptible(lambda: "The workers of map were interrupted."):
                rows = rows.map(step, batched=True, num_proc=num_proc, desc=plain_name(step))
    return rows


def funnel_of(rows: Dataset, steps: Sequence[Any], num_proc: int | None) -> MiningReport | None:
    """Return the counts of `mine` for each step; the mined rows come from the cache of `map`."""
    if not steps:
        return None
    reports: list[MiningReport] = []
    mined_with(rows, steps, reports.append, num_proc=num_proc)
    return reports[-1]


def _prepared(step: Any) -> Iterator[tuple[str, Transform]]:
    """Yield the parts of a step that build an index or embeddings, with a name; equal names share what they build."""
    parts: list[Transform] = list(miners_of(step))
    if not parts and isinstance(step, Transform):
        parts = [step]
    for part in parts:
        yield " ".join([type(part).__name__, *sorted(one.model_fingerprint for one in models_of(part))]), part


def _write(path: Path, spent: Spent) -> None:
    path.write_text(json.dumps(spent._asdict()))


def _read(path: Path) -> Spent:
    kept = read_object(path)
    return Spent({name: (float(one[0]), int(one[1])) for name, one in kept["made"].items()}, float(kept["mining"]))


def _size(folder: Path) -> int:
    """Count the bytes in a folder, also while other processes remove files from it."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).lstat().st_size
    return total


def hardness_of(mined: Dataset, corpus: Corpus, scorer: Transform) -> Hardness:
    """Measure how hard the negatives are, by the scores of one model for all strategies."""
    scored = mined.map(scorer, batched=True)
    name = str(getattr(scorer, "name", "teacher"))
    audit = audit_negatives(scored, corpus, teacher=name, sample=_AUDITED_TEXTS)
    scores = audit.scores.get(name)
    margin = None if scores is None or scores.margin is None else scores.margin.mean
    return Hardness(None if scores is None else scores.above, margin, audit.overlap.get("query in negative"))


def false_negatives_of(
    mined: Dataset, corpus: Corpus, judgments: Rows | None, teacher: Transform | None
) -> FalseNegatives | None:
    """Estimate the share of relevant negatives from judgments, else from a teacher; None without either."""
    if judgments is None and teacher is None:
        return None
    if not int(list_lengths(mined, NEGATIVE_IDS).sum()):
        return None
    # The audit must not read scores of earlier steps.
    names = [name for name in mined.column_names if not name.endswith("_scores")]
    return audit_negatives(
        mined.select_columns(names), corpus, judgments=judgments, teacher=teacher, sample=_AUDITED_TEXTS
    ).false_negatives


def overlaps_of(mined: Mapping[str, Dataset], corpus: Corpus) -> dict[str, dict[str, float | None]]:
    """Return the share of common negatives for each pair of strategies, see `overlap_of`.

    Args:
        mined: The same rows, mined with each strategy. Strategies without negatives are skipped.
        corpus: The passages.
    """
    pairs, size = {}, 0
    for name, rows in mined.items():
        if NEGATIVE_IDS in rows.column_names:
            table = rows.select_columns([NEGATIVE_IDS]).with_format("arrow")[:]
            lists, size = Batch(table, step="pilot").rows_in(NEGATIVE_IDS, corpus), len(rows)
            pairs[name] = np.unique((lists.owners.astype(np.int64) << 32) + lists.values)
    return {
        one: {other: overlap_of(first, second, size) for other, second in pairs.items()} for one, first in pairs.items()
    }


def overlap_of(first: NDArray[np.int64], second: NDArray[np.int64], rows: int) -> float | None:
    """Return the overlap (Jaccard) of two strategies' negatives, averaged over the rows that have negatives.

    Args:
        first: The row times 2^32, plus the passage, for each negative of one strategy. Ascending and distinct.
        second: The same for the other strategy.
        rows: The number of rows.
    """
    both = np.bincount(np.intersect1d(first, second, assume_unique=True) >> 32, minlength=rows)
    either = np.bincount(np.union1d(first, second) >> 32, minlength=rows)
    known = either > 0
    return float((both[known] / either[known]).mean()) if known.any() else None
