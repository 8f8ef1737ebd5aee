"""CRC-32 of a whole from the CRC-32s of its pieces, so that pieces may be written in any order and are read only once.

Appending n zero bytes to a message maps its CRC linearly over GF(2), and crc(a + b) = crc(a + n zeros) xor crc(b) for the CRC-32 of
zlib with its pre- and post-conditioning. The map is a 32 x 32 bit matrix, the 8 n-th power of the shift by one bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

_POLYNOMIAL = 0xEDB88320  # reflected, as zlib has it
_Matrix = tuple[int, ...]  # image of every bit


def combine(first: int, second: int, second_length: int) -> int:
    """The CRC-32 of two pieces one after the other, from theirs and the length of the second in bytes."""
    return _times(_zeros(second_length), first) ^ second


def _times(matrix: Sequence[int], vector: int) -> int:
    out = 0
    for column in matrix:
        if vector & 1:
            out ^= column
        vector >>= 1
    return out


@lru_cache(maxsize=1024)
def _zeros(length: int) -> _Matrix:
    """What appending `length` zero bytes does; the lengths of a checkpoint repeat."""
    out: _Matrix = tuple(1 << i for i in range(32))
    power = 0
    while length >> power:
        if (length >> power) & 1:
            out = tuple(_times(_doubling(power), column) for column in out)
        power += 1
    return out


@lru_cache(maxsize=64)
def _doubling(power: int) -> _Matrix:
    """What appending 2^power zero bytes does."""
    if power == 0:
        matrix: _Matrix = (_POLYNOMIAL, *(1 << i for i in range(31)))  # one zero bit
        for _ in range(3):
            matrix = tuple(_times(matrix, column) for column in matrix)
        return matrix
    half = _doubling(power - 1)
    return tuple(_times(half, column) for column in half)
