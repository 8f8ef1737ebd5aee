"""Data frames and columnar files: pandas, polars, pyarrow through narwhals; Parquet and Arrow files through polars."""

from __future__ import annotations

import io
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl

from farfield.curves.readers import tables
from farfield.curves.readers.delimited import POLARS_ERRORS
from farfield.curves.readers.record import RunLog, Where
from farfield.errors import FormatError, InputError

FRAME_ERRORS: tuple[type[BaseException], ...] = (TypeError, *POLARS_ERRORS)
PARQUET_MAGIC, ARROW_MAGIC = b"PAR1", b"ARROW1"


def read_frame(data: Any, where: Where, **options: Any) -> list[RunLog]:
    """The runs in a data frame of any library that narwhals knows.

    In pandas, where NaN also stands for "nothing here", NaN counts as logged only in a row in which no metric is a number.

    Raises
    ------
    InputError : not a data frame
    """
    try:
        frame = nw.from_native(data, eager_only=True)
    except TypeError:
        raise InputError(
            f"paths is a {type(data).__name__}; allowed: a path, several paths, '-', or a pandas, polars or pyarrow frame"
        ) from None
    columns = {str(name): _column(str(name), frame[name]) for name in frame.columns}
    index = nw.maybe_get_index(frame)
    label = getattr(index, "name", None)
    if index is not None and label is not None and str(label) not in columns:
        columns = {str(label): pl.Series(str(label), index.tolist(), strict=False), **columns}
    return tables.read_table(pl.DataFrame(columns), where, nan_is_gap=frame.implementation.is_pandas_like(), **options)


def _column(name: str, column: nw.Series[Any]) -> pl.Series:
    if column.dtype.is_numeric() and not column.is_null().any():
        return pl.Series(name, np.asarray(column.to_numpy()))
    values = column.to_list()
    if column.dtype.is_float():  # pandas: a null here is a NaN
        return pl.Series(name, [None if v is None else float(v) for v in values], dtype=pl.Float64)
    try:
        return pl.Series(name, values, strict=False)
    except FRAME_ERRORS:
        return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)


def read_columnar(data: bytes, where: Where, **options: Any) -> list[RunLog]:
    """The runs in the bytes of a Parquet or Arrow IPC file.

    Raises
    ------
    FormatError : damaged
    """
    parquet = data.startswith(PARQUET_MAGIC)
    if not data.endswith(PARQUET_MAGIC if parquet else ARROW_MAGIC) or len(data) < 12:
        raise FormatError(
            f"{where.path}: Parquet or Arrow file is cut off (its end mark is missing); copy it again from its source"
        )
    if parquet and int.from_bytes(data[-8:-4], "little") > len(data) - 12:
        raise FormatError(f"{where.path}: damaged Parquet file: its footer is longer than the file")
    load = pl.read_parquet if parquet else pl.read_ipc
    try:
        frame = load(io.BytesIO(data))
    except POLARS_ERRORS as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise FormatError(f"{where.path}: damaged Parquet or Arrow file: {reason}") from None
    return tables.read_table(frame, where, **options)
