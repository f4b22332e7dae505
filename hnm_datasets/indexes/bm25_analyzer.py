"""Tokenization for BM25: words, stemming, stop words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import bm25s.stopwords
import Stemmer

from hnm_datasets import checks
from hnm_datasets.corpus.text import normal_text
from hnm_datasets.corpus.words import compared, terms_of
from hnm_datasets.indexes.tokenizers import FunctionTokenizer, SubwordTokenizer

STOP_WORDS = {
    name.removeprefix("STOPWORDS_").lower(): name
    for name in sorted(vars(bm25s.stopwords))
    if name.startswith("STOPWORDS_") and name not in ("STOPWORDS_EN", "STOPWORDS_EN_PLUS")
} | {"english": "STOPWORDS_EN", "english_plus": "STOPWORDS_EN_PLUS"}

#: Languages by ISO 639-1 code.
_LANGUAGES = {
    "ar": "arabic",
    "ca": "catalan",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "eo": "esperanto",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "ko": "korean",
    "lt": "lithuanian",
    "nb": "norwegian",
    "ne": "nepali",
    "nl": "dutch",
    "nn": "norwegian",
    "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "st": "sesotho",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
    "zh": "chinese",
}


def language_of(owner: str, name: str, value: object, known: Sequence[str]) -> str:
    """Return the name of a language, given its name or ISO 639-1 code, ignoring case.

    Raises:
        ValueError: The language is not in `known`.
    """
    language = value.lower() if isinstance(value, str) else value
    return checks.one_of(owner, name, _LANGUAGES.get(language, language), known)  # type: ignore[call-overload]


def checked_pattern(owner: str, pattern: object, tokenizer: object) -> None:
    """Raise a ValueError if a pattern is invalid, or if there is a tokenizer too."""
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups  # type: ignore[call-overload]
    except (re.error, TypeError) as error:
        raise ValueError(f"{owner}: token_pattern is not a regular expression: {error}") from None
    if groups > 1:
        raise ValueError(
            f"{owner}: token_pattern {pattern!r} has {groups} groups, but a token is a single string. Write (?:...) "
            f"for groups that are not the token."
        )
    if tokenizer is not None:
        raise ValueError(f"{owner}: token_pattern and tokenizer both define the tokens. Pass only one of them.")


@dataclass(frozen=True)
class Analyzer:
    """The tokenization options of `BM25Index`."""

    stemmer: str | None
    stopwords: str | Sequence[str] | None
    token_pattern: str | None
    tokenizer: FunctionTokenizer | SubwordTokenizer | None

    @property
    def content(self) -> dict[str, Any]:
        """Everything that the tokens depend on, for fingerprints."""
        return {
            "stemmer": self.stemmer and [self.stemmer, Stemmer.version()],
            "stopwords": sorted(self._stop_words()),
            "pattern": self.token_pattern,
            "tokenizer": self.tokenizer and [type(self.tokenizer).__name__, self.tokenizer.fingerprint],
        }

    def words(self) -> Callable[[str], list[str]]:
        """Return the function that splits a text into words."""
        if self.tokenizer is not None:
            return self.tokenizer.tokens
        if self.token_pattern is None:
            return terms_of
        find = re.compile(self.token_pattern).findall
        return lambda text: find(normal_text(text))

    def tokens(self, words: list[str]) -> list[str]:
        """Return the token of each word; stop words become the empty token, which no text contains."""
        stop_words = self._stop_words()
        stems = words if self.stemmer is None else Stemmer.Stemmer(self.stemmer).stemWords(words)
        return ["" if compared(word) in stop_words else compared(stem) for word, stem in zip(words, stems, strict=True)]

    def tokenize(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the tokens of each text, without stop words."""
        words_of = self.words()
        found = [words_of(text) for text in texts]
        words = list(dict.fromkeys(chain.from_iterable(found)))
        token_of = dict(zip(words, self.tokens(words), strict=True))
        return [[token for word in text if (token := token_of[word])] for text in found]

    def _stop_words(self) -> frozenset[str]:
        words = self.stopwords or ()
        if isinstance(words, str):
            words = getattr(bm25s.stopwords, STOP_WORDS[words])
        return frozenset(compared(normal_text(word)) for word in words)
