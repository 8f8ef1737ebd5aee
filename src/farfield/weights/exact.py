"""Linear combinations of stored numbers, rounded once: the float64 sum where it decides, exact arithmetic where it does not.

A combination sum_j w_j x_j of stored numbers x_j with float64 weights w_j is evaluated in float64, to a few units in 2^-53.
Rounding that to a narrower format gives the nearest number to the exact combination, except where the sum comes to lie so close
to the middle of two such numbers that its last digits decide. Those elements, found by their bits, are evaluated exactly: as an
unevaluated sum of float64 numbers (products and sums with their errors, Dekker 1971 and Knuth 1969), and where even its sign is in
doubt, with rationals. The result does not depend on the order of the sum, on chunks or on threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from farfield import formats
from farfield.formats import Raw

FloatArray = NDArray[np.float64]
Terms = tuple[tuple[float, int], ...]  # (weight, index of the operand), summed; an operand may occur more than once

_WINDOW = 1 << 20  # units of the float64 sum's last place that a middle must keep from it, unless the element is evaluated exactly
_SPLIT = 134217729.0  # 2^27 + 1
_LARGE = 0x7000  # BF16 pattern of 2^97, above which the products of weights below 2^16 could leave float32
_SAFE = 2.0**400  # magnitudes above, or below its inverse, are left to the rationals: their error terms could overflow or vanish


def round_combination(total: FloatArray, chunks: Sequence[FloatArray], terms: Terms, dtype: str, source: str = "F64") -> Raw:
    """Raw bits of the exact combination rounded once to `dtype`, ties to even.

    Parameters
    ----------
    total : (n,) the combination's float64 sum, over differences of the operands where their weights cancel
    chunks : (n,) each, the operands
    dtype : format of the result; for F64 `total` itself is the result, a few units in its last place from the exact one
    source : a format that holds every operand: the narrower, the sooner it is known that `total` is exact
    """
    if dtype == "F64" or not total.size or _is_exact(chunks, terms, source):
        return formats.round_to(total, dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        largest = [float(np.max(np.abs(c))) for c in chunks]
        bound = sum(abs(w) * largest[i] for w, i in terms)
    return round_sum(total, bound, len(terms), dtype, lambda at: ([c[at] for c in chunks], terms))


def round_sum(
    total: FloatArray,
    bound: float,
    n_terms: int,
    dtype: str,
    exactly: Callable[[NDArray[np.intp]], tuple[Sequence[FloatArray], Terms]],
) -> Raw:
    """Raw bits of exact sums rounded once to `dtype`, given their float64 sums.

    Parameters
    ----------
    total : (n,) the sums in float64, evaluated in any order
    bound : what the sum of the terms' magnitudes does not exceed, nor that of intermediate sums
    n_terms : how many terms were added
    dtype : format of the result, not F64
    exactly : for some of the elements, their operands and the terms over them
    """
    doubtful = _doubtful(total, bound, n_terms, dtype)
    if doubtful.size:
        total = total.copy()
        total[doubtful] = _to_odd(*exactly(doubtful))
    return formats.round_to(total, dtype)


def combine_reference(values: Sequence[float], terms: Terms) -> Fraction:
    """The exact combination of one element, the slow and obvious way."""
    return sum((Fraction(w) * Fraction(values[i]) for w, i in terms), Fraction(0))


def _is_exact(chunks: Sequence[FloatArray], terms: Terms, source: str) -> bool:
    """Whether no operation on the way to the sum can have rounded: all of them are multiples of one unit and below 2^53 of it."""
    unit, bound = math.inf, 0.0
    weight_unit = min((_unit(w) for w, _ in terms if w), default=1.0)
    for i in {i for _, i in terms}:
        magnitude = np.abs(chunks[i])
        largest = float(magnitude.max())
        if not math.isfinite(largest):
            return False
        # zero wraps to the largest integer, so this is the least magnitude that is not zero
        least = float((magnitude.view(np.uint64) - np.uint64(1)).min(keepdims=True).view(np.float64)[0])
        if largest:
            unit = min(unit, math.ldexp(1.0, math.frexp(least)[1] - 2 - formats.format_named(source).mantissa))
        bound += largest * max(1.0, 2 * sum(abs(w) for w, j in terms if i == j))
    return 0 < bound < math.ldexp(unit, 52) * min(weight_unit, 1.0) < math.inf


def _doubtful(total: FloatArray, bound: float, n_terms: int, dtype: str) -> NDArray[np.intp]:
    fmt = formats.format_named(dtype)
    dropped = 52 - fmt.mantissa
    with np.errstate(invalid="ignore", over="ignore"):
        # the error is below (terms + 3) 2^-53 times the sum of magnitudes: within the window unless they cancel to 2^-14 of it, or
        # less where there are more than 60 terms
        cancelled = math.ldexp(bound, -14) * max(1.0, (n_terms + 3) / 64)
        small = max(cancelled if math.isfinite(bound) else 0.0, math.ldexp(2.0, fmt.smallest_exponent))
        low = total.view(np.uint64) & np.uint64((1 << dropped) - 1)
        low -= np.uint64((1 << (dropped - 1)) - _WINDOW)
        near = low <= np.uint64(2 * _WINDOW)
        near |= np.abs(total) < small
        near &= np.isfinite(total)
    return np.flatnonzero(near)


def _to_odd(values: Sequence[FloatArray], terms: Terms) -> FloatArray:
    """The exact combination rounded to odd in float64: a rounding to at most 51 bits is then that of the exact one."""
    with np.errstate(all="ignore"):
        parts: list[FloatArray] = []
        for weight, i in terms:
            parts += _two_product(weight, values[i])
        for _ in range(2):  # each sweep leaves the same exact sum, nearer to its value and its error
            for j in range(1, len(parts)):
                parts[j], parts[j - 1] = _two_sum(parts[j], parts[j - 1])
        high, rest = parts[-1], parts[:-1]
        error = sum(rest[1:], rest[0]) if rest else np.zeros_like(high)
        scale = sum((np.abs(r) for r in rest), np.zeros_like(high))
        exact = scale == 0
        decided = (np.abs(error) > scale * (len(parts) * 2.0**-50)) & (np.abs(error) < 0.5 * np.spacing(np.abs(high)))
        extreme = ~np.isfinite(high) | ((np.abs(high) < 1 / _SAFE) & (high != 0)) | (np.abs(high) > _SAFE)
        for weight, i in terms:
            product = np.abs(weight * values[i])
            extreme |= (product > _SAFE) | ((product < 1 / _SAFE) & (values[i] != 0) & (weight != 0))
        out = _odd(high, np.where(exact, 0.0, error))
    for k in np.flatnonzero(extreme | ~(exact | decided)):
        out[k] = _odd_rational(combine_reference([float(v[k]) for v in values], terms))
    return out


def _odd(high: FloatArray, error: FloatArray) -> FloatArray:
    """`high` + `error`, where |error| is below half a unit of high's last place, rounded to odd."""
    out = high.copy()
    bits = out.view(np.int64)
    even = (bits & 1) == 0
    # towards the error: for a number with an even last bit one of the two odd neighbours, which is one unit of the bits away
    outwards = np.signbit(high) == np.signbit(error)
    step = np.where(outwards, 1, -1)
    bits += np.where(even & (error != 0), step, 0)
    return out


def _odd_rational(value: Fraction) -> float:
    nearest = value.numerator / value.denominator  # Python rounds this quotient correctly
    difference = value - Fraction(nearest)
    if difference == 0:
        return nearest
    if nearest == 0:  # below the smallest float64: any nonzero number there says the sign, and rounds to zero
        return math.copysign(5e-324, value)
    return float(_odd(np.array([nearest]), np.array([1.0 if difference > 0 else -1.0]))[0])


def _two_sum(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def exact_product(a: float, b: float) -> tuple[float, float]:
    """Two numbers whose sum is a * b exactly, the first of them the product rounded; where none underflows."""
    product = a * b
    if not math.isfinite(product) or product == 0:
        return product, 0.0
    return product, float(Fraction(a) * Fraction(b) - Fraction(product))


def _two_product(weight: float, x: FloatArray) -> list[FloatArray]:
    """[error, product]: their sum is weight * x exactly."""
    product = weight * x
    w_high = weight * _SPLIT - (weight * _SPLIT - weight)
    w_low = weight - w_high
    spread = x * _SPLIT
    x_high = spread - (spread - x)
    x_low = x - x_high
    error = w_low * x_low - (((product - w_high * x_high) - w_low * x_high) - w_high * x_low)
    return [error, product]


# -- the common case, fast ------------------------------------------------------------------------------------------------


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
    unit = min(_unit(w) for w in weights)
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


def _unit(weight: float) -> float:
    """The largest power of two that divides the weight."""
    numerator, denominator = weight.as_integer_ratio()
    return (numerator & -numerator) / denominator


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
