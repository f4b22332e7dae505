"""Near duplicates: runs of three words shared by two texts, counted in plain Python."""

import unicodedata
from fractions import Fraction

import datasets
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import LANGUAGES

from hnm_datasets import Corpus, DropNearDuplicates
from hnm_datasets.corpus import shingles as shingles_module
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.opened import Opened


def corpus_of(texts):
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{i}" for i in range(len(texts))], "text": texts}))


def runs(text):
    words = text.casefold().split()
    words += [""] * (3 - len(words))
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def similarity(a, b):
    return Fraction(len(runs(a) & runs(b)), len(runs(a) | runs(b)))


def survivors(texts, positives, negatives, threshold):
    kept = []
    for name in negatives:
        others = [*positives, *kept]
        if all(similarity(texts[int(name[1:])], texts[int(other[1:])]) < threshold for other in others):
            kept.append(name)
    return kept


WORDS = st.sampled_from(["wave", "Wave", "plate", "quake"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=7).map(" ".join), min_size=2, max_size=8)


@settings(max_examples=60)
@given(TEXTS, st.data(), st.sampled_from(["1/10", "1/4", "1/3", "1/2", "2/3", "3/4", "4/5", "1"]))
def test_near_duplicates_are_dropped_as_in_plain_python(texts, data, threshold):
    ids = [f"p{i}" for i in range(len(texts))]
    lists = st.lists(st.sampled_from(ids), max_size=6, unique=True)
    rows = data.draw(st.lists(st.tuples(lists, lists), min_size=1, max_size=4))
    positives, negatives = [list(column) for column in zip(*rows, strict=True)]
    ranks = [list(range(len(row))) for row in negatives]
    step = DropNearDuplicates(corpus_of(texts), float(Fraction(threshold)))
    answer = step({"positive_ids": positives, "negative_ids": negatives, "negative_ranks": ranks})
    expected = [survivors(texts, *row, Fraction(threshold)) for row in rows]
    assert answer["negative_ids"] == expected
    assert answer["negative_ranks"] == [
        [own.index(name) for name in row] for own, row in zip(negatives, expected, strict=True)
    ]


def dropped(texts, positives, negatives, **options):
    answer = DropNearDuplicates(corpus_of(texts), **options)({"positive_ids": [positives], "negative_ids": [negatives]})
    return [name for name in negatives if name not in answer["negative_ids"][0]]


LONG = " ".join(f"word{i}" for i in range(50))


def test_a_changed_word_makes_no_other_text():
    texts = [
        LONG,
        LONG.replace("word20", "other"),
        LONG.replace("word5", "x").replace("word25", "y"),
        "quite another one",
    ]
    assert dropped(texts, ["p0"], ["p1", "p2", "p3"]) == ["p1"]
    assert dropped(texts, ["p0"], ["p1", "p2", "p3"], threshold=0.7) == ["p1", "p2"]
    assert dropped(texts, ["p3"], ["p0", "p1", "p2"]) == ["p1"]


def test_the_harder_of_two_like_candidates_stays():
    texts = [LONG, LONG.replace("word20", "other"), "quite another text"]
    assert dropped(texts, ["p2"], ["p0", "p1"]) == ["p1"]
    assert dropped(texts, ["p2"], ["p1", "p0"]) == ["p0"]
    assert dropped(texts, [], ["p1", "p2", "p0"]) == ["p0"]


def test_what_is_like_a_dropped_candidate_may_stay():
    # Each text shares half its runs with the next one, and fewer with the one after it.
    texts = ["a b c d e f", "c d e f g h", "e f g h i j"]
    assert similarity(texts[0], texts[1]) == similarity(texts[1], texts[2]) == Fraction(1, 3)
    assert dropped(texts, ["p0"], ["p1", "p2"], threshold=0.3) == ["p1"]
    assert dropped(texts, [], ["p0", "p1", "p2"], threshold=0.3) == ["p1"]


def test_a_threshold_of_1_drops_the_same_runs_of_words_alone():
    texts = ["The plate  moves north", "the plate moves NORTH", "the plate moves", "plate moves north", "ﬁne"]
    assert dropped(texts, ["p0"], ["p1", "p2", "p3"], threshold=1) == ["p1"]
    assert dropped([*texts, "fine", "Fine "], ["p4"], ["p5"], threshold=1) == ["p5"]


def test_short_texts_are_compared_whole():
    assert dropped(["wave", "Wave", "wave break", "break wave"], ["p0"], ["p1", "p2", "p3"], threshold=0.01) == ["p1"]


def test_the_corpus_is_shingled_when_it_is_needed_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    corpus = corpus_of([LONG, LONG.replace("word20", "other"), "quite another text"])
    step, shingles = DropNearDuplicates(corpus), cache_root() / "shingles"
    assert not shingles.exists()
    step.prepare()
    assert len([path for path in shingles.iterdir() if path.is_dir()]) == 1
    monkeypatch.setattr(shingles_module, "_OPENED", Opened())
    monkeypatch.setattr(shingles_module, "shingles_of", lambda texts: pytest.fail("shingled again"))
    rows = Dataset.from_dict({"positive_ids": [["p0"]] * 4, "negative_ids": [["p1", "p2"]] * 4})
    for num_proc in (None, 2):
        kept = rows.map(DropNearDuplicates(corpus), batched=True, num_proc=num_proc, load_from_cache_file=False)
        assert kept["negative_ids"][:] == [["p2"]] * 4


def test_bad_options():
    corpus = corpus_of(["plates move", "waves break"])
    for bad in (0, -0.5, float("nan")):
        with pytest.raises(ValueError, match="threshold must be a finite number greater than 0"):
            DropNearDuplicates(corpus, bad)
    with pytest.raises(ValueError, match=r"threshold is the share .* at most 1, got 1\.5"):
        DropNearDuplicates(corpus, 1.5)
    with pytest.raises(TypeError, match="threshold must be a number, got 'high'"):
        DropNearDuplicates(corpus, "high")
    with pytest.raises(TypeError, match=r"corpus must be a Corpus, got list.*Corpus\.from_dataset"):
        DropNearDuplicates(["plates move"])


def test_an_unknown_id_is_named():
    step = DropNearDuplicates(corpus_of(["plates move", "waves break"]))
    batch = {"query_id": ["q1", "q7"], "positive_ids": [["p0"], ["p0"]], "negative_ids": [["p1"], ["p1", "p9"]]}
    with pytest.raises(KeyError, match=r"'negative_ids' of the row with query_id 'q7' names the passage 'p9'"):
        step(batch)
    with pytest.raises(KeyError, match=r"'positive_ids' of the row with query_id 'q1' names the passage 'p8'"):
        step(batch | {"positive_ids": [["p8"], []]})


@pytest.mark.parametrize("name", LANGUAGES)
def test_near_duplicates_in_every_script(name):
    language = LANGUAGES[name]
    # A passage of some length, once more with other signs, and one of the same length that shares nothing.
    text, other = " ".join([language.holds] * 2 + language.others[:1]), language.others[1] * 3
    texts = [text, text + "。", text.replace(" ", "  ") + " !", text.upper(), unicodedata.normalize("NFD", text), other]
    assert dropped(texts, ["p0"], ["p1", "p2", "p3", "p4", "p5"]) == ["p1", "p2", "p3", "p4"]


def test_a_changed_character_makes_no_other_text():
    chinese = "昨天晚上本市北部发生了强烈地震许多居民逃出家门在街上过夜目前没有人员伤亡的报告专家说这样的地震十年一遇"
    thai = "เมื่อคืนนี้เกิดแผ่นดินไหวรุนแรงทางตอนเหนือของเมืองชาวบ้านจำนวนมากหนีออกจากบ้านและนอนบนถนนขณะนี้ยังไม่มีรายงานผู้เสียชีวิต"
    for text, old, new in ((chinese, "街", "路"), (thai, "นอน", "นั่ง")):
        half = text[: len(text) // 2]
        texts = [text, text.replace(old, new), text + "。", half + half[::-1]]
        assert dropped(texts, ["p0"], ["p1", "p2", "p3"]) == ["p1", "p2"]


def test_texts_of_signs_alone_are_compared_by_them():
    assert dropped(["!!!", "???", "!!! ", "…", "😀"], ["p0"], ["p1", "p2", "p3", "p4"]) == ["p2"]
    assert dropped(["The end", "the end.", "“The” – end!", "end the"], ["p0"], ["p1", "p2", "p3"]) == ["p1", "p2"]


# ---- with titles and without -------------------------------------------------------------------------------------


def titled(passages):
    ids = [f"p{place}" for place in range(len(passages))]
    titles, texts = zip(*passages, strict=True)
    return Corpus.from_dataset(Dataset.from_dict({"id": ids, "title": titles, "text": texts}))


def forms(title, text):
    return [f"{title or ''} {text}"] + ([text] if (title or "").strip() and text.strip() else [])


TITLED = st.lists(
    st.tuples(st.lists(WORDS, max_size=3).map(" ".join) | st.none(), st.lists(WORDS, max_size=5).map(" ".join)).filter(
        lambda passage: f"{passage[0] or ''}{passage[1]}".strip()
    ),
    min_size=2,
    max_size=8,
)


@given(TITLED, st.data(), st.sampled_from(["1/4", "1/2", "4/5", "1"]))
def test_titled_passages_are_compared_with_their_titles_and_without(passages, data, threshold):
    ids = [f"p{place}" for place in range(len(passages))]
    lists = st.lists(st.sampled_from(ids), max_size=6, unique=True)
    positives, negatives = data.draw(lists), data.draw(lists)
    kept = []
    for name in negatives:
        own = forms(*passages[int(name[1:])])
        others = [form for other in [*positives, *kept] for form in forms(*passages[int(other[1:])])]
        if all(similarity(form, other) < Fraction(threshold) for form in own for other in others):
            kept.append(name)
    step = DropNearDuplicates(titled(passages), float(Fraction(threshold)))
    columns = {"positive_ids": [positives], "negative_ids": [negatives]}
    rows = pa.table({name: pa.array(lists, pa.list_(pa.string())) for name, lists in columns.items()})
    assert step(rows)["negative_ids"].to_pylist() == [kept]


@pytest.mark.parametrize(
    ("passages", "expected"),
    [
        # A few words under two long titles.
        ([("On zoos and the animals in them", LONG[:60]), ("Another matter altogether, at length", LONG[:60])], []),
        ([("A", LONG), ("B", LONG.replace("word7", "sword7"))], []),
        ([("A", "one two three four"), (None, "One two three  four")], []),
        # Equal titles are no equal texts, and no text is like no other.
        ([("A long title of many words", "one"), ("A long title of many other words", "two")], ["p1"]),
        ([("Zoos", ""), ("Parks", "")], ["p1"]),
    ],
)
def test_a_text_under_another_title_is_near(passages, expected):
    step = DropNearDuplicates(titled(passages))
    assert step({"positive_ids": [["p0"]], "negative_ids": [["p1"]]})["negative_ids"] == [expected]


def test_positives_of_other_rows_of_the_question_count():
    corpus = corpus_of([LONG, LONG + " more", "another text"])
    rows = {"positive_ids": [["p2"]], "known_positive_ids": [["p0"]], "negative_ids": [["p1"]]}
    assert DropNearDuplicates(corpus)(rows)["negative_ids"] == [[]]
