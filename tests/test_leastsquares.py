"""The batched fitter against numpy.linalg, scipy.optimize and closed forms, problem by problem."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import least_squares

from farfield.leastsquares import Solution, project, solve
from tolerances import assert_close

# -- projection ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("q", "n"), [(1, 1), (1, 7), (2, 3), (3, 3), (3, 20), (5, 40)])
def test_project_against_lstsq(q, n):
    rng = np.random.default_rng(q * 100 + n)
    phi, y = rng.normal(size=(6, q, n)), rng.normal(size=(6, n))
    weight = rng.uniform(0.1, 3, (6, n))
    beta, residual, basis = project(phi, y, weight)
    for b in range(6):
        root = np.sqrt(weight[b])
        want = np.linalg.lstsq((phi[b] * root).T, y[b] * root, rcond=None)[0]
        condition = np.linalg.cond((phi[b] * root).T)
        np.testing.assert_allclose(beta[b], want, rtol=1e-13 * condition, atol=1e-13 * condition)
        np.testing.assert_allclose(residual[b], root * (y[b] - want @ phi[b]), atol=1e-13 * condition * np.abs(y[b]).max())
        assert_close(basis[b] @ basis[b].T, np.eye(q))
        # the same space as numpy's orthonormal basis
        other = np.linalg.qr((phi[b] * root).T)[0]
        np.testing.assert_allclose(basis[b].T @ basis[b], other @ other.T, atol=1e-13 * condition)


@given(st.integers(0, 2**32 - 1), st.floats(-12, 0))
def test_project_keeps_its_digits_where_columns_are_nearly_parallel(seed, exponent):
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(1, 3, 12))
    phi[:, 2] = phi[:, 0] + 10.0**exponent * phi[:, 2]
    _, residual, basis = project(phi, rng.normal(size=(1, 12)), np.ones((1, 12)))
    assert_close(basis[0] @ basis[0].T, np.eye(3))
    assert_close(basis[0] @ residual[0], np.zeros(3))


@pytest.mark.parametrize("dependent", [[0, 0, 1], [1, 1, 1], [2, 0, 0]])
def test_a_dependent_column_gets_nothing(dependent):
    rng = np.random.default_rng(0)
    kinds = [np.zeros(9), np.ones(9), rng.normal(size=9)]
    phi = np.array([[kinds[k] * (1 + i) for i, k in enumerate(dependent)]])
    y, weight = rng.normal(size=(1, 9)), rng.uniform(0.5, 2, (1, 9))
    beta, residual, basis = project(phi, y, weight)
    root = np.sqrt(weight[0])
    want = np.linalg.lstsq((phi[0] * root).T, y[0] * root, rcond=None)[0]
    np.testing.assert_allclose(beta[0] @ phi[0], want @ phi[0], atol=1e-13)
    np.testing.assert_allclose(residual[0], root * (y[0] - want @ phi[0]), atol=1e-13)
    used = [i for i, k in enumerate(dependent) if k and k not in dependent[:i]]
    left_out = [i for i in range(3) if i not in used]
    assert not beta[0, left_out].any()
    assert not basis[0, left_out].any()


def test_points_without_weight_say_nothing():
    rng = np.random.default_rng(1)
    phi, y, weight = rng.normal(size=(4, 2, 10)), rng.normal(size=(4, 10)), rng.uniform(1, 2, (4, 10))
    weight[:, 6:] = 0
    beta, residual, _ = project(phi, y, weight)
    few, _, _ = project(phi[..., :6], y[:, :6], weight[:, :6])
    assert_close(beta, few)
    assert not residual[:, 6:].any()


# -- the nonlinear fit: y = b0 + b1 exp(-e^t0 x) + b2 exp(-e^t1 x) ---------------------------------------------------------

X = np.linspace(0.0, 4.0, 24)
TIGHT = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 400}
# boxes in which the two rates cannot become one: there the parameters lose their meaning
WIDE = (np.array([-3.0, 0.6]), np.array([0.5, 3.0]))
NARROW = (np.array([-0.5, 0.8]), np.array([0.0, 1.2]))


def exponentials(theta: np.ndarray, problems: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    phi = np.ones((len(theta), theta.shape[1] + 1, X.size))
    dphi = np.zeros((len(theta), theta.shape[1], *phi.shape[1:]))
    for k in range(theta.shape[1]):
        rate = np.exp(theta[:, k, None]) * X
        phi[:, 1 + k] = np.exp(-rate)
        dphi[:, k, 1 + k] = -rate * phi[:, 1 + k]
    return phi, dphi


def problems(n: int, p: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True theta and beta, starts and noisy y."""
    rng = np.random.default_rng(seed)
    theta = np.sort(rng.uniform(-1.5, 1.5, (n, p)), axis=1) + 0.8 * np.arange(p)
    beta = rng.uniform(0.5, 2, (n, p + 1)) * rng.choice([-1, 1], (n, p + 1))
    y = np.einsum("bq,bqn->bn", beta, exponentials(theta, np.arange(n))[0]) + noise * rng.normal(size=(n, X.size))
    return theta, beta, theta + rng.uniform(-0.5, 0.5, theta.shape), y


def residuals(full: np.ndarray, p: int, y: np.ndarray) -> np.ndarray:
    phi, _ = exponentials(full[None, :p], np.arange(1))
    return full[p:] @ phi[0] - y


def jacobian(full: np.ndarray, p: int, y: np.ndarray) -> np.ndarray:
    phi, dphi = exponentials(full[None, :p], np.arange(1))
    return np.vstack([np.einsum("pqn,q->pn", dphi[0], full[p:]), phi[0]]).T


def scipy_fit(full: np.ndarray, p: int, y: np.ndarray, repeats: np.ndarray, box: tuple[np.ndarray, np.ndarray], **options):
    """All parameters at once; a point of weight w is a point seen w times."""
    low, high = (np.concatenate([edge, np.full(p + 1, s * np.inf)]) for edge, s in zip(box, (-1, 1), strict=True))
    return least_squares(
        lambda v: np.repeat(residuals(v, p, y), repeats),
        np.clip(full, low + 1e-10, high - 1e-10),  # it starts inside only
        jac=lambda v: np.repeat(jacobian(v, p, y), repeats, axis=0),
        bounds=(low, high),
        **TIGHT,
        **options,
    )


def start_in_full(theta: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    phi, _ = exponentials(theta[None], np.arange(1))
    return np.concatenate([theta, project(phi, y[None], weight[None])[0][0]])


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("huber", [None, 0.05])
@pytest.mark.parametrize("edges", [WIDE, NARROW], ids=["wide", "narrow"])
def test_solve_against_scipy(p, huber, edges):
    n, box = 60, (edges[0][:p], edges[1][:p])
    _, _, start, y = problems(n, p, 0.05, seed=p)
    rng = np.random.default_rng(5)
    weight = rng.integers(0, 4, y.shape)
    y += np.where(rng.random(y.shape) < 0.1, 0.5, 0.0)  # outliers
    found = solve(exponentials, start, y, weight.astype(float), bounds=box, huber=huber)
    assert found.converged.all()
    assert np.all((found.theta >= box[0]) & (found.theta <= box[1]))
    # scipy's 0.5 C^2 rho((r / C)^2) with rho(z) = z, then 2 sqrt(z) - 1, is r^2 / 2, then C |r| - C^2 / 2
    options = {} if huber is None else {"loss": "huber", "f_scale": huber}
    as_good = 0
    for i in range(n):
        peer = scipy_fit(start_in_full(start[i], y[i], weight[i].astype(float)), p, y[i], weight[i], box, **options)
        as_good += found.cost[i] <= peer.cost * (1 + 1e-6)
        # and from where we stopped there is nothing left to gain
        full = np.concatenate([found.theta[i], found.beta[i]])
        polished = scipy_fit(full, p, y[i], weight[i], box, **options)
        assert polished.cost >= found.cost[i] * (1 - 1e-7), (i, found.cost[i], polished.cost)
        r = residuals(full, p, y[i])
        loss = 0.5 * r**2 if huber is None else np.where(np.abs(r) <= huber, 0.5 * r**2, huber * (np.abs(r) - 0.5 * huber))
        np.testing.assert_allclose(found.cost[i], (weight[i] * loss).sum(), rtol=1e-12)
    # from the same start two methods may walk into different minima, a few times either way
    assert as_good >= 0.9 * n


@pytest.mark.parametrize("p", [0, 1, 2])
def test_noiseless_problems_are_solved_to_rounding(p):
    theta, beta, start, y = problems(80, p, 0.0, seed=3)
    found = solve(exponentials, start, y, np.ones_like(y), bounds=(np.full(p, -5.0), np.full(p, 5.0)))
    assert found.converged.all()
    assert np.all(found.cost <= 1e-24 * (y**2).sum(axis=1))
    np.testing.assert_allclose(np.sort(found.theta), theta, atol=1e-6)
    np.testing.assert_allclose(np.sort(found.beta), np.sort(beta), atol=1e-6)


@pytest.mark.parametrize("huber", [None, 0.1])
def test_without_nonlinear_parameters_it_is_a_linear_fit(huber):
    rng = np.random.default_rng(0)
    phi = np.stack([np.ones((30, 15)), rng.normal(size=(30, 15))], axis=1)
    y = rng.normal(size=(30, 15)) ** 3

    def lines(theta, rows):
        return phi[rows], np.zeros((len(rows), 0, 2, 15))

    found = solve(lines, np.zeros((30, 0)), y, np.ones_like(y), huber=huber, max_iter=1000)
    assert found.converged.all()
    options = {} if huber is None else {"loss": "huber", "f_scale": huber}
    for i in range(30):
        peer = least_squares(
            lambda v, i=i: v @ phi[i] - y[i],
            found.beta[i],
            jac=lambda v, i=i: phi[i].T,
            xtol=1e-15,
            ftol=1e-15,
            gtol=1e-15,
            **options,
        )
        assert found.cost[i] <= peer.cost * (1 + 1e-9)
        if huber is None:
            np.testing.assert_allclose(found.beta[i], np.linalg.lstsq(phi[i].T, y[i], rcond=None)[0], rtol=1e-10)


def test_a_wide_huber_limit_is_least_squares():
    _, _, start, y = problems(20, 2, 0.05)
    weight = np.ones_like(y)
    plain, wide = (solve(exponentials, start, y, weight, bounds=WIDE, huber=h) for h in (None, np.full(20, 1e3)))
    # each stops when less than 1e-9 of the cost is left
    np.testing.assert_allclose(wide.cost, plain.cost, rtol=1e-8)


def test_huber_forgives_what_squares_do_not():
    theta, _, start, y = problems(40, 1, 0.002, seed=9)
    y[:, 4] += 3.0
    robust = solve(exponentials, start, y, np.ones_like(y), huber=0.005).theta
    plain = solve(exponentials, start, y, np.ones_like(y)).theta
    assert np.median(np.abs(robust - theta)) < 0.1 * np.median(np.abs(plain - theta))


def test_an_optimum_outside_the_box_is_found_on_its_edge():
    theta, _, _, y = problems(40, 1, 0.01, seed=4)
    low, high = np.array([-0.2]), np.array([0.3])
    outside = (theta[:, 0] < -0.4) | (theta[:, 0] > 0.5)
    found = solve(exponentials, np.zeros((40, 1)), y, np.ones_like(y), bounds=(low, high))
    assert found.converged.all()
    assert found.n_iter <= 15  # it does not creep along the edge
    assert outside.sum() > 20
    np.testing.assert_array_equal(found.theta[outside, 0], np.where(theta[outside, 0] < 0, low, high))


def test_a_start_outside_the_box_is_moved_in():
    _, _, start, y = problems(10, 1, 0.01)
    box = (np.array([-2.0]), np.array([2.0]))
    far = solve(exponentials, np.full_like(start, 50.0), y, np.ones_like(y), bounds=box)
    edge = solve(exponentials, np.full_like(start, 2.0), y, np.ones_like(y), bounds=box)
    np.testing.assert_array_equal(far.theta, edge.theta)


@pytest.mark.parametrize("huber", [None, 0.05])
def test_a_batch_is_its_problems_one_by_one(huber):
    _, _, start, y = problems(25, 2, 0.03, seed=7)
    weight = np.random.default_rng(0).uniform(0, 2, y.shape)
    together = solve(exponentials, start, y, weight, huber=huber)
    for i in range(25):
        alone = solve(exponentials, start[i : i + 1], y[i : i + 1], weight[i : i + 1], huber=huber)
        assert_close(alone.theta[0], together.theta[i])
        assert_close(alone.cost[0], together.cost[i])
        assert alone.converged[0] == together.converged[i]


def test_the_model_is_asked_for_the_rows_it_is_told():
    _, _, start, y = problems(12, 1, 0.05, seed=2)
    speed = np.linspace(0.5, 2.0, 12)[:, None]

    def model(theta, rows):
        rate = np.exp(theta) * speed[rows] * X
        g = np.exp(-rate)
        return np.stack([np.ones_like(g), g], axis=1), np.stack([np.zeros_like(g), -rate * g], axis=1)[:, None]

    scaled = solve(model, start - np.log(speed), y, np.ones_like(y))
    plain = solve(exponentials, start, y, np.ones_like(y))
    np.testing.assert_allclose(scaled.theta + np.log(speed), plain.theta, atol=1e-9)


def test_a_model_may_hand_out_its_own_arrays():
    _, _, start, y = problems(40, 2, 0.05, seed=6)
    handed: list[tuple[np.ndarray, np.ndarray]] = []

    def model(theta, rows):
        pair = exponentials(theta, rows)
        handed.append((pair[0], pair[0].copy()))
        return pair

    solve(model, start + np.linspace(-3, 3, 40)[:, None], y, np.ones_like(y))  # some far off, so that some steps are refused
    for now, before in handed:
        np.testing.assert_array_equal(now, before)


def test_inputs_stay_as_they_were():
    _, _, start, y = problems(5, 2, 0.05)
    weight = np.ones_like(y)
    copies = start.copy(), y.copy(), weight.copy()
    solve(exponentials, start, y, weight, huber=0.1)
    for now, before in zip((start, y, weight), copies, strict=True):
        np.testing.assert_array_equal(now, before)


def test_no_steps_give_the_linear_fit_at_the_start():
    _, _, start, y = problems(5, 2, 0.05)
    found = solve(exponentials, start, y, np.ones_like(y), max_iter=0)
    assert isinstance(found, Solution)
    assert found.n_iter == 0
    assert not found.converged.any()
    np.testing.assert_array_equal(found.theta, start)
    phi, _ = exponentials(start, np.arange(5))
    assert_close(found.beta, project(phi, y, np.ones_like(y))[0])


def test_a_model_that_is_not_finite_is_not_called_converged():
    _, _, start, y = problems(4, 1, 0.05)

    def broken(theta, rows):
        phi, dphi = exponentials(theta, rows)
        phi[rows == 2] = np.nan
        return phi, dphi

    found = solve(broken, start, y, np.ones_like(y))
    assert found.converged.tolist() == [True, True, False, True]
    np.testing.assert_array_equal(found.theta[2], start[2])
    others = [0, 1, 3]
    np.testing.assert_array_equal(found.theta[others], solve(exponentials, start, y, np.ones_like(y)).theta[others])


def test_an_empty_batch():
    found = solve(exponentials, np.empty((0, 2)), np.empty((0, X.size)), np.empty((0, X.size)))
    assert found.theta.shape == (0, 2)
    assert found.cost.shape == (0,)


@given(st.integers(0, 2**32 - 1), st.floats(-8, 8), st.floats(-100, 100), st.sampled_from([None, 0.05]))
def test_scale_law(seed, exponent, shift, huber):
    # y -> a y + b scales the linear coefficients and leaves theta where it was
    _, _, start, y = problems(3, 1, 0.02, seed)
    a, weight = 10.0**exponent, np.ones_like(y)
    box = (np.full(1, -4.0), np.full(1, 4.0))
    plain = solve(exponentials, start, y, weight, bounds=box, huber=huber)
    scaled = solve(exponentials, start, a * (y + shift), weight, bounds=box, huber=huber and a * huber)
    np.testing.assert_allclose(scaled.cost, a**2 * plain.cost, rtol=1e-6)
    np.testing.assert_allclose(scaled.theta, plain.theta, atol=1e-3)
