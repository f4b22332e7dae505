"""Names made of content: the same for the same content, wherever and however it comes, and another for any other."""

import itertools
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets.storage.digests import (
    ColumnsHasher,
    digest_slices,
    digest_strings,
    distinct_digests,
    fingerprint,
    hexadecimals,
)

TEXTS = st.lists(st.text(max_size=12), max_size=20)

# ---- digests of strings ----------------------------------------------------------------------------------------------


@given(TEXTS)
def test_digests_are_those_of_xxh3(texts):
    found = digest_strings(texts)
    assert found.shape == (len(texts), 2)
    assert found.dtype == np.uint64
    assert [int(high) << 64 | int(low) for high, low in found] == [
        xxhash.xxh3_128_intdigest(text.encode()) for text in texts
    ]


@given(TEXTS)
def test_equal_strings_alone_have_equal_digests(texts):
    assert len(np.unique(digest_strings(texts), axis=0)) == len(set(texts))


def test_digests_are_the_same_in_every_process():
    code = "from hnm_datasets.storage.digests import *; print(digest_strings(iter(['plate', 'wäve', ''])).tolist())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(digest_strings(["plate", "wäve", ""]).tolist())
    assert digest_strings(["plate"])[0, 0] == 4867398598950213145


@given(TEXTS)
def test_slices_of_bytes_have_the_digests_of_their_strings(texts):
    parts = [text.encode() for text in texts]
    data = np.frombuffer(b"".join(parts), dtype=np.uint8)
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    assert digest_slices(data, ends).tolist() == digest_strings(texts).tolist()


# ---- configurations --------------------------------------------------------------------------------------------------


def test_a_configuration_is_named_by_its_content():
    name = fingerprint({"k1": 1.5, "b": 0.75, "options": {"x": [1, "ä"], "y": None}})
    assert len(name) == 32
    assert set(name) <= set("0123456789abcdef")
    assert fingerprint({"options": {"y": None, "x": [1, "ä"]}, "b": 0.75, "k1": 1.5}) == name


def test_names_do_not_change_from_version_to_version():
    # Everybody's cache is named by them.
    assert fingerprint({"b": 0.75, "a": "ä"}) == xxhash.xxh3_128_hexdigest('{"a": "ä", "b": 0.75}'.encode())


def test_other_content_has_another_name():
    configurations = [
        {},
        {"a": 1},
        {"a": "1"},
        {"a": 1.5},
        {"a": True},
        {"a": None},
        {"a": [1, 2]},
        {"a": [2, 1]},
        {"a": {"b": 1}},
        {"b": 1},
        {"a": 1, "b": 1},
    ]
    assert len({fingerprint(one) for one in configurations}) == len(configurations)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        fingerprint({"a": value})


def test_what_json_does_not_hold_is_refused():
    with pytest.raises(TypeError, match="not JSON serializable"):
        fingerprint({"a": {1, 2}})


# ---- columns ---------------------------------------------------------------------------------------------------------


def digests_of(*chunks, kind=None, names=("id", "text")):
    hasher = ColumnsHasher(names)
    for chunk in chunks:
        for name, strings in chunk.items():
            hasher.update(name, pa.array(strings, kind or pa.string()))
    return hasher.digests()


@given(TEXTS, st.lists(st.integers(0, 20), max_size=4), st.sampled_from([pa.string(), pa.large_string()]))
def test_how_columns_are_cut_does_not_matter(texts, cuts, kind):
    bounds = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    hasher = ColumnsHasher(["text"])
    for start, stop in itertools.pairwise(bounds):
        # As a part of an array and as an array of its own.
        hasher.update("text", pa.array(texts, kind).slice(start, stop - start))
    whole = digests_of({"text": texts}, names=["text"])
    assert hasher.digests() == whole
    apart = [{"text": texts[start:stop]} for start, stop in itertools.pairwise(bounds)]
    assert digests_of(*apart, kind=kind, names=["text"]) == whole


@given(TEXTS, TEXTS)
def test_other_texts_have_other_digests(texts, others):
    same = digests_of({"text": texts}, names=["text"]) == digests_of({"text": others}, names=["text"])
    assert same == (texts == others)


@pytest.mark.parametrize("others", [["a", "bc"], ["", "abc"], ["abc"], ["abc", ""], ["ab", "c", ""], ["c", "ab"]])
def test_a_letter_that_moves_to_the_next_row_changes_the_digest(others):
    assert digests_of({"text": ["ab", "c"]}) != digests_of({"text": others})


def test_columns_are_hashed_apart():
    digests = digests_of({"id": ["a", "b"], "text": ["one", "two"]})
    assert list(digests) == ["id", "text"]
    assert digests["id"] != digests["text"]
    changed = digests_of({"id": ["a", "b"], "text": ["one", "three"]})
    assert changed["id"] == digests["id"]
    assert changed["text"] != digests["text"]
    # In whatever order the columns come.
    assert digests_of({"text": ["one", "two"]}, {"id": ["a", "b"]}) == digests
    assert digests_of({}) == digests_of({"id": [], "text": []})


def test_distinct_digests_are_those_of_both_numbers_in_the_order_in_which_they_come():
    # Some share the first 64 bits, some the others.
    digests = np.random.default_rng(0).integers(0, 3, (200, 2)).astype(np.uint64)
    first, numbers = distinct_digests(digests)
    assert (digests[first][numbers] == digests).all()
    assert len(first) == len(set(map(tuple, digests.tolist())))
    assert first.tolist() == [digests.tolist().index(digests[place].tolist()) for place in first]
    assert (np.diff(first) > 0).all()


def test_hexadecimals_are_those_of_python():
    numbers = np.array([0, 1, 2**64 - 1, 0xABCDEF], dtype=np.uint64)
    assert hexadecimals(numbers).to_pylist() == [f"{number:016x}" for number in numbers.tolist()]
    assert len(hexadecimals(numbers[:0])) == 0
