"""What a prior over learning curves returns: a batch of curves, ragged ones padded with NaN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PriorCurves:
    """Curves drawn from a prior; a row beyond its length is NaN.

    Attributes
    ----------
    x : (n, m) steps, strictly rising within a row, in arbitrary units above 0
    y : (n, m) observed values, higher is better; the noise may carry them beyond [0, 1]
    latent : (n, m) values without noise
    noise : (n,) standard deviation of the noise (of a row whose noise varies, the root of its mean square)
    lengths : (n,) points of each row
    horizon : (n,) planned last step, in the units of x; at least the last x
    """

    x: FloatArray
    y: FloatArray
    latent: FloatArray
    noise: FloatArray
    lengths: IntArray
    horizon: FloatArray

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"PriorCurves({len(self)} curves of up to {self.y.shape[1]} points)"
