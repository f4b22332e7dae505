"""Searching large corpora without reading all postings: the bounds, their files, and when to use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, offsets_of, take_lists
from hnm_datasets.indexes import bm25_kernels, bm25_skipping_kernels
from hnm_datasets.indexes.bm25_files import Postings
from hnm_datasets.indexes.bm25_skipping_kernels import BLOCK, LEVELS, TILE, Bounds
from hnm_datasets.storage.about import About
from hnm_datasets.storage.folders import build_once, cache_root, folder_size
from hnm_datasets.storage.mapped import open_array, save_array
from hnm_datasets.storage.opened import Opened

#: Part of the folder names; increase it when the files change.
_FORMAT = 1
#: With at least this many passages per hit, skipping is faster than reading all postings.
PASSAGES_PER_HIT = 20_000
#: Tokens in at least 1 / _MOST_FREQUENT of the passages have bounds per block, at most half the size of their postings.
_MOST_FREQUENT = 16
#: The minimum number of postings of a token with segments, and the maximum mean number of postings per segment.
_FREQUENT, _SEGMENT = 512, 64

_OPENED: Opened[Bounds] = Opened()


def bounds_of(postings: Postings, passages: int) -> Bounds:
    """Compute the bounds for the weights of the frequent tokens of an index.

    Args:
        postings: The postings of the index.
        passages: The number of indexed passages.
    """
    frequencies = np.diff(postings.starts)
    tokens = np.flatnonzero(frequencies >= _FREQUENT)
    # `reduceat` would read all postings, so slice each token.
    pairs = zip(postings.starts[tokens].tolist(), postings.starts[tokens + 1].tolist(), strict=True)
    tops = np.array([postings.weights[start:stop].max() for start, stop in pairs], dtype=np.float32)
    shifts = np.maximum(np.log2(_SEGMENT * passages / frequencies[tokens]), 0).astype(np.uint8)
    offsets = offsets_of(((passages - 1) >> shifts.astype(np.int64)) + 2)
    lined = frequencies[tokens] >= passages / _MOST_FREQUENT
    blocks = -(-passages // (BLOCK * TILE)) * TILE
    unit = float(tops[lined].max(initial=0) or tops.max(initial=0) or 1) / (LEVELS - 1)
    bounds = Bounds(
        tokens,
        tops,
        shifts,
        offsets,
        np.empty(offsets[-1], dtype=np.int32),
        np.where(lined, np.cumsum(lined) - 1, -1).astype(np.int32),
        np.zeros((int(lined.sum()), blocks), dtype=np.uint8),
        np.array([unit]),
    )
    bm25_skipping_kernels.measure(postings.starts, postings.postings, postings.weights, bounds)
    return bounds


def open_bounds(name: str, postings: Postings, passages: int, index: Path) -> Bounds:
    """Map the bounds of an index from the cache directory. The first call computes them.

    Args:
        name: The fingerprint of the index.
        postings: The postings of the index.
        passages: The number of indexed passages.
        index: The folder of the index.
    """

    def build(folder: Path) -> None:
        for field, array in bounds_of(postings, passages)._asdict().items():
            save_array(folder, field, array)

    def opened() -> Bounds:
        about = About("bm25-bounds", "BM25Index", of=index)
        folder = build_once(_folder_of(name).parent, _folder_of(name).name, build, about)
        arrays: Any = (open_array(folder, field) for field in Bounds._fields)
        return Bounds(*arrays)

    return _OPENED.get(name, opened)


def _folder_of(name: str) -> Path:
    return cache_root() / "bm25-bounds" / f"{name}-{_FORMAT}"


def size_of_bounds(name: str) -> int:
    """Return the size in bytes of the bounds of an index; 0 before the first search that uses them."""
    return folder_size(_folder_of(name), "*.npy")


def close_bounds(name: str) -> None:
    """Close the bounds of an index."""
    _OPENED.forget(name)


def search(
    postings: Postings,
    offsets: NDArray[np.int64],
    tokens: NDArray[np.int64],
    passages: int,
    bounds: Bounds,
    out: NDArray[np.uint64],
) -> None:
    """Find the best passages of each query, with the same arguments and results as `bm25_kernels.search`."""
    tokens, offsets = tokens[offsets[0] : offsets[-1]], offsets - offsets[0]
    positions = np.searchsorted(bounds.tokens, tokens)
    frequent = np.append(bounds.tokens, -1)[positions] == tokens
    done = np.empty(len(out), dtype=np.bool_)
    index = (postings.starts, postings.postings, postings.weights)
    positions[~frequent] = -1
    bm25_skipping_kernels.search(*index, offsets, tokens, passages, bounds, positions, out, done)
    remaining = np.flatnonzero(~done)
    if len(remaining):
        lists = take_lists(Ragged(offsets, tokens), remaining)
        keys = np.empty((len(remaining), out.shape[1]), dtype=np.uint64)
        bm25_kernels.search(*index, lists.offsets, lists.values, None, passages, keys)
        out[remaining] = keys
