"""The normaliser against values of the published one, its own inverse and numerical slopes, and against what it may look at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.curves.data import Metric
from farfield.curves.normalize import Normaliser, from_seen
from farfield.errors import InputError

INF = np.inf
# (goal, hard low, soft low, soft high, hard high), values, what pfn_normalize of lcpfn 0.1.3 makes of them in float64
PUBLISHED = [
    (("max", 0.0, 0.0, 1.0, 1.0), [0.1, 0.5, 0.93], [0.08890407304067371, 0.5, 0.938548214799791]),
    (
        ("min", 0.0, 0.0, 2.3, INF),
        [0.05, 0.7, 2.3, 6.0],
        [0.9881901126497361, 0.8160722990581494, 0.36787944117144233, 0.019865730429214246],
    ),
    (("max", -INF, -3.0, 5.0, INF), [-8.0, 1.0, 4.0], [0.09534946489910949, 0.5, 0.679178699175393]),
    (("min", -INF, 2.0, 7.0, 10.0), [-5.0, 3.0, 9.0], [0.9756942151351643, 0.606393905809838, 0.046765452546188246]),
]


def one(goal, *bounds):
    return Normaliser(goal, *(np.array([b]) for b in bounds))


@pytest.mark.parametrize(("bounds", "y", "z"), PUBLISHED)
def test_the_published_map(bounds, y, z):
    np.testing.assert_allclose(one(*bounds).forward([y])[0], z, rtol=1e-12)


@given(
    goal=st.sampled_from(["min", "max"]),
    low=st.floats(-50, 50),
    width=st.floats(1e-3, 100),
    below=st.sampled_from([0.0, 0.7, INF]),
    above=st.sampled_from([0.0, 1.3, INF]),
    share=st.floats(0.02, 0.98),
)
def test_there_and_back_and_the_slope(goal, low, width, below, above, share):
    z = one(goal, low - below * width, low, low + width, low + width + above * width)
    y = np.array([[low + share * width]])
    v = z.forward(y)
    assert 0 <= v[0, 0] <= 1
    np.testing.assert_allclose(z.inverse(v), y, rtol=1e-9, atol=1e-9 * width)
    h = 1e-5 * width
    slope = (z.forward(y + h) - z.forward(y - h)) / (2 * h)
    assert np.sign(slope[0, 0]) == (-1 if goal == "min" else 1)
    np.testing.assert_allclose(z.log_slope(y), np.log(np.abs(slope)), atol=1e-5)


def test_densities_integrate_to_one_in_the_users_units():
    z = one("min", 0.0, 0.0, 2.3, INF)
    y = np.linspace(0, 60, 600_001)[None]
    # uniform in z: its density in y is |dz/dy| alone
    total = np.trapezoid(np.exp(z.log_slope(y)), y)[0]
    assert total == pytest.approx(1.0, abs=1e-6)


def test_hard_bounds_are_zero_and_one():
    z = one("min", -1.0, 0.0, 2.0, 9.0)
    np.testing.assert_allclose(z.forward([[-1.0, 9.0]]), [[1.0, 0.0]], atol=1e-15)
    np.testing.assert_allclose(z.inverse([[1.0, 0.0]]), [[-1.0, 9.0]], rtol=1e-12)
    far = one("min", 0.0, 0.0, 1.0, INF).inverse([[-0.5, 0.0, 1.3]])
    assert np.isfinite(far).all()
    assert (np.diff(far) <= 0).all()


def test_bounds_chosen_from_what_was_seen():
    y = np.array([[2.0, 1.0, 1.5], [0.3, np.nan, 0.4]])
    loss = from_seen(y, Metric("loss", "min", 0.0))
    assert loss.soft_high.tolist() == [2.0, 0.3]
    assert loss.soft_low.tolist() == [0.0, 0.0]
    accuracy = from_seen(y / 2, Metric("accuracy", "max", 0.0, 1.0))
    assert (accuracy.soft_low[0], accuracy.soft_high[0]) == (0.0, 1.0)
    score = from_seen(-y, Metric("score", "max", upper=0.0))
    assert score.soft_low.tolist() == [-2.0, -0.3]
    np.testing.assert_allclose(score.forward(-y), loss.forward(y), rtol=1e-12)  # the mirror of a loss
    free = from_seen(y, Metric("nll", "min"))
    np.testing.assert_allclose([free.soft_low, free.soft_high], [[0.0, 0.2], [2.0, 0.4]])
    np.testing.assert_allclose(free.forward(y), from_seen(-y, Metric("ll", "max")).forward(-y), rtol=1e-12)
    np.testing.assert_allclose(free.forward(y), from_seen(7 * y - 3, Metric("nll", "min")).forward(7 * y - 3), rtol=1e-12)


@pytest.mark.parametrize("goal", ["min", "max"])
@pytest.mark.parametrize("bounds", [(-INF, INF), (0.5, INF), (-INF, 0.5), (0.0, 1.0)])
@pytest.mark.parametrize("seen", [[[0.5]], [[0.5, 0.5, np.nan]]])
def test_one_point_or_a_constant_curve_at_its_bound(goal, bounds, seen):
    z = from_seen(seen, Metric("m", goal, *bounds))
    assert np.isfinite(z.forward([[0.5]])).all()
    assert np.isfinite(z.log_slope([[0.5]])).all()


def test_rows_do_not_meet_and_later_values_are_not_looked_at():
    y = np.random.default_rng(0).uniform(0.1, 3, (6, 9))
    seen = np.where(np.arange(9) < 4, y, np.nan)
    for metric in (Metric("loss", "min", 0.0), Metric("x"), Metric("r", "max", 0.0)):
        whole, cut = from_seen(seen, metric), from_seen(y[:, :4], metric)
        np.testing.assert_array_equal(whole.forward(y), cut.forward(y))
        for i in range(6):
            np.testing.assert_array_equal(from_seen(seen[i : i + 1], metric).forward(y[i : i + 1])[0], whole.forward(y)[i])
            np.testing.assert_array_equal(whole[i : i + 1].forward(y[i : i + 1])[0], whole.forward(y)[i])


def test_refusals():
    with pytest.raises(InputError, match=r"bounds of curve 1 are \(0, 2, 1, inf\)"):
        Normaliser("min", np.zeros(2), np.array([0.0, 2.0]), np.ones(2), np.full(2, INF))
    with pytest.raises(InputError, match="curve 1 has no seen value"):
        from_seen([[1.0], [np.nan]], Metric())
    with pytest.raises(InputError, match=r"has the value 1\.2; allowed: finite values from 0 to 1"):
        from_seen([[0.5, 1.2]], Metric("accuracy", "max", 0.0, 1.0))
    with pytest.raises(InputError, match="has the value inf"):
        from_seen([[0.5, np.inf]], Metric())
    with pytest.raises(InputError, match=r"allowed: \(\.\.\., 1, any\)"):
        one("min", 0.0, 0.0, 1.0, 1.0).forward([[1.0], [2.0]])
