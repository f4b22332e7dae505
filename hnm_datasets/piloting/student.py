"""The student of a pilot: static embeddings, which are trained in seconds on any machine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import InputModule, StaticEmbedding

from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.words import terms_of

#: Passages whose words are counted, words of each, and words that get a vector.
_PASSAGES, _WORDS, _VOCABULARY = 20_000, 128, 30_000
_DIMENSION = 256
#: In each dimension of the vector of a word that is not in the vocabulary.
_UNKNOWN = 1e-3
#: Tokens that are remembered, four bytes each, and what else a text takes, in tokens.
_REMEMBERED, _TEXT = 50_000_000, 60


class Tokens:
    """The token numbers of texts, each tokenized once: trainings of one student read the same texts again and again.

    Args:
        tokenize: From texts to lists of numbers.
    """

    def __init__(self, tokenize: Callable[[list[str]], Sequence[Sequence[int]]]) -> None:
        self._tokenize = tokenize
        self._known: dict[bytes, NDArray[np.int32]] = {}
        self._count = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokens:
        return self

    def of(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the token numbers of each text."""
        keys = [xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass")) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        found = dict(zip(new, self._tokenize(list(new.values())), strict=True)) if new else {}
        # A text without a token gets the first one: the mean of nothing is no vector.
        arrays = {key: np.asarray(ids if len(ids) else [0], dtype=np.int32) for key, ids in found.items()}
        if self._count < _REMEMBERED:
            self._known |= arrays
            self._count += sum(len(ids) + _TEXT for ids in arrays.values())
        return [arrays[key] if key in arrays else self._known[key] for key in keys]


class MeanOfTokens(InputModule):
    """Static embeddings as `StaticEmbedding`, which tokenize each text once. Made for a pilot, and never saved.

    Args:
        weights: A vector for each token. Shape (V, D).
        tokens: The token numbers of texts.
    """

    def __init__(self, weights: torch.Tensor, tokens: Tokens) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.embedding = torch.nn.EmbeddingBag.from_pretrained(weights, freeze=False)
        # What a module keeps in a cache is no part of its name: the weights and the tokens of some texts are.
        self._token_cache = tokens

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, torch.Tensor]:
        """Look the tokens up."""
        parts = self._token_cache.of([f"{prompt}{text}" for text in inputs] if prompt else inputs)
        ends = np.cumsum([0, *map(len, parts)])
        numbers = np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
        return {"input_ids": torch.from_numpy(numbers), "offsets": torch.from_numpy(ends[:-1].astype(np.int32))}

    def forward(self, features: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        """Average the vectors of the tokens."""
        features["sentence_embedding"] = self.embedding(features["input_ids"], features["offsets"])
        return features

    def get_embedding_dimension(self) -> int:
        """Return the length of a vector."""
        return int(self.embedding.embedding_dim)

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Refuse."""
        raise NotImplementedError("The student of a pilot is not saved: train a model of your own on what it found.")


def is_static(model: object) -> bool:
    """Tell whether a model is of static embeddings."""
    return isinstance(model, SentenceTransformer) and isinstance(model[0], (StaticEmbedding, MeanOfTokens))


def make_student(corpus: Corpus, model: object, seed: int) -> tuple[SentenceTransformer, str]:
    """Make the model that a pilot trains, and say what it is.

    Args:
        corpus: The passages.
        model: A model that is to be trained itself; one of static embeddings tokenizes each text once. Anything else:
            the student is made of the words of the corpus.
        seed: For the vectors of the words.
    """
    if isinstance(model, SentenceTransformer):
        if not isinstance(model[0], StaticEmbedding):
            return copy.deepcopy(model), "the model itself"
        student = copy.deepcopy(model).to("cpu", torch.float32)
        first: Any = student[0]
        tokenizer = first.tokenizer

        def tokenize(texts: list[str]) -> list[list[int]]:
            return [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]

        # All else, such as prompts and later modules, stays as it is.
        student[0] = MeanOfTokens(first.embedding.weight.detach(), Tokens(tokenize))
        return student, "the model itself, of static embeddings"
    return word_student(corpus, seed), "static embeddings, made of the words of the corpus"


def word_student(corpus: Corpus, seed: int) -> SentenceTransformer:
    """Make static embeddings of a corpus alone: latent semantic analysis (Deerwester et al. 1990).

    Words are weighed by how few passages have them, and their vectors are those of a truncated SVD of the matrix of
    passages and words, of length 1, times the square of that weight. They need no download and fit any language.

    Args:
        corpus: The passages, of which some thousands are read.
        seed: For the approximate SVD.

    Raises:
        ValueError: No passage has a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize
    from sklearn.utils.extmath import randomized_svd

    rows = np.unique(np.linspace(0, len(corpus) - 1, min(len(corpus), _PASSAGES)).astype(np.int64))
    texts = corpus.texts(rows).to_pylist()
    counter = TfidfVectorizer(analyzer=_words, max_features=_VOCABULARY, sublinear_tf=True, dtype=np.float32)
    if not any(map(_words, texts)):
        raise ValueError("pilot: the passages have no words to make a student of. Pass the model to train as student=.")
    matrix = counter.fit_transform(texts)
    size = min(_DIMENSION, *matrix.shape)
    _, _, components = randomized_svd(matrix, n_components=size, n_iter=3, random_state=seed)
    # The directions of rare and common words count alike; how much a word counts is for its rarity to say.
    vectors = normalize(components.T) * counter.idf_[:, None] ** 2
    # Word vectors of other models have about this size, which the learning rate is meant for.
    vectors /= max(float(np.sqrt(np.mean(vectors**2))), 1e-12)
    # A vector of zeros has no direction, and none to learn.
    vectors[~vectors.any(axis=1)] = _UNKNOWN
    # Number 0 is for all other words.
    unknown = np.full((1, vectors.shape[1]), _UNKNOWN)
    weights = torch.from_numpy(np.concatenate([unknown, vectors]).astype(np.float32))
    numbers = {word: place + 1 for word, place in counter.vocabulary_.items()}

    def tokenize(texts: list[str]) -> list[list[int]]:
        return [[numbers.get(word, 0) for word in _words(text)] for text in texts]

    return SentenceTransformer(modules=[MeanOfTokens(weights, Tokens(tokenize))], device="cpu")


def _words(text: str) -> list[str]:
    return terms_of(text)[:_WORDS]
