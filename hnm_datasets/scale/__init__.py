"""Embedding on clusters, and writing streams that do not fit into memory."""
