"""Limits: FID and IS against slow evaluations and known answers, the line in 1/N, errors against the bootstrap, what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy import linalg, stats

import farfield
from farfield.curves.features import Moments, moments
from farfield.curves.image_scores import _influence, _kernel, _variances, fid, fid_infinity, frechet, is_infinity, sobol_normal
from farfield.curves.limits import LimitStatus, limit
from farfield.errors import InputError

D = 8


def pool(rng: np.random.Generator, n: int, d: int = D, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return rng.normal(size=(n, d)) * np.linspace(0.5, 1.5, d) * scale + shift


def by_sqrtm(x: np.ndarray, y: np.ndarray) -> float:
    one, two = np.cov(x.T), np.cov(y.T)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(one + two - 2 * np.real(linalg.sqrtm(one @ two))))


# -- as measured --------------------------------------------------------------------------------------------------------


def test_fid_is_what_the_square_root_of_the_product_gives() -> None:
    rng = np.random.default_rng(0)
    x, y = pool(rng, 300, shift=0.3), pool(rng, 200)
    assert fid(x, y) == pytest.approx(by_sqrtm(x, y), rel=1e-10)
    assert fid(x, (y.mean(0), np.cov(y.T))) == pytest.approx(fid(x, y), rel=1e-12)
    assert fid((x.mean(0), np.cov(x.T)), y) == pytest.approx(fid(x, y), rel=1e-12)
    assert fid(x, x) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(3, 4), (4, 50), (50, 4), (D, D), (2, 2)])
def test_fewer_rows_than_features_are_exact(n: int, m: int) -> None:
    rng = np.random.default_rng(n * m)
    x, y = pool(rng, n, shift=1.0), pool(rng, m)
    with mpmath.workdps(50):
        one, two = (mpmath.matrix((rows - rows.mean(0)).tolist()) / mpmath.sqrt(len(rows) - 1) for rows in (x, y))
        root = mpmath.fsum(mpmath.svd_r(one * two.T, compute_uv=False))
        expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + float(mpmath.fsum(a * a for a in one) + mpmath.fsum(a * a for a in two))
        expected -= 2 * float(root)
    assert fid(x, y) == pytest.approx(expected, rel=1e-12)


def test_influence_is_the_change_by_a_little_more_weight_on_a_row() -> None:
    rng = np.random.default_rng(1)
    x, y = pool(rng, 60, shift=0.4), pool(rng, 80, scale=1.2)
    one, two, h = moments("x", x), moments("y", y), 1e-5

    def tilted(i: int, by: float) -> float:
        weights = np.full(60, (1 - by) / 60)
        weights[i] += by
        mean = weights @ x
        cov = (x - mean).T @ ((x - mean) * weights[:, None]) * 60 / 59
        return frechet(type(one)(60, mean, cov=cov), two)

    found = _influence(one, two, x)
    for i in (0, 7, 33):
        slope = (tilted(i, h) - tilted(i, -h)) / (2 * h)
        assert slope == pytest.approx(found[i], rel=0.05, abs=0.02)  # ddof 1 makes them differ by a sixtieth


def test_the_kernel_is_half_the_second_derivative_by_the_weights_of_two_rows() -> None:
    rng = np.random.default_rng(11)
    x, y = pool(rng, 70, d=5, shift=0.4), pool(rng, 90, d=5, scale=1.3)

    def of(weights: np.ndarray) -> mpmath.mpf:
        """Frechet distance from x with these weights, in 40 digits."""
        mean = weights @ x
        one = ((x - mean) * weights[:, None]).T @ (x - mean)
        two = np.cov(y.T)
        with mpmath.workdps(40):
            values = mpmath.eig(mpmath.matrix(one.tolist()) * mpmath.matrix(two.tolist()), left=False, right=False)
            root = mpmath.fsum(mpmath.sqrt(mpmath.re(value)) for value in values)
        return float(((mean - y.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two)) - 2 * root

    n, h = len(x), 2e-4
    own = Moments(n, x.mean(0), cov=np.cov(x.T, ddof=0))
    first, second = np.array([0, 3, 5]), np.array([1, 4, 9])
    found = _kernel(own, moments("y", y), x[first], x[second])
    for k, (i, j) in enumerate(zip(first, second, strict=True)):
        value = 0.0
        for a, b, sign in ((h, h, 1), (h, -h, -1), (-h, h, -1), (-h, -h, 1)):
            weights = np.full(n, (1 - a - b) / n)
            weights[i] += a
            weights[j] += b
            value += sign * of(weights)
        assert found[k] == pytest.approx(float(value) / (4 * h * h) / 2, rel=1e-4, abs=1e-4)


def test_the_variance_of_influence_is_that_of_the_true_influence_in_heavy_tails_too() -> None:
    # without the noise of T, and no row with a say in its own value
    rng = np.random.default_rng(12)
    d, n, scale = 16, 3000, np.linspace(0.9, 1.12, 16)
    tails = np.sqrt(4 / rng.chisquare(6, (2, n)))[:, :, None]
    x, y = rng.normal(size=(2, n, d)) * tails
    x *= scale
    known = (x**2 * (1 - 1 / scale)).sum(axis=1).var(), (y**2 * (1 - scale)).sum(axis=1).var()
    influence = _influence(moments("x", x), moments("y", y), x), _influence(moments("y", y), moments("x", x), y)
    found = _variances(x, y, moments("y", y), influence)
    assert sum(found) == pytest.approx(sum(known), rel=0.25)
    assert sum(i.var() for i in influence) > 1.3 * sum(known)  # the plain variance is not


# -- at infinity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [math.inf, 10.0])
def test_the_limit_is_five_times_closer_than_the_score_and_its_interval_covers(degrees: float) -> None:
    d, n, pools = 64, 5000, 12
    rng = np.random.default_rng(3)
    real = np.exp(-np.linspace(0, 1, d))
    fake = real * np.linspace(0.9, 1.15, d)
    truth = float(((fake - real) ** 2).sum()) + d * 0.04**2
    plain, errors, inside = [], [], 0
    for _ in range(pools):
        x, y = (rng.normal(size=(n, d)) for _ in range(2))
        if math.isfinite(degrees):
            x, y = (z * np.sqrt((degrees - 2) / rng.chisquare(degrees, n))[:, None] for z in (x, y))
        found = fid_infinity(x * fake + 0.04, y * real, level=0.8, rng=rng)
        assert found.status is LimitStatus.OK
        plain.append(abs(found.score - truth))
        errors.append(abs(found.estimate - truth))
        inside += found.interval[0] <= truth <= found.interval[1]
    assert np.mean(errors) <= np.mean(plain) / 5
    assert stats.binom.cdf(inside, pools, 0.8) > 1e-3


def test_the_slopes_are_the_known_biases() -> None:
    # both standard normal: E tr(S + I - 2 S^1/2) is d (d + 1) / 4 N to first order, of the mean d / N
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 4000, 10))
    found = fid_infinity(x, y, rng=0)
    expected = 10 * 11 / 4 + 10
    assert found.slope == pytest.approx(expected, rel=0.25)
    assert found.reference_slope == pytest.approx(expected, rel=0.25)
    at = found.at(1000)
    assert at.value == pytest.approx(found.score + found.slope * (1 / 1000 - 1 / 4000), rel=1e-12)
    assert found.at(None, "as is").value - found.estimate == pytest.approx(found.reference_slope / 4000, rel=1e-9)
    assert found.at(4000) == pytest.approx(found.at(4000.0))
    assert found.at(4000).value == found.score


def test_a_subset_of_that_size_scores_what_the_line_says() -> None:
    rng = np.random.default_rng(5)
    x, y = pool(rng, 4000, shift=0.1), pool(rng, 3000)
    found = fid_infinity(x, y, rng=1)
    order = rng.permutation(4000)
    scores = [fid(x[order[k * 400 : (k + 1) * 400]], y) for k in range(10)]
    assert np.mean(scores) == pytest.approx(found.at(400).value, abs=4 * np.std(scores) / math.sqrt(10))


def test_errors_agree_with_the_nested_bootstrap() -> None:
    rng = np.random.default_rng(6)
    x, y = pool(rng, 600, scale=1.4, shift=0.3), pool(rng, 500)
    by_influence = fid_infinity(x, y, sizes=5, rng=0)
    by_bootstrap = fid_infinity(x, y, n_boot=60, sizes=5, rng=0)
    assert by_bootstrap.estimate == pytest.approx(by_influence.estimate, abs=by_influence.error / 2)
    assert by_bootstrap.error == pytest.approx(by_influence.error, rel=0.3)  # of 60 resamples: 9 % and more
    alone = fid_infinity(x, (y.mean(0), np.cov(y.T)), rng=0)
    assert alone.error < by_influence.error
    assert alone.m is None
    assert alone.reference_slope == 0


def test_inception_score_by_its_definition_and_at_infinity() -> None:
    rng = np.random.default_rng(7)
    concentration = np.full(20, 0.1)
    p = rng.dirichlet(concentration, 2000)
    found = is_infinity(p, rng=0)
    mean = p.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        divergences = np.nansum(np.where(p > 0, p * np.log(p / mean), 0), axis=1)
    assert found.score == pytest.approx(math.exp(divergences.mean()), rel=1e-12)
    # entropy of a symmetric Dirichlet: psi(K a + 1) - psi(a + 1); the mean is uniform
    truth = float(20 * mpmath.exp(-(mpmath.digamma(3) - mpmath.digamma(1.1))))
    assert found.slope < 0
    assert found.slope == pytest.approx(-truth * 19 * (1 / 3) * 0.9 / 2, rel=0.25)  # -IS/2 sum of var(p_k) / E p_k
    assert abs(found.estimate - truth) < 3 * found.error


def test_any_metric_with_a_bias_of_one_over_n() -> None:
    # the plug-in variance: its expectation is (1 - 1/N) sigma^2, and its limit from one pool is the unbiased estimate
    x = np.random.default_rng(8).normal(size=(200, 1)) * 3

    def variance(rows: np.ndarray) -> float:
        return float(rows.var())

    found = limit(variance, x, n_boot=40, rng=0)
    assert found.metric == "variance"
    assert found.estimate == pytest.approx(x.var(ddof=1), abs=0.4 * found.error)
    spread = x.var(ddof=1) * math.sqrt(2 / 199)
    assert found.error == pytest.approx(spread, rel=0.35)
    low, high = found.interval
    assert low < found.estimate < high


def test_a_metric_of_two_pools_removes_the_bias_of_both() -> None:
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(300, 4)), rng.normal(size=(200, 4))
    found = limit(lambda a, b: ((a.mean(0) - b.mean(0)) ** 2).sum(), x, y, n_boot=20, rng=0, name="squared distance")
    assert found.metric == "squared distance"
    assert found.score - found.estimate == pytest.approx(4 / 300 + 4 / 200, rel=0.5)
    assert found.at(300).value == pytest.approx(found.score)


def test_the_same_seed_gives_the_same_limit_and_files_the_same_as_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    x, y = pool(rng, 500), pool(rng, 400)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "y.npz", y=y)
    np.savez(tmp_path / "stats.npz", mu=y.mean(0), sigma=np.cov(y.T))
    found = fid_infinity(x, y, rng=3).to_dict()
    assert farfield.fid_infinity(tmp_path / "x.npy", tmp_path / "y.npz", rng=3).to_dict() == found
    assert fid_infinity(x, y, rng=4).to_dict() != found
    assert fid(tmp_path / "x.npy", tmp_path / "stats.npz") == pytest.approx(fid(x, y), rel=1e-12)


def test_a_bias_that_is_not_yet_a_line_is_said_to_be() -> None:
    rng = np.random.default_rng(11)
    few = fid_infinity(pool(rng, 60, 40), pool(rng, 500, 40), rng=0)
    assert few.status is LimitStatus.FEW
    assert "take more samples" in few.summary()
    assert fid_infinity(pool(rng, 500, 4), pool(rng, 500, 4), rng=0).status is LimitStatus.OK


def test_frame_and_summary() -> None:
    rng = np.random.default_rng(12)
    found = fid_infinity(pool(rng, 400), pool(rng, 300), rng=0)
    frame = found.to_frame([1000])
    assert frame["n"].to_list() == [400, 1000, math.inf, math.inf]
    assert frame["reference"].to_list() == ["as is", "as is", "as is", "infinite"]
    assert frame["value"][0] == found.score
    assert (frame["low"] < frame["value"]).all()
    assert repr(found).startswith("Limit(FID ")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: fid(x, x[:, :3]), "fake has 8 features and reference 3"),
        (lambda x: fid_infinity(x, x[:, :3]), "fake has 8 features and reference 3"),
        (lambda x: fid_infinity(x[:19], x), "has 19 rows; a line in 1/N needs at least 20"),
        (lambda x: fid_infinity(x, x[:10]), "reference has 10 rows"),
        (lambda x: fid_infinity(np.where(x > 2, np.nan, x), x), "fake holds values that are not finite"),
        (lambda x: fid_infinity(x * 1e100, x), "fake holds numbers so large"),
        (lambda x: fid(x, x[:6] * 1e200), "reference holds numbers so large"),
        (lambda x: fid(x, (np.zeros(8), -np.eye(8))), "covariance of the reference has the negative eigenvalue"),
        (lambda x: fid(x, (np.zeros(7), np.eye(8))), "mean of the reference"),
        (lambda x: fid_infinity(x, x, min_size=200), "min_size is 200"),
        (lambda x: fid_infinity(x, x, level=80), "did you mean 0.8"),
        (lambda x: fid_infinity(x, x, n_boot=3), "n_boot is 3"),
        (lambda x: fid_infinity(x, x, sizes=1), "sizes is 1"),
        (lambda x: fid_infinity(x, x, subsets=0), "subsets is 0"),
        (lambda x: is_infinity(x), "take the softmax first"),
        (lambda x: is_infinity(np.full((30, 4), np.nan)), "row 0 of probabilities"),
        (lambda x: limit(lambda rows: math.nan, x), "metric's value"),
        (lambda x: fid_infinity(x, x, rng=0).at(0), "n is 0"),
        (lambda x: sobol_normal(4, 30_000), "1 to 21201"),
    ],
)
def test_refusals(call, says) -> None:
    with pytest.raises(InputError, match=says):
        call(np.random.default_rng(13).normal(size=(200, D)))


# -- quasi-random points ------------------------------------------------------------------------------------------------


def test_sobol_normals_are_normal_and_more_even_than_random_ones() -> None:
    z = sobol_normal(1024, 5, rng=0)
    assert z.shape == (1024, 5)
    assert np.isfinite(z).all()
    # every marginal has one point in each of 1024 equal cells, so that its distribution errs by less than a cell
    for column in z.T:
        assert stats.kstest(column, "norm").statistic <= 1.01 / 1024
    assert np.abs(z.mean(0)).max() < 0.2 / math.sqrt(1024)
    np.testing.assert_array_equal(z, sobol_normal(1024, 5, rng=0))
    assert not np.array_equal(z, sobol_normal(1024, 5, rng=1))
    np.testing.assert_array_equal(sobol_normal(1000, 5, rng=0), z[:1000])


def test_a_sobol_point_at_zero_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    original = stats.qmc.Sobol.random_base2

    def with_zero(self, m):
        first = self.num_generated == 0
        points = original(self, m)
        if first:
            points[0, 0] = 0.0
        return points

    monkeypatch.setattr(stats.qmc.Sobol, "random_base2", with_zero)
    z = sobol_normal(16, 2, rng=0)
    assert z.shape == (16, 2)
    assert np.isfinite(z).all()
