"""The words of a text, in any script.

Scripts that put spaces between words are cut there. Chinese, Japanese, Thai, Lao, Khmer, Burmese and their relatives
have none, and Korean joins particles to nouns: these are cut into overlapping pairs of characters, as Lucene's
CJKAnalyzer does, which needs no dictionary and no model.
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
#: Lower case for ASCII, and a space for whatever is neither letter, digit nor underscore.
_ASCII = bytes(ord(chr(code).lower()) if chr(code).isalnum() or code == 95 else 32 for code in range(128)).ljust(256)

_KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\U0001aff0-\U0001b16f"
#: Each of these characters means something by itself: Han, Bopomofo, Yi and Hangul.
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
#: Vowels that are written before their consonant, and letters that are written after it as a part of its vowel.
_BEFORE = "\u0e40-\u0e44\u0ec0-\u0ec4\u19b5-\u19b7\u19ba\uaab5\uaab6\uaab9\uaabb\uaabc"
_AFTER = "\u0e30\u0e32\u0e45\u0eb0\u0eb2\u0ebd"
#: The consonant with one of these has no vowel: it ends the syllable before it.
_KILLERS = "\u0e4c\u0ecc\u103a\u17cd\u1a7a"
#: The next consonant is written below the one before.
_STACKERS = "\u1039\u17d2\u1a60\u1b44\ua9c0"
_ZERO_WIDTH_SPACE = "\u200b"


class _Patterns(NamedTuple):
    """Compiled on first use, because they need the categories of all characters.

    Attributes:
        special: A character that a word is not simply made of: a mark, or one of a script without spaces.
        word: A word of a script with spaces, its marks included.
        run: A stretch of a script without spaces, as a group.
        syllable: A character that means something by itself.
        stacked: A character of a script whose characters are written around a consonant.
        cluster: A consonant, what is written around it, and consonants that end its syllable.
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
    # A regular expression looks up the first 65,536 characters at once, and tries the ranges above one after another.
    marks, low = _class_of(codes), _class_of(code for code in codes if code < 0x10000)
    voiced = _class_of(code for code in codes if code < 0x10000 and chr(code) not in _KILLERS)
    # Their digits are words like other numbers.
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
    """Write code points, ascending, as the ranges of a character class."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


def words_of(text: str) -> list[str]:
    """Return the words of a text in order, normalized; a script without spaces gives pairs of neighboring characters.

    A word is a run of letters, digits and underscores with their marks.

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
    # Stretches with spaces and without take turns.
    for place, part in enumerate(patterns.run.split(text)):
        words += _pairs(_characters(part)) if place % 2 else patterns.word.findall(part)
    return words


def terms_of(text: str) -> list[str]:
    """Return what is searched of a text: its words, but for single Latin letters and digits, and single characters.

    In a script without spaces, characters that mean something by themselves are terms beside the pairs, so that a word
    of one character is found: those of Chinese and Korean, and whatever has a vowel sign.

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
    for place, part in enumerate(patterns.run.split(text)):
        if place % 2:
            characters = _characters(part)
            terms += _pairs(characters)
            if len(characters) > 1:
                terms += patterns.syllable.findall(part)
                if len(characters) < len(part):
                    terms += [one for one in characters if len(one) > 1]
        else:
            terms += [word for word in patterns.word.findall(part) if len(word) > 1 or _is_word(word)]
    return terms


def compared(word: str) -> str:
    """Return a word as it is compared with others: the Turkish dotless i is an i.

    It is the small letter of I, which case folding makes an i. Stemmers get the word as it is.
    """
    return word if word.isascii() else word.replace("\u0131", "i")


def _ascii_words(text: str) -> list[str]:
    return text.encode().translate(_ASCII).decode().split()


def _characters(run: str) -> Sequence[str]:
    """Cut a run of a script without spaces into the characters that readers see."""
    # A zero-width space shows where a line may end, and few writers set it.
    run, patterns = run.replace(_ZERO_WIDTH_SPACE, ""), _patterns()
    return patterns.cluster.findall(run) if patterns.stacked.search(run) else run


def _pairs(characters: Sequence[str]) -> list[str]:
    return list(map(add, characters, characters[1:])) if len(characters) > 1 else list(characters)


@lru_cache(4096)
def _is_word(letter: str) -> bool:
    """Tell whether a letter of a script with spaces can be a word; those of Latin and digits are too common."""
    return unicodedata.category(letter)[0] == "L" and not unicodedata.name(letter, "").startswith("LATIN")
