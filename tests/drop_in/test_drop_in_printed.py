"""What mine_hard_negatives prints, against the function of that name in sentence-transformers."""

import logging
import re

import datasets
import numpy as np
import pytest
from datasets import Dataset
from drop_in_helpers import FORMATS, TOY
from sentence_transformers.util import mine_hard_negatives as their_function

from hnm_datasets import mine_hard_negatives

METRICS = ("Count", "Mean", "Median", "Std", "Min", "25%", "50%", "75%", "Max")


def table_of(said):
    """The printed table: the numbers of each metric."""
    lines = [line.split() for line in said.splitlines()]
    return {
        line[0]: [float(number.replace(",", "")) for number in line[1:]]
        for line in lines
        if line and line[0] in METRICS
    }


def skipped_in(said):
    """How many candidates each limit dropped, and the percentage."""
    found = re.findall(r"Skipped ([\d,]+) potential negatives \(([\d.]+)%\) due to the (\w+) of (\S+)\.", said)
    return {name: (int(count.replace(",", "")), float(share), float(value)) for count, share, name, value in found}


@pytest.fixture
def printed_by_both(capsys):
    def run(*args, **options):
        printed = []
        for function in (mine_hard_negatives, their_function):
            capsys.readouterr()
            function(*args, **options)
            printed.append(capsys.readouterr().out)
        return printed

    return run


PRINTED = [
    {},
    {"num_negatives": 1},
    {"relative_margin": 0.1},
    {"absolute_margin": 0.05, "relative_margin": 0.05, "max_score": 0.7},
    {"num_negatives": 5, "max_score": 0.6, "range_max": 20},
]


@pytest.mark.parametrize(
    ("options", "output_format"),
    # Each in two formats, in turn.
    [(options, form) for number, options in enumerate(PRINTED) for form in FORMATS[number % 2 :: 2]],
    ids=str,
)
def test_lines_are_theirs(pairs, static_model, printed_by_both, output_format, options):
    ours, theirs = printed_by_both(pairs, static_model, output_format=output_format, **options)
    found, wanted = table_of(ours), table_of(theirs)
    assert tuple(found) == METRICS
    for metric in set(METRICS) - {"Median"}:
        np.testing.assert_allclose(found[metric], wanted[metric], atol=1.01e-4)
    assert found["Median"] == found["50%"]
    skipped = {name: (count, value) for name, (count, _, value) in skipped_in(theirs).items()}
    assert {name: (count, value) for name, (count, _, value) in skipped_in(ours).items()} == skipped
    assert skipped.keys() <= options.keys()

    def others(said):
        """All lines but those of the table, ours alone, and shares."""
        lines = [re.sub(r"[\d,]+ potential negatives \([\d.]+%\)", "", line) for line in said.splitlines()]
        return [line for line in lines if line.split()[0] not in METRICS and not line.startswith("Mined ")]

    assert others(ours) == others(theirs)
    assert others(ours)[-1].startswith("Could not find enough") == (len(options) > 1 or "relative_margin" in options)


def test_shares_are_of_the_candidates_that_reached_a_limit(single_pairs, static_model, printed_by_both):
    limits = {"absolute_margin": 0.02, "relative_margin": 0.05, "max_score": 0.5, "min_score": 0.4}
    ours, theirs = printed_by_both(single_pairs, static_model, range_max=20, **limits)
    texts = list(dict.fromkeys(single_pairs["answer"]))
    queries = static_model.encode_query(list(single_pairs["question"]), normalize_embeddings=True)
    scores = queries @ static_model.encode_document(texts, normalize_embeddings=True).T
    own = np.array([texts.index(answer) for answer in single_pairs["answer"]])
    positives = scores[np.arange(len(own)), own]
    left = np.argsort(np.argsort(-scores, kind="stable"), kind="stable") < 21
    left[np.arange(len(own)), own] = False
    keep = [
        scores <= positives[:, None] - 0.02,
        scores <= (positives - np.abs(positives) * 0.05)[:, None],
        scores <= 0.5,
        scores >= 0.4,
    ]
    found = skipped_in(ours)
    assert list(found) == list(limits)
    for (name, value), kept in zip(limits.items(), keep, strict=True):
        dropped = left & ~kept
        share = 100 * dropped.sum() / left.sum()
        assert found[name] == (dropped.sum(), pytest.approx(share, abs=0.006), value)
        left &= kept
    # There, positives and what the other limits dropped count too.
    assert skipped_in(theirs)["min_score"][0] > found["min_score"][0] > 0


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("repeated", [("question",), ("answer",), ("question", "answer"), ()], ids=str)
def test_missing_negatives(static_model, capsys, output_format, repeated):
    """The texts that come twice are the same in both halves, the others begin with the number of the half."""
    columns = {
        name: [
            text if name in repeated else f"Copy {half}, {text}"
            for half in range(2)
            for text in (TOY[name][1], TOY[name][3], f"{TOY[name][1]} And where?", f"{TOY[name][3]} Who knows?")
        ]
        for name in ("question", "answer")
    }
    pairs, most = Dataset.from_dict(columns), len(set(zip(columns["question"], columns["answer"], strict=True)))
    queries = len(set(columns["question"]))
    possible = {"triplet": 2 * most, "labeled-pair": most + 2 * queries}.get(output_format, most)
    options = {"output_format": output_format, "num_negatives": 2}
    assert len(mine_hard_negatives(pairs, static_model, **options)) == possible
    said = capsys.readouterr().out
    assert f"Mined {possible} rows for {queries} queries with {most} positives." in said
    assert "Could not find enough" not in said
    mined = mine_hard_negatives(pairs, static_model, max_score=-1, range_max=4, **options)
    said = capsys.readouterr().out
    missing = possible - len(mined)
    assert missing > 0
    assert (
        f"Could not find enough negatives for {missing} samples ({missing / possible:.2%}). Consider adjusting the "
        f"range_max and max_score parameters if" in said
    )


def test_missing_negatives_name_range_max_alone(static_model, capsys):
    mine_hard_negatives(Dataset.from_dict(TOY), static_model, num_negatives=5)
    assert "Consider adjusting the range_max parameter if" in capsys.readouterr().out


def test_a_table_of_no_negatives(static_model, capsys):
    mined = mine_hard_negatives(Dataset.from_dict(TOY), static_model, num_negatives=5, output_format="n-tuple")
    said = capsys.readouterr().out
    assert len(mined) == 0
    assert re.search(r"Count +4 +0", said)
    assert re.search(r"Mean +0\.\d{4} +- +-", said)
    assert "Could not find enough negatives for 4 samples (100.00%)" in said


@pytest.mark.parametrize("teacher", [False, True])
def test_scores_are_those_that_decide(few_pairs, static_model, cross_encoder, capsys, teacher):
    options = {"cross_encoder": cross_encoder} if teacher else {"include_positives": True, "output_format": "n-tuple"}
    mined = mine_hard_negatives(few_pairs, static_model, output_scores=True, **options)
    scores = np.array(list(mined["scores"]))
    found = table_of(capsys.readouterr().out)
    assert found["Count"][1] == scores[:, 1:].size
    assert found["Max"][1] == pytest.approx(scores[:, 1:].max(), abs=1e-4)
    assert found["Mean"][2] == pytest.approx((scores[:, :1] - scores[:, 1:]).mean(), abs=1e-4)


def test_a_cached_mining_prints_the_same(few_pairs, static_model, tmp_path, capsys):
    few_pairs.save_to_disk(tmp_path / "pairs")
    pairs = datasets.load_from_disk(tmp_path / "pairs")
    printed = []
    for _ in range(2):
        mined = mine_hard_negatives(pairs, static_model, relative_margin=0.1, max_score=0.6)
        assert set(mined.column_names) == {"question", "answer", "negative"}
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert skipped_in(printed[0]).keys() == {"relative_margin", "max_score"}


def test_the_cache_folder_is_named(few_pairs, static_model, tmp_path, capsys):
    folder = tmp_path / "cache\x1bc"
    for word in ("Saved", "Loaded"):
        mine_hard_negatives(few_pairs, static_model, cache_folder=str(folder))
        said = capsys.readouterr().out
        for what in ("corpus", "query"):
            (place,) = re.findall(rf"\[Cache\] {word} {what} embeddings \w+ (\S+)", said)
            assert "\\x1bc" in place
        assert "\x1b" not in said


@pytest.mark.parametrize(
    "options",
    [{}, {"output_format": "n-tuple", "num_negatives": 50}, {"relative_margin": 0.1}, {"include_positives": True}],
    ids=str,
)
def test_nothing_is_printed_without_verbose(few_pairs, static_model, capfd, options):
    mine_hard_negatives(few_pairs, static_model, verbose=False, **options)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("include_positives", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"range_min": 1},
        {"range_max": 5},
        {"max_score": 0.8},
        {"min_score": 0.5},
        {"absolute_margin": 0.1},
        {"relative_margin": 0.05},
        {"sampling_strategy": "random"},
    ],
    ids=str,
)
def test_options_that_may_discard_included_positives(few_pairs, static_model, caplog, include_positives, options):
    mine_hard_negatives(
        few_pairs,
        static_model,
        include_positives=include_positives,
        output_format="n-tuple",
        verbose=False,
        **options,
    )
    warned = "may still discard positives" in caplog.text
    assert warned == (include_positives and bool(options))
    assert not warned or next(iter(options)) in caplog.text


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"range_min": 2, "relative_margin": 0.05}, ["relative_margin"]),
        ({"range_min": 2, "absolute_margin": 0.05, "max_score": 0.7}, ["absolute_margin", "max_score"]),
        ({"range_min": 2}, []),
        ({"range_min": 2, "min_score": 0.1}, []),
        ({"relative_margin": 0.05}, []),
    ],
    ids=str,
)
def test_range_min_beside_a_limit_is_one_warning(few_pairs, static_model, caplog, options, named):
    with caplog.at_level(logging.WARNING):
        mine_hard_negatives(few_pairs, static_model, faiss_batch_size=5, verbose=False, **options)
    said = [record.getMessage() for record in caplog.records if "range_min" in record.getMessage()]
    assert len(said) == bool(named)
    assert all(
        name in line and "\n" not in line and "skips the first 2 ranks" in line for line in said for name in named
    )


def test_an_interrupt_says_what_is_kept(few_pairs, static_model, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Dataset, "map", interrupt)
    with pytest.raises(
        KeyboardInterrupt, match=r"mine_hard_negatives was interrupted\. Finished vectors and model scores"
    ):
        mine_hard_negatives(few_pairs, static_model, verbose=False)
