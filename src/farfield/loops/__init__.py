"""The inner loops that NumPy is slow at, in C, compiled at installation where a compiler is found.

They give the same bits as the NumPy code that does their work without them. The build hook compiles all ``*.c`` here into one
library beside this file; it uses nothing of Python's, so one file serves all versions. Whoever calls a function declares it::

    loops = library({"farfield_sum": (ctypes.c_double, (ctypes.c_void_p, ctypes.c_int64))})
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("_loops.so")
Signatures = Mapping[str, tuple[Any, tuple[Any, ...]]]


@cache
def _loaded() -> ctypes.CDLL | None:
    if sys.byteorder != "little":
        return None
    try:
        return ctypes.CDLL(str(FILE))
    except OSError:
        return None


def library(signatures: Signatures) -> ctypes.CDLL | None:
    """The compiled loops with these functions, name -> (result, arguments) as ctypes has them.

    None where they were not built, not for this machine, or from another version's source.
    """
    loaded = _loaded()
    if loaded is None:
        return None
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError:
        return None
    return loaded
