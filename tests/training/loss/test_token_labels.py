"""Rows without labels: what the batch itself tells."""

import pytest
import torch
from loss_helpers import features_of, parameter_gradients, toy

from hnm_datasets.training.labels import PADDING
from hnm_datasets.training.loss import CachedHardNegativesRankingLoss, HardNegativesRankingLoss
from hnm_datasets.training.token_labels import token_labels

pytestmark = pytest.mark.usefixtures("fast_trainers")
QUERIES = ["af ag", "bf", "af ag", "af  ag", "ag af"]
POSITIVES = ["cf", "cg", "ch", "cf", "ci"]
NEGATIVES = ["df df df", "df", "cf", "dg ch", "ch"]


@pytest.fixture(params=["static", "transformer"])
def model(request, make_tiny):
    return toy() if request.param == "static" else make_tiny()


def allowed(row):
    """The passages of the batch that a row's loss counts, its own positive first."""
    same = [other for other in range(5) if QUERIES[other].split() == QUERIES[row].split()]
    known = {POSITIVES[other] for other in same}
    passages = [*POSITIVES, *NEGATIVES]
    return [row, *(place for place in range(10) if place != row and passages[place] not in known)]


def slow_loss(model, texts):
    queries, *columns = (model(features)["sentence_embedding"] for features in features_of(model, texts))
    queries, passages = (torch.nn.functional.normalize(one, dim=1) for one in (queries, torch.cat(columns)))
    logits = 20 * queries @ passages.T
    return torch.stack([torch.logsumexp(logits[row, allowed(row)], 0) - logits[row, row] for row in range(5)]).mean()


def test_rows_of_one_query_mask_each_other_s_positives(model):
    texts = [QUERIES, POSITIVES, NEGATIVES]
    loss = HardNegativesRankingLoss(model.eval(), log_masked=False)
    found = loss(features_of(model, texts), None)
    torch.testing.assert_close(found, slow_loss(model, texts))


def test_cached_gradients_are_the_same(make_tiny):
    model = make_tiny()
    features = features_of(model, [QUERIES, POSITIVES, NEGATIVES])
    value, gradients = parameter_gradients(HardNegativesRankingLoss(model, log_masked=False), model, features, None)
    cached = CachedHardNegativesRankingLoss(model, mini_batch_size=2, log_masked=False)
    cached_value, cached_gradients = parameter_gradients(cached, model, features, None)
    assert cached_value == pytest.approx(value)
    for name, gradient in gradients.items():
        torch.testing.assert_close(cached_gradients[name], gradient)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_matter(make_tiny, side):
    model = make_tiny()
    model.tokenizer.padding_side = side
    try:
        short = token_labels(features_of(model, [["af"], ["cf"]]))
        long = token_labels(features_of(model, [["af", "a b c d e"], ["cf", "a b c d e"]]))
    finally:
        model.tokenizer.padding_side = "right"
    assert short.passages[0].tolist() == long.passages[0].tolist()


def test_keys_depend_on_every_token_and_its_place(model):
    texts = ["af", "ag", "af af", "af ag", "ag af", "af ag af", "ag af af", "bf bf bf", "bf bf"]
    keys = token_labels(features_of(model, [texts, texts])).passages[:, 0]
    assert len(keys.unique()) == len(texts)
    assert (keys > PADDING).all()


def test_of_other_inputs_nothing_is_known():
    ids = {"input_ids": torch.ones(2, 3, dtype=torch.int64), "attention_mask": torch.ones(2, 3, dtype=torch.int64)}
    assert token_labels([ids, ids]) is not None
    assert token_labels([ids, ids | {"pixel_values": torch.ones(2, 3)}]) is None
    assert token_labels([ids, {"sentence_embedding": torch.ones(2, 3)}]) is None
    assert token_labels([ids]) is None
