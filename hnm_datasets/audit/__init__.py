"""Audits of negatives: their defects, their hardness, and the share of relevant ones."""
