"""Embeddings: each passage once, whatever happens in between, and never another model's vectors."""

import json
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import datasets
import new_processes
import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from hnm_datasets import Corpus
from hnm_datasets.corpus import files as corpus_files
from hnm_datasets.models import embedding_job, shard_job
from hnm_datasets.models.embeddings import Embeddings
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.storage.manifest import DamagedFolderError, is_complete
from hnm_datasets.storage.opened import Opened

SHARD = 24


@pytest.fixture(autouse=True)
def _own_cache_and_small_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(corpus_files, "_OPENED", Opened())
    monkeypatch.setattr(shard_job, "SHARD", SHARD)


def corpus_of(texts):
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{row}" for row in range(len(texts))], "text": texts}))


@pytest.fixture
def corpus():
    """Seven shards; every fifth passage repeats one of another shard, the fourth shard repeats the first."""
    texts = [f"plate {row if row % 5 else row // 2 + 1} moves " + "on " * (row % 7) for row in range(150)]
    texts[3 * SHARD : 4 * SHARD] = texts[:SHARD]
    return corpus_of(texts)


def texts_of(corpus):
    return corpus.texts(np.arange(len(corpus))).to_pylist()


def answer(texts):
    return np.column_stack([digest_strings(texts) % 997 + 1, [len(text) for text in texts]]) / 997


class Logged:
    """A function model that notes what it was given in a file, so that many processes can share it."""

    def __init__(self, folder, pause=0.0, calls=None):
        self.path, self.pause, self.calls = Path(folder) / "encoded.jsonl", pause, calls

    def __call__(self, texts):
        if self.calls == 0:
            raise InterruptedError("as if killed")
        self.calls = None if self.calls is None else self.calls - 1
        time.sleep(self.pause)
        with self.path.open("a") as file:
            file.write("".join(json.dumps(text) + "\n" for text in texts))
        return answer(texts)

    def taken(self):
        """Return what was encoded since the last call."""
        if not self.path.exists():
            return []
        found = [json.loads(line) for line in self.path.read_text().splitlines()]
        self.path.unlink()
        return found


def embed(corpus, model, **options):
    return corpus.embed(model, **{"fingerprint": "hashes-1", "similarity": "dot", "batch_size": 1} | options)


def folder_of(embeddings):
    return cache_root() / "embeddings" / embeddings.fingerprint


def the_folder():
    (folder,) = (path for path in (cache_root() / "embeddings").iterdir() if path.is_dir())
    return folder


def own_texts(corpus, *shards):
    """Return the texts that each shard encodes itself: those that are in no earlier shard."""
    texts, found = texts_of(corpus), []
    for shard in shards:
        before = set(texts[: shard * SHARD])
        found += sorted(set(texts[shard * SHARD : (shard + 1) * SHARD]) - before)
    return found


# ---- what they hold --------------------------------------------------------------------------------------------------


def test_vectors_are_those_of_the_model_in_corpus_order(corpus, static_model):
    embeddings = corpus.embed(static_model)
    expected = static_model.encode_document(texts_of(corpus), normalize_embeddings=True)
    np.testing.assert_array_equal(embeddings.vectors, expected)
    assert embeddings.vectors.dtype == np.float32
    assert (len(embeddings), embeddings.dimension) == (150, 64)
    assert (embeddings.similarity, embeddings.normalize) == ("cosine", True)
    assert (embeddings.corpus_fingerprint, embeddings.prompt) == (corpus.fingerprint, "")
    assert embeddings.are_made
    np.testing.assert_array_equal(np.concatenate(list(embeddings.blocks())), expected)


def test_the_prompt_goes_before_each_passage(corpus, static_model):
    embeddings = corpus.embed(static_model, prompt="read: ")
    expected = static_model.encode(["read: " + text for text in texts_of(corpus)], normalize_embeddings=True)
    np.testing.assert_array_equal(embeddings.vectors, expected)
    assert embeddings != corpus.embed(static_model)
    assert embeddings.prompt == "read: "


def test_what_is_not_made_yet_says_so(corpus, tmp_path):
    model = Logged(tmp_path)
    encoder = Encoder(model, "document", fingerprint="hashes-1", similarity="dot", prompt="read: ", batch_size=1)
    job = embedding_job.EmbeddingJob(corpus, encoder)
    embeddings = job.embeddings
    assert not embeddings.are_made
    assert repr(embeddings) == f"Embeddings(fingerprint={embeddings.fingerprint!r}, not computed yet)"
    embeddings.close()
    assert pickle.loads(pickle.dumps(embeddings)) == embeddings
    with pytest.raises(FileNotFoundError, match=r"no complete folder.*Call corpus\.embed again"):
        _ = embeddings.vectors
    assert not (cache_root() / "embeddings").exists()
    assert model.taken() == []
    job.ensure()
    assert embeddings.are_made
    assert embeddings == embed(corpus, model, prompt="read: ")
    assert len(model.taken()) == len(set(texts_of(corpus)))
    assert repr(embeddings).startswith("Embeddings(150 vectors of 3 dimensions, float32, dot, fingerprint=")
    embeddings.discard()
    assert not embeddings.are_made


def test_closing_unmaps_the_vectors(corpus, tmp_path):
    embeddings, other = embed(corpus, answer), embed(corpus, answer, fingerprint="hashes-2")

    def mapped():
        maps = Path("/proc/self/maps").read_text()
        return [one.fingerprint in maps for one in (embeddings, other)]

    expected = embeddings.vectors.tolist()
    assert other.dimension == 3
    assert mapped() == [True, True]
    embeddings.close()
    embeddings.close()
    assert mapped() == [False, True]
    assert embeddings.vectors.tolist() == expected
    assert mapped() == [True, True]


def test_a_second_call_encodes_nothing(corpus, tmp_path):
    model = Logged(tmp_path)
    first = embed(corpus, model)
    assert len(model.taken()) == len(set(texts_of(corpus)))
    assert embed(corpus, model, batch_size=5) == first
    first.close()
    np.testing.assert_array_equal(embed(corpus, model).vectors, answer(texts_of(corpus)).astype(np.float32))
    assert model.taken() == []


def test_the_same_text_is_encoded_once_and_another_case_is_another_text(tmp_path):
    texts = ["Wave", "wave", "Wave", "WAVE", " wave", *["filler"] * SHARD, "Wave", "wave", "new"]
    corpus, model = corpus_of(texts), Logged(tmp_path)
    embeddings = embed(corpus, model)
    assert sorted(model.taken()) == sorted(set(texts))
    np.testing.assert_array_equal(embeddings.vectors, answer(texts).astype(np.float32))


@settings(max_examples=40)
@given(
    st.lists(st.text(st.sampled_from("aAb "), min_size=1, max_size=3).filter(str.strip), min_size=1, max_size=30),
    st.integers(1, 9),
    st.sampled_from(["float32", "float16"]),
)
def test_vectors_do_not_depend_on_shards_and_repetitions(tmp_path_factory, texts, shard, dtype):
    seen = []

    def model(texts):
        seen.extend(texts)
        return answer(texts)

    with pytest.MonkeyPatch.context() as patch, cache_root_at(tmp_path_factory.mktemp("cache")):
        patch.setattr(shard_job, "SHARD", shard)
        vectors = embed(corpus_of(texts), model, dtype=dtype).vectors
        np.testing.assert_array_equal(vectors, answer(texts).astype(np.float32).astype(dtype))
        assert sorted(seen) == sorted(set(texts))


def test_half_precision(corpus, static_model):
    whole, half = corpus.embed(static_model), corpus.embed(static_model, dtype="float16")
    assert half.vectors.dtype == np.float16
    np.testing.assert_array_equal(half.vectors, whole.vectors.astype(np.float16))
    assert half != whole
    assert next(half.blocks()).dtype == np.float32


def test_similarity_and_normalization(corpus, static_model):
    plain = static_model.encode_document(texts_of(corpus))
    for options, length, name in (
        ({"similarity": "dot"}, False, "dot"),
        ({"similarity": "euclidean"}, False, "euclidean"),
        ({"similarity": "dot", "normalize": True}, True, "dot"),
        ({"normalize": False}, False, "cosine"),
    ):
        embeddings = corpus.embed(static_model, **options)
        assert (embeddings.similarity, embeddings.normalize) == (name, length)
        scale = np.linalg.norm(plain, axis=1, keepdims=True) if length else 1
        np.testing.assert_allclose(embeddings.vectors, plain / scale, rtol=1e-5, atol=1e-7)


def test_they_pickle_to_their_name(corpus, static_model):
    embeddings = corpus.embed(static_model)
    assert len(embeddings.vectors) == 150
    data = pickle.dumps(embeddings)
    assert len(data) < 200
    again = pickle.loads(data)
    assert again == embeddings
    assert hash(again) == hash(embeddings)
    embeddings.close()
    np.testing.assert_array_equal(again.vectors, embeddings.vectors)


def test_processes_on_several_devices_give_the_same_vectors(tmp_path, static_model, monkeypatch):
    # In place of spawned ones, which take seconds to import what they need; they get everything pickled too.
    monkeypatch.setattr("torch.multiprocessing.get_context", lambda _: new_processes.FORKS)
    texts = [f"plate {row % 30} moves" for row in range(40)]
    rows = Dataset.from_dict({"id": [str(row) for row in range(40)], "text": texts})
    with cache_root_at(tmp_path):
        embeddings = Corpus.from_dataset(rows).embed(static_model, devices=["cpu", "cpu"])
        np.testing.assert_array_equal(embeddings.vectors, static_model.encode(texts, normalize_embeddings=True))


# ---- runs that do not come to their end ------------------------------------------------------------------------------


def finished_shards(folder):
    return sorted(int(path.stem) for path in (folder / "shards").glob("*.done"))


def run_in_fork(target, *arguments):
    worker = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    worker.start()
    return worker


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_run_goes_on_where_it_was_with_the_same_bytes(corpus, tmp_path, seed):
    rng, texts = np.random.default_rng(seed), texts_of(corpus)
    with cache_root_at(tmp_path / "uninterrupted"):
        name = embed(corpus_of(texts), answer).fingerprint
        expected = (cache_root() / "embeddings" / name / "vectors.npy").read_bytes()
    model, kills = Logged(tmp_path, pause=0.02), 0
    while kills < 12:
        done = finished_shards(cache_root() / "embeddings" / name)
        worker = run_in_fork(embed, corpus, model)
        worker.join(timeout=rng.uniform(0.02, 0.12))
        killed = worker.is_alive()
        if killed:
            os.kill(worker.pid, signal.SIGKILL)
            kills += 1
        worker.join()
        assert not set(model.taken()) & set(own_texts(corpus, *done))
        if not killed:
            assert worker.exitcode == 0
            break
    assert kills > 0
    done = finished_shards(cache_root() / "embeddings" / name)
    embeddings = embed(corpus, model)
    assert embeddings.fingerprint == name
    assert not set(model.taken()) & set(own_texts(corpus, *done))
    assert (folder_of(embeddings) / "vectors.npy").read_bytes() == expected


def interrupted(corpus, tmp_path, calls):
    """Encode some shards and stop; return the folder."""
    with pytest.raises(InterruptedError):
        embed(corpus, Logged(tmp_path, calls=calls))
    Logged(tmp_path).taken()
    folder = the_folder()
    assert not is_complete(folder)
    return folder


def offset_of(path, row):
    """Return where a row begins in the file."""
    stored = np.load(path, mmap_mode="r")
    return path.stat().st_size - stored.nbytes + row * stored[0].nbytes


def check_finishes(corpus, tmp_path, *shards):
    """Embed to the end; these shards and no others are encoded."""
    model = Logged(tmp_path)
    embeddings = embed(corpus, model)
    assert sorted(model.taken()) == sorted(own_texts(corpus, *shards))
    np.testing.assert_array_equal(embeddings.vectors, answer(texts_of(corpus)).astype(np.float32))
    assert is_complete(folder_of(embeddings))


def test_an_unfinished_folder_is_not_opened(corpus, tmp_path):
    # A shard of 24 passages takes two calls of at most 16.
    folder = interrupted(corpus, tmp_path, calls=5)
    assert finished_shards(folder) == [0, 1]
    with pytest.raises(FileNotFoundError, match=r"no complete folder.*Call corpus\.embed again.*HF_DATASETS_CACHE"):
        _ = Embeddings(folder.name).vectors
    with pytest.raises(FileNotFoundError, match=r"0000: .* no complete folder"):
        len(Embeddings("0" * 32))
    check_finishes(corpus, tmp_path, 2, 4, 5, 6)


def test_a_file_cut_short_half_way_is_mended(corpus, tmp_path):
    path = interrupted(corpus, tmp_path, calls=5) / "vectors.npy"
    os.truncate(path, offset_of(path, SHARD + SHARD // 2))
    check_finishes(corpus, tmp_path, 1, 2, 4, 5, 6)


@pytest.mark.parametrize("size", [0, 5, 60, 128])
def test_a_file_cut_short_in_its_header_is_made_again(corpus, tmp_path, size):
    path = interrupted(corpus, tmp_path, calls=5) / "vectors.npy"
    os.truncate(path, size)
    check_finishes(corpus, tmp_path, *range(7))


def test_flipped_bytes_of_an_unfinished_run_are_noticed(corpus, tmp_path):
    path = interrupted(corpus, tmp_path, calls=5) / "vectors.npy"
    with path.open("r+b") as file:
        file.seek(offset_of(path, SHARD + 3))
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    check_finishes(corpus, tmp_path, 1, 2, 4, 5, 6)


def test_a_lost_or_broken_marker_costs_its_shard(corpus, tmp_path):
    folder = interrupted(corpus, tmp_path, calls=5)
    (folder / "shards" / "000000.done").write_text("")
    (folder / "shards" / "000001.done").unlink()
    check_finishes(corpus, tmp_path, *range(7))


def test_a_finished_file_that_was_cut_short_is_mended(corpus, tmp_path):
    path = folder_of(embed(corpus, answer)) / "vectors.npy"
    # The fourth shard repeats the first and is filled in from there.
    os.truncate(path, offset_of(path, 3 * SHARD + 5))
    Embeddings(path.parent.name).close()
    with pytest.raises(DamagedFolderError, match=r"vectors\.npy.*Call corpus\.embed again"):
        _ = Embeddings(path.parent.name).vectors
    check_finishes(corpus, tmp_path, 4, 5, 6)


@pytest.mark.parametrize("size", [None, 0, 60, 1000], ids=["deleted", "empty", "half a header", "some rows"])
def test_a_damaged_file_is_not_taken_for_whole_while_it_is_mended(corpus, tmp_path, size):
    path = folder_of(embed(corpus, answer)) / "vectors.npy"
    if size is None:
        path.unlink()
    else:
        os.truncate(path, size)
    Embeddings(path.parent.name).close()
    interrupted(corpus, tmp_path, calls=3)
    with pytest.raises(FileNotFoundError, match="no complete folder"):
        _ = Embeddings(path.parent.name).vectors
    embed(corpus, answer)
    check_finishes(corpus, tmp_path)


@pytest.mark.parametrize("name", ["about.json", "manifest.json"])
def test_lost_notes_cost_no_encoding(corpus, tmp_path, name):
    path = folder_of(embed(corpus, answer)) / name
    path.write_text("{")
    check_finishes(corpus, tmp_path)


def test_processes_that_embed_at_once_share_the_work(corpus, tmp_path):
    model = Logged(tmp_path, pause=0.05)

    def rank():
        np.testing.assert_array_equal(embed(corpus, model).vectors, answer(texts_of(corpus)).astype(np.float32))

    workers = [run_in_fork(rank) for _ in range(3)]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert sorted(model.taken()) == sorted(set(texts_of(corpus)))
    check_finishes(corpus, tmp_path)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0], ids=["NaN", "infinite", "zero"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_vectors_that_cannot_be_compared_are_refused(corpus, value, similarity):
    bad = texts_of(corpus)[37]

    def model(texts):
        return np.array([[value if text == bad else 1.0, 0.0] for text in texts])

    with pytest.raises(ValueError, match=rf"zero, NaN or infinite vector for the passage 'p37' with the text '{bad}'"):
        embed(corpus, model, similarity=similarity)
    assert not is_complete(the_folder())


@pytest.mark.parametrize("value", [1e5, 1e-9])
def test_vectors_that_do_not_fit_into_half_precision_are_refused(corpus, value):
    bad = texts_of(corpus)[37]

    def model(texts):
        return np.array([[value if text == bad else 1.0, 0.0] for text in texts])

    with pytest.raises(ValueError, match=rf"passage 'p37' does not fit into float16: .* {value:g}\. .*'float32'"):
        embed(corpus, model, dtype="float16")
    assert embed(corpus, model).vectors[37, 0] == np.float32(value)


def test_another_dimension_under_the_same_name_is_refused(corpus, tmp_path):
    interrupted(corpus, tmp_path, calls=5)
    with pytest.raises(
        ValueError, match=r"vectors of 2 dimensions, but earlier vectors with the same fingerprint have 3"
    ):
        embed(corpus, lambda texts: answer(texts)[:, :2])
    check_finishes(corpus, tmp_path, 2, 4, 5, 6)


def test_unknown_options_are_refused(corpus):
    with pytest.raises(ValueError, match=r"dtype.*'float32'.*'float16'.*'float64'"):
        embed(corpus, answer, dtype="float64")
    with pytest.raises(ValueError, match=r"fingerprint='\.\.\.'"):
        corpus.embed(answer)


# ---- models that change ----------------------------------------------------------------------------------------------


def test_a_model_that_was_trained_gets_vectors_of_its_own(corpus, make_static_model, monkeypatch):
    model = make_static_model()
    before = corpus.embed(model)
    old = before.vectors.copy()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    features = model.preprocess(texts_of(corpus)[:8])
    (model(features)["sentence_embedding"] - 1).square().sum().backward()
    optimizer.step()

    after = corpus.embed(model)
    assert folder_of(after) != folder_of(before)
    assert after.model_fingerprint != before.model_fingerprint
    assert not np.array_equal(after.vectors, old)
    np.testing.assert_array_equal(after.vectors, model.encode(texts_of(corpus), normalize_embeddings=True))

    # The old weights still have their old vectors, and nothing is encoded for them.
    before.close()
    written = (folder_of(before) / "vectors.npy").stat().st_mtime_ns
    again = make_static_model()
    monkeypatch.setattr(SentenceTransformer, "encode", lambda *_, **__: pytest.fail("encoded again"))
    assert corpus.embed(again) == before
    np.testing.assert_array_equal(corpus.embed(again).vectors, old)
    assert (folder_of(before) / "vectors.npy").stat().st_mtime_ns == written


def test_other_passages_get_vectors_of_their_own(corpus, static_model):
    texts = texts_of(corpus)
    other = corpus_of([*texts[:-1], texts[-1] + "!"])
    assert other.embed(static_model) != corpus.embed(static_model)
    np.testing.assert_array_equal(other.embed(static_model).vectors[:-1], corpus.embed(static_model).vectors[:-1])
