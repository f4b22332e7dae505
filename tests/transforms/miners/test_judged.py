"""Judged negatives as a source."""

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import (
    BM25Index,
    BM25Negatives,
    Corpus,
    DenseNegatives,
    FuseNegatives,
    JudgedNegatives,
    RandomNegatives,
    SampleNegatives,
    ShardedIndex,
    ToTriplets,
    attach_positives,
    pool_positives,
)

TEXTS = [
    "Plates move under the sea.",
    "Waves roll on the sea.",
    "Plates break.",
    "plates  MOVE under the sea.",
    "Do plates move?",
    "Bread bakes.",
    "Plates and plates and plates move.",
]
LISTS = ("positive_ids", "judged_negative_ids")
QUERY = "do plates move?"


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": list("abcdefg"), "text": TEXTS}))


def count_letters(texts):
    return np.array([[text.lower().count(letter) + 0.1 for letter in "abdelmopstuvw"] for text in texts])


def retrievers(corpus):
    shards = ShardedIndex([BM25Index(corpus, shard=(number, 3)) for number in range(3)])
    return {
        "bm25": BM25Negatives(corpus, k=2),
        "dense": DenseNegatives(corpus, count_letters, k=2, fingerprint="letters-1"),
        "shards": BM25Negatives(corpus, k=2, index=shards),
        "random": RandomNegatives(corpus, k=2),
    }


def rows_of(judged, positives=("a",), query=QUERY, **columns):
    return Dataset.from_dict(
        {"query": [query], "positive_ids": [list(positives)], "judged_negative_ids": [judged]} | columns
    )


def full_list(retriever, query=QUERY):
    """Return the rank and the score of each passage of the retriever's full list."""
    rows = Dataset.from_dict({"query": [query], "positive_ids": [[]]})
    encoded = retriever._encode([query], np.zeros(1, np.uint64))
    if isinstance(retriever, RandomNegatives):
        encoded = retriever._encode([query], rows_keys(rows))
    retriever.prepare()
    hits = retriever._search(encoded, np.zeros(1, np.int64), len(retriever.corpus))
    ids = retriever.corpus.ids(np.maximum(hits.rows[0], 0)).to_pylist()
    return {
        name: (rank, score)
        for rank, (name, score, row) in enumerate(zip(ids, hits.scores[0], hits.rows[0], strict=True), start=1)
        if row >= 0
    }


def rows_keys(rows):
    from hnm_datasets.batch import Batch

    return Batch(rows[:], "test").row_keys()


@pytest.mark.parametrize("name", ["bm25", "dense", "shards", "random"])
def test_scores_and_ranks_are_those_of_the_retriever(corpus, name):
    retriever = retrievers(corpus)[name]
    places = full_list(retriever)
    row = rows_of(["f", "b", "c", "g"]).map(JudgedNegatives(corpus, retriever), batched=True)[0]
    assert set(row["negative_ids"]) == {"f", "b", "c", "g"}
    assert row["negative_source"] == ["judged"] * 4
    assert row["negative_scores"] == sorted(row["negative_scores"], reverse=True)
    for passage, rank, score in zip(row["negative_ids"], row["negative_ranks"], row["negative_scores"], strict=True):
        assert (rank, score) == (places.get(passage, (1001, 0.0))[0], pytest.approx(places.get(passage, (0, 0.0))[1]))
    plain = rows_of([]).map(retriever, batched=True)[0]
    assert row["positive_scores"] == plain["positive_scores"]


@pytest.mark.parametrize(
    ("judged", "positives", "query", "expected"),
    [
        # Each once.
        (["b", "b", "c", "b"], ["a"], QUERY, {"b", "c"}),
        # Known positives, and the same text as one.
        (["a", "b"], ["a"], QUERY, {"b"}),
        (["d", "b"], ["a"], QUERY, {"b"}),
        (["a", "d"], ["a"], QUERY, set()),
        # The query itself.
        (["e", "c"], ["a"], QUERY, {"c"}),
        (["e"], ["a"], " DO plates  move?", set()),
        # One text of two ids.
        (["a", "d"], ["g"], QUERY, {"a"}),
        ([], ["a"], QUERY, set()),
        (None, ["a"], QUERY, set()),
        (["f"], [], "nothing in common", {"f"}),
    ],
)
def test_contradictions_and_repetitions_are_left_out(corpus, judged, positives, query, expected):
    features = Features({"query": Value("string"), **dict.fromkeys(LISTS, List(Value("string")))})
    columns = {"query": [query], "positive_ids": [positives], "judged_negative_ids": [judged]}
    rows = Dataset.from_dict(columns, features=features)
    mined = rows.map(JudgedNegatives(corpus, BM25Negatives(corpus)), batched=True)
    assert set(mined[0]["negative_ids"]) == expected


def test_a_positive_of_another_row_of_the_question_is_no_judged_negative(corpus):
    queries = Dataset.from_dict({"query_id": ["q1", "q2"], "query": [QUERY, QUERY.upper()]})
    qrels = {"query_id": ["q1", "q2", "q2"], "corpus_id": ["g", "g", "c"], "score": [1, 0, 0]}
    rows = attach_positives(queries, Dataset.from_dict(qrels))
    mined = rows.map(JudgedNegatives(corpus, BM25Negatives(corpus)), batched=True)
    assert mined["negative_ids"][:] == [[], ["c"]]
    pooled = pool_positives(rows.remove_columns("known_positive_ids"))
    assert pooled.to_dict() == rows.to_dict()


def test_other_pieces_of_a_positives_document_are_left_out():
    columns = {"id": ["a", "b", "c"], "group": ["one", "one", "two"], "text": ["plate a", "plate b", "plate c"]}
    corpus = Corpus.from_dataset(Dataset.from_dict(columns))
    step = JudgedNegatives(corpus, BM25Negatives(corpus), exclude_group=True)
    assert rows_of(["b", "c"]).map(step, batched=True)["negative_ids"][:] == [["c"]]


def test_k_takes_the_best_and_depth_bounds_the_search(corpus):
    best = JudgedNegatives(corpus, BM25Negatives(corpus), k=1)
    assert rows_of(["f", "b", "g"]).map(best, batched=True)[0]["negative_ids"] == ["g"]
    places = full_list(BM25Negatives(corpus))
    depth = places["c"][0]
    for step, rank in ((depth, depth), (depth - 1, depth)):
        shallow = JudgedNegatives(corpus, BM25Negatives(corpus), depth=step)
        assert rows_of(["c"]).map(shallow, batched=True)[0]["negative_ranks"] == [rank]
    assert rows_of(["f"]).map(JudgedNegatives(corpus, BM25Negatives(corpus), depth=5), batched=True)[0][
        "negative_ranks"
    ] == [6]


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from("abcdefg"), max_size=9), st.lists(st.sampled_from("abcdefg"), max_size=2)),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 4),
    st.integers(1, 9),
)
def test_many_rows_agree_with_plain_python(corpus, rows, k, depth):
    step = JudgedNegatives(corpus, BM25Negatives(corpus), k=k, depth=depth)
    places = full_list(BM25Negatives(corpus))
    batch = {
        "query": [QUERY] * len(rows),
        "judged_negative_ids": [judged for judged, _ in rows],
        "positive_ids": [positives for _, positives in rows],
    }
    if not any(batch["positive_ids"]):
        batch["positive_ids"][0] = ["a"]
    if not any(batch["judged_negative_ids"]):
        batch["judged_negative_ids"][0] = ["a"]
    found = step(batch)
    normal = dict(zip("abcdefg", (" ".join(text.lower().split()) for text in TEXTS), strict=True))
    for row in range(len(rows)):
        seen = {normal[one] for one in batch["positive_ids"][row]} | {QUERY}
        expected = []
        ranked = sorted(set(batch["judged_negative_ids"][row]), key=lambda one: (-places.get(one, (0, 0))[1], one))
        for one in ranked:
            if normal[one] not in seen:
                seen.add(normal[one])
                rank = places.get(one, (99,))[0]
                expected.append((one, rank if rank <= depth else depth + 1))
        assert list(zip(found["negative_ids"][row], found["negative_ranks"][row], strict=True)) == expected[:k]


# ---- together with other sources ---------------------------------------------------------------------------------


def test_judged_negatives_are_a_source_with_a_quota(corpus):
    bm25 = BM25Negatives(corpus)
    fuse = FuseNegatives({"judged": JudgedNegatives(corpus, bm25), "bm25": bm25}, method="union")
    rows = rows_of(["f", "c", "a"]).map(fuse, batched=True)
    row = rows[0]
    assert row["negative_ids"][:2] == ["c", "f"]
    assert row["negative_source"][:3] == ["judged+bm25", "judged", "bm25"]
    places = full_list(bm25)
    assert row["negative_judged_ranks"][:2] == [places["c"][0], 1001]
    assert row["negative_bm25_ranks"][:2] == [places["c"][0], 0]
    drawn = rows.map(SampleNegatives({"judged": 2, "bm25": 1}), batched=True)
    assert set(drawn[0]["negative_ids"]) >= {"c", "f"}
    assert len(drawn[0]["negative_ids"]) == 3
    triplets = drawn.map(ToTriplets(corpus), batched=True, remove_columns=drawn.column_names)
    assert TEXTS[5] in triplets["negative"][:]


def test_fusion_without_judged_negatives_does_not_need_them(corpus):
    fuse = FuseNegatives({"bm25": BM25Negatives(corpus), "random": RandomNegatives(corpus)})
    assert "judged_negative_ids" not in fuse.input_columns
    with_judged = FuseNegatives({"bm25": BM25Negatives(corpus), "judged": JudgedNegatives(corpus, fuse.miners["bm25"])})
    with pytest.raises(KeyError, match=r"judged_negative_ids.*attach_positives"):
        with_judged({"query": [QUERY], "positive_ids": [["a"]]})


# ---- wrong input -------------------------------------------------------------------------------------------------


def test_unknown_ids_are_named(corpus):
    with pytest.raises(KeyError, match=r"judged_negative_ids.*q7.*'nowhere'"):
        JudgedNegatives(corpus, BM25Negatives(corpus))(rows_of(["b", "nowhere"], query_id=["q7"])[:])


def test_wrong_options_are_named(corpus):
    bm25 = BM25Negatives(corpus)
    with pytest.raises(TypeError, match="retriever must be a miner"):
        JudgedNegatives(corpus, "bm25")
    with pytest.raises(TypeError, match=r"retriever.*JudgedNegatives"):
        JudgedNegatives(corpus, JudgedNegatives(corpus, bm25))
    with pytest.raises(ValueError, match="depth"):
        JudgedNegatives(corpus, bm25, depth=0)
    other = Corpus.from_dataset(Dataset.from_dict({"id": ["a"], "text": ["Other."]}))
    with pytest.raises(ValueError, match="another corpus"):
        JudgedNegatives(other, bm25)
