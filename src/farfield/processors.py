"""How many processors this process may use, and how many threads of ours it should.

OMP_NUM_THREADS rules our threads as it rules those of BLAS: who runs several processes sets it to 1.
"""

from __future__ import annotations

import os

# what the libraries that numbers pass through read their number of threads from
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


def usable() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(most: int) -> int:
    """Threads to work with: at most `most`, at most one a usable processor, at most what OMP_NUM_THREADS says."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return min(most, usable(), max(1, int(said)) if said.isdigit() else most)
