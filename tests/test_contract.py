"""Every public transform keeps the contract, and the checks notice one that does not."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from exhaustive import usually

import hnm_datasets
from hnm_datasets import (
    AbsoluteMargin,
    BiEncoderScores,
    BM25Index,
    BM25Negatives,
    Corpus,
    CrossEncoderScores,
    DenseIndex,
    DenseNegatives,
    DropKnownPositives,
    DropNearDuplicates,
    FuseNegatives,
    JudgedNegatives,
    LateInteractionNegatives,
    LateInteractionScores,
    PositiveSimilarity,
    RandomNegatives,
    RankWindow,
    RelativeMargin,
    RunNegatives,
    SampleNegatives,
    ScoreBand,
    SearchNegatives,
    SortNegatives,
    SparseNegatives,
    TeacherThreshold,
    ToLabeledLists,
    ToLabeledPairs,
    ToNTuples,
    TopNegatives,
    ToTriplets,
    load_sample,
    testing,
)
from hnm_datasets.storage.digests import digest_strings
from hnm_datasets.storage.folders import cache_root_at
from hnm_datasets.transforms.base import CandidateFilter, Transform


def sample_rows():
    corpus, queries = load_sample()
    rows = queries.select(range(0, 600, 50)).remove_columns("judged_negative_ids")
    return corpus, rows.add_column("topic", [f"topic {place}" for place in range(len(rows))])


def shared_words(pairs):
    return [len(set(query.lower().split()) & set(passage.lower().split())) for query, passage in pairs]


def search_by_bm25(corpus):
    index = BM25Index(corpus)

    def search(queries, depth):
        hits = index.search(index.encode(queries), depth)
        there = [rows >= 0 for rows in hits.rows]
        ids = [corpus.ids(rows[own]).to_pylist() for rows, own in zip(hits.rows, there, strict=True)]
        return ids, [scores[own] for scores, own in zip(hits.scores, there, strict=True)]

    return search


def run_of(corpus):
    """Return a run of every other query of the sample."""
    queries = load_sample()[1]["query_id"][::2]
    ids = corpus.columns["id"].to_pylist()[:1000]
    return {query: {one: -float(i) for i, one in enumerate(ids[n::97])} for n, query in enumerate(queries)}


def count_letters(texts):
    return [[text.count(letter) for letter in "aeioutnrs"] for text in texts]


def hashed_words(texts):
    """Give each word a vector of four numbers that depends on the word alone."""
    words = [text.lower().split()[:12] for text in texts]
    digests = digest_strings([word for own in words for word in own])
    vectors = (digests[:, :1] >> np.arange(0, 32, 8, dtype=np.uint64)) % 17 / np.float32(8) - 1
    return np.split(vectors, np.cumsum([len(own) for own in words])[:-1]) if words else []


def transforms(corpus, model):
    return {
        "bm25": BM25Negatives(corpus, k=12),
        "bm25-options": BM25Negatives(
            corpus,
            k=5,
            exclude_group=True,
            index=BM25Index(corpus, method="bm25+", stemmer=None, stopwords=["the", "of"]),
        ),
        "bm25-tokenizer": BM25Negatives(
            corpus, k=5, index=BM25Index(corpus, tokenizer=str.split, tokenizer_fingerprint="spaces-1")
        ),
        "random": RandomNegatives(corpus, k=6, seed=3),
        "dense": DenseNegatives(corpus, model, k=6),
        "dense-options": DenseNegatives(
            corpus,
            model,
            k=5,
            exclude_group=True,
            query_prompt="query: ",
            index=DenseIndex(corpus.embed(model, prompt="passage: "), "IVF16,Flat", nprobe=4),
        ),
        "fuse": FuseNegatives(
            {"bm25": BM25Negatives(corpus, k=6), "dense": DenseNegatives(corpus, model, k=4)}, method="interleave", k=7
        ),
        "sparse": SparseNegatives(corpus, count_letters, k=6, exclude_group=True, fingerprint="letters-1"),
        "search": SearchNegatives(corpus, search_by_bm25(corpus), k=6, fingerprint="bm25-1"),
        "run": RunNegatives(corpus, run_of(corpus), k=6),
        "late": LateInteractionNegatives(corpus, hashed_words, k=5, fingerprint="hashed-words-1"),
        "late-candidates": LateInteractionNegatives(
            corpus, hashed_words, k=5, fingerprint="hashed-words-1", candidates=BM25Negatives(corpus, k=30)
        ),
        "judged": JudgedNegatives(corpus, BM25Negatives(corpus), k=3),
        "fuse-judged": FuseNegatives(
            {"judged": JudgedNegatives(corpus, DenseNegatives(corpus, model)), "bm25": BM25Negatives(corpus, k=6)},
            method="union",
        ),
        "bi-encoder": BiEncoderScores(corpus, model),
        "late-scores": LateInteractionScores(corpus, hashed_words, "late", batch_size=64, fingerprint="hashed-words-1"),
        "cross-encoder": CrossEncoderScores(corpus, shared_words, fingerprint="shared-words-1"),
        "absolute": AbsoluteMargin(0.5),
        "relative": RelativeMargin(0.05, against="mean"),
        "known": DropKnownPositives(corpus),
        "near": DropNearDuplicates(corpus, 0.5),
        "like": PositiveSimilarity(corpus, 0.1, 0.9, embeddings=corpus.embed(model)),
        "like-texts": PositiveSimilarity(corpus, max=0.02),
        "sort": SortNegatives("score"),
        "threshold": TeacherThreshold(7.0, by="score"),
        "promote": TeacherThreshold(7.0, 9.0, by="score", promote=True),
        "rank": RankWindow(2, 9),
        "band": ScoreBand(min=3.0, max=9.0),
        "top": TopNegatives(4),
        "uniform": SampleNegatives(4, seed=1),
        "softmax": SampleNegatives(4, strategy="softmax", temperature=2.0, seed=1),
        "simans": SampleNegatives(4, strategy="simans", a=0.5, b=-1.0, seed=1),
        "by-source": SampleNegatives({"bm25": 2, "random": 3}, seed=1),
        "by-rank": SampleNegatives({(1, 4): 1, (5, 12): 3}, seed=1),
        "by-band": SampleNegatives({(0, 8): 2, (5, 30): 2}, bands="score", strategy="softmax", seed=1),
        "per-group": SampleNegatives(1, per="group", corpus=corpus, seed=1),
        "diverse": SampleNegatives(
            4, strategy="softmax", diversity=4.0, corpus=corpus, embeddings=corpus.embed(model), seed=1
        ),
        "diverse-texts": SampleNegatives({(1, 4): 1, (5, 12): 3}, diversity=20, corpus=corpus),
        "triplets": ToTriplets(corpus, n=3),
        "tuples": ToNTuples(corpus, n=2, positives="random", seed=5),
        "pairs": ToLabeledPairs(corpus, n=3),
        "lists": ToLabeledLists(corpus, n=3),
        "triplets-margins": ToTriplets(corpus, n=3, labels="margins", by="score"),
        "tuples-scores": ToNTuples(corpus, n=2, missing="pad", labels="scores", by="score"),
        "pairs-scores": ToLabeledPairs(corpus, n=3, missing="keep", labels="scores", by="score"),
        "lists-scores": ToLabeledLists(corpus, n=3, labels="scores", by="score"),
    }


NAMES = (
    "bm25",
    "bm25-options",
    "bm25-tokenizer",
    "random",
    "dense",
    "dense-options",
    "sparse",
    "fuse",
    "search",
    "run",
    "late",
    "late-candidates",
    "judged",
    "fuse-judged",
    "bi-encoder",
    "late-scores",
    "cross-encoder",
    "absolute",
    "relative",
    "known",
    "near",
    "like",
    "like-texts",
    "sort",
    "threshold",
    "promote",
    "rank",
    "band",
    "top",
    "uniform",
    "softmax",
    "simans",
    "by-source",
    "by-rank",
    "by-band",
    "per-group",
    "diverse",
    "diverse-texts",
    "triplets",
    "tuples",
    "pairs",
    "lists",
    "triplets-margins",
    "tuples-scores",
    "pairs-scores",
    "lists-scores",
)


def prepare(model):
    """Return every transform with rows that it can work on."""
    corpus, rows = sample_rows()
    mined = rows.map(BM25Negatives(corpus, k=12), batched=True)
    fuse = FuseNegatives({"bm25": BM25Negatives(corpus, k=6), "random": RandomNegatives(corpus, k=6, seed=3)})
    fused = rows.map(fuse, batched=True)

    ids = corpus.columns["id"].to_pylist()
    judged = rows.add_column("judged_negative_ids", [ids[place * 40 : place * 42] for place in range(len(rows))])

    def rows_for(name):
        if name.endswith("judged"):
            return judged
        if name.startswith(("bm25", "random", "dense", "sparse", "fuse", "search", "run")):
            return rows
        return fused if name == "by-source" else mined

    return {name: (transform, rows_for(name)) for name, transform in transforms(corpus, model).items()}


@pytest.fixture(scope="module")
def ready(static_model):
    return prepare(static_model)


def test_every_public_transform_is_tested(ready):
    public = {getattr(hnm_datasets, name) for name in hnm_datasets.__all__}
    public = {one for one in public if isinstance(one, type) and issubclass(one, Transform)}
    assert public == {type(transform) for transform, _ in ready.values()}
    assert set(NAMES) == set(ready)


#: Other options of a step that is there under another name.
VARIANTS = {
    "bm25-options",
    "bm25-tokenizer",
    "dense-options",
    "late-candidates",
    "like-texts",
    "promote",
    "softmax",
    "simans",
    "by-source",
    "by-rank",
    "by-band",
    "per-group",
    "diverse",
    "diverse-texts",
    "triplets-margins",
    "tuples-scores",
    "pairs-scores",
    "lists-scores",
}
ALONE = {testing.check_hash_is_the_same_in_another_process, testing.check_processes_do_not_matter}
IN_THIS_PROCESS = [check for check in testing.CHECKS if check not in ALONE]


@pytest.mark.parametrize("check", IN_THIS_PROCESS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_contract(ready, name, check):
    check(*ready[name])


@pytest.mark.parametrize("name", usually([name for name in NAMES if name not in VARIANTS], every=NAMES))
def test_processes_do_not_matter(ready, name):
    testing.check_processes_do_not_matter(*ready[name])


def test_a_shape_that_makes_nothing_of_a_row_keeps_the_contract(ready):
    shape, rows = ready["tuples"]
    empty = {name: [[], *rows[name][1:]] for name in rows.column_names if name.startswith("negative_")}
    testing.check_foreign_columns_are_untouched(shape, Dataset.from_dict(rows.to_dict() | empty))


def test_hashes_are_the_same_in_another_process(ready):
    """One process for all, which takes seconds to start."""
    found = testing.hashes_of_another_process([transform for transform, _ in ready.values()])
    assert dict(zip(ready, found, strict=True)) == {name: Hasher.hash(one) for name, (one, _) in ready.items()}


def test_every_transform_works_in_another_cache_folder(static_model, tmp_path):
    """In its threads too, which have no cache folder of their own."""
    with cache_root_at(tmp_path):
        for transform, rows in prepare(static_model).values():
            transform(rows[:])
    assert {path.name for path in tmp_path.iterdir()} >= {"bm25", "corpora", "embeddings", "shingles", "vectors"}


def test_pickle_does_not_grow_with_the_corpus():
    import pickle

    corpus = Corpus.from_dataset(
        Dataset.from_dict({"id": [str(i) for i in range(30_000)], "text": [f"passage {i}" for i in range(30_000)]})
    )
    assert len(pickle.dumps(BM25Negatives(corpus))) < 2048


# ---- transforms that break the contract, each in one way ------------------------------------------------------------

ROWS = Dataset.from_dict(
    {
        "query": [f"query {i}" for i in range(20)],
        "negative_ids": [[f"p{i}-{j}" for j in range(i % 4)] for i in range(20)],
        "negative_scores": [[float(j) for j in range(i % 4)] for i in range(20)],
    }
)


@dataclass(frozen=True)
class Heavy(TopNegatives):
    n: int = 2
    ballast: bytes = bytes(20_000)


@dataclass(frozen=True)
class KeepsItsHandle(TopNegatives):
    n: int = 2

    def __call__(self, rows):
        object.__setattr__(self, "handle", 1)
        return super().__call__(rows)

    def __getstate__(self):
        return super().__getstate__() | {"handle": getattr(self, "handle", None)}


@dataclass(frozen=True)
class HashesSets(TopNegatives):
    n: int = 2
    words: frozenset = frozenset(f"word{i}" for i in range(50))


@dataclass(frozen=True)
class DependsOnTheBatch(CandidateFilter):
    def _keep(self, batch, candidates):
        return np.arange(len(candidates.values)) < 5


class DropsForeignColumns:
    def __call__(self, rows):
        import pyarrow as pa

        return pa.table({"negative_ids": rows["negative_ids"]})


class ForgetsTheType:
    def __call__(self, rows):
        return {"negative_ids": [[] if len(rows["query"]) == 2 else list(ids) for ids in rows["negative_ids"]]}


class ChangesItsInput:
    def __call__(self, rows):
        rows["negative_ids"] = [list(ids)[:1] for ids in rows["negative_ids"]]
        return {"negative_ids": rows["negative_ids"]}


class LeavesOthersBehind:
    def __call__(self, rows):
        return {"negative_ids": [list(ids)[1:] for ids in rows["negative_ids"]]}


@dataclass(frozen=True)
class SaysOtherColumns(TopNegatives):
    n: int = 2
    output_columns: ClassVar = ("positive_ids",)


class IgnoresMissing:
    input_columns = ("negative_ids",)

    def __call__(self, rows):
        return {"one": [1] * len(rows["query"])}


class FailsOnArrays:
    def __call__(self, rows):
        return {"negative_ids": [ids[:1] if isinstance(ids, list) else [] for ids in rows["negative_ids"]]}


@pytest.mark.parametrize(
    ("bad", "check"),
    [
        (Heavy(), testing.check_pickle_is_small),
        (KeepsItsHandle(), testing.check_hash_is_stable),
        (HashesSets(), testing.check_hash_is_the_same_in_another_process),
        (DependsOnTheBatch(), testing.check_batch_size_does_not_matter),
        (DependsOnTheBatch(), testing.check_processes_do_not_matter),
        (DependsOnTheBatch(), testing.check_order_does_not_matter),
        (DependsOnTheBatch(), testing.check_stream_is_the_same),
        (FailsOnArrays(), testing.check_formats_do_not_matter),
        (ChangesItsInput(), testing.check_input_is_unchanged),
        (DropsForeignColumns(), testing.check_foreign_columns_are_untouched),
        (LeavesOthersBehind(), testing.check_aligned_columns_stay_aligned),
        (SaysOtherColumns(), testing.check_declared_columns_are_written),
        (IgnoresMissing(), testing.check_missing_column_is_named),
    ],
    ids=lambda one: getattr(one, "__name__", type(one).__name__),
)
def test_the_checks_bite(bad, check):
    # Another process takes seconds; the doctest of all checks has one.
    if check is not testing.check_hash_is_the_same_in_another_process:
        check(TopNegatives(2), ROWS)
    with pytest.raises(AssertionError, match="The transform"):
        check(bad, ROWS)
