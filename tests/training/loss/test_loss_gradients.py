"""Guides and cached gradients."""

import numpy as np
import pytest
import torch
from loss_helpers import (
    CACHED,
    ROUNDED,
    WORDS,
    Slow,
    assert_same_training,
    collided_rows,
    counted,
    encoded,
    features_of,
    guides,
    labels_of,
    parameter_gradients,
    shares,
    texts_of,
    toy,
)
from sentence_transformers.base.losses.gradcache import _create_minibatch

from hnm_datasets.training.loss import CachedHardNegativesRankingLoss, HardNegativesRankingLoss

pytestmark = pytest.mark.usefixtures("fast_trainers")


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("margin", [-0.2, 0.0, 0.2])
def test_the_margin_goes_by_the_guide(make_tiny, place, margin):
    student, guide = guides(make_tiny)[place]
    texts = texts_of(5, 3, seed=place)
    rows = collided_rows(5, 3, seed=place)
    slow = Slow(margin=margin, likely_weight=0.3, hardness_mode="all_negatives", hardness_strength=2.0)
    loss = HardNegativesRankingLoss(student, guide=guide, **slow.options)
    before = [weights.clone() for weights in guide.parameters()]
    features = features_of(student, texts)
    answer = loss(features, labels_of(rows))
    embeddings = encoded(student, texts)
    wanted, counts = slow(embeddings, rows, encoded(guide, texts))
    by_itself, _ = slow(embeddings, rows)
    assert answer.item() == pytest.approx(wanted.item(), abs=1e-9)
    assert counted(loss) == pytest.approx(shares(counts))
    if place < 2:
        assert abs(wanted.item() - by_itself.item()) > 1e-3
    answer.backward()
    assert all(weights.grad is None for weights in guide.parameters())
    assert all(weights.equal(own) for weights, own in zip(guide.parameters(), before, strict=True))
    assert {id(weights) for weights in loss.parameters()} == {id(weights) for weights in student.parameters()}


def test_a_guide_is_asked_without_dropout(make_tiny):
    # A model that was trained is in training mode still.
    guide = make_tiny(dropout=0.5).train()
    loss = HardNegativesRankingLoss(make_tiny(), margin=0.0, guide=guide)
    texts = texts_of(5, 3)
    one, other = (loss._guided(features_of(loss.model, texts)) for _ in range(2))
    assert all(column.equal(again) for column, again in zip(one, other, strict=True))


@pytest.mark.parametrize("name", CACHED)
def test_cached_gradients_are_the_gradients(make_tiny, name):
    options = CACHED[name] | ({"guide": toy(seed=5)} if name == "guide" else {})
    model = make_tiny()
    features = features_of(model, texts_of(7, 3))
    labels = labels_of(collided_rows(7, 3, seed=1, scores=True))
    plain = HardNegativesRankingLoss(model, **options)
    wanted = parameter_gradients(plain, model, features, labels)
    logged = counted(plain)
    for size in (1, 3, 100):
        cached = CachedHardNegativesRankingLoss(model, mini_batch_size=size, **options)
        assert_same_training(parameter_gradients(cached, model, features, labels), wanted, atol=ROUNDED)
        assert counted(cached) == pytest.approx(logged)
        with torch.no_grad():
            assert cached(features, labels).item() == pytest.approx(wanted[0], abs=1e-9)
    by_tokens = CachedHardNegativesRankingLoss(model, mini_batch_num_tokens=20, **options)
    assert_same_training(parameter_gradients(by_tokens, model, features, labels), wanted, atol=ROUNDED)


@pytest.mark.parametrize("size", [2, 100])
def test_both_passes_drop_the_same(make_tiny, size):
    model = make_tiny(dropout=0.2)
    random = np.random.default_rng(0)
    # Texts of one length, which make batches of one width however they are cut.
    texts = [[" ".join(random.choice(WORDS, 3)) for _ in range(4)] for _ in range(3)]
    features = features_of(model, texts)
    labels = labels_of(collided_rows(4, 2, seed=2))
    cached = CachedHardNegativesRankingLoss(model, mini_batch_size=size)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(parameter_gradients(cached, model, features, labels))
    assert_same_training(*results, atol=0)
    # What one pass with gradients, that drops the same, comes to.
    torch.manual_seed(3)
    embeddings = []
    for column in features:
        cuts = [_create_minibatch(column, start, start + size) for start in range(0, 4, size)]
        embeddings.append(torch.cat([model(cut)["sentence_embedding"] for cut in cuts]))
    model.zero_grad()
    value = HardNegativesRankingLoss(model).compute_loss_from_embeddings(embeddings, labels)
    value.backward()
    own = {name: weights.grad for name, weights in model.named_parameters() if weights.grad is not None}
    assert_same_training(results[0], (value.item(), own), atol=ROUNDED)
