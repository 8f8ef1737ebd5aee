"""JSON logs: lines of objects, an array of objects, lists by name, Ray's `result.json`, Hugging Face's `trainer_state.json`.

Nested names are joined by slashes. NaN and Infinity are accepted bare and quoted; of a repeated key the last value counts. A
last line that is cut off belongs to a file that is still being written. In a `trainer_state.json` rows of training and
evaluation alternate in `log_history`, at their own steps; `max_steps` and `num_train_epochs` stand beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from farfield.curves.readers import tables
from farfield.curves.readers.record import PointLog, RunLog, Where, as_number, config_of, flatten, storable
from farfield.errors import FormatError, InputError

CONFIG_KEYS = ("config", "hparams", "params", "args", "hyperparameters")


def read_json(data: bytes, where: Where, **options: Any) -> list[RunLog]:
    """The runs in a JSON document or in lines of JSON; `options` as in :func:`farfield.curves.readers.tables.read_table`.

    Raises
    ------
    FormatError : not JSON, or JSON of another shape than the ones above
    """
    document = parse(data, where.path)
    if isinstance(document, dict) and isinstance(document.get("log_history"), list):
        return [_trainer_state(document, where)]
    if isinstance(document, dict):
        lists = {k: v for k, v in document.items() if isinstance(v, list) and v}
        if lists and len({len(v) for v in lists.values()}) == 1 and all(as_number(v[0]) is not None for v in lists.values()):
            document = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        else:
            document = [document]
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise FormatError(
            f"{where.path}: JSON of a shape that holds no run; allowed: objects one a line, an array of objects, lists by name"
        )
    return _rows(document, where, options)


def parse(data: bytes, path: str) -> Any:
    """The whole text as one JSON value, else its lines as a list.

    Raises
    ------
    FormatError : neither
    """
    text = data.decode("utf-8-sig", errors="replace").strip()
    if not text:
        raise FormatError(f"{path}: empty file")
    lines = text.split("\n")
    if len(lines) == 1 or not is_object(lines[0]):
        try:
            return json.loads(text)
        except RecursionError:
            raise FormatError(f"{path}: JSON nested too deeply to be a log") from None
        except ValueError as error:
            if text[0] != "{" or not is_object(lines[0]):
                raise FormatError(f"{path}: not JSON: {str(error)[:120]}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines) and rows and not data.endswith(b"\n"):
                break
            raise FormatError(f"{path}: line {number} is not JSON: {str(error)[:120]}") from None
    return rows


def is_object(line: str) -> bool:
    """Whether a line is a JSON object of its own."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as column -> cell; a nested configuration becomes columns of settings."""
    plain = dict(row)
    for key in CONFIG_KEYS:
        if isinstance(plain.get(key), dict):
            plain |= {f"config/{name}": value for name, value in config_of(plain.pop(key)).items()}
    if len(plain) < 1000 and all(key and key.isascii() and not isinstance(value, dict) for key, value in plain.items()):
        return plain  # flat already
    return flatten(plain, "/")


def _rows(rows: list[dict[str, Any]], where: Where, options: Mapping[str, Any]) -> list[RunLog]:
    """Objects as a wide or long table; a nested configuration in a row becomes columns of that run."""
    columns: dict[str, list[Any]] = {}
    for i, row in enumerate(rows):
        for key, value in flat(row).items():
            column = columns.get(key)
            if column is None:
                column = columns[key] = [None] * len(rows)
            column[i] = value
    series = [made for key, column in columns.items() if (made := _column(key, column)) is not None]
    if not series:
        raise InputError(f"{where.path}: no number in any of its {len(rows)} rows")
    frame = pl.DataFrame(series)
    config = [c for c in frame.columns if c.startswith("config/")]
    frame = frame.with_columns(pl.col(config).forward_fill().backward_fill()) if config else frame
    return tables.read_table(frame, where, **options)


def _column(name: str, values: list[Any]) -> pl.Series | None:
    present = [v for v in values if v is not None]
    if not present or any(isinstance(v, list | dict) for v in present):
        return None
    if all(isinstance(v, bool) for v in present):
        return pl.Series(name, values, dtype=pl.Boolean)
    if all(isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**62 for v in present):
        return pl.Series(name, values, dtype=pl.Int64)
    found = [as_number(v) for v in values]
    if all(n is not None or v is None for n, v in zip(found, values, strict=True)):
        return pl.Series(name, found, dtype=pl.Float64)
    return pl.Series(name, [None if v is None else storable(str(v)) for v in values], dtype=pl.String)


def _trainer_state(state: dict[str, Any], where: Where) -> RunLog:
    points = PointLog()
    last = 0.0
    for row in state["log_history"]:
        if not isinstance(row, dict):
            raise FormatError(f"{where.path}: log_history must hold objects, got {type(row).__name__}")
        step = as_number(row.get("step"))
        at = float("nan") if step is None else step
        last = max(last, at)
        for key, value in flatten({k: v for k, v in row.items() if k != "step"}, "/").items():
            number = as_number(value)
            if number is not None:
                points.add(key, at, number)
    config = config_of(state.get("trial_params") or {})
    for key in ("max_steps", "num_train_epochs", "train_batch_size"):
        number = as_number(state.get(key))
        if number is not None:
            config.setdefault(key, int(number) if number.is_integer() and abs(number) < 2**53 else number)
    planned = as_number(state.get("max_steps"))
    reached = as_number(state.get("global_step")) or last
    status = "finished" if planned and 0 < planned <= reached else "unknown"
    return RunLog(where.name, where.path, points.series(), config=config, folder=where.folder, status=status)
