"""Is hard mining worth its cost? One student, trained with different negatives and everything else equal.

    python benchmarks/ladder.py SET --epochs 1
    python benchmarks/ladder.py SET --student minilm-2 --tokens 64 --learning-rate 1e-4

Needs the `dev` extra and a set with train and test splits. For each arm and seed, the stock trainer trains the student
(`--student`: static embeddings, minilm, or the first layers of MiniLM, as in "minilm-2") for `--epochs` with
`HardNegativesRankingLoss`, on all train queries except `--dev` of them, with `--negatives` negatives per row. Then the
test and the dev queries are searched in the whole corpus. Known positives are masked in all arms. The arms:

- untrained; in-batch: only the passages of other rows; random: random passages of the corpus; BM25, dense: sampled from
  the best `--k` of BM25, or of the student before training; fused: of both (RRF); mixed: half dense, a quarter BM25, a
  quarter random;
- … denoised: `DropNearDuplicates`, then `RelativeMargin(0.05)` with a teacher (`--teacher`, a bi-encoder), over
  `--depth` candidates, of which the best `--k` are kept; … relabelled: candidates that the teacher scores above the
  median positive become positives, and those between the lower quartile and the median are dropped;
- cross-encoder (with `--cross-encoder`): from half of the dense candidates, those that score below 0.95 times the
  positive;
- dynamic: starts with BM25 and mines `--refreshes` times with the student; … mixed and denoised as above; with a
  margin: drops near duplicates of positives, and passages that the student scores more than 0.1 above them; with
  memory: half of the candidates are from earlier refreshes; late: the first refresh is after 0.3 epochs; queries: the
  corpus is encoded once, later only the queries; stale: only if the weight of the negatives has fallen to 0.8 times its
  value.

With `--known 1` the training knows only one positive of each query, as in sets with few judgments. The column *false*
is the share of candidates that are relevant and hidden; for dynamic arms, before the first refresh.

Differences are paired by query over the same seeds. Their 95% intervals use Student's t. The variance is that over
queries (of the mean over seeds) plus that over seeds (of the mean over queries), with the degrees of freedom of Welch
and Satterthwaite. The measures are from `ir_measures`.

Costs are seconds of CPU, summed over cores: of an arm's mining (in its first run, with the cache of earlier arms, so
the first arm with a teacher includes the teacher's encoding of the corpus), and the medians of its refreshes and of its
training. Results are written after each run, and finished runs are not repeated. `--kept` is a folder that keeps
encodings and teacher scores between calls.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import ir_measures
import numpy as np
import torch
from datasets import Dataset
from ir_measures import RR, R, nDCG
from ladder_arms import ARMS, Arm, Set
from matplotlib.figure import Figure
from numpy.typing import NDArray
from runner import Benchmark, Part, Run, option, set_name, table
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import TrainerCallback

import hnm_datasets as hnm
from hnm_datasets.piloting.intervals import paired

MEASURES = {"nDCG@10": nDCG @ 10, "MRR@10": RR @ 10, "recall@10": R @ 10, "recall@100": R @ 100}
DEPTH = 100
ALL_QUERIES = 10**9
#: The arms in the plot.
DRAWN = ("in-batch", "BM25", "dense", "dynamic", "dynamic, queries")
Finding = dict[str, Any]
#: Values of each query by measure. Shape (Q, M).
Values = NDArray[np.float32]


# ---- one training ------------------------------------------------------------------------------------------------


def values_of(student: Any, corpus: hnm.Corpus, queries: Dataset) -> Values:
    """Search the corpus with a student, and return all measures per query."""
    (values,) = values_of_splits(student, corpus, [queries])
    return values


def values_of_splits(student: Any, corpus: hnm.Corpus, splits: Sequence[Dataset]) -> list[Values]:
    """Do the same for several sets of queries, with one encoding of the corpus."""
    embeddings = corpus.embed(student, batch_size=256)
    step = hnm.DenseNegatives(corpus, student, k=DEPTH, batch_size=256)
    values = [measured(step, queries) for queries in splits]
    embeddings.discard()
    step.model.discard()
    return values


def measured(step: hnm.DenseNegatives, queries: Dataset) -> Values:
    # Without positives nothing is left out.
    asked = {"query_id": queries["query_id"][:], "query": queries["query"][:], "positive_ids": [[]] * len(queries)}
    found = step(asked)["negative_ids"]
    names = [str(row) for row in range(len(queries))]
    ranked = {
        name: {one: float(-place) for place, one in enumerate(ids)} for name, ids in zip(names, found, strict=True)
    }
    relevant = {name: dict.fromkeys(ids, 1) for name, ids in zip(names, queries["positive_ids"], strict=True)}
    places = {measure: column for column, measure in enumerate(MEASURES.values())}
    values = np.zeros((len(names), len(places)), dtype=np.float32)
    for one in ir_measures.iter_calc(list(places), relevant, ranked):
        values[int(one.query_id), places[one.measure]] = one.value
    return values


class Stopwatch:
    """Count the CPU seconds of a callback, as the callback before and after it."""

    class _Noting(TrainerCallback):
        def __init__(self, note: Callable[[], None]) -> None:
            self.on_train_begin = self.on_step_end = lambda *args, **kwargs: note()

    def __init__(self) -> None:
        self.spent = self._since = 0.0
        self.started, self.stopped = self._Noting(self._start), self._Noting(self._stop)

    def _start(self) -> None:
        self._since = time.process_time()

    def _stop(self) -> None:
        self.spent += time.process_time() - self._since


class Course(TrainerCallback):
    """Measure the student during training, without adding to the training time."""

    def __init__(self, data: Set, every: int) -> None:
        self.data, self.every = data, every
        self.points: list[Finding] = []
        self.spent = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Measure, if it is due."""
        if state.global_step % self.every == 0:
            start = time.process_time()
            with torch.random.fork_rng():
                model.eval()
                values = values_of(model, self.data.corpus, self.data.dev).mean(axis=0)
                model.train()
            self.points.append({"step": state.global_step} | dict(zip(MEASURES, values.tolist(), strict=True)))
            self.spent += time.process_time() - start


def train(data: Set, arm: Arm | None, seed: int, epochs: float, folder: Path) -> tuple[Finding, Values]:
    """Train and evaluate one student."""
    run = data.options
    student = data.student()
    about: Finding = {"seconds": {}}
    if arm is not None:
        start = time.process_time()
        rows = data.train
        for step in arm.first(data, student):
            rows = rows.map(step, batched=True, load_from_cache_file=False)
        about["false"] = data.false_share(rows) if "negative_ids" in rows.features else None
        mined = time.process_time()
        live = hnm.live_negatives(rows, data.corpus, n=run.negatives, seed=seed)
        # The same number of steps for all arms, although relabelled ones have more rows.
        steps = round(epochs * -(-sum(map(len, data.train["positive_ids"])) // run.batch))
        stopwatch, callbacks = Stopwatch(), []
        if arm.refresh is not None:
            every = max(1, -(-steps // (run.refreshes + 1)))
            refresh = hnm.RefreshNegatives(live, arm.refresh(data, None), every=every, **arm.options)
            callbacks = [stopwatch.started, refresh, stopwatch.stopped]
        elif "negative_ids" in rows.features:
            callbacks = [hnm.FollowEpochs(live)]
        course = Course(data, max(1, steps // run.points)) if seed < run.courses else None
        options = SentenceTransformerTrainingArguments(
            output_dir=str(folder), max_steps=steps, per_device_train_batch_size=run.batch, seed=seed, data_seed=seed,
            learning_rate=run.learning_rate, warmup_steps=steps // 10, logging_steps=50, save_strategy="no",
            report_to=[], disable_tqdm=True, use_cpu=not torch.cuda.is_available(), optim="adamw_torch_fused",
        )  # fmt: skip
        SentenceTransformerTrainer(
            student, options, train_dataset=live, loss=hnm.HardNegativesRankingLoss(student),
            callbacks=[*callbacks, *([course] if course else [])],
        ).train()  # fmt: skip
        end = time.process_time()
        about["steps"] = steps
        about["refreshes"] = refresh.history if arm.refresh is not None else []
        about["seconds"] = {"mine": mined - start, "refresh": stopwatch.spent}
        about["seconds"]["train"] = end - mined - stopwatch.spent - (course.spent if course else 0)
        about["course"] = course.points if course else []
    splits = dict(zip(("dev", "test"), values_of_splits(student, data.corpus, [data.dev, data.test]), strict=True))
    about |= {name: dict(zip(MEASURES, values.mean(axis=0).tolist(), strict=True)) for name, values in splits.items()}
    return about, splits["test"]


# ---- all trainings -----------------------------------------------------------------------------------------------


def table_name(run: Run, epochs: float) -> str:
    """Return the title of a table: the settings that its arms share."""
    hidden = f", {run.known} positive{'s' * (run.known > 1)} known" if run.known else ""
    cut = f", {run.queries:,} queries" if run.queries < ALL_QUERIES else ""
    return f"{run.student}, {epochs:g} epoch{'s' * (epochs != 1)}{cut}{hidden}"


def arms_of(run: Run) -> list[str]:
    names = ["untrained", *(name for name in ARMS if run.cross_encoder or name != "cross-encoder")]
    unknown = sorted({*run.arms} - {*names})
    if unknown:
        raise SystemExit(f"There is no arm {unknown[0]!r}, only {', '.join(names)}.")
    return [name for name in names if name in (run.arms or names)]


def measure(run: Run) -> Finding:
    logging.getLogger("hnm_datasets").setLevel(logging.ERROR)
    if run.kept:
        datasets.config.HF_DATASETS_CACHE = Path(run.kept)
    (source,) = run.sets
    place = run.out / f"ladder-{set_name(source)}.npz"
    each: dict[str, Values] = dict(np.load(place)) if place.exists() else {}
    found: Finding = {"set": set_name(source), "tables": run.found.get("tables", {})}
    data = None
    for seed in range(run.seeds):
        for name in arms_of(run):
            title = table_name(run, run.epochs)
            told = found["tables"].setdefault(title, {"about": about(run), "arms": {}})
            runs = told["arms"].setdefault(name, {})
            if str(seed) in runs or (name == "untrained" and runs):
                continue
            data = data or Set(source, run)
            with tempfile.TemporaryDirectory() as folder:
                runs[str(seed)], values = train(data, ARMS.get(name), seed, run.epochs, Path(folder))
            each[f"{title}/{name}/{seed}"] = values.astype(np.float16)
            np.savez_compressed(place, **each)
            told["differences"] = differences(title, told["arms"], each)
            run.save(found)
            shown = ", ".join(f"{measure} {100 * value:.1f}" for measure, value in runs[str(seed)]["test"].items())
            print(found["set"], title, name, seed, shown, runs[str(seed)]["seconds"], flush=True)
    return found


def about(run: Run) -> str:
    """Describe the settings that all trainings of a table share."""
    return (
        f"Batches of {run.batch} with {run.negatives} negatives a row, learning rate {run.learning_rate:g}, "
        f"{run.refreshes} refreshes. Teacher: {run.teacher}."
    )


def differences(title: str, arms: Finding, each: dict[str, Values]) -> Finding:
    """Return the gain of each arm over the best arm without refreshes, per measure, with 95% intervals."""
    static = [name for name in arms if name in ARMS and ARMS[name].refresh is None and arms[name]]
    found: Finding = {}
    for column, measure in enumerate(MEASURES):
        if not static:
            continue
        best = max(static, key=lambda name: np.mean([one["test"][measure] for one in arms[name].values()]))
        for name in arms:
            seeds = sorted({*arms[name]} & {*arms[best]})
            if name in (best, "untrained") or not seeds:
                continue
            ours, theirs = (
                np.array([each[f"{title}/{one}/{seed}"][:, column] for seed in seeds], dtype=np.float64)
                for one in (name, best)
            )
            gain = paired(ours - theirs)
            found.setdefault(name, {})[measure] = {
                "against": best, "mean": gain.mean, "low": gain.low, "high": gain.high,
            }  # fmt: skip
    return found


# ---- report ------------------------------------------------------------------------------------------------------


def show(found: Finding) -> str:
    """Return the tables of a set."""
    picture = f"![recall@10 along the training]({found['name']}.png)\n\n" if courses_of(found) else ""
    return picture + "\n".join(show_table(found, title, told) for title, told in found["tables"].items())


def courses_of(found: Finding) -> dict[str, dict[str, list[Finding]]]:
    """Return the measurements during training of the first seed, by table and arm."""
    tables = {
        title: {name: told["arms"].get(name, {}).get("0", {}).get("course") for name in DRAWN}
        for title, told in found["tables"].items()
    }
    drawn = {title: {name: course for name, course in arms.items() if course} for title, arms in tables.items()}
    return {title: arms for title, arms in drawn.items() if arms}


def show_table(found: Finding, title: str, told: Finding) -> str:
    lines, gains = [], []
    for name, by_seed in told["arms"].items():
        runs = list(by_seed.values())
        if not runs:
            continue
        row = [name]
        for measure in MEASURES:
            values = 100 * np.array([one["test"][measure] for one in runs])
            row.append(f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" if len(values) > 1 else f"{values[0]:.1f}")
        row.append(f"{100 * np.mean([one['dev']['nDCG@10'] + one['dev']['recall@10'] for one in runs]) / 2:.1f}")
        false = runs[0].get("false")
        row.append(None if false is None else f"{100 * false:.1f}")
        row.append(f"{max(one['seconds'].get('mine', 0) for one in runs):.0f}")
        row += [f"{np.median([one['seconds'].get(part, 0) for one in runs]):.0f}" for part in ("refresh", "train")]
        lines.append(tuple(row))
        if name in told.get("differences", {}):
            gains.append((name, *(gain_of(told["differences"][name].get(measure)) for measure in MEASURES)))
    against = {
        measure: {one[measure]["against"] for one in told.get("differences", {}).values() if measure in one}
        for measure in MEASURES
    }
    heads = [f"{measure} − {', '.join(names)}" for measure, names in against.items()]
    steps = max((one.get("steps", 0) for runs in told["arms"].values() for one in runs.values()), default=0)
    return (
        f"## {found['set']}: {title}\n\n{told['about']} {steps:,} steps. Mean and standard deviation over seeds, in "
        f"percent.\n\n"
        + table(
            "|".join(["negatives", *MEASURES, "on dev", "false", "mining, s", "refreshes, s", "training, s"]), lines
        )
        + "\nDifference to the best arm without refreshes, with its 95% interval; bold where zero is outside:\n\n"
        + table("|".join(["negatives", *heads]), gains)
    )


def gain_of(gain: Finding | None) -> str | None:
    if gain is None:
        return None
    shown = "{mean:+.1f} ({low:+.1f} to {high:+.1f})".format(**{k: 100 * v for k, v in gain.items() if k != "against"})
    return f"**{shown}**" if gain["low"] > 0 or gain["high"] < 0 else shown


def plot(found: Finding, target: Path) -> None:
    """Draw recall@10 on the dev queries during training, for the first seed."""
    tables = courses_of(found)
    if not tables:
        return
    figure = Figure(figsize=(8, 3.6 * len(tables)), layout="constrained", facecolor="white")
    for axes, (title, arms) in zip(figure.subplots(len(tables), squeeze=False)[:, 0], tables.items(), strict=True):
        for name, points in arms.items():
            dynamic = ARMS[name].refresh is not None
            axes.plot(
                [one["step"] for one in points], [100 * one["recall@10"] for one in points],
                "-" if dynamic else "--", linewidth=2.2 if dynamic else 1.4, label=name,
            )  # fmt: skip
        axes.set_title(f"{found['set']}: {title} (whole lines: mined again while training)")
        axes.set_xlabel("step")
        axes.set_ylabel("recall@10 on dev (%)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, ncols=2)
    figure.savefig(target, dpi=150)


if __name__ == "__main__":
    Benchmark(
        {"": Part("", measure, show)},
        {
            "student": option("static", "static, minilm, or minilm-N for its first N layers"),
            "teacher": option("minilm", choices=("static", "minilm")),
            "cross-encoder": option(None, "a path or Hub id; without it that arm is left out", str),
            "max-length": option(None, "cut the cross-encoder's pairs to this many tokens", int),
            "tokens": option(128, "of a text that a minilm student reads"),
            "teacher-tokens": option(128, "of a text that a minilm teacher reads"),
            "arms": option([], "only these", str),
            "known": option(0, "positives of each query that the training knows; 0: all"),
            "queries": option(ALL_QUERIES, "train queries, at most"),
            "dev": option(500, "train queries that are kept from the training, at most a tenth of them"),
            "epochs": option(1.0),
            "batch": option(32),
            "negatives": option(4),
            "learning-rate": option(0.02),
            "k": option(20, "candidates to draw from"),
            "depth": option(50, "candidates before the filters"),
            "refreshes": option(6, "of dynamic arms, spread evenly"),
            "seeds": option(5, "runs of each arm"),
            "courses": option(1, "seeds whose student is measured on the way"),
            "points": option(7, "of a course"),
            "kept": option(None, "a folder for encodings and scores, used again by the next call", str),
        },
        sets=1,
        file=lambda names: f"ladder-{names[0]}",
        repeats=None,
        plot=plot,
    ).run()
