"""What a learning-curve network sees and says: its sizes, its inputs, and how its outputs become a distribution.

A curve of n seen points (x_i, y_i) becomes n context tokens, each a function of the points up to its own, and every asked
position becomes one more token. Besides x and y a context token carries the first and second differences of y, on a linear and
on a logarithmic scale, so that trend and noise need not be worked out by attention. A mean of the logarithms of the second
differences gives the *unit* of a curve, a robust guess of its noise; outputs are in this unit, so that a curve shrunk tenfold
is nearly the same curve to the network.

The same NumPy code makes the inputs for training and for prediction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.curves.pfn.stored import Sizes

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Architecture(Sizes):
    """Sizes of a network and the kind of steps it knows."""

    kind: ClassVar[str] = "learning-curve network"

    clock: str = "relative"  # "steps": x is 1, 2, 3 ... up to about 100; "relative": any unit, only ratios matter
    width: int = 128  # of a token
    layers: int = 4
    heads: int = 4  # of the attention between tokens
    hidden: int = 256  # of the perceptron in each layer and of the head
    pointers: int = 8  # averages of seen values that locations are combinations of
    pointer_width: int = 32
    components: int = 8  # of the predicted mixture
    floor: float = 1e-4  # differences of y below it are not told apart
    least_scale: float = 1e-5  # added to every predicted scale, so that repeated values do not make a density infinite

    def __post_init__(self) -> None:
        checks.choice("clock", self.clock, ("steps", "relative"))
        for name in ("width", "layers", "heads", "hidden", "pointers", "pointer_width", "components"):
            checks.count(name, getattr(self, name))
        checks.positive("floor", self.floor)
        checks.positive("least_scale", self.least_scale)

    @property
    def context_inputs(self) -> int:
        """Numbers a context token is made from."""
        return 8 if self.clock == "steps" else 11

    @property
    def asked_inputs(self) -> int:
        """Numbers an asked token is made from."""
        return 5 if self.clock == "steps" else 8

    @property
    def outputs(self) -> int:
        """Numbers an asked token ends in: for each component a weight, a combination of pointers, two locations, two scales."""
        return self.components * (5 + self.pointers)


def context_inputs(x: FloatArray, y: FloatArray, arch: Architecture) -> FloatArray:
    """(n, m, context_inputs) of curves x, y (n, m); token i depends on points 0 ... i only."""
    before = np.concatenate([y[:, :1], y[:, :-1]], axis=1)
    first = y - before
    second = first - np.concatenate([np.zeros_like(y[:, :1]), first[:, :-1]], axis=1)
    values = [
        (y - 0.5) * 3.46,
        np.arcsinh(first * 200) / 2,
        np.arcsinh(second * 200) / 2,
        _log_size(first, arch.floor),
        _log_size(second, arch.floor),
    ]
    rank = np.broadcast_to(np.arange(1.0, y.shape[1] + 1), y.shape)
    if arch.clock == "steps":
        return np.stack([x / 50 - 1, np.log(x) - 3, np.log(rank) - 3, *values], axis=-1)
    gaps = np.diff(np.log(x), axis=1, prepend=np.log(x[:, :1]))
    slope = first / np.maximum(gaps, 1e-3)
    clock = [np.log(x / x[:, :1]) / 2 - 1, np.log(rank) - 3, rank / 50 - 1, np.arcsinh(gaps * 10) / 2]
    return np.stack([*clock, *values, np.arcsinh(slope * 20) / 2, np.arcsinh((y - y[:, :1]) * 50) / 2], axis=-1)


def asked_inputs(x: FloatArray, cut: IntArray, at: FloatArray, horizon: FloatArray, arch: Architecture) -> FloatArray:
    """(n, q, asked_inputs) of asked positions `at` (n, q), where the first `cut` (n, q) points of x (n, m) are seen.

    horizon : (n,) planned last step, NaN where unknown; used by the relative clock alone
    """
    last = np.take_along_axis(x, cut - 1, axis=1)
    reach = np.log(at / last)
    if arch.clock == "steps":
        return np.stack([at / 50 - 1, np.log(at) - 3, reach - 1, last / 50 - 1, np.log(last) - 3], axis=-1)
    gap = last - np.take_along_axis(x, np.maximum(cut - 2, 0), axis=1)
    more = np.log1p((at - last) / np.where(gap > 0, gap, last))
    known = np.isfinite(horizon)[:, None]
    left = np.where(known, np.log(np.where(known, horizon[:, None], 1.0) / np.where(known, at, 1.0)), 0.0)
    begun = np.log(last / x[:, :1])
    return np.stack(
        [
            reach - 1,
            more / 2 - 1,
            begun / 2 - 1,
            (begun + reach) / 2 - 1,
            np.log(cut) - 3,
            cut / 50 - 1,
            np.clip(left, -1, 4),
            known + 0 * at,
        ],
        axis=-1,
    )


def units(y: FloatArray, arch: Architecture) -> FloatArray:
    """(n, m): robust guess of the noise of curves y (n, m) from the points up to each, shrunk towards 0.02."""
    before = np.concatenate([y[:, :1], y[:, :-1]], axis=1)
    first = y - before
    second = first - np.concatenate([np.zeros_like(y[:, :1]), first[:, :-1]], axis=1)
    sizes = np.log(np.abs(second) + arch.floor)
    sizes[:, 0] = np.log(0.02)
    return np.asarray(np.exp(np.cumsum(sizes, axis=1) / np.arange(1, y.shape[1] + 1)))


def _log_size(difference: FloatArray, floor: float) -> FloatArray:
    return (np.log(np.abs(difference) + floor) + 4) / 1.5
