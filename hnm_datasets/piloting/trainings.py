"""One training of the student, measured on the queries that are held out, and kept by its content."""

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

#: Raise it when a training gives other answers.
_VERSION = 1
#: Refreshes of a training with dynamic negatives.
REFRESHES = 3


class Trained(NamedTuple):
    """What came out of a training.

    Attributes:
        values: The measures of each query that was held out, in the order of `MEASURES`. Shape (Q, M).
        seconds: What the training took, refreshes included.
        refreshing: What the refreshes took of it.
    """

    values: NDArray[np.float32]
    seconds: float
    refreshing: float


class _Trainer(SentenceTransformerTrainer):
    """The stock trainer without the card of a model that nobody keeps, which takes as long as a hundred steps."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none."""


@dataclass(frozen=True)
class Course:
    """What all trainings of a pilot have in common.

    Attributes:
        corpus: The passages.
        student: The model before training; it stays as it is.
        held_out: The queries to measure with.
        passages: The rows of the passages that are searched: the positives of these queries, and others.
        steps: Optimizer steps of a training.
        batch: Rows of a step.
        negatives: Negatives of a row.
        learning_rate: Of the optimizer.
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
        """Name what is common, by its content."""
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
        """Train a copy of the student and measure it, unless that was done before.

        Args:
            common: What `name` returns.
            rows: The rows to train on, mined; without `negative_ids` the other rows' passages are the negatives.
            refresh: The steps of a refresh; empty: there is none.
            refresh_name: A name of these steps, by their content.
            seed: Of the order of the rows and the draws of negatives.
        """
        name = fingerprint({"course": common, "rows": content_digest(rows), "refresh": refresh_name, "seed": seed})
        folder = build_once(cache_root() / "pilot", name, lambda aside: self._save(aside, rows, refresh, seed))
        about = read_object(folder / "seconds.json")
        values = np.load(folder / "values.npy", allow_pickle=False)
        return Trained(values, float(about["seconds"]), float(about["refreshing"]))

    def _save(self, folder: Path, rows: Dataset, refresh: Sequence[Any], seed: int) -> None:
        student = copy.deepcopy(self.student)
        start = time.perf_counter()
        # A trainer seeds all random numbers of the process.
        with tempfile.TemporaryDirectory() as output, untouched(student):
            refreshing = self._run(student, rows, refresh, seed, output)
        seconds = time.perf_counter() - start
        np.save(folder / "values.npy", self._measured(student), allow_pickle=False)
        (folder / "seconds.json").write_text(json.dumps({"seconds": seconds, "refreshing": refreshing}))

    def _run(
        self, student: SentenceTransformer, rows: Dataset, refresh: Sequence[Any], seed: int, output: str
    ) -> float:
        """Train the student in place, and return how many seconds the refreshes took."""
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
        # Also those that other rows with the same question have.
        positives = batch.known_positives_in(self.corpus)
        with untouched(student):
            options: dict[str, Any] = {"show_progress_bar": False, "convert_to_tensor": True, "batch_size": 256}
            passages = student.encode_document(self.corpus.texts(self.passages).to_pylist(), **options)
            queries = student.encode_query(batch.strings(QUERY).to_pylist(), **options)
            scores = student.similarity(queries, passages)
        relevant = np.searchsorted(self.passages, positives.values)
        return measures_of(scores, positives.offsets, relevant)
