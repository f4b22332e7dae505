"""Steps that add another model's scores of the candidates and positives."""
