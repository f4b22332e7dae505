"""Audits and explanations in every script."""

import pytest
from datasets import Dataset
from languages import LANGUAGES, SINGLE

from hnm_datasets import audit_negatives, explain


@pytest.mark.parametrize("stop", ["。", " .", "!", "\u200b"])
def test_near_duplicates_of_positives_in_every_script(stop):
    texts = [language.holds * 2 for language in LANGUAGES.values()]
    rows = {"anchor": [language.query for language in LANGUAGES.values()], "positive": texts}
    found = audit_negatives(Dataset.from_dict(rows | {"negative": [text + stop for text in texts]}))
    counts = {defect.name: defect.count for defect in found.defects}
    assert counts["near-duplicates-of-positives"] == len(texts)
    other = audit_negatives(
        Dataset.from_dict(rows | {"negative": [language.others[0] * 2 for language in LANGUAGES.values()]})
    )
    assert "near-duplicates-of-positives" not in {defect.name for defect in other.defects}


@pytest.mark.parametrize("languages", [LANGUAGES, SINGLE])
def test_the_words_that_a_passage_shares_with_the_query(languages):
    for name, language in languages.items():
        row = {"anchor": language.query, "positive": language.holds, "negative": language.others[0]}
        positive, negative = (passage.shared for passage in explain(row).passages)
        assert positive, name
        assert not negative, name


def test_what_is_shared_is_shown_as_it_is_searched():
    row = {"anchor": "猫的寿命 BERT", "positive": "Bert有只猫", "negative": "他的寿命很长"}
    assert [passage.shared for passage in explain(row).passages] == [("bert", "猫"), ("的寿", "寿命", "的", "寿", "命")]
