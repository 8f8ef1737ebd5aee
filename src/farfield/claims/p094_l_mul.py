"""P094: multiplication by integer addition with 4-bit mantissas is as precise as float8 e4m3, with 3 bits more precise than e5m2.

Operands are standard normal, as weights and activations are to first order. A float8 product rounds both operands to its mantissa
(3 bits for e4m3, 2 for e5m2) and the product too; exponents do not overflow. L-Mul is taken in its more accurate reading, the
integer adder. Ablation: the same without the constant that stands in for the dropped product of mantissas.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farfield.claims.criteria import Curve, Measured
from farfield.numbers.lmul import lmul, round_mantissa

FloatArray = NDArray[np.float64]


def run(budget: str, seed: int) -> Measured:
    """Mean absolute relative error to the exact product, in percent."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 20_000 if budget == "tiny" else 2_000_000))

    def error(product: FloatArray) -> float:
        return 100 * float(np.mean(np.abs(product / (x * y) - 1)))

    def float8(bits: int) -> FloatArray:
        return round_mantissa(round_mantissa(x, bits) * round_mantissa(y, bits), bits)

    bits = list(range(2, 9))
    return Measured(
        ours={"error_4bit": error(lmul(x, y, 4)), "error_3bit": error(lmul(x, y, 3))},
        baseline={"error_4bit": error(float8(3)), "error_3bit": error(float8(2))},
        ablation={"error_4bit": error(lmul(x, y, 4, offset=False)), "error_3bit": error(lmul(x, y, 3, offset=False))},
        curves=[
            Curve("L-Mul, integer adder", bits, [error(lmul(x, y, m)) for m in bits]),
            Curve("L-Mul, formula as written", bits, [error(lmul(x, y, m, mode="formula")) for m in bits]),
            Curve("without the constant (Mitchell)", bits, [error(lmul(x, y, m, offset=False)) for m in bits]),
            Curve("float multiplication, one bit less", bits, [error(float8(m - 1)) for m in bits]),
        ],
        axes=("bits of the mantissa", "mean absolute relative error (%)"),
        notes={
            "formula as written, 4 bits": error(lmul(x, y, 4, mode="formula")),
            "formula as written, 3 bits": error(lmul(x, y, 3, mode="formula")),
            "operands": len(x),
        },
    )
