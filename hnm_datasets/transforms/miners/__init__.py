"""Steps that find candidates in the corpus."""
