"""Encode texts with transformers in batches of equal numbers of tokens; `SentenceTransformer.encode` counts texts.

Texts are tokenized once, in groups of some hundreds, while the previous group is computed. They are sorted by number of
tokens and split into batches with almost no padding. On a CPU, the activations of such a batch fit into the caches. On
a GPU, all batches are about the same amount of work, and vectors are copied to the CPU once per group.

Models that are not a transformer for texts are encoded with their own `encode`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.models.passes import ForwardPasses, Tokens

#: Minimum number of texts to tokenize at once.
GROUP = 512

T = TypeVar("T")
R = TypeVar("R")


def reads_tokens(model: Any) -> bool:
    """Return whether a `SentenceTransformer` or `SparseEncoder` can encode batches of tokens instead of texts.

    The first module must be a plain text transformer, the whole model must be on one device in this process, and its
    encoding methods must not be overridden. A `SparseEncoder` must be a SPLADE model.
    """
    from hnm_datasets.models.sentence_transformers_internals import encodes_as_published, reads_plain_tokens

    device = model.device
    return (
        encodes_as_published(model)
        and reads_plain_tokens(model[0])
        and device.type != "hpu"
        and all(tensor.device == device for tensor in (*model.parameters(), *model.buffers()))
    )


def encode_groups(
    model: Any,
    groups: Sequence[list[str]],
    encode: Callable[[list[str]], NDArray[np.float32]],
    *,
    task: str,
    prompt: str,
    batch_size: int,
    normalize: bool,
    done: Callable[[int], object] | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Encode groups of texts; each group is sorted and split into batches separately.

    Args:
        model: A model for which `reads_tokens` is true.
        groups: Lists of texts, ideally of some hundreds each, with about the same number of characters.
        encode: Function that encodes a group if its features are not plain tokens.
        task: `"query"` or `"document"`.
        prompt: The prompt before each text.
        batch_size: The number of the longest texts per pass on a GPU.
        normalize: Scale vectors to length 1.
        done: Called with the number of texts after each pass, because large models take minutes per group.

    Yields:
        The vectors of each group, of shape (B, D).
    """
    # Only one thread at a time can use a tokenizer.
    tokenizer_lock = threading.Lock()
    # Arrays, because converting lists to tensors takes half as long as the tokenizer itself.
    arrays = {"common": {"return_tensors": "np"}}

    def tokenized(texts: list[str]) -> tuple[list[str], tuple[Tokens, NDArray[np.int64]] | None]:
        with tokenizer_lock:
            features = model.preprocess(texts, prompt=prompt, task=task, processing_kwargs=arrays)
        return texts, _sorted_tokens(features)

    with ForwardPasses(model, task, batch_size, done) as passes:
        ahead = _one_ahead(tokenized, groups) if len(groups) > 1 else map(tokenized, groups)
        for texts, found in ahead:
            if found is None:
                with tokenizer_lock:
                    vectors = encode(texts)
                if done is not None:
                    done(len(texts))
            else:
                tokens, order = found
                vectors = _vectors(model, passes, tokens, normalize)[np.argsort(order)]
            yield vectors


def _sorted_tokens(features: dict[str, Any]) -> tuple[Tokens, NDArray[np.int64]] | None:
    """Sort tokenized texts by number of tokens; return None if the features are not plain tokens.

    Returns:
        The tokens, and the original position of each text. Shape (B,).
    """
    arrays = {name: value for name, value in features.items() if hasattr(value, "shape")}
    settings = {name: value for name, value in features.items() if name not in arrays}
    mask = arrays.get("attention_mask")
    if (
        mask is None
        or "input_ids" not in arrays
        or any(not isinstance(array, np.ndarray) or array.ndim != 2 for array in arrays.values())
        or any(array.shape != mask.shape for array in arrays.values())
        or not mask.size
    ):
        return None
    # A text may have no tokens.
    some = mask.any(axis=1)
    left = not mask[some, 0].all()
    if left and not mask[some, -1].all():
        return None
    padding = (mask if left else mask[:, ::-1]).argmax(axis=1)
    lengths = np.where(some, mask.shape[1] - padding, 1)
    order = np.argsort(-lengths, kind="stable")
    return Tokens({name: array[order] for name, array in arrays.items()}, settings, lengths[order], left), order


def _vectors(model: Any, passes: ForwardPasses, tokens: Tokens, normalize: bool) -> NDArray[np.float32]:
    """Return the vectors of tokens, truncated and normalized as `encode` does. Shape (B, D)."""
    import torch
    from sentence_transformers.util import truncate_embeddings

    vectors = truncate_embeddings(passes.embeddings(tokens), getattr(model, "truncate_dim", None))
    with torch.inference_mode():
        if normalize:
            vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
        found: NDArray[np.float32] = vectors.float().cpu().numpy()
    return found


def _one_ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Map a function in a thread that already computes the next result while the current one is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming: Future[R] | None = None
        for item in items:
            before, coming = coming, thread.submit(function, item)
            if before is not None:
                yield before.result()
        if coming is not None:
            yield coming.result()
