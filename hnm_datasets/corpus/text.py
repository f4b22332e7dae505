"""The text of a passage, and text normalization for comparisons."""

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

#: Characters to remove. First, invisible characters (Unicode's Default_Ignorable_Code_Point): joiners, soft hyphens,
#: direction marks and variation selectors, but not the zero-width space, which separates words. Second, characters that
#: most writers omit: Hebrew and Arabic vowel points, the Arabic tatweel, and Armenian intonation marks, which occur
#: inside words.
_IGNORED = re.compile(
    "[\u055b\u055c\u055e\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)


def passage_texts(titles: pa.Array | None, texts: pa.Array) -> pa.Array:
    """Join each title and text with a space, as BEIR does. Without a title, return the text.

    Args:
        titles: Shape (N,), an empty string for a passage without a title; None if the corpus has no titles.
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
    """Return whether each text is empty or whitespace. Shape (B,) → (B,), null for null.

    Example:
        >>> is_blank(pa.array(["", "  ", "a "])).to_pylist()
        [True, True, False]
    """
    # The regular expression stops at the first letter; trimming would copy every text.
    return pc.match_substring_regex(texts, r"^[\t-\r\x1c-\x20\x{85}\p{Z}]*$")


def normal_text(text: str) -> str:
    """Normalize case and Unicode form. All comparisons of texts and words use this form.

    This is Unicode's NFKC_Casefold with three changes: the Turkish İ becomes a plain i, without a combining dot; signs
    such as ™ become a space, because NFKC would append letters to the word before; and Hebrew and Arabic lose their
    vowel points, which most writers omit.

    Example:
        >>> normal_text("Straße in İstanbul, ﬁne")
        'strasse in istanbul, fine'
    """
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text.replace("\u2122", " ").replace("\u2120", " ")).casefold()
    # Case folding can produce character sequences that NFKC composes.
    return unicodedata.normalize("NFKC", _IGNORED.sub("", text).replace("i\u0307", "i"))


def normalized_digests(texts: pa.Array | Sequence[str]) -> NDArray[np.uint64]:
    """Hash texts after normalization: texts that differ only in Unicode form, case or whitespace have equal digests.

    See `normal_text` for the normalization.

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
    # The compiled loop for ASCII is twenty times as fast as Python's str methods.
    folded = np.empty(starts[-1] - starts[0], dtype=np.uint8)
    ends, is_ascii = np.empty(len(texts), dtype=np.int64), np.empty(len(texts), dtype=bool)
    fold_ascii(data, starts, folded, ends, is_ascii)
    digests = digest_slices(folded, ends)
    if not is_ascii.all():
        others = texts.filter(pa.array(~is_ascii)).to_pylist()
        digests[~is_ascii] = digest_strings(" ".join(normal_text(text).split()) for text in others)
    return digests
