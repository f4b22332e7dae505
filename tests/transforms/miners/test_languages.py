"""BM25 in every script: by default, the passage that shares the query's word is mined first."""

import logging
import unicodedata

import pytest
from datasets import Dataset
from languages import LANGUAGES, SINGLE

from hnm_datasets import BM25Index, BM25Negatives, Corpus, FuseNegatives, RandomNegatives, ShardedIndex

TEXTS = {
    f"{kind}-{name}-{place}": text
    for kind, languages in (("words", LANGUAGES), ("single", SINGLE))
    for name, language in languages.items()
    for place, text in enumerate([language.holds, *language.others])
}


def full_width(text):
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


FORMS = {
    "as it is": str,
    "NFC": lambda text: unicodedata.normalize("NFC", text),
    "NFD": lambda text: unicodedata.normalize("NFD", text),
    "NFKD": lambda text: unicodedata.normalize("NFKD", text),
    "upper case": str.upper,
    "lower case": str.lower,
    "title case": str.title,
    "full width": full_width,
    "with invisible characters": lambda text: text.replace(" ", " \ufeff") + "\u200d\u00ad\u2060",
}


def mined(texts, queries, **options):
    """Mine for rows whose positives are the passages of another language."""
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": list(texts), "text": list(texts.values())}))
    rows = {"query": queries, "positive_ids": [[] for _ in queries]}
    return BM25Negatives(corpus, k=5, index=BM25Index(corpus, **options))(rows)["negative_ids"]


@pytest.mark.parametrize("form", FORMS)
def test_the_passage_that_shares_the_word_comes_first(form):
    cases = {f"words-{name}-0": language.query for name, language in LANGUAGES.items()}
    cases |= {f"single-{name}-0": language.query for name, language in SINGLE.items()}
    # The other passages in one form, the queries in another, and the other way round.
    there = mined(TEXTS, [FORMS[form](query) for query in cases.values()])
    back = mined({name: FORMS[form](text) for name, text in TEXTS.items()}, list(cases.values()))
    for found in (there, back):
        wrong = {name: ids for name, ids in zip(cases, found, strict=True) if not ids or TEXTS[ids[0]] != TEXTS[name]}
        assert not wrong


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("ﾊﾝｶｸ", "ハンカクの文字"),  # half-width katakana
        ("ﻛﺘﺎﺏ", "هذا كتاب جديد"),  # Arabic presentation forms
        ("한국", unicodedata.normalize("NFD", "한국은 반도이다")),
        ("２０２４", "in 2024 or later"),
        ("ﬁne", "A FINE day"),
        ("ΟΔΌΣ", "η οδός και ο δρόμος"),  # the final sigma
        ("MASSE", "ein gutes Maß? Die Maße"),
        ("ISI", "ısı yükseldi"),
        ("İZMİR", "izmir'e gitti"),
        ("BERT", "我们用BERT模型"),
        ("模型", "我们用BERT模型"),
        ("iphone", "新しいiPhoneです"),
        ("手机", "iPhone手机很贵"),
        ("葛\U000e0100城", "葛城市の天気"),  # a variant of a character
        ("خانه‌ها", "خانهها بزرگ است"),  # with a joiner and without
        ("ක්‍රිකට්", "ක්රිකට් තරඟය"),
        ("co\u00adoperate", "they cooperate"),
        ("ខ្មែរ", "ភាសា\u200bខ្មែរ\u200bពិរោះ"),  # with zero-width spaces
        ("ភាសាខ្មែរ", "ភាសា\u200bខ្មែរ\u200bពិរោះ"),
        ("hello", "hello\u200bworld"),
        ("Windows", "Windows™ 11"),
        ("don", "they don´t"),
        ("كتاب", "هذا كِتَابٌ جديد"),  # with vowels and without
        ("שלום", "שָׁלוֹם עליכם"),
        ("երկրաշարժ", "Երկրաշա՞րժ եղավ"),  # with a mark of intonation inside
        ("h2o", "H₂O is water"),
        ("ปี ๒๕๖๗", "เหตุการณ์ในปี๒๕๖๗นั้น"),
    ],
)
def test_spellings_of_a_word(query, text):
    texts = {"it": text, "other": "xyz", "cjk": "今天天气很好", "thai": "แมวนอน"}
    assert mined(texts, [query])[0][:1] == ["it"]
    assert "it" not in mined(texts, [text])[0], "a passage with the query's own text is no negative"


def test_words_do_not_match_parts_of_other_words():
    texts = {"cat": "category", "mark": "दिल्लीवाला", "numbers": "20245", "latin": "nai"}
    assert mined(texts, ["cat", "दिल्ली", "2024", "naï"], stemmer=None) == [[], [], [], []]


def test_a_stemmer_is_chosen_by_language():
    texts = {
        "de": "Die Häuser",
        "ru": "разрушенные дома",
        "tr": "kitapları",
        "fr": "les forêts brûlées",
        "hi": "लड़कियों",
    }
    for language, query, name in [
        ("german", "Haus", "de"),
        ("de", "HAUSES", "de"),
        ("German", "haus", "de"),
        ("ru", "дом", "ru"),
        ("tr", "KİTAPLAR", "tr"),
        ("turkish", "kitap", "tr"),
        ("fr", "forêt", "fr"),
        ("hi", "लड़की", "hi"),
    ]:
        assert mined(texts, [query], stemmer=language)[0][:1] == [name], language


def test_stop_words_are_compared_like_words():
    texts = {"de": "Der Weg durch die Straßen", "fr": "déjà vu", "zh": "我们的猫"}
    assert mined(texts, ["DURCH", "für", "Straße"], stopwords="de", stemmer="de") == [[], [], ["de"]]
    assert mined(texts, ["deja\u0300", unicodedata.normalize("NFD", "déjà")], stopwords=["DÉJÀ"]) == [[], []]
    assert mined(texts, ["我们", "猫"], stopwords="zh") == [[], ["zh"]]


# ---- warnings -------------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": ["a", "b"], "text": ["plates move", "waves break"]}))


def rows_of(*queries):
    return {"query": list(queries), "positive_ids": [[] for _ in queries]}


def test_a_batch_that_finds_nothing_is_reported_once(corpus, caplog):
    step = BM25Negatives(corpus)
    assert step(rows_of("дом", "the", "¿?", "кот"))["negative_ids"] == [[], [], [], []]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    said = record.getMessage()
    assert (
        "none of the 4 queries in this batch got negatives (the first is 'дом'): 2 have no words except stop words"
        in said
    )
    assert "2 have only words that no passage contains" in said
    assert "DenseNegatives" in said
    assert "BM25Index(corpus, tokenizer=...)" in said
    caplog.clear()
    Dataset.from_dict(rows_of("дом", "the", "¿?", "кот")).map(step, batched=True, batch_size=2)
    assert len(caplog.records) == 1


def test_every_way_of_searching_reports(corpus, caplog):
    shards = ShardedIndex([BM25Index(corpus, shard=(i, 2)) for i in range(2)])
    BM25Negatives(corpus, index=shards)(rows_of("кот"))
    assert len(caplog.records) == 1
    FuseNegatives({"bm25": BM25Negatives(corpus), "random": RandomNegatives(corpus)})(rows_of("кот"))
    assert len(caplog.records) == 2


def test_what_is_known_is_not_reported(corpus, caplog):
    step = BM25Negatives(corpus)
    step(rows_of("кот", "plates"))
    # Its only hit is its positive.
    assert step({"query": ["plates"], "positive_ids": [["a"]]})["negative_ids"] == [[]]
    step(rows_of())
    assert not caplog.records
