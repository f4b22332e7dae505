"""The card says what is true, and no text breaks it."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import metadata_load

import hnm_datasets
from hnm_datasets import (
    BM25Negatives,
    Corpus,
    ToLabeledPairs,
    ToTriplets,
    audit_negatives,
    load_sample,
)
from hnm_datasets.hub.saving import save_mined, write_card
from hnm_datasets.markdown import code, fenced, link, plain

HOSTILE = [
    "---\nlicense: other\n---\n# Heading",
    "```python\nimport os\n```\n~~~\n````",
    "| a | b |\n|---|---|\n| <script>alert(1)</script> | <!-- hnm_datasets card 0123456789abcdef --> |",
    "</details></table> [link](javascript:alert(1)) ![x](http://evil.example/x.png) www.evil.example http://evil.example",
    "\x00\x1b[31mred\x1b[0m\r\n\u202egnirts\u2028next\u0085end",
    "*bold* _it_ `code` $x$ {{ jinja }} {% raw %} \\ &amp; {0} %s",
    "x" * 5_000,
]


@pytest.fixture(scope="module")
def mined():
    corpus, queries = load_sample()
    return corpus, queries.select(range(40)).map(BM25Negatives(corpus, k=4), batched=True)


def card_of(folder):
    return (folder / "README.md").read_text()


def body_of(card):
    return card.split("\n---\n", 1)[1]


def python_of(card):
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)
    return snippet


def shaped(mined, step):
    return mined.map(step, batched=True, remove_columns=mined.column_names)


# ---- what it says ------------------------------------------------------------------------------------------------


def test_the_chain_and_the_versions(tmp_path, mined):
    corpus, rows = mined
    steps = [BM25Negatives(corpus, k=4), ToTriplets(corpus), "kept those that a person\nliked"]
    card = card_of(save_mined(shaped(rows, steps[1]), tmp_path / "set", corpus=corpus, steps=steps))
    shown = [re.sub(r", \w+=None(?=[,)])", "", repr(step)) for step in steps]
    assert f"```text\n1. {shown[0]}\n2. {shown[1]}\n3. kept those that a person liked\n```" in card
    assert f"{len(corpus):,} passages (fingerprint `{corpus.fingerprint}`)" in card
    import bm25s
    import datasets

    assert f"| datasets | {datasets.__version__} |" in card
    assert f"| bm25s | {bm25s.__version__} |" in card
    assert "| python | 3." in card
    other = card_of(save_mined(rows, tmp_path / "other"))
    assert "The steps were not recorded." in other
    urls = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["urls"]
    made = f"with [hnm_datasets]({urls['Homepage']}) {hnm_datasets.__version__} (`pip install hnm-datasets`)."
    assert f"Mined {made}" in card
    assert f"Published {made}" in other


def test_addresses_and_the_home_are_not_told(tmp_path, monkeypatch, mined):
    monkeypatch.setenv("HOME", "/home/someone")
    steps = [lambda row: row, ("/home/someone/models/mine",)]
    card = card_of(save_mined(mined[1], tmp_path / "set", steps=steps))
    assert " at 0x" not in card
    assert "someone" not in card
    assert "2. ('models/mine',)" in card
    old = ["mined by /opt/tools/bin/miner", "Encoder('C:\\\\Users\\\\me\\\\minilm')", "see https://a.org/b/c", "and/or"]
    folder = save_mined(mined[1], tmp_path / "old", source="/data/of/someone/scifact")
    record = json.loads((folder / "mining.json").read_text())
    (folder / "mining.json").write_text(json.dumps(record | {"steps": old, "source": "/data/of/someone/scifact"}))
    card = write_card(folder).read_text()
    assert "1. mined by bin/miner\n2. Encoder('me/minilm')\n3. see https://a.org/b/c\n4. and/or\n" in card
    assert "Mined from scifact." in card
    assert "someone" not in (folder / "mining.json").read_text()


def test_false_negatives_are_told_with_their_interval(tmp_path, mined):
    corpus, rows = mined
    unknown = card_of(save_mined(rows, tmp_path / "unknown", corpus=corpus))
    assert "is unknown" in unknown.split("## Caveats")[1]
    # One negative of each of the first ten rows is relevant.
    judged = {"query_id": [], "corpus_id": [], "score": []}
    for place, row in enumerate(rows):
        for passage in [*row["positive_ids"], *(row["negative_ids"][:1] if place < 10 else [])]:
            judged["query_id"].append(row["query_id"])
            judged["corpus_id"].append(passage)
            judged["score"].append(1)
    judgments = Dataset.from_dict(judged)
    folder = save_mined(rows, tmp_path / "judged", corpus=corpus, judgments=judgments)
    found = audit_negatives(rows, corpus, judgments=judgments).false_negatives
    assert found.rate == pytest.approx(10 / 160)
    assert (
        f"an estimated {found.rate:.1%} of the negatives are relevant (95% interval {found.low:.1%} to "
        f"{found.high:.1%}), according to judgments" in card_of(folder)
    )
    given = audit_negatives(rows, corpus, judgments=judgments)
    given = replace(given, false_negatives=replace(given.false_negatives, by="a | teacher", rate=0.5))
    card = card_of(save_mined(rows, tmp_path / "given", corpus=corpus, audit=given))
    assert "an estimated 50.0%" in card
    assert r"according to a \| teacher" in card
    record = json.loads((folder / "mining.json").read_text())
    assert record["audit"]["false_negatives"]["rate"] == pytest.approx(found.rate)


def test_the_audit_is_part_of_the_card(tmp_path, mined):
    corpus, rows = mined
    card = card_of(save_mined(rows, tmp_path / "set", corpus=corpus))
    assert audit_negatives(rows, corpus).to_markdown() in card
    assert "| false negatives | not measured |" in card
    graded = card_of(save_mined(shaped(rows, ToLabeledPairs(corpus, labels="scores", by="score")), tmp_path / "graded"))
    assert "Not audited: the labels are a teacher's scores" in graded


def test_license(tmp_path, mined):
    stated = card_of(save_mined(mined[1], tmp_path / "stated", license="mit"))
    assert "**License**: mit, as stated by the publisher of this dataset." in stated
    assert "**License**: not stated." in card_of(save_mined(mined[1], tmp_path / "not"))


# ---- no text breaks it -------------------------------------------------------------------------------------------


def outline(card):
    """The headings outside of code blocks, the fences and the tables' widths."""
    headings, widths, fence = [], [], None
    for line in body_of(card).splitlines():
        ticks = re.match(r"(`{3,}|~{3,})", line)
        if fence:
            fence = None if line == fence else fence
        elif ticks:
            fence = ticks[1]
        elif line.startswith("#"):
            headings.append(line)
        elif line.startswith("|"):
            widths.append(len(re.findall(r"(?<!\\)\|", line)))
    assert fence is None, "a code block was not closed"
    return [heading for heading in headings if heading.startswith("## ")], widths


@pytest.mark.parametrize("form", ["triplets", "labeled-pairs", "mined", "tevatron"])
def test_hostile_texts_do_not_break_the_card(tmp_path, form):
    # Every text is in one of the three examples at least once.
    texts = [" ".join(HOSTILE[:3]), " ".join(HOSTILE[3:6]), HOSTILE[6]]
    corpus = Corpus.from_dataset(
        Dataset.from_dict({"id": ["`|\n# a", "<b>", "---"], "text": texts, "title": ["<i>|", "```", "#"]})
    )
    ids = ["`|\n# a", "<b>", "---"]
    rows = {
        "triplets": {"anchor": texts, "positive": texts, "negative": texts[::-1]},
        "labeled-pairs": {"anchor": texts, "passage": texts, "label": [1, 0, 1]},
        "mined": {"query": texts, "positive_ids": [[one] for one in ids], "negative_ids": [[one] for one in ids[::-1]]},
        "tevatron": {
            "query_id": ids,
            "query": texts,
            "positive_passages": [[{"docid": "a", "title": "|", "text": text}] for text in texts],
            "negative_passages": [[{"docid": "b", "title": "```", "text": text}] for text in texts],
        },
    }[form]
    hostile = {"name": HOSTILE[0], "source": HOSTILE[3], "license": HOSTILE[2], "steps": [HOSTILE[1], HOSTILE[4]]}
    dataset = Dataset.from_dict(rows | {"`|<b>\n---": ["x"] * 3})
    folder = save_mined(dataset, tmp_path / "set", corpus=corpus if form == "mined" else None, **hostile)
    card = card_of(folder)
    headings, widths = outline(card)
    names = ["How it was mined", "Audit", "Examples", "Use", "Caveats"]
    assert headings == [f"## {name}" for name in names]
    assert set(widths) <= {3, 4, 8}
    assert "<script" not in body_of(card)
    assert "<b>" not in re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", body_of(card))
    ours = body_of(card)
    assert "[link](javascript" not in ours
    assert r"\[link\](javascript" in ours
    assert "http://evil" not in ours
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", ours)
    assert max(map(len, card.split("## Examples")[1].split("## Use")[0].splitlines())) < 500
    metadata = metadata_load(folder / "README.md")
    assert metadata["license"] == HOSTILE[2]
    assert metadata["pretty_name"] == "--- license: other --- # Heading"
    assert load_dataset(str(folder), split="train").to_list() == dataset.to_list()
    compile(python_of(card), "README.md", "exec")
    write_card(folder)
    assert card_of(folder) == card


def test_markdown():
    assert plain("a  b\n\tc", 100) == "a b c"
    assert plain("x" * 50, 20) == "x" * 18 + " …"
    assert plain("*a* [b](c)", 50) == r"\*a\* \[b\](c)"
    assert code("a|b`c") == "`` a/b`c ``"
    assert fenced("````", "text") == "`````text\n````\n`````"
    assert link("me/set") == "[me/set](https://huggingface.co/datasets/me/set)"
    assert link("https://example.org/a?b=c") == "<https://example.org/a?b=c>"
    assert link("https://example.org/a) b") == r"https:\//example.org/a) b"
    assert link("a book") == "a book"
