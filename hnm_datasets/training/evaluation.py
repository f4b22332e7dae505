"""Evaluate a retriever on a corpus and queries with positives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hnm_datasets import checks
from hnm_datasets.batch import Batch
from hnm_datasets.columns import POSITIVE_IDS, QUERY, QUERY_ID
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.rows import Rows, dataset_of

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

_NAME = "retrieval_evaluator"


def retrieval_evaluator(
    corpus: Corpus,
    rows: Rows,
    *,
    distractors: int | None = None,
    seed: int = 0,
    name: str = "",
    **options: Any,
) -> InformationRetrievalEvaluator:
    """Create an `InformationRetrievalEvaluator` of sentence-transformers from a corpus and queries with positives.

    Args:
        corpus: The passages.
        rows: Queries with positives. Queries without a positive are skipped, because no metric is defined for them.
        distractors: Search only the positives and this many other random passages, instead of the whole corpus. This
            is cheaper and gives higher metrics, so compare only runs with the same passages. None: the whole corpus.
        seed: Seed for drawing the distractors.
        name: Part of the names of the metrics.
        **options: Options of `InformationRetrievalEvaluator`, such as `batch_size` or `ndcg_at_k`.

    Columns read:
        `query`, `positive_ids`; `query_id`, if present.

    Returns:
        An evaluator for the trainer's `evaluator=`. Call it with a model to compute the metrics.

    Raises:
        KeyError: A column is missing, or an id is not in the corpus.
        ValueError: No query has a positive.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> evaluator = retrieval_evaluator(corpus, queries, distractors=3, name="sample")
        >>> len(evaluator.queries), len(evaluator.corpus)
        (1, 4)
    """
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    check_corpus(_NAME, corpus)
    batch = Batch(dataset_of(rows, _NAME).with_format("arrow")[:], step=_NAME)
    positives = batch.id_lists(POSITIVE_IDS)
    texts = batch.strings(QUERY).to_pylist()
    ids = batch.ids(QUERY_ID).to_pylist() if batch.has(QUERY_ID) else [str(row) for row in range(len(batch))]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{_NAME}: two rows have the same query_id. Merge their positives, or remove one of the rows.")
    answered = np.flatnonzero(positives.lengths)
    if not len(answered):
        raise ValueError(f"{_NAME}: no row has a positive. Add them with attach_positives, from qrels.")
    wanted = np.unique(batch.rows_in(POSITIVE_IDS, corpus).values)
    if distractors is None:
        taken = np.arange(len(corpus))
    else:
        distractors = checks.whole_number(_NAME, "distractors", distractors, low=0)
        others = np.setdiff1d(np.arange(len(corpus)), wanted)
        drawn = np.random.default_rng(checks.whole_number(_NAME, "seed", seed, low=0)).permutation(others)
        taken = np.sort(np.concatenate([wanted, drawn[:distractors]]))
    names = positives.values.to_pylist()
    return InformationRetrievalEvaluator(
        queries={ids[row]: texts[row] for row in answered},
        corpus=dict(zip(corpus.ids(taken).to_pylist(), corpus.texts(taken).to_pylist(), strict=True)),
        relevant_docs={ids[row]: set(names[positives.offsets[row] : positives.offsets[row + 1]]) for row in answered},
        name=name,
        **options,
    )
