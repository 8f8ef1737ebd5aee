"""Linear combinations of stored numbers in one compiled loop: raw bits in, raw bits out, the exact combination rounded once.

A weight w = a + b, a of so few digits that its products with stored numbers are float64 numbers (29 for float32, 42 for float16, 45
for bfloat16), b what is missing. The products a_j x_j are added in float64 with the error of every sum; those and the b_j x_j say
to which side of the float64 sum the exact one lies, which is all that its rounding asks. Where rounding errors of that correction,
2^-80 of the sum, could matter, the products of the b_j, float64 numbers too for most weights, are summed without any; the
few elements that are then still open, and results that are zero, infinite or NaN, are left to :mod:`~farfield.weights.exact`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from farfield import formats
from farfield.formats import Raw
from farfield.weights import compiled
from farfield.weights.exact import Terms

_LARGEST, _LEAST = 2.0**400, 2.0**-800  # of weights, and of their rests: products with stored numbers stay well within float64


class Sum:
    """The combination of stored numbers of some formats by given terms, to another; holds buffers of one thread.

    Parameters
    ----------
    terms : (weight, operand)
    sources : format of each operand: BF16, F16 or F32
    dtype : of the result, one of these
    size : elements at most
    """

    def __init__(self, terms: Terms, sources: Sequence[str], dtype: str, size: int) -> None:
        self.sources, self.dtype = tuple(sources), dtype
        weights = [sum((Fraction(w) for w, i in terms if i == j), Fraction(0)) for j in range(len(sources))]
        digits = [_digits(source) for source in sources]
        parts = [_rounded(w, 53 - d) for w, d in zip(weights, digits, strict=True)]
        rests = [float(w - Fraction(a)) for w, a in zip(weights, parts, strict=True)]
        self.exact = all(
            w == Fraction(a) + Fraction(b) and _length(b) + d <= 53
            for w, a, b, d in zip(weights, parts, rests, digits, strict=True)
        )
        k = len(parts)
        rest = max((abs(b / a) for a, b in zip(parts, rests, strict=True) if a), default=0.0)
        # the corrections are sums of 2 k - 1 numbers that are together below this share of the products' sizes; 4 for the roundings
        # of the products b x and of b itself, and twice all of it
        self.slack = 2.0**-52 * (2 * k + 4) * ((k - 1) * 2.0**-53 + rest)
        self.parts, self.rests = np.array(parts), np.array(rests)
        self._out = np.empty(size, formats.format_named(dtype).raw_dtype)
        self._left = np.empty(size, np.int64)

    @staticmethod
    def applies(terms: Terms, sources: Sequence[str], dtype: str) -> bool:
        """Whether there is a compiled loop for these."""
        if compiled.library() is None or not 0 < len(sources) <= compiled.MOST_OPERANDS:
            return False
        if not {*sources, dtype} <= set(compiled.FORMATS) or not all(math.isfinite(w) for w, _ in terms):
            return False
        one = Sum(terms, sources, dtype, 0)
        sizes = [*np.abs(one.parts).tolist(), *np.abs(one.rests).tolist()]
        return all(size == 0 or _LEAST < size < _LARGEST for size in sizes)

    def __call__(self, *operands: Raw) -> tuple[Raw, NDArray[np.int64]]:
        """Raw bits, which the next call overwrites, and the elements among them that are still to be evaluated."""
        out = self._out[: operands[0].size]
        count = compiled.add(operands, self.sources, self.parts, self.rests, out, self.dtype, self.slack, self.exact, self._left)
        return out, self._left[:count]


def _digits(dtype: str) -> int:
    return formats.format_named(dtype).mantissa + 1


def _rounded(value: Fraction, digits: int) -> float:
    """The nearest number of so many binary digits."""
    nearest = float(value)
    mantissa, exponent = math.frexp(nearest)
    return math.ldexp(round(math.ldexp(mantissa, digits)), exponent - digits)


def _length(value: float) -> int:
    """How many binary digits a number has."""
    numerator = abs(value.as_integer_ratio()[0])
    return (numerator // (numerator & -numerator)).bit_length() if numerator else 0
