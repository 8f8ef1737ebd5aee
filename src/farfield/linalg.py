"""Symmetric matrices that should have no negative eigenvalues: factors of known rank, and traces of their square roots.

With S1 = A A^T and S2 = B B^T the eigenvalues of S1 S2 are the squared singular values of A^T B, so

    tr (S1^1/2 S2 S1^1/2)^1/2 = |A^T B|_*  (the sum of singular values),

for any factors, of any rank. Nothing is complex and no square root of a matrix is formed. Where both matrices are definite one
Cholesky factor, B^T S1 B (as LAPACK reduces a generalised symmetric problem: half the work of two products) and its eigenvalues
are enough. Rounding in eigenvalues grows in their square roots where they are tiny; that error is bounded from the eigenvalues
found, and beyond 1e-10 of the result the singular values themselves are computed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.linalg import lapack

from farfield import checks
from farfield.errors import InputError

FloatArray = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
_WANTED = 1e-10


def psd(name: str, value: ArrayLike) -> FloatArray:
    """`value` as a (d, d) symmetric matrix; InputError where it is not square, finite and symmetric to 1e-6 of its largest entry.

    Whether it has negative eigenvalues is seen by :func:`psd_factor`, which computes them.
    """
    matrix = checks.finite(name, value, ndim=2)
    if matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"{name} has shape {matrix.shape}; allowed: as many rows as columns")
    off, largest = float(np.abs(matrix - matrix.T).max(initial=0.0)), float(np.abs(matrix).max(initial=0.0))
    if off > 1e-6 * largest:
        raise InputError(f"{name} is not symmetric: entries differ from their mirror image by up to {off:.3g}; is it a covariance?")
    return np.asarray((matrix + matrix.T) / 2)


def psd_factor(name: str, matrix: FloatArray) -> FloatArray:
    """A (d, rank) with A A^T = `matrix` (d, d) symmetric: the rank is that of eigenvalues above d eps times the largest.

    Raises InputError where an eigenvalue is below -1e-6 of the largest, too negative for rounding in single precision.
    """
    values, vectors = np.linalg.eigh(matrix)
    largest = float(np.abs(values).max(initial=0.0))
    if values.size and values[0] < -1e-6 * largest:
        raise InputError(f"{name} has the negative eigenvalue {values[0]:.3g} (largest {largest:.3g}); no covariance has one")
    kept = values > len(values) * _EPS * largest
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def nuclear_norm(a: FloatArray, b: FloatArray) -> float:
    """Sum of the singular values of A^T B for A (d, k) and B (d, l): tr (S1^1/2 S2 S1^1/2)^1/2 for S1 = A A^T, S2 = B B^T.

    Works on the k x l matrix, so that with few rows no d x d matrix is formed; a rank below d needs no care.
    """
    product = a.T @ b
    return float(linalg.svdvals(product, overwrite_a=True, check_finite=False).sum()) if product.size else 0.0


def trace_sqrt_product(s1: FloatArray, s2: FloatArray) -> float:
    """tr (S1^1/2 S2 S1^1/2)^1/2 of two symmetric (d, d) matrices without negative eigenvalues; 0 for d = 0.

    Raises InputError (by `psd_factor`) for a matrix with a negative eigenvalue.
    """
    if not s1.size:
        return 0.0
    factor, failed = lapack.dpotrf(s2, lower=1, clean=1)
    if not failed:
        reduced, _ = lapack.dsygst(s1, factor, itype=2, lower=1)
        values = linalg.eigvalsh(reduced, lower=True, overwrite_a=True, check_finite=False, driver="evr")
        if values[-1] > 0:
            rounding = 4 * _EPS * values[-1]
            roots = np.sqrt(np.maximum(values, 0))
            error = np.minimum(np.sqrt(rounding), rounding / np.maximum(2 * roots, _EPS * roots[-1])).sum()
            if values[0] > -rounding and error <= _WANTED * roots.sum():
                return float(roots.sum())
    return nuclear_norm(psd_factor("the first matrix", s1), psd_factor("the second matrix", s2))


def transport_root(s1: FloatArray, s2: FloatArray) -> FloatArray:
    """K (d, rank) with K K^T = T, the symmetric map that carries covariance S1 (d, d) to S2 (d, d): T S1 T = S2.

    With S2 = B B^T and W = B^T S1 B, T = B W^-1/2 B^T, and tr (S1^1/2 S2 S1^1/2)^1/2 has the gradient T / 2 in S1. Eigenvalues of
    W within rounding of zero are left out (pseudo-inverse). Source: Gelbrich 1990; Knott & Smith 1984.
    """
    factor, failed = lapack.dpotrf(s2, lower=1, clean=1)
    b = psd_factor("the second matrix", s2) if failed else np.asarray(factor)
    values, vectors = np.linalg.eigh(b.T @ s1 @ b)
    kept = values > len(values) * _EPS * np.abs(values).max(initial=0.0)
    return np.asarray(b @ (vectors[:, kept] * values[kept] ** -0.25))
