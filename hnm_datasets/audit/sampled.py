"""The part of an audit that uses a sample of the rows: texts, and the distributions of scores and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.audit.audited_batch import describer
from hnm_datasets.audit.counting import Found, ScoreCounts
from hnm_datasets.audit.defects import DEFECTS, SampledBatch
from hnm_datasets.audit.reading import PassageKeys, iter_rows, passages_of, query_keys, texts_of
from hnm_datasets.audit.spread import Scores, Spread, histogram_of
from hnm_datasets.audit.tally import mean_of_rows
from hnm_datasets.audit.texts import pairs_of_rows, shared_by, similarity, word_sets
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.shingles import shingles_of
from hnm_datasets.formats.base import Layout, QueryRows
from hnm_datasets.runtime.bars import DELAY, ProgressBar

#: The approximate number of (positive, negative) pairs to compare.
_PAIRS = 500_000
#: The approximate number of passages per batch.
_PASSAGES = 20_000


def draw_sample(dataset: Dataset, wanted: int, negatives: float, positives: float, seed: int) -> Dataset:
    """Draw rows at random; fewer if rows have many passages.

    Args:
        dataset: All rows.
        wanted: The maximum number of rows to draw.
        negatives: The mean number of negatives per row.
        positives: The mean number of positives per row.
        seed: Seed for the draw.
    """
    size = min(len(dataset), wanted, max(100, int(_PAIRS / max(negatives * max(positives, 1), 1))))
    if size == len(dataset):
        return dataset
    return dataset.select(np.sort(np.random.default_rng(seed).choice(len(dataset), size, replace=False)))


@dataclass
class Sampled:
    """Statistics of a sample of rows, collected batch by batch.

    Attributes:
        dataset: The sampled rows.
        form: The layout of their columns.
        corpus: The passages, if given.
        near_from: The similarity from which two texts count as near duplicates.
        is_positive: Function that marks the (query, passage) pairs that are known positives.
        owner: The name of the caller, for errors.
        found: The defects in the sample, by name.
    """

    dataset: Dataset
    form: Layout
    corpus: Corpus | None
    near_from: float
    is_positive: Callable[[NDArray[np.uint64], PassageKeys], NDArray[np.bool_]]
    owner: str
    found: dict[str, Found] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._values: dict[str, list[NDArray[Any]]] = {}

    def run(self, passages_per_row: float) -> Sampled:
        """Read the rows."""
        at_most = max(1, int(_PASSAGES / max(passages_per_row, 1)))
        with ProgressBar(len(self.dataset), "Comparing texts of sampled rows", "rows", delay=DELAY) as bar:
            for rows in iter_rows(self.dataset, self.form, self.owner, at_most):
                self._read_texts(rows)
                for name, negative in rows.negatives.scores.items():
                    self._add(f"negative {name}", negative)
                    if name in rows.positives.scores:
                        positive = rows.positives.scores[name]
                        means = mean_of_rows(positive, rows.positives)
                        self._add(f"positive {name}", positive)
                        self._add(f"margin {name}", means[rows.negatives.owners] - negative)
                if rows.negatives.ranks is not None:
                    self._add("ranks", rows.negatives.ranks)
                bar.update(len(rows.queries))
        return self

    def spread(self, name: str) -> Spread | None:
        """Return the distribution of the values collected under a name; None if there are none."""
        return Spread.of(self.values(name)) if name in self._values else None

    def values(self, name: str) -> NDArray[np.float64]:
        """Return the values collected under a name."""
        return np.concatenate([*self._values.get(name, []), np.empty(0)]).astype(np.float64)

    def scores(self, counts: Mapping[str, ScoreCounts]) -> dict[str, Scores]:
        """Return the distributions of all scores."""
        return {
            name: Scores(
                positive=self.spread(f"positive {name}"),
                negative=self.spread(f"negative {name}"),
                margin=self.spread(f"margin {name}"),
                above=counted.above / counted.compared if counted.compared else None,
                histogram=histogram_of(self.values(f"positive {name}"), self.values(f"negative {name}")),
            )
            for name, counted in counts.items()
        }

    def _add(self, name: str, values: NDArray[Any]) -> None:
        self._values.setdefault(name, []).append(values)

    def _read_texts(self, rows: QueryRows) -> None:
        texts = [texts_of(side, self.corpus) for side in (rows.positives, rows.negatives)]
        if texts[0] is None or texts[1] is None:
            return
        # Process each text once, because passages repeat often.
        parts = [part.cast(pa.large_string()) for part in (rows.queries, *texts)]
        coded = pa.concat_arrays(parts).dictionary_encode()
        codes = coded.indices.to_numpy().astype(np.int64)
        queries, positives, negatives = np.split(codes, np.cumsum([len(part) for part in parts])[:-1])
        words, lengths = word_sets(coded.dictionary)
        of_positives, of_negatives = queries[rows.positives.owners], queries[rows.negatives.owners]
        for side, query, own in (("positive", of_positives, positives), ("negative", of_negatives, negatives)):
            self._add(f"{side} words", lengths[own])
            size = words.lengths[query]
            self._add(f"query in {side}", shared_by(words, query, own)[size > 0] / size[size > 0])
        lefts, rights = pairs_of_rows(rows.positives.offsets, rows.negatives.offsets)
        self._add("positive and negative", similarity(words, positives[lefts], negatives[rights]))
        shingles = shingles_of(coded.dictionary)
        near = similarity(shingles, positives[lefts], negatives[rights]) >= self.near_from
        known = self.is_positive(query_keys(rows)[rows.negatives.owners], passages_of(rows.negatives, self.corpus))
        batch = SampledBatch(rows, np.bincount(rights[near], minlength=len(negatives)) > 0, known)
        for defect in DEFECTS:
            if defect.in_sample is not None:
                for kind, mask in defect.in_sample(batch):
                    self.found.setdefault(defect.name, Found()).add(mask, describer(rows, kind, self.corpus))
