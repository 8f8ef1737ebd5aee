"""Adaptive Gauss-Kronrod quadrature of many one-dimensional integrals at once.

Every integral keeps a list of panels; in each round all open panels of all integrals are evaluated together, those whose 7-point
Gauss and 15-point Kronrod sums agree are settled, the others are halved. The rule is that of QUADPACK (Piessens et al. 1983),
the work list replaces its loop over intervals.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from farfield.predictive.base import FloatArray, IntArray

_X = [
    0.991455371120812639206854697526329,
    0.949107912342758524526189684047851,
    0.864864423359769072789712788640926,
    0.741531185599394439863864773280788,
    0.586087235467691130294144691693013,
    0.405845151377397166906606412076961,
    0.207784955007898467600689403773245,
]
_KRONROD = [
    0.022935322010529224963732008058970,
    0.063092092629978553290700663189204,
    0.104790010322250183839876322541518,
    0.140653259715525918745189590510238,
    0.169004726639267902826583426598550,
    0.190350578064785409913256402421014,
    0.204432940075298892414161999234649,
]
_GAUSS = [0.129484966168869693270611432679082, 0.279705391489276667901467771423780, 0.381830050505118944950369775488975]
NODES = np.array([-x for x in _X] + [0.0] + _X[::-1])
WEIGHTS = np.array([*_KRONROD, 0.209482141084727828012999174891714, *_KRONROD[::-1]])
_half = [0.0, _GAUSS[0], 0.0, _GAUSS[1], 0.0, _GAUSS[2], 0.0]
GAUSS_WEIGHTS = np.array([*_half, 0.417959183673469387755102040816327, *_half[::-1]])


def integrate(
    function: Callable[[IntArray, FloatArray], FloatArray],
    low: FloatArray,
    high: FloatArray,
    tolerance: FloatArray,
    panels: int = 4,
    depth: int = 48,
) -> FloatArray:
    """Integrals of ``function(i, v)`` over [low_i, high_i] for all i, as (n,).

    Parameters
    ----------
    function : (m,) indices and (m, 15) nodes -> (m, 15) values
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
        kronrod = 0.5 * width * np.einsum("ij,j->i", values, WEIGHTS)
        gauss = 0.5 * width * np.einsum("ij,j->i", values, GAUSS_WEIGHTS)
        again = (np.abs(kronrod - gauss) > tolerance[index]) & (level < depth)
        out += np.bincount(index[~again], kronrod[~again], minlength=out.size)
        index, start, width = np.repeat(index[again], 2), np.repeat(start[again], 2), np.repeat(width[again] / 2, 2)
        start[1::2] += width[1::2]
    return out
