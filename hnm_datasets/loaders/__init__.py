"""Loading a corpus and rows of queries from various sources."""
