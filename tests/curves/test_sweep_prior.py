"""The prior over sweeps: each curve alone is one of the wide prior; together they follow a function of their hyperparameters."""

import numpy as np
import pytest
from scipy import stats

from farfield.curves.priors import SweepPrior, parts, wide
from farfield.curves.priors.sweeps import MOST_SETTINGS, TaskDraws, standardised
from farfield.errors import InputError


def test_what_is_drawn():
    found = SweepPrior().sample(30, 7, 25, 1)
    assert found.x.shape == (30, 25)
    assert found.y.shape == (30, 7, 25)
    assert found.settings.shape == (30, 7, MOST_SETTINGS)
    assert len(found.normaliser) == 210
    assert (np.diff(found.x, axis=1) > 0).all()
    assert (found.horizon >= found.x[:, -1]).all()
    z = found.normaliser.forward(found.y.reshape(210, 25))
    assert np.isfinite(z).all()
    assert z.min() >= 0
    assert z.max() <= 1
    known = (found.settings != 0).any(axis=(1, 2))
    assert 0.4 < known.mean() < 0.95
    np.testing.assert_allclose(found.settings.mean(axis=1), 0, atol=1e-12)


def test_same_seed_same_sweeps():
    a, b = (SweepPrior().sample(4, 5, 12, 9) for _ in range(2))
    np.testing.assert_array_equal(a.y, b.y)
    np.testing.assert_array_equal(a.settings, b.settings)
    assert not np.array_equal(a.y, SweepPrior().sample(4, 5, 12, 10).y)


def test_one_curve_of_a_sweep_is_a_curve_of_the_wide_prior():
    # one curve a task, so that the curves are independent
    found = SweepPrior().sample(3000, 1, 40, 2)
    z = found.normaliser.forward(found.y[:, 0])
    _, _, y, _ = wide._block(np.random.default_rng(3), np.full(3000, 40))
    rough = [np.log(np.abs(np.diff(values, 2)).mean(axis=1) + 1e-6) for values in (z, y)]
    rise = [values[:, -1] - values[:, 0] for values in (z, y)]
    worst = [values.min(axis=1) - values[:, 0] for values in (z, y)]
    for ours, theirs in (rough, rise, worst):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


@pytest.mark.parametrize(
    ("draw", "law"),
    [
        (lambda d: d.standard_normal((4000, 1))[:, 0], stats.norm()),
        (lambda d: d.random(4000), stats.uniform()),
        (lambda d: d.uniform(1.0, 3.0, 4000), stats.uniform(1, 2)),
        (lambda d: d.standard_exponential((4000, 3))[:, 2], stats.expon()),
        (lambda d: d.pareto(1.5, (4000, 1))[:, 0], stats.lomax(1.5)),
        (lambda d: d.standard_normal((4000, 9))[:, 4], stats.norm()),
        (lambda d: d.integers(2, 7, (4000, 1))[:, 0] + np.random.default_rng(0).random(4000), stats.uniform(2, 5)),
    ],
)
def test_draws_have_the_distributions_of_a_plain_generator(draw, law):
    draws = TaskDraws.between(np.random.default_rng(5), np.random.default_rng(6).standard_normal((4000, 1, 3)))
    assert stats.kstest(draw(draws), law.cdf).pvalue > 1e-3


def test_like_hyperparameters_like_draws():
    # pairs of runs: the same configuration, and two others; per task, over many draws
    rng = np.random.default_rng(0)
    h = rng.standard_normal((400, 3, 2))
    h[:, 1] = h[:, 0]
    draws = TaskDraws.between(rng, h)
    values = np.stack([draws.standard_normal((1200, 1)).reshape(400, 3) for _ in range(60)], axis=-1)
    same, other = ((values[:, 0] * values[:, j]).mean(axis=1) for j in (1, 2))
    # what is drawn for a run itself has no part in the correlation: on average 1 - E(o) and, for others, more than E(s)
    assert 0.7 < same.mean() < 0.9
    assert 0.4 < other.mean() < same.mean() - 0.03
    assert (same - other > -0.3).mean() > 0.95


def test_a_view_of_some_rows_has_their_draws():
    h = np.random.default_rng(1).standard_normal((3, 4, 2))
    rows = np.array([7, 2, 10])
    for call in (lambda d, n: d.standard_normal((n, 1)), lambda d, n: d.random(n), lambda d, n: d.standard_normal((n, 8))):
        whole, part = (TaskDraws.between(np.random.default_rng(4), h) for _ in range(2))
        np.testing.assert_array_equal(call(whole, 12)[rows], call(parts.of(part, rows), 3))
        nested = TaskDraws.between(np.random.default_rng(4), h)
        np.testing.assert_array_equal(call(whole, 12).shape[0], 12)
        np.testing.assert_array_equal(
            call(TaskDraws.between(np.random.default_rng(4), h), 12)[rows[[2, 0]]],
            call(parts.of(parts.of(nested, rows), np.array([2, 0])), 2),
        )


def test_a_plain_generator_does_not_mind_rows():
    rng = np.random.default_rng(0)
    assert parts.of(rng, np.arange(3)) is rng


def test_standardised_settings():
    raw = np.array([[1.0, 5.0, np.nan], [2.0, 5.0, np.nan], [np.nan, 5.0, np.nan]])
    np.testing.assert_allclose(standardised(raw), [[-1, 0, 0], [1, 0, 0], [0, 0, 0]])


def test_bad_sizes_are_refused():
    for sizes in ((0, 3, 20), (3, 0, 20), (3, 3, 9)):
        with pytest.raises(InputError):
            SweepPrior().sample(*sizes, 0)
