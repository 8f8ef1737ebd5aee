"""What other runs teach: neighbours by a slow loop, exclusion that is real, conditional errors recovered, coverage simulated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from farfield.curves import analogues
from farfield.curves.analogues import Description, ErrorLaw, Evidence, conformal_factor, within
from farfield.curves.data import Metric
from farfield.curves.forecaster import calibrate
from farfield.predictive import Gaussian, Mixture
from tolerances import assert_close

LEVELS = np.array([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])


def described(features: np.ndarray, course: np.ndarray | None = None, kinds: np.ndarray | None = None) -> Description:
    n = len(features)
    return Description(
        features,
        np.zeros((n, 2)) if course is None else course,
        np.zeros((n, 0), dtype=np.int64) if kinds is None else kinds,
    )


def evidence(n: int, seed: int = 0, *, n_groups: int = 5, n_features: int = 3, n_kinds: int = 2) -> Evidence:
    rng = np.random.default_rng(seed)
    runs = described(
        rng.normal(size=(n, n_features)) * [1, 5, 0.1][:n_features], rng.uniform(0, 0.2, (n, 2)), rng.integers(0, 3, (n, n_kinds))
    )
    return Evidence(runs, rng.normal(size=(n, 4)), np.arange(n) % n_groups, np.array([0.25, 0.5, 0.75, 1.0]))


# -- neighbours -----------------------------------------------------------------------------------------------------------------


def slow_mixture(known: Evidence, runs: Description, i: int, exclude: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weights, errors, widths) of the mixture of run `i`, one run of the evidence after another."""
    features = known.runs.features
    low, mid, high = (np.quantile(features, q, axis=0) for q in (0.1, 0.5, 0.9))
    spread = (high - low) / 2.56 + 1e-12 * (1 + np.abs(mid))

    def place(row: np.ndarray) -> np.ndarray:
        return np.clip((row - mid) / spread, -4, 4)

    n, n_kinds = len(known), runs.kinds.shape[1]
    distance = []
    for j in range(n):
        square = float(((place(features[j]) - place(runs.features[i])) ** 2).sum())
        square += float((((known.runs.course[j] - runs.course[i]) / analogues._COURSE) ** 2).sum())
        square += sum(analogues._KIND / n_kinds for c in range(n_kinds) if known.runs.kinds[j, c] != runs.kinds[i, c])
        distance.append(np.inf if known.groups[j] == exclude else np.sqrt(square))
    k = min(analogues.N_NEIGHBOURS, max(10, n // 3), n)
    near = [j for j in np.argsort(distance, kind="stable")[:k] if np.isfinite(distance[j])]
    reach = max(distance[j] for j in near)
    weight = np.array([np.exp(-0.5 * (distance[j] / (analogues._BANDWIDTH * reach)) ** 2) for j in near])
    weight /= weight.sum()
    error = known.errors[near, -1]
    order = np.argsort(error)
    below = np.cumsum(weight[order])
    quartiles = [error[order][np.flatnonzero(below >= q * below[-1])[0]] for q in (0.25, 0.75)]
    width = 0.5 * (quartiles[1] - quartiles[0]) / 1.349 * (1 / (weight**2).sum()) ** -0.2 + 1e-3
    available = len(near) / k * n
    trust = available / (available + analogues._PRIOR_RUNS)
    prior = analogues._PRIOR_ERRORS
    return (
        np.concatenate([trust * weight, np.full(prior.size, (1 - trust) / prior.size)]),
        np.concatenate([error, prior]),
        np.concatenate([np.full(len(near), width), np.full(prior.size, analogues._PRIOR_KERNEL)]),
    )


@pytest.mark.parametrize("excluded", [None, 2])
@pytest.mark.parametrize("n", [1, 4, 12, 35, 150])
def test_against_the_slow_loop(n: int, excluded: int | None) -> None:
    known = evidence(n, n_groups=5)
    law = ErrorLaw.fit(known)
    runs = evidence(6, 1).runs
    rng = np.random.default_rng(2)
    centre, scale = rng.normal(size=6), rng.uniform(0.5, 2, 6)
    exclude = None if excluded is None else np.full(6, excluded)
    got = law.predictive(runs, centre, scale, exclude=exclude)
    for i in range(6):
        weights, errors, widths = slow_mixture(known, runs, i, excluded)
        want = Mixture(weights, centre[i] + scale[i] * errors, np.maximum(scale[i] * widths, 0.02 * scale[i]))
        np.testing.assert_allclose(got[i].quantile(LEVELS), want.quantile(LEVELS), rtol=1e-8, atol=1e-8)


def test_errors_on_the_way_are_interpolated_from_none_at_the_last_point() -> None:
    known = evidence(8)
    runs = described(np.zeros((3, 3)), kinds=np.zeros((3, 2), dtype=np.int64))
    shares = np.array([0.1, 0.25, 0.6, 1.0])
    values, _, _ = ErrorLaw.fit(known).errors(runs, shares)
    for j, share in enumerate(shares):
        want = [np.interp(share, [0, 0.25, 0.5, 0.75, 1], [0, *row]) for row in known.errors]
        assert_close(np.sort(values[0, j, :8]), np.sort(want))


def test_evidence_in_blocks_is_evidence() -> None:
    known, runs = evidence(50), evidence(700, 3).runs
    law, one = ErrorLaw.fit(known), np.ones(700)
    whole = law.predictive(runs, 0 * one, one).quantile(LEVELS)
    for i in (0, 255, 256, 511, 699):
        alone = law.predictive(runs.take(np.array([i])), np.zeros(1), np.ones(1)).quantile(LEVELS)
        np.testing.assert_allclose(alone[:, 0], whole[:, i], rtol=1e-9, atol=1e-9)


# -- exclusion ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [1e9, -1e9, 1e300])
@pytest.mark.parametrize("n", [6, 30, 200])
def test_what_is_excluded_does_not_move_a_forecast_by_a_bit(n: int, poison: float) -> None:
    known = evidence(n, n_groups=4)
    poisoned = replace(known, errors=np.where((known.groups == 1)[:, None], poison, known.errors))
    one = np.ones(n)
    clean, bad = (ErrorLaw.fit(e).predictive(known.runs, 0 * one, one, exclude=known.groups) for e in (known, poisoned))
    mine = known.groups == 1
    np.testing.assert_array_equal(clean[mine].quantile(LEVELS), bad[mine].quantile(LEVELS))
    np.testing.assert_array_equal(clean[mine].crps(one[mine]), bad[mine].crps(one[mine]))
    assert not np.array_equal(clean[~mine].quantile(LEVELS), bad[~mine].quantile(LEVELS))


def test_excluding_all_there_is_leaves_the_prior() -> None:
    known = evidence(15, n_groups=1)
    one = np.ones(15)
    none = ErrorLaw.fit(known.take(np.zeros(0, dtype=np.int64))).predictive(known.runs, 0 * one, one)
    all_out = ErrorLaw.fit(known).predictive(known.runs, 0 * one, one, exclude=known.groups)
    np.testing.assert_allclose(all_out.quantile(LEVELS), none.quantile(LEVELS), rtol=1e-9, atol=1e-12)


# -- what is learnt -------------------------------------------------------------------------------------------------------------


def test_without_evidence_the_law_is_the_prior() -> None:
    law = ErrorLaw.fit(evidence(0))
    assert not law.calibrates
    centre, scale = np.array([1.0, -3.0]), np.array([0.1, 10.0])
    found = law.predictive(evidence(2).runs, centre, scale)
    assert_close(found.median(), centre)
    low, high = found.interval(0.8)
    assert_close(centre - low, high - centre)
    # a Student t with two degrees of freedom, as quantiles smoothed a little
    want = scale * analogues._PRIOR_SCALE * stats.t(2).ppf(0.9)
    np.testing.assert_allclose(high - centre, want, rtol=0.15)


def test_much_evidence_gives_the_law_of_the_errors_given_the_features() -> None:
    """Errors are normal with a mean and a width that depend on one feature; the rest of the features are noise."""
    rng = np.random.default_rng(0)
    n = 4000
    features = rng.uniform(-1, 1, (n, 2))
    mean, width = 2.0 * features[:, 0], 0.3 + 0.2 * features[:, 0]
    known = Evidence(described(features), (mean + width * rng.normal(size=n))[:, None], np.arange(n), np.ones(1))
    law = ErrorLaw.fit(known)
    at = np.array([[-0.7, 0.0], [0.0, 0.5], [0.7, -0.5]])
    found = law.predictive(described(at), np.zeros(3), np.ones(3))
    truth = Gaussian(2.0 * at[:, 0], 0.3 + 0.2 * at[:, 0])
    # forty neighbours: medians to 1.25 width / sqrt(40) and widths, smoothed, to about a third
    assert (np.abs(found.median() - truth.median()) < 3 * 1.25 * truth.std() / np.sqrt(40)).all()
    spread = np.diff(found.interval(0.8), axis=0)[0] / np.diff(truth.interval(0.8), axis=0)[0]
    assert ((spread > 0.7) & (spread < 1.6)).all()
    assert spread.std() < 0.3


@pytest.mark.parametrize("by", ["kinds", "course"])
def test_settings_and_schedules_tell_runs_apart(by: str) -> None:
    rng = np.random.default_rng(0)
    n = 300
    sort = np.arange(n) % 2
    features = rng.normal(size=(n, 2))
    tells = {"kinds": {"kinds": sort[:, None]}, "course": {"course": np.stack([np.ones(n), 1.0 * sort], axis=1)}}[by]
    errors = np.where(sort == 1, 5.0, -5.0) + 0.1 * rng.normal(size=n)
    law = ErrorLaw.fit(Evidence(described(features, **tells), errors[:, None], np.arange(n), np.ones(1)))
    asked = {k: v[:2] for k, v in tells.items()}
    found = law.predictive(described(np.zeros((2, 2)), **asked), np.zeros(2), np.ones(2))
    np.testing.assert_allclose(found.median(), [-5, 5], atol=0.3)


@pytest.mark.parametrize(
    ("n", "n_groups", "enough"), [(20, 3, True), (19, 3, False), (20, 2, False), (20, 20, True), (0, 1, False)]
)
def test_how_much_evidence_calibrates(n: int, n_groups: int, enough: bool) -> None:
    assert ErrorLaw.fit(evidence(n, n_groups=n_groups)).calibrates == enough


def test_taking_rows_of_evidence() -> None:
    known = evidence(10)
    some = known.take(np.arange(10) % 3 == 0)
    assert len(some) == 4
    np.testing.assert_array_equal(some.errors, known.errors[::3])
    np.testing.assert_array_equal(some.groups, known.groups[::3])
    for name in ("features", "course", "kinds"):
        np.testing.assert_array_equal(getattr(some.runs, name), getattr(known.runs, name)[::3])


# -- bounds ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=12), st.floats(0.01, 3), st.floats(0.01, 2),
    st.sampled_from([(0.0, 1.0), (-np.inf, 0.2), (0.0, np.inf), (-np.inf, np.inf), (0.3, 0.3001)]),
)  # fmt: skip
def test_kernels_within_bounds_keep_their_mass_and_the_median(
    errors: list[float], width: float, unit: float, bounds: tuple[float, float]
) -> None:
    lower, upper = bounds
    loc = np.array([0.5 + unit * np.array(errors)])
    moved, scale = within(loc, np.full(loc.shape, width), np.full((1, 1), unit), lower, upper)
    assert (scale > 0).all()
    outside = stats.norm.cdf(lower, moved, scale) + stats.norm.sf(upper, moved, scale)
    assert (outside <= 2 * stats.norm.sf(2.0) + 1e-9).all()
    mixture = Mixture(np.ones(loc.shape), moved, scale, lower=lower, upper=upper)
    # truncated or not, the median is the same to what the little mass outside can do
    free = Mixture(np.ones(loc.shape), moved, scale)
    level = mixture.cdf(free.median())
    assert np.abs(level - 0.5) <= 0.03
    assert lower <= mixture.quantile(0.001)[0]
    assert mixture.quantile(0.999)[0] <= upper


def test_kernels_far_from_bounds_are_left_alone() -> None:
    loc, width = np.array([[0.4, 0.5]]), np.array([[0.01, 0.02]])
    for bounds in ((0.0, 1.0), (-np.inf, np.inf)):
        moved, scale = within(loc, width, np.full((1, 1), 0.1), *bounds)
        np.testing.assert_array_equal(moved, loc)
        np.testing.assert_array_equal(scale, width)


# -- conformal scaling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [3, 10, 99, 100])
def test_the_factor_is_an_order_statistic(n: int, level: float) -> None:
    rng = np.random.default_rng(n)
    loc = rng.normal(size=(n, 2))
    predictive = Mixture(rng.uniform(0.2, 1, (n, 2)), loc, rng.uniform(0.1, 2, (n, 2)))
    truth = rng.standard_t(2, n)
    scores = []
    for i in range(n):
        low, median, high = predictive[i].quantile(np.array([(1 - level) / 2, 0.5, (1 + level) / 2]))
        scores.append((median - truth[i]) / (median - low) if truth[i] < median else (truth[i] - median) / (high - median))
    rank = min(int(np.ceil((n + 1) * level)), n)
    np.testing.assert_allclose(conformal_factor(predictive, truth, level), sorted(scores)[rank - 1], rtol=1e-9)


def test_an_interval_all_at_a_bound_stretches_by_a_finite_factor() -> None:
    law = ErrorLaw.fit(evidence(60))
    runs, n = evidence(60).runs, 60
    held_out = law.predictive(runs, np.full(n, -9.0), np.full(n, 0.5), lower=0.0, upper=1.0)
    low, high = held_out.interval(0.8)
    assert (low == 0.0).all()
    assert (high == 0.0).all()
    # the narrowest kernel is 0.02 of the scale wide
    assert conformal_factor(held_out, np.full(n, 0.3), 0.8, least=held_out.edge / analogues.EDGE) == pytest.approx(0.3 / 0.01)
    assert conformal_factor(held_out, np.zeros(n), 0.8, least=held_out.edge / analogues.EDGE) == 0.0


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_intervals_of_exchangeable_groups_cover_as_they_say(level: float) -> None:
    """Groups share a shift, errors are heavy-tailed, and the outlook's own scale is wrong: the factor makes up for it."""
    covered = []
    for seed in range(30):
        rng = np.random.default_rng(seed)

        def draw(n_groups: int, rng: np.random.Generator = rng) -> tuple[Evidence, np.ndarray]:
            group = np.repeat(np.arange(n_groups), 4)
            truth = 3.0 * rng.normal(size=n_groups)[group] + 2.0 * rng.standard_t(3, group.size)
            scale = rng.uniform(0.2, 0.4, group.size)
            return Evidence(described(rng.normal(size=(group.size, 2))), (truth / scale)[:, None], group, np.ones(1)), scale

        known, scale = draw(20)
        law, factor = calibrate(known, np.zeros(80), scale, Metric(), level)
        fresh, fresh_scale = draw(50)
        low, high = law.predictive(fresh.runs, np.zeros(200), fresh_scale).rescaled(factor).interval(level)
        truth = fresh.errors[:, -1] * fresh_scale
        covered.append(np.mean((truth >= low) & (truth <= high)))
    assert level - 0.05 < np.mean(covered) < level + 0.05


def test_too_little_evidence_scales_nothing() -> None:
    known = evidence(10)
    assert calibrate(known, np.zeros(10), np.ones(10), Metric(), 0.8)[1] == 1.0


@pytest.mark.parametrize("n_like", [0, 1, 6, 9])
def test_where_few_went_through_a_like_stretch_they_alone_are_evidence(n_like: int) -> None:
    """The law of the few, beside the general law; errors made under other learning rates do not move it by a bit."""
    rng = np.random.default_rng(n_like)
    course = np.tile([1.0, 1.0], (40, 1))
    course[:n_like] = [1.0, 0.1]
    known = replace(evidence(40), runs=described(rng.normal(size=(40, 3)), course), groups=np.arange(40))
    asked = described(rng.normal(size=(5, 3)), np.tile([1.0, 0.0], (5, 1)))
    law = ErrorLaw.fit(known)
    few = ErrorLaw(known.take(np.arange(n_like)), law.centre, law.spread)
    centre, scale, y = np.zeros(5), np.ones(5), np.linspace(-3, 3, 31)[:, None]
    found = law.predictive(asked, centre, scale).cdf(y)
    assert_close(found, few.predictive(asked, centre, scale).cdf(y))
    others = replace(known, errors=np.where(np.arange(40)[:, None] < n_like, known.errors, 1e6))
    np.testing.assert_array_equal(ErrorLaw(others, law.centre, law.spread).predictive(asked, centre, scale).cdf(y), found)
    if n_like:  # and so that its own group's errors do not count, where they are left out
        left = law.predictive(asked, centre, scale, exclude=np.zeros(5, dtype=np.int64)).cdf(y)
        rest = (
            ErrorLaw(known.take(np.arange(1, max(n_like, 2))), law.centre, law.spread)
            if n_like > 1
            else ErrorLaw.fit(known.take(np.arange(0)))
        )
        assert_close(left, rest.predictive(asked, centre, scale).cdf(y))


def test_with_enough_like_runs_all_are_evidence() -> None:
    rng = np.random.default_rng(0)
    course = np.tile([0.3, 0.0], (40, 1))
    course[:12] = [1.0, 0.55]
    known = replace(evidence(40), runs=described(rng.normal(size=(40, 3)), course), groups=np.arange(40))
    asked = described(rng.normal(size=(5, 3)), np.tile([1.0, 0.55], (5, 1)))
    law = ErrorLaw.fit(known)
    moved = replace(known, errors=np.where(np.arange(40)[:, None] < 12, known.errors, 5.0))
    y = np.linspace(-3, 3, 31)[:, None]
    before, after = (x.predictive(asked, np.zeros(5), np.ones(5)).cdf(y) for x in (law, ErrorLaw(moved, law.centre, law.spread)))
    assert np.abs(before - after).max() > 0.01


def test_a_decay_that_no_run_has_been_through_is_not_calibrated() -> None:
    rng = np.random.default_rng(0)
    n = 40
    constant = np.tile([1.0, 1.0, 0.0], (n, 1))
    runs = Description(rng.normal(size=(n, 4)), constant, np.zeros((n, 0), dtype=np.int64))
    law = ErrorLaw.fit(Evidence(runs, rng.normal(size=(n, 1)), np.arange(n), np.ones(1)))
    courses = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.9, 0.85, 0.0]])
    asked = Description(np.zeros((3, 4)), courses, np.zeros((3, 0), dtype=np.int64))
    np.testing.assert_array_equal(law.supports(asked), [True, False, True])
    few = ErrorLaw.fit(Evidence(runs.take(np.arange(9)), rng.normal(size=(9, 1)), np.arange(9), np.ones(1)))
    assert not few.supports(asked).any()
