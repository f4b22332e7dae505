"""A model is loaded and named once, refused when it was changed, and found again by what is pickled."""

import gc
import multiprocessing
import pickle
import traceback

import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder, SentenceTransformer

from hnm_datasets import (
    BiEncoderScores,
    Corpus,
    CrossEncoderScores,
    DenseNegatives,
    LateInteractionNegatives,
    LateInteractionScores,
    SparseNegatives,
)
from hnm_datasets.models.fingerprint import model_fingerprint
from hnm_datasets.models.handles import LoadedModel, ModelHandle, load_model, token_counts


def function(texts):
    return [[len(text), 1] for text in texts]


@pytest.fixture
def model(make_static_model):
    return make_static_model(8)


@pytest.fixture
def cross_encoder_path(tmp_path, make_cross_encoder):
    return str(make_cross_encoder(tmp_path / "cross"))


class PairHandle(ModelHandle):
    _kind = "CrossEncoder"


# ---- loading ---------------------------------------------------------------------------------------------------------


def test_a_model_is_named_by_its_weights(static_model):
    loaded = load_model(static_model, None)
    assert loaded.model is static_model
    assert loaded.fingerprint == model_fingerprint(static_model)
    assert loaded.source is None
    assert not loaded.is_function


def test_a_path_is_loaded(tmp_path, static_model, cross_encoder_path):
    static_model.save(str(tmp_path / "model"))
    loaded = load_model(str(tmp_path / "model"), None)
    assert isinstance(loaded.model, SentenceTransformer)
    assert loaded.source == str(tmp_path / "model")
    assert loaded.fingerprint == model_fingerprint(static_model)
    pairs = load_model(cross_encoder_path, None, kind="CrossEncoder")
    assert isinstance(pairs.model, CrossEncoder)
    assert pairs.source == cross_encoder_path


def test_a_function_is_named_by_its_name():
    loaded = load_model(function, "letters-1")
    assert loaded.is_function
    assert loaded.model is function
    assert load_model(len, "letters-1").fingerprint == loaded.fingerprint
    assert load_model(function, "letters-2").fingerprint != loaded.fingerprint


def test_what_was_loaded_is_not_loaded_again(static_model):
    loaded = load_model(static_model, None)
    assert load_model(loaded, None) is loaded
    assert load_model(ModelHandle(loaded), None) is loaded
    named = load_model(function, "letters-1")
    assert load_model(named, None) is named
    assert load_model(named, "letters-1") is named
    renamed = load_model(named, "letters-2")
    assert renamed.model is function
    assert renamed.fingerprint == load_model(function, "letters-2").fingerprint != named.fingerprint


@pytest.mark.parametrize("name", [None, "", 5])
def test_a_function_without_a_name_is_refused(name):
    with pytest.raises(ValueError, match=r"A function cannot be fingerprinted from its code.*fingerprint='\.\.\.'"):
        load_model(function, name)


def test_a_model_with_a_name_is_refused(static_model, cross_encoder_path):
    with pytest.raises(ValueError, match="A SentenceTransformer is fingerprinted by its weights"):
        load_model(static_model, "mine")
    with pytest.raises(ValueError, match="A CrossEncoder is fingerprinted by its weights"):
        load_model(cross_encoder_path, "mine", kind="CrossEncoder")


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("SentenceTransformer", "a SentenceTransformer, its path or Hub id, or a function from texts to vectors, got"),
        ("SparseEncoder", "a SparseEncoder, its path or Hub id, or a function from texts to a sparse matrix, got"),
        ("CrossEncoder", r"a CrossEncoder, its path or Hub id, or a function from \(query, passage\) pairs to scores"),
    ],
)
def test_anything_else_is_refused(kind, wanted):
    for value in (5, None, ["path"]):
        with pytest.raises(TypeError, match=wanted):
            load_model(value, None, kind=kind)
        with pytest.raises(TypeError, match=f"got {type(value).__name__}"):
            load_model(value, "name", kind=kind)


def test_the_other_kind_of_model_is_refused_though_it_can_be_called(static_model, cross_encoder_path):
    with pytest.raises(TypeError, match=r"must be a CrossEncoder.* got SentenceTransformer"):
        load_model(static_model, "name", kind="CrossEncoder")
    with pytest.raises(TypeError, match=r"must be a SentenceTransformer.* got CrossEncoder"):
        load_model(CrossEncoder(cross_encoder_path), "name")


# ---- a model that was changed ----------------------------------------------------------------------------------------


def in_place(model):
    with torch.no_grad():
        model[0].embedding.weight[0, 0] += 1


def through_data(model):
    model[0].embedding.weight.data[0, 0] += 1


def one_step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(model.preprocess(["plates move"]))["sentence_embedding"].square().sum().backward()
    optimizer.step()


def replace(model):
    model[0].embedding.weight = torch.nn.Parameter(model[0].embedding.weight * 2)


def truncate(model):
    model.truncate_dim = 4


@pytest.mark.parametrize("change", [in_place, through_data, one_step, replace, truncate])
def test_a_changed_model_is_refused(model, change):
    loaded = load_model(model, None)
    handle = ModelHandle(loaded)
    handle.check_unchanged()
    assert handle.loaded is loaded
    change(model)
    assert not loaded.is_unchanged()
    wanted = "The model has changed since the step was created.*Create the step again"
    for use in (
        handle.check_unchanged,
        lambda: handle.loaded,
        lambda: pickle.dumps(handle),
        lambda: load_model(handle, None),
        lambda: load_model(loaded, None),
        loaded.check_usable,
    ):
        with pytest.raises(RuntimeError, match=wanted):
            use()
    # Named anew it is another model.
    assert load_model(model, None).fingerprint != loaded.fingerprint


def test_a_change_that_is_taken_back_and_use_are_no_change(model):
    loaded = load_model(model, None)
    model.truncate_dim = 4
    assert not loaded.is_unchanged()
    model.truncate_dim = None
    assert loaded.is_unchanged()
    model.encode(["plates move"])
    # Other tensors of the same numbers.
    model[0].embedding.weight = torch.nn.Parameter(model[0].embedding.weight.detach().clone())
    assert loaded.is_unchanged()


# ---- handles ---------------------------------------------------------------------------------------------------------


def test_a_handle_pickles_without_the_model_and_finds_it_again(model):
    handle = ModelHandle(load_model(model, None))
    pickled = pickle.dumps(handle)
    assert len(pickled) < 300
    again = pickle.loads(pickled)
    assert again._loaded is None
    assert again.model_fingerprint == handle.model_fingerprint == model_fingerprint(model)
    again.check_unchanged()
    assert again.loaded.model is model
    assert again.name == handle.name == f"model {handle.model_fingerprint}"


def test_a_handle_keeps_what_its_class_adds(model):
    handle = ModelHandle(load_model(model, None))
    handle.option = 5
    assert pickle.loads(pickle.dumps(handle)).option == 5


def test_a_function_is_found_again_by_its_name():
    handle = ModelHandle(load_model(lambda texts: texts, "echo-1"))
    assert pickle.loads(pickle.dumps(handle)).loaded.model is handle.loaded.model


def test_a_model_that_is_gone_cannot_be_found():
    handle = ModelHandle(load_model(lambda texts: texts, "gone-1"))
    pickled = pickle.dumps(handle)
    del handle
    gc.collect()
    with pytest.raises(
        RuntimeError, match=r"was passed as an object and is not available in this process.*path or Hub id"
    ):
        pickle.loads(pickled).loaded  # noqa: B018


def test_a_model_that_has_changed_is_not_found_for_another(make_static_model):
    model, twin = make_static_model(8), make_static_model(8)
    kept = load_model(model, None), load_model(twin, None)
    pickled = pickle.dumps(ModelHandle(kept[0]))
    in_place(model)
    assert pickle.loads(pickled).loaded is kept[1]
    in_place(twin)
    with pytest.raises(RuntimeError, match="is not available in this process"):
        pickle.loads(pickled).loaded  # noqa: B018


def pickled_handle_of(path):
    handle = ModelHandle(load_model(path, None))
    assert handle.source == path
    assert handle.name == repr(path)
    return pickle.dumps(handle)


def test_a_model_that_came_by_its_path_is_loaded_again(tmp_path, model):
    path = str(tmp_path / "model")
    model.save(path)
    pickled = pickled_handle_of(path)
    gc.collect()
    again = pickle.loads(pickled)
    assert again.loaded.source == path
    assert again.loaded is again.loaded
    assert again.loaded.fingerprint == again.model_fingerprint


def test_another_model_at_the_path_is_refused(tmp_path, model):
    path = str(tmp_path / "model")
    model.save(path)
    pickled = pickled_handle_of(path)
    gc.collect()
    in_place(model)
    model.save(path)
    with pytest.raises(RuntimeError, match=f"The model at '{path}' has changed since the step was created"):
        pickle.loads(pickled).loaded  # noqa: B018


def test_a_handle_of_pairs_loads_a_cross_encoder_again(cross_encoder_path):
    pickled = pickle.dumps(PairHandle(load_model(cross_encoder_path, None, kind="CrossEncoder")))
    gc.collect()
    assert isinstance(pickle.loads(pickled).loaded.model, CrossEncoder)


def test_a_forked_worker_finds_the_model(model):
    loaded = load_model(model, None)
    pickled = pickle.dumps(ModelHandle(loaded))
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def work():
        found = pickle.loads(pickled).loaded
        there.send((found is loaded, torch.get_num_threads()))

    child = context.Process(target=work)
    child.start()
    assert here.poll(60)
    assert here.recv() == (True, 1)
    child.join()


def test_a_forked_worker_cannot_use_a_gpu(model):
    loaded = load_model(model, None)

    class OnGpu:
        device = torch.device("cuda:0")

    elsewhere = LoadedModel(OnGpu(), "0" * 32, is_function=True)
    elsewhere.is_function = False
    elsewhere.is_unchanged = lambda: True
    elsewhere.check_usable()
    elsewhere._process = loaded._process + 1
    with pytest.raises(RuntimeError, match=r"The model is on cuda:0, which a forked worker cannot use.*devices="):
        elsewhere.check_usable()


# ---- lengths ---------------------------------------------------------------------------------------------------------


def test_tokens_are_counted_up_to_the_limit(cross_encoder_path):
    loaded = load_model(cross_encoder_path, None, kind="CrossEncoder")
    texts = ["a b c", "", "a " * 50, "x"]
    assert token_counts(loaded, texts).tolist() == [3, 0, 32, 1]
    # More than are tokenized at a time.
    assert token_counts(loaded, texts * 300).tolist() == [3, 0, 32, 1] * 300
    assert token_counts(loaded, []).tolist() == []


def test_characters_are_counted_where_there_are_no_tokens(static_model):
    for model, name in ((function, "letters-1"), (static_model, None)):
        assert token_counts(load_model(model, name), ["ab c", "", "ä"]).tolist() == [4, 0, 1]


# ---- errors of loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SentenceTransformer", "SparseEncoder", "MultiVectorEncoder", "CrossEncoder"])
@pytest.mark.parametrize("cause", [OSError, FileNotFoundError, ValueError, RuntimeError])
def test_a_failed_load_names_the_model_and_the_step(kind, cause, monkeypatch):
    def fail(source):
        raise cause("Nobody answers.\nCheck your internet connection.")

    monkeypatch.setattr(f"sentence_transformers.{kind}", fail)
    monkeypatch.setattr("hnm_datasets.models.handles.saved_kind", lambda source: None)
    with pytest.raises(cause) as failed:
        load_model("lab/no-model", None, kind=kind, owner="Step")
    last = "".join(traceback.format_exception_only(failed.value)).splitlines()[-1]
    assert last.endswith(
        "Step: cannot load the model 'lab/no-model': Nobody answers. Check the name, or pass a local folder or a "
        "loaded model."
    )


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (DenseNegatives, "DenseNegatives"),
        (SparseNegatives, "SparseNegatives"),
        (LateInteractionNegatives, "LateInteractionNegatives"),
        (BiEncoderScores, "BiEncoderScores"),
        (LateInteractionScores, "LateInteractionScores"),
        (CrossEncoderScores, "CrossEncoderScores"),
    ],
)
def test_a_step_names_itself_and_a_missing_folder_at_once(step, name):
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": ["a"], "text": ["plates move"]}))
    with pytest.raises(FileNotFoundError, match=f"^{name}: there is no folder './no-model'"):
        step(corpus, "./no-model")
