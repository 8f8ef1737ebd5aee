"""Trackio projects in SQLite: one database a project, every row the metrics of one step as JSON.

Tables `metrics(run_name, timestamp, step, metrics)` with `run_id` in newer versions, and `configs(run_name, config)`. JSON
columns hold text or bytes; NaN and infinities are the texts "NaN", "Infinity", "-Infinity". Schema as written by trackio 0.43.
"""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from typing import Any

from farfield.curves.readers.record import PointLog, RunLog, as_number, config_of, flatten, storable
from farfield.curves.readers.sqlite import Store
from farfield.errors import FormatError


def read_trackio(store: Store) -> list[RunLog]:
    """The runs of one project, in the order they first logged."""
    key = "coalesce(run_id, run_name)" if "run_id" in store.columns("metrics") else "run_name"
    points: dict[str, PointLog] = defaultdict(PointLog)
    names: dict[str, str] = {}
    order = "id" if "id" in store.columns("metrics") else "rowid"
    for run, name, timestamp, step, row in store.rows(
        f"SELECT {key}, run_name, timestamp, step, metrics FROM metrics ORDER BY {order}"
    ):
        names.setdefault(str(run), str(name))
        at, time = as_number(step), _seconds(timestamp)
        for metric, value in flatten(_json(row, store.path)).items():
            number = as_number(value)
            if number is not None:
                points[str(run)].add(metric, float("nan") if at is None else at, number, time)
    configs: dict[str, Any] = {}
    if {"run_name", "config"} <= store.columns("configs"):
        has_id = "run_id" in store.columns("configs")
        query = f"SELECT {'coalesce(run_id, run_name)' if has_id else 'run_name'}, config FROM configs"
        configs = {str(run): _json(config, store.path) for run, config in store.rows(query)}

    out = []
    for run, log in points.items():
        config = configs.get(run)
        config = config if isinstance(config, dict) else {}
        group = config.get("_Group")
        own = {k: v for k, v in config.items() if not str(k).startswith("_")}
        group = storable(str(group)) if group else None
        out.append(RunLog(names[run], f"{store.path}#{run}", log.series(), config=config_of(own), group=group))
    return out


def _seconds(timestamp: Any) -> float:
    try:
        return datetime.datetime.fromisoformat(str(timestamp)).timestamp()
    except (ValueError, OverflowError, OSError):
        return float("nan")


def _json(raw: Any, path: str) -> Any:
    try:
        return json.loads(raw) if isinstance(raw, str | bytes) else None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: a metrics or config cell is not JSON: {str(error)[:100]}") from error
