"""Sparse vectors as arrays, against plain matrices."""

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hnm_datasets.models.sparse_vectors import SparseVectors, sparse_vectors

VALUES = st.sampled_from([0, 0, 1, -2, 3])
MATRICES = arrays(np.float32, st.tuples(st.integers(0, 6), st.integers(1, 7)), elements=VALUES)


def dense(vectors, width):
    matrix = scipy.sparse.csr_array((vectors.weights, vectors.terms, vectors.offsets), shape=(len(vectors), width))
    return matrix.toarray()


@given(MATRICES)
def test_any_form_of_matrix_is_read(matrix):
    forms = [
        matrix,
        matrix.tolist() if len(matrix) else matrix,
        scipy.sparse.csr_matrix(matrix),
        scipy.sparse.coo_array(matrix),
        torch.from_numpy(matrix),
        torch.from_numpy(matrix).to_sparse(),
        torch.from_numpy(matrix).double().requires_grad_(),
        torch.from_numpy(matrix).bfloat16().to_sparse(),
    ]
    for form in forms:
        found = sparse_vectors(form)
        np.testing.assert_array_equal(dense(found, matrix.shape[1]), matrix)
        assert (found.weights != 0).all()
        assert (found.offsets.dtype, found.terms.dtype, found.weights.dtype) == (np.int64, np.int32, np.float32)


def test_a_matrix_is_not_changed():
    matrix = scipy.sparse.csr_array((np.float32([1, 0, 2]), np.int32([1, 0, 2]), np.array([0, 3])), shape=(1, 3))
    sparse_vectors(matrix)
    assert (matrix.data.tolist(), matrix.indices.tolist()) == ([1, 0, 2], [1, 0, 2])


@pytest.mark.parametrize("other", [5, "text", [1.0, 2.0], [["a"]], None, np.zeros((2, 2, 2))], ids=str)
def test_what_is_no_matrix_is_refused(other):
    with pytest.raises(ValueError, match="Sparse vectors must be a matrix"):
        sparse_vectors(other)


@given(MATRICES, st.data())
def test_vectors_are_taken_joined_and_cut(matrix, data):
    vectors, width = sparse_vectors(matrix), matrix.shape[1]
    rows = st.lists(st.integers(0, len(matrix) - 1), max_size=8) if len(matrix) else st.just([])
    which = np.array(data.draw(rows), dtype=int)
    np.testing.assert_array_equal(dense(vectors.take(which), width), matrix[which])
    cut = data.draw(st.integers(0, len(matrix)))
    parts = [vectors.part(0, cut), vectors.part(cut, len(matrix))]
    np.testing.assert_array_equal(dense(parts[1], width), matrix[cut:])
    np.testing.assert_array_equal(dense(SparseVectors.joined(parts), width), matrix)
    again = SparseVectors.of_entries(vectors.offsets, vectors.entries())
    np.testing.assert_array_equal(dense(again, width), matrix)


@given(MATRICES, st.integers(1, 4))
def test_the_strongest_weights_stay(matrix, n):
    expected = matrix.copy()
    for row in expected:
        row[np.argsort(-np.abs(row), kind="stable")[n:]] = 0
    np.testing.assert_array_equal(dense(sparse_vectors(matrix).strongest(n), matrix.shape[1]), expected)


@given(MATRICES)
def test_lengths_are_1(matrix):
    found = dense(sparse_vectors(matrix).normalized(), matrix.shape[1])
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    np.testing.assert_allclose(found, np.where(lengths, matrix / np.where(lengths, lengths, 1), 0), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e16])
def test_bad_weights_are_found(value):
    matrix = np.eye(4, dtype=np.float32)
    matrix[0] = 0
    assert sparse_vectors(matrix).bad() is None
    matrix[2, 3] = value
    assert sparse_vectors(matrix).bad() == 2
