"""Method ``context``: forecasts by the context network, each run with the other runs as far as they are known.

A forecaster like the others, but that no error law corrects or widens what comes out: other runs are read by the network itself.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from farfield import checks
from farfield.curves.analogues import LEAST_RUNS
from farfield.curves.data import Curves, FloatArray, IntArray
from farfield.curves.ensemble import NETWORK
from farfield.curves.forecaster import EnsembleForecaster, Look, Predicted
from farfield.curves.normalised import Normalised
from farfield.curves.pfn.context import ContextPFN
from farfield.curves.pfn.context_answers import Answers
from farfield.errors import InputError
from farfield.predictive import Mixture, Predictive


class ContextForecaster(EnsembleForecaster):
    """Forecasts of the context network; `fit` takes the other runs.

    Raises InputError for settings that no network was trained for: estimates other than ``final``, the ``latent`` target.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__((NETWORK,), **settings)
        if self.estimate != "final" or self.target != "logged":
            raise InputError(
                f"method 'context' with estimate {self.estimate!r} and target {self.target!r}; allowed: 'final' and 'logged', "
                "which are what its network was trained on; method 'auto' knows the others"
            )
        if self.censoring != "ignore":
            raise InputError("method 'context' cannot weigh runs that were stopped; for advice on stopping use 'auto' or 'forms'")
        self.network = ContextPFN.load(double=True)
        # the folds of a backtest ask the same of the same runs
        self._answers = Answers(self.network.first.engine)
        self._announced: Look | None = None

    def __repr__(self) -> str:
        known = "not fitted" if self._context is None else f"{len(self._context)} runs of context"
        return f"ContextForecaster({self.network.name!r}, {known})"

    def predict(self, curves: Curves, at: ArrayLike) -> Normalised:  # type: ignore[override]
        """Predictive distributions at `at`, (n_at,) or (n_runs, n_at), as (n_runs, n_at); errors as in `ContextPFN.forecast`."""
        return self.network.forecast(curves, checks.finite("at", at), self._known, self._answers)

    def predict_path(self, curves: Curves, end: FloatArray, shares: FloatArray) -> Predicted:
        self._check(curves, end)
        look = self.look(curves, end, shares)
        others = np.full(len(curves), len(self._known)) - np.isin(curves.runs, self._known.runs)
        # a position that rounding moves onto the last seen point is asked just beyond it
        beyond = np.maximum(look.at, np.nextafter(curves.last_x, np.inf)[:, None])
        # not a mixture, but what is read of it, quantiles and probabilities, every predictive has
        found = cast(Mixture, self.network.forecast(curves, beyond, self._known, self._answers))
        return Predicted(
            look.at, found, look.outlook, others >= LEAST_RUNS, others, others, look.fall, "read by the network, itself left out"
        )  # fmt: skip

    def held_out(self, cut: Curves, look: Look, test: IntArray, train: IntArray) -> Predictive:
        """Forecasts (n,) of runs `test` of `cut` at the last positions looked at, with the whole of runs `train` as context."""
        known = self._known
        if self._announced is not look:
            # the folds that follow will ask about the same runs
            self.network.announce(cut, look.at[:, -1:], known, self._answers)
            self._announced = look
        index = {name: i for i, name in enumerate(known.runs)}
        others = known.take([index[cut.runs[i]] for i in train])
        return self.network.forecast(cut.take(test), look.at[test, -1:], others, self._answers)[:, 0]

    @property
    def _known(self) -> Curves:
        if self._context is None:
            raise InputError("no other runs were given; call fit(curves) first")
        return self._context
