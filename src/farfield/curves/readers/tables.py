"""Runs in a table: wide (a column a metric), long (`run, step, metric, value`), or W&B's export (`name - metric` columns).

A table becomes runs in three questions: which column tells runs apart, which gives the position, and what each other column is.
Columns of numbers are series; columns that hold one value throughout each run and name no metric are its configuration. An
empty cell means nothing was logged there; NaN and text in a column of numbers mean something was, and it was not a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from farfield.curves.readers import names
from farfield.curves.readers.record import FloatArray, RunLog, Scalar, Series, Where, as_number, settle
from farfield.errors import FormatError, InputError, unknown_name

SURE_RUN = ("run", "run_name", "run_id", "run_uuid", "trial", "trial_name", "trial_id", "experiment", "exp", "exp_name")
MAYBE_RUN = ("name", "id", "config_id", "model", "job", "job_id")  # only if the values repeat
METRIC_COLUMNS = ("metric", "metric_name", "tag", "key", "variable", "measure")
VALUE_COLUMNS = ("value", "metric_value", "val", "y")
_STEP_WORDS = ("step", "_step", "global_step", "iteration", "iter", "training_iteration", "trainer/global_step", "x")
_EXPORT = re.compile(r"^(?P<run>.+) - (?P<metric>[^ ].*?)(?P<extreme>__MIN|__MAX)?$")
_DECIMAL_COMMA = re.compile(r"^[-+]?\d+,\d+$")
_THOUSANDS = re.compile(r"^[-+]?\d{1,3}(,\d{3})+(\.\d+)?$")
_INDEX = re.compile(r"^(unnamed: \d+|index|__index_level_\d+__|)$", re.IGNORECASE)
_CONFIG_PREFIX = re.compile(r"^(config|hparams?|params?|hyperparameters?)[./]", re.IGNORECASE)
# columns that `farfield runs read` writes beside the points
OWN_COLUMNS = ("group", "planned_end", "n_nonfinite", "n_duplicate", "n_overlap")
MISSING = ("", "NA", "N/A", "n/a", "null", "NULL", "None", "<NA>", "-")


def read_table(frame: pl.DataFrame, where: Where, *, run_column: str | None = None, nan_is_gap: bool = False) -> list[RunLog]:
    """The runs in a table.

    Parameters
    ----------
    frame : one row a log entry (wide) or a value (long)
    run_column : the column that tells runs apart, found by its name when None
    nan_is_gap : NaN stands for "nothing logged" (pandas has no other way to say so)

    Raises
    ------
    InputError : an unknown `run_column`; no row; no column of numbers
    """
    if run_column is not None and run_column not in frame.columns:
        raise unknown_name("column", run_column, frame.columns)
    if frame.height == 0:
        raise InputError(f"{where.path}: a header and no rows; a run needs at least one logged row")
    frame = _with_times(frame)
    export = exported(frame)
    if export:
        return _read_export(frame, export, nan_is_gap, where)
    run_column = run_column or _run_column(frame)
    rows = _split(frame, run_column, where.name)
    long = long_columns(frame)
    if long:
        return _read_long(frame, rows, run_column, *long, where)
    return _read_wide(frame, rows, run_column, nan_is_gap, where)


# -- which column is what ---------------------------------------------------------------------------------------------------


def _run_column(frame: pl.DataFrame) -> str | None:
    lowered = {c.casefold().strip().replace(" ", "_"): c for c in frame.columns}
    for word in SURE_RUN:
        if word in lowered and not frame[lowered[word]].dtype.is_float():
            return lowered[word]
    for word in MAYBE_RUN:
        if word in lowered and frame[lowered[word]].n_unique() < max(2, 0.6 * frame.height):
            return lowered[word]
    return None


def long_columns(frame: pl.DataFrame) -> tuple[str, str] | None:
    """(metric, value) columns of a long table."""
    lowered = {c.casefold().strip(): c for c in frame.columns}
    metric = next((lowered[w] for w in METRIC_COLUMNS if w in lowered and frame[lowered[w]].dtype == pl.String), None)
    value = next((lowered[w] for w in VALUE_COLUMNS if w in lowered), None)
    return (metric, value) if metric and value else None


def position_column(columns: Sequence[str], numeric: Sequence[str]) -> str | None:
    """The column that orders a run: a step, else an epoch, else tokens, else time."""
    lowered = {c.casefold().strip(): c for c in columns if c in numeric}
    for word in _STEP_WORDS:
        if word in lowered:
            return lowered[word]
    for kind in names.STEP_NAMES:
        fits = [c for c in numeric if names.unit(c) == kind]
        if fits:
            return min(fits, key=lambda c: (c.count("/"), len(c)))
    return None


def _position_notes(
    frame: pl.DataFrame, columns: Sequence[str], position: str | None, found: Mapping[str, Numbers], where: Where
) -> tuple[str, ...]:
    """What to say of text where a run's position should be; InputError for 1,000, which stands for a number that is not read."""
    if position is not None:
        column, text = position, found[position][2]
        said = "read as not a number"
    else:
        named = [c for c in columns if c.casefold().strip() in _STEP_WORDS or names.unit(c)]
        text, column = next(
            ((str(cells[0]), c) for c in named if frame[c].dtype == pl.String and len(cells := frame[c].drop_nulls())), (None, "")
        )
        said = "no numbers: the rows are counted instead"
    if text is None:
        return ()
    if _THOUSANDS.match(text.strip()):
        raise InputError(
            f"{where.path}: column {column!r} holds {text!r}; write numbers without separators: {text.strip().replace(',', '')}"
        )
    return (f"column {column!r} holds text such as {text[:30]!r}, {said}",)


def is_setting_name(column: str) -> bool:
    """Whether a column describes runs whatever it holds: it is named as configuration or as a seed."""
    return bool(_CONFIG_PREFIX.match(column)) or names.is_seed(column) or column in OWN_COLUMNS


def is_index_name(column: str) -> bool:
    """Whether a column only numbers the rows."""
    return bool(_INDEX.match(column.strip()))


def _split(frame: pl.DataFrame, run_column: str | None, name: str) -> dict[str, NDArray[np.int64]]:
    """Run name -> its rows, in order of first appearance."""
    if run_column is None:
        return {name: np.arange(frame.height)}
    labels = frame[run_column].cast(pl.String).fill_null("(no name)")
    codes = labels.rank("dense").to_numpy().astype(np.int64) - 1
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    parts.sort(key=lambda part: int(part[0]))
    return {str(labels[int(part[0])]): part for part in parts}


def _with_times(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns of ISO dates in text, under a name that says so, as times."""
    for c in frame.columns:
        if frame[c].dtype == pl.String and names.unit(c) in ("time", "timestamp"):
            text = frame[c].str.replace("Z$", "+00:00")
            zoned = text.str.contains(r"[+-]\d\d:?\d\d$").any()
            try:
                times = text.str.to_datetime(strict=False, time_zone="UTC" if zoned else None)
            except pl.exceptions.PolarsError:
                continue  # text of no form that polars knows: it stays text
            if times.is_not_null().any():
                frame = frame.with_columns(times.alias(c))
    return frame


# -- cells as numbers -------------------------------------------------------------------------------------------------------


Numbers = tuple[FloatArray, NDArray[np.bool_], str | None]  # values, which were logged, the first cell that is no number


def numbers(column: pl.Series) -> Numbers | None:
    """A column as (values, logged, first unreadable cell), or None if it does not hold numbers.

    Text in a column in which most cells are numbers counts as logged and not a number.
    """
    dtype = column.dtype
    if dtype == pl.Boolean or dtype.is_nested():
        return None
    if dtype.is_temporal():
        seconds = column.cast(pl.Datetime("us"), strict=False).dt.epoch("us") if dtype in (pl.Date, pl.Datetime) else None
        if seconds is None:
            return None
        return seconds.cast(pl.Float64).fill_null(float("nan")).to_numpy() / 1e6, seconds.is_not_null().to_numpy(), None
    if dtype.is_numeric():
        values = column.cast(pl.Float64, strict=False)
        return values.fill_null(float("nan")).to_numpy(), column.is_not_null().to_numpy(), None
    if dtype != pl.String:
        return None
    text = column.str.strip_chars()
    logged = text.is_not_null() & ~text.is_in(MISSING)
    values = text.cast(pl.Float64, strict=False)
    spelt = text.str.to_lowercase().is_in(["nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"])
    bad = logged & values.is_null() & ~spelt
    n_logged, n_bad = int(logged.sum()), int(bad.sum())
    if n_logged == 0 or n_bad * 2 > n_logged:
        return None
    return values.fill_null(float("nan")).to_numpy(), logged.to_numpy(), (str(text.filter(bad)[0]) if n_bad else None)


def _series(step: FloatArray, value: FloatArray, logged: NDArray[np.bool_], time: FloatArray | None) -> Series:
    return settle(step[logged], value[logged], None if time is None else time[logged])


# -- the three layouts ------------------------------------------------------------------------------------------------------


def _read_wide(
    frame: pl.DataFrame,
    rows: dict[str, NDArray[np.int64]],
    run_column: str | None,
    nan_is_gap: bool,
    where: Where,
) -> list[RunLog]:
    columns = [c for c in frame.columns if c != run_column]
    found = {c: n for c in columns if (n := numbers(frame[c])) is not None}
    position = position_column(columns, list(found))
    settings = _settings(frame, columns, list(rows.values()), found, position)
    numeric = {c: n for c, n in found.items() if (c not in settings or names.is_lr(c)) and c != position and not is_index_name(c)}
    if not numeric:
        raise InputError(f"{where.path}: no column of numbers to read as a metric; {_held(frame)}")
    if position is None:
        step_all, step_name = np.zeros(frame.height), "row"
        for part in rows.values():
            step_all[part] = np.arange(part.size)
    else:
        step_all, step_name = found[position][0], names.unit(position) or position
    stamp = next((c for c in numeric if names.unit(c) == "timestamp"), None)
    logged = {c: values_logged for c, (_, values_logged, _) in numeric.items()}
    if nan_is_gap:
        logged = _without_gaps(numeric)
    notes = tuple(
        f"column {c!r} holds text such as {bad[:30]!r}, read as not a number" for c, (_, _, bad) in numeric.items() if bad
    )
    notes += _position_notes(frame, columns, position, found, where)
    out = []
    for name, part in rows.items():
        step = step_all[part]
        time = None if stamp is None else numeric[stamp][0][part]
        metrics = {c: _series(step, numeric[c][0][part], logged[c][part], time) for c in numeric if logged[c][part].any()}
        described = settings_of(frame, settings, int(part[0]), int(part[-1]), step_name)
        out.append(RunLog(name, where.path, metrics, step_name, folder=where.folder, notes=notes, **described))
    return out


def _held(frame: pl.DataFrame) -> str:
    """The columns of a frame without a metric, with a cell of those that hold text; and what mends decimal commas."""
    texts = {c: str(cells[0])[:30] for c in frame.columns if frame[c].dtype == pl.String and (cells := frame[c].drop_nulls()).len()}
    shown = ", ".join(f"{c} (such as {texts[c]!r})" if c in texts else c for c in frame.columns[:20])
    comma = next((text for text in texts.values() if _DECIMAL_COMMA.match(text.strip())), None)
    remedy = f"; write decimals with a point: {comma.strip().replace(',', '.')}" if comma else ""
    return f"columns: {shown}{remedy}"


def _without_gaps(numeric: dict[str, tuple[FloatArray, NDArray[np.bool_], str | None]]) -> dict[str, NDArray[np.bool_]]:
    """Where each column was logged if NaN may mean a gap: NaN counts as logged only in rows without any other metric."""
    metric = [values for c, (values, _, _) in numeric.items() if not names.is_housekeeping(c)]
    nothing = np.all([np.isnan(v) for v in metric], axis=0) if metric else np.zeros(0, dtype=bool)
    out = {}
    for c, (values, logged, _) in numeric.items():
        lone = nothing & (len(metric) > 0) if not names.is_housekeeping(c) else False
        out[c] = logged & (~np.isnan(values) | lone)
    return out


def _settings(
    frame: pl.DataFrame, columns: Sequence[str], rows: list[NDArray[np.int64]], found: dict[str, Any], position: str | None
) -> list[str]:
    """Columns that describe runs and are not logged along them."""
    out = []
    for c in columns:
        prefixed = is_setting_name(c)
        if c == position or (c in found and not prefixed and (names.unit(c) or names.goal(c) or len(rows) < 2)):
            continue
        if not prefixed and not _constant(frame[c], rows):
            continue
        if prefixed or c not in found or (frame[c].n_unique() > 1 and max(p.size for p in rows) > 1):
            out.append(c)
    return out


def _constant(column: pl.Series, rows: list[NDArray[np.int64]]) -> bool:
    if column.dtype.is_nested():
        return False
    codes = column.rank("dense").fill_null(0).to_numpy()
    return all((codes[part] == codes[part[0]]).all() for part in rows)


def settings_of(frame: pl.DataFrame, settings: Sequence[str], first: int, last: int, step_name: str) -> dict[str, Any]:
    """What the setting columns say about the run between two rows, as fields of its RunLog."""
    config: dict[str, Scalar] = {}
    out: dict[str, Any] = {"config": config}
    if "done" in frame.columns and str(frame["done"][last]).casefold() == "true":
        out["status"] = "finished"
    for c in settings:
        value = frame[c][first]
        if c.casefold() in ("status", "state"):
            out["status"] = names.status_of(frame[c][last]) or "unknown"
        elif c == "group":
            out["group"] = None if value is None else str(value)
        elif c == "planned_end":
            end = as_number(value)
            out["planned"] = {} if end is None else {names.unit(step_name) or step_name: end}
        elif c not in OWN_COLUMNS and (isinstance(value, str | int | float | bool) or value is None):
            config[_CONFIG_PREFIX.sub("", c)] = value
    return out


def _read_long(
    frame: pl.DataFrame,
    rows: dict[str, NDArray[np.int64]],
    run_column: str | None,
    metric_column: str,
    value_column: str,
    where: Where,
) -> list[RunLog]:
    value = numbers(frame[value_column])
    if value is None:
        raise InputError(f"{where.path}: column {value_column!r} of this long table does not hold numbers")
    others = [c for c in frame.columns if c not in (run_column, metric_column, value_column)]
    found = {c: n for c in others if (n := numbers(frame[c])) is not None}
    position = position_column(others, list(found))
    tag = frame[metric_column].fill_null("(no name)")
    codes = tag.rank("dense").to_numpy().astype(np.int64)
    settings = _settings(frame, others, list(rows.values()), found, position)
    stamp = next((c for c in found if names.unit(c) == "timestamp"), None)
    step_name = "row" if position is None else names.unit(position) or position
    notes = _position_notes(frame, others, position, found, where)
    out = []
    for name, part in rows.items():
        order = part[np.argsort(codes[part], kind="stable")]
        pieces = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
        pieces.sort(key=lambda piece: int(piece[0]))
        metrics = {}
        for piece in pieces:
            step = np.arange(piece.size, dtype=np.float64) if position is None else found[position][0][piece]
            metrics[str(tag[int(piece[0])])] = settle(step, value[0][piece], None if stamp is None else found[stamp][0][piece])
        described = settings_of(frame, settings, int(part[0]), int(part[-1]), step_name)
        out.append(RunLog(name, where.path, metrics, step_name, folder=where.folder, notes=notes, **described))
    return out


def exported(frame: pl.DataFrame) -> list[tuple[str, str, str]]:
    """(column, run, metric) of every curve in W&B's chart export; empty if the table is not one."""
    matches = [(c, m) for c in frame.columns[1:] if (m := _EXPORT.match(c))]
    if not matches or len(matches) != frame.width - 1 or _EXPORT.match(frame.columns[0]):
        return []
    return [(c, m["run"], m["metric"]) for c, m in matches if not m["extreme"]]


def _read_export(frame: pl.DataFrame, export: list[tuple[str, str, str]], nan_is_gap: bool, where: Where) -> list[RunLog]:
    position = frame.columns[0]
    step = numbers(frame[position])
    if step is None:
        raise FormatError(f"{where.path}: the first column {position!r} of this W&B export does not hold numbers")
    runs: dict[str, dict[str, Series]] = {}
    for column, run, metric in export:
        value = numbers(frame[column])
        curves = runs.setdefault(run, {})
        if value is not None and metric not in ("_step", position):
            logged = value[1] & ~np.isnan(value[0]) if nan_is_gap else value[1]
            curves[metric] = _series(step[0], value[0], logged, None)
    step_name = names.unit(position) or position
    return [RunLog(run, where.path, curves, step_name, folder=where.folder) for run, curves in runs.items() if curves]
