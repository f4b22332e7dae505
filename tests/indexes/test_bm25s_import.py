"""Indexes that bm25s has built: mining with them is mining with bm25s' own scores, and what does not fit is refused."""

import json
import pickle
import re
import shutil

import bm25s
import huggingface_hub
import numpy as np
import pytest
import Stemmer
import tokenizers
from bm25s.tokenization import Tokenizer
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hnm_datasets import BM25Index, BM25Negatives, Corpus, ShardedIndex, load_sample
from hnm_datasets.storage.manifest import DamagedFolderError

METHODS = ["lucene", "robertson", "atire", "bm25l", "bm25+"]
QUIET = {"show_progress": False}


def corpus_of(texts):
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{i}" for i in range(len(texts))], "text": texts}))


def texts_of(corpus):
    return corpus.texts(np.arange(len(corpus))).to_pylist()


def built(texts, stemmer=None, stopwords="english", **options):
    tokens = bm25s.tokenize(texts, stemmer=stemmer and Stemmer.Stemmer(stemmer), stopwords=stopwords, **QUIET)
    retriever = bm25s.BM25(**options)
    retriever.index(tokens, **QUIET)
    return retriever


def saved(folder, *arguments, **options):
    built(*arguments, **options).save(folder, **QUIET)
    return folder


def best_of_bm25s(retriever, tokens, k):
    """Return the best passages by the scores of bm25s: ties in the order of the corpus, without those that share none.

    The constants of a query, which are added last, are left out: they can make unequal sums equal.
    """
    ids = np.array(retriever.get_tokens_ids(tokens), dtype=int)
    constants, retriever.nonoccurrence_array = retriever.nonoccurrence_array, None
    scores = retriever.get_scores_from_ids(ids)
    retriever.nonoccurrence_array = constants
    rows = np.argsort(-scores, kind="stable")[:k]
    rows = rows[scores[rows] > 0]
    total = np.float32(0) if constants is None else constants[ids].astype(np.float64).sum().astype(np.float32)
    return rows.tolist(), scores[rows] + total


# ---- the same scores -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_mining_is_mining_with_the_scores_of_bm25s(tmp_path, method):
    corpus, queries = load_sample()
    rows = queries.select(range(0, 600, 12))
    saved(tmp_path, texts_of(corpus), "english", method=method, k1=1.2, b=0.6, delta=0.7)
    retriever = bm25s.BM25.load(tmp_path)
    index = BM25Index.from_bm25s(corpus, tmp_path, stemmer="english")
    assert (index.method, index.k1, index.b, index.delta) == (method, 1.2, 0.6, 0.7)
    texts = list(rows["query"])
    tokens = bm25s.tokenize(texts, stemmer=Stemmer.Stemmer("english"), return_ids=False, **QUIET)
    hits = index.search(texts, 30)
    for number, query in enumerate(tokens):
        found, scores = best_of_bm25s(retriever, query, 30)
        assert hits.rows[number, : len(found)].tolist() == found
        np.testing.assert_array_equal(hits.scores[number, : len(found)], scores, strict=True)
        assert (hits.rows[number, len(found) :] == -1).all()
    mined = rows.map(BM25Negatives(corpus, k=5, index=index), batched=True)
    for row, query in zip(mined, tokens, strict=True):
        found, _ = best_of_bm25s(retriever, query, len(corpus))
        ids = corpus.ids(np.array(found)).to_pylist()
        ranks = row["negative_ranks"]
        assert [ids[rank - 1] for rank in ranks] == row["negative_ids"]
        assert not set(row["negative_ids"]) & set(row["positive_ids"])


WORDS = st.sampled_from(["wave", "waves", "Waves", "plate", "quake", "the", "slip", "größe", "ﬁne", "x", "海", "ıs"])
TEXTS = st.lists(st.lists(WORDS, max_size=6).map(" ".join), min_size=1, max_size=20)


@settings(max_examples=40)
@given(TEXTS, TEXTS, st.sampled_from(METHODS), st.sampled_from([None, "english", "german"]), st.booleans())
def test_whatever_the_texts_are(texts, queries, method, stemmer, stop):
    texts = ["waves", *(text or "x y" for text in texts)]
    options = {"stemmer": stemmer, "stopwords": "english" if stop else None}
    retriever, corpus = built(texts, method=method, **options), corpus_of(texts)
    index = BM25Index.from_bm25s(corpus, retriever, **options)
    options["stemmer"] = stemmer and Stemmer.Stemmer(stemmer)
    tokens = bm25s.tokenize(queries, return_ids=False, **options, **QUIET)
    assert index.tokenize(queries) == tokens
    hits = index.search(queries, len(texts))
    for number, query in enumerate(tokens):
        found, scores = best_of_bm25s(retriever, query, len(texts))
        assert hits.rows[number][hits.rows[number] >= 0].tolist() == found
        np.testing.assert_array_equal(hits.scores[number, : len(found)], scores, strict=True)


@pytest.mark.parametrize(
    ("backend", "types"),
    [("scipy", {}), ("numpy", {"dtype": "float64", "int_dtype": "int64"})],
    ids=["scipy", "wide"],
)
def test_other_arrays_of_bm25s(backend, types):
    texts = ["plates move", "waves break on plates", "plates plates", "the"]
    index = BM25Index.from_bm25s(corpus_of(texts), built(texts, csc_backend=backend, **types))
    expected = BM25Index.from_bm25s(corpus_of(texts), built(texts))
    hits, same = index.search(["plates waves"], 4), expected.search(["plates waves"], 4)
    np.testing.assert_array_equal(hits.rows, same.rows)
    np.testing.assert_allclose(hits.scores, same.scores, rtol=1e-6)


def test_another_rarity_counts():
    texts = ["plates move", "waves break on plates", "plates plates", "a quake"]
    one, other = (BM25Index.from_bm25s(corpus_of(texts), built(texts, idf_method=idf)) for idf in (None, "atire"))
    assert one.fingerprint != other.fingerprint
    assert bm25s.BM25.load(other.folder).idf_method == "atire"
    assert one.search(["quake"], 1).scores[0, 0] != other.search(["quake"], 1).scores[0, 0]


def test_an_index_of_lists_of_words():
    texts = ["Plates|move|x", "plates|move", "x"]
    retriever = bm25s.BM25()
    retriever.index([text.split("|") for text in texts], **QUIET)
    index = BM25Index.from_bm25s(
        corpus_of(texts), retriever, tokenizer=lambda text: text.split("|"), tokenizer_fingerprint="bars-1"
    )
    assert index.search(["Plates|x", "plates"], 3).rows.tolist() == [[0, 2, -1], [1, -1, -1]]


def test_an_index_of_subwords():
    vocabulary = {"[UNK]": 0, "plate": 1, "##s": 2, "wave": 3}
    subwords = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    subwords.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    texts = ["plates plate", "waves"]
    retriever = bm25s.BM25()
    retriever.index([subwords.encode(text).tokens for text in texts], **QUIET)
    index = BM25Index.from_bm25s(corpus_of(texts), retriever, tokenizer=subwords)
    assert index.search(["plate", "waves"], 2).rows.tolist() == [[0, -1], [1, 0]]


def test_passages_without_words_are_no_answers():
    texts = ["plates move", "the", "...", "plates"]
    tokenizer = Tokenizer(stopwords=["the"])
    retriever = bm25s.BM25()
    retriever.index(tokenizer.tokenize(texts, return_as="tuple", **QUIET), **QUIET)
    assert retriever.vocab_dict[""] == 0
    index = BM25Index.from_bm25s(corpus_of(texts), retriever, tokenizer=tokenizer)
    assert index.search(["the", "", "plates"], 2).rows.tolist() == [[-1, -1], [-1, -1], [3, 0]]


# ---- the same index everywhere -------------------------------------------------------------------------------------


def test_it_is_named_by_content_and_works_in_workers_and_without_its_source(tmp_path):
    corpus, queries = load_sample("earthquakes")
    texts = texts_of(corpus)
    retriever = built(texts)
    retriever.save(tmp_path / "one", **QUIET)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    indexes = [BM25Index.from_bm25s(corpus, one) for one in (retriever, tmp_path / "one", str(tmp_path / "two"))]
    assert len({index.fingerprint for index in indexes}) == 1
    assert indexes[0] == indexes[1] == indexes[2]
    index = indexes[2]
    others = [
        BM25Index.from_bm25s(corpus, built(texts, k1=1.4)),
        BM25Index.from_bm25s(corpus, built(texts, stopwords=None), stopwords=None),
        BM25Index(corpus, stemmer=None),
    ]
    assert len({index.fingerprint, *(one.fingerprint for one in others)}) == 4
    shutil.rmtree(tmp_path)
    step = BM25Negatives(corpus, k=3, index=index)
    expected = queries.map(step, batched=True)
    assert queries.map(pickle.loads(pickle.dumps(step)), batched=True).cache_files == expected.cache_files
    mined = queries.map(BM25Negatives(corpus, k=3, index=index), batched=True, num_proc=2, load_from_cache_file=False)
    assert mined.to_dict() == expected.to_dict()
    assert BM25Negatives(corpus, k=3, index=others[0]) != step
    assert index.imported in repr(step)
    # The kept folder is one of bm25s, too.
    again = BM25Index.from_bm25s(corpus, index.folder)
    np.testing.assert_array_equal(again.search(["plates"], 9).scores, index.search(["plates"], 9).scores)
    with pytest.raises(ValueError, match="got an index of the whole corpus"):
        ShardedIndex([index])


def test_a_lost_or_damaged_copy_says_what_to_do(tmp_path):
    texts = ["plates were lost", "waves were damaged"]
    corpus, retriever = corpus_of(texts), built(texts)
    index = BM25Index.from_bm25s(corpus, retriever)
    path = index.folder / "data.csc.index.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFolderError, match=r"Repeat BM25Index\.from_bm25s"):
        index.search(["plates"], 1)
    shutil.rmtree(path.parent)
    with pytest.raises(FileNotFoundError, match=r"Repeat BM25Index\.from_bm25s.*HF_DATASETS_CACHE"):
        pickle.loads(pickle.dumps(index)).prepare()
    assert BM25Index.from_bm25s(corpus, retriever).search(["plates"], 1).rows.tolist() == [[0]]


# ---- tokens --------------------------------------------------------------------------------------------------------


def bars(text):
    return text.split("|")


def shortened(word):
    return word[:4]


TOKENIZERS = {
    "default": ({}, None),
    "stemmer": ({"stemmer": Stemmer.Stemmer("english"), "stopwords": None}, None),
    "german": ({"stemmer": Stemmer.Stemmer("german").stemWord, "stopwords": "german"}, None),
    "words": ({"stopwords": ["plates", "The"], "splitter": r"\w+"}, None),
    "case": ({"lower": False}, None),
    "function": ({"splitter": bars, "stemmer": shortened, "stopwords": ["wave"]}, "bars-1"),
}
SENTENCES = ["The plates are moving", "Wave|waves|Plates", "running waves broke", "größere Häuser brechen", "plates"]


@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_the_tokenizer_of_bm25s_is_taken(kind, tmp_path):
    options, name = TOKENIZERS[kind]
    tokenizer = Tokenizer(**options)
    retriever = bm25s.BM25()
    retriever.index(tokenizer.tokenize(SENTENCES, return_as="tuple", **QUIET), **QUIET)
    corpus = corpus_of(SENTENCES)
    index = BM25Index.from_bm25s(corpus, retriever, tokenizer=tokenizer, tokenizer_fingerprint=name)
    queries = ["The plates move", "wave|Plates", "Haus brechend", "running"]
    expected = [[token for token in one if token] for one in Tokenizer(**options).tokenize(
        queries, return_as="string", update_vocab=True, **QUIET)]  # fmt: skip
    assert index.tokenize(queries) == expected
    assert pickle.loads(pickle.dumps(index)).tokenize(queries) == expected
    if name is None and kind not in ("words", "case"):
        # Saved beside the index, it says the same.
        retriever.save(tmp_path, **QUIET)
        tokenizer.save_vocab(tmp_path)
        tokenizer.save_stopwords(tmp_path)
        assert BM25Index.from_bm25s(corpus, tmp_path) == index


def test_what_is_given_counts_more_than_what_is_saved(tmp_path):
    texts = ["plates move", "waves are breaking"]
    saved(tmp_path, texts, stopwords=None)
    Tokenizer(stopwords="english").save_stopwords(tmp_path)
    with pytest.raises(ValueError, match="does not match the corpus"):
        BM25Index.from_bm25s(corpus_of(texts), tmp_path)
    assert BM25Index.from_bm25s(corpus_of(texts), tmp_path, stopwords=None).search(["are"], 1).rows.tolist() == [[1]]


@pytest.mark.parametrize(
    "options", [{"splitter": bars}, {"stemmer": shortened}, {"splitter": re.compile("X", re.I).findall}]
)
def test_a_tokenizer_with_functions_needs_a_name(options):
    with pytest.raises(ValueError, match=r"which cannot be fingerprinted.*tokenizer_fingerprint='\.\.\.'"):
        BM25Index.from_bm25s(corpus_of(SENTENCES), built(SENTENCES), tokenizer=Tokenizer(**options))


# ---- what does not fit ---------------------------------------------------------------------------------------------

TEXTS_OF_PLATES = ["plates are moving", "waves break", "a quake shakes plates"]


@pytest.mark.parametrize(
    ("texts", "options", "match"),
    [
        (TEXTS_OF_PLATES[:2], {}, r"the index has 3 passages, but the corpus has 2\. Row i of the index must be"),
        (TEXTS_OF_PLATES[::-1], {}, r"2 of 3 sampled passages have different tokens\. For 'p0' \(row 0\)"),
        (
            TEXTS_OF_PLATES,
            {"stemmer": "en"},
            r"For 'p0' .*only the index has \['moving'.* corpus has \['move', .*stemmer=",
        ),
        (TEXTS_OF_PLATES, {"stopwords": None}, r"For 'p0' \(row 0\), only the index has none .*corpus has \['are'\]"),
        (
            TEXTS_OF_PLATES,
            {"token_pattern": "[a-z]{1,5}"},
            r"For 'p0' .*index has \['moving', .*corpus has \['g', 'movin'",
        ),
        (
            [*TEXTS_OF_PLATES[:2], "magma"],
            {},
            r"For 'p2' \(row 2\), .*'plates', 'quake'.* corpus has \['magma'\].*title_col",
        ),
        (TEXTS_OF_PLATES, {"stemmer": "klingon"}, "stemmer must be one of"),
        (TEXTS_OF_PLATES, {"tokenizer": bars}, "tokenizer_fingerprint"),
        (TEXTS_OF_PLATES, {"tokenizer": Tokenizer(), "stemmer": None}, "remove stemmer: the bm25s tokenizer already"),
    ],
)
def test_a_corpus_and_options_that_do_not_fit_are_refused(texts, options, match):
    with pytest.raises(ValueError, match=match):
        BM25Index.from_bm25s(corpus_of(texts), built(TEXTS_OF_PLATES), **options)


def test_titles_are_part_of_the_texts():
    columns = {"id": ["a", "b"], "title": ["Plates", "Waves"], "text": ["move", "break"]}
    corpus, retriever = Corpus.from_dataset(Dataset.from_dict(columns)), built(columns["text"])
    with pytest.raises(ValueError, match=r"corpus has \['plates'\].*title_column=None"):
        BM25Index.from_bm25s(corpus, retriever)
    without = Corpus.from_dataset(Dataset.from_dict(columns), title_column=None)
    assert BM25Index.from_bm25s(without, retriever).search(["move"], 1).rows.tolist() == [[0]]


def test_other_arguments_are_refused(tmp_path):
    corpus = corpus_of(TEXTS_OF_PLATES)
    with pytest.raises(TypeError, match=r"from_bm25s: unknown option 'k1'.*stemmer, stopwords"):
        BM25Index.from_bm25s(corpus, built(TEXTS_OF_PLATES), k1=2)
    with pytest.raises(TypeError, match=r"from_bm25s: index must be a bm25s\.BM25, the folder .*got list"):
        BM25Index.from_bm25s(corpus, [])
    with pytest.raises(TypeError, match=r"from_bm25s: corpus must be a Corpus"):
        BM25Index.from_bm25s(TEXTS_OF_PLATES, built(TEXTS_OF_PLATES))
    with pytest.raises(FileNotFoundError, match=r"is not a bm25s index: indptr\.csc\.index\.npy is missing"):
        BM25Index.from_bm25s(corpus, tmp_path)
    with pytest.raises(FileNotFoundError, match="'/no/such/folder' is neither a folder nor a Hub id"):
        BM25Index.from_bm25s(corpus, "/no/such/folder")
    with pytest.raises(ValueError, match="the retriever is not a complete bm25s index"):
        BM25Index.from_bm25s(corpus, bm25s.BM25())


def damage_array(name, change):
    def damage(folder):
        path = folder / f"{name}.csc.index.npy"
        array = np.load(path)
        np.save(path, change(array))

    return damage


def damage_json(name, change):
    def damage(folder):
        path = folder / f"{name}.index.json"
        path.write_text(change(path.read_text("utf-8")), "utf-8")

    return damage


def changed(place, value):
    def change(array):
        array[place] = value
        return array

    return change


def pickled(array):
    return np.array([print], dtype=object)


DAMAGES = {
    "rows beyond": (damage_array("indices", changed(0, 99)), "postings outside its 3 passages"),
    "rows below": (damage_array("indices", changed(0, -1)), "postings outside its 3 passages"),
    "rows twice": (damage_array("indices", changed(slice(None), 1)), "not in ascending order of the passages"),
    "negative scores": (damage_array("data", changed(0, -1)), "scores that are negative, infinite or NaN"),
    "no numbers": (damage_array("data", changed(0, np.nan)), "scores that are negative, infinite or NaN"),
    "infinite scores": (damage_array("data", changed(0, np.inf)), "scores that are negative, infinite or NaN"),
    "fewer scores": (damage_array("data", lambda array: array[1:]), "the lengths of its arrays do not match"),
    "another end": (damage_array("indptr", changed(-1, 99)), "indptr does not match its postings"),
    "backwards": (damage_array("indptr", changed(1, 8)), "indptr does not match its postings"),
    "no tokens": (damage_array("indptr", lambda array: array[:0]), "indptr does not match its postings"),
    "a table": (damage_array("data", lambda array: array[:, None]), "not one-dimensional"),
    "pickled": (damage_array("data", pickled), "cannot be read: Array can't be memory-mapped"),
    "a token too many": (damage_json("vocab", lambda text: text[:-1] + ', "b": 99}'), "token ids outside the index"),
    "no number": (damage_json("vocab", lambda text: text[:-1] + ', "b": "c"}'), "not a complete bm25s index"),
    "a token before": (damage_json("vocab", lambda text: text[:-1] + ', "b": -1}'), "token ids outside the index"),
    "half a character": (damage_json("vocab", lambda text: text[:-1] + ', "\\ud800": 0}'), "unpaired surrogates"),
    "a list": (damage_json("vocab", lambda text: "[]"), "cannot be read"),
    "no vocabulary": (damage_json("vocab", lambda text: "{}"), "load_vocab=True"),
    "half a vocabulary": (damage_json("vocab", lambda text: text[: len(text) // 2]), "cannot be read"),
    "unknown options": (damage_json("params", lambda text: text.replace("k1", "k2")), "cannot be read"),
    "unknown method": (damage_json("params", lambda text: text.replace("lucene", "bm42")), "method must be one of"),
}


@pytest.mark.parametrize("kind", list(DAMAGES))
def test_a_damaged_index_is_refused(tmp_path, kind):
    damage, match = DAMAGES[kind]
    saved(tmp_path, TEXTS_OF_PLATES)
    damage(tmp_path)
    with pytest.raises(ValueError, match=re.escape(match)):
        BM25Index.from_bm25s(corpus_of(TEXTS_OF_PLATES), tmp_path)


@pytest.mark.parametrize("name", ["vocab.tokenizer.json", "stopwords.tokenizer.json"])
def test_a_damaged_tokenizer_is_named(tmp_path, name):
    saved(tmp_path, TEXTS_OF_PLATES)
    for content in ("[1]", "{", "7"):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=rf"{re.escape(name)} is not a file of a bm25s tokenizer"):
            BM25Index.from_bm25s(corpus_of(TEXTS_OF_PLATES), tmp_path)


# ---- the Hub -------------------------------------------------------------------------------------------------------


def test_an_index_on_the_hub(tmp_path, monkeypatch):
    """Without a network, what was downloaded before is found."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "models--me--plates", "0" * 40
    saved(repository / "snapshots" / commit, TEXTS_OF_PLATES, method="bm25l")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    corpus = corpus_of(TEXTS_OF_PLATES)
    index = BM25Index.from_bm25s(corpus, "me/plates")
    assert index == BM25Index.from_bm25s(corpus, repository / "snapshots" / commit)
    assert index.method == "bm25l"
    with pytest.raises(huggingface_hub.errors.LocalEntryNotFoundError):
        BM25Index.from_bm25s(corpus, "me/waves")


def test_the_corpus_that_was_saved_with_an_index_is_not_read(tmp_path):
    retriever = built(TEXTS_OF_PLATES)
    retriever.corpus = TEXTS_OF_PLATES
    retriever.save(tmp_path, **QUIET)
    (tmp_path / "corpus.jsonl").write_text("damaged")
    index = BM25Index.from_bm25s(corpus_of(TEXTS_OF_PLATES), tmp_path)
    assert json.loads((index.folder / "params.index.json").read_text())["num_docs"] == 3
    assert not (index.folder / "corpus.jsonl").exists()
