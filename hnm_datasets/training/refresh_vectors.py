"""The vectors that the steps of a refresh hold: those of the model in training are deleted when the refresh ends.

They are in the cache directory, as all results of models are. The scores of a teacher are there too, and stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hnm_datasets.indexes.dense import DenseIndex
from hnm_datasets.indexes.sparse import SparseIndex
from hnm_datasets.indexes.tokens import TokenIndex
from hnm_datasets.models.embeddings import StoredVectors, embeddings_folder
from hnm_datasets.models.encoders import TextEncoder
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.writing import written_aside
from hnm_datasets.transforms.base import Transform

#: What holds vectors on disk.
Holder: TypeAlias = TextEncoder | DenseIndex | SparseIndex | TokenIndex | StoredVectors


def folders_before(note: Path) -> set[Path]:
    """Return the folders of vectors that the cache directory held before a refresh.

    Args:
        note: The file that lists them. The first call writes it, so a refresh that continues for a killed one sees what
            was there before that one.
    """
    if not note.exists():
        names = [str(one) for kind in ("embeddings", "vectors") for one in (cache_root() / kind).glob("*")]
        note.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(note) as aside:
            aside.write_text(json.dumps(names))
    return {Path(name) for name in json.loads(note.read_text())}


def close_vectors(steps: Sequence[Transform]) -> None:
    """Unmap the vectors of the steps, because another process deletes them."""
    for holder in _holders_of(steps):
        if not isinstance(holder, TextEncoder):
            _vectors_of(holder).close()


def discard_vectors(steps: Sequence[Transform], model_name: str, kept: set[Path]) -> None:
    """Delete the vectors of a model, and the indexes of them, because the next refresh has another model.

    Args:
        steps: What was mined with.
        model_name: The fingerprint of the model.
        kept: Folders that stay, because they were there before the refresh.
    """
    # All are chosen before one is deleted: several indexes may share their vectors, which name the model.
    for holder in [one for one in _holders_of(steps) if _is_discarded(one, model_name, kept)]:
        holder.discard()


def _is_discarded(holder: Holder, model_name: str, kept: set[Path]) -> bool:
    if isinstance(holder, TextEncoder):
        return cache_root() / "vectors" / holder.fingerprint not in kept and holder.model_fingerprint == model_name
    vectors = _vectors_of(holder)
    folder = embeddings_folder(vectors.fingerprint)
    # A step that was never asked may hold vectors that were never made.
    return folder not in kept and folder.exists() and vectors.model_fingerprint == model_name


def _vectors_of(holder: DenseIndex | SparseIndex | TokenIndex | StoredVectors) -> StoredVectors:
    return holder if isinstance(holder, StoredVectors) else holder.embeddings


def _holders_of(value: Any) -> Iterator[Holder]:
    """Find the encoders, indexes and vectors in steps, in their options, and in the shards of an index."""
    if isinstance(value, (TextEncoder, DenseIndex, SparseIndex, TokenIndex, StoredVectors)):
        yield value
    elif isinstance(value, dict):
        yield from _holders_of(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _holders_of(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _holders_of(getattr(value, field.name))
