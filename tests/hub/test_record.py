"""`mining.json`, whoever wrote it: what is wrong is named, and nothing of it reaches a card unread."""

import json
import re

import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import metadata_load

from hnm_datasets import BM25Negatives, load_sample
from hnm_datasets.hub.record import read_record
from hnm_datasets.hub.saving import save_mined, write_card


@pytest.fixture(scope="module")
def triplets():
    texts = [f"passage {number}" for number in range(6)]
    return Dataset.from_dict({"anchor": [f"q {text}" for text in texts], "positive": texts, "negative": texts[::-1]})


@pytest.fixture
def folder(tmp_path, triplets):
    return save_mined(triplets, tmp_path / "set", steps=["a step"], name="A set")


def change(folder, **values):
    path = folder / "mining.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# ---- damage ---------------------------------------------------------------------------------------------------------

BROKEN = {
    "empty": lambda text: b"",
    "not JSON": lambda text: b"{",
    "a list": lambda text: b"[1, 2]",
    "null": lambda text: b"null",
    "no keys": lambda text: b"{}",
    "missing keys": lambda text: b'{"made_by": "hnm_datasets", "format": 1}',
    "cut short": lambda text: text[: len(text) // 2],
    "not UTF-8": lambda text: b"\xff\xfe" + text,
    "deep": lambda text: b"[" * 100_000,
    "huge": lambda text: text + b" " * (65 << 20),
    "another version": lambda text: text.replace(b'"format": 1', b'"format": 99'),
    "a number in quotes": lambda text: text.replace(b'"rows": 6', b'"rows": "6"'),
    "a negative number": lambda text: text.replace(b'"queries": 6', b'"queries": -6'),
    "a contradiction": lambda text: text.replace(b'"queries": 6', b'"queries": 0'),
    "a huge number": lambda text: text.replace(b'"rows": 6', b'"rows": 1' + b"0" * 5000),
    "half a character": lambda text: text.replace(b'"A set"', rb'"\ud800"'),
    "a split that leaves the folder": lambda text: text.replace(b'"train": {', b'"../../train": {'),
    "no split": lambda text: re.sub(rb'"splits": \{.*?\}\s*\}', b'"splits": {}', text, flags=re.DOTALL),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_broken_record_is_named_with_the_way_out(folder, triplets, damage):
    path = folder / "mining.json"
    before, card = path.read_bytes(), (folder / "README.md").read_text()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    with pytest.raises(ValueError, match=r"mining\.json is damaged or.*Save the dataset again.*move the file away"):
        write_card(folder)
    with pytest.raises(FileExistsError, match=r"would be replaced, but .*mining\.json is damaged or was not written"):
        save_mined(triplets, folder)
    assert (folder / "README.md").read_text() == card


@pytest.mark.parametrize(
    "values",
    [
        {"name": 5},
        {"name": {"a": "b"}},
        {"license": ["mit"]},
        {"language": "en"},
        {"steps": "a step"},
        {"steps": [{"a": 1}]},
        {"versions": ["1"]},
        {"versions": {"torch": 2}},
        {"splits": ["train"]},
        {"splits": {"train": None}},
        {"corpus": {"fingerprint": "a"}},
        {"audit": {"markdown": "# Fine", "split": "train"}},
        {"audit": []},
        {"repo_id": None},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_named(folder, values):
    change(folder, **values)
    (key,) = values
    with pytest.raises(ValueError, match=rf"mining\.json is damaged or was not written .*'record\.{key}"):
        write_card(folder)


def test_the_record_of_another_set_is_named(tmp_path, folder, triplets):
    other = save_mined(DatasetDict(dev=triplets), tmp_path / "other")
    (folder / "mining.json").write_bytes((other / "mining.json").read_bytes())
    with pytest.raises(ValueError, match=r"mining\.json belongs to another dataset: it lists the splits \['dev'\]"):
        write_card(folder)
    corpus, queries = load_sample("earthquakes")
    mined = save_mined(queries.map(BM25Negatives(corpus, k=2), batched=True), tmp_path / "mined", corpus=corpus)
    (folder / "mining.json").write_bytes((mined / "mining.json").read_bytes())
    with pytest.raises(ValueError, match="and a corpus, but the folder has"):
        write_card(folder)


def test_without_a_record_the_card_says_so(folder):
    (folder / "mining.json").unlink()
    (folder / "README.md").unlink()
    assert "The steps were not recorded." in write_card(folder).read_text()
    (folder / "mining.json").write_text('{"made_by": "another program"}')
    assert read_record(folder) is None


# ---- what reaches the card ------------------------------------------------------------------------------------------

EVIL = "<script>alert(1)</script>\n\n# Approved\n\n[click](javascript:alert(1)) \x1b[31m\u202e"


def test_the_audit_is_made_from_its_numbers(folder):
    record = json.loads((folder / "mining.json").read_text())
    before = write_card(folder).read_text()
    change(folder, audit=record["audit"] | {"markdown": EVIL, "defects": [{"name": EVIL, "count": 7, "what": EVIL}]})
    assert write_card(folder).read_text() == before
    assert EVIL not in (folder / "mining.json").read_text()


@pytest.mark.parametrize("place", ["recognized", "form", "hubs", "sources", "scores", "by", "defect", "overlap"])
def test_texts_among_the_numbers_are_shown_as_texts(folder, place):
    numbers = json.loads((folder / "mining.json").read_text())["audit"]["numbers"]
    if place in ("recognized", "form"):
        numbers[place] = EVIL
    elif place == "hubs":
        numbers["hubs"] = [[EVIL, 3]]
    elif place == "sources":
        numbers["sources"] = {EVIL: 3}
    elif place == "overlap":
        numbers["overlap"] = {EVIL: 0.5}
    elif place == "scores":
        histogram = [[0.0, 1.0], [1], [2]]
        numbers["scores"] = {
            EVIL: {"positive": None, "negative": None, "margin": None, "above": 0.5, "histogram": histogram}
        }
    elif place == "by":
        numbers["false_negatives"] = {
            "by": EVIL, "rate": 0.5, "low": 0.4, "high": 0.6, "false": 1, "negatives": 2, "queries": 1, "rule": EVIL
        }  # fmt: skip
    else:
        numbers["defects"] = [
            {"name": EVIL, "count": 1, "what": EVIL, "remedy": EVIL, "examples": [EVIL], "of_rows": 6}
        ]
    change(folder, audit={"split": "train", "numbers": numbers})
    card = write_card(folder).read_text()
    assert_harmless(card)


@pytest.mark.parametrize("key", ["name", "source", "repo_id", "license"])
@pytest.mark.parametrize("text", [EVIL, "https://example.org/\u202egpj.exe", "me/\u202eset", "\u2066mit"])
def test_other_texts_of_the_record_are_shown_as_texts(folder, key, text):
    change(folder, **{key: text})
    assert_harmless(write_card(folder).read_text())


def test_languages_are_texts_of_the_metadata(folder):
    change(folder, language=["en", "\u202een: x"])
    assert_harmless(write_card(folder).read_text())
    assert metadata_load(folder / "README.md")["language"] == ["en", "en: x"]


def test_steps_and_versions_are_shown_as_texts(folder):
    change(folder, steps=[EVIL, "```"], versions={EVIL: EVIL, "| a": "b |"})
    assert_harmless(write_card(folder).read_text())


def assert_harmless(card):
    body = card.split("\n---\n", 1)[1]
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    assert "<script>" not in outside
    assert "\n# Approved" not in card
    assert "[click](" not in outside
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", card)


def test_numbers_are_those_of_the_data(folder):
    splits = json.loads((folder / "mining.json").read_text())["splits"]
    change(folder, splits={"train": splits["train"] | {"rows": 10**12}})
    assert "num_examples: 6" in write_card(folder).read_text()


def test_a_changed_record_gives_a_card_that_is_signed_again(folder):
    change(folder, license="mit")
    write_card(folder)
    assert "license: mit" in write_card(folder).read_text()
