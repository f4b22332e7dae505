"""A number of candidates of each value of a column of the corpus."""

import logging
import pickle

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import Corpus, SampleNegatives

LANGUAGES = ["en", "de", "en", None, "zh", "en", "de", "", "en", "zh"]
YEARS = [2020, 2021, None, 2020, 2020, 2021, 2021, 2020, 2022, 2020]
GROUPS = ["g", "g", None, "h", None, "g", "h", "h", "", "g"]
NAMES = [f"p{i}" for i in range(len(LANGUAGES))]


@pytest.fixture(scope="module")
def corpus():
    texts = [f"text {name}" for name in NAMES]
    rows = {"id": NAMES, "text": texts, "language": LANGUAGES, "year": YEARS, "group": GROUPS}
    return Corpus.from_dataset(Dataset.from_dict(rows), columns=["language", "year"])


ROWS = st.lists(st.lists(st.sampled_from(NAMES), max_size=9), min_size=1, max_size=70)


def batch_of(rows):
    return {"query": [f"q{i}" for i in range(len(rows))], "negative_ids": rows}


def value_of(column, name):
    return column[NAMES.index(name)] or ""


@given(ROWS, st.integers(1, 3), st.integers(0, 9), st.sampled_from(["language", "year"]))
def test_so_many_of_each_value(corpus, rows, n, seed, per):
    answer = SampleNegatives(n, per=per, corpus=corpus, seed=seed)(batch_of(rows))["negative_ids"]
    column = LANGUAGES if per == "language" else YEARS
    for before, after in zip(rows, answer, strict=True):
        for value in {value_of(column, name) for name in before}:
            had, kept = ([name for name in ids if value_of(column, name) == value] for ids in (before, after))
            assert len(kept) == min(n, len(had))
        rest = iter(before)
        assert all(name in rest for name in after)


@given(ROWS, st.integers(0, 9))
def test_the_draw_depends_on_the_row_alone(corpus, rows, seed):
    step, batch = SampleNegatives(1, per="language", corpus=corpus, seed=seed), batch_of(rows)
    whole = step(batch)["negative_ids"]
    for i in range(len(rows)):
        assert step({name: values[i : i + 1] for name, values in batch.items()})["negative_ids"] == whole[i : i + 1]


def test_passages_on_their_own_are_groups_of_their_own(corpus):
    answer = SampleNegatives(1, per="group", corpus=corpus)(batch_of([NAMES]))["negative_ids"][0]
    groups = [GROUPS[NAMES.index(name)] or name for name in answer]
    assert sorted(groups) == ["g", "h", "p2", "p4", "p8"]


@pytest.mark.parametrize(
    ("n", "per", "expected"),
    [
        ({"de": 2, "zh": 1}, "language", {"de": 2, "zh": 1}),
        ({"": 1, "en": 9}, "language", {"": 1, "en": 4}),
        ({"fr": 3, "zh": 5}, "language", {"zh": 2}),
        ({2021: 2, "2022": 1}, "year", {"2021": 2, "2022": 1}),
        ({"h": 1, "g": 2}, "group", {"h": 1, "g": 2}),
    ],
)
def test_a_number_for_each_of_some_values(corpus, n, per, expected):
    answer = SampleNegatives(n, per=per, corpus=corpus, seed=5)(batch_of([NAMES]))["negative_ids"][0]
    column = {"language": LANGUAGES, "year": YEARS, "group": GROUPS}[per]
    values = [str(value_of(column, name)) for name in answer]
    assert {value: values.count(value) for value in values} == expected


def test_each_value_draws_its_own_alike(corpus):
    rows = 20_000
    drawn = SampleNegatives(1, per="language", corpus=corpus, seed=2)(batch_of([NAMES] * rows))["negative_ids"]
    counts = [sum(name in ids for ids in drawn) / rows for name in NAMES]
    language = [value_of(LANGUAGES, name) for name in NAMES]
    assert counts == pytest.approx([1 / language.count(one) for one in language], abs=0.015)


def test_too_few_of_a_value_are_told(corpus, caplog):
    rows = Dataset.from_dict(batch_of([["p0", "p1", "p2"]] * 3))
    with caplog.at_level(logging.WARNING):
        rows.map(SampleNegatives({"en": 1, "zh": 2}, per="language", corpus=corpus), batched=True)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "1 of the language 'en' (they have from 2 to 2" in message
    assert "2 of the language 'zh' (they have from 0 to 0" in message


@pytest.mark.parametrize(
    ("n", "options", "error", "match"),
    [
        (1, {"per": "site"}, KeyError, r"no column 'site'; its .* \['language', 'year'\].*columns=\['site'\]"),
        (1, {"per": "language", "corpus": None}, ValueError, "per and diversity require the passages; pass corpus="),
        (1, {"per": ["language"]}, TypeError, "per must be the name of a column"),
        (1, {}, ValueError, "corpus is only used with per= or diversity="),
        (1, {"per": "language", "corpus": "c"}, TypeError, "corpus must be a Corpus"),
        ({}, {"per": "language"}, ValueError, "a number per value of 'language'"),
        ({(1, 2): 1}, {"per": "year"}, TypeError, r"\(1, 2\) is not a value of 'year'"),
        ({True: 1}, {"per": "year"}, TypeError, "True is not a value of 'year'"),
        ({"en": 0}, {"per": "language"}, ValueError, r"n\['en'\] must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(corpus, n, options, error, match):
    with pytest.raises(error, match=match):
        SampleNegatives(n, **({"corpus": corpus} | options))


def test_it_survives_pickle(corpus):
    step = SampleNegatives({"en": 1, 2021: 2}, per="language", corpus=corpus)
    again = pickle.loads(pickle.dumps(step))
    assert again == step
    assert hash(again) == hash(step)
    assert step != SampleNegatives({"en": 1, 2021: 2}, per="year", corpus=corpus)
