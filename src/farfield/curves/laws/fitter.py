"""The one fitter of laws: Huber's loss of log residuals, minimised for many starts, resamples and held values at once.

Each problem minimises ``sum_i w_i huber(log y_i - f_i(theta))`` with the limit `delta` (Hoffmann et al. 2022, section D.2: 1e-3,
which on losses is nearly least absolute deviations). Reweighted least squares descends on it surely and slowly; Newton's method on
the few points within the limit is fast and unsure. Here the step solves ``(H + mu M) step = -gradient`` with H the Gauss-Newton
matrix of the points within the limit and M that of the reweighted squares, which bounds it from above: mu near 0 is Newton, mu
near 1 a reweighted step, and mu follows the gain ratio (Nielsen 1999).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
# theta (b, p), problems (b,) -> f (b, n), its derivatives (b, p, n)
Model = Callable[[FloatArray, NDArray[np.int64]], tuple[FloatArray, FloatArray]]
_CHUNK = 250_000  # derivatives held at once, so that a block stays in the processor's cache
_RIDGE = 1e-13
_LONGEST = 3.0  # in one parameter at once


@dataclass(frozen=True)
class Minima:
    """theta (b, p), cost (b,) in units of delta^2, converged (b,)."""

    theta: FloatArray
    cost: FloatArray
    converged: NDArray[np.bool_]


def huber(residual: FloatArray, weight: FloatArray, delta: float) -> FloatArray:
    """(b,) weighted sums of Huber's loss over the last axis, with residuals in units of `delta`."""
    size = np.abs(residual) / delta
    inner = np.minimum(size, 1.0)
    total: FloatArray = (weight * inner * (size - 0.5 * inner)).sum(axis=-1)
    return total


def minimise(
    model: Model,
    theta: FloatArray,
    y: FloatArray,
    weight: FloatArray,
    *,
    delta: float,
    bounds: tuple[FloatArray, FloatArray],
    held: NDArray[np.bool_] | None = None,
    max_iter: int = 300,
    rtol: float = 1e-10,
) -> Minima:
    """Local minima of the Huber cost from the starts `theta`.

    Parameters
    ----------
    theta : (b, p) starts, moved into the box
    y, weight : (b, n) or (1, n) log targets and weights >= 0
    bounds : (lower (p,), upper (p,))
    held : (b, p) parameters that keep their start
    rtol : converged when a full reweighted step promises less than this share of the cost (plus 0.01)
    """
    b, p = theta.shape
    n = y.shape[1]
    step = max(1, _CHUNK // (p * n))
    y, weight = (np.broadcast_to(v, (b, n)) for v in (y, weight))
    fixed = np.zeros((b, p), dtype=bool) if held is None else np.broadcast_to(held, (b, p))
    parts = [
        _block(model, np.arange(i, min(i + step, b)), theta, y, weight, fixed, delta, bounds, max_iter, rtol)
        for i in range(0, b, step)
    ]
    return Minima(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("theta", "cost", "converged")))


def _block(
    model: Model,
    rows: NDArray[np.int64],
    theta: FloatArray,
    y: FloatArray,
    weight: FloatArray,
    fixed: NDArray[np.bool_],
    delta: float,
    bounds: tuple[FloatArray, FloatArray],
    max_iter: int,
    rtol: float,
) -> Minima:
    low, high = bounds
    t = np.clip(theta[rows], low, high)
    out = Minima(t.copy(), np.full(rows.size, np.inf), np.zeros(rows.size, dtype=bool))
    place = np.arange(rows.size)
    target, w, hold = y[rows], weight[rows], fixed[rows]
    value, slope = model(t, rows)
    residual = target - value
    cost = huber(residual, w, delta)
    mu, growth = np.full(rows.size, 1.0), np.full(rows.size, 2.0)
    for tried in range(max_iter + 1):
        size = np.abs(residual) / delta
        outside = np.maximum(size, 1.0)
        gradient = -np.matmul(slope, (w * residual / (delta**2 * outside))[:, :, None])[:, :, 0]
        stay = hold | ((t <= low) & (gradient > 0)) | ((t >= high) & (gradient < 0))
        scaled = slope * (w / outside)[:, None, :]
        upper = np.matmul(scaled, slope.transpose(0, 2, 1)) / delta**2
        scaled *= (size <= 1.0)[:, None, :]
        newton = np.matmul(scaled, slope.transpose(0, 2, 1)) / delta**2
        gradient[stay] = 0.0
        free = (~stay[:, :, None]) & (~stay[:, None, :])
        upper, newton = np.where(free, upper, 0.0), np.where(free, newton, 0.0)
        # in units in which every parameter counts the same, a ridge of rounding's size settles what the points leave open
        unit = np.sqrt(np.einsum("bpp->bp", upper))
        unit = np.where(unit > 0, unit, 1.0)
        both = unit[:, :, None] * unit[:, None, :]
        upper, newton, down = upper / both + _RIDGE * np.eye(t.shape[1]), newton / both, gradient / unit
        promise = 0.5 * np.einsum("bp,bp->b", down, np.linalg.solve(upper, down[:, :, None])[:, :, 0])
        # the 0.01 is for exact data: residuals of a millionth of delta have no more to tell
        done = (promise <= rtol * (cost + 0.01)) | (mu > 1e8)
        leave = done | (tried == max_iter)
        if leave.any():
            out.theta[place[leave]], out.cost[place[leave]] = t[leave], cost[leave]
            out.converged[place[leave]] = (done & np.isfinite(cost))[leave]
            if leave.all():
                break
            keep = ~leave
            place, t, target, w, hold, residual, cost = (v[keep] for v in (place, t, target, w, hold, residual, cost))
            slope, mu, growth = (v[keep] for v in (slope, mu, growth))
            down, upper, newton, unit = (v[keep] for v in (down, upper, newton, unit))
        matrix = newton + mu[:, None, None] * upper + _RIDGE * np.eye(t.shape[1])
        move = np.clip(-np.linalg.solve(matrix, down[:, :, None])[:, :, 0] / unit, -_LONGEST, _LONGEST)
        trial = np.clip(t + move, low, high)
        move = trial - t
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a step too far, which is then refused
            new_value, new_slope = model(trial, rows[place])
        new_residual = target - new_value
        new_cost = huber(new_residual, w, delta)
        better = new_cost < cost
        scaled_move = move * unit
        expected = -np.einsum("bp,bp->b", scaled_move, down + 0.5 * np.einsum("bpq,bq->bp", newton, scaled_move))
        ratio = np.where(better, (cost - new_cost) / np.maximum(expected, 1e-300), 0.0)
        shrink = np.maximum(1.0 / 5.0, 1.0 - (2.0 * np.minimum(ratio, 1.0) - 1.0) ** 3)
        mu = np.clip(np.where(better, mu * shrink, mu * growth), 1e-7, 1e12)
        growth = np.where(better, 2.0, np.minimum(2.0 * growth, 64.0))
        t = np.where(better[:, None], trial, t)
        residual = np.where(better[:, None], new_residual, residual)
        slope = np.where(better[:, None, None], new_slope, slope)
        cost = np.where(better, new_cost, cost)
    return out
