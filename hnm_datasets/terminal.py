"""Text of others on a terminal: shown as it is, and never obeyed."""

from __future__ import annotations

import re

#: Controls of both ranges but for line breaks and tabs, separators of lines, what turns the direction of the text after
#: it, and halves of characters, which cannot be encoded.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Write control characters as `repr` does, so that a terminal shows them. Line breaks and tabs stay.

    Example:
        >>> print(printable("\x1b[2Jgone?\nnext line"))
        \x1b[2Jgone?
        next line
    """
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], text)
