"""Choosing a metric, a goal, runs: nothing is guessed between several answers, and every refusal holds the way out."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from farfield.curves.readers import list_runs, names, read_runs
from farfield.errors import InputError


def frame(**columns: list[object]) -> pl.DataFrame:
    return pl.DataFrame({"step": [0, 1, 2], **columns})


@pytest.mark.parametrize(
    ("name", "goal"),
    [
        ("loss", "min"),
        ("val/loss", "min"),
        ("eval_perplexity", "min"),
        ("test-error", "min"),
        ("top1_error", "min"),
        ("valCrossEntropy", "min"),
        ("cross_entropy_loss", "min"),
        ("wer", "min"),
        ("val_acc", "max"),
        ("top1", "max"),
        ("eval/f1", "max"),
        ("roc_auc", "max"),
        ("bleu", "max"),
        ("episode_reward", "max"),
        ("log_likelihood", "max"),
        ("neg_log_likelihood", "min"),
        ("neg_mean_squared_error", "max"),
        ("value", None),
        ("score", None),
        ("glossary", None),
    ],
)
def test_goal_from_the_name(name: str, goal: str | None) -> None:
    assert names.goal(name) == goal


def test_negated_error_is_maximised() -> None:
    assert names.goal("neg_mse") == "max"


@pytest.mark.parametrize(
    ("name", "values", "bounds"),
    [
        ("val_acc", [0.1, 0.9], (0, 1)),
        ("val_acc", [10.0, 90.0], (-np.inf, np.inf)),
        ("loss", [0.5, 3.0], (0, np.inf)),
        ("loss", [-0.5, 3.0], (-np.inf, np.inf)),
        ("reward", [0.1, 0.9], (-np.inf, np.inf)),
        ("roc_auc", [0.5, 0.9], (0, 1)),
        ("neg_mse", [-1.0, -0.1], (-np.inf, np.inf)),
        ("accuracy_loss", [0.1, 0.9], (0, np.inf)),
    ],
)
def test_bounds_from_name_and_values(name: str, values: list[float], bounds: tuple[float, float]) -> None:
    assert names.bounds(name, np.array(values)) == bounds


@pytest.mark.parametrize(
    "name",
    [
        "lr",
        "train/lr",
        "lr-Adam",
        "learning_rate",
        "grad_norm",
        "train/grad_norm",
        "epoch",
        "_runtime",
        "eval_samples_per_second",
        "system/gpu.0.powerWatts",
        "train/global_step",
        "tokens_seen",
        "time_total_s",
        "num_input_tokens_seen",
        "total_flos",
    ],
)
def test_housekeeping(name: str) -> None:
    assert names.is_housekeeping(name)


@pytest.mark.parametrize(
    "name", ["loss", "val/acc", "lr_0.1/val_loss", "reward", "speed_error", "bleu", "my_metric", "train/entropy"]
)
def test_metrics_are_not_housekeeping(name: str) -> None:
    assert not names.is_housekeeping(name)


def test_a_sole_metric_needs_no_name() -> None:
    table = frame(loss=[3.0, 2.0, 1.0], lr=[0.1, 0.2, 0.3], epoch=[0, 0, 1], grad_norm=[1.0, 2.0, 1.0])
    assert read_runs(table).metric.name == "loss"


def test_several_metrics_are_refused_with_a_command(tmp_path: Path) -> None:
    file = tmp_path / "my run.csv"
    frame(train_loss=[3.0, 2.0, 1.0], val_loss=[4.0, 3.0, 2.0]).write_csv(file)
    with pytest.raises(InputError, match="2 metrics were logged: train_loss, val_loss") as caught:
        read_runs(file)
    command = shlex.split(str(caught.value).splitlines()[-1])
    assert command == ["farfield", "runs", "read", str(file), "--metric", "val_loss"]


def test_unknown_goal_is_refused_with_both_commands() -> None:
    with pytest.raises(InputError, match="--goal min") as caught:
        read_runs(frame(score=[1.0, 2.0, 3.0]))
    assert "--goal max" in str(caught.value)
    assert read_runs(frame(score=[1.0, 2.0, 3.0]), goal="max").metric.goal == "max"
    with pytest.raises(InputError, match="allowed: 'min', 'max'"):
        read_runs(frame(score=[1.0, 2.0, 3.0]), goal="up")  # type: ignore[arg-type]


def test_unknown_metric_answers_with_the_nearest() -> None:
    table = frame(train_loss=[3.0, 2.0, 1.0], val_loss=[4.0, 3.0, 2.0], acc=[0.0, 0.1, 0.2], f1=[0.0, 0.1, 0.2])
    with pytest.raises(InputError, match="unknown metric 'val_los'; nearest: val_loss"):
        read_runs(table, metric="val_los")


def test_runs_by_name_and_pattern() -> None:
    table = pl.DataFrame({"run": ["adam-1", "adam-2", "sgd-1"], "step": [0, 0, 0], "loss": [1.0, 2.0, 3.0]})
    assert read_runs(table, runs="adam-*").runs == ("adam-1", "adam-2")
    assert read_runs(table, runs=["sgd-1", "adam-2"]).runs == ("adam-2", "sgd-1")
    with pytest.raises(InputError, match="unknown run 'sgd'"):
        read_runs(table, runs="sgd")


def test_seed_siblings_are_a_group() -> None:
    rows = [
        {"run": f"{lr}-{seed}", "step": s, "loss": 1.0 / (s + 1), "config.lr": lr, "seed": seed}
        for lr in (0.1, 0.2)
        for seed in (0, 1)
        for s in range(3)
    ]
    groups = read_runs(pl.DataFrame(rows)).column("group").to_list()
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert None not in groups


def test_sweep_folders_are_groups_only_if_there_are_several(tmp_path: Path) -> None:
    for sweep in ("one", "two"):
        for run in ("a", "b"):
            (tmp_path / sweep / run).mkdir(parents=True)
            frame(loss=[3.0, 2.0, 1.0]).write_csv(tmp_path / sweep / run / "metrics.csv")
    curves = read_runs(tmp_path)
    assert curves.runs == ("one/a", "one/b", "two/a", "two/b")
    assert curves.column("group").to_list() == ["one", "one", "two", "two"]
    assert read_runs(tmp_path / "one").column("group").to_list() == [None, None]


def test_units_of_x_must_agree_or_be_chosen(tmp_path: Path) -> None:
    frame(loss=[3.0, 2.0, 1.0], epoch=[0, 1, 2]).write_csv(tmp_path / "by_step.csv")
    pl.DataFrame({"epoch": [0, 1, 2], "loss": [3.0, 2.0, 1.0]}).write_csv(tmp_path / "by_epoch.csv")
    with pytest.raises(InputError, match=r"different units \(epoch, step\)(.|\n)*--x epoch"):
        read_runs(tmp_path)
    assert read_runs(tmp_path, x="epoch").x.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(InputError, match="not logged by 1 of 2 runs"):
        read_runs(tmp_path, x="step")


def test_planned_end_only_in_units_of_x() -> None:
    table = frame(loss=[3.0, 2.0, 1.0], epoch=[0.5, 1.0, 1.5])
    table = table.with_columns(**{"config.max_epochs": pl.lit(10), "config.trainer.max_steps": pl.lit(3)})
    curves = read_runs(table)
    assert curves.column("planned_end").to_list() == [3]
    assert curves.column("status").to_list() == ["unknown"]
    assert read_runs(table, x="epoch").column("planned_end").to_list() == [10]


def test_finished_when_within_one_interval_of_the_planned_end() -> None:
    table = pl.DataFrame({"step": [9, 19, 29], "loss": [3.0, 2.0, 1.0], "config.max_steps": [30, 30, 30]})
    assert read_runs(table).column("status").to_list() == ["finished"]


def test_runs_without_the_metric_are_left_out_and_named(tmp_path: Path) -> None:
    frame(loss=[3.0, 2.0, 1.0]).write_csv(tmp_path / "a.csv")
    frame(acc=[0.3, 0.2, 0.1]).write_csv(tmp_path / "b.csv")
    with pytest.warns(UserWarning, match="1 of 2 runs have no 'loss' and are left out: b"):
        curves = read_runs(tmp_path, metric="loss")
    assert curves.runs == ("a",)


def test_a_table_of_runs_can_be_read_from() -> None:
    table = list_runs(frame(loss=[3.0, 2.0, 1.0], acc=[0.1, 0.2, 0.3]))
    assert repr(table) == "RunTable(1 run, 2 metrics, 0 unreadable files)"
    assert read_runs(table, metric="acc").y.tolist() == [0.1, 0.2, 0.3]
    assert table.to_dict()["runs"][0]["metric"] == "loss"
    assert {row["metric"] for row in table.rows(every_column=True)} == {"loss", "acc"}


def test_several_paths_are_told_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        frame(loss=[3.0, 2.0, 1.0]).write_csv(tmp_path / name / "metrics.csv")
    assert read_runs([tmp_path / "x", tmp_path / "y"]).runs == ("x", "y")
    assert read_runs([tmp_path / "x" / "metrics.csv", tmp_path / "y" / "metrics.csv"]).runs == ("x", "y")
    assert len(set(read_runs([tmp_path / "x", tmp_path / "x"]).runs)) == 2
