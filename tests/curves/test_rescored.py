"""A mixture whose normal scores have another distribution: against the mixture itself, quadrature and high precision."""

import mpmath
import numpy as np
import pytest
from scipy import integrate, special

from farfield.curves.normalised import Normalised
from farfield.curves.normalize import Normaliser
from farfield.curves.rescored import Rescored, normal_scores
from farfield.errors import InputError
from farfield.predictive import Mixture
from farfield.predictive.base import from_dict, stack

BASE = Mixture([[0.3, 0.7], [0.9, 0.1]], [[0.4, 0.7], [0.95, 0.2]], [[0.05, 0.1], [0.2, 0.01]])
SCORES = Mixture([[0.5, 0.5], [0.2, 0.8]], [[1.0, -0.5], [0.0, 2.0]], [[0.4, 1.5], [1.0, 0.3]])
PLAIN = Mixture(np.ones((2, 1)), np.zeros((2, 1)), np.ones((2, 1)))


@pytest.fixture
def found() -> Rescored:
    return Rescored(BASE, SCORES)


def test_standard_normal_scores_change_nothing() -> None:
    same, kept = Rescored(BASE, PLAIN), Mixture(BASE.weights, BASE.loc, BASE.scale, lower=0.0, upper=1.0)
    z = np.linspace(0.0, 1.0, 41)[:, None] + np.zeros(2)
    np.testing.assert_allclose(same.cdf(z), kept.cdf(z), atol=1e-12)
    np.testing.assert_allclose(same.log_prob(z), kept.log_prob(z), atol=1e-9)
    np.testing.assert_allclose(same.quantile([0.01, 0.5, 0.9]), kept.quantile([0.01, 0.5, 0.9]), atol=1e-9)
    np.testing.assert_allclose(same.mean(), kept.mean(), atol=1e-7)
    np.testing.assert_allclose(same.std(), kept.std(), atol=1e-6)
    np.testing.assert_allclose(same.crps([0.3, 0.8]), kept.crps([0.3, 0.8]), atol=1e-6)


def test_density_distribution_and_moments_belong_together(found: Rescored) -> None:
    for i in range(2):
        one = found[i : i + 1]

        def density(z: float, power: int = 0, one: Rescored = one) -> float:
            return float(z**power * np.exp(one.log_prob([z])[0]))

        inner = [0.19, 0.2, 0.21, 0.5, 0.7, 0.9]
        whole, mean, square = (integrate.quad(density, 0, 1, args=(k,), points=inner, limit=400)[0] for k in range(3))
        assert whole == pytest.approx(1, abs=1e-6)
        assert one.mean()[0] == pytest.approx(mean, abs=1e-6)
        assert one.std()[0] == pytest.approx(np.sqrt(square - mean**2), abs=1e-5)
        part = integrate.quad(density, 0, 0.6, points=inner[:4], limit=400)[0]
        assert one.cdf([0.6])[0] == pytest.approx(part, abs=1e-6)
        low, high = (
            integrate.quad(f, a, b, points=[p for p in inner if a < p < b], limit=400)[0]
            for f, a, b in (
                (lambda z, one=one: one.cdf([z])[0] ** 2, 0, 0.45),
                (lambda z, one=one: (1 - one.cdf([z])[0]) ** 2, 0.45, 1),
            )
        )
        assert one.crps([0.45])[0] == pytest.approx(low + high, abs=1e-6)


def test_quantiles_invert_and_stay_inside(found: Rescored) -> None:
    levels = np.array([0.001, 0.1, 0.5, 0.9, 0.999])
    values = found.quantile(levels)
    assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(values, axis=0) >= 0).all()
    np.testing.assert_allclose(found.cdf(values), levels[:, None] + np.zeros(2), atol=1e-9)
    draws = found.sample(4000, 1)
    np.testing.assert_allclose(np.quantile(draws, 0.5, axis=0), found.median(), atol=0.02)
    np.testing.assert_array_equal(found.sample(3, 5), found.sample(3, 5))


def test_outside_there_is_nothing(found: Rescored) -> None:
    np.testing.assert_array_equal(found.cdf([[-0.1, -5.0], [1.0, 7.0]]), [[0, 0], [1, 1]])
    assert np.isneginf(found.log_prob([-0.01, 1.01])).all()
    assert np.isnan(found.log_prob([np.nan, 0.5])[0])
    np.testing.assert_allclose(found.crps([-1.0, 3.0]) - found.crps([0.0, 1.0]), [1, 2], atol=1e-12)


def test_scores_are_right_far_into_the_tails() -> None:
    mpmath.mp.dps = 60
    for value in (-3.0, -0.5, 0.41, 0.9, 4.0):
        below = sum(w * mpmath.ncdf((mpmath.mpf(value) - m) / s) for w, m, s in ((0.3, 0.4, 0.05), (0.7, 0.7, 0.1)))
        above = sum(w * mpmath.ncdf((m - mpmath.mpf(value)) / s) for w, m, s in ((0.3, 0.4, 0.05), (0.7, 0.7, 0.1)))
        side, tail = (1, below) if below < above else (-1, above)
        start = -float(mpmath.sqrt(-2 * mpmath.log(tail)))
        exact = side * mpmath.findroot(lambda g, tail=tail: mpmath.log(mpmath.ncdf(g)) - mpmath.log(tail), start)
        ours = normal_scores(np.array(value), np.array([0.3, 0.7]), np.array([0.4, 0.7]), np.array([0.05, 0.1]))
        assert float(ours) == pytest.approx(float(exact), rel=1e-9)


def test_it_goes_to_plain_values_and_back_and_in_units(found: Rescored) -> None:
    again = from_dict(found.to_dict())
    np.testing.assert_array_equal(again.quantile([0.2, 0.7]), found.quantile([0.2, 0.7]))
    assert stack([found, found]).shape == (2, 2)
    maps = Normaliser("min", *(np.array([b, b]) for b in (0.0, 0.0, 2.0, np.inf)))
    whole = Normalised(found, maps)
    low, high = whole.interval(0.8)
    np.testing.assert_allclose(whole.cdf(high) - whole.cdf(low), 0.8, atol=1e-8)
    back = from_dict(whole.to_dict())
    np.testing.assert_allclose(back.median(), whole.median())
    one = whole[1:]
    total = integrate.quad(lambda y: float(np.exp(one.log_prob([y])[0])), 0, 30, points=[0.05, 0.5, 1, 2, 4], limit=400)[0]
    assert total == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(one.mean(), Normalised(found[1:], maps[1:]).mean())


def test_a_spread_widens_about_the_median(found: Rescored) -> None:
    wide = Rescored(BASE, SCORES, np.array([1.0, 2.0]))
    np.testing.assert_array_equal(wide.quantile([0.1, 0.9])[:, 0], found.quantile([0.1, 0.9])[:, 0])
    # Phi(2 Phi^-1(q)): what the level was before, where the bounds of [0, 1] take no part
    free = Rescored(Mixture([[0.9, 0.1]], [[0.5, 0.4]], [[0.02, 0.01]]), Mixture([[0.2, 0.8]], [[0.0, 2.0]], [[1.0, 0.3]]))
    levels = np.array([0.3, 0.5, 0.8])
    before = free.quantile(special.ndtr(2 * special.ndtri(levels)))
    after = Rescored(free.base, free.scores, 2.0).quantile(levels)
    np.testing.assert_allclose(after, before, atol=1e-9)
    one = wide[1:]
    total = integrate.quad(lambda z: float(np.exp(one.log_prob([z])[0])), 0, 1, points=[0.19, 0.2, 0.21, 0.5, 0.9], limit=400)[0]
    assert total == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(from_dict(wide.to_dict()).median(), wide.median())
    np.testing.assert_array_equal(stack([wide, found]).median(), [wide.median(), found.median()])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="spread"):
        Rescored(BASE, SCORES, np.array([1.0, 0.0]))
    with pytest.raises(InputError, match="shape"):
        Rescored(BASE, SCORES[:1])
    with pytest.raises(InputError, match="bounds"):
        Rescored(Mixture([[1.0]], [[0.0]], [[1.0]], lower=0.0), Mixture([[1.0]], [[0.0]], [[1.0]]))
