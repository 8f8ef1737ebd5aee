"""Exact order statistics of a tensor's magnitudes, in passes over its blocks and in constant memory.

The magnitudes of float64 numbers are ordered as their bit patterns are. A pass counts how many there are of each upper 16 bits,
which says what these are of the number sought; the next pass counts 16 more bits of those that have them, or, where only
few are left, gathers and sorts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.weights import compiled

FloatArray = NDArray[np.float64]
Blocks = Callable[[], Iterator[FloatArray]]  # a tensor from its start, block by block, as often as it is asked for
_FEW = 1 << 19  # patterns that are sorted


def largest(blocks: Blocks, ranks: Sequence[int]) -> list[float]:
    """For each rank k the k-th largest magnitude, 1 <= k <= the count of numbers; NaN is larger than any number."""
    for k in ranks:
        checks.count("k", k)
    sought = [(0, k) for k in ranks]  # the upper bits of the pattern, and its rank among those that have them
    for shift in (48, 32, 16, 0):
        counts = {prefix: np.zeros(1 << 16, np.int64) for prefix, _ in sought}
        for block in blocks():
            for prefix, count in counts.items():
                _count(block, prefix, shift, count)
        found, left = [], {}
        for prefix, k in sought:
            above = np.cumsum(counts[prefix][::-1])
            bucket = int(np.searchsorted(above, k))
            longer = prefix << 16 | (0xFFFF - bucket)
            left[longer] = int(counts[prefix][0xFFFF - bucket])
            found.append((longer, k - (int(above[bucket - 1]) if bucket else 0)))
        sought = found
        if shift and sum(left.values()) <= _FEW:
            few = _gathered(blocks, left, shift)
            patterns = [int(few[prefix][-k]) for prefix, k in sought]
            break
    else:
        patterns = [prefix for prefix, _ in sought]
    numbers: list[float] = np.array(patterns, np.uint64).view(np.float64).tolist()
    return numbers


def _count(block: FloatArray, prefix: int, shift: int, counts: NDArray[np.int64]) -> None:
    """Count patterns by 16 bits from `shift` on, those whose bits above these are `prefix`."""
    if compiled.library():
        compiled.count(block, prefix, shift, counts)
        return
    bits = np.abs(block).view(np.uint64)
    if shift < 48:
        bits = bits[bits >> np.uint64(shift + 16) == np.uint64(prefix)]
    counts += np.bincount((bits >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64), minlength=1 << 16)


def _gathered(blocks: Blocks, sizes: Mapping[int, int], shift: int) -> dict[int, NDArray[np.uint64]]:
    """In order, the patterns whose bits from `shift` on are one of the prefixes, of which there are as many as given."""
    out = {prefix: np.empty(size + 1, np.uint64) for prefix, size in sizes.items()}
    done = dict.fromkeys(sizes, 0)
    for block in blocks():
        for prefix, array in out.items():
            rest = array[done[prefix] :]
            if compiled.library():
                done[prefix] += compiled.gather(block, prefix, shift, rest)
            else:
                bits = np.abs(block).view(np.uint64)
                bits = bits[bits >> np.uint64(shift) == np.uint64(prefix)]
                rest[: bits.size] = bits
                done[prefix] += bits.size
    return {prefix: np.sort(array[:-1]) for prefix, array in out.items()}
