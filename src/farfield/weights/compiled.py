"""The compiled loops of this family, ``loops/*.c``, whose comments say what they do and what their parameters are."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from farfield import loops
from farfield.formats import Raw

FORMATS = {"BF16": 0, "F16": 1, "F32": 2}  # of the sums
MOST_OPERANDS, MOST_MODELS = 64, 16
_SHORT, _DOUBLE, _LONG = ctypes.c_int32, ctypes.c_double, ctypes.c_uint64
_ARRAY, _INT, _FLOAT, _BITS, _RAW = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_uint32, ctypes.c_uint16
_PAIR, _LEFT = (*3 * (_ARRAY,), _INT), (_ARRAY, _INT)
_FUNCTIONS = {
    "farfield_pair_exact": (_INT, (*_PAIR, *3 * (_FLOAT,), *3 * (_BITS,), *3 * (_RAW,), *_LEFT)),
    "farfield_pair_near": (_INT, (*_PAIR, _FLOAT, _FLOAT, _BITS, _FLOAT, _FLOAT, _RAW, *_LEFT)),
    "farfield_sum": (_INT, (*4 * (_ARRAY,), _INT, _ARRAY, _SHORT, _INT, _DOUBLE, _SHORT, _ARRAY)),
    "farfield_thinned": (_INT, (*3 * (_ARRAY,), _INT, _LONG, _DOUBLE, _SHORT, _SHORT, _ARRAY, _SHORT, _INT, _ARRAY, _ARRAY)),
    "farfield_widen": (_SHORT, (_SHORT, _ARRAY, _INT, _ARRAY)),
    "farfield_count": (None, (_ARRAY, _INT, _LONG, _SHORT, _ARRAY)),
    "farfield_gather": (_INT, (_ARRAY, _INT, _LONG, _SHORT, _ARRAY)),
    "farfield_crc_fold": (None, (_ARRAY, _ARRAY, *4 * (_INT,))),
}


class Thinning(ctypes.Structure):
    """What ``loops/thinned.c`` keeps of a model's delta."""

    _fields_: ClassVar = [
        *((name, _DOUBLE) for name in ("weight", "low", "high", "rest")),
        ("key", 2 * _LONG),
        ("limit", _LONG),
        ("kind", _INT),
    ]


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
    n, k = out.size, len(operands)
    addresses, kinds, _held = _operands(operands, sources, n)
    assert parts.size == rests.size == k <= MOST_OPERANDS
    assert left.size >= n
    assert out.flags.c_contiguous
    arrays = (a.ctypes.data for a in (addresses, kinds, parts, rests))
    count: int = functions.farfield_sum(*arrays, k, out.ctypes.data, FORMATS[dtype], n, slack, exact, left.ctypes.data)
    return count


def thinned(
    operands: Sequence[Raw],
    sources: Sequence[str],
    models: Sequence[Thinning],
    offset: int,
    factor: float,
    elect: bool,
    normalize: bool,
    out: Raw,
    dtype: str,
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Fill `out` with the first operand and `factor` times the sum of the thinned deltas of the others, from element `offset` on.

    Returns the elements that are not rounded, and what is to be rounded there; None where a number is not finite.
    """
    functions = library()
    assert functions is not None
    n, k = out.size, len(models)
    addresses, kinds, _held = _operands(operands, sources, n)
    assert len(operands) == k + 1 <= MOST_MODELS + 1
    left, values = np.empty(n, np.int64), np.empty(n)
    arrays = (addresses.ctypes.data, kinds.ctypes.data, (Thinning * k)(*models))
    to = (out.ctypes.data, FORMATS[dtype], n, left.ctypes.data, values.ctypes.data)
    count = functions.farfield_thinned(*arrays, k, offset, factor, elect, normalize, *to)
    return None if count < 0 else (left[:count], values[:count])


def _operands(operands: Sequence[Raw], sources: Sequence[str], n: int) -> tuple[NDArray[np.uintp], NDArray[np.int32], list[Raw]]:
    """Addresses and formats of n numbers each, and what lies there, to be kept meanwhile."""
    raws = [np.ascontiguousarray(o) for o in operands]
    assert all(r.size == n for r in raws)
    assert len(sources) == len(raws)
    return np.array([r.ctypes.data for r in raws], np.uintp), np.array([FORMATS[s] for s in sources], np.int32), raws


def widen(raw: Raw, dtype: str) -> NDArray[np.float64] | None:
    """The exact values of raw bits; None where one is not finite."""
    functions = library()
    assert functions is not None
    raw, out = np.ascontiguousarray(raw), np.empty(raw.size)
    return out if functions.farfield_widen(FORMATS[dtype], raw.ctypes.data, raw.size, out.ctypes.data) else None


def count(numbers: NDArray[np.float64], prefix: int, shift: int, counts: NDArray[np.int64]) -> None:
    """Count magnitudes by 16 bits of their patterns from `shift` on, those whose bits above these are `prefix`."""
    functions = library()
    assert functions is not None
    assert counts.size == 1 << 16
    numbers = np.ascontiguousarray(numbers, np.float64)
    functions.farfield_count(numbers.ctypes.data, numbers.size, prefix, shift, counts.ctypes.data)


def gather(numbers: NDArray[np.float64], prefix: int, shift: int, out: NDArray[np.uint64]) -> int:
    """How many magnitudes have patterns whose bits from `shift` on are `prefix`; put into `out`, with room for one more."""
    functions = library()
    assert functions is not None
    numbers = np.ascontiguousarray(numbers, np.float64)
    found: int = functions.farfield_gather(numbers.ctypes.data, numbers.size, prefix, shift, out.ctypes.data)
    return found


def fold(words: NDArray[np.uint64], new: NDArray[np.uint64], exponents: tuple[int, int, int]) -> None:
    """Let new words pass through the first ``exponents[0]`` of `words`, twice as many, as :mod:`~farfield.weights.crc` has it."""
    functions = library()
    assert functions is not None
    assert words.size >= 2 * exponents[0]
    functions.farfield_crc_fold(words.ctypes.data, new.ctypes.data, new.size, *exponents)
