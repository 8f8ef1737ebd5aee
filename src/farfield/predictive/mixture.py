"""Mixtures of normal or Student-t components, truncated to bounds: what an ensemble of forecasts predicts.

With bounds [a, b] the whole mixture is renormalised: density g(y) = sum_j w_j f_j(y) / sum_j w_j P_j(a < Y <= b) inside, 0
outside. Quantiles are the roots of the distribution function, found for the whole batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from farfield import checks
from farfield.errors import InputError
from farfield.predictive import kernels, tables
from farfield.predictive.base import FloatArray, IntArray, Predictive, listed, unlisted
from farfield.predictive.quadrature import integrate
from farfield.seeds import Seed, generator

_BLOCK = 1 << 16  # component evaluations at a time: what fits the cache
_FAR = 30.0  # scales outside the bounds beyond which a light tail's quantiles come near to underflow


class _Rows(NamedTuple):
    """The batch raveled to n rows, ready to evaluate."""

    weights: FloatArray  # (n, k), sum 1
    loc: FloatArray  # (n, k)
    scale: FloatArray  # (n, k)
    df: FloatArray  # () or (n, k)
    low: FloatArray  # (n,)
    high: FloatArray  # (n,)
    flip: FloatArray  # (n, k): -1 where the component is evaluated in its upper tail
    base: FloatArray  # (n, k): kernel cdf at the lower bound, flipped
    mass: FloatArray  # (n,) probability inside the bounds before renormalising
    below: FloatArray  # (n,) probability under the lower bound before renormalising


@dataclass(frozen=True, eq=False, repr=False)
class Mixture(Predictive):
    """Mixtures of k normal or Student-t components each, truncated to [lower, upper].

    Parameters
    ----------
    weights, loc, scale : broadcast to (*shape, k), components on the last axis. Weights are >= 0 and are normalised to sum to
        one; scale > 0 (a point mass is refused: give it a small positive scale). A component of weight zero may hold anything.
    df : degrees of freedom > 0, a number or broadcastable to (*shape, k); infinity is the normal
    lower, upper : bounds of the support, numbers or broadcastable to ``shape``, lower < upper

    Notes
    -----
    A normal component (or Student-t with df > 30) more than 30 scales outside the bounds is read as if it were 30 scales outside,
    where its mass inside, 1e-197, is still a float; it matters only in rows of which every component lies that far out.
    Quantiles are several times faster for the normal and for one whole df, odd to 9 or even to 30.
    Moments: with an open side, the mean is infinite for df <= 1 (NaN with two open sides) and the standard deviation for df <= 2
    (NaN where the mean is not finite).

    Raises
    ------
    InputError : shapes that do not broadcast, values that are not finite, weights all zero, scale, df or bounds out of range
    """

    weights: FloatArray
    loc: FloatArray
    scale: FloatArray
    df: FloatArray | float = np.inf
    lower: FloatArray | float = -np.inf
    upper: FloatArray | float = np.inf

    def __post_init__(self) -> None:
        given = {n: checks.numbers(n, getattr(self, n)) for n in ("weights", "loc", "scale", "df", "lower", "upper")}
        try:
            weights, loc, scale = np.broadcast_arrays(given["weights"], given["loc"], given["scale"])
            df = given["df"] if given["df"].ndim == 0 else np.broadcast_to(given["df"], loc.shape)
            bounds = [np.broadcast_to(given[n], loc.shape[:-1]) for n in ("lower", "upper")]
        except ValueError:
            shapes = ", ".join(f"{n} {v.shape}" for n, v in given.items())
            raise InputError(f"shapes do not fit: {shapes}; weights, loc, scale, df: (*shape, k); lower, upper: shape") from None
        if loc.ndim == 0 or loc.shape[-1] == 0:
            raise InputError(f"weights, loc and scale have shape {loc.shape}; allowed: (*shape, k) with k >= 1 components last")
        total = weights.sum(axis=-1, keepdims=True)
        if not (np.isfinite(weights).all() and np.all(weights >= 0) and np.all(total > 0)):
            raise InputError("weights must be finite, >= 0 and not all zero in a row")
        used = weights > 0
        for name, values, positive in (("loc", loc, False), ("scale", scale, True)):
            if not np.isfinite(values[used]).all():
                raise InputError(f"{name} has NaN or infinite values where the weight is above zero; all must be finite")
            if positive and not np.all(values[used] > 0):
                raise InputError(f"{name} has the value {values[used].min():g}; allowed: > 0 (give a point mass a small scale)")
        if not np.all(df > 0):
            raise InputError(f"df has the value {df.min():g}; allowed: > 0, infinity for the normal")
        if not np.all(bounds[0] < bounds[1]):
            raise InputError("lower must be below upper everywhere; -inf and inf leave a side open")
        if df.ndim and df.size and np.all(df == df.flat[0]):
            df = df.ravel()[0]
        # weights that sum to one but for rounding are kept, so that a part of a batch has the very numbers of the whole
        normalised = np.where(np.abs(total - 1) <= loc.shape[-1] * np.finfo(np.float64).eps, weights, weights / total)
        fields = {
            "weights": normalised,
            "loc": loc,
            "scale": scale,
            "df": np.asarray(df),
            "lower": bounds[0],
            "upper": bounds[1],
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        df, low, high = (np.unique(v) for v in (self.df, self.lower, self.upper))
        kernel = "normal" if np.all(df == np.inf) else f"df {df[0]:g}" + (f"..{df[-1]:g}" if df.size > 1 else "")
        bounds = [f"{b[0]:g}" if b.size == 1 else "varied" for b in (low, high)]
        return f"Mixture(shape {self.shape}, {self.loc.shape[-1]} components, {kernel}, within [{bounds[0]}, {bounds[1]}])"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.loc.shape[:-1]

    @cached_property
    def _bounded(self) -> bool:
        return bool(np.isfinite(self.lower).any() or np.isfinite(self.upper).any())

    @cached_property
    def _flat(self) -> _Rows:
        k = self.loc.shape[-1]
        weights, loc, scale = (np.ascontiguousarray(v).reshape(-1, k).copy() for v in (self.weights, self.loc, self.scale))
        df = np.asarray(self.df) if np.ndim(self.df) == 0 else np.ascontiguousarray(self.df).reshape(-1, k).copy()
        low, high = (np.ascontiguousarray(v).reshape(-1).astype(np.float64) for v in (self.lower, self.upper))
        unused = weights == 0  # they copy their row's heaviest component, so that they change nothing
        heaviest = weights.argmax(axis=1)[:, None]
        for values in (loc, scale) if df.ndim == 0 else (loc, scale, df):
            values[unused] = np.broadcast_to(np.take_along_axis(values, heaviest, axis=1), values.shape)[unused]
        far = np.where(df > 30, _FAR, 1e9) * scale
        loc = np.clip(loc, low[:, None] - far, high[:, None] + far)
        z_low, z_high = (low[:, None] - loc) / scale, (high[:, None] - loc) / scale
        flip = np.where(z_low > 0, -1.0, 1.0)
        if self._bounded:
            base = kernels.cdf(df, flip * z_low)
            mass = _dot(weights, kernels.interval_mass(df, z_low, z_high))
            below = _dot(weights, np.where(flip < 0, 1 - base, base))
        else:
            base, mass, below = np.zeros_like(loc), np.ones(low.shape), np.zeros(low.shape)
        return _Rows(weights, loc, scale, df, low, high, flip, base, mass, below)

    def _blocks(self, n: int, width: int = 1) -> list[slice]:
        step = max(1, _BLOCK // (self.loc.shape[-1] * width))
        return [slice(i, i + step) for i in range(0, n, step)]

    @cached_property
    def _table(self) -> tables.Table | None:
        return tables.tabulate(self._flat.df)

    def _cdf_rows(self, rows: IntArray, y: FloatArray, table: tables.Table | None = None) -> FloatArray:
        """cdf of the batch rows (m,) at y (m, ...); from the table where one is given."""
        flat = self._flat
        lead = (slice(None), *(None,) * (y.ndim - 1))
        loc, scale, weights = flat.loc[rows][lead], flat.scale[rows][lead], flat.weights[rows][lead]
        z = (y[..., None] - loc) / scale
        if self._bounded:
            z *= flat.flip[rows][lead]
        if table is None:
            part = kernels.cdf(flat.df if flat.df.ndim == 0 else flat.df[rows][lead], z)
        elif flat.df.ndim == 0:
            part = tables.cdf(table, z)
        else:
            part = tables.cdf(tables.Table(table.pieces, table.slope[rows][lead], table.offset[rows][lead]), z)
        if not self._bounded:
            return np.where(y == np.inf, 1.0, np.minimum(_dot(weights, part), 1.0))  # weights sum to one but for rounding
        part = np.abs(part - flat.base[rows][lead])
        low, high, mass = flat.low[rows][lead], flat.high[rows][lead], flat.mass[rows][lead]
        inside = np.minimum(_dot(weights, part) / mass, 1.0)
        inside = np.where(y <= low, 0.0, np.where(y >= high, 1.0, inside))
        return np.where(np.isnan(y), np.nan, inside)

    def _density_rows(self, rows: IntArray, y: FloatArray) -> FloatArray:
        """Density of the batch rows (m,) at y (m,), inside the bounds."""
        flat = self._flat
        df = flat.df if flat.df.ndim == 0 else flat.df[rows]
        scale = flat.scale[rows]
        f = kernels.density(df, (y[:, None] - flat.loc[rows]) / scale) / scale
        return np.asarray(_dot(flat.weights[rows], f) / flat.mass[rows])

    # -- the protocol ---------------------------------------------------------------------------------------------------

    def cdf(self, y: ArrayLike) -> FloatArray:
        values = self._aligned(y)
        rows, flat_y = self._rows(values.shape), values.ravel()
        out = np.empty(flat_y.shape)
        for block in self._blocks(out.size):
            out[block] = self._cdf_rows(rows[block], flat_y[block])
        return out.reshape(values.shape)

    def log_prob(self, y: ArrayLike) -> FloatArray:
        values = self._aligned(y)
        rows, flat_y, flat = self._rows(values.shape), values.ravel(), self._flat
        out = np.empty(flat_y.shape)
        with np.errstate(divide="ignore"):
            log_weights = np.log(flat.weights) - np.log(flat.scale)
        for block in self._blocks(out.size):
            at, here = rows[block], flat_y[block]
            df = flat.df if flat.df.ndim == 0 else flat.df[at]
            terms = log_weights[at] + kernels.log_density(df, (here[:, None] - flat.loc[at]) / flat.scale[at])
            top = terms.max(axis=1, keepdims=True)
            top = np.where(np.isneginf(top), 0.0, top)
            with np.errstate(divide="ignore"):
                total = np.log(np.exp(terms - top).sum(axis=1)) + top[:, 0] - np.log(flat.mass[at])
            out[block] = np.where((here < flat.low[at]) | (here > flat.high[at]), -np.inf, total)
        return out.reshape(values.shape)

    def _moments(self) -> tuple[FloatArray, FloatArray]:
        flat = self._flat
        mass, first, second = kernels.moments(
            flat.df, (flat.low[:, None] - flat.loc) / flat.scale, (flat.high[:, None] - flat.loc) / flat.scale
        )
        share = flat.weights / flat.mass[:, None]
        middle = _dot(flat.weights, flat.loc)  # moments about a point nearby lose fewer digits
        offset = flat.loc - middle[:, None]
        with np.errstate(invalid="ignore"):
            shift = (share * np.where(share > 0, offset * mass + flat.scale * first, 0.0)).sum(axis=1)
            tau = offset - np.where(np.isfinite(shift), shift, 0.0)[:, None]
            square = tau**2 * mass + 2 * tau * flat.scale * first + flat.scale**2 * second
            variance = (share * np.where(share > 0, square, 0.0)).sum(axis=1)
            variance = np.where(np.isfinite(shift), variance, np.nan)
        return middle + shift, np.sqrt(np.maximum(variance, 0.0))

    def mean(self) -> FloatArray:
        return np.clip(self._moments()[0].reshape(self.shape), self.lower, self.upper)

    def std(self) -> FloatArray:
        return self._moments()[1].reshape(self.shape)

    def _quantile(self, q: FloatArray) -> FloatArray:
        n = int(np.prod(self.shape))
        out = np.empty((q.size, n))
        for level, end in ((0.0, self._flat.low), (1.0, self._flat.high)):
            out[q == level] = end
        # all levels at once: what few rows cost does not depend on their number
        within = np.flatnonzero((q > 0.0) & (q < 1.0))
        levels, rows = np.repeat(q[within], n), np.tile(np.arange(n), within.size)
        found = np.empty(rows.size)
        for block in self._blocks(rows.size):
            found[block] = self._solve(levels[block], rows[block])
        out[within] = found.reshape(within.size, n)
        order = np.argsort(q, kind="stable")
        out[order] = np.maximum.accumulate(out[order], axis=0)
        return out.reshape(q.size, *self.shape)

    def _bracket(self, level: FloatArray, rows: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(low, start, high) around the quantile at each row's level, which lies between those of the components."""
        flat = self._flat
        df = flat.df if flat.df.ndim == 0 else flat.df[rows]
        loc, scale, weights = flat.loc[rows], flat.scale[rows], flat.weights[rows]
        p = np.minimum(flat.below[rows] + level * flat.mass[rows], 1.0)[:, None] if self._bounded else level[:, None]
        own = loc + scale * kernels.ppf(df, p)
        with np.errstate(invalid="ignore"):
            low, start, high = own.min(axis=1), _dot(weights, own), own.max(axis=1)
        if not self._bounded:
            return low, np.clip(start, low, high), high
        a, b = flat.low[rows], flat.high[rows]
        spread = scale.max(axis=1)
        low = np.clip(np.where(np.isfinite(low), low, loc.min(axis=1) - spread), a, b)
        high = np.clip(np.where(np.isfinite(high), high, np.maximum(low, loc.max(axis=1)) + spread), a, b)
        # where the bounds leave little mass, `p` above is rough: widen until the bracket holds the root
        for end, sign in ((low, -1.0), (high, 1.0)):
            step = spread.copy()
            off = np.flatnonzero(sign * (self._cdf_rows(rows, end) - level) < 0)
            while off.size:
                end[off] = np.clip(end[off] + sign * step[off], a[off], b[off])
                step[off] *= 4
                off = off[sign * (self._cdf_rows(rows[off], end[off]) - level[off]) < 0]
        return low, np.clip(np.where(np.isfinite(start), start, 0.5 * (low + high)), low, high), high

    def _solve(self, level: FloatArray, rows: IntArray) -> FloatArray:
        """Roots of cdf = level, one of each row: Newton on the probit of the cdf, kept in a bracket, halved when Newton is slow.

        Ends when the cdf meets the level to rounding, or when the bracket or the step is down to neighbouring floats.
        """
        low, y, high = self._bracket(level, rows)
        out = y.copy()
        eps = float(np.finfo(np.float64).eps)
        smaller = np.minimum(level, 1 - level)
        tolerance = 32 * eps * smaller + eps * level
        target = special.ndtri(level)
        active = np.arange(rows.size)
        before = np.full(rows.size, np.inf)
        for _ in range(400):
            error = self._cdf_rows(rows[active], y) - level
            low, high = np.where(error <= 0, y, low), np.where(error >= 0, y, high)
            probit = special.ndtri(error + level)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                slope = self._density_rows(rows[active], y)
                near = np.abs(error) < 1e-5 * smaller
                rise = np.where(near, -error, (target - probit) * np.exp(-0.5 * probit**2) / np.sqrt(2 * np.pi))
                step = y + rise / slope
            newton = (step > low) & (step < high) & (np.abs(error) <= 0.5 * before)
            middle = low + 0.5 * (high - low)
            following = np.where(newton, step, middle)
            done = (np.abs(error) <= tolerance) | (following == y) | (middle <= low) | (middle >= high)
            out[active] = y
            keep = ~done
            before = np.where(newton, np.abs(error), np.inf)[keep]
            active, y, low, high = active[keep], following[keep], low[keep], high[keep]
            level, smaller, tolerance, target = level[keep], smaller[keep], tolerance[keep], target[keep]
            if not active.size:
                break
        return out

    def crps(self, y: ArrayLike) -> FloatArray:
        """Closed form for untruncated normal components (Grimit, Gneiting, Berrocal & Johnson 2006, equation 5).

        Otherwise adaptive quadrature of the definition; the error is below 1e-6 of the spread of the components, or of the distance
        of the bounds where that is smaller. Infinite for df <= 1/2
        with an open side.
        """
        values = self._aligned(y)
        rows, flat_y = self._rows(values.shape), values.ravel()
        out = np.empty(flat_y.shape)
        finite = np.where(np.isfinite(flat_y), flat_y, 0.0)
        k = self.loc.shape[-1]
        if not self._bounded and np.all(self._flat.df == np.inf):
            for block in self._blocks(out.size, k):
                out[block] = self._crps_normal(rows[block], finite[block])
        else:
            # the table's error, 1e-9, is divided by the mass inside the bounds
            quick = (self._flat.mass[rows] > 0.05) & (self._table is not None)
            for chosen, table in ((quick, self._table), (~quick, None)):
                at = np.flatnonzero(chosen)
                for block in self._blocks(at.size, 68):
                    out[at[block]] = self._crps_quadrature(rows[at[block]], finite[at[block]], table)
        out = np.where(np.isfinite(flat_y), out, np.abs(flat_y))  # infinite, or NaN
        return out.reshape(values.shape)

    def _crps_normal(self, rows: IntArray, y: FloatArray) -> FloatArray:
        w, loc, scale = (v[rows] for v in (self._flat.weights, self._flat.loc, self._flat.scale))
        i, j = np.triu_indices(loc.shape[1], k=1)
        apart = np.hypot(scale[:, i], scale[:, j])
        spread = _dot(w[:, i] * w[:, j], _mean_distance(loc[:, i] - loc[:, j], apart))
        same = _dot(w * w, scale) / np.sqrt(np.pi)
        return np.asarray(_dot(w, _mean_distance(y[:, None] - loc, scale)) - spread - same)

    def _crps_quadrature(self, rows: IntArray, y: FloatArray, table: tables.Table | None) -> FloatArray:
        """Integrals of cdf^2 below y and of (1 - cdf)^2 above, in v with t = y -+ L sinh(v), L the spread of the mixture."""
        flat = self._flat
        w, loc, scale = (v[rows] for v in (flat.weights, flat.loc, flat.scale))
        df = flat.df if flat.df.ndim == 0 else flat.df[rows]
        low, high = flat.low[rows], flat.high[rows]
        inner = np.clip(y, low, high)
        centre = _dot(w, loc)
        sizes = np.hypot(scale, loc - centre[:, None])
        largest = sizes.max(axis=1)
        spread = largest * np.sqrt(_dot(w, (sizes / largest[:, None]) ** 2))  # squares of 1e-200 would be zero, of 1e200 infinite
        spread = np.minimum(spread, high - low)
        # beyond this many scales from every component less than 1e-9 of the integral is left
        power = np.maximum(2 * np.where(np.isinf(df), 1.0, df) - 1, 1e-3)
        heavy = 10 ** np.minimum(9 / power, 200.0) * np.sqrt(np.minimum(df, 1e3))
        tail = np.where(np.isinf(df), 9.0, 9.0 + heavy)
        reach = (np.abs(loc - inner[:, None]) + tail * scale).max(axis=1)
        ends = np.concatenate([np.minimum(inner - low, reach), np.minimum(high - inner, reach)])
        n = rows.size
        lightest = df if df.ndim == 0 else df.min(axis=1)
        endless = (lightest <= 0.5) & ~(np.isfinite(low) & np.isfinite(high))
        top = np.where(np.tile(np.broadcast_to(endless, n), 2), 0.0, np.arcsinh(ends / np.tile(spread, 2)))

        def square(index: IntArray, v: FloatArray) -> FloatArray:
            task = index % n
            side = np.where(index < n, -1.0, 1.0)[:, None]
            length = spread[task][:, None]
            t = inner[task][:, None] + side * length * np.sinh(v)
            p = self._cdf_rows(rows[task], t, table)
            return np.asarray(np.where(side < 0, p, 1 - p) ** 2 * length * np.cosh(v))

        parts = integrate(square, np.zeros(2 * n), top, np.tile(3e-7 * spread, 2))
        out = parts[:n] + parts[n:] + np.abs(y - inner)
        return np.where(endless, np.inf, out)

    def sample(self, n: int, rng: Seed = None) -> FloatArray:
        """Draws a component, then a value; one that falls outside the bounds is replaced by a draw from inside by inversion."""
        random = generator(rng)
        flat, size = self._flat, int(np.prod(self.shape))
        draws = checks.count("n", n)
        inside = kernels.interval_mass(flat.df, *((e[:, None] - flat.loc) / flat.scale for e in (flat.low, flat.high)))
        share = np.cumsum(flat.weights * inside, axis=1)
        pick = random.random((draws, size)) * share[:, -1]
        component = np.zeros((draws, size), dtype=np.int64)
        for share_so_far in share[:, :-1].T:
            np.add(component, pick >= share_so_far, out=component)
        at = (np.arange(size), component)
        df = flat.df if flat.df.ndim == 0 else flat.df[at]
        normal = random.standard_normal((draws, size))
        heavy = np.isfinite(df)
        if heavy.any():
            chi = 2 * random.standard_gamma(np.where(heavy, df, 1.0) / 2, (draws, size))
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                normal = np.where(heavy, normal / np.sqrt(chi / np.where(heavy, df, 1.0)), normal)
        out = flat.loc[at] + flat.scale[at] * normal
        fresh = random.random((draws, size))
        outside = ~((out >= flat.low) & (out <= flat.high))
        if outside.any():
            row, j = np.broadcast_to(np.arange(size), out.shape)[outside], component[outside]
            p = flat.base[row, j] + flat.flip[row, j] * fresh[outside] * inside[row, j]
            z = kernels.ppf(flat.df if flat.df.ndim == 0 else flat.df[row, j], np.clip(p, 0.0, 1.0))
            redrawn = flat.loc[row, j] + flat.scale[row, j] * flat.flip[row, j] * z
            out[outside] = np.clip(redrawn, flat.low[row], flat.high[row])
        return out.reshape(draws, *self.shape)

    def rescaled(self, factor: ArrayLike) -> Self:
        """The mixture stretched about its own median by `factor` > 0 (a number or ``shape``), bounds kept.

        loc' = median + factor (loc - median), scale' = factor scale: without bounds every quantile's distance from the median
        is multiplied by the factor; with bounds the stretched mixture is truncated anew.
        """
        stretch = checks.numbers("factor", factor)
        if not np.all((stretch > 0) & np.isfinite(stretch)):
            raise InputError("factor must be finite and > 0 everywhere")
        try:
            stretch = np.broadcast_to(stretch, self.shape)[..., None]
        except ValueError:
            raise InputError(f"factor has shape {stretch.shape}; allowed: a number or the batch's {self.shape}") from None
        middle = self.median()[..., None]
        loc = middle + stretch * (self.loc - middle)
        return type(self)(self.weights, loc, stretch * self.scale, self.df, self.lower, self.upper)

    # -- the batch ------------------------------------------------------------------------------------------------------

    def _take(self, flat: IntArray) -> Self:
        k = self.loc.shape[-1]
        weights, loc, scale = (np.reshape(v, (-1, k))[flat] for v in (self.weights, self.loc, self.scale))
        df = self.df if np.ndim(self.df) == 0 else np.reshape(self.df, (-1, k))[flat]
        return type(self)(weights, loc, scale, df, np.ravel(self.lower)[flat], np.ravel(self.upper)[flat])

    def to_dict(self) -> dict[str, Any]:
        record: dict[str, Any] = {"kind": "Mixture"}
        return record | {n: listed(np.asarray(getattr(self, n))) for n in ("weights", "loc", "scale", "df", "lower", "upper")}

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Self:
        open_at = {"lower": -np.inf}
        names = ("weights", "loc", "scale", "df", "lower", "upper")
        return cls(*(unlisted(fields[n], open_at.get(n, np.inf)) for n in names))

    @classmethod
    def concatenate(cls, items: Sequence[Self], axis: int = 0) -> Self:
        """Mixtures whose shapes agree but for `axis` as one; those with fewer components are filled up with ones of weight zero."""
        return cls._joined(items, lambda parts: np.concatenate(parts, axis=axis))

    @classmethod
    def _stack(cls, items: Sequence[Self]) -> Self:
        return cls._joined(items, np.stack)

    @classmethod
    def _joined(cls, items: Sequence[Self], join: Callable[[list[FloatArray]], FloatArray]) -> Self:
        k = max(i.loc.shape[-1] for i in items)
        fields = {n: join([np.asarray(getattr(i, n)) for i in items]) for n in ("lower", "upper")}
        for name, filler in (("weights", 0.0), ("loc", 0.0), ("scale", 1.0), ("df", 1.0)):
            full = [np.broadcast_to(getattr(i, name), i.loc.shape) for i in items]
            fill = [[(0, 0)] * (f.ndim - 1) + [(0, k - f.shape[-1])] for f in full]
            fields[name] = join([np.pad(f, p, constant_values=filler) for f, p in zip(full, fill, strict=True)])
        return cls(**fields)


def _mean_distance(offset: FloatArray, scale: FloatArray) -> FloatArray:
    """E|offset + scale Z| for standard normal Z."""
    z = np.clip(offset / scale, -40.0, 40.0)  # beyond that it is the offset's size, and squares may overflow
    return np.asarray(offset * special.erf(z / np.sqrt(2)) + scale * np.sqrt(2 / np.pi) * np.exp(-0.5 * z * z))


def _dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """Products summed over the last axis, each row in the same order whatever the number of rows (einsum does not promise it)."""
    return np.asarray((a * b).sum(axis=-1))
