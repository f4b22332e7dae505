"""A batch reads the same rows alike in whatever form they come, answers in that form, and names what is wrong."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset

from hnm_datasets.answers import ArrowColumns, NewRows
from hnm_datasets.arrays.arrow import as_arrow
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.batch import Batch

ROWS = {
    "query_id": ["q0", "q1", "q2", "q3"],
    "query": ["plates", "wäves", "", "sea floor"],
    "positive_ids": [["a"], ["b", "c"], [], ["a"]],
    "negative_ids": [["b", "c"], [], ["d"], ["d", "b", "a"]],
    "negative_scores": [[2.5, 1.5], [], [0.25], [3.0, 2.0, -1.0]],
    "number": [1, 2, 3, 4],
}
FORMS = ["lists", "numpy", "pandas", "arrow", "map"]
ANSWER = {
    "negative_ids": pa.array([["b"], [], ["d"], ["d", "a"]]),
    "label": pa.array([0, 1, 2, 3]),
    "name": pa.array(["w", "x", "y", "z"]),
}


class Letters:
    """A corpus of the passages a, b, c, d that notes what it is asked."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 4

    def find(self, ids):
        self.asked += ids.to_pylist()
        return np.array(["abcd".find(one) for one in ids.to_pylist()], dtype=np.int64)


def in_form(form, rows=None):
    """Return rows in a form, "map": as Dataset.map hands them over."""
    rows = ROWS if rows is None else rows
    if form == "lists":
        return {name: list(values) for name, values in rows.items()}
    dataset = Dataset.from_dict(rows)
    if form != "map":
        return dataset.with_format(form)[:]
    seen = []
    dataset.map(lambda batch: seen.append(batch), batched=True)
    return seen[0]


def plain(rows):
    """Return the columns of any form as lists."""
    names = rows.column_names if isinstance(rows, pa.Table) else list(rows)
    return {name: as_arrow(rows[name], name, "test").to_pylist() for name in names}


def ragged(lists):
    return lists.offsets.tolist(), list(lists.values.tolist())


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_the_forms_are_five_different_ones():
    kinds = [type(in_form(form)) for form in FORMS]
    assert kinds[0] is kinds[1] is dict
    assert isinstance(in_form("numpy")["number"], np.ndarray)
    assert kinds[2:4] == [pd.DataFrame, pa.Table]
    assert kinds[4] is datasets.formatting.formatting.LazyBatch


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_columns(form):
    batch = Batch(in_form(form), "Step")
    assert len(batch) == 4
    assert batch.names == list(ROWS)
    for name, values in ROWS.items():
        column = batch.column(name)
        assert isinstance(column, pa.Array)
        assert column.to_pylist() == values
    assert batch.strings("query").to_pylist() == ROWS["query"]
    assert ragged(batch.string_lists("negative_ids")) == ([0, 2, 2, 3, 6], ["b", "c", "d", "d", "b", "a"])
    scores = batch.number_lists("negative_scores")
    assert ragged(scores) == ([0, 2, 2, 3, 6], [2.5, 1.5, 0.25, 3.0, 2.0, -1.0])
    assert isinstance(scores.values, np.ndarray)
    assert {name: ragged(lists) for name, lists in batch.candidates().items()} == {
        name: ragged(batch.lists(name)) for name in ("negative_ids", "negative_scores")
    }
    assert list(batch.positives()) == ["positive_ids"]
    assert batch.has("number")
    assert not batch.has("label")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_row_keys(form):
    keys = Batch(in_form(form), "Step").row_keys()
    assert keys.tolist() == Batch(ROWS, "Step").row_keys().tolist()
    assert len(set(keys.tolist())) == 4


def test_row_keys_are_of_the_query_id_and_else_of_the_query():
    by_id = Batch(ROWS, "Step").row_keys().tolist()
    assert Batch(ROWS | {"query": list("abcd")}, "Step").row_keys().tolist() == by_id
    without = {name: values for name, values in ROWS.items() if name != "query_id"}
    by_query = Batch(without, "Step").row_keys().tolist()
    assert by_query != by_id
    assert Batch(without | {"query_id": ROWS["query"]}, "Step").row_keys().tolist() == by_query


def test_no_rows():
    assert len(Batch({}, "Step")) == 0
    batch = Batch({"query": [], "negative_ids": []}, "Step")
    assert len(batch) == 0
    assert batch.strings("query").to_pylist() == []
    assert ragged(batch.string_lists("negative_ids")) == ([0], [])
    assert len(Batch(in_form("arrow").slice(0, 0), "Step")) == 0


def test_a_null_list_is_empty_and_a_column_of_nothing_has_empty_lists():
    batch = Batch({"negative_ids": [["a"], None, []], "positive_ids": [None, None, None]}, "Step")
    assert ragged(batch.string_lists("negative_ids")) == ([0, 1, 1, 1], ["a"])
    assert batch.string_lists("positive_ids").lengths.tolist() == [0, 0, 0]
    assert batch.number_lists("positive_ids").lengths.tolist() == [0, 0, 0]


# ---- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("query", "rename your column to 'query'"),
        ("positive_ids", "add it with attach_positives"),
        ("negative_ids", r"mine first, for example with \.map\(BM25Negatives"),
        ("negative_scores", r"mine first, for example with \.map\(BM25Negatives"),
        ("negative_judge_scores", r"score first.*CrossEncoderScores\(corpus, model, name='judge'\)"),
        ("positive_judge_scores", r"score first.*CrossEncoderScores\(corpus, model, name='judge'\)"),
        ("negative_bm25_ranks", r"FuseNegatives\(\{'bm25': \.\.\., \.\.\.\}\)"),
        ("label", "add it in an earlier step"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_missing_column_is_named_with_its_remedy(form, name, remedy):
    batch = Batch(in_form(form, {"text": ["a"], "number": [1]}), "Step")
    wanted = rf"Step needs the column '{name}', but there are only \['text', 'number'\].*{remedy}"
    for ask in (batch.require, batch.column):
        with pytest.raises(KeyError, match=wanted):
            ask(name)


@pytest.mark.parametrize("rows", [[1, 2], "text", 5, None])
def test_what_is_no_batch_is_refused(rows):
    with pytest.raises(TypeError, match=rf"Step takes a batch of rows.*got {type(rows).__name__}.*batched=True"):
        Batch(rows, "Step")


def test_one_row_in_place_of_a_batch_is_refused():
    with pytest.raises(TypeError, match="one row instead of a batch"):
        Batch({"query": "a text"}, "Step").strings("query")


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_another_type_are_refused(form):
    batch = Batch(in_form(form), "Step")
    with pytest.raises(TypeError, match="Step: the column 'number' must hold strings, got int64"):
        batch.strings("number")
    with pytest.raises(TypeError, match="Step: the column 'number' must hold lists, got int64"):
        batch.lists("number")
    with pytest.raises(TypeError, match=r"'negative_scores' must be List\(string\), got lists of.*cast_column"):
        batch.string_lists("negative_scores")
    with pytest.raises(TypeError, match="Step: the column 'negative_ids' must be lists of numbers, got"):
        batch.number_lists("negative_ids")


@pytest.mark.parametrize(
    ("read", "values", "message"),
    [
        ("strings", ["a", None], "the column 'x' is null in the row with query_id 'q1'"),
        ("string_lists", [["a"], ["b", None]], "the column 'x' holds a null in the row with query_id 'q1'"),
        ("number_lists", [[1.0], [2.0, None]], "the column 'x' holds a null in the row with query_id 'q1'"),
        ("number_lists", [[1.0], [2.0, float("nan")]], "the column 'x' holds a NaN in the row with query_id 'q1'"),
    ],
)
def test_nulls_and_nans_are_refused_with_their_row(read, values, message):
    with pytest.raises(ValueError, match=f"Step: {message}"):
        getattr(Batch({"query_id": ["q0", "q1"], "x": values}, "Step"), read)("x")


def test_rows_are_described_by_id_by_query_or_by_number():
    assert Batch(ROWS, "Step").describe(1) == "the row with query_id 'q1'"
    assert Batch({"query": ["short", "long " * 40]}, "Step").describe(0) == "the row with query 'short'"
    cut = Batch({"query": ["short", "long " * 40]}, "Step").describe(1)
    assert cut.startswith("the row with query 'long long")
    assert cut.endswith("...")
    assert len(cut) == len("the row with query ") + 80
    assert Batch({"x": [1, 2]}, "Step").describe(1) == "row 1 of the batch"


@pytest.mark.parametrize("form", FORMS)
def test_scores_that_are_not_aligned_with_candidates_are_refused(form):
    rows = ROWS | {"negative_scores": [[2.5, 1.5], [], [0.25, 0.5], [3.0]]}
    wanted = (
        "Step: 'negative_ids' and 'negative_scores' must be aligned, but in the row with query_id 'q2' they have "
        "1 and 2 values.*mine again, or remove the column 'negative_scores'"
    )
    with pytest.raises(ValueError, match=wanted):
        Batch(in_form(form, rows), "Step").candidates()


def test_columns_of_one_total_that_are_not_aligned_are_refused():
    a, b = Ragged(np.array([0, 1, 3]), np.arange(3)), Ragged(np.array([0, 2, 3]), np.arange(3))
    batch = Batch(ROWS, "Step")
    batch.check_aligned("a", a, "b", Ragged(a.offsets.copy(), a.values))
    with pytest.raises(ValueError, match=r"'a' and 'b' must be aligned, but in the row with query_id 'q0'.*1 and 2"):
        batch.check_aligned("a", a, "b", b)


def test_candidate_columns_are_the_lists_that_begin_with_negative():
    rows = ROWS | {"negative_note": ["w", "x", "y", "z"], "negative_text": ROWS["negative_ids"], "other": [[1]] * 4}
    assert list(Batch(rows, "Step").candidates()) == ["negative_ids", "negative_scores", "negative_text"]


# ---- rows in a corpus ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_passages_are_found(form):
    corpus = Letters()
    found = Batch(in_form(form), "Step").rows_in("negative_ids", corpus)
    assert ragged(found) == ([0, 2, 2, 3, 6], [1, 2, 3, 3, 1, 0])
    assert corpus.asked == ["b", "c", "d", "d", "b", "a"]


@pytest.mark.parametrize("form", FORMS)
def test_only_which_is_asked_is_looked_up(form):
    corpus = Letters()
    rows = ROWS | {"negative_ids": [["unknown", "c"], [], ["d"], ["d", "b", "unknown"]]}
    found = Batch(in_form(form, rows), "Step").rows_in("negative_ids", corpus, np.array([1, 4]))
    assert corpus.asked == ["c", "b"]
    assert ragged(found) == ([0, 2, 2, 3, 6], [0, 2, 0, 0, 1, 0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", [None, np.array([0, 2, 5])])
def test_an_unknown_id_is_named_with_its_row_and_column(form, which):
    rows = ROWS | {"negative_ids": [["b", "c"], [], ["a"], ["d", "b", "e"]]}
    wanted = (
        "Step: 'negative_ids' of the row with query_id 'q3' names the passage 'e', which is not among the 4 passages"
    )
    with pytest.raises(KeyError, match=f"{wanted}.*or remove the id from the column"):
        Batch(in_form(form, rows), "Step").rows_in("negative_ids", Letters(), which)


@pytest.mark.parametrize("name", ["positive_ids", "known_positive_ids"])
def test_an_unknown_positive_is_not_to_be_removed(name):
    with pytest.raises(KeyError, match=f"'{name}' of .*or build corpus and rows together: from_pairs") as error:
        Batch({"query": ["why?"], name: [["e"]]}, "Step").rows_in(name, Letters())
    assert "remove" not in str(error.value)


# ---- answering -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_the_answer_has_the_form_of_the_rows(form):
    rows = in_form(form)
    answer = Batch(rows, "Step").answer(ANSWER)
    values = {name: array.to_pylist() for name, array in ANSWER.items()}
    kind = {"lists": dict, "numpy": dict, "pandas": pd.DataFrame, "arrow": pa.Table, "map": ArrowColumns}[form]
    assert type(answer) is kind
    if form in ("pandas", "arrow"):
        # Whole, with each column where it was and new ones at the end.
        assert plain(answer) == ROWS | values
        assert list(plain(answer)) == [*ROWS, "label", "name"]
        # The rows that came in are as they were.
        assert plain(rows) == ROWS
    else:
        assert plain(answer) == values
    if form == "lists":
        assert answer == values
    if form == "numpy":
        assert all(isinstance(column, np.ndarray) for column in answer.values())
        assert all(isinstance(one, np.ndarray) for one in answer["negative_ids"])
    if form == "map":
        assert all(isinstance(answer[name], pa.Array) for name in answer)
        assert all(isinstance(column, pd.Series) for column in answer.values())


def test_lists_of_one_length_stay_lists_in_numpy():
    answer = Batch(in_form("numpy"), "Step").answer({"pairs": pa.array([[1, 2]] * 4)})
    assert answer["pairs"].shape == (4,)
    assert [one.tolist() for one in answer["pairs"]] == [[1, 2]] * 4


@pytest.mark.parametrize("form", [None, "numpy", "pandas", "arrow"])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_a_mapped_dataset_is_the_same_in_every_format(form, batch_size):
    def step(rows):
        batch = Batch(rows, "Step")
        ids = batch.string_lists("negative_ids")
        return batch.answer({"count": pa.array(ids.lengths), "negative_ids": batch.column("positive_ids")})

    mapped = Dataset.from_dict(ROWS).with_format(form).map(step, batched=True, batch_size=batch_size)
    wanted = ROWS | {"count": [2, 0, 1, 3], "negative_ids": ROWS["positive_ids"]}
    assert mapped.with_format(None)[:] == wanted


NEW = NewRows(np.array([3, 0, 0]), {"anchor": pa.array(["x", "y", "z"])})


@pytest.mark.parametrize("form", ["pandas", "arrow", "numpy"])
def test_new_rows_stand_beside_the_other_columns_repeated(form):
    answer = Batch(in_form(form), "Step").answer(NEW)
    assert isinstance(answer, type(in_form(form)))
    found = plain(answer)
    wanted = {"query_id": ["q3", "q0", "q0"], "number": [4, 1, 1], "anchor": ["x", "y", "z"]}
    assert {name: found[name] for name in wanted} == wanted
    if form == "numpy":
        # Whole, since `map` merges what is not there as it was before.
        assert found.keys() == {*ROWS, "anchor"}
        assert found["query"] == ["sea floor", "plates", "plates"]
    else:
        assert found.keys() == wanted.keys()


@pytest.mark.parametrize("form", [None, "numpy", "pandas", "arrow"])
@pytest.mark.parametrize("owners", [[3, 0, 0], [3, 2, 1, 0], [0, 1, 2, 3]], ids=["fewer", "as many", "same"])
def test_mapped_new_rows_stand_beside_the_other_columns_repeated(form, owners):
    names = [f"new {owner}" for owner in owners]
    new = NewRows(np.array(owners), {"anchor": pa.array(names)})
    mapped = Dataset.from_dict(ROWS).with_format(form).map(lambda rows: Batch(rows, "Step").answer(new), batched=True)
    found = mapped.with_format(None)[:]
    wanted = {"query_id": [f"q{owner}" for owner in owners], "number": [owner + 1 for owner in owners], "anchor": names}
    assert {name: list(found[name]) for name in wanted} == wanted


@pytest.mark.parametrize("form", ["pandas", "arrow", "numpy"])
def test_there_may_be_no_new_rows(form):
    new = NewRows(np.array([], dtype=np.int64), {"anchor": pa.array([], pa.string())})
    found = plain(Batch(in_form(form), "Step").answer(new))
    assert [found[name] for name in ("query_id", "number", "anchor")] == [[], [], []]


def test_a_stream_keeps_columns_beside_their_rows():
    swapped = NewRows(np.array([1, 0, 3, 2]), {"anchor": pa.array(list("badc"))})
    answer = Batch(in_form("lists"), "Step").answer(swapped)
    assert answer["query_id"] == ["q1", "q0", "q3", "q2"]
    assert answer["anchor"] == list("badc")
    # Where the number of rows changes, `map` wants the old columns removed.
    assert Batch(in_form("lists"), "Step").answer(NEW) == {"anchor": ["x", "y", "z"]}


@pytest.mark.parametrize("form", FORMS)
def test_new_rows_do_not_overwrite_a_column(form):
    new = NewRows(np.array([0]), {"anchor": pa.array(["x"]), "number": pa.array([9])})
    with pytest.raises(
        ValueError, match=r"writes the columns \['anchor', 'number'\], but the rows already have \['number'\]"
    ):
        Batch(in_form(form), "Step").answer(new)


# ---- columns of a batch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("short", ["query_id", "query", "positive_ids", "negative_scores", "number"])
@pytest.mark.parametrize("form", ["lists", "numpy", "series", "arrays"])
def test_columns_of_different_lengths_are_refused(form, short):
    holder = {"lists": list, "numpy": lambda one: np.array([*one, None], dtype=object)[:-1]}.get(form)
    holder = holder or {"series": pd.Series, "arrays": pa.array}[form]
    rows = {name: holder(values[: 3 if name == short else 4]) for name, values in ROWS.items()}
    first = 3 if short == "query_id" else 4
    name = "query" if short == "query_id" else short
    with pytest.raises(
        ValueError, match=f"the column '{name}' has {7 - first} rows and the column 'query_id' has {first}"
    ):
        Batch(rows, "Step")


def test_a_lazy_batch_that_was_changed_is_measured():
    rows = in_form("map")
    rows["more"] = [1, 2]
    with pytest.raises(ValueError, match="the column 'more' has 2 rows and the column 'query_id' has 4"):
        Batch(rows, "Step")


def test_columns_of_one_name_or_none_are_refused():
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["query", "query"])
    with pytest.raises(ValueError, match="several columns 'query'"):
        Batch(table, "Step")
    for rows in ({1: ["a"]}, pd.DataFrame([["a"]])):
        with pytest.raises(TypeError, match=r"name of the column . must be a string"):
            Batch(rows, "Step")


ODD_TEXTS = {
    "string_view": pa.string_view(),
    "large_string": pa.large_string(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("type_", ODD_TEXTS.values(), ids=ODD_TEXTS)
def test_texts_of_every_type_are_read(type_):
    array = pa.array(["a", "b\0c", ""], pa.string()).cast(type_)
    assert Batch({"x": array}, "Step").strings("x").to_pylist() == ["a", "b\0c", ""]
    runs = pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"])
    assert Batch({"x": runs}, "Step").strings("x").to_pylist() == ["a", "a", "b"]


ODD_LISTS = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda inner: pa.list_(inner, 2)]


@pytest.mark.parametrize("inner", [pa.string(), pa.string_view(), pa.large_string()], ids=str)
@pytest.mark.parametrize("make", ODD_LISTS)
def test_lists_of_every_type_are_read(make, inner):
    array = pa.array([["a", "b"], None, ["c", "d"]], make(inner))
    assert ragged(Batch({"x": array}, "Step").string_lists("x")) == ([0, 2, 2, 4], ["a", "b", "c", "d"])
    coded = pa.ListArray.from_arrays([0, 2, 3], pa.array(["a", "b", "a"]).dictionary_encode())
    assert ragged(Batch({"x": coded}, "Step").string_lists("x")) == ([0, 2, 3], ["a", "b", "a"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "b", 3], "mixes types in row 2"),
        ([["a"], ["b"], ["c", 1]], "mixes types in row 2"),
        ([["a"], "b"], "mixes types in row 1"),
        (["a", "\ud800"], "not valid Unicode in row 1"),
        ([["a"], [], ["b\udfff"]], "not valid Unicode in row 2"),
        (np.array(["a", "\ud800"]), "not valid Unicode in row 1"),
        (pd.Series([1, "a"], dtype=object), "mixes types in row"),
        ([[1], [2**63]], "does not fit into 64 bits in row 1"),
        ([[0.5], [], [object()]], "mixes types in row 2"),
        (np.array([1j]), "mixes types in row 0"),
    ],
)
def test_what_arrow_does_not_hold_is_named_with_its_row(values, message):
    with pytest.raises(TypeError, match=f"Step: the column 'x' .*{message}"):
        Batch({"x": values}, "Step").column("x")


def test_texts_of_numpy_are_not_cut_at_nul():
    assert Batch({"x": np.array(["a\0b", "c"])}, "Step").column("x").to_pylist() == ["a\0b", "c"]


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000"])
def test_blank_queries_are_refused(blank):
    with pytest.raises(ValueError, match="the column 'query' is empty in the row with query_id 'q1'"):
        Batch({"query_id": ["q0", "q1"], "query": ["a", blank]}, "Step").queries()


@pytest.mark.parametrize("scores", [[None, None], [[0.5], [0.5, 0.25]], pa.nulls(2)])
def test_scores_must_be_aligned_with_the_ids(scores):
    rows = {"query_id": ["q0", "q1"], "negative_ids": [["a"], ["b"]], "negative_scores": scores}
    with pytest.raises(ValueError, match=r"'negative_ids' and 'negative_scores' must be aligned.*query_id 'q"):
        Batch(rows, "Step").scores("negative_scores")


def test_infinite_scores_are_refused_where_they_mean_nothing():
    rows = {"query_id": ["q0", "q1"], "positive_scores": [[1.0], [0.5, float("inf")]]}
    batch = Batch(rows, "Step")
    assert batch.scores("positive_scores").values.tolist() == [1.0, 0.5, np.inf]
    with pytest.raises(ValueError, match="'positive_scores' holds an infinite score in the row with query_id 'q1'"):
        batch.scores("positive_scores", finite=True)
