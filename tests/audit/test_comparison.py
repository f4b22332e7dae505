"""What two minings have in common and which is harder, against slow counts in plain Python."""

import json
import math

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import (
    BiEncoderScores,
    BM25Negatives,
    Corpus,
    RandomNegatives,
    RankWindow,
    ToLabeledLists,
    ToNTuples,
    TopNegatives,
    ToTriplets,
    compare_negatives,
    load_sample,
)
from hnm_datasets.audit import reading

# The last two are the same text but for case and white space.
TEXTS = ["one", "two", "three", "four", "five dogs", "Five  DOGS"]
IDS = [f"p{place}" for place in range(len(TEXTS))]
TEXT_OF = dict(zip(IDS, TEXTS, strict=True))
QUERIES = ["q1", "q2", "q3", "q4"]


def plain(name):
    return " ".join(TEXT_OF[name].casefold().split())


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": IDS, "text": TEXTS}))


SCORES = st.integers(-4, 4).map(float)
ROWS = st.lists(
    st.tuples(
        st.sampled_from(QUERIES),
        st.lists(SCORES, max_size=2),
        st.lists(st.tuples(st.sampled_from(IDS), SCORES), max_size=4),
    ),
    min_size=1,
    max_size=6,
)


def as_mined(rows, name="teacher", text="what is {}?"):
    return Dataset.from_dict(
        {
            "query_id": [query for query, _, _ in rows],
            "query": [text.format(query) for query, _, _ in rows],
            "positive_ids": [["p0"] * len(positives) for _, positives, _ in rows],
            "negative_ids": [[passage for passage, _ in negatives] for _, _, negatives in rows],
            f"positive_{name}_scores": [positives for _, positives, _ in rows],
            f"negative_{name}_scores": [[score for _, score in negatives] for _, _, negatives in rows],
        }
    )


def as_texts(rows):
    return Dataset.from_dict(
        {
            "query": [f"what is {query}?" for query, _, _ in rows],
            "pos": [[TEXT_OF["p0"]] * len(positives) for _, positives, _ in rows],
            "neg": [[TEXT_OF[passage] for passage, _ in negatives] for _, _, negatives in rows],
            "pos_scores": [positives for _, positives, _ in rows],
            "neg_scores": [[score for _, score in negatives] for _, _, negatives in rows],
        }
    )


def slow_side(rows, same):
    negatives, gaps = {}, {}
    for query, positives, passages in rows:
        negatives.setdefault(query, set()).update(same(passage) for passage, _ in passages)
        if positives:
            limit = sum(positives) / len(positives)
            gaps.setdefault(query, []).extend(score - limit for _, score in passages)
    return negatives, {query: sum(found) / len(found) for query, found in gaps.items() if found}


def check_against_slow(found, first, second, same):
    (one, gaps), (two, other_gaps) = slow_side(first, same), slow_side(second, same)
    common = one.keys() & two.keys()
    assert found.queries == (len(common), len(one) - len(common), len(two) - len(common))
    assert found.compared == len(common)
    shares = [
        len(one[query] & two[query]) / len(one[query] | two[query]) for query in common if one[query] | two[query]
    ]
    assert found.overlap == pytest.approx(np.mean(shares) if shares else 0)
    both = sum(len(one[query] & two[query]) for query in common)
    sizes = [sum(len(side[query]) for query in common) for side in (one, two)]
    assert found.in_other == pytest.approx([both / max(size, 1) for size in sizes])
    known = sorted(common & gaps.keys() & other_gaps.keys())
    if not known:
        assert (found.hardness, found.difference) == (None, None)
    else:
        values = [[side[query] for query in known] for side in (gaps, other_gaps)]
        assert found.hardness == pytest.approx([np.mean(side) for side in values])
        differences = np.subtract(*values)
        assert found.difference[0] == pytest.approx(differences.mean())
        if len(known) == 1:
            assert found.difference[1:] == (None, None)
        else:
            half = 1.96 * differences.std(ddof=1) / math.sqrt(len(known))
            assert found.difference[1:] == pytest.approx((differences.mean() - half, differences.mean() + half))
    differing = sum(one[query] != two[query] for query in common)
    assert len(found.examples) == min(3, differing)
    for example in found.examples:
        assert example.only_first or example.only_second
        assert not set(example.only_first) & set(example.only_second)
    json.dumps(found.to_dict(), allow_nan=False)
    assert str(found.compared and found.queries[0]) in repr(found)


def compared_or_none(first, second, corpus, queries):
    if queries:
        return compare_negatives(first, second, corpus)
    with pytest.raises(ValueError, match="no query in common"):
        compare_negatives(first, second, corpus)
    return None


@settings(max_examples=50)
@given(ROWS, ROWS, st.booleans())
def test_numbers_of_rows_with_ids(corpus, first, second, with_corpus):
    common = {query for query, _, _ in first} & {query for query, _, _ in second}
    # The same queries in other words: they are matched by their ids.
    sides = as_mined(first), as_mined(second, text="tell me about {}")
    found = compared_or_none(*sides, corpus if with_corpus else None, common)
    if found is not None:
        check_against_slow(found, first, second, plain if with_corpus else str)
        assert found.by == "teacher"


@settings(max_examples=40)
@given(ROWS, ROWS, st.booleans())
def test_numbers_of_ids_against_texts(corpus, first, second, both_texts):
    common = {query for query, _, _ in first} & {query for query, _, _ in second}
    found = compared_or_none(as_texts(first) if both_texts else as_mined(first), as_texts(second), corpus, common)
    if found is not None:
        check_against_slow(found, first, second, plain)


@pytest.fixture(scope="module")
def minings():
    corpus, queries = load_sample()
    bm25 = queries.select(range(60)).map(BM25Negatives(corpus, k=10), batched=True)
    hard = bm25.map(TopNegatives(4), batched=True)
    easy = bm25.map(RankWindow(min=4), batched=True).map(TopNegatives(4), batched=True)
    return corpus, hard, easy


@pytest.mark.parametrize("shape", [ToTriplets, ToNTuples, ToLabeledLists])
def test_the_form_does_not_matter(minings, shape):
    corpus, hard, easy = minings
    expected = compare_negatives(hard, easy, corpus)
    step = shape(corpus, n=4) if shape is ToNTuples else shape(corpus)
    shaped = easy.map(step, batched=True, remove_columns=easy.column_names)
    for second in (shaped, shaped.shuffle(seed=0)):
        found = compare_negatives(hard, second, corpus)
        assert found.overlap == pytest.approx(expected.overlap)
        assert found.in_other == pytest.approx(expected.in_other)
        assert found.queries == (60, 0, 0)
    assert 0 < expected.overlap < 1
    # In texts no corpus is needed.
    first = hard.map(ToTriplets(corpus), batched=True, remove_columns=hard.column_names)
    assert compare_negatives(first, shaped).overlap == pytest.approx(expected.overlap)


def test_neither_the_order_of_rows_nor_the_batches_matter(minings, monkeypatch):
    corpus, hard, easy = minings
    expected = compare_negatives(hard, easy, corpus)
    shuffled = compare_negatives(hard.shuffle(seed=1), easy.shuffle(seed=2), corpus)
    assert shuffled.to_dict() == expected.to_dict()
    monkeypatch.setattr(reading, "_ROWS", 7)
    assert compare_negatives(hard, easy, corpus).to_dict() == expected.to_dict()


def test_a_mining_is_like_itself(minings):
    corpus, hard, _ = minings
    found = compare_negatives(hard, hard, corpus)
    assert (found.overlap, found.in_other, found.difference, found.examples) == (1, (1, 1), (0, 0, 0), ())
    assert "Neither is harder (by score)." in repr(found)


def test_the_same_retriever_tells_which_is_harder(minings):
    corpus, hard, easy = minings
    found = compare_negatives(hard, easy, corpus, names=("top", "below"))
    assert found.by == "score"
    assert found.difference[0] > found.difference[1] > 0
    assert found.hardness[0] > found.hardness[1]
    assert "top is harder (by score)." in repr(found)
    back = compare_negatives(easy, hard, corpus, names=("below", "top"))
    assert back.difference[0] == pytest.approx(-found.difference[0])
    assert "top is harder (by score)." in repr(back)


def test_a_teacher_tells_between_retrievers(minings, static_model):
    corpus, hard, _ = minings
    random = hard.remove_columns([name for name in hard.column_names if name.startswith("negative_")]).map(
        RandomNegatives(corpus, k=4), batched=True
    )
    unknown = compare_negatives(hard, random, corpus)
    assert (unknown.by, unknown.hardness, unknown.difference) == (None, None, None)
    assert "Which is harder is unknown: score both with the same teacher." in repr(unknown)
    teacher = BiEncoderScores(corpus, static_model, "bi_encoder")
    scored = [rows.map(teacher, batched=True) for rows in (hard, random)]
    found = compare_negatives(*scored, corpus, names=("bm25", "random"))
    assert found.by == "bi_encoder"
    assert "bm25 is harder (by bi_encoder)." in repr(found)
    assert found.difference[1] > 0
    assert compare_negatives(*scored, corpus, by="score").by == "score"


def test_examples_are_the_queries_that_differ_most():
    rows = [("q1", [0.0], [("p1", 1.0), ("p2", 1.0)]), ("q2", [0.0], []), ("q3", [0.0], [("p3", 1.0)])]
    others = [("q1", [0.0], [("p1", 1.0), ("p3", 1.0)]), ("q2", [0.0], []), ("q3", [0.0], [("p4", 1.0)])]
    found = compare_negatives(as_mined(rows), as_mined(others))
    assert [(one.query, one.only_first, one.only_second) for one in found.examples] == [
        ("what is q3?", ("'p3'",), ("'p4'",)),
        ("what is q1?", ("'p2'",), ("'p3'",)),
    ]


def test_queries_without_negatives_do_not_crowd_out_the_examples():
    empty = [(f"q{place}", [0.0], []) for place in range(10)]
    sides = [[*empty, ("x", [0.0], [(name, 1.0), ("p3", 1.0)])] for name in ("p1", "p2")]
    found = compare_negatives(*map(as_mined, sides))
    assert [one.query for one in found.examples] == ["what is x?"]
    assert found.overlap == pytest.approx(1 / 3)


def test_passages_that_the_corpus_lacks_are_not_all_the_same(corpus):
    rows = {"query": ["q"], "positive_ids": [["p0"]]}
    first, second = (Dataset.from_dict(rows | {"negative_ids": [[one, "p1"]]}) for one in ("gone", "lost"))
    found = compare_negatives(first, second, corpus)
    assert found.overlap == pytest.approx(1 / 3)
    assert found.examples[0].only_first == ("'gone'",)


def test_one_query_tells_too_little():
    rows = [("q1", [0.0], [("p1", 1.0)])]
    found = compare_negatives(as_mined(rows), as_mined([("q1", [0.0], [("p1", 3.0)])]))
    assert found.difference == (-2, None, None)
    assert "one query is not enough" in repr(found)
    json.dumps(found.to_dict(), allow_nan=False)
    assert "None" not in found.to_markdown()


def test_a_sample_is_near_and_says_so(minings):
    corpus, hard, easy = minings
    everything = compare_negatives(hard, easy, corpus)
    found = [compare_negatives(hard, easy, corpus, sample=30, seed=seed) for seed in (0, 0, 1)]
    assert found[0].to_dict() == found[1].to_dict() != found[2].to_dict()
    assert (found[0].queries, found[0].compared) == ((60, 0, 0), 30)
    assert found[0].overlap == pytest.approx(everything.overlap, abs=0.15)
    assert "On a sample of 30 queries." in repr(found[0])
    assert "sampled" not in repr(everything)
    assert compare_negatives(hard, easy, corpus, sample=60).to_dict() == everything.to_dict()


def test_queries_in_one_alone_are_counted(minings):
    corpus, hard, easy = minings
    found = compare_negatives(hard.select(range(50)), easy.select(range(20, 60)), corpus)
    assert (found.queries, found.compared) == ((30, 20, 10), 30)


def test_what_cannot_be_compared_is_refused(minings):
    corpus, hard, easy = minings
    triplets = easy.map(ToTriplets(corpus), batched=True, remove_columns=easy.column_names)
    with pytest.raises(ValueError, match=r"'mined' and the other 'triplets'.*\(first, second, corpus\)"):
        compare_negatives(hard, triplets)
    with pytest.raises(ValueError, match="no query in common, matched by ids"):
        compare_negatives(hard.select(range(10)), easy.select(range(10, 20)), corpus)
    with pytest.raises(ValueError, match="no query in common, matched by texts"):
        compare_negatives(hard.select(range(10)), triplets.select(range(len(triplets) - 5, len(triplets))), corpus)
    with pytest.raises(KeyError, match=r"by 'judge'; common scores: \['score'\]"):
        compare_negatives(hard, easy, corpus, by="judge")
    with pytest.raises(KeyError, match="no format of mined data"):
        compare_negatives(hard, easy.select_columns(["query"]), corpus)
    with pytest.raises(ValueError, match="second has no rows"):
        compare_negatives(hard, {}, corpus)
    with pytest.raises(ValueError, match="first has no rows"):
        compare_negatives(hard.select([]), easy, corpus)
    with pytest.raises(TypeError, match="corpus must be a Corpus"):
        compare_negatives(hard, easy, "corpus")
    for names in (("one",), ("a", ""), "ab c", ("a", 1)):
        with pytest.raises(ValueError, match="names must be two"):
            compare_negatives(hard, easy, corpus, names=names)
    with pytest.raises(ValueError, match="sample"):
        compare_negatives(hard, easy, corpus, sample=0)
    with pytest.raises(ValueError, match="seed"):
        compare_negatives(hard, easy, corpus, seed=-1)


def test_it_shows_itself_and_escapes_hostile_texts():
    rows = {"anchor": ["<script>alert('q')</script>"], "positive": ["P."]}
    first, second = (Dataset.from_dict(rows | {"negative": [text]}) for text in ("<b>|`one`\n", "two"))
    found = compare_negatives(first, second, names=("<i>", "b|c"))
    page = found._repr_html_()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;script&gt;" in page
    markdown = found.to_markdown()
    assert "<script>" not in markdown
    assert "b\\|c" in markdown
    for word in ("overlap", "in_other", "examples"):
        assert word in found.to_dict()
