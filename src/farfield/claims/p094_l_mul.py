"""P094: multiplication by integer addition is about as precise as float8 e4m3 at 4 mantissa bits, and more than e5m2 at 3.

Operands have uniform mantissas; the exponents play no part. A float8 product rounds both operands to the format's mantissa (3 bits
for e4m3, 2 for e5m2) and is then exact, as where hardware accumulates in a wider format. L-Mul is taken in its more accurate
reading, the integer adder; the curves show the formula as it is written too. Ablation: no constant in place of the dropped product.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farfield.claims.criteria import Curve, Measured
from farfield.numbers.lmul import Mode, lmul, round_mantissa

FloatArray = NDArray[np.float64]
MODES: tuple[Mode, Mode] = ("adder", "formula")


def run(budget: str, seed: int) -> Measured:
    """Mean absolute relative error to the exact product, in percent."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(1, 2, size=(2, 100_000 if budget == "tiny" else 2_000_000))

    def error(product: FloatArray) -> float:
        return 100 * float(np.mean(np.abs(product / (x * y) - 1)))

    def float8(bits: int) -> float:
        return error(round_mantissa(x, bits) * round_mantissa(y, bits))

    bits = list(range(2, 9))
    adder, formula = ([error(lmul(x, y, m, mode=mode)) for m in bits] for mode in MODES)
    mitchell = [error(lmul(x, y, m, offset=False)) for m in bits]
    return Measured(
        ours={
            "error_4_bits": adder[bits.index(4)],
            "error_3_bits": adder[bits.index(3)],
            "error_no_constant": adder[bits.index(7)],
        },
        baseline={"error_4_bits": float8(3), "error_3_bits": float8(2)},
        ablation={"error_no_constant": mitchell[bits.index(7)]},
        curves=[
            Curve("L-Mul, integer adder", bits, adder),
            Curve("L-Mul, formula as written", bits, formula),
            Curve("no constant (Mitchell)", bits, mitchell),
            Curve("float with one mantissa bit less", bits, [float8(m - 1) for m in bits]),
        ],
        axes=("bits of the mantissa", "mean absolute relative error (%)"),
        notes={"operands": len(x), "formula, 4 bits": formula[bits.index(4)], "formula, 3 bits": formula[bits.index(3)]},
    )
