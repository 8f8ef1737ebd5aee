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
    for name in np.unique(e.region):
        splits = np.flatnonzero(e.region == name)
        if splits.size > 1 and (weights[REFERENCE] or weights[BEYOND]):
            for part in _of_region(e, splits, weights):
                added += part.variance
                noise += part.noise
                least = min(least or part.least, part.least or least)
    return Training(added, noise, least)


class _Scores(NamedTuple):
    """Scores of fits, centred: each scored row's own level taken out, and what is left of their sum of squares without the noise
    of which rows they were taken on."""

    t: FloatArray
    squares: float


def _of_region(e: Evidence, splits: IntArray, weights: FloatArray) -> Iterator[Training]:
    whole = weights * splits.size / e.n_splits
    seen, beyond = np.zeros(e.codes.size, dtype=bool), np.zeros(e.codes.size, dtype=bool)
    seen[e.train[splits].any(axis=0)] = True
    some = np.isin(e.split, splits)
    seen[e.row[some & (e.part == INSIDE)]] = True
    beyond[e.row[some & (e.part == BEYOND)]] = True
    repeat = np.searchsorted(splits, e.split)
    both = [p for p in (REFERENCE, BEYOND) if weights[p]]
    h = {p: _influence(e, splits, p) for p in range(3) if weights[p]}
    own = h[INSIDE] * weights[INSIDE] if INSIDE in h else np.zeros(int(e.codes.max()) + 1)
    by_repeat = _scores(e, [some & (e.part == p) for p in both], [whole[p] for p in both], repeat, np.eye(splits.size))
    shares = _shares(e, e.train[splits], seen)
    excess = 0.0
    per_unit = 0.0  # variance of what a seen unit does to the reference by being trained on
    if weights[REFERENCE]:
        fits = np.isin(e.fit_split, splits)
        owner = np.searchsorted(splits, e.fit_split[fits])
        mean = (owner == np.arange(splits.size)[:, None]) / np.bincount(owner, minlength=splits.size)[:, None]
        of_fit = _shares(e, e.fits[fits] & seen, seen)
        of_repeat = mean @ of_fit
        spread = float((_centred(of_repeat) ** 2).sum())
        reference = _scores(e, [some & (e.part == REFERENCE)], [whole[REFERENCE]], repeat, np.eye(splits.size))
        per_unit = reference.squares / spread if spread > 0 else 0.0
        if weights[BEYOND]:
            excess = per_unit * max(spread - float((_centred(shares) * _centred(of_repeat)).sum()), 0.0)
        else:
            shares = of_repeat
    yield _combined(by_repeat, excess, _centred(shares), shares.mean(axis=0), own, splits.size - 1)
    if not weights[REFERENCE]:
        return
    key = owner * (e.fit_fold.max() + 1) + e.fit_fold[fits]
    some &= e.part == REFERENCE
    fit = np.zeros(e.row.size, dtype=np.int64)
    order = np.argsort(key)
    fit[some] = order[np.searchsorted(key[order], repeat[some] * (e.fit_fold.max() + 1) + e.fold[some])]
    within = np.eye(key.size) - mean[owner]
    by_fold = _scores(e, [some], [whole[REFERENCE]], fit, within)
    scored = np.zeros((key.size, e.codes.size))
    scored[fit[some], e.row[some]] = 1.0
    times = np.maximum(scored.sum(axis=0), 1.0)
    centre = within @ (np.eye(key.size) - (scored / scored.sum(axis=1, keepdims=True)) @ (scored / times).T)
    held = _shares(e, e.fits[fits] & beyond, beyond)
    excess = per_unit * float(((centre @ of_fit) ** 2).sum())
    own = sum((weights[p] * h[p] for p in both), np.zeros_like(own))
    df = (splits.size - 1) * (key.size // splits.size - 1)
    yield _combined(by_fold, excess, centre @ held, held.mean(axis=0), own, df)


def _scores(e: Evidence, some: list[BoolArray], weights: list[float], fit: IntArray, centre: FloatArray) -> _Scores:
    """Mean scores of fits on their rows, weighted sums of several kinds of loss, centred by `centre` (n_fits, n_fits)."""
    n = centre.shape[0]
    n_units = int(e.codes.max()) + 1
    total = np.zeros((n, n_units))
    for kind, weight in zip(some, weights, strict=True):
        row, loss, of = e.row[kind], weight * e.loss[kind], fit[kind]
        times = np.bincount(row)
        if times.max() > 1:
            loss = loss - (np.bincount(row, loss) / np.maximum(times, 1))[row]
        size = np.bincount(of, minlength=n)
        total += np.bincount(of * n_units + e.codes[row], loss / size[of], n * n_units).reshape(n, n_units)
    t = total.sum(axis=1)
    there = total != 0
    share = there / np.maximum(there.sum(axis=1, keepdims=True), 1)
    noise = ((total - t[:, None] * share) ** 2).sum(axis=1)
    t = centre @ t
    return _Scores(t, max(float(t @ t) - float((centre**2).sum(axis=0) @ noise), 0.0))


def _combined(scores: _Scores, excess: float, c: FloatArray, mean: FloatArray, own: FloatArray, df: int) -> Training:
    """(2 b + b^2) sum h^2 + rest, and the variance of that. `c` (n_fits, n_units) centred shares, `own` (n_units,) the h."""
    spread = float((c**2).sum())
    if df < 1 or spread <= 0:
        return Training(0.0, 0.0, 0)
    x, raw = c @ own, float(scores.t @ scores.t)
    squares, size = float(x @ x), float((mean**2).sum()) / spread
    slope = float(scores.t @ x) / squares if df > 2 and squares > 0 else 0.0
    left = df - 1 if slope else df
    rest = max(scores.squares - slope**2 * squares, 0.0) * df / left
    rest = max(rest - excess, 0.0) * size
    noise = 2 * (raw * size) ** 2 / left
    variance = float(own @ own)
    if slope:
        noise += (2 * (1 + slope) * variance) ** 2 * (raw - slope**2 * squares) / left / squares
    return Training((2 * slope + slope**2) * variance + rest, noise, left)


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
