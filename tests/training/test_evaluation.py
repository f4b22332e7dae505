"""The evaluator of a corpus and queries, against measures that are computed slowly by their definitions."""

import math

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from hnm_datasets import Corpus, load_sample
from hnm_datasets.training.evaluation import retrieval_evaluator


@pytest.fixture(scope="module")
def sample():
    corpus, queries = load_sample("medquad")
    return corpus, queries


@pytest.fixture(scope="module")
def small(sample):
    corpus, queries = sample
    ids = corpus.ids(np.arange(0, len(corpus), max(1, len(corpus) // 150))).to_pylist()
    wanted = [name for row in queries.select(range(12)) for name in row["positive_ids"]]
    ids = list(dict.fromkeys([*ids, *wanted]))
    texts = [corpus[name]["text"] for name in ids]
    few = Corpus.from_dataset(Dataset.from_dict({"id": ids, "text": texts}))
    return few, queries.select(range(12)).select_columns(["query_id", "query", "positive_ids"])


def measures(model, corpus, rows, ids=None, k=10):
    """Mean nDCG@k, MRR@k and recall@k over the rows that have positives."""
    ids = corpus.ids(np.arange(len(corpus))).to_pylist() if ids is None else sorted(ids)
    passages = model.encode_document([corpus[name]["text"] for name in ids], normalize_embeddings=True)
    ndcg, mrr, recall = [], [], []
    for row in rows:
        if not row["positive_ids"]:
            continue
        query = model.encode_query([row["query"]], normalize_embeddings=True)[0]
        order = sorted(range(len(ids)), key=lambda place: -float(query @ passages[place]))[:k]
        hits = [ids[place] in row["positive_ids"] for place in order]
        gained = sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits))
        best = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(set(row["positive_ids"])))))
        ndcg.append(gained / best)
        mrr.append(max((1 / (rank + 1) for rank, hit in enumerate(hits) if hit), default=0))
        recall.append(sum(hits) / len(set(row["positive_ids"])))
    return np.mean(ndcg), np.mean(mrr), np.mean(recall)


def check(found, expected, name=""):
    prefix = f"{name}_cosine_" if name else "cosine_"
    got = [found[prefix + measure] for measure in ("ndcg@10", "mrr@10", "recall@10")]
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert 0 < expected[0] <= 1


@pytest.mark.parametrize("form", [Dataset.from_dict, pd.DataFrame, dict])
def test_rows_of_any_form_and_ids_of_whole_numbers(form):
    corpus = Corpus.from_dataset({"id": [7, 8], "text": ["Plates move.", "Waves roll."]})
    evaluator = retrieval_evaluator(corpus, form({"query_id": [1], "query": ["a?"], "positive_ids": [[8]]}))
    assert evaluator.queries_ids == ["1"]
    assert evaluator.relevant_docs == {"1": {"8"}}


def test_measures_are_those_of_their_definitions(small, static_model):
    corpus, rows = small
    evaluator = retrieval_evaluator(corpus, rows, name="tiny")
    assert isinstance(evaluator, InformationRetrievalEvaluator)
    check(evaluator(static_model), measures(static_model, corpus, rows), "tiny")


def test_queries_with_several_positives_and_with_none(small, static_model):
    corpus, rows = small
    names = corpus.ids(np.arange(len(corpus))).to_pylist()
    some = [
        {
            "query": row["query"],
            "positive_ids": [[], row["positive_ids"], [*row["positive_ids"], *names[:3]]][place % 3],
        }
        for place, row in enumerate(rows)
    ]
    rows = Dataset.from_list(some)
    evaluator = retrieval_evaluator(corpus, rows)
    assert len(evaluator.queries) == 8
    check(evaluator(static_model), measures(static_model, corpus, rows))


def test_distractors(small, static_model):
    corpus, rows = small
    wanted = {name for row in rows for name in row["positive_ids"]}
    seen = []
    for seed in (0, 0, 1):
        evaluator = retrieval_evaluator(corpus, rows, distractors=20, seed=seed)
        ids = set(evaluator.corpus_ids)
        assert wanted <= ids
        assert len(ids) == len(wanted) + 20
        check(evaluator(static_model), measures(static_model, corpus, rows, ids))
        seen.append(ids)
    assert seen[0] == seen[1] != seen[2]
    assert set(retrieval_evaluator(corpus, rows, distractors=0).corpus_ids) == wanted
    assert len(retrieval_evaluator(corpus, rows, distractors=10**6).corpus_ids) == len(corpus)


def test_options_go_to_the_stock_evaluator(small, static_model):
    corpus, rows = small
    evaluator = retrieval_evaluator(corpus, rows, ndcg_at_k=[3], batch_size=4, name="x")
    found = evaluator(static_model)
    assert "x_cosine_ndcg@3" in found
    assert not any(name.endswith("ndcg@10") for name in found)


def test_bad_input(small):
    corpus, rows = small
    with pytest.raises(ValueError, match="positive"):
        retrieval_evaluator(corpus, Dataset.from_dict({"query": ["a"], "positive_ids": [[]]}))
    with pytest.raises(ValueError, match="positive"):
        retrieval_evaluator(corpus, rows.select([]))
    with pytest.raises(KeyError, match="nowhere"):
        retrieval_evaluator(corpus, Dataset.from_dict({"query": ["a"], "positive_ids": [["nowhere"]]}))
    for name in ("query", "positive_ids"):
        with pytest.raises(KeyError, match=name):
            retrieval_evaluator(corpus, rows.remove_columns(name))
    with pytest.raises(ValueError, match="distractors"):
        retrieval_evaluator(corpus, rows, distractors=-1)
    with pytest.raises(TypeError, match="orpus"):
        retrieval_evaluator(rows, rows)


def test_rows_must_be_rows(small):
    corpus, _ = small
    with pytest.raises(TypeError, match="retrieval_evaluator: rows must be a Dataset"):
        retrieval_evaluator(corpus, "rows")


def test_two_rows_of_one_query_id_are_not_merged_in_silence(small):
    """Else one of them would vanish with its positives."""
    corpus, rows = small
    both = Dataset.from_list([rows[0] | {"query_id": "same"}, rows[1] | {"query_id": "same"}])
    try:
        evaluator = retrieval_evaluator(corpus, both)
    except ValueError as error:
        assert "same" in str(error)  # noqa: PT017
    else:
        assert len(evaluator.queries) == 2


def test_it_evaluates_a_model_in_training(small, make_static_model):
    corpus, rows = small
    model = make_static_model(16)
    assert isinstance(model, SentenceTransformer)
    model.train()
    evaluator = retrieval_evaluator(corpus, rows, name="tiny")
    check(evaluator(model), measures(model, corpus, rows), "tiny")
