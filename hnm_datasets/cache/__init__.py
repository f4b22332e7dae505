"""What the library keeps in the cache directory: a list of it, and its deletion."""
