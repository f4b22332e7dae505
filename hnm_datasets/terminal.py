"""Untrusted text on a terminal: shown literally, never interpreted."""

from __future__ import annotations

import re

#: Control characters of both ranges except line breaks and tabs, line separators, characters that change the text
#: direction, and surrogates, which cannot be encoded.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escape control characters as `repr` does, so that a terminal shows them; keep line breaks and tabs.

    Example:
        >>> print(printable("\x1b[2Jgone?\nnext line"))
        \x1b[2Jgone?
        next line
    """
    return _UNSAFE.sub(lambda found: repr(found[0])[1:-1], text)
