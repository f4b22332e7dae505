"""The list of the cache: all that the library writes is in it, and nothing else."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bm25s
import numpy as np
import pytest
from cache_helpers import DAY, left_by_a_killed_build, make, paths
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from hnm_datasets import (
    BM25Index,
    BM25Negatives,
    Cached,
    Corpus,
    CrossEncoderScores,
    DenseIndex,
    DenseNegatives,
    DropNearDuplicates,
    LateInteractionNegatives,
    RunNegatives,
    ShardedIndex,
    SparseNegatives,
    TokenIndex,
    cached,
    live_negatives,
    load_sample,
    save_mined,
)
from hnm_datasets.cache.listing import size_in_words
from hnm_datasets.indexes import bm25_skipping
from hnm_datasets.piloting.measured import mine_sample
from hnm_datasets.storage.about import KINDS
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.storage.kept_rows import kept_rows
from hnm_datasets.storage.used import mark_used


def letters(texts):
    return np.array([[text.count("a"), text.count("e"), 1] for text in texts], dtype=np.float32)


def token_letters(texts):
    return [letters(text.split()) for text in texts]


def lengths(pairs):
    return [len(passage) for _, passage in pairs]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cache with all that the library keeps."""
    root = tmp_path_factory.mktemp("a cache [of all]")
    with cache_root_at(root), pytest.MonkeyPatch.context() as patch:
        corpus, queries = load_sample("earthquakes")
        mined = queries.map(BM25Negatives(corpus, k=4), batched=True)
        mined.map(DropNearDuplicates(corpus), batched=True)
        sharded = ShardedIndex([BM25Index(corpus, shard=(i, 2)) for i in range(2)])
        queries.map(BM25Negatives(corpus, k=2, index=sharded), batched=True)
        patch.setattr(bm25_skipping, "PASSAGES_PER_HIT", 1)
        BM25Index(corpus).search(["plate"], 1)
        words = Tokenizer(WordLevel({"plate": 0, "[UNK]": 1}, unk_token="[UNK]"))
        words.pre_tokenizer = Whitespace()
        BM25Index(corpus, tokenizer=words)
        retriever = bm25s.BM25()
        texts = corpus.texts(np.arange(len(corpus))).to_pylist()
        retriever.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
        BM25Index.from_bm25s(corpus, retriever)
        faiss = DenseIndex(corpus.embed(letters, fingerprint="letters-1"), "HNSW4")
        dense = DenseNegatives(corpus, letters, fingerprint="letters-1", k=2, index=faiss)
        queries.map(dense, batched=True)
        queries.map(SparseNegatives(corpus, letters, fingerprint="letters-1", k=2), batched=True)
        tokens = TokenIndex(corpus.embed_tokens(token_letters, fingerprint="letters-1"), factory="Flat,RFlat")
        late = LateInteractionNegatives(corpus, token_letters, fingerprint="letters-1", k=2, index=tokens)
        queries.map(late, batched=True)
        mined.map(CrossEncoderScores(corpus, lengths, fingerprint="lengths-1"), batched=True)
        live_negatives(mined, corpus, n=2)
        mine_sample(queries, [BM25Negatives(corpus, k=2)], None)
        run = {queries[0]["query_id"]: {"tsunamis": 1.0}}
        queries.map(RunNegatives(corpus, run, k=1), batched=True)
        kept_rows(Dataset.from_dict({"query": ["what?"]}))
        save_mined(mined, root / "pushes" / "me" / "quakes")
        found = cached()
    return root, found


def test_every_kind_that_the_library_writes_is_listed_with_what_it_is(whole):
    root, found = whole
    assert {folder.kind for folder in found} == set(KINDS)
    # Whatever is a folder of the cache is one of the list.
    assert {path for kind in set(KINDS) - {"pushes"} for path in (root / kind).iterdir() if path.is_dir()} == {
        folder.path for folder in found if folder.kind != "pushes"
    }
    assert [folder.path for folder in found if folder.kind == "pushes"] == [root / "pushes" / "me" / "quakes"]
    for folder in found:
        if folder.kind != "pushes":
            assert {"kind", "what", "made_by", "created", "version"} <= folder.about.keys(), folder.path
        assert folder.nbytes > 0
        assert "unknown" not in folder.what
        assert abs(folder.last_used - datetime.now(UTC)) < timedelta(minutes=10)


def test_words_name_the_corpus_and_the_model(whole):
    _, found = whole
    said = {folder.what for folder in found}
    corpus = "of 9 passages (sample/earthquakes)"
    assert {
        f"corpus {corpus}",
        f"BM25 index {corpus}",
        f"BM25 index (shard 1 of 2) {corpus}",
        f"bounds that speed up a BM25 index {corpus}",
        f"word shingles {corpus}",
        f"passage vectors (dense) {corpus} by letters-1",
        f"passage vectors (sparse) {corpus} by letters-1",
        f"index of dense vectors (HNSW4) {corpus} by letters-1",
        f"index of sparse vectors {corpus} by letters-1",
        "vectors of single texts (queries) by letters-1",
        "teacher scores by lengths-1",
        "folder written for the Hub: me/quakes",
    } <= said
    (index,) = (folder for folder in found if folder.kind == "bm25" and "shard" not in folder.what)
    assert index.about["options"]["k1"] == 1.5
    assert index.about["made_by"] == "BM25Index"
    assert index.about["made_of"] == f"corpora/{index.about['corpus']}"


def test_the_list_prints_and_is_json(whole):
    root, found = whole
    assert isinstance(found, Cached)
    assert f"{found!r}".startswith(f"{len(found)} folders, {size_in_words(found.nbytes)}, in {root}\n")
    assert "| " not in found._repr_html_()
    assert "letters-1" in found._repr_html_()
    plain = json.loads(json.dumps(found.to_dict()))
    assert [one["path"] for one in plain["folders"]] == [str(folder.path) for folder in found]
    assert sum(one["nbytes"] for one in plain["folders"]) == plain["nbytes"] == found.nbytes
    assert found[0].path == next(iter(found)).path


def test_models_are_called_by_their_names(whole):
    root, found = whole
    by_model = cached(name="letters-1", cache_folder=root)
    assert {folder.kind for folder in by_model} == {"embeddings", "dense", "sparse", "tokens", "vectors"}
    model = by_model[0].about["model"]
    assert paths(cached(name=model, cache_folder=root)) == paths(cached(name=model[:8], cache_folder=root))
    assert paths(cached(name=found[3].path.name, cache_folder=root)) == {found[3].path}
    assert paths(cached(name=str(found[3].path.relative_to(root)), cache_folder=root)) == {found[3].path}
    assert len(cached("bm25", name="sample/earthquakes", cache_folder=root)) == 3


# ---- what is not ours ------------------------------------------------------------------------------------------------


def test_folders_of_others_and_links_are_not_listed(tmp_path):
    own = make(tmp_path)
    elsewhere = make(tmp_path / "elsewhere", "bm25", 5)
    for name in ("notes", "0" * 31, "0" * 32 + "x", "0" * 32 + ".copy"):
        (tmp_path / "bm25" / name).mkdir()
    (tmp_path / "parquet" / ("0" * 32)).mkdir(parents=True)
    (tmp_path / "model.finetune").mkdir()
    (tmp_path / "pushes" / "me" / "data").mkdir(parents=True)
    (tmp_path / "bm25" / ("1" * 32)).write_text("a file")
    (tmp_path / "bm25" / ("2" * 32)).symlink_to(elsewhere)
    (tmp_path / "embeddings").symlink_to(elsewhere.parent)
    found = cached(cache_folder=tmp_path)
    assert paths(found) == {own}
    assert set(found.links) == {tmp_path / "bm25" / ("2" * 32), tmp_path / "embeddings"}
    assert repr(found).count("is a link and is not followed") == 2


def test_links_inside_of_a_folder_count_nothing(tmp_path):
    (tmp_path / "large").write_bytes(b"1" * 100_000)
    folder = make(tmp_path / "cache", size=10)
    (folder / "link").symlink_to(tmp_path / "large")
    assert cached(cache_folder=tmp_path / "cache").nbytes < 10_000


def test_a_cache_that_is_not_there_or_empty(tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        found = cached(cache_folder=root)
        assert len(found) == 0
        assert repr(found) == f"Empty cache: {root}"
        assert str(found.delete()) == "0 folders deleted, 0 bytes freed."
        assert cached("bm25", name="any", cache_folder=root).folders == ()
    assert not (tmp_path / "nowhere").exists()


# ---- folders without about.json, damaged ones, unfinished ones -------------------------------------------------------


def test_a_folder_of_an_earlier_version_is_listed_and_used(tmp_path):
    with cache_root_at(tmp_path):
        corpus = Corpus.from_dataset({"id": ["a"], "text": ["plate"]})
        BM25Index(corpus).prepare()
        for folder in cached():
            (folder.path / "about.json").unlink()
            (folder.path / ".used").unlink()
            (folder.path / "stays").touch()
        old_corpus, old_index = cached()
        assert old_corpus.what == "corpus, of an earlier version and unknown origin"
        assert old_index.what == "BM25 index, of an earlier version and unknown origin"
        assert abs(old_index.last_used - datetime.now(UTC)) < timedelta(minutes=10)
        Corpus.from_dataset({"id": ["a"], "text": ["plate"]})
        assert BM25Index(corpus).search(["plate"], 1).rows.tolist() == [[0]]
        assert all((folder.path / "stays").exists() for folder in cached())
        shingles = tmp_path / "shingles" / f"{corpus.fingerprint}-4"
        shingles.mkdir(parents=True)
        (shingles / "manifest.json").write_text("{}")
        assert cached("shingles")[0].what.startswith(f"word shingles of the corpus {corpus.fingerprint[:8]}")


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"what": 3, "created": "soon", "model_name": ["x"]}', '{"created": 3}']
)
def test_an_about_that_somebody_changed_is_no_error(tmp_path, content):
    folder = make(tmp_path)
    (folder / "about.json").write_text(content)
    (found,) = cached(cache_folder=tmp_path)
    assert found.what.startswith("BM25 index")
    assert json.loads(json.dumps(found.to_dict()))


def test_about_is_no_part_of_the_content(tmp_path):
    folder = make(tmp_path)
    written = (folder / "numbers").stat().st_mtime_ns
    (folder / "about.json").write_text("{}")
    assert make(tmp_path) == folder
    assert (folder / "numbers").stat().st_mtime_ns == written


def test_control_characters_of_a_name_are_shown(tmp_path):
    make(tmp_path, model_name="evil\x1b[2J\nmodel")
    assert "\x1b" not in repr(cached(cache_folder=tmp_path))


def test_unfinished_folders_are_a_kind_of_their_own(tmp_path):
    whole, left = make(tmp_path), left_by_a_killed_build(tmp_path)
    emptied = make(tmp_path, "embeddings", 1, passages=9, model_name="m")
    (emptied / "manifest.json").unlink()
    (emptied / "shards").mkdir()
    (emptied / "shards" / "000000.done").touch()
    ray = tmp_path / "model.a1b2c3d4"
    ray.mkdir()
    (ray / "in_use.lock").touch()
    found = cached("unfinished", cache_folder=tmp_path)
    assert paths(found) == {left, emptied, ray}
    said = {folder.path: folder.what for folder in found}
    assert said[left] == "BM25 index; left by a killed run or written by a running one"
    assert said[emptied] == "passage vectors of 9 passages by m; 1 shard finished; repeat the same call to resume"
    assert paths(cached("bm25", cache_folder=tmp_path)) == {whole}
    assert len(cached("embeddings", cache_folder=tmp_path)) == 0


# ---- last use --------------------------------------------------------------------------------------------------------


def test_opening_notes_the_use_at_most_once_an_hour(tmp_path):
    folder = make(tmp_path, age=10)
    assert cached(cache_folder=tmp_path)[0].last_used < datetime.now(UTC) - timedelta(days=9)
    assert len(cached(older_than="9d", cache_folder=tmp_path)) == 1
    assert len(cached(older_than="2w", cache_folder=tmp_path)) == 0
    with cache_root_at(tmp_path):
        make(tmp_path, age=0)
    assert len(cached(older_than="1h", cache_folder=tmp_path)) == 0
    half_an_hour_ago = datetime.now().timestamp() - 1800
    os.utime(folder / ".used", (half_an_hour_ago, half_an_hour_ago))
    mark_used(folder)
    assert (folder / ".used").stat().st_mtime == pytest.approx(half_an_hour_ago)
    long_ago = half_an_hour_ago - DAY
    os.utime(folder / ".used", (long_ago, long_ago))
    mark_used(folder)
    assert (folder / ".used").stat().st_mtime > half_an_hour_ago


@pytest.mark.parametrize("open_it", ["corpus", "embeddings", "scores", "live"])
def test_every_way_of_opening_notes_the_use(whole, tmp_path, open_it):
    root = tmp_path / "copy"
    shutil.copytree(whole[0], root)
    for mark in root.rglob(".used"):
        os.utime(mark, (0, 0))
    kinds = {"corpus": "corpora", "embeddings": "embeddings", "scores": "pair_scores", "live": "live"}
    with cache_root_at(root):
        corpus, queries = load_sample("earthquakes")
        if open_it == "corpus":
            assert len(corpus) == 9
        elif open_it == "embeddings":
            assert len(corpus.embed(letters, fingerprint="letters-1")) == 9
        else:
            mined = queries.map(BM25Negatives(corpus, k=4), batched=True)
            if open_it == "scores":
                CrossEncoderScores(corpus, lengths, fingerprint="lengths-1")(mined[:])
            else:
                live_negatives(mined, corpus, n=2)
        marks = [mark for folder in cached(kinds[open_it]) for mark in folder.path.rglob(".used")]
        assert max(mark.stat().st_mtime for mark in marks) > 1


# ---- options ---------------------------------------------------------------------------------------------------------


def test_wrong_options_are_told_with_what_there_is(tmp_path):
    make(tmp_path, model_name="BAAI/bge-small", corpus_name="BeIR/scifact")
    with pytest.raises(ValueError, match=r"kind must be one of 'corpora', .*'unfinished', got 'bm52'"):
        cached("bm52", cache_folder=tmp_path)
    with pytest.raises(
        ValueError, match=r"is named 'bge'\. Models and corpora there: 'BAAI/bge-small', 'BeIR/scifact'\."
    ):
        cached(name="bge", cache_folder=tmp_path)
    for age in ("30", "30 d", "d", "-1d", "1m", "", "1.5d"):
        with pytest.raises(ValueError, match="hours, days or weeks"):
            cached(older_than=age, cache_folder=tmp_path)
    with pytest.raises(ValueError, match="too long"):
        cached(older_than="99999999w", cache_folder=tmp_path)
    with pytest.raises(TypeError, match="older_than must be a text"):
        cached(older_than=30, cache_folder=tmp_path)
    with pytest.raises(TypeError, match="name must be a text"):
        cached(name=3, cache_folder=tmp_path)


def test_the_cache_is_that_of_the_library():
    assert cached().root == cache_root()
    assert cached(cache_folder="elsewhere").root == Path("elsewhere")


@pytest.mark.parametrize(
    ("nbytes", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (10**15, "1000.0 TB")],
)
def test_sizes(nbytes, words):
    assert size_in_words(nbytes) == words
