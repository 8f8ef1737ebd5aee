"""Signatures on checkpoints in files: the same numbers as on arrays, off again to the bit, spoilt and strange files refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from farfield import formats
from farfield.cli import main
from farfield.weights.io import Checkpoint, CheckpointWriter
from farfield.weights.signature import RobustWeightSignature, project_out

SHAPES = {"first.weight": (6, 5), "first.bias": (6,), "head.weight": (3, 6)}


def checkpoint(path: Path, seed: int, dtype: str = "BF16") -> Path:
    rng = np.random.default_rng(seed)
    layout = [
        ("model-00001-of-00002.safetensors", [("first.weight", dtype, (6, 5)), ("first.bias", dtype, (6,))]),
        ("model-00002-of-00002.safetensors", [("head.weight", dtype, (3, 6)), ("count", "I64", (1,))]),
    ]
    with CheckpointWriter(path, layout, side_files={"config.json": b"{}"}, sync=False) as writer:
        for name, shape in SHAPES.items():
            writer.write(name, 0, formats.round_to(rng.normal(size=shape), dtype).reshape(-1))
        writer.write("count", 0, np.array([seed], "<u8"))
        writer.finish()
    return path


def values(path: Path) -> dict[str, np.ndarray]:
    with Checkpoint.open(path) as c:
        return {n: c.read_float64(n).reshape(s) for n, s in SHAPES.items()}


def run(*arguments: object) -> int:
    return main(["weights", "signature", *map(str, arguments)])


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [checkpoint(tmp_path / name, i) for i, name in enumerate(("pre", "standard", "robust", "other"))]


def test_on_and_off_again_to_the_bit(models: list[Path], tmp_path: Path) -> None:
    pre, standard, robust, _ = models
    three = ["extract", "--pre", pre, "--standard", standard, "--robust", robust]
    assert run(*three, "--include", "first", "--bits", 32, "-o", tmp_path / "s.safetensors") == 0
    found = RobustWeightSignature.load(tmp_path / "s.safetensors")
    arrays = [values(p) for p in models[:3]]
    assert list(found.tensors) == ["first.weight", "first.bias"]
    for name, patch in found.tensors.items():
        before, plain, hard = (a[name] for a in arrays)
        np.testing.assert_allclose(patch, project_out(hard - before, plain - before), rtol=1e-6, atol=1e-7)
    undo = tmp_path / "undo.safetensors"
    assert run("apply", standard, tmp_path / "s.safetensors", "--strength", 0.3, "--undo", undo, "-o", tmp_path / "patched") == 0
    with Checkpoint.open(tmp_path / "patched") as patched, Checkpoint.open(standard) as before:
        for name, patch in found.tensors.items():
            want = formats.round_to(arrays[1][name] + 0.3 * patch, "BF16").reshape(-1)
            np.testing.assert_array_equal(patched.read(name), want)
        np.testing.assert_array_equal(patched.read("head.weight"), before.read("head.weight"))
        assert patched.read("count").tolist() == [1]
    assert (tmp_path / "patched" / "config.json").read_bytes() == b"{}"
    assert run("remove", tmp_path / "patched", undo, "-o", tmp_path / "back") == 0
    for file in sorted(standard.iterdir()):
        assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()


def test_project_and_combine(models: list[Path], tmp_path: Path) -> None:
    pre, standard, robust, other = models
    a, b, alone, both = (tmp_path / f"{n}.safetensors" for n in ("a", "b", "alone", "both"))
    for out, hard in ((a, robust), (b, other)):
        assert run("extract", "--pre", pre, "--standard", standard, "--robust", hard, "-o", out, "-q") == 0
    assert run("project", a, b, "-o", alone) == 0
    assert run("combine", a, b, "-o", both) == 0
    first, second, left, mean = (RobustWeightSignature.load(p) for p in (a, b, alone, both))
    assert first.bits == 8
    for name, tensor in left.tensors.items():
        assert abs(float(np.sum(tensor * second.tensors[name]))) < 1e-5
        np.testing.assert_allclose(mean.tensors[name], (first.tensors[name] + second.tensors[name]) / 2, rtol=1e-6, atol=1e-7)


def test_refused(models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pre, standard, robust, _ = models
    s, undo, out = tmp_path / "s.safetensors", tmp_path / "undo.safetensors", tmp_path / "out"
    three = ["extract", "--pre", pre, "--standard", standard, "--robust", robust]
    assert run(*three, "-o", s, "-q") == 0
    assert run("apply", standard, s, "--undo", undo, "-o", out, "-q") == 0

    def refused(match: str, *arguments: object) -> None:
        capsys.readouterr()
        before = sorted(p.name for p in tmp_path.iterdir())
        assert run(*arguments) == 2
        assert match in capsys.readouterr().err
        assert sorted(p.name for p in tmp_path.iterdir()) == before

    refused("exists", *three, "-o", s)
    refused("no tensor is left", *three, "--include", "absent", "-o", tmp_path / "x.safetensors")
    refused("exists", "apply", standard, s, "--undo", undo, "-o", tmp_path / "x")
    refused("exists", "apply", standard, s, "--undo", tmp_path / "x.safetensors", "-o", out)
    refused("in the output", "apply", standard, s, "--undo", tmp_path / "x" / "u.safetensors", "-o", tmp_path / "x")
    refused("does not end in", "apply", standard, s, "--undo", tmp_path / "u", "-o", tmp_path / "x")
    refused("finite", "apply", standard, s, "--strength", "nan", "-o", tmp_path / "x")
    refused("no signature", "apply", standard, undo, "-o", tmp_path / "x")
    refused("does not undo", "remove", out, s, "-o", tmp_path / "x")
    refused("not what the patch made", "remove", standard, undo, "-o", tmp_path / "x")
    save_file({"first.weight": np.zeros((2, 2), np.float32)}, tmp_path / "small.safetensors")
    refused("unknown tensor", "apply", tmp_path / "small.safetensors", s, "-o", tmp_path / "x")
    refused("unknown tensor", "extract", "--pre", pre, "--standard", tmp_path / "small.safetensors", "--robust", robust, "-o", "x")
    save_file({n: np.zeros((2, 2), np.float32) for n in SHAPES}, tmp_path / "other.safetensors")
    refused("floats of shape", "apply", tmp_path / "other.safetensors", s, "-o", tmp_path / "x")
    refused("unknown tensor", "remove", tmp_path / "small.safetensors", undo, "-o", tmp_path / "x")
