"""Curves: many runs of one metric, ragged and columnar, one run after another.

Run `i` owns the points ``offsets[i]:offsets[i + 1]`` of `x`, `y` and of every covariate. Within a run `x` is strictly
increasing and `y` is finite: readers and :meth:`Curves.from_points` sort, merge duplicates and drop non-finite values, and
count what they dropped in the attribute columns ``n_nonfinite`` and ``n_duplicate``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError, short
from farfield.wording import count

Goal = Literal["min", "max"]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

STATUSES = ("finished", "running", "pruned", "killed", "diverged", "unknown")

# attribute columns every Curves has, with their types; `config.<name>` columns hold the hyperparameters beside them
ATTRIBUTE_SCHEMA: dict[str, Any] = {
    "run": pl.String,
    "status": pl.String,
    "group": pl.String,
    "seed": pl.Int64,
    "planned_end": pl.Float64,
    "source": pl.String,
    "n_nonfinite": pl.Int64,
    "n_duplicate": pl.Int64,
}
_DEFAULTS: dict[str, Any] = {
    "status": "unknown",
    "group": None,
    "seed": None,
    "planned_end": None,
    "source": None,
    "n_nonfinite": 0,
    "n_duplicate": 0,
}


@dataclass(frozen=True)
class Metric:
    """What is measured.

    Attributes
    ----------
    name : as it was logged
    goal : ``min`` or ``max``, which way is better
    lower, upper : hard bounds of its values; infinite where it has none

    Raises InputError for another goal, or bounds that leave no room.
    """

    name: str = "y"
    goal: Goal = "min"
    lower: float = -np.inf
    upper: float = np.inf

    def __post_init__(self) -> None:
        if not isinstance(self.goal, str) or self.goal not in ("min", "max"):
            raise InputError(f"goal of metric {self.name!r} is {short(self.goal)}; allowed: 'min', 'max'")
        for bound in ("lower", "upper"):
            checks.numbers(f"{bound} bound of metric {self.name!r}", getattr(self, bound), ndim=0)
        if not self.lower < self.upper:
            raise InputError(f"bounds of metric {self.name!r} are [{self.lower}, {self.upper}]; lower must be below upper")


def as_curves(name: str, value: object) -> Curves:
    """`value`, where it is curves; InputError with what makes curves of anything else."""
    if not isinstance(value, Curves):
        raise InputError(f"{name} is {short(value)}; allowed: Curves, which farfield.read_runs makes of logs and data frames")
    return value


def attribute_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of run attributes as a frame with every column of ``ATTRIBUTE_SCHEMA``; extra keys become further columns."""
    columns: dict[str, pl.Series] = {}
    for name, dtype in ATTRIBUTE_SCHEMA.items():
        columns[name] = pl.Series(name, [r.get(name, _DEFAULTS.get(name)) for r in rows], dtype=dtype)
    for name in dict.fromkeys(k for r in rows for k in r if k not in ATTRIBUTE_SCHEMA):
        columns[name] = _attribute_series(name, [r.get(name) for r in rows])
    return pl.DataFrame(columns)


def _attribute_series(name: str, values: list[Any]) -> pl.Series:
    present = [v for v in values if v is not None]
    if all(isinstance(v, bool) for v in present):
        return pl.Series(name, values, dtype=pl.Boolean)
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in present):
        return pl.Series(name, [None if v is None else float(v) for v in values], dtype=pl.Float64)
    return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)


@dataclass(frozen=True)
class Curves:
    """Ragged and columnar learning curves of one metric.

    Attributes
    ----------
    runs : (n_runs,) names, unique
    offsets : (n_runs + 1,) start of each run in the point arrays
    x, y : (n_points,) float64; x strictly increasing within a run, y finite
    covariates : name -> (n_points,) float64, NaN where not logged (``lr``, ``tokens``, ``epoch``, ``time``, ...)
    attributes : (n_runs,) rows, the columns of ``ATTRIBUTE_SCHEMA`` and ``config.<name>``
    metric : name, goal and bounds of `y`
    x_name : what x counts (``step``, ``epoch``, ``tokens``, ...)
    """

    runs: tuple[str, ...]
    offsets: IntArray
    x: FloatArray
    y: FloatArray
    covariates: Mapping[str, FloatArray] = field(default_factory=dict)
    attributes: pl.DataFrame = field(default_factory=pl.DataFrame)
    metric: Metric = field(default_factory=Metric)
    x_name: str = "step"

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(str(r) for r in self.runs))
        object.__setattr__(self, "offsets", np.asarray(self.offsets, dtype=np.int64))
        object.__setattr__(self, "x", np.asarray(self.x, dtype=np.float64))
        object.__setattr__(self, "y", np.asarray(self.y, dtype=np.float64))
        covariates = {k: np.asarray(v, dtype=np.float64) for k, v in self.covariates.items()}
        object.__setattr__(self, "covariates", covariates)
        if self.attributes.width == 0:
            object.__setattr__(self, "attributes", attribute_frame([{"run": r} for r in self.runs]))
        self._validate()

    def _validate(self) -> None:
        n_runs, n_points = len(self.runs), self.x.shape[0] if self.x.ndim == 1 else -1
        if len(set(self.runs)) != n_runs:
            doubled = next(r for i, r in enumerate(self.runs) if r in self.runs[:i])
            raise InputError(f"run name {doubled!r} occurs more than once; run names must be unique")
        if self.x.ndim != 1 or self.y.shape != self.x.shape:
            raise InputError(f"x has shape {self.x.shape} and y {self.y.shape}; both must be (n_points,)")
        offsets = self.offsets
        if offsets.shape != (n_runs + 1,) or offsets[0] != 0 or offsets[-1] != n_points or np.any(np.diff(offsets) < 0):
            raise InputError(f"offsets must rise from 0 to {n_points} in {n_runs + 1} entries, one more than there are runs")
        if self.attributes.height != n_runs:
            raise InputError(f"attributes has {self.attributes.height} rows for {n_runs} runs")
        for name, values in self.covariates.items():
            if values.shape != self.x.shape:
                raise InputError(f"covariate {name!r} has shape {values.shape}; allowed: ({n_points},), one value a point")
        if not (np.isfinite(self.x).all() and np.isfinite(self.y).all()):
            raise InputError("x and y must be finite; Curves.from_points drops and counts what is not")
        rising = np.diff(self.x) > 0
        starts = offsets[1:-1]
        starts = starts[(starts > 0) & (starts < n_points)]
        rising[starts - 1] = True
        if not rising.all():
            at = int(np.argmin(rising))
            run = self.runs[int(np.searchsorted(offsets, at, side="right")) - 1]
            raise InputError(f"x of run {run!r} does not increase at {self.x[at + 1]:g}; Curves.from_points sorts and merges")

    # -- construction ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_points(
        cls,
        run: Sequence[str],
        x: ArrayLike,
        y: ArrayLike,
        *,
        covariates: Mapping[str, ArrayLike] | None = None,
        attributes: Iterable[Mapping[str, Any]] = (),
        metric: Metric | None = None,
        x_name: str = "step",
    ) -> Curves:
        """Curves from one row a point, in any order.

        Parameters
        ----------
        run, x, y : (n_points,) the run, position and value of every point
        covariates : name -> (n_points,)
        attributes : rows with a ``run`` key, one for each run that has any; runs with a row and no points are kept

        Points are sorted by x within their run; of points at the same x the last one given wins. Points whose x or y is
        not finite are left out; both are counted per run in the attributes ``n_nonfinite`` and ``n_duplicate``.
        """
        xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        names = np.asarray(run, dtype=object)
        if not (xs.ndim == 1 and xs.shape == ys.shape == names.shape):
            raise InputError(f"run, x and y have shapes {names.shape}, {xs.shape}, {ys.shape}; all must be (n_points,)")
        cov = {k: np.asarray(v, dtype=np.float64) for k, v in (covariates or {}).items()}
        given = {str(a["run"]): dict(a) for a in attributes}
        order = list(dict.fromkeys([*given, *(str(n) for n in names)]))
        index = {n: i for i, n in enumerate(order)}
        code = np.fromiter((index[str(n)] for n in names), dtype=np.int64, count=len(names))

        finite = np.isfinite(xs) & np.isfinite(ys)
        n_bad = np.bincount(code[~finite], minlength=len(order))
        keep = np.flatnonzero(finite)
        keep = keep[np.lexsort((keep, xs[keep], code[keep]))]
        last = np.ones(keep.size, dtype=bool)
        last[:-1] = (xs[keep][1:] != xs[keep][:-1]) | (code[keep][1:] != code[keep][:-1])
        n_dup = np.bincount(code[keep[~last]], minlength=len(order))
        keep = keep[last]

        rows = []
        for i, name in enumerate(order):
            row = {**given.get(name, {}), "run": name}
            row["n_nonfinite"] = int(row.get("n_nonfinite") or 0) + int(n_bad[i])
            row["n_duplicate"] = int(row.get("n_duplicate") or 0) + int(n_dup[i])
            rows.append(row)
        return cls(
            runs=tuple(order),
            offsets=np.concatenate([[0], np.cumsum(np.bincount(code[keep], minlength=len(order)))]),
            x=xs[keep],
            y=ys[keep],
            covariates={k: v[keep] for k, v in cov.items()},
            attributes=attribute_frame(rows),
            metric=metric or Metric(),
            x_name=x_name,
        )

    # -- views ----------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        sizes = f"{count(len(self), 'run')}, {count(self.x.size, 'point')}"
        return f"Curves({sizes} of {self.metric.name!r} by {self.x_name}, goal {self.metric.goal})"

    @property
    def lengths(self) -> IntArray:
        """(n_runs,) points in each run."""
        return np.diff(self.offsets)

    @property
    def run_index(self) -> IntArray:
        """(n_points,) index of the run each point belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def last_x(self) -> FloatArray:
        """(n_runs,) x of each run's last point, NaN where it has none."""
        return self._at_end(self.x)

    @property
    def last_y(self) -> FloatArray:
        """(n_runs,) y of each run's last point, NaN where it has none."""
        return self._at_end(self.y)

    def _at_end(self, values: FloatArray) -> FloatArray:
        out = np.full(len(self), np.nan)
        some = self.lengths > 0
        out[some] = values[self.offsets[1:][some] - 1]
        return out

    def column(self, name: str) -> pl.Series:
        """One attribute column, (n_runs,)."""
        return self.attributes.get_column(name)

    def points(self, i: int) -> slice:
        """The slice of the point arrays that holds run `i`."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def take(self, index: ArrayLike) -> Curves:
        """The runs at `index` (integers or a boolean mask), in that order."""
        idx = np.asarray(index)
        idx = np.flatnonzero(idx) if idx.dtype == bool else idx.astype(np.int64)
        keep = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in idx]) if idx.size else np.zeros(0, np.int64)
        return dataclasses.replace(
            self,
            runs=tuple(self.runs[i] for i in idx),
            offsets=np.concatenate([[0], np.cumsum(self.lengths[idx])]).astype(np.int64),
            x=self.x[keep],
            y=self.y[keep],
            covariates={k: v[keep] for k, v in self.covariates.items()},
            attributes=self.attributes[idx.tolist()],
        )

    def where(self, mask: NDArray[np.bool_]) -> Curves:
        """The points where `mask` (n_points,) is true; runs left without points stay, empty."""
        counts = np.bincount(self.run_index[mask], minlength=len(self))
        return dataclasses.replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            x=self.x[mask],
            y=self.y[mask],
            covariates={k: v[mask] for k, v in self.covariates.items()},
        )

    def upto(self, cut: ArrayLike) -> Curves:
        """What is seen when each run is cut at `cut` (scalar or (n_runs,)): the points with x <= cut."""
        limit = np.broadcast_to(np.asarray(cut, dtype=np.float64), (len(self),))
        return self.where(self.x <= limit[self.run_index])

    def concat(self, other: Curves) -> Curves:
        """These runs, then those of `other`; names that are taken get a number. Covariates and settings missing on a side are NaN
        or null there.

        Raises InputError where the goals differ.
        """
        if self.metric.goal != other.metric.goal:
            raise InputError(f"the goals differ: {self.metric.goal} and {other.metric.goal}; runs of one metric can be joined")
        taken, names = set(self.runs), []
        for name in other.runs:
            unique, k = name, 2
            while unique in taken:
                unique, k = f"{name} ({k})", k + 1
            taken.add(unique)
            names.append(unique)
        both = dict.fromkeys([*self.covariates, *other.covariates])
        pad_self, pad_other = np.full(self.x.size, np.nan), np.full(other.x.size, np.nan)
        renamed = other.attributes.with_columns(pl.Series("run", names, dtype=pl.String))
        return dataclasses.replace(
            self,
            runs=(*self.runs, *names),
            offsets=np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            x=np.concatenate([self.x, other.x]),
            y=np.concatenate([self.y, other.y]),
            covariates={k: np.concatenate([self.covariates.get(k, pad_self), other.covariates.get(k, pad_other)]) for k in both},
            attributes=pl.concat([self.attributes, renamed], how="diagonal_relaxed"),
        )

    def padded(self) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
        """(x, y, seen), each (n_runs, max length): points packed to the left, NaN and False beyond a run's end."""
        width = int(self.lengths.max()) if len(self) else 0
        seen = np.arange(width) < self.lengths[:, None]
        x, y = np.full(seen.shape, np.nan), np.full(seen.shape, np.nan)
        x[seen], y[seen] = self.x, self.y
        return x, y, seen

    def to_frame(self) -> pl.DataFrame:
        """Long frame, one row a point: run, x, y, covariates."""
        names = np.asarray(self.runs, dtype=object)[self.run_index] if len(self) else np.zeros(0, dtype=object)
        return pl.DataFrame(
            {"run": pl.Series(names, dtype=pl.String), self.x_name: self.x, self.metric.name: self.y, **self.covariates}
        )
