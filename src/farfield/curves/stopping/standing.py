"""Who ends best: where the runs stand now, what the forecasts say and what their settings did elsewhere, put together.

A forecast alone is a poor judge of which run wins: joint draws favour whoever is uncertain, and before the third point there are
none. The rank by the last value alone ignores everything but the last value. Their product is better than either. For the n runs
still going, with `rank` that of the value at equal x (ties share their mean), p the share of joint draws the run wins, and s the
normal score at its end that a Gaussian process over the settings of runs of other groups predicts,

    P(ends best) ~ rank^-a (p + 0.002)^b exp(c s),    a = max(1.4 - 0.28 l, 0.3),  b = 0.4 + 0.5 / r,  c = 0.3 + 0.4 l,

r the reach (end over last x) and l = log r: far from the end settings count most, near it the forecast does. Without settings a is
larger by c / 4, without forecasts by b. The constants are rounded fits of a conditional logit (McFadden 1974) at eight shares of
sweeps with known winners, of four tasks of TaskSet and half of the data sets of LCDB; the fits of the two hardly differ.
Where runs end at different x, or a learning-rate decay is to come, values at equal x say little: then a = 0 and b = 1. What the
draws give to runs that have ended or were stopped stays theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri

from farfield.curves.data import Curves, FloatArray, IntArray
from farfield.curves.forecaster import groups_of
from farfield.curves.stopping.joint import Ends
from farfield.curves.stopping.suggest import Setting, Surrogate, settings_of

_LEAST = 0.002
_MOST_RUNS, _LEAST_RUNS = 300, 20
_ROOM = 0.2  # settings further outside those seen count as this far outside


def exponents(reach: float) -> tuple[float, float, float]:
    """a, b and c of rank, forecast and settings at a reach (end over last x, above 1)."""
    log = float(np.log(max(reach, 1.0)))
    return max(1.4 - 0.28 * log, 0.3), 0.4 + 0.5 / max(reach, 1.0), 0.3 + 0.4 * log


def standing(
    drawn: Ends, field: NDArray[np.bool_], forecast: NDArray[np.bool_], rank: FloatArray | None, reach: float,
    score: FloatArray | None,
) -> FloatArray:  # fmt: skip
    """(n,) P(ends best).

    Parameters
    ----------
    drawn : joint draws of the n runs
    field : (n,) runs still going, whose chances are put together; the others keep those of the draws
    forecast : (n,) runs that were forecast
    rank : (n,) at equal x, from 1; read where `field`; None where values at equal x say little
    reach : end over last x, of the field
    score : (n,) normal score expected of the settings, large is good; None where they say nothing
    """
    out = drawn.p_best.copy()
    if not field.any():
        return out
    a, b, c = exponents(reach)
    told = forecast & field
    log = np.zeros(int(field.sum()))
    if rank is None:
        b = 1.0
    else:
        log -= (a + (0.25 * c if score is None else 0.0) + (0.0 if told.any() else b)) * np.log(rank[field])
    if told.any():
        p = np.where(told, out, 1.0 / field.sum())[field]
        log += b * np.log(p + _LEAST)
    if score is not None:
        log += c * score[field]
    weight = np.exp(log - log.max())
    out[field] = max(1.0 - float(out[~field].sum()), 0.0) * weight / weight.sum()
    return out


def ranks(curves: Curves, field: NDArray[np.bool_], sign: float) -> FloatArray:
    """(n,) rank of each run's last value among the field at that x, the best 1, ties sharing the mean; NaN outside the field.

    A rival that has not got so far is compared by its own last value: if that is better already, it is ahead.
    """
    out = np.full(len(curves), np.nan)
    rows = np.flatnonzero(field)
    last_x, last = curves.last_x[rows], sign * curves.last_y[rows]
    better, level = np.zeros(rows.size), np.zeros(rows.size)
    for j in rows:
        points = curves.points(int(j))
        there = np.searchsorted(curves.x[points], last_x, side="right") - 1
        # a rival that began later than the run stands now is not ahead of it
        value = np.where(there >= 0, sign * curves.y[points][np.maximum(there, 0)], np.inf)
        better += value < last
        level += value == last
    out[rows] = better + (level + 1.0) / 2.0
    return out


@dataclass(frozen=True)
class SettingsScore:
    """What the settings of ended runs say: a Gaussian process on the normal scores of their ranks within their groups."""

    settings: tuple[Setting, ...]
    surrogate: Surrogate

    @classmethod
    def fit(cls, known: Curves | None) -> Self | None:
        """From runs with known ends; None where fewer than 20 of them, in groups of two or more, differ in their settings."""
        if known is None:
            return None
        groups = groups_of(known)
        ended = (known.column("status") == "finished").to_numpy() & (known.lengths > 0)
        size = np.bincount(groups[ended], minlength=int(groups.max()) + 1 if groups.size else 1)
        rows = np.flatnonzero(ended & (size[groups] > 1))
        if rows.size > _MOST_RUNS:
            rows = np.sort(np.random.default_rng(0).choice(rows, _MOST_RUNS, replace=False))
        frame = known.attributes[rows.tolist()]
        settings = tuple(settings_of(frame)) if rows.size >= _LEAST_RUNS else ()
        if not settings:
            return None
        score = _scores(known, rows, groups[rows])
        return cls(settings, Surrogate.fit(_encoded(settings, frame), score, np.zeros(rows.size)))

    def of(self, curves: Curves) -> FloatArray:
        """(n_runs,) expected normal score, large is good."""
        x = np.clip(_encoded(self.settings, curves.attributes), -_ROOM, 1.0 + _ROOM)
        return np.asarray(self.surrogate.mean(x))


def _encoded(settings: tuple[Setting, ...], frame: pl.DataFrame) -> FloatArray:
    columns = []
    for setting in settings:
        has = setting.name in frame.columns and (bool(setting.levels) or frame.schema[setting.name].is_numeric())
        columns.append(setting.encode(frame[setting.name].to_list() if has else [None] * frame.height))
    return np.nan_to_num(np.hstack(columns), nan=0.5)


def _scores(known: Curves, rows: IntArray, groups: IntArray) -> FloatArray:
    """(k,) normal score of each run's best value among those of its group, large is good."""
    sign = 1.0 if known.metric.goal == "min" else -1.0
    best = np.array([(sign * known.y[known.points(int(i))]).min() for i in rows])
    out = np.empty(rows.size)
    for g in np.unique(groups):
        mine = np.flatnonzero(groups == g)
        order = np.sort(best[mine])
        low, high = (np.searchsorted(order, best[mine], side=side) for side in ("left", "right"))
        out[mine] = -ndtri((low + high) / (2.0 * mine.size))
    return out
