"""Live rows as a `datasets.Dataset`, and the plain rows of one epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.runtime.datasets_internals import chosen_rows, stored_rows, transform_of
from hnm_datasets.training.live_table import POSITIVE_ROW, QUERY_ROW, text_names, unreadable
from hnm_datasets.training.live_texts import LiveTexts

_BATCH = 1000
_NUMBERS = [QUERY_ROW, POSITIVE_ROW]
#: Methods that read or change the columns of the table, which holds no texts.
_REFUSED = (
    *("with_format", "reset_format", "formatted_as", "with_transform"),
    *(
        "to_csv",
        "to_dict",
        "to_iterable_dataset",
        "to_json",
        "to_list",
        "to_pandas",
        "to_parquet",
        "to_polars",
        "to_sql",
    ),
    *("save_to_disk", "push_to_hub"),
    *("add_column", "add_item", "remove_columns", "rename_column", "rename_columns", "select_columns", "flatten"),
    *("cast", "cast_column", "class_encode_column", "align_labels_with_mapping"),
    *("sort", "unique", "flatten_indices", "add_faiss_index", "add_elasticsearch_index"),
)


class LiveNegatives(Dataset):  # type: ignore[misc]
    """A `datasets.Dataset` of training rows; create it with `live_negatives`.

    The callbacks `FollowEpochs` and `RefreshNegatives` set its epoch. Rows can be read, selected, shuffled, split and
    filtered. `map` applies a function to the rows of the current epoch and returns a plain dataset. Methods that read
    or change the underlying table raise an error; use `rows_of_epoch` instead.
    """

    @property
    def source(self) -> LiveTexts:
        """The transform that makes the texts."""
        found = _source_of(transform_of(self))
        assert found is not None
        return found

    @property
    def column_names(self) -> list[str]:
        """The text columns. Rows also have a `label`, but the trainer's samplers would try to remove it from here."""
        return text_names(self.source.n)

    def __repr__(self) -> str:
        columns = [*self.column_names, "label"]
        return f"LiveNegatives({{\n    features: {columns},\n    num_rows: {len(self)}\n}})"

    def __getitem__(self, key: Any) -> Any:
        """Return a row, some rows, or a column, also the column of labels, which the table does not have."""
        return rows_of_epoch(self)[key] if isinstance(key, str) and key == "label" else super().__getitem__(key)

    def select(self, *args: Any, **options: Any) -> LiveNegatives:
        """Select rows, as `Dataset.select` does; `shuffle`, `take` and similar methods also call this."""
        selected = super().select(*args, **options)
        # `datasets` returns a plain `Dataset`, not the subclass.
        selected.__class__ = LiveNegatives
        live: LiveNegatives = selected
        return live

    def filter(self, *args: Any, **options: Any) -> LiveNegatives:
        """Filter rows by their texts in the current epoch."""
        kept = rows_of_epoch(self).filter(*args, **options)
        chosen = chosen_rows(kept)
        return self if chosen is None else self.select(chosen)

    def map(self, *args: Any, **options: Any) -> Dataset:
        """Map the rows of the current epoch to a plain dataset."""
        return rows_of_epoch(self).map(*args, **options)

    def set_format(
        self,
        type: str | None = None,
        columns: list[str] | None = None,
        output_all_columns: bool = False,
        **options: Any,
    ) -> None:
        """Accept only the transform that makes the texts, as it is or wrapped by the trainer."""
        options |= options.pop("format_kwargs", {})
        if _source_of(options.get("transform")) is None:
            raise unreadable("live rows do not accept another format or transform")
        super().set_format("custom", columns=_NUMBERS, **options)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, whose negatives the rows draw."""
        self.source.progress.epoch = epoch


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(self: LiveNegatives, *args: Any, **options: Any) -> NoReturn:
        raise unreadable(f"{name}() needs the texts of live rows in their table")

    refuse.__name__ = name
    refuse.__doc__ = "Raise an error: the table has no texts."
    return refuse


for _name in _REFUSED:
    setattr(LiveNegatives, _name, _refuse(_name))


def _source_of(transform: Any) -> LiveTexts | None:
    """Return the transform that makes the texts; the trainer wraps it to add the dataset name if there are several."""
    if transform is None or isinstance(transform, LiveTexts):
        return transform
    return _source_of(getattr(transform, "keywords", {}).get("transform"))


def rows_of_epoch(live: LiveNegatives, epoch: int | None = None) -> Dataset:
    """Create a plain `datasets.Dataset` of the rows of an epoch, which supports all formats and exports.

    Args:
        live: Rows from `live_negatives`, or a selection of them.
        epoch: The epoch, counted from 0; None: the current epoch of the rows.

    Returns:
        The rows that training sees in this epoch, with the negatives mined last: `anchor`, `positive`, `negative_1` to
        `negative_n`, `label`. The dataset is in memory. It includes random passages that pad rows with fewer than n
        candidates; the label marks them.

    Raises:
        TypeError: `live` does not come from `live_negatives`.
        ValueError: The epoch is negative.

    Example:
        >>> from hnm_datasets import BM25Negatives, live_negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> live = live_negatives(queries.map(BM25Negatives(corpus, k=4), batched=True), corpus, n=2)
        >>> rows_of_epoch(live, epoch=3).remove_columns("label").to_pandas().shape
        (1, 4)
    """
    name = "rows_of_epoch"
    if not isinstance(live, LiveNegatives):
        raise TypeError(f"{name} needs rows from live_negatives, got {type(live).__name__}.")
    source = live.source
    epoch = source.progress.epoch if epoch is None else checks.whole_number(name, "epoch", epoch, low=0)
    generation = source.generation()
    tables = []
    # At least one batch, so that the result has its columns even without rows.
    for start in range(0, max(1, len(live)), _BATCH):
        numbers = stored_rows(live, slice(start, start + _BATCH), [QUERY_ROW, POSITIVE_ROW])
        owners, positives = (numbers[column].to_numpy() for column in (QUERY_ROW, POSITIVE_ROW))
        texts, labels = source.texts_of(generation, owners, positives, epoch)
        columns = {column: texts[column].cast(pa.string()) for column in texts}
        offsets = np.arange(len(labels) + 1, dtype=np.int64) * labels.shape[1]
        tables.append(pa.table(columns | {"label": list_array(offsets, pa.array(labels.reshape(-1)))}))
    return Dataset(pa.concat_tables(tables))
