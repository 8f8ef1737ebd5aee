"""Estimates of a gap and its parts, with intervals: what the scored rows leave open, and what the training rows add to it.

Means over rows get bootstrap-t intervals (Efron & Tibshirani 1993, section 12.5), since losses are skewed; other scores percentile
ones. One resample draws units with replacement from all of them, so that reference and beyond, which share rows, are compared on
the same ones. Over repeats the interval is then stretched to the variance that :mod:`farfield.gap.training` finds, by Student's t
with as many degrees of freedom as that variance is known to (Satterthwaite). Scores of whole regions, which no row can be traced
in, get the variance between repeats instead, by the delete-d jackknife, or the corrected resampled t interval (Nadeau & Bengio
2003) where that is wider. Extrapolations near zero are skewed in a way of their own: :mod:`farfield.gap.apart`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from farfield.gap.apart import by_chance, leant
from farfield.gap.resample import Resamples, linear_error
from farfield.gap.result import Estimate
from farfield.gap.scores import Score
from farfield.gap.training import BEYOND, INSIDE, REFERENCE, Evidence, Training, from_training
from farfield.intervals import corrected_resampled_t
from farfield.splits.rows import FloatArray

FEW_ROWS, FEW_GROUPS = 30, 5  # fewer in a part: Student's t
LEAST = 0.25  # of the variance that the scored rows make: no covariance is believed that takes away more


def weights_of(lower_is_better: bool) -> dict[str, FloatArray]:
    """What each quantity is made of: weights of the scores inside, of the reference and beyond."""
    sign = 1.0 if lower_is_better else -1.0
    of = {"inside": (1, 0, 0), "reference": (0, 1, 0), "beyond": (0, 0, 1)}
    differences = {"gap": (-sign, 0, sign), "difficulty": (-sign, sign, 0), "extrapolation": (0, -sign, sign)}
    return {name: np.array(w, dtype=np.float64) for name, w in (of | differences).items()}


def slopes(score: Score, means: FloatArray) -> FloatArray:
    """The derivative of the score by the mean loss: 1 where it is that mean."""
    if score.finish is None:
        return np.ones_like(means)
    step = 1e-6 * np.maximum(np.abs(means), 1e-300)
    return np.asarray((score.finish(means + step) - score.finish(means)) / step)


@dataclass(frozen=True)
class Intervals:
    """Makes the interval of any combination of the three scores.

    `means` (3,) and `ratios` (n_boot, 3): the scores, and in every resample, before `finish`; `n` (3,) units of each part; `few`:
    fewer units than a bootstrap needs. `resamples` and `evidence` are None for scores of whole regions, which go by `per_split`.
    """

    score: Score
    level: float
    means: FloatArray
    ratios: FloatArray
    n: tuple[int, int, int]
    few: bool
    per_split: NDArray[Any]
    resamples: Resamples | None
    evidence: Evidence | None
    linear: bool = False  # a difference of two models, linear in the losses whatever the score
    apart: float = 0.0  # how far the model's answers lie from the reference's, in units of the mean loss; 0: not known

    def of(self, weights: FloatArray, value: float) -> Estimate:
        """The interval around `value`, the sum of `weights` (3,) times the scores."""
        parts = np.flatnonzero(weights)
        n = min(self.n[p] for p in parts)
        draws = self._finish(self.ratios[:, parts]) @ weights[parts]
        kept = np.isfinite(draws)
        if kept.sum() < 2:
            return Estimate(value, np.nan, np.nan, n, np.nan)
        error = float(draws[kept].std(ddof=1))
        tails = [(1 - self.level) / 2, (1 + self.level) / 2]
        low, high = (float(q) for q in np.quantile(draws[kept], tails))
        if self.resamples is not None:
            within, own = self._errors(self.resamples, weights)
            kept &= within > 1e-9 * own
            if own > 0 and kept.mean() > 0.9:
                upper, lower = (float(q) for q in np.quantile((draws[kept] - value) / within[kept], tails))
                low, high, error = min(value, value - lower * own), max(value, value - upper * own), own
        pairs = weights[REFERENCE] ** 2 * self._pairs
        if pairs > 0 and error > 0:
            wider = float(np.sqrt(1 + pairs / error**2))
            low, high, error = value - wider * (value - low), value + wider * (high - value), wider * error
        training = self._training(weights)
        if training.noise > 0:
            total = float(np.sqrt(max(error**2 + training.variance, LEAST * error**2)))
            t = float(special.stdtrit(training.freedom(total**2), tails[1]))
            if error > 0:
                wider = total / error * t / float(special.ndtri(tails[1]))
                low, high = value - wider * (value - low), value + wider * (high - value)
            else:
                low, high = value - t * total, value + t * total
            error = total
        if self._leans(weights):
            low, high = leant(value, low, high, self._far)
        if self.few and n > 1:
            # the bootstrap's variance lacks a factor n / (n - 1), and its normal tails are too light
            half = float(special.stdtrit(n - 1, tails[1])) * error * np.sqrt(n / (n - 1))
            low, high = min(low, value - half), max(high, value + half)
        if self.evidence is None:
            half = self._over_repeats(weights)
            if half > (high - low) / 2:
                low, high = value - half, value + half
        return Estimate(value, low, high, n, error)

    # -- near zero -----------------------------------------------------------------------------------------------------------------

    @cached_property
    def _far(self) -> float:
        """How far the model's answers lie from the reference's, in units of the score."""
        return self.apart * abs(float(self._slope(self.means)[REFERENCE])) if self.apart > 0 else 0.0

    @cached_property
    def _pairs(self) -> float:
        """The variance that pairs of rows of different folds add to the reference of a single repeat."""
        e = self.evidence
        if not self._far or e is None or self.resamples is None or e.repeated or not e.fold.any():
            return 0.0
        weights = weights_of(self.score.lower_is_better)["extrapolation"]
        share = by_chance(float(self._finish(self.means)[1:] @ weights[1:]), self._far)
        return share * self._errors(self.resamples, weights)[1] ** 2

    def _leans(self, weights: FloatArray) -> bool:
        return bool(self._far and self.evidence and self.evidence.repeated and not weights[INSIDE] and weights[1:].all())

    def _finish(self, means: FloatArray) -> FloatArray:
        return means if self.linear or self.score.finish is None else self.score.finish(means)

    def _slope(self, means: FloatArray) -> FloatArray:
        return np.ones_like(means) if self.linear else slopes(self.score, means)

    def _errors(self, r: Resamples, weights: FloatArray) -> tuple[FloatArray, float]:
        """The standard error of the combination in every resample, and in the data."""
        within = linear_error(r.ratios, r.totals, r.moments, weights * self._slope(r.ratios))
        return within, float(linear_error(*r.whole, weights * self._slope(r.whole[0]))[0])

    # -- training rows -------------------------------------------------------------------------------------------------------------

    def _training(self, weights: FloatArray) -> Training:
        if self.evidence is not None:
            return from_training(self.evidence, np.where(weights == 0, 0.0, weights * self._slope(self.means)))
        varied = sum((weights[p] * self.per_split[k] for p, k in _OUTSIDE if weights[p]), np.zeros(self.per_split.size))
        added, noise, least = 0.0, 0.0, 0
        for name in np.unique(self.per_split["region"]):
            here = self.per_split["region"] == name
            some = self.per_split[here]
            if some.size > 1:
                share = float((some["n_train"] / some["n_inside"]).mean())
                rest = float(np.var(varied[here], ddof=1)) * (1 / some.size + share) * (some.size / self.per_split.size) ** 2
                added, noise = added + rest, noise + 2 * rest**2 / (some.size - 1)
                least = min(least or some.size - 1, some.size - 1)
        return Training(added, noise, least)

    def _over_repeats(self, weights: FloatArray) -> float:
        """Half the width of the corrected resampled t interval, the regions' in quadrature; 0 without repeats."""
        found = sum((weights[p] * self.per_split[k] for p, k in _PARTS if weights[p]), np.zeros(self.per_split.size))
        halves = []
        names = np.unique(self.per_split["region"])
        for name in names:
            here = self.per_split["region"] == name
            if here.sum() < 2:
                return 0.0
            some = self.per_split[here]
            t = corrected_resampled_t(found[here], float(some["n_train"].mean()), float(some["n_inside"].mean()), self.level)
            halves.append((t.high - t.low) / 2)
        return float(np.sqrt(np.square(halves).sum()) / names.size)


_OUTSIDE = ((REFERENCE, "reference"), (BEYOND, "beyond"))
_PARTS = ((INSIDE, "inside"), *_OUTSIDE)
