"""Which negatives pay on a user's own data: strategies mined on a sample, measured and trained on."""
