"""TensorBoard event files: TFRecord frames around protobuf Events, read without TensorFlow or protobuf.

A frame is a u64 length, the masked CRC-32C of it, the payload, and its masked CRC-32C. Payloads of one writer repeat: same
tag lengths, same nesting, only the time, step, tag letters and value differ. So one payload of each kind is parsed field by
field, and where the bytes that carry structure agree the other payloads of that length are read by position, all at once.
A file that ends inside a frame is one that is still being written: what is whole is read. Any other damage is an error.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.curves.readers import wire
from farfield.curves.readers.crc import crc32c, crc32c_reference, unmasked
from farfield.curves.readers.record import Scalar
from farfield.errors import FormatError

_HEADER, _FOOTER = 12, 4
_LONGEST_STAMPED = 512  # longer payloads hold images or histograms: parse them one by one
_MOST_LAYOUTS = 100  # of payloads of one length; a writer has a handful
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}  # TensorProto dtype -> NumPy
_REPEATED = {1: 5, 2: 6}  # dtype -> the TensorProto field that holds its values when tensor_content does not
Chunk = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]  # order, step, time, value


@dataclass
class Events:
    """The scalars of one event file: tag -> (order, step, wall time, value), and what else it says about the run."""

    scalars: dict[str, Chunk] = field(default_factory=dict)
    starts: list[tuple[int, int]] = field(default_factory=list)  # (order, step) of declared restarts
    config: dict[str, Scalar] = field(default_factory=dict)
    group: str | None = None
    n_events: int = 0

    def extend(self, later: Events) -> None:
        """Append what was read from further on in the same file."""
        base = self.n_events
        for tag, (order, step, wall, value) in later.scalars.items():
            chunk = (order + base, step, wall, value)
            before = self.scalars.get(tag)
            self.scalars[tag] = chunk if before is None else _joined(before, chunk)
        self.starts += [(order + base, step) for order, step in later.starts]
        self.config |= later.config
        self.group = later.group or self.group
        self.n_events += later.n_events


def _joined(a: Chunk, b: Chunk) -> Chunk:
    return np.append(a[0], b[0]), np.append(a[1], b[1]), np.append(a[2], b[2]), np.append(a[3], b[3])


@dataclass
class _Layout:
    """Where things lie in one payload, relative to its start; `values` are (tag start, tag end, value at, NumPy type)."""

    wall_at: int = -1
    step_at: int = -1
    step_end: int = -1
    values: list[tuple[int, int, int, str]] = field(default_factory=list)
    starts_session: bool = False
    hparams: list[tuple[int, int]] = field(default_factory=list)


def is_event_file(head: bytes) -> bool:
    """Whether `head` (>= 12 bytes) begins a TFRecord: a length and the CRC that belongs to it."""
    if len(head) < _HEADER:
        return False
    data = np.frombuffer(head[:_HEADER], dtype=np.uint8)
    want = unmasked(data[8:12].copy().view("<u4"))
    return bool(crc32c(data, np.array([0]), np.array([8]))[0] == want[0])


def whole_frames(data: bytes) -> int:
    """Bytes up to where the last whole frame of `data` ends."""
    at, size, read = 0, len(data), struct.Struct("<Q").unpack_from
    while at + _HEADER <= size:
        length = read(data, at)[0]
        if not 0 < length <= size - at - _HEADER - _FOOTER:  # cut off, or blank: allocated, not yet written
            break
        at += _HEADER + length + _FOOTER
    return at


def frames(data: bytes, path: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(start, length) of every whole payload in `data`, CRCs checked.

    Raises
    ------
    FormatError : a length or payload does not match its CRC
    """
    starts, lengths = [], []
    at, size, read = 0, len(data), struct.Struct("<Q").unpack_from
    while at + _HEADER <= size:
        length = read(data, at)[0]
        if length > size - at - _HEADER - _FOOTER:
            break
        starts.append(at + _HEADER)
        lengths.append(length)
        at += _HEADER + length + _FOOTER
    start, length_array = np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int64)
    bytes_ = np.frombuffer(data, dtype=np.uint8)
    four = np.arange(4)
    heads = np.append(start - _HEADER, at) if at + _HEADER <= size else start - _HEADER
    if heads.size:
        want = unmasked(bytes_[heads[:, None] + 8 + four].view("<u4").ravel())
        good = crc32c(bytes_, heads, np.full(heads.size, 8)) == want
        if not good.all():
            bad = int(np.argmin(good))
            if data[int(heads[bad]) :].strip(b"\0"):
                raise _damaged(path, int(heads[bad]), size)
            start, length_array = start[:bad], length_array[:bad]  # blank to the end: allocated, not yet written
    if start.size:
        want = unmasked(bytes_[(start + length_array)[:, None] + four].view("<u4").ravel())
        good = crc32c(bytes_, start, length_array) == want
        if not good.all():
            raise _damaged(path, int(start[int(np.argmin(good))]) - _HEADER, size)
    return start, length_array


def read_few(data: bytes, path: str) -> Events:
    """As :func:`read_events`, frame by frame: for the few that a writer appends in a second, faster than all at once."""
    found: dict[str, list[tuple[int, int, float, float]]] = defaultdict(list)
    events = Events()
    at, whole = 0, whole_frames(data)
    while at < whole:
        start, length = at + _HEADER, struct.unpack_from("<Q", data, at)[0]
        for a, b in ((at, at + 8), (start, start + length)):
            if _masked(crc32c_reference(data[a:b])) != struct.unpack_from("<I", data, b)[0]:
                raise _damaged(path, at, len(data))
        layout = _parsed(data, start, length, events.n_events, events, path)
        wall = struct.unpack_from("<d", data, start + layout.wall_at)[0] if layout.wall_at >= 0 else np.nan
        step = wire.varint(data, start + layout.step_at, start + layout.step_end)[0] if layout.step_at >= 0 else 0
        for tag_at, tag_end, value_at, dtype in layout.values:
            value = float(np.frombuffer(data, dtype=dtype, count=1, offset=start + value_at)[0])
            tag = wire.text(data, start + tag_at, start + tag_end)
            found[tag].append((events.n_events, wire.signed(step), wall, value))
        events.n_events += 1
        at = start + length + _FOOTER
    for tag, rows in found.items():
        order, steps, walls, values = zip(*rows, strict=True)
        events.scalars[tag] = (np.array(order), np.array(steps), np.array(walls), np.array(values))
    return events


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _damaged(path: str, at: int, size: int) -> FormatError:
    return FormatError(f"{path}: event file is damaged at byte {at} of {size} (checksum differs); copy it again from its source")


def read_events(data: bytes, path: str) -> Events:
    """The scalars, restarts and hyperparameters in the bytes of one event file."""
    start, length = frames(data, path)
    events = Events(n_events=start.size)
    found: dict[str, list[Chunk]] = defaultdict(list)
    by_length = np.argsort(length, kind="stable")
    cuts = np.flatnonzero(np.diff(length[by_length])) + 1
    for rows in np.split(by_length, cuts):
        if rows.size:
            _read_group(data, rows, start, int(length[rows[0]]), found, events, path)
    for tag, chunks in found.items():
        order, step, wall, value = (np.concatenate([c[k] for c in chunks]) for k in range(4))
        by = np.argsort(order, kind="stable")
        events.scalars[tag] = (order[by], step[by], wall[by], value[by])
    events.starts.sort()
    return events


def _read_group(
    data: bytes,
    rows: NDArray[np.int64],
    start: NDArray[np.int64],
    length: int,
    found: dict[str, list[Chunk]],
    events: Events,
    path: str,
) -> None:
    """Read the payloads `rows`, all `length` bytes long: parse one, stamp the layout on those like it, go on with the rest."""
    alone = layouts = 0
    while rows.size:
        layouts += 1
        if length > _LONGEST_STAMPED or alone > 8 or layouts > _MOST_LAYOUTS:  # nothing repeats here: one by one
            for row in rows:
                layout = _parsed(data, int(start[row]), length, int(row), events, path)
                payload = np.frombuffer(data, dtype=np.uint8, count=length, offset=int(start[row]))[None, :]
                _stamp(payload, np.array([row]), layout, found)
            return
        layout = _parsed(data, int(start[rows[0]]), length, int(rows[0]), events, path)
        same = np.arange(rows.size) == 0
        if layout.values:
            payload = np.frombuffer(data, dtype=np.uint8)[start[rows][:, None] + np.arange(length)]
            same = _alike(payload, layout)
            _stamp(payload[same], rows[same], layout, found)
        alone = alone + 1 if same.sum() == 1 else 0
        rows = rows[~same]


def _parsed(data: bytes, at: int, length: int, order: int, events: Events, path: str) -> _Layout:
    """The layout of the payload at `at`; the restart or hyperparameters it declares go to `events`."""
    try:
        layout = _layout(data, at, at + length)
        if layout.starts_session:
            step = wire.varint(data, at + layout.step_at, at + layout.step_end)[0] if layout.step_at >= 0 else 0
            events.starts.append((order, wire.signed(step)))
        for start, end in layout.hparams:
            config, group = _hparams(data, start, end)
            events.config.update(config)
            events.group = group or events.group
    except FormatError as error:
        raise FormatError(f"{path}: event at byte {at} cannot be read: {error}") from error
    return layout


def _alike(payload: NDArray[np.uint8], layout: _Layout) -> NDArray[np.bool_]:
    """Rows whose structure is that of row 0, so that the same layout reads them."""
    fixed = np.ones(payload.shape[1], dtype=bool)
    if layout.wall_at >= 0:
        fixed[layout.wall_at : layout.wall_at + 8] = False
    fixed[max(layout.step_at, 0) : max(layout.step_end, 0)] = False
    for tag_at, tag_end, value_at, dtype in layout.values:
        fixed[tag_at:tag_end] = False
        fixed[value_at : value_at + np.dtype(dtype).itemsize] = False
    same: NDArray[np.bool_] = (payload[:, fixed] == payload[0, fixed]).all(axis=1)
    if layout.step_at >= 0:
        more = payload[:, layout.step_at : layout.step_end] & 0x80
        same &= (more == more[0]).all(axis=1)
    return same


def _stamp(payload: NDArray[np.uint8], order: NDArray[np.int64], layout: _Layout, found: dict[str, list[Chunk]]) -> None:
    n = order.size
    wall = np.full(n, np.nan)
    if layout.wall_at >= 0:
        wall = _column(payload, layout.wall_at, "<f8")
    step = np.zeros(n, dtype=np.uint64)
    for k in range(layout.step_end - layout.step_at if layout.step_at >= 0 else 0):
        step |= (payload[:, layout.step_at + k].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * k)
    steps = step.view(np.int64)
    for tag_at, tag_end, value_at, dtype in layout.values:
        value = _column(payload, value_at, dtype).astype(np.float64)
        if tag_end == tag_at:
            found[""].append((order, steps, wall, value))
            continue
        letters = np.ascontiguousarray(payload[:, tag_at:tag_end])
        tags, which = np.unique(letters.view(f"V{tag_end - tag_at}").ravel(), return_inverse=True)
        for i, tag in enumerate(tags):
            pick = which == i if tags.size > 1 else slice(None)
            found[tag.tobytes().decode("utf-8", errors="replace")].append((order[pick], steps[pick], wall[pick], value[pick]))


def _column(payload: NDArray[np.uint8], at: int, dtype: str) -> Any:
    return np.ascontiguousarray(payload[:, at : at + np.dtype(dtype).itemsize]).view(dtype).ravel()


def _layout(data: bytes, start: int, end: int) -> _Layout:
    """Parse one Event {1: wall_time, 2: step, 5: summary, 7: session_log {1: status, START = 1}}."""
    layout = _Layout()
    for number, kind, a, b in wire.fields(data, start, end):
        if number == 1 and kind == wire.FIXED64:
            layout.wall_at = a - start
        elif number == 2 and kind == wire.VARINT:
            layout.step_at, layout.step_end = _varint_start(data, b) - start, b - start
        elif number == 5 and kind == wire.BYTES:
            for inner, inner_kind, c, d in wire.fields(data, a, b):
                if inner == 1 and inner_kind == wire.BYTES:
                    _value(data, c, d, start, layout)
        elif number == 7 and kind == wire.BYTES:
            layout.starts_session = any(f == 1 and k == wire.VARINT and v == 1 for f, k, v, _ in wire.fields(data, a, b))
    return layout


def _varint_start(data: bytes, end: int) -> int:
    """Where the varint that ends at `end` begins: what is before it, the end of a field's key, has no high bit."""
    at = end - 1
    while data[at - 1] >= 0x80:
        at -= 1
    return at


def _value(data: bytes, start: int, end: int, base: int, layout: _Layout) -> None:
    """One Summary.Value {1: tag, 2: simple_value, 8: tensor, 9: metadata {1: plugin {1: name, 2: content}}}."""
    tag, spot = (start, start), None
    for number, kind, a, b in wire.fields(data, start, end):
        if number == 1 and kind == wire.BYTES:
            tag = (a, b)
        elif number == 2 and kind == wire.FIXED32:
            spot = (a, "<f4")
        elif number == 8 and kind == wire.BYTES:
            spot = _scalar_tensor(data, a, b)
        elif number == 9 and kind == wire.BYTES and data.find(b"hparams", a, b) >= 0:
            for inner, inner_kind, c, d in wire.fields(data, a, b):
                if inner == 1 and inner_kind == wire.BYTES:
                    layout.hparams += [(e, f) for n, k, e, f in wire.fields(data, c, d) if n == 2 and k == wire.BYTES]
    if spot is not None and not data.startswith(b"_hparams_/", tag[0]):
        layout.values.append((tag[0] - base, tag[1] - base, spot[0] - base, spot[1]))


def _scalar_tensor(data: bytes, start: int, end: int) -> tuple[int, str] | None:
    """Where the one number of a TensorProto lies, and its type; None if it is not one number."""
    dtype, spots = 0, {}
    for number, kind, a, b in wire.fields(data, start, end):
        if number == 1 and kind == wire.VARINT:
            dtype = a
        elif number == 2 and kind == wire.BYTES:
            for inner, inner_kind, c, d in wire.fields(data, a, b):
                if inner == 2 and inner_kind == wire.BYTES and any(n == 1 and v != 1 for n, _, v, _ in wire.fields(data, c, d)):
                    return None
        elif number in (4, 5, 6):
            spots[number] = (a, b)
    if dtype not in _DTYPES:
        return None
    size = np.dtype(_DTYPES[dtype]).itemsize
    a, b = spots.get(4) or spots.get(_REPEATED.get(dtype, 4)) or (0, 0)
    return (a, _DTYPES[dtype]) if b - a == size else None


def _hparams(data: bytes, start: int, end: int) -> tuple[dict[str, Scalar], str | None]:
    """The hparams plugin's session start {3: {1: map of name -> Value, 4: group name}}."""
    config: dict[str, Scalar] = {}
    group = None
    for number, kind, a, b in wire.fields(data, start, end):
        if number != 3 or kind != wire.BYTES:
            continue
        for inner, inner_kind, c, d in wire.fields(data, a, b):
            if inner == 4 and inner_kind == wire.BYTES:
                group = wire.text(data, c, d) or None
            elif inner == 1 and inner_kind == wire.BYTES:
                entry = {n: (e, f) for n, k, e, f in wire.fields(data, c, d) if k == wire.BYTES}
                if 1 in entry and 2 in entry:
                    config[wire.text(data, *entry[1])] = _plain_value(data, *entry[2])
    return config, group


def _plain_value(data: bytes, start: int, end: int) -> Scalar:
    """A google.protobuf.Value {2: number, 3: string, 4: bool}; anything else is None."""
    for number, kind, a, b in wire.fields(data, start, end):
        if number == 2 and kind == wire.FIXED64:
            return float(struct.unpack_from("<d", data, a)[0])
        if number == 3 and kind == wire.BYTES:
            return wire.text(data, a, b)
        if number == 4 and kind == wire.VARINT:
            return bool(a)
    return None
