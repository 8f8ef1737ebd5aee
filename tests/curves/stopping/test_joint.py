"""Joint draws against brute force: quantiles, shared errors, who wins, what stopping loses and in what order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from farfield.curves.stopping.joint import PRIOR_SHARE, Ends, correlated, ends, inverse, shared_part
from farfield.predictive import Mixture


def some_mixture(n: int, k: int, seed: int = 0, **bounds: float) -> Mixture:
    rng = np.random.default_rng(seed)
    return Mixture(rng.random((n, k)) + 0.05, rng.normal(1.0, 1.0, (n, k)), rng.uniform(0.1, 0.5, (n, k)), **bounds)


@pytest.mark.parametrize(("k", "bounds"), [(15, {}), (55, {}), (20, {"lower": 0.2}), (15, {"lower": 0.0, "upper": 2.0})])
def test_quantiles_by_table_are_near_those_by_root_finding(k: int, bounds: dict[str, float]) -> None:
    mixture = some_mixture(6, k, **bounds)
    levels = np.linspace(0.01, 0.99, 25)
    found = inverse(mixture, np.repeat(levels[:, None], 6, axis=1))
    assert np.abs(found - mixture.quantile(levels)).max() < 0.05 * float(mixture.std().min())
    assert (np.diff(found, axis=0) >= 0).all()


def test_components_without_weight_have_no_place() -> None:
    one = Mixture(np.array([[1.0, 0.0]]), np.array([[5.0, -1e6]]), np.array([[1.0, 1e9]]))
    assert inverse(one, np.array([[0.5]]))[0, 0] == pytest.approx(5.0, abs=0.02)


def test_draws_of_a_group_are_correlated_by_the_share() -> None:
    u = correlated(200_000, np.array([0, 0, 1]), 0.4, np.random.default_rng(0))
    found = np.corrcoef(stats.norm.ppf(u).T)
    assert found[0, 1] == pytest.approx(0.4, abs=0.01)
    assert abs(found[0, 2]) < 0.01
    assert stats.kstest(u[:, 0], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_the_shared_part_is_found_again(share: float) -> None:
    groups = np.repeat(np.arange(400), 5)
    u = correlated(1, groups, share, np.random.default_rng(1))[0]
    assert shared_part(u, groups) == pytest.approx(share, abs=0.05)


def test_few_groups_leave_the_shared_part_near_its_prior() -> None:
    assert shared_part(np.array([0.1, 0.9, 0.5]), np.array([0, 1, 2])) == PRIOR_SHARE
    u = correlated(1, np.array([0, 0, 0, 1, 1, 1]), 0.0, np.random.default_rng(2))[0]
    assert abs(shared_part(u, np.array([0, 0, 0, 1, 1, 1])) - PRIOR_SHARE) <= PRIOR_SHARE * 5 / 7 + 0.3


def test_the_shared_part_is_the_textbook_intraclass_correlation() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), 4)
    z = np.clip(0.6 * rng.normal(size=30)[groups] + rng.normal(size=120), -3.4, 3.4)
    table = z.reshape(30, 4)
    msb = 4 * table.mean(axis=1).var(ddof=1)
    msw = table.var(axis=1, ddof=1).mean()
    icc = (msb - msw) / (msb + 3 * msw)
    assert shared_part(stats.norm.cdf(z), groups) == pytest.approx((30 * icc + 5 * PRIOR_SHARE) / 35, rel=1e-6)


def some_ends(n: int = 6, n_draws: int = 400, seed: int = 0) -> Ends:
    rng = np.random.default_rng(seed)
    had = rng.uniform(1.0, 2.0, n)
    draws = np.minimum(had, rng.normal(1.3, 0.4, (n_draws, n)))
    draws[:, -1] = had[-1]  # one that has ended
    return Ends(draws, had)


def test_probabilities_to_win_by_counting() -> None:
    e = some_ends()
    best, yet = np.zeros(6), np.zeros(6)
    for row in e.draws:
        winners = np.flatnonzero(row == row.min())
        best[winners] += 1 / winners.size
        if row.min() < e.had.min():
            yet[winners] += 1 / winners.size
    np.testing.assert_allclose(e.p_best, best / 400, atol=1e-12)
    np.testing.assert_allclose(e.p_wins_yet, yet / 400, atol=1e-12)
    assert e.p_best.sum() == pytest.approx(1.0)


def test_what_a_set_of_stops_loses_adds_up() -> None:
    e = some_ends(seed=4)
    for mask in range(64):
        stopped = np.array([bool(mask >> i & 1) for i in range(6)])
        kept = np.where(stopped, e.had, e.draws).min(axis=1)
        assert e.p_wins_yet[stopped].sum() == pytest.approx(float((kept > e.winners).mean()))
        assert e.regret(stopped) == pytest.approx(float((kept - e.winners).mean()))


def test_the_order_of_least_gain_by_brute_force() -> None:
    e = some_ends(seed=5)
    remaining = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 0.0])
    may, gone = np.array([True] * 5 + [False]), np.array([False, False, True, False, False, False])
    order, gains = e.least_gainful(may, remaining, gone)

    stopped, expected, sizes = gone.copy(), [], []
    while (left := np.flatnonzero(may & ~stopped)).size:
        now = e.regret(stopped)
        loss = {i: e.regret(stopped | (np.arange(6) == i)) - now for i in left}
        i = min(left, key=lambda j: loss[j] / remaining[j])
        expected.append(i)
        sizes.append(loss[i])
        stopped[i] = True
    assert order.tolist() == expected
    np.testing.assert_allclose(gains, sizes, atol=1e-12)


def test_gain_of_one_more_run_by_a_loop() -> None:
    e = some_ends(n=3, n_draws=50, seed=6)
    best = e.draws.min(axis=1)
    gains = [max(best[d - 1] - e.draws[d, i], 0.0) for d in range(50) for i in range(3)]
    assert e.fresh_gain() == pytest.approx(np.mean(gains))


@pytest.mark.parametrize("goal", ["min", "max"])
def test_draws_never_fall_behind_what_was_seen(goal: str) -> None:
    final = some_mixture(2, 5)
    had = np.array([0.9, 1.1, 0.5]) * (1 if goal == "min" else -1)
    found = ends(final, np.array([0, 2]), had, np.zeros(3, dtype=np.int64), 0.3, goal, 500, np.random.default_rng(0))
    assert (found.draws <= had).all()
    assert (found.draws[:, 1] == had[1]).all()
    assert np.unique(found.draws[:, 0]).size > 50
