"""P102: the toy needs ten directions exactly; a perceptron on digits about as many whatever its width; Fastfood as good as dense.

Perceptrons of two hidden layers of equal width on scikit-learn's 8 x 8 digits (1,200 to train on, 597 scored; a seed draws split,
start, batches and directions), trained with all weights and in Fastfood subspaces of 68 to 384 dimensions, AdamW at 0.01 with all
weights. The dimension of a width is where accuracy first reaches 90 % of that with all weights, interpolated in log d. Accuracy of
Fastfood and of dense directions is compared at the middle width, averaged over 96 to 272 dimensions. The learning rate, the steps
and the dimensions were settled on another seed than those measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from farfield.claims import digits
from farfield.claims.criteria import Curve, Measured
from farfield.errors import require
from farfield.weights.intrinsic import (
    TOY_CONSTRAINTS,
    TOY_PARAMS,
    TOY_TARGET,
    IntrinsicDimension,
    intrinsic_dimension,
    subspace_training,
    toy_training,
)
from farfield.weights.projections import PROJECTIONS, projection

if TYPE_CHECKING:
    from torch import nn

    from farfield.weights.intrinsic import Problem

WIDTHS = (32, 96, 288)
DIMS = (68, 96, 136, 192, 272, 384)
COMPARED = slice(1, 5)  # of DIMS
TINY_DIMS = (96, 272, 384)
STEPS, RATE = 300, 0.01
PAPER = (199_210, 750)  # weights and intrinsic dimension of the paper's network for MNIST


def _problem(width: int, seed: int) -> Callable[[], Problem]:
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    images, labels = digits.shuffled(np.random.default_rng(seed), "P102")
    x, y = torch.from_numpy(images.astype(np.float32)), torch.from_numpy(labels)

    def loss(model: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        part = torch.from_numpy(rng.integers(0, 1200, 64))
        return cross_entropy(model(x[part]), y[part])

    def accuracy(model: nn.Module) -> float:
        return float((model(x[1200:]).argmax(-1) == y[1200:]).double().mean())

    def make() -> Problem:
        model = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )  # fmt: skip
        return model, loss, accuracy

    return make


def _params(width: int) -> int:
    return 64 * width + width + width * width + width + 10 * width + 10


def run(budget: str, seed: int) -> Measured:
    """The toy's dimension, the spread of the dimension over widths, and the accuracy of two projections."""
    require("torch", "the claim of P102")
    import torch

    from farfield.nn.trainer import Recipe

    torch.set_num_threads(1)
    toy = {
        kind: intrinsic_dimension(toy_training(kind), range(1, 16), target=TOY_TARGET, n_seeds=1, seed=seed).dimension
        for kind in PROJECTIONS
    }
    off = max(("dense", "fastfood"), key=lambda kind: abs(toy[kind] - TOY_CONSTRAINTS))
    dims = TINY_DIMS if budget == "tiny" else DIMS
    steps = 150 if budget == "tiny" else STEPS

    def sweep(width: int, kind: str) -> IntrinsicDimension:
        train = subspace_training(_problem(width, seed), Recipe(steps, RATE), kind)
        return intrinsic_dimension(train, dims, n_seeds=1, seed=seed, n_params=_params(width))

    middle = WIDTHS[1]
    widths = list(WIDTHS[:2]) if budget == "tiny" else list(WIDTHS)
    fast = {width: sweep(width, "fastfood") for width in widths}
    dense = sweep(middle, "dense")
    kept = slice(None) if budget == "tiny" else COMPARED
    crossings = np.array([fast[width].crossing for width in widths])
    # a width that never gets there has no spread: not a number, said by the harness
    spread = float(np.abs(np.log(crossings / crossings.mean())).max()) if np.isfinite(crossings).all() else math.nan
    bytes_of = {kind: projection(kind, *PAPER, rng=0, dtype=np.float32).nbytes for kind in ("fastfood", "dense")}
    curves = [Curve(f"{_params(w):,} weights", list(dims), fast[w].scores[0].tolist()) for w in widths]
    return Measured(
        ours={
            "quadratic": toy[off],
            "log_dimension_spread": spread,
            "accuracy_fast": float(fast[middle].scores[0, kept].mean()),
        },
        baseline={
            "quadratic": float(TOY_CONSTRAINTS),
            "log_dimension_spread": 0.0,
            "accuracy_fast": float(dense.scores[0, kept].mean()),
        },
        curves=[*curves, Curve(f"{_params(middle):,} weights, dense", list(dims), dense.scores[0].tolist())],
        axes=("dimensions of the subspace", "accuracy on held-out digits"),
        notes={
            "dimension of the toy by projection": toy,
            "weights of the toy": TOY_PARAMS,
            "weights by width": [_params(w) for w in widths],
            "dimension by width": crossings.tolist(),
            "accuracy with all weights, by width": [float(fast[w].full[0]) for w in widths],
            "dimension of the middle width, dense": dense.crossing,
            "bytes of a dense projection over those of Fastfood, 199,210 weights and 750 dimensions": bytes_of["dense"]
            / bytes_of["fastfood"],
        },
    )
