"""`ForecastStopper`: stops Ray Tune trials whose forecast will not beat the best.

    tune.RunConfig(stop=ForecastStopper("val_loss", mode="min", last_step=100))

It sees every result of every trial and judges each trial against all. A trial that reaches `last_step` has ended and is stopped
too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from farfield.errors import InputError
from farfield.hooks.monitor import RunAdvice, RunMonitor

try:
    from ray.tune import Stopper
except ImportError:
    raise ImportError("farfield.hooks.ray needs Ray Tune, which is not installed; run: pip install 'ray[tune]'") from None


class ForecastStopper(Stopper):  # type: ignore[misc]
    """Stops a trial when its forecast says that it will not end best.

    Parameters
    ----------
    metric, mode : as in Ray's ``TuneConfig``
    last_step : value of `time_attr` at which a trial has ended
    time_attr : the entry of a result that counts its steps
    settings : of `farfield.hooks.RunMonitor`

    Raises InputError for a mode that is neither ``min`` nor ``max``. Attribute ``advice``: trial id -> the advice given last.
    """

    def __init__(
        self, metric: str, *, mode: Literal["min", "max"], last_step: float, time_attr: str = "training_iteration", **settings: Any
    ) -> None:
        if mode not in ("min", "max"):
            raise InputError(f"mode is {mode!r}; allowed: 'min', 'max'")
        self.metric, self.time_attr = metric, time_attr
        self.advice: dict[str, RunAdvice] = {}
        self._monitor = RunMonitor(last_step, metric=metric, goal=mode, x_name=time_attr, **settings)

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether to stop the trial after this result; a result without the metric never stops one."""
        if self.metric not in result or self.time_attr not in result:
            return False
        advice = self.advice[trial_id] = self._monitor.report(result[self.time_attr], result[self.metric], run=trial_id)
        if not advice.stop and (result.get("done") or result[self.time_attr] >= self._monitor.last_step):
            self._monitor.end(trial_id)
            return True
        return advice.stop

    def stop_all(self) -> bool:
        """Never: one trial's forecast says nothing about the experiment."""
        return False
