"""`ForecastCallback` for Lightning: ends training when the run will not beat the runs before it.

    Trainer(max_epochs=100, callbacks=[ForecastCallback("val_loss", others="earlier-runs/")])

Judged after every validation, by epochs where the trainer has a last epoch, else by steps.
"""

from __future__ import annotations

import logging
from typing import Any

from farfield.errors import InputError
from farfield.hooks.monitor import RunAdvice, RunMonitor

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        from pytorch_lightning.callbacks import Callback
    except ImportError:
        raise ImportError("farfield.hooks.lightning needs Lightning, which is not installed; run: pip install lightning") from None

_LOG = logging.getLogger("farfield")


class ForecastCallback(Callback):  # type: ignore[misc]
    """Ends training when its forecast says that it will not end best.

    Parameters
    ----------
    monitor : a metric that the module logs
    mode : ``min`` or ``max``; None for what the name says
    others, settings : of `farfield.hooks.RunMonitor`

    Attribute ``advice``: the advice given last. Raises InputError where the trainer knows neither a last epoch nor a last step.
    """

    def __init__(self, monitor: str = "val_loss", *, mode: Any = None, others: Any = None, **settings: Any) -> None:
        super().__init__()
        self.monitor, self.mode, self.others, self.settings = monitor, mode, others, settings
        self.advice: RunAdvice | None = None
        self._run: RunMonitor | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch."""
        by_epoch = trainer.max_epochs is not None and trainer.max_epochs > 0
        last = trainer.max_epochs - 1 if by_epoch else trainer.max_steps
        if last is None or last < 0:
            raise InputError("the trainer has no end; give it max_epochs or max_steps, so that there is something to forecast")
        self.advice = None
        self._run = RunMonitor(
            last, metric=self.monitor, goal=self.mode, others=self.others, x_name="epoch" if by_epoch else "step", **self.settings
        )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge the run by its validation; end training if it is to stop."""
        if self._run is None or trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            raise InputError(
                f"{self.monitor!r} was not logged; logged: {', '.join(map(str, trainer.callback_metrics)) or 'nothing'}"
            )
        step = trainer.current_epoch if self._run.x_name == "epoch" else trainer.global_step
        self.advice = self._run.report(step, float(trainer.callback_metrics[self.monitor]))
        if self.advice.stop:
            _LOG.info("training ends at %s %d: %s", self._run.x_name, step, self.advice.why)
            trainer.should_stop = True
