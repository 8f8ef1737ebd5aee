"""Runs that went before, for hooks: power laws of 30 steps with floors from 0.5 up."""

from __future__ import annotations

import numpy as np

from farfield import Curves, Metric

LAST = 30


def floor_at(quality: float, k: float) -> float:
    return quality + (1 + quality) * k**-0.6


def earlier(metric: str, x_name: str, first: int = 1, **config: object) -> Curves:
    """Twenty-four runs logged from `first` on, which ended."""
    runs, x, y, attributes = [], [], [], []
    for i in range(24):
        rng = np.random.default_rng(i)
        for k in range(1, LAST + 1):
            runs.append(f"earlier {i}")
            x.append(k - 1 + first)
            y.append(floor_at(0.2 + i / 24, k) + 0.002 * rng.standard_normal())
        attributes.append(
            {"run": runs[-1], "status": "finished", "planned_end": float(x[-1]), **{f"config.{k}": v for k, v in config.items()}}
        )
    return Curves.from_points(runs, x, y, attributes=attributes, metric=Metric(metric, "min"), x_name=x_name)
