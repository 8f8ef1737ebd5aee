"""The clamped change-point law against known planes and a brute-force search; the frontier and the trade-off by loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from farfield.curves.frontier import FrontierLaw, frontier, trade_off
from farfield.errors import InputError
from tolerances import assert_close

TRUE = (500.0, -430.0, 100.0, -270.0, -150.0)


def law(theta, compute, size):
    rise, by_size, offset, floor_size, floor = theta
    return np.minimum(0, np.maximum(rise * np.log10(compute) + by_size * size + offset, floor_size * size + floor))


def points(sizes, n=15):
    compute, size = (g.ravel() for g in np.meshgrid(np.geomspace(1, 1e5, n), np.array(sizes, dtype=float)))
    return compute, size


def test_planes_are_recovered_and_the_next_size_predicted():
    compute, size = points((3, 4, 5))
    fitted = FrontierLaw(n_boot=0).fit(compute, size, law(TRUE, compute, size))
    assert list(fitted.parameters_.values()) == pytest.approx(TRUE, rel=1e-6)
    assert fitted.residual_variance_ < 1e-12
    compute, size = points((6,))
    assert fitted.expected(compute, size) == pytest.approx(law(TRUE, compute, size), rel=1e-6, abs=1e-6)
    # the incline meets -50 where 500 log10 C = -50 + 430 * 6 - 100
    assert fitted.compute_for(-50, 6) == pytest.approx(10 ** ((-50 + 430 * 6 - 100) / 500))


def test_the_fit_is_no_worse_than_a_search_from_many_starts():
    rng = np.random.default_rng(0)
    compute, size = points((3, 4, 5), 9)
    y = np.minimum(law(TRUE, compute, size) + 80 * rng.normal(size=compute.size), 30.0)
    weights = rng.uniform(0.5, 2, y.size)

    def cost(theta):
        return (weights * (y - law(theta, compute, size)) ** 2).sum()

    best = min(
        minimize(cost, np.array(TRUE) * rng.uniform(0.5, 1.5, 5), method="Nelder-Mead", options={"maxiter": 3000}).fun
        for _ in range(8)
    )
    fitted = FrontierLaw(n_boot=0).fit(compute, size, y, weights)
    assert cost(list(fitted.parameters_.values())) <= best * (1 + 1e-6)
    share = ((y - fitted.expected(compute, size)) ** 2).sum() / (y**2).sum()
    assert fitted.residual_variance_ == pytest.approx(share)
    assert fitted.residual_variance(compute, size, y) == pytest.approx(share)


def test_the_cap_may_lie_anywhere():
    compute, size = points((3, 4))
    fitted = FrontierLaw(cap=1000.0, n_boot=0).fit(compute, size, 1000 + law(TRUE, compute, size))
    assert fitted.expected(compute, size) == pytest.approx(1000 + law(TRUE, compute, size), rel=1e-6)
    assert fitted.parameters_["incline_offset"] == pytest.approx(1100)
    with pytest.raises(InputError, match="below the cap"):
        fitted.compute_for(1000, 3)


def test_without_size_all_sizes_look_alike():
    compute, size = points((3, 4))
    fitted = FrontierLaw(sized=False, n_boot=0).fit(compute, size, law(TRUE, compute, size))
    assert_close(fitted.expected(compute, 3), fitted.expected(compute, 9))
    assert fitted.parameters_["incline_size"] == fitted.parameters_["plateau_size"] == 0


def test_intervals_hold_new_points_of_seen_sizes():
    rng = np.random.default_rng(1)
    inside = []
    for _ in range(12):
        compute, size = points((3, 4, 5), 10)
        truth = law(TRUE, compute, size)
        fitted = FrontierLaw(n_boot=40, random_state=rng).fit(compute, size, truth + 60 * rng.normal(size=truth.size))
        low, high = fitted.predict(compute, size=size).interval(0.8)
        new = truth + 60 * rng.normal(size=truth.size)
        inside.append(((low <= new) & (new <= high)).mean())
    assert 0.72 < np.mean(inside) < 0.88


def test_weighted_points_are_resampled_by_their_own_noise():
    rng = np.random.default_rng(2)
    compute, size = points((3, 4, 5))
    noise = np.where(np.arange(compute.size) % 2, 5.0, 60.0)

    def fitted(n_boot):
        score = law(TRUE, compute, size) + noise * rng.normal(size=compute.size)
        return FrontierLaw(n_boot=n_boot, random_state=0).fit(compute, size, score, weights=1 / noise**2)

    truth = np.std([fitted(0).parameters_["incline_compute"] for _ in range(40)])
    assert np.mean([fitted(60).draws_[:, 0].std() for _ in range(5)]) == pytest.approx(truth, rel=0.4)


def test_the_frontier_by_a_loop_and_its_optimism():
    rng = np.random.default_rng(2)
    runs = np.repeat(["a", "b", "c"], 4)
    compute = np.concatenate([np.sort(rng.uniform(0, 4, 4)) for _ in range(3)])
    score = rng.normal(size=12)
    found = frontier(10**compute, score, runs, points=25)
    best = -np.inf
    for x, y in zip(np.log10(found.compute), found.score, strict=True):
        for run in "abc":
            at, values = compute[runs == run], score[runs == run]
            if at[0] - 1e-12 <= x <= at[-1] + 1e-12:
                best = max(best, np.interp(x, at, values))
        assert y == pytest.approx(best)
    # forty equal runs of noise 1: the maximum lies well above the truth, 0, and adding the noise again tells about how far
    compute, runs = np.tile([1.0, 10.0], 40), np.repeat(np.arange(40), 2)
    noisy = frontier(compute, rng.normal(size=80), runs, error=np.ones(80), points=2, rng=0)
    assert noisy.score[0] > 1.5
    assert noisy.optimism[0] == pytest.approx(noisy.score[0], rel=0.7)


def test_the_trade_off_is_recovered():
    train, test = (g.ravel() for g in np.meshgrid(10.0 ** np.arange(8, 15), 10.0 ** np.arange(-6, 12, 0.1)))
    score = (np.log10(test) + 1.2 * np.log10(train) - 18) / 0.004 - 1e-9
    found = trade_off(train, test, score, [-1500, -1000, -500, 0])
    assert found.train_slope == pytest.approx(-1.2, abs=0.1)
    assert found.score_slope == pytest.approx(0.004, rel=0.1)
    level, target, least = found.points[0]
    assert least == test[(train <= level) & (score >= target)].min()
    assert found.test_compute(1e10, -500) == pytest.approx(10 ** (18 - 12 - 2), rel=0.6)


def test_refusals():
    compute, size = points((3,))
    y = law(TRUE, compute, size)
    for arguments, message in (
        ((compute, size, y), "two sizes"),
        ((compute[:4], [3, 3, 4, 4], y[:4]), "six or more"),
        ((-compute, size, y), "above 0"),
        ((compute, [3, 4], y), "size"),
    ):
        with pytest.raises(InputError, match=message):
            FrontierLaw().fit(*arguments)
    with pytest.raises(InputError, match="same compute"):
        frontier([1, 1], [0, 1], ["a", "a"])
    with pytest.raises(InputError, match="n_boot is 0"):
        frontier([1, 10], [0, 1], ["a", "a"], error=[1, 1], n_boot=0)
    with pytest.raises(InputError, match="four or more"):
        trade_off([1, 10], [1, 1], [0, 0], [0.0])
    fitted = FrontierLaw(sized=False, n_boot=0).fit(compute, size, y)
    with pytest.raises(InputError, match="n_boot is 0"):
        fitted.predict(compute, size=3)
