"""When two texts are the same."""

import unicodedata

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.corpus.text import normal_text, normalized_digests
from hnm_datasets.storage.digests import digest_strings


def slowly(texts):
    return digest_strings([" ".join(normal_text(text).split()) for text in texts])


LETTERS = st.characters(max_codepoint=127) | st.characters()


@given(st.lists(st.text(LETTERS) | st.text(st.sampled_from(" \t\n\x1c\x1f\x85\u00a0aAzZ[`{@")), max_size=20))
def test_texts_are_normalized_as_by_python(texts):
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    np.testing.assert_array_equal(normalized_digests(texts), slowly(texts), strict=True)


def test_no_character_depends_on_case_and_form():
    """All that Unicode has: the texts that mean the same have the same normal form, and it is normal itself."""
    dotless, title = "\u0131", {"\u1fb7", "\u1fc7", "\u1ff7"}
    for code in range(0x20000):
        if 0xD800 <= code < 0xE000:
            continue
        letter = chr(code)
        normal = normal_text(letter)
        forms = {unicodedata.normalize(form, letter) for form in ("NFC", "NFD", "NFKC", "NFKD")}
        forms |= {normal, letter.lower()} | ({letter.upper()} - ({"I"} if letter == dotless else set()))
        if letter not in title:  # their title case is written with another mark
            forms.add(letter.title() if letter != dotless else letter)
        if code in (0x2120, 0x2122):
            forms = {letter}  # ™ and ℠ become a space and not letters
        assert {normal_text(form) for form in forms} == {normal}, hex(code)


def test_what_cannot_be_seen_is_left_out():
    for code in (0xAD, 0x200C, 0x200D, 0x200E, 0x2060, 0xFE0F, 0xFEFF, 0xE0101):
        assert normal_text(f"Är{chr(code)}ger") == "ärger", hex(code)
    assert normal_text("a\u200bb") == "a\u200bb"
    assert normal_text("السَّلَامُ") == normal_text("الســـلام") == "السلام"
    assert normal_text("שָׁלוֹם") == normal_text("\ufb2aלום") == "שלום"
    assert normal_text("Ինչո՞ւ") == "ինչու"
    assert normal_text("Windows™") == "windows "


def test_arrays_of_any_kind_and_slices_of_them():
    texts = ["Plates  move ", "", "ÄRGER", " x", "ﬁne", "\x00 A"]
    for kind in (pa.string(), pa.large_string()):
        array = pa.array(["before", *texts, "after"], kind)
        np.testing.assert_array_equal(normalized_digests(array.slice(1, len(texts))), slowly(texts))
    assert normalized_digests(pa.array([], pa.string())).shape == (0, 2)
    np.testing.assert_array_equal(normalized_digests([""]), slowly([""]))
