"""What is known of a question is known in each of its rows."""

import datasets
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import (
    BM25Index,
    BM25Negatives,
    Corpus,
    DenseNegatives,
    FuseNegatives,
    RandomNegatives,
    ShardedIndex,
    ToLabeledLists,
    ToTriplets,
    attach_positives,
    from_pairs,
    load_beir,
    pool_positives,
)

QUESTION = "what is the capital of France"
VARIANTS = [
    QUESTION,
    "What is the capital of france",
    "  what is  the capital of France\n",
    "ｗhat is the capital of France",
]
TEXTS = [
    "Paris is the capital of France.",
    "The capital of France: Paris.",
    "The capital of Italy is not that of France.",
    "It is Paris.",
]


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": ["p0", "p1", "p2", "p3"], "text": TEXTS}))


def rows_of(queries, positives, **columns):
    return Dataset.from_dict({"query": queries, "positive_ids": positives} | columns)


def mined(rows, corpus):
    return rows.map(BM25Negatives(corpus), batched=True)["negative_ids"][:]


@pytest.mark.parametrize("second", VARIANTS)
@pytest.mark.parametrize("with_ids", [True, False])
def test_neither_row_of_a_question_mines_the_positive_of_the_other(corpus, second, with_ids):
    ids = {"query_id": ["q1", "q2"]} if with_ids else {}
    rows = rows_of([QUESTION, second], [["p0", "p3"], ["p1"]], **ids)
    assert any("p1" in ids for ids in mined(rows, corpus))
    assert mined(pool_positives(rows), corpus) == [["p2"], ["p2"]]


def test_every_source_leaves_known_positives_out(corpus):
    pooled = pool_positives(rows_of([QUESTION, QUESTION.upper()], [["p0", "p3"], ["p1"]]))
    bm25, random = BM25Negatives(corpus), RandomNegatives(corpus)
    shards = ShardedIndex([BM25Index(corpus, shard=(number, 2)) for number in range(2)])
    dense = DenseNegatives(corpus, lambda texts: np.array([[1.0, len(text)] for text in texts]), fingerprint="length-2")
    steps = [bm25, random, dense, BM25Negatives(corpus, index=shards), FuseNegatives({"bm25": bm25, "random": random})]
    for step in steps:
        assert pooled.map(step, batched=True)["negative_ids"][:] == [["p2"], ["p2"]]
        for form in ("numpy", "arrow"):
            found = pooled.with_format(form).map(step, batched=True).with_format(None)
            assert found["negative_ids"][:] == [["p2"], ["p2"]]
        stream = pooled.to_iterable_dataset().map(step, batched=True, batch_size=1)
        assert [row["negative_ids"] for row in stream] == [["p2"], ["p2"]]


def test_known_positives_are_no_examples_of_the_row(corpus):
    pooled = pool_positives(rows_of([QUESTION, QUESTION], [["p0"], ["p1"]]))
    rows = pooled.map(BM25Negatives(corpus), batched=True)
    triplets = rows.map(ToTriplets(corpus, n=1), batched=True)
    assert triplets["positive"][:] == TEXTS[:2]
    assert triplets.column_names == ["anchor", "positive", "negative"]
    lists = rows.map(ToLabeledLists(corpus, n=1), batched=True, remove_columns=rows.column_names)
    assert lists["labels"][:] == [[1.0, 0.0], [1.0, 0.0]]


def test_the_other_pieces_of_a_known_positive_are_excluded_with_their_group():
    columns = {"id": ["a", "b", "c", "d"], "group": ["one", "one", "two", "two"]}
    corpus = Corpus.from_dataset(Dataset.from_dict(columns | {"text": ["plate a", "plate b", "plate c", "plate d"]}))
    rows = pool_positives(rows_of(["plate?", "Plate?", "plate!"], [["a"], ["c"], ["c"]]))
    found = rows.map(BM25Negatives(corpus, exclude_group=True), batched=True)["negative_ids"][:]
    assert found == [[], [], ["a", "b"]]


def test_own_positives_stay_and_others_come_in_the_order_of_the_rows():
    queries = ["a", "b", "A", "a "]
    pooled = pool_positives(rows_of(queries, [["x", "y"], ["y"], ["y", "z", "y"], None], topic=[1, 2, 3, 4]))
    assert pooled["known_positive_ids"][:] == [["z"], [], ["x"], ["x", "y", "z"]]
    assert pooled["positive_ids"][:] == [["x", "y"], ["y"], ["y", "z", "y"], None]
    assert pooled["topic"][:] == [1, 2, 3, 4]


def test_rows_without_a_repeated_question_stay_as_they_are():
    rows = rows_of(["a", "b", "", " "], [["x"], ["y"], ["z"], ["w"]])
    assert pool_positives(rows)[:] == rows[:]
    empty = rows.select([])
    assert pool_positives(empty) is empty


def test_what_was_known_before_stays_known():
    rows = rows_of(["a", "A", "a"], [["x"], ["y"], ["z"]])
    pooled = pool_positives(rows)
    assert pool_positives(pooled).to_dict() == pooled.to_dict()
    assert pool_positives(pooled.select([1]))["known_positive_ids"][:] == [["x", "z"]]
    more = datasets.concatenate_datasets([pooled.select([1]), rows_of(["a"], [["w"]])])
    assert pool_positives(more)["known_positive_ids"][:] == [["w", "x", "z"], ["y", "x", "z"]]


@pytest.mark.parametrize("form", ["numpy", "arrow", "pandas"])
def test_formatted_rows_keep_their_format(form):
    rows = rows_of(["a", "a"], [["x"], ["y"]]).with_format(form)
    pooled = pool_positives(rows)
    assert pooled.format["type"] == form
    assert pooled.with_format(None)["known_positive_ids"][:] == [["y"], ["x"]]


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "A", "b", "b ", "c"]), st.lists(st.sampled_from("vwxyz"), max_size=3)),
        min_size=1,
        max_size=12,
    )
)
def test_pooling_agrees_with_plain_python(rows):
    queries, positives = zip(*rows, strict=True)
    known = {}
    for query, ids in rows:
        known.setdefault(query.lower().strip(), []).extend(ids)
    expected = [
        list(dict.fromkeys(one for one in known[query.lower().strip()] if one not in ids)) for query, ids in rows
    ]
    features = datasets.Features(
        {"query": datasets.Value("string"), "positive_ids": datasets.List(datasets.Value("string"))}
    )
    pooled = pool_positives(Dataset.from_dict({"query": queries, "positive_ids": positives}, features=features))
    found = pooled["known_positive_ids"][:] if "known_positive_ids" in pooled.column_names else [[]] * len(rows)
    assert found == expected


# ---- in the loaders ----------------------------------------------------------------------------------------------


def test_attach_positives_pools_by_question(corpus):
    queries = Dataset.from_dict({"query_id": ["q1", "q2", "q3"], "query": [QUESTION, VARIANTS[1], "what is Italy"]})
    qrels = Dataset.from_dict({"query_id": ["q1", "q2", "q3", "q1"], "corpus_id": ["p0", "p1", "p2", "p3"]})
    rows = attach_positives(queries, qrels)
    assert rows["known_positive_ids"][:] == [["p1"], ["p0", "p3"], []]
    assert mined(rows, corpus)[:2] == [["p2"], ["p2"]]


def test_load_beir_pools_by_question(tmp_path):
    (tmp_path / "qrels").mkdir()
    passages = "".join(f'{{"_id": "p{place}", "text": "{text}"}}\n' for place, text in enumerate(TEXTS))
    (tmp_path / "corpus.jsonl").write_text(passages)
    queries = "".join(f'{{"_id": "q{place}", "text": "{text}"}}\n' for place, text in enumerate(VARIANTS[:2]))
    (tmp_path / "queries.jsonl").write_text(queries)
    qrels = "query-id\tcorpus-id\tscore\nq0\tp0\t1\nq1\tp1\t1\nq1\tp3\t1\n"
    (tmp_path / "qrels" / "train.tsv").write_text(qrels)
    corpus, rows = load_beir(tmp_path)
    assert rows["known_positive_ids"][:] == [["p1", "p3"], ["p0"]]
    assert mined(rows, corpus) == [["p2"], ["p2"]]


def test_from_pairs_pools_variants_of_a_query():
    pairs = {"query": [QUESTION, VARIANTS[1], QUESTION], "answer": [TEXTS[0], TEXTS[1], TEXTS[3]], "n": [1, 2, 3]}
    corpus, rows = from_pairs(Dataset.from_dict(pairs), passages=[TEXTS[2]])
    p0, p1, p2, p3 = corpus.ids(corpus.find_texts(TEXTS)).to_pylist()
    assert rows.to_dict() == {
        "query": VARIANTS[:2],
        "n": [1, 2],
        "positive_ids": [[p0, p3], [p1]],
        "known_positive_ids": [[p1], [p0, p3]],
    }
    assert mined(rows, corpus) == [[p2], [p2]]


# ---- wrong input -------------------------------------------------------------------------------------------------


def test_wrong_columns_are_named():
    with pytest.raises(KeyError, match="positive_ids"):
        pool_positives(Dataset.from_dict({"query": ["a"]}))
    with pytest.raises(TypeError, match="positive_ids"):
        pool_positives(Dataset.from_dict({"query": ["a"], "positive_ids": [[True]]}))
    with pytest.raises(ValueError, match="'query' is null"):
        pool_positives(Dataset.from_dict({"query": ["a", None], "positive_ids": [["x"], ["y"]]}))


def test_too_many_rows_of_one_question_are_named_before_memory_runs_out():
    count = 20_000
    rows = rows_of(["a"] * count, [[f"p{place}"] for place in range(count)])
    with pytest.raises(ValueError, match=r"20,000 rows have the same question as the row with query 'a'.*Merge"):
        pool_positives(rows)
