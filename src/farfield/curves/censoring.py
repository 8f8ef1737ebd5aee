"""Runs that were stopped early are right-censored: their ends are unknown, not bad, and not reached.

In a sweep that prunes, the runs seen to their end are the ones that did well on the way, so errors learnt from them alone make
forecasts for the others too hopeful. Inverse probability of censoring weights (Robins & Rotnitzky 1992; Koul, Susarla & Van Ryzin
1981) mend what can be mended: a run that got through stands for all that looked like it at the cut, with weight

    w = P(through) / P(through | its rank at the cut),

where the rank is that of its value among the runs of its group that had got to the cut, and P(through | rank) never rises with a
worse rank (isotonic regression of who got through). Where hardly any run got through the weight is held at `MOST_WEIGHT`, for no
weighting makes up for ranks from which none did: of those, forecasts rest on the likeness of scaled errors alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farfield.curves.data import Curves, FloatArray, IntArray

CENSORED = ("pruned", "killed")
MOST_WEIGHT = 5.0
# stretches (from a cut to an end) are told apart by so many bins of their cut
_BINS = 8
# so many runs at risk, and so many of them lost, are needed to estimate who gets through
_LEAST_AT_RISK, _LEAST_LOST = 20, 3


def censored(curves: Curves) -> NDArray[np.bool_]:
    """(n_runs,) whether a run was stopped by someone before its end: pruned or killed."""
    state = curves.column("status").to_numpy()
    return np.isin(state, CENSORED)


def through(rank: FloatArray, passed: NDArray[np.bool_]) -> FloatArray:
    """(n,) P(through | rank), never rising with rank, for n runs at risk; `rank` in (0, 1], small is good."""
    from scipy.optimize import isotonic_regression  # slow to import, and seldom needed

    order = np.argsort(rank, kind="stable")
    fitted = isotonic_regression(passed[order].astype(np.float64), increasing=False).x
    out = np.empty(rank.size)
    out[order] = fitted
    # runs of one rank share one probability
    _, code = np.unique(rank, return_inverse=True)
    return np.asarray((np.bincount(code, out) / np.bincount(code))[code])


def weights(curves: Curves, rows: IntArray, cut: FloatArray, groups: IntArray) -> FloatArray:
    """(k,) inverse probability of censoring weights of the runs `rows` (k,), seen up to `cut` (k,), known to their last point.

    Parameters
    ----------
    curves : all the runs, those stopped early among them
    groups : (n_runs,) codes of runs that compete; where fewer than 20 of a group are at risk all runs are taken together

    The weights of a stretch have mean about 1; all are 1 where nobody was stopped early.
    """
    out = np.ones(rows.size)
    lost = censored(curves)
    if not lost.any() or not rows.size:
        return out
    last = curves.last_x
    low, high = np.log(np.maximum(cut, 1e-300)).min(), np.log(np.maximum(cut, 1e-300)).max()
    share = (np.log(np.maximum(cut, 1e-300)) - low) / max(high - low, 1e-12)
    bins = np.minimum((share * _BINS).astype(np.int64), _BINS - 1)
    for b in np.unique(bins):
        mine = np.flatnonzero((bins == b) & ~lost[rows])
        if not mine.size:
            continue
        start, end = float(np.median(cut[mine])), float(np.median(last[rows[mine]]))
        passed = last >= end * (1 - 1e-9)
        risk = (last >= start) & (curves.lengths > 0) & (passed | lost)
        if risk.sum() < _LEAST_AT_RISK or (risk & ~passed).sum() < _LEAST_LOST:
            continue
        at_risk = np.flatnonzero(risk)
        rank = np.full(len(curves), np.nan)
        rank[at_risk] = _ranks(curves, at_risk, start, groups[at_risk])
        p = np.full(len(curves), np.nan)
        p[at_risk] = through(rank[at_risk], passed[at_risk])
        found = passed[at_risk].mean() / np.maximum(p[rows[mine]], 1e-9)
        out[mine] = np.where(np.isfinite(found), np.clip(found, 1.0 / MOST_WEIGHT, MOST_WEIGHT), 1.0)
    return out


def _ranks(curves: Curves, rows: IntArray, cut: float, groups: IntArray) -> FloatArray:
    """(k,) rank in (0, 1] of each run's value at `cut` within its group, the best least; small groups are ranked together."""
    sign = 1.0 if curves.metric.goal == "min" else -1.0
    seen = curves.take(rows).upto(cut * (1 + 1e-9))
    value = sign * np.where(seen.lengths > 0, seen.last_y, np.inf)
    _, code, size = np.unique(groups, return_inverse=True, return_counts=True)
    code = np.where(size[code] >= _LEAST_AT_RISK, code, -1)
    out = np.empty(rows.size)
    for c in np.unique(code):
        some = np.flatnonzero(code == c)
        order = np.sort(value[some])
        out[some] = (np.searchsorted(order, value[some], side="left") + 1) / some.size
    return out
