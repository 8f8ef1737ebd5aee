"""MLflow runs, from its SQLite store and from the older file store.

SQLite: tables `metrics(key, value, timestamp, run_uuid, step, is_nan)`, `runs`, `params`, `tags`, `experiments`; NaN is stored
as 0.0 with `is_nan` set. File store: `<experiment>/<run>/meta.yaml`, `metrics/<key>` with lines `timestamp value step`,
`params/<key>`, `tags/<key>`. A run below a parent run is grouped by it; the experiment is the weaker grouping. Deleted runs are
left out.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from farfield.curves.readers.record import RunLog, Scalar, Series, as_number, scalar_of_text, settle
from farfield.curves.readers.sqlite import Store
from farfield.errors import FormatError

_STATUS = {"RUNNING": "running", "FINISHED": "finished", "FAILED": "killed", "KILLED": "killed", "SCHEDULED": "running"}
_STATUS |= {"1": "running", "2": "running", "3": "finished", "4": "killed", "5": "killed"}  # the file store writes numbers


def read_mlflow(store: Store) -> list[RunLog]:
    """The runs of a SQLite store that logged a metric, in the order they were started."""
    has = store.columns("runs")
    name = "name" if "name" in has else "run_uuid"
    experiment = "experiment_id" if "experiment_id" in has else "NULL"
    where = "WHERE coalesce(lifecycle_stage, 'active') = 'active'" if "lifecycle_stage" in has else ""
    order = "ORDER BY start_time, run_uuid" if "start_time" in has else "ORDER BY run_uuid"
    runs = store.rows(f"SELECT run_uuid, {name}, status, {experiment} FROM runs {where} {order}")
    experiments: dict[Any, str] = {}
    if {"experiment_id", "name"} <= store.columns("experiments"):
        experiments = {key: str(text) for key, text in store.rows("SELECT experiment_id, name FROM experiments")}
    params, tags = _texts(store, "params"), _texts(store, "tags")

    points: dict[str, dict[str, list[tuple[float, float, float]]]] = defaultdict(lambda: defaultdict(list))
    query = "SELECT run_uuid, key, step, value, is_nan, timestamp FROM metrics ORDER BY run_uuid, key, timestamp, step"
    for run, key, step, value, is_nan, timestamp in store.rows(query):
        logged = as_number(value)
        at, time = as_number(step), as_number(timestamp)
        logged = float("nan") if is_nan or logged is None else logged
        points[str(run)][str(key)].append(
            (float("nan") if at is None else at, logged, float("nan") if time is None else time / 1e3)
        )

    out = []
    for uuid, run_name, status, experiment_id in runs:
        run = str(uuid)
        if run not in points:
            continue
        label = tags[run].get("mlflow.runName") or run_name or run
        out.append(
            RunLog(
                str(label),
                f"{store.path}#{run}",
                {key: _series(rows) for key, rows in points[run].items()},
                config={key: scalar_of_text(text) for key, text in params[run].items()},
                group=tags[run].get("mlflow.parentRunId"),
                folder=experiments.get(experiment_id),
                status=_STATUS.get(str(status).upper(), "unknown"),
            )
        )
    return out


def _series(rows: list[tuple[float, float, float]]) -> Series:
    step, value, time = np.asarray(rows, dtype=np.float64).T
    return settle(step, value, time)


def _texts(store: Store, table: str) -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = defaultdict(dict)
    if {"run_uuid", "key", "value"} <= store.columns(table):
        for run, key, value in store.rows(f"SELECT run_uuid, key, value FROM {table}"):
            out[str(run)][str(key)] = "" if value is None else str(value)
    return out


def is_file_store_run(folder: Path) -> bool:
    """Whether a folder is one run of the file store."""
    meta = folder / "meta.yaml"
    return (folder / "metrics").is_dir() and meta.is_file() and b"run_id:" in meta.read_bytes()[:4096]


def read_file_store_run(folder: Path) -> list[RunLog]:
    """The run in one folder of the file store; none if it was deleted or logged no metric."""
    meta = _flat_yaml(folder / "meta.yaml")
    if meta.get("lifecycle_stage") == "deleted":
        return []
    metrics = {}
    for file in sorted(p for p in (folder / "metrics").rglob("*") if p.is_file()):
        rows = _metric_lines(file)
        if rows:
            rows.sort(key=lambda row: row[2])
            metrics[file.relative_to(folder / "metrics").as_posix()] = _series(rows)
    if not metrics:
        return []
    tags = _folder_texts(folder / "tags")
    config: dict[str, Scalar] = {key: scalar_of_text(text) for key, text in _folder_texts(folder / "params").items()}
    experiment = _flat_yaml(folder.parent / "meta.yaml").get("name") or folder.parent.name
    name = tags.get("mlflow.runName") or meta.get("run_name") or folder.name
    status = _STATUS.get(meta.get("status", "").upper(), "unknown")
    parent = tags.get("mlflow.parentRunId")
    return [RunLog(name, str(folder), metrics, config=config, group=parent, folder=experiment, status=status)]


def _metric_lines(file: Path) -> list[tuple[float, float, float]]:
    """(step, value, time) of every line `timestamp value [step]`; a last line without its end is still being written."""
    rows = []
    lines = file.read_bytes().decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        words = line.split()
        try:
            if len(words) not in (2, 3):
                raise ValueError
            time, value, step = float(words[0]), float(words[1]), float(words[2]) if len(words) == 3 else 0.0
        except ValueError:
            if not words or number == len(lines):
                continue
            raise FormatError(f"{file}: line {number} is {line[:60]!r}; a metric line is 'timestamp value step'") from None
        rows.append((step, value, time / 1e3))
    return rows


def _folder_texts(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes()[:8192].decode("utf-8", errors="replace").strip() for p in files}


def _flat_yaml(file: Path) -> dict[str, str]:
    """The `name: text` lines of a flat YAML file; MLflow's metadata has no other."""
    if not file.is_file():
        return {}
    pairs = (line.partition(":") for line in file.read_bytes()[:65536].decode("utf-8", errors="replace").splitlines())
    return {key.strip(): value.strip().strip("'\"") for key, colon, value in pairs if colon and not key.startswith((" ", "#"))}
