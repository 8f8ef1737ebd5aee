"""What advice on stopping hands back: which runs to stop, why, what it saves and what it risks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farfield.curves.data import Curves, FloatArray, IntArray
from farfield.curves.evidence import metric_dict
from farfield.curves.stopping.joint import Ends
from farfield.errors import InputError
from farfield.predictive import Mixture
from farfield.wording import count, number, percent, plain, position


class StopStatus(Enum):
    """What the advice on one run is; the value says it to the user. Only `STOP` and `DIVERGED` advise to stop."""

    STOP = "stop: going on is not worth its budget"
    CONTINUE = "continue: it may still end best"
    RISK = "continue: stopping it too would put the winner at risk"
    DECAY = "wait: a learning-rate decay is still to come that too few other runs went through"
    SCHEDULE = "wait: the learning-rate schedule is unknown and too few runs were seen to their end"
    UNCALIBRATED = "wait: the forecast is uncalibrated"
    TOO_SHORT = "wait: fewer than 3 points"
    NO_END = "wait: planned end unknown; give --to"
    DIVERGED = "stop: diverged"
    STOPPED = "was stopped before its end"
    ENDED = "has ended"

    @property
    def key(self) -> str:
        """The name in JSON and CSV, e.g. ``too_short``."""
        return self.name.lower()

    @property
    def stops(self) -> bool:
        """The advice is to stop the run."""
        return self in (StopStatus.STOP, StopStatus.DIVERGED)

    @property
    def live(self) -> bool:
        """The run is still to be decided on (a diverged one too: it may still be running)."""
        return self not in (StopStatus.STOPPED, StopStatus.ENDED)


@dataclass(frozen=True)
class Advice:
    """Which runs to stop.

    Attributes
    ----------
    curves : what was seen
    rule, threshold, risk : what decided (see `farfield.stop_advice`)
    status : (n_runs,) the advice on each run
    why : (n_runs,) its reason, one line
    p_beats_best : (n_runs,) the greatest, over the steps asked up to the run's end, of P(beats the best value seen so far); NaN
        where the run was not forecast
    p_best : (n_runs,) P(ends best), from joint draws, each run at its own end
    gain : (n_runs,) how much better the best value is expected to get for letting the run go on, in the metric's unit
    remaining : (n_runs,) x still to run; 0 for runs that ended, were stopped or have diverged
    at : (n_runs,) x where each run is to end, NaN where unknown
    median : (n_runs,) forecast there, what is known for runs that ended, NaN where nothing is
    calibrated : (n_runs,) whether the run's forecast is calibrated at its reach
    best : the best value seen so far in any run (or the one given), NaN without any
    p_lose_winner : probability that the run that would have ended best is among those stopped, now or before
    expected_regret : expected loss of the best value when the advice is followed, in the metric's unit
    price : gain per unit of x below which the regret rule stops; NaN for the other rule
    ends : the joint draws behind the probabilities, signed so that smaller is better
    final : (n_forecast, 1) distributions of the runs `forecast_index`
    warnings : what the reader must know, one line each
    """

    curves: Curves
    rule: str
    threshold: float
    risk: float
    status: tuple[StopStatus, ...]
    why: tuple[str, ...]
    p_beats_best: FloatArray
    p_best: FloatArray
    gain: FloatArray
    remaining: FloatArray
    at: FloatArray
    median: FloatArray
    calibrated: NDArray[np.bool_]
    best: float
    p_lose_winner: float
    expected_regret: float
    price: float
    ends: Ends
    final: Mixture | None
    forecast_index: IntArray
    warnings: tuple[str, ...] = ()

    @cached_property
    def stop(self) -> NDArray[np.bool_]:
        """(n_runs,) whether to stop each run."""
        return np.array([s.stops for s in self.status], dtype=bool)

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """(n_runs,) whether each run is still to be decided on."""
        return np.array([s.live for s in self.status], dtype=bool)

    @property
    def saves(self) -> float:
        """x that stopping saves, summed over runs."""
        return float(self.remaining[self.stop].sum())

    @property
    def total(self) -> float:
        """x that the runs still going would use, summed over runs."""
        return float(self.remaining.sum())

    def p_beats(self, value: float) -> FloatArray:
        """(n_runs,) P(the run's end is better than `value`); NaN where it was not forecast. Raises InputError for NaN."""
        if np.isnan(value):
            raise InputError("value is NaN; allowed: a number to beat")
        out = np.full(len(self.curves), np.nan)
        if self.final is not None:
            below = self.final.cdf(value)[:, 0]
            out[self.forecast_index] = below if self.curves.metric.goal == "min" else 1.0 - below
        return out

    def __repr__(self) -> str:
        return f"Advice({self.summary()})"

    def summary(self) -> str:
        """One line: how many runs to stop, what it saves, and the risk of losing the winner."""
        if not self.live.any():
            return "no run is still going: nothing to stop"
        n, unit = int(self.stop.sum()), plural(self.curves.x_name)
        what = f"stop {count(n, 'run')}" if n else f"stop none of {count(int(self.live.sum()), 'run')}"
        saved = f": saves {position(self.saves)} of {position(self.total)} {unit}" if n else ""
        return f"{what}{saved}, P(lose the winner) {percent(self.p_lose_winner)}"

    @cached_property
    def order(self) -> IntArray:
        """Run indices: those to stop first, then the ones still going, then the others; within each the best forecast first."""
        sign = 1.0 if self.curves.metric.goal == "min" else -1.0
        rank = np.where(self.stop, 0, np.where(self.live, 1, 2))
        return np.lexsort((np.nan_to_num(sign * self.median, nan=np.inf), rank)).astype(np.int64)

    def to_frame(self) -> pl.DataFrame:
        """One row a run in the order of `order`; null where there is no value."""
        frame = pl.DataFrame(
            {
                "run": pl.Series(self.curves.runs, dtype=pl.String),
                "stop": self.stop,
                "status": [s.key for s in self.status],
                "why": pl.Series(self.why, dtype=pl.String),
                "last_x": self.curves.last_x,
                "last": self.curves.last_y,
                "at": self.at,
                "forecast": self.median,
                "p_beats_best": self.p_beats_best,
                "p_best": self.p_best,
                "gain": self.gain,
                "remaining": self.remaining,
                "calibrated": self.calibrated,
            }
        )
        out: pl.DataFrame = frame.with_columns(pl.col(pl.Float64).fill_nan(None))[self.order.tolist()]
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; NaN and infinities become None."""
        out: dict[str, Any] = plain(
            {
                "schema": "farfield.advice/1",
                "metric": metric_dict(self.curves.metric),
                "x": self.curves.x_name,
                "rule": self.rule,
                "threshold": self.threshold,
                "risk": self.risk,
                "summary": self.summary(),
                "stops": int(self.stop.sum()),
                "saves": self.saves,
                "of": self.total,
                "p_lose_winner": self.p_lose_winner,
                "expected_regret": self.expected_regret,
                "best_so_far": self.best,
                "price": self.price,
                "runs": list(self.to_frame().iter_rows(named=True)),
                "warnings": list(self.warnings),
            }
        )
        return out


def plural(x_name: str) -> str:
    """What x counts, as a unit: ``epochs``, ``steps``, ``tokens``."""
    return x_name if x_name.endswith("s") or "_" in x_name else f"{x_name}s"


def reason(status: StopStatus, *, rule: str, p: float, p_best: float, rate: float, price: float, best: float, end: str) -> str:
    """The line that says why, in figures."""
    if status in (StopStatus.STOP, StopStatus.CONTINUE, StopStatus.RISK):
        if rule == "regret":
            how = "less" if rate < price else "no less"
            text = f"going on gains {number(rate, 2)} per unit, {how} than {number(price, 2)}; P(ends best) {percent(p_best)}"
        else:
            text = f"P(beats {number(best)} by {end}) at most {percent(p)}; P(ends best) {percent(p_best)}"
        return text + ("; kept for the risk of all stops together" if status is StopStatus.RISK else "")
    advice: str = status.value
    return advice.partition(": ")[2] or advice
