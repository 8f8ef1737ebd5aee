"""Normal distributions, everything in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from farfield import checks
from farfield.errors import InputError
from farfield.predictive.base import FloatArray, IntArray, Predictive
from farfield.seeds import Seed, generator


@dataclass(frozen=True, eq=False, repr=False)
class Gaussian(Predictive):
    """Normal distributions.

    Parameters
    ----------
    loc, scale : mean and standard deviation; broadcast against each other, finite, scale > 0
    """

    loc: FloatArray
    scale: FloatArray

    def __post_init__(self) -> None:
        loc, scale = checks.finite("loc", self.loc), checks.finite("scale", self.scale)
        if not np.all(scale > 0):
            raise InputError(f"scale has the value {scale.min():g}; allowed: > 0 (give a point mass a small positive scale)")
        try:
            loc, scale = np.broadcast_arrays(loc, scale)
        except ValueError:
            raise InputError(f"loc has shape {loc.shape} and scale {scale.shape}; they do not broadcast") from None
        object.__setattr__(self, "loc", loc)
        object.__setattr__(self, "scale", scale)

    def __repr__(self) -> str:
        return f"Gaussian(shape {self.shape})"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.loc.shape

    def mean(self) -> FloatArray:
        return self.loc.copy()

    def std(self) -> FloatArray:
        return self.scale.copy()

    def _quantile(self, q: FloatArray) -> FloatArray:
        z = special.ndtri(q).reshape(-1, *(1,) * len(self.shape))
        return np.asarray(self.loc + self.scale * z)

    def cdf(self, y: ArrayLike) -> FloatArray:
        return np.asarray(special.ndtr((self._aligned(y) - self.loc) / self.scale))

    def log_prob(self, y: ArrayLike) -> FloatArray:
        z = (self._aligned(y) - self.loc) / self.scale
        return np.asarray(-0.5 * z**2 - np.log(self.scale) - 0.5 * np.log(2 * np.pi))

    def crps(self, y: ArrayLike) -> FloatArray:
        """Closed form: Gneiting, Raftery, Westveld & Goldman 2005, equation 5."""
        z = (self._aligned(y) - self.loc) / self.scale
        density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        return np.asarray(self.scale * (z * special.erf(z / np.sqrt(2)) + 2 * density - 1 / np.sqrt(np.pi)))

    def sample(self, n: int, rng: Seed = None) -> FloatArray:
        return self.loc + self.scale * generator(rng).standard_normal((checks.count("n", n), *self.shape))

    def _take(self, flat: IntArray) -> Self:
        return type(self)(self.loc.ravel()[flat], self.scale.ravel()[flat])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "Gaussian", "loc": self.loc.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Self:
        return cls(fields["loc"], fields["scale"])

    @classmethod
    def _stack(cls, items: Sequence[Self]) -> Self:
        return cls(np.stack([i.loc for i in items]), np.stack([i.scale for i in items]))
