"""Every public step answers odd batches rightly, or says what is wrong with which column, row or option.

`HNM_ODD_BATCHES=1000` draws as many batches a step, see CONTRIBUTING.md.
"""

import os

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from odd_batches import odd_batches
from test_contract import NAMES, transforms

from hnm_datasets import load_sample
from hnm_datasets.arrays.arrow import as_arrow
from hnm_datasets.transforms.miners.base import Miner
from hnm_datasets.transforms.miners.fusion import FuseNegatives
from hnm_datasets.transforms.scorers.base import Scorer
from hnm_datasets.transforms.shapes.base import Shape

EXAMPLES = int(os.environ.get("HNM_ODD_BATCHES", "25"))


@pytest.fixture(scope="module")
def ready(static_model):
    corpus = load_sample()[0]
    return corpus, transforms(corpus, static_model)


def plain(rows, unread=()):
    """Return the columns of any form as lists, without those that cannot be read and that no step reads."""
    names = (
        rows.columns if isinstance(rows, pl.DataFrame) else rows.column_names if isinstance(rows, pa.Table) else rows
    )
    return {name: as_arrow(rows[name], name, "test").to_pylist() for name in names if name not in unread}


def read(item):
    """Return a column as Arrow; None where it cannot be: one that the step does not read."""
    try:
        return item[0], as_arrow(item[1], item[0], "test")
    except TypeError:
        return None


def lengths(lists):
    return [len(one or ()) for one in lists]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_odd_batches(ready, name):
    corpus, steps = ready
    step = steps[name]
    ids = corpus.ids(np.arange(0, 180, 20)).to_pylist()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(odd_batches(ids))
    def check(batch):
        try:
            answer = step(batch.rows)
        except (ValueError, TypeError, KeyError) as error:
            # No error of Arrow, numpy or Unicode, which are of these kinds too.
            if type(error) not in (ValueError, TypeError, KeyError):
                raise
            check_message(step, str(error), batch)
            return
        readable = dict(filter(None, map(read, batch.columns.items())))
        found = plain(answer, unread=set(batch.columns) - {*readable, *step.output_columns})
        check_answer(step, {column: array.to_pylist() for column, array in readable.items()}, found)
        same = plain(step(pa.table(readable)))
        both = [column for column in found if column in same and column in (*readable, *step.output_columns)]
        # As texts, in which a NaN equals itself; arrays hold one in place of a null.
        one, other = (repr({column: of[column] for column in both}).replace("nan", "None") for of in (found, same))
        assert one == other

    def check_message(step, message, batch):
        assert type(step).__name__ in message
        assert any(repr(column) in message for column in batch.columns) or "row" in message

    def check_answer(step, given, found):
        size = len(next(iter(given.values())))
        if isinstance(step, Shape):
            assert len({len(values) for values in found.values()}) == 1
            assert set(found["anchor"]) <= set(given["query"])
            return
        assert all(len(values) == size for values in found.values())
        if isinstance(step, Scorer):
            positive, negative = step.output_columns
            assert lengths(found[positive]) == lengths(given["positive_ids"])
            assert lengths(found[negative]) == lengths(given["negative_ids"])
            return
        for column, values in found.items():
            if column.startswith("negative_") and column in step.output_columns:
                assert lengths(values) == lengths(found["negative_ids"]), column
        ids = found["negative_ids"]
        if isinstance(step, (Miner, FuseNegatives)):
            assert not any(
                set(own) & set(positives or ()) for own, positives in zip(ids, given["positive_ids"], strict=True)
            )
            assert all((corpus.find(pa.array(own, pa.string())) >= 0).all() for own in ids)
            assert all(len(set(own)) == len(own) for own in ids)
            return
        for own, before in zip(ids, given["negative_ids"], strict=True):
            assert not set(own or ()) - set(before or ())
            assert len(own or ()) <= len(before or ())

    check()
