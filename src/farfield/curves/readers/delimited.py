"""CSV and TSV text: find the delimiter, load the columns, hand the table on.

Lightning's `metrics.csv`, Keras' CSVLogger, Ray's `progress.csv`, TensorBoard's and W&B's downloads and any table of one's own
are all read here; what their columns mean is decided in :mod:`farfield.curves.readers.tables`.
"""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import polars as pl

from farfield.curves.readers import tables
from farfield.curves.readers.record import RunLog, Where
from farfield.errors import FormatError

_TENSORBOARD_DOWNLOAD = ["Wall time", "Step", "Value"]
_DOWNLOAD_NAME = re.compile(r"^run-(?P<run>.+?)-tag-(?P<tag>.+)$")
_DELIMITERS = (",", "\t", ";", "|")
_MISSING = [m for m in tables.MISSING if m]
_PACKED = {
    b"\x1f\x8b": ("gzip", "zcat"),
    b"BZh": ("bzip2", "bzcat"),
    b"\xfd7zXZ\x00": ("xz", "xzcat"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstdcat"),
    b"PK\x03\x04": ("zip", "unzip -p"),
}
_LOSSY = "the file is not UTF-8: what cannot be read shows as \ufffd; save it as UTF-8"
_NUMBER = re.compile(rb"^\s*\"?[-+]?(\d|\.\d|nan|inf)", re.IGNORECASE)
POLARS_ERRORS: tuple[type[BaseException], ...] = (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, OSError)


def refuse_packed(data: bytes, path: str, command: str) -> None:
    """Raise FormatError for a compressed file; it says how to hand its content to `command`."""
    for magic, (name, tool) in _PACKED.items():
        if data.startswith(magic):
            raise FormatError(f"{path}: compressed with {name}; unpack it, for example: {tool} {path} | {command}")


def delimiter(head: bytes) -> str | None:
    """The delimiter of a header row in `head`, or None if the text does not look like a table with numbers in it."""
    lines = [line for line in head.splitlines()[:6] if line.strip()]
    if not lines:
        return None
    best = max(_DELIMITERS, key=lambda d: lines[0].count(d.encode()))
    width = lines[0].count(best.encode())
    if width == 0:
        return None
    whole = lines[1:] if len(lines) < 3 else lines[1:-1]
    if any(abs(line.count(best.encode()) - width) > (b'"' in line) * width for line in whole):
        return None
    cells = [cell for line in lines[1:] for cell in line.split(best.encode())]
    if lines[1:] and not any(_NUMBER.match(cell) for cell in cells):
        return None
    return best


def read_delimited(data: bytes, where: Where, **options: Any) -> list[RunLog]:
    """The runs in a CSV or TSV; `options` as in :func:`farfield.curves.readers.tables.read_table`.

    Raises
    ------
    FormatError : not a table
    InputError : a table without rows or without numbers
    """
    frame = load(data, where.path)
    if frame.columns == _TENSORBOARD_DOWNLOAD:
        # TensorBoard's "download as CSV" says run and metric in the file's name alone
        stem = Path(where.path).stem
        name = _DOWNLOAD_NAME.match(stem)
        frame = frame.rename({"Value": name["tag"] if name else stem, "Wall time": "timestamp"})
        where = dataclasses.replace(where, name=name["run"]) if name and name["run"] != "." else where
    runs = tables.read_table(frame, where, **options)
    return runs if _is_utf8(data) else [dataclasses.replace(run, notes=(*run.notes, _LOSSY)) for run in runs]


def _is_utf8(data: bytes) -> bool:
    try:
        data[: data.rfind(b"\n") + 1].decode("utf-8")  # a last line still being written may end within a character
    except UnicodeDecodeError:
        return False
    return True


def load(data: bytes, path: str) -> pl.DataFrame:
    """Text as a frame: columns typed by their first rows, as text throughout where those mislead."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise FormatError(f"{path}: empty file; a table begins with a header row")
    first = data.lstrip().split(b"\n", 1)[0]
    separator = delimiter(data[:65536]) or max(_DELIMITERS, key=lambda d: first.count(d.encode()))
    data = _whole_lines(data, separator.encode())
    typed = {"infer_schema_length": 1000}
    for schema in (typed, {"infer_schema": False}):
        try:
            frame = pl.read_csv(
                io.BytesIO(data), separator=separator, null_values=_MISSING, encoding="utf8-lossy", raise_if_empty=False, **schema
            )
        except POLARS_ERRORS as error:
            if schema is typed:
                continue
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            raise FormatError(f"{path}: cannot be read as a table with delimiter {separator!r}: {reason}") from None
        return frame.rename(str.strip) if len({c.strip() for c in frame.columns}) == frame.width else frame
    raise AssertionError("unreachable")  # pragma: no cover


def _whole_lines(data: bytes, separator: bytes) -> bytes:
    """Without a last line that has no end and too few fields: one that is still being written."""
    if data.endswith(b"\n"):
        return data
    body, newline, last = data.rpartition(b"\n")
    if newline and b'"' not in last and last.count(separator) < data.split(b"\n", 1)[0].count(separator):
        return body + newline
    return data
