"""Each recipe is copied to an empty folder, as users copy it, and runs there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import new_processes
import pandas as pd
import pytest
import recipe_copies

# Warnings of the libraries are no errors for a user.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Copy a recipe, run the copy in this process, and return what it prints and the rows that it writes."""

    def run(recipe, **constants):
        path = recipe_copies.copy(f"{recipe}.py", tmp_path / "copy", **constants)
        recipe_copies.run_here(path, monkeypatch)
        return capsys.readouterr().out, written(path.parent / "mined" / recipe)

    return run


def written(folder):
    """Read the rows that a recipe wrote, if it wrote any, beside their card."""
    if not (folder / "data").is_dir():
        return None
    assert "## How it was mined" in (folder / "README.md").read_text()
    return pd.concat(map(pd.read_parquet, sorted((folder / "data").glob("*.parquet"))))


def assert_no_positive_is_a_negative(rows):
    positives = set(zip(rows["anchor"], rows["positive"], strict=True))
    for column in rows.columns[rows.columns.str.match(r"negative(_\d)?$")]:
        assert not positives & set(zip(rows["anchor"], rows[column], strict=True))


def test_every_recipe_stands_alone():
    paths = sorted(recipe_copies.RECIPES.glob("*.py"))
    assert {path.stem for path in paths} >= {"bm25", "ance", "llm_judge"}
    for path in paths:
        docstring, _, code = path.read_text().removeprefix('"""').partition('"""')
        assert re.search(r"\n\n    pip install \S+\n    python " + re.escape(path.name), docstring)
        assert len(code.splitlines()) <= (130 if path.stem == "llm_judge" else 60)
        # The library, what it depends on, and the extras that the recipe names.
        assert set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)) <= KNOWN


KNOWN = {"asyncio", "functools", "hashlib", "json", "os", "re", "sys", "datasets", "hnm_datasets", "lancedb", "numpy"}
KNOWN |= {"openai", "pyarrow", "sentence_transformers"}


def test_bm25_shows_what_it_mines_from_the_sample(tmp_path):
    """In a process of its own, as `make quickstart` runs it."""
    path = recipe_copies.copy("bm25.py", tmp_path / "copy")
    package = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, path.name],
        cwd=path.parent,
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "600 rows became 600 rows with 3,000 negatives" in done.stdout
    for kind in ("anchor", "positive", "negative"):
        assert len(re.findall(rf"^ *{kind}: \S+ \S+", done.stdout, re.MULTILINE)) == 3
    triplets = written(path.parent / "mined" / "bm25")
    assert list(triplets.columns) == ["anchor", "positive", "negative"]
    assert len(triplets) == 10_585
    assert_no_positive_is_a_negative(triplets)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a few passages and questions as BEIR does."""
    folder = tmp_path_factory.mktemp("beir")
    topics = ["earthquakes", "volcanoes", "glaciers", "tides", "bread", "wings"]
    passages = [(topic, place) for topic in topics for place in ("Iceland", "Japan", "Chile", "Italy")]
    corpus = [{"_id": f"{t}-{p}", "title": "", "text": f"About {t} in {p}: all of it."} for t, p in passages]
    queries = [{"_id": f"q{i}", "text": f"what is known of {t} in {p}?"} for i, (t, p) in enumerate(passages)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "qrels").mkdir()
    judged = [f"q{i}\t{t}-{p}\t1\n" for i, (t, p) in enumerate(passages)]
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return folder


def test_bm25_leaves_the_first_ranks_of_a_folder_out(run, folder):
    _, triplets = run("bm25", SOURCE=str(folder), K=8, FIRST_RANK=5, NEGATIVES=2)
    assert len(triplets) == 48
    # The first ranks have the topic, the place or both in common with the question.
    for row in triplets.itertuples():
        assert not {row.anchor.split()[4], row.anchor.split()[6]} <= set(row.negative.split())


@pytest.mark.parametrize("recipe", ["dense", "nv_retriever", "simans"])
def test_dense_recipes_run_with_the_model_that_they_name(run, folder, recipe):
    _, rows = run(recipe, SOURCE=str(folder), K=10, NEGATIVES=2)
    assert len(rows) == (48 if recipe == "simans" else 24)
    assert_no_positive_is_a_negative(rows)


@pytest.fixture(scope="module")
def static_folder(tmp_path_factory, make_static_model):
    folder = tmp_path_factory.mktemp("static")
    make_static_model().save(str(folder))
    return str(folder)


@pytest.mark.parametrize("recipe", ["dense", "nv_retriever", "simans", "cross_encoder"])
def test_recipes_mine_the_sample(run, tmp_path, static_folder, make_cross_encoder, recipe):
    constants = {"MODEL": static_folder, "NEGATIVES": 2, "K": 50}
    if recipe == "cross_encoder":
        constants |= {"K": 5, "TEACHER": str(make_cross_encoder(tmp_path / "teacher")), "NEGATIVE_BELOW": 0.9}
    printed, rows = run(recipe, **constants)
    assert "mine: 600 rows became 600 rows" in printed
    tuples = ["anchor", "positive", "negative_1", "negative_2"]
    expected = {
        "simans": ["anchor", "positive", "negative"],
        "cross_encoder": [*tuples, "positive_score", "negative_1_score", "negative_2_score"],
    }
    assert list(rows.columns) == expected.get(recipe, tuples)
    assert len(rows) > 1000
    assert_no_positive_is_a_negative(rows)


def test_a_lancedb_table_is_mined_by_words_and_by_vectors(folder, tmp_path, static_folder, monkeypatch):
    """In a process of its own: the threads of LanceDB would be in the way of forks."""
    options = {"SOURCE": str(folder), "MODEL": static_folder, "K": 8, "MARGIN": 0.01, "NEGATIVES": 3}
    path = recipe_copies.copy("lancedb_search.py", tmp_path / "copy", **options)
    monkeypatch.chdir(path.parent)
    printed = new_processes.run(path, log=tmp_path / "log")
    assert "words+vectors" in printed
    assert (path.parent / "mined" / "lancedb-tables" / "passages.lance").is_dir()
    triplets = written(path.parent / "mined" / "lancedb")
    assert list(triplets.columns) == ["anchor", "positive", "negative"]
    assert len(triplets) == 72
    assert_no_positive_is_a_negative(triplets)
    for row in triplets.itertuples():
        # Passages that have a word of the question in common with the positive are nearest.
        topic, place = row.anchor.rstrip("?").split()[4::2]
        assert topic in row.negative or place in row.negative


def test_classes_are_mined_from_the_sample(run):
    printed, triplets = run("classes", NEGATIVES=3)
    assert "8 classes; dropped 0 texts" in printed

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
    texts = ["play a song", "play the old song", "stop the song", "stop a song", "play a song", "what is a song?"]
    intents = tmp_path / "intents"
    intents.mkdir()
    pd.DataFrame({"said": texts, "intent": [1, 1, 2, 2, 1, 3]}).to_csv(intents / "train.csv", index=False)
    printed, triplets = run("classes", SOURCE=str(intents), TEXT="said", LABEL="intent", POSITIVES=5)
    assert "3 classes; dropped 1 texts" in printed
    positives = set(zip(triplets["anchor"], triplets["positive"], strict=True))
    plays, stops = texts[:2], texts[2:4]
    assert positives == {(plays[0], plays[1]), (plays[1], plays[0]), (stops[0], stops[1]), (stops[1], stops[0])}
    assert set(triplets.loc[triplets["anchor"] == "play a song", "negative"]) == {*stops, "what is a song?"}


@pytest.mark.usefixtures("fast_trainers")
@pytest.mark.parametrize("recipe", ["train", "ance"])
def test_training_recipes_make_the_model_better(run, tmp_path, recipe):
    printed, _ = run(recipe, STEPS=16, NEGATIVES=2, **({"EVERY": 8} if recipe == "ance" else {}))
    before, after = re.search(r"ndcg@10: (\S+) before, (\S+) after", printed).groups()
    assert float(after) > float(before) + 0.05
    assert "# SentenceTransformer" in (tmp_path / "copy" / "mined" / recipe / "model" / "README.md").read_text()
    if recipe == "ance":
        assert "refresh at step 8: MRR" in printed
