"""Untrusted text in Markdown: shown literally, never interpreted as markup."""

from __future__ import annotations

import re

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
#: Characters that change the text direction, even beyond the end of the text that contains them.
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def plain(text: str, length: int | None = None) -> str:
    r"""Escape a text for one line of Markdown, so that it is shown literally.

    Args:
        text: Any text.
        length: The maximum number of characters to show; None for all.

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
    """Format a short text as inline code that is safe in tables.

    Example:
        >>> code("query"), code("a`b")
        ('`query`', '`` a`b ``')
    """
    line = one_line(text).replace("|", "/")
    ticks = "`" * (_longest_run(line) + 1)
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


def fenced(text: str, language: str) -> str:
    """Format a text as a code block, with a fence longer than any in the text."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def link(source: str) -> str:
    """Link to a dataset on the Hub or to a URL; any other text is shown literally."""
    source = one_line(source)
    if is_hub_id(source):
        return f"[{plain(source, 100)}](https://huggingface.co/datasets/{source})"
    if re.fullmatch(r"https?://[^\s<>\"'()\[\]`]+", source):
        return f"<{source}>"
    return plain(source, 200)


def is_hub_id(text: str) -> bool:
    """Return whether a text is a valid Hub id with an owner, such as `"owner/name"`."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return "/" in text


def count(number: int, one: str, many: str | None = None) -> str:
    """Format a number with a singular or plural noun.

    Example:
        >>> count(1, "row"), count(2000, "row"), count(2, "query", "queries")
        ('1 row', '2,000 rows', '2 queries')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def one_line(text: str) -> str:
    """Convert a text to one line, without control characters and repeated white space."""
    return " ".join(without_controls(text).split())


def without_controls(text: str) -> str:
    """Replace line breaks and other control characters with spaces, and drop characters that change the direction."""
    return without_directions(_CONTROLS.sub(" ", text))


def without_directions(text: str) -> str:
    """Drop characters that change the text direction."""
    return _DIRECTIONS.sub("", text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
