"""Word shingles of passages, for finding near duplicates.

The shingles of a passage are the hashes of all sequences of three words, as returned by `words_of`: they ignore case,
Unicode form and punctuation, and a script without spaces gives pairs of characters. The similarity of two texts is the
Jaccard similarity of their shingles (Broder 1997, *On the resemblance and containment of documents*).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, first_of_runs, offsets_of, positions_within
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.text import normal_text
from hnm_datasets.corpus.words import compared, words_of
from hnm_datasets.runtime.bars import ProgressBar
from hnm_datasets.storage.about import About
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.mapped import append_array, open_array, save_array
from hnm_datasets.storage.opened import Opened

#: Part of the folder name; increase it when the shingles change.
_FORMAT = 4
_WORDS = 3
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Shingles:
    """The sorted, distinct shingles of each passage of a corpus, memory-mapped.

    Attributes:
        offsets: Where the shingles of each passage begin and end. Shape (N + 1,). If the corpus has titles, shape
            (2·N + 1,): the shingles of the texts without titles come second, empty for a passage that lacks either.
        values: Shape (S,), uint32.
    """

    offsets: NDArray[np.int64]
    values: NDArray[np.uint32]


def shingles_of(texts: pa.Array) -> Ragged[NDArray[np.uint32]]:
    """Return the sorted, distinct shingles of each text. A text of fewer than three words has one shingle.

    Args:
        texts: N texts.

    Example:
        >>> shingles_of(pa.array(["The plate moves north.", "the  plate moves south", "板块运动"])).lengths.tolist()
        [2, 2, 1]
    """
    # A text without words, such as "???", is compared by its punctuation.
    words = [words_of(text) or normal_text(text).split() for text in texts.to_pylist()]
    # Pad short texts with empty words.
    words = [found + [""] * (_WORDS - len(found)) for found in words]
    codes = {word: xxhash.xxh3_64_intdigest(compared(word).encode()) for word in set(chain.from_iterable(words))}
    lengths = np.array([len(found) for found in words], dtype=np.int64)
    flat = np.fromiter((codes[word] for word in chain.from_iterable(words)), np.uint64, int(lengths.sum()))
    hashed = flat.copy()
    for step in range(1, _WORDS):
        hashed[: len(flat) - step] = hashed[: len(flat) - step] * _FACTOR + flat[step:]
    # No shingle starts at the last words of a text.
    begins = positions_within(offsets_of(lengths)) <= np.repeat(lengths, lengths) - _WORDS
    owners = np.repeat(np.arange(len(words)), lengths)[begins]
    short = (hashed[begins] >> np.uint64(32)).astype(np.uint32)
    order = np.lexsort((short, owners))
    owners, short = owners[order], short[order]
    distinct = first_of_runs(owners, short)
    return Ragged(offsets_of(np.bincount(owners[distinct], minlength=len(words))), short[distinct])


_OPENED: Opened[Shingles] = Opened()


def open_shingles(corpus: Corpus) -> Shingles:
    """Return the shingles of a corpus from the cache directory. The first call builds them."""

    def build(folder: Path) -> None:
        lengths, total = [], len(corpus) * (2 if "title" in corpus.columns else 1)
        with (
            ProgressBar(total, "Hashing shingles of passages", "texts") as bar,
            append_array(folder, "values", np.dtype(np.uint32)) as append,
        ):
            for texts in chain(corpus.iter_texts(), corpus.iter_bodies()):
                found = shingles_of(texts.drop_null())
                append(found.values)
                counts = np.zeros(len(texts), dtype=np.int64)
                counts[texts.is_valid()] = found.lengths
                lengths.append(counts)
                bar.update(len(texts))
        save_array(folder, "offsets", offsets_of(np.concatenate(lengths)))

    def opened() -> Shingles:
        about = About("shingles", "DropNearDuplicates and others", of=cache_root() / "corpora" / corpus.fingerprint)
        folder = build_once(cache_root() / "shingles", f"{corpus.fingerprint}-{_FORMAT}", build, about)
        offsets, values = (open_array(folder, name) for name in ("offsets", "values"))
        return Shingles(offsets, values)  # type: ignore[arg-type]

    return _OPENED.get(corpus.fingerprint, opened)
