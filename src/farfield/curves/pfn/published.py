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
from farfield.curves.pfn.between import NORMAL, UNIT, Array, attend, normed
from farfield.errors import FormatError, InputError
from farfield.predictive import Bars
from farfield.predictive.base import FloatArray

_ROOT = float(np.sqrt(12.0))
_HEAD_WIDTH = 128
# products are so small that nothing is rearranged first, and the cache holds the weights
_TILES, _WEIGHTS = (20, 16), 1 << 15
# tokens worked on at a time
_TOKENS = 512


@dataclass(frozen=True, eq=False)
class _Map:
    """x -> x weight, some rows by some columns at a time."""

    weights: tuple[Array, ...]
    columns: tuple[slice, ...]
    bias: Array  # for who adds it

    @classmethod
    def of(cls, weight: FloatArray, bias: FloatArray | None = None) -> _Map:
        inputs, outputs = weight.shape
        step = max(64, _WEIGHTS // inputs // 64 * 64)
        columns = tuple(slice(start, min(start + step, outputs)) for start in range(0, outputs, step))
        shift = np.zeros(outputs) if bias is None else bias
        parts = tuple(np.ascontiguousarray(weight[:, c], dtype=np.float32) for c in columns)
        return cls(parts, columns, shift.astype(np.float32))

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """Without the bias."""
        if out is None:
            out = np.empty((*x.shape[:-1], self.bias.size), dtype=np.float32)
        rows, found = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
        tile = _TILES[0] if len(rows) % _TILES[0] == 0 else _TILES[-1]
        tiled = len(rows) // tile * tile
        read, filled = rows[:tiled].reshape(-1, tile, x.shape[-1]), found[:tiled].reshape(-1, tile, out.shape[-1])
        for weight, columns in zip(self.weights, self.columns, strict=True):
            np.matmul(read, weight, out=filled[..., columns])
            if tiled < len(rows):
                np.matmul(rows[tiled:], weight, out=found[tiled:, columns])
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

    embedding: _Map  # of t, whether seen, y, and 1
    layers: tuple[_Layer, ...]
    head: tuple[_Map, _Map]  # the last row of the second is its bias
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
            """Of tokens that lack a constant; `later` is added to the outputs. Between the maps is 2 UNIT times GELU."""
            inner, outer = get(f"{first}.weight").T, get(f"{second}.weight").T
            return (
                _Map.of(UNIT * inner, UNIT * (get(f"{first}.bias") + lack @ inner)),
                _Map.of(outer / (2 * UNIT), get(f"{second}.bias") + later),
            )

        # tokens are t, whether seen, y and 1 times this
        time, value = _ROOT * get("encoder.2.weight")[:, 0], _ROOT * get("y_encoder.1.weight")[:, 0]
        embed = np.stack([time / 101, get("y_encoder.1.bias") - value / 2, value, get("encoder.2.bias") - time / 2])
        width = len(time)
        heads = _heads(width)
        layers: list[_Layer] = []
        # what the numbers handed from layer to layer lack of the tokens
        lack = np.zeros(width)
        while f"transformer_encoder.layers.{len(layers)}.linear1.weight" in state:
            at = f"transformer_encoder.layers.{len(layers)}"
            wq, wk, wv = (w.T for w in np.split(get(f"{at}.self_attn.in_proj_weight"), 3))
            bq, _, bv = np.split(get(f"{at}.self_attn.in_proj_bias"), 3)
            wo = get(f"{at}.self_attn.out_proj.weight").T
            source = np.eye(width) if layers else embed
            out_bias = get(f"{at}.self_attn.out_proj.bias") + (bv + lack @ wv) @ wo + lack
            wq, bq = wq * (width / heads) ** -0.5, bq * (width / heads) ** -0.5
            if heads == 1:
                wq, bq, wv = wq @ wk.T, bq @ wk.T, wv @ wo
            scales = tuple(get(f"{at}.norm{k}.weight").astype(np.float32) for k in (1, 2))
            between = get(f"{at}.norm1.bias")
            layers.append(
                _Layer(
                    _Map.of(source @ wq, lack @ wq + bq),
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
        first, last = perceptron("decoder.0", "decoder.2", lack)
        whole = np.concatenate([get("decoder.2.weight").T / (2 * UNIT), last.bias[None]])
        return cls(_Map.of(embed), tuple(layers), (first, _Map.of(whole)), checks.finite("borders", borders, ndim=1))

    def logits(self, x: ArrayLike, y: ArrayLike, at: ArrayLike) -> Array:
        """(n, q, n_bars) for seen x, y (n, m) and asked `at` (n, q)."""
        xs, ys, asked = (checks.numbers(name, v, ndim=2) for name, v in (("x", x), ("y", y), ("at", at)))
        if xs.shape != ys.shape or len(asked) != len(xs):
            raise InputError(f"x, y and at have shapes {xs.shape}, {ys.shape}, {asked.shape}; allowed: (n, m), (n, m) and (n, q)")
        n, seen = xs.shape
        inputs = np.zeros((n, seen + asked.shape[1], 4), dtype=np.float32)
        inputs[:, :seen, 0], inputs[:, seen:, 0] = xs, asked
        inputs[:, :seen, 1], inputs[:, :seen, 2], inputs[:, :, 3] = 1.0, ys, 1.0
        if not np.isfinite(inputs).all():
            for name, v in (("x", xs), ("y", ys), ("at", asked)):
                checks.finite(name, v)
        out = np.empty((*asked.shape, self.head[1].bias.size), dtype=np.float32)
        step = max(1, _TOKENS // inputs.shape[1])
        for start in range(0, n, step):
            self._answer(inputs[start : start + step], seen, out[start : start + step])
        return out

    def _answer(self, inputs: Array, seen: int, out: Array) -> None:
        source, tokens = inputs, self.embedding(inputs)
        for layer in self.layers:
            # of the last layer nobody reads the seen tokens
            kept = seen if layer is self.layers[-1] else 0
            rest = np.ascontiguousarray(tokens[:, kept:])
            asking = rest if source is tokens else source[:, kept:]
            key = tokens if layer.key is None else layer.key(source)
            mixed = attend(layer.query(asking), layer.query.bias, key, layer.value(source), _heads(tokens.shape[-1]), seen=seen)
            more = mixed if layer.out is None else layer.out(mixed)
            normed(rest, more, layer.out_bias, layer.scales[0], rest)
            first, second = layer.perceptron
            second(NORMAL(first(rest), first.bias), more)
            source = tokens = normed(rest, more, second.bias, layer.scales[1], rest)
        first, second = self.head
        hidden = np.empty((*tokens.shape[:-1], first.bias.size + 1), dtype=np.float32)
        hidden[..., -1] = 1.0
        NORMAL(first(tokens, hidden[..., :-1]), first.bias)
        second(hidden, out)

    def predict(self, x: ArrayLike, y: ArrayLike, at: ArrayLike) -> Bars:
        """Posterior predictive (n, q) for seen x, y (n, m) and asked `at` (n, q), steps from 1 to 100, values within [0, 1]."""
        logits = self.logits(x, y, at).astype(np.float64)
        top = logits.max(axis=-1, keepdims=True)
        return Bars(self.borders, logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True)), tails=True)


def _heads(width: int) -> int:
    return max(width // _HEAD_WIDTH, 1)
