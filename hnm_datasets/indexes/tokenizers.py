"""Custom tokenizers for BM25: functions and Hugging Face tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from hnm_datasets.corpus.text import normal_text
from hnm_datasets.storage.about import About
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
    """A named function from a text to its tokens.

    Attributes:
        function: Any function `str -> list[str]`.
        fingerprint: A name that changes whenever the tokens change.
    """

    function: Callable[[str], list[str]] = field(compare=False)
    fingerprint: str

    def tokens(self, text: str) -> list[str]:
        """Tokenize a text after `normal_text`."""
        return self.tokens_as_is(normal_text(text))

    def tokens_as_is(self, text: str) -> list[str]:
        """Tokenize a text without normalization."""
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
    """A Hugging Face tokenizer, stored in the cache directory under its fingerprint, for all processes.

    It gets the original text, because it has its own normalizer.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend on the content of the tokenizer, except truncation and padding,
            which are not used.
    """

    fingerprint: str

    def tokens(self, text: str) -> list[str]:
        """Tokenize a text, without unknown tokens: two texts with unknown tokens need not have a word in common."""
        tokenizer, unknown = _open(self.fingerprint)
        return [token for token in tokenizer.encode(text, add_special_tokens=False).tokens if token != unknown]


Tokenizer: TypeAlias = "Callable[[str], list[str]] | tokenizers.Tokenizer | PreTrainedTokenizerFast"


def named_tokenizer(owner: str, tokenizer: Any, name: str | None) -> FunctionTokenizer | SubwordTokenizer | None:
    """Validate the options `tokenizer` and `tokenizer_fingerprint`.

    Args:
        owner: The caller, for error messages.
        tokenizer: A function, a fast tokenizer of transformers, a `tokenizers.Tokenizer`, or an earlier return value.
        name: The fingerprint of a function.

    Raises:
        TypeError: `tokenizer` has an unsupported type.
        ValueError: A function has no name, or another tokenizer has one.
    """
    if isinstance(tokenizer, FunctionTokenizer) and name in (None, tokenizer.fingerprint):
        return tokenizer
    # Tokenizers of transformers are callable too. Slow ones are refused later, because they do not return a list.
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    is_fast = hasattr(fast, "to_str") and hasattr(fast, "no_truncation")
    if tokenizer is None or is_fast or isinstance(tokenizer, SubwordTokenizer):
        if name is not None:
            raise ValueError(
                f"{owner}: tokenizer_fingerprint is for functions, but tokenizer is not a function. Remove it: a "
                f"Hugging Face tokenizer is fingerprinted by its content."
            )
        return _saved(fast) if is_fast else tokenizer
    if not callable(tokenizer):
        raise TypeError(
            f"{owner}: tokenizer must be a function from a text to a list of tokens, a fast tokenizer of transformers "
            f"(AutoTokenizer.from_pretrained(...)) or a tokenizers.Tokenizer, got {type(tokenizer).__name__}."
        )
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{owner}: a function cannot be fingerprinted from its code. Pass tokenizer_fingerprint='...', for example "
            f"the name and version of a library, and change it whenever the tokens change."
        )
    return FunctionTokenizer(tokenizer, name)


def _saved(fast: tokenizers.Tokenizer) -> SubwordTokenizer:
    described = json.loads(fast.to_str()) | {"truncation": None, "padding": None}
    name = fingerprint({"kind": "tokenizer", "content": described})

    def save(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")

    build_once(cache_root() / "tokenizers", name, save, About("tokenizers", "BM25Index", described["model"]["type"]))
    return SubwordTokenizer(name)


_OPENED: Opened[tuple[Any, str | None]] = Opened()


def _open(name: str) -> tuple[Any, str | None]:
    def opened() -> tuple[Any, str | None]:
        from tokenizers import Tokenizer

        file = cache_root() / "tokenizers" / name / _FILE
        check_complete(
            file.parent,
            f"The tokenizer {name}",
            "Recreate the BM25Index with the tokenizer. It is read from the datasets cache directory, so "
            "HF_DATASETS_CACHE must be the same folder in every process.",
        )
        model = json.loads(file.read_text(encoding="utf-8"))["model"]
        unknown = model.get("unk_token")
        if model.get("unk_id") is not None:
            unknown = model["vocab"][model["unk_id"]][0]
        return Tokenizer.from_file(str(file)), unknown

    return _OPENED.get(name, opened)
