"""What is kept of a delta to make it small: signs and scales, few singular vectors, few bits; in ``Sparse``, like any thinning.

    Signs       mean magnitude times sign: BitDelta (arXiv 2402.10193), one scale a tensor; generalised (2410.13841) to one scale a
                block of entries and to further sign bits of what the bits before leave
    LowRank     the largest singular values: the delta's best approximation of that rank (as in Twin-Merging, 2406.15479)
    Quantised   a symmetric uniform grid, one step a block

Scales are found in passes over the tensor, block by block, and do not depend on the chunks of the merge. Deviation: BitDelta then
distils its scales on activations; here they stay at the least-squares optimum, the mean magnitude. As there, the sign of 0 is +.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.weights.edits import Blocks, FloatArray, Thin

MOST_MATRIX = 1 << 29  # entries of a matrix that LowRank takes into memory


@dataclass(frozen=True)
class Signs:
    """`bits` sign bits an entry, each with its mean magnitude over `block` consecutive entries (0: over the tensor)."""

    block: int = 0
    bits: int = 1

    def prepare(self, name: str, model: int, delta: Blocks, shape: tuple[int, ...]) -> Thin:
        size, width = _blocks(shape, self.block)
        scales: list[FloatArray] = []

        def encode(d: FloatArray, offset: int) -> FloatArray:
            """What the bits so far make of this part of the delta."""
            out = np.zeros_like(d)
            for scale in scales:
                out += np.where(d - out >= 0, 1.0, -1.0) * scale[_index(offset, d.size, width)]
            return out

        for _ in range(checks.count("bits", self.bits)):
            sums = np.zeros(-(-size // width))
            offset = 0
            for d in delta():
                _gather(np.add, sums, offset, width, np.abs(d - encode(d, offset)))
                offset += d.size
            scales.append(sums / _lengths(size, width))
        return encode


@dataclass(frozen=True)
class Quantised:
    """Rounded to `bits` bits: whole multiples, up to 2^(bits - 1) - 1, of a step that makes the largest of `block` entries one."""

    bits: int = 8
    block: int = 0

    def prepare(self, name: str, model: int, delta: Blocks, shape: tuple[int, ...]) -> Thin:
        size, width = _blocks(shape, self.block)
        largest = np.zeros(-(-size // width))
        offset = 0
        for d in delta():
            _gather(np.maximum, largest, offset, width, np.abs(d))
            offset += d.size
        step = largest / ((1 << (checks.count("bits", self.bits, least=2) - 1)) - 1)

        def thin(d: FloatArray, offset: int) -> FloatArray:
            steps = step[_index(offset, d.size, width)]
            return np.rint(np.divide(d, steps, out=np.zeros_like(d), where=steps > 0)) * steps

        return thin


@dataclass(frozen=True)
class LowRank:
    """The `rank` largest singular values of the delta as a matrix of its first axis by the others; vectors are kept whole.

    The matrix is taken into memory, in float64, for as long as its factors are sought.
    """

    rank: int

    def prepare(self, name: str, model: int, delta: Blocks, shape: tuple[int, ...]) -> Thin:
        rank = checks.count("rank", self.rank)
        size = math.prod(shape)
        if len(shape) < 2 or not size or rank >= min(shape[0], size // shape[0]):
            return lambda d, offset: d
        if size > MOST_MATRIX:
            raise InputError(f"{name!r} has {size} entries; a low rank is found for up to {MOST_MATRIX}: exclude it")
        left, right = _leading(np.concatenate(list(delta())).reshape(shape[0], -1), rank)
        n = right.shape[1]

        def thin(d: FloatArray, offset: int) -> FloatArray:
            first, last = offset // n, -(-(offset + d.size) // n)
            rows = np.zeros((last - first, n))
            for k in range(rank):  # in turn, so that the sum is the same for any rows
                rows += left[first:last, k, None] * right[k]
            out: FloatArray = rows.reshape(-1)[offset - first * n : offset - first * n + d.size]
            return out

        return thin


def _leading(matrix: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    """(m, rank) and (rank, n) whose product is the best approximation: from the smaller of the two Gram matrices."""
    from scipy.linalg import eigh

    if matrix.shape[0] < matrix.shape[1]:
        right, left = _leading(matrix.T, rank)
        return left.T, right.T
    n = matrix.shape[1]
    vectors: FloatArray = eigh(matrix.T @ matrix, subset_by_index=[n - rank, n - 1])[1]
    return matrix @ vectors, vectors.T


def _blocks(shape: tuple[int, ...], block: int) -> tuple[int, int]:
    """Entries of the tensor and of a block."""
    size = math.prod(shape)
    return size, checks.count("block", block, least=0) or max(size, 1)


def _index(offset: int, n: int, width: int) -> NDArray[np.int64] | int:
    """The block of each of n entries from `offset` on."""
    first, last = offset // width, (offset + n - 1) // width
    return first if first >= last else np.arange(offset, offset + n) // width


def _gather(ufunc: np.ufunc, into: FloatArray, offset: int, width: int, values: FloatArray) -> None:
    """Reduce consecutive values, from entry `offset` on, into what is kept of each block."""
    first = offset // width
    starts = np.maximum(np.arange(first, (offset + values.size - 1) // width + 1) * width - offset, 0)
    into[first : first + starts.size] = ufunc(into[first : first + starts.size], ufunc.reduceat(values, starts))


def _lengths(size: int, width: int) -> FloatArray:
    out = np.full(-(-size // width), float(width))
    if size % width:
        out[-1] = size % width
    return out
