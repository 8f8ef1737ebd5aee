"""Priors over learning curves: our samplers against that of lcpfn 0.1.3, and how fast the wide prior is.

    OMP_NUM_THREADS=1 python benchmarks/priors.py [--repeats 9] [-o results/bench_priors.json]

Needs lcpfn 0.1.3 (pip install --no-deps lcpfn==0.1.3, beside torch). Both sides draw from the same prior, curves of 100 points with
noise, taking turns in one process; CPU seconds, medians over turns and the median of their ratios. Before anything is timed, mean
and spread of the curves at t = 1, 10 and 100 must agree within Monte Carlo error. Wanted: a ratio of 20.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import farfield
from farfield.curves.priors import DomhanPrior, WidePrior
from farfield.files import write_atomic

HERE = Path(__file__).resolve().parent.parent
AT = [0, 9, 99]
WANTED = 20.0
OURS, THEIRS, CHECK = 20_000, 1_000, 6_000


def published(n: int, rng: np.random.RandomState) -> NDArray[np.float64]:
    """(n, 100) noisy curves, one call a curve, as its users and its training loop draw them."""
    from lcpfn.domhan_prior import sample_from_prior

    return np.stack([sample_from_prior(rng)()[1] for _ in range(n)])


def check() -> None:
    ours, theirs = DomhanPrior().sample(CHECK, 1).y[:, AT], published(CHECK, np.random.RandomState(1))[:, AT]
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / CHECK)
    if (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) > 4 * error).any():
        raise SystemExit(f"means differ: {ours.mean(axis=0)} and {theirs.mean(axis=0)}")
    if (np.abs(ours.std(axis=0) - theirs.std(axis=0)) > 4 * error).any():
        raise SystemExit(f"spreads differ: {ours.std(axis=0)} and {theirs.std(axis=0)}")


def rate(n: int, draw: Callable[[], object]) -> float:
    """Curves a CPU second."""
    started = time.process_time()
    draw()
    return n / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "bench_priors.json")
    options = parser.parse_args()
    check()
    rng = np.random.RandomState(0)
    small = OURS // 128
    rates: dict[str, list[float]] = {"ours": [], "ours, 128 at a time": [], "lcpfn": [], "wide": []}
    for i in range(options.repeats):
        rates["ours"].append(rate(OURS, lambda i=i: DomhanPrior().sample(OURS, i)))
        rates["lcpfn"].append(rate(THEIRS, lambda: published(THEIRS, rng)))
        rates["ours, 128 at a time"].append(rate(128 * small, lambda: [DomhanPrior().sample(128, k) for k in range(small)]))
        rates["wide"].append(rate(OURS // 4, lambda i=i: WidePrior().sample(OURS // 4, i)))
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["lcpfn"], strict=True))
    row = {
        "name": "priors",
        "curves_per_cpu_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratio": ratio,
        "ratio_128_at_a_time": statistics.median(a / b for a, b in zip(rates["ours, 128 at a time"], rates["lcpfn"], strict=True)),
        "wanted_ratio": WANTED,
        "repeats": options.repeats,
        "load_before": os.getloadavg()[0],
        "versions": {"farfield": farfield.__version__, "numpy": np.__version__, "lcpfn": version("lcpfn")},
    }
    write_atomic(options.output, (json.dumps(row, indent=1) + "\n").encode())
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
