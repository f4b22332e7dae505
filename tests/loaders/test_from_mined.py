"""from_mined: a corpus and mined rows from every format with texts, and `convert` brings the same rows back."""

import json
import logging

import older_versions
import pytest
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import (
    BiEncoderScores,
    DropKnownPositives,
    RelativeMargin,
    ToTriplets,
    convert,
    from_mined,
    from_pairs,
)
from hnm_datasets.formats.registry import FORMATS
from hnm_datasets.loaders import mined as loader

TEXT_FORMATS = [name for name, format in FORMATS.items() if not format.needs_corpus]
QUERY = {"query_id": "q1", "query": "one?"}
#: The same two queries in each format, with ids and scores where it has them.
LISTS = {
    "query_id": ["q1", "q2"],
    "query": ["one?", "two?"],
    "pos": [["A", "B"], ["C"]],
    "neg": [["x", "y"], ["z", "x"]],
    "pos_id": [["a", "b"], ["c"]],
    "neg_id": [["1", "2"], ["3", "1"]],
    "pos_scores": [[5.0, 4.5], [4.0]],
    "neg_scores": [[3.0, 2.0], [1.0, 0.5]],
}
IDS = {"positive_ids": LISTS["pos_id"], "negative_ids": LISTS["neg_id"]}
SCORES = {"positive_scores": LISTS["pos_scores"], "negative_scores": LISTS["neg_scores"]}


def example(form, ids=True):
    """Write them; without ids those of the passages are hashes of their texts."""
    columns = LISTS if ids else {name: LISTS[name] for name in ("query", "pos", "neg", "pos_scores", "neg_scores")}
    return convert(Dataset.from_dict(columns), form)


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("form", TEXT_FORMATS)
def test_every_format_and_back(form, ids):
    dataset = example(form, ids)
    corpus, rows = from_mined(dataset)
    assert sorted(corpus.columns["text"].to_pylist()) == ["A", "B", "C", "x", "y", "z"]
    if ids or form == "tevatron":
        assert rows["query_id"][:] == ["q1", "q2"] if ids else len(set(rows["query_id"])) == 2
    for name, texts in (("positive_ids", LISTS["pos"]), ("negative_ids", LISTS["neg"])):
        assert [corpus.texts(corpus.rows(own)).to_pylist() for own in rows[name]] == texts
        assert not ids or rows[name][:] == IDS[name]
    prefix = {"flagembedding": "teacher_", "tevatron": None}.get(form, "")
    found = [name for name in rows.column_names if name.endswith("scores")]
    expected = [] if prefix is None else [f"positive_{prefix}scores", f"negative_{prefix}scores"]
    assert found == expected
    for name in expected:
        assert rows[name][:] == SCORES[name.replace("teacher_", "")]
    back = convert(rows, form, corpus)
    assert [as_before(row, old) for row, old in zip(back, dataset, strict=True)] == dataset.to_list()


def as_before(value, old):
    """Return a value with the fields that it had before: the way back adds ids."""
    if isinstance(old, dict):
        return {name: as_before(value[name], part) for name, part in old.items()}
    if isinstance(old, list):
        return [as_before(*pair) for pair in zip(value, old, strict=True)]
    return value


def test_titles_stay_apart_and_come_back():
    passages = [{"docid": f"d{i}", "title": title, "text": f"text {i}"} for i, title in enumerate(["One", "", "Three"])]
    row = QUERY | {"positive_passages": passages[:1], "negative_passages": passages[1:]}
    dataset = Dataset.from_list([row])
    corpus, rows = from_mined(dataset)
    assert corpus["d0"] == {"id": "d0", "title": "One", "text": "text 0", "group": None}
    assert corpus.texts(corpus.rows(["d2"])).to_pylist() == ["Three text 2"]
    assert convert(rows, "tevatron", corpus).to_list() == [row]


@older_versions.needs("datasets", "4.8", "its JSON reader fails on values of several types")
def test_the_json_of_dpr(tmp_path):
    contexts = [
        {"title": "T", "text": "moves.", "score": "9.5", "passage_id": 7},
        {"title": "", "text": "rises.", "score": 2, "passage_id": 8},
    ]
    rows = [
        {"question": "what?", "answers": ["x"], "positive_ctxs": contexts[:1], "hard_negative_ctxs": contexts[1:]},
        {"question": "who?", "answers": [], "positive_ctxs": contexts[1:], "hard_negative_ctxs": []},
    ]
    (tmp_path / "dpr.json").write_text(json.dumps(rows))
    corpus, mined = from_mined(load_dataset("json", data_files=str(tmp_path / "dpr.json"), split="train"))
    assert (len(corpus), corpus["7"]["title"]) == (2, "T")
    assert mined["positive_ids"][:] == [["7"], ["8"]]
    assert mined["negative_ids"][:] == [["8"], []]
    assert mined["positive_scores"][:] == [[9.5], [2.0]]
    assert mined["answers"][:] == [["x"], []]
    back = convert(mined, "dpr", corpus)
    assert back[0]["hard_negative_ctxs"] == [{"title": "", "text": "rises.", "score": 2.0, "passage_id": "8"}]


def test_the_rows_of_one_query_become_one():
    triplets = {
        "anchor": ["one?", "two?", "one?", "one?"],
        "positive": ["A", "B", "A", "C"],
        "negative": ["x", "y", "z", "x"],
        "topic": ["t1", "t2", "t3", "t4"],
    }
    corpus, rows = from_mined(triplets)
    assert rows["query"][:] == ["one?", "two?"]
    assert rows["topic"][:] == ["t1", "t2"]
    names = [corpus.texts(corpus.rows(own)).to_pylist() for own in rows["positive_ids"]]
    assert names == [["A", "C"], ["B"]]
    assert corpus.columns["text"].to_pylist() == ["A", "B", "C", "x", "y", "z"]


def test_what_from_pairs_named_has_the_same_ids():
    corpus, rows = from_pairs({"query": ["a?"], "answer": ["A."]}, passages=["B."])
    again, mined = from_mined({"query": ["a?"], "pos": [["A."]], "neg": [["B."]]})
    assert again.rows(rows[0]["positive_ids"]).tolist() == [0]
    assert mined[0]["negative_ids"] == corpus.ids(corpus.find_texts(["B."])).to_pylist()


def test_two_spellings_of_a_text_are_two_passages():
    dataset = Dataset.from_dict({"query": ["a?"], "pos": [["Plates move."]], "neg": [["plates  move.", "x"]]})
    corpus, rows = from_mined(dataset)
    assert len(corpus) == 3
    assert convert(rows, "flagembedding", corpus).select_columns(["query", "pos", "neg"]).to_list() == dataset.to_list()
    checked = rows.map(DropKnownPositives(corpus), batched=True)
    assert corpus.texts(corpus.rows(checked[0]["negative_ids"])).to_pylist() == ["x"]


def test_other_rows_of_a_question_are_known():
    rows = {"query_id": ["1", "2"], "query": ["A?", "a?"], "pos": [["p"], ["q"]], "neg": [["q"], ["x"]]}
    corpus, mined = from_mined(rows | {"pos_id": [["p"], ["q"]], "neg_id": [["q"], ["x"]]})
    assert mined["known_positive_ids"][:] == [["q"], ["p"]]
    assert mined.map(DropKnownPositives(corpus), batched=True)["negative_ids"][:] == [[], ["x"]]


def test_scores_that_some_passages_lack_are_null():
    dataset = {
        "question": ["what?", "who?"],
        "positive_ctxs": [[{"text": "A", "score": None}], [{"text": "B", "score": 3.0}]],
        "hard_negative_ctxs": [[{"text": "x", "score": 2.0}, {"text": "y", "score": None}], []],
    }
    _, mined = from_mined(Dataset.from_dict(dataset))
    assert mined["negative_scores"][:] == [[2.0, None], []]
    assert mined["positive_scores"][:] == [[None], [3.0]]


def test_teachers_and_filters_run_on_it(static_model):
    dataset = {
        "query": ["what causes earthquakes?"],
        "pos": [["Earthquakes are caused by moving plates."]],
        "neg": [["What causes earthquakes are moving plates.", "Bread rises with yeast."]],
    }
    corpus, rows = from_mined(dataset)
    checked = rows.map(BiEncoderScores(corpus, static_model), batched=True).map(RelativeMargin(0.3), batched=True)
    triplets = checked.map(ToTriplets(corpus), batched=True, remove_columns=checked.column_names)
    assert triplets["negative"][:] == ["Bread rises with yeast."]


def test_what_is_left_out_is_said(caplog):
    columns = {"anchor": ["a?"], "positive": ["A"], "negative": ["x"], "label": [0.5]}
    with caplog.at_level(logging.WARNING):
        from_mined(columns)
    assert "cannot store the columns ['label']" in caplog.text


PASSAGES = st.lists(st.sampled_from("ABCDEFGH"), min_size=1, max_size=4, unique=True)


@settings(max_examples=15)
@given(st.lists(st.tuples(PASSAGES, PASSAGES), min_size=1, max_size=12), st.integers(1, 3))
def test_passages_are_collected_in_parts(rows, size):
    dataset = {"query": [f"{i}?" for i in range(len(rows))]}
    dataset |= {name: [list(row[side]) for row in rows] for side, name in enumerate(("pos", "neg"))}
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(loader, "_ROWS", size)
        corpus, mined = from_mined(dataset)
    seen = dict.fromkeys(text for row in rows for side in row for text in side)
    assert sorted(corpus.columns["text"].to_pylist()) == sorted(seen)
    back = convert(mined, "flagembedding", corpus).select_columns(["query", "pos", "neg"])
    assert back.to_dict() == dataset


# ---- bad input -------------------------------------------------------------------------------------------------------

FLAG = {"query": ["a?", "b?"], "pos": [["A"], ["B"]], "neg": [["x"], ["y"]]}
ALONE = "ids of passages, but not their texts.*load_beir or Corpus.from_dataset, then call rows = convert"


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ({"query": ["a?"], "positive_ids": [["1"]], "negative_ids": [["2"]]}, ValueError, ALONE),
        ({"qid": [1], "pos": [[2]], "neg": [{"bm25": [3]}]}, ValueError, ALONE),
        (
            {"query": ["a?"], "answer": ["A."]},
            KeyError,
            r"no format .*from_pairs\(dataset, 'query', 'answer'\)",
        ),
        ({"query": ["a?"], "neg": [["x"]]}, KeyError, r"its columns \['pos'\] are missing"),
        ({name: [] for name in FLAG}, ValueError, "the dataset is empty"),
        (FLAG | {"neg": [["x"], ["y", " "]]}, ValueError, "passage of the query 'b[?]' is empty. Remove such passages"),
        (FLAG | {"neg": [["x"], [None]]}, ValueError, "'neg' holds a null in the row with query 'b[?]'"),
        (FLAG | {"query": ["a?", None]}, ValueError, "'query' is null"),
        (FLAG | {"pos_id": [["1"], ["2"]], "neg_id": [["3"], ["1"]]}, ValueError, "have the id '1': 'A' and 'y'"),
        (FLAG | {"pos_id": [["1"], ["2", "3"]]}, ValueError, "'pos' and 'pos_id' must be aligned"),
        ({"anchor": ["a?"], "passage": ["A"], "label": [0.7]}, ValueError, "labels must be 1 for positives"),
        (FLAG | {"pos": ["A", "B"]}, TypeError, "'pos' must hold lists, got string"),
        ("file.json", TypeError, "dataset must be a Dataset"),
    ],
)
def test_bad_rows_are_errors(dataset, error, message):
    with pytest.raises(error, match="from_mined: ") as raised:
        from_mined(dataset)
    assert raised.match(message)
    assert type(raised.value) is error
