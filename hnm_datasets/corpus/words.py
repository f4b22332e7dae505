"""The words of a text, in any script.

Scripts with spaces are split at the spaces. Chinese, Japanese, Thai, Lao, Khmer, Burmese and related scripts have no
spaces, and Korean joins particles to nouns. Texts in these scripts are split into overlapping pairs of characters, as
in Lucene's CJKAnalyzer, which requires no dictionary or model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from operator import add
from typing import NamedTuple

from hnm_datasets.corpus.text import normal_text

_LETTERS = re.compile(r"\w+")
#: Lowercases ASCII letters and replaces everything except letters, digits and underscores with a space.
_ASCII = bytes(ord(chr(code).lower()) if chr(code).isalnum() or code == 95 else 32 for code in range(128)).ljust(256)

_KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\U0001aff0-\U0001b16f"
#: Characters that can be words on their own: Han, Bopomofo, Yi and Hangul.
_SYLLABLES = (
    "\u3005-\u3007\u3021-\u3029\u3038-\u303c\u3105-\u312f\u31a0-\u31bf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff\ua000-\ua48c\u1100-\u11ff\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb"
)
#: The blocks of Thai, Lao, Myanmar, Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese, Javanese and Tai Viet.
_SOUTHEAST_ASIA = (
    (0x0E00, 0x0E7F),
    (0x0E80, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19DF),
    (0x1A20, 0x1AAF),
    (0x1B00, 0x1B7F),
    (0xA980, 0xA9FF),
    (0xAA60, 0xAADF),
)
#: Vowels that are written before their consonant, and letters after it that are part of its vowel.
_BEFORE = "\u0e40-\u0e44\u0ec0-\u0ec4\u19b5-\u19b7\u19ba\uaab5\uaab6\uaab9\uaabb\uaabc"
_AFTER = "\u0e30\u0e32\u0e45\u0eb0\u0eb2\u0ebd"
#: Signs that remove the vowel of a consonant, so that it ends the previous syllable.
_KILLERS = "\u0e4c\u0ecc\u103a\u17cd\u1a7a"
#: Signs that place the next consonant below the previous one.
_STACKERS = "\u1039\u17d2\u1a60\u1b44\ua9c0"
_ZERO_WIDTH_SPACE = "\u200b"


class _Patterns(NamedTuple):
    """Regular expressions, compiled on first use because they need the categories of all characters.

    Attributes:
        special: A character that needs special treatment: a mark, or a character of a script without spaces.
        word: A word of a script with spaces, including its marks.
        run: A run of a script without spaces, as a group.
        syllable: A character that can be a word on its own.
        stacked: A character of a script that writes vowels and signs around a consonant.
        cluster: A consonant, the signs around it, and the consonants that end its syllable.
    """

    special: re.Pattern[str]
    word: re.Pattern[str]
    run: re.Pattern[str]
    syllable: re.Pattern[str]
    stacked: re.Pattern[str]
    cluster: re.Pattern[str]


@cache
def _patterns() -> _Patterns:
    codes = [code for code in range(0x300, 0x1F000) if unicodedata.category(chr(code))[0] == "M"]
    # A regular expression matches the first 65,536 characters by table, and ranges above them one by one.
    marks, low = _class_of(codes), _class_of(code for code in codes if code < 0x10000)
    voiced = _class_of(code for code in codes if code < 0x10000 and chr(code) not in _KILLERS)
    # Digits of these scripts are words like other numbers, so they are not included.
    blocks = (code for first, last in _SOUTHEAST_ASIA for code in range(first, last + 1))
    stacked = _class_of(code for code in blocks if unicodedata.category(chr(code))[0] in "LM")
    unspaced = _KANA + _SYLLABLES + stacked
    return _Patterns(
        special=re.compile(f"[{low}{unspaced}\U00010000-\U0010ffff]"),
        word=re.compile(rf"\w+(?:[{marks}]+\w*)*"),
        run=re.compile(f"([{unspaced}][{unspaced}{marks}{_ZERO_WIDTH_SPACE}]*)"),
        syllable=re.compile(f"[{_SYLLABLES}]"),
        stacked=re.compile(f"[{stacked}]"),
        cluster=re.compile(
            f"[{_BEFORE}]?[^{low}][{low}]*(?:(?<=[{_STACKERS}])[^{low}][{low}]*)*[{_AFTER}]*"
            f"(?:[^{low}][{voiced}]*[{_KILLERS}](?![{_STACKERS}])[{low}]*)*|[{low}]+"
        ),
    )


def _class_of(codes: Iterable[int]) -> str:
    """Return ascending code points as the ranges of a character class."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def words_of(text: str) -> list[str]:
    """Return the normalized words of a text in order. Scripts without spaces give pairs of adjacent characters.

    A word is a run of letters, digits, underscores and their marks.

    Example:
        >>> words_of("The Naïve plate,")
        ['the', 'naïve', 'plate']
        >>> words_of("दिल्ली BERT模型的")
        ['दिल्ली', 'bert', '模型', '型的']
    """
    if text.isascii():
        return _ascii_words(text)
    text, patterns = normal_text(text), _patterns()
    if not patterns.special.search(text):
        return _LETTERS.findall(text)
    words: list[str] = []
    # The split alternates between scripts with spaces and scripts without.
    for number, part in enumerate(patterns.run.split(text)):
        words += _pairs(_characters(part)) if number % 2 else patterns.word.findall(part)
    return words


def terms_of(text: str) -> list[str]:
    """Return the search terms of a text: its words, except single Latin letters and single digits.

    In scripts without spaces, single characters that can be words on their own are terms in addition to the pairs, so
    that a search finds words of one character. These are Chinese and Korean characters, and any with a vowel sign.

    Example:
        >>> terms_of("A plate moves 3 cm")
        ['plate', 'moves', 'cm']
        >>> terms_of("猫が好き")
        ['猫が', 'が好', '好き', '猫', '好']
    """
    if text.isascii():
        return [word for word in _ascii_words(text) if len(word) > 1]
    text, patterns = normal_text(text), _patterns()
    if not patterns.special.search(text):
        return [word for word in _LETTERS.findall(text) if len(word) > 1 or _is_word(word)]
    terms: list[str] = []
    for number, part in enumerate(patterns.run.split(text)):
        if number % 2:
            characters = _characters(part)
            terms += _pairs(characters)
            if len(characters) > 1:
                terms += patterns.syllable.findall(part)
                if len(characters) < len(part):
                    terms += [character for character in characters if len(character) > 1]
        else:
            terms += [word for word in patterns.word.findall(part) if len(word) > 1 or _is_word(word)]
    return terms


def compared(word: str) -> str:
    """Return the form of a word that comparisons use: the Turkish dotless i becomes i.

    Dotless i is the Turkish lowercase of I, and case folding maps I to i. Stemmers get the unchanged word.
    """
    return word if word.isascii() else word.replace("\u0131", "i")


def _ascii_words(text: str) -> list[str]:
    return text.encode().translate(_ASCII).decode().split()


def _characters(run: str) -> Sequence[str]:
    """Split a run of a script without spaces into user-perceived characters."""
    # A zero-width space marks a line-break opportunity. Few writers use it, so words must not depend on it.
    run, patterns = run.replace(_ZERO_WIDTH_SPACE, ""), _patterns()
    return patterns.cluster.findall(run) if patterns.stacked.search(run) else run


def _pairs(characters: Sequence[str]) -> list[str]:
    return list(map(add, characters, characters[1:])) if len(characters) > 1 else list(characters)


@lru_cache(4096)
def _is_word(letter: str) -> bool:
    """Return whether a single letter of a script with spaces is a term. Latin letters and digits are too common."""
    return unicodedata.category(letter)[0] == "L" and not unicodedata.name(letter, "").startswith("LATIN")
