"""Fusion: merge the candidates of several miners."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import list_array, score_array
from hnm_datasets.arrays.ragged import Ragged, first_of_runs, kept_offsets, offsets_of, positions_within
from hnm_datasets.batch import Batch
from hnm_datasets.columns import (
    NEGATIVE_IDS,
    NEGATIVE_RANKS,
    NEGATIVE_SCORES,
    NEGATIVE_SOURCE,
    score_column,
)
from hnm_datasets.transforms.base import Ordered, Transform
from hnm_datasets.transforms.miners.base import Miner, MiningRows
from hnm_datasets.transforms.miners.search import Candidates

_METHODS = ("rrf", "interleave", "union")
#: The constant k of reciprocal rank fusion, from Cormack et al. 2009. It reduces the weight of the first ranks.
_RRF = 60
#: More than any source finds for a query, so that all candidates of one source precede those of the next.
_APART = 1 << 20


@dataclass(frozen=True)
class FuseNegatives(Transform):
    """Mine from several sources and merge their candidates into one list per row.

    Each candidate keeps its rank in every source and is scored by every source, even by sources that did not find it.
    Filters can therefore use the scores of any source, as in `RelativeMargin(0.05, by="dense")`. Search engines and
    runs score only the passages they find; their other scores are null.

    Args:
        miners: The sources by name, all for the same corpus, for example `{"bm25": BM25Negatives(corpus), "dense":
            DenseNegatives(corpus, model)}`.
        method: `"rrf"` sorts by the sum of 1 / (60 + rank) over the sources (Cormack et al. 2009, *Reciprocal Rank
            Fusion*); `"interleave"` takes candidates from the sources alternately; `"union"` takes all candidates of
            the first source, then the new candidates of the next.
        k: Candidates per row; None for all.

    Columns read:
        `query`, `positive_ids` and the other columns that a source reads; `query_id` and `known_positive_ids`, if
        present.

    Columns written:
        `negative_ids`, `negative_scores` (the fused scores), `negative_ranks` (in the fused list), `negative_source`
        (the names of the sources that found the candidate, joined by `+`); for each source `negative_<source>_ranks` (0
        if the source did not find it), `negative_<source>_scores` and `positive_<source>_scores`.

    Raises:
        TypeError: A source is not a miner.
        ValueError: There are fewer than two sources, their corpora differ, or the method is unknown.

    Example:
        >>> from hnm_datasets import BM25Negatives, RandomNegatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> step = FuseNegatives({"bm25": BM25Negatives(corpus, k=2), "random": RandomNegatives(corpus, k=2)})
        >>> mined = queries.map(step, batched=True)
        >>> mined[0]["negative_ids"][0], mined[0]["negative_bm25_ranks"][0]
        ('richter-scale', 1)
    """

    version: ClassVar[int] = 2

    miners: Mapping[str, Miner]
    method: str = "rrf"
    k: int | None = None

    @property
    def input_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the sources read."""
        return tuple(dict.fromkeys(name for miner in self.miners.values() for name in miner.input_columns))

    @property
    def output_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns that the step writes."""
        parts = ("negative_{}_ranks", "negative_{}_scores", "positive_{}_scores")
        own = (NEGATIVE_IDS, NEGATIVE_SCORES, NEGATIVE_RANKS, NEGATIVE_SOURCE)
        return (*own, *(part.format(name) for name in self.miners for part in parts))

    def __post_init__(self) -> None:
        step = "FuseNegatives"
        if not isinstance(self.miners, Mapping) or len(self.miners) < 2:
            raise ValueError(
                f"{step}: miners must be a dict of at least two sources, such as {{'bm25': BM25Negatives(corpus), "
                f"'dense': DenseNegatives(corpus, model)}}, got {self.miners!r}."
            )
        for name, miner in self.miners.items():
            if not isinstance(miner, Miner):
                raise TypeError(
                    f"{step}: the source {name!r} must be a miner such as BM25Negatives(corpus), got "
                    f"{type(miner).__name__}."
                )
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "score":
                raise ValueError(
                    f"{step}: a source's name becomes part of column names and must be a word such as 'dense', got "
                    f"{name!r}."
                )
        corpora = {miner.corpus.fingerprint for miner in self.miners.values()}
        if len(corpora) > 1:
            raise ValueError(
                f"{step}: the sources {list(self.miners)} have different corpora. Create all miners with the same one."
            )
        self._set(miners=Ordered(self.miners), method=checks.one_of(step, "method", self.method, _METHODS))
        if self.k is not None:
            self._set(k=checks.whole_number(step, "k", self.k, low=1))

    def prepare(self) -> None:
        """Prepare all sources."""
        for miner in self.miners.values():
            miner.prepare()

    def _apply(self, batch: Batch) -> Mapping[str, pa.Array]:
        corpus = next(iter(self.miners.values())).corpus
        asked = MiningRows.read(batch, corpus, self.input_columns)
        encoded = [miner._encode_rows(asked) for miner in self.miners.values()]
        found = [miner.find(asked, own) for miner, own in zip(self.miners.values(), encoded, strict=True)]
        fused = fuse(found, corpus.text_codes, self.method)
        within = positions_within(fused.offsets)
        stay = np.ones(len(within), dtype=bool) if self.k is None else within < self.k
        offsets = kept_offsets(fused.offsets, stay)
        rows, ranks = fused.rows[stay], fused.ranks[:, stay]
        columns = {
            NEGATIVE_IDS: list_array(offsets, corpus.ids(rows)),
            NEGATIVE_SCORES: list_array(offsets, pa.array(fused.scores[stay])),
            NEGATIVE_RANKS: list_array(offsets, pa.array((within[stay] + 1).astype(np.int32))),
            NEGATIVE_SOURCE: list_array(offsets, _source_names(list(self.miners), ranks > 0)),
        }
        for number, (name, miner) in enumerate(self.miners.items()):
            scores, known = fused.source_scores[number, stay], fused.is_scored[number, stay]
            # The source has already scored the passages that it found.
            unknown = Ragged(kept_offsets(offsets, ~known), rows[~known])
            scores[~known] = miner._score(encoded[number], unknown)
            of_positives = miner._score(encoded[number], asked.positives)
            columns[f"negative_{name}_ranks"] = list_array(offsets, pa.array(ranks[number]))
            columns[score_column(name)] = list_array(offsets, score_array(scores))
            columns[score_column(name, of="positive")] = list_array(asked.positives.offsets, score_array(of_positives))
        return columns


@dataclass(frozen=True)
class Fused:
    """The merged candidates of B queries, C in total, from S sources.

    Attributes:
        offsets: Where each query's candidates begin and end. Shape (B + 1,).
        rows: Row numbers in the corpus. Shape (C,).
        scores: The fused scores. Shape (C,).
        ranks: The rank in each source, 0 if the source did not find the candidate. Shape (S, C).
        source_scores: The score from each source; valid only where `is_scored`. Shape (S, C).
        is_scored: Whether the source found exactly this passage, not a copy of it. Shape (S, C).
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    ranks: NDArray[np.int32]
    source_scores: NDArray[np.float32]
    is_scored: NDArray[np.bool_]


def fuse(sources: list[Candidates], text_codes: NDArray[np.int64], method: str) -> Fused:
    """Merge the lists of several sources.

    Args:
        sources: The candidates of the same B queries from each of S sources.
        text_codes: Passages with the same text have the same code; sources may find different copies. Shape (N,).
        method: `"rrf"`, `"interleave"` or `"union"`.
    """
    n_queries = len(sources[0].offsets) - 1
    owners = np.concatenate([np.repeat(np.arange(n_queries), np.diff(one.offsets)) for one in sources])
    rows = np.concatenate([one.rows for one in sources])
    source = np.repeat(np.arange(len(sources)), [len(one.rows) for one in sources])
    ranks = np.concatenate([one.ranks for one in sources]).astype(np.int64)
    within = np.concatenate([positions_within(one.offsets) for one in sources])
    # One group per query and text. If sources find different copies, the copy of the first source is used.
    keys = owners * len(text_codes) + text_codes[rows]
    order = np.argsort(keys, kind="stable")
    fresh = first_of_runs(keys[order])
    group = np.cumsum(fresh) - 1
    first = order[fresh]
    by_source = np.zeros((len(sources), len(first)), dtype=np.int32)
    by_source[source[order], group] = ranks[order]
    source_scores = np.zeros(by_source.shape, dtype=np.float32)
    source_scores[source[order], group] = np.concatenate([one.scores for one in sources])[order]
    is_scored = np.zeros(by_source.shape, dtype=bool)
    is_scored[source[order], group] = rows[order] == rows[first][group]
    if method == "rrf":
        found = by_source > 0
        scores = np.where(found, 1 / (_RRF + by_source), 0).sum(axis=0)
    else:
        # If several sources found a candidate, its best position counts.
        position = within * len(sources) + source if method == "interleave" else within + source * _APART
        best = np.full(len(first), np.iinfo(np.int64).max)
        np.minimum.at(best, group, position[order])
        scores = -best.astype(np.float64)
    final = np.lexsort((rows[first], -scores, owners[first]))
    return Fused(
        offsets_of(np.bincount(owners[first], minlength=n_queries)),
        rows[first][final],
        scores[final].astype(np.float32),
        by_source[:, final],
        source_scores[:, final],
        is_scored[:, final],
    )


def _source_names(names: list[str], found: NDArray[np.bool_]) -> pa.Array:
    """Return the joined names of the sources that found each candidate. Shape (S, C) → (C,)."""
    code = (found * (1 << np.arange(len(names)))[:, None]).sum(axis=0)
    used, back = np.unique(code, return_inverse=True)
    labels = ["+".join(name for bit, name in enumerate(names) if one >> bit & 1) for one in used.tolist()]
    return pa.DictionaryArray.from_arrays(pa.array(back), pa.array(labels, type=pa.string())).cast(pa.string())
