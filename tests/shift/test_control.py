"""The control function where its answer is known, the ridge against normal equations, the restriction against a loop."""

import numpy as np
import pytest

from farfield.errors import InputError
from farfield.shift.control import ControlFunctionRegressor, _Additive, linear_invariance


def confounded(n=3000, seed=0, effect=lambda z: 2 * z[:, 0] - z[:, 1]):
    rng = np.random.default_rng(seed)
    a, v = rng.uniform(-1, 1, (n, 2)), rng.normal(size=(n, 2))
    m = np.array([[1.0, 0.4], [-0.3, 0.9]])
    z = a @ m + 0.5 + v
    return z, a, effect(z) + 3 * v[:, 0] + rng.normal(scale=0.1, size=n), m


def test_a_straight_effect_is_followed_anywhere_and_without_control_it_is_biased():
    """E[Y | do(A = a)] = (a M + 0.5) . (2, -1), whatever V does to Y."""
    z, a, y, m = confounded(n=20_000)
    beyond = np.array([[1.5, 1.5], [-1.5, 1.0]])  # half as far again as any A, where states were still observed
    truth = (beyond @ m + 0.5) @ [2.0, -1.0]
    ours = ControlFunctionRegressor().fit(z, a, y)
    np.testing.assert_allclose(ours.predict_do(beyond), truth, atol=0.25)
    biased = ControlFunctionRegressor(control=False).fit(z, a, y).predict_do(beyond)
    assert np.abs(biased - truth).min() > 0.75
    np.testing.assert_allclose(ours.matrix_, m, atol=0.1)
    np.testing.assert_array_equal(ours.predict_do(beyond[:1]), ours.predict_do(beyond)[:1])


def test_a_curved_effect_within_the_states_observed():
    z, a, y, m = confounded(effect=lambda z: z[:, 0] ** 2)
    found = ControlFunctionRegressor().fit(z, a, y).predict_do([[0.0, 0.0], [1.0, -1.0]])
    means = np.array([[0.0, 0.0], [1.0, -1.0]]) @ m + 0.5
    np.testing.assert_allclose(found, means[:, 0] ** 2 + 1, atol=0.25)  # V has variance 1


def test_an_affine_image_of_the_state_does_as_well():
    z, a, y, _ = confounded(n=800)
    beyond = [[2.0, 2.0]]
    plain = ControlFunctionRegressor().fit(z, a, y).predict_do(beyond)
    turned = ControlFunctionRegressor().fit(z @ [[0.6, -0.8], [0.8, 0.6]] * 5 + 3, a, y).predict_do(beyond)
    np.testing.assert_allclose(turned, plain, atol=0.3)


def test_the_ridge_solves_its_normal_equations_and_leaves_monomials_free():
    z, a, y, _ = confounded(n=300)
    model = ControlFunctionRegressor(n_centres=5, control=False).fit(z, a, y)
    features = np.column_stack([model._nu.monomials(z, model.degree_), model._nu.multiquadrics(z)])
    features -= features.mean(axis=0)
    shrunk = np.arange(features.shape[1]) >= features.shape[1] - 5
    gram = features.T @ features + model.strength_ * 300 * np.diag(shrunk)
    np.testing.assert_allclose(model.nu(z), features @ np.linalg.solve(gram, features.T @ (y - y.mean())), rtol=1e-6, atol=1e-6)


def test_the_degree_is_chosen_inside_and_the_score_is_that_of_the_hat_matrix():
    z, a, y, _ = confounded(effect=lambda z: z[:, 0] * z[:, 1])
    model = ControlFunctionRegressor().fit(z, a, y)
    assert model.degree_ == 2
    assert abs(model.predict_do([[3.0, 3.0]])[0] - model.predict_do([[0.0, 0.0]])[0]) > 1
    rng = np.random.default_rng(0)
    free, bent, y = (rng.normal(size=(40, k)) for k in (2, 4, 1))
    free, bent, y = free - free.mean(axis=0), bent - bent.mean(axis=0), y[:, 0] - y.mean()
    fit = _Additive.fit(free, bent, y)
    both = np.column_stack([free, bent])
    hat = both @ np.linalg.solve(both.T @ both + fit.strength * 40 * np.diag([0, 0, 1, 1, 1, 1]), both.T)
    assert fit.score == pytest.approx(40 * ((y - hat @ y) ** 2).sum() / (39 - np.trace(hat)) ** 2, rel=1e-9)


def test_the_restriction_is_its_sum_and_sees_curvature():
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (40, 2))
    z = np.column_stack([a[:, 0] ** 2, a[:, 1]]) + 0.1 * rng.normal(size=(40, 2))
    design = np.column_stack([a, np.ones(40)])
    r = (z - design @ np.linalg.solve(design.T @ design, design.T @ z)) / z.std(axis=0)
    slow = sum(r[i] @ r[j] * np.exp(-((a[i] - a[j]) ** 2).sum() / (2 * 0.7**2)) for i in range(40) for j in range(40) if i != j)
    assert linear_invariance(z, a, 0.7) == pytest.approx(slow / (40 * 39), rel=1e-10)
    assert linear_invariance(z * [9, 2] + 1, a) == pytest.approx(linear_invariance(z, a), rel=1e-9)
    a, noise = rng.uniform(-1, 1, (500, 2)), 0.1 * rng.normal(size=(500, 1))
    straight, curved = a @ [[1.0], [2.0]] + noise, a[:, :1] ** 2 + noise
    assert abs(linear_invariance(straight, a)) < 0.005 < 0.01 < linear_invariance(curved, a)


def test_the_share_outside_grows_with_the_intervention():
    z, a, y, _ = confounded(n=200)
    outside = ControlFunctionRegressor().fit(z, a, y).outside([[0.0, 0.0], [2.0, 2.0], [30.0, 30.0]])
    assert outside[0] < 0.1 < outside[1] < outside[2] == 1


def test_refusals():
    z, a, y, _ = confounded(n=50)
    with pytest.raises(InputError, match="fewer than its 2 directions"):
        ControlFunctionRegressor().fit(z, a[:, :1], y)
    with pytest.raises(InputError, match="Y has shape"):
        ControlFunctionRegressor().fit(z, a, y[:4])
    with pytest.raises(InputError, match="not finite"):
        ControlFunctionRegressor().fit(z * np.nan, a, y)
    with pytest.raises(InputError, match="A has shape"):
        ControlFunctionRegressor().fit(z, a, y).predict_do([[1.0]])
    with pytest.raises(InputError, match="codes has 50 rows"):
        linear_invariance(z, a[:3])
