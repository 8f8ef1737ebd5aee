"""Every log that a real program wrote reads back as what the program was given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield.curves.readers import RunLog, list_runs, read_runs
from farfield.curves.readers.names import seed_of

DATA = Path(__file__).parent / "data"
EXPECTED: dict[str, dict[str, dict[str, Any]]] = json.loads((DATA / "expected.json").read_text())
SINGLE_PRECISION = {"tensorboard", "tensorboardx"}  # these formats store 32-bit floats


def runs_of(fixture: str) -> dict[str, RunLog]:
    table = list_runs(DATA / fixture)
    assert table.problems == ()
    return {run.name: run for run in table.runs}


@pytest.mark.parametrize("fixture", sorted(EXPECTED))
def test_values_survive(fixture: str) -> None:
    runs, expected = runs_of(fixture), EXPECTED[fixture]
    assert set(runs) == set(expected)
    for name, want in expected.items():
        assert set(want["metrics"]) <= set(runs[name].metrics)
        for metric, pairs in want["metrics"].items():
            series = runs[name].metrics[metric]
            step, value = np.array(pairs, dtype=float).T
            if fixture in SINGLE_PRECISION and metric != "double":
                value = value.astype(np.float32).astype(float)
            np.testing.assert_array_equal(series.step, step, err_msg=f"{name} {metric}")
            np.testing.assert_allclose(series.value, value, rtol=1e-15, err_msg=f"{name} {metric}")


@pytest.mark.parametrize("fixture", sorted(EXPECTED))
def test_attributes_survive(fixture: str) -> None:
    for name, want in EXPECTED[fixture].items():
        run = runs_of(fixture)[name]
        if "config" in want:
            for key, value in want["config"].items():
                got = run.config[key]
                assert got == pytest.approx(value) if isinstance(value, float) else got == value, (name, key)
        if "seed" in want:
            assert seed_of(run.config) == want["seed"]
        if "status" in want:
            assert run.status == want["status"]
        if "n_overlap" in want:
            assert run.metrics["loss"].n_overlap == want["n_overlap"]


@pytest.mark.parametrize("fixture", ["wandb", "mlflow_sqlite", "mlflow_files", "trackio"])
def test_groups_survive(fixture: str) -> None:
    frame = list_runs(DATA / fixture).to_frame()
    for name, want in EXPECTED[fixture].items():
        groups = frame.filter(frame["run"] == name)["group"].unique().to_list()
        assert groups == [want.get("group")] or "group" not in want


@pytest.mark.parametrize(("fixture", "metric"), [("huggingface", "loss"), ("lightning", "val_loss"), ("wandb", "val/loss")])
def test_planned_end_is_in_units_of_x(fixture: str, metric: str) -> None:
    curves = read_runs(DATA / fixture, metric=metric)
    for name, want in EXPECTED[fixture].items():
        i = curves.runs.index(name)
        end = want.get("planned_end") or want["config"]["max_steps"]
        assert curves.column("planned_end")[i] == end
    if fixture != "wandb":
        assert read_runs(DATA / fixture, metric=metric, x="epoch").column("planned_end").to_list() in ([None], [3.0])


def test_keras_epochs_from_zero_end_one_before_their_number() -> None:
    table = {"epoch": [0, 1, 2], "loss": [3.0, 2.0, 1.0], "config.epochs": [10, 10, 10], "run": ["a"] * 3}
    import polars as pl

    assert read_runs(pl.DataFrame(table)).column("planned_end").to_list() == [9.0]


def test_events_of_text_and_histograms_are_no_metrics() -> None:
    assert set(runs_of("tensorboard")["plain"].metrics) == {"val/loss", "val/acc", "train/lr"}


def test_learning_rate_becomes_a_covariate() -> None:
    curves = read_runs(DATA / "tensorboard" / "plain", metric="val/loss")
    np.testing.assert_allclose(curves.covariates["lr"], 0.1 * (1 - curves.x / 300), rtol=1e-6)
    assert np.all(np.diff(curves.covariates["time"]) >= 0)
    assert curves.covariates["time"][0] >= 0
    lightning = read_runs(DATA / "lightning", metric="val_loss")
    np.testing.assert_allclose(lightning.covariates["lr"], 0.1 / (lightning.x + 1), rtol=1e-12)
    np.testing.assert_array_equal(lightning.covariates["epoch"], [0, 1, 2])


def test_metrics_logged_at_their_own_steps_stay_so() -> None:
    assert read_runs(DATA / "huggingface", metric="eval_loss").x.tolist() == [4, 8, 12]
    assert read_runs(DATA / "huggingface", metric="loss").x.tolist() == [2, 4, 6, 8, 10, 12]
    by_epoch = read_runs(DATA / "huggingface", metric="eval_loss", x="epoch")
    assert by_epoch.x.tolist() == [1, 2, 3]
    assert by_epoch.x_name == "epoch"


def test_the_last_checkpoint_holds_all(copied: Callable[[str], Path]) -> None:
    folder = copied("huggingface")
    assert len(list_runs(folder)) == 1
    shutil.rmtree(folder / "model" / "checkpoint-12")
    curves = read_runs(folder, metric="loss")
    assert curves.last_x.tolist() == [6]
    assert curves.column("status").to_list() == ["unknown"]


def test_diverged_tail() -> None:
    curves = read_runs(DATA / "tensorboard" / "diverged")
    assert curves.column("status").to_list() == ["diverged"]
    assert curves.column("n_nonfinite").to_list() == [3]
    assert curves.x.tolist() == [0, 1, 2, 3, 4]


def test_pruned_trials_are_censored_not_failed() -> None:
    curves = read_runs(DATA / "optuna", goal=None)
    assert curves.metric.goal == "max"  # the study says so; the metric's name does not
    assert dict(zip(curves.runs, curves.column("status"), strict=True)) == {
        "trial 0": "finished",
        "trial 1": "pruned",
        "trial 2": "diverged",
        "trial 3": "killed",
    }


def test_ray_progress_tells_the_same_as_its_result(copied: Callable[[str], Path]) -> None:
    folder = copied("ray")
    with_result = read_runs(folder, metric="loss")
    for result in folder.rglob("result.json"):
        result.unlink()
    for events in folder.rglob("events*"):
        events.unlink()
    without = read_runs(folder, metric="loss")
    assert with_result.runs == without.runs
    np.testing.assert_array_equal(with_result.y, without.y)
    assert with_result.column("config.lr").to_list() == without.column("config.lr").to_list() == [0.1, 0.2]


def test_stores_are_not_written_to(copied: Callable[[str], Path]) -> None:
    for fixture in ("mlflow_sqlite", "optuna", "trackio"):
        folder = copied(fixture)
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        list_runs(folder)
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_detection_does_not_need_the_ending(tmp_path: Path) -> None:
    for k, source in enumerate(
        [
            *DATA.glob("wandb/run-first.wandb"),
            *DATA.glob("optuna/*.db"),
            *DATA.glob("columnar/*.parquet"),
            *DATA.glob("keras/*.csv"),
            *DATA.glob("tensorboardx/*"),
            DATA / "huggingface" / "model" / "checkpoint-12" / "trainer_state.json",
        ]
    ):
        nameless = tmp_path / f"file{k}"
        shutil.copy(source, nameless)
        want = {m for run in list_runs(source).runs for m in run.metrics}
        assert {m for run in list_runs(nameless).runs for m in run.metrics} == want
