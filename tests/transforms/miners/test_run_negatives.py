"""RunNegatives: runs of every form are read alike, kept by content, and bad ones are errors that name the place."""

import gzip
import json
import logging
import pickle

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    FuseNegatives,
    JudgedNegatives,
    RunNegatives,
    ToTriplets,
    load_sample,
)
from hnm_datasets.storage.folders import cache_root

TREC = """\
q1 Q0 p3 1 9.5 bm25
q1 Q0 p1 2 8.25 bm25
q1 Q0 p0 3 8.25 bm25
q2 Q0 p7 1 -1.5 bm25
"""
ROWS = {"query_id": ["q2", "q1"], "query": ["who?", "what?"], "positive_ids": [["p0"], ["p1"]]}
#: What each form of the same run gives for the rows.
NEGATIVES = [["p7"], ["p3", "p0"]]


@pytest.fixture(scope="module")
def corpus():
    texts = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    return Corpus.from_dataset({"id": [f"p{i}" for i in range(8)], "text": texts})


def written(tmp_path, content, name="run.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def mine(corpus, run, rows=ROWS, **options):
    return RunNegatives(corpus, run, **options)(rows)


def test_a_trec_run_is_mined(corpus, tmp_path):
    mined = mine(corpus, written(tmp_path, TREC))
    assert mined["negative_ids"] == NEGATIVES
    assert mined["negative_scores"] == [[-1.5], [9.5, 8.25]]
    assert mined["negative_ranks"] == [[1], [1, 3]]
    assert mined["negative_source"] == [["run"], ["run", "run"]]
    assert mined["positive_scores"] == [[None], [8.25]]
    assert mine(corpus, str(tmp_path / "run.txt"), k=1)["negative_ids"] == [["p7"], ["p3"]]


@pytest.mark.parametrize(
    "content",
    [
        TREC.replace(" ", "\t"),
        TREC.replace(" ", "   ").replace("\n", " \r\n"),
        "\n" + TREC.rstrip(),
        "".join(reversed(TREC.splitlines(keepends=True))),
        gzip.compress(TREC.encode()),
        # The ranks of some tools are all the same.
        TREC.replace(" 1 ", " 0 ").replace(" 2 ", " 0 ").replace(" 3 ", " 0 "),
        "q1\tp3\t9.5\nq1\tp1\t8.25\nq1\tp0\t8.25\nq2\tp7\t-1.5\n",
        "q1\tp3\t1\t9.5\nq1\tp0\t3\t8.25\nq1\tp1\t2\t8.25\nq2\tp7\t1\t-1.5\n",
        json.dumps({"q1": {"p1": 8.25, "p3": 9.5, "p0": 8.25}, "q2": {"p7": -1.5}}),
    ],
    ids=["tabs", "spaces", "blank-lines", "reversed", "gzip", "one-rank", "tevatron", "colbert", "json"],
)
def test_files_of_every_form(corpus, tmp_path, content):
    mined = mine(corpus, written(tmp_path, content))
    assert mined["negative_ids"] == NEGATIVES
    assert mined["negative_scores"] == [[-1.5], [9.5, 8.25]]
    assert mined["negative_ranks"] == [[1], [1, 3]]


def test_ranks_alone_give_an_order_and_no_scores(corpus, tmp_path):
    mined = mine(corpus, written(tmp_path, "q1\tp3\t1\nq1\tp1\t2\nq1\tp0\t3\nq2\tp7\t1\n"))
    assert mined["negative_ids"] == NEGATIVES
    assert mined["negative_ranks"] == [[1], [1, 3]]
    assert mined["negative_scores"] == [[None], [None, None]]
    # Whole numbers that do not count up are scores.
    mined = mine(corpus, written(tmp_path, "q1\tp3\t3\nq1\tp1\t2\nq1\tp0\t1\nq2\tp7\t1\n"))
    assert mined["negative_scores"] == [[1.0], [3.0, 1.0]]


def test_a_folder_holds_the_parts_of_one_run(corpus, tmp_path):
    written(tmp_path, TREC[: TREC.index("q2")], "rank.00.txt")
    written(tmp_path, gzip.compress(TREC[TREC.index("q2") :].encode()), "rank.01.txt.gz")
    written(tmp_path, "no run", ".hidden")
    assert mine(corpus, tmp_path)["negative_ids"] == NEGATIVES
    written(tmp_path, TREC, "rank.02.txt")
    with pytest.raises(ValueError, match=r"query 'q1' is in .*rank\.00\.txt and in .*rank\.02\.txt.*FuseNegatives"):
        RunNegatives(corpus, tmp_path)


LONG = {
    "qid": ["q1", "q2", "q1", "q1"],
    "docno": ["p1", "p7", "p3", "p0"],
    "score": [8.25, -1.5, 9.5, 8.25],
}
LISTS = {"query_id": ["q1", "q2"], "ids": [["p3", "p1", "p0"], ["p7"]], "scores": [[9.5, 8.25, 8.25], [-1.5]]}


@pytest.mark.parametrize(
    "run",
    [
        {"q1": {"p1": 8.25, "p3": 9.5, "p0": 8.25}, "q2": {"p7": -1.5}},
        LONG,
        pd.DataFrame(LONG),
        pd.DataFrame(LONG | {"rank": [2, 1, 1, 3]}),
        LISTS,
        Dataset.from_dict(LISTS),
        [dict(zip(LISTS, row, strict=True)) for row in zip(*LISTS.values(), strict=True)],
    ],
    ids=["mapping", "long", "frame", "frame-with-ranks", "lists", "dataset", "dicts"],
)
def test_rows_of_every_form(corpus, run):
    mined = mine(corpus, run)
    assert mined["negative_ids"] == NEGATIVES
    assert mined["negative_scores"] == [[-1.5], [9.5, 8.25]]
    assert mined["negative_ranks"] == [[1], [1, 3]]


def test_lists_without_scores(corpus):
    mined = mine(corpus, {name: LISTS[name] for name in ("query_id", "ids")})
    assert (mined["negative_ids"], mined["negative_scores"]) == (NEGATIVES, [[None], [None, None]])


def test_whole_numbers_are_ids(tmp_path):
    corpus = Corpus.from_dataset({"id": [7, 8, 9], "text": ["a", "b", "c"]})
    rows = {"query_id": [1, 2], "query": ["who?", "what?"], "positive_ids": [["7"], ["8"]]}
    run = {"query_id": [2, 1], "ids": [[8, 7], [7, 9]], "scores": [[2, 1], [2, 1]]}
    for one in (run, {2: {8: 2, 7: 1}, 1: {7: 2, 9: 1}}, written(tmp_path, "2 8 2.0\n2 7 1.0\n1 7 2.0\n1 9 1.0\n")):
        assert mine(corpus, one, rows)["negative_ids"] == [["9"], ["7"]]


def test_equal_scores_keep_the_order_of_the_run(corpus, tmp_path):
    lines = [f"q1 Q0 p{passage} {rank} 1.0 x\n" for rank, passage in enumerate([6, 2, 7, 0, 5], start=1)]
    for content in ("".join(lines), "".join(reversed(lines))):
        assert mine(corpus, written(tmp_path, content))["negative_ids"][1] == ["p6", "p2", "p7", "p0", "p5"]


def test_a_run_is_mined_as_the_miner_that_wrote_it(tmp_path):
    corpus, queries = load_sample()
    queries = queries.select(range(80))
    own = queries.map(BM25Negatives(corpus, k=10), batched=True)
    searched = queries.remove_columns("positive_ids").add_column("positive_ids", [[]] * 80)
    found = searched.map(BM25Negatives(corpus, k=60), batched=True)
    path = tmp_path / "run.trec"
    with path.open("w") as file:
        for row in found:
            for passage, score, rank in zip(
                row["negative_ids"], row["negative_scores"], row["negative_ranks"], strict=True
            ):
                file.write(f"{row['query_id']} Q0 {passage} {rank} {score!r} bm25\n")
    mined = queries.map(RunNegatives(corpus, path, k=10), batched=True, batch_size=9)
    for name in ("negative_ids", "negative_scores"):
        assert mined[name][:] == own[name][:]


# ---- queries that the run lacks --------------------------------------------------------------------------------------


def test_lacking_queries_get_empty_lists_and_a_warning(corpus, tmp_path, caplog):
    rows = {
        "query_id": ["q1", "q5", "q7", "q5"],
        "query": ["what?", "why?", "how?", "whence?"],
        "positive_ids": [["p1"], ["p0"], ["p0"], ["p0"]],
    }
    step = RunNegatives(corpus, written(tmp_path, TREC))
    with caplog.at_level(logging.WARNING):
        mined = Dataset.from_dict(rows).map(step, batched=True, batch_size=2)
    assert mined["negative_ids"][:] == [["p3", "p0"], [], [], []]
    assert mined["positive_scores"][:] == [[8.25], [None], [None], [None]]
    (record,) = caplog.records
    assert "1 of the 2 queries in this batch are missing from the run (the first is 'q5')" in record.getMessage()
    assert step.lacking(rows) == ["q5", "q7"]
    assert step.lacking([{"query_id": "q2"}]) == []
    with pytest.raises(KeyError, match="lacking needs the column 'query_id'"):
        step.lacking({"query": ["what?"]})


def test_rows_without_query_ids_are_refused(corpus, tmp_path):
    with pytest.raises(KeyError, match=r"RunNegatives needs the column 'query_id'.*rename"):
        mine(corpus, written(tmp_path, TREC), {name: ROWS[name] for name in ("query", "positive_ids")})


def test_runs_are_fused_and_rank_judgments(corpus, tmp_path):
    first = RunNegatives(corpus, written(tmp_path, TREC))
    second = RunNegatives(corpus, {"q1": {"p3": 0.5, "p5": 0.75}})
    mined = FuseNegatives({"words": first, "vectors": second})(ROWS)
    assert mined["negative_ids"] == [["p7"], ["p3", "p5", "p0"]]
    assert mined["negative_vectors_scores"] == [[None], [0.5, 0.75, None]]
    assert mined["negative_vectors_ranks"] == [[0], [2, 1, 0]]
    judged = JudgedNegatives(corpus, first)(ROWS | {"judged_negative_ids": [["p1"], ["p2", "p0"]]})
    assert judged["negative_ids"] == [["p1"], ["p0", "p2"]]
    assert judged["negative_ranks"] == [[1001], [3, 1001]]
    triplets = ToTriplets(corpus)(ROWS | RunNegatives(corpus, LISTS)(ROWS))
    assert triplets["negative"] == ["eight", "four", "one"]


# ---- kept by content -------------------------------------------------------------------------------------------------


def test_the_same_run_has_the_same_name(corpus, tmp_path):
    step = RunNegatives(corpus, written(tmp_path, TREC))
    (tmp_path / "other").mkdir()
    assert pickle.dumps(RunNegatives(corpus, written(tmp_path / "other", TREC))) == pickle.dumps(step)
    assert len(pickle.dumps(step)) < 1024
    assert RunNegatives(corpus, LISTS) == RunNegatives(corpus, Dataset.from_dict(LISTS)) != step
    changed = RunNegatives(corpus, written(tmp_path, TREC.replace("9.5", "9.4")))
    assert changed != step
    smaller = Corpus.from_dataset({"id": [f"p{i}" for i in range(8)], "text": list("abcdefgh")})
    assert RunNegatives(smaller, written(tmp_path, TREC)) != step
    # The file is not needed any more.
    (tmp_path / "run.txt").unlink()
    assert pickle.loads(pickle.dumps(step))(ROWS)["negative_ids"] == NEGATIVES
    with pytest.raises(ValueError, match="read for another corpus"):
        RunNegatives(smaller, step.run)
    assert (cache_root() / "runs" / step.run.fingerprint).is_dir()


# ---- bad runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (TREC + "q2 Q0 lost 2 -3 x\n", KeyError, "the passage 'lost' of the query 'q2' is not among the 8"),
        (TREC + "q2 Q0 p7 2 -3 x\n", ValueError, "passage 'p7' of the query 'q2' is repeated"),
        (TREC + "q2 Q0 p6 2 -0.5 x\n", ValueError, "passage 'p7' of the query 'q2' is ranked.*higher score"),
        (TREC + "q2 Q0 p6 2 nan x\n", ValueError, "passage 'p6' of the query 'q2' has the score nan"),
        (TREC + "q2 Q0 p6 2 inf x\n", ValueError, "has the score inf"),
        (TREC + "q2 Q0 p6 2 high x\n", ValueError, "the score in line 5 is not a number: 'high'"),
        (TREC + "q2 Q0 p6 two -3 x\n", ValueError, "the rank in line 5 is not a number: 'two'"),
        (TREC + "q2 Q0 p6 2 -3\n", ValueError, "line 5 has 5 fields: 'q2 Q0 p6 2 -3'. Each line needs 6"),
        (TREC + "q2 Q0 p6 2 -3 two words\n", ValueError, "line 5 has 7 fields"),
        ("q1\tp3\t0.1\nq1\tp2\t0.2\nq1\tp1\t0.15", ValueError, "'p3' of the query 'q1' is ranked.*are distances"),
        ("q1,p3,1\n", ValueError, "first line is 'q1,p3,1'. Supported are"),
        ("", ValueError, "is not a run"),
        (" \n\n", ValueError, "is not a run"),
        (b"\x80\x04\x95", ValueError, "pickle file, which is never loaded. Write text"),
        (b"\x1f\x8b\x08broken", ValueError, "cannot be decompressed"),
        (b"q1 Q0 p\xff3 1 9.5 x\n", ValueError, "cannot be read"),
        ('{"q1": {"p3": 1.5', ValueError, "starts like JSON"),
        ('{"q1": ["p3"]}', ValueError, "must be {query id: .*the value of the query 'q1' is of type list"),
        ('{"q1": {"p3": "high"}}', TypeError, "score of 'p3' for the query 'q1' is not a number: 'high'"),
    ],
)
def test_bad_files_are_errors_that_name_the_place(corpus, tmp_path, content, error, message):
    path = written(tmp_path, content)
    with pytest.raises(error, match="RunNegatives: ") as raised:
        RunNegatives(corpus, path)
    assert raised.match(message)
    assert type(raised.value) is error
    assert "run.txt" in str(raised.value)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            {"query": ["q1"], "ids": [["p1"]]},
            KeyError,
            "no column of query ids, only .* Rename .* 'query_id'",
        ),
        (
            {"query_id": ["q1"], "passages": [["p1"]]},
            KeyError,
            "no column of passage ids, only .* Rename .* 'ids' or",
        ),
        (LISTS | {"scores": [[1.0], [1.0]]}, ValueError, "lists of the same length. They differ for the query 'q1'"),
        (LISTS | {"scores": [1.0, 1.0]}, ValueError, "lists of the same length"),
        (LISTS | {"scores": [["a", "b", "c"], ["d"]]}, TypeError, "'scores' of the run must hold numbers"),
        (LISTS | {"scores": [[0.1, 0.2, 0.3], [1.0]]}, ValueError, "'p1' of the query 'q1' is ranked|'p3' of the"),
        (LISTS | {"ids": [["p3", None, "p0"], ["p7"]]}, ValueError, "'ids' of the run is null at value 1"),
        (LISTS | {"query_id": ["q1", None]}, ValueError, "'query_id' of the run is null at value 1"),
        (LISTS | {"query_id": ["q1", "q1"], "ids": [["p3", "p1", "p0"], ["p3"]]}, ValueError, "is repeated|ranked"),
        (LONG | {"score": [1.0, None, 2.0, 3.0]}, ValueError, "'p7' of the query 'q2' has the score nan"),
        (LONG | {"docno": [1.5, 2.0, 3.0, 4.0]}, ValueError, "1.5 in row 0, which is not an id"),
        ({}, KeyError, "no column of query ids"),
        (7, TypeError, "run must be a Dataset"),
        (None, TypeError, "run must be a Dataset"),
        ("/no/such/run.txt", FileNotFoundError, "no run file at '/no/such/run.txt'"),
    ],
)
def test_bad_rows_are_errors(corpus, run, error, message):
    with pytest.raises(error, match="RunNegatives: ") as raised:
        RunNegatives(corpus, run)
    assert raised.match(message)
    assert type(raised.value) is error


def test_an_empty_folder_is_refused(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run file at"):
        RunNegatives(corpus, tmp_path)


def test_an_index_that_is_empty_for_a_query_and_one_that_is_long(corpus):
    """A list may be longer than the corpus needs, and hold only known positives."""
    run = {"query_id": ["q1", "q2"], "ids": [[f"p{i}" for i in range(8)], ["p0"]]}
    mined = mine(corpus, run, ROWS | {"positive_ids": [["p0"], [f"p{i}" for i in range(7)]]}, k=50)
    assert mined["negative_ids"] == [[], ["p7"]]
    assert np.array_equal(mined["negative_ranks"][1], [8])
