"""Logs of several runs that grow, and what a look at them costs."""

from __future__ import annotations

from typing import Any

import pytest

from farfield.curves.follow.pieces import LineFollower
from farfield.curves.follow.tablerows import TableRows
from farfield.curves.readers import RunLog


def sweep(row: Any, runs: int, first: int, end: int) -> str:
    """Lines of every run, first .. end, in turns."""
    return "".join(row(f"run-{i}", k) + "\n" for k in range(first, end) for i in range(runs))


def counted(monkeypatch: pytest.MonkeyPatch, kind: type[TableRows]) -> dict[str, int]:
    """Counts that go on: rows taken one at a time by this kind, bytes read for them, and files read as a whole."""
    counts = {"rows": 0, "whole": 0, "bytes": 0}
    take, read, appended = kind.take, LineFollower._read, LineFollower._appended

    def counted_take(self: TableRows, lines: Any) -> bool:
        before = self.n_parsed
        taken = take(self, lines)
        counts["rows"] += self.n_parsed - before
        return taken

    def counted_read(self: LineFollower) -> list[RunLog]:
        counts["whole"] += 1
        return read(self)

    def counted_appended(self: LineFollower, path: Any) -> bytes | None:
        data = appended(self, path)
        counts["bytes"] += len(data or b"")
        return data

    monkeypatch.setattr(kind, "take", counted_take)
    monkeypatch.setattr(LineFollower, "_read", counted_read)
    monkeypatch.setattr(LineFollower, "_appended", counted_appended)
    return counts
