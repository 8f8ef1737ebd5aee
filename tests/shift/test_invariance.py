"""The counting argument, the exact law of the check, and sets of features that survive interventions."""

import itertools
import math

import mpmath
import numpy as np
import pytest

from farfield.errors import InputError
from farfield.intervals import wilson
from farfield.shift.invariance import (
    InvarianceStatus,
    InvariantSubset,
    best_head,
    certified_share,
    invariance_violation,
    log_patterns,
    log_subsets,
    multiple_correlation_cdf,
    pac_environments,
    pac_level,
)
from farfield.shift.sem import LinearSEM

TARGET = 2


def test_the_level_solves_the_counting_argument():
    for n, hypotheses, delta, miss in [(1, 1, 0.05, 0), (8, 127, 0.05, 0), (32, 31, 0.1, 0.1), (300, 2**20, 0.01, 0.5)]:
        alpha = pac_level(n, math.log(hypotheses), delta, miss)
        with mpmath.workdps(40):
            left = hypotheses * mpmath.mpf(1 - mpmath.mpf(alpha) * (1 - mpmath.mpf(miss))) ** n
        assert alpha == 1.0 or float(left / delta) == pytest.approx(1, rel=1e-9)
        assert pac_level(n, math.log(hypotheses), delta) <= (math.log(hypotheses) + math.log(1 / delta)) / n
    assert pac_level(0, 0.0) == 1.0
    for alpha in (0.3, 0.1, 0.01):
        n = pac_environments(log_subsets(7), alpha, 0.05, 0.1)
        assert pac_level(n, log_subsets(7), 0.05, 0.1) <= alpha < pac_level(n - 1, log_subsets(7), 0.05, 0.1)


def test_the_level_is_tight_for_one_hypothesis():
    """A coin that fails with probability just above alpha passes n environments with probability just below delta."""
    n, delta = 20, 0.1
    alpha = pac_level(n, 0.0, delta)
    passed = (np.random.default_rng(0).uniform(size=(100_000, n)) > alpha).all(axis=1)
    low, high = wilson(passed.sum(), passed.size, 0.999)
    assert low <= delta <= high


def test_hypotheses_are_counted():
    for d, most in [(1, None), (5, None), (6, 2), (4, 9)]:
        sets = [s for k in range(1, min(d, most or d) + 1) for s in itertools.combinations(range(d), k)]
        assert log_subsets(d, most) == pytest.approx(math.log(len(sets)))
    assert log_patterns(2, 1.0, 0.25) == pytest.approx(16 * math.log(2))


def test_violation_is_a_difference_of_mean_squared_errors():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)), np.array([0.3, -1.0])
    y = x @ [1.0, 0, -2, 0.5] + rng.normal(size=50)
    data = np.column_stack([x, y])
    found = invariance_violation(data.T @ data / 50, (1, 3), w)
    error = np.mean((y - x[:, [1, 3]] @ w) ** 2)
    best = np.linalg.lstsq(x[:, [1, 3]], y, rcond=None)[1][0] / 50
    assert float(found.own) == pytest.approx(best, rel=1e-12)
    assert float(found.excess) == pytest.approx(error - best, rel=1e-10)
    assert float(found.share) == pytest.approx(1 - best / error, rel=1e-10)
    assert float(found.norm) == pytest.approx(math.sqrt(error - best), rel=1e-10)


@pytest.mark.parametrize(("rho2", "p", "m"), [(0.05, 2, 9), (0.4, 5, 30), (0.9, 1, 12)])
def test_the_law_of_the_multiple_correlation(rho2, p, m):
    """Against the density of Fisher 1928 with its hypergeometric function, integrated by mpmath."""
    with mpmath.workdps(30):
        a, b = mpmath.mpf(p) / 2, mpmath.mpf(m - p) / 2

        def density(r2):
            series = mpmath.hyp2f1(mpmath.mpf(m) / 2, mpmath.mpf(m) / 2, a, rho2 * r2)
            return (1 - mpmath.mpf(rho2)) ** (mpmath.mpf(m) / 2) / mpmath.beta(a, b) * r2 ** (a - 1) * (1 - r2) ** (b - 1) * series

        for r2 in (0.02, 0.5):
            exact = float(mpmath.quad(density, [0, mpmath.mpf(r2) / 10, r2]))
            assert multiple_correlation_cdf(r2, rho2, p, m) == pytest.approx(exact, rel=1e-7, abs=1e-12)


def test_a_violating_head_passes_as_often_as_stated():
    rng, p, m, eps, miss, trials = np.random.default_rng(0), 3, 60, 0.1, 0.2, 20_000
    x = rng.normal(size=(trials, m, p))
    y = x[..., 0] * math.sqrt(eps / (1 - eps)) + rng.normal(size=(trials, m))  # the residual of a head whose share is eps
    data = np.concatenate([x, y[..., None]], axis=-1)
    found = invariance_violation(data.swapaxes(-1, -2) @ data / m, (0, 1, 2), np.zeros(p))
    low, high = wilson((found.share <= certified_share(eps, p, m, miss)).sum(), trials, 0.999)
    assert low <= miss <= high


def environments(d, n_sems, n, rng, kind="mechanism"):
    """(models, environments) second moments with the target last, each environment with one other variable intervened on."""
    sem = LinearSEM.random(d, size=(n_sems,), rng=rng)
    others = np.delete(np.arange(d), TARGET)
    nodes = others[rng.integers(d - 1, size=(n_sems, n))][..., None] == np.arange(d)
    order = [*others, TARGET]
    parents = (sem.weights[:, TARGET] != 0)[:, others]
    cut = np.ix_(order, order)
    seen = sem.intervene(nodes, kind, rng=rng).second_moments()[(..., *cut)]
    return sem.second_moments()[(..., *cut)], seen, parents


@pytest.mark.parametrize("kind", ["mechanism", "scale", "shift", "do"])
def test_parents_are_invariant_whatever_is_done_elsewhere(kind):
    reference, seen, parents = environments(5, 50, 20, np.random.default_rng(0), kind)
    worst = []
    for r, s, is_parent in zip(reference, seen, parents, strict=True):
        subset = np.flatnonzero(is_parent)
        assert invariance_violation(s, subset, best_head(r, subset)).share.max() < 1e-12
        everything = range(4)
        worst.append(invariance_violation(s, everything, best_head(r, everything)).share.max())
    assert np.median(worst) > 0.05  # and all features together are not


def test_the_stated_bound_over_1000_models():
    """Whatever set passes in n environments fails on more than pac_level of unseen ones in at most delta of the models."""
    rng, eps, delta, n, d = np.random.default_rng(0), 0.05, 0.2, 12, 5
    reference, every, _ = environments(d, 1000, n + 80, rng)
    alpha = pac_level(n, log_subsets(d - 1), delta)
    above = np.zeros(1000, dtype=bool)
    failed_after_passing = 0.0
    for k in range(1, d):
        for subset in itertools.combinations(range(d - 1), k):
            bad = invariance_violation(every, subset, best_head(reference, subset)[:, None]).share > eps
            rate = np.where(bad[:, :n].any(axis=1), 0.0, bad[:, n:].mean(axis=1))
            above |= rate > alpha
            failed_after_passing = max(failed_after_passing, rate.max())
    assert alpha < 0.5
    assert failed_after_passing > 0.05  # the bound is not met by never failing
    assert wilson(above.sum(), above.size, 0.95)[0] <= delta


def data(n_environments=10, rows=2000, d=5, seed=3, kind="mechanism"):
    rng = np.random.default_rng(seed)
    sem = LinearSEM.random(d, rng=rng)
    others = np.delete(np.arange(d), TARGET)
    nodes = np.zeros((n_environments + 1, d), dtype=bool)
    nodes[np.arange(1, n_environments + 1), others[np.arange(n_environments) % (d - 1)]] = True
    x = sem.intervene(nodes, kind, strength=3.0, rng=rng).sample(rows, rng)
    groups = np.repeat(np.arange(n_environments + 1), rows)
    flat = x.reshape(-1, d)
    return flat[:, others], flat[:, TARGET], groups, (sem.weights[TARGET] != 0)[others]


@pytest.mark.parametrize("miss", [None, 0.1])
def test_the_parents_are_found_in_data(miss):
    x, y, groups, parents = data(n_environments=8)
    model = InvariantSubset(eps=0.05, miss=miss, reference=0).fit(x + 7, y - 3, groups)
    assert model.subset_ == tuple(np.flatnonzero(parents))
    assert model.status_ is InvarianceStatus.FEW  # eight environments promise little about 15 sets
    assert model.level_ == pac_level(8, log_subsets(4), 0.05, miss or 0.0)
    assert model.violations_.max() <= 0.05
    everything = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    worst = [np.mean((y - p)[groups == 3] ** 2) for p in (model.predict(x + 7) + 3, np.c_[x, np.ones(len(x))] @ everything)]
    assert worst[0] < worst[1] * 1.5
    np.testing.assert_allclose(model.predict(x[:5] + 7), [model.predict(row[None] + 7)[0] for row in x[:5]], rtol=1e-12)


def test_many_features_are_searched_by_elimination():
    rng = np.random.default_rng(0)
    x, y, groups, parents = data(n_environments=12)
    noise = rng.normal(size=(len(x), 14))
    model = InvariantSubset(eps=0.05, reference=0).fit(np.c_[x, noise], y, groups)
    assert x.shape[1] + 14 > 16
    assert set(np.flatnonzero(parents)) <= set(model.subset_)
    assert model.status_ is not InvarianceStatus.NONE


def test_nothing_invariant_is_said_and_not_predicted():
    x, y, groups, _ = data()
    y = np.where(groups == 4, -y, y)  # something touched the target
    model = InvariantSubset(reference=0).fit(x, y, groups)
    assert model.status_ is InvarianceStatus.NONE
    assert model.consistent_ == []
    with pytest.raises(InputError, match="no set of features"):
        model.predict(x)


def test_refusals():
    x, y, groups, _ = data(rows=50)
    for change, message in [
        ({"groups": groups * 0}, "1 environments"),
        ({"groups": groups[:5]}, "one label a row"),
        ({"X": np.c_[x, x[:, 0]]}, "combination of others"),
        ({"X": np.c_[x, np.ones(len(x))]}, "constant in the reference"),
        ({"groups": np.where(np.arange(len(x)) < 3, 99, groups)}, "environment 99 has 3 rows"),
        ({"X": np.full_like(x, np.nan)}, "not finite"),
    ]:
        with pytest.raises(InputError, match=message):
            InvariantSubset().fit(**({"X": x, "y": y, "groups": groups} | change))
    with pytest.raises(InputError, match="reference is 'a'"):
        InvariantSubset(reference="a").fit(x, y, groups)
    with pytest.raises(InputError, match="'share' alone"):
        InvariantSubset(miss=0.1, measure="norm").fit(x, y, groups)
    with pytest.raises(InputError, match="log_hypotheses"):
        pac_level(3, -1.0)
    with pytest.raises(InputError, match="miss is 1"):
        pac_level(3, 1.0, miss=1)
