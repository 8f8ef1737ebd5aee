"""Linear structural equation models and interventions on them, many at once.

    x = B x + s + noise * e,   e ~ N(0, I)      so   x = (I - B)^-1 (s + noise * e)

`B[i, j]` is the effect of j on i. All arrays may have leading axes, one model each: `intervene` on a batch of models with `size`
environments gives a batch of (models, environments), and second moments come out for all of them in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks, seeds
from farfield.errors import InputError

FloatArray = NDArray[np.float64]
Intervention = Literal["mechanism", "scale", "shift", "do"]


@dataclass(frozen=True, eq=False, repr=False)
class LinearSEM:
    """One linear structural equation model, or a batch of them.

    Attributes
    ----------
    weights : (..., d, d) effect of column on row; acyclic
    noise : (..., d) standard deviations
    shift : (..., d) means of the noise
    """

    weights: FloatArray
    noise: FloatArray
    shift: FloatArray

    def __post_init__(self) -> None:
        b = checks.finite("weights", self.weights)
        if b.ndim < 2 or b.shape[-1] != b.shape[-2]:
            raise InputError(f"weights has shape {b.shape}; allowed: (..., d, d)")
        reach = (b != 0).astype(np.float64)
        power = reach
        for _ in range(b.shape[-1]):  # a walk of d steps visits a variable twice
            power = np.minimum(power @ reach, 1.0)
        if power.any():
            raise InputError("weights has a cycle; a structural equation model here is acyclic")
        noise, shift = checks.finite("noise", self.noise), checks.finite("shift", self.shift)
        if noise.shape != b.shape[:-1] or shift.shape != b.shape[:-1] or (noise < 0).any():
            raise InputError(f"noise has shape {noise.shape} and shift {shift.shape}; allowed: {b.shape[:-1]}, noise not negative")
        for name, value in (("weights", b), ("noise", noise), ("shift", shift)):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"LinearSEM({self.weights.shape[-1]} variables, batch {self.weights.shape[:-2]})"

    @classmethod
    def random(cls, d: int, *, in_degree: int = 2, size: tuple[int, ...] = (), rng: seeds.Seed = None) -> LinearSEM:
        """Random models whose variables come after their parents.

        Parameters
        ----------
        d : variables; variable i has min(i, in_degree) parents, drawn from those before it
        size : leading axes

        Weights are uniform in +-[0.5, 1.5], standard deviations in [0.5, 1.5].
        """
        random = seeds.generator(rng)
        checks.count("d", d, least=2)
        checks.count("in_degree", in_degree, least=0)
        order = np.where(np.tri(d, k=-1, dtype=bool), random.uniform(size=(*size, d, d)), np.inf)
        rank = np.argsort(np.argsort(order, axis=-1), axis=-1)
        parents = (rank < in_degree) & np.isfinite(order)
        weights = np.where(parents, _weights(random, (*size, d, d)), 0.0)
        return cls(weights, random.uniform(0.5, 1.5, (*size, d)), np.zeros((*size, d)))

    def intervene(
        self, nodes: ArrayLike, kind: Intervention = "mechanism", *, strength: float = 2.0, rng: seeds.Seed = None
    ) -> LinearSEM:
        """The model after interventions on some variables.

        Parameters
        ----------
        nodes : (..., n, d) or (n, d) booleans, the variables intervened on in each of n environments
        kind : ``mechanism``: new weights from its parents and a new noise; ``scale``: noise times or over up to `strength`;
            ``shift``: up to +-`strength` standard deviations added; ``do``: cut off from its parents, with a new noise
        strength : largest factor of the noise, above 1

        Returns (..., n) models. Raises InputError for a shape that does not fit.
        """
        random = seeds.generator(rng)
        checks.choice("kind", kind, get_args(Intervention))
        if checks.positive("strength", strength) < 1:
            raise InputError(f"strength is {strength:g}; allowed: 1 and up")
        at = np.asarray(nodes)
        d, batch = self.weights.shape[-1], self.weights.shape[:-2]
        if at.dtype != bool or at.ndim < 2 or at.shape[-1] != d or at.shape[:-2] not in ((), batch):
            raise InputError(f"nodes is {at.dtype} of shape {at.shape}; allowed: booleans ({'..., ' if batch else ''}n, {d})")
        shape = (*batch, *at.shape[-2:])
        at = np.broadcast_to(at, shape)
        weights = np.broadcast_to(self.weights[..., None, :, :], (*shape, d))
        noise, shift = (np.broadcast_to(a[..., None, :], shape) for a in (self.noise, self.shift))
        factor = np.exp(random.uniform(-np.log(strength), np.log(strength), shape))
        if kind == "mechanism":
            weights = np.where(at[..., None] & (weights != 0), _weights(random, weights.shape), weights)
        if kind == "do":
            weights = np.where(at[..., None], 0.0, weights)
        if kind == "shift":
            shift = np.where(at, shift + noise * random.uniform(-strength, strength, shape), shift)
        else:
            noise = np.where(at, noise * factor, noise)
        return LinearSEM(weights, noise, shift)

    def second_moments(self) -> FloatArray:
        """(..., d, d) E[x x^T]; the covariance where no shift moves the means."""
        d = self.weights.shape[-1]
        to_x = np.linalg.inv(np.eye(d) - self.weights)
        mean = (to_x @ self.shift[..., None])[..., 0]
        spread = to_x * self.noise[..., None, :]
        return np.asarray(spread @ spread.swapaxes(-1, -2) + mean[..., :, None] * mean[..., None, :])

    def sample(self, n: int, rng: seeds.Seed = None) -> FloatArray:
        """(..., n, d) rows of x."""
        d = self.weights.shape[-1]
        e = seeds.generator(rng).normal(size=(*self.weights.shape[:-2], checks.count("n", n), d))
        e = self.shift[..., None, :] + self.noise[..., None, :] * e
        return np.asarray(e @ np.linalg.inv(np.eye(d) - self.weights).swapaxes(-1, -2))


def _weights(random: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    return np.asarray(random.uniform(0.5, 1.5, shape) * random.choice([-1.0, 1.0], shape))
