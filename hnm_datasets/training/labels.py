"""What travels with each training row to the loss: which passages its texts are, and which the query's positives are.

The stock collator hands a loss texts, and one column of numbers: the label. So a row's label here is a list of whole
numbers, equally long in all rows: a header, the key of each text column after the query, their teacher scores if there
are any, and the keys of all known positives of the query. Passages with the same key have the same text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, positions_within

if TYPE_CHECKING:
    from torch import Tensor

#: The key of no passage: what fills a short row up.
PADDING = -1
#: Tells a label that `pack` made from any other number.
_MARK = 0x484E4D
#: Bits of the header: the number of text columns, whether there are scores, and the room for positives.
_COLUMNS, _SCORES, _ROOM = 12, 1, 19


class Labels(NamedTuple):
    """What is known of B rows with D passages each.

    Attributes:
        passages: The key of each passage, the positive's first, `PADDING` for none. Shape (B, D), int64.
        positives: The keys of all known positives of each query, filled up with `PADDING`. Shape (B, P), int64.
        scores: The teacher's score of each passage, if there are any. Shape (B, D), float32.
    """

    passages: Tensor
    positives: Tensor
    scores: Tensor | None


def pack(
    passages: NDArray[np.int64],
    positives: Ragged[NDArray[np.int64]],
    most: int,
    scores: NDArray[np.float32] | None,
) -> NDArray[np.int64]:
    """Make the labels of M rows.

    Args:
        passages: The key of each passage, the positive's first, `PADDING` for none. Shape (M, D).
        positives: The keys of each query's known positives.
        most: How many positives the labels have room for, P.
        scores: The teacher's score of each passage. Shape (M, D).

    Returns:
        Shape (M, 1 + D + P), or (M, 1 + 2·D + P) with scores, and one more if that is even: what else is cut to an even
        length on its way, such as by `MatryoshkaLoss` to that of its embeddings, are not these.
    """
    rows, columns = passages.shape
    most += (1 + columns * (1 if scores is None else 2) + most + 1) % 2
    if columns >= 1 << _COLUMNS or most >= 1 << _ROOM:
        raise ValueError(f"A label cannot tell of {columns} passages and {most} positives a row; ask for fewer.")
    number = ((_MARK << _ROOM | most) << _SCORES | (scores is not None)) << _COLUMNS | columns
    header = np.full((rows, 1), number, dtype=np.int64)
    parts = [header, passages]
    if scores is not None:
        # The collator makes one tensor of all numbers, and keys need all their bits.
        parts.append(np.ascontiguousarray(scores, dtype=np.float32).view(np.int32).astype(np.int64))
    known = np.full((rows, most), PADDING, dtype=np.int64)
    known[positives.owners, positions_within(positives.offsets)] = positives.values
    return np.concatenate([*parts, known], axis=1)


def unpack(labels: Tensor, n_passages: int) -> Labels:
    """Read the labels of a batch.

    Args:
        labels: What `pack` made. Shape (B, W).
        n_passages: The number of text columns after the query, D.

    Raises:
        ValueError: They are not such labels, or of another number of columns.
    """
    import torch

    header = int(labels[0, 0]) if labels.ndim == 2 and labels.numel() and not labels.is_floating_point() else 0
    columns, header = header & ((1 << _COLUMNS) - 1), header >> _COLUMNS
    with_scores, header = bool(header & 1), header >> _SCORES
    most, mark = header & ((1 << _ROOM) - 1), header >> _ROOM
    begins = 1 + columns * (2 if with_scores else 1)
    if mark != _MARK or labels.shape[1] != begins + most:
        raise ValueError(
            f"The label column must be the one that live_negatives writes, with the keys of passages, got shape "
            f"{tuple(labels.shape)} of {labels.dtype}. Make the rows with live_negatives, or leave the column out: "
            f"without it nothing is known to be masked."
        )
    if columns != n_passages:
        raise ValueError(
            f"The labels tell of {columns} passages a row, and the row has {n_passages} text columns after the query. "
            f"Take columns away by asking live_negatives for fewer negatives, not from its rows."
        )
    scores = labels[:, 1 + columns : begins].to(torch.int32).view(torch.float32) if with_scores else None
    return Labels(labels[:, 1 : 1 + columns], labels[:, begins:], scores)
