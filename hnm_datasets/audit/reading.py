"""Read datasets of any format in batches of bounded size, and compute keys of their queries and passages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from hnm_datasets.batch import Batch
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.text import is_blank, normalized_digests
from hnm_datasets.formats.base import Layout, QueryRows, Side
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.storage.digests import digest_strings

#: The maximum size of a batch in rows and bytes, so that long lists and passages do not take more memory.
_ROWS, _BYTES = 10_000, 64 << 20

_STEP = np.uint64(0x9E3779B97F4A7C15)


class PassageKeys(NamedTuple):
    """The keys of the P positives or negatives of a batch, 64 bits each.

    Attributes:
        own: Equal for the same passage: for the same id or, without ids, exactly the same text.
        text: Equal for texts that differ only in Unicode form, case and white space.
        copy: Equal for texts that are the same in this sense with or without their titles.
        known: Marks the passages that are in the corpus; all of them if there is no corpus.
    """

    own: NDArray[np.uint64]
    text: NDArray[np.uint64]
    copy: NDArray[np.uint64]
    known: NDArray[np.bool_]


def given_rows(owner: str, rows: Rows, name: str = "dataset") -> Dataset:
    """Return rows in any form as a `Dataset`; raise if there are none."""
    dataset = dataset_of(rows, owner, name)
    if not len(dataset):
        raise ValueError(f"{owner}: the {name} has no rows. Check whether a filter removed all of them.")
    return dataset


def iter_rows(dataset: Dataset, form: Layout, owner: str, at_most: int | None = None) -> Iterator[QueryRows]:
    """Yield the rows of a dataset in order, in batches of bounded size."""
    table = dataset.data
    size = min(_ROWS, at_most or _ROWS, max(1, int(_BYTES * len(table) / max(table.nbytes, 1))))
    for part in dataset.with_format("arrow").iter(size):
        yield form.read(Batch(part, step=owner))


def query_keys(rows: QueryRows, by_id: bool = True) -> NDArray[np.uint64]:
    """Return the key of each row's query: of its id or, without ids, of its text. Shape (B,).

    Args:
        rows: B rows.
        by_id: False: always use the text.
    """
    return _keys_of_names(rows.queries if rows.query_ids is None or not by_id else rows.query_ids)


def text_keys(texts: pa.Array) -> NDArray[np.uint64]:
    """Return a key per text that ignores Unicode form, case and white space. Shape (P,)."""
    distinct, back = _distinct(texts)
    return np.asarray(normalized_digests(distinct)[back, 0])


def passages_of(side: Side, corpus: Corpus | None, as_texts: bool = False) -> PassageKeys:
    """Compute the keys of the passages of one side.

    Args:
        side: P passages.
        corpus: The corpus, to look up passages that have only ids.
        as_texts: Use texts even if there are ids and a corpus, to compare formats with ids and formats with texts.
    """
    texts = texts_of(side, corpus) if as_texts else side.full_texts
    if texts is not None:
        found = _find(texts, corpus)
        own = _keys_of_names(texts if side.ids is None else side.ids)
        # Passages that are not in the corpus have no text, but are not copies of each other.
        text = found.text if side.texts is not None else np.where(found.known, found.text, own)
        return PassageKeys(own, text, _copies(text, found, side, corpus), found.known)
    ids = side.named
    if corpus is None:
        own = _keys_of_names(ids)
        return PassageKeys(own, own, own, np.ones(len(own), dtype=bool))
    rows = corpus.find(ids)
    there = np.maximum(rows, 0)
    own, text, copy = (codes.astype(np.uint64) for codes in (rows, corpus.text_codes[there], corpus.copy_codes[there]))
    if (rows < 0).any():
        # Keys that differ from each other and from all row numbers.
        unknown = digest_strings(ids.filter(pa.array(rows < 0)).to_pylist())[:, 0] | np.uint64(1 << 63)
        own[rows < 0] = text[rows < 0] = copy[rows < 0] = unknown
    return PassageKeys(own, text, copy, rows >= 0)


def queries_as_passages(queries: pa.Array, corpus: Corpus | None, by_text: bool) -> PassageKeys:
    """Return the keys that queries would have as passages; their `own` keys are those of their normalized texts.

    Args:
        queries: B texts.
        corpus: The corpus of the passages.
        by_text: The passages to compare with have texts, and not only ids.
    """
    found = _find(queries, corpus)
    text, copy = found.text, found.first_copy
    if corpus is not None and not by_text:
        text, copy = found.rows.astype(np.uint64), found.codes.astype(np.uint64)
    return PassageKeys(found.text, text, copy, found.known)


class _Found(NamedTuple):
    """P texts, looked up in a corpus.

    Attributes:
        text: As in `PassageKeys`. Shape (P,).
        first_copy: The text key of the first copy in the corpus; the text's own key if it is not in the corpus.
        rows: The first row of the corpus with this text; -1 if there is none.
        codes: The copy codes in the corpus; -1 if there is none.
        known: As in `PassageKeys`.
    """

    text: NDArray[np.uint64]
    first_copy: NDArray[np.uint64]
    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    known: NDArray[np.bool_]


def _find(texts: pa.Array, corpus: Corpus | None) -> _Found:
    """Look up texts in a corpus. Shape (P,)."""
    # Texts often repeat in a batch, and normalizing them takes most of the time.
    distinct, back = _distinct(texts)
    digests = normalized_digests(distinct)
    text = first_copy = digests[:, 0]
    if corpus is None:
        nowhere = np.full(len(texts), -1)
        return _Found(text[back], text[back], nowhere, nowhere, np.ones(len(texts), dtype=bool))
    rows, codes = corpus.find_digests(digests), corpus.find_copies_of(digests)
    others = np.flatnonzero((codes >= 0) & (codes != rows))
    if len(others):
        firsts, which = np.unique(codes[others], return_inverse=True)
        first_copy = text.copy()
        first_copy[others] = normalized_digests(corpus.texts(firsts))[which, 0]
    return _Found(text[back], first_copy[back], rows[back], codes[back], rows[back] >= 0)


def _copies(text: NDArray[np.uint64], found: _Found, side: Side, corpus: Corpus | None) -> NDArray[np.uint64]:
    """Return `PassageKeys.copy` for passages with texts. Shape (P,)."""
    copy = text
    if side.titles is not None and side.texts is not None:
        alone = is_blank(side.texts).to_numpy(zero_copy_only=False)
        copy = np.where(alone, text, text_keys(side.texts))
    if corpus is None or corpus.copy_codes is corpus.text_codes:
        return copy
    # All copies in the corpus get the key of the first one.
    return np.where(found.codes >= 0, found.first_copy, copy)


def texts_of(side: Side, corpus: Corpus | None) -> pa.Array | None:
    """Return the titles and texts of one side; None if it has only ids and there is no corpus.

    Passages that are not in the corpus have an empty text.
    """
    texts = side.full_texts
    if texts is not None:
        return texts
    if corpus is None:
        return None
    rows = corpus.find(side.ids)
    found = corpus.texts(rows[rows >= 0]).cast(pa.large_string())
    if len(found) == len(rows):
        return found
    positions = np.cumsum(rows >= 0) - 1
    return found.take(pa.array(positions, mask=rows < 0)).fill_null("")


def pair_keys(queries: NDArray[np.uint64], passages: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the key of each (query, passage) pair. Shape (P,)."""
    with np.errstate(over="ignore"):
        mixed = (queries ^ (queries >> np.uint64(29))) * _STEP + passages
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def is_among(keys: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Mark the keys that are among the known keys, which must be in ascending order. Shape (P,)."""
    if not len(known):
        return np.zeros(len(keys), dtype=bool)
    positions = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.asarray(known[positions] == keys)


def _keys_of_names(names: pa.Array) -> NDArray[np.uint64]:
    """Return the key of each id or exact text. Shape (P,)."""
    distinct, back = _distinct(names)
    return np.asarray(digest_strings(distinct.to_pylist())[back, 0])


def _distinct(values: pa.Array) -> tuple[pa.Array, NDArray[np.int32]]:
    """Return the distinct values, and the position of each value among them. Shape (P,) → (D,), (P,)."""
    coded = values.dictionary_encode()
    return coded.dictionary, coded.indices.to_numpy()
