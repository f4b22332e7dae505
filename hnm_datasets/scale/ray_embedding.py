"""Embedding a corpus on a Ray cluster: workers with a model encode shards in parallel.

The shards are those of `Corpus.embed`, in the same folder, with the same markers and locks. So either function can
resume an interrupted job, with the same vectors. Ray restarts workers that die, and the current shard of such a worker
is encoded again, because a shard is only complete when its marker exists.
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

from filelock import FileLock

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
from hnm_datasets.storage.used import IN_USE

if TYPE_CHECKING:
    from hnm_datasets.models.handles import EmbeddingModel

#: The number of times Ray restarts a worker. The limit is for models that always crash the process.
_RESTARTS = 10
#: Seconds to wait before checking again, because a network file system may show files late.
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
    """Embed a corpus like `Corpus.embed`, but with the workers of a Ray cluster.

    The vectors are those of `Corpus.embed`, under the same name, so its next call reuses them. (They are byte-identical
    if the workers use the same hardware as this process; GPUs round differently from CPUs.) An interrupted job resumes
    with the missing shards of 4,096 passages. Workers that die are restarted.

    All nodes must share the cache directory: set `HF_DATASETS_CACHE` to a folder on a file system that all nodes mount
    and that supports locks. `hnm_datasets` must be installed on all nodes.

    Args:
        corpus: The passages.
        model: The path or Hub id of a `SentenceTransformer`, which each worker loads once; a `SentenceTransformer`,
            which is saved in the cache directory for the workers; or a function from a list of texts to an array of
            shape (B, D), which is pickled.
        concurrency: The number of workers; None: as many as fit into the cluster, but at most one per shard.
        num_cpus: CPU cores per worker.
        num_gpus: GPUs per worker. With 1, each worker runs the model on its own GPU, and `concurrency` is the number of
            GPUs.
        prompt: See `Corpus.embed` for this and the following arguments.
        batch_size: Passages per forward pass.
        dtype: `"float32"` or `"float16"`.
        normalize: Scale vectors to length 1.
        similarity: `"cosine"`, `"dot"` or `"euclidean"`.
        fingerprint: For a function: a name that you change whenever its vectors change.

    Returns:
        The vectors, see `Embeddings`.

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: The cache directory of the workers is another folder, or the path contains another model on a
            worker.
        TypeError: `corpus` or `model` has an unsupported type.
        ValueError: A vector is zero, NaN or infinite (the message names the passage), a function has no `fingerprint`,
            or an option has an unknown value.

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
    loaded = load_model(model, fingerprint, owner="embed_with_ray")
    job = EmbeddingJob(corpus, Encoder(loaded, "document", **options), dtype)  # type: ignore[arg-type]
    if not is_complete(job.folder):
        with clocked("encode"):
            _run(job, loaded, options, concurrency, {"num_cpus": num_cpus, "num_gpus": num_gpus})
    return Embeddings(job.name)


class _Worker:
    """An actor with a model that encodes shards."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.root = config, Path(config["root"])

    @functools.cached_property
    def job(self) -> EmbeddingJob:
        """The job, with the model loaded."""
        # Load the model here, not in the constructor: if a constructor fails, Ray only reports that the actor died.
        config, source = self.config, self.config["source"]
        loaded = (
            load_model(source, None)
            if isinstance(source, str)
            else LoadedModel(source, config["model"], is_function=True)
        )
        job = EmbeddingJob(config["corpus"], Encoder(loaded, "document", **config["options"]), config["dtype"])
        if job.name != config["name"]:
            raise RuntimeError(
                f"The model at {source!r} on a worker differs from the model where embed_with_ray was called. Copy the "
                f"same files to all nodes, or pass a path on a shared file system."
            )
        if not job.folder.is_dir():
            raise RuntimeError(_not_shared(job))
        return job

    def ready(self) -> None:
        """Return as soon as the worker has started and loaded the model."""
        with cache_root_at(self.root):
            _ = self.job

    def take(self, shard: int) -> bool:
        """Encode a shard, unless another process is encoding it; return whether it is done."""
        with cache_root_at(self.root):
            is_done = self.job.take(shard)
        if not is_done:
            # Avoid an immediate retry.
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
    with job.at_work(), _source(loaded) as source, job.progress(pending) as bar:
        if pending:
            if not ray.is_initialized():
                ray.init()
            count = concurrency or _max_workers(ray.cluster_resources(), resources)
            config = {
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
            workers = [remote.remote(config) for _ in range(min(count, len(pending)))]
            try:
                for pause in _PAUSES:
                    time.sleep(pause)
                    _share_out(ray, job, workers, pending, bar)
                    # Verify here that the shards of the workers exist. Workers skip shards that are already complete.
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
    """Assign shards to idle workers until all shards are done."""
    # A worker that does not fit into the cluster never becomes ready and gets no shard, so nothing waits for it.
    running: dict[Any, tuple[Any, int | None]] = {worker.ready.remote(): (worker, None) for worker in workers}
    idle: list[Any] = []
    waiting, remaining = list(pending), len(pending)
    while remaining:
        (answer,), _ = ray.wait(list(running), num_returns=1)
        worker, shard = running.pop(answer)
        is_done = ray.get(answer)
        idle.append(worker)
        if shard is not None and is_done:
            remaining -= 1
            bar.update(len(job.rows(shard)))
        elif shard is not None:
            # A process outside this job is encoding the shard. Try again later, in case that process is killed.
            waiting.append(shard)
        while idle and waiting:
            worker, shard = idle.pop(), waiting.pop(0)
            running[worker.take.remote(shard)] = (worker, shard)


def _not_shared(job: EmbeddingJob) -> str:
    return (
        f"The folder {job.folder} is not the same on all nodes. Set HF_DATASETS_CACHE to a folder on a shared file "
        f"system."
    )


def _max_workers(cluster: dict[str, float], worker: dict[str, float]) -> int:
    """Return the number of workers that fit into a cluster; at least one, which may have to wait for resources."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    counts = [cluster.get(names[name], 0) / need for name, need in worker.items() if need]
    return max(1, int(min(counts, default=1)))


@contextlib.contextmanager
def _source(loaded: LoadedModel) -> Iterator[Any]:
    """Yield the source of the model for workers: a path, a Hub id, or the function itself."""
    if loaded.is_function:
        yield loaded.model
    elif loaded.source is not None:
        path = Path(loaded.source)
        yield str(path.absolute()) if path.exists() else loaded.source
    else:
        cache_root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="model.", dir=cache_root()) as folder, FileLock(f"{folder}/{IN_USE}"):
            loaded.model.save(folder)
            Path(folder).chmod(0o755)
            yield str(Path(folder).absolute())
