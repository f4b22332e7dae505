"""How fast is dense mining against sentence-transformers' `mine_hard_negatives`, and exact search against FAISS?

    python benchmarks/dense_rival.py                               # small: the embedded sample, 5,000 x 5,000
    python benchmarks/dense_rival.py SET... --queries 50000        # and your own sets

Needs the `dev` extra. Parts (`--parts`), each a section of the report:

- rival: both `mine_hard_negatives` functions with the same model, data and parameters (the defaults, and with
  relative_margin=0.05). The data are N synthetic pairs (`--queries`) with a model that only looks up vectors, and each
  SET with static embeddings of 256 dimensions. With `--spans N`, only N passages of the set are used, and each query is
  ten words of its passage. Theirs runs with and without FAISS; ours is compared with the faster one. Both run with
  verbose=False, which skips the statistics.
- dimensions: exact search only, over `--passages` vectors with `--dimensions` numbers, around 1,000 centers and at
  random. All methods alternate in one process.
- faiss: exact search, and `DenseNegatives` through `map` minus encoding, against FAISS on the same vectors.

Each run is a fresh process with an empty cache directory. It loads the model and the data before the clock starts.
There are three states. "warm": the function was called once before on 64 other pairs, so imports and compilation do not
count. "first": the first call of a process, with loops that an earlier process compiled. "cold": a first call without
compiled loops. The sides alternate; times are medians.

Memory is the peak above the state right before the call. It is sampled from another process in a separate run, because
sampling changes the times. RSS counts all pages. USS excludes pages that another process also maps: pages of our files
count if no other process reads them, and USS jumps when other Python processes start or end, so measure on a quiet
machine. Anonymous memory excludes all file pages: it is memory that cannot be shared or released.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk
from inputs import QUERIES, NumberedVectors, embed, load_set, on_disk, pairs_of, query_vectors, texts_of
from measuring import MIB, clocked, in_child, in_turns, measured, seconds_of, spread_of
from runner import SEED, Benchmark, Part, Run, option, set_name, table

import hnm_datasets as hnm
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root

KINDS = ("clustered", "random")
RIVALS = {"faiss": "theirs, use_faiss=True", "torch": "theirs, use_faiss=False"}
VARIANTS: dict[str, dict[str, Any]] = {"plain": {}, "relative_margin=0.05": {"relative_margin": 0.05}}


# ---- rival -------------------------------------------------------------------------------------------------------


#: The state before the measured call.
STATES = ("warm", "first", "cold")


def mine(
    side: str, state: str, model: str, pairs: str, passages: str, options: dict[str, Any], answer: str
) -> dict[str, Any]:
    """Mine with one side, and record the times of its parts and the triplets."""
    from models import make_model

    loaded = make_model(model)
    spent: dict[str, float] = {}
    function = instrumented(side, loaded, spent)
    rows, corpus = load_from_disk(pairs), list(load_from_disk(passages)["text"])
    if state == "warm":
        texts = [f"warm-up {i:09d}" for i in range(128)]
        function(Dataset.from_dict({"query": texts[:64], "answer": texts[64:]}), loaded, corpus=texts, **options)
    with measured(spent):
        mined = function(rows, loaded, corpus=corpus, **options)
    columns = (mined[name] for name in ("query", "answer", "negative"))
    np.save(answer, np.unique(digest_strings(map("\n".join, zip(*columns, strict=True)))[:, 0]))
    return {"seconds": spent, "rows": len(mined)}


def instrumented(side: str, model: Any, spent: dict[str, float]) -> Callable[..., Dataset]:
    """Return one side's function, instrumented: it adds the seconds of encoding and search to `spent`."""
    if side == "ours":
        from hnm_datasets.indexes import exact
        from hnm_datasets.models.embedding_job import EmbeddingJob
        from hnm_datasets.models.encoders import Encoder

        Encoder.encode = clocked(spent, "encode", Encoder.encode)
        EmbeddingJob._encoded = clocked(spent, "encode", EmbeddingJob._encoded)
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
        # The top-k after each similarity is a part of the search; the one after the filters is not.
        torch.topk = once
        return similarity(*args)

    def once(*args: Any, **options: Any) -> Any:
        torch.topk = plain
        return topk(*args, **options)

    model.similarity = similarity_then_topk
    return lambda *args, **options: mine_hard_negatives(*args, **options, verbose=False, use_faiss=side == "faiss")


def synthetic_pairs(n: int) -> tuple[Dataset, Dataset]:
    """Make n pairs of distinct texts of realistic length. Each ends with the number of its vector."""
    rng = np.random.default_rng(SEED)
    words = np.array(["".join(chr(97 + letter) for letter in rng.integers(0, 26, 5)) for _ in range(5000)])

    def texts(length: int, first: int) -> list[str]:
        lines = words[rng.integers(0, len(words), (n, length))]
        return [f"{' '.join(line)} {first + i:09d}" for i, line in enumerate(lines)]

    passages = texts(50, 0)
    return Dataset.from_dict({"query": texts(8, n), "answer": passages}), Dataset.from_dict({"text": passages})


def rival(run: Run) -> list[dict[str, Any]]:
    sets: dict[str, tuple[str, Callable[[], tuple[Dataset, Dataset]]]] = {}
    if not run.spans:
        sets["synthetic"] = f"hash-{run.queries}", lambda: synthetic_pairs(run.queries)
    for source in run.sets or [None]:
        name = set_name(source) if source else "sample"
        if run.spans:
            sets[f"spans of {name}"] = "static", partial(spans_and_passages, source, run.split, run.spans)
        else:
            sets[name] = "static", partial(pairs_and_passages, source, run.split)
    found = []
    for name, (model, load) in sets.items():
        pairs, passages = load()
        pairs.save_to_disk(run.scratch / name / "pairs")
        passages.save_to_disk(run.scratch / name / "passages")
        for variant, extra in VARIANTS.items():
            options = {"num_negatives": run.negatives} | extra

            def once(side: str, watch: bool, state: str, own: Path = run.scratch / name, **task: Any) -> dict[str, Any]:
                with tempfile.TemporaryDirectory(dir=run.scratch) as place:
                    # A copy, because `map` caches its results next to the rows.
                    shutil.copytree(own / "pairs", pairs := Path(place) / "pairs")
                    files = {"pairs": pairs, "passages": own / "passages", "answer": run.scratch / f"{side}.npy"}
                    compiled = Path(place) / "compiled" if state == "cold" else None
                    options = {"side": side, "state": state, "watch": watch, "compiled": compiled}
                    return in_child(mine, Path(place) / "cache", **options, **files, **task)

            task = {"model": model, "options": options}
            asked = {
                (side, state): partial(once, side, watch=False, state=state, **task)
                for state in STATES
                for side in ("ours", *RIVALS)
            }
            timing = in_turns(asked, run.repeats)
            watching = {side: once(side, watch=True, state="first", **task) for side in ("ours", *RIVALS)}
            sizes = {"set": name, "variant": variant, "pairs": len(pairs), "passages": len(passages)}
            answers = {side: np.load(run.scratch / f"{side}.npy") for side in watching}
            found.append(sizes | summary(timing, watching, answers))
    return found


def spans_and_passages(source: str | None, split: str, count: int) -> tuple[Dataset, Dataset]:
    """Make pairs of distinct passages and queries: ten consecutive words of the passage, unique among queries."""
    rng = np.random.default_rng(SEED)
    found: dict[str, str] = {}
    for text in dict.fromkeys(texts_of(load_set(source, split)[0])):
        words = text.split()
        start = int(rng.integers(0, max(1, len(words) - 9)))
        found.setdefault(" ".join(words[start : start + 10]).casefold(), text)
        if len(found) == count:
            break
    passages = list(found.values())
    return Dataset.from_dict({"query": list(found), "answer": passages}), Dataset.from_dict({"text": passages})


def pairs_and_passages(source: str | None, split: str) -> tuple[Dataset, Dataset]:
    """Load a set as pairs of texts and all passages."""
    corpus, rows = load_set(source, split)
    return pairs_of(corpus, rows), Dataset.from_dict({"text": texts_of(corpus)})


def summary(
    timing: dict[tuple[str, str], list[dict[str, Any]]],
    watching: dict[str, dict[str, Any]],
    answers: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Compute medians, and compare with the faster rival."""
    sides: dict[str, Any] = {}
    for side in watching:
        seconds = [run["seconds"] for run in timing[side, "warm"]]
        for one in seconds:
            one["outside"] = one["total"] - one["encode"] - one["search"]
        sides[side] = {part: spread_of([one[part] for one in seconds]) for part in seconds[0]}
        for state in STATES[1:]:
            sides[side][state] = spread_of([run["seconds"]["total"] for run in timing[side, state]])
        sides[side] |= {name: watching[side][name] for name in ("memory", "rows")}
        sides[side]["same"] = len(np.intersect1d(answers[side], answers["ours"])) / max(1, len(answers[side]))
    rival = min(RIVALS, key=lambda side: sides[side]["total"]["median_s"])
    ours, theirs = sides["ours"], sides[rival]
    ratios = {part: ours[part]["median_s"] / theirs[part]["median_s"] for part in ("total", *STATES[1:], "outside")}
    ratios |= {kind: size / theirs["memory"][kind] for kind, size in ours["memory"].items()}
    return {"sides": sides, "rival": rival, "ratios": ratios}


def show_rival(found: list[dict[str, Any]]) -> str:
    numbers, ratios = [], []
    for one in found:
        name = f"{one['set']}, {one['variant']}"
        for side, got in one["sides"].items():
            parts = ("encode", "search", "outside", *STATES[1:])
            times = [f"{got[part]['median_s']:.2f}" if part in got else None for part in parts]
            sizes = [f"{got['memory'][kind] / MIB:,.0f}" for kind in ("rss", "uss", "anonymous")]
            share = None if side == "ours" else f"{got['same']:.2%}"
            numbers.append((name, RIVALS.get(side, side), got["total"], *times, *sizes, got["rows"], share))
        parts = ("total", *STATES[1:], "outside", "rss", "uss", "anonymous")
        shown = [f"{one['ratios'][part]:.2f}" if part in one["ratios"] else None for part in parts]
        ratios.append((name, f"{one['pairs']:,} x {one['passages']:,}", RIVALS[one["rival"]], *shown))
    return (
        "Ours over theirs, the faster of the two. Targets: total 0.5, cold 1.0, memory 0.4.\n\n"
        + table("Set|Pairs x passages|Faster rival|Total|First|Cold|Outside|Peak RSS|Peak USS|Peak anonymous", ratios)
        + "\nSeconds, MiB above the state before the call, rows, and which share of their triplets is among ours. (In "
        "the static model ours encodes 1,024 texts at a time whatever batch_size says, theirs 32.)\n\n"
        + table("Set|Side|Total|Encode|Search|Outside|First|Cold|Peak RSS|Peak USS|Peak anonymous|Rows|Same", numbers)
    )


# ---- faiss -------------------------------------------------------------------------------------------------------


def search(way: str, batch: int, k: int, count: int, embeddings: str) -> dict[str, Any]:
    """Search exactly, with this library or FAISS, batch by batch."""
    embedded, queries = hnm.Embeddings(embeddings), query_vectors("random", count)
    if way == "map":
        return mined_by_map(embedded, k, count)
    if way == "ours":
        index = hnm.DenseIndex(embedded)
        scores = lambda part: index.search(part, k).scores  # noqa: E731
    else:
        import faiss

        vectors = np.array(embedded.vectors)
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        knn = lambda part: faiss.knn(part, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)[0]  # noqa: E731
        scores = knn if way == "faiss.knn" else lambda part: flat.search(part, k)[0]
    scores(queries[:batch])
    with measured() as spent:
        total = sum(float(scores(queries[i : i + batch]).sum(dtype=float)) for i in range(0, count, batch))
    return {"seconds": spent["total"], "mean": total / count / k}


def mined_by_map(embedded: hnm.Embeddings, k: int, count: int) -> dict[str, Any]:
    """Mine through `map`; return the seconds without those of the encoder."""
    from hnm_datasets.models.encoders import Encoder

    model, spent = NumberedVectors("random"), {}
    Encoder.encode = clocked(spent, "encode", Encoder.encode)
    index = hnm.DenseIndex(embedded)
    step = hnm.DenseNegatives(index.corpus, model, k=k, index=index, fingerprint=model.fingerprint)
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


def exact(run: Run) -> dict[str, Any]:
    embeddings = in_child(embed, run.scratch, kind="random", size=run.queries)["embeddings"]
    ways = [(way, batch) for way in ("ours", "faiss.knn", "IndexFlatIP.search") for batch in (1000, 16384)]
    found: dict[str, Any] = {"n": run.queries}
    for k in (10, 100):
        task = {"k": k, "count": run.queries, "embeddings": embeddings}
        asked = {
            f"{way}|{batch}": partial(in_child, search, run.scratch, way=way, batch=batch, **task)
            for way, batch in (*ways, ("map", 1000))
        }
        runs = in_turns(asked, run.repeats)
        means = [one[0]["mean"] for one in runs.values() if "mean" in one[0]]
        assert np.ptp(means) < 1e-5, f"the searches find different scores: {means}"
        found[str(k)] = {name: spread_of([one["seconds"] for one in ones]) for name, ones in runs.items()}
    return found


def show_exact(found: dict[str, Any]) -> str:
    names = {"ours": "`DenseIndex.search`", "map": "`DenseNegatives` in `map`, minus encoding"}
    rows = []
    for k in ("10", "100"):
        best = min(times["median_s"] for name, times in found[k].items() if name.split("|")[0] not in names)
        for name, times in found[k].items():
            way, batch = name.split("|")
            rows.append((k, names.get(way, f"`{way}`"), batch, times, f"{times['median_s'] / best:.2f}"))
    return f"{found['n']:,} queries over {found['n']:,} random unit vectors of 64 dimensions.\n\n" + table(
        "k|How|Batch|Seconds|/ FAISS at its best", rows
    )


# ---- dimensions --------------------------------------------------------------------------------------------------

#: Search methods and their batch sizes: `map` passes 1,000 queries, and FAISS is fastest with many.
WAYS = {"ours": 1000, "faiss.knn": 16384, "IndexFlatIP.search": 16384}
#: The products that ours may use besides float32; None: all that are fast on this machine.
PRODUCTS = {"ours": None, "ours, bfloat16": {"bfloat16"}, "ours, float32": set()}


def search_wide(kind: str, dimension: int, passages: int, asked: int, repeats: int) -> dict[str, Any]:
    """Search vectors of one dimension with all methods alternately; return the seconds of each."""
    import faiss

    from hnm_datasets.indexes import exact
    from hnm_datasets.indexes.quick import quick_products

    queries = query_vectors(kind, asked, dimension)
    vectors = NumberedVectors(kind, dimension).vectors(np.arange(passages))
    flat = faiss.IndexFlatIP(dimension)
    flat.add(vectors)
    quick, seconds, found = quick_products(), {}, {"quick": sorted(quick_products())}
    known = {name: exact.Known(vectors, "cosine") for name in PRODUCTS}
    # The first call of an index rounds its vectors once.
    seconds["rounding"] = [seconds_of(lambda: (known["ours"].quantized, known["ours"].blocks))]

    def ours(name: str, part: Any, k: int) -> Any:
        allowed = PRODUCTS[name]
        exact.quick_products = lambda: quick if allowed is None else quick & allowed
        return exact.search(part, vectors, k, "cosine", known[name]).scores

    ways = {name: (partial(ours, name), WAYS["ours"]) for name in PRODUCTS} | {
        "faiss.knn": (
            lambda part, k: faiss.knn(part, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)[0],
            WAYS["faiss.knn"],
        ),
        "IndexFlatIP.search": (lambda part, k: flat.search(part, k)[0], WAYS["IndexFlatIP.search"]),
    }
    for k in (10, 100):
        for _ in range(repeats):
            for name, (scores, batch) in ways.items():
                scores(queries[:batch], k)
                with measured() as spent:
                    total = sum(
                        float(scores(queries[i : i + batch], k).sum(dtype=float)) for i in range(0, asked, batch)
                    )
                found.setdefault(f"{k}|{name}", []).append(total / asked / k)
                seconds.setdefault(f"{k}|{name}", []).append(spent["total"])
        means = [found[f"{k}|{name}"][0] for name in ways]
        assert np.ptp(means) < 1e-5, f"the searches find different scores: {means}"
    return {"seconds": seconds, "quick": found["quick"]}


def dimensions(run: Run) -> list[dict[str, Any]]:
    found = []
    for kind, passages, dimension in itertools.product(KINDS, run.passages, run.dimensions):
        task = {"kind": kind, "dimension": dimension, "passages": passages, "asked": run.asked}
        found.append(task | in_child(search_wide, run.scratch, repeats=run.repeats, **task))
    return found


def show_dimensions(found: list[dict[str, Any]]) -> str:
    rows = []
    for one in found:
        seconds = {name: min(times) for name, times in one["seconds"].items()}
        for k in (10, 100):
            best = min(seconds[f"{k}|faiss.knn"], seconds[f"{k}|IndexFlatIP.search"])
            ratios = [f"{seconds[f'{k}|{name}'] / best:.2f}" for name in PRODUCTS]
            shown = (one["kind"], f"{one['passages']:,}", one["dimension"], k)
            rows.append((*shown, f"{best:.2f} s", *ratios, f"{seconds['rounding']:.2f} s"))
    quick = ", ".join(found[0]["quick"]) or "float32 alone"
    return (
        f"{found[0]['asked']:,} queries, ours in batches of {WAYS['ours']:,}, FAISS flat by the faster of `faiss.knn` "
        f"and `IndexFlatIP` in batches of {WAYS['faiss.knn']:,}; the least seconds of each, and ours over FAISS. "
        f"Quick on this processor: {quick}. Target: 0.5 where bfloat16 is quick. Rounding is done once per index.\n\n"
        + table("Vectors|Passages|Dimensions|k|FAISS|Ours|… by bfloat16|… by float32|Rounding", rows)
    )


if __name__ == "__main__":
    Benchmark(
        {
            "rival": Part("Against sentence-transformers' mine_hard_negatives", rival, show_rival),
            "faiss": Part("Exact search against FAISS", exact, show_exact),
            "dimensions": Part("Exact search against FAISS, by dimensions", dimensions, show_dimensions),
        },
        {
            "split": option("train", "of the sets' judgments"),
            "queries": option(5000, "synthetic queries, and as many passages"),
            "spans": option(0, "passages of each set to mine for parts of, in place of all other pairs"),
            "negatives": option(3, "negatives of each query"),
            "dimensions": option([256], "of the vectors of the part dimensions"),
            "passages": option([5000], "in the part dimensions"),
            "asked": option(2000, "queries of the part dimensions"),
        },
        sets="*",
    ).run()
