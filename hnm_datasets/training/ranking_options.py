"""The options of the ranking loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sentence_transformers.util import cos_sim
from torch import Tensor


@dataclass(frozen=True)
class RankingOptions:
    """The options of `HardNegativesRankingLoss` that its mathematics uses; see there for their meaning."""

    scale: float = 20.0
    similarity_fct: Callable[[Tensor, Tensor], Tensor] = cos_sim
    gather_across_devices: bool = False
    directions: tuple[str, ...] = ("query_to_doc",)
    partition_mode: str = "joint"
    hardness_mode: str | None = None
    hardness_strength: float = 0.0
    in_batch: bool = True
    margin: float | None = None
    likely_weight: float = 0.0
    distill_weight: float = 0.0
    teacher_temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.likely_weight < 1:
            raise ValueError(f"likely_weight must be at least 0 and less than 1, got {self.likely_weight:g}.")
        if self.distill_weight < 0:
            raise ValueError(f"distill_weight must not be negative, got {self.distill_weight:g}.")
        if self.likely_weight and self.margin is None:
            raise ValueError("likely_weight needs a margin: it is the weight of the passages that exceed the margin.")
        if not self.in_batch and self.directions != ("query_to_doc",):
            raise ValueError(f"in_batch=False supports only the direction 'query_to_doc', got {self.directions}.")
        if not self.in_batch and self.hardness_mode == "in_batch_negatives":
            raise ValueError(
                "hardness_mode='in_batch_negatives' has no effect with in_batch=False. Choose another mode, or "
                "in_batch=True."
            )
