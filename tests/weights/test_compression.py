"""Compressed deltas against definitions: signs, bits, ranks, generalised dropping, thresholds across the model; any chunks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from farfield import formats
from farfield.errors import InputError
from farfield.weights.compression import LowRank, Quantised, Signs
from farfield.weights.edits import Between, Breadcrumbs, Linear, Magnitude, Random, Sparse, Thinning, survey
from farfield.weights.io import Checkpoint, CheckpointWriter
from farfield.weights.recipes import recipe_from

FloatArray = NDArray[np.float64]


class Held:
    """A tensor in memory."""

    def __init__(self, values: FloatArray) -> None:
        self.values, self.size, self.shape = values, values.size, values.shape

    def read(self, start: int, stop: int) -> FloatArray:
        return self.values.reshape(-1)[start:stop].copy()


def kept(thinning: Thinning, delta: FloatArray, chunk: int = 1 << 20, scale: float = 1.0) -> FloatArray:
    """What the thinning makes of a delta, in the delta's shape."""
    edit = Sparse((1.0,), (thinning,), scale)
    zeros = np.zeros(delta.size)
    state = edit.prepare("w", [Held(np.zeros(delta.shape)), Held(delta)])
    flat = delta.reshape(-1)
    parts = [edit.apply(state, [zeros[i : i + chunk], flat[i : i + chunk]], i) for i in range(0, delta.size, chunk)]
    return np.concatenate(parts).reshape(delta.shape)


DELTA = np.random.default_rng(0).normal(0, 1, (70, 50))
DELTA[3, 4] = 0.0


def signs(d: FloatArray) -> FloatArray:
    return np.where(d >= 0, 1.0, -1.0)


def test_one_bit_is_the_mean_magnitude_times_the_sign() -> None:
    np.testing.assert_allclose(kept(Signs(), DELTA), np.abs(DELTA).mean() * signs(DELTA), rtol=1e-13)
    by_row = kept(Signs(block=50), DELTA)
    np.testing.assert_allclose(by_row, np.abs(DELTA).mean(1, keepdims=True) * signs(DELTA), rtol=1e-13)


def test_further_bits_code_what_is_left_and_the_scales_are_least_squares() -> None:
    first = np.abs(DELTA).mean() * signs(DELTA)
    rest = DELTA - first
    np.testing.assert_allclose(kept(Signs(bits=2), DELTA), first + np.abs(rest).mean() * signs(rest), rtol=1e-12)
    errors = [np.sum((kept(Signs(bits=b), DELTA) - DELTA) ** 2) for b in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    scale = np.sum(DELTA * signs(DELTA)) / DELTA.size  # the least-squares scale of a sign
    assert scale == pytest.approx(np.abs(DELTA).mean(), rel=1e-13)


@pytest.mark.parametrize(("bits", "block"), [(2, 0), (4, 50), (8, 64)])
def test_quantised_entries_are_the_nearest_of_the_grid(bits: int, block: int) -> None:
    got = kept(Quantised(bits, block), DELTA).reshape(-1)
    flat = DELTA.reshape(-1)
    width = block or flat.size
    for start in range(0, flat.size, width):
        part = flat[start : start + width]
        grid = np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1)) * (np.abs(part).max() / (2 ** (bits - 1) - 1))
        np.testing.assert_allclose(np.abs(part - got[start : start + width]), np.abs(part[:, None] - grid).min(1), atol=1e-13)
        assert np.all(np.min(np.abs(got[start : start + width, None] - grid), axis=1) < 1e-13)


@pytest.mark.parametrize("shape", [(70, 50), (50, 70), (10, 7, 9)])
def test_a_low_rank_is_the_best_of_its_rank(shape: tuple[int, ...]) -> None:
    delta = np.random.default_rng(1).normal(size=shape)
    u, s, v = np.linalg.svd(delta.reshape(shape[0], -1), full_matrices=False)
    np.testing.assert_allclose(kept(LowRank(3), delta), ((u[:, :3] * s[:3]) @ v[:3]).reshape(shape), atol=1e-12)
    np.testing.assert_array_equal(kept(LowRank(99), delta), delta)
    vector = np.arange(5.0)
    np.testing.assert_array_equal(kept(LowRank(1), vector), vector)


@pytest.mark.parametrize("thinning", [Signs(64, 2), Signs(), Quantised(4, 33), LowRank(2), Random(0.3, factor=-1.0)], ids=repr)
def test_chunks_do_not_change_a_bit(thinning: Thinning) -> None:
    whole = kept(thinning, DELTA)
    for chunk in (7, 50, 999):
        np.testing.assert_array_equal(kept(thinning, DELTA, chunk), whole)


def test_blocks_longer_than_a_pass_add_up() -> None:
    delta = np.random.default_rng(2).normal(size=200_000)
    got = kept(Signs(block=90_000), delta)
    for start in (0, 90_000, 180_000):
        part = delta[start : start + 90_000]
        np.testing.assert_allclose(np.abs(got[start : start + 90_000]), np.abs(part).mean(), rtol=1e-12)


@pytest.mark.parametrize("factor", [10.0, 4.0, 1.0, 0.0, -3.0])
def test_any_factor_keeps_the_expectation(factor: float) -> None:
    """10 is DARE at density 0.1, 1 changes nothing, 0 drops the sampled tenth instead of the rest."""
    mean = np.mean([kept(Random(0.1, seed=s, factor=factor), DELTA[:5]) for s in range(1000)], axis=0)
    rest = (1 - factor * 0.1) / 0.9
    deviation = np.abs(DELTA[:5]) * abs(factor - rest) * math.sqrt(0.1 * 0.9 / 1000)
    assert np.all(np.abs(mean - DELTA[:5]) <= 5 * deviation + 1e-12)
    if factor == 10.0:
        np.testing.assert_allclose(kept(Random(0.1, factor=10.0), DELTA), kept(Random(0.1), DELTA), atol=1e-12)
    if factor == 1.0:
        np.testing.assert_allclose(kept(Random(0.1, factor=1.0), DELTA), DELTA, rtol=1e-14)


def test_thresholds_across_the_model() -> None:
    """The largest tenth of all entries, wherever they are; against one sort."""
    rng = np.random.default_rng(3)
    deltas = {"big": rng.normal(0, 3, (20, 20)), "small": rng.normal(0, 1, 500)}
    edit = Sparse((1.0,), (Magnitude(0.1, across="model"),))
    assert edit.scope == "model"
    views = {n: [Held(np.zeros(d.shape)), Held(d)] for n, d in deltas.items()}
    surveyed = survey({"big": edit, "small": edit, "copied": None, "other": Linear((1.0,))}, lambda n: views[n])
    assert surveyed["copied"] is None
    assert surveyed["other"] == Linear((1.0,))
    inner = surveyed["big"]
    assert inner is not None
    assert inner.scope == "element"
    limit = np.sort(np.abs(np.concatenate([d.reshape(-1) for d in deltas.values()])))[-90]
    for name, d in deltas.items():
        got = inner.apply(inner.prepare(name, views[name]), [np.zeros(d.size), d.reshape(-1)], 0)
        np.testing.assert_array_equal(got, np.where(np.abs(d) >= limit, d, 0.0).reshape(-1))
    crumbs = Sparse((1.0,), (Breadcrumbs(0.1, 0.01, across="model"),)).survey(views)
    largest = np.sort(np.abs(np.concatenate([d.reshape(-1) for d in deltas.values()])))
    assert crumbs.thinning[0] == Between(float(largest[-99]), float(largest[-9]))


def write(path: Path, tensors: dict[str, FloatArray]) -> None:
    with CheckpointWriter(path, [("model.safetensors", [(n, "F32", v.shape) for n, v in tensors.items()])], sync=False) as writer:
        for name, values in tensors.items():
            writer.write(name, 0, formats.round_to(values, "F32").reshape(-1))
        writer.finish()


def test_recipes_name_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    base = {"a": np.zeros((20, 20)), "b": np.zeros(30)}
    tuned = {"a": rng.normal(0, 3, (20, 20)), "b": rng.normal(0, 1, 30)}
    write(tmp_path / "base", base)
    write(tmp_path / "tuned", tuned)
    exact = {n: np.float64(np.float32(v)) for n, v in tuned.items()}
    every = np.sort(np.abs(np.concatenate([v.reshape(-1) for v in exact.values()])))
    cases = {
        "ties": ({"density": 0.1, "across": "model"}, {n: np.where(np.abs(v) >= every[-43], v, 0.0) for n, v in exact.items()}),
        "bitdelta": ({"bits": 2, "block": 20}, {n: kept(Signs(20, 2), v) for n, v in exact.items()}),
        "quantize": ({"bits": 3}, {n: kept(Quantised(3), v) for n, v in exact.items()}),
        "low_rank": ({"rank": 2}, {n: kept(LowRank(2), v) for n, v in exact.items()}),
        "dare_linear": ({"density": 0.5, "factor": 0.5}, dict.fromkeys(exact)),
    }
    for method, (parameters, want) in cases.items():
        document = {"method": method, "base": "base", "models": [{"path": "tuned"}], **parameters}
        recipe_from(document, tmp_path).run(tmp_path / method)
        with Checkpoint.open(tmp_path / method) as out:
            for name, values in exact.items():
                got = out.read_float64(name)
                if want[name] is None:
                    share = got / values.reshape(-1)
                    assert set(np.round(share, 6)) == {0.5, 1.5}
                else:
                    np.testing.assert_allclose(got, np.float32(want[name].reshape(-1)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "bitdelta", "bits": 0}, "bits"),
        ({"method": "low_rank"}, "needs rank"),
        ({"method": "low_rank", "rank": 1.5}, "rank"),
        ({"method": "ties", "across": "layer"}, "across"),
        ({"method": "ties", "rounding": "up"}, "rounding"),
        ({"method": "quantize", "density": 0.5}, "parameter of quantize"),
    ],
)
def test_refusals(tmp_path: Path, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe_from({"base": "a", "models": [{"path": "b"}], **parameters}, tmp_path)


def test_a_factor_needs_both_kinds_of_entries() -> None:
    with pytest.raises(InputError, match="above 0 and below 1"):
        kept(Random(1.0, factor=2.0), DELTA)
    with pytest.raises(InputError, match="bits"):
        kept(Quantised(1), DELTA)
