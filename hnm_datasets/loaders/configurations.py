"""Loading retrieval datasets from the configurations of a Hub repository, or of its local copy.

| layout | passages | queries | judgments |
|---|---|---|---|
| BEIR | `corpus` | `queries` | `qrels` or `default`, or the dataset `ID-qrels` |
| one dataset with a split per task, such as NanoBEIR | the split of the task in `corpus` | in `queries` | in `qrels` |
| one dataset with several languages | `ar-corpus` or `corpus-ar` | same pattern | `ar-qrels` or `ar` |
| MIRACL | the dataset `ID-corpus`, or `corpus` | `ar` | in the rows of the queries |
"""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, load_dataset

from hnm_datasets import checks
from hnm_datasets.arrays.arrow import is_list, type_name
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.batch import Batch
from hnm_datasets.columns import QUERY, QUERY_ID
from hnm_datasets.formats.names import from_pairs_hint
from hnm_datasets.loaders.columns import standard_passages, standard_queries
from hnm_datasets.loaders.qrels import qrels_table

_PASSAGES = {"positive_passages": 1.0, "negative_passages": 0.0}
_VALIDATION = ("dev", "val", "valid")
_PASSAGE_IDS = ("corpus-id", "corpus_id", "docid")


class _Repository:
    """The configurations of a dataset on the Hub or of its local copy, or the subfolders of a folder without README.md.

    Args:
        source: A Hub id or a folder.
    """

    def __init__(self, source: str) -> None:
        self.source = source = source.rstrip("/")
        self.is_plain = Path(source).is_dir() and not (Path(source) / "README.md").is_file()
        self.names: list[str] = (
            sorted(path.name for path in Path(source).iterdir() if path.is_dir())
            if self.is_plain
            else configurations_of("load_beir", source)
        )

    def splits(self, name: str) -> list[str]:
        """Return the splits of a configuration."""
        splits: list[str] = datasets.get_dataset_split_names(*self._path_of(name))
        return splits

    def load(self, name: str, split: str) -> Dataset:
        """Load a split of a configuration.

        Raises:
            FileNotFoundError: The split does not exist.
        """
        splits = self.splits(name)
        if self.is_plain and split in _VALIDATION and split not in splits:
            # Without a README.md, `datasets` renames these splits.
            split = "validation"
        if split not in splits:
            raise FileNotFoundError(f"{name!r} of {self.source} has no split {split!r}, only {splits}.")
        return load_dataset(*self._path_of(name), split=split)

    def part(self, kind: str, config: str | None) -> str | None:
        """Return the configuration name of the passages, the queries or the judgments."""
        options = (kind,) if config is None else (f"{config}-{kind}", f"{kind}-{config}", kind)
        return next((name for name in options if name in self.names), None)

    def load_part(self, name: str, split: str) -> Dataset:
        """Load the split of a configuration that has the same name as the split of the judgments, or its only split."""
        splits = self.splits(name)
        if split not in splits and len(splits) > 1:
            raise FileNotFoundError(
                f"The configuration {name!r} of {self.source} has the splits {splits}, but not the split {split!r} of "
                f"the judgments."
            )
        return self.load(name, split if split in splits else splits[0])

    def _path_of(self, name: str) -> tuple[str, ...]:
        return (str(Path(self.source) / name),) if self.is_plain else (self.source, name)


def configurations_of(owner: str, source: str) -> list[str]:
    """Return the names of the configurations of a local folder or a dataset on the Hub.

    Args:
        owner: The calling function or command, for errors.
        source: A folder or a Hub id.

    Raises:
        FileNotFoundError: There is no such folder or dataset.
        ConnectionError: There is no such folder, and the Hub cannot be reached.
    """
    checks.source_of_files(owner, source)
    try:
        names: list[str] = datasets.get_dataset_config_names(source)
    except ConnectionError as error:
        raise ConnectionError(
            f"{owner}: there is no folder {source!r} here, and the Hub cannot be reached ({error}). Check the name and "
            f"the connection."
        ) from error
    return names


def has_configurations(folder: Path) -> bool:
    """Return whether a local folder is a copy of a Hub dataset, or has the parts in subfolders."""
    return (folder / "README.md").is_file() or any(
        (path.is_dir() and any(path.glob("*.parquet"))) or any(path.glob("*.jsonl")) for path in folder.iterdir()
    )


def read_configurations(source: str, split: str, config: str | None) -> tuple[Dataset, Dataset, pa.Table]:
    """Read a dataset in one of the layouts above.

    Args:
        source: A Hub id or a folder.
        split: The split of the judgments.
        config: The language, or another prefix or suffix that selects one of several datasets in the repository.

    Returns:
        Passages with `id` and `text`, queries with `query_id` and `query`, and judgments.

    Raises:
        FileNotFoundError: The layout is unknown, or the split or configuration does not exist.
    """
    repository = _Repository(source)
    corpus, queries = repository.part("corpus", config), repository.part("queries", config)
    if corpus is None or queries is None:
        return _read_miracl(repository, split, config)
    judgments, name = repository, repository.part("qrels", config)
    if name is None:
        name = next((other for other in (config, "default") if other in repository.names), None)
    if name is None:
        judgments = _Repository(f"{repository.source}-qrels")
        name = config if config in judgments.names else judgments.names[0]
    is_used = (corpus, queries) != ("corpus", "queries") or name in (config, f"{config}-qrels", f"qrels-{config}")
    if config is not None and not is_used:
        raise FileNotFoundError(f"{source} has no configuration {config!r}, only {repository.names}.")
    qrels = judgments.load(name, split).with_format("arrow")[:]
    return (
        standard_passages(repository.load_part(corpus, split), ("_id", "id", "docid")),
        standard_queries(repository.load_part(queries, split), ("_id", "id", QUERY_ID), ("text", QUERY)),
        qrels_table(_one_passage_per_row(qrels)),
    )


def _one_passage_per_row(qrels: pa.Table) -> pa.Table:
    """Flatten judgments with a list of passages per query to one row per passage."""
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
    """Read queries with judged passages in their rows, and the corpus from another dataset or configuration."""
    names = [name for name in repository.names if name != "corpus"]
    if config is None and len(names) == 1:
        (config,) = names
    if config not in names:
        raise FileNotFoundError(
            f"{repository.source} is not in BEIR's format: it needs the configurations 'corpus' and 'queries', but has "
            f"{repository.names}. For a dataset with a configuration per language, such as miracl/miracl, choose one: "
            f"load_beir(..., config='ar')."
        )
    assert config is not None
    # All splits have the same columns.
    rows = repository.load(config, repository.splits(config)[0])
    if not {QUERY_ID, QUERY, "positive_passages"} <= set(rows.column_names):
        raise FileNotFoundError(
            f"{repository.source} is neither in BEIR's format, with the configurations 'corpus' and 'queries' (it has "
            f"{repository.names}), nor in MIRACL's, with the columns 'query_id', 'query', 'positive_passages' and "
            f"'negative_passages' ({config!r} has {rows.column_names}). {from_pairs_hint(rows.column_names)}"
        )
    rows = repository.load(config, split)
    queries = standard_queries(rows, (QUERY_ID,), (QUERY,))
    return _miracl_corpus(repository, split, config), queries, _miracl_qrels(rows)


def _miracl_corpus(repository: _Repository, split: str, config: str) -> Dataset:
    name = repository.part("corpus", config)
    if name is None:
        source = f"{repository.source}-corpus"
        try:
            repository = _Repository(source)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"The passages of {repository.source} should be in the dataset {source}, which does not exist: {error}"
            ) from None
        name = config if config in repository.names else None
        if name is None and len(repository.names) == 1:
            name = repository.names[0]
        if name is None:
            raise FileNotFoundError(f"{source} has no configuration {config!r}, only {repository.names}.")
    return standard_passages(repository.load_part(name, split), ("docid", "_id", "id"))


def _miracl_qrels(rows: Dataset) -> pa.Table:
    """Return the positives as judgments with score 1, and the negatives, which were judged too, with score 0."""
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
