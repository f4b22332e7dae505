"""Text of others inside of Markdown: shown as it is, and never taken for markup."""

from __future__ import annotations

import re

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
#: They turn the direction of what follows, far beyond the text that holds them.
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def plain(text: str, length: int | None = None) -> str:
    r"""Put a text into one line of Markdown that shows it as it is.

    Args:
        text: Any text.
        length: At most this many characters of it are shown; None: all.

    Example:
        >>> print(plain("<b>a | b</b>\n```\n--- and so on", 25))
        &lt;b&gt;a \| b&lt;/b&gt; \`\`\` --- an …
    """
    line = one_line(text)
    if length is not None and len(line) > length:
        line = line[: length - 2].rstrip() + " …"
    line = re.sub(r"[\\`*_\[\]#|~$]", r"\\\g<0>", line).replace("://", r":\//").replace("www.", r"www\.")
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """Write a short text as inline code that may stand in a table.

    Example:
        >>> code("query"), code("a`b")
        ('`query`', '`` a`b ``')
    """
    line = one_line(text).replace("|", "/")
    ticks = "`" * (_longest_run(line) + 1)
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


def fenced(text: str, language: str) -> str:
    """Put a text into a code block whose fence is longer than any in the text."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def link(source: str) -> str:
    """Link to a dataset on the Hub or to a URL; any other text is shown as it is."""
    source = one_line(source)
    if is_hub_id(source):
        return f"[{plain(source, 100)}](https://huggingface.co/datasets/{source})"
    if re.fullmatch(r"https?://[^\s<>\"'()\[\]`]+", source):
        return f"<{source}>"
    return plain(source, 200)


def is_hub_id(text: str) -> bool:
    """Tell whether a text is such as the ids of sets on the Hub are, with the name of an owner."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return "/" in text


def count(number: int, one: str, many: str | None = None) -> str:
    """Write a number of things.

    Example:
        >>> count(1, "row"), count(2000, "row"), count(2, "query", "queries")
        ('1 row', '2,000 rows', '2 queries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def one_line(text: str) -> str:
    """Put a text into one line, without control characters and runs of white space."""
    return " ".join(without_controls(text).split())


def without_controls(text: str) -> str:
    """Replace line breaks and other control characters by spaces, and drop those that turn the direction."""
    return without_directions(_CONTROLS.sub(" ", text))


def without_directions(text: str) -> str:
    """Drop characters that turn the direction of the text after them."""
    return _DIRECTIONS.sub("", text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
