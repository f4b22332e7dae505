from collections import Counter

import pytest
from datasets import Dataset
from drop_in_helpers import key_of

from hnm_datasets import load_sample


@pytest.fixture(scope="module")
def sample_texts():
    """The sample's texts, each once but for case and white space: there the two functions differ, see below."""
    corpus, _ = load_sample()
    texts = [text for chunk in corpus.iter_texts() for text in chunk.to_pylist()]
    return list({key_of(text): text for text in reversed(texts)}.values())[::-1]


@pytest.fixture(scope="module")
def pairs(sample_texts):
    """A pair per query and positive of 100 queries: mostly several positives."""
    corpus, queries = load_sample()
    known = set(sample_texts)
    rows = [
        {"question": row["query"], "answer": text}
        for row in queries.select(range(100))
        for text in corpus.texts(corpus.rows(row["positive_ids"])).to_pylist()
        if text in known
    ]
    assert Counter(row["question"] for row in rows).most_common(1)[0][1] > 3
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def single_pairs(pairs):
    """One positive per query."""
    return Dataset.from_list(list({row["question"]: row for row in reversed(pairs.to_list())}.values())[::-1])


@pytest.fixture(scope="module")
def few_pairs(pairs):
    return pairs.select(range(60)).flatten_indices()


@pytest.fixture(scope="module")
def cross_encoder(sample_texts, tmp_path_factory):
    """A random cross-encoder of one tiny layer, whose scores vary enough to be told apart."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("cross-encoder")
    words = Counter(word for text in sample_texts for word in text.lower().split() if word.isalpha())
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word for word, _ in words.most_common(2000))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=1,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return CrossEncoder(str(folder), device="cpu")
