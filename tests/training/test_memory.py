"""Earlier candidates beside new ones."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import Corpus
from hnm_datasets.training.memory import with_earlier

#: Passages 0 and 1 are copies of each other, and so are 2 and 3.
TEXTS = ["same", "same", "twin", "twin", *(f"text {row}" for row in range(16))]


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset({"id": [f"p{row}" for row in range(len(TEXTS))], "text": TEXTS})


def table_of(lists, by):
    """Rows with candidates, and scores that tell where a candidate came from."""
    ids = [[f"p{row}" for row in one] for one in lists]
    scores = [[float(by * 100 + row) for row in one] for one in lists]
    return pa.table(
        {
            "positive_ids": pa.array([["p0"]] * len(lists), pa.list_(pa.string())),
            "negative_ids": pa.array(ids, pa.list_(pa.string())),
            "negative_teacher_scores": pa.array(scores, pa.list_(pa.float32())),
        }
    )


lists = st.lists(st.permutations(range(len(TEXTS))).flatmap(
    lambda rows: st.integers(0, len(rows)).map(lambda size: rows[:size])
), min_size=1, max_size=5)  # fmt: skip


def distinct(corpus, rows):
    """One of several copies, as a miner finds them."""
    _, first = np.unique(corpus.copy_codes[rows], return_index=True)
    return [rows[place] for place in sorted(first)]


@settings(max_examples=60)
@given(data=st.data(), share=st.floats(0, 0.9), least=st.integers(0, 6), seed=st.integers(0, 3))
def test_new_candidates_come_first_and_earlier_ones_fill_their_share(corpus, data, share, least, seed):
    new = [distinct(corpus, rows) for rows in data.draw(lists)]
    old = [distinct(corpus, rows) for rows in data.draw(lists)]
    size = min(len(new), len(old))
    new, old, keys = new[:size], old[:size], np.arange(size, dtype=np.uint64)
    joined = with_earlier(table_of(new, 1), table_of(old, 2), share, least, corpus, keys, seed)
    codes = corpus.copy_codes
    for row, (fresh, earlier) in enumerate(zip(new, old, strict=True)):
        found = [int(name[1:]) for name in joined["negative_ids"][row].as_py()]
        scores = joined["negative_teacher_scores"][row].as_py()
        assert found[: len(fresh)] == fresh
        behind = found[len(fresh) :]
        left = [one for one in earlier if codes[one] not in set(codes[fresh].tolist())]
        assert behind == [one for one in left if one in behind]
        wanted = max(round(share / (1 - share) * len(fresh)), least - len(fresh), 0)
        assert len(behind) == min(wanted, len(left))
        assert len(set(codes[found].tolist())) == len(found)
        assert scores == [100.0 + one for one in fresh] + [200.0 + one for one in behind]
    assert joined["positive_ids"].to_pylist() == [["p0"]] * size


def test_a_row_draws_the_same_whatever_rows_are_beside_it_and_another_with_another_seed(corpus):
    new, old = [[4], [5, 6], [7]], [list(range(8, 20))] * 3
    keys = np.array([11, 12, 13], dtype=np.uint64)

    def drawn(rows, seed):
        tables = (table_of([lists[row] for row in rows], by) for by, lists in ((1, new), (2, old)))
        return with_earlier(*tables, 0.75, 1, corpus, keys[list(rows)], seed)["negative_ids"].to_pylist()

    together = drawn([0, 1, 2], 0)
    assert [drawn([row], 0)[0] for row in range(3)] == together
    assert drawn([2, 0], 0) == [together[2], together[0]]
    assert any(drawn([0, 1, 2], seed) != together for seed in range(1, 5))


def test_all_earlier_candidates_have_the_same_chance(corpus):
    old = [list(range(8, 20))]
    counts = np.zeros(20)
    for seed in range(600):
        keys = np.array([seed * 7919], dtype=np.uint64)
        joined = with_earlier(table_of([[4, 5]], 1), table_of(old, 2), 2 / 3, 0, corpus, keys, seed)
        counts[[int(name[1:]) for name in joined["negative_ids"][0].as_py()[2:]]] += 1
    assert counts.sum() == 600 * 4
    # 200 times each on average, with a deviation of some 11.5.
    assert np.abs(counts[8:] - 200).max() < 50
