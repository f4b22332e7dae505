"""Measure what a refresh costs, by part, and what live negatives cost between refreshes.

    python benchmarks/refresh.py FOLDER... --student static

Each FOLDER is a set in BEIR's form with a train split. Needs the `dev` extra. Parts (`--parts`), each a section:

- between: seconds per step of the stock trainer, with a plain dataset of texts and `MultipleNegativesRankingLoss`;
  with `live_negatives`, `HardNegativesRankingLoss` and a `RefreshNegatives` that is never due; and each of them alone.
  Same student, same number of texts and steps. The sides take turns; medians of `--repeats`.
- refresh: one refresh at a step in the middle: seconds for encoding, indexing and mining; and with `background=True`
  the seconds per step while the refresh is under way, over those after it.

Results go to refresh-NAMES.json and .md in `--output`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _common import Parts, run_script, spread_of, table
from _models import make_model
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import TrainerCallback

import hnm_datasets as hnm

NEVER = 10**9
NEGATIVES = 4


class Clock(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def load(folder: Path, args: argparse.Namespace) -> tuple[hnm.Corpus, Dataset]:
    corpus, queries = hnm.load_beir(folder, "train")
    queries = queries.filter(lambda ids: len(ids) > 0, input_columns="positive_ids")
    queries = queries.select(range(min(args.queries, len(queries)))).flatten_indices()
    return corpus, queries.map(hnm.BM25Negatives(corpus, k=20), batched=True)


def train(student: Any, data: Dataset, loss: Any, args: argparse.Namespace, steps: int, *callbacks: Any) -> list[float]:
    """Train, and return the seconds of each step after the first ones."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        options = SentenceTransformerTrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=args.batch, learning_rate=1e-3,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, optim="adamw_torch_fused",
        )  # fmt: skip
        SentenceTransformerTrainer(
            student, options, train_dataset=data, loss=loss, callbacks=[*callbacks, clock]
        ).train()
    return np.diff(clock.ends).tolist()


def between(args: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Time steps without a refresh, in all ways in turns."""
    found = {}
    for folder in args.folders:
        corpus, mined = load(folder, args)
        live = hnm.live_negatives(mined, corpus, n=NEGATIVES)
        taken = live[:]
        texts = Dataset.from_dict({name: values for name, values in taken.items() if name != "label"})
        seconds: dict[str, list[float]] = {name: [] for name in ("plain", "rows", "loss", "all")}
        for _repeat in range(args.repeats):
            for name in seconds:
                student = make_model(args.student)
                ours = name in ("loss", "all")
                loss = (hnm.HardNegativesRankingLoss if ours else MultipleNegativesRankingLoss)(student)
                data = live if name in ("rows", "all") else texts
                steps = [partial(hnm.DenseNegatives, corpus, k=20)]
                callbacks = [hnm.RefreshNegatives(live, steps, every=NEVER)] if name == "all" else []
                seconds[name].append(float(np.median(train(student, data, loss, args, args.steps, *callbacks)[5:])))
        found[folder.name] = {name: spread_of(times) for name, times in seconds.items()}
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


def refresh(args: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Refresh once, in the way of the training and beside it."""
    found = {}
    for folder in args.folders:
        corpus, mined = load(folder, args)
        live = hnm.live_negatives(mined, corpus, n=NEGATIVES)
        ways = {}
        for name, beside in (("within", False), ("beside", True)):
            student = make_model(args.student)
            step = hnm.RefreshNegatives(
                live, [partial(hnm.DenseNegatives, corpus, k=20)], args.steps, background=beside
            )
            loss = hnm.HardNegativesRankingLoss(student)
            seconds = train(student, live, loss, args, 2 * args.steps - 1, step)
            about = step.history[0] if step.history else {}
            during = seconds[args.steps : about.get("step", 2 * args.steps)]
            ways[name] = about | {"step_before": float(np.median(seconds[5 : args.steps - 1]))}
            ways[name] |= {"step_during": float(np.median(during))} if beside and during else {}
        found[folder.name] = ways | {"passages": len(corpus), "queries": len(mined)}
    return found


def show_refresh(found: dict[str, Any]) -> str:
    lines = []
    for name, one in found.items():
        parts = (f"{one['within'][f'seconds_{part}']:.2f} s" for part in ("encode", "index", "mine"))
        beside = one["beside"]
        slower = f"{beside['step_during'] / beside['step_before']:.2f}" if "step_during" in beside else ""
        late = str(beside["step"] - beside["model_step"]) if "step" in beside else "not in time"
        lines.append((name, f"{one['passages']:,}", f"{one['queries']:,}", *parts, slower, late))
    return table(
        "set|passages|queries|encoding|indexing|mining|a step while one runs beside it, times one before|steps late",
        lines,
    )


PARTS: Parts = {
    "between": ("Between refreshes", between, show_between),
    "refresh": ("One refresh", refresh, show_refresh),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="sets in BEIR's form")
    parser.add_argument("--student", default="static", choices=("static", "minilm"))
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    run_script(parser, PARTS, {})
