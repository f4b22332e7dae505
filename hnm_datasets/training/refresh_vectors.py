"""The vectors that the steps of a refresh hold: those of the model in training are deleted when the refresh ends.

They are in the cache directory, as all results of models are. The scores of a teacher are there too, and stay.
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

#: A folder of vectors or of an index of them, below the cache directory.
_NAMED = re.compile(r"(embeddings|dense|sparse|tokens)/[0-9a-f]{32}")
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


def leave_vectors(steps: Sequence[Transform], model_name: str, kept: set[Path], note: Path) -> list[Holder]:
    """Note the vectors of the corpus that later refreshes search again, so that `forget_vectors` can delete them.

    Args:
        steps: What was made of the model.
        model_name: Its fingerprint.
        kept: Folders that were there before the refresh, and that nobody deletes.
        note: Where to write their names, in the order of the miners, and the folders that may be deleted.

    Returns:
        What holds them in this process.
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
    """Return the names of vectors that `leave_vectors` noted, if all of them are still there."""
    names = [str(name) for name in json.loads(note.read_text())["names"]] if note.exists() else []
    return (
        names
        if all(_NAMED.fullmatch(f"embeddings/{name}") for name in names)
        and all(is_complete(embeddings_folder(name)) for name in names)
        else []
    )


def forget_vectors(note: Path, holders: Sequence[Holder]) -> None:
    """Delete what `leave_vectors` noted.

    Args:
        note: The note.
        holders: What holds them in this process.
    """
    for holder in holders:
        holder.discard()
    for folder in json.loads(note.read_text())["folders"]:
        # The note may have come with a checkpoint from elsewhere: nothing but such a folder is deleted.
        if _NAMED.fullmatch(str(folder)):
            shutil.rmtree(cache_root() / folder, ignore_errors=True)
    note.unlink()


def search_again(steps: Sequence[Transform], model_name: str, fingerprints: Sequence[str]) -> list[Any]:
    """Let the miners of a model search the vectors of an earlier one, with its own queries (Zhan et al. 2021, ADORE).

    Args:
        steps: Those that were made of the model.
        model_name: Its fingerprint.
        fingerprints: The names of its vectors, in the order of the miners.

    Returns:
        The indexes that they would have searched.

    Raises:
        ValueError: There are more or fewer miners than names.
    """
    own, miners = [], _miners_with(steps, model_name)
    if len(miners) != len(fingerprints):
        raise ValueError(
            f"RefreshNegatives: {len(miners)} of the steps search with the model in training, and in the last refresh "
            f"{len(fingerprints)} did. Resume with the steps that the training began with."
        )
    for miner, earlier in zip(miners, fingerprints, strict=True):
        own.append(miner.index)
        miner._set(index=_over(miner.index, type(miner._vectors)(earlier)))
    return own


def _over(index: Any, vectors: StoredVectors) -> Any:
    """Return the same index of other vectors."""
    if isinstance(index, ShardedIndex):
        return replace(index, shards=[_over(shard, vectors) for shard in index.shards])
    return replace(index, embeddings=vectors)


def _miners_with(steps: Sequence[Transform], model_name: str) -> list[ModelNegatives]:
    return [miner for miner in _found(steps, ModelNegatives) if miner.model.model_fingerprint == model_name]


def discard_vectors(steps: Sequence[Any], model_name: str, kept: set[Path]) -> None:
    """Delete the vectors of a model, and the indexes of them, because the next refresh has another model.

    Args:
        steps: What was mined with, and indexes.
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
    return _found(value, (TextEncoder, DenseIndex, SparseIndex, TokenIndex, StoredVectors))


def _found(value: Any, kinds: Any) -> Iterator[Any]:
    """Yield what is of some classes in a value, in its parts and in their options, but not what is within it."""
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
