"""What `extrapolation_gap` costs beyond its fits, and what its resampling and its hull gain.

    python benchmarks/gap_overhead.py [bootstrap] [hull] [overhead]

* overhead: 20,000 rows, 10 repeats, 2,000 resamples, against scikit-learn's cross_validate on the very same 60 fits and test rows;
* bootstrap: all resamples as one matrix product, against a loop that draws rows and averages them, in NumPy and in plain Python;
* hull: distance to the convex hull, against one `scipy.optimize.linprog` a point, which finds membership alone.

Rows go to results/bench_gap.json; how often the intervals cover is measured by benchmarks/gap_coverage.py.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from farfield.gap import extrapolation_gap
from farfield.gap.resample import resampled
from farfield.splits import RangeSplit
from farfield.splits.hull import hull_distance

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench_gap.json"


class Mean:
    """Predicts the mean of the target it was fitted on."""

    def fit(self, X: Any, y: Any) -> Mean:
        self.mean = float(np.mean(y))
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.mean)


def overhead(rounds: int = 1) -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.model_selection import cross_validate

    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 10))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + rng.normal(size=20_000)
    split = RangeSplit(0, n_repeats=10, random_state=0)
    ours, theirs = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        found = extrapolation_gap(HistGradientBoostingRegressor(random_state=0), X, y, split=split, n_boot=2000)
        ours.append(time.perf_counter() - start)
        fits = []
        for r in split.regions(X, y):
            fits += [(r.train, np.concatenate([r.inside, r.beyond])), *r.reference]
        start = time.perf_counter()
        scores = cross_validate(HistGradientBoostingRegressor(random_state=0), X, y, cv=fits, scoring="neg_mean_absolute_error")[
            "test_score"
        ]
        theirs.append(time.perf_counter() - start)
    assert found.reference is not None
    reference = -scores.reshape(10, 6)[:, 1:].mean()
    assert abs(reference - found.reference.value) < 1e-9, (reference, found.reference.value)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"fits": len(fits), "ours_s": ours, "cross_validate_s": theirs, "ratio": float(np.median(ratios)), "bar": 1.10}


def bootstrap() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    sums = rng.uniform(1, 2, size=(20_000, 6))

    def loop(draws: int) -> list[Any]:
        out = []
        for _ in range(draws):
            pick = rng.integers(20_000, size=20_000)
            out.append([sums[pick, k].sum() / sums[pick, 3 + k].sum() for k in range(3)])
        return out

    rows = sums.tolist()

    def plain(draws: int) -> list[Any]:
        out = []
        for _ in range(draws):
            some = random.choices(rows, k=20_000)
            out.append([sum(r[k] for r in some) / sum(r[3 + k] for r in some) for k in range(3)])
        return out

    start = time.process_time()
    found = resampled(sums, 2000, rng).ratios
    ours = time.process_time() - start
    start = time.process_time()
    by_loop = np.array(loop(200))
    numpy_loop = (time.process_time() - start) * 10
    start = time.process_time()
    plain(10)
    python_loop = (time.process_time() - start) * 200
    assert np.allclose(found.std(axis=0), by_loop.std(axis=0), rtol=0.25)
    return {
        "ours_s": ours, "numpy_loop_s": numpy_loop, "python_loop_s": python_loop, "over_numpy_loop": numpy_loop / ours,
        "over_python_loop": python_loop / ours, "bar": 20,
    }  # fmt: skip


def hull() -> dict[str, Any]:
    from scipy.optimize import linprog

    out: dict[str, Any] = {"bar": 5}
    for d, n in ((3, 2000), (6, 2000), (10, 2000)):
        rng = np.random.default_rng(d)
        cloud, points = rng.normal(size=(n, d)), rng.normal(size=(200, d))
        start = time.perf_counter()
        distance = hull_distance(points, cloud)
        ours = time.perf_counter() - start
        constraints = np.vstack([cloud.T, np.ones(n)])
        start = time.perf_counter()
        inside = [linprog(np.zeros(n), A_eq=constraints, b_eq=[*p, 1.0], method="highs").status == 0 for p in points[:60]]
        theirs = (time.perf_counter() - start) * 200 / 60
        assert ((distance[:60] == 0) == np.array(inside)).all()
        out[f"d{d}"] = {"n": n, "points": 200, "outside": int((distance > 0).sum()), "ours_s": ours, "linprog_s": theirs,
                        "ratio": theirs / ours}  # fmt: skip
    return out


PARTS = {"bootstrap": bootstrap, "hull": hull, "overhead": overhead}


def main() -> None:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in sys.argv[1:] or PARTS:
        rows[name] = PARTS[name]()
        print(name, json.dumps(rows[name], indent=2))
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
