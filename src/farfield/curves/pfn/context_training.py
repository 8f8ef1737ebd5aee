"""Trains a context network on sweeps drawn from a prior; the first network, whose answers it reads, is left as it is.

Of each drawn sweep `questions` pairs of a cut and a later position are asked of all its runs at once. What the other runs show is
drawn for every question: in a quarter of them no run is farther than the cut; otherwise some have ended (a share U(0, 1), or all),
and those that have not were stopped at the cut (half of the questions) or anywhere. The loss is minus the mean gain
in log density over the first network.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from farfield import __version__
from farfield.curves.pfn.architecture import FloatArray, IntArray
from farfield.curves.pfn.context import ContextPFN
from farfield.curves.pfn.context_architecture import ContextArchitecture
from farfield.curves.pfn.context_network import ContextNetwork
from farfield.curves.pfn.context_scoring import runs_of, score_on_sweeps
from farfield.curves.pfn.engine import Engine
from farfield.curves.pfn.network import log_likelihood
from farfield.curves.pfn.questions import Asked, ask
from farfield.curves.pfn.stored import save_network
from farfield.curves.pfn.training import pairs
from farfield.curves.priors import SweepPrior, Sweeps
from farfield.curves.rescored import normal_scores
from farfield.nn.trainer import Logged, Recipe, train
from farfield.seeds import Seed

# runs and points of the sweeps that are drawn, uniform in their logarithms
CURVES = (2, 24)
POINTS = (10, 100)
# scores beyond are read as if they were there
_FARTHEST = 8.0


def train_context(
    first: Engine,
    arch: ContextArchitecture,
    recipe: Recipe,
    *,
    curves: int = 112,
    questions: int = 12,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    on_log: Callable[[Logged], None] | None = None,
    quiet: bool = False,
) -> tuple[ContextNetwork, tuple[Logged, ...]]:
    """A context network trained on about `curves` curves a step, `questions` a sweep, on top of the network `first`; and its log.

    Raises what `farfield.nn.trainer.train` raises.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ContextNetwork(arch)

    def loss(model: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        n = _log_uniform(rng, *CURVES)
        sweeps = SweepPrior().sample(max(1, round(curves / n)), n, _log_uniform(rng, *POINTS), rng)
        asked, truth, counted = drawn_questions(first, sweeps, questions, rng)
        score = torch.from_numpy(
            normal_scores(truth, asked.weight, asked.loc, asked.scale).clip(-_FARTHEST, _FARTHEST).astype(np.float32)
        )
        gain = log_likelihood(model(*tensors(asked)), score) + 0.5 * score.square() + 0.5 * math.log(2 * math.pi)
        return -gain[torch.from_numpy(counted)].mean()

    log = train(network, loss, recipe, seed=seed, checkpoint=checkpoint, on_log=on_log, label="training on sweeps", quiet=quiet)
    return network, log


def drawn_questions(
    first: Engine, sweeps: Sweeps, questions: int, rng: np.random.Generator
) -> tuple[Asked, FloatArray, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Questions to all runs of sweeps, their answers (B, runs), and which of them count: those of runs seen up to the cut."""
    t, n, m = sweeps.y.shape
    cut, target = pairs(np.full(t, m, dtype=np.int64), questions, rng)
    seen = _shown(cut, target, n, m, rng)
    runs = runs_of(sweeps, np.where(rng.random(t) < 0.5, sweeps.horizon, np.nan))
    c, x = (np.take_along_axis(sweeps.x, index, axis=1) for index in (cut - 1, target))
    asked = ask(first, runs, seen, c, x, np.arange(n), ~np.eye(n, dtype=bool))
    truth = np.take_along_axis(runs.z, np.repeat(target[:, None], n, axis=1), axis=2)
    counted = seen >= cut[:, None]
    return asked, *(np.moveaxis(v, 2, 1).reshape(-1, n) for v in (truth, counted))  # type: ignore[return-value]


def _shown(cut: IntArray, target: IntArray, n: int, m: int, rng: np.random.Generator) -> IntArray:
    """(T, n, Q) points of each run that are known when a question (T, Q) is asked."""
    t, q = cut.shape
    kind = rng.random((t, 1, q))
    share = np.where(kind < 0.25, 0.0, np.where(kind < 0.85, rng.random((t, 1, q)), 1.0))
    ended = rng.random((t, n, q)) < share
    anywhere = (rng.random((t, 1, q)) < 0.5) & (kind >= 0.25)
    until = np.where(anywhere, 1 + np.floor(rng.random((t, n, q)) * target[:, None]).astype(np.int64), cut[:, None])
    return np.where(ended, m, until)


def tensors(asked: Asked) -> tuple[torch.Tensor, ...]:
    """The arguments of the network."""
    values = (asked.tokens, asked.targets, asked.pairs, asked.shown, asked.guesses)
    return tuple(torch.from_numpy(v if v.dtype == bool else v.astype(np.float32)) for v in values)


def context_card(
    name: str, base: str, recipe: Recipe, curves: int, questions: int, seed: int, network: nn.Module, log: tuple[Logged, ...]
) -> Mapping[str, Any]:
    """What there is to say about a trained context network, as plain values."""
    return {
        "name": name,
        "prior": "sweeps",
        "base": base,
        "recipe": {**dataclasses.asdict(recipe), "curves": curves, "questions": questions},
        "seed": seed,
        "curves": recipe.steps * curves,
        "parameters": sum(p.numel() for p in network.parameters()),
        "hours": log[-1].seconds / 3600,
        "log": [{"step": line.step, "loss": round(line.loss, 4)} for line in log],
        "farfield": __version__,
    }


def save_context(
    path: str | os.PathLike[str], network: ContextNetwork, card: Mapping[str, Any], *, n: int = 200, rng: Seed = 12345
) -> None:
    """Save a network with its card and with its scores, as saved (half precision), on `n` fresh sweeps."""
    about = dict(card)
    name = str(about.pop("name"))
    weights = {key: value.detach().numpy() for key, value in network.state_dict().items()}
    save_network(path, name, network.arch, weights, about)
    about["scores"] = [dataclasses.asdict(s) for s in score_on_sweeps(ContextPFN.load(path), n=n, rng=rng)]
    save_network(path, name, network.arch, weights, about)


def _log_uniform(rng: np.random.Generator, low: int, high: int) -> int:
    return int(np.floor(np.exp(rng.uniform(np.log(low), np.log(high + 1)))).clip(low, high))
