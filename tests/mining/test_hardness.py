"""How hard the candidates after each step are, against a computation one candidate at a time."""

import math

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from mining_helpers import make_rows, middle_steps, miners, pooled_rows, shapes

from hnm_datasets import (
    BM25Negatives,
    FuseNegatives,
    MiningReport,
    RandomNegatives,
    RankWindow,
    ToNTuples,
    TopNegatives,
    ToTriplets,
    mine,
)
from hnm_datasets.batch import Batch
from hnm_datasets.mining.hardness import HardnessTally


def margins_of(rows, by, used=lambda row, ids: range(len(ids))):
    """The margins of all candidates, one at a time."""
    margins = []
    for row in rows:
        positives = row[f"positive_{by}scores"]
        for place in used(row, row["negative_ids"]):
            score = row[f"negative_{by}scores"][place]
            if positives and None not in (score, *positives):
                margins.append(score - sum(positives) / len(positives))
    return [margin for margin in margins if math.isfinite(margin)]


def check(found, margins, by):
    assert (found.by, found.mean) == (by, pytest.approx(sum(margins) / len(margins)))
    assert found.above == pytest.approx(sum(margin > 0 for margin in margins) / len(margins))


@given(data=st.data())
@settings(max_examples=12)
def test_the_hardness_is_that_of_the_candidates_that_are_left(corpus, data):
    miner, _ = miners(corpus)[0]
    steps = [miner, *data.draw(st.lists(st.sampled_from(middle_steps(corpus, "score")), max_size=3))]
    rows, expected = pooled_rows(), []
    for step in steps:
        rows = rows.map(step, batched=True)
        expected.append(margins_of(rows, ""))
    for one, margins in zip(MiningReport.of(mine(pooled_rows(), steps)).steps, expected, strict=True):
        if any(margins):
            check(one.hardness, margins, "score")
        else:
            assert one.hardness is None


@pytest.mark.parametrize("missing", ["drop", "keep", "pad"])
@pytest.mark.parametrize("place", range(6))
def test_of_a_shape_it_is_that_of_the_candidates_in_its_rows(corpus, place, missing):
    """Known positives that another miner left in are not among them."""
    rows = pooled_rows().map(BM25Negatives(corpus, k=6), batched=True)
    rows = rows.map(
        lambda row: {
            "negative_ids": [*row["positive_ids"], *row["negative_ids"]],
            "negative_scores": [*([99.0] * len(row["positive_ids"])), *row["negative_scores"]],
        }
    ).select_columns([name for name in rows.column_names if name not in ("negative_ranks", "negative_source")])
    shape = shapes(corpus, missing)[place]
    (one,) = MiningReport.of(mine(rows, [shape])).steps
    left_out = missing != "keep"

    def used(row, ids):
        known = {*row["positive_ids"], *row["known_positive_ids"]}
        places = [at for at, passage in enumerate(ids) if passage not in known][: shape.n]
        short = len(places) < shape._needed if missing == "drop" else not places
        return [] if left_out and (short or not row["positive_ids"]) else places

    check(one.hardness, margins_of(rows, "", used), "score")


def test_the_teacher_counts_where_the_rows_have_its_scores(corpus):
    def teach(batch):
        return {
            f"{part}_teacher_scores": [[float(len(passage)) for passage in ids] for ids in batch[f"{part}_ids"]]
            for part in ("negative", "positive")
        }

    mined = mine(make_rows(), [BM25Negatives(corpus, k=8), teach, RankWindow(3)])
    report = MiningReport.of(mined)
    assert [one.hardness.by for one in report.steps] == ["score", "teacher", "teacher"]
    check(report.steps[-1].hardness, margins_of(mined, "teacher_"), "teacher")
    assert (
        "hardness: candidates' mean score minus their positives', by the retriever, from teach on by the "
        "teacher; closer to 0 or above it is harder." in repr(report)
    )


def test_signs_and_units_are_shown():
    rows = Dataset.from_dict(
        {
            "positive_ids": [["p"]],
            "positive_scores": [[1.0]],
            "negative_ids": [["a", "b"]],
            "negative_ranks": [[1, 2]],
            "negative_scores": [[1003.0, 0.5]],
        }
    )
    lines = repr(MiningReport.of(mine(rows, [RankWindow(1), RankWindow(2)]))).splitlines()[3:5]
    cells = ["+501  50.0%", "-0.5   0.0%"]
    # Numbers stand below each other by their ends.
    assert len({line.index(cell) + len(cell) for line, cell in zip(lines, cells, strict=True)}) == 1


# ---- nothing is known ------------------------------------------------------------------------------------------------


def test_scores_of_chance_and_of_ranks_say_nothing(corpus):
    bm25, random = BM25Negatives(corpus, k=8), RandomNegatives(corpus, k=5)
    fuse = FuseNegatives({"bm25": bm25, "random": random})
    report = MiningReport.of(mine(make_rows(), [random, bm25, fuse, TopNegatives(3)]))
    # The scores of positives are still BM25's, and those of candidates are sums of ranks.
    assert [one.hardness and one.hardness.by for one in report.steps] == [None, "score", None, None]
    without = MiningReport.of(mine(make_rows(), [random, ToTriplets(corpus)]))
    assert "hardness" not in repr(without) + without.to_markdown()


def test_columns_that_are_no_longer_aligned_say_nothing(corpus):
    def last_two(batch):
        return {"negative_ids": [ids[-2:] for ids in batch["negative_ids"]]}

    report = MiningReport.of(mine(make_rows(), [BM25Negatives(corpus, k=8), last_two]))
    assert [one.hardness is None for one in report.steps] == [False, True]


@pytest.mark.parametrize(
    ("negatives", "positives", "expected"),
    [
        ([[3.0, None], [5.0]], [[1.0], [None]], (2.0, 1.0)),
        ([[3.0, math.inf], [5.0]], [[1.0], [math.nan]], (2.0, 1.0)),
        ([[3, 1], [5]], [[2], [7]], (-2 / 3, 1 / 3)),
        ([None, [5.0]], [[1.0], [4.0]], (1.0, 1.0)),
        ([[None, None], [None]], [[1.0], [4.0]], None),
        ([[3.0, 1.0], [5.0]], [[None], [None]], None),
        ([["3", "1"], ["5"]], [[1.0], [4.0]], None),
        ([[3.0, 1.0], [5.0]], [[1.0, 2.0], [4.0]], None),
        ([[2.0, 2.0], [2.0]], [[2.0], [2.0]], None),
    ],
)
def test_only_finite_scores_count(negatives, positives, expected):
    rows = {"negative_ids": [["a", "b"], ["c"]], "positive_ids": [["p"], ["q"]]}
    rows |= {"negative_scores": negatives, "positive_scores": positives}
    tally = HardnessTally(list(rows))
    tally.add(Batch(Dataset.from_dict(rows).with_format("arrow")[:], step="mine"))
    found = tally.hardness()
    assert (found and (found.mean, found.above)) == (expected and pytest.approx(expected))


def test_the_hardness_is_the_same_however_it_was_mapped(corpus):
    steps = [BM25Negatives(corpus, k=8), RankWindow(2), ToNTuples(corpus, n=3)]
    reports = [
        MiningReport.of(mine(make_rows(), steps, **how))
        for how in ({}, {"num_proc": 3, "batch_size": 2}, {"batch_size": 1})
    ]
    assert reports[0] == reports[1] == reports[2]
    assert reports[0].steps[0].hardness is not None
