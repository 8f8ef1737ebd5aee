"""Robust weight signatures: the projection, int8 storage, removal to the bit, refusals."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from farfield.errors import FormatError, InputError
from farfield.weights.signature import RobustWeightSignature, first_layers, project_out

SHAPES = {"conv1.weight": (4, 1, 3, 3), "conv1.bias": (4,), "bn1.weight": (4,), "conv2.weight": (6, 4, 3, 3), "fc.weight": (3, 24)}


def model(seed: int, dtype: str = "float32") -> dict[str, NDArray[np.floating]]:
    rng = np.random.default_rng(seed)
    return {n: rng.normal(0, 1, s).astype(dtype) for n, s in SHAPES.items()}


def test_the_projection_against_rationals() -> None:
    rng = np.random.default_rng(0)
    v, d = rng.normal(size=20), rng.normal(size=20)
    exact_v, exact_d = [Fraction(x) for x in v.tolist()], [Fraction(x) for x in d.tolist()]
    share = sum(a * b for a, b in zip(exact_v, exact_d, strict=True)) / sum(b * b for b in exact_d)
    want = [float(a - share * b) for a, b in zip(exact_v, exact_d, strict=True)]
    np.testing.assert_allclose(project_out(v, d), want, rtol=0, atol=1e-14)
    assert abs(project_out(v, d) @ d) < 1e-14
    np.testing.assert_array_equal(project_out(v, np.zeros(20)), v)
    np.testing.assert_allclose(project_out(3 * d, d), 0, atol=1e-15)


def test_a_signature_is_the_robust_step_without_the_standard_one() -> None:
    pre, standard, robust = model(0, "float64"), model(1, "float64"), model(2, "float64")
    found = RobustWeightSignature.extract(pre, standard, robust, layers=2)
    assert list(found.tensors) == ["conv1.weight", "conv1.bias", "conv2.weight"]
    for name, tensor in found.tensors.items():
        step, hard = (m[name] - pre[name] for m in (standard, robust))
        want = hard - np.sum(hard * step) / np.sum(step * step) * step
        np.testing.assert_allclose(tensor, want, rtol=1e-6, atol=1e-7)
    assert first_layers(SHAPES, None) == list(SHAPES)
    assert first_layers(SHAPES, 1, include="conv", exclude="bias") == ["conv1.weight"]
    same = RobustWeightSignature.extract(pre, standard, standard, layers=None)
    assert max(float(np.abs(t).max()) for t in same.tensors.values()) < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_a_patch_is_taken_off_to_the_bit(dtype: str) -> None:
    pre, standard, robust, target = (model(i) for i in range(4))
    weights = {n: v.astype(dtype) for n, v in target.items()}
    weights["conv1.bias"][:] = [0.0, -0.0, np.finfo(dtype).tiny, 1.0]
    signature = RobustWeightSignature.extract(pre, standard, robust, layers=2)
    patched, undo = signature.apply(weights, 0.7)
    np.testing.assert_array_equal(patched["fc.weight"], weights["fc.weight"])
    for name, tensor in signature.tensors.items():
        assert patched[name].dtype == dtype
        np.testing.assert_array_equal(patched[name], (weights[name].astype(np.float64) + 0.7 * tensor).astype(dtype))
    restored = undo.remove(patched)
    assert {n: v.tobytes() for n, v in restored.items()} == {n: v.tobytes() for n, v in weights.items()}
    subtracted, _ = signature.apply(patched, -0.7)
    assert any(subtracted[n].tobytes() != weights[n].tobytes() for n in signature.tensors)  # which is why it is kept


def test_strength_is_linear_and_means_are_means() -> None:
    pre, standard = model(0), model(1)
    one, two = (RobustWeightSignature.extract(pre, standard, model(i), layers=2) for i in (2, 3))
    weights = model(4, "float64")
    both = RobustWeightSignature.combine([one, two])
    for name in one.tensors:
        step = [s.apply(weights, 0.5)[0][name] - weights[name] for s in (one, two, both)]
        np.testing.assert_allclose((step[0] + step[1]) / 2, step[2], atol=1e-6)
        np.testing.assert_allclose(one.apply(weights, 1.0)[0][name] - weights[name], 2 * step[0], atol=1e-12)
    assert one.cosine(one) == pytest.approx(1)
    assert abs(one.cosine(two)) < 0.5


def test_int8_storage(tmp_path: Path) -> None:
    pre, standard, robust = model(0), model(1), model(2)
    full = RobustWeightSignature.extract(pre, standard, robust, layers=2)
    short = RobustWeightSignature.extract(pre, standard, robust, layers=2, bits=8)
    assert short.nbytes < full.nbytes / 3.5
    for name, tensor in full.tensors.items():
        assert np.abs(short.tensors[name] - tensor).max() <= np.abs(tensor).max() / 127 / 2 * 1.001
        assert np.unique(short.tensors[name]).size <= 255
    for i, signature in enumerate((full, short)):
        again = RobustWeightSignature.load(signature.save(tmp_path / f"s{i}.safetensors"))
        assert again.bits == signature.bits
        assert {n: v.tolist() for n, v in again.tensors.items()} == {n: v.tolist() for n, v in signature.tensors.items()}
    codes = load_file(tmp_path / "s1.safetensors")
    assert codes["conv1.weight"].dtype == np.int8
    assert np.abs(codes["conv1.weight"]).max() == 127
    zero = RobustWeightSignature({"w": np.zeros((2, 2))}).rounded(8)
    assert zero.tensors["w"].tolist() == [[0, 0], [0, 0]]


def test_refusals(tmp_path: Path) -> None:
    pre, standard, robust = model(0), model(1), model(2)
    extract = RobustWeightSignature.extract
    with pytest.raises(InputError, match="different names"):
        extract(pre, standard, {**robust, "more": np.zeros(2)})
    with pytest.raises(InputError, match="has shapes"):
        extract(pre, standard, {**robust, "conv1.bias": np.zeros(5)})
    with pytest.raises(InputError, match="not finite"):
        extract(pre, standard, {**robust, "conv1.bias": np.full(4, np.nan)})
    with pytest.raises(InputError, match="no tensor is left"):
        extract(pre, standard, robust, include="absent")
    with pytest.raises(InputError, match="regular expression"):
        extract(pre, standard, robust, include="(")
    with pytest.raises(InputError, match="bits is 4"):
        extract(pre, standard, robust, bits=4)
    signature = extract(pre, standard, robust, layers=1)
    with pytest.raises(InputError, match="unknown tensor"):
        signature.apply({"x": np.zeros(2)})
    with pytest.raises(InputError, match="floats of shape"):
        signature.apply({**pre, "conv1.bias": np.zeros(4, int)})
    patched, undo = signature.apply(pre)
    with pytest.raises(InputError, match="give the patched"):
        undo.remove({**patched, "conv1.bias": np.zeros(9)})
    with pytest.raises(InputError, match="different tensors"):
        RobustWeightSignature.combine([signature, extract(pre, standard, robust, layers=2)])
    with pytest.raises(InputError, match="safetensors"):
        signature.save(tmp_path / "s.npz")
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(FormatError, match="no signature"):
        RobustWeightSignature.load(tmp_path / "other.safetensors")
