"""Against which of several positives should a margin be measured?

    python benchmarks/against.py SET SET --minilm SET           # folders in BEIR's form or Hub ids

`hide_positives` keeps some positives of each query with more positives and hides the others. Candidates come from BM25,
from static embeddings and, for the sets of --minilm, from MiniLM. For these sets MiniLM is also the teacher of the
static candidates. The first n candidates that pass the margin are the negatives. A negative that is a hidden positive
is false. `pair` is another mode besides `min`, `mean`, `max` and `each`: it treats each pair of a query and a known
positive as a row, with the margin against that positive only. With all positives known no negative can be false; then
only the share of queries with n negatives is measured.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset
from inputs import load_set
from models import make_model
from numpy.typing import NDArray
from runner import SEED, Benchmark, Part, Run, option, set_name, table

import hnm_datasets as hnm
from hnm_datasets.arrays.arrow import flatten_lists, list_array
from hnm_datasets.audit.false_negatives import estimate
from hnm_datasets.columns import score_column
from hnm_datasets.transforms.base import Transform

CHOICES = ("min", "mean", "max", "each", "pair")
#: Margins in the tables, and margins that are compared at equal rates.
SHOWN = COMPARED = ("min", "mean", "max", "pair")
SPLITS = ("train", "test")
MARGINS = (0.0, 0.05, 0.1, 0.2)
#: For the comparison at equal rates of false negatives.
SWEEP = tuple(np.round(np.linspace(0, 0.6, 61), 2).tolist())
#: Fewer queries are not informative.
FEWEST = 20
Finding = dict[str, Any]


class Mined(NamedTuple):
    """Rows with the candidates of one source, and their true labels."""

    corpus: hnm.Corpus
    rows: pa.Table
    relevant: NDArray[np.int64]  # pairs of row and text, as one number, ascending
    by: str
    n: int

    def take(self, margin: float | None, against: str) -> Finding:
        """Judge the first n candidates of each row that pass a margin; None: no margin."""
        rows, owners = self.rows, np.arange(len(self.rows))
        if against == "pair":
            rows, owners = pairs_of_rows(rows)
        if margin is not None:
            rows = hnm.RelativeMargin(margin, by=self.by, against="min" if against == "pair" else against)(rows)
        lists = flatten_lists(hnm.TopNegatives(self.n)(rows)["negative_ids"].combine_chunks())
        texts = self.corpus.text_codes[self.corpus.rows(lists.values)]
        false = np.isin(owners[lists.owners] * len(self.corpus) + texts, self.relevant)
        wrong = np.bincount(lists.owners, false, len(rows)).astype(int)
        found = estimate("", "", owners.astype(np.uint64), wrong, lists.lengths)
        return {
            "margin": margin,
            "against": against,
            "found": len(lists.values) / (self.n * len(rows)),
            "full": float((lists.lengths >= self.n).mean()),
            "false": found.rate if found else 0.0,
            "low": found.low if found else 0.0,
            "high": found.high if found else 1.0,
        }

    def at_equal_rate(self, against: str) -> Finding | None:
        """Return the smallest margin whose rate is no higher than that of `min` at 0.05."""
        limit = self.take(0.05, "min")["false"]
        return next((row for margin in SWEEP if (row := self.take(margin, against))["false"] <= limit), None)


def pairs_of_rows(rows: pa.Table) -> tuple[pa.Table, NDArray[np.int64]]:
    """Make one row per positive, and return the original row of each."""
    lists = flatten_lists(rows["positive_ids"].combine_chunks())
    single = np.arange(len(lists.values) + 1)
    pairs = rows.take(pa.array(lists.owners))
    for name in rows.column_names:
        if name.startswith("positive_"):
            values = flatten_lists(rows[name].combine_chunks()).values
            pairs = pairs.set_column(pairs.column_names.index(name), name, list_array(single, values))
    return pairs, lists.owners


def relevant_pairs(corpus: hnm.Corpus, judgments: Dataset) -> NDArray[np.int64]:
    """Return the numbers of the relevant pairs of row and text."""
    lists = flatten_lists(judgments.with_format("arrow")[:]["positive_ids"].combine_chunks())
    return np.unique(lists.owners * len(corpus) + corpus.text_codes[corpus.rows(lists.values)])


def miners_of(corpus: hnm.Corpus, run: Run, minilm: bool) -> dict[str, tuple[list[Transform], str]]:
    """Return the steps of each source, and the name of the scores for its margins."""
    static = hnm.DenseNegatives(corpus, make_model("static"), k=run.candidates)
    found: dict[str, tuple[list[Transform], str]] = {
        "BM25": ([hnm.BM25Negatives(corpus, k=run.candidates)], "score"),
        "static": ([static], "score"),
    }
    if minilm:
        model = make_model("minilm")
        found["MiniLM"] = ([hnm.DenseNegatives(corpus, model, k=run.candidates)], "score")
        found["static, MiniLM as teacher"] = ([static, hnm.BiEncoderScores(corpus, model, "teacher")], "teacher")
    return found


def mine(rows: Dataset, steps: list[Transform], by: str) -> Dataset:
    for step in steps:
        rows = rows.map(step, batched=True)
    wanted = ["query_id", "positive_ids", "negative_ids", score_column(by), score_column(by, of="positive")]
    return rows.select_columns(wanted)


def measure_split(source: str, split: str, run: Run) -> list[Finding]:
    """Measure all sources on one split."""
    corpus, queries = load_set(source, split)
    lengths = np.array([len(ids) for ids in queries["positive_ids"]])
    kept = [keep for keep in run.keep if (lengths > keep).sum() >= FEWEST]
    found = []
    for name, (steps, by) in miners_of(corpus, run, set_name(source) in map(set_name, run.minilm)).items():
        for keep in [*kept, None]:
            many = np.random.default_rng(SEED).permutation(np.flatnonzero(lengths > (keep or 0)))[: run.queries]
            rows, relevant = queries.select(np.sort(many)), np.empty(0, dtype=np.int64)
            if keep is not None:
                rows, judgments = hnm.hide_positives(rows, keep, seed=SEED)
                relevant = relevant_pairs(corpus, judgments)
            one = Mined(corpus, mine(rows, steps, by).with_format("arrow")[:], relevant, by, run.negatives)
            judged = [one.take(margin, against) for against in CHOICES for margin in (None, *MARGINS)]
            found.append(
                {
                    "set": set_name(source),
                    "split": split,
                    "source": name,
                    "keep": keep,
                    "queries": len(rows),
                    "positives": float(lengths[many].mean()),
                    "rows": judged,
                    "equal": {} if keep is None else {other: one.at_equal_rate(other) for other in COMPARED[1:]},
                }
            )
    return found


def measure(run: Run) -> Finding:
    return {
        "negatives": run.negatives,
        "candidates": run.candidates,
        "splits": [one for source in run.sets for split in SPLITS for one in measure_split(source, split, run)],
    }


def at(one: Finding, against: str, margin: float | None) -> Finding:
    return next(row for row in one["rows"] if row["against"] == against and row["margin"] == margin)


def known_all(found: Finding, one: Finding) -> Finding:
    """Return the measurement of the same source with all positives known."""
    keys = ("set", "split", "source")
    return next(
        other for other in found["splits"] if other["keep"] is None and all(other[key] == one[key] for key in keys)
    )


def mean_rows(found: Finding, keep: int) -> list[tuple[str, ...]]:
    splits = [one for one in found["splits"] if one["keep"] == keep]
    rows = []
    for margin in (None, *MARGINS):
        for against in SHOWN if margin is not None else ("min",):
            own = [at(one, against, margin) for one in splits]
            full = [at(known_all(found, one), against, margin)["full"] for one in splits]
            means = (np.mean([row[key] for row in own]) for key in ("false", "found", "full"))
            label = ("none", "") if margin is None else (f"{margin:g}", f"`{against}`")
            rows.append((*label, *(f"{mean:.1%}" for mean in means), f"{np.mean(full):.1%}"))
    return rows


def set_rows(found: Finding, keep: int) -> list[tuple[str, ...]]:
    rows = []
    for one in found["splits"]:
        if one["keep"] != keep:
            continue
        for against, margin in [("min", None), *((against, 0.05) for against in SHOWN)]:
            row, known = at(one, against, margin), at(known_all(found, one), against, margin)
            false = f"{row['false']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
            label = "no margin" if margin is None else f"`{against}`"
            shares = (f"{value:.1%}" for value in (row["found"], row["full"], known["full"]))
            rows.append((name_of(one), one["source"], label, false, *shares))
    return rows


def show(found: Finding) -> str:
    n = found["negatives"]
    splits = [one for one in found["splits"] if one["keep"] is not None]
    for one, margin in product(found["splits"], MARGINS):
        # They differ only for margins above 1.
        assert at(one, "each", margin) | {"against": "min"} == at(one, "min", margin)
    keeps = sorted({one["keep"] for one in splits})
    lines = [
        f"The first {n} of {found['candidates']} candidates that `RelativeMargin` leaves of each query. *False*: the "
        f"share that is a hidden positive, with the 95% interval. *Found*: of {n} negatives per query; *full*: the "
        f"share of queries (of pairs, for `pair`) with {n}. *All known*: the same of queries with any number of "
        f"positives, none of them hidden. `each` gave the same as `min` everywhere. Splits with fewer than {FEWEST} "
        f"queries of more positives than are kept are left out."
    ]
    for keep in keeps:
        head = f"## {keep} known positives"
        means = table("margin|against|false|found|full|full, all known", mean_rows(found, keep))
        lines.append(f"{head}: mean of all sets and sources\n\n{means}")
    for keep in keeps:
        rows = []
        for one in splits:
            if one["keep"] == keep:
                least = at(one, "min", 0.05)
                equal = (one["equal"][against] for against in COMPARED[1:])
                others = (f"{row['found']:.1%} at {row['margin']:g}" if row else "none" for row in equal)
                rows.append((name_of(one), one["source"], f"{least['false']:.1%}", f"{least['found']:.1%}", *others))
        lines.append(
            f"## {keep} known positives: at the same rate of false negatives\n\nWhat is found at the smallest "
            f"margin, up to {SWEEP[-1]:g}, that leaves no more false negatives than `min` at 0.05.\n\n"
            + table("set|source|false, `min`|found, `min`|`mean`|`max`|`pair`", rows)
        )
    for keep in keeps:
        lines.append(
            f"## {keep} known positives: `RelativeMargin(0.05)`\n\n"
            + table("set|source|against|false (95%)|found|full|full, all known", set_rows(found, keep))
        )
    rows = {
        (name_of(one), one["keep"] or "all", one["queries"], f"{one['positives']:.1f}"): None for one in found["splits"]
    }
    lines.append("## The sets\n\n" + table("set|known|queries|positives per query", rows))
    return "\n\n".join(lines)


def name_of(one: Finding) -> str:
    return f"{one['set']}, {one['split']}"


if __name__ == "__main__":
    Benchmark(
        {"": Part("", measure, show)},
        {
            "keep": option([2, 4], "positives of each query that stay known"),
            "negatives": option(5, "per query"),
            "candidates": option(100, "per query and source"),
            "queries": option(1000, "of each split, at most"),
            "minilm": {"nargs": "*", "default": [], "help": "the sets that MiniLM mines and scores, too", "type": Path},
        },
        sets="+",
        file=lambda sets: "against",
        repeats=None,
    ).run()
