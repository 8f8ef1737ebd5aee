"""Forecasts of a curve form averaged over its grid, for the whole curve and for its beginnings in one pass.

A forecast wants the posterior mean over the nonlinear parameters, not their best fit: far beyond the seen points equally
good fits disagree. Every cell of the form's grid gets its linear coefficients by least squares and a share by how well it
then explains the points. The shape of every cell at every point is computed once; the fits to the whole curve and to its
first half, 70 % and 85 % differ only in their weights, so all of them are a few matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from farfield.curves.fit import Batch, FloatArray
from farfield.curves.forms import Form

# the likelihood of a form that is only nearly right is too sure of itself, so it is tempered (Gruenwald 2012); 3 was chosen
# on half of the data sets of a learning-curve database, and the accuracy benchmark reports the other half apart
_TEMPER = 3.0
# how many values of a shape are held at once: about what the second-level cache takes
_BLOCK = 200_000


def average_form(
    form: Form, batch: Batch, weights: FloatArray, at: FloatArray, *, falling: bool, lower: float, upper: float
) -> tuple[FloatArray, FloatArray]:
    """Posterior-mean values of `form` at `at`, from the whole curve, and at its own points, from each beginning of it.

    Parameters
    ----------
    weights : (n, 1 + n_tails, width) of the points, the whole curve first
    at : (n, m) in the batch's shifted x
    falling : whether improvement means a falling curve; cells that worsen have no share
    lower, upper : bounds of the metric, for the values at `at`

    Returns (n, m) and (n, n_tails, width); NaN for curves that no cell lets improve.
    """
    n_tails = weights.shape[1] - 1
    ahead, back = np.empty(at.shape), np.empty((len(batch), n_tails, batch.x.shape[1]))
    u, u_at = batch.units(form, batch.x), batch.units(form, at)
    shared = len(u) > 1 and bool((u == u[0]).all())
    block = len(batch) if shared else max(1, _BLOCK // (len(form.starts) * u.shape[1]))
    for rows in _blocks(len(batch), block):
        one = slice(0, 1) if shared else rows
        g = form.values(u[one][:, None, :], form.starts[None])
        weight, y = weights[rows], batch.y[rows]
        # sums of squares about a nearby level lose no digits
        level = g @ (weights[one, 0] / weights[one, 0].sum(axis=1, keepdims=True))[:, :, None] if form.offset else 0.0
        g = g - level
        slope, constant, share = _fit_cells(form, g, weight, y, falling)
        total = share.sum(axis=2, keepdims=True)
        share = share / np.where(total > 0, total, np.nan)
        tilt = share[:, 1:] * slope[:, 1:]
        back[rows] = (share[:, 1:] * constant[:, 1:]).sum(axis=2, keepdims=True) + tilt @ g
        g_at = form.values(u_at[rows][:, None, :], form.starts[None]) - level
        cells = np.clip(constant[:, 0, :, None] + slope[:, 0, :, None] * g_at, lower, upper)
        ahead[rows] = np.einsum("bk,bkm->bm", share[:, 0], cells)
    return ahead, back


def _fit_cells(
    form: Form, g: FloatArray, weight: FloatArray, y: FloatArray, falling: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Slope, constant and unnormalised share of every cell: each (n, n_weights, n_cells)."""
    columns = np.swapaxes(g, 1, 2)
    total = weight.sum(axis=2, keepdims=True)
    centre = (weight @ y[:, :, None]) / total if form.offset else np.zeros_like(total)
    weighted = weight * (y[:, None, :] - centre)
    gy, gg = weighted @ columns, weight @ (columns * columns)
    mean = np.zeros_like(gy)
    # a shape that does not change over the points beyond rounding has no slope, and nothing to say
    least = 1e-12 * gg + 1e-290
    if form.offset:
        mean = (weight @ columns) / total
        gg = np.maximum(gg - total * mean**2, 0.0)
    varies = gg > least
    yy = (weighted * (y[:, None, :] - centre)).sum(axis=2, keepdims=True)
    slope = np.where(varies, gy / np.where(varies, gg, 1.0), 0.0)
    rss = np.maximum(yy - slope * gy, 1e-12 * yy + 1e-300)
    freedom = np.maximum(total**2 / (weight**2).sum(axis=2, keepdims=True) - form.n_parameters, 1.0)
    share = np.exp(np.maximum(-0.5 / _TEMPER * freedom * (rss / rss.min(axis=2, keepdims=True) - 1.0), -300.0))
    if form.offset:
        share = np.where(slope > 0 if falling else slope < 0, share, 0.0)
    return slope, centre - slope * mean, share


def _blocks(n: int, step: int) -> Iterator[slice]:
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
