"""Entropic transport of many mixtures to one target: farfield.transport against POT, accuracy, time and size on disk.

    OMP_NUM_THREADS=1 python benchmarks/transport.py [--repeats 5] [-o results/bench_transport.json]

66 mixtures over 300 points against 300 others in 20 dimensions, at an eps of 5 % and of 1 % of the mean cost, stopped at an error
of 1e-6. POT solves one at a time, by its log-domain solver and by its faster one without safeguards; both sides take turns. The
transport costs must agree to 1e-5 before anything is timed: values and potentials, which POT gives with the plan. Needs POT
(pip install POT), which is no dependency of farfield.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import ot  # type: ignore[import-not-found]

from farfield import __version__, transport
from farfield.files import write_atomic

POINTS, DIMENSIONS, MIXTURES, AT_PEER = 300, 20, 66, 6


def measure(share: float, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    cost = transport.squared_distances(rng.normal(size=(POINTS, DIMENSIONS)), rng.normal(size=(POINTS, DIMENSIONS)) + 0.3)
    eps = share * float(cost.mean())
    weights, equal = rng.dirichlet(np.ones(POINTS), MIXTURES), np.full(POINTS, 1 / POINTS)

    def solve() -> transport.Transport:
        return transport.sinkhorn(cost, weights, eps=eps, tol=1e-6, max_iter=20_000)

    def peer(method: str) -> list[float]:
        plans = (ot.sinkhorn(w, equal, cost, eps, method=method, stopThr=1e-6, numItermax=20_000) for w in weights[:AT_PEER])
        return [float((plan * cost).sum()) for plan in plans]

    sides: dict[str, tuple[Callable[[], object], int]] = {
        "ours": (solve, MIXTURES),
        "pot_log": (lambda: peer("sinkhorn_log"), AT_PEER),
        "pot_kernel": (lambda: peer("sinkhorn"), AT_PEER),
    }
    found = {"ours": solve().sharp.tolist(), "pot_log": peer("sinkhorn_log"), "pot_kernel": peer("sinkhorn")}
    differs = max(abs(a - b) / b for name in sides for a, b in zip(found["ours"], found[name], strict=False))
    if differs > 1e-5:
        raise SystemExit(f"the transport costs differ by {differs:.3g} relative")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, (run, count) in sides.items():
            begin = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - begin) / count)
    return {
        "name": f"transport_{share:g}",
        "eps_share": share,
        **{f"{name}_ms": 1000 * statistics.median(values) for name, values in seconds.items()},
        **{
            f"ratio_{name}": statistics.median(p / o for o, p in zip(seconds["ours"], seconds[name], strict=True))
            for name in ("pot_log", "pot_kernel")
        },
        "relative_difference": differs,
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    rows = [measure(share, args.repeats) for share in (0.05, 0.01)]
    size = sum(p.stat().st_size for p in Path(ot.__file__).parent.rglob("*") if p.is_file()) / 2**20
    answer = {
        "rows": rows,
        "pot_mib_on_disk": round(size),
        "versions": {
            "farfield": __version__,
            "POT": version("POT"),
            "numpy": version("numpy"),
            "python": platform.python_version(),
        },
    }
    text = json.dumps(answer, indent=1) + "\n"
    if args.out:
        write_atomic(args.out, text.encode())
    print(text, end="")


if __name__ == "__main__":
    main()
