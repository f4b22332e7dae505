"""The data of the benchmarks: retrieval sets, and synthetic rows, texts and vectors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets, load_from_disk
from measuring import measured, timed
from numpy.typing import NDArray
from runner import SEED

import hnm_datasets as hnm
from hnm_datasets.storage.folders import cache_root

# ---- sets --------------------------------------------------------------------------------------------------------


def load_set(source: str | None, split: str) -> tuple[hnm.Corpus, Dataset]:
    """Load a BEIR set; without a source, the embedded sample."""
    return hnm.load_beir(source, split) if source else hnm.load_sample()


def texts_of(corpus: hnm.Corpus) -> list[str]:
    """Return all passages as texts."""
    return [text for chunk in corpus.iter_texts() for text in chunk.to_pylist()]


def pairs_of(corpus: hnm.Corpus, rows: Dataset, answer: str = "answer") -> Dataset:
    """Return a row of two texts for each query and positive."""
    pairs = [(row["query"], name) for row in rows for name in row["positive_ids"]]
    answers = corpus.texts(corpus.rows([name for _, name in pairs])).to_pylist()
    return Dataset.from_dict({"query": [query for query, _ in pairs], answer: answers})


def on_disk(rows: Dataset, folder: Path) -> Dataset:
    """Write the rows and load them from disk, because `map` caches only such rows."""
    rows.save_to_disk(folder)
    return load_from_disk(folder)


# ---- rows with random candidates ---------------------------------------------------------------------------------

ROWS, CANDIDATES, PASSAGES = 100_000, 100, 50_000


def candidate_rows(folder: Path) -> Dataset:
    """Write rows with random candidates."""
    rng = np.random.default_rng(SEED)
    n, k, parts = ROWS, CANDIDATES, 10
    names = pa.array([f"passage-{i}" for i in range(PASSAGES)])

    def part(number: int) -> Dataset:
        size = n // parts
        offsets = pa.array(np.arange(size + 1, dtype=np.int32) * k)
        scores = -np.sort(-rng.uniform(5, 30, (size, k)).astype(np.float32), axis=1)
        lists = {
            "negative_ids": names.take(pa.array(rng.integers(0, len(names), size * k))),
            "negative_scores": pa.array(scores.ravel()),
            "negative_ranks": pa.array(np.tile(np.arange(1, k + 1, dtype=np.int32), size)),
            "negative_source": pa.repeat("bm25", size * k),
        }
        ids = range(number * size, (number + 1) * size)
        texts = {"query_id": [f"q{i}" for i in ids], "query": [f"what is the answer to question {i}?" for i in ids]}
        columns = {name: pa.ListArray.from_arrays(offsets, values) for name, values in lists.items()}
        return Dataset(pa.table({name: pa.array(values) for name, values in texts.items()} | columns))

    return on_disk(concatenate_datasets([part(number) for number in range(parts)]), folder)


def time_steps(rows: Dataset, steps: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Time each step over all rows through `map`, after a few rows for compilation."""
    found = {}
    for name, step in steps.items():
        rows.select(range(100)).map(step, batched=True, load_from_cache_file=False)
        found[name], mapped = timed(partial(rows.map, step, batched=True, load_from_cache_file=False), repeats)
        for file in mapped.cache_files:
            Path(file["filename"]).unlink()
    return found


# ---- texts -------------------------------------------------------------------------------------------------------

WORDS, VOCABULARY = 50, 200_000
#: The most frequent words, which are skipped like stop words.
LEFT_OUT = 50
#: Passages or queries per batch.
BATCH = 1000
#: The first number at the end of a text that marks a query.
QUERIES = 900_000_000


def words_of(seed: int, count: int, length: int) -> list[str]:
    """Draw texts of words with Zipf frequencies."""
    shares, names = _vocabulary()
    drawn = np.searchsorted(shares, np.random.default_rng((SEED, seed)).random((count, length)))
    return [" ".join(line) for line in names[drawn]]


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    ranks = np.arange(LEFT_OUT, VOCABULARY)
    cumulated = np.cumsum(1 / (ranks + 2.7))
    return cumulated / cumulated[-1], np.array([f"w{rank:x}" for rank in ranks])


def passages(starts: list[int], size: int) -> Iterator[dict[str, str]]:
    """Yield passages. Each ends with the number of its vector."""
    for start in starts:
        texts = words_of(start, min(BATCH, size - start), WORDS)
        for row, text in enumerate(texts, start):
            yield {"id": f"p{row}", "text": f"{text} {row:09d}"}


def queries(start: int, count: int, size: int) -> dict[str, list[Any]]:
    """Return queries of eight words of a passage, their positive."""
    rng = np.random.default_rng((SEED, 1, start))
    blocks = rng.integers(0, max(1, size // BATCH), -(-count // 50))
    texts, positives = [], []
    for block in blocks.tolist():
        drawn = words_of(block * BATCH, min(BATCH, size), WORDS)
        for row in rng.integers(0, len(drawn), 50).tolist():
            words = rng.choice(drawn[row].split(), 8, replace=False)
            texts.append(f"{' '.join(words)} {QUERIES + start + len(texts):09d}")
            positives.append([f"p{block * BATCH + row}"])
    ids = [f"q{start + row}" for row in range(count)]
    return {"query_id": ids, "query": texts[:count], "positive_ids": positives[:count]}


# ---- vectors -----------------------------------------------------------------------------------------------------

DIMENSION = 64
CLUSTERS, NOISE = 1000, 0.7
_BLOCK = 4096


class NumberedVectors:
    """A function model: computes the vector of a text from the number at its end, without storing vectors.

    Args:
        kind: `"random"` unit vectors, or `"clustered"` around 1,000 random centers.
        dimension: Dimension of the vectors.
    """

    def __init__(self, kind: str, dimension: int = DIMENSION) -> None:
        self.kind, self.dimension = kind, dimension
        self.fingerprint = f"numbered-{kind}-{dimension}"

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        """Encode texts."""
        return self.vectors(np.array([int(text[-9:]) for text in texts]))

    def vectors(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of numbers."""
        found = np.empty((len(numbers), self.dimension), dtype=np.float32)
        for block in np.unique(numbers // _BLOCK):
            here = numbers // _BLOCK == block
            found[here] = _block(self.kind, self.dimension, int(block))[numbers[here] % _BLOCK]
        return found


@lru_cache(maxsize=4)
def _block(kind: str, dimension: int, block: int) -> NDArray[np.float32]:
    rng = np.random.default_rng([1, block])
    vectors = _unit(rng.standard_normal((_BLOCK, dimension), dtype=np.float32))
    if kind == "random":
        return vectors
    centers = _unit(np.random.default_rng(0).standard_normal((CLUSTERS, dimension), dtype=np.float32))
    return _unit(centers[rng.integers(0, CLUSTERS, _BLOCK)] + NOISE * vectors)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def query_vectors(kind: str, count: int, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Return vectors of numbers that belong to no passage. Shape (B, D)."""
    return NumberedVectors(kind, dimension).vectors(QUERIES + np.arange(count))


def embed(kind: str, size: int) -> dict[str, Any]:
    """Make a corpus and embed it, after a small one for the warm-up; for `in_child`."""
    model = NumberedVectors(kind)

    def corpus(name: str, length: int) -> hnm.Corpus:
        ids = [f"{name} {i:09d}" for i in range(length)]
        return hnm.Corpus.from_dataset(Dataset.from_dict({"id": ids, "text": ids}))

    numbered = corpus("passage", size)
    corpus("warm-up", 100).embed(model, fingerprint=model.fingerprint)
    with measured() as spent:
        embeddings = numbered.embed(model, fingerprint=model.fingerprint)
    return {"seconds": spent["total"], "embeddings": embeddings.fingerprint}


def build(embeddings: str, options: dict[str, Any]) -> dict[str, Any]:
    """Build an index; for `in_child`."""
    import faiss  # noqa: F401

    vectors, before = hnm.Embeddings(embeddings), disk("dense")
    assert len(vectors)
    with measured() as spent:
        hnm.DenseIndex(vectors, **options).prepare()
    return {"seconds": spent["total"], "bytes": disk("dense") - before}


def disk(kind: str) -> int:
    """Return the bytes of the cache files of one kind."""
    return sum(path.stat().st_size for path in (cache_root() / kind).rglob("*") if path.is_file())
