"""Passages, their texts, and which texts are the same."""
