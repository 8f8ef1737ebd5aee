"""CRC-32 of a stream at twice the speed of zlib's, and of a whole from the CRC-32s of its pieces, written in any order.

A CRC is the remainder of a polynomial over GF(2), and remainders by P stay the same where any multiple of P is added. With y for a
shift by 64 bits, y^16316 + y^792 + y^197 + 1 is such a multiple (found by search; there is none of four terms that is much
shorter). So every word of a stream can be moved by three vectorised exclusive ors to words 15524 and more further on, and what
is left in the end is a CRC of 16316 words.

Appending n zero bytes to a message maps its CRC linearly over GF(2), and crc(a + b) = crc(a + n zeros) xor crc(b) for the CRC-32 of
zlib with its pre- and post-conditioning. The map is a 32 x 32 bit matrix, the 8 n-th power of the shift by one bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from farfield.weights import compiled

_POLYNOMIAL = 0xEDB88320  # reflected, as zlib has it
_Matrix = tuple[int, ...]  # image of every bit
FOLD = (16316, 792, 197)  # exponents of y beside 0
_KEPT = FOLD[0]
_BLOCK = FOLD[0] - FOLD[1]  # words that are moved at a time, none of them onto another of them
_BUFFER = 3 * _KEPT


class Crc32:
    """The CRC-32 of what :meth:`update` is given piece by piece, as ``zlib.crc32`` has it."""

    def __init__(self, value: int = 0) -> None:
        self._value = value  # of what came before the words kept
        self._words: NDArray[np.uint64] | None = None
        self._at = 0  # where the words kept begin

    @property
    def value(self) -> int:
        """The CRC-32 so far."""
        if self._words is not None:  # the register starts at zero, which zlib calls all ones
            self._value = zlib.crc32(self._words[self._at : self._at + _KEPT].data, 0xFFFFFFFF)
            self._words = None
        return self._value

    def update(self, data: memoryview) -> None:
        """Go on with these bytes; pieces of many whole words are the fast ones."""
        whole = len(data) // 8
        if self._words is None and whole < 2 * _KEPT:
            self._value = zlib.crc32(data, self._value)
            return
        new = np.frombuffer(data, "<u8", whole)
        if self._words is None:
            self._words, self._at = np.empty(_BUFFER, "<u8"), 0
            self._words[:_KEPT] = new[:_KEPT]
            self._words[0] ^= np.uint64(self._value ^ 0xFFFFFFFF)
            new = new[_KEPT:]
        if compiled.library():
            compiled.fold(self._words[self._at :], new, FOLD)
        else:
            for start in range(0, new.size, _BLOCK):
                self._fold(self._words, new[start : start + _BLOCK])
        if len(data) % 8:
            self._value = zlib.crc32(data[8 * whole :], self.value)

    def _fold(self, words: NDArray[np.uint64], new: NDArray[np.uint64]) -> None:
        n = new.size
        if self._at + _KEPT + n > _BUFFER:
            words[:_KEPT] = words[self._at : self._at + _KEPT].copy()
            self._at = 0
        end = self._at + _KEPT
        first = words[self._at : self._at + n]
        np.bitwise_xor(new, first, out=words[end : end + n])
        for exponent in FOLD[1:]:
            moved = words[end - exponent : end - exponent + n]
            np.bitwise_xor(moved, first, out=moved)
        self._at += n


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
