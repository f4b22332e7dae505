"""`mined`: ids, all scores, ranks and sources are read; passages are found in the corpus."""

import numpy as np
import pytest
from datasets import Dataset
from format_examples import example, make_corpus, mined, read

from hnm_datasets import convert, from_pairs

# ---- reading -------------------------------------------------------------------------------------------------------


def test_mined_rows_bring_ranks_sources_and_all_scores():
    more = {
        "negative_ranks": [[1, 2], [1, 7]],
        "negative_source": [["bm25", "dense"], ["bm25", "bm25"]],
        "negative_teacher_scores": [[0.1, None], [0.3, 0.4]],
        "positive_teacher_scores": [[0.9], [0.8]],
        "negative_other_ranks": [[1, 2], [0, 1]],
    }
    _, rows = read(example("mined") | more)
    assert rows.negatives.ranks.tolist() == [1, 2, 1, 7]
    assert rows.negatives.sources.to_pylist() == ["bm25", "dense", "bm25", "bm25"]
    assert set(rows.negatives.scores) == set(rows.positives.scores) == {"score", "teacher"}
    np.testing.assert_array_equal(rows.negatives.scores["teacher"], [0.1, np.nan, 0.3, 0.4])


# ---- writing -------------------------------------------------------------------------------------------------------


def test_to_mined_by_text_where_the_ids_are_others():
    rows = Dataset.from_dict(
        {"query": ["one?"], "pos": [["TITLE A  text a"]], "neg": [["text e", "text e"]], "pos_id": [["77"]]}
    )
    made = convert(rows, "mined", make_corpus())
    assert made[0] == {"query": "one?", "positive_ids": ["a"], "negative_ids": ["e"]}


def test_to_mined_by_the_hashes_of_from_pairs():
    pairs = Dataset.from_dict({"anchor": ["a?"], "positive": ["A."], "negative": ["B."]})
    corpus, _ = from_pairs(pairs, "anchor", "positive", passages=pairs["negative"][:])
    tevatron = convert(pairs, "tevatron")
    assert corpus[tevatron[0]["negative_passages"][0]["docid"]]["text"] == "B."
    assert convert(tevatron, "mined", corpus)["positive_ids"] == convert(pairs, "mined", corpus)["positive_ids"]


def test_a_passage_that_the_corpus_lacks():
    rows = {"query": ["one?"], "pos": [["text d"]], "neg": [["text e", "text z"]]}
    with pytest.raises(KeyError, match=r"'text z' of the query 'one\?' is not among the 5.*passages=\.\.\."):
        convert(Dataset.from_dict(rows), "mined", make_corpus())
    rows |= {"neg_id": [["e", "z"]]}
    with pytest.raises(KeyError, match="'text z' with the id 'z'"):
        convert(Dataset.from_dict(rows), "mined", make_corpus())
    with pytest.raises(KeyError, match=r"'negative_ids' of the row with query 'three\?' names the passage 'z'"):
        convert(mined(negative_ids=[["c", "d"], ["e", "a"], ["b", "z"]]), "triplets", make_corpus())


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (
            {"query": ["a"], "positive_ids": [["p"]], "negative_ids": [["n"]], "negative_ranks": [[None]]},
            ValueError,
            "'negative_ranks' holds a null",
        ),
        (
            {"query": ["a"], "positive_ids": [["p"]], "negative_ids": [["n"]], "negative_ranks": [[1, 2]]},
            ValueError,
            "'negative_ids' and 'negative_ranks' must be aligned",
        ),
        (
            example("mined") | {"positive_scores": [[], [1.0]]},
            ValueError,
            "'positive_ids' and 'positive_scores' must be aligned",
        ),
    ],
)
def test_what_does_not_fit_is_named(columns, error, message):
    with pytest.raises(error, match=message):
        read(columns)
