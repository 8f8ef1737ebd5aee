"""A sweep as a whole: as it stood at an earlier step, what following the advice then would have cost, and two honest rankings.

Runs of unequal length must not be ranked by their last values. `ranking` tells two questions apart: who is ahead *at equal x* (the
largest x that every compared run has logged), and who will be ahead *at the own end*, by the forecasts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from farfield import checks
from farfield.curves.data import Curves, FloatArray
from farfield.curves.forecaster import LEAST_POINTS
from farfield.curves.stopping.advice import Advice, plural
from farfield.errors import InputError
from farfield.wording import number, plain, position


def as_of(curves: Curves, step: float) -> Curves:
    """The runs as they stood when each had got to x = `step`: nothing of what came later is left.

    A run that went further was still running; what it was planned to end at is kept, or, where nobody planned, where it ended.
    Raises InputError where no run has a point by then.
    """
    step = float(checks.finite("step", step, ndim=0))
    seen = curves.upto(step)
    if not seen.x.size:
        first = f"; the first point is at {curves.x.min():g}" if curves.x.size else ""
        raise InputError(f"no run has a point at {curves.x_name} {step:g} or before{first}")
    later = pl.Series(curves.last_x > step)
    finished = (curves.column("status") == "finished").to_numpy()
    end = curves.column("planned_end").fill_null(pl.Series(np.where(finished, curves.last_x, np.nan)).fill_nan(None))
    attributes = curves.attributes.with_columns(
        pl.Series("planned_end", end),
        *(
            pl.when(later).then(value).otherwise(pl.col(name)).cast(curves.attributes.schema[name]).alias(name)
            for name, value in {"status": pl.lit("running"), "n_nonfinite": pl.lit(0), "n_duplicate": pl.lit(0)}.items()
        ),
    )
    return dataclasses.replace(seen, attributes=attributes)


@dataclass(frozen=True)
class Replay:
    """Advice given on what was known at an earlier step, and what came.

    step : x up to which runs were seen
    winner : index of the run with the best value in the whole log
    kept : whether the advice let the winner go on, or stopped it with its best value already reached
    best, best_kept : the best value of all, and the best left when the advice had been followed
    saved : x logged after the step by runs that would have been stopped
    """

    step: float
    advice: Advice
    winner: int
    kept: bool
    best: float
    best_kept: float
    saved: float

    @property
    def regret(self) -> float:
        """How much worse the best value would have been, in the metric's unit; 0 or more."""
        return abs(self.best_kept - self.best)

    def summary(self) -> str:
        """One line: whether the winner was kept, what the stops would have cost and saved."""
        curves = self.advice.curves
        name, x_name = curves.runs[self.winner], curves.x_name
        if not np.isfinite(self.best):
            return "what came cannot be told: no run logged a value"
        fate = "kept" if self.kept else f"stopped: best {number(self.best_kept)} instead of {number(self.best)}"
        saved = f"{position(self.saved)} {plural(x_name)} logged since saved"
        return f"as of {x_name} {position(self.step)}: the winner {name} {fate}; {saved}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        out: dict[str, Any] = plain(
            {
                "as_of": self.step, "winner": self.advice.curves.runs[self.winner], "kept": self.kept, "best": self.best,
                "best_kept": self.best_kept, "regret": self.regret, "saved": self.saved,
            }
        )  # fmt: skip
        return out


def replayed(advice: Advice, whole: Curves, step: float) -> Replay:
    """What came of `advice`, given on ``as_of(whole, step)``. Raises InputError where the runs differ."""
    if advice.curves.runs != whole.runs:
        raise InputError("the advice is on other runs than the log; give it as_of(whole, step)")
    sign = 1.0 if whole.metric.goal == "min" else -1.0
    end, then = best_values(whole, sign), best_values(advice.curves, sign)
    left = np.where(advice.stop, then, end)
    winner = int(end.argmin())
    gone = advice.stop & (whole.last_x > advice.curves.last_x)
    return Replay(
        step=step, advice=advice, winner=winner, kept=bool(left.min() <= end.min()), best=sign * float(end.min()),
        best_kept=sign * float(left.min()), saved=float((whole.last_x - advice.curves.last_x)[gone].sum()),
    )  # fmt: skip


def best_values(curves: Curves, sign: float) -> FloatArray:
    """(n_runs,) the best value each run has logged, times `sign` so that smaller is better; infinity without points."""
    out = np.full(len(curves), np.inf)
    some = np.flatnonzero(curves.lengths > 0)
    if some.size:
        out[some] = np.minimum.reduceat(sign * curves.y, curves.offsets[some])
    return out


def ranking(advice: Advice, at: float | None = None) -> pl.DataFrame:
    """Runs ranked at equal x and at their own ends, the best expected end first.

    Parameters
    ----------
    at : the x to compare at; None for the largest that every run of three points or more has logged

    Columns: ``run``, ``x`` and ``value`` (at equal x, on the line between logged points; null for a run that has not got there),
    ``rank``; ``end`` and ``expected`` (the median forecast there), ``rank_at_end``, ``p_best`` and ``status``.
    Raises InputError for an `at` that no run has reached.
    """
    curves = advice.curves
    sign = 1.0 if curves.metric.goal == "min" else -1.0
    compared = (curves.lengths >= LEAST_POINTS) & np.array([s.key != "diverged" for s in advice.status])
    if at is None:
        x = float(curves.last_x[compared].min()) if compared.any() else np.nan
    else:
        x = float(checks.finite("at", at, ndim=0))
        if not (curves.last_x >= x).any():
            raise InputError(f"no run has reached {curves.x_name} {x:g}; the furthest is at {np.nanmax(curves.last_x):g}")
    value = np.full(len(curves), np.nan)
    for i in range(len(curves)):
        points = curves.points(i)
        if points.stop > points.start and curves.x[points][0] <= x <= curves.x[points][-1]:
            value[i] = np.interp(x, curves.x[points], curves.y[points])
    out = pl.DataFrame(
        {
            "run": pl.Series(curves.runs, dtype=pl.String), "x": np.where(np.isfinite(value), x, np.nan), "value": value,
            "rank": _ranks(sign * value), "end": advice.at, "expected": advice.median, "rank_at_end": _ranks(sign * advice.median),
            "p_best": advice.p_best, "status": [s.key for s in advice.status],
        }
    )  # fmt: skip
    return out.with_columns(pl.col(pl.Float64).fill_nan(None)).sort("rank_at_end", nulls_last=True, maintain_order=True)


def _ranks(value: FloatArray) -> pl.Series:
    """Rank of each value, the least 1, ties sharing the better one; null for NaN."""
    return pl.Series(value).fill_nan(None).rank("min").cast(pl.Int64)
