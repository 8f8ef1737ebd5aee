"""Curves of any metric to [0, 1] where higher is better, and back, with the slope that densities need (LC-PFN, appendix A).

With soft bounds l < u, the values usual for the metric, s(y) = 2 (y - l) / (u - l) - 1 runs from -1 to 1 between them, where
the logistic function S is almost straight. With hard bounds L <= l and U >= u, the possible values (infinite ones allowed),

    z(y) = (S(s(y)) - S(s(L))) / (S(s(U)) - S(s(L))),     and 1 - z where smaller is better,

which is the paper's normalisation: L and U go to 0 and 1. A density p of z is the density p |dz/dy| of y, so the log-likelihood
of y is that of z plus :meth:`Normaliser.log_slope`. Quantiles of z map to quantiles of y, in reverse order where smaller is better.

:func:`from_seen` chooses the bounds of a curve from the metric and from the seen values alone:

    metric                          hard bounds     soft bounds                                             source
    both bounds known               the bounds      the bounds: accuracy is (0, 0, 1, 1)                    appendix A
    min, lower bound L known        (L, inf)        L and the first value: a loss is (0, 0, y0, inf)        appendix A
    max, upper bound U known        (-inf, U)       the first value and U                                   its mirror
    the better side is not bounded  as known        the worst value and as far beyond the best as between   ours

Where these coincide (a constant or single value, a first value at its bound) the width is that of the largest value, or 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from farfield import checks
from farfield.curves.data import Goal, Metric
from farfield.errors import InputError

FloatArray = NDArray[np.float64]
_EDGE = 1e-12  # logistic values are kept this far from 0 and 1, so that every z has a finite y


@dataclass(frozen=True, eq=False)
class Normaliser:
    """The map of `n` curves, each with its own bounds.

    Parameters
    ----------
    goal : "min" or "max"
    soft_low, soft_high : (n,) usual values, low below high, finite
    hard_low, hard_high : (n,) possible values around them, infinite where unbounded

    Raises InputError for bounds out of order.
    """

    goal: Goal
    hard_low: FloatArray
    soft_low: FloatArray
    soft_high: FloatArray
    hard_high: FloatArray

    def __post_init__(self) -> None:
        checks.choice("goal", self.goal, ("min", "max"))
        names = ("hard_low", "soft_low", "soft_high", "hard_high")
        bounds = np.broadcast_arrays(*(np.atleast_1d(checks.numbers(name, getattr(self, name))) for name in names))
        low, soft_low, soft_high, high = bounds
        good = (low <= soft_low) & (soft_low < soft_high) & (soft_high <= high) & np.isfinite(soft_low) & np.isfinite(soft_high)
        if low.ndim != 1 or not good.all():
            at = int(np.flatnonzero(~good)[0]) if low.ndim == 1 else 0
            got = ", ".join(f"{np.ravel(b)[at]:g}" for b in bounds)
            raise InputError(f"bounds of curve {at} are ({got}); allowed: hard low <= soft low < soft high <= hard high")
        for name, value in zip(names, bounds, strict=True):
            object.__setattr__(self, name, np.asarray(value, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.soft_low)

    def __getitem__(self, index: Any) -> Normaliser:
        """The maps of some of the curves: a slice, or an array of indices or of truth values."""
        return Normaliser(
            self.goal, self.hard_low[index], self.soft_low[index], self.soft_high[index], self.hard_high[index]
        )  # fmt: skip

    def forward(self, y: ArrayLike) -> FloatArray:
        """`y` (..., n, k) as z, one row a curve; values beyond a hard bound leave [0, 1], NaN stays NaN."""
        s, low, high = self._scaled(y)
        # differences of logistic values on the side where they are small, which keeps their digits
        if self.goal == "min":
            return np.asarray((special.expit(-s) - special.expit(-high)) / (special.expit(-low) - special.expit(-high)))
        return np.asarray((special.expit(s) - special.expit(low)) / (special.expit(high) - special.expit(low)))

    def inverse(self, z: ArrayLike) -> FloatArray:
        """`z` (..., n, k) as y; a z that no y has (beyond an infinite bound) becomes a finite, far one."""
        values = checks.numbers("z", z)
        low, high, scale = self._ends(values)
        sign = -1.0 if self.goal == "min" else 1.0
        worst, best = (
            (special.expit(-high), special.expit(-low)) if self.goal == "min" else (special.expit(low), special.expit(high))
        )
        logistic = np.clip(worst + values * (best - worst), _EDGE, 1 - _EDGE)
        return np.asarray(self.soft_low[:, None] + (sign * special.logit(logistic) + 1) * scale)

    def log_slope(self, y: ArrayLike) -> FloatArray:
        """log |dz/dy| at `y` (..., n, k): what a log-density of z gains to become one of y."""
        s, low, high = self._scaled(y)
        _, _, scale = self._ends(s)
        width = special.expit(high) - special.expit(low)
        # log S'(s) = log S(s) + log S(-s)
        return np.asarray(special.log_expit(s) + special.log_expit(-s) - np.log(width) - np.log(scale))

    def _scaled(self, y: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
        """s(y), s(hard_low), s(hard_high)."""
        values = checks.numbers("y", y)
        low, high, scale = self._ends(values)
        return (values - self.soft_low[:, None]) / scale - 1, low, high

    def _ends(self, values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """s of the hard bounds and half the soft width, (n, 1) each."""
        if values.ndim < 2 or values.shape[-2] not in (len(self), 1):
            raise InputError(f"values have shape {values.shape}; allowed: (..., {len(self)}, any), one row a curve")
        scale = 0.5 * (self.soft_high - self.soft_low)
        ends = [(bound - self.soft_low) / scale - 1 for bound in (self.hard_low, self.hard_high)]
        return ends[0][:, None], ends[1][:, None], scale[:, None]


def from_seen(y: ArrayLike, metric: Metric) -> Normaliser:
    """The normaliser of curves whose seen values are `y` (n, k), NaN where there is none; see the module's table.

    Raises InputError for a curve without a value, infinite values, or values beyond the metric's bounds.
    """
    seen = checks.numbers("y", y, ndim=2)
    there = ~np.isnan(seen)
    if not there.any(axis=1).all():
        raise InputError(f"curve {int(np.flatnonzero(~there.any(axis=1))[0])} has no seen value; give at least one")
    if np.isinf(seen).any() or (seen < metric.lower).any() or (seen > metric.upper).any():
        bad = seen[np.isinf(seen) | (seen < metric.lower) | (seen > metric.upper)]
        raise InputError(
            f"metric {metric.name!r} has the value {bad[0]:g}; allowed: finite values from {metric.lower:g} to {metric.upper:g}"
        )
    n = len(seen)
    first = seen[np.arange(n), there.argmax(axis=1)]
    least, most = np.nanmin(seen, axis=1), np.nanmax(seen, axis=1)
    largest = np.maximum(np.abs(least), np.abs(most))
    fallback = np.where(largest > 0, largest, 1.0)
    low_known, high_known = np.isfinite(metric.lower), np.isfinite(metric.upper)
    span = np.where(most - least > _EDGE * fallback, most - least, fallback)
    low, high = np.full(n, metric.lower), np.full(n, metric.upper)
    if metric.goal == "min" and not (low_known and high_known):
        if low_known:
            high = np.where(first - low > _EDGE * fallback, first, low + fallback)
        else:
            low, high = least - span, (high if high_known else most)
    elif metric.goal == "max" and not (low_known and high_known):
        if high_known:
            low = np.where(high - first > _EDGE * fallback, first, high - fallback)
        else:
            low, high = (low if low_known else least), most + span
    return Normaliser(metric.goal, np.full(n, metric.lower), low, high, np.full(n, metric.upper))
