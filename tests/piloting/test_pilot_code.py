"""The code of a strategy, when it is run, mines what the pilot mined."""

from datasets import Dataset
from pilot_helpers import QUICK

import hnm_datasets as hnm
from hnm_datasets import (
    BiEncoderScores,
    BM25Index,
    BM25Negatives,
    CrossEncoderScores,
    DenseNegatives,
    FuseNegatives,
    RandomNegatives,
    RankWindow,
    RefreshNegatives,
    RelativeMargin,
    SampleNegatives,
    SearchNegatives,
    ToNTuples,
    live_negatives,
    mine,
    pilot,
)
from hnm_datasets.piloting.code import chain_code
from hnm_datasets.piloting.margins import margins_of
from hnm_datasets.piloting.split import split_rows
from hnm_datasets.piloting.strategies import MARGIN, Strategy, usual


def run(code, **names):
    """Run code as a user who pastes it does."""
    names |= {name: getattr(hnm, name) for name in hnm.__all__}
    exec("from functools import partial\n" + code, names)
    return names


def test_the_usual_strategies_mine_what_the_pilot_mined(tiny, static_model, capsys):
    corpus, rows = tiny
    relevant = [[f"p{at}", f"p{(at + 8) % 120}", f"p{(at + 16) % 120}"] for at in range(60)]
    rows = Dataset.from_list([row | {"positive_ids": ids} for row, ids in zip(rows, relevant, strict=True)])
    teacher = BiEncoderScores(corpus, static_model, name="big", query_prompt="of: ")
    split = split_rows(rows, corpus, 60, 60, 20, 0)
    margins = margins_of(split, corpus, static_model, teacher, None)
    # They are read off the rows, and can be typed.
    assert margins.keys() == {"score", "big"}
    assert all(margin != MARGIN and margin == round(margin, 4) for margin in margins.values())
    strategies = usual(corpus, static_model, teacher, margins, train=True)
    assert len(strategies) == 9
    for strategy in strategies:
        code = chain_code(strategy, 4, teacher)
        made = run(code, corpus=corpus, rows=rows, model=static_model, teacher=teacher)
        assert isinstance(made["live"], Dataset)
        if strategy.dynamic:
            assert isinstance(made["refresh"], RefreshNegatives)
        elif strategy.steps:
            assert made["mined"][:] == mine(rows, strategy.steps)[:]


def test_the_chain_and_the_code_of_a_pilot_are_those_of_the_recommended_strategy(tiny, capsys):
    corpus, rows = tiny
    steps = [BM25Negatives(corpus, k=9), RankWindow(min=3), ToNTuples(corpus, n=4)]
    found = pilot(rows, corpus, {"below": steps}, **QUICK | {"steps": 1, "seeds": 1})
    assert found.chain == tuple(steps[:2])
    assert found.code == found.trials[0].code
    assert run(found.code, corpus=corpus, rows=rows)["mined"][:] == mine(rows, found.chain)[:]


def written(*steps, teacher=None):
    code = chain_code(Strategy("x", steps, dynamic=False), 4, teacher)
    return code.splitlines()[0].removeprefix("mined = mine(rows, [").removesuffix("])")


def test_each_option_that_is_not_the_default_is_written(tiny, static_model):
    corpus, _ = tiny
    fused = FuseNegatives({"a": BM25Negatives(corpus, k=9), "b": DenseNegatives(corpus, static_model)}, k=5)
    assert [
        written(BM25Negatives(corpus)),
        written(BM25Negatives(corpus, k=3)),
        written(RandomNegatives(corpus, seed=7)),
        written(DenseNegatives(corpus, static_model, prompt="passage: ")),
        written(fused),
        written(RelativeMargin(1 / 3, against="min")),
        written(SampleNegatives({(1, 10): 2, (11, 20): 3}, seed=3)),
    ] == [
        "BM25Negatives(corpus)",
        "BM25Negatives(corpus, k=3)",
        "RandomNegatives(corpus, seed=7)",
        "DenseNegatives(corpus, model, prompt='passage: ')",
        "FuseNegatives({'a': BM25Negatives(corpus, k=9), 'b': DenseNegatives(corpus, model)}, k=5)",
        "RelativeMargin(0.3333333333333333, against='min')",
        "SampleNegatives({(1.0, 10.0): 2, (11.0, 20.0): 3}, seed=3)",
    ]


def test_what_cannot_be_written_is_left_to_be_filled_in(tiny):
    corpus, _ = tiny
    assert written(BM25Negatives(corpus, index=BM25Index(corpus, k1=2.0))) == "BM25Negatives(corpus, index=...)"
    assert written(lambda batch: batch) == "..."
    assert written(named) == "named"
    # Made without its name it would be refused.
    assert written(SearchNegatives(corpus, named, fingerprint="n")).endswith(", fingerprint='n')")


def named(batch):
    return batch


def test_the_teacher_stands_under_its_name(tiny):
    corpus, _ = tiny
    teacher, other = (CrossEncoderScores(corpus, len, fingerprint=name, name=name) for name in ("ce", "other"))
    assert written(teacher, other, teacher=teacher).startswith("teacher, CrossEncoderScores(corpus, ")


def test_without_steps_rows_are_as_they_are(tiny):
    corpus, rows = tiny
    code = chain_code(Strategy("in-batch", (), dynamic=False), 4, None)
    assert run(code, corpus=corpus, rows=rows)["live"][:] == live_negatives(rows, corpus)[:]
