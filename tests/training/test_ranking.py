"""The mathematics of the ranking loss, without a model: value and gradient against a loop."""

import numpy as np
import pytest
import torch

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.training.labels import PADDING, pack
from hnm_datasets.training.ranking import RankingBatch, RankingRows
from hnm_datasets.training.ranking_options import RankingOptions

SIZE, DIMENSION = 4, 6


def dot(a, b):
    return a @ b.T


def embeddings():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SIZE, DIMENSION, generator=generator, requires_grad=True) for _ in range(3)]


def labels_of(passages, positives):
    lists = Ragged(np.cumsum([0, *map(len, positives)]), np.concatenate(positives).astype(np.int64))
    return torch.from_numpy(pack(np.array(passages), lists, max(map(len, positives)), None))


def losses_of(options, columns, labels):
    batch = RankingBatch(options, columns, labels, None)
    return RankingRows(options, batch, batch.rows).losses()


def losses_by_loop(columns, passages, positives, options):
    """Score each query against all passages of the batch, leaving known positives and padding out."""
    queries, docs = columns[0], columns[1:]
    losses = []
    for row in range(SIZE):
        own, others = docs[0][row] @ queries[row] * options.scale, []
        for column, doc in enumerate(docs):
            for other in range(SIZE):
                key, is_own = passages[other][column], other == row
                hidden = key == PADDING or key in positives[row] or (not options.in_batch and not is_own)
                score = doc[other] @ queries[row] * options.scale
                likely = options.margin is not None and score / options.scale > own / options.scale + options.margin
                if (column == 0 and is_own) or not (hidden or likely):
                    others.append(score)
        losses.append(torch.logsumexp(torch.stack(others), dim=0) - own)
    return torch.stack(losses)


@pytest.mark.parametrize(
    "options",
    [
        RankingOptions(scale=2.0, similarity_fct=dot),
        RankingOptions(scale=0.5, similarity_fct=dot, in_batch=False),
        RankingOptions(scale=1.0, similarity_fct=dot, margin=0.3),
        RankingOptions(scale=1.0, similarity_fct=dot, margin=0.5, in_batch=False),
    ],
)
def test_values_and_gradients_are_those_of_a_loop(options):
    passages = [[10, 20], [11, 10], [12, PADDING], [13, 21]]
    positives = [[10, 21], [11], [12, 13], [13]]
    fast, slow = embeddings(), embeddings()
    found = losses_of(options, fast, labels_of(passages, positives))
    expected = losses_by_loop(slow, passages, positives, options)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_without_labels_nothing_is_masked():
    options = RankingOptions(scale=2.0, similarity_fct=dot)
    fast, slow = embeddings(), embeddings()
    apart = [[row, SIZE + row] for row in range(SIZE)]
    expected = losses_by_loop(slow, apart, [[row] for row in range(SIZE)], options)
    torch.testing.assert_close(losses_of(options, fast, None), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"likely_weight": 1.0, "margin": 0.1}, "likely_weight must be at least 0 and less than 1, got 1"),
        ({"likely_weight": 0.5}, "likely_weight needs a margin"),
        ({"distill_weight": -1.0}, "distill_weight must not be negative"),
        (
            {"in_batch": False, "directions": ("query_to_doc", "doc_to_doc")},
            "in_batch=False supports only the direction",
        ),
        ({"in_batch": False, "hardness_mode": "in_batch_negatives"}, "has no effect with in_batch=False"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RankingOptions(**options)
