"""Backtests: nested to the bit, scores recomputed from the rows, baselines by hand, coverage where the truth is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl
import pytest

from curves.simulated import from_runs, power_runs
from farfield import Curves, InputError, Metric, backtest
from farfield.curves import backtesting
from farfield.curves.forecaster import EnsembleForecaster, groups_of, round_reach
from farfield.curves.results import Backtest
from farfield.predictive import Mixture
from tolerances import assert_close

FORECAST = ["run", "cut", "median", "low80", "high80"]


def rated(n_runs: int, seed: int = 0) -> Curves:
    """Groups of two runs with a logged cosine, or none."""
    curves = power_runs(n_runs, seed=seed, per_group=2)
    rate = 0.5 * (1 + np.cos(np.pi * curves.x / 400.0))
    return dataclasses.replace(curves, covariates={"lr": np.where(curves.run_index % 4 < 2, rate, np.nan)})


# -- nested ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimate", ["final", "best", "mean:4"])
@pytest.mark.parametrize("factor", [1000.0, -1.0])
@pytest.mark.parametrize("n_runs", [8, 26])
def test_what_a_group_hides_moves_none_of_its_own_forecasts(n_runs: int, factor: float, estimate: str) -> None:
    """With little and with enough evidence to calibrate: values beyond the cut of one group times 1,000, rates there at random."""
    whole = rated(n_runs)
    before = backtest(whole, reaches=[2.0], estimate=estimate, n_boot=20).rows
    cut = np.array(dict(before.select("run", "cut").iter_rows())[whole.runs[0]])
    assert before.height == n_runs
    for group in ("run group 0", "run group 3"):
        mine = (whole.column("group") == group).to_numpy()
        hidden = mine[whole.run_index] & (whole.x > cut)
        assert hidden.sum() >= 20
        altered = dataclasses.replace(
            whole,
            y=np.where(hidden, factor * whole.y, whole.y),
            covariates={"lr": np.where(hidden, np.random.default_rng(0).uniform(size=hidden.size), whole.covariates["lr"])},
        )
        after = backtest(altered, reaches=[2.0], estimate=estimate, n_boot=20).rows
        own = pl.col("group") == group
        assert after.filter(own).select(FORECAST).equals(before.filter(own).select(FORECAST))
        assert not after.filter(own)["y_true"].equals(before.filter(own)["y_true"])
        assert not after.filter(~own).select(FORECAST).equals(before.filter(~own).select(FORECAST))  # it is evidence for others


def test_baselines_are_nested_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bands about the baselines, and the choice of the best single form, see no value that their own group hides."""
    whole = power_runs(12, noise=0.05)
    tables: list[dict[str, np.ndarray]] = []
    scores = backtesting._scores

    def kept(rows: pl.DataFrame, table: dict[str, np.ndarray], *args: Any) -> pl.DataFrame:
        tables.append(table)
        return scores(rows, table, *args)

    monkeypatch.setattr(backtesting, "_scores", kept)
    rows = backtest(whole, reaches=[2.0], n_boot=20).rows
    hidden = (whole.run_index < 3) & (whole.x > rows["cut"][0])
    backtest(dataclasses.replace(whole, y=np.where(hidden, 50.0, whole.y)), reaches=[2.0], n_boot=20)
    for name in ("farfield", *backtesting.BASELINES):
        one, two = tables[0][name], tables[1][name]
        assert np.isfinite(one[:, 2:]).all()
        np.testing.assert_array_equal(one[:3, 2:], two[:3, 2:])  # quantiles; the scores before them know the truth
        assert not np.array_equal(one[3:, 2:], two[3:, 2:])


def test_folds_keep_groups_whole_and_are_even() -> None:
    rng = np.random.default_rng(0)
    groups = rng.choice(40, 300, p=np.r_[0.3, np.full(39, 0.7 / 39)])
    folds = backtesting._folds(groups)
    assert all(np.unique(folds[groups == g]).size == 1 for g in np.unique(groups))
    sizes = np.bincount(folds)
    assert sizes.size == 10
    assert np.sort(sizes)[:-1].max() - sizes.min() <= 10  # all but the fold of the large group
    assert np.unique(backtesting._folds(np.array([0, 0, 1, 2]))).size == 3


# -- rows and scores ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> tuple[Curves, Backtest]:
    curves = power_runs(45, noise=0.02)
    return curves, backtest(curves, n_boot=50)


def test_rows_say_where_each_run_was_cut_and_what_came(found: tuple[Curves, Backtest]) -> None:
    curves, result = found
    assert result.rows.height == 3 * 45
    assert result.n_runs == 45
    assert result.n_groups == 15
    for row in result.rows.iter_rows(named=True):
        i = curves.runs.index(row["run"])
        points = curves.points(i)
        assert row["at"] == pytest.approx(400.0, rel=1e-12)
        assert row["y_true"] == pytest.approx(curves.y[points][-1], rel=1e-12)
        assert row["cut"] in curves.x[points]
        assert row["reach"] == pytest.approx(400.0 / row["cut"], rel=1e-12)
        assert row["low80"] < row["median"] < row["high80"]
        assert row["group"] == curves.column("group")[i]
    # the last logged x at or before the end over each reach
    for reach in round_reach(np.array(backtesting.REACHES)):
        assert (result.rows["cut"] == 10 * np.floor(40 / reach)).sum() == 45


def test_scores_are_those_of_the_rows(found: tuple[Curves, Backtest]) -> None:
    _, result = found
    edges = sorted(round_reach(np.array(backtesting.REACHES)).tolist())
    bands = np.array([edges[int(np.argmin(np.abs(np.log(np.array(edges) / r))))] for r in result.rows["reach"]])
    truth, median, low, high = (result.rows[c].to_numpy() for c in ("y_true", "median", "low80", "high80"))
    ours = result.scores.filter(pl.col("method") == "farfield")
    assert ours["n"].to_list() == [135, 45, 45, 45]
    assert ours["reach_low"].to_list()[:2] == [None, 1.0]
    penalty = np.where(truth < low, low - truth, 0) + np.where(truth > high, truth - high, 0)
    for row, use in zip(ours.iter_rows(named=True), [bands > 0, *(bands == e for e in edges)], strict=True):
        assert_close(row["mae"], np.abs(median - truth)[use].mean())
        assert_close(row["coverage80"], ((truth >= low) & (truth <= high))[use].mean())
        assert_close(row["width80"], (high - low)[use].mean())
        assert_close(row["interval_score80"], (high - low + 2 / 0.2 * penalty)[use].mean())
        assert row["n_runs"] == 45
        assert row["n_groups"] == 15
        for score in Backtest.SCORES:
            assert row[f"{score}_low"] <= row[score] <= row[f"{score}_high"]
    for row in result.scores.iter_rows(named=True):
        assert row["width50"] < row["width80"] < row["width90"]
        assert row["coverage50"] <= row["coverage80"] <= row["coverage90"]


def test_all_methods_are_scored_on_the_same_forecasts(found: tuple[Curves, Backtest]) -> None:
    _, result = found
    assert result.methods == ("farfield", "last value", "mean of last 5", "best so far", "best single form")
    assert result.pooled["n"].to_list() == [135] * 5
    assert result.score("mae")[0] < 0.8 * result.score("mae", "last value")[0]
    assert result.summary().startswith("backtest of 135 forecasts with the end hidden (45 runs in 15 groups): 80 % intervals held")


def test_log_likelihood_and_crps_are_those_of_the_distribution() -> None:
    rng = np.random.default_rng(0)
    loc, truth = rng.normal(size=(5, 3)), rng.normal(size=5)
    mixture = Mixture(np.ones((5, 3)), loc, np.full((5, 3), 0.5))
    table = backtesting._columns(mixture, truth)
    assert_close(table[:, 0], mixture.log_prob(truth))
    assert_close(table[:, 1], mixture.crps(truth))
    assert_close(table[:, 2:].T, mixture.quantile([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]))


def test_a_band_about_a_baseline_has_the_spread_of_its_errors() -> None:
    rng = np.random.default_rng(0)
    errors = 0.3 + 0.1 * rng.standard_t(4, 4000)
    band = backtesting._band(np.array([1.0, 5.0]), errors)
    for q in (0.05, 0.1, 0.5, 0.9, 0.95):
        np.testing.assert_allclose(band.quantile(q), np.array([1.0, 5.0]) + np.quantile(errors, q), atol=0.015)
    single = backtesting._band(np.array([1.0]), np.array([0.2]))
    assert single.median()[0] == pytest.approx(1.2)


def test_the_last_value_is_a_baseline_by_hand() -> None:
    """Two groups of constant runs that step up by 1 and by 3 beyond the cut: each is corrected by what the other did."""
    x = np.arange(1.0, 21.0)
    runs = {f"{g}{i}": (x, np.where(x <= 10, i, i + step)) for g, step in (("a", 1.0), ("b", 3.0)) for i in range(3)}
    rows = {name: {"group": name[0]} for name in runs}
    result = backtest(from_runs(runs, rows=rows), method="last", reaches=[2.0], n_boot=20)
    row = result.pooled.filter(pl.col("method") == "last value").row(0, named=True)
    assert row["mae"] == pytest.approx(2.0, abs=0.01)
    assert row["coverage90"] == 0.0


def test_the_best_single_form_is_the_one_that_was_best_for_others() -> None:
    members = ("last", "pow3", "exp3", "annealing")
    values = np.zeros((4, 4))
    values[:, 1], values[:, 2], values[:, 3] = 1.0, [0.1, 0.1, 9.0, 9.0], 0.0
    truth = np.zeros(4)
    assert backtesting._chosen(members, values, truth, np.array([0, 1])) == 2
    assert backtesting._chosen(members, values, truth, np.array([2, 3])) == 1
    assert backtesting._chosen(("last", "best"), values[:, :2], truth, np.array([0])) is None


def test_intervals_hold_where_groups_are_alike() -> None:
    result = backtest(power_runs(90, seed=3), n_boot=200)
    value, low, high = result.score("coverage80")
    assert 0.7 < value < 0.9
    assert low < 0.8 < high or abs(value - 0.8) < 0.05


# -- what else it must be -------------------------------------------------------------------------------------------------------


def test_the_seed_moves_the_intervals_of_scores_alone() -> None:
    curves = power_runs(12)
    one, same, other = (backtest(curves, n_boot=50, rng=seed) for seed in (1, 1, 2))
    assert one.scores.equals(same.scores)
    assert one.rows.equals(other.rows)
    assert one.scores["mae"].equals(other.scores["mae"])
    assert not one.scores["mae_low"].equals(other.scores["mae_low"])


def test_inputs_are_left_as_they_are() -> None:
    curves = rated(8)
    before = [a.tobytes() for a in (curves.x, curves.y, curves.offsets, curves.covariates["lr"])], curves.attributes.clone()
    backtest(curves, n_boot=20)
    assert [a.tobytes() for a in (curves.x, curves.y, curves.offsets, curves.covariates["lr"])] == before[0]
    assert curves.attributes.equals(before[1])


def test_maximising_mirrors_minimising() -> None:
    curves = power_runs(24)
    mirrored = dataclasses.replace(curves, y=-curves.y, metric=Metric("score", "max"))
    down, up = backtest(curves, n_boot=20), backtest(mirrored, n_boot=20)
    for a, b in (("median", "median"), ("low80", "high80"), ("high80", "low80")):
        np.testing.assert_allclose(down.rows[a], -up.rows[b].to_numpy(), rtol=1e-9)
    for score in ("mae", "crps", "coverage80", "log_likelihood"):
        np.testing.assert_allclose(down.pooled[score], up.pooled[score], rtol=1e-7)


def test_runs_without_groups_are_their_own() -> None:
    curves = power_runs(6)
    plain = dataclasses.replace(curves, attributes=curves.attributes.with_columns(group=pl.lit(None, dtype=pl.String)))
    result = backtest(plain, reaches=[2.0], n_boot=20)
    assert result.n_groups == 6
    assert result.pooled["n_groups"].to_list() == [6] * 5
    assert result.rows["group"].to_list() == [None] * 6


def test_few_forecasts_are_said_to_say_little() -> None:
    assert backtest(power_runs(6), reaches=[2.0], n_boot=20).warnings == (
        "only 6 forecasts could be scored: the figures say little",
    )
    assert backtest(power_runs(24), reaches=[2.0], n_boot=20).warnings == ()


def test_some_of_many_runs_are_whole_groups() -> None:
    curves = power_runs(60)
    fitted = EnsembleForecaster().fit(curves)
    result = backtesting.scored(fitted, reaches=[2.0], most=20, n_boot=20)
    assert result is not None
    counts = result.rows.group_by("group").len()["len"].to_list()
    assert set(counts) == {3}
    assert 15 <= result.n <= 24
    same = backtesting.scored(EnsembleForecaster().fit(curves), reaches=[2.0], most=20, n_boot=20)
    assert same is not None
    assert same.rows.equals(result.rows)
    assert groups_of(curves).max() == 19


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reaches": [1.0]}, r"reaches is \[1.0\]; allowed: numbers above 1"),
        ({"reaches": []}, r"reaches is \[\]; allowed"),
        ({"reaches": [2.0, np.nan]}, "allowed: numbers above 1"),
        ({"reaches": ["far"]}, "allowed: real numbers"),
        ({"level": 0}, "level is 0"),
        ({"method": "pow33"}, "pow3"),
        ({"estimate": "first"}, "estimate is 'first'"),
        ({"lr_schedule": "cosine"}, "cosine:T"),
    ],
)
def test_questions_that_make_no_sense_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        backtest(power_runs(6), **options)


@pytest.mark.parametrize(
    ("curves", "says"),
    [
        (power_runs(0), "none of 0 runs can be scored: a run needs 3 points before its cut and 1 beyond"),
        (power_runs(5, n_points=3), "the longest has 3 points"),
        (power_runs(3), "none of 3 runs can be scored: .* runs of at least 2 groups"),
        (power_runs(6, status="diverged"), "none of 6 runs"),
    ],
    ids=["none", "short", "one group", "diverged"],
)
def test_what_cannot_be_scored_is_refused_with_the_reason(curves: Curves, says: str) -> None:
    with pytest.raises(InputError, match=says):
        backtest(curves)
