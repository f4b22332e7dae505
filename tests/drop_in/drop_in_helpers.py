"""Helpers of the tests in this folder."""

import numpy as np
from sentence_transformers.util import mine_hard_negatives as their_function

from hnm_datasets import mine_hard_negatives
from hnm_datasets.corpus.text import normalized_digests

FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")


CORPUS = "half the texts of the sample"


OPTIONS = {
    "plain": {},
    "one negative": {"num_negatives": 1},
    "five negatives": {"num_negatives": 5},
    "relative margin": {"relative_margin": 0.05},
    "absolute margin": {"absolute_margin": 0.1},
    "both margins": {"absolute_margin": 0.02, "relative_margin": 0.05},
    "score band": {"max_score": 0.7, "min_score": 0.2},
    "lowest score": {"min_score": 0.6},
    "range and margin": {"range_max": 20, "relative_margin": 0.1},
    "prompts": {"query_prompt": "question: ", "corpus_prompt": "passage: "},
    "corpus": {"corpus": CORPUS},
    "corpus and margin": {"corpus": CORPUS, "relative_margin": 0.05, "num_negatives": 5},
    "small blocks": {"faiss_batch_size": 7},
}


def key_of(text):
    return normalized_digests([text]).tobytes()


TOY = {
    "question": ["what is the capital of France?", "who wrote Hamlet?", "what is the capital of France?", "how far?"],
    "answer": ["Paris is its capital.", "Shakespeare wrote Hamlet.", "The capital is Paris.", "Two miles from here."],
}


def texts_of(mined):
    return [{name: value for name, value in row.items() if not name.startswith("score")} for row in mined.to_list()]


def scores_of(mined):
    names = [name for name in mined.column_names if name.startswith("score")]
    return np.array([score for name in names for row in mined[name] for score in np.atleast_1d(row)])


def assert_the_same(ours, theirs):
    assert ours.column_names == theirs.column_names
    assert ours.features == theirs.features
    assert texts_of(ours) == texts_of(theirs)
    np.testing.assert_allclose(scores_of(ours), scores_of(theirs), atol=1e-5)


def mine_both(dataset, model, **options):
    ours, theirs = (
        mine(dataset, model, **({"verbose": False, "batch_size": 256} | options))
        for mine in (mine_hard_negatives, their_function)
    )
    return ours, theirs


def negatives_of(mined, anchor="question"):
    """The negatives of each query in a set of triplets, in order."""
    found = {}
    for row in mined:
        found.setdefault(row[anchor], []).append(row["negative"])
    return {query: list(dict.fromkeys(negatives)) for query, negatives in found.items()}


def mined_negatives(dataset, model, **options):
    return negatives_of(mine_hard_negatives(dataset, model, **({"verbose": False} | options)))


def rankings(model, dataset):
    """Each query's ranking of all distinct answers, the most similar first."""
    texts = list(dict.fromkeys(dataset["answer"]))
    queries = model.encode_query(list(dataset["question"]), normalize_embeddings=True)
    order = np.argsort(-queries @ model.encode_document(texts, normalize_embeddings=True).T, kind="stable")
    return {query: [texts[place] for place in row] for query, row in zip(dataset["question"], order, strict=True)}
