"""Hard negative mining as batched `Dataset.map` transforms."""

import importlib
from typing import TYPE_CHECKING, Any

from hnm_datasets.audit import (
    Audit,
    Comparison,
    Explanation,
    audit_negatives,
    compare_negatives,
    explain,
    plot_hardness,
    plot_query,
    plot_scores,
    plot_training,
)
from hnm_datasets.calibration import calibrate_margin, calibrate_threshold
from hnm_datasets.corpus import Corpus
from hnm_datasets.embeddings import Embeddings
from hnm_datasets.forms import convert
from hnm_datasets.hub import push_mined, save_mined, write_card
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
    "Audit",
    "BM25Index",
    "BM25Negatives",
    "BiEncoderScores",
    "CachedHardNegativesRankingLoss",
    "Comparison",
    "Corpus",
    "CrossEncoderScores",
    "DenseIndex",
    "DenseNegatives",
    "DropNearDuplicates",
    "Embeddings",
    "Explanation",
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
    "audit_negatives",
    "calibrate_margin",
    "calibrate_threshold",
    "compare_negatives",
    "convert",
    "embed_with_ray",
    "explain",
    "from_pairs",
    "live_negatives",
    "load_beir",
    "load_sample",
    "mine_hard_negatives",
    "plot_hardness",
    "plot_query",
    "plot_scores",
    "plot_training",
    "push_mined",
    "retrieval_evaluator",
    "save_mined",
    "write_card",
    "write_stream",
]
