"""How does mining scale with the corpus: building, searching, memory, one process against two, and Ray?

    python benchmarks/scale.py --sizes 10000 100000 1000000
    python benchmarks/scale.py --sizes 10000 100000 1000000 10000000 --parts scale --kept FOLDER

Passages are 50 words from a vocabulary with the frequencies of a language, without its 50 most frequent words, because
stop words are skipped anyway. A query is eight words of one passage. Instead of a model, vectors of 64 dimensions are
computed from numbers, around 1,000 centers. Parts (`--parts`), each a section of the report:

- scale: first the seconds, the peak of anonymous memory and the bytes on disk of the corpus, of BM25, of the vectors,
  of an IVF index and of one with one byte per number (exact search needs no index). Then 10,000 queries, k = 100,
  through `Dataset.map` in this process (all cores), in one and in two workers (one core each), and through Ray Data
  with one and two workers. Memory is the sum over all processes: anonymous memory, and shared memory counted once
  (PSS). The time is split into starting (the same workers with two rows) and searching (the same search with the index
  alone, in this process). Corpora with more than a million passages are measured once, in this process only, with BM25
  in shards of 2,500,000.
- encode: passages per second that MiniLM encodes on this machine (needs the `offline` extra).
- stream: `--streamed` queries to Parquet shards, killed and restarted, with the memory during the run.

Each measurement runs in a fresh process after a small warm-up. With `--kept`, everything that was built and measured
stays in a folder, so an interrupted run resumes. `placement.py` computes the needs of larger corpora from the results.
"""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from datasets import Dataset, IterableDataset, load_dataset, load_from_disk
from inputs import BATCH, WORDS, NumberedVectors, build, disk, passages, queries, query_vectors, words_of
from measuring import (
    MIB,
    Watch,
    in_child,
    measured,
    memory_of,
    memory_together,
    seconds_of,
    spread_of,
    start_child,
)
from runner import Benchmark, Part, Run, option, spread, table

import hnm_datasets as hnm

K, ASKED, RECALLED = 100, 10_000, 500
KIND = "clustered"
#: Queries in a batch of `map`.
BATCHED = 250
#: The vocabulary of the stream.
FIRST_STREAMED = 10**9
#: Larger corpora are measured once, with BM25 in shards of at most this size.
LARGE, SHARD = 10**6, 2_500_000


# ---- build -------------------------------------------------------------------------------------------------------


def corpus(folder: str, size: int) -> dict[str, Any]:
    rows = Dataset.from_generator(passages, gen_kwargs={"starts": list(range(0, size, BATCH)), "size": size})
    hnm.Corpus.from_dataset(rows.select(range(100)))
    with measured() as spent:
        made = hnm.Corpus.from_dataset(rows)
    Dataset.from_dict(queries(0, ASKED, size)).save_to_disk(Path(folder) / "queries")
    return {"seconds": spent["total"], "bytes": disk("corpora"), "corpus": made.fingerprint}


def bm25(corpus: str, size: int) -> dict[str, Any]:
    small, _ = hnm.load_sample("earthquakes")
    hnm.BM25Index(small).prepare()
    with measured() as spent:
        bm25_index(hnm.Corpus(corpus), size).prepare()
    return {"seconds": spent["total"], "bytes": disk("bm25"), "shards": shards_of(size)}


def bm25_index(corpus: hnm.Corpus, size: int) -> hnm.BM25Index | hnm.ShardedIndex:
    shards = shards_of(size)
    if shards == 1:
        return hnm.BM25Index(corpus)
    return hnm.ShardedIndex([hnm.BM25Index(corpus, shard=(number, shards)) for number in range(shards)])


def shards_of(size: int) -> int:
    return 1 if size <= LARGE else -(-size // SHARD)


def embed(corpus: str) -> dict[str, Any]:
    model = NumberedVectors(KIND)
    with measured() as spent:
        made = hnm.Corpus(corpus).embed(model, fingerprint=model.fingerprint)
    return {"seconds": spent["total"], "bytes": disk("embeddings"), "embeddings": made.fingerprint}


def recall(embeddings: str, options: dict[str, Any]) -> dict[str, Any]:
    index = hnm.DenseIndex(hnm.Embeddings(embeddings), **options)
    return {"recall": index.recall(query_vectors(KIND, RECALLED), K)}


def dense_options(size: int) -> dict[str, dict[str, Any]]:
    """Return exact search and IVF indexes: lists are 4·√passages, and a sixteenth of them is searched."""
    lists = 4 * int(size**0.5)
    searched = max(1, lists // 16)
    inverted = {"ivf": "Flat", "compressed": "SQ8"}
    return {"exact": {}} | {
        name: {"factory": f"IVF{lists},{kind}", "nprobe": searched} for name, kind in inverted.items()
    }


def once(folder: Path, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of an earlier run, or measure."""
    path = folder / f"{name}.json"
    if not path.exists():
        aside = path.with_suffix(".aside")
        aside.write_text(json.dumps(measure(), default=float))
        aside.rename(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def prepared(size: int, cache: Path, folder: Path) -> dict[str, Any]:
    """Build everything for a size, and return the costs."""

    def built(name: str, function: Callable[..., Any], **options: Any) -> dict[str, Any]:
        return once(folder, name, lambda: in_child(function, cache, watch=True, **options))

    made = {"corpus": built("corpus", corpus, folder=folder, size=size)}
    name = made["corpus"]["corpus"]
    made |= {"bm25": built("bm25", bm25, corpus=name, size=size), "embed": built("embed", embed, corpus=name)}
    for name, options in dense_options(size).items():
        if options:
            task = {"embeddings": made["embed"]["embeddings"], "options": options}
            made[name] = built(name, build, **task)
            made[name] |= once(folder, f"{name}-recall", partial(in_child, recall, cache, **task))
    return made


# ---- mine --------------------------------------------------------------------------------------------------------


def look(ray: bool) -> dict[str, int]:
    """Return the memory of this process and its children in bytes."""
    own = psutil.Process()
    # Only the workers among the processes of Ray.
    children = [one for one in own.children(recursive=True) if not ray or "MapBatches" in _words(one)]
    return memory_together([own, *children])


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def step_of(source: str, size: int, corpus: str, embeddings: str) -> tuple[Any, dict[str, Any]]:
    """Return the class of a miner and its arguments."""
    passages_ = hnm.Corpus(corpus)
    if source == "bm25":
        return hnm.BM25Negatives, {"corpus": passages_, "k": K, "index": bm25_index(passages_, size)}
    model = NumberedVectors(KIND)
    index = hnm.DenseIndex(hnm.Embeddings(embeddings), **dense_options(size)[source])
    dense = {"corpus": passages_, "model": model, "k": K, "index": index, "fingerprint": model.fingerprint}
    return hnm.DenseNegatives, dense


def mine(folder: str, source: str, workers: int | None, ray_workers: int | None, **where: Any) -> dict[str, Any]:
    """Mine for all queries and return the seconds and the memory of all processes."""
    rows = load_from_disk(str(Path(folder) / "queries"))
    # Otherwise `map` reuses the split of the rows from a run with another number of workers.
    rows.cleanup_cache_files()
    kind, arguments = step_of(source, **where)
    step = kind(**arguments)
    # Opens the index, compiles the loops.
    step(rows[:64])
    if ray_workers is not None:
        return mined_with_ray(rows, kind, arguments, ray_workers)

    def map_(asked: Dataset, size: int) -> Dataset:
        return asked.map(step, batched=True, batch_size=size, num_proc=workers, load_from_cache_file=False)

    parts: dict[str, float] = {}
    if workers is not None:
        parts["start"] = seconds_of(lambda: map_(rows.select(range(2)), 1))
    with measured() as spent, Watch(partial(look, ray=False), 0.2) as peak:
        mined = map_(rows, BATCHED)
    if workers is None:
        texts = rows["query"][:]
        asked = texts if source == "bm25" else NumberedVectors(KIND)(texts)
        batches = [asked[start : start + BATCHED] for start in range(0, len(rows), BATCHED)]
        parts["search"] = seconds_of(lambda: [arguments["index"].search(batch, K) for batch in batches])
    return {"seconds": spent["total"], "rows": len(mined), **parts, **peak}


def mined_with_ray(rows: Dataset, kind: Any, arguments: dict[str, Any], workers: int) -> dict[str, Any]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    few, all_ = (ray.data.from_huggingface(part).repartition(40).materialize() for part in (rows.select([0, 1]), rows))

    def count(asked: Any) -> int:
        pool = ray.data.ActorPoolStrategy(size=workers)
        return asked.map_batches(
            kind, fn_constructor_kwargs=arguments, batch_size=BATCHED, batch_format="pyarrow", compute=pool
        ).materialize().count()  # fmt: skip

    start = seconds_of(lambda: count(few))
    with measured() as spent, Watch(partial(look, ray=True), 0.2) as peak:
        rows_mined = count(all_)
    return {"seconds": spent["total"], "rows": rows_mined, "start": start, **peak}


#: The number of workers of `map` and Ray.
WAYS = {"map": (None, None), "1 worker": (1, None), "2 workers": (2, None), "Ray, 1": (None, 1), "Ray, 2": (None, 2)}


def scale(run: Run) -> list[dict[str, Any]]:
    found = []
    for size in run.sizes:
        place = run.kept or run.scratch
        cache, folder = place / f"cache-{size}", place / str(size)
        folder.mkdir(parents=True, exist_ok=True)
        made = prepared(size, cache, folder)
        where = {"corpus": made["corpus"]["corpus"], "embeddings": made["embed"]["embeddings"]}
        asked = [*itertools.product(("bm25", "ivf"), WAYS), ("compressed", "map"), ("exact", "map")]
        if size > LARGE:
            asked = [(source, way) for source, way in asked if way == "map"]
        mined: dict[str, dict[str, list[Any]]] = {}
        for turn, (source, way) in itertools.product(range(1 if size > LARGE else run.repeats), asked):
            workers, ray_workers = WAYS[way]
            task = {"folder": folder, "size": size, "source": source, "workers": workers, "ray_workers": ray_workers}
            name = f"mined-{source}-{way.replace(', ', '-').replace(' ', '-')}-{turn}"
            answer = once(folder, name, partial(in_child, mine, cache, **task, **where))
            mined.setdefault(source, {}).setdefault(way, []).append(answer)
        found.append({"size": size, "made": made, "mined": mined})
        if not run.kept:
            shutil.rmtree(cache)
    return found


def show_scale(found: list[dict[str, Any]]) -> str:
    built, mined = [], []
    for one in found:
        size = one["size"]
        for what, made in one["made"].items():
            memory, per = made["memory"].get("anonymous", 0) / MIB, made["bytes"] / size
            recall = f"{made['recall']:.3f}" if "recall" in made else None
            what += f", {made['shards']} shards" if made.get("shards", 1) > 1 else ""
            built.append((size, what, f"{made['seconds']:.1f}", f"{memory:,.0f}", f"{per:,.0f}", recall))
        for source, ways in one["mined"].items():
            times = {way: spread_of([run["seconds"] for run in runs]) for way, runs in ways.items()}
            for way, runs in ways.items():
                single = {"2 workers": "1 worker", "Ray, 2": "Ray, 1"}.get(way)
                gain = f"{times[single]['median_s'] / times[way]['median_s']:.2f}" if single else None
                parts = [f"{runs[0][part]:.2f}" if part in runs[0] else None for part in ("start", "search")]
                memory = [f"{max(run[kind] for run in runs) / MIB:,.0f}" for kind in ("anonymous", "pss")]
                mined.append((size, source, way, spread(times[way], 2, ""), gain, *parts, *memory))
    return (
        table(f"Passages|What|Build s|Peak MiB|Bytes a passage|Recall at {K}", built)
        + f"\n{ASKED:,} queries, k = {K}. Gain: how many times as fast as with one worker. Memory of all processes.\n\n"
        + table("Passages|Source|Way|Seconds|Gain|Start|Search|Anonymous MiB|PSS MiB", mined)
    )


# ---- encode ------------------------------------------------------------------------------------------------------


def encode() -> dict[str, Any]:
    from models import make_model

    model = make_model("minilm")
    texts = words_of(0, 600, WORDS)
    model.encode(texts[:32])
    with measured() as spent:
        model.encode(texts, batch_size=32)
    return {"per_second": len(texts) / spent["total"]}


def show_encode(found: dict[str, Any]) -> str:
    return f"MiniLM encodes {found['per_second']:.0f} passages of {WORDS} words a second.\n"


# ---- stream ------------------------------------------------------------------------------------------------------


def streamed(rows: int, size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, rows, BATCH):
        for row, text in enumerate(words_of(FIRST_STREAMED + start, BATCH, 8), start):
            yield {"query_id": f"q{row}", "query": text, "positive_ids": [f"p{row % size}"]}


def write_stream(folder: str, rows: int, size: int, corpus: str) -> dict[str, Any]:
    """Write the stream, and record the memory at each shard."""
    from hnm_datasets.scale import streaming

    process, notes = psutil.Process(), []
    write = streaming.pq.write_table

    def noted(shard: Any, path: Path) -> None:
        write(shard, path)
        notes.append(memory_of(process, own=False)["anonymous"] / MIB)

    streaming.pq.write_table = noted
    stream = IterableDataset.from_generator(streamed, gen_kwargs={"rows": rows, "size": size})
    mined = stream.with_format("arrow").map(hnm.BM25Negatives(hnm.Corpus(corpus), k=10), batched=True)
    written = hnm.write_stream(mined, folder, max_shard_size="2MB")
    return {"rows": written, "anonymous_mib": notes}


def stream(run: Run) -> dict[str, Any]:
    size, cache = min(run.sizes), run.scratch / "cache"
    made = in_child(corpus, cache, folder=run.scratch, size=size)
    task = {"rows": run.streamed, "size": size, "corpus": made["corpus"]}
    places = {name: str(run.scratch / name) for name in ("whole", "killed")}
    whole = in_child(write_stream, cache, folder=places["whole"], **task)
    shards, kills = len(whole["anonymous_mib"]), 0
    for enough in (shards // 4, shards // 2, 3 * shards // 4):
        options = task | {"folder": places["killed"]}
        with start_child(write_stream, cache, options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            while child.poll() is None and len(list(Path(places["killed"]).glob("data/*.parquet"))) < enough:
                time.sleep(0.05)
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
    last = in_child(write_stream, cache, folder=places["killed"], **task)
    both = [load_dataset(place, split="train", cache_dir=str(cache)) for place in places.values()]
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


if __name__ == "__main__":
    Benchmark(
        {
            "scale": Part("Building and mining", scale, show_scale),
            "encode": Part("Encoding", lambda run: in_child(encode, run.scratch), show_encode),
            "stream": Part("A stream", stream, show_stream),
        },
        {
            "sizes": option([10_000], "numbers of passages"),
            "streamed": option(200_000, "queries of the stream"),
            "kept": option(None, "a folder in which a run that was stopped goes on", Path),
        },
    ).run()
