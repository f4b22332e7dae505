"""SearchNegatives: a function is asked as said, its hits are mined like any source's, and bad ones are errors."""

import inspect
import pickle
import sys
import textwrap
import types
from decimal import Decimal

import numpy as np
import pytest
from datasets import Dataset

from hnm_datasets import (
    BM25Index,
    BM25Negatives,
    Corpus,
    FuseNegatives,
    JudgedNegatives,
    RelativeMargin,
    SearchNegatives,
    SortNegatives,
    TopNegatives,
    ToTriplets,
    audit_negatives,
    explain,
    load_sample,
)
from hnm_datasets.indexes import search_function

TEXTS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]


@pytest.fixture(scope="module")
def corpus():
    ids = [f"p{i}" for i in range(len(TEXTS))]
    return Corpus.from_dataset({"id": ids, "text": TEXTS, "group": ["a", "a", "b", "b", "c", "c", "d", "d"]})


def returns(ids, scores=None):
    """Return a search that finds the same for each query."""
    scores = [-float(i) for i in range(len(ids))] if scores is None else scores
    return lambda queries, depth: ([ids[:depth] for _ in queries], [scores[:depth] for _ in queries])


def mine(corpus, search, k=3, queries=("what is it?",), positives=(("p1",),), **options):
    step = SearchNegatives(corpus, search, k=k, fingerprint="test", **options)
    return step({"query": list(queries), "positive_ids": list(map(list, positives))})


def test_hits_are_mined_in_order_without_positives(corpus):
    mined = mine(corpus, returns(["p3", "p1", "p0", "p7", "p2"], [9.0, 8.0, 8.0, 1.5, -2.0]), k=3)
    assert mined["negative_ids"] == [["p3", "p0", "p7"]]
    assert mined["negative_scores"] == [[9.0, 8.0, 1.5]]
    assert mined["negative_ranks"] == [[1, 3, 4]]
    assert mined["negative_source"] == [["search"] * 3]
    assert mined["positive_scores"] == [[8.0]]


def test_a_short_list_ends_there_and_an_empty_one_is_none(corpus):
    def search(queries, depth):
        return [["p2"], []], [[1.0], []]

    mined = mine(corpus, search, queries=["a", "b"], positives=[["p1"], ["p1", "p2"]])
    assert mined["negative_ids"] == [["p2"], []]
    assert mined["positive_scores"] == [[None], [None, None]]


@pytest.mark.parametrize(
    "found",
    [
        (np.array([["p4", "p5"]]), np.array([[2.0, 1.0]], dtype=np.float32)),
        ([np.array(["p4", "p5"])], [(2, 1)]),
        ((("p4", "p5"),), [[Decimal("2.0"), Decimal("1.0")]]),
        [[["p4", "p5"]], [[np.float64(2), np.float16(1)]]],
    ],
)
def test_any_form_of_lists_is_read(corpus, found):
    mined = mine(corpus, lambda queries, depth: found)
    assert (mined["negative_ids"], mined["negative_scores"]) == ([["p4", "p5"]], [[2.0, 1.0]])


def test_whole_numbers_are_ids():
    corpus = Corpus.from_dataset({"id": [10, 11, 12], "text": TEXTS[:3]})
    mined = mine(corpus, returns([12, 10]), positives=[["11"]])
    assert mined["negative_ids"] == [["12", "10"]]
    assert mine(corpus, returns(np.array([12, 10])), positives=[["11"]])["negative_ids"] == [["12", "10"]]


def test_each_distinct_query_is_asked_for_once(corpus):
    asked = []

    def search(queries, depth):
        asked.append((queries, depth))
        return returns(["p3", "p4", "p5", "p6"])(queries, depth)

    mined = mine(corpus, search, k=3, queries=["a", "b", "a"], positives=[["p1"], ["p3"], ["p4"]])
    assert asked == [(["a", "b"], len(TEXTS))]
    assert mined["negative_ids"] == [["p3", "p4", "p5"], ["p4", "p5", "p6"], ["p3", "p5", "p6"]]
    assert mine(corpus, search, queries=[], positives=[])["negative_ids"] == []
    assert len(asked) == 1


def test_calls_hold_a_bounded_number_of_hits(corpus, monkeypatch):
    monkeypatch.setattr(search_function, "_HITS_PER_CALL", 20)
    sizes = []

    def search(queries, depth):
        sizes.append(len(queries))
        return returns(["p3", "p4"])(queries, depth)

    mined = mine(corpus, search, queries=list("abcde"), positives=[["p1"]] * 5)
    assert sizes == [2, 2, 1]
    assert mined["negative_ids"] == [["p3", "p4"]] * 5


@pytest.fixture(scope="module")
def numbered():
    """200 passages, of which 90 belong to one document."""
    ids = [f"p{i}" for i in range(200)]
    groups = ["one" if i < 90 else f"g{i}" for i in range(200)]
    return Corpus.from_dataset({"id": ids, "text": [f"passage {i}" for i in range(200)], "group": groups})


def test_a_query_that_is_short_is_searched_deeper_whatever_its_batch(numbered):
    """Also by an index that answers otherwise at each depth."""
    asked = []

    def search(queries, depth):
        asked.append(depth)
        order = np.roll(np.arange(200), depth)
        order = np.concatenate([np.arange(90), order[order >= 90]])
        return returns([f"p{i}" for i in order])(queries, depth)

    rows = {"query": [f"query {i}" for i in range(6)], "positive_ids": [["p0"], ["p150"], ["p90", "p91"]] * 2}
    step = SearchNegatives(numbered, search, k=12, exclude_group=True, fingerprint="rolled")
    together = step(rows)
    assert asked == [36, 72, 144]
    alone = [step({name: values[i : i + 1] for name, values in rows.items()}) for i in range(6)]
    for name, values in together.items():
        assert values == [one[name][0] for one in alone]
    assert all(len(ids) == 12 for ids in together["negative_ids"])


def test_an_engine_is_mined_as_its_index_is(tmp_path):
    corpus, queries = load_sample()
    queries = queries.select(range(60))
    index = BM25Index(corpus)

    def search(texts, depth):
        hits = index.search(index.encode(texts), depth)
        ids = [corpus.ids(rows[rows >= 0]).to_pylist() for rows in hits.rows]
        return ids, [scores[: len(own)] for scores, own in zip(hits.scores, ids, strict=True)]

    mined = queries.map(SearchNegatives(corpus, search, k=20, fingerprint="bm25"), batched=True, batch_size=7)
    own = queries.map(BM25Negatives(corpus, k=20), batched=True)
    for name in ("negative_ids", "negative_scores", "negative_ranks"):
        assert mined[name][:] == own[name][:]
    known = [score for scores in mined["positive_scores"] for score in scores]
    same = [score for scores in own["positive_scores"] for score in scores]
    assert [one for one, other in zip(known, same, strict=True) if one not in (None, other)] == []
    assert 0 < sum(score is None for score in known) < len(known)


# ---- what comes after ------------------------------------------------------------------------------------------------


def test_rows_with_unknown_scores_go_through_the_other_steps(corpus):
    rows = Dataset.from_dict({"query": ["what is it?", "who is it?"], "positive_ids": [["p1"], ["p6"]]})
    step = SearchNegatives(corpus, returns(["p3", "p1", "p0"], [3.0, 2.0, 1.0]), k=3, fingerprint="known or not")
    mined = rows.map(step, batched=True)
    assert mined["positive_scores"][:] == [[2.0], [None]]
    triplets = mined.map(TopNegatives(1), batched=True).map(ToTriplets(corpus), batched=True)
    assert triplets["negative"][:] == ["four", "four"]
    assert audit_negatives(mined, corpus).rows == 2
    assert "p3" in str(explain(mined[1], corpus))
    with pytest.raises(
        ValueError, match=r"'positive_scores' holds a null in the row with query .who is it\?'. Sources"
    ):
        mined.map(RelativeMargin(0.1), batched=True)


def test_engines_are_fused_by_the_names_of_the_user(corpus):
    first = SearchNegatives(corpus, returns(["p3", "p1", "p0"]), k=2, fingerprint="first")
    second = SearchNegatives(corpus, returns(["p4", "p3"], [0.5, 0.25]), k=2, fingerprint="second")
    mined = FuseNegatives({"words": first, "vectors": second})({"query": ["q"], "positive_ids": [["p1"]]})
    assert mined["negative_ids"] == [["p3", "p4", "p0"]]
    assert mined["negative_source"] == [["words+vectors", "vectors", "words"]]
    assert mined["negative_vectors_scores"] == [[0.25, 0.5, None]]
    assert mined["negative_words_scores"] == [[0.0, None, -2.0]]
    assert (mined["positive_words_scores"], mined["positive_vectors_scores"]) == ([[-1.0]], [[None]])


def test_judged_negatives_that_no_hit_scores_come_last(corpus):
    step = SearchNegatives(corpus, returns([f"p{i}" for i in range(7, 2, -1)]), k=4, fingerprint="judged")
    rows = {"query": ["q"], "positive_ids": [["p1"]], "judged_negative_ids": [["p0", "p4", "p6"]]}
    mined = JudgedNegatives(corpus, step, depth=3)(rows)
    assert mined["negative_ids"] == [["p6", "p4", "p0"]]
    assert mined["negative_scores"] == [[-1.0, -3.0, None]]
    assert mined["negative_ranks"] == [[2, 4, 4]]
    with pytest.raises(ValueError, match="'negative_scores' holds a null"):
        SortNegatives("score")(mined)


def test_the_lines_for_elasticsearch_against_a_stand_in(corpus, monkeypatch):
    """They are documentation; a client of three lines answers as the server does."""
    client = types.SimpleNamespace()
    hits = [{"_id": "p3", "_score": 2.5}, {"_id": "p1", "_score": 1.5}]
    client.msearch = lambda searches: {
        "responses": [{"hits": {"hits": hits[: body["size"]]}} for body in searches[1::2]]
    }
    package = types.SimpleNamespace(Elasticsearch=lambda *address, **options: client)
    monkeypatch.setitem(sys.modules, "elasticsearch", package)
    lines = inspect.getdoc(SearchNegatives).partition("Elasticsearch, not run here")[2].partition("Example:")[0]
    code = textwrap.dedent(lines.partition(":\n\n")[2])
    names = {"SearchNegatives": SearchNegatives, "corpus": corpus}
    exec(code, names)
    mined = names["step"]({"query": ["a", "b"], "positive_ids": [["p1"], ["p2"]]})
    assert mined["negative_ids"] == [["p3"], ["p3", "p1"]]
    assert mined["positive_scores"] == [[1.5], [None]]


# ---- the name and the process ----------------------------------------------------------------------------------------


def test_the_step_is_named_by_its_fingerprint(corpus):
    one, same = (SearchNegatives(corpus, returns(["p3"]), fingerprint="index-7") for _ in range(2))
    other = SearchNegatives(corpus, returns(["p3"]), fingerprint="index-8")
    assert pickle.dumps(one) == pickle.dumps(same) != pickle.dumps(other)
    assert one == same != other
    # The function itself may hold a client, which does not pickle.
    again = pickle.loads(pickle.dumps(one))
    assert again({"query": ["q"], "positive_ids": [[]]})["negative_ids"] == [["p3"]]


def test_a_process_without_the_function_says_so(corpus):
    state = pickle.dumps(SearchNegatives(corpus, returns(["p3"]), fingerprint="gone"))
    with pytest.raises(RuntimeError, match=r"search function is not available in this process.*do not set num_proc"):
        pickle.loads(state)({"query": ["q"], "positive_ids": [[]]})


def test_workers_ask_too(corpus):
    rows = Dataset.from_dict({"query": ["a", "b", "c"], "positive_ids": [["p1"]] * 3})
    step = SearchNegatives(corpus, returns(["p3", "p1"]), fingerprint="forked")
    assert rows.map(step, batched=True, num_proc=2)["negative_ids"][:] == [["p3"]] * 3


@pytest.mark.parametrize(
    ("search", "name", "error", "message"),
    [
        ("elastic", "x", TypeError, r"search must be a function \(queries, depth\)"),
        (None, "x", TypeError, "got NoneType"),
        (returns(["p0"]), None, ValueError, "Pass fingerprint="),
        (returns(["p0"]), "", ValueError, "Pass fingerprint="),
        (returns(["p0"]), 7, ValueError, "Pass fingerprint="),
    ],
)
def test_a_bad_function_or_name_is_refused(corpus, search, name, error, message):
    with pytest.raises(error, match=message):
        SearchNegatives(corpus, search, fingerprint=name)


# ---- bad hits --------------------------------------------------------------------------------------------------------


def only_second(ids, scores):
    """Return a search that finds well for the first query and this for the second."""
    return lambda queries, depth: ([["p0", "p2"], ids], [[1.0, 0.5], scores])


@pytest.mark.parametrize(
    ("search", "error", "message"),
    [
        (only_second(["p3", "lost"], [1.0, 0.5]), KeyError, "returned 'lost' for the query 'b'.*not among the 8"),
        (only_second(["p3", 7], [1.0, 0.5]), TypeError, "the ids of the query 'b' contain 7, whose type differs"),
        (only_second([3, 7], [1.0, 0.5]), TypeError, "the ids of the query 'b' contain 3, whose type differs"),
        (only_second(["p3", None], [1.0, 0.5]), ValueError, "a null id for the query 'b'.*shorter lists"),
        (only_second(["p3", "p3"], [1.0, 0.5]), ValueError, "passage 'p3' twice for the query 'b'"),
        (only_second(["p3", "p4"], [0.5, 1.0]), ValueError, "of the query 'b' increase from 0.5 to 1 at hit 2.*negate"),
        (only_second(["p3", "p4"], [1.0, np.nan]), ValueError, "hit 2 of the query 'b' is nan"),
        (only_second(["p3", "p4"], [np.inf, 1.0]), ValueError, "hit 1 of the query 'b' is inf"),
        (only_second(["p3", "p4"], [1e300, 1.0]), ValueError, "hit 1 of the query 'b' is 1e"),
        (only_second(["p3", "p4"], [1.0, None]), ValueError, "hit 2 of the query 'b' is nan"),
        (only_second(["p3", "p4"], ["1.0", "0.5"]), TypeError, "the scores of the query 'b' contain '1.0'"),
        (only_second(["p3", "p4"], [1.0]), ValueError, "2 ids and 1 scores for the query 'b'"),
        (only_second("p3", [1.0]), TypeError, "the ids of the query 'b' must be a list, got str"),
        (only_second(["p3"], 1.0), TypeError, "the scores of the query 'b' must be a list, got float"),
        (lambda queries, depth: ([["p3"]], [[1.0]]), ValueError, "1 lists of ids for 2 queries, the first 'a'"),
        (lambda queries, depth: ([[], []], [[]]), ValueError, "1 lists of scores for 2 queries"),
        (lambda queries, depth: None, TypeError, "must return a pair.*got NoneType for 2 queries"),
        (lambda queries, depth: [["p3"]] * 3, TypeError, "got 3 values for 2 queries"),
        (lambda queries, depth: ("p3", 1.0), TypeError, "the search must return the ids as a list"),
        (lambda queries, depth: ([[["p3"]], [["p4"]]], [[1.0], [1.0]]), TypeError, "must hold ids.*got list"),
        (
            lambda queries, depth: ([["p3"], ["p4"]], [["x"], ["y"]]),
            TypeError,
            "return numbers as scores, got string",
        ),
        (lambda queries, depth: ([[True], [False]], [[1.0], [1.0]]), TypeError, "must hold ids.*got bool"),
        (lambda queries, depth: [(["p3"], [1.0]), (["p4"], [1.0])], TypeError, "the ids of the query 'b' contain 1.0"),
    ],
)
def test_bad_hits_are_errors_that_name_the_query(corpus, search, error, message):
    with pytest.raises(error, match="SearchNegatives: ") as raised:
        mine(corpus, search, queries=["a", "b"], positives=[["p1"]] * 2)
    assert raised.match(message)
    assert type(raised.value) is error


def test_a_server_that_is_away_is_an_error_that_says_how_to_go_on(corpus):
    class AwayError(Exception):
        """Of a client: it does not pickle."""

        def __init__(self, one, other):
            super().__init__(f"no answer from {one}:{other}\x1b[2J")

    def search(queries, depth):
        raise AwayError("localhost", 9200)

    with pytest.raises(RuntimeError, match="for 2 queries, the first 'a', at depth 8: no answer") as raised:
        mine(corpus, search, queries=["a", "b"], positives=[["p1"]] * 2)
    assert "\x1b" not in str(raised.value)
    assert isinstance(raised.value.__cause__, AwayError)
    rows = Dataset.from_dict({"query": ["a", "b"], "positive_ids": [["p1"]] * 2})
    step = SearchNegatives(corpus, search, fingerprint="away")
    with pytest.raises(RuntimeError, match="raised AwayError for 1 queries"):
        rows.map(step, batched=True, num_proc=2)


def test_interrupts_are_not_swallowed(corpus):
    def search(queries, depth):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine(corpus, search)
