"""Embedding a corpus on a Ray cluster: workers with a model each encode shards, as many at once as there are workers.

The shards are those of `Corpus.embed`, in the same folder, with the same markers and locks. So a job that was killed
goes on where it was, here or there, and the vectors are the same. A worker that dies is started again by Ray, and the
shard that it was at is encoded again: without its marker, which comes after its bytes, it does not count.
"""

from __future__ import annotations

import contextlib
import functools
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hnm_datasets import checks
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.models.embedding_job import DTYPES, EmbeddingJob
from hnm_datasets.models.embeddings import Embeddings
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.models.handles import LoadedModel, load_model
from hnm_datasets.runtime.timing import clocked
from hnm_datasets.runtime.workers import imported_ray
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.storage.manifest import is_complete

if TYPE_CHECKING:
    from hnm_datasets.models.handles import EmbeddingModel

#: How often Ray starts a worker again. A model that takes its process down with it should not do so for ever.
_RESTARTS = 10
#: Seconds to wait before what a network file system does not show yet is looked at again.
_PAUSES = (0, 1, 10, 60)


def embed_with_ray(
    corpus: Corpus,
    model: EmbeddingModel,
    *,
    concurrency: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    prompt: str | None = None,
    batch_size: int = 32,
    dtype: str = "float32",
    normalize: bool | None = None,
    similarity: str | None = None,
    fingerprint: str | None = None,
) -> Embeddings:
    """Do what `Corpus.embed` does with the workers of a Ray cluster.

    The vectors are those of `Corpus.embed`, under the same name, and its next call finds them. (They are the
    same to the byte where the workers compute as this process does; a GPU rounds otherwise than a CPU.) A killed job
    resumes with the missing shards of 4,096 passages. A worker that dies is started again.

    All nodes must share the cache directory: set `HF_DATASETS_CACHE` to a folder on a file system that they all mount
    and that knows locks. They must have `hnm_datasets` installed.

    Args:
        corpus: The passages.
        model: The path or Hub id of a `SentenceTransformer`, which each worker loads once; a `SentenceTransformer`,
            which is written to the cache directory for the workers; or a function from a list of texts to an array of
            shape (B, D), which is pickled.
        concurrency: How many workers; None: as many as the cluster has room for, and no more than there are shards.
        num_cpus: Cores of each worker.
        num_gpus: GPUs of each worker; 1 for a model that should run on one, and then `concurrency` is the number of
            GPUs.
        prompt: See `Corpus.embed`, also for the following.
        batch_size: Passages per forward pass.
        dtype: `"float32"` or `"float16"`.
        normalize: Scale vectors to length 1.
        similarity: `"cosine"`, `"dot"` or `"euclidean"`.
        fingerprint: For a function: a name that changes whenever its vectors do.

    Returns:
        The vectors, see `Embeddings`.

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: The workers write elsewhere, or a worker loads another model under the same path.
        TypeError: `corpus` or `model` is something else.
        ValueError: A vector is zero, NaN or infinite, and the message names the passage; a function comes without
            `fingerprint`; an option is unknown.

    Example:
        >>> from hnm_datasets import load_sample
        >>> corpus, _ = load_sample("earthquakes")
        >>> embeddings = embed_with_ray(corpus, "intfloat/e5-base", concurrency=4, num_gpus=1)  # doctest: +SKIP
        >>> embed_with_ray(corpus, "intfloat/e5-base", concurrency=0)
        Traceback (most recent call last):
            ...
        ValueError: embed_with_ray: concurrency must be a whole number of at least 1, got 0.
    """
    check_corpus("embed_with_ray", corpus)
    if concurrency is not None:
        concurrency = checks.whole_number("embed_with_ray", "concurrency", concurrency, low=1)
    for name, number in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < math.inf:
            raise ValueError(f"embed_with_ray: {name} must be a number of at least 0, got {number!r}.")
    checks.one_of("embed_with_ray", "dtype", dtype, DTYPES)
    options = {
        "prompt": prompt,
        "normalize": normalize,
        "similarity": similarity,
        "batch_size": batch_size,
    }
    loaded = load_model(model, fingerprint)
    job = EmbeddingJob(corpus, Encoder(loaded, "document", **options), dtype)  # type: ignore[arg-type]
    if not is_complete(job.folder):
        with clocked("encode"):
            _run(job, loaded, options, concurrency, {"num_cpus": num_cpus, "num_gpus": num_gpus})
    return Embeddings(job.name)


class _Worker:
    """A model in a process of its own that encodes the shards that it is told to."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.about, self.root = about, Path(about["root"])

    @functools.cached_property
    def job(self) -> EmbeddingJob:
        """The job, with the model loaded."""
        # Not when the worker is made: of what goes wrong then, Ray shows only that the worker is dead.
        about, source = self.about, self.about["source"]
        loaded = (
            load_model(source, None)
            if isinstance(source, str)
            else LoadedModel(source, about["model"], is_function=True)
        )
        job = EmbeddingJob(about["corpus"], Encoder(loaded, "document", **about["options"]), about["dtype"])
        if job.name != about["name"]:
            raise RuntimeError(
                f"The model at {source!r} is another one on a worker than where embed_with_ray was called. Put the "
                f"same files there on all nodes, or pass a path on a file system that they share."
            )
        if not job.folder.is_dir():
            raise RuntimeError(_not_shared(job))
        return job

    def ready(self) -> None:
        """Answer as soon as the worker is there and its model loaded."""
        with cache_root_at(self.root):
            _ = self.job

    def take(self, shard: int) -> bool:
        """Encode a shard unless another process is at it; tell whether it is done."""
        with cache_root_at(self.root):
            is_done = self.job.take(shard)
        if not is_done:
            # Else it would be asked again at once.
            time.sleep(0.1)
        return is_done


def _run(
    job: EmbeddingJob,
    loaded: LoadedModel,
    options: dict[str, Any],
    concurrency: int | None,
    resources: dict[str, float],
) -> None:
    ray = imported_ray("embed_with_ray")
    if not job.begin():
        return
    pending = job.missing()
    with _source(loaded) as source, job.progress(pending) as bar:
        if pending:
            if not ray.is_initialized():
                ray.init()
            room = concurrency or _room(ray.cluster_resources(), resources)
            about = {
                "corpus": job.corpus,
                "dtype": job.dtype.name,
                "model": loaded.fingerprint,
                "name": job.name,
                "options": options,
                "root": str(cache_root().absolute()),
                "source": source,
            }
            remote = ray.remote(_Worker).options(
                max_restarts=_RESTARTS, max_task_retries=_RESTARTS, max_concurrency=1, **resources
            )
            workers = [remote.remote(about) for _ in range(min(room, len(pending)))]
            try:
                for pause in _PAUSES:
                    time.sleep(pause)
                    _share_out(ray, job, workers, pending, bar)
                    # What was encoded elsewhere is read once from here. A worker that is asked again for what is there
                    # only looks at it.
                    pending = job.missing()
                    if not pending:
                        break
                else:
                    raise RuntimeError(_not_shared(job))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            finally:
                for worker in workers:
                    ray.kill(worker)
    job.end()


def _share_out(ray: Any, job: EmbeddingJob, workers: list[Any], pending: list[int], bar: Any) -> None:
    """Give each worker one shard after the other until all are done."""
    # A worker that finds no room in the cluster never gets ready and is given nothing, so that nothing waits for it.
    asked: dict[Any, tuple[Any, int | None]] = {worker.ready.remote(): (worker, None) for worker in workers}
    idle: list[Any] = []
    waiting, left = list(pending), len(pending)
    while left:
        (answer,), _ = ray.wait(list(asked), num_returns=1)
        worker, shard = asked.pop(answer)
        is_done = ray.get(answer)
        idle.append(worker)
        if shard is not None and is_done:
            left -= 1
            bar.update(len(job.rows(shard)))
        elif shard is not None:
            # A process that is none of ours is at it. Should it be killed, one of ours will do it.
            waiting.append(shard)
        while idle and waiting:
            worker, shard = idle.pop(), waiting.pop(0)
            asked[worker.take.remote(shard)] = (worker, shard)


def _not_shared(job: EmbeddingJob) -> str:
    return (
        f"The folder {job.folder} is not the same on all nodes. Set HF_DATASETS_CACHE to a folder on a file system "
        f"that they share."
    )


def _room(cluster: dict[str, float], worker: dict[str, float]) -> int:
    """Return how many workers a cluster has room for; at least one, which waits for its room."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    rooms = [cluster.get(names[name], 0) / need for name, need in worker.items() if need]
    return max(1, int(min(rooms, default=1)))


@contextlib.contextmanager
def _source(loaded: LoadedModel) -> Iterator[Any]:
    """Give what a worker gets the model from: a path, a Hub id, or the function itself."""
    if loaded.is_function:
        yield loaded.model
    elif loaded.source is not None:
        path = Path(loaded.source)
        yield str(path.absolute()) if path.exists() else loaded.source
    else:
        cache_root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="model.", dir=cache_root()) as folder:
            loaded.model.save(folder)
            Path(folder).chmod(0o755)
            yield str(Path(folder).absolute())
