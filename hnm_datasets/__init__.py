"""Hard negative mining as batched `Dataset.map` transforms."""

from hnm_datasets.corpus import Corpus
from hnm_datasets.indexes import BM25Index
from hnm_datasets.loaders import attach_positives, from_pairs, load_beir, load_sample
from hnm_datasets.transforms import (
    BM25Negatives,
    RandomNegatives,
    RankWindow,
    SampleNegatives,
    ScoreBand,
    ToLabeledLists,
    ToLabeledPairs,
    ToNTuples,
    TopNegatives,
    ToTriplets,
)

__version__ = "0.1.0"

__all__ = [
    "BM25Index",
    "BM25Negatives",
    "Corpus",
    "RandomNegatives",
    "RankWindow",
    "SampleNegatives",
    "ScoreBand",
    "ToLabeledLists",
    "ToLabeledPairs",
    "ToNTuples",
    "ToTriplets",
    "TopNegatives",
    "attach_positives",
    "from_pairs",
    "load_beir",
    "load_sample",
]
