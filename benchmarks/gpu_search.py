"""Exact search on a GPU against the CPU and against torch: the first two parts of gpu.py."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from inputs import CLUSTERS, NOISE
from measuring import clocked, timed
from numpy.typing import NDArray
from runner import SEED, Run, table

from hnm_datasets.indexes import device_search, exact
from hnm_datasets.indexes.base import Hits
from hnm_datasets.indexes.bounds import Blocks
from hnm_datasets.indexes.candidates import Known

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
SIMILARITIES = ("cosine", "dot", "euclidean")
DEPTHS = (10, 100)
#: Queries that the CPU searches too, for the comparison.
COMPARED = 500
#: Queries per product in torch: the scores of all would not fit on a GPU.
TORCH_TURN = 2048


# ---- exact search ------------------------------------------------------------------------------------------------


class Searched(NamedTuple):
    """The result of a search, its seconds on the device, and the share of queries that it searched again."""

    hits: Hits
    device_s: float
    unsure: float


def search_on_device(queries: Any, vectors: Any, k: int, similarity: str, known: Known) -> Searched:
    """Search as on a machine with a GPU; without a GPU, the CPU runs the same code."""
    spent: dict[str, float] = {}
    unsure: list[int] = []
    original = exact.search_on_device

    def watched(
        queries: Any, vectors: Any, similarity: str, blocks: Blocks, _: str, hits: Hits, pool: ThreadPoolExecutor
    ) -> NDArray[np.int64]:
        left = original(queries, vectors, similarity, blocks, DEVICE, hits, pool)
        unsure.append(len(left))
        return left

    with (
        patch.object(torch.cuda, "is_available", return_value=True),
        patch.object(exact, "search_on_device", watched),
        patch.object(device_search, "find", clocked(spent, "device", device_search.find)),
    ):
        hits = exact.search(queries, vectors, k, similarity, known)
    return Searched(hits, spent["device"], sum(unsure) / len(queries))


def search_on_cpu(queries: Any, vectors: Any, k: int, similarity: str, known: Known) -> Hits:
    """Search as on a machine without a GPU."""
    with patch.object(torch.cuda, "is_available", return_value=False):
        return exact.search(queries, vectors, k, similarity, known)


def search_by_torch(queries: torch.Tensor, vectors: torch.Tensor, k: int) -> list[torch.Tensor]:
    """Return the rows from float32 products and `topk`, on the host, for tensors on any device."""
    vectors = vectors.to(DEVICE)
    return [(part.to(DEVICE) @ vectors.T).topk(k).indices.cpu() for part in queries.split(TORCH_TURN)]


def check_same(found: Hits, expected: Hits, case: str) -> None:
    """Raise an error unless rows and scores are bit-identical."""
    scores = (one.scores[: len(expected.scores)].view(np.uint32) for one in (found, expected))
    same = (found.rows[: len(expected.rows)] == expected.rows) & np.equal(*scores)
    if not same.all():
        line, place = (int(number[0]) for number in np.nonzero(~same))
        raise RuntimeError(
            f"{case}: {np.count_nonzero(~same)} of {same.size} hits differ between the device and the CPU, first that "
            f"of query {line} at rank {place + 1}: row {found.rows[line, place]}, score {found.scores[line, place]!r} "
            f"and row {expected.rows[line, place]}, score {expected.scores[line, place]!r}."
        )


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale to length 1; zeros stay."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def clustered(count: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """Return unit vectors around centers that are the same for all seeds. Shape (count, dimension)."""
    centers = unit(np.random.default_rng(SEED).standard_normal((CLUSTERS, dimension), dtype=np.float32))
    rng = np.random.default_rng([SEED, seed])
    noise = unit(rng.standard_normal((count, dimension), dtype=np.float32))
    return unit(centers[rng.integers(0, CLUSTERS, count)] + NOISE * noise)


def search(run: Run) -> list[dict[str, Any]]:
    found = []
    for dimension in run.dimensions:
        vectors, queries = clustered(run.vectors, dimension, 1), clustered(run.queries, dimension, 2)
        blocks_s, _ = timed(lambda vectors=vectors: Blocks.of(vectors, "cosine"), run.repeats)
        known = Known(vectors, "cosine")
        for warm_up in (search_on_device, search_on_cpu):
            warm_up(queries[:COMPARED], vectors, 1, "cosine", known)
        for k in DEPTHS:
            asked = (vectors, k, "cosine", known)
            ours, searched = timed(partial(search_on_device, queries, *asked), run.repeats)
            cpu, expected = timed(partial(search_on_cpu, queries[:COMPARED], *asked), run.repeats)
            check_same(searched.hits, expected, f"{len(vectors)} vectors of {dimension} dimensions, k = {k}")
            from_host = torch.from_numpy(queries), torch.from_numpy(vectors)
            on_device = [one.to(DEVICE) for one in from_host]
            search_by_torch(*on_device, k)
            theirs = {
                name: timed(partial(search_by_torch, *tensors, k), run.repeats)[0]
                for name, tensors in (("torch", from_host), ("torch_resident", on_device))
            }
            about = {"dimension": dimension, "vectors": len(vectors), "queries": len(queries), "k": k}
            times = {"ours": ours, "cpu": cpu, "cpu_queries": len(expected.rows), "blocks": blocks_s} | theirs
            found.append(about | times | {"device_s": searched.device_s, "unsure": searched.unsure})
    return found


def show_search(found: list[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        per_query = one["ours"]["median_s"] / one["queries"], one["cpu"]["median_s"] / one["cpu_queries"]
        rows.append(
            (
                f"{one['vectors']:,} × {one['dimension']}", one["queries"], one["k"], one["ours"],
                f"{one['device_s']:.3f} s", f"{one['unsure']:.2%}", one["torch"], one["torch_resident"],
                *(f"{1e3 * seconds:.3f} ms" for seconds in per_query), one["blocks"],
            )
        )  # fmt: skip
    return (
        "Cosine similarity, float32, clustered vectors. *On the device* are the seconds of products, candidates and "
        "copies in the last repeat; the rest ranks the candidates on the CPU. *Not sure* are queries that are searched "
        "again on the CPU, in the same seconds. torch's float32 products with `topk` start from vectors on the host, "
        "and from vectors on the device; its scores are not exact. The norms of the vectors are read once per index. "
        f"The first {found[0]['cpu_queries']} queries were searched on the CPU as well: the hits are the same to the "
        "bit.\n\n"
        + table("Vectors|Queries|k|`exact.search`|on the device|not sure|torch|torch, vectors there|a query|… on the "
                "CPU|norms", rows)
    )  # fmt: skip


# ---- the same bits -----------------------------------------------------------------------------------------------


def ties(rng: np.random.Generator, vectors: NDArray[np.float32]) -> None:
    vectors[rng.integers(len(vectors), size=len(vectors) // 2)] = vectors[0]


def near_ties(rng: np.random.Generator, vectors: NDArray[np.float32]) -> None:
    """Make half of them differ only in the last digits of float32, which bfloat16 cannot represent."""
    chosen = rng.integers(len(vectors), size=len(vectors) // 2)
    vectors[chosen] = vectors[0] * (1 + rng.normal(size=(len(chosen), vectors.shape[1])) * 2.0**-18)


def tiny(rng: np.random.Generator, vectors: NDArray[np.float32]) -> None:
    """Make products denormal."""
    vectors *= np.float32(1e-20)


def outliers(rng: np.random.Generator, vectors: NDArray[np.float32]) -> None:
    vectors[rng.integers(len(vectors), size=1 + len(vectors) // 100)] *= np.float32(3e4)


CHANGES: dict[str, Callable[[np.random.Generator, NDArray[np.float32]], None]] = {
    "clustered": lambda rng, vectors: None,
    "ties": ties,
    "near ties": near_ties,
    "tiny": tiny,
    "outliers": outliers,
}


def bits(run: Run) -> list[dict[str, Any]]:
    found = []
    for (name, change), size in ((item, size) for item in CHANGES.items() for size in run.bits):
        plain, queries = clustered(size, 48, 3), clustered(128, 48, 4)
        change(np.random.default_rng(SEED), plain)
        searches, unsure = 0, []
        for similarity, dtype in ((one, dtype) for one in SIMILARITIES for dtype in ("float32", "float16")):
            vectors = (unit(plain) if similarity == "cosine" else plain).astype(dtype)
            known = Known(vectors, similarity)
            for k in DEPTHS:
                asked = (queries, vectors, k, similarity, known)
                searched = search_on_device(*asked)
                check_same(searched.hits, search_on_cpu(*asked), f"{name}, {size} {dtype}, {similarity}, k = {k}")
                searches += 1
                unsure.append(searched.unsure)
        found.append({"kind": name, "size": size, "searches": searches, "unsure": unsure, "queries": len(queries)})
    return found


def show_bits(found: list[dict[str, Any]]) -> str:
    rows = [
        (one["kind"], one["size"], one["searches"], f"{np.mean(one['unsure']):.1%}", f"{max(one['unsure']):.1%}")
        for one in found
    ]
    return (
        f"48 dimensions, {found[0]['queries']} queries, k = {DEPTHS[0]} and {DEPTHS[1]}, {', '.join(SIMILARITIES)}, "
        "float32 and float16. All rows and scores are the same to the bit on the device and on the CPU. *Not sure* is "
        "the share of queries that the device left to the CPU.\n\n"
        + table("Vectors|How many|Searches|not sure, mean|not sure, most", rows)
    )
