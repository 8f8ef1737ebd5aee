"""The broken power law with one break: farfield's fitter against the search that its authors publish.

    FARFIELD_DATA=... OMP_NUM_THREADS=1 python benchmarks/broken_power_law.py [--curves 40] [-o results/bench_broken_power_law.json]

Theirs (Caballero et al. 2022, arXiv 2210.14891): the mean squared error of log(y + 1) on a grid of 163,840 points, then curve_fit
from the best of them. Where that does not end within 20,000 evaluations, or leaves the finite numbers, the grid's best point
stands. Ours: the form `bnsl1`, least squares from the three best cells of its grid, all curves at once; and one at a time. Curves:
simulated ones with a break at 10 to 60 % of what is seen and noise of 1 %, x from 4 to 400, and error rates of LCDB seen to a
quarter. Beyond: root mean squared error of log y (clipped below at 1e-4) over all later points. Both run on one thread, in turns.
Wanted: 20 times the speed, and no more error beyond.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import brute, curve_fit

from farfield import __version__
from farfield.curves.fit import Batch, fit_form
from farfield.curves.forms import FORMS
from farfield.files import write_atomic
from farfield.intervals import cluster_bootstrap_ratio

FloatArray = NDArray[np.float64]
Curve = tuple[FloatArray, FloatArray, int]  # x, y, points seen
GRID = (slice(0, 1, 0.1), slice(0, 40, 2.5), slice(0, 1, 0.25), slice(0, 1, 0.25), slice(0, 40, 2.5), slice(0, 1, 0.25))
WANTED = 20.0


def law(x: FloatArray, a: float, b: float, c0: float, c1: float, d1: float, f1: float) -> FloatArray:
    """The broken power law of one break, as its authors name its parameters."""
    return np.asarray(a + b * x**-c0 * (1 + (x / d1) ** (1 / f1)) ** (-c1 * f1))


def simulated(n: int) -> list[Curve]:
    rng = np.random.default_rng(0)
    out = []
    for _ in range(n):
        x = np.unique(np.geomspace(4, 400, 40).round())
        seen = int(0.6 * x.size)
        place = x[seen - 1] * rng.uniform(0.1, 0.6)
        y = law(
            x,
            rng.uniform(0.05, 0.5),
            rng.uniform(1, 5),
            rng.uniform(0.05, 0.5),
            rng.uniform(-0.2, 1.0),
            place,
            rng.uniform(0.1, 0.5),
        )
        out.append((x, y * np.exp(0.01 * rng.normal(size=x.size)), seen))
    return out


def lcdb(n: int) -> list[Curve]:
    frame = pl.read_csv(Path(os.environ["FARFIELD_DATA"]) / "curves" / "lcdb_accuracy.csv.gz")
    found = []
    for _, rows in frame.group_by(["openmlid", "learner"], maintain_order=True):
        part = rows.sort("size_train")
        x, y = part["size_train"].to_numpy().astype(np.float64), 1.0 - part["test"].to_numpy()
        seen = int((x <= 0.25 * x[-1]).sum())
        if seen >= 8 and seen < x.size and y.min() > 0:
            found.append((x, y, seen))
    return [found[i] for i in np.linspace(0, len(found) - 1, min(n, len(found))).astype(int)]


def theirs(x: FloatArray, y: FloatArray) -> tuple[FloatArray, bool]:
    """(6,) parameters, and whether the refinement ended."""
    goal = np.log(y + 1)

    def cost(p: FloatArray) -> float:
        a, b, c0, c1, d1, f1 = p
        return float(np.mean((np.log(law(x, a, 1.25**b - 0.9, c0, c1, 1.25**d1 - 0.9, f1) + 1) - goal) ** 2))

    a, b, c0, c1, d1, f1 = brute(cost, GRID, finish=None)
    best = np.array([a, 1.25**b - 0.9, c0, c1, 1.25**d1 - 0.9, f1])
    try:
        found, _ = curve_fit(lambda x, *p: np.log(law(x, *p) + 1), x, goal, p0=best, maxfev=20_000)
    except (RuntimeError, ValueError):
        return best, False
    return (found, True) if np.isfinite(law(x, *found)).all() else (best, False)


def padded(curves: list[Curve]) -> Batch:
    out = np.zeros((3, len(curves), max(seen for _, _, seen in curves)))
    for i, (x, y, seen) in enumerate(curves):
        out[:, i, :seen] = x[:seen], y[:seen], np.ones(seen)
    return Batch.from_padded(*out)


def beyond(predicted: FloatArray, curve: Curve) -> float:
    _, y, seen = curve
    value = np.nan_to_num(predicted, nan=1e-4, posinf=1e4, neginf=1e-4)
    return float(np.sqrt(np.mean((np.log(np.maximum(value, 1e-4)) - np.log(y[seen:])) ** 2)))


def compared(curves: list[Curve]) -> dict[str, object]:
    form, errors, seconds, refined = FORMS["bnsl1"], np.zeros((2, len(curves))), np.zeros(2), 0
    start = time.process_time()
    together = fit_form(form, padded(curves))
    seconds_together = time.process_time() - start
    for i, curve in enumerate(curves):
        x, y, seen = curve
        start = time.process_time()
        alone = fit_form(form, padded([curve]))
        seconds[0] += time.process_time() - start
        start = time.process_time()
        found, ended = theirs(x[:seen], y[:seen])
        seconds[1] += time.process_time() - start
        refined += ended
        errors[0, i] = beyond(alone.predict(x[seen:])[0], curve)
        errors[1, i] = beyond(law(x[seen:], *found), curve)
    low, high = cluster_bootstrap_ratio(errors[0], errors[1], rng=0)
    return {
        "curves": len(curves),
        "seconds": {"together": seconds_together, "one at a time": seconds[0], "theirs": seconds[1]},
        "refined": refined,
        "converged": int(together.converged.sum()),
        "speed": {"together": seconds[1] / seconds_together, "one at a time": seconds[1] / seconds[0]},
        "error": {"ours": errors[0].mean(), "theirs": errors[1].mean()},
        "median": {"ours": float(np.median(errors[0])), "theirs": float(np.median(errors[1]))},
        "ratio": {"value": errors[0].mean() / errors[1].mean(), "low": float(low), "high": float(high)},
    }


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, default=root / "results" / "bench_broken_power_law.json")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    sets = {"simulated": simulated(arguments.curves)}
    if os.environ.get("FARFIELD_DATA"):
        sets["lcdb"] = lcdb(arguments.curves)
    versions = {"python": platform.python_version(), "farfield": __version__, "numpy": np.__version__, "scipy": version("scipy")}
    row = {
        "name": "broken_power_law",
        "wanted": WANTED,
        "sets": {name: compared(curves) for name, curves in sets.items()},
        "versions": versions,
    }
    text = json.dumps(row, indent=1)
    write_atomic(arguments.output, (text + "\n").encode())
    print(text)


if __name__ == "__main__":
    main()
