"""The environment of a step: a single process, a worker pool, or Ray."""
