"""More runs than one machine should hold: each input file is a partition, forecast by itself and written when it is done.

A partition's forecast is a function of its file and the settings alone, so that processes, a Ray cluster and a plain loop write
the same values. Beside each finished table lies a note of what it was made from; asked again, finished partitions are left as they
are, so a killed worker or machine loses at most the partitions it was at.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield import __version__, checks
from farfield.errors import FarfieldError, InputError, require
from farfield.files import write_atomic
from farfield.processors import THREAD_VARIABLES
from farfield.progress import progress

if TYPE_CHECKING:
    import polars as pl

ENGINES = ("local", "ray")
N_ASKED = 10
# a worker that dies takes its pool with it; so many pools are tried before the rest is given up
_POOLS = 3


@dataclass(frozen=True)
class Settings:
    """How every partition is read and forecast: plain values only, so that they travel to workers."""

    metric: str | None = None
    x: str | None = None
    goal: str | None = None
    run_column: str | None = None
    to: float | None = None  # x to forecast at; None for each run's planned end
    factor: float | None = None  # instead, a multiple of each run's last x
    level: float = 0.8
    estimate: str = "final"
    target: str = "logged"
    method: str = "auto"
    lr_schedule: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Done:
    """A partition that was forecast, or was found to have been; `problem` says why one could not be."""

    source: str
    target: str
    n_runs: int
    n_forecast: int
    reused: bool = False
    problem: str | None = None


def forecast_partitions(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    settings: Settings = Settings(),
    *,
    jobs: int | None = None,
    engine: str = "local",
    quiet: bool = False,
) -> tuple[Done, ...]:
    """Forecast each file of `sources` and write ``out/NAME.parquet``; partitions that were finished before are left alone.

    A table has a row a run and position: run, x (ten positions up to the end that is asked for), low, median and high at the level,
    whether the interval was calibrated on other runs of the partition. Method ``lcpfn`` is the network alone, which
    no other run calibrates.

    Parameters
    ----------
    jobs : worker processes (or Ray actors); default, the processors
    engine : ``local``, or ``ray``: on the cluster of ``ray.init()``, or one started here

    Raises InputError for no files, or two that would be written to one name; MissingExtraError without Ray. A file that cannot be
    read or forecast is reported in its `Done` and stops no other.
    """
    checks.choice("engine", engine, ENGINES)
    workers = checks.count("jobs", jobs if jobs is not None else os.cpu_count() or 1)
    folder = Path(out)
    targets = _targets([Path(s) for s in sources], folder)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(str(source), str(target), settings) for source, target in targets.items()]
    done: dict[str, Done] = {}
    waiting = []
    for task in tasks:
        found = _finished(*task)
        if found is None:
            waiting.append(task)
        else:
            done[task[0]] = found
    run: Callable[[list[Task], int], Iterator[Done]] = _local if engine == "local" else _ray
    with progress("partitions", len(tasks), quiet=quiet) as advance:
        advance(len(done))
        for one in run(waiting, min(workers, max(len(waiting), 1))) if waiting else ():
            done[one.source] = one
            advance(1)
    return tuple(done[task[0]] for task in tasks)


Task = tuple[str, str, Settings]


def forecast_partition(source: str, target: str, settings: Settings) -> Done:
    """Forecast one file and write its table, then the note that it is finished."""
    from farfield.curves.readers import read_runs

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            curves = read_runs(source, **{k: getattr(settings, k) for k in ("metric", "x", "goal", "run_column")})
            frame, n_forecast = _table(curves, settings)
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        write_atomic(target, buffer.getvalue())
        note = {"made_from": _fingerprint(source, settings), "n_runs": len(curves), "n_forecast": n_forecast}
        write_atomic(_note(target), json.dumps(note).encode())
    except FarfieldError as error:
        return Done(source, target, 0, 0, problem=str(error))
    return Done(source, target, len(curves), n_forecast)


def _table(curves: Any, settings: Settings) -> tuple[pl.DataFrame, int]:
    import polars as pl

    from farfield.curves.forecasting import first_status, forecast, horizons
    from farfield.curves.results import ForecastStatus

    to: Any = settings.to if settings.factor is None else settings.factor * curves.last_x
    tail = np.array([(1 - settings.level) / 2, 0.5, (1 + settings.level) / 2])
    if settings.method == "lcpfn":
        from farfield.curves.pfn import LCPFN

        end = horizons(curves, to)
        rows = np.flatnonzero([status is ForecastStatus.CONTINUE for status in first_status(curves, end, to is None)])
        some = curves.take(rows)
        shares = np.arange(1, N_ASKED + 1) / N_ASKED
        at = some.last_x[:, None] + (end[rows] - some.last_x)[:, None] * shares
        q = LCPFN.load("wide").forecast(some, at).quantile(tail) if rows.size else np.empty((3, 0, N_ASKED))
        calibrated = np.zeros(rows.size, dtype=bool)
    else:
        found = forecast(
            curves, to=to, level=settings.level, estimate=settings.estimate, method=settings.method, target=settings.target,  # type: ignore[arg-type]
            lr_schedule=settings.lr_schedule, with_backtest=False, rng=settings.seed,
        )  # fmt: skip
        rows = np.setdiff1d(np.arange(len(curves)), found.refused_index)
        pick = np.unique(np.round(np.linspace(0, found.path_at.shape[1] - 1, N_ASKED)).astype(np.int64))
        at, calibrated = found.path_at[rows][:, pick], found.calibrated[rows]
        q = found.path[rows][:, pick].quantile(tail) if rows.size else np.empty((3, 0, pick.size))
    frame = pl.DataFrame(
        {
            "run": np.repeat(np.array(curves.runs, dtype=object)[rows].astype(str), at.shape[1]),
            "x": at.ravel(),
            **{name: q[k].ravel() for k, name in enumerate(("low", "median", "high"))},
            "calibrated": np.repeat(calibrated, at.shape[1]),
        }
    )
    return frame, int(rows.size)


# -- what is finished ------------------------------------------------------------------------------------------------------------


def _targets(sources: Sequence[Path], folder: Path) -> dict[Path, Path]:
    if not sources:
        raise InputError("no files to forecast; give one or more")
    out: dict[Path, Path] = {}
    taken: dict[str, Path] = {}
    for source in sources:
        if not source.exists():
            raise InputError(f"no file {source}")
        name = f"{source.stem if source.is_file() else source.name}.parquet"
        if name in taken:
            raise InputError(f"{taken[name]} and {source} would both be written to {folder / name}; rename one of them")
        taken[name] = source
        out[source] = folder / name
        if out[source].resolve() == source.resolve():
            raise InputError(f"{source} would be overwritten by its own forecast; choose another folder for -o")
    return out


def _note(target: str) -> str:
    return f"{target}.done"


def _fingerprint(source: str, settings: Settings) -> str:
    """Of the file as it is (names, sizes and times of what a folder holds), the settings and the version."""
    path = Path(source)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    states = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    text = json.dumps([states, dataclasses.asdict(settings), __version__])
    return hashlib.sha256(text.encode()).hexdigest()


def _finished(source: str, target: str, settings: Settings) -> Done | None:
    try:
        note = json.loads(Path(_note(target)).read_text())
        if note["made_from"] == _fingerprint(source, settings) and Path(target).is_file():
            return Done(source, target, int(note["n_runs"]), int(note["n_forecast"]), reused=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


# -- engines ---------------------------------------------------------------------------------------------------------------------


def _local(tasks: list[Task], workers: int) -> Iterator[Done]:
    if workers == 1:
        yield from (forecast_partition(*task) for task in tasks)
        return
    waiting = {task[0]: task for task in tasks}
    # spawned workers start clean; a forked one would inherit threads in an unknown state
    context = multiprocessing.get_context("spawn")
    for _ in range(_POOLS):
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
            futures = [pool.submit(forecast_partition, *task) for task in waiting.values()]
            try:
                for future in as_completed(futures):
                    one = future.result()
                    del waiting[one.source]
                    yield one
            except BrokenProcessPool:
                continue
        break
    for source, target, _ in waiting.values():
        yield Done(
            source, target, 0, 0, problem=f"its worker was killed {_POOLS} times (out of memory?); the other partitions are done"
        )


def _one_thread() -> None:
    """Workers share the processors: one thread each for what they import."""
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"


class _Actor:
    """A Ray actor: imports farfield and loads the network once, then forecasts one partition after another."""

    def __init__(self) -> None:
        from farfield.curves.pfn import LCPFN

        LCPFN.load("wide")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        done = forecast_partition(row["source"], row["target"], Settings(**json.loads(row["settings"])))
        # a column of Ray's tables has one type: no problem is an empty text there
        return {**dataclasses.asdict(done), "problem": done.problem or ""}


def _ray(tasks: list[Task], workers: int) -> Iterator[Done]:
    require("ray", "--engine ray")
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"source": s, "target": t, "settings": json.dumps(dataclasses.asdict(settings))} for s, t, settings in tasks]
    # one block a partition: what a dead actor was at is done again, and nothing else
    found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_Actor, concurrency=workers)
    for row in found.iter_rows():
        yield Done(**{**row, "problem": row["problem"] or None})
