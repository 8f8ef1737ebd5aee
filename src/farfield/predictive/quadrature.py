"""Adaptive Clenshaw-Curtis quadrature of many one-dimensional monotone functions at once.

Every integral keeps a list of panels; in each round all open panels of all integrals are evaluated together, those whose 17- and
9-point sums agree are settled, the others are halved. The points include a panel's ends, so that a step of a monotone function
between two points is always seen by one panel or the other. Rule: Clenshaw & Curtis 1960.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from farfield.predictive.base import FloatArray, IntArray


def clenshaw_curtis(n: int) -> tuple[FloatArray, FloatArray]:
    """Nodes cos(pi j / n) in rising order and their weights on [-1, 1], n + 1 of each, n even."""
    angle = np.pi * np.arange(n + 1) / n
    k = np.arange(1, n // 2 + 1)
    factor = np.where(k == n // 2, 1.0, 2.0) / (4.0 * k**2 - 1)
    weights = 2.0 / n * (1 - (factor * np.cos(2 * k * angle[:, None])).sum(axis=1))
    weights[[0, -1]] /= 2
    return -np.cos(angle), weights


NODES, WEIGHTS = clenshaw_curtis(16)
COARSE_WEIGHTS = np.zeros_like(WEIGHTS)
COARSE_WEIGHTS[::2] = clenshaw_curtis(8)[1]


def integrate(
    function: Callable[[IntArray, FloatArray], FloatArray],
    low: FloatArray,
    high: FloatArray,
    tolerance: FloatArray,
    panels: int = 3,
    depth: int = 48,
) -> FloatArray:
    """Integrals of ``function(i, v)`` over [low_i, high_i] for all i, as (n,).

    Parameters
    ----------
    function : (m,) indices and (m, 17) nodes -> (m, 17) values
    low, high : (n,) finite ends
    tolerance : (n,) a panel is settled when its two sums differ by no more
    panels : equal panels to begin with
    depth : halvings after which a panel is settled as it is
    """
    out = np.zeros(low.shape)
    index = np.repeat(np.flatnonzero(high > low), panels)
    step = np.tile(np.arange(panels), index.size // panels)
    width = (high - low)[index] / panels
    start = low[index] + step * width
    for level in range(depth + 1):
        if not index.size:
            break
        values = function(index, (start + 0.5 * width)[:, None] + 0.5 * width[:, None] * NODES)
        fine = 0.5 * width * (values * WEIGHTS).sum(axis=1)
        coarse = 0.5 * width * (values * COARSE_WEIGHTS).sum(axis=1)
        again = (np.abs(fine - coarse) > tolerance[index]) & (level < depth)
        out += np.bincount(index[~again], fine[~again], minlength=out.size)
        index, start, width = np.repeat(index[again], 2), np.repeat(start[again], 2), np.repeat(width[again] / 2, 2)
        start[1::2] += width[1::2]
    return out
