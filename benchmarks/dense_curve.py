"""How does dense mining scale with the corpus, and what do fingerprints of models and filters cost?

    python benchmarks/dense_curve.py                                    # small: 5,000 passages
    python benchmarks/dense_curve.py --sizes 10000 100000 1000000

Needs the `dev` extra. Parts (`--parts`), each a section of the report:

- curve: embedding, building, searching, memory and recall by number of passages, for Flat, IVF and HNSW.
- fingerprint: computing the fingerprint of a model from its weights.
- filters: the margins, `DropNearDuplicates` and `SampleNegatives` on 100,000 rows of 100 candidates.

Each measurement runs in a fresh process after a small warm-up, so imports and compilation do not count. Memory is
measured in three ways, see dense_rival.py.
"""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
from datasets import Dataset
from inputs import PASSAGES, ROWS, build, candidate_rows, embed, on_disk, query_vectors, time_steps
from measuring import MIB, in_child, memory_of, seconds_of, spread_of, timed
from runner import SEED, Benchmark, Part, Run, option, table

import hnm_datasets as hnm

#: Queries and depth of the curve.
ASKED, DEPTH = 1000, 100


# ---- curve -------------------------------------------------------------------------------------------------------


def ask(kind: str, embeddings: str, options: dict[str, Any]) -> dict[str, Any]:
    """Open an index in a process that has not built it, search, and measure its memory."""
    import faiss

    from hnm_datasets.indexes import exact

    queries, process = query_vectors(kind, ASKED), psutil.Process()
    # Compile the loops and start the threads.
    found = exact.search(queries, queries, DEPTH, "cosine").rows
    counts = np.full(len(found), DEPTH)
    exact.rank(queries, queries, found, counts, found.shape[1], "cosine")
    faiss.knn(queries, queries, DEPTH)
    gc.collect()
    before = memory_of(process)
    index = hnm.DenseIndex(hnm.Embeddings(embeddings), **options)
    cold = seconds_of(lambda: index.search(queries, DEPTH))
    gc.collect()
    after = memory_of(process)
    warm, _ = timed(lambda: index.search(queries, DEPTH), 3)
    memory = {name: after[name] - before[name] for name in after}
    return {"cold_s": cold, "seconds": warm["median_s"], "recall": index.recall(queries, DEPTH)} | memory


def curve(run: Run) -> list[dict[str, Any]]:
    found = []
    for kind in ("random", "clustered"):
        for size in run.sizes:
            lists, cache = 4 * int(size**0.5), run.scratch / f"{kind}-{size}"
            embedded = in_child(embed, cache, kind=kind, size=size, watch=True)
            for options in (
                {},
                {"factory": f"IVF{lists},Flat", "nprobe": max(1, lists // 16)},
                {"factory": "HNSW32", "ef_search": 128},
            ):
                task = {"embeddings": embedded["embeddings"], "options": options}
                about = {"kind": kind, "size": size, "embed": embedded, "options": options}
                about["build"] = in_child(build, cache, watch=True, **task)
                found.append(about | {"ask": in_child(ask, cache, kind=kind, **task)})
                shutil.rmtree(cache / "hnm_datasets" / "dense", ignore_errors=True)
            shutil.rmtree(cache)
    return found


def show_curve(found: list[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        size, embedded, built, asked = one["size"], one["embed"], one["build"], one["ask"]
        name = ", ".join(f"{key}={value}" for key, value in one["options"].items() if key != "factory")
        index = f"{one['options'].get('factory', 'Flat')} {name}".strip()
        per = [f"{value / size:.0f}" for value in (built["bytes"], asked["rss"], asked["uss"], asked["anonymous"])]
        made = [(f"{it['seconds']:.1f}", f"{it['memory'].get('anonymous', 0) / MIB:,.0f}") for it in (embedded, built)]
        searches = [f"{asked[what]:.3f}" for what in ("cold_s", "seconds", "recall")]
        rows.append((one["kind"], size, index, *made[0], *made[1], *per, *searches))
    return (
        "Vectors of 64 dimensions (256 bytes each on disk) by a function in place of a model. Random unit vectors are "
        "the hardest case for approximate indexes, as there is nothing in them to go by; real ones are more like the "
        "clustered ones, around 1,000 centers. (Their recall means something from 100,000 passages on; of fewer, most "
        f"of the {DEPTH} best are in other clusters.) {ASKED:,} queries, k = {DEPTH}; embedding and building timed "
        "once, search three times. Bytes per passage: the index on disk, and what a process holds more after its first "
        "search, embeddings included. Cold is that first search. Peaks are of anonymous memory, in MiB.\n\n"
        + table(
            "Vectors|Passages|Index|Embed s|Peak|Build s|Peak|Index B|RSS B|USS B|Anonymous B|Cold s|Search s|Recall",
            rows,
        )
    )


# ---- fingerprint and filters -------------------------------------------------------------------------------------


def fingerprint(model: str) -> dict[str, Any]:
    from models import make_model

    from hnm_datasets.models.fingerprint import model_fingerprint

    loaded = make_model(model)
    size = sum(tensor.nbytes for tensor in loaded.state_dict().values())
    first = seconds_of(lambda: model_fingerprint(loaded))
    again, _ = timed(lambda: model_fingerprint(loaded), 5)
    return {"bytes": size, "first_s": first, "again": again}


def show_fingerprint(found: dict[str, Any]) -> str:
    rows = [(name, f"{it['bytes'] / MIB:.0f}", f"{it['first_s']:.3f} s", it["again"]) for name, it in found.items()]
    return table("Model|Weights MiB|First time|Again", rows)


def filters(folder: str, repeats: int) -> dict[str, Any]:
    """Time filters that need positives, their scores and texts."""
    rng, place = np.random.default_rng(SEED), Path(folder)
    words = np.array([f"word{i}" for i in range(5000)])
    # One passage in ten repeats the previous one with one word changed.
    drawn = rng.integers(0, len(words), (PASSAGES, 50))
    drawn[1::10] = drawn[0::10]
    drawn[1::10, 25] = 0
    names = [f"passage-{i}" for i in range(PASSAGES)]
    corpus = hnm.Corpus.from_dataset(
        Dataset.from_dict({"id": names, "text": [" ".join(words[line]) for line in drawn]})
    )
    rows = candidate_rows(place / "rows")
    positives = Dataset.from_dict(
        {
            "positive_ids": [[names[i]] for i in rng.integers(0, len(names), ROWS)],
            "positive_scores": rng.uniform(15, 30, (ROWS, 1)).tolist(),
        }
    )
    rows = on_disk(datasets.concatenate_datasets([rows, positives], axis=1), place / "all")
    duplicates = hnm.DropNearDuplicates(corpus)
    opened = spread_of([seconds_of(duplicates.prepare)])
    steps = {
        "RelativeMargin(0.05)": hnm.RelativeMargin(0.05),
        "AbsoluteMargin(1)": hnm.AbsoluteMargin(1),
        "DropNearDuplicates(corpus)": duplicates,
        "SampleNegatives(8)": hnm.SampleNegatives(8),
        'SampleNegatives(8, strategy="simans")': hnm.SampleNegatives(8, strategy="simans"),
        "SampleNegatives({(1, 10): 3, (11, 100): 5})": hnm.SampleNegatives({(1, 10): 3, (11, 100): 5}),
    }
    return {f"DropNearDuplicates: open {len(corpus):,} passages": opened} | time_steps(rows, steps, repeats)


def show_filters(found: dict[str, Any]) -> str:
    about = f"{ROWS:,} rows of 100 random candidates, through `map`; passages of 50 words.\n\n"
    return about + table("What|Seconds", [(f"`{name}`", times) for name, times in found.items()])


if __name__ == "__main__":
    Benchmark(
        {
            "curve": Part("As the corpus grows", curve, show_curve),
            "fingerprint": Part(
                "Naming a model",
                lambda run: {name: in_child(fingerprint, run.scratch, model=name) for name in ("static", "minilm")},
                show_fingerprint,
            ),
            "filters": Part(
                "Filters",
                lambda run: in_child(filters, run.scratch, folder=run.scratch, repeats=run.repeats),
                show_filters,
            ),
        },
        {"sizes": option([5000], "numbers of passages")},
    ).run()
