"""What a forecast hands back: a frozen record that prints, tabulates, serialises and plots itself.

:class:`Forecast` holds one predictive distribution a run, the advice that follows from it (:class:`ForecastStatus`) and the
evidence: what its intervals were calibrated on (:class:`Calibration`), and how the same procedure did when the far end was
hidden (:class:`Backtest`), both from :mod:`farfield.curves.evidence`. Their ``to_dict()`` is the JSON of the command line
(docs/forecast-json.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farfield.curves.data import Curves, FloatArray, IntArray, Metric
from farfield.curves.evidence import Backtest, Calibration, metric_dict
from farfield.errors import InputError
from farfield.wording import count, number, percent, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from farfield.predictive import Predictive

__all__ = ["QUANTILES", "Backtest", "Calibration", "Forecast", "ForecastStatus", "seen_estimate"]

# quantiles that to_dict() states for every run, beside the interval at the asked level
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


class ForecastStatus(Enum):
    """What the forecast of one run amounts to; the value is the advice.

    Only `PLATEAU`, `TURNED` and `UNLIKELY_BEST` ever speak for stopping (`may_stop`). Where a learning-rate decay is still
    to come, the schedule is unknown or the reach is beyond the evidence, that status takes precedence over those three.
    """

    CONTINUE = "still improving: continue"
    UNLIKELY_BEST = "unlikely to end best: a candidate to stop"
    PLATEAU = "little more to gain"
    TURNED = "past its best: keep the best checkpoint"
    DECAY_TO_COME = "learning-rate decay still to come: do not stop on this forecast"
    SCHEDULE_UNKNOWN = "schedule unknown, a decay may still come: do not stop on this forecast alone"
    FAR = "far beyond the evidence: see more before deciding"
    FINISHED = "has ended: nothing to forecast"
    TOO_SHORT = "fewer than 3 points: not forecast"
    DIVERGED = "diverged: not forecast"
    NO_END = "planned end unknown: not forecast; give --to or --by"

    @property
    def key(self) -> str:
        """The name in JSON and CSV, e.g. ``decay_to_come``."""
        return self.name.lower()

    @property
    def words(self) -> str:
        """The name in tables and figures, e.g. ``decay to come``."""
        return self.key.replace("_", " ")

    @property
    def short(self) -> str:
        """What is the case, without the advice; e.g. ``learning-rate decay still to come``."""
        return self.value.split(":")[0]

    @property
    def advice(self) -> str:
        """What to do about it; empty where the case says it all."""
        return self.value.partition(": ")[2]

    @property
    def refused(self) -> bool:
        """No forecast was made, and a reason is due."""
        return self in _REFUSED

    @property
    def forecasts(self) -> bool:
        """The run's row of the predictive distribution means something (neither refused nor finished)."""
        return self not in _REFUSED and self is not ForecastStatus.FINISHED

    @property
    def may_stop(self) -> bool:
        """The forecast speaks for stopping the run."""
        return self in _MAY_STOP


_REFUSED = frozenset({ForecastStatus.TOO_SHORT, ForecastStatus.DIVERGED, ForecastStatus.NO_END})
_MAY_STOP = frozenset({ForecastStatus.PLATEAU, ForecastStatus.TURNED, ForecastStatus.UNLIKELY_BEST})


@dataclass(frozen=True)
class Forecast:
    """Where each run will be at `at`, with intervals.

    Attributes
    ----------
    curves : what was seen
    at : (n_runs,) x each run is forecast at; NaN where it was refused
    predictive : (n_runs, 1) distribution of the estimate at `at`; only rows with ``status.forecasts`` are read
    path_at, path : (n_runs, n_path) x beyond each run's last point (NaN pads), and the distribution there
    level : level of the stated intervals
    estimate : ``final``, ``mean:k`` (mean of the last k logged values) or ``best`` (best value up to `at`)
    target : ``latent`` (the noise-free curve) or ``logged`` (the value a logger will write)
    members, weights : curve forms, and (n_runs, n_members) their weights
    status : (n_runs,) what the forecast of each run amounts to
    calibration : what scaled the intervals
    calibrated : (n_runs,) whether each run's interval is calibrated at its reach
    p_best : (n_runs,) probability to end best, from joint draws; None when withheld, for the reason `p_best_withheld`
    warnings : what the reader must know, one line each
    backtest : the same procedure with the far end hidden, where it was run
    decay_at : (n_runs,) x where a learning-rate decay begins, NaN where none is known; None when no run has one
    notes : (n_runs,) a detail to the status, e.g. ``NaN from step 400``; empty when there are none
    hidden : what came after the seen points, where the end was hidden on purpose: shown beside the forecast, never used for it
    """

    curves: Curves
    at: FloatArray
    predictive: Predictive
    path_at: FloatArray
    path: Predictive
    level: float
    estimate: str
    target: Literal["latent", "logged"]
    members: tuple[str, ...]
    weights: FloatArray
    status: tuple[ForecastStatus, ...]
    calibration: Calibration
    calibrated: NDArray[np.bool_]
    p_best: FloatArray | None = None
    p_best_withheld: str = ""
    warnings: tuple[str, ...] = ()
    backtest: Backtest | None = None
    decay_at: FloatArray | None = None
    notes: tuple[str, ...] = ()
    hidden: Curves | None = None

    def __post_init__(self) -> None:
        n = len(self.curves)
        shapes = {
            "at": (self.at, (n,)),
            "weights": (self.weights, (n, len(self.members))),
            "calibrated": (self.calibrated, (n,)),
            "p_best": (self.p_best, (n,)),
            "decay_at": (self.decay_at, (n,)),
        }
        for name, (value, shape) in shapes.items():
            if value is not None and np.shape(value) != shape:
                raise InputError(f"{name} has shape {np.shape(value)}; for {count(n, 'run')} it must be {shape}")
        if len(self.status) != n or len(self.notes) not in (0, n):
            raise InputError(f"status has {len(self.status)} and notes {len(self.notes)} entries for {count(n, 'run')}")
        if tuple(self.predictive.shape) != (n, 1) or tuple(self.path.shape) != np.shape(self.path_at) or len(self.path_at) != n:
            raise InputError(
                f"predictive has shape {self.predictive.shape}, path {self.path.shape} and path_at {np.shape(self.path_at)}; "
                f"for {count(n, 'run')} they must be ({n}, 1), ({n}, n_path) and ({n}, n_path)"
            )
        if self.hidden is not None and self.hidden.runs != self.curves.runs:
            raise InputError("hidden must hold the same runs as curves, in the same order")
        if not 0 < self.level < 1:
            raise InputError(f"level is {self.level}; it must lie between 0 and 1, e.g. 0.8")

    # -- numbers ----------------------------------------------------------------------------------------------------------

    @cached_property
    def forecast_index(self) -> IntArray:
        """Indices of the runs that have a predictive distribution."""
        return np.flatnonzero([s.forecasts for s in self.status]).astype(np.int64)

    @cached_property
    def refused_index(self) -> IntArray:
        """Indices of the runs that were not forecast."""
        return np.flatnonzero([s.refused for s in self.status]).astype(np.int64)

    def quantile(self, q: float | Sequence[float] | FloatArray) -> FloatArray:
        """(k, n_runs) quantiles of the estimate, (n_runs,) for scalar `q`; NaN for runs without a distribution."""
        levels = np.atleast_1d(np.asarray(q, dtype=np.float64))
        out: FloatArray = np.full((levels.size, len(self.curves)), np.nan)
        if self.forecast_index.size:
            out[:, self.forecast_index] = np.asarray(self.predictive[self.forecast_index].quantile(levels))[:, :, 0]
        return out[0] if np.ndim(q) == 0 else out

    @cached_property
    def _table(self) -> FloatArray:
        """(3 + len(QUANTILES), n_runs): low, median, high, then QUANTILES, found in one call."""
        tail = (1 - self.level) / 2
        return self.quantile(np.array([tail, 0.5, 1 - tail, *QUANTILES]))

    @cached_property
    def median(self) -> FloatArray:
        """(n_runs,) the point forecast; what is already known for a finished run, NaN for a refused one."""
        out: FloatArray = self._table[1].copy()
        for i in np.flatnonzero([s is ForecastStatus.FINISHED for s in self.status]):
            out[i] = seen_estimate(self.curves.y[self.curves.points(int(i))], self.estimate, self.curves.metric)
        return out

    @property
    def interval(self) -> tuple[FloatArray, FloatArray]:
        """(low, high), each (n_runs,), central at `level`; NaN where there is no distribution."""
        return self._table[0], self._table[2]

    @property
    def reach(self) -> FloatArray:
        """(n_runs,) how far beyond what was seen: `at` over the last x."""
        last = self.curves.last_x
        out: FloatArray = np.divide(self.at, last, out=np.full(len(last), np.nan), where=last > 0)
        return out

    @cached_property
    def came(self) -> FloatArray:
        """(n_runs,) what the estimate came to be, from the hidden points; NaN where they do not reach `at` (within 1 %)."""
        out = np.full(len(self.curves), np.nan)
        if self.hidden is None:
            return out
        for i in self.forecast_index:
            points = self.hidden.points(int(i))
            x, y = self.hidden.x[points], self.hidden.y[points]
            if x.size and x[-1] >= 0.99 * self.at[i]:
                whole = np.concatenate([self.curves.y[self.curves.points(int(i))], y[x <= self.at[i]]])
                out[i] = seen_estimate(whole, self.estimate, self.curves.metric)
        return out

    @property
    def came_label(self) -> str:
        """How many of the hidden ends came inside their intervals; empty where none was hidden."""
        known = np.flatnonzero(np.isfinite(self.came))
        if known.size == 0:
            return ""
        low, high = self.interval
        held = int(np.sum((self.came[known] >= low[known]) & (self.came[known] <= high[known])))
        share = f"{held} of {count(known.size, 'hidden end')} came inside their {100 * self.level:g} % intervals"
        return f"{share} ({100 * held / known.size:.0f} %)"

    @cached_property
    def order(self) -> IntArray:
        """Run indices, best forecast first; refused runs last, in the order given."""
        key = self.median if self.curves.metric.goal == "min" else -self.median
        return np.argsort(key, kind="stable").astype(np.int64)  # NaN sorts last

    # -- words ------------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        n, m = len(self.curves), self.curves.metric
        return f"Forecast({count(n, 'run')} of {m.name!r}, {self.refused_index.size} refused, {self.interval_label})"

    @property
    def interval_label(self) -> str:
        """What the intervals are: level, which value they are for, and whether they are calibrated."""
        what = "the latent curve" if self.target == "latent" else "the logged value"
        given = self.calibrated[self.forecast_index]
        if not given.any():
            how = "uncalibrated"
        else:
            how = self.calibration.label
            if not given.all():
                how += f" where marked, else uncalibrated ({int((~given).sum())} of {count(given.size, 'run')})"
        return f"{100 * self.level:g} % intervals for {what}, {how}"

    @property
    def estimate_label(self) -> str:
        """What is forecast, e.g. ``mean of the last 5 values of val_loss``."""
        name = self.curves.metric.name
        if self.estimate == "best":
            return f"best {name}"
        if self.estimate.startswith("mean:"):
            return f"mean of the last {self.estimate[5:]} values of {name}"
        return f"final {name}"

    def summary(self) -> str:
        """A few lines: what was forecast, the best run, the kind of interval, the evidence and the warnings."""
        x_name = self.curves.x_name
        lines = [f"{self.estimate_label} of {count(len(self.curves), 'run')} by {x_name}, {self.curves.metric.goal} is best"]
        if self.forecast_index.size:
            i, (low, high) = int(self.order[0]), self.interval
            text = f"best: {self.curves.runs[i]} at {number(self.median[i])}"
            if np.isfinite(low[i]):
                text += f" [{number(low[i])}, {number(high[i])}] at {x_name} {number(self.at[i])}"
            if self.p_best is not None:
                text += f", P(ends best) {percent(self.p_best[i])}"
            lines.append(text)
        lines.append(self.interval_label)
        if self.backtest is not None:
            lines.append(self.backtest.summary())
        if self.came_label:
            lines.append(self.came_label)
        if self.refused_index.size:
            names = [self.curves.runs[i] for i in self.refused_index[:10]] + ["..."] * (self.refused_index.size > 10)
            lines.append(f"not forecast: {', '.join(names)}")
        lines += [f"warning: {w}" for w in self.warnings]
        return "\n".join(lines)

    # -- out --------------------------------------------------------------------------------------------------------------

    def to_frame(self) -> pl.DataFrame:
        """One row a run, best first; null where there is no value."""
        low, high = self.interval
        n = len(self.curves)
        columns: dict[str, Any] = {
            "run": self.curves.runs,
            "group": self.curves.column("group"),
            "n_points": self.curves.lengths,
            "last_x": self.curves.last_x,
            "last": self.curves.last_y,
            "at": self.at,
            "reach": self.reach,
            "forecast": self.median,
            "low": low,
            "high": high,
            "level": np.full(n, self.level),
            "came": self.came,
            "p_best": np.full(n, np.nan) if self.p_best is None else self.p_best,
            "status": [s.key for s in self.status],
            "advice": [s.value for s in self.status],
            "note": self.notes or [""] * n,
            "calibrated": [bool(c) if s.forecasts else None for c, s in zip(self.calibrated, self.status, strict=True)],
            "estimate": [self.estimate] * n,
            "target": [self.target] * n,
        }
        frame = pl.DataFrame(columns, schema_overrides={"run": pl.String, "note": pl.String, "calibrated": pl.Boolean})
        ordered: pl.DataFrame = frame.with_columns(pl.col(pl.Float64).fill_nan(None))[self.order.tolist()]
        return ordered

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON (docs/forecast-json.md), runs best first; NaN and infinities become None."""
        return {
            "schema": "farfield.forecast/1",
            "metric": metric_dict(self.curves.metric),
            "x": self.curves.x_name,
            "level": self.level,
            "estimate": self.estimate,
            "target": self.target,
            "members": list(self.members),
            "calibration": self.calibration.to_dict(),
            "p_best_withheld": self.p_best_withheld or None,
            "runs": [self._run_dict(row, int(i)) for row, i in zip(self.to_frame().iter_rows(named=True), self.order, strict=True)],
            "warnings": list(self.warnings),
            "backtest": None if self.backtest is None else self.backtest.to_dict(),
        }

    def _run_dict(self, row: dict[str, Any], i: int) -> dict[str, Any]:
        out = {k: v for k, v in row.items() if k not in ("low", "high", "level", "estimate", "target")}
        out["note"] = out["note"] or None
        out["interval"] = None if row["low"] is None else [row["low"], row["high"]]
        forecasts = self.status[i].forecasts
        out["quantiles"] = {f"{q:g}": float(v) for q, v in zip(QUANTILES, self._table[3:, i], strict=True)} if forecasts else None
        weights = {m: round(float(w), 4) for m, w in zip(self.members, self.weights[i], strict=True) if w >= 5e-5}
        out["weights"] = weights if forecasts else None
        result: dict[str, Any] = plain(out)
        return result

    def plot(self, ax: Axes | None = None) -> Axes:
        """Seen curves and forecasts, drawn on `ax` (a new figure when None)."""
        from farfield.curves.plot import plot_forecast

        return plot_forecast(self, ax)


def seen_estimate(y: FloatArray, estimate: str, metric: Metric) -> float:
    """The asked estimate from the values already logged, (n,) of one run; NaN when there are none."""
    if y.size == 0:
        return math.nan
    if estimate == "best":
        return float(y.min() if metric.goal == "min" else y.max())
    if estimate.startswith("mean:"):
        return float(y[-int(estimate[5:]) :].mean())
    return float(y[-1])
