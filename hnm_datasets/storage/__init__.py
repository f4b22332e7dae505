"""Content fingerprints and the files stored under them."""
