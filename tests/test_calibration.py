import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import AbsoluteMargin, RelativeMargin, calibrate_margin


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
    judged = {"query_id": [q for q, _ in pairs], "corpus_id": [p for _, p in pairs], "score": [1] * len(pairs)}
    return rows, Dataset.from_dict(judged)


def rate(rows, judged):
    relevant = set(zip(judged["query_id"], judged["corpus_id"], strict=True))
    kept = [(row["query_id"], passage) for row in rows for passage in row["negative_ids"]]
    return sum(pair in relevant for pair in kept) / max(1, len(kept)), len(kept)


@given(st.integers(0, 40), st.sampled_from([0.05, 0.1]), st.booleans())
def test_the_margin_does_what_it_says(seed, target, relative):
    rows, judged = mined(seed)
    try:
        found = calibrate_margin(rows, judged, target, relative=relative)
    except ValueError as error:
        assert "no margin" in str(error)  # noqa: PT017
        return
    step = (RelativeMargin if relative else AbsoluteMargin)(found.margin - 1e-9)
    got, kept = rate(rows.map(step, batched=True), judged)
    assert got == pytest.approx(found.false_negative_rate)
    assert got <= target
    assert kept / found.candidates == pytest.approx(found.kept)


def test_unjudged_candidates_can_be_left_out():
    rows, _ = mined(1, queries=2, k=3)
    judged = Dataset.from_dict({"query_id": ["q0", "q0"], "corpus_id": ["p0", "p2"], "score": [1, 0]})
    assert calibrate_margin(rows, judged, 0.0, unjudged="skip").candidates == 2


def test_what_cannot_be_reached_is_told():
    rows, _ = mined(1, queries=1, k=2)
    judged = Dataset.from_dict({"query_id": ["q0", "q0"], "corpus_id": ["p0", "p1"], "score": [1, 1]})
    with pytest.raises(ValueError, match=r"the lowest is 1\.000"):
        calibrate_margin(rows, judged, 0.1)
    other = Dataset.from_dict({"query_id": ["z"], "corpus_id": ["p0"], "score": [1]})
    with pytest.raises(ValueError, match="none of the candidates is judged"):
        calibrate_margin(rows, other, unjudged="skip")
