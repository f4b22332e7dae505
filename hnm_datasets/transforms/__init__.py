"""What goes into `Dataset.map(..., batched=True)`: mine → score → filter → sample → shape."""

from hnm_datasets.transforms.base import CandidateFilter, Transform
from hnm_datasets.transforms.denoise import TeacherThreshold
from hnm_datasets.transforms.dense import DenseNegatives
from hnm_datasets.transforms.filter import RankWindow, ScoreBand
from hnm_datasets.transforms.fuse import FuseNegatives
from hnm_datasets.transforms.labeled import ToLabeledLists, ToLabeledPairs
from hnm_datasets.transforms.margin import AbsoluteMargin, RelativeMargin
from hnm_datasets.transforms.mine import BM25Negatives, RandomNegatives
from hnm_datasets.transforms.near_duplicates import DropNearDuplicates
from hnm_datasets.transforms.sample import SampleNegatives, TopNegatives
from hnm_datasets.transforms.score import BiEncoderScores, CrossEncoderScores
from hnm_datasets.transforms.sort import SortNegatives
from hnm_datasets.transforms.tuples import ToNTuples, ToTriplets

__all__ = [
    "AbsoluteMargin",
    "BM25Negatives",
    "BiEncoderScores",
    "CandidateFilter",
    "CrossEncoderScores",
    "DenseNegatives",
    "DropNearDuplicates",
    "FuseNegatives",
    "RandomNegatives",
    "RankWindow",
    "RelativeMargin",
    "SampleNegatives",
    "ScoreBand",
    "SortNegatives",
    "TeacherThreshold",
    "ToLabeledLists",
    "ToLabeledPairs",
    "ToNTuples",
    "ToTriplets",
    "TopNegatives",
    "Transform",
]
