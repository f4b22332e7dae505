"""The dataset card: what a published set is, how it was mined, how good it is, and how to train on it.

A card is made of the data and of a *record*, the plain values that lie beside the data in `mining.json`. So a card can
be made again from a folder alone.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow.compute as pc
from datasets import Dataset, DatasetInfo, Features
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import DatasetCardData

from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.formats.reading import (
    FLAGEMBEDDING,
    LABELED_LISTS,
    LABELED_PAIRS,
    MINED,
    N_TUPLES,
    TEVATRON,
    TRIPLETS,
    Form,
    recognize,
)
from hnm_datasets.hub.snippets import quoted, usage
from hnm_datasets.markdown import code, count, fenced, is_hub_id, link, one_line, plain, without_controls
from hnm_datasets.version import __version__

_TAGS = ["sentence-transformers", "hard-negatives", "hnm_datasets"]
#: What the forms are called in a card, and the Hub's names of the tasks that they are for.
_FORMS = {
    MINED: "mined rows, passages by id",
    TRIPLETS: "triplets",
    N_TUPLES: "n-tuples",
    LABELED_PAIRS: "labelled pairs",
    LABELED_LISTS: "labelled lists",
    TEVATRON: "Tevatron",
    FLAGEMBEDDING: "FlagEmbedding",
}
_TASKS = {name: ["text-retrieval"] for name in (MINED, TEVATRON, FLAGEMBEDDING)}
_TASKS |= {name: ["sentence-similarity", "text-retrieval"] for name in (TRIPLETS, N_TUPLES)}
_TASKS |= {name: ["text-ranking"] for name in (LABELED_PAIRS, LABELED_LISTS)}
_PACKAGES = (
    "datasets",
    "sentence-transformers",
    "transformers",
    "torch",
    "bm25s",
    "faiss-cpu",
    "numba",
)
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_EXAMPLES, _NEGATIVES_SHOWN, _LENGTH = 3, 3, 200
_MARKER = re.compile(r"<!-- hnm_datasets card ([0-9a-f]{16}) -->\n\Z")


class Config(NamedTuple):
    """One configuration of a published set.

    Attributes:
        folder: Where its shards lie.
        features: What its columns hold.
        splits: Rows and bytes of each split.
    """

    folder: str
    features: Features
    splits: Mapping[str, tuple[int, int]]


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the packages that mining rests on, as far as installed."""
    
    found = {"python": platform.python_version(), "hnm_datasets": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def dataset_card(
    record: Mapping[str, Any],
    splits: Mapping[str, Dataset],
    configs: Mapping[str, Config],
    corpus: Corpus | None = None,
) -> str:
    """Write the card of a set: YAML metadata, and Markdown that no text of the data can break.

    Args:
        record: What `mining.json` holds: `repo_id`, `name`, `license`, `language`, `source`, `steps`, `versions`,
            `corpus` and `audit`, each None or empty where it is not known.
        splits: The rows of each split. Three examples come from the first.
        configs: The configurations whose data lies in the folder, `"default"` first; empty where `load_dataset` finds
            the files by itself.
        corpus: The passages, for the texts of examples that hold ids.

    Returns:
        The text of README.md.

    Raises:
        KeyError: The columns are in no known form.

    Example:
        >>> rows = Dataset.from_dict({"anchor": ["what?"], "positive": ["this"], "negative": ["that"]})
        >>> record = {"repo_id": "me/what", "name": "What", "license": "mit", "language": ["en"], "source": None}
        >>> record |= {"steps": ["TopNegatives(n=1)"], "versions": {}, "corpus": None, "audit": None}
        >>> card = dataset_card(record, {"train": rows}, {})
        >>> print(card[card.index("# What") :].split("##")[0].strip())
        # What
        <BLANKLINE>
        Queries with hard negatives, for training retrieval models: 1 row in the form *triplets*, with the columns `anchor`, `positive`, `negative`.
    """  # noqa: E501
    first, rows = next(iter(splits.items()))
    form = recognize(rows.column_names, "dataset_card")
    sections = [
        f"# {plain(record['name'] or record['repo_id'].split('/')[-1], 120)}",
        _what(record, splits, form),
        "## How it was mined",
        _how(record),
        "## Audit",
        _audit(record),
        "## Examples",
        *_examples(rows, form, corpus),
        "## Use",
        _use(record, rows, form, first),
        "## Caveats",
        _caveats(record, form),
    ]
    metadata = _metadata(record, splits, configs, form)
    return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def signed(card: str) -> str:
    """End a card with a comment that tells who wrote it, and that nobody has changed it since."""
    return f"{card}\n<!-- hnm_datasets card {_digest(card)} -->\n"


def is_own(card: str) -> bool:
    """Tell whether a card was written here and not changed since."""
    found = _MARKER.search(card)
    return found is not None and found[1] == _digest(card[: found.start() - 1])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---- metadata ----------------------------------------------------------------------------------------------------


def _metadata(
    record: Mapping[str, Any], splits: Mapping[str, Dataset], configs: Mapping[str, Config], form: Form
) -> DatasetCardData:
    more: dict[str, Any] = {"tags": _TAGS}
    if configs:
        more["configs"] = [
            {
                "config_name": name,
                "data_files": [{"split": split, "path": f"{config.folder}/{split}-*"} for split in config.splits],
            }
            for name, config in configs.items()
        ]
        more["dataset_info"] = [{"config_name": name, **_info(config)} for name, config in configs.items()]
    return DatasetCardData(
        pretty_name=one_line(record["name"]) if record["name"] else None,
        license=record["license"],
        language=record["language"],
        task_categories=_TASKS[form.name],
        size_categories=[_size_category(sum(len(rows) for rows in splits.values()))],
        source_datasets=[record["source"]] if record["source"] and is_hub_id(record["source"]) else None,
        **more,
    )


def _info(config: Config) -> dict[str, Any]:
    splits = SplitDict(
        {name: SplitInfo(name, num_bytes=size, num_examples=rows) for name, (rows, size) in config.splits.items()}
    )
    # The one place where `datasets` says how features are written in YAML; its own push goes there too.
    info: dict[str, Any] = DatasetInfo(features=config.features, splits=splits)._to_yaml_dict()
    return info


def _size_category(rows: int) -> str:
    limit = 1_000
    for place, name in enumerate(_SIZES):
        if rows < limit:
            return f"{_SIZES[place - 1]}<n<{name}" if place else f"n<{name}"
        limit *= 10
    return f"n>{_SIZES[-1]}"


# ---- sections ----------------------------------------------------------------------------------------------------


def _what(record: Mapping[str, Any], splits: Mapping[str, Dataset], form: Form) -> str:
    total = sum(len(rows) for rows in splits.values())
    columns = ", ".join(code(name) for name in form.names)
    text = (
        f"Queries with hard negatives, for training retrieval models: {count(total, 'row')} in the form "
        f"*{_FORMS[form.name]}*, with the columns {columns}."
    )
    audit = record["audit"]
    if audit and audit["queries"]:
        text += (
            f" The split {code(audit['split'])} has {count(audit['queries'], 'query', 'queries')}, with "
            f"{audit['negatives'] / audit['queries']:.1f} negatives per query on average."
        )
    if record["source"]:
        text += f" Made from {link(record['source'])}."
    if len(splits) > 1:
        lines = [f"| {code(name)} | {len(rows):,} |" for name, rows in splits.items()]
        text += "\n\n" + "\n".join(["| split | rows |", "|---|---|", *lines])
    return text


def _how(record: Mapping[str, Any]) -> str:
    parts = []
    if record["steps"]:
        steps = "\n".join(f"{place}. {without_controls(step)}" for place, step in enumerate(record["steps"], start=1))
        parts.append("In this order, each step by `Dataset.map(step, batched=True)`:")
        parts.append(fenced(steps, "text"))
    else:
        parts.append("The steps were not recorded.")
    if record["corpus"]:
        known = record["corpus"]
        parts.append(
            f"The negatives come from a corpus of {count(known['passages'], 'passage')}, fingerprint "
            f"{code(known['fingerprint'])}"
            + (", which is published here as the configuration `corpus`." if known["included"] else ".")
        )
    if record["versions"]:
        lines = [f"| {plain(name, 60)} | {plain(version, 60)} |" for name, version in record["versions"].items()]
        parts.append("\n".join(["| package | version |", "|---|---|", *lines]))
    return "\n\n".join(parts)


def _audit(record: Mapping[str, Any]) -> str:
    if not record["audit"]:
        return "None: the labels are a teacher's scores, which do not tell negatives from positives."
    return f"Of the split {code(record['audit']['split'])}.\n\n{record['audit']['markdown'].strip()}"


def _caveats(record: Mapping[str, Any], form: Form) -> str:
    audit = record["audit"] or {}
    rate = audit.get("false_negatives")
    if rate:
        text = (
            f"**False negatives**: an estimated {rate['rate']:.1%} of the negatives are relevant (95% interval "
            f"{rate['low']:.1%} to {rate['high']:.1%}), judged by {plain(str(rate['by']), 200)} "
            f"({plain(str(rate['rule']), 200)})."
        )
    else:
        text = (
            "**False negatives**: how many of the negatives are in truth relevant is unknown. Of the passages that a "
            "retriever ranks highest, some always are."
        )
    items = [
        text,
        "**Unannotated positives**: only what the source marks as relevant was kept out of the negatives. A relevant "
        "passage that nobody annotated can be among them.",
    ]
    if audit.get("defects"):
        found = ", ".join(f"{plain(defect['name'], 60)} ({defect['count']:,})" for defect in audit["defects"])
        items.append(f"**Defects**: {found}; see the audit.")
    if record["license"]:
        items.append(
            f"**Licence**: {plain(record['license'], 100)}, as the one who published this set "
            f"states it. The texts are those of the source, and its terms bind."
        )
    else:
        items.append("**Licence**: not stated. The texts are those of the source: find out its terms before use.")
    return "\n".join(f"- {item}" for item in items)


# ---- examples ----------------------------------------------------------------------------------------------------


def _examples(rows: Dataset, form: Form, corpus: Corpus | None) -> list[str]:
    places = range(0, len(rows), max(1, len(rows) // _EXAMPLES))[:_EXAMPLES]
    return [_example(rows[place], form, corpus) for place in places]


def _example(row: Mapping[str, Any], form: Form, corpus: Corpus | None) -> str:
    lines = [f"- **query**: {plain(row[form.query], _LENGTH)}"]
    if form.label:
        passages, labels = row[form.positives[0]], row[form.label]
        pairs = list(zip(passages, labels, strict=True)) if form.name == LABELED_LISTS else [(passages, labels)]
        shown = [(f"label {label:g}", passage) for passage, label in pairs]
    else:
        shown = [
            (kind, passage)
            for kind, columns in (("positive", form.positives), ("negative", form.negatives))
            for column in columns
            for passage in _passages(row[column], form, corpus)
        ]
    counts: dict[str, int] = {}
    for kind, passage in shown:
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= _most(kind):
            lines.append(f"  - **{kind}**: {plain(passage, _LENGTH)}")
    lines += [f"  - … {found - _most(kind):,} more ({kind})" for kind, found in counts.items() if found > _most(kind)]
    return "\n".join(lines)


def _most(kind: str) -> int:
    return 1 if kind == "positive" else _NEGATIVES_SHOWN


def _passages(value: Any, form: Form, corpus: Corpus | None) -> list[str]:
    values: list[Any] = [value] if isinstance(value, str) else list(value or ())
    if form.name == TEVATRON:
        return [f"{passage.get('title') or ''} {passage['text']}" for passage in values]
    if form.name == MINED and corpus is not None:
        return [str(text) for text in corpus.texts(corpus.rows(values)).to_pylist()]
    return values


# ---- use ---------------------------------------------------------------------------------------------------------


def _use(record: Mapping[str, Any], rows: Dataset, form: Form, split: str) -> str:
    place, known = record["repo_id"], record["corpus"]
    intro, passages = "", None
    if form.name == MINED:
        intro = "The rows name their passages by id; the package `hnm_datasets` looks the texts up.\n\n"
        if known and known["included"]:
            passages = f'passages = load_dataset({quoted(place)}, "corpus", split="train")\n'
        else:
            intro += (
                "The passages are not part of this set: take the corpus that the ids belong to, as a dataset with the "
                "columns `id` and `text` (and `title`, if it has one).\n\n"
            )
            passages = 'passages = load_dataset("the/corpus", split="train")  # the source of the passages\n'
    texts = [name for name in (form.query, *form.positives, *form.negatives) if form.name in (TRIPLETS, N_TUPLES)]
    gaps = any(rows.data.column(name).null_count > 0 for name in texts)
    snippet = usage(form, rows.features, place, split, corpus=passages, graded=is_graded(rows, form), gaps=gaps)
    return intro + fenced(snippet.rstrip("\n"), "python")


def is_graded(rows: Dataset, form: Form) -> bool:
    """Tell whether the labels of a labelled form are other numbers than 0 and 1, such as a teacher's scores."""
    if form.label is None:
        return False
    for table in rows.select_columns(form.label).with_format("arrow").iter(100_000):
        values = table[form.label].combine_chunks()
        values = values.flatten() if form.name == LABELED_LISTS else values
        known = pc.or_(pc.equal(values, 0), pc.equal(values, 1))
        if not pc.all(known, min_count=0).as_py():
            return True
    return False
