"""The forms in which mined data is kept, here and by other tools, and how any of them is read.

| form | a row | columns |
|---|---|---|
| `mined` | a query, passages by id | `query`, `positive_ids`, `negative_ids`, scores, ranks |
| `triplets` | a query, a positive, a negative | `anchor`, `positive`, `negative` |
| `n-tuples` | a query, a positive, n negatives | `anchor`, `positive`, `negative_1`, … |
| `labeled-pairs` | a query and a passage | `anchor`, `passage`, `label` |
| `labeled-lists` | a query and its passages | `anchor`, `passages`, `labels` |
| `tevatron` | a query, passages with id and title | `query_id`, `query`, `positive_passages`, `negative_passages` |
| `flagembedding` | a query, passages | `query`, `pos`, `neg`, `pos_scores`, `neg_scores` |

The second to the fifth are those of sentence-transformers, which goes by the order of columns and not by their names:
where the names above are not found, the first text column is the query and the second its positive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hnm_datasets.arrays.ragged import offsets_of
from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, NEGATIVE_RANKS, NEGATIVE_SOURCE, POSITIVE_IDS, QUERY, QUERY_ID
from hnm_datasets.corpus.text import passage_texts
from hnm_datasets.formats.fields import (
    aligned_numbers,
    aligned_strings,
    as_floats,
    ids_beside,
    interleaved,
    joint_scores,
    nullable_strings,
    text_ids,
)

MINED, TRIPLETS, N_TUPLES = "mined", "triplets", "n-tuples"
LABELED_PAIRS, LABELED_LISTS = "labeled-pairs", "labeled-lists"
TEVATRON, FLAGEMBEDDING = "tevatron", "flagembedding"
#: All of them.
FORMS = (MINED, TRIPLETS, N_TUPLES, LABELED_PAIRS, LABELED_LISTS, TEVATRON, FLAGEMBEDDING)

_QUERY_NAMES = ("anchor", QUERY, "question")
_POSITIVE_NAMES = ("positive", "answer", "passage", "passages")
_QUERY_ID_NAMES = (QUERY_ID, "anchor_id")
#: What may stand before the texts and is none: ids, scores and labels.
_NO_TEXTS = re.compile(r"(.*_)?(id|ids|idx|scores?|labels?)")
_NUMBERED = re.compile(r"negative_(\d+)")
_SCORES = re.compile(r"negative_(?:(?P<name>.+)_)?scores")


@dataclass(frozen=True)
class Form:
    """The form that a dataset's columns are in.

    Attributes:
        name: One of those in the table above.
        query: The column of queries.
        query_id: The column of their ids; None if there is none.
        positives: The columns of positives; for labelled forms the column of all passages.
        negatives: The columns of negatives; empty for labelled forms.
        label: The column that tells positives from negatives, for labelled forms.
        names: All columns of the dataset.
    """

    name: str
    query: str
    query_id: str | None
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    label: str | None
    names: tuple[str, ...]

    @property
    def has_ids(self) -> bool:
        """Whether passages are named by ids, so that their texts are in a corpus."""
        return self.name == MINED

    def describe(self) -> str:
        """Tell which form was recognised, and by which columns."""
        columns = [self.query, *self.positives, *self.negatives, *([self.label] if self.label else [])]
        shown = columns if len(columns) <= 6 else [*columns[:4], "…", columns[-1]]
        return f"{self.name} ({', '.join(shown)})"


@dataclass(frozen=True)
class Side:
    """The positives or the negatives of B rows, P in all.

    Attributes:
        offsets: Where each row's passages begin and end. Shape (B + 1,).
        ids: Their ids. Shape (P,). None where the form has none.
        texts: Their texts. Shape (P,). None where the form has ids alone.
        titles: Their titles, where the form keeps them apart. Shape (P,).
        scores: Scores by name, `"score"` for the retriever's; NaN where there is none. Shape (P,) each.
        ranks: Ranks in the retriever's list. Shape (P,).
        sources: Which retriever found them. Shape (P,).
    """

    offsets: NDArray[np.int64]
    ids: pa.Array | None = None
    texts: pa.Array | None = None
    titles: pa.Array | None = None
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    ranks: NDArray[np.int64] | None = None
    sources: pa.Array | None = None

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many passages each row has. Shape (B,)."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The row of each passage. Shape (P,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    @property
    def named(self) -> pa.Array:
        """Their ids, where the form has them. Shape (P,)."""
        assert self.ids is not None
        return self.ids

    @property
    def full_texts(self) -> pa.Array | None:
        """Their titles and texts, as a model reads them. Shape (P,). None where the form has ids alone."""
        return None if self.texts is None else passage_texts(self.titles, self.texts)


@dataclass(frozen=True)
class Rows:
    """B rows of any form.

    Attributes:
        queries: Shape (B,).
        query_ids: Shape (B,); None where the form has none.
        positives: The passages that are known to be relevant.
        negatives: The passages that are taken for not relevant.
    """

    queries: pa.Array
    query_ids: pa.Array | None
    positives: Side
    negatives: Side


def recognize(names: Sequence[str], owner: str) -> Form:
    """Tell which form columns are in.

    Args:
        names: The columns of the dataset, in order.
        owner: Who asks, for errors.

    Raises:
        KeyError: They are in none of the forms, or a column of the form is missing; the message says which form was
            recognised and what it needs.

    Example:
        >>> recognize(["question", "answer", "negative"], "audit").describe()
        'triplets (question, answer, negative)'
    """
    columns = tuple(names)
    numbered = sorted((name for name in columns if _NUMBERED.fullmatch(name)), key=lambda name: int(name[9:]))
    if "positive_passages" in columns or "negative_passages" in columns:
        return _fixed(TEVATRON, columns, owner, QUERY, "positive_passages", "negative_passages")
    if NEGATIVE_IDS in columns:
        return _fixed(MINED, columns, owner, QUERY, POSITIVE_IDS, NEGATIVE_IDS)
    if "neg" in columns:
        return _fixed(FLAGEMBEDDING, columns, owner, QUERY, "pos", "neg")
    if "negative" in columns:
        return _by_order(TRIPLETS, columns, owner, ("negative",), None)
    if numbered:
        return _by_order(N_TUPLES, columns, owner, tuple(numbered), None)
    if "labels" in columns:
        return _by_order(LABELED_LISTS, columns, owner, (), "labels")
    if "label" in columns:
        return _by_order(LABELED_PAIRS, columns, owner, (), "label")
    remedy = "Rename the columns."
    if {"score", "scores"} & set(columns):
        remedy = "Scores in place of labels do not tell positives from negatives."
    raise KeyError(
        f"{owner}: no form of mined data was recognised in the columns {list(columns)}. Known are: mined (query, "
        f"positive_ids, negative_ids), triplets (anchor, positive, negative), n-tuples (anchor, positive, negative_1, "
        f"…), labeled-pairs (anchor, passage, label), labeled-lists (anchor, passages, labels), tevatron (query, "
        f"positive_passages, negative_passages), flagembedding (query, pos, neg). {remedy}"
    )


def _fixed(form: str, names: tuple[str, ...], owner: str, query: str, positives: str, negatives: str) -> Form:
    missing = [name for name in (query, positives, negatives) if name not in names]
    if missing:
        raise KeyError(
            f"{owner}: the form {form!r} was recognised, and it needs the columns {missing} also; there are only "
            f"{list(names)}."
        )
    return Form(form, query, _first(_QUERY_ID_NAMES, names), (positives,), (negatives,), None, names)


def _by_order(form: str, names: tuple[str, ...], owner: str, negatives: tuple[str, ...], label: str | None) -> Form:
    """Find the query and the positive by their usual names, else by the order of the columns."""
    others = [name for name in names if name not in negatives and not _NO_TEXTS.fullmatch(name)]
    query = _first(_QUERY_NAMES, others) or (others[0] if others else None)
    others = [name for name in others if name != query]
    positive = _first(_POSITIVE_NAMES, others) or (others[0] if others else None)
    if query is None or positive is None:
        raise KeyError(
            f"{owner}: the form {form!r} was recognised by {(*negatives, label)[0]!r}, and it needs a column of "
            f"queries and one of {'passages' if label else 'positives'} before it; there are only {list(names)}."
        )
    return Form(form, query, _first(_QUERY_ID_NAMES, names), (positive,), negatives, label, names)


def _first(wanted: Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in names), None)


# ---- reading -----------------------------------------------------------------------------------------------------


def read_rows(form: Form, batch: Batch) -> Rows:
    """Read a batch of any form.

    Args:
        form: What `recognize` said.
        batch: The rows.

    Raises:
        TypeError: A column holds something else than the form says.
        ValueError: A query is null, or aligned lists are not aligned.
    """
    ids = batch.strings(form.query_id) if form.query_id else None
    positives, negatives = _READERS[form.name](form, batch)
    return Rows(batch.strings(form.query), ids, positives, negatives)


def _read_mined(form: Form, batch: Batch) -> tuple[Side, Side]:
    positive_ids, negative_ids = batch.string_lists(POSITIVE_IDS), batch.string_lists(NEGATIVE_IDS)
    scores: dict[str, dict[str, NDArray[np.float64]]] = {"positive": {}, "negative": {}}
    for name in form.names:
        found = _SCORES.fullmatch(name)
        if found is None:
            continue
        for part, ids in (("positive", positive_ids), ("negative", negative_ids)):
            column = part + name.removeprefix("negative")
            if batch.has(column):
                scores[part][found["name"] or "score"] = aligned_numbers(batch, column, f"{part}_ids", ids)
    ranks, sources = None, aligned_strings(batch, NEGATIVE_SOURCE, NEGATIVE_IDS, negative_ids)
    if batch.has(NEGATIVE_RANKS):
        lists = batch.number_lists(NEGATIVE_RANKS)
        batch.check_aligned(NEGATIVE_IDS, negative_ids, NEGATIVE_RANKS, lists)
        ranks = lists.values.astype(np.int64)
    return (
        Side(positive_ids.offsets, ids=positive_ids.values, scores=scores["positive"]),
        Side(negative_ids.offsets, ids=negative_ids.values, scores=scores["negative"], ranks=ranks, sources=sources),
    )


def _read_columns(form: Form, batch: Batch) -> tuple[Side, Side]:
    joint = joint_scores(batch, 1 + len(form.negatives))
    return (
        _from_columns(batch, form.positives, "positive", None if joint is None else joint[:, :1]),
        _from_columns(batch, form.negatives, "negative", None if joint is None else joint[:, 1:]),
    )


def _from_columns(batch: Batch, columns: tuple[str, ...], part: str, joint: NDArray[np.float64] | None) -> Side:
    """Read one passage of each row per column; null is no passage."""
    texts = interleaved([nullable_strings(batch, name) for name in columns])
    there = texts.is_valid()
    kept = there.to_numpy(zero_copy_only=False).reshape(-1, len(columns))
    # A positive's id is `positive_id` also where the column of its text has another name.
    stems = columns if part == "negative" else (part,)
    names = {kind: [f"{stem}_{kind}" for stem in stems] for kind in ("id", "score")}
    has_ids = all(batch.has(name) for name in names["id"])
    ids = ids_beside(batch, names["id"], columns, there) if has_ids else None
    scores = joint
    if all(batch.has(name) for name in names["score"]):
        scores = np.stack([as_floats(batch.column(name), name, batch.step) for name in names["score"]], axis=1)
    return Side(
        offsets_of(kept.sum(axis=1)),
        ids=ids,
        texts=texts.filter(there),
        scores={} if scores is None else {"score": scores[kept]},
    )


def _read_labeled_pairs(form: Form, batch: Batch) -> tuple[Side, Side]:
    texts = batch.strings(form.positives[0])
    positive = _is_positive(batch.column(form.label or ""), form, batch)
    ids = batch.strings("passage_id") if batch.has("passage_id") else None
    name = "passage_score"
    scores = {"score": as_floats(batch.column(name), name, batch.step)} if batch.has(name) else {}
    return _split(positive, np.arange(len(texts)), len(texts), texts, ids, scores)


def _read_labeled_lists(form: Form, batch: Batch) -> tuple[Side, Side]:
    column, label = form.positives[0], form.label or ""
    texts = batch.string_lists(column)
    labels = batch.number_lists(label)
    batch.check_aligned(column, texts, label, labels)
    positive = _is_positive(pa.array(labels.values), form, batch)
    name = "passage_scores"
    scores = {"score": aligned_numbers(batch, name, column, texts)} if batch.has(name) else {}
    ids = aligned_strings(batch, "passage_ids", column, texts)
    return _split(positive, texts.owners, len(texts), texts.values, ids, scores)


def _split(
    positive: NDArray[np.bool_],
    owners: NDArray[np.int64],
    size: int,
    texts: pa.Array,
    ids: pa.Array | None,
    scores: dict[str, NDArray[np.float64]],
) -> tuple[Side, Side]:
    """Part the passages of `size` rows into positives and negatives."""
    sides = [
        Side(
            offsets_of(np.bincount(owners[of_part], minlength=size)),
            ids=None if ids is None else ids.filter(pa.array(of_part)),
            texts=texts.filter(pa.array(of_part)),
            scores={key: values[of_part] for key, values in scores.items()},
        )
        for of_part in (positive, ~positive)
    ]
    return sides[0], sides[1]


def _read_tevatron(form: Form, batch: Batch) -> tuple[Side, Side]:
    return _from_structs(batch, form.positives[0]), _from_structs(batch, form.negatives[0])


def _from_structs(batch: Batch, column: str) -> Side:
    passages = batch.lists(column)
    names = {field.name for field in passages.values.type} if pa.types.is_struct(passages.values.type) else set()
    if "text" not in names and len(passages.values):
        raise TypeError(
            f"{batch.step}: the column {column!r} must hold lists of passages with 'docid', 'title' and 'text', got "
            f"{passages.values.type}."
        )

    if passages.values.null_count:
        row = int(passages.owners[np.flatnonzero(passages.values.is_null().to_numpy(zero_copy_only=False))[0]])
        raise ValueError(f"{batch.step}: the column {column!r} holds a null in {batch.describe(row)}.")

    def part(name: str) -> pa.Array | None:
        return pc.fill_null(passages.values.field(name).cast(pa.string()), "") if name in names else None

    texts = part("text") if "text" in names else pa.array([], pa.string())
    ids, titles = part("docid"), part("title")
    nameless = pc.equal(ids, "") if ids is not None else None
    if nameless is not None and nameless.true_count:
        # Without this all passages that have no id would be one and the same.
        full = passage_texts(titles, texts)
        ids = pc.replace_with_mask(ids, nameless, text_ids(full.filter(nameless)))
    return Side(passages.offsets, ids=ids, texts=texts, titles=titles)


def _read_flagembedding(form: Form, batch: Batch) -> tuple[Side, Side]:
    sides = []
    for stem in ("pos", "neg"):
        texts = batch.string_lists(stem)
        ids = aligned_strings(batch, f"{stem}_id", stem, texts)
        name = f"{stem}_scores"
        scores = {"teacher": aligned_numbers(batch, name, stem, texts)} if batch.has(name) else {}
        sides.append(Side(texts.offsets, ids=ids, texts=texts.values, scores=scores))
    return sides[0], sides[1]


_READERS = {
    MINED: _read_mined,
    TRIPLETS: _read_columns,
    N_TUPLES: _read_columns,
    LABELED_PAIRS: _read_labeled_pairs,
    LABELED_LISTS: _read_labeled_lists,
    TEVATRON: _read_tevatron,
    FLAGEMBEDDING: _read_flagembedding,
}


def _is_positive(labels: pa.Array, form: Form, batch: Batch) -> NDArray[np.bool_]:
    values = as_floats(labels, form.label or "", batch.step)
    if not np.isin(values, (0.0, 1.0)).all():
        strange = values[~np.isin(values, (0.0, 1.0))][0]
        raise ValueError(
            f"{batch.step}: the form {form.name!r} was recognised, and its labels must be 1 for positives and 0 for "
            f"negatives; {form.label!r} holds {strange:g}. A teacher's scores do not tell which is which."
        )
    return np.asarray(values == 1.0)
