"""The report of a chain of steps: as numbers, text, Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import Dataset

from hnm_datasets.audit.tables import Report, Table, as_markdown, as_text, number, percent
from hnm_datasets.markdown import count
from hnm_datasets.mining.examples import DroppedCandidate, examples_list, examples_table
from hnm_datasets.mining.hardness import Hardness
from hnm_datasets.mining.memory import memories
from hnm_datasets.storage.json_values import typed
from hnm_datasets.storage.kept_rows import content_digest


@dataclass(frozen=True)
class StepCounts:
    """The effects of a step on rows and candidates: `candidates_in + mined == candidates_out + dropped`.

    Args:
        name: The short name of the step.
        step: The full name of the step.
        after_unrecorded: Whether the rows were mined or changed before the step by operations that are not recorded.
        rows_in: The rows before the step.
        rows_out: The rows after the step.
        candidates_in: The candidates before the step, over all rows.
        mined: The candidates that the step added. A miner adds all it finds and drops the existing candidates.
        dropped: The candidates that the step removed.
        candidates_out: The candidates after the step. For a shape, the candidates in its rows, each counted once per
            query.
        empty: The rows without candidates after the step. For a shape, the rows that it dropped.
        short: The rows with fewer candidates than the step requests (`k`, `n`), including empty rows; None if the step
            does not request a number.
        promoted: The number of dropped candidates that became positives.
        padding: The number of negatives in the rows of a shape that repeat others of the same row.
        hardness: The hardness of the candidates after the step; None if it is unknown.
        examples: For a filter, up to three candidates that it dropped.
    """

    name: str
    step: str
    after_unrecorded: bool
    rows_in: int
    rows_out: int
    candidates_in: int
    mined: int
    dropped: int
    candidates_out: int
    empty: int
    short: int | None
    promoted: int
    padding: int
    hardness: Hardness | None = None
    examples: tuple[DroppedCandidate, ...] = ()


@dataclass(frozen=True, repr=False)
class MiningReport(Report):
    """The results of each step of `mine`, displayed as a table in a terminal and as HTML in a notebook.

    Markdown and HTML also show examples of candidates that filters dropped, each with its value and the limit.

    Args:
        steps: The steps in order, with their numbers.
        digest: A digest of the content of the rows that `mine` returned.

    Example:
        >>> from hnm_datasets import BM25Negatives, RankWindow, load_sample, mine
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = mine(queries, [BM25Negatives(corpus, k=4), RankWindow(2)])  # doctest: +ELLIPSIS
        mine: ...
        >>> [(one.name, one.candidates_in, one.dropped) for one in MiningReport.of(mined).steps]
        [('BM25Negatives(k=4)', 0, 0), ('RankWindow(min=2)', 4, 1)]
        >>> [(one.passage_id, one.reason) for one in MiningReport.of(mined).steps[1].examples]
        [('richter-scale', '1 < min 2')]
    """

    steps: tuple[StepCounts, ...]
    digest: str

    @classmethod
    def of(cls, rows: Dataset) -> MiningReport | None:
        """Return the report of rows that `mine` returned, or of rows derived from them.

        The numbers describe the rows that `mine` returned. Returns None if the rows have no report, or if rows with
        different reports were concatenated.

        Raises:
            TypeError: `rows` is not a `Dataset`.
        """
        if not isinstance(rows, Dataset):
            raise TypeError(f"MiningReport.of requires a Dataset that mine returned, got {type(rows).__name__}.")
        found = reports_of(rows)
        return found[0] if len(found) == 1 else None

    def is_of(self, rows: Dataset) -> bool:
        """Return whether these are the rows that `mine` returned, with the same values in the same order."""
        return content_digest(rows) == self.digest

    def to_markdown(self) -> str:
        """Return the table and the examples as Markdown, for a README or a dataset card."""
        table = as_markdown("", [self._table()])
        return f"{table}\n\n{examples_list(examples)}" if (examples := self._examples()) else table

    def __repr__(self) -> str:
        return as_text(self._heading(), [self._table()])

    def _examples(self) -> list[tuple[str, DroppedCandidate]]:
        return [(one.name, example) for one in self.steps for example in one.examples]

    def _heading(self) -> str:
        first, last = self.steps[0], self.steps[-1]
        negatives = count(last.candidates_out, "negative")
        return f"mine: {count(first.rows_in, 'row')} became {count(last.rows_out, 'row')} with {negatives}."

    def _tables(self) -> list[Table]:
        examples = self._examples()
        return [self._table(), examples_table(examples)] if examples else [self._table()]

    def _table(self) -> Table:
        columns = {
            "step": [one.name for one in self.steps],
            "rows": [number(one.rows_in) for one in self.steps],
            "candidates": [number(one.candidates_in) for one in self.steps],
            "mined": [number(one.mined or None) for one in self.steps],
            "dropped": [number(one.dropped) for one in self.steps],
            "%": [percent(one.dropped / one.candidates_in if one.candidates_in else None) for one in self.steps],
            "promoted": [number(one.promoted or None) for one in self.steps],
            "left": [number(one.candidates_out) for one in self.steps],
            "hardness": [_signed(one.hardness.mean if one.hardness else None) for one in self.steps],
            "above": [percent(one.hardness.above if one.hardness else None) for one in self.steps],
            "padding": [number(one.padding or None) for one in self.steps],
            "rows left": [number(one.rows_out) for one in self.steps],
            "empty": [number(one.empty) for one in self.steps],
            "short": [number(one.short) for one in self.steps],
        }
        shown = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
        return Table("", tuple(shown), tuple(zip(*shown.values(), strict=True)), note="\n".join(self._notes()))

    def _notes(self) -> list[str]:
        notes = self._column_notes()
        for number_of_step, one in enumerate(self.steps):
            if one.after_unrecorded:
                notes.append(f"Before {one.name}, the rows were mined or changed by operations that are not recorded.")
            # A shape without rows raises an error that explains the reason.
            emptied = one.rows_out and not one.candidates_out
            if emptied and one.candidates_in:
                notes.append(
                    f"{one.name} dropped all {one.candidates_in:,} candidates. Remove or loosen it: explain(rows[0], "
                    f"corpus, steps=[...]) shows its limits and the values of a row."
                )
            elif emptied and not number_of_step:
                notes.append(f"{one.name} left no candidates. Start with a miner, or check why it found none.")
            if one.padding:
                notes.append(f"{one.name}: {one.padding:,} negatives are padding, repeated from the same row.")
        return notes

    def _column_notes(self) -> list[str]:
        rows = "empty: rows without candidates (of a shape: dropped)"
        if any(one.short is not None for one in self.steps):
            rows += "; short: fewer than k or n"
        scored = [(one.name, _scorer(one.hardness.by)) for one in self.steps if one.hardness]
        if not scored:
            return [f"{rows}."]
        # Scorers have different units, so the note names each change of the scorer.
        by = [name for _, name in scored]
        changes = [f", from {step} on by {new}" for (step, new), old in zip(scored[1:], by, strict=False) if new != old]
        return [
            f"hardness: candidates' mean score minus their positives', by {by[0]}{''.join(changes)}; closer to 0 or "
            f"above it is harder.",
            f"above: share scoring higher; {rows}.",
        ]


def _signed(value: float | None) -> str:
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def _scorer(by: str) -> str:
    return "the retriever" if by == "score" else f"the {by}"


def reports_of(rows: Dataset) -> list[MiningReport]:
    """Return the reports stored with rows: none, one, or several if rows with different reports were concatenated."""
    found = []
    for memory in memories(rows):
        try:
            report: MiningReport = typed(MiningReport, memory, "mine")
        except ValueError:
            # The description can contain anything; ignore a report that cannot be read.
            continue
        if report.steps and report not in found:
            found.append(report)
    return found


def emptied_by(rows: Dataset) -> str | None:
    """Name the step of `mine` that dropped all candidates, if the mining report of the rows has one."""
    report = MiningReport.of(rows)
    steps = () if report is None else report.steps
    found = next((step for step in steps if step.candidates_in and not step.candidates_out), None)
    return None if found is None else f"{found.name} dropped all {found.candidates_in:,} candidates."
