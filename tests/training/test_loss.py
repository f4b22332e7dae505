"""The ranking losses against the stock loss, and against a slow one that goes by its words."""

import itertools
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.losses.gradcache import _create_minibatch
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from sentence_transformers.util import cos_sim, dot_score
from tokenizers import Tokenizer, models, pre_tokenizers

from hnm_datasets import BM25Negatives, load_sample
from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.training.labels import PADDING, pack, unpack
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import CachedHardNegativesRankingLoss, HardNegativesRankingLoss

pytestmark = pytest.mark.usefixtures("fast_trainers")


# ---- batches ---------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """What is known of a row: its passages' keys, the positive's first; its query's known positives; scores."""

    passages: list
    known: set
    scores: list | None = None


def labels_of(rows, most=None):
    """The labels of rows, as a tensor of the collator's."""
    known = [sorted(row.known) for row in rows]
    lengths = np.array([len(one) for one in known])
    flat = np.array([key for one in known for key in one], dtype=np.int64)
    scores = None if rows[0].scores is None else np.array([row.scores for row in rows], dtype=np.float32)
    passages = np.array([row.passages for row in rows], dtype=np.int64)
    table = pack(passages, Ragged(offsets_of(lengths), flat), most or lengths.max(), scores)
    return torch.tensor(table.tolist())


def rows_of(labels, n_passages):
    """The rows that labels tell of."""
    known = unpack(labels, n_passages)
    scores = [None] * len(labels) if known.scores is None else known.scores.tolist()
    return [
        Row(passages, set(positives) - {PADDING}, score)
        for passages, positives, score in zip(known.passages.tolist(), known.positives.tolist(), scores, strict=True)
    ]


def embedded(rows, columns, seed, dimension=3):
    """Random embeddings of each text column."""
    random = torch.Generator().manual_seed(seed)
    return [
        torch.randn(rows, dimension, generator=random, dtype=torch.float64).requires_grad_() for _ in range(1 + columns)
    ]


@st.composite
def batches(draw, scores=None):
    """Rows with keys from a range so small that they collide, padding among them."""
    size, columns = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    top = draw(st.integers(1, 9))
    key = st.integers(0, top)
    with_scores = draw(st.booleans()) if scores is None else scores
    rows = []
    for _ in range(size):
        positive = draw(key)
        negatives = st.lists(st.one_of(key, key, st.just(PADDING)), min_size=columns - 1, max_size=columns - 1)
        teacher = st.lists(st.floats(-4, 4, width=32), min_size=columns, max_size=columns)
        rows.append(
            Row(
                [positive, *draw(negatives)],
                {positive} | draw(st.sets(key, max_size=3)),
                draw(teacher) if with_scores else None,
            )
        )
    return rows, embedded(size, columns, draw(st.integers(0, 2**31)))


# ---- the slow loss ---------------------------------------------------------------------------------------------------


def cosine(one, other):
    return (one / one.norm()) @ (other / other.norm())


def dot(one, other):
    return one @ other


SIMILARITIES = {cosine: cos_sim, dot: dot_score}
DIRECTIONS = [
    ("query_to_doc", *others)
    for size in range(4)
    for others in itertools.combinations(("query_to_query", "doc_to_query", "doc_to_doc"), size)
]


def ask_the_same(row, other):
    """Tell whether the queries of two rows share a known positive."""
    return bool(row.known & other.known)


@dataclass
class Slow:
    """The loss by its words, one pair after another. Options as those of the loss."""

    scale: float = 20.0
    similarity: object = cosine
    directions: tuple = ("query_to_doc",)
    partition_mode: str = "joint"
    hardness_mode: str | None = None
    hardness_strength: float = 0.0
    in_batch: bool = True
    margin: float | None = None
    likely_weight: float = 0.0
    distill_weight: float = 0.0
    teacher_temperature: float = 1.0

    @property
    def options(self):
        options = vars(self) | {"similarity_fct": SIMILARITIES[self.similarity]}
        del options["similarity"]
        return options

    def __call__(self, embeddings, rows, guided=None):
        """Return the loss, and the counts of passages by kind and of those masked."""
        queries, docs = embeddings[0], embeddings[1:]
        guided = guided or [column.detach() for column in embeddings]
        counts = dict.fromkeys(("in_batch", "mined", "masked_in_batch", "masked_mined"), 0)
        losses = []
        for i, row in enumerate(rows):
            positive = self.similarity(queries[i], docs[0][i]) * self.scale
            sums = {name: [] for name in self.directions}
            sums["query_to_doc"].append(positive)
            limit = self.similarity(guided[0][i], guided[1][i]) + (self.margin or 0)
            for column, j in itertools.product(range(len(docs)), range(len(rows))):
                key, own = rows[j].passages[column], i == j
                if key == PADDING or (own and column == 0):
                    continue
                if not own and not self.in_batch:
                    continue
                kind = "mined" if own else "in_batch"
                counts[kind] += 1
                if key in row.known:
                    counts[f"masked_{kind}"] += 1
                    continue
                plain = self.similarity(queries[i], docs[column][j])
                logit = plain * self.scale
                if self.hardness_mode in ("all_negatives", {"mined": "hard_negatives"}.get(kind, "in_batch_negatives")):
                    logit = logit + self.hardness_strength * plain.detach()
                if self.margin is not None and self.similarity(guided[0][i], guided[1 + column][j]) > limit:
                    counts[f"masked_{kind}"] += 1
                    if not self.likely_weight:
                        continue
                    logit = logit + np.log(self.likely_weight)
                sums["query_to_doc"].append(logit)
            self._compare_with_others(embeddings, rows, i, sums)
            losses.append(self._normalizer(list(sums.values())) - positive)
            if self.distill_weight:
                losses[-1] = losses[-1] + self.distill_weight * self._divergence(queries[i], docs, i, row)
        return torch.stack(losses).mean(), counts

    def _compare_with_others(self, embeddings, rows, i, sums):
        queries, docs, row = embeddings[0], embeddings[1:], rows[i]
        for j, other in enumerate(rows):
            if "query_to_query" in sums and j != i and not ask_the_same(row, other):
                sums["query_to_query"].append(self.similarity(queries[i], queries[j]) * self.scale)
            if "doc_to_query" in sums and (j == i or row.passages[0] not in other.known):
                sums["doc_to_query"].append(self.similarity(queries[j], docs[0][i]) * self.scale)
            for column, key in enumerate(other.passages):
                if "doc_to_doc" in sums and j != i and key != PADDING and key not in row.known:
                    sums["doc_to_doc"].append(self.similarity(docs[column][j], docs[0][i]) * self.scale)

    def _normalizer(self, sums):
        if self.partition_mode == "joint":
            sums = [list(itertools.chain(*sums))]
        return torch.stack([torch.stack(one).exp().sum().log() for one in sums]).mean()

    def _divergence(self, query, docs, i, row):
        there = [column for column, key in enumerate(row.passages) if key != PADDING]
        student = torch.stack([self.similarity(query, docs[column][i]) * self.scale for column in there])
        teacher = torch.tensor([row.scores[column] for column in there], dtype=student.dtype) / self.teacher_temperature
        return F.kl_div(student.log_softmax(0), teacher.log_softmax(0), reduction="sum", log_target=True)


def shares(counts):
    return {
        f"masked_{kind}": counts[f"masked_{kind}"] / max(counts[kind], 1)
        for kind in ("in_batch", "mined")
        if f"masked_{kind}" in counts
    }


def with_gradients(loss, embeddings):
    return loss.item(), torch.autograd.grad(loss, embeddings, retain_graph=True, materialize_grads=True)


def assert_same(got, wanted, embeddings, atol=1e-9):
    (value, gradients), (own_value, own_gradients) = (with_gradients(loss, embeddings) for loss in (got, wanted))
    assert np.isfinite(value)
    assert value == pytest.approx(own_value, rel=1e-9, abs=atol)
    for gradient, own in zip(gradients, own_gradients, strict=True):
        np.testing.assert_allclose(gradient.numpy(), own.numpy(), rtol=1e-9, atol=atol)


def check(slow, rows, embeddings):
    """Compare the loss with the slow one: value, gradients and what is logged."""
    loss = HardNegativesRankingLoss(toy(), **slow.options)
    labels = labels_of(rows)
    got = loss.compute_loss_from_embeddings(embeddings, labels)
    wanted, counts = slow(embeddings, rows)
    assert_same(got, wanted, embeddings)
    logged = {name: value.item() for name, value in loss._answer(got, labels).items()}
    expected = shares(counts)
    if not slow.in_batch:
        del expected["masked_in_batch"]
    assert {name: logged[name] for name in expected} == pytest.approx(expected)
    assert logged.keys() - expected.keys() == ({"ranking", "distillation"} if slow.distill_weight else set())
    if slow.distill_weight:
        assert logged["ranking"] + logged["distillation"] == pytest.approx(got.item(), rel=1e-6, abs=1e-6)


# ---- models ----------------------------------------------------------------------------------------------------------

WORDS = [letter + other for letter in "abcde" for other in "fghij"]


def toy(seed=0, dimension=4, extra=()):
    """A model of static embeddings of a few words, in doubles."""
    words = [*WORDS, *extra]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="af"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = torch.randn(len(words), dimension, generator=torch.Generator().manual_seed(seed))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")
    return model.double()


@pytest.fixture(scope="module")
def make_tiny(tmp_path_factory):
    """Make a transformer of random weights, always the same, in doubles."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folders = {}

    def make(dropout=0.0):
        if dropout not in folders:
            folder = folders[dropout] = tmp_path_factory.mktemp("tiny")
            letters = "abcdefghij"
            words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
            (folder / "vocab.txt").write_text("\n".join(words))
            BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
            sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
            rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
            torch.manual_seed(0)
            config = BertConfig(
                vocab_size=len(words), max_position_embeddings=32, initializer_range=0.5, **sizes, **rates
            )
            BertModel(config).save_pretrained(folder)
        transformer = Transformer(str(folders[dropout]))
        return SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").double().train()

    return make


def texts_of(rows, columns, seed=0):
    """Random texts of one to four words in each column."""
    random = np.random.default_rng(seed)
    return [
        [" ".join(random.choice(WORDS, random.integers(1, 5)).tolist()) for _ in range(rows)]
        for _ in range(1 + columns)
    ]


def features_of(model, texts):
    return [dict(model.preprocess(column)) for column in texts]


def encoded(model, texts):
    with torch.no_grad():
        return [model(model.preprocess(column))["sentence_embedding"] for column in texts]


def value_of(answer):
    if isinstance(answer, dict):
        (answer,) = answer.values()
    return answer


def parameter_gradients(loss, model, features, labels):
    model.zero_grad()
    value = value_of(loss(features, labels))
    value.backward()
    gradients = {name: weights.grad.clone() for name, weights in model.named_parameters() if weights.grad is not None}
    assert any(gradient.abs().max() > 1e-6 for gradient in gradients.values())
    return value.item(), gradients


def assert_same_training(got, wanted, atol=1e-9):
    assert np.isfinite(got[0])
    assert got[0] == pytest.approx(wanted[0], rel=1e-9, abs=atol)
    assert got[1].keys() == wanted[1].keys()
    for name, gradient in got[1].items():
        np.testing.assert_allclose(gradient.to_dense().numpy(), wanted[1][name].to_dense().numpy(), atol=atol)


# ---- the stock loss --------------------------------------------------------------------------------------------------


def distinct_rows(size, columns):
    keys = np.random.default_rng(size).permutation(10**6)[: size * columns].reshape(size, columns) + 2**60
    return [Row(row.tolist(), {int(row[0])}) for row in keys]


PARTITIONS = [(directions, "joint") for directions in DIRECTIONS] + [
    (("query_to_doc",), "per_direction"),
    (("query_to_doc", "doc_to_query"), "per_direction"),
]
HARDNESS = [(None, 2.0), ("in_batch_negatives", 3.0), ("hard_negatives", 2.0), ("all_negatives", 1.5)]


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


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("options", [{}, {"directions": DIRECTIONS[-1], "hardness_mode": "all_negatives"}])
def test_models_learn_what_the_stock_losses_teach(make_tiny, options, labelled):
    labels = labels_of(distinct_rows(4, 3)) if labelled else None
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


# ---- the slow loss ---------------------------------------------------------------------------------------------------

SLOW = st.builds(
    Slow,
    scale=st.sampled_from([1.0, 20.0]),
    similarity=st.sampled_from(list(SIMILARITIES)),
    hardness_mode=st.sampled_from([None, "in_batch_negatives", "hard_negatives", "all_negatives"]),
    hardness_strength=st.sampled_from([0.5, 4.0]),
    margin=st.sampled_from([None, -0.3, 0.0, 0.1, 0.5]),
    teacher_temperature=st.sampled_from([0.5, 1.0, 3.0]),
)


def partitions_with_queries(kept):
    return [one for one in PARTITIONS if ("query_to_query" in one[0]) == kept]


def check_any(data, partitions):
    slow = data.draw(SLOW)
    if slow.margin is not None:
        slow.likely_weight = data.draw(st.sampled_from([0.0, 0.25, 0.9]))
    slow.directions, slow.partition_mode = data.draw(st.sampled_from(partitions))
    if slow.directions == ("query_to_doc",):
        slow.in_batch = slow.hardness_mode == "in_batch_negatives" or data.draw(st.booleans())
    slow.distill_weight = data.draw(st.sampled_from([0.0, 0.7]))
    rows, embeddings = data.draw(batches(scores=True if slow.distill_weight else None))
    check(slow, rows, embeddings)


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
    logged = loss._logged
    assert_same(loss._loss(embeddings, labels, None, turn), whole, embeddings)
    assert loss._logged == logged


def two_rows(second=(2, 3), known=(0,)):
    return [Row([0, 1], set(known)), Row(list(second), {second[0]})]


def denominators(rows, **options):
    """How many passages the loss compares each query with, from embeddings that are all alike."""
    embeddings = [torch.ones(len(rows), 3, dtype=torch.float64) for _ in range(1 + len(rows[0].passages))]
    turns = HardNegativesRankingLoss(toy(), **options)
    return round(np.exp(turns.compute_loss_from_embeddings(embeddings, labels_of(rows)).item() * len(rows)))


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


# ---- guides ----------------------------------------------------------------------------------------------------------


def collided_rows(size, columns, seed, scores=False):
    random = np.random.default_rng(seed)
    keys = random.integers(0, 2 * size, (size, columns))
    keys[:, 1:][random.random((size, columns - 1)) < 0.2] = PADDING
    return [
        Row(
            row.tolist(),
            {int(row[0]), *random.integers(0, 2 * size, 2).tolist()},
            random.normal(size=columns).tolist() if scores else None,
        )
        for row in keys
    ]


def guides(make_tiny):
    """Students and guides: with the same tokens; with others; the student before its training."""
    return [(toy(), toy(seed=5, dimension=6)), (make_tiny(), toy(seed=5, dimension=6)), (make_tiny(), make_tiny())]


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
    assert value_of(answer).item() == pytest.approx(wanted.item(), abs=1e-9)
    assert {name: value.item() for name, value in answer.items()} == pytest.approx(shares(counts))
    if place < 2:
        assert abs(wanted.item() - by_itself.item()) > 1e-3
    value_of(answer).backward()
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


# ---- cached gradients ------------------------------------------------------------------------------------------------

CACHED = {
    "masks": {},
    "directions": {"directions": DIRECTIONS[-1]},
    "per-direction": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    "own-negatives": {"in_batch": False},
    "margin": {"margin": -0.01, "likely_weight": 0.3, "hardness_mode": "hard_negatives", "hardness_strength": 2.0},
    "guide": {"margin": 0.0},
    "distill": {"distill_weight": 0.6, "teacher_temperature": 0.5},
}


@pytest.mark.parametrize("name", CACHED)
def test_cached_gradients_are_the_gradients(make_tiny, name):
    options = CACHED[name] | ({"guide": toy(seed=5)} if name == "guide" else {})
    model = make_tiny()
    features = features_of(model, texts_of(7, 3))
    labels = labels_of(collided_rows(7, 3, seed=1, scores=True))
    plain = HardNegativesRankingLoss(model, **options)
    wanted = parameter_gradients(plain, model, features, labels)
    logged = dict(plain(features, labels))
    for size in (1, 3, 100):
        cached = CachedHardNegativesRankingLoss(model, mini_batch_size=size, **options)
        assert_same_training(parameter_gradients(cached, model, features, labels), wanted)
        answer = cached(features, labels)
        assert {kind: value.item() for kind, value in answer.items()} == pytest.approx(
            {kind: value.item() for kind, value in logged.items()}
        )
        with torch.no_grad():
            assert value_of(cached(features, labels)).item() == pytest.approx(wanted[0], abs=1e-9)
    by_tokens = CachedHardNegativesRankingLoss(model, mini_batch_num_tokens=20, **options)
    assert_same_training(parameter_gradients(by_tokens, model, features, labels), wanted)


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
    assert_same_training(results[0], (value.item(), own))


# ---- the trainer -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def live():
    corpus, queries = load_sample()
    mined = queries.select(range(120)).map(BM25Negatives(corpus, k=20), batched=True)
    return live_negatives(mined, corpus, n=2, positives="each")


def trained(model, loss, rows, folder, steps=4):
    """Train for some steps; return the trainer and the labels and embeddings that the loss saw."""
    seen = []

    def look(_, given, answer):
        features, labels = given
        texts = [dict(column) for column in features]
        with torch.no_grad():
            seen.append((labels.clone(), [model(column)["sentence_embedding"].double() for column in texts]))

    loss.register_forward_hook(look)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=0.01,
        warmup_steps=0,
        logging_steps=steps,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)
    trainer.train()
    assert len(seen) == steps
    return trainer, seen


def logs_of(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_the_trainer_logs_what_is_masked(make_static_model, live, tmp_path):
    options = {"margin": 0.0}
    model = make_static_model(dimension=16)
    trainer, seen = trained(model, HardNegativesRankingLoss(model, **options), live, tmp_path / "logged")
    slow = Slow(**options)
    wanted = [shares(slow(embeddings, rows_of(labels, 3))[1]) for labels, embeddings in seen]
    for name in ("masked_in_batch", "masked_mined"):
        (logged,) = logs_of(trainer, name)
        assert 0 < logged < 1
        # The trainer logs four digits.
        assert logged == pytest.approx(np.mean([one[name] for one in wanted]), abs=1e-4)
    silent_model = make_static_model(dimension=16)
    silent, _ = trained(
        silent_model, HardNegativesRankingLoss(silent_model, log_masked=False, **options), live, tmp_path / "silent"
    )
    assert not logs_of(silent, "masked_mined")
    assert logs_of(silent, "loss") == logs_of(trainer, "loss")
    assert logs_of(silent, "train_loss") == logs_of(trainer, "train_loss")
    for one, other in zip(model.parameters(), silent_model.parameters(), strict=True):
        assert one.equal(other)


def test_a_known_positive_among_the_mined_is_counted(static_model):
    rows = [Row([0, 5, 6], {0, 5}), Row([1, 7, PADDING], {1})]
    features = features_of(static_model, texts_of(2, 3))
    answer = HardNegativesRankingLoss(static_model)(features, labels_of(rows))
    # Three were mined, one of them a known positive; of three and two passages of others none is known.
    assert {name: value.item() for name, value in answer.items()} == pytest.approx(
        {"masked_in_batch": 0, "masked_mined": 1 / 3}
    )


def test_known_positives_of_a_query_are_masked_in_its_other_rows(live, make_static_model, tmp_path):
    model = make_static_model(dimension=16)
    trainer, seen = trained(model, HardNegativesRankingLoss(model), live, tmp_path)
    wanted = [shares(Slow()(embeddings, rows_of(labels, 3))[1]) for labels, embeddings in seen]
    assert logs_of(trainer, "masked_in_batch") == pytest.approx(
        [np.mean([one["masked_in_batch"] for one in wanted])], abs=1e-4
    )
    assert logs_of(trainer, "masked_in_batch")[0] > 0


def test_there_is_nothing_to_log_without_labels_and_margin(static_model):
    features = features_of(static_model, texts_of(2, 3))
    assert isinstance(HardNegativesRankingLoss(static_model)(features, None), torch.Tensor)
    labels = labels_of(distinct_rows(2, 3))
    assert isinstance(HardNegativesRankingLoss(static_model, log_masked=False)(features, labels), torch.Tensor)
    assert isinstance(HardNegativesRankingLoss(static_model)(features, labels), dict)


def test_matryoshka_takes_the_loss(make_static_model, live, tmp_path):
    model = make_static_model(dimension=16)
    loss = MatryoshkaLoss(model, HardNegativesRankingLoss(model, log_masked=False), [16, 8])
    before = [weights.clone() for weights in model.parameters()]
    trainer, _ = trained(model, loss, live, tmp_path, steps=2)
    assert np.isfinite(logs_of(trainer, "train_loss")).all()
    assert not all(one.equal(other) for one, other in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("cached", [False, True])
def test_matryoshka_adds_up_the_losses_of_its_dimensions(make_tiny, cached):
    model = make_tiny()
    texts = texts_of(4, 3)
    rows = collided_rows(4, 3, seed=4)
    slow = Slow(margin=0.0)
    kind = CachedHardNegativesRankingLoss if cached else HardNegativesRankingLoss
    loss = MatryoshkaLoss(model, kind(model, log_masked=False, **slow.options), [16, 6])
    got = loss(features_of(model, texts), labels_of(rows)).item()
    embeddings = encoded(model, texts)
    wanted = sum(slow([column[:, :size] for column in embeddings], rows)[0].item() for size in (16, 6))
    assert got == pytest.approx(wanted, abs=1e-9)


def test_matryoshka_leaves_labels_whole_that_are_as_wide_as_the_embeddings(make_tiny):
    # It takes them for embeddings and cuts them; the known positives must not be lost by it.
    model = make_tiny()
    texts = texts_of(4, 3)
    rows = collided_rows(4, 3, seed=4)
    loss = MatryoshkaLoss(model, HardNegativesRankingLoss(model, log_masked=False), [16, 6])
    # A header, three passages and twelve positives are sixteen numbers.
    labels = labels_of(rows, most=12)
    got = loss(features_of(model, texts), labels).item()
    embeddings = encoded(model, texts)
    wanted = sum(Slow()([column[:, :size] for column in embeddings], rows)[0].item() for size in (16, 6))
    assert got == pytest.approx(wanted, abs=1e-9)


# ---- the model card --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_the_options_go_into_the_model_card(make_tiny, live, tmp_path, cached, guided):
    model = make_tiny().float()
    kind = CachedHardNegativesRankingLoss if cached else HardNegativesRankingLoss
    loss = kind(model, margin=0.125, likely_weight=0.0625, guide=make_tiny() if guided else None)
    options = loss.get_config_dict()
    assert json.loads(json.dumps(options)).keys() == options.keys()
    assert {"scale", "directions", "in_batch", "margin", "likely_weight", "distill_weight"} <= options.keys()
    assert ("guide" in options, "mini_batch_size" in options) == (guided, cached)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True),
        train_dataset=live,
        loss=loss,
    )
    trainer.create_model_card()
    model.save_pretrained(str(tmp_path / "saved"))
    for card in (tmp_path / "README.md", tmp_path / "saved" / "README.md"):
        text = card.read_text()
        assert type(loss).__name__ in text
        assert '"margin": 0.125' in text
        assert '"likely_weight": 0.0625' in text


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"likely_weight": 0.5}, ValueError, "likely_weight needs a margin"),
        ({"likely_weight": 1, "margin": 0.1}, ValueError, "likely_weight must be .* less than 1"),
        ({"likely_weight": -0.1, "margin": 0.1}, ValueError, "likely_weight must be at least 0"),
        ({"likely_weight": float("nan"), "margin": 0.1}, ValueError, "likely_weight"),
        ({"margin": float("inf")}, ValueError, "margin"),
        ({"margin": True}, ValueError, "margin"),
        ({"margin": "absolute"}, TypeError, "margin"),
        ({"distill_weight": -1}, ValueError, "distill_weight must not be negative"),
        ({"teacher_temperature": 0}, ValueError, "teacher_temperature"),
        ({"in_batch": 1}, TypeError, "in_batch"),
        (
            {"in_batch": False, "hardness_mode": "in_batch_negatives", "hardness_strength": 1.0},
            ValueError,
            "no in-batch",
        ),
        ({"log_masked": None}, TypeError, "log_masked"),
        *(
            ({"in_batch": False, "directions": directions}, ValueError, "in_batch=False leaves only")
            for directions in DIRECTIONS[1:]
        ),
        ({"scale": 0}, ValueError, "Scale"),
        ({"directions": ("doc_to_query",)}, ValueError, "query_to_doc"),
        ({"directions": DIRECTIONS[-1], "partition_mode": "per_direction"}, ValueError, "per_direction"),
    ],
)
def test_options_out_of_range(make_tiny, options, error, message):
    for loss in (HardNegativesRankingLoss, CachedHardNegativesRankingLoss):
        with pytest.raises(error, match=message):
            loss(make_tiny(), **options)


@pytest.mark.parametrize("guide", [toy(dimension=6), toy(extra=("zz",))])
def test_a_guide_needs_a_margin(guide):
    with pytest.raises(ValueError, match="guide needs a margin"):
        HardNegativesRankingLoss(toy(), guide=guide)


def test_static_students_keep_no_tokens_for_another_guide(make_tiny):
    for guide in (toy(extra=("zz",)), make_tiny()):
        with pytest.raises(ValueError, match="same tokenizer"):
            HardNegativesRankingLoss(toy(), margin=0.1, guide=guide)


def test_a_guide_needs_texts():
    loss = HardNegativesRankingLoss(toy(), margin=0.1, guide=toy(seed=1))
    with pytest.raises(ValueError, match="with features"):
        loss.compute_loss_from_embeddings(embedded(2, 2, seed=0), None)


def test_static_embeddings_are_not_cached(static_model):
    with pytest.raises(ValueError, match="StaticEmbedding"):
        CachedHardNegativesRankingLoss(static_model)


@pytest.mark.parametrize("size", [0, -1, True])
def test_mini_batches_have_texts(make_tiny, size):
    with pytest.raises(ValueError, match="mini_batch_size"):
        CachedHardNegativesRankingLoss(make_tiny(), mini_batch_size=size)


@pytest.mark.parametrize("tokens", [0, -5])
def test_mini_batches_have_tokens(make_tiny, tokens):
    # As the stock cached loss has it.
    with pytest.raises(ValueError, match="mini_batch_num_tokens"):
        CachedHardNegativesRankingLoss(make_tiny(), mini_batch_num_tokens=tokens)


def test_one_text_column_is_too_few(make_tiny):
    model = make_tiny()
    features = features_of(model, texts_of(3, 0))
    for loss in (HardNegativesRankingLoss(model), CachedHardNegativesRankingLoss(model)):
        with pytest.raises(ValueError, match="two text columns"):
            loss(features, None)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(torch.zeros(3), id="floats"),
        pytest.param(torch.rand(3, 3), id="scores"),
        pytest.param(torch.zeros(3, dtype=torch.int64), id="1-D"),
        pytest.param(torch.zeros(3, 6, dtype=torch.int64), id="zeros"),
        pytest.param(labels_of(distinct_rows(3, 2)), id="fewer-negatives"),
        pytest.param(labels_of(distinct_rows(3, 4)), id="more-negatives"),
        pytest.param(labels_of(distinct_rows(2, 3)), id="fewer-rows"),
        pytest.param(labels_of(distinct_rows(4, 3)), id="more-rows"),
    ],
)
def test_labels_of_something_else(make_tiny, labels):
    model = make_tiny()
    features = features_of(model, texts_of(3, 3))
    for loss in (HardNegativesRankingLoss(model), CachedHardNegativesRankingLoss(model)):
        with pytest.raises(ValueError, match="live_negatives"):
            loss(features, labels)


@pytest.mark.parametrize("labels", [None, labels_of(distinct_rows(3, 3))])
def test_distillation_needs_scores(static_model, labels):
    loss = HardNegativesRankingLoss(static_model, distill_weight=0.5)
    with pytest.raises(ValueError, match="distill_weight needs the teacher's scores"):
        loss(features_of(static_model, texts_of(3, 3)), labels)
