"""How fast is BM25 mining against bm25s and rank_bm25, and how fast are filters and samplers on many rows?

    python benchmarks/bm25.py                                   # the embedded sample
    python benchmarks/bm25.py SET --split train --k 100

Needs the `dev` extra. Times do not include compilation: each side runs once before it is timed.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bm25s
import datasets
import numpy as np
import psutil
import Stemmer
from datasets import Dataset, concatenate_datasets, load_from_disk
from inputs import candidate_rows, load_set, on_disk, texts_of, time_steps
from measuring import MIB, Watch, in_child, in_turns, memory_together, seconds_of, spread_of, timed
from rank_bm25 import BM25Okapi
from runner import Benchmark, Part, Run, option, set_name, table

import hnm_datasets as hnm
from hnm_datasets.storage.folders import cache_root


def build_again(corpus: hnm.Corpus) -> None:
    """Build the index without its cache."""
    index = hnm.BM25Index(corpus)
    index.close()
    shutil.rmtree(cache_root() / "bm25", ignore_errors=True)
    index.prepare()


# ---- the raw library ---------------------------------------------------------------------------------------------


def raw_tokens(texts: list[str], **options: Any) -> Any:
    """Tokenize as `BM25Index` does by default."""
    return bm25s.tokenize(texts, stemmer=Stemmer.Stemmer("english"), show_progress=False, **options)


def raw_index(texts: list[str]) -> bm25s.BM25:
    """Tokenize and index, in memory."""
    index = bm25s.BM25(backend="numba")
    index.index(raw_tokens(texts), show_progress=False)
    return index


def raw_search(index: bm25s.BM25, queries: list[str], k: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokenize queries and return their rows and scores, best first."""
    return index.retrieve(raw_tokens(queries), k=k, n_threads=threads, show_progress=False)


# ---- what is measured --------------------------------------------------------------------------------------------


def measure_build(corpus: hnm.Corpus, texts: list[str], repeats: int) -> tuple[dict[str, Any], bm25s.BM25]:
    """Time both indexes from texts to a searchable index; ours also writes its files."""
    build_again(corpus), raw_index(texts[:100])
    ours, _ = timed(lambda: build_again(corpus), repeats)
    raw, index = timed(lambda: raw_index(texts), repeats)
    size = sum(path.stat().st_size for path in (cache_root() / "bm25").rglob("*.npy"))
    return {"ours": ours, "raw": raw, "ratio": ours["median_s"] / raw["median_s"], "index_bytes": size}, index


def measure_mining(rows: Dataset, corpus: hnm.Corpus, raw: bm25s.BM25, run: Run) -> dict[str, Any]:
    """Time mining through `map`, and bm25s with its best number of threads; compare their scores."""
    queries, index, step = list(rows["query"]), hnm.BM25Index(corpus), hnm.BM25Negatives(corpus, k=run.k)
    raw_k, threads = min(run.k, len(corpus)), sorted({1, 2, os.cpu_count() or 1})
    ways: dict[Any, Callable[[], Any]] = {
        "map": lambda: rows.map(step, batched=True, load_from_cache_file=False),
        "search": lambda: index.search(queries, run.k),
    } | {n: partial(raw_search, raw, queries, raw_k, n) for n in threads}
    for n in threads:  # compiles
        raw_search(raw, queries[:64], raw_k, n)
    seconds = in_turns({name: partial(seconds_of, way) for name, way in ways.items()}, run.repeats)
    times = {name: spread_of(all_s) for name, all_s in seconds.items()}
    ours, search = times.pop("map"), times.pop("search")
    best = min(times, key=lambda n: times[n]["median_s"])
    base = times[best]["median_s"]
    mined, hits, (_, scores) = (ways[name]() for name in ("map", "search", 1))
    # bm25s adds passages with score 0; ours omits them.
    mine = np.where(hits.rows[:, :raw_k] < 0, 0, hits.scores[:, :raw_k])
    apart = np.abs(mine - np.sort(scores, axis=1)[:, ::-1]).max(axis=1)
    return {
        "map": ours,
        "search_alone": search,
        "raw_by_threads": times,
        "raw_best_threads": best,
        "ratio": ours["median_s"] / base,
        "ratio_search_alone": search["median_s"] / base,
        "queries_per_s": len(queries) / ours["median_s"],
        "candidates": sum(len(ids) for ids in mined.with_format("arrow")[:]["negative_ids"].to_pylist()),
        "agreement": {"queries": len(queries), "unequal": int((apart > 1e-4).sum()), "largest_gap": float(apart.max())},
    }


def rerun(source: str | None, split: str, folder: str, k: int) -> dict[str, Any]:
    """Repeat the map in a fresh process; return the seconds after its imports, and the cache files of the result."""
    datasets.disable_progress_bars()
    start = time.perf_counter()
    corpus, _ = load_set(source, split)
    loaded = time.perf_counter()
    mined = load_from_disk(folder).map(hnm.BM25Negatives(corpus, k=k), batched=True)
    return {"load_s": loaded - start, "map_s": time.perf_counter() - loaded, "files": mined.cache_files}


def measure_rerun(source: str | None, corpus: hnm.Corpus, folder: Path, run: Run) -> dict[str, Any]:
    """Map, and repeat in a fresh process, which must find the result in the cache."""
    first = load_from_disk(folder).map(hnm.BM25Negatives(corpus, k=run.k), batched=True)
    before = [Path(file["filename"]).stat().st_mtime_ns for file in first.cache_files]
    cache = datasets.config.HF_DATASETS_CACHE
    again = in_child(rerun, cache, source=source, split=run.split, folder=folder, k=run.k)
    files = again.pop("files")
    assert files == first.cache_files, "the rerun answered from another file"
    assert before == [Path(file["filename"]).stat().st_mtime_ns for file in files], "the rerun wrote the cache again"
    return again | {"total_s": again["load_s"] + again["map_s"]}


def look_at_workers() -> dict[str, int]:
    """Return the memory of all workers in bytes, and the part of the index."""
    workers = [child for child in psutil.Process().children(recursive=True) if "python" in child.name()]
    if len(workers) < 2:
        return {}
    try:
        maps = [part for worker in workers for part in worker.memory_maps() if str(cache_root() / "bm25") in part.path]
    except (psutil.Error, OSError):
        return {}  # a process has ended
    now = dict(memory_together(workers))
    now |= {f"index_{name}": sum(getattr(part, name) for part in maps) for name in ("rss", "pss")}
    return now | {"index_private": sum(part.private_clean + part.private_dirty for part in maps)}


def measure_workers(rows: Dataset, corpus: hnm.Corpus, index_bytes: int, run: Run) -> dict[str, Any]:
    """Map in two processes, with BM25 and with random negatives: the difference is the cost of the index."""
    many = on_disk(concatenate_datasets([rows] * max(1, 100_000 // len(rows))), run.scratch / "many")
    found: dict[str, Any] = {"rows": len(many), "index_bytes": index_bytes}
    for name, kind in {"bm25": hnm.BM25Negatives, "random": hnm.RandomNegatives}.items():
        with Watch(look_at_workers, 0.02) as peak:
            many.map(kind(corpus, k=run.k), batched=True, num_proc=2, load_from_cache_file=False)
        found[name] = {what: peak[what] for what in ("rss", "pss", "uss", "index_rss", "index_pss", "index_private")}
    return found | {"uss_over_random": found["bm25"]["uss"] - found["random"]["uss"]}


def measure_rank_bm25(rows: Dataset, texts: list[str], run: Run) -> dict[str, Any]:
    """Search a small corpus with both, because rank_bm25 scores every passage in Python."""
    passages, queries = texts[:10_000], list(rows["query"][:100])
    small = hnm.Corpus.from_dataset(Dataset.from_dict({"id": [str(i) for i in range(len(passages))], "text": passages}))
    index, k = hnm.BM25Index(small), min(run.k, len(passages))
    index.prepare()
    theirs = BM25Okapi(raw_tokens(passages, return_ids=False))

    def search() -> None:
        for tokens in raw_tokens(queries, return_ids=False):
            scores = theirs.get_scores(tokens)
            best = np.argpartition(scores, -k)[-k:]
            best[np.argsort(-scores[best])]

    ours, _ = timed(lambda: index.search(queries, k), run.repeats)
    speed = {"ours_per_s": len(queries) / ours["median_s"], "rank_bm25_per_s": len(queries) / seconds_of(search)}
    sizes = {"passages": len(passages), "queries": len(queries)}
    return {**sizes, **speed, "times_faster": speed["ours_per_s"] / speed["rank_bm25_per_s"]}


#: Filters and samplers.
STEPS = {
    "RankWindow(2, 90)": hnm.RankWindow(2, 90),
    "ScoreBand(min=10)": hnm.ScoreBand(min=10),
    "TopNegatives(10)": hnm.TopNegatives(10),
    "SampleNegatives(10)": hnm.SampleNegatives(10),
    "SampleNegatives(10, 'softmax')": hnm.SampleNegatives(10, "softmax"),
}


def measure(run: Run) -> dict[str, Any]:
    source = run.sets[0] if run.sets else None
    corpus, queries = load_set(source, run.split)
    rows, texts = on_disk(queries, run.scratch / "rows"), texts_of(corpus)
    found: dict[str, Any] = {"name": set_name(source) if source else "sample", "k": run.k, "split": run.split}
    found |= {"passages": len(corpus), "queries": len(rows)}
    found["build"], raw = measure_build(corpus, texts, run.repeats)
    first, step = rows.select(range(min(64, len(rows)))), hnm.BM25Negatives(corpus, k=run.k)
    first.map(step, batched=True, load_from_cache_file=False)
    # Must run before bm25s searches: the parallel loops of numba that it uses do not survive a fork.
    found["workers"] = measure_workers(rows, corpus, found["build"]["index_bytes"], run)
    found["mining"] = measure_mining(rows, corpus, raw, run)
    found["rerun"] = measure_rerun(source, corpus, run.scratch / "rows", run)
    found["rank_bm25"] = measure_rank_bm25(rows, texts, run)
    found["steps"] = time_steps(candidate_rows(run.scratch / "synthetic"), STEPS, run.repeats)
    return found | {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def show(found: dict[str, Any]) -> str:
    build, workers, mining, rank = found["build"], found["workers"], found["mining"], found["rank_bm25"]
    # JSON converts the keys to strings.
    raw = {str(n): times for n, times in mining["raw_by_threads"].items()}[str(mining["raw_best_threads"])]
    mib = {name: f"{workers['bm25'][name] / MIB:.1f} MiB" for name in ("index_pss", "index_private")}
    lines = [
        ("build the index and write it", build["ours"], None),
        ("build the index, bm25s in memory", build["raw"], f"ours / bm25s: {build['ratio']:.2f}"),
        ("mine with `map`", mining["map"], f"{mining['queries_per_s']:,.0f} queries/s"),
        ("`index.search` alone", mining["search_alone"], f"/ bm25s: {mining['ratio_search_alone']:.2f}"),
        (f"bm25s, {mining['raw_best_threads']} threads (its best)", raw, None),
        ("mine with `map` / bm25s", f"{mining['ratio']:.2f}", "at most 1.5"),
        ("queries whose scores differ from bm25s by over 1e-4", mining["agreement"]["unequal"], 0),
        ("rerun in a fresh process, from the cache", f"{found['rerun']['total_s']:.2f} s", "under 2 s"),
        ("index on disk", f"{workers['index_bytes'] / MIB:.1f} MiB", None),
        ("index in 2 workers, PSS summed", mib["index_pss"], "at most its size"),
        ("index pages private to a worker", mib["index_private"], 0),
        ("private memory of 2 workers, over random negatives", f"{workers['uss_over_random'] / MIB:.1f} MiB", None),
        (
            f"`index.search` / rank_bm25, {rank['passages']:,} passages",
            f"{rank['times_faster']:,.0f} times faster",
            None,
        ),
        *((f"`{name}`, 100,000 x 100", times, "under 2 s") for name, times in found["steps"].items()),
        ("peak memory of the process", f"{found['peak_rss_bytes'] / MIB:,.0f} MiB", None),
    ]
    about = f"{found['passages']:,} passages, {found['queries']:,} queries, k = {found['k']}, medians (spread).\n\n"
    return about + table("What|Measured|Target or note", lines)


if __name__ == "__main__":
    Benchmark(
        {"": Part("", measure, show)},
        {"split": option("train"), "k": option(100, "candidates per query")},
        sets="?",
        file=lambda sets: "-".join(["bm25", *(sets or ["sample"])]),
    ).run()
