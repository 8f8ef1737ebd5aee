"""What other runs teach: how far off was the outlook of runs that looked alike, at the same reach?

Runs observed further along are cut so that their known end lies at the asked reach. Their errors, in units of their own
outlook's scale, form the *evidence*. A new run's predictive distribution is its own centre plus the errors of its nearest
neighbours in the description of the seen curve, times its own scale: a kernel estimate of the conditional distribution of
the error. Its width is then stretched so that the intervals cover where whole groups of runs are held out (split-conformal
scaling, Vovk et al. 2005; Lei et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.curves.edged import Edged
from farfield.curves.fit import FloatArray, IntArray
from farfield.predictive import Mixture

N_NEIGHBOURS = 40
# evidence from fewer runs, or from a single group, is blended in but does not calibrate
LEAST_RUNS, LEAST_GROUPS = 20, 3
# of these, so many must have had learning rates, now and then, within this part of the peak of the run's own: errors made under a
# constant rate say nothing of a decay. Where fewer than that come within half of the peak, these few alone are evidence, beside the
# general law
LEAST_LIKE, _LIKE_COURSE, _HALF_COURSE = 10, 0.2, 0.5
# the law of errors before any evidence: Student t with 2 degrees of freedom, as pseudo-observations worth this many runs. Four
# fifths of the scaled errors of the example runs, and of two public collections of curves, lie within 0.58 at any reach
_PRIOR_RUNS = 4.0
_PRIOR_SCALE = 0.31
_PRIOR_KERNEL = 0.4 * _PRIOR_SCALE
_LEVELS = (np.arange(15) + 0.5) / 15
_PRIOR_ERRORS = _PRIOR_SCALE * (2 * _LEVELS - 1) / np.sqrt(2 * _LEVELS * (1 - _LEVELS))
_BANDWIDTH = 0.6
# a kernel at a bound is the narrowest there is, centred two of its widths from the bound: so many widths hold nearly all of it
EDGE = 4.0
# squared distance between runs that share no categorical setting, where features are one standard deviation each
_KIND = 6.0
# runs with different learning rates ahead are not alike, whatever their curves: this much of the peak is one unit of distance
_COURSE = 0.08


@dataclass(frozen=True)
class Description:
    """What makes runs alike, for n runs.

    features : (n, n_features) the seen curve in units of its own scale; compared in standard deviations of the evidence
    course : (n, n_course) learning rates over their peak, now and then; compared as they are
    kinds : (n, n_kinds) codes of categorical settings (model, optimiser, ...); n_kinds may be 0
    """

    features: FloatArray
    course: FloatArray
    kinds: IntArray

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: NDArray[np.bool_] | IntArray) -> Description:
        """The named runs only."""
        return Description(self.features[rows], self.course[rows], self.kinds[rows])


@dataclass(frozen=True)
class Evidence:
    """Errors of n runs at one reach, at m positions up to it.

    runs : descriptions of their cut curves
    errors : (n, m) = (truth - centre) / scale
    groups : (n,) codes of runs that belong together
    shares : (m,) of the log reach, the last 1
    weights : (n,) how many runs each stands for (`farfield.curves.censoring`); None for one each
    """

    runs: Description
    errors: FloatArray
    groups: IntArray
    shares: FloatArray
    weights: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.runs)

    def take(self, rows: NDArray[np.bool_] | IntArray) -> Evidence:
        """The named runs only."""
        weights = None if self.weights is None else self.weights[rows]
        return Evidence(self.runs.take(rows), self.errors[rows], self.groups[rows], self.shares, weights)


@dataclass(frozen=True)
class ErrorLaw:
    """The distribution of the scaled error given the description of the seen curve."""

    evidence: Evidence
    centre: FloatArray
    spread: FloatArray

    @classmethod
    def fit(cls, evidence: Evidence) -> ErrorLaw:
        """From evidence; with none, the prior law."""
        if not len(evidence):
            width = evidence.runs.features.shape[1]
            return cls(evidence, np.zeros(width), np.ones(width))
        low, mid, high = np.quantile(evidence.runs.features, [0.1, 0.5, 0.9], axis=0)
        return cls(evidence, mid, (high - low) / 2.56 + 1e-12 * (1.0 + np.abs(mid)))

    @property
    def calibrates(self) -> bool:
        """Whether there are enough runs and groups to scale the intervals."""
        return len(self.evidence) >= LEAST_RUNS and np.unique(self.evidence.groups).size >= LEAST_GROUPS

    def supports(self, runs: Description) -> NDArray[np.bool_]:
        """(n,) whether enough runs of the evidence went through a like stretch of learning rates to speak for each run."""
        return self._enough(runs, _LIKE_COURSE) if self.calibrates else np.zeros(len(runs), dtype=bool)

    def informs(self, runs: Description) -> NDArray[np.bool_]:
        """(n,) whether enough runs of the evidence went through half of each run's stretch of learning rates, or nobody has any."""
        return self._enough(runs, _HALF_COURSE)

    def _enough(self, runs: Description, within: float) -> NDArray[np.bool_]:
        out = np.ones(len(runs), dtype=bool)
        for start in range(0, len(runs), 256):
            rows = slice(start, start + 256)
            like = self._like(runs.course[rows], within)
            if like is not None:
                out[rows] = like.sum(axis=1) >= LEAST_LIKE
        return out

    def _like(self, course: FloatArray, within: float) -> NDArray[np.bool_] | None:
        """(n, n_evidence) whose learning rates, now and then, were near `course` (n, n_course); None where no run has any."""
        known = self.evidence.runs.course
        if not len(known) or not (course.any() or known.any()):
            return None
        near: NDArray[np.bool_] = np.abs(course[:, None, :] - known[None]).max(axis=2) <= within + 1e-9
        return near

    def errors(
        self, runs: Description, shares: FloatArray, exclude: IntArray | None = None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Weighted errors for new runs: values (n, m, k), weights (n, k) and kernel widths (n, m, k).

        shares : (m,) of the log reach, in (0, 1]; exclude : (n,) group code whose runs may not inform the row
        """
        n, m = len(runs), shares.size
        prior = np.broadcast_to(_PRIOR_ERRORS, (n, m, _PRIOR_ERRORS.size))
        even, kernel = np.full((n, _PRIOR_ERRORS.size), 1.0 / _PRIOR_ERRORS.size), np.full(prior.shape, _PRIOR_KERNEL)
        if not len(self.evidence):
            return prior, even, kernel
        near, weight, trust = self._neighbours(runs, exclude)
        value = self._at_shares(near, shares)
        effective = 1.0 / np.maximum((weight**2).sum(axis=1), 1e-12)
        width = 0.5 * _weighted_spread(value, weight[:, None, :]) * effective[:, None, None] ** -0.2 + 1e-3
        return (
            np.concatenate([value, prior], axis=2),
            np.concatenate([trust[:, None] * weight, (1.0 - trust)[:, None] * even], axis=1),
            np.concatenate([np.broadcast_to(width, value.shape), kernel], axis=2),
        )

    def _neighbours(self, runs: Description, exclude: IntArray | None) -> tuple[IntArray, FloatArray, FloatArray]:
        """Most alike runs (n, k) of the evidence, their weights (n, k), and (n,) how far the evidence is trusted."""
        n, size = len(runs), len(self.evidence)
        k = int(min(N_NEIGHBOURS, max(10, size // 3), size))
        place, known = self._place(runs), self._place(self.evidence.runs)
        norm = (known**2).sum(axis=1)
        near, distance = np.empty((n, k), dtype=np.int64), np.empty((n, k))
        few = np.full(n, np.inf)
        for start in range(0, n, 256):
            rows = slice(start, start + 256)
            square = place[rows] @ (-2.0 * known.T)
            square += norm
            square += (place[rows] ** 2).sum(axis=1)[:, None]
            for column in range(runs.kinds.shape[1]):
                other = runs.kinds[rows, None, column] != self.evidence.runs.kinds[:, column]
                square += _KIND / runs.kinds.shape[1] * other
            if exclude is not None:
                square[exclude[rows, None] == self.evidence.groups] = np.inf
            like = self._like(runs.course[rows], _HALF_COURSE)
            if like is not None:
                like &= np.isfinite(square)
                counts = like.sum(axis=1)
                few[rows] = np.where(counts < LEAST_LIKE, counts, few[rows])
                # what came after another stretch of learning rates is no guide: worse than to know nothing of other runs
                square[(counts < LEAST_LIKE)[:, None] & ~like] = np.inf
            index = np.argpartition(square, k - 1, axis=1)[:, :k] if k < size else np.tile(np.arange(k), (len(square), 1))
            near[rows] = index
            distance[rows] = np.sqrt(np.maximum(np.take_along_axis(square, index, axis=1), 0.0))
        finite = np.isfinite(distance)
        distance = np.where(finite, distance, 0.0)
        farthest = distance.max(axis=1, keepdims=True) + 1e-12
        weight = np.where(finite, np.exp(-0.5 * (distance / (_BANDWIDTH * farthest)) ** 2), 0.0)
        if self.evidence.weights is not None:
            weight = weight * self.evidence.weights[near]
        total = weight.sum(axis=1, keepdims=True)
        available = np.minimum(finite.sum(axis=1) / k * size, few)
        return near, weight / np.where(total > 0, total, 1.0), available / (available + _PRIOR_RUNS)

    def _place(self, runs: Description) -> FloatArray:
        """(n, n_dimensions) coordinates in which likeness is distance."""
        features = np.clip((runs.features - self.centre) / self.spread, -4.0, 4.0)
        return np.concatenate([features, runs.course / _COURSE], axis=1)

    def _at_shares(self, near: IntArray, shares: FloatArray) -> FloatArray:
        """Errors (n, m, k) of the runs `near` (n, k) at `shares` (m,) of the log reach, linear between known ones, 0 at 0."""
        known = np.concatenate([[0.0], self.evidence.shares])
        errors = np.concatenate([np.zeros((len(self.evidence), 1)), self.evidence.errors], axis=1)
        right = np.clip(np.searchsorted(known, shares, side="left"), 1, known.size - 1)
        part = (shares - known[right - 1]) / (known[right] - known[right - 1])
        at = (1.0 - part) * errors[:, right - 1] + part * errors[:, right]
        return np.swapaxes(at[near], 1, 2)

    def predictive(
        self, runs: Description, centre: FloatArray, scale: FloatArray, *, exclude: IntArray | None = None,
        lower: float | FloatArray = -np.inf, upper: float | FloatArray = np.inf,
    ) -> Edged:  # fmt: skip
        """Predictive distributions of shape (n,) for runs with the outlook `centre`, `scale` (n,), before scaling.

        lower, upper : bounds, numbers or (n,)
        """
        values, weights, widths = self.errors(runs, np.ones(1), exclude)
        low, high = (np.broadcast_to(b, (len(runs),))[:, None] for b in (lower, upper))
        unit = scale[:, None]
        loc, width = within(centre[:, None] + unit * values[:, 0], unit * widths[:, 0], unit, low, high)
        edge = np.broadcast_to(edge_of(unit, low, high), loc.shape)[:, 0]
        return Edged(weights, loc, width, lower=lower, upper=upper, edge=edge)


def within(
    loc: FloatArray, width: FloatArray, unit: FloatArray, lower: FloatArray | float, upper: FloatArray | float
) -> tuple[FloatArray, FloatArray]:
    """Kernels moved and narrowed so that each keeps its mass inside the bounds; all arguments broadcast.

    Truncation alone would take half the mass of every kernel at a bound and so push the median away from it.
    """
    least = edge_of(unit, lower, upper) / EDGE + 1e-300
    loc = np.clip(loc, lower + 2.0 * least, upper - 2.0 * least)
    room = np.minimum(loc - lower, upper - loc)
    return loc, np.maximum(np.minimum(width, 0.5 * room), least)


def edge_of(unit: FloatArray, lower: FloatArray | float, upper: FloatArray | float) -> FloatArray:
    """How near to a bound a value counts as lying there: as far as a kernel at the bound goes."""
    return np.asarray(EDGE * np.minimum(0.02 * unit, 0.125 * (np.asarray(upper) - lower)))


def _weighted_spread(value: FloatArray, weight: FloatArray) -> FloatArray:
    """(..., 1) interquartile range over that of a unit normal: outliers among the errors must not widen every kernel."""
    low, high = (weighted_quantile(value, weight, q) for q in (0.25, 0.75))
    return (high - low) / 1.349


def weighted_quantile(value: FloatArray, weight: FloatArray, q: float) -> FloatArray:
    """(..., 1) smallest of `value` (..., k) at which the share of `weight` (broadcast) reaches `q`."""
    order = np.argsort(value, axis=-1)
    below = np.cumsum(np.take_along_axis(np.broadcast_to(weight, value.shape), order, axis=-1), axis=-1)
    first = (below >= q * below[..., -1:]).argmax(axis=-1)[..., None]
    return np.take_along_axis(value, np.take_along_axis(order, first, axis=-1), axis=-1)


def conformal_factor(
    predictive: Mixture, truth: FloatArray, level: float, weights: FloatArray | None = None, least: FloatArray | float = 0.0
) -> float:
    """Factor by which the central intervals of held-out runs must be stretched about the median to cover at `level`.

    The score of a run is the distance of the truth from the median in units of the interval's half-width on that side;
    the factor is the finite-sample quantile ceil((n + 1) level) / n of the scores. With `weights` (n,) the quantile is that of
    the weighted scores, one run of average weight added (weighted conformal prediction, Tibshirani et al. 2019). Half-widths below
    `least`, a number or (n,), count as that: an interval all at a bound has none.
    """
    low, high = predictive.interval(level)
    median = predictive.median()
    half = np.where(truth < median, median - low, high - median)
    score = np.abs(truth - median) / np.maximum(half, least + 1e-300)
    if weights is not None:
        order = np.argsort(score)
        held = np.cumsum(weights[order])
        at = int(np.searchsorted(held, level * (held[-1] + weights.mean()) * (1 - 1e-12)))
        return float(score[order][min(at, score.size - 1)])
    score = np.sort(score)
    rank = int(np.ceil((score.size + 1) * level)) - 1
    return float(score[min(rank, score.size - 1)])
