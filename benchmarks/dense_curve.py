"""Measure dense mining as the corpus grows, naming models, and the filters on many rows.

    python benchmarks/dense_curve.py                                    # small: 5,000 passages
    python benchmarks/dense_curve.py --sizes 10000 100000 1000000

Needs the `dev` extra. Parts (`--parts`), each a section of the report:

- curve: embedding, building, searching, memory and recall by number of passages, for Flat, IVF and HNSW.
- fingerprint: naming a model by its weights.
- filters: the margins, `DropNearDuplicates` and `SampleNegatives` on 100,000 rows of 100 candidates.

Each measurement runs in a fresh process, after a small warm-up, so that imports and compiled loops do not count. Memory
is told in three ways, see dense_rival.py. Everything is written to a temporary folder; the results go to
dense-curve.json and .md in `--output`. A run replaces only the sections of its own parts.
"""

from __future__ import annotations

import argparse
import gc
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
from _common import (
    MIB,
    SEED,
    SYNTHETIC_PASSAGES,
    SYNTHETIC_ROWS,
    Parts,
    in_child,
    measured,
    memory_of,
    on_disk,
    run_script,
    spread,
    synthetic_rows,
    table,
    time_steps,
    timed,
)
from _vectors import query_vectors, task_embed
from datasets import Dataset

import hnm_datasets as hnm
from hnm_datasets.storage.folders import cache_root

#: Queries and depth of the curve.
ASKED, DEPTH = 1000, 100


# ---- curve -------------------------------------------------------------------------------------------------------


def task_build(embeddings: str, options: dict[str, Any]) -> dict[str, Any]:
    """Build an index."""
    import faiss  # noqa: F401

    embedded, spent = hnm.Embeddings(embeddings), {}
    assert len(embedded)
    with measured(spent):
        hnm.DenseIndex(embedded, **options)
    size = sum(path.stat().st_size for path in (cache_root() / "dense").rglob("*.faiss"))
    return {"seconds": spent["total"], "bytes": size}


def task_ask(kind: str, embeddings: str, options: dict[str, Any]) -> dict[str, Any]:
    """Open an index in a process that has not built it, search, and see what stays in memory."""
    import faiss

    from hnm_datasets.indexes import exact

    queries, process = query_vectors(kind, ASKED), psutil.Process()
    # Compile the loops and start the threads.
    found = exact.search(queries, queries, DEPTH, "cosine").rows
    counts = np.full(len(found), DEPTH)
    exact.rank(queries, queries, found, counts, "cosine", np.empty_like(found), np.empty(found.shape, np.float32))
    faiss.knn(queries, queries, DEPTH)
    gc.collect()
    before = memory_of(process)
    index = hnm.DenseIndex(hnm.Embeddings(embeddings), **options)
    cold, _ = timed(lambda: index.search(queries, DEPTH), 1)
    gc.collect()
    after = memory_of(process)
    warm, _ = timed(lambda: index.search(queries, DEPTH), 3)
    memory = {name: after[name] - before[name] for name in after}
    return {"cold_s": cold["median_s"], "seconds": warm["median_s"], "recall": index.recall(queries, DEPTH)} | memory


def part_curve(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    found = []
    for kind in ("random", "clustered"):
        for size in args.sizes:
            lists = 4 * int(size**0.5)
            cache = scratch / f"{kind}-{size}"
            embedded = in_child("embed", cache, kind=kind, size=size, watch=True)
            for options in (
                {},
                {"factory": f"IVF{lists},Flat", "nprobe": max(1, lists // 16)},
                {"factory": "HNSW32", "ef_search": 128},
            ):
                task = {"embeddings": embedded["embeddings"], "options": options}
                build = in_child("build", cache, watch=True, **task)
                ask = in_child("ask", cache, kind=kind, **task)
                about = {"kind": kind, "size": size, "embed": embedded, "options": options}
                found.append(about | {"build": build, "ask": ask})
                shutil.rmtree(cache / "hnm_datasets" / "dense", ignore_errors=True)
            shutil.rmtree(cache)
    return found


def show_curve(found: list[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        size, build, ask = one["size"], one["build"], one["ask"]
        name = ", ".join(f"{key}={value}" for key, value in one["options"].items() if key != "factory")
        embed = one["embed"]
        per = [f"{value / size:.0f}" for value in (build["bytes"], ask["rss"], ask["uss"], ask["anonymous"])]
        peaks = [f"{part['memory'].get('anonymous', 0) / MIB:,.0f}" for part in (embed, build)]
        seconds = [f"{embed['seconds']:.1f}", peaks[0], f"{build['seconds']:.1f}", peaks[1]]
        searches = [f"{ask['cold_s']:.3f}", f"{ask['seconds']:.3f}", f"{ask['recall']:.3f}"]
        index = f"{one['options'].get('factory', 'Flat')} {name}".strip()
        rows.append((one["kind"], f"{size:,}", index, *seconds, *per, *searches))
    return (
        "Vectors of 64 dimensions (256 bytes each on disk) by a function in place of a model. Random unit vectors are "
        "the hardest case for approximate indexes, as there is nothing in them to go by; real ones are more like the "
        "clustered ones, which lie around 1,000 centres. (Those tell something of recall from 100,000 passages on; of "
        f"fewer, most of the {DEPTH} best lie in other clusters.) {ASKED:,} queries, k = {DEPTH}; embedding and "
        "building timed once, search three times. Bytes per passage: the index on disk, and what a process holds more "
        "after its first search, embeddings included. Cold is that first search. Peaks are of anonymous memory, in "
        "MiB.\n\n"
        + table(
            "Vectors|Passages|Index|Embed s|Peak|Build s|Peak|Index B|RSS B|USS B|Anonymous B|Cold s|Search s|Recall",
            rows,
        )
    )


# ---- fingerprint and filters -------------------------------------------------------------------------------------


def task_fingerprint(model: str) -> dict[str, Any]:
    from _models import make_model

    from hnm_datasets.models.fingerprint import model_fingerprint

    loaded = make_model(model)
    size = sum(tensor.nbytes for tensor in loaded.state_dict().values())
    first, _ = timed(lambda: model_fingerprint(loaded), 1)
    again, _ = timed(lambda: model_fingerprint(loaded), 5)
    return {"bytes": size, "first_s": first["median_s"], "again": again}


def part_fingerprint(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    return {name: in_child("fingerprint", scratch, model=name) for name in ("static", "minilm")}


def show_fingerprint(found: dict[str, Any]) -> str:
    rows = [(n, f"{f['bytes'] / MIB:.0f}", f"{f['first_s']:.3f} s", spread(f["again"])) for n, f in found.items()]
    return table("Model|Weights MiB|First time|Again", rows)


def task_filters(folder: str, repeats: int) -> dict[str, Any]:
    """Time filters that need positives, their scores and texts."""
    rng, place = np.random.default_rng(SEED), Path(folder)
    words = np.array([f"word{i}" for i in range(5000)])
    # One passage of ten repeats the one before it, with a word changed.
    drawn = rng.integers(0, len(words), (SYNTHETIC_PASSAGES, 50))
    drawn[1::10] = drawn[0::10]
    drawn[1::10, 25] = 0
    names = [f"passage-{i}" for i in range(SYNTHETIC_PASSAGES)]
    corpus = hnm.Corpus.from_dataset(
        Dataset.from_dict({"id": names, "text": [" ".join(words[line]) for line in drawn]})
    )
    rows = synthetic_rows(place / "rows")
    positives = Dataset.from_dict(
        {
            "positive_ids": [[names[i]] for i in rng.integers(0, len(names), SYNTHETIC_ROWS)],
            "positive_scores": rng.uniform(15, 30, (SYNTHETIC_ROWS, 1)).tolist(),
        }
    )
    rows = on_disk(datasets.concatenate_datasets([rows, positives], axis=1), place / "all")
    opened, duplicates = timed(lambda: hnm.DropNearDuplicates(corpus), 1)
    steps = {
        "RelativeMargin(0.05)": hnm.RelativeMargin(0.05),
        "AbsoluteMargin(1)": hnm.AbsoluteMargin(1),
        "DropNearDuplicates(corpus)": duplicates,
        "SampleNegatives(8)": hnm.SampleNegatives(8),
        'SampleNegatives(8, strategy="simans")': hnm.SampleNegatives(8, strategy="simans"),
        "SampleNegatives({(1, 10): 3, (11, 100): 5})": hnm.SampleNegatives({(1, 10): 3, (11, 100): 5}),
    }
    return {f"DropNearDuplicates: open {len(corpus):,} passages": opened} | time_steps(rows, steps, repeats)


def part_filters(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    return in_child("filters", scratch / "cache", folder=scratch, repeats=args.repeats)


def show_filters(found: dict[str, Any]) -> str:
    about = f"{SYNTHETIC_ROWS:,} rows of 100 random candidates, through `map`; passages of 50 words.\n\n"
    return about + table("What|Seconds", [(f"`{name}`", spread(times)) for name, times in found.items()])


# ---- the script --------------------------------------------------------------------------------------------------

PARTS: Parts = {
    "curve": ("As the corpus grows", part_curve, show_curve),
    "fingerprint": ("Naming a model", part_fingerprint, show_fingerprint),
    "filters": ("Filters", part_filters, show_filters),
}


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000], help="numbers of passages")
    tasks = {"ask": task_ask, "build": task_build, "embed": task_embed}
    run_script(parser, PARTS, tasks | {"filters": task_filters, "fingerprint": task_fingerprint})


if __name__ == "__main__":
    main()
