"""The network as it was published (Adriaensen et al. 2023): for those who have its weights, and to measure ours against.

    seen token    W_t z(t) + W_y z(y)        z(t) = (t / 101 - 1/2) sqrt(12), z(y) = (y - 1/2) sqrt(12)
    asked token   W_t z(t)
    a layer       x <- norm(x + attention(x)), x <- norm(x + W_2 gelu(W_1 x)); all attend to the seen, asked ones also to themselves
    head          W_4 gelu(W_3 x): logits of 1000 bars whose ends are half-normals (the Riemann distribution)

It is for steps 1 ... 100 and rising curves within [0, 1]. Unlike in the published code, quantiles are right within the two tails
(`farfield.predictive.Bars`), and a batch costs less than its curves one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.curves.pfn.engine import Array, Linear
from farfield.errors import FormatError, InputError
from farfield.predictive import Bars
from farfield.predictive.base import FloatArray

_ROOT = float(np.sqrt(12.0))
_HEAD_WIDTH = 128
_ROWS = 256


@dataclass(frozen=True, eq=False)
class _Layer:
    project: Linear
    out: Linear
    first: Linear
    second: Linear
    norms: tuple[tuple[Array, Array], tuple[Array, Array]]


@dataclass(frozen=True, eq=False, repr=False)
class PublishedNetwork:
    """The published network in NumPy, single precision."""

    time: Linear
    value: Linear
    layers: tuple[_Layer, ...]
    head: tuple[Linear, Linear]
    borders: FloatArray

    @classmethod
    def of(cls, state: Mapping[str, NDArray[np.floating]], borders: ArrayLike) -> PublishedNetwork:
        """From the arrays of the published module's ``state_dict()`` and the borders of its bars, (n_bars + 1,).

        Raises FormatError where a tensor is missing.
        """

        def get(name: str) -> Array:
            if name not in state:
                raise FormatError(f"not a network of the published code: it has no {name}")
            return np.asarray(state[name], dtype=np.float32)

        def linear(weight: str, bias: str) -> Linear:
            return Linear(np.ascontiguousarray(get(weight).T), get(bias))

        def plain(name: str) -> Linear:
            return linear(f"{name}.weight", f"{name}.bias")

        layers: list[_Layer] = []
        while f"transformer_encoder.layers.{len(layers)}.linear1.weight" in state:
            at = f"transformer_encoder.layers.{len(layers)}"
            first, second = ((get(f"{at}.norm{k}.weight"), get(f"{at}.norm{k}.bias")) for k in (1, 2))
            layers.append(
                _Layer(
                    linear(f"{at}.self_attn.in_proj_weight", f"{at}.self_attn.in_proj_bias"),
                    plain(f"{at}.self_attn.out_proj"),
                    plain(f"{at}.linear1"),
                    plain(f"{at}.linear2"),
                    (first, second),
                )
            )
        if not layers:
            raise FormatError("not a network of the published code: it has no transformer_encoder.layers.0")
        return cls(
            plain("encoder.2"), plain("y_encoder.1"), tuple(layers), (plain("decoder.0"), plain("decoder.2")),
            checks.finite("borders", borders, ndim=1),
        )  # fmt: skip

    def logits(self, x: ArrayLike, y: ArrayLike, at: ArrayLike) -> Array:
        """(n, q, n_bars) for seen x, y (n, m) and asked `at` (n, q)."""
        xs, ys, asked = (checks.finite(name, v, ndim=2) for name, v in (("x", x), ("y", y), ("at", at)))
        if xs.shape != ys.shape or len(asked) != len(xs):
            raise InputError(f"x, y and at have shapes {xs.shape}, {ys.shape}, {asked.shape}; allowed: (n, m), (n, m) and (n, q)")

        def z(values: FloatArray, unit: float) -> Array:
            return ((values / unit - 0.5) * _ROOT).astype(np.float32)[..., None]

        seen = xs.shape[1]
        tokens = self.time(z(np.concatenate([xs, asked], axis=1), 101.0))
        tokens[:, :seen] += self.value(z(ys, 1.0))
        n, m, width = tokens.shape
        heads = max(width // _HEAD_WIDTH, 1)
        for k, layer in enumerate(self.layers):
            # of the last layer nobody reads the seen tokens
            kept = seen if k == len(self.layers) - 1 else 0
            both = layer.project(tokens).reshape(n, m, 3, heads, -1).transpose(2, 0, 3, 1, 4)
            query, key, value = both[0][:, :, kept:], both[1], both[2]
            query = query * float(query.shape[-1] ** -0.5)
            score = np.matmul(query, key[:, :, :seen].transpose(0, 1, 3, 2))
            own = np.einsum("nhqd,nhqd->nhq", query[:, :, seen - kept :], key[:, :, seen:])[..., None]
            top = score.max(-1, keepdims=True)
            top[:, :, seen - kept :] = np.maximum(top[:, :, seen - kept :], own)
            score -= top
            np.exp(score, out=score)
            own = np.exp(own - top[:, :, seen - kept :])
            total = score.sum(-1, keepdims=True)
            total[:, :, seen - kept :] += own
            mixed = np.matmul(score, value[:, :, :seen])
            mixed[:, :, seen - kept :] += own * value[:, :, seen:]
            mixed /= total
            tokens = tokens[:, kept:]
            tokens = tokens + layer.out(mixed.transpose(0, 2, 1, 3).reshape(n, m - kept, width))
            tokens = _normed(tokens, *layer.norms[0])
            tokens += _perceptron(layer.first, layer.second, tokens)
            tokens = _normed(tokens, *layer.norms[1])
        return _perceptron(*self.head, tokens)

    def predict(self, x: ArrayLike, y: ArrayLike, at: ArrayLike) -> Bars:
        """Posterior predictive (n, q) for seen x, y (n, m) and asked `at` (n, q), steps from 1 to 100, values within [0, 1]."""
        logits = self.logits(x, y, at).astype(np.float64)
        top = logits.max(axis=-1, keepdims=True)
        return Bars(self.borders, logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True)), tails=True)


def _normed(x: Array, scale: Array, shift: Array) -> Array:
    out: Array = x - x.mean(-1, keepdims=True)
    out /= np.sqrt(np.einsum("...i,...i->...", out, out)[..., None] / x.shape[-1] + 1e-5)
    out *= scale
    out += shift
    return out


def _perceptron(first: Linear, second: Linear, x: Array) -> Array:
    rows = x.reshape(-1, x.shape[-1])
    out = np.empty((len(rows), second.weight.shape[1]), dtype=x.dtype)
    for start in range(0, len(rows), _ROWS):
        out[start : start + _ROWS] = second(_gelu(first(rows[start : start + _ROWS])))
    return out.reshape(*x.shape[:-1], -1)


def _gelu(x: Array) -> Array:
    """x (1 + erf(x / sqrt 2)) / 2, erf by Abramowitz & Stegun 7.1.26 (error below 1.5e-7, what single precision holds)."""
    u = np.abs(x) * float(np.sqrt(0.5))
    t = u * 0.3275911
    t += 1
    np.reciprocal(t, out=t)
    u *= u
    np.negative(u, out=u)
    np.exp(u, out=u)
    p = t * 1.061405429
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        p += coefficient
        p *= t
    p *= u
    # p = erfc(|x| / sqrt 2)
    p *= 0.5
    np.abs(x, out=u)
    p *= u
    return np.asarray(np.maximum(x, 0) - p)
