"""Forward passes of a transformer over batches of tokens: on a GPU one after the other, on a CPU side by side.

Several passes at once, each on a share of the cores, are faster than one on all of them: cores need not wait for each
other within each layer, and one computes while another prepares.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

#: Tokens of a pass, for each core that it has: what a layer makes of more is too large for a core's caches.
_ON_CPU = 768
#: Tokens of a pass on a GPU, at least: it takes hardly less time for fewer.
_ON_GPU = 16_384
#: Of the tokens of a pass, one in so many may be padding: a pass over few tokens costs more than some padding.
_PADDING = 16
#: Passes at once. More would wait for Python's lock.
_AT_ONCE = 4


class Tokens(NamedTuple):
    """The tokens of texts, longest first.

    Attributes:
        arrays: What the model reads, by name; each of shape (B, L).
        settings: What else it reads.
        lengths: Tokens of each text, descending. Shape (B,).
        left: Whether shorter texts are padded on their left.
    """

    arrays: dict[str, NDArray[Any]]
    settings: dict[str, Any]
    lengths: NDArray[np.int64]
    left: bool


class ForwardPasses:
    """What runs a model over tokens; a context, which ends the threads that it needs.

    Args:
        model: A `SentenceTransformer` that reads tokens.
        task: `"query"` or `"document"`.
        batch_size: Of the longest texts, how many a GPU takes at a time.
    """

    def __init__(self, model: Any, task: str, batch_size: int) -> None:
        import torch

        self.model, self.task, self.batch_size = model, task, batch_size
        self.cores = torch.get_num_threads()
        # A pass has so many of the cores.
        self._share = max(1, self.cores // _AT_ONCE)
        self._own = threading.local()
        self._threads: ThreadPoolExecutor | None = None
        if model.device.type == "cpu" and self.cores > 1 and _can_be_copied(model):
            self._threads = ThreadPoolExecutor(self.cores // self._share, initializer=self._begin_thread)

    def __enter__(self) -> ForwardPasses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._threads is not None:
            import torch

            self._threads.shutdown(cancel_futures=True)
            # What a thread sets for itself is what later threads begin with.
            torch.set_num_threads(self.cores)

    def _begin_thread(self) -> None:
        import torch

        torch.set_num_threads(self._share)
        self._own.model = _copied(self.model, {})

    def embeddings(self, tokens: Tokens) -> torch.Tensor:
        """Return what the model makes of each text, on its device. Shape (B, D)."""
        import torch

        device, width = self.model.device, int(next(iter(tokens.arrays.values())).shape[1])
        arrays = {name: torch.from_numpy(array).to(device) for name, array in tokens.arrays.items()}
        self.model.eval()

        def run(model: Any, start: int, end: int) -> torch.Tensor:
            length = int(tokens.lengths[start])
            columns = slice(width - length, None) if tokens.left else slice(length)
            batch = {name: array[start:end, columns].contiguous() for name, array in arrays.items()}
            with torch.inference_mode():
                found: torch.Tensor = model(batch | tokens.settings, task=self.task)["sentence_embedding"]
            return found

        return torch.cat(self._run(run, tokens))

    def _run(self, run: Callable[[Any, int, int], torch.Tensor], tokens: Tokens) -> list[torch.Tensor]:
        lengths, total = tokens.lengths, int(tokens.lengths.sum())
        at_once, budget = self.cores // self._share, _ON_CPU * self._share
        if self._threads is not None and total >= at_once * budget:
            # All threads end at about the same time.
            ends = batch_ends(lengths, at_once * -(-total // (at_once * budget)), budget // _PADDING)
            return list(self._threads.map(lambda *ends: run(self._own.model, *ends), [0, *ends], ends))
        if self.model.device.type == "cpu":
            ends = batch_ends(lengths, -(-total // (_ON_CPU * self.cores)), budget // _PADDING)
        else:
            budget = max(_ON_GPU, self.batch_size * int(lengths[0]))
            ends = batch_ends(lengths, -(-total // budget), budget // _PADDING)
        return [run(self.model, start, end) for start, end in zip([0, *ends], ends, strict=False)]


def batch_ends(lengths: NDArray[np.int64], count: int, padding: int) -> list[int]:
    """Cut sorted texts into batches of equally many tokens, and further where texts are of too different lengths.

    Args:
        lengths: Tokens of each text, descending. Shape (B,).
        count: How many batches.
        padding: The most tokens of padding in a batch.

    Returns:
        Where each batch ends.

    Example:
        >>> batch_ends(np.array([40, 39, 8, 8, 8, 8, 8]), 1, 10)
        [2, 7]
        >>> batch_ends(np.full(5, 40), 2, 10)
        [3, 5]
    """
    sums, ends, start = np.concatenate([[0], np.cumsum(lengths)]), [], 0
    while start < len(lengths):
        share = int(sums[start]) * count // int(sums[-1]) + 1
        last = max(start + 1, int(np.searchsorted(sums * count, share * sums[-1])))
        added = lengths[start] * np.arange(1, last - start + 1) - (sums[start + 1 : last + 1] - sums[start])
        start += int(np.searchsorted(added, padding, side="right"))
        ends.append(start)
    return ends


def _can_be_copied(model: Any) -> bool:
    """Tell whether copies can run in threads of their own: no compiled code, and no autocast, which threads lack."""
    import torch

    return not torch.is_autocast_enabled("cpu") and all(
        getattr(module, "_compiled_call_impl", None) is None for module in model.modules()
    )


def _copied(module: Any, copies: dict[int, Any]) -> Any:
    """Copy a module without its weights: what a pass keeps in it, such as a table of positions, is each copy's own."""
    if id(module) not in copies:
        twin = copies[id(module)] = copy.copy(module)
        twin._buffers = module._buffers.copy()
        twin._modules = {name: child and _copied(child, copies) for name, child in module._modules.items()}
    return copies[id(module)]
