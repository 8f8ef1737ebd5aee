"""A predictive of the normalised value z, read in the units of the metric: the exact image of a mixture under a normaliser.

With z(y) the map of `farfield.curves.normalize`, F the distribution of z kept within [0, 1] (the hard bounds of the metric) and
f its density, Y has the distribution function F(z(y)), or 1 - F(z(y)) where smaller is better, and the density f(z(y)) |dz/dy|.
Quantiles are images of quantiles; means, deviations and the ranked score are integrals over z.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from farfield.curves.normalize import Normaliser
from farfield.curves.rescored import Rescored
from farfield.errors import InputError
from farfield.predictive import Mixture, Predictive
from farfield.predictive.base import FloatArray, IntArray, from_dict, listed, stack, unlisted
from farfield.predictive.quadrature import integrate
from farfield.seeds import Seed

# values of z nearer to 0 or 1 are left out of the integrals
_EDGE = 1e-9
_TOLERANCE = 1e-7
_BOUNDS = ("hard_low", "soft_low", "soft_high", "hard_high")


@dataclass(frozen=True, eq=False, repr=False)
class Normalised(Predictive):
    """Values whose normalised form is distributed as `base`.

    Parameters
    ----------
    base : distribution of z, of any shape; what lies outside [0, 1] is cut off
    normaliser : one map for each entry of the raveled batch (see :meth:`by_run` for one a row)

    Raises InputError where their sizes differ.
    """

    base: Mixture | Rescored
    normaliser: Normaliser

    def __post_init__(self) -> None:
        if len(self.normaliser) != int(np.prod(self.base.shape)):
            raise InputError(f"{len(self.normaliser)} maps for a batch of shape {self.base.shape}; allowed: one for each entry")
        b = self.base
        if isinstance(b, Mixture):
            object.__setattr__(self, "base", Mixture(b.weights, b.loc, b.scale, b.df, 0.0, 1.0))

    @classmethod
    def by_run(cls, base: Mixture | Rescored, normaliser: Normaliser) -> Self:
        """For `base` (n_runs, n_at) and one map a run."""
        return cls(base, normaliser[np.repeat(np.arange(len(normaliser)), base.shape[1])])

    def __repr__(self) -> str:
        return f"Normalised({self.base!r}, goal {self.normaliser.goal})"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def _falling(self) -> bool:
        return self.normaliser.goal == "min"

    def _z(self, y: FloatArray) -> FloatArray:
        """z of values y (..., *shape), within [0, 1] and there for infinite y too."""
        flat = y.reshape(*self._lead(y), len(self.normaliser), 1)
        inside = np.clip(flat, self.normaliser.hard_low[:, None], self.normaliser.hard_high[:, None])
        ends = np.where(np.isinf(inside), np.where((inside > 0) != self._falling, 1.0, 0.0), 0.5)
        finite = np.where(np.isfinite(inside), inside, self.normaliser.soft_low[:, None])
        z = np.where(np.isinf(inside), ends, np.clip(self.normaliser.forward(finite), 0.0, 1.0))
        return np.where(np.isnan(flat), np.nan, z).reshape(y.shape)

    def _y(self, z: FloatArray) -> FloatArray:
        """y of values z (..., *shape)."""
        return self.normaliser.inverse(z.reshape(*self._lead(z), len(self.normaliser), 1)).reshape(z.shape)

    def _lead(self, values: FloatArray) -> tuple[int, ...]:
        return values.shape[: values.ndim - len(self.shape)]

    def cdf(self, y: ArrayLike) -> FloatArray:
        p = self.base.cdf(self._z(self._aligned(y)))
        return np.asarray(1 - p) if self._falling else p

    def log_prob(self, y: ArrayLike) -> FloatArray:
        values = self._aligned(y)
        flat = values.reshape(*self._lead(values), len(self.normaliser), 1)
        inside = (flat >= self.normaliser.hard_low[:, None]) & (flat <= self.normaliser.hard_high[:, None]) & np.isfinite(flat)
        slope = self.normaliser.log_slope(np.where(inside, flat, self.normaliser.soft_low[:, None])).reshape(values.shape)
        out = np.where(inside.reshape(values.shape), self.base.log_prob(self._z(values)) + slope, -np.inf)
        return np.asarray(np.where(np.isnan(values), np.nan, out))

    def sample(self, n: int, rng: Seed = None) -> FloatArray:
        return self._y(self.base.sample(n, rng))

    def _quantile(self, q: FloatArray) -> FloatArray:
        if not self._falling:
            return self._y(self.base.quantile(q))
        # 1 - q may round two levels into one or turn their order; sorted, quantiles never fall
        return np.sort(self._y(self.base.quantile(1 - q)), axis=0)[np.argsort(np.argsort(q, kind="stable"), kind="stable")]

    # -- integrals over z -----------------------------------------------------------------------------------------------

    def mean(self) -> FloatArray:
        return self._moments[0]

    def std(self) -> FloatArray:
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[FloatArray, FloatArray]:
        """E(Y - m) = int_m (1 - G) - int^m G and E(Y - m)^2 = 2 int_m (y - m)(1 - G) + 2 int^m (m - y) G about the median m."""
        middle = self.median().ravel()
        below, above = self._two_sided(middle, lambda p, distance: p)
        square_below, square_above = self._two_sided(middle, lambda p, distance: 2 * distance * p)
        shift = above - below
        variance = np.maximum(square_below + square_above - shift**2, 0.0)
        return (middle + shift).reshape(self.shape), np.sqrt(variance).reshape(self.shape)

    def crps(self, y: ArrayLike) -> FloatArray:
        """By adaptive quadrature of the definition; infinite at infinite `y`."""
        values = self._aligned(y)
        if self._lead(values):
            flat = [self.crps(v) for v in values.reshape(-1, *self.shape)]
            return np.asarray(np.reshape(flat, values.shape)) if flat else np.zeros(values.shape)
        finite = np.where(np.isfinite(values), values, 0.0).ravel()
        n = self.normaliser
        inner = np.clip(finite, n.hard_low, n.hard_high)
        below, above = self._two_sided(inner, lambda p, distance: p * p)
        out = np.where(np.isfinite(values.ravel()), below + above + np.abs(finite - inner), np.abs(values.ravel()))
        return out.reshape(values.shape)

    def _two_sided(self, at: FloatArray, of: Any) -> tuple[FloatArray, FloatArray]:
        """Integrals over y of ``of(G, at - y)`` below `at` (n,) and of ``of(1 - G, y - at)`` above it."""
        n = len(self.normaliser)
        entry = self.base._take(np.arange(n, dtype=np.int64))
        middle = np.clip(self._z(at.reshape(self.shape)).ravel(), _EDGE, 1 - _EDGE)
        width = self.normaliser.soft_high - self.normaliser.soft_low

        def side(index: IntArray, z: FloatArray) -> FloatArray:
            task, upper = index % n, (index >= n)[:, None]
            p = entry._take(np.broadcast_to(task[:, None], z.shape)).cdf(z)
            maps = self.normaliser[task]
            y = maps.inverse(z)
            return np.asarray(of(np.where(upper, 1 - p, p), np.abs(y - at[task][:, None])) * np.exp(-maps.log_slope(y)))

        low = np.concatenate([np.full(n, _EDGE), middle])
        high = np.concatenate([middle, np.full(n, 1 - _EDGE)])
        lower, upper = np.split(integrate(side, low, high, np.tile(_TOLERANCE * width, 2), panels=8), 2)
        return (upper, lower) if self._falling else (lower, upper)

    # -- the batch ------------------------------------------------------------------------------------------------------

    def _take(self, flat: IntArray) -> Self:
        return type(self)(self.base._take(flat), self.normaliser[flat.ravel()])

    def to_dict(self) -> dict[str, Any]:
        bounds = {name: listed(getattr(self.normaliser, name)) for name in _BOUNDS}
        return {"kind": "Normalised", "base": self.base.to_dict(), "goal": self.normaliser.goal, **bounds}

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Self:
        base = from_dict(fields["base"])
        if not isinstance(base, Mixture | Rescored):
            raise InputError(f"normalised values are distributed as a {type(base).__name__}; allowed: a Mixture or Rescored")
        low, soft_low, soft_high, high = (
            unlisted(fields[n], -np.inf if n == "hard_low" else np.inf) for n in _BOUNDS
        )  # fmt: skip
        return cls(base, Normaliser(fields["goal"], low, soft_low, soft_high, high))

    @classmethod
    def _stack(cls, items: Sequence[Self]) -> Self:
        goals = {item.normaliser.goal for item in items}
        if len(goals) > 1:
            raise InputError("predictives of metrics of which one rises and one falls cannot be stacked")
        bounds = [np.concatenate([getattr(i.normaliser, n) for i in items]) for n in _BOUNDS]
        base = stack([i.base for i in items])
        assert isinstance(base, Mixture | Rescored)
        return cls(base, Normaliser(goals.pop(), *bounds))
