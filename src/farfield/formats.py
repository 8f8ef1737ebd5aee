"""Float formats and exact rounding between them: every value is rounded once, straight from float64 to its format.

Rounding through float32 rounds twice: 1 + 2^-8 + 2^-40 lies above the middle of two neighbouring bfloat16 numbers, float32 drops
the 2^-40, and what is left is a tie that goes down to 1. :func:`round_to` gives 1 + 2^-7, the nearest. Stored numbers are *raw
bits*, unsigned integers of the format's width; :func:`widen` gives their exact values.

Formats carry the names that safetensors files use: F64, F32, F16, BF16, F8_E4M3 (no infinities, OCP "e4m3fn"), F8_E5M2.
Source of the 8-bit formats: OCP 8-bit Floating Point Specification (OFP8) 1.0, tables 1 and 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield.errors import InputError, unknown_name
from farfield.seeds import Seed, generator

Raw = NDArray[Any]  # unsigned integers of the format's width
FloatArray = NDArray[np.float64]
Rounding = Literal["nearest", "stochastic"]


@dataclass(frozen=True)
class FloatFormat:
    """A binary float format: one sign bit, `exponent` bits with `bias`, `mantissa` bits, subnormals.

    Without `infinities` the highest exponent holds numbers too, and only the pattern of all ones is NaN.
    """

    name: str
    exponent: int
    mantissa: int
    infinities: bool = True

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def bias(self) -> int:
        return (1 << (self.exponent - 1)) - 1

    @property
    def raw_dtype(self) -> np.dtype[Any]:
        """Unsigned little-endian integers as wide as the format."""
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def nan(self) -> int:
        """The NaN that rounding gives, without its sign: quiet, no payload."""
        ones = (1 << self.exponent) - 1 << self.mantissa
        return ones | (1 << (self.mantissa - 1) if self.infinities else (1 << self.mantissa) - 1)

    @property
    def beyond(self) -> int:
        """What a magnitude too large becomes: infinity, or NaN where the format has none."""
        return (1 << self.exponent) - 1 << self.mantissa if self.infinities else self.nan

    @property
    def max(self) -> float:
        """The largest finite number."""
        raw = self.beyond - 1  # the pattern below infinity, or below the only NaN
        exponent, mantissa = raw >> self.mantissa, raw & ((1 << self.mantissa) - 1)
        return float(np.ldexp(1.0 + mantissa / (1 << self.mantissa), exponent - self.bias))

    @property
    def smallest_exponent(self) -> int:
        """Power of two of the smallest normal number."""
        return 1 - self.bias


FORMATS = {
    f.name: f
    for f in (
        FloatFormat("F64", 11, 52),
        FloatFormat("F32", 8, 23),
        FloatFormat("F16", 5, 10),
        FloatFormat("BF16", 8, 7),
        FloatFormat("F8_E4M3", 4, 3, infinities=False),
        FloatFormat("F8_E5M2", 5, 2),
    )
}
_NATIVE: dict[str, type[np.floating[Any]]] = {"F32": np.float32, "F16": np.float16}


def format_named(dtype: str) -> FloatFormat:
    """The format of this name; InputError with the nearest names where there is none."""
    if dtype not in FORMATS:
        raise unknown_name("float format", dtype, FORMATS)
    return FORMATS[dtype]


def round_to(values: ArrayLike, dtype: str, *, rounding: Rounding = "nearest", rng: Seed = None) -> Raw:
    """Float64 values rounded once to a format, as raw bits.

    Parameters
    ----------
    values : real numbers, any shape; read as float64
    dtype : ``BF16``, ``F16``, ``F32``, ``F64``, ``F8_E4M3`` or ``F8_E5M2``
    rounding : ``nearest`` (ties to even) or ``stochastic``: to one of the two neighbours, the nearer the likelier, so that the mean
        over draws is the value itself
    rng : seed or generator of the stochastic rounding; one uniform number an element is drawn

    Returns raw bits of the shape of `values`. NaN stays NaN with its sign; a magnitude that rounds beyond the largest finite number
    becomes infinity, or NaN in F8_E4M3, which has no infinity.

    Raises InputError for an unknown format or rounding.
    """
    fmt = format_named(dtype)
    x = np.ascontiguousarray(values, dtype=np.float64)  # at least one axis
    shape = np.shape(values)
    if rounding == "stochastic":
        return _round_by_quantum(x, fmt, generator(rng).random(x.shape)).reshape(shape)
    if rounding != "nearest":
        raise unknown_name("rounding", rounding, ("nearest", "stochastic"))
    if dtype == "F64":
        return x.view(fmt.raw_dtype).reshape(shape)
    if dtype in _NATIVE:  # NumPy rounds these once, from float64 directly
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return x.astype(_NATIVE[dtype]).view(fmt.raw_dtype).reshape(shape)
    if dtype == "BF16":
        return _round_bf16(x.reshape(-1)).reshape(shape)
    return _round_by_quantum(x, fmt).reshape(shape)


def widen(raw: Raw, dtype: str) -> FloatArray:
    """The exact values of raw bits, as float64 of the same shape.

    `raw` holds unsigned integers of the width of `dtype` (or anything of that item size, whose bits are then read).

    Raises InputError for an unknown format or bits of another width.
    """
    bits = _as_raw(raw, format_named(dtype))
    if dtype == "F64":
        return bits.view(np.float64).copy()
    with np.errstate(invalid="ignore"):  # signalling NaNs
        values: FloatArray = _narrow_values(bits, dtype).astype(np.float64)
        return values


def widen_float32(raw: Raw, dtype: str) -> NDArray[np.float32]:
    """The exact values of raw bits as float32, which holds every format here but F64 (refused with InputError)."""
    fmt = format_named(dtype)
    if dtype == "F64":
        raise InputError("F64 does not fit into float32; allowed: F32, F16, BF16, F8_E4M3, F8_E5M2, or round_to(widen(raw), 'F32')")
    with np.errstate(invalid="ignore"):
        return _narrow_values(_as_raw(raw, fmt), dtype).astype(np.float32)


def split(values: ArrayLike, dtype: str) -> tuple[Raw, Raw]:
    """Two numbers of a format for each float64 value: `high` is the value rounded, `low` what that lost, rounded.

    Together they hold about twice the digits of the format: a step that BF16 weights are too coarse for fits into a BF16 pair.
    Where `high` is not finite `low` is 0. Source: Collage (arXiv 2405.03637), section 3, multi-component floats of length 2.
    """
    x = np.asarray(values, dtype=np.float64)
    high = round_to(x, dtype)
    exact = widen(high, dtype)
    lost = np.zeros_like(x)
    # exact: both are multiples of the last place of x, and their difference is no larger than x
    np.subtract(x, exact, out=lost, where=np.isfinite(exact))
    return high, round_to(lost, dtype)


def join(high: Raw, low: Raw, dtype: str) -> FloatArray:
    """The float64 values of pairs made by :func:`split`."""
    return widen(high, dtype) + widen(low, dtype)


def _as_raw(raw: Raw, fmt: FloatFormat) -> Raw:
    array = np.ascontiguousarray(raw)
    if array.itemsize != fmt.bits // 8:
        raise InputError(
            f"raw bits of {fmt.name} come in {fmt.bits}-bit integers; got {array.dtype}: read them as {fmt.raw_dtype.name}"
        )
    return array.view(fmt.raw_dtype).reshape(np.shape(raw))


def _narrow_values(bits: Raw, dtype: str) -> NDArray[Any]:
    if dtype == "F32":
        return bits.view(np.float32)
    if dtype == "F16":
        return bits.view(np.float16)
    if dtype == "BF16":
        wide = bits.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    return _table(dtype)[bits]


@cache
def _table(dtype: str) -> FloatArray:
    """All 256 values of an 8-bit format."""
    fmt = FORMATS[dtype]
    raw = np.arange(256)
    magnitude = raw & 127
    exponent, mantissa = magnitude >> fmt.mantissa, magnitude & ((1 << fmt.mantissa) - 1)
    normal = exponent > 0
    significand = mantissa / (1 << fmt.mantissa) + normal
    values = np.ldexp(significand, np.where(normal, exponent, 1) - fmt.bias)
    if fmt.infinities:
        values[magnitude == fmt.beyond] = np.inf
        values[magnitude > fmt.beyond] = np.nan
    else:
        values[magnitude == fmt.nan] = np.nan
    signed: FloatArray = np.copysign(values, np.where(raw > 127, -1.0, 1.0))
    return signed


def _round_bf16(x: FloatArray) -> Raw:
    """The fast way to BF16: through float32, with the elements repaired that this rounds twice.

    Every middle of two BF16 numbers is a float32 number and rounding keeps order, so the two roundings differ from one only where
    the float32 value is such a middle and the float64 value is not.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single = x.astype(np.float32)
        bits = single.view(np.uint32)
        has_nan = bool(x.size) and bool(np.isnan(np.max(single)))
    middle = np.flatnonzero((bits & np.uint32(0xFFFF)) == 0x8000)
    if middle.size:
        exact, rounded = np.abs(x[middle]), np.abs(single[middle]).astype(np.float64)
        # the integer next to a middle lies on the side where the value was, and is rounded there
        bits[middle] += (exact > rounded).astype(np.uint32)
        bits[middle] -= (exact < rounded).astype(np.uint32)
    odd = bits >> np.uint32(16)
    odd &= np.uint32(1)
    odd += np.uint32(0x7FFF)
    odd += bits
    odd >>= np.uint32(16)
    out = odd.astype("<u2")
    if has_nan:
        nan = np.isnan(x)
        out[nan] = np.where(np.signbit(x[nan]), 0xFFC0, 0x7FC0)
    return out


def _round_by_quantum(x: FloatArray, fmt: FloatFormat, uniform: FloatArray | None = None) -> Raw:
    """The plain way to any format: the magnitude in units of the format's last place, made an integer, and its bits put together.

    Scaling by powers of two is exact, except that a float64 subnormal divided by the smallest unit of F64 is the value it is.
    """
    if fmt.name == "F64":
        return x.view(fmt.raw_dtype)
    magnitude = np.abs(x)
    finite = np.isfinite(magnitude)
    magnitude = np.where(finite, magnitude, 0.0)
    exponent = np.maximum(np.frexp(magnitude)[1] - 1, fmt.smallest_exponent)
    exponent[magnitude == 0] = fmt.smallest_exponent
    units = np.ldexp(magnitude, fmt.mantissa - exponent)
    if uniform is None:
        whole = np.rint(units)
    else:
        whole = np.floor(units)
        whole += uniform < units - whole
    # a normal number has 2^mantissa..2^(mantissa+1) units; a carry into the next power of two carries into the exponent field
    raw = (exponent - fmt.smallest_exponent).astype(np.int64) * (1 << fmt.mantissa) + whole.astype(np.int64)
    raw = np.minimum(raw, fmt.beyond)
    raw = np.where(finite, raw, np.where(np.isnan(x), fmt.nan, fmt.beyond))
    raw |= np.signbit(x).astype(np.int64) << (fmt.bits - 1)
    return raw.astype(fmt.raw_dtype)
