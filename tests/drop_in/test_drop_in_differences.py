"""Where mine_hard_negatives differs on purpose."""

import random
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset
from drop_in_helpers import (
    FORMATS,
    TOY,
    assert_the_same,
    key_of,
    mined_negatives,
    negatives_of,
    rankings,
    texts_of,
)
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives as their_function

from hnm_datasets import mine_hard_negatives


def test_a_variant_of_a_positive_is_no_negative(static_model):
    variants = {"SHAKESPEARE  wrote hamlet.", " Shakespeare\twrote\nHamlet. "}
    options = {"corpus": sorted(variants), "num_negatives": 3, "verbose": False}
    mined = mined_negatives(Dataset.from_dict(TOY), static_model, **options)
    assert set(mined["who wrote Hamlet?"]) == set(TOY["answer"]) - {"Shakespeare wrote Hamlet."}
    assert len(variants & set(mined["how far?"])) + ("Shakespeare wrote Hamlet." in mined["how far?"]) == 1
    theirs = negatives_of(their_function(Dataset.from_dict(TOY), static_model, **options))
    assert variants & set(theirs["who wrote Hamlet?"])


def test_the_query_itself_is_no_negative(single_pairs, static_model):
    query = single_pairs[0]["question"]
    further = [query, query.upper()]
    mined = mined_negatives(single_pairs, static_model, corpus=further)
    assert not set(further) & set(mined[query])
    theirs = their_function(single_pairs, static_model, corpus=further, verbose=False)
    assert query in negatives_of(theirs)[query]


@pytest.mark.parametrize("include_positives", [False, True])
def test_no_text_is_a_negative_twice(few_pairs, static_model, include_positives):
    doubled = [text.upper() for text in few_pairs["answer"]] + [f" {text}  " for text in few_pairs["answer"]]
    options = {"num_negatives": 5, "output_format": "n-tuple", "include_positives": include_positives}
    mined = mine_hard_negatives(few_pairs, static_model, corpus=doubled, verbose=False, **options)
    assert len(mined) > 20
    for row in mined:
        assert len({key_of(row[f"negative_{place}"]) for place in range(1, 6)}) == 5


@pytest.mark.parametrize("range_min", [1, 2, 5])
def test_range_min_skips_ranks_of_the_full_list(single_pairs, static_model, range_min):
    options = {"range_min": range_min, "num_negatives": 2, "verbose": False}
    ours = negatives_of(mine_hard_negatives(single_pairs, static_model, **options))
    theirs = negatives_of(their_function(single_pairs, static_model, **options))
    answers = dict(zip(single_pairs["question"], single_pairs["answer"], strict=True))
    ranked = rankings(static_model, single_pairs)
    differing = 0
    for query, answer in answers.items():
        assert ours[query] == [text for text in ranked[query][range_min:] if text != answer][:2]
        assert theirs[query] == [text for text in ranked[query] if text != answer][range_min:][:2]
        differing += ours[query] != theirs[query]
    assert differing > 20


def test_range_max_is_the_last_rank(single_pairs, static_model):
    mined = mined_negatives(single_pairs, static_model, range_min=3, range_max=6, num_negatives=3)
    ranked = rankings(static_model, single_pairs)
    for row in single_pairs:
        # The highest rank, and one more for the positive.
        wanted = [text for text in ranked[row["question"]][3:7] if text != row["answer"]]
        assert mined[row["question"]] == wanted[:3]


def test_a_cross_encoder_without_a_limit_orders_the_candidates(few_pairs, static_model, cross_encoder):
    options = {"num_negatives": 4, "output_format": "labeled-list", "output_scores": True, "verbose": False}
    plain = mine_hard_negatives(few_pairs, static_model, **options)
    mined = mine_hard_negatives(few_pairs, static_model, cross_encoder=cross_encoder, **options)
    assert texts_of(mined) != texts_of(plain)
    for row in mined:
        wanted = cross_encoder.predict([(row["question"], text) for text in row["answer"]], show_progress_bar=False)
        np.testing.assert_allclose(row["scores"], wanted, atol=1e-5)
        assert row["scores"][1:] == sorted(row["scores"][1:], reverse=True)
    theirs = [their_function(few_pairs, static_model, cross_encoder=one, **options) for one in (None, cross_encoder)]
    assert texts_of(theirs[0]) == texts_of(theirs[1])


def test_a_cross_encoder_chooses_among_ten_times_as_many(single_pairs, static_model, cross_encoder):
    few = single_pairs.select(range(20))
    ranked = rankings(static_model, few)
    mined = mined_negatives(few, static_model, cross_encoder=cross_encoder, num_negatives=1)
    for row in few:
        near = [text for text in ranked[row["question"]][:12] if text != row["answer"]]
        scores = cross_encoder.predict([(row["question"], text) for text in near], show_progress_bar=False)
        assert mined[row["question"]] == [near[int(np.argmax(scores))]]


def test_random_negatives_repeat_by_seed(few_pairs, static_model):
    options = {"sampling_strategy": "random", "range_max": 30, "num_negatives": 3}
    random.seed(5)
    before = random.getstate()
    draws = [mined_negatives(few_pairs, static_model, seed=seed, **options) for seed in (1, 1, 2)]
    assert random.getstate() == before
    assert draws[0] == draws[1] != draws[2]
    assert all(len(set(negatives)) == 3 for negatives in draws[0].values())
    assert draws[0] != mined_negatives(few_pairs, static_model, range_max=30)


def test_random_negatives_of_a_query_do_not_depend_on_the_others(few_pairs, static_model):
    options = {"sampling_strategy": "random", "range_max": 30, "corpus": list(few_pairs["answer"])}
    whole = mined_negatives(few_pairs, static_model, **options)
    # The largest number of positives goes into the last rank, so all pairs of the query stay.
    most = Counter(few_pairs["question"]).most_common(1)[0][0]
    alone = mined_negatives(few_pairs.filter(lambda row: row["question"] == most), static_model, **options)
    assert alone[most] == whole[most]


def test_random_negatives_keep_the_margin(few_pairs, static_model):
    options = {"sampling_strategy": "random", "relative_margin": 0.1, "output_scores": True, "verbose": False}
    mined = mine_hard_negatives(few_pairs, static_model, **options)
    assert len(mined)
    for row in mined:
        positive, negative = row["scores"]
        assert negative <= positive - 0.1 * abs(positive) + 1e-6


@pytest.mark.parametrize("output_format", FORMATS)
def test_other_columns_can_be_kept(few_pairs, static_model, output_format):
    more = few_pairs.add_column("place", list(range(len(few_pairs)))).add_column("topic", ["medicine"] * 60)
    plain = mine_hard_negatives(more, static_model, output_format=output_format, verbose=False)
    mined = mine_hard_negatives(more, static_model, output_format=output_format, keep_columns=True, verbose=False)
    assert mined.column_names == [*plain.column_names, "place", "topic"]
    assert mined.select_columns(plain.column_names).to_list() == plain.to_list()
    first = {}
    for row in more:
        first.setdefault(row["question"], row["place"])
    assert [row["place"] for row in mined] == [first[row["question"]] for row in mined]
    assert set(mined["topic"]) == {"medicine"}


@pytest.mark.parametrize(
    ("name", "output_format"),
    [
        ("anchor", "triplet"),
        ("query", "triplet"),
        ("negative", "triplet"),
        ("scores", "triplet"),
        ("negative_1", "triplet"),
        ("negative_1", "n-tuple"),
        ("scores", "n-tuple"),
        ("score", "labeled-pair"),
        ("label", "labeled-pair"),
        ("scores", "labeled-list"),
        ("passages", "labeled-list"),
    ],
)
def test_a_kept_column_never_takes_the_place_of_a_new_one(few_pairs, static_model, name, output_format):
    more = few_pairs.add_column(name, ["something"] * len(few_pairs))
    options = {"output_format": output_format, "output_scores": True, "verbose": False}
    wanted = mine_hard_negatives(few_pairs, static_model, **options)
    try:
        mined = mine_hard_negatives(more, static_model, keep_columns=True, **options)
    except ValueError as error:
        assert repr(name) in str(error)  # noqa: PT017
        return
    assert mined.column_names == [*wanted.column_names, name]
    assert mined.select_columns(wanted.column_names).to_list() == wanted.to_list()


def test_training_mines_anew(few_pairs, make_static_model, tmp_path):
    import torch

    model = make_static_model()
    options = {"cache_folder": str(tmp_path), "output_scores": True, "verbose": False}
    before = mine_hard_negatives(few_pairs, model, **options)
    assert mine_hard_negatives(few_pairs, model, **options).to_list() == before.to_list()
    optimizer = torch.optim.SGD(model.parameters(), lr=20.0)
    features = model.tokenize([few_pairs[0]["question"], few_pairs[0]["answer"]])
    first, second = model(features)["sentence_embedding"]
    (-torch.cosine_similarity(first, second, dim=0)).backward()
    optimizer.step()
    after = mine_hard_negatives(few_pairs, model, **options)
    assert after.to_list() != before.to_list()
    assert after.to_list() == mine_hard_negatives(few_pairs, model, **(options | {"cache_folder": None})).to_list()
    assert_the_same(after, their_function(few_pairs, model, output_scores=True, verbose=False))


def test_an_unknown_column_is_an_error(few_pairs, static_model):
    for option in ("anchor_column_name", "positive_column_name"):
        with pytest.raises(KeyError, match=r"quetsion.*question"):
            mine_hard_negatives(few_pairs, static_model, **{option: "quetsion"})


def test_vectors_are_kept_in_the_cache_folder_alone(few_pairs, make_static_model, monkeypatch, tmp_path):
    usual, wanted = tmp_path / "usual", tmp_path / "wanted"
    usual.mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", usual)
    monkeypatch.chdir(usual)
    model = make_static_model(32)
    calls = []
    encode = SentenceTransformer.encode

    def counted(self, *args, **options):
        calls.append(1)
        return encode(self, *args, **options)

    monkeypatch.setattr(SentenceTransformer, "encode", counted)
    mined = mine_hard_negatives(few_pairs, model, cache_folder=str(wanted), verbose=False)
    first_calls = len(calls)
    again = mine_hard_negatives(few_pairs, model, cache_folder=str(wanted), num_negatives=2, verbose=False)
    assert len(calls) == first_calls > 0
    assert len(again) < len(mined)
    assert not list(usual.rglob("*"))
    size = len(set(few_pairs["answer"])) * 32 * 4
    assert any(path.stat().st_size >= size for path in wanted.rglob("*.npy"))


def test_two_cache_folders_are_independent(few_pairs, static_model, tmp_path):
    import shutil

    folders = [tmp_path / name for name in ("one", "two")]
    mined = [mine_hard_negatives(few_pairs, static_model, cache_folder=str(one), verbose=False) for one in folders]
    sizes = [sorted(path.stat().st_size for path in one.rglob("*.npy")) for one in folders]
    assert sizes[0] == sizes[1] != []
    shutil.rmtree(folders[0])
    mined.append(mine_hard_negatives(few_pairs, static_model, cache_folder=str(folders[0]), verbose=False))
    assert mined[0].to_list() == mined[1].to_list() == mined[2].to_list()


def test_the_cache_folder_is_left_after_an_error(few_pairs, static_model, tmp_path):
    from hnm_datasets.storage.folders import cache_root

    before = cache_root()
    with pytest.raises((TypeError, ValueError)):
        mine_hard_negatives(few_pairs, 3, cache_folder=str(tmp_path), verbose=False)
    assert cache_root() == before != Path(tmp_path)


def asked_in_variants(*changes):
    """The question about France in several forms, each with an answer of its own, and another question."""
    question = TOY["question"][0]
    answers = [f"{TOY['answer'][0]} Answer {place}." for place in range(len(changes))]
    questions = [change(question) for change in changes]
    return Dataset.from_dict({"q": [*questions, "who wrote Hamlet?"], "a": [*answers, TOY["answer"][1]]}), answers


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("count", [2, 4])
def test_variants_of_an_anchor_are_one_question(static_model, output_format, count):
    changes = [str, str.upper, "  {}\n".format, lambda text: text.replace(" ", "  ")][:count]
    pairs, answers = asked_in_variants(*changes)
    options = {"num_negatives": 1, "output_format": output_format, "verbose": False}
    mined = mine_hard_negatives(pairs, static_model, **options)
    assert mined.column_names == their_function(pairs, static_model, **options).column_names
    for question, answer in zip(pairs["q"][:count], answers, strict=True):
        texts = set()
        for row in mined.to_list():
            if row["q"] == question:
                texts |= {text for value in row.values() for text in np.atleast_1d(value) if isinstance(text, str)}
        assert texts == {question, answer, TOY["answer"][1]}


def test_positives_of_a_variant_are_included_with_the_row_s_own(static_model):
    pairs, answers = asked_in_variants(str, str.upper)
    options = {"include_positives": True, "output_format": "n-tuple", "num_negatives": 3}
    mined = mine_hard_negatives(pairs, static_model, verbose=False, **options)
    for row in mined.to_list()[:2]:
        assert {row[f"negative_{place}"] for place in (1, 2, 3)} == {*answers, TOY["answer"][1]}
