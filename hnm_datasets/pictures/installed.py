"""What the pictures need before matplotlib is imported: this module must not import it at the top."""

from __future__ import annotations


def check_matplotlib(name: str) -> None:
    """Raise an ImportError that says what to install, if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{name} needs matplotlib: pip install 'hnm-datasets[plots]'") from error


def scorer_label(by: str) -> str:
    """Name the scorer for a title."""
    return "by the retriever" if by == "score" else f"by {by!r}"
