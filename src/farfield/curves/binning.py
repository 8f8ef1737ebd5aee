"""Long, noisy logs as short curves: means over bins of x that keep the shape and the level of the noise.

A fit needs some dozens of points, not a million. Bins are equally wide in sqrt(x): fine where a curve bends, coarse where
it is long. Each bin is one point at its mean x, with its mean y. What a logger will write scatters about that curve: the
scatter is measured once (`Binned.noise`) and goes back into forecasts of logged values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from farfield.curves.data import Curves, FloatArray
from farfield.curves.fit import Batch

# curves up to this many points are left as they are
MOST_POINTS = 96
_BINS = 64
# share of the last x below which points count as lying there: powers of smaller ones are no floats
_LEAST = 1e-30


@dataclass(frozen=True)
class Binned:
    """Curves ready to be fitted.

    batch : padded points, at most `MOST_POINTS` a curve
    noise : (n,) standard deviation of single logged values about the binned curve; 0 for curves that were not binned
    """

    batch: Batch
    noise: FloatArray


def binned(curves: Curves) -> Binned:
    """Bin the runs of `curves` that have more than `MOST_POINTS` points; every run needs at least one point."""
    lengths = curves.lengths
    width = int(np.where(lengths > MOST_POINTS, _BINS, lengths).max()) if len(curves) else 0
    x, y, w = (np.zeros((len(curves), width)) for _ in range(3))
    noise = np.zeros(len(curves))
    short = lengths <= MOST_POINTS
    if short.any():
        few = curves.take(short)
        px, py, seen = few.padded()
        rows = np.flatnonzero(short)[:, None]
        columns = np.arange(px.shape[1])[None]
        x[rows, columns], y[rows, columns], w[rows, columns] = np.nan_to_num(px), np.nan_to_num(py), seen
    for i in np.flatnonzero(~short):
        points = curves.points(int(i))
        bx, by, noise[i] = _bin(curves.x[points], curves.y[points])
        x[i, : bx.size], y[i, : bx.size], w[i, : bx.size] = bx, by, 1.0
    batch = Batch.from_padded(x, y, w)
    return Binned(replace(batch, x=np.maximum(batch.x, _LEAST * batch.last[:, None])), noise)


def _bin(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    place = np.sqrt((x - x[0]) / (x[-1] - x[0]))
    code = np.minimum((place * _BINS).astype(np.int64), _BINS - 1)
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    count = np.diff(np.append(starts, x.size))
    mean_x, mean_y = np.add.reduceat(x, starts) / count, np.add.reduceat(y, starts) / count
    # differences of neighbours do not see the curve itself, only the scatter; the median forgives spikes
    scatter = np.abs(np.diff(y[x.size // 2 :]))
    return mean_x, mean_y, float(np.median(scatter) / (0.6745 * np.sqrt(2.0)))
