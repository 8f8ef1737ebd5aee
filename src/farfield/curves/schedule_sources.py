"""Where the schedule of a run is read: what the user says, then the run's configuration, then its logged rates.

A logged rate can be carried on beyond its last point only where its shape says how: a cosine or a line that is already
falling, an inverse square root. A rate that is constant so far is *not* carried on: before its decay a warmup-stable-decay
run looks the same as a constant one.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield.curves.data import Curves
from farfield.curves.schedules import Schedule, constant, decaying, fall_of, inverse_sqrt, observed, parse_schedule, unknown
from farfield.errors import InputError

FloatArray = NDArray[np.float64]

# names under which training scripts store each part, the most telling first; compared without case, dashes and prefixes
_NAMES = {
    "kind": """lr_scheduler_type lr_schedule lr_scheduler lr_decay_style lr_schedule_type lr_scheduler_name scheduler_type
        schedule_type scheduler schedule""",
    "end": """lr_decay_iters lr_decay_steps max_steps total_steps num_training_steps train_steps num_train_steps train_iters
        max_iters total_iters num_steps n_steps num_iterations t_max steps iterations""",
    "warmup": "warmup_steps num_warmup_steps warmup_iters lr_warmup_iters lr_warmup_steps warmup",
    "warmup_ratio": "warmup_ratio warmup_fraction warmup_frac lr_warmup_fraction",
    "decay": """num_decay_steps lr_wsd_decay_iters wsd_decay_steps cooldown_steps num_cooldown_steps cooldown_iters warmdown_steps
        warmdown_iters decay_iters decay_steps""",
    "decay_ratio": """decay_fraction decay_frac decay_ratio wsd_decay_fraction cooldown_fraction cooldown_frac cooldown_ratio
        warmdown_ratio fract_decay""",
    "stable": "num_stable_steps stable_steps",
    "shape": "decay_shape decay_type lr_wsd_decay_style cooldown_type cooldown_shape",
    "final_ratio": """min_lr_ratio min_lr_rate lr_min_ratio final_lr_ratio lr_final_ratio final_lr_fraction final_lr_frac
        final_ratio""",
    "final": "min_lr final_lr eta_min lr_min lr_end end_lr min_learning_rate",
    "peak": "learning_rate peak_lr lr_peak max_lr lr_max peak_learning_rate max_learning_rate base_lr lr",
}
_PARTS = {part: tuple(names.split()) for part, names in _NAMES.items()}
# spellings of each kind and shape, compared by their letters and digits alone
_SPELLINGS = {
    "constant": "constant constantwithwarmup fixed none const",
    "cosine": """cosine cosinewithwarmup cosineannealing cosineannealinglr cosinedecay cosinewithminlr warmupcosine
        linearwarmupcosine cos""",
    "linear": "linear lineardecay linearwithwarmup lineartozero",
    "wsd": "wsd warmupstabledecay trapezoidal trapezoid stabledecay",
    "inverse-sqrt": "inversesqrt invsqrt inversesquareroot rsqrt noam",
}
_KINDS = {spelling: kind for kind, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_SHAPE_SPELLINGS = {
    "linear": "linear",
    "cosine": "cosine",
    "sqrt": "sqrt 1sqrt minussqrt oneminussqrt",
    "exp": "exp exponential geometric",
}
_SHAPES = {spelling: shape for shape, spellings in _SHAPE_SPELLINGS.items() for spelling in spellings.split()}
_FLAT = 1e-3  # changes of a logged rate below this part of the peak are rounding
_AGREE = 0.05  # a configuration that misses the logged rates by more than this part of the peak has been misread


def from_config(config: Mapping[str, Any], *, planned_end: float | None = None, x_per_step: float = 1.0) -> Schedule | None:
    """The schedule that a run's settings describe, or None where they name none.

    Parameters
    ----------
    config : settings by name; prefixes (``config.``, ``optimizer/``) are ignored, nested mappings and JSON text are looked into
    planned_end : x at which the run was meant to end, where the settings give no number of steps
    x_per_step : x of one optimiser step: lengths in settings count steps

    Returns an ``unknown`` schedule, with the reason as its note, where one is named but not fully described.
    """
    flat = _flattened(config)
    found = {
        part: value for part, names in _PARTS.items() if (value := _first(flat, names, text=part in ("kind", "shape"))) is not None
    }
    kind = str(found["kind"]) if "kind" in found else ""
    if not kind:
        if flat.get("decay_lr") is None:
            return None
        kind = "cosine" if flat["decay_lr"] else "constant"
    name = _KINDS.get(_letters(kind.rpartition(".")[2]))
    end = planned_end
    if _usable(found.get("end")) and np.isfinite(x_per_step):
        end = found["end"] * x_per_step
    if name is None:
        return unknown(f"schedule {kind!r} of the configuration is not one that can be followed", "config", _or_nan(end))
    peak = found["peak"] if _usable(found.get("peak")) else None
    final = found.get("final_ratio")
    if final is None and found.get("final") is not None and (peak or found["final"] == 0):
        final = found["final"] / (peak or 1.0)
    try:
        schedule = _described(name, found, end, final, x_per_step)
    except InputError as error:
        return unknown(f"configuration: {error}", "config", _or_nan(end))
    return dataclasses.replace(schedule, peak=peak or 1.0, source="config")


def _described(name: str, found: dict[str, Any], end: float | None, final: float | None, x_per_step: float) -> Schedule:
    def length(n_steps: float) -> float:
        if not np.isfinite(x_per_step):
            raise InputError("its lengths count steps, and how much x a step is cannot be told")
        return n_steps * x_per_step

    warmup, ratio = found.get("warmup", 0.0), found.get("warmup_ratio", 0.0)
    if 0 < warmup < 1 or (not warmup and ratio):
        warmup = (warmup or ratio) * (end or 0.0)
    elif warmup:
        warmup = length(warmup)
    if name == "constant":
        return constant(warmup=warmup)
    if name == "inverse-sqrt":
        return inverse_sqrt(warmup)
    if end is None:
        raise InputError(f"a {name} schedule without the number of steps")
    if name == "cosine":
        return decaying("cosine", end, warmup=warmup, final=final)
    if name == "linear":
        return decaying("linear", end, warmup=warmup, final=final)
    if _usable(found.get("decay")):
        start = end - length(found["decay"])
    elif _usable(found.get("decay_ratio")) and found["decay_ratio"] <= 1:
        start = end * (1 - found["decay_ratio"])
    elif _usable(found.get("stable")):
        start = warmup + length(found["stable"])
    else:
        raise InputError("a warmup-stable-decay schedule without the length of its decay")
    given = str(found.get("shape", "linear"))
    shape = _SHAPES.get(_letters(given))
    if shape is None:
        raise InputError(f"a warmup-stable-decay schedule with the decay shape {given!r}")
    return decaying("wsd", end, start=start, shape=shape, warmup=warmup, final=final)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.casefold())


def _flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the last part of their name, folded; those of outer levels win."""
    flat: dict[str, Any] = {}
    inner: list[Mapping[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = json.loads(value)
            except (json.JSONDecodeError, RecursionError):
                continue
        if isinstance(value, Mapping):
            inner.append(value)
        elif value is not None:
            name = re.split(r"[./]", str(key))[-1].casefold().replace("-", "_")
            flat.setdefault(name, value)
    for nested in inner:
        for name, value in _flattened(nested).items():
            flat.setdefault(name, value)
    return flat


def _first(flat: dict[str, Any], names: tuple[str, ...], *, text: bool) -> Any:
    for name in names:
        value = flat.get(name)
        if text and isinstance(value, str) and value.strip():
            return value.strip()
        if not text and isinstance(value, int | float | np.number) and not isinstance(value, bool):
            number = float(value)
            if np.isfinite(number) and number >= 0:  # -1 is how several trainers write "not set"
                return number
    return None


def _usable(value: Any) -> bool:
    return value is not None and value > 0


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


# -- logged rates ---------------------------------------------------------------------------------------------------------------


def from_observed(x: ArrayLike, lr: ArrayLike, planned_end: float | None = None) -> Schedule:
    """The schedule behind logged rates, carried on beyond the last of them only where its shape says how.

    Parameters
    ----------
    x, lr : (n,) positions, rising, and rates; NaN rates are left out
    planned_end : x at which the run was meant to end, if known; a decay is taken to end there

    Returns ``cosine``, ``linear``, ``wsd`` or ``inverse-sqrt`` where one of them passes through every logged rate, ``constant``
    where the rate is constant up to the planned end, ``observed`` (known up to the last rate) otherwise, ``unknown`` for fewer
    than two rates.
    """
    xs, rates = np.asarray(x, dtype=np.float64), np.asarray(lr, dtype=np.float64)
    seen = np.isfinite(xs) & np.isfinite(rates)
    xs, rates = xs[seen], rates[seen]
    if xs.size < 2 or not rates.max() > 0 or (rates < 0).any():
        return unknown("fewer than two usable learning rates were logged", "column")
    end = planned_end if planned_end is not None and np.isfinite(planned_end) else None
    peak = float(rates.max())
    top = int(np.argmax(rates >= (1 - _FLAT) * peak))
    warmup = _warmup_end(xs, rates / peak, top)
    tail_x, tail = xs[top:], rates[top:] / peak
    if tail.size < 2:
        return observed(xs, rates, note="the learning rate is still rising")
    if tail.min() >= 1 - 2 * _FLAT:
        if end is not None and xs[-1] >= end:
            return dataclasses.replace(constant(warmup=warmup, peak=peak, source="column"), planned_end=end)
        return observed(xs, rates, warmup=warmup, note="the learning rate is constant so far; whether it will decay is not known")
    fitted = _root(tail_x, tail, warmup) or _decay(tail_x, tail, warmup, end)
    if fitted is not None:
        return dataclasses.replace(fitted, peak=fitted.peak * peak, source="column")
    jumps = np.flatnonzero(np.abs(np.diff(tail)) > _FLAT)
    falling = float(tail_x[jumps[0]]) if jumps.size else np.nan
    if jumps.size and (np.diff(jumps) > 1).all() and (np.diff(tail)[jumps] < 0).all():
        note = "the learning rate falls in steps; those still to come are not known"
    elif end is None:
        note = "the learning rate falls, and without a planned end it is not known how far"
    else:
        note = "the learning rate follows no shape that can be carried on"
    return observed(xs, rates, warmup=warmup, decay_start=falling, note=note)


def _warmup_end(x: FloatArray, ratio: FloatArray, top: int) -> float:
    """Where the line from the origin through the rates before the peak reaches it; 0 where the first rate is the peak."""
    if top == 0:
        return 0.0
    rising = ratio[:top] > 0
    if not rising.any():
        return float(x[top])
    guess = float(np.median(x[:top][rising] / ratio[:top][rising]))
    return float(np.clip(guess, x[top - 1], x[top]))


def _root(x: FloatArray, ratio: FloatArray, warmup: float) -> Schedule | None:
    """An inverse square root: the rate times the root of x is constant."""
    if x.size < 4 or x[0] <= 0:
        return None
    level = ratio * np.sqrt(x)
    if np.ptp(level) > 2 * _FLAT * level.mean():
        return None
    start = warmup if warmup > 0 else float(x[0])
    return inverse_sqrt(start, peak=float(level.mean()) / start**0.5)


def _decay(x: FloatArray, ratio: FloatArray, warmup: float, end: float | None) -> Schedule | None:
    """The plateau-then-decay shape that passes through all rates, if they leave no doubt about where it ends."""
    low = np.flatnonzero(ratio < 1 - _FLAT)
    if end is None or end < x[-1] or low.size < 3 or x.size < 4:
        return None
    fallen = min(float(x[low[0]]), end * (1 - 1e-9))
    starts = np.linspace(warmup, fallen, 129)
    candidates: list[tuple[FloatArray, str, FloatArray]] = []
    for shape in ("linear", "cosine", "sqrt"):
        miss, _, _ = _through(x, ratio, shape, starts, end)
        near = int(np.argmin(miss))
        fine = np.linspace(starts[max(near - 1, 0)], starts[min(near + 1, 128)], 65)
        both = np.concatenate([starts, fine])
        candidates.append((np.stack(_through(x, ratio, shape, both, end)), shape, both))
    least = min(float(fit[0].min()) for fit, _, _ in candidates)
    if least > 2 * _FLAT:
        return None
    # every shape and start that passes as close as rounding allows must agree on the final rate
    passing = [fit[1, fit[0] <= max(0.2 * _FLAT, 3 * least)] for fit, _, _ in candidates]
    finals = np.concatenate(passing)
    if np.ptp(finals) > 0.05 or finals.min() < -0.02:
        return None
    fit, shape, both = min(candidates, key=lambda c: float(c[0][0].min()))
    best = int(np.argmin(fit[0]))
    start, final, peak = float(both[best]), float(np.clip(fit[1, best], 0.0, 0.999)), float(fit[2, best])
    from_warmup = start - warmup <= 0.03 * (end - warmup) or start <= x[0]
    if from_warmup and shape in ("cosine", "linear"):
        return decaying("cosine" if shape == "cosine" else "linear", end, warmup=start, final=final, peak=peak)
    return decaying("wsd", end, start=start, shape=shape, warmup=min(warmup, start), final=final, peak=peak)


def _through(x: FloatArray, ratio: FloatArray, shape: str, starts: FloatArray, end: float) -> tuple[FloatArray, ...]:
    """For decays from each start to `end`: (largest miss, final rate over peak, peak), each (n_starts,), by least squares."""
    t = np.clip((x - starts[:, None]) / (end - starts[:, None]), 0.0, 1.0)
    fall = fall_of(shape, t)
    centred = fall - fall.mean(1, keepdims=True)
    slope = (centred @ (ratio - ratio.mean())) / np.maximum((centred**2).sum(1), 1e-300)
    base = ratio.mean() - slope * fall.mean(1)
    miss = np.abs(base[:, None] + slope[:, None] * fall - ratio).max(1)
    peak = base + slope
    # a rate that rises, or a peak far from the highest rate seen, is no decay from that peak
    wrong = (slope <= 0) | (np.abs(peak - 1) > 0.1)
    return np.where(wrong, np.inf, miss), base / np.where(peak > 0, peak, 1.0), peak


# -- all runs of a set of curves --------------------------------------------------------------------------------------------------

_STEP_NAMES = ("step", "steps", "_step", "global_step", "trainer/global_step", "iteration", "iterations", "iter", "batch", "update")
_RATE_NAMES = ("lr", "learning_rate")


def schedules_of(curves: Curves, spec: str | None = None) -> list[Schedule]:
    """The schedule of every run: what the user says, else what its settings say, else what its logged rates say.

    Parameters
    ----------
    curves : settings are its ``config.*`` attributes, rates its covariate ``lr``; only logged rates at seen points are used
    spec : short form of :func:`farfield.curves.schedules.parse_schedule`, for every run; x in the units of `curves`

    Settings that contradict the logged rates are set aside; a contradicted `spec` is kept, with a note. Where nothing is known
    the schedule is ``unknown``. Raises InputError for a malformed `spec`.
    """
    said = parse_schedule(spec) if spec is not None else None
    rates = next((curves.covariates[n] for n in _RATE_NAMES if n in curves.covariates), None)
    names = [c for c in curves.attributes.columns if c.startswith("config.")]
    rows = curves.attributes.select(["planned_end", *names]).iter_rows(named=True)
    known: dict[tuple[bytes, bytes, float | None], Schedule] = {}
    out = []
    for i, row in enumerate(rows):
        planned = row.pop("planned_end")
        x = curves.x[curves.points(i)]
        lr = np.full(x.size, np.nan) if rates is None else rates[curves.points(i)]
        if said is not None:
            out.append(_matched(said, x, lr, "the logged rates differ from the schedule given")[0])
            continue
        chosen = _known(_Settings(row), planned, _x_per_step(curves, i, row, planned))
        note = "" if chosen is None else chosen.note
        if chosen is not None and chosen.kind != "unknown":
            chosen, agrees = _matched(chosen, x, lr, "the logged rates differ from the schedule of the configuration")
            if agrees:
                out.append(chosen)
                continue
            note = chosen.note
        if np.isfinite(lr).any():
            key = (x.tobytes(), lr.tobytes(), planned)
            if key not in known:
                known[key] = from_observed(x, lr, planned)
            seen = known[key]
            out.append(dataclasses.replace(seen, note="; ".join(filter(None, (note, seen.note)))))
        else:
            out.append(
                unknown(
                    note or "no learning rate is logged and no schedule is named in the configuration", planned_end=_or_nan(planned)
                )
            )
    return out


class _Settings(dict[str, Any]):
    """Settings of a run that can be remembered."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(self))


# a backtest asks for the same runs at every cut
@lru_cache(maxsize=4096)
def _known(settings: _Settings, planned_end: float | None, x_per_step: float) -> Schedule | None:
    return from_config(settings, planned_end=planned_end, x_per_step=x_per_step)


def _matched(schedule: Schedule, x: FloatArray, lr: FloatArray, note: str) -> tuple[Schedule, bool]:
    """The schedule with its peak taken from the logged rates, and whether it passes through them."""
    ratio = schedule.relative(x)
    both = np.isfinite(ratio) & np.isfinite(lr) & (ratio > 0.05)
    if not both.any():
        return schedule, True
    peak = float(np.median(lr[both] / ratio[both]))
    if peak > 0 and float(np.mean(np.abs(lr[both] / peak - ratio[both]))) <= _AGREE:
        return dataclasses.replace(schedule, peak=peak), True
    return dataclasses.replace(schedule, note=note), False


def _x_per_step(curves: Curves, i: int, config: Mapping[str, Any], planned: float | None) -> float:
    """How much x one optimiser step is; NaN where that cannot be found out."""
    if curves.x_name.casefold() in _STEP_NAMES:
        return 1.0
    for name in _STEP_NAMES:
        if name in curves.covariates:
            steps_seen, x = curves.covariates[name][curves.points(i)], curves.x[curves.points(i)]
            use = np.isfinite(steps_seen) & (steps_seen > 0) & (x > 0)
            if use.any():
                return float(np.median(x[use] / steps_seen[use]))
    end = _first(_flattened(config), _PARTS["end"], text=False)
    return planned / end if planned and _usable(end) else np.nan
