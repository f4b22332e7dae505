"""Negatives from relevance judgments."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged, first_of_runs, kept_offsets, positions_within, runs_within, take_lists
from hnm_datasets.columns import JUDGED_NEGATIVE_IDS
from hnm_datasets.indexes.base import Hits
from hnm_datasets.transforms.miners.base import HITS, Miner, MiningRows
from hnm_datasets.transforms.miners.search import Candidates


class _Judged(NamedTuple):
    """B queries and their judged negatives.

    Attributes:
        encoded: The queries, as the retriever encodes them.
        rows: The row numbers of each query's judged negatives, best first.
        scores: The retriever's scores of the judged negatives.
    """

    encoded: Any
    rows: Ragged[NDArray[np.int64]]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class JudgedNegatives(Miner):
    """Use the passages that were judged not relevant, in the order of a retriever's ranking.

    These are the most reliable negatives, because a person judged them. There are usually few of them, so combine them
    with mined negatives: `FuseNegatives({"judged": JudgedNegatives(corpus, bm25), "bm25": bm25}, method="union")`,
    followed by `SampleNegatives({"judged": 2, "bm25": 3})`.

    Contradicting judgments are ignored: like every miner, this step excludes known positives of the question, copies of
    them, and copies of the query.

    Args:
        corpus: The passages.
        retriever: The miner that scores and ranks them, such as `BM25Negatives(corpus)` or `DenseNegatives(corpus,
            model)`, for the same corpus. Its `k` is ignored.
        k: Judged negatives per query.
        exclude_group: Also exclude all passages from the source documents of the positives. Requires a corpus with
            groups.
        depth: The number of hits in which to look up the ranks. Only queries with judged negatives are searched.

    Columns read:
        `query`, `positive_ids`, `judged_negative_ids`; `query_id` for error messages and `known_positive_ids`, if
        present.

    Columns written:
        `negative_ids` (sorted by the retriever's scores), `negative_scores` (the retriever's; null, and last, for
        passages that a search engine did not find), `negative_ranks` (1-based positions in the retriever's list;
        `depth` + 1 for passages not among its first `depth`), `negative_source` (`"judged"`), `positive_scores` (the
        retriever's, aligned with `positive_ids`).

    Raises:
        KeyError: A column is missing, or a judged negative is not in the corpus.
        TypeError: `corpus`, `retriever` or another option is of the wrong type.
        ValueError: `k` or `depth` is less than 1, the retriever belongs to another corpus, or `exclude_group` is set
            without groups.

    Example:
        >>> from datasets import Dataset
        >>> from hnm_datasets import BM25Negatives, Corpus
        >>> texts = ["Plates move.", "Waves roll.", "Plates break."]
        >>> corpus = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b", "c"], "text": texts}))
        >>> rows = {"query": ["do plates move?"], "positive_ids": [["a"]], "judged_negative_ids": [["b", "c"]]}
        >>> mined = JudgedNegatives(corpus, BM25Negatives(corpus))(rows)
        >>> mined["negative_ids"], mined["negative_ranks"]
        ([['c', 'b']], [[2, 1001]])
    """

    source: ClassVar[str] = "judged"

    retriever: Miner
    _: KW_ONLY
    depth: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        name = "JudgedNegatives"
        if not isinstance(self.retriever, Miner) or isinstance(self.retriever, JudgedNegatives):
            raise TypeError(
                f"{name}: retriever must be a miner that searches, such as BM25Negatives(corpus), got "
                f"{type(self.retriever).__name__}."
            )
        if self.retriever.corpus != self.corpus:
            raise ValueError(f"{name}: the retriever belongs to another corpus. Create it with this corpus.")
        self._set(depth=checks.whole_number(name, "depth", self.depth, low=1))

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The retriever's input columns and the judgments."""
        return (*self.retriever.input_columns, JUDGED_NEGATIVE_IDS)

    def prepare(self) -> None:
        """Prepare the retriever."""
        self.retriever.prepare()

    def find(self, rows: MiningRows, encoded: Any) -> Candidates:
        """Find the judged negatives of some rows, without excluded passages, as row numbers of the corpus."""
        assert rows.judged is not None  # requested in `input_columns`
        scores = self.retriever._score(encoded, rows.judged)
        order = np.lexsort((rows.judged.values, -scores, rows.judged.owners))
        once = first_of_runs(rows.judged.owners, rows.judged.values[order])
        offsets, order = kept_offsets(rows.judged.offsets, once), order[once]
        judged = _Judged(encoded, Ragged(offsets, rows.judged.values[order]), scores[order])
        found = super().find(rows, judged)
        return found._replace(ranks=self._ranks(found, encoded))

    def _ranks(self, found: Candidates, encoded: Any) -> NDArray[np.int32]:
        """Return the 1-based positions of passages in the retriever's list. Shape (C,)."""
        size, depth = len(self.corpus), min(self.depth, len(self.corpus))
        lists = Ragged(found.offsets, found.rows)
        keys = lists.owners * size + lists.values
        order = np.argsort(keys, kind="stable")
        ranks = np.full(len(keys), self.depth + 1, dtype=np.int32)
        asked = np.flatnonzero(lists.lengths)
        for part in runs_within(np.full(len(asked), depth), HITS):
            # A search engine may return more hits.
            hits = self.retriever._search(encoded, asked[part], depth).rows[:, :depth]
            line, column = np.nonzero(hits >= 0)
            there = asked[part][line] * size + hits[line, column]
            at = np.minimum(np.searchsorted(keys, there, sorter=order), len(keys) - 1)
            same = keys[order[at]] == there
            ranks[order[at[same]]] = column[same] + 1
        return ranks

    def _encode_rows(self, rows: MiningRows) -> Any:
        return self.retriever._encode_rows(rows)

    def _encode(self, queries: list[str], keys: NDArray[np.uint64]) -> Any:
        return self.retriever._encode(queries, keys)

    def _search(self, encoded: _Judged, which: NDArray[np.int64], depth: int) -> Hits:
        lists = take_lists(encoded.rows, which)
        within = positions_within(lists.offsets)
        first = within < depth
        rows = np.full((len(which), depth), -1, dtype=np.int64)
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        at = lists.owners[first], within[first]
        rows[at] = lists.values[first]
        scores[at] = take_lists(Ragged(encoded.rows.offsets, encoded.scores), which).values[first]
        return Hits(rows, scores)

    def _score(self, encoded: Any, rows: Ragged[NDArray[np.int64]]) -> NDArray[np.float32]:
        return self.retriever._score(encoded, rows)
