"""A pair of BF16 checkpoints to BF16, the common case, in float32: the same bits as the exact way, several times faster.

Two ways. Weights of few digits (1.5 and -0.5): products and sum are float32 numbers, and only the last rounding is one
(:class:`PairBF16`). Any other weights (1.3 and -0.3): the float32 result is off by a few of its last places, so that its rounding
to BF16 is in doubt for few elements; those are evaluated with the errors of every operation in float64 (:class:`PairNear`).
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from farfield import formats
from farfield.formats import Raw
from farfield.weights.exact import FloatArray, Terms, odd, two_product, two_sum, unit_of

_LARGE = 0x7000  # BF16 pattern of 2^97, above which the products of weights below 2^16 could leave float32
_TINY = np.float32(2.0**-90)  # results below this are left to the exact way: float32 products could lose digits
_CANCEL = np.float32(8.0)  # a step more than this many times the result cancels too much of it
# The error of u x + c d in float32, d = y - x, in units 2^-24 of the result's magnitude: weights and products give 2 for u x and 3
# for c d, the sum 1; with |c d| <= 8 |result| and |u x| <= 9 |result| that is 43, and a unit of 2^-24 is at most one last place.
_DOUBT = 48


def pair_for(terms: Terms, size: int) -> PairBF16 | PairNear | None:
    """The way for these terms, with buffers for `size` elements, or None where neither applies."""
    if len({i for _, i in terms}) != 2 or any(i > 1 or not math.isfinite(w) for w, i in terms):
        return None
    if reach_of_pair(terms) > 0:
        return PairBF16(terms, size)
    return PairNear(terms, size) if PairNear.applies(terms) else None


def reach_of_pair(terms: Terms) -> int:
    """How many powers of two the operands of a BF16 pair may lie apart so that :func:`pair_bf16` is exact; 0 where it never is.

    The products are float32 numbers if the weights have at most 16 digits, and their sum is one if it has at most 24: it is a
    multiple of the smaller operand's last place times the weights' common unit.
    """
    if len({i for _, i in terms}) != 2 or any(not math.isfinite(w) for w, _ in terms):
        return 0
    weights = pair_weights(terms)
    if weights is None:
        return 0
    unit = min(unit_of(w) for w in weights)
    if unit < 2.0**-16 or max(map(abs, weights)) >= 2.0**16 or max(map(abs, weights)) / unit >= 2.0**16:
        return 0
    return max(0, math.floor(24 - 8 - math.log2(sum(map(abs, weights)) / min(unit, 1.0))) - 1)


def pair_weights(terms: Terms) -> tuple[float, float] | None:
    """The weights of operands 0 and 1, where their sums are float64 numbers; None where not, or where one is 0."""
    sums = [sum((Fraction(w) for w, i in terms if i == operand), Fraction(0)) for operand in (0, 1)]
    floats = [float(s) for s in sums]
    if any(i > 1 for _, i in terms) or any(Fraction(f) != s or not f for f, s in zip(floats, sums, strict=True)):
        return None
    return floats[0], floats[1]


class PairBF16:
    """w_0 x_0 + w_1 x_1 of BF16 numbers, to BF16, in float32 and in place: the same bits as the exact way, several times faster.

    Holds the buffers of one thread; `reach` is :func:`reach_of_pair` of the terms, above 0.
    """

    def __init__(self, terms: Terms, size: int) -> None:
        weights = pair_weights(terms)
        assert weights is not None
        self.weights = tuple(np.float32(w) for w in weights)
        self.reach = reach_of_pair(terms)
        self._wide = [np.zeros(size, np.float32), np.zeros(size, np.float32)]
        self._odd = np.empty(size, np.uint32)
        self._size = [np.empty(size, np.uint16), np.empty(size, np.uint16)]

    def __call__(self, first: Raw, second: Raw) -> tuple[Raw, NDArray[np.intp]] | None:
        """Raw bits and the elements among them that are still to be evaluated exactly; None where that would be too many, or
        where a number is too large for float32 products."""
        n = first.size
        a, b = self._size[0][:n], self._size[1][:n]
        np.bitwise_and(first, np.uint16(0x7FFF), out=a)
        np.bitwise_and(second, np.uint16(0x7FFF), out=b)
        if max(int(a.max(initial=0)), int(b.max(initial=0))) >= _LARGE:
            return None
        apart = a.view(np.int16)
        apart -= b.view(np.int16)
        limit = self.reach * 128
        left = np.empty(0, np.intp)
        if int(apart.max(initial=0)) >= limit or int(apart.min(initial=0)) <= -limit:
            left = np.flatnonzero((apart >= limit) | (apart <= -limit))
            if left.size > n // 16:
                return None
        x, y, odd = self._wide[0][:n], self._wide[1][:n], self._odd[:n]
        x.view(np.uint32)[:] = first
        y.view(np.uint32)[:] = second
        bits = x.view(np.uint32)
        np.left_shift(bits, np.uint32(16), out=bits)
        np.left_shift(y.view(np.uint32), np.uint32(16), out=y.view(np.uint32))
        with np.errstate(over="ignore"):
            np.multiply(x, self.weights[0], out=x)
            np.multiply(y, self.weights[1], out=y)
            np.add(x, y, out=x)
        np.right_shift(bits, np.uint32(16), out=odd)
        np.bitwise_and(odd, np.uint32(1), out=odd)
        np.add(bits, odd, out=bits)
        np.add(bits, np.uint32(0x7FFF), out=bits)
        np.right_shift(bits, np.uint32(16), out=bits)
        return bits.astype("<u2"), left


class PairNear:
    """w_0 x_0 + w_1 x_1 of BF16 numbers, to BF16, for any weights: as u x_0 + c (x_1 - x_0) in float32.

    Holds the buffers of one thread.
    """

    def __init__(self, terms: Terms, size: int) -> None:
        self.terms = terms
        self.whole, self.step = _split_weights(terms)
        self._x, self._y, self._r, self._s = (np.zeros(size, np.float32) for _ in range(4))
        self._size = np.empty(size, np.uint16)
        self._flags = [np.empty(size, np.bool_) for _ in range(2)]

    @staticmethod
    def applies(terms: Terms) -> bool:
        """Whether float32 holds the weights to 2^-24 of their size, and products of numbers below 2^97 with them."""
        whole, step = _split_weights(terms)
        return all(2.0**-20 <= abs(w) < 2.0**16 for w in (whole, step))

    def __call__(self, first: Raw, second: Raw) -> tuple[Raw, NDArray[np.intp]] | None:
        """Raw bits and the elements among them that are still to be evaluated exactly; None where a number is too large."""
        n = first.size
        size = self._size[:n]
        for raw in (first, second):
            if int(np.bitwise_and(raw, np.uint16(0x7FFF), out=size).max(initial=0)) >= _LARGE:
                return None
        x, y, r, s = (b[:n] for b in (self._x, self._y, self._r, self._s))
        for raw, wide in ((first, x), (second, y)):
            np.left_shift(raw, np.uint32(16), out=wide.view(np.uint32), dtype=np.uint32)
        np.subtract(y, x, out=s)
        np.multiply(s, np.float32(self.step), out=s)
        if self.whole == 1:
            np.add(x, s, out=r)
        else:
            np.multiply(x, np.float32(self.whole), out=r)
            np.add(r, s, out=r)
        near, other = self._flags[0][:n], self._flags[1][:n]
        bits = r.view(np.uint32)
        np.copyto(size, bits, casting="unsafe")  # the low half
        np.subtract(size, np.uint16(0x8000 - _DOUBT), out=size)
        np.less_equal(size, np.uint16(2 * _DOUBT), out=near)
        np.abs(s, out=s)
        scaled = y
        np.multiply(r, _CANCEL, out=scaled)
        np.abs(scaled, out=scaled)
        np.less(scaled, s, out=other)
        np.logical_or(near, other, out=near)
        if float(scaled.min(initial=math.inf)) < float(_CANCEL * _TINY):
            np.less(scaled, _CANCEL * _TINY, out=other)
            np.logical_or(near, other, out=near)
        np.add(bits, np.uint32(0x8000), out=bits)  # ties are among those in doubt
        np.right_shift(bits, np.uint32(16), out=bits)
        out = bits.astype("<u2")
        left = np.flatnonzero(near)
        if left.size and self.whole == 1:
            left = self._settle(first, second, out, left)
        return out, left

    def _settle(self, first: Raw, second: Raw, out: Raw, left: NDArray[np.intp]) -> NDArray[np.intp]:
        """Evaluate elements x + c d in float64 with the error of every operation; those returned are still to be evaluated.

        x + c d = sum + rest exactly, rest being what the product and both sums lose, so sum rounded to odd in the direction of
        rest rounds on as the exact value does. Only a zero, whose sign is the exact way's business, and a d that float64 does
        not hold are left.
        """
        x, y = (formats.widen(raw[left], "BF16") for raw in (first, second))
        d, lost = two_sum(y, -x)
        small, product = two_product(self.step, d)
        total, missing = two_sum(x, product)
        missing, least = two_sum(missing, small)
        total, missing = two_sum(total, missing)
        rest: FloatArray = missing + least
        out[left] = formats.round_to(odd(total, rest), "BF16")
        unsettled: NDArray[np.intp] = left[(lost != 0) | (total == 0)]
        return unsettled


def _split_weights(terms: Terms) -> tuple[float, float]:
    """The sum of both weights, and that of operand 1, each rounded once."""
    whole = sum((Fraction(w) for w, _ in terms), Fraction(0))
    return float(whole), float(sum((Fraction(w) for w, i in terms if i == 1), Fraction(0)))
