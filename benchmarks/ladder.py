"""Train one student with different negatives, and nothing else different: is hard mining worth its cost?

    python benchmarks/ladder.py FOLDER... --cross-encoder cross-encoder/ms-marco-MiniLM-L6-v2 --max-length 256

Each FOLDER is a set in BEIR's form with a train and a test split. Needs the `dev` extra. For each rung and seed the
student (`--student`: static embeddings, or minilm) is trained for `--steps` steps of `--batch` pairs with
`--negatives` negatives each, on `--queries` train queries, by the stock trainer with `HardNegativesRankingLoss`; then
test queries are searched in the whole corpus. Known positives are masked on all rungs. The rungs:

- untrained; in-batch: the other rows' passages alone; random: passages of the corpus at random; BM25: drawn from its
  best `--k`; dense: drawn from the best `--k` of the student before training;
- … denoised: `DropNearDuplicates`, then `RelativeMargin(0.05)` by a teacher (`--teacher`, a bi-encoder), over `--depth`
  candidates, of which the best `--k` are left;
- dynamic: starts from BM25 and is mined again with the student every `--every` steps, plain and denoised;
- cross-encoder: of half of dense's candidates those that a cross-encoder scores below 0.95 times the positive.

What a rung costs is the time of its mining (its first run's, with what earlier rungs left in the cache: the teacher's
encoding of the corpus is in the first that needs it), and the medians of its refreshes and of its training. Results are
written after each run to ladder-NAMES.json, .md and .png in `--output`, and a run that is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset
from models import make_model
from runner import RESULTS, git_commit, machine, table
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

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.args = args
        self.corpus, train = hnm.load_beir(folder, "train")
        _, self.test = hnm.load_beir(folder, "test")
        train = train.filter(lambda positives: len(positives) > 0, input_columns="positive_ids")
        self.train = train.shuffle(seed=0).select(range(min(args.queries, len(train)))).flatten_indices()
        # Search in the whole corpus by cosine, as the student is trained.
        self.evaluator = retrieval_evaluator(
            self.corpus, self.test, batch_size=1024, write_csv=False, show_progress_bar=False,
            accuracy_at_k=[10], precision_recall_at_k=[10, 100], mrr_at_k=[10], ndcg_at_k=[10], map_at_k=[10],
        )  # fmt: skip

    def denoise(self) -> list[Transform]:
        """Return the steps that take out likely false negatives by the teacher."""
        model = make_model(self.args.teacher)
        scores = hnm.BiEncoderScores(self.corpus, model, "teacher", embeddings=self.corpus.embed(model))
        return [hnm.DropNearDuplicates(self.corpus), scores, hnm.RelativeMargin(MARGIN, by="teacher")]

    def static(self, rung: str, student: Any) -> list[Transform]:
        """Return the steps of a rung that mines once."""
        corpus, k, depth = self.corpus, self.args.k, self.args.depth
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
            options = {} if self.args.max_length is None else {"max_length": self.args.max_length}
            teacher = hnm.CrossEncoderScores(corpus, CrossEncoder(self.args.cross_encoder, **options), batch_size=64)
            kept = [hnm.RelativeMargin(MARGIN, by="teacher"), hnm.SortNegatives("teacher")]
            return [hnm.DenseNegatives(corpus, student, k=k // 2), teacher, *kept]
        return []

    def dynamic(self, rung: str) -> list[Any]:
        """Return the steps of a refresh."""
        corpus, k = self.corpus, self.args.k
        if rung == "dynamic":
            return [partial(hnm.DenseNegatives, corpus, k=k)]
        if rung == "dynamic, denoised":
            return [partial(hnm.DenseNegatives, corpus, k=self.args.depth), *self.denoise(), hnm.TopNegatives(k)]
        return []

    def mine(self, steps: Sequence[Transform]) -> Dataset:
        """Run steps over the train queries."""
        rows = self.train
        for step in steps:
            rows = rows.map(step, batched=True, load_from_cache_file=False)
        return rows


def train(data: Set, rung: str, seed: int, folder: Path) -> Finding:
    """Train and evaluate one student."""
    args = data.args
    student = make_model(args.student)
    if rung == "untrained":
        return {"measures": data.evaluator(student), "seconds": {}}
    start = time.perf_counter()
    rows = data.mine(data.static(rung, student))
    refreshing = data.dynamic(rung)
    mined = time.perf_counter()
    live = live_negatives(rows, data.corpus, n=args.negatives, seed=seed)
    callbacks = [RefreshNegatives(live, refreshing, every=args.every)] if refreshing else []
    options = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=args.steps, per_device_train_batch_size=args.batch, seed=seed, data_seed=seed,
        learning_rate=args.learning_rate, warmup_steps=args.steps // 10, logging_steps=50, save_strategy="no",
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


# ---- report ------------------------------------------------------------------------------------------------------


def rungs_of(args: argparse.Namespace) -> list[str]:
    rungs = ["untrained", "in-batch", "random", "BM25", "dense", "dense, denoised", "dynamic"]
    return [*rungs, "dynamic, denoised", *(["cross-encoder"] if args.cross_encoder else [])]


def values_of(runs: list[Finding], measure: str) -> np.ndarray[Any, Any]:
    """Return a measure of each seed, as a percentage."""
    return np.array([100 * next(v for k, v in run["measures"].items() if k.endswith(measure)) for run in runs])


def show(found: Finding) -> str:
    """Return the report."""
    shown = [f"# Ladder\n\n![nDCG@10 by negatives]({found['name']}.png)\n\n{found['about']}\n"]
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
    on = found["machine"]
    versions = ", ".join(" ".join(pair) for pair in on["versions"].items())
    shown.append(
        f"`{found['command']}`. {on['cpu']}, {on['cores']} cores, {on['memory_gib']} GiB; {found['date']}, commit "
        f"{found['commit'][:12]}; {versions}.\n"
    )
    return "\n".join(shown)


def plot(found: Finding, target: Path) -> None:
    """Draw nDCG@10 of each rung, a dot per seed."""
    from matplotlib.figure import Figure

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


def main(args: argparse.Namespace) -> None:
    name = "-".join(["ladder", *(folder.resolve().name for folder in args.folders)])
    target = args.output / f"{name}.json"
    args.output.mkdir(parents=True, exist_ok=True)
    words = ["python", "benchmarks/ladder.py", *(folder.resolve().name for folder in args.folders)]
    for key, value in vars(args).items():
        if key not in ("folders", "output") and value != PARSER.get_default(key):
            shown = Path(value).name if key == "cross_encoder" else value
            words += [f"--{key.replace('_', '-')}", *map(str, shown if isinstance(shown, list) else [shown])]
    found: Finding = json.loads(target.read_text()) if target.exists() else {"sets": {}}
    found |= {
        "name": name,
        "about": f"{args.student} student, {args.steps} steps of {args.batch} pairs with {args.negatives} negatives, "
        f"learning rate {args.learning_rate:g}, at most {args.queries} train queries; mean and standard deviation over "
        f"seeds, in percent. Teacher: {args.teacher}.",
        "command": " ".join(words),
        "date": time.strftime("%Y-%m-%d"),
        "commit": git_commit(),
        "machine": machine(),
    }
    datasets.disable_progress_bars()
    logging.getLogger("hnm_datasets").setLevel(logging.ERROR)
    for seed in range(args.seeds):
        for folder in args.folders:
            data = None
            for rung in args.rungs or rungs_of(args):
                runs = found["sets"].setdefault(folder.resolve().name, {}).setdefault(rung, {})
                if str(seed) in runs or (rung == "untrained" and runs):
                    continue
                data = data or Set(folder, args)
                with tempfile.TemporaryDirectory() as place:
                    runs[str(seed)] = train(data, rung, seed, Path(place))
                target.write_text(json.dumps(found, indent=1, default=float) + "\n")
                values = values_of([runs[str(seed)]], "ndcg@10")
                print(folder.name, rung, seed, f"{values[0]:.1f}", runs[str(seed)]["seconds"], flush=True)
    target.with_suffix(".md").write_text(show(found))
    plot(found, target.with_suffix(".png"))
    print(show(found))


PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("folders", nargs="+", type=Path, help="sets in BEIR's form")
PARSER.add_argument("--student", default="static", choices=("static", "minilm"))
PARSER.add_argument("--teacher", default="minilm", choices=("static", "minilm"))
PARSER.add_argument("--cross-encoder", help="a path or Hub id; without it that rung is left out")
PARSER.add_argument("--max-length", type=int, help="cut the cross-encoder's pairs to this many tokens")
PARSER.add_argument("--rungs", nargs="+", help="only these")
PARSER.add_argument("--queries", type=int, default=2000)
PARSER.add_argument("--steps", type=int, default=300)
PARSER.add_argument("--batch", type=int, default=32)
PARSER.add_argument("--negatives", type=int, default=4)
PARSER.add_argument("--learning-rate", type=float, default=0.02)
PARSER.add_argument("--k", type=int, default=20)
PARSER.add_argument("--depth", type=int, default=50)
PARSER.add_argument("--every", type=int, default=50)
PARSER.add_argument("--seeds", type=int, default=3)
PARSER.add_argument("--output", type=Path, default=RESULTS)

if __name__ == "__main__":
    main(PARSER.parse_args())
