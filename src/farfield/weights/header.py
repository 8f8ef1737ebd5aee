"""The header of a safetensors file: read with suspicion, written in the order that keeps every tensor aligned.

A file is 8 bytes (the header's length, little-endian), the header (a JSON object: tensor name -> dtype, shape, data_offsets, and
``__metadata__`` of strings) and the body, in which the tensors lie without gaps or overlaps. A header is data from strangers:
whatever does not add up exactly is refused with the tensor and the number at fault. Format: safetensors README, "Format".
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from farfield.errors import FormatError, InputError

# bits an element -> dtypes
_DTYPES_BY_BITS = {
    4: "F4",
    6: "F6_E2M3 F6_E3M2",
    8: "BOOL U8 I8 F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
    16: "U16 I16 F16 BF16",
    32: "U32 I32 F32",
    64: "U64 I64 F64 C64",
}
DTYPE_BITS = {dtype: bits for bits, dtypes in _DTYPES_BY_BITS.items() for dtype in dtypes.split()}
# what weights can be computed with as they are stored; narrower floats need scales that stand elsewhere
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
QUANTISED_DTYPES = tuple(d for d in DTYPE_BITS if d.startswith("F") and d not in FLOAT_DTYPES)

MOST_JSON = 100_000_000  # bytes; the limit of the format
_MOST_AXES = 64
METADATA_KEY = "__metadata__"
_FOREIGN = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))  # zip, pickles


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: its bytes are ``offset .. offset + nbytes`` of the file `shard`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    shard: str
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """One file's tensors in the order of their bytes, and its metadata."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]
    body: int  # where the body starts
    file_size: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file, checked against the file's size.

    Raises InputError where the file cannot be read, FormatError where anything in it does not add up.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            text = _header_bytes(file, size, path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    return _parse(text, size, path)


def _header_bytes(file: BinaryIO, size: int, path: Path) -> bytes:
    if size < 8:
        raise FormatError(f"{path} is {size} bytes long, too short for a safetensors file")
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if length > MOST_JSON or 8 + length > size:
        if start.startswith(_FOREIGN):
            raise FormatError(f"{path} is a pickle or zip, which could run code when read; convert it to safetensors first")
        if length > MOST_JSON:
            raise FormatError(f"{path} announces a header of {length} bytes; allowed: up to {MOST_JSON}")
        raise FormatError(f"{path} is truncated: a header of {length} bytes is announced and {size - 8} bytes follow")
    return file.read(length)


def strict_json(text: bytes, what: str) -> Any:
    """JSON in which no key stands twice and nothing but JSON is accepted; FormatError, which names `what`, otherwise."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"the key {_shown(twice)} stands twice")
        return out

    def refused(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=refused)
    except RecursionError:
        raise FormatError(f"{what} is nested too deeply") from None
    except ValueError as error:  # also UnicodeDecodeError, and integers of more digits than Python reads
        raise FormatError(f"{what} is not valid JSON: {error}") from None


def _parse(text: bytes, file_size: int, path: Path) -> Header:
    if not text.startswith(b"{"):
        raise FormatError(f"{path}: the header does not start with '{{'; it is not a safetensors file, or damaged")
    entries = strict_json(text, f"{path}: the header")
    body = 8 + len(text)
    metadata = _metadata(entries.pop(METADATA_KEY, {}), path)
    tensors = sorted((_tensor(n, e, body, path) for n, e in entries.items()), key=lambda t: (t.offset, t.nbytes))
    at = body
    for tensor in tensors:
        if tensor.offset != at:
            problem = "overlaps the one before" if tensor.offset < at else f"leaves a gap of {tensor.offset - at} bytes before it"
            raise FormatError(f"{path}: tensor {_shown(tensor.name)} {problem}")
        at += tensor.nbytes
        if at > file_size:
            raise FormatError(
                f"{path} is truncated: tensor {_shown(tensor.name)} ends at byte {at}, the file at {file_size}; get it again"
            )
    if at != file_size:
        raise FormatError(f"{path}: {file_size - at} bytes after the last tensor belong to none")
    return Header(tuple(tensors), metadata, body, file_size)


def _metadata(value: Any, path: Path) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise FormatError(f"{path}: {METADATA_KEY} must be an object of strings")
    for text in (*value.keys(), *value.values()):
        _check_encodes(text, f"{path}: {METADATA_KEY}")
    return value


def _tensor(name: str, entry: Any, body: int, path: Path) -> TensorInfo:
    where = f"{path}: tensor {_shown(name)}"
    check_name(name, str(path))
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{where} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise FormatError(f"{where} has the dtype {_shown(dtype)}; allowed: {', '.join(DTYPE_BITS)}")
    if not _are_counts(shape) or len(shape) > _MOST_AXES:
        raise FormatError(f"{where} has the shape {_shown(shape)}; allowed: up to {_MOST_AXES} lengths from 0 up")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise FormatError(f"{where} has the data_offsets {_shown(offsets)}; allowed: two positions from 0 up")
    start, stop = offsets
    nbytes = _nbytes(dtype, shape)
    if nbytes is None or stop - start != nbytes:
        raise FormatError(
            f"{where}: {dtype} of shape {_shown(shape)} takes {'no whole number of' if nbytes is None else nbytes} bytes, "
            f"and its data_offsets span {stop - start}"
        )
    return TensorInfo(name, dtype, tuple(shape), nbytes, path.name, body + start)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def _nbytes(dtype: str, shape: Sequence[int]) -> int | None:
    bits = DTYPE_BITS[dtype] * math.prod(shape)  # Python integers do not overflow
    return None if bits % 8 else bits // 8


def check_name(name: str, where: str) -> None:
    """Refuse (FormatError) a tensor name that a terminal or a file could not carry."""
    _check_encodes(name, f"{where}: tensor {_shown(name)}")
    if any(unicodedata.category(c) == "Cc" for c in name):
        raise FormatError(f"{where}: the tensor name {_shown(name)} holds control characters")


def _check_encodes(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{where} holds half of a surrogate pair, which is no text") from None


def _shown(value: Any) -> str:
    """A value from a stranger as an error message quotes it: escaped, and short."""
    if isinstance(value, list) and len(value) > 8:
        return f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "an integer beyond 64 bits"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    text = ascii(value)
    return text if len(text) <= 120 else text[:117] + "..."


def build_header(
    shard: str, tensors: Sequence[tuple[str, str, Sequence[int]]], metadata: Mapping[str, str]
) -> tuple[bytes, tuple[TensorInfo, ...]]:
    """The first bytes of a file of these (name, dtype, shape), up to its body, and where each tensor will lie.

    Wide elements come first, so that each tensor starts at a multiple of its item size.

    Raises InputError for a dtype, shape or name that a file cannot hold.
    """
    entries: dict[str, Any] = {}
    if metadata:
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
            raise InputError(f"{shard}: metadata must map text to text")
        entries[METADATA_KEY] = dict(metadata)
    placed: list[tuple[str, str, tuple[int, ...], int, int]] = []
    at = 0
    for name, dtype, shape in sorted(tensors, key=lambda t: -DTYPE_BITS.get(t[1], 0)):
        nbytes = _checked_nbytes(shard, name, dtype, shape, entries)
        entries[name] = {"dtype": dtype, "shape": [int(n) for n in shape], "data_offsets": [at, at + nbytes]}
        placed.append((name, dtype, tuple(int(n) for n in shape), nbytes, at))
        at += nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_JSON:
        raise InputError(
            f"{shard}: {len(placed)} tensors need a header of {len(text)} bytes; allowed: {MOST_JSON}; use more shards"
        )
    body = 8 + len(text)
    infos = tuple(TensorInfo(name, dtype, shape, nbytes, shard, body + at) for name, dtype, shape, nbytes, at in placed)
    return len(text).to_bytes(8, "little") + text, infos


def _checked_nbytes(shard: str, name: str, dtype: str, shape: Sequence[int], entries: Mapping[str, Any]) -> int:
    if name in entries or name == METADATA_KEY:
        raise InputError(f"{shard}: the tensor name {_shown(name)} stands twice or is reserved")
    try:
        check_name(name, shard)
    except FormatError as error:
        raise InputError(str(error)) from None
    lengths = [int(n) for n in shape]
    nbytes = (
        _nbytes(dtype, lengths) if dtype in DTYPE_BITS and min(lengths, default=0) >= 0 and len(lengths) <= _MOST_AXES else None
    )
    if nbytes is None:
        raise InputError(f"{shard}: tensor {_shown(name)} cannot be stored as {dtype} of shape {tuple(lengths)}")
    return nbytes
