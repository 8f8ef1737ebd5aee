"""The learning-rate schedule of a run as data: a piecewise linear table, in units of the peak, and how far it is known.

A decay that is still to come changes where a curve ends, so a forecast has to know three things: what the rate was, what it
will be, and whether anybody knows that. :func:`parse_schedule` reads what a user writes (``cosine:10000``), the module
:mod:`farfield.curves.schedule_sources` reads configurations and logged rates, and :mod:`farfield.curves.annealing` turns a
schedule into the terms that loss laws are made of.

Curved schedules are tabulated at 257 knots, which keeps them within 1e-5 of the peak of the exact curve.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield.errors import InputError, short, unknown_name

FloatArray = NDArray[np.float64]
Kind = Literal["constant", "cosine", "wsd", "linear", "step", "inverse-sqrt", "observed", "unknown"]
Source = Literal["spec", "config", "column", "none"]

_PIECES = 256
_GRACE = 1.01  # logs that end a step late are still within the schedule
_T = np.linspace(0.0, 1.0, _PIECES + 1)

# knots of each decay on [0, 1]; those of the square root crowd where it is steep
_KNOTS = {"linear": np.array([0.0, 1.0]), "cosine": _T, "sqrt": _T**2, "exp": _T}
SHAPES = tuple(_KNOTS)


def fall_of(shape: str, t: FloatArray, final: float = 0.0) -> FloatArray:
    """Part of the fall from the peak to the final rate that is still to come when the part `t` of the decay is done."""
    if shape == "linear":
        return 1 - t
    if shape == "cosine":
        return 0.5 * (1 + np.cos(np.pi * t))
    if shape == "sqrt":
        return 1 - np.sqrt(t)
    return np.asarray((final**t - final) / (1 - final))


@dataclass(frozen=True, eq=False)
class Schedule:
    """Learning rate over x, linear between knots.

    Attributes
    ----------
    kind : what it is; ``observed`` is a logged rate of no recognised kind, ``unknown`` is nothing at all
    at : (n_knots,) x of the knots, never falling; two knots at one x are a jump
    ratio : (n_knots,) rate there over the peak
    peak : the highest rate; 1 where only ratios are known
    warmup : x at which the first rise has ended
    decay_start : x at which the final decay begins, NaN if there is none (or none known)
    planned_end : x at which the schedule ends, NaN if it does not say
    known_to : largest x up to which the rate is known; beyond it rates are NaN
    source : where it was read: a user's ``spec``, the run's ``config``, a logged ``column``, or ``none``
    note : one line for a person, empty if there is nothing to add
    """

    kind: Kind
    at: FloatArray
    ratio: FloatArray
    peak: float = 1.0
    warmup: float = 0.0
    decay_start: float = np.nan
    planned_end: float = np.nan
    known_to: float = np.inf
    source: Source = "none"
    note: str = ""

    def __repr__(self) -> str:
        parts = [f"{name}={getattr(self, name):g}" for name in ("peak", "warmup", "decay_start", "planned_end", "known_to")]
        return f"Schedule({self.kind}, {', '.join(parts)}, from {self.source})"

    def relative(self, x: ArrayLike) -> FloatArray:
        """Rate over peak at `x` (any shape); at a jump the rate after it; NaN where it is not known."""
        q = np.asarray(x, dtype=np.float64)
        if self.kind == "unknown":
            return np.full(q.shape, np.nan)
        left = np.clip(np.searchsorted(self.at, q, side="right") - 1, 0, self.at.size - 1)
        right = np.minimum(left + 1, self.at.size - 1)
        width = self.at[right] - self.at[left]
        part = np.where(width > 0, (q - self.at[left]) / np.where(width > 0, width, 1.0), 0.0)
        value = self.ratio[left] + np.clip(part, 0.0, 1.0) * (self.ratio[right] - self.ratio[left])
        return np.where(q <= self.known_to, value, np.nan)

    def lr(self, x: ArrayLike) -> FloatArray:
        """Learning rate at `x` (any shape); NaN where it is not known."""
        return self.peak * self.relative(x)

    def scaled(self, factor: float) -> Schedule:
        """The same schedule with x counted in other units: every x times `factor`."""
        ends = {n: getattr(self, n) * factor for n in ("warmup", "decay_start", "planned_end", "known_to")}
        return dataclasses.replace(self, at=self.at * factor, **ends)


@dataclass(frozen=True)
class DecayToCome:
    """Whether the rate will still fall between two positions: `coming` is None, and `fall` NaN, where nobody knows.

    `fall` is the part of the peak rate that is still to go, negative where the rate rises.
    """

    coming: bool | None
    fall: float


def decay_to_come(schedule: Schedule, x_last: float, x_to: float) -> DecayToCome:
    """What the schedule does between the last seen point and the point to forecast.

    Falls of less than a hundredth of the peak do not count as a decay.
    """
    before, after = schedule.relative([x_last, max(x_last, x_to)])
    if not (np.isfinite(before) and np.isfinite(after)):
        return DecayToCome(None, np.nan)
    fall = float(before - after)
    return DecayToCome(fall > 0.01, fall)


# -- the kinds ----------------------------------------------------------------------------------------------------------------


def unknown(note: str = "", source: Source = "none", planned_end: float = np.nan) -> Schedule:
    """No schedule: every rate is NaN."""
    return Schedule("unknown", np.zeros(1), np.full(1, np.nan), known_to=-np.inf, source=source, note=note, planned_end=planned_end)


def constant(*, warmup: float = 0.0, peak: float = 1.0, source: Source = "spec") -> Schedule:
    """Linear warmup from 0, then the peak for ever."""
    at, ratio = _warm(warmup)
    return Schedule("constant", at, ratio, peak=peak, warmup=warmup, source=source)


def decaying(
    kind: Literal["cosine", "linear", "wsd"],
    end: float,
    *,
    start: float | None = None,
    shape: str | None = None,
    warmup: float = 0.0,
    final: float | None = None,
    peak: float = 1.0,
    source: Source = "spec",
) -> Schedule:
    """Linear warmup from 0, the peak up to `start`, then a decay that ends at `end`.

    Parameters
    ----------
    kind : ``cosine`` and ``linear`` decay from the end of the warmup on, ``wsd`` from `start` on
    shape : ``linear`` (the default of wsd), ``cosine``, ``sqrt`` (1 minus the root of the part done) or ``exp`` (geometric)
    final : rate at the end over the peak; 0 unless given, 0.01 for ``exp``, which cannot reach 0
    """
    begin = warmup if start is None else start
    form = shape or ("linear" if kind == "wsd" else kind)
    if form not in SHAPES:
        raise unknown_name("decay shape", form, SHAPES)
    low = (0.01 if form == "exp" else 0.0) if final is None else final
    if not (np.isfinite(end) and 0 <= warmup <= begin < end):
        raise InputError(
            f"{kind} schedule: warmup {warmup:g}, decay from {begin:g} to {end:g}; allowed: 0 <= warmup <= start < end"
        )
    if not (0 <= low < 1 and (low > 0 or form != "exp")):
        raise InputError(
            f"{kind} schedule: final is {low:g}; allowed: at least 0 and below 1 (above 0 for shape exp), as a ratio of the peak"
        )
    t = _KNOTS[form]
    at, ratio = _warm(warmup)
    return Schedule(
        kind,
        np.concatenate([at, begin + t * (end - begin)]),
        np.concatenate([ratio, low + (1 - low) * fall_of(form, t, low)]),
        peak=peak,
        warmup=warmup,
        decay_start=begin,
        planned_end=end,
        known_to=_GRACE * end,
        source=source,
    )


def steps(
    milestones: list[float], *, gamma: float = 0.1, warmup: float = 0.0, peak: float = 1.0, source: Source = "spec"
) -> Schedule:
    """Linear warmup from 0, then the peak, multiplied by `gamma` at every milestone."""
    rising = all(b > a for a, b in zip([warmup, *milestones], milestones, strict=False))
    if not (milestones and rising and 0 < gamma < 1):
        allowed = "rising milestones after the warmup, gamma between 0 and 1"
        raise InputError(f"step schedule: milestones {milestones}, gamma {gamma:g}; allowed: {allowed}")
    at, ratio = _warm(warmup)
    levels = gamma ** np.arange(len(milestones) + 1)
    return Schedule(
        "step",
        np.concatenate([at, np.repeat(milestones, 2)]),
        np.concatenate([ratio, np.repeat(levels, 2)[1:-1]]),
        peak=peak,
        warmup=warmup,
        decay_start=milestones[-1],
        source=source,
    )


def inverse_sqrt(warmup: float, *, peak: float = 1.0, source: Source = "spec") -> Schedule:
    """Linear warmup from 0, then the peak times the root of warmup / x; tabulated up to a million warmups."""
    if not warmup > 0:
        raise InputError(f"inverse-sqrt schedule: warmup is {warmup:g}; it must be above 0, as the decay is counted in warmups")
    at = warmup * np.geomspace(1.0, 1e6, 8 * _PIECES)
    return Schedule(
        "inverse-sqrt",
        np.concatenate([[0.0], at]),
        np.concatenate([[0.0], np.sqrt(warmup / at)]),
        peak=peak,
        warmup=warmup,
        decay_start=warmup,
        known_to=at[-1],
        source=source,
    )


def observed(x: FloatArray, lr: FloatArray, *, warmup: float = 0.0, decay_start: float = np.nan, note: str = "") -> Schedule:
    """The logged rates themselves, known up to the last of them; before the first one the rate is held."""
    peak = float(lr.max())
    at, ratio = np.concatenate([[min(0.0, float(x[0]))], x]), np.concatenate([lr[:1], lr]) / peak
    return Schedule(
        "observed", at, ratio, peak=peak, warmup=warmup, decay_start=decay_start, known_to=float(x[-1]), source="column", note=note
    )


def _warm(warmup: float) -> tuple[FloatArray, FloatArray]:
    if not (np.isfinite(warmup) and warmup >= 0):
        raise InputError(f"warmup is {warmup:g}; allowed: 0 or more, in units of x")
    return (np.array([0.0, warmup]), np.array([0.0, 1.0])) if warmup > 0 else (np.zeros(1), np.ones(1))


# -- what a user writes ---------------------------------------------------------------------------------------------------------

_USAGE = {
    "constant": "constant[:warmup=W]",
    "cosine": "cosine:T[,warmup=W][,final=F]",
    "linear": "linear:T[,warmup=W][,final=F]",
    "wsd": "wsd:T,D[,shape=linear|cosine|sqrt|exp][,warmup=W][,final=F]",
    "step": "step:X1[,X2...][,gamma=G][,warmup=W]",
    "inverse-sqrt": "inverse-sqrt:W",
}
_POSITIONAL = {"constant": (0, 0), "cosine": (1, 1), "linear": (1, 1), "wsd": (2, 2), "step": (1, 99), "inverse-sqrt": (1, 1)}
_OPTIONS = {
    "constant": {"warmup"},
    "cosine": {"warmup", "final"},
    "linear": {"warmup", "final"},
    "wsd": {"warmup", "final", "shape"},
    "step": {"warmup", "gamma"},
    "inverse-sqrt": set(),
}
_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}


def parse_schedule(spec: str) -> Schedule:
    """A schedule from its short form, x in the units of the curve.

    ``constant[:warmup=W]`` | ``cosine:T`` | ``linear:T`` | ``wsd:T,D[,shape=S]`` | ``step:X1[,X2...]`` | ``inverse-sqrt:W``, with
    ``warmup=W`` and ``final=F`` (over the peak) as options. T is where the schedule ends, D the length of the decay at its end.
    D and W below 1 are fractions of T. Numbers may end in k, M or B.

    Raises InputError with the form that is allowed.
    """
    if not isinstance(spec, str):
        raise InputError(f"schedule is {short(spec)}; allowed: text such as cosine:10000")
    name, _, rest = spec.strip().partition(":")
    name = name.strip().casefold().replace("_", "-")
    if name not in _USAGE:
        raise InputError(f"{unknown_name('schedule', name, _USAGE)}; forms: {'; '.join(_USAGE.values())}")
    positional: list[float] = []
    options: dict[str, str] = {}
    for part in (p.strip() for p in rest.split(",") if p.strip()):
        key, equals, value = (s.strip() for s in part.partition("="))
        if not equals:
            positional.append(_number(part, spec, name))
        elif key in _OPTIONS[name] and key not in options:
            options[key] = value
        else:
            raise _malformed(spec, name, f"option {key!r}" + (" is given twice" if key in options else " is not one of its own"))
    low, high = _POSITIONAL[name]
    if not low <= len(positional) <= high:
        raise _malformed(spec, name, f"{len(positional)} numbers before the options")
    numbers = {k: _number(v, spec, name) for k, v in options.items() if k != "shape"}
    return _built(name, positional, numbers, options.get("shape"), spec)


def _built(name: str, positional: list[float], numbers: dict[str, float], shape: str | None, spec: str) -> Schedule:
    warmup, final = numbers.get("warmup", 0.0), numbers.get("final")
    if name == "constant":
        return constant(warmup=warmup)
    if name == "inverse-sqrt":
        return inverse_sqrt(positional[0])
    if name == "step":
        return steps(positional, gamma=numbers.get("gamma", 0.1), warmup=warmup)
    end = positional[0]
    warmup = warmup * end if 0 < warmup < 1 else warmup
    if name == "cosine":
        return decaying("cosine", end, warmup=warmup, final=final)
    if name == "linear":
        return decaying("linear", end, warmup=warmup, final=final)
    length = positional[1] * end if 0 < positional[1] < 1 else positional[1]
    if not 0 < length <= end:
        raise _malformed(spec, name, f"the decay of length {length:g} does not fit into {end:g}")
    return decaying("wsd", end, start=end - length, shape=shape, warmup=warmup, final=final)


def _number(text: str, spec: str, name: str) -> float:
    match = re.fullmatch(r"([0-9][0-9_]*\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+)([kmb]?)", text.strip().casefold())
    value = float(match[1].replace("_", "")) * _SUFFIX[match[2]] if match else np.inf
    if not np.isfinite(value):
        raise _malformed(spec, name, f"{text!r} is not a finite number of 0 or more")
    return value


def _malformed(spec: str, name: str, why: str) -> InputError:
    return InputError(f"schedule {spec!r}: {why}; allowed: {_USAGE[name]}")
