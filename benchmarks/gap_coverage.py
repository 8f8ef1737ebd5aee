"""How often the intervals of a gap hold what is true: 1,000 data sets a design, linear learners, answers known.

    python benchmarks/gap_coverage.py [row group default repeated grouped foretold] [--trials 1000] [--truth 4000]
                                      [--seed 7] [--straight]

Data: y = x + x^2 + z / 2 + noise, louder where x is large; x lies below 0.8 for the 400 rows seen, above it for the 100 beyond. In
the designs by group four rows share an effect. Learners: the mean, least squares, ridge with most of the slope shrunk away; squared
error. What a fitted model loses on new rows is an integral over x and z (a quadrature that is exact for it). With one repeat the
intervals are about the models as fitted, so the truth of each trial is that integral for its own fits; with several they are about
the learner, and the truth is the mean of the integral over the fits of `--truth` further data sets.

With `--straight` the square is left out: least squares then loses next to nothing by not having seen what lies beyond.

Covered are gap, difficulty, extrapolation and the three scores of each learner, and the differences between learners that `compare`
gives. The part `foretold` asks how often the interval that `gap_check` gives holds the mean error of 200 new rows: of least squares
on a straight line, and of five nearest neighbours on a parabola, the new rows 0, 1 and 2 standard deviations away.
Rows go to results/bench_gap_coverage.json.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from farfield.gap import compare, extrapolation_gap
from farfield.gap.check import gap_check
from farfield.gap.estimates import weights_of
from farfield.intervals import wilson
from farfield.splits import RangeSplit

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench_gap_coverage.json"
DESIGNS = {"row": (1, 1), "group": (1, 4), "default": (5, 1), "repeated": (10, 1), "grouped": (10, 4)}  # repeats, rows a group
SEEN, BEYOND, EDGE = 400, 100, 0.8
SHARED = 0.4  # standard deviation of a group's effect
NOISE = 0.5
BEND = 1.0
SEED = 7
QUANTITIES = ("inside", "reference", "beyond", "gap", "difficulty", "extrapolation")


class Linear:
    """Ridge regression on some columns and a constant, by the normal equations."""

    def __init__(self, columns: tuple[int, ...], penalty: float = 0.0) -> None:
        self.columns, self.penalty = columns, penalty

    def design(self, X: Any) -> Any:
        return np.column_stack([np.ones(len(X)), *(X[:, c] for c in self.columns)])

    def fit(self, X: Any, y: Any) -> Linear:
        A = self.design(X)
        penalty = np.diag([0.0] + [self.penalty] * len(self.columns))
        self.weights = np.linalg.solve(A.T @ A + penalty, A.T @ y)
        return self

    def predict(self, X: Any) -> Any:
        return self.design(X) @ self.weights


LEARNERS = {"line": Linear((0, 1)), "ridge": Linear((0, 1), 60.0), "mean": Linear(())}


def signal(x: Any, z: Any) -> Any:
    return x + BEND * x**2 + z / 2


def loudness(x: Any) -> Any:
    return NOISE * (0.5 + x)


def draw(rng: np.random.Generator, size: int) -> tuple[Any, Any, Any]:
    x = np.r_[rng.uniform(0, EDGE, SEEN), rng.uniform(EDGE, 1, BEYOND)]
    z = rng.uniform(-1, 1, x.size)
    groups = np.arange(x.size) // size
    y = signal(x, z) + loudness(x) * rng.normal(size=x.size)
    if size > 1:
        y += SHARED * rng.normal(size=groups.max() + 1)[groups]
    return np.column_stack([x, z]), y, groups if size > 1 else None


def quadrature() -> list[tuple[Any, Any, float]]:
    """For the rows seen and those beyond: nodes, weights, and the noise's mean square."""
    u, v = np.polynomial.legendre.leggauss(6)
    out = []
    for low, high in ((0.0, EDGE), (EDGE, 1.0)):
        x = low + (high - low) * (u + 1) / 2
        nodes = np.column_stack([np.repeat(x, u.size), np.tile(u, u.size)])
        out.append((nodes, np.outer(v, v).ravel() / 4, float(loudness(x) ** 2 @ v / 2)))
    return out


def known(model: Linear, side: tuple[Any, Any, float], size: int) -> float:
    """The fitted model's mean square on new rows of that side."""
    nodes, weights, noise = side
    return float((model.predict(nodes) - signal(*nodes.T)) ** 2 @ weights + noise + (SHARED**2 if size > 1 else 0.0))


def losses(learner: Linear, X: Any, y: Any, regions: list[Any], size: int) -> Any:
    """(3,) what the fits of these regions lose inside, as references, and beyond."""
    inside, beyond = quadrature()
    found = []
    for r in regions:
        model = Linear(learner.columns, learner.penalty).fit(X[r.train], y[r.train])
        others = [known(Linear(learner.columns, learner.penalty).fit(X[f], y[f]), beyond, size) for f, _ in r.reference]
        sizes = [score.size for _, score in r.reference]
        found.append([known(model, inside, size), np.average(others, weights=sizes), known(model, beyond, size)])
    return np.mean(found, axis=0)


def one_design(design: str, n_trials: int, n_truth: int, seed: int) -> dict[str, Any]:
    repeats, size = DESIGNS[design]
    rng = np.random.default_rng(seed)
    weights = weights_of(lower_is_better=True)
    truth: dict[str, Any] = {}
    if repeats > 1:
        total = {name: np.zeros(3) for name in LEARNERS}
        for _ in range(n_truth):
            X, y, groups = draw(rng, size)
            split = RangeSplit(0, threshold=EDGE, n_repeats=1, random_state=int(rng.integers(2**31)))
            regions = list(split.regions(X, y, groups))
            for name, learner in LEARNERS.items():
                total[name] += losses(learner, X, y, regions, size)
        truth = {name: t / n_truth for name, t in total.items()}
    hits: dict[str, int] = {}
    asked: dict[str, int] = {}
    widths: dict[str, float] = {}
    for _ in range(n_trials):
        X, y, groups = draw(rng, size)
        split = RangeSplit(0, threshold=EDGE, n_repeats=repeats, random_state=int(rng.integers(2**31)))
        draws = int(rng.integers(2**31))
        if repeats == 1:
            regions = list(split.regions(X, y, groups))
            truth = {name: losses(learner, X, y, regions, size) for name, learner in LEARNERS.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = {
                name: extrapolation_gap(
                    learner, X, y, split=split, scoring="mse", groups=groups, n_boot=600, rng=draws, name=name
                )
                for name, learner in LEARNERS.items()
            }  # fmt: skip
            compared = compare(results)
        found = [(name, q, getattr(r, q), truth[name] @ weights[q]) for name, r in results.items() for q in QUANTITIES]
        best, order = compared.selected, list(LEARNERS)
        for m, q, e in compared.differences:
            known_difference = (truth[m] - truth[best]) @ weights[q]
            if order.index(m) > order.index(best):
                found.append((f"{m} minus {best}", q, e, known_difference))
            else:  # rarely another one is selected: the same difference the other way round
                found.append((f"{best} minus {m}", q, e._replace(low=-e.high, high=-e.low), -known_difference))
        for name, q, e, true in found:
            key = f"{name}, {q}"
            asked[key] = asked.get(key, 0) + 1
            hits[key] = hits.get(key, 0) + int(e.low <= true <= e.high)
            widths[key] = widths.get(key, 0.0) + e.high - e.low
    out: dict[str, Any] = {"repeats": repeats, "rows_a_unit": size, "trials": n_trials, "covers": {}}
    if repeats > 1:
        out["truth"] = {name: dict(zip(("inside", "reference", "beyond"), t.tolist(), strict=True)) for name, t in truth.items()}
    for key, k in hits.items():
        n = asked[key]
        low, high = wilson(k, n)
        out["covers"][key] = {"value": k / n, "low": float(low), "high": float(high), "width": widths[key] / n, "trials": n}
    return out


class Neighbours:
    """The mean target of the five nearest rows."""

    def fit(self, X: Any, y: Any) -> Neighbours:
        self.tree_, self.y_ = cKDTree(X), y
        return self

    def predict(self, X: Any) -> Any:
        return self.y_[self.tree_.query(X, k=5)[1]].mean(axis=1)


def foretold(n_trials: int) -> dict[str, Any]:
    out: dict[str, Any] = {"trials": n_trials, "covers": {}}
    for name, learner, bend in (("line on a line", Linear((0, 1)), 0.0), ("neighbours on a parabola", Neighbours(), 0.3)):
        for shift in (0.0, 1.0, 2.0):
            hits = 0
            for trial in range(n_trials):
                rng = np.random.default_rng([trial, int(10 * shift)])
                seen, new = rng.normal(size=(400, 2)), rng.normal(size=(200, 2)) + np.array([shift, 0.0])
                y, truth = (v[:, 0] + bend * v[:, 0] ** 2 + NOISE * rng.normal(size=len(v)) for v in (seen, new))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = gap_check(learner, seen, y, new, n_boot=600, rng=trial)
                ok = np.array([s != "unsupported" for s in found.status])
                assert found.expected is not None
                assert found.answers is not None
                error = np.abs(found.answers - truth)[ok].mean()
                hits += found.expected.low <= error <= found.expected.high
            low, high = wilson(hits, n_trials)
            key = f"{name}, {shift:g} standard deviations away"
            out["covers"][key] = {"value": hits / n_trials, "low": float(low), "high": float(high)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("designs", nargs="*", default=[], metavar="PART")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--truth", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--straight", action="store_true")
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    asked = parser.parse_args()
    if asked.straight:
        global BEND
        BEND = 0.0
    of = (f", seed {asked.seed}" if asked.seed != SEED else "") + (", straight" if asked.straight else "")
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"nominal": 0.95, "allowed": [0.92, 0.98]}
    for design in asked.designs or [*DESIGNS, "foretold"]:
        start = time.process_time()
        if design == "foretold":
            found = foretold(asked.trials)
        else:
            design += of
            found = one_design(design.partition(",")[0], asked.trials, asked.truth, asked.seed)
        rows[design] = found
        print(f"{design}: {time.process_time() - start:.0f} s")
        for key, c in found["covers"].items():
            print(f"  {key:50s} {c['value']:.3f} [{c['low']:.3f}, {c['high']:.3f}]")
        if not asked.dry:
            RESULTS.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
