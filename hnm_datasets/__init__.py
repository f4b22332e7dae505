"""Hard negative mining as batched `Dataset.map` transforms."""

import importlib
from typing import TYPE_CHECKING, Any

from hnm_datasets.calibration import calibrate_margin, calibrate_threshold
from hnm_datasets.corpus import Corpus
from hnm_datasets.embeddings import Embeddings
from hnm_datasets.indexes import BM25Index, DenseIndex, ShardedIndex
from hnm_datasets.loaders import attach_positives, from_pairs, load_beir, load_sample
from hnm_datasets.one_call import mine_hard_negatives
from hnm_datasets.ray_jobs import embed_with_ray
from hnm_datasets.streaming import write_stream
from hnm_datasets.transforms import (
    AbsoluteMargin,
    BiEncoderScores,
    BM25Negatives,
    CrossEncoderScores,
    DenseNegatives,
    DropNearDuplicates,
    FuseNegatives,
    RandomNegatives,
    RankWindow,
    RelativeMargin,
    SampleNegatives,
    ScoreBand,
    SortNegatives,
    TeacherThreshold,
    ToLabeledLists,
    ToLabeledPairs,
    ToNTuples,
    TopNegatives,
    ToTriplets,
)

if TYPE_CHECKING:
    from hnm_datasets.training import (
        CachedHardNegativesRankingLoss,
        FollowEpochs,
        HardNegativesRankingLoss,
        LiveNegatives,
        RefreshNegatives,
        live_negatives,
        retrieval_evaluator,
    )

__version__ = "0.1.0"

#: Training needs torch, which takes seconds to import, so its names are looked up when they are asked for.
_TRAINING = (
    "CachedHardNegativesRankingLoss",
    "FollowEpochs",
    "HardNegativesRankingLoss",
    "LiveNegatives",
    "RefreshNegatives",
    "live_negatives",
    "retrieval_evaluator",
)


def __getattr__(name: str) -> Any:
    if name in _TRAINING:
        return getattr(importlib.import_module("hnm_datasets.training"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AbsoluteMargin",
    "BM25Index",
    "BM25Negatives",
    "BiEncoderScores",
    "CachedHardNegativesRankingLoss",
    "Corpus",
    "CrossEncoderScores",
    "DenseIndex",
    "DenseNegatives",
    "DropNearDuplicates",
    "Embeddings",
    "FollowEpochs",
    "FuseNegatives",
    "HardNegativesRankingLoss",
    "LiveNegatives",
    "RandomNegatives",
    "RankWindow",
    "RefreshNegatives",
    "RelativeMargin",
    "SampleNegatives",
    "ScoreBand",
    "ShardedIndex",
    "SortNegatives",
    "TeacherThreshold",
    "ToLabeledLists",
    "ToLabeledPairs",
    "ToNTuples",
    "ToTriplets",
    "TopNegatives",
    "attach_positives",
    "calibrate_margin",
    "calibrate_threshold",
    "embed_with_ray",
    "from_pairs",
    "live_negatives",
    "load_beir",
    "load_sample",
    "mine_hard_negatives",
    "retrieval_evaluator",
    "write_stream",
]
