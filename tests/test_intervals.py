"""Intervals: against enumeration, hand-computed figures and slow loops; coverage by simulation."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.tolerances import assert_close

from farfield.errors import InputError
from farfield.intervals import (
    bootstrap,
    bootstrap_difference,
    cluster_bootstrap_ratio,
    conformal_scale,
    corrected_resampled_t,
    interval_score,
    wilson,
)

INF = np.inf

# -- bootstrap ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("clustered", [False, True])
def test_the_fast_mean_is_the_loop_over_resamples(method: Any, clustered: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(size=60)
    clusters = rng.integers(9, size=60) if clustered else None
    fast = bootstrap(values, clusters=clusters, n_boot=400, method=method, rng=5)
    slow = bootstrap(values, np.mean, clusters=clusters, n_boot=400, method=method, rng=5)
    assert_close(fast, slow)


def test_clusters_are_drawn_whole() -> None:
    values, clusters = np.array([0.0, 0.0, 1.0, 5.0]), ["a", "a", "b", "b"]
    seen: list[tuple[float, ...]] = []
    bootstrap(values, lambda v: (seen.append(tuple(sorted(v))), v.mean())[1], clusters=clusters, n_boot=50, rng=0)
    assert set(seen) == {(0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 5.0), (1.0, 1.0, 5.0, 5.0)}


def test_ratio_against_all_resamples_enumerated() -> None:
    num, den = np.array([1.0, 4.0, 2.0, 7.0]), np.array([2.0, 3.0, 5.0, 4.0])
    clusters = np.array([0, 1, 1, 2])
    every = []
    for pick in itertools.product(range(3), repeat=3):
        rows = np.concatenate([np.flatnonzero(clusters == c) for c in pick])
        every.append(num[rows].sum() / den[rows].sum())
    # 27 equally likely resamples: quantiles at levels strictly between the steps of their distribution are met exactly
    low, high = cluster_bootstrap_ratio(num, den, clusters, n_boot=20000, level=0.7, rng=0)
    ordered = np.sort(every)
    assert float(low) == pytest.approx(ordered[int(0.15 * 27)], rel=1e-12)
    assert float(high) == pytest.approx(ordered[int(0.85 * 27)], rel=1e-12)


def test_bca_against_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=40)
    n_boot = 60000
    low, high = bootstrap(values, n_boot=n_boot, level=0.9, method="bca", rng=2)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=n_boot, confidence_level=0.9, method="BCa", rng=np.random.default_rng(3)
    )
    # two independent sets of resamples: their noise at the ends is about 0.5 / sqrt(60000) of the width
    width = float(high - low)
    assert abs(float(low) - theirs.confidence_interval.low) < 0.012 * width
    assert abs(float(high) - theirs.confidence_interval.high) < 0.012 * width


def test_columns_are_bootstrapped_each_by_itself_with_the_same_resamples() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2, 3))
    low, high = bootstrap(values, n_boot=200, rng=1)
    assert low.shape == high.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        assert_close(bootstrap(values[:, i, j], n_boot=200, rng=1), (low[i, j], high[i, j]))


def test_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=50) * 100
    low, high = bootstrap_difference(common + 1.0, common, rng=0)
    assert float(low) == pytest.approx(1.0, abs=1e-12)
    assert float(high) == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(InputError, match="paired"):
        bootstrap_difference(common, common[:3])


@given(st.integers(0, 10**6), st.floats(-50, 50), st.floats(0.01, 100))
def test_bootstrap_follows_shift_and_scale_and_its_seed(seed: int, shift: float, scale: float) -> None:
    values = np.random.default_rng(seed).normal(size=25)
    for method in ("percentile", "bca"):
        low, high = bootstrap(values, n_boot=99, method=method, rng=seed)  # type: ignore[arg-type]
        assert low <= high
        moved = bootstrap(shift + scale * values, n_boot=99, method=method, rng=np.random.default_rng(seed))  # type: ignore[arg-type]
        np.testing.assert_allclose(moved, [shift + scale * low, shift + scale * high], rtol=1e-8, atol=1e-8 * (scale + abs(shift)))


def test_constant_values_give_that_value() -> None:
    for method in ("percentile", "bca"):
        assert_close(bootstrap(np.full(8, 2.5), n_boot=50, method=method, rng=0), (2.5, 2.5))  # type: ignore[arg-type]


def test_clustered_interval_covers_where_the_unclustered_does_not() -> None:
    rng = np.random.default_rng(0)
    n_clusters, size, trials = 40, 5, 400
    clusters = np.repeat(np.arange(n_clusters), size)
    covered = {True: 0, False: 0}
    for trial in range(trials):
        values = np.repeat(rng.normal(size=n_clusters), size) + 0.3 * rng.normal(size=n_clusters * size)
        for whole in covered:
            low, high = bootstrap(values, clusters=clusters if whole else None, n_boot=300, level=0.9, rng=trial)
            covered[whole] += bool(low <= 0 <= high)
    # 0.9 less the percentile method's own shortfall at 40 clusters (about 0.015), within 3.5 standard errors of 0.015
    assert 0.83 < covered[True] / trials < 0.95
    assert covered[False] / trials < 0.65


def test_clustered_means_are_many_times_faster_than_a_loop() -> None:
    rng = np.random.default_rng(0)
    values, clusters, n_boot = rng.normal(size=2000), np.repeat(np.arange(100), 20), 500

    def loop() -> tuple[float, float]:
        generator = np.random.default_rng(1)
        members = [values[clusters == c] for c in range(100)]
        means = [np.concatenate([members[c] for c in generator.integers(100, size=100)]).mean() for _ in range(n_boot)]
        return np.quantile(means, 0.025), np.quantile(means, 0.975)

    def seconds(f: Callable[[], Any]) -> float:
        best = INF
        for _ in range(5):
            start = time.perf_counter()
            f()
            best = min(best, time.perf_counter() - start)
        return best

    assert_close(bootstrap(values, clusters=clusters, n_boot=n_boot, rng=1), loop())
    # measured 25 times; 8 leaves room for a busy machine
    assert seconds(loop) > 8 * seconds(lambda: bootstrap(values, clusters=clusters, n_boot=n_boot, rng=1))


# -- proportions and scores -----------------------------------------------------------------------------------------------


def test_wilson_ends_solve_the_score_equation() -> None:
    for k, n, level in ((0, 10, 0.95), (3, 10, 0.9), (10, 10, 0.95), (77, 300, 0.5), (1, 10**6, 0.99)):
        low, high = (float(v) for v in wilson(k, n, level))
        with mpmath.workdps(30):
            z = mpmath.sqrt(2) * mpmath.erfinv(mpmath.mpf(level))
            # |p_hat - p| = z sqrt(p (1 - p) / n) is a quadratic in p
            share = mpmath.mpf(k) / n
            roots = mpmath.polyroots([1 + z**2 / n, -(2 * share + z**2 / n), share**2], maxsteps=200, extraprec=200)
        assert_close([low, high], sorted(float(r.real) for r in roots))


def test_wilson_shapes_and_empty_samples() -> None:
    low, high = wilson([0, 1, 0], [5, 1, 0])
    assert low.shape == high.shape == (3,)
    assert (low[2], high[2]) == (0.0, 1.0)
    assert low[0] == 0.0
    assert high[1] == 1.0
    with pytest.raises(InputError, match="between 0 and n"):
        wilson(3, 2)


@pytest.mark.parametrize("p", [0.03, 0.2, 0.5])
def test_wilson_coverage_by_exact_enumeration(p: float) -> None:
    n = 60
    k = np.arange(n + 1)
    low, high = wilson(k, n, 0.95)
    coverage = stats.binom.pmf(k, n, p)[(low <= p) & (p <= high)].sum()
    assert 0.92 < coverage < 0.985


def test_interval_score_by_hand_and_proper() -> None:
    assert_close(interval_score(1.0, 3.0, [2.0, 0.5, 3.25], 0.8), [2.0, 2.0 + 10 * 0.5, 2.0 + 10 * 0.25])
    y = np.random.default_rng(0).normal(size=20000)
    best = stats.norm.ppf(0.9)
    scores = [interval_score(-h, h, y, 0.8).mean() for h in (0.7 * best, best, 1.4 * best)]
    assert scores[1] < min(scores[0], scores[2])
    with pytest.raises(InputError, match="low is above high"):
        interval_score(1.0, 0.0, 0.5, 0.8)


# -- conformal ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95]), st.integers(0, 1000))
def test_conformal_scale_is_the_order_statistic(n: int, level: float, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=n)
    rank = -(-(n + 1) * round(level * 100) // 100)  # ceil in whole numbers
    expected = np.sort(scores)[rank - 1] if rank <= n else INF
    assert float(conformal_scale(scores, level)) == expected
    # one score a group, or equal weights, change nothing
    assert float(conformal_scale(scores, level, groups=np.arange(n))) == expected
    assert float(conformal_scale(scores, level, weights=np.full(n, 3.0))) == expected


def test_conformal_groups_count_once_however_large() -> None:
    scores = np.concatenate([np.full(1000, 9.0), np.arange(1.0, 5.0)])
    groups = ["big"] * 1000 + list("abcd")
    # 5 groups: weight 1/6 each, the big one's is the last sixth below infinity
    assert float(conformal_scale(scores, 0.65, groups=groups)) == 4.0
    assert float(conformal_scale(scores, 0.8, groups=groups)) == 9.0
    assert float(conformal_scale(scores, 0.9, groups=groups)) == INF
    assert float(conformal_scale(scores, 0.65)) == 9.0
    # within a group weights share out the group's sixth: half of it at 0, so 1/12 + 4/6 reach 0.74
    assert float(conformal_scale([0.0, 9.0, 1, 2, 3, 4], 0.74, groups=list("xxabcd"), weights=[1, 1, 1, 1, 1, 1])) == 4.0
    assert float(conformal_scale([0.0, 9.0, 1, 2, 3, 4], 0.74, groups=list("xxabcd"), weights=[0, 1, 1, 1, 1, 1])) == 9.0


def test_conformal_columns_and_no_scores() -> None:
    scores = np.random.default_rng(0).normal(size=(30, 2))
    both = conformal_scale(scores, 0.8)
    assert both.tolist() == [float(conformal_scale(scores[:, i], 0.8)) for i in range(2)]
    assert float(conformal_scale([], 0.8)) == INF
    assert conformal_scale(np.zeros((0, 3)), 0.8).tolist() == [INF] * 3


def test_conformal_coverage() -> None:
    rng = np.random.default_rng(0)
    trials, n, level = 4000, 24, 0.8
    scores = rng.exponential(size=(n + 1, trials))
    hit = (scores[-1] <= conformal_scale(scores[:-1], level)).mean()
    # exactly 20 / 25 for continuous exchangeable scores; 4 standard errors
    assert abs(hit - 0.8) < 4 * np.sqrt(0.16 / trials)


def test_conformal_coverage_of_a_new_group() -> None:
    rng = np.random.default_rng(1)
    trials, n_groups, level = 1500, 19, 0.8
    hits = {"groups": 0.0, "pooled": 0.0}
    for _ in range(trials):
        level_of = rng.exponential(size=n_groups + 1)
        sizes = np.where(level_of[:-1] < 1, 30, 2)  # easy groups are large: pooling listens to them only
        groups = np.repeat(np.arange(n_groups), sizes)
        scores = level_of[groups] * rng.random(groups.size)
        new = level_of[-1] * rng.random()
        hits["groups"] += bool(new <= conformal_scale(scores, level, groups=groups))
        hits["pooled"] += bool(new <= conformal_scale(scores, level))
    error = np.sqrt(0.16 / trials)
    assert hits["groups"] / trials > level - 3 * error
    assert hits["groups"] / trials < level + 0.06
    assert hits["pooled"] / trials < level - 5 * error


# -- resampled t ----------------------------------------------------------------------------------------------------------


def test_corrected_resampled_t_by_hand() -> None:
    d = np.array([0.1, 0.3, -0.05, 0.2, 0.15])
    result = corrected_resampled_t(d, 80, 20, 0.9)
    variance = (1 / 5 + 0.25) * np.sum((d - 0.14) ** 2) / 4
    assert_close(result.mean, 0.14)
    assert_close(result.t, 0.14 / np.sqrt(variance))
    assert_close(result.p_value, 2 * stats.t.sf(0.14 / np.sqrt(variance), 4))
    half = stats.t.ppf(0.95, 4) * np.sqrt(variance)
    assert_close([result.low, result.high], [0.14 - half, 0.14 + half])
    # without shared training data it is Student's test
    assert_close(corrected_resampled_t(d, 1e18, 1.0).p_value, stats.ttest_1samp(d, 0).pvalue)
    assert corrected_resampled_t([0.5, 0.5], 10, 5) == (0.5, 0.5, 0.5, INF, 0.0)
    assert corrected_resampled_t([0.0, 0.0], 10, 5) == (0.0, 0.0, 0.0, 0.0, 1.0)


# -- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap([1.0, np.nan]), "not finite"),
        (lambda: bootstrap(3.0), "single number"),
        (lambda: bootstrap([1.0]), "1 cluster"),
        (lambda: bootstrap([1.0, 2.0], clusters=["a", "a"]), "1 cluster"),
        (lambda: bootstrap([1.0, 2.0], clusters=["a"]), r"clusters has shape \(1,\); allowed: \(2,\)"),
        (lambda: bootstrap([1.0, 2.0], n_boot=0), "n_boot"),
        (lambda: bootstrap([1.0, 2.0], level=95), "level"),
        (lambda: bootstrap([1.0, 2.0], method="bc"), "bc"),  # type: ignore[arg-type]
        (lambda: cluster_bootstrap_ratio([1.0, 2.0], [1.0, 2.0, 3.0]), "paired"),
        (lambda: cluster_bootstrap_ratio([1.0, 2.0], [0.0, 1.0], rng=0), "denominator"),
        (lambda: wilson(1, 2, 0.0), "level"),
        (lambda: conformal_scale([1.0, np.nan], 0.8), "NaN"),
        (lambda: conformal_scale([1.0, 2.0], 0.8, groups=["a"]), "groups has shape"),
        (lambda: conformal_scale([1.0, 2.0], 0.8, weights=[1.0, -1.0]), "weights"),
        (lambda: conformal_scale([1.0, 2.0], 0.8, groups=["a", "b"], weights=[1.0, 0.0]), "all zero"),
        (lambda: corrected_resampled_t([1.0], 10, 5), "J >= 2"),
        (lambda: corrected_resampled_t([1.0, 2.0], 0, 5), "n_train"),
    ],
)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_poisson_counts_are_poisson_and_make_the_same_intervals_of_ratios() -> None:
    from scipy import stats

    from farfield.intervals import poisson_counts, resample_counts

    counts = np.concatenate(list(poisson_counts(2001, 300, np.random.default_rng(0))))
    assert counts.shape == (300, 2001)
    share = np.bincount(counts.astype(int).ravel(), minlength=6)[:6] / counts.size
    np.testing.assert_allclose(share, stats.poisson(1).pmf(np.arange(6)), atol=4 * np.sqrt(0.25 / counts.size))
    assert abs(np.corrcoef(counts[:, 0], counts[:, 1])[0, 1]) < 0.25
    sums = np.random.default_rng(1).exponential(size=(2001, 2)) + np.array([1.0, 2.0])
    spread = [
        np.std(np.divide(*np.concatenate([c @ sums for c in make(2001, 2000, np.random.default_rng(2))]).T))
        for make in (poisson_counts, resample_counts)
    ]
    assert spread[0] / spread[1] == pytest.approx(1, abs=0.08)
