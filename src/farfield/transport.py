"""Optimal transport between weighted points: entropic, debiased, batched, and aware of labels.

Between weights a (n) and b (m) with costs C (n, m) entropic transport is

    OT(a, b) = min_P <P, C> + eps KL(P | a b^T)  =  max_{f,g} <a, f> + <b, g>  (at the optimum),

and P = a b^T exp((f + g - C) / eps). Sinkhorn's iteration alternates f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps) and the same
for g; it starts at an eps of the size of the costs and lowers it (Kosowsky and Yuille 1994). A point of weight zero has a potential
too, so the derivative of OT by weights, f, says what a point would bring before it is used. It is defined up to a constant.

Entropy makes OT(a, a) positive; the *divergence* S(a, b) = OT(a, b) - OT(a, a) / 2 - OT(b, b) / 2 is zero there (Genevay, Peyre and
Cuturi 2018; Feydy and others 2019). Labelled points cost ||x - x'||^2 + W^2(y, y'), where W is the distance between the clouds of
points that carry the labels (Alvarez-Melis and Fusi 2020, arXiv 2002.02923).

Fast where many weights share one cost: while costs vary by less than 330 eps, exp(-C / eps) is formed once and a step is a product
of matrices, with no log-sum-exp and yet without underflow: potentials vary by no more than costs do, so a product that is lost is
below 1e-308 times one that is kept. Own code, not POT: `benchmarks/transport.py` has the measurement.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import ConvergenceWarning, InputError

FloatArray = NDArray[np.float64]
LabelCost = Literal["gaussian", "inner", "none"]

# exp(-330)**2 is still a normal number: see the module's last paragraph
_RANGE = 330.0
_SHRINK = 0.5  # factor from one eps to the next
_ROUND = 8  # overrelaxed steps between two looks at the error


@dataclass(frozen=True, repr=False)
class Transport:
    """Entropic transport of a batch of problems.

    Attributes
    ----------
    value : (...) minimum, the entropy's term included
    f, g : (..., n), (..., m) dual potentials; of points without weight too
    error : (...) L1 distance between the row sums of the plan and a (column sums are exact)
    n_iter : iterations of the slowest problem
    """

    value: FloatArray
    f: FloatArray
    g: FloatArray
    error: FloatArray
    n_iter: int
    cost: FloatArray
    a: FloatArray
    b: FloatArray
    eps: float

    def __repr__(self) -> str:
        return f"Transport(shape {self.value.shape}, eps {self.eps:g}, {self.n_iter} iterations, error {self.error.max():.1e})"

    @cached_property
    def plan(self) -> FloatArray:
        """(..., n, m) how much of each point goes where: the derivative of `value` by `cost`. Made a feasible plan by rounding."""
        log = (self.f[..., :, None] + self.g[..., None, :] - self.cost) / self.eps
        plan = self.a[..., :, None] * self.b[..., None, :] * np.exp(np.minimum(log, 700.0))
        # Altschuler, Weed and Rigollet 2017, algorithm 2: scale down what exceeds, spread what is missing
        rows = plan.sum(-1)
        plan = plan * np.minimum(1.0, self.a / np.where(rows > 0, rows, 1.0))[..., :, None]
        columns = plan.sum(-2)
        plan = plan * np.minimum(1.0, self.b / np.where(columns > 0, columns, 1.0))[..., None, :]
        left, right = self.a - plan.sum(-1), self.b - plan.sum(-2)
        total = left.sum(-1)[..., None, None]
        missing = left[..., :, None] * right[..., None, :]
        return np.asarray(plan + np.where(total > 0, missing / np.where(total > 0, total, 1.0), 0.0))

    @property
    def sharp(self) -> FloatArray:
        """(...) what the feasible plan costs, without entropy: at least the exact optimum, and at most eps log(min(n, m)) above
        it up to what rounding `error` costs."""
        return np.asarray((self.plan * self.cost).sum((-2, -1)))


@dataclass(frozen=True)
class Divergence:
    """Debiased transport of a batch of problems.

    Attributes
    ----------
    value : (...) divergence, zero where a equals b
    gradient_a, gradient_b : (..., n), (..., m) its derivative by the weights, up to a constant, here with weighted mean zero
    converged : whether every problem met the tolerance
    """

    value: FloatArray
    gradient_a: FloatArray
    gradient_b: FloatArray
    converged: bool


def squared_distances(x: ArrayLike, y: ArrayLike) -> FloatArray:
    """(..., n, m) squared Euclidean distances between rows of x (..., n, d) and y (..., m, d), without cancellation below zero."""
    p, q = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    middle = p.mean(axis=-2, keepdims=True)  # distances do not change, rounding does
    p, q = p - middle, q - middle
    square = (p * p).sum(-1)[..., :, None] + (q * q).sum(-1)[..., None, :] - 2 * p @ np.swapaxes(q, -1, -2)
    return np.asarray(np.maximum(square, 0.0))


def sinkhorn(
    cost: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    eps: float,
    tol: float = 1e-6,
    max_iter: int = 2000,
) -> Transport:
    """Entropic optimal transport of many problems at once.

    Parameters
    ----------
    cost : (..., n, m) finite
    a, b : (..., n), (..., m) weights, none negative, sums 1 (leading axes broadcast); None for equal weights
    eps : > 0, strength of the entropy in the units of cost
    tol : L1 error of the row sums at which a problem is done
    max_iter : iterations at the final eps

    A problem's result does not depend on which others are in the batch, up to rounding. Warns with ConvergenceWarning where the
    tolerance is not met. Raises InputError for weights that are negative or do not sum to 1.
    """
    c, w_a, w_b, lead = _problem(cost, a, b)
    strength, tolerance = checks.positive("eps", eps), checks.positive("tol", tol)
    steps = checks.count("max_iter", max_iter)
    n, m = c.shape[-2:]
    shared = c.ndim == 2
    flat = c if shared else np.broadcast_to(c, (*lead, n, m)).reshape(-1, n, m)
    rows, columns = np.broadcast_to(w_a, (*lead, n)).reshape(-1, n), np.broadcast_to(w_b, (*lead, m)).reshape(-1, m)
    f, g = np.zeros(rows.shape), np.zeros(columns.shape)
    spread = float(flat.max() - flat.min())
    scale = spread
    while scale > strength:
        step = _Step(flat, scale)
        f = step.rows(g, columns)
        g = step.columns(f, rows)
        scale *= _SHRINK
    f, g, error, n_iter = _iterate(_Step(flat, strength), f, g, rows, columns, tolerance, steps)
    value = (np.where(rows > 0, rows * f, 0.0)).sum(-1) + (np.where(columns > 0, columns * g, 0.0)).sum(-1)
    if (error > tolerance).any():
        warnings.warn(
            f"{int((error > tolerance).sum())} of {error.size} transport problems stopped after {steps} iterations, rows of the "
            f"plan off by up to {error.max():.2g} (wanted {tolerance:g}); raise eps or max_iter",
            ConvergenceWarning,
            stacklevel=2,
        )
    return Transport(
        value.reshape(lead),
        f.reshape(*lead, n),
        g.reshape(*lead, m),
        error.reshape(lead),
        n_iter,
        c,
        rows.reshape(*lead, n),
        columns.reshape(*lead, m),
        strength,
    )


def self_transport(
    cost: ArrayLike, a: ArrayLike | None = None, *, eps: float, tol: float = 1e-6, max_iter: int = 2000
) -> tuple[FloatArray, FloatArray]:
    """Entropic transport of weights to themselves: value (...) and the one potential (..., n) that serves both sides.

    Parameters as in :func:`sinkhorn`, with `cost` (..., n, n) symmetric. The averaged step converges in a few iterations.
    """
    c, w, _, lead = _problem(cost, a, a)
    if c.shape[-1] != c.shape[-2] or np.abs(c - np.swapaxes(c, -1, -2)).max() > 1e-9 * max(float(np.abs(c).max()), 1e-300):
        raise InputError(f"cost has shape {c.shape} and must be symmetric, as the costs of points with themselves are")
    strength, tolerance = checks.positive("eps", eps), checks.positive("tol", tol)
    n = c.shape[-1]
    flat = c if c.ndim == 2 else np.broadcast_to(c, (*lead, n, n)).reshape(-1, n, n)
    weight = np.broadcast_to(w, (*lead, n)).reshape(-1, n)
    f = np.zeros(weight.shape)
    scale = float(flat.max() - flat.min())
    while scale > strength:
        f = 0.5 * (f + _Step(flat, scale).rows(f, weight))
        scale *= _SHRINK
    step = _Step(flat, strength)
    error = np.inf
    for _ in range(checks.count("max_iter", max_iter)):
        new = step.rows(f, weight)
        error = float((np.where(weight > 0, weight * np.abs(np.expm1(np.minimum((f - new) / strength, 50.0))), 0.0)).sum(-1).max())
        f = 0.5 * (f + new)
        if error <= tolerance:
            f = new  # one full step, for points without weight
            break
    else:
        warnings.warn(f"self transport stopped with an error of {error:.2g}; raise eps", ConvergenceWarning, stacklevel=2)
    return np.asarray(2 * np.where(weight > 0, weight * f, 0.0).sum(-1)).reshape(lead), f.reshape(*lead, n)


def divergence(
    cost_ab: ArrayLike,
    cost_aa: ArrayLike,
    cost_bb: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    eps: float,
    tol: float = 1e-6,
    max_iter: int = 2000,
) -> Divergence:
    """Debiased entropic transport S(a, b) with its derivatives by the weights; batched as :func:`sinkhorn` is.

    Parameters
    ----------
    cost_ab, cost_aa, cost_bb : (..., n, m), (..., n, n), (..., m, m) costs across and within
    a, b, eps, tol, max_iter : as in :func:`sinkhorn`

    Source: Feydy and others 2019, equation 3 and proposition 2.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        across = sinkhorn(cost_ab, a, b, eps=eps, tol=tol, max_iter=max_iter)
        value_a, p = self_transport(cost_aa, a, eps=eps, tol=tol, max_iter=max_iter)
        value_b, q = self_transport(cost_bb, b, eps=eps, tol=tol, max_iter=max_iter)
    for warning in caught:
        warnings.warn(warning.message, warning.category, stacklevel=2)
    f, g = across.f - p, across.g - q
    return Divergence(
        np.asarray(across.value - 0.5 * value_a - 0.5 * value_b),
        np.asarray(f - (across.a * f).sum(-1, keepdims=True)),
        np.asarray(g - (across.b * g).sum(-1, keepdims=True)),
        not caught,
    )


def gaussian_w2(mean_a: ArrayLike, factor_a: ArrayLike, mean_b: ArrayLike, factor_b: ArrayLike) -> FloatArray:
    """Squared 2-Wasserstein distance of Gaussians with means (..., d) and covariances A A^T, B B^T of given factors (..., d, k).

    ||m_a - m_b||^2 + tr A A^T + tr B B^T - 2 |A^T B|_* (Givens and Shortt 1984), of any rank. Leading axes broadcast.
    """
    m_a, m_b = np.asarray(mean_a, dtype=np.float64), np.asarray(mean_b, dtype=np.float64)
    s_a, s_b = np.asarray(factor_a, dtype=np.float64), np.asarray(factor_b, dtype=np.float64)
    shared = np.linalg.svd(np.swapaxes(s_a, -1, -2) @ s_b, compute_uv=False).sum(-1)
    out = ((m_a - m_b) ** 2).sum(-1) + (s_a**2).sum((-2, -1)) + (s_b**2).sum((-2, -1)) - 2 * shared
    return np.asarray(np.maximum(out, 0.0))


def label_distances(clouds_a: Sequence[FloatArray], clouds_b: Sequence[FloatArray], method: LabelCost = "gaussian") -> FloatArray:
    """(k, l) squared distances between the clouds of points of k and of l labels.

    Parameters
    ----------
    clouds_a, clouds_b : one array (n_label, d) a label
    method : "gaussian" for the distance between Gaussians of the same means and covariances; "inner" for the divergence between
        the points themselves, at an eps of 5 % of the mean cost; "none" for zeros

    Source: Alvarez-Melis and Fusi 2020, sections 3 and 5.
    """
    checks.choice("method", method, ("gaussian", "inner", "none"))
    if method == "none":
        return np.zeros((len(clouds_a), len(clouds_b)))
    if method == "gaussian":
        (m_a, s_a), (m_b, s_b) = (_moments(clouds) for clouds in (clouds_a, clouds_b))
        return np.stack([gaussian_w2(m_a[i], s_a[i], m_b, s_b) for i in range(len(clouds_a))])
    size = max(len(c) for c in (*clouds_a, *clouds_b))
    (x, wx), (y, wy) = (_padded(clouds, size) for clouds in (clouds_a, clouds_b))
    eps = 0.05 * float(np.mean([squared_distances(p, q).mean() for p, q in zip(clouds_a, clouds_b, strict=False)]))
    out = np.empty((len(clouds_a), len(clouds_b)))
    within = squared_distances(y, y)
    for i in range(len(clouds_a)):  # a row at a time keeps memory at l problems
        found = divergence(
            squared_distances(x[i], y), squared_distances(x[i], x[i]), within, wx[i], wy, eps=max(eps, 1e-12), tol=1e-4
        )
        out[i] = found.value
    return np.asarray(np.maximum(out, 0.0))


def calibrated(gradient: ArrayLike, groups: ArrayLike) -> FloatArray:
    """(..., m) mean derivative of each group's points less that of the other groups' points.

    Parameters
    ----------
    gradient : (..., n) potentials, which are defined up to a constant; that constant cancels here
    groups : (n,) group of each point, 0 to m - 1, with two groups or more

    It is the change of the value as weight moves to a group from all others' points alike (Just and others 2023, arXiv 2305.00054).
    """
    potential, group = np.asarray(gradient, dtype=np.float64), np.asarray(groups)
    size = np.bincount(group)
    if len(size) < 2 or (size == 0).any():
        raise InputError(f"groups has sizes {size.tolist()}; allowed: two groups or more, each with a point")
    sums = potential @ np.eye(len(size))[group]
    return np.asarray(sums / size - (sums.sum(-1, keepdims=True) - sums) / (size.sum() - size))


def _problem(
    cost: ArrayLike, a: ArrayLike | None, b: ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray, tuple[int, ...]]:
    c = checks.finite("cost", cost)
    if c.ndim < 2 or 0 in c.shape:
        raise InputError(f"cost has shape {c.shape}; allowed: (..., n, m) with a point on each side")
    weights = []
    for name, value, length in (("a", a, c.shape[-2]), ("b", b, c.shape[-1])):
        w = np.full(length, 1 / length) if value is None else checks.finite(name, value)
        if w.ndim == 0 or w.shape[-1] != length:
            raise InputError(f"{name} has shape {w.shape}; allowed: (..., {length}) for a cost of shape {c.shape}")
        total = w.sum(-1)
        if (w < 0).any() or np.abs(total - 1).max() > 1e-6:
            raise InputError(f"{name} has weights from {w.min():g} and sums up to {total.max():g}; allowed: none below 0, sums 1")
        weights.append(w / total[..., None])
    try:
        lead = np.broadcast_shapes(c.shape[:-2], weights[0].shape[:-1], weights[1].shape[:-1])
    except ValueError:
        shapes = ", ".join(str(v.shape) for v in (c, *weights))
        raise InputError(f"cost, a and b have shapes {shapes}, whose leading axes do not broadcast") from None
    return c, weights[0], weights[1], lead


class _Step:
    """Half steps of Sinkhorn's iteration at one eps, for (batch, n) potentials."""

    def __init__(self, cost: FloatArray, eps: float) -> None:
        self.cost, self.eps = cost, eps
        low = float(cost.min())
        self.kernel: FloatArray | None = None
        if cost.ndim == 2 and float(cost.max()) - low <= _RANGE * eps:
            self.low, self.kernel = low, np.exp((low - cost) / eps)

    def rows(self, g: FloatArray, b: FloatArray, problems: NDArray[np.int64] | None = None) -> FloatArray:
        """f from g."""
        return self._half(g, b, problems, False)

    def columns(self, f: FloatArray, a: FloatArray, problems: NDArray[np.int64] | None = None) -> FloatArray:
        """g from f."""
        return self._half(f, a, problems, True)

    def _half(self, potential: FloatArray, weight: FloatArray, problems: NDArray[np.int64] | None, across: bool) -> FloatArray:
        with np.errstate(divide="ignore"):
            log = potential / self.eps + np.log(weight)
        top = log.max(-1, keepdims=True)
        if self.kernel is not None:
            sums = np.exp(log - top) @ (self.kernel if across else self.kernel.T)
            return np.asarray(self.low - self.eps * (np.log(sums) + top))
        cost = self.cost if self.cost.ndim == 2 or problems is None else self.cost[problems]
        each = log[:, None, :] - (np.swapaxes(cost, -1, -2) if across else cost) / self.eps
        peak = each.max(-1, keepdims=True)
        return np.asarray(-self.eps * (np.log(np.exp(each - peak).sum(-1)) + peak[..., 0]))


def _iterate(
    step: _Step, f: FloatArray, g: FloatArray, a: FloatArray, b: FloatArray, tol: float, max_iter: int
) -> tuple[FloatArray, FloatArray, FloatArray, int]:
    """Steps at the final eps until each problem is done; those done are left alone.

    Steps are overrelaxed (Thibault and others 2021): f moves omega times as far. Rounds of them end with a plain pair of half steps
    whose row error decides; its fall over a round gives the rate of plain steps (Young's formula, as the iteration near its limit
    is a linear Gauss-Seidel) and so the best omega. An error that grew starts again at 1.
    """
    error = np.full(len(f), np.inf)
    omega, best = np.ones((len(f), 1)), np.full(len(f), np.inf)
    active = np.arange(len(f))
    done_at = 0
    while active.size and done_at < max_iter:
        p, q, w_a, w_b, relax = f[active], g[active], a[active], b[active], omega[active]
        for _ in range(_ROUND):
            p = p + relax * (step.rows(q, w_b, active) - p)
            q = q + relax * (step.columns(p, w_a, active) - q)
        p = step.rows(q, w_b, active)
        q = step.columns(p, w_a, active)
        new = step.rows(q, w_b, active)
        done_at += _ROUND + 1
        ratio = np.expm1(np.minimum((p - new) / step.eps, 50.0))
        off = np.where(w_a > 0, w_a * np.abs(ratio), 0.0).sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            fall = np.where(np.isfinite(error[active]), off / error[active], 1.0)[:, None] ** (1 / (_ROUND + 1))
            rate = np.clip((fall + relax - 1) ** 2 / (relax**2 * fall), 0.0, 0.9999)
        worse = (off > 2 * best[active]) | (fall[:, 0] >= 1)
        omega[active] = np.where(worse[:, None], 1.0, 2 / (1 + np.sqrt(1 - rate)))
        error[active], best[active] = off, np.minimum(best[active], off)
        # f and g belong together, but for points without weight, which take the new value
        f[active], g[active] = np.where(w_a > 0, p, new), q
        active = active[~(off <= tol)]
    return f, g, error, done_at


def _moments(clouds: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Means (k, d) and factors (k, d, d) of covariances shrunk towards the pooled one: few points leave most directions unseen.

    The pooled covariance counts as d / 4 further points of each label.
    """
    d = clouds[0].shape[1]
    means = np.stack([c.mean(0) for c in clouds])
    scatter = np.stack([(c - m).T @ (c - m) for c, m in zip(clouds, means, strict=True)])
    sizes = np.array([len(c) for c in clouds])
    pooled = scatter.sum(0) / max(int(sizes.sum()) - len(clouds), 1)
    prior = d / 4
    cov = (scatter + prior * pooled) / (np.maximum(sizes - 1, 0) + prior)[:, None, None]
    values, vectors = np.linalg.eigh(cov)
    return means, np.asarray(vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :])


def _padded(clouds: Sequence[FloatArray], size: int) -> tuple[FloatArray, FloatArray]:
    """(k, size, d) points and (k, size) weights: a short cloud is filled with its first point at weight zero."""
    points = np.stack([np.concatenate([c, np.repeat(c[:1], size - len(c), axis=0)]) for c in clouds])
    weights = np.stack([np.r_[np.full(len(c), 1 / len(c)), np.zeros(size - len(c))] for c in clouds])
    return points, weights


def labelled_costs(
    x: ArrayLike,
    labels: ArrayLike,
    x_other: ArrayLike,
    labels_other: ArrayLike,
    *,
    method: LabelCost = "gaussian",
    weight: float = 1.0,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Costs across (n, m), within the first (n, n) and within the second (m, m) of two sets of labelled points.

    Parameters
    ----------
    x, x_other : (n, d), (m, d) features
    labels, labels_other : (n,), (m,) anything that can be compared; equal values in the two sets need not mean the same label,
        since only the clouds of points behind the labels are compared
    method, weight : how labels are compared (see :func:`label_distances`) and what their squared distance counts
    """
    p, q = checks.finite("x", x, ndim=2), checks.finite("x_other", x_other, ndim=2)
    if p.shape[1] != q.shape[1] or not len(p) or not len(q):
        raise InputError(f"x has shape {p.shape} and x_other {q.shape}; allowed: as many features, and a point each")
    codes = []
    for name, rows, given in (("labels", p, labels), ("labels_other", q, labels_other)):
        values = np.asarray(given)
        if values.shape != (len(rows),):
            raise InputError(f"{name} has shape {values.shape}; allowed: ({len(rows)},), one a row")
        codes.append(np.unique(values, return_inverse=True)[1])
    clouds = [[rows[code == k] for k in range(code.max() + 1)] for rows, code in zip((p, q), codes, strict=True)]

    def total(i: int, j: int) -> FloatArray:
        between = label_distances(clouds[i], clouds[j], method)
        return np.asarray(squared_distances((p, q)[i], (p, q)[j]) + weight * between[np.ix_(codes[i], codes[j])])

    first, second = total(0, 0), total(1, 1)
    return total(0, 1), (first + first.T) / 2, (second + second.T) / 2
