"""Live rows of one question know each other's positives."""

import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset
from live_helpers import known, whole

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    HardNegativesRankingLoss,
    RandomNegatives,
    live_negatives,
    pool_positives,
)
from hnm_datasets.training.labels import PADDING

TEXTS = ["Paris is the capital.", "The capital: Paris.", "Rome is the capital.", "The capital is Bern.", "No capital."]
QUESTION = "what is the capital"


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{place}" for place in range(5)], "text": TEXTS}))


def rows_of(queries, positives, **columns):
    return Dataset.from_dict({"query": queries, "positive_ids": positives} | columns)


def known_keys(row, n):
    return set(known(row["label"], n).positives[0].tolist()) - {PADDING}


@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("second", [QUESTION, QUESTION.upper(), f" {QUESTION}\n"])
def test_labels_hold_the_positives_of_all_rows_of_the_question(corpus, second, with_ids):
    ids = {"query_id": ["q1", "q2", "q3"]} if with_ids else {}
    rows = rows_of([QUESTION, second, "another"], [["p0", "p3"], ["p1"], ["p2"]], **ids)
    live = live_negatives(rows.map(RandomNegatives(corpus), batched=True), corpus, n=2)
    assert [known_keys(row, 2) for row in whole(live)] == [{0, 1, 3}, {0, 1, 3}, {0, 1, 3}, {2}]
    again = pickle.loads(pickle.dumps(live.source))
    numbers = {"query_row": [1], "positive_row": [1]}
    assert again(numbers)["label"] == live.source(numbers)["label"]


def test_pooled_positives_of_rows_that_are_not_there_are_known(corpus):
    rows = pool_positives(rows_of([QUESTION, QUESTION, "another"], [["p0"], ["p1"], ["p2"]])).select([1, 2])
    live = live_negatives(rows.map(BM25Negatives(corpus), batched=True), corpus)
    assert [known_keys(row, 1) for row in whole(live)] == [{0, 1}, {2}]


def test_the_loss_masks_the_positives_of_other_rows_of_the_question(corpus):
    rows = rows_of(
        [QUESTION, QUESTION.title(), "another"], [["p0"], ["p1"], ["p2"]], negative_ids=[["p3"], ["p4"], ["p1"]]
    )
    live = live_negatives(rows, corpus)
    labels = torch.tensor([row["label"] for row in whole(live)])
    random = torch.Generator().manual_seed(1)
    queries, positives, negatives = torch.nn.functional.normalize(
        torch.randn(3, 3, 4, generator=random, dtype=torch.float64), dim=-1
    )
    loss = HardNegativesRankingLoss(torch.nn.Identity(), log_masked=False)
    found = loss.compute_loss_from_embeddings([queries, positives, negatives], labels)
    logits = 20 * queries @ torch.cat([positives, negatives]).T
    # Passages 0 and 1 answer the first two rows; the last row's negative is passage 1.
    allowed = [[0, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    losses = [torch.logsumexp(logits[row, kept], 0) - logits[row, row] for row, kept in enumerate(allowed)]
    torch.testing.assert_close(found, torch.stack(losses).mean())


@pytest.mark.parametrize("positives", [[["p0"], ["p1"], ["p3"]], [["p0"], ["p1", "p2"], ["p3"]]])
def test_padding_is_none_of_the_positives_of_the_question(corpus, positives):
    live = live_negatives(rows_of([QUESTION] * 3, positives), corpus)
    known = {TEXTS[int(name[1:])] for names in positives for name in names}
    for epoch in range(5):
        live.set_epoch(epoch)
        assert not {row["negative_1"] for row in whole(live)} & known


def test_room_is_for_the_positives_of_a_question(corpus):
    rows = rows_of([QUESTION, QUESTION, "another"], [["p0", "p1"], ["p1", "p2"], ["p3"]])
    with pytest.raises(ValueError, match="3 positives, more than max_positives=2"):
        live_negatives(rows, corpus, max_positives=2)
    assert len(live_negatives(rows, corpus, max_positives=3)) == 5


def test_many_rows_of_one_question_take_memory_once():
    count = 3000
    texts = [f"passage {place}" for place in range(count)]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": texts, "text": texts}))
    live = live_negatives(rows_of(["why"] * count, [[text] for text in texts]), corpus)
    assert len(live.source.known_codes(live.source.generation(), np.array([7])).values) == count
    assert live.source._known_lists(live.source.generation()).offsets[-1] == count


def test_copies_under_other_titles_have_one_key():
    columns = {"id": ["a", "b", "c"], "title": ["zoos", "parks", "zoos"], "text": ["Bad.", "BAD.", "Good."]}
    corpus = Corpus.from_dataset(Dataset.from_dict(columns))
    live = live_negatives(rows_of(["q"], [["a"]], negative_ids=[["b", "c"]]), corpus, n=2)
    label = known(live[0]["label"], 2)
    assert label.passages[0, 0] == label.positives[0, 0]
    assert label.passages[0].tolist() == [0, 2, PADDING]
