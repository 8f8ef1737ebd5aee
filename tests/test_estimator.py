"""Estimators in scikit-learn's hands: cloned, their parameters set, searched, and at the end of a pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import farfield
from farfield.curves.benchmarks import CapabilityFit
from farfield.curves.frontier import FrontierLaw
from farfield.errors import InputError
from farfield.estimator import Parameters
from farfield.shift.control import ControlFunctionRegressor
from farfield.shift.retrievers import BM25, LSA

pytestmark = pytest.mark.extra("sklearn")


def estimators() -> list[Parameters]:
    from sklearn.linear_model import LogisticRegression, Ridge

    return [
        farfield.ScalingLaw("kaplan", n_boot=7), farfield.LossToLoss(delta=0.1), FrontierLaw(cap=1, n_boot=3),
        farfield.MixtureScaling(bounds=(0, 2), blur=1), CapabilityFit("linear", chance=0.25, ceiling=1),
        farfield.DEUPRegressor(Ridge(alpha=2.0), folds=4), farfield.PairPredictor(LogisticRegression()),
        ControlFunctionRegressor(n_centres=5), farfield.InvariantSubset(eps=0.2), BM25(k1=1), LSA(),
        farfield.RangeSplit(0, n_repeats=2),
    ]  # fmt: skip


@pytest.mark.parametrize("i", range(12))
def test_a_clone_has_the_same_parameters(i: int) -> None:
    from sklearn.base import clone

    estimator = estimators()[i]
    copied = clone(estimator)  # type: ignore[no-untyped-call]
    assert copied is not estimator
    assert type(copied) is type(estimator)
    assert {k: repr(v) for k, v in copied.get_params().items()} == {k: repr(v) for k, v in estimator.get_params().items()}
    with pytest.raises(InputError, match="no_such_thing"):
        estimator.set_params(no_such_thing=1)


def test_parameters_of_an_estimator_within() -> None:
    deup: Any = estimators()[5]
    assert deup.get_params()["base__alpha"] == 2.0
    assert "base__alpha" not in deup.get_params(deep=False)
    assert deup.set_params(base__alpha=0.5, folds=3) is deup
    assert (deup.base.alpha, deup.folds) == (0.5, 3)
    with pytest.raises(InputError, match="folds__alpha"):
        deup.set_params(folds__alpha=1)


def test_a_regressor_in_a_pipeline_is_searched() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = X @ [1.0, -2.0] + 0.1 * rng.normal(size=60)
    pipe = make_pipeline(StandardScaler(), farfield.DEUPRegressor(Ridge(), folds=2, partitions=("random",), features=("x",)))
    grid = {"deupregressor__base__alpha": [1e-3, 1e4]}
    search = GridSearchCV(pipe, grid, scoring="neg_mean_squared_error", cv=2).fit(X, y)
    assert search.best_params_ == {"deupregressor__base__alpha": 1e-3}
    assert np.abs(search.predict(X) - y).max() < 1
