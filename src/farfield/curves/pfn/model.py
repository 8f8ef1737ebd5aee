"""LC-PFN: learning curves extrapolated by a network that was trained on draws from a prior (Adriaensen et al. 2023, 2310.20447).

One forward pass gives the posterior predictive of any later point, for many curves at once, without torch. Two networks ship:

    domhan   trained on the paper's three-curve prior: x = 1, 2, ... 100, rising curves within [0, 1]
    wide     trained on `farfield.curves.priors.WidePrior`: any steps and metric, curves that turn, drop, diverge or jump

`predict` speaks the network's language (normalised values, higher is better); `forecast` takes runs in their own units.
What a network was trained on, how long, and how it scores is in its `card`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from farfield import checks
from farfield.curves.data import Curves
from farfield.curves.normalised import Normalised
from farfield.curves.normalize import from_seen
from farfield.curves.pfn.architecture import Architecture, FloatArray, IntArray
from farfield.curves.pfn.engine import Engine
from farfield.curves.pfn.stored import WEIGHTS, file_of, read_network
from farfield.errors import InputError
from farfield.predictive import Mixture

MODELS = ("wide", "domhan")
_BATCH = 64
# the "steps" clock was trained on x = 1 ... 100
_LAST_STEP = 100.0
# normalised values are about 0 to 1, noise may leave that; what lies this far from the middle was not normalised
_FARTHEST = 5.0


@dataclass(frozen=True, eq=False, repr=False)
class LCPFN:
    """A trained network.

    Attributes
    ----------
    name : what it is called
    engine : the network
    card : what it was trained on and how it scores, as plain values
    most_points : seen points of a curve it was trained with; longer curves are thinned evenly to these, first and last kept
    """

    name: str
    engine: Engine
    card: Mapping[str, Any] = field(default_factory=dict)
    most_points: int = 200

    @classmethod
    def load(cls, name: str | os.PathLike[str] = "wide", *, double: bool = False) -> Self:
        """A network that ships (`MODELS`), or one that was trained and saved, by its path.

        double : compute in double precision, half as fast; in single precision, too, a curve gets the same answer in every batch

        Raises InputError for an unknown name, FormatError for a file that is not a network of farfield's.
        """
        path = file_of(name, MODELS)
        return cls._shipped(path, double) if path.parent == WEIGHTS else cls._read(path, double)

    @classmethod
    @cache
    def _shipped(cls, path: Path, double: bool) -> Self:
        return cls._read(path, double)

    @classmethod
    def _read(cls, path: Path, double: bool) -> Self:
        about, tensors = read_network(path, Architecture)
        engine = Engine.of(about.pop("architecture"), tensors, np.float64 if double else np.float32)
        return cls(about.pop("name"), engine, about, int(about["most_points"]))

    def __repr__(self) -> str:
        arch = self.engine.arch
        return f"LCPFN({self.name!r}, {arch.layers} layers of width {arch.width}, clock {arch.clock})"

    # -- prediction -----------------------------------------------------------------------------------------------------

    def predict(
        self,
        x: ArrayLike | Sequence[ArrayLike],
        y: ArrayLike | Sequence[ArrayLike],
        at: ArrayLike,
        *,
        horizon: ArrayLike | None = None,
    ) -> Mixture:
        """Posterior predictive of later points of normalised curves, (n, q).

        Parameters
        ----------
        x, y : seen points: (m,) of one curve, (n, m) of many, or a list of curves of different lengths; values about within
            [0, 1], higher is better; points whose y is NaN are missing and left out
        at : (q,) or (n, q) asked positions beyond the last seen one
        horizon : (n,) or one planned last step; None or NaN where unknown

        Raises InputError for curves without a point, x that do not rise or are not above 0, values far outside [0, 1], positions
        that are not beyond; and with the "steps" clock for x above 100.
        """
        xs, ys = _listed("x", x), _listed("y", y)
        if len(xs) != len(ys):
            raise InputError(f"x has {len(xs)} curves and y {len(ys)}; allowed: the same number")
        curves = [self._curve(i, a, b) for i, (a, b) in enumerate(zip(xs, ys, strict=True))]
        n = len(curves)
        asked = checks.finite("at", at)
        if asked.ndim == 1:
            asked = np.broadcast_to(asked, (n, asked.size))
        if asked.ndim != 2 or len(asked) != n or not asked.shape[1]:
            raise InputError(f"at has shape {np.shape(at)}; allowed: (q,) or ({n}, q) with one position or more")
        last = np.array([a[-1] for a, _ in curves])
        if not (asked > last[:, None]).all():
            bad = int(np.flatnonzero(~(asked > last[:, None]).all(axis=1))[0])
            raise InputError(f"curve {bad} is asked at {asked[bad].min():g}; allowed: beyond its last seen x, {last[bad]:g}")
        if self.engine.arch.clock == "steps" and asked.max() > _LAST_STEP:
            raise InputError(
                f"asked at {asked.max():g}; network {self.name!r} knows steps 1 to {_LAST_STEP:g}; use 'wide', or fewer steps"
            )
        planned = np.full(n, np.nan) if horizon is None else np.broadcast_to(checks.numbers("horizon", horizon), (n,))
        # a plan that ends before what is asked says nothing
        planned = np.where(planned >= asked.max(axis=1), planned, np.nan)
        return self._mixtures(curves, asked, planned)

    def forecast(self, curves: Curves, at: ArrayLike) -> Normalised:
        """Posterior predictive of later points of runs in the units of their metric, (n_runs, n_at).

        `at` is (n_at,) or (n_runs, n_at), beyond each run's last x. Runs that start at 0 or below are shifted to start at 1 (or at
        the first step's length). Raises what :meth:`predict` and `farfield.curves.normalize.from_seen` raise.
        """
        runs = [curves.points(i) for i in range(len(curves))]
        values = np.full((len(runs), max((r.stop - r.start for r in runs), default=0)), np.nan)
        for row, r in zip(values, runs, strict=True):
            row[: r.stop - r.start] = curves.y[r]
        normaliser = from_seen(values, curves.metric)
        # only rounding, or a first value that is the worst, leaves [0, 1]
        z = np.clip(normaliser.forward(values), 0.0, 1.0)
        shift = np.array([shift_of(curves.x[r]) for r in runs])
        asked = checks.finite("at", at)
        if asked.ndim == 1:
            asked = np.broadcast_to(asked, (len(runs), asked.size))
        base = self.predict(
            [curves.x[r] + s for r, s in zip(runs, shift, strict=True)],
            [row[: r.stop - r.start] for row, r in zip(z, runs, strict=True)],
            asked + shift[:, None],
            horizon=curves.column("planned_end").fill_null(np.nan).to_numpy() + shift,
        )
        return Normalised.by_run(base, normaliser)

    def _curve(self, i: int, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        if x.shape != y.shape:
            raise InputError(f"curve {i} has {x.size} positions and {y.size} values; allowed: one value a position")
        there = np.isfinite(y)
        x, y = x[there], y[there]
        if not x.size:
            raise InputError(f"curve {i} has no seen value; give at least one")
        if not (np.isfinite(x).all() and x[0] > 0 and (np.diff(x) > 0).all()):
            raise InputError(f"x of curve {i} must be finite, above 0 and strictly rising")
        if np.abs(y - 0.5).max() > _FARTHEST:
            raise InputError(
                f"curve {i} has values from {y.min():g} to {y.max():g}; allowed: normalised ones, about 0 to 1, higher is better "
                "(farfield.curves.normalize)"
            )
        return self.thinned(x, y)

    def thinned(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """A curve (m,) of at most `most_points` points, evenly spread, the first and the last among them."""
        if x.size > self.most_points:
            keep = np.round(np.linspace(0, x.size - 1, self.most_points)).astype(np.int64)
            x, y = x[keep], y[keep]
        return x, y

    def _mixtures(self, curves: Sequence[tuple[FloatArray, FloatArray]], at: FloatArray, horizon: FloatArray) -> Mixture:
        lengths = np.array([a.size for a, _ in curves], dtype=np.int64)
        shape = (*at.shape, self.engine.arch.components)
        weights, loc, scale = np.empty(shape), np.empty(shape), np.empty(shape)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), _BATCH):
            rows: IntArray = order[start : start + _BATCH]
            m = int(lengths[rows].max())
            x, y = np.ones((rows.size, m)), np.zeros((rows.size, m))
            for k, row in enumerate(rows):
                x[k, : lengths[row]], y[k, : lengths[row]] = curves[row]
                x[k, lengths[row] :] = x[k, lengths[row] - 1]
            cut = np.broadcast_to(lengths[rows, None], at[rows].shape)
            weights[rows], loc[rows], scale[rows] = self.engine(x, y, cut, at[rows], horizon[rows])
        return Mixture(weights, loc, scale)


def shift_of(x: FloatArray) -> float:
    """What moves a run's x (m,) above 0."""
    if x[0] > 0:
        return 0.0
    return float((x[1] - x[0] if x.size > 1 else 1.0) - x[0])


def _listed(name: str, value: Any) -> list[FloatArray]:
    if isinstance(value, Sequence) and value and all(np.ndim(v) == 1 for v in value):
        return [checks.numbers(name, v) for v in value]
    array = checks.numbers(name, value)
    if array.ndim not in (1, 2):
        raise InputError(f"{name} has shape {array.shape}; allowed: (m,), (n, m) or a list of curves")
    return list(np.atleast_2d(array))
