"""Benchmarks that must not rot: that of a GPU runs on a CPU too."""

import json
from pathlib import Path

import new_processes
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
#: In a process that has no FAISS, as the benchmark promises.
WITHOUT_FAISS = """
import runpy, sys
assert "faiss" not in sys.modules
sys.modules["faiss"] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """The folder of a transformer of random weights, kept in half precision."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    model = SentenceTransformer(modules=[Transformer(str(folder)), Pooling(16)], device="cpu")
    model.half().save_pretrained(str(folder / "whole"))
    return folder / "whole"


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    """A part of the embedded sample in BEIR's form."""
    from hnm_datasets import load_sample

    folder = tmp_path_factory.mktemp("set")
    (folder / "qrels").mkdir()
    corpus, queries = load_sample()
    queries = queries.select(range(30))
    pairs = [
        (query, passage)
        for query, ids in zip(queries["query_id"], queries["positive_ids"], strict=True)
        for passage in ids
    ]
    ids = sorted({passage for _, passage in pairs})
    passages = zip(ids, corpus.texts(corpus.rows(ids)).to_pylist(), strict=True)
    files = {
        "corpus.jsonl": [json.dumps({"_id": name, "title": "", "text": text}) for name, text in passages],
        "queries.jsonl": [json.dumps({"_id": row["query_id"], "text": row["query"]}) for row in queries],
        "qrels/train.tsv": ["query-id\tcorpus-id\tscore", *(f"{query}\t{passage}\t1" for query, passage in pairs)],
    }
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_the_benchmark_of_a_gpu_runs_on_a_cpu_without_faiss(tmp_path, tiny_model, small_set):
    (tmp_path / "without_faiss.py").write_text(WITHOUT_FAISS)
    command = [tmp_path / "without_faiss.py", BENCHMARKS / "gpu.py", small_set]
    options = ["--model", tiny_model, "--out", tmp_path, "--repeats", 1, "--dimensions", 24, "--vectors", 900]
    options += ["--queries", 40, "--bits", 600, "--texts", 40, "--batches", 8, 16, "--steps", 3, "--batch", 16]
    new_processes.run(*command, *options, log=tmp_path / "log", CUDA_VISIBLE_DEVICES="")
    found = json.loads((tmp_path / f"gpu-{small_set.name}.json").read_text())
    assert list(found) == ["search", "bits", "embed", "refresh", "cached"]
    assert all("no GPU" in part["found"]["device"] for part in found.values())
    assert [one["k"] for one in found["search"]["found"]["rows"]] == [10, 100]
    assert all(one["searches"] == 12 for one in found["bits"]["found"]["rows"])
    assert [one["batch"] for one in found["embed"]["found"]["rows"]] == [8, 16]
    for one in found["refresh"]["found"]["rows"]:
        assert len(one["history"]) >= 2
        assert one["history"][0]["replaced"] > 0
    plain, cached = (one["losses"] for one in found["cached"]["found"]["rows"])
    assert plain == pytest.approx(cached, rel=1e-3)
    assert (tmp_path / f"gpu-{small_set.name}.md").read_text().count("because there is no GPU") == len(found)


def test_the_benchmark_of_encoding_runs(tmp_path, tiny_model, small_set):
    options = ["--model", tiny_model, "--out", tmp_path, "--repeats", 1, "--texts", 12, "--sizes", 8, 32]
    options += ["--parts", "mixed", "few"]
    new_processes.run(BENCHMARKS / "encoding.py", small_set, *options, log=tmp_path / "log")
    found = json.loads((tmp_path / f"encoding-{small_set.name}.json").read_text())
    assert list(found["mixed"]["found"]["seconds"]) == ["Encoder", "corpus.embed", "8", "32"]
    assert [one["texts"] for one in found["few"]["found"]] == [1, 5, 20]


def test_hits_that_differ_in_one_bit_are_refused(monkeypatch):

    from hnm_datasets.indexes.base import Hits

    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_search

    expected = Hits(np.array([[3, 1]]), np.array([[0.5, 0.25]], dtype=np.float32))
    off = Hits(expected.rows, np.nextafter(expected.scores, np.float32([1, 0.25])))
    gpu_search.check_same(expected, expected, "equal")
    with pytest.raises(RuntimeError, match=r"moved: 1 of 2 hits differ .* query 0 at rank 1"):
        gpu_search.check_same(off, expected, "moved")
