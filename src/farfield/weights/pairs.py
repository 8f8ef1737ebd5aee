"""A pair of BF16 checkpoints to BF16, the common case, in float32: the same bits as the exact way, many times faster.

Three ways, each proven for the elements that it decides; the others it names.

- Weights of few binary digits (1.5 and -0.5): products and sum are float32 numbers, and only the last rounding is one
  (:class:`PairBF16`).
- Decimal factors (1.3 and -0.3): float64's 0.3 is 3/10 less about 1e-17. The integer 13 x - 3 y is exact in float32 and a tenth
  of it is off by two last places. Either that lies at the middle of two BF16 numbers, and then the 1e-17 says which is nearer,
  or it keeps a distance from the middle that is larger than those two places (:class:`PairDecimal`).
- Any other weights: the float32 result is off by a few of its last places, so that its rounding is in doubt for few elements;
  those are evaluated with the errors of every operation in float64 (:class:`PairNear`).

The loops are compiled ones (:mod:`farfield.weights.compiled`), else NumPy's: these work on words of two numbers, the even ones in
their low halves; a shift and a mask make float32 of them.
"""

from __future__ import annotations

import abc
import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield import formats
from farfield.formats import Raw
from farfield.weights import compiled
from farfield.weights.exact import FloatArray, Terms, odd, two_product, two_sum, unit_of

_LARGE = 0x7000  # BF16 pattern of 2^97, above which the products of weights below 2^16 could leave float32
_TINY = np.float32(2.0**-90)  # results below this are left to the exact way: float32 products could lose digits
_CANCEL = np.float32(8.0)  # a step more than this many times the result cancels too much of it
# The error of u x + c d in float32, d = y - x, in units 2^-24 of the result's magnitude: weights and products give 2 for u x and 3
# for c d, the sum 1; with |c d| <= 8 |result| and |u x| <= 9 |result| that is 43, and a unit of 2^-24 is at most one last place.
_DOUBT = 48
_MOST_LEFT = 16  # a way that would leave more than one in so many elements is not taken
_UPPER = np.uint32(0xFFFF0000)
# Twice the BF16 patterns of 2^79 and of the least normal number: outside of these a result is looked at again. Operands that differ
# by 0x7800 in their patterns, which their doubled difference would hide, have a result above, as weights are 2^-16 or more.
_HUGE, _SUBNORMAL = 0xCE00, 0x0100
_BLOCK = 1 << 17  # numbers that go through all steps together
_NOWHERE = np.empty(0, np.intp)
_PLACES = 3  # by how many last places of float32 N / q may be off: two from the product and 1 / q, and one to spare


def pair_for(terms: Terms, size: int) -> PairBF16 | PairNear | None:
    """The way for these terms, with buffers for `size` elements, or None where none applies."""
    if len({i for _, i in terms}) != 2 or any(i > 1 or not math.isfinite(w) for w, i in terms):
        return None
    if reach_of_pair(terms) > 0:
        return PairBF16(terms, size)
    if not PairNear.applies(terms):
        return None
    return PairDecimal(terms, size) if PairDecimal.of(terms) is not None else PairNear(terms, size)


def reach_of_pair(terms: Terms) -> int:
    """How many powers of two the operands of a BF16 pair may lie apart so that :class:`PairBF16` is exact; 0 where it never is.

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
    sums = [_sum_of(terms, operand) for operand in (0, 1)]
    floats = [float(s) for s in sums]
    if any(i > 1 for _, i in terms) or any(Fraction(f) != s or not f for f, s in zip(floats, sums, strict=True)):
        return None
    return floats[0], floats[1]


class _Way(abc.ABC):
    """Buffers of one thread for pairs of BF16 numbers.

    NumPy takes these two by two: as float32 numbers, first those at even places, then the others. Blocks of numbers that fit into a
    processor's cache go through all steps one after the other.
    """

    def __init__(self, size: int) -> None:
        size += size % 2
        block = min(size, _BLOCK)
        self._x, self._y = (np.zeros(block, np.float32) for _ in range(2))
        self._spare, self._half = np.empty(block, np.uint32), np.empty(block, "<u2")
        self._out = np.empty(size, "<u2")

    def __call__(self, first: Raw, second: Raw) -> tuple[Raw, NDArray[np.intp]] | None:
        """Raw bits, which the next call overwrites, and the elements among them that are still to be evaluated exactly; None where
        that would be too many, or a number is too large."""
        out = self._out[: first.size]
        left = self._compiled(first, second, out) if compiled.library() else self._blocks(first, second, out)
        if left is None:
            return None
        return out, self._settle(first, second, out, left) if left.size else left

    @abc.abstractmethod
    def _compiled(self, first: Raw, second: Raw, out: Raw) -> NDArray[np.intp] | None:
        """Fill `out` by compiled loops; the elements that are not decided, or None."""

    @abc.abstractmethod
    def _block(self, first: Raw, second: Raw, out: Raw) -> NDArray[np.intp] | None:
        """Fill `out` by NumPy, an even count of numbers; the elements that are not decided, or None."""

    @abc.abstractmethod
    def _settle(self, first: Raw, second: Raw, out: Raw, left: NDArray[np.intp]) -> NDArray[np.intp]:
        """Evaluate what the loops left; the elements that are still not decided."""

    def _blocks(self, first: Raw, second: Raw, out: Raw) -> NDArray[np.intp] | None:
        found = [_NOWHERE]
        for start in range(0, first.size, _BLOCK):
            a, b, to = (raw[start : start + _BLOCK] for raw in (first, second, out))
            n = to.size
            if n % 2:  # a zero more makes whole words
                a, b = (np.concatenate([raw, np.zeros(1, "<u2")]) for raw in (a, b))
                to = np.empty(n + 1, "<u2")
            left = self._block(a, b, to)
            if left is None:
                return None
            out[start : start + n] = to[:n]
            found.append(left[left < n] + start)
        return np.concatenate(found)

    def widen(self, raw: Raw, out: NDArray[np.float32]) -> None:
        words, bits, half = raw.view("<u4"), out.view(np.uint32), raw.size // 2
        np.left_shift(words, np.uint32(16), out=bits[:half])
        np.bitwise_and(words, _UPPER, out=bits[half:])

    def pack(self, bits: NDArray[np.uint32], out: Raw) -> None:
        """Put the upper halves of the numbers into `out`, in the order of the raw ones; `bits` is used up."""
        half = bits.size // 2
        even, others = bits[:half], bits[half:]
        np.right_shift(even, np.uint32(16), out=even)
        np.bitwise_and(others, _UPPER, out=others)
        np.bitwise_or(even, others, out=out.view("<u4"))

    def apart(self, first: Raw, second: Raw, limit: int) -> NDArray[np.intp]:
        """Elements whose patterns without their signs differ by `limit` or more."""
        apart = self._half[: first.size]
        np.subtract(first, second, out=apart)
        np.add(apart, apart, out=apart)  # the sign's bit leaves
        return _beyond(apart.view("<i2"), 1 - 2 * limit, 2 * limit - 1)

    def outside(self, out: Raw, least: int) -> NDArray[np.intp]:
        """Elements whose doubled patterns are below `least`, or those of huge numbers."""
        twice = self._half[: out.size]
        np.add(out, out, out=twice)
        return _beyond(twice, least, _HUGE - 1)


def _beyond(values: NDArray[Any], least: int, most: int) -> NDArray[np.intp]:
    """Where values are below `least` or above `most`."""
    if int(values.max(initial=0)) <= most and (least == 0 or int(values.min(initial=most)) >= least):
        return _NOWHERE
    return np.flatnonzero((values < least) | (values > most) if least else values > most)


class PairBF16(_Way):
    """w_0 x_0 + w_1 x_1 of BF16 numbers, to BF16, in float32 and in place, where products and sum are exact.

    Holds the buffers of one thread; `reach` is :func:`reach_of_pair` of the terms, above 0.
    """

    def __init__(self, terms: Terms, size: int) -> None:
        super().__init__(size)
        weights = pair_weights(terms)
        assert weights is not None
        self.weights = tuple(np.float32(w) for w in weights)
        self.reach = reach_of_pair(terms)

    def _compiled(self, first: Raw, second: Raw, out: Raw) -> NDArray[np.intp] | None:
        bounds = self.reach * 128, 0, _HUGE // 2
        return compiled.pair("exact", first, second, out, out.size // _MOST_LEFT, *self.weights, 1.0, 0x7FFF, 0, 1, *bounds)

    def _block(self, first: Raw, second: Raw, out: Raw) -> NDArray[np.intp] | None:
        n = first.size
        left = self.apart(first, second, self.reach * 128)
        if left.size > n // _MOST_LEFT:
            return None
        x, y, odd = self._x[:n], self._y[:n], self._spare[:n]
        self.widen(first, x)
        self.widen(second, y)
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(x, self.weights[0], out=x)
            if self.weights[1] != 1:
                np.multiply(y, self.weights[1], out=y)
            np.add(x, y, out=x)
        bits = x.view(np.uint32)
        np.right_shift(bits, np.uint32(16), out=odd)
        np.bitwise_and(odd, np.uint32(1), out=odd)
        np.add(bits, odd, out=bits)
        np.add(bits, np.uint32(0x7FFF), out=bits)
        self.pack(bits, out)
        large = self.outside(out, 0)
        if large.size > n // _MOST_LEFT:
            return None
        return np.union1d(left, large) if large.size else left

    def _settle(self, first: Raw, second: Raw, out: Raw, left: NDArray[np.intp]) -> NDArray[np.intp]:
        """Where float64 holds the sum, as it does the products; a zero, whose sign is the exact way's business, is left."""
        with np.errstate(invalid="ignore"):
            x, y = (float(w) * formats.widen(raw[left], "BF16") for w, raw in zip(self.weights, (first, second), strict=True))
            total, lost = two_sum(x, y)
            out[left] = formats.round_to(total, "BF16")
            unsettled: NDArray[np.intp] = left[(lost != 0) | (total == 0)]  # NaN, where something is infinite, is not 0
        return unsettled


class PairNear(_Way):
    """w_0 x_0 + w_1 x_1 of BF16 numbers, to BF16, for any weights: as u x_0 + c (x_1 - x_0) in float32.

    Holds the buffers of one thread.
    """

    def __init__(self, terms: Terms, size: int) -> None:
        super().__init__(size)
        whole, step = _split_weights(terms)
        self.whole, self.step = float(whole), float(step)
        self.settles = whole == 1 and Fraction(self.step) == step
        self._step = np.empty(self._x.size, np.float32)
        self._flags = [np.empty(self._x.size, np.bool_) for _ in range(2)]

    @staticmethod
    def applies(terms: Terms) -> bool:
        """Whether float32 holds the weights to 2^-24 of their size, and products of numbers below 2^97 with them."""
        return all(2.0**-20 <= abs(float(w)) < 2.0**16 for w in _split_weights(terms))

    def _compiled(self, first: Raw, second: Raw, out: Raw) -> NDArray[np.intp] | None:
        bounds = _DOUBT, _CANCEL, _TINY, _LARGE
        return compiled.pair("near", first, second, out, out.size, self.whole, self.step, *bounds)

    def _block(self, first: Raw, second: Raw, out: Raw) -> NDArray[np.intp] | None:
        n = first.size
        for raw in (first, second):
            if int(np.bitwise_and(raw, np.uint16(0x7FFF), out=self._half[:n]).max(initial=0)) >= _LARGE:
                return None
        x, y, s, r = (b[:n] for b in (self._x, self._y, self._step, self._spare.view(np.float32)))
        self.widen(first, x)
        self.widen(second, y)
        np.subtract(y, x, out=s)
        np.multiply(s, np.float32(self.step), out=s)
        if self.whole == 1:
            np.add(x, s, out=r)
        else:
            np.multiply(x, np.float32(self.whole), out=r)
            np.add(r, s, out=r)
        near, other, low = self._flags[0][:n], self._flags[1][:n], self._half[:n]
        bits = r.view(np.uint32)
        np.copyto(low, bits, casting="unsafe")
        np.subtract(low, np.uint16(0x8000 - _DOUBT), out=low)
        np.less_equal(low, np.uint16(2 * _DOUBT), out=near)
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
        self.pack(bits, out)
        left = np.flatnonzero(near)
        return np.where(left < n // 2, 2 * left, 2 * left - (n - 1))

    def _settle(self, first: Raw, second: Raw, out: Raw, left: NDArray[np.intp]) -> NDArray[np.intp]:
        """Evaluate elements x + c d in float64 with the error of every operation; those returned are still to be evaluated.

        x + c d = sum + rest exactly, rest being what the product and both sums lose, so sum rounded to odd in the direction of
        rest rounds on as the exact value does. Only a zero, whose sign is the exact way's business, a d that float64 does not
        hold and what is not finite are left; and everything where the weights do not sum to 1.
        """
        if not self.settles:
            return left
        with np.errstate(invalid="ignore"):
            x, y = (formats.widen(raw[left], "BF16") for raw in (first, second))
            d, lost = two_sum(y, -x)
            small, product = two_product(self.step, d)
            total, missing = two_sum(x, product)
            missing, least = two_sum(missing, small)
            total, missing = two_sum(total, missing)
            rest: FloatArray = missing + least
            out[left] = formats.round_to(odd(total, rest), "BF16")
            unsettled: NDArray[np.intp] = left[(lost != 0) | (total == 0) | ~np.isfinite(total)]
        return unsettled


class PairDecimal(PairNear):
    """x_0 + c (x_1 - x_0) of BF16 numbers, to BF16, where c is the float64 number nearest to a fraction of a few digits.

    With weights p_0 / q + e and p_1 / q - e, p_0 + p_1 = q, the result is N / q + e (x_0 - x_1), N = p_0 x_0 + p_1 x_1. Where the
    operands lie less than `reach` powers of two apart, N is a float32 number. The middle of two BF16 numbers times q is a
    multiple of the unit that N is one of, so N / q is the middle, or away from it by a unit over q, which is at least eight of
    its last places; the product of N and 1 / q is wrong by at most two of them. Middles that are nearer than four are rounded
    as e (x_0 - x_1) has it, by what is added before the lower half is dropped, and all others to the nearest.
    """

    def __init__(self, terms: Terms, size: int) -> None:
        super().__init__(terms, size)
        found = PairDecimal.of(terms)
        assert found is not None
        (first, second, whole), tail, self.reach = found
        self._parts, self._over = (np.float32(first), np.float32(second)), np.float32(1 / whole)
        up, down = 0x8000 + _PLACES, 0x7FFF - _PLACES
        # what e (x_0 - x_1) of the result's sign adds, and how much more (as an unsigned number) the other sign does
        self._same, self._more = (np.uint32(v) for v in ((up, 2**32 + down - up) if tail > 0 else (down, up - down)))

    @staticmethod
    def of(terms: Terms) -> tuple[tuple[int, int, int], Fraction, int] | None:
        """p_0, p_1 and q, e, and the reach; None where these weights have none."""
        first, second = (_sum_of(terms, i) for i in (0, 1))
        near = second.limit_denominator(512)
        p, q = near.numerator, near.denominator
        tail = near - second
        most = abs(p) + abs(q - p)
        reach = (4096 // most).bit_length() - 1  # 2^reach most <= 2^12
        if first + second != 1 or Fraction(float(second)) != second or tail == 0 or p == 0 or p == q or reach < 4:
            return None
        return ((q - p, p, q), tail, reach) if abs(tail) < abs(second) / 2**40 else None

    def _compiled(self, first: Raw, second: Raw, out: Raw) -> NDArray[np.intp] | None:
        bounds = self.reach * 128, _SUBNORMAL // 2, _HUGE // 2
        signs = self._same, self._more, 0
        left = compiled.pair("exact", first, second, out, out.size // _MOST_LEFT, *self._parts, self._over, *signs, *bounds)
        return super()._compiled(first, second, out) if left is None else left

    def _block(self, first: Raw, second: Raw, out: Raw) -> NDArray[np.intp] | None:
        n = first.size
        left = self.apart(first, second, self.reach * 128)
        if left.size > n // _MOST_LEFT:
            return super()._block(first, second, out)
        x, y, sign = self._x[:n], self._y[:n], self._spare[:n]
        self.widen(first, x)
        self.widen(second, y)
        bits = x.view(np.uint32)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(x, y, out=sign.view(np.float32))
            np.multiply(x, self._parts[0], out=x)
            np.multiply(y, self._parts[1], out=y)
            np.add(x, y, out=x)
            np.multiply(x, self._over, out=x)
        np.bitwise_xor(sign, bits, out=sign)
        np.right_shift(sign, np.uint32(31), out=sign)
        np.multiply(sign, self._more, out=sign)
        np.add(bits, sign, out=bits)
        np.add(bits, self._same, out=bits)
        self.pack(bits, out)
        again = self.outside(out, _SUBNORMAL)
        again = again[((first[again] | second[again]) & np.uint16(0x7FFF)) != 0]  # 0 and 0 make 0
        if again.size > n // _MOST_LEFT:
            return super()._block(first, second, out)
        return np.union1d(left, again) if again.size else left


def _sum_of(terms: Terms, operand: int) -> Fraction:
    return sum((Fraction(w) for w, i in terms if i == operand), Fraction(0))


def _split_weights(terms: Terms) -> tuple[Fraction, Fraction]:
    """The sum of both weights, and that of operand 1."""
    return sum((Fraction(w) for w, _ in terms), Fraction(0)), _sum_of(terms, 1)
