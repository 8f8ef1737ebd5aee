"""`ForecastCallback` for the Hugging Face Trainer: ends training when the run will not beat the runs before it.

    Trainer(..., callbacks=[ForecastCallback(others="earlier-runs/")])

Judged after every evaluation, by steps; the schedule of the learning rate is taken from the training arguments, so that a decay
still to come is not mistaken for a plateau.
"""

from __future__ import annotations

import logging
from typing import Any

from farfield.errors import InputError, MissingExtraError
from farfield.hooks.monitor import RunAdvice, RunMonitor

try:
    from transformers import TrainerCallback
except ImportError:
    raise MissingExtraError("transformers", "farfield.hooks.transformers") from None

_LOG = logging.getLogger("farfield")


class ForecastCallback(TrainerCallback):  # type: ignore[misc]
    """Ends training when its forecast says that it will not end best.

    Parameters
    ----------
    metric : of the evaluation; None for the arguments' ``metric_for_best_model``, or ``eval_loss``
    goal : ``min`` or ``max``; None for the arguments' ``greater_is_better``, or what the name says
    others, settings : of `farfield.hooks.RunMonitor`

    Attribute ``advice``: the advice given last, None before the first evaluation.
    """

    def __init__(self, metric: str | None = None, *, goal: Any = None, others: Any = None, **settings: Any) -> None:
        self.metric, self.goal, self.others, self.settings = metric, goal, others, settings
        self.advice: RunAdvice | None = None
        self._monitor: RunMonitor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to watch a run of `state.max_steps` steps."""
        metric = self.metric or args.metric_for_best_model or "loss"
        self.metric = metric if metric.startswith("eval_") else f"eval_{metric}"
        goal = self.goal
        if goal is None and args.greater_is_better is not None and args.metric_for_best_model is not None:
            goal = "max" if args.greater_is_better else "min"
        kind = args.lr_scheduler_type
        config = {
            "lr_scheduler_type": getattr(kind, "value", str(kind)),
            "warmup_steps": args.get_warmup_steps(state.max_steps),
            "max_steps": state.max_steps,
            "learning_rate": args.learning_rate,
        }
        self.advice = None
        self._monitor = RunMonitor(
            state.max_steps, metric=self.metric, goal=goal, others=self.others, config=config, **self.settings
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> Any:
        """Judge the run by its evaluation; end training if it is to stop.

        Raises InputError where the evaluation has no such metric.
        """
        if self._monitor is None or self.metric is None or state.global_step >= state.max_steps:
            return control
        if self.metric not in (metrics or {}):
            raise InputError(f"the evaluation has no {self.metric!r}; it has: {', '.join(metrics or {}) or 'nothing'}")
        self.advice = self._monitor.report(state.global_step, metrics[self.metric])
        if self.advice.stop:
            _LOG.info("training ends at step %d: %s", state.global_step, self.advice.why)
            control.should_training_stop = True
        return control
