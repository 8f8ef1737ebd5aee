"""RunTable: what a set of logs holds before anything is chosen from it: runs x metrics x ranges x status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from farfield.curves.readers import assemble, names
from farfield.curves.readers.record import RunLog
from farfield.wording import count

_SCHEMA: dict[str, Any] = {
    "run": pl.String,
    "metric": pl.String,
    "goal": pl.String,
    "x": pl.String,
    "n": pl.Int64,
    "x_first": pl.Float64,
    "x_last": pl.Float64,
    "first": pl.Float64,
    "last": pl.Float64,
    "lowest": pl.Float64,
    "highest": pl.Float64,
    "status": pl.String,
    "planned_end": pl.Float64,
    "n_nonfinite": pl.Int64,
    "n_duplicate": pl.Int64,
    "n_overlap": pl.Int64,
    "seed": pl.Int64,
    "group": pl.String,
    "source": pl.String,
}


@dataclass(frozen=True)
class RunTable:
    """The runs found, and what was met beside them.

    Attributes
    ----------
    runs : every run with every column it logged
    problems : logs that could not be read, and why
    passed_over : files that hold no log
    """

    runs: tuple[RunLog, ...]
    problems: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        parts = count(len(self.runs), "run"), count(len(self.metrics), "metric"), count(len(self.problems), "unreadable file")
        return f"RunTable({', '.join(parts)})"

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, housekeeping columns (learning rate, times, ...) left out."""
        return assemble.metric_names(self.runs)

    @property
    def notes(self) -> list[str]:
        """What a person should know about how single runs were read, one line each."""
        out = [f"{run.name}: {note}" for run in self.runs for note in run.notes]
        for run in self.runs:
            one = [name for name, series in run.metrics.items() if series.renumbered and not names.is_housekeeping(name)]
            if one:
                out.append(
                    f"{run.name}: every point of {', '.join(one)} was logged at one {run.step_name}; they are numbered in order"
                )
        return out

    def summary(self) -> str:
        """One line: how many runs, of which metrics, in which states."""
        states: dict[str, int] = {}
        for run in self.runs:
            state = self._status(run)
            states[state] = states.get(state, 0) + 1
        shown = ", ".join(self.metrics[:6]) + (", ..." if len(self.metrics) > 6 else "")
        said = ", ".join(f"{n} {state}" for state, n in states.items())
        overlap = sum(max((s.n_overlap for s in run.metrics.values()), default=0) > 0 for run in self.runs)
        restarts = f"; {overlap} restarted, superseded points left out" if overlap else ""
        unread = f"; {count(len(self.problems), 'log')} unreadable" if self.problems else ""
        return f"{count(len(self.runs), 'run')} ({said}) of {count(len(self.metrics), 'metric')}: {shown}{restarts}{unread}"

    def _status(self, run: RunLog) -> str:
        tails = [s.value[-1] for n, s in run.metrics.items() if s.value.size and not names.is_housekeeping(n)]
        return "diverged" if tails and not np.isfinite(tails).any() else assemble.status(run)

    def rows(self, *, every_column: bool = False) -> list[dict[str, Any]]:
        """One row a run and metric; with `every_column`, housekeeping columns too."""
        groups = assemble.groups_of(self.runs)
        out = []
        for run, group in zip(self.runs, groups, strict=True):
            for name, series in run.metrics.items():
                if names.is_housekeeping(name) and not every_column:
                    continue
                good = np.isfinite(series.value) & np.isfinite(series.step)
                value, step = series.value[good], series.step[good]
                tail = bool(series.value.size) and not np.isfinite(series.value[-1])
                row: dict[str, Any] = {
                    "run": run.name,
                    "metric": name,
                    "goal": run.goals.get(name) or names.goal(name),
                    "x": run.step_name,
                }
                row |= {"n": int(value.size), "n_nonfinite": int((~good).sum()), "n_duplicate": int((np.diff(step) == 0).sum())}
                if value.size:
                    row |= {
                        "x_first": float(step[0]),
                        "x_last": float(step[-1]),
                        "first": float(value[0]),
                        "last": float(value[-1]),
                    }
                    row |= {"lowest": float(value.min()), "highest": float(value.max())}
                row |= {"status": "diverged" if tail else assemble.status(run), "n_overlap": series.n_overlap}
                row |= {"planned_end": assemble.planned_end(run, run.step_name, step), "seed": assemble.seed(run), "group": group}
                out.append({**row, "source": run.source})
        return out

    def to_frame(self, *, every_column: bool = False) -> pl.DataFrame:
        """The rows as a polars frame."""
        rows = self.rows(every_column=every_column)
        return pl.DataFrame({name: pl.Series(name, [r.get(name) for r in rows], dtype=kind) for name, kind in _SCHEMA.items()})

    def to_dict(self) -> dict[str, Any]:
        """Rows, problems and files passed over, as JSON can hold them."""
        return {"runs": self.to_frame().to_dicts(), "problems": list(self.problems), "passed_over": list(self.passed_over)}
