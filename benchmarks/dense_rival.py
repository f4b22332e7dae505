"""Measure dense mining against sentence-transformers' `mine_hard_negatives`, and exact search against FAISS.

    python benchmarks/dense_rival.py                               # small: the embedded sample, 5,000 x 5,000
    python benchmarks/dense_rival.py FOLDER... --queries 50000     # and folders in BEIR's form

Needs the `dev` extra. Parts (`--parts`), each a section of the report:

- rival: `mine_hard_negatives` of both, with the same model, data and parameters (the defaults, and with
  relative_margin=0.05): on N synthetic pairs (`--queries`) with a model that only looks vectors up, and on each FOLDER
  with static embeddings. Theirs runs with and without FAISS; we are compared with the faster. Both with verbose=False,
  which spares them their statistics.
- faiss: exact search, and `DenseNegatives` through `map` minus encoding, against FAISS's own on the same vectors.

Each run is a fresh process with an empty cache directory. There the model and data are loaded, and the function is
called once on 64 other pairs, before the clock starts, so that imports and compiled loops count on no side. The sides
take turns; times are medians.

Memory is the most that was seen above the state just before the call. It is sampled from outside, in a run of its own,
because that disturbs the times. RSS counts all pages. USS leaves out those that another process has mapped too: pages
of our files count as long as nobody else reads them, and it jumps when other Python processes come and go, so measure
on a quiet machine. Anonymous memory leaves out all pages of files: it is what cannot be shared or given back.

Everything is written to a temporary folder; the results go to dense-rival-NAMES.json and .md in `--output`, NAMES being
the folders' names. A run replaces only the sections of its own parts.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import MIB, SEED, Parts, clocked, in_child, measured, on_disk, run_script, spread, spread_of, table
from _vectors import QUERIES, NumberedVectors, query_vectors, task_embed
from datasets import Dataset, load_from_disk

import hnm_datasets as hnm
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root

RIVALS = {"faiss": "theirs, use_faiss=True", "torch": "theirs, use_faiss=False"}
VARIANTS: dict[str, dict[str, Any]] = {"plain": {}, "relative_margin=0.05": {"relative_margin": 0.05}}


# ---- rival -------------------------------------------------------------------------------------------------------


def task_mine(side: str, model: str, pairs: str, passages: str, options: dict[str, Any], answer: str) -> dict[str, Any]:
    """Mine with one side, and note where the time went and which triplets came out."""
    from _models import make_model

    loaded = make_model(model)
    spent: dict[str, float] = {}
    mine = instrumented(side, loaded, spent)
    rows, corpus = load_from_disk(pairs), list(load_from_disk(passages)["text"])
    texts = [f"warm-up {i:09d}" for i in range(128)]
    mine(Dataset.from_dict({"query": texts[:64], "answer": texts[64:]}), loaded, corpus=texts, **options)
    with measured(spent):
        mined = mine(rows, loaded, corpus=corpus, **options)
    columns = (mined[name] for name in ("query", "answer", "negative"))
    np.save(answer, np.unique(digest_strings(map("\n".join, zip(*columns, strict=True)))[:, 0]))
    return {"seconds": spent, "rows": len(mined)}


def instrumented(side: str, model: Any, spent: dict[str, float]) -> Callable[..., Dataset]:
    """Return one side's function, which adds the seconds inside encoding and search to `spent`."""
    if side == "ours":
        from hnm_datasets.indexes import exact
        from hnm_datasets.models.encoders import Encoder

        Encoder.encode = clocked(spent, "encode", Encoder.encode)
        exact.search = clocked(spent, "search", exact.search)
        return lambda *args, **options: hnm.mine_hard_negatives(*args, **options, verbose=False)
    import faiss
    import torch
    from sentence_transformers.util import mine_hard_negatives

    for name in ("encode_document", "encode_query"):
        setattr(model, name, clocked(spent, "encode", getattr(model, name)))
    for name in ("add", "search"):
        setattr(faiss.IndexFlatIP, name, clocked(spent, "search", getattr(faiss.IndexFlatIP, name)))
    similarity, topk, plain = (
        clocked(spent, "search", model.similarity),
        clocked(spent, "search", torch.topk),
        torch.topk,
    )

    def similarity_then_topk(*args: Any) -> Any:
        # The one top-k after each similarity is search; the one after the filters is not.
        torch.topk = once
        return similarity(*args)

    def once(*args: Any, **options: Any) -> Any:
        torch.topk = plain
        return topk(*args, **options)

    model.similarity = similarity_then_topk
    return lambda *args, **options: mine_hard_negatives(*args, **options, verbose=False, use_faiss=side == "faiss")


def synthetic_pairs(n: int) -> tuple[Dataset, Dataset]:
    """Make n pairs of distinct texts, as long as real ones, which end with the number that stands for their vector."""
    rng = np.random.default_rng(SEED)
    words = np.array(["".join(chr(97 + letter) for letter in rng.integers(0, 26, 5)) for _ in range(5000)])

    def texts(length: int, first: int) -> list[str]:
        lines = words[rng.integers(0, len(words), (n, length))]
        return [f"{' '.join(line)} {first + i:09d}" for i, line in enumerate(lines)]

    passages = texts(50, 0)
    return Dataset.from_dict({"query": texts(8, n), "answer": passages}), Dataset.from_dict({"text": passages})


def pairs_of(folder: str, split: str) -> tuple[Dataset, Dataset]:
    """Load a set in BEIR's form as pairs of texts and all passages."""
    corpus, rows = hnm.load_beir(folder, split=split) if folder else hnm.load_sample()
    texts = [text for chunk in corpus.iter_texts() for text in chunk.to_pylist()]
    pairs = [(row["query"], name) for row in rows for name in row["positive_ids"]]
    answers = corpus.texts(corpus.rows([name for _, name in pairs])).to_pylist()
    return Dataset.from_dict({"query": [query for query, _ in pairs], "answer": answers}), Dataset.from_dict(
        {"text": texts}
    )


def part_rival(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    sets: dict[str, tuple[str, Callable[[], tuple[Dataset, Dataset]]]] = {
        "synthetic": (f"hash-{args.queries}", lambda: synthetic_pairs(args.queries))
    }
    for folder in args.folders or [""]:
        sets[Path(folder).resolve().name if folder else "sample"] = "static", lambda f=folder: pairs_of(f, args.split)
    found = []
    for name, (model, load) in sets.items():
        pairs, passages = load()
        pairs.save_to_disk(scratch / name / "pairs")
        passages.save_to_disk(scratch / name / "passages")
        for variant, options in VARIANTS.items():
            runs: dict[str, list[dict[str, Any]]] = {side: [] for side in ("ours", *RIVALS)}
            for repeat in range(args.repeats + 1):
                for side in runs:
                    place = scratch / "run"
                    # A copy, because `map` keeps its results beside the rows.
                    shutil.copytree(scratch / name / "pairs", place / "pairs")
                    files = {"pairs": place / "pairs", "passages": scratch / name / "passages"}
                    files["answer"] = scratch / f"{side}.npy"
                    watch = repeat == args.repeats
                    task = {"side": side, "model": model, "options": options, **files}
                    runs[side].append(in_child("mine", place / "cache", watch=watch, **task))
                    shutil.rmtree(place)
            sizes = {"set": name, "variant": variant, "pairs": len(pairs), "passages": len(passages)}
            found.append(sizes | summary(runs, {side: np.load(scratch / f"{side}.npy") for side in runs}))
    return found


def summary(runs: dict[str, list[dict[str, Any]]], answers: dict[str, np.ndarray]) -> dict[str, Any]:
    """Take medians, and compare with the faster rival."""
    sides: dict[str, Any] = {}
    for side, (*timings, last) in runs.items():
        seconds = [run["seconds"] for run in timings]
        for one in seconds:
            one["outside"] = one["total"] - one["encode"] - one["search"]
        sides[side] = {part: spread_of([one[part] for one in seconds]) for part in seconds[0]}
        sides[side] |= {"memory": last["memory"], "rows": last["rows"]}
        sides[side]["same"] = len(np.intersect1d(answers[side], answers["ours"])) / max(1, len(answers[side]))
    rival = min(RIVALS, key=lambda side: sides[side]["total"]["median_s"])
    ours, theirs = sides["ours"], sides[rival]
    ratios = {part: ours[part]["median_s"] / theirs[part]["median_s"] for part in ("total", "outside")}
    ratios |= {kind: size / theirs["memory"][kind] for kind, size in ours["memory"].items()}
    return {"sides": sides, "rival": rival, "ratios": ratios}


def show_rival(found: list[dict[str, Any]]) -> str:
    numbers, ratios = [], []
    for one in found:
        name = f"{one['set']}, {one['variant']}"
        for side, got in one["sides"].items():
            times = [f"{got[part]['median_s']:.2f}" for part in ("encode", "search", "outside")]
            sizes = [f"{got['memory'][kind] / MIB:,.0f}" for kind in ("rss", "uss", "anonymous")]
            share = "" if side == "ours" else f"{got['same']:.2%}"
            numbers.append(
                (name, RIVALS.get(side, side), spread(got["total"]), *times, *sizes, f"{got['rows']:,}", share)
            )
        shown = [f"{one['ratios'][part]:.2f}" for part in ("total", "outside", "rss", "uss", "anonymous")]
        ratios.append((name, f"{one['pairs']:,} x {one['passages']:,}", RIVALS[one["rival"]], *shown))
    return (
        "Ours over theirs, the faster of the two. Targets: total 0.5, outside encoding and search 0.1, memory 0.5.\n\n"
        + table("Set|Pairs x passages|Faster rival|Total|Outside|Peak RSS|Peak USS|Peak anonymous", ratios)
        + "\nSeconds, MiB above the state before the call, rows, and which share of their triplets is among ours. (In "
        "the static model ours encodes 1,024 texts at a time whatever batch_size says, theirs 32.)\n\n"
        + table("Set|Side|Total|Encode|Search|Outside|Peak RSS|Peak USS|Peak anonymous|Rows|Same", numbers)
    )


# ---- faiss -------------------------------------------------------------------------------------------------------


def task_search(way: str, batch: int, k: int, count: int, embeddings: str) -> dict[str, Any]:
    """Search exactly, with ours or FAISS, a batch at a time."""
    embedded, queries, spent = hnm.Embeddings(embeddings), query_vectors("random", count), {}
    if way == "map":
        return task_map(embedded, k, count)
    if way == "ours":
        index = hnm.DenseIndex(embedded)
        search = lambda part: index.search(part, k).scores  # noqa: E731
    else:
        import faiss

        vectors = np.array(embedded.vectors)
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        knn = lambda part: faiss.knn(part, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)[0]  # noqa: E731
        search = knn if way == "faiss.knn" else lambda part: flat.search(part, k)[0]
    search(queries[:batch])
    with measured(spent):
        total = sum(float(search(queries[i : i + batch]).sum(dtype=float)) for i in range(0, count, batch))
    return {"seconds": spent["total"], "mean": total / count / k}


def task_map(embedded: hnm.Embeddings, k: int, count: int) -> dict[str, Any]:
    """Mine through `map`; leave out the seconds inside the encoder."""
    from hnm_datasets.models.encoders import Encoder

    model, spent = NumberedVectors("random"), {}
    Encoder.encode = clocked(spent, "encode", Encoder.encode)
    index = hnm.DenseIndex(embedded)
    step = hnm.DenseNegatives(embedded.corpus, model, k=k, index=index, fingerprint=model.fingerprint)
    with tempfile.TemporaryDirectory(dir=cache_root()) as place:

        def rows(first: int, n: int) -> Dataset:
            ids = [[f"passage {i % len(embedded):09d}"] for i in range(n)]
            made = {"query": [f"query {first + i:09d}" for i in range(n)], "positive_ids": ids}
            return on_disk(Dataset.from_dict(made), Path(place) / str(first))

        few, all_rows = rows(QUERIES - 1000, 1000), rows(QUERIES, count)
        shutil.rmtree(cache_root() / "vectors", ignore_errors=True)
        few.map(step, batched=True)
        with measured(spent):
            all_rows.map(step, batched=True)
    return {"seconds": spent["total"] - spent["encode"]}


def part_faiss(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    embeddings = in_child("embed", scratch, kind="random", size=args.queries)["embeddings"]
    ways = [(way, batch) for way in ("ours", "faiss.knn", "IndexFlatIP.search") for batch in (1000, 16384)]
    ways.append(("map", 1000))
    found: dict[str, Any] = {"n": args.queries}
    for k in (10, 100):
        runs: dict[tuple[str, int], list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(args.repeats):
            for way, batch in ways:
                options = {"way": way, "batch": batch, "k": k, "count": args.queries, "embeddings": embeddings}
                runs[way, batch].append(in_child("search", scratch, **options))
        means = [one[0]["mean"] for one in runs.values() if "mean" in one[0]]
        assert np.ptp(means) < 1e-5, f"the searches find different scores: {means}"
        found[str(k)] = {f"{w}|{b}": spread_of([run["seconds"] for run in one]) for (w, b), one in runs.items()}
    return found


def show_faiss(found: dict[str, Any]) -> str:
    names = {"ours": "`DenseIndex.search`", "map": "`DenseNegatives` in `map`, minus encoding"}
    rows = []
    for k in ("10", "100"):
        best = min(times["median_s"] for name, times in found[k].items() if name.split("|")[0] not in names)
        for name, times in found[k].items():
            way, batch = name.split("|")
            rows.append((k, names.get(way, f"`{way}`"), batch, spread(times), f"{times['median_s'] / best:.2f}"))
    return (
        f"{found['n']:,} queries over {found['n']:,} random unit vectors of 64 dimensions. Target: 1.15 times FAISS at "
        "its best.\n\n" + table("k|How|Batch|Seconds|/ FAISS at its best", rows)
    )


# ---- the script --------------------------------------------------------------------------------------------------

PARTS: Parts = {
    "rival": ("Against sentence-transformers' mine_hard_negatives", part_rival, show_rival),
    "faiss": ("Exact search against FAISS", part_faiss, show_faiss),
}


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="in BEIR's form; none: the embedded sample")
    parser.add_argument("--split", default="train", help="of the folders' judgements")
    parser.add_argument("--queries", type=int, default=5000, help="synthetic queries, and as many passages")
    run_script(parser, PARTS, {"embed": task_embed, "mine": task_mine, "search": task_search})


if __name__ == "__main__":
    main()
