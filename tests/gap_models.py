"""Models and data small enough to know what their gap is."""

from __future__ import annotations

from typing import Any

import numpy as np


class Mean:
    """Predicts the mean of the target it was fitted on."""

    def fit(self, X: Any, y: Any) -> Mean:
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.mean_)


class Line:
    """Least squares on the columns and a constant."""

    def fit(self, X: Any, y: Any) -> Line:
        self.w_ = np.linalg.lstsq(np.c_[X, np.ones(len(X))], y, rcond=None)[0]
        return self

    def predict(self, X: Any) -> Any:
        return np.c_[X, np.ones(len(X))] @ self.w_


class Fixed:
    """A model without fit."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.value)


class Coin(Mean):
    """Two classes, chance by the first column."""

    classes_ = np.array([0, 1])

    def predict_proba(self, X: Any) -> Any:
        p = 1 / (1 + np.exp(-X[:, 0]))
        return np.c_[1 - p, p]

    def predict(self, X: Any) -> Any:
        return (X[:, 0] > 0).astype(int)


def data(n: int = 300, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 1, size=(n, 2))
    return X, 3 * X[:, 0] ** 2 + X[:, 1] + rng.normal(0, 0.1, size=n)
