"""Hard negative mining as batched `Dataset.map` transforms."""

from hnm_datasets.calibration import calibrate_margin, calibrate_threshold
from hnm_datasets.corpus import Corpus
from hnm_datasets.embeddings import Embeddings
from hnm_datasets.indexes import BM25Index, DenseIndex
from hnm_datasets.loaders import attach_positives, from_pairs, load_beir, load_sample
from hnm_datasets.one_call import mine_hard_negatives
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

__version__ = "0.1.0"

__all__ = [
    "AbsoluteMargin",
    "BM25Index",
    "BM25Negatives",
    "BiEncoderScores",
    "Corpus",
    "CrossEncoderScores",
    "DenseIndex",
    "DenseNegatives",
    "DropNearDuplicates",
    "Embeddings",
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
    "attach_positives",
    "calibrate_margin",
    "calibrate_threshold",
    "from_pairs",
    "load_beir",
    "load_sample",
    "mine_hard_negatives",
]
