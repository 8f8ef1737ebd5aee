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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
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

    @cached_property
    def repeated(self) -> list[_Region]:
        """The regions that have repeats."""
        found = [np.flatnonzero(self.region == name) for name in np.unique(self.region)]
        return [_region(self, splits) for splits in found if splits.size > 1]

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
    """What training rows add to the variance (it may be below zero), the variance of that figure itself, and the least degrees of
    freedom that any part of it has."""

    variance: float
    noise: float
    least: int

    def freedom(self, total: float) -> float:
        """Degrees of freedom of the whole variance `total` (Satterthwaite); parts that were subtracted cannot make them fewer."""
        return max(2 * total**2 / self.noise, float(self.least))


def from_training(e: Evidence, weights: FloatArray) -> Training:
    """What the training rows add to the variance of the sum of `weights` (3,) times the parts' mean losses."""
    added, noise, least = 0.0, 0.0, 0
    if weights[REFERENCE] or weights[BEYOND]:
        for region in e.repeated:
            for part in _of_region(e, region, weights):
                added += part.variance
                noise += part.noise
                least = min(least or part.least, part.least or least)
    return Training(added, noise, least)


class _Held(NamedTuple):
    """Shares of the units (n_fits, n_units) that fits hold, centred; `squares` the sum of theirs, `size` that of their means'."""

    of: FloatArray
    squares: float
    size: float


class _Folds(NamedTuple):
    """The reference models of one region: which model a scored row is of, how scores are centred, what the fits hold."""

    fit: IntArray  # (N,) of the rows of `Evidence`
    within: FloatArray  # (n_fits, n_fits) takes out each repeat's mean
    beyond: _Held
    seen_squares: float  # of the seen units' shares, centred the same way
    repeats: _Held  # the seen units' shares, mean over the folds of a repeat
    overlap: float  # of those with what the models of the same repeat hold
    df: int


class _Region(NamedTuple):
    """What is the same for every quantity: the repeats of one region, and what their fits hold."""

    splits: IntArray
    here: BoolArray  # (N,) rows of `Evidence`
    repeat: IntArray  # (N,)
    seen: _Held
    folds: _Folds | None


def _region(e: Evidence, splits: IntArray) -> _Region:
    here = np.isin(e.split, splits)
    seen: BoolArray = np.asarray(e.train[splits].any(axis=0))
    seen[e.row[here & (e.part == INSIDE)]] = True
    repeat = np.searchsorted(splits, e.split)
    shares = _shares(e, e.train[splits], seen)
    models = _held(shares, _centred(shares))
    some = np.flatnonzero(here & (e.part == REFERENCE))
    if not some.size:
        return _Region(splits, here, repeat, models, None)
    fits = np.isin(e.fit_split, splits)
    owner = np.searchsorted(splits, e.fit_split[fits])
    n_fits, n_folds = owner.size, int(e.fit_fold.max()) + 1
    mean = (owner == np.arange(splits.size)[:, None]) / np.bincount(owner, minlength=splits.size)[:, None]
    key = owner * n_folds + e.fit_fold[fits]
    order = np.argsort(key)
    fit = np.zeros(e.row.size, dtype=np.int64)
    fit[some] = order[np.searchsorted(key[order], repeat[some] * n_folds + e.fold[some])]
    names, row = np.unique(e.row[some], return_inverse=True)
    scored = np.zeros((n_fits, names.size))
    scored[fit[some], row] = 1.0
    within = np.eye(n_fits) - mean[owner]
    centre = within @ (np.eye(n_fits) - (scored / scored.sum(axis=1, keepdims=True)) @ (scored / scored.sum(axis=0)).T)
    beyond = np.zeros(e.codes.size, dtype=bool)
    beyond[names] = True
    far, near = _shares(e, e.fits[fits] & beyond, beyond), _shares(e, e.fits[fits] & seen, seen)
    of_repeat = mean @ near
    repeats = _held(of_repeat, _centred(of_repeat))
    overlap = float((models.of * repeats.of).sum())
    df = (splits.size - 1) * (n_fits // splits.size - 1)
    folds = _Folds(fit, within, _held(far, centre @ far), float(((centre @ near) ** 2).sum()), repeats, overlap, df)
    return _Region(splits, here, repeat, models, folds)


def _of_region(e: Evidence, r: _Region, weights: FloatArray) -> Iterator[Training]:
    whole = weights * r.splits.size / e.n_splits
    by_repeat = np.eye(r.splits.size)
    both = [p for p in (REFERENCE, BEYOND) if weights[p]]
    h = {p: weights[p] * _influence(e, r.splits, p) for p in range(3) if weights[p]}
    nothing = np.zeros(int(e.codes.max()) + 1)
    t = _scores(e, [r.here & (e.part == p) for p in both], [whole[p] for p in both], r.repeat, by_repeat)
    folds = r.folds
    if not weights[REFERENCE] or folds is None:
        yield _combined(t, 0.0, r.seen, h.get(INSIDE, nothing), r.splits.size - 1)
        return
    some = r.here & (e.part == REFERENCE)
    alone = _scores(e, [some], [whole[REFERENCE]], r.repeat, by_repeat)
    # what a seen unit does to the reference by being trained on: its variance, and what of it the repeats' spread has too much
    a_unit = alone.squares / folds.repeats.squares if folds.repeats.squares > 0 else 0.0
    excess = a_unit * max(folds.repeats.squares - folds.overlap, 0.0) if weights[BEYOND] else 0.0
    yield _combined(t, excess, r.seen if weights[BEYOND] else folds.repeats, h.get(INSIDE, nothing), r.splits.size - 1)
    t = _scores(e, [some], [whole[REFERENCE]], folds.fit, folds.within)
    yield _combined(t, a_unit * folds.seen_squares, folds.beyond, sum((h[p] for p in both), nothing), folds.df)


class _Scores(NamedTuple):
    """Scores of fits, centred, each scored row's own level taken out; and their sum of squares without what it is by chance of the
    rows that they were taken on."""

    t: FloatArray
    squares: float


def _scores(e: Evidence, some: list[BoolArray], weights: list[float], fit: IntArray, centre: FloatArray) -> _Scores:
    """Mean scores of fits on their rows, weighted sums of several kinds of loss, centred by `centre` (n_fits, n_fits)."""
    n = centre.shape[0]
    units, code = np.unique(e.codes[np.concatenate([e.row[kind] for kind in some])], return_inverse=True)
    total, start = np.zeros((n, units.size)), 0
    for kind, weight in zip(some, weights, strict=True):
        row, loss, of = e.row[kind], weight * e.loss[kind], fit[kind]
        times = np.bincount(row)
        if times.max() > 1:
            loss = loss - (np.bincount(row, loss) / np.maximum(times, 1))[row]
        size = np.bincount(of, minlength=n)
        place = of * units.size + code[start : start + row.size]
        total += np.bincount(place, loss / size[of], total.size).reshape(total.shape)
        start += row.size
    t = total.sum(axis=1)
    there = total != 0
    share = there / np.maximum(there.sum(axis=1, keepdims=True), 1)
    noise = ((total - t[:, None] * share) ** 2).sum(axis=1)
    t = centre @ t
    return _Scores(t, max(float(t @ t) - float((centre**2).sum(axis=0) @ noise), 0.0))


def _combined(scores: _Scores, excess: float, c: _Held, own: FloatArray, df: int) -> Training:
    """(2 b + b^2) sum h^2 + rest, and the variance of that; `own` (n_units,) the h, `excess` what of the squares is none of c's."""
    if df < 1 or c.squares <= 0:
        return Training(0.0, 0.0, 0)
    x, raw = c.of @ own, float(scores.t @ scores.t)
    squares, size = float(x @ x), c.size / c.squares
    slope = float(scores.t @ x) / squares if df > 2 and squares > 0 else 0.0
    left = df - 1 if slope else df
    rest = max(scores.squares - slope**2 * squares, 0.0) * df / left
    rest = max(rest - excess, 0.0) * size
    noise = 2 * (raw * size) ** 2 / left
    variance = float(own @ own)
    if slope:
        noise += (2 * (1 + slope) * variance) ** 2 * (raw - slope**2 * squares) / left / squares
    return Training((2 * slope + slope**2) * variance + rest, noise, left)


def _held(shares: FloatArray, centred: FloatArray) -> _Held:
    return _Held(centred, float((centred**2).sum()), float((shares.mean(axis=0) ** 2).sum()))


def _centred(values: FloatArray) -> FloatArray:
    return np.asarray(values - values.mean(axis=0))


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
