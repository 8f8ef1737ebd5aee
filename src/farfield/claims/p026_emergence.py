"""P026: an ability that jumps by exact match is forecast, from models below the jump, through the accuracy of its tokens.

Models of growing width learn to add two six-digit numbers in base 4, one output digit at a time, from the digits in a window of
three places: random ReLU features and a ridge regression on the digit. An answer counts when all seven digits are right. From the
models smaller than the first whose exact match reaches 5 % the others are forecast: through the metric swap (ours), by a sigmoid
fitted to exact match itself (baseline), and through token accuracy without the power of the answer's length (ablation).

On a public table, GSM8K and HumanEval scores of base models are forecast from models of less compute, along the first principal
component of five other benchmarks (ours) and along compute (baseline). The axis is fitted on the seen models, and the forecast
models enter with their five other scores alone. Families are what is compared; a seed fits on a resample of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farfield.claims import base_models
from farfield.claims.criteria import Curve, Measured
from farfield.curves.benchmarks import CapabilityAxis, CapabilityFit, emergence, metric_swap

BASE, DIGITS, WINDOW = 4, 6, 3
THRESHOLD = 0.05
JUMPS = ("GSM8K", "HumanEval")
OTHERS = ("MMLU", "ARC-C", "HellaSwag", "Winograd", "TruthfulQA")
CUTS = (1e22, 10**22.5, 1e23)  # compute at which the two scores leave the floor
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def _problems(n: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """What the model sees at each place of the answer, as the number of its window, and the answers; (n, DIGITS + 1) each.

    Least significant digit first. There are only BASE^(2 WINDOW) windows: models are evaluated once a window, not once a problem.
    """
    a, b = rng.integers(0, BASE, (2, n, DIGITS))
    powers = BASE ** np.arange(DIGITS + 1)
    total = a @ powers[:-1] + b @ powers[:-1]
    answers = total[:, None] // powers % BASE
    padded = np.zeros((n, 2, WINDOW - 1 + DIGITS + 1), dtype=np.int64)
    padded[:, 0, WINDOW - 1 : -1], padded[:, 1, WINDOW - 1 : -1] = a, b
    windows = np.stack([padded[:, :, i : i + WINDOW].reshape(n, -1) for i in range(DIGITS + 1)], axis=1)
    return windows @ BASE ** np.arange(2 * WINDOW), answers


def _accuracies(widths: list[int], n_train: int, n_test: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Token accuracy and exact match of each width on problems not trained on."""
    seen, y = _problems(n_train, rng)
    asked, y_test = _problems(n_test, rng)
    every = np.arange(BASE ** (2 * WINDOW))
    inputs = np.eye(BASE)[every[:, None] // BASE ** np.arange(2 * WINDOW) % BASE].reshape(every.size, -1)
    target = np.bincount(seen.ravel() * BASE + y.ravel(), minlength=every.size * BASE).reshape(-1, BASE).astype(np.float64)
    count = target.sum(axis=1)
    token, exact = [], []
    for width in widths:
        weights = rng.normal(size=(inputs.shape[1], width)) / np.sqrt(2 * WINDOW)
        bias = rng.normal(size=width)
        hidden = np.maximum(inputs @ weights + bias, 0.0)
        gram = hidden.T @ (count[:, None] * hidden) + 1e-3 * seen.size / width * np.eye(width)
        readout = np.linalg.solve(gram, hidden.T @ target)
        right = (hidden @ readout).argmax(-1)[asked] == y_test
        token.append(right.mean())
        exact.append(right.all(1).mean())
    return np.array(token), np.array(exact)


def _along_capability(cuts: tuple[float, ...], rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Mean absolute error in points for each family beyond a cut: along the capability axis (ours), along compute (baseline)."""
    errors: dict[str, dict[str, list[float]]] = {"ours": {}, "baseline": {}}
    for target in JUMPS:
        rows = base_models.models((base_models.FLOPS, *OTHERS, target))
        compute, score, names = base_models.compute(rows), base_models.column(rows, target), np.array(base_models.families(rows))
        others = np.stack([base_models.column(rows, name) for name in OTHERS], axis=1)
        for cut in cuts:
            seen, beyond = np.flatnonzero(compute <= cut), np.flatnonzero(compute > cut)
            drawn = rng.choice(np.unique(names[seen]), size=np.unique(names[seen]).size)
            fitted_on = np.concatenate([seen[names[seen] == family] for family in drawn])
            axis = CapabilityAxis().fit(others[fitted_on])
            for side, scale in (("ours", axis.scale(others)), ("baseline", compute)):
                said = CapabilityFit(n_boot=0).fit(scale[fitted_on], score[fitted_on]).expected(scale[beyond])
                for i, error in zip(beyond, np.abs(said - score[beyond]), strict=True):
                    errors[side].setdefault(str(names[i]), []).append(100 * float(error))
    return {side: {family: float(np.mean(e)) for family, e in sorted(by.items())} for side, by in errors.items()}


def run(budget: str, seed: int) -> Measured:
    """Mean absolute errors, in percentage points.

    exact_match_error: of exact match beyond the last model below 5 %. capability_error: of GSM8K and HumanEval, by family.
    """
    rng = np.random.default_rng(seed)
    widths = [round(w) for w in np.geomspace(8, 600 if budget == "tiny" else 1500, 14 if budget == "tiny" else 24)]
    token, exact = _accuracies(widths, *((800, 800) if budget == "tiny" else (2500, 4000)), rng)
    scale = np.array(widths) * (WINDOW * 2 * BASE + 1 + BASE)  # parameters
    above = np.flatnonzero(exact >= THRESHOLD)
    first = int(above[0]) if above.size else len(widths)
    seen, beyond = slice(0, first), slice(first, None)
    length = DIGITS + 1
    forecasts = {
        "ours": metric_swap(scale[seen], token[seen], scale, length=length, chance=1 / BASE),
        "baseline": CapabilityFit(n_boot=0).fit(scale[seen], exact[seen]).expected(scale),
        "ablation": metric_swap(scale[seen], token[seen], scale, length=1, chance=1 / BASE),
    }
    error = {k: {"exact_match_error": 100 * float(np.abs(v - exact)[beyond].mean())} for k, v in forecasts.items()}
    found = emergence(scale, exact)
    table = _along_capability(CUTS[1:2] if budget == "tiny" else CUTS, rng)
    log = np.log10(scale).tolist()
    return Measured(
        ours={**error["ours"], "capability_error": list(table["ours"].values())},
        baseline={**error["baseline"], "capability_error": list(table["baseline"].values())},
        ablation=error["ablation"],
        units=list(table["ours"]),
        curves=[
            Curve(".exact match", log, exact.tolist()),
            Curve(".token accuracy", log, token.tolist()),
            Curve("metric swap", log, forecasts["ours"].tolist()),
            Curve("exact match, fitted directly", log, forecasts["baseline"].tolist()),
        ],
        axes=("log10 parameters", "share right"),
        notes={
            "mean capability error, along the axis and along compute": [
                float(np.mean(list(table[side].values()))) for side in ("ours", "baseline")
            ],
            "models seen": first,
            "models beyond": len(widths) - first,
            "largest exact match": float(exact.max()),
            "emergent by exact match": found.emergent,
            "decades from 10 to 90 % of exact match": found.sharpness,
            "decades from 10 to 90 % of token accuracy": emergence(scale, token, chance=1 / BASE).sharpness,
        },
    )
