"""Stochastic gradient descent on a noisy quadratic: the simplest model in which a decaying rate changes where a curve ends.

Loss 0.5 * sum_i h_i w_i^2 with independent Gaussian gradient noise of variance s_i^2 in every direction. One step of rate eta turns
the second moment m_i = E[w_i^2] into (1 - eta h_i)^2 m_i + eta^2 s_i^2: the first factor forgets the start, the second is a floor
that falls with eta.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def expected_loss(lr: FloatArray, eigenvalues: FloatArray, start: FloatArray, noise: FloatArray) -> FloatArray:
    """(n_steps,) loss after each step, in expectation: `start` holds w_i^2, `noise` the variances s_i^2."""
    moment = start.copy()
    out = np.empty(lr.size)
    for k, eta in enumerate(lr):
        moment = (1 - eta * eigenvalues) ** 2 * moment + eta**2 * noise
        out[k] = 0.5 * eigenvalues @ moment
    return out


def sampled_loss(
    lr: FloatArray, eigenvalues: FloatArray, start: FloatArray, noise: FloatArray, rng: np.random.Generator, n_paths: int = 1
) -> FloatArray:
    """(n_steps, n_paths) losses along sampled paths of the same descent."""
    w = np.sqrt(start) * np.ones((n_paths, 1))
    out = np.empty((lr.size, n_paths))
    for k, eta in enumerate(lr):
        w = w - eta * (eigenvalues * w + np.sqrt(noise) * rng.normal(size=w.shape))
        out[k] = 0.5 * (w**2) @ eigenvalues
    return out


def power_law_problem(n: int = 200) -> dict[str, FloatArray]:
    """Eigenvalues that fall as a power: without noise the loss falls as a power of time, as learning curves do."""
    h = 1.0 / np.arange(1, n + 1) ** 1.5
    return {"eigenvalues": h, "start": np.ones(n), "noise": 4.0 * h}
