"""Batches of tokens: the vectors are those of `encode`, whatever the model, and nothing is padded in vain."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import older_versions
import pytest
import torch
from exhaustive import usually
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from hnm_datasets.models import encoders, passes
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.models.passes import batch_ends
from hnm_datasets.models.token_batches import reads_tokens

POOLINGS = ["mean", "cls", "lasttoken", "max", "weightedmean"]
SIDES = ["right", "left"]


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def cores():
    """Set the number of torch's threads, and set it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def bert(tmp_path, save_bert):
    return Transformer(save_bert(tmp_path / "bert"), max_seq_length=24)


def texts_of_mixed_lengths(count=60, longest=40):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(list("abcdefgh"), rng.integers(1, longest))) for _ in range(count)]


def watch(model, monkeypatch):
    """Note the shape of all batches that a model is given."""
    shapes, forward = [], type(model[0]).forward

    def noted(self, features, **options):
        shapes.append(tuple(features["input_ids"].shape))
        return forward(self, features, **options)

    monkeypatch.setattr(type(model[0]), "forward", noted)
    return shapes


# ---- batches ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 9), st.integers(0, 400))
def test_batches_share_the_tokens_and_are_hardly_padded(lengths, count, padding):
    lengths = -np.sort(-np.array(lengths, dtype=np.int64))
    ends = batch_ends(lengths, count, padding)
    starts = [0, *ends][:-1]
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert [*starts, len(lengths)] == [0, *ends][: len(starts)] + [len(lengths)]
    assert ends[-1:] == [len(lengths)] or not len(lengths)
    for start, end in zip(starts, ends, strict=True):
        batch = lengths[start:end]
        assert batch[0] * len(batch) - batch.sum() <= padding
        # One text more would be more than a share.
        assert batch[:-1].sum() * count < lengths.sum()
    if not padding and len(lengths):
        assert all(len(set(lengths[start:end].tolist())) == 1 for start, end in zip(starts, ends, strict=True))


@pytest.mark.parametrize(("threads", "together"), [(1, 1), (2, 2), (7, 7), (8, 4), (64, 4)])
def test_passes_share_the_cores(bert, cores, threads, together):
    model = SentenceTransformer(modules=[bert, Pooling(32)], device="cpu")
    cores(threads)
    with passes.ForwardPasses(model, "query", 32) as found:
        assert found.cores // found._share == together
        assert (found._threads is None) == (threads == 1)


# ---- the vectors are those of encode ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pooling", "side", "threads"),
    usually(
        [(pooling, side, 1 + (pooling in POOLINGS[::2])) for pooling in POOLINGS for side in SIDES],
        every=list(itertools.product(POOLINGS, SIDES, [1, 2])),
    ),
)
def test_vectors_are_those_of_encode(bert, cores, monkeypatch, threads, pooling, side):
    cores(threads)
    monkeypatch.setattr(passes, "_ON_CPU", 48)
    monkeypatch.setattr(encoders, "GROUP", 25)
    model = SentenceTransformer(modules=[bert, Pooling(32, pooling), Normalize()], device="cpu", truncate_dim=20)
    model.tokenizer.padding_side = side
    model.prompts = {"query": "a b: ", "document": "c "}
    assert reads_tokens(model)
    texts = [*texts_of_mixed_lengths(), "a"]
    if side == "left":  # BERT counts the positions of padding
        monkeypatch.setattr(passes, "_PADDING", 1000)
        texts = texts[::4]
    size = 1 if side == "left" else 7
    expected = {
        "query": model.encode_query(texts, batch_size=size, normalize_embeddings=True),
        "document": model.encode_document(texts, batch_size=size, normalize_embeddings=True),
    }
    shapes = watch(model, monkeypatch)
    for task, vectors in expected.items():
        found = Encoder(model, task, batch_size=2).encode(texts)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, vectors, atol=2e-6)
    assert len(shapes) > 10
    # The padding of encode's batches would be a fourth.
    tokens = sum(model.preprocess([prompt + text])["input_ids"].numel() for prompt in ("a b: ", "c ") for text in texts)
    assert tokens <= sum(rows * length for rows, length in shapes) <= 1.1 * tokens


def test_a_prompt_is_left_out_of_the_pooling(bert):
    model = SentenceTransformer(modules=[bert, Pooling(32, "mean", include_prompt=False)], device="cpu")
    texts = texts_of_mixed_lengths(9)
    found = Encoder(model, "query", prompt="a b c: ").encode(texts)
    np.testing.assert_allclose(found, model.encode_query(texts, prompt="a b c: ", normalize_embeddings=True), atol=2e-6)
    assert np.abs(found - Encoder(model, "query", prompt="").encode(["a b c: " + text for text in texts])).max() > 0.01


@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_without_tokens_are_encoded_as_encode_does(bert, monkeypatch, side):
    kind = type(bert.tokenizer)
    plain = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda *own, **named: plain(*own, **named | {"add_special_tokens": False}))
    model = SentenceTransformer(modules=[bert, Pooling(32, "mean")], device="cpu")
    model.tokenizer.padding_side = side
    texts = ["a b", "", "c d", ""]
    np.testing.assert_allclose(
        Encoder(model, "query", similarity="dot").encode(texts), model.encode_query(texts), atol=2e-6
    )


def test_half_precision_and_training_mode(bert):
    model = SentenceTransformer(modules=[bert, torch.nn.Sequential(), Pooling(32, "mean")], device="cpu").bfloat16()
    model.train()
    texts = texts_of_mixed_lengths(9)
    found = Encoder(model, "query").encode(texts)
    raw = model.encode_query(texts, convert_to_tensor=True).float().numpy()
    np.testing.assert_allclose(found, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=3e-7)


def test_autocast_holds_for_all_passes(bert, cores, monkeypatch):
    cores(2)
    monkeypatch.setattr(passes, "_ON_CPU", 16)
    model = SentenceTransformer(modules=[bert, Pooling(32, "mean")], device="cpu")
    seen, forward = [], Pooling.forward

    def noted(self, features, **options):
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(self, features, **options)

    monkeypatch.setattr(Pooling, "forward", noted)
    for wanted in (True, False):
        seen.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=wanted):
            Encoder(model, "query").encode(texts_of_mixed_lengths(20))
        assert seen == [wanted] * len(seen)
        assert len(seen) > 4


# ---- threads ---------------------------------------------------------------------------------------------------------


class Remembers(torch.nn.Module):
    """A module that keeps what it was last given, and returns it: a race would give another text's vector."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", None)
        self.threads = set()

    def forward(self, features):
        self.last = features["sentence_embedding"]
        self.threads.add(threading.get_ident())
        features["sentence_embedding"] = torch.nn.functional.gelu(torch.ones(300, 300) @ torch.ones(300, 300))
        features["sentence_embedding"] = self.last
        return features


def test_passes_at_once_do_not_share_what_a_module_keeps(bert, cores, monkeypatch):
    cores(2)
    monkeypatch.setattr(passes, "_ON_CPU", 16)
    remembers = Remembers()
    model = SentenceTransformer(modules=[bert, Pooling(32, "mean"), remembers], device="cpu")
    texts = texts_of_mixed_lengths(200, 10)
    expected = model.encode_query(texts, normalize_embeddings=True)
    remembers.threads.clear()
    for _ in range(3):
        np.testing.assert_allclose(Encoder(model, "query").encode(texts), expected, atol=2e-6)
    assert threading.get_ident() not in remembers.threads
    assert len(remembers.threads) > 1
    with ThreadPoolExecutor() as later:
        assert [torch.get_num_threads(), later.submit(torch.get_num_threads).result()] == [2, 2]
    assert torch.is_inference_mode_enabled() is False


def test_an_error_in_a_pass_ends_all_threads(bert, cores, monkeypatch):
    cores(2)
    monkeypatch.setattr(passes, "_ON_CPU", 16)

    class Fails(torch.nn.Module):
        def forward(self, features):
            raise ValueError("no more")

    model = SentenceTransformer(modules=[bert, Pooling(32, "mean"), Fails()], device="cpu")
    before = threading.active_count()
    with pytest.raises(ValueError, match="no more"):
        Encoder(model, "query").encode(texts_of_mixed_lengths(100))
    assert threading.active_count() == before
    assert torch.get_num_threads() == 2


# ---- models that encode otherwise ------------------------------------------------------------------------------------


def other_class(model):
    class Other(SentenceTransformer):
        def encode(self, inputs, **options):
            return -super().encode(inputs, **options)

    model.__class__ = Other


def other_method(model):
    encode = model.encode
    model.encode = lambda inputs, **options: -encode(inputs, **options)


def other_preprocessing(model):
    preprocess = model[0].preprocess
    model[0].preprocess = lambda inputs, **options: preprocess([text[::-1] for text in inputs], **options)


def routed(model):
    model[0] = Router({"query": [model[0]], "document": [model[0]]}, default_route="document")


@pytest.mark.parametrize(
    "change",
    [
        other_class,
        other_method,
        other_preprocessing,
        routed,
        lambda model: model[0].processing_kwargs.update(text={"padding": "max_length", "max_length": 30}),
        lambda model: setattr(model[0], "query_expansion", {"strategy": "fixed", "length": 20}),
        pytest.param(
            lambda model: setattr(model, "_distributed_inference", model._inference),
            marks=older_versions.needs("sentence-transformers", "6.2", "it has no such attribute"),
        ),
    ],
    ids=["class", "method", "preprocessing", "router", "padding", "expansion", "distributed"],
)
def test_other_models_keep_their_own_encode(bert, change):
    model = SentenceTransformer(modules=[bert, Pooling(32, "mean")], device="cpu")
    assert reads_tokens(model)
    change(model)
    assert not reads_tokens(model)
    texts = texts_of_mixed_lengths(20)
    expected = model.encode_query(texts, normalize_embeddings=True)
    np.testing.assert_allclose(Encoder(model, "query").encode(texts), expected, atol=2e-6)


def test_features_of_another_shape_are_left_to_encode(bert, monkeypatch):
    monkeypatch.setattr(encoders, "GROUP", 8)
    model = SentenceTransformer(modules=[bert, Pooling(32, "mean")], device="cpu")
    model.tokenizer.model_input_names = ["input_ids"]
    texts = ["a b c"] * 20 + ["d e"] * 20
    assert reads_tokens(model)
    expected = model.encode_query(texts, batch_size=20, normalize_embeddings=True)
    shapes = watch(model, monkeypatch)
    np.testing.assert_allclose(Encoder(model, "query", batch_size=4).encode(texts), expected, atol=2e-6)
    assert [rows for rows, _ in shapes] == [4] * 10


def test_a_batch_size_of_one_is_one_text(bert, monkeypatch):
    model = SentenceTransformer(modules=[bert, Pooling(32, "mean")], device="cpu")
    texts = texts_of_mixed_lengths(9)
    expected = model.encode_query(texts, batch_size=1, normalize_embeddings=True)
    shapes = watch(model, monkeypatch)
    np.testing.assert_array_equal(Encoder(model, "query", batch_size=1).encode(texts), expected)
    assert [rows for rows, _ in shapes] == [1] * 9
