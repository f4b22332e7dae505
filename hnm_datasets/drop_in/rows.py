"""The rows of `mine_hard_negatives`, with the column names of sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.columns import KNOWN_POSITIVE_IDS, POSITIVE_IDS, POSITIVE_SCORES
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.shapes.labeled import ToLabeledLists, ToLabeledPairs
from hnm_datasets.transforms.shapes.tuples import ToNTuples, ToTriplets

HIDDEN = "known_ids"


def hide_positives(table: pa.Table) -> pa.Table:
    """Hide all known positives, so that the miner does not exclude them."""
    if KNOWN_POSITIVE_IDS in table.column_names:
        table = table.drop_columns([KNOWN_POSITIVE_IDS])
    none = list_array(np.zeros(len(table) + 1, dtype=np.int64), pa.array([], type=pa.string()))
    hidden = table.rename_columns([HIDDEN if name == POSITIVE_IDS else name for name in table.column_names])
    return hidden.append_column(POSITIVE_IDS, none)


def show_positives(table: pa.Table) -> pa.Table:
    """Restore the hidden positives."""
    table = table.drop_columns([POSITIVE_IDS, POSITIVE_SCORES])
    return table.rename_columns([POSITIVE_IDS if name == HIDDEN else name for name in table.column_names])


@dataclass(frozen=True)
class _RankedTuples(ToNTuples):
    """N-tuples of the first n passages of a ranking, including positives."""

    _drops_known: ClassVar[bool] = False


def shape_of(
    corpus: Corpus, output_format: str, n: int, scores: str | bool, *, with_positives: bool = False
) -> Transform:
    """Return the shape of an output format; with `with_positives`, the shape of a ranking that includes positives."""
    if with_positives:
        return _RankedTuples(corpus, n=n, with_scores=scores)
    if output_format == "triplet":
        return ToTriplets(corpus, with_scores=scores)
    if output_format == "n-tuple":
        return ToNTuples(corpus, n=n, with_scores=scores)
    if output_format == "labeled-pair":
        return ToLabeledPairs(corpus, missing="keep", with_scores=scores)
    return ToLabeledLists(corpus, positives="each", missing="drop", with_scores=scores)


@dataclass(frozen=True)
class Renamed:
    """Convert the columns of a shape to the names and types of sentence-transformers."""

    output_format: str
    anchor: str
    positive: str
    n: int
    with_scores: bool

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the converted table."""
        negatives = ["negative"] if self.output_format == "triplet" else [f"negative_{i + 1}" for i in range(self.n)]
        texts = {"anchor": self.anchor}
        numbers: dict[str, pa.Array] = {}
        made = {"anchor"}
        if self.output_format in ("triplet", "n-tuple"):
            texts |= {"positive": self.positive} | {name: name for name in negatives}
            if self.with_scores:
                columns = [table[f"{name}_score"].to_numpy() for name in ("positive", *negatives)]
                made |= {f"{name}_score" for name in ("positive", *negatives)}
                flat = pa.array(np.column_stack(columns).astype(np.float64).reshape(-1))
                numbers["scores"] = list_array(np.arange(len(table) + 1) * len(columns), flat)
        else:
            plural = "s" if self.output_format == "labeled-list" else ""
            texts[f"passage{plural}"] = self.positive
            made |= {f"label{plural}", f"passage_score{plural}"}
            number = pa.float64() if self.with_scores else pa.int64()
            source, target = ("passage_score", "score") if self.with_scores else ("label", "label")
            wanted = pa.list_(number) if plural else number
            numbers[f"{target}{plural}"] = table[f"{source}{plural}"].combine_chunks().cast(wanted)
        others = [name for name in table.column_names if name not in texts and name not in made]
        return pa.table(
            {new: _plain_strings(table[old]) for old, new in texts.items()}
            | numbers
            | {name: table[name] for name in others}
        )


def _plain_strings(array: pa.ChunkedArray) -> pa.ChunkedArray:
    return array.cast(pa.list_(pa.string()) if pa.types.is_list(array.type) else pa.string())
