"""Generations: the negatives of all training queries at one time, as arrays in a folder.

A generation is written aside and renamed, so that no process reads half of it, and never changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, score_column
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.storage.folders import build_once
from hnm_datasets.storage.manifest import check_complete
from hnm_datasets.storage.mapped import append_array, open_array

_LISTS = {"positives": POSITIVE_IDS, "negatives": NEGATIVE_IDS}


@dataclass(frozen=True)
class Generation:
    """The positives and candidates of Q queries as row numbers of a corpus, memory-mapped.

    Attributes:
        positives: The known positives of each query.
        negatives: The candidates of each query, best first.
        positive_scores: A teacher's scores of the positives, if there are any.
        negative_scores: A teacher's scores of the candidates, if there are any.
    """

    positives: Ragged[NDArray[np.int64]]
    negatives: Ragged[NDArray[np.int64]]
    positive_scores: NDArray[np.float32] | None
    negative_scores: NDArray[np.float32] | None

    @classmethod
    def open(cls, folder: Path) -> Generation:
        """Map a generation that `write_generation` made.

        Raises:
            FileNotFoundError: It is not there.
            DamagedFolderError: Its files are not those that were written.
        """
        check_complete(
            folder,
            f"Generation {int(folder.name)} of the negatives",
            "Delete the folder of a damaged one. Call live_negatives again for the first generation, and resume the "
            "training from an earlier checkpoint for a later one.",
        )
        lists, scores = {}, {}
        for name in _LISTS:
            offsets: Any = open_array(folder, f"{name}.offsets")
            rows: Any = open_array(folder, name)
            lists[name] = Ragged(offsets, rows)
            there = (folder / f"{name}.scores.npy").exists()
            values: Any = open_array(folder, f"{name}.scores") if there else None
            scores[name] = values
        return cls(lists["positives"], lists["negatives"], scores["positives"], scores["negatives"])


def write_generation(
    parent: Path, number: int, tables: Iterable[pa.Table], corpus: Corpus, teacher: str | None, step: str
) -> Path:
    """Write a generation from mined rows.

    Args:
        parent: Where generations are kept.
        number: Its number.
        tables: The mined rows, some at a time.
        corpus: The passages.
        teacher: Keep also the scores of this teacher; None: none.
        step: Who asks, for errors.

    Returns:
        Its folder.

    Raises:
        KeyError: A column is missing, or an id is not in the corpus.
    """

    def build(folder: Path) -> None:
        with ExitStack() as stack:

            def writer(name: str, dtype: str) -> Any:
                return stack.enter_context(append_array(folder, name, np.dtype(dtype)))

            ends = {name: writer(f"{name}.offsets", "<i8") for name in _LISTS}
            rows = {name: writer(name, "<i8") for name in _LISTS}
            scores = {name: writer(f"{name}.scores", "<f4") for name in _LISTS} if teacher else {}
            totals = dict.fromkeys(_LISTS, 0)
            for end in ends.values():
                end(np.zeros(1, dtype=np.int64))
            for table in tables:
                batch = Batch(table, step=step)
                for name, column in _LISTS.items():
                    batch.require(column)
                    ids = batch.id_lists(column)
                    found = batch.rows_in(column, corpus)
                    rows[name](found.values)
                    ends[name](found.offsets[1:] + totals[name])
                    totals[name] += len(found.values)
                    if teacher:
                        scored = score_column(teacher, of=column.removesuffix("_ids"))
                        lists = batch.number_lists(scored)
                        batch.check_aligned(column, ids, scored, lists)
                        scores[name](lists.values.astype(np.float32))

    return build_once(parent, f"{number:06d}", build)
