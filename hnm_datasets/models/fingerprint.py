"""A model's name, made of everything that determines its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    import torch
from hnm_datasets.storage.digests import fingerprint


def model_fingerprint(model: torch.nn.Module) -> str:
    """Name a sentence-transformers model by what determines its answers.

    That is: the architecture and its settings, the weights with their precision, the tokenizer, the longest input, the
    truncation of vectors and the similarity function. Where the model was loaded from, the device it is on, and whether
    it is in training mode do not matter. Prompts are not part of the model: they go with each use of it.

    The weights are read once at some gigabytes per second: 0.02 to 0.04 s for MiniLM's 87 MiB and its tokenizer; those
    on a GPU are copied from there one tensor at a time.

    Args:
        model: A `SentenceTransformer` or a `CrossEncoder`.

    Returns:
        32 hexadecimal digits.

    Raises:
        ValueError: The weights cannot be read: they are not loaded, or another runtime (ONNX, OpenVINO) holds them.
    """
    backend = getattr(model, "backend", "torch")
    if backend != "torch":
        raise ValueError(
            f"A model with the {backend} backend keeps its weights out of reach, so they cannot be fingerprinted. Pass "
            f"a function instead, and name it yourself: lambda texts: model.encode(texts), fingerprint='...'."
        )
    hasher = xxhash.xxh3_128()
    tokenizers: dict[int, Any] = {}
    for name, module in model.named_modules():
        hasher.update(repr((name, type(module).__module__, type(module).__qualname__, _settings(module))).encode())
        for part in ("tokenizer", "processor"):
            tokenizer = getattr(module, part, None)
            if tokenizer is not None:
                tokenizers.setdefault(id(tokenizer), tokenizer)
    for tokenizer in tokenizers.values():
        hasher.update(_tokenizer_digest(tokenizer).encode())
    for name, tensor in model.state_dict().items():
        hasher.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        hasher.update(_bytes_of(name, tensor))
    for name in ("max_seq_length", "truncate_dim", "similarity_fn_name", "num_labels", "activation_fn"):
        hasher.update(repr((name, _plain(getattr(model, name, None)))).encode())
    return hasher.hexdigest()


def _settings(module: Any) -> list[object]:
    """Return what a module's class and weights do not tell: its options and its configuration."""
    settings: list[object] = [module.extra_repr()]
    if hasattr(module, "get_config_dict"):
        settings.append(_plain(module.get_config_dict()))
    # Where a model was loaded from and which version of a library wrote it do not change its answers.
    unrelated = {"_name_or_path", "name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype"}
    unrelated |= {"base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"}
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_diff_dict"):
        settings.append(_plain({key: value for key, value in config.to_diff_dict().items() if key not in unrelated}))
    adapters = getattr(module, "peft_config", None)
    if isinstance(adapters, Mapping):
        settings.append(
            _plain(
                {
                    name: {key: value for key, value in adapter.to_dict().items() if key not in unrelated}
                    for name, adapter in adapters.items()
                }
            )
        )
    return settings


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return repr(sorted((str(key), _plain(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return repr([_plain(item) for item in value])
    if isinstance(value, (set, frozenset)):
        return repr(sorted(_plain(item) for item in value))
    # Whatever shows its address in memory is known by its class alone.
    return type(value).__qualname__ if " at 0x" in repr(value) else repr(value)


def _tokenizer_digest(tokenizer: Any) -> str:
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor for several modalities
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(fast, "to_str"):
        # Truncation and padding come first, and every call sets them anew; the longest input is hashed with the model.
        described = fast.to_str()
        return xxhash.xxh3_128_hexdigest(described[max(0, described.find('"added_tokens"')) :].encode())
    return fingerprint({"class": type(tokenizer).__qualname__, "vocabulary": dict(tokenizer.get_vocab())})


def _bytes_of(name: str, tensor: Any) -> memoryview:
    import torch

    if tensor.is_meta:
        raise ValueError(
            f"The weights {name!r} are on the meta device: they were never loaded. Load the model on a real device, "
            f"for example SentenceTransformer(path, device='cpu')."
        )
    array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
