"""One training of the student, measured with the held-out queries. Results are cached by content."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers import PrinterCallback

from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, QUERY
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.models.fingerprint import model_fingerprint
from hnm_datasets.piloting.ranking import measures_of
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.json_files import read_object
from hnm_datasets.storage.kept_rows import content_digest
from hnm_datasets.training.follow_epochs import FollowEpochs
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss
from hnm_datasets.training.refresh import RefreshNegatives
from hnm_datasets.training.refresh_job import untouched
from hnm_datasets.version import __version__

#: Raise it when a training gives different results.
_VERSION = 1
#: Refreshes of a training with dynamic negatives.
REFRESHES = 3


class Trained(NamedTuple):
    """The result of a training.

    Attributes:
        values: The measures of each held-out query, in the order of `MEASURES`. Shape (Q, M).
        seconds: Seconds of the training, including refreshes.
        refreshing: Seconds of the refreshes.
    """

    values: NDArray[np.float32]
    seconds: float
    refreshing: float


class _Trainer(SentenceTransformerTrainer):
    """The stock trainer without a model card, which would take as long as a hundred steps."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add no callback."""


@dataclass(frozen=True)
class Course:
    """The settings that all trainings of a pilot share.

    Attributes:
        corpus: The passages.
        student: The model before training; it is copied, not changed.
        held_out: The queries to measure with.
        passages: The corpus rows of the passages to search: the positives of these queries, and others.
        steps: Optimizer steps of a training.
        batch: Rows per step.
        negatives: Negatives per row.
        learning_rate: The learning rate of the optimizer.
    """

    corpus: Corpus
    student: SentenceTransformer
    held_out: Dataset
    passages: NDArray[np.int64]
    steps: int
    batch: int
    negatives: int
    learning_rate: float

    def name(self) -> str:
        """Return a fingerprint of these settings."""
        return fingerprint(
            {
                "version": [_VERSION, __version__],
                "corpus": self.corpus.fingerprint,
                "student": model_fingerprint(self.student),
                "held_out": content_digest(self.held_out),
                "passages": self.passages.tolist(),
                "options": [self.steps, self.batch, self.negatives, self.learning_rate],
            }
        )

    def untrained(self) -> NDArray[np.float32]:
        """Measure the student before training. Shape (Q, M)."""
        return self._measured(self.student)

    def train(self, common: str, rows: Dataset, refresh: Sequence[Any], refresh_name: str, seed: int) -> Trained:
        """Train a copy of the student and measure it, or return the cached result.

        Args:
            common: The fingerprint that `name` returns.
            rows: The mined rows to train on; without `negative_ids`, training uses in-batch negatives only.
            refresh: The steps of a refresh; empty for no refreshes.
            refresh_name: A fingerprint of these steps.
            seed: Seed of the row order and of the draws of negatives.
        """
        name = fingerprint({"course": common, "rows": content_digest(rows), "refresh": refresh_name, "seed": seed})
        about = About(
            "pilot", "pilot", f"training, seed {seed}", cache_root() / "corpora" / self.corpus.fingerprint,
            options={"rows": len(rows), "steps": self.steps, "negatives": self.negatives, "refreshes": bool(refresh)},
        )  # fmt: skip
        folder = build_once(cache_root() / "pilot", name, lambda aside: self._save(aside, rows, refresh, seed), about)
        spent = read_object(folder / "seconds.json")
        values = np.load(folder / "values.npy", allow_pickle=False)
        return Trained(values, float(spent["seconds"]), float(spent["refreshing"]))

    def _save(self, folder: Path, rows: Dataset, refresh: Sequence[Any], seed: int) -> None:
        student = copy.deepcopy(self.student)
        start = time.perf_counter()
        # A trainer seeds the random number generators of the process, so restore them.
        with tempfile.TemporaryDirectory() as output, untouched(student):
            refreshing = self._run(student, rows, refresh, seed, output)
        seconds = time.perf_counter() - start
        np.save(folder / "values.npy", self._measured(student), allow_pickle=False)
        (folder / "seconds.json").write_text(json.dumps({"seconds": seconds, "refreshing": refreshing}))

    def _run(
        self, student: SentenceTransformer, rows: Dataset, refresh: Sequence[Any], seed: int, output: str
    ) -> float:
        """Train the student in place, and return the seconds of the refreshes."""
        live = live_negatives(rows, self.corpus, n=self.negatives, seed=seed)
        callbacks: list[Any] = [FollowEpochs(live)] if NEGATIVE_IDS in rows.column_names else []
        if refresh:
            every = max(1, -(-self.steps // (REFRESHES + 1)))
            callbacks = [RefreshNegatives(live, refresh, every=every)]
        options = SentenceTransformerTrainingArguments(
            output_dir=output, max_steps=self.steps, per_device_train_batch_size=self.batch, seed=seed, data_seed=seed,
            learning_rate=self.learning_rate, warmup_steps=self.steps // 10, logging_strategy="no",
            save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=student.device.type == "cpu",
        )  # fmt: skip
        trainer = _Trainer(
            student, options, train_dataset=live, loss=HardNegativesRankingLoss(student), callbacks=callbacks
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        history = callbacks[0].history if refresh else []
        return float(sum(value for one in history for name, value in one.items() if name.startswith("seconds_")))

    def _measured(self, student: SentenceTransformer) -> NDArray[np.float32]:
        batch = Batch(self.held_out.with_format("arrow")[:], step="pilot")
        # Including positives of other rows with the same question.
        positives = batch.known_positives_in(self.corpus)
        with untouched(student):
            options: dict[str, Any] = {"show_progress_bar": False, "convert_to_tensor": True, "batch_size": 256}
            passages = student.encode_document(self.corpus.texts(self.passages).to_pylist(), **options)
            queries = student.encode_query(batch.strings(QUERY).to_pylist(), **options)
            scores = student.similarity(queries, passages)
        relevant = np.searchsorted(self.passages, positives.values)
        return measures_of(scores, positives.offsets, relevant)
