"""Queries in, rows and scores out."""

from hnm_datasets.indexes.base import Hits, Index
from hnm_datasets.indexes.bm25 import BM25Index

__all__ = ["BM25Index", "Hits", "Index"]
