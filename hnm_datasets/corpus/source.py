"""Checking a dataset of passages and writing it as a corpus."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import as_plain, is_string, type_name
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.corpus.copies import Copies
from hnm_datasets.corpus.text import is_blank, normalized_digests, passage_texts
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.bars import iter_with_bar
from hnm_datasets.storage.digests import ColumnsHasher, digest_strings, distinct_digests, fingerprint
from hnm_datasets.storage.mapped import open_strings, save_array, save_strings
from hnm_datasets.storage.tables import IdTable, KeyTable, RepeatedIdError

#: Part of the fingerprint of a corpus; increase it when the files or the definition of a passage's text change.
_FORMAT = 5
_OWNER = "Corpus.from_dataset"
#: The standard columns of a corpus, in order, by file name.
PARTS = {"ids": "id", "texts": "text", "titles": "title", "groups": "group"}
#: The files of other columns are named by this prefix and a number. The file `COLUMNS` lists the column names.
COLUMN = "column"
COLUMNS = "columns.json"

#: The largest chunk of passages, in rows and in bytes.
_CHUNK = 20_000
_CHUNK_BYTES = 1 << 26


class Source:
    """A dataset of passages that is checked while it is read; see `Corpus.from_dataset` for the arguments."""

    def __init__(
        self,
        dataset: Rows,
        id_: str = "id",
        text: str = "text",
        title: str | None = "title",
        group: str | None = "group",
        others: Sequence[str] = (),
    ) -> None:
        dataset = dataset_of(dataset, _OWNER, "dataset")
        self.dataset_name = name_of(dataset)
        optional = {"titles": (title, "title"), "groups": (group, "group")}
        columns = {"ids": id_, "texts": text}
        # A column with the default name is optional; a column that the user named is required.
        columns |= {
            part: name
            for part, (name, usual) in optional.items()
            if name is not None and (name != usual or name in dataset.column_names)
        }
        for part, name in columns.items():
            if name not in dataset.column_names:
                raise KeyError(
                    f"The corpus has no column {name!r} for the {part}. Its columns are {dataset.column_names}. Choose "
                    f"one: Corpus.from_dataset(dataset, {part[:-1]}_column=...)."
                )
        self.others = _checked_others(others, dataset.column_names)
        columns |= {f"{COLUMN}_{number}": name for number, name in enumerate(self.others)}
        if len(dataset) == 0:
            raise ValueError("The corpus is empty: it needs at least one passage.")
        self.columns = columns
        self.dataset = dataset.select_columns(list(dict.fromkeys(columns.values()))).with_format("arrow")

    def chunks(self, parts: Collection[str], desc: str) -> Iterator[dict[str, pa.Array]]:
        """Yield chunks of rows with these columns, checked."""
        seen = 0
        for table in iter_with_bar(self.dataset, chunk_size(self.dataset.data), desc, "passages"):
            yield {part: self._checked(part, table[self.columns[part]].combine_chunks(), table, seen) for part in parts}
            seen += len(table)

    def _checked(self, part: str, array: pa.Array, table: pa.Table, seen: int) -> pa.Array:
        name = self.columns[part]
        may_lack = part == "groups" or part.startswith(COLUMN)
        if part == "ids" or may_lack:
            array = as_ids(array, f"the corpus's column {name!r}", _OWNER, lambda row: f"row {seen + row}")
        if pa.types.is_null(array.type):
            array = array.cast(pa.string())
        array = as_plain(array)
        if not is_string(array.type):
            raise TypeError(
                f"The corpus's column {name!r} must hold strings, got {type_name(array.type)}. Cast it: "
                f"dataset.cast_column({name!r}, Value('string'))."
            )
        if part == "titles" or may_lack:
            return pc.fill_null(array, "")
        if array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise ValueError(
                f"The corpus's column {name!r} is null in {self._name(part, table, row, seen)}. Remove these passages: "
                f"dataset.filter(lambda row: row[{name!r}])."
            )
        empty = is_blank(array)
        if part == "texts" and "titles" in self.columns:
            # A passage may be only a title.
            titles = self._checked("titles", table[self.columns["titles"]].combine_chunks(), table, seen)
            empty = pc.and_(empty, is_blank(titles))
        if empty.true_count:
            row = int(np.flatnonzero(empty.to_numpy(zero_copy_only=False))[0])
            raise ValueError(
                f"The corpus's column {name!r} is empty in {self._name(part, table, row, seen)}. An empty passage is "
                f"never retrieved. Remove it: dataset.filter(lambda row: row[{name!r}].strip())."
            )
        return array

    def _name(self, part: str, table: pa.Table, row: int, seen: int) -> str:
        return f"row {seen + row}" if part == "ids" else f"the passage {table[self.columns['ids']][row].as_py()!r}"

    def fingerprint(self) -> str:
        """Return the fingerprint of the content of the passages."""
        hasher = ColumnsHasher(self.columns)
        for chunk in self.chunks(self.columns, "Reading passages"):
            for part, array in chunk.items():
                hasher.update(part, array)
        others = {"others": self.others} if self.others else {}
        return fingerprint({"kind": "corpus", "format": _FORMAT, "columns": hasher.digests(), **others})

    def save(self, folder: Path) -> None:
        """Write the files of the corpus."""
        for part in self.columns:
            save_strings(
                folder,
                part,
                (chunk[part] for chunk in self.chunks((part,), f"Copying {self.columns[part]!r} of passages")),
            )
        ids = open_strings(folder, "ids")
        try:
            IdTable.of(ids).save(folder, "by_id")
        except RepeatedIdError as error:
            raise ValueError(
                f"The corpus has the id {ids[error.first].as_py()!r} more than once, first in rows {error.first} and "
                f"{error.second}. Each passage needs a unique id: remove the repeated rows or change their ids."
            ) from None
        texts = open_strings(folder, "texts")
        titles = open_strings(folder, "titles") if "titles" in self.columns else None
        digests = _text_digests(titles, texts)
        by_text = KeyTable.from_digests(digests)
        by_text.save(folder, "by_text")
        first, numbers = distinct_digests(digests)
        text_codes = first[numbers]
        save_array(folder, "text_codes", text_codes)
        if titles is not None:
            has_both = pc.invert(pc.or_(is_blank(titles), is_blank(texts))).to_numpy(zero_copy_only=False)
            Copies.of(_text_digests(None, texts), has_both, by_text, text_codes).save(folder)
        if "groups" in self.columns:
            alone = pc.equal(open_strings(folder, "groups"), "").to_numpy(zero_copy_only=False)
            save_array(folder, "group_codes", np.where(alone, np.arange(len(alone)), _first_rows(folder, "groups")))
        for part in self.columns:
            if part.startswith(COLUMN):
                save_array(folder, f"{part}_codes", _first_rows(folder, part))
        if self.others:
            (folder / COLUMNS).write_text(json.dumps(self.others))


def name_of(dataset: Dataset) -> str | None:
    """Return what `datasets` calls a dataset; None for one of plain files or made in memory."""
    name: str | None = dataset.info.dataset_name
    return None if name == dataset.info.builder_name else name


def _checked_others(names: Sequence[str], available: list[str]) -> list[str]:
    """Return the sorted names of other columns to keep."""
    if isinstance(names, str):
        raise TypeError(f"{_OWNER}: columns must be a list of names, got one name: pass [{names!r}].")
    for name in names:
        if name not in available:
            raise KeyError(f"{_OWNER}: columns contains {name!r}, but the columns of the dataset are {available}.")
        if name in PARTS.values():
            raise ValueError(
                f"{_OWNER}: columns must not contain {name!r}: pass this column as {name}_column=, or rename it."
            )
    return sorted(set(names))


def _first_rows(folder: Path, name: str) -> NDArray[np.int64]:
    """Return the first row with the same value in a saved column. Shape (N,)."""
    first, numbers = distinct_digests(_in_chunks(digest_strings, open_strings(folder, name)))
    return first[numbers]


def chunk_size(rows: pa.Array | datasets.table.Table) -> int:
    """Return the number of rows per chunk; long rows give smaller chunks."""
    return int(min(_CHUNK, max(1, _CHUNK_BYTES * len(rows) // max(rows.nbytes, 1))))


def _text_digests(titles: pa.Array | None, texts: pa.Array) -> NDArray[np.uint64]:
    chunk = chunk_size(texts)
    return np.concatenate(
        [
            normalized_digests(
                passage_texts(None if titles is None else titles.slice(start, chunk), texts.slice(start, chunk))
            )
            for start in range(0, len(texts), chunk)
        ]
    )


def _in_chunks(digest: Any, strings: pa.Array) -> NDArray[np.uint64]:
    pieces = [digest(strings.slice(start, _CHUNK).to_pylist()) for start in range(0, len(strings), _CHUNK)]
    return np.concatenate(pieces)
