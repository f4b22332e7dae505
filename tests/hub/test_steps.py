"""The steps on a card: what rows remember of `mine`, and what may be told of them."""

import json
import re

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    DenseNegatives,
    FuseNegatives,
    RandomNegatives,
    RankWindow,
    SampleNegatives,
    TopNegatives,
    ToTriplets,
    mine,
)
from hnm_datasets.hub.saving import save_mined, write_card

UNRECORDED = "(unrecorded operations)"


@pytest.fixture(scope="module")
def corpus():
    words = ("plates", "waves", "rocks", "lava")
    texts = [f"{one} {other} {number}" for one in words for other in words for number in range(2)]
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{place}" for place in range(len(texts))], "text": texts}))


@pytest.fixture(scope="module")
def rows():
    queries = [f"why {word}" for word in ("plates", "waves", "rocks", "lava")]
    ids = [f"q{place}" for place in range(4)]
    return Dataset.from_dict({"query_id": ids, "query": queries, "positive_ids": [["p0"], ["p8"], ["p16"], ["p24"]]})


@pytest.fixture(scope="module")
def steps(corpus):
    return [BM25Negatives(corpus, k=6), RankWindow(2)]


@pytest.fixture(scope="module")
def mined(rows, steps):
    return mine(rows, steps)


def saved_steps(rows, folder, **options):
    save_mined(rows, folder, **options)
    steps = json.loads((folder / "mining.json").read_text())["steps"]
    card = (folder / "README.md").read_text()
    assert all(f"{number}. {without_empty(step)}\n" in card for number, step in enumerate(steps, start=1))
    return steps


def without_empty(step):
    """The text of a step as a card shows it."""
    return re.sub(r", \w+=None(?=[,)])", "", step)


def test_rows_need_not_be_told_of(mined, steps, corpus, tmp_path):
    shaped = mine(mined, [ToTriplets(corpus)])
    for number, (rows, wanted) in enumerate(
        [
            (mined, steps),
            (mined.with_format("numpy"), steps),
            (shaped, [*steps, ToTriplets(corpus)]),
            (mined.select([2, 1]), [*steps, UNRECORDED]),
            (DatasetDict(mined.train_test_split(test_size=2, seed=0)), [*steps, UNRECORDED]),
            (DatasetDict(train=mined, test=mined.select([0])), [*steps, UNRECORDED]),
            (mined.map(TopNegatives(1), batched=True), [*steps, UNRECORDED]),
            (mine(mined.select([2, 1]), [TopNegatives(1)]), [*steps, UNRECORDED, TopNegatives(1)]),
        ]
    ):
        assert saved_steps(rows, tmp_path / str(number)) == [one if one == UNRECORDED else repr(one) for one in wanted]


def test_a_saved_dataset_need_not_be_told_of(mined, steps, tmp_path):
    mined.save_to_disk(tmp_path / "rows")
    assert saved_steps(load_from_disk(tmp_path / "rows"), tmp_path / "set") == list(map(repr, steps))
    assert without_empty(repr(steps[0])) in write_card(tmp_path / "set", name="Again").read_text()


def test_what_was_mined_before_is_not_claimed(rows, corpus, tmp_path):
    mapped = rows.map(BM25Negatives(corpus, k=6), batched=True)
    mined = mine(mapped, [TopNegatives(2)])
    assert saved_steps(mined, tmp_path / "set") == [UNRECORDED, repr(TopNegatives(2))]
    told = [BM25Negatives(corpus, k=6), TopNegatives(2)]
    assert saved_steps(mined, tmp_path / "told", steps=told) == list(map(repr, told))


def test_the_same_steps_may_be_told(mined, steps, corpus, tmp_path):
    assert saved_steps(mined, tmp_path / "set", steps=steps) == list(map(repr, steps))
    assert saved_steps(mined, tmp_path / "texts", steps=list(map(repr, steps))) == list(map(repr, steps))
    more = mined.map(TopNegatives(1), batched=True)
    told = [*steps, TopNegatives(1)]
    assert saved_steps(more, tmp_path / "more", steps=told) == list(map(repr, told))


@pytest.mark.parametrize(
    "told",
    [
        lambda steps, corpus: steps[:1],
        lambda steps, corpus: steps[::-1],
        lambda steps, corpus: [BM25Negatives(corpus, k=7), steps[1]],
        lambda steps, corpus: [RandomNegatives(corpus), *steps],
        lambda steps, corpus: ["mined by hand"],
    ],
)
def test_other_steps_are_refused_and_both_are_shown(mined, steps, corpus, tmp_path, told):
    told = told(steps, corpus)
    with pytest.raises(ValueError, match="save_mined: steps= contradicts the steps that the rows remember") as caught:
        save_mined(mined, tmp_path / "set", steps=told)
    shown = ", ".join(one if isinstance(one, str) else repr(one) for one in told)
    assert f"Passed: [{shown}]. Remembered: [{', '.join(map(repr, steps))}]." in str(caught.value)
    assert not (tmp_path / "set").exists()


def test_other_steps_of_changed_rows_are_refused(mined, steps, tmp_path):
    for told in (steps[::-1], steps[1:], ["mined by hand", TopNegatives(1)]):
        with pytest.raises(ValueError, match=r"contradicts .*Remembered: .*, \(unrecorded operations\)\]"):
            save_mined(mined.select([0, 1]), tmp_path / "set", steps=told)


def test_rows_of_several_minings(rows, mined, steps, corpus, tmp_path):
    other = mine(rows, [RandomNegatives(corpus, k=3)])
    plain = rows.map(steps[0], batched=True)
    for many in (
        concatenate_datasets([mined, other]),
        DatasetDict(train=mined, test=other),
        DatasetDict(train=mined, test=plain),
    ):
        with pytest.raises(
            ValueError, match=r"rows were mined with different steps.*RankWindow.* and .*separately, or pass steps="
        ):
            save_mined(many, tmp_path / "set")
    both = [*steps, RandomNegatives(corpus, k=3)]
    for number, many in enumerate((DatasetDict(train=mined, test=mined.select([0])), DatasetDict(a=mined, b=mined))):
        told = steps
        assert saved_steps(many, tmp_path / f"same {number}", steps=told) == list(map(repr, told))
    texts = list(map(repr, both))
    assert saved_steps(concatenate_datasets([mined, other]), tmp_path / "both", steps=texts) == texts
    with pytest.raises(ValueError, match="contradicts the steps that the rows remember"):
        save_mined(concatenate_datasets([mined, other]), tmp_path / "one", steps=steps)


def test_steps_that_name_another_source_are_refused(rows, corpus, tmp_path):
    bm25, random = BM25Negatives(corpus, k=6), RandomNegatives(corpus, k=6)
    plain = rows.map(bm25, batched=True)
    message = r"to steps= the negatives come from \['random'\], but the column 'negative_source' of .* names \['bm25'\]"
    for wrong in ([random], [random, TopNegatives(9)], [bm25, random]):
        with pytest.raises(ValueError, match=message):
            save_mined(plain, tmp_path / "set", steps=wrong)
    with pytest.raises(ValueError, match="the split 'test' names"):
        save_mined(DatasetDict(train=rows.map(random, batched=True), test=plain), tmp_path / "set", steps=[random])
    fuse = FuseNegatives({"words": bm25, "chance": random})
    fused = rows.map(fuse, batched=True)
    with pytest.raises(ValueError, match=r"come from \['bm25'\].* names \['chance', 'words'\]"):
        save_mined(fused, tmp_path / "set", steps=[bm25])
    for number, (right, told) in enumerate(
        [
            (plain, [bm25, RankWindow(2)]),
            (plain, [random, bm25]),
            (plain, [SampleNegatives(3)]),
            (plain, [random, "and BM25 by another tool"]),
            (plain, [random, len]),
            (fused, [fuse]),
            (plain.remove_columns("negative_source"), [random]),
        ]
    ):
        assert len(saved_steps(right, tmp_path / str(number), steps=told)) == len(told)


# ---- names of models -------------------------------------------------------------------------------------------------


def test_a_model_is_named_without_its_folder_and_old_rows_are_compared_without_names(
    rows, corpus, static_model, tmp_path, monkeypatch
):
    path = tmp_path / "private folder" / "me's" / "minilm" / "model"
    static_model.save(str(path))
    by_path = DenseNegatives(corpus, str(path), k=3)
    monkeypatch.setattr(static_model.model_card_data, "model_id", "me/minilm")
    by_object = DenseNegatives(corpus, static_model, k=3)
    assert "me/minilm" not in repr(by_object)
    mined = mine(rows, [by_object])
    with monkeypatch.context() as patch:
        patch.setattr("hnm_datasets.mining.names.label_of", lambda model: None)
        old = mine(rows, [by_object])
    for name, data, options, shown in (
        ("path", mine(rows, [by_path]), {}, 'Encoder("minilm/model", '),
        ("object", mined, {}, f"Encoder('me/minilm', model {by_object.model.model_fingerprint}, 'query'"),
        ("told", rows.map(by_object, batched=True), {"steps": [by_object]}, "Encoder('me/minilm', model "),
        ("old", old, {"steps": [by_object]}, "Encoder('me/minilm', model "),
        ("text", mined, {"steps": [repr(by_object)]}, "Encoder(model "),
        ("both", DatasetDict(a=old, b=mined), {}, f"Encoder(model {by_object.model.model_fingerprint}"),
    ):
        folder = save_mined(data, tmp_path / name, corpus=corpus, **options)
        written = write_card(folder, license="mit").read_text()
        assert shown in written, name
        assert "prompt='', similarity" not in written
        files = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
        assert b"private folder" not in files
        assert str(tmp_path).encode() not in files
