"""Models in this process: loaded once, named by their content, refused when they have changed.

Steps hold a `ModelHandle` in place of a model: it pickles to fingerprints, and finds the model again in a forked worker
or loads it again by its path.
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

from hnm_datasets.models.fingerprint import ModelDigests, model_digests, quick_digests, quick_settings
from hnm_datasets.runtime.workers import in_worker
from hnm_datasets.storage.digests import fingerprint
from hnm_datasets.storage.json_files import read_object

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder

#: A model, the path or Hub id of one, or any function from B texts to an array of shape (B, D).
EmbeddingModel: TypeAlias = "SentenceTransformer | str | Callable[[list[str]], Any] | LoadedModel | ModelHandle"
#: A model, the path or Hub id of one, or any function from B (query, passage) pairs to B scores.
PairModel: TypeAlias = "CrossEncoder | str | Callable[[list[tuple[str, str]]], Any] | LoadedModel | ModelHandle"
#: A model, the path or Hub id of one, or any function from B texts to a sparse matrix of shape (B, V).
SparseModel: TypeAlias = "SparseEncoder | str | Callable[[list[str]], Any] | LoadedModel | ModelHandle"
#: A model, the path or Hub id of one, or any function from B texts to B arrays of shape (tokens, D).
TokenModel: TypeAlias = "MultiVectorEncoder | str | Callable[[list[str]], Any] | LoadedModel | ModelHandle"

#: The classes of models that are loaded, and what a function in place of one does.
_KINDS = {
    "SentenceTransformer": "from texts to vectors",
    "SparseEncoder": "from texts to a sparse matrix",
    "MultiVectorEncoder": "from texts to arrays of token vectors",
    "CrossEncoder": "from (query, passage) pairs to scores",
}
#: What a model of another class is for.
_USES = {
    "SentenceTransformer": "Mine with it by DenseNegatives.",
    "SparseEncoder": "Mine with it by SparseNegatives, or score with it by BiEncoderScores.",
    "MultiVectorEncoder": "Mine with it by LateInteractionNegatives, or score with it by LateInteractionScores.",
    "CrossEncoder": "Score with it by CrossEncoderScores.",
}

#: Texts that are tokenized at a time when tokens are counted, so that few are held.
_TOKENIZED = 1024


class LoadedModel:
    """A model in this process, with its name and what it looked like when it was named.

    Attributes:
        model: The `SentenceTransformer` or `CrossEncoder`, or a function in place of it.
        fingerprint: 32 hexadecimal digits.
        source: The path or Hub id that it was loaded from here, if it was.
        is_function: Whether it is a function.
    """

    def __init__(
        self,
        model: Any,
        fingerprint: str,
        *,
        is_function: bool,
        source: str | None = None,
        digests: ModelDigests | None = None,
    ) -> None:
        self.model, self.fingerprint, self.is_function, self.source = model, fingerprint, is_function, source
        self._process = os.getpid()
        # What it is by all its weights and settings, and by what is quickly seen of them.
        self._digests = digests
        self._seen = None if is_function else quick_digests(model)

    def check_usable(self) -> None:
        """Raise if the model has changed, or cannot be used in this process; keep to one core in a worker."""
        self.check_unchanged()
        if self.is_function:
            return
        if os.getpid() != self._process and self.model.device.type != "cpu":
            raise RuntimeError(
                f"The model is on {self.model.device}, which a forked worker cannot use. Leave num_proc out: one "
                f"process keeps a GPU busy. For several GPUs encode the corpus with corpus.embed(model, devices=[...])."
            )
        if in_worker():
            import torch

            # After a fork the parent's threads are gone, and the cores belong to the other workers as well.
            torch.set_num_threads(1)
            os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def check_unchanged(self) -> None:
        """Raise if the weights have been changed since the model was named: its answers would get a wrong name."""
        if not self.is_unchanged():
            raise RuntimeError(
                "The model was changed after the step was made, by training or by a setting. A step stands for the "
                "weights that it was made with: make it again after each change, for example "
                "DenseNegatives(corpus, model)."
            )

    def is_unchanged(self) -> bool:
        """Tell whether the model is still what it was named after."""
        if self.is_function:
            return True
        seen = quick_digests(self.model)
        if seen != self._seen:
            if not self.is_described_by(model_digests(self.model)):
                return False
            self._seen = seen
        return True

    def is_described_by(self, digests: ModelDigests) -> bool:
        """Tell whether the model as it is now, described by `digests`, has the name of this one."""
        return self._digests == digests

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Any]:
        """Give the model to use; changes that its use makes, such as a table that a layer fills, keep its name."""
        yield self.model
        if self._seen is not None and self._digests is not None:
            settings = quick_settings(self.model)
            if settings != self._seen.settings:
                self._digests = self._digests._replace(settings=model_digests(self.model).settings)
                self._seen = self._seen._replace(settings=settings)


#: The models that steps of this process hold; a forked worker inherits them.
_LOADED: weakref.WeakSet[LoadedModel] = weakref.WeakSet()


def load_model(
    model: EmbeddingModel | SparseModel | TokenModel | PairModel, name: str | None, *, kind: str = "SentenceTransformer"
) -> LoadedModel:
    """Load a model by its path, if it is one, and name it.

    Args:
        model: A model, its path or Hub id, a function, or one that was loaded and named before.
        name: What names a function's answers.
        kind: The class of model that is meant: `"SentenceTransformer"`, `"SparseEncoder"`, `"MultiVectorEncoder"` or
            `"CrossEncoder"`.

    Raises:
        TypeError: `model` is something else.
        ValueError: A function comes without a name, a model with one, or loading a path would add random weights.
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
    # A function needs no sentence-transformers, which takes seconds to import.
    if source is not None or "sentence_transformers" in sys.modules or not callable(model):
        import sentence_transformers

        wanted = (getattr(sentence_transformers, kind),)
    if source is not None:
        model = _read(source, kind, wanted[0])
    if isinstance(model, wanted):
        if name is not None:
            raise ValueError(f"A {kind} is fingerprinted by its weights; leave fingerprint= out.")
        digests = model_digests(model)
        for known in list(_LOADED):
            if known.model is model and known.is_described_by(digests):
                return known
        loaded = LoadedModel(model, digests.fingerprint, is_function=False, source=source, digests=digests)
    elif callable(model) and not _is_model(model):
        if not isinstance(name, str) or not name:
            raise ValueError(
                "A function's answers cannot be told by its code. Name them with fingerprint='...', for example by the "
                "service's model and version, and change the name whenever the answers change."
            )
        loaded = LoadedModel(model, _function_fingerprint(name), is_function=True)
    else:
        raise TypeError(
            f"model must be a {kind}, its path or Hub id, or a function {_KINDS[kind]}, got "
            f"{type(model).__name__}.{_way_out(model, kind)}"
        )
    _LOADED.add(loaded)
    return loaded


def saved_kind(source: str) -> str | None:
    """Return the class of the model that sentence-transformers saved at a path or Hub id; None where it saved none."""
    from sentence_transformers.util import load_file_path

    path = load_file_path(source, "config_sentence_transformers.json")
    return None if path is None else read_object(Path(path)).get("model_type", "SentenceTransformer")


def kind_of(model: object) -> str | None:
    """Return the class of a model, or of what was saved at its path; None for anything else.

    Args:
        model: A model, its path or Hub id, or one that was loaded before.
    """
    if isinstance(model, ModelHandle):
        return model._kind
    if isinstance(model, str):
        return saved_kind(model)
    model = model.model if isinstance(model, LoadedModel) else model
    names = [kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("sentence_transformers.")]
    return next((name for name in names if name in _KINDS), None)


def _read(source: str, kind: str, wanted: Any) -> Any:
    """Read a model, unless it is one of another class, to which sentence-transformers would add random weights."""
    if kind == "CrossEncoder":
        return wanted(source)
    saved = saved_kind(source)
    if saved is not None and saved != kind and {saved, kind} <= _KINDS.keys():
        raise TypeError(f"The model at {source!r} is a {saved}, and a {kind} is wanted. {_USES[saved]}")
    model = wanted(source)
    if saved is None and any(type(module).__name__ == "SparseAutoEncoder" for module in model):
        raise ValueError(
            f"The model at {source!r} has no weights for sparse vectors, and SparseEncoder would draw them at random. "
            f"Pass a model that was saved as a SparseEncoder, or one for masked language modeling."
        )
    if saved is None and kind == "MultiVectorEncoder" and not _is_colbert(model):
        raise ValueError(
            f"The model at {source!r} has no weights for token vectors, and MultiVectorEncoder would draw a projection "
            f"at random. Pass a model that was saved as a MultiVectorEncoder, or a ColBERT."
        )
    return model


def _is_colbert(model: Any) -> bool:
    """Tell whether a model of token vectors was read with all its weights, though sentence-transformers saved none."""
    names = getattr(getattr(model[0], "config", None), "architectures", None) or []
    return "HF_ColBERT" in names or any(name.endswith("ForRetrieval") for name in names)


def _is_model(model: object) -> bool:
    """Tell whether an object is a model of transformers or sentence-transformers, which no function is."""
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
    return " To use it all the same, wrap it in a function and name that: lambda texts: ..., fingerprint='...'."


def _function_fingerprint(name: str) -> str:
    return fingerprint({"kind": "function", "name": name})


def token_counts(loaded: LoadedModel, texts: Sequence[str]) -> NDArray[np.int64]:
    """Count the tokens of each text, up to the model's limit; characters where the model has no tokenizer for texts.

    Batches of texts with equally many tokens need no padding. Equally many characters, by which sentence-transformers
    sorts, still leave a quarter of the tokens of short passages to padding.

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
    # Many tokenizers have a limit that no text reaches, and warn of it when they are asked to cut.
    cut = tokenizer.model_max_length < 1_000_000
    for start in range(0, len(texts), _TOKENIZED):
        part = list(texts[start : start + _TOKENIZED])
        found = tokenizer(part, add_special_tokens=False, truncation=cut, return_attention_mask=False, verbose=False)
        counts[start : start + len(part)] = [len(ids) for ids in found["input_ids"]]
    return counts


class ModelHandle:
    """What a step holds in place of a model.

    Attributes:
        model_fingerprint: 32 hexadecimal digits.
        source: The path or Hub id that the model was loaded from, if it was.
    """

    _kind = "SentenceTransformer"

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded: LoadedModel | None = loaded
        self.model_fingerprint = loaded.fingerprint
        self.source = loaded.source

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if the model is in this process and was changed since the handle was made."""
        if self._loaded is not None:
            self._loaded.check_unchanged()

    def __getstate__(self) -> dict[str, Any]:
        self.check_unchanged()
        return {name: value for name, value in vars(self).items() if name != "_loaded"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _loaded=None)

    @property
    def loaded(self) -> LoadedModel:
        """The model, loaded if need be.

        Raises:
            RuntimeError: It has changed, or it cannot be used or loaded in this process.
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
                    f"The model at {self.source!r} has changed since the step was made. Make the step again."
                )
        self._loaded.check_usable()
        return self._loaded

    def _not_here(self) -> str:
        """Say that the model is of another process, and the way out."""
        return (
            f"The model {self.model_fingerprint} is not in this process, and it was passed as an object. For processes "
            f"that are spawned, pass the model's path or Hub id; each loads it once."
        )

    @property
    def name(self) -> str:
        """What to call the model: its source, or else its fingerprint."""
        return repr(self.source) if self.source else f"model {self.model_fingerprint}"
