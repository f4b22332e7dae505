"""Judged negatives."""

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
    """What B queries and their judged negatives are for the base.

    Attributes:
        encoded: The queries, as the retriever reads them.
        rows: The row numbers of each query's judged negatives, best first.
        scores: The retriever's scores of them.
    """

    encoded: Any
    rows: Ragged[NDArray[np.int64]]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class JudgedNegatives(Miner):
    """Take the passages that were judged not relevant, in the order in which a retriever ranks them.

    These are the most reliable negatives: a person judged them. They are few, so combine them with mined ones:
    `FuseNegatives({"judged": JudgedNegatives(corpus, bm25), "bm25": bm25}, method="union")`, and then
    `SampleNegatives({"judged": 2, "bm25": 3})`.

    A judgment that is contradicted does not count: passages that are known positives of the question, copies of one,
    and copies of the query are left out, as every miner does.

    Args:
        corpus: The passages.
        retriever: The miner that scores and ranks them, such as `BM25Negatives(corpus)` or `DenseNegatives(corpus,
            model)`, of the same corpus. Its own `k` does not matter.
        k: Judged negatives per query.
        exclude_group: Exclude also every passage of the documents that the positives were cut from. Needs a corpus
            with groups.
        depth: How much of the retriever's list is searched for their ranks. Only queries with judged negatives are
            searched.

    Columns read:
        `query`, `positive_ids`, `judged_negative_ids`; `query_id` for error messages and `known_positive_ids`, if
        there.

    Columns written:
        `negative_ids` (in the order of the retriever's scores), `negative_scores` (the retriever's; null, and last,
        where a search engine did not find the passage), `negative_ranks` (places in the retriever's list; `depth` + 1
        for a passage that is not among its first `depth`), `negative_source` (`"judged"`), `positive_scores` (the
        retriever's, aligned with `positive_ids`).

    Raises:
        KeyError: A column is missing, or a judged negative is not in the corpus.
        TypeError: `corpus` or `retriever` is something else, or an option is of the wrong type.
        ValueError: `k` or `depth` is less than 1, the retriever is of another corpus, or `exclude_group` without
            groups.

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
            raise ValueError(f"{name}: the retriever is of another corpus. Make it of this corpus.")
        self._set(depth=checks.whole_number(name, "depth", self.depth, low=1))

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the retriever reads, and the judgments."""
        return (*self.retriever.input_columns, JUDGED_NEGATIVE_IDS)

    def prepare(self) -> None:
        """Prepare the retriever."""
        self.retriever.prepare()

    def find(self, rows: MiningRows, encoded: Any) -> Candidates:
        """Find the judged negatives of some rows that nothing contradicts, as row numbers of the corpus."""
        assert rows.judged is not None  # asked for in `input_columns`
        scores = self.retriever._score(encoded, rows.judged)
        order = np.lexsort((rows.judged.values, -scores, rows.judged.owners))
        once = first_of_runs(rows.judged.owners, rows.judged.values[order])
        offsets, order = kept_offsets(rows.judged.offsets, once), order[once]
        judged = _Judged(encoded, Ragged(offsets, rows.judged.values[order]), scores[order])
        found = super().find(rows, judged)
        return found._replace(ranks=self._ranks(found, encoded))

    def _ranks(self, found: Candidates, encoded: Any) -> NDArray[np.int32]:
        """Return the places of passages in the retriever's list. Shape (C,)."""
        size, depth = len(self.corpus), min(self.depth, len(self.corpus))
        lists = Ragged(found.offsets, found.rows)
        keys = lists.owners * size + lists.values
        order = np.argsort(keys, kind="stable")
        ranks = np.full(len(keys), self.depth + 1, dtype=np.int32)
        asked = np.flatnonzero(lists.lengths)
        for part in runs_within(np.full(len(asked), depth), HITS):
            # A search engine's answer may be deeper.
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
