"""The wide prior: each part does what its row of the table says, and what is drawn keeps to the normaliser's space."""

import numpy as np
import pytest
from scipy import stats

from farfield.curves.priors import DomhanPrior, WidePrior, parts
from farfield.errors import InputError


@pytest.fixture(scope="module")
def drawn():
    return WidePrior(120).sample(4000, 5)


def axis(n=600, seed=0, m=60):
    rng = np.random.default_rng(seed)
    return rng, parts.axis(rng, rng.integers(10, m + 1, n))


def test_what_is_drawn(drawn):
    assert drawn.x.shape == drawn.y.shape == drawn.latent.shape == (4000, 120)
    there = np.arange(120) < drawn.lengths[:, None]
    for values in (drawn.x, drawn.y, drawn.latent):
        np.testing.assert_array_equal(np.isfinite(values), there)
    assert (drawn.x[there] > 0).all()
    assert (np.diff(drawn.x, axis=1)[there[:, 1:]] > 0).all()
    assert (drawn.horizon >= np.nanmax(drawn.x, axis=1)).all()
    assert np.nanmin(drawn.y) >= 0
    assert np.nanmax(drawn.y) <= 1
    assert (drawn.noise >= 0).all()


def test_lengths_are_uniform_in_their_logarithm(drawn):
    assert drawn.lengths.min() == 10
    assert drawn.lengths.max() == 120
    levels = np.array([0.25, 0.5, 0.75])
    expected = 10 * (121 / 10) ** levels
    np.testing.assert_allclose(np.quantile(drawn.lengths, levels), expected, rtol=0.07)


def test_the_prior_reaches_what_the_papers_cannot(drawn):
    last = drawn.latent[np.arange(4000), drawn.lengths - 1]
    best = np.nanmax(drawn.latent, axis=1)
    first = drawn.latent[:, 0]
    assert 0.04 < np.mean(last < first) < 0.3  # the paper's rejects every such curve
    assert 0.05 < np.mean((best - last > 0.02) & (best - first > 0.02)) < 0.4  # turned back
    rises = np.diff(drawn.latent, axis=1)
    late = np.nanmax(np.where(np.arange(1, 120) > 0.3 * drawn.lengths[:, None], rises, np.nan), axis=1)
    early = drawn.latent[np.arange(4000), drawn.lengths // 3] - first
    assert np.mean((np.abs(early) < 0.02) & (late > 0.03)) > 0.01  # a plateau, then a jump
    assert np.mean(drawn.noise < 1e-3) > 0.2
    assert np.mean(drawn.noise > 0.03) > 0.1
    ratio = np.nanmax(drawn.x, axis=1) / drawn.x[:, 0]
    assert np.mean(ratio > 1000) > 0.05
    steps = np.diff(drawn.x, axis=1)
    assert 0.4 < np.mean(np.nanmax(steps, axis=1) < 1.001 * np.nanmin(steps, axis=1)) < 0.7  # even steps


def test_same_seed_same_curves():
    one, two = WidePrior().sample(300, 3), WidePrior().sample(300, 3)
    np.testing.assert_array_equal(one.y, two.y)
    np.testing.assert_array_equal(one.x, two.x)
    assert not np.array_equal(one.lengths, WidePrior().sample(300, 4).lengths)


def test_learning_only_ever_lowers_badness():
    rng, at = axis()
    time = parts.bent_time(rng, at)
    assert (np.diff(time, axis=1) >= -1e-12).all()
    b = parts.saturating(rng, at)
    assert (b <= 1).all()
    assert (b >= 0).all()
    assert (np.diff(b, axis=1) <= 1e-12).all()
    parts.plateaus(rng, at, b)
    assert (np.diff(b, axis=1) <= 1e-12).all()
    assert (b <= 1).all()
    assert (b >= 0).all()


def test_time_bends_at_a_break_by_the_rate():
    # far from the breaks log time runs at a product of rates: slopes at the far end are those of 0, 1 or 2 log-normal factors
    n, m = 4000, 400
    x = np.exp(np.broadcast_to(np.linspace(0, 60, m), (n, m)))
    at = parts.Axis(x, np.log(x), np.full(n, m), np.full(n, np.exp(30.0)))
    time = parts.bent_time(np.random.default_rng(1), at)
    slope = (time[:, -1] - time[:, -2]) / (at.log_x[:, -1] - at.log_x[:, -2])
    assert np.mean(np.abs(slope - 1) < 1e-9) == pytest.approx(0.55, abs=0.04)
    bent = np.log(slope[np.abs(slope - 1) > 1e-9])
    assert bent.mean() == pytest.approx(0, abs=0.08)
    assert bent.var() == pytest.approx(0.49 * (0.33 + 2 * 0.12) / 0.45, rel=0.15)


def test_annealing_reports_how_far_the_rate_has_gone():
    rng, at = axis(3000)
    before = np.full(at.shape, 0.7)
    b = before.copy()
    gone = parts.annealing(rng, at, b)
    assert gone.min() >= 0
    assert gone.max() <= 1
    touched = (b < before).any(axis=1)
    assert 0.3 < touched.mean() < 0.42
    assert not (b[gone == 0] < before[gone == 0]).any()
    share = (1 - b / before)[gone > 0.01] / gone[gone > 0.01]
    assert share.min() >= 0.0099
    assert share.max() <= 0.9001


def test_what_goes_wrong_only_raises_badness():
    rng, at = axis(2000)
    b = np.full(at.shape, 0.2)
    parts.overfitting(rng, at, b)
    assert (b >= 0.2).all()
    assert 0.13 < (b > 0.2001).any(axis=1).mean() < 0.2
    b = np.full(at.shape, 0.2)
    parts.divergence(rng, at, b)
    assert (b >= 0.2).all()
    assert 0.02 < (b > 0.21).any(axis=1).mean() < 0.07
    added = parts.spikes(rng, at)
    assert (added >= 0).all()
    assert (added > 0).any(axis=1).mean() == pytest.approx(0.15, abs=0.03)


def test_neighbours_correlate_as_told_and_the_variance_stays():
    z = np.random.default_rng(0).standard_normal((20_000, 12))
    rho = np.where(np.arange(20_000) % 2, 0.8, 0.3)[:, None]
    out = parts.chained(z, rho)
    for odd, wanted in ((0, 0.3), (1, 0.8)):
        part = out[odd::2]
        assert part[:, -1].std() == pytest.approx(1, abs=0.03)
        assert np.corrcoef(part[:, 5], part[:, 6])[0, 1] == pytest.approx(wanted, abs=0.03)
        assert np.corrcoef(part[:, 5], part[:, 7])[0, 1] == pytest.approx(wanted**2, abs=0.03)


def test_noise_is_scaled_over_its_range():
    rng, at = axis(5000)
    e = parts.noise(rng, at, np.ones(at.shape), np.zeros(at.shape))
    scale = np.log(np.abs(e[:, :10]).mean(axis=1) / np.sqrt(2 / np.pi))
    assert stats.kstest(scale, stats.uniform(np.log(1e-4), np.log(0.2 / 1e-4)).cdf).statistic < 0.06


def test_kinds_come_in_their_shares():
    kinds = parts.which(np.random.default_rng(0), 50_000, (0.45, 0.35, 0.2))
    np.testing.assert_allclose(np.bincount(kinds) / 50_000, (0.45, 0.35, 0.2), atol=0.008)


def test_refusals():
    with pytest.raises(InputError, match="m is 9"):
        WidePrior(9)
    with pytest.raises(InputError, match="n is 0"):
        WidePrior().sample(0)
    assert repr(DomhanPrior().sample(3, 0)) == "PriorCurves(3 curves of up to 100 points)"
