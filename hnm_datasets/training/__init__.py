"""Training with hard negatives in the trainer of sentence-transformers."""
