"""What is counted, against slow counts in plain Python; and that it depends on nothing but the rows."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, Features, LargeList, Value, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import BM25Negatives, Corpus, ToLabeledPairs, ToTriplets, audit_negatives, load_sample
from hnm_datasets.audit import counting, reading, sampled
from hnm_datasets.audit.reading import iter_rows
from hnm_datasets.audit.texts import pairs_of_rows
from hnm_datasets.formats.registry import recognize

# Some are the same but for case and white space, one is a query.
TEXTS = [
    "one red cat",
    "One  red CAT",
    "two dogs",
    "two\tdogs",
    "three birds",
    "a fish",
    "four",
    "what?",
    "five",
    "six",
]
IDS = [f"p{place}" for place in range(len(TEXTS))]
TEXT_OF = dict(zip(IDS, TEXTS, strict=True))
QUERIES = ["what?", "who?", "where?"]


def plain(text):
    return " ".join(text.casefold().split())


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": IDS, "text": TEXTS}))


SCORES = st.integers(-3, 3).map(float)


@st.composite
def rows_of_ids(draw):
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        positives = draw(st.lists(st.sampled_from(IDS), max_size=2))
        negatives = draw(st.lists(st.sampled_from(IDS), max_size=4))
        rows.append(
            {
                "query": draw(st.sampled_from(QUERIES)),
                "positive_ids": positives,
                "negative_ids": negatives,
                "positive_scores": [draw(SCORES) for _ in positives],
                "negative_scores": [draw(SCORES) for _ in negatives],
                "negative_ranks": [draw(st.integers(-1, 5)) for _ in negatives],
            }
        )
    return rows


def slow_counts(rows, own, text):
    """Count what an audit counts.

    Args:
        rows: Rows with ids.
        own: What two passages share that are the same one.
        text: What two passages share whose texts are the same.
    """
    found = Counter()
    positives, negatives_of = {}, {}
    for row in rows:
        positives.setdefault(row["query"], []).extend(row["positive_ids"])
    seen_rows = set()
    compared = above = 0
    margins = []
    for row in rows:
        known = positives[row["query"]]
        texts = []
        for name in row["negative_ids"]:
            if own(name) in map(own, known):
                found["known-positives"] += 1
            elif text(name) in map(text, known):
                found["duplicates-of-positives"] += 1
            elif text(name) == plain(row["query"]):
                found["queries-as-negatives"] += 1
            if text(name) in texts:
                found["repeated-negatives"] += 1
            else:
                negatives_of.setdefault(row["query"], set()).add(own(name))
            texts.append(text(name))
        key = (row["query"], *(tuple(sorted(map(own, row[side]))) for side in ("positive_ids", "negative_ids")))
        found["repeated-rows"] += key in seen_rows
        seen_rows.add(key)
        found["no-negatives"] += not row["negative_ids"]
        found["no-positives"] += not row["positive_ids"]
        found["bad-ranks"] += sum(rank < 1 for rank in row["negative_ranks"])
        if row["positive_scores"]:
            limit = sum(row["positive_scores"]) / len(row["positive_scores"])
            compared += len(row["negative_scores"])
            above += sum(score > limit for score in row["negative_scores"])
            margins += [limit - score for score in row["negative_scores"]]
    of_queries = Counter(name for names in negatives_of.values() for name in names)
    distinct = {own(name) for names in positives.values() for name in names}
    lengths = [len(row["negative_ids"]) for row in rows]
    return {
        "defects": {name: count for name, count in found.items() if count},
        "hubs": sorted(of_queries.values(), reverse=True)[:3],
        "passages": len(of_queries),
        "elsewhere": sum(name in of_queries for name in distinct) / max(len(distinct), 1),
        "above": above / compared if compared else None,
        "margins": margins,
        "short": sum(length < max(lengths) for length in lengths),
        "lengths": lengths,
    }


def check_counts(audit, rows, expected):
    found = {defect.name: defect.count for defect in audit.defects}
    # What is nearly the same is another question.
    found.pop("near-duplicates-of-positives", None)
    found.pop("swapped-columns", None)
    assert found == expected["defects"]
    assert [count for _, count in audit.hubs] == expected["hubs"]
    assert audit.passages == expected["passages"]
    assert audit.positives_elsewhere == pytest.approx(expected["elsewhere"])
    assert audit.short_rows == expected["short"]
    assert audit.per_row.mean == pytest.approx(np.mean(expected["lengths"]))
    assert (audit.rows, audit.negatives) == (len(rows), sum(expected["lengths"]))
    if "score" not in audit.scores:
        return
    scores = audit.scores["score"]
    assert scores.above == pytest.approx(expected["above"])
    if expected["margins"]:
        assert scores.margin.count == len(expected["margins"])
        assert scores.margin.mean == pytest.approx(np.mean(expected["margins"]))
        assert scores.margin.median == pytest.approx(np.median(expected["margins"]))
    if scores.histogram is not None:
        edges, positives, negatives = scores.histogram
        assert sum(positives) == sum(len(row["positive_ids"]) for row in rows)
        assert sum(negatives) == audit.negatives
        assert len(edges) == len(positives) + 1 == len(negatives) + 1


@settings(max_examples=70)
@given(rows_of_ids())
def test_counts_of_rows_with_ids(corpus, rows):
    audit = audit_negatives(Dataset.from_list(rows), corpus)
    check_counts(audit, rows, slow_counts(rows, own=str, text=lambda name: plain(TEXT_OF[name])))
    # The passages of hubs are named, with their texts.
    assert {name for name, _ in audit.hubs} <= {f"{name!r} ({TEXT_OF[name]!r})" for name in IDS}


@settings(max_examples=40)
@given(rows_of_ids())
def test_counts_of_ids_without_a_corpus(rows):
    audit = audit_negatives(Dataset.from_list(rows))
    check_counts(audit, rows, slow_counts(rows, own=str, text=str))


@settings(max_examples=60)
@given(rows_of_ids())
def test_counts_of_rows_with_texts(rows):
    flag = [
        {"query": row["query"]}
        | {
            name: [TEXT_OF[one] for one in row[f"{side}_ids"]]
            for name, side in (("pos", "positive"), ("neg", "negative"))
        }
        for row in rows
    ]
    features = Features({"query": Value("string"), **{name: LargeList(Value("string")) for name in ("pos", "neg")}})
    audit = audit_negatives(Dataset.from_list(flag, features))
    expected = slow_counts(rows, own=TEXT_OF.get, text=lambda name: plain(TEXT_OF[name]))
    expected["defects"].pop("bad-ranks", None)
    check_counts(audit, rows, expected)


def test_a_passage_of_one_query_in_many_rows_is_no_hub():
    many = {"anchor": ["a?"] * 40, "positive": [f"P {place}." for place in range(40)], "negative": ["N."] * 40}
    others = {side: [f"{side} {place}" for place in range(60)] for side in many}
    audit = audit_negatives(concatenate_datasets([Dataset.from_dict(many), Dataset.from_dict(others)]))
    assert [defect.name for defect in audit.defects] == []
    assert audit.hubs[0][1] == 1


@pytest.mark.parametrize(
    ("rows", "frequent", "others", "hubs"),
    # Twenty times as many queries as others have, and no fewer than twenty; or half of ten queries or more.
    [
        *[(60, 60, 1, 1), (60, 30, 1, 1), (60, 25, 1, 0), (60, 60, 0, 0), (100, 25, 2, 1), (100, 19, 2, 0)],
        *[(19, 19, 60, 1), (9, 9, 3, 0), (10, 5, 3, 1), (10, 4, 3, 0), (11, 5, 3, 0), (30, 15, 9, 1)],
    ],
)
def test_a_hub_is_far_more_frequent_than_others(rows, frequent, others, hubs):
    negatives = [
        (["hub"] if place < frequent else []) + [f"{place} {other}" for other in range(others)] for place in range(rows)
    ]
    columns = {"query": [f"q {place}" for place in range(rows)], "pos": [["p"]] * rows, "neg": negatives}
    found = [defect for defect in audit_negatives(Dataset.from_dict(columns)).defects if defect.name == "hubs"]
    assert [defect.count for defect in found] == [1] * hubs
    if hubs:
        assert found[0].examples == (f"'hub': {frequent} of {rows} queries",)


@pytest.mark.parametrize(("passages", "hubs"), [(3, 0), (4, 0), (40, 1)])
def test_a_corpus_of_few_passages_has_no_hubs(passages, hubs):
    """Where every passage is a negative of half of the queries, none is more frequent than others."""
    negatives = [
        [f"p{(place + other) % passages}" for other in (0, 1)] + ["p0"] * (hubs and place % 2) for place in range(40)
    ]
    columns = {"query": [f"q {place}" for place in range(40)], "pos": [["p"]] * 40, "neg": negatives}
    names = [defect.name for defect in audit_negatives(Dataset.from_dict(columns)).defects]
    assert names.count("hubs") == hubs


def test_a_positive_that_others_ask_is_not_swapped():
    rows = {
        "anchor": ["How old?", "What age?", "What age?"],
        "positive": ["What age?", "At what age?", "Which age?"],
        "negative": ["Where?", "When?", "Who?"],
    }
    assert audit_negatives(Dataset.from_dict(rows)).defects == ()


def test_a_negative_is_counted_as_the_same_or_as_nearly_the_same():
    one = "the plate moves slowly to the north and meets another plate below the sea"
    rows = {
        "anchor": ["a?", "a?", "b?"],
        "positive": [one, f"{one} floor", f"{one} floor"],
        # A positive of another row of the query; of another query it is nearly the same as the positive.
        "negative": ["No.", one.upper(), one.upper()],
    }
    audit = audit_negatives(Dataset.from_dict(rows))
    assert {defect.name: defect.count for defect in audit.defects} == {
        "duplicates-of-positives": 1,
        "near-duplicates-of-positives": 1,
    }


@pytest.mark.parametrize("shape", [ToTriplets, ToLabeledPairs])
def test_a_query_of_several_positives_has_no_more_negatives_for_that(shape):
    corpus, queries = load_sample()
    rows = queries.select(range(30)).map(BM25Negatives(corpus, k=5), batched=True)
    rows = rows.map(
        lambda row, place: {"negative_ids": row["negative_ids"][: 3 if place < 4 else 5]}, with_indices=True
    )
    rows = rows.select_columns(["query", "positive_ids", "negative_ids"])
    audit = audit_negatives(rows.map(shape(corpus), batched=True, remove_columns=rows.column_names))
    assert (audit.per, audit.per_row.count, audit.per_row.min, audit.per_row.max) == ("query", 30, 3, 5)
    assert audit.short_rows == 4
    assert max(map(len, rows["positive_ids"])) > 1
    assert "queries with fewer negatives than others  4 (13.3%)" in repr(audit)


# ---- what the answer does not depend on ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def messy():
    """Rows with most defects, and their corpus."""
    corpus, queries = load_sample()
    mined = queries.select(range(60)).map(BM25Negatives(corpus, k=5), batched=True)

    def spoil(row, place):
        if place % 9 == 0:
            row["negative_ids"][0] = row["positive_ids"][0]
        if place % 7 == 0:
            row["negative_ids"][1] = row["negative_ids"][2]
        if place % 11 == 0:
            row["negative_scores"][3], row["negative_ranks"][4] = float("nan"), 0
        return row

    mined = mined.map(spoil, with_indices=True)
    return corpus, concatenate_datasets([mined, mined.select([3, 5])])


def audited(rows, corpus):
    return audit_negatives(rows, corpus).to_dict()


@pytest.mark.parametrize("size", [3, 50])
def test_the_answer_does_not_depend_on_the_batches(messy, size, monkeypatch):
    corpus, rows = messy
    triplets = rows.map(ToTriplets(corpus), batched=True, remove_columns=rows.column_names).select(range(300))
    expected = audited(rows, corpus), audited(triplets, None)
    assert len(expected[0]["defects"]) >= 5
    monkeypatch.setattr(reading, "_ROWS", size)
    monkeypatch.setattr(counting, "_MERGE", size)
    assert (audited(rows, corpus), audited(triplets, None)) == expected
    monkeypatch.undo()
    monkeypatch.setattr(reading, "_BYTES", size * 300)
    assert (audited(rows, corpus), audited(triplets, None)) == expected


def test_the_answer_does_not_depend_on_how_the_rows_are_kept(messy):
    corpus, rows = messy
    expected = audited(rows, corpus)
    back = np.argsort(np.random.default_rng(0).permutation(len(rows)))
    shuffled = rows.select(np.argsort(back))
    chunks = [rows.select(range(start, min(start + 7, len(rows)))) for start in range(0, len(rows), 7)]
    large = Features(
        {
            name: LargeList(Value("large_string"))
            if name in ("positive_ids", "negative_ids")
            else Value("large_string")
            if name in ("query_id", "query")
            else feature
            for name, feature in rows.features.items()
        }
    )
    for other in (
        shuffled.select(back),
        shuffled.select(back).flatten_indices(),
        concatenate_datasets(chunks),
        rows.cast(large),
        rows.with_format("numpy"),
        rows.with_format("arrow"),
    ):
        assert audited(other, corpus) == expected


def test_another_order_changes_no_number(messy):
    corpus, rows = messy
    first, second = (audit_negatives(one, corpus) for one in (rows, rows.shuffle(seed=1)))
    assert {one.name: one.count for one in first.defects} == {one.name: one.count for one in second.defects}
    assert [count for _, count in first.hubs] == [count for _, count in second.hubs]
    assert first.scores["score"].above == second.scores["score"].above
    assert first.overlap == pytest.approx(second.overlap)


# ---- samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_as_large_as_the_rows_is_all_of_them(messy):
    corpus, rows = messy
    everything = audited(rows, corpus)
    assert everything["sampled_rows"] == len(rows)
    for sample in (len(rows), len(rows) + 1):
        assert audit_negatives(rows, corpus, sample=sample, seed=3).to_dict() == everything
    assert "sampled rows" not in repr(audit_negatives(rows, corpus))


def test_a_smaller_sample_is_near_and_says_so():
    rng = np.random.default_rng(0)
    words = [f"w{place}" for place in range(200)]
    rows = []
    for place in range(2000):
        positive = " ".join(rng.choice(words, 20))
        negative = f"{positive} more" if place % 4 == 0 else " ".join(rng.choice(words, 10))
        rows.append({"anchor": f"query {place}", "positive": positive, "negative": negative})
    rows = Dataset.from_list(rows)
    audits = [audit_negatives(rows, sample=400, seed=seed) for seed in (0, 0, 1)]
    assert audits[0].to_dict() == audits[1].to_dict() != audits[2].to_dict()
    everything = audit_negatives(rows)
    for audit in audits:
        (near,) = audit.defects
        assert (near.name, near.of_rows, audit.sampled_rows) == ("near-duplicates-of-positives", 400, 400)
        # Of 400 rows a quarter: a standard deviation is 9.
        assert near.count == pytest.approx(100, abs=30)
        assert f"{near.count} in 400 sampled rows" in repr(audit)
        assert audit.words["negative"].mean == pytest.approx(everything.words["negative"].mean, abs=1)
        assert audit.words["negative"].count == 400
    assert everything.defects[0].count == 500


def test_rows_with_many_passages_are_sampled_to_the_same_work(monkeypatch):
    monkeypatch.setattr(sampled, "_PAIRS", 20_000)
    rows = {"query": [f"q {place}" for place in range(300)], "pos": [["a b c"]] * 300}
    few = Dataset.from_dict(rows | {"neg": [["d"] * 3] * 300})
    many = Dataset.from_dict(rows | {"neg": [["d"] * 150] * 300})
    assert audit_negatives(few).sampled_rows == 300
    assert audit_negatives(many).sampled_rows == 133


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_batches_are_as_small_as_their_bytes(monkeypatch):
    passage = "word " * 20_000
    heavy = Dataset.from_dict({"anchor": ["q"] * 50, "positive": ["p"] * 50, "negative": [passage] * 50})
    monkeypatch.setattr(reading, "_BYTES", 1 << 20)
    form = recognize(heavy.column_names, "test")
    sizes = [rows.negatives.texts.nbytes for rows in iter_rows(heavy, form, "test")]
    assert len(sizes) == 5
    assert max(sizes) < 2 << 20
    light = heavy.remove_columns("negative").add_column("negative", ["n"] * 50)
    assert len(list(iter_rows(light, form, "test"))) == 1


def test_a_sample_is_read_a_thousand_passages_at_a_time(monkeypatch):
    monkeypatch.setattr(sampled, "_PASSAGES", 1_000)
    seen = []

    def record(lefts, rights):
        seen.append(int(rights[-1]))
        return pairs_of_rows(lefts, rights)

    monkeypatch.setattr(sampled, "pairs_of_rows", record)
    negatives = [[f"word {row} {place}" for place in range(200)] for row in range(40)]
    rows = {"query": [f"q {row}" for row in range(40)], "pos": [["a"]] * 40, "neg": negatives}
    audit = audit_negatives(Dataset.from_dict(rows))
    assert audit.negatives == sum(seen) == 8_000
    assert max(seen) <= 1_000


def test_thousands_of_long_passages_are_audited():
    rows = {
        "query": [f"q {row}" for row in range(20)],
        "pos": [["the right one"]] * 20,
        "neg": [[f"passage {place} of {row}" for place in range(1_000)] for row in range(20)],
    }
    audit = audit_negatives(Dataset.from_dict(rows))
    assert (audit.negatives, audit.per_row.min, audit.defects) == (20_000, 1000, ())
    long = [["word " * 20_000 + str(row)] for row in range(20)]
    audit = audit_negatives(Dataset.from_dict(rows | {"neg": long}))
    assert (audit.negatives, audit.defects) == (20, ())
    assert audit.words["negative"].max == 20_001
