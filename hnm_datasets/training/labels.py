"""Labels of training rows: they give the loss the keys of a row's passages and of the query's known positives.

The collator of sentence-transformers passes a loss the texts and one column of numbers, the label. A label here is
therefore a list of whole numbers, of the same length in all rows: a header, the key of each text column after the
query, the teacher scores of these texts (if any), and the keys of all known positives of the query. Passages with the
same key have the same text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import Ragged, positions_within

if TYPE_CHECKING:
    from torch import Tensor

#: The key of padding; no passage has it.
PADDING = -1
#: Distinguishes the labels of `pack` from other numbers.
_MARK = 0x484E4D
#: Bits of the header: for the number of text columns, for whether there are scores, and for the room for positives.
_COLUMNS, _SCORES, _ROOM = 12, 1, 19


class Labels(NamedTuple):
    """The unpacked labels of B rows with D passages each.

    Attributes:
        passages: The key of each passage, the positive's first; `PADDING` for padding. Shape (B, D), int64.
        positives: The keys of all known positives of each query, padded with `PADDING`. Shape (B, P), int64.
        scores: The teacher score of each passage, if any. Shape (B, D), float32.
    """

    passages: Tensor
    positives: Tensor
    scores: Tensor | None


def pack(
    passages: NDArray[np.int64],
    positives: Ragged[NDArray[np.int64]],
    max_positives: int,
    scores: NDArray[np.float32] | None,
) -> NDArray[np.int64]:
    """Pack the labels of M rows.

    Args:
        passages: The key of each passage, the positive's first; `PADDING` for padding. Shape (M, D).
        positives: The keys of each query's known positives.
        max_positives: The number of positives that the labels have room for, P.
        scores: The teacher score of each passage. Shape (M, D).

    Returns:
        Shape (M, 1 + D + P), or (M, 1 + 2·D + P) with scores. P grows by 1 if the length would be even: embeddings
        have an even length, so losses that truncate them, such as `MatryoshkaLoss`, never produce a valid label.
    """
    rows, columns = passages.shape
    room = max_positives + (1 + columns * (1 if scores is None else 2) + max_positives + 1) % 2
    if columns >= 1 << _COLUMNS or room >= 1 << _ROOM:
        raise ValueError(f"A label has no room for {columns} passages and {room} positives per row; use fewer.")
    number = ((_MARK << _ROOM | room) << _SCORES | (scores is not None)) << _COLUMNS | columns
    header = np.full((rows, 1), number, dtype=np.int64)
    parts = [header, passages]
    if scores is not None:
        # The collator puts all numbers into one tensor, which must be int64 to hold the keys.
        parts.append(np.ascontiguousarray(scores, dtype=np.float32).view(np.int32).astype(np.int64))
    known = np.full((rows, room), PADDING, dtype=np.int64)
    known[positives.owners, positions_within(positives.offsets)] = positives.values
    return np.concatenate([*parts, known], axis=1)


def unpack(labels: Tensor, n_passages: int) -> Labels:
    """Unpack the labels of a batch.

    Args:
        labels: Labels from `pack`. Shape (B, W).
        n_passages: The number of text columns after the query, D.

    Raises:
        ValueError: The labels do not come from `pack`, or have another number of columns.
    """
    import torch

    header = int(labels[0, 0]) if labels.ndim == 2 and labels.numel() and not labels.is_floating_point() else 0
    columns, header = header & ((1 << _COLUMNS) - 1), header >> _COLUMNS
    with_scores, header = bool(header & 1), header >> _SCORES
    room, mark = header & ((1 << _ROOM) - 1), header >> _ROOM
    begins = 1 + columns * (2 if with_scores else 1)
    if mark != _MARK or labels.shape[1] != begins + room:
        raise ValueError(
            f"The label column must come from live_negatives, got a label of shape {tuple(labels.shape)} and dtype "
            f"{labels.dtype}. Create the rows with live_negatives, or remove the label column: without it, the loss "
            f"masks only the positives that it finds in the batch."
        )
    if columns != n_passages:
        raise ValueError(
            f"The labels describe {columns} passages per row, but the rows have {n_passages} text columns after the "
            f"query. Do not remove columns from live rows; call live_negatives with a smaller n."
        )
    scores = labels[:, 1 + columns : begins].to(torch.int32).view(torch.float32) if with_scores else None
    return Labels(labels[:, 1 : 1 + columns], labels[:, begins:], scores)
