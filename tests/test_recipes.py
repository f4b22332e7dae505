"""The recipes run as a user runs them."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

RECIPE = Path(__file__).parents[1] / "recipes" / "bm25.py"


def run(*arguments):
    return subprocess.run([sys.executable, RECIPE, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_bm25_mines_the_sample(tmp_path):
    done = run("--output", tmp_path, "--negatives", 3)
    assert done.returncode == 0, done.stderr
    assert "600 queries" in done.stdout
    mined, triplets = pd.read_parquet(tmp_path / "mined.parquet"), pd.read_parquet(tmp_path / "triplets.parquet")
    assert (mined["negative_ids"].str.len() <= 3).all()
    assert list(triplets.columns) == ["anchor", "positive", "negative"]
    assert len(triplets) == sum(mined["negative_ids"].str.len() * mined["positive_ids"].str.len())


def test_more_negatives_than_the_window_holds_is_refused(tmp_path):
    done = run("--k", 10, "--skip", 6, "--negatives", 5, "--output", tmp_path)
    assert done.returncode == 2
    assert "larger than the window of ranks 7 to 10" in done.stderr
