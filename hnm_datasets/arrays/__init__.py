"""Generic functions on arrays."""
