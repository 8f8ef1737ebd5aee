"""The protobuf wire format: walk the fields of a message without its schema.

Only what the readers need: every field as (number, wire type, start, end), nothing copied. Varints carry their value in
`start`. Source: the protocol buffers encoding guide.
"""

from __future__ import annotations

from collections.abc import Iterator

from farfield.errors import FormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The unsigned varint at `at` and the position after it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise FormatError(f"protobuf message ends or overflows inside a number at byte {at}")


def signed(value: int) -> int:
    """An int64 field's value from its varint."""
    return value - (1 << 64) if value >= 1 << 63 else value


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message ``data[at:end]``: (number, wire type, start or varint value, end)."""
    while at < end:
        key = data[at]
        if key < 0x80:  # nearly all are one byte: read here, without a call
            at += 1
        else:
            key, at = varint(data, at, end)
        number, kind = key >> 3, key & 7
        if kind == BYTES:
            if at < end and data[at] < 0x80:
                length = data[at]
                at += 1
            else:
                length, at = varint(data, at, end)
            stop = at + length
        elif kind == VARINT:
            start = at
            value, at = varint(data, start, end)
            yield number, kind, value, at
            continue
        elif kind == FIXED64:
            stop = at + 8
        elif kind == FIXED32:
            stop = at + 4
        else:
            raise FormatError(f"protobuf wire type {kind} at byte {at} is not one that exists in logs")
        if stop > end or number == 0:
            raise FormatError(f"protobuf field {number} at byte {at} runs past the end of its message")
        yield number, kind, at, stop
        at = stop


def text(data: bytes, start: int, end: int) -> str:
    """A string field; bytes that are not UTF-8 are shown as replacement characters."""
    return data[start:end].decode("utf-8", errors="replace")
