"""P097: a patch of the first two layers carries the robustness of corruption training to a standard model.

A small convolutional network is pre-trained on scikit-learn's 8 x 8 digits and then fine-tuned: once on clean images (standard),
and once for each of five corruptions on corrupted ones alone, with the same schedule and seed. The signature of each, of the
first two of four layers, patches the standard model; its strength is the one of 0.25 to 1.5 with the highest sum of clean and
corrupted accuracy on dev images, reported on test images. Gap: accuracy of the corruption-trained model on corrupted test images
less that of the standard one.

Ablation: the plain step of corruption training, unprojected, at the least strength whose corrupted accuracy on dev images reaches
ours (the best one where none does).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from farfield.claims import digits
from farfield.claims.criteria import Curve, Measured
from farfield.errors import require
from farfield.weights.signature import RobustWeightSignature, first_layers

if TYPE_CHECKING:
    from torch import nn

FloatArray = NDArray[np.float64]
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
LAYERS = 2


def _corruptions(rng: np.random.Generator) -> dict[str, Any]:
    """Images (n, 8, 8) in 0 to 1 -> the same, corrupted."""
    kernel = np.exp(-(np.arange(-2, 3) ** 2) / 2.0)
    kernel /= kernel.sum()

    def blur(x: FloatArray) -> FloatArray:
        for axis in (1, 2):
            wide = np.pad(x, [(0, 0) if a != axis else (2, 2) for a in range(3)], mode="edge")
            x = sum(k * np.take(wide, range(i, i + 8), axis) for i, k in enumerate(kernel))
        return x

    def band(x: FloatArray) -> FloatArray:
        out = x.copy()
        out[:, 3:5] = 1 - out[:, 3:5]
        return out

    return {
        "noise": lambda x: x + rng.normal(0, 0.5, x.shape),
        "blur": blur,
        "contrast": lambda x: 0.2 * x + 0.4,
        "pixels": lambda x: x.reshape(-1, 4, 2, 4, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2),
        "band": band,
    }


def _network(seed: int) -> nn.Module:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def _trained(start: nn.Module, x: FloatArray, y: NDArray[np.int64], steps: int, rate: float, seed: int) -> nn.Module:
    import torch
    from torch.nn.functional import cross_entropy

    from farfield.nn.trainer import Recipe, train

    model = copy.deepcopy(start)
    images, labels = torch.from_numpy(x[:, None].astype(np.float32)), torch.from_numpy(y)

    def loss(module: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        part = torch.from_numpy(rng.integers(0, len(y), 64))
        return cross_entropy(module(images[part]), labels[part])

    train(model, loss, Recipe(steps, rate), seed=seed, quiet=True)
    return model


def _weights(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def _accuracy(model: nn.Module, weights: Mapping[str, NDArray[Any]], x: FloatArray, y: NDArray[np.int64]) -> float:
    """Of the model with other weights."""
    import torch

    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.from_numpy(weights[name]))
        logits = model(torch.from_numpy(x[:, None].astype(np.float32)))
    return float((logits.argmax(-1).numpy() == y).mean())


def run(budget: str, seed: int) -> Measured:
    """Share of the robust gap recovered by corruption, and accuracies on clean and corrupted test images."""
    require("torch", "the claim of P097")
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng([1, seed])  # 1: the draws before these were looked at
    x, y = digits.shuffled(rng, "P097")
    x = x.reshape(-1, 8, 8)
    fit, dev, test = slice(0, 900), slice(900, 1300), slice(1300, None)
    steps = 100 if budget == "tiny" else 300
    pre = _trained(_network(seed), x[fit], y[fit], steps, 3e-3, seed)
    standard = _trained(pre, x[fit], y[fit], steps, 1e-3, seed)
    judge = copy.deepcopy(standard)
    start, plain = _weights(pre), _weights(standard)
    corruptions = _corruptions(rng)
    names = list(corruptions)[:1] if budget == "tiny" else list(corruptions)
    kept = first_layers({n: w.shape for n, w in start.items()}, LAYERS)
    gaps, clean, eight, full, ours_clean, theirs_clean, robust_of, standard_of = [], [], [], [], [], [], [], []
    everywhere: list[float] = []
    curves = []
    for name in names:
        bad = corruptions[name](x)
        robust = _weights(_trained(pre, bad[fit], y[fit], steps, 1e-3, seed))
        whole = RobustWeightSignature.extract(start, plain, robust, layers=None)
        signature = RobustWeightSignature.extract(start, plain, robust, layers=LAYERS)
        unprojected = RobustWeightSignature({n: (robust[n] - start[n]).astype(np.float64) for n in kept})

        def scores(patch: RobustWeightSignature, strength: float, part: slice, bad: FloatArray = bad) -> tuple[float, float]:
            """Accuracy on clean and on corrupted images."""
            patched, _ = patch.apply(plain, strength)
            return _accuracy(judge, patched, x[part], y[part]), _accuracy(judge, patched, bad[part], y[part])

        on_dev = {s: scores(signature, s, dev) for s in STRENGTHS}
        best = max(STRENGTHS, key=lambda s: sum(on_dev[s]))
        other = {s: scores(unprojected, s, dev) for s in STRENGTHS}
        equal = [s for s in STRENGTHS if other[s][1] >= on_dev[best][1]] or [max(STRENGTHS, key=lambda s: other[s][1])]
        kept_clean, kept_bad = scores(signature, best, test)
        standard_bad, robust_bad = (_accuracy(judge, w, bad[test], y[test]) for w in (plain, robust))
        gaps.append((kept_bad - standard_bad) / max(robust_bad - standard_bad, 1e-9))
        clean.append(kept_clean)
        full.append(kept_bad)
        eight.append(scores(signature.rounded(8), best, test)[1])
        ours_clean.append(kept_clean)
        everywhere.append((scores(whole, 1.0, test)[1] - standard_bad) / max(robust_bad - standard_bad, 1e-9))
        theirs_clean.append(scores(unprojected, equal[0], test)[0])
        robust_of.append(robust_bad)
        standard_of.append(standard_bad)
        curves.append(
            Curve(name, [0.0, *STRENGTHS], [_accuracy(judge, plain, bad[dev], y[dev]), *(on_dev[s][1] for s in STRENGTHS)])
        )
    return Measured(
        ours={
            "gap_recovered": float(np.mean(gaps)) if budget == "tiny" else gaps,
            "clean_accuracy": float(np.mean(clean)),
            "robust_accuracy_8_bits": float(np.mean(eight)),
            "clean_accuracy_unprojected": float(np.mean(ours_clean)),
        },
        baseline={
            "gap_recovered": 0.5 if budget == "tiny" else [0.5] * len(gaps),
            "clean_accuracy": _accuracy(judge, plain, x[test], y[test]),
            "robust_accuracy_8_bits": float(np.mean(full)),
        },
        ablation={"clean_accuracy_unprojected": float(np.mean(theirs_clean))},
        units=names,
        curves=curves,
        axes=("strength of the patch", "accuracy on corrupted dev images"),
        notes={
            "corruptions": names,
            "standard model, corrupted": standard_of,
            "corruption-trained models, corrupted": robust_of,
            "patched, corrupted": full,
            "share of the gap recovered by a patch of all layers at strength 1": everywhere,
            "bytes of a signature of 8 bits over a full copy": signature.rounded(8).nbytes / sum(w.nbytes for w in plain.values()),
        },
    )
