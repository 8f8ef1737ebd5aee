"""Simulated training runs for the tests of forecasts: power laws and stretched exponentials with noise, in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from farfield import Curves, Metric


def from_runs(
    runs: Mapping[str, tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]],
    *,
    end: float | None = None,
    metric: Metric | None = None,
    covariates: Mapping[str, np.ndarray] | None = None,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
    x_name: str = "step",
) -> Curves:
    """Curves from name -> (x, y); `end` is the planned end of every run, `rows` adds attributes by name."""
    names = [n for n, (x, _) in runs.items() for _ in range(len(x))]
    attributes = [{"run": n, "planned_end": end, **((rows or {}).get(n, {}))} for n in runs]
    x, y = (np.concatenate([np.zeros(0), *(np.asarray(v[k], dtype=float) for v in runs.values())]) for k in (0, 1))
    return Curves.from_points(
        names, x, y, attributes=attributes, metric=metric or Metric("loss", "min"), covariates=covariates, x_name=x_name
    )


def power_runs(
    n_runs: int,
    *,
    seed: int = 0,
    n_points: int = 40,
    noise: float = 0.01,
    per_group: int = 3,
    seen: float = 1.0,
    prefix: str = "run",
    metric: Metric | None = None,
    status: str = "unknown",
) -> Curves:
    """Falling runs at x 10, 20, ... of which the part `seen` is kept; runs of a group share their floor and exponent."""
    rng = np.random.default_rng(seed)
    x = 10.0 * np.arange(1, n_points + 1)
    runs, rows = {}, {}
    for i in range(n_runs):
        if i % per_group == 0:
            floor, exponent = rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.9)
        y = floor + rng.uniform(1.0, 3.0) * x**-exponent + noise * rng.normal(size=x.size)
        n = int(np.ceil(seen * x.size))
        runs[f"{prefix}{i}"] = (x[:n], y[:n])
        rows[f"{prefix}{i}"] = {"group": f"{prefix} group {i // per_group}", "status": status}
    return from_runs(runs, end=float(x[-1]), metric=metric, rows=rows)
