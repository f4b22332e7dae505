"""Where a step runs: alone, in a worker of a pool, or under Ray."""
