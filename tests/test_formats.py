"""Rounding held to exact rationals: the nearest number of a format by search over all of them, ties to the even pattern."""

from __future__ import annotations

import bisect
import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield import formats
from farfield.errors import InputError
from farfield.formats import FORMATS

NARROW = ("BF16", "F16", "F8_E4M3", "F8_E5M2")
# exponent bits, mantissa bits, whether the highest exponent is kept for infinities: typed here again, from the definitions
LAYOUT = {"BF16": (8, 7, True), "F16": (5, 10, True), "F8_E4M3": (4, 3, False), "F8_E5M2": (5, 2, True), "F32": (8, 23, True)}
RAW = {"BF16": np.uint16, "F16": np.uint16, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8, "F32": np.uint32}


def exact(dtype: str, magnitude: int) -> Fraction:
    """The value of a pattern without its sign, highest exponent taken for one more binade."""
    e, m, _ = LAYOUT[dtype]
    field, mantissa = magnitude >> m, magnitude & ((1 << m) - 1)
    power = max(field, 1) - ((1 << (e - 1)) - 1) - m
    units = mantissa + ((1 << m) if field else 0)
    return Fraction(units) * Fraction(2) ** power


def beyond(dtype: str) -> int:
    """The first pattern that is no finite number."""
    e, m, infinities = LAYOUT[dtype]
    return ((1 << e) - 1 << m) if infinities else (1 << (e + m)) - 1


@cache
def numbers(dtype: str) -> list[Fraction]:
    """Every finite magnitude in order, and the one after them, as if exponents went on: what rounds to it is too large."""
    return [exact(dtype, p) for p in range(beyond(dtype) + 1)]


def nearest(dtype: str, x: Fraction) -> int:
    """Pattern of the nearest number, by search; ties to the even pattern."""
    magnitudes = numbers(dtype)
    sign = (1 << (sum(LAYOUT[dtype][:2]))) if x < 0 else 0
    x = abs(x)
    at = bisect.bisect_right(magnitudes, x) - 1
    if at == len(magnitudes) - 1:
        return sign | at
    below, above = x - magnitudes[at], magnitudes[at + 1] - x
    up = above < below or (above == below and at % 2 == 1)
    return sign | (at + up)


def probes(dtype: str) -> np.ndarray:
    """Numbers, middles and their float64 neighbours, all over the range of a format."""
    table = numbers(dtype)
    step = max(1, len(table) // 1500)
    picked = sorted({*range(0, len(table) - 1, step), *range(40), *range(len(table) - 40, len(table) - 1)})
    out = []
    for i in picked:
        low, high = float(table[i]), float(table[i + 1])
        middle = float((table[i] + table[i + 1]) / 2)
        for v in (low, middle, low + (high - low) / 3):
            out += [v, np.nextafter(v, np.inf), np.nextafter(v, 0.0)]
        out += [middle * (1 + 2**-40), middle * (1 - 2**-40)]
    return np.array([*out, *(-v for v in out)])


@pytest.mark.parametrize("dtype", NARROW)
def test_every_rounding_is_the_nearest_of_all_numbers(dtype: str) -> None:
    x = probes(dtype)
    expected = np.array([nearest(dtype, Fraction(v)) for v in x.tolist()])
    expected[(x == 0) & np.signbit(x)] = 1 << sum(LAYOUT[dtype][:2])
    got = formats.round_to(x, dtype)
    assert got.dtype == RAW[dtype]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", NARROW)
def test_widening_is_exact_and_rounding_undoes_it(dtype: str) -> None:
    bits = sum(LAYOUT[dtype][:2])
    raw = np.arange(2 << bits, dtype=RAW[dtype])
    values = formats.widen(raw, dtype)
    finite = np.flatnonzero((raw & ((1 << bits) - 1)) < beyond(dtype))
    assert [abs(Fraction(v)) for v in values[finite].tolist()] == [numbers(dtype)[int(i) & ((1 << bits) - 1)] for i in finite]
    np.testing.assert_array_equal(np.signbit(values[finite]), finite >= 1 << bits)
    assert not np.isfinite(np.delete(values, finite)).any()
    np.testing.assert_array_equal(formats.round_to(values[finite], dtype), raw[finite])
    single = formats.widen_float32(raw, dtype)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single[finite].astype(np.float64), values[finite])
    assert not np.isfinite(np.delete(single, finite)).any()
    assert FORMATS[dtype].max == values[finite].max()


@pytest.mark.parametrize("alpha", [0.3, 0.5, 2.0])
def test_bf16_pairs_of_sampled_exponents(alpha: float) -> None:
    """(1 + alpha) b - alpha a in float64 for all mantissas of a and b: the bits are those of the exact rational of that sum."""
    mantissas = np.arange(128, dtype=np.uint16)
    rng = np.random.default_rng(3)
    for exponent_a in (0, 1, 60, 120, 127, 254):
        exponent_b = int(np.clip(exponent_a + rng.integers(-9, 10), 0, 254))
        a = formats.widen((exponent_a << 7 | mantissas[:, None]).astype(np.uint16), "BF16")
        b = formats.widen((exponent_b << 7 | mantissas[None, ::8]).astype(np.uint16), "BF16")
        x = (b + alpha * (b - a)).ravel()
        got = formats.round_to(x, "BF16")
        expected = [nearest("BF16", Fraction(v)) for v in x.tolist()]
        expected = np.array(expected) | (np.signbit(x) & (x == 0)).astype(int) << 15
        np.testing.assert_array_equal(got, expected)


def test_rounding_through_float32_would_be_wrong_and_is_not_done() -> None:
    x = np.array([1 + 2**-8 + 2**-40, 1 + 3 * 2**-8 - 2**-40, -(1 + 2**-8 + 2**-52), 2**-133 * (0.5 + 2**-30)])
    through = formats.round_to(x.astype(np.float32).astype(np.float64), "BF16")
    direct = formats.round_to(x, "BF16")
    assert (through != direct).all()
    assert direct.tolist() == [nearest("BF16", Fraction(v)) for v in x.tolist()]
    half = np.array([1 + 2**-11 + 2**-40])
    assert formats.round_to(half, "F16").tolist() == [0x3C01]
    assert formats.round_to(half.astype(np.float32), "F16").tolist() == [0x3C00]


@given(st.floats(width=64), st.sampled_from(NARROW))
def test_any_float64(x: float, dtype: str) -> None:
    got = int(formats.round_to(x, dtype))
    sign = 1 << sum(LAYOUT[dtype][:2])
    if math.isnan(x):
        assert math.isnan(float(formats.widen(np.array(got, RAW[dtype]), dtype)))
    elif math.isinf(x):
        assert got == beyond(dtype) | (sign if x < 0 else 0)
    elif x == 0:
        assert got == (sign if math.copysign(1, x) < 0 else 0)
    else:
        assert got == nearest(dtype, Fraction(x)) | (sign if x < 0 else 0)


@given(st.lists(st.floats(width=64), max_size=40), st.sampled_from(["BF16", "F16", "F32"]))
def test_the_fast_ways_equal_the_plain_one(values: list[float], dtype: str) -> None:
    x = np.array(values, dtype=np.float64)
    fast, plain = formats.round_to(x, dtype), formats._round_by_quantum(x, FORMATS[dtype])
    nan = np.isnan(x)
    np.testing.assert_array_equal(fast[~nan], plain[~nan])
    assert np.isnan(formats.widen(fast, dtype)[nan]).all()


@pytest.mark.parametrize("dtype", NARROW)
def test_nan_and_infinity_among_others(dtype: str) -> None:
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, 1.0, 1e300, -1e300])
    values = formats.widen(formats.round_to(x, dtype), dtype)
    assert np.isnan(values[:2]).all()
    assert values[4] == 1.0
    if dtype == "F8_E4M3":
        assert np.isnan(values[[2, 3, 5, 6]]).all()
    else:
        assert values[[2, 3, 5, 6]].tolist() == [np.inf, -np.inf, np.inf, -np.inf]
    assert np.signbit(formats.widen(formats.round_to(-np.nan, dtype), dtype)) == np.signbit(-np.nan)


@pytest.mark.parametrize("dtype", [*NARROW, "F32"])
def test_stochastic_rounding_goes_to_a_neighbour_and_is_right_on_average(dtype: str) -> None:
    n = 4000
    low, high = exact(dtype, beyond(dtype) // 2), exact(dtype, beyond(dtype) // 2 + 1)
    for share in (0.0, 0.25, 0.7):
        x = float(low) + share * float(high - low)
        raw = formats.round_to(np.full(n, -x), dtype, rounding="stochastic", rng=5)
        values = -formats.widen(raw, dtype)
        assert set(values.tolist()) <= {float(low), float(high)}
        up = float(np.mean(values == float(high)))
        assert abs(up - share) <= 4 * math.sqrt(share * (1 - share) / n)
        np.testing.assert_array_equal(raw, formats.round_to(np.full(n, -x), dtype, rounding="stochastic", rng=5))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_pairs_hold_twice_the_digits(dtype: str) -> None:
    mantissa = LAYOUT[dtype][1]
    x = np.random.default_rng(0).normal(size=2000)
    high, low = formats.split(x, dtype)
    np.testing.assert_array_equal(high, formats.round_to(x, dtype))
    assert (np.abs(formats.join(high, low, dtype) - x) <= np.abs(x) * 2.0 ** (-2 * mantissa - 2) + FORMATS[dtype].max ** -1).all()
    high, low = formats.split([np.inf, np.nan, 1.0], dtype)
    assert low.tolist() == [0, 0, 0]


def test_shapes_types_and_refusals() -> None:
    for dtype in FORMATS:
        for shape in ((), (0,), (2, 3)):
            raw = formats.round_to(np.ones(shape), dtype)
            assert raw.shape == shape
            assert raw.dtype == FORMATS[dtype].raw_dtype
            assert formats.widen(raw, dtype).shape == shape
            assert (formats.widen(raw, dtype) == 1).all()
    every_other = np.arange(10.0)[::2]
    assert formats.widen(formats.round_to(every_other, "BF16"), "BF16").tolist() == every_other.tolist()
    with pytest.raises(InputError, match="BF16"):
        formats.round_to([1.0], "bfloat16")
    with pytest.raises(InputError, match="16-bit"):
        formats.widen(np.zeros(3, np.uint32), "BF16")
    with pytest.raises(InputError, match="nearest, stochastic"):
        formats.round_to([1.0], "BF16", rounding="up")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="float32"):
        formats.widen_float32(np.zeros(3, np.uint64), "F64")
