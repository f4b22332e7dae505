"""Loading retrieval datasets in BEIR's format from a folder or the Hub."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from hnm_datasets import checks
from hnm_datasets.columns import QUERY_ID
from hnm_datasets.corpus.passages import Corpus, corpus_of
from hnm_datasets.corpus.source import Source
from hnm_datasets.corpus.text import is_blank
from hnm_datasets.formats.names import from_pairs_hint
from hnm_datasets.loaders.columns import standard_passages, standard_queries
from hnm_datasets.loaders.configurations import has_configurations, read_configurations
from hnm_datasets.loaders.qrels import (
    attach_positives,
    check_contradictions,
    contradicted_mask,
    qrels_table,
    relevant_mask,
)
from hnm_datasets.storage.kept_rows import in_memory_rows

logger = logging.getLogger(__name__)


def load_beir(
    path: str | Path,
    split: str = "train",
    *,
    config: str | None = None,
    min_score: int = 1,
    group_column: str | None = "group",
    invalid: str = "error",
) -> tuple[Corpus, Dataset]:
    """Load a retrieval dataset in BEIR's format: passages, queries, and the judgments (qrels) of one split.

    Args:
        path: A local folder with `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv` or `qrels/SPLIT.jsonl`, or with
            `corpus.parquet`, `queries.parquet` and `qrels.parquet`. Or a Hub id (or its local clone): either with the
            configurations `corpus` and `queries`, and the judgments in the configuration `qrels` or `default` or in the
            dataset `ID-qrels`; or with judged passages in the rows of the queries, as in `miracl/miracl`, and the
            corpus in the dataset `ID-corpus`.
        split: The split of the judgments. The rows are the queries with a judgment in this split. If the configurations
            of corpus and queries have a split with this name, as in `sentence-transformers/NanoBEIR-en`, it is used for
            them too.
        config: The language, such as `"ar"`, for a dataset with a configuration per language.
        min_score: Passages with at least this score are positives; passages with a lower score are judged negatives.
        group_column: The column of the corpus that names the source document of each passage; the default name is
            ignored if the column does not exist.
        invalid: What to do with passages without text, judgments of unknown passages or queries, and negative judgments
            that contradict a positive one: `"error"` raises an error, `"drop"` removes them and logs their number. With
            `"drop"`, a passage with a title and a null text is kept, with an empty text.

    Returns:
        The corpus, and rows with `query_id`, `query`, `positive_ids`, `judged_negative_ids`, and `known_positive_ids`
        if several rows have the same question, see `pool_positives`.

    Raises:
        FileNotFoundError: The folder is not in BEIR's format, or the split does not exist.
        ValueError: A passage or judgment is invalid and `invalid="error"`, or an option has an unknown value.

    Reference:
        Thakur et al. 2021, *BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models*.
    """
    checks.one_of("load_beir", "invalid", invalid, ("error", "drop"))
    source = Path(path)
    if (source / "corpus.jsonl").is_file() or (source / "corpus.parquet").is_file():
        if config is not None:
            raise ValueError(
                f"load_beir: config={config!r} is for datasets with configurations, but {source} has none. Remove it."
            )
        passages, queries, qrels = _read_folder(source, split)
    elif source.exists() and not (source.is_dir() and has_configurations(source)):
        raise FileNotFoundError(
            f"{source} is not in BEIR's format: it has neither corpus.jsonl (with queries.jsonl and qrels/{split}.tsv) "
            f"nor corpus.parquet (with queries.parquet and qrels.parquet). {from_pairs_hint(_columns_in(source))}"
        )
    else:
        passages, queries, qrels = read_configurations(str(path), split, config)
    if invalid == "drop":
        passages = _drop_empty(passages)
    called = str(source.resolve()) if source.exists() else str(path)
    corpus = corpus_of(Source(passages, group=group_column), "load_beir", called)
    qrels = _known(qrels, corpus, queries, invalid)
    if invalid == "drop":
        qrels = _consistent(qrels, min_score)
    check_contradictions(qrels, relevant_mask(qrels, min_score), "load_beir", ", or pass invalid='drop'")
    judged = pc.is_in(queries.with_format("arrow")[:]["query_id"], value_set=pc.unique(qrels["query_id"]))
    rows = queries.select(np.flatnonzero(judged.to_numpy(zero_copy_only=False)))
    return corpus, attach_positives(rows, qrels, min_score=min_score)


# ---- reading -----------------------------------------------------------------------------------------------------


def _read_folder(folder: Path, split: str) -> tuple[Dataset, Dataset, pa.Table]:
    form = "jsonl" if (folder / "corpus.jsonl").is_file() else "parquet"
    for name in ("corpus", "queries"):
        if not (folder / f"{name}.{form}").is_file():
            raise FileNotFoundError(f"{folder} is not in BEIR's format: it has no {name}.{form}.")
    passages, queries = (_read(folder / f"{name}.{form}") for name in ("corpus", "queries"))
    table = _read_qrels(folder, split)
    return (
        standard_passages(passages, ("_id", "id")),
        standard_queries(queries, ("_id", "id"), ("text",)),
        qrels_table(table),
    )


def _read_qrels(folder: Path, split: str) -> pa.Table:
    if (folder / "qrels.parquet").is_file():
        table = _read(folder / "qrels.parquet").with_format("arrow")[:]
        if "split" in table.column_names:
            splits = sorted(pc.unique(table["split"]).to_pylist())
            table = table.filter(pc.equal(table["split"], split))
            if not len(table):
                raise FileNotFoundError(f"{folder / 'qrels.parquet'} has no split {split!r}, only {splits}.")
        return table
    # Look up the split among the existing files, so that its name cannot point outside the folder.
    files = {path.stem: path for form in (".tsv", ".jsonl") for path in sorted((folder / "qrels").glob(f"*{form}"))}
    if split not in files:
        raise FileNotFoundError(
            f"{folder} has no qrels/{split}.tsv and no qrels.parquet. Its splits are {sorted(files)}."
        )
    path = files[split]
    return _read(path).with_format("arrow")[:] if path.suffix == ".jsonl" else _read_tsv(path)


def _columns_in(folder: Path) -> list[str]:
    """Return the columns of the data files in a folder, from the first row; nothing if it has none."""
    try:
        streams = load_dataset(str(folder), streaming=True)
        return list(next(iter(next(iter(streams.values())))))
    except (OSError, ValueError, StopIteration, DatasetsError):
        return []


def _read_tsv(path: Path) -> pa.Table:
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)
    if not {"query-id", "query_id"} & set(frame.columns):
        raise ValueError(f"{path} must start with the header query-id, corpus-id, score; got {list(frame)}.")
    if "score" in frame.columns:
        scores = pd.to_numeric(frame["score"], errors="coerce")
        if scores.isna().any():
            row = int(np.flatnonzero(scores.isna())[0])
            raise ValueError(f"{path}: the score in line {row + 2} is not a number: {frame['score'][row]!r}.")
        frame["score"] = scores.astype(float)
    return pa.Table.from_pandas(frame, preserve_index=False)


def _read(path: Path) -> Dataset:
    form = "json" if path.suffix == ".jsonl" else "parquet"
    return load_dataset(form, data_files={"rows": str(path)}, split="rows")


def _drop_empty(passages: Dataset) -> Dataset:
    """Drop passages without text. Keep passages that are only a title, with an empty text instead of null."""
    table = passages.with_format("arrow")[:]
    text = pc.fill_null(table["text"].cast(pa.string()), "")
    if table["text"].null_count:
        table = table.set_column(table.column_names.index("text"), "text", text)
        passages = in_memory_rows(table)
    full = ~pc.fill_null(is_blank(text), True).to_numpy()
    if "title" in table.column_names:
        full |= ~pc.fill_null(is_blank(pc.fill_null(table["title"].cast(pa.string()), "")), True).to_numpy()
    if not full.all():
        logger.warning("load_beir: dropped %d of %d passages, which have no text.", int((~full).sum()), len(full))
    return passages.select(np.flatnonzero(full))


def _known(qrels: pa.Table, corpus: Corpus, queries: Dataset, invalid: str) -> pa.Table:
    """Drop judgments of passages or queries that do not exist, or raise an error."""
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
            f"load_beir: {len(bad)} judgments name unknown passages or queries, the first the {kind} "
            f"{qrels[name][first].as_py()!r}. Pass invalid='drop' to drop them."
        )
    logger.warning("load_beir: dropped %d of %d judgments of unknown passages or queries.", len(bad), len(qrels))
    return qrels.filter(pa.array(known_passage & known_query))


def _consistent(qrels: pa.Table, min_score: float) -> pa.Table:
    """Drop negative judgments that contradict a positive judgment of the same query and passage."""
    bad = contradicted_mask(qrels, relevant_mask(qrels, min_score))
    if bad.any():
        logger.warning(
            "load_beir: dropped %d of %d judgments, which contradict another judgment that the passage is relevant.",
            int(bad.sum()),
            len(bad),
        )
    return qrels.filter(pa.array(~bad))
