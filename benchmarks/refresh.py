"""What does a refresh of the negatives cost, and what do live negatives cost between refreshes?

    python benchmarks/refresh.py SET... --student static

Needs the `dev` extra, and train splits. Parts (`--parts`), each a section:

- between: seconds per step of the stock trainer, with a plain dataset of texts and `MultipleNegativesRankingLoss`;
  with `live_negatives`, `HardNegativesRankingLoss` and a `RefreshNegatives` that is never due; and each of them alone.
  Same student, same number of texts and steps. The sides run in turns; medians of `--repeats`.
- refresh: one refresh at a step in the middle: seconds for encoding, indexing and mining; and with `background=True`
  the seconds per step during the refresh, over those after it.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from measuring import in_turns, spread_of
from models import make_model
from runner import Benchmark, Part, Run, option, set_name, table
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


def load(source: str, run: Run) -> tuple[hnm.Corpus, Dataset]:
    corpus, queries = hnm.load_beir(source, "train")
    queries = queries.filter(lambda ids: len(ids) > 0, input_columns="positive_ids")
    queries = queries.select(range(min(run.queries, len(queries)))).flatten_indices()
    return corpus, queries.map(hnm.BM25Negatives(corpus, k=20), batched=True)


def train(student: Any, data: Dataset, loss: Any, run: Run, steps: int, *callbacks: Any) -> list[float]:
    """Train, and return the seconds of each step after the first ones."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        options = SentenceTransformerTrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=run.batch, learning_rate=1e-3,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, optim="adamw_torch_fused",
        )  # fmt: skip
        SentenceTransformerTrainer(
            student, options, train_dataset=data, loss=loss, callbacks=[*callbacks, clock]
        ).train()
    return np.diff(clock.ends).tolist()


def between(run: Run) -> dict[str, Any]:
    """Time steps without a refresh, in all ways in turns."""
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


if __name__ == "__main__":
    Benchmark(
        {
            "between": Part("Between refreshes", between, show_between),
            "refresh": Part("One refresh", refresh, show_refresh),
        },
        {
            "student": option("static", choices=("static", "minilm")),
            "queries": option(2000, "at most"),
            "batch": option(32),
            "steps": option(60),
        },
        sets="+",
    ).run()
