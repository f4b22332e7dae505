"""Similarity to the positive: by vectors, and by runs of words, against plain Python and numpy."""

import logging
import pickle

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import Corpus, PositiveSimilarity, explain

PASSAGES = {
    "p": "the plate moves to the north",
    "q": "waves roll to the shore",
    "a": "The plate moves to the  north.",
    "b": "the plate moves to the south",
    "c": "waves roll to the east coast",
    "d": "bread rises",
}
NAMES = list(PASSAGES)
VECTORS = np.array([[3, 0], [0, 2], [1, 0], [1, 1], [-1, 1], [0, -4]], dtype=np.float64)


def corpus_of(titles=None):
    columns = {"id": NAMES, "text": list(PASSAGES.values())}
    return Corpus.from_dataset(Dataset.from_dict(columns | ({"title": titles} if titles else {})))


def embedded(corpus, **options):
    by_text = dict(zip(PASSAGES.values(), VECTORS, strict=True))
    options = {"similarity": "dot", "fingerprint": "places-1"} | options
    return corpus.embed(lambda texts: np.array([by_text[text] for text in texts]), **options)


def runs(text):
    words = text.casefold().strip(".").split()
    words += [""] * (3 - len(words))
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def jaccard(first, second):
    a, b = runs(PASSAGES[first]), runs(PASSAGES[second])
    return len(a & b) / len(a | b)


def cosine(first, second):
    a, b = (VECTORS[NAMES.index(name)] for name in (first, second))
    return a @ b / np.sqrt((a @ a) * (b @ b))


ROWS = st.lists(
    st.tuples(st.lists(st.sampled_from(NAMES), max_size=3), st.lists(st.sampled_from(NAMES), max_size=8)),
    min_size=1,
    max_size=70,
)


@settings(max_examples=40)
@given(ROWS, st.sampled_from([None, "float32", "float16"]), st.sampled_from([None, -0.5, 0.1, 0.65]), st.booleans())
def test_it_keeps_what_plain_python_keeps(rows, dtype, low, known):
    corpus = corpus_of()
    embeddings = None if dtype is None else embedded(corpus, dtype=dtype)
    compare = jaccard if dtype is None else cosine
    positives, negatives = map(list, zip(*rows, strict=True))
    batch = {"positive_ids": positives, "negative_ids": negatives}
    batch["negative_ranks"] = [list(range(len(ids))) for ids in negatives]
    if known:
        batch |= {"positive_ids": [ids[:1] for ids in positives], "known_positive_ids": [ids[1:] for ids in positives]}
    answer = PositiveSimilarity(corpus, low, 0.8, embeddings=embeddings)(batch)
    for own, before, after, ranks in zip(
        positives, negatives, answer["negative_ids"], answer["negative_ranks"], strict=True
    ):
        nearest = [max((compare(one, name) for one in own), default=None) for name in before]
        kept = [
            at for at, value in enumerate(nearest) if value is None or ((low is None or value >= low) and value < 0.8)
        ]
        assert after == [before[at] for at in kept]
        assert ranks == kept


def test_the_limits_are_kept():
    batch = {"positive_ids": [["p"]], "negative_ids": [["a", "b", "c"]]}
    corpus = corpus_of()
    # b shares 3 of the 5 runs that it and p have together.
    assert PositiveSimilarity(corpus, min=0.6)(batch) == {"negative_ids": [["a", "b"]]}
    assert PositiveSimilarity(corpus, max=0.6)(batch) == {"negative_ids": [["b", "c"]]}
    assert PositiveSimilarity(corpus, 1, 1)(batch) == {"negative_ids": [["a"]]}
    assert PositiveSimilarity(corpus, min=1, embeddings=embedded(corpus))(batch) == {"negative_ids": [["a"]]}


def test_a_text_is_compared_with_its_title_and_without():
    titles = ["Earth", "", "North", "", "", ""]
    batch = {"positive_ids": [["p"]], "negative_ids": [["a", "d"]]}
    assert PositiveSimilarity(corpus_of(titles), min=1)(batch) == {"negative_ids": [["a"]]}


def test_no_length_of_a_vector_counts():
    corpus = corpus_of()
    batch = {"positive_ids": [["p"]], "negative_ids": [["a", "b", "c", "d", "q"]]}
    unscaled = PositiveSimilarity(corpus, -0.1, 0.8, embeddings=embedded(corpus))(batch)
    scaled = PositiveSimilarity(corpus, -0.1, 0.8, embeddings=embedded(corpus, similarity="cosine"))(batch)
    assert unscaled == scaled == {"negative_ids": [["b", "d", "q"]]}


def test_it_says_what_emptied_the_rows_and_why(caplog):
    corpus = corpus_of()
    rows = Dataset.from_dict({"query": ["north?"] * 3, "positive_ids": [["p"]] * 3, "negative_ids": [["b", "c"]] * 3})
    step = PositiveSimilarity(corpus, 0.7, 0.9)
    with caplog.at_level(logging.WARNING):
        rows.map(step, batched=True)
    (message,) = [record.getMessage() for record in caplog.records if "PositiveSimilarity" in record.getMessage()]
    assert "range from 0 to 0.6, but the band is from 0.7 to 0.9" in message
    assert "0.6 < min 0.7" in str(explain(rows[0], corpus, steps=[step]))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({}, ValueError, "pass min, max or both"),
        ({"min": 0.9, "max": 0.1}, ValueError, "from 0.9 to 0.1 is empty"),
        ({"min": "0.5"}, ValueError, "min must be a finite number, got '0.5'"),
        ({"max": float("nan")}, ValueError, "max must be a finite number"),
        (
            {"max": 1, "embeddings": [[1.0]]},
            TypeError,
            r"embeddings must be Embeddings, got list.*corpus.embed\(model\)",
        ),
    ],
)
def test_wrong_options_are_refused(options, error, match):
    with pytest.raises(error, match=f"PositiveSimilarity: .*{match}"):
        PositiveSimilarity(corpus_of(), **options)


def test_embeddings_of_another_corpus_and_unknown_ids_are_refused():
    corpus = corpus_of()
    with pytest.raises(ValueError, match="PositiveSimilarity: the embeddings belong to another corpus"):
        PositiveSimilarity(corpus_of(["title"] * 6), max=1, embeddings=embedded(corpus))
    with pytest.raises(TypeError, match="PositiveSimilarity: corpus must be a Corpus"):
        PositiveSimilarity([1], max=1)
    with pytest.raises(KeyError, match=r"PositiveSimilarity: 'positive_ids' of row 0.*'zz'"):
        PositiveSimilarity(corpus, max=1)({"positive_ids": [["zz"]], "negative_ids": [["a"]]})


def test_it_survives_pickle():
    corpus = corpus_of()
    step = PositiveSimilarity(corpus, 0.1, embeddings=embedded(corpus))
    assert pickle.loads(pickle.dumps(step)) == step != PositiveSimilarity(corpus, 0.1)
