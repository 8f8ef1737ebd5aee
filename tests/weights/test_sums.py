"""The compiled sums against rationals and against NumPy: all formats, one to five operands, ties, cancellation, extremes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from farfield import formats
from farfield.formats import Raw
from farfield.weights import compiled, exact, kernel, pairs
from farfield.weights.algebra import execute, open_operands, plan
from farfield.weights.edits import DeltaEdit, Linear, Weighted
from farfield.weights.io import Checkpoint, CheckpointWriter
from farfield.weights.kernel import combine
from farfield.weights.sums import Sum
from merged import assert_one_result

FORMATS = ("BF16", "F16", "F32")
ONE = ((1.0, 0),)  # a conversion
EDITS: list[DeltaEdit] = [
    *(Linear((-a,)) for a in (0.5, 0.3, 1 / 3, 0.123456, -1.7, 1e-5, 3e7)),
    Weighted((0.25, 0.25)),
    Weighted((0.3, 0.4)),
    Weighted((1.0, -1.0)),
    Weighted((0.5, 0.3, 0.2)),
    Weighted((0.5, 0.25, 0.25)),
    Linear((0.4, 0.3, 0.5)),
    Linear((0.0, 1.0)),
    Weighted((0.1, 0.2, 0.3, 0.4)),
    Linear((1 / 3, -0.7, 0.25, 0.1)),
]


def rounded(value: Fraction, dtype: str) -> int:
    """Raw bits of the magnitude, ties to even, from integers alone."""
    fmt = formats.format_named(dtype)
    magnitude = abs(value)
    if magnitude == 0:
        return 0
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length() - 1
    exponent += magnitude >= Fraction(2) ** (exponent + 1)
    exponent = max(exponent, fmt.smallest_exponent)
    units = round(magnitude / Fraction(2) ** (exponent - fmt.mantissa))  # Python rounds ties of fractions to even
    return min((exponent - fmt.smallest_exponent) * (1 << fmt.mantissa) + units, fmt.beyond)


def close(k: int, dtype: str, n: int) -> list[Raw]:
    """Weights and what small steps of theirs make: many are equal, or differ by a few units in the last place."""
    rng = np.random.default_rng(k)
    base = rng.normal(0, 0.02, n)
    fine = {"BF16": 6e-4, "F16": 6e-5, "F32": 4e-9}[dtype]
    return [formats.round_to(base + rng.normal(0, fine, n) * (j > 0) * rng.integers(0, 2, n), dtype) for j in range(k)]


def anything(k: int, dtype: str, n: int) -> list[Raw]:
    """Any finite bit patterns, many of a size and of opposite sign, some zeros."""
    rng = np.random.default_rng(k + 10)
    fmt = formats.format_named(dtype)
    first = rng.integers(0, fmt.beyond, n)
    out = []
    for j in range(k):
        raw = rng.integers(0, fmt.beyond, n)
        near = rng.random(n) < 0.6
        raw[near] = (first + rng.integers(-3 << (fmt.mantissa + 1), 3 << (fmt.mantissa + 1), n)).clip(0, fmt.beyond - 1)[near]
        raw[j::7] = first[j::7]
        raw[j::11] = 0
        out.append((raw | rng.integers(0, 2, n) << (fmt.bits - 1)).astype(fmt.raw_dtype))
    return out


def sources_for(k: int, dtype: str) -> list[str]:
    """All of one format, or, for `mixed`, of all in turn."""
    return [dtype] * k if dtype != "mixed" else [FORMATS[j % 3] for j in range(k)]


def made(make: object, sources: Sequence[str], n: int) -> list[Raw]:
    k = len(sources)
    columns = {s: make(k, s, n) for s in set(sources)}  # type: ignore[operator]
    return [columns[s][j] for j, s in enumerate(sources)]


def check(edit: DeltaEdit, sources: Sequence[str], dtype: str, raws: Sequence[Raw], samples: int) -> float:
    """Compare what is decided with NumPy's bits and, for some, with rationals; the share that was left."""
    terms = edit.terms(None)
    assert terms is not None
    assert Sum.applies(terms, sources, dtype)
    n = raws[0].size
    out, left = Sum(terms, sources, dtype, n)(*raws)
    assert (np.diff(left) > 0).all()
    values = [formats.widen(r, s) for r, s in zip(raws, sources, strict=True)]
    want = combine(edit, None, values, 0, dtype, sources[0] if len(set(sources)) == 1 else "F64")
    decided = np.setdiff1d(np.arange(n), left)
    np.testing.assert_array_equal(out[decided], want[decided])
    fmt = formats.format_named(dtype)
    for i in np.random.default_rng(0).choice(decided, min(samples, decided.size), replace=False):
        value = exact.combine_reference([float(v[i]) for v in values], terms)
        assert int(out[i]) & ~(1 << (fmt.bits - 1)) == rounded(value, dtype)
        assert value == 0 or bool(out[i] >> (fmt.bits - 1)) == (value < 0)
    return left.size / max(n, 1)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("source", [*FORMATS, "mixed"])
def test_the_exact_result_rounded_once(source: str, dtype: str) -> None:
    for edit in EDITS:
        k = len(edit.weights) if isinstance(edit, Weighted) else len(edit.coefficients) + 1  # type: ignore[union-attr]
        sources = sources_for(k, source)
        for make, most in ((close, 0.01), (anything, 0.95)):
            assert check(edit, sources, dtype, made(make, sources, 3001), 60) < most, (edit, sources, make)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("source", ["BF16", "F16"])
def test_every_number_converted(source: str, dtype: str) -> None:
    raw = np.arange(1 << 16).astype("<u2")
    out, left = Sum(ONE, [source], dtype, raw.size)(raw)
    want = formats.round_to(formats.widen(raw, source), dtype)
    decided = np.setdiff1d(np.arange(raw.size), left)
    np.testing.assert_array_equal(out[decided], want[decided])
    tiny = 256 if (source, dtype) == ("BF16", "BF16") else 0  # subnormal ones
    strange = np.isnan(formats.widen(raw, source)).sum()
    assert left.size <= strange + tiny + 3  # and infinities and -0


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_middle_and_its_neighbours_converted(dtype: str) -> None:
    """Float32 numbers at, just above and just below the middle of any two neighbours, and at any number itself."""
    fmt = formats.format_named(dtype)
    numbers = formats.widen(np.arange(fmt.beyond).astype("<u2"), dtype)
    with np.errstate(under="ignore"):
        middles = ((numbers[1:] + numbers[:-1]) / 2).astype(np.float32)
    bits = np.concatenate([middles, numbers.astype(np.float32)]).view(np.uint32)
    raw = np.concatenate([bits, bits[1:] - 1, bits[:-1] + 1, [0x7F7FFFFF, 0x477FEFFF, 0x477FF000, 0x47800000]])
    raw = np.concatenate([raw, raw | 0x80000000]).astype("<u4")
    out, left = Sum(ONE, ["F32"], dtype, raw.size)(raw)
    decided = np.setdiff1d(np.arange(raw.size), left)
    assert decided.size > 0.98 * raw.size
    np.testing.assert_array_equal(out[decided], formats.round_to(formats.widen(raw, "F32"), dtype)[decided])


STRANGE = {
    "BF16": [0, 1, 0x7F, 0x80, 0x3F80, 0x3F81, 0x7F7F, 0x7F80, 0x7FC1, 0x7F81],
    "F16": [0, 1, 0x3FF, 0x400, 0x3C00, 0x3C01, 0x7BFF, 0x7C00, 0x7E01, 0x7C01],
    "F32": [0, 1, 0x7FFFFF, 0x800000, 0x3F800000, 0x3F800001, 0x7F7FFFFF, 0x7F800000, 0x7FC00001, 0x7F800001],
}


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", FORMATS)
def test_zeros_subnormals_infinities_and_nan(dtype: str) -> None:
    """Every pair of strange numbers with either sign; a number in a block of strange ones, or between usual ones."""
    for source in FORMATS:
        fmt = formats.format_named(source)
        both = [s | bits for bits in STRANGE[source] for s in (0, 1 << (fmt.bits - 1))]
        x, y = (np.array(v, fmt.raw_dtype) for v in zip(*itertools.product(both, both), strict=True))
        usual = formats.round_to(np.random.default_rng(0).normal(0, 1, 20 * x.size), source)
        for spread in (1, 20):
            first, second = usual[: spread * x.size].copy(), usual[::-1][: spread * x.size].copy()
            first[::spread], second[::spread] = x, y
            for edit in (Linear((-0.5,)), Linear((0.3,)), Weighted((-0.25, 0.75)), Weighted((2.0**-140, 2.0**130))):
                check(edit, [source, source], dtype, [first, second], 0)


@pytest.mark.compiled
def test_an_exact_zero_is_positive() -> None:
    """Where the first number is not -0, whose zero is the plain way's business."""
    x, y = (np.array(v, "<u2") for v in ([0x3F80, 0xBF80, 0, 0x8000, 0], [0x3F80, 0xBF80, 0, 0, 0x8000]))
    out, left = Sum(((1.0, 0), (-1.0, 1)), ["BF16", "BF16"], "BF16", 8)(x, y)
    assert left.tolist() == [3]
    assert out[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0]


@pytest.mark.compiled
@pytest.mark.parametrize("n", [0, 1, 511, 512, 513, 1500])
def test_any_count(n: int) -> None:
    check(Weighted((0.5, 0.3, 0.2)), ["F32"] * 3, "F16", close(3, "F32", n), 20)


@pytest.mark.compiled
def test_where_no_loop_applies() -> None:
    assert Sum.applies(((0.3, 0), (0.7, 1)), ["BF16", "F32"], "F16")
    assert not Sum.applies(((0.3, 0), (0.7, 1)), ["BF16", "F64"], "BF16")
    assert not Sum.applies(((0.3, 0),), ["BF16"], "F64")
    assert not Sum.applies(((float("nan"), 0),), ["BF16"], "BF16")
    assert not Sum.applies(((1e200, 0),), ["BF16"], "BF16")
    assert not Sum.applies(((1.0, 0), (1e-300, 0)), ["BF16"], "BF16")
    assert not Sum.applies(((1.0, 0),), ["BF16"] * (compiled.MOST_OPERANDS + 1), "BF16")


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", [None, "BF16", "F32"])
def test_merges_are_the_same_without_the_loops(dtype: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole files, of tensors of several formats and strange numbers among others; any chunk size and threads."""
    n, names = 5000, ("first", "second", "third")
    raws = {d: close(3, d, n) for d in FORMATS}
    for d, strange in STRANGE.items():
        for j in range(3):
            raws[d][j][100 : 100 + 7 * len(strange) : 7] = np.roll(strange, j)
    shapes = [(d, d, (n,)) for d in FORMATS] + [("kept", "F32", (n,))]
    for j, name in enumerate(names):
        with CheckpointWriter(tmp_path / name, [("model.safetensors", shapes)], sync=False) as writer:
            for d in (*FORMATS, "kept"):
                writer.write(d, 0, raws["F32" if d == "kept" else d][j])
            writer.finish()
    edits = {"BF16": Weighted((0.5, 0.3, 0.2)), "F16": Linear((0.1, 1 / 3)), "F32": Linear((0.25, -0.5)), "kept": None}
    planned = plan(open_operands([tmp_path / name for name in names]), edits.__getitem__, dtype=dtype)
    assert_one_result(planned, tmp_path, monkeypatch, chunk=700)


@pytest.mark.compiled
def test_what_the_short_way_of_pairs_leaves_is_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.3 and -0.3 as typed do not add up to 1 in float64: float32 leaves many ties, of which none is left to NumPy."""
    n, edit, calls = 20_000, Weighted((1.3, -0.3)), []
    raws = close(2, "BF16", n)
    for name, raw in zip("ab", raws, strict=True):
        with CheckpointWriter(tmp_path / name, [("model.safetensors", [("w", "BF16", (n,))])], sync=False) as writer:
            writer.write("w", 0, raw)
            writer.finish()
    short = pairs.pair_for(edit.terms(None), n)
    assert short is not None
    done = short(*raws)
    assert done is not None
    assert done[1].size > 100
    want = combine(edit, None, [formats.widen(r, "BF16") for r in raws], 0, "BF16", "BF16")
    monkeypatch.setattr(kernel, "combine", lambda *arguments: calls.append(arguments))
    out = execute(plan(open_operands([tmp_path / "a", tmp_path / "b"]), lambda _: edit), tmp_path / "out", chunk=6000, sync=False)
    with Checkpoint.open(out) as merged:
        np.testing.assert_array_equal(merged.read("w"), want)
    assert not calls
