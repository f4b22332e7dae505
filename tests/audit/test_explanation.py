import json

import pytest
from datasets import Dataset, Features, List, Value

from hnm_datasets import (
    BiEncoderScores,
    BM25Negatives,
    Corpus,
    DropNearDuplicates,
    RankWindow,
    RelativeMargin,
    SortNegatives,
    TeacherThreshold,
    ToLabeledLists,
    ToNTuples,
    TopNegatives,
    ToTriplets,
    explain,
    load_sample,
)


@pytest.fixture(scope="module")
def earthquakes():
    corpus, queries = load_sample("earthquakes")
    return corpus, queries.map(BM25Negatives(corpus, k=4), batched=True)


def negatives(found):
    return [passage for passage in found.passages if passage.kind == "negative"]


def verdicts(found, step):
    return [passage.verdicts[step] for passage in negatives(found)]


TABLE = """\
what causes earthquakes? (q1)

            rank    score  source  shared words             passage
  positive     -   0.51    -       causes earthquakes       [plate-boundaries] Where plates meet …
  negative     1   1.24 ^  bm25    what causes earthquakes  [richter-scale] The Richter scale The …
  negative     2  0.662 ^  bm25    causes earthquakes       [tsunamis] Tsunamis A tsunami is a …
  negative     4  0.342    bm25    earthquakes              [san-francisco-1906] San Francisco, …
  negative     5  0.331    bm25    causes                   [volcanoes] Volcanoes Magma that rises …
  ^ scores above the positives"""


def test_the_table_of_earthquakes(earthquakes):
    corpus, mined = earthquakes
    assert repr(explain(mined[0], corpus)) == TABLE


def test_what_the_table_says_is_in_the_passages(earthquakes):
    corpus, mined = earthquakes
    row = mined[0]
    found = explain(row, corpus)
    assert (found.query, found.query_id) == (row["query"], "q1")
    assert [passage.id for passage in found.passages] == row["positive_ids"] + row["negative_ids"]
    assert [passage.kind for passage in found.passages] == ["positive"] + ["negative"] * 4
    assert [passage.rank for passage in found.passages] == [None, *row["negative_ranks"]]
    assert [passage.scores["score"] for passage in found.passages] == row["positive_scores"] + row["negative_scores"]
    limit = row["positive_scores"][0]
    assert [one.above["score"] for one in negatives(found)] == [score > limit for score in row["negative_scores"]]
    assert found.passages[0].above == {}
    assert found.passages[1].text == corpus.texts(corpus.rows(["richter-scale"]))[0].as_py()
    assert all(passage.verdicts == {} for passage in found.passages)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["passages"][1]["id"] == "richter-scale"


def test_a_mark_is_against_the_mean_of_several_positives():
    row = {
        "query": "q",
        "positive_ids": ["p", "r"],
        "negative_ids": ["a", "b", "c"],
        "positive_teacher_scores": [0.2, 0.6],
        "negative_teacher_scores": [0.5, 0.4, 0.3],
    }
    found = explain(row)
    assert [passage.above for passage in negatives(found)] == [
        {"teacher": True},
        {"teacher": False},
        {"teacher": False},
    ]


def test_without_a_corpus_the_ids_are_shown(earthquakes):
    _, mined = earthquakes
    found = explain(mined[0])
    assert {passage.text for passage in found.passages} == {None}
    assert "[richter-scale]" in repr(found)
    assert "shared words" not in repr(found)


# ---- steps -----------------------------------------------------------------------------------------------------------


def test_each_filter_gives_its_verdicts(earthquakes):
    corpus, mined = earthquakes
    found = explain(mined[0], corpus, [RankWindow(min=2), DropNearDuplicates(corpus), TopNegatives(2)])
    assert verdicts(found, "RankWindow") == ["dropped", "kept", "kept", "kept"]
    assert verdicts(found, "DropNearDuplicates") == ["gone", "kept", "kept", "kept"]
    assert verdicts(found, "TopNegatives") == ["gone", "kept", "kept", "dropped"]
    assert found.passages[0].verdicts == {}
    # What is left is what the chain leaves.
    rows = mined
    for step in (RankWindow(min=2), DropNearDuplicates(corpus), TopNegatives(2)):
        rows = rows.map(step, batched=True)
    kept = [passage.id for passage in negatives(found) if passage.verdicts["TopNegatives"] == "kept"]
    assert kept == rows[0]["negative_ids"]


def test_the_same_step_twice_has_two_columns(earthquakes):
    corpus, mined = earthquakes
    found = explain(mined[0], corpus, [TopNegatives(3), TopNegatives(2), TopNegatives(1)])
    assert list(negatives(found)[0].verdicts) == ["TopNegatives", "TopNegatives (2)", "TopNegatives (3)"]
    assert verdicts(found, "TopNegatives (2)") == ["kept", "kept", "dropped", "gone"]
    assert verdicts(found, "TopNegatives (3)") == ["kept", "dropped", "gone", "gone"]


def test_a_step_that_drops_everything(earthquakes):
    corpus, mined = earthquakes
    found = explain(mined[0], corpus, [RankWindow(min=90), TopNegatives(1)])
    assert verdicts(found, "RankWindow") == ["dropped"] * 4
    assert verdicts(found, "TopNegatives") == ["gone"] * 4


def test_scorers_among_the_steps_add_their_scores(earthquakes, static_model):
    corpus, mined = earthquakes
    teacher = BiEncoderScores(corpus, static_model, "bi_encoder")
    steps = [RankWindow(min=2), teacher, SortNegatives("bi_encoder"), RelativeMargin(0.05, by="bi_encoder")]
    found = explain(mined[0], corpus, steps)
    scored = mined.map(teacher, batched=True)[0]
    assert found.passages[0].scores["bi_encoder"] == pytest.approx(scored["positive_bi_encoder_scores"][0])
    # What was dropped before was not scored.
    assert "bi_encoder" not in negatives(found)[0].scores
    assert [passage.scores["bi_encoder"] for passage in negatives(found)[1:]] == pytest.approx(
        scored["negative_bi_encoder_scores"][1:]
    )
    # The order of the table stays, whatever a step sorts.
    assert [passage.id for passage in negatives(found)] == mined[0]["negative_ids"]
    limit = 0.95 * scored["positive_bi_encoder_scores"][0]
    assert verdicts(found, "RelativeMargin") == [
        "gone",
        *("kept" if score <= limit else "dropped" for score in scored["negative_bi_encoder_scores"][1:]),
    ]
    assert "BiEncoderScores" not in negatives(found)[0].verdicts
    assert "bi_encoder" in repr(found)


def test_a_promoted_passage_is_neither_kept_nor_dropped():
    ids = ["p", "a", "b", "c"]
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": ids, "text": [f"text of {name}" for name in ids]}))
    row = {
        "query": "q",
        "positive_ids": ["p"],
        "negative_ids": ["a", "b", "c"],
        "positive_teacher_scores": [0.9],
        "negative_teacher_scores": [0.95, 0.5, 0.01],
    }
    steps = [TeacherThreshold(0.1, 0.9, promote=True), TopNegatives(5)]
    found = explain(row, corpus, steps)
    assert verdicts(found, "TeacherThreshold") == ["promoted", "dropped", "kept"]
    assert verdicts(found, "TopNegatives") == ["gone", "gone", "kept"]
    # The table shows the row as it was given.
    assert [passage.id for passage in found.passages] == ids
    assert verdicts(explain(row, corpus, [TeacherThreshold(0.1)]), "TeacherThreshold") == ["dropped", "dropped", "kept"]


def test_a_scorer_after_a_promotion_scores_the_positives_too(earthquakes, static_model):
    corpus, mined = earthquakes
    row = mined[0] | {"positive_teacher_scores": [0.9], "negative_teacher_scores": [0.95, 0.5, 0.01, 0.02]}
    found = explain(
        row, corpus, [TeacherThreshold(0.1, 0.9, promote=True), BiEncoderScores(corpus, static_model, "bi_encoder")]
    )
    scored = mined.map(BiEncoderScores(corpus, static_model, "bi_encoder"), batched=True)[0]
    assert found.passages[0].scores["bi_encoder"] == pytest.approx(scored["positive_bi_encoder_scores"][0])
    assert [("bi_encoder" in passage.scores) for passage in negatives(found)] == [False, False, True, True]
    assert all("bi_encoder" in passage.above for passage in negatives(found)[2:])


# ---- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [ToTriplets, ToNTuples, ToLabeledLists])
def test_rows_with_texts_need_no_corpus(earthquakes, shape):
    corpus, mined = earthquakes
    step = shape(corpus, n=4) if shape is ToNTuples else shape(corpus)
    rows = mined.map(step, batched=True, remove_columns=mined.column_names)
    found = explain(rows[0])
    expected = explain(mined[0], corpus)
    count = len(found.passages)
    assert [one.text for one in found.passages] == [one.text for one in expected.passages[:count]]
    assert [one.shared for one in found.passages] == [one.shared for one in expected.passages[:count]]
    assert count == (2 if shape is ToTriplets else 5)
    with pytest.raises(ValueError, match=r"steps need rows with ids.*Convert the dataset first"):
        explain(rows[0], corpus, [TopNegatives(1)])


def test_rows_of_tevatron_and_flagembedding():
    passage = {"docid": "7", "title": "Cats", "text": "They are red."}
    row = {"query_id": "1", "query": "red cat?", "positive_passages": [passage], "negative_passages": []}
    passages = List({name: Value("string") for name in passage})
    features = Features(
        {
            "query_id": Value("string"),
            "query": Value("string"),
            "positive_passages": passages,
            "negative_passages": passages,
        }
    )
    (one,) = explain(Dataset.from_list([row], features)[0]).passages
    assert (one.id, one.text, one.shared) == ("7", "Cats They are red.", ("red", "cat"))
    flag = explain({"query": "red cat?", "pos": ["Cats."], "neg": ["Red."], "pos_scores": [0.5], "neg_scores": [0.7]})
    assert [(one.id, one.scores, one.above) for one in flag.passages] == [
        (None, {"teacher": 0.5}, {}),
        (None, {"teacher": 0.7}, {"teacher": True}),
    ]


def test_positives_without_scores_give_no_marks():
    row = {"query": "q", "positive_ids": ["p"], "negative_ids": ["a", "b"], "negative_scores": [2.0, None]}
    found = explain(row)
    assert [passage.scores for passage in found.passages] == [{}, {"score": 2.0}, {}]
    assert all(passage.above == {} for passage in found.passages)
    assert "^" not in repr(found)


@pytest.mark.parametrize("side", ["positive_ids", "negative_ids"])
def test_a_row_without_positives_or_negatives(side):
    row = {
        "query": "q",
        "positive_ids": ["p"],
        "negative_ids": ["a"],
        "positive_scores": [1.0],
        "negative_scores": [2.0],
    }
    row |= {side: [], side.replace("ids", "scores"): []}
    (passage,) = explain(row).passages
    assert (passage.kind, passage.above) == ("negative" if side == "positive_ids" else "positive", {})
    both = explain(row | {"positive_ids": [], "negative_ids": [], "positive_scores": [], "negative_scores": []})
    assert both.passages == ()
    assert repr(both).startswith("q")


def test_rows_of_a_formatted_dataset(earthquakes):
    corpus, mined = earthquakes
    assert repr(explain(mined.with_format("numpy")[0], corpus)) == TABLE


def test_a_row_of_a_data_frame(earthquakes):
    corpus, mined = earthquakes
    assert repr(explain(mined.to_pandas().iloc[0], corpus)) == TABLE


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_no_row_is_refused(earthquakes):
    corpus, mined = earthquakes
    with pytest.raises(TypeError, match=r"needs one row, but 'query' is a list. Pass dataset\[0\]"):
        explain(mined[:1], corpus)
    with pytest.raises(TypeError, match=r"such as mined\[0\] or frame.iloc\[0\], got Dataset"):
        explain(mined, corpus)
    with pytest.raises(TypeError, match="got dict"):
        explain({}, corpus)
    with pytest.raises(KeyError, match="no format of mined data"):
        explain({"sentence": "a"})
    with pytest.raises(TypeError, match="corpus must be a Corpus"):
        explain(mined[0], "corpus")
    with pytest.raises(TypeError, match=r"needs one row, but 'query'"):
        explain(mined.with_format("numpy")[:1], corpus)


@pytest.mark.parametrize("column", ["positive_ids", "negative_ids"])
def test_unknown_ids_are_named(earthquakes, column):
    corpus, mined = earthquakes
    row = mined[0]
    row[column] = ["atlantis", *row[column][1:]]
    with pytest.raises(KeyError, match=f"the passage 'atlantis' of {column!r} is not in the corpus"):
        explain(row, corpus)


def test_steps_that_make_other_rows_are_refused(earthquakes):
    corpus, mined = earthquakes
    for step in (len, "RankWindow", RankWindow):
        with pytest.raises(TypeError, match="steps must be transforms"):
            explain(mined[0], corpus, [step])
    for step in (ToTriplets(corpus), BM25Negatives(corpus, k=2)):
        with pytest.raises(TypeError, match=r"scorers or filters.*, got (ToTriplets|BM25Negatives)\("):
            explain(mined[0], corpus, [step])
    with pytest.raises(TypeError, match="a list of"):
        explain(mined[0], corpus, TopNegatives(1))


# ---- how it shows itself ---------------------------------------------------------------------------------------------


HOSTILE = "<script>alert(1)</script> | `rm` *all* \\| \n\n# heading"


def test_hostile_texts_are_escaped():
    found = explain({"anchor": HOSTILE, "positive": HOSTILE, "negative": "[x](javascript:y) " + HOSTILE})
    page = found._repr_html_()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 3
    markdown = found.to_markdown()
    assert "<script>" not in markdown
    assert not any(line.startswith("#") for line in markdown.splitlines())
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    for line in rows:
        # Of what is not escaped, only the table's own.
        assert line.replace("\\\\", "").replace("\\|", "").count("|") == rows[0].count("|")


def test_long_words_and_texts_without_spaces_are_cut():
    text = "地震是由板块运动引起的" * 30
    lines = repr(explain({"anchor": "地震?", "positive": text, "negative": "b" * 500})).splitlines()
    assert any("地震是由板块" in line for line in lines)
    assert any("bbbbbbbb" in line for line in lines)
    assert max(map(len, lines)) < 120
