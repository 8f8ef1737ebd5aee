"""Where all runs end, together: joint draws, the chance that each wins, and what stopping some of them would lose.

Forecasts of runs that belong together err together. Their draws share a factor: u_i = Phi(sqrt(s) z_group + sqrt(1 - s) z_i) is
put through each run's own quantile function, with s the *share* of the variance of the normal scores that runs of a group have in
common. It is the intraclass correlation of the errors made on other runs (one-way analysis of variance: s = (MSB - MSW) / (MSB +
(k - 1) MSW), k the effective group size), drawn towards `PRIOR_SHARE` where few groups speak.

What a run will have been worth is the best value on its way, V_i = min(best seen, end): its checkpoint is kept when it is stopped.
So stopping a set S loses the winner exactly when the least V lies in S and below everything already seen: the chances add up.
All values here are signed so that smaller is better.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from farfield.curves.data import FloatArray, IntArray
from farfield.predictive import Mixture

# the share before any evidence, and the number of groups its weight is worth
PRIOR_SHARE, _PRIOR_GROUPS = 0.3, 5.0
_MOST_SHARE = 0.95
# even places at which a distribution function is known, besides those of its components
_NODES = 48
_SCORE = 3.5  # normal scores beyond it are taken to be this far out


def inverse(predictive: Mixture, uniform: FloatArray) -> FloatArray:
    """(n_draws, n) values of the distributions (n,) at the probabilities `uniform` (n_draws, n).

    By a table of each distribution function at its own components' places: hundreds of times faster than root finding, and to a few
    hundredths of the spread.
    """
    used = predictive.weights > 0
    first = np.take_along_axis(predictive.loc, used.argmax(axis=1)[:, None], axis=1)
    loc, wide = np.where(used, predictive.loc, first), np.where(used, predictive.scale, 0.0).max(axis=1, keepdims=True)
    low, high = loc.min(axis=1, keepdims=True), loc.max(axis=1, keepdims=True)
    tails = wide * np.array([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0])
    # the components' own places tell the body, even ones the gaps between those far out
    even = low + (high - low) * np.linspace(0.0, 1.0, _NODES)
    nodes = np.sort(np.concatenate([low - tails, loc, even, high + tails], axis=1), axis=1)
    nodes = np.clip(nodes, np.asarray(predictive.lower)[:, None], np.asarray(predictive.upper)[:, None])
    below = predictive.cdf(nodes.T).T
    return np.column_stack([np.interp(uniform[:, j], below[j], nodes[j]) for j in range(len(nodes))])


def correlated(n_draws: int, groups: IntArray, share: float, rng: np.random.Generator) -> FloatArray:
    """(n_draws, n) uniforms; the normal scores of runs of one group (n,) are correlated by `share`."""
    _, code = np.unique(groups, return_inverse=True)
    shared = rng.standard_normal((n_draws, int(code.max()) + 1 if code.size else 0))[:, code]
    uniform: FloatArray = ndtr(np.sqrt(share) * shared + np.sqrt(1.0 - share) * rng.standard_normal((n_draws, code.size)))
    return uniform


def shared_part(probability: FloatArray, groups: IntArray) -> float:
    """The share of the errors' normal scores that runs of a group have in common, from held-out runs.

    Parameters
    ----------
    probability : (n,) the distribution function of each run's forecast at what came
    groups : (n,) codes
    """
    score = np.clip(ndtri(np.clip(probability, 1e-12, 1 - 1e-12)), -_SCORE, _SCORE)
    _, code, size = np.unique(groups, return_inverse=True, return_counts=True)
    n, m = score.size, size.size
    several = int((size > 1).sum())
    if m < 2 or several < 2:
        return PRIOR_SHARE
    mean = np.bincount(code, score) / size
    between = float((size * (mean - score.mean()) ** 2).sum() / (m - 1))
    within = float(((score - mean[code]) ** 2).sum() / max(n - m, 1))
    k = (n - (size**2).sum() / n) / (m - 1)
    found = (between - within) / max(between + (k - 1) * within, 1e-12)
    blended = (several * max(found, 0.0) + _PRIOR_GROUPS * PRIOR_SHARE) / (several + _PRIOR_GROUPS)
    return float(min(blended, _MOST_SHARE))


@dataclass(frozen=True)
class Ends:
    """Joint draws of where n runs end, signed so that smaller is better.

    draws : (n_draws, n) the best value each run will have had, `had` where it is not forecast
    had : (n,) the best value seen so far, infinity where nothing was
    """

    draws: FloatArray
    had: FloatArray

    @cached_property
    def winners(self) -> FloatArray:
        """(n_draws,) the best of all runs."""
        return np.asarray(self.draws.min(axis=1, initial=np.inf))

    @cached_property
    def p_best(self) -> FloatArray:
        """(n,) probability to end best; runs that tie share the draw."""
        best = self.draws == self.winners[:, None]
        return np.asarray((best / best.sum(axis=1, keepdims=True)).mean(axis=0))

    @cached_property
    def p_wins_yet(self) -> FloatArray:
        """(n,) probability to end best with a value better than everything seen so far: what stopping the run would lose."""
        best = (self.draws == self.winners[:, None]) & (self.winners < self.had.min(initial=np.inf))[:, None]
        return np.asarray((best / np.maximum(best.sum(axis=1, keepdims=True), 1)).mean(axis=0))

    @cached_property
    def new_part(self) -> FloatArray:
        """(n,) the part of each run's wins that takes a value better than everything seen so far; 1 for a run that never wins."""
        return np.where(self.p_best > 0, self.p_wins_yet / np.maximum(self.p_best, 1e-300), 1.0)

    def regret(self, stopped: NDArray[np.bool_]) -> float:
        """Expected loss of the best value when the runs `stopped` (n,) keep what they had."""
        kept = np.where(stopped, self.had, self.draws).min(axis=1)
        return float((kept - self.winners).mean())

    def fresh_gain(self) -> float:
        """Expected gain of the best value from one more run, of the kind of these, trained to its end."""
        if not self.draws.size:
            return 0.0
        # another draw's best, so that the new run does not compete with itself
        best = np.roll(self.winners, 1)[:, None]
        return float(np.maximum(best - self.draws, 0.0).mean())

    def least_gainful(
        self, may_stop: NDArray[np.bool_], remaining: FloatArray, gone: NDArray[np.bool_]
    ) -> tuple[IntArray, FloatArray]:
        """Order in which runs would be stopped, the least gain per unit of budget first, and each one's gain when its turn comes.

        Parameters
        ----------
        may_stop : (n,) runs to order
        remaining : (n,) budget each still needs
        gone : (n,) runs that are already stopped and keep what they had

        The gain of a run is what the best value of those kept would lose without it; it grows as rivals go, and is found anew
        after each stop.
        """
        n = self.had.size
        floor = self.had.min() if n else np.inf
        values = np.minimum(self.draws, floor)
        order = np.argsort(values, axis=1, kind="stable")
        kept = np.append(~gone, True)  # the last is what has been seen: it never goes
        padded = np.column_stack([order, np.full(len(order), n)])
        best = np.column_stack([values, np.full(len(values), floor)])
        rows = np.arange(len(order))

        def next_kept(at: IntArray, which: IntArray) -> IntArray:
            at = at.copy()
            while (lost := ~kept[padded[which, at]]).any():
                at[lost] += 1
            return at

        first = next_kept(np.zeros(len(order), dtype=np.int64), rows)
        second = next_kept(np.minimum(first + 1, n), rows)
        out, gains = [], []
        expected = self.draws.mean(axis=0)
        left = may_stop & ~gone
        while left.any():
            leader = padded[rows, first]
            margin = best[rows, padded[rows, second]] - best[rows, leader]
            gain = np.bincount(leader, margin, minlength=n + 1)[:n] / len(order)
            rate = np.where(left, gain / np.maximum(remaining, 1e-300), np.inf)
            # draws tell runs without a chance apart no further: of those the worst expected end goes first
            i = int(np.where(rate <= rate.min(), expected, -np.inf).argmax())
            out.append(i)
            gains.append(gain[i])
            left[i] = kept[i] = False
            hit = np.flatnonzero((leader == i) | (padded[rows, second] == i))
            first[hit] = next_kept(first[hit], hit)
            second[hit] = next_kept(np.minimum(np.maximum(second[hit], first[hit] + 1), n), hit)
        return np.array(out, dtype=np.int64), np.array(gains)


def ends(
    final: Mixture, forecast: IntArray, had: FloatArray, groups: IntArray, share: float, goal: str, n_draws: int,
    rng: np.random.Generator,
) -> Ends:  # fmt: skip
    """Joint draws of every run: `final` (k,) are the distributions of the runs `forecast` (k,), `had` (n,) is signed."""
    draws = np.broadcast_to(had, (n_draws, had.size)).copy()
    if forecast.size:
        values = inverse(final, correlated(n_draws, groups[forecast], share, rng))
        draws[:, forecast] = np.minimum(values if goal == "min" else -values, had[forecast])
    return Ends(draws, had)
