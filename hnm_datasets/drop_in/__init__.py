"""A drop-in replacement for `mine_hard_negatives` of sentence-transformers."""
