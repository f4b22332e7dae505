"""Helpers for plots that run before matplotlib is imported. This module must not import it at the top."""

from __future__ import annotations


def check_matplotlib(name: str) -> None:
    """Raise an ImportError with the install command if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{name} needs matplotlib: pip install 'hnm-datasets[plots]'") from error


def scorer_label(by: str) -> str:
    """Return the name of a scorer for a title."""
    return "by the retriever" if by == "score" else f"by {by!r}"
