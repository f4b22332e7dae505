"""The recipes run as a user runs them."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import new_processes
import pandas as pd
import pytest

RECIPES = Path(__file__).parents[1] / "recipes"


# Warnings of the libraries are no errors for a user.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a recipe in this process, which has imported everything, and return what it prints."""

    def run(recipe, *arguments):
        monkeypatch.setattr(sys, "argv", [recipe, *map(str, arguments)])
        monkeypatch.syspath_prepend(RECIPES)
        runpy.run_path(str(RECIPES / recipe), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_bm25_mines_the_sample(tmp_path):
    """In a process of its own, as `make quickstart` runs it."""
    command = [sys.executable, RECIPES / "bm25.py", "--output", tmp_path, "--negatives", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "600 queries" in done.stdout
    mined, triplets = pd.read_parquet(tmp_path / "mined.parquet"), pd.read_parquet(tmp_path / "triplets.parquet")
    assert (mined["negative_ids"].str.len() <= 3).all()
    assert list(triplets.columns) == ["anchor", "positive", "negative"]
    assert len(triplets) == sum(mined["negative_ids"].str.len() * mined["positive_ids"].str.len())


def test_more_negatives_than_the_window_holds_is_refused(run, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("bm25.py", "--k", 10, "--skip", 6, "--negatives", 5, "--output", tmp_path)
    assert "larger than the window of ranks 7 to 10" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["nv_retriever", "simans", "cross_encoder"])
def test_every_recipe_mines_the_sample(run, tmp_path, make_static_model, make_cross_encoder, recipe):
    make_static_model().save(str(tmp_path / "model"))
    options = ["--model", tmp_path / "model", "--negatives", 2, "--output", tmp_path / "mined", "--k", 50]
    if recipe == "cross_encoder":
        options[-1] = 5
        options += ["--teacher", make_cross_encoder(tmp_path / "teacher"), "--negative-below", 0.9]
    run(f"{recipe}.py", *options)
    mined = pd.read_parquet(tmp_path / "mined" / "mined.parquet")
    assert len(mined) == 600
    assert mined["negative_ids"].str.len().mean() > 1
    for row in mined.itertuples():
        assert not set(row.negative_ids) & set(row.positive_ids)


def test_dense_mines_the_sample_with_a_model_from_a_folder(run, tmp_path, make_static_model):
    make_static_model().save(str(tmp_path / "model"))
    options = ("--index", "IVF16,Flat", "--nprobe", 4, "--negatives", 2, "--near", 0.6)
    printed = run("dense.py", "--model", tmp_path / "model", "--output", tmp_path, *options)
    assert "600 queries" in printed
    assert "of the 50 nearest passages" in printed
    mined, tuples = pd.read_parquet(tmp_path / "mined.parquet"), pd.read_parquet(tmp_path / "n_tuples.parquet")
    assert list(tuples.columns) == ["anchor", "positive", "negative_1", "negative_2"]
    for row in mined.itertuples():
        assert all(score <= 0.95 * max(row.positive_scores) + 1e-6 for score in row.negative_scores)
        assert not set(row.negative_ids) & set(row.positive_ids)


@pytest.fixture
def folder(tmp_path):
    """Write a few passages and questions as BEIR does."""
    topics = ["earthquakes", "volcanoes", "glaciers", "tides", "bread", "wings"]
    passages = [(topic, place) for topic in topics for place in ("Iceland", "Japan", "Chile", "Italy")]
    corpus = [{"_id": f"{t}-{p}", "title": "", "text": f"About {t} in {p}: all of it."} for t, p in passages]
    queries = [{"_id": f"q{i}", "text": f"what is known of {t} in {p}?"} for i, (t, p) in enumerate(passages)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "qrels").mkdir()
    judged = [f"q{i}\t{t}-{p}\t1\n" for i, (t, p) in enumerate(passages)]
    (tmp_path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return tmp_path


def test_a_lancedb_table_is_mined_by_words_and_by_vectors(folder, tmp_path, make_static_model):
    """In a process of its own: the threads of LanceDB would be in the way of forks."""
    make_static_model().save(str(tmp_path / "model"))
    options = ["--model", tmp_path / "model", "--k", 8, "--margin", 0.01, "--negatives", 3, "--output", tmp_path]
    new_processes.run(RECIPES / "lancedb_search.py", folder, *options, log=tmp_path / "log")
    assert (tmp_path / "tables" / "passages.lance").is_dir()
    mined = pd.read_parquet(tmp_path / "mined.parquet")
    assert len(mined) == 24
    assert (mined["negative_ids"].str.len() == 3).all()
    for row in mined.itertuples():
        topic, place = row.positive_ids[0].split("-")
        # Passages that have a word of the question in common with the positive are nearest.
        assert all(one.startswith(topic) or one.endswith(place) for one in row.negative_ids)
        assert row.positive_ids[0] not in row.negative_ids
    sources = {source for row in mined["negative_source"] for source in row}
    assert "words+vectors" in sources
    triplets = pd.read_parquet(tmp_path / "triplets.parquet")
    assert list(triplets.columns) == ["anchor", "positive", "negative"]
    assert len(triplets) == 72


def test_classes_are_mined_from_the_sample(run, tmp_path):
    printed = run("classes.py", "--negatives", 3, "--output", tmp_path)
    assert "7 classes, 0 texts left out" in printed
    triplets = pd.read_parquet(tmp_path / "triplets.parquet")

    def asked(text):
        """What kind of question it is, without the disease."""
        return re.match(r"What (are the \w+|causes|is \(are\))|How (to diagnose|many)", text)[0]

    assert len(triplets) > 1000
    for row in triplets.itertuples():
        assert asked(row.anchor) == asked(row.positive) != asked(row.negative)
        assert row.anchor != row.positive
    # The nearest questions of other classes are on the same disease.
    near = [bool(set(row.anchor.split()[-3:-1]) & set(row.negative.split())) for row in triplets.itertuples()]
    assert sum(near) > 0.8 * len(near)


def test_classes_of_a_file(run, tmp_path):
    texts = ["play a song", "play some jazz", "stop the song", "stop it", "play a song", "what is a song?"]
    labels = [1, 1, 2, 2, 1, 3]
    pd.DataFrame({"said": texts, "intent": labels}).to_csv(tmp_path / "intents.csv", index=False)
    options = ["--text", "said", "--label", "intent", "--positives", 5, "--output", tmp_path]
    printed = run("classes.py", tmp_path / "intents.csv", *options)
    assert "3 classes, 1 texts left out" in printed
    mined = pd.read_parquet(tmp_path / "mined.parquet").set_index("query")
    assert list(mined.index) == texts[:4]
    assert {row: list(ids) for row, ids in mined["positive_ids"].items()} == {
        "play a song": ["t1"],
        "play some jazz": ["t0"],
        "stop the song": ["t3"],
        "stop it": ["t2"],
    }
    assert set(mined.loc["play a song", "negative_ids"]) == {"t2", "t4"}


@pytest.mark.usefixtures("fast_trainers")
@pytest.mark.parametrize("recipe", ["train", "ance"])
def test_training_recipes_make_the_model_better(run, tmp_path, recipe):
    options = ["--steps", 16, "--batch", 32, "--negatives", 2, "--output", tmp_path / "model"]
    options += ["--every", 8] if recipe == "ance" else []
    printed = run(f"{recipe}.py", *options)
    before, after = re.search(r"ndcg@10: (\S+) before, (\S+) after", printed).groups()
    assert float(after) > float(before) + 0.05
    assert "# SentenceTransformer" in (tmp_path / "model" / "README.md").read_text()
    if recipe == "ance":
        assert "generation 1 at step 8" in printed
