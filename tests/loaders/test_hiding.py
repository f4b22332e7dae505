import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import BM25Negatives, audit_negatives, hide_positives, load_sample, pool_positives

ROWS = {
    "query_id": ["q1", "q2", "q3"],
    "query": ["What is a plate?", "why?", "how?"],
    "positive_ids": [["a", "b", "c", "d"], ["e"], []],
    "positive_scores": [[0.1, 0.2, 0.3, 0.4], [0.5], []],
    "positive_names": [["A", "B", "C", "D"], ["E"], []],
    "judged_negative_ids": [["z"], [], []],
    "other": [1, 2, 3],
}


def test_each_row_keeps_so_many_and_aligned_columns_follow(caplog):
    rows, judgments = hide_positives(Dataset.from_dict(ROWS), keep=2)
    assert rows.column_names == list(ROWS)
    assert [len(ids) for ids in rows["positive_ids"]] == [2, 1, 0]
    first = rows[0]
    assert [name.lower() for name in first["positive_names"]] == first["positive_ids"]
    assert [round(10 * score) - 1 for score in first["positive_scores"]] == [
        "abcd".index(i) for i in first["positive_ids"]
    ]
    assert judgments["positive_ids"][:] == ROWS["positive_ids"]
    assert judgments["judged_negative_ids"][:] == ROWS["judged_negative_ids"]
    assert judgments["query"][:] == ROWS["query"]
    assert judgments["query_id"][:] == ROWS["query_id"]
    assert "2 of 3 rows" in caplog.text


@settings(max_examples=15)
@given(st.integers(0, 20), st.integers(1, 4), st.permutations(range(8)))
def test_what_a_row_keeps_depends_on_seed_and_key_alone(seed, keep, order):
    rows = Dataset.from_dict(
        {"query_id": [f"q{i}" for i in range(8)], "positive_ids": [[f"{i}-{j}" for j in range(6)] for i in range(8)]}
    )
    whole = {row["query_id"]: row["positive_ids"] for row in hide_positives(rows, keep, seed=seed)[0]}
    some = {row["query_id"]: row["positive_ids"] for row in hide_positives(rows.select(order[:3]), keep, seed=seed)[0]}
    assert all(len(set(ids)) == keep for ids in whole.values())
    assert some == {name: whole[name] for name in some}


def test_another_seed_keeps_others():
    rows = Dataset.from_dict({"query_id": [f"q{i}" for i in range(40)], "positive_ids": [["a", "b", "c"]] * 40})
    first, again, other = (hide_positives(rows, seed=seed)[0]["positive_ids"][:] for seed in (1, 1, 2))
    assert first == again != other
    assert {ids[0] for ids in first} == {"a", "b", "c"}


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_known_positives_do_not_betray_what_is_hidden(pooled, seed):
    rows = Dataset.from_dict(
        {
            "query_id": ["q1", "q2", "q3"],
            "query": ["What is a plate?", "what is  a plate?", "why?"],
            "positive_ids": [["a", "b", "c"], ["c", "d"], ["a", "e"]],
        }
    )
    hidden, judgments = hide_positives(pool_positives(rows) if pooled else rows, seed=seed)
    kept = hidden["positive_ids"][:]
    assert [len(ids) for ids in kept] == [1, 1, 1]
    known = hidden["known_positive_ids"][:] if "known_positive_ids" in hidden.column_names else [[], [], []]
    # Of one question all that any of its rows keeps is known to each, and nothing else.
    for row in (0, 1):
        assert set(kept[row]) | set(known[row]) == set(kept[0]) | set(kept[1])
    assert known[2] == []
    assert [sorted(ids) for ids in judgments["positive_ids"]] == [list("abcd"), list("abcd"), list("ae")]


def test_what_other_data_sets_know_stays_known():
    rows = {"query_id": ["q1"], "query": ["why?"], "positive_ids": [["a", "b"]], "known_positive_ids": [["x"]]}
    hidden, judgments = hide_positives(Dataset.from_dict(rows))
    assert hidden["known_positive_ids"][:] == [["x"]]
    assert judgments["positive_ids"][:] == [["a", "b", "x"]]


def test_hidden_positives_are_mined_and_counted():
    corpus, queries = load_sample()
    queries = queries.filter(lambda row: len(row["positive_ids"]) > 1)
    rows, judgments = hide_positives(queries)
    audits = [
        audit_negatives(mined.map(BM25Negatives(corpus, k=10), batched=True), corpus, judgments=judgments)
        for mined in (queries, rows)
    ]
    assert audits[0].false_negatives.false == 0 < audits[1].false_negatives.false


def test_mined_rows_and_wrong_options_are_refused():
    rows = Dataset.from_dict(ROWS)
    with pytest.raises(ValueError, match="Hide positives before mining"):
        hide_positives(rows.add_column("negative_ids", [["x"]] * 3))
    with pytest.raises(ValueError, match="keep"):
        hide_positives(rows, keep=0)
    with pytest.raises(TypeError, match="IterableDataset"):
        hide_positives(rows.to_iterable_dataset())
    with pytest.raises(KeyError, match="hide_positives needs the column 'positive_ids'"):
        hide_positives(rows.remove_columns("positive_ids"))
    with pytest.raises(KeyError, match="query"):
        hide_positives(rows.select_columns(["positive_ids"]))


def test_no_rows_are_no_rows():
    rows, judgments = hide_positives(Dataset.from_dict(ROWS).select([]))
    assert len(rows) == len(judgments) == 0
