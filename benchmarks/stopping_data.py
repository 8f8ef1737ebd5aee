"""Sweeps with known ends for the benchmarks of stopping: TaskSet's configurations of a task, LCDB's learners on a data set."""

from __future__ import annotations

import dataclasses
import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

import farfield as ff
from farfield.curves.forecaster import EnsembleForecaster

DATA = Path(os.environ.get("FARFIELD_DATA", "data")) / "curves"
CONTEXT = 300
SETTINGS = ["learning_rate", "beta1", "beta2", "epsilon", "l1", "l2", "linear_decay", "exponential_decay"]


@dataclass(frozen=True, eq=False)
class Collection:
    """Groups of comparable runs.

    whole : every run to its end; `group` is its sweep (task, data set)
    n_folds : groups are forecast in so many folds, each by a forecaster that has seen runs of the other folds only
    held_out : groups on which nothing about stopping was designed
    """

    name: str
    whole: ff.Curves
    n_folds: int
    held_out: tuple[str, ...]

    @functools.cached_property
    def groups(self) -> np.ndarray:
        return self.whole.column("group").to_numpy()

    @functools.cached_property
    def folds(self) -> np.ndarray:
        """(n_runs,) fold of each run's group."""
        return np.unique(self.groups, return_inverse=True)[1] % self.n_folds

    def forecaster(self, group: str) -> EnsembleForecaster:
        """The forecaster of the group's fold: it has seen `CONTEXT` finished runs of other folds."""
        return _fitted(self, int(self.folds[np.argmax(self.groups == group)]))

    def sweep(self, rows: np.ndarray) -> ff.Curves:
        """The named runs as a sweep that is under way."""
        some = self.whole.take(rows)
        diverged = pl.col("status") == "diverged"
        status = pl.when(diverged).then(pl.lit("diverged")).otherwise(pl.lit("running")).alias("status")
        return dataclasses.replace(some, attributes=some.attributes.with_columns(status))


@functools.lru_cache(maxsize=16)
def _fitted(collection: Collection, fold: int) -> EnsembleForecaster:
    rows = np.flatnonzero((collection.folds != fold) & (collection.whole.column("status") == "finished").to_numpy())
    some = np.random.default_rng(0).choice(rows, min(CONTEXT, rows.size), replace=False)
    return EnsembleForecaster().fit(collection.whole.take(np.sort(some)))


def taskset() -> Collection:
    """Loss of each epoch, clipped at twice the task's median start; runs that became NaN have diverged there."""
    frame = pl.read_csv(DATA / "taskset_imdb_valid_loss.csv.gz", infer_schema_length=None)
    task = frame["task"].to_numpy()
    loss = frame.select(f"e{i}" for i in range(51)).cast(pl.Float64, strict=False).to_numpy()
    for t in np.unique(task):
        mine = task == t
        loss[mine] = np.minimum(loss[mine], 2 * np.nanmedian(loss[mine, 0]))
    lost = ~np.isfinite(loss).all(axis=1)
    for i in np.flatnonzero(lost):  # nothing counts after the first value that is not finite
        loss[i, np.isfinite(loss[i]).argmin() :] = np.nan
    names = [f"{t}/{i}" for i, t in enumerate(task)]
    settings = frame.select(pl.col(SETTINGS).name.prefix("config.")).to_dicts()
    attributes = [
        {"run": r, "group": t, "status": "diverged" if bad else "finished", "planned_end": 50.0, **config}
        for r, t, bad, config in zip(names, task, lost, settings, strict=True)
    ]
    whole = ff.Curves.from_points(
        np.repeat(names, 51), np.tile(np.arange(51.0), len(names)), loss.ravel(), attributes=attributes,
        metric=ff.Metric("valid_loss", "min", 0.0), x_name="epoch",
    )  # fmt: skip
    return Collection("taskset", whole, 4, tuple(np.unique(task)[4:]))


def lcdb() -> Collection:
    """Error rate by training-set size; learners of one data set that reach its largest size, with 10 sizes or more."""
    frame = pl.read_csv(DATA / "lcdb_accuracy.csv.gz").with_columns(error=1 - pl.col("test")).filter(pl.col("error").is_finite())
    frame = frame.with_columns(run=pl.col("openmlid").cast(pl.String) + "/" + pl.col("learner"))
    largest = pl.col("size_train").max()
    frame = frame.filter((pl.len().over("run") >= 10) & (largest.over("run") == largest.over("openmlid")))
    frame = frame.filter(pl.col("run").n_unique().over("openmlid") >= 8).sort("openmlid", "learner", "size_train")
    table = frame.group_by("run", maintain_order=True).agg(pl.first("openmlid"), pl.first("learner"), largest)
    attributes = [
        {"run": r, "group": str(g), "config.learner": m, "status": "finished", "planned_end": float(end)}
        for r, g, m, end in table.iter_rows()
    ]
    whole = ff.Curves.from_points(
        frame["run"].to_list(), frame["size_train"].to_numpy(), frame["error"].to_numpy(), attributes=attributes,
        metric=ff.Metric("error", "min", 0.0, 1.0), x_name="size_train",
    )  # fmt: skip
    return Collection("lcdb", whole, 2, tuple(np.unique(whole.column("group").to_numpy())[1::2]))
