"""Retrieval sets whose parts are the configurations of a repository on the Hub, or of a local copy of one.

| layout | passages | queries | judgments |
|---|---|---|---|
| BEIR | `corpus` | `queries` | `qrels` or `default`, or the set `ID-qrels` |
| one set with a split per task, as NanoBEIR | the split of the task in `corpus` | in `queries` | in `qrels` |
| one set with several languages | `ar-corpus` or `corpus-ar` | likewise | `ar-qrels` or `ar` |
| MIRACL | the set `ID-corpus`, or `corpus` | `ar` | in the rows of the queries |
"""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, load_dataset

from hnm_datasets.arrays.arrow import is_list, type_name
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.batch import Batch
from hnm_datasets.columns import QUERY, QUERY_ID
from hnm_datasets.loaders.columns import standard_passages, standard_queries
from hnm_datasets.loaders.qrels import qrels_table

_PASSAGES = {"positive_passages": 1.0, "negative_passages": 0.0}
_VALIDATION = ("dev", "val", "valid")
_PASSAGE_IDS = ("corpus-id", "corpus_id", "docid")


class _Repository:
    """The configurations of a set on the Hub or of its local copy; of a folder without a README.md its subfolders."""

    def __init__(self, place: str) -> None:
        self.place = place = place.rstrip("/")
        self.is_plain = Path(place).is_dir() and not (Path(place) / "README.md").is_file()
        self.names: list[str] = (
            sorted(path.name for path in Path(place).iterdir() if path.is_dir())
            if self.is_plain
            else datasets.get_dataset_config_names(place)
        )

    def splits(self, name: str) -> list[str]:
        """Return the splits of a configuration."""
        splits: list[str] = datasets.get_dataset_split_names(*self._where(name))
        return splits

    def load(self, name: str, split: str) -> Dataset:
        """Load a split of a configuration.

        Raises:
            FileNotFoundError: There is no such split.
        """
        splits = self.splits(name)
        if self.is_plain and split in _VALIDATION and split not in splits:
            # Without a README.md, `datasets` itself names them so.
            split = "validation"
        if split not in splits:
            raise FileNotFoundError(f"{name!r} of {self.place} has no split {split!r}, only {splits}.")
        return load_dataset(*self._where(name), split=split)

    def part(self, kind: str, config: str | None) -> str | None:
        """Return the configuration of the passages, the queries or the judgments."""
        wanted = (kind,) if config is None else (f"{config}-{kind}", f"{kind}-{config}", kind)
        return next((name for name in wanted if name in self.names), None)

    def load_part(self, name: str, split: str) -> Dataset:
        """Load the split of a configuration that belongs to judgments of a split: that of its name, or the only one."""
        splits = self.splits(name)
        if split not in splits and len(splits) > 1:
            raise FileNotFoundError(
                f"The configuration {name!r} of {self.place} has the splits {splits}, and none is named {split!r} as "
                f"the judgments are."
            )
        return self.load(name, split if split in splits else splits[0])

    def _where(self, name: str) -> tuple[str, ...]:
        return (str(Path(self.place) / name),) if self.is_plain else (self.place, name)


def has_configurations(folder: Path) -> bool:
    """Return whether a local folder is a copy of a set on the Hub, or has its parts in subfolders."""
    return (folder / "README.md").is_file() or any(
        (path.is_dir() and any(path.glob("*.parquet"))) or any(path.glob("*.jsonl")) for path in folder.iterdir()
    )


def read_configurations(place: str, split: str, config: str | None) -> tuple[Dataset, Dataset, pa.Table]:
    """Read a set in one of the layouts above.

    Args:
        place: The id of a set on the Hub, or a folder.
        split: The split of the judgments.
        config: The language, or whatever else names one of several sets in the repository.

    Returns:
        Passages with `id` and `text`, queries with `query_id` and `query`, and judgments.

    Raises:
        FileNotFoundError: It has none of the layouts, or no such split or configuration.
    """
    repository = _Repository(place)
    corpus, queries = repository.part("corpus", config), repository.part("queries", config)
    if corpus is None or queries is None:
        return _read_miracl(repository, split, config)
    judgments, name = repository, repository.part("qrels", config)
    if name is None:
        name = next((other for other in (config, "default") if other in repository.names), None)
    if name is None:
        judgments = _Repository(f"{repository.place}-qrels")
        name = config if config in judgments.names else judgments.names[0]
    is_used = (corpus, queries) != ("corpus", "queries") or name in (config, f"{config}-qrels", f"qrels-{config}")
    if config is not None and not is_used:
        raise FileNotFoundError(f"{place} has no configuration {config!r}, only {repository.names}.")
    qrels = judgments.load(name, split).with_format("arrow")[:]
    return (
        standard_passages(repository.load_part(corpus, split), ("_id", "id", "docid")),
        standard_queries(repository.load_part(queries, split), ("_id", "id", QUERY_ID), ("text", QUERY)),
        qrels_table(_one_passage_a_row(qrels)),
    )


def _one_passage_a_row(qrels: pa.Table) -> pa.Table:
    """Give judgments that name all passages of a query in one list a row each."""
    name = next((name for name in _PASSAGE_IDS if name in qrels.column_names), None)
    if name is None or not is_list(qrels.schema.field(name).type):
        return qrels
    batch = Batch(qrels, "load_beir")
    ids = batch.lists(name)
    columns = {name: ids.values}
    for other in qrels.column_names:
        if other == name:
            continue
        values = batch.column(other)
        if is_list(values.type):
            lists = batch.lists(other)
            batch.check_aligned(name, ids, other, lists)
            columns[other] = lists.values
        else:
            columns[other] = values.take(pa.array(ids.owners))
    return pa.table(columns)


# ---- MIRACL -------------------------------------------------------------------------------------------------------


def _read_miracl(repository: _Repository, split: str, config: str | None) -> tuple[Dataset, Dataset, pa.Table]:
    """Read queries that hold their judged passages, and the corpus from a set of its own."""
    names = [name for name in repository.names if name != "corpus"]
    if config is None and len(names) == 1:
        (config,) = names
    if config not in names:
        raise FileNotFoundError(
            f"{repository.place} is not a set in BEIR's form: it needs the configurations 'corpus' and 'queries', and "
            f"has {repository.names}. Of a set with a configuration per language, such as miracl/miracl, name one: "
            f"load_beir(..., config='ar')."
        )
    assert config is not None
    # Which layout it is, any split tells.
    rows = repository.load(config, repository.splits(config)[0])
    if not {QUERY_ID, QUERY, "positive_passages"} <= set(rows.column_names):
        raise FileNotFoundError(
            f"{repository.place} is not a set in BEIR's form: it needs the configurations 'corpus' and 'queries', and "
            f"has {repository.names}. Nor is it in MIRACL's, with 'query_id', 'query', 'positive_passages' and "
            f"'negative_passages': {config!r} has {rows.column_names}."
        )
    rows = repository.load(config, split)
    queries = standard_queries(rows, (QUERY_ID,), (QUERY,))
    return _miracl_corpus(repository, split, config), queries, _miracl_qrels(rows)


def _miracl_corpus(repository: _Repository, split: str, config: str) -> Dataset:
    name = repository.part("corpus", config)
    if name is None:
        place = f"{repository.place}-corpus"
        try:
            repository = _Repository(place)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"The passages of {repository.place} should be in the set {place}, which is not there: {error}"
            ) from None
        name = config if config in repository.names else None
        if name is None and len(repository.names) == 1:
            name = repository.names[0]
        if name is None:
            raise FileNotFoundError(f"{place} has no configuration {config!r}, only {repository.names}.")
    return standard_passages(repository.load_part(name, split), ("docid", "_id", "id"))


def _miracl_qrels(rows: Dataset) -> pa.Table:
    """Return the positives as judgments of 1, and the negatives, which people judged too, as judgments of 0."""
    parts = []
    for table in rows.with_format("arrow").iter(10_000):
        batch = Batch(table, "load_beir")
        ids = batch.ids(QUERY_ID)
        for name, score in _PASSAGES.items():
            if not batch.has(name):
                continue
            passages = batch.lists(name)
            if not len(passages.values):
                continue
            type_ = passages.values.type
            if not pa.types.is_struct(type_) or "docid" not in {field.name for field in type_}:
                raise ValueError(f"load_beir: the passages in {name!r} need the field 'docid', got {type_name(type_)}.")
            parts.append(
                pa.table(
                    {
                        "query_id": ids.take(pa.array(passages.owners)),
                        "corpus_id": as_ids(passages.values.field("docid"), f"'docid' of {name!r}", "load_beir"),
                        "score": pa.array(np.full(len(passages.values), score)),
                    }
                )
            )
    if not parts:
        raise ValueError("load_beir: no query of this split has judged passages. Choose another split.")
    return qrels_table(pa.concat_tables(parts))
