"""Words in any script."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from languages import LANGUAGES

from hnm_datasets import load_sample
from hnm_datasets.corpus.text import normal_text
from hnm_datasets.corpus.words import terms_of, words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n!?", []),
        ("The plate's snake_case, 3.5 x", ["the", "plate", "s", "snake_case", "3", "5", "x"]),
        ("Čeština naïve\u0301", ["čeština", "naïvé"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("السَّلام ﷲ", ["السلام", "الله"]),
        ("猫", ["猫"]),
        ("我的猫，很好。", ["我的", "的猫", "很好"]),
        ("東京タワー・A1", ["東京", "京タ", "タワ", "ワー", "a1"]),
        ("2024年3月", ["2024", "年", "3", "月"]),
        ("지진은 물", ["지진", "진은", "물"]),
        ("น้ำดี", ["น้ํา" + "ดี"]),
        ("เกาะไทย", ["เกาะไท", "ไทย"]),
        ("ស្រី​ខ្មែរ", ["ស្រីខ្មែ", "ខ្មែរ"]),
        ("မြန်မာ", ["မြန်မာ"]),
        ("အင်္ဂလိပ်စာ", ["အင်္ဂ", "င်္ဂလိပ်", "လိပ်စာ"]),
        ("ศุกร์นี้", ["ศุกร์", "กร์นี้"]),
        ("ປີ໒໐", ["ປີ", "໒໐"]),
        ("བོད་སྐད།", ["བོད", "སྐད"]),
        ("\u0301abc \u0e34", ["abc", "\u0e34"]),
        ("😀 ok", ["ok"]),
        ("𠮷野家", ["𠮷野", "野家"]),
        ("𞤀𞤣𞤤𞤢𞤥", ["𞤢𞤣𞤤𞤢𞤥"]),
    ],
)
def test_words(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("A plate moves 3 cm", ["plate", "moves", "cm"]),
        ("à la 3 é x", ["la"]),
        ("β ש я ሰ 3 ٣", ["β", "ש", "я", "ሰ"]),
        ("猫", ["猫"]),
        ("の", ["の"]),
        ("我的猫", ["我的", "的猫", "我", "的", "猫"]),
        ("猫が好き", ["猫が", "が好", "好き", "猫", "好"]),
        ("물은", ["물은", "물", "은"]),
        ("งูกัด", ["งูกั", "กัด", "งู", "กั"]),
    ],
)
def test_terms(text, terms):
    assert terms_of(text) == terms


def test_english_terms_are_those_of_bm25s():
    corpus, rows = load_sample()
    find = re.compile(r"(?u)\b\w\w+\b").findall
    texts = [*rows["query"], *(text for chunk in corpus.iter_texts() for text in chunk.to_pylist())]
    plain = [text for text in texts if text.isascii()]
    assert len(plain) > 0.99 * len(texts)
    assert [terms_of(text) for text in plain] == [find(text.lower()) for text in plain]


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_cut_as_by_a_regular_expression(text):
    assert words_of(text) == re.findall(r"\w+", text.lower())


ALL = "".join(language.holds + language.query for language in LANGUAGES.values())
TEXTS = st.text(st.sampled_from(ALL) | st.sampled_from(" 。aÀ\u0301\u200b\u200d7"), max_size=30) | st.text(max_size=20)


@given(TEXTS)
def test_words_are_normal_and_whole(text):
    words, terms = words_of(text), terms_of(text)
    assert all(words)
    assert all(terms)
    joined = "".join(words)
    assert not re.search(r"\s", joined)
    assert "\u200b" not in joined
    # Every letter and digit is in some word, and nothing else starts one.
    letters = {letter for letter in normal_text(text) if letter.isalnum()}
    assert letters <= set(joined)
    assert set(joined) <= set(normal_text(text))


@given(TEXTS, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_words_do_not_depend_on_the_form(text, form):
    text = text.replace("™", "").replace("℠", "")  # in other forms they are letters
    assert words_of(unicodedata.normalize(form, text)) == words_of(text)
    assert terms_of(unicodedata.normalize(form, text)) == terms_of(text)


@given(TEXTS, TEXTS)
def test_a_full_stop_changes_nothing(text, other):
    for stop in (".", "。", "।", "،", "။", "។", " "):
        assert words_of(text + stop) == words_of(text)
        assert words_of(text + stop + " " + other) == words_of(text) + words_of(" " + other)
