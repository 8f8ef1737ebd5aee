"""From RunLogs to Curves: choose the metric, its goal and its x; carry attributes and covariates over.

Nothing is guessed between several answers: where the logs allow more than one metric, or the metric's name does not say which
way is better, the error holds a command that says it. Points keep their own steps; learning rate, tokens, epoch and time are
those last logged at or before a point.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from farfield.curves.data import Curves, FloatArray, Goal, Metric, attribute_frame
from farfield.curves.readers import names
from farfield.curves.readers.record import ReadWarning, RunLog, Series
from farfield.errors import InputError, unknown_name

_EARLIEST_STAMP = 1e8  # seconds: a time beyond three years is a date, not a duration
COVARIATES = ("lr", "tokens", "epoch", "time")


def assemble(
    runs: Sequence[RunLog],
    *,
    paths: Sequence[str] = (),
    metric: str | None = None,
    x: str | None = None,
    goal: Goal | None = None,
    select: Sequence[str] | None = None,
) -> Curves:
    """Curves of one metric of the given runs.

    Parameters
    ----------
    runs : as the readers yield them, names unique
    paths : what was read, for the commands in error messages
    metric, x, goal, select : as in :func:`farfield.curves.readers.read_runs`

    Raises
    ------
    InputError : unknown or ambiguous metric, x or goal; no run of that name; no run with the metric
    """
    runs = _selected(runs, select)
    given = {"--x": x, "--goal": goal}
    metric = _metric(runs, metric, paths, given)
    having = [run for run in runs if metric in run.metrics]
    if len(having) < len(runs):
        missing = [run.name for run in runs if metric not in run.metrics]
        warnings.warn(
            f"{len(missing)} of {len(runs)} runs have no {metric!r} and are left out: {_some(missing)}", ReadWarning, stacklevel=3
        )
    numbered = [run for run in having if run.metrics[metric].renumbered]
    if numbered:
        warnings.warn(
            f"every point of {metric} was logged at one {numbered[0].step_name} in {len(numbered)} of {len(having)} runs; they are "
            f"numbered in order: {_some([run.name for run in numbered])}",
            ReadWarning,
            stacklevel=3,
        )
    x_name = _x_name(having, x, paths, {"--metric": metric, "--goal": goal})
    goal = _goal(having, metric, goal, paths, {"--metric": metric, "--x": x})

    columns = [_clean(run, metric, x_name) for run in having]
    lengths = [c["x"].size for c in columns]
    covariates = {}
    for kind in COVARIATES:
        parts = [c.get(kind) for c in columns]
        if any(p is not None for p in parts):
            covariates[kind] = np.concatenate([np.full(n, np.nan) if p is None else p for p, n in zip(parts, lengths, strict=True)])
    y = np.concatenate([c["y"] for c in columns])
    lower, upper = names.bounds(metric, y)
    groups = groups_of(having)
    rows = [_attributes(run, c, x_name, group) for run, c, group in zip(having, columns, groups, strict=True)]
    return Curves(
        runs=tuple(run.name for run in having),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        x=np.concatenate([c["x"] for c in columns]),
        y=y,
        covariates=covariates,
        attributes=attribute_frame(rows),
        metric=Metric(metric, goal, lower, upper),
        x_name=x_name,
    )


# -- choices ----------------------------------------------------------------------------------------------------------------


def _selected(runs: Sequence[RunLog], select: Sequence[str] | None) -> list[RunLog]:
    if select is None:
        return list(runs)
    known = [run.name for run in runs]
    for pattern in select:
        if not any(pattern == name or fnmatchcase(name, pattern) for name in known):
            raise unknown_name("run", pattern, known)
    return [run for run in runs if any(pattern == run.name or fnmatchcase(run.name, pattern) for pattern in select)]


def metric_names(runs: Sequence[RunLog]) -> list[str]:
    """Every logged column that says how good a model is, in order of appearance."""
    return list(dict.fromkeys(name for run in runs for name in run.metrics if not names.is_housekeeping(name)))


def _metric(runs: Sequence[RunLog], metric: str | None, paths: Sequence[str], given: Mapping[str, str | None]) -> str:
    logged = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if metric is not None:
        if metric not in logged:
            raise unknown_name("metric", metric, logged)
        return metric
    candidates = metric_names(runs)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise InputError(
            f"no metric among the columns {_some(logged)}; name one with {command(paths, {**given, '--metric': 'COLUMN'})}"
        )
    counted = {name: sum(name in run.metrics for run in runs) for name in candidates}
    likely = min(candidates, key=lambda n: (-counted[n], not _validation(n), names.goal(n) is None, candidates.index(n)))
    raise InputError(
        f"{len(candidates)} metrics were logged: {_some(candidates, 12)}; choose one, for example:\n  "
        + command(paths, {**given, "--metric": likely})
    )


def _validation(name: str) -> bool:
    return any(word in ("val", "valid", "validation", "eval", "test", "dev", "heldout") for word in names.words(name))


def _x_name(runs: Sequence[RunLog], x: str | None, paths: Sequence[str], given: Mapping[str, str | None]) -> str:
    own = list(dict.fromkeys(run.step_name for run in runs))
    if x is None:
        if len(own) == 1:
            return own[0]
        common = [kind for kind in names.STEP_NAMES if all(has_x(run, kind) for run in runs)]
        hint = (
            command(paths, {**given, "--x": common[0]}) if common else "no x is common to all of them; read them one kind at a time"
        )
        raise InputError(f"runs are counted in different units ({_some(own)}); choose one, for example:\n  {hint}")
    if not any(has_x(run, x) for run in runs):
        kinds = [kind for kind in names.STEP_NAMES if any(has_x(run, kind) for run in runs)]
        raise unknown_name("x", x, dict.fromkeys([*own, *kinds, *(name for run in runs for name in run.metrics)]))
    lacking = [run.name for run in runs if not has_x(run, x)]
    if lacking:
        raise InputError(
            f"x {x!r} is not logged by {len(lacking)} of {len(runs)} runs ({_some(lacking)}); allowed: one that all runs log"
        )
    return x


def has_x(run: RunLog, x: str) -> bool:
    """Whether a run logs its position by `x`."""
    if x == run.step_name or x in run.metrics:
        return True
    if x == "time":
        return any(s.time is not None for s in run.metrics.values()) or names.covariate("time", run.metrics) is not None
    return x in names.STEP_NAMES and names.covariate(x, run.metrics) is not None


def _goal(runs: Sequence[RunLog], metric: str, goal: Goal | None, paths: Sequence[str], given: Mapping[str, str | None]) -> Goal:
    if goal is not None:
        if goal not in ("min", "max"):
            raise InputError(f"goal is {goal!r}; allowed: 'min', 'max'")
        return goal
    told = {run.goals[metric] for run in runs if metric in run.goals}
    found = told.pop() if len(told) == 1 else None if told else names.goal(metric)
    if found is None:
        raise InputError(
            f"whether less or more of {metric!r} is better is not known; say it:\n  {command(paths, {**given, '--goal': 'min'})}\n"
            f"  {command(paths, {**given, '--goal': 'max'})}"
        )
    return found


def command(paths: Sequence[str], given: Mapping[str, str | None]) -> str:
    """A command line ready to paste; under the command that is running, or `farfield runs read`."""
    verb = "farfield runs read"
    if "click" in sys.modules:
        context = sys.modules["click"].get_current_context(silent=True)
        verb = context.command_path if context is not None and context.command_path.startswith("farfield") else verb
    options = [part for flag, value in given.items() if value is not None for part in (flag, value)]
    return shlex.join([*verb.split(), *(paths or ["PATH"]), *options])


def _some(items: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(str(i) for i in items[:most])
    return shown if len(items) <= most else f"{shown}, ... ({len(items)} in all)"


# -- points -----------------------------------------------------------------------------------------------------------------


def _last_known(series: Series, at: FloatArray) -> FloatArray:
    """The value last logged at or before each step, NaN before the first."""
    if series.step.size == 0:
        return np.full(at.size, np.nan)
    index = np.searchsorted(series.step, at, side="right") - 1
    return np.where((index >= 0) & ~np.isnan(at), series.value[np.maximum(index, 0)], np.nan)


def _time(run: RunLog, series: Series) -> FloatArray | None:
    """Seconds since the run began, for each point of a series."""
    if series.time is not None:
        known = [float(np.nanmin(s.time)) for s in run.metrics.values() if s.time is not None and not np.isnan(s.time).all()]
        return series.time - min(known, default=np.nan)
    column = names.covariate("time", run.metrics)
    if column is None:
        return None
    logged = run.metrics[column]
    stamps = logged.value.size > 0 and float(np.nanmin(logged.value, initial=np.inf)) > _EARLIEST_STAMP
    return _last_known(logged, series.step) - (np.nanmin(logged.value) if stamps else 0.0)


def _quantity(run: RunLog, series: Series, name: str) -> FloatArray | None:
    """Another quantity of the run at the points of `series`: its own step, time, a covariate, or any column."""
    if name == run.step_name:
        return series.step
    if name in run.metrics:
        return _last_known(run.metrics[name], series.step)
    if name == "time":
        return _time(run, series)
    column = names.covariate(name, run.metrics)
    return None if column is None else _last_known(run.metrics[column], series.step)


def _clean(run: RunLog, metric: str, x_name: str) -> dict[str, Any]:
    """x, y and covariates of one run: finite, x rising, the last of equal x kept; and the counts of what was left out."""
    series = run.metrics[metric]
    x = _quantity(run, series, x_name)
    assert x is not None  # _x_name has made sure
    columns = {kind: _quantity(run, series, kind) for kind in COVARIATES}
    finite = np.isfinite(x) & np.isfinite(series.value)
    keep = np.flatnonzero(finite)
    keep = keep[np.argsort(x[keep], kind="stable")]
    last = np.append(x[keep][1:] != x[keep][:-1], True) if keep.size else np.zeros(0, dtype=bool)
    n_duplicate = int((~last).sum())
    keep = keep[last]
    out: dict[str, Any] = {kind: column[keep] for kind, column in columns.items() if column is not None}
    tail = bool(series.value.size) and not np.isfinite(series.value[-1])
    counts = {"n_nonfinite": int((~finite).sum()), "n_duplicate": n_duplicate, "n_overlap": series.n_overlap, "diverged": tail}
    return {**out, "x": x[keep], "y": series.value[keep], **counts}


# -- attributes -------------------------------------------------------------------------------------------------------------


def _attributes(run: RunLog, columns: Mapping[str, Any], x_name: str, group: str | None) -> dict[str, Any]:
    end = planned_end(run, x_name, columns["x"])
    return {
        "run": run.name,
        "status": "diverged" if columns["diverged"] else status(run),
        "group": group,
        "seed": seed(run),
        "planned_end": end,
        "source": run.source,
        **{count: columns[count] for count in ("n_nonfinite", "n_duplicate", "n_overlap")},
        **{f"config.{key}": value for key, value in run.config.items()},
    }


def seed(run: RunLog) -> int | None:
    """The run's seed, as logged or from its configuration."""
    return run.seed if run.seed is not None else names.seed_of(run.config)


def planned_end(run: RunLog, x_name: str, x: FloatArray) -> float | None:
    """Where the run is planned to end in units of `x`, None where that is unknown.

    Whole epochs counted from zero end at one less than their number.
    """
    kind = names.unit(x_name) or x_name
    if kind in run.planned:
        return run.planned[kind]
    end = names.planned_ends(run.config).get(kind)
    if end is not None and kind == "epoch" and x.size and x[0] == 0 and not np.mod(x, 1).any():
        return end - 1
    return end


def status(run: RunLog) -> str:
    """The run's status as logged; finished if it is within one logging interval of its planned end."""
    if run.status != "unknown":
        return run.status
    for series in run.metrics.values():
        end = planned_end(run, run.step_name, series.step[:1]) if series.step.size > 1 else None
        if end is not None and end - series.step[-1] < series.step[-1] - series.step[-2]:
            return "finished"
    return "unknown"


def groups_of(runs: Sequence[RunLog]) -> list[str | None]:
    """Group of each run: as logged, else its seed siblings (equal configuration but for the seed), else its folder if several."""
    siblings: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, run in enumerate(runs):
        rest = tuple(sorted((k, repr(v)) for k, v in run.config.items() if not names.is_seed(k)))
        if seed(run) is not None and rest:
            siblings[(run.folder, rest)].append(i)
    logged = {run.group for run in runs if run.group}
    # a parent run belongs to the group that its children name it by
    out = [run.group or next((i for i in (_own_id(run),) if i in logged), None) for run in runs]
    number = 0
    for members in siblings.values():
        if len({seed(runs[i]) for i in members}) > 1:
            number += 1
            for i in members:
                out[i] = out[i] or f"siblings {number}"
    folders = {run.folder for run in runs if run.folder}
    if len(folders) > 1:
        out = [group or run.folder for group, run in zip(out, runs, strict=True)]
    return out


def _own_id(run: RunLog) -> str:
    """The identifier of a run in its store: what follows the # of its source, else the name of its folder."""
    return run.source.rpartition("#")[2].rpartition("/")[2]
