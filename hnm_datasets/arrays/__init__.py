"""Pure functions on arrays, without a subject of their own."""
