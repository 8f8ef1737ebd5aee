"""Weights & Biases offline files (`run-*.wandb`): a LevelDB-style log of protobuf Records.

After a 7-byte head come 32 KiB blocks of pieces: CRC-32 (zlib, started with the type byte), u16 length, u8 type (1 whole,
2 first, 3 middle, 4 last), payload. Records used: 2 history, 5 config, 17 run, 18 exit. Values are JSON text, in which NaN and
Infinity occur bare or in quotes. A run that is resumed begins a new file under its id (:mod:`farfield.curves.readers.resumed`). A
file without an exit record is a run that is live or was killed; it is called running.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from farfield.curves.readers import wire
from farfield.curves.readers.record import PointLog, RunLog, Where, as_number, config_of, flatten
from farfield.errors import FormatError

MAGIC = b":W&B"
_HEAD, _BLOCK, _PIECE = 7, 32768, 7
_INTERNAL = ("_wandb", "_step", "_timestamp")
_DEEPEST = 100


def read_wandb(data: bytes, where: Where) -> list[RunLog]:
    """The run in the bytes of one `.wandb` file; none if nothing was logged yet.

    Raises
    ------
    FormatError : wrong head, or a piece that does not match its checksum
    """
    log = WandbLog(where)
    log.feed(data)
    return log.runs()


class WandbLog:
    """A `.wandb` file read as it grows: `feed` what follows the first `consumed` bytes, then ask for the `runs`."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._run: dict[str, str] = {}
        self._config: dict[str, Any] = {}
        self._status = "running"
        self._began = math.inf
        self._points = PointLog()
        self.consumed = 0
        self._pending = b""  # the pieces so far of a record that goes on in the next block

    def feed(self, data: bytes) -> None:
        """The bytes of the file after the first `consumed`; a piece at their end that is not whole is not consumed.

        Raises
        ------
        FormatError : wrong head, or a piece that does not match its checksum
        """
        path, start = self._where.path, 0
        if self.consumed == 0:
            if not data.startswith(MAGIC) or len(data) < _HEAD:
                raise FormatError(f"{path}: not a W&B offline file (it must begin with {MAGIC!r} and a version)")
            start = _HEAD
        try:
            for record in self._records(data, start):
                self._take(record)
        except FormatError as error:
            raise error if path in str(error) else FormatError(f"{path}: {error}") from error

    def runs(self) -> list[RunLog]:
        """The run as far as it was fed; none if nothing was logged yet."""
        metrics = self._points.series()
        if not metrics:
            return []
        run, where = self._run, self._where
        return [
            RunLog(
                run.get("name") or run.get("id") or where.name,
                where.path,
                metrics,
                config=config_of({k: v for k, v in self._config.items() if k != "_wandb"}),
                group=run.get("group") or run.get("sweep"),
                folder=run.get("project") or where.folder,
                status=self._status,
                part_of=f"wandb {run.get('entity', '')}/{run.get('project', '')}/{run['id']}" if "id" in run else None,
                began=self._began,
            )
        ]

    def _take(self, record: bytes) -> None:
        for number, kind, a, b in wire.fields(record, 0, len(record)):
            if kind != wire.BYTES:
                continue
            if number == 2:
                _history(record, a, b, self._points)
            elif number == 5:
                _config(record, a, b, self._config)
            elif number == 17:
                _run(record, a, b, self._run, self._config)
                self._began = min(self._began, _began(record, a, b))
            elif number == 18:
                codes = [v for n, k, v, _ in wire.fields(record, a, b) if n == 1 and k == wire.VARINT]
                self._status = "killed" if codes and codes[0] else "finished"

    def _records(self, data: bytes, at: int) -> Iterator[bytes]:
        """The whole records of `data` from `at`."""
        base, size, path = self.consumed, len(data), self._where.path
        try:
            while at + _PIECE <= size:
                room = _BLOCK - (base + at) % _BLOCK
                if room < _PIECE:
                    at += room
                    continue
                crc, length, kind = struct.unpack_from("<IHB", data, at)
                if kind == 0 and crc == 0 and length == 0 and not data[at:].strip(b"\0"):
                    return  # blank to the end: allocated, not yet written
                payload = data[at + _PIECE : at + _PIECE + length]
                if length > room - _PIECE or kind not in (1, 2, 3, 4):
                    raise FormatError(
                        f"{path}: W&B file is damaged at byte {base + at} of {base + size} (impossible record); "
                        "copy it again from its source"
                    )
                if len(payload) < length:
                    return
                if zlib.crc32(payload, zlib.crc32(bytes((kind,)))) != crc:
                    raise FormatError(
                        f"{path}: W&B file is damaged at byte {base + at} of {base + size} (checksum differs); "
                        "copy it again from its source"
                    )
                at += _PIECE + length
                if kind == 1:
                    yield payload
                elif kind == 2:
                    self._pending = payload
                else:
                    self._pending += payload
                    if kind == 4:
                        yield self._pending
        finally:
            self.consumed = base + min(at, size)


def _item(data: bytes, start: int, end: int) -> tuple[list[str], str]:
    """A history or config item {1: key, 2: nested keys, 16: JSON text} as (path, JSON text)."""
    key, nested, value = "", [], ""
    for number, kind, a, b in wire.fields(data, start, end):
        if kind == wire.BYTES:
            if number == 1:
                key = wire.text(data, a, b)
            elif number == 2:
                nested.append(wire.text(data, a, b))
            elif number == 16:
                value = wire.text(data, a, b)
    return nested or [key], value


def _history(data: bytes, start: int, end: int, points: PointLog) -> None:
    """One history record {1: items, 2: step {1: number}}: every number in it at its step."""
    step, row = None, []
    for number, kind, a, b in wire.fields(data, start, end):
        if number == 1 and kind == wire.BYTES:
            path, text = _item(data, a, b)
            row.append((".".join(path), text))
        elif number == 2 and kind == wire.BYTES:
            step = next((float(wire.signed(v)) for n, k, v, _ in wire.fields(data, a, b) if n == 1 and k == wire.VARINT), 0.0)
    values = [(key, number) for key, text in row for key, number in _numbers(key, text)]
    known = dict(values)
    at = known.get("_step", step if step is not None else float("nan"))
    time = known.get("_timestamp", float("nan"))
    for key, value in values:
        if not key.startswith(_INTERNAL):
            points.add(key, at, value, time)


def _numbers(key: str, text: str) -> list[tuple[str, float]]:
    """The numbers in one JSON value; a nested object gives one for each of its leaves."""
    try:
        return [(key, float(text))]  # covers NaN, Infinity and -Infinity too
    except ValueError:
        pass
    if text[:1] == "{":
        leaves = flatten({key: _json(text)})
        if leaves.get(f"{key}._type"):  # media and histograms, not a metric
            return []
        return [(k, n) for k, v in leaves.items() if (n := as_number(v)) is not None]
    number = as_number(text.strip('"')) if text[:1] == '"' else None
    return [] if number is None else [(key, number)]


def _json(text: str) -> Any:
    if text.count("{") + text.count("[") > _DEEPEST * 10:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _config(data: bytes, start: int, end: int, config: dict[str, Any]) -> None:
    """One config record {1: updates, 2: removals}."""
    for number, kind, a, b in wire.fields(data, start, end):
        if kind == wire.BYTES and number in (1, 2):
            path, value = _item(data, a, b)
            if number == 1:
                config[".".join(path)] = _json(value)
            else:
                config.pop(".".join(path), None)


def _run(data: bytes, start: int, end: int, run: dict[str, str], config: dict[str, Any]) -> None:
    """One run record {1: id, 2: entity, 3: project, 4: config, 6: group, 8: display name, 12: sweep}."""
    names = {1: "id", 2: "entity", 3: "project", 6: "group", 8: "name", 12: "sweep"}
    for number, kind, a, b in wire.fields(data, start, end):
        if kind == wire.BYTES and number in names:
            run[names[number]] = wire.text(data, a, b)
        elif kind == wire.BYTES and number == 4:
            _config(data, a, b, config)


def _began(data: bytes, start: int, end: int) -> float:
    """When the process of a run record {17: time {1: seconds, 2: nanoseconds}} began; infinity where it does not say."""
    for number, kind, a, b in wire.fields(data, start, end):
        if number == 17 and kind == wire.BYTES:
            parts = {n: wire.signed(v) for n, k, v, _ in wire.fields(data, a, b) if k == wire.VARINT}
            return parts.get(1, 0) + parts.get(2, 0) / 1e9
    return math.inf
