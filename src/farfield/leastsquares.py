"""Batched nonlinear least squares with variable projection: many small problems at once, no Python loop over them.

Each problem has the separable model ``y ~ sum_j beta_j phi_j(x; theta)``. The linear coefficients `beta` are eliminated by
an orthogonal projection, and Levenberg-Marquardt runs on `theta` alone (Golub and Pereyra 1973, with Kaufman's 1975
Jacobian, whose gradient is exact). A robust fit minimises the Huber loss by the majorise-minimise weights of Huber (1964).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# (theta (b, p), problems (b,)) -> phi (b, q, n) and its derivatives (b, p, q, n)
Model = Callable[[FloatArray, IntArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class Solution:
    """Minimisers of a batch of problems.

    Attributes
    ----------
    theta : (n_problems, p) nonlinear parameters
    beta : (n_problems, q) linear coefficients
    cost : (n_problems,) half the weighted sum of squares, or the Huber objective
    converged : (n_problems,) whether the tolerance was met before `max_iter`
    n_iter : iterations of the slowest problem
    """

    theta: FloatArray
    beta: FloatArray
    cost: FloatArray
    converged: NDArray[np.bool_]
    n_iter: int


def project(phi: FloatArray, y: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weighted linear least squares for a batch, by modified Gram-Schmidt.

    Parameters
    ----------
    phi : (b, q, n) basis, y : (b, n), weight : (b, n) >= 0 (0 leaves a point out)

    Returns beta (b, q), the weighted residual ``sqrt(w) (y - beta phi)`` (b, n) and the orthonormal basis (b, q, n) of the
    weighted columns. A column that depends on the earlier ones gets coefficient 0.
    """
    root = np.sqrt(weight)
    columns = phi * root[:, None, :]
    q = columns.shape[1]
    basis = np.zeros_like(columns)
    upper = np.zeros((columns.shape[0], q, q))
    size = np.sqrt(np.einsum("bqn,bqn->bq", columns, columns))
    for j in range(q):
        v = columns[:, j].copy()
        for i in range(j):
            # twice is enough: the second pass removes what rounding left along the earlier directions
            for _ in range(2):
                share = np.einsum("bn,bn->b", basis[:, i], v)
                upper[:, i, j] += share
                v -= share[:, None] * basis[:, i]
        length = np.sqrt(np.einsum("bn,bn->b", v, v))
        dependent = ~(length > 1e-13 * size[:, j])
        upper[:, j, j] = np.where(dependent, np.inf, length)
        basis[:, j] = np.where(dependent[:, None], 0.0, v / np.where(dependent, 1.0, length)[:, None])
    residual = y * root
    coefficient = np.zeros((columns.shape[0], q))
    for j in range(q):
        coefficient[:, j] = np.einsum("bn,bn->b", basis[:, j], residual)
        residual = residual - coefficient[:, j, None] * basis[:, j]
    beta = np.zeros_like(coefficient)
    for j in reversed(range(q)):
        later = np.einsum("bk,bk->b", upper[:, j, j + 1 :], beta[:, j + 1 :])
        beta[:, j] = (coefficient[:, j] - later) / upper[:, j, j]
    return beta, residual, basis


def solve(
    model: Model,
    theta: FloatArray,
    y: FloatArray,
    weight: FloatArray,
    *,
    bounds: tuple[FloatArray, FloatArray] | None = None,
    huber: FloatArray | float | None = None,
    max_iter: int = 60,
    rtol: float = 1e-9,
) -> Solution:
    """Minimise ``0.5 sum w (y - beta phi(x; theta))^2`` over theta and beta, for every problem of a batch.

    Parameters
    ----------
    model : (theta (b, p), problems (b,)) -> (phi (b, q, n), dphi (b, p, q, n)) for the named rows of the batch
    theta : (n_problems, p) starts; p may be 0
    y, weight : (n_problems, n); a weight of 0 leaves a point out, and `model` must be finite there
    bounds : (lower (p,), upper (p,)) box for theta, by projection of the step
    huber : residual size, scalar or (n_problems,), beyond which the loss grows linearly; None for least squares
    max_iter, rtol : stop a problem when an accepted step lowers its cost by less than `rtol` of it, or none is found

    Raises nothing: a problem that did not converge is marked so in `Solution.converged`.
    """
    n_problems, p = theta.shape
    theta = theta.copy()
    everyone = np.arange(n_problems)
    delta = None if huber is None else np.broadcast_to(np.asarray(huber, dtype=np.float64), (n_problems,))[:, None]
    phi, dphi = model(theta, everyone)
    beta, residual, basis = project(phi, y, weight)
    inlier = weight
    if delta is not None:
        for _ in range(5):
            inlier = _huber_weight(phi, beta, y, weight, delta)
            beta, residual, basis = project(phi, y, inlier)
    half = 0.5 * np.einsum("bn,bn->b", residual, residual)
    converged = np.zeros(n_problems, dtype=bool)
    damping = np.full(n_problems, 1e-2)
    growth = np.full(n_problems, 2.0)
    active = everyone if p else everyone[:0]
    converged[:] = not p
    iteration = 0
    while active.size and iteration < max_iter:
        iteration += 1
        jacobian = -np.einsum("bpqn,bq->bpn", dphi, beta[active]) * np.sqrt(inlier[active])[:, None, :]
        along = np.einsum("bpn,bqn->bpq", jacobian, basis[active])
        jacobian -= np.einsum("bpq,bqn->bpn", along, basis[active])
        gradient = np.einsum("bpn,bn->bp", jacobian, residual[active])
        normal = np.einsum("bpn,brn->bpr", jacobian, jacobian)
        scale = np.einsum("bpp->bp", normal)
        ridge = damping[active, None] * scale + 1e-14 * scale.max(axis=1, keepdims=True) + 1e-300
        step = -np.linalg.solve(normal + ridge[:, :, None] * np.eye(p), gradient[:, :, None])[:, :, 0]
        trial = theta[active] + np.clip(step, -2.0, 2.0)
        if bounds is not None:
            trial = np.clip(trial, bounds[0], bounds[1])
        phi_t, dphi_t = model(trial, active)
        beta_t, residual_t, basis_t = project(phi_t, y[active], inlier[active])
        half_t = 0.5 * np.einsum("bn,bn->b", residual_t, residual_t)
        better = half_t < half[active]
        gain = np.where(better, half[active] - half_t, 0.0)
        done = better & (gain <= rtol * half[active])
        stuck = ~better & ((damping[active] > 1e8) | (np.abs(trial - theta[active]).max(axis=1) < 1e-12))

        good = active[better]
        theta[good], beta[good], half[good] = trial[better], beta_t[better], half_t[better]
        residual[good], basis[good] = residual_t[better], basis_t[better]
        dphi = np.where(better[:, None, None, None], dphi_t, dphi)
        damping[good] = np.maximum(damping[good] / 5.0, 1e-12)
        growth[good] = 2.0
        bad = active[~better]
        damping[bad] *= growth[bad]
        growth[bad] *= 2.0
        if delta is not None and good.size:
            # new majoriser at the accepted point: same model values, new weights, hence a new projection
            phi_g = phi_t[better]
            inlier = inlier.copy() if inlier is weight else inlier
            inlier[good] = _huber_weight(phi_g, beta[good], y[good], weight[good], delta[good])
            before = half[good]
            beta[good], residual[good], basis[good] = project(phi_g, y[good], inlier[good])
            half[good] = 0.5 * np.einsum("bn,bn->b", residual[good], residual[good])
            done[better] &= np.abs(before - half[good]) <= 1e-6 * before + 1e-300
        converged[active] = done | stuck | (half[active] <= 1e-300)
        stay = ~converged[active]
        active, dphi = active[stay], dphi[stay]
    if delta is not None:
        phi, _ = model(theta, everyone)
        half = _huber_cost(phi, beta, y, weight, delta)
    return Solution(theta=theta, beta=beta, cost=half, converged=converged, n_iter=iteration)


def _huber_weight(
    phi: FloatArray, beta: FloatArray, y: FloatArray, weight: FloatArray, delta: FloatArray
) -> FloatArray:
    size = np.abs(y - np.einsum("bqn,bq->bn", phi, beta))
    return weight * np.minimum(1.0, delta / np.maximum(size, 1e-300))


def _huber_cost(phi: FloatArray, beta: FloatArray, y: FloatArray, weight: FloatArray, delta: FloatArray) -> FloatArray:
    size = np.abs(y - np.einsum("bqn,bq->bn", phi, beta))
    inner = np.minimum(size, delta)
    cost: FloatArray = np.einsum("bn,bn->b", weight, inner * (size - 0.5 * inner))
    return cost
