"""Distributions that the tests of predictive distributions share."""

from __future__ import annotations

from typing import Any

import numpy as np

from farfield.predictive import Mixture

INF = np.inf


def mixture(
    df: Any = INF, lower: Any = -INF, upper: Any = INF, shape: tuple[int, ...] = (4, 2), k: int = 5, seed: int = 0
) -> Mixture:
    """A batch of mixtures whose first component has no weight."""
    rng = np.random.default_rng(seed)
    weights = rng.random((*shape, k))
    weights[..., 0] = 0.0
    return Mixture(weights, rng.normal(size=(*shape, k)), np.exp(rng.normal(size=(*shape, k))), df, lower, upper)
