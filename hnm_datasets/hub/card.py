"""The dataset card: a description of the data, the mining steps, an audit, examples, and code to train.

A card is written from the data and from a *record*, the values in `mining.json` next to the data. The folder alone is
therefore enough to write the card again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from hnm_datasets.audit.report import Audit
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.formats.base import Layout
from hnm_datasets.formats.registry import recognize
from hnm_datasets.hub.metadata import Config, card_metadata
from hnm_datasets.hub.record import audit_of, report_in
from hnm_datasets.hub.snippets import quoted, unknown_id, usage
from hnm_datasets.markdown import code, count, fenced, link, plain, without_controls

CARD = "README.md"
_HOME = "https://pypi.org/project/hnm-datasets/"
_EXAMPLES, _NEGATIVES_SHOWN, _LENGTH = 3, 3, 200
#: An option of a step that changes nothing.
_EMPTY_OPTION = re.compile(r", \w+=(?:''|None)(?=[,)])")
_MARKER = re.compile(r"<!-- hnm_datasets card ([0-9a-f]{16}) -->\n\Z")


def dataset_card(
    record: Mapping[str, Any],
    splits: Mapping[str, Dataset],
    configs: Mapping[str, Config],
    corpus: Corpus | None = None,
) -> str:
    """Return a dataset card: YAML metadata, and Markdown with all texts of the data escaped.

    Args:
        record: The content of `mining.json`: `repo_id`, `name`, `license`, `language`, `source`, `steps`, `mined`,
            `versions`, `corpus` and `audit`. Unknown values are None or empty.
        splits: The rows of each split. Three examples come from the first split.
        configs: The configurations in the folder, `"default"` first; empty if `load_dataset` finds the files without
            them.
        corpus: The passages, for the texts of examples with passage ids.

    Returns:
        The text of README.md.

    Raises:
        KeyError: The columns match no known format.

    Example:
        >>> rows = Dataset.from_dict({"anchor": ["what?"], "positive": ["this"], "negative": ["that"]})
        >>> record = {"repo_id": "me/what", "name": "What", "license": "mit", "language": ["en"], "source": None}
        >>> record |= {"steps": ["TopNegatives(n=1)"], "mined": None, "versions": {}, "corpus": None, "audit": None}
        >>> card = dataset_card(record, {"train": rows}, {})
        >>> print(card[card.index("# What") :].split("##")[0].strip())
        # What
        <BLANKLINE>
        Queries with hard negatives, for training retrieval models: 1 row in the format *triplets*, with the columns `anchor`, `positive`, `negative`.
    """  # noqa: E501
    first, rows = next(iter(splits.items()))
    layout = recognize(rows.column_names, "dataset_card")
    audit = audit_of(record)
    sections = [
        f"# {plain(record['name'] or record['repo_id'].split('/')[-1], 120)}",
        _what(record, audit, splits, layout),
        "## How it was mined",
        _how(record),
        "## Audit",
        _audit(record, audit),
        "## Examples",
        *_examples(rows, layout, corpus),
        "## Use",
        _use(record, rows, layout, first),
        "## Caveats",
        _caveats(record, audit),
    ]
    metadata = card_metadata(record, splits, configs, layout.format)
    return f"---\n{metadata}\n---\n\n" + "\n\n".join(sections) + "\n"


def signed(card: str) -> str:
    """Append a comment with a hash of the card, by which `is_own` recognizes an unedited card."""
    return f"{card}\n<!-- hnm_datasets card {_digest(card)} -->\n"


def is_own(card: str) -> bool:
    """Return whether hnm_datasets wrote a card and nobody edited it since."""
    found = _MARKER.search(card)
    return found is not None and found[1] == _digest(card[: found.start() - 1])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---- sections ----------------------------------------------------------------------------------------------------


def _what(record: Mapping[str, Any], audit: Audit | None, splits: Mapping[str, Dataset], layout: Layout) -> str:
    total = sum(len(rows) for rows in splits.values())
    columns = ", ".join(code(name) for name in layout.names)
    text = (
        f"Queries with hard negatives, for training retrieval models: {count(total, 'row')} in the format "
        f"*{layout.format.title}*, with the columns {columns}."
    )
    if audit is not None and audit.queries:
        text += (
            f" The split {code(record['audit']['split'])} has {count(audit.queries, 'query', 'queries')}, with "
            f"{audit.negatives / audit.queries:.1f} negatives per query on average."
        )
    if record["source"]:
        text += f" Mined from {link(record['source'])}."
    if len(splits) > 1:
        lines = [f"| {code(name)} | {len(rows):,} |" for name, rows in splits.items()]
        text += "\n\n" + "\n".join(["| split | rows |", "|---|---|", *lines])
    return text


def _how(record: Mapping[str, Any]) -> str:
    version = record["versions"].get("hnm_datasets", "")
    named = f"[hnm_datasets]({_HOME})" + (f" {plain(version, 60)}" if version else "")
    # Rows that another program mined can be published too.
    done = "Mined" if record["steps"] else "Published"
    parts = [f"{done} with {named} (`pip install hnm-datasets`)."]
    if record["steps"]:
        steps = [without_controls(_EMPTY_OPTION.sub("", step)) for step in record["steps"]]
        parts.append("These steps were applied in this order, with `mine` or `Dataset.map(step, batched=True)`:")
        parts.append(fenced("\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1)), "text"))
    else:
        parts.append("The steps were not recorded.")
    report = report_in(record)
    if report is not None:
        parts.append(f"Rows and candidates after each step, for the split {code(record['mined']['split'])}:")
        parts.append(report.to_markdown())
    if record["corpus"]:
        known = record["corpus"]
        parts.append(
            f"The negatives come from a corpus of {count(known['passages'], 'passage')} (fingerprint "
            f"{code(known['fingerprint'])})"
            + (", which is included in this dataset as the configuration `corpus`." if known["included"] else ".")
        )
    if record["versions"]:
        lines = [f"| {plain(name, 60)} | {plain(version, 60)} |" for name, version in record["versions"].items()]
        parts.append("\n".join(["| package | version |", "|---|---|", *lines]))
    return "\n\n".join(parts)


def _audit(record: Mapping[str, Any], audit: Audit | None) -> str:
    if audit is None:
        return "Not audited: the labels are a teacher's scores, which do not distinguish negatives from positives."
    return f"The audit covers the split {code(record['audit']['split'])}.\n\n{audit.to_markdown().strip()}"


def _caveats(record: Mapping[str, Any], audit: Audit | None) -> str:
    rate = None if audit is None else audit.false_negatives
    if rate is not None:
        text = (
            f"**False negatives**: an estimated {rate.rate:.1%} of the negatives are relevant (95% interval "
            f"{rate.low:.1%} to {rate.high:.1%}), according to {plain(rate.by, 200)} ({plain(rate.rule, 200)})."
        )
    else:
        text = (
            "**False negatives**: the share of relevant negatives is unknown. Usually, some of the passages that a "
            "retriever ranks highest are relevant."
        )
    items = [
        text,
        "**Unannotated positives**: only passages that the source marks as relevant were excluded from the negatives. "
        "Relevant passages without an annotation may be among them.",
    ]
    if audit is not None and audit.defects:
        found = ", ".join(f"{plain(defect.name, 60)} ({defect.count:,})" for defect in audit.defects)
        items.append(f"**Defects**: {found}; see the audit above.")
    if record["license"]:
        items.append(
            f"**License**: {plain(record['license'], 100)}, as stated by the publisher of this dataset. The texts come "
            f"from the source, and the source's license also applies."
        )
    else:
        items.append(
            "**License**: not stated. The texts come from the source; check the source's license before you use them."
        )
    return "\n".join(f"- {item}" for item in items)


# ---- examples ----------------------------------------------------------------------------------------------------


def _examples(rows: Dataset, layout: Layout, corpus: Corpus | None) -> list[str]:
    numbers = range(0, len(rows), max(1, len(rows) // _EXAMPLES))[:_EXAMPLES]
    return [_example(rows[number], layout, corpus) for number in numbers]


def _example(row: Mapping[str, Any], layout: Layout, corpus: Corpus | None) -> str:
    lines = [f"- **query**: {plain(row[layout.query], _LENGTH)}"]
    counts: dict[str, int] = {}
    for kind, passage in _passages(row, layout, corpus):
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= _limit(kind):
            lines.append(f"  - **{kind}**: {plain(passage, _LENGTH)}")
    lines += [f"  - … {found - _limit(kind):,} more ({kind})" for kind, found in counts.items() if found > _limit(kind)]
    return "\n".join(lines)


def _passages(row: Mapping[str, Any], layout: Layout, corpus: Corpus | None) -> list[tuple[str, str]]:
    shown = layout.format.shown(layout, row)
    if corpus is None or not layout.format.needs_corpus:
        return shown
    texts = corpus.texts(corpus.rows([passage for _, passage in shown])).to_pylist()
    return [(kind, str(text)) for (kind, _), text in zip(shown, texts, strict=True)]


def _limit(kind: str) -> int:
    return 1 if kind == "positive" else _NEGATIVES_SHOWN


# ---- use ---------------------------------------------------------------------------------------------------------


def _use(record: Mapping[str, Any], rows: Dataset, layout: Layout, split: str) -> str:
    repo_id, format = record["repo_id"], layout.format
    intro, passages = "", None
    if format.needs_corpus:
        intro = "The rows contain passage ids. The package `hnm_datasets` looks up the texts.\n\n"
        if record["corpus"] and record["corpus"]["included"]:
            passages = f'passages = load_dataset({quoted(repo_id)}, "corpus", split="train"){unknown_id(repo_id)}\n'
        else:
            intro += (
                "The passages are not part of this dataset. Load the corpus that the ids refer to, as a dataset with "
                "the columns `id` and `text`, and optionally `title`.\n\n"
            )
            passages = 'passages = load_dataset("the/corpus", split="train")  # replace with the source of the ids\n'
    texts = [layout.query, *layout.positives, *layout.negatives] if format.trainable and not format.labeled else []
    gaps = any(rows.data.column(name).null_count > 0 for name in texts)
    graded = format.is_graded(layout, rows)
    snippet = usage(layout, rows.features, repo_id, split, corpus=passages, graded=graded, gaps=gaps)
    return intro + fenced(snippet.rstrip("\n"), "python")
