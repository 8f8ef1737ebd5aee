"""The context network in torch, for training. :mod:`farfield.curves.pfn.context_engine` is the same function in NumPy.

It stands on the first network, which answers for every run by itself and is left as it is, and learns the copula of a sweep: what
the answers of other runs say about the normal score of this one. An asked run attends to the tokens of `questions` (answered
questions of the other runs, and of its own beginning), with a bias that says how alike two runs are; pointers average the guesses
that belong to tokens. What comes out is a mixture of normals q for the score g, whose locations are linear in the pointed guesses.
The predicted density of z is f(z) q(g(z)) / phi(g(z)), with f the first network's and phi the standard normal: where q = phi,
nothing is changed. With nothing to attend to, a token of zeros remains.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farfield.curves.pfn.context_architecture import ContextArchitecture
from farfield.curves.pfn.network import perceptron


class ContextLayer(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """Attention of asked runs to the tokens, then a perceptron."""

    def __init__(self, arch: ContextArchitecture) -> None:
        super().__init__()
        self.heads = arch.heads
        self.norm_attention = nn.LayerNorm(arch.width)
        self.query = nn.Linear(arch.width, arch.width)
        self.key_value = nn.Linear(arch.width, 2 * arch.width)
        self.out = nn.Linear(arch.width, arch.width)
        self.norm_perceptron = nn.LayerNorm(arch.width)
        self.perceptron = perceptron(arch.width, arch.hidden, arch.width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.perceptron[2].weight)

    def forward(self, asked: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
        query = _split(self.query(self.norm_attention(asked)), self.heads)
        key, value = (_split(part, self.heads) for part in self.key_value(tokens).chunk(2, -1))
        weight = attention(query, key, bias)[..., :-1]
        asked = asked + self.out((weight @ value).transpose(1, 2).flatten(2))
        return asked + self.perceptron(self.norm_perceptron(asked))


class ContextNetwork(nn.Module):  # type: ignore[misc]
    """Mixtures (log weight, location, scale: (B, p, components) each) of the scores of asked runs, from `questions.Asked`."""

    def __init__(self, arch: ContextArchitecture) -> None:
        super().__init__()
        self.arch = arch
        tokens, targets, pairs = arch.inputs
        self.tokens = perceptron(tokens, arch.width, arch.width)
        self.asked = perceptron(targets, arch.width, arch.width)
        self.pairs = perceptron(pairs, arch.pair_hidden, arch.biases)
        self.norm_tokens = nn.LayerNorm(arch.width)
        self.layers = nn.ModuleList(ContextLayer(arch) for _ in range(arch.layers))
        self.norm_asked = nn.LayerNorm(arch.width)
        self.pointer_query = nn.Linear(arch.width, arch.pointers * arch.pointer_width)
        self.pointer_key = nn.Linear(arch.width, arch.pointers * arch.pointer_width)
        self.head = perceptron(arch.head_inputs, arch.hidden, arch.outputs)
        with torch.no_grad():
            self.head[2].weight.mul_(0.1)
            self.head[2].bias.zero_()

    def forward(
        self, tokens: Tensor, targets: Tensor, pairs: Tensor, shown: Tensor, guesses: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        arch = self.arch
        k, a = self.norm_tokens(self.tokens(tokens)), self.asked(targets)
        bias = self.pairs(pairs).masked_fill(~shown[..., None], -torch.inf).permute(0, 3, 1, 2)
        for i, layer in enumerate(self.layers):
            a = layer(a, k, bias[:, i * arch.heads : (i + 1) * arch.heads])
        a = self.norm_asked(a)
        query, key = _split(self.pointer_query(a), arch.pointers), _split(self.pointer_key(k), arch.pointers)
        share = attention(query, key, bias[:, arch.layers * arch.heads :]).transpose(1, 2)  # (B, p, pointers, k + 1)
        # the token of zeros guesses 0, the first network's median
        pointed = share[..., :-1] @ guesses
        variance = (share[..., :-1] @ guesses.square() - pointed.square()).clamp_min(0)
        pointed = pointed.flatten(2)
        out = self.head(torch.cat([a, pointed, torch.log(variance + 0.01).flatten(2) / 2, share[..., -1]], -1))
        out = out.unflatten(-1, (arch.components, -1))
        loc = (out[..., 3:] * pointed[:, :, None]).sum(-1) + out[..., 1]
        return F.log_softmax(out[..., 0], -1), loc, torch.exp(out[..., 2]) + arch.least_scale


def attention(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """Softmax weights (B, heads, p, k + 1) of scaled scores with `bias` added, the last for a key of zeros."""
    score = (query @ key.transpose(-1, -2)) / math.sqrt(query.shape[-1]) + bias
    return torch.softmax(F.pad(score, (0, 1)), -1)


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, k, heads * d) as (B, heads, k, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
