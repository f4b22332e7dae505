"""Loading: a corpus and rows of queries from BEIR sets, text pairs and the embedded sample."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value, load_dataset

from hnm_datasets import checks
from hnm_datasets.columns import JUDGED_NEGATIVE_IDS, POSITIVE_IDS, QUERY, QUERY_ID
from hnm_datasets.corpus import Corpus
from hnm_datasets.fingerprint import digest_strings
from hnm_datasets.ragged import list_array, offsets_of
from hnm_datasets.text import is_blank

logger = logging.getLogger(__name__)

_ID_NAMES = ("_id", "id")
_QUERY_ID_NAMES = ("query-id", "query_id")
_CORPUS_ID_NAMES = ("corpus-id", "corpus_id")
_SAMPLES = ("medquad", "earthquakes")


def load_beir(
    path: str | Path,
    split: str = "train",
    *,
    min_score: int = 1,
    group_column: str | None = "group",
    invalid: str = "error",
) -> tuple[Corpus, Dataset]:
    """Load a retrieval set in BEIR's form: passages, queries, and judgements (qrels) of one split.

    Args:
        path: A local folder with `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv`, or `qrels/SPLIT.jsonl`, or with
            `corpus.parquet`, `queries.parquet` and `qrels.parquet`; or a Hub id (or its local clone) with
            configurations `corpus` and `queries`, and the judgements in the configuration `qrels` or `default`, or in
            the set `ID-qrels`.
        split: The judgements to use. The rows are the queries that have one in this split.
        min_score: A passage judged at least so is a positive; one judged less is a judged negative.
        group_column: The corpus's column that names the document a passage was cut from; ignored under its default
            name if there is none.
        invalid: Passages without text, and judgements of unknown passages or queries: `"error"` raises, `"drop"` leaves
            them out and logs how many.

    Returns:
        The corpus, and rows with `query_id`, `query`, `positive_ids`, `judged_negative_ids`.

    Raises:
        FileNotFoundError: The folder is not in BEIR's form, or has no such split.
        ValueError: An invalid passage or judgement with `invalid="error"`, or an unknown option.

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
    judged = pc.is_in(queries.with_format("arrow")[:]["query_id"], value_set=pc.unique(qrels["query_id"]))
    rows = queries.select(np.flatnonzero(judged.to_numpy(zero_copy_only=False)))
    return corpus, attach_positives(rows, Dataset(qrels), min_score=min_score)


def load_sample(name: str = "medquad") -> tuple[Corpus, Dataset]:
    """Load a sample that comes with the package.

    Args:
        name: `"medquad"`: some 2,000 passages and 600 questions on diseases from MedQuAD (Ben Abacha and
            Demner-Fushman 2019, CC BY 4.0), several questions on each disease. `"earthquakes"`: nine passages and one
            question, for examples.

    Returns:
        The corpus, and rows with `query_id`, `query`, `positive_ids`, `judged_negative_ids`.

    Example:
        >>> corpus, queries = load_sample("earthquakes")
        >>> len(corpus), queries[0]["query"], queries[0]["positive_ids"]
        (9, 'what causes earthquakes?', ['plate-boundaries'])
    """
    checks.one_of("load_sample", "name", name, _SAMPLES)
    return load_beir(Path(__file__).parent / "sample" / name)


def attach_positives(queries: Dataset, qrels: Dataset, min_score: int = 1) -> Dataset:
    """Add the judged passages of each query to rows of queries.

    Args:
        queries: Rows with `query_id` (strings), each id once.
        qrels: Judgements with `query_id`, `corpus_id` (or BEIR's `query-id`, `corpus-id`) and `score`; without a score
            every judged passage is relevant.
        min_score: A passage judged at least so is a positive; one judged less is a judged negative.

    Returns:
        The rows with two more columns: `positive_ids`, and `judged_negative_ids`: what a person looked at and found not
        relevant is the best negative there is. In both the passages come in the order of the judgements.

    Raises:
        KeyError: A column is missing.
        ValueError: A query id comes twice, or a judged query is not among the rows.

    Example:
        >>> queries = Dataset.from_dict({"query_id": ["q1"], "query": ["what causes earthquakes?"]})
        >>> qrels = Dataset.from_dict({"query_id": ["q1", "q1"], "corpus_id": ["p1", "p2"], "score": [1, 0]})
        >>> attach_positives(queries, qrels)[0]
        {'query_id': 'q1', 'query': 'what causes earthquakes?', 'positive_ids': ['p1'], 'judged_negative_ids': ['p2']}
    """
    if QUERY_ID not in queries.column_names:
        raise KeyError(f"attach_positives: the queries have no column 'query_id', only {queries.column_names}.")
    table = _qrels_table(qrels.with_format("arrow")[:])
    ids = queries.with_format("arrow")[:][QUERY_ID].combine_chunks().cast(pa.string())
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = pc.value_counts(ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0].as_py()
        raise ValueError(f"attach_positives: the query_id {twice!r} comes more than once; each query needs one row.")
    owner = pc.index_in(table["query_id"], value_set=ids).combine_chunks()
    if owner.null_count:
        unknown = table["query_id"].filter(owner.is_null())[0].as_py()
        raise ValueError(
            f"attach_positives: the qrels judge the query {unknown!r}, which is not among the {len(ids)} queries. Add "
            f"it, or filter its judgements out."
        )
    rows = owner.to_numpy(zero_copy_only=False)
    positive = pc.greater_equal(table["score"], min_score).to_numpy()
    result = queries
    for name, which in ((POSITIVE_IDS, positive), (JUDGED_NEGATIVE_IDS, ~positive)):
        order = np.argsort(rows[which], kind="stable")
        values = table["corpus_id"].combine_chunks().filter(pa.array(which)).take(pa.array(order))
        lists = list_array(offsets_of(np.bincount(rows[which], minlength=len(ids))), values)
        result = _with_column(result, name, lists)
    return result


def from_pairs(
    dataset: Dataset,
    query_column: str = "query",
    positive_column: str = "answer",
    *,
    passages: Sequence[str] | None = None,
) -> tuple[Corpus, Dataset]:
    """Turn a dataset of text pairs, the usual form of sentence-transformers, into a corpus and rows to mine for.

    The corpus is made of the distinct texts of `passages` and of the positives; a passage's id is a hash of its text.
    The pairs of one query are merged into one row with several positives.

    Args:
        dataset: One (query, relevant text) pair per row.
        query_column: The column of queries.
        positive_column: The column of relevant texts.
        passages: Further texts to mine from.

    Returns:
        The corpus, and one row per distinct query with `query`, `positive_ids`, and the dataset's other columns as they
        are in the query's first pair.

    Raises:
        KeyError: A column does not exist.
        TypeError: A column does not hold strings.
        ValueError: There is no pair, or a text is null or empty.

    Example:
        >>> pairs = Dataset.from_dict({"query": ["a?", "b?", "a?"], "answer": ["A.", "B.", "Also A."]})
        >>> corpus, rows = from_pairs(pairs)
        >>> len(corpus), rows["query"][:], [len(ids) for ids in rows["positive_ids"]]
        (3, ['a?', 'b?'], [2, 1])
    """
    table = dataset.with_format("arrow")[:] if len(dataset) else None
    if table is None:
        raise ValueError("from_pairs: the dataset is empty: it needs at least one pair.")
    texts = {}
    for name in (query_column, positive_column):
        if name not in dataset.column_names:
            raise KeyError(
                f"from_pairs: there is no column {name!r}, only {dataset.column_names}. Name both: from_pairs(dataset, "
                f"query_column, positive_column)."
            )
        column = table[name].combine_chunks()
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise TypeError(f"from_pairs: the column {name!r} must hold strings, got {column.type}.")
        blank = pc.fill_null(is_blank(column), True).to_numpy(zero_copy_only=False)
        if blank.any():
            raise ValueError(
                f"from_pairs: the column {name!r} is null or empty in row {int(np.flatnonzero(blank)[0])}. Filter such "
                f"pairs out: dataset.filter(lambda row: row[{name!r}] and row[{name!r}].strip())."
            )
        texts[name] = column
    positives = texts[positive_column].cast(pa.string())
    distinct_texts = pc.unique(
        positives if passages is None else pa.concat_arrays([_further_passages(passages), positives])
    )
    ids = pa.array([f"{digest:016x}" for digest in digest_strings(distinct_texts.to_pylist())[:, 0].tolist()])
    corpus = Corpus.from_dataset(Dataset(pa.table({"id": ids, "text": distinct_texts})))
    queries = texts[query_column].dictionary_encode()
    codes = pd.DataFrame(
        {
            "query": queries.indices.to_numpy(),
            "passage": pc.index_in(positives, value_set=distinct_texts).to_numpy(),
        }
    )
    first = np.flatnonzero(~codes["query"].duplicated().to_numpy())
    distinct = codes.drop_duplicates().sort_values("query", kind="stable")
    lists = list_array(
        offsets_of(np.bincount(distinct["query"], minlength=len(queries.dictionary))),
        ids.take(pa.array(distinct["passage"].to_numpy())),
    )
    rows = dataset.select(first).remove_columns(positive_column)
    if query_column != QUERY:
        rows = rows.rename_column(query_column, QUERY)
    return corpus, _with_column(rows, POSITIVE_IDS, lists)


def _further_passages(passages: Sequence[str]) -> pa.Array:
    if isinstance(passages, str):
        raise TypeError("from_pairs: passages must be a list of texts, got one text.")
    try:
        texts = pa.array(passages, type=pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TypeError(f"from_pairs: passages must be texts: {error}") from None
    blank = pc.fill_null(is_blank(texts), True).to_numpy(zero_copy_only=False)
    if blank.any():
        raise ValueError(
            f"from_pairs: the passage {int(np.flatnonzero(blank)[0])} is null or empty. Leave such passages out."
        )
    return texts


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
            return _standard(passages, ("text",)), _standard_queries(queries), _qrels_table(table)
        if not path.is_file():
            there = sorted(other.stem for other in (folder / "qrels").glob("*") if other.suffix in (".tsv", ".jsonl"))
            raise FileNotFoundError(f"{folder} has no qrels/{split}.tsv and no qrels.parquet; splits there: {there}.")
        frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        if "score" not in frame.columns:
            raise ValueError(f"{path} must begin with the header line query-id, corpus-id, score; got {list(frame)}.")
        table = pa.Table.from_pandas(frame.astype({"score": "float"}), preserve_index=False)
    return _standard(passages, ("text",)), _standard_queries(queries), _qrels_table(table)


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
        raise FileNotFoundError(f"The judgements of {repo} have no split {split!r}, only {splits}.")
    passages, queries = (_only_split(load_dataset(repo, name)) for name in ("corpus", "queries"))
    qrels = load_dataset(*place, split=split).with_format("arrow")[:]
    return _standard(passages, ("text",)), _standard_queries(queries), _qrels_table(qrels)


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


def _qrels_table(table: pa.Table) -> pa.Table:
    """Return judgements as `query_id`, `corpus_id` and `score`."""
    columns = {}
    for name, names in (("query_id", _QUERY_ID_NAMES), ("corpus_id", _CORPUS_ID_NAMES)):
        found = [other for other in names if other in table.column_names]
        if not found:
            raise KeyError(f"The qrels have no column {names[0]!r} or {names[1]!r}, only {table.column_names}.")
        columns[name] = table[found[0]].cast(pa.string())
    scores = table["score"].cast(pa.float64()) if "score" in table.column_names else pa.repeat(1.0, len(table))
    return pa.table(columns | {"score": scores})


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
    """Raise for, or drop, judgements of passages or queries that are not there."""
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
            f"load_beir: {len(bad)} judgements are of unknown passages or queries, first of the {kind} "
            f"{qrels[name][first].as_py()!r}. Pass invalid='drop' to leave them out."
        )
    logger.warning("load_beir: left out %d of %d judgements, of unknown passages or queries.", len(bad), len(qrels))
    return qrels.filter(pa.array(known_passage & known_query))


def _with_column(dataset: Dataset, name: str, lists: pa.Array) -> Dataset:
    return datasets.concatenate_datasets([dataset, Dataset(pa.table({name: lists}))], axis=1)
