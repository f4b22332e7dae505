"""Loaders: BEIR folders, Hub layouts, judgments, pairs, the sample."""

import json
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

import hnm_datasets
from hnm_datasets import attach_positives, from_pairs, load_beir, load_sample

PASSAGES = [
    {"_id": "p1", "title": "T1", "text": "one"},
    {"_id": "p2", "title": "", "text": "two"},
    {"_id": "p3", "title": "T3", "text": "three"},
]
QUERIES = [{"_id": "q1", "text": "first?"}, {"_id": "q2", "text": "second?"}, {"_id": "q3", "text": "third?"}]
TRAIN = [("q1", "p1", 1), ("q1", "p2", 0), ("q1", "p3", 2), ("q2", "p2", 1)]
TEST = [("q3", "p3", 1)]
EXPECTED = [
    {"query_id": "q1", "query": "first?", "positive_ids": ["p1", "p3"], "judged_negative_ids": ["p2"]},
    {"query_id": "q2", "query": "second?", "positive_ids": ["p2"], "judged_negative_ids": []},
]


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tsv(path, judgments):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["query-id\tcorpus-id\tscore"] + ["\t".join(map(str, judgment)) for judgment in judgments]
    path.write_text("\n".join(lines) + "\n")


def as_rows(judgments, **more):
    return [{"query-id": q, "corpus-id": p, "score": s, **more} for q, p, s in judgments]


def jsonl_folder(folder, *, passages=PASSAGES, queries=QUERIES, train=TRAIN):
    write_jsonl(folder / "corpus.jsonl", passages)
    write_jsonl(folder / "queries.jsonl", queries)
    write_tsv(folder / "qrels" / "train.tsv", train)
    write_tsv(folder / "qrels" / "test.tsv", TEST)
    return folder


def parquet_folder(folder):
    Dataset.from_list(PASSAGES).to_parquet(folder / "corpus.parquet")
    Dataset.from_list(QUERIES).to_parquet(folder / "queries.parquet")
    qrels = as_rows(TRAIN, split="train") + as_rows(TEST, split="test")
    Dataset.from_list(qrels).to_parquet(folder / "qrels.parquet")
    return folder


def hub_readme(folder, corpus, queries, qrels, name="default"):
    (folder / "README.md").write_text(
        f"""---
configs:
- config_name: {name}
  data_files:
  - split: train
    path: {qrels.format("train")}
  - split: test
    path: {qrels.format("test")}
- config_name: corpus
  data_files:
  - split: corpus
    path: {corpus}
- config_name: queries
  data_files:
  - split: queries
    path: {queries}
---
# A set
"""
    )
    return folder


def hub_jsonl(folder):
    write_jsonl(folder / "corpus" / "data.jsonl", PASSAGES)
    write_jsonl(folder / "queries" / "data.jsonl", QUERIES)
    write_jsonl(folder / "judged" / "train.jsonl", as_rows(TRAIN))
    write_jsonl(folder / "judged" / "test.jsonl", as_rows(TEST))
    return hub_readme(folder, "corpus/data.jsonl", "queries/data.jsonl", "judged/{}.jsonl")


def hub_parquet(folder):
    for name in ("corpus", "queries", "judged"):
        (folder / name).mkdir()
    Dataset.from_list(PASSAGES).to_parquet(folder / "corpus" / "0000.parquet")
    Dataset.from_list(QUERIES).to_parquet(folder / "queries" / "0000.parquet")
    Dataset.from_list(as_rows(TRAIN)).to_parquet(folder / "judged" / "train.parquet")
    Dataset.from_list(as_rows(TEST)).to_parquet(folder / "judged" / "test.parquet")
    return hub_readme(folder, "corpus/*.parquet", "queries/*.parquet", "judged/{}.parquet", name="qrels")


def hub_clone_like_mteb(folder):
    """As mteb's sets lie on the Hub: jsonl in the root, judgments as jsonl too."""
    write_jsonl(folder / "corpus.jsonl", PASSAGES)
    write_jsonl(folder / "queries.jsonl", QUERIES)
    write_jsonl(folder / "qrels" / "train.jsonl", as_rows(TRAIN))
    write_jsonl(folder / "qrels" / "test.jsonl", as_rows(TEST))
    return hub_readme(folder, "corpus.jsonl", "queries.jsonl", "qrels/{}.jsonl")


LAYOUTS = [jsonl_folder, parquet_folder, hub_jsonl, hub_parquet, hub_clone_like_mteb]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(tmp_path, layout):
    corpus, rows = load_beir(layout(tmp_path))
    assert rows.to_list() == EXPECTED
    assert [corpus.texts(corpus.rows([p]))[0].as_py() for p in ("p1", "p2", "p3")] == ["T1 one", "two", "T3 three"]
    _, test = load_beir(tmp_path, "test")
    assert [(row["query_id"], row["positive_ids"]) for row in test] == [("q3", ["p3"])]
    for name in ("positive_ids", "judged_negative_ids"):
        assert rows.features[name] == datasets.List(datasets.Value("string"))


def test_a_path_and_its_string_are_the_same(tmp_path):
    jsonl_folder(tmp_path)
    assert load_beir(str(tmp_path))[0] == load_beir(tmp_path)[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_split_names_those_there(tmp_path, layout):
    layout(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"dev.*\[.*'test'.*\]") as caught:
        load_beir(tmp_path, "dev")
    assert "'train'" in str(caught.value)


def test_min_score(tmp_path):
    _, rows = load_beir(jsonl_folder(tmp_path), min_score=2)
    assert rows["positive_ids"][:] == [["p3"], []]
    assert rows["judged_negative_ids"][:] == [["p1", "p2"], ["p2"]]


def test_ids_that_look_like_numbers_stay_strings(tmp_path):
    passages = [{"_id": "007", "text": "bond"}, {"_id": "7", "text": "seven"}, {"_id": "NA", "text": "none"}]
    queries = [{"_id": "01", "text": "who?"}]
    corpus, rows = load_beir(
        jsonl_folder(tmp_path, passages=passages, queries=queries, train=[("01", "007", 1), ("01", "NA", 1)])
    )
    assert rows["positive_ids"][:] == [["007", "NA"]]
    assert corpus["007"]["text"] == "bond"


def test_integer_ids_become_strings(tmp_path):
    passages = [{"_id": 7, "text": "seven"}, {"_id": 8, "text": "eight"}]
    corpus, rows = load_beir(
        jsonl_folder(tmp_path, passages=passages, queries=[{"_id": 1, "text": "?"}], train=[(1, 8, 1)])
    )
    assert rows.to_list() == [{"query_id": "1", "query": "?", "positive_ids": ["8"], "judged_negative_ids": []}]
    assert corpus["8"]["text"] == "eight"


def test_groups_are_read_from_the_named_column(tmp_path):
    passages = [row | {"doc": doc} for row, doc in zip(PASSAGES, ["d1", "d2", "d1"], strict=True)]
    corpus, _ = load_beir(jsonl_folder(tmp_path, passages=passages), group_column="doc")
    assert corpus.group_codes.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (("q1", "p9", 1), "1 judgments.*passage 'p9'.*invalid='drop'"),
        (("q9", "p1", 1), "1 judgments.*query 'q9'.*invalid='drop'"),
    ],
)
def test_unknown_judgments_raise_or_are_dropped(tmp_path, caplog, extra, match):
    jsonl_folder(tmp_path, train=[*TRAIN, extra])
    with pytest.raises(ValueError, match=match):
        load_beir(tmp_path)
    with caplog.at_level("WARNING", "hnm_datasets"):
        _, rows = load_beir(tmp_path, invalid="drop")
    assert rows.to_list() == EXPECTED
    assert "dropped 1 of 5 judgments" in caplog.text


def test_passages_without_text_raise_or_are_dropped(tmp_path, caplog):
    empty = {"_id": "p9", "title": "", "text": " "}
    jsonl_folder(tmp_path, passages=[*PASSAGES, empty], train=[*TRAIN, ("q2", "p9", 1)])
    with pytest.raises(ValueError, match="empty in the passage 'p9'"):
        load_beir(tmp_path)
    with caplog.at_level("WARNING", "hnm_datasets"):
        corpus, rows = load_beir(tmp_path, invalid="drop")
    assert len(corpus) == 3
    assert rows.to_list() == EXPECTED
    assert "dropped 1 of 4 passages" in caplog.text


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("no")
    with pytest.raises(FileNotFoundError, match=r"not in BEIR's format.*corpus\.jsonl.*corpus\.parquet"):
        load_beir(tmp_path)


def test_a_folder_without_queries(tmp_path):
    write_jsonl(tmp_path / "corpus.jsonl", PASSAGES)
    with pytest.raises(FileNotFoundError, match=r"not in BEIR's format.*no queries\.jsonl"):
        load_beir(tmp_path)


def test_a_hub_set_without_the_configurations(tmp_path):
    write_jsonl(tmp_path / "data.jsonl", PASSAGES)
    (tmp_path / "README.md").write_text("# Something\n")
    with pytest.raises(FileNotFoundError, match=r"neither in BEIR's format.*'corpus' and 'queries'.*'default'"):
        load_beir(tmp_path)


def test_qrels_without_a_header(tmp_path):
    jsonl_folder(tmp_path)
    (tmp_path / "qrels" / "train.tsv").write_text("q1\tp1\t1\n")
    with pytest.raises(ValueError, match=r"train\.tsv must start with the header"):
        load_beir(tmp_path)


def test_passages_without_ids(tmp_path):
    jsonl_folder(tmp_path, passages=[{"docid": "p1", "text": "one"}])
    with pytest.raises(ValueError, match=r"need '_id' \(or 'id'\) and 'text'.*'docid'"):
        load_beir(tmp_path)


def test_a_query_id_that_comes_twice(tmp_path):
    jsonl_folder(tmp_path, queries=[*QUERIES, QUERIES[0]])
    with pytest.raises(ValueError, match="query_id 'q1' is repeated"):
        load_beir(tmp_path)


def test_unknown_options(tmp_path):
    with pytest.raises(ValueError, match=r"invalid must be one of 'error', 'drop', got 'ignore'"):
        load_beir(tmp_path, invalid="ignore")
    with pytest.raises(ValueError, match=r"name must be one of 'medquad', 'earthquakes', got 'moon'"):
        load_sample("moon")


# ---- attach_positives --------------------------------------------------------------------------------------------


def queries():
    return Dataset.from_dict({"query_id": ["q1", "q2"], "query": ["a", "b"], "note": [1, 2]})


def test_attach_positives_keeps_rows_and_the_order_of_judgments():
    qrels = Dataset.from_dict(
        {
            "query_id": ["q2", "q1", "q2", "q2"],
            "corpus_id": ["p9", "p1", "p0", "p5"],
            "score": [1, 0, 3, -1],
        }
    )
    rows = attach_positives(queries(), qrels)
    assert rows.to_list() == [
        {"query_id": "q1", "query": "a", "note": 1, "positive_ids": [], "judged_negative_ids": ["p1"]},
        {"query_id": "q2", "query": "b", "note": 2, "positive_ids": ["p9", "p0"], "judged_negative_ids": ["p5"]},
    ]
    higher = attach_positives(queries(), qrels, min_score=2)
    assert higher["positive_ids"][:] == [[], ["p0"]]
    assert higher["judged_negative_ids"][:] == [["p1"], ["p9", "p5"]]


def test_attach_positives_without_scores_takes_all():
    qrels = Dataset.from_dict({"query-id": ["q1", "q1"], "corpus-id": ["p1", "p2"]})
    assert attach_positives(queries(), qrels)["positive_ids"][:] == [["p1", "p2"], []]


def test_attach_positives_after_select_and_concatenation():
    shuffled = datasets.concatenate_datasets([queries().select([1]), queries().select([0])])
    qrels = Dataset.from_dict({"query_id": ["q1"], "corpus_id": ["p1"]})
    assert attach_positives(shuffled, qrels)["positive_ids"][:] == [[], ["p1"]]


def test_attach_positives_errors():
    qrels = Dataset.from_dict({"query_id": ["q1"], "corpus_id": ["p1"]})
    with pytest.raises(KeyError, match=r"no column 'query_id'.*'query'"):
        attach_positives(queries().remove_columns("query_id"), qrels)
    with pytest.raises(KeyError, match=r"no column 'corpus_id' or 'corpus-id'.*'passage'"):
        attach_positives(queries(), qrels.rename_column("corpus_id", "passage"))
    with pytest.raises(ValueError, match="query_id 'q1' is repeated"):
        attach_positives(datasets.concatenate_datasets([queries(), queries().select([0])]), qrels)
    with pytest.raises(ValueError, match=r"contain the query 'q9'.*2 queries"):
        attach_positives(queries(), Dataset.from_dict({"query_id": ["q9"], "corpus_id": ["p1"]}))


# ---- from_pairs --------------------------------------------------------------------------------------------------


def test_from_pairs_merges_and_keeps(caplog):
    pairs = Dataset.from_dict(
        {
            "question": ["b?", "a?", "b?", "b?", "c?"],
            "reply": ["B.", "A.", "A.", "B.", "C."],
            "source": ["s1", "s2", "s3", "s4", "s5"],
        }
    )
    corpus, rows = from_pairs(pairs, "question", "reply")
    assert len(corpus) == 3
    texts = [corpus.texts(corpus.rows(ids)).to_pylist() for ids in rows["positive_ids"]]
    assert rows["query"][:] == ["b?", "a?", "c?"]
    assert texts == [["B.", "A."], ["A."], ["C."]]
    assert rows["source"][:] == ["s1", "s2", "s5"]
    assert set(rows.column_names) == {"query", "positive_ids", "source"}
    assert caplog.messages == [
        "from_pairs: 5 pairs became 3 queries: pairs with the same query were merged; the columns ['source'] are those "
        "of the first pair. 2 repeated passages were merged."
    ]
    caplog.clear()
    from_pairs(rows.from_dict({"query": ["a?", "A?", "b?"], "answer": ["A.", "B.", "C."]}))
    assert not caplog.messages
    from_pairs(rows.from_dict({"query": ["a?"], "answer": ["A."]}), passages=["A.", "B."])
    from_pairs(rows.from_dict({"query": ["a?", "a?"], "answer": ["A.", "B."]}))
    assert caplog.messages == [
        "from_pairs: 1 repeated passage was merged.",
        "from_pairs: 2 pairs became 1 query: pairs with the same query were merged.",
    ]


def test_from_pairs_ids_depend_on_the_text_alone():
    one, _ = from_pairs(Dataset.from_dict({"query": ["x?"], "answer": ["A."]}))
    two, rows = from_pairs(Dataset.from_dict({"query": ["y?", "z?"], "answer": ["B.", "A."]}))
    assert rows["positive_ids"][1] == [one.ids([0])[0].as_py()]


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        ({"query": [], "answer": []}, ValueError, "empty.*at least one pair"),
        ({"query": ["a"], "text": ["b"]}, KeyError, r"no column 'answer'.*'text'"),
        ({"query": [1], "answer": ["b"]}, TypeError, "'query' must hold strings, got int64"),
        ({"query": ["a", "b"], "answer": ["b", None]}, ValueError, "'answer' is null or empty in row 1"),
        ({"query": ["a", " "], "answer": ["b", "c"]}, ValueError, "'query' is null or empty in row 1"),
    ],
)
def test_from_pairs_errors(rows, error, match):
    with pytest.raises(error, match=match):
        from_pairs(Dataset.from_dict(rows))


# ---- the sample --------------------------------------------------------------------------------------------------


def test_the_sample_has_its_size():
    corpus, rows = load_sample()
    assert 1800 <= len(corpus) <= 2300
    assert len(rows) == 600
    assert all(rows["positive_ids"])
    assert len(set(rows["query_id"])) == 600
    for ids in rows["positive_ids"]:
        corpus.rows(ids)
    folder = Path(hnm_datasets.__file__).parent / "sample"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 700_000


# ---- odd files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", ["T9", "", None])
@pytest.mark.parametrize("text", [None, "", " \u3000"])
def test_a_null_text_beside_a_title(tmp_path, title, text, caplog):
    odd = {"_id": "p9", "title": title, "text": text}
    jsonl_folder(tmp_path, passages=[*PASSAGES, odd], train=[*TRAIN, ("q2", "p9", 2)])
    if text is None or not title:
        with pytest.raises(ValueError, match=r"(null|empty) in the passage 'p9'"):
            load_beir(tmp_path)
    corpus, rows = load_beir(tmp_path, invalid="drop")
    if title:
        # Its title is text enough.
        assert corpus.texts(corpus.rows(["p9"]))[0].as_py().startswith("T9")
        assert rows["positive_ids"][1] == ["p2", "p9"]
        assert "dropped" not in caplog.text
    else:
        assert len(corpus) == 3
        assert rows.to_list() == EXPECTED
        assert "dropped 1 of 4 passages" in caplog.text


def test_columns_of_nulls_alone(tmp_path):
    passages = [{"_id": "p1", "title": None, "text": "one"}, {"_id": "p2", "title": None, "text": "two"}]
    jsonl_folder(tmp_path, passages=passages, train=[("q1", "p1", 1)])
    for invalid in ("error", "drop"):
        assert len(load_beir(tmp_path, invalid=invalid)[0]) == 2
    jsonl_folder(tmp_path, passages=[row | {"title": "T", "text": None} for row in passages], train=[("q1", "p1", 1)])
    assert len(load_beir(tmp_path, invalid="drop")[0]) == 2


def test_passages_without_titles_and_with_other_columns(tmp_path):
    passages = [{"_id": row["_id"], "text": row["text"], "url": "http://a", "metadata": {"a": 1}} for row in PASSAGES]
    corpus, rows = load_beir(jsonl_folder(tmp_path, passages=passages))
    assert corpus.texts(corpus.rows(["p1"]))[0].as_py() == "one"
    assert rows.to_list() == EXPECTED


@pytest.mark.parametrize(
    "lines",
    [
        ["query-id\tcorpus-id\tscore", "q1\tp1\t1.0", "q2\tp2\t2.5"],
        ["query-id\tcorpus-id", "q1\tp1", "q2\tp2"],
        ["query_id\tcorpus_id\tscore\titeration", "q1\tp1\t1\t0", "q2\tp2\t1\t0"],
        ["corpus-id\tscore\tquery-id", "p1\t1\tq1", "p2\t1\tq2"],
    ],
)
@pytest.mark.parametrize("split", ["dev", "validation", "trec-dl-2019"])
def test_judgments_as_lines_differ_in_columns(tmp_path, lines, split):
    jsonl_folder(tmp_path)
    (tmp_path / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    assert [row["positive_ids"] for row in load_beir(tmp_path, split)[1]] == [["p1"], ["p2"]]


def test_ids_with_quotation_marks(tmp_path):
    passages = [{"_id": '"p1', "text": "one"}, {"_id": 'p"2"', "text": "two"}]
    jsonl_folder(tmp_path, passages=passages, train=[("q1", '"p1', 1), ("q2", 'p"2"', 1)])
    assert load_beir(tmp_path)[1]["positive_ids"][:] == [['"p1'], ['p"2"']]


@pytest.mark.parametrize("score", ["high", "", "1,5"])
def test_a_score_that_is_no_number_is_named(tmp_path, score):
    jsonl_folder(tmp_path, train=[("q1", "p1", 1), ("q1", "p2", score)])
    with pytest.raises(ValueError, match=rf"train\.tsv: the score in line 3 is not a number: '{score}'"):
        load_beir(tmp_path)


@pytest.mark.parametrize("split", ["../secret", "..", "", "/etc/passwd", "train.tsv"])
def test_a_split_is_looked_up_among_those_there(tmp_path, split):
    folder = jsonl_folder(tmp_path / "set")
    write_tsv(tmp_path / "set" / "secret.tsv", TRAIN)
    with pytest.raises(FileNotFoundError, match=r"Its splits are \['test', 'train'\]"):
        load_beir(folder, split)


def test_a_folder_of_files_has_no_configurations(tmp_path):
    with pytest.raises(ValueError, match="config='ar' is for datasets with configurations"):
        load_beir(jsonl_folder(tmp_path), config="ar")
