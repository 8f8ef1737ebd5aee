"""The compiled loop of thinned deltas gives the bits of ``Sparse``: all formats and methods, strange numbers, any chunks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from farfield import formats
from farfield.weights import compiled, thinned
from farfield.weights.algebra import open_operands, plan
from farfield.weights.compression import Signs
from farfield.weights.edits import Between, Breadcrumbs, Magnitude, Random, Sparse, Thinning
from farfield.weights.io import Checkpoint, CheckpointWriter
from farfield.weights.kernel import combine
from merged import assert_one_result

pytestmark = pytest.mark.compiled
FORMATS = ("BF16", "F16", "F32")
THINNINGS: list[tuple[Thinning, ...]] = [
    (Between(3e-4, math.inf), Between(1e-4, 9e-4)),
    (Random(0.3), Random(0.7, rescale=False)),
    (Random(0.3, factor=2.0), Between(0.0, 1e-3)),
    (Random(1.0), Random(0.0)),
    (Random(0.4, factor=2.5), Random(0.5)),  # factor 1 / density: what is dropped is multiplied by 0
]
STRANGE = {
    "BF16": [0, 0x8000, 1, 0x8003, 0x80, 0x3F80, 0xBF81, 0x7F7F, 0xFF7F],
    "F16": [0, 0x8000, 1, 0x8003, 0x400, 0x3C00, 0xBC01, 0x7BFF, 0xFBFF],
    "F32": [0, 0x80000000, 1, 0x80000003, 0x800000, 0x3F800000, 0xBF800001, 0x7F7FFFFF, 0xFF7FFFFF],
}


def operands(dtype: str, n: int) -> list[formats.Raw]:
    """A base and two models near it, equal in a third of the places, and every triple of strange numbers among them."""
    rng = np.random.default_rng(0)
    base = rng.normal(0, 0.02, n)
    raws = [formats.round_to(base + rng.normal(0, 6e-4, n) * (j > 0) * (rng.random(n) < 0.7), dtype) for j in range(3)]
    triples = np.array(list(itertools.product(STRANGE[dtype], repeat=3)))
    for j, raw in enumerate(raws):
        raw[5 : 5 + 2 * len(triples) : 2] = triples[:, j]
    return raws


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("thinning", THINNINGS, ids=repr)
def test_bits_of_the_plain_way(thinning: tuple[Thinning, ...], source: str, dtype: str) -> None:
    n, offset = 4001, 1003
    raws = operands(source, n)
    values = [formats.widen(raw, source) for raw in raws]
    for elect, normalize, weights in itertools.product((False, True), (False, True), ((0.5, 0.3), (1.0, -0.25))):
        edit = Sparse(weights, thinning, scale=0.9, elect=elect, normalize=normalize)
        state = [t.prepare("w", j, lambda: iter(()), (n,)) for j, t in enumerate(thinning, 1)]
        assert thinned.applies(state, [source] * 3, dtype)
        with np.errstate(all="ignore"):
            want = combine(edit, state, values, offset, dtype)
        got = thinned.combine(edit, state, raws, [source] * 3, dtype, offset)
        assert got is not None
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("dtype", "bits"), [("BF16", 0xFF80), ("F16", 0x7C00), ("F16", 0xFE00), ("F32", 0x7FC00001)])
def test_what_is_not_finite_is_left(dtype: str, bits: int) -> None:
    edit = Sparse((0.5, 0.3), (Between(0.0, 1.0),) * 2)
    for j in range(3):
        raws = [np.zeros(700, formats.format_named(dtype).raw_dtype) for _ in range(3)]
        assert thinned.combine(edit, edit.thinning, raws, [dtype] * 3, dtype, 0) is not None  # type: ignore[arg-type]
        raws[j][600] = bits
        assert thinned.combine(edit, edit.thinning, raws, [dtype] * 3, dtype, 0) is None  # type: ignore[arg-type]


def test_where_no_loop_applies() -> None:
    delta = [np.ones(4)]
    one = Between(0.0, 1.0)
    assert thinned.applies([one], ["BF16", "F32"], "F16")
    assert not thinned.applies([one], ["BF16", "F64"], "F16")
    assert not thinned.applies([one], ["BF16", "BF16"], "F64")
    assert not thinned.applies([one] * (compiled.MOST_MODELS + 1), ["BF16"], "BF16")
    assert not thinned.applies([Signs().prepare("w", 1, lambda: iter(delta), (4,))], ["BF16", "BF16"], "BF16")


@pytest.mark.parametrize(
    "edit",
    [
        Sparse((0.5, 0.7), (Magnitude(0.3), Breadcrumbs(0.5, 0.02)), elect=True, normalize=True),
        Sparse((0.5, 0.7), (Magnitude(0.3, "model"), Breadcrumbs(0.5, 0.02, "model"))),
        Sparse((0.5, 0.7), (Random(0.3), Random(0.6, seed=3)), elect=True),
        Sparse((1.0, 1.0), (Random(0.3), Signs())),
    ],
    ids=["ties", "across", "dare", "mixed"],
)
def test_merges_are_the_same_without_the_loops(edit: Sparse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, shapes = 5001, [(d, d, (5001,)) for d in FORMATS]
    for j, name in enumerate(("base", "first", "second")):
        with CheckpointWriter(tmp_path / name, [("model.safetensors", shapes)], sync=False) as writer:
            for d in FORMATS:
                raw = operands(d, n)[j]
                raw[3000 + j :: 1501] = {"BF16": 0x7F80, "F16": 0x7E00, "F32": 0xFF800000}[d]
                writer.write(d, 0, raw)
            writer.finish()
    planned = plan(open_operands([tmp_path / name for name in ("base", "first", "second")]), lambda name: edit)
    assert_one_result(planned, tmp_path, monkeypatch, chunk=701)


@pytest.mark.parametrize("dtype", FORMATS)
def test_reading_widens_as_without_the_loops(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole tensor of every 16-bit pattern, or float32's with every upper half; then one without infinities and NaN."""
    pattern = np.arange(1 << 16).astype("<u4")
    raw = (pattern << 16 | pattern[::-1]).astype("<u4") if dtype == "F32" else pattern.astype("<u2")
    finite = raw[np.isfinite(formats.widen(raw, dtype))]
    with CheckpointWriter(
        tmp_path / "out", [("model.safetensors", [("a", dtype, raw.shape), ("b", dtype, finite.shape)])]
    ) as writer:
        writer.write("a", 0, raw)
        writer.write("b", 0, finite)
        writer.finish()
    with Checkpoint.open(tmp_path / "out") as checkpoint:
        fast = [checkpoint.read_float64(name).view(np.uint64) for name in "ab"]
        monkeypatch.setattr(compiled, "library", lambda: None)
        for got, name in zip(fast, "ab", strict=True):
            np.testing.assert_array_equal(got, checkpoint.read_float64(name).view(np.uint64))
