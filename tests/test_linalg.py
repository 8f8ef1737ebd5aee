"""Square roots of covariances: traces against mpmath and closed forms, ranks, refusals, the map between two Gaussians."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import linalg as scipy_linalg

from farfield import linalg
from farfield.errors import InputError
from tolerances import assert_close


def covariance(rng: np.random.Generator, d: int, rank: int | None = None) -> np.ndarray:
    rows = rng.normal(size=(d, rank or d + 3))
    return rows @ rows.T


def exact_trace(s1: np.ndarray, s2: np.ndarray) -> float:
    """tr sqrt(S1 S2) from the eigenvalues of the product, in 60 digits."""
    with mpmath.workdps(60):
        product = mpmath.matrix(s1.tolist()) * mpmath.matrix(s2.tolist())
        # of a single number mpmath 1.3 returns vectors too
        values = [product[0, 0]] if product.rows == 1 else mpmath.eig(product, left=False, right=False)
        return float(mpmath.fsum(mpmath.sqrt(abs(v.real)) for v in values))


@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_trace_against_sixty_digits(d: int) -> None:
    rng = np.random.default_rng(d)
    s1, s2 = covariance(rng, d), covariance(rng, d)
    assert_close(linalg.trace_sqrt_product(s1, s2), exact_trace(s1, s2))
    assert_close(linalg.trace_sqrt_product(s2, s1), exact_trace(s1, s2))


def test_trace_of_matrices_that_commute() -> None:
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    a, b = np.exp(rng.uniform(-9, 9, (2, 40)))
    expected = np.sqrt(a * b).sum()
    assert linalg.trace_sqrt_product((q * a) @ q.T, (q * b) @ q.T) == pytest.approx(expected, rel=1e-9)


def test_trace_where_the_spectrum_falls_below_the_square_root_of_rounding() -> None:
    # eigenvalues of the product down to 1e-24 of the largest: eigenvalues alone would leave noise of 1e-8 in each root
    d = 60
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    s = (q * 10.0 ** -np.linspace(0, 12, d)) @ q.T
    assert linalg.trace_sqrt_product(s, s) == pytest.approx(np.trace(s), rel=1e-10)


@pytest.mark.parametrize(("rank1", "rank2"), [(3, 12), (12, 3), (3, 4), (1, 1)])
def test_singular_matrices(rank1: int, rank2: int) -> None:
    rng = np.random.default_rng(rank1)
    a, b = rng.normal(size=(12, rank1)), rng.normal(size=(12, rank2))
    expected = scipy_linalg.svdvals(a.T @ b).sum()
    assert_close(linalg.nuclear_norm(a, b), expected)
    # the covariances have lost the digits below their own rounding, whose root this is
    assert linalg.trace_sqrt_product(a @ a.T, b @ b.T) == pytest.approx(expected, rel=1e-7)
    assert linalg.psd_factor("s", a @ a.T).shape == (12, rank1)


def test_zero_and_empty() -> None:
    assert linalg.trace_sqrt_product(np.zeros((3, 3)), np.eye(3)) == 0
    assert linalg.trace_sqrt_product(np.eye(3), np.zeros((3, 3))) == 0
    assert linalg.trace_sqrt_product(np.zeros((0, 0)), np.zeros((0, 0))) == 0
    assert linalg.nuclear_norm(np.zeros((3, 0)), np.zeros((3, 2))) == 0


def test_factor_gives_the_matrix_back() -> None:
    s = covariance(np.random.default_rng(2), 9, rank=5)
    factor = linalg.psd_factor("s", s)
    assert factor.shape == (9, 5)
    assert_close(factor @ factor.T, s)


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"s has the negative eigenvalue -1 \(largest 2\)"):
        linalg.psd_factor("s", np.diag([2.0, -1.0]))
    with pytest.raises(InputError, match="negative eigenvalue"):
        linalg.trace_sqrt_product(np.eye(2), np.diag([2.0, -1.0]))
    with pytest.raises(InputError, match="negative eigenvalue"):
        linalg.trace_sqrt_product(np.diag([2.0, -1.0]), np.eye(2))
    with pytest.raises(InputError, match="not symmetric"):
        linalg.psd("s", [[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(InputError, match=r"shape \(1, 2\)"):
        linalg.psd("s", [[1.0, 0.5]])
    with pytest.raises(InputError, match="not finite"):
        linalg.psd("s", [[1.0, np.nan], [np.nan, 1.0]])
    assert_close(linalg.psd("s", [[1.0, 1e-9], [0.0, 1.0]]), np.array([[1, 5e-10], [5e-10, 1]]))


@pytest.mark.parametrize("d", [1, 2, 6])
def test_transport_carries_one_covariance_to_the_other(d: int) -> None:
    rng = np.random.default_rng(d)
    s1, s2 = covariance(rng, d), covariance(rng, d)
    root = linalg.transport_root(s1, s2)
    carried = root @ root.T @ s1 @ root @ root.T
    np.testing.assert_allclose(carried, s2, rtol=1e-9, atol=1e-9 * np.abs(s2).max())


def test_transport_is_twice_the_gradient_of_the_trace() -> None:
    rng = np.random.default_rng(5)
    s1, s2, step = covariance(rng, 5), covariance(rng, 5), covariance(rng, 5) / 50
    root, h = linalg.transport_root(s1, s2), 1e-5
    slope = (linalg.trace_sqrt_product(s1 + h * step, s2) - linalg.trace_sqrt_product(s1 - h * step, s2)) / (2 * h)
    assert slope == pytest.approx(np.trace(root @ root.T @ step) / 2, rel=1e-7)  # central differences
