"""The files of a corpus in the cache directory, memory-mapped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets.corpus.copies import CodeCounts, Copies
from hnm_datasets.corpus.source import COLUMN, COLUMNS, PARTS
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.manifest import check_complete
from hnm_datasets.storage.mapped import open_array, open_strings
from hnm_datasets.storage.opened import Opened
from hnm_datasets.storage.tables import IdTable, KeyTable


@dataclass(frozen=True)
class CorpusFiles:
    """The memory-mapped files of one corpus."""

    ids: pa.LargeStringArray
    texts: pa.LargeStringArray
    titles: pa.LargeStringArray | None
    groups: pa.LargeStringArray | None
    by_id: IdTable
    by_text: KeyTable
    text_codes: NDArray[np.int64]
    copies: Copies | None
    group_codes: NDArray[np.int64] | None
    others: dict[str, pa.LargeStringArray]
    value_codes: dict[str, NDArray[np.int64]]

    @property
    def columns(self) -> dict[str, pa.LargeStringArray | None]:
        """All columns by name; None for columns that the corpus does not have."""
        own = (self.ids, self.texts, self.titles, self.groups)
        return dict(zip(PARTS.values(), own, strict=True)) | self.others

    @property
    def may_lack(self) -> set[str]:
        """The columns in which a passage may have no value, stored as an empty string."""
        return {PARTS["groups"], *self.others}

    @property
    def copy_codes(self) -> NDArray[np.int64]:
        """See `Corpus.copy_codes`."""
        return self.text_codes if self.copies is None else self.copies.codes

    @cached_property
    def copy_counts(self) -> CodeCounts:
        """The number of passages per code of `copy_codes`."""
        return CodeCounts.of(self.copy_codes)

    @cached_property
    def group_counts(self) -> CodeCounts:
        """The number of passages per code of `group_codes`."""
        assert self.group_codes is not None  # callers have read the codes before
        return CodeCounts.of(self.group_codes)


_OPENED: Opened[CorpusFiles] = Opened()


def open_files(name: str) -> CorpusFiles:
    """Map the files of the corpus with this fingerprint."""

    def opened() -> CorpusFiles:
        folder = cache_root() / "corpora" / name
        check_complete(
            folder,
            f"The corpus {name}",
            "Recreate the corpus with Corpus.from_dataset: the same passages get the same name. A corpus is read from "
            "the datasets cache directory, so HF_DATASETS_CACHE must be the same folder in every process.",
        )
        has_titles, has_groups = (folder / "titles.bytes").exists(), (folder / "groups.bytes").exists()
        ids = open_strings(folder, "ids")
        names = json.loads((folder / COLUMNS).read_text()) if (folder / COLUMNS).exists() else []
        parts = {name: f"{COLUMN}_{number}" for number, name in enumerate(names)}
        return CorpusFiles(
            ids=ids,
            texts=open_strings(folder, "texts"),
            titles=open_strings(folder, "titles") if has_titles else None,
            groups=open_strings(folder, "groups") if has_groups else None,
            by_id=IdTable.open(folder, "by_id", ids),
            by_text=KeyTable.open(folder, "by_text"),
            text_codes=open_array(folder, "text_codes"),  # type: ignore[arg-type]
            copies=Copies.open(folder) if has_titles else None,
            group_codes=open_array(folder, "group_codes") if has_groups else None,  # type: ignore[arg-type]
            others={name: open_strings(folder, part) for name, part in parts.items()},
            value_codes={name: open_array(folder, f"{part}_codes") for name, part in parts.items()},  # type: ignore[misc]
        )

    return _OPENED.get(name, opened)
