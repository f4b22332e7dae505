from typing import NamedTuple

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import (
    AbsoluteMargin,
    RelativeMargin,
    TeacherThreshold,
    TopNegatives,
    calibrate_margin,
    calibrate_threshold,
)


def mined(seed, queries=30, k=12):
    rng = np.random.default_rng(seed)
    rows = Dataset.from_dict(
        {
            "query_id": [f"q{i}" for i in range(queries)],
            "negative_ids": [[f"p{j}" for j in range(k)] for _ in range(queries)],
            "negative_scores": np.sort(rng.uniform(-0.2, 1, (queries, k)))[:, ::-1].tolist(),
            "positive_ids": [["x", "y"]] * queries,
            "positive_scores": rng.uniform(0.3, 0.9, (queries, 2)).tolist(),
        }
    )
    pairs = [(f"q{i}", f"p{j}") for i in range(queries) for j in range(k) if rng.random() < 0.5 / (1 + j)]
    # Each query is judged, also one without a relevant candidate.
    pairs += [(f"q{i}", "hidden") for i in range(queries)]
    judged = {"query_id": [q for q, _ in pairs], "corpus_id": [p for _, p in pairs], "score": [1] * len(pairs)}
    return rows, Dataset.from_dict(judged)


def rate(rows, judged, steps):
    """Return the share of relevant passages after some steps, and the number of passages."""
    relevant = set(zip(judged["query_id"], judged["corpus_id"], strict=True))
    batch = rows[:]
    for step in steps:
        batch = batch | dict(step(batch))
    lists = zip(batch["query_id"], batch["negative_ids"], strict=True)
    kept = [(query, passage) for query, passages in lists for passage in passages]
    return sum(pair in relevant for pair in kept) / max(1, len(kept)), len(kept)


SEEDS, TARGETS, FIRST = st.integers(0, 40), st.sampled_from([0.05, 0.1, 0.3]), st.sampled_from([None, 1, 3, 20])


def check_does_what_it_says(step, n, rows, judged, found, target):
    got, taken = rate(rows, judged, [step] if n is None else [step, TopNegatives(n)])
    assert got == pytest.approx(found.false_negative_rate)
    assert got <= target
    assert taken / (found.candidates if n is None else n * len(rows)) == pytest.approx(found.found)


@given(SEEDS, TARGETS, FIRST, st.booleans())
def test_the_margin_does_what_it_says(seed, target, n, relative):
    rows, judged = mined(seed)
    try:
        found = calibrate_margin(rows, judged, target, n=n, relative=relative)
    except ValueError as error:
        assert "no margin" in str(error)  # noqa: PT017
        return
    step = (RelativeMargin if relative else AbsoluteMargin)(found.value - 1e-9)
    check_does_what_it_says(step, n, rows, judged, found, target)


@given(SEEDS, TARGETS, FIRST)
def test_the_threshold_does_what_it_says(seed, target, n):
    rows, judged = mined(seed)
    try:
        found = calibrate_threshold(rows, judged, target, n=n, by="score")
    except ValueError as error:
        assert "no threshold" in str(error)  # noqa: PT017
        return
    check_does_what_it_says(TeacherThreshold(found.value, by="score"), n, rows, judged, found, target)


@given(SEEDS, TARGETS, st.sampled_from([None, 2]))
def test_no_higher_threshold_reaches_the_target(seed, target, n):
    rows, judged = mined(seed, queries=6, k=6)
    try:
        found = calibrate_threshold(rows, judged, target, n=n, by="score")
    except ValueError:
        return
    scores = sorted({score for scores in rows["negative_scores"] for score in scores})
    for higher in [score for score in scores if score >= found.value]:
        step = TeacherThreshold(np.nextafter(higher, 2), by="score")
        assert rate(rows, judged, [step] if n is None else [step, TopNegatives(n)])[0] > target


def test_the_first_negatives_are_false_more_often_than_all(caplog):
    rows, judged = mined(3)
    of_all = calibrate_margin(rows, judged, 0.2)
    assert "pass n=" in caplog.text
    assert calibrate_margin(rows, judged, 0.2, n=2).value > of_all.value


def test_unjudged_candidates_can_be_left_out():
    rows, _ = mined(1, queries=2, k=3)
    judged = Dataset.from_dict({"query_id": ["q0", "q0"], "corpus_id": ["p0", "p2"], "score": [1, 0]})
    assert calibrate_margin(rows, judged, 0.0, unjudged="skip").candidates == 2


def test_judgments_without_their_columns_are_refused():
    rows, _ = mined(1, queries=2, k=3)
    with pytest.raises(KeyError, match=r"judgments need the columns .*\['corpus_id', 'score'\] are missing from"):
        calibrate_margin(rows, rows.select_columns("query_id"))


# ---- what judged rows cannot tell -----------------------------------------------------------------------------------


def as_relevant(rows, passages):
    """Judge some passages relevant to each query."""
    return rows.select_columns("query_id").add_column("positive_ids", [passages] * len(rows))


@pytest.mark.parametrize(
    "calibrate",
    [calibrate_margin, lambda rows, judged, *target: calibrate_threshold(rows, judged, *target, by="score")],
)
def test_rows_whose_positives_are_all_known_are_refused(calibrate):
    rows, _ = mined(1)
    for judged in (rows, as_relevant(rows, ["x"]), as_relevant(rows, [])):
        with pytest.raises(ValueError, match=r"known positives of the rows.*hide_positives\(queries\)"):
            calibrate(rows, judged, 0.05)
    pooled = rows.add_column("known_positive_ids", [["z"]] * len(rows))
    with pytest.raises(ValueError, match="known positives of the rows"):
        calibrate(pooled, as_relevant(rows, ["x", "z"]), 0.05)
    # Hidden, and not mined: the rate is 0, and that is known.
    found = calibrate(rows, as_relevant(rows, ["x", "z"]), 0.05)
    assert (found.false_negative_rate, found.low, found.queries) == (0, 0, 30)
    assert found.high > 0.05


def test_rows_that_cannot_show_a_false_negative_are_counted(caplog):
    rows, _ = mined(1)
    judged = [["x", "y", "p0"] if place < 10 else ["x"] for place in range(30)]
    judged = rows.select_columns("query_id").add_column("positive_ids", judged)
    calibrate_margin(rows, judged, 0.3, n=3)
    assert "20 of 30 rows have no hidden relevant passage" in caplog.text
    caplog.clear()
    calibrate_margin(rows.select(range(15)), judged, 0.3, n=3)
    assert "hidden relevant" not in caplog.text


def test_without_positives_nothing_tells_what_was_hidden():
    rows, judged = mined(1)
    rows = rows.remove_columns("positive_ids")
    assert calibrate_margin(rows, judged, 0.3).false_negative_rate > 0
    with pytest.raises(ValueError, match=r"no column 'positive_ids'.*hide_positives"):
        calibrate_margin(rows, as_relevant(rows, ["z"]), 0.3)


def test_rows_of_queries_that_nobody_judged_are_left_out(caplog):
    rows, judged = mined(2)
    some = [name for name in rows["query_id"] if int(name[1:]) < 20]
    found = calibrate_margin(rows, judged.filter(lambda row: row["query_id"] in some), 0.3, n=3)
    assert "skipped 10 of 30 rows" in caplog.text
    assert found == calibrate_margin(rows.select(range(20)), judged, 0.3, n=3)


def test_other_unknowable_rows_are_refused():
    rows, judged = mined(1, queries=3, k=3)
    none = rows.remove_columns(["negative_ids", "negative_scores"])
    none = none.add_column("negative_ids", [[]] * 3).add_column("negative_scores", [[]] * 3)
    with pytest.raises(ValueError, match="the rows have no candidates"):
        calibrate_margin(none, judged)
    nan = rows.remove_columns("negative_scores").add_column("negative_scores", [[float("nan")] * 3] * 3)
    with pytest.raises(ValueError, match="'negative_scores' holds a NaN"):
        calibrate_margin(nan, judged)
    unscored = rows.remove_columns("positive_scores").add_column("positive_scores", [[]] * 3)
    with pytest.raises(ValueError, match="no candidate has a finite margin"):
        calibrate_margin(unscored, judged)
    with pytest.raises(ValueError, match=r"no query of the rows is among the \d judgments.*'q0'"):
        calibrate_margin(rows, Dataset.from_dict(judged[:] | {"query_id": ["other"] * len(judged)}))


# ---- forms of judgments ---------------------------------------------------------------------------------------------


def test_judgments_are_read_in_any_form():
    rows, judged = mined(4)
    expected = calibrate_margin(rows, judged, 0.3, n=3)
    beir = judged.rename_columns({"query_id": "query-id", "corpus_id": "corpus-id"})
    passages = judged.rename_columns({"corpus_id": "passage_id"})
    of_rows = {name: [] for name in rows["query_id"]}
    for query, passage in zip(judged["query_id"], judged["corpus_id"], strict=True):
        of_rows[query].append(passage)
    lists = Dataset.from_dict({"query_id": list(of_rows), "positive_ids": list(of_rows.values())})
    repeated = concatenate_datasets([judged, judged])
    for form in (beir, passages, lists, repeated):
        assert calibrate_margin(rows, form, 0.3, n=3) == expected
    # By text, where the rows have no ids.
    by_text = rows.rename_column("query_id", "query"), lists.rename_column("query_id", "query")
    assert calibrate_margin(*by_text, 0.3, n=3) == expected


def test_judged_negatives_of_rows_count_as_judged():
    rows, _ = mined(1, queries=2, k=3)
    judged = {"query_id": ["q0", "q1"], "positive_ids": [["p0"], []], "judged_negative_ids": [["p2"], ["p1"]]}
    assert calibrate_margin(rows, Dataset.from_dict(judged), 0.0, unjudged="skip").candidates == 3


def test_ids_that_are_numbers_are_read_as_texts():
    rows = {
        "query_id": ["1"],
        "negative_ids": [["7", "8"]],
        "negative_scores": [[0.7, 0.4]],
        "positive_scores": [[0.8]],
    }
    judged = Dataset.from_dict({"query-id": [1], "corpus-id": [7], "score": [1]})
    assert calibrate_margin(Dataset.from_dict(rows), judged, 0.0).found == 0.5


# ---- the interval ---------------------------------------------------------------------------------------------------


class World(NamedTuple):
    """Q queries with K candidates, which are false more often where they score higher, and alike within a query."""

    positives: np.ndarray  # shape (Q,)
    scores: np.ndarray  # shape (Q, K)
    relevant: np.ndarray  # shape (Q, K)

    @classmethod
    def draw(cls, rng, queries, k=20):
        hardness = rng.beta(0.6, 1.4, queries)
        scores = -np.sort(-rng.normal(0.6, 0.15, (queries, k)), axis=1)
        chances = hardness[:, None] * np.clip((scores - 0.3) / 0.6, 0, 1)
        return cls(rng.normal(0.75, 0.1, queries), scores, rng.random((queries, k)) < chances)

    def rows(self):
        names, k = [f"q{i}" for i in range(len(self.scores))], self.scores.shape[1]
        rows = {"query_id": names, "positive_ids": [["p"]] * len(names), "negative_ids": [list(IDS[:k])] * len(names)}
        rows |= {"positive_scores": self.positives[:, None].tolist(), "negative_scores": self.scores.tolist()}
        judged = [["p", *IDS[:k][mask]] for mask in self.relevant]
        return Dataset.from_dict(rows), Dataset.from_dict({"query_id": names, "positive_ids": judged})

    def rate(self, margin, n):
        """Return the share of relevant ones among the first n candidates below the margin."""
        kept = self.scores <= self.positives[:, None] - margin
        kept &= np.cumsum(kept, axis=1) <= n
        return self.relevant[kept].mean()


IDS = np.array([f"p{j}" for j in range(20)], dtype=object)


@pytest.mark.parametrize(("queries", "target"), [(60, 0.1), (120, 0.05)])
def test_the_interval_holds_on_other_queries(queries, target):
    rng = np.random.default_rng(1)
    truth = World.draw(rng, 20_000)
    draws, missed_truth, missed_half = 0, 0, 0
    for _ in range(60):
        half, other = World.draw(rng, queries), World.draw(rng, queries)
        try:
            found = calibrate_margin(*half.rows(), target, n=5, relative=False)
        except ValueError:
            continue
        draws += 1
        assert found.false_negative_rate <= target
        # The limit of the step is rounded, which can drop a candidate at it.
        assert half.rate(found.value - 1e-9, 5) == pytest.approx(found.false_negative_rate)
        missed_truth += not found.low <= truth.rate(found.value, 5) <= found.high
        missed_half += not found.low <= other.rate(found.value, 5) <= found.high
    assert draws > 50
    assert missed_truth <= 0.05 * draws
    assert missed_half <= 0.08 * draws


def test_what_cannot_be_reached_is_told():
    rows, _ = mined(1, queries=1, k=2)
    judged = Dataset.from_dict({"query_id": ["q0", "q0"], "corpus_id": ["p0", "p1"], "score": [1, 1]})
    with pytest.raises(ValueError, match=r"the lowest possible share is 1\.000"):
        calibrate_margin(rows, judged, 0.1)
    other = Dataset.from_dict({"query_id": ["z"], "corpus_id": ["p0"], "score": [1]})
    with pytest.raises(ValueError, match="none of the candidates is judged"):
        calibrate_margin(rows, other, unjudged="skip")
    unmined = Dataset.from_dict({"query_id": ["q0"], "corpus_id": ["z"], "score": [1]})
    with pytest.raises(ValueError, match="none of the candidates is judged"):
        calibrate_margin(rows, unmined, unjudged="skip")
