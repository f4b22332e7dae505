"""A model's name, made of everything that determines its answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from hnm_datasets.models.descriptions import Description, combined

if TYPE_CHECKING:
    import torch

#: Attributes that do not change answers: where a model came from, what it is used for, what is filled in by use.
_UNRELATED: dict[str, frozenset[str]] = {
    "torch.nn.modules.module:Module": frozenset(
        {
            *("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_compiled_call_impl"),
            *("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
            *("_forward_pre_hooks_with_kwargs", "_is_full_backward_hook", "_backward_hooks", "_backward_pre_hooks"),
            *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks"),
            *("_load_state_dict_post_hooks", "_is_hf_initialized", "_hf_hook", "gradient_checkpointing"),
        }
    ),
    "sentence_transformers.base.model:BaseModel": frozenset(
        {
            *("model_card_data", "_model_card_vars", "_model_card_text", "_device_map", "_modules_placed"),
            *("_accelerate_placement_hook", "is_hpu_graph_enabled", "trust_remote_code"),
            *("_similarity", "_similarity_pairwise", "_similarity_fn_name"),
        }
    ),
    # The prompt goes with each use of these, and is part of the name of an encoder.
    "sentence_transformers.sentence_transformer.model:SentenceTransformer": frozenset(
        {"prompts", "default_prompt_name"}
    ),
    "sentence_transformers.multi_vector_encoder.model:MultiVectorEncoder": frozenset(
        {"prompts", "default_prompt_name", "_legacy"}
    ),
    "sentence_transformers.base.modules.transformer:Transformer": frozenset(
        {"_prompt_length_mapping", "_declared_forward_params", "input_formatter"}
    ),
    "sentence_transformers.sparse_encoder.modules.splade_pooling:SpladePooling": frozenset({"embedding_dimension"}),
    "transformers.modeling_utils:PreTrainedModel": frozenset(
        {
            *(
                "name_or_path",
                "_tp_plan",
                "_ep_plan",
                "_pp_plan",
                "_fsdp_plan",
                "_no_split_modules",
                "_tied_weights_keys",
            ),
            *("all_tied_weights_keys", "_keep_in_fp32_modules", "_keep_in_fp32_modules_strict", "_weight_conversions"),
            *("_skip_keys_device_placement", "_keys_to_ignore_on_load_unexpected", "_keys_to_ignore_on_save"),
            *("_keys_to_ignore_on_load_missing", "_hf_peft_config_loaded", "generation_config", "loss_type"),
        }
    ),
    "transformers.configuration_utils:PreTrainedConfig": frozenset(
        {
            *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "_commit_hash"),
            *("_post_init_done", "gradient_checkpointing", "problem_type", "_auto_class", "auto_map"),
        }
    ),
    "transformers.tokenization_utils_base:PreTrainedTokenizerBase": frozenset(
        {
            *("init_inputs", "init_kwargs", "name_or_path", "files_loaded", "deprecation_warnings", "verbose"),
            *("_in_target_context_manager", "_processor_class", "vocab_file", "_auto_class"),
        }
    ),
    "peft.config:PeftConfigMixin": frozenset(
        {
            *("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping", "task_type"),
        }
    ),
}
#: Methods of classes that are replaced to count or time calls.
_WATCHED = frozenset({"encode", "encode_query", "encode_document", "predict", "rank"})
_PROMPT = "query: "
_TEXTS = (
    "a plate",
    "The Quick BROWN fox, which jumped 1,234.5 times over (lazy) dogs - didn't it?",
    "Straße naïve ÀÉ  ﬁne \t Ωμέγα Москва İstanbul",
    "नमस्ते 你好世界 こんにちは 안녕하세요 مرحبا שלום สวัสดี 🙂",
)
_WORDS = "plates and waves, 12 Islands; rivers of ice (moved) slowly through uninhabitable valleys."


class ModelDigests(NamedTuple):
    """A model's weights, and all else that determines its answers.

    Attributes:
        weights: Digest of the parameters and saved buffers.
        settings: Digest of the classes, their attributes and the tokenizers.
        behavior: Digest of the tokens of some texts; where there are none, of rounded answers.
    """

    weights: bytes
    settings: bytes
    behavior: bytes

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits."""
        return combined(*self).hex()


def model_fingerprint(model: torch.nn.Module) -> str:
    """Name a sentence-transformers model by everything that determines its answers.

    That is: the weights with their precision; every attribute of every module, configuration and tokenizer, private
    ones too; functions by their code, unless an installed library holds them; and the tokens of some texts in several
    scripts, one of them longer than the model reads. If a part cannot be described, rounded answers stand for it.

    Where the model was loaded from, the device it is on, and whether it is in training mode do not matter. Prompts of a
    `SentenceTransformer` are not part of it: they go with each use. Those of a `CrossEncoder` are. Settings of the
    process, such as torch's autocast, are not part of it either.

    The weights are read once at some gigabytes per second: about 0.04 s for MiniLM's 87 MiB and its tokenizer; those
    on a GPU are copied from there one tensor at a time.

    Args:
        model: A `SentenceTransformer`, a `SparseEncoder`, a `MultiVectorEncoder` or a `CrossEncoder`.

    Returns:
        32 hexadecimal digits.

    Raises:
        ValueError: The weights cannot be read: they are not loaded, or another runtime (ONNX, OpenVINO) holds them.
    """
    return model_digests(model).fingerprint


def model_digests(model: torch.nn.Module) -> ModelDigests:
    """Describe a model in full, see `model_fingerprint`."""
    backend = getattr(model, "backend", "torch")
    if backend != "torch":
        raise ValueError(
            f"A model with the {backend} backend keeps its weights out of reach, so they cannot be fingerprinted. Pass "
            f"a function instead, and name it yourself: lambda texts: model.encode(texts), fingerprint='...'."
        )
    for name, tensor in model.state_dict().items():
        if getattr(tensor, "is_meta", False):
            raise ValueError(
                f"The weights {name!r} are on the meta device: they were never loaded. Load the model on a real "
                f"device, for example SentenceTransformer(path, device='cpu')."
            )
    description = _ModelDescription(quick=False)
    settings = description.digest(model)
    tokens = _tokens(model, description, long=True)
    answers = b"" if tokens is not None and not description.opaque else _rounded_answers(model)
    return ModelDigests(combined(*description.weights), settings, combined(tokens or b"", answers))


def module_digest(module: torch.nn.Module) -> str:
    """Name a module that is used beside a model, by its class, settings and weights. 32 hexadecimal digits."""
    description = _ModelDescription(quick=False)
    return combined(description.digest(module), *description.weights).hex()


def quick_digests(model: torch.nn.Module) -> ModelDigests:
    """Describe a model so that a change in this process is noticed, without reading the weights.

    A tensor is told by its address, its version and some of its numbers: writing through `.data`, as adapters and
    optimizers may, counts no version.
    """
    description = _ModelDescription(quick=True)
    settings = description.digest(model)
    tokens = _tokens(model, description, long=False)
    return ModelDigests(combined(*description.weights), settings, tokens or b"")


def quick_settings(model: torch.nn.Module) -> bytes:
    """Describe the settings alone, as in `quick_digests`."""
    return _ModelDescription(quick=True, with_weights=False).digest(model)


class _ModelDescription(Description):
    """A description that knows modules, configurations and tokenizers.

    Attributes:
        with_weights: Whether parameters and saved buffers are read.
        weights: Their digests, in the order of the modules.
    """

    def __init__(self, *, quick: bool, with_weights: bool = True) -> None:
        super().__init__(quick=quick)
        self.with_weights = with_weights
        self.weights: list[bytes] = []
        self._filters: dict[type, frozenset[str]] = {}

    def parts(self, value: Any) -> Iterable[bytes]:
        import torch

        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, torch.nn.Module):
            return self._module(value)
        if type(value).__module__ == "tokenizers" and hasattr(value, "to_str"):
            return [b"tokenizer", self._backend(value, whole=True)]
        return super().parts(value)

    def attributes(self, value: Any) -> dict[str, Any]:
        kind = type(value)
        if kind not in self._filters:
            names = (f"{base.__module__}:{base.__qualname__}" for base in kind.__mro__)
            self._filters[kind] = frozenset().union(*(_UNRELATED.get(name, frozenset()) for name in names))
        unrelated = self._filters[kind]
        found = super().attributes(value)
        found = {key: item for key, item in found.items() if key not in unrelated and "cache" not in key}
        if "_similarity_fn_name" in unrelated and hasattr(value, "similarity_fn_name"):
            # It is decided when it is first asked for.
            found["similarity_fn_name"] = value.similarity_fn_name
        if "module_kwargs" in found:
            # None of a model that was made here, lists of nothing of one that was read from a folder.
            found["module_kwargs"] = {key: item for key, item in (found["module_kwargs"] or {}).items() if item}
        fast = found.get("_tokenizer")
        if hasattr(fast, "to_str"):
            # Truncation and padding come first in it. Each call of a tokenizer of transformers sets them again.
            found["_tokenizer"] = self._backend(fast, whole=False)
            found.pop("_vocab", None)
        return found

    def _backend(self, tokenizer: Any, *, whole: bool) -> bytes:
        if self.quick:
            return repr(id(tokenizer)).encode()
        described: str = tokenizer.to_str()
        start = 0 if whole else max(0, described.find('"added_tokens"'))
        return xxhash.xxh3_128_digest(described[start:].encode("utf-8", "surrogatepass"))

    def _module(self, module: torch.nn.Module) -> Iterable[bytes]:
        kind = type(module)
        hooks = [list(hooks.values()) for hooks in (module._forward_pre_hooks, module._forward_hooks)]
        parts = [b"module", self.digest(kind), self.digest(hooks), self.digest(self.attributes(module))]
        if not self.quick:
            parts.append(self.patches(kind, unless=_WATCHED))
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            parts.append(name.encode())
            if tensor is None:
                continue
            if name in module._non_persistent_buffers_set:  # made by the class; some are made again for long texts
                parts.append(self.digest(tensor))
            elif self.with_weights:
                self.weights.append(combined(name.encode(), self.digest(tensor)))
        for name, child in module._modules.items():
            parts += [name.encode(), self.digest(child)]
        return parts

    def _tensor(self, tensor: torch.Tensor) -> Iterable[bytes]:
        import torch

        about = repr((str(tensor.dtype), tuple(tensor.shape), str(tensor.layout))).encode()
        if tensor.is_meta:
            return [b"tensor", about]
        tensor = tensor.detach()
        if self.quick:
            flat = tensor.reshape(-1)
            sample = flat[:: max(1, len(flat) // 16)].tolist() if tensor.layout == torch.strided else []
            place = tensor.data_ptr() if tensor.layout == torch.strided else id(tensor)
            version = None if tensor.is_inference() else tensor._version
            return [b"tensor", about, repr((place, version, sample)).encode()]
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        array: Any = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [b"tensor", about, xxhash.xxh3_128_digest(memoryview(array))]


def _tokens(model: Any, description: Description, *, long: bool) -> bytes | None:
    """Describe what the model's first module makes of some texts; None if that fails."""
    repeats = 1 + _length(model) // 12 if long else 4
    texts = [*_TEXTS, " ".join(f"{number} {_WORDS}" for number in range(repeats))]
    inputs: list[Any] = [(text, other) for text, other in zip(texts, texts[::-1], strict=True)]
    if not _reads_pairs(model):
        inputs = texts
    settings: list[dict[str, Any]] = [{}]
    if long and not _reads_pairs(model):
        settings = [{"task": "query", "prompt": _PROMPT}, {"task": "document"}]
    try:
        found = [model.preprocess(inputs, **each) for each in settings]
    except Exception:  # a module of the user's may raise anything; the answers stand for it then
        return None
    return combined(*(description.digest(_plain_features(each)) for each in found))


def _plain_features(features: Mapping[str, Any]) -> dict[str, Any]:
    """Copy tensors to arrays, which are described by their numbers also in a quick description."""
    return {
        name: value.detach().cpu().numpy().tobytes() if hasattr(value, "detach") else value
        for name, value in features.items()
    }


def _length(model: Any) -> int:
    """Return how many tokens the model reads at most; some thousands where it has no limit."""
    limit = getattr(model, "max_seq_length", None)
    return int(limit) if isinstance(limit, (int, float)) and limit < 200_000 else 2_000


def _rounded_answers(model: Any) -> bytes:
    """Describe a model's answers, coarsely: processors and batches change their last digits."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.inference_mode():
            if _reads_pairs(model):
                answers = model.predict(list(zip(_TEXTS, _TEXTS[::-1], strict=True)), show_progress_bar=False)
            elif type(model).__name__ == "MultiVectorEncoder":
                answers = np.concatenate(model.encode(list(_TEXTS), show_progress_bar=False, convert_to_numpy=True))
            else:
                answers = model.encode(list(_TEXTS), show_progress_bar=False, convert_to_tensor=True)
                answers = (answers.to_dense() if answers.is_sparse else answers).float().cpu().numpy()
    except Exception:  # it reads no texts, and will say so when it is used
        return b"no answer"
    finally:
        for module, training in modes:
            module.training = training
    largest = float(np.abs(answers).max(initial=0.0)) or 1.0
    return np.round(np.asarray(answers, dtype=np.float64) / largest, 2).astype(np.float32).tobytes()


def _reads_pairs(model: Any) -> bool:
    return hasattr(model, "predict")
