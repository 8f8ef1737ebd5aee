"""CRC-32C of many short byte strings at once.

TFRecord guards every length and payload by a CRC-32C. A byte at a time in Python that is most of the reading time; here the
k-th byte of all strings is fed in one NumPy step. Strings of unequal length are padded with zero bytes in front, which
leave a CRC register that starts at zero unchanged; the standard start value is folded into the first four bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # Castagnoli, bit-reflected
_BLOCK = 512  # longer strings are cut into blocks of this many bytes
UintArray = NDArray[np.uint32]


def _byte_table() -> UintArray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


_TABLE = _byte_table()
_LIST = _TABLE.tolist()


def crc32c_reference(data: bytes) -> int:
    """CRC-32C of one byte string, the obvious way."""
    table, crc = _LIST, 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _after_zeros(n_bytes: int) -> UintArray:
    """(4, 256): what a register becomes after `n_bytes` zero bytes, as one table for each of its four bytes."""
    tables = (np.arange(256, dtype=np.uint32)[None, :] << np.array([[0], [8], [16], [24]], dtype=np.uint32)).astype(np.uint32)
    for _ in range(n_bytes):
        tables = (tables >> np.uint32(8)) ^ _TABLE[tables & np.uint32(0xFF)]
    return tables


def crc32c(data: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64]) -> UintArray:
    """CRC-32C of the slices ``data[start:start + length]``.

    Parameters
    ----------
    data : (n_bytes,) uint8; start, length : (n,) int64, slices inside `data`

    Returns
    -------
    (n,) uint32
    """
    out = np.empty(start.size, dtype=np.uint32)
    bucket = np.where(length <= 64, (length + 7) // 8, 8 + np.ceil(np.log2(np.maximum(length, 64) / 64) * 4)).astype(np.int64)
    short = length <= _BLOCK
    for b in np.unique(bucket[short]):
        rows = np.flatnonzero(short & (bucket == b))
        out[rows] = _registers(data, start[rows], length[rows], first=True)
    for row in np.flatnonzero(~short):
        out[row] = _long(data, int(start[row]), int(length[row]))
    return out ^ np.uint32(0xFFFFFFFF)


def _registers(data: NDArray[np.uint8], start: NDArray[np.int64], length: NDArray[np.int64], *, first: bool) -> UintArray:
    """(n,) CRC registers of slices: from the standard start value if `first`, else from zero."""
    width = int(length.max(initial=0))
    register = np.zeros(start.size, dtype=np.uint32)
    if first and width < 4:  # too short to fold the start value in
        return np.array(
            [crc32c_reference(data[s : s + n].tobytes()) ^ 0xFFFFFFFF for s, n in zip(start, length, strict=True)], dtype=np.uint32
        )
    pad = width - length
    same = not pad.any()
    for k in range(width):
        inside = k - pad
        byte = data[start + inside] if same else np.where(inside >= 0, data[np.maximum(start + inside, 0)], 0)
        if first and (not same or k < 4):
            byte = np.where((inside >= 0) & (inside < 4), byte ^ np.uint8(0xFF), byte)
        register = (register >> np.uint32(8)) ^ _TABLE[(register ^ byte) & np.uint32(0xFF)]
    if first and not same:
        tiny = np.flatnonzero(length < 4)
        for i in tiny:
            register[i] = crc32c_reference(data[start[i] : start[i] + length[i]].tobytes()) ^ 0xFFFFFFFF
    return register


def _long(data: NDArray[np.uint8], start: int, length: int) -> int:
    """The register of one long slice: its blocks at once, then joined by shifting each past the next."""
    head = length % _BLOCK or _BLOCK
    n_blocks = (length - head) // _BLOCK
    register = int(_registers(data, np.array([start]), np.array([head]), first=True)[0])
    starts = start + head + _BLOCK * np.arange(n_blocks, dtype=np.int64)
    blocks = _registers(data, starts, np.full(n_blocks, _BLOCK, dtype=np.int64), first=False)
    t0, t1, t2, t3 = _shift_tables()
    for block in blocks.tolist():
        shifted = t0[register & 0xFF] ^ t1[register >> 8 & 0xFF] ^ t2[register >> 16 & 0xFF] ^ t3[register >> 24]
        register = shifted ^ block
    return register


_shift_cache: list[list[list[int]]] = []


def _shift_tables() -> list[list[int]]:
    if not _shift_cache:
        _shift_cache.append(_after_zeros(_BLOCK).tolist())
    return _shift_cache[0]


def unmasked(masked: UintArray) -> UintArray:
    """(n,) the CRCs behind TFRecord's masked ones (rotated by 15 bits, offset added)."""
    rotated = masked - np.uint32(0xA282EAD8)
    return (rotated >> np.uint32(17)) | (rotated << np.uint32(15))
