"""What goes into `Dataset.map(..., batched=True)`: mine → score → filter → sample → shape."""

from hnm_datasets.transforms.base import CandidateFilter, Transform
from hnm_datasets.transforms.filter import RankWindow, ScoreBand
from hnm_datasets.transforms.labeled import ToLabeledLists, ToLabeledPairs
from hnm_datasets.transforms.mine import BM25Negatives, RandomNegatives
from hnm_datasets.transforms.sample import SampleNegatives, TopNegatives
from hnm_datasets.transforms.tuples import ToNTuples, ToTriplets

__all__ = [
    "BM25Negatives",
    "CandidateFilter",
    "RandomNegatives",
    "RankWindow",
    "SampleNegatives",
    "ScoreBand",
    "ToLabeledLists",
    "ToLabeledPairs",
    "ToNTuples",
    "ToTriplets",
    "TopNegatives",
    "Transform",
]
