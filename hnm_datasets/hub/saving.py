"""A mined set as a folder that `load_dataset` reads and that can be published as it is.

| in the folder | what |
|---|---|
| `data/SPLIT-00000-of-0000N.parquet` | the rows, the configuration `default` |
| `corpus/train-00000-of-0000N.parquet` | for rows that name passages by id: the passages, the configuration `corpus` |
| `README.md` | the card, see `card.py` |
| `mining.json` | what the card needs to be made again: steps, versions, fingerprints, audit, licence |

The folder is written aside and renamed: it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, DatasetDict, load_dataset
from filelock import FileLock

from hnm_datasets.batch import Batch
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS
from hnm_datasets.corpus.passages import Corpus, check_corpus
from hnm_datasets.formats.reading import MINED, recognize
from hnm_datasets.hub.card import Config, dataset_card, is_graded, is_own, signed, versions
from hnm_datasets.hub.shards import (
    corpus_features,
    corpus_size,
    load_rows,
    replacing,
    size_of,
    write_corpus,
    write_rows,
)
from hnm_datasets.hub.tokens import hide_tokens, known_tokens
from hnm_datasets.storage.folders import cache_root

if TYPE_CHECKING:
    from hnm_datasets.audit.report import Audit

CARD, RECORD, DATA, CORPUS = "README.md", "mining.json", "data", "corpus"
_MADE_BY = {"made_by": "hnm_datasets", "format": 1}


@dataclass(frozen=True)
class Options:
    """What can be told of a set beside its rows; see `save_mined`."""

    steps: Sequence[object] = ()
    corpus: Corpus | None = None
    audit: Audit | None = None
    judgements: Dataset | None = None
    license: str | None = None
    language: str | Sequence[str] | None = None
    name: str | None = None
    source: str | None = None
    include_corpus: bool = True

    def check(self, owner: str) -> None:
        """Raise a TypeError that names the option that is something else."""
        if isinstance(self.steps, str) or not isinstance(self.steps, Sequence):
            raise TypeError(f"{owner}: steps must be a list of transforms or texts, got {type(self.steps).__name__}.")
        if self.corpus is not None:
            check_corpus(owner, self.corpus)
        for name in ("license", "name", "source"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise TypeError(f"{owner}: {name} must be a text, got {getattr(self, name)!r}.")
        if not all(isinstance(language, str) for language in self.languages):
            raise TypeError(f"{owner}: language must be a code such as 'en', or a list of them, got {self.language!r}.")

    @property
    def languages(self) -> list[str]:
        """The codes of the languages."""
        return [self.language] if isinstance(self.language, str) else list(self.language or ())


def save_mined(
    dataset: Dataset | DatasetDict,
    folder: str | Path,
    *,
    steps: Sequence[object] = (),
    corpus: Corpus | None = None,
    audit: Audit | None = None,
    judgements: Dataset | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    name: str | None = None,
    source: str | None = None,
    include_corpus: bool = True,
) -> Path:
    """Write mined rows to a folder that `load_dataset(folder)` reads, with a card that tells how they were mined.

    Rows that name their passages by id are of no use without the passages. Given the corpus, they are written too, as
    the configuration `corpus`: `Corpus.from_dataset(load_dataset(folder, "corpus", split="train"))`.

    The folder is written aside and renamed, so a run that is killed leaves nothing half-written under its name. A
    folder that was written here before is replaced.

    Args:
        dataset: The rows, in any form that `audit_negatives` knows. A `Dataset` becomes the split `train`.
        folder: Where to write.
        steps: The steps of mining in order, as they were passed to `map`, or texts; the card shows their `repr`.
        corpus: The passages that the rows name by id; for rows of texts, what the negatives were mined from.
        audit: What `audit_negatives` said of the first split; None: it is asked now.
        judgements: For the audit: qrels by which to estimate the rate of false negatives.
        license: The licence's name on the Hub, such as `"cc-by-4.0"`.
        language: The code of the language, such as `"en"`, or a list of them.
        name: The card's title; None: the folder's name.
        source: The Hub id or URL of what was mined.
        include_corpus: Whether the corpus is written beside rows of ids.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder holds something else, or its card was changed by hand.
        KeyError: The columns are in no known form, or an id is not in the corpus.
        TypeError: An argument is something else.
        ValueError: A split has no rows.

    Example:
        >>> import tempfile
        >>> from datasets import load_dataset
        >>> from hnm_datasets import BM25Negatives, ToTriplets, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> steps = [BM25Negatives(corpus, k=2), ToTriplets(corpus)]
        >>> mined = queries.map(steps[0], batched=True)
        >>> triplets = mined.map(steps[1], batched=True, remove_columns=mined.column_names)
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     folder = save_mined(triplets, f"{parent}/quakes", steps=steps, corpus=corpus, license="cc-by-4.0")
        ...     sorted(path.name for path in folder.iterdir()), load_dataset(str(folder), split="train").num_rows
        (['README.md', 'data', 'mining.json'], 2)
    """
    options = Options(steps, corpus, audit, judgements, license, language, name, source, include_corpus)
    return save("save_mined", dataset, Path(folder), options, repo_id=None, secrets=known_tokens())


def write_card(
    folder: str | Path,
    *,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    name: str | None = None,
    source: str | None = None,
) -> Path:
    """Write the card of a folder of mined data anew, or for the first time.

    Args:
        folder: One that `save_mined` wrote, with its `mining.json`; or any that `load_dataset` reads and whose columns
            are in a known form. Of the latter it is not known how they were mined, and the card says so.
        license: What the card is to say in place of what it said before; None: the same. So are the next three.
        language: The code of the language, or a list of them.
        name: The card's title.
        source: The Hub id or URL of what was mined.

    Returns:
        The card, `README.md` in the folder.

    Raises:
        FileExistsError: There is a README.md that was not written here, or was changed since.
        FileNotFoundError: There is no such folder.
        KeyError: The columns are in no known form.

    Example:
        >>> import tempfile
        >>> rows = Dataset.from_dict({"anchor": ["what?"], "positive": ["this"], "negative": ["that"]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = rows.to_parquet(f"{folder}/train.parquet")
        ...     card = write_card(folder, name="What")
        ...     "# What" in card.read_text(), "The steps were not recorded." in card.read_text()
        (True, True)
    """
    place = Path(folder).expanduser().resolve()
    if not place.is_dir():
        raise FileNotFoundError(f"write_card: there is no folder {place}.")
    _check_card("write_card", place)
    options = Options(license=license, language=language, name=name, source=source)
    options.check("write_card")
    secrets = known_tokens()
    record = _read_record(place)
    if record is None:
        splits = dict(load_dataset(str(place)))
        record = _record_of(splits, options, repo_id=f"your-name/{place.name}", included=False)
        return _write_card(place, record, splits, {}, None, secrets)
    told = {"license": license, "name": name, "source": source, "language": options.languages}
    record |= {key: value for key, value in told.items() if value}
    splits = {split: load_rows(place / DATA, split) for split in record["splits"]}
    corpus = None
    if record["corpus"] and record["corpus"]["included"]:
        corpus = Corpus.from_dataset(load_rows(place / CORPUS, "train"))
    record = _write_record(place, record, secrets)
    return _write_card(place, record, splits, _configs_of(record, splits), corpus, secrets)


# ---- saving ------------------------------------------------------------------------------------------------------


def save(
    owner: str,
    dataset: Dataset | DatasetDict,
    folder: Path,
    options: Options,
    *,
    repo_id: str | None,
    secrets: Sequence[str],
) -> Path:
    """Do what `save_mined` does, for a given Hub id and without these secrets in any text."""
    options.check(owner)
    splits = _splits_of(owner, dataset)
    form = recognize(next(iter(splits.values())).column_names, owner)
    folder = folder.expanduser().resolve()
    _check_replaceable(owner, folder)
    if options.corpus is not None and form.name == MINED:
        _check_ids(owner, splits, options.corpus)
    included = options.corpus is not None and options.include_corpus and form.name == MINED
    record = _record_of(splits, options, repo_id=repo_id or f"your-name/{folder.name}", included=included)
    folder.parent.mkdir(parents=True, exist_ok=True)
    locks = cache_root() / "pushes"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.lock")
    with lock, replacing(folder) as aside:
        for split, rows in splits.items():
            write_rows(aside / DATA, split, rows)
        if included and options.corpus is not None:
            write_corpus(aside / CORPUS, options.corpus)
        record = _write_record(aside, record, secrets)
        _write_card(aside, record, splits, _configs_of(record, splits), options.corpus, secrets)
    return folder


def _splits_of(owner: str, dataset: object) -> dict[str, Dataset]:
    if not isinstance(dataset, (Dataset, DatasetDict)):
        raise TypeError(
            f"{owner} takes a Dataset or a DatasetDict, got {type(dataset).__name__}. Write an IterableDataset to "
            f"Parquet first, with write_stream, and load that."
        )
    splits = {"train": dataset} if isinstance(dataset, Dataset) else dict(dataset)
    if not splits:
        raise ValueError(f"{owner}: the DatasetDict has no split: there is nothing to publish.")
    first = next(iter(splits))
    for name, rows in splits.items():
        if not len(rows):
            raise ValueError(f"{owner}: the split {name!r} has no rows. Leave it out, or see why nothing was mined.")
        if rows.features != splits[first].features:
            raise ValueError(
                f"{owner}: the splits {first!r} and {name!r} hold different columns: {splits[first].features} and "
                f"{rows.features}. Publish them one by one, or give them the same columns."
            )
    return {name: rows.with_format(None) for name, rows in splits.items()}


def _check_ids(owner: str, splits: Mapping[str, Dataset], corpus: Corpus) -> None:
    for rows in splits.values():
        for table in rows.with_format("arrow").iter(10_000):
            batch = Batch(table, step=owner)
            for name in (POSITIVE_IDS, NEGATIVE_IDS):
                corpus.rows_of_lists(name, batch.string_lists(name), owner, batch.describe)


def _record_of(splits: Mapping[str, Dataset], options: Options, *, repo_id: str, included: bool) -> dict[str, Any]:
    """Gather what the card tells beside the rows themselves."""
    corpus = options.corpus
    first, rows = next(iter(splits.items()))
    steps = [step if isinstance(step, str) else _named(step) for step in options.steps]
    return {
        **_MADE_BY,
        "repo_id": repo_id,
        "name": options.name,
        "license": options.license,
        "language": options.languages or None,
        "source": options.source,
        "steps": steps,
        "versions": versions(),
        "splits": {split: {"rows": len(part), "bytes": size_of(part)} for split, part in splits.items()},
        "corpus": None
        if corpus is None
        else {
            "fingerprint": corpus.fingerprint,
            "passages": len(corpus),
            "included": included,
            "columns": list(corpus.columns),
            "bytes": corpus_size(corpus),
        },
        "audit": _audited(rows, first, options),
    }


def _audited(rows: Dataset, split: str, options: Options) -> dict[str, Any] | None:
    from hnm_datasets.audit.run import audit_negatives

    audit = options.audit
    if audit is None:
        if is_graded(rows, recognize(rows.column_names, "audit_negatives")):
            return None
        audit = audit_negatives(rows, options.corpus, judgements=options.judgements)
    found = audit.false_negatives
    return {
        "split": split,
        "queries": audit.queries,
        "negatives": audit.negatives,
        "false_negatives": found and asdict(found),
        "defects": [{"name": one.name, "count": one.count, "what": one.what} for one in audit.defects],
        "markdown": audit.to_markdown(),
        "numbers": audit.to_dict(),
    }


def _named(step: object) -> str:
    """Return a step's repr without what differs from run to run or tells where its author's files are."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(step))
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def _configs_of(record: Mapping[str, Any], splits: Mapping[str, Dataset]) -> dict[str, Config]:
    sizes = {name: (known["rows"], known["bytes"]) for name, known in record["splits"].items()}
    configs = {"default": Config(DATA, next(iter(splits.values())).features, sizes)}
    corpus = record["corpus"]
    if corpus and corpus["included"]:
        sizes = {"train": (corpus["passages"], corpus["bytes"])}
        configs[CORPUS] = Config(CORPUS, corpus_features(corpus["columns"]), sizes)
    return configs


def _check_replaceable(owner: str, folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{owner}: {folder} is a file. Choose another folder.")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    others = sorted(names - {CARD, RECORD, DATA, CORPUS})
    if _read_record(folder) is None or others:
        raise FileExistsError(
            f"{owner}: the folder {folder} holds what was not written here ({', '.join(others or sorted(names))}). "
            f"Choose another folder, or empty it."
        )
    _check_card(owner, folder)


def _check_card(owner: str, folder: Path) -> None:
    card = folder / CARD
    if card.exists() and not is_own(card.read_text(encoding="utf-8", errors="replace")):
        raise FileExistsError(
            f"{owner}: {card} was not written here, or was changed by hand since. Move it away or delete it; it would "
            f"be overwritten."
        )


# ---- the record and the card -------------------------------------------------------------------------------------


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.items() >= _MADE_BY.items() else None


def _write_record(folder: Path, record: Mapping[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """Write the record without secrets; returns it so."""
    text = hide_tokens(json.dumps(record, indent=1, ensure_ascii=False), secrets)
    _write_text(folder / RECORD, f"{text}\n")
    hidden: dict[str, Any] = json.loads(text)
    return hidden


def _write_card(
    folder: Path,
    record: Mapping[str, Any],
    splits: Mapping[str, Dataset],
    configs: Mapping[str, Config],
    corpus: Corpus | None,
    secrets: Sequence[str],
) -> Path:
    card = hide_tokens(dataset_card(record, splits, configs, corpus), secrets)
    _write_text(folder / CARD, signed(card))
    return folder / CARD


def _write_text(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
