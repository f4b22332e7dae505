"""A chain of steps in one call: what each one left, and rows that remember it."""
