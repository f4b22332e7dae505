"""What each step of a chain left, as numbers, text, Markdown and HTML."""

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
    """What a step did to the rows and candidates: `candidates_in + mined == candidates_out + dropped`.

    Args:
        name: The step in short.
        step: The step in full.
        after_unrecorded: Whether the rows came to the step from operations that are not recorded: mined or changed
            before.
        rows_in: The rows before it.
        rows_out: The rows after it.
        candidates_in: The candidates before it, over all rows.
        mined: The candidates that it added. A miner adds all that it finds and drops those that were there.
        dropped: The candidates that it took away.
        candidates_out: The candidates after it; of a shape, those that are in its rows, each counted once a query.
        empty: The rows without a candidate after it; of a shape, the rows that it left out.
        short: The rows with fewer candidates than the step asks for (`k`, `n`), empty ones too; None where it asks for
            no number.
        promoted: How many of those dropped became positives.
        padding: How many negatives in the rows of a shape repeat others of the same row.
        hardness: How hard the candidates after it are; None where nothing is known of it.
        examples: Of a filter, up to three candidates that it dropped.
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
    """What each step of `mine` left. It shows itself in a terminal, and as HTML in a notebook.

    Markdown and HTML also show examples of the candidates that filters dropped, each with the value and the limit.

    Args:
        steps: The steps in order, with their numbers.
        digest: Names the content of the rows that `mine` returned.

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
        """Return the report of rows that `mine` returned, or that were made of such rows.

        The numbers are those of the rows that `mine` returned. None: the rows remember no mining, or were concatenated
        from several.

        Raises:
            TypeError: `rows` is no `Dataset`.
        """
        if not isinstance(rows, Dataset):
            raise TypeError(f"MiningReport.of takes a Dataset that mine returned, got {type(rows).__name__}.")
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
        notes = self._hardness_notes()
        for place, one in enumerate(self.steps):
            if one.after_unrecorded:
                notes.append(f"Before {one.name}, the rows were mined or changed by operations that are not recorded.")
            # A shape that leaves no row is an error that says why.
            emptied = one.rows_out and not one.candidates_out
            if emptied and one.candidates_in:
                notes.append(
                    f"{one.name} dropped all {one.candidates_in:,} candidates. Leave it out or widen it: "
                    f"explain(rows[0], corpus, steps=[...]) shows what it reads of a row before it."
                )
            elif emptied and not place:
                notes.append(f"{one.name} left no candidates. Begin with a step that mines, or see why it found none.")
            if one.padding:
                notes.append(f"{one.name}: {one.padding:,} negatives are padding, which repeats others of their row.")
        return notes

    def _hardness_notes(self) -> list[str]:
        scored = [(one.name, _scorer(one.hardness.by)) for one in self.steps if one.hardness]
        if not scored:
            return []
        # Scorers have units of their own, so it is said where another one begins.
        by = [name for _, name in scored]
        changes = [f", from {step} on by {new}" for (step, new), old in zip(scored[1:], by, strict=False) if new != old]
        return [
            f"hardness: candidates' mean score less their positives', by {by[0]}{''.join(changes)}; above: how many "
            f"score higher."
        ]


def _signed(value: float | None) -> str:
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def _scorer(by: str) -> str:
    return "the retriever" if by == "score" else f"the {by}"


def reports_of(rows: Dataset) -> list[MiningReport]:
    """Return the reports that rows remember: none, one, or several where rows of several minings were concatenated."""
    found = []
    for memory in memories(rows):
        try:
            report: MiningReport = typed(MiningReport, memory, "mine")
        except ValueError:
            # The file of a saved dataset may hold anything, and what cannot be read says nothing.
            continue
        if report.steps and report not in found:
            found.append(report)
    return found
