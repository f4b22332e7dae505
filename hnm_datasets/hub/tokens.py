"""Keep access tokens out of messages, cards and records."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

#: Markdown escapes the underscore with one backslash, JSON with two.
_SHAPE = re.compile(r"\bhf\\*_[A-Za-z0-9]{30,}")
#: Shorter tokens would match ordinary words.
_SHORTEST = 8
_HIDDEN = "[token]"


def known_tokens(token: str | None = None) -> list[str]:
    """Return all known tokens: the given one, those in environment variables, and that of `hf auth login`."""
    found = [token, *(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))]
    login = Path(constants.HF_TOKEN_PATH)
    if login.is_file():
        found.append(login.read_text(encoding="utf-8", errors="replace"))
    return [text.strip() for text in found if text and len(text.strip()) >= _SHORTEST]


def hide_tokens(text: str, known: Sequence[str]) -> str:
    """Replace known tokens, and all texts that look like a Hub token, by `[token]`.

    Example:
        >>> hide_tokens("my-secret, hf_abcdefghijklmnopqrstuvwxyzABCDEF and more", ["my-secret"])
        '[token], [token] and more'
    """
    for token in known:
        text = re.sub(r"\\*".join(map(re.escape, token)), _HIDDEN, text)
    return _SHAPE.sub(_HIDDEN, text)
