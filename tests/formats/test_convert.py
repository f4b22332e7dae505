"""From any form to any other: what is kept, what is merged, and that nothing is lost on the way there and back."""

import logging
import sys

import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, List, Value

from hnm_datasets import Corpus, ToLabeledLists, ToLabeledPairs, ToNTuples, ToTriplets, convert, from_pairs
from hnm_datasets.formats.reading import FORMS

TEXT_FORMS = [form for form in FORMS if form != "mined"]
LIST_FORMS = ["labeled-lists", "tevatron", "flagembedding"]
MINED = {
    "query_id": ["q1", "q2", "q3"],
    "query": ["one?", "two?", "three?"],
    "positive_ids": [["a", "b"], ["c"], ["d"]],
    "positive_scores": [[5.0, 4.5], [4.0], [3.5]],
    "negative_ids": [["c", "d"], ["e", "a"], ["b", "a"]],
    "negative_scores": [[3.0, 2.0], [2.5, 1.5], [0.5, 0.25]],
}


@pytest.fixture(scope="module")
def corpus():
    names = list("abcde")
    rows = {
        "id": names,
        "title": [f"Title {n}" if n < "d" else None for n in names],
        "text": [f"text {n}" for n in names],
    }
    return Corpus.from_dataset(Dataset.from_dict(rows))


def text(name):
    return f"Title {name} text {name}" if name < "d" else f"text {name}"


def passage(name):
    return {"docid": name, "title": f"Title {name}" if name < "d" else "", "text": f"text {name}"}


def mined(**columns):
    return Dataset.from_dict(MINED | columns)


def without(dataset, *names):
    return dataset.remove_columns([name for name in names if name in dataset.column_names])


# ---- each form ---------------------------------------------------------------------------------------------------


def test_to_triplets_has_every_positive_with_every_negative(corpus):
    rows = convert(mined(), "triplets", corpus)
    assert rows.column_names == [
        "anchor", "positive", "negative", "anchor_id", "positive_id", "negative_id", "positive_score", "negative_score"
    ]  # fmt: skip
    assert list(zip(rows["anchor_id"], rows["positive_id"], rows["negative_id"], strict=True)) == [
        ("q1", "a", "c"), ("q1", "a", "d"), ("q1", "b", "c"), ("q1", "b", "d"),
        ("q2", "c", "e"), ("q2", "c", "a"), ("q3", "d", "b"), ("q3", "d", "a"),
    ]  # fmt: skip
    assert rows["positive"][:] == [text(name) for name in rows["positive_id"]]
    assert rows["negative"][:] == [text(name) for name in rows["negative_id"]]
    assert rows["positive_score"][:4] == [5.0, 5.0, 4.5, 4.5]
    assert rows["negative_score"][:4] == [3.0, 2.0, 3.0, 2.0]


def test_to_n_tuples_has_one_row_per_positive(corpus):
    rows = convert(mined(), "n-tuples", corpus)
    assert len(rows) == 4
    assert rows[1] == {
        "anchor": "one?", "positive": text("b"), "negative_1": text("c"), "negative_2": text("d"), "anchor_id": "q1",
        "positive_id": "b", "negative_1_id": "c", "negative_2_id": "d",
        "positive_score": 4.5, "negative_1_score": 3.0, "negative_2_score": 2.0,
    }  # fmt: skip


def test_to_labeled_pairs(corpus):
    rows = convert(mined(), "labeled-pairs", corpus)
    assert rows["passage_id"][:] == list("abcd" + "cea" + "dba")
    assert rows["label"][:] == [1, 1, 0, 0, 1, 0, 0, 1, 0, 0]
    assert rows[1] == {
        "anchor": "one?", "passage": text("b"), "label": 1.0, "anchor_id": "q1", "passage_id": "b", "passage_score": 4.5
    }  # fmt: skip


def test_to_labeled_lists(corpus):
    rows = convert(mined(), "labeled-lists", corpus)
    assert rows[0] == {
        "anchor": "one?", "passages": [text(name) for name in "abcd"], "labels": [1, 1, 0, 0], "anchor_id": "q1",
        "passage_ids": list("abcd"), "passage_scores": [5.0, 4.5, 3.0, 2.0],
    }  # fmt: skip


def test_to_tevatron(corpus):
    rows = convert(mined(), "tevatron", corpus)
    assert rows[1] == {
        "query_id": "q2", "query": "two?",
        "positive_passages": [passage("c")], "negative_passages": [passage("e"), passage("a")],
    }  # fmt: skip
    passages = List({"docid": Value("string"), "title": Value("string"), "text": Value("string")})
    assert rows.features["negative_passages"] == passages


def test_to_flagembedding(corpus):
    rows = convert(mined(), "flagembedding", corpus)
    assert rows[0] == {
        "query_id": "q1", "query": "one?", "pos": [text("a"), text("b")], "neg": [text("c"), text("d")],
        "pos_id": ["a", "b"], "neg_id": ["c", "d"], "pos_scores": [5.0, 4.5], "neg_scores": [3.0, 2.0],
    }  # fmt: skip


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


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_mined_comes_back_from_every_form(corpus, form):
    back = convert(convert(mined(), form, corpus), "mined", corpus)
    if form == "tevatron":
        assert back.to_list() == without(mined(), "positive_scores", "negative_scores").to_list()
    elif form == "flagembedding":
        renamed = {f"{part}_scores": f"{part}_teacher_scores" for part in ("positive", "negative")}
        assert back.to_list() == mined().rename_columns(renamed).select_columns(back.column_names).to_list()
    else:
        assert back.to_list() == mined().select_columns(back.column_names).to_list()
        assert set(back.column_names) == set(MINED)


@pytest.mark.parametrize("first", TEXT_FORMS)
@pytest.mark.parametrize("second", TEXT_FORMS)
def test_every_form_comes_back_from_every_other(corpus, first, second):
    rows = convert(mined(), first, corpus)
    back = convert(convert(rows, second, corpus), first, corpus)
    assert back.column_names == rows.column_names or second == "tevatron"
    assert back.to_list() == rows.select_columns(back.column_names).to_list()
    assert set(rows.column_names) - set(back.column_names) <= {name for name in rows.column_names if "score" in name}


def test_a_teachers_scores_go_into_flagembeddings_form_before_the_retrievers(corpus, caplog):
    scores = {"positive_teacher_scores": [[0.9, 0.8], [0.7], [0.6]], "negative_teacher_scores": [[0.1, 0.2]] * 3}
    rows = convert(mined(**scores), "flagembedding", corpus)
    assert rows["pos_scores"][0] == pytest.approx([0.9, 0.8])
    assert "['positive_scores', 'negative_scores']" in caplog.text
    assert convert(mined(**scores), "triplets", corpus)["positive_score"][0] == 5.0
    back = convert(rows, "mined", corpus)
    assert back["positive_teacher_scores"][0] == pytest.approx([0.9, 0.8])
    assert back.features["negative_teacher_scores"] == List(Value("float32"))


def test_batches_do_not_show(corpus, monkeypatch):
    rows = convert(mined(), "triplets", corpus).select([7, 0, 4, 2, 6, 1, 3, 5])
    whole = convert(rows, "labeled-lists").to_list()
    monkeypatch.setattr(sys.modules["hnm_datasets.forms.conversion"], "_BYTES", 1)
    monkeypatch.setattr(sys.modules["hnm_datasets.forms.conversion"], "_KEY_ROWS", 3)
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


def test_n_tuples_need_equal_numbers_of_negatives(corpus):
    rows = mined(negative_ids=[["c", "d"], ["e"], ["b", "a"]], negative_scores=[[3.0, 2.0], [2.5], [0.5, 0.25]])
    with pytest.raises(ValueError, match=r"'two\?' has 1, and queries before it have 2.*TopNegatives\(n\).*triplets"):
        convert(rows, "n-tuples", corpus)
    with pytest.raises(ValueError, match=r"at least 1; the query 'one\?' has 0\. "):
        convert(mined(negative_ids=[[], [], []], negative_scores=[[], [], []]), "n-tuples", corpus)


def test_what_has_no_row_is_counted(corpus, caplog):
    rows = mined(negative_ids=[["c", "d"], [], ["b", "a"]], negative_scores=[[3.0, 2.0], [], [0.5, 0.25]])
    made = convert(rows, "triplets", corpus)
    assert len(made) == 6
    assert "1 of 3 queries or rows have no place in triplets: they lack a positive or a negative" in caplog.text
    assert len(convert(rows.select([1]), "triplets", corpus)) == 0


# ---- ids, texts, titles ------------------------------------------------------------------------------------------


def test_to_mined_by_text_where_the_ids_are_others(corpus):
    rows = Dataset.from_dict(
        {"query": ["one?"], "pos": [["TITLE A  text a"]], "neg": [["text e", "text e"]], "pos_id": [["77"]]}
    )
    made = convert(rows, "mined", corpus)
    assert made[0] == {"query": "one?", "positive_ids": ["a"], "negative_ids": ["e"]}


def test_to_mined_by_the_hashes_of_from_pairs():
    pairs = Dataset.from_dict({"anchor": ["a?"], "positive": ["A."], "negative": ["B."]})
    corpus, _ = from_pairs(pairs, "anchor", "positive", passages=pairs["negative"][:])
    tevatron = convert(pairs, "tevatron")
    assert corpus[tevatron[0]["negative_passages"][0]["docid"]]["text"] == "B."
    assert convert(tevatron, "mined", corpus)["positive_ids"] == convert(pairs, "mined", corpus)["positive_ids"]


def test_a_passage_that_the_corpus_lacks(corpus):
    rows = {"query": ["one?"], "pos": [["text d"]], "neg": [["text e", "text z"]]}
    with pytest.raises(KeyError, match=r"'text z' of the query 'one\?' is not among the 5.*passages=\.\.\."):
        convert(Dataset.from_dict(rows), "mined", corpus)
    rows |= {"neg_id": [["e", "z"]]}
    with pytest.raises(KeyError, match="'text z' with the id 'z'"):
        convert(Dataset.from_dict(rows), "mined", corpus)
    with pytest.raises(KeyError, match=r"'negative_ids' of the query 'three\?' names the passage 'z'"):
        convert(mined(negative_ids=[["c", "d"], ["e", "a"], ["b", "z"]]), "triplets", corpus)


def test_titles_come_apart_again_with_the_corpus_and_ids(corpus):
    whole = convert(mined(), "tevatron", corpus)
    flag = convert(whole, "flagembedding")
    assert flag["pos"][0] == [text("a"), text("b")]
    assert convert(flag, "tevatron", corpus).to_list() == whole.to_list()
    assert convert(flag, "tevatron")["positive_passages"][0][0] == {"docid": "a", "title": "", "text": text("a")}
    # The corpus has another text under this id.
    changed = flag.map(lambda row: {"pos": ["another"] * len(row["pos"])})
    assert convert(changed, "tevatron", corpus)["positive_passages"][0][0]["text"] == "another"


def test_types_hold_when_the_first_lists_are_empty(corpus):
    rows = Dataset.from_dict({"query": ["a?", "b?"], "pos": [[], ["B."]], "neg": [[], ["x"]]})
    made = convert(rows, "tevatron")
    assert made.features["negative_passages"] == convert(mined(), "tevatron", corpus).features["negative_passages"]
    assert made["negative_passages"][1][0]["text"] == "x"
    assert convert(made, "flagembedding").select_columns(["query", "pos", "neg"]).to_list() == rows.to_list()
    assert convert(rows, "labeled-lists")["labels"][:] == [[], [1, 0]]


# ---- what is left out, and refused -------------------------------------------------------------------------------


def test_fields_of_passages_that_are_left_out_are_named(caplog):
    passages = [[{"docid": "1", "title": "", "text": "A", "url": "?"}]]
    rows = Dataset.from_dict({"query": ["a?"], "positive_passages": passages, "negative_passages": passages})
    assert convert(rows, "tevatron") is rows
    convert(rows, "triplets")
    assert "'positive_passages.url', 'negative_passages.url'" in caplog.text


def test_ids_of_one_side_alone_have_no_place_beside_labels(caplog):
    rows = Dataset.from_dict({"query": ["a?"], "pos": [["A"]], "neg": [["x"]], "pos_id": [["1"]]})
    assert convert(rows, "triplets")[0] == {"anchor": "a?", "positive": "A", "negative": "x", "positive_id": "1"}
    assert not caplog.records
    assert convert(rows, "labeled-lists")[0] == {"anchor": "a?", "passages": ["A", "x"], "labels": [1.0, 0.0]}
    assert "['pos_id']" in caplog.text


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


def test_labels_of_a_teacher_are_left_out_of_triplets(caplog):
    rows = Dataset.from_dict({"anchor": ["a?"], "positive": ["A"], "negative": ["x"], "label": [[0.5]]})
    assert convert(rows, "flagembedding")[0] == {"query": "a?", "pos": ["A"], "neg": ["x"]}
    assert "['label']" in caplog.text


def test_scores_of_mine_hard_negatives_travel():
    rows = Dataset.from_dict(
        {"question": ["a?"] * 2, "answer": ["A"] * 2, "negative": ["x", "y"], "scores": [[0.9, 0.1], [0.9, 0.2]]}
    )
    made = convert(rows, "flagembedding")
    assert made["neg_scores"][0] == [0.1, 0.2]
    assert made["pos_scores"][0] == [0.9]


@pytest.mark.parametrize("first", TEXT_FORMS)
@pytest.mark.parametrize("second", FORMS)
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
        (lambda rows, corpus: convert(DatasetDict(train=rows), "triplets"), TypeError, "DatasetDict convert each"),
        (
            lambda rows, corpus: convert(IterableDataset.from_generator(lambda: iter(())), "triplets"),
            TypeError,
            "IterableDataset to Parquet",
        ),
        (lambda rows, corpus: convert(rows.select_columns(["query"]), "triplets"), KeyError, "no form of mined data"),
        (
            lambda rows, corpus: convert(rows.add_column("label", [0, 1, 0]), "labeled-pairs", corpus),
            ValueError,
            r"others of the names \['label'\]",
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
