"""What the training rows add to the variance of a gap, and how it goes together with what the scored rows add.

What is random in a score: the rows it is taken on, the rows the model was fitted on, and the learner's own draws. Intervals about
the learner must hold all three, and a row often plays two parts: those inside in one repeat are trained on in the others, and
those beyond are scored on by every model and trained on by the reference models of the other folds. To first order a quantity Q is

    Q - E Q  =  sum over units u of (h_u + g_u),    h_u: as a scored unit,  g_u: as a training unit,

so its variance is that of h + g: it has a covariance, which no bootstrap of scored rows with the fitted models kept sees. (With a
learner that predicts the mean, h and g of a row beyond are almost the same, and the standard error of the extrapolation is nearly
twice that of its rows alone.) The h_u are known. Of the g_u the fits tell: fit f holds the share c_fu of unit u (over its mean), so
its score is t_f = const + sum_u c_fu g_u + the learner's draws. With x_f = sum_u c_fu h_u, what the same units count where they
are scored, least squares of t on x gives the slope b of g on h, and the residuals of t the variance of the rest of g:

    Var Q = (1 + b)^2 sum h_u^2 + rest,        rest = |L (t - b x)|^2 / |L c|^2 * sum_u mean_f(c_fu)^2

for any linear map L that takes out what else t depends on. For seen units the fits are the repeats, and L centres. (For
random subsets of a share f this is the delete-d jackknife, 1 / J + f / (1 - f) times the variance; Shao & Wu 1989.) For units
beyond the fits are the folds of the reference, and L takes out each scored row's own level, by comparing it with itself in the
other repeats, and each repeat's. The learner's draws count as training rows', which is a little too much.

From one repeat none of this is known, and intervals are about the models as fitted, for which the rows alone are enough (Bayle,
Bayle, Janson & Mackey 2020, theorem 1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield.splits.rows import FloatArray, IntArray

INSIDE, REFERENCE, BEYOND = 0, 1, 2
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Evidence:
    """Every loss, and which rows every fit held; what intervals are made of.

    Losses, (N,) each: `row` of the data, `split`, `part`, `fold` of the reference (0 elsewhere), `loss`. `codes` (n,): the unit of
    each row of the data; `region` (n_splits,): which splits are repeats of one region. `train` (n_splits, n): the rows each model
    was fitted on; `fits` (n_fits, n): the same of the reference models, those of split `fit_split`, fold `fit_fold`.
    """

    row: IntArray
    split: IntArray
    part: IntArray
    fold: IntArray
    loss: FloatArray
    codes: IntArray
    region: IntArray
    train: BoolArray
    fits: BoolArray
    fit_split: IntArray
    fit_fold: IntArray

    @property
    def n_splits(self) -> int:
        """Splits, all regions' together."""
        return int(self.region.size)

    def minus(self, other: Evidence, scale: FloatArray, other_scale: FloatArray) -> Evidence:
        """The same rows with the difference of losses, each scaled by part (3,)."""
        return replace(self, loss=scale[self.part] * self.loss - other_scale[other.part] * other.loss)

    def means(self) -> FloatArray:
        """(3,) the mean over splits of the parts' mean losses; NaN for a part that is not there."""
        total = self.sums()[:, :3].sum(axis=0)
        return np.where(np.bincount(self.part, minlength=3) > 0, total, np.nan)

    def sums(self) -> FloatArray:
        """(n, 6): for each part the units' shares of the mean of the splits' means, and of one; units that are scored."""
        n_units = int(self.codes.max()) + 1
        place = self.split * 3 + self.part
        sizes = np.bincount(place, minlength=3 * self.n_splits)
        weight = 1.0 / (sizes[place] * self.n_splits)
        unit = self.codes[self.row] * 3 + self.part
        top, bottom = (np.bincount(unit, w, 3 * n_units).reshape(n_units, 3) for w in (weight * self.loss, weight))
        return np.concatenate([top, bottom], axis=1)[(bottom > 0).any(axis=1)]


class Training(NamedTuple):
    """What training rows add to the variance (it may be below zero), and the variance of that figure itself."""

    variance: float
    noise: float


def from_training(e: Evidence, weights: FloatArray) -> Training:
    """What the training rows add to the variance of the sum of `weights` (3,) times the parts' mean losses."""
    added, noise = 0.0, 0.0
    for name in np.unique(e.region):
        splits = np.flatnonzero(e.region == name)
        if splits.size < 2:
            continue
        for part in (_seen(e, splits, weights), _beyond(e, splits, weights)):
            added += part.variance
            noise += part.noise
    return Training(added, noise)


def _seen(e: Evidence, splits: IntArray, weights: FloatArray) -> Training:
    """Seen units: trained on in most repeats, inside in the others."""
    means = _means(e, splits)
    t = sum((weights[p] * means[:, p] for p in (REFERENCE, BEYOND) if weights[p]), np.zeros(splits.size)) / e.n_splits * splits.size
    if not t.any():
        return Training(0.0, 0.0)
    seen: BoolArray = np.asarray(e.train[splits].any(axis=0))
    seen[e.row[np.isin(e.split, splits) & (e.part == INSIDE)]] = True
    c = _shares(e, e.train[splits], seen)
    centred = c - c.mean(axis=0)
    h = weights[INSIDE] * _influence(e, splits, INSIDE) if weights[INSIDE] else np.zeros(c.shape[1])
    return _combined(t - t.mean(), centred @ h, (centred**2).sum(), (c.mean(axis=0) ** 2).sum(), (h**2).sum(), splits.size - 1)


def _beyond(e: Evidence, splits: IntArray, weights: FloatArray) -> Training:
    """Units beyond: scored on by all, trained on by the reference models of the other folds."""
    here = np.isin(e.fit_split, splits)
    if not weights[REFERENCE] or not here.any():
        return Training(0.0, 0.0)
    some = np.isin(e.split, splits) & (e.part == REFERENCE)
    keys = np.unique(e.fit_split[here] * (e.fold.max() + 1) + e.fit_fold[here])
    fit = np.searchsorted(keys, e.split[some] * (e.fold.max() + 1) + e.fold[some])
    repeat = keys // (e.fold.max() + 1)
    _, row = np.unique(e.row[some], return_inverse=True)
    times = np.bincount(row)
    loss = e.loss[some]
    away = loss - (np.bincount(row, loss) / times)[row]
    size = np.bincount(fit, minlength=keys.size)
    t = weights[REFERENCE] * np.bincount(fit, away, keys.size) / size / e.n_splits * splits.size
    scored = np.zeros((keys.size, times.size))
    scored[fit, row] = 1.0
    within = np.eye(keys.size) - (scored / size[:, None]) @ (scored / times).T
    same = repeat[:, None] == repeat[None, :]
    centre = np.eye(keys.size) - same / same.sum(axis=1)
    beyond = np.zeros(e.codes.size, dtype=bool)
    beyond[e.row[some]] = True
    c = _shares(e, e.fits[here] & beyond, beyond)
    moved = centre @ within @ c
    h = sum(weights[p] * _influence(e, splits, p) for p in (REFERENCE, BEYOND) if weights[p])
    df = (splits.size - 1) * (keys.size // splits.size - 1)
    return _combined(centre @ t, moved @ h, (moved**2).sum(), (c.mean(axis=0) ** 2).sum(), (h**2).sum(), df)


def _combined(t: FloatArray, x: FloatArray, spread: float, size: float, own: float, df: int) -> Training:
    """(2 b + b^2) own + rest, and the variance of that, from centred scores and what the scored units make of them."""
    if df < 1 or spread <= 0:
        return Training(0.0, 0.0)
    squares = float(x @ x)
    slope = float(t @ x) / squares if df > 2 and squares > 0 else 0.0
    left = df - 1 if slope else df
    residual = float(((t - slope * x) ** 2).sum()) / left
    rest = residual * df / spread * size
    noise = 2 * rest**2 / left
    if slope:
        noise += (2 * (1 + slope) * own) ** 2 * residual / squares
    return Training((2 * slope + slope**2) * own + rest, noise)


def _means(e: Evidence, splits: IntArray) -> FloatArray:
    """(J, 3) the mean loss of each part of these splits."""
    place = e.split * 3 + e.part
    total = np.bincount(place, e.loss, 3 * e.n_splits)
    count = np.bincount(place, minlength=3 * e.n_splits)
    return np.asarray((total / np.maximum(count, 1)).reshape(-1, 3)[splits])


def _influence(e: Evidence, splits: IntArray, part: int) -> FloatArray:
    """(n_units,) what each unit, as one that is scored, adds to the mean loss of a part."""
    some = np.isin(e.split, splits) & (e.part == part)
    weight = 1.0 / (np.bincount(e.split[some], minlength=e.n_splits)[e.split[some]] * e.n_splits)
    middle = weight @ e.loss[some] / weight.sum()
    return np.asarray(np.bincount(e.codes[e.row[some]], weight * (e.loss[some] - middle), int(e.codes.max()) + 1))


def _shares(e: Evidence, held: BoolArray, of: BoolArray) -> FloatArray:
    """(n_fits, n_units) the share of each unit's rows `of` a kind that a fit holds, over what fits hold on average."""
    n_units = int(e.codes.max()) + 1
    counts = np.stack([np.bincount(e.codes[h], minlength=n_units) for h in held]).astype(np.float64)
    whole = np.bincount(e.codes[of], minlength=n_units)
    return np.asarray(counts / np.maximum(whole, 1) / (held.sum() / (held.shape[0] * of.sum())))
