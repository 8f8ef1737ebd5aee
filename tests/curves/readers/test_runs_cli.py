"""`farfield runs list` and `read`, and the output that every table-printing command shares."""

from __future__ import annotations

import io
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from farfield.cli import main
from farfield.cli.output import MOST_ROWS, cell, emit, format_of, json_text
from farfield.curves.readers import read_runs
from farfield.errors import InputError

DATA = Path(__file__).parent / "data"


def run(capfd: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    out, err = capfd.readouterr()
    return code, out, err


def test_list_for_people(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "runs", "list", DATA / "tensorboard")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[:6] == ["run", "metric", "status", "n", "x_last", "last"]
    assert "n_overlap" in lines[0]
    assert any(line.startswith("restarted") and "loss" in line for line in lines)
    assert lines[-1].startswith("5 runs (")
    assert "2 restarted, superseded points left out" in lines[-1]


def test_list_for_programs(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "runs", "list", DATA / "tensorboard", "--json")
    rows = json.loads(out)
    assert code == 0
    assert {"run", "metric", "goal", "n", "x_first", "x_last", "status", "n_overlap", "source"} <= set(rows[0])
    code, out, _ = run(capfd, "runs", "list", DATA / "tensorboard", "--csv")
    assert pl.read_csv(io.StringIO(out)).height == len(rows)
    code, out, _ = run(capfd, "runs", "list", DATA / "tensorboard", "--all", "--json")
    assert len(json.loads(out)) > len(rows)  # the learning rate too


@pytest.mark.parametrize("ending", ["parquet", "csv", "json"])
def test_read_writes_what_reads_back(ending: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"curves.{ending}"
    code, out, err = run(capfd, "runs", "read", DATA / "wandb", "--metric", "val/loss", "-o", file)
    assert (code, out, err) == (0, "", "")
    first, second = read_runs(DATA / "wandb", metric="val/loss"), read_runs(file, metric="val/loss")
    assert first.runs == second.runs
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_allclose(first.y, second.y, rtol=1e-15)
    np.testing.assert_allclose(first.covariates["time"], second.covariates["time"], rtol=1e-15)
    for column in ("status", "seed", "group", "planned_end", "config.lr", "config.optimizer.name"):
        assert first.column(column).to_list() == second.column(column).to_list(), column


def test_read_for_people_shows_ends(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "runs", "read", DATA / "keras", "--metric", "val_loss")
    assert code == 0
    assert out.splitlines()[0].split() == ["run", "n", "epoch", "from", "to", "last", "status"]
    assert out.splitlines()[1].split()[:4] == ["small", "5", "0", "4"]


def test_an_ambiguous_metric_exits_2_with_a_command_that_works(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "runs", "read", DATA / "keras", "--json")
    assert (code, out) == (2, "")
    command = shlex.split(err.splitlines()[-1])
    assert command[:3] == ["farfield", "runs", "read"]
    code, out, err = run(capfd, *command[1:], "--goal", "min", "--json")
    assert code == 0
    assert len(json.loads(out)) == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["runs", "read", "nowhere"], "no such file or folder: nowhere"),
        (["runs", "read", str(DATA / "keras"), "--metric", "val_los"], "nearest: val_loss"),
        (["runs", "read", str(DATA / "keras"), "--metric", "loss", "--x", "epok"], "nearest: epoch"),
        (["runs", "read", str(DATA / "keras"), "--metric", "loss", "-o", "x.docx"], "allowed: .json, .csv, .parquet"),
        (["runs", "read", str(DATA / "keras"), "--metric", "loss", "--json", "--csv"], "choose one"),
        (["runs", "read", str(DATA / "optuna"), "--run", "trail"], "unknown run 'trail'"),
        (["runs", "lst", "."], "unknown command 'lst'; allowed: list, read"),
    ],
)
def test_bad_usage_exits_2(argv: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_standard_input() -> None:
    command = [sys.executable, "-m", "farfield", "runs", "read", "-", "--csv"]
    done = subprocess.run(command, input=b"step,loss\n0,2.0\n1,1.0\n", capture_output=True, check=True)
    assert pl.read_csv(done.stdout)["loss"].to_list() == [2, 1]
    done = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert done.returncode == 2
    assert b"empty file" in done.stderr


def test_what_was_left_out_is_noted_unless_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("step,loss\n0,2.0\n1,1.0\n")
    (tmp_path / "b.csv").write_text("step,acc\n0,0.2\n1,0.1\n")
    argv = ["runs", "read", tmp_path, "--metric", "loss"]
    assert "note: 1 of 2 runs have no 'loss'" in run(capfd, *argv)[2]
    assert run(capfd, *argv, "--quiet")[2] == ""


def test_a_kill_while_writing_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("old\n")
    source = tmp_path / "in.parquet"
    pl.DataFrame({"step": np.arange(200_000), "loss": np.ones(200_000)}).write_parquet(source)
    for delay in (0.3, 0.5, 0.6, 0.7):
        process = subprocess.Popen([sys.executable, "-m", "farfield", "runs", "read", str(source), "-o", str(out)])
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        text = out.read_text()
        assert text == "old\n" or text.count("\n") == 200_001


# -- shared output ----------------------------------------------------------------------------------------------------------


def test_json_has_null_for_what_is_not_finite() -> None:
    assert json.loads(json_text({"a": [1.0, float("nan"), float("inf")], "b": (2, None)})) == {
        "a": [1.0, None, None],
        "b": [2, None],
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (1234567.0, "1234567"),
        (0.123456789, "0.12346"),
        (1e-9, "1e-09"),
        (True, "yes"),
        (float("nan"), "nan"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_formats_from_options_and_endings() -> None:
    assert format_of(False, False, None) == "table"
    assert format_of(True, False, "x.csv") == "json"
    assert format_of(False, False, "x.PARQUET") == "parquet"
    assert format_of(False, False, "/dev/null") == "table"
    with pytest.raises(InputError, match=r"x\.xlsx"):
        format_of(False, False, "x.xlsx")


def test_long_tables_are_cut_on_standard_output_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"a": i} for i in range(MOST_ROWS + 5)]
    emit(rows, "table")
    assert f"the first {MOST_ROWS} of {MOST_ROWS + 5} rows" in capfd.readouterr().out
    emit(rows, "table", str(tmp_path / "t.txt"))
    assert len((tmp_path / "t.txt").read_text().splitlines()) == MOST_ROWS + 6


def test_markup_in_names_is_not_interpreted(capfd: pytest.CaptureFixture[str]) -> None:
    emit([{"run": "[red]x[/red]", "n": 1}], "table", title="[b]t[/b]")
    out = capfd.readouterr().out
    assert "[red]x[/red]" in out
    assert "[b]t[/b]" in out
