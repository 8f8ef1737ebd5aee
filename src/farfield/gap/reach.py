"""How far rows are from those seen: numbers and words as points, distance to the k-th nearest seen row over the edge.

A cloud is made of the seen rows alone. Numbers get the median where missing and are divided by their standard deviation; a word is
a corner, so that two different words are one unit apart. The edge is the distance to the k-th nearest other row that a stated share
of the seen rows keeps; reach is a row's distance over the edge: up to 1 a row lies among those seen, at 2 twice as far out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from farfield import checks
from farfield.errors import InputError, unknown_name
from farfield.splits.clouds import mahalanobis
from farfield.splits.rows import FloatArray, IntArray, is_frame, matrix, n_rows, neighbour_distance

Embed = Callable[[Any], ArrayLike]
MOST_WORDS = 200


class Cloud:
    """The seen rows as points.

    Parameters
    ----------
    X : (n, d) numbers, a data frame of numbers and words, or whatever `embed` turns into (n, d) numbers
    k : which neighbour is measured to
    edge : share of the seen rows that lie within reach 1
    embed : function X -> (n, d)
    columns : those of a data frame that are measured in; all of them unless given

    Attributes: ``own`` (n,) the reach of the seen rows, each from the others. InputError for fewer than k + 2 rows, or where the
    edge is zero since the rows are copies of each other.
    """

    def __init__(
        self, X: Any, *, k: int = 5, edge: float = 0.95, embed: Embed | None = None, columns: Sequence[str] | None = None
    ) -> None:
        self.k, self.embed, self.columns = checks.count("k", k), embed, columns
        checks.level("edge", edge)
        if n_rows(X) < self.k + 2:
            raise InputError(f"{n_rows(X)} rows are seen; the distance to neighbour {k} needs at least {self.k + 2}")
        self._learn(X)
        self.points = self._encode(X)
        if self.points.shape[1] == 0:
            raise InputError("no column differs between the rows seen, so there is no distance from them")
        distance = neighbour_distance(self.points, self.points, self.k + 1)  # the nearest of each row is the row itself
        self.edge = float(np.quantile(distance, edge))
        if self.edge == 0:
            self.edge = float(distance.max())
        if self.edge == 0:
            raise InputError("the rows seen are copies of each other, so there is no distance from them")
        self.own = distance / self.edge

    def reach(self, X: Any) -> FloatArray:
        """(m,) the reach of other rows; infinite for a word that was not seen, which no distance measures."""
        points = self._encode(X)
        out = neighbour_distance(points, self.points, self.k) / self.edge
        return np.where(self._unseen(X), np.inf, out)

    def outside(self, X: Any) -> list[str]:
        """What lies outside the seen range in each row: the column that is farthest out, or a word not seen; empty if none does."""
        m = n_rows(X)
        worst, said = np.zeros(m), [""] * m
        for name, values, low, high in self._ranges(X):
            wide = high - low if high > low else max(abs(high), 1.0)
            over = np.maximum(values - high, low - values) / wide
            for i in np.flatnonzero(over > worst).tolist():
                worst[i] = over[i]
                said[i] = f"{name} {values[i]:.6g} {'>' if values[i] > high else '<'} {high if values[i] > high else low:.6g}"
        for name, known in self.words.items():
            for i, v in enumerate(_text(X, name)):
                if v not in known:
                    said[i] = f"{name} {v!r} was not seen"
        return said

    def between(self, hidden: IntArray, core: IntArray) -> FloatArray:
        """Reach of some of the seen rows from others, in units of the whole cloud's edge."""
        return np.asarray(neighbour_distance(self.points[hidden], self.points[core], min(self.k, core.size)) / self.edge)

    def order(self, towards: Any = None) -> FloatArray:
        """(n,) how far out the seen rows are in the direction in which the rows `towards` lie.

        Mahalanobis distance from their mean without such rows, or where they lie on all sides: where the length of their mean,
        in units of the seen rows' spread, is less than half their mean length.
        """
        if towards is not None:
            values, axes = np.linalg.eigh(np.atleast_2d(np.cov(self.points, rowvar=False)))
            white = axes / np.sqrt(values + 1e-3 * values.mean())
            other = (self._encode(towards) - self.points.mean(axis=0)) @ white
            middle = other.mean(axis=0)
            if np.linalg.norm(middle) >= 0.5 * np.linalg.norm(other, axis=1).mean():
                return np.asarray(self.points @ (white @ middle))
        return mahalanobis(self.points)

    # -- points ---------------------------------------------------------------------------------------------------------------

    def _learn(self, X: Any) -> None:
        self.numbers: dict[str, tuple[float, float, float, float]] = {}
        self.words: dict[str, list[str]] = {}
        self.scale: FloatArray | None = None
        if self.embed is not None or not is_frame(X):
            points = matrix(X, self.embed)
            spread = points.std(axis=0)
            self.scale = np.where(spread > 0, spread, np.inf)
            self.span = (points.min(axis=0), points.max(axis=0))
            return
        frame = _frame(X)
        for name in frame.columns if self.columns is None else self.columns:
            if name not in frame.columns:
                raise unknown_name("column", name, frame.columns)
            if frame[name].dtype.is_numeric():
                values = _numbers(frame, name)
                some = values[np.isfinite(values)]
                if some.size and some.std() > 0:
                    self.numbers[name] = (float(np.median(some)), float(some.std()), float(some.min()), float(some.max()))
            else:
                known = sorted(set(_text(frame, name)))
                if len(known) > MOST_WORDS:
                    raise InputError(f"column {name!r} holds {len(known)} different words; leave it out, or give embed=")
                self.words[name] = known

    def _encode(self, X: Any) -> FloatArray:
        if self.scale is not None:
            points = matrix(X, self.embed)
            if points.shape[1] != self.scale.size:
                raise InputError(f"rows with {points.shape[1]} columns; those seen have {self.scale.size}")
            return np.asarray(points[:, np.isfinite(self.scale)] / self.scale[np.isfinite(self.scale)])
        if not is_frame(X):
            raise InputError(
                "the new rows have no names of columns and those seen have; give both as data frames or both as arrays"
            )
        frame = _frame(X)
        for name in (*self.numbers, *self.words):
            if name not in frame.columns:
                raise InputError(
                    f"column {name!r} is missing in the new rows, which have {', '.join(map(str, frame.columns[:10]))}"
                )
        parts = [np.empty((frame.shape[0], 0))]
        for name, (middle, spread, _, _) in self.numbers.items():
            values = _numbers(frame, name)
            parts.append(np.where(np.isfinite(values), values, middle)[:, None] / spread)
        for name, known in self.words.items():
            text = np.array(_text(frame, name), dtype=object)
            if len(known) > 1:
                parts.append((text[:, None] == np.array(known, dtype=object)) / np.sqrt(2))
        return np.concatenate(parts, axis=1)

    def _unseen(self, X: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
        out = np.zeros(n_rows(X), dtype=bool)
        for name, known in self.words.items():
            out |= ~np.isin(np.array(_text(X, name), dtype=str), known)
        return out

    def _ranges(self, X: Any) -> list[tuple[str, FloatArray, float, float]]:
        if self.scale is None:
            frame = _frame(X)
            found = [(name, _numbers(frame, name), low, high) for name, (_, _, low, high) in self.numbers.items()]
            return [(name, np.where(np.isfinite(v), v, low), low, high) for name, v, low, high in found]
        if self.embed is not None:
            return []
        points = matrix(X)
        return [(f"column {j}", points[:, j], float(self.span[0][j]), float(self.span[1][j])) for j in range(points.shape[1])]


def shells(order: FloatArray, shares: tuple[float, ...]) -> list[tuple[IntArray, IntArray]]:
    """Pairs (core, shell): the shell is the share of the rows that come last in `order`."""
    place = np.argsort(order, kind="stable")
    out = []
    for share in shares:
        cut = order.size - max(1, round(share * order.size))
        out.append((np.sort(place[:cut]), np.sort(place[cut:])))
    return out


def _frame(X: Any) -> Any:
    import narwhals as nw

    return X if isinstance(X, nw.DataFrame) else nw.from_native(X, eager_only=True)


def _numbers(frame: Any, name: str) -> FloatArray:
    return np.asarray(frame[name].to_numpy(), dtype=np.float64)


def _text(X: Any, name: str) -> list[str]:
    return ["(missing)" if v is None else str(v) for v in _frame(X)[name].to_list()]
