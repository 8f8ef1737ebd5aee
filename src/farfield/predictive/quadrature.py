"""Adaptive Clenshaw-Curtis quadrature of many one-dimensional monotone functions at once.

Every integral keeps a list of panels; in each round all open panels of all integrals are evaluated together, those that their
Chebyshev interpolant has resolved are settled, the others are halved. Resolved means that the last five coefficients are all
small: one small difference between two rules can be luck, which among millions of panels does happen. The nodes include a panel's
ends, so that a step of a monotone function between two nodes is always seen by one panel or the other.

Sources: Clenshaw & Curtis 1960; on why a single difference is not to be trusted, Gonnet 2010.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from farfield.predictive.base import FloatArray, IntArray

ORDER = 16
_LAST = 5  # coefficients that must be small


def clenshaw_curtis(n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """For even n: nodes cos(pi j / n) on [-1, 1] in rising order, their weights, and the (n + 1, n + 1) matrix from values at the
    nodes to the Chebyshev coefficients of the interpolant."""
    angle = np.pi * np.arange(n, -1, -1) / n
    halved = np.where(np.isin(np.arange(n + 1), (0, n)), 0.5, 1.0)
    coefficients = 2.0 / n * halved[:, None] * np.cos(np.arange(n + 1)[:, None] * angle) * halved
    even = np.arange(0, n + 1, 2)  # the integral of T_k is 2 / (1 - k^2) for even k, 0 for odd
    return np.cos(angle), (2.0 / (1 - even**2)) @ coefficients[even], coefficients


NODES, WEIGHTS, COEFFICIENTS = clenshaw_curtis(ORDER)


def integrate(
    function: Callable[[IntArray, FloatArray], FloatArray],
    low: FloatArray,
    high: FloatArray,
    tolerance: FloatArray,
    panels: int = 2,
    depth: int = 48,
) -> FloatArray:
    """Integrals of ``function(i, v)`` over [low_i, high_i] for all i, as (n,).

    Parameters
    ----------
    function : (m,) indices and (m, 17) nodes -> (m, 17) values
    low, high : (n,) finite ends
    tolerance : (n,) a panel is settled when half its width times the last coefficients is no more; the error of a smooth panel is
        then far smaller, that of a step not much larger
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
        half = 0.5 * width
        values = function(index, (start + half)[:, None] + half[:, None] * NODES)
        last = np.abs((values[:, None, :] * COEFFICIENTS[-_LAST:]).sum(axis=2)).max(axis=1)
        again = (half * last > tolerance[index]) & (level < depth)
        out += np.bincount(index[~again], (half * (values * WEIGHTS).sum(axis=1))[~again], minlength=out.size)
        index, start, width = np.repeat(index[again], 2), np.repeat(start[again], 2), np.repeat(half[again], 2)
        start[1::2] += width[1::2]
    return out
