"""Every index has what the protocols of indexes ask for, under the same names and with the same parameters."""

import dataclasses
import inspect

import pytest

from hnm_datasets import BM25Index, DenseIndex, ShardedIndex, SparseIndex
from hnm_datasets.indexes.base import Index, ShardIndex


def members_of(protocol):
    return {name: thing for one in protocol.__mro__ for name, thing in vars(one).items() if not name.startswith("_")}


def test_the_protocols_ask_for_what_the_miners_use():
    assert members_of(Index).keys() == {"corpus", "fingerprint", "prepare", "search", "score"}
    assert members_of(ShardIndex).keys() - members_of(Index).keys() == {
        "shard",
        "rows",
        "nbytes",
        "close",
        "search_shard",
    }


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [(BM25Index, ShardIndex), (DenseIndex, ShardIndex), (SparseIndex, ShardIndex), (ShardedIndex, Index)],
    ids=["BM25Index", "DenseIndex", "SparseIndex", "ShardedIndex"],
)
def test_every_index_has_what_its_protocol_asks_for(kind, protocol):
    options = {field.name for field in dataclasses.fields(kind)}
    for name, asked in members_of(protocol).items():
        if isinstance(asked, property):
            assert name in options or isinstance(getattr(kind, name), property), name
        else:
            own, theirs = (list(inspect.signature(one).parameters.values()) for one in (getattr(kind, name), asked))
            assert [(one.name, one.kind, one.default) for one in own] == [
                (one.name, one.kind, one.default) for one in theirs
            ], name
