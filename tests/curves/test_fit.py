"""Batches of curves and the fits of every form to them: true parameters found again, scipy's optimum, row and scale laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from farfield.curves.fit import _BLOCK, Batch, FitResult, fit_form, positions
from farfield.curves.forms import FORMS, get_form
from farfield.errors import InputError

# forms whose parameters a well-sampled curve pins down
DETERMINED = tuple(name for name in FORMS if not name.startswith("bnsl"))


def batch_of(curves: list[tuple[np.ndarray, np.ndarray]], padding: float = np.nan) -> Batch:
    width = max(len(x) for x, _ in curves)
    x, y, w = np.full((len(curves), width), padding), np.full((len(curves), width), padding), np.zeros((len(curves), width))
    for i, (xi, yi) in enumerate(curves):
        x[i, : len(xi)], y[i, : len(xi)], w[i, : len(xi)] = xi, yi, 1.0
    return Batch.from_padded(x, y, w)


def ragged(n: int, seed: int = 0, noise: float = 0.01, rising: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """Power laws with noise, of 8 to 40 points at irregular x."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        x = np.cumsum(rng.uniform(0.5, 1.5, rng.integers(8, 41))) * 10
        y = rng.uniform(0.5, 1) + rng.uniform(0.2, 1) * (x / x[-1]) ** -rng.uniform(0.3, 1) + noise * rng.normal(size=x.size)
        out.append((x, -y if rising else y))
    return out


# -- batches -------------------------------------------------------------------------------------------------------------


def test_a_batch_pads_with_what_does_no_harm():
    batch = batch_of([(np.array([2.0, 4.0, 8.0]), np.array([3.0, 2.0, 1.0])), (np.array([5.0]), np.array([7.0]))])
    np.testing.assert_array_equal(batch.x, [[2, 4, 8], [5, 5, 5]])
    np.testing.assert_array_equal(batch.y, [[3, 2, 1], [7, 0, 0]])
    np.testing.assert_array_equal(batch.weight, [[1, 1, 1], [1, 0, 0]])
    assert batch.count.tolist() == [3, 1]
    assert batch.last.tolist() == [8, 5]
    assert batch.shift.tolist() == [0, 0]
    assert len(batch) == 2


def test_x_from_zero_or_below_is_moved_up():
    y = np.zeros(3)
    batch = batch_of([(np.array([0.0, 1.0, 2.0]), y), (np.array([-10.0, -6.0, 10.0]), y), (np.array([0.0]), y[:1])])
    assert (batch.x > 0).all()
    np.testing.assert_array_equal(batch.x[:, 0], [1.0, 4.0, 1.0])
    np.testing.assert_array_equal(batch.last, [3.0, 24.0, 1.0])
    np.testing.assert_array_equal(positions(batch, [20.0]), [[21.0], [34.0], [21.0]])
    np.testing.assert_array_equal(positions(batch, [[1.0], [2.0], [3.0]]), [[2.0], [16.0], [4.0]])


def test_the_first_points_of_a_batch():
    batch = batch_of(ragged(5, seed=1))
    count = batch.count // 2
    few = batch.first(count)
    np.testing.assert_array_equal(few.count, count)
    assert few.x.shape == (5, count.max())
    for i, k in enumerate(count):
        np.testing.assert_array_equal(few.x[i, :k], batch.x[i, :k])
        np.testing.assert_array_equal(few.y[i, :k], batch.y[i, :k])
        assert (few.x[i, k:] == few.last[i]).all()
        assert not few.y[i, k:].any()
    one = batch.take(np.array([3, 1]))
    np.testing.assert_array_equal(one.x, batch.x[[3, 1]])


GOOD = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]])


@pytest.mark.parametrize(
    ("x", "y", "weight", "message"),
    [
        (GOOD, GOOD[:1], GOOD, r"x, y and weight have shapes \(2, 3\), \(1, 3\), \(2, 3\)"),
        (GOOD[0], GOOD[0], GOOD[0], r"all must be \(n, width\)"),
        (GOOD, GOOD, [[1, 1, 1], [0, 0, 0]], "row 1 has no seen point"),
        (GOOD, GOOD, [[1, 1, 1], [1, 0, 1]], "row 1 has a weight of 0 before its last seen point"),
        (GOOD, GOOD, [[1, -1, 1], [1, 1, 1]], "row 0 has a weight that is negative"),
        (GOOD, GOOD, [[1, np.nan, 1], [1, 1, 1]], "row 0 has a weight that is negative, infinite or NaN"),
        (GOOD, [[1, 2, 3], [1, np.inf, 3]], np.ones((2, 3)), "row 1 has a seen point with x or y infinite or NaN"),
        ([[1, 2, 3], [np.nan, 2, 3]], GOOD, np.ones((2, 3)), "row 1 has a seen point with x or y infinite or NaN"),
        ([[1, 2, 2], [1, 2, 3]], GOOD, np.ones((2, 3)), "row 0 has seen points whose x does not increase"),
        ([[1, 2, 3], [1, 3, 2]], GOOD, np.ones((2, 3)), "row 1 has seen points whose x does not increase"),
    ],
)
def test_a_batch_refuses_what_it_cannot_hold(x, y, weight, message):
    with pytest.raises(InputError, match=message):
        Batch.from_padded(x, y, weight)


def test_what_is_not_seen_may_be_anything():
    x, y, w = np.array([[1.0, 2.0, np.nan]]), np.array([[1.0, 2.0, np.inf]]), np.array([[1.0, 1.0, 0.0]])
    batch = Batch.from_padded(x, y, w)
    assert batch.x.tolist() == [[1, 2, 2]]
    assert np.isnan(x[0, 2])


def test_fit_form_refuses_what_it_cannot_use():
    batch = batch_of(ragged(3))
    for arguments, message in [
        ({"n_starts": 0}, "n_starts is 0"),
        ({"huber": 0.0}, "huber is 0; allowed: above 0"),
        ({"huber": np.ones(2)}, r"huber has shape \(2,\); allowed: one number, or \(3,\)"),
        ({"floor": np.nan}, "floor is nan; allowed: a finite number"),
        ({"floor": np.ones((3, 1))}, r"floor has shape \(3, 1\)"),
    ]:
        with pytest.raises(InputError, match=message):
            fit_form(FORMS["pow2"], batch, **arguments)
    with pytest.raises(InputError, match=r"at has shape \(2, 5\); allowed: \(m,\) or \(3, m\)"):
        fit_form(FORMS["pow2"], batch).predict(np.ones((2, 5)))


# -- true parameters -----------------------------------------------------------------------------------------------------


def truths(name: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x (n, 60), theta, c, a and y of curves that the form describes exactly."""
    form = FORMS[name]
    rng = np.random.default_rng(seed)
    low, high = np.quantile(form.starts, [0.2, 0.8], axis=0)
    inner = form.starts[((form.starts >= low) & (form.starts <= high)).all(axis=1)]
    inner = inner if len(inner) else form.starts
    theta = inner[rng.integers(len(inner), size=n)] + rng.uniform(-0.15, 0.15, (n, form.starts.shape[1]))
    first = 30 if name == "vapour" else 1  # exp(b / u) spans too many decades before that
    x = np.sort(np.exp(rng.uniform(np.log(first), np.log(300), (n, 60))), axis=1)
    x[:, -1] = 300.0
    u = x / 300.0 if form.scale_free else x
    c, a = rng.uniform(0.5, 2, n) * form.offset, rng.uniform(0.5, 2, n) * rng.choice([-1, 1], n)
    y = c[:, None] + a[:, None] * form.values(u, theta)
    return x, theta, c, a, y


@pytest.mark.parametrize("name", DETERMINED)
def test_true_parameters_are_found_again(name):
    form = FORMS[name]
    x, theta, c, a, y = truths(name, 30, seed=1)
    result = fit_form(form, Batch.from_padded(x, y, np.ones_like(x)))
    assert result.converged.all()
    np.testing.assert_allclose(result.theta, theta, atol=1e-5)
    np.testing.assert_allclose(result.beta[:, -1], a, rtol=1e-5)
    if form.offset:
        np.testing.assert_allclose(result.beta[:, 0], c, rtol=1e-5)
    u = np.array([600.0, 3000.0]) / (300.0 if form.scale_free else 1.0)
    want = c[:, None] + a[:, None] * form.values(np.broadcast_to(u, (30, 2)), theta)
    np.testing.assert_allclose(result.predict([600.0, 3000.0]), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bnsl1", "bnsl2"])
def test_broken_power_laws_are_described_again(name):
    # breaks can stand in for one another, so it is the curve that is found, not its parameters
    x, _, _, _, y = truths(name, 30, seed=2)
    result = fit_form(FORMS[name], Batch.from_padded(x, y, np.ones_like(x)), n_starts=8, max_iter=1000)
    rms = np.sqrt(2 * result.cost / x.shape[1]) / y.std(axis=1)
    assert np.median(rms) < 1e-5
    assert rms.max() < 1e-2


# -- against scipy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("huber", [None, 0.02])
def test_scipy_finds_nothing_better_nearby(name, huber):
    form = FORMS[name]
    curves = ragged(12, seed=4, noise=0.02)
    batch = batch_of(curves)
    result = fit_form(form, batch, huber=huber, max_iter=500)
    # breaks that trade with one another make long valleys: some are still under way, and say so
    assert result.converged.mean() >= (0.5 if name.startswith("bnsl") else 1.0)
    p = len(form.parameters)
    low = np.concatenate([form.lower, np.full(1 + form.offset, -np.inf)])
    high = np.concatenate([form.upper, np.full(1 + form.offset, np.inf)])
    options = {} if huber is None else {"loss": "huber", "f_scale": huber}
    for i in np.flatnonzero(result.converged):
        x, y = curves[i]
        u = x / x[-1] if form.scale_free else x

        def residual(v, u=u, y=y):
            return v[p:] @ form.basis(u[None], v[None, :p])[0][0] - y

        def jacobian(v, u=u):
            phi, dphi = form.basis(u[None], v[None, :p])
            return np.vstack([np.einsum("pqn,q->pn", dphi[0], v[p:]), phi[0]]).T

        start = np.clip(np.concatenate([result.theta[i], result.beta[i]]), low + 1e-9, high - 1e-9)
        polished = least_squares(
            residual, start, jac=jacobian, bounds=(low, high), xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=200, **options
        )
        assert polished.cost >= result.cost[i] * (1 - 1e-6), (i, result.theta[i], result.cost[i], polished.cost)


def test_more_starts_are_never_worse():
    batch = batch_of(ragged(40, seed=5, noise=0.03))
    for name in ("exp4", "m4"):
        few, many = (fit_form(FORMS[name], batch, n_starts=k).cost for k in (1, 6))
        assert np.all(many <= few * (1 + 1e-12))


# -- rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in FORMS if not n.startswith("bnsl")])
@pytest.mark.parametrize("huber", [None, 0.02])
def test_ragged_rows_equal_curves_fitted_alone(name, huber):
    curves = ragged(10, seed=6)
    form = get_form(name)
    together = fit_form(form, batch_of(curves), huber=huber)
    for i, curve in enumerate(curves):
        alone = fit_form(form, batch_of([curve]), huber=huber)
        np.testing.assert_allclose(alone.cost[0], together.cost[i], rtol=1e-10)
        end = 2 * curve[0][-1]
        np.testing.assert_allclose(alone.predict([end])[0], together.predict([end])[i], rtol=1e-10)


def test_one_grid_of_x_equals_curves_fitted_alone():
    rng = np.random.default_rng(0)
    x = np.tile(np.arange(1.0, 21), (6, 1))
    y = 1 / x + 0.02 * rng.normal(size=x.shape)
    together = fit_form(FORMS["pow3"], Batch.from_padded(x, y, np.ones_like(x)))
    for i in range(6):
        alone = fit_form(FORMS["pow3"], Batch.from_padded(x[i : i + 1], y[i : i + 1], np.ones((1, 20))))
        np.testing.assert_allclose(alone.cost[0], together.cost[i], rtol=1e-10)
        np.testing.assert_allclose(alone.theta[0], together.theta[i], atol=1e-9)


def test_large_batches_are_worked_through_in_blocks():
    rng = np.random.default_rng(2)
    x = np.cumsum(rng.uniform(0.5, 1.5, (1600, 60)), axis=1)
    y = np.linspace(1, 2, 1600)[:, None] / x + 0.1
    form = FORMS["exp3"]
    assert 3 * x.size > _BLOCK  # more than one block of starts, and many of grid cells
    whole = fit_form(form, Batch.from_padded(x, y, np.ones_like(x)))
    part = fit_form(form, Batch.from_padded(x[1500:], y[1500:], np.ones((100, 60))))
    np.testing.assert_allclose(whole.cost[1500:], part.cost, rtol=1e-10)
    np.testing.assert_allclose(whole.predict([100.0])[1500:], part.predict([100.0]), rtol=1e-10)


def test_an_empty_batch():
    nothing = np.empty((0, 4))
    result = fit_form(FORMS["pow3"], Batch.from_padded(nothing, nothing, nothing))
    assert result.theta.shape == (0, 1)
    assert result.predict([1.0, 2.0]).shape == (0, 2)
    assert repr(result) == "FitResult(pow3, 0 curves, 0 converged)"


def test_points_left_out_have_no_say():
    (x, y) = ragged(1, seed=8)[0]
    k = len(x) // 2
    weight = (np.arange(len(x)) < k).astype(float)
    hidden = np.where(weight > 0, y, 1e6)
    left = fit_form(FORMS["exp3"], Batch.from_padded(x[None], hidden[None], weight[None]))
    short = fit_form(FORMS["exp3"], Batch.from_padded(x[None, :k], y[None, :k], np.ones((1, k))))
    np.testing.assert_allclose(left.cost, short.cost, rtol=1e-10)
    np.testing.assert_allclose(left.predict([1e3]), short.predict([1e3]), rtol=1e-10)


def test_a_weight_of_two_is_a_point_seen_twice():
    # points a hair apart stand for one seen twice
    x, y = np.arange(1.0, 11), 1 / np.arange(1.0, 11) + 0.05 * np.cos(np.arange(10.0))
    weight = np.where(np.arange(10) == 4, 2.0, 1.0)
    near = np.insert(x, 5, x[4] * (1 + 1e-13))
    heavy = fit_form(FORMS["pow3"], Batch.from_padded(x[None], y[None], weight[None]))
    twice = fit_form(FORMS["pow3"], Batch.from_padded(near[None], np.insert(y, 5, y[4])[None], np.ones((1, 11))))
    np.testing.assert_allclose(heavy.cost, twice.cost, rtol=1e-9)


# -- what curves look like ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, f in FORMS.items() if f.offset and not n.startswith("bnsl")])
def test_rising_curves_are_falling_ones_upside_down(name):
    falling, rising = (fit_form(FORMS[name], batch_of(ragged(8, seed=9, rising=r))) for r in (False, True))
    np.testing.assert_allclose(rising.cost, falling.cost, rtol=1e-9)
    np.testing.assert_allclose(rising.predict([500.0]), -falling.predict([500.0]), rtol=1e-6)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("n_points", [1, 2, 3])
def test_short_and_constant_curves(name, n_points):
    x = np.arange(1.0, n_points + 1)
    batch = batch_of([(x, np.full(n_points, 0.7)), (x, 1 / x), (x, np.zeros(n_points))])
    result = fit_form(FORMS[name], batch)
    assert isinstance(result, FitResult)
    assert np.isfinite(result.cost).all()
    assert np.isfinite(result.theta).all()
    assert np.isfinite(result.predict([n_points + 1.0])).all()
    assert result.cost[2] == 0
    if FORMS[name].offset:  # a constant is c
        assert result.cost[0] < 1e-24
        np.testing.assert_allclose(result.predict(x)[0], 0.7, rtol=1e-10)
    if FORMS[name].n_parameters <= n_points:
        worst = fit_form(get_form("loglin"), batch).cost[1] if FORMS[name].offset else np.inf
        assert result.cost[1] <= worst + 1e-2


def test_the_floor_of_a_form_without_an_offset():
    x = np.arange(1.0, 31)
    chance = np.array([0.1, 0.25])
    y = chance[:, None] + np.array([[0.5], [0.7]]) / (1 + (0.3 * x) ** -1.5)
    result = fit_form(FORMS["sigmoid"], Batch.from_padded(np.tile(x, (2, 1)), y, np.ones((2, 30))), floor=chance)
    np.testing.assert_allclose(result.beta[:, 0], [0.5, 0.7], rtol=1e-5)
    np.testing.assert_allclose(result.predict([1e6])[:, 0], [0.6, 0.95], rtol=1e-4)
    np.testing.assert_array_equal(result.floor, chance)


def test_huber_forgives_a_spike():
    x = np.tile(np.arange(1.0, 41), (20, 1))
    rng = np.random.default_rng(1)
    clean = 0.5 + 2 / x
    y = clean + 0.001 * rng.normal(size=x.shape)
    y[:, 30] += 1.0
    batch = Batch.from_padded(x, y, np.ones_like(x))
    robust, plain = (fit_form(FORMS["pow3"], batch, huber=h).predict([80.0])[:, 0] for h in (0.003, None))
    assert np.abs(robust - 0.525).max() < 0.01
    assert np.abs(plain - 0.525).min() > 0.02


def test_each_curve_may_have_its_own_huber_limit():
    curves, limits = ragged(5, seed=12, noise=0.05), np.array([0.01, 0.02, 0.05, 0.1, 1.0])
    together = fit_form(FORMS["pow3"], batch_of(curves), huber=limits)
    for i, limit in enumerate(limits):
        alone = fit_form(FORMS["pow3"], batch_of(curves), huber=limit)
        np.testing.assert_allclose(together.cost[i], alone.cost[i], rtol=1e-10)
    # a wider limit counts more of what lies far out
    assert np.all(np.diff([fit_form(FORMS["pow3"], batch_of(curves), huber=h).cost for h in limits], axis=0) >= -1e-9)


# -- scale laws ----------------------------------------------------------------------------------------------------------

SCALE_FREE = [n for n, f in FORMS.items() if f.scale_free and not n.startswith("bnsl")]


@settings(max_examples=60)
@given(st.sampled_from(SCALE_FREE), st.integers(0, 10**6), st.floats(-8, 8), st.floats(-9, 9), st.floats(-10, 10))
def test_units_of_x_and_y_do_not_matter(name, seed, y_exponent, x_exponent, shift):
    form = FORMS[name]
    a, k, b = 10.0**y_exponent, 10.0**x_exponent, shift if form.offset else 0.0
    curves = ragged(2, seed=seed)
    plain = fit_form(form, batch_of(curves))
    scaled = fit_form(form, batch_of([(k * x, a * (y + b)) for x, y in curves]))
    np.testing.assert_allclose(scaled.cost, a**2 * plain.cost, rtol=1e-6)
    at = np.array([[2 * x[-1]] for x, _ in curves])
    np.testing.assert_allclose(scaled.predict(k * at), a * (plain.predict(at) + b), rtol=1e-3, atol=1e-3 * a)


def test_extreme_scales_meet_no_overflow():
    curves = ragged(6, seed=11)
    for name in FORMS:
        for x_scale, y_scale in [(1e9, 1e8), (1e-9, 1e-8), (1e9, 1e-8)]:
            result = fit_form(FORMS[name], batch_of([(x_scale * x, y_scale * y) for x, y in curves]))
            assert np.isfinite(result.predict([[4 * x_scale * x[-1]] for x, _ in curves])).all()
            assert np.all(2 * result.cost <= [(y_scale * y) @ (y_scale * y) for _, y in curves])
