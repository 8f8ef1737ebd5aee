"""The compiled loops of :mod:`~farfield.weights.pairs`, :mod:`~farfield.weights.sums` and :mod:`~farfield.weights.crc`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from farfield import loops
from farfield.formats import Raw

FORMATS = {"BF16": 0, "F16": 1, "F32": 2}  # of the sums
MOST_OPERANDS = 64
_SHORT, _DOUBLE = ctypes.c_int32, ctypes.c_double
_ARRAY, _INT, _FLOAT, _BITS, _RAW = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_uint32, ctypes.c_uint16
_PAIR, _LEFT = (*3 * (_ARRAY,), _INT), (_ARRAY, _INT)
_FUNCTIONS = {
    "farfield_pair_exact": (_INT, (*_PAIR, *3 * (_FLOAT,), *3 * (_BITS,), *3 * (_RAW,), *_LEFT)),
    "farfield_pair_near": (_INT, (*_PAIR, _FLOAT, _FLOAT, _BITS, _FLOAT, _FLOAT, _RAW, *_LEFT)),
    "farfield_sum": (_INT, (*4 * (_ARRAY,), _INT, _ARRAY, _SHORT, _INT, _DOUBLE, _SHORT, _ARRAY)),
    "farfield_crc_fold": (None, (_ARRAY, _ARRAY, *4 * (_INT,))),
}


@cache
def library() -> ctypes.CDLL | None:
    """The loops, or None where they are not compiled."""
    return loops.library(_FUNCTIONS)


def pair(name: str, first: Raw, second: Raw, out: Raw, most: int, *parameters: object) -> NDArray[np.int64] | None:
    """Fill `out` by one of the loops, whose parameters ``loops/weights.c`` describes.

    Returns the elements that are not decided; None where these are more than `most`, or a number is too large.
    """
    functions = library()
    assert functions is not None
    first, second, left = np.ascontiguousarray(first), np.ascontiguousarray(second), np.empty(most, np.int64)
    assert out.flags.c_contiguous
    at = (a.ctypes.data for a in (first, second, out))
    count = getattr(functions, f"farfield_pair_{name}")(*at, out.size, *parameters, left.ctypes.data, most)
    return None if count < 0 else left[:count]


def add(
    operands: Sequence[Raw],
    sources: Sequence[str],
    parts: NDArray[np.float64],
    rests: NDArray[np.float64],
    out: Raw,
    dtype: str,
    slack: float,
    exact: bool,
    left: NDArray[np.int64],
) -> int:
    """Fill `out` with the sum of operands times (parts + rests).

    Returns how many elements are not decided, which are named at the beginning of `left`; `slack` and `exact` are what
    ``loops/sums.c`` says.
    """
    functions = library()
    assert functions is not None
    raws = [np.ascontiguousarray(o) for o in operands]
    k, n = len(raws), out.size
    assert len(sources) == parts.size == rests.size == k <= MOST_OPERANDS
    assert all(r.size == n for r in raws)
    assert left.size >= n
    assert out.flags.c_contiguous
    addresses = np.array([r.ctypes.data for r in raws], np.uintp)
    kinds = np.array([FORMATS[s] for s in sources], np.int32)
    arrays = (a.ctypes.data for a in (addresses, kinds, parts, rests))
    count: int = functions.farfield_sum(*arrays, k, out.ctypes.data, FORMATS[dtype], n, slack, exact, left.ctypes.data)
    return count


def fold(words: NDArray[np.uint64], new: NDArray[np.uint64], exponents: tuple[int, int, int]) -> None:
    """Let new words pass through the first ``exponents[0]`` of `words`, twice as many, as :mod:`~farfield.weights.crc` has it."""
    functions = library()
    assert functions is not None
    assert words.size >= 2 * exponents[0]
    functions.farfield_crc_fold(words.ctypes.data, new.ctypes.data, new.size, *exponents)
