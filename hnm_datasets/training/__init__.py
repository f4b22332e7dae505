"""Training with hard negatives in the stock trainer of sentence-transformers."""

from hnm_datasets.training.evaluation import retrieval_evaluator
from hnm_datasets.training.live import LiveNegatives, live_negatives
from hnm_datasets.training.loss import CachedHardNegativesRankingLoss, HardNegativesRankingLoss
from hnm_datasets.training.refresh import FollowEpochs, RefreshNegatives

__all__ = [
    "CachedHardNegativesRankingLoss",
    "FollowEpochs",
    "HardNegativesRankingLoss",
    "LiveNegatives",
    "RefreshNegatives",
    "live_negatives",
    "retrieval_evaluator",
]
