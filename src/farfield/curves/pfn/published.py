"""The network as it was published (Adriaensen et al. 2023): for those who have its weights, and to measure ours against.

    seen token    W_t z(t) + W_y z(y)        z(t) = (t / 101 - 1/2) sqrt(12), z(y) = (y - 1/2) sqrt(12)
    asked token   W_t z(t)
    a layer       x <- norm(x + attention(x)), x <- norm(x + W_2 gelu(W_1 x)); all attend to the seen, asked ones also to themselves
    head          W_4 gelu(W_3 x): logits of 1000 bars whose ends are half-normals (the Riemann distribution)

It is for steps 1 ... 100 and rising curves within [0, 1]. Unlike in the published code, quantiles are right within the two tails
(`farfield.predictive.Bars`), and a batch costs less than its curves one by one.

The outputs are those of the published layers to 1e-5, for three quarters of their arithmetic. With one head a score is
x_i (W_q W_k') x_j': keys are the tokens themselves, and values carry the output map, W_v W_o. What a key's bias adds to the
scores of a query changes no softmax, the values' bias and the shift of a normalisation go into the biases that follow. The first
layer's maps are composed with the embedding of three numbers a token. In the last layer nobody reads the seen tokens.
Elementwise work goes through pieces that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.curves.pfn.engine import Array
from farfield.errors import FormatError, InputError
from farfield.predictive import Bars
from farfield.predictive.base import FloatArray

_ROOT = float(np.sqrt(12.0))
_HEAD_WIDTH = 128
_TILE, _COLUMNS = 16, 128
# tokens worked on at a time, and hidden values
_TOKENS = 512
_PIECE = 1 << 16
# With x = _UNIT z, GELU(z) = x (1 + tanh(x P(x^2) / Q(x^2))) / (2 _UNIT) within 1.2e-7, a minimax fit; the unit makes P and Q monic
_UNIT = 0.25840585227156215
_P = (4.355216520264651, 7.883123645055049, 6.407928656534856)
_Q = (1.410491221685712, 1.5913821841634928)


@dataclass(frozen=True, eq=False)
class _Map:
    """x -> x weight + bias, 16 rows by 128 columns at a time: so small that nothing is rearranged first, and the cache holds it."""

    weights: tuple[Array, ...]  # (inputs, 128 or fewer) each
    bias: Array | None

    @classmethod
    def of(cls, weight: FloatArray, bias: FloatArray | None = None) -> _Map:
        parts = np.split(weight, range(_COLUMNS, weight.shape[1], _COLUMNS), axis=1)
        return cls(
            tuple(np.ascontiguousarray(w, dtype=np.float32) for w in parts), None if bias is None else bias.astype(np.float32)
        )

    @property
    def outputs(self) -> int:
        return sum(w.shape[1] for w in self.weights)

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        if out is None:
            out = np.empty((*x.shape[:-1], self.outputs), dtype=np.float32)
        rows, found = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
        tiled = len(rows) // _TILE * _TILE
        at = 0
        for weight in self.weights:
            columns = slice(at, at + weight.shape[1])
            np.matmul(
                rows[:tiled].reshape(-1, _TILE, x.shape[-1]),
                weight,
                out=found[:tiled].reshape(-1, _TILE, out.shape[-1])[..., columns],
            )
            if tiled < len(rows):
                np.matmul(rows[tiled:], weight, out=found[tiled:, columns])
            at = columns.stop
        if self.bias is not None:
            out += self.bias
        return out


@dataclass(frozen=True, eq=False)
class _Layer:
    query: _Map
    key: _Map | None  # None: the tokens themselves
    value: _Map
    out: _Map | None  # None: within the values
    out_bias: Array
    perceptron: tuple[_Map, _Map]
    scales: tuple[Array, Array]  # of the normalisations


@dataclass(frozen=True, eq=False, repr=False)
class PublishedNetwork:
    """The published network in NumPy, single precision."""

    embedding: _Map  # of z(t), whether seen, and z(y)
    layers: tuple[_Layer, ...]
    head: tuple[_Map, _Map]
    borders: FloatArray

    @classmethod
    def of(cls, state: Mapping[str, NDArray[np.floating]], borders: ArrayLike) -> PublishedNetwork:
        """From the arrays of the published module's ``state_dict()`` and the borders of its bars, (n_bars + 1,).

        Raises FormatError where a tensor is missing.
        """

        def get(name: str) -> FloatArray:
            if name not in state:
                raise FormatError(f"not a network of the published code: it has no {name}")
            return np.asarray(state[name], dtype=np.float64)

        def perceptron(first: str, second: str, lack: FloatArray, later: FloatArray | float = 0.0) -> tuple[_Map, _Map]:
            """Of tokens that lack a constant; `later` is added to the outputs. Between the maps is 2 _UNIT times GELU."""
            inner, outer = get(f"{first}.weight").T, get(f"{second}.weight").T
            return (
                _Map.of(_UNIT * inner, _UNIT * (get(f"{first}.bias") + lack @ inner)),
                _Map.of(outer / (2 * _UNIT), get(f"{second}.bias") + later),
            )

        # tokens are inputs @ embed + shift
        time, value = get("encoder.2.weight"), get("y_encoder.1.weight")
        embed, shift = np.stack([time[:, 0], get("y_encoder.1.bias"), value[:, 0]]), get("encoder.2.bias")
        width = len(shift)
        heads = _heads(width)
        layers: list[_Layer] = []
        # what the numbers handed from layer to layer lack of the tokens
        lack = np.zeros(width)
        while f"transformer_encoder.layers.{len(layers)}.linear1.weight" in state:
            at = f"transformer_encoder.layers.{len(layers)}"
            wq, wk, wv = (w.T for w in np.split(get(f"{at}.self_attn.in_proj_weight"), 3))
            bq, _, bv = np.split(get(f"{at}.self_attn.in_proj_bias"), 3)
            wo = get(f"{at}.self_attn.out_proj.weight").T
            source, offset = (np.eye(width), lack) if layers else (embed, shift)
            out_bias = get(f"{at}.self_attn.out_proj.bias") + (bv + offset @ wv) @ wo + lack
            wq, bq = wq * (width / heads) ** -0.5, bq * (width / heads) ** -0.5
            if heads == 1:
                wq, bq, wv = wq @ wk.T, bq @ wk.T, wv @ wo
            scales = tuple(get(f"{at}.norm{k}.weight").astype(np.float32) for k in (1, 2))
            between = get(f"{at}.norm1.bias")
            layers.append(
                _Layer(
                    _Map.of(source @ wq, offset @ wq + bq),
                    None if heads == 1 else _Map.of(source @ wk),
                    _Map.of(source @ wv),
                    None if heads == 1 else _Map.of(wo),
                    out_bias.astype(np.float32),
                    perceptron(f"{at}.linear1", f"{at}.linear2", between, between),
                    (scales[0], scales[1]),
                )
            )
            lack = get(f"{at}.norm2.bias")
        if not layers:
            raise FormatError("not a network of the published code: it has no transformer_encoder.layers.0")
        head = perceptron("decoder.0", "decoder.2", lack)
        return cls(_Map.of(embed, shift), tuple(layers), head, checks.finite("borders", borders, ndim=1))

    def logits(self, x: ArrayLike, y: ArrayLike, at: ArrayLike) -> Array:
        """(n, q, n_bars) for seen x, y (n, m) and asked `at` (n, q)."""
        xs, ys, asked = (checks.finite(name, v, ndim=2) for name, v in (("x", x), ("y", y), ("at", at)))
        if xs.shape != ys.shape or len(asked) != len(xs):
            raise InputError(f"x, y and at have shapes {xs.shape}, {ys.shape}, {asked.shape}; allowed: (n, m), (n, m) and (n, q)")
        n, seen = xs.shape
        inputs = np.zeros((n, seen + asked.shape[1], 3), dtype=np.float32)
        inputs[:, :seen, 0], inputs[:, seen:, 0] = (xs / 101.0 - 0.5) * _ROOT, (asked / 101.0 - 0.5) * _ROOT
        inputs[:, :seen, 1], inputs[:, :seen, 2] = 1.0, (ys - 0.5) * _ROOT
        out = np.empty((*asked.shape, self.head[1].outputs), dtype=np.float32)
        step = max(1, _TOKENS // inputs.shape[1])
        for start in range(0, n, step):
            self._answer(inputs[start : start + step], seen, out[start : start + step])
        return out

    def _answer(self, inputs: Array, seen: int, out: Array) -> None:
        source, tokens = inputs, self.embedding(inputs)
        for layer in self.layers:
            kept = seen if layer is self.layers[-1] else 0
            mixed = _attention(layer, source, tokens, seen, kept)
            mixed += layer.out_bias
            mixed += tokens[:, kept:]
            tokens = _normed(mixed, layer.scales[0])
            tokens += _perceptron(*layer.perceptron, tokens)
            source = tokens = _normed(tokens, layer.scales[1])
        _perceptron(*self.head, tokens, out)

    def predict(self, x: ArrayLike, y: ArrayLike, at: ArrayLike) -> Bars:
        """Posterior predictive (n, q) for seen x, y (n, m) and asked `at` (n, q), steps from 1 to 100, values within [0, 1]."""
        logits = self.logits(x, y, at).astype(np.float64)
        top = logits.max(axis=-1, keepdims=True)
        return Bars(self.borders, logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True)), tails=True)


def _heads(width: int) -> int:
    return max(width // _HEAD_WIDTH, 1)


def _attention(layer: _Layer, source: Array, tokens: Array, seen: int, kept: int) -> Array:
    """Of the tokens from `kept` on to the `seen` ones, and of each asked one to itself: (n, m - kept, width)."""
    n, m, width = tokens.shape
    heads = _heads(width)

    def by_head(x: Array) -> Array:
        return x.reshape(n, -1, heads, x.shape[-1] // heads).swapaxes(1, 2)

    # of the last layer nobody reads the seen tokens
    query = by_head(layer.query(source[:, kept:]))
    key = by_head(tokens if layer.key is None else layer.key(source))
    value = by_head(layer.value(source))
    weight = np.empty((n, heads, m - kept, seen + 1), dtype=np.float32)
    np.matmul(query, key[:, :, :seen].swapaxes(2, 3), out=weight[..., :seen])
    weight[:, :, : seen - kept, seen] = -np.inf
    weight[:, :, seen - kept :, seen] = np.einsum("nhqd,nhqd->nhq", query[:, :, seen - kept :], key[:, :, seen:])
    weight -= weight.max(axis=-1, keepdims=True)
    np.exp(weight, out=weight)
    weight /= weight.sum(axis=-1, keepdims=True)
    mixed = np.matmul(weight[..., :seen], value[:, :, :seen])
    mixed[:, :, seen - kept :] += weight[:, :, seen - kept :, seen:] * value[:, :, seen:]
    joined = np.ascontiguousarray(mixed.swapaxes(1, 2)).reshape(n, m - kept, width)
    return joined if layer.out is None else layer.out(joined)


def _normed(x: Array, scale: Array) -> Array:
    width = x.shape[-1]
    out: Array = x - np.matmul(x, np.full((width, 1), 1 / width, dtype=np.float32))
    square = np.einsum("...i,...i->...", out, out)[..., None]
    square *= 1 / width
    square += 1e-5
    out /= np.sqrt(square, out=square)
    out *= scale
    return out


def _perceptron(first: _Map, second: _Map, x: Array, out: Array | None = None) -> Array:
    """Both maps with GELU between them, into `out` where it is given."""
    hidden = first(x)
    flat = hidden.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        _gelu(flat[start : start + _PIECE])
    return second(hidden, out)


def _gelu(x: Array) -> None:
    """2 _UNIT GELU(x / _UNIT), in place."""
    square = x * x
    top = square + _P[2]
    top *= square
    top += _P[1]
    top *= square
    top += _P[0]
    low = square + _Q[1]
    low *= square
    low += _Q[0]
    top /= low
    top *= x
    np.tanh(top, out=top)
    top += 1
    x *= top
