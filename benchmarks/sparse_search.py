"""What does searching sparse vectors cost for each posting, against BM25 over the same passages?

    python benchmarks/sparse_search.py SET                          # without one, the embedded sample

The passages and queries of a SPLADE-like model have random terms with Zipf frequencies: `--terms` per passage and
`--asked` per query, from a vocabulary of 30,522. BM25 searches the real texts. Both search for the same number of
queries, alternately in one process. A posting is one passage in the list of one query term.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from inputs import load_set, texts_of
from measuring import in_turns, seconds_of
from runner import SEED, Benchmark, Part, Run, option, table
from scipy.sparse import csr_array

import hnm_datasets as hnm
from hnm_datasets.indexes import bm25, sparse
from hnm_datasets.models.sparse_vectors import sparse_vectors
from hnm_datasets.runtime.workers import threads

VOCABULARY = 30_522
#: Added to each rank, so the most frequent terms are in a realistic share of the texts.
FLATTENED = 20


def random_vectors(rng: np.random.Generator, texts: int, terms: int) -> csr_array:
    """Return vectors of random terms and weights; a term that is drawn twice has the sum of both weights."""
    chances = 1 / (np.arange(VOCABULARY) + FLATTENED)
    drawn = rng.choice(VOCABULARY, size=texts * terms, p=chances / chances.sum())
    weights = rng.random(texts * terms, dtype=np.float32)
    return csr_array((weights, drawn, np.arange(texts + 1) * terms), shape=(texts, VOCABULARY))


def measure(run: Run) -> dict[str, Any]:
    corpus, rows = load_set(run.sets[0] if run.sets else None, "train")
    queries = rows["query"][: run.queries]
    rng = np.random.default_rng(SEED)
    vectors, asked = (
        random_vectors(rng, size, terms) for size, terms in ((len(corpus), run.terms), (len(queries), run.asked))
    )
    place = {text: row for row, text in enumerate(texts_of(corpus))}
    embeddings = corpus.embed_sparse(
        lambda texts: vectors[[place[text] for text in texts]], fingerprint=f"random {run.terms}", batch_size=256
    )
    ours, words = hnm.SparseIndex(embeddings), hnm.BM25Index(corpus)
    ours.prepare()
    words.prepare()
    terms, tokens = sparse_vectors(asked), words.encode(list(queries))
    postings = {
        "sparse": int(np.diff(sparse._open(ours).starts)[terms.terms].sum()),
        "BM25": int(np.diff(bm25._open(words).starts)[tokens.lists.values].sum()),
    }
    found: dict[str, Any] = {"passages": len(corpus), "queries": len(queries), "threads": threads(), "k": {}}
    for k in run.k:
        ways = {"sparse": partial(ours.search, terms, k), "BM25": partial(words.search, tokens, k)}
        for way in ways.values():
            way()
        seconds = in_turns({name: partial(seconds_of, way) for name, way in ways.items()}, run.repeats)
        found["k"][str(k)] = {
            name: {
                "ms": 1e3 * min(times) / len(queries),
                "postings": postings[name] / len(queries),
                "ns": 1e9 * min(times) / postings[name],
            }
            for name, times in seconds.items()
        }
    return found


def show(found: dict[str, Any]) -> str:
    lines = [
        (
            int(k), *(f"{one[way]['ms']:.3f}" for way in one), *(f"{one[way]['postings']:,.0f}" for way in one),
            *(f"{one[way]['ns']:.2f}" for way in one), f"{one['sparse']['ns'] / one['BM25']['ns']:.2f}",
        )
        for k, one in found["k"].items()
    ]  # fmt: skip
    heads = (
        "k|Sparse, ms a query|BM25, ms a query|Sparse, postings a query|BM25, postings a query|Sparse, ns a posting|"
        "BM25, ns a posting|Sparse / BM25, a posting"
    )
    about = f"{found['passages']:,} passages, {found['queries']:,} queries, {found['threads']} threads."
    return f"{about} The least of the repeats.\n\n{table(heads, lines)}"


if __name__ == "__main__":
    Benchmark(
        {"": Part("", measure, show)},
        {
            "queries": option(1000, "at most"),
            "k": option([10, 100], "hits per query"),
            "terms": option(120, "of a passage"),
            "asked": option(30, "terms of a query"),
        },
        sets="?",
        file=lambda sets: "sparse-search",
    ).run()
