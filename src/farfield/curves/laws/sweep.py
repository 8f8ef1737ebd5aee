"""A sweep from a table: its columns as numbers, one row a finished run, and no points from the middle of runs by accident.

A run's loss before its learning rate has decayed lies above the law of finished runs, and many points of one run are not many runs.
So a table in which runs have several rows, or whose status says that some have not finished, is refused until told what to do.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farfield import checks
from farfield.curves.readers.delimited import POLARS_ERRORS, load, refuse_packed
from farfield.errors import FormatError, InputError, unknown_name
from farfield.wording import count

MidRun = Literal["refuse", "last", "keep"]
_RUN_COLUMNS = ("run", "run_name", "run_id", "name")
_SCHEDULE_COLUMNS = ("schedule", "lr_schedule", "config.schedule")


def read_table(path: str) -> pl.DataFrame:
    """A CSV, TSV or Parquet file, or ``-`` for CSV on standard input."""
    if path == "-":
        data = sys.stdin.buffer.read()
    else:
        file = Path(path)
        if not file.is_file():
            raise InputError(f"{path}: there is no such file; give a table of finished runs (.csv, .tsv, .parquet)")
        data = file.read_bytes()
    refuse_packed(data, path, "farfield scale - ...")
    if not data.startswith(b"PAR1"):
        return load(data, path)
    try:
        return pl.read_parquet(io.BytesIO(data))
    except POLARS_ERRORS as error:
        raise FormatError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0][:160]}") from None


def choose_rows(frame: pl.DataFrame, tokens: str, run: str | None, mid_run: MidRun) -> tuple[pl.DataFrame, str | None, list[str]]:
    """The rows to fit, the column of runs (None where there is none), and what a reader must know.

    Parameters
    ----------
    tokens : the column that tells how far a row's run had come
    run : the column of runs; by default one named run, run_name, run_id or name
    mid_run : ``refuse`` tables with points from the middle of runs, keep each run's ``last`` row if finished, or ``keep`` all

    Raises InputError as above.
    """
    checks.choice("mid_run", mid_run, ("refuse", "last", "keep"))
    said = []
    if run is None:
        run = next((c for c in _RUN_COLUMNS if c in frame.columns), None)
    elif run not in frame.columns:
        raise unknown_name("column", run, frame.columns)
    several = 0 if run is None else int((frame[run].value_counts()["count"] > 1).sum())
    unfinished = frame["status"] != "finished" if "status" in frame.columns and "finished" in frame["status"].to_list() else None
    open_ = 0 if unfinished is None else int(unfinished.fill_null(True).sum())
    if several or open_:
        what = " and ".join(
            [f"{count(several, 'run')} with several rows"] * bool(several)
            + [f"{count(open_, 'row')} of runs not finished"] * bool(open_)
        )
        if mid_run == "refuse":
            raise InputError(
                f"{what}: points from the middle of runs lie above the law of finished ones. Say --mid-run last (the last row of "
                "each finished run) or --mid-run keep (all rows, runs resampled as wholes)"
            )
        before = frame.height
        if mid_run == "last":
            frame = frame if unfinished is None else frame.filter(~unfinished.fill_null(True))
            frame = frame if run is None else frame.sort(tokens, maintain_order=True).unique(run, keep="last", maintain_order=True)
            said.append(f"{what}: {before - frame.height} of {before} rows left out, the last row of each finished run kept")
        else:
            said.append(f"{what}, and all rows are kept: the law mixes points before and after the decay of the learning rate")
    for column in _SCHEDULE_COLUMNS:
        if column in frame.columns and frame[column].n_unique() > 1:
            said.append(f"{column} takes {frame[column].n_unique()} values; runs under different schedules do not share one law")
    return frame, run, said


def numbers(frame: pl.DataFrame, columns: Sequence[str]) -> tuple[pl.DataFrame, dict[str, NDArray[np.float64]], list[str]]:
    """The named columns as float64, rows in which one of them is missing left out and counted."""
    for name in columns:
        if name not in frame.columns:
            raise unknown_name("column", name, frame.columns)
        if not frame[name].dtype.is_numeric() and frame[name].null_count() < frame.height:
            raise InputError(f"column {name!r} holds text such as {frame[name].drop_nulls().head(1).to_list()}; allowed: numbers")
    whole = frame.drop_nulls(list(columns))
    said = [f"{frame.height - whole.height} of {frame.height} rows lack a value and are left out"] * (whole.height < frame.height)
    if not whole.height:
        raise InputError(f"no row of {frame.height} has a value in each of {', '.join(columns)}")
    return whole, {name: whole[name].cast(pl.Float64).to_numpy() for name in columns}, said
