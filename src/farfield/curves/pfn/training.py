"""Trains a learning-curve network on draws from a prior: every batch is new curves, each cut at many places in one pass.

For each drawn curve, `asked` pairs (cut, later point) are taken uniformly: the cut from all places that leave a point on either
side, the point from those after the cut. The loss is minus the mean log density of the points.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from farfield import __version__
from farfield.curves.pfn.architecture import Architecture, FloatArray, IntArray, asked_inputs, context_inputs, units
from farfield.curves.pfn.model import LCPFN
from farfield.curves.pfn.network import Network, log_likelihood
from farfield.curves.pfn.scoring import score_on_prior
from farfield.curves.pfn.stored import save_network
from farfield.curves.priors import PriorCurves
from farfield.nn.trainer import Logged, Recipe, train
from farfield.seeds import Seed

_DRAWN = 8
# seen points of the longest curves of the priors
_MOST_POINTS = {"steps": 100, "relative": 200}


class Prior(Protocol):
    """What curves are drawn from."""

    def sample(self, n: int, rng: Seed = None) -> PriorCurves:
        """n curves."""
        ...


def train_network(
    prior: Prior,
    arch: Architecture,
    recipe: Recipe,
    *,
    batch: int = 32,
    asked: int = 64,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    on_log: Callable[[Logged], None] | None = None,
    quiet: bool = False,
) -> tuple[Network, tuple[Logged, ...]]:
    """A network trained on `batch` curves a step, `asked` pairs of cut and later point each, and its log.

    Raises what `farfield.nn.trainer.train` raises.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(arch)

    def loss(model: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        curves = alike(prior, batch, rng)
        cut, target = pairs(curves.lengths, asked, rng)
        # a horizon is not always known: the network must do without
        horizon = np.where(rng.random(batch) < 0.5, curves.horizon, np.nan)
        return -log_likelihood(model(*inputs(curves.x, curves.y, cut, np.take_along_axis(curves.x, target, 1), horizon, arch)),
                               _tensor(np.take_along_axis(curves.y, target, 1))).mean()  # fmt: skip

    log = train(network, loss, recipe, seed=seed, checkpoint=checkpoint, on_log=on_log, label="training on the prior", quiet=quiet)
    return network, log


def alike(prior: Prior, n: int, rng: np.random.Generator) -> PriorCurves:
    """`n` curves of like length: one of the groups into which `_DRAWN` n draws, sorted by length, fall. Spares the padding."""
    drawn = prior.sample(n * _DRAWN, rng)
    first = int(rng.integers(_DRAWN)) * n
    rows = np.argsort(drawn.lengths, kind="stable")[first : first + n]
    return PriorCurves(*(getattr(drawn, f.name)[rows] for f in dataclasses.fields(drawn)))


def pairs(lengths: IntArray, asked: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """`asked` cuts (points seen, 1 ... length - 1) and indices of later points for curves of `lengths` (n,): (n, asked) each."""
    n = lengths[:, None]
    cut = 1 + np.floor(rng.random((len(lengths), asked)) * (n - 1)).astype(np.int64)
    return cut, cut + np.floor(rng.random(cut.shape) * (n - cut)).astype(np.int64)


def inputs(
    x: FloatArray, y: FloatArray, cut: IntArray, at: FloatArray, horizon: FloatArray, arch: Architecture
) -> tuple[torch.Tensor, ...]:
    """Arguments of the network for curves x, y (n, m), NaN where they have ended, asked at `at` (n, q) with `cut` (n, q) seen."""
    most = int(cut.max())
    x, y = filled(x[:, :most]), filled(y[:, :most])
    unit = np.take_along_axis(units(y, arch), cut - 1, axis=1)
    return (
        _tensor(context_inputs(x, y, arch)),
        _tensor(asked_inputs(x, cut, at, horizon, arch)),
        _tensor(y),
        torch.from_numpy(cut),
        _tensor(unit),
    )


def filled(values: FloatArray) -> FloatArray:
    """Rows (n, m) whose NaN at the end are replaced by any number: no asked token sees them."""
    return np.where(np.isnan(values), 1.0, values)


def _tensor(values: FloatArray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


def card_of(
    name: str, prior: str, recipe: Recipe, batch: int, asked: int, seed: int, network: Network, log: tuple[Logged, ...]
) -> dict[str, Any]:
    """What there is to say about a trained network: its prior, recipe, seed, hours and log, as plain values."""
    return {
        "name": name,
        "prior": prior,
        "recipe": {**dataclasses.asdict(recipe), "batch": batch, "asked": asked},
        "seed": seed,
        "curves": recipe.steps * batch,
        "parameters": sum(p.numel() for p in network.parameters()),
        "hours": log[-1].seconds / 3600,
        "log": [{"step": line.step, "loss": round(line.loss, 4)} for line in log],
        "most_points": _MOST_POINTS[network.arch.clock],
        "farfield": __version__,
    }


def save_trained(
    path: str | os.PathLike[str], network: Network, card: Mapping[str, Any], *, n: int = 1000, rng: Seed = 12345
) -> None:
    """Save a network with its card and with its scores, as saved (half precision), on `n` fresh curves of its prior."""
    about = dict(card)
    name = str(about.pop("name"))
    tensors = {key: value.detach().numpy() for key, value in network.state_dict().items()}
    save_network(path, name, network.arch, tensors, about)
    about["scores"] = [dataclasses.asdict(s) for s in score_on_prior(LCPFN.load(path), str(about["prior"]), n=n, rng=rng)]
    save_network(path, name, network.arch, tensors, about)
