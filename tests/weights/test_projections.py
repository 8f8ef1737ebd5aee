"""Projections against explicit matrices made from the definition; their lengths, angles and memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.linalg import hadamard as scipy_hadamard

from farfield.errors import InputError
from farfield.weights.projections import PROJECTIONS, Fastfood, Sparse, fwht, projection


def explicit(p: Any) -> np.ndarray[Any, Any]:
    """The matrix, from the definition and the random numbers that the projection holds."""
    n, d = p.shape
    if isinstance(p, Sparse):
        out = np.zeros((n, d))
        for i, j, v in zip(p.rows, p.columns, p.values, strict=True):
            out[i, j] += v
        return out
    if isinstance(p, Fastfood):
        blocks, m = p.gauss.shape
        h = scipy_hadamard(m).astype(float)
        parts = []
        for b in range(blocks):
            permutation = np.zeros((m, m))
            permutation[np.arange(m), p.order[b] - b * m] = 1
            parts.append(h @ np.diag(p.gauss[b]) @ permutation @ h @ np.diag(p.signs[b].astype(float)))
        stacked = block_diag(*parts) @ np.tile(np.eye(m), (blocks, 1))
        return np.asarray(stacked[:n, :d])
    return np.asarray(p.matrix)


@pytest.mark.parametrize("n", [1, 2, 8, 64, 128, 1024, 8192])
def test_the_transform_against_the_matrix(n: int) -> None:
    x = np.random.default_rng(n).normal(size=(3, n))
    assert fwht(x) == pytest.approx(x @ scipy_hadamard(n), rel=1e-12, abs=1e-11)
    assert fwht(fwht(x)) == pytest.approx(n * x, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("kind", PROJECTIONS)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 1), (7, 7), (64, 64), (100, 10), (513, 130), (130, 127)])
def test_forward_and_transpose_against_the_explicit_matrix(kind: str, n: int, d: int) -> None:
    p = projection(kind, n, d, rng=n + d)
    matrix = explicit(p)
    rng = np.random.default_rng(1)
    z, g = rng.normal(size=d), rng.normal(size=n)
    assert matrix.shape == p.shape == (n, d)
    assert p.forward(z) == pytest.approx(matrix @ z, rel=1e-12, abs=1e-12)
    assert p.transpose(g) == pytest.approx(matrix.T @ g, rel=1e-12, abs=1e-12)
    assert projection(kind, n, d, rng=n + d).forward(z).tobytes() == p.forward(z).tobytes()


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_columns_have_length_one_and_are_about_orthogonal(kind: str) -> None:
    p = projection(kind, 4096, 64, rng=3)
    gram = np.stack([p.transpose(p.forward(row)) for row in np.eye(64)])
    assert np.diag(gram) == pytest.approx(1, abs=1e-12)  # 4096 is a multiple of Fastfood's blocks: exactly
    assert np.abs(gram - np.eye(64)).max() < 6 / np.sqrt(4096) + 0.03
    cut = projection(kind, 4096 + 33, 64, rng=3)
    assert np.array([np.linalg.norm(cut.forward(row)) for row in np.eye(64)]) == pytest.approx(1, abs=0.03)


def test_fastfood_keeps_and_uses_a_fiftieth_of_the_memory() -> None:
    peaks = {}
    for kind in ("dense", "fastfood"):
        tracemalloc.start()
        p = projection(kind, 20_000, 512, rng=0, dtype=np.float32)
        p.transpose(p.forward(np.ones(512)))
        peaks[kind] = (p.nbytes, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks["dense"][0] >= 50 * peaks["fastfood"][0]
    assert peaks["dense"][1] >= 50 * peaks["fastfood"][1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("dens", 5, 2), "unknown projection 'dens'"),
        (("dense", 5, 6), "d is 6 and there are 5 parameters"),
        (("dense", 5, 0), "d is 0"),
        (("dense", 5, 2, 0, np.float16), "dtype is float16"),
        (("dense", 2**31, 2), "below 2"),
    ],
)
def test_refusals(arguments: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        projection(*arguments)


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="power of two"):
        fwht(np.ones(6))
    with pytest.raises(InputError, match="z"):
        projection("fastfood", 9, 3, 0).forward([1.0, 2.0])
