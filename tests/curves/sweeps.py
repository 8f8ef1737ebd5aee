"""Simulated sweeps: runs along lines of equal compute, with losses from a known law."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def design(budgets: int = 7, sizes: int = 7, least: float = 1e18, decades: float = 3.0) -> FloatArray:
    """(n, 2) params and tokens: `sizes` sizes about the optimum for each of `budgets` budgets."""
    flops = least * 10 ** np.linspace(0, decades, budgets)
    params = 0.09 * np.sqrt(flops)[:, None] * 2.0 ** np.linspace(-2, 2, sizes)
    return np.stack([params, flops[:, None] / 6 / params], axis=-1).reshape(-1, 2)


def chinchilla(x: FloatArray) -> FloatArray:
    t = TRUTH
    return np.asarray(t["E"] + t["A"] * x[:, 0] ** -t["alpha"] + t["B"] * x[:, 1] ** -t["beta"])


def noisy(x: FloatArray, rng: np.random.Generator, scatter: float = 0.004) -> FloatArray:
    return np.asarray(chinchilla(x) * np.exp(rng.normal(0, scatter, len(x))))
