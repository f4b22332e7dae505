"""The contract of a transform, with one small check per requirement.

The tests of this library run every check on every public transform. To check a custom transform:

    from hnm_datasets.testing import check_transform
    def test_my_transform():
        check_transform(MyTransform(), rows)  # rows: a Dataset of at least ten rows, with an unrelated column
"""

from __future__ import annotations

import fnmatch
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import Hasher

_KILOBYTES = 16


def check_transform(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """Run all checks on a transform.

    Args:
        transform: A function for `Dataset.map(..., batched=True)`.
        rows: At least ten rows that it can process, with distinct values of `query_id` or `query`.

    Raises:
        AssertionError: The transform breaks the contract; the message names the broken requirement.

    Example:
        >>> from hnm_datasets import TopNegatives
        >>> columns = {"query": list("abcdefghij"), "negative_ids": [["x", "y"]] * 10, "topic": ["t"] * 10}
        >>> rows = Dataset.from_dict(columns)
        >>> check_transform(TopNegatives(1), rows)
    """
    for check in CHECKS:
        check(transform, rows)


def check_pickle_is_small(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """A transform pickles to its configuration, in a few kilobytes, before and after its first use."""
    before = pickle.dumps(transform)
    _outputs(transform, rows)
    after = pickle.dumps(transform)
    _require(len(after) < _KILOBYTES * 1024, f"pickles to {len(after):,} bytes, more than {_KILOBYTES} KB")
    _require(before == after, "pickles differently after use; keep opened files and models out of the state")


def check_hash_is_stable(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """The hash depends only on the configuration: it is the same after use and after pickling."""
    first = Hasher.hash(transform)
    _outputs(transform, rows)
    _require(Hasher.hash(transform) == first, "has another hash after use")
    _require(Hasher.hash(pickle.loads(pickle.dumps(transform))) == first, "has another hash after unpickling")


def check_hash_is_the_same_in_another_process(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """The hash is the same in another process, so that the process finds cached results."""
    _require(
        hashes_of_another_process([transform]) == [Hasher.hash(transform)],
        "has another hash in another process",
    )


def hashes_of_another_process(transforms: Sequence[Callable[[Any], Any]]) -> list[str]:
    """Return the hash of each transform in a new process, which unpickles them.

    Args:
        transforms: T transforms, which the new process can import.

    Returns:
        T hashes, as `Dataset.map` computes them.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transforms.pickle"
        path.write_bytes(pickle.dumps(list(map(pickle.dumps, transforms))))
        # The unpickled file is trusted: it was written above.
        code = (
            "import pickle, sys, datasets; from datasets.fingerprint import Hasher; from pathlib import Path; "
            f"datasets.config.HF_DATASETS_CACHE = Path({str(datasets.config.HF_DATASETS_CACHE)!r}); "
            f"sys.path[:0] = {[entry for entry in sys.path if entry]!r}; "
            f"[print(Hasher.hash(pickle.loads(one))) for one in pickle.loads(Path({str(path)!r}).read_bytes())]"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def check_batch_size_does_not_matter(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """A row gets the same result in a batch of 1, 7 or 1000."""
    whole = _outputs(transform, rows)
    for size in (1, 7):
        _require(_outputs(transform, rows, batch_size=size) == whole, f"gives other results in batches of {size}")


def check_processes_do_not_matter(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """A row gets the same result in one process or two."""
    _require(_outputs(transform, rows, num_proc=2) == _outputs(transform, rows), "gives other results in two processes")


def check_order_does_not_matter(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """A row gets the same result at any position."""
    backwards = rows.select(range(len(rows) - 1, -1, -1))
    _require(
        sorted(map(repr, _outputs(transform, backwards))) == sorted(map(repr, _outputs(transform, rows))),
        "gives other results when the rows are in another order",
    )


def check_stream_is_the_same(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """An `IterableDataset` gets the same results as a `Dataset`."""
    _require(_streamed(transform, rows) == _outputs(transform, rows), "gives other results on an IterableDataset")


def check_formats_do_not_matter(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """Dicts of lists, dicts of arrays, tables and data frames get the same results."""
    names = list(transform(rows[:]))
    expected = {name: _without_nan(values) for name, values in transform(rows[:]).items()}
    for form in ("numpy", "arrow", "pandas"):
        answer = transform(rows.with_format(form)[:])
        columns = answer.to_pydict() if isinstance(answer, pa.Table) else {name: list(answer[name]) for name in answer}
        found = {name: [v.tolist() if hasattr(v, "tolist") else v for v in columns[name]] for name in names}
        found = {name: _without_nan(values) for name, values in found.items()}
        _require(found == expected, f"gives other results for a batch in {form} format")


def _without_nan(values: Any) -> Any:
    """Return a value or nested lists with None in place of NaN, because arrays of numbers have no nulls."""
    if isinstance(values, list):
        return [_without_nan(value) for value in values]
    return None if isinstance(values, float) and values != values else values


def check_input_is_unchanged(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """A transform does not modify its input batch."""
    batch, copy = rows[:], rows[:]
    transform(batch)
    _require(batch == copy, "changes its input batch")


def check_foreign_columns_are_untouched(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """An unrelated column is passed through; if the number of rows changes, it stays aligned with its rows."""
    marked = rows.map(lambda row, number: {"_foreign": number}, with_indices=True)
    mapped = marked.map(transform, batched=True, load_from_cache_file=False)
    _require("_foreign" in mapped.column_names, "drops an unrelated column")
    if not _is_shape(transform):
        _require(mapped["_foreign"][:] == list(range(len(rows))), "changes or reorders an unrelated column")
        return
    for number in range(len(rows)):
        # `map` would raise an error if a shape creates no rows from this row.
        own = _streamed(transform, rows.select([number]))
        found = mapped.filter(lambda row, number=number: row["_foreign"] == number)
        found = found.select_columns([name for name in found.column_names if own and name in own[0]])
        _require(
            [dict(sorted(row.items())) for row in found] == own,
            "misaligns an unrelated column with the new rows",
        )


def check_schema_is_right_when_all_is_empty(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """The types of the columns are the same if all lists of the first batch are empty."""
    if _is_shape(transform):
        return
    empty: dict[str, list[list[Any]]] = {
        name: [[] for _ in range(2)] for name, feature in rows.features.items() if isinstance(feature, datasets.List)
    }
    first = Dataset.from_dict(rows.select(range(2)).to_dict() | empty, features=rows.features)
    both = datasets.concatenate_datasets([first, rows])
    expected = rows.map(transform, batched=True, load_from_cache_file=False).features
    found = both.map(transform, batched=True, batch_size=2, load_from_cache_file=False).features
    _require(found == expected, f"writes {found} when the first batch's lists are empty, otherwise {expected}")


def check_declared_columns_are_written(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """A transform writes exactly the columns in `output_columns` and requires only those in `input_columns`."""
    declared = getattr(transform, "output_columns", None)
    if declared is None:
        return
    needed = [*transform.input_columns, *(name for name in ("query", "query_id") if name in rows.column_names)]  # type: ignore[attr-defined]
    written = set(transform(rows.select_columns(list(dict.fromkeys(needed)))[:]))
    meant = all(any(fnmatch.fnmatchcase(name, pattern) for pattern in declared) for name in written)
    there = written >= {pattern for pattern in declared if "*" not in pattern}
    _require(meant and there, f"writes {written} but declares {declared}")


def check_aligned_columns_stay_aligned(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """Candidates are dropped and reordered in all aligned columns, including unknown ones."""
    if _is_shape(transform) or "negative_ids" not in rows.column_names:
        return
    tagged = rows.map(lambda row: {"negative_tags": [f"tag of {one}" for one in row["negative_ids"]]})
    if "negative_*" not in getattr(transform, "output_columns", ("negative_*",)):
        return
    for row in tagged.map(transform, batched=True, load_from_cache_file=False):
        _require(
            row["negative_tags"] == [f"tag of {one}" for one in row["negative_ids"]],
            "misaligns aligned columns",
        )


def check_missing_column_is_named(transform: Callable[[Any], Any], rows: Dataset) -> None:
    """A missing column raises a KeyError that names it."""
    for name in getattr(transform, "input_columns", ()):
        try:
            transform(rows.remove_columns(name)[:])
        except KeyError as error:
            _require(name in str(error), f"does not name the missing column {name!r}: {error}")
        else:
            raise AssertionError(f"The transform does not raise an error when the column {name!r} is missing.")


#: All checks, in the order of execution.
CHECKS: tuple[Callable[[Callable[[Any], Any], Dataset], None], ...] = (
    check_pickle_is_small,
    check_hash_is_stable,
    check_hash_is_the_same_in_another_process,
    check_batch_size_does_not_matter,
    check_processes_do_not_matter,
    check_order_does_not_matter,
    check_stream_is_the_same,
    check_formats_do_not_matter,
    check_input_is_unchanged,
    check_foreign_columns_are_untouched,
    check_schema_is_right_when_all_is_empty,
    check_declared_columns_are_written,
    check_aligned_columns_stay_aligned,
    check_missing_column_is_named,
)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(f"The transform {what}.")


def _is_shape(transform: Callable[[Any], Any]) -> bool:
    from hnm_datasets.transforms.shapes.base import Shape

    return isinstance(transform, Shape)


def _removed(transform: Callable[[Any], Any], rows: Dataset) -> list[str] | None:
    return rows.column_names if _is_shape(transform) else None


def _outputs(transform: Callable[[Any], Any], rows: Dataset, **options: Any) -> list[Mapping[str, Any]]:
    options = {"load_from_cache_file": False, "remove_columns": _removed(transform, rows)} | options
    return [dict(sorted(row.items())) for row in rows.map(transform, batched=True, **options)]


def _streamed(transform: Callable[[Any], Any], rows: Dataset) -> list[Mapping[str, Any]]:
    stream = rows.to_iterable_dataset()
    mapped = stream.map(transform, batched=True, batch_size=7, remove_columns=_removed(transform, rows))
    return [dict(sorted(row.items())) for row in mapped]
