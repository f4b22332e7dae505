"""A corpus and rows of queries, from where they are kept."""
