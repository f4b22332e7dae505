"""The steps of each arm of the ladder: before the training, and at each refresh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from models import make_model
from runner import Run
from sentence_transformers import CrossEncoder, SentenceTransformer

import hnm_datasets as hnm
from hnm_datasets.transforms.base import Transform

#: More refreshes than a training has.
NEVER = 1000
#: A candidate must score below this share of the positive's teacher score.
MARGIN = 0.05
#: The margin of the student: how far below the positive a candidate must score; if negative, it may be above.
BELOW = -0.1
#: Quantiles of the positives' teacher scores: candidates below the first are negatives, above the second positives,
#: and between them they are dropped.
RELABELLED = (0.25, 0.5)


class Set:
    """One set: its passages, its queries, and the steps of each arm.

    Attributes:
        train: The training rows: without the queries of `dev`, and with hidden positives if wanted.
        dev: Queries that are not trained on, for choosing options.
        test: The queries for comparing arms.
    """

    def __init__(self, source: str, run: Run) -> None:
        self.options = run
        self.corpus, rows = hnm.load_beir(source, "train")
        rows = rows.filter(lambda ids: len(ids) > 0, input_columns="positive_ids").shuffle(seed=0).flatten_indices()
        held = min(run.dev, len(rows) // 10)
        self.dev, rows = rows.select(range(held)), rows.select(range(held, min(len(rows), held + run.queries)))
        _, self.test = hnm.load_beir(source, "test")
        self.test = self.test.filter(lambda ids: len(ids) > 0, input_columns="positive_ids")
        self.train = hnm.hide_positives(rows, run.known)[0] if run.known else rows
        #: All relevant passages, including those hidden from the training.
        self.relevant = rows["positive_ids"][:]

    def student(self) -> SentenceTransformer:
        """Make the untrained student: static embeddings, MiniLM, or the first layers of MiniLM ("minilm-2")."""
        name, _, layers = self.options.student.partition("-")
        model = make_model(name)
        if layers:
            encoder = model[0].auto_model.encoder
            encoder.layer = encoder.layer[: int(layers)]
        if name == "minilm":
            model.max_seq_length = self.options.tokens
        return model

    def false_share(self, rows: Dataset) -> float:
        """Return the share of negatives that are relevant by judgments hidden from the training."""
        false = sum(
            name in relevant
            for ids, relevant in zip(rows["negative_ids"], map(set, self.relevant), strict=True)
            for name in ids
        )
        return false / max(1, sum(map(len, rows["negative_ids"])))

    @cached_property
    def teacher(self) -> Transform:
        """Score with a larger embedding model."""
        model = make_model(self.options.teacher)
        if self.options.teacher == "minilm":
            model.max_seq_length = self.options.teacher_tokens
        return hnm.BiEncoderScores(self.corpus, model, "teacher", embeddings=self.corpus.embed(model))

    @cached_property
    def limits(self) -> list[float]:
        """Return the teacher scores below which a candidate is a negative and above which it is a positive."""
        few = self.train.select(range(min(1000, len(self.train))))
        scored = few.map(hnm.RandomNegatives(self.corpus, k=1), batched=True).map(self.teacher, batched=True)
        own = np.concatenate(scored["positive_teacher_scores"][:])
        return np.quantile(own, RELABELLED).tolist()

    @cached_property
    def cross_encoder(self) -> Transform:
        """Score with a cross-encoder."""
        options = {} if self.options.max_length is None else {"max_length": self.options.max_length}
        model = CrossEncoder(self.options.cross_encoder, **options)
        return hnm.CrossEncoderScores(self.corpus, model, batch_size=64)


#: The steps of an arm, from the set and the model, or only from the set if the model is in training.
Mining = Callable[[Set, Any], list[Any]]


class Arm(NamedTuple):
    """The steps and options of an arm.

    Attributes:
        first: The steps before the training.
        refresh: The steps of a refresh; None: no refresh.
        options: Other options of `RefreshNegatives`.
    """

    first: Mining
    refresh: Mining | None = None
    options: Mapping[str, Any] = MappingProxyType({})


def _bm25(data: Set, model: Any) -> list[Any]:
    return [hnm.BM25Negatives(data.corpus, k=data.options.k)]


def _dense(data: Set, model: Any) -> list[Any]:
    return [hnm.DenseNegatives(data.corpus, model, k=data.options.k)]


def _fused(data: Set, model: Any) -> list[Any]:
    k = data.options.k
    return [
        hnm.FuseNegatives({"bm25": hnm.BM25Negatives(data.corpus, k=k), "dense": _dense(data, model)[0]}, k=k),
    ]


def _deep(data: Set, model: Any) -> list[Any]:
    return [hnm.DenseNegatives(data.corpus, model, k=data.options.depth), hnm.DropNearDuplicates(data.corpus)]


def _clean(data: Set, steps: list[Any]) -> list[Any]:
    return [*steps, data.teacher, hnm.RelativeMargin(MARGIN, by="teacher"), hnm.TopNegatives(data.options.k)]


def _denoised(data: Set, model: Any) -> list[Any]:
    return _clean(data, _deep(data, model))


def _relabelled(data: Set, model: Any) -> list[Any]:
    below, above = data.limits
    limit = hnm.TeacherThreshold(below, above, promote=True)
    return [*_deep(data, model), data.teacher, limit, hnm.TopNegatives(data.options.k)]


def _judged(data: Set, model: Any) -> list[Any]:
    half = hnm.DenseNegatives(data.corpus, model, k=data.options.k // 2)
    return [half, data.cross_encoder, hnm.RelativeMargin(MARGIN, by="teacher"), hnm.SortNegatives("teacher")]


def _refreshed(data: Set, _: Any) -> list[Any]:
    return [partial(hnm.DenseNegatives, data.corpus, k=data.options.k)]


def _refreshed_below(data: Set, _: Any) -> list[Any]:
    return [*_refreshed(data, _), hnm.DropNearDuplicates(data.corpus), hnm.AbsoluteMargin(BELOW)]


def _refreshed_clean(data: Set, _: Any) -> list[Any]:
    deep = partial(hnm.DenseNegatives, data.corpus, k=data.options.depth)
    return _clean(data, [deep, hnm.DropNearDuplicates(data.corpus)])


def _union(data: Set, model: Any) -> hnm.FuseNegatives:
    k = data.options.k
    miners = {
        "dense": hnm.DenseNegatives(data.corpus, model, k=k),
        "bm25": hnm.BM25Negatives(data.corpus, k=k),
        "random": hnm.RandomNegatives(data.corpus, k=k),
    }
    return hnm.FuseNegatives(miners, "union")


def _drawn(data: Set) -> hnm.SampleNegatives:
    """Sample half from the model, a quarter from BM25, and a quarter at random."""
    k = data.options.k
    return hnm.SampleNegatives({"dense": k // 2, "bm25": k // 4, "random": k - k // 2 - k // 4})


#: The arms, in the order of the tables. Dynamic arms start with BM25 negatives.
ARMS = {
    "in-batch": Arm(lambda data, model: []),
    "random": Arm(lambda data, model: [hnm.RandomNegatives(data.corpus, k=data.options.k)]),
    "BM25": Arm(_bm25),
    "dense": Arm(_dense),
    "fused": Arm(_fused),
    "mixed": Arm(lambda data, model: [_union(data, model), _drawn(data)]),
    "dense, denoised": Arm(_denoised),
    "dense, relabelled": Arm(_relabelled),
    "cross-encoder": Arm(_judged),
    "dynamic": Arm(_bm25, _refreshed),
    "dynamic, mixed": Arm(_bm25, lambda data, _: [partial(_union, data), _drawn(data)]),
    "dynamic, denoised": Arm(_bm25, _refreshed_clean),
    "dynamic, margin": Arm(_bm25, _refreshed_below),
    "dynamic, memory": Arm(_bm25, _refreshed, {"memory": 0.5}),
    "dynamic, late": Arm(_bm25, _refreshed, {"start": 0.3}),
    "dynamic, queries": Arm(_bm25, _refreshed, {"corpus_every": NEVER}),
    "dynamic, stale": Arm(_bm25, _refreshed, {"stale": 0.8, "probe": 50}),
}
