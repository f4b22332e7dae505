"""Log what a new dataset replaces in its folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from datasets import Dataset

from hnm_datasets.hub.shards import DATA
from hnm_datasets.markdown import count

logger = logging.getLogger(__name__)


class Saved(NamedTuple):
    """The content of a saved folder.

    Attributes:
        rows: The number of rows of all splits.
        columns: The columns of the rows; None if no shard can be read.
    """

    rows: int
    columns: Sequence[str] | None


def saved_in(folder: Path, record: Mapping[str, Any]) -> Saved:
    """Return the content of a folder that `save_mined` wrote, without reading its rows."""
    rows = sum(split["rows"] for split in record["splits"].values())
    try:
        return Saved(rows, pq.read_schema(next((folder / DATA).glob("*.parquet"))).names)
    except (OSError, ValueError, StopIteration):
        return Saved(rows, None)


def log_replaced(owner: str, folder: Path, old: Saved, splits: Mapping[str, Dataset]) -> None:
    """Log the replacement, as a warning if the number of rows or the columns differ."""
    rows, columns = sum(map(len, splits.values())), next(iter(splits.values())).column_names
    known = columns if old.columns is None else old.columns
    added, removed = sorted(set(columns) - set(known)), sorted(set(known) - set(columns))
    changes = [f"{what} {', '.join(names)}" for what, names in (("added", added), ("removed", removed)) if names]
    logger.log(
        logging.WARNING if changes or old.rows != rows else logging.INFO,
        "%s: replaced %s (%s, now %s%s).",
        owner,
        folder,
        count(old.rows, "row"),
        f"{rows:,}",
        f"; columns {' and '.join(changes)}" if changes else "",
    )
