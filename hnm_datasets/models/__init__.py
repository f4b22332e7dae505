"""Embedding models and rerankers, their fingerprints, and their cached outputs. Nothing here depends on a corpus."""
