"""Whatever the rows are, they come back from other formats, and scattered rows are merged."""

import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import Corpus, convert
from hnm_datasets.formats.registry import FORMATS

TEXT_FORMATS = [name for name, format in FORMATS.items() if not format.needs_corpus]
LIST_FORMATS = ["labeled-lists", "tevatron", "flagembedding"]


@pytest.fixture(scope="module")
def corpus():
    names = list("abcde")
    return Corpus.from_dataset(Dataset.from_dict({"id": names, "text": [f"text {name}" for name in names]}))


@pytest.mark.parametrize("first", TEXT_FORMATS)
@pytest.mark.parametrize("second", TEXT_FORMATS)
def test_texts_alone_come_back_by_way_of_two_formats(first, second):
    rows = Dataset.from_dict(
        {"query": ["a?", "b?"], "pos": [["A", "also A"], ["B"]], "neg": [["x", "y"], ["y", "A"]], "note": [1, 2]}
    )
    back = convert(convert(convert(rows, first), second), "flagembedding")
    assert back.select_columns(rows.column_names).to_list() == rows.to_list()


WORDS = st.text("abc ", min_size=1, max_size=4).filter(str.strip)
QUERIES = st.lists(
    st.tuples(
        st.lists(st.sampled_from("abcde"), unique=True, min_size=1, max_size=3),
        st.lists(st.sampled_from("abcde"), unique=True, max_size=4),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40)
@given(QUERIES, st.sampled_from(["labeled-pairs", *LIST_FORMATS]), st.sampled_from(LIST_FORMATS), st.booleans())
def test_any_mined_rows_come_back_by_way_of_two_formats(corpus, queries, first, second, named):
    columns = {"query": [f"query {row}?" for row in range(len(queries))]}
    if named:
        columns["query_id"] = [f"q{row}" for row in range(len(queries))]
    columns["positive_ids"], columns["negative_ids"] = map(list, zip(*queries, strict=True))
    features = Features(
        {name: List(Value("string")) if name.endswith("e_ids") else Value("string") for name in columns}
    )
    rows = Dataset.from_dict(columns, features=features)
    back = convert(convert(convert(rows, first, corpus), second, corpus), "mined", corpus)
    assert back.select_columns(["query", "positive_ids", "negative_ids"]).to_list() == [
        {"query": query, "positive_ids": positives, "negative_ids": negatives}
        for query, (positives, negatives) in zip(columns["query"], queries, strict=True)
    ]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["x?", "y?", "z?"]), WORDS, WORDS), min_size=1, max_size=12),
    st.sampled_from(LIST_FORMATS),
)
def test_scattered_triplets_are_merged_in_order_of_first_appearance(triples, form):
    rows = Dataset.from_dict(dict(zip(("anchor", "positive", "negative"), zip(*triples, strict=True), strict=True)))
    expected = {}
    for query, positive, negative in triples:
        positives, negatives = expected.setdefault(query, ({}, {}))
        positives[positive], negatives[negative] = None, None
    made = convert(convert(rows, form), "flagembedding")
    assert [(row["query"], row["pos"], row["neg"]) for row in made] == [
        (query, list(positives), list(negatives)) for query, (positives, negatives) in expected.items()
    ]


LISTS = st.lists(WORDS, max_size=4)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["x?", "y?", "z?"]), WORDS, LISTS), min_size=1, max_size=8),
    st.sampled_from(LIST_FORMATS),
)
def test_triplets_with_lists_are_those_without(rows, form):
    columns = dict(zip(("anchor", "positive", "negative"), map(list, zip(*rows, strict=True)), strict=True))
    text = Value("string")
    features = Features({"anchor": text, "positive": text, "negative": List(text)})
    lists = Dataset.from_dict(columns, features=features)
    expected = [
        (query, positive, negative) for query, positive, negatives in rows for negative in dict.fromkeys(negatives)
    ]
    plain = convert(lists, "triplets")
    assert [(row["anchor"], row["positive"], row["negative"]) for row in plain] == expected
    merged = {}
    for query, positive, negatives in rows:
        known = merged.setdefault(query, ({}, {}))
        known[0][positive] = None
        known[1].update(dict.fromkeys(negatives))
    made = convert(convert(lists, form), "flagembedding")
    assert [(row["query"], row["pos"], row["neg"]) for row in made] == [
        (query, list(positives), list(negatives)) for query, (positives, negatives) in merged.items()
    ]
