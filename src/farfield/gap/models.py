"""Models as they come: copied, fitted on some rows, asked about others; whatever goes wrong is said with the model's name."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.errors import InputError
from farfield.gap.scores import Score, Seen
from farfield.splits.rows import IntArray, take_rows


def fit(estimator: Any, X: Any, y: NDArray[Any], rows: IntArray, score: Score, where: str) -> tuple[Any, Seen]:
    target = y[rows]
    if hasattr(estimator, "fit"):
        model = copied(estimator)
        try:
            fitted = model.fit(take_rows(X, rows), target)
        except Exception as error:
            raise InputError(f"model {where}: fit failed with {type(error).__name__}: {_first_line(error)}") from error
        model = model if fitted is None else fitted
    else:
        model = estimator
    classes = np.asarray(getattr(model, "classes_", np.unique(target))) if score.needs == "proba" else np.empty(0)
    if score.numeric:
        return model, Seen(float(target.mean()), float(target.var()), classes)
    return model, Seen(np.nan, np.nan, classes)


def answer(model: Any, X: Any, rows: IntArray, score: Score, where: str) -> NDArray[Any]:
    call = getattr(model, "predict_proba" if score.needs == "proba" else "predict", None)
    if call is None:
        if score.needs == "predict":
            raise InputError(f"model {where} has no predict, which {score.name} needs")
        raise InputError(
            f"model {where} has no predict_proba, which {score.label} needs; use accuracy for a classifier without, mae, rmse or r2"
            " for a model of numbers"
        )
    try:
        answers = np.asarray(call(take_rows(X, rows)))
    except Exception as error:
        raise InputError(f"model {where}: predict failed with {type(error).__name__}: {_first_line(error)}") from error
    if answers.ndim == 2 and answers.shape[1] == 1:
        answers = answers[:, 0]
    if answers.shape[:1] != (rows.size,):
        raise InputError(f"model {where} gave answers of shape {answers.shape} for {rows.size} rows")
    if answers.dtype.kind in "fc":
        bad = ~np.isfinite(answers)
        if bad.any():
            raise InputError(f"model {where} predicted {int(bad.sum())} values that are NaN or infinite, of {answers.size}")
    elif score.numeric and answers.dtype.kind not in "biu":
        raise InputError(f"model {where} predicted {answers.dtype} values; {score.name} needs numbers")
    return answers


def copied(estimator: Any) -> Any:
    if hasattr(estimator, "get_params") and "sklearn" in sys.modules:
        from sklearn.base import clone

        return clone(estimator, safe=False)
    return copy.deepcopy(estimator)


def name_of(estimator: Any) -> str:
    steps = getattr(estimator, "steps", None)
    return type(steps[-1][1] if steps else estimator).__name__


def selection_of(estimator: Any) -> str:
    if hasattr(estimator, "cv") and hasattr(estimator, "refit"):
        return "inside: the model's own search, on training rows alone"
    return "none"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["(no message)"])[0]
