"""Cases that take the same way as others: `HNM_EXHAUSTIVE=1` runs them too, see CONTRIBUTING.md."""

import os

EXHAUSTIVE = bool(os.environ.get("HNM_EXHAUSTIVE"))


def usually(cases, every):
    """Return the cases of a usual run, at least one of each kind; with `HNM_EXHAUSTIVE=1` every case."""
    missing = [case for case in cases if case not in every]
    assert not missing, f"not among every case: {missing}"
    return list(every if EXHAUSTIVE else cases)
