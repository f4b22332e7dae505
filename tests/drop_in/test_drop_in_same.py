"""mine_hard_negatives gives the rows of the function of that name in sentence-transformers."""

import inspect
import itertools

import datasets
import older_versions
import pytest
from datasets import Dataset
from drop_in_helpers import (
    CORPUS,
    FORMATS,
    OPTIONS,
    TOY,
    assert_the_same,
    mine_both,
    texts_of,
)
from exhaustive import usually
from sentence_transformers.util import mine_hard_negatives as their_function

from hnm_datasets import mine_hard_negatives

NEWER = older_versions.needs("sentence-transformers", "6.2", "its function ranks by other scores of a cross-encoder")


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


#: Each with one format and scores, in turn; plain rows with all, and without scores.
USUAL = [
    *((name, FORMATS[number % 4], True) for number, name in enumerate(OPTIONS)),
    *(("plain", form, False) for form in FORMATS),
    *(("plain", form, True) for form in FORMATS[1:]),
]


@pytest.mark.parametrize(
    ("options", "output_format", "output_scores"),
    usually(USUAL, every=list(itertools.product(OPTIONS, FORMATS, (True, False)))),
)
def test_rows_are_theirs(pairs, sample_texts, static_model, options, output_format, output_scores):
    options = OPTIONS[options]
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
@NEWER
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


@NEWER
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
