"""Distance of points to the convex hull of a cloud, exactly zero inside, without one linear programme a point.

For one point p and the cloud x_1 ... x_n, minimise |E u|^2 + (sum(u) - 1)^2 over u >= 0, the columns of E being x_i - p. With
u = t v, v in the simplex, the best t is 1 / (1 + |E v|^2) and the value |E v|^2 / (1 + |E v|^2), which rises with |E v|: the
minimiser is the nearest point of the hull. It is a nonnegative least squares problem, which Lawson and Hanson's active sets (1974,
chapter 23) solve in about as many steps as the nearest face has corners.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
_FEW = 4  # dimensions in which Qhull lists the facets at once
_INSIDE = 1e-18  # squared distance that is rounding, for a cloud of extent one


def hull_distance(points: FloatArray, cloud: FloatArray) -> FloatArray:
    """(m,) Euclidean distance of each of `points` (m, d) to the convex hull of `cloud` (n, d); 0 for those inside.

    Source: min-norm point as nonnegative least squares, Lawson & Hanson 1974, chapter 23.
    """
    from scipy.optimize import nnls

    low, high = cloud.min(axis=0), cloud.max(axis=0)
    scale = float(np.max(high - low)) or 1.0
    x, p = (cloud - low) / scale, (points - low) / scale
    out = np.zeros(p.shape[0])
    if x.shape[1] == 1:
        return np.asarray(np.maximum(np.maximum(low[0] - points[:, 0], points[:, 0] - high[0]), 0.0))
    corners, unsure = _corners(x, p)
    ones = np.ones((1, corners.shape[0]))
    target = np.zeros(x.shape[1] + 1)
    target[-1] = 1.0
    for i in unsure:
        system = np.concatenate([(corners - p[i]).T, ones])
        u, _ = nnls(system, target, maxiter=20 * system.shape[1])
        v = u / u.sum()
        squared = float(((v @ corners - p[i]) ** 2).sum())
        out[i] = np.sqrt(squared) * scale if squared > _INSIDE else 0.0
    return out


def _corners(x: FloatArray, p: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """The corners that matter, and the points not known to be inside: by the facets in few dimensions, all of both otherwise."""
    from scipy.spatial import ConvexHull, QhullError

    d = x.shape[1]
    everything = np.arange(p.shape[0])
    if d > _FEW or x.shape[0] <= d + 1:
        return x, everything
    try:
        hull = ConvexHull(x)
    except QhullError:  # a flat cloud has no facets
        return x, everything
    inside = (p @ hull.equations[:, :-1].T + hull.equations[:, -1] <= 1e-12).all(axis=1)
    return x[hull.vertices], everything[~inside]
