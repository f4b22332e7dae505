"""Shards of a corpus: which rows they have, and how their indexes are built, found again and let go of."""

import mmap
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hnm_datasets import BM25Index, Corpus, DenseIndex
from hnm_datasets.indexes import bm25 as bm25_module
from hnm_datasets.indexes import dense as dense_module
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bm25_building import CountedTokens
from hnm_datasets.indexes.bm25_counts import Counts
from hnm_datasets.indexes.shards import merged_hits, rows_of_shard
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.mapped import open_array, release, save_array
from hnm_datasets.storage.opened import Opened

WORDS = [f"word{i}" for i in range(40)]


def corpus_of(texts):
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{i}" for i in range(len(texts))], "text": texts}))


def some_corpus(size=60):
    random = np.random.default_rng(0)
    return corpus_of([" ".join(random.choice(WORDS, 6)) for _ in range(size)])


def letters(texts):
    return np.array([[text.count(letter) + 1 for letter in "word123"] for text in texts], dtype=np.float32)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache directory."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    forget_what_is_open(monkeypatch)
    return tmp_path


def forget_what_is_open(monkeypatch):
    for module, name in ((bm25_module, "_OPENED"), (bm25_module, "_VOCABULARIES"), (dense_module, "_OPENED")):
        monkeypatch.setattr(module, name, Opened())


def folders(kind):
    return {path for path in (cache_root() / kind).iterdir() if path.is_dir()}


# ---- rows -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 1000), st.data())
def test_shards_are_all_rows_in_order_as_even_as_can_be(length, data):
    n = data.draw(st.integers(1, length))
    shards = [rows_of_shard((i, n), length) for i in range(n)]
    assert [row for shard in shards for row in shard] == list(range(length))
    assert {len(shard) for shard in shards} <= {length // n, -(-length // n)}
    assert rows_of_shard(None, length) == range(length)


@given(
    st.integers(1, 30),
    st.integers(1, 5),
    st.integers(0, 35),
    st.randoms(use_true_random=False),
    st.lists(st.sampled_from([0.0, -1.5, 2.0, 3.0]), min_size=30, max_size=30),
)
def test_merged_lists_are_the_list_of_all(size, n, k, random, scores):
    # Not every passage is found, and the lists come in any order.
    scores = np.float32(scores[:size])
    found = np.array([row for row in range(size) if random.random() < 0.8], dtype=np.int64)
    order = found[np.lexsort((found, -scores[found]))]

    def best(rows, places):
        rows = rows[:places]
        gap = (0, places - len(rows))
        return Hits(np.pad(rows, gap, constant_values=-1), np.pad(scores[rows], gap, constant_values=-np.inf))

    shards = [best(order[order % n == i], k) for i in range(n)]
    random.shuffle(shards)
    merged = merged_hits([Hits(rows[None], values[None]) for rows, values in shards], k)
    expected = best(order, k)
    np.testing.assert_array_equal(merged.rows[0], expected.rows, strict=True)
    np.testing.assert_array_equal(merged.scores[0], expected.scores, strict=True)


@pytest.mark.parametrize("kind", ["bm25", "dense"])
@pytest.mark.parametrize(
    ("shard", "error", "match"),
    [
        ((3, 3), ValueError, r"shard must be \(i, n\) with 0 <= i < n .* got \(3, 3\)"),
        ((0, 5), ValueError, r"n at most the number of passages \(4\), got \(0, 5\)"),
        ((-1, 3), ValueError, "the shard must be a whole number of at least 0, got -1"),
        ((0, 0), ValueError, "the number of shards must be a whole number of at least 1"),
        ((0.0, 2), TypeError, "the shard must be a whole number"),
        ((True, 2), ValueError, "the shard must be a whole number"),
        ((1,), TypeError, r"shard must be \(i, n\), shard i of n shards of the corpus"),
        (2, TypeError, r"shard must be \(i, n\)"),
        ("02", TypeError, r"shard must be \(i, n\)"),
    ],
)
def test_the_shard_is_checked(kind, shard, error, match):
    corpus = some_corpus(4)
    make, content = (
        (BM25Index, corpus) if kind == "bm25" else (DenseIndex, corpus.embed(letters, fingerprint="letters"))
    )
    with pytest.raises(error, match=f"{make.__name__}: .*{match}"):
        make(content, shard=shard)


def test_shards_are_plain_and_named_apart():
    corpus = some_corpus(7)
    embeddings = corpus.embed(letters, fingerprint="letters")
    for make in (lambda shard: BM25Index(corpus, shard=shard), lambda shard: DenseIndex(embeddings, shard=shard)):
        index = make([np.int64(1), np.int32(3)])
        assert index.shard == (1, 3)
        assert type(index.shard[0]) is int
        assert index.rows == range(2, 4)
        assert index == make((1, 3))
        names = [make(shard).fingerprint for shard in (None, (0, 1), (0, 3), (1, 3), (1, 2))]
        assert len(set(names)) == 5


@pytest.mark.parametrize("rows", [range(2, 6), range(7), range(6, 7), range(3, 3), None])
def test_texts_and_vectors_of_some_rows(rows, monkeypatch):
    monkeypatch.setattr("hnm_datasets.models.embeddings.BLOCK", 3)
    texts = [f"text {i}" for i in range(7)]
    corpus = corpus_of(texts)
    wanted = slice(None) if rows is None else slice(rows.start, rows.stop)
    chunks = [chunk.to_pylist() for chunk in corpus.iter_texts(3, rows)]
    assert [text for chunk in chunks for text in chunk] == texts[wanted]
    assert all(len(chunk) <= 3 for chunk in chunks)
    embeddings = corpus.embed(letters, fingerprint="letters", dtype="float16")
    blocks = list(embeddings.blocks(rows))
    assert all(len(block) <= 3 and block.dtype == np.float32 for block in blocks)
    vectors = np.concatenate([np.empty((0, 7), np.float32), *blocks])
    np.testing.assert_array_equal(vectors, np.float32(embeddings.vectors)[wanted])


def test_an_approximate_shard_finds_its_own_rows():
    embeddings = some_corpus().embed(letters, fingerprint="letters")
    index = DenseIndex(embeddings, "HNSW8", shard=(1, 3))
    queries = letters(["word1 word2"])
    found = index.search(queries, 30).rows[0]
    assert set(found[found >= 0].tolist()) == set(range(20, 40))
    assert index.recall(queries, 5) == 1
    assert DenseIndex(embeddings, shard=(1, 3)).recall(queries, 100) == 1


# ---- building -------------------------------------------------------------------------------------------------------


def test_shards_are_found_again_without_counting(fresh, monkeypatch):
    corpus = some_corpus()
    built = [BM25Index(corpus, shard=(i, 3)).search(["word1 word2"], 5) for i in range(3)]
    assert len(folders("bm25-counts")) == 3
    assert len(folders("bm25-statistics")) == 1

    def fail(*_):
        raise RuntimeError("counted again")

    monkeypatch.setattr(CountedTokens, "count", fail)
    forget_what_is_open(monkeypatch)
    for i, expected in enumerate(built):
        index = BM25Index(corpus, shard=(i, 3))
        np.testing.assert_array_equal(index.search(["word1 word2"], 5).scores, expected.scores)
        # Another formula is about the same counts.
        for options in ({"method": "bm25+"}, {"k1": 0.9, "b": 0.4}):
            assert (BM25Index(corpus, shard=(i, 3), **options).search(["word1"], 1).rows >= 0).all()
    three = {"shard": (0, 3)}
    for options in ({"shard": (0, 4)}, three | {"stemmer": None}, three | {"stopwords": ["word1"]}, {}):
        index = BM25Index(corpus, **options)
        for use in (index.prepare, lambda index=index: index.search(["word1"], 1)):
            with pytest.raises(RuntimeError, match="counted again"):
                use()


def test_what_is_built_needs_the_counts_no_more(fresh, monkeypatch):
    corpus = some_corpus()
    shards = [BM25Index(corpus, shard=(i, 3)) for i in range(3)]
    for shard in shards:
        shard.prepare()
    assert len(folders("bm25-counts")) == 3
    for folder in folders("bm25-counts"):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    monkeypatch.setattr(CountedTokens, "count", lambda *_: pytest.fail("counted again"))
    for shard in shards:
        shard.prepare()
        shard.close()
        assert (shard.search(["word1"], 1).rows >= 0).all()


def test_closing_unmaps_the_files_of_one_index(fresh):
    corpus = some_corpus()
    shards = [BM25Index(corpus, shard=(i, 2)) for i in range(2)]
    names = [shard.fingerprint for shard in shards]
    maps = Path("/proc/self/maps")
    for shard in shards:
        # On disk, but nobody has searched it.
        shard.prepare()
    assert [name in maps.read_text() for name in names] == [False, False]
    for shard in shards:
        shard.search(["word1"], 1)
    assert [name in maps.read_text() for name in names] == [True, True]
    shards[0].close()
    shards[0].close()
    assert [name in maps.read_text() for name in names] == [False, True]
    assert (shards[0].search(["word1"], 1).rows >= 0).all()
    assert shards[0].nbytes == sum(path.stat().st_size for path in (cache_root() / "bm25" / names[0]).glob("*.npy"))


def test_building_a_shard_holds_no_other(fresh, monkeypatch):
    random = np.random.default_rng(0)
    corpus = corpus_of([" ".join(random.choice(WORDS, 30)) for _ in range(4000)])
    whole = BM25Index(corpus)
    index = BM25Index(corpus, shard=(0, 16))
    whole.prepare()
    index.prepare()
    read = []
    opened = Counts.open

    def watched(folder):
        read.append(folder.name)
        return opened(folder)

    monkeypatch.setattr(Counts, "open", watched)
    monkeypatch.setattr(CountedTokens, "count", lambda *_: pytest.fail("counted again"))
    other = BM25Index(corpus, shard=(3, 16))
    tracemalloc.start()
    other.prepare()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(read) == 1
    # A sixteenth of the postings, with float64 intermediates of theirs.
    assert peak < whole.nbytes / 2
    assert other.nbytes < whole.nbytes / 10
    assert index.nbytes < whole.nbytes / 10


SCRIPT = """
import sys, time
import datasets
from hnm_datasets import BM25Index, Corpus
from hnm_datasets.indexes.bm25_building import CountedTokens
from hnm_datasets.indexes.shards import rows_of_shard
datasets.disable_progress_bars()
corpus = Corpus(sys.argv[1])
counted = CountedTokens.count
def slowly(self, shard):
    begin, rows = time.monotonic(), rows_of_shard(shard, len(corpus))
    print("counts", rows.start, flush=True)
    time.sleep(float(sys.argv[3]))
    found = counted(self, shard)
    print("counted", rows.start, begin, time.monotonic(), flush=True)
    return found
CountedTokens.count = slowly
print("ready", flush=True)
sys.stdin.readline()
BM25Index(corpus, shard=(int(sys.argv[2]), 6)).prepare()
"""


def builder(corpus, shard, pause, root):
    environment = {**os.environ, "HF_DATASETS_CACHE": str(root)}
    arguments = [sys.executable, "-c", SCRIPT, corpus.fingerprint, str(shard), str(pause)]
    return subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def contents(kind):
    return {
        path.relative_to(cache_root()): path.read_bytes()
        for folder in folders(kind)
        for path in folder.iterdir()
        if path.suffix == ".npy"
    }


def test_two_processes_share_the_counting(fresh, tmp_path_factory, monkeypatch):
    corpus = some_corpus()
    both = [builder(corpus, shard, 0.3, fresh) for shard in (0, 1)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    counted = []
    for process in both:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        counted.append([tuple(map(float, line)) for line in re.findall(r"counted (\S+) (\S+) (\S+)", out)])
    # Each shard once, and nobody waits while there is something to do.
    assert sorted(row for one in counted for row, _, _ in one) == [0, 10, 20, 30, 40, 50]
    at_once = [begin < other_end and other < end for _, begin, end in counted[0] for _, other, other_end in counted[1]]
    assert sum(at_once) >= 3
    shared = {kind: contents(kind) for kind in ("bm25-counts", "bm25-statistics", "bm25")}
    assert len(folders("bm25")) == 2

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("alone"))
    corpus = some_corpus()
    for shard in (0, 1):
        BM25Index(corpus, shard=(shard, 6)).prepare()
    assert {kind: contents(kind) for kind in shared} == shared


def test_a_killed_build_is_taken_up_again(fresh):
    corpus = some_corpus()
    process = builder(corpus, 2, 0.2, fresh)
    process.stdin.write("go\n")
    process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(4)]
    assert (lines[0], lines[1], lines[3]) == ("ready\n", "counts 20\n", "counts 30\n")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # Its own shard was counted; the next one and the index are half made.
    assert len([path for path in folders("bm25-counts") if path.suffix != ".tmp"]) == 1
    assert [path.suffix for path in folders("bm25")] == [".tmp"]
    shards = [BM25Index(corpus, shard=(i, 6)) for i in range(6)]
    queries = ["word1 word2 word7", "word30"]
    merged = merged_hits([shard.search(queries, 20) for shard in shards], 20)
    expected = BM25Index(corpus).search(queries, 20)
    np.testing.assert_array_equal(merged.rows, expected.rows)
    np.testing.assert_array_equal(merged.scores, expected.scores)
    assert not [path for kind in ("bm25", "bm25-counts") for path in folders(kind) if path.suffix == ".tmp"]


# ---- releasing ------------------------------------------------------------------------------------------------------


def resident(path):
    """Return the kilobytes of a file that this process has in memory."""
    blocks = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    return sum(int(re.search(r"^Rss: +(\d+)", block, re.MULTILINE)[1]) for block in blocks if str(path) in block)


def test_release_gives_back_whole_pages_of_a_mapped_array(tmp_path):
    expected = np.arange(1 << 20, dtype=np.int64)
    save_array(tmp_path, "numbers", expected)
    path = tmp_path / "numbers.npy"
    array = open_array(tmp_path, "numbers")
    assert array.sum() == expected.sum()
    assert resident(path) >= 8192
    # Half of it: what lies before stays.
    half = array[1 << 19 :]
    release(half)
    assert 4096 <= resident(path) <= 4096 + 8
    assert half.sum() == expected[1 << 19 :].sum()
    # Less than a page shares it with others.
    before = resident(path)
    release(array[100:200])
    assert resident(path) == before
    # Parts of two pages, and one whole page between them.
    release(array[100 : 100 + 2 * mmap.PAGESIZE // 8])
    assert resident(path) == before - mmap.PAGESIZE // 1024
    release(array)
    assert resident(path) <= 8
    np.testing.assert_array_equal(array, expected)


def test_release_leaves_what_is_not_mapped():
    array = np.arange(100_000)
    release(array)
    release(array[5:])
    release(array[:0])
    np.testing.assert_array_equal(array, np.arange(100_000))


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_closing_a_dense_shard_gives_back_its_vectors_alone(factory, fresh):
    random = np.random.default_rng(0)
    table = random.normal(size=(4000, 64)).astype(np.float32)
    texts = [f"passage {i}" for i in range(len(table))]
    embeddings = corpus_of(texts).embed(lambda texts: table[[int(text.split()[1]) for text in texts]], fingerprint="t")
    path = cache_root() / "embeddings" / embeddings.fingerprint / "vectors.npy"
    shards = [DenseIndex(embeddings, factory, shard=(i, 2)) for i in range(2)]
    hits = [shard.search(table[:300], 50) for shard in shards]
    before = float(embeddings.vectors.sum())
    whole = resident(path)
    assert whole >= 1000
    shards[0].close()
    assert whole / 2 - 8 <= resident(path) <= whole / 2 + 8
    again = shards[0].search(table[:300], 50)
    np.testing.assert_array_equal(again.rows, hits[0].rows)
    np.testing.assert_array_equal(again.scores, hits[0].scores)
    assert float(embeddings.vectors.sum()) == before
