"""What lies between the matrix products of the networks: attention, normalisation and GELU, compiled or in NumPy.

The compiled loops (``loops/pfn.c``) pass over numbers once where NumPy does five to ten times, and take single precision whose
widths come in eights. Either way a row is computed from its own inputs, or in a product of a tile of `TILE` rows of its curve: what
it gives depends on no other curve, to the bit. The two ways differ by rounding, and by the exponentials of the loops, which are
within two last places.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from farfield import loops
from farfield.curves.pfn.architecture import FloatArray, IntArray

Array = NDArray[np.floating]
_HIDDEN = -1e30
_EPSILON = 1e-5  # torch's
_PIECE = 1 << 16  # numbers that NumPy works on at a time: they stay in the cache

_PLACE: Callable[[Array | FloatArray | IntArray], object] = (ctypes.c_char * 0).from_buffer  # type: ignore[assignment]
_AT, _INT = ctypes.c_void_p, ctypes.c_int64
_FUNCTIONS = {
    "farfield_pfn_runs": (ctypes.c_int32, ()),
    "farfield_pfn_gelu": (None, (_AT, _INT, _AT, _INT, _INT, _AT, ctypes.c_int32)),
    "farfield_pfn_normed": (None, (*5 * (_AT,), _INT, _INT)),
    "farfield_pfn_attend": (None, (*4 * (_AT,), _INT, _INT, *5 * (_AT,), *6 * (_INT,))),
}


@cache
def library() -> ctypes.CDLL | None:
    """The loops, or None where they are not compiled or this processor lacks what they use."""
    found = loops.library(_FUNCTIONS)
    return found if found is not None and found.farfield_pfn_runs() else None


# where there is AVX-512, OpenBLAS multiplies few rows without rearranging the other matrix first
TILE = 4 if (_LOOPS := library()) is not None and _LOOPS.farfield_pfn_runs() == 2 else 16


def _loops_for(x: Array, width: int) -> ctypes.CDLL | None:
    return library() if x.dtype == np.float32 and width % 8 == 0 else None


def _at(x: Array | FloatArray | IntArray | None) -> object:
    # a fifth of the time of x.ctypes.data, which for a single curve would be as long as what is done there
    if x is None:
        return None
    try:
        return _PLACE(x)
    except (BufferError, TypeError, ValueError):  # not contiguous, or not to be written to
        return int(x.__array_interface__["data"][0])


# -- GELU ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gelu:
    """z -> z (1 + tanh(z top(z^2) / low(z^2))): twice the GELU of z, or of z / u times 2 u. Coefficients from the constant on."""

    top: tuple[float, ...]  # four at most
    low: tuple[float, float, float] | None = None  # the last is 1
    _curve: NDArray[np.float32] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        top = -2 * np.array([*self.top, 0.0, 0.0, 0.0, 0.0])[:4]
        curve = np.concatenate([top, (self.low or (0.0, 0.0, 0.0))[:2]])
        object.__setattr__(self, "_curve", curve.astype(np.float32))

    def __call__(self, x: Array, bias: Array) -> Array:
        """Of x + bias, in place, for x (..., width) whose rows are contiguous and equally far apart."""
        width = x.shape[-1]
        compiled = _loops_for(x, width)
        if compiled is not None:
            stride = x.strides[-2] // x.itemsize
            compiled.farfield_pfn_gelu(_at(x), stride, _at(bias), x.size // width, width, _at(self._curve), self.low is not None)
            return x
        rows = x.view()
        rows.shape = (x.size // width, width)  # an error where it could not be a view
        for start in range(0, len(rows), piece := max(1, _PIECE // width)):
            part = rows[start : start + piece]
            part += bias
            self._in_place(part)
        return x

    def _in_place(self, x: Array) -> None:
        square = x * x
        inner = _polynomial(self.top, square)
        if self.low is not None:
            inner /= _polynomial(self.low, square)
        inner *= x
        np.tanh(inner, out=inner)
        inner += 1
        x *= inner


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    *rest, last = coefficients
    out = x + rest.pop() if last == 1 else x * last
    if last != 1:
        out += rest.pop()
    for c in reversed(rest):
        out *= x
        out += c
    return np.asarray(out)


_CURVE = float(np.sqrt(2 / np.pi))
# the approximation by tanh that torch has
TANH = Gelu((_CURVE, _CURVE * 0.044715))
# With z = UNIT x, twice UNIT GELU(x) within 1.2e-7, a minimax fit; the unit makes both polynomials monic
UNIT = 0.25840585227156215
NORMAL = Gelu((4.355216520264651, 7.883123645055049, 6.407928656534856, 1.0), (1.410491221685712, 1.5913821841634928, 1.0))


# -- normalisation ------------------------------------------------------------------------------------------------------------


def normed(
    x: Array, more: Array | None = None, bias: Array | None = None, scale: Array | None = None, out: Array | None = None
) -> Array:
    """x <- x + more + bias in place, and its rows with mean 0 and variance 1 (1e-5 added to it), times scale.

    x, more, out : contiguous (..., width), `out` may be x; without `more` x stays as it is
    """
    width = x.shape[-1]
    out = np.empty_like(x) if out is None else out
    compiled = _loops_for(x, width)
    if compiled is not None:
        assert x.flags.c_contiguous
        assert out.flags.c_contiguous
        assert more is None or more.flags.c_contiguous
        compiled.farfield_pfn_normed(_at(x), _at(more), _at(bias), _at(scale), _at(out), x.size // width, width)
        return out
    if more is not None and bias is not None:
        x += more
        x += bias
    np.subtract(x, x.mean(axis=-1, keepdims=True), out=out)
    square = np.einsum("...i,...i->...", out, out)[..., None]
    square *= 1 / width
    square += _EPSILON
    out /= np.sqrt(square, out=square)
    if scale is not None:
        out *= scale
    return out


# -- attention ----------------------------------------------------------------------------------------------------------------


def attend(
    query: Array, bias: Array, key: Array, value: Array, heads: int, *, seen: int | None = None, until: IntArray | None = None
) -> Array:
    """Means of values, weighted by the softmax of the scores (query + bias) . key: (n, rows, width).

    Parameters
    ----------
    query : contiguous (n, rows, width)
    bias : (width,)
    key, value : (n, m, width), of equal strides
    seen : of the m keys all rows read the first so many, and each of the last rows one of the rest, in order; None: all m
    until : contiguous (n, rows), how many of the first keys a row reads; None: all of them
    """
    n, rows, width = query.shape
    m = key.shape[1] if seen is None else seen
    own = rows - (key.shape[1] - m)
    compiled = _loops_for(query, width // heads)
    if compiled is not None:
        out = np.empty_like(query)
        _attend(compiled, query, bias, key, value, until, None, out, heads, m, own)
        return out
    weight, extra = _weights(query, bias, key, heads, m, until)
    mixed = np.matmul(weight, _by_head(value[:, :m], heads))
    out = np.ascontiguousarray(mixed.swapaxes(2, 3)).reshape(query.shape)
    if extra is not None:
        parts = out[:, own:].reshape(n, rows - own, heads, -1)
        parts += extra[:, own:] * value[:, m:].reshape(parts.shape)
        out[:, own:] = parts.reshape(n, rows - own, width)
    return out


def point(query: Array, bias: Array, key: Array, values: FloatArray, heads: int, until: IntArray) -> FloatArray:
    """Means of `values`, contiguous (n, m), a number a key, as `attend` weights them, in double precision: (n, rows, heads)."""
    n, rows, width = query.shape
    compiled = _loops_for(query, width // heads)
    if compiled is not None and not values.shape[1] % 4:
        out = np.empty((n, rows, heads))
        _attend(compiled, query, bias, key, key, until, values, out, heads, key.shape[1], rows)
        return out
    weight, _ = _weights(query, bias, key, heads, key.shape[1], until)
    # a sum, not a product with a vector, whose rounding would depend on the number of curves
    return np.asarray((weight * values[:, None, None, None]).sum(-1).swapaxes(2, 3).reshape(n, rows, heads))


def _attend(
    compiled: ctypes.CDLL, query: Array, bias: Array, key: Array, value: Array, until: IntArray | None, numbers: FloatArray | None,
    out: Array, heads: int, m: int, own: int,
) -> None:  # fmt: skip
    n, rows, width = query.shape
    d = width // heads
    assert query.flags.c_contiguous
    assert key.strides == value.strides
    assert key.strides[-1] == key.itemsize
    assert until is None or (until.flags.c_contiguous and until.dtype == np.int64)
    assert numbers is None or numbers.flags.c_contiguous
    curve, row = (s // key.itemsize for s in key.strides[:2])
    scratch = np.empty((d + 6) * (m + 7) + 6 * d, dtype=np.float32)
    places = (None, _at(out)) if numbers is not None else (_at(out), None)
    compiled.farfield_pfn_attend(
        _at(query), _at(bias), _at(key), _at(value), row, curve, _at(until), _at(numbers), *places, _at(scratch),
        n, rows, m, heads, d, own,
    )  # fmt: skip


def _weights(query: Array, bias: Array, key: Array, heads: int, m: int, until: IntArray | None) -> tuple[Array, Array | None]:
    """Softmax of the scores, (n, tiles, heads, TILE, m), and where keys are more than m that of own ones, (n, rows, heads, 1)."""
    n, rows, width = query.shape
    tile = TILE if rows % TILE == 0 else rows
    queries = (query + bias).reshape(n, -1, tile, heads, width // heads)
    score = np.matmul(queries.swapaxes(2, 3), _by_head(key[:, :m], heads).swapaxes(3, 4))
    if until is not None:
        score += np.where(np.arange(m) < until.reshape(n, -1, 1, tile, 1), 0, _HIDDEN).astype(score.dtype)
    largest = score.max(axis=-1, keepdims=True)
    more = key.shape[1] - m
    if not more:
        score -= largest
        np.exp(score, out=score)
        score /= score.sum(axis=-1, keepdims=True)
        return score, None
    extra = np.full((n, rows, heads), _HIDDEN, dtype=score.dtype)
    asking = queries.reshape(n, rows, heads, -1)[:, -more:]
    extra[:, -more:] = np.einsum("nrhd,nrhd->nrh", asking, key[:, m:].reshape(asking.shape))
    extra = extra.reshape(n, -1, tile, heads).swapaxes(2, 3)[..., None]
    np.maximum(largest, extra, out=largest)
    score, extra = np.exp(score - largest), np.exp(extra - largest)
    total = score.sum(axis=-1, keepdims=True) + extra
    return score / total, (extra / total).swapaxes(2, 3).reshape(n, rows, heads, 1)


def _by_head(x: Array, heads: int) -> Array:
    """(n, m, heads * d) as a view (n, 1, heads, m, d)."""
    n, m, width = x.shape
    return x.reshape(n, 1, m, heads, width // heads).swapaxes(2, 3)
