"""The same two queries in several formats, and what is read from them."""

from datasets import Dataset

from hnm_datasets import Corpus
from hnm_datasets.batch import Batch
from hnm_datasets.formats.registry import recognize

#: Those that `example` writes.
LIST_FORMATS = ["mined", "n-tuples", "labeled-lists", "tevatron", "flagembedding"]
SIDES = ("positives", "negatives")
#: Two queries with one positive and two negatives each.
QUERIES = ["one?", "two?"]
TEXTS = {"positives": [["A"], ["B"]], "negatives": [["x", "y"], ["z", "x"]]}
IDS = {"positives": [["a"], ["b"]], "negatives": [["1", "2"], ["3", "1"]]}
SCORES = {"positives": [[4.0], [3.0]], "negatives": [[2.0, 1.0], [0.5, 0.25]]}


def read(columns, batch_format="arrow", **options):
    dataset = columns if isinstance(columns, Dataset) else Dataset.from_dict(columns, **options)
    layout = recognize(dataset.column_names, "test")
    return layout, layout.read(Batch(dataset.with_format(batch_format)[:], step="test"))


def lists(side, part):
    """Write a part of a side as lists, row by row."""
    values = getattr(side, part) if part != "scores" else side.scores
    if part == "scores":
        return {name: lists_of(side, one.tolist()) for name, one in values.items()}
    return None if values is None else lists_of(side, values.to_pylist())


def lists_of(side, values):
    return [values[begin:end] for begin, end in zip(side.offsets[:-1], side.offsets[1:], strict=True)]


def parts(rows, part):
    return {name: lists(getattr(rows, name), part) for name in SIDES}


def example(name, ids=True, scores=True):
    """Write the two queries in a format with lists, or n-tuples."""
    anchors = {"anchor_id": ["q1", "q2"]} if ids else {}
    queries = {"query": QUERIES} | ({"query_id": ["q1", "q2"]} if ids else {})
    both = [[*a, *b] for a, b in zip(TEXTS["positives"], TEXTS["negatives"], strict=True)]
    both_ids = [[*a, *b] for a, b in zip(IDS["positives"], IDS["negatives"], strict=True)]
    both_scores = [[*a, *b] for a, b in zip(SCORES["positives"], SCORES["negatives"], strict=True)]
    if name == "mined":
        columns = queries | {"positive_ids": IDS["positives"], "negative_ids": IDS["negatives"]}
        if scores:
            columns |= {"positive_scores": SCORES["positives"], "negative_scores": SCORES["negatives"]}
        return columns
    if name == "n-tuples":
        columns = {"anchor": QUERIES, "positive": ["A", "B"], "negative_1": ["x", "z"], "negative_2": ["y", "x"]}
        if ids:
            columns |= anchors | {"positive_id": ["a", "b"], "negative_1_id": ["1", "3"], "negative_2_id": ["2", "1"]}
        if scores:
            columns |= {"positive_score": [4.0, 3.0], "negative_1_score": [2.0, 0.5], "negative_2_score": [1.0, 0.25]}
        return columns
    if name == "labeled-lists":
        columns = {"anchor": QUERIES, "passages": both, "labels": [[1.0, 0.0, 0.0]] * 2}
        columns |= anchors | ({"passage_ids": both_ids} if ids else {})
        return columns | ({"passage_scores": both_scores} if scores else {})
    if name == "tevatron":
        passages = {
            f"{side.removesuffix('s')}_passages": [
                [{"docid": i, "title": "", "text": t} for i, t in zip(*row, strict=True)]
                for row in zip(IDS[side], TEXTS[side], strict=True)
            ]
            for side in SIDES
        }
        return queries | passages
    columns = queries | {"pos": TEXTS["positives"], "neg": TEXTS["negatives"], "prompt": ["p"] * 2, "type": ["t"] * 2}
    if ids:
        columns |= {"pos_id": IDS["positives"], "neg_id": IDS["negatives"]}
    return columns | ({"pos_scores": SCORES["positives"], "neg_scores": SCORES["negatives"]} if scores else {})


# ---- rows to convert ---------------------------------------------------------------------------------------------

#: Three mined queries, of passages that `make_corpus` has.
MINED = {
    "query_id": ["q1", "q2", "q3"],
    "query": ["one?", "two?", "three?"],
    "positive_ids": [["a", "b"], ["c"], ["d"]],
    "positive_scores": [[5.0, 4.5], [4.0], [3.5]],
    "negative_ids": [["c", "d"], ["e", "a"], ["b", "a"]],
    "negative_scores": [[3.0, 2.0], [2.5, 1.5], [0.5, 0.25]],
}


def make_corpus():
    names = list("abcde")
    rows = {
        "id": names,
        "title": [f"Title {n}" if n < "d" else None for n in names],
        "text": [f"text {n}" for n in names],
    }
    return Corpus.from_dataset(Dataset.from_dict(rows))


def text(name):
    return f"Title {name} text {name}" if name < "d" else f"text {name}"


def passage(name):
    return {"docid": name, "title": f"Title {name}" if name < "d" else "", "text": f"text {name}"}


def mined(**columns):
    return Dataset.from_dict(MINED | columns)


def without(dataset, *names):
    return dataset.remove_columns([name for name in names if name in dataset.column_names])
