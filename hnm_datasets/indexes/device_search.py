"""The candidates of an exact search on a torch device, such as a GPU: bfloat16 products and their bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.indexes.bounds import BLOCK, OUTPUT, Blocks, as_products, query_factors, widths

#: Queries per chunk and passages per part. Their scores take some gigabytes.
QUERIES_AT_ONCE = 2048
_PART = 256 * BLOCK


class Found(NamedTuple):
    """The candidates of B queries.

    Attributes:
        rows: Row numbers, highest upper bounds first. Shape (B, F).
        counts: The number of valid entries in each line. Shape (B,).
        sure: Whether the candidates include all of the k best passages. Shape (B,).
    """

    rows: NDArray[np.int64]
    counts: NDArray[np.int64]
    sure: NDArray[np.bool_]


def find(
    queries: NDArray[np.float32], vectors: NDArray[Any], k: int, similarity: str, blocks: Blocks, device: str
) -> Found:
    """Find the vectors that may be among the k best of each query.

    The vectors are copied to the device in parts, so it needs memory for one part and its scores. If all vectors take
    less than a quarter of its free memory, they stay there for the next batch (`blocks.on_device`).

    Args:
        queries: Shape (B, D).
        vectors: Shape (N, D).
        k: At most N.
        similarity: As for `exact.search`.
        blocks: The norms of the vectors.
        device: The name of the device.
    """
    import torch

    size = min(2 * k + 64, len(vectors))
    encoded = torch.from_numpy(query_factors(queries, similarity)).to(device).bfloat16()
    errors = torch.from_numpy(widths(queries, blocks, similarity, rounded=True)).to(device)
    highest = torch.empty(len(queries), 0, device=device)
    lowest, rows = highest, highest.long()
    with _sums_in_float32():
        for first in range(0, len(vectors), _PART):
            part = _part(vectors, first, similarity, blocks, device)
            scores = (encoded @ part.T).float()
            block_errors = errors[:, first // BLOCK : first // BLOCK + -(-len(part) // BLOCK)]
            error = scores.abs().mul_(OUTPUT)
            for number in range(block_errors.shape[1]):
                error[:, number * BLOCK : (number + 1) * BLOCK] += block_errors[:, number : number + 1]
            high, columns = (scores + error).topk(min(size, len(part)), dim=1)
            low = (scores - error).gather(1, columns)
            highest, lowest = torch.cat([highest, high], dim=1), torch.cat([lowest, low], dim=1)
            rows = torch.cat([rows, columns + first], dim=1)
            highest, order = highest.topk(min(size, highest.shape[1]), dim=1)
            lowest, rows = lowest.gather(1, order), rows.gather(1, order)
    reached = lowest.topk(k, dim=1).values[:, -1:]
    sure = (highest[:, -1:] < reached).squeeze(1) if size < len(vectors) else torch.ones(len(queries), dtype=torch.bool)
    # The rows are sorted by `highest`, so the candidates come first.
    counts = (~(highest < reached)).sum(dim=1)
    return Found(*(np.asarray(part.cpu().numpy()) for part in (rows, counts, sure)))


def _part(vectors: NDArray[Any], first: int, similarity: str, blocks: Blocks, device: str) -> Any:
    """Return the factors of the part that starts at row `first`, in bfloat16 on the device."""
    import torch

    if (device, first) in blocks.on_device:
        return blocks.on_device[device, first]
    part = as_products(np.asarray(vectors[first : first + _PART], dtype=np.float32), similarity)
    tensor = torch.from_numpy(part).to(device).bfloat16()
    free = torch.cuda.mem_get_info(device)[0] if device != "cpu" else 0
    # Leave three quarters of the free memory to other uses.
    if len(vectors) * tensor.element_size() * tensor.shape[1] < free / 4:
        blocks.on_device[device, first] = tensor
    return tensor


@contextlib.contextmanager
def _sums_in_float32() -> Iterator[None]:
    """Make a GPU accumulate products in float32, which the error bound requires."""
    import torch

    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before
