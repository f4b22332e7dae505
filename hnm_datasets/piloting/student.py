"""The student of a pilot: static embeddings, which train in seconds on any machine."""

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

#: Maximum number of passages to read, words to read of each, and words that get a vector.
_PASSAGES, _WORDS, _VOCABULARY = 20_000, 128, 30_000
_DIMENSION = 256
#: The value of each dimension in the vector of a word outside the vocabulary.
_UNKNOWN = 1e-3
#: Maximum number of tokens in memory, four bytes each, and the overhead of a text, in tokens.
_REMEMBERED, _TEXT = 50_000_000, 60


class Tokens:
    """The token ids of texts. Each text is tokenized once, because trainings of a student read the same texts.

    Args:
        tokenize: A function from texts to lists of token ids.
    """

    def __init__(self, tokenize: Callable[[list[str]], Sequence[Sequence[int]]]) -> None:
        self._tokenize = tokenize
        self._known: dict[bytes, NDArray[np.int32]] = {}
        self._count = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokens:
        return self

    def of(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the token ids of each text."""
        keys = [xxhash.xxh3_128_digest(text.encode("utf-8", "surrogatepass")) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        found = dict(zip(new, self._tokenize(list(new.values())), strict=True)) if new else {}
        # A text without tokens gets token 0, because a mean needs at least one vector.
        arrays = {key: np.asarray(ids if len(ids) else [0], dtype=np.int32) for key, ids in found.items()}
        if self._count < _REMEMBERED:
            self._known |= arrays
            self._count += sum(len(ids) + _TEXT for ids in arrays.values())
        return [arrays[key] if key in arrays else self._known[key] for key in keys]


class MeanOfTokens(InputModule):
    """A `StaticEmbedding` that tokenizes each text once. For pilots only; it cannot be saved.

    Args:
        weights: A vector for each token. Shape (V, D).
        tokens: The token ids of texts.
    """

    def __init__(self, weights: torch.Tensor, tokens: Tokens) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.embedding = torch.nn.EmbeddingBag.from_pretrained(weights, freeze=False)
        # Model fingerprints ignore attributes named as caches; they cover the weights and the tokens of sample texts.
        self._token_cache = tokens

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, torch.Tensor]:
        """Look up the token ids of texts."""
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
        raise NotImplementedError(
            "The student of a pilot cannot be saved. Train your own model with the recommended strategy."
        )


def is_static(model: object) -> bool:
    """Return whether a model has static embeddings."""
    return isinstance(model, SentenceTransformer) and isinstance(model[0], (StaticEmbedding, MeanOfTokens))


def make_student(corpus: Corpus, model: object, seed: int) -> tuple[SentenceTransformer, str]:
    """Return the model that a pilot trains, and a description of it.

    Args:
        corpus: The passages.
        model: The `SentenceTransformer` to copy; with static embeddings, the copy tokenizes each text once. Anything
            else: the student is made from the words of the corpus.
        seed: Seed of the word vectors.
    """
    if isinstance(model, SentenceTransformer):
        if not isinstance(model[0], StaticEmbedding):
            return copy.deepcopy(model), "the model itself"
        student = copy.deepcopy(model).to("cpu", torch.float32)
        first: Any = student[0]
        tokenizer = first.tokenizer

        def tokenize(texts: list[str]) -> list[list[int]]:
            return [found.ids for found in tokenizer.encode_batch(texts, add_special_tokens=False)]

        # Everything else, such as prompts and later modules, is unchanged.
        student[0] = MeanOfTokens(first.embedding.weight.detach(), Tokens(tokenize))
        return student, "the model itself (static embeddings)"
    return word_student(corpus, seed), "static embeddings made from the words of the corpus"


def word_student(corpus: Corpus, seed: int) -> SentenceTransformer:
    """Make static embeddings from a corpus by latent semantic analysis (Deerwester et al. 1990).

    The word vectors come from a truncated SVD of the TF-IDF matrix of passages and words. Each is normalized and
    multiplied by the square of the word's inverse document frequency. This needs no download and works in any language.

    Args:
        corpus: The passages. Up to 20,000 of them are read.
        seed: Seed of the randomized SVD.

    Raises:
        ValueError: No passage contains a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize
    from sklearn.utils.extmath import randomized_svd

    rows = np.unique(np.linspace(0, len(corpus) - 1, min(len(corpus), _PASSAGES)).astype(np.int64))
    texts = corpus.texts(rows).to_pylist()
    counter = TfidfVectorizer(analyzer=_words, max_features=_VOCABULARY, sublinear_tf=True, dtype=np.float32)
    if not any(map(_words, texts)):
        raise ValueError("pilot: the passages have no words to make a student from. Pass a model to train as student=.")
    matrix = counter.fit_transform(texts)
    size = min(_DIMENSION, *matrix.shape)
    _, _, components = randomized_svd(matrix, n_components=size, n_iter=3, random_state=seed)
    # Normalize, so that only the inverse document frequency decides how much a word counts.
    vectors = normalize(components.T) * counter.idf_[:, None] ** 2
    # Scale to the size of word vectors in other models, for which the learning rate was chosen.
    vectors /= max(float(np.sqrt(np.mean(vectors**2))), 1e-12)
    # A vector of zeros has no direction and no gradient.
    vectors[~vectors.any(axis=1)] = _UNKNOWN
    # Token 0 is for all words outside the vocabulary.
    unknown = np.full((1, vectors.shape[1]), _UNKNOWN)
    weights = torch.from_numpy(np.concatenate([unknown, vectors]).astype(np.float32))
    token_ids = {word: index + 1 for word, index in counter.vocabulary_.items()}

    def tokenize(texts: list[str]) -> list[list[int]]:
        return [[token_ids.get(word, 0) for word in _words(text)] for text in texts]

    return SentenceTransformer(modules=[MeanOfTokens(weights, Tokens(tokenize))], device="cpu")


def _words(text: str) -> list[str]:
    return terms_of(text)[:_WORDS]
