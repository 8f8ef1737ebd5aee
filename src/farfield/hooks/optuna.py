"""`ForecastPruner`: an Optuna pruner that stops trials whose forecast will not beat the best.

    study = optuna.create_study(pruner=ForecastPruner(last_step=99))

Every trial of the study counts: complete ones as seen to their end, pruned ones as censored (they say nothing of their end), failed
ones as killed. A trial is judged again when its step has grown by `growth`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from farfield.curves.data import Curves, Goal, Metric
from farfield.errors import InputError, MissingExtraError
from farfield.hooks.monitor import GROWTH, Judge

try:
    from optuna.pruners import BasePruner
    from optuna.study import StudyDirection
    from optuna.trial import TrialState
except ImportError:
    raise MissingExtraError("hpo", "farfield.hooks.optuna") from None

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_STATUS = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "killed",
    TrialState.RUNNING: "running",
}


class ForecastPruner(BasePruner):  # type: ignore[misc]
    """Prunes a trial when its forecast says that it will not end best.

    Parameters
    ----------
    last_step : the step at which a trial reports for the last time, e.g. ``n_epochs - 1``
    warmup_steps : no trial is pruned before this step
    growth : by which share of its step a trial must have grown before it is forecast again
    settings : of `farfield.Adviser` (``rule``, ``threshold``, ``risk``, ``despite``, ...)

    Raises InputError for a number out of range, and for a study of several objectives.
    """

    def __init__(self, last_step: float, *, warmup_steps: float = 0, growth: float = GROWTH, **settings: Any) -> None:
        self.last_step, self.warmup_steps = last_step, warmup_steps
        self._judge = Judge(growth=growth, to=last_step, **settings)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial now."""
        step = trial.last_step
        if step is None or step < self.warmup_steps:
            return False
        if not math.isfinite(trial.intermediate_values[step]):  # diverged
            return True
        run = f"trial {trial.number}"
        standing = self._judge.standing(run, step)
        advice = standing or self._judge(curves_of(study, last_step=self.last_step, current=trial), run)
        if standing is None and advice.stop:
            _say(advice.run, advice.why)
        return advice.stop


def curves_of(study: Study, *, last_step: float | None = None, current: FrozenTrial | None = None) -> Curves:
    """The intermediate values of every trial of a study; `current` is the trial that asks, as it stands.

    Raises InputError for a study of several objectives: Optuna has no intermediate values there.
    """
    if len(study.directions) != 1:
        raise InputError(f"the study has {len(study.directions)} objectives; intermediate values are of one")
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False) if trial.state in _STATUS}
    if current is not None:
        trials[current.number] = current
    kept = [trial for _, trial in sorted(trials.items()) if trial.intermediate_values]
    rows = [(f"trial {trial.number}", step, value) for trial in kept for step, value in trial.intermediate_values.items()]
    run, x, y = zip(*rows, strict=True) if rows else ((), (), ())
    attributes = [
        {
            "run": f"trial {trial.number}",
            "status": _STATUS[trial.state],
            "planned_end": last_step,
            **{f"config.{name}": value for name, value in trial.params.items() if isinstance(value, str | int | float | bool)},
        }
        for trial in kept
    ]
    goal: Goal = "min" if study.direction == StudyDirection.MINIMIZE else "max"
    return Curves.from_points(run, x, y, attributes=attributes, metric=Metric("value", goal))


def _say(run: str, why: str) -> None:
    """Say in Optuna's log why a trial is pruned."""
    from optuna.logging import get_logger

    get_logger("farfield").info("%s pruned: %s", run, why)
