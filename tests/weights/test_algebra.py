"""The algebra on disk: exactly rounded against rationals, the same for any chunk size and threads, bad input refused unwritten."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield import formats
from farfield.errors import FormatError, InputError
from farfield.weights import exact, pairs
from farfield.weights.algebra import combine, execute, open_operands, plan
from farfield.weights.edits import DeltaEdit, Linear, TensorView
from farfield.weights.io import Checkpoint, CheckpointWriter

Tensors = Mapping[str, tuple[str, Any]]


def write(path: Path, tensors: Tensors, shards: int = 1, config: str | None = "{}") -> Path:
    """A checkpoint of (dtype, values) a tensor; float values are rounded, integer ones stored as they are."""
    names = list(tensors)
    raws = {n: formats.round_to(v, d) if d in formats.FORMATS else np.asarray(v) for n, (d, v) in tensors.items()}
    layout = []
    for i in range(shards):
        part = [(n, tensors[n][0], np.shape(raws[n])) for n in names[i::shards]]
        layout.append((f"model-{i + 1:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors", part))
    side = {"config.json": config.encode()} if config is not None else {}
    with CheckpointWriter(path, layout, side_files=side, sync=False) as writer:
        for n, raw in raws.items():
            writer.write(n, 0, np.ascontiguousarray(raw).reshape(-1).view(f"<u{raw.dtype.itemsize}"))
        writer.finish()
    return path


def nearest(value: Fraction, dtype: str) -> int:
    """Raw bits of the nearest number of a format, ties to even, by looking among its neighbours; no float arithmetic decides."""
    start = int(formats.round_to(np.array([float(value)]), dtype)[0])
    fmt = formats.format_named(dtype)
    sign, magnitude = start >> (fmt.bits - 1), start & ((1 << (fmt.bits - 1)) - 1)
    candidates = [m for m in (magnitude - 1, magnitude, magnitude + 1) if 0 <= m < fmt.beyond]
    raw_dtype = fmt.raw_dtype

    def at(m: int) -> Fraction:
        return Fraction(float(formats.widen(np.array([m], raw_dtype), dtype)[0]))

    best = min(candidates, key=lambda m: (abs(at(m) - abs(value)), m & 1))
    return best | sign << (fmt.bits - 1)


def pair(n: int, seed: int = 0, dtype: str = "BF16") -> tuple[formats.Raw, formats.Raw]:
    rng = np.random.default_rng(seed)
    a = formats.round_to(rng.normal(0, 0.02, n), dtype)
    return a, formats.round_to(formats.widen(a, dtype) + rng.normal(0, 6e-4, n), dtype)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 2.0, -0.7, 1 / 3, 8.0])
@pytest.mark.parametrize(("source", "target"), [("BF16", "BF16"), ("BF16", "F16"), ("F16", "F16"), ("F32", "BF16"), ("F32", "F32")])
def test_every_element_is_the_exact_result_rounded_once(alpha: float, source: str, target: str) -> None:
    raws = pair(1500, dtype=source)
    base, tuned = (formats.widen(r, source) for r in raws)
    edit = Linear((-alpha,))
    got = combine(edit, None, [tuned, base], 0, target, source)
    want = [nearest(Fraction(t) + Fraction(alpha) * (Fraction(t) - Fraction(b)), target) for t, b in zip(tuned, base, strict=True)]
    np.testing.assert_array_equal(got, want)
    if source == target == "BF16" and pairs.reach_of_pair(edit.terms(None)):
        done = pairs.PairBF16(edit.terms(None), 2000)(raws[1], raws[0])
        assert done is not None
        out, left = done
        checked = np.setdiff1d(np.arange(1500), left)
        assert checked.size > 1400
        np.testing.assert_array_equal(out[checked], np.array(want)[checked])


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.381966])
def test_numbers_too_large_for_the_short_way_among_others(alpha: float, tmp_path: Path) -> None:
    values = [formats.widen(raw, "BF16") for raw in pair(1001)]
    for i, v in enumerate(values):
        v[70:90], v[600] = 2.0**126 * (1 - 2 * i), 2.0**127
    base, tuned = (write(tmp_path / n, {"w": ("BF16", v)}) for n, v in zip(("base", "tuned"), values, strict=True))
    edit = Linear((-alpha,))
    want = combine(edit, None, values[::-1], 0, "BF16", "BF16")
    for chunk in (64, 300, 2000):
        out = execute(plan(open_operands([tuned, base]), lambda _: edit), tmp_path / f"{chunk}", chunk=chunk, sync=False)
        with Checkpoint.open(out) as merged:
            np.testing.assert_array_equal(merged.read("w"), want)


@pytest.mark.parametrize("alpha", [0.5, 3.0, -0.25])
def test_pairs_of_every_exponent_agree_with_rationals(alpha: float) -> None:
    edit = Linear((-alpha,))
    mantissas = np.array([0, 1, 2, 63, 64, 65, 127], np.uint16)
    exponents = np.arange(60, 140, 3, dtype=np.uint16)
    patterns = np.concatenate([(exponents[:, None] << np.uint16(7) | mantissas).ravel(), np.array([0, 1, 0x7F, 0x80], np.uint16)])
    first = np.repeat(patterns, 40).astype("<u2")
    rng = np.random.default_rng(1)
    second = (first.astype(int) + rng.integers(-2500, 2500, first.size)).clip(0, 0x6FFF).astype("<u2")
    second[::7] |= 0x8000
    values = [formats.widen(r, "BF16") for r in (first, second)]
    slow = combine(edit, None, values, 0, "BF16", "BF16")
    pick = rng.choice(first.size, 400, replace=False)
    want = [nearest(exact.combine_reference([v[i] for v in values], edit.terms(None)), "BF16") for i in pick]
    np.testing.assert_array_equal(slow[pick], want)
    near = [i for i in range(first.size) if abs(int(first[i] & 0x7FFF) - int(second[i] & 0x7FFF)) < 1000][:5000]
    done = pairs.PairBF16(edit.terms(None), 5000)(first[near], second[near])
    assert done is not None
    keep = np.setdiff1d(np.arange(len(near)), done[1])
    assert keep.size > 0.9 * len(near) > 2000
    np.testing.assert_array_equal(done[0][keep], slow[near][keep])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-4, 4), min_size=2, max_size=4),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4),
    st.sampled_from(["BF16", "F16", "F32"]),
)
def test_any_combination_of_any_numbers(weights: list[float], values: list[float], dtype: str) -> None:
    terms = tuple((w, i) for i, w in enumerate(weights))
    chunks = [np.array([v]) for v in values[: len(weights)]]
    with np.errstate(all="ignore"):
        total = sum((w * chunks[i] for w, i in terms), np.zeros(1))
    want = exact.combine_reference(values, terms)
    got = int(exact.round_combination(total, chunks, terms, dtype)[0])
    fmt = formats.format_named(dtype)
    if abs(want) < Fraction(fmt.max):
        zero = got & ((1 << (fmt.bits - 1)) - 1) == 0
        assert got == nearest(want, dtype) or (zero and nearest(want, dtype) & ((1 << (fmt.bits - 1)) - 1) == 0)


def models(folder: Path, n_models: int = 1, shards: int = 2, dtype: str = "BF16") -> list[Path]:
    rng = np.random.default_rng(5)
    base = {
        "model.embed_tokens.weight": rng.normal(0, 0.02, (50, 16)),
        "model.layers.0.mlp.up_proj.weight": rng.normal(0, 0.02, (33, 16)),
        "model.layers.1.mlp.up_proj.weight": rng.normal(0, 0.02, (33, 16)),
        "model.norm.weight": np.ones(16),
    }
    paths = []
    for i in range(n_models + 1):
        values: dict[str, tuple[str, Any]] = {k: (dtype, v + i * rng.normal(0, 1e-3, v.shape)) for k, v in base.items()}
        values["model.position_ids"] = ("I64", np.arange(7) + 100 * i)
        paths.append(write(folder / f"m{i}", values, shards, config=json.dumps({"model": i})))
    return paths


def all_raw(path: Path) -> dict[str, bytes]:
    with Checkpoint.open(path) as checkpoint:
        return {n: checkpoint.read(n).tobytes() for n in checkpoint.tensors}


@pytest.mark.parametrize("alpha", [0.5, 0.3])
def test_chunks_and_threads_do_not_change_a_bit(tmp_path: Path, alpha: float) -> None:
    base, tuned = models(tmp_path)
    results = []
    for i, (chunk, threads) in enumerate([(1 << 17, 1), (7, 1), (64, 2)]):
        out = tmp_path / f"out{i}"
        execute(plan(open_operands([tuned, base]), lambda name: Linear((-alpha,))), out, chunk=chunk, threads=threads)
        results.append(all_raw(out))
    assert results[0] == results[1] == results[2]
    with Checkpoint.open(tmp_path / "out0") as merged, Checkpoint.open(tuned) as t, Checkpoint.open(base) as b:
        for name in ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"):
            values = zip(t.read_float64(name), b.read_float64(name), strict=True)
            want = [nearest(Fraction(x) + Fraction(alpha) * (Fraction(x) - Fraction(y)), "BF16") for x, y in values]
            np.testing.assert_array_equal(merged.read(name), want)
        assert merged.read("model.position_ids").tolist() == t.read("model.position_ids").tolist()
        assert (merged.path / "config.json").read_text() == json.dumps({"model": 1})


def test_the_output_dtype_can_be_chosen(tmp_path: Path) -> None:
    base, tuned = models(tmp_path)
    execute(plan(open_operands([tuned, base]), lambda name: Linear((-0.5,)), dtype="float32"), tmp_path / "out")
    with Checkpoint.open(tmp_path / "out") as out, Checkpoint.open(tuned) as t, Checkpoint.open(base) as b:
        name = "model.norm.weight"
        assert out.tensors[name].dtype == "F32"
        assert out.tensors["model.position_ids"].dtype == "I64"
        x, y = t.read_float64(name), b.read_float64(name)
        np.testing.assert_array_equal(out.read_float64(name), np.float32(x + 0.5 * (x - y)))


def test_infinite_and_undefined_weights_stay_so(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"w": ("BF16", [1.0, np.inf, np.nan, 2.0, 3e38])})
    b = write(tmp_path / "b", {"w": ("BF16", [1.5, np.inf, 1.0, np.inf, -3e38])})
    execute(plan(open_operands([a, b]), lambda name: Linear((-0.5,))), tmp_path / "out")
    with Checkpoint.open(tmp_path / "out") as out:
        got = out.read_float64("w")
    np.testing.assert_array_equal(np.isnan(got), [False, True, True, False, False])
    assert got[0] == 0.75
    assert got[3] == -np.inf
    assert got[4] == np.inf


class Stopping(Linear):
    """Linear, until it is asked for this many tensors; counts what it is asked for."""

    asked: ClassVar[list[str]] = []
    most: ClassVar[int] = 99

    def prepare(self, name: str, tensors: Sequence[TensorView]) -> None:
        if len(self.asked) >= self.most:
            raise KeyboardInterrupt
        self.asked.append(name)


def test_an_interrupted_merge_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = models(tmp_path)
    execute(plan(open_operands([tuned, base]), lambda name: Linear((-0.3,))), tmp_path / "whole")
    monkeypatch.setattr(Stopping, "asked", [])
    monkeypatch.setattr(Stopping, "most", 2)
    prepared = plan(open_operands([tuned, base]), lambda name: Stopping((-0.3,)))
    with pytest.raises(KeyboardInterrupt):
        execute(prepared, tmp_path / "out", key=prepared.fingerprint)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(Stopping, "most", 99)
    execute(prepared, tmp_path / "out", key=prepared.fingerprint)
    assert sorted(Stopping.asked) == sorted(n for n, e in prepared.edits.items() if e is not None)  # each of them once
    assert all_raw(tmp_path / "out") == all_raw(tmp_path / "whole")
    other = plan(open_operands([tuned, base]), lambda name: Linear((-0.5,)))
    assert other.fingerprint != prepared.fingerprint


# -- refused before a byte is written -------------------------------------------------------------------------------------


def edit_all(name: str) -> DeltaEdit:
    return Linear((-0.5,))


def refusal(paths: list[Path], out: Path, dtype: str | None = None) -> str:
    before = sorted(p.name for p in out.parent.iterdir())
    with pytest.raises((InputError, FormatError)) as caught:
        execute(plan(open_operands(paths), edit_all, dtype=dtype), out)
    assert sorted(p.name for p in out.parent.iterdir()) == before
    return str(caught.value)


W = ("BF16", np.zeros((2, 3)))


def test_missing_tensors_are_named_on_either_side(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", {"w": W, "x": W}), write(tmp_path / "b", {"w": W})
    assert "'x' is not in" in refusal([a, b], tmp_path / "out")
    assert "'x' is in" in refusal([b, a], tmp_path / "out")
    execute(plan(open_operands([a, b]), lambda name: edit_all(name) if name != "x" else None), tmp_path / "out")


def test_shapes_and_dtypes_that_differ(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"w": W})
    b = write(tmp_path / "b", {"w": ("BF16", np.zeros((3, 2)))})
    c = write(tmp_path / "c", {"w": ("F32", np.zeros((2, 3)))})
    assert "(2, 3)" in refusal([a, b], tmp_path / "out")
    assert "BF16" in refusal([a, c], tmp_path / "out")
    assert "nearest" in refusal([a, c], tmp_path / "out", dtype="bfloat61")
    execute(plan(open_operands([a, c]), edit_all, dtype="float16"), tmp_path / "out")


def test_same_input_twice_and_outputs_on_inputs(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", {"w": W}), write(tmp_path / "b", {"w": W})
    (tmp_path / "link").symlink_to(a)
    assert "same checkpoint" in refusal([a, tmp_path / "link"], tmp_path / "out")
    assert "the input" in refusal([a, b], a)
    assert "the input" in refusal([a, b], b / "inside")
    assert "the input" in refusal([a, b], tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert "not empty" in refusal([a, b], tmp_path / "taken")


def test_damaged_inputs(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", {"w": W, "x": W}, shards=2), write(tmp_path / "b", {"w": W, "x": W}, shards=2)
    shard = next(b.glob("*00002.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert "truncated" in refusal([a, b], tmp_path / "out")
    shard.write_bytes(whole)
    index = next(b.glob("*.index.json"))
    index.write_text(index.read_text().replace("00002-of", "00001-of"))
    assert "index" in refusal([a, b], tmp_path / "out")


def test_nothing_to_merge(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", {"w": W}), write(tmp_path / "b", {"w": W})
    with pytest.raises(InputError, match="nothing to merge"):
        plan(open_operands([a, b]), lambda name: None)
