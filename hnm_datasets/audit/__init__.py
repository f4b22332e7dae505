"""How good negatives are: what is wrong with them, how hard they are, how many of them are relevant."""
