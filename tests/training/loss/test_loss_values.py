"""The loss against the stock loss and a slow one."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_helpers import (
    DIRECTIONS,
    HARDNESS,
    PARTITIONS,
    Row,
    assert_same,
    assert_same_training,
    batches,
    check_any,
    counted,
    denominators,
    distinct_rows,
    embedded,
    features_of,
    labels_of,
    parameter_gradients,
    partitions_with_queries,
    texts_of,
    toy,
    two_rows,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import cos_sim, dot_score

from hnm_datasets.training.labels import PADDING
from hnm_datasets.training.loss import CachedHardNegativesRankingLoss, HardNegativesRankingLoss

pytestmark = pytest.mark.usefixtures("fast_trainers")


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize(("similarity_fct", "scale"), [(cos_sim, 20.0), (dot_score, 0.3)])
def test_it_is_the_stock_loss_where_nothing_is_known(columns, similarity_fct, scale):
    model, nothing_to_mask = toy(), labels_of(distinct_rows(5, columns), most=4)
    for (directions, mode), (hardness, strength) in itertools.product(PARTITIONS, HARDNESS):
        options = {
            "scale": scale,
            "similarity_fct": similarity_fct,
            "directions": directions,
            "partition_mode": mode,
            "hardness_mode": hardness,
            "hardness_strength": strength,
        }
        embeddings = embedded(5, columns, seed=columns)
        stock = MultipleNegativesRankingLoss(model, **options).compute_loss_from_embeddings(embeddings, None)
        loss = HardNegativesRankingLoss(model, **options)
        for labels in (None, nothing_to_mask):
            assert_same(loss.compute_loss_from_embeddings(embeddings, labels), stock, embeddings)


@pytest.mark.parametrize("labeled", [False, True])
@pytest.mark.parametrize("options", [{}, {"directions": DIRECTIONS[-1], "hardness_mode": "all_negatives"}])
def test_models_learn_what_the_stock_losses_teach(make_tiny, options, labeled):
    labels = labels_of(distinct_rows(4, 3)) if labeled else None
    options = options | {"hardness_strength": 2.0}
    for model in (toy(), make_tiny()):
        features = features_of(model, texts_of(4, 3))
        wanted = parameter_gradients(MultipleNegativesRankingLoss(model, **options), model, features, None)
        loss = HardNegativesRankingLoss(model, **options)
        assert_same_training(parameter_gradients(loss, model, features, labels), wanted)
    wanted = parameter_gradients(CachedMultipleNegativesRankingLoss(model, **options), model, features, None)
    cached = CachedHardNegativesRankingLoss(model, mini_batch_size=3, **options)
    assert_same_training(parameter_gradients(cached, model, features, labels), wanted)


def test_single_precision_is_kept():
    embeddings = [column.detach().float().requires_grad_() for column in embedded(4, 3, seed=1)]
    stock = MultipleNegativesRankingLoss(toy()).compute_loss_from_embeddings(embeddings, None)
    got = HardNegativesRankingLoss(toy()).compute_loss_from_embeddings(embeddings, labels_of(distinct_rows(4, 3)))
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(stock.item(), abs=1e-6)


@settings(max_examples=150)
@given(st.data())
def test_it_is_the_slow_loss(data):
    check_any(data, partitions_with_queries(kept=False))


@settings(max_examples=80)
@given(st.data())
def test_it_is_the_slow_loss_between_queries_too(data):
    check_any(data, partitions_with_queries(kept=True))


@settings(max_examples=25)
@given(batches(), st.integers(1, 7))
def test_each_turn_over_some_rows_is_part_of_the_whole(batch, turn):
    rows, embeddings = batch
    loss = HardNegativesRankingLoss(toy(), directions=DIRECTIONS[-1], margin=-0.1, likely_weight=0.5)
    labels = labels_of(rows)
    whole = loss._loss(embeddings, labels, None)
    logged = counted(loss)
    assert_same(loss._loss(embeddings, labels, None, turn), whole, embeddings)
    assert counted(loss) == pytest.approx(logged)


@pytest.mark.parametrize(
    ("rows", "product"),
    [
        pytest.param(two_rows(), 4 * 4, id="nothing"),
        pytest.param(two_rows(known=(0, 2)), 3 * 4, id="other-row's-positive"),
        pytest.param(two_rows(known=(0, 3)), 3 * 4, id="other-row's-negative"),
        pytest.param(two_rows(known=(0, 1)), 3 * 4, id="own-negative"),
        pytest.param(two_rows(known=(0, 1, 2, 3)), 1 * 4, id="all"),
        pytest.param(two_rows(known=(0, 7, 8)), 4 * 4, id="elsewhere"),
        pytest.param(two_rows(second=(2, 0)), 3 * 4, id="duplicate-in-the-batch"),
        pytest.param(two_rows(second=(0, 3)), 3 * 3, id="same-positive"),
        pytest.param(two_rows(second=(2, PADDING)), 3 * 3, id="padding"),
        pytest.param([Row([0, 0], {0}), Row([2, 3], {2})], 3 * 4, id="duplicate-among-the-mined"),
        pytest.param([Row([0, PADDING], {0}), Row([0, PADDING], {0})], 1 * 1, id="positive-alone"),
    ],
)
def test_what_a_query_is_compared_with(rows, product):
    assert denominators(rows) == product


def test_queries_of_one_positive_are_not_pushed_apart():
    # The known positives overlap in passages that are no row's positive.
    rows = [Row([0], {0, 9}), Row([1], {1, 9})]
    assert denominators(rows, directions=("query_to_doc", "query_to_query")) == 2 * 2


def test_queries_are_left_alone_in_both_directions():
    # The second query knows the first's positive; not so the first the second's.
    rows = [Row([0], {0}), Row([1], {0, 1})]
    # Passages: the first has both, the second its own. Queries: they share a positive, so neither has the other.
    assert denominators(rows, directions=("query_to_doc", "query_to_query")) == 2 * 1


def test_doc_to_query_leaves_out_queries_that_the_positive_answers():
    rows = [Row([0], {0}), Row([1], {0, 1})]
    # The first's positive: its query alone. The second's: both queries.
    assert denominators(rows, directions=("query_to_doc", "doc_to_query")) == (2 + 1) * (1 + 2)


def test_likely_passages_count_by_their_weight():
    rows = [Row([0, 1], {0})]
    query, positive, negative = torch.eye(3, dtype=torch.float64)[0], torch.zeros(3).double(), torch.ones(3).double()
    embeddings = [one[None] for one in (query, positive, negative)]
    options = {"similarity_fct": dot_score, "scale": 1.0}
    for margin, weight, wanted in [
        (None, 0.0, 1 + np.e),
        (0.9, 0.0, 1.0),
        (1.0, 0.0, 1 + np.e),
        (0.9, 0.25, 1 + np.e / 4),
    ]:
        loss = HardNegativesRankingLoss(toy(), margin=margin, likely_weight=weight, **options)
        got = loss.compute_loss_from_embeddings(embeddings, labels_of(rows))
        assert got.item() == pytest.approx(np.log(wanted), abs=1e-12)
        # Without labels it is the same: margin needs none.
        assert loss.compute_loss_from_embeddings(embeddings, None).item() == got.item()


def test_distillation_is_the_divergence_from_the_teacher():
    torch.manual_seed(0)
    rows = [Row([0, 1, 2], {0}, [1.0, 0.5, -2.0]), Row([3, 4, 5], {3}, [0.0, 3.0, 1.0])]
    embeddings = embedded(2, 3, seed=3)
    student = torch.stack([cos_sim(embeddings[0], docs).diagonal() for docs in embeddings[1:]], dim=1) * 20
    teacher = torch.tensor([row.scores for row in rows]).double() / 2
    divergence = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
    stock = MultipleNegativesRankingLoss(toy()).compute_loss_from_embeddings(embeddings, None)
    loss = HardNegativesRankingLoss(toy(), distill_weight=0.4, teacher_temperature=2.0)
    got = loss.compute_loss_from_embeddings(embeddings, labels_of(rows))
    assert_same(got, stock + 0.4 * divergence, embeddings)
