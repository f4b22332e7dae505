"""The folder of generations of a training, and the state saved with its checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hnm_datasets.storage.writing import written_aside
from hnm_datasets.training.refresh_job import KEPT, LEFT
from hnm_datasets.training.refresh_vectors import Holder, forget_vectors, left_vectors

_STATE = "live_negatives.json"


class GenerationFolder:
    """The generations of one dataset of live rows, below the output folder of a training.

    Args:
        output_dir: The output folder of the training.
        name: The name of the live rows.
        left: The objects in this process that have the stored vectors of each generation open. Entries of deleted
            vectors are removed.
    """

    def __init__(self, output_dir: Path, name: str, left: dict[int, list[Holder]]) -> None:
        self.output_dir, self.name, self._left = output_dir, name, left
        self.root = output_dir / "generations" / name

    def note(self, step: int, state: Mapping[str, Any]) -> bool:
        """Save the state for a resumed training in the checkpoint of a step; return False if there is no checkpoint."""
        folder = self.output_dir / f"checkpoint-{step}"
        if not folder.is_dir():
            return False
        path = folder / _STATE
        noted = json.loads(path.read_text()) if path.exists() else {}
        noted[self.name] = state
        with written_aside(path) as aside:
            aside.write_text(json.dumps(noted, indent=1))
        return True

    def noted(self, step: int) -> dict[str, Any]:
        """Return the state saved in the checkpoint of a step.

        Raises:
            ValueError: The checkpoint has no state for these rows.
        """
        path = self.output_dir / f"checkpoint-{step}" / _STATE
        noted: dict[str, Any] | None = json.loads(path.read_text()).get(self.name) if path.exists() else None
        if noted is None:
            raise ValueError(
                f"RefreshNegatives: {path} has no generation of negatives for these rows. Resume with the rows and "
                f"the output_dir of the training that wrote the checkpoint. If it was interrupted while saving, resume "
                f"from an earlier checkpoint."
            )
        return noted

    def vectors_left(self, number: int) -> list[str]:
        """Return the names of the corpus vectors kept by the refresh of a generation, if they still exist."""
        return left_vectors(self.root / f"{number:06d}{LEFT}")

    def forget_after(self, number: int) -> None:
        """Delete everything that an earlier or interrupted training wrote after a generation."""
        for path in self.root.glob("[0-9]" * 6 + "*"):
            if int(path.name[:6]) <= number:
                continue
            if path.suffix == LEFT:
                self._forget_vectors(path)
            elif path.suffix != KEPT:
                # The list of an interrupted refresh stays, because the next refresh needs it to clean up.
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def prune(self, current: int, keep: int, base: int) -> None:
        """Delete generations and kept vectors that neither the training nor a checkpoint needs.

        Args:
            current: The generation in use.
            keep: The number of generations to keep.
            base: The generation whose corpus vectors are searched.
        """
        needed, bases = {current - back for back in range(keep)}, {base}
        for path in self.output_dir.glob(f"checkpoint-*/{_STATE}"):
            noted = json.loads(path.read_text()).get(self.name)
            if noted:
                # The first batch after a resume may use the previous generation.
                needed |= {noted["generation"], noted["generation"] - 1}
                bases.add(noted.get("base", 0))
        for folder in self.root.glob("[0-9]" * 6):
            if int(folder.name) not in needed and int(folder.name) < current:
                shutil.rmtree(folder, ignore_errors=True)
                for note in self.root.glob(f"{folder.name}.*"):
                    if note.suffix != LEFT:
                        note.unlink(missing_ok=True)
        for note in self.root.glob(f"*{LEFT}"):
            if int(note.stem) not in bases:
                self._forget_vectors(note)

    def _forget_vectors(self, note: Path) -> None:
        forget_vectors(note, self._left.pop(int(note.stem), ()))
