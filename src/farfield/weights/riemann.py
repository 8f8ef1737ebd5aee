"""The loss change of an edit before it is evaluated: gradients on the way times the edit (P043, arXiv 2410.13841).

A Unified View of Delta Parameter Editing in Post-Trained Large-Scale Models: with d the change that an edit makes to the weights W,

    L(W + d) - L(W) = integral over c in [0, 1] of <grad L(W + c d), d>
                    ~ 1/C sum over k = 0 .. C - 1 of <grad L(W + (k / C) d), d>         (the paper's left sum, C points)

Its sign sorts edits into three classes: about zero, *competitive* (DARE, whose expected change is zero); above, *decreased*
(BitDelta, low rank, trimming); below, *improved* (extrapolation, while it descends). It is also a sum over tensors, so it says
where an edit does its harm.

Deviations: the midpoint rule is the default, its error falls with C^2 in place of C; what counts as about zero is a tolerance, by
default 1 % of the loss, since the paper names none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.weights.edits import DeltaEdit, survey

FloatArray = NDArray[np.float64]
Weights = Mapping[str, ArrayLike]
LossAndGradient = Callable[[dict[str, FloatArray]], tuple[float, Mapping[str, ArrayLike]]]


class EditClass(Enum):
    """What an edit does to the loss; the value is the advice."""

    COMPETITIVE = "keep the edit: the loss stays about where it was"
    DECREASED = "the edit costs quality: the loss rises"
    IMPROVED = "take the edit: the loss falls"


@dataclass(frozen=True)
class RiemannGap:
    """The estimated loss change of an edit.

    Attributes
    ----------
    estimate : loss after the edit less loss before it
    loss : at the first of the points (before the edit, with the left rule)
    slopes : (points,) <gradient, edit> on the way; their mean is the estimate
    by_tensor : the part of each tensor; they add up to the estimate
    tolerance : up to which a change counts as none
    status : the class, whose value is the advice
    """

    estimate: float
    loss: float
    slopes: FloatArray
    by_tensor: Mapping[str, float]
    tolerance: float

    @property
    def status(self) -> EditClass:
        if abs(self.estimate) <= self.tolerance:
            return EditClass.COMPETITIVE
        return EditClass.DECREASED if self.estimate > 0 else EditClass.IMPROVED

    def __repr__(self) -> str:
        return f"RiemannGap(estimate={self.estimate:+.4g}, {len(self.slopes)} points, {self.status.name.lower()})"

    def summary(self) -> str:
        """One line: the estimate, its class and the tensor that contributes most."""
        most = max(self.by_tensor, key=lambda n: abs(self.by_tensor[n]))
        return f"loss change {self.estimate:+.4g} from {self.loss:.4g}, most of it in {most}; {self.status.value}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "estimate": self.estimate,
            "loss": self.loss,
            "slopes": self.slopes.tolist(),
            "by_tensor": dict(self.by_tensor),
            "tolerance": self.tolerance,
            "status": self.status.name.lower(),
            "advice": self.status.value,
        }


def riemann_gap(
    loss_and_gradient: LossAndGradient,
    before: Weights,
    after: Weights,
    *,
    points: int = 8,
    rule: str = "midpoint",
    tolerance: float | None = None,
) -> RiemannGap:
    """Estimate the loss change from weights `before` an edit to those `after` it, from gradients on the way.

    Parameters
    ----------
    loss_and_gradient : called with weights, float64 arrays by name; returns the loss and its gradient by name. What it evaluates
        (a batch, a whole set) decides which loss is meant; dropout and the like must be off.
        :func:`farfield.weights.modules.loss_and_gradient` makes one of a torch module
    before, after : weights of the same names and shapes; entries that are not floats must not differ
    points : gradients evaluated
    rule : ``midpoint``, or ``left`` as in the paper
    tolerance : changes up to it count as none; by default 1 % of the loss at the first point

    Raises InputError for names or shapes that differ and losses or gradients that are not finite.
    Source: arXiv 2410.13841, section 3.
    """
    count = checks.count("points", points)
    checks.choice("rule", rule, ("midpoint", "left"))
    start, steps = _steps(before, after)
    parts: dict[str, list[float]] = {name: [] for name in steps}
    first_loss = 0.0
    for k in range(count):
        share = (k + 0.5) / count if rule == "midpoint" else k / count
        value, gradient = loss_and_gradient({n: v + share * steps[n] if n in steps else v for n, v in start.items()})
        missing = steps.keys() - gradient.keys()
        if missing:
            raise InputError(f"no gradient of {sorted(missing)[:3]}, which the edit changes; return one for each")
        if not np.isfinite(value):
            raise InputError(f"the loss is {value} at {share:.0%} of the edit; the estimate needs finite losses")
        first_loss = float(value) if k == 0 else first_loss
        for name, step in steps.items():
            slope = checks.finite(f"gradient of {name!r}", gradient[name], shape=step.shape)
            parts[name].append(float(np.sum(slope * step)))
    slopes = np.array([sum(values) for values in zip(*parts.values(), strict=True)]) if parts else np.zeros(count)
    by_tensor = {name: float(np.mean(values)) for name, values in parts.items()}
    limit = 0.01 * abs(first_loss) if tolerance is None else float(checks.finite("tolerance", tolerance, ndim=0))
    return RiemannGap(float(slopes.mean()), first_loss, slopes, by_tensor, limit)


def _steps(before: Weights, after: Weights) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """The weights in float64, and what changes of them."""
    if set(before) != set(after):
        raise InputError(f"the weights before and after hold different names: {sorted(set(before) ^ set(after))[:3]}")
    start: dict[str, FloatArray] = {}
    steps: dict[str, FloatArray] = {}
    for name in before:
        first, last = np.asarray(before[name]), np.asarray(after[name])
        if first.shape != last.shape:
            raise InputError(f"{name!r} has shape {first.shape} before and {last.shape} after the edit")
        if first.dtype.kind != "f" and not np.array_equal(first, last):
            raise InputError(f"{name!r} is {first.dtype} and changes; only floats have a gradient")
        start[name] = first.astype(np.float64) if first.dtype.kind == "f" else first
        if first.dtype.kind == "f" and not np.array_equal(first, last):
            steps[name] = last.astype(np.float64) - start[name]
    return start, steps


class _Held:
    def __init__(self, values: FloatArray) -> None:
        self.values, self.shape, self.size = values.reshape(-1), values.shape, values.size

    def read(self, start: int, stop: int) -> FloatArray:
        return self.values[start:stop].copy()


def edited(edit: DeltaEdit, base: Weights, *models: Weights) -> dict[str, NDArray[Any]]:
    """base + edit of the models' deltas, for weights in memory, in float64; what is not of floats comes from the base.

    ``edited(Sparse((1.0,), (Magnitude(0.2),)), pre, post)`` is the post-trained model with its delta trimmed to a fifth, as the
    same edit makes it of checkpoints. Raises InputError for names or shapes that differ.
    """
    arrays = [{name: np.asarray(values) for name, values in weights.items()} for weights in (base, *models)]
    for other in arrays[1:]:
        for name in arrays[0].keys() ^ other.keys():
            raise InputError(f"{name!r} is not in every model; give models of the same names")
        for name, values in other.items():
            if values.shape != arrays[0][name].shape:
                raise InputError(f"{name!r} has shape {arrays[0][name].shape} in the base and {values.shape} in a model")
    floats = [name for name, values in arrays[0].items() if values.dtype.kind == "f"]
    held = {name: [_Held(np.asarray(a[name], np.float64)) for a in arrays] for name in floats}
    edits = survey(dict.fromkeys(floats, edit), lambda name: held[name])
    out = dict(arrays[0])
    for name in floats:
        chosen = edits[name]
        assert chosen is not None
        chunks = [h.values for h in held[name]]
        out[name] = (chunks[0] + chosen.apply(chosen.prepare(name, held[name]), chunks, 0)).reshape(held[name][0].shape)
    return out
