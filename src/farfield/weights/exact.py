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
        total, decided = total.copy(), _to_odd(*exactly(doubtful))
        # a zero's sign is that of the float64 sum if this is zero too, whatever else is in the chunk
        nothing = (decided == 0) & (total[doubtful] != 0)
        total[doubtful] = np.where(decided != 0, decided, np.where(nothing, 0.0, total[doubtful]))
    return formats.round_to(total, dtype)


def combine_reference(values: Sequence[float], terms: Terms) -> Fraction:
    """The exact combination of one element, the slow and obvious way."""
    return sum((Fraction(w) * Fraction(values[i]) for w, i in terms), Fraction(0))


def _is_exact(chunks: Sequence[FloatArray], terms: Terms, source: str) -> bool:
    """Whether no operation on the way to the sum can have rounded: all of them are multiples of one unit and below 2^53 of it."""
    unit, bound = math.inf, 0.0
    weight_unit = min((unit_of(w) for w, _ in terms if w), default=1.0)
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
            parts += two_product(weight, values[i])
        for _ in range(2):  # each sweep leaves the same exact sum, nearer to its value and its error
            for j in range(1, len(parts)):
                parts[j], parts[j - 1] = two_sum(parts[j], parts[j - 1])
        high, rest = parts[-1], parts[:-1]
        error = sum(rest[1:], rest[0]) if rest else np.zeros_like(high)
        scale = sum((np.abs(r) for r in rest), np.zeros_like(high))
        exact = scale == 0
        decided = (np.abs(error) > scale * (len(parts) * 2.0**-50)) & (np.abs(error) < 0.5 * np.spacing(np.abs(high)))
        extreme = ~np.isfinite(high) | ((np.abs(high) < 1 / _SAFE) & (high != 0)) | (np.abs(high) > _SAFE)
        for weight, i in terms:
            product = np.abs(weight * values[i])
            extreme |= (product > _SAFE) | ((product < 1 / _SAFE) & (values[i] != 0) & (weight != 0))
        out = odd(high, np.where(exact, 0.0, error))
    for k in np.flatnonzero(extreme | ~(exact | decided)):
        out[k] = _odd_rational(combine_reference([float(v[k]) for v in values], terms))
    return out


def odd(high: FloatArray, error: FloatArray) -> FloatArray:
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
    return float(odd(np.array([nearest]), np.array([1.0 if difference > 0 else -1.0]))[0])


def two_sum(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def exact_product(a: float, b: float) -> tuple[float, float]:
    """Two numbers whose sum is a * b exactly, the first of them the product rounded; where none underflows."""
    product = a * b
    if not math.isfinite(product) or product == 0:
        return product, 0.0
    return product, float(Fraction(a) * Fraction(b) - Fraction(product))


def two_product(weight: float, x: FloatArray) -> list[FloatArray]:
    """[error, product]: their sum is weight * x exactly."""
    product = weight * x
    w_high = weight * _SPLIT - (weight * _SPLIT - weight)
    w_low = weight - w_high
    spread = x * _SPLIT
    x_high = spread - (spread - x)
    x_low = x - x_high
    error = w_low * x_low - (((product - w_high * x_high) - w_low * x_high) - w_high * x_low)
    return [error, product]


def unit_of(weight: float) -> float:
    """The largest power of two that divides the weight."""
    numerator, denominator = weight.as_integer_ratio()
    return (numerator & -numerator) / denominator
