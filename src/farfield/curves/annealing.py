"""What a learning-rate schedule does to a loss: the terms of two annealing laws, for whole batches of runs at once.

With r = rate / peak, and u running over x:

* area  S1(x) = integral of r from 0 to x;
* annealing area S2(x) (Tissue, Wang, Wang 2024, "Scaling law with learning rate annealing": L = L0 + A S1^-alpha - C S2). Per
  step S2 = sum_i m_i with the momentum m_i = lam m_(i-1) + (r_(i-1) - r_i). Its continuous-time analogue, with lam =
  exp(-1 / tau), has a closed form, S2(x) = tau (1 - mean(x)), where mean is the exponential moving average of r with memory
  tau that starts at the peak when the warmup ends: so the value depends on the schedule alone and not on how often a run was
  logged. It differs from the sum over steps by a relative O(1 / tau) at fixed shape, which C absorbs.
* loss reduction (Luo, Wen, Hu et al. 2025, "A multi-power law for loss curve prediction across learning rate schedules":
  L = L0 + A S1^-alpha - B LD), LD(x) = integral of G(r(v)^-gamma (S1(x) - S1(v))) d(-r(v)) up to x with
  G(z) = 1 - (c z + 1)^-beta, again in continuous time and with the peak absorbed in B and c.

Both laws leave the warmup out of the fall and keep it in the area. Rates that rise again count negative. For given exponents and
lam both are linear in (L0, A, C) and (L0, A, B).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield.curves.schedules import Schedule
from farfield.errors import InputError

FloatArray = NDArray[np.float64]

_DROP = 1 / 64  # largest change of r over one quadrature interval of the loss reduction


@dataclass(frozen=True)
class Features:
    """Terms of a schedule at the asked positions; NaN where the schedule is not known.

    Attributes
    ----------
    ratio : shape of x; rate over peak
    area : shape of x; S1, in units of x
    anneal : shape of x for one lam, (n_lam, *shape of x) for several; S2, in units of x (of `unit` per lam step, times unit)
    """

    ratio: FloatArray
    area: FloatArray
    anneal: FloatArray


@dataclass(frozen=True)
class _Table:
    """Knots of a batch of schedules, padded with their last knot: intervals of no length add nothing."""

    at: FloatArray  # (n, k)
    ratio: FloatArray  # (n, k)
    area: FloatArray  # (n, k)

    @classmethod
    def of(cls, knots: Sequence[tuple[FloatArray, FloatArray]]) -> _Table:
        width = max(a.size for a, _ in knots)
        at = np.stack([np.pad(a, (0, width - a.size), mode="edge") for a, _ in knots])
        ratio = np.stack([np.pad(r, (0, width - r.size), mode="edge") for _, r in knots])
        pieces = np.diff(at) * 0.5 * (ratio[:, 1:] + ratio[:, :-1])
        area = np.concatenate([np.zeros((len(knots), 1)), np.cumsum(pieces, axis=1)], axis=1)
        return cls(at, ratio, area)

    def locate(self, x: FloatArray) -> NDArray[np.int64]:
        """(n, m) index of the knot at or before each x (n, m): the last of equal ones, 0 if x lies before the first."""
        out = np.empty(x.shape, dtype=np.int64)
        for i, row in enumerate(self.at):
            out[i] = np.searchsorted(row, x[i], side="right") - 1
        return np.clip(out, 0, self.at.shape[1] - 1)


def features(schedules: Schedule | Sequence[Schedule], x: ArrayLike, *, lam: ArrayLike = 0.999, unit: ArrayLike = 1.0) -> Features:
    """Rate, area and annealing area of one or many schedules at `x`.

    Parameters
    ----------
    schedules : one, or one a run
    x : positions; any shape for one schedule, (n_runs, n_at) for several; NaN gives NaN
    lam : momentum of the annealing area over one `unit`, between 0 and 1; a scalar or (n_lam,)
    unit : how much x one optimiser step is: 1 where x counts steps, the tokens a step where it counts tokens; scalar or (n_runs,)

    Raises InputError if lam lies outside (0, 1), unit is not above 0 or the shapes do not match.
    """
    many, points, shape = _batch(schedules, x)
    lams = np.asarray(lam, dtype=np.float64)
    units = np.broadcast_to(np.asarray(unit, dtype=np.float64), (len(many),))
    if not ((lams > 0) & (lams < 1)).all() or lams.ndim > 1:
        raise InputError(
            f"lam is {lams.tolist()}; allowed: one number or a list of numbers above 0 and below 1 (0.99 to 0.9999 are usual)"
        )
    if not (units > 0).all():
        raise InputError(f"unit is {float(units.min()):g}; allowed: above 0, the amount of x that one step is")
    table = _Table.of([_known(s) for s in many])
    tau = -1.0 / np.log(lams.reshape(-1, 1)) * units  # (n_lam, n)
    left = table.locate(points)
    ratio, area = _interpolated(table, points, left)

    falling = _Table.of([_after_warmup(s) for s in many])
    mean = _moving_average(falling, tau)  # (n_lam, n, k)
    at = falling.locate(points)
    here = np.take_along_axis(falling.ratio, at, 1)
    slope = _slopes(falling, at)
    ago = np.maximum(points - np.take_along_axis(falling.at, at, 1), 0.0)
    start = np.take_along_axis(mean, np.broadcast_to(at, (tau.shape[0], *at.shape)), 2)
    t = tau[:, :, None]
    now = here + slope * ago - slope * t + (start - here + slope * t) * np.exp(-ago / t)
    anneal = t * (falling.ratio[:, :1] - now)

    unseen = ~(points <= np.array([s.known_to for s in many])[:, None])
    area, anneal = np.where(unseen, np.nan, area), np.where(unseen, np.nan, anneal)
    anneal = anneal[0].reshape(shape) if lams.ndim == 0 else anneal.reshape(lams.size, *shape)
    return Features(np.where(unseen, np.nan, ratio).reshape(shape), area.reshape(shape), anneal)


def loss_reduction(schedules: Schedule | Sequence[Schedule], x: ArrayLike, *, c: float, beta: float, gamma: float) -> FloatArray:
    """LD(x) of the multi-power law (without its factor B) at `x`, in units of the peak; shapes as in :func:`features`.

    Parameters
    ----------
    c : speed of the reduction, per unit of S1
    beta, gamma : its exponents (Luo et al. find about 0.6 for both)
    """
    if not (c > 0 and beta > 0 and np.isfinite(gamma)):
        raise InputError(f"loss reduction with c {c:g}, beta {beta:g}, gamma {gamma:g}; allowed: c and beta above 0, gamma finite")
    many, points, shape = _batch(schedules, x)
    whole = _Table.of([_known(s) for s in many])
    falling = _Table.of([_refined(*_after_warmup(s)) for s in many])
    _, area = _interpolated(whole, points, whole.locate(points))
    # areas in `falling` count from the end of the warmup; bring both to one origin
    first = falling.at[:, :1]
    _, offset = _interpolated(whole, first, whole.locate(first))
    out = np.empty(points.shape)
    for i in range(len(many)):  # one schedule at a time bounds the memory to (n_at, n_intervals)
        a, b = falling.at[i, :-1], falling.at[i, 1:]
        r0, r1 = falling.ratio[i, :-1], falling.ratio[i, 1:]
        moves = r0 != r1
        a, b, r0, r1, s0 = a[moves], b[moves], r0[moves], r1[moves], falling.area[i, :-1][moves] + offset[i]
        q = points[i][:, None]
        width = b - a
        # the part of each interval that lies before x; a jump counts as soon as x reaches it
        done = np.where(width > 0, np.clip((q - a) / np.where(width > 0, width, 1.0), 0.0, 1.0), q >= a)
        # midpoint rule; a jump has, as in the law, the rate after it
        half = np.where(width > 0, 0.5, 1.0) * done
        rate = np.maximum(r0 + half * (r1 - r0), 1e-12)
        before = s0 + half * width * (r0 + 0.5 * half * (r1 - r0))
        reach = np.maximum(area[i][:, None] - before, 0.0)
        gain = -np.expm1(-beta * np.log1p(c * reach * rate**-gamma))
        out[i] = (gain * done * (r0 - r1)).sum(1)
    unseen = ~(points <= np.array([s.known_to for s in many])[:, None])
    return np.where(unseen, np.nan, out).reshape(shape)


# -- pieces -------------------------------------------------------------------------------------------------------------------


def _batch(schedules: Schedule | Sequence[Schedule], x: ArrayLike) -> tuple[list[Schedule], FloatArray, tuple[int, ...]]:
    points = np.asarray(x, dtype=np.float64)
    if isinstance(schedules, Schedule):
        return [schedules], points.reshape(1, -1), points.shape
    many = list(schedules)
    if points.ndim != 2 or points.shape[0] != len(many):
        raise InputError(f"x has shape {points.shape} for {len(many)} schedules; allowed: ({len(many)}, n_at), one row a schedule")
    return many, points, points.shape


def _known(schedule: Schedule) -> tuple[FloatArray, FloatArray]:
    return schedule.at, schedule.ratio


def _after_warmup(schedule: Schedule) -> tuple[FloatArray, FloatArray]:
    """Knots from the end of the warmup on, the first of them exactly there."""
    keep = schedule.at >= schedule.warmup
    start = schedule.relative(min(schedule.warmup, schedule.known_to))
    at, ratio = schedule.at[keep], schedule.ratio[keep]
    if at.size and at[0] == schedule.warmup:
        return at, ratio
    return np.concatenate([[schedule.warmup], at]), np.concatenate([start.reshape(1), ratio])


def _refined(at: FloatArray, ratio: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same line with knots added until r changes by no more than _DROP between two of them."""
    change = np.abs(np.diff(ratio))
    parts = np.where(np.diff(at) > 0, np.ceil(np.nan_to_num(change) / _DROP), 1).clip(1).astype(np.int64)
    if not (parts > 1).any():
        return at, ratio
    piece = np.repeat(np.arange(parts.size), parts)
    done = (np.arange(piece.size) - np.repeat(np.cumsum(parts) - parts, parts)) / parts[piece]
    fine_at = at[piece] + done * (at[piece + 1] - at[piece])
    fine_ratio = ratio[piece] + done * (ratio[piece + 1] - ratio[piece])
    return np.append(fine_at, at[-1]), np.append(fine_ratio, ratio[-1])


def _slopes(table: _Table, index: NDArray[np.int64]) -> FloatArray:
    """Slope of the interval that begins at knot `index`, 0 beyond the last."""
    width = np.diff(table.at, append=table.at[:, -1:])
    rise = np.diff(table.ratio, append=table.ratio[:, -1:])
    slope = np.where(width > 0, rise / np.where(width > 0, width, 1.0), 0.0)
    return np.take_along_axis(slope, index, 1)


def _interpolated(table: _Table, x: FloatArray, left: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """(rate, area) at x, exact for a piecewise linear rate."""
    ago = np.maximum(x - np.take_along_axis(table.at, left, 1), 0.0)
    slope = _slopes(table, left)
    ratio = np.take_along_axis(table.ratio, left, 1)
    area = np.take_along_axis(table.area, left, 1) + ago * (ratio + 0.5 * slope * ago)
    return ratio + slope * ago, area


def _moving_average(table: _Table, tau: FloatArray) -> FloatArray:
    """(n_lam, n, k) exponential moving average of the rate at the knots, starting at the first knot's rate."""
    out = np.empty((tau.shape[0], *table.at.shape))
    out[:, :, 0] = table.ratio[:, 0]
    for j in range(1, table.at.shape[1]):
        width = table.at[:, j] - table.at[:, j - 1]
        slope = np.where(width > 0, (table.ratio[:, j] - table.ratio[:, j - 1]) / np.where(width > 0, width, 1.0), 0.0)
        lag = slope * tau
        decayed = (out[:, :, j - 1] - table.ratio[:, j - 1] + lag) * np.exp(-width / tau)
        # across a jump (no width) the average stays where it was
        out[:, :, j] = np.where(width > 0, table.ratio[:, j] - lag + decayed, out[:, :, j - 1])
    return out
