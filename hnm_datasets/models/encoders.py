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
_STATIC_BATCH = 1024


class Encoder(ModelHandle):
    """A model that encodes queries or documents, named by everything that determines its vectors.

    Args:
        model: A `SentenceTransformer`; its path or Hub id, which is loaded here, and again in each spawned worker; or a
            function from a list of texts to an array of shape (B, D), for an embedding service.
        task: `"query"` or `"document"`: which of the model's prompts, and of its routes, is used.
        prompt: The text before each text; None: the model's own prompt for the task, if it has one.
        normalize: Scale vectors to length 1; None: if the similarity is cosine.
        similarity: `"cosine"`, `"dot"` or `"euclidean"`; None: the model's own, and cosine for a function.
        batch_size: Texts per forward pass. (At least 1,024 for static embeddings, which know no padding.)
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
        super().__init__(own)
        self.task = checks.one_of("Encoder", "task", task, _TASKS)
        self.prompt = _own_prompt(own, task) if prompt is None else prompt
        if not isinstance(self.prompt, str):
            raise TypeError(f"Encoder: prompt must be a string or None, got {prompt!r}.")
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
        self.batch_size = checks.whole_number("Encoder", "batch_size", batch_size, low=1)
        self.fingerprint = _fingerprint_of(self)

    def __repr__(self) -> str:
        return f"Encoder({self.name}, {self.task!r}, prompt={self.prompt!r}, similarity={self.similarity!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoder) and (other.fingerprint, other.similarity) == (
            self.fingerprint,
            self.similarity,
        )

    def __hash__(self) -> int:
        return hash((self.fingerprint, self.similarity))

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

    def encode(self, texts: Sequence[str], pool: Any = None) -> NDArray[np.float32]:
        """Encode texts as they are, without the store.

        Args:
            texts: B texts.
            pool: Worker processes of the model, see `pool`.

        Returns:
            Shape (B, D).
        """
        loaded = self.loaded
        if loaded.is_function:
            found = loaded.model([self.prompt + text for text in texts])
            vectors = np.asarray(found, dtype=np.float32)
            if vectors.ndim != 2 or len(vectors) != len(texts):
                raise ValueError(
                    f"The embedding function must return an array of shape ({len(texts)}, D) for {len(texts)} texts, "
                    f"got {vectors.shape}."
                )
            return _normalized(vectors) if self.normalize else vectors
        with loaded.in_use() as model:
            encode = model.encode_query if self.task == "query" else model.encode_document
            vectors = np.asarray(
                encode(
                    list(texts),
                    prompt=self.prompt,
                    batch_size=max(self.batch_size, _STATIC_BATCH) if _is_static(loaded) else self.batch_size,
                    show_progress_bar=False,
                    # In half precision torch's lengths are off by some thousandths, and with them every cosine.
                    normalize_embeddings=self.normalize and str(model.dtype) == "torch.float32",
                    pool=pool,
                ),
                dtype=np.float32,
            )
        return _normalized(vectors) if self.normalize else vectors

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

    @property
    def group_size(self) -> int:
        """How many texts to encode at a time so that batches are full and progress is seen."""
        return _STATIC_BATCH if _is_static(self.loaded) else 16 * self.batch_size

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
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = (vectors / lengths[:, None]).astype(np.float32)
    # Vectors that torch has scaled keep their bits.
    return np.where((np.abs(lengths - 1) > 1e-5)[:, None], scaled, vectors)


def _own_prompt(loaded: LoadedModel, task: str) -> str:
    if loaded.is_function:
        return ""
    prompts: dict[str, str] = loaded.model.prompts
    names = [name for name in (*_PROMPTS[task], loaded.model.default_prompt_name) if name in prompts]
    return prompts[names[0]] if names else ""


def _is_static(loaded: LoadedModel) -> bool:
    return not loaded.is_function and type(loaded.model[0]).__name__ == "StaticEmbedding"


_RESULTS: Opened[Results] = Opened()
