"""How many of the negatives are relevant: by judgments or by a teacher, with a confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.audit.reading import PassageKeys, is_among, pair_keys, text_keys
from hnm_datasets.batch import Batch
from hnm_datasets.columns import POSITIVE_IDS, QUERY, QUERY_ID
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.formats.fields import as_floats
from hnm_datasets.loaders.qrels import check_contradictions
from hnm_datasets.storage.digests import digest_strings

#: The quantile of the normal distribution for 95%.
_Z = 1.959963984540054


@dataclass(frozen=True)
class FalseNegatives:
    """Which share of the negatives is relevant.

    Attributes:
        by: `"judgments"`, or the name of the teacher.
        rate: The share, from 0 to 1.
        low: Where its 95% confidence interval begins, see `estimate`.
        high: Where it ends.
        false: How many negatives are relevant.
        negatives: Of how many.
        queries: Of how many queries.
        rule: What makes a negative a false one.
    """

    by: str
    rate: float
    low: float
    high: float
    false: int
    negatives: int
    queries: int
    rule: str


def estimate(
    by: str, rule: str, queries: NDArray[np.uint64], false: NDArray[np.integer], negatives: NDArray[np.integer]
) -> FalseNegatives | None:
    """Estimate the share of false negatives among all that could be mined in the same way.

    The negatives of one query are alike, so a query counts as one draw: the interval is Wilson's (1927), for as many
    negatives as would tell as much if they were independent (the design effect of cluster samples, Kish 1965).

    Args:
        by: What judged.
        rule: What makes a negative a false one.
        queries: The query of each of B rows, by number.
        false: How many of each row's negatives are relevant. Shape (B,).
        negatives: Of how many. Shape (B,).

    Returns:
        None if there is no negative.

    Example:
        >>> rows = np.arange(100, dtype=np.uint64)
        >>> found = estimate("judgments", "judged relevant", rows, (rows < 10).astype(int), np.ones(100, dtype=int))
        >>> found.rate, round(found.low, 3), round(found.high, 3)
        (0.1, 0.055, 0.175)
    """
    _, code = np.unique(queries, return_inverse=True)
    of_query = np.bincount(code, weights=negatives)
    false_of_query = np.bincount(code, weights=false)[of_query > 0]
    of_query = of_query[of_query > 0]
    total = of_query.sum()
    if not total:
        return None
    rate = false_of_query.sum() / total
    size = total
    if len(of_query) > 1 and 0 < rate < 1:
        clustered = len(of_query) / (len(of_query) - 1) * np.sum((false_of_query - rate * of_query) ** 2) / total**2
        size = total / max(clustered / (rate * (1 - rate) / total), 1.0)
    elif len(of_query) > 0:
        # Nothing varies, so nothing tells how alike a query's negatives are: each query counts once.
        size = float(len(of_query))
    center = (rate + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = _Z / (1 + _Z**2 / size) * math.sqrt(rate * (1 - rate) / size + _Z**2 / (4 * size**2))
    low, high = max(0.0, min(center - half, rate)), min(1.0, max(center + half, rate))
    return FalseNegatives(
        by, float(rate), float(low), float(high), int(false_of_query.sum()), int(total), len(of_query), rule
    )


class Judgments:
    """Which passages are relevant to which queries, as numbers of pairs.

    Args:
        judgments: `query_id`, `corpus_id` and `score`; or rows with `positive_ids` and `query_id` or `query`.
        corpus: Where the passages' texts are found, for rows that name no ids.
        by_query_id: The audited rows have query ids; else queries are matched by their text.
        by_passage_id: The audited rows have passage ids; else passages are matched by their text.
        rows_are_keys: PassageKeys of the audited rows are numbered by their rows in the corpus.
        owner: Who asks, for errors.

    Raises:
        ValueError: A passage is judged relevant and not relevant to one query.

    Attributes:
        queries: The numbers of the judged queries, ascending.
    """

    def __init__(
        self,
        judgments: Dataset,
        corpus: Corpus | None,
        *,
        by_query_id: bool,
        by_passage_id: bool,
        rows_are_keys: bool,
        owner: str,
    ) -> None:
        if not isinstance(judgments, Dataset):
            raise TypeError(f"{owner}: judgments must be a datasets.Dataset, got {type(judgments).__name__}.")
        self._by_text = not by_passage_id
        judged, queries, ids = _relevant(judgments, by_query_id, owner)
        if rows_are_keys and corpus is not None:
            rows = corpus.find(ids)
            # A judged passage that the corpus lacks was never mined from it.
            queries, passages = queries[rows >= 0], rows[rows >= 0].astype(np.uint64)
        elif by_passage_id:
            passages = digest_strings(ids.to_pylist())[:, 0]
        elif corpus is None:
            raise ValueError(
                f"{owner}: the rows name no passages by id, so judgments of ids need the corpus that the ids belong "
                f"to: {owner}(dataset, corpus, judgments=...)."
            )
        else:
            rows = corpus.find(ids)
            queries, passages = queries[rows >= 0], text_keys(corpus.texts(rows[rows >= 0]))
        self.queries = np.unique(judged)
        self._relevant, first = np.unique(pair_keys(queries, passages), return_index=True)
        self._queries_of_relevant = queries[first]

    def relevant(self, queries: NDArray[np.uint64], passages: PassageKeys) -> NDArray[np.bool_]:
        """Tell which pairs of query and passage were judged relevant. Shape (P,)."""
        return is_among(pair_keys(queries, passages.text if self._by_text else passages.own), self._relevant)

    def tell_more(self, queries: NDArray[np.uint64], own: NDArray[np.uint64], text: NDArray[np.uint64]) -> bool:
        """Tell whether they call anything relevant that is not a positive of the rows already.

        Args:
            queries: The numbers of the rows' queries, ascending.
            own: The pairs of query and positive by `PassageKeys.own`, ascending.
            text: The same by `PassageKeys.text`.
        """
        asked = self._relevant[is_among(self._queries_of_relevant, queries)]
        return not bool(is_among(asked, text if self._by_text else own).all())


def _relevant(
    judgments: Dataset, by_query_id: bool, owner: str
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], pa.Array]:
    """Return all judged queries, by number; and the query and the passage, by id, of each relevant pair."""
    batch = Batch(judgments.with_format("arrow")[:], step=owner)
    name = QUERY_ID if by_query_id else QUERY
    wanted = [name, POSITIVE_IDS] if batch.has(POSITIVE_IDS) else [name, "corpus_id", "score"]
    missing = [column for column in wanted if not batch.has(column)]
    if missing:
        raise KeyError(
            f"{owner}: the judgments need the columns {wanted}, and {missing} are not among {batch.names}. Queries "
            f"are matched by {'their ids' if by_query_id else 'their texts, as the rows have no query ids'}; rows with "
            f"'query_id', 'query' and 'positive_ids', as load_beir gives them, always do."
        )
    keys = digest_strings(batch.strings(name).to_pylist())[:, 0]
    if batch.has(POSITIVE_IDS):
        lists = batch.string_lists(POSITIVE_IDS)
        return keys, keys[lists.owners], lists.values
    # A null is no judgment: NaN is not above 0.
    scores = as_floats(batch.column("score"), "score", f"{owner}: judgments")
    relevant, passages = scores > 0, batch.strings("corpus_id")
    table = pa.table({"query_id": batch.strings(name), "corpus_id": passages})
    given = ~np.isnan(scores)
    check_contradictions(table.filter(pa.array(given)), relevant[given], f"{owner}: judgments")
    return keys, keys[relevant], passages.filter(pa.array(relevant))
