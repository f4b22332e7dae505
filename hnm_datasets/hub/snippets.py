"""The Python of a dataset card: code that loads a published set and trains on it with the stock trainers."""

from __future__ import annotations

import json

from datasets import Features

from hnm_datasets.formats.reading import FLAGEMBEDDING, LABELED_LISTS, LABELED_PAIRS, MINED, TEVATRON, Form

#: The columns that the trainers of sentence-transformers take for labels, whatever the form.
_LABELS = ("label", "labels", "score", "scores")

_BI_ENCODER = """\
model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
args = SentenceTransformerTrainingArguments(
    output_dir="model",
    num_train_epochs=1,
    per_device_train_batch_size=64,
    batch_sampler="no_duplicates",  # the same passage twice in a batch would be a negative of its own query
)
trainer = SentenceTransformerTrainer(model, args, train_dataset=train, loss={loss}(model))
trainer.train()
"""

_CROSS_ENCODER = """\
model = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")
args = CrossEncoderTrainingArguments(output_dir="model", num_train_epochs=1, per_device_train_batch_size=64)
trainer = CrossEncoderTrainer(model, args, train_dataset=train, loss={loss}(model))
trainer.train()
"""

_TRIPLETS_OF_LISTS = """\
def triplets(rows):
    made = {{"anchor": [], "positive": [], "negative": []}}
    for query, positives, negatives in zip(rows[{query}], rows[{positives}], rows[{negatives}]):
        for positive in positives[:1]:
            for negative in negatives:
                made["anchor"].append(query)
                made["positive"].append({positive})
                made["negative"].append({negative})
    return made
"""


def usage(
    form: Form, features: Features, place: str, split: str, *, corpus: str | None, graded: bool, gaps: bool
) -> str:
    """Write the code that trains on a set of any form.

    Args:
        form: The set's form.
        features: The set's features.
        place: Its Hub id.
        split: The split to train on.
        corpus: For passages by id: the code that makes `passages`, the dataset of passages.
        graded: Labelled forms: whether the labels are other numbers than 0 and 1.
        gaps: Whether a text may be null.
    """
    loss = _loss(form, graded)
    if form.name in (LABELED_PAIRS, LABELED_LISTS):
        imports = [
            "from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments",
            f"from sentence_transformers.cross_encoder.losses import {loss}",
        ]
        training = _CROSS_ENCODER
    else:
        imports = [
            "from sentence_transformers import (",
            "    SentenceTransformer,",
            "    SentenceTransformerTrainer,",
            "    SentenceTransformerTrainingArguments,",
            ")",
            f"from sentence_transformers.sentence_transformer.losses import {loss}",
        ]
        training = _BI_ENCODER
    if form.name == MINED:
        imports += ["", "from hnm_datasets import Corpus, ToTriplets"]
    loading = _loading(form, features, place, split, corpus, gaps)
    return "\n".join(["from datasets import load_dataset", *imports, "", loading]) + training.format(loss=loss)


def _loss(form: Form, graded: bool) -> str:
    if form.name == LABELED_PAIRS:
        return "MSELoss" if graded else "BinaryCrossEntropyLoss"
    if form.name == LABELED_LISTS:
        return "ListNetLoss" if graded else "LambdaLoss"
    # Both kinds of labels that a teacher gives, margins and scores, are what this loss takes.
    return "MarginMSELoss" if _label(form) else "MultipleNegativesRankingLoss"


def _label(form: Form) -> str | None:
    if form.name in (MINED, TEVATRON, FLAGEMBEDDING):
        return None
    return form.label or next((name for name in _LABELS if name in form.names), None)


def _loading(form: Form, features: Features, place: str, split: str, corpus: str | None, gaps: bool) -> str:
    load = f"load_dataset({quoted(place)}, split={quoted(split)})"
    if form.name == MINED:
        return (
            f"{corpus}"
            "corpus = Corpus.from_dataset(passages)\n"
            f"mined = {load}\n"
            "train = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)\n\n"
        )
    if form.name in (TEVATRON, FLAGEMBEDDING):
        (positives,), (negatives,) = form.positives, form.negatives
        parts = {
            part: _passage(part, features[column])
            for part, column in (("positive", positives), ("negative", negatives))
        }
        code = _TRIPLETS_OF_LISTS.format(
            query=quoted(form.query), positives=quoted(positives), negatives=quoted(negatives), **parts
        )
        mapped = "train = rows.map(triplets, batched=True, remove_columns=rows.column_names)\n\n"
        return f"\n{code}\n\nrows = {load}\n{mapped}"
    label = _label(form)
    wanted = [form.query, *form.positives, *form.negatives, *([label] if label else [])]
    # A trainer takes every column that is no label for a text, in the order of the columns.
    chosen = "" if list(form.names) == wanted else f"train = train.select_columns({quoted(wanted)})\n"
    filled = "train = train.filter(lambda row: None not in row.values())\n" if gaps else ""
    return f"train = {load}\n{chosen}{filled}\n"


def quoted(value: str | list[str]) -> str:
    r"""Write a text, or a list of them, as Python.

    Example:
        >>> print(quoted(["query", 'a "b"']))
        ["query", "a \"b\""]
    """
    return json.dumps(value, ensure_ascii=False)


def _passage(name: str, feature: object) -> str:
    inner = getattr(feature, "feature", None)
    if not isinstance(inner, dict):
        return name
    return f"f\"{{{name}['title']}} {{{name}['text']}}\".strip()" if "title" in inner else f'{name}["text"]'
