"""Sparse encoders: sparse models with a fingerprint of everything that determines their vectors.

The vectors of queries and of single passages are cached on disk by text, so that no text is encoded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.models.encoders import TextEncoder, long_first, shortened
from hnm_datasets.models.handles import LoadedModel, SparseModel, load_model
from hnm_datasets.models.sparse_vectors import ENTRY, SparseVectors, sparse_vectors
from hnm_datasets.models.token_batches import GROUP, encode_groups
from hnm_datasets.runtime.bars import DELAY, ProgressBar
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.storage.digests import digest_strings, distinct_digests, fingerprint
from hnm_datasets.storage.list_results import ListResults
from hnm_datasets.storage.opened import Opened

#: The similarities of sparse vectors.
_SIMILARITIES = ("dot", "cosine")


class SparseTextEncoder(TextEncoder):
    """A sparse model for queries or documents, with a fingerprint of everything that determines its vectors.

    Args:
        model: A `SparseEncoder`; its path or Hub id, which is loaded here and in each spawned worker; or a function
            from a list of texts to a sparse matrix of shape (B, V).
        task: `"query"` or `"document"`: selects the model's prompt and route.
        prompt: The prompt before each text; None: the model's own prompt for the task, if it has one.
        max_active_dims: The number of largest weights to keep per text; None: the model's own limit, if it has one.
        batch_size: Texts per forward pass.
        fingerprint: For a function: a name that changes whenever its vectors change.

    Raises:
        TypeError: `model` is not a model, a path or a function.
        ValueError: An option is out of range, a function comes without `fingerprint=`, or the model's similarity is
            neither the dot product nor the cosine.

    Example:
        >>> def count_letters(texts):
        ...     return [[text.count("a"), text.count("e"), 0] for text in texts]
        >>> encoder = SparseTextEncoder(count_letters, "query", fingerprint="letters-1")
        >>> vectors = encoder.vectors(["a plate", "the sea", "why"])
        >>> vectors.offsets.tolist(), vectors.terms.tolist(), vectors.weights.tolist()
        ([0, 2, 4, 4], [0, 1, 0, 1], [2.0, 1.0, 1.0, 2.0])
    """

    _kind = "SparseEncoder"

    _made_by = "SparseNegatives or BiEncoderScores"

    def __init__(
        self,
        model: SparseModel,
        task: str,
        *,
        prompt: str | None = None,
        max_active_dims: int | None = None,
        batch_size: int = 32,
        fingerprint: str | None = None,
    ) -> None:
        own = load_model(model, fingerprint, kind=self._kind)
        super().__init__(own, task, prompt, batch_size)
        self.similarity = "dot" if own.is_function else str(own.model.similarity_fn_name)
        if self.similarity not in _SIMILARITIES:
            raise ValueError(
                f"The model uses the similarity {self.similarity!r}, but an inverted index supports only the dot "
                f"product and the cosine. If the model was trained for one of them, set it: "
                f"model.similarity_fn_name = 'dot'."
            )
        # The cosine is the dot product of vectors of length 1.
        self.normalize = self.similarity == "cosine"
        if max_active_dims is None and not own.is_function:
            max_active_dims = own.model.max_active_dims
        if max_active_dims is not None:
            max_active_dims = checks.whole_number(type(self).__name__, "max_active_dims", max_active_dims, low=1)
        self.max_active_dims = max_active_dims
        self.fingerprint = _fingerprint_of(self)

    def vectors(self, texts: Sequence[str]) -> SparseVectors:
        """Encode texts, each distinct text once, and cache the vectors on disk.

        Args:
            texts: B texts.

        Raises:
            RuntimeError: The model has changed since, or cannot be used in this process.
            ValueError: A weight is NaN, infinite or huge; the message shows the text.
        """
        digests = digest_strings(texts)
        first, back = distinct_digests(digests)
        digests = digests[first]
        results = self._results()
        known, rows = results.find(digests)
        vectors = SparseVectors.of_entries(rows.offsets, rows.values)
        if known.all():
            self.check_unchanged()
            return vectors.take(back)
        missing = np.flatnonzero(~known)
        with clocked("encode"):
            fresh = self.encode([texts[position] for position in first[missing]])
        if (bad := fresh.bad()) is not None:
            raise ValueError(
                f"The model returns a NaN, infinite or huge weight for the text "
                f"{shortened(texts[first[missing[bad]]])}. Remove such texts, or check the model: overflow in float16 "
                f"weights often causes NaN."
            )
        results.add(digests[missing], Ragged(fresh.offsets, fresh.entries()))
        positions = np.arange(len(known))
        positions[missing] = len(known) + np.arange(len(missing))
        return SparseVectors.joined([vectors, fresh]).take(positions[back])

    def encode(self, texts: Sequence[str]) -> SparseVectors:
        """Encode texts without the cache."""
        unit = "queries" if self.task == "query" else "texts"
        with ProgressBar(len(texts), f"Encoding {unit}", unit, delay=DELAY) as bar:
            parts = list(self.parts(texts, None, bar.update))
        positions = np.concatenate([np.empty(0, dtype=np.int64), *(own for own, _ in parts)])
        return SparseVectors.joined([vectors for _, vectors in parts]).take(np.argsort(positions))

    def parts(
        self, texts: Sequence[str], pool: Any, done: Callable[[int], object]
    ) -> Iterator[tuple[NDArray[np.int64], SparseVectors]]:
        """Encode texts in parts, longest first, so that progress is visible and lengths in a batch are similar.

        Args:
            texts: B texts.
            pool: Worker processes of the model, see `pool`.
            done: Called with the number of texts after each forward pass.

        Yields:
            The positions of texts, of shape (P,), and their vectors.
        """
        loaded = self.loaded
        by_tokens = self._reads_tokens(loaded, pool)
        size = max(GROUP, self.batch_size) if by_tokens else 16 * self.batch_size
        parts = long_first(texts, len(texts) if pool is not None else size)
        groups = [[texts[position] for position in part] for part in parts]
        for part, vectors in zip(parts, self._encoded(loaded, groups, by_tokens, pool, done), strict=True):
            if len(vectors) != len(part):
                raise ValueError(
                    f"The function must return a matrix of shape ({len(part)}, V) for {len(part)} texts, got "
                    f"{len(vectors)} rows."
                )
            if not by_tokens:
                done(len(part))
            if self.max_active_dims is not None:
                vectors = vectors.strongest(self.max_active_dims)
            yield part, vectors.normalized() if self.normalize and vectors.bad() is None else vectors

    def _encoded(
        self, loaded: LoadedModel, groups: list[list[str]], by_tokens: bool, pool: Any, done: Callable[[int], object]
    ) -> Iterator[SparseVectors]:
        """Yield the vectors of each group."""
        if loaded.is_function:
            for group in groups:
                yield sparse_vectors(loaded.model([self.prompt + text for text in group]))
            return
        import torch

        with loaded.in_use() as model:
            method = model.encode_query if self.task == "query" else model.encode_document
            options = {"prompt": self.prompt, "batch_size": self.batch_size, "show_progress_bar": False}

            def encode(group: list[str]) -> Any:
                return method(
                    group,
                    **options,
                    max_active_dims=self.max_active_dims,
                    # Dense, because concatenating sparse rows is slow; sparse for a pool, which returns a whole shard.
                    convert_to_sparse_tensor=pool is not None,
                    pool=pool,
                )

            def encode_dense(group: list[str]) -> NDArray[np.float32]:
                found: NDArray[np.float32] = encode(group).float().cpu().numpy()
                return found

            if by_tokens:
                yield from map(
                    sparse_vectors,
                    encode_groups(
                        model,
                        groups,
                        encode_dense,
                        task=self.task,
                        prompt=self.prompt,
                        batch_size=self.batch_size,
                        normalize=False,
                        done=done,
                    ),
                )
            elif pool is None:
                yield from map(sparse_vectors, map(encode, groups))
            else:
                # Torch warns about sparse tensors from other processes unless this setting is explicit.
                with torch.sparse.check_sparse_tensor_invariants(enable=True):  # type: ignore[no-untyped-call]
                    yield from map(sparse_vectors, map(encode, groups))

    def discard(self) -> None:
        """Delete the cached vectors, because they will not be used again."""
        _RESULTS.forget(self.fingerprint)
        super().discard()

    def _results(self) -> ListResults:
        def opened() -> ListResults:
            return ListResults("vectors", self.fingerprint, ENTRY, about=self._about())

        return _RESULTS.get(self.fingerprint, opened)


def _fingerprint_of(encoder: SparseTextEncoder) -> str:
    return fingerprint(
        {
            "kind": "sparse-encoder",
            "model": encoder.model_fingerprint,
            "task": encoder.task,
            "prompt": encoder.prompt,
            "normalize": encoder.normalize,
            "max_active_dims": encoder.max_active_dims,
        }
    )


_RESULTS: Opened[ListResults] = Opened()
