"""Encoders: embedding models with a fingerprint of everything that determines their vectors.

The vectors of queries and of single passages are cached on disk by text, so that no text is encoded twice.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.models.handles import EmbeddingModel, LoadedModel, ModelHandle, load_model
from hnm_datasets.models.token_batches import GROUP, encode_groups, reads_tokens
from hnm_datasets.runtime.bars import DELAY, ProgressBar
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.runtime.workers import children_leave_interrupts
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import digest_strings, distinct_digests, fingerprint
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.opened import Opened
from hnm_datasets.storage.results import Results

SIMILARITIES = ("cosine", "dot", "euclidean")
_TASKS = ("query", "document")
#: The names of a model's prompts for each task, in the order in which sentence-transformers looks for them.
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
#: Static embeddings are looked up and averaged without padding, so large batches only reduce overhead.
_STATIC_BATCH = 2048


class TextEncoder(ModelHandle):
    """Base class of the encoders: a model with a task and a prompt.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend on the model, the prompt and the options.
        task: `"query"` or `"document"`.
        prompt: The prompt before each text.
        batch_size: Texts per forward pass.
        similarity: The similarity of two vectors.
        normalize: Whether vectors are normalized to length 1.
    """

    fingerprint: str
    similarity: str
    normalize: bool
    #: The steps that encode with it.
    _made_by: ClassVar[str]

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
        """Start one worker process of the model per device, as sentence-transformers does; None: no processes."""
        loaded = self.loaded
        if devices is None or loaded.is_function:
            yield None
            return
        with children_leave_interrupts():
            pool = loaded.model.start_multi_process_pool(list(devices))
        try:
            yield pool
        finally:
            loaded.model.stop_multi_process_pool(pool)

    def discard(self) -> None:
        """Delete the cached vectors, because they will not be used again."""
        _RESULTS.forget(self.fingerprint)
        shutil.rmtree(cache_root() / "vectors" / self.fingerprint, ignore_errors=True)

    def _about(self) -> About:
        """Return what the store of its vectors says of itself."""
        detail = "queries" if self.task == "query" else "passages"
        options = {"task": self.task, "prompt": self.prompt, "normalize": self.normalize}
        return About("vectors", self._made_by, detail, facts=self.facts, options=options)

    def _reads_tokens(self, loaded: LoadedModel, pool: Any) -> bool:
        """Return whether the model receives batches of tokens instead of texts."""
        return not loaded.is_function and pool is None and self.batch_size > 1 and reads_tokens(loaded.model)


def long_first(texts: Sequence[str], size: int) -> list[NDArray[np.int64]]:
    """Return the positions of texts in groups of one size, longest first, so that lengths in a batch are similar."""
    order = np.argsort([-len(text) for text in texts], kind="stable")
    return [order[start : start + size] for start in range(0, len(order), max(1, size))]


class Encoder(TextEncoder):
    """An embedding model for queries or documents, with a fingerprint of everything that determines its vectors.

    Args:
        model: A `SentenceTransformer`; its path or Hub id, which is loaded here and in each spawned worker; or a
            function from a list of texts to an array of shape (B, D), for example of an embedding service.
        task: `"query"` or `"document"`: selects the model's prompt and route.
        prompt: The prompt before each text; None: the model's own prompt for the task, if it has one.
        normalize: Scale vectors to length 1; None: only if the similarity is cosine.
        similarity: `"cosine"`, `"dot"` or `"euclidean"`; None: that of the model, or cosine for a function.
        batch_size: For a transformer on a GPU: the number of the longest texts per forward pass; batches of shorter
            texts are larger. On a CPU, batches have several hundred tokens. 1: always a single text. For other models:
            texts per forward pass, at least 2,048 for static embeddings.
        fingerprint: For a function: a name that changes whenever its vectors change.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend on the model, the prompt and the normalization.
        model_fingerprint: 32 hexadecimal digits that depend on the model only.
        normalize: Whether vectors are normalized to length 1.
        similarity: The similarity of two vectors.

    Raises:
        TypeError: `model` is not a model, a path or a function.
        ValueError: An option is out of range, or a function comes without `fingerprint=`.

    Example:
        >>> import numpy as np
        >>> def count_letters(texts):
        ...     return np.array([[text.count("a"), text.count("e"), 1] for text in texts])
        >>> encoder = Encoder(count_letters, "query", similarity="dot", fingerprint="letters-1")
        >>> encoder.vectors(["a plate", "a wave"]).tolist()
        [[2.0, 1.0, 1.0], [2.0, 1.0, 1.0]]
    """

    _made_by = "DenseNegatives or BiEncoderScores"

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
                f"Encoder: the similarity must be one of 'cosine', 'dot' and 'euclidean', got {similarity!r}. Choose "
                f"one, for example similarity='euclidean'."
            )
        self.similarity = similarity
        self.normalize = (
            similarity == "cosine" if normalize is None else checks.yes_or_no("Encoder", "normalize", normalize)
        )
        self.fingerprint = _fingerprint_of(self)

    # ---- encoding ------------------------------------------------------------------------------------------------

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts, each distinct text once, and cache the vectors on disk.

        Args:
            texts: B texts.

        Returns:
            Shape (B, D).

        Raises:
            RuntimeError: The model has changed since, or cannot be used in this process.
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
                fresh = self.encode([texts[position] for position in first[missing]])
            bad = bad_vectors(fresh)
            if bad.any():
                text = texts[first[missing[np.flatnonzero(bad)[0]]]]
                raise ValueError(
                    f"The model returns a zero, NaN or infinite vector for the text {shortened(text)}. Remove such "
                    f"texts, or check the model: overflow in float16 weights often causes NaN."
                )
            if rows.shape[1] not in (0, fresh.shape[1]):
                raise ValueError(
                    f"The model returns vectors of {fresh.shape[1]} dimensions, but earlier vectors with the same "
                    f"fingerprint have {rows.shape[1]}. Choose another name for the new vectors: fingerprint='...'."
                )
            results.add(digests[missing], fresh)
            if len(missing) == len(rows):
                rows = fresh
            else:
                rows[missing] = fresh
        # Usually all texts differ; then avoid a copy of all vectors.
        return rows if len(rows) == len(texts) else rows[back]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts without the cache.

        Args:
            texts: B texts.

        Returns:
            Shape (B, D).
        """
        loaded = self.loaded
        if loaded.is_function:
            return self._answers(loaded, texts)
        unit = "queries" if self.task == "query" else "texts"
        with ProgressBar(len(texts), f"Encoding {unit}", unit, delay=DELAY) as bar:
            parts = list(self._parts(loaded, texts, None, bar.update))
        vectors = np.empty((len(texts), parts[0][1].shape[1] if parts else 0), dtype=np.float32)
        for positions, part in parts:
            vectors[positions] = part
        return vectors

    def parts(
        self, texts: Sequence[str], pool: Any, done: Callable[[int], object]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Encode texts in parts, longest first, so that progress is visible and lengths in a batch are similar.

        Args:
            texts: B texts.
            pool: Worker processes of the model, see `pool`.
            done: Called with the number of texts after each forward pass.

        Yields:
            The positions of texts, of shape (P,), and their vectors, of shape (P, D).
        """
        yield from self._parts(self.loaded, texts, pool, done)

    def _parts(
        self, loaded: LoadedModel, texts: Sequence[str], pool: Any, done: Callable[[int], object]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        by_tokens = self._reads_tokens(loaded, pool)
        batch_size = max(self.batch_size, _STATIC_BATCH) if _is_static(loaded) else self.batch_size
        if pool is not None:
            size = len(texts)
        elif by_tokens:
            size = max(GROUP, batch_size)
        else:
            size = batch_size if _is_static(loaded) else 16 * batch_size
        parts = long_first(texts, size)
        groups = [[texts[position] for position in part] for part in parts]
        if loaded.is_function:
            for part, group in zip(parts, groups, strict=True):
                vectors = self._answers(loaded, group)
                done(len(group))
                yield part, vectors
            return
        with loaded.in_use() as model:
            method = model.encode_query if self.task == "query" else model.encode_document
            # In half precision, torch normalizes lengths with errors of some thousandths, which affects every cosine.
            scaled = self.normalize and str(model.dtype) == "torch.float32"

            def encode(group: list[str]) -> NDArray[np.float32]:
                options = {"show_progress_bar": False, "normalize_embeddings": scaled, "pool": pool}
                found = method(group, prompt=self.prompt, batch_size=batch_size, **options)
                return np.asarray(found, dtype=np.float32)

            if by_tokens:
                encoded = encode_groups(
                    model, groups, encode, task=self.task, prompt=self.prompt, batch_size=batch_size, normalize=scaled,
                    done=done,
                )  # fmt: skip
            else:
                encoded = map(encode, groups)
            for part, found in zip(parts, encoded, strict=True):
                if not by_tokens:
                    done(len(part))
                yield part, _normalized(found) if self.normalize else found

    def _answers(self, loaded: LoadedModel, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors from the function. Shape (B, D)."""
        vectors = np.asarray(loaded.model([self.prompt + text for text in texts]), dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise ValueError(
                f"The embedding function must return an array of shape ({len(texts)}, D) for {len(texts)} texts, "
                f"got {vectors.shape}."
            )
        return _normalized(vectors) if self.normalize else vectors

    def _results(self) -> Results:
        return _RESULTS.get(self.fingerprint, lambda: Results("vectors", self.fingerprint, self._about()))


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
    """Mark the vectors that are zero, NaN or infinite. Shape (B, D) → (B,)."""
    norms = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return np.asarray(~(np.isfinite(norms) & (norms > 0)))


def shortened(text: str) -> str:
    """Return the repr of a text, shortened to 80 characters."""
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalize the vectors that do not have length 1, with the precision of float32."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    # Vectors that torch has normalized keep their exact bits.
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
