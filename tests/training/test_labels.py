"""What the label column carries from the rows to the loss, and how another label is told from it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.training.labels import PADDING, pack, unpack

KEYS = st.one_of(
    st.integers(0, 5), st.integers(2**53, 2**53 + 9), st.integers(2**63 - 9, 2**63 - 1), st.integers(0, 2**63 - 1)
)
SCORES = st.one_of(
    st.floats(width=32), st.sampled_from([-0.0, 0.0, -1.5, 1e-45, -1e-45, 3.4e38, float("nan"), float("-inf")])
)


@st.composite
def packed(draw):
    """Rows as `pack` takes them."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))

    def table(of):
        return st.lists(st.lists(of, min_size=columns, max_size=columns), min_size=rows, max_size=rows)

    passages = draw(table(st.one_of(KEYS, st.just(PADDING))))
    known = [draw(st.lists(KEYS, max_size=4)) for _ in range(rows)]
    most = max(map(len, known)) + draw(st.integers(0, 2))
    scores = draw(st.none() | table(SCORES))
    return (
        np.array(passages, dtype=np.int64),
        known,
        most,
        None if scores is None else np.array(scores, dtype=np.float32),
    )


def ragged(lists):
    flat = np.array([value for one in lists for value in one], dtype=np.int64)
    return Ragged(offsets_of(np.array([len(one) for one in lists])), flat)


def collated(labels):
    """The tensor that the stock collator makes of a batch."""
    return torch.tensor([row["label"] for row in [{"label": one} for one in labels.tolist()]])


@given(packed())
def test_what_is_packed_comes_out(case):
    passages, known, most, scores = case
    labels = collated(pack(passages, ragged(known), most, scores))
    assert labels.dtype == torch.int64
    got = unpack(labels, passages.shape[1])
    assert got.passages.tolist() == passages.tolist()
    # An even width is what embeddings have, and what is cut to it.
    assert labels.shape[1] % 2 == 1
    room = got.positives.shape[1]
    assert room in (most, most + 1)
    assert got.positives.tolist() == [one + [PADDING] * (room - len(one)) for one in known]
    if scores is None:
        assert got.scores is None
    else:
        assert got.scores.dtype == torch.float32
        # To the bit: zeros keep their sign, and the smallest numbers their value.
        assert got.scores.numpy().view(np.int32).tolist() == scores.view(np.int32).tolist()


@given(packed(), st.data())
def test_part_of_a_batch_is_the_batch_of_a_part(case, data):
    passages, known, most, scores = case
    some = data.draw(st.lists(st.integers(0, len(passages) - 1), min_size=1, max_size=5))
    whole = unpack(collated(pack(passages, ragged(known), most, scores)[some]), passages.shape[1])
    part = unpack(
        collated(
            pack(passages[some], ragged([known[i] for i in some]), most, None if scores is None else scores[some])
        ),
        passages.shape[1],
    )
    assert whole.passages.equal(part.passages)
    assert whole.positives.equal(part.positives)
    assert (whole.scores is None) == (part.scores is None)


def some_labels(columns=3, scores=False):
    passages = np.arange(2 * columns).reshape(2, columns)
    values = np.ones((2, columns), dtype=np.float32) if scores else None
    return collated(pack(passages, ragged([[0], [columns, 1]]), 2, values))


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(torch.zeros(2), id="floats-1-D"),
        pytest.param(torch.zeros(2, dtype=torch.int64), id="zeros-1-D"),
        pytest.param(torch.zeros(2, 6, dtype=torch.int64), id="zeros"),
        pytest.param(torch.ones(2, 6, dtype=torch.bool), id="booleans"),
        pytest.param(torch.rand(2, 6), id="scores"),
        pytest.param(some_labels().double(), id="keys-as-floats"),
        pytest.param(some_labels()[0], id="one-row"),
        pytest.param(some_labels()[None], id="3-D"),
        pytest.param(some_labels()[:0], id="no-row"),
        pytest.param(some_labels()[:, 1:], id="without-header"),
        pytest.param(-some_labels(), id="negative"),
        pytest.param(torch.full((2, 6), PADDING), id="padding"),
    ],
)
def test_other_labels_are_told_from_these(labels):
    with pytest.raises(ValueError, match="live_negatives"):
        unpack(labels, 3)


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("columns", [1, 2, 4])
def test_labels_of_another_number_of_negatives(columns, scores):
    with pytest.raises(ValueError, match=f"3 passages per row.* {columns} text columns.*live_negatives"):
        unpack(some_labels(scores=scores), columns)


@pytest.mark.parametrize("scores", [False, True])
def test_labels_that_were_cut_are_refused(scores):
    # MatryoshkaLoss cuts labels that are as wide as the embeddings.
    labels = some_labels(scores=scores)
    for width in range(1, labels.shape[1]):
        with pytest.raises(ValueError, match="label"):
            unpack(labels[:, :width], 3)
