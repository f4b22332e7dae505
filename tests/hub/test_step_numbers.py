"""The report of `mine` on a card: only for these very rows, and written again from the folder alone."""

import json
import re

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets

from hnm_datasets import (
    BM25Negatives,
    Corpus,
    MiningReport,
    RandomNegatives,
    RankWindow,
    TopNegatives,
    ToTriplets,
    mine,
)
from hnm_datasets.hub.saving import save_mined, write_card


@pytest.fixture(scope="module")
def corpus():
    words = ("plates", "waves", "rocks", "lava")
    texts = [f"{one} {other} {number}" for one in words for other in words for number in range(2)]
    return Corpus.from_dataset(Dataset.from_dict({"id": [f"p{place}" for place in range(len(texts))], "text": texts}))


@pytest.fixture(scope="module")
def rows():
    queries = [f"why {word}" for word in ("plates", "waves", "rocks", "lava")]
    return Dataset.from_dict({"query": queries, "positive_ids": [["p0"], ["p8"], ["p16"], ["p24"]]})


@pytest.fixture(scope="module")
def mined(rows, corpus):
    return mine(rows, [BM25Negatives(corpus, k=6), RankWindow(2)])


@pytest.fixture
def folder(mined, corpus, tmp_path):
    return save_mined(mine(mined, [ToTriplets(corpus)]), tmp_path / "set")


def card_of(folder):
    return (folder / "README.md").read_text()


def record_of(folder):
    return json.loads((folder / "mining.json").read_text())


def change(folder, **values):
    (folder / "mining.json").write_text(json.dumps(record_of(folder) | values))


def test_the_card_shows_the_table_and_the_examples(folder, mined, corpus):
    how = card_of(folder).split("## How it was mined")[1].split("## Audit")[0]
    report = MiningReport.of(mine(mined, [ToTriplets(corpus)]))
    assert f"Rows and candidates after each step, for the split `train`:\n\n{report.to_markdown()}\n\n" in how
    assert how.index("1. BM25Negatives(") < how.index("| step | rows |") < how.index("| package | version |")
    example = report.steps[1].examples[0]
    assert how.count("- **RankWindow(min=2)** dropped: 1 &lt; min 2") == 3
    assert f"  - **query**: {example.query}\n  - **passage**: \\[{example.passage_id}\\] {example.text}\n" in how
    assert "hardness: candidates' mean score minus their positives', by the retriever" in how


def test_the_card_is_made_again_from_the_folder_alone(folder):
    before, record = card_of(folder), record_of(folder)
    (folder / "README.md").unlink()
    assert write_card(folder).read_text() == before
    assert record_of(folder) == record


def test_numbers_of_other_rows_are_not_shown(rows, mined, corpus, tmp_path):
    other = mine(rows, [RandomNegatives(corpus, k=3)])
    for number, (one, steps) in enumerate(
        [
            (mined.select([2, 1]), []),
            (DatasetDict(mined.train_test_split(test_size=2, seed=0)), []),
            (mined.map(TopNegatives(1), batched=True), []),
            (DatasetDict(train=mined.select([0]), test=mined), []),
            (concatenate_datasets([mined, other]), [BM25Negatives(corpus, k=6), RankWindow(2), "RandomNegatives"]),
            (rows.map(BM25Negatives(corpus, k=6), batched=True), []),
        ]
    ):
        told = [*steps[:2], RandomNegatives(corpus, k=3)] if steps else steps
        folder = save_mined(one, tmp_path / str(number), steps=list(map(repr, told)))
        assert record_of(folder)["mined"] is None
        assert "after each step, for the split" not in card_of(folder)
        assert "Examples of candidates" not in card_of(folder)


def test_the_numbers_are_those_of_the_first_split(rows, mined, corpus, tmp_path):
    steps = [BM25Negatives(corpus, k=6), RankWindow(2)]
    splits = DatasetDict(dev=mined, test=mine(rows.select([1, 2]), steps))
    folder = save_mined(splits, tmp_path / "set", steps=steps)
    assert "after each step, for the split `dev`:" in card_of(folder)
    assert record_of(folder)["mined"]["numbers"] == json.loads(json.dumps(MiningReport.of(mined).to_dict()))


# ---- records of others ----------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script>\n\n# Approved\n\n[click](javascript:alert(1)) \x1b[31m\u202e"


def test_records_of_earlier_versions_are_read(folder):
    record = record_of(folder)
    del record["mined"]
    (folder / "mining.json").write_text(json.dumps(record))
    card = write_card(folder).read_text()
    assert "1. BM25Negatives(" in card
    assert "after each step, for the split" not in card


@pytest.mark.parametrize(
    "changed",
    [
        lambda mined: mined | {"numbers": {}},
        lambda mined: mined | {"numbers": mined["numbers"] | {"steps": []}},
        lambda mined: mined | {"numbers": mined["numbers"] | {"steps": mined["numbers"]["steps"][::-1]}},
        lambda mined: mined | {"split": "test"},
        lambda mined: [mined],
        lambda mined: with_step(mined, rows_in=-1),
        lambda mined: with_step(mined, step="another step"),
        lambda mined: with_step(mined, hardness={"by": "score", "mean": "high", "above": 0.5}),
        lambda mined: with_step(mined, hardness=0.5),
        lambda mined: with_step(mined, examples="many"),
        lambda mined: with_step(mined, examples=[{"query": "why?"}]),
        lambda mined: with_step(mined, examples=[mined["numbers"]["steps"][1]["examples"][0] | {"text": 5}]),
    ],
)
def test_broken_numbers_are_named(folder, changed):
    change(folder, mined=changed(record_of(folder)["mined"]))
    with pytest.raises(ValueError, match=r"mining\.json is damaged or was not written.*Save the dataset again"):
        write_card(folder)


def with_step(mined, **values):
    first, *others = mined["numbers"]["steps"]
    return mined | {"numbers": mined["numbers"] | {"steps": [first | values, *others]}}


@pytest.mark.parametrize("place", ["name", "by", "query", "query_id", "passage_id", "text", "verdict", "reason"])
def test_texts_among_the_numbers_are_shown_as_texts(folder, place):
    mined = record_of(folder)["mined"]
    if place == "name":
        mined = with_step(mined, name=EVIL)
    elif place == "by":
        mined = with_step(mined, hardness={"by": EVIL, "mean": float("inf"), "above": float("nan")})
    else:
        mined["numbers"]["steps"][1]["examples"][0][place] = EVIL
    change(folder, mined=mined)
    card = write_card(folder).read_text()
    body = card.split("\n---\n", 1)[1]
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    shown = " ".join(outside.split())
    assert r"&lt;script&gt;alert(1)&lt;/script&gt; \# Approved \[click\](javascript:alert(1))" in shown
    assert "<script>" not in outside
    assert "\n# Approved" not in card
    assert "[click](" not in outside
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", card)


def test_no_token_is_told(mined, tmp_path, monkeypatch):
    token = "token-without-the-usual-shape"
    monkeypatch.setenv("HF_TOKEN", token)
    rows = mined.map(lambda row: {"query": f"{row['query']} {token}"})
    folder = save_mined(mine(rows, [RankWindow(3)]), tmp_path / "set")
    assert "[token]" in record_of(folder)["mined"]["numbers"]["steps"][-1]["examples"][0]["query"]
    assert token not in card_of(folder) + (folder / "mining.json").read_text()
    before = card_of(folder)
    assert write_card(folder).read_text() == before
