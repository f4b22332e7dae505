"""What does a refresh of the negatives cost, and what do live negatives cost between refreshes?

    python benchmarks/refresh.py SET... --student static

Needs the `dev` extra and train splits. Parts (`--parts`), each a section:

- between: seconds per step of the stock trainer, with a plain dataset of texts and `MultipleNegativesRankingLoss`; with
  `live_negatives`, `HardNegativesRankingLoss` and a `RefreshNegatives` that is never due; and with each of them alone.
  The student and the numbers of texts and steps are the same. The sides alternate; medians of `--repeats`.
- refresh: one refresh in the middle of the training: seconds for encoding, indexing and mining; with `background=True`
  the seconds per step during the refresh, divided by those before it.
- sparse (needs `--sparse`, the path or Hub id of a SparseEncoder): one refresh of a sparse student with its stock
  trainer, divided by the time of `SparseEncoder.encode` for the corpus and the queries, measured before the training.
  Texts are truncated to `--tokens` tokens.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from inputs import texts_of
from measuring import in_turns, seconds_of, spread_of
from models import make_model
from runner import Benchmark, Part, Run, option, set_name, table
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, SparseEncoder
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sparse_encoder import SparseEncoderTrainer, SparseEncoderTrainingArguments
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
from transformers import TrainerCallback

import hnm_datasets as hnm

NEVER = 10**9
NEGATIVES = 4
#: Steps of a sparse student before its refresh.
SPARSE_STEPS = 3


class Clock(TrainerCallback):
    """Record when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Record the time."""
        self.ends.append(time.perf_counter())


def load(source: str, run: Run) -> tuple[hnm.Corpus, Dataset]:
    corpus, queries = hnm.load_beir(source, "train")
    queries = queries.filter(lambda ids: len(ids) > 0, input_columns="positive_ids")
    queries = queries.select(range(min(run.queries, len(queries)))).flatten_indices()
    return corpus, queries.map(hnm.BM25Negatives(corpus, k=20), batched=True)


def train(student: Any, data: Dataset, loss: Any, run: Run, steps: int, *callbacks: Any) -> list[float]:
    """Train, and return the seconds of each step after the first ones."""
    clock = Clock()
    is_sparse = isinstance(student, SparseEncoder)
    trainer: Any = SparseEncoderTrainer if is_sparse else SentenceTransformerTrainer
    arguments: Any = SparseEncoderTrainingArguments if is_sparse else SentenceTransformerTrainingArguments
    with tempfile.TemporaryDirectory() as folder:
        options = arguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=run.batch, learning_rate=1e-3,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, optim="adamw_torch_fused",
        )  # fmt: skip
        trainer(student, options, train_dataset=data, loss=loss, callbacks=[*callbacks, clock]).train()
    return np.diff(clock.ends).tolist()


def between(run: Run) -> dict[str, Any]:
    """Time steps without a refresh, with all methods alternately."""
    found = {}
    for source in run.sets:
        corpus, mined = load(source, run)
        live = hnm.live_negatives(mined, corpus, n=NEGATIVES)
        texts = Dataset.from_dict({name: values for name, values in live[:].items() if name != "label"})

        def step_seconds(name: str, live: Any = live, texts: Dataset = texts, corpus: hnm.Corpus = corpus) -> float:
            student, ours = make_model(run.student), name in ("loss", "all")
            loss = (hnm.HardNegativesRankingLoss if ours else MultipleNegativesRankingLoss)(student)
            data = live if name in ("rows", "all") else texts
            steps = [partial(hnm.DenseNegatives, corpus, k=20)]
            callbacks = [hnm.RefreshNegatives(live, steps, every=NEVER)] if name == "all" else []
            return float(np.median(train(student, data, loss, run, run.steps, *callbacks)[5:]))

        ways = {name: partial(step_seconds, name) for name in ("plain", "rows", "loss", "all")}
        times = in_turns(ways, run.repeats)
        found[set_name(source)] = {name: spread_of(seconds) for name, seconds in times.items()}
    return found


def show_between(found: dict[str, Any]) -> str:
    lines = []
    for name, one in found.items():
        plain = one["plain"]["median_s"]
        ratios = (f"{one[way]['median_s'] / plain:.3f}" for way in ("rows", "loss", "all"))
        lines.append((name, f"{1000 * plain:.1f} ms", *ratios))
    return table(
        "set|plain, a step|live rows, times plain|`HardNegativesRankingLoss`, times plain|all, times plain",
        lines,
    )


def refresh(run: Run) -> dict[str, Any]:
    """Refresh once in the foreground and once in the background."""
    found = {}
    for source in run.sets:
        corpus, mined = load(source, run)
        live = hnm.live_negatives(mined, corpus, n=NEGATIVES)
        ways = {}
        for name, beside in (("within", False), ("beside", True)):
            student, steps = make_model(run.student), [partial(hnm.DenseNegatives, corpus, k=20)]
            step = hnm.RefreshNegatives(live, steps, run.steps, background=beside)
            seconds = train(student, live, hnm.HardNegativesRankingLoss(student), run, 2 * run.steps - 1, step)
            about = step.history[0] if step.history else {}
            during = seconds[run.steps : about.get("step", 2 * run.steps)]
            ways[name] = about | {"step_before": float(np.median(seconds[5 : run.steps - 1]))}
            ways[name] |= {"step_during": float(np.median(during))} if beside and during else {}
        found[set_name(source)] = ways | {"passages": len(corpus), "queries": len(mined)}
    return found


def show_refresh(found: dict[str, Any]) -> str:
    lines = []
    for name, one in found.items():
        parts = (f"{one['within'][f'seconds_{part}']:.2f} s" for part in ("encode", "index", "mine"))
        beside = one["beside"]
        slower = f"{beside['step_during'] / beside['step_before']:.2f}" if "step_during" in beside else None
        late = str(beside["step"] - beside["model_step"]) if "step" in beside else "not in time"
        lines.append((name, one["passages"], one["queries"], *parts, slower, late))
    return table(
        "set|passages|queries|encoding|indexing|mining|a step while one runs beside it, times one before|steps late",
        lines,
    )


def sparse(run: Run) -> dict[str, Any]:
    """Refresh a sparse student once, and time its own function on the same texts."""
    found: dict[str, Any] = {}
    for source in run.sets if run.sparse else []:
        corpus, mined = load(source, run)
        texts, queries = texts_of(corpus), list(mined["query"])
        refreshes, alone = [], []
        for _ in range(run.repeats):
            student = SparseEncoder(run.sparse, device="cpu")
            student.max_seq_length = run.tokens
            student.encode_document(texts[: run.batch])
            alone.append(seconds_of(partial(student.encode_document, texts)))
            alone[-1] += seconds_of(partial(student.encode_query, queries))
            live = hnm.live_negatives(mined, corpus, n=NEGATIVES)
            step = hnm.RefreshNegatives(live, [partial(hnm.SparseNegatives, corpus, k=20)], every=SPARSE_STEPS)
            ranking = SparseMultipleNegativesRankingLoss(student)
            loss = SpladeLoss(student, ranking, document_regularizer_weight=3e-5, query_regularizer_weight=5e-5)
            train(student, live, loss, run, SPARSE_STEPS + 1, step)
            refreshes.append({part: step.history[0][f"seconds_{part}"] for part in ("encode", "index", "mine")})
        found[set_name(source)] = {
            "passages": len(corpus),
            "queries": len(mined),
            "alone": alone,
            "refreshes": refreshes,
        }
    return found


def show_sparse(found: dict[str, Any]) -> str:
    lines = []
    for name, one in found.items():
        whole = [sum(refresh.values()) for refresh in one["refreshes"]]
        best, alone = one["refreshes"][int(np.argmin(whole))], min(one["alone"])
        parts = (f"{best[part]:.2f} s" for part in ("encode", "index", "mine"))
        lines.append((name, one["passages"], one["queries"], *parts, f"{alone:.2f} s", f"{min(whole) / alone:.2f}"))
    heads = "set|passages|queries|encoding|indexing|mining|`encode` alone|the refresh, times `encode` alone"
    return "The fastest of the repeats.\n\n" + table(heads, lines)


if __name__ == "__main__":
    Benchmark(
        {
            "between": Part("Between refreshes", between, show_between),
            "refresh": Part("One refresh", refresh, show_refresh),
            "sparse": Part("One refresh of a sparse student", sparse, show_sparse),
        },
        {
            "student": option("static", choices=("static", "minilm")),
            "queries": option(2000, "at most"),
            "batch": option(32),
            "steps": option(60),
            "sparse": option("", "the path or Hub id of a SparseEncoder, for the part of that name"),
            "tokens": option(128, "of each text that the sparse student reads"),
        },
        sets="+",
    ).run()
