"""Optimal transport against linear programs, closed forms, a plain loop and finite differences."""

from __future__ import annotations

import warnings

import mpmath
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

from farfield import transport
from farfield.errors import ConvergenceWarning, InputError
from tolerances import assert_close


def exact(cost, a, b):
    """The linear program of transport."""
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    return linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.r_[a, b]).fun


def plain(cost, a, b, eps, steps=20_000):
    """Sinkhorn's iteration on scalings, entry by entry: no logarithms, no batch, no lowered eps."""
    kernel = np.exp(-cost / eps)
    v = np.ones(len(b))
    for _ in range(steps):
        u = 1 / (kernel @ (b * v))
        v = 1 / (kernel.T @ (a * u))
    return u, v


@pytest.fixture(name="problem")
def _problem():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(7, 2)), rng.normal(size=(5, 2)) + 0.5
    return transport.squared_distances(x, y), rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(5)), x, y


def test_squared_distances_by_a_loop_far_from_the_origin():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)) + 1e4, rng.normal(size=(4, 3)) + 1e4
    loop = [[sum((p - q) ** 2 for p, q in zip(r, s, strict=True)) for s in y] for r in x]
    np.testing.assert_allclose(transport.squared_distances(x, y), loop, rtol=1e-10)


@pytest.mark.parametrize("eps", [0.5, 3.0])
def test_potentials_and_value_by_plain_scalings(problem, eps):
    cost, a, b, *_ = problem
    found = transport.sinkhorn(cost, a, b, eps=eps, tol=1e-14)
    u, v = plain(cost, a, b, eps)
    plan = (a * u)[:, None] * np.exp(-cost / eps) * (b * v)
    assert_close(found.plan, plan)
    value = (plan * cost).sum() + eps * (plan * np.log(plan / np.outer(a, b))).sum()
    assert_close(found.value, value)
    shift = found.f - eps * np.log(u)  # potentials are defined up to a constant
    assert_close(shift - shift[0], np.zeros(7))


def test_the_log_domain_agrees_with_the_kernel_of_shared_costs(problem):
    cost, _, b, *_ = problem
    many = np.random.default_rng(1).dirichlet(np.ones(7), 6)
    shared = transport.sinkhorn(cost, many, b, eps=0.3, tol=1e-13, max_iter=100_000)
    each = transport.sinkhorn(np.repeat(cost[None], 6, 0), many, b, eps=0.3, tol=1e-13, max_iter=100_000)
    assert_close(shared.value, each.value)
    assert_close(shared.f, each.f)
    alone = transport.sinkhorn(cost, many[4], b, eps=0.3, tol=1e-13, max_iter=100_000)
    assert_close(alone.value, shared.value[4])


def test_eps_to_zero_is_the_linear_program(problem):
    cost, a, b, *_ = problem
    best = exact(cost, a, b)
    for eps in (0.3, 0.03, 0.003):
        found = transport.sinkhorn(cost, a, b, eps=eps, tol=1e-8, max_iter=200_000)
        assert_close(found.plan.sum(-1), a)
        assert_close(found.plan.sum(-2), b)
        assert best - 1e-9 <= found.sharp <= best + eps * np.log(5) + 1e-6
    assert found.sharp == pytest.approx(best, rel=1e-3)


def test_equal_weights_are_an_assignment_and_the_potentials_its_dual():
    rng = np.random.default_rng(8)
    cost = transport.squared_distances(rng.normal(size=(12, 3)), rng.normal(size=(12, 3)))
    i, j = linear_sum_assignment(cost)
    found = transport.sinkhorn(cost, eps=0.002, tol=1e-4, max_iter=100_000)  # 330 eps is less than the costs: the log domain
    assert found.sharp == pytest.approx(cost[i, j].mean(), rel=1e-3)
    assert (found.f[:, None] + found.g <= cost + 0.02).all()
    assert found.f[i] + found.g[j] == pytest.approx(cost[i, j], abs=0.02)


def test_the_divergence_of_equal_sets_is_zero_and_entropy_alone_is_not(problem):
    _, a, _, x, _ = problem
    cost = transport.squared_distances(x, x)
    assert transport.sinkhorn(cost, a, a, eps=3.0).value > 0.1
    found = transport.divergence(cost, cost, cost, a, a, eps=3.0, tol=1e-13)
    assert found.value == pytest.approx(0.0, abs=1e-10)
    assert found.gradient_a == pytest.approx(np.zeros(7), abs=1e-9)


def test_the_divergence_of_a_shifted_set_is_the_squared_shift(problem):
    # for squared distances and any eps: the cross terms are linear, so the plans of the three problems agree
    *_, x, _ = problem
    y = x + np.array([0.3, -1.1])
    costs = (transport.squared_distances(p, q) for p, q in ((x, y), (x, x), (y, y)))
    assert transport.divergence(*costs, eps=3.0, tol=1e-13).value == pytest.approx(0.09 + 1.21, rel=1e-9)


def test_gradients_by_weights_are_finite_differences_also_at_weight_zero(problem):
    cost, a, b, x, y = problem
    within = transport.squared_distances(x, x), transport.squared_distances(y, y)
    a = np.where(np.arange(7) == 2, 0.0, a)
    a /= a.sum()

    def slope(p, q, move_p, move_q=0.0):
        up, down = value(p + move_p, q + move_q), value(p - move_p, q - move_q)
        return (up - down) / (2 * h)

    def value(p, q):
        return float(transport.divergence(cost, *within, p, q, eps=0.8, tol=1e-13).value)

    found = transport.divergence(cost, *within, a, b, eps=0.8, tol=1e-13)
    h = 1e-5
    for i, j in ((0, 1), (4, 6)):
        move = h * (np.eye(7)[i] - np.eye(7)[j])
        assert found.gradient_a[i] - found.gradient_a[j] == pytest.approx(slope(a, b, move), rel=1e-5)
    # into a point that has no weight there is one side only, of second order by extrapolation
    move = h * (np.eye(7)[2] - np.eye(7)[0])
    one_sided = (4 * value(a + move, b) - value(a + 2 * move, b) - 3 * value(a, b)) / (2 * h)
    assert found.gradient_a[2] - found.gradient_a[0] == pytest.approx(one_sided, rel=1e-4)
    move = h * (np.eye(5)[1] - np.eye(5)[3])
    assert found.gradient_b[1] - found.gradient_b[3] == pytest.approx(slope(a, b, 0.0, move), rel=1e-5)


def test_the_plan_is_the_derivative_by_costs(problem):
    cost, a, b, *_ = problem
    found = transport.sinkhorn(cost, a, b, eps=0.8, tol=1e-13)
    h = 1e-5
    for i, j in ((0, 2), (3, 4)):
        bump = np.zeros_like(cost)
        bump[i, j] = h
        up, down = (transport.sinkhorn(cost + s * bump, a, b, eps=0.8, tol=1e-13).value for s in (1, -1))
        assert found.plan[i, j] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-9)


def test_gaussian_distance_by_matrix_roots_in_high_precision():
    rng = np.random.default_rng(5)
    m, n = rng.normal(size=3), rng.normal(size=3)
    a, b = rng.normal(size=(3, 3)), rng.normal(size=(3, 2))  # the second covariance is singular
    with mpmath.workdps(40):
        s, t = (mpmath.matrix(v.tolist()) * mpmath.matrix(v.tolist()).T for v in (a, b))
        values, vectors = mpmath.eigsy(s)
        root = vectors * mpmath.diag([mpmath.sqrt(v) for v in values]) * vectors.T
        middle = mpmath.eigsy(root * t * root, eigvals_only=True)
        trace = sum(s[i, i] + t[i, i] for i in range(3)) - 2 * sum(mpmath.sqrt(max(v, 0)) for v in middle)
        truth = float(sum((mpmath.mpf(p) - mpmath.mpf(q)) ** 2 for p, q in zip(m, n, strict=True)) + trace)
    assert transport.gaussian_w2(m, a, n, b) == pytest.approx(truth, rel=1e-12)
    assert transport.gaussian_w2(m, a, m, a @ np.linalg.qr(rng.normal(size=(3, 3)))[0]) == pytest.approx(0.0, abs=1e-13)


def test_samples_of_gaussians_come_near_the_closed_form():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(1500, 2)) * [1.0, 2.0], rng.normal(size=(1500, 2)) * [2.0, 0.5] + 1.0
    costs = (transport.squared_distances(p, q) for p, q in ((x, y), (x, x), (y, y)))
    # W2^2 = 2 (shift) + (1 - 2)^2 + (2 - 0.5)^2; the entropy's bias is removed up to order eps^2
    assert transport.divergence(*costs, eps=0.5, tol=1e-3).value == pytest.approx(5.25, rel=0.06)


@pytest.mark.parametrize("method", ["gaussian", "inner"])
def test_labels_are_as_far_apart_as_their_clouds(method):
    rng = np.random.default_rng(2)
    clouds = [rng.normal(size=(n, 2)) + np.array([shift, 0]) for n, shift in ((60, 0.0), (45, 3.0), (80, 6.0))]
    found = transport.label_distances(clouds, clouds, method)
    assert np.diag(found) == pytest.approx(np.zeros(3), abs=1e-6)
    assert found[0, [1, 2]] == pytest.approx([9.0, 36.0], rel=0.2)


def test_swapped_labels_are_seen_by_the_labels_alone():
    rng = np.random.default_rng(4)
    label = rng.integers(0, 2, 120)
    x = rng.normal(size=(120, 2)) + np.where(label, 4.0, 0.0)[:, None]
    noisy = np.where(rng.uniform(size=120) < 0.5, 1 - label, label)
    values = {}
    for method in ("gaussian", "none"):
        for name, given in (("clean", label), ("noisy", noisy)):
            costs = transport.labelled_costs(x, given, x, label, method=method)
            values[method, name] = float(transport.divergence(*costs, eps=1.0).value)
    assert values["none", "noisy"] == pytest.approx(0.0, abs=1e-4)
    assert values["gaussian", "clean"] == pytest.approx(0.0, abs=1e-4)
    assert values["gaussian", "noisy"] > 1.0


def test_calibrated_by_a_loop_and_free_of_the_constant():
    potential, group = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.array([0, 1, 0, 2, 2])
    loop = [potential[group == k].mean() - potential[group != k].mean() for k in range(3)]
    assert_close(transport.calibrated(potential, group), loop)
    assert_close(transport.calibrated(potential + 100.0, group), loop)


def test_refusals_and_the_warning(problem):
    cost, a, b, *_ = problem
    for wrong, message in (
        ((cost, a[:6], b), "a has shape"),
        ((cost, -a, b), "none below 0"),
        ((cost, a, 2 * b), "sums 1"),
        ((cost[0], a, b), "cost has shape"),
        ((np.full((2, 2), np.nan), None, None), "not finite"),
        ((cost, np.tile(a, (2, 1)), np.tile(b, (3, 1))), "broadcast"),
    ):
        with pytest.raises(InputError, match=message):
            transport.sinkhorn(*wrong, eps=1.0)
    with pytest.raises(InputError, match="eps is 0"):
        transport.sinkhorn(cost, a, b, eps=0)
    with pytest.raises(InputError, match="symmetric"):
        transport.self_transport(cost, eps=1.0)
    with pytest.raises(InputError, match="two groups"):
        transport.calibrated([1.0, 2.0], [0, 0])
    with pytest.warns(ConvergenceWarning, match="raise eps"):
        transport.sinkhorn(cost, a, b, eps=0.001, tol=1e-12, max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transport.sinkhorn(np.zeros((3, 3)), eps=0.1)  # nothing to choose


@pytest.mark.peer("ot")
def test_equal_to_the_peer(problem):
    import ot

    cost, a, b, *_ = problem
    found = transport.sinkhorn(cost, a, b, eps=0.5, tol=1e-13)
    assert_close(found.plan, ot.sinkhorn(a, b, cost, 0.5, stopThr=1e-15, numItermax=100_000))
