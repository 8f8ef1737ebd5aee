"""A prior of what learning curves do, wider than the paper's: breaks, plateaus, annealing, overfitting, divergence, spikes.

Chosen from general knowledge of training, and frozen before any score on real curves was read. A curve is badness b(x), from 1 at
the start of learning to 0 where nothing is left, with noise e; it becomes a loss, an accuracy or an unbounded metric, and that,
normalised as `farfield.curves.normalize` would, is the sample. U is uniform, LU log-uniform, N normal (mean, deviation), H the
horizon (the planned last step), [x1, H] "log time" means uniform in log x between the first step and the horizon.

    steps        length LU(10, m); 1 ... T (40 %), starting late by U(0, 0.5) T (15 %), log-spaced over U(0.7, 4) decades (20 %),
                 gamma gaps of shape LU(0.3, 5) (10 %), i^U(1.2, 3) (15 %); H = last step (65 %) or beyond it by exp U(0, 1.5)
    base         1 to 3 (50, 35, 15 %) curves with uniform Dirichlet weights; half-time tau log-uniform from x1 e^-1.5 to H e^0.5;
                 power (1 + x/tau)^-exp N(-0.7, 0.8) (35 %), exp(-(x/tau)^exp N(-0.1, 0.5)) (25 %),
                 1 / (1 + exp N(0, 0.3) log(1 + x/tau)) (10 %), 1 / (1 + (x/tau)^exp N(0.3, 0.5)) (30 %)
    breaks       0, 1, 2 (55, 33, 12 %) in log time, width LU(0.02, 0.7); from there log time runs exp N(0, 0.7) times as fast
    plateau      28 %, and a second in 7 %: a share U(0.1, 0.95) is learnt in a logistic drop in log time, width LU(0.02, 0.5)
    annealing    38 %: b falls by a share LU(0.01, 0.9) as the learning rate does: cosine^U(0.7, 3) (35 %), linear^U(1, 4) (15 %),
                 from U(0.5, 0.95) H to the end (25 %), up to three steps (18 %), 2 to 6 restarts (7 %)
    overfitting  18 %: b rises from a point in log time, by LU(0.02, 2) times a power U(0.8, 1.6) of time or log time, or to a level
    divergence   5 %: b goes to exp N(0, 0.6) if that is worse, in half of the curves with a recovery over LU(0.01, 1) H
    flat         6 %: all of the above is made LU(1e-4, 0.1) of its size
    drift        20 %: autoregression, 1 - rho LU(0.01, 0.4), deviation LU(1e-3, 0.1) of what is left
    noise        deviation LU(1e-4, 0.2); constant (45 %), b^U(0.2, 1) (25 %), x^-U(0, 0.7) (20 %), shrinking with annealing (10 %);
                 20 % Student with U(3, 8) degrees of freedom; 15 % autoregressive, rho U(0.2, 0.9)
    spikes       15 %: 1 to 4, of size LU(0.01, 1) times a Pareto(1.5) draw up to 10, decaying over LU(0.3, 6) points
    loss         45 %: r + (1 - r) b, or r^(1 - b) (30 % of losses); the floor r is 0 (15 %), LU(1e-3, 1) (35 %), U(0, 1) (30 %)
                 or 1 - LU(1e-3, 1) (20 %); normalised as min (0, 0, first value, inf)
    accuracy     35 %: bottom 0 (25 %), a chance level 1/2, 1/3, 1/5, 1/10, 1/100 (35 %), U(0, 0.6) (40 %); top U(bottom, 1) (50 %)
                 or 1 - (1 - bottom) LU(1e-3, 1) (50 %); clipped to [0, 1]; 15 % counted on LU(30, 10,000) examples; normalised as
                 max (0, 0, 1, 1)
    unbounded    20 %: normalised as by the first U(1, T) values
    running best 5 %: the best value so far
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.curves.data import Metric
from farfield.curves.normalize import Normaliser, from_seen
from farfield.curves.priors import parts
from farfield.curves.priors.drawn import PriorCurves
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float64]
_BLOCK = 256
_TINY = 1e-9
# share of curves that are the best value so far
RUNNING_BEST = 0.05
_CHANCE = np.array([1 / 2, 1 / 3, 1 / 5, 1 / 10, 1 / 100])


@dataclass(frozen=True)
class WidePrior:
    """The wide prior over curves of 10 to `m` points (see the module's table)."""

    m: int = 200

    def __post_init__(self) -> None:
        checks.count("m", self.m, least=10)

    def sample(self, n: int, rng: Seed = None) -> PriorCurves:
        """`n` curves of different lengths, padded with NaN; noise is the root mean square of y - latent.

        Raises InputError for n below 1.
        """
        n, z = checks.count("n", n), generator(rng)
        lengths = np.floor(np.exp(z.uniform(np.log(10), np.log(self.m + 1), n))).astype(np.int64).clip(10, self.m)
        x, y, latent = (np.full((n, self.m), np.nan) for _ in range(3))
        horizon = np.empty(n)
        # curves of like length together, which spares most of the padding
        order = np.argsort(lengths, kind="stable")
        for start in range(0, n, _BLOCK):
            rows = order[start : start + _BLOCK]
            at, *values = _block(z, lengths[rows])
            for whole, part in zip((x, y, latent), values, strict=True):
                whole[rows, : part.shape[1]] = part
            horizon[rows] = at.horizon
        noise = np.sqrt(np.nanmean((y - latent) ** 2, axis=1))
        return PriorCurves(x, y, latent, noise, lengths, horizon)


def badness(rng: np.random.Generator, at: parts.Axis) -> tuple[FloatArray, FloatArray]:
    """(n, m) each: what is left to learn at the steps of an axis, without and with noise."""
    b = parts.saturating(rng, at)
    parts.plateaus(rng, at, b)
    annealed = parts.annealing(rng, at, b)
    parts.overfitting(rng, at, b)
    parts.divergence(rng, at, b)
    flat = parts.rows(rng, at.shape[0], 0.06)
    b[flat] = 1 + parts.loguniform(rng, flat, 1e-4, 0.1) * (b[flat] - 1)
    parts.wandering(rng, at, b)
    seen = b + parts.noise(rng, at, b, annealed) + parts.spikes(rng, at)
    return b, seen


def _block(rng: np.random.Generator, lengths: NDArray[np.int64]) -> tuple[parts.Axis, FloatArray, FloatArray, FloatArray]:
    """(axis, x, y, latent) of curves of these lengths."""
    at = parts.axis(rng, lengths)
    n, m = at.shape
    b, seen = badness(rng, at)
    there = np.arange(m) < lengths[:, None]
    kind = parts.which(rng, n, METRIC_SHARES)
    latent, y = np.empty_like(b), np.empty_like(b)
    for k, metric in enumerate(METRICS):
        rows = np.flatnonzero(kind == k)
        *values, normaliser = metric(rng, b[rows], seen[rows], lengths[rows])
        latent[rows], y[rows] = (normaliser.forward(v) for v in values)
    best = parts.rows(rng, n, RUNNING_BEST)
    for values_z in (latent, y):
        values_z[best] = np.maximum.accumulate(values_z[best], axis=1)
        values_z[~there] = np.nan
    return at, np.where(there, at.x, np.nan), y, latent


def _losses(
    rng: np.random.Generator, b: FloatArray, seen: FloatArray, lengths: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray, Normaliser]:
    """(latent, observed) losses and what normalises them."""
    every = np.arange(len(b))
    choices = np.concatenate(
        [
            np.full((len(b), 1), _TINY),
            parts.loguniform(rng, every, 1e-3, 1.0),
            parts.uniform(rng, every, 0.0, 1.0),
            1 - parts.loguniform(rng, every, 1e-3, 1.0),
        ],
        axis=1,
    )
    floor = np.maximum(choices[every, parts.which(rng, len(b), (0.15, 0.35, 0.30, 0.20))], _TINY)[:, None]
    geometric = (rng.random(len(b)) < 0.3)[:, None] & (floor > 1e-4)

    def loss(values: FloatArray) -> FloatArray:
        # far divergence stays finite
        values = np.clip(values, -30.0, 30.0)
        ratio = np.where(geometric, floor, 0.5) ** (1 - values)
        return np.maximum(np.where(geometric, ratio, floor + (1 - floor) * values), _TINY)

    noisy = loss(seen)
    return loss(b), noisy, Normaliser("min", np.zeros(len(b)), np.zeros(len(b)), noisy[:, 0], np.full(len(b), np.inf))


def _accuracies(
    rng: np.random.Generator, b: FloatArray, seen: FloatArray, lengths: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray, Normaliser]:
    """(latent, observed) accuracies and what normalises them."""
    every = np.arange(len(b))
    bottoms = np.stack([np.zeros(len(b)), rng.choice(_CHANCE, len(b)), rng.uniform(0, 0.6, len(b))], axis=1)
    bottom = bottoms[every, parts.which(rng, len(b), (0.25, 0.35, 0.40))][:, None]
    high = 1 - (1 - bottom) * parts.loguniform(rng, every, 1e-3, 1.0)
    top = np.where(parts.uniform(rng, every, 0, 1) < 0.5, parts.uniform(rng, every, bottom, 1.0), high)
    latent, noisy = (np.clip(top - (top - bottom) * values, 0.0, 1.0) for values in (b, seen))
    counted = parts.rows(rng, len(b), 0.15)
    examples = np.round(parts.loguniform(rng, counted, 30, 10_000))
    noisy[counted] = np.round(noisy[counted] * examples) / examples
    none, one = np.zeros(len(b)), np.ones(len(b))
    return latent, noisy, Normaliser("max", none, none, one, one)


def _unbounded(
    rng: np.random.Generator, b: FloatArray, seen: FloatArray, lengths: NDArray[np.int64]
) -> tuple[FloatArray, FloatArray, Normaliser]:
    """(latent, observed) values of a metric without bounds, and what normalises them by a first part of the curve."""
    known = 1 + np.floor(rng.random(len(b)) * lengths)
    first = np.where(np.arange(b.shape[1]) < known[:, None], seen, np.nan)
    return b, seen, from_seen(first, Metric())


# kinds of metric and their shares
METRICS = (_losses, _accuracies, _unbounded)
METRIC_SHARES = (0.45, 0.35, 0.20)
