"""Everything that can be set on a model, and other values for it."""

import contextlib
import copy
import warnings

import numpy as np
import torch

TEXTS = ["a plate", "The Quick brown fox, on ice", "waves " * 9 + "islands of ice and the quick rivers of plates"]
PAIRS = list(zip(TEXTS, TEXTS[::-1], strict=True))
#: Kinds of objects whose attributes are settings too.
_PACKAGES = ("sentence_transformers", "transformers", "tokenizers", "torch.nn")
#: Torch's own tables, and what tells where tensors are.
_LEFT_OUT = {
    "_parameters",
    "_buffers",
    "_modules",
    "_non_persistent_buffers_set",
    "model_card_data",
    "_is_hf_initialized",
}


def answers(model):
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        if hasattr(model, "predict"):
            return np.asarray(model.predict(PAIRS, show_progress_bar=False), dtype=np.float32)
        found = [
            encode(TEXTS, prompt=prompt, show_progress_bar=False, convert_to_tensor=True)
            for encode, prompt in ((model.encode_query, "a plate "), (model.encode_document, ""))
        ]
        return torch.cat([(one.to_dense() if one.is_sparse else one).float() for one in found]).numpy()


def same(one, other):
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)


def settings_of(model):
    """Yield (path, name) once per class: of modules, configurations, tokenizers and what they hold."""
    waiting, seen, told = [(model, ())], set(), set()
    while waiting:
        owner, path = waiting.pop(0)
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        names = [name for name in getattr(owner, "__dict__", {}) if name not in _LEFT_OUT]
        for kind in type(owner).__mro__:
            if kind.__module__.startswith(_PACKAGES):
                members = [(name, one) for name, one in vars(kind).items() if not name.startswith("__")]
                names += [name for name, one in members if name not in _LEFT_OUT and is_settable(one)]
        if isinstance(owner, torch.nn.Module):
            waiting += [(child, (*path, name)) for name, child in owner._modules.items()]
        for name in dict.fromkeys(names):
            with contextlib.suppress(Exception):
                value = getattr(owner, name)
                if (type(owner), name) not in told:
                    told.add((type(owner), name))
                    yield path, name
                if type(value).__module__.startswith(_PACKAGES) and not isinstance(value, (type, torch.Tensor)):
                    waiting.append((value, (*path, name)))


def follow(model, path):
    """Return the part of a model that a path leads to."""
    for name in path:
        model = getattr(model, name)
    return model


def changed(model, path, name, value):
    """Copy a model and set one attribute of the copy."""
    other = copy.deepcopy(model)
    setattr(follow(other, path), name, value)
    return other


def is_settable(member):
    return getattr(member, "fset", None) or type(member).__name__ in ("getset_descriptor", "member_descriptor")


def others(value):
    """Return other values of the same kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 5]
    if isinstance(value, float):
        return [value * 2 + 0.5]
    if isinstance(value, str):
        return [one for one in ("left", "right", "cls", "max", "sum", "relu", "dot", "quick") if one != value]
    if value is None:
        return [4, True, "query", 0.25]
    if isinstance(value, (list, tuple)) and value:
        return [value[::-1], value[:-1], [*value, value[0]]]
    if isinstance(value, dict) and value:
        first, last = next(iter(value)), list(value)[-1]
        swapped = value | {first: value[last], last: value[first]}
        return [type(value)(swapped), {key: item for key, item in value.items() if key != first}]
    if isinstance(value, set) and value:
        return [set(sorted(value, key=str)[1:])]
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return [value * 1.5]
    if isinstance(value, torch.nn.Module):
        return [torch.nn.Tanh(), torch.nn.LeakyReLU(0.3)]
    if callable(value):
        return [torch.tanh, torch.nn.ReLU(), lambda *args, **kwargs: value(*args, **kwargs)]
    return []
