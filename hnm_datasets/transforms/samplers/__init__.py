"""Steps that choose some candidates, or order them."""
