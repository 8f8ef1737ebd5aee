"""Bars: a density that is constant between fixed borders, the output of networks that classify into bins.

With tails the first and the last bar are half-normals that reach outwards from their inner border and hold half of their mass
within the bar's width, so that every value has a density (the Riemann distribution of Müller et al. 2022, "Transformers can do
Bayesian inference", used by LC-PFN, arXiv 2310.20447). Quantiles inside the tails invert the half-normal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from farfield import checks
from farfield.errors import InputError
from farfield.predictive.base import FloatArray, IntArray, Predictive, listed, unlisted
from farfield.seeds import Seed, generator

_HALF = float(special.ndtri(0.75))  # a half-normal holds half of its mass within this many scales


@dataclass(frozen=True, eq=False, repr=False)
class Bars(Predictive):
    """Piecewise constant densities on shared borders.

    Parameters
    ----------
    borders : (n_bars + 1,) strictly rising, finite
    log_mass : (*shape, n_bars) log probabilities, normalised here; -inf is an empty bar
    tails : end bars are half-normals (needs two bars or more) instead of constant
    """

    borders: FloatArray
    log_mass: FloatArray
    tails: bool = False

    def __post_init__(self) -> None:
        borders = checks.finite("borders", self.borders)
        log_mass = checks.numbers("log_mass", self.log_mass)
        if borders.ndim != 1 or borders.size < 2 or not np.all(np.diff(borders) > 0):
            raise InputError(f"borders has shape {borders.shape}; allowed: (n_bars + 1,) strictly rising values")
        if log_mass.ndim == 0 or log_mass.shape[-1] != borders.size - 1:
            raise InputError(f"log_mass has shape {log_mass.shape}; allowed: (*shape, {borders.size - 1}), one value a bar")
        if self.tails and borders.size < 3:
            raise InputError("tails need two bars or more, one for each side; got one bar")
        total = special.logsumexp(log_mass, axis=-1, keepdims=True)
        if not np.isfinite(total).all() or np.isposinf(log_mass).any():
            raise InputError("log_mass must be below infinity, free of NaN, and above -inf somewhere in each row")
        object.__setattr__(self, "borders", borders)
        # what is normalised but for rounding is kept, so that a part of a batch has the very numbers of the whole
        rounding = borders.size * np.finfo(np.float64).eps
        object.__setattr__(self, "log_mass", np.where(np.abs(total) <= rounding, log_mass, log_mass - total))
        object.__setattr__(self, "tails", bool(self.tails))

    def __repr__(self) -> str:
        ends = f"{self.borders[0]:g}..{self.borders[-1]:g}{' with tails' if self.tails else ''}"
        return f"Bars(shape {self.shape}, {self.borders.size - 1} bars, {ends})"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.log_mass.shape[:-1]

    @cached_property
    def _mass(self) -> FloatArray:
        """(n, n_bars) probabilities of the raveled batch."""
        return np.exp(self.log_mass.reshape(-1, self.log_mass.shape[-1]))

    @cached_property
    def _below(self) -> FloatArray:
        """(n, n_bars + 1) probability below each border; a tail counts from its inner border."""
        below = np.zeros((self._mass.shape[0], self.borders.size))
        np.cumsum(self._mass, axis=1, out=below[:, 1:])
        return np.asarray(np.minimum(below / below[:, -1:], 1.0))

    @cached_property
    def _tail_scale(self) -> tuple[float, float]:
        return float(self.borders[1] - self.borders[0]) / _HALF, float(self.borders[-1] - self.borders[-2]) / _HALF

    def _locate(self, y: FloatArray) -> tuple[IntArray, NDArray[np.bool_], NDArray[np.bool_]]:
        """(bar, is in left tail, is in right tail) of raveled values."""
        last = self.borders.size - 2
        bar = np.clip(np.searchsorted(self.borders, y, side="right") - 1, 0, last)
        return bar, (bar == 0) & self.tails, (bar == last) & self.tails

    def _moments(self) -> tuple[FloatArray, FloatArray]:
        """First moment about the middle of the borders, and second, of every bar by itself, (n_bars,) each."""
        middle = 0.5 * (self.borders[0] + self.borders[-1])
        low, high = self.borders[:-1] - middle, self.borders[1:] - middle
        first, second = 0.5 * (low + high), (low**2 + low * high + high**2) / 3
        if self.tails:
            for bar, inner, scale in ((0, high[0], -self._tail_scale[0]), (-1, low[-1], self._tail_scale[1])):
                first[bar] = inner + scale * np.sqrt(2 / np.pi)
                second[bar] = inner**2 + 2 * inner * scale * np.sqrt(2 / np.pi) + scale**2
        return first, second

    def mean(self) -> FloatArray:
        middle = 0.5 * (self.borders[0] + self.borders[-1])
        return np.asarray(middle + (self._mass * self._moments()[0]).sum(axis=1)).reshape(self.shape)

    def std(self) -> FloatArray:
        first, second = self._moments()
        mean = (self._mass * first).sum(axis=1)
        spread = (self._mass * (second - 2 * mean[:, None] * first + mean[:, None] ** 2)).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(spread, 0.0))).reshape(self.shape)

    def log_prob(self, y: ArrayLike) -> FloatArray:
        values = self._aligned(y)
        rows, flat = self._rows(values.shape), values.ravel()
        bar, left, right = self._locate(flat)
        log_mass = self.log_mass.reshape(-1, self.borders.size - 1)[rows, bar]
        out = log_mass - np.log(np.diff(self.borders))[bar]
        inside = (flat >= self.borders[0]) & (flat <= self.borders[-1])
        out = np.where(inside | np.isnan(flat), out, -np.inf)
        for at, inner, scale in ((left, self.borders[1], self._tail_scale[0]), (right, self.borders[-2], self._tail_scale[1])):
            z = (flat - inner) / scale
            out = np.where(at, log_mass + 0.5 * np.log(2 / np.pi) - np.log(scale) - 0.5 * z * z, out)
        return np.where(np.isnan(flat), np.nan, out).reshape(values.shape)

    def cdf(self, y: ArrayLike) -> FloatArray:
        values = self._aligned(y)
        rows, flat = self._rows(values.shape), values.ravel()
        bar, left, right = self._locate(flat)
        start, stop = self._below[rows, bar], self._below[rows, bar + 1]
        share = np.clip((flat - self.borders[bar]) / np.diff(self.borders)[bar], 0.0, 1.0)
        out = start + (stop - start) * share
        out = np.where(left, stop * 2 * special.ndtr((flat - self.borders[1]) / self._tail_scale[0]), out)
        out = np.where(right, 1 - (1 - start) * 2 * special.ndtr((self.borders[-2] - flat) / self._tail_scale[1]), out)
        return np.where(np.isnan(flat), np.nan, out).reshape(values.shape)

    def _quantile(self, q: FloatArray) -> FloatArray:
        last = self.borders.size - 2
        out = np.empty((q.size, self._mass.shape[0]))
        rows = np.arange(self._mass.shape[0])
        for i, level in enumerate(q):
            # the first bar whose upper end reaches the level and that holds mass
            bar = np.minimum((self._below[:, 1:] < level).sum(axis=1), last)
            if level == 0:
                bar = (self._below[:, 1:] > 0).argmax(axis=1)
            start, stop = self._below[rows, bar], self._below[rows, bar + 1]
            share = np.clip((level - start) / np.where(stop > start, stop - start, 1.0), 0.0, 1.0)
            place = self.borders[bar] + share * np.diff(self.borders)[bar]
            if self.tails:
                with np.errstate(divide="ignore", invalid="ignore"):
                    low = self.borders[1] + self._tail_scale[0] * special.ndtri(np.minimum(0.5 * level / stop, 0.5))
                    high = self.borders[-2] - self._tail_scale[1] * special.ndtri(np.minimum(0.5 * (1 - level) / (1 - start), 0.5))
                place = np.where(bar == 0, low, np.where(bar == last, high, place))
            out[i] = place
        return out.reshape(q.size, *self.shape)

    def crps(self, y: ArrayLike) -> FloatArray:
        values = self._aligned(y)
        rows, flat = self._rows(values.shape), values.ravel()
        finite = np.where(np.isfinite(flat), flat, self.borders[0])
        mirror = type(self)(-self.borders[::-1], self.log_mass[..., ::-1], self.tails)
        out = self._area_below(rows, finite) + mirror._area_below(rows, -finite)
        return np.where(np.isnan(flat), np.nan, np.where(np.isinf(flat), np.inf, out)).reshape(values.shape)

    def _area_below(self, rows: IntArray, y: FloatArray) -> FloatArray:
        """Integral of cdf^2 up to y."""
        width, below = np.diff(self.borders), self._below
        whole = width * (below[:, :-1] ** 2 + below[:, :-1] * below[:, 1:] + below[:, 1:] ** 2) / 3
        if self.tails:
            whole[:, 0] = below[:, 1] ** 2 * self._tail_scale[0] * 4 * _square_tail(np.zeros(1))
        before = np.zeros_like(below)
        np.cumsum(whole, axis=1, out=before[:, 1:])
        bar, left, right = self._locate(y)
        start, stop = below[rows, bar], below[rows, bar + 1]
        length = np.clip(y - self.borders[bar], 0.0, width[bar])
        here = start + (stop - start) * length / width[bar]
        out = before[rows, bar] + length * (start**2 + start * here + here**2) / 3 + np.maximum(y - self.borders[-1], 0.0)
        u = np.maximum(self.borders[1] - y, 0.0) / self._tail_scale[0]
        out = np.where(left, stop**2 * self._tail_scale[0] * 4 * _square_tail(u), out)
        # right tail: cdf = 1 - 2 m Q(v) with m its mass, Q the normal survival function
        v, m, scale = np.maximum(y - self.borders[-2], 0.0) / self._tail_scale[1], 1 - start, self._tail_scale[1]
        first = v * special.ndtr(-v) + (1 - np.exp(-0.5 * v * v)) / np.sqrt(2 * np.pi)
        second = _square_tail(np.zeros(1)) - _square_tail(v)
        return np.where(right, before[rows, bar] + scale * (v - 4 * m * first + 4 * m * m * second), out)

    def sample(self, n: int, rng: Seed = None) -> FloatArray:
        """Draws by inversion."""
        p = generator(rng).random((checks.count("n", n), self._mass.shape[0]))
        out = np.empty_like(p)
        last = self.borders.size - 2
        for row in range(p.shape[1]):
            below = self._below[row]
            bar = np.clip(np.searchsorted(below, p[:, row], side="right") - 1, 0, last)
            start, mass = below[bar], below[bar + 1] - below[bar]
            share = (p[:, row] - start) / mass
            out[:, row] = self.borders[bar] + share * np.diff(self.borders)[bar]
            if self.tails:
                low = self.borders[1] + self._tail_scale[0] * special.ndtri(0.5 * share)
                high = self.borders[-2] - self._tail_scale[1] * special.ndtri(0.5 * (1 - share))
                out[:, row] = np.where(bar == 0, low, np.where(bar == last, high, out[:, row]))
        return out.reshape(n, *self.shape)

    def _take(self, flat: IntArray) -> Self:
        return type(self)(self.borders, self.log_mass.reshape(-1, self.borders.size - 1)[flat], self.tails)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "Bars", "borders": self.borders.tolist(), "log_mass": listed(self.log_mass), "tails": self.tails}

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Self:
        return cls(fields["borders"], unlisted(fields["log_mass"], -np.inf), bool(fields["tails"]))

    @classmethod
    def _stack(cls, items: Sequence[Self]) -> Self:
        first = items[0]
        if any(i.tails != first.tails or not np.array_equal(i.borders, first.borders) for i in items):
            raise InputError("cannot stack Bars with different borders or tails")
        return cls(first.borders, np.stack([i.log_mass for i in items]), first.tails)


def _square_tail(u: FloatArray) -> FloatArray:
    """Integral of Q(v)^2 from u to infinity, Q the normal survival function (by parts)."""
    q = special.ndtr(-u)
    density = np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi)
    return np.asarray(2 * density * q - u * q * q - special.erfc(u) / (2 * np.sqrt(np.pi)))
