from copy import deepcopy

import pytest
from datasets import Dataset, Features, List, Value

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    DropNearDuplicates,
    FuseNegatives,
    RandomNegatives,
    TopNegatives,
    audit_negatives,
    load_sample,
)
from hnm_datasets.formats.registry import FORMATS

N = 60
FORMS = tuple(FORMATS)
TEXT_FORMS = FORMS[1:]
#: Forms with one row for each query of the clean set.
ROW_FORMS = tuple(form for form in FORMS if form not in ("triplets", "labeled-pairs"))


# ---- builders: rows of one query, one positive and some negatives, in any form ---------------------------------------


def as_form(form, items):
    """Write items in a form. A passage is a pair of id and text; None stands for a passage that is not there."""
    return Dataset.from_list([row for item in items for row in _BUILDERS[form](item)], _FEATURES.get(form))


def parts(item):
    return [[passage for passage in item[side] if passage is not None] for side in ("positives", "negatives")]


def mined_rows(item):
    positives, negatives = parts(item)
    yield {
        "query_id": item["query_id"],
        "query": item["query"],
        "positive_ids": [passage for passage, _ in positives],
        "positive_scores": item["positive_scores"][: len(positives)],
        "negative_ids": [passage for passage, _ in negatives],
        "negative_scores": item["scores"][: len(negatives)],
        "negative_ranks": item["ranks"][: len(negatives)],
    }


def triplet_rows(item):
    for positive in item["positives"] or [None]:
        for negative, score in zip(item["negatives"] or [None], item["scores"], strict=False):
            yield {
                "anchor": item["query"],
                "positive": positive and positive[1],
                "negative": negative and negative[1],
                "positive_score": item["positive_scores"][0],
                "negative_score": score,
            }


def tuple_rows(item):
    negatives = (item["negatives"] + [None] * 6)[:6]
    scores = (item["scores"] + [0.0] * 6)[:6]
    texts = {f"negative_{place}": negative and negative[1] for place, negative in enumerate(negatives, 1)}
    yield {
        "anchor": item["query"],
        "positive": item["positives"][0][1] if item["positives"] else None,
        **texts,
        "positive_score": item["positive_scores"][0],
        **{f"{name}_score": score for name, score in zip(texts, scores, strict=True)},
    }


def pair_rows(item):
    positives, negatives = parts(item)
    labeled = [(text, 1, score) for (_, text), score in zip(positives, item["positive_scores"], strict=False)]
    labeled += [(text, 0, score) for (_, text), score in zip(negatives, item["scores"], strict=False)]
    for text, label, score in labeled:
        yield {"anchor": item["query"], "passage": text, "label": label, "passage_score": score}


def list_rows(item):
    rows = list(pair_rows(item))
    yield {
        "anchor": item["query"],
        "passages": [row["passage"] for row in rows],
        "labels": [row["label"] for row in rows],
        "passage_scores": [row["passage_score"] for row in rows],
    }


def tevatron_rows(item):
    sides = [[{"docid": name, "title": "", "text": text} for name, text in side] for side in parts(item)]
    names = {"query_id": item["query_id"], "query": item["query"]}
    yield names | {"positive_passages": sides[0], "negative_passages": sides[1]}


def flag_rows(item):
    positives, negatives = parts(item)
    yield {
        "query": item["query"],
        "pos": [text for _, text in positives],
        "neg": [text for _, text in negatives],
        "pos_scores": item["positive_scores"][: len(positives)],
        "neg_scores": item["scores"][: len(negatives)],
    }


def dpr_rows(item):
    sides = [
        [
            {"title": "", "text": text, "score": score, "passage_id": name}
            for (name, text), score in zip(side, scores, strict=False)
        ]
        for side, scores in zip(parts(item), (item["positive_scores"], item["scores"]), strict=True)
    ]
    yield {"question": item["query"], "positive_ctxs": sides[0], "hard_negative_ctxs": sides[1]}


_ROWS = (mined_rows, triplet_rows, tuple_rows, pair_rows, list_rows, tevatron_rows, flag_rows, dpr_rows)
_BUILDERS = dict(zip(FORMS, _ROWS, strict=True))
_PASSAGES = List({name: Value("string") for name in ("docid", "title", "text")})
_FEATURES = {
    "tevatron": Features(
        {
            "query_id": Value("string"),
            "query": Value("string"),
            "positive_passages": _PASSAGES,
            "negative_passages": _PASSAGES,
        }
    )
}


@pytest.fixture(scope="module")
def sample():
    return load_sample()


@pytest.fixture(scope="module")
def mined(sample):
    corpus, queries = sample
    steps = (BM25Negatives(corpus, k=50), DropNearDuplicates(corpus), TopNegatives(5))
    for step in steps:
        queries = queries.map(step, batched=True)
    return queries


@pytest.fixture(scope="module")
def clean(sample, mined):
    """Items without defects, and more positives of theirs."""
    corpus, _ = sample

    def passage(name):
        return name, corpus.texts(corpus.rows([name]))[0].as_py()

    long = [row for row in mined if len(row["positive_ids"]) > 1 and len(passage(row["positive_ids"][0])[1]) > 200][:N]
    items, others = [], []
    for row in long:
        items.append(
            {
                "query_id": row["query_id"],
                "query": row["query"],
                "positives": [passage(row["positive_ids"][0])],
                "negatives": [passage(name) for name in row["negative_ids"]],
                "positive_scores": row["positive_scores"][:1],
                "scores": row["negative_scores"],
                "ranks": row["negative_ranks"],
            }
        )
        others.append(passage(row["positive_ids"][1]))
    return items, others


@pytest.fixture(scope="module")
def corpus(clean):
    """All passages of the clean items, and those that spoil them."""
    items, others = clean
    passages = dict(others)
    for place, item in enumerate(items):
        passages |= dict(item["positives"]) | dict(item["negatives"])
        passages |= dict([same(item, place), nearly(item, place), asked(item, place)] if place < 15 else [])
    passages["hub"] = HUB[1]
    return Corpus.from_dataset(Dataset.from_dict({"id": list(passages), "text": list(passages.values())}))


@pytest.fixture(scope="module")
def judgments(clean):
    items, others = clean
    return Dataset.from_dict(
        {
            "query_id": [item["query_id"] for item in items],
            "query": [item["query"] for item in items],
            "positive_ids": [[item["positives"][0][0], other[0]] for item, other in zip(items, others, strict=True)],
        }
    )


HUB = ("hub", "Read more about this and many other topics on the pages of the library.")


def same(item, place):
    return f"same-{place}", item["positives"][0][1].upper().replace(" ", "\n  ")


def nearly(item, place):
    return f"near-{place}", item["positives"][0][1] + " Indeed."


def asked(item, place):
    return f"asked-{place}", "  " + item["query"].lower()


def defects(audit):
    # FlagEmbedding keeps all scores as a teacher's, who is then said to find false negatives.
    other = {"false-negatives"} if audit.form == "flagembedding" else set()
    return {defect.name: defect.count for defect in audit.defects if defect.name not in other}


# ---- nothing is wrong with what the library mines --------------------------------------------------------------------


def test_the_mined_sample_has_no_defect(sample, mined):
    corpus, queries = sample
    audit = audit_negatives(mined, corpus, judgments=queries)
    assert defects(audit) == {}
    assert (audit.form, audit.rows, audit.queries, audit.negatives) == ("mined", 600, 600, 3000)
    assert audit.false_negatives.false == 0
    assert audit.sources == {"bm25": 3000}
    assert defects(audit_negatives(mined)) == {}


@pytest.mark.parametrize("with_corpus", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_clean_set_has_no_defect_in_any_form(clean, corpus, judgments, form, with_corpus):
    rows = as_form(form, clean[0])
    audit = audit_negatives(rows, corpus if with_corpus else None, judgments=judgments if with_corpus else None)
    assert defects(audit) == {}
    assert (audit.form, audit.queries, audit.negatives) == (form, N, 5 * N)
    assert audit.positives == (5 * N if form == "triplets" else N)
    assert audit.passages == len({text for item in clean[0] for _, text in item["negatives"]})


def test_what_several_sources_found_has_no_defect(sample):
    corpus, queries = sample
    sources = {"bm25": BM25Negatives(corpus, k=5), "random": RandomNegatives(corpus, k=3)}
    fused = queries.select(range(50)).map(FuseNegatives(sources), batched=True)
    assert defects(audit_negatives(fused, corpus)) == {}


# ---- each defect is named with its count -----------------------------------------------------------------------------
# Each function spoils items and returns what the audit must say, by form.


def known_positives(items, others):
    for item in items[:4]:
        item["negatives"][2] = item["positives"][0]
    return lambda form: {"known-positives": 4}


def positives_of_other_rows(items, others):
    for place in (0, 1, 2):
        again = deepcopy(items[place]) | {"positives": [others[place]], "negatives": items[place + 10]["negatives"][:5]}
        items[place]["negatives"][1] = others[place]
        items.append(again)
    items[3]["negatives"][0] = same(items[4], 4)  # of another query: nothing wrong
    return lambda form: {"known-positives": 3}


def duplicates(items, others):
    for place in range(5):
        items[place]["negatives"][4] = same(items[place], place)
    # Of another row of the same query.
    items.append(deepcopy(items[7]) | {"positives": [others[7]], "negatives": [same(items[7], 7)]})
    return lambda form: {"duplicates-of-positives": 6}


def near_duplicates(items, others):
    for place in range(7):
        items[place]["negatives"][0] = nearly(items[place], place)
    # A row of labeled pairs has one passage, and nothing to compare it with.
    return lambda form: {} if form == "labeled-pairs" else {"near-duplicates-of-positives": 7}


def queries_as_negatives(items, others):
    for place in range(3):
        items[place]["negatives"][3] = asked(items[place], place)
    return lambda form: {"queries-as-negatives": 3}


def repeated_negatives(items, others):
    for item in items[:6]:
        item["negatives"][4] = item["negatives"][0]
    # Where each negative has a row of its own, the row is what is repeated.
    return lambda form: {"repeated-negatives" if form in ROW_FORMS else "repeated-rows": 6}


def repeated_rows(items, others):
    items += deepcopy(items[:2])
    # In another order it is the same row.
    items[-1]["negatives"] = items[-1]["negatives"][::-1]
    return lambda form: {"repeated-rows": {"triplets": 10, "labeled-pairs": 12}.get(form, 2)}


def a_hub(items, others):
    for item in items:
        item["negatives"][4] = HUB
    return lambda form: {"hubs": 1}


def no_negatives(items, others):
    for item in items[:3]:
        item["negatives"] = []
    # A labeled pair is one passage: that a query has no negative is nothing that a row shows.
    return lambda form: {} if form == "labeled-pairs" else {"no-negatives": 3}


def no_positives(items, others):
    for item in items[:3]:
        item["positives"] = []
    return lambda form: {"triplets": {"no-positives": 15}, "labeled-pairs": {}}.get(form, {"no-positives": 3})


SPOILERS = (
    known_positives,
    positives_of_other_rows,
    duplicates,
    near_duplicates,
    queries_as_negatives,
    repeated_negatives,
    repeated_rows,
    a_hub,
    no_negatives,
    no_positives,
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_a_defect_is_named_with_its_count(clean, corpus, spoil, form):
    items, others = deepcopy(clean)
    expected = spoil(items, others)(form)
    audit = audit_negatives(as_form(form, items), corpus)
    assert defects(audit) == expected
    for defect in audit.defects:
        assert 1 <= len(defect.examples) <= 3
        assert defect.of_rows == audit.rows
        assert defect.name in repr(audit)
        assert defect.remedy in repr(audit)


def test_all_defects_at_once_keep_their_counts(clean, corpus):
    items, others = deepcopy(clean)
    known_positives(items, others)
    items[10]["negatives"][0] = same(items[10], 10)
    items[11]["negatives"][0] = nearly(items[11], 11)
    items[12]["negatives"][0] = asked(items[12], 12)
    items[13]["negatives"][0] = items[13]["negatives"][1]
    items[14]["negatives"] = []
    items[15]["positives"] = []
    items.append(items[20])
    assert defects(audit_negatives(as_form("mined", items), corpus)) == {
        "known-positives": 4,
        "duplicates-of-positives": 1,
        "near-duplicates-of-positives": 1,
        "queries-as-negatives": 1,
        "repeated-negatives": 1,
        "repeated-rows": 1,
        "no-negatives": 1,
        "no-positives": 1,
    }


@pytest.mark.parametrize("form", FORMS)
def test_unknown_passages_are_those_that_the_corpus_lacks(clean, corpus, form):
    items = deepcopy(clean[0])
    for place in range(4):
        items[place]["negatives"][0] = (f"gone-{place}", f"There is no such passage, number {place}.")
    items[39]["positives"] = [("gone-39", "Nor this.")]
    rows = as_form(form, items)
    assert defects(audit_negatives(rows, corpus)) == {"unknown-passages": 9 if form == "triplets" else 5}
    assert defects(audit_negatives(rows)) == {}


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_empty_texts_are_found(clean, form):
    items = deepcopy(clean[0])
    for place in range(4):
        items[place]["negatives"][0] = (f"empty-{place}", ["", " ", "\n\t", "\u3000"][place])
    items[9]["positives"] = [("empty-9", "")]
    assert defects(audit_negatives(as_form(form, items))) == {"empty-passages": 9 if form == "triplets" else 5}


@pytest.mark.parametrize("form", [form for form in FORMS if form != "tevatron"])
def test_scores_that_are_no_numbers_are_found(clean, form):
    items = deepcopy(clean[0])
    for place, bad in enumerate((float("nan"), float("inf"), float("-inf"), None)):
        items[place]["scores"][1] = bad
    items[5]["positive_scores"] = [float("nan")]
    audit = audit_negatives(as_form(form, items))
    assert defects(audit) == {"bad-scores": 9 if form == "triplets" else 5}
    (scores,) = audit.scores.values()
    assert scores.negative.count == 5 * N - 4
    if form != "labeled-pairs":
        # Four have none of their own, five no positive's to be compared with.
        assert scores.margin.count == 5 * N - 9


def test_ranks_begin_at_one(clean):
    items = deepcopy(clean[0])
    items[0]["ranks"][:2] = [0, -3]
    assert defects(audit_negatives(as_form("mined", items))) == {"bad-ranks": 2}


@pytest.mark.parametrize("form", ["triplets", "n-tuples"])
def test_a_query_in_the_column_of_positives_is_found(clean, corpus, form):
    items = deepcopy(clean[0])
    for other in (10, 20, 30):
        for place in (40, 41):
            items.append(deepcopy(items[place]) | {"negatives": items[other + place - 40]["negatives"]})
    rows = as_form(form, items).to_list()
    for place in (-1, -1 - (5 if form == "triplets" else 1)):
        rows[place]["anchor"], rows[place]["positive"] = rows[place]["positive"], rows[place]["anchor"]
    rows = Dataset.from_list(rows)
    assert defects(audit_negatives(rows)) == {"swapped-columns": 2}
    # A query is no passage of the corpus.
    assert defects(audit_negatives(rows, corpus)) == {"swapped-columns": 2, "unknown-passages": 2}


def test_paraphrases_in_both_directions_are_not_swapped():
    pairs = [("How old is it?", "What is its age?"), ("What is its age?", "How old is it?")] * 3
    negatives = [f"Something else, number {place}." for place in range(6)]
    rows = {"anchor": [a for a, _ in pairs], "positive": [b for _, b in pairs], "negative": negatives}
    assert defects(audit_negatives(Dataset.from_dict(rows))) == {}


@pytest.mark.parametrize("form", FORMS)
def test_judgments_show_positives_and_negatives_that_were_swapped(clean, corpus, judgments, form):
    items = deepcopy(clean[0])
    for item in items[:3]:
        item["positives"][0], item["negatives"][2] = item["negatives"][2], item["positives"][0]
    found = defects(audit_negatives(as_form(form, items), corpus, judgments=judgments))
    expected = {"swapped-columns": 3, "unjudged-positives": 15 if form == "triplets" else 3}
    if form == "labeled-pairs":
        del expected["swapped-columns"]  # no row has both
    assert found == expected


@pytest.mark.parametrize("form", FORMS)
def test_judgments_show_positives_that_are_none(clean, corpus, judgments, form):
    items = deepcopy(clean[0])
    for place in range(4):
        items[place]["positives"] = [HUB]
    audit = audit_negatives(as_form(form, items), corpus, judgments=judgments)
    assert defects(audit) == {"unjudged-positives": 20 if form == "triplets" else 4}
    # Of queries that are not judged, nothing can be said.
    unjudged = judgments.select(range(4, N))
    assert defects(audit_negatives(as_form(form, items), corpus, judgments=unjudged)) == {}
