"""Internals of sentence-transformers, which a new release may change.

Importing this module takes as long as importing sentence-transformers. Modules that are also used without models import
it inside of functions.
"""

from __future__ import annotations

from typing import Any

from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.losses.gradcache import CachedLossMixin, has_static_embedding_input
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling

__all__ = [
    "CachedLossMixin",
    "embed_columns",
    "encodes_as_published",
    "has_static_embedding_input",
    "reads_plain_tokens",
]


def encodes_as_published(model: SentenceTransformer | SparseEncoder) -> bool:
    """Return whether a model encodes as its class does, in this process. A `SparseEncoder` must be a SPLADE model."""
    is_sparse = isinstance(model, SparseEncoder)
    kind = SparseEncoder if is_sparse else SentenceTransformer
    return (
        _is_unchanged(model, kind, "encode", "encode_query", "encode_document", "preprocess")
        # Other modules may have an option for the number of dimensions to keep.
        and (not is_sparse or [type(module) for module in list(model)[1:]] == [SpladePooling])
        # In distributed inference with `accelerate`, `encode` distributes the texts over processes.
        and getattr(model, "_distributed_inference", None) is None
    )


def reads_plain_tokens(module: Any) -> bool:
    """Return whether a module is a transformer that reads texts exactly as its tokenizer returns them."""
    return (
        isinstance(module, Transformer)
        and _is_unchanged(module, Transformer, "preprocess")
        and module.modalities == ["text"]
        # These options change the padding.
        and not module.processing_kwargs
        and module.query_expansion is None
        and not module.can_flatten_inputs
    )


def _is_unchanged(module: Any, kind: type, *methods: str) -> bool:
    """Return whether neither a subclass nor the object itself replaces methods of a class."""
    return all(getattr(type(module), name) is getattr(kind, name) and name not in vars(module) for name in methods)
