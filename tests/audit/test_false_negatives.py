"""How many negatives are relevant: against direct counts, and how often the interval holds the truth."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import (
    BiEncoderScores,
    BM25Negatives,
    Corpus,
    TopNegatives,
    ToTriplets,
    audit_negatives,
    load_sample,
    pool_positives,
)
from hnm_datasets.arrays.arrow import list_array
from hnm_datasets.audit.false_negatives import estimate
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS
from hnm_datasets.transforms.base import Transform

# The last two are the same text but for case and white space.
TEXTS = ["one", "two", "three", "four", "five", "six dogs", "Six  DOGS"]
IDS = [f"p{place}" for place in range(len(TEXTS))]
TEXT_OF = dict(zip(IDS, (" ".join(text.casefold().split()) for text in TEXTS), strict=True))
QUERIES = ["q1", "q2", "q3", "q4"]


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(Dataset.from_dict({"id": IDS, "text": TEXTS}))


# ---- judgments ------------------------------------------------------------------------------------------------------


MINED = st.lists(
    st.tuples(st.sampled_from(QUERIES), st.lists(st.sampled_from(IDS), max_size=4)), min_size=1, max_size=6
).map(
    lambda rows: [
        {"query_id": name, "query": f"what is {name}?", "positive_ids": ["p0"], "negative_ids": negatives}
        for name, negatives in rows
    ]
)
QRELS = st.dictionaries(
    st.tuples(st.sampled_from(QUERIES), st.sampled_from([*IDS, "gone"])), st.integers(0, 2), min_size=1
)


def direct_count(rows, qrels, same):
    """Count the negatives of judged queries, and those of them that are judged relevant."""
    relevant = {(query, same(passage)) for (query, passage), score in qrels.items() if score > 0}
    judged = {query for query, _ in qrels}
    pairs = [(row["query_id"], same(name)) for row in rows for name in row["negative_ids"]]
    pairs = [pair for pair in pairs if pair[0] in judged]
    return sum(pair in relevant for pair in pairs), len(pairs), len({query for query, _ in pairs})


def as_qrels(qrels):
    columns = zip(*((query, passage, score) for (query, passage), score in qrels.items()), strict=True)
    return Dataset.from_dict(dict(zip(("query_id", "corpus_id", "score"), map(list, columns), strict=True)))


def as_rows(qrels):
    """Write judgments as rows with positive_ids: a judged query without a relevant passage has none."""
    queries = list(dict.fromkeys(query for query, _ in qrels))
    lists = [[passage for (one, passage), score in qrels.items() if one == query and score > 0] for query in queries]
    columns = {"query_id": queries, "query": [f"what is {name}?" for name in queries], "positive_ids": lists}
    return Dataset.from_dict(columns)


def check_rate(found, expected):
    false, negatives, queries = expected
    if not negatives:
        assert found is None
        return
    assert (found.false, found.negatives, found.queries, found.by) == (false, negatives, queries, "judgments")
    assert found.rate == pytest.approx(false / negatives)
    assert 0 <= found.low <= found.rate <= found.high <= 1


def judged_or_none(rows, corpus, judgments):
    """Audit; a ValueError that no query is judged stands for None."""
    try:
        return audit_negatives(rows, corpus, judgments=judgments).false_negatives
    except ValueError as error:
        assert "no query of the dataset is in the judgments" in str(error)  # noqa: PT017
        return None


@settings(max_examples=40)
@given(MINED, QRELS, st.booleans())
def test_the_rate_of_ids_is_a_direct_count(corpus, rows, qrels, with_corpus):
    expected = direct_count(rows, qrels, same=str)
    for judgments in (as_qrels(qrels), as_rows(qrels)):
        check_rate(judged_or_none(Dataset.from_list(rows), corpus if with_corpus else None, judgments), expected)


@settings(max_examples=40)
@given(MINED, QRELS)
def test_the_rate_of_texts_is_a_direct_count(corpus, rows, qrels):
    text_of = dict(zip(IDS, TEXTS, strict=True))
    flag = [
        {"query": row["query"], "pos": ["one"], "neg": [text_of[name] for name in row["negative_ids"]]} for row in rows
    ]
    expected = direct_count(rows, qrels, same=lambda name: TEXT_OF.get(name, "gone"))
    check_rate(judged_or_none(Dataset.from_list(flag), corpus, as_rows(qrels)), expected)


def test_scores_of_zero_and_null_are_not_relevant():
    row = {"query_id": ["q"], "query": ["?"], "positive_ids": [["p"]], "negative_ids": [["a", "b", "c", "d"]]}
    qrels = {"query_id": ["q"] * 4, "corpus_id": ["a", "b", "c", "d"], "score": [0, None, 1, -1]}
    found = audit_negatives(Dataset.from_dict(row), judgments=Dataset.from_dict(qrels)).false_negatives
    assert (found.false, found.negatives) == (1, 4)


def test_negatives_of_queries_that_nobody_judged_are_left_out():
    rows = {"query_id": ["a", "b"], "query": ["?", "!"], "positive_ids": [["p"]] * 2, "negative_ids": [["x", "y"]] * 2}
    qrels = Dataset.from_dict({"query_id": ["a"], "corpus_id": ["x"], "score": [1]})
    found = audit_negatives(Dataset.from_dict(rows), judgments=qrels).false_negatives
    assert (found.rate, found.negatives, found.queries) == (0.5, 2, 1)


def test_hidden_positives_come_back_as_false_negatives():
    corpus, queries = load_sample()
    hidden = queries.map(lambda row: {"positive_ids": row["positive_ids"][:1]})
    mined = hidden.map(BM25Negatives(corpus, k=5), batched=True)
    relevant = dict(zip(queries["query_id"], map(set, queries["positive_ids"]), strict=True))
    false = sum(name in relevant[row["query_id"]] for row in mined for name in row["negative_ids"])
    audit = audit_negatives(mined, corpus, judgments=queries)
    assert (audit.false_negatives.false, audit.false_negatives.negatives) == (false, 3_000)
    assert false > 300
    triplets = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)
    judged = audit_negatives(triplets, corpus, judgments=queries).false_negatives
    assert (judged.false, judged.rate) == (false, audit.false_negatives.rate)
    assert "judged relevant" in repr(audit)


# ---- the interval ----------------------------------------------------------------------------------------------------


def interval(false, negatives):
    false, negatives = np.asarray(false), np.broadcast_to(negatives, np.shape(false))
    return estimate("judgments", "judged relevant", np.arange(len(false), dtype=np.uint64), false, negatives)


@pytest.mark.parametrize("alike", [0.2, 1.0, 50.0])
@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_the_interval_holds_the_truth_as_often_as_it_says(rate, alike):
    """Draws in clusters: each query has a rate of its own, the more alike its negatives are the more extreme."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        of_query = rng.beta(alike * rate, alike * (1 - rate), 300)
        found = interval(rng.binomial(5, of_query), 5)
        held.append(found.low <= rate <= found.high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_an_interval_as_of_independent_draws_would_be_too_narrow():
    # All negatives of a query are false, or none: what counts is the number of queries.
    false = np.where(np.arange(100) < 30, 5, 0)
    clustered, single = interval(false, 5), interval(false // 5, 1)
    assert (clustered.low, clustered.high) == pytest.approx((single.low, single.high), abs=1e-9)
    spread = interval(np.tile([1, 2], 50), 5)
    assert spread.rate == clustered.rate
    assert spread.high - spread.low < (clustered.high - clustered.low) / 2


@pytest.mark.parametrize("queries", [1, 2, 10, 1000])
def test_none_and_all_leave_room(queries):
    none, every = interval([0] * queries, 5), interval([5] * queries, 5)
    assert (none.rate, none.low, every.rate, every.high) == (0, 0, 1, 1)
    # Wilson's bound for as many draws as there are queries.
    assert none.high == pytest.approx(1.96**2 / (queries + 1.96**2), rel=1e-3)
    assert every.low == pytest.approx(1 - none.high)


@pytest.mark.parametrize("negatives", [1, 5])
def test_more_false_negatives_raise_the_interval(negatives):
    found = [interval([negatives] * count + [0] * (40 - count), negatives) for count in range(41)]
    for bound in ("low", "rate", "high"):
        values = [getattr(one, bound) for one in found]
        assert values == sorted(values)


def test_the_interval_narrows_with_the_queries():
    widths = []
    for queries in (20, 200, 2000):
        found = interval(np.tile([0, 0, 1, 3], queries // 4), 5)
        widths.append(found.high - found.low)
    assert widths[0] > 2.5 * widths[1] > 6 * widths[2]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_the_interval_is_in_bounds(rows):
    queries = np.array([query for query, _, _ in rows], dtype=np.uint64)
    false = np.array([min(false, of) for _, false, of in rows], dtype=np.int64)
    negatives = np.array([of for _, _, of in rows], dtype=np.int64)
    found = estimate("t", "r", queries, false, negatives)
    if not negatives.sum():
        assert found is None
        return
    assert 0 <= found.low <= found.rate <= found.high <= 1
    assert found.low < found.high
    # Rows of the same query count as one.
    assert found.queries == len({query for query, _, of in rows if of})


# ---- a teacher's scores ----------------------------------------------------------------------------------------------


NUMBERS = st.one_of(st.integers(-2, 2).map(float), st.just(float("nan")), st.none())
SCORED = st.lists(st.tuples(st.lists(NUMBERS, max_size=3), st.lists(NUMBERS, max_size=4)), min_size=1, max_size=5)


def is_number(value):
    return value is not None and value == value


def slow_teacher(rows, threshold):
    false = known = 0
    for positives, negatives in rows:
        limit = threshold
        if threshold is None:
            if not positives or not all(map(is_number, positives)):
                continue
            limit = sum(positives) / len(positives)
        scores = list(filter(is_number, negatives))
        known += len(scores)
        false += sum(score >= limit for score in scores)
    return false, known


@settings(max_examples=50)
@given(SCORED, st.sampled_from([None, -1.0, 0.5]), st.sampled_from(["teacher", "judge"]))
def test_the_rate_by_a_teacher_is_a_direct_count(rows, threshold, name):
    columns = {
        "query": [f"q {place}" for place in range(len(rows))],
        "positive_ids": [[f"p{place}" for place in range(len(positives))] for positives, _ in rows],
        "negative_ids": [[f"n{place}" for place in range(len(negatives))] for _, negatives in rows],
        f"positive_{name}_scores": [positives for positives, _ in rows],
        f"negative_{name}_scores": [negatives for _, negatives in rows],
    }
    found = audit_negatives(Dataset.from_dict(columns), teacher=name, threshold=threshold).false_negatives
    false, known = slow_teacher(rows, threshold)
    if not known:
        assert found is None
        return
    assert (found.false, found.negatives, found.by) == (false, known, name)
    assert found.rule == ("scored as high as the positives" if threshold is None else f"scored {threshold:g} or higher")
    if name == "teacher":
        unnamed = audit_negatives(Dataset.from_dict(columns), threshold=threshold).false_negatives
        assert unnamed == found


def test_a_threshold_needs_no_scores_of_positives():
    rows = {"query": ["q"], "pos": [["p"]], "neg": [["a", "b"]]}
    ids = {
        "query": ["q"],
        "positive_ids": [["p"]],
        "negative_ids": [["a", "b"]],
        "negative_teacher_scores": [[0.2, 0.9]],
    }
    found = audit_negatives(Dataset.from_dict(ids), threshold=0.5).false_negatives
    assert (found.false, found.negatives) == (1, 2)
    assert audit_negatives(Dataset.from_dict(ids)).false_negatives is None
    # FlagEmbedding's scores are a teacher's.
    scored = rows | {"pos_scores": [[0.5]], "neg_scores": [[0.2, 0.9]]}
    assert audit_negatives(Dataset.from_dict(scored)).false_negatives.false == 1


@dataclass(frozen=True)
class Lengths(Transform):
    """A teacher that likes long ids."""

    output_columns: ClassVar[tuple[str, ...]] = ("positive_length_scores", "negative_length_scores")
    name: str = "length"

    def _apply(self, batch):
        columns = {}
        for side, name in (("positive", POSITIVE_IDS), ("negative", NEGATIVE_IDS)):
            lists = batch.string_lists(name)
            scores = pa.array([float(len(one)) for one in lists.values.to_pylist()], pa.float32())
            columns[f"{side}_{self.name}_scores"] = list_array(lists.offsets, scores)
        return columns


@pytest.fixture(scope="module")
def lengths():
    ids = ["aa", "b", "ccc", "dddd"]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": ids, "text": [f"text {name}" for name in ids]}))
    rows = {"query": ["q", "r"], "positive_ids": [["aa"], ["ccc"]], "negative_ids": [["b", "ccc", "dddd"], ["b", "aa"]]}
    return corpus, Dataset.from_dict(rows)


@pytest.mark.parametrize("form", ["mined", "triplets"])
@pytest.mark.parametrize(("threshold", "false"), [(None, 2), (2.0, 3), (5.0, 0)])
def test_a_teacher_scores_the_rows_here(lengths, form, threshold, false):
    corpus, rows = lengths
    if form == "triplets":
        rows = rows.map(ToTriplets(corpus), batched=True, remove_columns=rows.column_names)
    found = audit_negatives(rows, corpus, teacher=Lengths(), threshold=threshold).false_negatives
    assert (found.by, found.false, found.negatives, found.queries) == ("length", false, 5, 2)


def test_passages_that_the_corpus_lacks_are_not_scored(lengths):
    corpus, rows = lengths
    more = rows.map(lambda row: {"negative_ids": [*row["negative_ids"], "not there at all"]})
    assert audit_negatives(more, corpus, teacher=Lengths()).false_negatives.negatives == 5


def test_a_teacher_scores_a_thousand_rows_at_most(lengths):
    corpus, _ = lengths
    many = {
        "query": [f"q {place}" for place in range(1200)],
        "positive_ids": [["b"]] * 1200,
        "negative_ids": [["aa"]] * 1200,
    }
    found = audit_negatives(Dataset.from_dict(many), corpus, teacher=Lengths()).false_negatives
    assert (found.queries, found.rate) == (1000, 1.0)


def test_a_model_as_the_teacher_says_what_its_columns_say(static_model):
    corpus, queries = load_sample()
    rows = queries.select(range(40))
    for step in (BM25Negatives(corpus, k=10), TopNegatives(4)):
        rows = rows.map(step, batched=True)
    teacher = BiEncoderScores(corpus, static_model, "bi_encoder")
    asked = audit_negatives(rows, corpus, teacher=teacher).false_negatives
    scored = audit_negatives(rows.map(teacher, batched=True), corpus, teacher="bi_encoder").false_negatives
    assert asked == scored
    assert 0 < asked.false < asked.negatives == 160
    # Judgments are better than any teacher.
    assert audit_negatives(rows, corpus, judgments=queries, teacher=teacher).false_negatives.by == "judgments"


def test_judgments_that_know_no_more_than_the_rows_say_so():
    corpus, queries = load_sample("earthquakes")
    mined = queries.map(BM25Negatives(corpus, k=3), batched=True)
    found = audit_negatives(mined, corpus, judgments=queries).false_negatives
    assert found.rate == 0
    assert "only the rows' own positives" in found.rule
    more = queries.map(lambda row: {"positive_ids": [*row["positive_ids"], "volcanoes"]})
    assert audit_negatives(mined, corpus, judgments=more).false_negatives.rule == "judged relevant"


def test_positives_of_another_row_with_the_question_tell_nothing_more():
    corpus, _ = load_sample("earthquakes")
    rows = {"query_id": ["q1", "q2"], "query": ["why?", "Why?"], "positive_ids": [["plate-tectonics"], ["tsunamis"]]}
    queries = pool_positives(Dataset.from_dict(rows))
    assert any(queries["known_positive_ids"])
    mined = queries.map(BM25Negatives(corpus, k=2), batched=True)
    mined = mined.remove_columns([name for name in mined.column_names if name.startswith("negative_")])
    mined = mined.add_column("negative_ids", [["volcanoes"], ["volcanoes"]])
    found = audit_negatives(mined, corpus, judgments=queries).false_negatives
    assert "the judgments have only the rows' own positives" in found.rule
