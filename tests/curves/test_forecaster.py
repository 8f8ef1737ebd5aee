"""The forecaster: what it takes from other runs, what it must not see, and symmetries it keeps, schedules included."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import polars as pl
import pytest

from curves.simulated import from_runs, power_runs
from farfield import Curves, InputError, Metric
from farfield.curves import forecaster as module
from farfield.curves.forecaster import (
    SHARES,
    EnsembleForecaster,
    estimate_of,
    groups_of,
    kinds_of,
    make_forecaster,
    parse_estimate,
    round_reach,
)  # fmt: skip
from tolerances import assert_close

LEVELS = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])


def scheduled(n_runs: int, *, seen: float = 1.0, seed: int = 0, prefix: str = "run", known: str = "mixed") -> Curves:
    """Runs of 1,000 steps with a logged rate: cosine, warmup-stable-decay by config, constant so far, none at all."""
    rng = np.random.default_rng(seed)
    x = np.arange(20.0, 1001.0, 20.0)
    runs, rows, rates = {}, {}, []
    for i in range(n_runs):
        kind = ("cosine", "wsd", "held", "none")[i % 4] if known == "mixed" else known
        part = x / 1000
        rate = {
            "cosine": 0.5 * (1 + np.cos(np.pi * part)),
            "wsd": np.minimum(1.0, (1 - part) / 0.2),
            "held": np.ones(x.size),
            "none": np.full(x.size, np.nan),
        }[kind]
        y = 0.4 + rng.uniform(1, 2) * x**-0.4 + 0.1 * np.nan_to_num(rate, nan=1.0) + 0.01 * rng.normal(size=x.size)
        n = int(seen * x.size)
        runs[f"{prefix}{i}"] = (x[:n], y[:n])
        rates.append(1e-3 * rate[:n])
        row: dict[str, Any] = {"group": f"{prefix}{i // 2}", "config.optimiser": ("adam", "sgd")[i % 2]}
        if kind == "wsd":
            row |= {"config.lr_scheduler": "wsd", "config.max_steps": 1000, "config.decay_fraction": 0.2}
        rows[f"{prefix}{i}"] = row
    return from_runs(runs, end=1000.0, covariates={"lr": np.concatenate(rates)}, rows=rows)


def quantiles(f: EnsembleForecaster, curves: Curves, at: Any) -> np.ndarray:
    return np.asarray(f.predict(curves, at).quantile(LEVELS))


def fingerprint(c: Curves) -> str:
    out = hashlib.sha256()
    for a in (c.offsets, c.x, c.y, *c.covariates.values()):
        out.update(a.tobytes())
    out.update(repr((c.runs, c.attributes.to_dicts(), c.metric)).encode())
    return out.hexdigest()


# -- what must not be seen ------------------------------------------------------------------------------------------------------


def test_values_and_rates_beyond_the_cut_are_not_seen() -> None:
    whole = scheduled(8)
    beyond = whole.x > 600
    rng = np.random.default_rng(1)
    altered = dataclasses.replace(
        whole,
        y=np.where(beyond, rng.uniform(0, 9, whole.y.size), whole.y),
        covariates={"lr": np.where(beyond, rng.uniform(0, 1, whole.y.size), whole.covariates["lr"])},
    )
    f = EnsembleForecaster().fit(scheduled(12, seed=2, prefix="other"))
    np.testing.assert_array_equal(quantiles(f, whole.upto(600.0), [800, 1000]), quantiles(f, altered.upto(600.0), [800, 1000]))


@pytest.mark.parametrize("status", ["finished", "running", "killed", "pruned", "diverged"])
def test_how_a_run_came_out_is_not_seen(status: str) -> None:
    """Its status and counts of bad values come from its whole log: they tell what happened beyond the cut."""
    cut = scheduled(8).upto(600.0)
    told = cut.attributes.with_columns(status=pl.lit(status), n_nonfinite=pl.lit(7), n_duplicate=pl.lit(3), source=pl.lit("x"))
    f = EnsembleForecaster().fit(scheduled(12, seed=2, prefix="other"))
    np.testing.assert_array_equal(quantiles(f, cut, [1000.0]), quantiles(f, dataclasses.replace(cut, attributes=told), [1000.0]))


def test_evidence_is_what_was_seen_at_the_cut_and_the_truth_beyond() -> None:
    context = scheduled(12)
    reach = float(round_reach(np.array([2.0]))[0])
    found, look, cut = EnsembleForecaster().fit(context).evidence(reach)
    assert (cut.last_x <= 1000 / reach).all()
    assert (cut.last_x > 1000 / reach - 20).all()
    assert_close(look.at[:, -1], np.full(12, 1000.0))
    for i in range(12):
        points = context.points(i)
        truth = np.interp(look.at[i], context.x[points], context.y[points])
        assert_close(truth[-1], context.y[points][-1])
        np.testing.assert_allclose(found.errors[i], (truth - look.outlook.centre[i]) / look.outlook.scale[i], rtol=1e-10)
        assert_close(look.at[i], cut.last_x[i] * (1000.0 / cut.last_x[i]) ** SHARES)
    # other ends: other errors, the same descriptions and outlooks
    beyond = context.x > cut.last_x[context.run_index]
    altered = dataclasses.replace(context, y=np.where(beyond, 5.0, context.y))
    other, again, _ = EnsembleForecaster().fit(altered).evidence(reach)
    np.testing.assert_array_equal(again.outlook.centre, look.outlook.centre)
    np.testing.assert_array_equal(again.outlook.scale, look.outlook.scale)
    for name in ("features", "course", "kinds"):
        np.testing.assert_array_equal(getattr(other.runs, name), getattr(found.runs, name))
    assert (other.errors > found.errors + 1).all()


@pytest.mark.parametrize("x0", [0.0, -50.0, 1.0])
def test_truth_and_forecast_of_the_evidence_are_at_one_position(x0: float) -> None:
    """x that starts at 0 or below is shifted; where that is done differently for a part of a run, both must know."""
    x = x0 + np.r_[0.0, 40.0, 41.0, 42.0, 50.0, 60.0, np.arange(70.0, 200.0, 2.0)]
    context = from_runs({"a": (x, 1.0 * x), "b": (x, 2.0 * x)})  # straight lines: values tell positions
    found, look, _ = make_forecaster("last").fit(context).evidence(2.0)
    truth = look.outlook.centre + look.outlook.scale * found.errors
    np.testing.assert_allclose(truth, look.at * np.array([[1.0], [2.0]]), rtol=1e-9)
    assert_close(look.at[:, -1], np.full(2, x[-1]))


# -- symmetries -----------------------------------------------------------------------------------------------------------------


def test_a_row_does_not_depend_on_the_batch_whatever_is_known_of_schedules() -> None:
    f = EnsembleForecaster().fit(scheduled(30, seed=2, prefix="other"))
    asked = scheduled(8, seen=0.6)
    at = np.stack([np.full(8, 1000.0), np.linspace(700, 1000, 8)], axis=1)
    together = quantiles(f, asked, at)
    for i in range(8):
        alone = quantiles(f, asked.take([i]), at[i : i + 1])
        np.testing.assert_allclose(alone[:, 0], together[:, i], rtol=1e-9)


def test_without_context_too() -> None:
    f, asked = EnsembleForecaster(), scheduled(8, seen=0.6)
    together = quantiles(f, asked, [1000.0])
    for i in range(8):
        np.testing.assert_allclose(quantiles(f, asked.take([i]), [1000.0])[:, 0], together[:, i], rtol=1e-9)


@pytest.mark.parametrize("estimate", ["final", "mean:3", "best"])
def test_maximising_mirrors_minimising(estimate: str) -> None:
    def mirrored(c: Curves) -> Curves:
        return dataclasses.replace(c, y=-c.y, metric=Metric("score", "max", -2.0, -0.05))

    def bounded(c: Curves) -> Curves:
        return dataclasses.replace(c, metric=Metric("loss", "min", 0.05, 2.0))

    context, asked = power_runs(30, seed=1, prefix="other"), power_runs(4, seen=0.5)
    down = quantiles(EnsembleForecaster(estimate=estimate).fit(bounded(context)), bounded(asked), [300.0, 800.0])
    up = quantiles(EnsembleForecaster(estimate=estimate).fit(mirrored(context)), mirrored(asked), [300.0, 800.0])
    np.testing.assert_allclose(up, -down[::-1], rtol=1e-9)


def test_units_of_x_do_not_matter_to_members_without_a_unit() -> None:
    members = ("last", "best", "mean5", "pow3", "exp3", "exp4", "mmf", "loglin")

    def tokens(c: Curves) -> Curves:
        told = c.attributes.with_columns(pl.col("planned_end") * 512)
        return dataclasses.replace(c, x=c.x * 512, attributes=told, x_name="tokens")

    context, asked = (scheduled(n, seen=s, prefix=p, known="cosine") for n, s, p in ((24, 1.0, "other"), (4, 0.6, "run")))
    steps = quantiles(EnsembleForecaster(members).fit(context), asked, [1000.0])
    scaled = quantiles(EnsembleForecaster(members).fit(tokens(context)), tokens(asked), [512_000.0])
    np.testing.assert_allclose(scaled, steps, rtol=1e-6)


def test_units_of_y_do_not_matter() -> None:
    context, asked = scheduled(24, prefix="other"), scheduled(4, seen=0.6)
    base = quantiles(EnsembleForecaster().fit(context), asked, [1000.0])
    for a in (1e-3, 7.0, 1e30):
        scaled = quantiles(
            EnsembleForecaster().fit(dataclasses.replace(context, y=a * context.y)),
            dataclasses.replace(asked, y=a * asked.y),
            [1000.0],
        )
        np.testing.assert_allclose(scaled, a * base, rtol=1e-6)


def test_inputs_are_left_as_they_are() -> None:
    context, asked = scheduled(12, prefix="other"), scheduled(4, seen=0.6)
    before = fingerprint(context), fingerprint(asked)
    f = EnsembleForecaster(estimate="best").fit(context)
    f.predict_path(asked, np.full(4, 1000.0), SHARES)
    f.evidence(2.0)
    assert (fingerprint(context), fingerprint(asked)) == before


# -- other runs -----------------------------------------------------------------------------------------------------------------


def test_runs_that_teach_nothing_are_left_out() -> None:
    good = power_runs(6, prefix="good")
    x = np.arange(1.0, 11.0)
    bad = from_runs(
        {"diverged": (x, x), "short": (x[:3], x[:3]), "large": (x, np.r_[x[:9], 1e200]), "none": ([], [])},
        rows={"diverged": {"status": "diverged"}},
    )
    asked = power_runs(2, seed=9, seen=0.5)
    alone, with_bad = (EnsembleForecaster().fit(c) for c in (good, good.concat(bad)))
    np.testing.assert_array_equal(quantiles(alone, asked, [400.0]), quantiles(with_bad, asked, [400.0]))
    assert repr(with_bad) == "EnsembleForecaster(9 members, 6 runs of context)"
    assert repr(EnsembleForecaster(("last",))) == "EnsembleForecaster(1 members, not fitted)"


def test_more_context_than_is_used_is_drawn_from_the_same_way_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CONTEXT", 10)
    context, asked = power_runs(30, prefix="other"), power_runs(2, seed=9, seen=0.5)
    one, two = (EnsembleForecaster().fit(context) for _ in range(2))
    assert repr(one) == "EnsembleForecaster(9 members, 10 runs of context)"
    np.testing.assert_array_equal(quantiles(one, asked, [400.0]), quantiles(two, asked, [400.0]))


@pytest.mark.parametrize(("n_runs", "calibrated"), [(0, False), (18, False), (24, True)])
def test_how_many_runs_stand_behind_an_interval_is_said(n_runs: int, calibrated: bool) -> None:
    f = EnsembleForecaster().fit(power_runs(n_runs, prefix="other"))
    found = f.predict_path(power_runs(2, seen=0.5), np.full(2, 400.0), np.ones(1))
    assert found.calibrated.tolist() == [calibrated] * 2
    assert found.n_runs.tolist() == [n_runs] * 2
    assert found.n_groups.tolist() == [n_runs // 3] * 2


def test_evidence_counts_at_its_own_reach_only() -> None:
    """Runs of 12 points can be cut at twice the reach, not at ten times: there the interval is not calibrated."""
    f = EnsembleForecaster().fit(power_runs(30, n_points=12, prefix="other"))
    asked = power_runs(2, seen=0.5)
    found = f.predict_path(asked, np.array([400.0, 2000.0]), np.ones(1))
    assert found.calibrated.tolist() == [True, False]
    assert found.n_runs.tolist() == [30, 0]


def test_with_others_that_are_alike_the_intervals_of_fresh_runs_cover() -> None:
    f = EnsembleForecaster().fit(power_runs(90, seed=1, prefix="other"))
    asked, truth = power_runs(240, seed=2, seen=0.5), power_runs(240, seed=2).last_y
    found = f.predict(asked, [400.0])
    low, high = found.interval(0.8)
    # 80 groups of three: a standard error of about 0.04
    assert 0.68 < np.mean((truth >= low[:, 0]) & (truth <= high[:, 0])) < 0.92
    assert np.abs(found.median()[:, 0] - truth).mean() < 0.5 * np.abs(asked.last_y - truth).mean()


def test_what_the_estimate_is_counts_in_the_evidence() -> None:
    context = power_runs(24, noise=0.2, prefix="other")
    for estimate, k in (("final", 1), ("mean:10", 10)):
        found, look, _ = EnsembleForecaster(estimate=estimate).fit(context).evidence(2.0)
        truth = look.outlook.centre[:, -1] + look.outlook.scale[:, -1] * found.errors[:, -1]
        assert_close(truth, [context.y[context.points(i)][-k:].mean() for i in range(24)])
    found, look, _ = EnsembleForecaster(estimate="best").fit(context).evidence(2.0)
    truth = look.outlook.centre[:, -1] + look.outlook.scale[:, -1] * found.errors[:, -1]
    assert_close(truth, [context.y[context.points(i)].min() for i in range(24)])


# -- the distribution -----------------------------------------------------------------------------------------------------------


def test_a_path_ends_in_the_forecast_and_its_positions_are_even_in_log_x() -> None:
    f = EnsembleForecaster().fit(power_runs(24, prefix="other"))
    asked = power_runs(3, seed=5, seen=0.5)
    end = np.array([300.0, 400.0, 900.0])
    shares = np.arange(1, 7) / 6
    found = f.predict_path(asked, end, shares)
    assert found.predictive.shape == (3, 6)
    assert_close(found.at, 200.0 * (end / 200.0)[:, None] ** shares)
    np.testing.assert_allclose(found.predictive.quantile(LEVELS)[:, :, -1], quantiles(f, asked, end[:, None])[:, :, 0], rtol=1e-9)
    width = np.diff(found.predictive.interval(0.8), axis=0)[0]
    assert (width[:, 0] < width[:, -1]).all()


def test_an_unknown_schedule_widens_what_is_not_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = power_runs(3, seen=0.5)
    wide = EnsembleForecaster(("pow3",)).predict(asked, [400.0])
    monkeypatch.setattr(module, "_UNKNOWN_SCHEDULE", 1.0)
    narrow = EnsembleForecaster(("pow3",)).predict(asked, [400.0])
    np.testing.assert_allclose(wide.median(), narrow.median(), rtol=1e-9)
    np.testing.assert_allclose(wide.quantile(LEVELS) - wide.median(), 1.5 * (narrow.quantile(LEVELS) - narrow.median()), atol=1e-9)


def test_runs_of_other_schedules_are_no_evidence_of_a_decay() -> None:
    """A run before its decay is forecast as if alone, whatever became of runs at a constant rate."""
    held = scheduled(40, known="held", prefix="held")
    held = dataclasses.replace(held, covariates={"lr": np.full(held.x.size, 1e-3)})
    asked = scheduled(6, known="wsd", seen=0.7, seed=3)
    alone = EnsembleForecaster().predict(asked, [1000.0]).quantile(LEVELS)
    found = EnsembleForecaster().fit(held).predict_path(asked, np.full(6, 1000.0), np.ones(1))
    assert not found.calibrated.any()
    np.testing.assert_allclose(found.predictive.quantile(LEVELS), alone, rtol=1e-9)
    worse = dataclasses.replace(held, y=np.where(held.x > 600, held.y + 1.0, held.y))
    again = EnsembleForecaster().fit(worse).predict(asked, [1000.0])
    np.testing.assert_array_equal(again.quantile(LEVELS), found.predictive.quantile(LEVELS))


def test_logged_values_scatter_about_the_latent_curve() -> None:
    rng = np.random.default_rng(0)
    x, noise = np.arange(1.0, 2001.0), 0.1
    runs = {f"run{i}": (x, 0.5 + x**-0.5 + noise * rng.normal(size=x.size)) for i in range(100)}
    asked = from_runs(runs)
    logged, latent = (EnsembleForecaster(target=t).predict(asked, [4000.0]) for t in ("logged", "latent"))
    ends = 0.5 + 4000.0**-0.5 + noise * rng.normal(size=(100, 1))
    low, high = logged.interval(0.8)
    assert np.mean((ends >= low) & (ends <= high)) > 0.7
    assert (np.diff(logged.interval(0.8), axis=0) > 2 * 1.28 * 0.9 * noise).all()
    assert np.median(np.diff(latent.interval(0.8), axis=0)) < 0.7 * np.median(np.diff(logged.interval(0.8), axis=0))


@pytest.mark.parametrize("goal", ["min", "max"])
def test_a_run_that_stays_at_a_bound_lies_in_its_interval(goal: str) -> None:
    rng = np.random.default_rng(0)
    x = np.arange(1.0, 31.0)

    def runs(n: int, prefix: str) -> Curves:
        y = np.maximum(rng.uniform(0.1, 0.4, (n, 1)) * x**-0.7 - rng.uniform(0.0, 0.08, (n, 1)), 0.0)
        return from_runs(
            {f"{prefix}{i}": (x, v if goal == "min" else 1 - v) for i, v in enumerate(y)}, metric=Metric("y", goal, 0.0, 1.0)
        )

    known, whole = runs(60, "known"), runs(60, "fresh")
    bound = 0.0 if goal == "min" else 1.0
    low, high = quantiles(EnsembleForecaster().fit(known), whole.upto(np.full(60, 15.0)), [30.0])[[1, 5], :, 0]
    there = whole.last_y == bound
    assert 15 < there.sum() < 50
    assert ((low <= bound) & (bound <= high))[there].mean() > 0.8
    # and what is far from the bound is not pulled onto it
    assert (np.abs(np.where(goal == "min", low, high) - bound) > 0)[np.abs(whole.last_y - bound) > 0.02].mean() > 0.8


def test_the_best_so_far_may_stay_the_best() -> None:
    rng = np.random.default_rng(1)
    x = np.arange(1.0, 31.0)
    y = {f"r{i}": (x, 0.3 + 0.4 * x ** -rng.uniform(1.0, 2.0) + 0.05 * rng.normal(size=30)) for i in range(80)}
    whole = from_runs(y)
    known, fresh = whole.take(range(40)), whole.take(range(40, 80)).upto(np.full(40, 20.0))
    low, high = quantiles(EnsembleForecaster(estimate="best").fit(known), fresh, [30.0])[[1, 5], :, 0]
    best = np.array([v[1].min() for v in list(y.values())[40:]])
    stays = np.array([v[1][:20].min() for v in list(y.values())[40:]]) == best
    assert 10 < stays.sum() < 35
    assert (best <= high)[stays].mean() >= 0.8
    assert ((low <= best) & (best <= high)).mean() > 0.65


@pytest.mark.parametrize("goal", ["min", "max"])
def test_the_best_is_never_worse_than_the_best_so_far(goal: str) -> None:
    sign = 1.0 if goal == "min" else -1.0
    metric = Metric("y", goal, 0.0, 1.0)
    x = np.arange(1.0, 21.0)
    wave, fall = 0.5 + 0.3 * np.sin(x), 0.2 + 0.6 * x**-0.7
    y = {"wave": wave, "fall": fall, "bound": np.r_[fall[:10], 0.0, fall[11:]], "flat": np.full(20, 0.3), "floor": np.zeros(20)}
    asked = from_runs({n: (x, v if goal == "min" else 1 - v) for n, v in y.items()}, metric=metric)
    q = quantiles(EnsembleForecaster(estimate="best"), asked, [40.0])[:, :, 0]
    best = np.array([v.min() if goal == "min" else 1 - v.min() for v in y.values()])
    # where the best is the bound itself the distribution needs room, of the size of rounding
    assert (sign * (q - best) <= 1e-14).all()
    assert ((q >= 0) & (q <= 1)).all()


# -- refusals -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"members": ("pow33",)}, "pow3"),
        ({"members": ()}, "members is empty"),
        ({"estimate": "mean:0"}, "estimate is 'mean:0'; allowed: 'final', 'mean:k'"),
        ({"estimate": "Best"}, "estimate is 'Best'"),
        ({"level": 80}, "did you mean 0.8"),
        ({"target": "logs"}, "logged"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        EnsembleForecaster(**settings)


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ([], r"at has shape \(0,\); allowed: \(n_at,\) or \(2, n_at\)"),
        (["far"], "allowed: real numbers"),
        ([[400.0]], r"at has shape \(1, 1\)"),
        ([200.0], "at 200 does not lie beyond the last point of run 'run0', 200"),
        ([np.inf], "at is inf for run 'run0'; allowed: finite x"),
    ],
)
def test_positions_that_make_no_sense_are_refused(at: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        EnsembleForecaster().predict(power_runs(2, seen=0.5), at)


def test_values_that_cannot_be_are_refused_by_name() -> None:
    asked = from_runs(
        {"fine": ([1, 2, 3], [0.3, 0.2, 0.1]), "odd": ([1, 2, 3], [0.3, 1.2, 0.1])}, metric=Metric("error", "min", 0, 1)
    )
    longer = from_runs({"odd": ([1, 2, 3, 4], [0.3, 1.2, 0.1, 0.1])}, metric=Metric("error", "min", 0, 1))
    for call in (lambda: EnsembleForecaster().predict(asked, [9.0]), lambda: EnsembleForecaster().fit(longer)):
        with pytest.raises(InputError, match=r"run 'odd' has the value 1\.2; 'error' is said to lie in \[0, 1\]"):
            call()
    large = from_runs({"blown": ([1, 2, 3], [0.3, 1e120, 0.1])})
    with pytest.raises(InputError, match=r"run 'blown' has values beyond 1e\+100; leave it out, or give it the status 'diverged'"):
        EnsembleForecaster().predict(large, [9.0])


def test_no_runs_give_no_forecasts() -> None:
    assert EnsembleForecaster().predict(power_runs(0), [9.0]).shape == (0, 1)
    assert EnsembleForecaster().fit(power_runs(0)).predict(power_runs(1, seen=0.5), [400.0]).shape == (1, 1)


# -- pieces ---------------------------------------------------------------------------------------------------------------------


def test_reaches_are_rounded_little_and_in_order() -> None:
    reach = np.geomspace(1.001, 1e6, 500)
    rounded = round_reach(reach)
    assert (np.diff(rounded) >= 0).all()
    assert np.unique(rounded).size < 80
    far = reach > 1.03
    assert np.abs(np.log(np.log(rounded[far]) / np.log(reach[far]))).max() <= 0.0501
    assert_close(round_reach(rounded), rounded)


def test_runs_without_a_group_are_their_own() -> None:
    curves = from_runs({n: ([1], [1]) for n in "abcde"}, rows={"a": {"group": "g"}, "c": {"group": "g"}, "d": {"group": "b"}})
    assert groups_of(curves).tolist() == [0, 1, 0, 2, 3]  # the run b is not of the group b


def test_settings_in_words_in_which_the_context_differs() -> None:
    def runs(optimiser: list[str | None], **more: list[Any]) -> Curves:
        rows = {f"r{i}": {"config.optimiser": o, **{f"config.{k}": v[i] for k, v in more.items()}} for i, o in enumerate(optimiser)}
        return from_runs({n: ([1], [1]) for n in rows}, rows=rows)

    context = runs(["sgd", "adam", "sgd", None], same=["x"] * 4, name=list("abcd"), width=[1, 2, 3, 4])
    assert kinds_of(context, None).tolist() == [[1], [0], [1], [-1]]
    assert kinds_of(runs(["adam", "lion"]), context).tolist() == [[0], [-1]]
    assert kinds_of(from_runs({"plain": ([1], [1])}), context).tolist() == [[-1]]
    assert kinds_of(runs(["adam"]), from_runs({"plain": ([1], [1])})).shape == (1, 0)


@pytest.mark.parametrize(("text", "want"), [("final", ("final", 1)), ("best", ("best", 1)), ("mean:7", ("mean", 7))])
def test_estimates_are_read(text: str, want: tuple[str, int]) -> None:
    assert parse_estimate(text) == want


@pytest.mark.parametrize("text", ["mean", "mean:", "mean:-1", "mean:2.5", "mean:²", "final:2", "", "last"])
def test_other_estimates_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="allowed: 'final', 'mean:k' with k >= 1, 'best'"):
        parse_estimate(text)


def test_estimates_of_a_whole_run() -> None:
    y = np.r_[np.linspace(2, 1, 127), 0.5, 1.5]
    for target in ("logged", "latent"):
        assert estimate_of(y, "best", target, Metric()) == 0.5
        assert estimate_of(y, "best", target, Metric("y", "max")) == 2.0
        assert estimate_of(y, "mean:2", target, Metric()) == 1.0
        assert_close(estimate_of(y, "mean:500", target, Metric()), y.mean())
    assert estimate_of(y, "final", "logged", Metric()) == 1.5
    assert estimate_of(y, "final", "latent", Metric()) == 1.0  # the last 64th of a long log: two points
    assert estimate_of(y[:20], "final", "latent", Metric()) == y[19]


@pytest.mark.parametrize("name", ["auto", "forms", "lcpfn", "pow3", "power", "Weibull", "last"])
def test_methods_by_name(name: str) -> None:
    assert len(make_forecaster(name).members) == {"auto": 10, "forms": 9}.get(name, 1)


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'pow5'.*(pow[234].*){3}"):
        make_forecaster("pow5")


def test_with_very_many_other_runs_the_network_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farfield.curves.forecaster._MOST_FOR_NETWORK", 5)
    f = make_forecaster("auto")
    assert "lcpfn" not in f.fit(power_runs(6, prefix="other")).members
    assert "lcpfn" in f.fit(power_runs(5, prefix="other")).members
    assert make_forecaster("lcpfn").fit(power_runs(6, prefix="other")).members == ("lcpfn",)
