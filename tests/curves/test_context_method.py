"""The context network that ships, and method ``context`` of forecasts and backtests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import farfield as ff
from farfield.cli import cli
from farfield.curves.data import Curves, Metric
from farfield.curves.forecaster import make_forecaster
from farfield.curves.pfn.context_scoring import score_on_sweeps
from farfield.curves.pfn.stored import WEIGHTS
from farfield.curves.results import ForecastStatus
from farfield.errors import InputError


def sweep(n: int, points: int, seed: int, end: float = 40.0) -> Curves:
    """Runs of one task: how fast they fall, and where they end, are functions of the learning rate."""
    rng = np.random.default_rng(seed)
    rate = np.exp(rng.uniform(-7, -2, n))
    x = np.arange(1.0, points + 1)
    floor = 0.3 + 0.05 * (np.log(rate) + 4.5) ** 2
    height = 0.9 + 0.3 * (np.log(rate) + 4.5)
    y = floor[:, None] + np.maximum(height, 0.1)[:, None] * x**-0.5 + 0.004 * rng.normal(size=(n, points))
    rows = [{"run": f"r{seed}-{i}", "config.lr": float(v), "planned_end": end} for i, v in enumerate(rate)]
    names, metric = [r["run"] for r in rows for _ in range(points)], Metric("val_loss", "min", 0.0)
    return Curves.from_points(names, np.tile(x, n), y.ravel(), attributes=rows, metric=metric)


def test_other_runs_are_worth_much_and_runs_of_another_sweep_nothing() -> None:
    """The ablation: with the other runs exchanged for those of another sweep, what was gained is gone."""
    found = {s.situation: s for s in score_on_sweeps(ff.ContextPFN.load(), n=60, curves=12, points=30, rng=4)}
    assert found["finished"].log_likelihood > found["finished"].first + 0.2
    assert found["finished"].log_likelihood - found["finished"].first > 3 * found["finished"].standard_error
    assert found["as far"].log_likelihood > found["as far"].first
    assert found["strangers"].log_likelihood < found["finished"].log_likelihood - 0.2
    assert found["alone"].log_likelihood > found["alone"].first - 0.05


def test_the_networks_that_ship_are_small() -> None:
    assert sum(p.stat().st_size for p in WEIGHTS.iterdir()) <= 4e6
    card = ff.ContextPFN.load().card
    assert card["prior"] == "sweeps"
    assert {"recipe", "seed", "hours", "log", "scores", "base"} <= set(card)


def test_finished_runs_tell_where_the_others_end() -> None:
    whole = sweep(14, 40, 1)
    seen, others = whole.take(np.arange(4)).upto(8.0), whole.take(np.arange(4, 14))
    truth = whole.last_y[:4]
    ours = make_forecaster("context").fit(others).predict(seen, [40.0])
    first = ff.LCPFN.load().forecast(seen, [40.0])
    assert ours.log_prob(truth[:, None]).mean() > first.log_prob(truth[:, None]).mean()
    low, high = (b[:, 0] for b in ours.interval(0.9))
    assert ((truth >= low) & (truth <= high)).mean() >= 0.5


def test_a_forecast_of_a_sweep_in_progress() -> None:
    whole = sweep(12, 40, 2)
    runs = whole.upto(np.where(np.arange(12) < 6, 40.0, 12.0))
    found = ff.forecast(runs, method="context")
    assert found.status.count(ForecastStatus.FINISHED) == 6
    rows = found.forecast_index
    assert rows.size == 6
    low, middle, high = found.path[rows].quantile([0.1, 0.5, 0.9])
    assert np.isfinite(middle).all()
    assert ((low < middle) & (middle < high)).all()
    assert np.abs(middle[:, -1] - whole.last_y[rows]).max() < 0.25
    assert found.p_best is not None
    assert "uncalibrated" in found.calibration.label
    # what lies beyond a run's last point is not there to be seen
    alone = ff.forecast(runs.take(rows[:1]), context=runs.take(np.arange(6)), method="context", with_backtest=False)
    assert np.isfinite(alone.predictive.median()).all()


def test_a_backtest_of_the_method() -> None:
    runs = sweep(24, 40, 3)
    found = ff.backtest(runs, method="context", reaches=(2.0,))
    assert found.n == 24
    assert found.score("mae")[0] < found.score("mae", "last value")[0]
    again = ff.backtest(runs.take(np.arange(24)[::-1]), method="context", reaches=(2.0,))
    assert again.score("log_likelihood")[0] == pytest.approx(found.score("log_likelihood")[0], abs=0.3)


def test_what_it_was_not_trained_for_is_refused() -> None:
    for settings in ({"estimate": "best"}, {"target": "latent"}, {"censoring": "reweight"}):
        with pytest.raises(InputError, match="context"):
            make_forecaster("context", **settings)
    with pytest.raises(InputError, match="fit"):
        make_forecaster("context").predict(sweep(1, 9, 0), [20.0])


def test_the_command_and_its_partitions(tmp_path: Path) -> None:
    runs = sweep(8, 40, 5).upto(np.where(np.arange(8) < 5, 40.0, 15.0))
    source = tmp_path / "runs.parquet"
    runs.to_frame().write_parquet(source)
    command = ["forecast", str(source), "--metric", "val_loss", "--to", "40", "--method", "context"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in runs.runs)
    result = CliRunner().invoke(cli, [*command, "-o", f"{tmp_path}/out/", "--jobs", "1"])
    assert result.exit_code == 0, result.output
    table = pl.read_parquet(tmp_path / "out" / "runs.parquet")
    assert set(table["run"]) >= set(runs.runs[5:])
    listed = CliRunner().invoke(cli, ["pfn", "list"])
    assert "sweeps" in listed.output


def test_predictions_leak_nothing_of_hidden_values() -> None:
    whole = sweep(10, 40, 6)
    seen = whole.upto(10.0)
    moved = dataclasses.replace(whole, y=np.where(whole.x > 10, 9.0, whole.y)).upto(10.0)
    a, b = (make_forecaster("context").fit(c).predict(c, [40.0]).quantile([0.1, 0.5, 0.9]) for c in (seen, moved))
    np.testing.assert_array_equal(a, b)
