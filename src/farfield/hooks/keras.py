"""`ForecastCallback` for Keras: ends training when the run will not beat the runs before it.

    model.fit(..., epochs=100, callbacks=[ForecastCallback("val_loss", others="earlier.csv")])

Judged after every epoch, counted from 0 as Keras and its CSVLogger do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from farfield.errors import InputError
from farfield.hooks.monitor import RunAdvice, RunMonitor

try:
    from keras.callbacks import Callback
except ImportError:
    raise ImportError("farfield.hooks.keras needs Keras, which is not installed; run: pip install keras") from None

_LOG = logging.getLogger("farfield")


class ForecastCallback(Callback):  # type: ignore[misc]
    """Ends training when its forecast says that it will not end best.

    Parameters
    ----------
    monitor : an entry of the epoch's logs
    mode : ``min`` or ``max``; None for what the name says
    others, settings : of `farfield.hooks.RunMonitor`

    Attribute ``advice``: the advice given last. Raises InputError where the logs have no such entry.
    """

    def __init__(self, monitor: str = "val_loss", *, mode: Any = None, others: Any = None, **settings: Any) -> None:
        super().__init__()
        self.monitor, self.mode, self.others, self.settings = monitor, mode, others, settings
        self.advice: RunAdvice | None = None
        self._run: RunMonitor | None = None

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Begin to watch a run of ``epochs`` epochs."""
        self.advice = None
        last = self.params["epochs"] - 1
        self._run = RunMonitor(last, metric=self.monitor, goal=self.mode, others=self.others, x_name="epoch", **self.settings)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Judge the run by its epoch; end training if it is to stop."""
        assert self._run is not None
        if self.monitor not in (logs or {}):
            raise InputError(f"{self.monitor!r} is not in the logs; they have: {', '.join(logs or {}) or 'nothing'}")
        assert logs is not None
        self.advice = self._run.report(epoch, float(logs[self.monitor]))
        if self.advice.stop:
            _LOG.info("training ends at epoch %d: %s", epoch, self.advice.why)
            self.model.stop_training = True
