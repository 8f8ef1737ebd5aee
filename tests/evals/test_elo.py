"""Elo against the closed form of two players, a general optimiser, finite differences and simulated games."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from farfield.errors import InputError
from farfield.evals import elo

GAMES = np.array([[0, 20, 8, 0], [20, 0, 12, 30], [8, 12, 0, 6], [0, 30, 6, 0]])
WINS = np.array([[0, 15, 7, 0], [5, 0, 8, 20], [1, 4, 0, 3], [0, 10, 3, 0]])


def test_two_players_have_a_closed_form():
    found = elo.fit([[0, 30], [10, 0]], pseudo=0)
    assert found.elo.tolist() == pytest.approx([0, -400 * np.log10(3)])
    # the variance of log odds from 30 and 10
    assert found.error[1] == pytest.approx(elo.SCALE * np.sqrt(1 / 30 + 1 / 10))
    assert found.expected(0, 1) == pytest.approx(0.75)
    low, high = found.interval(0.9)
    assert high[1] - low[1] == pytest.approx(2 * 1.6448536 * found.error[1], rel=1e-6)


@pytest.mark.parametrize("pseudo", [0.0, 2.0])
def test_against_a_general_optimiser_and_its_numerical_curvature(pseudo):
    won = WINS + 0.5 * pseudo * (GAMES > 0)

    def loss(r):
        full = np.r_[r[0], 0.0, r[1:]]  # player 1 is the anchor
        return sum(won[i, j] * np.log1p(np.exp(full[j] - full[i])) for i in range(4) for j in range(4))

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
    found = elo.fit(WINS, GAMES, anchor=1, anchored_at=50.0, pseudo=pseudo)
    assert (found.elo - 50)[[0, 2, 3]] / elo.SCALE == pytest.approx(best, abs=1e-6)
    h = 1e-4
    bend = [
        [(loss(best + h * (a + b)) - loss(best + h * (a - b)) - loss(best - h * (a - b)) + loss(best - h * (a + b))) / (4 * h * h)
         for b in np.eye(3)]
        for a in np.eye(3)
    ]  # fmt: skip
    covariance = np.linalg.inv(bend) * elo.SCALE**2
    assert found.covariance[np.ix_([0, 2, 3], [0, 2, 3])] == pytest.approx(covariance, rel=1e-4)
    assert found.error[1] == 0
    points, error = found.difference(0, 3)
    assert points == pytest.approx(found.elo[0] - found.elo[3])
    assert error == pytest.approx(np.sqrt(covariance[0, 0] + covariance[2, 2] - 2 * covariance[0, 2]), rel=1e-4)


def test_the_gauge_shifts_all_ratings_alike():
    one, other = elo.fit(WINS, GAMES, anchor=0), elo.fit(WINS, GAMES, anchor=3, anchored_at=1000.0)
    assert np.diff(one.elo) == pytest.approx(np.diff(other.elo))
    assert (one.elo[0], other.elo[3]) == (0.0, 1000.0)


def test_intervals_of_simulated_tournaments_hold_the_truth():
    rng = np.random.default_rng(0)
    truth = np.array([0.0, -60.0, -150.0, -300.0])
    chance = 1 / (1 + np.exp((truth[None] - truth[:, None]) / elo.SCALE))
    inside = []
    for _ in range(200):
        wins = np.zeros((4, 4))
        for i in range(4):
            for j in range(i):
                wins[i, j] = rng.binomial(60, chance[i, j])
                wins[j, i] = 60 - wins[i, j]
        low, high = elo.fit(wins, pseudo=0.5).interval(0.8)
        inside.append((low <= truth) & (truth <= high))
    assert 0.75 < np.mean(inside, axis=0)[1:].mean() < 0.86


def test_a_clean_sweep_has_a_rating_with_pseudo_games_only():
    with pytest.raises(InputError, match="infinite"):
        elo.fit([[0, 10], [0, 0]], pseudo=0)
    assert elo.fit([[0, 10], [0, 0]], pseudo=1).elo[1] == pytest.approx(-400 * np.log10(21))


def test_the_advantage_of_the_first_move_cancels():
    # equal players, the first of whom always wins, met unequally often with either colour
    wins, games = elo.symmetrise([[0, 30], [10, 0]], [[0, 30], [10, 0]])
    assert wins[0, 1] == wins[1, 0] == pytest.approx(15.0)
    assert games[0, 1] == pytest.approx(30.0)
    assert elo.fit(wins, games).elo.tolist() == pytest.approx([0, 0])
    # a rate of 1 as first and of 1/2 as second
    wins, games = elo.symmetrise([[0, 8], [4, 0]], [[0, 8], [8, 0]])
    assert wins[0, 1] / games[0, 1] == pytest.approx(0.75)


def test_refusals():
    for arguments, message in (
        (([[0, 1, 0], [1, 0, 0], [0, 0, 0]],), "link"),
        (([[0, 5], [1, 0]], [[0, 5], [5, 0]]), "must be games"),
        (([[0, -1], [1, 0]],), "negative"),
        (([[0, 1, 2]],), "shape"),
    ):
        with pytest.raises(InputError, match=message):
            elo.fit(*arguments)
    with pytest.raises(InputError, match="anchor is 2"):
        elo.fit([[0, 1], [1, 0]], anchor=2)
    with pytest.raises(InputError, match="wins from 0"):
        elo.symmetrise([[0, 5], [1, 0]], [[0, 2], [2, 0]])
