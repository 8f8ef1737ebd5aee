"""One trainer for every small network: seeded by step, resumable to the bit, with a log.

What step k draws (its batch, its dropout) is a function of the seed and of k alone, so a run that was killed and resumed from
its checkpoint ends with the very numbers of one that was not. The optimiser is AdamW with a linear warm-up and a cosine fall,
gradients clipped by norm: the recipe of small transformers; a task is a function from (model, generator) to a loss.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from farfield import checks, seeds
from farfield.errors import FormatError, InputError
from farfield.files import write_atomic
from farfield.progress import progress


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    steps: int  # batches in all
    learning_rate: float = 1e-3  # at the peak
    warmup: float = 0.05  # share of the steps over which the learning rate rises from 0
    final: float = 0.0  # learning rate at the end, over that at the peak
    weight_decay: float = 0.0  # on matrices; never on biases, norms and other vectors
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0  # largest norm of the gradient; infinity to leave it
    accumulate: int = 1  # batches to one update

    def __post_init__(self) -> None:
        checks.count("steps", self.steps)
        checks.positive("learning_rate", self.learning_rate)
        checks.count("accumulate", self.accumulate)
        for name in ("warmup", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; allowed: a share, from 0 to 1")

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0: linear warm-up, then half a cosine down to `final`."""
        rising = self.warmup * self.steps
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        done = (step - rising) / max(self.steps - rising, 1)
        return self.learning_rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Logged:
    """One line of a training log: the mean loss since the line before, up to and with `step` (counted from 1)."""

    step: int
    loss: float
    learning_rate: float
    seconds: float  # spent training so far, over all resumptions


Loss = Callable[[nn.Module, np.random.Generator], torch.Tensor]


def train(
    model: nn.Module,
    loss: Loss,
    recipe: Recipe,
    *,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: float = 60.0,
    log_every: int = 100,
    on_log: Callable[[Logged], None] | None = None,
    label: str = "training",
    quiet: bool = False,
) -> tuple[Logged, ...]:
    """Train `model` in place and return its log.

    Parameters
    ----------
    model : the network; only parameters that require a gradient are trained
    loss : called with the model and a NumPy generator that is a function of (seed, step): draws a batch, returns the scalar loss;
        torch's global generator is seeded alike for dropout
    seed : of the batches (the initial weights are the caller's)
    checkpoint : file to which weights, optimiser and log are saved, and from which a killed run goes on; None saves nothing
    save_every : seconds between two savings
    log_every : steps a line of the log covers
    on_log : called with each new line

    Raises InputError where the loss is not a number (the checkpoint stays as it was), FormatError where the checkpoint is not of
    this model, recipe and seed.
    """
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.learning_rate, betas=recipe.betas)
    path = None if checkpoint is None else Path(checkpoint)
    log: list[Logged] = []
    first, before = 0, 0.0
    if path is not None and path.exists():
        first, before, log = _resume(path, model, optimiser, recipe, seed)
    trained = [*matrices, *vectors]
    root = seeds.root(seed)
    model.train()
    started = saved = time.monotonic()
    total, count = 0.0, 0
    with progress(label, recipe.steps, quiet=quiet) as advance, torch.random.fork_rng(devices=[]):
        advance(first)
        for step in range(first, recipe.steps):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step)
            optimiser.zero_grad(set_to_none=True)
            for part in range(recipe.accumulate):
                rng = seeds.child(root, step, part)
                torch.manual_seed(int(rng.integers(2**62)))
                value = loss(model, rng) / recipe.accumulate
                value.backward()
                total += float(value.detach())
            if not math.isfinite(total):
                raise InputError(
                    f"the loss is not a number at step {step + 1} of {recipe.steps}; try a lower learning rate, or check the data"
                )
            if math.isfinite(recipe.clip):
                nn.utils.clip_grad_norm_(trained, recipe.clip)
            optimiser.step()
            count += 1
            advance(1)
            if (step + 1) % log_every == 0 or step + 1 == recipe.steps:
                log.append(Logged(step + 1, total / count, recipe.rate(step), before + time.monotonic() - started))
                total, count = 0.0, 0
                if on_log is not None:
                    on_log(log[-1])
                # only at a line of the log, so that the sums of the next line are whole after a resumption
                if path is not None and (time.monotonic() - saved >= save_every or step + 1 == recipe.steps):
                    _save(path, model, optimiser, recipe, seed, step + 1, before + time.monotonic() - started, log)
                    saved = time.monotonic()
    model.eval()
    return tuple(log)


def _identity(model: nn.Module, recipe: Recipe, seed: int) -> dict[str, Any]:
    shapes = {name: list(p.shape) for name, p in model.state_dict().items()}
    described = {**dataclasses.asdict(recipe), "betas": list(recipe.betas)}
    return {"recipe": described, "seed": int(seed), "shapes": shapes}


def _save(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe, seed: int, step: int, seconds: float,
    log: list[Logged],
) -> None:  # fmt: skip
    buffer = io.BytesIO()
    state = {
        "identity": _identity(model, recipe, seed), "step": step, "seconds": seconds, "model": model.state_dict(),
        "optimiser": optimiser.state_dict(), "log": [dataclasses.astuple(line) for line in log],
    }  # fmt: skip
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())


def _resume(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe, seed: int
) -> tuple[int, float, list[Logged]]:
    try:
        state = torch.load(path, weights_only=True)
        identity, step, seconds = state["identity"], int(state["step"]), float(state["seconds"])
        log = [Logged(*line) for line in state["log"]]
    except Exception as error:  # torch raises many kinds for a file that is not one of its own
        raise FormatError(f"{path} is not a checkpoint of a training run ({error}); name another file, or remove it") from error
    expected = _identity(model, recipe, seed)
    for part, value in expected.items():
        if identity.get(part) != value:
            raise FormatError(f"{path} belongs to another run: its {part} differ; name another file to start anew, or remove it")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return step, seconds, log
