"""The inner loops of :mod:`~farfield.weights.pairs` and :mod:`~farfield.weights.crc` in machine code, where they could be built.

They give the same bits as NumPy, which does the work without them, in less than half the time. The build hook compiles ``_loops.c``
and puts the library beside this file; it uses nothing of Python's, so one file serves all versions.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farfield.formats import Raw

FILE = Path(__file__).with_name("_loops.so")
_ARRAY, _INT, _FLOAT, _BITS, _RAW = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_uint32, ctypes.c_uint16
_PAIR, _LEFT = (*3 * (_ARRAY,), _INT), (_ARRAY, _INT)
_FUNCTIONS = {
    "farfield_pair_exact": (_INT, (*_PAIR, *3 * (_FLOAT,), *3 * (_BITS,), *3 * (_RAW,), *_LEFT)),
    "farfield_pair_near": (_INT, (*_PAIR, _FLOAT, _FLOAT, _BITS, _FLOAT, _FLOAT, _RAW, *_LEFT)),
    "farfield_crc_fold": (None, (_ARRAY, _ARRAY, *4 * (_INT,))),
}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled loops, or None where they were not built, or not for this machine."""
    if sys.byteorder != "little":
        return None
    try:
        loaded = ctypes.CDLL(str(FILE))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return loaded


def pair(name: str, first: Raw, second: Raw, out: Raw, most: int, *parameters: object) -> NDArray[np.int64] | None:
    """Fill `out` by one of the loops, whose parameters ``_loops.c`` describes.

    Returns the elements that are not decided; None where these are more than `most`, or a number is too large.
    """
    loops = library()
    assert loops is not None
    first, second, left = np.ascontiguousarray(first), np.ascontiguousarray(second), np.empty(most, np.int64)
    assert out.flags.c_contiguous
    at = (a.ctypes.data for a in (first, second, out))
    count = getattr(loops, f"farfield_pair_{name}")(*at, out.size, *parameters, left.ctypes.data, most)
    return None if count < 0 else left[:count]


def fold(words: NDArray[np.uint64], new: NDArray[np.uint64], exponents: tuple[int, int, int]) -> None:
    """Let new words pass through the first ``exponents[0]`` of `words`, twice as many, as :mod:`~farfield.weights.crc` has it."""
    loops = library()
    assert loops is not None
    assert words.size >= 2 * exponents[0]
    loops.farfield_crc_fold(words.ctypes.data, new.ctypes.data, new.size, *exponents)
