"""Scaling laws: formulas against mpmath, the fit against SciPy and a known answer, coverage, what is not identified, refusals."""

from __future__ import annotations

import csv
import warnings

import mpmath
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.optimize import minimize

from curves.sweeps import TRUTH, chinchilla, design, noisy
from farfield.claims.data import data_file
from farfield.curves.laws import LAWS, ScalingLaw, scaling
from farfield.curves.laws.fitter import huber, minimise
from farfield.curves.laws.forms import FORMS, starts
from farfield.curves.laws.scaling import _needed
from farfield.errors import InputError
from farfield.predictive import Samples
from tolerances import assert_close

PARAMETERS = {
    "chinchilla": TRUTH,
    "kaplan": {"E": 1.5, "A": 5e8, "B": 1e10, "alpha": 0.24, "beta": 0.27},
    "data-constrained": TRUTH | {"R_D": 15.0, "R_N": 5.3},
    "precision": TRUTH | {"gamma": 2.5},
    "m4": TRUTH | {"span": 4.0, "kappa": 0.6},
    "broken": TRUTH | {"d_N": 8e8, "c_N": 0.15, "f_N": 0.4, "d_D": 2e10, "c_D": -0.1, "f_D": 0.7},
}


def points(form: str) -> np.ndarray:
    """(d, 6): repeated and unrepeated tokens, sizes on either side of what the unique tokens want, low and high precision."""
    n = [1e8, 1e8, 3e9, 7e10, 2e9, 5e8]
    d = [2e9, 1e11, 1e10, 1.4e12, 4e10, 3e10]
    third = {"data-constrained": [2e9, 1e9, 1e9, 1.4e12, 9e9, 2.9e10], "precision": [3.0, 4.0, 8.0, 16.0, 6.0, 2.0]}
    return np.array([n, d, *([third[form]] if form in third else [])])


def exact(form: str, t: list[mpmath.mpf], x: list[float]) -> mpmath.mpf:
    """log loss from the fitted parameters (logs but for exponents), by the papers' formulas."""
    e, a, b = (mpmath.exp(v) for v in t[:3])
    alpha, beta = t[3], t[4]
    n, d = mpmath.mpf(x[0]), mpmath.mpf(x[1])
    if form == "m4":
        span, kappa = mpmath.exp(t[5]), mpmath.exp(t[6])
        right = mpmath.log(a / n**alpha + b / d**beta)
        low, high = mpmath.mpf(-60), mpmath.mpf(60)  # of the logit of (L - E) / span, by bisection
        for _ in range(300):
            middle = (low + high) / 2
            share = 1 / (1 + mpmath.exp(-middle))
            above = mpmath.log(span * share) - kappa * mpmath.log(1 - share) > right
            low, high = (low, middle) if above else (middle, high)
        return mpmath.log(e + span / (1 + mpmath.exp(-low)))
    if form == "broken":

        def bent(value, scale, power, place, turn, width):
            where, f = mpmath.exp(place), mpmath.exp(width)
            return scale / value**power * (1 + (value / where) ** (1 / f)) ** (-turn * f)

        return mpmath.log(e + bent(n, a, alpha, *t[5:8]) + bent(d, b, beta, *t[8:11]))
    if form == "kaplan":
        return mpmath.log(e + ((a / n) ** (alpha / beta) + b / d) ** beta)
    if form == "precision":
        n *= (1 - mpmath.exp(-x[2] / mpmath.exp(t[5]))) ** 3
    if form == "data-constrained":
        u, r_d, r_n = mpmath.mpf(x[2]), mpmath.exp(t[5]), mpmath.exp(t[6])
        g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
        u_n = min(n, g * (u * g) ** (beta / alpha))
        d = u + u * r_d * (1 - mpmath.exp(-(d / u - 1) / r_d))
        n = u_n + u_n * r_n * (1 - mpmath.exp(-(n / u_n - 1) / r_n))
    return mpmath.log(e + a / n**alpha + b / d**beta)


@pytest.mark.parametrize("name", LAWS)
def test_log_loss_and_derivatives_against_mpmath(name):
    form, x = FORMS[name], points(name)
    theta = form.from_user(PARAMETERS[name])
    value, slope = form.log_loss(np.stack([theta, theta]), np.log(x))
    with mpmath.workdps(40):
        t = [mpmath.mpf(v) for v in theta]
        expected = [exact(name, t, list(column)) for column in x.T]
        assert_close(value[0], [float(v) for v in expected])
        for j in range(theta.size):

            def along(s, column, j=j):
                return exact(name, [*t[:j], s, *t[j + 1 :]], column)

            assert_close(slope[1, j], [float(mpmath.diff(lambda s, c=c: along(s, c), t[j])) for c in map(list, x.T)])
    assert_close(form.to_user(theta), [PARAMETERS[name][n] for n in form.parameters])


@pytest.mark.parametrize("name", ["chinchilla", "kaplan"])
def test_the_minimum_is_that_of_scipy(name):
    x = design()
    y = noisy(x, np.random.default_rng(3))
    form, log_x, log_y = FORMS[name], np.log(x).T, np.log(y)
    law = ScalingLaw(name, n_boot=0).fit(x, y)

    def cost(theta):
        value, slope = form.log_loss(theta[None], log_x)
        r = (log_y - value[0]) / 1e-3
        return float(huber(r[None], np.ones((1, r.size)), 1.0)[0]), -slope[0] @ np.clip(r, -1, 1) / 1e-3

    options = {"maxiter": 5000, "maxfun": 9000, "ftol": 1e-15, "gtol": 1e-9}
    found = min(minimize(cost, s, jac=True, method="L-BFGS-B", options=options).fun for s in starts(form, log_x, log_y)[::6])
    assert law.cost_ == pytest.approx(cost(law.theta_)[0], rel=1e-12)
    assert law.cost_ <= found * (1 + 1e-9)


def test_exact_losses_give_back_the_law_and_its_closed_form_split():
    x = design()
    law = ScalingLaw(n_boot=0).fit(x, chinchilla(x))
    for name, value in TRUTH.items():
        assert law.parameters_[name] == pytest.approx(value, rel=1e-5)
    got = law.minimise(1e22)
    a, b = TRUTH["alpha"], TRUTH["beta"]
    g = (a * TRUTH["A"] / (b * TRUTH["B"])) ** (1 / (a + b))
    assert got.params == pytest.approx(g * (1e22 / 6) ** (b / (a + b)), rel=1e-4)
    assert got.params * got.tokens * 6 == pytest.approx(1e22)
    assert got.loss == pytest.approx(chinchilla(np.array([[got.params, got.tokens]]))[0], rel=1e-7)


@pytest.mark.parametrize("name", ["kaplan", "precision", "data-constrained", "m4", "broken"])
def test_other_laws_are_recovered(name):
    form, rng = FORMS[name], np.random.default_rng(0)
    x = design()
    if name == "precision":
        x = np.column_stack([x, rng.choice([3.0, 4.0, 6.0, 16.0], len(x))])
    elif name == "data-constrained":
        x = np.column_stack([x, x[:, 1] / rng.choice([1.0, 4.0, 16.0, 64.0], len(x))])
    y = np.exp(form.log_loss(form.from_user(PARAMETERS[name])[None], np.log(x).T)[0][0])
    law = ScalingLaw(name, n_boot=0).fit(x, y)
    np.testing.assert_allclose(law.expected(x), y, rtol=1e-5)
    assert law.parameters_["alpha"] == pytest.approx(PARAMETERS[name]["alpha"], rel=0.01)
    fixed = {c: float(x[-1, 2]) for c in form.columns[2:]}
    best = law.minimise(1e21, **fixed)
    near = [[best.params * f, best.tokens / f, *fixed.values()] for f in (0.97, 1.0, 1.03)]
    assert law.expected(near).argmin() == 1


def test_m4_is_chinchilla_far_below_the_loss_of_nothing_learnt_and_level_near_it():
    x = np.log(design()).T
    far = FORMS["m4"].from_user(TRUTH | {"span": 1e9, "kappa": 2.0})
    plain = FORMS["chinchilla"].log_loss(FORMS["chinchilla"].from_user(TRUTH)[None], x)[0]
    np.testing.assert_allclose(FORMS["m4"].log_loss(far[None], x)[0], plain, rtol=1e-8)
    near = FORMS["m4"].from_user(TRUTH | {"span": 2.0, "kappa": 1.0})
    assert np.exp(FORMS["m4"].log_loss(near[None], np.log([[1e3], [1e4]]))[0][0, 0]) == pytest.approx(TRUTH["E"] + 2.0, abs=0.06)


def test_a_break_is_pooled_where_there_is_one_and_does_not_displace_a_straight_law():
    x, rng, form = design(7, 7), np.random.default_rng(0), FORMS["broken"]
    truth = PARAMETERS["broken"] | {"c_N": 0.4, "f_N": 0.2, "c_D": 0.0}
    bent = np.exp(form.log_loss(form.from_user(truth)[None], np.log(x).T)[0][0] + rng.normal(0, 0.002, len(x)))
    columns = {"params": x[:, 0], "tokens": x[:, 1]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, straight = (scaling(columns, y, laws=("chinchilla", "broken"), n_boot=10) for y in (bent, noisy(x, rng)))
    assert dict(zip([law.form for law in found.laws], found.pooled, strict=True)) == {"broken": True, "chinchilla": False}
    assert np.log(found.laws[0].parameters_["d_N"]) == pytest.approx(np.log(truth["d_N"]), abs=0.7)
    assert dict(zip([law.form for law in straight.laws], straight.pooled, strict=True))["chinchilla"]


def test_intervals_beyond_the_sweep_are_widened_by_what_hidden_runs_needed():
    # nine of ten runs need 1, 2 ... times a half-width of 0.1: with one more run than seen, 80 % lie within the ninth
    rng = np.random.default_rng(0)
    draws = np.exp(rng.normal(0, 0.1 / 1.2815515655446004, 400_000))
    needed = _needed(Samples(np.tile(draws[:, None], 10)), np.exp(0.1 * np.arange(1, 11)), 0.8)
    assert needed == pytest.approx(9, rel=0.02)
    assert _needed(Samples(np.tile(draws[:, None], 2)), np.exp([0.05, -0.2]), 0.8) == pytest.approx(2, rel=0.02)
    x = design(7, 7)
    bent = noisy(x, rng) * (1 + 0.05 * (x.prod(axis=1) > np.quantile(x.prod(axis=1), 0.7)))  # the larger runs do worse
    columns, far = {"params": x[:, 0], "tokens": x[:, 1]}, {"params": [2e8, 4e10], "tokens": [1e10, 3e12]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = scaling(columns, bent, laws=("chinchilla",), n_boot=40)
    assert found.backtest is not None
    assert found.backtest.widening > 1.5
    assert found.backtest.cuts[0] == 10.0
    assert len(found.backtest.cuts) >= 3
    plain, (low, high) = found.predict(far).interval(0.9), found.interval(far)
    assert (plain[0][0], plain[1][0]) == pytest.approx((low[0], high[0]))  # inside: as the refits say
    assert np.log(high[1] / low[1]) == pytest.approx(found.backtest.widening * np.log(plain[1][1] / plain[0][1]))
    target = scaling(columns, bent, laws=("chinchilla",), n_boot=40, targets=[{"params": 4e10, "tokens": 3e12}]).targets
    for row in target:
        assert np.log(row["loss_high"] / row["loss_low"]) == pytest.approx(np.log(high[1] / low[1]), rel=0.01)


def test_batches_weights_and_held_parameters():
    x = design()
    y, form = noisy(x, np.random.default_rng(1)), FORMS["chinchilla"]
    log_x, log_y = np.log(x).T, np.log(y)
    box = (np.array([-12.0, -50, -50, 1e-3, 1e-3]), np.array([2.0, 99, 99, 5, 5]))

    def solve(theta, weight, held=None):
        return minimise(lambda t, _: form.log_loss(t, log_x), theta, log_y[None], weight, delta=1e-3, bounds=box, held=held)

    start = ScalingLaw(n_boot=0).fit(x, y).theta_
    weights = np.random.default_rng(2).multinomial(len(y), np.ones(len(y)) / len(y), 5).astype(float)
    together = solve(np.tile(start, (5, 1)), weights)
    for i in range(5):
        alone = solve(start[None], weights[i : i + 1])
        np.testing.assert_allclose(together.cost[i], alone.cost[0], rtol=1e-9)
    # a weight of two is the point twice
    twice = np.repeat(np.arange(len(y)), weights[0].astype(int))
    doubled = ScalingLaw(n_boot=0).fit(x[twice], y[twice])
    assert doubled.cost_ == pytest.approx(together.cost[0], rel=1e-8)
    held = np.array([[False, False, False, True, False]])
    moved = start + np.array([0, 0, 0, 0.05, 0])
    assert solve(moved[None], np.ones((1, len(y))), held).theta[0, 3] == moved[3]


def test_intervals_cover_and_the_same_seed_gives_the_same():
    x, hits = design(), {"alpha": 0, "beta": 0, "alpha profile": 0, "loss": 0}
    far = np.array([[3e10, 6e11]])
    sweeps = 40
    for seed in range(sweeps):
        y = noisy(x, np.random.default_rng(seed))
        law = ScalingLaw(n_boot=120, random_state=seed).fit(x, y)
        ends, profile = law.interval(0.9), law.interval(0.9, "profile")
        hits["alpha profile"] += profile["alpha"][0] <= TRUTH["alpha"] <= profile["alpha"][1]
        for name in ("alpha", "beta"):
            hits[name] += ends[name][0] <= TRUTH[name] <= ends[name][1]
        low, high = law.predict(far).interval(0.9)
        hits["loss"] += bool(low[0] <= chinchilla(far)[0] <= high[0])
    # 40 draws of 0.9 lie in 29..40 with probability 0.999
    assert all(29 <= n <= 40 for n in hits.values()), hits
    again = ScalingLaw(n_boot=120, random_state=sweeps - 1).fit(x, y)
    np.testing.assert_array_equal(again.draws_, law.draws_)


@pytest.mark.parametrize("target", ["latent", "logged"])
def test_a_row_does_not_depend_on_the_others(target):
    x = design()
    law = ScalingLaw(n_boot=50, random_state=0).fit(x, noisy(x, np.random.default_rng(0)))
    together = law.predict(x[:5], target=target).values
    for i in range(5):
        np.testing.assert_array_equal(law.predict(x[i : i + 1], target=target).values[:, 0], together[:, i])
    wider = law.predict(x[:1], target="logged").std()[0]
    assert wider > law.predict(x[:1]).std()[0]


def test_groups_are_resampled_as_wholes():
    x = design()
    y = noisy(x, np.random.default_rng(5))
    group = np.repeat(np.arange(7), 7)
    shifted = y * np.exp(np.random.default_rng(6).normal(0, 0.02, 7))[group]
    alone, whole = (ScalingLaw(n_boot=300, random_state=0).fit(x, shifted, g).interval()["E"] for g in (None, group))
    assert whole[1] - whole[0] > 1.3 * (alone[1] - alone[0])
    with pytest.warns(UserWarning, match="rest on 2 groups"):
        ScalingLaw(n_boot=20, random_state=0).fit(x, y, group > 2)


def test_influence_finds_the_run_that_was_moved():
    x = design()
    y = noisy(x, np.random.default_rng(0))
    y[48] *= 1.3
    law = ScalingLaw(n_boot=200, random_state=0).fit(x, y)
    effect = law.influence()
    rest = ScalingLaw(n_boot=0).fit(np.delete(x, 48, 0), np.delete(y, 48))
    np.testing.assert_allclose(effect.parameters[48], list(rest.parameters_.values()), rtol=1e-3)
    assert law._log_y.size == 49  # and it was not dropped


# -- what cannot be told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "names", "reason"),
    [
        (np.stack([np.geomspace(1e8, 1e10, 12), 20 * np.geomspace(1e8, 1e10, 12)], 1), {"A", "B", "alpha", "beta"}, "20 x params"),
        (np.stack([np.full(12, 1e9), np.geomspace(1e9, 1e12, 12)], 1), {"E", "A", "alpha"}, "params = 1e"),
        (np.stack([np.geomspace(1e8, 1e10, 12), np.full(12, 1e11)], 1), {"E", "B", "beta"}, "tokens = 1e"),
    ],
)
def test_designs_without_contrast_say_which_parameters_are_open(x, names, reason):
    y = noisy(x, np.random.default_rng(0), 0.002)
    with pytest.warns(UserWarning, match=reason):
        law = ScalingLaw(n_boot=50, random_state=0).fit(x, y)
    assert names <= set(law.identifiability_.not_identified)
    assert not law.identifiability_.split
    with pytest.raises(InputError, match="split is not identified"):
        law.minimise(1e22)
    np.testing.assert_allclose(law.expected(x), y, rtol=0.02)


def test_a_profile_is_open_where_the_cost_never_rises():
    n = np.geomspace(1e8, 1e10, 15)
    x = np.stack([n, 20 * n], 1)
    with pytest.warns(UserWarning, match="not identified"):
        law = ScalingLaw(n_boot=0).fit(x, noisy(x, np.random.default_rng(0)))
    low, high = law.interval(0.9, "profile")["A"]
    assert high / max(low, 1e-300) > 1e3


def test_too_few_settings_name_the_parameters():
    x = design(2, 2)
    with pytest.raises(InputError, match=r"4 different settings.*5 parameters.*not identified: beta"):
        ScalingLaw().fit(x, chinchilla(x))
    with pytest.raises(InputError, match="4 different settings"):
        ScalingLaw().fit(np.tile(x, (3, 1)), np.tile(chinchilla(x), 3))


def test_refusals():
    x = design()
    y = chinchilla(x)
    for loss, match in ((np.where(y > 3, 0.0, y), "not above 0"), (-y, "not above 0"), (np.append(y[:-1], np.nan), "not finite")):
        with pytest.raises(InputError, match=match):
            ScalingLaw().fit(x, loss)
    with pytest.raises(InputError, match="y is 2 in all 49 rows"):
        ScalingLaw().fit(x, np.full(49, 2.0))
    with pytest.raises(InputError, match="tokens is -1 in row 2"):
        ScalingLaw().fit(np.where(np.arange(98).reshape(49, 2) == 5, -1.0, x), y)
    with pytest.raises(InputError, match="unknown law"):
        ScalingLaw("chinchila").fit(x, y)
    with pytest.raises(InputError, match="not fitted"):
        ScalingLaw().predict(x)
    with pytest.raises(InputError, match="one label a run"):
        ScalingLaw().fit(x, y, [1, 2])
    law = ScalingLaw(n_boot=0).fit(x, y)
    with pytest.raises(InputError, match="shape"):
        law.predict(x[:, :1])
    with pytest.raises(InputError, match="n_boot"):
        law.interval()
    with pytest.raises(InputError, match="needs exactly: none"):
        law.minimise(1e22, bits=8.0)


# -- laws side by side -------------------------------------------------------------------------------------------------------


def sweep(seed: int = 0, **options):
    x = design()
    y = noisy(x, np.random.default_rng(seed))
    return scaling({"params": x[:, 0], "tokens": x[:, 1]}, y, n_boot=100, **options)


def test_pooled_intervals_hold_every_pooled_law_and_the_target_is_placed():
    found = sweep(targets=[{"flops": 1e22}, {"flops": 1e19}, {"flops": 1e26}, {"params": 1e10, "tokens": 1e12}])
    rows = {(r["target"], r["law"]): r for r in found.targets}
    pooled = rows["flops=1e+22", "pooled"]
    assert pooled["loss_low"] <= rows["flops=1e+22", "chinchilla"]["loss"] <= pooled["loss_high"]
    assert any("flops=1e+19 lies inside the seen range" in w for w in found.warnings)
    assert any("flops=1e+26" in w and "hidden runs support" in w for w in found.warnings)
    assert found.backtest is not None
    assert found.backtest.error < 0.02
    assert min(r["reach"] for r in found.backtest.rows) > 1
    assert found.to_dict()["backtest"]["horizon"] == found.backtest.horizon >= 9


def test_hidden_runs_never_reach_the_fit_that_predicts_them():
    x = design()
    y = noisy(x, np.random.default_rng(0))
    flops = 6 * x.prod(axis=1)
    altered = np.where(flops > flops.max() / 10, 1.1 * y, y)
    a, b = (scaling({"params": x[:, 0], "tokens": x[:, 1]}, v, n_boot=50).backtest for v in (y, altered))
    assert [r["predicted"] for r in a.rows] == [r["predicted"] for r in b.rows]
    assert [r["low"] for r in a.rows] == [r["low"] for r in b.rows]
    assert b.horizon < a.horizon
    assert b.widening > a.widening


def test_disagreement_widens():
    """Two laws that the runs cannot tell apart are pooled, and the pool is wider than either."""
    x = design(5, 3, decades=1.6)
    y = noisy(x, np.random.default_rng(0), 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = scaling({"params": x[:, 0], "tokens": x[:, 1]}, y, n_boot=200, targets=[{"flops": 1e24}])
    assert found.pooled == (True, True)
    width = {r["law"]: r["loss_high"] - r["loss_low"] for r in found.targets}
    assert width["pooled"] > max(width["chinchilla"], width["kaplan"])


def test_small_sweeps_have_no_backtest_and_odd_flops_are_told():
    x = design(3, 4, decades=0.9)
    y = noisy(x, np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = scaling({"params": x[:, 0], "tokens": x[:, 1]}, y, n_boot=20, flops=2 * x.prod(axis=1))
    assert found.backtest is None
    assert any("no backtest" in w for w in found.warnings)
    assert any("cost of a whole run" in w for w in found.warnings)
    with pytest.raises(InputError, match="not both"):
        sweep(targets=[{"flops": 1e22, "params": 1e9}])
    with pytest.raises(InputError, match="allowed"):
        sweep(targets=[{"flop": 1e22}])
    with pytest.raises(InputError, match="above 0"):
        sweep(targets=[{"flops": -1.0}])


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame])
def test_columns_of_a_frame_are_found_by_their_names(library):
    x = design()
    y = noisy(x, np.random.default_rng(3))
    swapped = library({"tokens": x[:, 1], "seed": np.arange(len(x)), "params": x[:, 0]})
    law = ScalingLaw(n_boot=0).fit(swapped, y)
    assert law.parameters_ == ScalingLaw(n_boot=0).fit(x, y).parameters_
    np.testing.assert_array_equal(law.predict(swapped[:2]).mean(), law.predict(x[:2]).mean())
    assert law.parameters_ == ScalingLaw(n_boot=0).fit(library({"N": x[:, 0], "D": x[:, 1]}), y).parameters_
    with pytest.raises(InputError, match="X has no column params; it has tokens, N; name all of params, tokens or none"):
        law.predict(library({"tokens": x[:, 1], "N": x[:, 0]}))


def test_figure_draws(tmp_path):
    ax = sweep(targets=[{"flops": 1e22}]).plot()
    ax.figure.savefig(tmp_path / "figure.svg")
    assert ax.get_xscale() == ax.get_yscale() == "log"
    low, high = ax.get_ylim()
    said = [t for t in ax.texts if t.get_text().replace(".", "").isdigit()]
    assert len(said) == len({t.get_text() for t in said}) >= 5  # each line has its loss written, at its own height
    assert all(low <= t.xy[1] <= high for t in said)
    figure = ax.figure
    figure.canvas.draw()
    assert all(t.get_window_extent().x1 <= figure.bbox.x1 for t in said)  # and none is cut off


@pytest.mark.data
def test_the_known_answer_on_the_chinchilla_points():
    """Besiroglu et al. 2024: the five runs of highest loss left out, and with them."""
    with data_file("curves/chinchilla_svg_points.csv").open(newline="") as file:
        table = np.array(
            sorted(([float(r[k]) for k in ("params", "tokens", "loss")] for r in csv.DictReader(file)), key=lambda r: r[2])
        )
    law = ScalingLaw(n_boot=0).fit(table[:-5, :2], table[:-5, 2])
    known = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}
    for name, value in known.items():
        assert law.parameters_[name] == pytest.approx(value, rel=2e-4)
    whole = ScalingLaw(n_boot=200, random_state=0).fit(table[:, :2], table[:, 2])
    assert whole.parameters_["E"] == pytest.approx(1.891, abs=5e-4)
    assert whole.parameters_["beta"] == pytest.approx(0.453, abs=5e-4)
    assert len(table) - 1 in whole.influence().largest(3)  # the worst of the five is among those that move the fit most
