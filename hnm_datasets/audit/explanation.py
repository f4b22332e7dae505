"""`explain`: one query, its positives and its negatives as a readable table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import Stemmer

from hnm_datasets.audit.reading import texts_of
from hnm_datasets.audit.tables import Report, Table, as_text, number
from hnm_datasets.audit.tally import mean_of_rows
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.corpus.words import compared, terms_of, words_of
from hnm_datasets.formats.base import QueryRows, Side
from hnm_datasets.formats.registry import recognize
from hnm_datasets.transforms.base import CandidateFilter, Transform
from hnm_datasets.transforms.miners.base import Miner
from hnm_datasets.transforms.shapes.base import Shape

_NAME = "explain"
#: Characters of a passage to show in a terminal, and elsewhere.
_NARROW, _WIDE = 40, 160


@dataclass(frozen=True)
class ExplainedPassage:
    """One passage of a row.

    Attributes:
        kind: `"positive"` or `"negative"`.
        id: Its id, if the format has ids.
        text: Its title and text; None if the row has only ids and no corpus was passed.
        rank: Its rank in the retriever's list.
        source: The retriever that found it.
        scores: Its scores by scorer; `"score"` is the retriever's.
        shared: The words of the query that occur in it, in the order of the query. Words are compared by their English
            stems and, in scripts without spaces, by pairs of characters, as `BM25Index` does by default.
        above: For a negative, by scorer: whether it scores above the mean of the row's positives.
        verdicts: For a negative, by step: `"kept"`, `"dropped"`, `"promoted"` to a positive, or `"gone"` if an earlier
            step removed it.
        reasons: For a dropped or promoted negative, by step: the value and the limit, such as `"0.91 > limit 0.87"`;
            only for steps that provide a reason.
    """

    kind: str
    id: str | None
    text: str | None
    rank: int | None
    source: str | None
    scores: dict[str, float]
    shared: tuple[str, ...]
    above: dict[str, bool]
    verdicts: dict[str, str]
    reasons: dict[str, str]


@dataclass(frozen=True, repr=False)
class Explanation(Report):
    """The result of `explain`. It prints as a table, and shows HTML in a notebook.

    Args:
        query: The query.
        query_id: Its id, if it has one.
        passages: The positives, then the negatives in their order.

    Example:
        >>> from hnm_datasets import explain
        >>> found = explain({"anchor": "a red cat?", "positive": "A cat.", "negative": "Red wine."})
        >>> [(passage.kind, passage.shared) for passage in found.passages]
        [('positive', ('a', 'cat')), ('negative', ('red',))]
    """

    query: str
    query_id: str | None
    passages: tuple[ExplainedPassage, ...]

    def __repr__(self) -> str:
        return as_text(self._heading(), [self._table(_NARROW)])

    def _heading(self) -> str:
        return self.query if self.query_id is None else f"{self.query} ({self.query_id})"

    def _tables(self) -> list[Table]:
        return [self._table(_WIDE)]

    def _table(self, width: int) -> Table:
        scorers = list(dict.fromkeys(name for passage in self.passages for name in passage.scores))
        steps = list(dict.fromkeys(name for passage in self.passages for name in passage.verdicts))
        columns = {
            "": [passage.kind for passage in self.passages],
            "rank": [number(passage.rank) for passage in self.passages],
            **{name: [self._score(passage, name) for passage in self.passages] for name in scorers},
            "source": [passage.source or "-" for passage in self.passages],
            **{step: [_verdict(passage, step) for passage in self.passages] for step in steps},
            "shared words": [" ".join(passage.shared) or "-" for passage in self.passages],
            "passage": [_shown(passage, width) for passage in self.passages],
        }
        # Skip columns that are empty for all passages.
        kept = {name: cells for name, cells in columns.items() if {cell.strip() for cell in cells} != {"-"}}
        rows = tuple(zip(*kept.values(), strict=True))
        marked = any(any(passage.above.values()) for passage in self.passages)
        return Table("", tuple(kept), rows, note="^ scores above the positives" if marked else "")

    @staticmethod
    def _score(passage: ExplainedPassage, name: str) -> str:
        # A mark without a meaning in Markdown.
        return number(passage.scores.get(name)) + (" ^" if passage.above.get(name) else "  ")


def explain(
    row: Mapping[str, Any] | pd.Series[Any], corpus: Corpus | None = None, steps: Sequence[Transform] = ()
) -> Explanation:
    """Show one mined row: its query, positives and negatives, with ranks, scores, shared words and verdicts.

    Args:
        row: A row of a mined dataset in any format that `audit_negatives` recognizes, such as `mined[0]`; or of a data
            frame, such as `frame.iloc[0]`.
        corpus: The passages, for rows that refer to them by id.
        steps: Scorers and filters to apply to the row, in order. The table then shows which step drops which negative,
            with the value and the limit. Only for rows with ids.

    Returns:
        An `Explanation`: it prints as a table, shows HTML in a notebook, and has `.to_dict()` and `.to_markdown()`.

    Raises:
        KeyError: The format is not recognized, or an id is not in the corpus.
        TypeError: `row` is a batch or a dataset, or an entry of `steps` is not a step.

    Example:
        >>> from hnm_datasets import BM25Negatives, RankWindow, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=4), batched=True)
        >>> explain(mined[0], corpus, steps=[RankWindow(min=2)])
        what causes earthquakes? (q1)
        <BLANKLINE>
                    rank    score  source  RankWindow          shared words             passage
          positive     -   0.51    -       -                   causes earthquakes       [plate-boundaries] Where plates meet …
          negative     1   1.24 ^  bm25    dropped: 1 < min 2  what causes earthquakes  [richter-scale] The Richter scale The …
          negative     2  0.662 ^  bm25    kept                causes earthquakes       [tsunamis] Tsunamis A tsunami is a …
          negative     4  0.342    bm25    kept                earthquakes              [san-francisco-1906] San Francisco, …
          negative     5  0.331    bm25    kept                causes                   [volcanoes] Volcanoes Magma that rises …
          ^ scores above the positives
    """  # noqa: E501
    if isinstance(row, pd.Series):
        row = {str(name): value for name, value in row.items()}
    if not isinstance(row, Mapping) or not row:
        raise TypeError(
            f"{_NAME} needs one row of a dataset, such as mined[0] or frame.iloc[0], got {type(row).__name__}."
        )
    _check_steps(steps)
    if corpus is not None:
        check_corpus(_NAME, corpus)
    form = recognize(list(row), _NAME)
    if isinstance(row[form.query], (list, np.ndarray)):
        raise TypeError(f"{_NAME} needs one row, but {form.query!r} is a list. Pass dataset[0] instead of dataset[:1].")
    table = pa.table({name: pa.array([value]) for name, value in row.items()})
    before = form.read(Batch(table, step=_NAME))
    if steps and not form.format.needs_corpus:
        raise ValueError(
            f"{_NAME}: steps need rows with ids (query, positive_ids, negative_ids), but this row has the format "
            f"{form.format.name!r}. Convert the dataset first: convert(dataset, 'mined', corpus)."
        )
    if form.format.needs_corpus and corpus is not None:
        for name, side in (("positive_ids", before.positives), ("negative_ids", before.negatives)):
            _check_known(name, side, corpus)
    verdicts: dict[str, list[str]] = {}
    reasons: dict[str, list[str]] = {}
    scored = before
    left = list(range(len(before.negatives)))
    for step in steps:
        unfiltered, table = table, step(table)
        after = recognize(table.column_names, _NAME).read(Batch(table, step=_NAME))
        if after.negatives.scores.keys() != scored.negatives.scores.keys():
            scored = _with_scores(scored, after, left)
        if NEGATIVE_IDS in step.output_columns or "negative_*" in step.output_columns:
            left = _record(step, before, after, left, verdicts)
            why = _reasons(step, Batch(unfiltered, step=_NAME))
            name, marks = next(reversed(verdicts.items()))
            ids = before.negatives.named.to_pylist()
            # If a passage occurs twice, one occurrence may be kept.
            reasons[name] = [why.get(id_, "") * (mark != "kept") for id_, mark in zip(ids, marks, strict=True)]
    return _explanation(scored, corpus, verdicts, reasons)


def _check_steps(steps: Sequence[Transform]) -> None:
    if isinstance(steps, Transform):
        raise TypeError(f"{_NAME}: steps must be a list of transforms, such as [{type(steps).__name__}(...)].")
    for step in steps:
        if not isinstance(step, Transform):
            raise TypeError(f"{_NAME}: steps must be transforms such as RelativeMargin(0.05), got {step!r}.")
        if isinstance(step, (Shape, Miner)):
            raise TypeError(f"{_NAME}: steps must be scorers or filters, not miners or shapes, got {step!r}.")


def _check_known(name: str, side: Side, corpus: Corpus) -> None:
    unknown = np.flatnonzero(corpus.find(side.named) < 0)
    if len(unknown):
        raise KeyError(
            f"{_NAME}: the passage {side.named[int(unknown[0])].as_py()!r} of {name!r} is not in the corpus. Pass the "
            f"corpus that the rows were mined from."
        )


def _record(
    step: Transform, before: QueryRows, after: QueryRows, left: list[int], verdicts: dict[str, list[str]]
) -> list[int]:
    """Record which negatives a step drops; return the positions of the remaining ones in the row."""
    stays = set(after.negatives.named.to_pylist())
    if not stays <= set(before.negatives.named.to_pylist()):
        raise ValueError(
            f"{_NAME}: the step {type(step).__name__} added negatives that the row did not have. Pass only scorers and "
            f"filters."
        )
    promoted = set(after.positives.named.to_pylist()) - set(before.positives.named.to_pylist())
    ids = before.negatives.named.to_pylist()
    name = type(step).__name__
    name = name if name not in verdicts else f"{name} ({sum(name in other for other in verdicts) + 1})"
    verdicts[name] = ["gone"] * len(ids)
    for position in left:
        id_ = ids[position]
        verdicts[name][position] = "kept" if id_ in stays else "promoted" if id_ in promoted else "dropped"
    return [position for position in left if ids[position] in stays]


def _reasons(step: Transform, batch: Batch) -> dict[str, str]:
    """Return the reasons for which a filter drops negatives, by id."""
    if not isinstance(step, CandidateFilter):
        return {}
    candidates = batch.candidates()[NEGATIVE_IDS]
    dropped = np.flatnonzero(~step._keep(batch, candidates))
    names = candidates.values.take(pa.array(dropped)).to_pylist()
    return dict(zip(names, step._why_dropped(batch, candidates, dropped), strict=True))


def _with_scores(known: QueryRows, after: QueryRows, left: list[int]) -> QueryRows:
    """Add the scores that a step wrote; NaN for negatives that were dropped before."""
    ids = known.negatives.named.to_pylist()
    position_of = {passage: position for position, passage in enumerate(after.negatives.named.to_pylist())}
    for name in after.negatives.scores.keys() - known.negatives.scores.keys():
        scores = np.full(len(ids), math.nan)
        for position in left:
            if ids[position] in position_of:
                scores[position] = after.negatives.scores[name][position_of[ids[position]]]
        known.negatives.scores[name] = scores
        if name in after.positives.scores:
            # Promoted positives come after the original ones.
            known.positives.scores[name] = after.positives.scores[name][: len(known.positives)]
    return known


def _explanation(
    rows: QueryRows, corpus: Corpus | None, verdicts: dict[str, list[str]], reasons: dict[str, list[str]]
) -> Explanation:
    query = rows.queries[0].as_py()
    limits = {name: float(mean_of_rows(scores, rows.positives)[0]) for name, scores in rows.positives.scores.items()}
    passages = []
    for kind, side in (("positive", rows.positives), ("negative", rows.negatives)):
        texts = texts_of(side, corpus)
        for position in range(len(side)):
            scores = {
                name: float(values[position]) for name, values in side.scores.items() if math.isfinite(values[position])
            }
            text = None if texts is None else texts[position].as_py()
            negative = kind == "negative"
            passages.append(
                ExplainedPassage(
                    kind=kind,
                    id=None if side.ids is None else side.ids[position].as_py(),
                    text=text,
                    rank=None if side.ranks is None else int(side.ranks[position]),
                    source=None if side.sources is None else side.sources[position].as_py(),
                    scores=scores,
                    shared=_shared(query, text or ""),
                    above={n: s > limits[n] for n, s in scores.items() if math.isfinite(limits.get(n, math.nan))}
                    if negative
                    else {},
                    verdicts={step: marks[position] for step, marks in verdicts.items()} if negative else {},
                    reasons={step: why[position] for step, why in reasons.items() if why[position]} if negative else {},
                )
            )
    return Explanation(query, None if rows.query_ids is None else rows.query_ids[0].as_py(), tuple(passages))


def _shared(query: str, text: str) -> tuple[str, ...]:
    stemmer = Stemmer.Stemmer("english")
    # Terms also include the single characters of scripts without spaces.
    words, there = ([*words_of(one), *terms_of(one)] for one in (query, text))
    stems = {compared(stem) for stem in stemmer.stemWords(there)}
    known = [compared(stem) in stems for stem in stemmer.stemWords(words)]
    return tuple(dict.fromkeys(compress(words, known)))


def _verdict(passage: ExplainedPassage, step: str) -> str:
    verdict, reason = passage.verdicts.get(step, "-"), passage.reasons.get(step)
    return f"{verdict}: {reason}" if reason else verdict


def _shown(passage: ExplainedPassage, width: int) -> str:
    name = f"[{passage.id}] " if passage.id is not None else ""
    text = " ".join((name + (passage.text or "")).split())
    short = textwrap.shorten(text, width, placeholder=" …")
    # With scripts without spaces, or long ids, `shorten` would leave almost nothing.
    return short if len(short) > width // 3 or len(text) <= width else text[: width - 2] + " …"
