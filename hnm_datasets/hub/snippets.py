"""The Python code of a dataset card: it loads the dataset and trains on it with the stock trainers."""

from __future__ import annotations

import json
import re

from datasets import Features

from hnm_datasets.formats.base import Layout

#: Control characters that JSON does not escape, and that would change how the code looks.
_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

#: The owner in an id that is not known.
_SOMEONE = "your-name"

_BI_ENCODER = """\
model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
args = SentenceTransformerTrainingArguments(
    output_dir="model",
    num_train_epochs=1,
    per_device_train_batch_size=64,
    batch_sampler="no_duplicates",  # a passage that is twice in a batch would be a negative of its own query
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
    columns = {{"anchor": [], "positive": [], "negative": []}}
    for query, positives, negatives in zip(rows[{query}], rows[{positives}], rows[{negatives}]):
        for positive in {first}:
            for negative in {all}:
                columns["anchor"].append(query)
                columns["positive"].append({positive})
                columns["negative"].append({negative})
    return columns
"""


def usage(
    layout: Layout, features: Features, repo_id: str, split: str, *, corpus: str | None, graded: bool, gaps: bool
) -> str:
    """Return code that trains on a dataset of any format.

    Args:
        layout: The format and columns of the dataset.
        features: The features of the dataset.
        repo_id: Its id on the Hub.
        split: The split to train on.
        corpus: For formats with passage ids: the code that loads `passages`, the dataset of passages.
        graded: For labeled formats: whether there are labels other than 0 and 1.
        gaps: Whether a text may be null.
    """
    format = layout.format
    # In formats with positives and negatives, a label is a teacher's margin or score.
    taught = graded if format.labeled else format.training_label(layout) is not None
    loss = format.teacher_loss if taught else format.loss
    if format.labeled:
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
    if format.needs_corpus:
        imports += ["", "from hnm_datasets import Corpus, ToTriplets"]
    load = f"load_dataset({quoted(repo_id)}, split={quoted(split)}){unknown_id(repo_id)}"
    if format.needs_corpus:
        loading = _loading_ids(load, corpus or "")
    elif format.labeled or (format.trainable and not _has_lists(layout, features)):
        loading = _loading_columns(load, layout, gaps)
    else:
        loading = _loading_lists(load, layout, features)
    return "\n".join(["from datasets import load_dataset", *imports, "", loading]) + training.format(loss=loss)


def placeholder_id(name: str) -> str:
    """Return the id in the code of a dataset without a known Hub id."""
    return f"{_SOMEONE}/{name}"


def unknown_id(repo_id: str) -> str:
    """Return the comment after a line with the id of the dataset; empty if the id is known."""
    is_placeholder = repo_id.startswith(f"{_SOMEONE}/")
    return "  # replace with the dataset's Hub id, or the path of its folder" if is_placeholder else ""


def _loading_ids(load: str, corpus: str) -> str:
    return (
        f"{corpus}"
        "corpus = Corpus.from_dataset(passages)\n"
        f"mined = {load}\n"
        "train = mined.map(ToTriplets(corpus), batched=True, remove_columns=mined.column_names)\n\n"
    )


def _loading_columns(load: str, layout: Layout, gaps: bool) -> str:
    label = layout.format.training_label(layout)
    wanted = [layout.query, *layout.positives, *layout.negatives, *([label] if label else [])]
    # A trainer reads every column except the label as a text, in the order of the columns.
    chosen = "" if list(layout.names) == wanted else f"train = train.select_columns({quoted(wanted)})\n"
    filled = "train = train.filter(lambda row: None not in row.values())\n" if gaps else ""
    return f"train = {load}\n{chosen}{filled}\n"


def _loading_lists(load: str, layout: Layout, features: Features) -> str:
    positives, negatives = layout.positives[0], layout.negatives[0]
    code = _TRIPLETS_OF_LISTS.format(
        query=quoted(layout.query),
        positives=quoted(positives),
        negatives=quoted(negatives),
        first="positives[:1]" if _is_list(features[positives]) else "[positives]",
        all="negatives" if _is_list(features[negatives]) else "[negatives]",
        positive=_passage("positive", features[positives]),
        negative=_passage("negative", features[negatives]),
    )
    mapped = "train = rows.map(triplets, batched=True, remove_columns=rows.column_names)\n\n"
    return f"\n{code}\n\nrows = {load}\n{mapped}"


def _has_lists(layout: Layout, features: Features) -> bool:
    """Return whether a column of positives or negatives contains lists, which the trainers cannot read."""
    return any(_is_list(features[name]) for name in (*layout.positives, *layout.negatives))


def _is_list(feature: object) -> bool:
    return hasattr(feature, "feature")


def quoted(value: str | list[str]) -> str:
    r"""Return a string, or a list of strings, as Python code.

    Example:
        >>> print(quoted(["query", 'a "b"']))
        ["query", "a \"b\""]
    """
    text = json.dumps(value, ensure_ascii=False)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _passage(name: str, feature: object) -> str:
    inner = getattr(feature, "feature", None)
    if not isinstance(inner, dict):
        return name
    return f"f\"{{{name}['title']}} {{{name}['text']}}\".strip()" if "title" in inner else f'{name}["text"]'
