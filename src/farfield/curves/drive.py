"""Forms that know the learning rate: the loss as a function of the schedule's area and of the rate's fall.

``L = c + A S1^-b - C (1 - mean(r))``: the annealing law of Tissue, Wang and Wang 2024 (S1 the area under the rate, the bracket
their annealing area over its memory tau; see `farfield.curves.annealing`), averaged over a grid of b and tau as the
parametric forms are over theirs. A fall that has not begun cannot teach C: it is held to 0 there, and the forecast is
told by `Drive.fall` that a decay is still to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.curves.annealing import features
from farfield.curves.fit import Batch, FloatArray, IntArray
from farfield.curves.schedules import Schedule
from farfield.leastsquares import project

_EXPONENTS = np.geomspace(0.05, 2.0, 6)
_MEMORIES = np.array([0.01, 0.05, 0.2])  # tau over the seen extent
_TEMPER = 3.0
# a fall worth one unit of y costs as much as a residual of this size: the power law and a fall just begun look alike
_SHRINK = 0.1


@dataclass(frozen=True)
class Drive:
    """What the schedules of n runs did up to the seen points and will do up to m positions.

    known : (n,) whether the rate is known at the last seen point and at every position
    now, then : (n,), (n, m) rate over its peak, NaN where not known
    area, annealed : (n, width), (n_memories, n, width) at the seen points; area_at, annealed_at : at the positions
    """

    known: NDArray[np.bool_]
    now: FloatArray
    then: FloatArray
    area: FloatArray
    annealed: FloatArray
    area_at: FloatArray
    annealed_at: FloatArray

    @classmethod
    def of(cls, schedules: Sequence[Schedule], batch: Batch, at: FloatArray) -> Drive:
        """From one schedule a run; `at` (n, m) in the batch's shifted x."""
        n, width = batch.x.shape
        shift = batch.shift[:, None]
        points = np.concatenate([batch.x, at], axis=1) - shift
        extent = np.maximum(batch.last - batch.shift, 1e-12)
        named = np.array([s.kind != "unknown" for s in schedules])
        ratio = np.full(points.shape, np.nan)
        area = np.full(points.shape, np.nan)
        annealed = np.full((_MEMORIES.size, *points.shape), np.nan)
        if named.any():
            rows = np.flatnonzero(named)
            found = features([schedules[int(i)] for i in rows], points[rows], lam=np.exp(-1.0 / _MEMORIES), unit=extent[rows])
            ratio[rows], area[rows] = found.ratio, found.area
            annealed[:, rows] = found.anneal / (_MEMORIES[:, None] * extent[rows])[:, :, None]
        now = ratio[np.arange(n), batch.count - 1]
        known = np.isfinite(now) & np.isfinite(ratio[:, width:]).all(axis=1)
        return cls(known, now, ratio[:, width:], area[:, :width], annealed[:, :, :width], area[:, width:], annealed[:, :, width:])

    @property
    def fall(self) -> FloatArray:
        """(n, m) part of the peak rate still to go until each position; NaN where unknown, 0 where the rate rises."""
        return np.maximum(self.now[:, None] - self.then, 0.0)

    def take(self, rows: IntArray) -> Drive:
        """The named runs."""
        return Drive(
            self.known[rows], self.now[rows], self.then[rows], self.area[rows], self.annealed[:, rows], self.area_at[rows],
            self.annealed_at[:, rows],
        )  # fmt: skip


def average_annealing(drive: Drive, batch: Batch, weights: FloatArray, *, falling: bool) -> tuple[FloatArray, FloatArray]:
    """Posterior-mean values of the annealing law at the drive's positions, and at the batch's points from its beginnings.

    weights : (n, 1 + n_tails, width) of the points, the whole curve first. Returns (n, m) and (n, n_tails, width); NaN for
    runs whose schedule is not known.
    """
    n, n_weights, width = weights.shape
    ahead = np.full(drive.area_at.shape, np.nan)
    back = np.full((n, n_weights - 1, width), np.nan)
    seen = batch.weight > 0
    usable = drive.known & (np.where(seen, drive.area, 1.0) > 0).all(axis=1) & (batch.count >= 5)
    rows = np.flatnonzero(usable)
    if not rows.size:
        return ahead, back
    d, b, w, seen = drive.take(rows), batch.take(rows), weights[rows], seen[rows]
    sign = 1.0 if falling else -1.0
    unit = d.area[np.arange(rows.size), b.count - 1][:, None]
    log_area = np.log(np.where(seen, d.area, unit) / unit)
    log_at = np.log(np.maximum(d.area_at, 1e-12) / unit)
    effective = w.sum(axis=2) ** 2 / (w**2).sum(axis=2)
    freedom = np.maximum(effective - 5.0, 1.0)
    here, there, costs = [], [], []
    for memory in range(_MEMORIES.size):
        fallen, fallen_at = np.where(seen, d.annealed[memory], 0.0), d.annealed_at[memory]
        for exponent in _EXPONENTS:
            power, power_at = np.exp(-exponent * log_area), np.exp(-exponent * log_at)
            beta, cost = _fit(power, -fallen, sign * b.y, w)
            here.append(sign * _value(beta[:, 0], power_at, fallen_at))
            there.append(sign * _value(beta[:, 1:], power[:, None, :], fallen[:, None, :]))
            costs.append(np.where(beta[:, :, 1] >= 0, cost, np.inf))
    cost = np.stack(costs)
    least = cost.min(axis=0)
    with np.errstate(invalid="ignore"):
        share = np.exp(np.maximum(-freedom * (cost - least) / (_TEMPER * np.maximum(least, 1e-300)), -300.0))
    share = np.where(np.isfinite(cost), share, 0.0)
    total = share.sum(axis=0)
    share /= np.where(total > 0, total, np.nan)
    ahead[rows] = np.einsum("kb,kbm->bm", share[:, :, 0], np.stack(here))
    back[rows] = np.einsum("kbt,kbtn->btn", share[:, :, 1:], np.stack(there))
    return ahead, back


def _value(beta: FloatArray, power: FloatArray, fallen: FloatArray) -> FloatArray:
    """c + A power - C fallen, for beta (..., 3) against (..., points)."""
    value: FloatArray = beta[..., :1] + beta[..., 1:2] * power - beta[..., 2:] * fallen
    return value


def _fit(power: FloatArray, fallen: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coefficients (c, A, C >= 0) and half the penalised sum of squares under each weighting: (n, t, 3) and (n, t)."""
    n, t, width = weights.shape
    phi = np.repeat(np.stack([np.ones_like(power), power, fallen], axis=1), t, axis=0)
    values, weight = np.repeat(y, t, axis=0), weights.reshape(n * t, width)
    extra = np.zeros((n * t, 3, 1))
    extra[:, 2] = _SHRINK
    padded_y = np.concatenate([values, np.zeros((n * t, 1))], axis=1)
    padded_w = np.concatenate([weight, np.ones((n * t, 1))], axis=1)
    beta, residual, _ = project(np.concatenate([phi, extra], axis=2), padded_y, padded_w)
    cost = 0.5 * np.einsum("bn,bn->b", residual, residual)
    wrong = beta[:, 2] < 0
    if wrong.any():
        plain, left, _ = project(phi[wrong, :2], values[wrong], weight[wrong])
        beta[wrong] = np.concatenate([plain, np.zeros((int(wrong.sum()), 1))], axis=1)
        cost[wrong] = 0.5 * np.einsum("bn,bn->b", left, left)
    return beta.reshape(n, t, 3), cost.reshape(n, t)
