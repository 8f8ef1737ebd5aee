"""The network in NumPy and compiled loops: prediction without torch, the outputs of :mod:`farfield.curves.pfn.network` to 1e-5.

Tokens lie in tiles of `TILE` rows, each curve's seen tokens in the first of its own, and every matrix product is one of a tile. So
what a curve gives depends neither on the other curves of the batch nor on their number, to the bit, although it is computed in
single precision: a product of another shape would round differently. What is worked on stays in the cache.

What is constant is folded into the weights when a network is loaded: scales and shifts of the normalisations, the scale of the
scores, the bias of the values, that shares sum to 1; the bias of the keys changes no softmax and is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from farfield.curves.pfn.architecture import Architecture, FloatArray, IntArray, asked_inputs, context_inputs, units
from farfield.curves.pfn.between import TANH, TILE, Array, attend, normed, point
from farfield.errors import FormatError
from farfield.processors import threads

# tokens worked on at a time, and rows of a perceptron: these stay in the cache
_TOKENS = 512
_ROWS = 512
_MOST_THREADS = 4


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
    """Linear, GELU, linear, for x (..., inputs)."""

    first: Linear
    second: Linear  # its weight halved: what it reads is twice GELU

    @classmethod
    def of(cls, first: Linear, second: Linear) -> Perceptron:
        return cls(first, Linear(second.weight / 2, second.bias))

    def __call__(self, x: Array) -> Array:
        out = self.unbiased(x)
        out += self.second.bias
        return out

    def by_rows(self, x: Array) -> Array:
        """Of all rows together, whose bits may depend on how many there are; some at a time, which stay in the cache."""
        rows = x.reshape(-1, x.shape[-1])
        out = np.empty((len(rows), self.second.bias.size), dtype=x.dtype)
        for start in range(0, len(rows), _ROWS):
            out[start : start + _ROWS] = self(rows[start : start + _ROWS])
        return out.reshape(*x.shape[:-1], -1)

    def unbiased(self, x: Array, hidden: Array | None = None, out: Array | None = None) -> Array:
        """Without the last bias, and into `out`; `hidden` is room for what is between."""
        return np.matmul(TANH(np.matmul(x, self.first.weight, out=hidden), self.first.bias), self.second.weight, out=out)


@dataclass(frozen=True, eq=False)
class Layer:
    """Attention to the context, then a perceptron; normalisations are folded into the maps."""

    query: Linear
    read: Array  # keys and values
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
    pointer_key: Array
    head: Perceptron

    @classmethod
    def of(cls, arch: Architecture, tensors: Mapping[str, Array], dtype: type[np.floating] = np.float32) -> Engine:
        """From tensors named and laid out as in the torch network; FormatError where one is missing or has another shape."""
        width = arch.width

        def get(name: str, *shape: int) -> FloatArray:
            if name not in tensors or tensors[name].shape != shape:
                got = tensors[name].shape if name in tensors else "nothing"
                raise FormatError(f"not a network of this architecture: {name} is {got}; expected shape {shape}")
            return np.asarray(tensors[name], dtype=np.float64)

        def linear(name: str, inputs: int, outputs: int, norm: str | None = None) -> tuple[FloatArray, FloatArray]:
            weight, bias = get(f"{name}.weight", outputs, inputs), get(f"{name}.bias", outputs)
            if norm is not None:
                bias = bias + weight @ get(f"{norm}.bias", inputs)
                weight = weight * get(f"{norm}.weight", inputs)
            return weight.T, bias

        def cast(weight: FloatArray, bias: FloatArray) -> Linear:
            return Linear(np.ascontiguousarray(weight, dtype=dtype), bias.astype(dtype))

        def shares(weight: FloatArray, bias: FloatArray) -> Linear:
            """Of the head: the shares of the pointers that a component's location is made of sum to 1."""
            weight, bias = (a.reshape(*a.shape[:-1], arch.components, -1).copy() for a in (weight, bias))
            weight[..., 5:] -= weight[..., 5:].mean(axis=-1, keepdims=True)
            bias[..., 5:] += 1 / arch.pointers - bias[..., 5:].mean(axis=-1, keepdims=True)
            return cast(weight.reshape(len(weight), -1), bias.reshape(-1))

        def perceptron(name: str, inputs: int, hidden: int, outputs: int, norm: str | None = None) -> Perceptron:
            last = shares if name == "head" else cast
            return Perceptron.of(cast(*linear(f"{name}.0", inputs, hidden, norm)), last(*linear(f"{name}.2", hidden, outputs)))

        layers = []
        for i in range(arch.layers):
            at = f"layers.{i}"
            query, query_bias = linear(f"{at}.attention.query", width, width, f"{at}.norm_attention")
            read, read_bias = linear(f"{at}.attention.key_value", width, 2 * width, f"{at}.norm_attention")
            out, out_bias = linear(f"{at}.attention.out", width, width)
            root = (width / arch.heads) ** -0.5
            layers.append(
                Layer(
                    cast(query * root, query_bias * root),
                    cast(read, read_bias).weight,
                    cast(out, out_bias + read_bias[width:] @ out),
                    perceptron(f"{at}.perceptron", width, arch.hidden, width, f"{at}.norm_perceptron"),
                )
            )
        pointers = arch.pointers * arch.pointer_width
        query, query_bias = linear("pointer_query", width, pointers, "norm_asked")
        root = arch.pointer_width**-0.5
        return cls(
            arch,
            perceptron("context", arch.context_inputs, width, width),
            perceptron("asked", arch.asked_inputs, width, width),
            tuple(layers),
            cast(query * root, query_bias * root),
            cast(*linear("pointer_key", width, pointers, "norm_context")).weight,
            perceptron("head", width, arch.hidden, arch.outputs, "norm_asked"),
        )

    def __call__(
        self, x: FloatArray, y: FloatArray, cut: IntArray, at: FloatArray, horizon: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mixtures (weight, location, scale), (n, q, components) each.

        x, y : (n, m) curves, x above 0; what lies beyond a curve's last cut may be any finite numbers
        cut, at : (n, q) points seen, and position asked, of every question
        horizon : (n,) planned last step or NaN
        """
        arch = self.arch
        seen, asked = context_inputs(x, y, arch), asked_inputs(x, cut, at, horizon, arch)
        out, pointed = np.empty((*at.shape, arch.outputs)), np.empty((*at.shape, arch.pointers))
        # a curve is padded to tiles of its own, whatever the length of others
        tiles = -(-cut.max(axis=1) // TILE)
        parts = []
        for count in np.unique(tiles):
            alike = np.flatnonzero(tiles == count)
            step = max(1, _TOKENS // (int(count) * TILE + at.shape[1]))
            parts += [(int(count), alike[start : start + step]) for start in range(0, alike.size, step)]

        def answer(part: tuple[int, IntArray]) -> None:
            count, rows = part
            out[rows], pointed[rows] = self._answers(seen[rows], asked[rows], y[rows], cut[rows], count)

        workers = threads(min(_MOST_THREADS, len(parts)))
        if workers > 1:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(answer, parts))
        else:
            for part in parts:
                answer(part)
        unit = np.take_along_axis(units(y, arch), cut - 1, axis=1)[:, :, None]
        out = out.reshape(*at.shape, arch.components, -1)
        loc = np.einsum("nqcp,nqp->nqc", out[..., 5:], pointed) + unit * out[..., 1] + 0.3 * out[..., 2]
        scale = unit * np.exp(out[..., 3]) + np.exp(out[..., 4] - 4) + arch.least_scale
        mass = np.exp(out[..., 0] - out[..., 0].max(-1, keepdims=True))
        return mass / mass.sum(-1, keepdims=True), loc, scale

    def _answers(self, seen: FloatArray, asked: FloatArray, y: FloatArray, cut: IntArray, count: int) -> tuple[Array, FloatArray]:
        """Outputs (n, q, outputs) and what the pointers point at (n, q, pointers), of curves of `count` tiles each."""
        arch, dtype = self.arch, self.pointer_key.dtype
        n, q = cut.shape
        m = count * TILE
        first, second = self.context(_tiles(seen[:, :m], dtype)), self.asked(_tiles(asked, dtype))
        tokens = np.concatenate([first, second], axis=1)
        rows = tokens.shape[1] * TILE
        # a seen token reads up to itself
        until = np.ones((n, rows), dtype=np.int64)
        until[:, :m], until[:, m : m + q] = np.arange(1, m + 1), cut
        z = normed(tokens)
        query, more, hidden = np.empty_like(z), np.empty_like(z), np.empty((*z.shape[:-1], arch.hidden), dtype=dtype)
        for layer in self.layers:
            np.matmul(z, layer.query.weight, out=query)
            key, value = np.split(np.matmul(z[:, :count], layer.read).reshape(n, m, -1), 2, axis=-1)
            mixed = attend(query.reshape(n, rows, -1), layer.query.bias, key, value, arch.heads, until=until)
            np.matmul(mixed.reshape(z.shape), layer.out.weight, out=more)
            normed(tokens, more, layer.out.bias, out=z)
            layer.perceptron.unbiased(z, hidden, more)
            normed(tokens, more, layer.perceptron.second.bias, out=z)
        a = z[:, count:]
        asking = np.matmul(a, self.pointer_query.weight).reshape(n, rows - m, -1)
        key = np.matmul(z[:, :count], self.pointer_key).reshape(n, m, -1)
        values = np.zeros((n, m))
        values[:, : y.shape[1]] = y[:, :m]
        pointed = point(asking, self.pointer_query.bias, key, values, arch.pointers, np.ascontiguousarray(until[:, m:]))
        return self.head(a).reshape(n, -1, arch.outputs)[:, :q], pointed[:, :q]


def _tiles(inputs: FloatArray, dtype: np.dtype[np.floating]) -> Array:
    """(n, k, inputs) as (n, tiles, 16, inputs), padded with zeros."""
    n, k, width = inputs.shape
    out = np.zeros((n, -(-k // TILE) * TILE, width), dtype=dtype)
    out[:, :k] = inputs
    return out.reshape(n, -1, TILE, width)
