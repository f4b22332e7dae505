"""Models in this process: loaded once, identified by fingerprint, and rejected after a change.

Steps hold a `ModelHandle` instead of a model. It pickles to fingerprints; a forked worker finds the model again, and a
spawned worker loads it from its path.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hnm_datasets import checks
from hnm_datasets.models.fingerprint import ModelDigests, model_digests, quick_digests, quick_settings
from hnm_datasets.runtime.workers import in_worker
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.json_files import read_object

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

#: A model, its path or Hub id, or a function from B texts to an array of shape (B, D).
EmbeddingModel: TypeAlias = "SentenceTransformer | str | Callable[[list[str]], Any] | LoadedModel | ModelHandle"
#: A model, its path or Hub id, or a function from B (query, passage) pairs to B scores.
PairModel: TypeAlias = "CrossEncoder | str | Callable[[list[tuple[str, str]]], Any] | LoadedModel | ModelHandle"
#: A model, its path or Hub id, or a function from B texts to a sparse matrix of shape (B, V).
SparseModel: TypeAlias = "SparseEncoder | str | Callable[[list[str]], Any] | LoadedModel | ModelHandle"
#: A model, its path or Hub id, or a function from B texts to B arrays of shape (tokens, D).
TokenModel: TypeAlias = "MultiVectorEncoder | str | Callable[[list[str]], Any] | LoadedModel | ModelHandle"

#: The supported classes of models, and the input and output of a function used instead.
_KINDS = {
    "SentenceTransformer": "from texts to vectors",
    "SparseEncoder": "from texts to a sparse matrix",
    "MultiVectorEncoder": "from texts to arrays of token vectors",
    "CrossEncoder": "from (query, passage) pairs to scores",
}
#: The steps that accept each class of models, for error messages.
_USES = {
    "SentenceTransformer": "Use DenseNegatives to mine with it.",
    "SparseEncoder": "Use SparseNegatives to mine with it, or BiEncoderScores to score with it.",
    "MultiVectorEncoder": "Use LateInteractionNegatives to mine with it, or LateInteractionScores to score with it.",
    "CrossEncoder": "Use CrossEncoderScores to score with it.",
}

#: Texts to tokenize at once when counting tokens, to limit memory.
_TOKENIZED = 1024


class LoadedModel:
    """A model in this process, with its fingerprint and a description that detects changes.

    Attributes:
        model: The model, or a function used instead.
        fingerprint: 32 hexadecimal digits.
        source: The path or Hub id from which it was loaded here, if any.
        is_function: Whether it is a function.
        label: What people call it, if that is known.
    """

    def __init__(
        self,
        model: Any,
        fingerprint: str,
        *,
        is_function: bool,
        source: str | None = None,
        label: str | None = None,
        digests: ModelDigests | None = None,
    ) -> None:
        self.model, self.fingerprint, self.is_function, self.source = model, fingerprint, is_function, source
        self.label = label or source
        self._process = os.getpid()
        # A full description of the weights and settings, and a quick one.
        self._digests = digests
        self._seen = None if is_function else quick_digests(model)

    def check_usable(self) -> None:
        """Raise if the model has changed or cannot be used in this process; in a worker, limit it to one core."""
        self.check_unchanged()
        if self.is_function:
            return
        if os.getpid() != self._process and self.model.device.type != "cpu":
            raise RuntimeError(
                f"The model is on {self.model.device}, which a forked worker cannot use. Remove num_proc: one process "
                f"keeps a GPU busy. To use several GPUs, encode the corpus with corpus.embed(model, devices=[...])."
            )
        if in_worker():
            import torch

            # After a fork, the threads of the parent no longer exist, and the workers share the cores.
            torch.set_num_threads(1)
            os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def check_unchanged(self) -> None:
        """Raise if the model has changed since it was fingerprinted, because the fingerprint would be wrong."""
        if not self.is_unchanged():
            raise RuntimeError(
                "The model has changed since the step was created, by training or by a setting. A step is valid only "
                "for the weights it was created with. Create the step again after each change, for example "
                "DenseNegatives(corpus, model)."
            )

    def is_unchanged(self) -> bool:
        """Return whether the model is unchanged since it was fingerprinted."""
        if self.is_function:
            return True
        seen = quick_digests(self.model)
        if seen != self._seen:
            if not self.is_described_by(model_digests(self.model)):
                return False
            self._seen = seen
        return True

    def is_described_by(self, digests: ModelDigests) -> bool:
        """Return whether `digests`, of the current state of the model, match those of this model."""
        return self._digests == digests

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Any]:
        """Provide the model; changes that its use makes, such as a table that a layer fills, are accepted."""
        yield self.model
        if self._seen is not None and self._digests is not None:
            settings = quick_settings(self.model)
            if settings != self._seen.settings:
                self._digests = self._digests._replace(settings=model_digests(self.model).settings)
                self._seen = self._seen._replace(settings=settings)


#: The models that steps of this process hold; a forked worker inherits them.
_LOADED: weakref.WeakSet[LoadedModel] = weakref.WeakSet()


def load_model(
    model: EmbeddingModel | SparseModel | TokenModel | PairModel,
    name: str | None,
    *,
    kind: str = "SentenceTransformer",
    owner: str | None = None,
) -> LoadedModel:
    """Load a model from its path, if a path is given, and fingerprint it.

    Args:
        model: A model, its path or Hub id, a function, or a model that is already loaded.
        name: The name of a function's outputs.
        kind: The expected class of the model: `"SentenceTransformer"`, `"SparseEncoder"`, `"MultiVectorEncoder"` or
            `"CrossEncoder"`.
        owner: The calling step or function, for errors; None for the class of the model.

    Raises:
        OSError: The model cannot be found or read.
        TypeError: `model` is not a model of this class, a path or a function.
        ValueError: A function has no name, a model has one, or loading from the path would add random weights.
    """
    if isinstance(model, ModelHandle):
        model = model.loaded
    if isinstance(model, LoadedModel):
        model.check_unchanged()
        if name is None or not model.is_function or _function_fingerprint(name) == model.fingerprint:
            return model
        model = model.model
    source = model if isinstance(model, str) else None
    wanted: tuple[Any, ...] = ()
    # Importing sentence-transformers takes seconds, and a function does not need it.
    if source is not None or "sentence_transformers" in sys.modules or not callable(model):
        import sentence_transformers

        wanted = (getattr(sentence_transformers, kind),)
    if source is not None:
        model = _read(source, kind, wanted[0], owner or kind)
    if isinstance(model, wanted):
        if name is not None:
            raise ValueError(f"A {kind} is fingerprinted by its weights. Remove fingerprint=.")
        digests = model_digests(model)
        for known in list(_LOADED):
            if known.model is model and known.is_described_by(digests):
                return known
        loaded = LoadedModel(
            model,
            digests.fingerprint,
            is_function=False,
            source=source,
            label=_label_of(model, source),
            digests=digests,
        )
    elif callable(model) and not _is_model(model):
        if not isinstance(name, str) or not name:
            raise ValueError(
                "A function cannot be fingerprinted from its code. Name it with fingerprint='...', for example with "
                "the model and version of the service, and change the name whenever its outputs change."
            )
        loaded = LoadedModel(model, _function_fingerprint(name), is_function=True, label=name)
    else:
        raise TypeError(
            f"model must be a {kind}, its path or Hub id, or a function {_KINDS[kind]}, got "
            f"{type(model).__name__}.{_way_out(model, kind)}"
        )
    _LOADED.add(loaded)
    return loaded


def saved_kind(source: str) -> str | None:
    """Return the class of a model saved by sentence-transformers at a path or Hub id; None for other models."""
    from sentence_transformers.util import load_file_path

    path = load_file_path(source, "config_sentence_transformers.json")
    return None if path is None else read_object(Path(path)).get("model_type", "SentenceTransformer")


def kind_of(model: object) -> str | None:
    """Return the class of a model or of a saved model; None for anything else.

    Args:
        model: A model, its path or Hub id, or a model that is already loaded.
    """
    if isinstance(model, ModelHandle):
        return model._kind
    if isinstance(model, str):
        return saved_kind(model)
    model = model.model if isinstance(model, LoadedModel) else model
    names = [kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("sentence_transformers.")]
    return next((name for name in names if name in _KINDS), None)


def _read(source: str, kind: str, wanted: Any, owner: str) -> Any:
    """Load a model; raise if it is of another class, because sentence-transformers would add random weights."""
    checks.source_of_files(owner, source)
    if kind == "CrossEncoder":
        return _constructed(source, wanted, owner)
    saved = saved_kind(source)
    if saved is not None and saved != kind and {saved, kind} <= _KINDS.keys():
        raise TypeError(f"The model at {source!r} is a {saved}, but a {kind} is needed. {_USES[saved]}")
    model = _constructed(source, wanted, owner)
    if saved is None and any(type(module).__name__ == "SparseAutoEncoder" for module in model):
        raise ValueError(
            f"The model at {source!r} has no weights for sparse vectors; SparseEncoder would initialize them randomly. "
            f"Pass a model saved as a SparseEncoder, or a model for masked language modeling."
        )
    if saved is None and kind == "MultiVectorEncoder" and not _is_colbert(model):
        raise ValueError(
            f"The model at {source!r} has no weights for token vectors; MultiVectorEncoder would initialize a "
            f"projection randomly. Pass a model saved as a MultiVectorEncoder, or a ColBERT."
        )
    return model


def _constructed(source: str, wanted: Any, owner: str) -> Any:
    """Load a model; name it and the step in the error if that fails, because the cause often names neither."""
    try:
        return wanted(source)
    except Exception as error:
        # The first line says what failed; the rest is advice about the connection.
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        message = (
            f"{owner}: cannot load the model {source!r}: {cause}. Check the name, or pass a local folder or a loaded "
            f"model."
        )
        for kind in (FileNotFoundError, OSError, ValueError):
            if isinstance(error, kind):
                raise kind(message) from error
        error.add_note(message)
        raise


def _is_colbert(model: Any) -> bool:
    """Return whether a model of token vectors has all its weights, although sentence-transformers did not save it."""
    names = getattr(getattr(model[0], "config", None), "architectures", None) or []
    return "HF_ColBERT" in names or any(name.endswith("ForRetrieval") for name in names)


def label_of(model_fingerprint: str) -> str | None:
    """Return the name of a model that this process has loaded, preferably not a path; None if unknown."""
    labels = {one.label for one in _LOADED if one.fingerprint == model_fingerprint and one.label}
    return min(labels, key=lambda label: (Path(label).is_absolute(), label), default=None)


def _label_of(model: Any, source: str | None) -> str | None:
    """Return what people call a model: its path or Hub id, the id in its card, or the source of its weights."""
    card = getattr(model, "model_card_data", None)
    base, revision = (getattr(card, name, None) for name in ("base_model", "base_model_revision"))
    config = getattr(getattr(model, "transformers_model", None), "config", None)
    name = source or base or getattr(card, "model_id", None) or getattr(config, "name_or_path", None) or None
    return f"{name} (revision {revision[:12]})" if name and name == base and isinstance(revision, str) else name


def _is_model(model: object) -> bool:
    """Return whether an object is a model of transformers or sentence-transformers, and not a function."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(model).__mro__}
    return "torch.nn.modules.module.Module" in names and any(
        name.startswith(("transformers.", "sentence_transformers.")) for name in names
    )


def _way_out(model: object, kind: str) -> str:
    if not _is_model(model):
        return ""
    if type(model).__module__.startswith("transformers."):
        what = "the scores" if kind == "CrossEncoder" else "the pooling"
        return f" {kind}(path) adds the tokenizer and {what}; save the model to that path first."
    if kind != "CrossEncoder" and (use := _USES.get(type(model).__name__)):
        return f" {use}"
    return " To use it anyway, wrap it in a function and give that a name: lambda texts: ..., fingerprint='...'."


def _function_fingerprint(name: str) -> str:
    return fingerprint({"kind": "function", "name": name})


def token_counts(loaded: LoadedModel, texts: Sequence[str]) -> NDArray[np.int64]:
    """Count the tokens of each text, up to the model's limit; count characters if the model has no text tokenizer.

    Batches of texts with the same number of tokens need no padding. sentence-transformers sorts texts by characters,
    which leaves a quarter of the tokens of short passages to padding.

    Args:
        loaded: A model or function.
        texts: B texts.

    Returns:
        Shape (B,).
    """
    from transformers import PreTrainedTokenizerBase

    tokenizer = getattr(loaded.model, "tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    counts = np.empty(len(texts), dtype=np.int64)
    # Many tokenizers have a huge limit instead of none, and warn about it if truncation is requested.
    cut = tokenizer.model_max_length < 1_000_000
    for start in range(0, len(texts), _TOKENIZED):
        part = list(texts[start : start + _TOKENIZED])
        found = tokenizer(part, add_special_tokens=False, truncation=cut, return_attention_mask=False, verbose=False)
        counts[start : start + len(part)] = [len(ids) for ids in found["input_ids"]]
    return counts


class ModelHandle:
    """A reference to a model, for steps; it pickles to the model's fingerprint and path.

    Attributes:
        model_fingerprint: 32 hexadecimal digits.
        source: The path or Hub id from which the model was loaded, if any.
    """

    _kind = "SentenceTransformer"

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded: LoadedModel | None = loaded
        self.model_fingerprint = loaded.fingerprint
        self.source = loaded.source

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if the model is in this process and has changed since the handle was created."""
        if self._loaded is not None:
            self._loaded.check_unchanged()

    def __getstate__(self) -> dict[str, Any]:
        self.check_unchanged()
        return {name: value for name, value in vars(self).items() if name != "_loaded"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _loaded=None)

    @property
    def loaded(self) -> LoadedModel:
        """The model, loaded if necessary.

        Raises:
            RuntimeError: The model has changed, or cannot be used or loaded in this process.
        """
        if self._loaded is None:
            named = (one for one in _LOADED if one.fingerprint == self.model_fingerprint)
            self._loaded = next((one for one in named if one.is_unchanged()), None)
        if self._loaded is None:
            if self.source is None:
                raise RuntimeError(self._not_here())
            self._loaded = load_model(self.source, None, kind=self._kind)
            if self._loaded.fingerprint != self.model_fingerprint:
                raise RuntimeError(
                    f"The model at {self.source!r} has changed since the step was created. Create the step again."
                )
        self._loaded.check_usable()
        return self._loaded

    @property
    def facts(self) -> dict[str, str | None]:
        """What `about.json` says of the model."""
        label = self.source if self._loaded is None else self._loaded.label
        return {"model": self.model_fingerprint, "model_name": label}

    def _not_here(self) -> str:
        """Return the error message for a model that is not in this process."""
        return (
            f"The model {self.model_fingerprint} was passed as an object and is not available in this process. For "
            f"spawned processes, pass the path or Hub id of the model; each process loads it once."
        )

    @property
    def name(self) -> str:
        """The name of the model for display: its source or, without one, its fingerprint."""
        return repr(self.source) if self.source else f"model {self.model_fingerprint}"
