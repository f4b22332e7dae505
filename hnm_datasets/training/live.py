"""Rows for training, whose negatives are chosen anew in each epoch and may be exchanged while the training runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from hnm_datasets import checks
from hnm_datasets.columns import NEGATIVE_IDS, POSITIVE_IDS, QUERY, Batch, score_column
from hnm_datasets.corpus import Corpus, check_corpus
from hnm_datasets.fingerprint import fingerprint
from hnm_datasets.ragged import Ragged, list_array, offsets_of
from hnm_datasets.storage import cache_root
from hnm_datasets.training.generations import Generation, Progress, write_generation
from hnm_datasets.training.labels import PADDING, pack
from hnm_datasets.transforms import kernels
from hnm_datasets.transforms.shape import choose_positives

_POSITIVES = ("each", "first")
_BATCH = 1000
_NAME = "live_negatives"
#: How many rows of the training are still to come from the generation before.
_HELD = {"rows": 0}


class LiveNegatives(Dataset):  # type: ignore[misc]
    """A `datasets.Dataset` of training rows; make one with `live_negatives`.

    Which epoch it is, it learns from `FollowEpochs` or `RefreshNegatives` among the trainer's callbacks.
    """

    @property
    def source(self) -> LiveTexts:
        """Where the texts come from."""
        return _source_of(self._format_kwargs["transform"])

    def select(self, *args: Any, **options: Any) -> LiveNegatives:
        """Select rows, as any dataset does; `shuffle`, `take` and their like come here too."""
        selected = super().select(*args, **options)
        # The library makes plain datasets of its subclasses.
        selected.__class__ = LiveNegatives
        live: LiveNegatives = selected
        return live

    def set_epoch(self, epoch: int) -> None:
        """Choose negatives anew, by the number of the epoch."""
        self.source.progress.epoch = epoch


def _source_of(transform: Any) -> LiveTexts:
    # The trainer wraps the transforms of several datasets to add their names.
    return transform if isinstance(transform, LiveTexts) else _source_of(transform.keywords["transform"])


def live_negatives(
    rows: Dataset,
    corpus: Corpus,
    n: int = 1,
    *,
    positives: str = "each",
    teacher: str | None = None,
    max_positives: int | None = None,
    seed: int = 0,
) -> LiveNegatives:
    """Make rows for the trainer: `anchor`, `positive`, `negative_1` to `negative_n` and a `label` for the loss.

    Texts are looked up when a batch is asked for, so nothing is copied. In each epoch n of a row's candidates are drawn
    anew, with the seed, the row and the epoch as the only source of chance: a training can be repeated and resumed. The
    label tells `HardNegativesRankingLoss` which passages are known positives of which query; other losses that take no
    labels, such as `MultipleNegativesRankingLoss`, leave it aside.

    A row with fewer candidates than n stays: it is filled up with random passages, which the label marks as padding, so
    that `HardNegativesRankingLoss` leaves them out.

    The rows work with workers of the dataloader, with prompts, as parts of a `DatasetDict`, and with
    `BatchSamplers.NO_DUPLICATES` (and its hashed form, which looks at queries and positives alone). Put `FollowEpochs`
    or `RefreshNegatives` among the trainer's callbacks: they tell the rows which epoch it is. The trainer itself does
    so only for a single dataset, in one process, that is not resumed.

    Args:
        rows: Mined rows; or queries without `negative_ids`, if `RefreshNegatives` is to mine for them.
        corpus: The passages.
        n: Negatives per row.
        positives: A row for `"each"` positive of a query, or for its `"first"` alone.
        teacher: Let the label carry this teacher's scores, for `HardNegativesRankingLoss(distill_weight=...)`;
            `"score"` for the retriever's.
        max_positives: How many positives a query may have; None: the most that one has now. Give room if
            `RefreshNegatives` runs a step that promotes candidates to positives.
        seed: Another seed draws others.

    Columns read:
        `query`, `positive_ids`; `negative_ids`, if there; `query_id` for the draw, if there; the teacher's scores.

    Returns:
        One row per query and positive; a query without a positive has none.

    Raises:
        KeyError: A column is missing, or an id is not in the corpus.
        ValueError: No query has a positive, or an option is out of range.

    Example:
        >>> from hnm_datasets import BM25Negatives, load_sample
        >>> corpus, queries = load_sample("earthquakes")
        >>> mined = queries.map(BM25Negatives(corpus, k=4), batched=True)
        >>> row = live_negatives(mined, corpus, n=2)[0]
        >>> list(row), row["anchor"]
        (['anchor', 'positive', 'negative_1', 'negative_2', 'label'], 'what causes earthquakes?')
    """
    check_corpus(_NAME, corpus)
    if not isinstance(rows, Dataset):
        raise TypeError(
            f"{_NAME}: rows must be a datasets.Dataset, got {type(rows).__name__}. Of a DatasetDict take a split."
        )
    n = checks.whole_number(_NAME, "n", n, low=1)
    seed = checks.whole_number(_NAME, "seed", seed, low=0)
    checks.one_of(_NAME, "positives", positives, _POSITIVES)
    tables = rows.with_format("arrow")
    pairs: dict[str, list[NDArray[np.int64]]] = {"anchor": [], "positive": []}
    longest, keys = 0, []
    for start, table in zip(range(0, len(rows), _BATCH), tables.iter(_BATCH), strict=True):
        batch = Batch(table, step=_NAME)
        batch.strings(QUERY)
        own = batch.string_lists(POSITIVE_IDS)
        longest = max(longest, int(own.lengths.max(initial=0)))
        keys.append(batch.row_keys())
        examples = choose_positives(own.offsets, positives, np.empty(0, dtype=np.uint64), seed)
        there = examples.positives >= 0
        found = corpus.rows_of_lists(POSITIVE_IDS, own, _NAME, batch.describe).values
        pairs["anchor"].append(examples.owners[there] + start)
        pairs["positive"].append(found[examples.positives[there]])
    if not longest:
        raise ValueError(f"{_NAME}: no row has a positive. Add them with attach_positives, from qrels.")
    most = longest if max_positives is None else checks.whole_number(_NAME, "max_positives", max_positives, low=1)
    if most < longest:
        raise ValueError(f"{_NAME}: a query has {longest} positives, more than max_positives={most}.")
    source = LiveTexts(corpus, n, teacher, most, seed, np.concatenate(keys), rows)
    mined = NEGATIVE_IDS in rows.column_names
    source.write(
        0,
        (_with_empty(table, mined, teacher) for table in tables.iter(_BATCH)),
        cache_root() / "live" / source.rows_name,
    )
    # Numbers in the table, under the names of the texts that the transform makes of them.
    live = LiveNegatives(pa.table({name: np.concatenate(numbers) for name, numbers in pairs.items()}))
    live.set_transform(source)
    return live


def _with_empty(table: pa.Table, mined: bool, teacher: str | None) -> pa.Table:
    """Add empty lists of candidates to rows that were not mined yet."""
    if mined:
        return table
    table = table.append_column(NEGATIVE_IDS, _empty_lists(len(table), pa.string()))
    if teacher is None:
        return table
    for part in ("positive", "negative"):
        name = score_column(teacher, of=part)
        if name in table.column_names:
            table = table.drop_columns([name])
        lengths = np.zeros(len(table), dtype=np.int64)
        if part == "positive":
            # No negative, no distillation: what the positives' scores are does not matter yet.
            lengths = table[POSITIVE_IDS].combine_chunks().value_lengths().fill_null(0).to_numpy()
        values = pa.array(np.zeros(lengths.sum(), dtype=np.float32))
        table = table.append_column(name, list_array(offsets_of(lengths), values))
    return table


def _empty_lists(size: int, of: pa.DataType) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.zeros(size + 1, dtype=np.int32)), pa.array([], of))


@dataclass(eq=False)
class LiveTexts:
    """The transform of a `LiveNegatives`: from row numbers to texts and labels.

    Attributes:
        corpus: The passages.
        n: Negatives per row.
        teacher: Whose scores the label carries, if anyone's.
        most: How many positives a label has room for.
        seed: For the draw.
        keys: 64 bits that identify each query. Shape (Q,).
        rows: The queries, for mining.
        progress: The epoch and the generation.
        root: Where the generations after the first are.
    """

    corpus: Corpus
    n: int
    teacher: str | None
    most: int
    seed: int
    keys: NDArray[np.uint64]
    rows: Dataset
    progress: Progress = field(default_factory=Progress)
    root: Path | None = None
    _first: Path | None = None
    _opened: tuple[int, Generation] | None = None
    _held: int | None = None

    def __post_init__(self) -> None:
        self._queries = self.rows.select_columns([QUERY]).with_format("arrow")

    def __deepcopy__(self, memo: object) -> LiveTexts:
        # Copies of a dataset share the epoch and generation of their training.
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_copies"} | {"_opened": None}

    @property
    def name(self) -> str:
        """What names the queries, corpus and options: 32 hexadecimal digits."""
        return fingerprint({"kind": "draw", "of": self.rows_name, "options": [self.n, self.seed, self.most]})

    @property
    def rows_name(self) -> str:
        """What names the queries and the corpus: 32 hexadecimal digits."""
        options = {"corpus": self.corpus.fingerprint, "rows": self.rows._fingerprint, "teacher": self.teacher}
        return fingerprint({"kind": "live", "options": options})

    def write(self, number: int, tables: Any, folder: Path) -> None:
        """Write a generation of these queries into a folder of generations."""
        path = write_generation(folder, number, tables, self.corpus, self.teacher, _NAME)
        longest = int(Generation.open(path).positives.lengths.max(initial=0))
        if longest > self.most:
            raise ValueError(
                f"{_NAME}: a query has {longest} positives now, and the labels have room for {self.most}. Give room "
                f"for those that are promoted: live_negatives(..., max_positives={2 * longest})."
            )
        if number == 0:
            self._first = path
        else:
            self.root = folder

    def folder_of(self, number: int) -> Path:
        """Return where a generation is."""
        if number == 0:
            assert self._first is not None
            return self._first
        if self.root is None:
            raise RuntimeError(f"{_NAME}: there is no generation {number}.")
        return self.root / f"{number:06d}"

    def generation(self) -> Generation:
        """Open the generation in use."""
        number = self.progress.generation if not self._holds() else self._held
        assert number is not None
        if self._opened is None or self._opened[0] != number:
            self._opened = (number, Generation.open(self.folder_of(number)))
        return self._opened[1]

    def hold(self, number: int | None, rows: int) -> None:
        """Take the next rows of the training, of this and all other sets together, from another generation."""
        self._held = number
        _HELD["rows"] = rows

    def _holds(self) -> bool:
        worker = get_worker_info()
        # The first batch is the first worker's.
        return self._held is not None and _HELD["rows"] > 0 and (worker is None or worker.id == 0)

    def ids_of(self, lists: Ragged[NDArray[np.int64]], rows: NDArray[np.int64]) -> pa.ListArray:
        """Return some of a generation's lists as ids."""
        taken = _taken(lists, rows)
        return list_array(taken.offsets, self.corpus.ids(taken.values))

    def table_of(self, generation: Generation, rows: NDArray[np.int64]) -> pa.Table:
        """Return some queries' lists of a generation as columns."""
        columns = {}
        for part in ("positive", "negative"):
            lists, scores = getattr(generation, f"{part}s"), getattr(generation, f"{part}_scores")
            columns[f"{part}_ids"] = self.ids_of(lists, rows)
            if self.teacher is not None:
                taken = _taken(Ragged(lists.offsets, scores), rows)
                columns[score_column(self.teacher, of=part)] = list_array(taken.offsets, pa.array(taken.values))
        return pa.table(columns)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the texts and labels of some rows."""
        owners = np.asarray(batch["anchor"], dtype=np.int64)
        positives = np.asarray(batch["positive"], dtype=np.int64)
        generation = self.generation()
        if self._holds():
            _HELD["rows"] -= len(owners)
        passages, is_padding, scores = self._choose(generation, owners, positives)
        texts = self.corpus.texts(passages.T.reshape(-1)).to_pylist()
        size = len(owners)
        columns = {"anchor": self._queries[owners.tolist()][QUERY].to_pylist()}
        names = ("positive", *(f"negative_{place + 1}" for place in range(self.n)))
        columns |= {name: texts[place * size : (place + 1) * size] for place, name in enumerate(names)}
        codes = self.corpus.text_codes
        known = _taken(generation.positives, owners)
        labels = pack(
            np.where(is_padding, PADDING, codes[passages]),
            Ragged(known.offsets, codes[known.values]),
            self.most,
            scores,
        )
        return columns | {"label": labels.tolist()}

    def _choose(
        self, generation: Generation, owners: NDArray[np.int64], positives: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32] | None]:
        """Draw each row's negatives.

        Returns:
            The corpus rows of each row's passages, the positive first, shape (M, 1 + n); which are padding; and their
            scores by the teacher, if wanted.
        """
        size, n = len(owners), self.n
        # Rows of one query draw apart, and each epoch draws anew.
        keys = self.keys[owners] ^ (positives.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        seed = self.seed + 1_000_003 * self.progress.epoch
        offsets = offsets_of(generation.negatives.lengths[owners]) if size else np.zeros(1, dtype=np.int64)
        places = np.repeat(generation.negatives.offsets[:-1][owners] - offsets[:-1], np.diff(offsets))
        places = places + np.arange(offsets[-1])
        keep = np.empty(len(places), dtype=bool)
        one_stratum = np.ones((1, len(places)), dtype=bool)
        kernels.sample_mask(offsets, np.zeros(len(places)), keys, seed, one_stratum, np.array([n]), keep)
        rows = np.repeat(np.arange(size), np.diff(offsets))[keep]
        found = np.bincount(rows, minlength=size)
        columns = np.arange(len(rows)) - np.repeat(offsets_of(found)[:-1], found)
        passages = np.empty((size, 1 + n), dtype=np.int64)
        is_padding = np.zeros((size, 1 + n), dtype=bool)
        passages[:, 0] = positives
        is_padding[:, 1:] = np.arange(n) >= found[:, None]
        passages[rows, 1 + columns] = generation.negatives.values[places[keep]]
        short = np.flatnonzero(found < n)
        if len(short):
            fillers = self._fillers(generation, owners[short], keys[short], seed)
            passages[short] = np.where(is_padding[short], fillers, passages[short])
        if self.teacher is None:
            return passages, is_padding, None
        assert generation.positive_scores is not None
        assert generation.negative_scores is not None
        scores = np.zeros(passages.shape, dtype=np.float32)
        scores[rows, 1 + columns] = generation.negative_scores[places[keep]]
        known = _taken(generation.positives, owners)
        own = np.flatnonzero(known.values == positives[known.owners])
        first = own[np.unique(known.owners[own], return_index=True)[1]]
        scores[:, 0] = _taken(Ragged(generation.positives.offsets, generation.positive_scores), owners).values[first]
        return passages, is_padding, scores

    def _fillers(
        self, generation: Generation, owners: NDArray[np.int64], keys: NDArray[np.uint64], seed: int
    ) -> NDArray[np.int64]:
        """Return random passages that are no positives, for what is missing. Shape (S, 1 + n)."""
        codes = self.corpus.text_codes
        positives = _taken(generation.positives, owners)
        # So many passages at most have the text of a positive.
        copies = np.bincount(positives.owners, self._copies[codes[positives.values]], len(owners))
        drawn = np.empty((len(owners), 1 + self.n + int(copies.max(initial=0))), dtype=np.int64)
        kernels.permuted_rows(keys, seed, len(self.corpus), drawn)
        known = np.zeros(drawn.shape, dtype=bool)
        for place in range(int(positives.lengths.max(initial=0))):
            there = positives.lengths > place
            one = codes[positives.values[positives.offsets[:-1][there] + place]]
            known[there] |= codes[drawn[there]] == one[:, None]
        # A corpus with too few passages fills up with the first: padding is left out by the loss.
        known |= drawn < 0
        order = np.argsort(known, axis=1, kind="stable")[:, : 1 + self.n]
        return np.maximum(np.take_along_axis(drawn, order, axis=1), 0)

    @cached_property
    def _copies(self) -> NDArray[np.int64]:
        """How many passages have the text of each code. Shape (N,)."""
        codes = self.corpus.text_codes
        return np.bincount(codes, minlength=len(codes))


def _taken(lists: Ragged[Any], rows: NDArray[np.int64]) -> Ragged[Any]:
    """Return some of the lists."""
    lengths = lists.lengths[rows]
    offsets = offsets_of(lengths)
    places = np.repeat(lists.offsets[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Ragged(offsets, lists.values[places])
