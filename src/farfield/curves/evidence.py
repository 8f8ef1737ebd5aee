"""What stands behind a forecast: what its intervals were calibrated on, and how it did where the far end was hidden.

Both are read through :mod:`farfield.curves.results`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from farfield.curves.data import Metric
from farfield.errors import InputError
from farfield.wording import count, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Calibration:
    """Where the width of the intervals comes from.

    Attributes
    ----------
    n_runs, n_groups : runs, and groups of runs that belong together, whose hidden ends scaled the intervals; 0 when none did
    source : which runs those are, e.g. ``these runs, each group held out in turn``
    caveat : what the reader must know, e.g. that only runs that survived to the reach could be used
    """

    n_runs: int = 0
    n_groups: int = 0
    source: str = ""
    caveat: str = ""

    def __repr__(self) -> str:
        return f"Calibration({self.label})"

    @property
    def label(self) -> str:
        """``calibrated from 84 runs in 12 groups`` or ``uncalibrated``."""
        if self.n_runs == 0:
            return "uncalibrated"
        return f"calibrated from {count(self.n_runs, 'run')} in {count(self.n_groups, 'group')}"

    def summary(self) -> str:
        """One line: the label, the source and the caveat."""
        text = self.label + (f" ({self.source})" if self.source else "")
        return f"{text}; {self.caveat}" if self.caveat else text

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "n_runs": self.n_runs,
            "n_groups": self.n_groups,
            "source": self.source or None,
            "caveat": self.caveat or None,
        }


@dataclass(frozen=True)
class Backtest:
    """How forecasts did where the far end was hidden, by method and reach.

    Attributes
    ----------
    scores : one row a method and band of reach: ``method``, ``reach_low``, ``reach_high`` (both null: all reaches pooled),
        ``n`` (scored forecasts), ``n_runs``, ``n_groups`` and, for each name in ``SCORES``, ``<score>``, ``<score>_low`` and
        ``<score>_high`` (the cluster-bootstrap interval); null where a method has no such score
    rows : one row a scored (run, cut, target): ``run``, ``group``, ``cut``, ``at``, ``reach``, ``y_true``, ``median``,
        ``low80``, ``high80`` and whatever else was kept
    metric, x_name : what was forecast and by what
    method : the row of ``scores`` that is the procedure under test; the others are baselines
    baseline : the method that `summary` compares with
    target : ``logged`` or ``latent``: which value the intervals are for
    warnings : what the reader must know
    """

    scores: pl.DataFrame
    rows: pl.DataFrame
    metric: Metric = field(default_factory=Metric)
    x_name: str = "step"
    method: str = "farfield"
    baseline: str = "last value"
    target: Literal["latent", "logged"] = "logged"
    warnings: tuple[str, ...] = ()

    SCORES = (
        "mae",
        "crps",
        "log_likelihood",
        "interval_score80",
        *(f"{kind}{level}" for level in (50, 80, 90) for kind in ("coverage", "width")),
    )

    def __post_init__(self) -> None:
        _require_columns("scores", self.scores, ("method", "reach_low", "reach_high", "n"))
        _require_columns("rows", self.rows, ("run", "group", "cut", "at", "reach", "y_true", "median"))

    def __repr__(self) -> str:
        return f"Backtest({self.n} forecasts of {self.n_runs} runs in {self.n_groups} groups, {len(self.methods)} methods)"

    @property
    def n(self) -> int:
        """Scored forecasts of the procedure under test."""
        return self.rows.height

    @property
    def n_runs(self) -> int:
        """Runs with at least one scored forecast."""
        return self.rows["run"].n_unique() if self.rows.height else 0

    @property
    def n_groups(self) -> int:
        """Groups those runs come from; a run without a group is its own."""
        group = pl.coalesce(pl.col("group").cast(pl.String), pl.col("run"))
        return int(self.rows.select(group.n_unique()).item()) if self.rows.height else 0

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods scored, the one under test first."""
        names = self.scores["method"].unique(maintain_order=True).to_list()
        return tuple(sorted(names, key=lambda m: m != self.method))

    @property
    def pooled(self) -> pl.DataFrame:
        """The rows of `scores` over all reaches, one a method."""
        return self.scores.filter(pl.col("reach_low").is_null())

    @property
    def by_reach(self) -> pl.DataFrame:
        """The rows of `scores` for single bands of reach, nearest first within a method."""
        return self.scores.filter(pl.col("reach_low").is_not_null()).sort("reach_low", maintain_order=True)

    def score(self, name: str, method: str | None = None) -> tuple[float, float, float]:
        """(value, low, high) of a score pooled over all reaches; NaN where there is none."""
        if name not in self.SCORES:
            raise InputError(f"unknown score {name!r}; allowed: {', '.join(self.SCORES)}")
        row = self.pooled.filter(pl.col("method") == (method or self.method))
        if row.height == 0 or name not in row.columns:
            return (math.nan, math.nan, math.nan)
        value, low, high = (row[c][0] if c in row.columns else None for c in (name, f"{name}_low", f"{name}_high"))
        return tuple(math.nan if v is None else float(v) for v in (value, low, high))  # type: ignore[return-value]

    def summary(self) -> str:
        """One line: what was hidden, how often the 80 % intervals held, and the error against the baseline."""
        if self.n == 0:
            return "backtest: nothing could be scored"
        whose = f"{count(self.n_runs, 'run')} in {count(self.n_groups, 'group')}"
        text = f"backtest of {count(self.n, 'forecast')} with the end hidden ({whose})"
        cover, low, high = self.score("coverage80")
        if math.isfinite(cover):
            text += f": 80 % intervals held {100 * cover:.0f} %"
            if math.isfinite(low) and math.isfinite(high):
                text += f" ({100 * low:.0f} to {100 * high:.0f})"
        ours, base = self.score("mae")[0], self.score("mae", self.baseline)[0]
        if math.isfinite(ours) and math.isfinite(base) and base > 0:
            text += f", mean error {ours / base:.2f}x that of the {self.baseline}"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON (docs/forecast-json.md); NaN and infinities become None."""
        return {
            "schema": "farfield.backtest/1",
            "metric": metric_dict(self.metric),
            "x": self.x_name,
            "method": self.method,
            "baseline": self.baseline,
            "target": self.target,
            "n": self.n,
            "n_runs": self.n_runs,
            "n_groups": self.n_groups,
            "summary": self.summary(),
            "scores": [plain(row) for row in self.scores.iter_rows(named=True)],
            "warnings": list(self.warnings),
        }

    def to_frame(self) -> pl.DataFrame:
        """The table of scores, one row a method and band of reach."""
        return self.scores

    def plot(self, ax: Axes | None = None) -> Axes:
        """Coverage by reach against its nominal level, drawn on `ax` (a new figure when None)."""
        from farfield.curves.plot import plot_backtest

        return plot_backtest(self, ax)


def metric_dict(metric: Metric) -> dict[str, Any]:
    """Name, goal and bounds; None for no bound."""
    out: dict[str, Any] = plain({"name": metric.name, "goal": metric.goal, "lower": metric.lower, "upper": metric.upper})
    return out


def _require_columns(what: str, frame: pl.DataFrame, needed: tuple[str, ...]) -> None:
    missing = [c for c in needed if c not in frame.columns]
    if missing:
        raise InputError(f"{what} lacks the columns {', '.join(missing)}; it has {', '.join(frame.columns) or 'none'}")
