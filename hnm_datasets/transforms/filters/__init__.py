"""Steps that drop candidates."""
