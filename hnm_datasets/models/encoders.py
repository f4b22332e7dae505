"""Models as functions from texts to vectors, named by what determines the vectors.

The vectors of queries, and of single passages, are kept on disk by text, so that no text is encoded twice.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.models.handles import EmbeddingModel, LoadedModel, ModelHandle, load_model
from hnm_datasets.models.token_batches import GROUP, encode_groups, reads_tokens
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.storage.digests import digest_strings, distinct_digests, fingerprint
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.opened import Opened
from hnm_datasets.storage.results import Results

SIMILARITIES = ("cosine", "dot", "euclidean")
_TASKS = ("query", "document")
#: Prompts that a model may bring for each task, in the order in which sentence-transformers looks for them.
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
#: Static embeddings are looked up and averaged, nothing is padded: large batches only save overhead.
_STATIC_BATCH = 2048


class TextEncoder(ModelHandle):
    """What `Encoder` and `SparseTextEncoder` have in common: a model with a task and a prompt, and a name for both.

    Attributes:
        fingerprint: 32 hexadecimal digits of the model, the prompt and the options.
        task: `"query"` or `"document"`.
        prompt: The text before each text.
        batch_size: Texts per forward pass.
        similarity: How two vectors are compared.
        normalize: Whether vectors are scaled to length 1.
    """

    fingerprint: str
    similarity: str
    normalize: bool

    def __init__(self, loaded: LoadedModel, task: str, prompt: str | None, batch_size: int) -> None:
        super().__init__(loaded)
        name = type(self).__name__
        self.task = checks.one_of(name, "task", task, _TASKS)
        self.prompt = _own_prompt(loaded, task) if prompt is None else prompt
        if not isinstance(self.prompt, str):
            raise TypeError(f"{name}: prompt must be a string or None, got {prompt!r}.")
        self.batch_size = checks.whole_number(name, "batch_size", batch_size, low=1)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name}, {self.task!r}, prompt={self.prompt!r}, similarity={self.similarity!r})"
        )

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (other.fingerprint, other.similarity) == (
            self.fingerprint,
            self.similarity,
        )

    def __hash__(self) -> int:
        return hash((self.fingerprint, self.similarity))

    @contextlib.contextmanager
    def pool(self, devices: Sequence[str] | None) -> Iterator[Any]:
        """Start a worker process of the model per device, as sentence-transformers does; None: none."""
        loaded = self.loaded
        if devices is None or loaded.is_function:
            yield None
            return
        pool = loaded.model.start_multi_process_pool(list(devices))
        try:
            yield pool
        finally:
            loaded.model.stop_multi_process_pool(pool)

    def discard(self) -> None:
        """Delete the vectors that are kept on disk, because nobody will ask for them again."""
        _RESULTS.forget(self.fingerprint)
        shutil.rmtree(cache_root() / "vectors" / self.fingerprint, ignore_errors=True)

    def _reads_tokens(self, loaded: LoadedModel, pool: Any) -> bool:
        """Tell whether the model is given batches of tokens in place of texts."""
        return not loaded.is_function and pool is None and self.batch_size > 1 and reads_tokens(loaded.model)


def long_first(texts: Sequence[str], size: int) -> list[NDArray[np.int64]]:
    """Return the places of texts in groups of a size, long ones first, so that batches are of like lengths."""
    order = np.argsort([-len(text) for text in texts], kind="stable")
    return [order[start : start + size] for start in range(0, len(order), max(1, size))]


class Encoder(TextEncoder):
    """A model that encodes queries or documents, named by everything that determines its vectors.

    Args:
        model: A `SentenceTransformer`; its path or Hub id, which is loaded here, and again in each spawned worker; or a
            function from a list of texts to an array of shape (B, D), for an embedding service.
        task: `"query"` or `"document"`: which of the model's prompts, and of its routes, is used.
        prompt: The text before each text; None: the model's own prompt for the task, if it has one.
        normalize: Scale vectors to length 1; None: if the similarity is cosine.
        similarity: `"cosine"`, `"dot"` or `"euclidean"`; None: the model's own, and cosine for a function.
        batch_size: Of the longest texts, how many a transformer encodes at a time on a GPU; of shorter ones it takes
            more. On a CPU it takes some hundreds of tokens at a time. 1: always a single text. For other models: texts
            per forward pass, at least 2,048 for static embeddings.
        fingerprint: For a function: a name that changes whenever its vectors do.

    Attributes:
        fingerprint: 32 hexadecimal digits of the model, the prompt and the normalization.
        model_fingerprint: 32 hexadecimal digits of the model alone.
        normalize: Whether vectors have length 1.
        similarity: How two vectors are compared.

    Raises:
        TypeError: `model` is something else.
        ValueError: An option is out of range, or a function comes without `fingerprint=`.

    Example:
        >>> import numpy as np
        >>> def count_letters(texts):
        ...     return np.array([[text.count("a"), text.count("e"), 1] for text in texts])
        >>> encoder = Encoder(count_letters, "query", similarity="dot", fingerprint="letters-1")
        >>> encoder.vectors(["a plate", "a wave"]).tolist()
        [[2.0, 1.0, 1.0], [2.0, 1.0, 1.0]]
    """

    def __init__(
        self,
        model: EmbeddingModel,
        task: str,
        *,
        prompt: str | None = None,
        normalize: bool | None = None,
        similarity: str | None = None,
        batch_size: int = 32,
        fingerprint: str | None = None,
    ) -> None:
        own = load_model(model, fingerprint)
        super().__init__(own, task, prompt, batch_size)
        if similarity is None:
            similarity = "cosine" if own.is_function else str(own.model.similarity_fn_name)
        if similarity not in SIMILARITIES:
            raise ValueError(
                f"Encoder: the similarity must be one of 'cosine', 'dot' and 'euclidean', got {similarity!r}. Name "
                f"the one to use: similarity='euclidean'."
            )
        self.similarity = similarity
        self.normalize = (
            similarity == "cosine" if normalize is None else checks.yes_or_no("Encoder", "normalize", normalize)
        )
        self.fingerprint = _fingerprint_of(self)

    # ---- encoding ------------------------------------------------------------------------------------------------

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts, each distinct one once, and keep the vectors on disk for the next time.

        Args:
            texts: B texts.

        Returns:
            Shape (B, D).

        Raises:
            RuntimeError: The model was changed since, or cannot be used in this process.
            ValueError: A vector is zero, NaN or infinite; the message shows the text.
        """
        digests = digest_strings(texts)
        first, back = distinct_digests(digests)
        digests = digests[first]
        results = self._results()
        known, rows = results.find(digests)
        if known.all():
            self.check_unchanged()
        else:
            missing = np.flatnonzero(~known)
            with clocked("encode"):
                fresh = self.encode([texts[place] for place in first[missing]])
            bad = bad_vectors(fresh)
            if bad.any():
                text = texts[first[missing[np.flatnonzero(bad)[0]]]]
                raise ValueError(
                    f"The model gives a zero, NaN or infinite vector for the text {shortened(text)}. Filter such texts "
                    f"out, or check the model: NaN often comes from float16 weights on data that overflow them."
                )
            if rows.shape[1] not in (0, fresh.shape[1]):
                raise ValueError(
                    f"The model gives vectors of {fresh.shape[1]} dimensions, and earlier ones of {rows.shape[1]} "
                    f"under the same fingerprint. Give the new vectors another name: fingerprint='...'."
                )
            results.add(digests[missing], fresh)
            if len(missing) == len(rows):
                rows = fresh
            else:
                rows[missing] = fresh
        # Most often every text is another one, and then this would copy all vectors.
        return rows if len(rows) == len(texts) else rows[back]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts as they are, without the store.

        Args:
            texts: B texts.

        Returns:
            Shape (B, D).
        """
        loaded = self.loaded
        if loaded.is_function:
            return self._answers(loaded, texts)
        parts = list(self._parts(loaded, texts, None))
        vectors = np.empty((len(texts), parts[0][1].shape[1] if parts else 0), dtype=np.float32)
        for places, part in parts:
            vectors[places] = part
        return vectors

    def parts(self, texts: Sequence[str], pool: Any = None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Encode texts a part at a time, long ones first, so that progress is seen and batches are of like lengths.

        Args:
            texts: B texts.
            pool: Worker processes of the model, see `pool`.

        Yields:
            Places of texts, of shape (P,), and their vectors, of shape (P, D).
        """
        yield from self._parts(self.loaded, texts, pool)

    def _parts(
        self, loaded: LoadedModel, texts: Sequence[str], pool: Any
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        by_tokens = self._reads_tokens(loaded, pool)
        batch_size = max(self.batch_size, _STATIC_BATCH) if _is_static(loaded) else self.batch_size
        if pool is not None:
            size = len(texts)
        elif by_tokens:
            size = max(GROUP, batch_size)
        else:
            size = batch_size if _is_static(loaded) else 16 * batch_size
        places = long_first(texts, size)
        groups = [[texts[place] for place in part] for part in places]
        if loaded.is_function:
            yield from zip(places, (self._answers(loaded, group) for group in groups), strict=True)
            return
        with loaded.in_use() as model:
            method = model.encode_query if self.task == "query" else model.encode_document
            # In half precision torch's lengths are off by some thousandths, and with them every cosine.
            scaled = self.normalize and str(model.dtype) == "torch.float32"

            def encode(group: list[str]) -> NDArray[np.float32]:
                options = {"show_progress_bar": False, "normalize_embeddings": scaled, "pool": pool}
                found = method(group, prompt=self.prompt, batch_size=batch_size, **options)
                return np.asarray(found, dtype=np.float32)

            if by_tokens:
                vectors = encode_groups(
                    model, groups, encode, task=self.task, prompt=self.prompt, batch_size=batch_size, normalize=scaled
                )
            else:
                vectors = map(encode, groups)
            for part, found in zip(places, vectors, strict=True):
                yield part, _normalized(found) if self.normalize else found

    def _answers(self, loaded: LoadedModel, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return what the function gives. Shape (B, D)."""
        vectors = np.asarray(loaded.model([self.prompt + text for text in texts]), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ValueError(
                f"The embedding function must return an array of shape ({len(texts)}, D) for {len(texts)} texts, "
                f"got {vectors.shape}."
            )
        return _normalized(vectors) if self.normalize else vectors

    def _results(self) -> Results:
        return _RESULTS.get(self.fingerprint, lambda: Results("vectors", self.fingerprint))


def _fingerprint_of(encoder: Encoder) -> str:
    return fingerprint(
        {
            "kind": "encoder",
            "model": encoder.model_fingerprint,
            "task": encoder.task,
            "prompt": encoder.prompt,
            "normalize": encoder.normalize,
        }
    )


def bad_vectors(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which vectors are zero, NaN or infinite. Shape (B, D) → (B,)."""
    norms = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return np.asarray(~(np.isfinite(norms) & (norms > 0)))


def shortened(text: str) -> str:
    """Show the beginning of a text."""
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors to length 1 where they are not, to the precision of float32."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    # Vectors that torch has scaled keep their bits.
    others = np.flatnonzero(~(np.abs(lengths - 1) <= 1e-5))
    if not len(others):
        return vectors
    scaled = vectors.copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled[others] = (vectors[others] / lengths[others, None]).astype(np.float32)
    return scaled


def _own_prompt(loaded: LoadedModel, task: str) -> str:
    if loaded.is_function:
        return ""
    prompts: dict[str, str] = loaded.model.prompts
    names = [name for name in (*_PROMPTS[task], loaded.model.default_prompt_name) if name in prompts]
    return prompts[names[0]] if names else ""


def _is_static(loaded: LoadedModel) -> bool:
    return not loaded.is_function and type(loaded.model[0]).__name__ == "StaticEmbedding"


_RESULTS: Opened[Results] = Opened()
