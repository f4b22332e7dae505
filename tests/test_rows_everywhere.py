"""Every function that takes rows takes them in any form, and refuses what is none by its own name."""

import ast
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

import hnm_datasets as hnm
from hnm_datasets import Corpus

TEXTS = ["Plates move.", "Waves roll.", "Plates collide.", "Bread rises."]
MINED = {
    "query_id": ["q0", "q1"],
    "query": ["why do plates move?", "why do waves roll?"],
    "positive_ids": [["0"], ["1"]],
    "negative_ids": [["2", "3"], ["3"]],
    "negative_scores": [[0.5, 0.25], [0.5]],
    "negative_source": [["bm25", "bm25"], ["bm25"]],
    "positive_scores": [[0.75], [0.25]],
}
ASKED = {name: MINED[name] for name in ("query_id", "query")}
QUERIES = {name: MINED[name] for name in ("query_id", "query", "positive_ids")}
PAIRS = {"query": ["a?", "b?"], "answer": ["A.", "B."]}
TRIPLETS = {"query": ["a?", "b?"], "positive": ["A.", "B."], "negative": ["B.", "C."]}
PASSAGES = {"id": ["0", "1", "2", "3"], "text": TEXTS}
QRELS = {"query_id": ["q0", "q1"], "corpus_id": ["2", "1"], "score": [1, 1]}
#: As many as a pilot takes at least.
MANY = {
    "query_id": [f"q{at}" for at in range(20)],
    "query": [f"why do plates move {at} times?" for at in range(20)],
    "positive_ids": [["0"]] * 20,
}
MANY_JUDGED = {"query_id": MANY["query_id"], "corpus_id": ["2"] * 20, "score": [1] * 20}
#: Each parameter of rows: columns that it may have, and what is made of them.
CALLS = {
    ("Corpus.from_dataset", "dataset"): (PASSAGES, lambda rows, corpus, folder: Corpus.from_dataset(rows)),
    ("from_pairs", "dataset"): (PAIRS, lambda rows, corpus, folder: hnm.from_pairs(rows)[1][:]),
    ("from_mined", "dataset"): (TRIPLETS, lambda rows, corpus, folder: hnm.from_mined(rows)[1][:]),
    ("attach_positives", "queries"): (ASKED, lambda rows, corpus, folder: hnm.attach_positives(rows, QRELS)[:]),
    ("attach_positives", "qrels"): (QRELS, lambda rows, corpus, folder: hnm.attach_positives(ASKED, rows)[:]),
    ("pool_positives", "rows"): (QUERIES, lambda rows, corpus, folder: hnm.pool_positives(rows)[:]),
    ("mine", "rows"): (MINED, lambda rows, corpus, folder: hnm.mine(rows, [hnm.TopNegatives(1)])[:]),
    ("audit_negatives", "judgments"): (
        QRELS,
        lambda rows, corpus, folder: hnm.audit_negatives(MINED, corpus, judgments=rows).to_dict(),
    ),
    ("calibrate_margin", "rows"): (MINED, lambda rows, corpus, folder: hnm.calibrate_margin(rows, QRELS)),
    ("calibrate_margin", "judgments"): (QRELS, lambda rows, corpus, folder: hnm.calibrate_margin(MINED, rows)),
    ("calibrate_threshold", "rows"): (
        MINED,
        lambda rows, corpus, folder: hnm.calibrate_threshold(rows, QRELS, by="score"),
    ),
    ("calibrate_threshold", "judgments"): (
        QRELS,
        lambda rows, corpus, folder: hnm.calibrate_threshold(MINED, rows, by="score"),
    ),
    ("hide_positives", "rows"): (QUERIES, lambda rows, corpus, folder: hnm.hide_positives(rows)[1][:]),
    ("audit_negatives", "dataset"): (
        MINED,
        lambda rows, corpus, folder: hnm.audit_negatives(rows, corpus).to_dict(),
    ),
    ("compare_negatives", "first"): (
        MINED,
        lambda rows, corpus, folder: hnm.compare_negatives(rows, MINED, corpus).to_dict(),
    ),
    ("compare_negatives", "second"): (
        MINED,
        lambda rows, corpus, folder: hnm.compare_negatives(MINED, rows, corpus).to_dict(),
    ),
    ("convert", "dataset"): (MINED, lambda rows, corpus, folder: hnm.convert(rows, "triplets", corpus)[:]),
    ("plot_scores", "dataset"): (
        MINED,
        lambda rows, corpus, folder: hnm.plot_scores(rows).axes[0].get_title(loc="left"),
    ),
    ("pilot", "rows"): (MANY, lambda rows, corpus, folder: piloted(rows, MANY_JUDGED)),
    ("pilot", "judgments"): (MANY_JUDGED, lambda rows, corpus, folder: piloted(MANY, rows)),
    ("save_mined", "dataset"): (MINED, lambda rows, corpus, folder: saved(rows, corpus, folder)),
}


def saved(rows, corpus, folder, **options):
    folder = hnm.save_mined(rows, folder / "set", corpus=corpus, **options)
    return (folder / "README.md").read_text()


def piloted(rows, judgments):
    corpus = Corpus.from_dataset(PASSAGES)
    found = hnm.pilot(rows, corpus, {"BM25": [hnm.BM25Negatives(corpus, k=2)]}, judgments=judgments, train=False)
    trial = found.trials[0]
    return trial.candidates, trial.hardness, trial.false_negatives


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_dataset(PASSAGES)


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_form_gives_the_same(call, corpus, tmp_path):
    columns, function = CALLS[call]
    wanted = function(Dataset.from_dict(columns), corpus, tmp_path)
    for rows in (pd.DataFrame(columns), Dataset.from_dict(columns).to_list()):
        assert function(rows, corpus, tmp_path) == wanted


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_what_is_refused_names_function_and_parameter(call, corpus, tmp_path):
    (owner, parameter), (columns, function) = call, CALLS[call]
    with pytest.raises(TypeError, match=f"{owner}: {parameter} is an IterableDataset.*write_stream"):
        function(Dataset.from_dict(columns).to_iterable_dataset(), corpus, tmp_path)
    with pytest.raises(TypeError, match=f"{owner}: {parameter} must be a Dataset, a data frame .*got int"):
        function(3, corpus, tmp_path)
    if call[0] != "save_mined":
        splits = DatasetDict({name: Dataset.from_dict(columns) for name in ("train", "dev")})
        with pytest.raises(
            ValueError, match=rf"{owner}: {parameter} is a DatasetDict .*such as {parameter}\['train'\]"
        ):
            function(splits, corpus, tmp_path)


def test_judgments_of_a_saved_set(corpus, tmp_path):
    wanted = saved(MINED, corpus, tmp_path, judgments=Dataset.from_dict(QRELS))
    assert saved(MINED, corpus, tmp_path, judgments=pd.DataFrame(QRELS)) == wanted
    assert saved(MINED, corpus, tmp_path) != wanted


#: Tested where what they need is at hand.
ELSEWHERE = {
    ("live_negatives", "rows"),
    ("retrieval_evaluator", "rows"),
    ("mine_hard_negatives", "dataset"),
    ("push_mined", "dataset"),
    ("save_mined", "judgments"),
}


def test_no_function_is_left_out():
    """Read the source of what the stub names, because importing all of it takes seconds."""
    package = Path(hnm.__file__).parent
    found = {("Corpus.from_dataset", "dataset")}
    for node in ast.parse((package / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            public = {alias.name for alias in node.names}
            for one in ast.parse((package / f"{node.module.replace('.', '/')}.py").read_text()).body:
                if isinstance(one, ast.FunctionDef) and one.name in public:
                    parameters = [*one.args.args, *one.args.kwonlyargs]
                    found |= {(one.name, each.arg) for each in parameters if "Rows" in ast.unparse(each.annotation)}
    assert found == {*CALLS, *ELSEWHERE}
