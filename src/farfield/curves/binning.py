"""Long, noisy logs as short curves: means over bins of x that keep the shape and the level of the noise.

A fit needs some dozens of points, not a million. Bins are equally wide in sqrt(x): fine where a curve bends, coarse where
it is long. Each bin is one point at its mean x, with its mean y. What a logger will write scatters about that curve: the
scatter is measured once (`Binned.noise`) and goes back into forecasts of logged values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from farfield.curves.data import Curves, FloatArray, IntArray
from farfield.curves.fit import Batch

# curves up to this many points are left as they are
MOST_POINTS = 96
_BINS = 64
_SPIKE = 20.0
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
        calm = despiked(curves.y[None, points], np.array([curves.y[points].size]))[0]
        bx, by, noise[i] = _bin(curves.x[points], calm)
        x[i, : bx.size], y[i, : bx.size], w[i, : bx.size] = bx, by, 1.0
    if short.any():
        y[short] = despiked(y[short], lengths[short])
    batch = Batch.from_padded(x, y, w)
    return Binned(replace(batch, x=np.maximum(batch.x, _LEAST * batch.last[:, None])), noise)


def despiked(y: FloatArray, count: IntArray) -> FloatArray:
    """Rows (n, width) of which the first `count` (n,) points are values, lone spikes replaced by their neighbours' median.

    A spike lies `_SPIKE` times the usual scatter away from the median of the five points about it (Hampel 1974). The first two
    and the last two points stay: a steep start is no spike, and nobody knows yet whether a jump at the end is one.
    """
    width = y.shape[1]
    if width < 7:
        return y
    windows = np.lib.stride_tricks.sliding_window_view(y, 5, axis=1)  # (n, width - 4, 5), about points 2 .. width - 3
    middle = np.median(windows, axis=2)
    off = np.abs(y[:, 2:-2] - middle)
    inside = np.arange(2, width - 2) < (count - 2)[:, None]
    usual = np.array([np.median(o[i]) if i.any() else np.inf for o, i in zip(off, inside, strict=True)])
    # a smooth curve has no scatter to speak of; its own steps from point to point are then the measure
    step = np.array([np.median(np.abs(np.diff(r[:c]))) if c > 1 else np.inf for r, c in zip(y, count, strict=True)])
    spike = inside & (off > _SPIKE * np.maximum(usual, step)[:, None])
    out = y.copy()
    out[:, 2:-2] = np.where(spike, middle, y[:, 2:-2])
    return out


def _bin(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    place = np.sqrt((x - x[0]) / (x[-1] - x[0]))
    code = np.minimum((place * _BINS).astype(np.int64), _BINS - 1)
    starts = np.flatnonzero(np.diff(code, prepend=-1))
    count = np.diff(np.append(starts, x.size))
    mean_x, mean_y = np.add.reduceat(x, starts) / count, np.add.reduceat(y, starts) / count
    # differences of neighbours do not see the curve itself, only the scatter; the median forgives spikes
    scatter = np.abs(np.diff(y[x.size // 2 :]))
    return mean_x, mean_y, float(np.median(scatter) / (0.6745 * np.sqrt(2.0)))
