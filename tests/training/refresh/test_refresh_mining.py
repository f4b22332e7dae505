"""Refreshed negatives are those of the model as it is then."""

from functools import partial

import numpy as np
import pytest
import torch
from datasets import DatasetDict, concatenate_datasets
from refresh_helpers import (
    PASSAGES,
    QUERIES,
    K,
    chain,
    check_numbers,
    from_scratch,
    generations,
    lists_of,
    make_model,
    owners_of,
    rows_of,
    train,
)
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments

from hnm_datasets import (
    AbsoluteMargin,
    BM25Negatives,
    CrossEncoderScores,
    DenseNegatives,
    TeacherThreshold,
)
from hnm_datasets.training.generations import Generation
from hnm_datasets.training.labels import PADDING, unpack
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.loss import HardNegativesRankingLoss
from hnm_datasets.training.refresh import RefreshNegatives

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


@pytest.mark.parametrize(("every", "at"), [(5, (5, 10, 15, 20)), (0.6, (6, 12, 18)), (1.0, (10, 20))])
def test_negatives_are_those_of_mining_with_the_model_of_that_step(corpus, mined, tmp_path, every, at):
    live = live_negatives(mined, corpus, n=3)
    done = train(live, tmp_path, chain(corpus), every, save=at, options={"keep": 9})
    assert [one["step"] for one in done.refresh.history] == list(at)
    assert sorted(generations(tmp_path)) == list(range(1, len(at) + 1))
    before = lists_of(live.source.folder_of(0))[1]
    for number, step in enumerate(at, start=1):
        model = SentenceTransformer(str(tmp_path / f"checkpoint-{step}"), device="cpu")
        found, kept = from_scratch(mined, corpus, chain(corpus), model)
        positives, negatives = lists_of(generations(tmp_path)[number])
        assert positives == rows_of(corpus, mined, "positive_ids")
        assert negatives == rows_of(corpus, kept)
        assert negatives != before
        about = done.refresh.history[number - 1]
        assert about["generation"] == number
        assert about["model_step"] == step
        check_numbers(about, found, kept, before, negatives, n=3)
        before = negatives


def test_the_trainer_draws_from_the_new_lists_from_the_batch_after_next(corpus, mined, tmp_path):
    live = live_negatives(mined, corpus, n=3)
    done = train(live, tmp_path, chain(corpus), 4, options={"keep": 99})
    assert len(done.labels) == 24
    owners = owners_of(corpus, mined)
    codes = {0: lists_of(live.source.folder_of(0))[1]}
    codes |= {number: lists_of(path)[1] for number, path in generations(tmp_path).items()}
    for place, labels in enumerate(done.labels):
        # Batch 5 (place 4) was ready when step 4 ended, unless an epoch ended there.
        number = place // 4 if place % 4 or place % 10 == 0 else place // 4 - 1
        known = unpack(labels, 4)
        for passages, positives in zip(known.passages.tolist(), known.positives.tolist(), strict=True):
            query = owners[frozenset(positives) - {PADDING}]
            there = [int(corpus.text_codes[row]) for row in codes[max(number, 0)][query]]
            drawn = [key for key in passages[1:] if key != PADDING]
            assert len(drawn) == min(3, len(there)), place
            assert [there.index(key) for key in drawn] == sorted(there.index(key) for key in drawn), place


def test_queries_that_were_not_mined_are_mined_before_the_first_step(corpus, queries, tmp_path):
    live = live_negatives(queries, corpus, n=2)
    model = make_model()
    expected = from_scratch(queries, corpus, chain(corpus), make_model())[-1]
    done = train(live, tmp_path, chain(corpus), 50, model=model)
    assert [one["step"] for one in done.refresh.history] == [0]
    assert lists_of(generations(tmp_path)[1])[1] == rows_of(corpus, expected)
    first = unpack(done.labels[0], 3).passages
    assert (first[:, 1:] != PADDING).float().mean() > 0.4


@pytest.mark.parametrize("fraction", [0.5])
def test_queries_that_were_not_mined_are_all_mined_at_first(corpus, queries, tmp_path, fraction):
    """A share of nothing would leave the other queries with padding alone."""
    live = live_negatives(queries, corpus, n=2)
    expected = from_scratch(queries, corpus, chain(corpus), make_model())[-1]
    train(live, tmp_path, chain(corpus), 50, options={"fraction": fraction})
    assert lists_of(generations(tmp_path)[1])[1] == rows_of(corpus, expected)


def test_queries_that_are_not_mined_keep_their_negatives(corpus, mined, tmp_path):
    asked = []

    def note(table):
        asked.append(set(table["query_id"].to_pylist()))
        return table

    live = live_negatives(mined, corpus, n=3)
    steps = [*chain(corpus), lambda model: note]
    done = train(live, tmp_path, steps, 5, save=(5, 10, 15, 20), options={"keep": 9, "fraction": 0.5})
    before = lists_of(live.source.folder_of(0))[1]
    for number in (1, 2, 3, 4):
        model = SentenceTransformer(str(tmp_path / f"checkpoint-{5 * number}"), device="cpu")
        fresh = rows_of(corpus, from_scratch(mined, corpus, chain(corpus), model)[-1])
        now = lists_of(generations(tmp_path)[number])[1]
        half = [name in asked[number - 1] for name in mined["query_id"]]
        assert now == [one if there else old for one, old, there in zip(fresh, before, half, strict=True)]
        new = [row not in before[query] for query in range(QUERIES) if half[query] for row in now[query]]
        assert done.refresh.history[number - 1]["replaced"] == pytest.approx(np.mean(new))
        before = now


@pytest.mark.parametrize(("fraction", "rounds"), [(0.5, 2), (0.25, 4), (0.75, 2)])
def test_each_time_that_share_is_mined_and_all_queries_in_turn(corpus, mined, tmp_path, fraction, rounds):
    asked = []

    def note(table):
        asked.append(table["query_id"].to_pylist())
        return table

    live = live_negatives(mined, corpus, n=3)
    steps = [partial(DenseNegatives, corpus, k=K), lambda model: note]
    train(live, tmp_path, steps, 4, options={"keep": 99, "fraction": fraction})
    assert len(asked) == 5
    assert [len(one) for one in asked] == pytest.approx([fraction * QUERIES] * 5, abs=1)
    for start in range(5 - rounds):
        assert set().union(*asked[start : start + rounds]) == set(mined["query_id"])


def test_promoted_positives_become_known_and_are_never_negatives(corpus, mined, tmp_path):
    asked = []

    def teacher(pairs):
        asked.extend(pairs)
        return [len(set(query.split()) & set(passage.split())) / 3 for query, passage in pairs]

    scored = mined.map(CrossEncoderScores(corpus, teacher, fingerprint="share-1"), batched=True)
    live = live_negatives(scored, corpus, n=3, teacher="teacher", max_positives=40)
    steps = [
        partial(DenseNegatives, corpus, k=30),
        CrossEncoderScores(corpus, teacher, fingerprint="share-1"),
        TeacherThreshold(0.3, 0.6, promote=True),
    ]
    done = train(live, tmp_path, steps, 4, options={"keep": 99})
    ever = [set(one) for one in rows_of(corpus, mined, "positive_ids")]
    grew = 0
    for number in range(1, 6):
        positives, negatives = lists_of(generations(tmp_path)[number])
        for query in range(QUERIES):
            assert ever[query] <= set(positives[query])
            assert len(positives[query]) == len(set(positives[query]))
            grew += len(positives[query]) > len(ever[query])
            ever[query] = set(positives[query])
            assert not ever[query] & set(negatives[query])
        found = Generation.open(generations(tmp_path)[number])
        assert len(found.positive_scores) == len(found.positives.values)
    assert grew > 5
    owners = [query for query in range(QUERIES) for _ in mined[query]["positive_ids"]]
    for row, owner in zip(live, owners, strict=True):
        labels = unpack(torch.tensor([row["label"]]), 4)
        keys = set(labels.positives[0].tolist()) - {PADDING}
        assert keys == {int(corpus.text_codes[one]) for one in ever[owner]}
        texts = [row["positive"], *(row[f"negative_{place}"] for place in (1, 2, 3))]
        for text, key, score in zip(texts, labels.passages[0], labels.scores[0], strict=True):
            if key != PADDING:
                assert score == np.float32(teacher([(row["anchor"], text)])[0])
    assert done.refresh.history


def test_promoted_positives_need_room(corpus, mined, tmp_path):
    def teacher(pairs):
        return [1.0] * len(pairs)

    live = live_negatives(mined, corpus, n=3)
    steps = [
        *chain(corpus, k=4)[:1],
        CrossEncoderScores(corpus, teacher, fingerprint="one"),
        TeacherThreshold(0.3, 0.6, promote=True),
    ]
    with pytest.raises(ValueError, match="max_positives="):
        train(live, tmp_path, steps, 4)


def test_a_refresh_that_leaves_no_candidate_is_refused(corpus, queries, tmp_path):
    live = live_negatives(queries, corpus, n=2)
    with pytest.raises(ValueError, match=r"the steps leave no candidates for any query.*[Ww]iden the filters"):
        train(live, tmp_path, [*chain(corpus)[:1], AbsoluteMargin(9.0)])


def test_two_sets_of_the_same_queries_keep_apart(corpus, mined, tmp_path):
    """Of the same rows, with other numbers of negatives and other steps."""
    data = DatasetDict(one=live_negatives(mined, corpus, n=1), two=live_negatives(mined, corpus, n=3))
    model = make_model()
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, report_to=[], save_strategy="no",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    sets = [(data["one"], 2), (data["two"], 7)]
    refreshes = [RefreshNegatives(live, [BM25Negatives(corpus, k=k)], 2) for live, k in sets]
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=data, loss=HardNegativesRankingLoss(model), callbacks=refreshes
    )
    try:
        trainer.train()
    except ValueError:
        # To refuse them is as good.
        return
    for live, k in sets:
        expected = rows_of(corpus, mined.remove_columns("negative_ids").map(BM25Negatives(corpus, k=k), batched=True))
        found = live.source.generation().negatives
        assert found.values.tolist() == [row for one in expected for row in one]


def test_no_row_of_a_question_is_given_the_positive_of_another(corpus, queries, tmp_path):
    first = queries.select(range(10))
    again = first.map(
        lambda row, place: {"query": row["query"].upper(), "query_id": f"again{place}"}, with_indices=True
    )
    others = queries.select(range(10, 20))["positive_ids"][:]
    again = again.remove_columns("positive_ids").add_column("positive_ids", others)
    live = live_negatives(concatenate_datasets([first, again]), corpus, n=2)
    train(live, tmp_path, chain(corpus, k=PASSAGES), 12)
    positives, negatives = lists_of(generations(tmp_path)[1])
    for row in range(10):
        known = {int(corpus.text_codes[one]) for one in positives[row] + positives[row + 10]}
        for own in (negatives[row], negatives[row + 10]):
            assert own
            assert not known & {int(corpus.text_codes[one]) for one in own}
