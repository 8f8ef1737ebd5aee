"""Should this run go on? Asked at every report, answered by a forecast when the run has grown enough since the last one.

`RunMonitor` collects what a training loop reports and asks `farfield.Adviser`; the hooks of the libraries are a few lines around
it. A run can only be judged against others: runs that ended before (`others`), or runs that report to the same monitor. Without
any the forecast is uncalibrated and the advice is to go on.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from farfield import checks
from farfield.curves.data import STATUSES, Curves, Goal, Metric
from farfield.curves.readers import names, read_runs
from farfield.curves.stopping import Adviser, StopStatus
from farfield.errors import InputError, short

GROWTH = 0.05


@dataclass(frozen=True)
class RunAdvice:
    """What a forecast says about going on with one run.

    Attributes
    ----------
    run, x : which run, judged at which x
    stop : whether to stop it
    status : the case (`farfield.StopStatus`)
    why : the reason, one line
    p_beats_best : P(it beats the best value so far) at the most favourable step to come; NaN where it was not forecast
    forecast : median forecast of its end, NaN where there is none
    """

    run: str
    x: float
    stop: bool
    status: StopStatus
    why: str
    p_beats_best: float
    forecast: float


class Judge:
    """An adviser that is asked about one run at a time and not more often than its growth deserves.

    Parameters
    ----------
    growth : by which share of its x a run must have grown before it is forecast again; 0 for every time
    settings : of `farfield.Adviser`
    """

    def __init__(self, *, growth: float = GROWTH, **settings: Any) -> None:
        self.growth = float(checks.finite("growth", growth, ndim=0))
        if self.growth < 0:
            raise InputError(f"growth is {growth}; allowed: 0 or more, e.g. 0.05")
        self._adviser = Adviser(**settings)
        self._last: dict[str, RunAdvice] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:  # a lock is of this process
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def standing(self, run: str, x: float) -> RunAdvice | None:
        """The advice that still stands for a run at `x`, None if it is due to be judged."""
        last = self._last.get(run)
        return last if last is not None and last.x <= x < last.x + self.growth * abs(last.x) else None

    def __call__(self, curves: Curves, run: str) -> RunAdvice:
        """Judge one of the runs of `curves`."""
        with self._lock:
            advice = self._adviser.update(curves)
        i = curves.runs.index(run)
        found = RunAdvice(
            run, float(curves.last_x[i]), bool(advice.stop[i]), advice.status[i], advice.why[i], float(advice.p_beats_best[i]),
            float(advice.median[i]),
        )  # fmt: skip
        self._last[run] = found
        return found


class RunMonitor:
    """Collects what runs report and says whether to go on with them.

    Parameters
    ----------
    last_step : the step at which a run reports for the last time if it is not stopped
    metric : its name; where that says which way is better, `goal` may be left out
    goal : ``min`` or ``max``
    others : runs that went before: `Curves`, or anything that `farfield.read_runs` reads
    x_name : what the steps count
    config : settings of every run, from which a learning-rate schedule is read (``lr_scheduler_type``, ``warmup_steps``, ...)
    growth : as of `Judge`
    settings : of `farfield.Adviser` (``rule``, ``threshold``, ``risk``, ``despite``, ``lr_schedule``, ...)

    Raises InputError for a `last_step` that is not a number, a goal that is not known, and as `farfield.read_runs`.
    """

    def __init__(
        self, last_step: float, *, metric: str = "loss", goal: Goal | None = None, others: Any = None, x_name: str = "step",
        config: Mapping[str, Any] | None = None, growth: float = GROWTH, **settings: Any,
    ) -> None:  # fmt: skip
        self.last_step = float(checks.finite("last_step", last_step, ndim=0))
        found = goal or names.goal(metric)
        if found is None:
            raise InputError(f"whether less or more of {metric!r} is better is not known; give goal='min' or goal='max'")
        self.metric = Metric(metric, found)
        self.x_name = x_name
        self._others = _read(others, self.metric, x_name)
        self._config = {f"config.{key}": value for key, value in (config or {}).items() if _plain(value)}
        self._judge = Judge(growth=growth, **settings)
        self._points: dict[str, dict[float, tuple[float, float]]] = {}
        self._status: dict[str, str] = {}

    def report(self, step: float, value: float, *, run: str = "this run", lr: float | None = None) -> RunAdvice:
        """What to do after the run logged `value` at `step`; `lr` is its learning rate there.

        Raises InputError for a step that is not finite. A value that is not finite has diverged.
        """
        x = float(checks.finite("step", step, ndim=0))
        try:
            y = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            raise InputError(f"value is {short(value)}; allowed: a number, as it is logged") from None
        points = self._points.setdefault(run, {})
        points[x] = (y, np.nan if lr is None else float(lr))
        self._status[run] = "running" if np.isfinite(y) else "diverged"
        standing = self._judge.standing(run, x)
        if standing is not None and np.isfinite(y):
            return standing
        if not np.isfinite(y):
            return RunAdvice(run, x, True, StopStatus.DIVERGED, f"{self.metric.name} is {y}", np.nan, np.nan)
        advice = self._judge(self.curves(), run)
        if advice.stop:
            self._status[run] = "pruned"
        return advice

    def end(self, run: str = "this run", status: str = "finished") -> None:
        """Say that a run has ended (``finished``, ``killed``, ...), so that later ones are measured by it."""
        self._status[run] = checks.choice("status", status, STATUSES)

    def curves(self) -> Curves:
        """Everything known: the runs that reported, then the others."""
        rows = [(run, x, y, lr) for run, points in self._points.items() for x, (y, lr) in points.items()]
        run, x, y, lr = zip(*rows, strict=True) if rows else ((), (), (), ())
        attributes = [
            {"run": name, "status": self._status[name], "planned_end": self.last_step, **self._config} for name in self._points
        ]
        logged = bool(np.isfinite(np.array(lr, dtype=np.float64)).any())
        own = Curves.from_points(
            run, x, y, covariates={"lr": lr} if logged else None, attributes=attributes, metric=self.metric, x_name=self.x_name
        )
        return own if self._others is None else own.concat(self._others)


def _read(others: Any, metric: Metric, x_name: str) -> Curves | None:
    if others is None:
        return None
    curves = others if isinstance(others, Curves) else read_runs(others, metric=metric.name, goal=metric.goal)
    if (curves.x_name, curves.metric.goal) != (x_name, metric.goal):
        raise InputError(
            f"the others are by {curves.x_name} with goal {curves.metric.goal}, this run by {x_name} with goal {metric.goal}; "
            "they must be the same"
        )
    return curves


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)
