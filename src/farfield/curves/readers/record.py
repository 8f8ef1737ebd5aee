"""RunLog: the one record that every reader yields, and the rules by which logged points become a series.

A reader appends points in the order they were logged; :func:`settle` then resolves restarts. A run that was stopped and
resumed from a checkpoint logs some steps twice: where the step falls back, what was logged at or beyond it before is
superseded, left out and counted. A file in which the step falls back all the time is not a run restarted many times but an
unsorted table; it is sorted.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.curves.data import Goal

FloatArray = NDArray[np.float64]
Scalar = str | int | float | bool | None

# more falls of the step than one in this many points: an unsorted table, not restarts
_POINTS_PER_RESTART = 5
_LARGEST_INT = 2**63


class ReadWarning(UserWarning):
    """Something in the logs was left out, and what."""


@dataclass(frozen=True)
class Series:
    """One logged quantity of one run.

    Attributes
    ----------
    step : (n,) where each point was logged, in the run's own count, not decreasing (NaN where unknown)
    value : (n,) as logged, NaN and infinities included
    time : (n,) wall-clock seconds, or None where the log has none
    n_overlap : points left out because the run was restarted from before them
    renumbered : all points were logged at one step, so they are numbered in order instead
    """

    step: FloatArray
    value: FloatArray
    time: FloatArray | None = None
    n_overlap: int = 0
    renumbered: bool = False


@dataclass(frozen=True)
class RunLog:
    """One run as its log tells it.

    Attributes
    ----------
    name, source : what the run is called, and the file or folder it was read from
    metrics : name -> Series; every numeric column, learning rate, epoch and the like among them
    step_name : what the series' `step` counts (``step``, ``epoch``, ``training_iteration``, ...)
    config : flat hyperparameters, nested names joined by dots
    seed, group : as logged or None; `folder` is the weaker grouping by experiment or sweep folder
    planned : unit (``step``, ``epoch``, ``tokens``) -> where the run is planned to end, as far as the log itself says
    status : one of ``farfield.curves.data.STATUSES``
    goals : metric -> ``min`` or ``max`` where the log itself says
    notes : what a person should know about how the run was read
    part_of, began : where the log may be one of several of one run: what they share, and when (seconds) this one began
    """

    name: str
    source: str
    metrics: Mapping[str, Series]
    step_name: str = "step"
    config: Mapping[str, Scalar] = field(default_factory=dict)
    seed: int | None = None
    group: str | None = None
    folder: str | None = None
    planned: Mapping[str, float] = field(default_factory=dict)
    status: str = "unknown"
    goals: Mapping[str, Goal] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    part_of: str | None = None
    began: float = np.inf

    def renamed(self, name: str) -> RunLog:
        """The same run under another name."""
        return dataclasses.replace(self, name=name)


@dataclass(frozen=True)
class Where:
    """Where a piece of log came from: shown path, the run's name unless the log gives one, and its sweep folder."""

    path: str
    name: str
    folder: str | None = None


def settle(step: Any, value: Any, time: Any = None, *, n_overlap: int = 0) -> Series:
    """A Series from points in the order they were logged; restarts resolved, unsorted tables sorted.

    Parameters
    ----------
    step, value : (n,) numbers; time : (n,) seconds or None
    n_overlap : points the caller already left out as superseded
    """
    s = np.asarray(step, dtype=np.float64)
    v = np.asarray(value, dtype=np.float64)
    t = None if time is None else np.asarray(time, dtype=np.float64)
    if s.size >= 3 and (s == s[0]).all():
        return Series(np.arange(s.size, dtype=np.float64), v, t, n_overlap, renumbered=True)
    falls = np.flatnonzero(s[1:] < s[:-1]) + 1
    if falls.size == 0:
        return Series(s, v, t, n_overlap)
    if falls.size * _POINTS_PER_RESTART > s.size:
        keep = np.argsort(s, kind="stable")
    else:
        restart_from = np.minimum.accumulate(s[falls][::-1])[::-1]
        segment = np.searchsorted(falls, np.arange(s.size), side="right")
        keep = np.flatnonzero(~(s >= np.append(restart_from, np.inf)[segment]))
        n_overlap += s.size - keep.size
    return Series(s[keep], v[keep], None if t is None else t[keep], n_overlap)


class PointLog:
    """Points of one run collected one at a time: key -> steps, values and times in the order logged."""

    def __init__(self) -> None:
        self._points: dict[str, tuple[array[float], array[float], array[float]]] = {}
        self.dropped = 0

    def add(self, key: str, step: float, value: float, time: float = np.nan) -> None:
        """Append one point; `time` NaN where unknown."""
        points = self._points.get(key)
        if points is None:
            points = self._points[key] = (array("d"), array("d"), array("d"))
        points[0].append(step)
        points[1].append(value)
        points[2].append(time)

    def series(self) -> dict[str, Series]:
        """Every key settled."""
        out = {}
        for key, points in self._points.items():
            step, value, time = (np.array(p, dtype=np.float64) for p in points)  # copies: the log goes on growing
            out[key] = settle(step, value, None if np.isnan(time).all() else time)
        return out


def as_number(value: Any) -> float | None:
    """A logged JSON value as a float; the texts NaN and +-Infinity count as numbers, booleans and other texts do not."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return float(value) if -_LARGEST_INT <= value <= _LARGEST_INT else float("inf") if value > 0 else float("-inf")
    if isinstance(value, float):
        return value
    if isinstance(value, str):
        return _NON_FINITE.get(value.strip().casefold())
    return None


_NON_FINITE = {
    "nan": float("nan"),
    "inf": float("inf"),
    "+inf": float("inf"),
    "-inf": float("-inf"),
    "infinity": float("inf"),
    "-infinity": float("-inf"),
}


def flatten(tree: Any, separator: str = ".", limit: int = 2000) -> dict[str, Any]:
    """A nested mapping as one flat level, names joined by `separator`; lists are kept as they are.

    Walks without recursion, so that depth is no risk; beyond `limit` leaves the rest is left out.
    """
    out: dict[str, Any] = {}
    stack: list[tuple[str, Any]] = [("", tree)]
    while stack and len(out) < limit:
        prefix, node = stack.pop()
        if isinstance(node, dict) and node:
            for key, child in reversed(node.items()):
                name = storable(str(key))
                stack.append((f"{prefix}{separator}{name}" if prefix else name, child))
        elif prefix and not isinstance(node, dict):
            out[prefix] = node
    return out


def storable(text: str) -> str:
    """Text that UTF-8 can hold: JSON may name half a character (a lone surrogate), which becomes a question mark."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def config_of(tree: Any) -> dict[str, Scalar]:
    """The hyperparameters in a nested mapping: flat, scalars as they are, short lists as text, the rest left out."""
    out: dict[str, Scalar] = {}
    for key, value in flatten(tree).items():
        if isinstance(value, str):
            out[key] = storable(value)
        elif isinstance(value, float | bool) or value is None:
            out[key] = value
        elif isinstance(value, int):
            out[key] = value if abs(value) < _LARGEST_INT else float(as_number(value) or 0.0)
        elif isinstance(value, list) and len(value) <= 16 and all(isinstance(v, int | float | str | bool) for v in value):
            out[key] = str(value) if len(str(value)) < 200 else None
    return out


def scalar_of_text(text: str) -> Scalar:
    """A hyperparameter stored as text: a number, a truth value, none, or the text itself."""
    plain = text.strip()
    lowered = plain.casefold()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered in ("none", "null", "~", ""):
        return None
    if len(plain) <= 40 and plain[0] in "+-.0123456789" and "_" not in plain:
        for kind in (int, float):
            try:
                number = kind(plain)
            except ValueError:
                continue
            return number if abs(number) < _LARGEST_INT else float(number)
    return plain.strip("'\"") if plain[:1] in "'\"" else plain
