"""The context network in NumPy: prediction without torch, the same outputs as :mod:`context_network` to 1e-5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from farfield.curves.pfn.architecture import FloatArray
from farfield.curves.pfn.between import Array, normed
from farfield.curves.pfn.context_architecture import ContextArchitecture
from farfield.curves.pfn.engine import Linear, Perceptron
from farfield.curves.pfn.questions import Asked
from farfield.errors import FormatError


@dataclass(frozen=True, eq=False)
class ContextLayer:
    """Attention of asked runs to the tokens, then a perceptron; normalisations of asked runs are folded into the maps."""

    query: Linear
    key_value: Linear
    out: Linear
    perceptron: Perceptron


@dataclass(frozen=True, eq=False)
class ContextEngine:
    """A context network ready to predict."""

    arch: ContextArchitecture
    tokens: Perceptron
    asked: Perceptron
    pairs: Perceptron
    norm_tokens: tuple[Array, Array]
    layers: tuple[ContextLayer, ...]
    norm_asked: tuple[Array, Array]
    pointer_query: Linear
    pointer_key: Linear
    head: Perceptron

    @classmethod
    def of(cls, arch: ContextArchitecture, tensors: Mapping[str, Array], dtype: type[np.floating] = np.float32) -> ContextEngine:
        """From tensors named and laid out as in the torch network; FormatError where one is missing or has another shape."""

        def get(name: str, *shape: int) -> Array:
            if name not in tensors or tensors[name].shape != shape:
                got = tensors[name].shape if name in tensors else "nothing"
                raise FormatError(f"not a context network of this architecture: {name} is {got}; expected shape {shape}")
            return np.asarray(tensors[name], dtype=dtype)

        def linear(name: str, inputs: int, outputs: int, norm: str | None = None) -> Linear:
            weight, bias = get(f"{name}.weight", outputs, inputs), get(f"{name}.bias", outputs)
            if norm is not None:
                scale, shift = (get(f"{norm}.{part}", inputs) for part in ("weight", "bias"))
                weight, bias = weight * scale, bias + weight @ shift
            return Linear(np.ascontiguousarray(weight.T), bias)

        def perceptron(name: str, inputs: int, hidden: int, outputs: int, norm: str | None = None) -> Perceptron:
            return Perceptron.of(linear(f"{name}.0", inputs, hidden, norm), linear(f"{name}.2", hidden, outputs))

        width, pointers = arch.width, arch.pointers * arch.pointer_width
        tokens, asked, pairs = arch.inputs
        layers = tuple(
            ContextLayer(
                linear(f"layers.{i}.query", width, width, f"layers.{i}.norm_attention"),
                linear(f"layers.{i}.key_value", width, 2 * width),
                linear(f"layers.{i}.out", width, width),
                perceptron(f"layers.{i}.perceptron", width, arch.hidden, width, f"layers.{i}.norm_perceptron"),
            )
            for i in range(arch.layers)
        )
        return cls(
            arch,
            perceptron("tokens", tokens, width, width),
            perceptron("asked", asked, width, width),
            perceptron("pairs", pairs, arch.pair_hidden, arch.biases),
            (get("norm_tokens.weight", width), get("norm_tokens.bias", width)),
            layers,
            (get("norm_asked.weight", width), get("norm_asked.bias", width)),
            linear("pointer_query", width, pointers),
            linear("pointer_key", width, pointers),
            perceptron("head", arch.head_inputs, arch.hidden, arch.outputs),
        )

    def __call__(self, asked: Asked) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mixtures (weight, location, scale) of normal scores, (B, p, components) each."""
        arch, dtype = self.arch, self.head.first.weight.dtype
        k = _scaled(self.tokens.by_rows(asked.tokens.astype(dtype)), self.norm_tokens)
        a = self.asked.by_rows(asked.targets.astype(dtype))
        bias = self.pairs.by_rows(asked.pairs.astype(dtype))
        bias = np.where(asked.shown[..., None], bias, -np.inf).transpose(0, 3, 1, 2)
        for i, layer in enumerate(self.layers):
            key, value = np.split(layer.key_value(k), 2, axis=-1)
            query = layer.query(normed(a))
            weight = _attention(_split(query, arch.heads), _split(key, arch.heads), bias[:, i * arch.heads : (i + 1) * arch.heads])
            mixed = (weight[..., :-1] @ _split(value, arch.heads)).transpose(0, 2, 1, 3)
            a = a + layer.out(mixed.reshape(a.shape))
            a = a + layer.perceptron.by_rows(normed(a))
        a = _scaled(a, self.norm_asked)
        query, key = _split(self.pointer_query(a), arch.pointers), _split(self.pointer_key(k), arch.pointers)
        share = _attention(query, key, bias[:, arch.layers * arch.heads :]).transpose(0, 2, 1, 3).astype(np.float64)
        pointed = share[..., :-1] @ asked.guesses
        variance = np.maximum(share[..., :-1] @ asked.guesses**2 - pointed**2, 0.0)
        flat = (*pointed.shape[:2], -1)
        pointed = pointed.reshape(flat)
        features = np.concatenate([a, pointed, np.log(variance + 0.01).reshape(flat) / 2, share[..., -1]], axis=-1)
        out = self.head.by_rows(features.astype(dtype)).astype(np.float64).reshape(*flat[:2], arch.components, -1)
        mass = np.exp(out[..., 0] - out[..., 0].max(-1, keepdims=True))
        loc = (out[..., 3:] * pointed[:, :, None]).sum(-1) + out[..., 1]
        return mass / mass.sum(-1, keepdims=True), loc, np.exp(out[..., 2]) + arch.least_scale


def _scaled(x: Array, norm: tuple[Array, Array]) -> Array:
    return np.asarray(normed(x, scale=norm[0]) + norm[1])


def _split(x: Array, heads: int) -> Array:
    """(B, k, heads * d) as (B, heads, k, d)."""
    b, k, _ = x.shape
    return np.ascontiguousarray(x.reshape(b, k, heads, -1).transpose(0, 2, 1, 3))


def _attention(query: Array, key: Array, bias: Array) -> Array:
    """Softmax weights (B, heads, p, k + 1), the last for a key of zeros."""
    score = np.matmul(query, key.transpose(0, 1, 3, 2)) * query.shape[-1] ** -0.5 + bias
    score = np.concatenate([score, np.zeros_like(score[..., :1])], axis=-1)
    score -= score.max(axis=-1, keepdims=True)
    np.exp(score, out=score)
    return np.asarray(score / score.sum(axis=-1, keepdims=True))
