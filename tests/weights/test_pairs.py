"""The short way for BF16 pairs against rationals, by compiled loops and by NumPy: all exponents, ties by decimals, cancellation,
zeros, extremes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from farfield import formats
from farfield.weights import compiled, exact, pairs
from farfield.weights.edits import DeltaEdit, Linear, Weighted
from farfield.weights.kernel import combine

EDITS: list[DeltaEdit] = [
    *(Linear((-a,)) for a in (0.3, 1 / 3, -0.7, 1.1, 25.1, 1e-5, 60000.1)),
    Weighted((0.3, 0.4)),
    Weighted((0.1, -0.35)),
    Linear((0.3,), base_weight=0.9),
    Linear((0.3,), base_weight=0.7),  # sums to 1 less half of float64's last place
]


@pytest.fixture(autouse=True, params=[pytest.param("compiled", marks=pytest.mark.compiled), "NumPy"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with the compiled loops and without them."""
    if request.param == "NumPy":
        monkeypatch.setattr(compiled, "library", lambda: None)


def close_pairs(n: int) -> tuple[formats.Raw, formats.Raw]:
    """Weights and the same after a small step: many differ by a few units in the last place."""
    rng = np.random.default_rng(0)
    first = formats.round_to(rng.normal(0, 0.02, n), "BF16")
    return first, formats.round_to(formats.widen(first, "BF16") + rng.normal(0, 6e-4, n), "BF16")


def any_pairs(n: int) -> tuple[formats.Raw, formats.Raw]:
    """Any bit patterns below the largest that the way takes; a third of the pairs of nearly equal size, of either sign."""
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 0x7000, n).astype("<u2") for _ in range(2))
    second[::3] = (first[::3].astype(int) + rng.integers(-300, 300, first[::3].size)).clip(0, 0x6FFF)
    first[::5], second[::7] = 0, 0
    for raw in (first, second):
        raw |= (rng.integers(0, 2, n) << 15).astype("<u2")
    return first, second


def slowly(edit: DeltaEdit, first: formats.Raw, second: formats.Raw) -> list[Fraction]:
    values = [formats.widen(r, "BF16").tolist() for r in (first, second)]
    return [exact.combine_reference([x, y], edit.terms(None)) for x, y in zip(*values, strict=True)]  # type: ignore[arg-type]


def rounded(value: Fraction) -> int:
    """Raw bits, ties to even, from integers alone."""
    magnitude = abs(value)
    if magnitude == 0:
        return 0
    exponent = max(magnitude.numerator.bit_length() - magnitude.denominator.bit_length() - 1, -127)
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    exponent = max(exponent, -126)
    units = round(magnitude / Fraction(2) ** (exponent - 7))  # Python rounds ties of fractions to even
    return min((exponent + 126) * 128 + units, 0x7F80) | (0x8000 if value < 0 else 0)


@pytest.mark.parametrize("edit", EDITS, ids=repr)
@pytest.mark.parametrize("make", [close_pairs, any_pairs])
def test_what_is_decided_is_the_exact_result_rounded_once(edit: DeltaEdit, make: object) -> None:
    n = 1500
    first, second = make(n)  # type: ignore[operator]
    way = pairs.pair_for(edit.terms(None), 2000)  # type: ignore[arg-type]
    assert isinstance(way, pairs.PairNear)
    for _ in range(2):  # the buffers of the first call do not show in the second
        done = way(first, second)
        assert done is not None
        out, left = done
        decided = np.setdiff1d(np.arange(n), left)
        assert decided.size > (0.7 if make is any_pairs else 0.9) * n
        want = slowly(edit, first[decided], second[decided])
        for got, value in zip(out[decided].tolist(), want, strict=True):
            assert got == rounded(value) or (value == 0 and got & 0x7FFF == 0)


def test_decimals_bring_ties_and_all_but_few_are_settled() -> None:
    """0.3 times five units is one and a half: nearer to the middle than float32 or a float64 sum can say."""
    first, second = close_pairs(200_000)
    step = (second.astype(int) - first.astype(int)) % 10 == 5
    assert step.mean() > 0.04
    way = pairs.pair_for(Linear((-0.3,)).terms(None), 200_000)
    assert way is not None
    done = way(second, first)
    assert done is not None
    assert done[1].size < 20
    some = np.flatnonzero(step)[:2000]
    for got, value in zip(done[0][some].tolist(), slowly(Linear((-0.3,)), second[some], first[some]), strict=True):
        assert got == rounded(value)


def all_mantissas(gaps: tuple[int, ...]) -> tuple[formats.Raw, formats.Raw]:
    """Every pair of mantissas, of either sign, exponents as far apart as given."""
    x, y = (m.ravel() for m in np.meshgrid(np.arange(128) + (120 << 7), np.arange(128)))
    first = np.concatenate([x for _ in gaps for _ in range(2)])
    second = np.concatenate([y + ((120 + gap) << 7) + sign for gap in gaps for sign in (0, 0x8000)])
    flip = np.random.default_rng(0).integers(0, 2, first.size) << 15
    return (first ^ flip).astype("<u2"), (second ^ flip).astype("<u2")


@pytest.mark.parametrize("alpha", [0.3, 0.7, -0.3, 0.35, 1 / 3, 0.01, 3.3, 0.5, -0.75, 0.381966])
def test_every_pair_of_mantissas(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = Linear((-alpha,))
    terms = edit.terms(None)
    assert terms is not None
    way = pairs.pair_for(terms, 1 << 19)
    decimal = isinstance(way, pairs.PairDecimal)
    reach = way.reach if isinstance(way, pairs.PairDecimal | pairs.PairBF16) else 9
    first, second = all_mantissas((1 - reach, 3 - reach, -2, -1, 0, 1, 2, reach - 2, reach - 1))
    want = combine(edit, None, [formats.widen(r, "BF16") for r in (first, second)], 0, "BF16", "BF16")
    if decimal:  # on its own, what others would settle being left
        monkeypatch.setattr(pairs.PairNear, "_block", None)
        monkeypatch.setattr(pairs.PairNear, "_compiled", None)
        monkeypatch.setattr(pairs.PairNear, "_settle", lambda self, a, b, out, left: left)
    assert way is not None
    done = way(first, second)
    assert done is not None
    out, left = done
    decided = np.setdiff1d(np.arange(first.size), left)
    assert decided.size > 0.99 * first.size
    np.testing.assert_array_equal(out[decided], want[decided])
    some = np.random.default_rng(1).choice(decided, 300, replace=False)
    for got, value in zip(out[some].tolist(), slowly(edit, first[some], second[some]), strict=True):
        assert got == rounded(value) or (value == 0 and got & 0x7FFF == 0)


def test_decimals_have_a_way_of_their_own() -> None:
    kinds = {a: type(pairs.pair_for(Linear((-a,)).terms(None), 8)) for a in (0.3, 1 / 3, 0.25, 0.123456, 0.999)}  # type: ignore[arg-type]
    assert kinds[0.3] is kinds[1 / 3] is pairs.PairDecimal
    assert kinds[0.25] is pairs.PairBF16
    assert kinds[0.123456] is kinds[0.999] is pairs.PairNear


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.381966])
@pytest.mark.parametrize("n", [0, 1, 2, 4097, 9000])
def test_what_is_rare_is_named_or_right(alpha: float, n: int) -> None:
    """Zeros, subnormal and huge numbers, infinities and NaN among ordinary ones, numbers of any count, buffers used again."""
    edit = Linear((-alpha,))
    way = pairs.pair_for(edit.terms(None), 9000)  # type: ignore[arg-type]
    assert way is not None
    for strange in ([], [0, 0x8000, 1, 0x8001, 0x7F, 0x80], [0x6F80, 0x7700, 0x7F7F], [0x7F80, 0xFF80, 0x7FC0, 0xFFFF]):
        first, second = (raw.copy() for raw in close_pairs(n))
        for k, bits in enumerate(strange):
            for j, other in enumerate([*strange, 0x3F80, 0]):
                at = 7 * (k * 9 + j)
                first[at : at + 1], second[at : at + 1] = bits, other
        want = combine(edit, None, [formats.widen(r, "BF16") for r in (first, second)], 0, "BF16", "BF16")
        done = way(first, second)
        if done is None:
            assert max(strange, default=0) > 0x6000
            continue
        decided = np.setdiff1d(np.arange(n), done[1])
        got, exactly = done[0][decided], want[decided]
        differ = (got != exactly) & ~(((got | exactly) & 0x7FFF) == 0)
        assert not differ.any()
        assert decided.size >= n - 80


def test_where_no_short_way_applies() -> None:
    assert pairs.pair_for(((1.0, 0), (1e-9, 1)), 8) is None
    assert pairs.pair_for(((1.0, 0), (1.3e5, 1)), 8) is None
    assert pairs.pair_for(((1.0, 0), (0.5, 1), (0.5, 2)), 8) is None
    way = pairs.pair_for(Linear((0.3,)).terms(None), 8)
    assert way is not None
    assert way(np.array([0x7F80], "<u2"), np.array([0x3F80], "<u2")) is None
    empty = way(np.empty(0, "<u2"), np.empty(0, "<u2"))
    assert empty is not None
    assert empty[0].size == 0
