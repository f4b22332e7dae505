"""Sets whose parts are configurations: NanoBEIR's, MIRACL's and those of several languages."""

import datasets
import pytest
from datasets import Dataset

from hnm_datasets import load_beir
from hnm_datasets.loaders import configurations

PASSAGES = [
    {"docid": "1#0", "title": "T1", "text": "one"},
    {"docid": "1#1", "title": "", "text": "two"},
    {"docid": "2#0", "title": "T3", "text": "three"},
]
BEIR_PASSAGES = [{"_id": row["docid"], "text": row["text"]} for row in PASSAGES]
BEIR_QUERIES = [{"_id": "q1", "text": "first?"}, {"_id": "q2", "text": "second?"}]
QRELS = [{"query-id": "q1", "corpus-id": "1#0"}, {"query-id": "q2", "corpus-id": "1#1"}]
EXPECTED = [
    {"query_id": "q1", "query": "first?", "positive_ids": ["1#0"], "judged_negative_ids": []},
    {"query_id": "q2", "query": "second?", "positive_ids": ["1#1"], "judged_negative_ids": []},
]


def miracl_rows():
    first, second, third = PASSAGES
    return [
        {"query_id": "q1", "query": "first?", "positive_passages": [first], "negative_passages": [third, second]},
        {"query_id": "q2", "query": "second?", "positive_passages": [second], "negative_passages": []},
    ]


MIRACL = [
    {"query_id": "q1", "query": "first?", "positive_ids": ["1#0"], "judged_negative_ids": ["2#0", "1#1"]},
    {"query_id": "q2", "query": "second?", "positive_ids": ["1#1"], "judged_negative_ids": []},
]


def write(folder, readme=True, **configs):
    """Write configurations, each a dict of splits with rows, as a set lies on the Hub."""
    lines = ["---", "configs:"]
    for name, splits in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            path = folder / name / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            (rows if isinstance(rows, Dataset) else Dataset.from_list(rows)).to_parquet(path)
            lines += [f"  - split: {split}", f"    path: {name}/{split}-*"]
    if readme:
        (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


def texts(corpus):
    return corpus.texts(corpus.rows([row["docid"] for row in PASSAGES])).to_pylist()


# ---- NanoBEIR -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readme", [True, False])
def test_a_set_of_nanobeir(tmp_path, readme):
    folder = write(
        tmp_path, readme, corpus={"train": BEIR_PASSAGES}, queries={"train": BEIR_QUERIES}, qrels={"train": QRELS}
    )
    corpus, rows = load_beir(folder)
    assert texts(corpus) == ["one", "two", "three"]
    assert rows.to_list() == EXPECTED


def test_all_sets_of_nanobeir_in_one_with_a_split_each(tmp_path):
    other = [{"_id": "x", "text": "another corpus"}]
    folder = write(
        tmp_path,
        corpus={"NanoArguAna": other, "NanoNQ": BEIR_PASSAGES},
        queries={"NanoArguAna": [{"_id": "q1", "text": "another query"}], "NanoNQ": BEIR_QUERIES},
        qrels={
            "NanoArguAna": [{"query-id": "q1", "corpus-id": ["x"]}],
            "NanoNQ": [{"query-id": "q1", "corpus-id": ["1#0", "2#0"]}, {"query-id": "q2", "corpus-id": ["1#1"]}],
        },
        bm25={"NanoNQ": [{"query-id": "q1", "corpus-ids": ["1#0"]}]},
    )
    corpus, rows = load_beir(folder, "NanoNQ")
    assert texts(corpus) == ["one", "two", "three"]
    assert rows["positive_ids"][:] == [["1#0", "2#0"], ["1#1"]]
    corpus, rows = load_beir(folder, "NanoArguAna")
    assert (len(corpus), rows["query"][:]) == (1, ["another query"])
    with pytest.raises(FileNotFoundError, match=r"'qrels' of .* has no split 'train', only \['NanoArguAna'"):
        load_beir(folder)


def test_a_corpus_with_splits_of_other_names_is_not_guessed(tmp_path):
    folder = write(
        tmp_path, corpus={"a": BEIR_PASSAGES, "b": BEIR_PASSAGES}, queries={"q": BEIR_QUERIES}, qrels={"test": QRELS}
    )
    with pytest.raises(FileNotFoundError, match=r"'corpus' of .* has the splits \['a', 'b'\], but not .* 'test'"):
        load_beir(folder, "test")


@pytest.mark.parametrize(
    "qrels",
    [
        [{"query-id": "q1", "corpus-id": "1#0", "score": 1.0}, {"query-id": "q2", "corpus-id": "1#1", "score": 2.5}],
        [{"query_id": "q1", "corpus_id": "1#0", "score": 1, "a": 1}]
        + [{"query_id": "q2", "corpus_id": "1#1", "score": 1, "a": 1}],
        [{"query_id": "q1", "docid": "1#0"}, {"query_id": "q2", "docid": "1#1"}],
        [{"query-id": "q1", "corpus-id": ["1#0"], "score": [1]}]
        + [{"query-id": "q2", "corpus-id": ["1#1"], "score": [1]}],
    ],
)  # fmt: skip
@pytest.mark.parametrize("split", ["dev", "validation", "test"])
def test_judgments_differ_in_columns_and_splits(tmp_path, qrels, split):
    folder = write(tmp_path, corpus={"corpus": BEIR_PASSAGES}, queries={"queries": BEIR_QUERIES}, qrels={split: qrels})
    assert load_beir(folder, split)[1].to_list() == EXPECTED


def test_ids_may_be_numbers_on_either_side(tmp_path):
    folder = write(
        tmp_path,
        corpus={"train": [{"_id": 7, "text": "one", "extra": None}, {"_id": 8, "text": "two", "extra": None}]},
        queries={"train": [{"_id": "1", "text": "first?", "metadata": "x"}]},
        qrels={"train": [{"query-id": 1, "corpus-id": "7", "score": 1}]},
    )
    corpus, rows = load_beir(folder)
    assert corpus["7"]["text"] == "one"
    assert rows["positive_ids"][:] == [["7"]]


# ---- MIRACL ---------------------------------------------------------------------------------------------------------


def miracl(folder, *languages, readme=True, corpus=PASSAGES):
    write(folder / "miracl", readme, **{name: {"train": miracl_rows(), "dev": miracl_rows()[:1]} for name in languages})
    write(folder / "miracl-corpus", readme, **{name: {"train": corpus} for name in languages})
    return folder / "miracl"


@pytest.mark.parametrize("readme", [True, False])
def test_miracl_with_its_corpus_in_a_set_of_its_own(tmp_path, readme):
    folder = miracl(tmp_path, "ar", "sw", readme=readme)
    corpus, rows = load_beir(folder, config="sw")
    assert texts(corpus) == ["T1 one", "two", "T3 three"]
    assert rows.to_list() == MIRACL
    assert load_beir(folder, "dev", config="ar")[1].to_list() == MIRACL[:1]
    assert load_beir(f"{folder}/", "dev", config="ar")[1].to_list() == MIRACL[:1]


def test_a_single_language_needs_no_name(tmp_path):
    assert load_beir(miracl(tmp_path, "default"))[1].to_list() == MIRACL


def test_the_corpus_may_be_a_configuration(tmp_path):
    folder = write(tmp_path, default={"train": miracl_rows()}, corpus={"train": PASSAGES})
    assert load_beir(folder)[1].to_list() == MIRACL


def test_what_is_missing_is_named(tmp_path):
    folder = miracl(tmp_path, "ar", "sw")
    with pytest.raises(FileNotFoundError, match=r"has \['ar', 'sw'\].*load_beir\(\.\.\., config='ar'\)"):
        load_beir(folder)
    with pytest.raises(FileNotFoundError, match=r"has \['ar', 'sw'\].*config='ar'"):
        load_beir(folder, config="zz")
    with pytest.raises(FileNotFoundError, match=r"'ar' of .* has no split 'test', only \['train', 'dev'\]"):
        load_beir(folder, "test", config="ar")
    (tmp_path / "miracl-corpus").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"should be in the dataset .*miracl-corpus, which does not exist"):
        load_beir(folder, config="ar")


def test_judged_passages_that_the_corpus_lacks_raise_or_are_dropped(tmp_path):
    folder = miracl(tmp_path, "ar", corpus=PASSAGES[:2])
    with pytest.raises(ValueError, match="1 judgments name unknown passages or queries, the first the passage '2#0'"):
        load_beir(folder, config="ar")
    _, rows = load_beir(folder, config="ar", invalid="drop")
    assert rows["judged_negative_ids"][:] == [["1#1"], []]


def test_a_split_without_judgments_is_named(tmp_path):
    rows = miracl_rows()[0] | {"positive_passages": [], "negative_passages": []}
    features = Dataset.from_list(miracl_rows()).features
    folder = write(
        tmp_path, default={"testA": Dataset.from_list([rows], features=features)}, corpus={"train": PASSAGES}
    )
    with pytest.raises(ValueError, match="no query of this split has judged passages"):
        load_beir(folder, "testA")


# ---- several languages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{0}-{1}", "{1}-{0}"])
@pytest.mark.parametrize("qrels", ["qrels", None])
def test_configurations_named_by_language(tmp_path, form, qrels):
    configs = {}
    for language in ("ar", "sw"):
        configs[form.format(language, "corpus")] = {"dev": BEIR_PASSAGES}
        configs[form.format(language, "queries")] = {
            "dev": [{"query_id": row["_id"], "query": f"{language} {row['text']}"} for row in BEIR_QUERIES]
        }
        configs[form.format(language, qrels) if qrels else language] = {"dev": QRELS}
    _, rows = load_beir(write(tmp_path, **configs), "dev", config="sw")
    assert [row | {"query": row["query"].removeprefix("sw ")} for row in rows] == EXPECTED
    with pytest.raises(FileNotFoundError, match=r"choose one: load_beir"):
        load_beir(tmp_path, "dev")


def test_a_configuration_that_is_not_there_is_not_ignored(tmp_path):
    folder = write(tmp_path, corpus={"train": BEIR_PASSAGES}, queries={"train": BEIR_QUERIES}, qrels={"train": QRELS})
    for config in ("ar", "c", "q", ""):
        with pytest.raises(FileNotFoundError, match=rf"no configuration '{config}', only \['corpus', 'queries'"):
            load_beir(folder, config=config)


def test_an_id_on_the_hub_is_asked_for_its_configurations(monkeypatch, tmp_path):
    """The Hub is a folder here: what is asked of `datasets` is what is asked of the Hub."""
    folder = miracl(tmp_path, "ar", "sw")
    there = {"miracl/miracl": str(folder), "miracl/miracl-corpus": f"{folder}-corpus"}

    def here(asked):
        return lambda place, *rest, **more: asked(there.get(place, place), *rest, **more)

    monkeypatch.setattr(datasets, "get_dataset_config_names", here(datasets.get_dataset_config_names))
    monkeypatch.setattr(datasets, "get_dataset_split_names", here(datasets.get_dataset_split_names))
    monkeypatch.setattr(configurations, "load_dataset", here(datasets.load_dataset))
    assert load_beir("miracl/miracl", config="ar")[1].to_list() == MIRACL
