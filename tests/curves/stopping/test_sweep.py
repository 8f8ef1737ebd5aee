"""A sweep as it stood, what came of the advice, and the two rankings."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from curves.simulated import from_runs, power_runs
from farfield import InputError, stop_advice
from farfield.curves.stopping import as_of, ranking, replayed


def test_as_of_leaves_nothing_of_what_came_later() -> None:
    x = np.arange(10.0, 110.0, 10.0)
    runs = {"long": (x, 1 / x), "short": (x[:3], 2 / x[:3]), "late": (x[7:], 3 / x[7:])}
    rows = {"long": {"status": "finished", "n_nonfinite": 4}, "short": {"status": "pruned"}, "late": {"status": "killed"}}
    whole = from_runs(runs, rows=rows)
    then = as_of(whole, 50.0)
    assert then.runs == whole.runs
    assert then.lengths.tolist() == [5, 3, 0]
    assert then.column("status").to_list() == ["running", "pruned", "running"]
    assert then.column("planned_end").to_list() == [100.0, None, None]  # where it was seen to finish; nobody planned the others
    assert then.column("n_nonfinite").to_list() == [0, 0, 0]
    spoilt = dataclasses.replace(whole, y=np.where(whole.x > 50.0, -9.0, whole.y))
    assert (as_of(spoilt, 50.0).y == then.y).all()
    with pytest.raises(InputError, match="first point is at 10"):
        as_of(whole, 5.0)


def test_a_replay_says_what_stopping_would_have_cost() -> None:
    x = np.arange(10.0, 110.0, 10.0)
    runs = {"a": (x, 3 - x / 50), "b": (x, 2.5 - x / 100), "c": (x, np.full(10, 2.9))}
    whole = from_runs(runs, end=100.0, rows={n: {"status": "finished"} for n in runs})
    advice = stop_advice(as_of(whole, 50.0), despite=["uncalibrated", "schedule"], threshold=0.0)
    fine = replayed(advice, whole, 50.0)
    assert (fine.winner, fine.kept, fine.regret, fine.saved) == (0, True, 0.0, 50.0)  # the flat run can win nothing
    every = stop_advice(as_of(whole, 50.0), despite=["uncalibrated", "schedule"], threshold=1.0, risk=1.0)
    lost = replayed(every, whole, 50.0)
    assert lost.saved == 150.0
    assert not lost.kept
    assert lost.regret == pytest.approx(1.0)
    assert lost.best == pytest.approx(1.0)
    assert "stopped: best 2" in lost.summary()
    assert lost.to_dict()["winner"] == "a"
    with pytest.raises(InputError, match="other runs"):
        replayed(advice, whole.take([0, 1]), 50.0)


def test_rankings_at_equal_x_and_at_the_own_end_are_told_apart() -> None:
    x = np.arange(10.0, 210.0, 10.0)
    runs = {"ahead": (x[:10], 1 + 4 / x[:10]), "long": (x, 1.05 + 5 / x), "wee": (x[:2], x[:2])}
    curves = from_runs(runs, end=400.0, rows={n: {"status": "running"} for n in runs})
    table = ranking(stop_advice(curves))
    rows = {r["run"]: r for r in table.iter_rows(named=True)}
    assert rows["ahead"]["x"] == rows["long"]["x"] == 100.0
    assert rows["ahead"]["value"] == pytest.approx(1.04)
    assert rows["long"]["value"] == pytest.approx(1.1)
    assert (rows["ahead"]["rank"], rows["long"]["rank"], rows["wee"]["rank"]) == (1, 2, None)
    assert rows["long"]["end"] == 400.0
    assert table["rank_at_end"].to_list() == [1, 2, None]
    between = ranking(stop_advice(curves), at=15.0)
    assert between.filter(pl.col("run") == "wee")["value"].item() == pytest.approx(15.0)
    with pytest.raises(InputError, match="the furthest is at 200"):
        ranking(stop_advice(curves), at=500.0)


def test_ranks_follow_the_goal() -> None:
    curves = power_runs(5, seen=0.5, status="running")
    low = ranking(stop_advice(curves)).sort("run")
    high = dataclasses.replace(curves, y=-curves.y, metric=dataclasses.replace(curves.metric, goal="max"))
    assert ranking(stop_advice(high)).sort("run")["rank"].to_list() == low["rank"].to_list()
