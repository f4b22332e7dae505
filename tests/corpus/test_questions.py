"""Which rows ask the same question."""

import pyarrow as pa
import pytest

from hnm_datasets.corpus.questions import question_codes


@pytest.mark.parametrize(
    ("queries", "codes"),
    [
        (["why?", "Why?", "why ?", " why?\n"], [0, 0, 2, 0]),
        (["ﬁne", "FINE", "fine", "Straße", "STRASSE"], [0, 0, 0, 3, 3]),
        (["", " ", ""], [0, 1, 2]),
        ([], []),
    ],
)
def test_questions_are_known_by_their_normalized_text(queries, codes):
    queries = pa.array(queries, pa.string())
    assert question_codes([queries]).tolist() == codes
    assert question_codes(queries.slice(place, 1) for place in range(len(queries))).tolist() == codes
