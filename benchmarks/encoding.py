"""How fast does the library encode texts against `SentenceTransformer.encode` at its best batch size?

    python benchmarks/encoding.py                               # texts of the embedded sample
    python benchmarks/encoding.py SET... --model FOLDER         # as many passages as queries of each set

Parts (`--parts`), each a section: mixed lengths; short texts with the same number of tokens; a few queries; static
embeddings. Ours is `Encoder.encode`, which embeds corpora and queries. For mixed lengths it is also `corpus.embed`,
which computes fingerprints of the model and the texts and writes the vectors to disk. For a few queries, *unchecked*
skips the check of `Encoder` that the model has not changed.

The sides alternate, and the shortest time of each counts. The texts are distinct, no run reuses results of another, and
the vectors must be equal except for rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from inputs import load_set, texts_of
from measuring import in_turns, spread_of
from models import make_model
from runner import SEED, Benchmark, Part, Run, option, table
from sentence_transformers import SentenceTransformer

import hnm_datasets as hnm
from hnm_datasets.models.encoders import Encoder
from hnm_datasets.models.token_batches import encode_groups

#: The largest allowed difference between numbers of unit vectors, because batches are padded differently.
TOLERANCE = 1e-5
#: Tokens of the short texts, including special tokens.
SHORT = 16
FEW = (1, 5, 20)


def load_model(run: Run) -> SentenceTransformer:
    """Load the model in float32 from a path or Hub id; "minilm": from the package with its weights."""
    return make_model("minilm") if run.model == "minilm" else SentenceTransformer(run.model).float()


def real_texts(run: Run, count: int, queries: float) -> list[str]:
    """Sample distinct texts, the same number from each set, with a share of queries."""
    rng, sets, found = np.random.default_rng(SEED), run.sets or [None], []
    for source in sets:
        corpus, rows = load_set(source, "train")
        asked = round(count / len(sets) * queries)
        for texts, wanted in ((rows["query"], asked), (texts_of(corpus), -(-count // len(sets)) - asked)):
            distinct = list(dict.fromkeys(text for text in texts if text.strip()))
            found += [distinct[place] for place in rng.permutation(len(distinct))[:wanted]]
    return list(dict.fromkeys(found))[:count]


def compare(
    ours: dict[str, Callable[[], Any]], encode: Callable[..., Any], texts: list[str], sizes: Sequence[int], repeats: int
) -> dict[str, Any]:
    """Time our methods and `encode` with each batch size alternately, after one run of each on a few texts."""
    last: dict[str, Any] = {}

    def clocked(name: str, run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        last[name] = run()
        return time.perf_counter() - start

    theirs = {str(size): partial(encode, texts, batch_size=size, normalize_embeddings=True) for size in sizes}
    encode(texts[:64])
    times = in_turns({name: partial(clocked, name, run) for name, run in (ours | theirs).items()}, repeats)
    first = last[str(sizes[0])]
    difference = max(float(np.abs(vectors - first).max()) for vectors in last.values())
    if not difference <= TOLERANCE:
        raise RuntimeError(f"The vectors differ by {difference:.2g}.")
    return {"texts": len(texts), "difference": difference, "seconds": {way: spread_of(t) for way, t in times.items()}}


def tokens_of(model: SentenceTransformer, texts: list[str]) -> list[int]:
    """Return the numbers of tokens that the model reads."""
    return [int(one) for one in model.preprocess(texts)["attention_mask"].sum(1)]


def mixed(run: Run) -> dict[str, Any]:
    model, texts = load_model(run), real_texts(run, run.texts, 0.2)
    corpus = hnm.Corpus.from_dataset(Dataset.from_dict({"id": [str(row) for row in range(len(texts))], "text": texts}))
    encoder = Encoder(model, "document", normalize=True)

    def embed() -> Any:
        embeddings = corpus.embed(model, normalize=True)
        vectors = np.array(embeddings.vectors)
        embeddings.discard()
        return vectors

    ours = {"Encoder": partial(encoder.encode, texts), "corpus.embed": embed}
    found = compare(ours, model.encode_document, texts, run.sizes, run.repeats)
    return found | {"tokens": tokens_of(model, texts), "device": str(model.device), "threads": torch.get_num_threads()}


def short(run: Run) -> dict[str, Any]:
    model, words = load_model(run), [text.split() for text in real_texts(run, 4 * run.texts, 0.5)]
    # The same texts with one length: add words until there are enough tokens.
    candidates = [" ".join(text[:size]) for size in range(3, SHORT) for text in words if len(text) >= size]
    candidates = list(dict.fromkeys(candidates))
    lengths = tokens_of(model, candidates)
    texts = [text for text, length in zip(candidates, lengths, strict=True) if length == SHORT][: 3 * run.texts]
    encoder = Encoder(model, "query", normalize=True)
    found = compare({"Encoder": partial(encoder.encode, texts)}, model.encode_query, texts, run.sizes, run.repeats)
    return found | {"tokens": tokens_of(model, texts)}


def few(run: Run) -> list[dict[str, Any]]:
    model, queries = load_model(run), real_texts(run, max(FEW), 1.0)
    encoder, found = Encoder(model, "query", normalize=True), []
    for count in FEW:
        texts = queries[:count]

        def unchecked(texts: list[str] = texts) -> Any:
            options = {"task": "query", "prompt": encoder.prompt, "batch_size": 32, "normalize": True}
            return next(encode_groups(model, [texts], model.encode_query, **options))

        ours = {"unchecked": unchecked, "Encoder": partial(encoder.encode, texts)}
        one = compare(ours, model.encode_query, texts, run.sizes, 4 * run.repeats)
        found.append(one | {"tokens": tokens_of(model, texts)})
    return found


def static(run: Run) -> dict[str, Any]:
    model, texts = make_model("static"), real_texts(run, 20 * run.texts, 0.2)
    encoder = Encoder(model, "document", normalize=True)
    sizes = [*run.sizes, 1024, 2048]
    return compare({"Encoder": partial(encoder.encode, texts)}, model.encode_document, texts, sizes, run.repeats)


def show(found: dict[str, Any] | list[dict[str, Any]]) -> str:
    """Show texts per second, and ours divided by `encode` at its default and at its best batch size."""
    rows, about = [], ""
    for one in found if isinstance(found, list) else [found]:
        least = {way: seconds["min_s"] for way, seconds in one["seconds"].items()}
        theirs = {way: seconds for way, seconds in least.items() if way.isdigit()}
        best = min(theirs, key=theirs.__getitem__)
        for way, seconds in least.items():
            ours = way not in theirs
            ratios = [f"{theirs[size] / seconds:.2f}" if ours and size in theirs else None for size in ("32", best)]
            name = f"`{way}`" if ours else f"`encode`, {way} at a time{', its best' * (way == best)}"
            rows.append((one["texts"], name, f"{one['texts'] / seconds:,.1f}", *ratios))
        about += f"{one['texts']:,} texts"
        if "tokens" in one:
            quantiles = np.percentile(one["tokens"], [0, 25, 50, 75, 100])
            about += f" of {' / '.join(f'{each:.0f}' for each in quantiles)} tokens (least, quartiles, most)"
        about += f"; vectors differ by {one['difference']:.1e} at most. "
    return about + "\n\n" + table("Texts|Way|texts/s|ours / `encode` at 32|ours / `encode` at its best", rows)


if __name__ == "__main__":
    Benchmark(
        {
            "mixed": Part("Mixed lengths", mixed, show),
            "short": Part("Short texts of one length", short, show),
            "few": Part("A few queries", few, show),
            "static": Part("Static embeddings", static, show),
        },
        {
            "model": option("sentence-transformers/all-MiniLM-L6-v2", 'a path or Hub id; or "minilm"'),
            "texts": option(300, "of mixed lengths; three times as many are short, and 20 times for static embeddings"),
            "sizes": option([8, 16, 32, 64, 128, 256], "batch sizes of `encode`"),
        },
        sets="*",
        file=lambda names: "-".join(["encoding", *names]),
    ).run()
