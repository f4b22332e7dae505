"""The rows of live negatives: texts, draws, padding and labels."""

import copy
import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from live_helpers import (
    PASSAGES,
    QUERIES,
    is_alone,
    known,
    make_rows,
    text_of,
    whole,
)
from torch.utils.data import DataLoader

from hnm_datasets import Corpus
from hnm_datasets.training.labels import PADDING
from hnm_datasets.training.live import live_negatives
from hnm_datasets.training.live_rows import LiveNegatives

# Two cores, or one, are enough for two small workers.
pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


@pytest.mark.parametrize("positives", ["each", "first"])
def test_a_row_for_each_query_and_positive_in_order(corpus, rows, positives):
    live = live_negatives(rows, corpus, n=3, positives=positives)
    assert isinstance(live, LiveNegatives)
    expected = [
        (row["query"], corpus[name]["text"])
        for row in rows
        for name in (row["positive_ids"] if positives == "each" else row["positive_ids"][:1])
    ]
    assert len(live) == len(expected)
    assert [(row["anchor"], row["positive"]) for row in live] == expected
    assert list(live[0]) == ["anchor", "positive", "negative_1", "negative_2", "negative_3", "label"]
    assert list(live[:2]) == list(live[0])


@pytest.mark.parametrize("n", [1, 3, 8])
def test_negatives_are_candidates_of_the_row_without_repetition_in_their_order(corpus, rows, n):
    live = live_negatives(rows, corpus, n=n)
    owners = [row for row in rows for _ in row["positive_ids"]]
    for epoch in range(3):
        live.set_epoch(epoch)
        for row, owner in zip(live, owners, strict=True):
            texts = [corpus[name]["text"] for name in owner["negative_ids"]]
            places = [texts.index(row[f"negative_{place + 1}"]) for place in range(n)]
            assert places == sorted(set(places))


def test_the_order_of_candidates_that_are_not_sorted_is_kept(corpus):
    row = {"query": "q0", "positive_ids": ["id1"], "negative_ids": ["id9", "id3", "id30", "id2", "id17"]}
    live = live_negatives(Dataset.from_list([row]), corpus, n=5)
    assert [live[0][f"negative_{place}"] for place in range(1, 6)] == [corpus[i]["text"] for i in row["negative_ids"]]


def test_a_query_without_positives_has_no_row_and_the_others_keep_theirs(corpus):
    rows = make_rows(positives=(0, 2, 1))
    live = live_negatives(rows, corpus, n=2)
    assert live["anchor"][:] == [row["query"] for row in rows for _ in row["positive_ids"]]
    positives, negatives = [None, ["id1"], ["id6"]], [["id2"], None, ["id7"]]
    nulls = Dataset.from_dict({"query": ["a", "b", "c"], "positive_ids": positives, "negative_ids": negatives})
    live = live_negatives(nulls, corpus, n=1)
    assert live["anchor"][:] == ["b", "c"]
    assert [known(row["label"], 1).passages[0, 1].item() for row in whole(live)] == [PADDING, 7]


def test_every_candidate_is_equally_likely(corpus):
    rows = make_rows(candidates=6, queries=10, positives=(2,))
    live, epochs = live_negatives(rows, corpus, n=2), 400
    places = np.zeros((len(live), 6), dtype=int)
    pairs = Counter()
    owners = [[corpus[name]["text"] for name in row["negative_ids"]] for row in rows for _ in row["positive_ids"]]
    for epoch in range(epochs):
        live.set_epoch(epoch)
        batch = live[:]
        for row, texts in enumerate(owners):
            drawn = tuple(texts.index(batch[f"negative_{place}"][row]) for place in (1, 2))
            places[row, list(drawn)] += 1
            pairs[drawn] += 1
    # Of each row 400·2/6 are expected, with a deviation of 9.4; of all rows together 2,667 with 42.
    assert np.abs(places - epochs / 3).max() < 4.5 * 9.4
    assert np.abs(places.sum(axis=0) - epochs * len(live) / 3).max() < 4 * 42
    assert set(pairs) == set(itertools.combinations(range(6), 2))
    expected = epochs * len(live) / 15
    assert max(abs(count - expected) for count in pairs.values()) < 4.5 * expected**0.5


def test_access_does_not_matter(corpus, rows):
    live = live_negatives(rows, corpus, n=3)
    live.set_epoch(2)
    expected = whole(live)
    size = len(live)
    assert [dict(zip(live[:], row, strict=True)) for row in zip(*live[:].values(), strict=True)] == expected
    order = np.random.default_rng(0).permutation(size).tolist()
    batch = live[order]
    assert [{name: batch[name][place] for name in batch} for place in range(size)] == [expected[row] for row in order]
    assert live.__getitems__(order) == [expected[row] for row in order]
    assert live[-1] == expected[-1]
    assert live[5:5]["anchor"] == []
    assert list(live) == expected
    assert [row for batch in live.iter(7) for row in batch["anchor"]] == [row["anchor"] for row in expected]
    assert live[[4, 4, 0]]["label"] == [expected[4]["label"], expected[4]["label"], expected[0]["label"]]
    picked = live.select([5, 3, 8])
    assert [picked[row] for row in range(3)] == [expected[row] for row in (5, 3, 8)]
    shuffled = live.shuffle(seed=1)
    assert sorted(map(str, whole(shuffled))) == sorted(map(str, expected))
    assert whole(live.select(range(4))) == expected[:4]
    assert whole(pickle.loads(pickle.dumps(live))) == expected
    assert whole(copy.deepcopy(live)) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_a_dataloader_draw_the_same(corpus, rows, workers):
    live = live_negatives(rows, corpus, n=3)
    context = "fork" if workers else None
    for epoch in (0, 1):
        live.set_epoch(epoch)
        expected = whole(live)
        loader = DataLoader(live, batch_size=5, num_workers=workers, multiprocessing_context=context, collate_fn=list)
        assert [row for batch in loader for row in batch] == expected


def test_workers_that_stay_see_the_epoch(corpus, rows):
    live = live_negatives(rows, corpus, n=3)
    loader = DataLoader(
        live, batch_size=5, num_workers=2, persistent_workers=True, multiprocessing_context="fork", collate_fn=list
    )
    seen = []
    for epoch in (0, 1, 0):
        live.set_epoch(epoch)
        seen.append([row for batch in loader for row in batch])
        assert seen[-1] == whole(live)
    assert seen[0] == seen[2] != seen[1]


def test_another_epoch_seed_or_positive_draws_others_and_the_same_ones_draw_the_same(corpus, rows):
    def draw(epoch, **options):
        live = live_negatives(rows, corpus, n=3, **options)
        live.set_epoch(epoch)
        return [[row[f"negative_{place}"] for place in (1, 2, 3)] for row in live]

    first = draw(0)
    assert draw(0) == first
    draws = [first, draw(1), draw(2), draw(0, seed=1), draw(1, seed=1)]
    for one, other in itertools.combinations(draws, 2):
        assert np.mean([a == b for a, b in zip(one, other, strict=True)]) < 0.2
    live = live_negatives(rows, corpus, n=3)
    live.set_epoch(5)
    assert whole(live) != whole(live_negatives(rows, corpus, n=3))
    live.set_epoch(0)
    assert [[row[f"negative_{place}"] for place in (1, 2, 3)] for row in live] == first
    # Rows of one query draw apart.
    owners = [row["query"] for row in rows for _ in row["positive_ids"]]
    pairs = zip(itertools.pairwise(first), itertools.pairwise(owners), strict=True)
    same = [one == other for (one, other), (query, after) in pairs if query == after]
    assert len(same) > 20
    assert np.mean(same) < 0.2


def test_the_draw_goes_by_the_row_and_not_by_its_place(corpus, rows):
    whole_set, backwards = (live_negatives(one, corpus, n=3) for one in (rows, rows.select(range(QUERIES - 1, -1, -1))))
    assert sorted(map(str, whole(whole_set))) == sorted(map(str, whole(backwards)))
    some = live_negatives(rows.select(range(4, 9)), corpus, n=3)
    assert {str(row) for row in whole(some)} <= {str(row) for row in whole(whole_set)}


def test_two_sets_of_rows_have_epochs_of_their_own(corpus, rows):
    one, other = live_negatives(rows, corpus, n=3), live_negatives(rows, corpus, n=3)
    before = whole(one)
    other.set_epoch(3)
    assert whole(one) == before
    assert whole(other) != before


def test_short_rows_are_filled_with_passages_that_are_no_positives(corpus):
    rows = make_rows(candidates=2, queries=12)
    live = live_negatives(rows, corpus, n=5)
    owners = [row for row in rows for _ in row["positive_ids"]]
    texts = {text_of(row) for row in range(PASSAGES)}
    fillers = Counter()
    for epoch in range(30):
        live.set_epoch(epoch)
        for row, owner in zip(live, owners, strict=True):
            labels = known(row["label"], 5)
            assert labels.passages[0, :3].tolist().count(PADDING) == 0
            assert labels.passages[0, 3:].tolist() == [PADDING] * 3
            assert [row["negative_1"], row["negative_2"]] == [corpus[name]["text"] for name in owner["negative_ids"]]
            drawn = [row[f"negative_{place}"] for place in (3, 4, 5)]
            assert set(drawn) <= texts
            assert not set(drawn) & {corpus[name]["text"] for name in owner["positive_ids"] if is_alone(name)}
            fillers.update(drawn)
    assert len(fillers) == PASSAGES - 5
    assert max(fillers.values()) < 5 * min(fillers.values())


def test_padding_is_no_copy_of_a_positive_either(corpus):
    """The stock loss takes padding for negatives: it must not be the positive's own text under another id."""
    rows = Dataset.from_dict({"query": ["q0"], "positive_ids": [["id0", "id1"]]})
    live = live_negatives(rows, corpus, n=8)
    drawn = set()
    for epoch in range(40):
        live.set_epoch(epoch)
        drawn |= {row[f"negative_{place}"] for row in live for place in range(1, 9)}
    assert not drawn & {text_of(0), text_of(1)}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_corpus_smaller_than_the_row(size):
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": list("abc")[:size], "text": ["A", "B", "C"][:size]}))
    rows = Dataset.from_dict({"query": ["x"], "positive_ids": [["a"]], "negative_ids": [["b"]]})
    row = live_negatives(rows if size > 1 else rows.remove_columns("negative_ids"), corpus, n=6)[0]
    labels = known(row["label"], 6).passages[0].tolist()
    assert labels[1 + (size > 1) :] == [PADDING] * (6 - (size > 1))
    assert all(row[f"negative_{place}"] for place in range(1, 7))


def test_rows_that_were_not_mined_are_padding_alone(corpus, rows):
    plain = rows.select_columns(["query", "positive_ids"])
    live = live_negatives(plain, corpus, n=2)
    for row in live:
        labels = known(row["label"], 2)
        assert labels.passages[0, 1:].tolist() == [PADDING, PADDING]
    live = live_negatives(plain, corpus, n=2, teacher="teacher")
    assert known(live[0]["label"], 2).scores is not None


def test_keys_are_equal_exactly_where_texts_are_and_all_positives_are_known(corpus):
    rng = np.random.default_rng(3)
    rows = Dataset.from_list(
        [
            {
                "query": f"q{query}",
                "positive_ids": [f"id{row}" for row in picked[: query % 4 + 1]],
                "negative_ids": [f"id{row}" for row in picked[4:] if text_of(row) not in own][:6],
            }
            for query in range(30)
            for picked in [rng.permutation(PASSAGES)]
            for own in [{text_of(row) for row in picked[: query % 4 + 1]}]
        ]
    )
    live = live_negatives(rows, corpus, n=6)
    positives = {row["query"]: {corpus[name]["text"] for name in row["positive_ids"]} for row in rows}
    text_of_key, key_of_text, all_known = {}, {}, []
    for row in live:
        labels = known(row["label"], 6)
        assert labels.scores is None
        texts = [row["positive"], *(row[f"negative_{place}"] for place in range(1, 7))]
        for key, text in zip(labels.passages[0].tolist(), texts, strict=True):
            assert text_of_key.setdefault(key, text) == text
            assert key_of_text.setdefault(text, key) == key
        all_known.append((row["anchor"], labels.positives[0].tolist()))
    assert len({len(keys) for _, keys in all_known}) == 1
    for anchor, keys in all_known:
        texts = {text_of_key[key] for key in keys if key != PADDING and key in text_of_key}
        assert texts == positives[anchor]
    assert PADDING not in text_of_key


def test_scores_of_the_teacher_arrive_as_they_are(corpus, rows):
    live = live_negatives(rows, corpus, n=3, teacher="teacher")
    owners = [(row, place) for row in rows for place in range(len(row["positive_ids"]))]
    for epoch in range(2):
        live.set_epoch(epoch)
        for row, (owner, place) in zip(live, owners, strict=True):
            scores = known(row["label"], 3).scores[0].numpy()
            texts = [corpus[name]["text"] for name in owner["negative_ids"]]
            drawn = [texts.index(row[f"negative_{number}"]) for number in (1, 2, 3)]
            expected = [owner["negative_teacher_scores"][one] for one in drawn]
            expected.insert(0, owner["positive_teacher_scores"][place])
            assert scores.tobytes() == np.float32(expected).tobytes()


def test_extreme_scores_and_the_retrievers(corpus):
    values = [-0.0, 3.4028235e38, 1e-45, float("-inf"), -1.5]
    rows = Dataset.from_dict(
        {
            "query": ["q"],
            "positive_ids": [["id0"]],
            "negative_ids": [["id1", "id2", "id3", "id4"]],
            "positive_scores": [values[:1]],
            "negative_scores": [values[1:]],
        }
    )
    labels = known(live_negatives(rows, corpus, n=4, teacher="score")[0]["label"], 4)
    assert labels.scores.numpy().tobytes() == np.float32(values).tobytes()
