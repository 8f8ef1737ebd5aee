"""FID: the Frechet distance against SciPy's sqrtm in speed, and its limit against the truth on features with a known answer.

    OMP_NUM_THREADS=1 python benchmarks/fid.py [--width 2048] [--repeats 5] [--pools 300] [-o results/bench_fid.json]

Speed: both sides compute the distance from the same means and covariances, single thread, taking turns; the distances must agree to
1e-8 relative before anything is timed, for full covariances and, against the covariances of the same rows, for fewer rows than
features. Wanted: a median ratio of 10.

Accuracy: pools of 5,000 features of width 64, fake and real, from distributions whose means and covariances are known: Gaussian,
and with heavy tails multivariate t with 10 and with 6 degrees of freedom (marginal excess kurtosis 1 and 3). Wanted: the mean
absolute error of the limit at most a fifth of that of the plain distance, and 75 to 85 % of nominal 80 % intervals holding the
truth.

Each call replaces the rows of the output that it measures, told apart by name and width, and keeps the others: --pools 0 measures
speed alone, --repeats 0 accuracy alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from farfield import __version__
from farfield.curves.features import Moments, moments
from farfield.curves.image_scores import fid, fid_infinity, frechet
from farfield.files import write_atomic
from farfield.intervals import wilson

FloatArray = NDArray[np.float64]
WANTED_RATIO, WANTED_ERROR, WANTED_COVER = 10.0, 0.2, (0.75, 0.85)
POOL, WIDTH = 5000, 64


def by_sqrtm(first: Moments, second: Moments) -> float:
    """As published implementations do: the square root of the product, its real part's trace."""
    one, two = first.dense_cov(), second.dense_cov()
    root = np.real(linalg.sqrtm(one @ two))
    return float(((first.mean - second.mean) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * np.trace(root))


def inception_like(rng: np.random.Generator, n: int, d: int, shift: float) -> FloatArray:
    """Features with a spectrum that falls over four decades, as those of networks do."""
    return np.asarray(rng.normal(size=(n, d)) * np.exp(-np.linspace(0, 4.6, d)) + shift)


def speed(width: int, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    first = moments("fake", inception_like(rng, 2 * width + 904, width, 0.01))
    second = moments("reference", inception_like(rng, 2 * width + 1904, width, 0.0))
    values = {"ours": frechet(first, second), "scipy": by_sqrtm(first, second)}
    differs = abs(values["ours"] - values["scipy"]) / values["scipy"]
    few, rest = inception_like(rng, 200, width, 0.3), inception_like(rng, 300, width, 0.0)
    exact = fid(few, rest)
    covered = [Moments(len(rows), rows.mean(0), cov=np.cov(rows.T)) for rows in (few, rest)]
    differs_few = abs(exact - _reference(*covered)) / exact
    if max(differs, differs_few) > 1e-8:
        raise SystemExit(f"the distances differ: {differs:.3g} relative, with few rows {differs_few:.3g}")
    seconds: dict[str, list[float]] = {"ours": [], "scipy": []}
    for i in range(repeats):
        turns: list[tuple[str, Callable[[Moments, Moments], float]]] = [("ours", frechet), ("scipy", by_sqrtm)]
        for name, run in turns if i % 2 == 0 else turns[::-1]:
            gc.collect()
            begin = time.perf_counter()
            run(first, second)
            seconds[name].append(time.perf_counter() - begin)
    ratios = [p / o for o, p in zip(seconds["ours"], seconds["scipy"], strict=True)]
    return {
        "name": "fid_speed",
        "width": width,
        "ours_s": statistics.median(seconds["ours"]),
        "peer_s": statistics.median(seconds["scipy"]),
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "relative_difference": differs,
        "relative_difference_few_rows": differs_few,
        "wanted": WANTED_RATIO,
        "repeats": repeats,
    }


def _reference(first: Moments, second: Moments) -> float:
    """The distance of singular covariances, slowly: singular values of the product of symmetric roots."""
    roots = []
    for cov in (first.dense_cov(), second.dense_cov()):
        values, vectors = np.linalg.eigh(cov)
        roots.append(vectors * np.sqrt(np.where(values > len(values) * np.finfo(float).eps * values[-1], values, 0)) @ vectors.T)
    trace = np.trace(first.dense_cov()) + np.trace(second.dense_cov())
    return float(((first.mean - second.mean) ** 2).sum() + trace - 2 * linalg.svdvals(roots[0] @ roots[1]).sum())


def draw(rng: np.random.Generator, degrees: float, scale: FloatArray, shift: float) -> FloatArray:
    """A pool with mean `shift` and standard deviations `scale`, Gaussian or multivariate t."""
    z = rng.normal(size=(POOL, WIDTH))
    if np.isfinite(degrees):
        z *= np.sqrt((degrees - 2) / rng.chisquare(degrees, POOL))[:, None]
    return np.asarray(z * scale + shift)


def accuracy(name: str, degrees: float, same: bool, pools: int) -> dict[str, Any]:
    real = np.exp(-np.linspace(0, 1, WIDTH))
    fake, shift = (real, 0.0) if same else (real * np.linspace(0.9, 1.15, WIDTH), 0.04)
    truth = float(((fake - real) ** 2).sum() + WIDTH * shift**2)
    rng = np.random.default_rng(1)
    plain, errors, spread, inside = [], [], [], 0
    for _ in range(pools):
        found = fid_infinity(draw(rng, degrees, fake, shift), draw(rng, degrees, real, 0.0), level=0.8, rng=rng)
        low, high = found.interval
        plain.append(found.score - truth)
        errors.append(found.estimate - truth)
        spread.append(found.error)
        inside += low <= truth <= high
    at_fault, at_limit = float(np.abs(plain).mean()), float(np.abs(errors).mean())
    return {
        "name": f"fid_infinity {name}",
        "truth": truth,
        "pools": pools,
        "error_plain": at_fault,
        "error_limit": at_limit,
        "error_ratio": at_limit / at_fault,
        "bias_limit": float(np.mean(errors)),
        "sd_limit": float(np.std(errors)),
        "median_standard_error": float(np.median(spread)),
        "covered": inside / pools,
        "covered_95": [float(end) for end in wilson(inside, pools)],
        "wanted": {"error_ratio": WANTED_ERROR, "covered": WANTED_COVER},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pools", type=int, default=300)
    parser.add_argument("-o", "--output", default="results/bench_fid.json")
    arguments = parser.parse_args()
    rows, reached = [], True
    if arguments.repeats:
        rows.append(speed(arguments.width, arguments.repeats))
        row = rows[0]
        print(f"width {row['width']}: ours {row['ours_s']:.3f} s, sqrtm {row['peer_s']:.3f} s, ratio {row['ratio']:.1f}")
        reached = row["ratio"] >= WANTED_RATIO
    cases = [
        ("Gaussian", np.inf, False),
        ("t, 10 degrees", 10.0, False),
        ("t, 6 degrees", 6.0, False),
        ("Gaussian, no difference", np.inf, True),
    ]
    for name, degrees, same in cases if arguments.pools else []:
        row = accuracy(name, degrees, same, arguments.pools)
        rows.append(row)
        print(f"{name}: error {row['error_ratio']:.3f} of the plain one, covered {100 * row['covered']:.1f} %", flush=True)
        reached &= row["error_ratio"] <= WANTED_ERROR and WANTED_COVER[0] <= row["covered"] <= WANTED_COVER[1]
    versions = {"python": platform.python_version(), "farfield": __version__, **{p: version(p) for p in ("numpy", "scipy")}}
    for row in rows:
        row["versions"] = versions
    output = Path(arguments.output)
    kept = json.loads(output.read_text()) if output.exists() else []
    measured = {(row["name"], row.get("width")) for row in rows}
    rows = [row for row in kept if (row["name"], row.get("width")) not in measured] + rows
    write_atomic(output, (json.dumps(rows, indent=2) + "\n").encode())
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
