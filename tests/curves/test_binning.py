"""Binning of long logs: the means of a slow loop, the shape of the curve, and the noise that was put in."""

from __future__ import annotations

import time

import numpy as np
import pytest

from curves.simulated import from_runs
from farfield import Curves
from farfield.curves.binning import MOST_POINTS, binned, despiked
from farfield.curves.forecaster import EnsembleForecaster
from tolerances import assert_close


def latent(x: np.ndarray) -> np.ndarray:
    return 0.5 + 3.0 * (x + 10.0) ** -0.5


def long_run(n: int, noise: float, seed: int = 0) -> Curves:
    x = np.arange(1.0, n + 1)
    return from_runs({"long": (x, latent(x) + noise * np.random.default_rng(seed).normal(size=n))})


def test_curves_that_are_short_stay_as_they_are() -> None:
    x = np.arange(1.0, MOST_POINTS + 1)
    curves = from_runs({"most": (x, latent(x)), "few": (x[:4] * 7, latent(x[:4]))})
    found = binned(curves)
    assert found.batch.count.tolist() == [MOST_POINTS, 4]
    np.testing.assert_array_equal(found.noise, [0.0, 0.0])
    for i in range(2):
        n = found.batch.count[i]
        np.testing.assert_array_equal(found.batch.x[i, :n], curves.x[curves.points(i)])
        np.testing.assert_array_equal(found.batch.y[i, :n], curves.y[curves.points(i)])


@pytest.mark.parametrize("spacing", ["even", "irregular", "logarithmic", "negative"])
def test_bins_are_the_means_of_a_slow_loop(spacing: str) -> None:
    rng = np.random.default_rng(1)
    x = {
        "even": np.arange(1.0, 1001.0),
        "irregular": np.sort(rng.uniform(5, 900, 700)),
        "logarithmic": np.geomspace(1e-3, 1e5, 500),
        "negative": np.arange(-300.0, 300.0),
    }[spacing]
    y = rng.normal(size=x.size)
    members: dict[int, list[int]] = {}
    for i, value in enumerate(x):
        members.setdefault(min(int(64 * np.sqrt((value - x[0]) / (x[-1] - x[0]))), 63), []).append(i)
    bins = [members[k] for k in sorted(members)]
    found = binned(from_runs({"long": (x, y)})).batch
    n = int(found.count[0])
    assert n == len(bins) <= 64
    assert_close(found.x[0, :n] - found.shift[0], [np.mean(x[b]) for b in bins])
    assert_close(found.y[0, :n], [np.mean(y[b]) for b in bins])


def test_long_and_short_curves_in_one_batch_are_what_they_are_alone() -> None:
    x = np.arange(1.0, 301.0)
    curves = from_runs({"a": (x[:50], latent(x[:50])), "b": (x, np.sin(x)), "c": (x[:3], x[:3]), "d": (x[:200], np.cos(x[:200]))})
    together = binned(curves)
    for i in range(4):
        alone = binned(curves.take([i]))
        n = int(alone.batch.count[0])
        assert together.batch.count[i] == n
        np.testing.assert_array_equal(together.batch.x[i, :n], alone.batch.x[0, :n])
        np.testing.assert_array_equal(together.batch.y[i, :n], alone.batch.y[0, :n])
        assert together.noise[i] == alone.noise[0]


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("n", [200, 3000, 100_000])
def test_the_noise_put_in_is_the_noise_found(n: int, noise: float) -> None:
    found = [binned(long_run(n, noise, seed)).noise[0] for seed in range(20)]
    # the standard error of a scaled median of n / 2 differences is about 1.2 / sqrt(n / 2), over 20 repeats
    tolerance = 4 * 1.7 / np.sqrt(n / 2 * 20)
    # the curve's own slope between neighbours is all that is seen where there is no noise
    slope = float(np.median(np.abs(np.diff(latent(np.arange(n / 2, n))))))
    np.testing.assert_allclose(np.mean(found), noise, rtol=tolerance, atol=1.1 * slope)


def test_spikes_do_not_raise_the_noise() -> None:
    curves = long_run(5000, 0.1)
    y = curves.y.copy()
    y[np.random.default_rng(0).choice(5000, 100, replace=False)] += 1e3
    spiked = from_runs({"long": (curves.x, y)})
    # two of a hundred points spiked: four of a hundred differences, which moves their median by about five per cent
    assert binned(spiked).noise[0] == pytest.approx(binned(curves).noise[0], rel=0.1)


def test_the_curve_keeps_its_shape() -> None:
    noise, n = 0.2, 40_000
    found = binned(long_run(n, noise, 3)).batch
    x = np.arange(1.0, n + 1)
    code = np.minimum((64 * np.sqrt((x - 1) / (n - 1))).astype(int), 63)
    truth = np.bincount(code, latent(x)) / np.bincount(code)
    error = (found.y[0] - truth) * np.sqrt(np.bincount(code)) / noise
    assert np.abs(error).max() < 4.0
    assert 0.7 < error.std() < 1.3
    # the mean over a bin lies on the curve at the bin's mean x: where it bends most by no more than a fiftieth
    assert np.abs(truth - latent(found.x[0])).max() < 0.02 * np.ptp(latent(x))


def test_a_million_points_take_less_than_a_second() -> None:
    curves = long_run(1_000_000, 0.1)
    start = time.perf_counter()
    found = binned(curves)
    assert time.perf_counter() - start < 1.0
    assert found.batch.count[0] == 64
    assert found.noise[0] == pytest.approx(0.1, rel=0.01)


def test_points_next_to_zero_are_lifted_to_where_powers_are_numbers() -> None:
    batch = binned(from_runs({"a": ([1e-320, 1e-100, 1.0, 2.0], [4, 3, 2, 1]), "b": ([1e-25, 1e-3, 1.0, 2.0], [4, 3, 2, 1])})).batch
    assert_close(batch.x / 2.0, [[1e-30, 1e-30, 0.5, 1.0], [5e-26, 5e-4, 0.5, 1.0]])


def test_no_runs_and_constant_runs() -> None:
    assert binned(from_runs({})).noise.shape == (0,)
    flat = binned(from_runs({"flat": (np.arange(500.0), np.full(500, 0.7))}))
    assert flat.noise[0] == 0.0
    assert flat.batch.count[0] == 62  # the first bins are narrower than the spacing
    assert_close(flat.batch.y[0, :62], np.full(62, 0.7))


def test_a_lone_spike_is_replaced_and_a_step_is_not() -> None:
    rng = np.random.default_rng(0)
    y = np.exp(-np.arange(30) / 8) + 0.01 * rng.normal(size=30)
    spiked, stepped, late = y.copy(), y.copy(), y.copy()
    spiked[12], late[-1] = 1e6, 50.0
    stepped[15:] += 5.0
    calm = despiked(np.stack([spiked, stepped, late, y]), np.full(4, 30))
    assert calm[0, 12] == pytest.approx(np.median(spiked[10:15]))
    np.testing.assert_array_equal(np.delete(calm[0], 12), np.delete(spiked, 12))
    np.testing.assert_array_equal(calm[1:], [stepped, late, y])


def test_one_spike_does_not_move_the_forecast() -> None:
    rng = np.random.default_rng(1)
    x = np.arange(1.0, 31.0)
    y = 0.3 + x**-0.7 + 0.01 * rng.normal(size=30)
    spiked = y.copy()
    spiked[12] = 1e6
    forecasts = [
        EnsembleForecaster().predict(Curves.from_points(["a"] * 30, x, values), [60.0]).quantile([0.1, 0.5, 0.9])
        for values in (y, spiked)
    ]
    np.testing.assert_allclose(forecasts[1], forecasts[0], atol=0.02)
