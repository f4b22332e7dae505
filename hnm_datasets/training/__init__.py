"""Training with hard negatives in the stock trainer of sentence-transformers."""
