"""The epoch and the generation of a training, in a file of two numbers that all its processes memory-map.

A dataloader worker sees a new generation at its next batch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np


class Progress:
    """The current epoch and generation of a training, shared by all its processes on a machine.

    Args:
        path: A file of two numbers; None: create a temporary one, deleted with this object.
    """

    def __init__(self, path: str | None = None) -> None:
        if path is None:
            folder = tempfile.mkdtemp(prefix="hnm_datasets-")
            path = str(Path(folder) / "progress")
            np.zeros(2, dtype=np.int64).tofile(path)
            weakref.finalize(self, _remove, folder, os.getpid())
        self.path = path
        # Eight aligned bytes are written at once, so no reader sees a partial number.
        self._numbers = np.memmap(path, dtype=np.int64, mode="r+", shape=(2,))

    def __reduce__(self) -> tuple[type[Progress], tuple[str]]:
        return Progress, (self.path,)

    @property
    def epoch(self) -> int:
        """The number of the epoch, from 0."""
        return int(self._numbers[0])

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._numbers[0] = number

    @property
    def generation(self) -> int:
        """The number of the generation, from 0."""
        return int(self._numbers[1])

    @generation.setter
    def generation(self, number: int) -> None:
        self._numbers[1] = number


def _remove(folder: str, process: int) -> None:
    # A forked worker inherits the object, but must not delete a file that other processes use.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
