"""Relevance judgments in several forms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.audit.reading import PassageKeys, is_among, pair_keys, text_keys
from hnm_datasets.batch import Batch
from hnm_datasets.columns import JUDGED_NEGATIVE_IDS, KNOWN_POSITIVE_IDS, POSITIVE_IDS, QUERY
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.formats.fields import as_floats
from hnm_datasets.loaders.qrels import CORPUS_ID_NAMES, QUERY_ID_NAMES, check_contradictions
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.storage.digests import digest_strings


class JudgedPairs(NamedTuple):
    """J judgments of (query, passage) pairs.

    Attributes:
        judged_queries: The ids or texts of all judged queries, including those without a relevant passage.
        queries: The query of each judgment. Shape (J,).
        passages: The id of each judged passage. Shape (J,).
        relevant: Whether each passage is judged relevant. Shape (J,).
        pooled: Whether the judgment comes from `known_positive_ids`: a positive of another row with the same question.
            Shape (J,).
    """

    judged_queries: pa.Array
    queries: pa.Array
    passages: pa.Array
    relevant: NDArray[np.bool_]
    pooled: NDArray[np.bool_]


def read_judgments(judgments: Rows, by_query_id: bool, owner: str) -> JudgedPairs:
    """Read judgments in one of two forms.

    - One judgment per row: the query in `query_id` or `query-id`, the passage in `corpus_id`, `corpus-id`,
      `passage_id` or `docid`, and `score`, above 0 for relevant passages. A row with a null score is not a judgment.
    - One query per row, as returned by `load_beir` and `hide_positives`: `query_id` or `query`, `positive_ids`, and, if
      present, `known_positive_ids` and `judged_negative_ids`.

    Args:
        judgments: The judgments: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists. Ids may
            be whole numbers.
        by_query_id: Match queries by id; False: by text, in the column `query`.
        owner: The name of the caller, for errors.

    Raises:
        KeyError: A column is missing.
        TypeError: `judgments` or a column has the wrong type.
        ValueError: A passage is judged both relevant and not relevant to the same query.

    Example:
        >>> qrels = {"query-id": ["q", "q"], "corpus-id": [7, 8], "score": [1, 0]}
        >>> read_judgments(qrels, True, "audit_negatives").passages.to_pylist()
        ['7', '8']
    """
    judgments = dataset_of(judgments, owner, "judgments")
    batch = Batch(judgments.with_format("arrow")[:], step=f"{owner}: judgments")
    rows = batch.has(POSITIVE_IDS)
    wanted: list[tuple[str, ...]] = [QUERY_ID_NAMES if by_query_id else (QUERY,)]
    wanted += [(POSITIVE_IDS,)] if rows else [CORPUS_ID_NAMES, ("score",)]
    found = [next((name for name in names if batch.has(name)), None) for names in wanted]
    missing = [names[0] for names, name in zip(wanted, found, strict=True) if name is None]
    if missing:
        raise KeyError(
            f"{owner}: the judgments need the columns {[names[0] for names in wanted]}, but {missing} are missing from "
            f"{batch.names}. BEIR's names 'query-id' and 'corpus-id' work too. Queries are matched by "
            f"{'id' if by_query_id else 'text, because the rows have no query ids'}. Rows with 'query_id', 'query' and "
            f"'positive_ids', as returned by load_beir, always work."
        )
    queries = (batch.ids if by_query_id else batch.strings)(str(found[0])).cast(pa.string())
    if rows:
        names = [name for name in (POSITIVE_IDS, KNOWN_POSITIVE_IDS, JUDGED_NEGATIVE_IDS) if batch.has(name)]
        lists = [batch.id_lists(name) for name in names]
        owners = pa.array(np.concatenate([one.owners for one in lists]))
        passages = pa.concat_arrays([one.values.cast(pa.string()) for one in lists])
        column = np.repeat(names, [len(one.values) for one in lists])
        # A passage may be a judged negative of one row and a positive of another row with the same question.
        relevant, pooled = column != JUDGED_NEGATIVE_IDS, column == KNOWN_POSITIVE_IDS
        return JudgedPairs(queries, queries.take(owners), passages, relevant, pooled)
    scores = as_floats(batch.column("score"), "score", f"{owner}: judgments")
    given = pa.array(~np.isnan(scores))
    passages = batch.ids(str(found[1])).cast(pa.string()).filter(given)
    relevant = scores[~np.isnan(scores)] > 0
    pairs = JudgedPairs(queries, queries.filter(given), passages, relevant, np.zeros(len(relevant), dtype=bool))
    table = pa.table({"query_id": pairs.queries, "corpus_id": pairs.passages})
    check_contradictions(table, pairs.relevant, f"{owner}: judgments")
    return pairs


class Judgments:
    """Relevance judgments as keys of (query, passage) pairs.

    Args:
        judgments: Judgments in a form that `read_judgments` accepts.
        corpus: The passages, to look up texts if the audited rows have no ids.
        by_query_id: The audited rows have query ids; False: match queries by text.
        by_passage_id: The audited rows have passage ids; False: match passages by text.
        rows_are_keys: The keys of passages are their row numbers in the corpus.
        owner: The name of the caller, for errors.

    Raises:
        ValueError: A passage is judged both relevant and not relevant to the same query.

    Attributes:
        queries: The keys of the judged queries, ascending.
    """

    def __init__(
        self,
        judgments: Rows,
        corpus: Corpus | None,
        *,
        by_query_id: bool,
        by_passage_id: bool,
        rows_are_keys: bool,
        owner: str,
    ) -> None:
        self._by_text = not by_passage_id
        judged = read_judgments(judgments, by_query_id, owner)
        queries = digest_strings(judged.queries.filter(pa.array(judged.relevant)).to_pylist())[:, 0]
        ids, pooled = judged.passages.filter(pa.array(judged.relevant)), judged.pooled[judged.relevant]
        if rows_are_keys and corpus is not None:
            rows = corpus.find(ids)
            # A judged passage that is not in the corpus cannot have been mined from it.
            queries, passages = queries[rows >= 0], rows[rows >= 0].astype(np.uint64)
            pooled = pooled[rows >= 0]
        elif by_passage_id:
            passages = digest_strings(ids.to_pylist())[:, 0]
        elif corpus is None:
            raise ValueError(
                f"{owner}: the rows have no passage ids, so judgments with ids need the corpus of these ids: "
                f"{owner}(dataset, corpus, judgments=...)."
            )
        else:
            rows = corpus.find(ids)
            queries, passages = queries[rows >= 0], text_keys(corpus.texts(rows[rows >= 0]))
            pooled = pooled[rows >= 0]
        self.queries = np.unique(digest_strings(judged.judged_queries.to_pylist())[:, 0])
        self._relevant, first = np.unique(pair_keys(queries, passages), return_index=True)
        # Pooled positives are positives of other rows, which miners also know.
        self._queries_of_own = queries[first][~pooled[first]]
        self._own = self._relevant[~pooled[first]]

    def relevant(self, queries: NDArray[np.uint64], passages: PassageKeys) -> NDArray[np.bool_]:
        """Mark the (query, passage) pairs that are judged relevant. Shape (P,)."""
        return is_among(pair_keys(queries, passages.text if self._by_text else passages.own), self._relevant)

    def has_new_positives(self, queries: NDArray[np.uint64], own: NDArray[np.uint64], text: NDArray[np.uint64]) -> bool:
        """Return whether any passage is judged relevant that is not already a positive of the rows.

        Args:
            queries: The keys of the rows' queries, ascending.
            own: The keys of the (query, positive) pairs by `PassageKeys.own`, ascending.
            text: The same by `PassageKeys.text`.
        """
        judged = self._own[is_among(self._queries_of_own, queries)]
        return not bool(is_among(judged, text if self._by_text else own).all())
