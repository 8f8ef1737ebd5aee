"""The one table of tolerances: how far a result may be from an independent evaluation, by float type.

An oracle test asks for nothing looser without a reason written beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# relative and absolute; about 2^12 units in the last place, which long sums and special functions need and mistakes exceed
TOLERANCES = {
    "float64": (1e-12, 1e-12),
    "float32": (5e-4, 5e-4),
    "float16": (5e-2, 5e-2),
    "bfloat16": (1e-1, 1e-1),
}


def assert_close(actual: Any, expected: Any, dtype: str = "float64") -> None:
    """Fail unless `actual` equals `expected` in shape and, to the tolerance of `dtype`, in every entry."""
    rtol, atol = TOLERANCES[dtype]
    got = np.asarray(actual)
    assert got.shape == np.asarray(expected).shape
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)
