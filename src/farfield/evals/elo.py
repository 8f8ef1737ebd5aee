"""Elo ratings by maximum likelihood, with a gauge and intervals.

Player i beats player j with probability 1 / (1 + 10^((r_j - r_i) / 400)) (Bradley and Terry 1952, on Elo's scale). The
log-likelihood of wins is concave in r, so Newton's method finds its maximum; only differences of ratings enter, so one player, the
*anchor*, is given his rating (0 for perfect play). Where a player has won or lost everything the maximum lies at infinity: every
pair that has met is given `pseudo` further games, half won each, which is a prior and draws ratings together. Errors follow from
the curvature at the maximum; that of a difference needs the covariance, which is kept.

Games with an advantage for who moves first are made even by :func:`symmetrise`: a win rate is the mean of the two colours' rates.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import ConvergenceWarning, InputError

FloatArray = NDArray[np.float64]
SCALE = 400 / np.log(10)  # Elo points a natural unit of log odds


@dataclass(frozen=True, repr=False)
class Ratings:
    """Ratings of n players.

    Attributes
    ----------
    elo : (n,) ratings; covariance : (n, n) of their errors, zero for the anchor
    anchor : index of the player whose rating is given
    log_likelihood : of the games as played, without pseudo-games
    """

    elo: FloatArray
    covariance: FloatArray
    anchor: int
    log_likelihood: float

    def __repr__(self) -> str:
        return f"Ratings({len(self.elo)} players, {self.elo.min():.0f} to {self.elo.max():.0f}, anchor {self.anchor})"

    @property
    def error(self) -> FloatArray:
        """(n,) standard errors of the ratings relative to the anchor."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0.0)))

    def interval(self, level: float = 0.8) -> tuple[FloatArray, FloatArray]:
        """(n,), (n,) normal intervals of the ratings relative to the anchor."""
        half = NormalDist().inv_cdf(0.5 + checks.level("level", level) / 2) * self.error
        return self.elo - half, self.elo + half

    def difference(self, i: int, j: int) -> tuple[float, float]:
        """How many points i stands above j, and the standard error of that."""
        c = self.covariance
        return float(self.elo[i] - self.elo[j]), float(np.sqrt(max(c[i, i] + c[j, j] - 2 * c[i, j], 0.0)))

    def expected(self, i: int, j: int) -> float:
        """Probability that i beats j."""
        return float(1 / (1 + np.exp((self.elo[j] - self.elo[i]) / SCALE)))


def fit(
    wins: ArrayLike, games: ArrayLike | None = None, *, anchor: int = 0, anchored_at: float = 0.0, pseudo: float = 1.0
) -> Ratings:
    """Ratings from results of pairs.

    Parameters
    ----------
    wins : (n, n) [i, j] how often i beat j; draws count half to both; may be fractions, as after `symmetrise`
    games : (n, n) symmetric, games of each pair; None for wins + wins.T
    anchor, anchored_at : the player whose rating is known, and that rating
    pseudo : games added to each pair that met, half won by each; 0 for plain maximum likelihood

    Raises InputError where games do not link all players, where wins do not add up to games, or where with pseudo = 0 some group of
    players never lost to, or never beat, the rest.
    """
    w = checks.finite("wins", wins, ndim=2)
    n = len(w)
    if w.shape != (n, n) or n < 2:
        raise InputError(f"wins has shape {w.shape}; allowed: (n, n) for two players or more")
    total = w + w.T if games is None else checks.finite("games", games, shape=(n, n))
    if (w < 0).any() or np.diag(w).any() or np.abs(w + w.T - total).max() > 1e-6 * max(float(total.max()), 1.0):
        raise InputError("wins must not be negative, none against oneself, and wins[i, j] + wins[j, i] must be games[i, j]")
    if not 0 <= anchor < n:
        raise InputError(f"anchor is {anchor}; allowed: 0 to {n - 1}")
    if not pseudo >= 0:
        raise InputError(f"pseudo is {pseudo}; allowed: 0 or more games")
    apart = ~_linked(total > 0)
    if apart.any():
        raise InputError(
            f"no games link players {np.flatnonzero(apart).tolist()} to player 0; ratings compare who met, if by others"
        )
    won = w + 0.5 * pseudo * (total > 0)
    if pseudo == 0 and not (_linked(w > 0).all() and _linked(w.T > 0).all()):
        raise InputError("some players won, or lost, every game against the rest, so a rating is infinite; give pseudo > 0")
    played = won + won.T
    free = np.arange(n) != anchor
    r = np.zeros(n)

    def objective(v: FloatArray) -> float:
        return float(-(won * np.logaddexp(0.0, v[None, :] - v[:, None])).sum())

    information = np.eye(n)
    for _ in range(100):
        p = 1 / (1 + np.exp(r[None, :] - r[:, None]))
        slope = (won - played * p).sum(1)[free]
        weight = played * p * (1 - p)
        information = (np.diag(weight.sum(1)) - weight)[np.ix_(free, free)]
        step = np.zeros(n)
        step[free] = np.linalg.solve(information, slope)
        size = 1.0
        while objective(r + size * step) < objective(r) - 1e-12 and size > 1e-6:
            size /= 2
        r = r + size * step
        if np.abs(step).max() < 1e-10:
            break
    else:
        warnings.warn("ratings stopped before they settled; give more pseudo-games", ConvergenceWarning, stacklevel=2)
    covariance = np.zeros((n, n))
    covariance[np.ix_(free, free)] = np.linalg.inv(information) * SCALE**2
    likelihood = float(-(w * np.logaddexp(0.0, r[None, :] - r[:, None])).sum())
    return Ratings(SCALE * (r - r[anchor]) + anchored_at, covariance, int(anchor), likelihood)


def symmetrise(first_wins: ArrayLike, first_games: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """(n, n) wins and games with both colours counted alike.

    Parameters
    ----------
    first_wins : (n, n) [i, j] how often i, moving first, beat j
    first_games : (n, n) [i, j] how often i moved first against j

    The rate of a pair is the mean of its rates with i first and with j first; its games are as many as tell as much: twice the
    harmonic mean of the two counts. Pairs seen with one colour only are left out.
    """
    won, games = checks.finite("first_wins", first_wins, ndim=2), checks.finite("first_games", first_games, ndim=2)
    if won.shape != games.shape or won.shape[0] != won.shape[1] or (won > games).any() or (won < 0).any():
        raise InputError(f"first_wins {won.shape} and first_games {games.shape} must be (n, n), with wins from 0 up to games")
    both = (games > 0) & (games.T > 0)
    safe = np.where(games > 0, games, 1.0)
    rate = 0.5 * (won / safe + 1 - (won / safe).T)
    count = np.where(both, 4 / (1 / safe + 1 / safe.T), 0.0)
    np.fill_diagonal(count, 0.0)
    return np.asarray(rate * count), np.asarray(count)


def _linked(joined: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) which players are reached from the first along `joined`."""
    reached = np.arange(len(joined)) == 0
    while True:
        new = reached | joined[reached].any(0)
        if (new == reached).all():
            return np.asarray(reached)
        reached = new
