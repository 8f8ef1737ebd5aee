"""Loss to loss: the fit against an independent search, pairing, floors, refusals, and the four real sweeps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from curves.sweeps import chinchilla, design, noisy
from farfield.curves.loss_to_loss import LossToLoss, pair_runs, translate
from farfield.errors import InputError

K, KAPPA, EA, EB = 0.7, 1.15, 1.8, 0.9


def losses(n: int = 60, scatter: float = 0.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    a = EA + np.exp(rng.uniform(-1, 1, n))
    return a, (K * (a - EA) ** KAPPA + EB) * np.exp(rng.normal(0, scatter, n))


@pytest.mark.parametrize("fit_floor", [False, True])
def test_the_minimum_is_that_of_an_independent_search(fit_floor):
    a, b = losses(scatter=0.01)
    fit = LossToLoss(n_boot=0).fit(a, b, EA, None if fit_floor else EB)

    def cost(t):
        floor = t[2] if fit_floor else EB
        r = np.abs(np.log(b) - np.log(np.exp(t[0]) * (a - EA) ** t[1] + np.abs(floor))) / 1e-3
        return np.where(r <= 1, r**2 / 2, r - 0.5).sum()

    start = [np.log(K), KAPPA, *([EB] if fit_floor else [])]
    found = min(
        minimize(
            cost,
            np.array(start) * f,
            method="Nelder-Mead",
            options={"maxiter": 9999, "maxfev": 9999, "xatol": 1e-10, "fatol": 1e-10},
        ).fun
        for f in (0.9, 1.0, 1.1)
    )
    assert cost([np.log(fit.K_), fit.kappa_, fit.e_b_]) <= found * (1 + 1e-7)


@pytest.mark.parametrize("e_b", [EB, None])
def test_exact_losses_give_back_the_curve_beyond_them(e_b):
    a, b = losses()
    fit = LossToLoss(n_boot=50, random_state=0).fit(a, b, EA, e_b)
    np.testing.assert_allclose([fit.K_, fit.kappa_, fit.e_b_], [K, KAPPA, EB], rtol=1e-5)
    near = EA + 0.05
    np.testing.assert_allclose(fit.expected([near]), K * 0.05**KAPPA + EB, rtol=1e-5)
    low, high = fit.predict([near]).interval(0.9)
    assert low[0] <= fit.expected([near])[0] * (1 + 1e-6)
    assert high[0] >= fit.expected([near])[0] * (1 - 1e-6)


def test_intervals_cover_the_curve_beyond_the_pairs():
    hits = 0
    truth = K * 0.15**KAPPA + EB
    for seed in range(80):
        a, b = losses(scatter=0.01, seed=seed)
        low, high = LossToLoss(n_boot=200, random_state=seed).fit(a, b, EA, EB).predict([EA + 0.15]).interval(0.9)
        hits += bool(low[0] <= truth <= high[0])
    assert 62 <= hits <= 79, hits  # 80 draws of 0.9 lie there with probability 0.998


def test_uncertain_floors_widen_the_interval():
    a, b = losses(scatter=0.005)
    floors = np.random.default_rng(0).normal(EA, 0.03, 500)
    sure, unsure = (
        LossToLoss(n_boot=300, random_state=0).fit(a, b, EA, EB, draws_a=d).predict([EA + 0.1]).std()[0] for d in (None, floors)
    )
    assert unsure > 1.5 * sure


def test_pairs_match_size_and_tokens_and_average_what_occurs_twice():
    x = np.array([[1e8, 2e9], [1e8, 4e9], [1e9, 2e10], [1e8, 2e9]])
    other = np.array([[1e9, 2.0001e10], [1e8, 2e9], [5e9, 1e11]])
    pairs = pair_runs(x, [3.0, 2.9, 2.5, 3.2], other, [1.5, 1.9, 1.1])
    order = np.argsort(pairs.loss_a)
    np.testing.assert_allclose(pairs.loss_a[order], [2.5, 3.1])
    np.testing.assert_allclose(pairs.loss_b[order], [1.5, 1.9])
    assert (len(pairs), pairs.averaged, pairs.unpaired) == (2, 1, 2)
    with pytest.raises(InputError, match="none of 3 and 1 runs agree"):
        pair_runs(x, [3.0, 2.9, 2.5, 3.2], [[7e8, 1e10]], [2.0])


def test_translation_of_one_sweep_to_another():
    x = design()
    a = noisy(x, np.random.default_rng(0), 0.002)
    b = (0.7 * (chinchilla(x) - 1.8) ** 1.1 + 0.9) * np.exp(np.random.default_rng(1).normal(0, 0.002, len(x)))
    far = np.array([[2e10, 4e11]])
    for fit_floor in (False, True):
        fit, pairs, law = translate(x, a, x, b, fit_floor=fit_floor, n_boot=100)
        assert len(pairs) == len(x)
        assert law.form in ("chinchilla", "kaplan")
        truth = 0.7 * (chinchilla(far) - 1.8) ** 1.1 + 0.9
        np.testing.assert_allclose(fit.expected(chinchilla(far)), truth, rtol=0.03)


def test_refusals():
    a, b = losses()
    for arguments, match in (
        ((a, b, a.min()), "floor below them"),
        ((a, b, EA, b.max()), "floor below them"),
        ((a, -b, EA), "losses above 0"),
        ((a[:2], b[:2], EA), "at least 3"),
        ((a, b[:-1], EA), "the same number"),
        ((np.full(9, 3.0), b[:9], EA), "not identified"),
    ):
        with pytest.raises(InputError, match=match):
            LossToLoss().fit(*arguments)
    fit = LossToLoss(n_boot=0).fit(a, b, EA, EB)
    with pytest.raises(InputError, match="at or below the floor"):
        fit.predict([EA])
    with pytest.raises(InputError, match="rtol is 0"):
        pair_runs([[1, 2]], [3], [[1, 2]], [3], rtol=0)
    with pytest.raises(InputError, match="not fitted"):
        LossToLoss().predict([3.0])


@pytest.mark.data
def test_the_four_sweeps_at_twenty_times_their_compute():
    """Given the first loss, 1.0 % mean error over twelve pairs; the laws alone, 4.9 and 4.3 %."""
    from farfield.claims.p045_loss_to_loss import run

    found = run("full", 0)
    assert len(found.units) == 12
    assert found.notes["mean_error_percent"] <= 1.0
    assert found.notes["chinchilla_alone_percent"] == pytest.approx(4.9, abs=0.05)
    assert found.notes["kaplan_alone_percent"] == pytest.approx(4.3, abs=0.05)
