"""Rows of a growing table of several runs, wide or long, taken one at a time: the fast twin of `farfield.curves.readers.tables`.

The reader decides what a column is from the whole table. :class:`TableRows` takes those decisions once, from all rows so far, and
holds them against what the reader made of the same rows (`learn`); then it appends further rows for as long as no row can change
a decision: every cell is of a form its column has held before, and what was the same throughout each run stays so. At anything
else `take` says no, and the table is to be read as a whole again. Runs that got no row are handed out as they were. Here the rows
are lines of a CSV; :mod:`farfield.curves.follow.objectrows` takes lines of JSON.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from farfield.curves.follow.rows import FLOAT, INT, same_series, seconds
from farfield.curves.readers import delimited, names, tables
from farfield.curves.readers.record import RunLog, Series, Where, settle

MISSING = frozenset(tables.MISSING)
_DATE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:?\d\d)?")
_NUMBERS = frozenset(("int", "float", "like"))
_UNCLEAR = frozenset(("spaced", "numeral", "large"))
_NAMES = frozenset(("int", "text", "numeral"))
_NO_NAME = "(no name)"
Row = list[Any]
_Columns = tuple["array[float]", "array[float]", "array[float]"]


class Column:
    """What a column has held: forms of cells, the first cell of each run, and whether it stayed the same."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dated = names.unit(name) in ("time", "timestamp")
        self.forms: set[str] = set()
        self.first: dict[str, Any] = {}
        self.constant = True  # within each run
        self.uniform = True  # over all runs

    def form(self, cell: Any) -> str | None:
        """The form of a cell; None where it is missing."""
        if cell is None:
            return None
        if INT.fullmatch(cell):
            return "int"
        if FLOAT.fullmatch(cell):
            return "float"
        if self.dated and (dated := dated_form(cell)) is not None:
            return dated
        if cell.casefold() in ("true", "false"):
            return "bool"
        if cell != cell.strip():
            return "spaced"
        try:
            value = float(cell.replace("_", "?"))
        except ValueError:
            return "text"
        return "like" if math.isfinite(value) else f"spelt {cell}"

    @property
    def is_number(self) -> bool:
        return bool(self.forms) and all(form in _NUMBERS or form.startswith(("spelt", "date")) for form in self.forms)

    def dtype(self, typed: bool) -> Any:
        """How the reader holds the column, where it gives columns types at all."""
        if typed and self.forms == {"int"}:
            return pl.Int64
        if typed and self.is_number:
            return pl.Float64
        return pl.Boolean if typed and self.forms == {"bool"} else pl.String

    def read(self, cells: Sequence[Any], typed: bool) -> pl.Series:
        """Cells as the reader holds them."""
        text = pl.Series(self.name, cells, dtype=pl.String)
        dtype = self.dtype(typed)
        return text.str.to_lowercase() == "true" if dtype == pl.Boolean else text.cast(dtype, strict=False)


class TableRows:
    """The runs of one table, row by row; `learn` makes one. A row is a list of cells in the order of the columns.

    n_rows : rows taken, the header not counted
    n_parsed : rows parsed since it was made
    """

    column: type[Column] = Column

    def __init__(self, header: Sequence[str], where: Where, run_column: str | None, typed: bool) -> None:
        self._header, self._where = list(header), where
        self._separator = ","
        self._wanted, self._typed = run_column, typed
        self._columns = [self.column(name) for name in header]
        self._at = {name: i for i, name in enumerate(header)}
        self._points: dict[str, dict[str, _Columns]] = {}
        self._sizes: dict[str, int] = {}
        self._last: dict[str, Row] = {}
        self._made: dict[str, RunLog] = {}
        self._stale: set[str] = set()
        self.n_rows = self.n_parsed = 0

    @classmethod
    def learn(cls, data: bytes, runs: Sequence[RunLog], where: Where, run_column: str | None) -> TableRows | None:
        """Rows that go on where the reader ended with `runs`; None if they cannot make the same of `data`."""
        lines = data.split(b"\n")[:-1]
        separator = delimited.delimiter(data[:65536])
        if separator is None or not lines:
            return None
        text = lines[0].decode("utf-8", errors="replace").removeprefix("\ufeff").strip("\r\n")
        header = [name.strip() for name in text.split(separator)]
        if '"' in text or len(set(header)) < len(header):
            return None
        for typed in (True, False):
            made = cls(header, where, run_column, typed)
            made._separator = separator
            rows = made._parsed(lines[1:])
            if rows is None or not rows:
                return None
            if made._learnt(rows) and agree(made.runs(), runs):
                return made
        return None

    def take(self, lines: Iterable[bytes]) -> bool:
        """Append further rows; False at the first that only the reader can judge, after which this object is spent."""
        rows = self._parsed(lines)
        return rows is not None and all(self._fits(row) and self._append(row) for row in rows) and self._still_tells_runs()

    def runs(self) -> list[RunLog]:
        """Every run, in order of first appearance."""
        for label in self._stale:
            self._made[label] = self._run(label)
        self._stale = set()
        return [self._made[label] for label in self._points]

    # -- decisions ----------------------------------------------------------------------------------------------------------

    def _learnt(self, rows: list[Row]) -> bool:
        """Decide what the columns are; False where that hangs on more than is kept here."""
        for column, cells in zip(self._columns, zip(*rows, strict=True), strict=True):
            different = {(type(cell), cell) for cell in cells}  # 1 and true are equal
            column.forms = {form for _, cell in different if (form := column.form(cell)) is not None}
        chosen = self._run_column()
        if chosen is None and self._wanted is not None:
            return False
        self._run_at = None if chosen is None else self._at[chosen]
        frame = pl.DataFrame(schema={c.name: c.dtype(self._typed) for c in self._columns})
        if tables.exported(frame):
            return False
        long = tables.long_columns(frame)
        self._long = None if long is None else (self._at[long[0]], self._at[long[1]])
        if chosen is None and long is None:
            return False
        others = [c for c in self._columns if c.name != chosen and c.name not in (long or ())]
        if any((c.forms & {"text", "bool"} and len(c.forms) > 1) or c.forms & _UNCLEAR for c in others):
            return False
        if long and not self._columns[self._long[1]].is_number:  # type: ignore[index]
            return False
        found = [c.name for c in others if c.is_number]
        position = tables.position_column([c.name for c in others], found)
        self._position = None if position is None else self._at[position]
        self._step_name = "row" if position is None else names.unit(position) or position
        if not self._constancy(rows):
            return False
        self._settings = [c.name for c in others if c.name != position and self._is_setting(c)]
        metrics = [
            c
            for c in found
            if (c not in self._settings or names.is_lr(c)) and c != position and not tables.is_index_name(c)
        ]  # fmt: skip
        self._metrics = [] if long else [self._at[c] for c in metrics]
        stamps = [c for c in (found if long else metrics) if names.unit(c) == "timestamp"]
        self._stamp = self._at[stamps[0]] if stamps else None
        if not long and (not metrics or max(self._sizes.values()) < 2):
            return False
        self._sizes = {}
        for column in self._columns:
            column.first = {}
        return all(self._append(row) for row in rows) and self._still_tells_runs()

    def _run_column(self) -> str | None:
        if self._wanted is not None:
            return self._wanted if self._wanted in self._at else None
        lowered = {c.casefold().strip().replace(" ", "_"): c for c in self._header}
        for word in tables.SURE_RUN:
            if word in lowered and self._columns[self._at[lowered[word]]].dtype(self._typed) != pl.Float64:
                return lowered[word]
        return next((lowered[word] for word in tables.MAYBE_RUN if word in lowered), None)

    def _still_tells_runs(self) -> bool:
        """Whether a column that may be the name of runs still repeats often enough to be taken for it."""
        if self._run_at is None or self._wanted is not None:
            return True
        name = self._header[self._run_at].casefold().strip().replace(" ", "_")
        return name in tables.SURE_RUN or len(self._points) < max(2, 0.6 * self.n_rows)

    def _constancy(self, rows: list[Row]) -> bool:
        """Note what stayed the same; False where that is one thing for the text of cells and another for their numbers."""
        labels = [self._label(row) for row in rows]
        for label in labels:
            self._sizes[label] = self._sizes.get(label, 0) + 1
        for column, cells in zip(self._columns, zip(*rows, strict=True), strict=True):
            told = []
            for values in (cells, [_comparable(cell) for cell in cells]):
                first: dict[str, Any] = {}
                constant = all(first.setdefault(label, value) == value for label, value in zip(labels, values, strict=True))
                told.append((constant, len(set(values)) == 1))
            if told[0] != told[1]:
                return False
            column.constant, column.uniform = told[0]
        return True

    def _is_setting(self, column: Column) -> bool:
        """As the reader decides it (`tables._settings`)."""
        prefixed = tables.is_setting_name(column.name)
        alone = len(self._sizes) < 2
        if column.is_number and not prefixed and (names.unit(column.name) or names.goal(column.name) or alone):
            return False
        if not prefixed and not column.constant:
            return False
        return prefixed or not column.is_number or (not column.uniform and max(self._sizes.values()) > 1)

    # -- rows in --------------------------------------------------------------------------------------------------------------

    def _parsed(self, lines: Iterable[bytes]) -> list[Row] | None:
        rows = []
        for line in lines:
            try:
                text = line.decode("utf-8").strip("\r\n")
            except UnicodeDecodeError:
                return None
            cells = text.split(self._separator)
            if '"' in text or len(cells) != len(self._header) or "\r" in text:
                return None
            rows.append([None if cell in MISSING else cell for cell in cells])
        self.n_parsed += len(rows)
        return rows

    def _label(self, row: Row) -> str:
        if self._run_at is None:
            return self._where.name
        cell = row[self._run_at]
        if cell is None:
            return _NO_NAME
        return str(int(cell)) if self._columns[self._run_at].dtype(self._typed) == pl.Int64 else str(cell)

    def _fits(self, row: Row) -> bool:
        """Whether a row leaves every decision as it is."""
        label = self._label(row) if self._run_at is None or self._known_form(self._run_at, row[self._run_at]) else None
        if label is None:
            return False
        known = label in self._points
        if not known and len(self._points) < 2:
            return False
        for i, column in enumerate(self._columns):
            cell = row[i]
            if not self._known_form(i, cell):
                return False
            if i == self._run_at or not column.constant:
                continue
            if (known and column.first[label] != cell) or (not known and column.uniform and column.first[self._first] != cell):
                # the status at the end of a run is told by its last row
                return False
        return True

    def _known_form(self, i: int, cell: Any) -> bool:
        form = self._columns[i].form(cell)
        return form is None or form in self._columns[i].forms

    def _append(self, row: Row) -> bool:
        label = self._label(row)
        points = self._points.get(label)
        if points is None:
            forms = set() if self._run_at is None else self._columns[self._run_at].forms
            if not forms <= _NAMES and "text" not in forms:
                return False
            points = self._points[label] = {}
            self._sizes[label] = 0
            if len(self._points) == 1:
                self._first = label
            for i, column in enumerate(self._columns):
                column.first[label] = row[i]
        if self._long is None:
            logged = [(self._header[i], i) for i in self._metrics if row[i] is not None]
        else:
            tag = row[self._long[0]]
            logged = [(_NO_NAME if tag is None else tag, self._long[1])]
        time = math.nan if self._stamp is None else self._number(self._stamp, row)
        for name, i in logged:
            columns = points.get(name)
            if columns is None:
                columns = points[name] = (array("d"), array("d"), array("d"))
            counted = len(columns[0]) if self._long is not None else self._sizes[label]
            step = float(counted) if self._position is None else self._number(self._position, row)
            value = self._number(i, row)
            if step is None or value is None or time is None:
                return False
            columns[0].append(step)
            columns[1].append(value)
            columns[2].append(time)
        self._last[label] = row
        self._sizes[label] += 1
        self._stale.add(label)
        self.n_rows += 1
        return True

    def _number(self, i: int, row: Row) -> float | None:
        cell = row[i]
        if cell is None:
            return math.nan
        if self._columns[i].dated and isinstance(cell, str) and cell[4:5] == "-" and len(cell) > 9:
            return seconds(cell)
        try:
            return float(cell)
        except ValueError:
            return None

    # -- runs out ---------------------------------------------------------------------------------------------------------------

    def _run(self, label: str) -> RunLog:
        points = self._points[label]
        order = [self._header[i] for i in self._metrics if self._header[i] in points] if self._long is None else list(points)
        metrics: dict[str, Series] = {}
        for name in order:
            step, value, time = (np.array(column, dtype=np.float64) for column in points[name])  # the columns go on growing
            metrics[name] = settle(step, value, None if self._stamp is None else time)
        described = self._described(label)
        return RunLog(label, self._where.path, metrics, self._step_name, folder=self._where.folder, **described)

    def _described(self, label: str) -> dict[str, Any]:
        """What the settings say of a run; it hangs on its first row, and on its last where that says that the run is done."""
        wanted = dict.fromkeys([*self._settings, *(["done"] if "done" in self._at else [])])
        columns = [self._columns[self._at[name]] for name in wanted]
        ends = (([c.first[label], self._last[label][self._at[c.name]]], c) for c in columns)
        frame = pl.DataFrame([c.read(cells, self._typed) for cells, c in ends])
        return tables.settings_of(frame, self._settings, 0, 1, self._step_name)


def dated_form(cell: str) -> str | None:
    """The form of a date, such as ``date 9999-99-99 99:99:99``; None for other text."""
    return "date " + re.sub(r"\d", "9", cell) if _DATE.fullmatch(cell) else None


def _comparable(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    try:
        return cell if "_" in cell else float(cell)
    except ValueError:
        return cell


def agree(mine: Sequence[RunLog], read: Sequence[RunLog]) -> bool:
    """Whether two lists of runs are the same in every field."""
    return len(mine) == len(read) and all(_same(a, b) for a, b in zip(mine, read, strict=True))


def _same(a: RunLog, b: RunLog) -> bool:
    plain = ("name", "source", "step_name", "seed", "group", "folder", "planned", "status", "goals", "notes", "part_of", "began")
    return (
        all(getattr(a, field) == getattr(b, field) for field in plain)
        and [(k, type(v), repr(v)) for k, v in a.config.items()] == [(k, type(v), repr(v)) for k, v in b.config.items()]
        and list(a.metrics) == list(b.metrics)
        and all(same_series(a.metrics[name], b.metrics[name]) for name in a.metrics)
    )
