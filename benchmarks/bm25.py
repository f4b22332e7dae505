"""Measure BM25 mining against bm25s and rank_bm25, and the filters and samplers on many rows.

    python benchmarks/bm25.py                                   # the embedded sample
    python benchmarks/bm25.py FOLDER --split train --k 100      # a folder in BEIR's form

Needs the `dev` extra. Everything is written to a temporary folder; the results go to benchmarks/results/bm25-NAME.json
and .md, where NAME is the folder's name. Times are medians of the repeats, with all of them in the JSON. Compiling is
left out: each side runs once before it is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bm25s
import datasets
import numpy as np
import psutil
import Stemmer
from _common import RESULTS, SEED, git_commit, machine, on_disk, spread, spread_of, synthetic_rows, time_steps, timed
from datasets import Dataset, concatenate_datasets, load_from_disk
from rank_bm25 import BM25Okapi

from hnm_datasets import (
    BM25Index,
    BM25Negatives,
    Corpus,
    RandomNegatives,
    RankWindow,
    SampleNegatives,
    ScoreBand,
    TopNegatives,
    load_beir,
    load_sample,
)
from hnm_datasets.indexes import bm25 as bm25_module
from hnm_datasets.storage.folders import cache_root

#: Packages whose versions matter.
PACKAGES = ("datasets", "bm25s", "numba", "numpy", "pyarrow", "rank_bm25")

#: What a fresh process runs; it prints the seconds after its imports and the file that `map` answered with.
RERUN = """
import json, sys, time
import datasets
from hnm_datasets import BM25Negatives, load_beir, load_sample
datasets.disable_progress_bars()
source, split, rows, k = sys.argv[1:]
start = time.perf_counter()
corpus, _ = load_beir(source, split=split) if source else load_sample()
loaded = time.perf_counter()
mined = datasets.load_from_disk(rows).map(BM25Negatives(corpus, k=int(k)), batched=True)
print(json.dumps({"load_s": loaded - start, "map_s": time.perf_counter() - loaded, "files": mined.cache_files}))
"""


def timed_in_turn(runs: dict[Any, Callable[[], Any]], repeats: int) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Time several runs in turn, so that a slow minute of the machine meets all of them."""
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    answers = {}
    for _ in range(repeats):
        for name, run in runs.items():
            once, answers[name] = timed(run, 1)
            seconds[name] += once["all_s"]
    return {name: spread_of(all_s) for name, all_s in seconds.items()}, answers


def forget(corpus: Corpus) -> BM25Index:
    """Build the index as if for the first time."""
    bm25_module._OPENED.clear()
    shutil.rmtree(cache_root() / "bm25", ignore_errors=True)
    return BM25Index(corpus)


# ---- the raw library ---------------------------------------------------------------------------------------------


def raw_tokens(texts: list[str], **options: Any) -> Any:
    """Tokenise as `BM25Index` does by default."""
    return bm25s.tokenize(texts, stemmer=Stemmer.Stemmer("english"), show_progress=False, **options)


def raw_index(texts: list[str]) -> bm25s.BM25:
    """Tokenise and index, in memory."""
    index = bm25s.BM25(backend="numba")
    index.index(raw_tokens(texts), show_progress=False)
    return index


def raw_search(index: bm25s.BM25, queries: list[str], k: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and scores, best first, of queries that are tokenised here."""
    return index.retrieve(raw_tokens(queries), k=k, n_threads=threads, show_progress=False)


# ---- what is measured --------------------------------------------------------------------------------------------


def measure_build(corpus: Corpus, texts: list[str], repeats: int) -> tuple[dict[str, Any], bm25s.BM25]:
    """Time both indexes from texts to searchable; ours also writes its files."""
    forget(corpus), raw_index(texts[:100])
    ours, _ = timed(lambda: forget(corpus), repeats)
    raw, index = timed(lambda: raw_index(texts), repeats)
    size = sum(path.stat().st_size for path in (cache_root() / "bm25").rglob("*.npy"))
    return {"ours": ours, "raw": raw, "ratio": ours["median_s"] / raw["median_s"], "index_bytes": size}, index


def measure_mining(
    rows: Dataset, corpus: Corpus, raw: bm25s.BM25, k: int, repeats: int, compiled: dict[str, float]
) -> dict[str, Any]:
    """Time mining as a user does it, and bm25s with its best number of threads; compare their scores."""
    queries, index, step = list(rows["query"]), BM25Index(corpus), BM25Negatives(corpus, k=k)
    raw_k = min(k, len(corpus))
    cold, _ = timed(lambda: raw_search(raw, queries[:64], raw_k, 1), 1)
    runs: dict[Any, Callable[[], Any]] = {
        "map": lambda: rows.map(step, batched=True, load_from_cache_file=False),
        "search": lambda: index.search(queries, k),
    }
    for threads in sorted({1, 2, os.cpu_count() or 1}):
        runs[threads] = lambda n=threads: raw_search(raw, queries, raw_k, n)
        raw_search(raw, queries[:64], raw_k, threads)
    times, answers = timed_in_turn(runs, repeats)
    ours, search, mined, hits = times.pop("map"), times.pop("search"), answers["map"], answers["search"]
    by_threads, scores = times, answers[1][1]
    best = min(by_threads, key=lambda n: by_threads[n]["median_s"])
    base = by_threads[best]["median_s"]
    # bm25s fills up with passages of score 0; ours ends there.
    mine = np.where(hits.rows[:, :raw_k] < 0, 0, hits.scores[:, :raw_k])
    apart = np.abs(mine - np.sort(scores, axis=1)[:, ::-1]).max(axis=1)
    return {
        "first_call_s": {**compiled, "raw": cold["median_s"]},
        "map": ours,
        "search_alone": search,
        "raw_by_threads": by_threads,
        "raw_best_threads": best,
        "ratio": ours["median_s"] / base,
        "ratio_search_alone": search["median_s"] / base,
        "queries_per_s": len(queries) / ours["median_s"],
        "candidates": sum(len(ids) for ids in mined.with_format("arrow")[:]["negative_ids"].to_pylist()),
        "agreement": {"queries": len(queries), "unequal": int((apart > 1e-4).sum()), "largest_gap": float(apart.max())},
    }


def measure_rerun(source: str, split: str, folder: Path, corpus: Corpus, k: int) -> dict[str, Any]:
    """Map once more in a fresh process, which must answer from the cache."""
    rows = load_from_disk(folder)
    first = rows.map(BM25Negatives(corpus, k=k), batched=True)
    before = [Path(file["filename"]).stat().st_mtime_ns for file in first.cache_files]
    environment = os.environ | {"HF_DATASETS_CACHE": str(datasets.config.HF_DATASETS_CACHE)}
    command = [sys.executable, "-c", RERUN, source, split, str(folder), str(k)]
    answer = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)
    after = [Path(file["filename"]).stat().st_mtime_ns for file in answer["files"]]
    assert answer["files"] == first.cache_files, "the rerun answered from another file"
    assert before == after, "the rerun wrote the cache again"
    return {"load_s": answer["load_s"], "map_s": answer["map_s"], "total_s": answer["load_s"] + answer["map_s"]}


def watched(run: Callable[[], Any], index_folder: Path) -> dict[str, int]:
    """Run something that starts worker processes; return their largest memory in bytes, summed over the workers."""
    worst = {"rss": 0, "pss": 0, "uss": 0, "index_rss": 0, "index_pss": 0, "index_private": 0, "samples": 0}
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            workers = [child for child in psutil.Process().children(recursive=True) if "python" in child.name()]
            if len(workers) < 2:
                continue
            try:
                memory = [worker.memory_full_info() for worker in workers]
                maps = [part for worker in workers for part in worker.memory_maps() if str(index_folder) in part.path]
            except (psutil.Error, OSError):
                continue  # a worker ended meanwhile
            now = {name: sum(getattr(one, name) for one in memory) for name in ("rss", "pss", "uss")}
            now |= {f"index_{name}": sum(getattr(part, name) for part in maps) for name in ("rss", "pss")}
            now["index_private"] = sum(part.private_clean + part.private_dirty for part in maps)
            for name, value in now.items():
                worst[name] = max(worst[name], value)
            worst["samples"] += 1

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        run()
    finally:
        done.set()
        thread.join()
    return worst


def measure_workers(rows: Dataset, corpus: Corpus, k: int, folder: Path, index_bytes: int) -> dict[str, Any]:
    """Map in two processes, also with random negatives, which need no index: the difference is what the index costs."""
    many = on_disk(concatenate_datasets([rows] * max(1, 100_000 // len(rows))), folder)
    root = cache_root() / "bm25"
    steps = {"bm25": BM25Negatives(corpus, k=k), "random": RandomNegatives(corpus, k=k)}
    found: dict[str, Any] = {"rows": len(many), "index_bytes": index_bytes}
    for name, step in steps.items():
        found[name] = watched(
            lambda step=step: many.map(step, batched=True, num_proc=2, load_from_cache_file=False), root
        )
    found["uss_over_random"] = found["bm25"]["uss"] - found["random"]["uss"]
    return found


def measure_rank_bm25(rows: Dataset, texts: list[str], k: int, repeats: int) -> dict[str, Any]:
    """Search a small corpus with both, since rank_bm25 scores every passage in Python."""
    passages, queries = texts[:10_000], list(rows["query"][:100])
    small = Corpus.from_dataset(Dataset.from_dict({"id": [str(i) for i in range(len(passages))], "text": passages}))
    index, k = BM25Index(small), min(k, len(passages))
    theirs = BM25Okapi(raw_tokens(passages, return_ids=False))

    def search() -> None:
        for tokens in raw_tokens(queries, return_ids=False):
            scores = theirs.get_scores(tokens)
            best = np.argpartition(scores, -k)[-k:]
            best[np.argsort(-scores[best])]

    ours, _ = timed(lambda: index.search(queries, k), repeats)
    other, _ = timed(search, 1)
    speed = {"ours_per_s": len(queries) / ours["median_s"], "rank_bm25_per_s": len(queries) / other["median_s"]}
    sizes = {"passages": len(passages), "queries": len(queries)}
    return {**sizes, **speed, "times_faster": speed["ours_per_s"] / speed["rank_bm25_per_s"]}


def measure_steps(folder: Path, repeats: int) -> dict[str, Any]:
    """Time each filter and sampler over the synthetic rows."""
    rows = synthetic_rows(folder)
    steps = {
        "RankWindow(2, 90)": RankWindow(2, 90),
        "ScoreBand(min=10)": ScoreBand(min=10),
        "TopNegatives(10)": TopNegatives(10),
        "SampleNegatives(10)": SampleNegatives(10),
        "SampleNegatives(10, 'softmax')": SampleNegatives(10, "softmax"),
    }
    return time_steps(rows, steps, repeats)


# ---- the report --------------------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    """Return the results as a table."""
    mining, workers, rank = result["mining"], result["workers"], result["rank_bm25"]
    build, rerun, mib = result["build"], result["rerun"], 2**20
    raw = mining["raw_by_threads"][mining["raw_best_threads"]]

    lines = [
        ("build the index and write it", spread(build["ours"]), ""),
        ("build the index, bm25s in memory", spread(build["raw"]), f"ours / bm25s: {build['ratio']:.2f}"),
        ("mine with `map`", spread(mining["map"]), f"{mining['queries_per_s']:,.0f} queries/s"),
        ("`index.search` alone", spread(mining["search_alone"]), f"/ bm25s: {mining['ratio_search_alone']:.2f}"),
        (f"bm25s, {mining['raw_best_threads']} threads (its best)", spread(raw), ""),
        ("mine with `map` / bm25s", f"{mining['ratio']:.2f}", "at most 1.5"),
        ("queries whose scores differ from bm25s by over 1e-4", str(mining["agreement"]["unequal"]), "0"),
        ("rerun in a fresh process, from the cache", f"{rerun['total_s']:.2f} s", "under 2 s"),
        ("index on disk", f"{workers['index_bytes'] / mib:.1f} MiB", ""),
        ("index in 2 workers, PSS summed", f"{workers['bm25']['index_pss'] / mib:.1f} MiB", "at most its size"),
        ("index pages private to a worker", f"{workers['bm25']['index_private'] / mib:.1f} MiB", "0"),
        ("private memory of 2 workers, over random negatives", f"{workers['uss_over_random'] / mib:.1f} MiB", ""),
        (f"`index.search` / rank_bm25, {rank['passages']:,} passages", f"{rank['times_faster']:,.0f} times faster", ""),
        *((f"`{name}`, 100,000 x 100", spread(times), "under 2 s") for name, times in result["steps"].items()),
        ("peak memory of the process", f"{result['peak_rss_bytes'] / mib:,.0f} MiB", ""),
    ]
    head = (
        f"# BM25 on {result['name']}\n\n{result['passages']:,} passages, {result['queries']:,} queries, "
        f"k = {result['k']}, median of {result['repeats']} (spread). {result['machine']['cpu']}, "
        f"{result['machine']['cores']} cores, {result['machine']['memory_gib']} GiB; "
        f"{result['date'][:10]}, commit {result['commit'][:12]}.\n\n"
    )
    table = [("What", "Measured", "Target or note"), ("---", "---", "---"), *lines]
    return head + "".join(f"| {a} | {b} | {c} |\n" for a, b, c in table)


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="", help="in BEIR's form; without it: the embedded sample")
    parser.add_argument("--split", default="train")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        datasets.config.HF_DATASETS_CACHE = scratch / "cache"
        corpus, queries = load_beir(args.folder, split=args.split) if args.folder else load_sample()
        name = Path(args.folder).resolve().name if args.folder else "sample"
        rows = on_disk(queries, scratch / "rows")
        texts = [text for chunk in corpus.iter_texts() for text in chunk.to_pylist()]
        result: dict[str, Any] = {
            "name": name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": git_commit(),
            "machine": machine(PACKAGES),
            "seed": SEED,
            "repeats": args.repeats,
            "k": args.k,
            "split": args.split,
            "passages": len(corpus),
            "queries": len(rows),
        }
        result["build"], raw = measure_build(corpus, texts, args.repeats)
        first, step = rows.select(range(min(64, len(rows)))), BM25Negatives(corpus, k=args.k)
        compiled, _ = timed(lambda: first.map(step, batched=True, load_from_cache_file=False), 1)
        # Before bm25s searches: numba's parallel loops, which it uses, do not survive a fork.
        size = result["build"]["index_bytes"]
        result["workers"] = measure_workers(rows, corpus, args.k, scratch / "many", size)
        cold = {"ours": compiled["median_s"]}
        result["mining"] = measure_mining(rows, corpus, raw, args.k, args.repeats, cold)
        result["rerun"] = measure_rerun(args.folder, args.split, scratch / "rows", corpus, args.k)
        result["rank_bm25"] = measure_rank_bm25(rows, texts, args.k, args.repeats)
        result["peak_rss_before_steps_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        result["steps"] = measure_steps(scratch / "synthetic", args.repeats)
        result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"bm25-{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / f"bm25-{name}.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
