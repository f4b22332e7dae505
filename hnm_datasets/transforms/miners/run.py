"""Negatives from a run."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, positions_within, take_lists
from hnm_datasets.batch import Batch
from hnm_datasets.columns import POSITIVE_IDS, QUERY, QUERY_ID
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.run import Run
from hnm_datasets.missing_columns import check_column
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.notices import tell_once
from hnm_datasets.transforms.miners.base import Miner, MiningRows
from hnm_datasets.transforms.miners.found_scores import scores_where_found

logger = logging.getLogger(__name__)


class _Lists:
    """What a run has for the queries of a batch.

    Attributes:
        numbers: The list of each query, -1 where the run has none. Shape (B,).
        rows: The lists, as row numbers of the corpus.
        scores: Their scores, aligned with `rows.values`.
    """

    def __init__(self, run: Run, lists: NDArray[np.int64]) -> None:
        distinct, back = np.unique(lists, return_inverse=True)
        lacking = int(np.sum(distinct < 0))
        self.numbers = back - lacking
        self.rows, self.scores = run.take(distinct[lacking:])


@dataclass(frozen=True)
class RunNegatives(Miner):
    """Mine what another tool found for each query and is not known to be relevant: a TREC run, or rows.

    `run` is one of

    - a file of lines `qid Q0 docid rank score tag` (TREC: Pyserini, Anserini, PyTerrier), `qid docid rank score`
      (ColBERT), `qid docid score` (Tevatron's search with `--save_text`) or `qid docid rank` (MS MARCO), with tabs or
      spaces, or of JSON `{qid: {docid: score}}`, also compressed by gzip;
    - a folder of such files, as Pyserini or Tevatron fill one, if each has other queries: parts of one run;
    - `{qid: {docid: score}}`, as BEIR and pytrec_eval have it;
    - rows, in any form, with `query_id` (or `qid`) and lists `ids` and `scores`; or rows of one hit each, with
      `corpus_id` (or `docid`, `docno`), `score` and, if there, `rank`.

    Hits are ordered by score; equal scores by rank, then as they were written. Where the run has no scores, ranks order
    them, and scores are null. The run is read when the step is made, copied into the cache directory by its content,
    and mapped from there, so `map` finds in its cache what it made of the same run.

    A list ends where the run ends, so mine deep before. A query that the run lacks gets an empty list, and a warning
    tells how many there are, once for a call of `map`; `lacking` names all.

    Args:
        corpus: The passages that were searched.
        run: The run.
        k: Candidates per query.
        exclude_group: Exclude also every passage of the documents that the positives were cut from. Needs a corpus
            with groups.

    Columns read:
        `query_id`, `query`, `positive_ids`.

    Columns written:
        `negative_ids` (best first), `negative_scores` (the run's), `negative_ranks` (1-based, in the run's list),
        `negative_source` (`"run"`), `positive_scores` (the run's, aligned with `positive_ids`; null where the positive
        is not in the query's list). Margins need the scores of all positives: score the rows with `BiEncoderScores` or
        `CrossEncoderScores` first.

    Raises:
        FileNotFoundError: There is no such file.
        KeyError: A column is missing, or a hit is not in the corpus.
        TypeError: `corpus` or `run` is something else.
        ValueError: A line is damaged, a passage comes twice for a query, a score is NaN or infinite, scores contradict
            the ranks, two files of a folder have the same query, or `k` is less than 1.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> run = {queries[0]["query_id"]: {"tsunamis": 11.5, "plate-boundaries": 12.5, "volcanoes": 9}}
        >>> mined = RunNegatives(corpus, run, k=2)(queries[:1])
        >>> mined["negative_ids"], mined["negative_ranks"], mined["positive_scores"]
        ([['tsunamis', 'volcanoes']], [[2, 3]], [[12.5]])
    """

    input_columns: ClassVar[tuple[str, ...]] = (QUERY_ID, QUERY, POSITIVE_IDS)
    source: ClassVar[str] = "run"

    run: Any
    _: KW_ONLY

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.run, Run):
            self._set(run=Run.read(self.run, self.corpus))
        elif self.run.corpus != self.corpus:
            raise ValueError("RunNegatives: the run was read for another corpus. Pass the file or the rows again.")

    def lacking(self, rows: Rows) -> list[str]:
        """Return the ids of the queries that the run has no list for.

        Args:
            rows: Rows with `query_id`, in any form.

        Raises:
            KeyError: There is no column `query_id`.
        """
        dataset = dataset_of(rows, "RunNegatives.lacking")
        check_column("RunNegatives.lacking", QUERY_ID, dataset.column_names)
        ids = Batch(dataset.select_columns([QUERY_ID]).with_format("arrow")[:], "RunNegatives.lacking").ids(QUERY_ID)
        return list(dict.fromkeys(ids.filter(pa.array(self.run.find(ids) < 0)).to_pylist()))

    def _encode_rows(self, rows: MiningRows) -> _Lists:
        assert rows.query_ids is not None  # asked for in `input_columns`
        lists = self.run.find(rows.query_ids)
        lacking = np.flatnonzero(lists < 0)
        if len(lacking):
            tell_once(
                logger,
                f"{self!r}: lacking",
                "RunNegatives: the run lacks %d of the %d queries of a batch, first %r, which get no negatives. "
                ".lacking(rows) of the step names all. If it lacks every query, its ids are others than the rows'. "
                "Further batches are not reported.",
                len(lacking),
                len(lists),
                rows.query_ids[int(lacking[0])].as_py(),
            )
        return _Lists(self.run, lists)

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> _Lists:
        raise TypeError("RunNegatives: a run knows queries by their ids and not by their texts.")

    def _search(self, encoded: _Lists, which: NDArray[np.int64], depth: int) -> Hits:
        rows = np.full((len(which), depth), -1, dtype=np.int64)
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        there = np.flatnonzero(encoded.numbers[which] >= 0)
        numbers = encoded.numbers[which][there]
        own = take_lists(encoded.rows, numbers)
        own_scores = take_lists(Ragged(encoded.rows.offsets, encoded.scores), numbers).values
        within = positions_within(own.offsets)
        first = within < depth
        at = there[own.owners[first]], within[first]
        rows[at], scores[at] = own.values[first], own_scores[first]
        return Hits(rows, scores)

    def _score(self, encoded: _Lists, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        return scores_where_found(encoded.rows, encoded.scores, encoded.numbers, rows)
