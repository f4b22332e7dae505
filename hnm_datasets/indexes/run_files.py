"""Reading the run formats of retrieval tools: files, rows and dicts.

The lines of a file are `qid Q0 docid rank score tag` (TREC: Pyserini, Anserini, PyTerrier, trec_eval), `qid docid rank
score` (ColBERT), `qid docid score` (Tevatron's `--save_text`) or `qid docid rank` (MS MARCO, also Pyserini's
`--output-format msmarco`), separated by tabs or spaces. JSON is `{qid: {docid: score}}`, as in BEIR, pytrec_eval and
ranx.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from hnm_datasets.arrays.arrow import as_plain, flatten_lists, is_list, type_name
from hnm_datasets.arrays.ids import as_ids
from hnm_datasets.arrays.ragged import offsets_of, positions_within
from hnm_datasets.terminal import printable

#: The supported column names of rows.
QUERY_IDS = ("query_id", "query-id", "qid")
PASSAGE_IDS = ("ids", "corpus_id", "corpus-id", "passage_id", "docid", "docno")
SCORES = ("scores", "score")
RANK = "rank"

_STEP = "RunNegatives"
#: The fields of a line, by their number.
_FIELDS = {
    6: ("qid", "Q0", "docid", "rank", "score", "tag"),
    4: ("qid", "docid", "rank", "score"),
    3: ("qid", "docid", "score"),
}
_FORMS = "'qid Q0 docid rank score tag', 'qid docid rank score', 'qid docid score' and 'qid docid rank'"


class FoundHits(NamedTuple):
    """P hits of a run, in their original order.

    Attributes:
        where: The source, for error messages.
        queries: The query id of each hit. Shape (P,).
        ids: The passage id of each hit. Shape (P,).
        scores: Shape (P,). None if the run has no scores.
        ranks: Shape (P,). None if the run has no ranks.
    """

    where: str
    queries: pa.Array
    ids: pa.Array
    scores: NDArray[np.float64] | None
    ranks: NDArray[np.float64] | None


def read_file(data: bytes, where: str) -> FoundHits:
    r"""Read one file of a run, optionally gzip-compressed.

    Args:
        data: The content of the file.
        where: The path of the file, for error messages.

    Raises:
        ValueError: The format is unknown, or a line is damaged.

    Example:
        >>> found = read_file(b"q1 Q0 p7 1 12.5 bm25\nq1 Q0 p3 2 11 bm25\n", "run.txt")
        >>> found.ids.to_pylist(), found.scores.tolist(), found.ranks.tolist()
        (['p7', 'p3'], [12.5, 11.0], [1.0, 2.0])
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{_STEP}: {where} cannot be decompressed: {error}. Copy it again.") from None
    if data[:1] == b"\x80":
        raise ValueError(
            f"{_STEP}: {where} looks like a pickle file, which is never loaded. Write text: --save_text in Tevatron."
        )
    if data.lstrip()[:1] == b"{":
        return _read_json(data, where)
    return _read_lines(data, where)


def of_mapping(run: Mapping[Any, Any], where: str) -> FoundHits:
    """Read a dict `{query id: {passage id: score}}`."""
    queries: list[Any] = []
    ids: list[Any] = []
    scores: list[Any] = []
    for query, found in run.items():
        if not isinstance(found, Mapping):
            raise ValueError(
                f"{_STEP}: {where} must be {{query id: {{passage id: score}}}}, but the value of the query {query!r} "
                f"is of type {type(found).__name__}."
            )
        queries += [str(query)] * len(found)
        ids += [str(passage) for passage in found]
        scores += found.values()
    try:
        numbers = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        odd = next(at for at, score in enumerate(scores) if not isinstance(score, (int, float, np.number)))
        raise TypeError(
            f"{_STEP}: in {where}, the score of {ids[odd]!r} for the query {queries[odd]!r} is not a number: "
            f"{scores[odd]!r}."
        ) from None
    return FoundHits(where, pa.array(queries, pa.string()), pa.array(ids, pa.string()), numbers, None)


def of_rows(table: pa.Table, where: str) -> FoundHits:
    """Read rows with one query and its lists of ids and scores, or rows with one hit.

    Raises:
        KeyError: A column is missing.
        TypeError: A column has an unsupported type.
        ValueError: A value is null, or lists are not aligned.
    """
    names = {kind: _first(options, table, kind) for kind, options in (("query", QUERY_IDS), ("passage", PASSAGE_IDS))}
    queries = _ids(table, names["query"])
    scored = next((name for name in SCORES if name in table.column_names), None)
    passages = as_plain(table[names["passage"]].combine_chunks())
    if not is_list(passages.type):
        scores = None if scored is None else _numbers(table[scored].combine_chunks(), scored)
        ranks = _numbers(table[RANK].combine_chunks(), RANK) if RANK in table.column_names else None
        return FoundHits(where, queries, _ids(table, names["passage"]), scores, ranks)
    lists = flatten_lists(passages)
    scores = None
    if scored is not None:
        column = as_plain(table[scored].combine_chunks())
        score_lists = flatten_lists(column) if is_list(column.type) else None
        if score_lists is None or not np.array_equal(score_lists.offsets, lists.offsets):
            row = 0 if score_lists is None else int(np.flatnonzero(score_lists.lengths != lists.lengths)[0])
            raise ValueError(
                f"{_STEP}: the columns {names['passage']!r} and {scored!r} must hold lists of the same length. They "
                f"differ for the query {queries[row].as_py()!r}."
            )
        scores = _numbers(score_lists.values, scored)
    owners = pa.array(lists.owners)
    flat = _ids(pa.table({names["passage"]: lists.values}), names["passage"])
    # The position in the list is the rank.
    return FoundHits(where, queries.take(owners), flat, scores, positions_within(lists.offsets).astype(np.float64))


def _first(options: Sequence[str], table: pa.Table, kind: str) -> str:
    found = next((name for name in options if name in table.column_names), None)
    if found is None:
        raise KeyError(
            f"{_STEP}: the run has no column of {kind} ids, only {table.column_names}. Rename the column to "
            f"{' or '.join(map(repr, options))}."
        )
    return found


def _ids(table: pa.Table, name: str) -> pa.Array:
    ids = as_ids(table[name].combine_chunks(), f"the column {name!r} of the run", _STEP)
    if ids.null_count:
        row = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{_STEP}: the column {name!r} of the run is null at value {row}. Remove this hit.")
    return ids.cast(pa.string())


def _numbers(values: pa.Array, name: str) -> NDArray[np.float64]:
    values = as_plain(values)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_null(values.type)):
        raise TypeError(f"{_STEP}: the column {name!r} of the run must hold numbers, got {type_name(values.type)}.")
    return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


# ---- files -------------------------------------------------------------------------------------------------------


def _read_json(data: bytes, where: str) -> FoundHits:
    try:
        run = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{_STEP}: {where} starts like JSON but is not valid JSON: {error}.") from None
    return of_mapping(run, where)


def _read_lines(data: bytes, where: str) -> FoundHits:
    data = data.replace(b"\r\n", b"\n").replace(b"\t", b" ")
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    data = data.replace(b" \n", b"\n").replace(b"\n ", b"\n").strip()
    count = len(data[: data.find(b"\n")].split(b" ")) if b"\n" in data else len(data.split(b" "))
    if count not in _FIELDS or not data:
        shown = printable(data[:60].split(b"\n")[0].decode(errors="replace"))
        raise ValueError(
            f"{_STEP}: {where} is not a run: its first line is {shown!r}. Supported are lines of {_FORMS}, and JSON "
            f"{{qid: {{docid: score}}}}. All files of a folder must be parts of a single run; otherwise pass one file."
        )
    names = _FIELDS[count]
    refused: list[str] = []

    def refuse(row: csv.InvalidRow) -> str:
        refused.append(f"line {row.number} has {row.actual_columns} fields: {printable(row.text[:60])!r}")
        return "skip"

    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(column_names=names, use_threads=False),  # row numbers need a single thread
            csv.ParseOptions(delimiter=" ", quote_char=False, invalid_row_handler=refuse),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        ).combine_chunks()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{_STEP}: {where} cannot be read: {printable(str(error))}.") from None
    if refused:
        raise ValueError(
            f"{_STEP}: in {where}, {refused[0]}. Each line needs {count} fields, like the first: {' '.join(names)}."
        )
    queries, ids = (table[name].combine_chunks() for name in ("qid", "docid"))
    scores = _parsed(table["score"], "score", where)
    if count > 3:
        return FoundHits(where, queries, ids, scores, _parsed(table["rank"], "rank", where))
    ranks = _ranks(queries)
    # Numbers 1, 2, 3, … within each query are ranks, not scores.
    return FoundHits(where, queries, ids, None if np.array_equal(scores, ranks) else scores, ranks)


def _parsed(texts: pa.ChunkedArray, name: str, where: str) -> NDArray[np.float64]:
    try:
        return np.asarray(pc.cast(texts, pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowInvalid:
        values = texts.to_pylist()
        at = next(at for at, text in enumerate(values) if not _is_number(text))
        raise ValueError(
            f"{_STEP}: in {where}, the {name} in line {at + 1} is not a number: {printable(values[at])!r}."
        ) from None


def _is_number(text: str) -> bool:
    try:
        pc.cast(pa.array([text]), pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _ranks(queries: pa.Array) -> NDArray[np.float64]:
    """Return the position of each hit among the hits of its query, starting at 1. Shape (P,)."""
    codes = queries.dictionary_encode().indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    ranks = np.empty(len(codes))
    ranks[order] = 1 + positions_within(offsets_of(np.bincount(codes)))
    return ranks


def read_path(path: Path) -> list[tuple[str, bytes]]:
    """Return the path and content of a file, or of each file in a folder, sorted by name.

    Raises:
        FileNotFoundError: The path does not exist, or the folder is empty.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if not files or not path.exists():
        raise FileNotFoundError(f"{_STEP}: no run file at {str(path)!r}.")
    return [(str(file), file.read_bytes()) for file in files]
