"""Damages every kind of file that the library writes, and asks for the answers again.

    python tests/damage.py [--trials 500] [--seed 0] [--kinds bm25 embeddings ...]

Each trial copies all folders, flips, zeroes, cuts, lengthens or deletes bytes of one file, and asks twice, each time in
a process of its own with a time limit: as a process that finds the folder, and as a user who repeats the call that made
it. The script ends with 1 unless every answer is the same as before the damage or an error that names the folder.
"""

from __future__ import annotations

import os

# FAISS and torch start no threads, which a fork would lose.
os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import contextlib
import hashlib
import json
import logging
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import datasets
import faiss
import numpy as np
import pyarrow as pa
import tokenizers
from datasets import Dataset, IterableDataset

from hnm_datasets import (
    BM25Index,
    BM25Negatives,
    Corpus,
    CrossEncoderScores,
    DenseIndex,
    DenseNegatives,
    DropNearDuplicates,
    Embeddings,
    ShardedIndex,
    SparseNegatives,
    live_negatives,
    pool_positives,
    write_stream,
)
from hnm_datasets.arrays.ragged import Ragged
from hnm_datasets.models import shard_job
from hnm_datasets.storage.folders import cache_root, cache_root_at
from hnm_datasets.training.generations import Generation, write_generation

#: Seconds that one answer may take.
LIMIT = 60
#: Bytes of memory that one answer may take: a damaged length may ask for any number.
MEMORY = 32 << 30
EQUAL, NAMED, WRONG, OTHER, CRASH = (
    "equal answer",
    "error that names the folder",
    "wrong answer",
    "other error",
    "crash",
)
OUTCOMES = (EQUAL, NAMED, WRONG, OTHER, CRASH)
WORDS = ["plate", "wave", "fault", "tremor", "ridge", "crust", "mantle", "ocean", "slab", "quake", "harbor", "gauge"]


# ---- what is asked -----------------------------------------------------------------------------------------------


def passages(size: int = 120) -> dict[str, list[str]]:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(4, 12))) for _ in range(size)]
    # Some passages repeat one far above, some are nearly the same.
    texts[70], texts[100] = texts[3], texts[5]
    texts[80] = f"{texts[6]} indeed"
    return {"id": [f"p{row}" for row in range(size)], "text": texts}


PLAIN = passages()
TITLED = PLAIN | {"title": [WORDS[row % 5] if row % 3 else "" for row in range(120)]}
GROUPED = PLAIN | {"group": [f"document {row // 4}" for row in range(120)]}
QUERIES = {
    "query_id": [f"q{row}" for row in range(6)],
    "query": ["tremor near the ridge", "ocean wave", "crust", "depth of the slab", "harbor gauge", PLAIN["text"][9]],
    "positive_ids": [["p1"], ["p2", "p3"], ["p4"], ["p5"], [], ["p9"]],
}
MINED = QUERIES | {"negative_ids": [[f"p{10 * row + place}" for place in range(1, 9)] for row in range(6)]}


def count_letters(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(letter) for letter in "aegiklnort"] + [1] for text in texts], dtype=np.float32)


def shared_words(pairs: list[tuple[str, str]]) -> list[float]:
    return [float(len(set(query.split()) & set(passage.split()))) for query, passage in pairs]


def made(columns: dict[str, list[str]]) -> Corpus:
    return Corpus.from_dataset(Dataset.from_dict(columns))


def content(corpus: Corpus) -> list[Any]:
    rows = np.arange(0, len(corpus), 7)
    codes = [corpus.text_codes, corpus.copy_codes, corpus.group_codes if corpus.has_groups else np.empty(0)]
    asked = [corpus.find(["p7", "p119", "none"]), corpus.find_texts([PLAIN["text"][3], "none"])]
    return [corpus.ids(rows), corpus.texts(rows), corpus["p3"], *codes, *asked]


def vectors_of(corpus: Corpus) -> Embeddings:
    return corpus.embed(count_letters, fingerprint="letters-1", similarity="dot")


def dense(factory: str) -> Callable[[], Any]:
    def answer() -> Any:
        corpus = made(PLAIN)
        index = DenseIndex(vectors_of(corpus), factory)
        return DenseNegatives(corpus, count_letters, k=5, index=index, fingerprint="letters-1")(QUERIES)

    return answer


def sharded() -> Any:
    corpus = made(PLAIN)
    index = ShardedIndex([BM25Index(corpus, shard=(number, 3)) for number in range(3)])
    return BM25Negatives(corpus, k=5, index=index)(QUERIES)


def subwords() -> Any:
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0} | {word: 1 + n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    corpus = made(PLAIN)
    return BM25Negatives(corpus, k=5, index=BM25Index(corpus, tokenizer=tokenizer))(QUERIES)


def imported() -> Any:
    corpus = made(PLAIN)
    retriever = bm25s.BM25(method="bm25+")
    texts = corpus.texts(np.arange(len(corpus))).to_pylist()
    retriever.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    return BM25Negatives(corpus, k=5, index=BM25Index.from_bm25s(corpus, retriever))(QUERIES)


def live() -> Any:
    rows = live_negatives(Dataset.from_dict(MINED), made(PLAIN), n=2)
    return rows[:]


def later_generation() -> Any:
    table = pa.table({name: MINED[name] for name in ("positive_ids", "negative_ids")})
    folder = write_generation(cache_root() / "later", 1, [table], made(PLAIN), None, "damage", nothing_known)
    return opened_generation(folder)


def nothing_known(positives: Any) -> Any:
    return Ragged(np.zeros(len(positives) + 1, dtype=np.int64), np.empty(0, dtype=np.int64)), np.arange(len(positives))


def last_generation() -> Any:
    return opened_generation(cache_root() / "later" / "000001")


def opened_generation(folder: Path) -> Any:
    generation = Generation.open(folder)
    lists = (generation.positives, generation.negatives)
    return [part for one in lists for part in (one.offsets, one.values)]


def streamed(stop: int | None = None) -> Any:
    def rows() -> Iterator[dict[str, Any]]:
        for row in range(40):
            yield {"query": f"query {row}", "positive_ids": [f"p{row}"]}

    stream = IterableDataset.from_generator(rows)
    folder = cache_root() / "stream"
    count = write_stream(
        stream if stop is None else Interrupted(stream, stop), folder, max_shard_size=300, batch_size=5
    )
    shards = sorted((folder / "data").glob("[!.]*"))
    return count, [path.name for path in shards], [hashlib.sha256(path.read_bytes()).hexdigest() for path in shards]


class Interrupted(IterableDataset):
    """A stream whose reader is stopped after some batches."""

    def __init__(self, stream: IterableDataset, stop: int) -> None:
        self.__dict__.update(stream.__dict__)
        self._stop = stop

    def with_format(self, kind: str | None = None) -> Interrupted:
        return Interrupted(super().with_format(kind), self._stop)

    def iter(self, batch_size: int, drop_last_batch: bool = False) -> Iterator[Any]:
        for number, batch in enumerate(super().iter(batch_size, drop_last_batch)):
            if number == self._stop:
                raise InterruptedError
            yield batch


@dataclass(frozen=True)
class Kind:
    """Files of one kind, and what is asked of them.

    Attributes:
        paths: Where they are under the cache folder, as glob patterns.
        remake: The call that makes them and answers from them.
        open: Answers from what it finds; None: only the call that makes them reads them.
        make: Makes them, if that takes more than `remake`.
    """

    paths: tuple[str, ...]
    remake: Callable[[], Any]
    open: Callable[[], Any] | None = None
    make: Callable[[], Any] | None = None

    @property
    def asks(self) -> list[Callable[[], Any]]:
        """What is asked after a damage, in this order."""
        return [self.remake] if self.open is None else [self.open, self.remake]


def half_streamed() -> None:
    with contextlib.suppress(InterruptedError):
        streamed(stop=4)


def all_kinds(root: Path) -> dict[str, Kind]:
    """Make everything in a cache folder, and say what is where."""
    with cache_root_at(root):
        names = {name: made(columns).fingerprint for name, columns in
                 {"plain": PLAIN, "titled": TITLED, "grouped": GROUPED}.items()}  # fmt: skip
        vectors = vectors_of(made(PLAIN)).fingerprint
    corpora = {
        f"corpus, {name}": Kind(
            (f"corpora/{names[name]}/*",), lambda columns=columns: content(made(columns)),
            lambda name=name: content(Corpus(names[name])),
        )
        for name, columns in {"plain": PLAIN, "titled": TITLED, "grouped": GROUPED}.items()
    }  # fmt: skip
    return corpora | {
        "shingles": Kind(("shingles/*/*",), lambda: DropNearDuplicates(made(PLAIN), threshold=0.4)(MINED)),
        "bm25": Kind(("bm25/*/*",), lambda: BM25Negatives(made(PLAIN), k=5)(QUERIES)),
        "bm25, sharded": Kind(("bm25/*/*", "bm25-counts/*/*", "bm25-statistics/*/*"), sharded),
        "bm25, imported": Kind(("bm25-imported/*/*",), imported),
        "bm25, subwords": Kind(("tokenizers/*/*",), subwords),
        "embeddings": Kind(
            ("embeddings/*/*", "embeddings/*/shards/*"),
            lambda: np.asarray(vectors_of(made(PLAIN)).vectors),
            lambda: np.asarray(Embeddings(vectors).vectors),
        ),
        "query vectors": Kind(("vectors/*/*",), dense("Flat")),
        "faiss, IVF": Kind(("dense/*/*",), dense("IVF4,Flat")),
        "faiss, HNSW": Kind(("dense/*/*",), dense("HNSW8")),
        "faiss, PQ": Kind(("dense/*/*",), dense("IVF4,PQ1x4")),
        "sparse": Kind(
            ("embeddings/*/*", "embeddings/*/shards/*", "sparse/*/*", "vectors/*/*"),
            lambda: SparseNegatives(made(PLAIN), count_letters, k=5, fingerprint="letters-1")(QUERIES),
        ),
        "pair scores": Kind(
            ("pair_scores/*/*",), lambda: CrossEncoderScores(made(PLAIN), shared_words, fingerprint="words-1")(MINED)
        ),
        "rows": Kind(("rows/*/*",), lambda: pool_positives(Dataset.from_dict(QUERIES))[:]),
        "live rows": Kind(("live/*/*/*",), live),
        "a generation": Kind(
            ("later/*/*",), later_generation, lambda: opened_generation(cache_root() / "later/000001")
        ),
        "a stream": Kind(("stream/.stream.json", "stream/data/*"), streamed),
        "a stream, interrupted": Kind(("stream/.stream.json", "stream/data/*"), streamed, make=half_streamed),
    }


# ---- damage ------------------------------------------------------------------------------------------------------


def flip(data: bytearray, draw: random.Random) -> bytearray:
    for _ in range(draw.choice([1, 1, 8])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return data


def zero(data: bytearray, draw: random.Random) -> bytearray:
    start = draw.choice([0, draw.randrange(len(data))])
    stop = draw.choice([len(data), min(len(data), start + 8)])
    data[start:stop] = bytes(stop - start)
    return data


def shorten(data: bytearray, draw: random.Random) -> bytearray:
    return data[: draw.choice([0, len(data) - 1, draw.randrange(len(data))])]


def lengthen(data: bytearray, draw: random.Random) -> bytearray:
    return data + draw.choice([bytes(1), bytes(4096), draw.randbytes(100), data])


DAMAGES = {"flip": flip, "zero": zero, "shorten": shorten, "lengthen": lengthen, "delete": None}


def damage(path: Path, how: str, draw: random.Random, *, keep_times: bool) -> bool:
    """Damage a file; return whether its bytes are others now."""
    before, times = path.read_bytes(), path.stat()
    harm = DAMAGES[how]
    if harm is None:
        path.unlink()
        return True
    if not before and harm is not lengthen:
        return False
    after = bytes(harm(bytearray(before), draw))
    with path.open("r+b") as file:
        file.truncate(len(after))
        file.write(after)
    if keep_times:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return after != before


# ---- trials ------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """Return an answer as JSON values."""
    if isinstance(value, (np.ndarray, pa.Array, pa.ChunkedArray)):
        return value.tolist()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def told(ask: Callable[[], Any], root: Path, pipe: Any) -> None:
    """Answer in a process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable()
    # Threads that the parent had are gone.
    faiss.omp_set_num_threads(1)
    with cache_root_at(root):
        try:
            said = "answer", json.dumps(plain(ask()), sort_keys=True)
        except Exception as error:
            said = (NAMED if str(root) in str(error) else OTHER), f"{type(error).__name__}: {error}"
    pipe.send(said)


def in_a_process(ask: Callable[[], Any], root: Path) -> tuple[str, str]:
    """Return what a new process answers."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=told, args=(ask, root, there))
    process.start()
    there.close()
    try:
        said: tuple[str, str] = here.recv() if here.poll(LIMIT) else (CRASH, f"no answer in {LIMIT} s")
    except EOFError:
        process.join(LIMIT)
        said = CRASH, f"exit code {process.exitcode}"
    if process.is_alive() and said[0] == CRASH:
        process.kill()
    process.join()
    return said


@dataclass(frozen=True)
class Trial:
    """What was damaged, and the worst that came of it."""

    kind: str
    file: str
    how: str
    outcome: str
    about: str


class Trials:
    """Makes everything once, and damages copies of it.

    Args:
        place: An empty folder.
        kinds: Only these; None: all.
    """

    def __init__(self, place: Path, kinds: list[str] | None = None) -> None:
        self.place = place
        # Shards that are small enough for a passage to repeat one of an earlier shard.
        shard_job.SHARD = 32
        datasets.disable_progress_bars()
        found = all_kinds(place / "names")
        self.kinds = {name: found[name] for name in kinds or found}
        self.expected: dict[Callable[[], Any], str] = {}
        for number, (name, kind) in enumerate(self.kinds.items()):
            root = self._whole(number)
            with cache_root_at(root):
                (kind.make or kind.remake)()
            shutil.copytree(root, place / "copy")
            for ask in kind.asks:
                said, self.expected[ask] = in_a_process(ask, place / "copy")
                if said != "answer":
                    raise AssertionError(f"{name}: {self.expected[ask]}")
            shutil.rmtree(place / "copy")

    def _whole(self, number: int) -> Path:
        return self.place / f"whole {number}"

    def run(self, number: int, seed: int) -> Trial | None:
        """Do one trial; None if the damage changed no byte."""
        draw = random.Random(f"{seed}-{number}")
        place, name = number % len(self.kinds), list(self.kinds)[number % len(self.kinds)]
        kind, root = self.kinds[name], self.place / "trial"
        shutil.copytree(self._whole(place), root)
        try:
            is_known = draw.random() < 0.3
            if is_known:
                # A process has found everything right before, a while ago, and noted that.
                in_a_process(kind.asks[0], root)
                time.sleep(0.12)
                in_a_process(kind.asks[0], root)
            found = [path for pattern in kind.paths for path in root.glob(pattern)]
            files = sorted(path for path in found if path.is_file() and path.suffix != ".lock")
            path, how = draw.choice(files), draw.choice(list(DAMAGES))
            if not damage(path, how, draw, keep_times=is_known):
                return None
            worst = Trial(name, str(path.relative_to(root)), how, EQUAL, "")
            for ask in kind.asks:
                said, about = in_a_process(ask, root)
                if said == "answer":
                    said = EQUAL if about == self.expected[ask] else WRONG
                if OUTCOMES.index(said) > OUTCOMES.index(worst.outcome):
                    worst = Trial(name, worst.file, how, said, about[:300])
            return worst
        finally:
            shutil.rmtree(root)

    def many(self, trials: int, seed: int) -> Iterator[Trial]:
        """Do many trials."""
        number = 0
        while trials:
            found = self.run(number, seed)
            number += 1
            if found is not None:
                trials -= 1
                yield found


def table(found: list[Trial]) -> str:
    """Count the outcomes of each kind of file."""
    counts = Counter((trial.kind, trial.outcome) for trial in found)
    kinds = list(dict.fromkeys(trial.kind for trial in found))
    lines = [["files", "trials", *OUTCOMES], ["---"] * (2 + len(OUTCOMES))]
    for kind in [*kinds, "all"]:
        row = [sum(counts[one, outcome] for one in kinds if kind in (one, "all")) for outcome in OUTCOMES]
        lines.append([kind, *map(str, [sum(row), *row])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500, help="(default: 500)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--kinds", nargs="+", help="only these kinds of files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        datasets.config.HF_DATASETS_CACHE = Path(place) / "datasets"
        found = list(Trials(Path(place), options.kinds).many(options.trials, options.seed))
    print(table(found))  # noqa: T201
    bad = [trial for trial in found if trial.outcome in (WRONG, OTHER, CRASH)]
    for trial in bad:
        print(trial)  # noqa: T201
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
