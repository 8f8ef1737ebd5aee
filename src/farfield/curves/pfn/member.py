"""The network as a member of the ensemble: its medians at the asked positions, its means on each hidden tail.

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

# points of a curve that are read; more cost time and change little
_POINTS = 32
# points of a hidden tail that are asked; the others take the value of the next one asked
_TAIL = 4
_LEAST = 1e-250


def network_forecasts(
    batch: Batch, begins: NDArray[np.bool_], at: FloatArray, metric: Metric, planned: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Medians at `at` (n, m), and means at the points of the tails (n, tails, width).

    begins : (n, 1 + tails, width) points of the whole curve and of its beginnings
    planned : (n,) last x of each run's plan, shifted, NaN where unknown; or None
    """
    last = batch.y[np.arange(len(batch)), batch.count - 1][:, None]
    seen = np.where(batch.weight > 0, batch.y, np.nan)
    tiny = np.nanmax(np.abs(seen), axis=1) < _LEAST
    if tiny.any():
        # of values that are barely floats there is no telling apart: the last one, for all of such a curve
        middle = np.repeat(last, at.shape[1], axis=1)
        back = np.broadcast_to(last[:, :, None], (len(batch), begins.shape[1] - 1, batch.x.shape[1])).copy()
        rest = np.flatnonzero(~tiny)
        if rest.size:
            some = None if planned is None else planned[rest]
            middle[rest], back[rest] = network_forecasts(batch.take(rest), begins[rest], at[rest], metric, some)
        return middle, back
    model = LCPFN.load("wide")
    normaliser = from_seen(seen, metric)
    z = np.clip(normaliser.forward(batch.y), 0.0, 1.0)
    kept = begins.sum(axis=2)
    n, tails, width = len(batch), begins.shape[1] - 1, batch.x.shape[1]
    m = at.shape[1]
    # indices of the asked points of each tail, from the first hidden to the last seen
    steps = np.linspace(0, 1, _TAIL)
    hidden = np.round(kept[:, 1:, None] + steps * (kept[:, :1, None] - 1 - kept[:, 1:, None])).astype(np.int64)
    known = np.take_along_axis(batch.x, hidden.reshape(n, -1), axis=1)
    # what is asked at a position does not depend on what else is: tails first, then positions from the last to the first
    asked = np.concatenate([known, at[:, ::-1]], axis=1)
    chosen, cuts = _thinned(kept)
    x, z = np.take_along_axis(batch.x, chosen, axis=1), np.take_along_axis(z, chosen, axis=1)
    cut = np.concatenate([np.repeat(cuts[:, 1:], _TAIL, axis=1), np.repeat(cuts[:, :1], m, axis=1)], axis=1)
    horizon = np.full(n, np.nan) if planned is None else planned
    # a plan that ends before what is asked says nothing
    horizon = np.where(horizon >= at.max(axis=1), horizon, np.nan)
    weights, loc, scale = model.engine(x, z, cut, asked, horizon)
    hidden_count = tails * _TAIL
    ahead = Mixture(weights[:, hidden_count:], loc[:, hidden_count:], scale[:, hidden_count:])
    middle = Normalised.by_run(ahead, normaliser).median()[:, ::-1]
    # on the tails, where only the size of errors counts, the mean is near enough and needs no search
    mean = normaliser.inverse(np.clip((weights * loc)[:, :hidden_count].sum(axis=2), 0.0, 1.0))
    back = np.empty((n, tails, width))
    index = np.arange(width)
    for t in range(tails):
        ranks = (index[None, :, None] > hidden[:, t, None, :]).sum(axis=2).clip(0, _TAIL - 1)
        back[:, t] = np.take_along_axis(mean[:, t * _TAIL : (t + 1) * _TAIL], ranks, axis=1)
    return middle, back


def _thinned(kept: IntArray) -> tuple[IntArray, IntArray]:
    """Of curves whose beginnings have `kept` (n, 1 + tails) points, at most _POINTS points that the network reads.

    Evenly spread ones, and the last of each beginning: their indices (n, width), padded with the last; how many of them lie in each
    beginning (n, 1 + tails).
    """
    whole = kept[:, :1]
    even = np.round(np.linspace(0, 1, _POINTS - kept.shape[1] + 1) * (whole - 1)).astype(np.int64)
    few = np.minimum(np.arange(_POINTS), whole - 1)
    points = np.sort(np.where(whole > _POINTS, np.concatenate([even, kept[:, 1:] - 1], axis=1), few), axis=1)
    # what is there twice becomes padding at the end
    first = np.diff(points, axis=1, prepend=-1) > 0
    cuts = (first[:, None] & (points[:, None] < kept[:, :, None])).sum(axis=2)
    return np.sort(np.where(first, points, whole - 1), axis=1), cuts
