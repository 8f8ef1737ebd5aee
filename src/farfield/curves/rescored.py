"""A mixture whose normal scores have another distribution: what other runs change about a forecast of the normalised value.

The score of z under a mixture with distribution function F and density f is g = Phi^-1 F(z). If g is distributed as Q, with density
q, then z has the density f(z) q(g) / phi(g) and the distribution function Q(g(z)). Where q = phi it is the mixture itself. A spread
k, from how the method did elsewhere, widens it about its median: v = Phi^-1 Q(g) is read as v / k. All is kept within [0, 1] by
division by the mass there, as `farfield.curves.normalised` keeps a mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from farfield.errors import InputError
from farfield.predictive import Mixture, Predictive
from farfield.predictive.base import FloatArray, IntArray, listed
from farfield.predictive.quadrature import integrate
from farfield.seeds import Seed, generator

_HALVINGS = 60
_TOLERANCE = 1e-8
_LOG_ROOT = 0.5 * np.log(2 * np.pi)
# smaller probabilities are told by their logarithm
_LEAST = 1e-290


def normal_scores(values: FloatArray, weight: FloatArray, loc: FloatArray, scale: FloatArray) -> FloatArray:
    """(...) Phi^-1 F(values) for mixtures of normals (..., components), right far into either tail."""
    z = (values[..., None] - loc) / scale
    below, above = ((weight * special.ndtr(v)).sum(axis=-1) for v in (z, -z))
    out = np.asarray(np.where(below < above, special.ndtri(np.minimum(below, 1.0)), -special.ndtri(np.minimum(above, 1.0))))
    far = np.minimum(below, above) < _LEAST
    if far.any():
        out[far] = _far_scores(z[far], np.broadcast_to(weight, z.shape)[far])
    return out


def _far_scores(z: FloatArray, weight: FloatArray) -> FloatArray:
    """The same (n,) of standardised values (n, components), by logarithms, where probabilities are no floats any more."""
    below, above = (special.logsumexp(special.log_ndtr(v), b=weight, axis=-1) for v in (z, -z))
    return np.asarray(np.where(below < above, special.ndtri_exp(np.minimum(below, 0)), -special.ndtri_exp(np.minimum(above, 0))))


@dataclass(frozen=True, eq=False, repr=False)
class Rescored(Predictive):
    """Values in [0, 1] whose normal scores under `base`, a mixture of normals without bounds, are distributed as `scores`.

    spread : by how much the distribution is widened about its median, above 0, a number or of the batch's shape

    Raises InputError where the shapes differ, a mixture has bounds, or a spread is not above 0.
    """

    base: Mixture
    scores: Mixture
    spread: FloatArray = field(default_factory=lambda: np.ones(()))

    def __post_init__(self) -> None:
        object.__setattr__(self, "spread", np.broadcast_to(np.asarray(self.spread, dtype=np.float64), self.base.shape))
        if not (self.spread > 0).all():
            raise InputError(f"a spread is {self.spread.min():g}; allowed: numbers above 0")
        if self.base.shape != self.scores.shape:
            raise InputError(f"scores have shape {self.scores.shape} for a batch of shape {self.base.shape}; allowed: the same")
        if any(np.isfinite(m.lower).any() or np.isfinite(m.upper).any() for m in (self.base, self.scores)):
            raise InputError("a mixture has bounds; allowed: mixtures without, the values are kept within [0, 1]")

    def __repr__(self) -> str:
        return f"Rescored(shape {self.shape}, {self.scores.loc.shape[-1]} components on {self.base.loc.shape[-1]})"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def _scores_of(self, z: FloatArray) -> FloatArray:
        """g of values z."""
        return normal_scores(z, self.base.weights, self.base.loc, self.base.scale)

    def _second(self, g: FloatArray) -> FloatArray:
        """v of scores g."""
        return normal_scores(g, self.scores.weights, self.scores.loc, self.scores.scale)

    @cached_property
    def _ends(self) -> tuple[FloatArray, FloatArray]:
        """Q at the scores of 0 and of 1."""
        low, high = (special.ndtr(self._second(self._scores_of(np.full(self.shape, end))) / self.spread) for end in (0.0, 1.0))
        return low, np.maximum(high, low + 1e-300)

    def cdf(self, y: ArrayLike) -> FloatArray:
        values = self._aligned(y)
        low, high = self._ends
        inside = (special.ndtr(self._second(self._scores_of(np.clip(values, 0.0, 1.0))) / self.spread) - low) / (high - low)
        out = np.where(values < 0, 0.0, np.where(values >= 1, 1.0, np.clip(inside, 0.0, 1.0)))
        return np.asarray(np.where(np.isnan(values), np.nan, out))

    def log_prob(self, y: ArrayLike) -> FloatArray:
        values = self._aligned(y)
        inside = (values >= 0) & (values <= 1)
        z = np.where(inside, values, 0.5)
        g = self._scores_of(z)
        v, k = self._second(g), self.spread
        low, high = self._ends
        out = self.base.log_prob(z) + self.scores.log_prob(g) + 0.5 * g**2 + _LOG_ROOT - np.log(high - low)
        out = out + 0.5 * (v**2 - (v / k) ** 2) - np.log(k)
        return np.asarray(np.where(np.isnan(values), np.nan, np.where(inside, out, -np.inf)))

    def _inverse(self, levels: FloatArray) -> FloatArray:
        """Values (..., *shape) at levels of the same shape, by halving [0, 1]."""
        low, high = np.zeros(levels.shape), np.ones(levels.shape)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            left = self.cdf(middle) < levels
            low, high = np.where(left, middle, low), np.where(left, high, middle)
        return 0.5 * (low + high)

    def _quantile(self, q: FloatArray) -> FloatArray:
        return self._inverse(np.broadcast_to(q.reshape(-1, *(1,) * len(self.shape)), (q.size, *self.shape)))

    def sample(self, n: int, rng: Seed = None) -> FloatArray:
        return self._inverse(generator(rng).random((n, *self.shape)))

    # -- integrals over [0, 1] ------------------------------------------------------------------------------------------

    def _integral(self, of: Callable[[FloatArray, FloatArray], FloatArray], low: FloatArray, high: FloatArray) -> FloatArray:
        """Integrals of ``of(z, G(z))`` between ends (n,) of the raveled batch."""

        def values(index: IntArray, z: FloatArray) -> FloatArray:
            return of(z, self._take(np.broadcast_to(index[:, None], z.shape)).cdf(z))

        return integrate(values, low, high, np.full(low.shape, _TOLERANCE), panels=8)

    def mean(self) -> FloatArray:
        n = int(np.prod(self.shape))
        return (1 - self._integral(lambda z, p: p, np.zeros(n), np.ones(n))).reshape(self.shape)

    def std(self) -> FloatArray:
        n = int(np.prod(self.shape))
        square = 1 - self._integral(lambda z, p: 2 * z * p, np.zeros(n), np.ones(n)).reshape(self.shape)
        return np.sqrt(np.maximum(square - self.mean() ** 2, 0.0))

    def crps(self, y: ArrayLike) -> FloatArray:
        values = self._aligned(y)
        lead = values.shape[: values.ndim - len(self.shape)]
        if lead:
            flat = [self.crps(v) for v in values.reshape(-1, *self.shape)]
            return np.asarray(np.reshape(flat, values.shape)) if flat else np.zeros(values.shape)
        inner = np.clip(np.nan_to_num(values.ravel(), nan=0.5), 0.0, 1.0)
        below = self._integral(lambda z, p: p**2, np.zeros(inner.size), inner)
        above = self._integral(lambda z, p: (1 - p) ** 2, inner, np.ones(inner.size))
        return np.asarray((below + above).reshape(self.shape) + np.abs(values - inner.reshape(self.shape)))

    # -- the batch ------------------------------------------------------------------------------------------------------

    def _take(self, flat: IntArray) -> Self:
        return type(self)(self.base._take(flat), self.scores._take(flat), self.spread.ravel()[flat])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "Rescored", "base": self.base.to_dict(), "scores": self.scores.to_dict(), "spread": listed(self.spread)}

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Self:
        base, scores = ({k: v for k, v in fields[name].items() if k != "kind"} for name in ("base", "scores"))
        return cls(Mixture._from_fields(base), Mixture._from_fields(scores), np.asarray(fields["spread"], dtype=np.float64))

    @classmethod
    def _stack(cls, items: Sequence[Self]) -> Self:
        spread = np.stack([i.spread for i in items])
        return cls(Mixture._stack([i.base for i in items]), Mixture._stack([i.scores for i in items]), spread)
