"""Batched nonlinear least squares with variable projection: many small problems at once, no Python loop over them.

Each problem has the separable model ``y ~ sum_j beta_j phi_j(x; theta)``. The linear coefficients `beta` are eliminated by
an orthogonal projection, and Levenberg-Marquardt runs on `theta` alone (Golub and Pereyra 1973, with Kaufman's 1975
Jacobian, whose gradient is exact). Damping follows the gain ratio (Nielsen 1999), on the scale of the largest derivatives
so far (More 1978). A variable at the edge of its box is held there while the cost falls outwards: without that, a fit whose
optimum lies on an edge creeps along it. A robust fit minimises the Huber loss by majorise-minimise weights (Huber 1964).
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

# a step in one variable, which the forms hold on a log scale
_LONGEST = 2.0
# half a sum of squares, over that of y, which is rounding: residuals of 1e-14 of y
_ROUNDING = 0.5e-28
# steps that promise and bring less than this share of the tolerance are not worth taking
_WORTH = 1e-2
# a new set of Huber weights that gains less than this share has nothing more to tell
_SETTLED = 1e-12


@dataclass(frozen=True)
class Solution:
    """Minimisers of a batch of problems.

    Attributes
    ----------
    theta : (n_problems, p) nonlinear parameters
    beta : (n_problems, q) linear coefficients
    cost : (n_problems,) half the weighted sum of squares, or with `huber` the weighted sum of Huber losses
    converged : (n_problems,) whether the tolerance was met within `max_iter` steps, at a finite cost
    n_iter : steps tried for the slowest problem
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
    weighted columns. A column that depends on the earlier ones gets coefficient 0 and an empty place in the basis; one that
    holds NaN makes its problem's results NaN.
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
        dependent = length <= 1e-13 * size[:, j]
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


@dataclass
class _State:
    """The problems still being worked on, one row each, at their best theta so far.

    residual and basis belong to the weighted columns; root : square roots of the weights in force (n,); half : half the
    weighted sum of squares; objective : what is minimised; delta : Huber's limit (1,); nothing_left : a cost that is rounding;
    reach : largest squared derivatives so far (p,); stuck : whether steps have stopped lowering the cost.
    """

    problem: IntArray
    y: FloatArray
    weight: FloatArray
    delta: FloatArray
    nothing_left: FloatArray
    theta: FloatArray
    phi: FloatArray
    dphi: FloatArray
    root: FloatArray
    beta: FloatArray
    residual: FloatArray
    basis: FloatArray
    half: FloatArray
    objective: FloatArray
    damping: FloatArray
    growth: FloatArray
    reach: FloatArray
    stuck: NDArray[np.bool_]

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Go on with `rows` only."""
        for name, value in vars(self).items():
            setattr(self, name, value[rows])

    def put(self, rows: NDArray[np.bool_], **values: FloatArray) -> None:
        """Take over `rows` of each of `values`."""
        for name, value in values.items():
            # never into the old array, which may be the model's own
            wide = rows.reshape(-1, *[1] * (value.ndim - 1))
            setattr(self, name, value if rows.all() else np.where(wide, value, getattr(self, name)))

    def reweight(self) -> NDArray[np.bool_]:
        """Majorise the Huber loss at the present residuals and refit beta; where that gained, the row is not settled."""
        # the weighted squares touch the Huber loss here and lie above it elsewhere, so lowering them lowers it
        size = np.abs(self.y - np.einsum("bqn,bq->bn", self.phi, self.beta))
        weight = self.weight * np.minimum(1.0, self.delta / np.maximum(size, 1e-300))
        self.beta, self.residual, self.basis = project(self.phi, self.y, weight)
        self.root, self.half = np.sqrt(weight), _half_square(self.residual)
        before, self.objective = self.objective, self._huber()
        gained: NDArray[np.bool_] = before - self.objective > _SETTLED * self.objective
        return gained

    def _huber(self) -> FloatArray:
        size = np.abs(self.y - np.einsum("bqn,bq->bn", self.phi, self.beta))
        inner = np.minimum(size, self.delta)
        cost: FloatArray = np.einsum("bn,bn->b", self.weight, inner * (size - 0.5 * inner))
        return cost

    def jacobian(self) -> FloatArray:
        """Derivatives of the weighted residual in theta, beta following along (Kaufman): (b, p, n)."""
        raw: FloatArray = np.einsum("bpqn,bq->bpn", self.dphi, self.beta) * -self.root[:, None, :]
        for column in np.moveaxis(self.basis, 1, 0):
            raw -= np.einsum("bpn,bn->bp", raw, column)[:, :, None] * column[:, None, :]
        return raw


def solve(
    model: Model,
    theta: FloatArray,
    y: FloatArray,
    weight: FloatArray,
    *,
    bounds: tuple[FloatArray, FloatArray] | None = None,
    huber: FloatArray | float | None = None,
    max_iter: int = 200,
    rtol: float = 1e-9,
) -> Solution:
    """Minimise ``0.5 sum w (y - beta phi(x; theta))^2`` over theta and beta, for every problem of a batch.

    Parameters
    ----------
    model : (theta (b, p), problems (b,)) -> (phi (b, q, n), dphi (b, p, q, n)) for the named rows of the batch
    theta : (n_problems, p) starts, moved into the box; p may be 0
    y, weight : (n_problems, n); a weight of 0 leaves a point out, and `model` must be finite there
    bounds : (lower (p,), upper (p,)) box for theta
    huber : residual size, scalar or (n_problems,), beyond which the loss grows linearly; None for least squares
    max_iter : steps tried at most
    rtol : a problem has converged when a full Gauss-Newton step promises to lower its cost by less than this share (the
        squared relative offset of Bates and Watts 1981), or when the steps themselves do much less

    Raises nothing: a problem that did not converge is marked so in `Solution.converged`.
    """
    n, p = theta.shape
    low, high = (np.full(p, -np.inf), np.full(p, np.inf)) if bounds is None else bounds
    theta = np.clip(theta, low, high)
    everyone = np.arange(n)
    phi, dphi = model(theta, everyone)
    beta, residual, basis = project(phi, y, weight)
    half = _half_square(residual)
    s = _State(
        problem=everyone,
        y=y,
        weight=weight,
        delta=np.broadcast_to(np.asarray(np.inf if huber is None else huber, dtype=np.float64), (n,))[:, None],
        nothing_left=_ROUNDING * np.einsum("bn,bn->b", weight, y * y) + 1e-300,
        theta=theta,
        phi=phi,
        dphi=dphi,
        root=np.sqrt(weight),
        beta=beta,
        residual=residual,
        basis=basis,
        half=half,
        objective=half if huber is None else np.full(n, np.inf),
        damping=np.full(n, 1e-2),
        growth=np.full(n, 2.0),
        reach=np.zeros((n, p)),
        stuck=np.zeros(n, dtype=bool),
    )
    best = Solution(theta.copy(), beta.copy(), np.full(n, np.inf), np.zeros(n, dtype=bool), 0)
    for tried in range(max_iter + 1):
        moving = np.zeros(s.problem.size, dtype=bool) if huber is None else s.reweight()
        jacobian = s.jacobian()
        gradient = np.einsum("bpn,bn->bp", jacobian, s.residual)
        held = ((s.theta <= low) & (gradient > 0)) | ((s.theta >= high) & (gradient < 0))
        gradient[held] = 0.0
        jacobian[held] = 0.0
        normal = np.einsum("bpn,brn->bpr", jacobian, jacobian)
        diagonal = np.einsum("bpp->bp", normal)
        promise = -0.5 * np.einsum("bp,bp->b", gradient, _step(normal, gradient, 1e-14 * diagonal))
        done = ~moving & (s.stuck | (promise <= rtol * s.half)) | (s.objective <= s.nothing_left)
        leave = done | (tried == max_iter)
        if leave.any():
            rows = s.problem[leave]
            best.theta[rows], best.beta[rows], best.cost[rows] = s.theta[leave], s.beta[leave], s.objective[leave]
            best.converged[rows] = done[leave] & np.isfinite(s.objective[leave])
            if leave.all():
                break
            s.keep(~leave)
            gradient, normal = gradient[~leave], normal[~leave]
            diagonal = np.einsum("bpp->bp", normal)

        s.reach = np.maximum(s.reach, diagonal)
        step = np.clip(_step(normal, gradient, s.damping[:, None] * s.reach), -_LONGEST, _LONGEST)
        trial = np.clip(s.theta + step, low, high)
        step = trial - s.theta
        phi, dphi = model(trial, s.problem)
        beta, residual, basis = project(phi, s.y, s.root**2)
        half = _half_square(residual)
        better = half < s.half
        expected = -np.einsum("bp,bp->b", step, gradient + 0.5 * np.einsum("bpr,br->bp", normal, step))
        gain = np.where(better, s.half - half, 0.0)
        ratio = np.divide(gain, expected, out=np.ones_like(gain), where=gain < expected)
        s.damping *= np.where(better, np.maximum(0.1, 1.0 - (2.0 * ratio - 1.0) ** 3), s.growth)
        s.damping = np.clip(s.damping, 1e-12, 1e10)
        s.growth = np.where(better, 2.0, np.minimum(2.0 * s.growth, 1e3))
        # a promise that steps of any length do not keep: the far end of a form that saturates
        s.stuck = np.maximum(np.abs(expected), gain) <= _WORTH * rtol * s.half
        s.stuck |= ~better & ((s.damping > 1e8) | (np.abs(step).max(axis=1, initial=0.0) < 1e-12))
        s.put(better, theta=trial, phi=phi, dphi=dphi, beta=beta, residual=residual, basis=basis, half=half)
        if huber is None:
            s.objective = s.half
    return Solution(best.theta, best.beta, best.cost, best.converged, tried)


def _step(normal: FloatArray, gradient: FloatArray, damping: FloatArray) -> FloatArray:
    """Minus the solution of (normal + diag(damping)) step = gradient, (b, p); a variable without any effect stays."""
    p = gradient.shape[1]
    ridge = (damping + 1e-14 * np.einsum("bpp->bp", normal) + 1e-300)[:, :, None] * np.eye(p)
    return -np.linalg.solve(normal + ridge, gradient[:, :, None])[:, :, 0]


def _half_square(residual: FloatArray) -> FloatArray:
    return np.asarray(0.5 * np.einsum("bn,bn->b", residual, residual))
