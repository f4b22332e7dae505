"""Token encoders: multi-vector models with a fingerprint of everything that determines their vectors.

The vectors of queries are cached on disk by text, so that no query is encoded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.models.encoders import TextEncoder, long_first, shortened
from hnm_datasets.models.fingerprint import module_digest
from hnm_datasets.models.handles import TokenModel, load_model
from hnm_datasets.models.list_vectors import check_one_width
from hnm_datasets.models.token_vectors import TokenVectors, token_vectors
from hnm_datasets.runtime.bars import DELAY, ProgressBar
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.storage.digests import digest_strings, distinct_digests, fingerprint
from hnm_datasets.storage.list_results import ListResults
from hnm_datasets.storage.opened import Opened


class TokenEncoder(TextEncoder):
    """A multi-vector model for queries or documents, with a fingerprint of everything that determines its vectors.

    Args:
        model: A `MultiVectorEncoder`; its path or Hub id, which is loaded here and in each spawned worker; or a
            function from a list of texts to an array of shape (tokens, D) for each.
        task: `"query"` or `"document"`: selects the model's prompt, length, mask and route.
        prompt: The prompt before each text; None: the model's own prompt for the task, if it has one.
        token_pooling: A `BaseTokenPooling` of sentence-transformers that merges tokens; None: that of the model.
        batch_size: Texts per forward pass.
        fingerprint: For a function: a name that changes whenever its vectors change.

    Raises:
        TypeError: `model` or `token_pooling` has the wrong type.
        ValueError: An option is out of range, or a function comes without `fingerprint=` or with `token_pooling=`.

    Example:
        >>> def letters(texts):
        ...     return [[[ord(letter) - 97, 1] for letter in text] for text in texts]
        >>> encoder = TokenEncoder(letters, "query", fingerprint="letters-and-1")
        >>> vectors = encoder.vectors(["ab", "c"])
        >>> vectors.offsets.tolist(), vectors.vectors.tolist()
        ([0, 2, 3], [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    """

    _kind = "MultiVectorEncoder"
    normalize = False

    _made_by = "LateInteractionNegatives or LateInteractionScores"

    def __init__(
        self,
        model: TokenModel,
        task: str,
        *,
        prompt: str | None = None,
        token_pooling: Any = None,
        batch_size: int = 32,
        fingerprint: str | None = None,
    ) -> None:
        own = load_model(model, fingerprint, kind=self._kind)
        super().__init__(own, task, prompt, batch_size)
        self.similarity = "maxsim" if own.is_function else str(own.model.similarity_fn_name)
        if token_pooling is not None:
            _check_pooling(token_pooling, own.is_function)
        self.token_pooling = token_pooling
        self.fingerprint = _fingerprint_of(self)

    def vectors(self, texts: Sequence[str]) -> TokenVectors:
        """Encode texts, each distinct text once, and cache the vectors on disk.

        Args:
            texts: B texts.

        Raises:
            RuntimeError: The model has changed since, or cannot be used in this process.
            ValueError: A text has no tokens, or a vector is NaN or infinite; the message shows the text.
        """
        digests = digest_strings(texts)
        first, back = distinct_digests(digests)
        digests = digests[first]
        results = self._results()
        known, rows = results.find(digests)
        vectors = TokenVectors.of(rows.offsets, rows.values)
        if known.all():
            self.check_unchanged()
            return vectors.take(back)
        missing = np.flatnonzero(~known)
        with clocked("encode"):
            fresh = self.encode([texts[position] for position in first[missing]])
        if (bad := fresh.bad()) is not None:
            what, way_out = fresh.fault(bad)
            text = shortened(texts[first[missing[bad]]])
            raise ValueError(f"The model returns {what} for the text {text}. {way_out}")
        check_one_width(part.vectors.shape[1:] for part in (vectors, fresh) if part.vectors.shape[1])
        results.add(digests[missing], Ragged(fresh.offsets, fresh.vectors))
        positions = np.arange(len(known))
        positions[missing] = len(known) + np.arange(len(missing))
        return TokenVectors.joined([vectors, fresh]).take(positions[back])

    def encode(self, texts: Sequence[str]) -> TokenVectors:
        """Encode texts without the cache."""
        unit = "queries" if self.task == "query" else "texts"
        with ProgressBar(len(texts), f"Encoding {unit}", unit, delay=DELAY) as bar:
            parts = list(self.parts(texts, None, bar.update))
        positions = np.concatenate([np.empty(0, dtype=np.int64), *(own for own, _ in parts)])
        return TokenVectors.joined([vectors for _, vectors in parts]).take(np.argsort(positions))

    def parts(
        self, texts: Sequence[str], pool: Any, done: Callable[[int], object]
    ) -> Iterator[tuple[NDArray[np.int64], TokenVectors]]:
        """Encode texts in parts, longest first, so that progress is visible and lengths in a batch are similar.

        Args:
            texts: B texts.
            pool: Worker processes of the model, see `pool`.
            done: Called with the number of texts after each forward pass.

        Yields:
            The positions of texts, of shape (P,), and their vectors.
        """
        loaded = self.loaded
        for part in long_first(texts, len(texts) if pool is not None else 16 * self.batch_size):
            group = [texts[position] for position in part]
            if loaded.is_function:
                found = loaded.model([self.prompt + text for text in group])
            else:
                with loaded.in_use() as model:
                    method = model.encode_query if self.task == "query" else model.encode_document
                    options: dict[str, Any] = {"show_progress_bar": False, "pool": pool, "convert_to_numpy": True}
                    found = method(
                        group,
                        prompt=self.prompt,
                        batch_size=self.batch_size,
                        token_pooling=self.token_pooling,
                        **options,
                    )
            vectors = token_vectors(found)
            if len(vectors) != len(part):
                raise ValueError(
                    f"The function must return an array of shape (tokens, D) for each of {len(part)} texts, got "
                    f"{len(vectors)} arrays."
                )
            done(len(part))
            yield part, vectors

    def discard(self) -> None:
        """Delete the cached vectors, because they will not be used again."""
        _RESULTS.forget(self.fingerprint)
        super().discard()

    def _results(self) -> ListResults:
        def opened() -> ListResults:
            return ListResults("vectors", self.fingerprint, np.dtype("<f2"), ndim=2, about=self._about())

        return _RESULTS.get(self.fingerprint, opened)


def _check_pooling(pooling: object, is_function: bool) -> None:
    from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling

    if not isinstance(pooling, BaseTokenPooling):
        raise TypeError(
            f"token_pooling must be a token pooling of sentence-transformers, such as "
            f"HierarchicalTokenPooling(pool_factor=2), got {type(pooling).__name__}."
        )
    if is_function:
        raise ValueError("token_pooling applies only to models. Remove it, and pool the tokens in the function.")


def _fingerprint_of(encoder: TokenEncoder) -> str:
    return fingerprint(
        {
            "kind": "token-encoder",
            "model": encoder.model_fingerprint,
            "task": encoder.task,
            "prompt": encoder.prompt,
            "token_pooling": None if encoder.token_pooling is None else module_digest(encoder.token_pooling),
        }
    )


_RESULTS: Opened[ListResults] = Opened()
