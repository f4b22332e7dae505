"""Measure mining as the corpus grows: building, searching, memory, one process against two, and Ray.

    python benchmarks/scale.py --sizes 10000 100000 1000000

Passages are 50 words drawn from a vocabulary whose frequencies fall as those of a language do, without its 50 most
frequent words, as stop words are left out anyway; a query is eight words of one passage. Vectors of 64 dimensions are
made from numbers, around 1,000 centres, in place of a model. Parts (`--parts`), each a section of the report:

- scale: first seconds, peak of anonymous memory and bytes on disk of the corpus, of BM25, of the vectors, of an IVF
  index and of one that holds a byte a number (exact search needs none). Then 10,000 queries, k = 100, through
  `Dataset.map` in this process (all cores), in one worker and in two (a core each), and through Ray Data with one and
  two workers. Memory of all processes together: what is anonymous, and what they share counted once (PSS). Where the
  time goes: to start (the same workers asked for two rows), and to search (the index alone asked the same, here).
- encode: passages a second that MiniLM encodes here (needs the `offline` extra).
- stream: a stream of queries to Parquet shards, killed and started again, with the memory along the way.

Each measurement runs in a fresh process after a small warm-up. Results go to scale.json and .md in `--output`;
`placement.py` computes from them what larger corpora need.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from _common import MIB, Parts, in_child, measured, run_script, table
from _texts import BATCH, WORDS, passages, queries, words_of
from _vectors import NumberedVectors, query_vectors
from datasets import Dataset, IterableDataset, load_dataset, load_from_disk

import hnm_datasets as hnm
from hnm_datasets.storage.folders import cache_root

K, ASKED, RECALLED = 100, 10_000, 500
KIND = "clustered"
#: Queries in a batch of `map`.
BATCHED = 250
#: Rows of the stream, of which each shard holds some thousands, and what its words are drawn from.
STREAMED, FIRST_STREAMED = 200_000, 10**9


# ---- build -------------------------------------------------------------------------------------------------------


def disk(kind: str) -> int:
    folder = cache_root() / kind
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def task_corpus(folder: str, size: int) -> dict[str, Any]:
    spent: dict[str, float] = {}
    rows = Dataset.from_generator(passages, gen_kwargs={"starts": list(range(0, size, BATCH)), "size": size})
    hnm.Corpus.from_dataset(rows.select(range(100)))
    with measured(spent):
        corpus = hnm.Corpus.from_dataset(rows)
    Dataset.from_dict(queries(0, ASKED, size)).save_to_disk(Path(folder) / "queries")
    return {"seconds": spent["total"], "bytes": disk("corpora"), "corpus": corpus.fingerprint}


def task_bm25(corpus: str) -> dict[str, Any]:
    spent: dict[str, float] = {}
    small, _ = hnm.load_sample("earthquakes")
    hnm.BM25Index(small)
    with measured(spent):
        hnm.BM25Index(hnm.Corpus(corpus))
    return {"seconds": spent["total"], "bytes": disk("bm25")}


def task_embed(corpus: str) -> dict[str, Any]:
    spent: dict[str, float] = {}
    model = NumberedVectors(KIND)
    with measured(spent):
        made = hnm.Corpus(corpus).embed(model, fingerprint=model.fingerprint)
    return {"seconds": spent["total"], "bytes": disk("embeddings"), "embeddings": made.fingerprint}


def task_build(embeddings: str, options: dict[str, Any]) -> dict[str, Any]:
    import faiss  # noqa: F401

    spent: dict[str, float] = {}
    vectors, before = hnm.Embeddings(embeddings), disk("dense")
    assert len(vectors)
    with measured(spent):
        hnm.DenseIndex(vectors, **options)
    return {"seconds": spent["total"], "bytes": disk("dense") - before}


def task_recall(embeddings: str, options: dict[str, Any]) -> dict[str, Any]:
    index = hnm.DenseIndex(hnm.Embeddings(embeddings), **options)
    return {"recall": index.recall(query_vectors(KIND, RECALLED), K)}


def dense_options(size: int) -> dict[str, dict[str, Any]]:
    """Return exact search and IVF indexes of four times the root of the passages, of which a sixteenth is searched."""
    lists = 4 * int(size**0.5)
    searched = max(1, lists // 16)
    inverted = {"ivf": "Flat", "compressed": "SQ8"}
    return {"exact": {}} | {
        name: {"factory": f"IVF{lists},{kind}", "nprobe": searched} for name, kind in inverted.items()
    }


def prepared(size: int, cache: Path, folder: Path) -> dict[str, Any]:
    """Build everything for a size, and tell what it took."""
    made = {"corpus": in_child("corpus", cache, watch=True, folder=folder, size=size)}
    corpus = made["corpus"]["corpus"]
    made["bm25"] = in_child("bm25", cache, watch=True, corpus=corpus)
    made["embed"] = in_child("embed", cache, watch=True, corpus=corpus)
    vectors = made["embed"]["embeddings"]
    for name, options in dense_options(size).items():
        if name == "exact":
            continue
        made[name] = in_child("build", cache, watch=True, embeddings=vectors, options=options)
        made[name] |= in_child("recall", cache, embeddings=vectors, options=options)
    return made


# ---- mine --------------------------------------------------------------------------------------------------------


class Watch:
    """The most memory that this process and its children hold together, in a thread of its own."""

    def __init__(self, ray: bool) -> None:
        self.peak = {"anonymous": 0, "pss": 0}
        self.ray, self.over = ray, threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        """Look five times a second."""
        while not self.over.wait(0.2):
            now = {"anonymous": 0, "pss": 0}
            for process in self.processes():
                try:
                    full = process.memory_full_info()
                except psutil.Error:
                    continue
                now["anonymous"] += full.rss - full.shared
                now["pss"] += full.pss
            self.peak = {name: max(self.peak[name], value) for name, value in now.items()}

    def processes(self) -> list[psutil.Process]:
        """Return the processes that are at work."""
        own = psutil.Process()
        found = [own, *own.children(recursive=True)]
        # Of Ray's many processes those that work for us.
        return [process for process in found if not self.ray or process is own or "MapBatches" in _name(process)]

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def step_of(source: str, size: int, corpus: str, embeddings: str) -> tuple[Any, dict[str, Any]]:
    """Return the class of a miner and its arguments."""
    passages_ = hnm.Corpus(corpus)
    if source == "bm25":
        return hnm.BM25Negatives, {"corpus": passages_, "k": K}
    model = NumberedVectors(KIND)
    index = hnm.DenseIndex(hnm.Embeddings(embeddings), **dense_options(size)[source])
    dense = {"corpus": passages_, "model": model, "k": K, "index": index, "fingerprint": model.fingerprint}
    return hnm.DenseNegatives, dense


def task_mine(folder: str, source: str, workers: int | None, ray_workers: int | None, **where: Any) -> dict[str, Any]:
    """Mine for all queries and tell the seconds, and the memory of all processes."""
    rows = load_from_disk(str(Path(folder) / "queries"))
    # From what another number of workers left, `map` would take over how the rows are shared out.
    rows.cleanup_cache_files()
    kind, arguments = step_of(source, **where)
    step = kind(**arguments)
    # Opens the index, compiles the loops.
    step(rows[:64])
    if ray_workers is not None:
        return mined_with_ray(rows, kind, arguments, ray_workers)

    def mine(asked: Dataset, size: int) -> Dataset:
        return asked.map(step, batched=True, batch_size=size, num_proc=workers, load_from_cache_file=False)

    parts: dict[str, float] = {}
    if workers is not None:
        parts["start"] = seconds_of(lambda: mine(rows.select(range(2)), 1))
    spent: dict[str, float] = {}
    with measured(spent), Watch(ray=False) as watch:
        mined = mine(rows, BATCHED)
    if workers is None:
        texts = rows["query"][:]
        index = arguments.get("index") or hnm.BM25Index(arguments["corpus"])
        asked = NumberedVectors(KIND)(texts) if "index" in arguments else texts
        batches = [asked[start : start + BATCHED] for start in range(0, len(rows), BATCHED)]
        parts["search"] = seconds_of(lambda: [index.search(batch, K) for batch in batches])
    return {"seconds": spent["total"], "rows": len(mined), **parts, **watch.peak}


def seconds_of(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def mined_with_ray(rows: Dataset, kind: Any, arguments: dict[str, Any], workers: int) -> dict[str, Any]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    few, all_ = (ray.data.from_huggingface(part).repartition(40).materialize() for part in (rows.select([0, 1]), rows))

    def mine(asked: Any) -> int:
        pool = ray.data.ActorPoolStrategy(size=workers)
        return asked.map_batches(
            kind, fn_constructor_kwargs=arguments, batch_size=BATCHED, batch_format="pyarrow", compute=pool
        ).materialize().count()  # fmt: skip

    start = seconds_of(lambda: mine(few))
    spent: dict[str, float] = {}
    with measured(spent), Watch(ray=True) as watch:
        count = mine(all_)
    return {"seconds": spent["total"], "rows": count, "start": start, **watch.peak}


def part_scale(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    found = []
    for size in args.sizes:
        cache, folder = scratch / f"cache-{size}", scratch / str(size)
        folder.mkdir(parents=True)
        made = prepared(size, cache, folder)
        where = {
            "corpus": made["corpus"]["corpus"],
            "embeddings": made["embed"]["embeddings"],
        }
        mined: dict[str, dict[str, list[Any]]] = {}
        ways = {"map": (None, None), "1 worker": (1, None), "2 workers": (2, None)}
        ways |= {"Ray, 1": (None, 1), "Ray, 2": (None, 2)}
        asked = [*itertools.product(("bm25", "ivf"), ways), ("compressed", "map"), ("exact", "map")]
        for _, (source, way) in itertools.product(range(args.repeats), asked):
            workers, ray_workers = ways[way]
            run = in_child(
                "mine",
                cache,
                folder=folder,
                size=size,
                source=source,
                workers=workers,
                ray_workers=ray_workers,
                **where,
            )
            mined.setdefault(source, {}).setdefault(way, []).append(run)
        found.append({"size": size, "made": made, "mined": mined})
        shutil.rmtree(cache)
    return found


def show_scale(found: list[dict[str, Any]]) -> str:
    built, mined = [], []
    for one in found:
        size = one["size"]
        for what, made in one["made"].items():
            memory = made["memory"].get("anonymous", 0) / MIB
            per = made["bytes"] / size
            recall = f"{made['recall']:.3f}" if "recall" in made else ""
            built.append((f"{size:,}", what, f"{made['seconds']:.1f}", f"{memory:,.0f}", f"{per:,.0f}", recall))
        for source, ways in one["mined"].items():
            seconds = {way: sorted(run["seconds"] for run in runs) for way, runs in ways.items()}
            middle = {way: times[len(times) // 2] for way, times in seconds.items()}
            for way, times in seconds.items():
                memory = max(run["anonymous"] for run in ways[way]) / MIB
                pss = max(run["pss"] for run in ways[way]) / MIB
                single = {"2 workers": "1 worker", "Ray, 2": "Ray, 1"}.get(way)
                gain = f"{middle[single] / middle[way]:.2f}" if single else ""
                mined.append(
                    (
                        f"{size:,}",
                        source,
                        way,
                        f"{middle[way]:.2f} ({times[0]:.2f} to {times[-1]:.2f})",
                        gain,
                        *(f"{ways[way][0][part]:.2f}" if part in ways[way][0] else "" for part in ("start", "search")),
                        f"{memory:,.0f}",
                        f"{pss:,.0f}",
                    )
                )
    return (
        table(f"Passages|What|Build s|Peak MiB|Bytes a passage|Recall at {K}", built)
        + f"\n{ASKED:,} queries, k = {K}. Gain: how many times as fast as with one worker. Memory of all processes.\n\n"
        + table("Passages|Source|Way|Seconds|Gain|Start|Search|Anonymous MiB|PSS MiB", mined)
    )


# ---- encode ------------------------------------------------------------------------------------------------------


def task_encode() -> dict[str, Any]:
    from _models import make_model

    model = make_model("minilm")
    texts = words_of(0, 600, WORDS)
    model.encode(texts[:32])
    spent: dict[str, float] = {}
    with measured(spent):
        model.encode(texts, batch_size=32)
    return {"per_second": len(texts) / spent["total"]}


def part_encode(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    return in_child("encode", scratch)


def show_encode(found: dict[str, Any]) -> str:
    return f"MiniLM encodes {found['per_second']:.0f} passages of {WORDS} words a second.\n"


# ---- stream ------------------------------------------------------------------------------------------------------


def streamed(size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, STREAMED, BATCH):
        for row, text in enumerate(words_of(FIRST_STREAMED + start, BATCH, 8), start):
            yield {"query_id": f"q{row}", "query": text, "positive_ids": [f"p{row % size}"]}


def task_stream(folder: str, size: int, corpus: str) -> dict[str, Any]:
    """Write the stream, noting the memory at each shard."""
    from hnm_datasets.scale import streaming

    process, notes = psutil.Process(), []
    write = streaming.pq.write_table

    def noted(shard: Any, path: Path) -> None:
        write(shard, path)
        info = process.memory_info()
        notes.append((info.rss - info.shared) / MIB)

    streaming.pq.write_table = noted
    stream = IterableDataset.from_generator(streamed, gen_kwargs={"size": size})
    mined = stream.with_format("arrow").map(hnm.BM25Negatives(hnm.Corpus(corpus), k=10), batched=True)
    rows = hnm.write_stream(mined, folder, max_shard_size="2MB")
    return {"rows": rows, "anonymous_mib": notes}


def part_stream(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    size = min(args.sizes)
    cache, folder = scratch / "cache", scratch / "queries"
    folder.mkdir(parents=True)
    corpus = in_child("corpus", cache, folder=folder, size=size)["corpus"]
    whole = in_child("stream", cache, folder=scratch / "whole", size=size, corpus=corpus)
    task = [sys.executable, sys.argv[0], "--child", "stream"]
    options = f'{{"folder": "{scratch / "killed"}", "size": {size}, "corpus": "{corpus}"}}'
    shards, kills = len(whole["anonymous_mib"]), 0
    for enough in (shards // 4, shards // 2, 3 * shards // 4):
        child = subprocess.Popen(
            [*task, options],
            env=os.environ | {"HF_DATASETS_CACHE": str(cache)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while child.poll() is None and len(list((scratch / "killed").glob("data/*.parquet"))) < enough:
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
    last = in_child("stream", cache, folder=scratch / "killed", size=size, corpus=corpus)
    both = [load_dataset(str(scratch / name), split="train", cache_dir=str(cache)) for name in ("whole", "killed")]
    columns = ["query_id", "negative_ids", "negative_scores"]
    same = all(one == other for one, other in zip(*(rows.select_columns(columns) for rows in both), strict=True))
    return {"passages": size, "kills": kills, "whole": whole, "resumed": last, "same": same}


def show_stream(found: dict[str, Any]) -> str:
    notes = found["whole"]["anonymous_mib"]
    tenths = [f"{notes[min(len(notes) - 1, len(notes) * tenth // 10)]:.0f}" for tenth in range(1, 11)]
    equal = "the same rows" if found["same"] else "OTHER ROWS"
    return (
        f"{found['whole']['rows']:,} queries against {found['passages']:,} passages, BM25, k = 10, in {len(notes)} "
        f"shards. Anonymous memory in MiB after each tenth of the shards: {', '.join(tenths)}. Killed {found['kills']} "
        f"times and started again: {found['resumed']['rows']:,} rows, {equal}.\n"
    )


PARTS: Parts = {
    "scale": ("Building and mining", part_scale, show_scale),
    "encode": ("Encoding", part_encode, show_encode),
    "stream": ("A stream", part_stream, show_stream),
}


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000], help="numbers of passages")
    tasks = {
        "corpus": task_corpus, "bm25": task_bm25, "embed": task_embed, "build": task_build, "recall": task_recall,
        "mine": task_mine, "encode": task_encode, "stream": task_stream,
    }  # fmt: skip
    run_script(parser, PARTS, tasks)


if __name__ == "__main__":
    main()
