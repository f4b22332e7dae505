"""`explain`: one query, its positives and its negatives in a table that a person reads."""

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
#: How much of a passage is shown in a terminal, and elsewhere.
_NARROW, _WIDE = 40, 160


@dataclass(frozen=True)
class ExplainedPassage:
    """What is known of one passage of a row.

    Attributes:
        kind: `"positive"` or `"negative"`.
        id: Its id, where the form has one.
        text: Its title and text; None where they are in a corpus that is not at hand.
        rank: Its rank in the retriever's list.
        source: Which retriever found it.
        scores: Its scores; `"score"` is the retriever's.
        shared: The words of the query that it holds, in the query's order; by their English stems and, in scripts
            without spaces, pairs of characters, as `BM25Index` does by default.
        above: For a negative, by scorer: whether it scores above the row's positives (their mean).
        verdicts: For a negative, by step: `"kept"`, `"dropped"`, `"promoted"` to a positive, or `"gone"` if an earlier
            step took it away.
        reasons: For a negative that was dropped or promoted, by step: the value and the limit, such as `"0.91 > limit
            0.87"`; only of steps that say so.
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
    """What `explain` says of a row. It shows itself in a terminal, and as HTML in a notebook.

    Args:
        query: The query.
        query_id: Its id, where there is one.
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
        # What no passage has is no column.
        kept = {name: cells for name, cells in columns.items() if {cell.strip() for cell in cells} != {"-"}}
        rows = tuple(zip(*kept.values(), strict=True))
        marked = any(any(passage.above.values()) for passage in self.passages)
        return Table("", tuple(kept), rows, note="^ scores above the positives" if marked else "")

    @staticmethod
    def _score(passage: ExplainedPassage, name: str) -> str:
        # A mark that Markdown does not read as its own.
        return number(passage.scores.get(name)) + (" ^" if passage.above.get(name) else "  ")


def explain(
    row: Mapping[str, Any] | pd.Series[Any], corpus: Corpus | None = None, steps: Sequence[Transform] = ()
) -> Explanation:
    """Show one mined row: its query, positives and negatives, with ranks, scores, shared words and verdicts.

    Args:
        row: A row of a mined dataset, in any form that `audit_negatives` knows, such as `mined[0]`, or of a data
            frame, such as `frame.iloc[0]`.
        corpus: The passages, for rows that name them by ids.
        steps: Steps to apply to the row one after another, scorers and filters: the table then tells which step drops
            which negative, by what value and limit. For rows with ids.

    Returns:
        An `Explanation`: it prints itself, shows itself in a notebook, and has `.to_dict()` and `.to_markdown()`.

    Raises:
        KeyError: The columns are in no known form, or an id is not in the corpus.
        TypeError: `row` is a batch or dataset, or a step is none.

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
            f"{_NAME} takes one row of a dataset, such as mined[0] or frame.iloc[0], got {type(row).__name__}."
        )
    _check_steps(steps)
    if corpus is not None:
        check_corpus(_NAME, corpus)
    form = recognize(list(row), _NAME)
    if isinstance(row[form.query], (list, np.ndarray)):
        raise TypeError(
            f"{_NAME} takes one row, and {form.query!r} is a list: pass dataset[0] in place of dataset[:1]."
        )
    table = pa.table({name: pa.array([value]) for name, value in row.items()})
    before = form.read(Batch(table, step=_NAME))
    if steps and not form.format.needs_corpus:
        raise ValueError(
            f"{_NAME}: steps work on rows with ids (query, positive_ids, negative_ids), and this one is in the form "
            f"{form.format.name!r}. Convert it first: convert(dataset, 'mined', corpus)."
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
            # Of a passage that is there twice, one may be kept.
            reasons[name] = [why.get(id_, "") * (mark != "kept") for id_, mark in zip(ids, marks, strict=True)]
    return _explanation(scored, corpus, verdicts, reasons)


def _check_steps(steps: Sequence[Transform]) -> None:
    if isinstance(steps, Transform):
        raise TypeError(f"{_NAME}: steps must be a list of transforms, such as [{type(steps).__name__}(...)].")
    for step in steps:
        if not isinstance(step, Transform):
            raise TypeError(f"{_NAME}: steps must be transforms such as RelativeMargin(0.05), got {step!r}.")
        if isinstance(step, (Shape, Miner)):
            raise TypeError(f"{_NAME}: steps must be scorers and filters of the row's negatives, got {step!r}.")


def _check_known(name: str, side: Side, corpus: Corpus) -> None:
    unknown = np.flatnonzero(corpus.find(side.named) < 0)
    if len(unknown):
        raise KeyError(
            f"{_NAME}: {name!r} names the passage {side.named[int(unknown[0])].as_py()!r}, which is not in the corpus."
        )


def _record(
    step: Transform, before: QueryRows, after: QueryRows, left: list[int], verdicts: dict[str, list[str]]
) -> list[int]:
    """Note which negatives a step drops; return which are left, by their places in the row."""
    stays = set(after.negatives.named.to_pylist())
    if not stays <= set(before.negatives.named.to_pylist()):
        raise ValueError(f"{_NAME}: the step {type(step).__name__} brought negatives that the row did not have.")
    risen = set(after.positives.named.to_pylist()) - set(before.positives.named.to_pylist())
    ids = before.negatives.named.to_pylist()
    name = type(step).__name__
    name = name if name not in verdicts else f"{name} ({sum(name in other for other in verdicts) + 1})"
    verdicts[name] = ["gone"] * len(ids)
    for place in left:
        verdicts[name][place] = "kept" if ids[place] in stays else "promoted" if ids[place] in risen else "dropped"
    return [place for place in left if ids[place] in stays]


def _reasons(step: Transform, batch: Batch) -> dict[str, str]:
    """Return why a filter drops negatives, by id."""
    if not isinstance(step, CandidateFilter):
        return {}
    candidates = batch.candidates()[NEGATIVE_IDS]
    dropped = np.flatnonzero(~step._keep(batch, candidates))
    names = candidates.values.take(pa.array(dropped)).to_pylist()
    return dict(zip(names, step._why_dropped(batch, candidates, dropped), strict=True))


def _with_scores(known: QueryRows, after: QueryRows, left: list[int]) -> QueryRows:
    """Add the scores that a step wrote, NaN for what was dropped before it."""
    ids = known.negatives.named.to_pylist()
    place_of = {passage: place for place, passage in enumerate(after.negatives.named.to_pylist())}
    for name in after.negatives.scores.keys() - known.negatives.scores.keys():
        scores = np.full(len(ids), math.nan)
        for place in left:
            if ids[place] in place_of:
                scores[place] = after.negatives.scores[name][place_of[ids[place]]]
        known.negatives.scores[name] = scores
        if name in after.positives.scores:
            # Promoted ones come after those that the row had.
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
        for place in range(len(side)):
            scores = {
                name: float(values[place]) for name, values in side.scores.items() if math.isfinite(values[place])
            }
            text = None if texts is None else texts[place].as_py()
            negative = kind == "negative"
            passages.append(
                ExplainedPassage(
                    kind=kind,
                    id=None if side.ids is None else side.ids[place].as_py(),
                    text=text,
                    rank=None if side.ranks is None else int(side.ranks[place]),
                    source=None if side.sources is None else side.sources[place].as_py(),
                    scores=scores,
                    shared=_shared(query, text or ""),
                    above={n: s > limits[n] for n, s in scores.items() if math.isfinite(limits.get(n, math.nan))}
                    if negative
                    else {},
                    verdicts={step: marks[place] for step, marks in verdicts.items()} if negative else {},
                    reasons={step: why[place] for step, why in reasons.items() if why[place]} if negative else {},
                )
            )
    return Explanation(query, None if rows.query_ids is None else rows.query_ids[0].as_py(), tuple(passages))


def _shared(query: str, text: str) -> tuple[str, ...]:
    stemmer = Stemmer.Stemmer("english")
    # Terms add the single characters of scripts without spaces.
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
    # Scripts without spaces, and long ids, would leave nothing but the dots.
    return short if len(short) > width // 3 or len(text) <= width else text[: width - 2] + " …"
