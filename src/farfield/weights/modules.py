"""Torch modules under other weights: scored at points of the ray, or asked for gradients, and given their own back to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import formats
from farfield.errors import InputError, unknown_name
from farfield.weights.edits import Linear
from farfield.weights.kernel import combine

if TYPE_CHECKING:
    import torch
    from torch import nn

_BLOCK = 1 << 20  # elements combined at a time


def is_module(value: object) -> bool:
    """Whether this is a torch module, told without importing torch."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "named_parameters", None))


class ModulePoints:
    """tuned + alpha (tuned - base) in the module `tuned`, every element rounded once to the dtype it has there.

    Integer and boolean entries keep the tuned module's values. Raises InputError for modules whose entries differ.
    """

    def __init__(self, base: nn.Module, tuned: nn.Module) -> None:
        self.base, self.tuned = base, tuned
        if base is tuned:
            raise InputError("base and tuned are the same module; give two")
        first, second = base.state_dict(), tuned.state_dict()
        if set(first) != set(second):
            raise InputError(f"base and tuned hold different names: {sorted(set(first) ^ set(second))[:3]}")
        for name, value in second.items():
            if first[name].shape != value.shape:
                raise InputError(f"{name!r} has shape {tuple(first[name].shape)} in base and {tuple(value.shape)} in tuned")

    def evaluate(self, alpha: float, score: Callable[[Any], Any]) -> Any:
        """The score of the tuned module at this point; called without gradients."""
        import torch

        state = self.tuned.state_dict()
        kept = {name: value.clone() for name, value in state.items()}
        start = self.base.state_dict()
        with torch.no_grad():
            try:
                for name, value in state.items():
                    if value.is_floating_point():
                        value.copy_(_moved(kept[name], start[name], alpha))
                return score(self.tuned)
            finally:
                for name, value in state.items():
                    value.copy_(kept[name])


def _moved(tuned: torch.Tensor, base: torch.Tensor, alpha: float) -> torch.Tensor:
    import torch

    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    if tuned.dtype not in names or base.dtype not in names:
        raise InputError(f"entries of {tuned.dtype} and {base.dtype} are not moved; allowed: {', '.join(map(str, names))}")
    dtype = names[tuned.dtype]
    operands = []
    for tensor in (tuned, base):
        # through integers of the same width, since NumPy has no bfloat16
        whole = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
        operands.append((tensor.detach().cpu().contiguous().view(whole).numpy().reshape(-1), names[tensor.dtype]))
    edit = Linear((-alpha,))
    parts = []
    for at in range(0, tuned.numel(), _BLOCK):
        chunks = [formats.widen(raw[at : at + _BLOCK], name) for raw, name in operands]
        parts.append(combine(edit, None, chunks, at, dtype))
    raw = np.concatenate(parts) if parts else np.empty(0, formats.format_named(dtype).raw_dtype)
    signed = raw.view(f"<i{raw.itemsize}")
    return torch.from_numpy(signed).view(tuned.dtype).reshape(tuned.shape).to(tuned.device)


def loss_and_gradient(module: nn.Module, loss: Callable[[nn.Module], torch.Tensor]) -> Callable[..., Any]:
    """What :func:`farfield.weights.riemann.riemann_gap` calls, of a torch module and a loss of it.

    Parameters
    ----------
    module : parameters take the weights they are given, by name and in their own dtype; put it into eval mode
    loss : module -> scalar loss, over the data that are meant

    The function returned keeps the module's own weights as they were.
    """
    import torch

    def evaluate(weights: Mapping[str, ArrayLike]) -> tuple[float, dict[str, NDArray[np.float64]]]:
        named = dict(module.named_parameters())
        unknown = weights.keys() - named.keys() - dict(module.named_buffers()).keys()
        if unknown:
            raise unknown_name("parameter", sorted(unknown)[0], named)
        kept = {name: p.detach().clone() for name, p in named.items()}
        try:
            with torch.no_grad():
                for name, p in named.items():
                    if name in weights:
                        p.copy_(torch.as_tensor(np.asarray(weights[name])))
            value = loss(module)
            gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
        finally:
            with torch.no_grad():
                for name, p in named.items():
                    p.copy_(kept[name])
        out = {
            name: np.zeros(tuple(p.shape)) if g is None else g.detach().cpu().double().numpy()
            for (name, p), g in zip(named.items(), gradients, strict=True)
        }
        return float(value.detach()), out

    return evaluate
