"""Fingerprints of models, computed from everything that determines their outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xxhash

from hnm_datasets.models.descriptions import Description, combined
from hnm_datasets.models.torch_internals import changes_of, children_of, hooks_of, tensors_of

if TYPE_CHECKING:
    import torch

#: Attributes that do not change the outputs: the origin of a model, its purpose, and caches.
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
    # The prompt of each call is part of the fingerprint of the encoder.
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
#: Methods that are often patched to count or time calls.
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
    """Digests of everything that determines the outputs of a model.

    Attributes:
        weights: Digest of the parameters and saved buffers.
        settings: Digest of the classes, their attributes and the tokenizers.
        behavior: Digest of the tokens of some texts or, if the model has no tokens, of rounded outputs.
    """

    weights: bytes
    settings: bytes
    behavior: bytes

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits."""
        return combined(*self).hex()


def model_fingerprint(model: torch.nn.Module) -> str:
    """Return the fingerprint of a sentence-transformers model: of everything that determines its outputs.

    It depends on the weights and their precision; on all attributes of all modules, configurations and tokenizers,
    including private ones; on the code of functions that are not part of an installed library; and on the tokens of
    some texts in several scripts, one of them longer than the model's limit. If a part cannot be described, rounded
    outputs are used instead.

    It does not depend on the origin of the model, its device or its training mode, nor on settings of the process such
    as torch's autocast. The prompts of a `SentenceTransformer` are not included, because each call has its own; those
    of a `CrossEncoder` are.

    The weights are read once, at some gigabytes per second: MiniLM (87 MiB) and its tokenizer take about 0.04 s.
    Weights on a GPU are copied to the CPU one tensor at a time.

    Args:
        model: A `SentenceTransformer`, a `SparseEncoder`, a `MultiVectorEncoder` or a `CrossEncoder`.

    Returns:
        32 hexadecimal digits.

    Raises:
        ValueError: The weights cannot be read: they are not loaded, or are in another runtime (ONNX, OpenVINO).
    """
    return model_digests(model).fingerprint


def model_digests(model: torch.nn.Module) -> ModelDigests:
    """Return the digests of a model; see `model_fingerprint`."""
    backend = getattr(model, "backend", "torch")
    if backend != "torch":
        raise ValueError(
            f"The weights of a model with the {backend} backend cannot be read, so it cannot be fingerprinted. Pass a "
            f"function and a name for it instead: lambda texts: model.encode(texts), fingerprint='...'."
        )
    for name, tensor in model.state_dict().items():
        if getattr(tensor, "is_meta", False):
            raise ValueError(
                f"The weights {name!r} are on the meta device, so they are not loaded. Load the model on a real "
                f"device, for example SentenceTransformer(path, device='cpu')."
            )
    description = _ModelDescription(quick=False)
    settings = description.digest(model)
    tokens = _tokens(model, description, long=True)
    answers = b"" if tokens is not None and not description.opaque else _rounded_answers(model)
    return ModelDigests(combined(*description.weights), settings, combined(tokens or b"", answers))


def module_digest(module: torch.nn.Module) -> str:
    """Return the digest of a module's class, settings and weights: 32 hexadecimal digits."""
    description = _ModelDescription(quick=False)
    return combined(description.digest(module), *description.weights).hex()


def quick_digests(model: torch.nn.Module) -> ModelDigests:
    """Return digests that detect changes in this process, without reading all weights.

    A tensor is identified by its address, its version and a sample of its values. The sample is needed because writes
    through `.data`, as in some adapters and optimizers, do not change the version.
    """
    description = _ModelDescription(quick=True)
    settings = description.digest(model)
    tokens = _tokens(model, description, long=False)
    return ModelDigests(combined(*description.weights), settings, tokens or b"")


def quick_settings(model: torch.nn.Module) -> bytes:
    """Return only the digest of the settings, as in `quick_digests`."""
    return _ModelDescription(quick=True, with_weights=False).digest(model)


class _ModelDescription(Description):
    """A description of modules, configurations and tokenizers.

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
            # The model sets it on first access.
            found["similarity_fn_name"] = value.similarity_fn_name
        if "module_kwargs" in found:
            # None in a new model, empty lists in one that was loaded from a folder.
            found["module_kwargs"] = {key: item for key, item in (found["module_kwargs"] or {}).items() if item}
        fast = found.get("_tokenizer")
        if hasattr(fast, "to_str"):
            # Skip truncation and padding, which come first: each call of a transformers tokenizer sets them again.
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
        parts = [b"module", self.digest(kind), self.digest(hooks_of(module)), self.digest(self.attributes(module))]
        if not self.quick:
            parts.append(self.patches(kind, unless=_WATCHED))
        for name, tensor, is_saved in tensors_of(module):
            parts.append(name.encode())
            if tensor is None:
                continue
            if not is_saved:  # created by the class; some are extended for long texts
                parts.append(self.digest(tensor))
            elif self.with_weights:
                self.weights.append(combined(name.encode(), self.digest(tensor)))
        for name, child in children_of(module).items():
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
            address = tensor.data_ptr() if tensor.layout == torch.strided else id(tensor)
            return [b"tensor", about, repr((address, changes_of(tensor), sample)).encode()]
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        array: Any = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [b"tensor", about, xxhash.xxh3_128_digest(memoryview(array))]


def _tokens(model: Any, description: Description, *, long: bool) -> bytes | None:
    """Return the digest of the tokens of some texts; None if the model cannot tokenize them."""
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
    except Exception:  # custom modules may raise anything; the outputs are used instead
        return None
    return combined(*(description.digest(_plain_features(each)) for each in found))


def _plain_features(features: Mapping[str, Any]) -> dict[str, Any]:
    """Copy tensors to bytes, so that a quick description also uses their values."""
    return {
        name: value.detach().cpu().numpy().tobytes() if hasattr(value, "detach") else value
        for name, value in features.items()
    }


def _length(model: Any) -> int:
    """Return the maximum number of tokens that the model reads; 2,000 if it has no limit."""
    limit = getattr(model, "max_seq_length", None)
    return int(limit) if isinstance(limit, (int, float)) and limit < 200_000 else 2_000


def _rounded_answers(model: Any) -> bytes:
    """Return the rounded outputs of a model; rounded, because processors and batches change their last digits."""
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
    except Exception:  # the model does not accept texts; using it will raise the error
        return b"no answer"
    finally:
        for module, training in modes:
            module.training = training
    largest = float(np.abs(answers).max(initial=0.0)) or 1.0
    return np.round(np.asarray(answers, dtype=np.float64) / largest, 2).astype(np.float32).tobytes()


def _reads_pairs(model: Any) -> bool:
    return hasattr(model, "predict")
