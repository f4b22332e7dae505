"""Is hard mining worth its cost? One student trained with different negatives, and nothing else different.

    python benchmarks/ladder.py SET... --cross-encoder cross-encoder/ms-marco-MiniLM-L6-v2 --max-length 256

Needs the `dev` extra, and sets with train and test splits. For each rung and seed the student (`--student`: static
embeddings, or minilm) is trained for `--steps` steps of `--batch` pairs with `--negatives` negatives each, on
`--queries` train queries, by the stock trainer with `HardNegativesRankingLoss`; then test queries are searched in the
whole corpus. Known positives are masked on all rungs. The rungs:

- untrained; in-batch: the other rows' passages alone; random: passages of the corpus at random; BM25: drawn from its
  best `--k`; dense: drawn from the best `--k` of the student before training;
- … denoised: `DropNearDuplicates`, then `RelativeMargin(0.05)` by a teacher (`--teacher`, a bi-encoder), over `--depth`
  candidates, of which the best `--k` are left;
- dynamic: starts from BM25 and is mined again with the student every `--every` steps, plain and denoised;
- cross-encoder: of half of dense's candidates those that a cross-encoder scores below 0.95 times the positive.

The cost of a rung is the time of its mining (its first run's, with what earlier rungs left in the cache: the teacher's
encoding of the corpus is in the first that needs it), and the medians of its refreshes and of its training. Results are
written after each run, and a run that is there is not done again.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from matplotlib.figure import Figure
from models import make_model
from runner import Benchmark, Part, Run, option, set_name, table
from sentence_transformers import CrossEncoder, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

import hnm_datasets as hnm
from hnm_datasets.training.evaluation import retrieval_evaluator
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss
from hnm_datasets.training.refresh import RefreshNegatives
from hnm_datasets.transforms.base import Transform

MEASURES = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "recall@10": "recall@10", "recall@100": "recall@100"}
#: How much of the positive's score by the teacher a candidate must stay below.
MARGIN = 0.05
Finding = dict[str, Any]


class Set:
    """One set: its passages and queries, and the steps of each rung."""

    def __init__(self, source: str, run: Run) -> None:
        self.options = run
        self.corpus, train = hnm.load_beir(source, "train")
        _, self.test = hnm.load_beir(source, "test")
        train = train.filter(lambda positives: len(positives) > 0, input_columns="positive_ids")
        self.train = train.shuffle(seed=0).select(range(min(run.queries, len(train)))).flatten_indices()
        # Search in the whole corpus by cosine, as the student is trained.
        self.evaluator = retrieval_evaluator(
            self.corpus, self.test, batch_size=1024, write_csv=False, show_progress_bar=False,
            accuracy_at_k=[10], precision_recall_at_k=[10, 100], mrr_at_k=[10], ndcg_at_k=[10], map_at_k=[10],
        )  # fmt: skip

    def denoise(self) -> list[Transform]:
        """Return the steps that take out likely false negatives by the teacher."""
        model = make_model(self.options.teacher)
        scores = hnm.BiEncoderScores(self.corpus, model, "teacher", embeddings=self.corpus.embed(model))
        return [hnm.DropNearDuplicates(self.corpus), scores, hnm.RelativeMargin(MARGIN, by="teacher")]

    def static(self, rung: str, student: Any) -> list[Transform]:
        """Return the steps of a rung that mines once."""
        corpus, k, depth = self.corpus, self.options.k, self.options.depth
        if rung == "random":
            return [hnm.RandomNegatives(corpus, k=k)]
        if rung in ("BM25", "dynamic", "dynamic, denoised"):
            # Where dynamic negatives start.
            return [hnm.BM25Negatives(corpus, k=k)]
        if rung == "dense":
            return [hnm.DenseNegatives(corpus, student, k=k)]
        if rung == "dense, denoised":
            return [hnm.DenseNegatives(corpus, student, k=depth), *self.denoise(), hnm.TopNegatives(k)]
        if rung == "cross-encoder":
            options = {} if self.options.max_length is None else {"max_length": self.options.max_length}
            teacher = hnm.CrossEncoderScores(corpus, CrossEncoder(self.options.cross_encoder, **options), batch_size=64)
            kept = [hnm.RelativeMargin(MARGIN, by="teacher"), hnm.SortNegatives("teacher")]
            return [hnm.DenseNegatives(corpus, student, k=k // 2), teacher, *kept]
        return []

    def dynamic(self, rung: str) -> list[Any]:
        """Return the steps of a refresh."""
        corpus, k = self.corpus, self.options.k
        if rung == "dynamic":
            return [partial(hnm.DenseNegatives, corpus, k=k)]
        if rung == "dynamic, denoised":
            return [partial(hnm.DenseNegatives, corpus, k=self.options.depth), *self.denoise(), hnm.TopNegatives(k)]
        return []

    def mine(self, steps: Sequence[Transform]) -> Dataset:
        """Run steps over the train queries."""
        rows = self.train
        for step in steps:
            rows = rows.map(step, batched=True, load_from_cache_file=False)
        return rows


def train(data: Set, rung: str, seed: int, folder: Path) -> Finding:
    """Train and evaluate one student."""
    run = data.options
    student = make_model(run.student)
    if rung == "untrained":
        return {"measures": data.evaluator(student), "seconds": {}}
    start = time.perf_counter()
    rows = data.mine(data.static(rung, student))
    refreshing = data.dynamic(rung)
    mined = time.perf_counter()
    live = live_negatives(rows, data.corpus, n=run.negatives, seed=seed)
    callbacks = [RefreshNegatives(live, refreshing, every=run.every)] if refreshing else []
    options = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=run.steps, per_device_train_batch_size=run.batch, seed=seed, data_seed=seed,
        learning_rate=run.learning_rate, warmup_steps=run.steps // 10, logging_steps=50, save_strategy="no",
        report_to=[], disable_tqdm=True, use_cpu=not torch.cuda.is_available(), optim="adamw_torch_fused",
    )  # fmt: skip
    loss = HardNegativesRankingLoss(student)
    trainer = SentenceTransformerTrainer(student, options, train_dataset=live, loss=loss, callbacks=callbacks)
    trainer.train()
    end = time.perf_counter()
    refreshes = callbacks[0].history if callbacks else []
    logged = [one for one in trainer.state.log_history if "loss" in one]
    spent = sum(one[f"seconds_{part}"] for one in refreshes for part in ("encode", "index", "mine"))
    return {
        "measures": data.evaluator(student),
        "seconds": {"mine": mined - start, "refresh": spent, "train": end - mined - spent},
        "masked": {
            kind: float(np.mean([one.get(f"masked_{kind}", 0.0) for one in logged])) for kind in ("in_batch", "mined")
        },
        "refreshes": refreshes,
    }


def rungs_of(run: Run) -> list[str]:
    rungs = ["untrained", "in-batch", "random", "BM25", "dense", "dense, denoised", "dynamic", "dynamic, denoised"]
    return run.rungs or [*rungs, *(["cross-encoder"] if run.cross_encoder else [])]


def measure(run: Run) -> Finding:
    logging.getLogger("hnm_datasets").setLevel(logging.ERROR)
    found: Finding = {
        "sets": run.found.get("sets", {}),
        "about": f"{run.student} student, {run.steps} steps of {run.batch} pairs with {run.negatives} negatives, "
        f"learning rate {run.learning_rate:g}, at most {run.queries} train queries; mean and standard deviation over "
        f"seeds, in percent. Teacher: {run.teacher}.",
    }
    for seed in range(run.seeds):
        for source in run.sets:
            data = None
            for rung in rungs_of(run):
                runs = found["sets"].setdefault(set_name(source), {}).setdefault(rung, {})
                if str(seed) in runs or (rung == "untrained" and runs):
                    continue
                data = data or Set(source, run)
                with tempfile.TemporaryDirectory() as place:
                    runs[str(seed)] = train(data, rung, seed, Path(place))
                run.save(found)
                (value,) = values_of([runs[str(seed)]], "ndcg@10")
                print(set_name(source), rung, seed, f"{value:.1f}", runs[str(seed)]["seconds"], flush=True)
    return found


# ---- report ------------------------------------------------------------------------------------------------------


def values_of(runs: list[Finding], measure: str) -> np.ndarray[Any, Any]:
    """Return a measure of each seed, as a percentage."""
    return np.array([100 * next(v for k, v in run["measures"].items() if k.endswith(measure)) for run in runs])


def show(found: Finding) -> str:
    """Return a table for each set."""
    shown = [f"![nDCG@10 by negatives]({found['name']}.png)\n\n{found['about']}\n"]
    for name, rungs in found["sets"].items():
        lines = []
        for rung, by_seed in rungs.items():
            runs = list(by_seed.values())
            row = [rung]
            for measure in MEASURES:
                values = values_of(runs, measure)
                row.append(f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" if len(values) > 1 else f"{values[0]:.1f}")
            masked = [one["masked"] for one in runs if "masked" in one]
            for kind in ("in_batch", "mined"):
                row.append(f"{100 * np.mean([one[kind] for one in masked]):.2f}" if masked else "")
            row.append(f"{max(one['seconds'].get('mine', 0) for one in runs):.0f}")
            for part in ("refresh", "train"):
                row.append(f"{np.median([one['seconds'].get(part, 0) for one in runs]):.0f}")
            lines.append(tuple(row))
        head = "negatives|" + "|".join(MEASURES.values())
        head += "|masked in batch, %|masked mined, %|mining, s|refreshes, s|training, s"
        shown.append(f"## {name}\n\n{table(head, lines)}")
    return "\n".join(shown)


def plot(found: Finding, target: Path) -> None:
    """Draw nDCG@10 of each rung, a dot per seed."""
    sets = found["sets"]
    figure = Figure(figsize=(8, 0.6 + 3.2 * len(sets)), layout="constrained", facecolor="white")
    for axes, (name, rungs) in zip(figure.subplots(len(sets), squeeze=False)[:, 0], sets.items(), strict=True):
        means = {rung: values_of(list(runs.values()), "ndcg@10") for rung, runs in rungs.items()}
        best = max(means, key=lambda rung: means[rung].mean())
        for place, values in enumerate(means.values()):
            axes.plot(values, np.full(len(values), place), "o", color="#0072B2", alpha=0.5)
            axes.plot(values.mean(), place, "|", color="#D55E00", markersize=16, markeredgewidth=3)
        axes.set_yticks(range(len(means)), list(means))
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(f"{name}: {best} is best, {means[best].mean():.1f}")
        axes.set_xlabel("nDCG@10 (%), a dot per seed, a bar for the mean")
    figure.savefig(target, dpi=200)


if __name__ == "__main__":
    Benchmark(
        {"": Part("", measure, show)},
        {
            "student": option("static", choices=("static", "minilm")),
            "teacher": option("minilm", choices=("static", "minilm")),
            "cross-encoder": option(None, "a path or Hub id; without it that rung is left out", str),
            "max-length": option(None, "cut the cross-encoder's pairs to this many tokens", int),
            "rungs": option([], "only these", str),
            "queries": option(2000, "train queries, at most"),
            "steps": option(300),
            "batch": option(32),
            "negatives": option(4),
            "learning-rate": option(0.02),
            "k": option(20, "candidates to draw from"),
            "depth": option(50, "candidates before the filters"),
            "every": option(50, "steps between refreshes"),
            "seeds": option(3, "runs of each rung"),
        },
        sets="+",
        repeats=None,
        plot=plot,
    ).run()
