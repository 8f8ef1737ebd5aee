"""The compiled loops of :mod:`~farfield.weights.pairs` and :mod:`~farfield.weights.crc`, in less than half of NumPy's time."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from numpy.typing import NDArray

from farfield import loops
from farfield.formats import Raw

_ARRAY, _INT, _FLOAT, _BITS, _RAW = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_uint32, ctypes.c_uint16
_PAIR, _LEFT = (*3 * (_ARRAY,), _INT), (_ARRAY, _INT)
_FUNCTIONS = {
    "farfield_pair_exact": (_INT, (*_PAIR, *3 * (_FLOAT,), *3 * (_BITS,), *3 * (_RAW,), *_LEFT)),
    "farfield_pair_near": (_INT, (*_PAIR, _FLOAT, _FLOAT, _BITS, _FLOAT, _FLOAT, _RAW, *_LEFT)),
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


def fold(words: NDArray[np.uint64], new: NDArray[np.uint64], exponents: tuple[int, int, int]) -> None:
    """Let new words pass through the first ``exponents[0]`` of `words`, twice as many, as :mod:`~farfield.weights.crc` has it."""
    functions = library()
    assert functions is not None
    assert words.size >= 2 * exponents[0]
    functions.farfield_crc_fold(words.ctypes.data, new.ctypes.data, new.size, *exponents)
