"""The network in torch, for training. :mod:`farfield.curves.pfn.engine` is the same function in NumPy, for prediction.

Context tokens attend to themselves and to what came before; asked tokens attend to the context up to their own cut, and not to
each other. A cut belongs to an asked token, so that one pass over a curve trains many cuts of it, and a point that arrives later
leaves the earlier tokens as they are. Layers are normalised first (pre-norm).

The output is a mixture of normals. Its locations are linear combinations, with coefficients that sum to one, of a few averages
of the seen values (pointers: softmax attention whose values are the y themselves), shifted by multiples of the curve's unit and
of a constant; scales are a sum of the same two parts. Precision therefore comes from averaging, not from training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farfield.curves.pfn.architecture import Architecture


class Attention(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Multi-head attention of `asking` tokens (n, q, width) to `context` tokens (n, m, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)

    def forward(self, asking: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        n, q, width = asking.shape
        queries = self.query(asking).view(n, q, self.heads, -1).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)
        return self.out(mixed.transpose(1, 2).reshape(n, q, width))

    def read(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (n, heads, m, width / heads) of context tokens."""
        n, m, _ = context.shape
        both = self.key_value(context).view(n, m, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        return both[0], both[1]


class Layer(nn.Module):  # type: ignore[misc]
    """Attention to the context, then a perceptron; the same weights for context and asked tokens."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(arch.width)
        self.attention = Attention(arch.width, arch.heads)
        self.norm_perceptron = nn.LayerNorm(arch.width)
        self.perceptron = perceptron(arch.width, arch.hidden, arch.width)
        nn.init.zeros_(self.perceptron[2].weight)

    def forward(self, context: Tensor, asked: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.norm_attention(context)
        keys, values = self.attention.read(normed)
        asked = asked + self.attention(self.norm_attention(asked), keys, values, seen[:, None])
        context = context + self.attention(normed, keys, values, None)
        return (
            context + self.perceptron(self.norm_perceptron(context)),
            asked + self.perceptron(self.norm_perceptron(asked)),
        )


class Network(nn.Module):  # type: ignore[misc]
    """Mixtures (log weight, location, scale: (n, q, components) each) at asked positions, from the inputs of `architecture`."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.context = perceptron(arch.context_inputs, arch.width, arch.width)
        self.asked = perceptron(arch.asked_inputs, arch.width, arch.width)
        self.layers = nn.ModuleList(Layer(arch) for _ in range(arch.layers))
        self.norm_context = nn.LayerNorm(arch.width)
        self.norm_asked = nn.LayerNorm(arch.width)
        self.pointer_query = nn.Linear(arch.width, arch.pointers * arch.pointer_width)
        self.pointer_key = nn.Linear(arch.width, arch.pointers * arch.pointer_width)
        self.head = perceptron(arch.width, arch.hidden, arch.outputs)
        with torch.no_grad():
            self.head[2].weight.mul_(0.3)

    def forward(self, context: Tensor, asked: Tensor, y: Tensor, cut: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """context (n, m, inputs), asked (n, q, inputs), y (n, m), cut (n, q) points seen, unit (n, q) at the cut."""
        arch = self.arch
        seen = torch.arange(y.shape[1])[None, None] < cut[:, :, None]
        c, a = self.context(context), self.asked(asked)
        for layer in self.layers:
            c, a = layer(c, a, seen)
        c, a = self.norm_context(c), self.norm_asked(a)
        query = self.pointer_query(a).unflatten(-1, (arch.pointers, -1)).transpose(1, 2)
        key = self.pointer_key(c).unflatten(-1, (arch.pointers, -1)).transpose(1, 2)
        score = (query @ key.transpose(-1, -2)) / math.sqrt(arch.pointer_width)
        weight = torch.softmax(score.masked_fill(~seen[:, None], -torch.inf), -1)
        pointed = (weight @ y[:, None, :, None])[..., 0].transpose(1, 2)
        out = self.head(a).unflatten(-1, (arch.components, -1))
        log_weight = F.log_softmax(out[..., 0], -1)
        share = out[..., 5:]
        share = share - share.mean(-1, keepdim=True) + 1 / arch.pointers
        unit = unit[..., None]
        loc = (share * pointed[:, :, None]).sum(-1) + unit * out[..., 1] + 0.3 * out[..., 2]
        scale = unit * torch.exp(out[..., 3]) + torch.exp(out[..., 4] - 4) + arch.least_scale
        return log_weight, loc, scale


def log_likelihood(mixture: tuple[Tensor, Tensor, Tensor], y: Tensor) -> Tensor:
    """(n, q) log densities of values y (n, q) under mixtures of normals."""
    log_weight, loc, scale = mixture
    z = (y[..., None] - loc) / scale
    return torch.logsumexp(log_weight - 0.5 * z.square() - torch.log(scale), -1) - 0.5 * math.log(2 * math.pi)


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, GELU, linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, outputs))
