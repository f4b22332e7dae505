"""Steps that select candidates or sort them."""
