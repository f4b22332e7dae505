"""Small tables as text, Markdown and HTML, and the base class of results that are shown as tables."""

from __future__ import annotations

import html
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hnm_datasets.markdown import fenced, plain
from hnm_datasets.terminal import printable

#: A number, with an optional sign, percent sign or mark.
_NUMBER = re.compile(r"(-|[-+]?[\d.,]+(e[-+]?\d+)?%?)( \^|  )?")
_WIDEST = 110


@dataclass(frozen=True)
class Table:
    """A table with a title and a note.

    Attributes:
        title: The title; may be empty.
        columns: The names of the columns.
        rows: The cells; numbers are formatted with `number`.
        note: Text below the table; may be empty.
        block: Preformatted text below the rows, in a fixed-width font.
    """

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    note: str = ""
    block: str = ""


@dataclass(frozen=True, repr=False)
class Report(ABC):
    """A result that prints as tables in a terminal, and as HTML in a notebook.

    Subclasses are dataclasses with `repr=False`, because a dataclass would otherwise write a `__repr__` of its own.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, ready for JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Return everything as Markdown, for a README or a dataset card."""
        return as_markdown(self._heading(), self._tables())

    def __repr__(self) -> str:
        return as_text(self._heading(), self._tables())

    def _repr_html_(self) -> str:
        return as_html(self._heading(), self._tables())

    @abstractmethod
    def _heading(self) -> str:
        """Return the text above the tables."""

    @abstractmethod
    def _tables(self) -> list[Table]:
        """Return the tables."""


def number(value: float | None) -> str:
    """Format a number: whole numbers with separators, others with three significant digits.

    Example:
        >>> number(12345), number(0.123456), number(None)
        ('12,345', '0.123', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def percent(share: float | None) -> str:
    """Format a share as a percentage with one decimal.

    Example:
        >>> percent(0.0345), percent(None)
        ('3.5%', '-')
    """
    return "-" if share is None else f"{100 * share:.1f}%"


def as_text(heading: str, tables: Sequence[Table]) -> str:
    """Format tables for a terminal; control characters are escaped, because passages may contain any."""
    parts = [printable(heading)]
    for table in tables:
        lines = [printable(table.title)] if table.title else []
        cells = [tuple(map(_shortened, row)) for row in (table.columns, *table.rows) if any(row)]
        # Align numbers to the right, so that they can be compared.
        columns = [
            [cell.rjust(width) if numeric else cell.ljust(width) for cell in column]
            for column in zip(*cells, strict=True)
            for width in [max(map(len, column))]
            for numeric in [all(map(_is_number, column[1:]))]
        ]
        lines += [("  " + "  ".join(row)).rstrip() for row in zip(*columns, strict=True)]
        lines += [f"  {line}" for text in (table.note, table.block) for line in printable(text).split("\n") if text]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def as_markdown(heading: str, tables: Sequence[Table]) -> str:
    """Format tables as Markdown, for a README or a dataset card."""
    parts = [_markdown_cell(heading)] if heading else []
    for table in tables:
        if table.title:
            parts.append(f"### {table.title}")
        if table.rows:
            lines = [tuple(map(_markdown_cell, row)) for row in (table.columns, *table.rows)]
            lines.insert(1, ("---",) * len(table.columns))
            parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
        if table.note:
            parts.append("  \n".join(map(plain, table.note.splitlines())))
        if table.block:
            parts.append(fenced(printable(table.block), "text"))
    return "\n\n".join(parts)


def as_html(heading: str, tables: Sequence[Table]) -> str:
    """Format tables as HTML, for a notebook; everything is escaped, because passages may contain any markup."""
    parts = [f"<p><strong>{_html(heading)}</strong></p>"]
    for table in tables:
        if table.title:
            parts.append(f"<p><strong>{_html(table.title)}</strong></p>")
        if table.rows:
            head = "".join(f"<th style='text-align:left'>{_html(name)}</th>" for name in table.columns)
            body = "".join(
                "<tr>" + "".join(f"<td style='text-align:left'>{_html(cell)}</td>" for cell in row) + "</tr>"
                for row in table.rows
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        if table.note:
            parts.append(f"<p>{_html(table.note)}</p>")
        if table.block:
            parts.append(f"<pre>{_html(table.block)}</pre>")
    return "\n".join(parts)


def _html(text: str) -> str:
    return html.escape(printable(text))


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell))


def _shortened(cell: str) -> str:
    # A line break would end the row of the table.
    text = printable(" ".join(cell.split("\n")))
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _markdown_cell(cell: str) -> str:
    return plain(cell)
