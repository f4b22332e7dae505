"""Mining in one call: the same rows as sentence-transformers' function, and where they differ on purpose."""

import inspect
import random
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Value
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives as their_function

from hnm_datasets import load_sample, mine_hard_negatives
from hnm_datasets.corpus.text import normalized_digests

FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")
CORPUS = "half the texts of the sample"
OPTIONS = {
    "plain": {},
    "one negative": {"num_negatives": 1},
    "five negatives": {"num_negatives": 5},
    "relative margin": {"relative_margin": 0.05},
    "absolute margin": {"absolute_margin": 0.1},
    "both margins": {"absolute_margin": 0.02, "relative_margin": 0.05},
    "score band": {"max_score": 0.7, "min_score": 0.2},
    "lowest score": {"min_score": 0.6},
    "range and margin": {"range_max": 20, "relative_margin": 0.1},
    "prompts": {"query_prompt": "question: ", "corpus_prompt": "passage: "},
    "corpus": {"corpus": CORPUS},
    "corpus and margin": {"corpus": CORPUS, "relative_margin": 0.05, "num_negatives": 5},
    "small blocks": {"faiss_batch_size": 7},
}


# ---- data and models ---------------------------------------------------------------------------------------------


def key_of(text):
    return normalized_digests([text]).tobytes()


@pytest.fixture(scope="module")
def sample_texts():
    """The sample's texts, each once but for case and white space: there the two functions differ, see below."""
    corpus, _ = load_sample()
    texts = [text for chunk in corpus.iter_texts() for text in chunk.to_pylist()]
    return list({key_of(text): text for text in reversed(texts)}.values())[::-1]


@pytest.fixture(scope="module")
def pairs(sample_texts):
    """A pair per query and positive of 100 queries: mostly several positives."""
    corpus, queries = load_sample()
    known = set(sample_texts)
    rows = [
        {"question": row["query"], "answer": text}
        for row in queries.select(range(100))
        for text in corpus.texts(corpus.rows(row["positive_ids"])).to_pylist()
        if text in known
    ]
    assert Counter(row["question"] for row in rows).most_common(1)[0][1] > 3
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def single_pairs(pairs):
    """One positive per query."""
    return Dataset.from_list(list({row["question"]: row for row in reversed(pairs.to_list())}.values())[::-1])


@pytest.fixture(scope="module")
def few_pairs(pairs):
    return pairs.select(range(60)).flatten_indices()


@pytest.fixture(scope="module")
def cross_encoder(sample_texts, tmp_path_factory):
    """A random cross-encoder of one tiny layer, whose scores vary enough to be told apart."""
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("cross-encoder")
    words = Counter(word for text in sample_texts for word in text.lower().split() if word.isalpha())
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word for word, _ in words.most_common(2000))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        num_labels=1,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return CrossEncoder(str(folder), device="cpu")


TOY = {
    "question": ["what is the capital of France?", "who wrote Hamlet?", "what is the capital of France?", "how far?"],
    "answer": ["Paris is its capital.", "Shakespeare wrote Hamlet.", "The capital is Paris.", "Two miles from here."],
}


# ---- comparing ---------------------------------------------------------------------------------------------------


def texts_of(mined):
    return [{name: value for name, value in row.items() if not name.startswith("score")} for row in mined.to_list()]


def scores_of(mined):
    names = [name for name in mined.column_names if name.startswith("score")]
    return np.array([score for name in names for row in mined[name] for score in np.atleast_1d(row)])


def assert_the_same(ours, theirs):
    assert ours.column_names == theirs.column_names
    assert ours.features == theirs.features
    assert texts_of(ours) == texts_of(theirs)
    np.testing.assert_allclose(scores_of(ours), scores_of(theirs), atol=1e-5)


def mine_both(dataset, model, **options):
    ours, theirs = (
        mine(dataset, model, **({"verbose": False, "batch_size": 256} | options))
        for mine in (mine_hard_negatives, their_function)
    )
    return ours, theirs


def negatives_of(mined, anchor="question"):
    """The negatives of each query in a set of triplets, in order."""
    found = {}
    for row in mined:
        found.setdefault(row[anchor], []).append(row["negative"])
    return {query: list(dict.fromkeys(negatives)) for query, negatives in found.items()}


def mined_negatives(dataset, model, **options):
    return negatives_of(mine_hard_negatives(dataset, model, **({"verbose": False} | options)))


def rankings(model, dataset):
    """Each query's ranking of all distinct answers, the most similar first."""
    texts = list(dict.fromkeys(dataset["answer"]))
    queries = model.encode_query(list(dataset["question"]), normalize_embeddings=True)
    order = np.argsort(-queries @ model.encode_document(texts, normalize_embeddings=True).T, kind="stable")
    return {query: [texts[place] for place in row] for query, row in zip(dataset["question"], order, strict=True)}


# ---- the same ----------------------------------------------------------------------------------------------------


def test_the_signature_is_theirs_with_two_options_more():
    theirs = list(inspect.signature(their_function).parameters.values())
    ours = list(inspect.signature(mine_hard_negatives).parameters.values())
    wanted = [(one.name, one.default, one.kind) for one in theirs if one.name not in ("as_triplets", "margin")]
    keyword = inspect.Parameter.KEYWORD_ONLY
    assert [(one.name, one.default, one.kind) for one in ours] == [
        *wanted,
        ("seed", 0, keyword),
        ("keep_columns", False, keyword),
    ]


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize(
    ("options", "output_scores"),
    [pytest.param(OPTIONS[name], True, id=f"{name}, with scores") for name in OPTIONS]
    + [pytest.param(OPTIONS[name], False, id=name) for name in ("plain", "relative margin", "corpus and margin")],
)
def test_rows_are_theirs(pairs, sample_texts, static_model, options, output_format, output_scores):
    if options.get("corpus") is CORPUS:
        options = options | {"corpus": sample_texts[::2]}
    ours, theirs = mine_both(pairs, static_model, output_format=output_format, output_scores=output_scores, **options)
    assert len(theirs) > 100
    assert_the_same(ours, theirs)


@pytest.mark.parametrize("output_format", FORMATS)
def test_rows_are_theirs_with_one_positive_per_query(single_pairs, static_model, output_format):
    assert_the_same(*mine_both(single_pairs, static_model, output_format=output_format, output_scores=True))


@pytest.mark.parametrize("num_negatives", [1, 5])
@pytest.mark.parametrize("output_format", ["triplet", "labeled-pair", "labeled-list"])
def test_rows_are_theirs_where_there_are_few_passages(static_model, output_format, num_negatives):
    ours, theirs = mine_both(
        Dataset.from_dict(TOY),
        static_model,
        output_format=output_format,
        output_scores=True,
        num_negatives=num_negatives,
    )
    assert_the_same(ours, theirs)


def test_too_few_passages_for_an_n_tuple_leave_no_row(static_model):
    mined = mine_hard_negatives(
        Dataset.from_dict(TOY), static_model, output_format="n-tuple", num_negatives=5, verbose=False
    )
    assert len(mined) == 0
    assert mined.column_names == ["question", "answer", *(f"negative_{place}" for place in range(1, 6))]


def test_toy_rows(static_model):
    pairs = Dataset.from_dict({name: TOY[name][1:] for name in ("question", "answer")})
    mined = mine_hard_negatives(pairs, static_model, num_negatives=2, verbose=False)
    assert mined.column_names == ["question", "answer", "negative"]
    assert [(row["question"], row["answer"]) for row in mined][::2] == list(zip(*(pairs[:].values()), strict=True))
    for row in mined:
        assert row["negative"] in set(pairs["answer"]) - {row["answer"]}
    assert len({(row["question"], row["negative"]) for row in mined}) == 6


@pytest.mark.parametrize(
    ("options", "output_format"),
    [({"relative_margin": 0.05}, output_format) for output_format in FORMATS]
    + [
        ({"absolute_margin": 0.02, "num_negatives": 2}, "triplet"),
        ({"max_score": 0.6}, "labeled-list"),
        ({"min_score": 0.4}, "labeled-pair"),
    ],
    ids=str,
)
def test_rows_are_theirs_with_a_cross_encoder_and_a_limit(
    few_pairs, static_model, cross_encoder, output_format, options
):
    options = options | {"output_format": output_format, "output_scores": True, "cross_encoder": cross_encoder}
    ours, theirs = mine_both(few_pairs, static_model, **options)
    assert len(theirs) > 5
    assert_the_same(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_negatives": 8}, {"corpus": CORPUS, "range_max": 30, "num_negatives": 30}, {"max_score": 0.8}],
    ids=str,
)
@pytest.mark.parametrize("output_scores", [False, True])
def test_rows_are_theirs_with_positives_among_the_candidates(pairs, sample_texts, static_model, options, output_scores):
    if "corpus" in options:
        options = options | {"corpus": sample_texts[::2]}
    options = options | {"include_positives": True, "output_format": "n-tuple", "output_scores": output_scores}
    ours, theirs = mine_both(pairs, static_model, **options)
    positives = {(row["question"], row["answer"]) for row in pairs}
    assert any((row["question"], row["negative_1"]) in positives for row in ours)
    assert_the_same(ours, theirs)


def test_positives_among_the_candidates_are_n_tuples(few_pairs, static_model):
    assert_the_same(*mine_both(few_pairs, static_model, include_positives=True))


def test_positives_among_the_candidates_are_scored_by_a_cross_encoder(few_pairs, static_model, cross_encoder):
    options = {"include_positives": True, "output_format": "n-tuple", "output_scores": True, "min_score": 0.0}
    assert_the_same(*mine_both(few_pairs, static_model, cross_encoder=cross_encoder, **options))


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
@pytest.mark.parametrize("options", [{}, {"absolute_margin": 0.05}, {"relative_margin": 0.05}], ids=str)
def test_rows_are_theirs_under_each_similarity(few_pairs, make_static_model, similarity, options):
    model = make_static_model()
    model.similarity_fn_name = similarity
    assert_the_same(*mine_both(few_pairs, model, output_scores=True, **options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"query_prompt_name": "other"},
        {"corpus_prompt_name": "other"},
        {"query_prompt_name": "other", "query_prompt": "about "},
        {"query_prompt": "", "corpus_prompt": ""},
    ],
    ids=str,
)
def test_rows_are_theirs_with_the_models_own_prompts(few_pairs, make_static_model, options):
    model = make_static_model()
    model.prompts = {"query": "question: ", "document": "passage: ", "other": "some other words before it "}
    assert_the_same(*mine_both(few_pairs, model, output_scores=True, **options))


def test_named_columns_come_before_the_first_two(few_pairs, static_model):
    turned = few_pairs.select_columns(["answer", "question"])
    named = {"anchor_column_name": "question", "positive_column_name": "answer"}
    ours, theirs = mine_both(turned, static_model, output_scores=True, **named)
    assert_the_same(ours, theirs)
    assert texts_of(ours) == texts_of(mine_hard_negatives(few_pairs, static_model, verbose=False))


@pytest.mark.parametrize("names", [("positive", "anchor"), ("passage", "label"), ("id", "query")])
@pytest.mark.parametrize("output_format", ["triplet", "labeled-pair", "labeled-list"])
def test_the_two_columns_may_have_any_name(few_pairs, static_model, names, output_format):
    renamed = few_pairs.rename_columns(dict(zip(("question", "answer"), names, strict=True)))
    if output_format == "labeled-pair" and "label" in names:
        pytest.skip("Theirs writes two columns of one name.")
    assert_the_same(*mine_both(renamed, static_model, output_format=output_format))


@pytest.mark.parametrize("name", ["query", "positive_ids", "negative_ids", "anchor", "label", "scores", "query_id"])
def test_a_further_column_may_have_any_name(few_pairs, static_model, name):
    more = few_pairs.add_column(name, ["something"] * len(few_pairs))
    assert_the_same(*mine_both(more, static_model, output_format="labeled-pair"))


def test_a_pair_that_comes_twice_counts_once(few_pairs, static_model):
    twice = datasets.concatenate_datasets([few_pairs, few_pairs.select(range(20))])
    ours, theirs = mine_both(twice, static_model, relative_margin=0.05)
    assert_the_same(ours, theirs)


def test_a_formatted_dataset_gives_the_same(few_pairs, static_model):
    wanted = mine_hard_negatives(few_pairs, static_model, verbose=False)
    for form in ("numpy", "arrow", "pandas"):
        mined = mine_hard_negatives(few_pairs.with_format(form), static_model, verbose=False)
        assert mined.to_list() == wanted.to_list()


def test_a_dataset_on_disk_gives_the_same(few_pairs, static_model, tmp_path):
    few_pairs.save_to_disk(tmp_path / "pairs")
    loaded = datasets.load_from_disk(tmp_path / "pairs")
    wanted = mine_hard_negatives(few_pairs, static_model, verbose=False)
    for _ in range(2):
        assert mine_hard_negatives(loaded, static_model, verbose=False).to_list() == wanted.to_list()


def test_a_model_may_be_given_by_its_path(few_pairs, static_model, tmp_path):
    static_model.save_pretrained(str(tmp_path / "model"))
    by_path = mine_hard_negatives(few_pairs, str(tmp_path / "model"), verbose=False)
    assert by_path.to_list() == mine_hard_negatives(few_pairs, static_model, verbose=False).to_list()


def test_use_faiss_changes_nothing(few_pairs, static_model):
    with_it, without = (
        mine_hard_negatives(few_pairs, static_model, use_faiss=use, verbose=False) for use in (True, False)
    )
    assert with_it.to_list() == without.to_list()


# ---- what differs on purpose -------------------------------------------------------------------------------------


def test_a_variant_of_a_positive_is_no_negative(static_model):
    variants = {"SHAKESPEARE  wrote hamlet.", " Shakespeare\twrote\nHamlet. "}
    options = {"corpus": sorted(variants), "num_negatives": 3, "verbose": False}
    mined = mined_negatives(Dataset.from_dict(TOY), static_model, **options)
    assert set(mined["who wrote Hamlet?"]) == set(TOY["answer"]) - {"Shakespeare wrote Hamlet."}
    assert len(variants & set(mined["how far?"])) + ("Shakespeare wrote Hamlet." in mined["how far?"]) == 1
    theirs = negatives_of(their_function(Dataset.from_dict(TOY), static_model, **options))
    assert variants & set(theirs["who wrote Hamlet?"])


def test_the_query_itself_is_no_negative(single_pairs, static_model):
    query = single_pairs[0]["question"]
    further = [query, query.upper()]
    mined = mined_negatives(single_pairs, static_model, corpus=further)
    assert not set(further) & set(mined[query])
    theirs = their_function(single_pairs, static_model, corpus=further, verbose=False)
    assert query in negatives_of(theirs)[query]


@pytest.mark.parametrize("include_positives", [False, True])
def test_no_text_is_a_negative_twice(few_pairs, static_model, include_positives):
    doubled = [text.upper() for text in few_pairs["answer"]] + [f" {text}  " for text in few_pairs["answer"]]
    options = {"num_negatives": 5, "output_format": "n-tuple", "include_positives": include_positives}
    mined = mine_hard_negatives(few_pairs, static_model, corpus=doubled, verbose=False, **options)
    assert len(mined) > 20
    for row in mined:
        assert len({key_of(row[f"negative_{place}"]) for place in range(1, 6)}) == 5


@pytest.mark.parametrize("range_min", [1, 2, 5])
def test_range_min_skips_ranks_of_the_full_list(single_pairs, static_model, range_min):
    options = {"range_min": range_min, "num_negatives": 2, "verbose": False}
    ours = negatives_of(mine_hard_negatives(single_pairs, static_model, **options))
    theirs = negatives_of(their_function(single_pairs, static_model, **options))
    answers = dict(zip(single_pairs["question"], single_pairs["answer"], strict=True))
    ranked = rankings(static_model, single_pairs)
    differing = 0
    for query, answer in answers.items():
        assert ours[query] == [text for text in ranked[query][range_min:] if text != answer][:2]
        assert theirs[query] == [text for text in ranked[query] if text != answer][range_min:][:2]
        differing += ours[query] != theirs[query]
    assert differing > 20


def test_range_max_is_the_last_rank(single_pairs, static_model):
    mined = mined_negatives(single_pairs, static_model, range_min=3, range_max=6, num_negatives=3)
    ranked = rankings(static_model, single_pairs)
    for row in single_pairs:
        # The highest rank, and one more for the positive.
        wanted = [text for text in ranked[row["question"]][3:7] if text != row["answer"]]
        assert mined[row["question"]] == wanted[:3]


def test_a_cross_encoder_without_a_limit_orders_the_candidates(few_pairs, static_model, cross_encoder):
    options = {"num_negatives": 4, "output_format": "labeled-list", "output_scores": True, "verbose": False}
    plain = mine_hard_negatives(few_pairs, static_model, **options)
    mined = mine_hard_negatives(few_pairs, static_model, cross_encoder=cross_encoder, **options)
    assert texts_of(mined) != texts_of(plain)
    for row in mined:
        wanted = cross_encoder.predict([(row["question"], text) for text in row["answer"]], show_progress_bar=False)
        np.testing.assert_allclose(row["scores"], wanted, atol=1e-5)
        assert row["scores"][1:] == sorted(row["scores"][1:], reverse=True)
    theirs = [their_function(few_pairs, static_model, cross_encoder=one, **options) for one in (None, cross_encoder)]
    assert texts_of(theirs[0]) == texts_of(theirs[1])


def test_a_cross_encoder_chooses_among_ten_times_as_many(single_pairs, static_model, cross_encoder):
    few = single_pairs.select(range(20))
    ranked = rankings(static_model, few)
    mined = mined_negatives(few, static_model, cross_encoder=cross_encoder, num_negatives=1)
    for row in few:
        near = [text for text in ranked[row["question"]][:12] if text != row["answer"]]
        scores = cross_encoder.predict([(row["question"], text) for text in near], show_progress_bar=False)
        assert mined[row["question"]] == [near[int(np.argmax(scores))]]


def test_random_negatives_repeat_by_seed(few_pairs, static_model):
    options = {"sampling_strategy": "random", "range_max": 30, "num_negatives": 3}
    random.seed(5)
    before = random.getstate()
    draws = [mined_negatives(few_pairs, static_model, seed=seed, **options) for seed in (1, 1, 2)]
    assert random.getstate() == before
    assert draws[0] == draws[1] != draws[2]
    assert all(len(set(negatives)) == 3 for negatives in draws[0].values())
    assert draws[0] != mined_negatives(few_pairs, static_model, range_max=30)


def test_random_negatives_of_a_query_do_not_depend_on_the_others(few_pairs, static_model):
    options = {"sampling_strategy": "random", "range_max": 30, "corpus": list(few_pairs["answer"])}
    whole = mined_negatives(few_pairs, static_model, **options)
    # The largest number of positives goes into the last rank, so all pairs of the query stay.
    most = Counter(few_pairs["question"]).most_common(1)[0][0]
    alone = mined_negatives(few_pairs.filter(lambda row: row["question"] == most), static_model, **options)
    assert alone[most] == whole[most]


def test_random_negatives_keep_the_margin(few_pairs, static_model):
    options = {"sampling_strategy": "random", "relative_margin": 0.1, "output_scores": True, "verbose": False}
    mined = mine_hard_negatives(few_pairs, static_model, **options)
    assert len(mined)
    for row in mined:
        positive, negative = row["scores"]
        assert negative <= positive - 0.1 * abs(positive) + 1e-6


@pytest.mark.parametrize("output_format", FORMATS)
def test_other_columns_can_be_kept(few_pairs, static_model, output_format):
    more = few_pairs.add_column("place", list(range(len(few_pairs)))).add_column("topic", ["medicine"] * 60)
    plain = mine_hard_negatives(more, static_model, output_format=output_format, verbose=False)
    mined = mine_hard_negatives(more, static_model, output_format=output_format, keep_columns=True, verbose=False)
    assert mined.column_names == [*plain.column_names, "place", "topic"]
    assert mined.select_columns(plain.column_names).to_list() == plain.to_list()
    first = {}
    for row in more:
        first.setdefault(row["question"], row["place"])
    assert [row["place"] for row in mined] == [first[row["question"]] for row in mined]
    assert set(mined["topic"]) == {"medicine"}


@pytest.mark.parametrize(
    ("name", "output_format"),
    [
        ("anchor", "triplet"),
        ("query", "triplet"),
        ("negative", "triplet"),
        ("scores", "triplet"),
        ("negative_1", "triplet"),
        ("negative_1", "n-tuple"),
        ("scores", "n-tuple"),
        ("score", "labeled-pair"),
        ("label", "labeled-pair"),
        ("scores", "labeled-list"),
        ("passages", "labeled-list"),
    ],
)
def test_a_kept_column_never_takes_the_place_of_a_new_one(few_pairs, static_model, name, output_format):
    more = few_pairs.add_column(name, ["something"] * len(few_pairs))
    options = {"output_format": output_format, "output_scores": True, "verbose": False}
    wanted = mine_hard_negatives(few_pairs, static_model, **options)
    try:
        mined = mine_hard_negatives(more, static_model, keep_columns=True, **options)
    except ValueError as error:
        assert repr(name) in str(error)  # noqa: PT017
        return
    assert mined.column_names == [*wanted.column_names, name]
    assert mined.select_columns(wanted.column_names).to_list() == wanted.to_list()


def test_training_mines_anew(few_pairs, make_static_model, tmp_path):
    import torch

    model = make_static_model()
    options = {"cache_folder": str(tmp_path), "output_scores": True, "verbose": False}
    before = mine_hard_negatives(few_pairs, model, **options)
    assert mine_hard_negatives(few_pairs, model, **options).to_list() == before.to_list()
    optimizer = torch.optim.SGD(model.parameters(), lr=20.0)
    features = model.tokenize([few_pairs[0]["question"], few_pairs[0]["answer"]])
    first, second = model(features)["sentence_embedding"]
    (-torch.cosine_similarity(first, second, dim=0)).backward()
    optimizer.step()
    after = mine_hard_negatives(few_pairs, model, **options)
    assert after.to_list() != before.to_list()
    assert after.to_list() == mine_hard_negatives(few_pairs, model, **(options | {"cache_folder": None})).to_list()
    assert_the_same(after, their_function(few_pairs, model, output_scores=True, verbose=False))


def test_an_unknown_column_is_an_error(few_pairs, static_model):
    for option in ("anchor_column_name", "positive_column_name"):
        with pytest.raises(KeyError, match=r"quetsion.*question"):
            mine_hard_negatives(few_pairs, static_model, **{option: "quetsion"})


def test_vectors_are_kept_in_the_cache_folder_alone(few_pairs, make_static_model, monkeypatch, tmp_path):
    usual, wanted = tmp_path / "usual", tmp_path / "wanted"
    usual.mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", usual)
    monkeypatch.chdir(usual)
    model = make_static_model(32)
    calls = []
    encode = SentenceTransformer.encode

    def counted(self, *args, **options):
        calls.append(1)
        return encode(self, *args, **options)

    monkeypatch.setattr(SentenceTransformer, "encode", counted)
    mined = mine_hard_negatives(few_pairs, model, cache_folder=str(wanted), verbose=False)
    first_calls = len(calls)
    again = mine_hard_negatives(few_pairs, model, cache_folder=str(wanted), num_negatives=2, verbose=False)
    assert len(calls) == first_calls > 0
    assert len(again) < len(mined)
    assert not list(usual.rglob("*"))
    size = len(set(few_pairs["answer"])) * 32 * 4
    assert any(path.stat().st_size >= size for path in wanted.rglob("*.npy"))


def test_two_cache_folders_are_independent(few_pairs, static_model, tmp_path):
    import shutil

    folders = [tmp_path / name for name in ("one", "two")]
    mined = [mine_hard_negatives(few_pairs, static_model, cache_folder=str(one), verbose=False) for one in folders]
    sizes = [sorted(path.stat().st_size for path in one.rglob("*.npy")) for one in folders]
    assert sizes[0] == sizes[1] != []
    shutil.rmtree(folders[0])
    mined.append(mine_hard_negatives(few_pairs, static_model, cache_folder=str(folders[0]), verbose=False))
    assert mined[0].to_list() == mined[1].to_list() == mined[2].to_list()


def test_the_cache_folder_is_left_after_an_error(few_pairs, static_model, tmp_path):
    from hnm_datasets.storage.folders import cache_root

    before = cache_root()
    with pytest.raises((TypeError, ValueError)):
        mine_hard_negatives(few_pairs, 3, cache_folder=str(tmp_path), verbose=False)
    assert cache_root() == before != Path(tmp_path)


# ---- wrong input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_negatives": 0}, ValueError, "num_negatives"),
        ({"num_negatives": 2.5}, TypeError, "num_negatives"),
        ({"range_min": -1}, ValueError, "range_min"),
        ({"range_min": 10, "range_max": 10}, ValueError, "range_max=10"),
        ({"range_min": 10, "range_max": 5}, ValueError, "range_max=5"),
        ({"range_max": 2, "num_negatives": 3}, ValueError, "num_negatives"),
        ({"output_format": "triplets"}, ValueError, "'triplet'"),
        ({"sampling_strategy": "best"}, ValueError, "'random'"),
        ({"query_prompt_name": "qeury"}, KeyError, "qeury"),
        ({"corpus_prompt_name": "none"}, KeyError, "none"),
        ({"faiss_batch_size": 0}, ValueError, "faiss_batch_size"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"relative_margin": "much"}, (TypeError, ValueError), "margin"),
        ({"max_score": 0.1, "min_score": 0.5}, ValueError, "0.5"),
        ({"corpus": ["text", ""]}, ValueError, "passage 1"),
        ({"corpus": ["text", None]}, ValueError, "passage 1"),
        ({"corpus": [1, 2]}, TypeError, "texts"),
        ({"corpus": "one text"}, TypeError, "list of texts"),
        ({"sampling_strategy": "random", "seed": "x"}, TypeError, "seed"),
        ({"cross_encoder": 3}, TypeError, "CrossEncoder"),
        ({"anchor_column_name": "answer"}, ValueError, "answer"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(few_pairs, static_model, options, error, words):
    with pytest.raises(error, match=words):
        mine_hard_negatives(few_pairs, static_model, verbose=False, **options)


@pytest.mark.parametrize("model", [None, 3, [0.5]], ids=repr)
def test_a_model_of_a_wrong_type(few_pairs, model):
    with pytest.raises(TypeError, match="SentenceTransformer"):
        mine_hard_negatives(few_pairs, model, verbose=False)


def test_a_cross_encoder_is_no_bi_encoder(few_pairs, cross_encoder):
    with pytest.raises(TypeError, match="SentenceTransformer"):
        mine_hard_negatives(few_pairs, cross_encoder, verbose=False)


def test_an_empty_dataset(few_pairs, static_model):
    with pytest.raises(ValueError, match="empty"):
        mine_hard_negatives(few_pairs.select([]), static_model)


def test_one_column(few_pairs, static_model):
    with pytest.raises(ValueError, match="question"):
        mine_hard_negatives(few_pairs.select_columns(["question"]), static_model)


def test_no_dataset(few_pairs, static_model):
    for wrong in (few_pairs.to_list(), DatasetDict({"train": few_pairs}), few_pairs.to_iterable_dataset()):
        with pytest.raises(TypeError, match="Dataset"):
            mine_hard_negatives(wrong, static_model)


@pytest.mark.parametrize("column", ["question", "answer"])
@pytest.mark.parametrize("text", [None, "", " \n"], ids=repr)
@pytest.mark.parametrize("count", [1, 3])
def test_a_null_or_empty_text(static_model, column, text, count):
    texts = {"question": ["a?", "b?", "c?"], "answer": ["A.", "B.", "C."]}
    texts[column][0] = text
    features = Features({name: Value("string") for name in texts})
    pairs = Dataset.from_dict({name: values[:count] for name, values in texts.items()}, features=features)
    with pytest.raises(ValueError, match=rf"{column}.*row 0"):
        mine_hard_negatives(pairs, static_model, num_negatives=1)


def test_numbers_are_no_texts(static_model):
    for pairs in ({"question": [1, 2], "answer": ["A.", "B."]}, {"question": ["a?", "b?"], "answer": [1, 2]}):
        with pytest.raises(TypeError, match="strings"):
            mine_hard_negatives(Dataset.from_dict(pairs), static_model, num_negatives=1)


# ---- what it says ------------------------------------------------------------------------------------------------


def test_nothing_is_printed_without_verbose(few_pairs, static_model, capfd):
    mine_hard_negatives(few_pairs, static_model, relative_margin=0.1, verbose=False)
    assert capfd.readouterr().out == ""


def test_missing_rows_are_told(few_pairs, static_model, capsys):
    mined = mine_hard_negatives(few_pairs, static_model, relative_margin=0.1)
    said = capsys.readouterr().out
    assert f"{len(mined)} rows" in said
    assert f"{3 * len(few_pairs) - len(mined)} of {3 * len(few_pairs)} possible rows are missing" in said


@pytest.mark.parametrize("output_format", FORMATS)
def test_no_rows_are_missing_where_there_are_enough(single_pairs, static_model, capsys, output_format):
    mined = mine_hard_negatives(single_pairs, static_model, output_format=output_format)
    said = capsys.readouterr().out
    assert f"Mined {len(mined)} rows for 100 queries with 100 positives." in said
    assert "missing" not in said


def test_positives_among_the_candidates_change_the_format_with_a_warning(few_pairs, static_model, caplog):
    mine_hard_negatives(few_pairs, static_model, include_positives=True, verbose=False)
    assert "n-tuple" in caplog.text
