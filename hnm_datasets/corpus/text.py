"""How passages become text, and when two texts are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hnm_datasets.arrays.arrow import string_buffers
from hnm_datasets.corpus.text_kernels import fold_ascii
from hnm_datasets.storage.digests import digest_slices, digest_strings

#: What is left out. Characters that are invisible and mean nothing (Unicode's Default_Ignorable_Code_Point): joiners,
#: soft hyphens, marks of direction, selectors of variants; the zero-width space is not among them, because it separates
#: words. And what most writers leave out: the points of Hebrew and Arabic, the Arabic tatweel, and the Armenian marks
#: of intonation, which stand inside of words.
_IGNORED = re.compile(
    "[\u055b\u055c\u055e\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)


def passage_texts(titles: pa.Array | None, texts: pa.Array) -> pa.Array:
    """Join each title and text by a space, as BEIR does; a passage without a title is its text.

    Args:
        titles: Shape (N,), empty strings where a passage has no title; None if no passage has one.
        texts: Shape (N,).

    Returns:
        Shape (N,).

    Example:
        >>> passage_texts(pa.array(["Plates", ""]), pa.array(["They move.", "They collide."])).to_pylist()
        ['Plates They move.', 'They collide.']
    """
    if titles is None:
        return texts
    titles, texts = titles.cast(pa.large_string()), texts.cast(pa.large_string())
    glue = pc.if_else(pc.or_(pc.equal(titles, ""), pc.equal(texts, "")), "", " ").cast(pa.large_string())
    return pc.binary_join_element_wise(titles, texts, glue)


def is_blank(texts: pa.Array) -> pa.Array:
    """Tell which texts are empty or nothing but white space. Shape (B,) → (B,), null for null.

    Example:
        >>> is_blank(pa.array(["", "  ", "a "])).to_pylist()
        [True, True, False]
    """
    # A regular expression stops at the first letter; trimming would copy every text.
    return pc.match_substring_regex(texts, r"^[\t-\r\x1c-\x20\x{85}\p{Z}]*$")


def normal_text(text: str) -> str:
    """Return a text without differences of case and Unicode form: what is compared wherever texts or words are.

    That is Unicode's NFKC_Casefold, with three changes: the Turkish İ becomes i without a dot above; signs such as ™
    become a space, where NFKC would add letters to the word before; and Hebrew and Arabic lose their points, which most
    writers leave out.

    Example:
        >>> normal_text("Straße in İstanbul, ﬁne")
        'strasse in istanbul, fine'
    """
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text.replace("\u2122", " ").replace("\u2120", " ")).casefold()
    # Case folding can leave characters apart that have a form together.
    return unicodedata.normalize("NFKC", _IGNORED.sub("", text).replace("i\u0307", "i"))


def normalized_digests(texts: pa.Array | Sequence[str]) -> NDArray[np.uint64]:
    """Hash texts so that texts which differ only in Unicode form, case or white space have equal digests.

    Case and form are those of `normal_text`.

    Args:
        texts: B texts.

    Returns:
        Digests of shape (B, 2).

    Example:
        >>> a, b, c = normalized_digests(["Tectonic  plates", "tectonic plates", "plate tectonics"])
        >>> (a == b).all(), (a == c).all()
        (np.True_, np.False_)
    """
    if not isinstance(texts, pa.Array):
        texts = pa.array(texts, pa.large_string())
    if not len(texts):
        return np.empty((0, 2), dtype=np.uint64)
    starts, data = string_buffers(texts)
    # For ASCII, Python's str methods would take twenty times as long.
    folded = np.empty(starts[-1] - starts[0], dtype=np.uint8)
    ends, is_ascii = np.empty(len(texts), dtype=np.int64), np.empty(len(texts), dtype=bool)
    fold_ascii(data, starts, folded, ends, is_ascii)
    digests = digest_slices(folded, ends)
    if not is_ascii.all():
        others = texts.filter(pa.array(~is_ascii)).to_pylist()
        digests[~is_ascii] = digest_strings(" ".join(normal_text(text).split()) for text in others)
    return digests
