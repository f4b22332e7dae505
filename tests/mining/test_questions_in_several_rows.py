"""No positive of a question is mined for another row with this question, wherever the rows are."""

import datasets
import pytest
from datasets import Dataset

from hnm_datasets import BM25Negatives, Corpus, MiningReport, RankWindow, ToTriplets, mine, pool_positives

TEXTS = ["plates move", "plates move slowly", "slow plates collide", "waves and plates", "plates of food"]
QUESTION = "why do plates move?"
VARIANTS = [QUESTION, "Why do  plates move?\n", "WHY DO PLATES MOVE?", "ｗhy do plates move?"]
OTHERS = [f"what are plates {number}" for number in range(6)]


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{n}" for n in range(len(TEXTS))], "text": TEXTS}))


def rows_of(queries, positives, **columns):
    return Dataset.from_dict({"query": queries, "positive_ids": positives} | columns)


def split_rows(second=QUESTION, **columns):
    """The first and the last of eight rows have the same question."""
    return rows_of([QUESTION, *OTHERS, second], [["p0", "p3"], *[["p4"]] * 6, ["p1"]], **columns)


@pytest.mark.parametrize("second", VARIANTS)
@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 3}, {"batch_size": 2, "num_proc": 2}], ids=["batch", "batches", "workers"]
)
def test_mine_pools_before_it_mines(corpus, second, options, caplog):
    rows = split_rows(second)
    found = mine(rows, [BM25Negatives(corpus)], **options)
    assert [sorted(found[at]["negative_ids"]) for at in (0, -1)] == [["p2", "p4"]] * 2
    assert found["known_positive_ids"][:] == [["p1"], *[[]] * 6, ["p0", "p3"]]
    (message,) = caplog.messages
    assert message.startswith("mine: 2 of 8 rows have the same question as other rows, but not all of their positives.")
    caplog.clear()
    assert mine(pool_positives(rows), [BM25Negatives(corpus)]).to_list() == found.to_list()
    assert not caplog.messages


@pytest.mark.parametrize("ids", [["a", "b"], ["a", "a"], [1, 2]])
def test_query_ids_do_not_matter(corpus, ids):
    rows = rows_of([QUESTION, VARIANTS[1]], [["p0"], ["p1"]], query_id=ids)
    triplets = mine(rows, [BM25Negatives(corpus), RankWindow(1), ToTriplets(corpus)])
    assert triplets.column_names == ["anchor", "positive", "negative"]
    assert {TEXTS[0], TEXTS[1]}.isdisjoint(triplets["negative"][:])


def test_rows_that_lack_nothing_stay_as_they_are(corpus, caplog):
    same = rows_of([QUESTION, QUESTION], [["p0", "p1"], ["p1", "p0", "p0"]])
    assert "known_positive_ids" not in mine(same, [BM25Negatives(corpus)]).column_names
    pooled = pool_positives(split_rows())
    # The order of the ids is no reason to write them again.
    part = pooled.select([7, 0]).map(lambda row: {"known_positive_ids": row["known_positive_ids"][::-1]})
    assert mine(part, [BM25Negatives(corpus)])["known_positive_ids"][:] == part["known_positive_ids"][:]
    assert not caplog.messages


def test_pooled_rows_of_several_sets_are_pooled_again(corpus, caplog):
    rows = datasets.concatenate_datasets(
        [pool_positives(rows_of([QUESTION, QUESTION], [["p0"], ["p1"]])), rows_of([VARIANTS[2], "else"], [["p2"], []])]
    )
    found = mine(rows, [BM25Negatives(corpus)])
    assert found["known_positive_ids"][:] == [["p1", "p2"], ["p0", "p2"], ["p0", "p1"], []]
    assert "mine: 3 of 4 rows" in caplog.text


def test_rows_mined_by_map_are_checked_by_the_next_steps(corpus):
    mined = split_rows().map(BM25Negatives(corpus), batched=True, batch_size=2)
    assert "p1" in mined[0]["negative_ids"]
    before = MiningReport.of(mined)
    triplets = mine(mined, [ToTriplets(corpus)])
    negatives = {row["negative"] for row in triplets if row["anchor"] == QUESTION}
    assert before is None
    assert negatives == {TEXTS[2], TEXTS[4]}


def test_map_warns_of_the_rows_that_it_sees(corpus, caplog):
    rows = split_rows(VARIANTS[1])
    rows.map(BM25Negatives(corpus), batched=True)
    (message,) = caplog.messages
    assert message.startswith("BM25Negatives: 2 of the 8 rows in this batch have the same question as other rows")
    assert "pool_positives(rows)" in message
    caplog.clear()
    pool_positives(rows).map(BM25Negatives(corpus), batched=True)
    rows.map(BM25Negatives(corpus, k=3), batched=True, batch_size=4)
    rows_of([QUESTION, QUESTION], [["p0"], ["p0"]]).map(BM25Negatives(corpus), batched=True)
    assert not caplog.messages


@pytest.mark.parametrize("query", [[1, 2], [QUESTION, None]])
def test_columns_that_only_steps_can_refuse(corpus, query):
    rows = Dataset.from_dict({"query": query, "positive_ids": [["p0"], ["p1"]]})
    with pytest.raises((TypeError, ValueError), match="BM25Negatives: the column 'query'"):
        mine(rows, [BM25Negatives(corpus)])
