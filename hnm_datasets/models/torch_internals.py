"""Internals of torch, which a new release may change."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def hooks_of(module: torch.nn.Module) -> list[list[Any]]:
    """Return the hooks that run before and after the forward pass of a module."""
    return [list(hooks.values()) for hooks in (module._forward_pre_hooks, module._forward_hooks)]


def tensors_of(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor | None, bool]]:
    """Yield the name of each parameter and buffer of a module, its tensor, and whether it is saved."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        yield name, tensor, name not in module._non_persistent_buffers_set


def children_of(module: torch.nn.Module) -> dict[str, torch.nn.Module | None]:
    """Return the submodules of a module by name, also those that are registered twice."""
    return module._modules


def without_weights(module: Any, copies: dict[int, Any]) -> Any:
    """Copy a module but share its weights, so that each copy has its own state, such as a table of positions.

    Args:
        module: The module.
        copies: The copies of the submodules that were copied before, by the identity of the original.
    """
    if id(module) not in copies:
        twin = copies[id(module)] = copy.copy(module)
        twin._buffers = module._buffers.copy()
        twin._modules = {name: child and without_weights(child, copies) for name, child in module._modules.items()}
    return copies[id(module)]


def is_compiled(module: torch.nn.Module) -> bool:
    """Return whether `module.compile()` was called."""
    return getattr(module, "_compiled_call_impl", None) is not None


def inner_model(model: Any) -> Any:
    """Return the model inside a wrapper for several processes or for compilation; None without a wrapper."""
    return getattr(model, "module", None) or getattr(model, "_orig_mod", None)


def changes_of(tensor: torch.Tensor) -> int | None:
    """Return how often a tensor was changed in place; None if the tensor does not count changes."""
    return None if tensor.is_inference() else tensor._version


def integer_products(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """Multiply int8 matrices into an int32 matrix. Shapes (B, D), (D, C), (B, C)."""
    import torch

    torch._int_mm(left, right, out=out)
