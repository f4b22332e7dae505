"""Embedding models and rerankers, their names, and their results on disk. Nothing here knows a corpus."""
