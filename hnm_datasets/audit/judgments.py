"""Which passages are relevant to which queries, in whatever form the judgments come."""

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
    """J judgments of pairs of query and passage.

    Attributes:
        asked: The ids, or the texts, of all queries that were judged, also those without a relevant passage.
        queries: The query of each judgment. Shape (J,).
        passages: The id of its passage. Shape (J,).
        relevant: Whether it calls the passage relevant. Shape (J,).
        pooled: Whether it is of another row with the same question, from `known_positive_ids`. Shape (J,).
    """

    asked: pa.Array
    queries: pa.Array
    passages: pa.Array
    relevant: NDArray[np.bool_]
    pooled: NDArray[np.bool_]


def read_judgments(judgments: Rows, by_query_id: bool, owner: str) -> JudgedPairs:
    """Read judgments in one of two forms.

    - One judgment a row: the query in `query_id` or `query-id`, the passage in `corpus_id`, `corpus-id`, `passage_id`
      or `docid`, and `score`, which is greater than 0 for relevant passages. A null score is no judgment.
    - One query a row, as `load_beir` and `hide_positives` return them: `query_id` or `query`, `positive_ids`, and
      `known_positive_ids` and `judged_negative_ids`, if there.

    Args:
        judgments: The judgments: a `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists. Ids may
            be whole numbers.
        by_query_id: Queries are named by their ids; else by their texts, in the column `query`.
        owner: Who asks, for errors.

    Raises:
        KeyError: A column is missing.
        TypeError: `judgments` is something else, or a column holds something else.
        ValueError: A passage is judged relevant and not relevant to one query.

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
            f"{owner}: the judgments need the columns {[names[0] for names in wanted]}, and {missing} are not among "
            f"{batch.names}; BEIR's names 'query-id' and 'corpus-id' will do too. Queries are matched by "
            f"{'their ids' if by_query_id else 'their texts, as the rows have no query ids'}; rows with 'query_id', "
            f"'query' and 'positive_ids', as load_beir gives them, always do."
        )
    queries = (batch.ids if by_query_id else batch.strings)(str(found[0])).cast(pa.string())
    if rows:
        names = [name for name in (POSITIVE_IDS, KNOWN_POSITIVE_IDS, JUDGED_NEGATIVE_IDS) if batch.has(name)]
        lists = [batch.id_lists(name) for name in names]
        owners = pa.array(np.concatenate([one.owners for one in lists]))
        passages = pa.concat_arrays([one.values.cast(pa.string()) for one in lists])
        column = np.repeat(names, [len(one.values) for one in lists])
        # A passage may be a judged negative of one row and a positive of another one with the same question.
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
    """Which passages are relevant to which queries, as numbers of pairs.

    Args:
        judgments: In a form of `read_judgments`.
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
            # A judged passage that the corpus lacks was never mined from it.
            queries, passages = queries[rows >= 0], rows[rows >= 0].astype(np.uint64)
            pooled = pooled[rows >= 0]
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
            pooled = pooled[rows >= 0]
        self.queries = np.unique(digest_strings(judged.asked.to_pylist())[:, 0])
        self._relevant, first = np.unique(pair_keys(queries, passages), return_index=True)
        # What the rows pool is a positive of another row, and known to miners.
        self._queries_of_own = queries[first][~pooled[first]]
        self._own = self._relevant[~pooled[first]]

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
        asked = self._own[is_among(self._queries_of_own, queries)]
        return not bool(is_among(asked, text if self._by_text else own).all())
