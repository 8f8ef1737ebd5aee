"""Lines of JSON of several runs, taken one at a time: what `tablerows` does for a CSV, for cells that have types of their own.

The reader (`farfield.curves.readers.jsonlogs`) makes a table of the objects before it looks for runs: nested names become columns,
columns that ever held a list are dropped, so are those without a value, and a configuration counts from the row that tells it on,
whichever run that row is of. :class:`ObjectRows` does the same row by row for columns that it knows. A value in a new column has
the table read as a whole again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from farfield.curves.follow.tablerows import MISSING, Column, Row, TableRows, agree, dated_form
from farfield.curves.readers import jsonlogs
from farfield.curves.readers.record import RunLog, Where, storable

_LARGE = 2**62  # from here on the reader does not hold a column of integers as such


class Field(Column):
    """A column of values as JSON holds them."""

    def form(self, cell: Any) -> str | None:
        """The form of a cell; texts that some would take for a number, a truth value or nothing are "numeral"."""
        if cell is None:
            return None
        if isinstance(cell, bool):
            return "bool"
        if isinstance(cell, int):
            return "int" if abs(cell) < _LARGE else "large"
        if isinstance(cell, float):
            return "float"
        if not isinstance(cell, str):
            return "nested"
        if self.dated and (form := dated_form(cell)) is not None:
            return form
        if cell != cell.strip() or cell in MISSING or cell.casefold() in ("true", "false"):
            return "numeral"
        try:
            float(cell)
        except ValueError:
            return "text"
        return "numeral"

    def read(self, cells: Sequence[Any], typed: bool) -> pl.Series:
        dtype = self.dtype(typed)
        if dtype == pl.String:
            cells = [None if cell is None else str(cell) for cell in cells]
        elif dtype == pl.Float64:
            cells = [None if cell is None or isinstance(cell, str) else float(cell) for cell in cells]
        return pl.Series(self.name, cells, dtype=dtype)


class ObjectRows(TableRows):
    """The runs of lines of JSON, row by row; `learn` makes one."""

    column = Field

    def __init__(self, header: Sequence[str], where: Where, run_column: str | None, typed: bool) -> None:
        super().__init__(header, where, run_column, typed)
        self._dropped: set[str] = set()
        self._config = [i for i, name in enumerate(header) if name.startswith("config/")]
        self._told: Row = [None] * len(self._header)

    @classmethod
    def learn(cls, data: bytes, runs: Sequence[RunLog], where: Where, run_column: str | None) -> ObjectRows | None:
        """Rows that go on where the reader ended with `runs`; None if they cannot make the same of `data`."""
        objects = _objects(data.removeprefix(b"\xef\xbb\xbf").split(b"\n")[:-1])
        if objects is None:
            return None
        present: dict[str, bool] = {}
        dropped = set()
        for row in objects:
            for key, value in row.items():
                present[key] = present.get(key, False) or value is not None
                if isinstance(value, list | dict):
                    dropped.add(key)
        made = cls([key for key, there in present.items() if there and key not in dropped], where, run_column, typed=True)
        made._dropped = dropped
        for i in made._config:  # what comes before it is told has the first that is
            made._told[i] = next(v for row in objects if (v := row.get(made._header[i])) is not None)
        rows = made._rows(objects)
        return made if rows and made._learnt(rows) and agree(made.runs(), runs) else None

    def _parsed(self, lines: Iterable[bytes]) -> list[Row] | None:
        objects = _objects(lines)
        return None if objects is None else self._rows(objects)

    def _rows(self, objects: Sequence[dict[str, Any]]) -> list[Row] | None:
        rows = []
        for found in objects:
            cells = self._cells(found)
            if cells is None:
                return None
            rows.append(cells)
        self.n_parsed += len(rows)
        return rows

    def _cells(self, row: dict[str, Any]) -> Row | None:
        """The cells of a row, None if it has a value in a column that is not known."""
        cells: Row = [None] * len(self._header)
        for key, value in row.items():
            at = self._at.get(key)
            if at is not None:
                cells[at] = storable(value) if isinstance(value, str) else value
            elif value is not None and key not in self._dropped:
                return None
        for i in self._config:
            if cells[i] is None:
                cells[i] = self._told[i]
            self._told[i] = cells[i]
        return cells


def _objects(lines: Iterable[bytes]) -> list[dict[str, Any]] | None:
    """Lines as column -> value each, blank ones left out; None if one is no object."""
    out = []
    for line in lines:
        text = line.decode("utf-8", errors="replace")
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(row, dict):
            return None
        out.append(jsonlogs.flat(row))
    return out
