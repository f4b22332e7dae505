"""Cut the embedded sample out of MedQuAD passages; the same input gives the same files.

Usage: `python hnm_datasets/sample/make_sample.py FOLDER`, a folder in BEIR's Parquet form whose passage ids are
`DOCUMENT_FOCUS-QUESTION#PIECE`. Taken are, in the order of the ids, diseases with at least four questions whose answers
are short, until there are 600 questions: questions on one disease that differ in what they ask show what a hard
negative is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

QUESTIONS = 600
MOST_PIECES = 9
FEWEST_QUESTIONS = 4


def main() -> None:
    """Read the folder that the command line names and write the sample beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    passages, queries, qrels = (pd.read_parquet(folder / f"{name}.parquet") for name in ("corpus", "queries", "qrels"))
    qrels = qrels[qrels["score"] > 0]
    sizes = qrels.groupby("query_id")["corpus_id"].count()
    short = queries[queries["id"].map(sizes).between(1, MOST_PIECES)].drop_duplicates("text")
    document = short["id"].str.rsplit("-", n=1).str[0]
    many = document.map(document.value_counts()) >= FEWEST_QUESTIONS
    short, document = short[many], document[many]
    # One source after the other would be one style of text: take every 5th disease.
    chosen_documents = pd.Series(sorted(document.unique()))[::5]
    chosen = short[document.isin(set(chosen_documents))].sort_values("id").head(QUESTIONS)
    chosen_qrels = qrels[qrels["query_id"].isin(set(chosen["id"]))]
    chosen_passages = passages[passages["id"].isin(set(chosen_qrels["corpus_id"]))].copy()
    chosen_passages["group"] = chosen_passages["id"].str.split("#").str[0]
    target = Path(__file__).parent / "medquad"
    target.mkdir(exist_ok=True)
    options: dict[str, Any] = {"index": False, "compression": "zstd", "compression_level": 19}
    chosen_passages[["id", "title", "text", "group"]].to_parquet(target / "corpus.parquet", **options)
    chosen[["id", "text"]].to_parquet(target / "queries.parquet", **options)
    chosen_qrels[["query_id", "corpus_id", "score"]].to_parquet(target / "qrels.parquet", **options)


if __name__ == "__main__":
    main()
