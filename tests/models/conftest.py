import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

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


@pytest.fixture(scope="session")
def save_bert():
    """Write a tiny BERT of random weights, whose vocabulary is the letters, to a folder."""

    def save(folder, kind=BertModel, **config):
        folder.mkdir(exist_ok=True)
        (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
        torch.manual_seed(0)
        kind(BertConfig(**SIZES | config)).save_pretrained(folder)
        BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        return str(folder)

    return save
