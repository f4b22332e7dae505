"""What does scoring with a cross-encoder cost, against one `predict` and the loop in `mine_hard_negatives`?

    python benchmarks/teacher.py SET... --teacher cross-encoder/ms-marco-MiniLM-L6-v2 --max-length 256

Needs the `dev` extra and test splits. Parts (`--parts`), each a section of the report:

- throughput: `mine_hard_negatives` of sentence-transformers, with the teacher as `cross_encoder=`, mines `--queries`
  queries with `--k` candidates (static embeddings retrieve). The script records the pairs that it scores and the time
  of the scoring. The distinct pairs are then scored by one `CrossEncoder.predict`, sorted by length; by
  `CrossEncoderScores` through `map`, with an empty cache directory; and by a second map that finds the scores on disk.
  All run alternately in one process; times are medians.
- memory: the peak of anonymous memory above the state before, of `CrossEncoderScores` through `map` over 10,000 and
  100,000 rows of 20 candidates (`--rows`), with a teacher that costs nothing, each in its own process.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from inputs import texts_of
from measuring import MIB, in_child, measured, spread_of
from runner import SEED, Benchmark, Part, Run, option, set_name, table

from hnm_datasets import Corpus, CrossEncoderScores, load_beir
from hnm_datasets.models import rerankers
from hnm_datasets.storage.folders import cache_root

CANDIDATES, PASSAGES = 20, 50_000


# ---- throughput --------------------------------------------------------------------------------------------------


class Recorder:
    """A teacher that records its pairs and the time of its scoring."""

    def __init__(self, model: Any) -> None:
        self.model, self.pairs, self.calls = model, [], 0
        self.began = self.ended = 0.0

    def predict(self, pairs: list[tuple[str, str]], **options: Any) -> Any:
        """Score pairs as the model does."""
        self.began = self.began or time.perf_counter()
        answer = self.model.predict(pairs, **options)
        self.ended = time.perf_counter()
        self.pairs += pairs
        self.calls += 1
        return answer


def throughput(run: Run) -> dict[str, Any]:
    """Score the same pairs with all methods alternately."""
    from models import make_model
    from sentence_transformers import CrossEncoder

    options = {} if run.max_length is None else {"max_length": run.max_length}
    teacher = CrossEncoder(run.teacher, device="cpu", **options)
    retriever = make_model("static")
    return {set_name(source): one_set(source, run, teacher, retriever) for source in run.sets}


def one_set(source: str, run: Run, teacher: Any, retriever: Any) -> dict[str, Any]:
    from sentence_transformers.util import mine_hard_negatives

    corpus, queries = load_beir(source, split="test")
    queries = queries.shuffle(seed=SEED).select(range(min(run.queries, len(queries))))
    passages = texts_of(corpus)
    firsts = corpus.texts(corpus.rows([ids[0] for ids in queries["positive_ids"]])).to_pylist()
    asked = Dataset.from_dict({"query": queries["query"], "answer": firsts})

    def loop() -> Recorder:
        recorder = Recorder(teacher)
        mine_hard_negatives(
            asked, retriever, corpus=passages, cross_encoder=recorder, range_max=run.k, relative_margin=0.05,
            batch_size=run.batch_size, verbose=False,
        )  # fmt: skip
        return recorder

    first = loop()
    distinct = sorted(set(first.pairs), key=lambda pair: -len(pair[0]) - len(pair[1]))
    rows, own = rows_of(distinct, corpus)

    seconds: dict[str, list[float]] = {name: [] for name in ("loop", "flat", "ours", "again")}
    scores: dict[str, Any] = {}
    for _ in range(run.repeats):
        recorder = loop()
        seconds["loop"].append(recorder.ended - recorder.began)
        start = time.perf_counter()
        scores["flat"] = teacher.predict(distinct, batch_size=run.batch_size)
        seconds["flat"].append(time.perf_counter() - start)
        step = CrossEncoderScores(own, teacher, batch_size=run.batch_size)
        # These pairs have no judgments.
        shutil.rmtree(cache_root() / "pair_scores", ignore_errors=True)
        rerankers._RESULTS.forget(step.model.fingerprint)
        for name in ("ours", "again"):
            start = time.perf_counter()
            scored = rows.map(step, batched=True, load_from_cache_file=False)
            seconds[name].append(time.perf_counter() - start)
    by_pair = dict(zip(distinct, np.asarray(scores["flat"]).tolist(), strict=True))
    texts = dict(zip(own.ids(np.arange(len(own))).to_pylist(), texts_of(own), strict=True))
    apart = max(
        abs(by_pair[row["query"], texts[passage]] - score)
        for row in scored
        for passage, score in zip(row["negative_ids"], row["negative_teacher_scores"], strict=True)
    )
    return {
        "seconds": {name: spread_of(times) for name, times in seconds.items()},
        "pairs": {"loop": len(first.pairs), "flat": len(distinct), "ours": len(distinct), "again": len(distinct)},
        "calls": first.calls,
        "largest_difference": apart,
    }


def rows_of(pairs: list[tuple[str, str]], corpus: Corpus) -> tuple[Dataset, Corpus]:
    """Make rows of exactly these pairs, and a corpus of their passages."""
    passages = sorted({passage for _, passage in pairs})
    own = Corpus.from_dataset(
        Dataset.from_dict({"id": [str(place) for place in range(len(passages))], "text": passages})
    )
    ids = {passage: str(place) for place, passage in enumerate(passages)}
    lists: dict[str, list[str]] = {}
    for query, passage in sorted(pairs):
        lists.setdefault(query, []).append(ids[passage])
    columns = {"query": list(lists), "positive_ids": [[] for _ in lists], "negative_ids": list(lists.values())}
    features = datasets.Features(
        {"query": datasets.Value("string")}
        | {name: datasets.List(datasets.Value("string")) for name in ("positive_ids", "negative_ids")}
    )
    return Dataset.from_dict(columns, features=features), own


def show_throughput(found: dict[str, Any]) -> str:
    lines = []
    for name, one in found.items():
        asked, middle = one["pairs"], {way: times["median_s"] for way, times in one["seconds"].items()}
        rates = {way: asked[way] / seconds for way, seconds in middle.items()}
        lines.append(
            (
                name,
                f"{asked['loop']:,} ({asked['flat']:,} distinct)",
                *(f"{rates[way]:.1f}" for way in ("loop", "flat", "ours")),
                f"{rates['ours'] / rates['flat']:.2f}",
                f"{rates['ours'] / rates['loop']:.2f}",
                f"{middle['again'] / middle['ours']:.1%}",
                f"{one['largest_difference']:.1e}",
            )
        )
    head = (
        "set|pairs asked by the loop|loop, pairs/s|flat `predict`, pairs/s|`CrossEncoderScores`, pairs/s|ours / flat|"
        "ours / loop|second pass / first|largest difference of scores"
    )
    times = [(name, *(one["seconds"][way] for way in ("loop", "flat", "ours", "again"))) for name, one in found.items()]
    return table(head, lines) + "\n" + table("set|loop|flat|ours|second pass", times)


# ---- memory ------------------------------------------------------------------------------------------------------


def score(rows: int) -> dict[str, Any]:
    """Score many rows with a teacher that needs no time."""
    rng = np.random.default_rng(SEED)
    corpus = Corpus.from_dataset(
        Dataset.from_dict({"id": [str(i) for i in range(PASSAGES)], "text": [f"passage {i}" for i in range(PASSAGES)]})
    )

    def make(size: int) -> Any:
        for start in range(0, size, 1_000):
            ids = rng.integers(0, PASSAGES, (1_000, CANDIDATES)).astype(str).tolist()
            yield from (
                {"query": f"query {start + i}", "positive_ids": own[:1], "negative_ids": own}
                for i, own in enumerate(ids)
            )

    asked = Dataset.from_generator(make, gen_kwargs={"size": rows})
    step = CrossEncoderScores(corpus, lambda pairs: [len(query) for query, _ in pairs], fingerprint="length")
    asked.select(range(64)).map(step, batched=True)
    with measured() as spent:
        asked.map(step, batched=True, load_from_cache_file=False)
    return {"seconds": spent}


def memory(run: Run) -> dict[str, Any]:
    """Watch the memory of each number of rows."""
    return {str(rows): in_child(score, run.scratch / str(rows), watch=True, rows=rows) for rows in run.rows}


def show_memory(found: dict[str, Any]) -> str:
    lines = []
    for rows, one in found.items():
        peak, seconds = f"{one['memory']['anonymous'] / MIB:.0f} MiB", f"{one['seconds']['total']:.1f} s"
        lines.append((int(rows), int(rows) * CANDIDATES, peak, seconds))
    return table("rows|pairs|anonymous memory|time", lines)


if __name__ == "__main__":
    Benchmark(
        {
            "throughput": Part("Pairs per second", throughput, show_throughput),
            "memory": Part("Memory of scoring as the rows grow", memory, show_memory),
        },
        {
            "teacher": option("cross-encoder/ms-marco-MiniLM-L6-v2", "a path or Hub id"),
            "max-length": option(None, "cut pairs to this many tokens", int),
            "queries": option(60, "of each set, at most"),
            "k": option(30, "candidates per query"),
            "batch-size": option(32),
            "rows": option([10_000, 100_000], "numbers of rows, of the part memory"),
        },
        sets="*",
    ).run()
