"""Predictive distributions: closed forms against mpmath, brute force and SciPy's quadrature; laws over every kind."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from scipy import integrate, special
from tests.distributions import mixture
from tests.tolerances import assert_close

import farfield
from farfield.errors import InputError
from farfield.predictive import Bars, Gaussian, Predictive, Samples, from_dict, stack

INF = np.inf


def _bars(tails: bool, shape: tuple[int, ...] = (4, 2)) -> Bars:
    rng = np.random.default_rng(3)
    borders = np.cumsum(np.exp(rng.normal(size=9))) - 5
    log_mass = rng.normal(size=(*shape, 8))
    log_mass[..., 3] = -np.inf
    return Bars(borders, log_mass, tails)


def _gaussian() -> Gaussian:
    rng = np.random.default_rng(1)
    return Gaussian(rng.normal(size=(4, 2)), np.exp(rng.normal(size=(4, 2))))


CASES: dict[str, Callable[[], Predictive]] = {
    "gaussian": _gaussian,
    "samples": lambda: Samples(np.random.default_rng(2).normal(size=(301, 4, 2))),
    "bars": lambda: _bars(False),
    "bars with tails": lambda: _bars(True),
    "normal mixture": mixture,
    "t mixture": lambda: mixture(4.0),
    "t mixture, df that has no fast path": lambda: mixture(4.5),
    "mixture, df by component": lambda: mixture(np.array([INF, 3.0, 7.5, INF, 30.0])),
    "mixture above a bound": lambda: mixture(INF, 0.0),
    "t mixture within bounds by row": lambda: mixture(3.0, -1.0, np.linspace(0.5, 3, 8).reshape(4, 2)),
}
CONTINUOUS = [c for c in CASES if c != "samples"]
LEVELS = np.array([1e-6, 1e-3, 0.1, 0.25, 0.5, 0.77, 0.9, 0.999, 1 - 1e-6])


# -- laws over every kind -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_shapes(case: str) -> None:
    p = CASES[case]()
    assert p.shape == (4, 2)
    assert len(p) == 4
    for value in (p.mean(), p.median(), p.std(), p.quantile(0.3), p.cdf(0.1), p.log_prob(0.1), p.crps(0.1), *p.interval(0.8)):
        assert value.shape == (4, 2)
        assert value.dtype == np.float64
    assert p.quantile([0.1, 0.5, 0.9]).shape == (3, 4, 2)
    assert (
        p.cdf(np.zeros((3, 1, 1))).shape == p.crps(np.zeros((3, 1, 1))).shape == p.log_prob(np.zeros((3, 1, 1))).shape == (3, 4, 2)
    )
    assert p.sample(6, rng=0).shape == (6, 4, 2)
    assert "\n" not in repr(p)
    assert repr(p).startswith(type(p).__name__)


@pytest.mark.parametrize("case", CASES)
def test_row_law(case: str) -> None:
    p = CASES[case]()
    y = np.random.default_rng(5).normal(size=(4, 2))
    for index in (2, slice(1, 2), (1, 0), (slice(None), 1), [2, 0], np.array([True, False, True, False]), (..., 1)):
        part = p[index]
        assert part.shape == y[index].shape
        for of_all, of_part in (
            (p.mean(), part.mean()),
            (p.std(), part.std()),
            (p.cdf(y), part.cdf(y[index])),
            (p.log_prob(y), part.log_prob(y[index])),
            (p.crps(y), part.crps(y[index])),
        ):
            np.testing.assert_array_equal(of_all[index], of_part)
        for level in LEVELS:
            np.testing.assert_array_equal(p.quantile(level)[index], part.quantile(level))


@pytest.mark.parametrize("case", CONTINUOUS)
def test_cdf_of_quantile_is_the_level(case: str) -> None:
    p = CASES[case]()
    got = p.cdf(p.quantile(LEVELS))
    tail = np.minimum(LEVELS, 1 - LEVELS)[:, None, None]
    assert np.all(np.abs(got - LEVELS[:, None, None]) <= 1e-9 * tail + 1e-15)


@pytest.mark.parametrize("case", CASES)
def test_quantiles_rise_and_array_levels_are_the_scalar_ones(case: str) -> None:
    p = CASES[case]()
    levels = np.concatenate([[0.0], np.linspace(1e-4, 1 - 1e-4, 101), [1.0]])
    all_at_once = p.quantile(levels)
    assert np.all(np.diff(all_at_once, axis=0) >= 0)
    np.testing.assert_allclose(all_at_once, [p.quantile(v) for v in levels], rtol=1e-14)
    shuffled = np.random.default_rng(0).permutation(levels.size)
    np.testing.assert_array_equal(p.quantile(levels[shuffled]), all_at_once[shuffled])
    low, high = p.interval(0.9)
    np.testing.assert_array_equal([low, high], p.quantile([(1 - 0.9) / 2, (1 + 0.9) / 2]))


@pytest.mark.parametrize("case", CONTINUOUS)
def test_density_is_the_derivative_of_the_cdf(case: str) -> None:
    p = CASES[case]()
    low, high = p.interval(0.98)
    y = low + (high - low) * np.random.default_rng(0).random((20, 4, 2))
    h = 1e-5 * (high - low)
    slope = (p.cdf(y + h) - p.cdf(y - h)) / (2 * h)
    close = np.isclose(slope, np.exp(p.log_prob(y)), rtol=1e-5, atol=1e-8)
    if case.startswith("bars"):
        assert close.mean() > 0.98  # a difference may straddle a border
    else:
        assert close.all()


def _integral(f: Callable[[float], float], points: list[float]) -> float:
    """SciPy's quadrature from point to point."""
    return math.fsum(
        integrate.quad(f, a, b, epsabs=1e-11, epsrel=1e-11, limit=200)[0] for a, b in itertools.pairwise(sorted({*points}))
    )


@pytest.mark.parametrize("case", CONTINUOUS)
@pytest.mark.parametrize("index", [(0, 0), (3, 1)])
def test_moments_and_crps_against_scipy_quadrature(case: str, index: tuple[int, int]) -> None:
    p = CASES[case]()
    one = p[index]
    low, high = (float(one.quantile(q)) for q in (0.0, 1.0))
    points = [low, *(float(v) for v in one.quantile(np.linspace(0.02, 0.98, 25))), high]
    if isinstance(p, Bars):
        points = sorted({*points, *p.borders[1:-1]})

    def density(t: float) -> float:
        return math.exp(float(one.log_prob(t)))

    mean = _integral(lambda t: t * density(t), points)
    # 1e-7: SciPy's own error over the open, algebraic sides
    assert float(one.mean()) == pytest.approx(mean, rel=1e-7, abs=1e-7)
    assert float(one.std()) == pytest.approx(math.sqrt(_integral(lambda t: (t - mean) ** 2 * density(t), points)), rel=1e-6)
    for y in (points[3], points[12] + 0.01, points[-2] + 3.0, points[1] - 2.0):
        at = min(max(y, low), high)
        expected = _integral(lambda t, at=at: (float(one.cdf(t)) - (t >= at)) ** 2, [*points, at]) + abs(y - at)  # type: ignore[misc]
        # documented: below 1e-6 of the spread where there is no closed form
        assert float(one.crps(y)) == pytest.approx(expected, abs=1e-6 * float(one.std()))


@pytest.mark.parametrize("case", CASES)
def test_sample_moments_and_levels(case: str) -> None:
    p = CASES[case]()
    n = 20000
    draws = p.sample(n, rng=7)
    np.testing.assert_array_equal(draws, p.sample(n, rng=np.random.default_rng(7)))
    assert not np.array_equal(draws, p.sample(n, rng=8))
    # 8 cells a level and 5 levels: 4.5 standard errors keep the chance of a false alarm below 1e-3
    for level in (0.02, 0.25, 0.5, 0.75, 0.98):
        at = p.quantile(level)
        share = (draws <= at).mean(axis=0)
        true = p.cdf(at)
        assert np.all(np.abs(share - true) < 4.5 * np.sqrt(true * (1 - true) / n))


@pytest.mark.parametrize("case", CASES)
def test_dict_round_trip_is_strict_json(case: str) -> None:
    p = CASES[case]()
    again = from_dict(json.loads(json.dumps(p.to_dict(), allow_nan=False)))
    assert type(again) is type(p)
    y = np.linspace(-1, 1, 8).reshape(4, 2)
    np.testing.assert_allclose(again.cdf(y), p.cdf(y), rtol=1e-14)
    np.testing.assert_allclose(again.quantile(0.7), p.quantile(0.7), rtol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_stack(case: str) -> None:
    p = CASES[case]()
    both = stack([p[:2], p[2:]])
    assert both.shape == (2, 2, 2)
    y = np.linspace(-1, 1, 8).reshape(4, 2)
    np.testing.assert_allclose(both.cdf(y.reshape(2, 2, 2)).reshape(4, 2), p.cdf(y), rtol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_nan_and_infinite_values(case: str) -> None:
    p = CASES[case]()
    assert np.isnan(p.cdf(np.nan)).all()
    assert np.isnan(p.log_prob(np.nan)).all()
    assert np.isnan(p.crps(np.nan)).all()
    assert np.all(p.cdf(-INF) == 0)
    assert np.all(p.cdf(INF) == 1)
    assert np.all(p.log_prob(INF) == -INF)
    assert np.all(p.crps(-INF) == INF)


@pytest.mark.parametrize("case", CASES)
def test_refusals(case: str) -> None:
    p = CASES[case]()
    for bad in (-0.1, 1.1, np.nan, [0.5, 2.0]):
        with pytest.raises(InputError, match=r"not in \[0, 1\]"):
            p.quantile(bad)
    with pytest.raises(InputError, match="level"):
        p.interval(80)
    with pytest.raises(InputError, match=r"does not broadcast against the batch \(4, 2\)"):
        p.cdf(np.zeros(3))
    with pytest.raises(InputError, match="n is 0"):
        p.sample(0)
    with pytest.raises(IndexError, match=r"shape \(4, 2\)"):
        p[9]


# -- Gaussian and Samples -------------------------------------------------------------------------------------------------


def test_gaussian_against_mpmath() -> None:
    g = Gaussian([0.3, -2.0], [0.7, 1e-3])
    y = np.array([1.9, -2.0021])
    with mpmath.workdps(30):
        z = [
            (mpmath.mpf(float(v)) - mpmath.mpf(float(m))) / mpmath.mpf(float(s)) for v, m, s in zip(y, g.loc, g.scale, strict=True)
        ]
        assert_close(g.cdf(y), [float(mpmath.ncdf(v)) for v in z])
        assert_close(g.log_prob(y), [float(mpmath.log(mpmath.npdf(v) / s)) for v, s in zip(z, g.scale, strict=True)])
        crps = [
            float(s * (v * (2 * mpmath.ncdf(v) - 1) + 2 * mpmath.npdf(v) - 1 / mpmath.sqrt(mpmath.pi)))
            for v, s in zip(z, g.scale, strict=True)
        ]
        assert_close(g.crps(y), crps)
        quantile = [
            float(m + s * mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf("0.9") - 1)) for m, s in zip(g.loc, g.scale, strict=True)
        ]
        assert_close(g.quantile(0.9), quantile)


def test_samples_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(23, 3))
    s = Samples(values)
    y = np.array([0.1, -3.0, values[4, 2]])
    assert_close(
        s.crps(y), [np.mean(np.abs(v - t)) - np.mean(np.abs(v[:, None] - v)) / 2 for v, t in zip(values.T, y, strict=True)]
    )
    assert_close(s.cdf(y), [np.mean(v <= t) for v, t in zip(values.T, y, strict=True)])
    assert_close(s.quantile([0.0, 0.13, 1.0]), np.quantile(values, [0.0, 0.13, 1.0], axis=0))
    for column, t, got in zip(values.T, y, s.log_prob(y), strict=True):
        q75, q25 = np.percentile(column, [75, 25])
        width = 0.9 * min(column.std(), (q75 - q25) / 1.34) * 23 ** (-0.2)
        assert got == pytest.approx(
            np.log(np.mean(np.exp(-0.5 * ((t - column) / width) ** 2)) / (width * np.sqrt(2 * np.pi))), rel=1e-10
        )


def test_samples_keep_joint_draws_and_constant_draws_have_a_density() -> None:
    values = np.stack([np.arange(5.0), np.arange(5.0) * 10], axis=1)
    draws = Samples(values).sample(50, rng=0)
    np.testing.assert_array_equal(draws[:, 1], draws[:, 0] * 10)
    one = Samples(np.full((4, 1), 2.5))
    assert one.quantile(0.3) == one.median() == 2.5
    assert np.isfinite(one.log_prob(2.5)).all()
    assert one.std() == 0
    assert one.crps(3.0) == 0.5


# -- Bars -----------------------------------------------------------------------------------------------------------------


def test_bars_tails_are_half_normals_with_half_their_mass_in_the_bar() -> None:
    b = Bars([0.0, 1.0, 3.0, 7.0], np.log([0.2, 0.3, 0.5]), tails=True)
    assert_close(b.cdf([0.0, 1.0, 2.0, 3.0, 7.0]), [0.1, 0.2, 0.35, 0.5, 0.75])
    assert_close(b.quantile([0.1, 0.2, 0.75]), [0.0, 1.0, 7.0])
    left, right = 1.0 / special.ndtri(0.75), 4.0 / special.ndtri(0.75)
    for level in (1e-6, 0.03, 0.15):
        assert float(b.quantile(level)) == pytest.approx(1.0 - left * -special.ndtri(level / 0.4), rel=1e-12)
    for level in (0.6, 0.9, 0.999):
        assert float(b.quantile(level)) == pytest.approx(3.0 - right * special.ndtri(1 - level), rel=1e-11)
    assert float(b.log_prob(-0.5)) == pytest.approx(
        math.log(0.2 * 2 / left) - 0.5 * (1.5 / left) ** 2 - 0.5 * math.log(2 * math.pi)
    )


def test_bars_without_tails_against_a_sum_over_bars() -> None:
    borders, mass = np.array([-1.0, 0.0, 0.5, 2.0]), np.array([0.25, 0.0, 0.75])
    with np.errstate(divide="ignore"):
        b = Bars(borders, np.log(mass) + 3.0)
    centre, width = 0.5 * (borders[1:] + borders[:-1]), np.diff(borders)
    assert float(b.mean()) == pytest.approx(mass @ centre, rel=1e-14)
    assert float(b.std()) == pytest.approx(np.sqrt(mass @ (centre**2 + width**2 / 12) - (mass @ centre) ** 2), rel=1e-13)
    assert b.quantile([0.0, 1.0]).tolist() == [-1.0, 2.0]
    assert b.log_prob([-1.01, 0.2, 2.01]).tolist() == [-INF] * 3
    # within [0.5, 2] the cdf is 0.25 + (t - 0.5) / 2
    assert float(b.crps(0.0)) == pytest.approx(0.0625 / 3 + 0.5 * 0.75**2 + 1.5 * 0.75**2 / 3, rel=1e-13)
    assert float(b.crps(5.0)) == pytest.approx(float(b.crps(2.0)) + 3.0, rel=1e-14)


# -- refusals and small things ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian([0.0], [0.0]), "scale has the value 0"),
        (lambda: Gaussian([np.nan], [1.0]), "loc"),
        (lambda: Gaussian([0.0, 1.0], [1.0, 1.0, 1.0]), "broadcast"),
        (lambda: Samples(np.zeros((0, 3))), "n >= 1"),
        (lambda: Samples([np.nan]), "values"),
        (lambda: Bars([0.0, 0.0], [0.0]), "rising"),
        (lambda: Bars([0.0, 1.0], [0.0, 1.0]), "one value a bar"),
        (lambda: Bars([0.0, 1.0], [0.0], tails=True), "two bars"),
        (lambda: Bars([0.0, 1.0], [np.nan]), "log_mass"),
        (lambda: Bars([0.0, 1.0], [-INF]), "log_mass"),
        (lambda: stack([]), "nothing to stack"),
        (lambda: stack([_gaussian(), mixture()]), "cannot stack"),
        (lambda: stack([_bars(True), _bars(False)]), "different borders or tails"),
        (lambda: from_dict({"kind": "Gausian"}), "unknown kind of predictive 'Gausian'; nearest: Gaussian"),
    ],
)
def test_other_refusals(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("case", CASES)
def test_an_empty_batch_and_a_single_distribution(case: str) -> None:
    p = CASES[case]()
    empty, one = p[:0], p[0, 0]
    assert empty.shape == (0, 2)
    assert one.shape == ()
    for name, argument in (("quantile", 0.3), ("cdf", 0.2), ("log_prob", 0.2), ("crps", 0.2)):
        assert getattr(empty, name)(argument).shape == (0, 2)
        assert getattr(one, name)(argument).shape == ()
    for of_empty in (empty.mean(), empty.std(), empty.median()):
        assert of_empty.shape == (0, 2)
    assert empty.sample(3, rng=0).shape == (3, 0, 2)
    assert one.sample(3, rng=0).shape == (3,)
    assert repr(empty).startswith(type(p).__name__)


def test_inputs_are_left_alone_and_names_are_public() -> None:
    weights, loc, scale = np.array([2.0, 0.0]), np.array([1.0, np.nan]), np.array([1.0, np.nan])
    m = farfield.Mixture(weights, loc, scale)
    m.quantile(0.3)
    assert weights.tolist() == [2.0, 0.0]
    assert math.isnan(loc[1])
    assert isinstance(m, farfield.Predictive)
    assert not math.isnan(float(m.mean()))
