"""Reading runs: from logs as their writers left them to :class:`farfield.Curves`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

from farfield.curves.data import Curves, Goal
from farfield.curves.readers import assemble, frames, sources
from farfield.curves.readers.record import ReadWarning, RunLog, Series, Where
from farfield.curves.readers.runtable import RunTable
from farfield.errors import InputError, short

__all__ = ["ReadWarning", "RunLog", "RunTable", "Series", "list_runs", "read_runs"]


def list_runs(paths: Any, *, run_column: str | None = None) -> RunTable:
    """Every run in `paths` with every metric it logged, nothing chosen.

    Parameters
    ----------
    paths : a file, a folder, ``-`` (standard input), several of these, or a data frame (pandas, polars, pyarrow)
    run_column : the column of a table that tells runs apart, found by its name when None

    Raises
    ------
    InputError : no such path; no runs there; an unknown `run_column`
    FormatError : a file named in `paths` is damaged or of no known format (files met in a folder are listed as problems)
    """
    listed = _path_list(paths)
    if listed is None:
        return RunTable(tuple(sources.unique(frames.read_frame(paths, Where("frame", "run"), run_column=run_column))))
    found = sources.find_runs(listed, run_column=run_column)
    return RunTable(tuple(found.runs), tuple(found.problems), tuple(found.passed_over))


def read_runs(
    paths: Any,
    *,
    metric: str | None = None,
    x: str | None = None,
    goal: Goal | None = None,
    runs: str | Sequence[str] | None = None,
    run_column: str | None = None,
) -> Curves:
    """The learning curves of one metric from logs of any supported kind.

    Parameters
    ----------
    paths : a file, a folder, ``-`` (standard input), several of these, a data frame (pandas, polars, pyarrow), or a RunTable
    metric : the column to read; needed where several metrics were logged
    x : ``step``, ``epoch``, ``tokens``, ``time`` (seconds since the run began) or any column; None: what the log counts
    goal : ``min`` or ``max``; needed where the metric's name does not tell
    runs : names or patterns (``adam-*``) of the runs to keep, all by default
    run_column : the column of a table that tells runs apart, found by its name when None

    Returns
    -------
    Curves. Attributes hold status, group, seed, planned end in units of x, the configuration as ``config.<name>`` and the counts
    ``n_nonfinite``, ``n_duplicate`` and ``n_overlap`` (points superseded by a restart); covariates, as far as they were logged,
    ``lr``, ``tokens``, ``epoch`` and ``time``.

    Raises
    ------
    InputError : no such path or name; several metrics, or a metric of unknown goal, and none given
    FormatError : a file named in `paths` is damaged or of no known format

    Warns
    -----
    ReadWarning : runs without the metric, or unreadable logs in a folder, were left out
    """
    for name, value in {"metric": metric, "x": x, "goal": goal, "run_column": run_column}.items():
        if value is not None and not isinstance(value, str):
            raise InputError(f"{name} is {short(value)}; allowed: a name")
    if not (runs is None or isinstance(runs, str) or (isinstance(runs, Sequence) and all(isinstance(r, str) for r in runs))):
        raise InputError(f"runs is {short(runs)}; allowed: names or patterns of runs")
    table = paths if isinstance(paths, RunTable) else list_runs(paths, run_column=run_column)
    for problem in table.problems:
        warnings.warn(f"left out: {problem}", ReadWarning, stacklevel=2)
    shown = [str(p) for p in _path_list(paths) or []] if not isinstance(paths, RunTable) else []
    select = [runs] if isinstance(runs, str) else runs
    return assemble.assemble(table.runs, paths=shown, metric=metric, x=x, goal=goal, select=select)


def _path_list(paths: Any) -> list[str | os.PathLike[str]] | None:
    """Paths as a list, or None if `paths` is not made of paths."""
    if isinstance(paths, str | os.PathLike):
        return [paths]
    if isinstance(paths, list | tuple | set) and paths and all(isinstance(p, str | os.PathLike) for p in paths):
        return list(paths)
    return None
