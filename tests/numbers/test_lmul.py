"""L-Mul against the integer addition it is, and against the error table measured for it."""

import numpy as np
import pytest

from farfield.errors import InputError
from farfield.numbers.lmul import lmul, offset_exponent, round_mantissa


def bfloat16(bits):
    """The values of bfloat16 bit patterns."""
    return (np.asarray(bits, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)


def test_the_adder_is_integer_addition_of_bfloat16_bit_patterns():
    """Every mantissa pair, some exponents: add the fields as integers, take off the bias, add 2^(7 - 4) for the constant 2^-4."""
    mantissa = np.arange(128, dtype=np.uint32)
    for ex, ey in ((127, 127), (100, 140), (130, 90)):
        a, b = np.meshgrid((ex << 7) + mantissa, (ey << 7) + mantissa)
        added = a + b - (127 << 7) + (1 << 3)
        np.testing.assert_array_equal(lmul(bfloat16(a), bfloat16(b), 7), bfloat16(added))
        np.testing.assert_array_equal(lmul(-bfloat16(a), bfloat16(b), 7), -bfloat16(added))
        np.testing.assert_array_equal(lmul(bfloat16(a), bfloat16(b), 7, offset=False), bfloat16(added - (1 << 3)))


def test_the_formula_is_the_equation_of_the_paper():
    x, y = np.random.default_rng(0).uniform(1, 2, (2, 1000))
    for m in (1, 2, 3, 4, 5, 8):
        a, b = round_mantissa(x, m), round_mantissa(y, m)
        carry_a, carry_b = np.floor(np.log2(a)), np.floor(np.log2(b))
        xm, ym = a / 2**carry_a - 1, b / 2**carry_b - 1
        expected = (1 + xm + ym + 2.0 ** -offset_exponent(m)) * 2 ** (carry_a + carry_b)
        np.testing.assert_allclose(lmul(x, y, m, mode="formula"), expected, rtol=1e-15)


def test_rounding_is_to_the_nearest_with_ties_to_even():
    for bits in (1, 2, 3, 7):
        grid = np.arange(2**bits, 2 ** (bits + 1) + 1) / 2**bits  # every value in [1, 2]
        x = np.random.default_rng(bits).uniform(1, 2, 500)
        nearest = grid[np.abs(x[:, None] - grid).argmin(1)]
        np.testing.assert_array_equal(round_mantissa(x, bits), nearest)
        np.testing.assert_array_equal(round_mantissa(-8 * x, bits), -8 * nearest)
        ties = (grid[:-1] + grid[1:]) / 2
        even = np.where(np.arange(2**bits, 2 ** (bits + 1)) % 2 == 0, grid[:-1], grid[1:])
        np.testing.assert_array_equal(round_mantissa(ties, bits), even)


@pytest.mark.parametrize(
    ("kind", "bits", "rounded", "percent"),
    [
        ("adder", 7, True, 2.66),
        ("adder", 4, True, 5.3),
        ("adder", 3, True, 5.7),
        ("formula", 7, False, 7.6),
        ("formula", 4, False, 7.1),
    ],
)
def test_mean_error_on_uniform_mantissas(kind, bits, rounded, percent):
    """Figures measured with another program, on a million operands."""
    x, y = np.random.default_rng(1).uniform(1, 2, (2, 200_000))
    error = 100 * np.mean(np.abs(lmul(x, y, bits, mode=kind, rounded=rounded) / (x * y) - 1))
    assert error == pytest.approx(percent, abs=0.06)


def test_zero_infinity_nan_and_refusals():
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(
            lmul([0.0, -0.0, np.inf, np.nan, np.inf], [3.0, 3.0, -2.0, 1.0, 0.0]), [0, 0, -np.inf, np.nan, np.nan]
        )
    assert np.signbit(lmul(-0.0, 3.0))
    for bits in (0, 53, 5000):
        with pytest.raises(InputError, match=f"mantissa_bits is {bits}"):
            lmul(1.0, 2.0, bits)
    with pytest.raises(InputError, match="bits is 53"):
        round_mantissa(1.0, 53)
    with pytest.raises(InputError, match="adder"):
        lmul(1.0, 2.0, mode="add")
