"""Tables: wide, long, several runs, W&B's export, gaps, mixed types, frames of every library."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from farfield.curves.readers import ReadWarning, list_runs, read_runs
from farfield.errors import InputError

_COLUMNS = [f"{run} - val/loss{end}" for run in ("fast-1", "a - b") for end in ("", "__MIN", "__MAX")]
EXPORT = (
    ",".join(f'"{name}"' for name in ("Step", *_COLUMNS))
    + """
"0","1.0","1.0","1.0","2.0","2.0","2.0"
"10","0.5","0.5","0.5","","",""
"20","","","","1.0","1.0","1.0"
"30","NaN","NaN","NaN","0.9","0.9","0.9"
"""
)


def written(tmp_path: Path, text: str, name: str = "table.csv") -> Path:
    file = tmp_path / name
    file.write_text(text)
    return file


def test_wide_csv_with_gaps(tmp_path: Path) -> None:
    file = written(tmp_path, "step,train_loss,val_loss\n0,1.0,\n1,0.9,0.95\n2,0.8,\n3,0.7,0.75\n")
    curves = read_runs(file, metric="val_loss")
    assert curves.x.tolist() == [1, 3]
    assert curves.runs == ("table",)
    assert curves.metric.goal == "min"
    assert curves.metric.lower == 0


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_delimiters(separator: str, tmp_path: Path) -> None:
    file = written(tmp_path, "step,loss\n0,1.5\n1,0.5\n2,0.25\n".replace(",", separator))
    assert read_runs(file).y.tolist() == [1.5, 0.5, 0.25]


def test_long_table_of_several_runs(tmp_path: Path) -> None:
    rows = [f"{r},{s},{m},{v}" for r, v in (("a", 1.0), ("b", 2.0)) for s in (0, 1) for m in ("loss", "acc")]
    file = written(tmp_path, "run,step,metric,value\n" + "\n".join(rows) + "\n")
    curves = read_runs(file, metric="loss")
    assert curves.runs == ("a", "b")
    assert curves.y.tolist() == [1, 1, 2, 2]
    assert list_runs(file).metrics == ["loss", "acc"]


@pytest.mark.parametrize("column", ["run", "trial_id", "name", "Run Name"])
def test_a_column_that_tells_runs_apart(column: str, tmp_path: Path) -> None:
    file = written(tmp_path, f"{column},step,loss,lr,seed\nx,0,1,0.1,1\nx,1,0.5,0.1,1\ny,0,2,0.2,2\ny,1,1,0.2,2\n")
    curves = read_runs(file)
    assert curves.runs == ("x", "y")
    assert curves.column("config.lr").to_list() == [0.1, 0.2]
    assert curves.column("seed").to_list() == [1, 2]


def test_run_column_by_hand(tmp_path: Path) -> None:
    file = written(tmp_path, "flavour,step,loss\nx,0,1\nx,1,0.5\ny,0,2\ny,1,1\n")
    assert read_runs(file, run_column="flavour").runs == ("x", "y")
    with pytest.raises(InputError, match=r"unknown column 'flavor'.*flavour"):
        read_runs(file, run_column="flavor")


def test_wandb_export(tmp_path: Path) -> None:
    curves = read_runs(written(tmp_path, EXPORT))
    assert curves.runs == ("fast-1", "a - b")
    assert curves.metric.name == "val/loss"
    assert curves.x[curves.points(0)].tolist() == [0, 10]
    assert curves.x[curves.points(1)].tolist() == [0, 20, 30]
    assert curves.column("n_nonfinite").to_list() == [1, 0]
    assert curves.column("status").to_list() == ["diverged", "unknown"]


def test_wandb_export_through_pandas_has_gaps_not_nans(tmp_path: Path) -> None:
    curves = read_runs(pd.read_csv(written(tmp_path, EXPORT)))
    assert curves.column("n_nonfinite").to_list() == [0, 0]
    assert curves.lengths.tolist() == [2, 3]


def test_without_a_step_rows_are_counted(tmp_path: Path) -> None:
    curves = read_runs(written(tmp_path, "loss,acc\n1,0\n0.5,1\n0.2,2\n"), metric="loss")
    assert curves.x_name == "row"
    assert curves.x.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("step,loss\nwarm,3\nup,2\n", "column 'step' holds text such as 'warm', no numbers: the rows are counted"),
        ("step,metric,value\nwarm,loss,3\nup,loss,2\n", "column 'step' holds text such as 'warm', no numbers: the rows"),
        ("step,loss\n1,3\n2,2\nlast,1\n", "column 'step' holds text such as 'last', read as not a number"),
    ],
)
def test_steps_that_are_text_are_told(text: str, note: str, tmp_path: Path) -> None:
    [told] = list_runs(written(tmp_path, text)).runs[0].notes
    assert told.startswith(note)


def test_x_may_be_any_column(tmp_path: Path) -> None:
    file = written(tmp_path, "step,epoch,tokens,flops,loss\n0,0.0,0,1,4\n10,0.5,100,11,3\n20,1.0,200,21,2\n30,1.5,300,31,1\n")
    assert read_runs(file).x_name == "step"
    for x, want in (("epoch", [0, 0.5, 1, 1.5]), ("tokens", [0, 100, 200, 300]), ("flops", [1, 11, 21, 31])):
        curves = read_runs(file, metric="loss", x=x)
        assert curves.x.tolist() == want
        assert curves.x_name == x
    assert read_runs(file).covariates["tokens"].tolist() == [0, 100, 200, 300]
    with pytest.raises(InputError, match=r"unknown x 'token'; nearest: tokens"):
        read_runs(file, x="token")
    with pytest.raises(InputError, match=r"unknown x 'epochs'; allowed: step, loss$"):  # no kind that the log lacks is offered
        read_runs(written(tmp_path, "step,loss\n1,2\n2,1\n", "short.csv"), x="epochs")


def test_covariates_are_the_last_known_before_a_point(tmp_path: Path) -> None:
    file = written(tmp_path, "step,lr,val_loss\n0,,1\n1,0.1,\n2,,0.9\n3,0.2,\n4,0.3,0.8\n")
    lr = read_runs(file).covariates["lr"]
    np.testing.assert_array_equal(lr, [np.nan, 0.1, 0.3])


def test_duplicate_steps_and_restarts_are_counted(tmp_path: Path) -> None:
    rows = [(s, 1.0) for s in range(10)] + [(s, 2.0) for s in range(6, 12)] + [(11, 3.0)]
    file = written(tmp_path, "step,loss\n" + "".join(f"{s},{v}\n" for s, v in rows))
    curves = read_runs(file)
    assert curves.y.tolist() == [1.0] * 6 + [2.0] * 5 + [3.0]
    assert curves.column("n_overlap").to_list() == [4]
    assert curves.column("n_duplicate").to_list() == [1]
    assert list_runs(file).to_frame()["n_overlap"].to_list() == [4]
    assert "1 restarted" in list_runs(file).summary()


def test_text_among_numbers_is_counted_and_told(tmp_path: Path) -> None:
    file = written(tmp_path, "step,loss\n0,1.0\n1,oops\n2,0.5\n3,0.4\n")
    curves = read_runs(file)
    assert curves.x.tolist() == [0, 2, 3]
    assert curves.column("n_nonfinite").to_list() == [1]
    assert "oops" in list_runs(file).runs[0].notes[0]


def test_infinities_one_point_constant_curve(tmp_path: Path) -> None:
    file = written(tmp_path, "run,step,loss\na,0,inf\na,1,1\nb,0,2\nc,0,3\nc,1,3\nc,2,3\n")
    curves = read_runs(file)
    assert curves.lengths.tolist() == [1, 1, 3]
    assert curves.column("n_nonfinite").to_list() == [1, 0, 0]


def test_timestamps_give_seconds_since_the_start(tmp_path: Path) -> None:
    file = written(tmp_path, "step,timestamp,loss\n0,1700000000,3\n1,1700000010,2\n2,1700000030,1\n")
    assert read_runs(file).covariates["time"].tolist() == [0, 10, 30]
    assert read_runs(file, x="time").x.tolist() == [0, 10, 30]
    stamps = [datetime.datetime(2024, 1, 1, 0, 0, s) for s in (0, 10, 30)]
    frame = pl.DataFrame({"step": [0, 1, 2], "timestamp": stamps, "loss": [3.0, 2.0, 1.0]})
    assert read_runs(frame).covariates["time"].tolist() == [0, 10, 30]


def test_dictionary_of_lists(tmp_path: Path) -> None:
    file = written(tmp_path, '{"loss": [3, 2, 1], "val_loss": [4, 3, 2.5]}', "history.json")
    assert read_runs(file, metric="val_loss").y.tolist() == [4, 3, 2.5]


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table])
def test_frames_of_every_library(library: type) -> None:
    frame = library({"run": ["a", "a", "b"], "step": [0, 1, 0], "loss": [1.0, 0.5, 2.0]})
    curves = read_runs(frame)
    assert curves.runs == ("a", "b")
    assert curves.y.tolist() == [1, 0.5, 2]


def test_pandas_gaps_and_logged_nans() -> None:
    frame = pd.DataFrame({"step": range(5), "loss": [3, 2, np.nan, 1, np.nan], "acc": [np.nan, np.nan, 0.5, np.nan, np.nan]})
    curves = read_runs(frame, metric="loss")
    assert curves.x.tolist() == [0, 1, 3]
    assert curves.column("n_nonfinite").to_list() == [1]  # at step 4 nothing was a number; at step 2 only acc was logged
    assert curves.column("status").to_list() == ["diverged"]


def test_pandas_index_that_has_a_name_is_a_column() -> None:
    frame = pd.DataFrame({"loss": [3.0, 2.0]}, index=pd.Index([10, 20], name="step"))
    assert read_runs(frame).x.tolist() == [10, 20]


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(InputError, match="paths is a dict; allowed"):
        read_runs({"loss": [1, 2]})


def test_a_million_rows(tmp_path: Path) -> None:
    n = 1_000_000
    file = tmp_path / "big.csv"
    pl.DataFrame({"step": np.arange(n), "loss": np.linspace(2, 1, n)}).write_csv(file)
    curves = read_runs(file)
    assert curves.x.size == n
    np.testing.assert_allclose(curves.y[[0, -1]], [2, 1])


def test_tensorboard_download(tmp_path: Path) -> None:
    text = "Wall time,Step,Value\n1700000000.5,0,3\n1700000010.5,10,2\n1700000030.5,20,1\n"
    curves = read_runs(written(tmp_path, text, "run-exp_1-tag-val_loss.csv"))
    assert curves.runs == ("exp_1",)
    assert curves.metric.name == "val_loss"
    assert curves.covariates["time"].tolist() == [0, 10, 30]


def test_a_constant_learning_rate_is_configuration_and_covariate(tmp_path: Path) -> None:
    file = written(tmp_path, "run,step,loss,lr\nx,0,1,0.1\nx,1,0.5,0.1\ny,0,2,0.2\ny,1,1,0.2\n")
    curves = read_runs(file)
    assert curves.column("config.lr").to_list() == [0.1, 0.2]
    assert curves.covariates["lr"].tolist() == [0.1, 0.1, 0.2, 0.2]


def test_utf16_and_byte_order_marks(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-8-sig"):
        (tmp_path / "log.csv").write_bytes("step,loss\n0,2\n1,1\n".encode(encoding))
        assert read_runs(tmp_path / "log.csv").y.tolist() == [2, 1]


def test_points_all_at_one_step_are_numbered_and_told(tmp_path: Path) -> None:
    table = list_runs(written(tmp_path, "step,loss\n0,3\n0,2\n0,1\n"))
    with pytest.warns(ReadWarning, match="every point of loss was logged at one step in 1 of 1 runs; they are numbered in order"):
        assert read_runs(table).x.tolist() == [0, 1, 2]
    assert "numbered in order" in table.notes[0]


def test_text_that_is_not_utf8_is_read_and_told(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes("step,Größe,loss\n0,3,2\n1,3,1\n".encode("latin-1"))
    table = list_runs(tmp_path / "log.csv")
    assert read_runs(table, metric="loss").y.tolist() == [2, 1]
    assert "not UTF-8" in table.notes[0]
    (tmp_path / "live.csv").write_bytes("step,loss,note\n0,2,a\n1,1,ö".encode()[:-1])  # cut within the last character
    assert list_runs(tmp_path / "live.csv").notes == []


@pytest.mark.parametrize(
    "stamp", ["2024-01-01T00:00:{:02d}", "2024-01-01 00:00:{:02d}", "2024-01-01T00:00:{:02d}+00:00", "2024-01-01T00:00:{:02d}Z"]
)
def test_times_in_text(stamp: str, tmp_path: Path) -> None:
    rows = "".join(f"{k},{stamp.format(s)},{3 - k}\n" for k, s in enumerate((0, 10, 30)))
    assert read_runs(written(tmp_path, "step,timestamp,loss\n" + rows)).covariates["time"].tolist() == [0, 10, 30]
