"""The records of a forecast and a backtest: shapes, order, numbers against their closed form, wording, plain JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from curves.synthetic import CYCLE, PLANNED_END, make_backtest, make_forecast, make_hidden
from farfield.curves.data import Metric
from farfield.curves.results import QUANTILES, Backtest, Calibration, Forecast, ForecastStatus, seen_estimate
from farfield.errors import InputError
from farfield.predictive import Gaussian
from farfield.wording import count, name_of, number, percent, plain, position, size, tick


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_interval_and_quantiles_are_those_of_the_predictive() -> None:
    f = make_forecast()
    loc, scale = f.predictive.mean()[:, 0], f.predictive.std()[:, 0]
    low, high = f.interval
    for i in f.forecast_index:
        expected = norm.ppf([0.1, 0.9], loc[i], scale[i])
        np.testing.assert_allclose([low[i], high[i]], expected, rtol=1e-12)
        np.testing.assert_allclose(f.quantile(np.array(QUANTILES))[:, i], norm.ppf(QUANTILES, loc[i], scale[i]), rtol=1e-12)
    np.testing.assert_array_equal(f.quantile(0.5)[f.forecast_index], f.median[f.forecast_index])


def test_refused_and_finished_runs_have_no_distribution() -> None:
    f = make_forecast()
    low, high = f.interval
    for i, status in enumerate(CYCLE):
        assert math.isfinite(low[i]) == math.isfinite(high[i]) == status.forecasts
        if status.refused:
            assert math.isnan(f.median[i])
        if status is ForecastStatus.FINISHED:
            assert f.median[i] == f.curves.last_y[i]
    assert [CYCLE[i] for i in f.refused_index] == [ForecastStatus.TOO_SHORT, ForecastStatus.DIVERGED]


@pytest.mark.parametrize("goal", ["min", "max"])
def test_order_is_best_first_and_refused_last(goal: str) -> None:
    f = make_forecast(30, goal=goal)
    values = f.median[f.order]
    known = values[np.isfinite(values)]
    assert np.isnan(values[known.size :]).all()
    assert (np.diff(known) >= 0).all() if goal == "min" else (np.diff(known) <= 0).all()
    assert f.to_frame()["run"].to_list() == [f.curves.runs[i] for i in f.order]


def test_reach_is_the_target_over_the_last_seen_x() -> None:
    f = make_forecast()
    for i in f.forecast_index:
        assert f.reach[i] == PLANNED_END / f.curves.x[f.curves.points(int(i))].max()


def test_dict_is_strict_json_and_agrees_with_the_frame() -> None:
    f = make_forecast()
    data = strict(json.dumps(f.to_dict(), allow_nan=False))
    assert data["schema"] == "farfield.forecast/1"
    frame = f.to_frame()
    assert [r["run"] for r in data["runs"]] == frame["run"].to_list()
    assert [r["forecast"] for r in data["runs"]] == frame["forecast"].to_list()
    assert [r["interval"] for r in data["runs"]] == [
        None if low is None else [low, high] for low, high in frame.select("low", "high").iter_rows()
    ]
    by_name = {r["run"]: r for r in data["runs"]}
    for i, status in enumerate(f.status):
        row = by_name[f.curves.runs[i]]
        assert (row["status"], row["advice"]) == (status.key, status.value)
        assert (row["quantiles"] is None) == (row["weights"] is None) == (row["calibrated"] is None) == (not status.forecasts)
        if status.forecasts:
            assert sum(row["weights"].values()) == pytest.approx(1, abs=1e-3)
            assert list(row["quantiles"].values()) == sorted(row["quantiles"].values())
    assert data["backtest"]["schema"] == "farfield.backtest/1"


def test_statuses_never_advise_stopping_before_a_decay() -> None:
    for status in (ForecastStatus.DECAY_TO_COME, ForecastStatus.SCHEDULE_UNKNOWN, ForecastStatus.FAR):
        assert not status.may_stop
        assert status.forecasts
    assert [s for s in ForecastStatus if "do not stop" in s.advice] == [
        ForecastStatus.DECAY_TO_COME,
        ForecastStatus.SCHEDULE_UNKNOWN,
    ]
    assert len({s.short for s in ForecastStatus}) == len({s.key for s in ForecastStatus}) == len(ForecastStatus)
    for status in ForecastStatus:
        assert not (status.refused and status.may_stop)
        assert "\n" not in status.value


def test_labels_say_whose_value_and_whether_calibrated() -> None:
    f = make_forecast()
    assert f.interval_label == (
        "80 % intervals for the logged value, calibrated from 9 runs in 3 groups where marked, else uncalibrated (1 of 9 runs)"
    )
    all_of = make_forecast(calibrated=np.ones(12, bool), target="latent", level=0.95)
    assert all_of.interval_label == "95 % intervals for the latent curve, calibrated from 9 runs in 3 groups"
    none = make_forecast(calibrated=np.zeros(12, bool), calibration=Calibration())
    assert none.interval_label == "80 % intervals for the logged value, uncalibrated"
    assert Calibration(1, 1, caveat="survivors only").summary() == "calibrated from 1 run in 1 group; survivors only"


def test_summary_holds_what_a_reader_must_know() -> None:
    f = make_forecast()
    text = f.summary()
    for part in (f.interval_label, f.backtest.summary(), *f.warnings, f.curves.runs[int(f.order[0])]):  # type: ignore[union-attr]
        assert part in text
    assert "\n" not in repr(f)
    assert "wsd-lr0.003-seed1" not in repr(f)
    for i in f.refused_index:
        assert f.curves.runs[i] in text


@pytest.mark.parametrize(
    ("estimate", "goal", "expected"), [("final", "min", 2.0), ("best", "min", 1.0), ("best", "max", 4.0), ("mean:2", "min", 3.0)]
)
def test_estimate_of_what_was_seen(estimate: str, goal: Any, expected: float) -> None:
    assert seen_estimate(np.array([3.0, 1.0, 4.0, 2.0]), estimate, Metric("m", goal)) == expected
    assert math.isnan(seen_estimate(np.array([]), estimate, Metric("m", goal)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at": np.zeros(3)}, r"at has shape \(3,\); for 12 runs it must be \(12,\)"),
        ({"weights": np.zeros((12, 2))}, r"weights has shape \(12, 2\)"),
        ({"status": (ForecastStatus.CONTINUE,)}, "status has 1"),
        ({"predictive": Gaussian(np.zeros((12, 2)), np.ones((12, 2)))}, r"predictive has shape \(12, 2\)"),
        ({"level": 80.0}, "level is 80.0; it must lie between 0 and 1"),
        ({"p_best": np.zeros(2)}, "p_best has shape"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_forecast(**changes)


def test_no_runs_and_only_refused_runs() -> None:
    empty = make_forecast(1, status=(ForecastStatus.DIVERGED,), notes=(), backtest=None, p_best=None)
    assert empty.to_frame()["forecast"].to_list() == [None]
    assert strict(json.dumps(empty.to_dict()))["runs"][0]["status"] == "diverged"
    assert "not forecast" in empty.summary()


def test_rows_do_not_depend_on_the_other_runs() -> None:
    f = make_forecast(12)
    alone = make_forecast(12, status=tuple(s if i == 0 else ForecastStatus.DIVERGED for i, s in enumerate(CYCLE)))
    row = {r["run"]: r for r in f.to_dict()["runs"]}[f.curves.runs[0]]
    assert {r["run"]: r for r in alone.to_dict()["runs"]}[f.curves.runs[0]] == row


# -- hidden ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "held"), [(0.0, 6), (0.99, 6), (1.01, 0), (-1.01, 0)])
def test_hidden_ends_are_counted_inside_or_outside(error: float, held: int) -> None:
    f = make_forecast(12)
    shown = make_forecast(12, hidden=make_hidden(f, error))
    known = np.isfinite(shown.came)
    assert known.sum() == 6
    low, high = shown.interval
    np.testing.assert_allclose(shown.came[known], (shown.median + error * (high - low) / 2)[known], rtol=1e-12)
    assert shown.came_label == f"{held} of 6 hidden ends came inside their 80 % intervals ({100 * held / 6:.0f} %)"
    assert shown.came_label in shown.summary()
    assert f.came_label == ""


def test_hidden_ends_that_stop_short_are_not_judged() -> None:
    f = make_forecast(12)
    hidden = make_hidden(f)
    short = make_forecast(12, hidden=hidden.upto(0.98 * PLANNED_END))
    assert np.isnan(short.came).all()
    with pytest.raises(InputError, match="hidden must hold the same runs"):
        make_forecast(12, hidden=hidden.take([0, 1]))


def test_the_hidden_best_may_lie_in_what_was_seen() -> None:
    f = make_forecast(1)
    hidden = make_hidden(f, 5.0)
    lowest = f.curves.y.min()
    assert make_forecast(1, hidden=hidden, estimate="best").came[0] == lowest
    assert make_forecast(1, hidden=hidden, estimate="mean:2").came[0] == pytest.approx(hidden.y[-1], rel=1e-12)


# -- backtest ---------------------------------------------------------------------------------------------------------------


def test_backtest_summary_states_coverage_and_error_against_the_baseline() -> None:
    b = make_backtest()
    assert b.summary() == (
        "backtest of 60 forecasts with the end hidden (20 runs in 5 groups): 80 % intervals held 78 % (72 to 83), "
        "mean error 0.52x that of the last value"
    )
    assert b.methods == ("farfield", "last value", "last-5 mean", "best so far")
    assert b.score("mae") == (0.016, 0.8 * 0.016, 1.25 * 0.016)
    assert all(math.isnan(v) for v in b.score("coverage80", "last value"))
    assert b.pooled.height == 4
    assert b.by_reach.height == 12
    assert strict(json.dumps(b.to_dict(), allow_nan=False))["scores"][0]["method"] == "farfield"


def test_backtest_refuses_what_it_cannot_read() -> None:
    b = make_backtest()
    with pytest.raises(InputError, match="scores lacks the columns method"):
        Backtest(scores=b.scores.drop("method"), rows=b.rows)
    with pytest.raises(InputError, match="unknown score 'mea'; allowed: mae"):
        b.score("mea")


def test_backtest_of_nothing() -> None:
    b = make_backtest()
    none = Backtest(scores=b.scores.clear(), rows=b.rows.clear())
    assert none.summary() == "backtest: nothing could be scored"
    assert (none.n, none.n_runs, none.n_groups) == (0, 0, 0)


def test_runs_without_a_group_count_as_their_own() -> None:
    b = make_backtest()
    rows = b.rows.with_columns(group=pl.when(pl.col("group") == "group 0").then(None).otherwise(pl.col("group")))
    assert Backtest(scores=b.scores, rows=rows).n_groups == 4 + 4


# -- wording ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.01234567, "0.01235"),
        (1.23456, "1.235"),
        (-2.5, "-2.500"),
        (123.456, "123.5"),
        (1234.56, "1,235"),
        (3e-6, "3e-06"),
        (0.0, "0"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (None, "–"),
        (1.2e9, "1.2e+09"),
    ],
)
def test_number(value: float | None, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(800, "800"), (1600, "1,600"), (20000, "20k"), (1.5e6, "1.5M"), (0.05, "0.05"), (3e-6, "3e-6"), (2e9, "2B")],
)
def test_tick(value: float, shown: str) -> None:
    assert tick(value) == shown


def test_ticks_of_one_axis_count_in_one_unit() -> None:
    assert [tick(v, 12000.0) for v in (0, 500, 5000, 7500, 10000)] == ["0", "500", "5k", "7.5k", "10k"]
    assert [tick(v, 6000.0) for v in (2500, 5000)] == ["2,500", "5,000"]


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (49_984, "50 kB"), (999_600, "1 MB"), (1.07e9, "1.07 GB"), (3e12, "3 TB")],
)
def test_size(nbytes: float, shown: str) -> None:
    assert size(nbytes) == shown


def test_position_keeps_whole_numbers_whole() -> None:
    assert [position(v) for v in (12000.0, 1600.0, 2.5, 3.2e9, math.nan)] == ["12,000", "1,600", "2.5", "3.2B", "–"]


def test_percent_does_not_round_to_certainty() -> None:
    assert [percent(p) for p in (0.0, 0.004, 0.5, 0.996, 1.0, math.nan)] == ["0 %", "<1 %", "50 %", ">99 %", "100 %", "–"]


def test_names_from_outside_are_made_safe_and_cut_in_the_middle() -> None:
    assert name_of("a\x1b[31mb\nc\x00\u202e") == "a�[31mb�c��"
    assert name_of("训练 один ß") == "训练 один ß"
    short = name_of("a" * 50 + "b" * 50, 21)
    assert (len(short), short) == (21, "a" * 10 + "…" + "b" * 10)


def test_plain_has_no_nan_and_no_numpy() -> None:
    value = plain({"a": [np.float64("nan"), np.int64(3), (np.inf,)], "b": np.True_})
    assert value == {"a": [None, 3, [None]], "b": True}
    assert type(value["a"][1]) is int
    assert count(1, "run") == "1 run"
    assert count(10000, "run") == "10,000 runs"


def test_forecast_is_frozen() -> None:
    f: Forecast = make_forecast()
    with pytest.raises(AttributeError):
        f.level = 0.5  # type: ignore[misc]
