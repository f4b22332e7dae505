"""The output of `mine_hard_negatives(verbose=True)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, offsets_of, take_lists
from hnm_datasets.batch import Batch
from hnm_datasets.columns import POSITIVE_IDS, score_column
from hnm_datasets.drop_in.chain import COUNTS
from hnm_datasets.terminal import printable

_ROW = "{:<6} {:>14} {:>14} {:>14}"
_METRICS: dict[str, Callable[[NDArray[np.float64]], Any]] = {
    "Mean": np.mean,
    "Median": np.median,
    "Std": lambda scores: np.std(scores, ddof=1) if len(scores) > 1 else None,
    "Min": np.min,
    "25%": lambda scores: np.quantile(scores, 0.25),
    "50%": np.median,
    "75%": lambda scores: np.quantile(scores, 0.75),
    "Max": np.max,
}


def say(line: str) -> None:
    """Print a line."""
    print(printable(line))  # noqa: T201


def report_queries(rows: Dataset, pairs: int) -> None:
    """Print the number of queries and of positives per query, unless there is one query per pair and one positive."""
    if len(rows) != pairs:
        say(f"Found {len(rows)} unique queries out of {pairs} total queries.")
    positives = _count(rows, POSITIVE_IDS)
    if positives.max() > 1:
        say(f"Found an average of {positives.mean():.3f} positives per query.")


def report_cache(what: str, folder: Path, shape: tuple[int, ...] | None, *, encoded: bool) -> None:
    """Print whether vectors were found in the cache folder."""
    shown = "" if shape is None else f" (shape={shape})"
    say(f"[Cache] {'Saved' if encoded else 'Loaded'} {what} embeddings {'to' if encoded else 'from'} {folder}{shown}")


def report_scores(mined: Dataset, by: str, only_full: int | None) -> None:
    """Print the table of scores.

    Args:
        mined: The queries with their negatives.
        by: The name of the scores.
        only_full: Exclude the negatives of queries with fewer than this number.
    """
    columns = [score_column(by, of=part) for part in ("positive", "negative")]
    batch = Batch(mined.select_columns(columns).with_format("arrow")[:], step="mine_hard_negatives")
    positives, negatives = (batch.scores(name) for name in columns)
    beside = negatives if only_full is None else _full_lists(negatives, only_full)
    # The negatives of a query are counted once per positive.
    pairs = take_lists(beside, positives.owners)
    scores = [np.asarray(one, dtype=np.float64) for one in (positives.values, pairs.values)]
    scores.append(np.repeat(scores[0], pairs.lengths) - scores[1])
    say(_ROW.format("Metric", "Positive", "Negative", "Difference"))
    say(_ROW.format("Count", *(f"{len(one):,}" for one in scores[:2]), ""))
    for name, function in _METRICS.items():
        found = [function(one) if len(one) else None for one in scores]
        say(_ROW.format(name, *("-" if number is None else f"{number:.4f}" for number in found)))


def report_skipped(mined: Dataset, limits: Mapping[str, float]) -> None:
    """Print how many candidates each limit dropped, and their share of the candidates that reached the limit.

    Args:
        mined: The queries with their negatives.
        limits: The limits by name, in order.
    """
    batch = Batch(mined.select_columns([COUNTS]).with_format("arrow")[:], step="mine_hard_negatives")
    counts = batch.number_lists(COUNTS).values.reshape(len(mined), -1).sum(axis=0, dtype=np.int64)
    for (name, value), before, after in zip(limits.items(), counts, counts[1:], strict=False):
        if before > after:
            share = (before - after) / before
            say(f"Skipped {before - after:,} potential negatives ({share:.2%}) due to the {name} of {value}.")


def report_missing(missing: int, possible: int, options: Sequence[str]) -> None:
    """Print how many rows are missing, and which options to adjust."""
    if missing <= 0:
        return
    named = " and ".join([", ".join(options[:-1]), options[-1]]) if len(options) > 1 else options[0]
    say(
        f"Could not find enough negatives for {missing} samples ({missing / possible:.2%}). Consider adjusting the "
        f"{named} parameter{'s' if len(options) > 1 else ''} if you'd like to find more valid negatives."
    )


def counts_of(rows: Dataset, output_format: str, num_negatives: int) -> tuple[int, int]:
    """Return the number of positives, and the number of rows if every query had all its negatives."""
    pairs = int(_count(rows, POSITIVE_IDS).sum())
    possible = {
        "triplet": pairs * num_negatives,
        "n-tuple": pairs,
        "labeled-pair": pairs + len(rows) * num_negatives,
        "labeled-list": pairs,
    }
    return pairs, possible[output_format]


def _count(rows: Dataset, name: str) -> NDArray[np.int64]:
    """Return the length of each row's list. Shape (B,)."""
    column = rows.select_columns([name]).with_format("arrow")[:][name].combine_chunks()
    return np.asarray(column.value_lengths().to_numpy())


def _full_lists(lists: Ragged[Any], size: int) -> Ragged[Any]:
    """Empty the lists with fewer values than `size`."""
    full = lists.lengths >= size
    return Ragged(offsets_of(np.where(full, lists.lengths, 0)), lists.values[np.repeat(full, lists.lengths)])
