"""Rows of a growing table of one run, CSV or lines of JSON, taken one at a time: the fast twin of the readers.

The readers (`farfield.curves.readers`) look at a whole table before they decide what its columns are. :class:`Rows` takes those
decisions over from a run they have read and appends further rows to it for a few microseconds each. It takes only what it is
sure the readers would take in the same way; at anything else (a new text column, a setting that changes, a quote in a CSV, a row
of another width) `take` says no, and the table is to be read as a whole again. `agrees` compares the two on all rows so far.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from farfield.curves.readers import delimited, jsonlogs, names, tables
from farfield.curves.readers.record import RunLog, Series, as_number, config_of, flatten, settle

_MISSING = frozenset(tables.MISSING)
_SPELT = frozenset(("nan", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"))
_VARIES = object()
INT = re.compile(r"-?\d{1,18}")
FLOAT = re.compile(r"-?(\d+\.\d+|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?")
_unit = lru_cache(maxsize=4096)(names.unit)


class Rows:
    """The metrics of one run, row by row.

    Parameters
    ----------
    run : the run as the readers read it: its metrics' names, what its steps count
    kind : ``text`` or ``json``
    header : the first line of a CSV, unused for JSON
    """

    def __init__(self, run: RunLog, kind: Literal["text", "json"], header: bytes = b"") -> None:
        self._kind = kind
        self._header: list[str] = []
        self._separator = ","
        if kind == "text":
            text = header.decode("utf-8", errors="replace").strip("\r\n").removeprefix("\ufeff")
            self._separator = delimited.delimiter(header) or ","
            self._header = [name.strip() for name in text.split(self._separator)]
        self._metrics = set(run.metrics)
        self._step_name = run.step_name
        self._position: str | None = None
        self._columns: dict[str, tuple[array[float], array[float], array[float]]] = {}
        self._stamp: str | None = None
        self._others: dict[str, Any] = {}
        self._forms: dict[str, set[str]] = {}
        self._read_as: dict[str, tuple[int, int]] = {}  # of columns that are no metrics: cells, and those that are no numbers
        self._config: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}  # as logged last, and flat
        self.n_rows = 0
        self._learning = True

    # -- rows in ----------------------------------------------------------------------------------------------------------

    def learn(self, lines: Sequence[bytes]) -> bool:
        """Take the rows that the run was read from (a CSV's without its header); False if they are not all plain."""
        self._learning = True
        if any(_may_name_runs(name) for name in self._metrics):
            return False
        rows = []
        for line in lines:
            row = self._parsed(line)
            if row is None:
                return False
            rows.append(row)
        self._position = self._find_position(rows)
        if self._position is None and self._step_name != "row":
            return False
        taken = all(self._append(row) for row in rows if row)
        self._learning = False
        return taken

    def take(self, lines: Sequence[bytes]) -> bool:
        """Append further rows; False at the first that only the readers can judge, after which this object is spent."""
        for line in lines:
            row = self._parsed(line)
            if row is None or (row and not self._append(row)):
                return False
        return True

    def metrics(self) -> dict[str, Series]:
        """Every metric, settled as the readers settle it."""
        out = {}
        order = [name for name in self._header if name in self._columns] or self._columns
        for name in order:
            columns = self._columns[name]
            step, value, time = (np.array(c, dtype=np.float64) for c in columns)  # copies: the columns go on growing
            out[name] = settle(step, value, None if self._stamp is None else time)
        return out

    def steps(self, metric: str) -> Any:
        """The steps at which a metric was logged, in the order logged."""
        return np.array(self._columns[metric][0]) if metric in self._columns else np.zeros(0)

    def agrees(self, run: RunLog) -> bool:
        """Whether all that was taken is what the readers made of the same rows."""
        mine = self.metrics()
        return mine.keys() == run.metrics.keys() and all(same_series(mine[name], run.metrics[name]) for name in mine)

    # -- one row ------------------------------------------------------------------------------------------------------------

    def _parsed(self, line: bytes) -> dict[str, Any] | None:
        """A line as column -> cell, empty for a blank one, None if it is not plain."""
        text = line.decode("utf-8", errors="replace").strip("\r\n")
        if not text.strip():
            return {} if self._kind == "json" else None
        if self._kind == "json":
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                return None
            return self._flat(row) if isinstance(row, dict) else None
        cells = text.split(self._separator)
        if '"' in text or len(cells) != len(self._header):
            return None
        return dict(zip(self._header, cells, strict=True)) if len(set(self._header)) == len(self._header) else None

    def _flat(self, row: dict[str, Any]) -> dict[str, Any]:
        for key in jsonlogs.CONFIG_KEYS:
            tree = row.get(key)
            if isinstance(tree, dict):
                if self._config.get(key, (None, {}))[0] != tree:
                    self._config[key] = tree, {f"config/{name}": value for name, value in config_of(tree).items()}
                del row[key]
                row |= self._config[key][1]
        return row if not any(isinstance(v, dict) for v in row.values()) else flatten(row, "/")

    def _find_position(self, rows: Sequence[dict[str, Any]]) -> str | None:
        """The column that is no metric and counts what the run's steps count."""
        seen = self._header or list(dict.fromkeys(key for row in rows for key in row))
        fits = [c for c in seen if c not in self._metrics and self._step_name in (c, _unit(c))]
        return min(fits, key=lambda c: (c.casefold() != self._step_name, c.count("/"), len(c)), default=None)

    def _append(self, row: dict[str, Any]) -> bool:
        if self._position is None:
            step: float | None = float(self.n_rows)
        else:
            cell = row.get(self._position)
            step = math.nan if _empty(cell) else self._number(self._position, cell)
        if step is None:
            return False
        values: list[tuple[str, float]] = []
        time = math.nan
        for key, cell in row.items():
            if key == self._position:
                continue
            if key not in self._metrics and not (self._kind == "json" and self._may_join(key, cell)):
                if not self._unchanged(key, cell):
                    return False
                continue
            if _empty(cell):
                continue
            number = self._number(key, cell)
            if number is None:
                return False
            values.append((key, number))
            if _unit(key) == "timestamp" and self._stamp in (None, key):
                self._stamp, time = key, number
        for key, number in values:
            columns = self._columns.get(key)
            if columns is None:
                self._metrics.add(key)
                columns = self._columns[key] = (array("d"), array("d"), array("d"))
            columns[0].append(step)
            columns[1].append(number)
            columns[2].append(time)
        self.n_rows += 1
        return True

    def _may_join(self, key: str, cell: Any) -> bool:
        """Whether a column of JSON that was not seen before is a further metric."""
        if self._learning or key in self._others or isinstance(cell, bool) or not isinstance(cell, int | float):
            return False
        return not tables.is_setting_name(key) and not tables.is_index_name(key)

    def _unchanged(self, key: str, cell: Any) -> bool:
        """Whether a cell that is no metric tells nothing new: the column varied before, or it holds what it always held."""
        if not self._known_form(key, cell) or not self._keeps_kind(key, cell):
            return False
        if isinstance(cell, list):
            cell = _VARIES
        before = self._others.get(key)
        if before is _VARIES:
            return not _may_name_runs(key)
        if key not in self._others:
            if not self._learning and self.n_rows:
                return False
            self._others[key] = cell
            return True
        if before == cell and type(before) is type(cell):
            return True
        if self._learning:
            self._others[key] = _VARIES
            return not _may_name_runs(key)
        return False

    def _known_form(self, key: str, cell: Any) -> bool:
        """Whether a setting's cell leaves the type of its column: the first cell is what counts, but all of them type it."""
        if not tables.is_setting_name(key) or _empty(cell):
            return True
        form = type(cell).__name__
        if isinstance(cell, str):
            form = "int" if INT.fullmatch(cell) else "float" if FLOAT.fullmatch(cell) else f"text {cell}"
        forms = self._forms.setdefault(key, set())
        known = form in forms or self._learning
        forms.add(form)
        return known

    def _keeps_kind(self, key: str, cell: Any) -> bool:
        """Whether a cell leaves its column a column of numbers, or of text: more than half of the cells decide."""
        if self._kind == "json" or _empty(cell):
            return True
        number = self._number(key, cell) is not None
        cells, others = self._read_as.get(key, (0, 0))
        if self._learning or not cells:
            self._read_as[key] = cells + 1, others + (not number)
            return True
        return number is (others * 2 <= cells)

    def _number(self, key: str, cell: Any) -> float | None:
        if not isinstance(cell, str):
            return as_number(cell)
        text = cell.strip()
        if _unit(key) in ("time", "timestamp") and len(text) > 9 and text[4:5] == "-":
            return seconds(text)
        if self._kind == "json":
            return as_number(text)
        if "_" in text or (text[-1:].isalpha() and text.casefold() not in _SPELT):
            return None
        try:
            return float(text)
        except ValueError:
            return None


def _may_name_runs(column: str) -> bool:
    """Whether a column tells runs apart once its cells repeat often enough."""
    return column.casefold().strip().replace(" ", "_") in tables.MAYBE_RUN


def _empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.strip() in _MISSING)


def seconds(text: str) -> float | None:
    """An ISO date as seconds; without a zone it is taken for UTC, as the readers do."""
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=datetime.UTC)
    whole = when.replace(microsecond=0).timestamp()
    return (whole * 1e6 + when.microsecond) / 1e6


def same_series(a: Series, b: Series) -> bool:
    times = (a.time is None) == (b.time is None) and (a.time is None or b.time is None or _equal(a.time, b.time))
    return (
        times and _equal(a.step, b.step) and _equal(a.value, b.value) and (a.n_overlap, a.renumbered) == (b.n_overlap, b.renumbered)
    )


def _equal(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b, equal_nan=True))
