"""When two texts are the same."""

import unicodedata

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.corpus.text import normalized_digests
from hnm_datasets.storage.digests import digest_strings


def slowly(texts):
    return digest_strings([" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts])


LETTERS = st.characters(max_codepoint=127) | st.characters()


@given(st.lists(st.text(LETTERS) | st.text(st.sampled_from(" \t\n\x1c\x1f\x85\u00a0aAzZ[`{@")), max_size=20))
def test_texts_are_normalized_as_by_python(texts):
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    np.testing.assert_array_equal(normalized_digests(texts), slowly(texts), strict=True)


def test_arrays_of_any_kind_and_slices_of_them():
    texts = ["Plates  move ", "", "ÄRGER", " x", "ﬁne", "\x00 A"]
    for kind in (pa.string(), pa.large_string()):
        array = pa.array(["before", *texts, "after"], kind)
        np.testing.assert_array_equal(normalized_digests(array.slice(1, len(texts))), slowly(texts))
    assert normalized_digests(pa.array([], pa.string())).shape == (0, 2)
    np.testing.assert_array_equal(normalized_digests([""]), slowly([""]))
