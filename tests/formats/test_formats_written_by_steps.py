"""What sentence-transformers and our own shapes write is recognized and read; teachers' labels are refused."""

import numpy as np
import pytest
from datasets import Dataset, List, Value
from sentence_transformers.util import mine_hard_negatives

from hnm_datasets import BM25Negatives, Corpus, ToLabeledLists, ToLabeledPairs, ToNTuples, ToTriplets
from hnm_datasets.batch import Batch
from hnm_datasets.formats.registry import recognize


def read(dataset):
    layout = recognize(dataset.column_names, "test")
    return layout, layout.read(Batch(dataset.with_format("arrow")[:], step="test"))


@pytest.fixture(scope="module")
def pairs():
    subjects = ["plates", "waves", "bread", "stars", "rivers", "clouds"]
    return Dataset.from_dict(
        {"question": [f"what moves {one}?" for one in subjects], "reply": [f"{one} are moved so" for one in subjects]}
    )


@pytest.mark.parametrize(
    ("output_format", "form"),
    [
        ("triplet", "triplets"),
        ("n-tuple", "n-tuples"),
        ("labeled-pair", "labeled-pairs"),
        ("labeled-list", "labeled-lists"),
    ],
)
@pytest.mark.parametrize("output_scores", [False, True])
def test_the_rows_of_sentence_transformers(pairs, static_model, output_format, form, output_scores):
    rows = mine_hard_negatives(
        pairs,
        static_model,
        num_negatives=2,
        output_format=output_format,
        output_scores=output_scores,
        verbose=False,
    )
    if output_scores and form.startswith("labeled"):
        with pytest.raises(KeyError, match="do not distinguish positives from negatives"):
            recognize(rows.column_names, "test")
        return
    found, read_ = read(rows)
    assert found.format.name == form
    assert (found.query, found.positives) == ("question", ("reply",))
    queries = np.array(read_.queries)
    positives, negatives = (
        set(zip(queries[side.owners].tolist(), side.texts.to_pylist(), strict=True))
        for side in (read_.positives, read_.negatives)
    )
    assert positives == set(zip(pairs["question"], pairs["reply"], strict=True))
    assert len(negatives) == 12
    assert not negatives & positives
    if output_scores:
        first, *others = np.array(rows["scores"][:]).T
        assert read_.positives.scores["score"].tolist() == first.tolist()
        assert read_.negatives.scores["score"].tolist() == np.stack(others, axis=1).ravel().tolist()
    else:
        assert read_.negatives.scores == {}


@pytest.fixture(scope="module")
def mined():
    names = list("abcdef")
    corpus = Corpus.from_dataset(Dataset.from_dict({"id": names, "text": [f"plates {name} move" for name in names]}))
    rows = Dataset.from_dict(
        {"query_id": ["q1", "q2"], "query": ["plates move?", "move?"], "positive_ids": [["a", "b"], ["c"]]}
    )
    rows = rows.map(BM25Negatives(corpus, k=2), batched=True)
    for part in ("positive", "negative"):
        scores = [[0.5] * len(ids) for ids in rows[f"{part}_ids"]]
        rows = rows.add_column(f"{part}_teacher_scores", scores, feature=List(Value("float32")))
    return corpus, rows


@pytest.mark.parametrize("step", [ToTriplets, ToNTuples, ToLabeledPairs, ToLabeledLists])
def test_the_rows_of_our_shapes(mined, step):
    corpus, rows = mined
    made = rows.map(step(corpus, n=2, with_ids=True, with_scores=True), batched=True, remove_columns=rows.column_names)
    layout, read_ = read(made)
    assert layout.query_id == "anchor_id"
    for side, part in ((read_.positives, "positive"), (read_.negatives, "negative")):
        ids = side.ids.to_pylist()
        assert side.texts.to_pylist() == [corpus[name]["text"] for name in ids]
        known = {
            (row["query_id"], name): score
            for row in rows
            for name, score in zip(row[f"{part}_ids"], row[f"{part}_scores"], strict=True)
        }
        owners = np.array(read_.query_ids)[side.owners].tolist()
        assert dict(zip(zip(owners, ids, strict=True), side.scores["score"].tolist(), strict=True)) == known


@pytest.mark.parametrize("step", [ToLabeledPairs, ToLabeledLists])
def test_labels_of_a_teacher_are_refused(mined, step):
    corpus, rows = mined
    made = rows.map(step(corpus, labels="scores"), batched=True, remove_columns=rows.column_names)
    with pytest.raises(ValueError, match=r"'labeled-\w+' was recognized.*1 for positives and 0.*holds 0\.5.*teacher"):
        read(made)


@pytest.mark.parametrize("step", [ToTriplets, ToNTuples])
def test_labels_beside_positives_and_negatives_do_no_harm(mined, step):
    corpus, rows = mined
    made = rows.map(step(corpus, n=2, labels="margins"), batched=True, remove_columns=rows.column_names)
    layout, read_ = read(made)
    assert layout.format.name in ("triplets", "n-tuples")
    assert read_.negatives.scores == {}
