"""Predictive distributions held as draws, such as a bootstrap or a Markov chain gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from farfield import checks
from farfield.errors import InputError
from farfield.predictive.base import FloatArray, IntArray, Predictive
from farfield.seeds import Seed, generator


@dataclass(frozen=True, eq=False, repr=False)
class Samples(Predictive):
    """n equally likely draws of the whole batch.

    The distribution is the empirical one: ``cdf`` is the share of draws <= y, ``std`` divides by n, ``crps`` is that of the
    empirical distribution function. ``quantile`` interpolates linearly between order statistics (Hyndman & Fan 1996, type 7).
    ``log_prob`` is a normal kernel density estimate with Silverman's bandwidth 0.9 min(sd, IQR / 1.34) n^(-1/5), at least a
    millionth of the draws' size, so that constant draws have a density.

    Parameters
    ----------
    values : (n, *shape) finite draws, n >= 1; draws along the first axis are joint over the batch
    """

    values: FloatArray

    def __post_init__(self) -> None:
        values = checks.finite("values", self.values)
        if values.ndim == 0 or values.shape[0] == 0:
            raise InputError(f"values has shape {values.shape}; allowed: (n, *shape) with n >= 1 draws first")
        object.__setattr__(self, "values", values)

    def __repr__(self) -> str:
        return f"Samples(shape {self.shape}, {self.values.shape[0]} draws)"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[1:]

    @cached_property
    def _sorted(self) -> FloatArray:
        """(prod(shape), n) draws in rising order."""
        return np.ascontiguousarray(np.sort(self.values.reshape(self.values.shape[0], -1), axis=0).T)

    @cached_property
    def _gini(self) -> FloatArray:
        """(prod(shape),) half the mean absolute difference of two draws (with replacement)."""
        ordered = self._sorted
        n = ordered.shape[1]
        return np.asarray(((ordered - ordered.mean(axis=1, keepdims=True)) * (2 * np.arange(1, n + 1) - n - 1)).sum(axis=1) / n**2)

    def mean(self) -> FloatArray:
        return np.asarray(self._sorted.mean(axis=1)).reshape(self.shape)

    def std(self) -> FloatArray:
        return np.asarray(self._sorted.std(axis=1)).reshape(self.shape)

    def _quantile(self, q: FloatArray) -> FloatArray:
        ordered = self._sorted
        place = q * (ordered.shape[1] - 1)
        left = np.minimum(place.astype(np.int64), max(ordered.shape[1] - 2, 0))
        right = np.minimum(left + 1, ordered.shape[1] - 1)
        share = place - left
        out = ordered[:, left] + share * (ordered[:, right] - ordered[:, left])
        out = np.where(share >= 1, ordered[:, right], out)
        return np.ascontiguousarray(out.T).reshape(q.size, *self.shape)

    def _each(self, y: ArrayLike) -> tuple[FloatArray, IntArray]:
        values = self._aligned(y)
        return values, self._rows(values.shape)

    def cdf(self, y: ArrayLike) -> FloatArray:
        values, rows = self._each(y)
        ordered, flat = self._sorted, values.ravel()
        share = np.array([np.searchsorted(ordered[r], v, side="right") for r, v in zip(rows, flat, strict=True)]) / ordered.shape[1]
        return np.where(np.isnan(flat), np.nan, share).reshape(values.shape)

    def log_prob(self, y: ArrayLike) -> FloatArray:
        values, rows = self._each(y)
        ordered, flat = self._sorted, values.ravel()
        n = ordered.shape[1]
        quarter = np.quantile(ordered, [0.25, 0.75], axis=1)
        spread, iqr = ordered.std(axis=1), (quarter[1] - quarter[0]) / 1.34
        width = 0.9 * np.where(iqr > 0, np.minimum(spread, iqr), spread) * n**-0.2
        width = np.maximum(width, 1e-6 * np.maximum(np.abs(ordered).max(axis=1), 1e-300))
        out = np.empty(flat.shape)
        step = max(1, (1 << 20) // n)
        for i in range(0, flat.size, step):
            at, block = rows[i : i + step], slice(i, i + step)
            terms = -0.5 * ((flat[block, None] - ordered[at]) / width[at, None]) ** 2
            top = terms.max(axis=1, keepdims=True)
            top = np.where(np.isneginf(top), 0.0, top)
            with np.errstate(divide="ignore"):
                out[block] = np.log(np.exp(terms - top).mean(axis=1)) + top[:, 0] - np.log(width[at]) - 0.5 * np.log(2 * np.pi)
        return out.reshape(values.shape)

    def crps(self, y: ArrayLike) -> FloatArray:
        """Mean |draw - y| less half the mean absolute difference of two draws, with replacement (exact for the empirical cdf)."""
        values, rows = self._each(y)
        ordered, flat = self._sorted, values.ravel()
        out = np.empty(flat.shape)
        step = max(1, (1 << 20) // ordered.shape[1])
        for i in range(0, flat.size, step):
            at = rows[i : i + step]
            out[i : i + step] = np.abs(ordered[at] - flat[i : i + step, None]).mean(axis=1) - self._gini[at]
        return out.reshape(values.shape)

    def sample(self, n: int, rng: Seed = None) -> FloatArray:
        """Draws with replacement; each draw is taken for the whole batch together, so that dependence survives."""
        pick = generator(rng).integers(self.values.shape[0], size=checks.count("n", n))
        return self.values[pick]

    def _take(self, flat: IntArray) -> Self:
        return type(self)(self.values.reshape(self.values.shape[0], -1)[:, flat])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "Samples", "values": self.values.tolist()}

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Self:
        return cls(fields["values"])

    @classmethod
    def _stack(cls, items: Sequence[Self]) -> Self:
        counts = {i.values.shape[0] for i in items}
        if len(counts) > 1:
            raise InputError(f"cannot stack Samples with {sorted(counts)} draws; the number of draws must agree")
        return cls(np.stack([i.values for i in items], axis=1))
