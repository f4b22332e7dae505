"""Retrieval sets in BEIR's layout, from a folder or the Hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value, load_dataset

from hnm_datasets import checks
from hnm_datasets.columns import QUERY, QUERY_ID
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.loaders.qrels import (
    attach_positives,
    check_contradictions,
    contradicted_mask,
    qrels_table,
    relevant_mask,
)

logger = logging.getLogger(__name__)


_ID_NAMES = ("_id", "id")


def load_beir(
    path: str | Path,
    split: str = "train",
    *,
    min_score: int = 1,
    group_column: str | None = "group",
    invalid: str = "error",
) -> tuple[Corpus, Dataset]:
    """Load a retrieval set in BEIR's form: passages, queries, and judgments (qrels) of one split.

    Args:
        path: A local folder with `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv`, or `qrels/SPLIT.jsonl`, or with
            `corpus.parquet`, `queries.parquet` and `qrels.parquet`; or a Hub id (or its local clone) with
            configurations `corpus` and `queries`, and the judgments in the configuration `qrels` or `default`, or in
            the set `ID-qrels`.
        split: The judgments to use. The rows are the queries that have one in this split.
        min_score: A passage judged at least so is a positive; one judged less is a judged negative.
        group_column: The corpus's column that names the document a passage was cut from; ignored under its default
            name if there is none.
        invalid: Passages without text, judgments of unknown passages or queries, and judgments that a passage is not
            relevant where another says that it is: `"error"` raises, `"drop"` leaves them out and logs how many.

    Returns:
        The corpus, and rows with `query_id`, `query`, `positive_ids`, `judged_negative_ids`, and `known_positive_ids`
        where a question is in several rows, see `pool_positives`.

    Raises:
        FileNotFoundError: The folder is not in BEIR's form, or has no such split.
        ValueError: An invalid passage or judgment with `invalid="error"`, or an unknown option.

    Reference:
        Thakur et al. 2021, *BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models*.
    """
    checks.one_of("load_beir", "invalid", invalid, ("error", "drop"))
    source = Path(path)
    if (source / "corpus.jsonl").is_file() or (source / "corpus.parquet").is_file():
        passages, queries, qrels = _read_folder(source, split)
    elif source.exists() and not (source / "README.md").is_file():
        raise FileNotFoundError(
            f"{source} is not a folder in BEIR's form: it has neither corpus.jsonl (with queries.jsonl and qrels/"
            f"{split}.tsv) nor corpus.parquet (with queries.parquet and qrels.parquet)."
        )
    else:
        passages, queries, qrels = _read_hub(str(path), split)
    if invalid == "drop":
        passages = _drop_empty(passages)
    corpus = Corpus.from_dataset(passages, group_column=group_column)
    qrels = _known(qrels, corpus, queries, invalid)
    if invalid == "drop":
        qrels = _consistent(qrels, min_score)
    check_contradictions(qrels, relevant_mask(qrels, min_score), "load_beir", ", or pass invalid='drop'")
    judged = pc.is_in(queries.with_format("arrow")[:]["query_id"], value_set=pc.unique(qrels["query_id"]))
    rows = queries.select(np.flatnonzero(judged.to_numpy(zero_copy_only=False)))
    return corpus, attach_positives(rows, Dataset(qrels), min_score=min_score)


# ---- reading -----------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, split: str) -> tuple[Dataset, Dataset, pa.Table]:
    form = "jsonl" if (folder / "corpus.jsonl").is_file() else "parquet"
    for name in ("corpus", "queries"):
        if not (folder / f"{name}.{form}").is_file():
            raise FileNotFoundError(f"{folder} is not a folder in BEIR's form: it has no {name}.{form}.")
    passages, queries = (_read(folder / f"{name}.{form}") for name in ("corpus", "queries"))
    if (folder / "qrels.parquet").is_file():
        table = _read(folder / "qrels.parquet").with_format("arrow")[:]
        if "split" in table.column_names:
            splits = sorted(pc.unique(table["split"]).to_pylist())
            table = table.filter(pc.equal(table["split"], split))
            if not len(table):
                raise FileNotFoundError(f"{folder / 'qrels.parquet'} has no split {split!r}, only {splits}.")
    else:
        path = folder / "qrels" / f"{split}.tsv"
        lines = path.with_suffix(".jsonl")
        if lines.is_file():
            table = _read(lines).with_format("arrow")[:]
            return _standard(passages, ("text",)), _standard_queries(queries), qrels_table(table)
        if not path.is_file():
            there = sorted(other.stem for other in (folder / "qrels").glob("*") if other.suffix in (".tsv", ".jsonl"))
            raise FileNotFoundError(f"{folder} has no qrels/{split}.tsv and no qrels.parquet; splits there: {there}.")
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        if "score" not in frame.columns:
            raise ValueError(f"{path} must begin with the header line query-id, corpus-id, score; got {list(frame)}.")
        table = pa.Table.from_pandas(frame.astype({"score": "float"}), preserve_index=False)
    return _standard(passages, ("text",)), _standard_queries(queries), qrels_table(table)


def _read(path: Path) -> Dataset:
    form = "json" if path.suffix == ".jsonl" else "parquet"
    return load_dataset(form, data_files={"rows": str(path)}, split="rows")


def _read_hub(repo: str, split: str) -> tuple[Dataset, Dataset, pa.Table]:
    names = datasets.get_dataset_config_names(repo)
    if not {"corpus", "queries"} <= set(names):
        raise FileNotFoundError(
            f"{repo} is not a set in BEIR's form: it needs the configurations 'corpus' and 'queries', and has {names}."
        )
    configuration = next((name for name in ("qrels", "default") if name in names), None)
    place: tuple[str, ...] = (repo, configuration) if configuration else (f"{repo}-qrels",)
    splits = datasets.get_dataset_split_names(*place)
    if split not in splits:
        raise FileNotFoundError(f"The judgments of {repo} have no split {split!r}, only {splits}.")
    passages, queries = (_only_split(load_dataset(repo, name)) for name in ("corpus", "queries"))
    qrels = load_dataset(*place, split=split).with_format("arrow")[:]
    return _standard(passages, ("text",)), _standard_queries(queries), qrels_table(qrels)


def _only_split(loaded: Any) -> Dataset:
    return next(iter(loaded.values()))


def _standard(dataset: Dataset, needed: tuple[str, ...]) -> Dataset:
    """Give the id column its usual name and type."""
    found = [name for name in _ID_NAMES if name in dataset.column_names]
    lacking = [name for name in needed if name not in dataset.column_names]
    if not found or lacking:
        raise ValueError(
            f"The set is not in BEIR's form: passages and queries need '_id' (or 'id') and 'text', got "
            f"{dataset.column_names}."
        )
    if found[0] != "id":
        dataset = dataset.rename_column(found[0], "id")
    return dataset if dataset.features["id"] == Value("string") else dataset.cast_column("id", Value("string"))


def _standard_queries(dataset: Dataset) -> Dataset:
    queries = _standard(dataset, ("text",)).rename_columns({"id": QUERY_ID, "text": QUERY})
    return queries.select_columns([QUERY_ID, QUERY])


def _drop_empty(passages: Dataset) -> Dataset:
    table = passages.with_format("arrow")[:]
    text = pc.fill_null(table["text"], "")
    if "title" in table.column_names:
        text = pc.binary_join_element_wise(pc.fill_null(table["title"], ""), text, "")
    full = pc.not_equal(pc.utf8_trim_whitespace(text), "").to_numpy()
    if not full.all():
        logger.warning("load_beir: left out %d of %d passages, which have no text.", int((~full).sum()), len(full))
    return passages.select(np.flatnonzero(full))


def _known(qrels: pa.Table, corpus: Corpus, queries: Dataset, invalid: str) -> pa.Table:
    """Raise for, or drop, judgments of passages or queries that are not there."""
    ids = queries.with_format("arrow")[:][QUERY_ID]
    known_passage = corpus.find(qrels["corpus_id"].combine_chunks()) >= 0
    known_query = pc.is_in(qrels["query_id"], value_set=ids.combine_chunks()).to_numpy()
    bad = np.flatnonzero(~(known_passage & known_query))
    if not len(bad):
        return qrels
    if invalid == "error":
        first = int(bad[0])
        kind, name = ("query", "query_id") if known_passage[first] else ("passage", "corpus_id")
        raise ValueError(
            f"load_beir: {len(bad)} judgments are of unknown passages or queries, first of the {kind} "
            f"{qrels[name][first].as_py()!r}. Pass invalid='drop' to leave them out."
        )
    logger.warning("load_beir: left out %d of %d judgments, of unknown passages or queries.", len(bad), len(qrels))
    return qrels.filter(pa.array(known_passage & known_query))


def _consistent(qrels: pa.Table, min_score: float) -> pa.Table:
    """Drop judgments that a passage is not relevant where another one says that it is."""
    bad = contradicted_mask(qrels, relevant_mask(qrels, min_score))
    if bad.any():
        logger.warning(
            "load_beir: left out %d of %d judgments, of passages that another judgment calls relevant.",
            int(bad.sum()),
            len(bad),
        )
    return qrels.filter(pa.array(~bad))
