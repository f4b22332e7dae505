"""Rows whose candidates come from elsewhere: known positives, copies and titled copies are planted among them."""

from typing import NamedTuple

from datasets import Dataset
from hypothesis import strategies as st

from hnm_datasets import Corpus

#: A passage, the same in other case and white space, with a title, and with another title in another case.
VARIANTS = [
    (None, "text {0} of all"),
    (None, "Text {0}  of ALL"),
    ("zoo", "text {0} of all"),
    ("park", "TEXT {0} of all"),
]
FAMILIES = 6
IDS = [f"f{family}v{variant}" for family in range(FAMILIES) for variant in range(len(VARIANTS))]
QUESTIONS = ["why?", "WHY?", " why?", "how?", "where?"]


def corpus_of_copies():
    """A corpus in which the four passages of a family are copies of each other."""
    columns = {"id": IDS, "title": [], "text": []}
    for family in range(FAMILIES):
        for title, text in VARIANTS:
            columns["title"].append(title)
            columns["text"].append(text.format(family))
    return Corpus.from_dataset(Dataset.from_dict(columns))


def family(name):
    return name[:2]


class Planted(NamedTuple):
    """Rows with planted known positives.

    Attributes:
        columns: The rows.
        kept: The candidates of each row that the row itself does not know.
        kept_by_question: The candidates of each row that no row of its question knows.
    """

    columns: dict
    kept: list
    kept_by_question: list


@st.composite
def planted_rows(draw):
    lists = st.lists(st.sampled_from(IDS), max_size=9)
    size = draw(st.integers(1, 4))
    columns = {
        "query_id": [f"q{row}" for row in range(size)],
        "query": [draw(st.sampled_from(QUESTIONS)) for _ in range(size)],
        "positive_ids": [draw(st.lists(st.sampled_from(IDS), max_size=2, unique_by=family)) for _ in range(size)],
        "negative_ids": [draw(lists) for _ in range(size)],
    }
    if draw(st.booleans()):
        columns["known_positive_ids"] = [draw(st.lists(st.sampled_from(IDS), max_size=2)) for _ in range(size)]
    others = columns.get("known_positive_ids", [[]] * size)
    known = [{*map(family, [*own, *more])} for own, more in zip(columns["positive_ids"], others, strict=True)]
    questions = [query.strip().lower() for query in columns["query"]]
    pooled = [
        set().union(*(one for one, other in zip(known, questions, strict=True) if other == own)) for own in questions
    ]

    def kept(of):
        return [
            [name for name in names if family(name) not in one]
            for names, one in zip(columns["negative_ids"], of, strict=True)
        ]

    return Planted(columns, kept(known), kept(pooled))
