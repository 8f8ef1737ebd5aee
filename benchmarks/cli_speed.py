"""How long the command line takes: start, the example runs, and ten thousand curves from Parquet to Parquet.

    python benchmarks/cli_speed.py

Whole processes, medians of repeated runs after one that is not counted; peak memory from the operating system. The row goes
to results/bench_cli_speed.json.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

import farfield

HERE = Path(__file__).resolve().parent.parent


def seconds(arguments: list[str], repeats: int) -> float:
    command = [sys.executable, "-m", "farfield", *arguments]
    taken = []
    for i in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=HERE)
        if i:
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def many_curves(path: Path, n: int = 10_000, points: int = 50) -> None:
    """Power laws with noise, `n` runs of `points` steps each."""
    rng = np.random.default_rng(0)
    x = np.arange(1, points + 1)
    floor, size, rate = rng.uniform(0.1, 0.5, n), rng.uniform(0.5, 2, n), rng.uniform(0.2, 1.2, n)
    y = floor[:, None] + size[:, None] * x ** -rate[:, None] + 0.01 * rng.normal(size=(n, points))
    runs = np.repeat([f"run {i}" for i in range(n)], points)
    pl.DataFrame({"run": runs, "step": np.tile(x, n), "val_loss": y.ravel()}).write_parquet(path)


def main() -> None:
    row: dict[str, object] = {
        "name": "cli_speed",
        "version_s": seconds(["--version"], 9),
        "help_s": seconds(["--help"], 9),
        "papers_list_s": seconds(["papers", "list"], 5),
        "papers_search_s": seconds(["papers", "search", "how long will this run take to converge"], 5),
        "forecast_examples_s": seconds(["forecast", "examples/runs", "--metric", "val_loss"], 5),
    }
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "curves.parquet", Path(folder) / "forecasts.parquet"
        many_curves(source)
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "farfield", "forecast", str(source), "--to", "200", "-o", str(out), "--quiet"], check=True
        )
        row["curves_10000_s"] = time.perf_counter() - started
        row["curves_10000_peak_gib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        row["curves_10000_rows"] = pl.read_parquet(out).height
    row["cores"] = os.cpu_count()
    row["load_before"] = os.getloadavg()[0]
    row["versions"] = {"farfield": farfield.__version__, "numpy": np.__version__, "polars": pl.__version__}
    (HERE / "results" / "bench_cli_speed.json").write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
