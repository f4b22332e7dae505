"""What a pilot found, as numbers, text, Markdown and HTML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hnm_datasets.audit.false_negatives import FalseNegatives
from hnm_datasets.audit.tables import Table, as_html, as_markdown, as_text, number, percent
from hnm_datasets.markdown import count, one_line
from hnm_datasets.mining.report import MiningReport
from hnm_datasets.piloting.intervals import Difference
from hnm_datasets.piloting.measured import Cost, Hardness
from hnm_datasets.piloting.recommendation import shown

#: Characters of a strategy's name in a table.
_LONGEST = 30


@dataclass(frozen=True)
class Trial:
    """What a pilot found of one strategy.

    Args:
        name: The strategy.
        code: Its chain as Python that can be pasted.
        dynamic: Whether it is mined again while training.
        error: What went wrong; all else is None then.
        candidates: Negatives of a row, on average.
        short: How many rows of the sample have fewer than a training takes.
        funnel: What each step left of the sample, as `mine` counts it, and some of what the filters dropped.
        hardness: How hard its negatives are.
        false_negatives: Which share of them is relevant; None where that is unknown.
        cost: What mining the sample took.
        whole_seconds: What mining all rows would take at this pace; of a dynamic strategy with its refreshes.
        work: What models compute for all rows, by which strategies are ordered from cheap to dear: texts or pairs that
            they read, times their parameters.
        measures: The measures of the trained student, means over seeds and queries; None without training.
        training_seconds: How long a training took.
        difference: By how much its measure differs from that of the best; None of the best itself.
        needed: How many queries would have to be held out to tell it from the best; None where it can be told.
    """

    name: str
    code: str
    dynamic: bool
    error: str | None = None
    candidates: float | None = None
    short: int | None = None
    funnel: MiningReport | None = None
    hardness: Hardness | None = None
    false_negatives: FalseNegatives | None = None
    cost: Cost | None = None
    whole_seconds: float | None = None
    work: float | None = None
    measures: dict[str, float] | None = None
    training_seconds: float | None = None
    difference: Difference | None = None
    needed: int | None = None


@dataclass(frozen=True)
class Pilot:
    """What `pilot` found. It shows itself in a terminal, and as HTML in a notebook; `plot_pilot` draws it.

    Args:
        trials: The strategies, in their order.
        recommended: The name of the one to take; None: there is no telling.
        sentence: Why.
        rows: How many rows there are to mine in all.
        sample: How many were mined and counted.
        trained: How many were trained on.
        held_out: How many the student was measured with.
        passages: How many passages the corpus has.
        searched: How many of them the student was measured in.
        negatives: Negatives of a row in training.
        steps: Steps of a training.
        seeds: Trainings of each strategy.
        student: What was trained; None: nothing was.
        untrained: The measures of the student before training.
        measure: The measure that decides.
        scored_by: Whose scores tell how hard negatives are.
        false_by: How false negatives were told; empty: not at all.
        overlap: Which share of the negatives of two strategies is common.
        chain: The steps of the recommended strategy, ready for `mine`; those of a dynamic one for `RefreshNegatives`.

    Example:
        >>> from hnm_datasets import BM25Negatives, RandomNegatives, load_sample, pilot
        >>> corpus, queries = load_sample()
        >>> strategies = {"random": [RandomNegatives(corpus, k=4)], "BM25": [BM25Negatives(corpus, k=4)]}
        >>> found = pilot(queries, corpus, strategies, sample=50, train=False)
        >>> [(trial.name, trial.candidates) for trial in found.trials]
        [('random', 4.0), ('BM25', 4.0)]
        >>> found.overlap["random"]["BM25"] < 0.05
        True
    """

    trials: tuple[Trial, ...]
    recommended: str | None
    sentence: str
    rows: int
    sample: int
    trained: int
    held_out: int
    passages: int
    searched: int
    negatives: int
    steps: int
    seeds: int
    student: str | None
    untrained: dict[str, float] | None
    measure: str
    scored_by: str
    false_by: str
    overlap: dict[str, dict[str, float | None]]
    chain: tuple[Any, ...] = field(default=(), repr=False, compare=False)

    @property
    def code(self) -> str:
        """The recommended chain as Python that can be pasted; empty if there is none."""
        return next((trial.code for trial in self.trials if trial.name == self.recommended), "")

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the chain as plain values, ready for JSON."""
        found = asdict(self)
        del found["chain"]
        for trial in found["trials"]:
            trial |= {name: value._asdict() for name, value in trial.items() if hasattr(value, "_asdict")}
        return found | {"code": self.code}

    def to_markdown(self) -> str:
        """Return everything as Markdown."""
        return as_markdown(self._heading(), self._tables())

    def __repr__(self) -> str:
        return as_text(self._heading(), self._tables())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._tables())

    def _heading(self) -> str:
        return self.sentence

    def _tables(self) -> list[Table]:
        tables = [Table("", block=self.code)] if self.code else []
        if self.student is not None:
            tables.append(self._trained())
        tables.append(self._mined())
        if len(self.overlap) > 1:
            tables.append(self._common())
        failed = [trial for trial in self.trials if trial.error]
        if failed:
            rows = tuple((_short(trial.name), trial.error or "") for trial in failed)
            tables.append(Table("Failed strategies", ("strategy", "error"), rows))
        return tables

    def _trained(self) -> Table:
        assert self.untrained is not None
        names = list(self.untrained)
        rows = [("untrained", *(_hundredfold(self.untrained[name]) for name in names), "-", "-", "-")]
        for trial in self.trials:
            if trial.measures is None:
                continue
            against = "best" if trial.difference is None else shown(trial.difference)
            told = "within the noise" if trial.difference is not None and trial.difference.high >= 0 else ""
            told = "worse" if trial.difference is not None and not told else told
            cells = [_hundredfold(trial.measures[name]) for name in names]
            rows.append((_short(trial.name), *cells, against, told, _seconds(trial.whole_seconds)))
        columns = ("strategy", *names, f"{self.measure} against the best", "", "s, all rows")
        where = "" if self.searched == self.passages else f"{self.searched:,} of "
        notes = [
            f"Trained: {self.student}; {count(self.steps, 'step')} on {count(self.trained, 'query', 'queries')}, "
            f"{count(self.seeds, 'seed')}.",
            f"Measured with {count(self.held_out, 'other query', 'other queries')} in {where}{self.passages:,} "
            f"passages, in percent; intervals of 95% over queries and seeds.",
            *self._too_few(),
        ]
        return Table("Student trained on each strategy", columns, tuple(rows), note="\n".join(notes))

    def _too_few(self) -> list[str]:
        needed = [trial.needed for trial in self.trials if trial.needed is not None]
        if not needed:
            return []
        return [
            f"To tell the clearest of them from the best would take some {max(min(needed), self.held_out + 1):,} "
            f"held-out queries."
        ]

    def _mined(self) -> Table:
        rows = []
        for trial in self.trials:
            if trial.error or trial.candidates is None:
                continue
            hardness, cost, rate = trial.hardness, trial.cost, trial.false_negatives
            rows.append(
                (
                    _short(trial.name),
                    number(round(trial.candidates, 1)),
                    number(trial.short),
                    percent(None if rate is None else rate.rate),
                    "-" if rate is None else f"{percent(rate.low)} to {percent(rate.high)}",
                    percent(None if hardness is None else hardness.above),
                    number(None if hardness is None else hardness.below),
                    percent(None if hardness is None else hardness.words),
                    _seconds(None if cost is None else cost.preparing + cost.mining),
                    number(None if cost is None else round(cost.bytes / 1e6, 1)),
                    _seconds(trial.whole_seconds),
                )
            )
        columns = (
            "strategy", "negatives", "short", "false", "95% interval", "above", "below", "words", "s", "MB",
            "s, all rows",
        )  # fmt: skip
        notes = [
            f"Of {count(self.sample, 'query', 'queries')}; all rows are {self.rows:,}. Short: rows with fewer than "
            f"{self.negatives} negatives.",
            "Above: negatives that score above their positive; below: by how much positives score higher, on average;",
            f"both by {self.scored_by}. Words: of the query's, how many a negative has.",
            f"False negatives: {self.false_by}."
            if self.false_by
            else "False negatives are unknown: pass judgments= or a teacher=, or rows with several positives.",
        ]
        return Table("Mined negatives", columns, tuple(rows), note="\n".join(notes))

    def _common(self) -> Table:
        names = list(self.overlap)
        rows = tuple(
            (
                f"{place}. {_short(one)}",
                *("" if one == other else percent(self.overlap[one][other]) for other in names),
            )
            for place, one in enumerate(names, start=1)
        )
        return Table(
            "Overlap: share of negatives in common", ("", *(f"{place}." for place in range(1, len(names) + 1))), rows
        )


def _hundredfold(value: float) -> str:
    return f"{100 * value:.1f}"


def _seconds(value: float | None) -> str:
    return number(None if value is None else round(value, 2))


def _short(name: str) -> str:
    """Shorten the name of a strategy, so that a table stays narrow."""
    name = one_line(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
