"""Examples of candidates that a filter dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, positions_within
from hnm_datasets.audit.reading import texts_of
from hnm_datasets.audit.tables import Table
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY, QUERY_ID
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.formats.base import Side
from hnm_datasets.markdown import one_line, plain
from hnm_datasets.terminal import printable
from hnm_datasets.transforms.base import CandidateFilter

_EXAMPLES = 3
#: Maximum length of a text in characters; the examples are stored in the description of the rows.
_LENGTH = 200
_TITLE = "Examples of candidates that filters dropped"


@dataclass(frozen=True)
class DroppedCandidate:
    """A candidate that a filter dropped, as shown by `explain`. Texts are on one line, and long texts are truncated.

    Args:
        query: The query; None if the rows have no queries.
        query_id: The id of the query; None if the rows have no query ids.
        passage_id: The id of the passage.
        text: The title and text of the passage; None if no step has a corpus that contains it.
        verdict: `"dropped"`, or `"promoted"` to a positive.
        reason: The value and the limit, such as `"0.91 > limit 0.87"`; empty if the filter gives no reason.
    """

    query: str | None
    query_id: str | None
    passage_id: str
    text: str | None
    verdict: str
    reason: str


def dropped_examples(
    step: CandidateFilter, before: Dataset, after: Dataset, rows: NDArray[np.int64], corpus: Corpus | None
) -> tuple[DroppedCandidate, ...]:
    """Return up to three candidates that a filter dropped, from evenly spaced rows.

    Args:
        step: The filter.
        before: The rows before the filter.
        after: The rows after the filter.
        rows: The numbers of the rows in which it dropped candidates, ascending.
        corpus: The passages, for their texts.
    """
    if not len(rows):
        return ()
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _EXAMPLES).round().astype(np.int64))].tolist()
    old, new = (Batch(part.with_format("arrow")[chosen], step=type(step).__name__) for part in (before, after))
    lists = old.candidates()
    candidates, dropped = lists[NEGATIVE_IDS], _dropped(lists, new.candidates())
    owners = candidates.owners[dropped]
    # Take the first dropped candidates of each row, several per row if there are fewer rows than examples. The reason
    # for one can depend on the candidates dropped before it, which are therefore shown too.
    numbers = positions_within(np.searchsorted(owners, np.arange(len(chosen) + 1)))
    shown = dropped[np.sort(np.lexsort((owners, numbers))[:_EXAMPLES])]
    reasons = step._why_dropped(old, candidates, shown)
    ids, promoted = candidates.values.take(pa.array(shown)), _new_positives(step, old, new)
    texts = texts_of(Side(np.array([0, len(ids)]), ids=ids), corpus)
    return tuple(
        DroppedCandidate(
            query=_value(old, QUERY, row),
            query_id=_value(old, QUERY_ID, row),
            passage_id=_truncated(ids[i].as_py()),
            text=None if texts is None else _truncated(texts[i].as_py()) or None,
            verdict="promoted" if ids[i].as_py() in promoted[row] else "dropped",
            reason=_truncated(reasons[i]),
        )
        for i, row in enumerate(candidates.owners[shown].tolist())
    )


def examples_table(examples: Sequence[tuple[str, DroppedCandidate]]) -> Table:
    """Return the examples of several steps, given with the names of their steps, as a table."""
    rows = tuple((name, _verdict(one), _query(one), _passage(one)) for name, one in examples)
    return Table(_TITLE, ("step", "verdict", "query", "passage"), rows)


def examples_list(examples: Sequence[tuple[str, DroppedCandidate]]) -> str:
    """Return the examples of several steps, given with the names of their steps, as a Markdown list."""
    lines = [f"{_TITLE}:", ""]
    for name, one in examples:
        lines.append(f"- **{plain(name)}** {plain(_verdict(one))}")
        lines += [f"  - **query**: {plain(_query(one))}", f"  - **passage**: {plain(_passage(one))}"]
    return "\n".join(lines)


def _dropped(before: Mapping[str, Ragged[pa.Array]], after: Mapping[str, Ragged[pa.Array]]) -> NDArray[np.int64]:
    """Return the flat positions of the candidates that are missing after the step, which keeps the order.

    The step is not run again: it can be expensive, and its rows may have come from the cache.
    """
    # Compare all columns, because a passage can occur twice with different scores.
    old, new = (
        [*map(repr, zip(*(lists[name].values.to_pylist() for name in before), strict=True))]
        for lists in (before, after)
    )
    dropped = []
    for row, (start, stop) in enumerate(pairwise(before[NEGATIVE_IDS].offsets.tolist())):
        kept = iter(new[slice(*after[NEGATIVE_IDS].offsets[row : row + 2])])
        wanted = next(kept, None)
        for position in range(start, stop):
            if old[position] == wanted:
                wanted = next(kept, None)
            else:
                dropped.append(position)
    return np.array(dropped, dtype=np.int64)


def _new_positives(step: CandidateFilter, before: Batch, after: Batch) -> list[set[str]]:
    """Return the positives of each row that the step added."""
    if POSITIVE_IDS not in step.output_columns:
        return [set()] * len(before)
    lists = (batch.id_lists(POSITIVE_IDS) for batch in (before, after))
    old, new = ([set(part.values[i:j].to_pylist()) for i, j in pairwise(part.offsets)] for part in lists)
    return [ids - known for ids, known in zip(new, old, strict=True)]


def _value(batch: Batch, name: str, row: int) -> str | None:
    value = batch.column(name)[row].as_py() if batch.has(name) else None
    return None if value is None else _truncated(str(value))


def _truncated(text: str) -> str:
    line = printable(one_line(text))
    return line if len(line) <= _LENGTH else f"{line[: _LENGTH - 2].rstrip()} …"


def _verdict(one: DroppedCandidate) -> str:
    return f"{one.verdict}: {one.reason}" if one.reason else one.verdict


def _query(one: DroppedCandidate) -> str:
    parts = [one.query, one.query_id and (f"({one.query_id})" if one.query else one.query_id)]
    return " ".join(filter(None, parts)) or "-"


def _passage(one: DroppedCandidate) -> str:
    return f"[{one.passage_id}] {one.text or ''}".strip()
