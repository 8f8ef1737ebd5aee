"""Mass at a bound: what is moved there is what the mixture has near it, in quantiles, draws and the distribution function alike."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.curves.edged import Edged
from farfield.errors import InputError
from farfield.predictive import Mixture, from_dict
from tolerances import assert_close

LEVELS = np.linspace(0.01, 0.99, 23)


def example(n: int = 5, seed: int = 0) -> tuple[Mixture, Edged]:
    rng = np.random.default_rng(seed)
    weights, loc, scale = rng.uniform(0.1, 1.0, (n, 3)), rng.uniform(0.0, 1.0, (n, 3)) ** 3, rng.uniform(0.02, 0.4, (n, 3))
    return (
        Mixture(weights, loc, scale, lower=0.0, upper=1.0),
        Edged(weights, loc, scale, lower=0.0, upper=1.0, edge=rng.uniform(0.0, 0.4, n)),
    )


def test_quantiles_and_draws_are_the_mixtures_moved_one_by_one() -> None:
    plain, edged = example()
    for found, given in ((edged.quantile(LEVELS), plain.quantile(LEVELS)), (edged.sample(300, 7), plain.sample(300, 7))):
        at_bounds = 0
        for i, edge in enumerate(edged.edge):
            for got, value in zip(found[:, i], given[:, i], strict=True):
                want = 0.0 if value <= edge else 1.0 if value >= 1.0 - edge else value
                assert got == want
                at_bounds += want in (0.0, 1.0)
        assert at_bounds > 20


def test_the_distribution_function_counts_what_was_moved() -> None:
    plain, edged = example()
    y = np.array([-0.5, 0.0, 1e-12, 0.05, 0.3, 0.5, 0.7, 0.95, 1.0 - 1e-12, 1.0, 2.0])
    for i, edge in enumerate(edged.edge):
        one = plain[i]
        below, above = float(one.cdf(edge)), float(one.cdf(1.0 - edge))
        want = [0.0 if v < 0 else below if v < edge else 1.0 if v >= 1 else above if v > 1 - edge else float(one.cdf(v)) for v in y]
        assert_close(edged[i].cdf(y), np.array(want))
    draws = edged.sample(4000, 1)
    assert np.abs((draws <= 0.0).mean(axis=0) - edged.cdf(0.0)).max() < 0.03  # four standard errors of 4,000 draws
    assert np.abs((draws < 1.0).mean(axis=0) - edged.cdf(np.nextafter(1.0, 0.0))).max() < 0.03


def test_a_run_at_a_bound_may_stay_there() -> None:
    """The tenth of a kernel that lies next to a bound is not above it."""
    edge = np.array([0.08])
    low, high = Edged([[1.0]], [[0.04]], [[0.02]], lower=0.0, upper=1.0, edge=edge).interval(0.8)
    assert low[0] == 0.0
    assert 0.0 <= high[0] < 0.1
    low, high = Edged([[1.0]], [[0.96]], [[0.02]], lower=0.0, upper=1.0, edge=edge).interval(0.8)
    assert high[0] == 1.0
    plain = Mixture([[1.0]], [[0.04]], [[0.02]], lower=0.0, upper=1.0)
    assert plain.interval(0.8)[0][0] > 0.0


def test_open_sides_have_no_edge() -> None:
    free = Edged([[0.5, 0.5]], [[0.0, 1.0]], [[1.0, 2.0]], edge=0.5)
    same = Mixture([[0.5, 0.5]], [[0.0, 1.0]], [[1.0, 2.0]])
    np.testing.assert_array_equal(free.quantile(LEVELS), same.quantile(LEVELS))
    np.testing.assert_array_equal(free.cdf(LEVELS[:, None]), same.cdf(LEVELS[:, None]))


def test_edges_go_with_their_rows() -> None:
    _, edged = example()
    _, other = example(seed=1)
    both = Edged.concatenate([edged, other])
    np.testing.assert_array_equal(both.quantile(LEVELS)[:, 5:], other.quantile(LEVELS))
    np.testing.assert_array_equal(both[[7, 2]].edge, [other.edge[2], edged.edge[2]])
    np.testing.assert_array_equal(edged.rescaled(1.0).edge, edged.edge)
    back = from_dict(edged.to_dict())
    assert isinstance(back, Edged)
    np.testing.assert_array_equal(back.quantile(LEVELS), edged.quantile(LEVELS))


@pytest.mark.parametrize("edge", [-0.1, np.nan, np.inf, 0.6])
def test_edges_that_make_no_sense_are_refused(edge: float) -> None:
    with pytest.raises(InputError, match="at most half the distance"):
        Edged([[1.0]], [[0.5]], [[0.1]], lower=0.0, upper=1.0, edge=edge)
    with pytest.raises(InputError, match="edge has shape"):
        Edged([[1.0]], [[0.5]], [[0.1]], lower=0.0, upper=1.0, edge=np.zeros(3))
