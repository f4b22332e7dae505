"""Helpers of the tests in this folder."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import cos_sim, dot_score
from tokenizers import Tokenizer, models, pre_tokenizers

from hnm_datasets.arrays.ragged import Ragged, offsets_of
from hnm_datasets.training.labels import PADDING, pack, unpack
from hnm_datasets.training.loss import HardNegativesRankingLoss
from hnm_datasets.training.metrics import take


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
    return {f"masked_{kind}": counts[f"masked_{kind}"] / counts[kind] for kind in ("in_batch", "mined") if counts[kind]}


def counted(loss):
    """What the trainer would log now."""
    return take(loss.model, training=loss.model.training)


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
    got = loss.compute_loss_from_embeddings(embeddings, labels_of(rows))
    wanted, counts = slow(embeddings, rows)
    assert_same(got, wanted, embeddings)
    logged = counted(loss)
    expected = shares(counts)
    if not slow.in_batch:
        expected.pop("masked_in_batch", None)
    assert {name: logged[name] for name in expected} == pytest.approx(expected)
    assert logged.keys() - expected.keys() == ({"ranking", "distillation"} if slow.distill_weight else set())
    if slow.distill_weight:
        assert logged["ranking"] + logged["distillation"] == pytest.approx(got.item(), rel=1e-6, abs=1e-6)


WORDS = [letter + other for letter in "abcde" for other in "fghij"]


def toy(seed=0, dimension=4, extra=()):
    """A model of static embeddings of a few words, in doubles."""
    words = [*WORDS, *extra]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="af"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = torch.randn(len(words), dimension, generator=torch.Generator().manual_seed(seed))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu")
    return model.double()


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


def parameter_gradients(loss, model, features, labels):
    model.zero_grad()
    value = loss(features, labels)
    value.backward()
    gradients = {name: weights.grad.clone() for name, weights in model.named_parameters() if weights.grad is not None}
    assert any(gradient.abs().max() > 1e-6 for gradient in gradients.values())
    return value.item(), gradients


#: Up to this much, cached gradients differ from others: sentence-transformers before 6.2 rounds embeddings to float32.
ROUNDED = 1e-7


def assert_same_training(got, wanted, atol=1e-9):
    assert np.isfinite(got[0])
    assert got[0] == pytest.approx(wanted[0], rel=1e-9, abs=atol)
    assert got[1].keys() == wanted[1].keys()
    for name, gradient in got[1].items():
        np.testing.assert_allclose(gradient.to_dense().numpy(), wanted[1][name].to_dense().numpy(), atol=atol)


def distinct_rows(size, columns):
    keys = np.random.default_rng(size).permutation(10**6)[: size * columns].reshape(size, columns) + 2**60
    return [Row(row.tolist(), {int(row[0])}) for row in keys]


PARTITIONS = [(directions, "joint") for directions in DIRECTIONS] + [
    (("query_to_doc",), "per_direction"),
    (("query_to_doc", "doc_to_query"), "per_direction"),
]


HARDNESS = [(None, 2.0), ("in_batch_negatives", 3.0), ("hard_negatives", 2.0), ("all_negatives", 1.5)]


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


def two_rows(second=(2, 3), known=(0,)):
    return [Row([0, 1], set(known)), Row(list(second), {second[0]})]


def denominators(rows, **options):
    """How many passages the loss compares each query with, from embeddings that are all alike."""
    embeddings = [torch.ones(len(rows), 3, dtype=torch.float64) for _ in range(1 + len(rows[0].passages))]
    turns = HardNegativesRankingLoss(toy(), **options)
    return round(np.exp(turns.compute_loss_from_embeddings(embeddings, labels_of(rows)).item() * len(rows)))


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


CACHED = {
    "masks": {},
    "directions": {"directions": DIRECTIONS[-1]},
    "per-direction": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    "own-negatives": {"in_batch": False},
    "margin": {"margin": -0.01, "likely_weight": 0.3, "hardness_mode": "hard_negatives", "hardness_strength": 2.0},
    "guide": {"margin": 0.0},
    "distill": {"distill_weight": 0.6, "teacher_temperature": 0.5},
}


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
