"""How fast does BM25 search a million passages and more, against bm25s and tantivy?

    python benchmarks/bm25_search.py                            # random words
    python benchmarks/bm25_search.py SET... --sizes 1000000 4000000

Random passages have 50 words drawn by Zipf's law. Real passages are built from the sets: each has the length of a
random passage of the sets, and its two halves are consecutive text that starts at random sentences. So the word
frequencies are those of the sets. Queries are eight different words of a passage, without stop words, and 200 queries
of each set.

All engines search for the same tokens. bm25s searches the same files as this library. tantivy (`pip install tantivy`)
is skipped if it is not installed. It scores with k1 = 1.2 and rounds lengths, so its results differ slightly.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from datasets import Dataset
from inputs import BATCH, load_set, passages, texts_of
from measuring import in_turns, seconds_of
from runner import SEED, Benchmark, Part, Run, option, table

import hnm_datasets as hnm
from hnm_datasets.runtime.workers import threads

with contextlib.suppress(ImportError):
    import tantivy

ASKED, WORDS = 200, 8


# ---- texts -------------------------------------------------------------------------------------------------------


def random_texts(run: Run, size: int) -> list[str]:
    """Return passages of words with Zipf frequencies."""
    return [one["text"] for one in passages(list(range(0, size, BATCH)), size)]


def real_texts(run: Run, size: int) -> list[str]:
    """Return passages built from those of the sets."""
    words: list[str] = []
    sentences, lengths = [], []
    for source in run.sets:
        for text in texts_of(load_set(source, "train")[0]):
            before = len(words)
            for sentence in re.split(r"(?<=[.!?])\s+", text):
                sentences.append(len(words))
                words += sentence.split()
            lengths.append(len(words) - before)
    rng = np.random.default_rng(SEED)
    sizes = rng.choice(lengths, size).tolist()
    starts = rng.choice(sentences, (size, 2)).tolist()
    return [
        " ".join(words[first : first + length // 2] + words[second : second + length - length // 2])
        for (first, second), length in zip(starts, sizes, strict=True)
    ]


def queries_of_words(texts: list[str], index: hnm.BM25Index) -> list[str]:
    """Return queries of different words of a passage, without stop words."""
    rng, asked = np.random.default_rng(SEED + 1), []
    while len(asked) < ASKED:
        words = sorted(set(re.findall(r"\w\w+", texts[rng.integers(len(texts))].lower())))
        words = [word for word, tokens in zip(words, index.tokenize(words), strict=True) if tokens]
        if len(words) >= WORDS:
            asked.append(" ".join(rng.choice(words, WORDS, replace=False)))
    return asked


def queries_of_sets(run: Run) -> list[str]:
    """Return queries of the sets."""
    rng, asked = np.random.default_rng(SEED), []
    for source in run.sets:
        asked += rng.permutation(list(load_set(source, "train")[1]["query"]))[:ASKED].tolist()
    return asked


# ---- what searches them ------------------------------------------------------------------------------------------


def bm25s_search(index: hnm.BM25Index) -> Callable[[list[list[str]], int], Any]:
    """Return a search function of bm25s on the files of this library."""
    retriever = bm25s.BM25.load(index.folder, mmap=True)
    retriever.backend = "numba"
    retriever.activate_numba_scorer()
    return lambda asked, k: retriever.retrieve(asked, k=k, n_threads=threads(), show_progress=False)


def tantivy_search(index: hnm.BM25Index, texts: list[str], folder: Path) -> Callable[[list[list[str]], int], Any]:
    """Return a search function of tantivy with the tokens of this library."""
    schema = tantivy.SchemaBuilder().add_text_field("text", tokenizer_name="whitespace").build()
    folder.mkdir()
    theirs = tantivy.Index(schema, path=str(folder))
    writer = theirs.writer(heap_size=500_000_000, num_threads=threads())
    for start in range(0, len(texts), 10_000):
        for tokens in index.tokenize(texts[start : start + 10_000]):
            writer.add_document(tantivy.Document(text=" ".join(tokens)))
    writer.commit()
    writer.wait_merging_threads()
    theirs.reload()
    searcher, should = theirs.searcher(), tantivy.Occur.Should

    def search(asked: list[list[str]], k: int) -> None:
        for tokens in asked:
            terms = [(should, tantivy.Query.term_query(schema, "text", token)) for token in tokens]
            searcher.search(tantivy.Query.boolean_query(terms), limit=k, count=False)

    return search


def measure(texts_of_run: Callable[[Run, int], list[str]], run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for size in run.sizes:
        texts = texts_of_run(run, size)
        corpus = hnm.Corpus.from_dataset(Dataset.from_dict({"id": [str(row) for row in range(size)], "text": texts}))
        index = hnm.BM25Index(corpus)
        index.prepare()
        asked = {"eight words": queries_of_words(texts, index)}
        if texts_of_run is real_texts:
            asked["of the sets"] = queries_of_sets(run)
        ways: dict[str, Callable[..., Any]] = {"bm25s": bm25s_search(index)}
        if "tantivy" in globals():
            ways["tantivy"] = tantivy_search(index, texts, run.scratch / f"tantivy-{size}")
        del texts
        for (name, queries), k in itertools.product(asked.items(), run.k):
            tokens, known = index.tokenize(queries), index.encode(queries)
            runs = {"ours": partial(index.search, known, k)} | {way: partial(ways[way], tokens, k) for way in ways}
            for one in runs.values():
                one()
            seconds = in_turns({way: partial(seconds_of, one) for way, one in runs.items()}, run.repeats)
            milliseconds = {way: min(times) / len(queries) * 1000 for way, times in seconds.items()}
            found.append({"passages": size, "queries": name, "k": k, "threads": threads(), "ms": milliseconds})
            run.save(found)
    return found


def show(found: list[dict[str, Any]]) -> str:
    ways = list(found[0]["ms"])
    lines = [
        (
            one["passages"],
            one["queries"],
            one["k"],
            *(f"{one['ms'][way]:.3f}" for way in ways),
            *(f"{one['ms']['ours'] / one['ms'][way]:.2f}" for way in ways[1:]),
        )
        for one in found
    ]
    about = f"Milliseconds a query, the least of the repeats; {found[0]['threads']} threads, tantivy with one.\n\n"
    return about + table("|".join(["Passages", "Queries", "k", *ways, *(f"ours / {way}" for way in ways[1:])]), lines)


if __name__ == "__main__":
    Benchmark(
        {
            "random": Part("Random words", partial(measure, random_texts), show),
            "real": Part("Real passages", partial(measure, real_texts), show),
        },
        {"sizes": option([1_000_000], "numbers of passages"), "k": option([100, 128], "hits per query")},
        sets="*",
        file=lambda sets: "bm25-search",
    ).run()
