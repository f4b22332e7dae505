"""The result of an audit, as numbers, text, Markdown and HTML."""

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
    """The result of `audit_negatives`. It prints as tables, and shows HTML in a notebook.

    Args:
        form: The recognized format, such as `"mined"` or `"triplets"`.
        recognized: The format and the columns by which it was recognized.
        rows: The number of rows.
        queries: The number of distinct queries.
        positives: The number of positives, over all rows.
        negatives: The number of negatives, over all rows.
        passages: The number of distinct passages among the negatives.
        corpus: The number of passages in the corpus; None without a corpus.
        sampled_rows: The number of rows used for texts, distributions and histograms.
        per: `"row"`; `"query"` for formats with one negative per row.
        per_row: The negatives per row, or the distinct negatives per query.
        short_rows: The number of rows (or queries) with fewer negatives than the maximum.
        sources: The number of negatives by source.
        scores: The scores by scorer; `"score"` is the retriever.
        ranks: The ranks of the negatives.
        hubs: The passages that are a negative of the most queries, with the number of queries.
        positives_elsewhere: The share of the distinct positives that are a negative in some row.
        overlap: Mean shares of words: those of the query that are in its positives (`"query in positive"`) and
            negatives (`"query in negative"`), and those common to a positive and a negative (Jaccard; `"positive and
            negative"`).
        words: The number of words of positives and of negatives.
        false_negatives: The share of relevant negatives; None without judgments or a teacher.
        defects: The defects found.

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
        tables = self._tables(unknown="not measured")
        return as_markdown("", [Table("What was audited", note=self._counts()), *tables])

    def _heading(self) -> str:
        return f"Audit of {self._counts()}"

    def _counts(self) -> str:
        where = f", from a corpus of {self.corpus:,}" if self.corpus is not None else ""
        return (
            f"{self.rows:,} rows in the form {self.recognized}: {self.queries:,} queries, {self.negatives:,} "
            f"negatives, {self.passages:,} distinct{where}."
        )

    def _tables(self, unknown: str = "unknown: pass judgments=, or score with a teacher") -> list[Table]:
        tables = [self._defects(), self._main_numbers(unknown)]
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

    def _main_numbers(self, unknown: str) -> Table:
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
            rows.append(("false negatives", unknown))
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
                ("" if position else "most frequent negatives", f"{name}: {count:,} queries")
                for position, (name, count) in enumerate(self.hubs)
            ),
            ("sources", ", ".join(f"{name} {count:,}" for name, count in sorted(self.sources.items()))),
        ]
        sampled = "" if self.sampled_rows == self.rows else f"Texts and spreads: {self.sampled_rows:,} sampled rows."
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
    """Draw the histograms of positives and negatives side by side, each as shares."""
    assert scores.histogram is not None
    edges, *sides = scores.histogram
    shares = [[count / max(sum(counts), 1) for count in counts] for counts in sides]
    longest = max(max(side) for side in shares) or 1.0
    lines = [f"{one_line(name):<21}{'positives':<{_BAR + 8}}negatives"]
    for bin_ in range(len(edges) - 1):
        bars = [f"{'█' * round(_BAR * side[bin_] / longest):<{_BAR}} {percent(side[bin_]):>6} " for side in shares]
        lines.append(f"{number(edges[bin_]):>8} to {number(edges[bin_ + 1]):<8} {''.join(bars)}".rstrip())
    return "\n".join(lines)
