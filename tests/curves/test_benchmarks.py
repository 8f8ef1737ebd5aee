"""Benchmark scores against compute: each closed form and fit against an independent evaluation."""

import numpy as np
import pytest
from scipy import optimize

from farfield.curves.benchmarks import (
    HOFFMANN,
    CapabilityAxis,
    CapabilityFit,
    emergence,
    fit_sigmoid,
    metric_swap,
    scaled_compute,
    sigmoid,
)
from farfield.errors import InputError


def loss(n, d):
    return HOFFMANN["A"] / n ** HOFFMANN["alpha"] + HOFFMANN["B"] / d ** HOFFMANN["beta"]


@pytest.mark.parametrize(("n", "d"), [(70e9, 1.4e12), (7e9, 2e12), (175e9, 300e9), (1e8, 1e9)])
def test_scaled_compute_is_the_least_compute_of_that_loss(n, d):
    """The loss of the frontier at that compute, by numerical minimisation over the size, is the model's own."""
    c = float(scaled_compute(n, d))
    best = optimize.minimize_scalar(
        lambda u: loss(np.exp(u), c / 6 / np.exp(u)), bounds=(10, 35), method="bounded", options={"xatol": 1e-10}
    )
    assert best.fun == pytest.approx(loss(n, d), rel=1e-12)
    assert c <= 6 * n * d * (1 + 1e-12)


def test_scaled_compute_refuses_what_has_no_logarithm():
    with pytest.raises(InputError, match="above 0"):
        scaled_compute(0.0, 1e9)


def test_fit_recovers_parameters_without_noise_on_many_curves_at_once():
    rng = np.random.default_rng(0)
    x = np.linspace(20, 25, 30)
    m, s = rng.uniform(20, 26, 50), rng.uniform(0.5, 6, 50)
    chance, ceiling = rng.uniform(0, 0.5, 50), rng.uniform(0.8, 1.0, 50)
    y = sigmoid(x, m[:, None], s[:, None], chance[:, None], ceiling[:, None])
    got_m, got_s, cost = fit_sigmoid(x, y, chance=chance, ceiling=ceiling)
    np.testing.assert_allclose(got_m, m, rtol=1e-6)
    np.testing.assert_allclose(got_s, s, rtol=1e-5)
    assert cost.max() < 1e-12


def test_fit_is_as_good_as_scipy_from_many_starts_on_noisy_weighted_points():
    rng = np.random.default_rng(1)
    for _ in range(20):
        x = rng.uniform(0, 4, 25)
        y = sigmoid(x, rng.uniform(0, 5), rng.uniform(0.5, 5), 0.25) + 0.1 * rng.normal(size=25)
        w = rng.integers(0, 3, 25).astype(float)
        _, _, cost = fit_sigmoid(x, y, chance=0.25, weights=w)

        def residual(p, x=x, y=y, w=w):
            return np.sqrt(w) * (sigmoid(x, p[0], np.exp(p[1]), 0.25) - y)

        starts = [(m, s) for m in (-2, 0, 2, 4, 8) for s in (-2, 0, 1, 3)]
        best = min(2 * optimize.least_squares(residual, p, bounds=([-8, -20], [12, 20])).cost for p in starts)
        assert float(cost) <= best * (1 + 1e-4) + 1e-9


def test_each_curve_of_a_batch_is_fitted_as_alone():
    rng = np.random.default_rng(2)
    x, y = np.linspace(0, 3, 12), rng.uniform(0, 1, (6, 12))
    together = np.stack(fit_sigmoid(x, y))
    for i in range(6):
        np.testing.assert_array_equal(together[:, i], np.stack(fit_sigmoid(x, y[i])))


def test_a_line_is_what_polyfit_gives():
    rng = np.random.default_rng(3)
    compute, score = 10 ** rng.uniform(20, 24, 15), rng.uniform(size=15)
    slope, intercept = np.polyfit(np.log10(compute), score, 1)
    at = np.array([1e25, 1e26])
    np.testing.assert_allclose(
        CapabilityFit("linear", n_boot=0).fit(compute, score).expected(at), intercept + slope * np.log10(at), rtol=1e-9
    )


def test_intervals_cover_new_models_of_new_families():
    """Simulated families with an offset each: the 80 % interval covers 75 to 95 % of models half a decade beyond."""
    covered = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        family = np.repeat(np.arange(12), 4)
        compute = 10 ** rng.uniform(20, 24, 48)
        truth = sigmoid(np.log10(compute), 23.0, 1.5)
        score = truth + 0.03 * rng.normal(size=12)[family] + 0.02 * rng.normal(size=48)
        fit = CapabilityFit(n_boot=60, random_state=seed).fit(compute, score, family)
        at = np.full(20, 10**24.5)
        low, high = fit.predict(at).interval(0.8)
        new = sigmoid(24.5, 23.0, 1.5) + 0.03 * rng.normal(size=20) + 0.02 * rng.normal(size=20)
        covered += ((low <= new) & (new <= high)).tolist()
    assert 0.75 <= np.mean(covered) <= 0.95


def test_same_seed_same_intervals_and_refusals():
    rng = np.random.default_rng(4)
    compute, score = 10 ** rng.uniform(20, 24, 15), rng.uniform(size=15)
    one, two = (CapabilityFit(n_boot=20, random_state=7).fit(compute, score).predict([1e25]).interval(0.8) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    for arguments, says in [
        (([1e20, 1e21], [0.1, 0.2]), "three or more"),
        (([1e20, 1e21, -1], [0.1, 0.2, 0.3]), "above 0"),
        (([1e20, 1e21, 1e22], [0.1, np.nan, 0.3]), "not finite"),
        (([1e20, 1e21, 1e22], [0.1, 0.2, 0.3], ["a"]), "one name a model"),
    ]:
        with pytest.raises(InputError, match=says):
            CapabilityFit().fit(*arguments)
    with pytest.raises(InputError, match="sigmoid"):
        CapabilityFit("sigmoidal")
    with pytest.raises(InputError, match="below ceiling"):
        CapabilityFit(chance=1.0)


def test_a_kink_is_found_and_a_smooth_rise_is_not_called_emergent():
    scale = 10 ** np.linspace(20, 24, 17)
    x = np.log10(scale)
    kink = emergence(scale, 0.25 + 0.3 * np.maximum(x - 22.3, 0), chance=0.25)
    assert kink.emergent
    assert kink.threshold == pytest.approx(22.3, abs=0.02)
    assert kink.low <= kink.threshold <= kink.high
    assert kink.preference > 0
    smooth = emergence(scale, sigmoid(x, 22.0, 1.0, 0.25), chance=0.25)
    assert not smooth.emergent
    assert smooth.sharpness == pytest.approx(2 * np.log(9), rel=1e-3)
    with pytest.raises(InputError, match="five or more"):
        emergence(scale[:4], x[:4])


def test_the_hinge_is_what_scipy_finds():
    rng = np.random.default_rng(6)
    x = np.sort(rng.uniform(0, 3, 15))
    y = 0.4 * np.maximum(x - 1.2, 0) + 0.05 * rng.normal(size=15)
    found = emergence(10**x, y)

    def cost(t):
        ramp = np.maximum(x - t, 0)
        return ((y - max(ramp @ y, 0) / (ramp @ ramp) * ramp) ** 2).sum()

    best = min(cost(t) for t in np.linspace(x[0], x[-2], 20_000))
    assert cost(found.threshold) <= best * 1.001
    assert 0 < found.high - found.low < 1.5


def test_metric_swap_is_the_power_of_the_fitted_token_accuracy():
    """Exact match by simulation: L independent tokens at the true accuracy, at scales not seen."""
    rng = np.random.default_rng(5)
    scale = 10 ** np.linspace(3, 6, 10)
    p = sigmoid(np.log10(scale), 4.5, 1.2, 0.1)
    got = metric_swap(scale[:6], p[:6], scale[6:], length=8, chance=0.1)
    simulated = (rng.random((200_000, 8, 4)) < p[6:]).all(1).mean(0)
    np.testing.assert_allclose(got, simulated, atol=4 * np.sqrt(0.25 / 200_000))
    with pytest.raises(InputError, match="0 to 1"):
        metric_swap(scale, 2 * p, scale, length=2)


def test_the_capability_axis_is_the_leading_eigenvector_of_the_correlations():
    rng = np.random.default_rng(7)
    ability = rng.normal(size=40)
    scores = np.stack([0.4 + 0.1 * ability, 0.6 + 0.02 * ability, 0.5 - 0.01 * ability], axis=1) + rng.normal(0, 0.01, (40, 3))
    axis = CapabilityAxis().fit(scores)
    matrix = np.corrcoef(scores.T)
    vector = np.ones(3)
    for _ in range(2000):  # power iteration
        vector = matrix @ vector
        vector /= np.sqrt(vector @ vector)
    vector *= np.sign(vector.sum())
    np.testing.assert_allclose(axis.loadings_, vector, rtol=1e-9)
    assert axis.explained_ == pytest.approx(vector @ matrix @ vector / 3, rel=1e-9)
    assert np.corrcoef(axis.transform(scores), ability)[0, 1] > 0.9
    assert axis.transform(scores).mean() == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(np.log10(axis.scale(scores)), axis.transform(scores), rtol=1e-12)
    for i in range(5):
        assert axis.transform(scores[i : i + 1])[0] == axis.transform(scores)[i]


def test_a_jump_over_compute_is_forecast_along_the_capability_axis():
    rng = np.random.default_rng(8)
    compute = 10 ** rng.uniform(20, 24, 80)
    ability = np.log10(compute) - 22 + rng.normal(0, 0.5, 80)  # what compute does not say
    others = np.stack([sigmoid(ability, m, 1.0) for m in (-1, 0, 1)], axis=1) + rng.normal(0, 0.005, (80, 3))
    score = sigmoid(ability, 1.0, 5.0)
    seen = compute < 1e22
    axis = CapabilityAxis().fit(others[seen])
    errors = []
    for scale in (axis.scale(others), compute):
        said = CapabilityFit(n_boot=0).fit(scale[seen], score[seen]).expected(scale[~seen])
        errors.append(np.abs(said - score[~seen]).mean())
    assert errors[0] < errors[1] / 1.5


@pytest.mark.parametrize(
    ("scores", "match"), [([[0.1, 0.2]] * 2, "three models"), ([[0.1, 0.2], [0.1, 0.3], [0.1, 0.4]], "benchmark 0 has one score")]
)
def test_scores_that_give_no_axis_are_refused(scores, match):
    with pytest.raises(InputError, match=match):
        CapabilityAxis().fit(scores)
    with pytest.raises(InputError, match="shape"):
        CapabilityAxis().fit([[0.1, 0.2], [0.2, 0.3], [0.5, 0.4]]).transform([[0.1]])
    with pytest.raises(InputError, match="not fitted"):
        CapabilityAxis().transform([[0.1]])
