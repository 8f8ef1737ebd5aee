"""Partitions: the same values whoever works, nothing repeated, nothing lost when a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from farfield.cli import cli
from farfield.curves.partitions import Settings, forecast_partitions
from farfield.errors import InputError

SETTINGS = Settings(metric="loss", goal="min", factor=2.0, method="lcpfn")


def write(folder: Path, n_files: int = 3, n_runs: int = 4, points: int = 20) -> list[Path]:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    out = []
    for k in range(n_files):
        steps = np.arange(1.0, points + 1)
        y = 1 + (1 + rng.random((n_runs, 1))) * steps**-0.5 + 0.01 * rng.normal(size=(n_runs, points))
        out.append(folder / f"part{k}.parquet")
        runs = np.repeat([f"{k}-{i}" for i in range(n_runs)], points)
        pl.DataFrame({"run": runs, "step": np.tile(steps, n_runs).astype(int), "loss": y.ravel()}).write_parquet(out[-1])
    return out


def values(folder: Path) -> dict[str, pl.DataFrame]:
    return {p.name: pl.read_parquet(p) for p in sorted(folder.glob("*.parquet"))}


def same(a: Path, b: Path) -> None:
    one, other = values(a), values(b)
    assert one.keys() == other.keys()
    assert one
    for name, frame in one.items():
        assert frame.equals(other[name]), name


@pytest.mark.parametrize("method", ["lcpfn", "pow3"])
def test_processes_and_a_loop_write_the_same_values(tmp_path: Path, method: str) -> None:
    sources = write(tmp_path / "in")
    settings = Settings(metric="loss", goal="min", factor=2.0, method=method)
    done = forecast_partitions(sources, tmp_path / "one", settings, jobs=1)
    forecast_partitions(sources, tmp_path / "two", settings, jobs=2)
    same(tmp_path / "one", tmp_path / "two")
    assert [(d.n_runs, d.n_forecast, d.problem) for d in done] == [(4, 4, None)] * 3
    frame = values(tmp_path / "one")["part0.parquet"]
    assert frame.columns == ["run", "x", "low", "median", "high", "calibrated"]
    assert frame.height == 40
    assert frame["x"].max() == 40.0
    assert ((frame["low"] < frame["median"]) & (frame["median"] < frame["high"])).all()


def test_finished_partitions_are_left_alone_until_something_changes(tmp_path: Path) -> None:
    sources = write(tmp_path / "in")
    out = tmp_path / "out"
    forecast_partitions(sources, out, SETTINGS, jobs=1)
    before = {p: p.stat().st_mtime_ns for p in out.glob("*.parquet")}
    assert all(d.reused for d in forecast_partitions(sources, out, SETTINGS, jobs=1))
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.parquet")} == before
    frame = pl.read_parquet(sources[1]).with_columns(pl.col("loss") + 0.1)
    frame.write_parquet(sources[1])
    (out / "part2.parquet").unlink()
    assert [d.reused for d in forecast_partitions(sources, out, SETTINGS, jobs=1)] == [True, False, False]
    changed = Settings(metric="loss", goal="min", factor=3.0, method="lcpfn")
    assert not any(d.reused for d in forecast_partitions(sources, out, changed, jobs=1))


def test_a_bad_file_stops_no_other(tmp_path: Path) -> None:
    sources = write(tmp_path / "in")
    sources[1].write_bytes(b"not parquet")
    done = forecast_partitions(sources, tmp_path / "out", SETTINGS, jobs=1)
    assert [d.problem is None for d in done] == [True, False, True]
    line = ["forecast", *map(str, sources), "--metric", "loss", "--by", "2x", "--method", "lcpfn", "-o", f"{tmp_path / 'new'}/"]
    result = CliRunner().invoke(cli, [*line, "--jobs", "1"])
    assert isinstance(result.exception, InputError)
    assert "1 of 3 partitions" in str(result.exception)
    assert "part1.parquet" in result.output
    assert len(values(tmp_path / "new")) == 2


def test_killed_workers_and_killed_commands_lose_nothing(tmp_path: Path) -> None:
    sources = write(tmp_path / "in", n_files=6, n_runs=40)
    whole, out = tmp_path / "whole", tmp_path / "out"
    forecast_partitions(sources, whole, SETTINGS, jobs=1)
    code = "import sys\nfrom farfield.cli import main\nsys.exit(main())"
    line = [sys.executable, "-c", f"if __name__ == '__main__':\n    {code.replace(chr(10), chr(10) + '    ')}"]
    line += ["forecast", *map(str, sources), "--metric", "loss", "--goal", "min", "--by", "2x", "--method", "lcpfn"]
    process = subprocess.Popen([*line, "--jobs", "1", "-o", f"{out}/"], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob("*.done")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {p.name for p in out.glob("*.done")}
    again = forecast_partitions(sources, out, SETTINGS, jobs=1)
    assert {f"{Path(d.target).name}.done" for d in again if d.reused} == finished
    same(whole, out)


def test_a_pool_whose_worker_is_killed_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from farfield.curves import partitions

    sources = write(tmp_path / "in")
    forecast_partitions(sources, tmp_path / "whole", SETTINGS, jobs=1)

    class Pool(partitions.ProcessPoolExecutor):
        def submit(self, function: object, *task: object) -> object:  # type: ignore[override]
            marker = Path(str(task[1])).parent / "killed"
            if marker.exists():
                return super().submit(function, *task)  # type: ignore[arg-type]
            marker.touch()
            return super().submit(os._exit, 9)  # the worker dies, as one that the system kills

    monkeypatch.setattr(partitions, "ProcessPoolExecutor", Pool)
    done = forecast_partitions(sources, tmp_path / "out", SETTINGS, jobs=2)
    assert all(d.problem is None for d in done)
    same(tmp_path / "whole", tmp_path / "out")


def descendants(process: int) -> dict[int, str]:
    """Command lines of all processes that a process has started, and these in turn."""
    parents, lines = {}, {}
    for folder in Path("/proc").iterdir():
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except (ValueError, OSError):
            continue
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: lines[child] for child in found - {process}}


@pytest.mark.parametrize(
    ("engine", "worker"), [("local", "spawn_main"), pytest.param("ray", "MapWorker", marks=pytest.mark.extra("ray"))]
)
def test_a_worker_killed_in_the_middle_costs_nothing(tmp_path: Path, engine: str, worker: str) -> None:
    """SIGKILL to a worker process, or to a Ray actor, as Linux lists them: the tables are complete, and those of a plain loop."""
    sources = write(tmp_path / "in", n_files=6, n_runs=30, points=30)
    forecast_partitions(sources, tmp_path / "whole", SETTINGS, jobs=1)
    out = tmp_path / "out"
    line = [sys.executable, "-m", "farfield", "forecast", *map(str, sources), "--metric", "loss", "--goal", "min", "--by", "2x"]
    line += ["--method", "lcpfn", "--jobs", "2", "--engine", engine, "--quiet", "-o", f"{out}/"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not list(out.glob("*.done")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        workers = [child for child, command in descendants(process.pid).items() if worker in command]
        assert workers
        os.kill(workers[0], signal.SIGKILL)
        before = len(list(out.glob("*.done")))
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
    assert before < len(sources)
    assert len(list(out.glob("*.done"))) == len(sources)
    same(tmp_path / "whole", out)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    sources = write(tmp_path / "in")
    other = write(tmp_path / "other")
    with pytest.raises(InputError, match="both be written"):
        forecast_partitions([*sources, other[0]], tmp_path / "out", SETTINGS)
    with pytest.raises(InputError, match="overwritten"):
        forecast_partitions(sources, tmp_path / "in", SETTINGS)
    with pytest.raises(InputError, match="no file"):
        forecast_partitions([tmp_path / "none.parquet"], tmp_path / "out", SETTINGS)
    refused = CliRunner().invoke(cli, ["forecast", str(sources[0]), "--metric", "loss", "--jobs", "2"])
    assert "-o DIR/" in str(refused.exception)


@pytest.mark.extra("ray")
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own deprecated settings and leaves sockets to the collector
def test_ray_writes_the_same_values(tmp_path: Path) -> None:
    import ray

    sources = write(tmp_path / "in")
    forecast_partitions(sources, tmp_path / "one", SETTINGS, jobs=1)
    try:
        done = forecast_partitions(sources, tmp_path / "ray", SETTINGS, jobs=2, engine="ray")
    finally:
        ray.shutdown()
    assert [(d.n_runs, d.n_forecast, d.problem) for d in done] == [(4, 4, None)] * 3
    same(tmp_path / "one", tmp_path / "ray")


def test_the_network_alone_refuses_the_runs_that_every_method_refuses(tmp_path: Path) -> None:
    """A run that diverged and one of two points are left out, with the network as with a form."""
    steps = np.arange(1, 11)
    y = 1 + steps**-0.5
    runs = {"good": y, "diverged": np.where(steps > 8, np.nan, y), "short": y[:2]}
    rows = [
        {"run": name, "step": int(k), "loss": float(v)}
        for name, values in runs.items()
        for k, v in zip(steps, values, strict=False)
    ]
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "mixed.parquet"
    pl.DataFrame(rows).write_parquet(source)
    found = {}
    for method in ("lcpfn", "pow3"):
        settings = Settings(metric="loss", goal="min", factor=2.0, method=method)
        done = forecast_partitions([source], tmp_path / method, settings, jobs=1)
        assert (done[0].n_runs, done[0].problem) == (3, None)
        found[method] = set(pl.read_parquet(tmp_path / method / "mixed.parquet")["run"])
    assert found["lcpfn"] == found["pow3"] == {"good"}
