"""From any format to any other: what is kept, what is merged, and that nothing is lost on the way there and back."""

import logging
import sys

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from format_examples import MINED, make_corpus, mined

from hnm_datasets import ToLabeledLists, ToLabeledPairs, ToNTuples, ToTriplets, convert
from hnm_datasets.formats.registry import FORMATS

TEXT_FORMATS = [name for name, format in FORMATS.items() if not format.needs_corpus]


@pytest.fixture(scope="module")
def corpus():
    return make_corpus()


def without(dataset, *names):
    return dataset.remove_columns([name for name in names if name in dataset.column_names])


# ---- each format ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "step"),
    [
        ("triplets", lambda corpus: ToTriplets(corpus, with_ids=True, with_scores=True)),
        ("n-tuples", lambda corpus: ToNTuples(corpus, n=2, with_ids=True, with_scores=True)),
        ("labeled-pairs", lambda corpus: ToLabeledPairs(corpus, with_ids=True, with_scores=True)),
        ("labeled-lists", lambda corpus: ToLabeledLists(corpus, with_ids=True, with_scores=True)),
    ],
)
def test_mined_rows_become_what_the_shape_step_makes(corpus, form, step):
    shaped = mined().map(step(corpus), batched=True, remove_columns=mined().column_names)
    made = convert(mined(), form, corpus)
    assert made.features == shaped.features
    assert made.to_list() == shaped.to_list()


# ---- there and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_mined_comes_back_from_every_format(corpus, form):
    back = convert(convert(mined(), form, corpus), "mined", corpus)
    if form == "tevatron":
        assert back.to_list() == without(mined(), "positive_scores", "negative_scores").to_list()
    elif form == "flagembedding":
        renamed = {f"{part}_scores": f"{part}_teacher_scores" for part in ("positive", "negative")}
        assert back.to_list() == mined().rename_columns(renamed).select_columns(back.column_names).to_list()
    else:
        assert back.to_list() == mined().select_columns(back.column_names).to_list()
        assert set(back.column_names) == set(MINED)


@pytest.mark.parametrize("first", TEXT_FORMATS)
@pytest.mark.parametrize("second", TEXT_FORMATS)
def test_every_format_comes_back_from_every_other(corpus, first, second):
    rows = convert(mined(), first, corpus)
    back = convert(convert(rows, second, corpus), first, corpus)
    assert back.column_names == rows.column_names or second == "tevatron"
    expected = rows.select_columns(back.column_names).to_list()
    if (first, second) == ("dpr", "tevatron"):
        # The scores are inside of the passages.
        for passage in (
            one for row in expected for name in ("positive_ctxs", "hard_negative_ctxs") for one in row[name]
        ):
            del passage["score"]
    assert back.to_list() == expected
    assert set(rows.column_names) - set(back.column_names) <= {name for name in rows.column_names if "score" in name}


def test_batches_do_not_show(corpus, monkeypatch):
    rows = convert(mined(), "triplets", corpus).select([7, 0, 4, 2, 6, 1, 3, 5])
    whole = convert(rows, "labeled-lists").to_list()
    monkeypatch.setattr(sys.modules["hnm_datasets.formats.conversion"], "_BYTES", 1)
    monkeypatch.setattr(sys.modules["hnm_datasets.formats.conversion"], "_KEY_ROWS", 3)
    assert convert(rows.add_column("new", [0] * 8), "labeled-lists").remove_columns("new").to_list() == whole
    assert [row["anchor_id"] for row in whole] == ["q3", "q1", "q2"]


# ---- merging -----------------------------------------------------------------------------------------------------


def test_queries_are_told_apart_by_ids_and_else_by_texts():
    rows = {"anchor": ["same?", "same?", "other?"], "positive": ["A", "B", "C"], "negative": ["x", "y", "z"]}
    assert len(convert(Dataset.from_dict(rows), "flagembedding")) == 2
    made = convert(Dataset.from_dict(rows | {"anchor_id": ["q1", "q2", "q1"]}), "flagembedding")
    assert made["query_id"][:] == ["q1", "q2"]
    assert made["pos"][:] == [["A", "C"], ["B"]]


def test_passages_are_told_apart_by_ids():
    rows = {"query": ["a?"], "pos": [["A"]], "neg": [["x", "x", "y"]], "pos_id": [["1"]], "neg_id": [["2", "3", "2"]]}
    made = convert(Dataset.from_dict(rows), "labeled-lists")
    assert made["passages"][0] == ["A", "x", "x"]
    assert made["passage_ids"][0] == ["1", "2", "3"]


def test_other_columns_are_repeated_or_those_of_the_first_row():
    features = Features(
        {name: Value("string") for name in ("anchor", "positive", "negative")} | {"kind": ClassLabel(names=["u", "v"])}
    )
    rows = Dataset.from_dict(
        {"anchor": ["a?", "b?", "a?"], "positive": list("ABA"), "negative": list("xyz"), "kind": [1, 0, 0]}, features
    )
    merged = convert(rows, "flagembedding")
    assert merged["kind"][:] == [1, 0]
    assert merged.features["kind"] == features["kind"]
    assert convert(merged, "triplets")["kind"][:] == [1, 1, 0]


def test_what_has_no_row_is_counted(corpus, caplog):
    rows = mined(negative_ids=[["c", "d"], [], ["b", "a"]], negative_scores=[[3.0, 2.0], [], [0.5, 0.25]])
    made = convert(rows, "triplets", corpus)
    assert len(made) == 6
    assert "1 of 3 queries or rows have no row in 'triplets', because they have no positive" in caplog.text
    assert len(convert(rows.select([1]), "triplets", corpus)) == 0


# ---- ids, texts, titles ------------------------------------------------------------------------------------------


# ---- what is left out, and refused -------------------------------------------------------------------------------


def test_what_is_left_out_is_named(corpus, caplog):
    more = {"negative_ranks": [[1, 2]] * 3, "negative_source": [["bm25"] * 2] * 3, "judged_negative_ids": [["e"]] * 3}
    convert(mined(**more), "tevatron", corpus)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for name in [*more, "positive_scores", "negative_scores"]:
        assert repr(name) in record.message
    caplog.clear()
    convert(mined(), "flagembedding", corpus)
    assert not caplog.records


@pytest.mark.parametrize("first", TEXT_FORMATS)
@pytest.mark.parametrize("second", list(FORMATS))
def test_an_empty_dataset_gets_the_columns(corpus, first, second):
    none = convert(mined(), first, corpus).select([])
    made = convert(none, second, corpus)
    assert len(made) == 0
    full = convert(convert(mined(), first, corpus), second, corpus)
    negatives = {name for name in full.column_names if name.startswith("negative_2")}
    assert set(made.column_names) in ({*full.column_names}, {*full.column_names} - negatives)
    assert all(made.features[name] == full.features[name] for name in made.column_names)


def test_a_second_conversion_comes_from_the_cache(corpus, tmp_path, monkeypatch):
    mined().save_to_disk(tmp_path / "mined")
    first = convert(Dataset.load_from_disk(tmp_path / "mined"), "triplets", corpus)
    before = set((tmp_path / "mined").iterdir())
    again = convert(Dataset.load_from_disk(tmp_path / "mined"), "triplets", corpus)
    assert again.cache_files == first.cache_files
    assert again._fingerprint == first._fingerprint
    assert set((tmp_path / "mined").iterdir()) == before


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (lambda rows, corpus: convert(rows, "beir", corpus), ValueError, "one of 'mined', 'triplets', .*got 'beir'"),
        (lambda rows, corpus: convert(rows, "triplets"), ValueError, r"convert\(dataset, 'triplets', corpus\)"),
        (lambda rows, corpus: convert(rows, "triplets", rows), TypeError, "corpus must be a Corpus, got Dataset"),
        (lambda rows, corpus: convert(rows.select_columns(["query"]), "triplets"), KeyError, "no format of mined data"),
        (
            lambda rows, corpus: convert(rows.add_column("label", [0, 1, 0]), "labeled-pairs", corpus),
            ValueError,
            r"other columns with the names \['label'\]",
        ),
    ],
)
def test_errors_name_the_way_out(corpus, made, error, message):
    with pytest.raises(error, match=message):
        made(mined(), corpus)


def test_lists_of_one_query_are_read_from_chunks(corpus):
    table = pa.concat_tables([mined().data.table.slice(row, 1) for row in (0, 1, 2)])
    made = convert(Dataset(table), "labeled-lists", corpus)
    assert made.to_list() == convert(mined(), "labeled-lists", corpus).to_list()
