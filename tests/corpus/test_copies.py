"""Copies: passages with the same text, with their titles or without."""

import unicodedata

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import Corpus


def corpus_of(titles, texts):
    ids = [f"p{place}" for place in range(len(texts))]
    return Corpus.from_dataset(Dataset.from_dict({"id": ids, "title": titles, "text": texts}))


def same(text):
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def slow_codes(titles, texts):
    """Join passages that share a form, again and again."""
    forms = [
        {same(f"{title or ''} {text}")} | ({same(text)} if same(text) else set())
        for title, text in zip(titles, texts, strict=True)
    ]
    codes = list(range(len(texts)))
    for _ in texts:
        codes = [
            min(codes[other] for other in range(len(texts)) if other == one or forms[one] & forms[other])
            for one in range(len(texts))
        ]
    return codes


@pytest.mark.parametrize(
    ("titles", "texts", "codes"),
    [
        (["zoos", "farms"], ["They are bad.", "they are  BAD."], [0, 0]),
        (["zoos", None], ["They are bad.", "They are bad."], [0, 0]),
        (["zoos", ""], ["are bad", "zoos are bad"], [0, 0]),
        (["x", "y zoos"], ["zoos are bad", "are bad"], [0, 1]),
        # A title alone is a text of its own, and has no text that others could share.
        (["zoos", "farms"], ["", ""], [0, 1]),
        (["zoos", "zoos"], [" ", "\n"], [0, 0]),
        (["zoos", "farms", "zoos"], ["Good.", "Bad.", "Fine."], [0, 1, 2]),
        # A copy of a copy.
        (["a", "b", None, "c"], ["b c", "c", "b c", "c"], [0, 0, 0, 0]),
    ],
)
def test_copies_have_the_same_text_with_or_without_titles(titles, texts, codes):
    assert corpus_of(titles, texts).copy_codes.tolist() == codes


def test_texts_are_found_with_and_without_their_titles():
    corpus = corpus_of(["zoos", "farms", "parks"], ["are bad", "ARE bad", "are good"])
    asked = ["are bad", "farms  are bad", "Zoos Are Bad", "parks are good", "are good", "zoos", "parks"]
    assert corpus.find_copies(asked).tolist() == [0, 0, 0, 2, 2, -1, -1]
    assert corpus.find_texts(asked).tolist() == [-1, 1, 0, 2, -1, -1, -1]


def test_without_titles_copies_are_equal_texts():
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b", "c"], "text": ["Plates.", "Waves.", "plates. "]}))
    assert corpus.copy_codes is corpus.text_codes
    assert corpus.find_copies(["WAVES.", "nothing"]).tolist() == [1, -1]


WORDS = st.lists(st.sampled_from(["a", "A", "b", "c"]), max_size=3).map(" ".join)


@given(
    st.lists(st.tuples(WORDS | st.none(), WORDS), min_size=1, max_size=12).filter(
        lambda rows: all(f"{title or ''}{text}".strip() for title, text in rows)
    )
)
def test_copies_agree_with_plain_python(rows):
    titles, texts = zip(*rows, strict=True)
    corpus = corpus_of(list(titles), list(texts))
    expected = slow_codes(titles, texts)
    assert corpus.copy_codes.tolist() == expected
    np.testing.assert_array_equal(corpus.find_copies([f"{title or ''} {text}" for title, text in rows]), expected)


def test_long_chains_of_copies_are_joined():
    # Each passage without its title is the one before it.
    count = 300
    corpus = corpus_of(["a"] * count, ["a " * (place + 1) for place in range(count)])
    assert corpus.copy_codes.tolist() == [0] * count


def test_copies_and_groups_are_counted():
    titles, texts = ["a", "b", "", "c", ""], ["waves", "waves", "plates", "WAVES", "a waves"]
    rows = {"id": list("vwxyz"), "title": titles, "text": texts, "group": ["1", "2", "1", None, "1"]}
    corpus = Corpus.from_dataset(Dataset.from_dict(rows))
    assert corpus.copy_counts(np.append(corpus.copy_codes, -1)).tolist() == [4, 4, 1, 4, 4, 0]
    assert corpus.group_counts(corpus.group_codes).tolist() == [3, 1, 3, 1, 3]
    alone = Corpus.from_dataset(Dataset.from_dict({"id": ["v"], "text": ["waves"]}))
    assert alone.copy_counts(np.array([0, -1])).tolist() == [1, 0]
