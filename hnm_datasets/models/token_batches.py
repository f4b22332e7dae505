"""Embedding by transformers in batches of equally many tokens, where `SentenceTransformer.encode` counts texts.

Texts are tokenized once, some hundreds at a time and beside the computing of those before, sorted by their number of
tokens, and cut into batches with next to no padding. A processor's caches hold what a layer makes of such a batch. On a
GPU a batch of short texts is as much work as one of long texts, and vectors are copied from there once a group.

Models of other shapes than a transformer that reads texts are left to their own `encode`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.models.passes import ForwardPasses, Tokens

#: Texts that are tokenized at a time, at least.
GROUP = 512

T = TypeVar("T")
R = TypeVar("R")


def reads_tokens(model: Any) -> bool:
    """Tell whether a `SentenceTransformer` or `SparseEncoder` can be given batches of tokens in place of texts.

    It begins with a transformer that reads texts as its tokenizer gives them, all of it is on one device in this
    process, and nobody changed how it encodes. A `SparseEncoder` is of SPLADE's form.
    """
    from sentence_transformers import SentenceTransformer, SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    first, device = model[0], model.device
    is_sparse = isinstance(model, SparseEncoder)
    kind = SparseEncoder if is_sparse else SentenceTransformer
    return (
        _is_unchanged(model, kind, "encode", "encode_query", "encode_document", "preprocess")
        # Others may be told how many dimensions to keep.
        and (not is_sparse or [type(module) for module in list(model)[1:]] == [SpladePooling])
        and isinstance(first, Transformer)
        and _is_unchanged(first, Transformer, "preprocess")
        and first.modalities == ["text"]
        # These pad in a way of their own, or not at all.
        and not first.processing_kwargs
        and first.query_expansion is None
        and not first.can_flatten_inputs
        # Within `accelerate`'s distributed inference `encode` shares the texts among processes.
        and getattr(model, "_distributed_inference", None) is None
        and device.type != "hpu"
        and all(tensor.device == device for tensor in (*model.parameters(), *model.buffers()))
    )


def _is_unchanged(module: Any, kind: type, *methods: str) -> bool:
    """Tell whether an object's methods are those of a class, replaced neither by a subclass nor in the object."""
    return all(getattr(type(module), name) is getattr(kind, name) and name not in vars(module) for name in methods)


def encode_groups(
    model: Any,
    groups: Sequence[list[str]],
    encode: Callable[[list[str]], NDArray[np.float32]],
    *,
    task: str,
    prompt: str,
    batch_size: int,
    normalize: bool,
) -> Iterator[NDArray[np.float32]]:
    """Encode groups of texts, each sorted into batches on its own.

    Args:
        model: A model that `reads_tokens`.
        groups: Lists of texts. Best are some hundreds each, of about the same number of characters.
        encode: What encodes a group whose features are no plain tokens.
        task: `"query"` or `"document"`.
        prompt: The text before each text.
        batch_size: Of the longest texts, how many a GPU takes at a time.
        normalize: Scale vectors to length 1.

    Yields:
        For each group its vectors, of shape (B, D).
    """
    # A tokenizer can be used by one thread at a time.
    free = threading.Lock()
    # Arrays, because making tensors of lists takes half as long as the tokenizer itself.
    arrays = {"common": {"return_tensors": "np"}}

    def tokenized(texts: list[str]) -> tuple[list[str], tuple[Tokens, NDArray[np.int64]] | None]:
        with free:
            features = model.preprocess(texts, prompt=prompt, task=task, processing_kwargs=arrays)
        return texts, _sorted_tokens(features)

    with ForwardPasses(model, task, batch_size) as passes:
        ahead = _one_ahead(tokenized, groups) if len(groups) > 1 else map(tokenized, groups)
        for texts, found in ahead:
            if found is None:
                with free:
                    vectors = encode(texts)
            else:
                tokens, order = found
                vectors = _vectors(model, passes, tokens, normalize)[np.argsort(order)]
            yield vectors


def _sorted_tokens(features: dict[str, Any]) -> tuple[Tokens, NDArray[np.int64]] | None:
    """Sort the tokens of texts by their number; None if the features are anything but that.

    Returns:
        The tokens, and the place of each of these texts before. Shape (B,).
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
    # A text may have no token at all.
    some = mask.any(axis=1)
    left = not mask[some, 0].all()
    if left and not mask[some, -1].all():
        return None
    padding = (mask if left else mask[:, ::-1]).argmax(axis=1)
    lengths = np.where(some, mask.shape[1] - padding, 1)
    order = np.argsort(-lengths, kind="stable")
    return Tokens({name: array[order] for name, array in arrays.items()}, settings, lengths[order], left), order


def _vectors(model: Any, passes: ForwardPasses, tokens: Tokens, normalize: bool) -> NDArray[np.float32]:
    """Do to the vectors of tokens what `encode` does. Shape (B, D)."""
    import torch
    from sentence_transformers.util import truncate_embeddings

    vectors = truncate_embeddings(passes.embeddings(tokens), getattr(model, "truncate_dim", None))
    with torch.inference_mode():
        if normalize:
            vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
        found: NDArray[np.float32] = vectors.float().cpu().numpy()
    return found


def _one_ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Map a function, in a thread that is at the next item while this one is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming: Future[R] | None = None
        for item in items:
            before, coming = coming, thread.submit(function, item)
            if before is not None:
                yield before.result()
        if coming is not None:
            yield coming.result()
