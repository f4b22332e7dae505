"""`mine` is a chain of `map`, says what each step left, and refuses what it cannot do."""

import json
from functools import partial
from itertools import pairwise

import datasets
import new_processes
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from mining_helpers import make_rows, middle_steps, miners, pooled_rows, shapes

from hnm_datasets import (
    BM25Negatives,
    MiningReport,
    RandomNegatives,
    RankWindow,
    ScoreBand,
    TeacherThreshold,
    ToNTuples,
    TopNegatives,
    ToTriplets,
    mine,
)
from hnm_datasets.transforms.shapes.base import Shape


def mapped(rows, steps):
    """Map the steps without `mine`, and return the rows before each step and after the last."""
    found = [rows]
    for step in steps:
        removed = found[-1].column_names if isinstance(step, Shape) else None
        found.append(found[-1].map(step, batched=True, remove_columns=removed))
    return found


@st.composite
def chains(draw, corpus):
    steps = []
    # A miner after a fusion would leave the columns of its sources behind, which is an error.
    for found in draw(st.sampled_from([[miners(corpus)], [miners(corpus)[:2], miners(corpus)]])):
        miner, by = draw(st.sampled_from(found))
        steps += [miner, *draw(st.lists(st.sampled_from(middle_steps(corpus, by)), max_size=4))]
    if draw(st.booleans()):
        steps.append(draw(st.sampled_from(shapes(corpus, draw(st.sampled_from(["drop", "keep", "pad"]))))))
    return steps


@given(data=st.data())
@settings(max_examples=15)
def test_the_rows_are_those_of_map_and_the_table_adds_up(corpus, data):
    steps = data.draw(chains(corpus))
    rows = pooled_rows()
    try:
        expected = mapped(rows, steps)
    except ValueError as error:
        with pytest.raises(ValueError, match="left none of 7 rows"):
            mine(rows, steps)
        expected = error
    if isinstance(expected, ValueError):
        assert "produces no rows from the 7 input rows" in str(expected)
        return
    mined = mine(rows, steps)
    assert (mined.to_list(), mined.features) == (expected[-1].to_list(), expected[-1].features)
    counts = MiningReport.of(mined).steps
    assert len(counts) == len(steps)
    for one in counts:
        assert one.candidates_in + one.mined == one.candidates_out + one.dropped
    for one, after in pairwise(counts):
        assert (one.rows_out, one.candidates_out) == (after.rows_in, after.candidates_in)
    for one, step, before, after in zip(counts, steps, expected, expected[1:], strict=False):
        assert (one.rows_in, one.rows_out) == (len(before), len(after))
        if isinstance(step, Shape):
            check_shape(one, step, before, after)
        else:
            check_step(one, step, before, after)


def candidates(rows):
    return [set(ids) for ids in rows["negative_ids"]] if "negative_ids" in rows.column_names else [set()] * len(rows)


def check_step(one, step, before, after):
    """Compare the numbers of a step with the ids before and after it."""
    old, new = candidates(before), candidates(after)
    assert (one.candidates_in, one.candidates_out) == (sum(map(len, old)), sum(map(len, new)))
    wanted = getattr(step, "k", getattr(step, "n", None))
    if hasattr(step, "k"):
        assert (one.mined, one.dropped) == (one.candidates_out, one.candidates_in)
    else:
        assert one.mined == 0
        assert one.dropped == sum(len(ids - left) for ids, left in zip(old, new, strict=True))
    assert one.short == (None if wanted is None else sum(len(ids) < wanted for ids in new))
    assert one.empty == sum(not ids for ids in new)
    assert one.promoted == sum(map(len, after["positive_ids"])) - sum(map(len, before["positive_ids"]))


def check_shape(one, step, before, after):
    """Compare the numbers of a shape with the ids in the rows that it made."""
    used, beside, slots = set(), set(), 0
    for row in after:
        if "passage_ids" in row:
            ids = [name for name, label in zip(row["passage_ids"], row["labels"], strict=True) if not label]
            positive = row["passage_ids"][0]
        elif "passage_id" in row:
            ids, positive = [] if row["label"] else [row["passage_id"]], None
        else:
            ids = [row[name] for name in row if name.startswith("negative") and name.endswith("_id")]
            ids, positive = [name for name in ids if name is not None], row["positive_id"]
        slots += len(ids)
        used |= {(row["anchor_id"], name) for name in ids}
        beside |= {(row["anchor_id"], positive, name) for name in ids}
    assert one.candidates_out == len(used)
    assert one.empty == len(before) - len(set(after["anchor_id"]))
    assert one.padding == slots - len(beside)
    assert step.missing == "pad" or not one.padding


@pytest.mark.parametrize("missing", ["drop", "keep", "pad"])
@pytest.mark.parametrize("place", range(6))
def test_known_positives_that_a_shape_leaves_out_are_dropped(corpus, place, missing):
    rows = pooled_rows()
    ids = [
        [*own, *known, "p20", "p21", "p22"]
        for own, known in zip(rows["positive_ids"], rows["known_positive_ids"], strict=True)
    ]
    rows = rows.add_column("negative_ids", [*ids[:-1], ["p12", "p2"]])
    shape = shapes(corpus, missing)[place]
    (one,) = MiningReport.of(mine(rows, [shape])).steps
    check_shape(one, shape, rows, mapped(rows, [shape])[-1])
    assert one.candidates_in == one.candidates_out + one.dropped
    assert one.dropped >= sum(map(len, rows["positive_ids"]))


# ---- how it maps ----------------------------------------------------------------------------------------------------


def test_each_step_is_mapped_under_its_name(corpus, monkeypatch, capsys):
    asked = []
    real = Dataset.map

    def spy(self, function, **options):
        asked.append((function, options))
        return real(self, function, **options)

    def named(batch):
        return {"size": [len(query) for query in batch["query"]]}

    monkeypatch.setattr(Dataset, "map", spy)
    steps = [BM25Negatives(corpus, k=8), named, ToTriplets(corpus)]
    mine(make_rows(), steps, num_proc=2, batch_size=3)
    assert [function for function, _ in asked] == steps
    assert [options["desc"] for _, options in asked] == ["BM25Negatives", "named", "ToTriplets"]
    assert all(options.items() >= {"batched": True, "batch_size": 3, "num_proc": 2}.items() for _, options in asked)
    assert "size" in asked[-1][1]["remove_columns"]
    assert capsys.readouterr().out.count("mine: ") == 1


def test_several_processes_and_batches_give_the_same_rows_and_numbers(corpus):
    steps = [BM25Negatives(corpus, k=8), RankWindow(2), ToNTuples(corpus, n=3, missing="pad")]
    first, second = mine(make_rows(), steps), mine(make_rows(), steps, num_proc=3, batch_size=2)
    assert first.to_list() == second.to_list()
    assert MiningReport.of(first) == MiningReport.of(second)


def test_short_rows_are_said_by_the_table_alone(corpus, capsys, caplog):
    mine(make_rows(9), [BM25Negatives(corpus, k=8), ToNTuples(corpus, n=9, missing="pad")])
    assert "negatives are padding" in capsys.readouterr().out
    assert "in this batch" not in caplog.text


def test_another_process_maps_nothing_again(corpus, tmp_path):
    """Of rows that were made in memory; no step is called."""
    mined = mine(make_rows(), [BM25Negatives(corpus, k=8), RankWindow(2), ToTriplets(corpus)])
    code = (
        "import json\n"
        "from mining_helpers import *\n"
        "from hnm_datasets import MiningReport, mine\n"
        "from hnm_datasets.transforms.base import Transform\n"
        "corpus = make_corpus()\n"
        "def refuse(self, rows): raise AssertionError('called')\n"
        "Transform.__call__ = refuse\n"
        "mined = mine(make_rows(), [BM25Negatives(corpus, k=8), RankWindow(2), ToTriplets(corpus)])\n"
        "print(json.dumps([MiningReport.of(mined).to_dict(), mined.to_list()]))"
    )
    (tmp_path / "again.py").write_text(code)
    printed = new_processes.run(tmp_path / "again.py", log=tmp_path / "log")
    report, rows = json.loads(printed.splitlines()[-1])
    assert rows == mined.to_list()
    assert report == json.loads(json.dumps(MiningReport.of(mined).to_dict()))
    assert "mine: 7 rows became " in printed


# ---- nothing left ---------------------------------------------------------------------------------------------------


def test_a_step_that_drops_everything_is_named(corpus, capsys):
    mined = mine(make_rows(), [BM25Negatives(corpus, k=8), ScoreBand(20, 90), RankWindow(2)])
    assert candidates(mined) == [set()] * 7
    shown = capsys.readouterr().out
    assert "ScoreBand(min=20.0, max=90.0) dropped all 56 candidates. Remove or loosen it" in shown
    assert shown.count("dropped all") == 1


@pytest.mark.parametrize("num_proc", [None, 2])
@pytest.mark.parametrize("shape", [ToTriplets, partial(ToNTuples, n=2)])
def test_a_shape_without_a_row_names_the_step_that_dropped_all(corpus, capsys, num_proc, shape):
    steps = [BM25Negatives(corpus, k=8), ScoreBand(20, 90), TopNegatives(3), shape(corpus)]
    with pytest.raises(ValueError, match=r"left none of 7 rows, because ScoreBand\(min=20.0.*\) had dropped all 56"):
        mine(make_rows(), steps, num_proc=num_proc)
    assert "BM25Negatives(k=8)" in capsys.readouterr().out


def test_a_shape_without_a_row_says_what_is_short(corpus):
    with pytest.raises(
        ValueError, match=r"ToNTuples\(n=9\) left none of 7 rows; 7 have too few negatives.*larger k.*'pad'"
    ):
        mine(make_rows(), [BM25Negatives(corpus, k=8), ToNTuples(corpus, n=9)])
    without = make_rows().select([0, 4])
    assert without["positive_ids"][:] == [[], []]
    with pytest.raises(ValueError, match="left none of 2 rows; 2 have too few negatives or no positive"):
        mine(without, [RandomNegatives(corpus, k=8), ToTriplets(corpus)])


def test_a_miner_that_finds_nothing_is_named(corpus, capsys):
    rows = Dataset.from_dict({"query": ["zebra", "yak"], "positive_ids": [["p1"], ["p2"]]})
    mine(rows, [BM25Negatives(corpus), TopNegatives(2)])
    assert "BM25Negatives(k=100) left no candidates." in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no candidates after BM25Negatives\(k=100\)"):
        mine(rows, [BM25Negatives(corpus), ToTriplets(corpus)])


def test_a_function_without_a_row_is_named(corpus):
    def nothing(batch):
        return {name: [] for name in batch}

    with pytest.raises(ValueError, match="nothing left none of 7 rows"):
        mine(make_rows(), [BM25Negatives(corpus), nothing])


def test_a_short_row_that_is_an_error_stays_one(corpus):
    with pytest.raises(ValueError, match=r"query_id 'q0' has 8 negatives and 0 positives"):
        mine(make_rows(), [RandomNegatives(corpus, k=8), ToTriplets(corpus, missing="error")])


def test_functions_are_steps(corpus):
    def last_two(batch):
        return {"negative_ids": [ids[-2:] for ids in batch["negative_ids"]]}

    def one_more(batch):
        return {"negative_ids": [[*ids, "p0"] for ids in batch["negative_ids"]]}

    only_ids = RandomNegatives(corpus, k=3)(make_rows()[:])["negative_ids"]
    mined = mine(make_rows().add_column("negative_ids", only_ids), [last_two, one_more])
    counts = [(one.name, one.candidates_in, one.mined, one.dropped, one.short) for one in MiningReport.of(mined).steps]
    assert counts == [("last_two", 21, 0, 7, None), ("one_more", 14, 7, 0, None)]


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda rows: DatasetDict(train=rows, test=rows), r"mine: rows is a DatasetDict of 2 splits.*rows\['train'\]"),
        (lambda rows: rows.to_iterable_dataset(), r"mine: rows is an IterableDataset.*write_stream"),
        (lambda rows: (None, rows), "mine: rows is a tuple.*corpus, rows = load_beir"),
    ],
)
def test_other_rows_are_refused(corpus, rows, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mine(rows(make_rows()), [BM25Negatives(corpus)])


def test_rows_in_other_forms_are_mined(corpus):
    expected = mine(make_rows(), [BM25Negatives(corpus, k=2)]).to_list()
    for rows in (make_rows().to_pandas(), make_rows().to_list(), DatasetDict(train=make_rows())):
        assert mine(rows, [BM25Negatives(corpus, k=2)]).to_list() == expected


def test_no_rows_are_refused(corpus):
    with pytest.raises(ValueError, match="no rows"):
        mine(make_rows().select([]), [BM25Negatives(corpus)])


def test_other_steps_are_refused(corpus):
    rows = make_rows()
    for steps in (BM25Negatives(corpus), {"bm25": BM25Negatives(corpus)}):
        with pytest.raises(TypeError, match=r"steps must be a list of steps, got .*mine\(rows, \[step, ...\]\)"):
            mine(rows, steps)
    with pytest.raises(ValueError, match="there are no steps"):
        mine(rows, [])
    for wrong in (TopNegatives, partial(TopNegatives, 3)):
        with pytest.raises(
            TypeError, match=r"step 2 is the class TopNegatives. Pass an instance instead: TopNegatives\(...\)"
        ):
            mine(rows, [BM25Negatives(corpus), wrong])
    with pytest.raises(TypeError, match=r"step 1 must be a step such as BM25Negatives.*got Corpus"):
        mine(rows, [corpus])
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
        mine(rows, [BM25Negatives(corpus)], batch_size=0)


def test_mining_works_without_caching(corpus):
    datasets.disable_caching()
    try:
        mined = mine(make_rows(), [RandomNegatives(corpus, k=3), TeacherThreshold(10.0, by="score")])
    finally:
        datasets.enable_caching()
    assert MiningReport.of(mined).steps[-1].candidates_out == 21
