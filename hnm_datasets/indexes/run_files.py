"""Runs as retrieval tools write them: files and rows of what was found for each query.

A line of a file is `qid Q0 docid rank score tag` (TREC: Pyserini, Anserini, PyTerrier, trec_eval), `qid docid rank
score` (ColBERT), `qid docid score` (Tevatron's `--save_text`) or `qid docid rank` (MS MARCO, also Pyserini's
`--output-format msmarco`), with tabs or spaces between the fields. JSON is `{qid: {docid: score}}`, as BEIR,
pytrec_eval and ranx keep runs.
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

#: The names that columns of rows may have.
QUERY_IDS = ("query_id", "query-id", "qid")
PASSAGE_IDS = ("ids", "corpus_id", "corpus-id", "passage_id", "docid", "docno")
SCORES = ("scores", "score")
RANK = "rank"

_STEP = "RunNegatives"
#: By the number of fields of a line.
_FIELDS = {
    6: ("qid", "Q0", "docid", "rank", "score", "tag"),
    4: ("qid", "docid", "rank", "score"),
    3: ("qid", "docid", "score"),
}
_FORMS = "'qid Q0 docid rank score tag', 'qid docid rank score', 'qid docid score' and 'qid docid rank'"


class FoundHits(NamedTuple):
    """P hits of a run, in the order in which they were written.

    Attributes:
        where: What holds them, for errors.
        queries: The id of each hit's query. Shape (P,).
        ids: The ids of the passages. Shape (P,).
        scores: Shape (P,). None where the run has none.
        ranks: Shape (P,). None where the run has none.
    """

    where: str
    queries: pa.Array
    ids: pa.Array
    scores: NDArray[np.float64] | None
    ranks: NDArray[np.float64] | None


def read_file(data: bytes, where: str) -> FoundHits:
    r"""Read one file of a run, which may be compressed by gzip.

    Args:
        data: Its bytes.
        where: Its path, for errors.

    Raises:
        ValueError: It is none of the forms, or a line is damaged.

    Example:
        >>> found = read_file(b"q1 Q0 p7 1 12.5 bm25\nq1 Q0 p3 2 11 bm25\n", "run.txt")
        >>> found.ids.to_pylist(), found.scores.tolist(), found.ranks.tolist()
        (['p7', 'p3'], [12.5, 11.0], [1.0, 2.0])
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{_STEP}: {where} cannot be unpacked: {error}. Copy it again.") from None
    if data[:1] == b"\x80":
        raise ValueError(
            f"{_STEP}: {where} looks like a pickle, which is never opened. Let Tevatron write text, with --save_text."
        )
    if data.lstrip()[:1] == b"{":
        return _read_json(data, where)
    return _read_lines(data, where)


def of_mapping(run: Mapping[Any, Any], where: str) -> FoundHits:
    """Read `{query id: {passage id: score}}`."""
    queries: list[Any] = []
    ids: list[Any] = []
    scores: list[Any] = []
    for query, found in run.items():
        if not isinstance(found, Mapping):
            raise ValueError(
                f"{_STEP}: {where} must be {{query id: {{passage id: score}}}}; of the query {query!r} it holds "
                f"{type(found).__name__}."
            )
        queries += [str(query)] * len(found)
        ids += [str(one) for one in found]
        scores += found.values()
    try:
        numbers = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        odd = next(at for at, score in enumerate(scores) if not isinstance(score, (int, float, np.number)))
        raise TypeError(
            f"{_STEP}: {where}: the score of {ids[odd]!r} for the query {queries[odd]!r} is no number: {scores[odd]!r}."
        ) from None
    return FoundHits(where, pa.array(queries, pa.string()), pa.array(ids, pa.string()), numbers, None)


def of_rows(table: pa.Table, where: str) -> FoundHits:
    """Read rows of a query with lists of ids and scores, or of one hit each.

    Raises:
        KeyError: A column is missing.
        TypeError: A column holds something else.
        ValueError: A value is null, or lists are not aligned.
    """
    names = {what: _first(options, table, what) for what, options in (("query", QUERY_IDS), ("passage", PASSAGE_IDS))}
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
        own = flatten_lists(column) if is_list(column.type) else None
        if own is None or not np.array_equal(own.offsets, lists.offsets):
            query = queries[0 if own is None else int(np.flatnonzero(own.lengths != lists.lengths)[0])]
            raise ValueError(
                f"{_STEP}: {names['passage']!r} and {scored!r} must hold lists of the same lengths; those of the query "
                f"{query.as_py()!r} differ."
            )
        scores = _numbers(own.values, scored)
    owners = pa.array(lists.owners)
    flat = _ids(pa.table({names["passage"]: lists.values}), names["passage"])
    # The order of a list is its ranking.
    return FoundHits(where, queries.take(owners), flat, scores, positions_within(lists.offsets).astype(np.float64))


def _first(options: Sequence[str], table: pa.Table, what: str) -> str:
    found = next((name for name in options if name in table.column_names), None)
    if found is None:
        raise KeyError(
            f"{_STEP}: the run has no column of {what} ids. Name it {' or '.join(map(repr, options))}; there are only "
            f"{table.column_names}."
        )
    return found


def _ids(table: pa.Table, name: str) -> pa.Array:
    ids = as_ids(table[name].combine_chunks(), f"the column {name!r} of the run", _STEP)
    if ids.null_count:
        row = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"{_STEP}: the column {name!r} of the run holds a null, value {row}. Leave it out.")
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
        raise ValueError(f"{_STEP}: {where} begins like JSON and is none: {error}.") from None
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
            f"{_STEP}: {where} is no run: its first line is {shown!r}. Known are lines of {_FORMS}, and JSON of "
            f"{{qid: {{docid: score}}}}. Of a folder, all files must be parts of one run: pass the file otherwise."
        )
    names = _FIELDS[count]
    refused: list[str] = []

    def refuse(row: csv.InvalidRow) -> str:
        refused.append(f"line {row.number} has {row.actual_columns} fields: {printable(row.text[:60])!r}")
        return "skip"

    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(column_names=names, use_threads=False),  # with threads, rows have no numbers
            csv.ParseOptions(delimiter=" ", quote_char=False, invalid_row_handler=refuse),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        ).combine_chunks()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{_STEP}: {where} cannot be read: {printable(str(error))}.") from None
    if refused:
        raise ValueError(
            f"{_STEP}: of {where}, {refused[0]}. Each line needs {count}, as the first: {' '.join(names)}."
        )
    queries, ids = (table[name].combine_chunks() for name in ("qid", "docid"))
    scores = _parsed(table["score"], "score", where)
    if count > 3:
        return FoundHits(where, queries, ids, scores, _parsed(table["rank"], "rank", where))
    places = _places(queries)
    # Numbers that count 1, 2, 3, … for each query are ranks.
    return FoundHits(where, queries, ids, None if np.array_equal(scores, places) else scores, places)


def _parsed(texts: pa.ChunkedArray, name: str, where: str) -> NDArray[np.float64]:
    try:
        return np.asarray(pc.cast(texts, pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowInvalid:
        values = texts.to_pylist()
        at = next(at for at, text in enumerate(values) if not _is_number(text))
        raise ValueError(
            f"{_STEP}: of {where}, line {at + 1} has {printable(values[at])!r} for a {name}, which is no number."
        ) from None


def _is_number(text: str) -> bool:
    try:
        pc.cast(pa.array([text]), pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _places(queries: pa.Array) -> NDArray[np.float64]:
    """Return the place of each hit among those of its query, from 1. Shape (P,)."""
    codes = queries.dictionary_encode().indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    places = np.empty(len(codes))
    places[order] = 1 + positions_within(offsets_of(np.bincount(codes)))
    return places


def read_path(path: Path) -> list[tuple[str, bytes]]:
    """Return the path and the bytes of a file, or of each file of a folder, in the order of their names.

    Raises:
        FileNotFoundError: There is nothing, or nothing in the folder.
    """
    files = [path]
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
    if not files or not path.exists():
        raise FileNotFoundError(f"{_STEP}: there is no file of a run at {str(path)!r}.")
    return [(str(file), file.read_bytes()) for file in files]
