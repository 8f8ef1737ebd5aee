"""A prior over sweeps: sets of curves that a random function of their hyperparameters ties together (after FT-PFN, 2404.16795).

FT-PFN draws the parameters of four basis curves, for every configuration of a task, from one random neural network, whose outputs
are turned into uniform variates. Here every single draw that the wide prior makes for a curve comes from such a function: with
h_i the hyperparameters of curve i, draw c of task t is the quantile, at the probability Phi(g), of its distribution, where

    g = sqrt(s) A_c + sqrt(f) w_c . phi(h_i) + sqrt(o) E_ci,    s + f + o = 1,    |phi| = 1,    A_c, w_c, E_ci standard normal

So each curve by itself is exactly one of `farfield.curves.priors.WidePrior`, breaks, divergence and noise included, and what the
curves of a task have in common is one Gaussian copula: a part that all share (s), a function of the hyperparameters (f), and what
each has for itself (o). U is uniform, LU log-uniform, N normal, Dir Dirichlet.

    curves         all curves of a task have the same steps and horizon, and the same kind of metric
    shares         (s, f, o) are Dir(1.2, 1.2, 0.6) a task, each times an exponential variate a draw; s fourfold for draws that
                   decide between kinds of curves, so that a task is mostly of one kind
    function       phi are 32 cosines of random projections of h, over lengths LU(0.7, 6), dimensions weighted by exp N(0, 0.8)
    h              1 to 10 dimensions (log-uniform), each uniform (60 %), normal (15 %) or on 2 to 5 levels (25 %); in 15 % of tasks
                   there are few configurations and several runs of each
    seen settings  none in 30 % of tasks, else each dimension with probability 0.85; standardised within the task
    common noise   in 25 % of tasks a share U(0, 1) of the noise's variance is the same in all curves at a step (one order of data)

Chosen from general knowledge, and frozen before any score on real curves was read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from farfield import checks
from farfield.curves.normalize import Normaliser
from farfield.curves.priors import parts
from farfield.curves.priors.wide import METRIC_SHARES, METRICS, RUNNING_BEST, badness
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
# dimensions of h, and settings a network reads
MOST_SETTINGS = 10
_FEATURES = 32
_FEW_COLUMNS = 4  # draws of so many numbers a row belong to the row; more are points of its curve
_SHARES = (1.2, 1.2, 0.6)
_DECIDING = 4.0


@dataclass(frozen=True, eq=False)
class Sweeps:
    """Tasks of `n` curves each at `m` common steps.

    Attributes
    ----------
    x : (tasks, m) steps, above 0 and rising
    y : (tasks, n, m) observed values, smaller is better
    normaliser : the (tasks * n) maps of the curves to [0, 1]
    settings : (tasks, n, MOST_SETTINGS) hyperparameters, standardised within a task, 0 where a task has fewer
    horizon : (tasks,) planned last steps
    """

    x: FloatArray
    y: FloatArray
    normaliser: Normaliser
    settings: FloatArray
    horizon: FloatArray

    def __repr__(self) -> str:
        return "Sweeps({} tasks of {} curves of {} points)".format(*self.y.shape)


@dataclass(frozen=True)
class SweepPrior:
    """The prior over sweeps (see the module's table)."""

    def sample(self, tasks: int, curves: int, points: int, rng: Seed = None) -> Sweeps:
        """`tasks` sweeps of `curves` curves of `points` points.

        Raises InputError for fewer than one task or curve, or fewer than ten points.
        """
        t, n = checks.count("tasks", tasks), checks.count("curves", curves)
        m, z = checks.count("points", points, least=10), generator(rng)
        h = _hyperparameters(z, t, n)
        draws = TaskDraws.between(z, h)
        axis = parts.axis(z, np.full(t, m, dtype=np.int64))
        repeated = axis.repeat(n)
        b, seen = badness(draws, repeated)
        kind = np.repeat(parts.which(z, t, METRIC_SHARES), n)
        y, bounds = np.empty_like(b), np.empty((4, t * n))
        for k, metric in enumerate(METRICS):
            rows = np.flatnonzero(kind == k)
            _, y[rows], normaliser = metric(parts.of(draws, rows), b[rows], seen[rows], repeated.lengths[rows])
            ends = (normaliser.hard_low, normaliser.soft_low, normaliser.soft_high, normaliser.hard_high)
            if normaliser.goal == "max":
                # the same map of the value with its sign turned
                y[rows] *= -1
                ends = (-ends[3], -ends[2], -ends[1], -ends[0])
            bounds[:, rows] = ends
        best = np.repeat(z.random(t) < RUNNING_BEST, n)
        y[best] = np.minimum.accumulate(y[best], axis=1)
        return Sweeps(axis.x, y.reshape(t, n, m), Normaliser("min", *bounds), _settings(z, h), axis.horizon)


class TaskDraws(parts.RowDraws):
    """Draws for curves, one a row, that are tied together within tasks; see the module's formula.

    A draw of one to four numbers a row is tied; larger ones are points of curves, independent but for the noise that is common.
    """

    _features: FloatArray  # (tasks, n, features), rows of norm 1
    _shares: FloatArray  # (tasks, 3)
    _common: FloatArray  # (tasks,) share of the noise that all curves of a task have
    _index: IntArray  # rows of this view

    @classmethod
    def between(cls, rng: np.random.Generator, h: FloatArray) -> Self:
        """Draws for tasks whose curves have hyperparameters h (tasks, n, d), NaN in dimensions that a task has not."""
        t, n, d = h.shape
        self = cls(rng.bit_generator)
        weights = np.exp(0.8 * rng.standard_normal((t, 1, d)))
        there = np.isfinite(h)
        scaled = np.where(there, h, 0.0) * weights
        # lengths are those of a typical difference between two configurations
        scaled /= np.sqrt((np.square(weights) * there).sum(axis=2, keepdims=True))
        length = np.exp(rng.uniform(np.log(0.7), np.log(6.0), (t, 1, 1)))
        waves = np.cos(
            scaled / length @ (2.0 * rng.standard_normal((t, d, _FEATURES))) + rng.uniform(0, 2 * np.pi, (t, 1, _FEATURES))
        )
        self._features = waves / np.linalg.norm(waves, axis=2, keepdims=True)
        self._shares = rng.dirichlet(_SHARES, t)
        self._common = np.where(rng.random(t) < 0.25, rng.random(t), 0.0)
        self._index = np.arange(t * n)
        return self

    def of(self, index: IntArray) -> Self:
        view = type(self)(self.bit_generator)
        view._features, view._shares, view._common = self._features, self._shares, self._common
        view._index = self._index[index]
        return view

    def _tied(self, size: Any) -> FloatArray | None:
        """Standard normal draws, one or a few a row of this view; None where the draw is of points."""
        shape = (size,) if np.ndim(size) == 0 else tuple(size)
        if len(shape) > 1 and shape[1] > _FEW_COLUMNS:
            return None
        t, n, k = self._features.shape
        columns = shape[1] if len(shape) > 1 else 1
        plain = super().standard_normal
        share = self._shares * super().standard_exponential((t, 3))
        if len(shape) == 1:
            share[:, 0] *= _DECIDING
        share /= share.sum(axis=1, keepdims=True)
        shared, function, own = np.sqrt(share).T[:, :, None, None]
        g = shared * plain((t, 1, columns)) + function * (self._features @ plain((t, k, columns))) + own * plain((t, n, columns))
        return np.asarray(g.reshape(t * n, columns)[self._index].reshape(shape))

    # -- what the wide prior draws --------------------------------------------------------------------------------------

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        tied = self._tied(size)
        if tied is not None:
            return tied
        t, n, _ = self._features.shape
        own = super().standard_normal((t * n, size[1]))
        common = np.repeat(super().standard_normal((t, size[1])), n, axis=0)
        share = np.repeat(self._common, n)[:, None]
        return (np.sqrt(share) * common + np.sqrt(1 - share) * own)[self._index]

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        tied = self._tied(size)
        return super().random(size) if tied is None else special.ndtr(tied)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return low + (high - low) * self.random(size)

    def standard_exponential(self, size: Any = None, dtype: Any = np.float64, method: Any = "zig", out: Any = None) -> Any:
        tied = self._tied(size)
        return super().standard_exponential(size) if tied is None else -special.log_ndtr(tied)

    def pareto(self, a: Any, size: Any = None) -> Any:
        return np.expm1(self.standard_exponential(size) / a)

    def integers(self, low: Any, high: Any = None, size: Any = None, dtype: Any = np.int64, endpoint: bool = False) -> Any:
        return np.minimum(low + np.floor((high - low) * self.random(size)), high - 1).astype(dtype)

    def choice(self, a: ArrayLike, size: Any = None, *rest: Any, **named: Any) -> Any:
        options = np.asarray(a)
        return options[self.integers(0, len(options), size)]


def _hyperparameters(rng: np.random.Generator, t: int, n: int) -> FloatArray:
    """(t, n, MOST_SETTINGS) configurations, NaN in dimensions that a task has not."""
    shape = (t, n, MOST_SETTINGS)
    flat, bell = rng.uniform(-np.sqrt(3), np.sqrt(3), shape), rng.standard_normal(shape)
    levels = rng.integers(2, 6, (t, 1, MOST_SETTINGS))
    stepped = (np.floor(rng.random(shape) * levels) / (levels - 1) - 0.5) * 2
    kind = parts.which(rng, t * MOST_SETTINGS, (0.60, 0.15, 0.25)).reshape(t, 1, MOST_SETTINGS)
    h = np.where(kind == 0, flat, np.where(kind == 1, bell, stepped))
    few = rng.random(t) < 0.15
    again = rng.integers(0, max(2, n // 3), (t, n)) % n
    h = np.where(few[:, None, None], np.take_along_axis(h, again[:, :, None], axis=1), h)
    count = np.floor(np.exp(rng.uniform(0, np.log(MOST_SETTINGS + 1), t))).clip(1, MOST_SETTINGS)
    return np.where(np.arange(MOST_SETTINGS) < count[:, None, None], h, np.nan)


def _settings(rng: np.random.Generator, h: FloatArray) -> FloatArray:
    """What is known of hyperparameters h, standardised."""
    known = (rng.random((len(h), 1, 1)) >= 0.30) & (rng.random((len(h), 1, MOST_SETTINGS)) < 0.85)
    return standardised(np.where(known, h, np.nan))


def standardised(settings: FloatArray) -> FloatArray:
    """Settings (..., n, d) to mean 0 and deviation 1 over the n runs; 0 where a run has none, and where all are the same."""
    there = np.isfinite(settings)
    count = np.maximum(there.sum(axis=-2, keepdims=True), 1)
    # a second centring takes away what rounding left, so that equal settings are exactly alike
    centred = np.where(there, settings, 0.0)
    for _ in range(2):
        centred = np.where(there, centred - centred.sum(axis=-2, keepdims=True) / count, 0.0)
    deviation = np.sqrt(np.square(centred).sum(axis=-2, keepdims=True) / count)
    largest = np.abs(np.where(there, settings, 0.0)).max(axis=-2, keepdims=True)
    varies = deviation > 1e-9 * largest
    return np.asarray(np.where(varies, centred / np.where(varies, deviation, 1.0), 0.0))
