"""The candidates of an exact search on a device of torch, such as a GPU: products in bfloat16 and their bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.bounds import BLOCK, OUTPUT, Blocks, as_asked, as_products, widths

#: Queries of a turn and passages of a part: their scores take some gigabytes.
TURN = 2048
_PART = 256 * BLOCK


class Found(NamedTuple):
    """What may be among the best of B queries.

    Attributes:
        rows: Row numbers, those first that may be the best. Shape (B, F).
        counts: How many of them count, in each line. Shape (B,).
        sure: Whether nothing else can be among the best. Shape (B,).
    """

    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    sure: NDArray[np.bool_]


def find(
    queries: NDArray[np.float32], vectors: NDArray[Any], k: int, similarity: str, blocks: Blocks, device: str
) -> Found:
    """Find what may be among the k best vectors of each query.

    The vectors pass through the device in parts, so it needs memory for a part and its scores. Where all of them take
    little of its memory, they stay there with `blocks`, for the next batch.

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D).
        k: At most N.
        similarity: As for `exact.search`.
        blocks: What is known of the vectors.
        device: The name of the device.
    """
    import torch

    most = min(2 * k + 64, len(vectors))
    asked = torch.from_numpy(as_asked(queries, similarity)).to(device).bfloat16()
    errors = torch.from_numpy(widths(queries, blocks, similarity, rounded=True)).to(device)
    highest = torch.empty(len(queries), 0, device=device)
    lowest, rows = highest, highest.long()
    with _sums_in_float32():
        for first in range(0, len(vectors), _PART):
            part = _part(vectors, first, similarity, blocks, device)
            scores = (asked @ part.T).float()
            own = errors[:, first // BLOCK : first // BLOCK + -(-len(part) // BLOCK)]
            off = scores.abs().mul_(OUTPUT)
            for number in range(own.shape[1]):
                off[:, number * BLOCK : (number + 1) * BLOCK] += own[:, number : number + 1]
            high, places = (scores + off).topk(min(most, len(part)), dim=1)
            low = (scores - off).gather(1, places)
            highest, lowest = torch.cat([highest, high], dim=1), torch.cat([lowest, low], dim=1)
            rows = torch.cat([rows, places + first], dim=1)
            highest, order = highest.topk(most if highest.shape[1] > most else highest.shape[1], dim=1)
            lowest, rows = lowest.gather(1, order), rows.gather(1, order)
    reached = lowest.topk(k, dim=1).values[:, -1:]
    sure = (highest[:, -1:] < reached).squeeze(1) if most < len(vectors) else torch.ones(len(queries), dtype=torch.bool)
    # They are in the order of `highest`.
    counts = (~(highest < reached)).sum(dim=1)
    return Found(*(np.asarray(part.cpu().numpy()) for part in (rows, counts, sure)))


def _part(vectors: NDArray[Any], first: int, similarity: str, blocks: Blocks, device: str) -> Any:
    """Return the factors of the part that begins with the row `first`, in bfloat16 on the device."""
    import torch

    if (device, first) in blocks.on_device:
        return blocks.on_device[device, first]
    part = as_products(np.asarray(vectors[first : first + _PART], dtype=np.float32), similarity)
    tensor = torch.from_numpy(part).to(device).bfloat16()
    free = torch.cuda.mem_get_info(device)[0] if device != "cpu" else 0
    # Left to others are three quarters of what is free.
    if len(vectors) * tensor.element_size() * tensor.shape[1] < free / 4:
        blocks.on_device[device, first] = tensor
    return tensor


@contextlib.contextmanager
def _sums_in_float32() -> Iterator[None]:
    """Let a GPU sum up the parts of a long product in float32, as the bound says."""
    import torch

    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before
