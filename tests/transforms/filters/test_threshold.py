import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import TeacherThreshold

ROWS = st.lists(
    st.tuples(
        st.lists(st.floats(0, 1, width=32), max_size=6),
        st.lists(st.floats(0, 1, width=32), max_size=3),
    ),
    min_size=1,
    max_size=5,
)


def batch_of(rows):
    return {
        "query_id": [f"q{i}" for i in range(len(rows))],
        "positive_ids": [[f"p{i}-{j}" for j in range(len(own))] for i, (_, own) in enumerate(rows)],
        "positive_scores": [[float(j) for j in range(len(own))] for _, own in rows],
        "positive_teacher_scores": [own for _, own in rows],
        "negative_ids": [[f"n{i}-{j}" for j in range(len(found))] for i, (found, _) in enumerate(rows)],
        "negative_scores": [[10.0 + j for j in range(len(found))] for found, _ in rows],
        "negative_teacher_scores": [found for found, _ in rows],
    }


@given(ROWS, st.floats(0, 1, width=32))
def test_what_the_teacher_is_confident_of_stays(rows, limit):
    batch = batch_of(rows)
    kept = TeacherThreshold(limit)(batch)
    for i, (found, _) in enumerate(rows):
        stay = [j for j, score in enumerate(found) if score < limit]
        assert kept["negative_ids"][i] == [f"n{i}-{j}" for j in stay]
        assert kept["negative_scores"][i] == [10.0 + j for j in stay]


@given(ROWS, st.floats(0, 0.5, width=32), st.floats(0.5, 1, width=32))
def test_promoted_candidates_take_their_scores_along(rows, low, high):
    batch = batch_of(rows)
    kept = TeacherThreshold(low, high, promote=True)(batch)
    for i, (found, own) in enumerate(rows):
        rise = [j for j, score in enumerate(found) if score > high]
        assert kept["promoted_ids"][i] == [f"n{i}-{j}" for j in rise]
        assert kept["positive_ids"][i] == batch["positive_ids"][i] + kept["promoted_ids"][i]
        assert kept["positive_scores"][i] == batch["positive_scores"][i] + [10.0 + j for j in rise]
        assert np.allclose(kept["positive_teacher_scores"][i], own + [found[j] for j in rise])
        assert not set(kept["negative_ids"][i]) & set(kept["positive_ids"][i])


@given(ROWS, st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_a_higher_limit_keeps_no_fewer(rows, one, other):
    low, high = sorted((one, other))
    few, many = (TeacherThreshold(limit)(batch_of(rows))["negative_ids"] for limit in (low, high))
    assert all(set(a) <= set(b) for a, b in zip(few, many, strict=True))


def test_promoted_positives_are_never_mined_again():
    from hnm_datasets import BM25Negatives, CrossEncoderScores, load_sample

    corpus, queries = load_sample()
    rows = queries.select(range(20)).map(BM25Negatives(corpus, k=10), batched=True)
    scored = rows.map(CrossEncoderScores(corpus, share_of_words, fingerprint="share-1"), batched=True)
    promoted = scored.map(TeacherThreshold(0.3, 0.6, promote=True), batched=True)
    assert sum(len(ids) for ids in promoted["promoted_ids"]) > 0
    again = promoted.map(BM25Negatives(corpus, k=50), batched=True)
    for row in again:
        assert not set(row["negative_ids"]) & set(row["promoted_ids"])
        assert set(row["promoted_ids"]) <= set(row["positive_ids"])


def test_promoted_positives_are_never_mined_again_by_a_model(static_model):
    from hnm_datasets import CrossEncoderScores, DenseNegatives, FuseNegatives, RandomNegatives, load_sample

    corpus, queries = load_sample()
    dense, random = DenseNegatives(corpus, static_model, k=30), RandomNegatives(corpus, k=30)
    mined = queries.select(range(12)).map(dense, batched=True)
    scored = mined.map(CrossEncoderScores(corpus, share_of_words, fingerprint="share-1"), batched=True)
    promoted = scored.map(TeacherThreshold(0.3, 0.5, promote=True), batched=True)
    assert sum(len(ids) for ids in promoted["promoted_ids"]) > 10
    for miner in (dense, FuseNegatives({"dense": dense, "random": random})):
        again = promoted.map(miner, batched=True)
        assert sum(len(ids) for ids in again["negative_ids"]) > 300
        for row in again:
            assert not set(row["negative_ids"]) & {*row["promoted_ids"], *row["positive_ids"]}


def share_of_words(pairs):
    words = [(set(query.lower().split()), set(passage.lower().split())) for query, passage in pairs]
    return [len(query & passage) / len(query) for query, passage in words]


@given(ROWS, st.floats(0, 0.5, width=32), st.floats(0.5, 1, width=32), st.floats(0.5, 1, width=32))
def test_a_higher_bar_promotes_no_more(rows, low, one, other):
    bars = sorted((one, other))
    many, few = (TeacherThreshold(low, bar, promote=True)(batch_of(rows)) for bar in bars)
    assert all(set(a) <= set(b) for a, b in zip(few["promoted_ids"], many["promoted_ids"], strict=True))
    assert few["negative_ids"] == many["negative_ids"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"negative_below": 0.5, "positive_above": 0.4, "promote": True}, "would be both"),
        ({"positive_above": 0.9}, "pass both or neither"),
        ({"promote": True}, "pass both or neither"),
        ({"negative_below": float("nan")}, "finite number"),
    ],
)
def test_thresholds_are_checked(options, match):
    with pytest.raises(ValueError, match=match):
        TeacherThreshold(**options)


def test_a_missing_teacher_says_what_to_do():
    with pytest.raises(KeyError, match=r"score first.*CrossEncoderScores.*'teacher'"):
        TeacherThreshold()({"negative_ids": [["a"]]})


def test_a_list_of_positives_without_counterpart_is_refused():
    batch = batch_of([([0.9], [0.5])]) | {"positive_notes": [["seen"]]}
    with pytest.raises(ValueError, match="'positive_notes' has no counterpart 'negative_notes'"):
        TeacherThreshold(0.1, 0.8, promote=True)(batch)


@pytest.mark.parametrize(("positives", "negatives"), [(["high"], [0.9]), ([0.9], ["high"]), (["0.9"], ["0.5"])])
def test_scores_that_are_no_numbers_are_refused(positives, negatives):
    with pytest.raises(TypeError, match=r"^TeacherThreshold: .*teacher_scores'"):
        TeacherThreshold(0.1, 0.8, promote=True)(batch_of([(positives, negatives)]))


@pytest.mark.parametrize(
    ("own", "risen"),
    [(pa.float16(), pa.float64()), (pa.int8(), pa.float32()), (pa.float32(), pa.float64()), (pa.int8(), pa.int64())],
)
def test_a_promoted_score_keeps_its_value_whatever_type_the_positives_have(own, risen):
    value = 1_000_000 if pa.types.is_integer(risen) else 1_000_000.5
    batch = pa.table(
        {
            "positive_ids": [["p"]],
            "negative_ids": [["a", "b"]],
            "positive_teacher_scores": pa.array([[3]], pa.list_(own)),
            "negative_teacher_scores": pa.array([[value, 0]], pa.list_(risen)),
        }
    )
    answer = TeacherThreshold(0.1, 0.8, promote=True)(batch)
    assert answer["positive_teacher_scores"].to_pylist() == [[3, value]]
