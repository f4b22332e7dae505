"""Functions and Hugging Face tokenizers that cut texts in place of the library's own words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hnm_datasets.corpus.text import normal_text
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.folders import build_once, cache_root
from hnm_datasets.storage.manifest import check_complete
from hnm_datasets.storage.opened import Opened

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

_FILE = "tokenizer.json"


@dataclass(frozen=True)
class FunctionTokenizer:
    """A function from a text to its tokens, with a name; it is given texts after `normal_text`.

    Attributes:
        function: Any function `str -> list[str]`.
        fingerprint: Changes whenever its tokens do.
    """

    function: Callable[[str], list[str]] = field(compare=False)
    fingerprint: str

    def tokens(self, text: str) -> list[str]:
        """Cut one text."""
        return self.tokens_as_is(normal_text(text))

    def tokens_as_is(self, text: str) -> list[str]:
        """Cut one text, whose case and Unicode form the function decides on."""
        found = self.function(text)
        if not isinstance(found, (list, tuple)) or not all(isinstance(token, str) for token in found):
            shown = repr(found)
            raise TypeError(
                f"BM25Index: tokenizer must return a list of strings for each text, got {shown[:80]} of type "
                f"{type(found).__name__}."
            )
        return list(found)


@dataclass(frozen=True)
class SubwordTokenizer:
    """A Hugging Face tokenizer by its content, kept in the cache directory, where every process finds it.

    It is given texts as they are, because its own normalizer decides on case and Unicode form.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend on its content but for truncation, padding and special tokens,
            which are not used.
    """

    fingerprint: str

    def tokens(self, text: str) -> list[str]:
        """Cut one text; the token of unknown characters is left out, because it means nothing in common."""
        tokenizer, unknown = _open(self.fingerprint)
        return [token for token in tokenizer.encode(text, add_special_tokens=False).tokens if token != unknown]


Tokenizer: TypeAlias = "Callable[[str], list[str]] | tokenizers.Tokenizer | PreTrainedTokenizerFast"


def named_tokenizer(owner: str, tokenizer: Any, name: str | None) -> FunctionTokenizer | SubwordTokenizer | None:
    """Check what a user passed as `tokenizer`, and what names it.

    Args:
        owner: For messages.
        tokenizer: A function, a fast tokenizer of transformers, a `tokenizers.Tokenizer`, or what this returned before.
        name: What names a function's tokens.

    Raises:
        TypeError: `tokenizer` is something else.
        ValueError: A function comes without a name, or anything else with one.
    """
    if isinstance(tokenizer, FunctionTokenizer) and name in (None, tokenizer.fingerprint):
        return tokenizer
    # Those of transformers are callable too, and so are their slow ones, which answer with no list.
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    is_fast = hasattr(fast, "to_str") and hasattr(fast, "no_truncation")
    if tokenizer is None or is_fast or isinstance(tokenizer, SubwordTokenizer):
        if name is not None:
            raise ValueError(
                f"{owner}: tokenizer_fingerprint names a function, and tokenizer is none. Leave it out: a Hugging Face "
                f"tokenizer is named by its content."
            )
        return _saved(fast) if is_fast else tokenizer
    if not callable(tokenizer):
        raise TypeError(
            f"{owner}: tokenizer must be a function from a text to a list of tokens, a fast tokenizer of transformers "
            f"(AutoTokenizer.from_pretrained(...)) or a tokenizers.Tokenizer, got {type(tokenizer).__name__}."
        )
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{owner}: a function cannot be fingerprinted from its code. Name its tokens with "
            f"tokenizer_fingerprint='...', for example by a library and its version, and change the name whenever the "
            f"tokens change."
        )
    return FunctionTokenizer(tokenizer, name)


def _saved(fast: tokenizers.Tokenizer) -> SubwordTokenizer:
    described = json.loads(fast.to_str()) | {"truncation": None, "padding": None}
    name = fingerprint({"kind": "tokenizer", "content": described})

    def save(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")

    build_once(cache_root() / "tokenizers", name, save)
    return SubwordTokenizer(name)


_OPENED: Opened[tuple[Any, str | None]] = Opened()


def _open(name: str) -> tuple[Any, str | None]:
    def opened() -> tuple[Any, str | None]:
        from tokenizers import Tokenizer

        file = cache_root() / "tokenizers" / name / _FILE
        check_complete(
            file.parent,
            f"The tokenizer {name}",
            "Make the BM25Index again with the tokenizer. It is opened from the datasets cache directory: "
            "HF_DATASETS_CACHE must be the same folder in every process.",
        )
        model = json.loads(file.read_text(encoding="utf-8"))["model"]
        unknown = model.get("unk_token")
        if model.get("unk_id") is not None:
            unknown = model["vocab"][model["unk_id"]][0]
        return Tokenizer.from_file(str(file)), unknown

    return _OPENED.get(name, opened)
