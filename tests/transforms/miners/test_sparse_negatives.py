"""Sparse negatives: those of a slow, dense search by the model's own code, and none that is known to be relevant."""

import logging
import multiprocessing
import pickle

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    DenseIndex,
    FuseNegatives,
    RelativeMargin,
    ShardedIndex,
    SparseIndex,
    SparseNegatives,
    load_sample,
)

WORDS = [f"w{number}" for number in range(30)]


def corpus_of(texts, groups=None):
    columns = {"id": [f"p{row}" for row in range(len(texts))], "text": texts}
    return Corpus.from_dataset(Dataset.from_dict(columns | ({"group": groups} if groups else {})))


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 7))) for _ in range(120)]
    texts[70:75] = [text.upper() for text in texts[:5]]
    return corpus_of(texts, groups=[f"d{row // 4}" for row in range(120)])


@pytest.fixture(scope="module")
def rows(corpus):
    rng = np.random.default_rng(1)
    positives = [rng.permutation(120)[: 1 + query % 3].tolist() for query in range(40)]
    queries = [" ".join(rng.choice(WORDS, size=4)) for _ in positives]
    queries[3], queries[4] = "none of these words", corpus.texts(np.array([9]))[0].as_py()
    columns = {"query": queries, "positive_ids": [[f"p{row}" for row in own] for own in positives]}
    return Dataset.from_dict({"query_id": [f"q{query}" for query in range(40)]} | columns)


@pytest.fixture(scope="module")
def model(make_sparse_model):
    return make_sparse_model(WORDS)


def scores_of(model, queries, texts, query=None, document=None, **options):
    """Return the scores that sentence-transformers' vectors give. Shape (B, N)."""
    asked = model.encode_query(list(queries), prompt=query, **options).to_dense().numpy()
    found = model.encode_document(list(texts), prompt=document, **options).to_dense().numpy()
    if model.similarity_fn_name == "cosine":
        asked, found = (one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-9) for one in (asked, found))
    return asked @ found.T


def check_mined(mined, corpus, scores, k, exclude_group=False, atol=1e-5):
    texts = [text.lower() for text in corpus.texts(np.arange(len(corpus))).to_pylist()]
    groups = corpus.group_codes if exclude_group else None
    for row, own in zip(mined, scores, strict=True):
        positives = corpus.rows(row["positive_ids"])
        known = {texts[one] for one in positives} | {row["query"].lower()}
        barred = {int(groups[one]) for one in positives} if exclude_group else set()
        order, wanted, seen = np.argsort(-own, kind="stable"), [], set()
        for rank, one in enumerate(order, 1):
            if own[one] <= 0 or len(wanted) == k:
                break
            if texts[one] not in known | seen and not (exclude_group and int(groups[one]) in barred):
                wanted.append((rank, own[one]))
                seen.add(texts[one])
        assert len(row["negative_ids"]) == len(wanted)
        negatives = corpus.rows(row["negative_ids"]) if wanted else np.empty(0, int)
        np.testing.assert_allclose(row["negative_scores"], [score for _, score in wanted], atol=atol)
        np.testing.assert_allclose(row["negative_scores"], own[negatives], atol=atol)
        np.testing.assert_allclose(row["positive_scores"], own[positives], atol=atol)
        assert not {texts[one] for one in negatives} & known
        assert set(row["negative_source"]) <= {"sparse"}


@pytest.mark.parametrize(
    "options", [{"k": 7}, {"k": 300}, {"k": 7, "exclude_group": True}, {"k": 7, "max_active_dims": 2}]
)
def test_negatives_are_those_of_a_dense_search(corpus, rows, model, options):
    mined = rows.map(SparseNegatives(corpus, model, **options), batched=True)
    kept = {"max_active_dims": options["max_active_dims"]} if "max_active_dims" in options else {}
    scores = scores_of(model, rows["query"], corpus.texts(np.arange(120)).to_pylist(), **kept)
    check_mined(mined, corpus, scores, options["k"], options.get("exclude_group", False))
    assert mined[3]["negative_ids"] == []
    assert mined[4]["negative_ids"][:1] != ["p9"]


def test_the_cosine(corpus, rows, make_sparse_model):
    model = make_sparse_model(WORDS, similarity_fn_name="cosine")
    mined = rows.map(SparseNegatives(corpus, model, k=9), batched=True)
    check_mined(mined, corpus, scores_of(model, rows["query"], corpus.texts(np.arange(120)).to_pylist()), 9)
    assert max(max(row, default=0) for row in mined["negative_scores"]) <= 1 + 1e-6


def test_queries_and_passages_by_other_routes_and_prompts(corpus, rows, make_sparse_model, tmp_path):
    one, other = make_sparse_model(WORDS), make_sparse_model(WORDS, np.linspace(-0.5, 3, len(WORDS)))
    router = Router.for_query_document(list(one), list(other))
    model = SparseEncoder(modules=[router], device="cpu", prompts={"query": "w0 ", "document": "w1 "})
    texts = corpus.texts(np.arange(120)).to_pylist()
    scores = scores_of(model, rows["query"], texts)
    assert (scores < 0).any()
    mined = rows.map(SparseNegatives(corpus, model, k=9), batched=True)
    check_mined(mined, corpus, scores, 9)
    model.save(str(tmp_path / "model"))
    by_path = rows.map(SparseNegatives(corpus, str(tmp_path / "model"), k=9), batched=True)
    assert by_path.to_dict() == mined.to_dict()
    step = SparseNegatives(corpus, model, k=9, query_prompt="", prompt="w2 ")
    own = scores_of(model, rows["query"], texts, query="", document="w2 ")
    check_mined(rows.map(step, batched=True), corpus, own, 9)


@settings(max_examples=15)
@given(st.data())
def test_any_corpus(make_sparse_model, data):
    words = st.sampled_from(["w0", "w1", "w2", "W3", "other"])
    texts = data.draw(st.lists(st.lists(words, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=20))
    queries = data.draw(st.lists(st.lists(words, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=4))
    ids = st.lists(st.integers(0, len(texts) - 1).map("p{}".format), max_size=3, unique=True)
    positives = data.draw(st.lists(ids, min_size=len(queries), max_size=len(queries)))
    weights = data.draw(st.lists(st.sampled_from([1, 2, 0.5, -1, 0]), min_size=4, max_size=4))
    k, corpus, model = (
        data.draw(st.integers(1, 8)),
        corpus_of(texts),
        make_sparse_model(["w0", "w1", "w2", "w3"], weights),
    )
    rows = {"query": queries, "positive_ids": positives}
    found = SparseNegatives(corpus, model, k=k)(rows) | rows
    mined = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    check_mined(mined, corpus, scores_of(model, queries, texts), k)


# ---- in other settings -----------------------------------------------------------------------------------------------


def test_shards_and_processes_mine_the_same(corpus, rows, model):
    expected = rows.map(SparseNegatives(corpus, model, k=9), batched=True).to_dict()
    embeddings = corpus.embed_sparse(model)
    sharded = ShardedIndex([SparseIndex(embeddings, shard=(i, 3)) for i in range(3)])
    for index in (sharded, SparseIndex(embeddings)):
        step = SparseNegatives(corpus, model, k=9, index=index)
        assert rows.map(step, batched=True, batch_size=7).to_dict() == expected
        assert rows.map(step, batched=True, num_proc=2).to_dict() == expected


def test_in_a_fusion_with_margins(corpus, rows, model):
    fuse = FuseNegatives({"bm25": BM25Negatives(corpus, k=5), "sparse": SparseNegatives(corpus, model, k=5)})
    mined = rows.map(fuse, batched=True)
    assert {"sparse", "bm25+sparse"} <= {source for row in mined["negative_source"] for source in row}
    for row in mined.map(RelativeMargin(0.05, by="sparse"), batched=True):
        limit = 0.95 * max(row["positive_sparse_scores"])
        assert all(score <= limit + 1e-6 for score in row["negative_sparse_scores"])


def test_splade_and_inference_free_models_by_their_paths(rows, corpus, tmp_path):
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(tmp_path / "bert")
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=32)
    tokenizer.save_pretrained(tmp_path / "bert")
    path = str(tmp_path / "bert")
    document = [Transformer(path, transformer_task="fill-mask"), SpladePooling()]
    router = Router.for_query_document([SparseStaticEmbedding(tokenizer, frozen=True)], document)
    for name, model in (
        ("splade", SparseEncoder(path, device="cpu")),
        ("free", SparseEncoder(modules=[router], device="cpu")),
    ):
        model.save(str(tmp_path / name))
        step = SparseNegatives(corpus, str(tmp_path / name), k=6, max_active_dims=12)
        mined = rows.map(step, batched=True)
        texts = corpus.texts(np.arange(120)).to_pylist()
        check_mined(mined, corpus, scores_of(model, rows["query"], texts, max_active_dims=12), 6, atol=1e-4)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def work():
        there.send(pickle.loads(pickle.dumps(step))(rows[:4])["negative_ids"])

    child = context.Process(target=work)
    child.start()
    assert here.poll(60)
    assert here.recv() == mined[:4]["negative_ids"]
    child.join()


# ---- what is refused, and what is told -------------------------------------------------------------------------------


def test_bad_input_is_named(corpus, rows, model, make_sparse_model, static_model):
    embeddings = corpus.embed_sparse(model)
    with pytest.raises(TypeError, match=r"SparseNegatives: index must be a SparseIndex.*corpus\.embed_sparse"):
        SparseNegatives(corpus, model, index=DenseIndex(corpus.embed(static_model)))
    with pytest.raises(ValueError, match="SparseNegatives: the index belongs to another corpus"):
        SparseNegatives(load_sample("earthquakes")[0], model, index=SparseIndex(embeddings))
    with pytest.raises(
        ValueError, match=r"embeddings were computed with another model.*embed_sparse.*SparseEncoder with a"
    ):
        SparseNegatives(corpus, make_sparse_model(WORDS, np.ones(30)), index=SparseIndex(embeddings))
    with pytest.raises(ValueError, match=r"max_active_dims=None, not 3.*Omit max_active_dims="):
        SparseNegatives(corpus, model, index=SparseIndex(embeddings), max_active_dims=3)
    with pytest.raises(ValueError, match=r"encoded with the prompt '', not 'w3 '"):
        SparseNegatives(corpus, model, index=SparseIndex(embeddings), prompt="w3 ")
    with pytest.raises(TypeError, match="must be a SparseEncoder"):
        SparseNegatives(corpus, static_model)
    gone = corpus.embed_sparse(model, prompt="gone ")
    index = SparseIndex(gone)
    gone.discard()
    with pytest.raises(ValueError, match=r"not in the cache directory.*corpus\.embed_sparse\(model\)"):
        SparseNegatives(corpus, model, index=index)


def test_the_index_says_what_the_passages_are(corpus, rows, model):
    index = SparseIndex(corpus.embed_sparse(model, max_active_dims=2, prompt="w5 "))
    step = SparseNegatives(corpus, model, k=7, index=index)
    assert (step.max_active_dims, step.prompt) == (2, "w5 ")
    texts = corpus.texts(np.arange(120)).to_pylist()
    scores = scores_of(model, rows["query"], texts, document="w5 ", max_active_dims=2)
    check_mined(rows.map(step, batched=True), corpus, scores, 7)


def test_a_model_that_was_trained_since_is_refused(corpus, rows, make_sparse_model):
    import torch

    model = make_sparse_model(WORDS)
    step = SparseNegatives(corpus, model, k=3)
    with torch.no_grad():
        model[0].weight[2] += 1
    with pytest.raises(RuntimeError, match="The model has changed since the step was created"):
        step(rows[:2])


def test_queries_without_a_term_are_told(corpus, model, caplog):
    rows = {"query": ["nothing here", "nor here"], "positive_ids": [["p1"], ["p2"]]}
    with caplog.at_level(logging.WARNING):
        found = SparseNegatives(corpus, model, k=3)(rows)
    assert [len(ids) for ids in found["negative_ids"]] == [0, 0]
    assert "none of the 2 queries in this batch got negatives (the first is 'nothing here')" in caplog.text
    assert found["positive_scores"] == [[0.0], [0.0]]
