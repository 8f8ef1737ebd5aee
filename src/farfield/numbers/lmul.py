"""L-Mul: multiplication of floats by one integer addition (P094, Luo and Sun, *Addition is all you need*, arXiv 2410.00907).

For x = (1 + x_m) 2^x_e and y likewise, with mantissas of m bits (the paper's equation 1)::

    L-Mul(x, y) = (1 + x_m + y_m + 2^-l(m)) 2^(x_e + y_e),    l(m) = m for m <= 3, 3 for m = 4, 4 for m > 4

The product x_m y_m is dropped and its mean stood in for by 2^-l(m). Without that constant this is Mitchell's logarithmic
multiplication (1962). In hardware the exponent and mantissa fields are added as one integer; when x_m + y_m + 2^-l >= 1 the sum
carries into the exponent, which gives 2 (x_m + y_m + 2^-l) where the equation has 1 + x_m + y_m + 2^-l. The two differ, and
the adder is the more accurate.

Deviations: mode "adder" is the default, since it is what the paper's algorithm computes and what its hardware would; operands are
rounded to m bits to nearest, ties to even (the paper does not say how); zeros and subnormal operands give zero.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError

FloatArray = NDArray[np.float64]
Mode = Literal["adder", "formula"]
_MOST_BITS = 52


def _bits(name: str, value: int) -> int:
    if checks.count(name, value) > _MOST_BITS:
        raise InputError(f"{name} is {value}; allowed: 1 to {_MOST_BITS}, as many as float64 has")
    return value


def offset_exponent(mantissa_bits: int) -> int:
    """l(m) of the paper: 2^-l stands in for the mean of the dropped product of mantissas."""
    m = _bits("mantissa_bits", mantissa_bits)
    return m if m <= 3 else 3 if m == 4 else 4


def round_mantissa(x: ArrayLike, bits: int) -> FloatArray:
    """`x` rounded to `bits` bits after the leading one, to nearest, ties to even; the exponent is unbounded; shape of `x`."""
    values = checks.numbers("x", x)
    fraction, exponent = np.frexp(values)  # |fraction| in [0.5, 1)
    scale = 2.0 ** (_bits("bits", bits) + 1)
    return np.asarray(np.ldexp(np.rint(fraction * scale) / scale, exponent), dtype=np.float64)


def lmul(
    x: ArrayLike, y: ArrayLike, mantissa_bits: int = 4, *, mode: Mode = "adder", offset: bool = True, rounded: bool = True
) -> FloatArray:
    """Approximate product of `x` and `y`, which broadcast; float64 with unbounded exponent.

    Parameters
    ----------
    mantissa_bits : m, 1 to 52
    mode : "adder" carries into the exponent as integer addition does, "formula" is the paper's equation as written
    offset : add 2^-l(m); False is Mitchell's multiplication
    rounded : round the operands to m bits first; False keeps their mantissas and uses m only for l(m)

    Zeros give zeros; infinities and NaN give what x y gives. Raises InputError for other m. Source: equation 1.
    """
    mode_ = checks.choice("mode", mode, ("adder", "formula"))
    bits = _bits("mantissa_bits", mantissa_bits)
    a, b = np.broadcast_arrays(checks.numbers("x", x), checks.numbers("y", y))
    if rounded:
        a, b = round_mantissa(a, bits), round_mantissa(b, bits)
    usual = np.isfinite(a) & np.isfinite(b) & (a != 0) & (b != 0)
    fa, ea = np.frexp(np.where(usual, a, 1.0))
    fb, eb = np.frexp(np.where(usual, b, 1.0))
    total = (2 * np.abs(fa) - 1) + (2 * np.abs(fb) - 1) + (2.0 ** -offset_exponent(bits) if offset else 0.0)
    carried = total >= 1
    # up to 2.0625, so the adder carries twice at the very top: then the field holds total - 2, two exponents up
    mantissa = 1 + total if mode_ == "formula" else np.where(total >= 2, 4 * (total - 1), np.where(carried, 2 * total, 1 + total))
    out = np.ldexp(np.sign(fa) * np.sign(fb) * mantissa, ea + eb - 2)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(usual, out, a * b), dtype=np.float64)
