"""A mined dataset as a folder that `load_dataset` reads and that is ready to publish.

| in the folder | content |
|---|---|
| `data/SPLIT-00000-of-0000N.parquet` | the rows, the configuration `default` |
| `corpus/train-00000-of-0000N.parquet` | for rows with passage ids: the passages, the configuration `corpus` |
| `README.md` | the card, see `card.py` |
| `mining.json` | the values for writing the card again: steps, versions, fingerprints, audit, license |

The folder is written under a temporary name and renamed, so it is never incomplete.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
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
from hnm_datasets.hub.replaced import Saved, log_replaced, saved_in
from hnm_datasets.hub.shards import CORPUS, DATA, load_rows, replacing, write_corpus, write_rows
from hnm_datasets.hub.snippets import placeholder_id
from hnm_datasets.hub.tokens import hide_tokens, known_tokens
from hnm_datasets.mining.report import emptied_by
from hnm_datasets.rows import Rows, dataset_of
from hnm_datasets.runtime.bars import iter_with_bar
from hnm_datasets.runtime.interrupts import interruptible
from hnm_datasets.storage.folders import cache_root
from hnm_datasets.storage.writing import written_aside

logger = logging.getLogger(__name__)

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
    """Write mined rows to a folder that `load_dataset(folder)` reads, with a dataset card.

    The card describes the steps of mining, an audit, examples, and code to train on the data. Rows with passage ids are
    useless without the passages. If you pass `corpus`, the folder includes it as the configuration `corpus`; read it
    with `Corpus.from_dataset(load_dataset(folder, "corpus", split="train"))`.

    The folder is written under a temporary name and renamed, so an interrupted call leaves no incomplete folder. A
    folder that `save_mined` wrote earlier is replaced, with a warning if its number of rows or its columns differ.

    Args:
        dataset: The rows, in any format that `audit_negatives` accepts. A `DatasetDict` keeps its splits; a
            `Dataset`, a data frame, an Arrow table, a list of dicts or a dict of lists becomes the split `train`.
        folder: The folder to write.
        steps: The steps of mining in order, as passed to `map`, or strings; the card shows their `repr`. Leave it out
            for rows that `mine` returned, because they remember their steps.
        corpus: The passages that the ids in the rows refer to. For rows with texts, the corpus that was mined, for the
            audit and the card.
        audit: The result of `audit_negatives` for the first split; None: the split is audited now.
        judgments: Relevance judgments for the audit, which then counts false negatives; see `audit_negatives`.
        license: The identifier of the license on the Hub, such as `"cc-by-4.0"`.
        language: A language code, such as `"en"`, or a list of codes.
        name: The title of the card; None: the name of the folder.
        source: The Hub id or URL of the dataset that was mined.
        include_corpus: Whether to write the corpus next to rows with passage ids.

    Returns:
        The path of the folder.

    Raises:
        FileExistsError: The folder contains other files, or its card was edited.
        KeyError: The columns match no known format, or an id is not in the corpus.
        TypeError: An argument has the wrong type.
        ValueError: No row has a negative. Or a split has no rows, or a name that `load_dataset` does not accept. Names
            consist of letters, digits and `_`, with single dots between them. Or `steps` contradicts the steps that the
            rows remember or their `negative_source`, or the rows were mined with different steps.

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
    """Write or update the dataset card of a folder with mined data.

    Args:
        folder: A folder that `save_mined` wrote, or any folder that `load_dataset` reads, with columns in a known
            format. In the second case, the card says that the steps were not recorded.
        license: The identifier of the license on the Hub; None keeps the value in the folder's `mining.json`, here and
            for the other options.
        language: A language code, or a list of codes.
        name: The title of the card.
        source: The Hub id or URL of the dataset that was mined.

    Returns:
        The path of the card, `README.md` in the folder.

    Raises:
        FileExistsError: The folder has a README.md that hnm_datasets did not write, or that was edited since.
        FileNotFoundError: There is no such folder.
        KeyError: The columns match no known format.
        ValueError: `mining.json` is damaged or belongs to another dataset.

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
        record = record_of("write_card", splits, layout, options, repo_id=placeholder_id(path.name), included=False)
        return _write_card(path, record, splits, {}, None, secrets)
    _check_shards(path, record)
    given = {"license": license, "name": name, "source": source, "language": options.languages}
    record |= {key: value for key, value in given.items() if value}
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
    """Save a dataset as `save_mined` does, with a given Hub id, and keep secrets out of all texts."""
    options.check(owner)
    splits = _splits_of(owner, dataset)
    layout = recognize(_first(splits).column_names, owner)
    folder = folder.expanduser().resolve()
    replaced = _check_replaceable(owner, folder)
    _check_negatives(owner, splits, layout)
    # Rows with texts need no passages.
    corpus = options.corpus if layout.format.needs_corpus else None
    if corpus is not None:
        _check_ids(owner, splits, layout, corpus)
    included = corpus is not None and options.include_corpus
    if layout.format.needs_corpus and corpus is None and options.include_corpus:
        logger.warning(
            "%s: the rows contain passage ids, and the folder contains no passages. Pass corpus= to include them, or "
            "include_corpus=False if they are published elsewhere.",
            owner,
        )
    record = record_of(
        owner, splits, layout, options, repo_id=repo_id or placeholder_id(folder.name), included=included
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    explain = f"{owner} was interrupted. The folder {folder} is as it was before. Repeat the call."
    with interruptible(lambda: explain), _locked(folder), replacing(folder) as aside:
        for split, rows in splits.items():
            write_rows(aside / DATA, split, rows)
        if included and corpus is not None:
            write_corpus(aside / CORPUS, corpus)
        record = write_record(aside, record, secrets)
        configs = configs_of(record, _first(splits).features)
        _write_card(aside, record, splits, configs, options.corpus, secrets)
    if replaced is not None:
        log_replaced(owner, folder, replaced, splits)
    return folder


def lock_of(folder: Path) -> Path:
    """Return the lock of a folder that a set is saved to."""
    return cache_root() / "pushes" / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.lock"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder against other processes, with a file in the cache, or next to the folder if that is read-only."""
    lock = FileLock(lock_of(folder))
    try:
        lock_of(folder).parent.mkdir(parents=True, exist_ok=True)
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
        raise ValueError(f"{owner}: the DatasetDict has no splits to publish.")
    splits = {checks.split_name(owner, name): rows for name, rows in given.items()}
    _check_distinct(owner, splits)
    first = next(iter(splits))
    for name, rows in splits.items():
        if not len(rows):
            raise ValueError(f"{owner}: the split {name!r} has no rows. Remove it, or check why mining left no rows.")
        if rows.features != splits[first].features:
            raise ValueError(
                f"{owner}: the splits {first!r} and {name!r} have different columns: {splits[first].features} and "
                f"{rows.features}. Publish them separately, or give them the same columns."
            )
    return {name: rows.with_format(None) for name, rows in splits.items()}


def _check_distinct(owner: str, names: Iterable[str]) -> None:
    """Raise if two splits would have the same file names on a case-insensitive file system."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            raise ValueError(
                f"{owner}: the splits {other!r} and {name!r} would have the same file names on case-insensitive file "
                f"systems. Rename one of them."
            )


def _check_shards(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise if the record lists other splits than the folder has, because it then belongs to another dataset."""
    there = {path.name.rsplit("-", 3)[0] for path in (folder / DATA).glob("*.parquet")}
    corpus = bool(record["corpus"] and record["corpus"]["included"])
    if there != set(record["splits"]) or corpus != any((folder / CORPUS).glob("train-*.parquet")):
        raise ValueError(
            f"write_card: {folder / RECORD} belongs to another dataset: it lists the splits "
            f"{sorted(record['splits'])} {'and' if corpus else 'without'} a corpus, but the folder has the splits "
            f"{sorted(there)}. Save the dataset again with save_mined, or move the file away; the card will then say "
            f"that the steps were not recorded."
        )


def _check_ids(owner: str, splits: Mapping[str, Dataset], layout: Layout, corpus: Corpus) -> None:
    for rows in splits.values():
        for table in iter_with_bar(rows.with_format("arrow"), _ROWS_AT_ONCE, "Checking ids"):
            batch = Batch(table, step=owner)
            for name in (*layout.positives, *layout.negatives):
                batch.rows_in(name, corpus)


def _check_negatives(owner: str, splits: Mapping[str, Dataset], layout: Layout) -> None:
    """Raise if no row has a negative; reads only until it finds one."""
    if layout.format.is_graded(layout, _first(splits)):
        return
    for rows in splits.values():
        for table in rows.with_format("arrow").iter(_ROWS_AT_ONCE):
            if len(layout.read(Batch(table, step=owner)).negatives):
                return
    step = next(filter(None, map(emptied_by, splits.values())), None)
    raise ValueError(
        f"{owner}: no row has a negative, so nobody could train on the dataset. "
        f"{step or 'Check the number of negatives after each step.'} Loosen the filters, or mine with a larger k or "
        f"another model."
    )


def _check_replaceable(owner: str, folder: Path) -> Saved | None:
    """Raise if the folder contains anything but an unedited dataset of `save_mined`; return what it contains."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise FileExistsError(f"{owner}: {folder} is a file. Choose another folder.")
    names = {path.name for path in folder.iterdir()}
    if not names:
        return None
    others = sorted(names - {CARD, RECORD, DATA, CORPUS})
    try:
        record = read_record(folder)
    except ValueError as error:
        raise FileExistsError(f"{owner}: the folder {folder} would be replaced, but {error}") from None
    if record is None or others:
        raise FileExistsError(
            f"{owner}: the folder {folder} contains files that hnm_datasets did not write "
            f"({', '.join(others or sorted(names))}). Choose another folder, or empty it."
        )
    _check_card(owner, folder)
    return saved_in(folder, record)


def _check_card(owner: str, folder: Path) -> None:
    card = folder / CARD
    if card.exists() and not is_own(card.read_text(encoding="utf-8", errors="replace")):
        raise FileExistsError(
            f"{owner}: {card} would be overwritten, but hnm_datasets did not write it, or it was edited since. Move it "
            f"away or delete it."
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
