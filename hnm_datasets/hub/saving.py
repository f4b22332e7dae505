"""A mined set as a folder that `load_dataset` reads and that can be published as it is.

| in the folder | what |
|---|---|
| `data/SPLIT-00000-of-0000N.parquet` | the rows, the configuration `default` |
| `corpus/train-00000-of-0000N.parquet` | for rows that name passages by id: the passages, the configuration `corpus` |
| `README.md` | the card, see `card.py` |
| `mining.json` | what the card needs to be made again: steps, versions, fingerprints, audit, license |

The folder is written aside and renamed: it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset
from filelock import FileLock

from hnm_datasets import checks
from hnm_datasets.audit.report import Audit
from hnm_datasets.batch import Batch
from hnm_datasets.corpus.passages import Corpus
from hnm_datasets.corpus.source import PARTS
from hnm_datasets.formats.base import Layout
from hnm_datasets.formats.registry import recognize
from hnm_datasets.hub.card import CARD, dataset_card, is_own, signed
from hnm_datasets.hub.metadata import Config, configs_of
from hnm_datasets.hub.record import RECORD, Options, read_record, record_of, write_record
from hnm_datasets.hub.shards import CORPUS, DATA, load_rows, replacing, write_corpus, write_rows
from hnm_datasets.hub.tokens import hide_tokens, known_tokens
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.writing import written_aside

_ROWS_AT_ONCE = 10_000


def save_mined(
    dataset: Rows,
    folder: str | Path,
    *,
    steps: Sequence[object] = (),
    corpus: Corpus | None = None,
    audit: Audit | None = None,
    judgments: Rows | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    name: str | None = None,
    source: str | None = None,
    include_corpus: bool = True,
) -> Path:
    """Write mined rows to a folder that `load_dataset(folder)` reads, with a card that says how they were mined.

    Rows that name their passages by id are of no use without the passages. Given the corpus, they are written too, as
    the configuration `corpus`: `Corpus.from_dataset(load_dataset(folder, "corpus", split="train"))`.

    The folder is written aside and renamed, so a run that is killed leaves nothing half-written under its name. A
    folder that was written here before is replaced.

    Args:
        dataset: The rows, in any format that `audit_negatives` knows. A `DatasetDict` keeps its splits; a
            `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists becomes the split `train`.
        folder: Where to write.
        steps: The steps of mining in order, as they were passed to `map`, or texts; the card shows their `repr`. Rows
            that `mine` returned remember them: leave it out.
        corpus: The passages that the rows name by id; for rows of texts, what the negatives were mined from.
        audit: What `audit_negatives` said of the first split; None: it is asked now.
        judgments: For the audit, which then counts the false negatives; see `audit_negatives`.
        license: The license's name on the Hub, such as `"cc-by-4.0"`.
        language: The code of the language, such as `"en"`, or a list of them.
        name: The card's title; None: the folder's name.
        source: The Hub id or URL of the mined dataset.
        include_corpus: Whether the corpus is written beside rows of ids.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder holds something else, or its card was changed by hand.
        KeyError: The columns are in no known format, or an id is not in the corpus.
        TypeError: An argument is something else.
        ValueError: A split has no rows, or a name that `load_dataset` does not read: letters, digits and `_`, with
            single dots between them. Or `steps` contradicts what the rows remember, or names another source than their
            `negative_source`; or the rows are of several minings.

    Example:
        >>> import tempfile
        >>> from datasets import load_dataset
        >>> from hnm_datasets import BM25Negatives, ToTriplets, load_sample, mine
        >>> corpus, queries = load_sample("earthquakes")
        >>> triplets = mine(queries, [BM25Negatives(corpus, k=2), ToTriplets(corpus)])  # doctest: +ELLIPSIS
        mine: ...
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     folder = save_mined(triplets, f"{parent}/quakes", corpus=corpus, license="cc-by-4.0")
        ...     sorted(path.name for path in folder.iterdir()), load_dataset(str(folder), split="train").num_rows
        (['README.md', 'data', 'mining.json'], 2)
    """
    options = Options(steps, corpus, audit, judgments, license, language, name, source, include_corpus)
    return save("save_mined", dataset, Path(folder), options, repo_id=None, secrets=known_tokens())


def write_card(
    folder: str | Path,
    *,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
    name: str | None = None,
    source: str | None = None,
) -> Path:
    """Write the card of a folder of mined data again, or for the first time.

    Args:
        folder: One that `save_mined` wrote, with its `mining.json`; or any that `load_dataset` reads and whose columns
            are in a known format. Of the latter it is not known how they were mined, and the card says so.
        license: What the card is to say instead of what it said before; None: the same. So are the next three.
        language: The code of the language, or a list of them.
        name: The card's title.
        source: The Hub id or URL of the mined dataset.

    Returns:
        The card, `README.md` in the folder.

    Raises:
        FileExistsError: There is a README.md that was not written here, or was changed since.
        FileNotFoundError: There is no such folder.
        KeyError: The columns are in no known format.
        ValueError: Its `mining.json` is damaged, or is that of another set.

    Example:
        >>> import tempfile
        >>> rows = Dataset.from_dict({"anchor": ["what?"], "positive": ["this"], "negative": ["that"]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = rows.to_parquet(f"{folder}/train.parquet")
        ...     card = write_card(folder, name="What")
        ...     "# What" in card.read_text(), "The steps were not recorded." in card.read_text()
        (True, True)
    """
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"write_card: there is no folder {path}.")
    _check_card("write_card", path)
    options = Options(license=license, language=language, name=name, source=source)
    options.check("write_card")
    secrets = known_tokens()
    record = read_record(path)
    if record is None:
        splits = dict(load_dataset(str(path)))
        layout = recognize(_first(splits).column_names, "write_card")
        record = record_of("write_card", splits, layout, options, repo_id=f"your-name/{path.name}", included=False)
        return _write_card(path, record, splits, {}, None, secrets)
    _check_shards(path, record)
    told = {"license": license, "name": name, "source": source, "language": options.languages}
    record |= {key: value for key, value in told.items() if value}
    splits = {split: load_rows(path / DATA, split) for split in record["splits"]}
    for split, rows in splits.items():
        record["splits"][split]["rows"] = len(rows)
    corpus = None
    if record["corpus"] and record["corpus"]["included"]:
        passages = load_rows(path / CORPUS, "train")
        kept = [name for name in record["corpus"]["columns"] if name not in PARTS.values()]
        corpus = Corpus.from_dataset(passages, columns=kept)
        record["corpus"] |= {"fingerprint": corpus.fingerprint, "passages": len(corpus), "columns": [*corpus.columns]}
    record = write_record(path, record, secrets)
    return _write_card(path, record, splits, configs_of(record, _first(splits).features), corpus, secrets)


# ---- saving ------------------------------------------------------------------------------------------------------


def save(
    owner: str,
    dataset: Rows,
    folder: Path,
    options: Options,
    *,
    repo_id: str | None,
    secrets: Sequence[str],
) -> Path:
    """Do what `save_mined` does, for a given Hub id and without these secrets in any text."""
    options.check(owner)
    splits = _splits_of(owner, dataset)
    layout = recognize(_first(splits).column_names, owner)
    folder = folder.expanduser().resolve()
    _check_replaceable(owner, folder)
    # Rows of texts need no passages beside them.
    corpus = options.corpus if layout.format.needs_corpus else None
    if corpus is not None:
        _check_ids(owner, splits, layout, corpus)
    included = corpus is not None and options.include_corpus
    record = record_of(owner, splits, layout, options, repo_id=repo_id or f"your-name/{folder.name}", included=included)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder), replacing(folder) as aside:
        for split, rows in splits.items():
            write_rows(aside / DATA, split, rows)
        if included and corpus is not None:
            write_corpus(aside / CORPUS, corpus)
        record = write_record(aside, record, secrets)
        configs = configs_of(record, _first(splits).features)
        _write_card(aside, record, splits, configs, options.corpus, secrets)
    return folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing the folder: by a file in the cache, or beside the folder if it is read-only."""
    locks = cache_root() / "pushes"
    lock = FileLock(locks / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.lock")
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        lock = FileLock(folder.with_name(f".{folder.name}.hnm_datasets.lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _first(splits: Mapping[str, Dataset]) -> Dataset:
    return next(iter(splits.values()))


def _splits_of(owner: str, dataset: Rows) -> dict[str, Dataset]:
    given = dataset if isinstance(dataset, DatasetDict) else {"train": dataset_of(dataset, owner, "dataset")}
    if not given:
        raise ValueError(f"{owner}: the DatasetDict has no split: there is nothing to publish.")
    splits = {checks.split_name(owner, name): rows for name, rows in given.items()}
    _check_distinct(owner, splits)
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


def _check_distinct(owner: str, names: Iterable[str]) -> None:
    """Raise if two splits would be one file where names of files do not differ by case."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            raise ValueError(
                f"{owner}: the splits {other!r} and {name!r} would have the same files on systems that ignore case. "
                f"Rename one of them."
            )


def _check_shards(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise if the record names other splits than the folder has, so that it is that of another set."""
    there = {path.name.rsplit("-", 3)[0] for path in (folder / DATA).glob("*.parquet")}
    corpus = bool(record["corpus"] and record["corpus"]["included"])
    if there != set(record["splits"]) or corpus != any((folder / CORPUS).glob("train-*.parquet")):
        raise ValueError(
            f"write_card: {folder / RECORD} is the record of another set: it names the splits "
            f"{sorted(record['splits'])} {'and' if corpus else 'without'} a corpus, and the folder has "
            f"{sorted(there)}. Save the set again with save_mined; or move the file away: then the card says that the "
            f"steps were not recorded."
        )


def _check_ids(owner: str, splits: Mapping[str, Dataset], layout: Layout, corpus: Corpus) -> None:
    for rows in splits.values():
        for table in rows.with_format("arrow").iter(_ROWS_AT_ONCE):
            batch = Batch(table, step=owner)
            for name in (*layout.positives, *layout.negatives):
                batch.rows_in(name, corpus)


def _check_replaceable(owner: str, folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{owner}: {folder} is a file. Choose another folder.")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return
    others = sorted(names - {CARD, RECORD, DATA, CORPUS})
    try:
        record = read_record(folder)
    except ValueError as error:
        raise FileExistsError(f"{owner}: the folder {folder} would be replaced, but {error}") from None
    if record is None or others:
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


def _write_card(
    folder: Path,
    record: Mapping[str, Any],
    splits: Mapping[str, Dataset],
    configs: Mapping[str, Config],
    corpus: Corpus | None,
    secrets: Sequence[str],
) -> Path:
    card = hide_tokens(dataset_card(record, splits, configs, corpus), secrets)
    with written_aside(folder / CARD) as aside:
        aside.write_text(signed(card), encoding="utf-8")
    return folder / CARD
