"""How many pairs per second does MaxSim score, and how close is half precision, against sentence-transformers?

    python benchmarks/maxsim.py

Queries and passages are random vectors of length 1. The number of tokens per passage is 0.5 to 1.5 times the number in
the table, and each query has 100 candidates. Ours reads memory-mapped passages in half precision. `maxsim` of
sentence-transformers scores all pairs of queries and passages in one call, and `maxsim_pairwise` scores the same pairs
as ours. Both get tensors in single precision.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from measuring import in_turns, seconds_of
from runner import SEED, Benchmark, Part, Run, option, table
from sentence_transformers.util import maxsim as their_maxsim
from sentence_transformers.util import maxsim_pairwise

import hnm_datasets as hnm
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.indexes import maxsim
from hnm_datasets.models.token_vectors import token_vectors
from hnm_datasets.runtime.workers import threads

CANDIDATES = 100
#: Dimensions, tokens of a query, and of a passage: of ColBERT, without query expansion, of a wide model, of long texts.
SHAPES = ((128, 32, 60), (128, 10, 60), (384, 16, 60), (96, 32, 180))


def measure(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for dimension, asked, tokens in SHAPES:
        rng = np.random.default_rng(SEED)
        queries = unit_vectors(rng, np.full(run.queries, asked), dimension)
        passages = unit_vectors(rng, rng.integers(tokens // 2, tokens * 3 // 2 + 1, run.passages), dimension)
        texts = [f"{dimension} {asked} {tokens} {number}" for number in range(run.passages)]
        by_text = dict(zip(texts, passages, strict=True))
        corpus = hnm.Corpus.from_dataset(Dataset.from_dict({"id": texts, "text": texts}))
        embeddings = corpus.embed_tokens(
            lambda some, known=by_text: [known[text] for text in some], fingerprint=texts[0]
        )
        rows = np.concatenate([rng.choice(run.passages, CANDIDATES, replace=False) for _ in queries])
        lists, own = (
            Ragged(np.arange(run.queries + 1) * CANDIDATES, rows),
            np.repeat(np.arange(run.queries), CANDIDATES),
        )
        ours = partial(maxsim.score, token_vectors(queries), embeddings, lists)
        asked_tensors, tensors = ([torch.from_numpy(array) for array in arrays] for arrays in (queries, passages))
        pairs = [asked_tensors[query] for query in own], [tensors[row] for row in rows]
        runs = {
            "ours": ours,
            "maxsim": partial(their_maxsim, asked_tensors, tensors),
            "maxsim_pairwise": partial(maxsim_pairwise, *pairs),
        }
        for one in runs.values():
            one()
        seconds = in_turns({name: partial(seconds_of, one) for name, one in runs.items()}, run.repeats)
        counts = {"ours": len(rows), "maxsim": run.queries * run.passages, "maxsim_pairwise": len(rows)}
        found.append(
            {
                "shape": [dimension, asked, tokens],
                "threads": [threads(), torch.get_num_threads()],
                "pairs_per_second": {name: counts[name] / min(times) for name, times in seconds.items()},
                "largest_difference": float(np.abs(ours() - maxsim_pairwise(*pairs).numpy()).max()),
            }
        )
        run.save(found)
    return found


def unit_vectors(rng: np.random.Generator, lengths: np.ndarray, dimension: int) -> list[np.ndarray]:
    vectors = rng.standard_normal((lengths.sum(), dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.split(vectors, np.cumsum(lengths)[:-1])


def show(found: list[dict[str, Any]]) -> str:
    lines = []
    for one in found:
        rates = one["pairs_per_second"]
        lines.append(
            (
                *one["shape"],
                *(f"{rates[way]:,.0f}" for way in rates),
                *(f"{rates['ours'] / rates[way]:.1f}" for way in list(rates)[1:]),
                f"{one['largest_difference']:.1e}",
            )
        )
    own, theirs = found[0]["threads"]
    heads = (
        "Dimensions|Query tokens|Passage tokens|ours|maxsim|maxsim_pairwise|ours / maxsim|ours / pairwise|Difference"
    )
    about = f"Pairs a second, the best of the repeats, with {own} threads, torch with {theirs}; the largest difference "
    return f"{about}of a score from that in single precision.\n\n{table(heads, lines)}"


if __name__ == "__main__":
    Benchmark(
        {"random": Part("Random vectors", measure, show)},
        {"queries": option(64, "queries"), "passages": option(1000, "passages")},
    ).run()
