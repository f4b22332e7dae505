"""Steps that score the candidates and positives with another model."""
