"""Mixtures, their kernels and their quadrature: against mpmath, brute force and closed forms; laws by hypothesis."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from tests.distributions import mixture
from tests.tolerances import assert_close

from farfield.errors import InputError
from farfield.predictive import Gaussian, Mixture, kernels, quadrature, stack, tables

INF = np.inf
LEVELS = np.array([1e-6, 1e-3, 0.1, 0.25, 0.5, 0.77, 0.9, 0.999, 1 - 1e-6])


def _gaussian() -> Gaussian:
    rng = np.random.default_rng(1)
    return Gaussian(rng.normal(size=(4, 2)), np.exp(rng.normal(size=(4, 2))))


# -- kernels ------------------------------------------------------------------------------------------------------------


def _mp_tail(df: float, z: float) -> mpmath.mpf:
    if df == INF:
        return mpmath.erfc(mpmath.mpf(z) / mpmath.sqrt(2)) / 2
    x = mpmath.mpf(df) / (df + mpmath.mpf(z) ** 2)
    return mpmath.betainc(mpmath.mpf(df) / 2, 0.5, 0, x, regularized=True) / 2


@pytest.mark.parametrize("df", [1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 30.0, INF])
def test_kernel_tails_keep_their_relative_accuracy(df: float) -> None:
    z = np.array([1e-9, 0.01, 0.3, 1.0, 2.0, 3.4, 3.5, 4.9, 10.0, 30.0])
    with mpmath.workdps(40):
        tail = np.array([float(_mp_tail(df, v)) for v in z])
        log_density = [_mp_log_density(df, v) for v in z]
    np.testing.assert_allclose(kernels.cdf(df, -z), tail, rtol=1e-12)
    assert_close(kernels.cdf(df, z), 1 - tail)
    np.testing.assert_allclose(kernels.log_density(df, z), log_density, rtol=1e-12)
    np.testing.assert_allclose(kernels.ppf(df, tail), -z, rtol=1e-9, atol=1e-14)
    assert kernels.cdf(df, np.array([-INF, INF])).tolist() == [0.0, 1.0]


def _mp_log_density(df: float, z: float) -> float:
    if df == INF:
        return float(-(mpmath.mpf(z) ** 2) / 2 - mpmath.log(2 * mpmath.pi) / 2)
    constant = mpmath.gamma(mpmath.mpf(df + 1) / 2) / mpmath.gamma(mpmath.mpf(df) / 2) / mpmath.sqrt(df * mpmath.pi)
    return float(mpmath.log(constant) - mpmath.mpf(df + 1) / 2 * mpmath.log(1 + mpmath.mpf(z) ** 2 / df))


@pytest.mark.parametrize("df", sorted(kernels._ODD + kernels._EVEN))
def test_fast_student_cdf_is_the_incomplete_beta_function(df: float) -> None:
    z = np.concatenate([np.random.default_rng(0).standard_t(1, size=5000), np.linspace(-9, 9, 2001)])
    np.testing.assert_allclose(kernels.cdf(df, z), special.stdtr(df, z), rtol=1e-12)


def test_tabulated_cdf_is_the_exact_one_to_1e_9() -> None:
    z = np.concatenate([np.linspace(-8, 8, 4001), np.sinh(np.linspace(-30, 30, 2001))])
    for df in (2.0, 2.3, 3.0, 4.5, 12.7, 30.0, 999.0, INF):
        table = tables.tabulate(np.asarray(df))
        assert table is not None
        np.testing.assert_allclose(tables.cdf(table, z), kernels.cdf(df, z), rtol=0, atol=1e-9)
    mixed = np.array([[3.0, INF], [2.5, 3.0]])
    table = tables.tabulate(mixed)
    assert table is not None
    at = z.reshape(-1, 1, 1) * np.ones((2, 2))
    np.testing.assert_allclose(tables.cdf(table, at), kernels.cdf(mixed, at), rtol=0, atol=1e-9)
    assert tables.tabulate(np.asarray(1.9)) is None
    assert tables.tabulate(np.linspace(3, 9, 40)[:, None]) is None


@pytest.mark.parametrize("df", [0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 30.0, INF])
@pytest.mark.parametrize("ends", [(-1.0, 2.0), (3.0, 7.0), (-0.2, 0.1), (-INF, 0.5), (2.0, INF), (-INF, INF)])
def test_partial_moments_against_mpmath(df: float, ends: tuple[float, float]) -> None:
    got = kernels.moments(df, np.array([ends[0]]), np.array([ends[1]]))
    for power, value in enumerate(got):
        if max(map(abs, ends)) == INF and df <= power:
            continue  # does not exist; see the test of means without one
        with mpmath.workdps(30):
            expected = mpmath.quad(
                lambda t, power=power: t**power * mpmath.exp(_mp_density_log(df, t)),
                [ends[0], *(c for c in (-4, 0, 4, 30) if ends[0] < c < ends[1]), ends[1]],
            )
        # 1e-9: tanh-sinh quadrature of mpmath on an algebraic tail; finite ends agree to 1e-12
        tolerance = 1e-12 if max(map(abs, ends)) < INF or df == INF else 1e-9
        assert float(value[0]) == pytest.approx(float(expected), rel=tolerance, abs=tolerance)


def _mp_density_log(df: float, t: Any) -> Any:
    if df == INF:
        return -(t**2) / 2 - mpmath.log(2 * mpmath.pi) / 2
    nu = mpmath.mpf(df)
    return (
        mpmath.loggamma((nu + 1) / 2)
        - mpmath.loggamma(nu / 2)
        - mpmath.log(nu * mpmath.pi) / 2
        - (nu + 1) / 2 * mpmath.log(1 + t**2 / nu)
    )


def test_quadrature_rule_is_exact_for_the_polynomials_it_must_be() -> None:
    for power in range(quadrature.ORDER + 2):
        exact = 0.0 if power % 2 else 2 / (power + 1)
        assert np.sum(quadrature.WEIGHTS * quadrature.NODES**power) == pytest.approx(exact, abs=1e-15)
    for k in range(quadrature.ORDER + 1):
        values = np.polynomial.chebyshev.Chebyshev.basis(k)(quadrature.NODES)
        np.testing.assert_allclose(quadrature.COEFFICIENTS @ values, np.arange(quadrature.ORDER + 1) == k, atol=1e-14)


def test_quadrature_of_several_integrals_with_steps_and_empty_ranges() -> None:
    low, high = np.array([0.0, -1.0, 2.0]), np.array([math.pi, 3.0, 2.0])

    def f(index: Any, v: Any) -> Any:
        return np.where(index[:, None] == 0, np.sin(v), (v > 0.7).astype(float))

    got = quadrature.integrate(f, low, high, np.full(3, 1e-9))
    np.testing.assert_allclose(got, [2.0, 2.3, 0.0], atol=1e-8)  # the step is settled at the tolerance


# -- Mixture --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", [INF, 3.0, 4.0, 4.5])
@pytest.mark.parametrize("bounds", [(-INF, INF), (-0.5, INF), (-0.5, 2.0), (4.0, 6.0)])
def test_mixture_cdf_and_density_against_mpmath(df: float, bounds: tuple[float, float]) -> None:
    w, loc, scale = np.array([0.2, 0.5, 0.3]), np.array([-1.0, 0.3, 2.0]), np.array([0.1, 1.0, 0.6])
    m = Mixture(w, loc, scale, df, *bounds)

    def mass(t: float) -> mpmath.mpf:
        z = [(mpmath.mpf(t) - float(a)) / float(s) for a, s in zip(loc, scale, strict=True)]
        return mpmath.fsum(float(c) * (1 - _mp_tail(df, v) if v > 0 else _mp_tail(df, -v)) for c, v in zip(w, z, strict=True))

    for y in (-0.4, 0.7, 1.9, 4.5, 5.5):
        with mpmath.workdps(40):
            below = mass(bounds[0]) if bounds[0] > -INF else mpmath.mpf(0)
            total = (mass(bounds[1]) if bounds[1] < INF else mpmath.mpf(1)) - below
            inside = bounds[0] < y < bounds[1]
            expected = (mass(y) - below) / total if inside else mpmath.mpf(y >= bounds[1])
            density = mpmath.fsum(
                float(c) / float(s) * mpmath.exp(_mp_density_log(df, (mpmath.mpf(y) - float(a)) / float(s)))
                for c, a, s in zip(w, loc, scale, strict=True)
            )
            log_prob = float(mpmath.log(density / total)) if inside else -INF
        assert_close(m.cdf(y), float(expected))
        np.testing.assert_allclose(m.log_prob(y), log_prob, rtol=1e-12)


def test_mixture_of_one_component_is_that_component() -> None:
    g = _gaussian()
    m = Mixture(np.ones(1), g.loc[..., None], g.scale[..., None])
    y = np.linspace(-2, 2, 8).reshape(4, 2)
    for name, argument in (("quantile", LEVELS), ("cdf", y), ("log_prob", y), ("crps", y)):
        np.testing.assert_allclose(getattr(m, name)(argument), getattr(g, name)(argument), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(m.mean(), g.mean(), rtol=1e-14)
    np.testing.assert_allclose(m.std(), g.std(), rtol=1e-12)


def test_mixture_crps_of_normals_against_pairs_by_brute_force() -> None:
    w, loc, scale = np.array([0.2, 0.5, 0.3]), np.array([-1.0, 0.3, 2.0]), np.array([0.1, 1.0, 0.6])

    def distance(offset: float, variance: float) -> mpmath.mpf:
        s = mpmath.sqrt(variance)
        return offset * (2 * mpmath.ncdf(offset / s) - 1) + 2 * s * mpmath.npdf(offset / s)

    for y in (-1.0, 0.4, 30.0):
        with mpmath.workdps(30):
            near = mpmath.fsum(w[i] * distance(mpmath.mpf(y) - loc[i], mpmath.mpf(scale[i]) ** 2) for i in range(3))
            spread = mpmath.fsum(
                w[i] * w[j] * distance(mpmath.mpf(loc[i]) - loc[j], mpmath.mpf(scale[i]) ** 2 + mpmath.mpf(scale[j]) ** 2)
                for i in range(3)
                for j in range(3)
            )
        assert_close(Mixture(w, loc, scale).crps(y), float(near - spread / 2))
        # the quadrature meets the closed form: bounds that cut nothing off
        wide = Mixture(w, loc, scale, INF, -60.0, 60.0)
        assert float(wide.crps(y)) == pytest.approx(float(near - spread / 2), abs=1e-6 * float(wide.std()))


def test_crps_quadrature_with_components_of_very_different_size() -> None:
    w, loc, scale = np.array([0.4, 0.35, 0.25]), np.array([0.0, 1e4, 5e3]), np.array([1e-6, 1.0, 300.0])
    exact = Mixture(w, loc, scale)
    cut = Mixture(w, loc, scale, INF, -1e5, 1e5)
    y = np.array([-3.0, 0.0, 4999.0, 1e4, 2e4])
    np.testing.assert_allclose([float(cut.crps(v)) for v in y], [float(exact.crps(v)) for v in y], atol=1e-6 * float(exact.std()))


@pytest.mark.parametrize("size", [1e-250, 1e-160, 1e160, 1e250])
def test_crps_of_very_small_and_very_large_values_is_that_of_one_times_their_size(size: float) -> None:
    w, loc, scale = np.array([0.6, 0.4]), np.array([1.0, 1.2]), np.array([0.1, 0.3])
    one, other = Mixture(w, loc, scale, 4.0, 0.0), Mixture(w, loc * size, scale * size, 4.0, 0.0)
    assert float(other.crps(0.9 * size)) == pytest.approx(float(one.crps(0.9)) * size, rel=1e-6)


def test_cauchy_crps_and_moments_that_do_not_exist() -> None:
    cauchy = Mixture([1.0], [0.5], [2.0], 1.0)
    # by hand: the integral of (1/2 - atan(t)/pi)^2 over t > 0 is log(4) / (2 pi), from integration by parts
    assert float(cauchy.crps(0.5)) == pytest.approx(2 * 2.0 * math.log(4) / (2 * math.pi), abs=2e-6)
    assert np.isnan(cauchy.mean())
    assert np.isnan(cauchy.std())
    assert Mixture([1.0], [0.0], [1.0], 1.0, 0.0).mean() == INF
    two = Mixture([1.0], [0.5], [2.0], 2.0)
    assert two.mean() == pytest.approx(0.5)
    assert two.std() == INF
    assert Mixture([1.0], [0.5], [2.0], 0.4).crps(0.0) == INF
    bounded = Mixture([1.0], [0.5], [2.0], 0.4, -1.0, 1.0)
    assert 0 < float(bounded.crps(0.0)) < 1
    assert -1 < float(bounded.mean()) < 1


@pytest.mark.parametrize("df", [INF, 3.0, 5.0, 12.0])
def test_quantiles_of_far_components_tiny_scales_and_extreme_levels(df: float) -> None:
    m = Mixture(
        [[0.5, 0.5, 0.0], [0.999999, 1e-6, 0.0], [0.3, 0.3, 0.4]],
        [[0.0, 1e8, np.nan], [0.0, 50.0, INF], [1.0, 1.0 + 1e-9, 5.0]],
        [[1.0, 1e-3, -1.0], [1.0, 0.1, np.nan], [1e-12, 1e-12, 1e3]],
        df,
    )
    levels = np.array([1e-12, 1e-6, 1e-7, 0.2, 0.3, 0.49999, 0.50001, 0.6, 1 - 1e-6, 1 - 1e-7, 1 - 1e-9])
    y = m.quantile(levels)
    # a root is as good as float64 can say where: the cdf one float to either side encloses the level
    below, above = m.cdf(np.nextafter(y, -INF)), m.cdf(np.nextafter(y, INF))
    slack = 1e-13 * np.minimum(levels, 1 - levels)[:, None] + 5e-16
    assert np.all((below - slack <= levels[:, None]) & (levels[:, None] <= above + slack))


@pytest.mark.parametrize(("loc", "lower", "upper"), [(-5.0, 0.0, INF), (-5.0, 0.0, 1.0), (5.0, -INF, 1.0), (-3.6, 0.0, 1e-3)])
def test_truncation_far_in_a_normal_tail(loc: float, lower: float, upper: float) -> None:
    m = Mixture([0.6, 0.4], [loc, 2 * loc], [0.1, 0.2], INF, lower, upper)
    with mpmath.workdps(700):
        clipped = [(0.6, max(min(loc, upper + 3.0), lower - 3.0), 0.1), (0.4, max(min(2 * loc, upper + 6.0), lower - 6.0), 0.2)]

        def mass(a: float, b: float) -> mpmath.mpf:
            return mpmath.fsum(
                w * (mpmath.erfc((a - m_) / s / mpmath.sqrt(2)) - mpmath.erfc((b - m_) / s / mpmath.sqrt(2)))
                for w, m_, s in clipped
            )

        top = mpmath.inf if upper == INF else upper
        bottom = -mpmath.inf if lower == -INF else lower
        for level in (1e-6, 0.3, 0.9):
            y = float(m.quantile(level))
            assert lower <= y <= upper
            assert float(mass(bottom, y) / mass(bottom, top)) == pytest.approx(level, rel=1e-9)
    assert lower <= float(m.mean()) <= upper
    draws = m.sample(4000, rng=0)
    assert np.all((draws >= lower) & (draws <= upper))
    # 5 standard errors; the moments themselves lose up to eight digits out here
    assert float(draws.mean()) == pytest.approx(float(m.mean()), abs=5 * float(m.std()) / math.sqrt(4000))


def test_a_heavy_tail_cut_far_out_keeps_its_power_law() -> None:
    m = Mixture([1.0], [0.0], [1.0], 3.0, 1e5)
    # beyond 1e5 the survival function is (1e5 / y)^3 to ten digits
    assert float(m.median()) == pytest.approx(1e5 * 2 ** (1 / 3), rel=1e-8)
    assert float(m.mean()) == pytest.approx(1.5e5, rel=1e-8)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 6),
    df=st.sampled_from([INF, 1.0, 3.0, 4.0, 7.3]),
    bounds=st.sampled_from([(-INF, INF), (0.0, INF), (-1.0, 2.0)]),
    spread=st.floats(0.0, 8.0),
)
def test_mixture_quantile_laws(seed: int, k: int, df: float, bounds: tuple[float, float], spread: float) -> None:
    rng = np.random.default_rng(seed)
    m = Mixture(rng.random((2, k)) + 1e-9, rng.normal(size=(2, k)), np.exp(spread * (rng.random((2, k)) - 0.7)), df, *bounds)
    levels = np.sort(np.concatenate([[1e-6, 1 - 1e-6], rng.random(6)]))
    y = m.quantile(levels)
    assert np.all(np.abs(m.cdf(y) - levels[:, None]) < 1e-10)
    assert np.all(np.diff(y, axis=0) >= 0)
    assert np.all((y >= bounds[0]) & (y <= bounds[1]))
    # shift and scale, bounds moved along
    a, b = 3.0, 0.25
    moved = Mixture(m.weights, a + b * m.loc, b * m.scale, df, a + b * bounds[0], a + b * bounds[1])
    np.testing.assert_allclose(moved.quantile(levels), a + b * y, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(moved.cdf(a + b * y), m.cdf(y), rtol=1e-9, atol=1e-9)
    at = rng.normal(size=2)
    np.testing.assert_allclose(moved.crps(a + b * at), b * m.crps(at), rtol=3e-6)
    np.testing.assert_allclose(moved.log_prob(a + b * at), m.log_prob(at) - math.log(b), rtol=1e-9)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.05, 20.0), df=st.sampled_from([INF, 3.0]))
def test_rescaled_stretches_quantiles_about_the_median(seed: int, factor: float, df: float) -> None:
    m = mixture(df, shape=(3,), seed=seed)
    levels = np.array([1e-6, 0.1, 0.5, 0.8, 1 - 1e-6])
    middle = m.median()
    expected = middle + factor * (m.quantile(levels) - middle)
    np.testing.assert_allclose(m.rescaled(factor).quantile(levels), expected, rtol=1e-9, atol=1e-10)
    by_row = m.rescaled([factor, 1.0, 2.0])
    np.testing.assert_allclose(by_row.quantile(0.1)[0], expected[1, 0], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(by_row.quantile(0.1)[1], m.quantile(0.1)[1], rtol=1e-9, atol=1e-10)


def test_rescaled_keeps_the_bounds() -> None:
    m = mixture(INF, 0.0, 1.0).rescaled(3.0)
    assert np.all(m.lower == 0)
    assert np.all(m.upper == 1)
    with pytest.raises(InputError, match="factor"):
        m.rescaled(0.0)
    with pytest.raises(InputError, match="factor"):
        m.rescaled(np.ones(3))


def test_log_prob_is_stable_far_away() -> None:
    m = Mixture([0.5, 0.5], [0.0, 1.0], [1e-3, 1e-3])
    assert float(m.log_prob(100.0)) == pytest.approx(math.log(0.5 / 1e-3) - 0.5 * 99e3**2 - 0.5 * math.log(2 * math.pi), rel=1e-12)


def test_stacked_mixtures_may_differ_in_their_number_of_components() -> None:
    one, two = Mixture([1.0], [0.0], [1.0], 4.0), Mixture([0.5, 0.5], [0.0, 2.0], [1.0, 1.0], INF, 0.0)
    both = stack([one, two])
    np.testing.assert_allclose(both.quantile(0.3), [one.quantile(0.3), two.quantile(0.3)], rtol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [0.0, 0.0]}, "weights must be"),
        ({"weights": [-1.0, 2.0]}, "weights must be"),
        ({"weights": [np.nan, 2.0]}, "weights must be"),
        ({"loc": [0.0, np.nan]}, "loc has NaN"),
        ({"scale": [0.0, 1.0]}, "scale has the value 0; allowed: > 0"),
        ({"df": 0.0}, "df has the value 0"),
        ({"df": np.nan}, "df has the value nan"),
        ({"lower": 1.0, "upper": 1.0}, "lower must be below upper"),
        ({"lower": np.nan}, "lower must be below upper"),
        ({"loc": [0.0, 1.0, 2.0]}, "shapes do not fit"),
        ({"lower": np.zeros(3)}, "shapes do not fit"),
        ({"weights": 1.0, "loc": 1.0, "scale": 1.0}, "k >= 1"),
        ({"loc": ["a", "b"]}, "real numbers"),
    ],
)
def test_mixture_refusals(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mixture(**{"weights": [0.5, 0.5], "loc": [0.0, 1.0], "scale": [1.0, 1.0], **arguments})


def test_mixtures_are_joined_along_an_axis_whatever_their_number_of_components() -> None:
    one = Mixture([[0.2, 0.8]], [[0.0, 1.0]], [[1.0, 2.0]], lower=-3.0)
    two = Mixture([[1.0]], [[5.0]], [[0.5]], upper=6.0)
    both = Mixture.concatenate([one, two])
    assert both.shape == (2,)
    levels = np.array([0.1, 0.5, 0.9])
    expected = np.concatenate([one.quantile(levels), two.quantile(levels)], axis=1)
    np.testing.assert_allclose(both.quantile(levels), expected, rtol=1e-12)
