"""Steps that turn mined rows into training rows."""
