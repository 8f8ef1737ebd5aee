"""LoRA adapters as deltas: exactly rounded against rationals, in every recipe; what is no plain low-rank step is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from farfield import formats
from farfield.cli import cli
from farfield.errors import FormatError, InputError
from farfield.weights.adapters import CONFIG, WEIGHTS, AdaptedCheckpoint, is_adapter
from farfield.weights.algebra import execute, open_operands, plan, write_plan
from farfield.weights.edits import Linear
from farfield.weights.extrapolate import extrapolate
from farfield.weights.io import Checkpoint, CheckpointWriter
from farfield.weights.recipes import recipe_from

FloatArray = NDArray[np.float64]
ATTENTION, CONV, EMBEDDING = "model.layers.0.q_proj", "model.layers.0.conv", "model.embed_tokens"
SHAPES = {ATTENTION: (6, 10), CONV: (4, 6, 3), EMBEDDING: (9, 5), "model.norm": (5,)}
RANK = 3


def store(path: Path, tensors: dict[str, tuple[str, FloatArray]]) -> None:
    layout = [(path.name, [(n, d, v.shape) for n, (d, v) in tensors.items()])]
    with CheckpointWriter(path, layout, sync=False) as writer:
        for name, (dtype, values) in tensors.items():
            writer.write(name, 0, formats.round_to(values, dtype).reshape(-1))
        writer.finish()


def base_model(folder: Path, dtype: str = "BF16", seed: int = 0, name: str = "base") -> Path:
    rng = np.random.default_rng(seed)
    path = folder / name
    path.mkdir()
    store(path / "model.safetensors", {f"{n}.weight": (dtype, rng.normal(0, 0.05, s)) for n, s in SHAPES.items()})
    (path / "config.json").write_text('{"model_type": "toy"}')
    return path


def adapter(
    folder: Path, name: str = "lora", dtype: str = "F32", seed: int = 1, extra: dict[str, FloatArray] | None = None, **config: Any
) -> Path:
    """An adapter as PEFT 0.21 lays it out."""
    rng = np.random.default_rng(seed)
    path = folder / name
    path.mkdir()
    before = "base_model.model."
    tensors = {
        f"{before}{ATTENTION}.lora_A.weight": rng.normal(0, 0.1, (RANK, 10)),
        f"{before}{ATTENTION}.lora_B.weight": rng.normal(0, 0.1, (6, RANK)),
        f"{before}{CONV}.lora_A.weight": rng.normal(0, 0.1, (RANK, 6, 3)),
        f"{before}{CONV}.lora_B.weight": rng.normal(0, 0.1, (4, RANK, 1)),
        f"{before}{EMBEDDING}.lora_embedding_A": rng.normal(0, 0.1, (RANK, 9)),
        f"{before}{EMBEDDING}.lora_embedding_B": rng.normal(0, 0.1, (5, RANK)),
        **(extra or {}),
    }
    store(path / WEIGHTS, {n: (dtype, v) for n, v in tensors.items()})
    document = {"peft_type": "LORA", "r": RANK, "lora_alpha": 7, "fan_in_fan_out": False, "use_rslora": False, **config}
    (path / CONFIG).write_text(json.dumps(document))
    return path


def exact_steps(path: Path, strength: float) -> dict[str, list[Fraction]]:
    """strength B A of every adapted tensor, element by element in rationals."""
    with Checkpoint.open(path / WEIGHTS) as own:
        raw = {n: own.read_float64(n).reshape(t.shape) for n, t in own.tensors.items()}
    p = "base_model.model."

    def product(up: FloatArray, down: FloatArray) -> list[list[Fraction]]:
        return [
            [sum((Fraction(b) * Fraction(a) for b, a in zip(row, col, strict=True)), Fraction(0)) for col in down.T] for row in up
        ]

    q = product(raw[f"{p}{ATTENTION}.lora_B.weight"], raw[f"{p}{ATTENTION}.lora_A.weight"])
    c = product(raw[f"{p}{CONV}.lora_B.weight"].reshape(4, RANK), raw[f"{p}{CONV}.lora_A.weight"].reshape(RANK, -1))
    e = product(raw[f"{p}{EMBEDDING}.lora_embedding_B"], raw[f"{p}{EMBEDDING}.lora_embedding_A"])
    flat = {
        ATTENTION: [v for r in q for v in r],
        CONV: [v for r in c for v in r],
        EMBEDDING: [v for r in zip(*e, strict=True) for v in r],
    }
    return {f"{n}.weight": [Fraction(strength) * v for v in values] for n, values in flat.items()}


def nearest(value: Fraction, dtype: str) -> int:
    """Raw bits of the nearest number, ties to even, found among the neighbours of its float64."""
    near = int(formats.round_to(np.array([float(value)]), dtype)[0])
    fmt = formats.format_named(dtype)
    sign, magnitude = near >> (fmt.bits - 1), near & ((1 << (fmt.bits - 1)) - 1)
    options = [m for m in (magnitude - 1, magnitude, magnitude + 1) if m >= 0]
    numbers = [Fraction(v) for v in formats.widen(np.array(options, fmt.raw_dtype), dtype).tolist()]
    best = min(zip(numbers, options, strict=True), key=lambda n: (abs(n[0] - abs(value)), n[1] & 1))[1]
    return best | sign << (fmt.bits - 1)


@pytest.mark.parametrize(
    ("weight", "target", "rslora"), [(1.0, None, False), (0.3, None, True), (1.7, "float16", False), (-0.1, "F32", True)]
)
def test_a_weighted_adapter_is_the_exact_sum_rounded_once(tmp_path: Path, weight: float, target: str | None, rslora: bool) -> None:
    base, lora = base_model(tmp_path), adapter(tmp_path, use_rslora=rslora)
    assert is_adapter(lora)
    assert not is_adapter(base)
    results = []
    for i, (chunk, threads) in enumerate([(1 << 17, 1), (7, 2)]):
        prepared = plan(open_operands([base, lora]), lambda name: Linear((weight,)), dtype=target)
        execute(prepared, tmp_path / f"out{i}", chunk=chunk, threads=threads)
        with Checkpoint.open(tmp_path / f"out{i}") as out:
            results.append({n: out.read(n).tolist() for n in out.tensors})
    assert results[0] == results[1]
    steps = exact_steps(lora, 7 / math.sqrt(RANK) if rslora else 7 / RANK)
    dtype = {None: "BF16", "float16": "F16", "F32": "F32"}[target]
    with Checkpoint.open(base) as stored:
        for name in stored.tensors:
            values = stored.read_float64(name).tolist()
            step = steps.get(name, [Fraction(0)] * len(values))
            want = [nearest(Fraction(v) + Fraction(weight) * s, dtype) for v, s in zip(values, step, strict=True)]
            assert results[0][name] == want
    assert (tmp_path / "out0" / "config.json").exists()


def test_an_element_that_hangs_by_a_hair_is_decided_exactly(tmp_path: Path) -> None:
    """The middle of two bfloat16 numbers plus a step of 2^-90, which float64 cannot see, goes up."""
    for name, factor in (("up", 1.0), ("down", -1.0)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "base").mkdir()
        (folder / "lora").mkdir()
        store(folder / "base" / "model.safetensors", {"w.weight": ("F32", np.array([[1 + 2.0**-8, 1 + 3 * 2.0**-8]]))})
        tensors = {"w.lora_A.weight": np.array([[factor * 2.0**-45] * 2]), "w.lora_B.weight": np.array([[2.0**-45]])}
        store(folder / "lora" / WEIGHTS, {f"base_model.model.{k}": ("F32", v) for k, v in tensors.items()})
        (folder / "lora" / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
        prepared = plan(open_operands([folder / "base", folder / "lora"]), lambda _: Linear((1.0,)), dtype="BF16")
        execute(prepared, folder / "out")
        with Checkpoint.open(folder / "out") as out:
            got = out.read_float64("w.weight").tolist()
        step = 2.0**-7
        assert got == ([1 + step, 1 + 2 * step] if factor > 0 else [1.0, 1 + step])


def test_extrapolating_beyond_an_adapter_and_leaving_tensors_as_tuned(tmp_path: Path) -> None:
    base, lora = base_model(tmp_path), adapter(tmp_path)
    extrapolate(base, lora, tmp_path / "out", alpha=0.7, exclude=["conv"])
    steps = exact_steps(lora, 7 / RANK)
    with Checkpoint.open(base) as stored, Checkpoint.open(tmp_path / "out") as out:
        for name in (f"{ATTENTION}.weight", f"{CONV}.weight"):
            share = Fraction(1) if "conv" in name else 1 + Fraction(0.7)
            want = [
                nearest(Fraction(v) + share * s, "BF16")
                for v, s in zip(stored.read_float64(name).tolist(), steps[name], strict=True)
            ]
            assert out.read(name).tolist() == want


@pytest.mark.parametrize("method", ["ties", "dare_linear", "slerp", "bitdelta", "low_rank", "task_arithmetic"])
def test_every_recipe_takes_adapters(tmp_path: Path, method: str) -> None:
    """Against the same recipe on the adapted models written out in float64."""
    base = base_model(tmp_path, "F64")
    loras = [adapter(tmp_path, f"lora{i}", seed=i) for i in range(1 if method == "slerp" else 2)]
    for i, lora in enumerate(loras):
        execute(plan(open_operands([base, lora]), lambda name: Linear((1.0,))), tmp_path / f"whole{i}")
    parameters = {"ties": {"density": 0.5}, "dare_linear": {"density": 0.5}, "slerp": {"t": 0.4}, "low_rank": {"rank": 2}}.get(
        method, {}
    )
    outs = []
    for kind in ("lora", "whole"):
        document = {"method": method, "base": "base", "models": [{"path": f"{kind}{i}"} for i in range(len(loras))], **parameters}
        recipe_from(document, tmp_path).run(tmp_path / f"out-{kind}")
        with Checkpoint.open(tmp_path / f"out-{kind}") as out:
            outs.append({n: out.read_float64(n) for n in out.tensors})
    for name, values in outs[0].items():
        np.testing.assert_allclose(values, outs[1][name], rtol=0, atol=1e-15)


def test_tensors_that_are_replaced_whole(tmp_path: Path) -> None:
    base = base_model(tmp_path, "F32")
    norm = np.linspace(0.5, 1.5, 5)
    lora = adapter(tmp_path, extra={"base_model.model.model.norm.weight": norm})
    execute(plan(open_operands([base, lora]), lambda name: Linear((1.0,))), tmp_path / "out")
    with Checkpoint.open(tmp_path / "out") as out:
        np.testing.assert_array_equal(out.read_float64("model.norm.weight"), np.float32(norm))


def test_the_base_of_an_adapted_embedding_may_stand_in_the_adapter(tmp_path: Path) -> None:
    """PEFT saves it whenever an embedding is adapted; it is what the base has, or the adapter belongs to another."""
    base = base_model(tmp_path)
    with Checkpoint.open(base) as stored:
        values = stored.read_float64(f"{EMBEDDING}.weight").reshape(SHAPES[EMBEDDING])
    key = f"base_model.model.{EMBEDDING}.base_layer.weight"
    lora = adapter(tmp_path, extra={key: values})
    assert len(open_operands([base, lora])) == 2
    with pytest.raises(InputError, match="both moves and replaces"):
        open_operands([base, adapter(tmp_path, "other", extra={key: values + 1})])


def test_names_of_a_base_saved_without_its_head(tmp_path: Path) -> None:
    """GPT-2's own files say h.0.attn where the module is transformer.h.0.attn."""
    (tmp_path / "base").mkdir()
    (tmp_path / "lora").mkdir()
    store(tmp_path / "base" / "model.safetensors", {"h.0.c_attn.weight": ("F32", np.ones((2, 3)))})
    at = "base_model.model.transformer.h.0.c_attn"
    store(
        tmp_path / "lora" / WEIGHTS,
        {f"{at}.lora_A.weight": ("F32", np.ones((1, 2))), f"{at}.lora_B.weight": ("F32", np.ones((3, 1)))},
    )
    (tmp_path / "lora" / CONFIG).write_text(json.dumps({"r": 1, "lora_alpha": 2, "fan_in_fan_out": True}))
    execute(plan(open_operands([tmp_path / "base", tmp_path / "lora"]), lambda name: Linear((1.0,))), tmp_path / "out")
    with Checkpoint.open(tmp_path / "out") as out:
        np.testing.assert_array_equal(out.read_float64("h.0.c_attn.weight"), 3.0)


def test_patterns_of_alpha(tmp_path: Path) -> None:
    base, lora = base_model(tmp_path), adapter(tmp_path, alpha_pattern={"q_proj": 1, "layers.9.conv": 3})
    with Checkpoint.open(base) as stored:
        adapted = AdaptedCheckpoint.on(lora, stored)
        strengths = {n: f.strength for n in adapted.adapted if (f := adapted.factors(n))}
    assert strengths == {f"{ATTENTION}.weight": 1 / RANK, f"{CONV}.weight": 7 / RANK, f"{EMBEDDING}.weight": 7 / RANK}


REFUSED: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "dora": (lambda p: adapter(p, use_dora=True), InputError, "DoRA"),
    "another kind": (lambda p: adapter(p, peft_type="IA3"), InputError, "IA3"),
    "pissa": (lambda p: adapter(p, init_lora_weights="pissa_niter_4"), InputError, "changed the base"),
    "bias": (
        lambda p: adapter(p, extra={f"base_model.model.{ATTENTION}.lora_B.bias": np.ones(6)}),
        InputError,
        "no plain low-rank",
    ),
    "rank": (lambda p: adapter(p, r=4), FormatError, "the rank of"),
    "alpha": (lambda p: adapter(p, lora_alpha="big"), FormatError, "lora_alpha is 'big'"),
    "pattern": (lambda p: adapter(p, alpha_pattern={"(": 1}), FormatError, "no regular expression"),
    "slow pattern": (lambda p: adapter(p, rank_pattern={"(a+)+$": 1}), FormatError, "repeated groups"),
    "double": (lambda p: adapter(p, dtype="F64"), InputError, "allowed: F32, F16, BF16"),
    "elsewhere": (
        lambda p: adapter(p, extra={f"base_model.model.model.layers.7.up.lora_{s}.weight": np.ones((3, 3)) for s in "AB"}),
        InputError,
        "does not store",
    ),
    "one side": (
        lambda p: adapter(p, extra={"base_model.model.model.norm.lora_A.weight": np.ones((3, 3))}),
        InputError,
        "only one",
    ),
    "both": (lambda p: adapter(p, extra={f"base_model.model.{ATTENTION}.weight": np.ones((6, 10))}), InputError, "both moves"),
    "resized": (lambda p: adapter(p, extra={"base_model.model.model.norm.weight": np.ones(8)}), InputError, "resized"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_plain_step_is_refused(tmp_path: Path, case: str) -> None:
    make, error, message = REFUSED[case]
    base = base_model(tmp_path)
    make(tmp_path)
    with pytest.raises(error, match=message):
        open_operands([base, tmp_path / "lora"])


def test_damaged_and_lonely_adapters(tmp_path: Path) -> None:
    base, lora = base_model(tmp_path), adapter(tmp_path)
    with pytest.raises(InputError, match="without its base"):
        open_operands([lora, base])
    with pytest.raises(InputError, match="the same checkpoint"):
        open_operands([base, lora, lora])
    (lora / CONFIG).write_text("[1]")
    with pytest.raises(FormatError, match="no JSON object"):
        open_operands([base, lora])
    (lora / CONFIG).write_text("{")
    with pytest.raises(FormatError, match="not valid JSON"):
        open_operands([base, lora])
    (lora / CONFIG).write_text("{}")
    (lora / WEIGHTS).rename(lora / "adapter_model.bin")
    with pytest.raises(InputError, match="could run code"):
        open_operands([base, lora])


def test_shapes_that_do_not_fit_the_base(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    store(tmp_path / "other" / "model.safetensors", {f"{n}.weight": ("BF16", np.zeros(s[::-1])) for n, s in SHAPES.items()})
    with pytest.raises(InputError, match="make no step for"):
        open_operands([tmp_path / "other", adapter(tmp_path)])


def test_the_command_merges_an_adapter_and_writes_what_rounding_loses(tmp_path: Path) -> None:
    base, lora = base_model(tmp_path), adapter(tmp_path)
    out, low = tmp_path / "out", tmp_path / "low"
    arguments = [
        "weights",
        "extrapolate",
        "--base",
        str(base),
        "--tuned",
        str(lora),
        "--alpha",
        "0",
        "-o",
        str(out),
        "--low",
        str(low),
    ]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    steps = exact_steps(lora, 7 / RANK)
    with Checkpoint.open(base) as stored, Checkpoint.open(out) as high, Checkpoint.open(low) as rest:
        assert set(rest.tensors) == set(high.tensors)
        for name, step in steps.items():
            want = np.array([float(Fraction(v) + s) for v, s in zip(stored.read_float64(name).tolist(), step, strict=True)])
            both = high.read_float64(name) + rest.read_float64(name)
            assert np.all(np.abs(both - want) <= np.abs(want) * 2.0**-16)
            assert np.abs(high.read_float64(name) - want).max() > np.abs(both - want).max() * 50
    refused = CliRunner().invoke(cli, [*arguments[:-4], "-o", str(tmp_path / "x"), "--low", str(tmp_path / "x" / "y")])
    assert isinstance(refused.exception, InputError)
    assert "hold or lie in each other" in str(refused.exception)


def test_what_rounding_loses_of_a_model_with_a_file_of_integers_alone(tmp_path: Path) -> None:
    for i, name in enumerate(("a", "b")):
        layout = [("x-00001-of-00002.safetensors", [("w", "F32", (3,))]), ("x-00002-of-00002.safetensors", [("n", "I64", (2,))])]
        with CheckpointWriter(tmp_path / name, layout, sync=False) as writer:
            writer.write("w", 0, formats.round_to(np.array([1.0, 0.1, -3.0]) + i * 0.01, "F32"))
            writer.write("n", 0, np.array([i, 7], "<u8"))
            writer.finish()
    prepared = plan(open_operands([tmp_path / "a", tmp_path / "b"]), lambda _: Linear((0.3,)), dtype="BF16")
    write_plan(prepared, tmp_path / "out", low=tmp_path / "low")
    with Checkpoint.open(tmp_path / "out") as high, Checkpoint.open(tmp_path / "low") as low:
        assert list(low.tensors) == ["w"]
        assert high.read("n").tolist() == [0, 7]
        both = high.read_float64("w") + low.read_float64("w")
        np.testing.assert_allclose(both, np.array([1.003, 0.103, -2.997]), rtol=2.0**-16)


def test_stochastic_rounding_is_right_on_average_and_a_function_of_the_position(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for name, step in (("a", 0.0), ("b", 2.0**-10)):
        (tmp_path / name).mkdir()
        values = {"w": ("F32", 1 + step * np.ones(20_000)), "v": ("F32", rng.normal(size=33))}
        store(tmp_path / name / "model.safetensors", values)
    outs = []
    for i, (chunk, threads, seed) in enumerate([(1 << 17, 1, 0), (37, 2, 0), (1 << 17, 1, 1)]):
        operands = open_operands([tmp_path / "a", tmp_path / "b"])
        prepared = plan(operands, lambda _: Linear((1.0,)), dtype="BF16", rounding="stochastic", seed=seed)
        execute(prepared, tmp_path / f"out{i}", chunk=chunk, threads=threads)
        with Checkpoint.open(tmp_path / f"out{i}") as out:
            outs.append(out.read_float64("w"))
    np.testing.assert_array_equal(outs[0], outs[1])
    assert (outs[0] != outs[2]).mean() > 0.1
    assert set(outs[0]) == {1.0, 1 + 2.0**-7}
    share = (outs[0] > 1).mean()  # 1/8 of the spacing
    assert abs(share - 0.125) < 4 * math.sqrt(0.125 * 0.875 / 20_000)
    with pytest.raises(InputError, match="leave out stochastic"):
        write_plan(prepared, tmp_path / "p", low=tmp_path / "q")
