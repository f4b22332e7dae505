"""Rerankers: models that score (query, passage) pairs.

The scores are cached on disk by pair, so that no pair is scored twice: a cross-encoder takes milliseconds per pair.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.models.handles import LoadedModel, ModelHandle, PairModel, load_model, token_counts
from hnm_datasets.runtime.bars import ProgressBar
from hnm_datasets.storage.about import About
from hnm_datasets.storage.digests import digest_strings, distinct_digests, fingerprint
from hnm_datasets.storage.opened import Opened
from hnm_datasets.storage.results import Results

_ACTIVATIONS = ("model", "sigmoid", "none")
_DTYPES = ("bfloat16", "float16")
#: Batches to score before their scores are written to disk; an interrupted run loses no more than these.
_GROUP = 32


class Reranker(ModelHandle):
    """A model that scores (query, passage) pairs, with a fingerprint of everything that determines its scores.

    Args:
        model: A `CrossEncoder`; its path or Hub id; or a function from a list of pairs to a list of scores.
        batch_size: Pairs per forward pass.
        activation: `"model"`: the activation of the model, a sigmoid for most rerankers and none for some;
            `"sigmoid"`: scores from 0 to 1; `"none"`: raw logits. For a function only `"model"`.
        dtype: Compute in `"bfloat16"` or `"float16"` with torch's autocast; None: the precision of the weights.
        fingerprint: For a function: a name that changes whenever its scores change.

    Attributes:
        fingerprint: 32 hexadecimal digits that depend on the model, the activation and the precision.

    Raises:
        TypeError: `model` is not a model, a path or a function.
        ValueError: An option is out of range, a function comes without `fingerprint=`, or a model has several outputs.

    Example:
        >>> def count_shared_words(pairs):
        ...     return [len(set(query.split()) & set(passage.split())) for query, passage in pairs]
        >>> reranker = Reranker(count_shared_words, fingerprint="shared-1")
        >>> reranker.scores(["a b"], pa.array(["b c", "d"]), Ragged(np.array([0, 2]), np.array([0, 1]))).tolist()
        [1.0, 0.0]
    """

    _kind = "CrossEncoder"

    def __init__(
        self,
        model: PairModel,
        *,
        batch_size: int = 32,
        activation: str = "model",
        dtype: str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        own = load_model(model, fingerprint, kind=self._kind, owner="CrossEncoderScores")
        super().__init__(own)
        self.batch_size = checks.whole_number("Reranker", "batch_size", batch_size, low=1)
        self.activation = checks.one_of("Reranker", "activation", activation, _ACTIVATIONS)
        self.dtype = None if dtype is None else checks.one_of("Reranker", "dtype", dtype, _DTYPES)
        if own.is_function and (activation != "model" or dtype is not None):
            raise ValueError("Reranker: activation and dtype apply only to models. Remove them to use a function.")
        self.fingerprint = _fingerprint_of(self)
        if not own.is_function and own.model.num_labels != 1:
            raise ValueError(
                f"The cross-encoder has {own.model.num_labels} outputs per pair, but a teacher must have one. Pass a "
                f"function that returns one score: lambda pairs: model.predict(pairs)[:, 1], fingerprint='...'."
            )

    def __repr__(self) -> str:
        return f"Reranker({self.name})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reranker) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def scores(
        self, queries: Sequence[str], passages: pa.Array, lists: Ragged[NDArray[np.int64]]
    ) -> NDArray[np.float32]:
        """Score the passages of each query; each distinct pair once, the longest pairs first.

        Args:
            queries: B texts.
            passages: P texts.
            lists: For each query, the positions of its passages in `passages`, C in total.

        Returns:
            Shape (C,), aligned with `lists.values`.

        Raises:
            RuntimeError: The model has changed since, or cannot be used in this process.
            ValueError: A score is NaN or infinite; the message shows the pair.
        """
        self.check_unchanged()
        distinct, first, back = _distinct_pairs(queries, passages, lists)
        results = self._results()
        known, found = results.find(distinct)
        scores = found[:, 0] if known.any() else np.empty(len(distinct), dtype=np.float32)
        missing = np.flatnonzero(~known)
        if len(missing):
            owners, positions = lists.owners[first[missing]], lists.values[first[missing]]
            order = np.argsort(-self._lengths(queries, passages, owners, positions), kind="stable")
            size = _GROUP * self.batch_size
            with ProgressBar(len(missing), "Scoring pairs", "pairs") as bar:
                for start in range(0, len(order), size):
                    part = order[start : start + size]
                    texts = passages.take(pa.array(positions[part])).to_pylist()
                    pairs = [(queries[owner], text) for owner, text in zip(owners[part], texts, strict=True)]
                    fresh = self._predict(pairs, bar.update)
                    results.add(distinct[missing[part]], fresh[:, None])
                    scores[missing[part]] = fresh
        return scores[back]

    def missing(
        self, queries: Sequence[str], passages: pa.Array, lists: Ragged[NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """Return the first positions in `lists.values` of the distinct pairs without a cached score. Shape (M,).

        Args:
            queries: B texts.
            passages: P texts.
            lists: For each query, the positions of its passages in `passages`.
        """
        distinct, first, _ = _distinct_pairs(queries, passages, lists)
        return first[~self._results().find(distinct)[0]]

    def _lengths(
        self,
        queries: Sequence[str],
        passages: pa.Array,
        owners: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the number of tokens of each pair. Shape (M,)."""
        lengths = []
        for texts, used in ((queries, owners), (passages, positions)):
            needed, back = np.unique(used, return_inverse=True)
            if isinstance(texts, pa.Array):
                distinct = texts.take(pa.array(needed)).to_pylist()
            else:
                distinct = [texts[position] for position in needed]
            lengths.append(token_counts(self.loaded, distinct)[back])
        return lengths[0] + lengths[1]

    def _predict(self, pairs: list[tuple[str, str]], done: Callable[[int], object]) -> NDArray[np.float32]:
        loaded = self.loaded
        if loaded.is_function:
            found: Any = loaded.model(pairs)
            done(len(pairs))
        else:
            # One batch per call, because `predict` would sort the pairs by characters.
            starts = range(0, len(pairs), self.batch_size)
            parts = []
            with loaded.in_use() as model, self._precision(loaded):
                for start in starts:
                    parts.append(self._predict_batch(model, pairs[start : start + self.batch_size]))
                    done(len(parts[-1]))
            found = np.concatenate(parts)
        scores = np.asarray(found, dtype=np.float32)
        if scores.shape != (len(pairs),):
            raise ValueError(
                f"The model must return one score for each of {len(pairs)} pairs, got an array of shape "
                f"{scores.shape}. Choose one of several outputs, for example lambda pairs: model.predict(pairs)[:, 1]."
            )
        if not np.isfinite(scores).all():
            query, passage = pairs[int(np.flatnonzero(~np.isfinite(scores))[0])]
            raise ValueError(
                f"The model's score is NaN or infinite for the query {query[:80]!r} and the passage {passage[:80]!r}. "
                f"Overflow in float16 weights often causes NaN; load the model in float32."
            )
        return scores

    def _predict_batch(self, model: Any, pairs: list[tuple[str, str]]) -> NDArray[Any]:
        activation = self._activation_fn()
        return np.asarray(
            model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False, activation_fn=activation)
        )

    def _activation_fn(self) -> Any:
        import torch

        return {"model": None, "sigmoid": torch.nn.Sigmoid(), "none": torch.nn.Identity()}[self.activation]

    def _precision(self, loaded: LoadedModel) -> contextlib.AbstractContextManager[Any]:
        import torch

        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(loaded.model.device.type, dtype=getattr(torch, self.dtype))

    def _results(self) -> Results:
        def opened() -> Results:
            options = {"activation": self.activation, "dtype": self.dtype}
            about = About("pair_scores", "CrossEncoderScores", facts=self.facts, options=options)
            return Results("pair_scores", self.fingerprint, about)

        return _RESULTS.get(self.fingerprint, opened)


def _fingerprint_of(reranker: Reranker) -> str:
    options = [reranker.activation, reranker.dtype]
    return fingerprint({"kind": "reranker", "model": reranker.model_fingerprint, "options": options})


def _distinct_pairs(
    queries: Sequence[str], passages: pa.Array, lists: Ragged[NDArray[np.int64]]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the keys of the distinct pairs, the first position of each, and each pair's position among them."""
    digests = digest_strings(passages.to_pylist())
    keys = _pair_keys(digest_strings(queries)[lists.owners], digests[lists.values])
    first, numbers = distinct_digests(keys)
    return keys[first], first, numbers


def _pair_keys(queries: NDArray[np.uint64], passages: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Combine two 128-bit digests into one. Shapes (C, 2) and (C, 2) → (C, 2)."""
    # Rotate the bits of one side first, because swapping query and passage must change the key.
    mixed = (queries << np.uint64(17) | queries >> np.uint64(47)) * np.uint64(0x9E3779B97F4A7C15) ^ passages
    mixed = (mixed ^ mixed >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
    return mixed ^ mixed >> np.uint64(29)


_RESULTS: Opened[Results] = Opened()
