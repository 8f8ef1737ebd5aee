"""The network in NumPy: prediction without torch, the same outputs as :mod:`farfield.curves.pfn.network` to 1e-5.

Everything goes through a few large matrix products, in single precision or, where answers must not depend on the batch beyond
1e-9, in double. Scales and shifts of the normalisations are folded
into the linear maps behind them when a network is loaded. Curves of like length share a pass; what is padded is masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.curves.pfn.architecture import Architecture, FloatArray, IntArray, asked_inputs, context_inputs, units
from farfield.errors import FormatError

Array = NDArray[np.floating]
_GELU = float(np.sqrt(2 / np.pi))
_CUBE = 0.044715
_HIDDEN = -1e30
# rows of a perceptron at a time: the hidden values stay in the cache
_ROWS = 512


@dataclass(frozen=True, eq=False)
class Linear:
    """x -> x weight + bias, for x (..., inputs)."""

    weight: Array  # (inputs, outputs)
    bias: Array

    def __call__(self, x: Array) -> Array:
        out = x.reshape(-1, x.shape[-1]) @ self.weight
        out += self.bias
        return out.reshape(*x.shape[:-1], -1)


@dataclass(frozen=True, eq=False)
class Perceptron:
    """Linear, GELU, linear."""

    first: Linear
    second: Linear

    def __call__(self, x: Array) -> Array:
        rows = x.reshape(-1, x.shape[-1])
        out = np.empty((len(rows), self.second.weight.shape[1]), dtype=x.dtype)
        for start in range(0, len(rows), _ROWS):
            out[start : start + _ROWS] = self.second(gelu(self.first(rows[start : start + _ROWS])))
        return out.reshape(*x.shape[:-1], -1)


@dataclass(frozen=True, eq=False)
class Layer:
    """Attention to the context, then a perceptron; normalisations are folded into `project` and `perceptron`."""

    project: Linear  # to queries, keys and values
    out: Linear
    perceptron: Perceptron


@dataclass(frozen=True, eq=False)
class Engine:
    """A network ready to predict."""

    arch: Architecture
    context: Perceptron
    asked: Perceptron
    layers: tuple[Layer, ...]
    pointer_query: Linear
    pointer_key: Linear
    head: Perceptron

    @classmethod
    def of(cls, arch: Architecture, tensors: Mapping[str, Array], dtype: type[np.floating] = np.float32) -> Engine:
        """From tensors named and laid out as in the torch network; FormatError where one is missing or has another shape."""
        width = arch.width
        sizes = {
            "context": (arch.context_inputs, width, width),
            "asked": (arch.asked_inputs, width, width),
            "head": (width, arch.hidden, arch.outputs),
        }

        def get(name: str, *shape: int) -> Array:
            if name not in tensors or tensors[name].shape != shape:
                got = tensors[name].shape if name in tensors else "nothing"
                raise FormatError(f"not a network of this architecture: {name} is {got}; expected shape {shape}")
            return np.asarray(tensors[name], dtype=dtype)

        def linear(name: str, inputs: int, outputs: int, norm: str | None = None) -> Linear:
            weight, bias = get(f"{name}.weight", outputs, inputs), get(f"{name}.bias", outputs)
            if norm is None:
                return Linear(np.ascontiguousarray(weight.T), bias)
            scale, shift = (get(f"{norm}.{part}", inputs).astype(np.float64) for part in ("weight", "bias"))
            wide = weight.astype(np.float64)
            return Linear(np.ascontiguousarray((wide * scale).T.astype(dtype)), (bias + wide @ shift).astype(dtype))

        def perceptron(name: str, inputs: int, hidden: int, outputs: int, norm: str | None = None) -> Perceptron:
            return Perceptron(linear(f"{name}.0", inputs, hidden, norm), linear(f"{name}.2", hidden, outputs))

        layers = []
        for i in range(arch.layers):
            at = f"layers.{i}"
            query = linear(f"{at}.attention.query", width, width, f"{at}.norm_attention")
            read = linear(f"{at}.attention.key_value", width, 2 * width, f"{at}.norm_attention")
            project = Linear(np.hstack([query.weight, read.weight]), np.hstack([query.bias, read.bias]))
            out = linear(f"{at}.attention.out", width, width)
            layers.append(Layer(project, out, perceptron(f"{at}.perceptron", width, arch.hidden, width, f"{at}.norm_perceptron")))
        pointers = arch.pointers * arch.pointer_width
        return cls(
            arch,
            perceptron("context", *sizes["context"]),
            perceptron("asked", *sizes["asked"]),
            tuple(layers),
            linear("pointer_query", width, pointers, "norm_asked"),
            linear("pointer_key", width, pointers, "norm_context"),
            perceptron("head", *sizes["head"], "norm_asked"),
        )

    def __call__(
        self, x: FloatArray, y: FloatArray, cut: IntArray, at: FloatArray, horizon: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mixtures (weight, location, scale), (n, q, components) each.

        x, y : (n, m) curves, x above 0; what lies beyond a curve's last cut may be any finite numbers
        cut, at : (n, q) points seen, and position asked, of every question
        horizon : (n,) planned last step or NaN
        """
        arch, dtype = self.arch, self.head.first.weight.dtype
        c = self.context(context_inputs(x, y, arch).astype(dtype))
        a = self.asked(asked_inputs(x, cut, at, horizon, arch).astype(dtype))
        unit = np.take_along_axis(units(y, arch), cut - 1, axis=1)[:, :, None]
        m = y.shape[1]
        later = np.triu(np.full((m, m), _HIDDEN, dtype=dtype), 1)
        beyond = np.where(np.arange(m) < cut[:, :, None], 0.0, _HIDDEN).astype(dtype)[:, None]
        for layer in self.layers:
            normed = normalised(c)
            query, key, value = _split(layer.project(normed), 3, arch.heads)
            asking = normalised(a).reshape(-1, arch.width) @ layer.project.weight[:, : arch.width]
            asking += layer.project.bias[: arch.width]
            (asked,) = _split(asking.reshape(a.shape), 1, arch.heads)
            a += layer.out(_mix(asked, key, value, beyond))
            a += layer.perceptron(normalised(a))
            c += layer.out(_mix(query, key, value, later))
            c += layer.perceptron(normalised(c))
        c, a = normalised(c), normalised(a)
        (query,) = _split(self.pointer_query(a), 1, arch.pointers)
        (key,) = _split(self.pointer_key(c), 1, arch.pointers)
        weight = _weights(query, key, beyond)
        # a sum, not a product with a vector, whose rounding would depend on the number of curves
        pointed = (weight * y[:, None, None]).sum(-1).transpose(0, 2, 1)
        out = self.head(a).reshape(*at.shape, arch.components, -1).astype(np.float64)
        share = out[..., 5:]
        share = share - share.mean(-1, keepdims=True) + 1 / arch.pointers
        loc = (share * pointed[:, :, None]).sum(-1) + unit * out[..., 1] + 0.3 * out[..., 2]
        scale = unit * np.exp(out[..., 3]) + np.exp(out[..., 4] - 4) + arch.least_scale
        mass = np.exp(out[..., 0] - out[..., 0].max(-1, keepdims=True))
        return mass / mass.sum(-1, keepdims=True), loc, scale


def gelu(x: Array) -> Array:
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2; overwrites nothing."""
    inner = x * x
    inner *= _CUBE
    inner += 1
    inner *= x
    inner *= _GELU
    np.tanh(inner, out=inner)
    inner += 1
    inner *= x
    inner *= 0.5
    return np.asarray(inner)


def normalised(x: Array) -> Array:
    """Rows of mean 0 and variance 1 (with 1e-5 added to the variance, as torch does)."""
    out: Array = x - x.mean(-1, keepdims=True)
    variance = np.einsum("...i,...i->...", out, out)[..., None] / x.shape[-1]
    out /= np.sqrt(variance + 1e-5)
    return out


def _split(x: Array, parts: int, heads: int) -> tuple[Array, ...]:
    """(n, m, parts * width) as `parts` arrays (n, heads, m, width / heads)."""
    n, m, _ = x.shape
    return tuple(np.ascontiguousarray(x.reshape(n, m, parts, heads, -1).transpose(2, 0, 3, 1, 4)))


def _weights(query: Array, key: Array, mask: Array) -> Array:
    """Softmax of scaled scores (n, heads, q, m), with `mask` added."""
    score = np.matmul(query * query.shape[-1] ** -0.5, key.transpose(0, 1, 3, 2))
    score += mask
    score -= score.max(-1, keepdims=True)
    np.exp(score, out=score)
    score /= score.sum(-1, keepdims=True)
    return np.asarray(score)


def _mix(query: Array, key: Array, value: Array, mask: Array) -> Array:
    """Attention of queries (n, heads, q, d) to m keys and values, heads joined: (n, q, heads * d)."""
    n, heads, q, d = query.shape
    return np.asarray(np.matmul(_weights(query, key, mask), value).transpose(0, 2, 1, 3).reshape(n, q, heads * d))
