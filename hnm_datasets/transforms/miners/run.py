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
from hnm_datasets.runtime.notices import tell_of_batch
from hnm_datasets.transforms.miners.base import Miner, MiningRows
from hnm_datasets.transforms.miners.found_scores import scores_where_found

logger = logging.getLogger(__name__)


class _Lists:
    """The lists of a run for the queries of a batch.

    Attributes:
        numbers: The number of each query's list, -1 if the run has none. Shape (B,).
        rows: The lists, as row numbers of the corpus.
        scores: The scores of the hits, aligned with `rows.values`.
    """

    def __init__(self, run: Run, lists: NDArray[np.int64]) -> None:
        distinct, back = np.unique(lists, return_inverse=True)
        lacking = int(np.sum(distinct < 0))
        self.numbers = back - lacking
        self.rows, self.scores = run.take(distinct[lacking:])


@dataclass(frozen=True)
class RunNegatives(Miner):
    """Mine negatives from the search results of another tool, without known positives: a TREC run, or rows.

    `run` is one of

    - a file with lines `qid Q0 docid rank score tag` (TREC: Pyserini, Anserini, PyTerrier), `qid docid rank score`
      (ColBERT), `qid docid score` (Tevatron's search with `--save_text`) or `qid docid rank` (MS MARCO), separated by
      tabs or spaces, or with JSON `{qid: {docid: score}}`; gzip-compressed or not;
    - a folder of such files, as written by Pyserini or Tevatron, with the parts of one run: each file has different
      queries;
    - a dict `{qid: {docid: score}}`, as in BEIR and pytrec_eval;
    - rows in any format with `query_id` (or `qid`) and lists `ids` and `scores`; or rows with one hit each, with
      `corpus_id` (or `docid`, `docno`), `score` and optionally `rank`.

    Hits are sorted by score, ties by rank and then by their order in the run. If the run has no scores, hits are sorted
    by rank and scores are null. The run is read when the step is created, stored in the cache directory by its content,
    and memory-mapped. With the same run, `map` therefore finds its cached results.

    A list can be no longer than in the run, so retrieve many hits per query. A query that is missing from the run gets
    an empty list, and a warning with the number of such queries is logged once per `map` call; `lacking` returns them.

    Args:
        corpus: The passages that were searched.
        run: The run.
        k: Candidates per query.
        exclude_group: Also exclude all passages from the source documents of the positives. Requires a corpus with
            groups.

    Columns read:
        `query_id`, `query`, `positive_ids`.

    Columns written:
        `negative_ids` (best first), `negative_scores` (the run's), `negative_ranks` (1-based, in the run's list),
        `negative_source` (`"run"`), `positive_scores` (the run's, aligned with `positive_ids`; null for positives that
        are not in the query's list). Margins require the scores of all positives: score the rows with `BiEncoderScores`
        or `CrossEncoderScores` first.

    Raises:
        FileNotFoundError: The file does not exist.
        KeyError: A column is missing, or a hit is not in the corpus.
        TypeError: `corpus` or `run` is of the wrong type.
        ValueError: A line is damaged, a query has a passage twice, a score is NaN or infinite, scores contradict the
            ranks, two files of a folder contain the same query, or `k` is less than 1.

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
        """Return the ids of the queries that are missing from the run.

        Args:
            rows: Rows with `query_id`, in any format.

        Raises:
            KeyError: The column `query_id` is missing.
        """
        dataset = dataset_of(rows, "RunNegatives.lacking")
        check_column("RunNegatives.lacking", QUERY_ID, dataset.column_names)
        ids = Batch(dataset.select_columns([QUERY_ID]).with_format("arrow")[:], "RunNegatives.lacking").ids(QUERY_ID)
        return list(dict.fromkeys(ids.filter(pa.array(self.run.find(ids) < 0)).to_pylist()))

    def _encode_rows(self, rows: MiningRows) -> _Lists:
        assert rows.query_ids is not None  # requested in `input_columns`
        lists = self.run.find(rows.query_ids)
        lacking = np.flatnonzero(lists < 0)
        if len(lacking):
            tell_of_batch(
                logger,
                f"{self!r}: lacking",
                "RunNegatives: %d of the %d queries in this batch are missing from the run (the first is %r) and get "
                "no negatives. The step's method lacking(rows) returns all of them. If all queries are missing, the "
                "run and the rows use different ids.",
                len(lacking),
                len(lists),
                rows.query_ids[int(lacking[0])].as_py(),
            )
        return _Lists(self.run, lists)

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> _Lists:
        raise TypeError("RunNegatives: a run identifies queries by id, not by text.")

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
