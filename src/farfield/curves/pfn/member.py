"""The network as a member of the ensemble: its medians at the asked positions, and at the points of each hidden tail.

The encoder is causal, so one pass over a curve answers for the whole curve and for all its beginnings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farfield.curves.data import Metric
from farfield.curves.fit import Batch
from farfield.curves.normalised import Normalised
from farfield.curves.normalize import from_seen
from farfield.curves.pfn.architecture import FloatArray, IntArray
from farfield.curves.pfn.model import LCPFN
from farfield.predictive import Mixture

_ROWS = 64
# points of a hidden tail that are asked; the others take the value of the next one asked
_TAIL = 8


def network_forecasts(
    batch: Batch, begins: NDArray[np.bool_], at: FloatArray, metric: Metric, planned: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Medians at `at` (n, m), and at the points of the tails (n, tails, width).

    begins : (n, 1 + tails, width) points of the whole curve and of its beginnings
    planned : (n,) last x of each run's plan, shifted, NaN where unknown; or None
    """
    model = LCPFN.load("wide", double=True)
    normaliser = from_seen(np.where(batch.weight > 0, batch.y, np.nan), metric)
    z = np.clip(normaliser.forward(batch.y), 0.0, 1.0)
    kept = begins.sum(axis=2)
    n, tails, width = len(batch), begins.shape[1] - 1, batch.x.shape[1]
    m = at.shape[1]
    # indices of the asked points of each tail, from the first hidden to the last seen
    steps = np.linspace(0, 1, _TAIL)
    hidden = np.round(kept[:, 1:, None] + steps * (kept[:, :1, None] - 1 - kept[:, 1:, None])).astype(np.int64)
    known = np.take_along_axis(batch.x, hidden.reshape(n, -1), axis=1)
    asked = np.concatenate([at, known], axis=1)
    cut = np.concatenate([np.repeat(kept[:, :1], m, axis=1), np.repeat(kept[:, 1:], _TAIL, axis=1)], axis=1)
    horizon = np.full(n, np.nan) if planned is None else planned
    # a plan that ends before what is asked says nothing
    horizon = np.where(horizon >= at.max(axis=1), horizon, np.nan)
    middle = np.empty(asked.shape)
    order = np.argsort(kept[:, 0], kind="stable")
    for start in range(0, n, _ROWS):
        rows: IntArray = order[start : start + _ROWS]
        longest = int(kept[rows, 0].max())
        mixture = Mixture(*model.engine(batch.x[rows, :longest], z[rows, :longest], cut[rows], asked[rows], horizon[rows]))
        middle[rows] = Normalised.by_run(mixture, normaliser[rows]).median()
    back = np.empty((n, tails, width))
    index = np.arange(width)
    for t in range(tails):
        ranks = (index[None, :, None] > hidden[:, t, None, :]).sum(axis=2).clip(0, _TAIL - 1)
        back[:, t] = np.take_along_axis(middle[:, m + t * _TAIL : m + (t + 1) * _TAIL], ranks, axis=1)
    return middle[:, :m], back
