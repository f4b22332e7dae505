"""Indexes: queries in, rows and scores out."""

from hnm_datasets.indexes.base import Hits, Index
from hnm_datasets.indexes.bm25 import BM25Index
from hnm_datasets.indexes.dense import DenseIndex
from hnm_datasets.indexes.sharded import ShardedIndex

__all__ = ["BM25Index", "DenseIndex", "Hits", "Index", "ShardedIndex"]
