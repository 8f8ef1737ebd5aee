"""forecast() as a user meets it: what every run is told, what is withheld, what is said of schedules, what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from curves.noisy_quadratic import expected_loss, power_law_problem
from curves.simulated import from_runs, power_runs
from farfield import Curves, InputError, Metric, forecast
from farfield.curves.results import Forecast, ForecastStatus
from farfield.curves.schedules import decaying
from tolerances import assert_close

X = np.arange(10.0, 501.0, 10.0)
RNG = np.random.default_rng(0)
GOOD = 0.3 + 2 * X**-0.5 + 0.003 * RNG.normal(size=X.size)
FLAT = 0.3 + 20 * np.exp(-X / 10) + 1e-5 * RNG.normal(size=X.size)
TURN = 0.3 + np.where(X < 200, (200 - X) / 200, 0.3 * (X - 200) / 200)


def told(
    y: np.ndarray, *, end: float | None = 1000.0, row: dict[str, Any] | None = None, x: np.ndarray = X, **options: Any
) -> Forecast:
    """The forecast of one run, the rate constant unless `options` say otherwise."""
    options = {"lr_schedule": "constant", "with_backtest": False, **options}
    found: Forecast = forecast(from_runs({"run": (x, y)}, end=end, rows={"run": row or {}}), **options)
    return found


# -- what each run is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "case"),
    [
        ("CONTINUE", {"y": GOOD}),
        ("CONTINUE", {"y": GOOD, "lr_schedule": None}),
        ("PLATEAU", {"y": np.full(X.size, 0.4)}),
        ("PLATEAU", {"y": np.zeros(X.size)}),
        ("SCHEDULE_UNKNOWN", {"y": np.full(X.size, 0.4), "lr_schedule": None}),
        ("TURNED", {"y": TURN}),
        ("SCHEDULE_UNKNOWN", {"y": TURN, "lr_schedule": None}),
        ("DECAY_TO_COME", {"y": GOOD, "lr_schedule": "wsd:1000,0.2"}),
        ("DECAY_TO_COME", {"y": FLAT, "lr_schedule": "cosine:1000"}),
        ("DECAY_TO_COME", {"y": TURN, "lr_schedule": "linear:1000"}),
        ("FAR", {"y": GOOD, "to": 5000.0}),
        ("FAR", {"y": GOOD, "x": X - 600, "to": 400.0}),
        ("FINISHED", {"y": GOOD, "end": 500.0}),
        ("FINISHED", {"y": GOOD, "to": 200.0}),
        ("FINISHED", {"y": GOOD, "row": {"status": "finished"}}),
        ("FINISHED", {"y": GOOD, "end": None, "row": {"status": "finished"}}),
        ("CONTINUE", {"y": GOOD, "to": 1000.0, "row": {"status": "finished"}}),
        ("FINISHED", {"y": GOOD, "x": X - 600, "end": -100.0}),
        ("TOO_SHORT", {"y": GOOD[:2], "x": X[:2]}),
        ("TOO_SHORT", {"y": GOOD[:1], "x": X[:1]}),
        ("TOO_SHORT", {"y": GOOD[:0], "x": X[:0]}),
        ("DIVERGED", {"y": GOOD, "row": {"status": "diverged"}}),
        ("DIVERGED", {"y": np.r_[GOOD[:-1], 1e200]}),
        ("NO_END", {"y": GOOD, "end": None}),
        ("NO_END", {"y": GOOD, "to": [np.nan]}),
    ],
)
def test_every_status_is_reached(status: str, case: dict[str, Any]) -> None:
    found = told(**case)
    assert found.status[0] is ForecastStatus[status]
    forecasts = found.status[0].forecasts
    assert np.isfinite(found.interval[0][0]) == forecasts
    assert np.isfinite(found.median[0]) == (forecasts or status == "FINISHED")


def test_a_run_that_is_flat_as_others_were_has_little_to_gain() -> None:
    rng = np.random.default_rng(1)

    def runs(n: int, x: np.ndarray, prefix: str) -> Curves:
        return from_runs(
            {f"{prefix}{i}": (x, rng.uniform(0.2, 0.6) + 2 * np.exp(-x / 40) + 1e-4 * rng.normal(size=x.size)) for i in range(n)},
            end=1000.0,
        )

    asked, others = runs(3, X, "run"), runs(30, np.arange(10.0, 1001.0, 10.0), "other")
    found = forecast(asked, context=others, lr_schedule="constant", with_backtest=False, compare="own-end", estimate="mean:5")
    best = int(np.argmin(found.median))
    assert found.status[best] is ForecastStatus.PLATEAU


def test_a_run_far_behind_is_unlikely_to_end_best() -> None:
    found = forecast(from_runs({"good": (X, GOOD), "bad": (X, GOOD + 1)}, end=1000.0), lr_schedule="constant", with_backtest=False)
    assert [s.key for s in found.status] == ["continue", "unlikely_best"]
    found = forecast(from_runs({"good": (X, GOOD), "bad": (X, GOOD + 1)}, end=1000.0), with_backtest=False)
    assert [s.key for s in found.status] == ["continue", "schedule_unknown"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["cosine:1000", "wsd:1000,0.1", "linear:1000", "step:600", "constant", None]))
def test_nobody_is_told_to_stop_while_a_decay_may_come(seed: int, spec: str | None) -> None:
    rng = np.random.default_rng(seed)
    kinds = [GOOD, FLAT, TURN, GOOD + 1, np.full(X.size, 0.4), rng.normal(size=X.size), np.cumsum(rng.normal(size=X.size))]
    runs = {f"run{i}": (X, kinds[k] + rng.uniform(0, 0.5)) for i, k in enumerate(rng.integers(0, len(kinds), 5))}
    found = forecast(from_runs(runs, end=1000.0), lr_schedule=spec, with_backtest=False, compare="own-end")
    if spec == "constant":
        assert ForecastStatus.DECAY_TO_COME not in found.status
        assert ForecastStatus.SCHEDULE_UNKNOWN not in found.status
    else:
        assert not any(s.may_stop for s in found.status)
        assert "decay" in " ".join(found.warnings)
    assert ForecastStatus.DECAY_TO_COME not in found.status if spec is None else True


# -- finished runs, and who ends best -------------------------------------------------------------------------------------------


def test_finished_runs_count_at_what_is_known_of_them() -> None:
    runs = {"done": (2 * X, GOOD), "open": (X, GOOD + 0.5), "better": (X, GOOD - 0.2)}
    for estimate, known in (("final", GOOD[-1]), ("mean:5", GOOD[-5:].mean()), ("best", GOOD.min())):
        found = forecast(from_runs(runs, end=1000.0), estimate=estimate, with_backtest=False)
        assert found.status[0] is ForecastStatus.FINISHED
        assert_close(found.median[0], known)
        assert found.p_best is not None
        low, high = found.interval
        # the draws of the others are compared with the known value: no chance, all of it
        assert high[2] < known < low[1]
        assert found.p_best[1] == 0
        assert found.p_best[2] > 0.9
        assert_close(found.p_best.sum(), 1.0)


def test_a_run_that_stopped_early_is_at_its_own_end() -> None:
    runs = {"early": (X, GOOD), "lag": (2 * X - 15, GOOD), "beyond": (4 * X, GOOD)}
    rows = {name: {"status": "finished"} for name in runs}
    found = forecast(from_runs(runs, end=1000.0, rows=rows), with_backtest=False)
    # one logging interval before the planned end is the planned end
    assert found.at.tolist() == [500.0, 1000.0, 2000.0]
    assert [s.key for s in found.status] == ["finished"] * 3


def test_who_ends_best_is_withheld_across_unequal_ends() -> None:
    runs = from_runs(
        {"a": (X, GOOD), "b": (X, GOOD), "c": (X, GOOD)},
        rows={n: {"planned_end": e} for n, e in zip("abc", (800.0, 1000.0, 1000.0), strict=True)},
    )
    found = forecast(runs, with_backtest=False)
    assert found.p_best is None
    assert "the runs end at different x; --compare own-end" in found.p_best_withheld
    assert json.loads(json.dumps(found.to_dict()))["p_best_withheld"] == found.p_best_withheld
    compared = forecast(runs, with_backtest=False, compare="own-end")
    assert compared.p_best is not None
    assert_close(compared.p_best.sum(), 1.0)
    assert forecast(runs, with_backtest=False, to=1000.0).p_best is not None


def test_chances_follow_the_forecasts_and_the_seed() -> None:
    runs = from_runs(
        {"a": (X, GOOD), "b": (X, GOOD + 0.01), "c": (X, GOOD + 0.05), "d": (X, GOOD - 0.01), "short": (X[:2], GOOD[:2])},
        end=1000.0,
    )
    one, same, other = (forecast(runs, with_backtest=False, rng=seed) for seed in (1, 1, 2))
    assert one.p_best is not None
    assert other.p_best is not None
    np.testing.assert_array_equal(one.p_best, same.p_best)
    assert not np.array_equal(one.p_best, other.p_best)
    np.testing.assert_allclose(one.p_best, other.p_best, atol=0.06)
    assert one.p_best[3] > one.p_best[0] > one.p_best[1] > one.p_best[2]
    assert np.isnan(one.p_best[4])
    assert_close(np.nansum(one.p_best), 1.0)
    np.testing.assert_array_equal(one.median, other.median)


def test_runs_that_tie_share_the_chance_and_order_does_not_matter() -> None:
    y = {"a": GOOD, "b": GOOD, "open": GOOD + 2}
    rows = {n: {"status": "finished", "planned_end": 500.0} for n in "ab"} | {"open": {"planned_end": 501.0}}
    found = forecast(from_runs({n: (X, v) for n, v in y.items()}, rows=rows), with_backtest=False)
    assert found.p_best is not None
    np.testing.assert_array_equal(found.p_best, [0.5, 0.5, 0.0])


def test_errors_within_a_group_go_together() -> None:
    """Of two runs the one behind catches up less often where their errors are shared; alike runs have alike chances."""
    runs = {"ahead": (X, GOOD), "behind": (X, GOOD + 0.02)}
    apart = forecast(from_runs(runs, end=1000.0), with_backtest=False)
    together = forecast(from_runs(runs, end=1000.0, rows={n: {"group": "g"} for n in runs}), with_backtest=False)
    assert apart.p_best is not None
    assert together.p_best is not None
    np.testing.assert_array_equal(apart.median, together.median)
    assert 0 < together.p_best[1] < apart.p_best[1] - 0.01
    alike = forecast(from_runs({f"r{i}": (X, GOOD) for i in range(5)}, end=1000.0), with_backtest=False)
    assert alike.p_best is not None
    np.testing.assert_allclose(alike.p_best, 0.2, atol=0.05)


# -- horizons and estimates -----------------------------------------------------------------------------------------------------


def test_horizons() -> None:
    runs = from_runs({"a": (X, GOOD), "b": (X, GOOD)}, rows={"a": {"planned_end": 700.0}, "b": {"planned_end": 900.0}})
    for to, want in ((None, [700, 900]), (800, [800, 800]), ([650.0, 1500.0], [650, 1500])):
        found = forecast(runs, to=to, with_backtest=False)
        assert found.at.tolist() == want
        assert_close(found.path_at[:, -1], found.at)
        assert (found.path_at > 500).all()
        assert (np.diff(found.path_at, axis=1) > 0).all()
        np.testing.assert_array_equal(found.path.quantile(0.5)[:, -1], found.median)


@pytest.mark.parametrize("goal", ["min", "max"])
def test_the_best_so_far_is_never_lost(goal: str) -> None:
    rng = np.random.default_rng(3)
    sign = 1.0 if goal == "min" else -1.0
    noisy = {f"r{i}": (X, sign * (0.3 + X**-0.5 + 0.2 * rng.normal(size=X.size))) for i in range(8)}
    metric = Metric("y", goal)
    found = forecast(from_runs(noisy, end=1000.0, metric=metric), estimate="best", with_backtest=False)
    best = np.array([y.min() if goal == "min" else y.max() for _, y in noisy.values()])
    for q in (found.median, *found.interval):
        assert (sign * (q - best) <= 0).all()


def test_a_mean_of_many_values_is_surer_than_one_value() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(1.0, 1001.0)
    runs = from_runs({f"r{i}": (x, 0.3 + x**-0.5 + 0.2 * rng.normal(size=x.size)) for i in range(4)}, end=2000.0)
    wide, narrow = (np.subtract(*forecast(runs, estimate=e, with_backtest=False).interval[::-1]) for e in ("final", "mean:100"))
    assert (narrow < 0.6 * wide).all()


def test_the_level_is_the_intervals_level() -> None:
    runs = power_runs(30, seen=0.5)
    widths = [np.subtract(*forecast(runs, level=v, with_backtest=False).interval[::-1]) for v in (0.5, 0.8, 0.95)]
    assert (widths[0] < widths[1]).all()
    assert (widths[1] < widths[2]).all()


def test_one_method_alone() -> None:
    runs = from_runs({"a": (X, GOOD)}, end=1000.0)
    found = forecast(runs, method="Janoschek", with_backtest=False)
    assert found.members == ("exp4",)
    assert_close(found.weights, [[1.0]])
    assert_close(told(GOOD[:3], x=X[:3], method="last").median, [GOOD[2]])


# -- other runs -----------------------------------------------------------------------------------------------------------------


def test_a_run_alone_is_labelled_uncalibrated() -> None:
    found = told(GOOD)
    assert found.calibrated.tolist() == [False]
    assert found.calibration.n_runs == 0
    assert "uncalibrated" in found.summary()
    assert any("uncalibrated" in w for w in found.warnings)
    assert found.to_dict()["runs"][0]["calibrated"] is False
    # its half is the only evidence: a backtest wants two groups
    assert told(GOOD, with_backtest=True).backtest is None


def test_finished_siblings_calibrate_and_are_said_to() -> None:
    asked, others = power_runs(3, seed=1, seen=0.5), power_runs(30, prefix="run", status="finished")
    found = forecast(asked, context=others)
    assert found.calibrated.all()
    assert found.calibration.n_groups >= 10
    assert "context" in found.calibration.source
    assert found.calibration.caveat
    assert not any("uncalibrated" in w for w in found.warnings)
    assert found.curves.runs == asked.runs
    assert found.backtest is not None
    assert found.backtest.n > 30
    assert "backtest of" in found.summary()


@pytest.mark.parametrize(
    "changes", [{"metric": Metric("accuracy", "min")}, {"metric": Metric("loss", "max")}, {"x_name": "epoch"}], ids=str
)
def test_context_of_another_kind_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"the context is .*, the runs are loss by step \(goal min\); they must be the same"):
        forecast(power_runs(2, seen=0.5), context=from_runs({"c": (X, GOOD)}, **changes))


def test_nothing_at_all() -> None:
    found = forecast(power_runs(0))
    assert found.status == ()
    assert found.p_best is None
    assert found.to_dict()["runs"] == []
    assert found.to_frame().height == 0
    assert "0 runs" in found.summary()


# -- schedules ------------------------------------------------------------------------------------------------------------------


def quadratic(end: int, part: float, seed: int, peak: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """A warmup-stable-decay run on the noisy quadratic: 80 logged values with noise 0.003."""
    schedule = decaying("wsd", float(end), start=(1 - part) * end, warmup=50.0)
    x = np.arange(end // 80, end + 1, end // 80)
    loss = expected_loss(peak * schedule.relative(np.arange(1, end + 1)), **power_law_problem())
    return x.astype(float), loss[x - 1] + 0.003 * np.random.default_rng(seed).normal(size=x.size)


SETTINGS = {"config.lr_scheduler": "wsd", "config.decay_fraction": 0.2, "config.warmup_steps": 50}


def test_the_end_of_a_decay_is_learnt_from_a_few_finished_siblings() -> None:
    end = 4000
    x, y = quadratic(end, 0.2, 0)
    seen = x <= 0.8 * end

    def power(at: np.ndarray | float, level: float, amount: float, exponent: float) -> np.ndarray | float:
        return level + amount * (at / 1000) ** -exponent

    best, _ = curve_fit(power, x[seen], y[seen], p0=(0.3, 0.1, 0.3))
    assert abs(power(end, *best) - y[-1]) > 10 * np.std(power(x[seen], *best) - y[seen])

    asked = from_runs({"run": (x[seen], y[seen])}, rows={"run": {**SETTINGS, "config.max_steps": end, "planned_end": end}})
    lengths, peaks = (4000, 4000, 3200, 4000, 4800, 4000), (0.1, 0.08, 0.1, 0.12, 0.1, 0.09)
    siblings = {f"s{i}": quadratic(n, 0.2, 10 + i, p) for i, (n, p) in enumerate(zip(lengths, peaks, strict=True))}
    rows = {f"s{i}": {**SETTINGS, "config.max_steps": n, "planned_end": n, "status": "finished"} for i, n in enumerate(lengths)}
    found = forecast(asked, context=from_runs(siblings, rows=rows), with_backtest=False)
    assert found.status == (ForecastStatus.DECAY_TO_COME,)
    low, high = found.interval
    assert low[0] < y[-1] < high[0]
    assert found.median[0] < 0.7 * y[seen][-1]
    assert found.decay_at is not None
    assert_close(found.decay_at, [3200.0])

    # without any other run: wider than where no decay is to come, and said in table and JSON
    alone = forecast(asked, with_backtest=False)
    blind = forecast(asked, lr_schedule="constant", with_backtest=False)
    assert np.diff(alone.interval, axis=0)[0] > 1.3 * np.diff(blind.interval, axis=0)[0]
    assert alone.status == (ForecastStatus.DECAY_TO_COME,)
    warning = "a learning-rate decay is still to come in the run"
    assert any(warning in w for w in json.loads(json.dumps(alone.to_dict()))["warnings"])
    assert warning in alone.summary()
    assert not any(warning in w for w in blind.warnings)


def test_an_unknown_schedule_is_said_and_widens() -> None:
    unknown, known = told(GOOD, lr_schedule=None, method="pow3"), told(GOOD, method="last")
    assert any("the learning-rate schedule of the run is unknown" in w for w in unknown.warnings)
    assert not any("unknown" in w for w in known.warnings)
    assert unknown.decay_at is None
    assert "no schedule is named" in unknown.notes[0]
    assert told(GOOD[:2], x=X[:2], lr_schedule=None).notes == ("",)  # the schedule is not why it was refused


def test_bad_and_doubled_points_are_told() -> None:
    x = np.r_[X, X[:3], 505.0, 506.0]
    y = np.r_[GOOD, GOOD[:3], np.nan, np.inf]
    found = told(y, x=x)
    assert found.status[0] is ForecastStatus.CONTINUE
    assert "2 not finite, 3 at a doubled step" in found.notes[0]
    assert "2 values in 1 run not finite: reported, not fitted" in found.warnings
    np.testing.assert_array_equal(found.median, told(GOOD).median)


# -- refusals -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "powr3"}, r"'powr3'.*(pow\d.*){2}"),
        ({"estimate": "average"}, "estimate is 'average'; allowed"),
        ({"level": 80}, r"level is 80; allowed.*did you mean 0.8"),
        ({"lr_schedule": "cosin:100"}, "cosine"),
        ({"lr_schedule": "cosine"}, r"allowed: cosine:T"),
        ({"compare": "ends"}, "own-end"),
        ({"target": "true"}, "latent"),
        ({"to": [1.0, 2.0]}, r"to has shape \(2,\); allowed: one x, or \(1,\), one a run"),
        ({"to": np.inf}, "to is inf; allowed: a finite x"),
        ({"to": "far"}, "to is .*far.*; allowed: real numbers"),
    ],
)
def test_questions_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        told(GOOD, **options)


# -- odd curves -----------------------------------------------------------------------------------------------------------------

ODD = {
    "constant": (X, np.full(X.size, 0.5)),
    "zero": (X, np.zeros(X.size)),
    "huge": (X, 1e30 * GOOD),
    "tiny": (X, 1e-30 * GOOD),
    "subnormal": (X, 1e-310 * GOOD),
    "small differences": (X, 1e6 + 1e-9 * GOOD),
    "three points": (X[:3], GOOD[:3]),
    "four points": (X[:4], GOOD[:4]),
    "negative x": (X - 800, GOOD),
    "x from 0": (X - 10, GOOD),
    "x to 0": (X - 500, GOOD),
    "log-spaced": (np.geomspace(1e-9, 1e9, X.size), GOOD),
    "log-spaced over all floats": (np.geomspace(1e-300, 1e300, X.size), GOOD),
    "crowded at the end": (np.r_[1, 2, 3, 1e6 + np.arange(10)], GOOD[:13]),
    "hardly any extent": (1e9 + np.arange(50.0), GOOD),
    "irregular": (np.cumsum(np.random.default_rng(1).exponential(5, 50)) + 1e-3, GOOD),
    "turns": (X, TURN),
    "worsens": (X, GOOD[::-1]),
    "explodes": (X, np.exp(0.3 * X)),
    "grows": (X, X),
    "plateau": (X, np.r_[GOOD[:10], np.full(X.size - 10, GOOD[9])]),
    "step down": (X, np.where(X < 150, 1.0, 0.0)),
    "spike": (X, np.where(X == 150, 1e6, GOOD)),
    "two values": (X, (X // 10 % 2)),
    "rounded": (X, np.round(GOOD, 1)),
    "unsorted": (X[::-1], GOOD[::-1]),
    "doubled": (np.r_[X, X], np.r_[GOOD, GOOD]),
    "long": (np.arange(1.0, 2e5), 1.3 + np.arange(1.0, 2e5) ** -0.3 + 0.1 * np.random.default_rng(0).normal(size=199_999)),
    "long and constant": (np.arange(1.0, 1001.0), np.ones(1000)),
    "some not finite": (X, np.where(X % 70 == 0, np.nan, GOOD)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("estimate", "goal", "bounded"),
    [
        ("final", "min", "no"),
        ("final", "min", "tight"),
        ("final", "max", "wide"),
        ("mean:5", "min", "no"),
        ("best", "max", "tight"),
    ],
)
@pytest.mark.parametrize("name", ODD)
def test_odd_curves_get_finite_forecasts_within_the_bounds(name: str, estimate: str, goal: str, bounded: str) -> None:
    x, y = ODD[name]
    seen = y[np.isfinite(y)]
    wide = float(max(seen.max(), 1.0))
    lower, upper = {"no": (-np.inf, np.inf), "tight": (float(seen.min()), np.inf), "wide": (0.0, wide)}[bounded]
    if goal == "max" and bounded == "tight":
        lower, upper = -np.inf, float(seen.max())
    metric = Metric("loss", goal, lower, upper)
    end = float(x.max() + np.ptp(x) + 1)
    found = forecast(from_runs({"odd": (x, y)}, end=end, metric=metric), estimate=estimate, with_backtest=False)
    assert found.status[0].forecasts
    low, high = found.interval
    for q in (low, found.median, high, found.path.quantile(0.9)):
        assert np.isfinite(q).all()
        assert (q >= lower).all()
        assert (q <= upper).all()
    assert low[0] <= found.median[0] <= high[0]
    json.dumps(found.to_dict(), allow_nan=False)


def test_odd_curves_together_are_what_they_are_alone() -> None:
    names = [n for n in ODD if n not in ("long", "log-spaced over all floats")]
    runs = {n: ODD[n] for n in names}
    rows = {n: {"planned_end": float(x.max() + np.ptp(x) + 1)} for n, (x, _) in runs.items()}
    together = forecast(from_runs(runs, rows=rows), with_backtest=False, method="pow3")
    assert np.isfinite(together.median).all()
    assert all(s.forecasts for s in together.status)


def test_a_million_points() -> None:
    x = np.arange(1.0, 1_000_001.0)
    y = 0.3 + x**-0.3 + 0.05 * np.random.default_rng(0).normal(size=x.size)
    found = forecast(Curves(("long",), np.array([0, x.size]), x, y), to=2e6, with_backtest=False)
    low, high = found.interval
    truth = 0.3 + 2e6**-0.3
    assert low[0] < truth < high[0]
    assert abs(found.median[0] - truth) < 0.02
    assert 2.4 * 0.05 < high[0] - low[0] < 6 * 0.05
