"""Functions and Hugging Face tokenizers in place of the library's own words."""

import pickle

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from hnm_datasets import BM25Index, BM25Negatives, Corpus, ShardedIndex
from hnm_datasets.indexes import tokenizers as tokenizers_module
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.manifest import DamagedFolderError
from hnm_datasets.storage.opened import Opened

TEXTS = ["Running over-the top", "a top-model", "机器学习很难", "学习使人进步"]


def corpus_of(texts):
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{i}" for i in range(len(texts))], "text": texts}))


@pytest.fixture(scope="module")
def corpus():
    return corpus_of(TEXTS)


def by_hyphens(text):
    return text.replace("-", " - ").split()


def make_subwords(vocabulary=("[UNK]", "run", "##ning", "top", "a", "over", "model", "Top"), **options):
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordPiece(numbers, unk_token="[UNK]", **options))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def found(index, *queries):
    return [[row for row in rows if row >= 0] for rows in index.search(list(queries), 4).rows.tolist()]


def function(corpus, call=by_hyphens, name="hyphens-1", **options):
    return BM25Index(corpus, tokenizer=call, tokenizer_fingerprint=name, **options)


def test_a_function_says_what_the_tokens_are(corpus):
    assert found(function(corpus), "-", "top", "机器学习很难") == [[1, 0], [1, 0], [2]]
    # It is given normalized texts, and its tokens are stemmed and compared with the stop words.
    assert found(function(corpus), "RUN", "ＴＯＰ", "the") == [[0], [1, 0], []]
    assert found(function(corpus, stemmer=None, stopwords=["top"]), "RUN", "running", "top") == [[], [0], []]
    assert found(function(corpus, list, "letters-1"), "习") == [[2, 3]]
    assert found(function(corpus, lambda text: (text[:1],), "first-1"), "机") == [[2]]


def test_a_function_is_named_by_its_user(corpus):
    one = function(corpus)
    assert one.fingerprint == function(corpus, list).fingerprint
    assert one == function(corpus, list)
    assert one != function(corpus, name="hyphens-2")
    assert one.fingerprint != function(corpus, name="hyphens-2").fingerprint
    assert one.fingerprint != BM25Index(corpus).fingerprint
    for name in (None, "", 3):
        with pytest.raises(ValueError, match=r"BM25Index: a function cannot .* tokenizer_fingerprint='\.\.\.'"):
            BM25Index(corpus, tokenizer=by_hyphens, tokenizer_fingerprint=name)
    with pytest.raises(ValueError, match="tokenizer_fingerprint is for functions, but tokenizer is not a function"):
        BM25Index(corpus, tokenizer_fingerprint="mine-1")


@pytest.mark.parametrize("answer", ["a b", None, [1, 2], ["a", None], {"a": 1}, 3])
def test_a_function_must_return_strings(corpus, answer):
    with pytest.raises(TypeError, match="tokenizer must return a list of strings for each text, got"):
        function(corpus, lambda text: answer, f"bad-{answer}").prepare()


@pytest.mark.parametrize("bad", ["bert-base-uncased", 3, ["a"], object()])
def test_what_is_no_tokenizer_is_refused(corpus, bad):
    with pytest.raises(TypeError, match=r"tokenizer must be a function .*AutoTokenizer\.from_pretrained"):
        BM25Index(corpus, tokenizer=bad)


def test_a_pattern_and_a_tokenizer_exclude_each_other(corpus):
    with pytest.raises(ValueError, match="token_pattern and tokenizer both define the tokens"):
        function(corpus, token_pattern="[a-z]+")
    with pytest.raises(ValueError, match=r"token_pattern .* has 2 groups, .* Write \(\?:\.\.\.\)"):
        BM25Index(corpus, token_pattern="(a)(b)")
    assert found(BM25Index(corpus, token_pattern="[a-z]+-([a-z]+)"), "x-model") == [[1]]


def test_subwords(corpus):
    index = BM25Index(corpus, tokenizer=make_subwords())
    # It is given texts as they are, and what it does not know is nothing that two texts share.
    assert found(index, "top", "a", "Top", "unheard of", "机") == [[0, 1], [], [], [], []]
    lower = make_subwords(("[UNK]", "Running", "Run", "##ning", "top"))
    assert found(BM25Index(corpus, tokenizer=lower, stemmer=None), "Run", "Running", "running") == [[], [0], []]


def test_transformers_and_tokenizers_are_the_same(corpus):
    plain = make_subwords()
    fast = PreTrainedTokenizerFast(tokenizer_object=make_subwords(), unk_token="[UNK]")
    assert found(BM25Index(corpus, tokenizer=fast), "top") == [[0, 1]]
    with pytest.raises(ValueError, match="a Hugging Face tokenizer is fingerprinted by its content"):
        BM25Index(corpus, tokenizer=plain, tokenizer_fingerprint="mine-1")


def test_subwords_are_named_by_content():
    corpus = corpus_of(["top " * 30 + "model", "run"])
    index = BM25Index(corpus, tokenizer=make_subwords())
    short = make_subwords()
    short.enable_truncation(3)
    short.enable_padding(length=5, pad_token="model")
    cut = BM25Index(corpus, tokenizer=short)
    assert cut.fingerprint == index.fingerprint
    assert found(cut, "model") == [[0]], "texts are neither cut nor filled up"
    assert short.truncation["max_length"] == 3, "the user's own stays as it was"
    others = [
        make_subwords(("[UNK]", "top")),
        make_subwords(max_input_chars_per_word=2),
        Tokenizer(WordLevel({"[UNK]": 0, "top": 1}, unk_token="[UNK]")),
    ]
    assert len({BM25Index(corpus, tokenizer=other).fingerprint for other in [make_subwords(), *others]}) == 4


def test_an_unknown_token_by_number(corpus):
    from tokenizers.models import Unigram

    tokenizer = Tokenizer(Unigram([("<unk>", 0.0), ("top", -1.0), ("a", -2.0)], unk_id=0))
    tokenizer.pre_tokenizer = Whitespace()
    assert found(BM25Index(corpus, tokenizer=tokenizer, stopwords=None), "top", "q", "a") == [[1, 0], [], [1]]


@pytest.mark.parametrize("kind", ["function", "lambda", "subwords"])
def test_workers_cut_alike(corpus, kind):
    given = {
        "function": {"tokenizer": by_hyphens, "tokenizer_fingerprint": "hyphens-1"},
        "lambda": {"tokenizer": lambda text: text.replace("-", " - ").split(), "tokenizer_fingerprint": "lambda-1"},
        "subwords": {"tokenizer": make_subwords()},
    }[kind]
    step = BM25Negatives(corpus, k=3, index=BM25Index(corpus, **given))
    rows = Dataset.from_dict({"query": ["top", "model", "run", "a top"], "positive_ids": [["p3"]] * 4})
    expected = step(rows[:])["negative_ids"]
    mined = rows.map(step, batched=True, num_proc=2, load_from_cache_file=False)
    assert mined["negative_ids"][:] == expected
    assert sorted(expected[0]) == ["p0", "p1"]
    assert Hasher.hash(step) == Hasher.hash(BM25Negatives(corpus, k=3, index=BM25Index(corpus, **given)))


def test_subwords_are_found_in_the_cache_directory(corpus, monkeypatch):
    index = BM25Index(corpus, tokenizer=make_subwords(("[UNK]", "top", "model")))
    small = pickle.dumps(index)
    assert len(small) < 1000
    # As in a process that was spawned.
    monkeypatch.setattr(tokenizers_module, "_OPENED", Opened())
    again = pickle.loads(small)
    assert again == index
    assert found(again, "model") == [[1]]
    monkeypatch.setattr(tokenizers_module, "_OPENED", Opened())
    (cache_root() / "tokenizers" / index.tokenizer.fingerprint / "tokenizer.json").unlink()
    with pytest.raises(DamagedFolderError, match=r"The tokenizer .*tokenizer\.json.*HF_DATASETS_CACHE"):
        index.analyzer.words()("top")


def test_shards_share_a_tokenizer(corpus):
    for options in (
        {"tokenizer": by_hyphens, "tokenizer_fingerprint": "hyphens-1"},
        {"tokenizer": make_subwords()},
        {},
    ):
        whole = BM25Index(corpus, **options)
        shards = ShardedIndex([BM25Index(corpus, shard=(i, 3), **options) for i in range(3)])
        queries = ["top", "model", "学习", "over"]
        assert shards.search(queries, 4).rows.tolist() == whole.search(queries, 4).rows.tolist()


@pytest.mark.parametrize("option", ["stemmer", "stopwords"])
def test_languages_by_name_and_code(corpus, option):
    names = [BM25Index(corpus, **{option: name}) for name in ("german", "German", "de", "DE")]
    assert len({index.fingerprint for index in names}) == 1
    assert {getattr(index, option) for index in names} == {"german"}
    for bad in ("klingon", "tlh", "", 3):
        if bad != 3 or option == "stemmer":
            with pytest.raises(ValueError, match=rf"{option} must be one of .*'german'.*, got {bad!r}"):
                BM25Index(corpus, **{option: bad})


def test_every_stemmer_has_a_code():
    import Stemmer

    from hnm_datasets.indexes.bm25_analyzer import _LANGUAGES, STOP_WORDS

    plain = set(Stemmer.algorithms()) - {"porter", "dutch_porter"} | set(STOP_WORDS) - {"english_plus"}
    assert set(_LANGUAGES.values()) >= plain
