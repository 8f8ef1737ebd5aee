"""One curve's own outlook: what each form says about the far end, and how far each was off where the curve hid its tail.

Every member (a curve form averaged over its grid, or a naive continuation) is fitted to the first half, 70 % and 85 % of the
seen points and scored on the rest; its share in the ensemble falls with those errors. The centre is the weighted mean of
the members at the asked positions. The scale adds up what can go wrong: the change forecast, the members' disagreement and
the error on the hidden tails. It is the unit in which other runs' errors are transferred (`farfield.curves.analogues`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.curves.average import average_form
from farfield.curves.data import Metric
from farfield.curves.drive import Drive, average_annealing
from farfield.curves.fit import Batch, FloatArray
from farfield.curves.forms import get_form

NAIVE = ("last", "best", "mean5")
AUTO = (*NAIVE, "pow3", "exp3", "exp4", "mmf", "ilog2", "loglin")
ANNEALING = "annealing"  # joins the members where schedules are known
NETWORK = "lcpfn"

_TAILS = (0.5, 0.7, 0.85)
# share of a member ~ product over tails of (error + floor)^-_SHARPNESS
_SHARPNESS = 0.25
# weight of a point ~ (x / x_last)^_RECENCY: a form need not be right at the beginning to be right at the end
_RECENCY = 2.5
# what a fall of the learning rate to zero adds to the scale, in typical errors
_FALL = 2.0
# the roughness of a curve is that of so many of its last points; below this part of the scale it is none
_ROUGH, _SMOOTH = 10, 0.01
# positions, as shares of the last x, at which the seen curve is described
_PROFILE = np.array([0.9, 0.7, 0.5, 0.35, 0.25, 0.12, 0.06])


@dataclass(frozen=True)
class Outlook:
    """What n curves' own seen parts say about m positions each.

    members : (n_members,) names; values : (n, n_members, m); weights : (n, n_members), rows sum to 1
    centre, scale : (n, m)
    features : (n, n_features) description of the seen curve, by which alike runs are found
    course : (n, 3) learning rate now and at the last position over its peak, and whether they are unknown; zeros without any
    """

    members: tuple[str, ...]
    values: FloatArray
    weights: FloatArray
    centre: FloatArray
    scale: FloatArray
    features: FloatArray
    course: FloatArray


def outlook(
    batch: Batch, at: FloatArray, metric: Metric, members: tuple[str, ...] = AUTO, drive: Drive | None = None,
    planned: FloatArray | None = None,
) -> Outlook:  # fmt: skip
    """The outlook of every curve of `batch` at `at` (n, m), in the batch's shifted x; needs at least 3 points a curve.

    drive : what the learning-rate schedules did and will do; None where no run has one
    planned : (n,) last x of each run's plan, shifted, NaN where unknown; read by the network alone
    """
    count = batch.count
    if drive is not None and drive.known.any():
        members = (*members, ANNEALING)
    index = np.arange(batch.x.shape[1])
    kept = np.stack([np.clip(np.ceil(count * share).astype(np.int64), 2, count - 1) for share in _TAILS], axis=1)
    begins = index < np.concatenate([count[:, None], kept], axis=1)[:, :, None]
    values, back = _forecasts(batch, begins, at, metric, members, drive, planned)
    hidden = (index >= kept[:, :, None]) & (batch.weight > 0)[:, None, :]
    square = np.where(hidden[:, None], (back - batch.y[:, None, None, :]) ** 2, 0.0).sum(axis=3)
    tail = np.sqrt(square / hidden.sum(axis=2)[:, None, :])  # (n, members, tails)
    if drive is not None and members[-1] == ANNEALING:
        tail[~drive.known, -1] = np.nan  # no member where the schedule is unknown, whatever is known of other runs
    rows = np.arange(len(batch))
    last = batch.y[rows, count - 1]
    # errors below a tenth of the typical one are luck; a constant curve has none at all
    floor = 0.1 * np.nanmedian(tail, axis=(1, 2)) + 1e-9 * np.abs(batch.y).max(axis=1) + 1e-300
    log_tail = np.log(tail + floor[:, None, None])
    power = -_SHARPNESS * log_tail.sum(axis=2)
    weights = np.nan_to_num(np.exp(power - np.nanmax(power, axis=1, keepdims=True)))
    weights /= weights.sum(axis=1, keepdims=True)
    centre = np.einsum("bj,bjm->bm", weights, values)
    disagreement = np.sqrt(np.einsum("bj,bjm->bm", weights, (values - centre[:, None, :]) ** 2))
    typical = np.exp(np.nanmin(log_tail, axis=1).mean(axis=1))
    change = centre - last[:, None]
    scale = np.abs(change) + disagreement + typical[:, None]
    if drive is not None:
        # what a fall of the rate will bring is not in the curve's own past: as uncertain as the noise it will quiet
        scale = scale + _FALL * typical[:, None] * np.nan_to_num(drive.fall, nan=1.0)
    features = _features(batch, metric, change[:, -1], disagreement[:, -1], scale[:, -1])
    course = np.zeros((len(batch), 3)) if drive is None else _course(drive)
    return Outlook(members, values, weights, centre, scale, features, course)


def _features(batch: Batch, metric: Metric, change: FloatArray, disagreement: FloatArray, scale: FloatArray) -> FloatArray:
    """The seen curve in units of its own scale: profile, best, forecast change, disagreement; then scale, length, roughness."""
    rows, count = np.arange(len(batch)), batch.count
    last = batch.y[rows, count - 1]
    index = np.arange(batch.x.shape[1])
    profile = np.empty((len(batch), _PROFILE.size))
    for k, share in enumerate(_PROFILE):
        # nearest logged point in log x
        distance = np.abs(np.log(batch.x / (share * batch.last[:, None])))
        near = np.where(index < count[:, None], distance, np.inf).argmin(axis=1)
        profile[:, k] = batch.y[rows, near] - last
    relative = np.column_stack([profile, _best(batch.y, batch.weight > 0, metric) - last, change, disagreement]) / scale[:, None]
    rough = np.log(_roughness(batch) / scale + _SMOOTH)
    return np.column_stack([relative, last, np.log(scale), np.log(count), rough])


def _roughness(batch: Batch) -> FloatArray:
    """(n,) noise of a late point: root mean square of how far each lies off the line in log x through its two neighbours."""
    at = batch.count[:, None] - np.arange(min(_ROUGH, batch.x.shape[1]), 0, -1)
    some = at[:, :-2] >= 0
    at = np.maximum(at, 0)
    x, y = np.log(np.take_along_axis(batch.x, at, axis=1)), np.take_along_axis(batch.y, at, axis=1)
    apart = np.where(some, x[:, 2:] - x[:, :-2], 1.0)
    part = (x[:, 2:] - x[:, 1:-1]) / np.where(apart > 0, apart, 1.0)
    # noise of one size in all three points adds up to this much in the difference
    off = (y[:, 1:-1] - part * y[:, :-2] - (1.0 - part) * y[:, 2:]) / np.sqrt(1.0 + part**2 + (1.0 - part) ** 2)
    square: FloatArray = np.where(some, off**2, 0.0).sum(axis=1) / some.sum(axis=1)
    return np.sqrt(square)


def _course(drive: Drive) -> FloatArray:
    """(n, 3): rate now, rate at the last position, whether neither is known."""
    known = drive.known
    return np.column_stack([np.where(known, drive.now, 0.0), np.where(known, drive.then[:, -1], 0.0), np.where(known, 0.0, 1.0)])


def _best(y: FloatArray, seen: NDArray[np.bool_], metric: Metric) -> FloatArray:
    worst = np.inf if metric.goal == "min" else -np.inf
    best: FloatArray = (np.min if metric.goal == "min" else np.max)(np.where(seen, y, worst), axis=-1)
    return best


def _forecasts(
    batch: Batch, begins: NDArray[np.bool_], at: FloatArray, metric: Metric, members: tuple[str, ...], drive: Drive | None,
    planned: FloatArray | None,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Each member's values at `at` (n, n_members, m), and at the batch's own points from each beginning.

    begins : (n, 1 + n_tails, width) points of the whole curve and of its beginnings. The second result is
    (n, n_members, n_tails, width).
    """
    n, m = at.shape
    y = batch.y[:, None, :]
    length = begins.sum(axis=2)
    last = np.take_along_axis(batch.y, length - 1, axis=1)
    # before a known decay, what is seen is noise about a slow trend, and takes the whole curve to average out
    steady = np.zeros(n, dtype=bool) if drive is None else drive.known & (np.nan_to_num(drive.fall[:, -1]) > 0.05)
    memory = np.where(steady, 0.0, _RECENCY)
    recency = (batch.x / batch.last[:, None]) ** memory[:, None]
    weights = begins * (batch.weight * recency)[:, None, :]
    ahead = np.empty((n, len(members), m))
    back = np.empty((n, len(members), begins.shape[1] - 1, batch.x.shape[1]))
    for j, name in enumerate(members):
        if name in NAIVE:
            if name == "last":
                constant = last
            elif name == "best":
                constant = _best(y, begins, metric)
            else:
                five = begins & (np.arange(batch.x.shape[1]) >= length[:, :, None] - 5)
                constant = (five * y).sum(axis=2) / five.sum(axis=2)
            ahead[:, j], back[:, j] = constant[:, :1], constant[:, 1:, None]
            continue
        falling = metric.goal == "min"
        if name == NETWORK:
            from farfield.curves.pfn.member import network_forecasts

            ahead[:, j], back[:, j] = network_forecasts(batch, begins, at, metric, planned)
        elif name == ANNEALING:
            assert drive is not None
            ahead[:, j], back[:, j] = average_annealing(drive, batch, weights, falling=falling)
            np.clip(ahead[:, j], metric.lower, metric.upper, out=ahead[:, j])
        else:
            form = get_form(name)
            ahead[:, j], back[:, j] = average_form(
                form, batch, weights, at, falling=falling, lower=metric.lower, upper=metric.upper
            )
        np.clip(back[:, j], metric.lower, metric.upper, out=back[:, j])
        # a form under which the curve only gets worse has nothing to say: it abstains to the last value
        ahead[:, j] = np.where(np.isnan(ahead[:, j]), last[:, :1], ahead[:, j])
        back[:, j] = np.where(np.isnan(back[:, j]), last[:, 1:, None], back[:, j])
    return ahead, back
