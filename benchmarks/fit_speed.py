"""Fitting curve forms to many curves: farfield's batched fitter against a loop of SciPy's curve_fit, in one process, taking turns.

    OMP_NUM_THREADS=1 python benchmarks/fit_speed.py [--curves 500] [--every 5] [--forms pow3,exp3] [-o FILE]

Both fit the same forms in the same boxes from the same three starts a curve, keep the best of the three, and run on one
thread. The loop is handed the starts, linear coefficients included; farfield's time includes finding them. A loop's time grows
with the number of curves and nothing else, so the loops run on every fifth curve and their time is scaled up. Three loops:

- `peer`: curve_fit with the form's box, derivatives by finite differences (its default);
- `peer_jac`: the same with the form's analytic Jacobian, evaluated together with the values and kept;
- `peer_lm`: MINPACK's Levenberg-Marquardt with that Jacobian and no box: faster, but parameters may run away.

Before any ratio is reported: on what share of the curves is farfield's cost at most that of the better of the two loops in the
box (within 1e-6), and on what share is theirs at most farfield's. Wanted: the first not below the second, and 20 times the
speed of `peer`. Curves: synthetic sums of two power laws with noise, 50 points each; and, where `$FARFIELD_DATA` is set, error
rates of the learning-curve database LCDB up to a quarter of the largest training set. A form is fitted to the curves that have
more points than it has parameters. Each call appends one row to the output.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from farfield import __version__
from farfield.curves.fit import Batch, best_cells, fit_form
from farfield.curves.forms import FORMS, Form
from farfield.files import write_atomic
from farfield.leastsquares import project

FloatArray = NDArray[np.float64]
WANTED = 20.0
TOLERANCE = 1e-6
N_STARTS = 3
ROUNDS = 5
SETS = {"synthetic": "synthetic curves of 50 points", "lcdb": "curves of LCDB up to a quarter of their size"}
DEFAULT_FORMS = "pow2,pow3,pow4,exp2,exp3,exp4,mmf,logpower,ilog2,loglin,loglog,vapour,m3,m4,bnsl1"


def synthetic(n: int) -> Batch:
    """Sums of two power laws, with noise, 50 points each at steps of their own."""
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.uniform(0.5, 1.5, (n, 50)), axis=1) * 100
    u = x / x[:, -1:]
    share, powers = rng.uniform(0, 1, (n, 1)), rng.uniform(0.1, 1.2, (2, n, 1))
    y = rng.uniform(0.2, 1, (n, 1)) + rng.uniform(0.1, 1, (n, 1)) * (share * u ** -powers[0] + (1 - share) * u ** -powers[1])
    y += rng.uniform(0.002, 0.03, (n, 1)) * rng.normal(size=y.shape)
    return Batch.from_padded(x, y, np.ones_like(x))


def lcdb(n: int) -> Batch | None:
    """Error rates on anchors up to a quarter of the largest, of `n` curves spread over the database; None without the data."""
    folder = os.environ.get("FARFIELD_DATA")
    if not folder:
        return None
    frame = pl.read_csv(Path(folder) / "curves" / "lcdb_accuracy.csv.gz")
    curves = []
    for _, rows in frame.group_by(["openmlid", "learner"], maintain_order=True):
        part = rows.sort("size_train")
        x, y = part["size_train"].to_numpy().astype(np.float64), 1.0 - part["test"].to_numpy()
        seen = x <= 0.25 * x[-1]
        if len(x) >= 10 and seen.sum() >= 4:
            curves.append((x[seen], y[seen]))
    curves = [curves[i] for i in np.linspace(0, len(curves) - 1, min(n, len(curves))).astype(int)]
    padded = np.zeros((3, len(curves), max(len(x) for x, _ in curves)))
    for i, (x, y) in enumerate(curves):
        padded[:, i, : len(x)] = x, y, np.ones_like(x)
    return Batch.from_padded(*padded)


@dataclass
class Peer:
    """The form as curve_fit wants it: f(x, *p) and its Jacobian, the last evaluation kept for whichever asks second."""

    form: Form
    last: tuple[bytes, FloatArray, list[FloatArray]] | None = None

    def evaluate(self, u: FloatArray, p: tuple[float, ...]) -> tuple[FloatArray, list[FloatArray]]:
        theta = np.array(p[: len(self.form.parameters)])[:, None]
        key = theta.tobytes()
        if self.last is None or self.last[0] != key:
            self.last = (key, *self.form.shape(u, theta))
        return self.last[1:]

    def value(self, u: FloatArray, *p: float) -> FloatArray:
        g, _ = self.evaluate(u, p)
        return p[-1] * g + p[-2] if self.form.offset else p[-1] * g

    def jacobian(self, u: FloatArray, *p: float) -> FloatArray:
        g, dg = self.evaluate(u, p)
        ones = [np.ones_like(g)] if self.form.offset else []
        return np.stack([*(p[-1] * d for d in dg), *ones, g], axis=1)


def loop(form: Form, u: FloatArray, y: FloatArray, length: NDArray[np.int64], starts: FloatArray, kind: str) -> FloatArray:
    """Costs of the best of `starts` (n, k, parameters) for every curve, one curve_fit after another."""
    options: dict[str, object] = {} if kind == "peer" else {"jac": True}
    if kind != "peer_lm":
        free = np.full(1 + form.offset, np.inf)
        options["bounds"] = (np.concatenate([form.lower, -free]), np.concatenate([form.upper, free]))
    cost = np.full(len(u), np.inf)
    for i, n in enumerate(length):
        for start in starts[i]:
            peer = Peer(form)  # a new curve: nothing is kept
            if "jac" in options:
                options["jac"] = peer.jacobian
            x, target = u[i, :n], y[i, :n]
            try:
                found, _ = curve_fit(peer.value, x, target, p0=start, **options)
            except RuntimeError:  # not converged within its limit of evaluations
                continue
            residual = peer.value(x, *found) - target
            cost[i] = np.fmin(cost[i], 0.5 * residual @ residual)
    return cost


def start_vectors(form: Form, u: FloatArray, y: FloatArray, weight: FloatArray) -> FloatArray:
    """The cells that fit_form starts from, with their linear coefficients: (n, k, parameters in all), inside the box."""
    theta = best_cells(form, u, y, weight, N_STARTS)
    parts = [np.concatenate([t, project(form.basis(u, t)[0], y, weight)[0]], axis=1) for t in np.swapaxes(theta, 0, 1)]
    return np.stack(parts, axis=1)


def measure(form: Form, batch: Batch, every: int) -> dict[str, float | int]:
    batch = batch.take(np.flatnonzero(batch.count > form.n_parameters))
    u = batch.units(form, batch.x)
    looped = np.arange(0, len(batch), every)
    starts = start_vectors(form, u, batch.y, batch.weight)
    costs = {kind: np.full(len(batch), np.inf) for kind in ("peer", "peer_jac", "peer_lm")}
    seconds = dict.fromkeys(costs, 0.0)
    ours = fit_form(form, batch, n_starts=N_STARTS)
    times = []
    for part in np.array_split(looped, ROUNDS):  # ours on all curves, then each loop on the next of its own
        times.append(_seconds(lambda: fit_form(form, batch, n_starts=N_STARTS)))
        for kind in seconds:

            def work(kind: str = kind, part: NDArray[np.int64] = part) -> None:
                costs[kind][part] = loop(form, u[part], batch.y[part], batch.count[part], starts[part], kind)

            seconds[kind] += _seconds(work) * len(batch) / looped.size
    # constant curves leave rounding alone, which no one wins by
    rounding = 1e-28 * np.einsum("bn,bn->b", batch.y[looped], batch.y[looped])
    best, mine, unboxed = np.minimum(costs["peer"], costs["peer_jac"])[looped], ours.cost[looped], costs["peer_lm"][looped]
    ours_s = statistics.median(times)
    return {
        "n": len(batch),
        "n_compared": looped.size,
        "converged": float(ours.converged.mean()),
        "equal_or_better": float(np.mean(mine <= best * (1 + TOLERANCE) + rounding)),
        "peer_equal_or_better": float(np.mean(best <= mine * (1 + TOLERANCE) + rounding)),
        "peer_lm_equal_or_better": float(np.mean(unboxed <= mine * (1 + TOLERANCE) + rounding)),
        "ours_s": ours_s,
        **{f"{kind}_s": value for kind, value in seconds.items()},
        "ratio": seconds["peer"] / ours_s,
        "ratio_jac": seconds["peer_jac"] / ours_s,
        "ratio_lm": seconds["peer_lm"] / ours_s,
    }


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def summary(rows: dict[str, dict[str, float | int]]) -> dict[str, float]:
    """Over all forms: times added up, shares averaged over fits."""
    total = {key: sum(float(r[key]) for r in rows.values()) for key in ("ours_s", "peer_s", "peer_jac_s", "peer_lm_s")}
    weight = np.array([r["n_compared"] for r in rows.values()], dtype=np.float64)
    shares = {
        key: float(np.average([float(r[key]) for r in rows.values()], weights=weight))
        for key in ("equal_or_better", "peer_equal_or_better")
    }
    ratios = {f"ratio{kind}": total[f"peer{kind}_s"] / total["ours_s"] for kind in ("", "_jac", "_lm")}
    return {"compared": float(weight.sum()), **shares, **total, **ratios}


def table(row: dict[str, Any]) -> list[dict[str, object]]:
    """What a page shows of a row: on each set all forms together, and the form that gains least."""
    out: list[dict[str, object]] = []
    for name, curves in SETS.items():
        if name in row:
            forms = row[name]["forms"]
            least = min(forms, key=lambda f: float(forms[f]["ratio"]))
            for label, r in ((f"{len(forms)} forms", row[name]), (f"{least}, which gains least", forms[least])):
                shares = {"as_good": r["equal_or_better"], "peer_as_good": r["peer_equal_or_better"]}
                out.append({"form": label, "curves": f"{row['curves']} {curves}", **shares, "ratio": r["ratio"]})
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=int, default=500)
    parser.add_argument("--forms", default=DEFAULT_FORMS)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("-o", "--output", default="results/bench_fit_speed.json")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("set OMP_NUM_THREADS=1: both sides run on one thread")
    # the loops step where forms overflow, and say so; what counts is what they return
    np.seterr(all="ignore")
    warnings.simplefilter("ignore", OptimizeWarning)
    sets = {"synthetic": synthetic(arguments.curves), "lcdb": lcdb(arguments.curves)}
    row: dict[str, Any] = {"name": "fit_speed", "wanted": WANTED, "curves": arguments.curves}
    row |= {"every": arguments.every, "starts": N_STARTS}
    good = True
    for name, batch in sets.items():
        if batch is None:
            print(f"{name}: not run, FARFIELD_DATA is not set")
            continue
        forms = {}
        for form in arguments.forms.split(","):
            forms[form] = r = measure(FORMS[form], batch, arguments.every)
            as_good = f"as good on {r['equal_or_better']:.3f}, peer on {r['peer_equal_or_better']:.3f}"
            times = f"ours {r['ours_s']:.3f} s, x{r['ratio']:.0f}, Jacobian x{r['ratio_jac']:.0f}, no box x{r['ratio_lm']:.0f}"
            print(f"{name} {form:9s} {r['n']} curves: {as_good}; {times}", flush=True)
        overall = summary(forms)
        good &= overall["ratio"] >= WANTED and overall["equal_or_better"] >= overall["peer_equal_or_better"]
        print(f"{name} {'all':9s} " + ", ".join(f"{key} {value:.4g}" for key, value in overall.items()))
        row[name] = {**overall, "forms": forms}
    versions = {p: version(p) for p in ("numpy", "scipy")}
    row["rows"] = table(row)
    row["versions"] = {"python": platform.python_version(), "farfield": __version__, **versions}
    output = Path(arguments.output)
    rows = json.loads(output.read_text()) if output.exists() else []
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, (json.dumps([*rows, row], indent=2) + "\n").encode())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
