"""The tokenization of an index that bm25s built, from its saved files or from options."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import bm25s
import Stemmer
from bm25s.tokenization import Tokenizer as Bm25sTokenizer

from hnm_datasets.indexes.bm25_analyzer import STOP_WORDS, Analyzer
from hnm_datasets.indexes.tokenizers import FunctionTokenizer, SubwordTokenizer, Tokenizer
from hnm_datasets.storage.json_values import typed

#: The default pattern of `bm25s.tokenize`.
_PATTERN = r"(?u)\b\w\w+\b"
#: The files that `bm25s.tokenization.Tokenizer` saves.
_STOP_WORDS, _STEMS = "stopwords.tokenizer.json", "vocab.tokenizer.json"
TOKENIZER_FILES = (_STOP_WORDS, _STEMS)
#: The number of words whose stems are compared to identify the language of a stemmer.
_WORDS = 20_000


class TokenOptions(TypedDict, total=False):
    """The options of `BM25Index.from_bm25s`."""

    stemmer: str | None
    stopwords: str | Sequence[str] | None
    token_pattern: str | None
    tokenizer: Tokenizer | Bm25sTokenizer | FunctionTokenizer | SubwordTokenizer | None
    tokenizer_fingerprint: str | None


@dataclass(frozen=True)
class Bm25sAnalyzer(Analyzer):
    """Tokenizes like `bm25s.tokenize`: lowercase words, without stop words, stemmed."""

    @property
    def content(self) -> dict[str, Any]:
        """Everything that the tokens depend on, for fingerprints."""
        return super().content | {"as": "bm25s"}

    def words(self) -> Callable[[str], list[str]]:
        """Return the function that splits a text into words."""
        if isinstance(self.tokenizer, FunctionTokenizer):
            return self.tokenizer.tokens_as_is
        if self.tokenizer is not None:
            return self.tokenizer.tokens
        find = re.compile(self.token_pattern or _PATTERN).findall
        return lambda text: find(text.lower())

    def tokens(self, words: list[str]) -> list[str]:
        """Return the token of each word; stop words become the empty token."""
        stop_words = self._stop_words()
        stems = words if self.stemmer is None else Stemmer.Stemmer(self.stemmer).stemWords(words)
        return ["" if word in stop_words else stem for word, stem in zip(words, stems, strict=True)]

    def _stop_words(self) -> frozenset[str]:
        words = self.stopwords or ()
        return frozenset(getattr(bm25s.stopwords, STOP_WORDS[words]) if isinstance(words, str) else words)


@dataclass(frozen=True)
class _Pipeline:
    """The full pipeline of a bm25s tokenizer as a function."""

    lower: bool
    splitter: Callable[[str], list[str]]
    stop_words: frozenset[str]
    stemmer: Callable[[str], str] | None

    def __call__(self, text: str) -> list[str]:
        words = self.splitter(text.lower() if self.lower else text)
        kept = [word for word in words if word not in self.stop_words]
        return kept if self.stemmer is None else list(map(self.stemmer, kept))


def token_options(owner: str, given: TokenOptions, folder: Path | None, texts: Sequence[str]) -> TokenOptions:
    """Return the options of `BM25Index` that reproduce the tokens of an index.

    Args:
        owner: The caller, for error messages.
        given: The options of the user. They override the saved ones.
        folder: The folder where a `bm25s.tokenization.Tokenizer` may have saved its vocabulary and stop words.
        texts: Sample passages to identify the language of a stemmer.

    Raises:
        TypeError: An option is unknown.
        ValueError: A bm25s tokenizer cannot be described by options, or its saved files cannot be read.
    """
    if unknown := sorted(given.keys() - TokenOptions.__annotations__.keys()):
        raise TypeError(
            f"{owner}: unknown option {unknown[0]!r}. The options are {', '.join(TokenOptions.__annotations__)}. The "
            f"formula is that of the index."
        )
    tokenizer = given.get("tokenizer")
    if isinstance(tokenizer, Bm25sTokenizer):
        if others := sorted(given.keys() - {"tokenizer", "tokenizer_fingerprint"}):
            raise ValueError(f"{owner}: remove {', '.join(others)}: the bm25s tokenizer already sets all options.")
        return _options_of(owner, tokenizer, given.get("tokenizer_fingerprint"), texts)
    found = TokenOptions(stemmer=None, stopwords=None)
    if tokenizer is None:
        found.update({"stopwords": "english", "token_pattern": _PATTERN})
    if folder is not None:
        found.update(_saved_options(owner, folder))
    found.update(given)
    return found


def _saved_options(owner: str, folder: Path) -> TokenOptions:
    """Return the options of a saved bm25s tokenizer: its stop words, and the stemmer inferred from its stems."""
    found = TokenOptions()
    for name in TOKENIZER_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_bytes())
            if name == _STOP_WORDS:
                found["stopwords"] = _named_list(typed(list[str], content, "stopwords"))
            else:
                stems = typed(dict[str, str], dict(content).get("word_to_stem"), "word_to_stem")
                found["stemmer"] = _language_of(list(stems), list(stems.values()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{owner}: {path} is not a file of a bm25s tokenizer: {error}.") from None
    return found


def _options_of(owner: str, tokenizer: Bm25sTokenizer, name: str | None, texts: Sequence[str]) -> TokenOptions:
    """Return the options that reproduce a bm25s tokenizer. With a fingerprint, the whole tokenizer is one function."""
    if name is not None:
        stop_words = frozenset(tokenizer.stopwords)
        function = _Pipeline(tokenizer.lower, tokenizer.splitter, stop_words, tokenizer.stemmer)
        return TokenOptions(tokenizer=FunctionTokenizer(function, name), stemmer=None, stopwords=None)
    find = tokenizer.splitter
    pattern: Any = getattr(find, "__self__", None)
    is_plain = isinstance(pattern, re.Pattern) and pattern.findall == find and pattern == re.compile(pattern.pattern)
    language = None
    if is_plain and tokenizer.stemmer is not None:
        words = list({word: 0 for text in texts for word in find(text.lower() if tokenizer.lower else text)})
        language = _language_of(words, list(map(tokenizer.stemmer, words)))
    if not is_plain or (language is None) != (tokenizer.stemmer is None):
        raise ValueError(
            f"{owner}: the tokenizer splits or stems with a custom function, which cannot be fingerprinted from its "
            f"code. Pass tokenizer_fingerprint='...', and change this name whenever the tokens change."
        )
    found = TokenOptions(stemmer=language, stopwords=_named_list(tokenizer.stopwords))
    if tokenizer.lower:
        found["token_pattern"] = pattern.pattern
    else:
        found["tokenizer"] = FunctionTokenizer(find, f"{pattern.pattern}, as it is")
    return found


def _language_of(words: list[str], stems: list[str]) -> str | None:
    """Return the Snowball stemmer that produces these stems; None if there are no words or no stemmer matches."""
    words, stems = words[:_WORDS], stems[:_WORDS]
    # English first: on few words several stemmers give the same stems.
    for language in sorted(Stemmer.algorithms(), key=lambda name: name != "english") if words else ():
        if Stemmer.Stemmer(language).stemWords(words) == stems:
            return str(language)
    return None


def _named_list(words: Sequence[str]) -> str | Sequence[str] | None:
    """Return the name of a bm25s stop-word list, or the words if it is another list."""
    names = (name for name, own in STOP_WORDS.items() if list(getattr(bm25s.stopwords, own)) == list(words))
    return next(names, words) if words else None
