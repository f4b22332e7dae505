"""Refreshes that encode the queries alone, and search the vectors of an earlier model."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from refresh_helpers import At, K, chain, generations, lists_of, make_model, train
from sentence_transformers import SentenceTransformer

from hnm_datasets import (
    BM25Negatives,
    DenseIndex,
    DenseNegatives,
    FuseNegatives,
    RefreshNegatives,
    ShardedIndex,
    live_negatives,
)
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.training.refresh_vectors import forget_vectors, left_vectors

pytestmark = [
    pytest.mark.usefixtures("fast_trainers"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


def kept():
    kinds = ("embeddings", "vectors", "dense")
    return {path for kind in kinds for path in (cache_root() / kind).glob("*") if path.is_dir()}


@pytest.fixture
def encoded(monkeypatch):
    """All texts that are encoded, one list for each call."""
    calls, parts = [], Encoder._parts

    def counted(self, loaded, texts, *arguments, **options):
        calls.append(list(texts))
        return parts(self, loaded, texts, *arguments, **options)

    monkeypatch.setattr(Encoder, "_parts", counted)
    return calls


MINERS = {
    "exact": lambda corpus: [partial(DenseNegatives, corpus, k=K)],
    "fused": lambda corpus: [
        lambda model: FuseNegatives(
            {"bm25": BM25Negatives(corpus, k=4), "dense": DenseNegatives(corpus, model, k=K)}, "union"
        )
    ],
}


@pytest.mark.parametrize("case", MINERS)
def test_the_vectors_of_the_last_full_refresh_are_searched_with_new_queries(corpus, mined, tmp_path, case, encoded):
    live, steps = live_negatives(mined, corpus, n=3), MINERS[case](corpus)
    # Another model for each case, whose vectors no other test has left.
    rate, saved = {"exact": 0.041, "fused": 0.042}[case], (5, 10, 15, 20)
    train(
        live, tmp_path, steps, 5, save=saved, options={"corpus_every": 2, "keep": 9}, learning_rate=rate, max_steps=21
    )
    # The corpus at steps 5 and 15, the queries at all four.
    assert sum(len(call) for call in encoded) == 2 * len(corpus) + 4 * len(set(mined["query"]))
    models = {step: SentenceTransformer(str(tmp_path / f"checkpoint-{step}"), device="cpu") for step in saved}
    texts = corpus.texts(np.arange(len(corpus))).to_pylist()
    for number, (now, full) in enumerate([(5, 5), (10, 5), (15, 15), (20, 15)], start=1):
        passages = models[full].encode(texts, normalize_embeddings=True)
        scores = models[now].encode(mined["query"][:], normalize_embeddings=True) @ passages.T
        positives, negatives = lists_of(generations(tmp_path)[number])
        for row, (own, others) in enumerate(zip(positives, negatives, strict=True)):
            left = [place for place in np.argsort(-scores[row], kind="stable") if place not in own]
            # Copies of passages, and scores that differ in their last digits alone, may be in another order.
            limit = scores[row][left[K - 1]]
            dense = others[-K:] if case == "exact" else others
            assert sum(scores[row][place] >= limit - 1e-5 for place in dense) >= min(K, len(others)) - 1


INDEXES = {
    "exact": lambda corpus: [partial(DenseNegatives, corpus, k=K)],
    "graph": lambda corpus: [
        lambda model: DenseNegatives(corpus, model, k=K, index=DenseIndex(corpus.embed(model), "HNSW8"))
    ],
    "shards": lambda corpus: [
        lambda model: DenseNegatives(
            corpus, model, k=K,
            index=ShardedIndex([DenseIndex(corpus.embed(model), "HNSW8", shard=(part, 2)) for part in range(2)]),
        )
    ],
}  # fmt: skip


@pytest.mark.parametrize("case", INDEXES)
def test_vectors_stay_as_long_as_a_checkpoint_needs_them(corpus, mined, tmp_path, case):
    before = kept()
    live = live_negatives(mined, corpus, n=3)
    folder = tmp_path / "training"
    seen = []
    look = At(**{f"step_{step}": lambda: seen.append(len(kept() - before)) for step in (4, 7, 10, 13)})
    rate = {"exact": 0.043, "graph": 0.044, "shards": 0.045}[case]
    train(
        live, folder, INDEXES[case](corpus), 3, save=(5,), callbacks=[look], options={"corpus_every": 3}, max_steps=15,
        learning_rate=rate,
    )  # fmt: skip
    # Vectors, and an index of each part.
    one = {"exact": 1, "graph": 2, "shards": 3}[case]
    assert seen == [one, one, one, 2 * one]
    assert len(kept() - before) == one
    shutil.rmtree(folder / "checkpoint-5")
    train(live_negatives(mined, corpus, n=3), folder, INDEXES[case](corpus), 3, max_steps=2)
    assert kept() == before


def test_vectors_that_were_there_stay(corpus, queries, tmp_path):
    embeddings = corpus.embed(make_model())
    live = live_negatives(queries, corpus, n=3)
    done = train(live, tmp_path, chain(corpus), 4, options={"corpus_every": 9}, max_steps=9)
    assert [one["step"] for one in done.refresh.history] == [0, 4, 8]
    assert embeddings.are_made
    embeddings.discard()


def test_where_vectors_are_gone_the_corpus_is_encoded_again(corpus, mined, tmp_path, encoded, caplog):
    options = {"options": {"corpus_every": 9}, "max_steps": 10}
    train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4, save=[5], **options)
    for path in (cache_root() / "embeddings").glob("*"):
        shutil.rmtree(path)
    encoded.clear()
    live = live_negatives(mined, corpus, n=3)
    with caplog.at_level("INFO", "hnm_datasets"):
        train(live, tmp_path, chain(corpus), 4, resume=tmp_path / "checkpoint-5", **options)
    assert sum(len(call) == len(corpus) for call in encoded) == 1
    assert "encoding the corpus again" in caplog.text


@pytest.mark.parametrize("absolute", [False, True])
def test_a_note_from_elsewhere_deletes_no_folder_of_another_kind(tmp_path, absolute):
    """Checkpoints are downloaded, and what is in them names folders."""
    kept = cache_root() / "precious" / ("0" * 32)
    kept.mkdir(parents=True, exist_ok=True)
    other = tmp_path / "embeddings" / ("0" * 32)
    other.mkdir(parents=True)
    names = [str(other), str(kept)] if absolute else ["precious/" + "0" * 32, "embeddings/../precious", "..", ""]
    note = tmp_path / "000001.vectors"
    note.write_text(json.dumps({"names": ["../../elsewhere"], "folders": names}))
    assert left_vectors(note) == []
    forget_vectors(note, ())
    assert kept.exists()
    assert other.exists()
    assert not note.exists()
    kept.rmdir()


def test_resuming_with_other_steps_is_refused(corpus, mined, tmp_path):
    options = {"options": {"corpus_every": 9}, "max_steps": 10}
    train(live_negatives(mined, corpus, n=3), tmp_path, chain(corpus), 4, save=[5], **options)
    two = {f"dense{number}": partial(DenseNegatives, corpus, k=K) for number in range(2)}
    steps = [lambda model: FuseNegatives({name: make(model) for name, make in two.items()})]
    with pytest.raises(ValueError, match="Resume with the original steps"):
        train(live_negatives(mined, corpus, n=3), tmp_path, steps, 4, resume=tmp_path / "checkpoint-5", **options)


def test_bad_options(corpus, mined):
    for value in (0, -1, 1.5, "2"):
        with pytest.raises((TypeError, ValueError), match="corpus_every"):
            RefreshNegatives(live_negatives(mined, corpus), chain(corpus), 5, corpus_every=value)
