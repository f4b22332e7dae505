"""Measures are those of ir_measures."""

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import R, nDCG

from hnm_datasets.piloting.ranking import MEASURES, means_of, measures_of


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 9, 10, 11, 99, 100, 101, 130]))
def test_they_are_those_of_ir_measures(seed, passages):
    rng = np.random.default_rng(seed)
    queries = int(rng.integers(1, 5))
    scores = rng.permuted(np.tile(np.arange(passages), (queries, 1)), axis=1).astype(np.float32)
    relevant = [rng.permutation(passages)[: rng.integers(1, min(passages, 15) + 1)] for _ in range(queries)]
    # A passage may be named twice.
    relevant[0] = np.append(relevant[0], relevant[0][0])
    offsets = np.cumsum([0, *map(len, relevant)])
    found = measures_of(torch.from_numpy(scores), offsets, np.concatenate(relevant))
    qrels = {f"q{at}": {f"p{one}": 1 for one in ones} for at, ones in enumerate(relevant)}
    run = {f"q{at}": {f"p{one}": float(score) for one, score in enumerate(row)} for at, row in enumerate(scores)}
    wanted = np.empty_like(found)
    for one in ir_measures.iter_calc([nDCG @ 10, R @ 10, R @ 100], qrels, run):
        wanted[int(one.query_id[1:]), [nDCG @ 10, R @ 10, R @ 100].index(one.measure)] = one.value
    assert found == pytest.approx(wanted, abs=1e-6)


def test_means_are_over_seeds_and_queries():
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    assert means_of(values) == dict(zip(MEASURES, [4.5, 5.5, 6.5], strict=True))
