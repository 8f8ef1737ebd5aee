"""The runs that ship: enough of every kind, what their README says, and made by the script beside them."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from farfield.curves.readers import read_runs
from farfield.curves.schedule_sources import from_config, from_observed, schedules_of

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted((EXAMPLES / "runs").glob("*.parquet"))
POINTS = pl.concat([pl.read_parquet(f) for f in FILES], how="diagonal")
RUNS = POINTS.group_by("run", maintain_order=True).agg(
    pl.col("status", "planned_end", "group", "seed", "^config\\..*$").first(),
    pl.col("step").last().alias("last"),
    pl.col("val_loss", "lr", "step"),
)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """examples/make_runs.py as a module."""
    spec = importlib.util.spec_from_file_location("make_runs", EXAMPLES / "make_runs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_runs"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_there_are_enough_runs_of_every_kind() -> None:
    assert sum(f.stat().st_size for f in FILES) <= 400_000
    assert RUNS.height >= 60
    assert RUNS["config.task"].n_unique() == len(FILES) == 3
    finished = RUNS.filter(pl.col("status") == "finished")
    by_schedule = dict(finished["config.schedule"].value_counts().iter_rows())
    assert by_schedule["wsd"] >= 24
    assert by_schedule["cosine"] >= 24
    assert by_schedule["constant"] >= 10
    assert finished["planned_end"].n_unique() >= 3
    assert set(RUNS["status"]) == {"finished", "running", "pruned", "killed", "diverged"}
    assert RUNS.filter(pl.col("group").is_duplicated())["group"].n_unique() >= 8  # seed siblings


def test_statuses_say_what_the_curves_show() -> None:
    for row in RUNS.iter_rows(named=True):
        loss = np.array(row["val_loss"], dtype=float)
        whole = row["last"] == row["planned_end"]
        ends_finite = bool(np.isfinite(loss[-1]))
        if row["status"] == "finished":
            assert whole, row["run"]
            assert np.isfinite(loss).all(), row["run"]
        elif row["status"] == "diverged":
            assert not ends_finite or loss[-1] > 1.25 * np.nanmin(loss), row["run"]
        else:
            assert not whole, row["run"]
            assert ends_finite, row["run"]
    broken = RUNS.filter(pl.col("val_loss").list.eval(pl.element().is_nan()).list.any())
    assert broken.height >= 2
    overfitting = [
        r["run"]
        for r in RUNS.iter_rows(named=True)
        if r["status"] == "finished"
        and np.argmin(r["val_loss"]) < 0.5 * len(r["val_loss"])
        and r["val_loss"][-1] > 1.1 * min(r["val_loss"])
    ]
    assert len(overfitting) >= 5


def test_logged_rates_follow_the_schedule_in_the_settings() -> None:
    for row in RUNS.iter_rows(named=True):
        schedule = from_config(row)
        assert schedule is not None
        assert schedule.kind == row["config.schedule"]
        want = np.array(row["lr"])
        np.testing.assert_allclose(schedule.lr(row["step"]), want, atol=2e-5 * row["config.learning_rate"], err_msg=row["run"])


def test_a_decay_lowers_the_loss_beyond_the_noise() -> None:
    """What the schedules are there for: from the start of its decay to its end a wsd run falls by several times its wobble."""
    falls = []
    for row in RUNS.filter((pl.col("status") == "finished") & (pl.col("config.schedule") == "wsd")).iter_rows(named=True):
        if row["config.task"] == "diabetes_mlp":
            continue
        loss, step = np.array(row["val_loss"]), np.array(row["step"])
        before = loss[(step <= (1 - row["config.decay_fraction"]) * row["planned_end"])][-12:]
        falls.append((before.mean() - loss[-1]) / before.std(ddof=2))
    assert len(falls) >= 24
    assert np.median(falls) > 3
    assert np.mean(np.array(falls) > 1.5) > 0.9


def test_the_runs_are_read_whole_and_their_schedules_with_them() -> None:
    curves = read_runs(EXAMPLES / "runs", metric="val_loss")
    assert (len(curves), curves.metric.goal, curves.x_name) == (RUNS.height, "min", "step")
    assert sorted(curves.column("status")) == sorted(RUNS["status"])
    assert not curves.column("planned_end").is_null().any()
    assert {s.source for s in schedules_of(curves)} == {"config"}


def test_rates_alone_reveal_a_cosine_half_way_and_never_a_decay_that_has_not_begun() -> None:
    kinds = []
    for row in RUNS.filter(pl.col("status") == "finished").iter_rows(named=True):
        step, lr = np.array(row["step"], dtype=float), np.array(row["lr"])
        seen = step <= 0.55 * row["planned_end"]
        read = from_observed(step[seen], lr[seen], planned_end=row["planned_end"])
        kinds.append((row["config.schedule"], read.kind))
        if read.kind == "cosine":
            np.testing.assert_allclose(read.lr(step), lr, atol=0.01 * lr.max())
    assert set(kinds) == {("cosine", "cosine"), ("wsd", "observed"), ("constant", "observed")}


def test_the_readme_counts_what_is_there() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name, count in re.findall(r"`(\w+\.parquet)` \| (\d+) \|", text):
        assert pl.read_parquet(EXAMPLES / "runs" / name)["run"].n_unique() == int(count)
    assert f"of {RUNS.height} small models" in text
    for column in POINTS.columns:
        assert f"`{column.removeprefix('config.')}`" in text, column


def test_the_script_plans_the_runs_that_ship(script: ModuleType) -> None:
    planned = script.planned_runs()
    assert sorted(r.name for r in planned) == sorted(RUNS["run"])
    assert {r.group for r in planned} == set(RUNS["group"])


def test_the_same_seed_trains_the_same_curve_and_another_seed_another(script: ModuleType) -> None:
    run = next(r for r in script.planned_runs() if r.sweep == "char_lm")
    short, task = dataclasses.replace(run, stop_at=0.05), script.char_task()
    once, again = script.train(short, task), script.train(short, task)
    assert len(once["step"]) == 3
    assert once == again
    assert script.train(dataclasses.replace(short, seed=7), task)["val_loss"] != once["val_loss"]


@pytest.mark.extra("sklearn")
@pytest.mark.parametrize("sweep", ["digits_mlp", "diabetes_mlp"])
def test_training_again_gives_the_start_of_the_curve_that_ships(script: ModuleType, sweep: str) -> None:
    run = next(r for r in script.planned_runs() if r.sweep == sweep)
    log = script.train(dataclasses.replace(run, stop_at=0.05), script.TASKS[sweep]())
    shipped = POINTS.filter((pl.col("run") == run.name) & (pl.col("config.task") == sweep)).head(len(log["step"]))
    assert len(log["step"]) == 3
    for column in ("lr", "train_loss", "val_loss"):
        # float32 sums in another order part slowly: six digits are stored, a thousandth is asked for
        np.testing.assert_allclose(log[column], shipped[column], rtol=1e-3)


def test_gradients_by_hand_are_those_of_the_loss(script: ModuleType) -> None:
    """Central differences in float64, every kind of weight, classifier and regressor."""
    rng = np.random.default_rng(0)
    y_class, y_real = rng.integers(0, 4, 6), rng.normal(size=6)
    cases = [
        (script.Task(None, (None, None), 6, 3, 4, vocabulary=5), rng.integers(0, 5, (6, 3)), y_class),
        (script.Task(None, (None, None), 6, 3, 1, regression=True), rng.normal(size=(6, 3)), y_real),
    ]
    for task, x, y in cases:
        w = {k: v.astype(np.float64) + 0.05 for k, v in script.initial(task, 7, rng).items()}
        _, grads = script.gradients(w, task, x, y)
        for name, value in w.items():
            for index in [tuple(int(rng.integers(n)) for n in value.shape) for _ in range(5)]:
                kept, losses = value[index], []
                for move in (1e-6, -1e-6):
                    value[index] = kept + move
                    losses.append(script.gradients(w, task, x, y)[0])
                value[index] = kept
                np.testing.assert_allclose(grads[name][index], (losses[0] - losses[1]) / 2e-6, rtol=1e-4, atol=1e-8)


def test_a_killed_script_goes_on_from_its_cache(script: ModuleType, tmp_path: Path) -> None:
    run = dataclasses.replace(next(r for r in script.planned_runs() if r.sweep == "char_lm"), stop_at=0.04)
    log, known = script.trained(run, script.char_task, tmp_path)
    again, kept = script.trained(run, lambda: pytest.fail("trained a cached run again"), tmp_path)
    assert (known, kept) == (False, True)
    assert again == log
    assert not list(tmp_path.glob("*.part"))
    frame = script.curve_frame(run, log)
    assert [c for c in POINTS.columns if c in frame.columns] == [c for c in pl.read_parquet(FILES[0]).columns if c in frame.columns]
