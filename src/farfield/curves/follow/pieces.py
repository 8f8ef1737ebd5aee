"""Followers: one for each piece of a log folder, which keeps its runs up to date at the least cost.

What only grows is read on from where reading stopped: CSV, lines of JSON, TensorBoard event files, W&B files, SQLite stores. The
rest (JSON documents, Parquet, MLflow's file store) is read again as a whole when its size, time or inode changed. `poll` costs a
`stat` a file and what was appended; work that costs more is only noted as `due` and done by `refresh`, which the caller rations.
A line, frame or record that is half written is left for the next poll.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from farfield.curves.follow.objectrows import ObjectRows
from farfield.curves.follow.rows import Rows
from farfield.curves.follow.stores import Answering, StoreRows, Unclear, open_growing
from farfield.curves.follow.tablerows import TableRows
from farfield.curves.readers import jsonlogs, sqlite, tensorboard, tfevents, wandb
from farfield.curves.readers.record import RunLog, Series, settle
from farfield.curves.readers.sources import LOG_SUFFIXES, STORES, Piece, is_log, joined_parts, rotated
from farfield.errors import FarfieldError

Signature = tuple[int, int, int]
_CHECKED = 64  # bytes before the end of what was read that must still be there
_HEAD = 256
# rows taken one at a time are compared with what the reader makes of them whenever they have grown by this factor
_AUDIT = 2.0
_RETRY = 2.0  # growth after which it is tried again whether they can be
_SMALL = 2000  # rows of a store that cost next to nothing to read again
_AGAIN = 60.0  # seconds after a change for which a larger store is not compared as a whole
# polls in a row that must miss a file before it counts as gone: a rotation or a rewrite leaves a moment without it
_MISSED = 2
_PATIENCE = 5.0  # seconds for which a file that cannot be read may be half written
_FEW = 4096  # bytes of event files that are read faster frame by frame
# two writers: so often among the last so many points, the steps leave one sequence for the other
_RECENT, _OFTEN = 40, 3


def signature(path: Path) -> Signature | None:
    """(inode, size, time of change), None if there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Follower:
    """A piece and its runs; this one reads the whole piece again whenever one of its files changed.

    due : `refresh` has work; gone : the files are not there now
    notices : what a person should know, as (kind, words); the caller takes them away
    """

    def __init__(self, piece: Piece, options: Mapping[str, Any], *, named: bool = False) -> None:
        self.piece, self.options = piece, options
        self.due, self.gone = True, False
        self.notices: list[tuple[str, str]] = []
        self._named = named  # on the command line: a table there is a log, whatever it looks like
        self._runs: list[RunLog] = []
        self._seen: dict[Path, Signature] = {}
        self._missed = 0
        self._problem, self._failed_at = "", 0.0
        self.waiting_since = 0.0

    @property
    def shown(self) -> str:
        """The piece in messages."""
        return self.piece.where.path

    def poll(self) -> bool:
        """Look whether the files changed and read on where that is cheap; whether there are new points."""
        before = self._seen
        try:
            now = {path: found for path in self.files() if (found := signature(path)) is not None}
            if not now:
                self._miss()
                return False
            self._missed = 0
            if self.gone:
                self.gone = False
                self.notices.append(("back", f"{self.shown} is back"))
            if now != before:
                self._seen = now
                return self._grow(before, now)
        except OSError:  # gone or forbidden since it was listed: the next look tells
            self._seen, self.due = before, True
        if self._problem and time.monotonic() - self._failed_at >= _PATIENCE:
            self.give_up()
        return False

    def _miss(self) -> None:
        self._missed += 1
        if self._missed == _MISSED and not self.gone:
            self.gone, self.due = True, False
            self.notices.append(("gone", f"{self.shown} is gone; its runs stay as last seen and get no advice"))

    def refresh(self) -> bool:
        """Read the piece as a whole; whether that went well. What cannot be read is tried again when it changes."""
        self.due, self.waiting_since = False, time.monotonic()
        self._seen = {path: found for path in self.files() if (found := signature(path)) is not None}
        try:
            runs = self._read()
        except (FarfieldError, OSError) as error:
            message = str(error)
            self._problem, self._failed_at = message if self.shown in message else f"{self.shown}: {message}", time.monotonic()
            return False
        self._problem = ""
        self._runs = self._logs(runs)
        return True

    def give_up(self) -> None:
        """Say that the piece cannot be read, if that is so; a file that is being written gets `_PATIENCE` seconds before that."""
        log = not self._may_be_other or self.piece.paths[0].suffix.casefold() in LOG_SUFFIXES
        if self._problem and log:
            self.notices.append(("unreadable", self._problem + ("; what was read before stands" if self._runs else "")))
        self._problem = ""

    def _logs(self, runs: list[RunLog]) -> list[RunLog]:
        return [run for run in runs if run.metrics and (not self._may_be_other or is_log(run))]

    @property
    def _may_be_other(self) -> bool:
        """Tables and objects of other kinds abound beside logs; one that the user named is a log."""
        return self.piece.kind in ("text", "json") and not self._named

    def follow(self, piece: Piece) -> None:
        """Follow a piece of the same name that has other files."""
        self.piece, self.due = piece, True

    def runs(self) -> list[RunLog]:
        """The runs as far as they were read."""
        return self._runs

    def contested(self, run: RunLog, metric: str) -> bool:
        """Whether the latest steps of a metric go back and forth, as those of two writers do."""
        return contested(run.metrics[metric].step)

    def files(self) -> list[Path]:
        """Every file whose change means something."""
        if self.piece.kind == "file store":
            return [p for p in sorted(self.piece.paths[0].rglob("*")) if p.is_file()]
        if self.piece.kind == "sqlite":  # a writer may append to the journal beside it for a long time
            return [p for path in self.piece.paths for p in (path, path.with_name(path.name + "-wal"))]
        return list(self.piece.paths)

    def _grow(self, before: Mapping[Path, Signature], now: Mapping[Path, Signature]) -> bool:
        self.due = True
        return False

    def _read(self) -> list[RunLog]:
        return self.piece.read(self.options)


class LineFollower(Follower):
    """A CSV or lines of JSON: rows are appended one at a time and checked against the reader whenever they have doubled.

    `Rows` takes those of one run; of several, `TableRows` those of a CSV and `ObjectRows` lines of JSON.

    A log that was rotated is read with its earlier parts. Where those are gone (the file was truncated, or replaced by one that
    goes on) the points read from them are kept.
    """

    def __init__(self, piece: Piece, options: Mapping[str, Any], *, named: bool = False) -> None:
        super().__init__(piece, options, named=named)
        self._rows: Rows | TableRows | None = None
        self._base: RunLog  # as the reader read it last: all but the metrics that `_rows` goes on with
        self._stale = False
        self._consumed = 0
        self._left = b""  # the beginning of a line that is not whole yet
        self._learn_at = 0  # bytes below which it is not worth to try again whether rows can be taken one at a time
        self._head = self._tail = b""
        self._audit, self._audit_at = _AUDIT, 0.0
        self._kept: dict[str, Mapping[str, Series]] = {}

    def runs(self) -> list[RunLog]:
        if self._stale and self._rows is not None:
            self._stale = False
            if isinstance(self._rows, TableRows):
                runs = self._rows.runs()
            else:
                runs = [dataclasses.replace(self._base, metrics=self._rows.metrics())]
            self._runs = self._logs([_after(self._kept.get(run.name, {}), run) for run in runs])
        return self._runs

    def contested(self, run: RunLog, metric: str) -> bool:
        return contested(self._rows.steps(metric)) if isinstance(self._rows, Rows) else super().contested(run, metric)

    def _grow(self, before: Mapping[Path, Signature], now: Mapping[Path, Signature]) -> bool:
        path = self.piece.paths[0]
        if path not in now or self._replaced(path, before.get(path), now[path]):
            return False
        if self._rows is None:
            self.due = True
            return False
        data = self._appended(path)
        if data is None:
            self._forget(path)
            return False
        whole = data.rfind(b"\n") + 1
        if not whole:
            self.due = self.due or data == self._left  # written to, and nothing appended: something before may be another
            self._left = data
            return False
        data, self._left = data[:whole], data[whole:]
        if not self._rows.take(data.split(b"\n")[:-1]):
            self._rows, self.due = None, True
            return False
        self._consumed += len(data)
        self._tail = (self._tail + data)[-_CHECKED:]
        self._stale = True
        self.due = self.due or self._rows.n_rows >= self._audit_at
        return True

    def _replaced(self, path: Path, before: Signature | None, now: Signature) -> bool:
        """Whether the file is another one than before, or lost some of what was read; then that is dealt with."""
        if before is None or (before[0] == now[0] and now[1] >= self._consumed):
            return False
        self._forget(path)
        return True

    def _forget(self, path: Path) -> None:
        """The file does not hold what was read from it: keep the points, unless it tells them again, and read it anew."""
        self.due = True
        with path.open("rb") as file:
            again = file.read(len(self._head)) == self._head
        self._kept = {} if again or rotated(path) else {run.name: run.metrics for run in self.runs()}
        self._rows = None

    def _appended(self, path: Path) -> bytes | None:
        """What follows the bytes that were read; None if those are no longer there."""
        with path.open("rb") as file:
            if file.read(len(self._head)) != self._head:
                return None
            file.seek(self._consumed - len(self._tail))
            data = file.read()
        return data[len(self._tail) :] if data.startswith(self._tail) else None

    def _read(self) -> list[RunLog]:
        path = self.piece.paths[0]
        self._rows = None
        data = path.read_bytes()
        self._left = b""
        if _is_lines(self.piece.kind, data):
            whole = data.rfind(b"\n") + 1
            data, self._left = data[:whole], data[whole:]
        self._consumed, self._tail, self._head = len(data), data[-_CHECKED:], data[:_HEAD]
        lines = _is_lines(self.piece.kind, data)
        if earlier := rotated(path):
            data = joined_parts(self.piece.kind, [*(part.read_bytes() for part in earlier), data])
        runs = self.piece.read_from(data, self.options)
        if lines and len(data) >= self._learn_at:
            self._rows = self._learnt(runs, data)
            self._learn_at = 0 if self._rows is not None else int(_RETRY * len(data))
        return [self._with_kept(run) for run in runs]

    def _learnt(self, runs: list[RunLog], data: bytes) -> Rows | TableRows | None:
        """Rows that go on where the reader ended, if they make the same of what it read."""
        found: Rows | TableRows | None = None
        if len(runs) == 1 and self.options.get("run_column") is None:
            found = self._of_one(runs[0], data)
            self._base = runs[0]
        if found is None:
            several = TableRows if self.piece.kind == "text" else ObjectRows
            found = several.learn(data, runs, self.piece.where, self.options.get("run_column"))
        if found is not None:
            self._audit_at = max(self._audit * found.n_rows, 16)
        return found

    def _of_one(self, run: RunLog, data: bytes) -> Rows | None:
        lines = data.split(b"\n")[:-1]
        rows = Rows(run, "text" if self.piece.kind == "text" else "json", lines[0])
        taken = rows.learn(lines[1:] if self.piece.kind == "text" else lines)
        return rows if taken and rows.agrees(run) else None

    def _with_kept(self, run: RunLog) -> RunLog:
        """The run with the points that stood in its log before, if it goes on after them and does not tell them again."""
        kept = self._kept.get(run.name, {})
        both = [(kept[m], s) for m, s in run.metrics.items() if m in kept and kept[m].step.size and s.step.size]
        if not both:
            return run
        if any(new.step[0] <= old.step[0] for old, new in both):
            if all(new.step[-1] < old.step[-1] for old, new in both):
                self.notices.append(("restarted", f"run {run.name} starts over at {both[0][1].step[0]:g}"))
            self._kept.pop(run.name)
            return run
        self.notices.append(("rotated", f"{self.shown} was truncated or replaced; the points read from it before are kept"))
        return _after(kept, run)


class EventFollower(Follower):
    """The event files of one folder, each read on from its last whole frame."""

    def __init__(self, piece: Piece, options: Mapping[str, Any], *, named: bool = False) -> None:
        super().__init__(piece, options, named=named)
        self._events: dict[Path, tfevents.Events] = {}
        self._consumed: dict[Path, int] = {}
        self._stale = False
        self._newest = 0
        self._turns = 0

    def runs(self) -> list[RunLog]:
        if self._stale:
            self._stale = False
            self._runs = tensorboard.run_of([self._events[path] for path in self.piece.paths], self.piece.where)
        return self._runs

    def contested(self, run: RunLog, metric: str) -> bool:
        return self._turns >= _OFTEN or super().contested(run, metric)

    def _grow(self, before: Mapping[Path, Signature], now: Mapping[Path, Signature]) -> bool:
        grown = False
        for path, found in now.items():
            if path not in self._events or before.get(path, found)[0] != found[0] or found[1] < self._consumed[path]:
                self.due = True
            elif before.get(path) != found and self._more(path):
                grown = True
                # a restart goes on in a newer file and stays there
                order = self.piece.paths.index(path)
                self._turns += order < self._newest
                self._newest = order
        self._stale = self._stale or grown
        return grown

    def _more(self, path: Path) -> bool:
        with path.open("rb") as file:
            file.seek(self._consumed[path])
            data = file.read()
        whole = tfevents.whole_frames(data)
        if not whole:
            # a head that belongs to no frame: damage, which the reader says with its place
            self.due = len(data) >= 12 and not tfevents.is_event_file(data) and bool(data.strip(b"\0"))
            return False
        try:
            read = tfevents.read_few if whole <= _FEW else tfevents.read_events
            self._events[path].extend(read(data[:whole], str(path)))
        except FarfieldError:  # the reader says it better, with the place in the file
            self.due = True
            return False
        self._consumed[path] += whole
        return True

    def _read(self) -> list[RunLog]:
        events, consumed = {}, {}
        for path in self.piece.paths:
            data = path.read_bytes()
            consumed[path] = tfevents.whole_frames(data)
            events[path] = tfevents.read_events(data, str(path))
        self._events, self._consumed, self._newest, self._turns = events, consumed, 0, 0
        return tensorboard.run_of(list(events.values()), self.piece.where)


class WandbFollower(Follower):
    """A `.wandb` file, read on from its last whole record."""

    def __init__(self, piece: Piece, options: Mapping[str, Any], *, named: bool = False) -> None:
        super().__init__(piece, options, named=named)
        self._log: wandb.WandbLog | None = None
        self._stale = False

    def runs(self) -> list[RunLog]:
        if self._stale and self._log is not None:
            self._stale = False
            self._runs = self._log.runs()
        return self._runs

    def _grow(self, before: Mapping[Path, Signature], now: Mapping[Path, Signature]) -> bool:
        path = self.piece.paths[0]
        log = self._log
        if log is None or path not in before or before[path][0] != now[path][0] or now[path][1] < log.consumed:
            self.due = True
            return False
        consumed = log.consumed
        with path.open("rb") as file:
            file.seek(consumed)
            try:
                log.feed(file.read())
            except FarfieldError:
                self._log, self.due = None, True
        grown = log.consumed > consumed
        self._stale = self._stale or grown
        return grown

    def _read(self) -> list[RunLog]:
        log = wandb.WandbLog(self.piece.where)
        log.feed(self.piece.paths[0].read_bytes())
        self._log = log
        return log.runs()


class StoreFollower(Follower):
    """A SQLite store, read on by rowid where its points are only added to.

    It is compared with a whole reading after every change while it is small, within a minute of a change and whenever it has
    doubled after that. If that finds rows changed or deleted, it is read as a whole until a reading finds that they were only
    added to.
    """

    def __init__(self, piece: Piece, options: Mapping[str, Any], *, named: bool = False) -> None:
        super().__init__(piece, options, named=named)
        self._held: StoreRows | None = None
        self._edited = self._stale = False
        self._compare_at = np.inf
        self._doubled_at = 0.0

    def poll(self) -> bool:
        news = super().poll()
        self.due = self.due or (time.monotonic() >= self._compare_at and not self.gone)
        return news

    def runs(self) -> list[RunLog]:
        if self._stale and self._held is not None:
            try:
                with open_growing(self.piece.paths[0]) as store:
                    self._runs = self._logs(self._held.runs(store, self._runs))
                self._stale = False
            except (FarfieldError, OSError):  # it is being written, or gone: what was read before stands until the next look
                self.due = not self.gone
        return self._runs

    def _grow(self, before: Mapping[Path, Signature], now: Mapping[Path, Signature]) -> bool:
        path = self.piece.paths[0]
        self.due = True
        if self._held is None or self._edited or path not in now or path not in before or before[path][0] != now[path][0]:
            return False
        try:
            with open_growing(path) as store:
                self._held.more(store)
        except FarfieldError:  # a writer is at it, or worse: reading the whole tells
            return False
        except Unclear:
            self._held = None
            return False
        self._stale = True
        self.due = self._held.n_rows <= _SMALL or self._held.n_rows >= self._doubled_at
        self._compare_at = min(self._compare_at, time.monotonic() + _AGAIN)
        return True

    def _read(self) -> list[RunLog]:
        path = self.piece.paths[0]
        self._compare_at = np.inf
        with sqlite.open_store(path) as store:
            kind = store.kind()
            if kind is None:
                return super()._read()
            answered = Answering(store, kind)
            runs = STORES[kind](answered)
        held = StoreRows.of(kind, answered)
        self._edited = held is not None and self._held is not None and not held.only_added(self._held)
        self._held, self._stale = held, False
        self._doubled_at = 0.0 if held is None else _AUDIT * held.n_rows
        return runs


_KINDS: dict[str, type[Follower]] = {
    "text": LineFollower,
    "json": LineFollower,
    "tensorboard": EventFollower,
    "wandb": WandbFollower,
    "sqlite": StoreFollower,
}


def follower_of(piece: Piece, options: Mapping[str, Any], *, named: bool = False) -> Follower:
    """The follower for a piece; `named`: it was named by the user, not met in a folder."""
    return _KINDS.get(piece.kind, Follower)(piece, options, named=named)


def _is_lines(kind: str, data: bytes) -> bool:
    """Whether a file is read line by line: text is, JSON if its first line is an object of its own."""
    first, newline, _ = data.partition(b"\n")
    return bool(newline) and (kind == "text" or jsonlogs.is_object(first.decode("utf-8", errors="replace")))


def _after(kept: Mapping[str, Series], run: RunLog) -> RunLog:
    """A run with the points that stood in its log before it was truncated."""
    if not kept:
        return run
    metrics = dict(kept)
    for name, series in run.metrics.items():
        old = kept.get(name)
        if old is not None:
            time = None
            if old.time is not None or series.time is not None:
                time = np.concatenate([np.full(s.step.size, np.nan) if s.time is None else s.time for s in (old, series)])
            steps, values = np.concatenate([old.step, series.step]), np.concatenate([old.value, series.value])
            series = settle(steps, values, time, n_overlap=old.n_overlap + series.n_overlap)
        metrics[name] = series
    return dataclasses.replace(run, metrics=metrics)


def contested(step: Any) -> bool:
    """Whether the latest of some steps, in the order logged, come from two writers.

    Either they fall back and then leap over everything before, again and again: a restart falls back too, but climbs up again.
    Or each step is logged twice, which it was not before.
    """
    s = np.asarray(step, dtype=np.float64)
    s = s[np.isfinite(s)]
    if s.size < _RECENT // 4:
        return False
    gaps = np.diff(np.unique(s[-_RECENT:]))
    unit = float(np.median(gaps)) if gaps.size else 0.0
    highest = np.maximum.accumulate(s)[:-1]
    leaps = (s[1:] > highest) & (s[:-1] < highest - _OFTEN * unit)
    again = np.diff(s) == 0
    twice = again[-_RECENT:].sum() >= _OFTEN and s.size > _RECENT * 5 // 4 and not again[:-_RECENT].any()
    return bool(leaps[-_RECENT:].sum() >= _OFTEN or twice)
