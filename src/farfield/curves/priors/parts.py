"""The parts that the wide prior composes curves of; `farfield.curves.priors.wide` holds the table of their distributions.

A curve is *badness* b over steps x: 1 at the very start, falling to 0 where nothing is left to learn. Parts that slow or speed up
learning bend time, parts that help lower b, parts that hurt raise it. All work on padded arrays (n, m) in place or return new
ones; `rows` draws which rows a part applies to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Axis:
    """Steps of `n` curves: x (n, m) rising and constant beyond each length; its logarithm; lengths (n,); horizon (n,)."""

    x: FloatArray
    log_x: FloatArray
    lengths: IntArray
    horizon: FloatArray

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[0], self.x.shape[1]

    def repeat(self, n: int) -> Axis:
        """The steps of `n` curves for each of these."""
        return Axis(
            np.repeat(self.x, n, axis=0), np.repeat(self.log_x, n, axis=0), np.repeat(self.lengths, n), np.repeat(self.horizon, n)
        )

    def moments(self, rng: Rng, rows: IntArray) -> FloatArray:
        """(k, 1) logarithms of steps, uniform in log time from the first step to the horizon."""
        return np.asarray(uniform(rng, rows, self.log_x[rows, :1], np.log(self.horizon[rows])[:, None]))

    def progress(self, rows: IntArray) -> FloatArray:
        """(k, m) shares of the horizon gone, in (0, 1]."""
        return np.asarray(self.x[rows] / self.horizon[rows, None])


class RowDraws(np.random.Generator, ABC):
    """A generator whose draws belong to rows, such as curves of one sweep; it must know of which rows each draw is."""

    @abstractmethod
    def of(self, index: IntArray) -> RowDraws:
        """The draws of some of the rows."""


def of(rng: Rng, index: IntArray) -> Rng:
    """`rng` for the rows at `index` of those it draws for; a plain generator does not mind."""
    return rng.of(index) if isinstance(rng, RowDraws) else rng


def uniform(rng: Rng, rows: IntArray, low: float | FloatArray, high: float | FloatArray) -> FloatArray:
    """(k, 1) uniform draws, one a row."""
    return np.asarray(low + (high - low) * of(rng, rows).random((len(rows), 1)))


def loguniform(rng: Rng, rows: IntArray, low: float, high: float) -> FloatArray:
    """(k, 1) draws uniform in the logarithm."""
    return np.asarray(np.exp(uniform(rng, rows, np.log(low), np.log(high))))


def rows(rng: Rng, n: int, share: float) -> IntArray:
    """Indices of the rows a part applies to."""
    return np.flatnonzero(rng.random(n) < share)


def which(rng: Rng, n: int, shares: tuple[float, ...]) -> IntArray:
    """(n,) index of one of several kinds."""
    return np.asarray(np.searchsorted(np.cumsum(shares), rng.random(n) * sum(shares)), dtype=np.int64)


def softplus(z: FloatArray) -> FloatArray:
    """log(1 + e^z), without overflow."""
    return np.asarray(np.logaddexp(0.0, z))


# -- steps ----------------------------------------------------------------------------------------------------------------


def axis(rng: Rng, lengths: IntArray) -> Axis:
    """Steps and horizons of curves of given lengths, padded to the longest."""
    n, m = len(lengths), int(lengths.max())
    everyone = np.arange(n)
    last = lengths[:, None]
    i = np.minimum(np.arange(1.0, m + 1), last)
    kind = which(rng, n, (0.40, 0.15, 0.20, 0.10, 0.15))
    x = i.copy()
    k = everyone[kind == 1]  # logging starts late
    x[k] += last[k] * uniform(rng, k, 0.0, 0.5)
    k = everyone[kind == 2]  # log-spaced, 0.7 to 4 decades
    x[k] = 10 ** ((i[k] - 1) / (last[k] - 1) * uniform(rng, k, 0.7, 4.0))
    k = everyone[kind == 3]  # irregular gaps
    gaps = rng.gamma(np.broadcast_to(loguniform(rng, k, 0.3, 5.0), (len(k), m))) + 1e-2
    x[k] = np.take_along_axis(np.cumsum(gaps, axis=1), i[k].astype(np.int64) - 1, axis=1)
    k = everyone[kind == 4]  # dense at first
    x[k] = i[k] ** uniform(rng, k, 1.2, 3.0)
    horizon = x[:, -1].copy()
    k = rows(rng, n, 0.35)
    horizon[k] *= np.exp(uniform(rng, k, 0.0, 1.5))[:, 0]
    return Axis(x, np.log(x), lengths, horizon)


# -- what is learnt -------------------------------------------------------------------------------------------------------


def bent_time(rng: Rng, at: Axis) -> FloatArray:
    """(n, m) log time, whose rate changes smoothly at none, one or two breaks."""
    out = at.log_x.copy()
    breaks = which(rng, at.shape[0], (0.55, 0.33, 0.12))
    k = np.flatnonzero(breaks > 0)
    places = np.sort(np.concatenate([at.moments(rng, k), at.moments(rng, k)], axis=1), axis=1)
    rate = np.ones((len(k), 1))
    for j in range(2):
        there = breaks[k] > j
        log_x, place = at.log_x[k[there]], places[there, j : j + 1]
        factor = np.exp(0.7 * of(rng, k[there]).standard_normal((int(there.sum()), 1)))
        width = loguniform(rng, k[there], 0.02, 0.7)
        out[k[there]] += rate[there] * (factor - 1) * width * softplus((log_x - place) / width)
        rate[there] *= factor
    return out


def saturating(rng: Rng, at: Axis) -> FloatArray:
    """(n, m) badness: a convex combination of one to three falling curves over bent time."""
    n, m = at.shape
    time = bent_time(rng, at)
    count = 1 + which(rng, n, (0.50, 0.35, 0.15))
    weights = rng.standard_exponential((n, 3)) * (np.arange(3) < count[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    out = np.zeros((n, m))
    for j in range(3):
        k = np.flatnonzero(count > j)
        log_tau = uniform(rng, k, at.log_x[k, :1] - 1.5, np.log(at.horizon[k])[:, None] + 0.5)
        u = time[k] - log_tau
        family = which(of(rng, k), len(k), (0.35, 0.25, 0.10, 0.30))
        bend = of(rng, k).standard_normal((len(k), 1))
        for f in range(4):
            there = family == f
            v, b = u[there], bend[there]
            if f == 0:  # power, shifted by tau
                left = np.exp(-np.exp(-0.7 + 0.8 * b) * softplus(v))
            elif f == 1:  # stretched exponential (Janoschek, Weibull)
                left = np.exp(-np.exp(np.minimum(np.exp(-0.1 + 0.5 * b) * v, 6.0)))
            elif f == 2:  # inverse logarithm
                left = 1 / (1 + np.exp(0.3 * b) * softplus(v))
            else:  # Hill (Morgan-Mercer-Flodin)
                left = special.expit(-np.exp(0.3 + 0.5 * b) * v)
            out[k[there]] += weights[k[there], j : j + 1] * left
    return out


def plateaus(rng: Rng, at: Axis, b: FloatArray) -> None:
    """Part of what can be learnt comes late and at once: a plateau, then a drop; some curves have two."""
    for share in (0.28, 0.07):
        k = rows(rng, at.shape[0], share)
        q = uniform(rng, k, 0.1, 0.95)
        width = loguniform(rng, k, 0.02, 0.5)
        late = special.expit((at.moments(rng, k) - at.log_x[k]) / width)
        b[k] = (1 - q) * b[k] + q * late


def annealing(rng: Rng, at: Axis, b: FloatArray) -> FloatArray:
    """Learning-rate decay lowers what is left towards the horizon; returns how far it has gone, (n, m) in [0, 1]."""
    n, m = at.shape
    gone = np.zeros((n, m))
    k = rows(rng, n, 0.38)
    s, own = at.progress(k), of(rng, k)
    kind = which(own, len(k), (0.35, 0.15, 0.25, 0.18, 0.07))
    h = np.zeros_like(s)
    for f in range(5):
        there = np.flatnonzero(kind == f)
        t = s[there]
        if f == 0:  # cosine
            h[there] = (0.5 - 0.5 * np.cos(np.pi * t)) ** uniform(own, there, 0.7, 3.0)
        elif f == 1:  # linear
            h[there] = t ** uniform(own, there, 1.0, 4.0)
        elif f == 2:  # constant, then decay
            start = uniform(own, there, 0.5, 0.95)
            h[there] = np.maximum((t - start) / (1 - start), 0.0) ** uniform(own, there, 0.5, 2.0)
        elif f == 3:  # one to three steps
            left = np.ones_like(t)
            for _ in range(3):
                place, speed = uniform(own, there, 0.2, 0.95), loguniform(own, there, 1e-3, 0.1)
                on = uniform(own, there, 0.0, 1.0) < 0.6
                left *= np.where(on & (t > place), 0.3 + 0.7 * np.exp(-np.maximum(t - place, 0) / speed), 1.0)
            h[there] = 1 - left
        else:  # cosine with restarts
            cycles = of(own, there).integers(2, 7, (len(there), 1))
            h[there] = 0.5 - 0.5 * np.cos(np.pi * ((t * cycles) % 1.0))
    gone[k] = h
    b[k] *= 1 - loguniform(rng, k, 0.01, 0.9) * h
    return gone


# -- what goes wrong ------------------------------------------------------------------------------------------------------


def overfitting(rng: Rng, at: Axis, b: FloatArray) -> None:
    """After a minimum b rises again, in time or in log time, without or with an end."""
    k = rows(rng, at.shape[0], 0.18)
    start, kind = at.moments(rng, k), which(of(rng, k), len(k), (0.4, 0.3, 0.3))[:, None]
    beyond = np.maximum(at.progress(k) - np.exp(start) / at.horizon[k, None], 0.0)
    power, end = uniform(rng, k, 0.8, 1.6), loguniform(rng, k, 0.05, 1.0)
    log_beyond = 0.15 * softplus((at.log_x[k] - start) / 0.15)
    rise = np.where(kind == 0, beyond**power, np.where(kind == 1, log_beyond**power, 1 - np.exp(-beyond / end)))
    b[k] += loguniform(rng, k, 0.02, 2.0) * rise


def divergence(rng: Rng, at: Axis, b: FloatArray) -> None:
    """At some step training breaks: b returns to its start or worse, for good or with a slow recovery."""
    k = rows(rng, at.shape[0], 0.05)
    after = at.progress(k) - np.exp(at.moments(rng, k)) / at.horizon[k, None]
    up = special.expit(after / loguniform(rng, k, 1e-3, 0.05))
    up *= np.where(uniform(rng, k, 0, 1) < 0.5, np.exp(-np.maximum(after, 0) / loguniform(rng, k, 0.01, 1.0)), 1.0)
    level = np.exp(0.6 * of(rng, k).standard_normal((len(k), 1)))
    b[k] += up * np.maximum(level - b[k], 0.0)


def spikes(rng: Rng, at: Axis) -> FloatArray:
    """(n, m) what one to four heavy-tailed outliers of a few points add."""
    n, m = at.shape
    out = np.zeros((n, m))
    i = np.arange(m)
    k = rows(rng, n, 0.15)
    size, span = loguniform(rng, k, 0.01, 1.0), loguniform(rng, k, 0.3, 6.0)
    count = 1 + which(of(rng, k), len(k), (0.4, 0.3, 0.2, 0.1))
    for j in range(4):
        there = np.flatnonzero(count > j)
        since = i - np.floor(uniform(rng, k[there], 0.0, at.lengths[k[there], None].astype(np.float64)))
        height = size[there] * np.minimum(of(rng, k[there]).pareto(1.5, (len(there), 1)) + 0.2, 10.0)
        out[k[there]] += height * np.where(since >= 0, np.exp(-np.maximum(since, 0) / span[there]), 0.0)
    return out


def chained(z: FloatArray, rho: FloatArray) -> FloatArray:
    """First-order autoregression with unit variance of independent `z` (n, m), correlation `rho` (n, 1) of neighbours."""
    out = np.array(z)
    fresh = np.sqrt(1 - rho * rho)[:, 0]
    for i in range(1, z.shape[1]):
        out[:, i] = rho[:, 0] * out[:, i - 1] + fresh * z[:, i]
    return out


def wandering(rng: Rng, at: Axis, b: FloatArray) -> None:
    """A slow drift that noise does not explain."""
    k = rows(rng, at.shape[0], 0.20)
    drift = chained(of(rng, k).standard_normal((len(k), at.shape[1])), 1 - loguniform(rng, k, 0.01, 0.4))
    b[k] += loguniform(rng, k, 1e-3, 0.1) * drift * np.maximum(b[k], 0.05)


def noise(rng: Rng, at: Axis, b: FloatArray, annealed: FloatArray) -> FloatArray:
    """(n, m) noise whose scale is constant or shrinks with what is left, with time or as annealing goes on."""
    n, m = at.shape
    everyone = np.arange(n)
    z = rng.standard_normal((n, m))
    k = rows(rng, n, 0.20)  # heavy tails, scaled to unit variance
    freedom = uniform(rng, k, 3.0, 8.0)
    z[k] *= np.sqrt((freedom - 2) / (2 * rng.standard_gamma(np.broadcast_to(freedom / 2, (len(k), m)))))
    k = rows(rng, n, 0.15)
    z[k] = chained(z[k], uniform(rng, k, 0.2, 0.9))
    kind = which(rng, n, (0.45, 0.25, 0.20, 0.10))
    scale = np.ones((n, m))
    k = everyone[kind == 1]
    scale[k] = np.maximum(b[k], 1e-3) ** uniform(rng, k, 0.2, 1.0)
    k = everyone[kind == 2]
    scale[k] = np.exp(-uniform(rng, k, 0.0, 0.7) * (at.log_x[k] - at.log_x[k, :1]))
    k = everyone[kind == 3]
    scale[k] = 1 - uniform(rng, k, 0.3, 0.97) * annealed[k]
    return np.asarray(loguniform(rng, everyone, 1e-4, 0.2) * scale * z)
