"""What the public steps, shapes, loaders and functions answer on the embedded sample stays what it was.

A change of the code that is to change no answer, such as moving modules, must leave all of this equal. `answers.json`
holds a digest of each column of each answer: exact for ids, texts, whole numbers and the lengths of lists, and three
sums with a tolerance for other numbers, whose last bits differ between machines. Where a change of an answer is meant,
record again, in one process, and look at the difference:

    HNM_RECORD=1 python -m pytest tests/test_answers.py
"""

import functools
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import older_versions
import pyarrow as pa
import pytest
from datasets import Dataset, load_dataset

from hnm_datasets import (
    AbsoluteMargin,
    BiEncoderScores,
    BM25Index,
    BM25Negatives,
    Corpus,
    CrossEncoderScores,
    DenseIndex,
    DenseNegatives,
    DropNearDuplicates,
    FuseNegatives,
    RandomNegatives,
    RankWindow,
    RelativeMargin,
    SampleNegatives,
    ScoreBand,
    ShardedIndex,
    SortNegatives,
    TeacherThreshold,
    ToLabeledLists,
    ToLabeledPairs,
    ToNTuples,
    TopNegatives,
    ToTriplets,
    attach_positives,
    audit_negatives,
    calibrate_margin,
    calibrate_threshold,
    compare_negatives,
    convert,
    explain,
    from_pairs,
    live_negatives,
    load_beir,
    load_sample,
    mine_hard_negatives,
    save_mined,
    write_card,
    write_stream,
)

PATH = Path(__file__).with_name("answers.json")
RECORDING = bool(os.environ.get("HNM_RECORD"))
AGAIN = "If that is meant, record again: HNM_RECORD=1 python -m pytest tests/test_answers.py"
#: The sums of numbers may differ by this share of the sum of their magnitudes.
TOLERANCE = 1e-5


# ---- models ---------------------------------------------------------------------------------------------------------


def shared_words(pairs):
    """A teacher whose scores are whole numbers."""
    return [len(set(query.lower().split()) & set(passage.lower().split())) for query, passage in pairs]


@functools.cache
def word_vector(word):
    return np.frombuffer(hashlib.sha256(word.encode()).digest(), dtype=np.uint8) / 255 - 0.5


def word_vectors(texts):
    """An embedding model without weights: the sum of a vector per distinct word."""
    return np.stack([sum(map(word_vector, sorted(set(text.lower().split())))) for text in texts]).astype(np.float32)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    """A small cross-encoder with the same weights everywhere, and scores that lie apart; conftest's lie too close."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    corpus, _ = load_sample()
    words = Counter(word for text in corpus.columns["text"].to_pylist() for word in re.findall(r"[a-z]+", text.lower()))
    common = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:1500]]
    folder = tmp_path_factory.mktemp("reranker")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *common]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=96).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(vocabulary), num_labels=1, max_position_embeddings=96, **sizes)
    model = BertForSequenceClassification(config)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for _, weights in sorted(model.named_parameters()):
            if weights.ndim == 2:
                weights.copy_(torch.from_numpy(rng.normal(scale=0.5, size=tuple(weights.shape))))
    model.save_pretrained(folder)
    return CrossEncoder(str(folder), device="cpu")


# ---- what the cases start from --------------------------------------------------------------------------------------


class Given:
    """The sample, what is mined for a part of its queries, and the models; each made when a case asks for it."""

    def __init__(self, model, reranker, folders):
        self.model, self.reranker, self.folders = model, reranker, folders
        self.corpus, self.queries = load_sample()

    def folder(self):
        return self.folders.mktemp("answers")

    @cached_property
    def rows(self):
        return self.queries.select(range(0, 600, 9)).remove_columns("judged_negative_ids").flatten_indices()

    @cached_property
    def mined(self):
        return self.rows.map(BM25Negatives(self.corpus, k=12), batched=True)

    @cached_property
    def scored(self):
        step = CrossEncoderScores(self.corpus, shared_words, name="teacher", fingerprint="shared-words-1")
        return self.mined.map(step, batched=True)

    @cached_property
    def fused(self):
        miners = {"bm25": BM25Negatives(self.corpus, k=6), "random": RandomNegatives(self.corpus, k=6, seed=3)}
        return self.rows.map(FuseNegatives(miners), batched=True)

    @cached_property
    def embeddings(self):
        return self.corpus.embed(self.model)

    @cached_property
    def gaps(self):
        """Some rows with few or no candidates, some without positives."""
        rows = self.scored.to_list()
        for place, row in enumerate(rows):
            stay = {0: 0, 1: 1, 2: 3}.get(place % 5, 12)
            own = 0 if place % 7 == 3 else None
            for name in row:
                if name.startswith("negative_"):
                    row[name] = row[name][:stay]
                elif name.startswith("positive_"):
                    row[name] = row[name][:own]
            row["topic"] = f"topic {place}"
        return Dataset.from_list(rows)

    @cached_property
    def few(self):
        """Mined rows for models that take their time."""
        return self.mined.select(range(12))

    @cached_property
    def first(self):
        """Rows whose positives but the first two are hidden, so that they are mined."""
        return self.rows.map(lambda row: {"positive_ids": row["positive_ids"][:2]})

    @cached_property
    def hidden(self):
        """What is mined for them, and the teacher's scores."""
        rows = self.first.map(BM25Negatives(self.corpus, k=20), batched=True)
        step = CrossEncoderScores(self.corpus, shared_words, name="teacher", fingerprint="shared-words-1")
        return rows.map(step, batched=True)

    @cached_property
    def qrels(self):
        """The judgments of the rows: the positives are relevant, and some that BM25 finds are judged not to be."""
        judged = [
            {"query_id": row["query_id"], "corpus_id": name, "score": score}
            for row in self.mined
            for score, names in ((2, row["positive_ids"][:1]), (1, row["positive_ids"][1:]), (0, row["negative_ids"]))
            for name in (names if score else names[::3])
        ]
        return Dataset.from_list(judged)

    @cached_property
    def pairs(self):
        """A pair per query and positive, some queries with several."""
        texts = dict(zip(*(column.to_pylist() for column in self.texts), strict=True))
        rows = [
            {"question": row["query"], "answer": texts[name], "key": row["query_id"]}
            for row in self.rows.select(range(60))
            for name in row["positive_ids"][:2]
        ]
        return Dataset.from_list(rows)

    @property
    def texts(self):
        rows = np.arange(len(self.corpus))
        return self.corpus.ids(rows), self.corpus.texts(rows)

    @cached_property
    def forms(self):
        """The same mined data in each of the seven forms."""
        full = self.scored.filter(lambda row: len(row["negative_ids"]) >= 3 and row["positive_ids"]).select(range(40))
        mined = full.map(TopNegatives(3), batched=True).flatten_indices()
        return {"mined": mined} | {name: convert(mined, name, self.corpus) for name in FORMS[1:]}


@pytest.fixture(scope="module")
def given(static_model, reranker, tmp_path_factory):
    return Given(static_model, reranker, tmp_path_factory)


# ---- making answers -------------------------------------------------------------------------------------------------


def run(step, rows):
    """Return the columns that a step changes or adds."""
    after = rows.map(step, batched=True, batch_size=32)
    before, now = (dataset.with_format("arrow")[:] for dataset in (rows, after))
    same_columns = [name for name in rows.column_names if name in now.column_names and before[name].equals(now[name])]
    return after.select_columns([name for name in after.column_names if name not in same_columns])


def shape(step, rows):
    """Return the rows for a trainer, without the columns that the shape does not know."""
    return rows.map(step, batched=True, batch_size=32, remove_columns=rows.column_names)


def plain(value):
    """Return nested plain values as rows: where a value stands, and what it is."""
    rows = [{"at": at, "text": text, "number": number} for at, text, number in leaves(value, "")]
    return Dataset(pa.Table.from_pylist(rows, pa.schema({"at": pa.string(), "text": pa.string(), "number": "double"})))


def leaves(value, at):
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from leaves(one, f"{at}/{name}")
    elif isinstance(value, (list, tuple)):
        for place, one in enumerate(value):
            yield from leaves(one, f"{at}/{place}")
    elif isinstance(value, (float, np.floating)):
        yield at, None, float(value)
    else:
        yield at, str(value), None


def passages(corpus):
    return Dataset(pa.table(corpus.columns))


def loaded(pair):
    corpus, rows = pair
    return [passages(corpus), rows]


def hits(index, queries, k):
    found = index.search(queries, k)
    return Dataset.from_dict({"rows": found.rows.tolist(), "scores": found.scores.tolist()})


def live(rows, *args, **options):
    """Return what the rows of training are in the first epoch."""
    columns = live_negatives(rows, *args, **options)[:]
    return Dataset.from_dict(
        {name: [getattr(one, "tolist", lambda one=one: one)() for one in columns[name]] for name in columns}
    )


def beir(given, form, *, broken=False):
    """Write a part of the sample in BEIR's form: as lines, as Parquet, or as a clone of a set of the Hub."""
    folder = given.folder()
    used = {name for names in given.rows.select(range(60))["positive_ids"] for name in names}
    ids = given.corpus.columns["id"].to_pylist()
    stay = [place for place, name in enumerate(ids) if name in used or place % 20 == 0]
    corpus = passages(given.corpus).select(stay).rename_column("id", "_id")
    queries = given.rows.select(range(60)).select_columns(["query_id", "query"])
    queries = queries.rename_columns({"query_id": "_id", "query": "text"})
    known = {ids[place] for place in stay}
    asked = set(queries["_id"])
    qrels = given.qrels.filter(lambda row: row["query_id"] in asked and row["corpus_id"] in known).to_list()
    qrels = [{"query-id": row["query_id"], "corpus-id": row["corpus_id"], "score": row["score"]} for row in qrels]
    if broken:
        qrels.append({"query-id": qrels[0]["query-id"], "corpus-id": "nowhere", "score": 1})
    parts = {"train": qrels[: len(qrels) // 2], "test": qrels[len(qrels) // 2 :]}
    if form == "parquet":
        rows = [row | {"split": split} for split, part in parts.items() for row in part]
        for name, dataset in (("corpus", corpus), ("queries", queries), ("qrels", Dataset.from_list(rows))):
            dataset.to_parquet(folder / f"{name}.parquet")
        return folder
    at = folder / "data" if form == "clone" else folder
    (at / "qrels").mkdir(parents=True)
    corpus.to_json(at / "corpus.jsonl")
    queries.to_json(at / "queries.jsonl")
    for split, part in parts.items():
        Dataset.from_list(part).to_csv(at / "qrels" / f"{split}.tsv", sep="\t", index=False)
        if form == "clone":
            Dataset.from_list(part).to_json(at / "qrels" / f"{split}.jsonl")
    if form == "clone":
        lines = ["---", "configs:"]
        files = {"corpus": {"corpus": "corpus"}, "queries": {"queries": "queries"}}
        files["default"] = {split: f"qrels/{split}" for split in parts}
        for name, splits in files.items():
            lines += [f"- config_name: {name}", "  data_files:"]
            lines += [f"  - split: {split}\n    path: data/{path}.jsonl" for split, path in splits.items()]
        (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


def card(given, rows, *, anew=False, **options):
    """Return the lines of a card, but for versions, sizes in bytes and the signature."""
    folder = given.folder() / "set"
    save_mined(rows, folder, language="en", **options)
    if anew:
        write_card(folder, name="Another name", license="cc-by-4.0")
    text = (folder / "README.md").read_text().replace(given.corpus.fingerprint, "FINGERPRINT")
    unsure = re.compile(r"\| [\w\\-]+ \| \d+\.[\w.+]* \|$|.*(num_bytes|_size):|<!-- hnm_datasets card")
    return Dataset.from_dict({"line": [line for line in text.splitlines() if not unsure.match(line)]})


def stream(given):
    folder = given.folder()
    found = given.rows.to_iterable_dataset().with_format("arrow").map(BM25Negatives(given.corpus, k=4), batched=True)
    write_stream(found, folder)
    return load_dataset(str(folder), split="train").remove_columns(["query", "positive_ids"])


def mine(given, **options):
    pairs = given.pairs.remove_columns("key")
    if "cross_encoder" in options:
        pairs = pairs.select(range(30))
    return mine_hard_negatives(pairs, given.model, verbose=False, **options)


# ---- the cases ------------------------------------------------------------------------------------------------------

FORMS = ("mined", "triplets", "n-tuples", "labeled-pairs", "labeled-lists", "tevatron", "flagembedding")
SHAPES = {
    "triplets": ToTriplets,
    "n-tuples": ToNTuples,
    "labeled-pairs": ToLabeledPairs,
    "labeled-lists": ToLabeledLists,
}
OUTPUTS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")
AGAINST = ("min", "max", "mean", "each")


def miners():
    def bm25(g, k=8, exclude_group=False, **options):
        return run(
            BM25Negatives(g.corpus, k=k, exclude_group=exclude_group, index=BM25Index(g.corpus, **options)), g.rows
        )

    def dense(g, *index, k=6, model=None, **options):
        more = {} if model is None else {"fingerprint": "answers-words-1"}
        embeddings = g.corpus.embed(model or g.model, **more, **options)
        step = DenseNegatives(g.corpus, model or g.model, k=k, index=DenseIndex(embeddings, *index), **more)
        return run(step, g.rows)

    found = {
        "bm25": lambda g: run(BM25Negatives(g.corpus, k=12), g.rows),
        "bm25-group": lambda g: run(BM25Negatives(g.corpus, k=12, exclude_group=True), g.first),
        "bm25-words": lambda g: bm25(g, k=5, stemmer=None, stopwords=["the", "of"]),
        "bm25-no-stopwords": lambda g: bm25(g, stopwords=None, k1=0.9, b=0.4),
        "bm25-pattern": lambda g: bm25(g, token_pattern=r"[a-z]+", exclude_group=True),
        "bm25-search": lambda g: hits(BM25Index(g.corpus), g.rows["query"][:50], 7),
        "bm25-deep": lambda g: run(BM25Negatives(g.corpus, k=300), g.rows.select(range(20))),
        "random": lambda g: run(RandomNegatives(g.corpus, k=6, seed=3), g.rows),
        "random-group": lambda g: run(RandomNegatives(g.corpus, k=9, exclude_group=True, seed=0), g.first),
        "random-by-query": lambda g: run(RandomNegatives(g.corpus, k=6, seed=3), g.rows.remove_columns("query_id")),
        "dense": lambda g: run(DenseNegatives(g.corpus, g.model, k=6), g.rows),
        "dense-group": lambda g: run(DenseNegatives(g.corpus, g.model, k=6, exclude_group=True), g.first),
        "dense-flat": lambda g: dense(g, "Flat"),
        "dense-hnsw": lambda g: dense(g, "HNSW32", None, None, 400),
        "dense-ivf": lambda g: dense(g, "IVF16,Flat", None, 16),
        "dense-prompts": lambda g: run(
            DenseNegatives(
                g.corpus,
                g.model,
                k=5,
                query_prompt="query: ",
                index=DenseIndex(g.corpus.embed(g.model, prompt="passage: ")),
            ),
            g.rows,
        ),
        "fuse-rrf": lambda g: run(FuseNegatives(_sources(g), "rrf"), g.rows),
        "fuse-rrf-k": lambda g: run(FuseNegatives(_sources(g), "rrf", 5), g.rows),
        "fuse-interleave": lambda g: run(FuseNegatives(_sources(g), "interleave", 7), g.rows),
        "fuse-union": lambda g: run(FuseNegatives(_sources(g), "union"), g.rows),
        "fuse-three": lambda g: run(
            FuseNegatives({**_sources(g), "random": RandomNegatives(g.corpus, k=3, seed=1)}, "rrf"), g.rows
        ),
        "write-stream": stream,
    }
    for method in ("lucene", "robertson", "atire", "bm25l", "bm25+"):
        found[f"bm25-{method}"] = lambda g, method=method: bm25(g, method=method)
    for similarity in ("cosine", "dot", "euclidean"):
        found[f"dense-{similarity}"] = lambda g, similarity=similarity: dense(
            g, model=word_vectors, similarity=similarity
        )
    found["dense-unscaled"] = lambda g: dense(g, model=word_vectors, similarity="dot", normalize=True)
    found["dense-float16"] = lambda g: Dataset.from_dict(
        {"vectors": g.corpus.embed(word_vectors, dtype="float16", fingerprint="answers-words-1").vectors[:50].tolist()}
    )
    found["embeddings"] = lambda g: Dataset.from_dict({"vectors": g.embeddings.vectors[:50].tolist()})
    found["bm25-parts"] = lambda g: run(
        BM25Negatives(g.corpus, k=8, index=ShardedIndex([_bm25_part(g.corpus, (i, 3)) for i in range(3)])), g.rows
    )
    found["dense-parts"] = lambda g: run(
        DenseNegatives(
            g.corpus,
            g.model,
            k=6,
            index=ShardedIndex([DenseIndex(g.embeddings, "Flat", None, None, None, (i, 3)) for i in range(3)]),
        ),
        g.rows,
    )
    return found


def _bm25_part(corpus, part):
    return BM25Index(corpus, "lucene", 1.5, 0.75, 0.5, "english", "english", r"(?u)\b\w\w+\b", part)


def _sources(g):
    return {"bm25": BM25Negatives(g.corpus, k=6), "dense": DenseNegatives(g.corpus, g.model, k=4)}


def scorers():
    def cross(g, model, **options):
        return run(CrossEncoderScores(g.corpus, model, **options), g.mined if model is shared_words else g.few)

    return {
        "scores-bi-encoder": lambda g: run(BiEncoderScores(g.corpus, g.model, name="student"), g.mined),
        "scores-bi-encoder-embeddings": lambda g: run(
            BiEncoderScores(g.corpus, g.model, name="student", embeddings=g.embeddings), g.mined
        ),
        "scores-bi-encoder-prompts": lambda g: run(
            BiEncoderScores(g.corpus, g.model, name="student", query_prompt="query: ", prompt="passage: "), g.mined
        ),
        "scores-bi-encoder-dot": lambda g: run(
            BiEncoderScores(
                g.corpus,
                word_vectors,
                name="words",
                embeddings=g.corpus.embed(word_vectors, similarity="dot", fingerprint="answers-words-1"),
                fingerprint="answers-words-1",
            ),
            g.mined,
        ),
        "scores-bi-encoder-function": lambda g: run(
            BiEncoderScores(g.corpus, word_vectors, name="words", fingerprint="answers-words-1"), g.mined
        ),
        "scores-cross-encoder-function": lambda g: cross(g, shared_words, name="teacher", fingerprint="shared-words-1"),
        "scores-cross-encoder": lambda g: cross(g, g.reranker, name="teacher"),
        "scores-cross-encoder-sigmoid": lambda g: cross(g, g.reranker, name="teacher", activation="sigmoid"),
        "scores-cross-encoder-none": lambda g: cross(g, g.reranker, name="judge", activation="none", batch_size=15),
    }


def filters():
    def on_mined(step):
        return lambda g: run(step, g.mined)

    def on_scored(step):
        return lambda g: run(step, g.scored)

    found = {
        "rank-window": on_mined(RankWindow(2, 9)),
        "rank-window-open": on_mined(RankWindow(4)),
        "rank-window-fused": lambda g: run(RankWindow(2, 5), g.fused),
        "score-band": on_mined(ScoreBand(3.0, 9.0, by="score")),
        "score-band-low": on_mined(ScoreBand(5.0, by="score")),
        "score-band-high": on_mined(ScoreBand(None, 6.5, by="score")),
        "score-band-teacher": on_scored(ScoreBand(2.0, 5.0, by="teacher")),
        "threshold": on_scored(TeacherThreshold(5.0, by="teacher")),
        "threshold-score": on_mined(TeacherThreshold(7.0, by="score")),
        "threshold-promote": on_scored(TeacherThreshold(4.0, 6.0, by="teacher", promote=True)),
        "threshold-promote-score": on_mined(TeacherThreshold(7.0, 9.0, by="score", promote=True)),
        "top": on_mined(TopNegatives(4)),
        "top-scored": on_scored(TopNegatives(1)),
        "top-gaps": lambda g: run(TopNegatives(2), g.gaps),
        "sort-score": lambda g: run(SortNegatives("score"), g.fused.map(SortNegatives("bm25"), batched=True)),
        "sort-teacher": on_scored(SortNegatives("teacher")),
        "sort-random": lambda g: run(SortNegatives("bm25"), g.fused),
        "margin-fused": lambda g: run(RelativeMargin(0.1, by="bm25", against="min"), g.fused),
        "margin-gaps": lambda g: run(AbsoluteMargin(1.0, by="score", against="min"), g.gaps),
    }
    for threshold in (0.1, 0.3, 0.5):
        found[f"near-duplicates-{threshold}"] = lambda g, threshold=threshold: run(
            DropNearDuplicates(g.corpus, threshold), g.mined
        )
    for against in AGAINST:
        found[f"margin-absolute-{against}"] = on_mined(AbsoluteMargin(0.5, by="score", against=against))
        found[f"margin-relative-{against}"] = on_mined(RelativeMargin(0.05, by="score", against=against))
        found[f"margin-absolute-teacher-{against}"] = on_scored(AbsoluteMargin(1.0, by="teacher", against=against))
        found[f"margin-relative-teacher-{against}"] = on_scored(RelativeMargin(0.15, by="teacher", against=against))
    return found


def samplers():
    def on_scored(n, **options):
        return lambda g: run(SampleNegatives(n, **{"by": "score", "seed": 1} | options), g.scored)

    return {
        "sample-uniform": on_scored(4),
        "sample-uniform-seed": on_scored(4, seed=2),
        "sample-uniform-by-query": lambda g: run(
            SampleNegatives(4, by="score", seed=1), g.mined.remove_columns("query_id")
        ),
        "sample-softmax": on_scored(4, strategy="softmax", temperature=2.0),
        "sample-softmax-teacher": on_scored(3, strategy="softmax", temperature=0.7, by="teacher"),
        "sample-simans": on_scored(4, strategy="simans", a=0.5, b=-1.0),
        "sample-simans-teacher": on_scored(3, strategy="simans", by="teacher"),
        "sample-simans-gaps": lambda g: run(SampleNegatives(2, strategy="simans", by="score", seed=1), g.gaps),
        "sample-by-source": lambda g: run(SampleNegatives({"bm25": 2, "random": 3}, by="score", seed=1), g.fused),
        "sample-by-source-softmax": lambda g: run(
            SampleNegatives({"random": 1, "bm25": 2}, strategy="softmax", by="bm25", seed=1), g.fused
        ),
        "sample-by-rank": on_scored({(1, 4): 1, (5, math.inf): 3}),
        "sample-by-score": on_scored({(0, 6): 2, (5, 30): 2}, bands="score", strategy="softmax"),
        "sample-by-teacher": on_scored({(0, 3): 2, (4, 30): 1}, bands="teacher"),
    }


def shapes():
    found = {}
    for name, make in SHAPES.items():
        lists = name == "labeled-lists"
        for positives in ("each", "first", "random", *(["all"] if lists else [])):
            found[f"{name}-{positives}"] = lambda g, make=make, positives=positives: shape(
                make(g.corpus, 2, positives=positives, seed=5), g.mined
            )
        for missing in ("drop", "keep", "pad"):
            found[f"{name}-missing-{missing}"] = lambda g, make=make, missing=missing: shape(
                make(g.corpus, 3, missing=missing, with_ids=True, with_scores=True), g.gaps
            )
        found[f"{name}-teacher"] = lambda g, make=make: shape(
            make(g.corpus, 3, with_ids=True, with_scores="teacher"), g.scored
        )
        found[f"{name}-kept"] = lambda g, make=make: g.gaps.map(make(g.corpus, 2), batched=True)
        if name != "n-tuples":
            found[f"{name}-every"] = lambda g, make=make: shape(make(g.corpus), g.gaps)
        for labels in ("scores",) if name.startswith("labeled") else ("scores", "margins"):
            for by in ("score", "teacher"):
                found[f"{name}-labels-{labels}-{by}"] = lambda g, make=make, labels=labels, by=by: shape(
                    make(g.corpus, 3, labels=labels, by=by), g.scored
                )
            found[f"{name}-labels-{labels}-pad"] = lambda g, make=make, labels=labels: shape(
                make(g.corpus, 3, missing="pad", labels=labels, by="score"), g.gaps
            )
    return found


def loaders():
    def passages_of_groups(g):
        table = passages(g.corpus).select(range(50)).rename_columns({"id": "name", "text": "body", "title": "head"})
        return passages(
            Corpus.from_dataset(table, id_column="name", text_column="body", title_column="head", group_column=None)
        )

    return {
        "load-sample": lambda g: loaded(load_sample()),
        "load-sample-earthquakes": lambda g: loaded(load_sample("earthquakes")),
        "load-beir-lines": lambda g: loaded(load_beir(beir(g, "lines"))),
        "load-beir-lines-test": lambda g: loaded(load_beir(beir(g, "lines"), "test", min_score=2)),
        "load-beir-parquet": lambda g: loaded(load_beir(beir(g, "parquet"))),
        "load-beir-parquet-test": lambda g: loaded(load_beir(beir(g, "parquet"), "test", group_column=None)),
        "load-beir-clone": lambda g: loaded(load_beir(beir(g, "clone"), "test")),
        "load-beir-broken": lambda g: loaded(load_beir(beir(g, "lines", broken=True), "test", invalid="drop")),
        "attach-positives": lambda g: attach_positives(g.rows.remove_columns("positive_ids"), g.qrels),
        "attach-positives-two": lambda g: attach_positives(g.rows.remove_columns("positive_ids"), g.qrels, 2),
        "from-pairs": lambda g: loaded(from_pairs(g.pairs, "question", "answer")),
        "from-pairs-passages": lambda g: loaded(
            from_pairs(g.pairs, "question", "answer", passages=g.texts[1].to_pylist()[:300])
        ),
        "corpus-columns": passages_of_groups,
        "corpus-texts": lambda g: Dataset.from_dict(dict(zip(("id", "text"), g.texts, strict=True))),
    }


def conversions():
    found = {
        f"convert-{source}-{to}": lambda g, source=source, to=to: convert(g.forms[source], to, g.corpus)
        for source in FORMS
        for to in FORMS
        if source != to
    }
    for source, to in (("tevatron", "triplets"), ("triplets", "tevatron"), ("labeled-lists", "flagembedding")):
        found[f"convert-{source}-{to}-alone"] = lambda g, source=source, to=to: convert(g.forms[source], to)
    for name, make in SHAPES.items():
        for to in ("mined", "tevatron"):
            # Texts alone, as sentence-transformers has them.
            found[f"convert-texts-{name}-{to}"] = lambda g, make=make, to=to: convert(
                shape(make(g.corpus, 2), g.mined), to, g.corpus
            )
    found["convert-gaps-labeled-lists"] = lambda g: convert(g.gaps, "labeled-lists", g.corpus)
    found["convert-gaps-triplets"] = lambda g: convert(g.gaps, "triplets", g.corpus)
    return found


def functions():
    def margin(target, **options):
        return lambda g: plain(calibrate_margin(g.hidden, g.qrels, target, **options)._asdict())

    def threshold(target, **options):
        return lambda g: plain(calibrate_threshold(g.hidden, g.qrels, target, **options)._asdict())

    def judged(g):
        return audit_negatives(g.hidden, g.corpus, judgments=g.qrels)

    found = {
        "live": lambda g: live(g.scored, g.corpus, 2),
        "live-first": lambda g: live(g.scored, g.corpus, 3, positives="first", seed=4),
        "live-teacher": lambda g: live(g.scored, g.corpus, 2, teacher="teacher", max_positives=20),
        "live-gaps": lambda g: live(g.gaps, g.corpus, 3),
        "calibrate-margin-absolute": margin(0.04, n=3, relative=False, by="score"),
        "calibrate-margin-judged": margin(0.15, by="score", unjudged="skip"),
        "calibrate-margin-teacher": margin(0.03, n=2, by="teacher", against="mean"),
        "calibrate-threshold": threshold(0.02, by="teacher"),
        "calibrate-threshold-n": threshold(0.03, n=2, by="score"),
        "calibrate-threshold-judged": threshold(0.15, by="score", unjudged="skip"),
        "audit": lambda g: plain(audit_negatives(g.mined, g.corpus).to_dict()),
        "audit-judged": lambda g: plain(judged(g).to_dict()),
        "audit-teacher": lambda g: plain(audit_negatives(g.scored, g.corpus, teacher="teacher").to_dict()),
        "audit-threshold": lambda g: plain(
            audit_negatives(g.scored, g.corpus, teacher="teacher", threshold=5.0).to_dict()
        ),
        "audit-step": lambda g: plain(
            audit_negatives(
                g.mined,
                g.corpus,
                teacher=CrossEncoderScores(g.corpus, shared_words, name="teacher", fingerprint="shared-words-1"),
            ).to_dict()
        ),
        "audit-sample": lambda g: plain(audit_negatives(g.fused, g.corpus, sample=20, seed=1).to_dict()),
        "audit-gaps": lambda g: plain(audit_negatives(g.gaps, g.corpus).to_dict()),
        "audit-markdown": lambda g: Dataset.from_dict({"line": judged(g).to_markdown().splitlines()}),
        "compare": lambda g: plain(compare_negatives(g.mined, g.hidden, g.corpus, by="score").to_dict()),
        "compare-sources": lambda g: plain(compare_negatives(g.mined, g.fused, g.corpus, sample=50).to_dict()),
        "compare-forms": lambda g: plain(compare_negatives(g.forms["mined"], g.forms["triplets"], g.corpus).to_dict()),
        "explain": lambda g: plain([explain(g.scored[place], g.corpus).to_dict() for place in range(0, 60, 12)]),
        "explain-steps": lambda g: plain(
            explain(
                g.scored[8],
                g.corpus,
                [RankWindow(2, 9), AbsoluteMargin(0.5, by="score"), DropNearDuplicates(g.corpus, 0.3)],
            ).to_dict()
        ),
        "card-triplets": lambda g: card(
            g,
            shape(ToTriplets(g.corpus, 2), g.mined),
            steps=["BM25", "two triplets"],
            corpus=g.corpus,
            license="mit",
            source="https://example.org/set",
        ),
        "card-mined": lambda g: card(g, g.mined, corpus=g.corpus, name="Mined", judgments=g.qrels),
        "card-anew": lambda g: card(g, g.forms["tevatron"], anew=True),
    }
    for name in FORMS[1:]:
        found[f"audit-{name}"] = lambda g, name=name: plain(audit_negatives(g.forms[name]).to_dict())
    for against in AGAINST:
        found[f"calibrate-margin-{against}"] = margin(0.04, n=3, relative=True, by="score", against=against)
    return found


def one_call():
    found = {
        "mine-margins": lambda g: mine(g, absolute_margin=0.02, relative_margin=0.05, output_scores=True),
        "mine-band": lambda g: mine(g, max_score=0.7, min_score=0.2, num_negatives=5),
        "mine-range": lambda g: mine(g, range_min=2, range_max=20, relative_margin=0.1),
        "mine-corpus": lambda g: mine(g, corpus=g.texts[1].to_pylist()[::2], query_prompt="question: "),
        "mine-positives": lambda g: mine(g, include_positives=True, output_format="n-tuple"),
        "mine-positives-scores": lambda g: mine(g, include_positives=True, output_format="n-tuple", output_scores=True),
        "mine-columns": lambda g: mine_hard_negatives(
            g.pairs, g.model, "question", "answer", keep_columns=True, verbose=False
        ),
        "mine-reranked-margin": lambda g: mine(g, cross_encoder=g.reranker, absolute_margin=0.01, range_max=15),
        "mine-reranked-positives": lambda g: mine(
            g, cross_encoder=g.reranker, include_positives=True, output_format="n-tuple"
        ),
    }
    for output in OUTPUTS:
        options = {
            "": {},
            "-scores": {"output_scores": True},
            "-random": {"sampling_strategy": "random", "range_max": 20, "seed": 2},
            "-reranked": {"cross_encoder": None, "output_scores": True, "range_max": 12},
        }
        for name, more in options.items():
            found[f"mine-{output}{name}"] = lambda g, output=output, more=more: mine(
                g,
                output_format=output,
                **{name: g.reranker if name == "cross_encoder" else value for name, value in more.items()},
            )
    return found


CASES = miners() | scorers() | filters() | samplers() | shapes() | loaders() | conversions() | functions() | one_call()


# ---- digests --------------------------------------------------------------------------------------------------------


def kind(type_):
    """Name an Arrow type, without the names of lists' items, which depend on the version."""
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return f"list<{kind(type_.value_type)}>"
    if pa.types.is_struct(type_):
        return f"struct<{', '.join(f'{field.name}: {kind(field.type)}' for field in type_)}>"
    return str(type_)


def without_floats(value, floats):
    """Return plain values as they are, but for finite floats, which are put into a list."""
    if isinstance(value, list):
        return [without_floats(one, floats) for one in value]
    if isinstance(value, dict):
        return {name: without_floats(one, floats) for name, one in value.items()}
    if isinstance(value, float):
        if math.isfinite(value):
            floats.append(value)
            return "~"
        return repr(value)
    return value


def digest(dataset, name):
    """Return the digest of a column: of what is exact; and of numbers the magnitude, the sum and a weighted sum."""
    column = dataset.with_format("arrow")[:][name]
    values, floats = column.to_pylist(), []
    told = without_floats(values, floats)
    if all(one.is_integer() for one in floats):
        told, floats = values, []
    exact = hashlib.sha256(json.dumps([kind(column.type), told]).encode()).hexdigest()[:12]
    if not floats:
        return exact
    numbers = np.array(floats)
    weights = np.arange(1, len(numbers) + 1) * 0.6180339887498949 % 1
    sums = np.abs(numbers).sum(), numbers.sum(), (weights * numbers).sum()
    return [exact, *(float(f"{one:.8g}") for one in sums)]


def answer(name, given):
    """Return the digest of each column of a case's answer."""
    found = CASES[name](given)
    if isinstance(found, Dataset):
        return {column: digest(found, column) for column in found.column_names}
    return {
        f"{place}/{column}": digest(dataset, column)
        for place, dataset in enumerate(found)
        for column in dataset.column_names
    }


def same(recorded, found):
    """Tell whether two digests of a column agree; None is a column that is not there."""
    if not isinstance(recorded, list) or not isinstance(found, list):
        return recorded == found
    close = [abs(one - other) <= TOLERANCE * recorded[1] for one, other in zip(recorded[1:], found[1:], strict=True)]
    return recorded[0] == found[0] and all(close)


def difference(recorded, found):
    """Say of each column what changed; empty if nothing did."""
    lines = []
    for column in {**recorded, **found}:
        before, now = recorded.get(column), found.get(column)
        if same(before, now):
            continue
        if before is None or now is None:
            lines.append(f"the column {column!r} is {'new' if before is None else 'missing, or was not changed'}")
        elif isinstance(before, list) and isinstance(now, list) and before[0] == now[0]:
            lines.append(f"the numbers in {column!r} changed: magnitude, sum, weighted sum {before[1:]} -> {now[1:]}")
        else:
            lines.append(f"the column {column!r} changed: its type, its values or the lengths of its lists")
    if not lines and list(recorded) != list(found):
        lines.append(f"the order of the columns changed: {list(recorded)} -> {list(found)}")
    return lines


# ---- the tests ------------------------------------------------------------------------------------------------------


def read():
    return json.loads(PATH.read_text()) if PATH.exists() else {}


@pytest.fixture(scope="module")
def answers():
    """The recorded answers; when recording, a dict to fill, which is written at the end."""
    if not RECORDING:
        yield read()
        return
    found = {name: one for name, one in read().items() if name in CASES}
    yield found
    lines = [f"{json.dumps(name)}:{json.dumps(found[name], separators=(',', ':'))}" for name in sorted(found)]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")


#: Answers that depend on the random weights of a new cross-encoder.
OF_NEWER_VERSIONS = re.compile(r"scores-cross-encoder|mine-.*rerank")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=older_versions.needs("transformers", "5.23", "it draws other weights"))
        if OF_NEWER_VERSIONS.match(name)
        else name
        for name in CASES
    ],
)
def test_answer(given, answers, name):
    found = answer(name, given)
    if RECORDING:
        answers[name] = found
        return
    assert name in answers, f"{name}: no answer is recorded. Record it: HNM_RECORD=1 python -m pytest {__file__}"
    lines = difference(answers[name], found)
    assert not lines, "\n".join([f"The case {name!r} has another answer:", *(f"- {line}" for line in lines), AGAIN])


def test_the_recorded_answers_are_those_of_the_cases():
    if RECORDING:
        pytest.skip("The file is written after this.")
    recorded = list(read())
    assert recorded == sorted(CASES), f"Cases were added, removed or renamed. {AGAIN}"


def test_a_change_is_noticed():
    rows = {"ids": [["a", "b"], []], "scores": [[0.5, 0.25], []], "labels": [1.0, 0.0]}
    before = {name: digest(Dataset.from_dict(rows), name) for name in rows}
    changes = {
        "ids": [["b", "a"], []],
        "scores": [[0.25, 0.5], []],
        "labels": [0.0, 1.0],
    }
    for name, values in changes.items():
        after = {column: digest(Dataset.from_dict(rows | {name: values}), column) for column in rows}
        (line,) = difference(before, after)
        assert f"{name!r} changed" in line
    assert not difference(before, dict(before))
    assert "missing" in difference(before, {"ids": before["ids"], "scores": before["scores"]})[0]
    assert "order" in difference(before, dict(reversed(before.items())))[0]
    near = {"scores": [[0.5 + 1e-7, 0.25], []]}
    assert not difference(before, before | {"scores": digest(Dataset.from_dict(near), "scores")})
