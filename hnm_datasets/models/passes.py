"""Forward passes of a transformer over batches of tokens: one after another on a GPU, in parallel on a CPU.

Several parallel passes, each on some of the cores, are faster than one pass on all cores: the cores do not wait for
each other in each layer, and one pass computes while another prepares its batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hnm_datasets.models.torch_internals import is_compiled, without_weights

if TYPE_CHECKING:
    import torch

#: Tokens per pass and core: with more, the activations of a layer do not fit into the cache of a core.
_ON_CPU = 768
#: Minimum tokens per pass on a GPU: fewer take hardly less time.
_ON_GPU = 16_384
#: At most one in so many tokens of a pass is padding: some padding costs less than more passes with few tokens.
_PADDING = 16
#: Parallel passes; more would wait for Python's global interpreter lock.
_AT_ONCE = 4


class Tokens(NamedTuple):
    """The tokens of texts, longest first.

    Attributes:
        arrays: The inputs of the model by name, each of shape (B, L).
        settings: Its other inputs.
        lengths: The number of tokens of each text, descending. Shape (B,).
        left: Whether shorter texts are padded on the left.
    """

    arrays: dict[str, NDArray[Any]]
    settings: dict[str, Any]
    lengths: NDArray[np.int64]
    left: bool


class ForwardPasses:
    """Runs a model on tokens; a context manager, which ends its threads on exit.

    Args:
        model: A `SentenceTransformer` that accepts tokens.
        task: `"query"` or `"document"`.
        batch_size: The number of the longest texts per pass on a GPU; batches of shorter texts are larger.
        done: Called with the number of texts after each pass.
    """

    def __init__(self, model: Any, task: str, batch_size: int, done: Callable[[int], object] | None = None) -> None:
        import torch

        self.model, self.task, self.batch_size, self.done = model, task, batch_size, done
        self.cores = torch.get_num_threads()
        # The number of cores per pass.
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
            # The last setting of a thread becomes the default of later threads, so restore it.
            torch.set_num_threads(self.cores)

    def _begin_thread(self) -> None:
        import torch

        torch.set_num_threads(self._share)
        self._own.model = without_weights(self.model, {})

    def embeddings(self, tokens: Tokens) -> torch.Tensor:
        """Return the embedding of each text, on the device of the model. Shape (B, D)."""
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
            # Choose the batches so that all threads end at about the same time.
            ends = batch_ends(lengths, at_once * -(-total // (at_once * budget)), budget // _PADDING)
            found = self._threads.map(lambda *ends: run(self._own.model, *ends), [0, *ends], ends)
            return list(map(self._counted, found))
        if self.model.device.type == "cpu":
            ends = batch_ends(lengths, -(-total // (_ON_CPU * self.cores)), budget // _PADDING)
        else:
            budget = max(_ON_GPU, self.batch_size * int(lengths[0]))
            ends = batch_ends(lengths, -(-total // budget), budget // _PADDING)
        return [self._counted(run(self.model, start, end)) for start, end in zip([0, *ends], ends, strict=False)]

    def _counted(self, vectors: torch.Tensor) -> torch.Tensor:
        if self.done is not None:
            self.done(len(vectors))
        return vectors


def batch_ends(lengths: NDArray[np.int64], count: int, padding: int) -> list[int]:
    """Split sorted texts into batches with the same number of tokens; split further if their lengths differ too much.

    Args:
        lengths: The number of tokens of each text, descending. Shape (B,).
        count: The number of batches before further splits.
        padding: The maximum number of padding tokens in a batch.

    Returns:
        The end of each batch.

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
    """Return whether copies can run in threads: not if the model is compiled, or under autocast (set per thread)."""
    import torch

    return not torch.is_autocast_enabled("cpu") and not any(map(is_compiled, model.modules()))
