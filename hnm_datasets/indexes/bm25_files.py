"""The folder of a BM25 index: the files that bm25s defines, and a memory-mapped table of the tokens.

`bm25s.BM25.load(folder, mmap=True)` opens the folder. Parsing the vocabulary of bm25s takes a second for a million
tokens, so searches use the table instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.bm25_weights import Formula
from hnm_datasets.storage.mapped import append_array, open_array, save_array
from hnm_datasets.storage.tables import KeyTable

_STARTS, _POSTINGS, _WEIGHTS = "indptr.csc.index", "indices.csc.index", "data.csc.index"
_CONSTANTS = "nonoccurrence_array.index"
_VOCABULARY, _OPTIONS = "vocab.index.json", "params.index.json"
#: The files of every bm25s index.
INDEX_FILES = (*(f"{name}.npy" for name in (_STARTS, _POSTINGS, _WEIGHTS)), _VOCABULARY, _OPTIONS)
#: An additional file for formulas with constants.
CONSTANTS_FILE = f"{_CONSTANTS}.npy"
_TABLE = "vocabulary"


@dataclass(frozen=True)
class Postings:
    """The memory-mapped postings of one index.

    Attributes:
        starts: Where the postings of each token begin and end. The last token is the empty token of bm25s, which has no
            postings. Shape (V + 2,).
        postings: The rows that contain each token, ascending. Shape (P,).
        weights: The contribution of the token to the score of each of these rows. Shape (P,).
    """

    starts: NDArray[np.int64]
    postings: NDArray[np.int32]
    weights: NDArray[np.float32]

    @classmethod
    def open(cls, folder: Path) -> Postings:
        """Map the files of an index."""
        arrays: Any = (open_array(folder, name) for name in (_STARTS, _POSTINGS, _WEIGHTS))
        return cls(*arrays)


@contextmanager
def writing_postings(
    folder: Path, starts: NDArray[np.int64], postings: NDArray[np.int32]
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Write `Postings`. Yield a function that appends the next chunk of the weights.

    Args:
        folder: The folder to write to.
        starts: Where the postings of each of the V tokens begin and end. Shape (V + 1,).
        postings: Shape (P,).
    """
    # bm25s looks up the empty token for a query without any token in the vocabulary.
    save_array(folder, _STARTS, np.append(starts, starts[-1]))
    save_array(folder, _POSTINGS, postings)
    with append_array(folder, _WEIGHTS, np.dtype(np.float32)) as append:
        yield append


def save_formula(
    folder: Path, formula: Formula, passages: int, constants: NDArray[np.floating], rarity_method: str | None = None
) -> None:
    """Write the parameters of the weights.

    Args:
        folder: The folder to write to.
        formula: The formula of the weights.
        passages: The number of indexed passages.
        constants: The contribution of each token to the scores of all passages, used if the formula has constants.
            Shape (V,).
        rarity_method: The method for the inverse document frequency; None: that of the formula.
    """
    if formula.has_constants:
        save_array(folder, _CONSTANTS, np.append(constants, 0).astype(np.float32))
    options = asdict(formula) | {
        "idf_method": rarity_method or formula.method,
        "dtype": "float32",
        "int_dtype": "int32",
        "num_docs": passages,
        "version": bm25s.__version__,
        "backend": "numpy",
    }
    (folder / _OPTIONS).write_text(json.dumps(options, indent=4))


def open_constants(folder: Path, formula: Formula) -> NDArray[np.float32]:
    """Map the contribution of each token to the scores of all passages. Shape (V + 1,)."""
    if not formula.has_constants:
        return np.zeros(len(open_array(folder, _STARTS)) - 1, dtype=np.float32)
    constants: Any = open_array(folder, _CONSTANTS)
    return constants  # type: ignore[no-any-return]


def save_vocabulary(folder: Path, table: KeyTable, vocabulary: Mapping[str, int]) -> None:
    """Write the number of each token.

    Args:
        folder: The folder to write to.
        table: The numbers of the tokens by digest, without the empty token.
        vocabulary: The numbers of all tokens, for bm25s.
    """
    table.save(folder, _TABLE)
    with (folder / _VOCABULARY).open("w", encoding="utf-8") as file:
        json.dump(vocabulary, file, ensure_ascii=False)


def open_vocabulary(folder: Path) -> KeyTable:
    """Map the table of the tokens."""
    return KeyTable.open(folder, _TABLE)
