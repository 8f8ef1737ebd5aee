"""SQLite stores, opened so that nothing is ever written to them, and told apart by their tables.

A database that another program is writing is read as it is; one that is not a database, is damaged, or has other columns
than its kind should have is a :class:`FormatError`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from farfield.errors import FormatError

MAGIC = b"SQLite format 3\0"
_KINDS = {
    "mlflow": {"metrics": {"key", "value", "timestamp", "run_uuid", "step", "is_nan"}, "runs": {"run_uuid", "status"}},
    "optuna": {"trials": {"trial_id", "study_id", "state"}, "studies": {"study_id", "study_name"}},
    "trackio": {"metrics": {"run_name", "timestamp", "step", "metrics"}},
}


class Store:
    """A read-only connection that answers in rows and turns every database error into a FormatError."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection, self.path = connection, path

    def rows(self, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        try:
            return self._connection.execute(query, parameters).fetchall()
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            raise FormatError(f"{self.path}: SQLite store cannot be read: {error}") from error

    def columns(self, table: str) -> set[str]:
        """The column names of a table, empty if there is none; a view, which could compute without end, is none."""
        there = "EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE)"
        return {str(row[0]) for row in self.rows(f"SELECT name FROM pragma_table_info(?) WHERE {there}", (table, table))}

    def kind(self) -> str | None:
        """``mlflow``, ``optuna``, ``trackio``, or None."""
        for kind, tables in _KINDS.items():
            if all(columns <= self.columns(table) for table, columns in tables.items()):
                return kind
        return None


@contextlib.contextmanager
def open_store(path: Path) -> Iterator[Store]:
    """Open a SQLite file read-only; nothing but the file is touched.

    Raises
    ------
    FormatError : not a database, or one that cannot be opened read-only
    """
    url = f"file:{quote(str(path.resolve()))}?mode=ro"
    if not path.with_name(path.name + "-wal").exists():
        url += "&immutable=1"  # no writer: no lock or journal is needed beside the file
    try:
        connection = sqlite3.connect(url, uri=True, timeout=5.0)
        connection.execute("PRAGMA trusted_schema = OFF")  # what the file itself defines runs no function with side effects
    except sqlite3.Error as error:
        raise FormatError(f"{path}: SQLite store cannot be opened: {error}") from error
    with contextlib.closing(connection):
        connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
        yield Store(connection, str(path))
