"""The second run of a notebook, in a new process, finds all that the first has made of the same rows in memory."""

import contextlib
import io
import tempfile

import new_processes
import pandas as pd
from datasets import Dataset

from hnm_datasets import BM25Negatives, Corpus, TopNegatives, attach_positives, from_pairs, mine, pool_positives

PAIRS = {"query": ["a plate?", "a wave?", "A plate?"], "answer": ["Plates move.", "Waves roll.", "A plate is thin."]}


def mined_of_pairs():
    corpus, rows = from_pairs(Dataset.from_dict(PAIRS))
    return mined(corpus, rows)


def mined_of_judged():
    corpus, rows = from_pairs(Dataset.from_dict(PAIRS | {"query_id": ["q0", "q1", "q2"]}))
    qrels = {"query_id": ["q1", "q0"], "corpus_id": corpus.ids([0, 1]).to_pylist()}
    return mined(corpus, attach_positives(rows.select_columns(["query_id", "query"]), Dataset.from_dict(qrels)))


def mined_of_pooled():
    corpus, rows = from_pairs(Dataset.from_dict(PAIRS))
    return mined(corpus, pool_positives(Dataset.from_list(rows.remove_columns("known_positive_ids").to_list())))


def mined_in_one_call():
    corpus, rows = from_pairs(pd.DataFrame(PAIRS))
    with contextlib.redirect_stdout(io.StringIO()):
        return mine(rows, [BM25Negatives(corpus, k=2), TopNegatives(1)])


def mined_without_loaders():
    corpus = Corpus.from_dataset([{"id": 1, "text": "Plates move."}, {"id": 2, "text": "Waves roll."}])
    with contextlib.redirect_stdout(io.StringIO()):
        return mine([{"query": "a plate?", "positive_ids": [1]}], [BM25Negatives(corpus, k=1)])


def mined(corpus, rows):
    return rows.map(BM25Negatives(corpus, k=2), batched=True).map(TopNegatives(1), batched=True)


RUNS = {
    "pairs": mined_of_pairs,
    "judged": mined_of_judged,
    "pooled": mined_of_pooled,
    "in one call": mined_in_one_call,
    "without loaders": mined_without_loaders,
}


def refuse(*_, **__):
    raise AssertionError("Something is made again.")


def second_run():
    """Run everything where a step that is called, and a folder that is built, is an error."""
    tempfile.mkdtemp = BM25Negatives.__call__ = TopNegatives.__call__ = refuse
    for name, run in RUNS.items():
        print(name, run()[:])  # noqa: T201


def test_a_second_process_calls_no_step_and_builds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    first = [f"{name} {run()[:]}" for name, run in RUNS.items()]
    second = new_processes.run(__file__, log=tmp_path / "log", HF_DATASETS_CACHE=str(tmp_path))
    assert second.splitlines() == first


if __name__ == "__main__":
    second_run()
