"""SQLite stores (MLflow, Optuna, Trackio) read on by rowid: of the table of points, only rows above the last one seen.

The reader of the store (`farfield.curves.readers`) puts the runs together as ever; :class:`StoreRows` answers its one long query
from the rows it holds. For a run that got no row it hands over its first row only, and keeps the run's metrics: what stands
beside the points (names, states, parameters) is read each time.

That rows were changed or deleted shows in the last row seen, which is looked at every time, or when the whole is read again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from farfield.curves.readers import sqlite
from farfield.curves.readers.record import RunLog, as_number, flatten
from farfield.curves.readers.sources import STORES
from farfield.errors import FormatError

Row = tuple[Any, ...]
_POINTS = {"mlflow": "metrics", "optuna": "trial_intermediate_values", "trackio": "metrics"}
_BUSY = 0.1  # seconds to wait for a writer; the next look tries again


class Unclear(Exception):
    """New rows do not simply go on after those held."""


@contextlib.contextmanager
def open_growing(path: Path) -> Iterator[sqlite.Store]:
    """Read-only, and what a writer has not committed is not seen.

    With a rollback journal that takes a shared lock for as long as the new rows are read; with a write-ahead log, none.
    """
    with path.open("rb") as file:
        head = file.read(20)
    idle = head[18:19] == b"\2" and not path.with_name(path.name + "-wal").exists()
    url = f"file:{quote(str(path.resolve()))}?mode=ro{'&immutable=1' if idle else ''}"
    try:
        connection = sqlite3.connect(url, uri=True, timeout=_BUSY)
    except sqlite3.Error as error:
        raise FormatError(f"{path}: SQLite store cannot be opened: {error}") from error
    with contextlib.closing(connection):
        connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
        connection.execute("PRAGMA trusted_schema = OFF")  # as the reader has it
        store = sqlite.Store(connection, str(path))
        store.rows("BEGIN")
        yield store


class Answering(sqlite.Store):
    """A store whose query of points is noted and, if `given`, answered from there."""

    def __init__(self, store: sqlite.Store, kind: str, given: Sequence[Row] | None = None) -> None:
        self._store, self.path = store, store.path
        self._mark, self._given = f" FROM {_POINTS[kind]} ORDER BY ", given
        self.query: str | None = None
        self.rowids: list[Any] | None = None
        self.points: list[Row] = []

    def rows(self, query: str, parameters: tuple[Any, ...] = ()) -> list[Row]:
        if self._mark not in query:
            return self._store.rows(query, parameters)
        if self._given is not None:
            return list(self._given)
        self.query = query.replace("SELECT ", "SELECT rowid, ", 1)
        try:
            found = self._store.rows(self.query)
        except FormatError:  # a table without rowid, or damage: that the reader says
            return self._store.rows(query, parameters)
        self.rowids, self.points = [row[0] for row in found], [row[1:] for row in found]
        return self.points


class StoreRows:
    """The points of one store, by run and metric, in the reader's order."""

    def __init__(self, kind: str, query: str) -> None:
        self.kind, self._query = kind, query
        self._mark = f" FROM {_POINTS[kind]} ORDER BY "
        self._rows: dict[str, dict[str, list[Row]]] = {}
        self._shown: dict[str, int] = {}  # run -> which of its rows is the first with a number, in order of those rows
        self._touched: set[str] = set()
        self._last: tuple[int, Row] | None = None
        self.n_rows = 0

    @classmethod
    def of(cls, kind: str, answered: Answering) -> StoreRows | None:
        """The rows of a whole reading; None for a table that cannot be read on."""
        rowids = answered.rowids
        if answered.query is None or rowids is None or not all(isinstance(rowid, int) for rowid in rowids):
            return None
        held = cls(kind, answered.query)
        if kind == "trackio" and any(a >= b for a, b in itertools.pairwise(rowids)):
            return None  # in another order than that of arrival
        try:
            for row in answered.points:
                held._add(row, check=False)
        except Unclear:
            return None
        if rowids:
            newest = max(range(len(rowids)), key=rowids.__getitem__)
            held._last = rowids[newest], answered.points[newest]
        held._touched = set()
        return held

    def only_added(self, old: StoreRows) -> bool:
        """Whether every row of an earlier reading still stands."""
        missing: list[Row] = []
        return all(
            rows == self._rows.get(run, {}).get(key, missing)[: len(rows)]
            for run, groups in old._rows.items()
            for key, rows in groups.items()
        )

    def more(self, store: sqlite.Store) -> int:
        """Take the rows above the last one; how many. Raises Unclear, after which this object is spent."""
        last = 0
        if self._last is not None:
            last, row = self._last
            if [found[1:] for found in store.rows(self._where("rowid = ?"), (last,))] != [row]:
                raise Unclear
        found = store.rows(self._where("rowid > ?"), (last,))
        for rowid, *cells in found:
            row = tuple(cells)
            self._add(row)
            if self._last is None or rowid > self._last[0]:
                self._last = rowid, row
        return len(found)

    def runs(self, store: sqlite.Store, before: Sequence[RunLog]) -> list[RunLog]:
        """The runs now, given those handed out before."""
        old = {run.source: run for run in before}
        whole = self._touched
        while True:
            given = [row for run, first in self._shown.items() for row in self._of(run, None if run in whole else first)]
            made = STORES[self.kind](Answering(store, self.kind, given))
            lacking = {run.source for run in made if run.source not in old}.difference(f"{store.path}#{run}" for run in whole)
            if not lacking:
                break
            whole = whole | {source.removeprefix(f"{store.path}#") for source in lacking}
        self._touched = set()
        sources = {f"{store.path}#{run}" for run in whole}
        return [run if run.source in sources else dataclasses.replace(run, metrics=old[run.source].metrics) for run in made]

    def _where(self, condition: str) -> str:
        return self._query.replace(self._mark, f"{self._mark.removesuffix(' ORDER BY ')} WHERE {condition} ORDER BY ")

    def _of(self, run: str, first: int | None) -> list[Row]:
        groups = self._rows[run]
        if first is not None:
            return next(iter(groups.values()))[: first + 1]
        return [row for key in sorted(groups) for row in groups[key]]

    def _add(self, row: Row, check: bool = True) -> None:
        run, key = str(row[0]), ""
        order: Any = None
        if self.kind == "mlflow":
            key, order = row[1], (row[5], row[2])
        elif self.kind == "optuna":
            order = row[1]
        groups = self._rows.setdefault(run, {})
        if not isinstance(key, str):
            raise Unclear
        rows = groups.setdefault(key, [])
        if check and rows and order is not None:
            last = (rows[-1][5], rows[-1][2]) if self.kind == "mlflow" else rows[-1][1]
            try:
                if not order > last:
                    raise Unclear
            except TypeError:
                raise Unclear from None
        rows.append(row)
        self._touched.add(run)
        self.n_rows += 1
        if run not in self._shown and (self.kind != "trackio" or _has_number(row)):
            self._shown[run] = len(rows) - 1


def _has_number(row: Row) -> bool:
    try:
        tree = json.loads(row[-1]) if isinstance(row[-1], str | bytes) else None
    except (ValueError, RecursionError):
        raise Unclear from None
    return any(as_number(value) is not None for value in flatten(tree).values())
