"""The terms of the annealing laws against their definitions, and what they buy on a model whose end is known exactly."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy.optimize import curve_fit, least_squares

from curves.noisy_quadratic import expected_loss, power_law_problem, sampled_loss
from farfield.curves.annealing import features, loss_reduction
from farfield.curves.schedules import Schedule, constant, decaying, inverse_sqrt, observed, steps, unknown
from farfield.errors import InputError
from tolerances import assert_close

WSD = decaying("wsd", 1000.0, start=700.0, warmup=100.0, final=0.1)
AT = np.array([0.0, 40.0, 100.0, 333.0, 700.0, 701.0, 850.5, 1000.0])


def per_step(schedule: Schedule, n: int, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """S1 and S2 as the paper defines them, one step after another: S1 sums rates, S2 sums the momentum of their falls."""
    area = anneal = momentum = 0.0
    rates = [float(schedule.relative(k)) for k in range(n + 1)]
    out = []
    for k in range(1, n + 1):
        area += rates[k]
        momentum = lam * momentum + (rates[k - 1] - rates[k] if k > schedule.warmup else 0.0)
        anneal += momentum
        out.append((area, anneal))
    s1, s2 = zip(*out, strict=True)
    return np.array(s1), np.array(s2)


def reduction_per_step(schedule: Schedule, n: int, c: float, beta: float, gamma: float) -> float:
    """LD after n steps as the multi-power law defines it."""
    r = np.maximum(schedule.relative(np.arange(n + 1)), 1e-9)
    total = 0.0
    for k in range(int(schedule.warmup) + 1, n + 1):
        total += (r[k - 1] - r[k]) * (1 - (c * r[k] ** -gamma * r[k : n + 1].sum() + 1) ** -beta)
    return total


def test_area_and_annealing_area_of_a_linear_decay_are_their_integrals() -> None:
    """Reference: the double integral of the definition by mpmath's quadrature."""
    lam = 0.995
    got = features(WSD, AT, lam=lam)
    tau, slope = mpmath.mpf(-1) / mpmath.log(mpmath.mpf(lam)), mpmath.mpf("0.9") / 300

    def rate(u: mpmath.mpf) -> mpmath.mpf:
        if u < 100:
            return u / 100
        return mpmath.mpf(1) if u < 700 else 1 - mpmath.mpf("0.9") * (u - 700) / 300

    for i, x in enumerate(AT):
        knots = [k for k in (0, 100, 700) if k < x] + [x]
        area = mpmath.quad(rate, knots) if x > 0 else 0
        anneal = mpmath.quad(lambda v, x=x: slope * tau * (1 - mpmath.exp(-(x - v) / tau)), [700, x]) if x > 700 else 0
        np.testing.assert_allclose(got.area[i], float(area), rtol=1e-12, atol=1e-12)
        # tau times the rounding of a mean near 1
        np.testing.assert_allclose(got.anneal[i], float(anneal), rtol=1e-11, atol=1e-12 * float(tau))
    assert_close(got.ratio, WSD.relative(AT))


def test_steps_down_have_a_closed_form() -> None:
    schedule = steps([300.0, 600.0], gamma=0.5)
    x = np.array([299.0, 300.0, 450.0, 900.0])
    tau = -1 / np.log(0.99)
    want = sum(drop * tau * (1 - np.exp(-np.maximum(x - at, 0) / tau)) for drop, at in ((0.5, 300.0), (0.25, 600.0)))
    np.testing.assert_allclose(features(schedule, x, lam=0.99).anneal, want, rtol=1e-11, atol=1e-10)
    c, beta, gamma = 0.05, 0.6, 0.6
    area = features(schedule, x).area

    def gain(level: float, since: float) -> np.ndarray:
        reach = np.maximum(area - since, 0)
        return 1 - (c * reach * level**-gamma + 1) ** -beta

    want = 0.5 * gain(0.5, 300.0) * (x >= 300) + 0.25 * gain(0.25, 450.0) * (x >= 600)
    assert_close(loss_reduction(schedule, x, c=c, beta=beta, gamma=gamma), want)


@pytest.mark.parametrize(
    "schedule", [decaying("cosine", 1.0, warmup=0.1), decaying("wsd", 1.0, start=0.6, shape="sqrt", warmup=0.1)]
)
def test_the_sums_over_steps_are_approached_as_steps_get_finer(schedule: Schedule) -> None:
    errors = []
    for n in (500, 5000):
        fine = schedule.scaled(float(n))
        lam = 0.99 ** (500 / n)
        s1, s2 = per_step(fine, n, lam)
        got = features(fine, np.arange(1, n + 1), lam=lam)
        reduction = loss_reduction(fine, float(n), c=20.0 / n, beta=0.6, gamma=0.6)
        slow = reduction_per_step(fine, n, 20.0 / n, 0.6, 0.6)
        errors.append([np.abs(got.area - s1).max() / n, np.abs(got.anneal - s2).max() / s2.max(), abs(reduction - slow) / slow])
    coarse, finest = errors
    assert max(coarse) < 0.02
    assert (np.array(finest) < 0.3 * np.array(coarse)).all()


def test_features_depend_on_the_schedule_and_not_on_the_grid() -> None:
    x = np.linspace(1, 1000, 501)
    whole, sparse = features(WSD, x, lam=[0.9, 0.999]), features(WSD, x[::50], lam=[0.9, 0.999])
    assert whole.anneal.shape == (2, 501)
    assert (whole.anneal[:, ::50] == sparse.anneal).all()
    assert (whole.area[::50] == sparse.area).all()
    assert (
        loss_reduction(WSD, x, c=0.1, beta=0.5, gamma=0.5)[::50] == loss_reduction(WSD, x[::50], c=0.1, beta=0.5, gamma=0.5)
    ).all()


def test_logged_rates_give_nearly_the_features_of_the_schedule_behind_them() -> None:
    x = np.arange(10.0, 1001.0, 10.0)
    logged = observed(x, 0.3 * WSD.relative(x), warmup=100.0)
    got, want = features(logged, x, lam=0.99), features(WSD, x, lam=0.99)
    # the rate before the first point is held, not run down to 0: one interval of the warmup
    np.testing.assert_allclose(got.area - want.area, got.area[0] - want.area[0], atol=1e-9)
    np.testing.assert_allclose(got.anneal, want.anneal, atol=1e-9)


def test_units_of_x_do_not_matter() -> None:
    x = np.linspace(1, 1000, 50)
    steps_, tokens = features(WSD, x, lam=0.99), features(WSD.scaled(512.0), 512.0 * x, lam=0.99, unit=512.0)
    np.testing.assert_allclose(tokens.area, 512 * steps_.area, rtol=1e-12)
    np.testing.assert_allclose(tokens.anneal, 512 * steps_.anneal, rtol=1e-9, atol=1e-9)


def test_a_batch_gives_each_run_what_it_gets_alone() -> None:
    many = [WSD, constant(warmup=10.0), decaying("cosine", 900.0), steps([500.0]), unknown(), inverse_sqrt(50.0)]
    x = np.stack([np.linspace(0, 1200, 40) + i for i in range(len(many))])
    x[1, 5] = np.nan
    whole = features(many, x, lam=[0.99, 0.999])
    reduced = loss_reduction(many, x, c=0.1, beta=0.6, gamma=0.5)
    for i, schedule in enumerate(many):
        alone = features(schedule, x[i], lam=[0.99, 0.999])
        np.testing.assert_array_equal(whole.ratio[i], alone.ratio)
        np.testing.assert_array_equal(whole.area[i], alone.area)
        np.testing.assert_array_equal(whole.anneal[:, i], alone.anneal)
        np.testing.assert_array_equal(reduced[i], loss_reduction(schedule, x[i], c=0.1, beta=0.6, gamma=0.5))
        np.testing.assert_array_equal(np.isnan(alone.area), ~(x[i] <= schedule.known_to))
    assert np.isnan(whole.area[4]).all()
    assert np.isnan(whole.area[1, 5])


def test_a_constant_rate_anneals_nothing() -> None:
    got = features(constant(warmup=100.0), AT)
    assert_close(got.anneal, np.zeros(AT.size))
    assert_close(loss_reduction(constant(warmup=100.0), AT, c=0.1, beta=0.6, gamma=0.5), np.zeros(AT.size))
    assert_close(got.area[-1], 950.0)


def test_bad_arguments_are_refused() -> None:
    for lam in (0.0, 1.0, np.nan, [[0.9]]):
        with pytest.raises(InputError, match="lam is"):
            features(WSD, AT, lam=lam)
    with pytest.raises(InputError, match="unit is"):
        features(WSD, AT, unit=0.0)
    with pytest.raises(InputError, match="one row a schedule"):
        features([WSD, WSD], AT)
    with pytest.raises(InputError, match="c and beta above 0"):
        loss_reduction(WSD, AT, c=0.0, beta=1.0, gamma=0.5)


# -- the noisy quadratic --------------------------------------------------------------------------------------------------------


def test_the_expected_loss_is_the_mean_of_sampled_paths() -> None:
    problem = power_law_problem(20)
    lr = 0.2 * decaying("wsd", 60.0, start=40.0).relative(np.arange(1, 61))
    paths = sampled_loss(lr, **problem, rng=np.random.default_rng(0), n_paths=20_000)
    error = paths.std(1) / np.sqrt(paths.shape[1])
    assert (np.abs(paths.mean(1) - expected_loss(lr, **problem)) < 4 * error).all()


def test_a_power_law_misses_the_end_of_a_decay_and_the_schedule_aware_laws_do_not() -> None:
    """A finished run of 4,000 steps tells the laws what a decay does; a run of 16,000 is seen up to 80 %, before its decay."""
    rng = np.random.default_rng(0)
    problem, noise = power_law_problem(), 0.003

    def curve(end: int, part: float) -> tuple[Schedule, np.ndarray, np.ndarray]:
        schedule = decaying("wsd", float(end), start=(1 - part) * end, warmup=50.0)
        x = np.arange(end // 80, end + 1, end // 80)
        loss = expected_loss(0.1 * schedule.relative(np.arange(1, end + 1)), **problem)
        return schedule, x, loss[x - 1] + noise * rng.normal(size=x.size)

    finished, x_finished, y_finished = curve(4000, 0.2)
    longer, x, y = curve(16000, 0.15)
    seen = x <= 0.8 * 16000

    def power(at: np.ndarray, level: float, amount: float, exponent: float) -> np.ndarray:
        return level + amount * (at / 1000) ** -exponent

    blind, _ = curve_fit(power, x[seen], y[seen], p0=(0.3, 0.1, 0.3))
    spread = float(np.std(power(x[seen], *blind) - y[seen]))
    missed = abs(power(x[-1], *blind) - y[-1])
    assert missed > 15 * spread

    def annealed(p: np.ndarray, schedule: Schedule, at: np.ndarray) -> np.ndarray:
        lam = 0.98
        terms = features(schedule, at, lam=lam)
        return power(terms.area, *p[:3]) + p[3] * np.log(lam) * terms.anneal

    def multi_power(p: np.ndarray, schedule: Schedule, at: np.ndarray) -> np.ndarray:
        reduced = loss_reduction(schedule, at, c=float(np.exp(p[4])), beta=float(np.exp(p[5])), gamma=p[6])
        return power(features(schedule, at).area, *p[:3]) - p[3] * reduced

    for law, start in ((annealed, [0.3, 0.1, 0.3, 0.1]), (multi_power, [0.3, 0.1, 0.3, 0.2, -3.0, -0.5, 0.5])):
        fit = least_squares(
            lambda p, law=law: np.concatenate([law(p, finished, x_finished) - y_finished, law(p, longer, x[seen]) - y[seen]]), start
        )
        assert abs(law(fit.x, longer, x)[-1] - y[-1]) < 4 * noise
