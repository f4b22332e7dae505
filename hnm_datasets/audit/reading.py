"""Reading a dataset of any form in batches of bounded size, and naming its passages by numbers."""

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

#: What a batch may hold, so that long lists and long passages take no more memory than short ones.
_ROWS, _BYTES = 10_000, 64 << 20

_STEP = np.uint64(0x9E3779B97F4A7C15)


class PassageKeys(NamedTuple):
    """What is known of the positives or negatives of a batch, P in all.

    Attributes:
        own: 64 bits that two passages share if they are the same one: of the same id, or else of the very same text.
        text: 64 bits that two passages share if their texts differ in nothing but Unicode form, case and white space.
        copy: 64 bits that two passages share if the same holds of their texts with titles or without.
        known: Which are in the corpus; all of them, if there is none to look in.
    """

    own: NDArray[np.uint64]
    text: NDArray[np.uint64]
    copy: NDArray[np.uint64]
    known: NDArray[np.bool_]


def given_rows(owner: str, rows: Rows, name: str = "dataset") -> Dataset:
    """Return rows in any form as a `Dataset`, or say what to pass instead."""
    dataset = dataset_of(rows, owner, name)
    if not len(dataset):
        raise ValueError(f"{owner}: the {name} is empty: there is nothing to look at. Was every row filtered out?")
    return dataset


def iter_rows(dataset: Dataset, form: Layout, owner: str, at_most: int | None = None) -> Iterator[QueryRows]:
    """Yield the rows of a dataset in order, as many at a time as stay small."""
    table = dataset.data
    size = min(_ROWS, at_most or _ROWS, max(1, int(_BYTES * len(table) / max(table.nbytes, 1))))
    for part in dataset.with_format("arrow").iter(size):
        yield form.read(Batch(part, step=owner))


def query_keys(rows: QueryRows, by_id: bool = True) -> NDArray[np.uint64]:
    """Return 64 bits per row that depend on its query's id, or on its text where there is none. Shape (B,).

    Args:
        rows: B rows.
        by_id: False for the text in any case.
    """
    return _keys_of_names(rows.queries if rows.query_ids is None or not by_id else rows.query_ids)


def text_keys(texts: pa.Array) -> NDArray[np.uint64]:
    """Return 64 bits per text that do not depend on Unicode form, case and white space. Shape (P,)."""
    distinct, back = _distinct(texts)
    return np.asarray(normalized_digests(distinct)[back, 0])


def passages_of(side: Side, corpus: Corpus | None, as_texts: bool = False) -> PassageKeys:
    """Name the passages of one side by numbers.

    Args:
        side: P passages.
        corpus: Where passages with ids alone are found.
        as_texts: Go by texts also where ids and a corpus are at hand, so that forms with ids and forms with texts can
            be compared.
    """
    texts = texts_of(side, corpus) if as_texts else side.full_texts
    if texts is not None:
        found = _find(texts, corpus)
        own = _keys_of_names(texts if side.ids is None else side.ids)
        # Passages that the corpus lacks have no text, and are not all the same one for that.
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
        # They differ from each other, and from all row numbers.
        strangers = digest_strings(ids.filter(pa.array(rows < 0)).to_pylist())[:, 0] | np.uint64(1 << 63)
        own[rows < 0] = text[rows < 0] = copy[rows < 0] = strangers
    return PassageKeys(own, text, copy, rows >= 0)


def queries_as_passages(queries: pa.Array, corpus: Corpus | None, by_text: bool) -> PassageKeys:
    """Return what `passages_of` would if queries were passages; their `own` keys are those of their normalized texts.

    Args:
        queries: B texts.
        corpus: Where passages are found.
        by_text: The passages that they are compared with have texts of their own, and not ids alone.
    """
    found = _find(queries, corpus)
    text, copy = found.text, found.first_copy
    if corpus is not None and not by_text:
        text, copy = found.rows.astype(np.uint64), found.codes.astype(np.uint64)
    return PassageKeys(found.text, text, copy, found.known)


class _Found(NamedTuple):
    """What is known of P texts.

    Attributes:
        text: As in `PassageKeys`. Shape (P,).
        first_copy: The same of the first of a text's copies in the corpus; of a text that is not there, its own.
        rows: The first row of the corpus with this text; -1 where there is none, also without titles.
        codes: The copy codes of the corpus; -1 where there is none.
        known: As in `PassageKeys`.
    """

    text: NDArray[np.uint64]
    first_copy: NDArray[np.uint64]
    rows: NDArray[np.int64]
    codes: NDArray[np.int64]
    known: NDArray[np.bool_]


def _find(texts: pa.Array, corpus: Corpus | None) -> _Found:
    """Look texts up. Shape (P,)."""
    # A text is often there more than once in a batch, and normalizing takes most of the time.
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
    """Return `PassageKeys.copy` of passages that have texts. Shape (P,)."""
    copy = text
    if side.titles is not None and side.texts is not None:
        alone = is_blank(side.texts).to_numpy(zero_copy_only=False)
        copy = np.where(alone, text, text_keys(side.texts))
    if corpus is None or corpus.copy_codes is corpus.text_codes:
        return copy
    # Copies in the corpus have the key of the first of them.
    return np.where(found.codes >= 0, found.first_copy, copy)


def texts_of(side: Side, corpus: Corpus | None) -> pa.Array | None:
    """Return titles and texts of one side; None where they are in a corpus that is not at hand.

    A passage that the corpus lacks has an empty text.
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
    places = np.cumsum(rows >= 0) - 1
    return found.take(pa.array(places, mask=rows < 0)).fill_null("")


def pair_keys(queries: NDArray[np.uint64], passages: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64 bits per pair of query and passage. Shape (P,)."""
    with np.errstate(over="ignore"):
        mixed = (queries ^ (queries >> np.uint64(29))) * _STEP + passages
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def is_among(keys: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Tell which keys are among the known ones, which are in ascending order. Shape (P,)."""
    if not len(known):
        return np.zeros(len(keys), dtype=bool)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.asarray(known[places] == keys)


def _keys_of_names(names: pa.Array) -> NDArray[np.uint64]:
    """Return 64 bits per name or text, as it is. Shape (P,)."""
    distinct, back = _distinct(names)
    return np.asarray(digest_strings(distinct.to_pylist())[back, 0])


def _distinct(values: pa.Array) -> tuple[pa.Array, NDArray[np.int32]]:
    """Return the distinct values, and for each value which one it is. Shape (P,) → (D,), (P,)."""
    coded = values.dictionary_encode()
    return coded.dictionary, coded.indices.to_numpy()
