"""Mining in one call, for people who come from sentence-transformers."""
