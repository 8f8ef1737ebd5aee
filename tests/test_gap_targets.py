"""Targets of every kind: numbers and classes in any dress are taken, what a score cannot be taken of is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from farfield.errors import InputError
from farfield.gap import extrapolation_gap
from farfield.splits import RangeSplit
from gap_models import Coin, Fixed, Line, data

WORDS = np.where(np.arange(300) % 2, "a", "b")


@pytest.mark.parametrize(
    ("target", "scoring", "message"),
    [
        (lambda y: np.where(y > 2, np.nan, y), "mae", "not finite"),
        (lambda y: np.where(y > 2, np.inf, y).astype(object), "r2", "not finite"),
        (lambda y: [None if v > 2 else v for v in y], "mae", "not finite"),
        (lambda y: [None] * y.size, "mae", "not finite"),
        (lambda y: [None] * y.size, "accuracy", "y is missing for 300 of 300 rows"),
        (lambda y: y[:3], "mae", r"y has shape \(3,\); allowed: \(300,\)"),
        (lambda y: np.c_[y, y], "mse", r"y has shape \(300, 2\); allowed: \(300,\), one target a row"),
        (lambda y: np.c_[WORDS, WORDS], "mae", r"y has shape \(300, 2\)"),
        (lambda y: [[1.0], *([[1.0, 2.0]] * 299)], "mae", "y is ragged"),
        (lambda y: WORDS, "mae", r"^y holds words, such as '[ab]', and MAE needs numbers; use accuracy, log_loss or auc$"),
        (lambda y: WORDS.astype(object), "rmse", "y holds words, such as 'b', and RMSE needs numbers"),
        (lambda y: WORDS.astype(bytes), "median", "y holds words"),
        (lambda y: [None, *WORDS[1:]], "mae", "y holds words, such as 'a'"),
        (lambda y: [None, *WORDS[1:]], "accuracy", "y is missing for 1 of 300 rows"),
        (
            lambda y: np.array([1.0, *WORDS[1:]], dtype=object),
            "mae",
            "y mixes words and numbers, such as 'a' and 1.0; make every row one or the other",
        ),
        (lambda y: np.array([1.0, *WORDS[1:]], dtype=object), "log_loss", "y mixes words and numbers"),
        (lambda y: y + 1j, "mae", "y holds complex numbers"),
        (lambda y: np.arange(300).astype("datetime64[D]"), "mae", "y holds dates, such as '1970-01-01', and MAE needs numbers"),
        (lambda y: np.arange(300).astype("timedelta64[D]"), "mae", "y holds spans of time"),
        (lambda y: np.round(y), "log_loss", "has no predict_proba, which log loss needs; use accuracy .* mae, rmse or r2"),
    ],
)
def test_targets_that_a_score_cannot_be_taken_of_are_refused(target: Any, scoring: str, message: str) -> None:
    X, y = data()
    with pytest.raises(InputError, match=message) as refused:
        extrapolation_gap(Line(), X, target(y), split=RangeSplit(0), scoring=scoring)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    ("target", "scoring"),
    [
        (lambda y: y.astype(object), "mae"),
        (lambda y: y[:, None], "r2"),
        (lambda y: y.tolist(), "mse"),
        (lambda y: y > 1, "mae"),
        (lambda y: np.round(y).astype(int), "rmse"),
    ],
)
def test_numbers_in_any_dress_are_numbers(target: Any, scoring: str) -> None:
    X, y = data()
    dressed = target(y)
    plain = np.asarray(dressed, dtype=float).ravel()
    split = RangeSplit(0, n_repeats=1, random_state=0)
    values = [extrapolation_gap(Line(), X, t, split=split, scoring=scoring, n_boot=100).gap for t in (dressed, plain)]
    assert values[0] == values[1]


@pytest.mark.parametrize(
    "dress", [lambda b: b.astype(object), lambda b: list(b), lambda b: b[:, None], lambda b: b.astype(int).astype(object)]
)
def test_classes_in_any_dress_are_classes(dress: Any) -> None:
    X, _ = data()
    b = X[:, 1] > 0.5
    split = RangeSplit(0, n_repeats=1, random_state=0)
    values = [extrapolation_gap(Coin(), X, t, split=split, scoring="log_loss", n_boot=100).gap for t in (dress(b), b)]
    assert values[0] == values[1]


@pytest.mark.parametrize("scoring", ["accuracy", "balanced_accuracy"])
def test_a_regressors_answers_are_not_compared_with_classes(scoring: str) -> None:
    X, y = data()
    with pytest.raises(InputError, match=r"accuracy compares answers with classes, and the model predicts numbers .* such as -?\d"):
        extrapolation_gap(Line(), X, np.round(y), split=RangeSplit(0), scoring=scoring)
    halves = np.round(2 * X[:, 1]) / 2  # classes may be fractions, and a model may miss them
    with pytest.warns(UserWarning, match="no fit"):
        assert extrapolation_gap(Fixed(0.5), X, halves, split=RangeSplit(0), scoring=scoring).inside.value > 0
