"""P043: the sum of gradients along an edit ranks the loss changes of edits of seven kinds before any of them is evaluated.

A perceptron learns five of ten digits (scikit-learn's 8 x 8 images), then all ten: the post-trained model. Its delta is dropped at
random and rescaled (DARE; also with a factor of its own), reduced to signs (BitDelta) in blocks or with more bits, to few singular
vectors, to its largest entries, to few bits, and moved further (ExPO), each at six strengths. The loss is cross-entropy over images
that neither training saw. Estimates take 16 points of the left rule, the paper's; the ablation is one gradient, before the edit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from farfield.claims import digits
from farfield.claims.criteria import Curve, Measured, Trend
from farfield.errors import require
from farfield.weights.compression import LowRank, Quantised, Signs
from farfield.weights.edits import DeltaEdit, Linear, Magnitude, Random, Sparse
from farfield.weights.modules import loss_and_gradient
from farfield.weights.riemann import edited, riemann_gap

if TYPE_CHECKING:
    from torch import Tensor, nn

FloatArray = NDArray[np.float64]
POINTS = (2, 4, 8, 16, 32, 64)
RANKED = 16


def _edits(seed: int) -> dict[str, list[DeltaEdit]]:
    """Seven kinds, each from mild to strong."""

    def one(thinning: Any) -> DeltaEdit:
        return Sparse((1.0,), (thinning,))

    return {
        "DARE": [one(Random(1 - p, seed)) for p in (0.1, 0.3, 0.5, 0.7, 0.9, 0.95)],
        "DARE, factor -1": [one(Random(d, seed, factor=-1.0)) for d in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)],
        "BitDelta": [one(Signs(block, bits)) for bits, block in ((4, 0), (3, 0), (2, 0), (1, 8), (1, 64), (1, 0))],
        "low rank": [one(LowRank(r)) for r in (24, 16, 12, 8, 4, 2)],
        "trim": [one(Magnitude(d)) for d in (0.9, 0.7, 0.5, 0.3, 0.2, 0.1)],
        "quantise": [one(Quantised(b)) for b in (7, 6, 5, 4, 3, 2)],
        "ExPO": [Linear((1 + a,)) for a in (0.1, 0.2, 0.4, 0.7, 1.0, 1.5)],
    }


def _network(width: int, seed: int) -> nn.Module:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)).double()


def _trained(model: nn.Module, x: Tensor, y: Tensor, steps: int, rate: float) -> dict[str, FloatArray]:
    """Full-batch Adam; the parameters afterwards."""
    import torch

    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def run(budget: str, seed: int) -> Measured:
    """Spearman correlation of estimated and true loss changes over 42 edits; error by the number of points."""
    require("torch", "the claim of P043")
    import torch
    from scipy.stats import spearmanr

    torch.set_num_threads(1)
    x, y = map(torch.from_numpy, digits.shuffled(np.random.default_rng(seed), "P043"))
    half = len(x) // 2
    seen, held = slice(0, half), slice(half, half + (200 if budget == "tiny" else half))
    model = _network(32, seed)
    few = y[seen] < 5
    pre = _trained(model, x[seen][few], y[seen][few], 20, 1e-2)
    post = _trained(model, x[seen], y[seen], 20, 1e-2)

    def loss(module: nn.Module) -> Tensor:
        return torch.nn.functional.cross_entropy(module(x[held]), y[held])

    evaluate = loss_and_gradient(model, loss)
    before = evaluate(post)[0]
    points = POINTS[:4] if budget == "tiny" else POINTS
    true: dict[str, list[float]] = {}
    estimates: dict[int, list[float]] = {c: [] for c in (1, *points)}
    ranked: dict[str, list[float]] = {}
    for kind, edits in _edits(seed).items():
        for edit in edits:
            after = edited(edit, pre, post)
            true.setdefault(kind, []).append(evaluate(after)[0] - before)
            for c, values in estimates.items():
                values.append(riemann_gap(evaluate, post, after, points=c, rule="left").estimate)
            ranked.setdefault(kind, []).append(estimates[RANKED][-1])
    flat = np.concatenate(list(true.values()))
    errors = {c: float(np.abs(np.array(v) - flat).mean()) for c, v in estimates.items()}
    correlation = {c: float(spearmanr(v, flat).statistic) for c, v in estimates.items()}
    masks = [edited(Sparse((1.0,), (Random(0.5, s),)), pre, post) for s in range(20 if budget == "tiny" else 200)]
    drops = np.array([riemann_gap(evaluate, post, after, points=4).estimate for after in masks])
    kinds = [Curve("." + kind, ranked[kind], values) for kind, values in true.items()]
    return Measured(
        ours={
            "rank_correlation": correlation[RANKED],
            "log_error_by_points": Trend([math.log(c) for c in points], [math.log(errors[c]) for c in points]),
            "error_one_point": errors[RANKED],
        },
        baseline={"rank_correlation": 0.95},
        ablation={"error_one_point": errors[1]},
        curves=kinds,
        axes=("estimated loss change, 16 points", "true loss change"),
        notes={
            "loss before the edits": before,
            "correlation by points": {str(c): v for c, v in correlation.items()},
            "mean error by points": {str(c): v for c, v in errors.items()},
            "median true change by kind": {kind: float(np.median(v)) for kind, v in true.items()},
            "DARE 0.5 over masks: mean, standard error, expected magnitude": [
                float(drops.mean()),
                float(drops.std() / math.sqrt(len(drops))),
                float(np.abs(drops).mean()),
            ],
        },
    )
