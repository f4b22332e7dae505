"""Delete the vectors of the model in training from the cache directory when a refresh ends.

The cache directory also stores the scores of teachers; these stay.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from hnm_datasets.indexes.dense import DenseIndex
from hnm_datasets.indexes.sharded import ShardedIndex
from hnm_datasets.indexes.sparse import SparseIndex
from hnm_datasets.indexes.tokens import TokenIndex
from hnm_datasets.models.embeddings import StoredVectors, embeddings_folder
from hnm_datasets.models.encoders import TextEncoder
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.manifest import is_complete
from hnm_datasets.storage.writing import written_aside
from hnm_datasets.transforms.base import Transform
from hnm_datasets.transforms.miners.model import ModelNegatives

#: A folder of vectors, or of an index over vectors, relative to the cache directory.
_NAMED = re.compile(r"(embeddings|dense|sparse|tokens)/[0-9a-f]{32}")
#: Objects that store vectors on disk.
Holder: TypeAlias = TextEncoder | DenseIndex | SparseIndex | TokenIndex | StoredVectors


def folders_before(note: Path) -> set[Path]:
    """Return the folders of vectors that were in the cache directory before a refresh.

    Args:
        note: The file that lists them. The first call writes it, so a refresh that replaces an interrupted one still
            reads the folders from before that one.
    """
    if not note.exists():
        names = [str(one) for kind in ("embeddings", "vectors") for one in (cache_root() / kind).glob("*")]
        note.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(note) as aside:
            aside.write_text(json.dumps(names))
    return {Path(name) for name in json.loads(note.read_text())}


def close_vectors(steps: Sequence[Transform]) -> None:
    """Close the memory-mapped vectors of the steps, because another process deletes them."""
    for holder in _holders_of(steps):
        if not isinstance(holder, TextEncoder):
            _vectors_of(holder).close()


def leave_vectors(steps: Sequence[Transform], model_name: str, kept: set[Path], note: Path) -> list[Holder]:
    """Keep the corpus vectors for later refreshes, and list them in a file from which `forget_vectors` deletes them.

    Args:
        steps: The steps created from the model.
        model_name: The fingerprint of the model.
        kept: Folders from before the refresh, which are never deleted.
        note: The file to write: the names of the vectors, in the order of the miners, and the folders to delete later.

    Returns:
        The objects in this process that have these vectors open.
    """
    miners = _miners_with(steps, model_name)
    holders = (one for miner in miners for one in _holders_of(miner.index) if not isinstance(one, TextEncoder))
    own = [one for one in holders if embeddings_folder(_vectors_of(one).fingerprint) not in kept]
    folders = {embeddings_folder(_vectors_of(one).fingerprint) for one in own}
    folders |= {one._folder for one in own if isinstance(one, (DenseIndex, SparseIndex, TokenIndex))}
    names = [miner._vectors.fingerprint for miner in miners]
    with written_aside(note) as aside:
        inside = sorted(str(folder.relative_to(cache_root())) for folder in folders)
        aside.write_text(json.dumps({"names": names, "folders": inside}))
    return list(own)


def left_vectors(note: Path) -> list[str]:
    """Return the names of the vectors that `leave_vectors` listed, if all of them still exist."""
    names = [str(name) for name in json.loads(note.read_text())["names"]] if note.exists() else []
    return (
        names
        if all(_NAMED.fullmatch(f"embeddings/{name}") for name in names)
        and all(is_complete(embeddings_folder(name)) for name in names)
        else []
    )


def forget_vectors(note: Path, holders: Sequence[Holder]) -> None:
    """Delete the vectors that `leave_vectors` listed.

    Args:
        note: The file that lists them.
        holders: The objects in this process that have these vectors open.
    """
    for holder in holders:
        holder.discard()
    for folder in json.loads(note.read_text())["folders"]:
        # The file may have been copied with a checkpoint from another machine: delete only folders of vectors.
        if _NAMED.fullmatch(str(folder)):
            shutil.rmtree(cache_root() / folder, ignore_errors=True)
    note.unlink()


def search_again(steps: Sequence[Transform], model_name: str, fingerprints: Sequence[str]) -> list[Any]:
    """Let the miners search the corpus vectors of an earlier model with the current queries (Zhan et al. 2021, ADORE).

    Args:
        steps: The steps created from the current model.
        model_name: The fingerprint of the current model.
        fingerprints: The names of the earlier vectors, in the order of the miners.

    Returns:
        The indexes that the miners would otherwise have searched.

    Raises:
        ValueError: The number of miners differs from the number of names.
    """
    own, miners = [], _miners_with(steps, model_name)
    if len(miners) != len(fingerprints):
        raise ValueError(
            f"RefreshNegatives: {len(miners)} of the steps search with the model in training, but in the last refresh "
            f"it was {len(fingerprints)}. Resume with the original steps of the training."
        )
    for miner, earlier in zip(miners, fingerprints, strict=True):
        own.append(miner.index)
        miner._set(index=_over(miner.index, type(miner._vectors)(earlier)))
    return own


def _over(index: Any, vectors: StoredVectors) -> Any:
    """Return the same index over other vectors."""
    if isinstance(index, ShardedIndex):
        return replace(index, shards=[_over(shard, vectors) for shard in index.shards])
    return replace(index, embeddings=vectors)


def _miners_with(steps: Sequence[Transform], model_name: str) -> list[ModelNegatives]:
    return [miner for miner in _found(steps, ModelNegatives) if miner.model.model_fingerprint == model_name]


def discard_vectors(steps: Sequence[Any], model_name: str, kept: set[Path]) -> None:
    """Delete the vectors of a model and the indexes over them, because the next refresh has another model.

    Args:
        steps: The mining steps and indexes.
        model_name: The fingerprint of the model.
        kept: Folders to keep, because they are from before the refresh.
    """
    # Choose all before deleting any: several indexes may share vectors, and the name of the model is stored with them.
    for holder in [one for one in _holders_of(steps) if _is_discarded(one, model_name, kept)]:
        holder.discard()


def _is_discarded(holder: Holder, model_name: str, kept: set[Path]) -> bool:
    if isinstance(holder, TextEncoder):
        return cache_root() / "vectors" / holder.fingerprint not in kept and holder.model_fingerprint == model_name
    vectors = _vectors_of(holder)
    folder = embeddings_folder(vectors.fingerprint)
    # The vectors of an unused step may never have been computed.
    return folder not in kept and folder.exists() and vectors.model_fingerprint == model_name


def _vectors_of(holder: DenseIndex | SparseIndex | TokenIndex | StoredVectors) -> StoredVectors:
    return holder if isinstance(holder, StoredVectors) else holder.embeddings


def _holders_of(value: Any) -> Iterator[Holder]:
    """Yield the encoders, indexes and vectors in steps, in their options, and in the shards of an index."""
    return _found(value, (TextEncoder, DenseIndex, SparseIndex, TokenIndex, StoredVectors))


def _found(value: Any, kinds: Any) -> Iterator[Any]:
    """Yield the instances of some classes in a value and, recursively, in its parts; do not search within them."""
    if isinstance(value, kinds):
        yield value
    elif isinstance(value, dict):
        yield from _found(list(value.values()), kinds)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _found(one, kinds)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _found(getattr(value, field.name), kinds)
