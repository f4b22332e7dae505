"""Does a pilot on a sample recommend what the whole training set would?

    python benchmarks/ladder.py SET ...                # first: train on all queries
    python benchmarks/pilot.py SET SET ...             # then: compare with the pilot

Needs the `dev` extra, and the results of `ladder.py` for each SET in the folder of `--ladder`. The pilot gets the train
queries without those of dev, the arms of the ladder as strategies, and the same student. It never sees test queries.
The arms of the ladder are compared on the test queries, after training on all train queries.

- recommendations: for each set the recommendation of the pilot; its *regret*, the difference to the best arm of the
  ladder, with the 95% interval over queries and seeds; and Kendall's tau between the orders of the arms in the pilot
  and in the ladder;
- sample: the usual strategies on the embedded sample, their time, and the pictures;
- coverage: how often the 95% interval of false negatives contains the true rate. The samples (`--draws`) have `--size`
  queries, each with one known positive and the others hidden. The true rate is that of all queries of the set with
  several positives.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import datasets
import matplotlib.style
import numpy as np
from ladder import MEASURES
from ladder_arms import ARMS, Set
from runner import RESULTS, Benchmark, Part, Run, option, set_name, table
from scipy import stats

import hnm_datasets as hnm
from hnm_datasets.piloting.intervals import paired

#: Arms that differ only in the time of mining; a pilot does not try them.
TIMED = ("dynamic, memory", "dynamic, late", "dynamic, queries", "dynamic, stale")
Finding = dict[str, Any]


def recommend(run: Run) -> list[Finding]:
    if run.kept:
        datasets.config.HF_DATASETS_CACHE = Path(run.kept)
    found: list[Finding] = run.found or []
    for source in run.sets:
        name = set_name(source)
        ladder = json.loads((run.ladder / f"ladder-{name}.json").read_text())
        title = next(one for one in ladder["tables"] if one.startswith("static") and "known" not in one)
        arms = ladder["tables"][title]["arms"]
        each = np.load(run.ladder / f"ladder-{name}.npz")
        data = Set(source, run)
        student = data.student()
        strategies = {}
        for arm in arms:
            if arm in ARMS and arm not in TIMED:
                mining = ARMS[arm].refresh or ARMS[arm].first
                strategies[arm] = mining(data, student)
        start, cpu = time.perf_counter(), time.process_time()
        pilot = hnm.pilot(
            data.train, data.corpus, strategies, model=student, sample=run.sample, seeds=run.seeds, measure=run.measure
        )
        column = list(MEASURES).index(run.measure)
        actual = {
            arm: np.array([each[f"{title}/{arm}/{seed}"][:, column] for seed in sorted(arms[arm])], dtype=np.float64)
            for arm in strategies
        }
        best = max(actual, key=lambda arm: actual[arm].mean())
        chosen = str(pilot.recommended)
        seeds = min(len(actual[chosen]), len(actual[best]))
        predicted = {trial.name: (trial.measures or {})[run.measure] for trial in pilot.trials}
        orders = [predicted[arm] for arm in strategies], [actual[arm].mean() for arm in strategies]
        found = [one for one in found if one["set"] != name]
        found.append(
            {
                "set": name, "table": title, "queries": len(data.train), "sample": pilot.sample,
                "held_out": pilot.held_out, "steps": pilot.steps, "recommended": chosen, "sentence": pilot.sentence,
                "best": best, "difference": paired(actual[chosen][:seeds] - actual[best][:seeds])._asdict(),
                "tau": float(stats.kendalltau(*orders).statistic), "arms": list(strategies),
                "predicted": orders[0], "actual": [float(one) for one in orders[1]],
                "against_best": {one.name: one.difference and one.difference._asdict() for one in pilot.trials},
                "seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu,
            }
        )  # fmt: skip
        run.save(found)
        print(name, pilot.sentence, found[-1]["difference"], found[-1]["tau"], flush=True)
    return found


def show_recommendations(found: list[Finding]) -> str:
    lines = [
        (
            one["set"], one["recommended"], one["best"], "{mean:+.1f} ({low:+.1f} to {high:+.1f})".format(
                **{name: 100 * value for name, value in one["difference"].items()}
            ),
            "yes" if one["difference"]["high"] >= 0 else "no", f"{one['tau']:.2f}", f"{one['seconds']:.0f}",
            f"{one['cpu']:.0f}",
        )
        for one in found
    ]  # fmt: skip
    parts = [
        table("set|recommended|best of the ladder|difference of the two|zero within|Kendall's tau|s|s of CPU", lines)
    ]
    for one in found:
        rows = sorted(zip(one["arms"], one["predicted"], one["actual"], strict=True), key=lambda row: -row[2])
        ranks = stats.rankdata([-row[1] for row in rows]).tolist()
        cells = [
            (arm, f"{100 * actual:.1f}", place, f"{100 * predicted:.1f}", f"{rank:g}")
            for place, ((arm, predicted, actual), rank) in enumerate(zip(rows, ranks, strict=True), start=1)
        ]
        parts.append(
            f"### {one['set']}\n\nLadder: {one['table']}, {one['queries']:,} queries. Pilot: {one['sample']:,} queries "
            f"and {one['steps']} steps, measured with {one['held_out']:,} queries. “{one['sentence']}”\n\n"
            + table("negatives|ladder|rank|pilot|rank", cells)
        )
    return "\n".join(parts)


def cover(run: Run) -> list[Finding]:
    if run.kept:
        datasets.config.HF_DATASETS_CACHE = Path(run.kept)
    found: list[Finding] = []
    for source in run.sets:
        data = Set(source, run)
        several = data.train.filter(lambda ids: len(ids) > 1, input_columns="positive_ids")
        if len(several) < 2 * run.size:
            continue
        strategies = {"BM25": [hnm.BM25Negatives(data.corpus, k=run.k)]}
        strategies["dense"] = [hnm.DenseNegatives(data.corpus, data.student(), k=run.k)]
        hidden, judgments = hnm.hide_positives(several)
        truth = {}
        for name, (step,) in strategies.items():
            audit = hnm.audit_negatives(hidden.map(step, batched=True), data.corpus, judgments=judgments, sample=1)
            assert audit.false_negatives is not None
            truth[name] = audit.false_negatives.rate
        held: dict[str, list[bool]] = {name: [] for name in strategies}
        for draw in range(run.draws):
            pilot = hnm.pilot(several, data.corpus, strategies, sample=run.size, train=False, seed=draw)
            for trial in pilot.trials:
                assert trial.false_negatives is not None
                held[trial.name].append(trial.false_negatives.low <= truth[trial.name] <= trial.false_negatives.high)
        for name, draws in held.items():
            found.append({"set": set_name(source), "source": name, "queries": len(several), "rate": truth[name]})
            found[-1] |= {"draws": len(draws), "covered": float(np.mean(draws))}
        run.save(found)
    return found


def show_coverage(found: list[Finding]) -> str:
    return table(
        "set|source|queries with several positives|false negatives|draws|intervals that hold it",
        [
            (one["set"], one["source"], f"{one['queries']:,}", f"{100 * one['rate']:.1f}%", one["draws"],
             f"{100 * one['covered']:.0f}%")
            for one in found
        ],
    )  # fmt: skip


def run_sample(run: Run) -> Finding:
    """Run with its own cache, so everything is computed."""
    start, cpu = time.perf_counter(), time.process_time()
    corpus, queries = hnm.load_sample()
    pilot = hnm.pilot(queries, corpus)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    for name, style in (("light", "default"), ("dark", "dark_background")):
        with matplotlib.style.context(style):
            # The size in README and pages, at twice the resolution.
            hnm.plot_pilot(pilot).savefig(run.out / f"pilot-{name}.png", dpi=200)
    return {"seconds": seconds, "cpu": cpu, "table": pilot.to_markdown()}


def show_sample(found: Finding) -> str:
    return (
        f"{found['seconds']:.0f} s, {found['cpu']:.0f} s of CPU.\n\n![false negatives against hardness, and nDCG@10 "
        f"against cost](pilot-light.png)\n\n{found['table']}\n"
    )


if __name__ == "__main__":
    Benchmark(
        {
            "recommendations": Part("Recommendations", recommend, show_recommendations),
            "sample": Part("The embedded sample", run_sample, show_sample),
            "coverage": Part("Intervals of false negatives", cover, show_coverage),
        },
        {
            "ladder": option(RESULTS, "the folder of the results of ladder.py"),
            "measure": option("nDCG@10", "what decides", choices=("nDCG@10", "recall@10", "recall@100")),
            "sample": option(500, "queries of a pilot"),
            "seeds": option(3, "trainings of each arm in a pilot"),
            "draws": option(100, "samples of the coverage"),
            "size": option(100, "queries of each of these samples"),
            "student": option("static", "as in ladder.py"),
            "teacher": option("minilm", choices=("static", "minilm")),
            "cross-encoder": option(None, "a path or Hub id", str),
            "max-length": option(None, "cut the cross-encoder's pairs to this many tokens", int),
            "tokens": option(128, "of a text that a minilm student reads"),
            "teacher-tokens": option(128, "of a text that a minilm teacher reads"),
            "known": option(0, "positives of each query that are known; 0: all"),
            "dev": option(500, "as in ladder.py"),
            "queries": option(10**9, "train queries, at most"),
            "k": option(20, "candidates to draw from"),
            "depth": option(50, "candidates before the filters"),
            "kept": option(None, "a folder for encodings and trainings, used again by the next call", str),
        },
        sets="*",
        file=lambda names: "pilot",
        repeats=None,
    ).run()
