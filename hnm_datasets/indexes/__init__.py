"""Indexes: encoded queries in, rows and scores out."""
