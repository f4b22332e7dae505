import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from hnm_datasets import BM25Negatives, load_sample
from hnm_datasets.training.live import live_negatives


@pytest.fixture(scope="module")
def make_tiny(tmp_path_factory):
    """Make a transformer of random weights, always the same, in doubles."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folders = {}

    def make(dropout=0.0):
        if dropout not in folders:
            folder = folders[dropout] = tmp_path_factory.mktemp("tiny")
            letters = "abcdefghij"
            words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
            (folder / "vocab.txt").write_text("\n".join(words))
            BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
            sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
            rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
            torch.manual_seed(0)
            config = BertConfig(
                vocab_size=len(words), max_position_embeddings=32, initializer_range=0.5, **sizes, **rates
            )
            BertModel(config).save_pretrained(folder)
        transformer = Transformer(str(folders[dropout]))
        return SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").double().train()

    return make


@pytest.fixture(scope="module")
def live():
    corpus, queries = load_sample()
    mined = queries.select(range(120)).map(BM25Negatives(corpus, k=20), batched=True)
    return live_negatives(mined, corpus, n=2, positives="each")
