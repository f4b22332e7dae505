"""What an audit found, as numbers, text, Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass

from hnm_datasets.audit.defects import FoundDefect
from hnm_datasets.audit.false_negatives import FalseNegatives
from hnm_datasets.audit.spread import Scores, Spread
from hnm_datasets.audit.tables import Report, Table, as_markdown, number, percent
from hnm_datasets.markdown import one_line

_BAR = 24


@dataclass(frozen=True, repr=False)
class Audit(Report):
    """What `audit_negatives` found. It shows itself in a terminal, and as HTML in a notebook.

    Args:
        form: The form that was recognized, such as `"mined"` or `"triplets"`.
        recognized: The form and the columns that it was recognized by.
        rows: How many rows there are.
        queries: How many distinct queries.
        positives: How many positives, over all rows.
        negatives: How many negatives, over all rows.
        passages: How many distinct passages are negatives.
        corpus: How many passages the corpus has; None without one.
        sampled_rows: How many rows the texts, spreads and histograms are from.
        per: `"row"`; or `"query"` for forms that have one passage in a row.
        per_row: Negatives per row, or distinct ones per query.
        short_rows: Rows, or queries, with fewer negatives than the one with the most.
        sources: How many negatives each source found.
        scores: What each scorer says; `"score"` is the retriever.
        ranks: Ranks of the negatives.
        hubs: The passages that are a negative of the most queries, and of how many.
        positives_elsewhere: Which share of the distinct positives is a negative of some row.
        overlap: Mean shares: of the query's words in its positives (`"query in positive"`) and negatives, and of words
            common to a positive and a negative (Jaccard; `"positive and negative"`).
        words: Words of positives and of negatives.
        false_negatives: The share of the negatives that is relevant; None without judgments or a teacher.
        defects: The defects that were found.

    Example:
        >>> from hnm_datasets import BM25Negatives, audit_negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> audit = audit_negatives(queries.map(BM25Negatives(corpus, k=4), batched=True), corpus)
        >>> audit.rows, audit.negatives, audit.defects
        (1, 4, ())
    """

    form: str
    recognized: str
    rows: int
    queries: int
    positives: int
    negatives: int
    passages: int
    corpus: int | None
    sampled_rows: int
    per: str
    per_row: Spread | None
    short_rows: int
    sources: dict[str, int]
    scores: dict[str, Scores]
    ranks: Spread | None
    hubs: tuple[tuple[str, int], ...]
    positives_elsewhere: float
    overlap: dict[str, float]
    words: dict[str, Spread]
    false_negatives: FalseNegatives | None
    defects: tuple[FoundDefect, ...]

    def to_markdown(self) -> str:
        """Return everything as Markdown, for a README or a dataset card."""
        return as_markdown("", [Table("What was audited", note=self._counts()), *self._tables()])

    def _heading(self) -> str:
        return f"Audit of {self._counts()}"

    def _counts(self) -> str:
        where = f", from a corpus of {self.corpus:,}" if self.corpus is not None else ""
        return (
            f"{self.rows:,} rows in the form {self.recognized}: {self.queries:,} queries, {self.negatives:,} "
            f"negatives, {self.passages:,} distinct{where}."
        )

    def _tables(self) -> list[Table]:
        tables = [self._defects(), self._main_numbers()]
        if self.scores:
            tables.append(self._score_table())
        spreads = {f"negatives per {self.per}": self.per_row, "ranks": self.ranks}
        spreads |= {f"words of {side}s": spread for side, spread in self.words.items()}
        rows = tuple(_spread_row(name, spread) for name, spread in spreads.items() if spread)
        if rows:
            tables.append(Table("Spreads", ("", "mean", "min", "5%", "median", "95%", "max"), rows))
        return tables

    def _defects(self) -> Table:
        if not self.defects:
            return Table("Defects", note="None found.")
        rows = tuple(
            (
                defect.name,
                f"{defect.count:,}" + ("" if defect.of_rows == self.rows else f" in {defect.of_rows:,} sampled rows"),
                defect.what,
            )
            for defect in self.defects
        )
        notes = [f"{defect.name}: {defect.remedy}. For example {defect.examples[0]}." for defect in self.defects]
        return Table("Defects", ("defect", "count", "what"), rows, note="\n".join(notes))

    def _main_numbers(self) -> Table:
        found = self.false_negatives
        short = self.short_rows / (self.rows if self.per == "row" else self.queries)
        rows = [
            (
                f"{'rows' if self.per == 'row' else 'queries'} with fewer negatives than others",
                f"{self.short_rows:,} ({percent(short)})",
            )
        ]
        if found is not None:
            rows += [
                (
                    f"false negatives, by {found.by}",
                    f"{percent(found.rate)} ({found.false:,} of {found.negatives:,}; 95% interval "
                    f"{percent(found.low)} to {percent(found.high)}; {found.rule})",
                )
            ]
        else:
            rows.append(("false negatives", "unknown: pass judgments=, or score with a teacher"))
        rows += [
            (f"negatives above their positive, by {name}", percent(scores.above))
            for name, scores in self.scores.items()
            if scores.above is not None
        ]
        rows.append(("positives that are negatives elsewhere", percent(self.positives_elsewhere)))
        rows += [(f"words in common: {name}", percent(share)) for name, share in self.overlap.items()]
        if len(self.words) == 2:
            ratio = self.words["negative"].mean / max(self.words["positive"].mean, 1e-9)
            rows.append(("length of negatives over positives", number(ratio)))
        rows += [
            *(
                ("" if place else "most frequent negatives", f"{name}: {count:,} queries")
                for place, (name, count) in enumerate(self.hubs)
            ),
            ("sources", ", ".join(f"{name} {count:,}" for name, count in sorted(self.sources.items()))),
        ]
        sampled = "" if self.sampled_rows == self.rows else f"Texts, spreads: {self.sampled_rows:,} sampled rows."
        return Table("Main numbers", ("", ""), tuple(row for row in rows if row[1]), note=sampled)

    def _score_table(self) -> Table:
        rows = []
        for name, scores in self.scores.items():
            parts = {"positives": scores.positive, "negatives": scores.negative, "margin": scores.margin}
            rows += [_spread_row(f"{name}: {part}", spread) for part, spread in parts.items() if spread]
        blocks = [_histogram(name, scores) for name, scores in self.scores.items() if scores.histogram]
        columns = ("", "mean", "min", "5%", "median", "95%", "max")
        return Table("Scores", columns, tuple(rows), block="\n\n".join(blocks))


def _spread_row(name: str, spread: Spread) -> tuple[str, ...]:
    values = (spread.mean, spread.min, spread.p5, spread.median, spread.p95, spread.max)
    return (name, *map(number, values))


def _histogram(name: str, scores: Scores) -> str:
    """Draw positives and negatives beside each other, each as shares of their own number."""
    assert scores.histogram is not None
    edges, *sides = scores.histogram
    shares = [[count / max(sum(counts), 1) for count in counts] for counts in sides]
    longest = max(max(side) for side in shares) or 1.0
    lines = [f"{one_line(name):<21}{'positives':<{_BAR + 8}}negatives"]
    for place in range(len(edges) - 1):
        bars = [f"{'█' * round(_BAR * side[place] / longest):<{_BAR}} {percent(side[place]):>6} " for side in shares]
        lines.append(f"{number(edges[place]):>8} to {number(edges[place + 1]):<8} {''.join(bars)}".rstrip())
    return "\n".join(lines)
