"""Regions along one axis: a feature, the target, length, time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from farfield import checks
from farfield.errors import InputError, short
from farfield.splits.base import Part, RegionSplitter, Table
from farfield.splits.rows import FloatArray, IntArray, numeric_column

Side = Literal["upper", "lower", "both", "inner"]
_SIDES = ("upper", "lower", "both", "inner")


def along(values: FloatArray, beyond: IntArray, seen: IntArray) -> FloatArray:
    """Distance of the rows beyond to the nearest seen value, over the range of the seen values."""
    known = np.sort(values[seen])
    spread = float(known[-1] - known[0])
    if spread == 0:
        return np.full(beyond.size, np.nan)
    at = values[beyond]
    place = np.searchsorted(known, at)
    left = np.abs(at - known[np.maximum(place - 1, 0)])
    right = np.abs(known[np.minimum(place, known.size - 1)] - at)
    return np.minimum(left, right) / spread


def axis_part(
    values: FloatArray, name: str, side: str, quantile: float, threshold: float | tuple[float, float] | None, gap: float
) -> Part:
    """The region of a splitter on one axis: values past a threshold, a buffer of width `gap` before it left out."""
    checks.choice("side", side, _SIDES)
    if checks.finite("gap", gap, ndim=0) < 0:
        raise InputError(f"gap is {gap}; allowed: a finite number from 0 up, in units of {name}")
    missing = np.isnan(values)
    if missing.any():
        raise InputError(f"{name} is missing for {int(missing.sum())} of {values.size} rows; fill it or leave those rows out")
    two = side in ("both", "inner")
    if threshold is None:
        q = checks.level("quantile", quantile)
        levels = {"upper": (1 - q,), "lower": (q,), "both": (q / 2, 1 - q / 2), "inner": (0.5 - q / 2, 0.5 + q / 2)}[side]
        edges = [float(e) for e in np.quantile(values, levels)]
    else:
        edges = checks.finite("threshold", threshold).ravel().tolist()
        if len(edges) != 1 + two:
            raise InputError(
                f"threshold is {short(threshold)}; side={side!r} needs {'a pair (low, high)' if two else 'one number'}"
            )
    if side == "upper":
        beyond, seen = values > edges[0], values <= edges[0] - gap
    elif side == "lower":
        beyond, seen = values < edges[0], values >= edges[0] + gap
    elif side == "both":
        beyond, seen = (values < edges[0]) | (values > edges[1]), (values >= edges[0] + gap) & (values <= edges[1] - gap)
    else:
        beyond, seen = (values > edges[0]) & (values < edges[1]), (values <= edges[0] - gap) | (values >= edges[1] + gap)
    if two:
        tag = f"{name} {'outside' if side == 'both' else 'within'} ({edges[0]:g}, {edges[1]:g})"
    else:
        tag = f"{name}{'>' if side == 'upper' else '<'}{edges[0]:g}"
    if not seen.any():
        raise InputError(f"nothing is seen of {tag}: gap={gap:g} is wider than the data ({values.min():g} to {values.max():g})")
    there, here = np.flatnonzero(beyond), np.flatnonzero(seen)
    return Part(here, there, along(values, there, here) if there.size else np.empty(0), tag)


@dataclass(eq=False)
class RangeSplit(RegionSplitter):
    """Beyond: the far range of one feature.

    Parameters
    ----------
    feature : column name or number
    quantile : share of the rows beyond, where no threshold is given
    threshold : the edge instead of a quantile; a pair for ``both`` and ``inner``
    side : ``upper``, ``lower``, ``both``, or ``inner``: a hole within the range, the control of interpolation
    gap : width of a buffer before the edge whose rows are neither seen nor beyond, in units of the feature
    inside_size, n_repeats, max_train, n_reference, random_state : as in :class:`RegionSplitter`

    Distance: to the nearest seen value, over the range of the seen values.
    """

    feature: int | str
    quantile: float = field(default=0.2, kw_only=True)
    threshold: float | tuple[float, float] | None = field(default=None, kw_only=True)
    side: Side = field(default="upper", kw_only=True)
    gap: float = field(default=0.0, kw_only=True)

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        name = self.feature if isinstance(self.feature, str) else f"column {self.feature}"
        yield axis_part(numeric_column(table.X, self.feature), name, self.side, self.quantile, self.threshold, self.gap)


@dataclass(eq=False)
class TargetRangeSplit(RegionSplitter):
    """Beyond: the far range of the target, as when only poor candidates were measured; parameters as in :class:`RangeSplit`."""

    quantile: float = field(default=0.2, kw_only=True)
    threshold: float | tuple[float, float] | None = field(default=None, kw_only=True)
    side: Side = field(default="upper", kw_only=True)

    needs_y: ClassVar[bool] = True

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        values = checks.numbers("y", table.y, ndim=1)
        yield axis_part(values, "target", self.side, self.quantile, self.threshold, 0.0)


@dataclass(eq=False)
class LengthSplit(RegionSplitter):
    """Beyond: longer than what was trained on, one region a bucket of lengths.

    Parameters
    ----------
    length : function of one sample, or the name or number of a column that holds the length
    train_max : longest seen
    buckets : ``geometric``: (L, f L], (f L, f^2 L], ... with L = `train_max` and f = `factor`; or the upper edges themselves
    factor : ratio of the edges
    inside_size, n_repeats, max_train, n_reference, random_state : as in :class:`RegionSplitter`

    Reach is length / `train_max`.
    """

    length: Callable[[Any], float] | str | int = len
    train_max: float = field(default=np.nan, kw_only=True)
    buckets: str | Sequence[float] = field(default="geometric", kw_only=True)
    factor: float = field(default=2.0, kw_only=True)

    def lengths(self, X: Any) -> FloatArray:
        """(n,) length of every sample of X."""
        if callable(self.length):
            rows = X.iter_rows() if hasattr(X, "iter_rows") else X.itertuples(index=False) if hasattr(X, "itertuples") else X
            try:
                found = [self.length(row) for row in rows]
            except TypeError as error:
                raise InputError(f"length fails on a sample with {error}; give a function sample -> number") from error
            return checks.finite("length of the samples", found, ndim=1)
        return checks.finite(f"column {self.length!r}", numeric_column(X, self.length), ndim=1)

    def _edges(self, longest: float) -> list[float]:
        limit = checks.positive("train_max", self.train_max)
        if not isinstance(self.buckets, str):
            edges = [float(e) for e in self.buckets]
            if not edges or edges[0] <= limit or any(b <= a for a, b in itertools.pairwise(edges)):
                raise InputError(f"buckets is {edges}; allowed: rising upper edges, all above train_max={limit:g}")
            return edges
        checks.choice("buckets", self.buckets, ("geometric",))
        if not self.factor > 1:
            raise InputError(f"factor is {self.factor}; allowed: above 1")
        edges = [limit * self.factor]
        while edges[-1] < longest:
            edges.append(edges[-1] * self.factor)
        return edges

    def _buckets(self, lengths: FloatArray) -> Iterator[tuple[float, float, IntArray]]:
        low = float(self.train_max)
        edges = self._edges(float(lengths.max()))
        if lengths.max() <= low:
            raise InputError(f"no sample is longer than train_max={low:g} (the longest: {lengths.max():g}); lower it")
        for high in edges:
            rows = np.flatnonzero((lengths > low) & (lengths <= high))
            if rows.size:
                yield low, high, rows
            low = high

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        lengths = self.lengths(table.X)
        limit = checks.positive("train_max", self.train_max)
        seen = np.flatnonzero(lengths <= limit)
        for low, high, rows in self._buckets(lengths):
            yield Part(seen, rows, lengths[rows] / limit - 1.0, f"length in ({low:g}, {high:g}]")

    def _n_regions(self, X: Any, y: Any, groups: Any, **metadata: Any) -> int:
        if X is None:
            raise InputError("LengthSplit needs X to count its splits: one region a bucket of lengths")
        return sum(1 for _ in self._buckets(self.lengths(X)))


@dataclass(eq=False)
class HorizonSplit(RegionSplitter):
    """Beyond: later than a cutoff, one region a horizon; blocks in time, never shuffled.

    Parameters
    ----------
    time : name or number of the column of times (numbers or dates; dates count days)
    cutoff : last time seen
    horizons : ends of the regions after the cutoff, rising, in units of the time
    inside_size, n_repeats, max_train, n_reference, random_state : as in :class:`RegionSplitter`

    The rows inside are one block in the middle of what is seen, since its end would be a horizon already. Distance: time since the
    cutoff over the time seen.
    """

    time: int | str
    cutoff: float | str = field(default="q70", kw_only=True)
    horizons: Sequence[float] = field(default=(1, 2, 4, 8), kw_only=True)

    def _cutoff(self, times: FloatArray) -> float:
        try:
            if isinstance(self.cutoff, str) and self.cutoff[:1] == "q":
                return float(np.quantile(times, checks.level("cutoff", float(self.cutoff[1:]) / 100)))
            if isinstance(self.cutoff, str):
                return float(np.array(self.cutoff, dtype="datetime64[s]").astype(np.float64)) / 86400
            return float(checks.finite("cutoff", self.cutoff, ndim=0))
        except ValueError:  # that of a check too
            raise InputError(f"cutoff is {self.cutoff!r}; allowed: a number, a date as 2020-01-31, a quantile as q70") from None

    def _parts(self, table: Table, rng: np.random.Generator) -> Iterator[Part]:
        times = checks.finite(f"time {self.time!r}", numeric_column(table.X, self.time))
        cutoff = self._cutoff(times)
        ends = checks.numbers("horizons", self.horizons, ndim=1).tolist()
        if not ends or not ends[0] > 0 or any(not b > a for a, b in itertools.pairwise(ends)):
            raise InputError(f"horizons is {self.horizons!r}; allowed: rising numbers above 0, in units of {self.time!r}")
        order = np.argsort(times, kind="stable")
        seen = order[times[order] <= cutoff]
        if seen.size < 3 or times[seen[-1]] == times[seen[0]]:
            raise InputError(f"{seen.size} rows up to {self.time}={cutoff:g}; at least 3 at different times must be seen")
        duration = float(times[seen[-1]] - times[seen[0]])
        start = 0.0
        for end in ends:
            rows = order[(times[order] > cutoff + start) & (times[order] <= cutoff + end)]
            tag = f"{self.time} {start:g} to {end:g} after {cutoff:g}"
            yield Part(seen, rows, (times[rows] - cutoff) / duration, tag, ordered=True)
            start = end

    def _n_regions(self, X: Any, y: Any, groups: Any, **metadata: Any) -> int:
        return len(self.horizons)
