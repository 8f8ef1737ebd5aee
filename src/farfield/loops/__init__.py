"""The inner loops that NumPy is slow at, in C, compiled at installation where a compiler is found.

They give the same bits as the NumPy code that does their work without them. Only those of the learning-curve networks (``pfn.c``)
take another exponential and round in another order: there forecasts differ by millionths. The build hook compiles all ``*.c``
here into one library beside this file; it uses nothing of Python's, so one file serves all versions. Whoever calls a function
declares it::

    loops = library({"farfield_sum": (ctypes.c_double, (ctypes.c_void_p, ctypes.c_int64))})
"""

from __future__ import annotations

import ctypes
import sys
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("_loops.so")
Signatures = Mapping[str, tuple[Any, tuple[Any, ...]]]


def _sources() -> int:
    """CRC-32 of the C files and headers beside this one, in the order of their names; the build hook writes it into the library."""
    return zlib.crc32(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.[ch]"))))


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none."""
    if not FILE.exists():
        return None, "not there"
    if sys.byteorder != "little":
        return None, "not for this machine"
    try:
        loaded = ctypes.CDLL(str(FILE))
        made_of = ctypes.c_uint32.in_dll(loaded, "farfield_sources").value
    except OSError:
        return None, "not for this machine"
    except ValueError:
        return None, "built from other source than is here"
    # what was built before the source changed may take other arguments, or give other results
    return (loaded, "") if made_of == _sources() else (None, "built from other source than is here")


def missing() -> str:
    """Why the loops are left to NumPy, in a few words; empty where they are compiled."""
    return _loaded()[1]


def library(signatures: Signatures) -> ctypes.CDLL | None:
    """The compiled loops with these functions, name -> (result, arguments) as ctypes has them.

    None where they were not built, not for this machine, or from other source than lies beside them.
    """
    loaded = _loaded()[0]
    if loaded is None:
        return None
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError:
        return None
    return loaded
