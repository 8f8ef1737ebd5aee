"""Edits against loops and sorts written from their definitions, in memory; masks and thresholds do not depend on chunks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from farfield.errors import InputError
from farfield.weights.edits import Breadcrumbs, DeltaEdit, Linear, Magnitude, ModelStock, Random, Slerp, Sparse, Weighted

FloatArray = NDArray[np.float64]


class Held:
    """A tensor in memory."""

    def __init__(self, values: FloatArray) -> None:
        self.values = values
        self.size = values.size
        self.shape = values.shape

    def read(self, start: int, stop: int) -> FloatArray:
        return self.values.reshape(-1)[start:stop].copy()


def run(edit: DeltaEdit, tensors: Sequence[FloatArray], chunk: int = 10_000, name: str = "w") -> FloatArray:
    state = edit.prepare(name, [Held(t) for t in tensors])
    parts = []
    for start in range(0, tensors[0].size, chunk):
        chunks = [t[start : start + chunk] for t in tensors]
        parts.append(chunks[0] + edit.apply(state, chunks, start))
    return np.concatenate(parts)


def operands(n: int = 500, k: int = 3, seed: int = 0) -> list[FloatArray]:
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1, n)
    return [base, *(base + rng.normal(0, 0.1, n) for _ in range(k))]


EDITS: list[DeltaEdit] = [
    Linear((0.5, 0.25, -1.0)),
    Linear((0.5, 0.25, -1.0), base_weight=0.9),
    Weighted((0.1, 0.2, 0.3, 0.4)),
    ModelStock(),
    Sparse((0.5, 0.5, 1.0), (Magnitude(0.3),) * 3, elect=True, normalize=True),
    Sparse((0.5, 0.5, 1.0), (Random(0.3, seed=3),) * 3, scale=0.7),
    Sparse((0.5, 0.5, 1.0), (Breadcrumbs(0.6, 0.05),) * 3, elect=True),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: type(e).__name__)
def test_chunks_do_not_change_a_bit(edit: DeltaEdit) -> None:
    tensors = operands()
    np.testing.assert_array_equal(run(edit, tensors), run(edit, tensors, chunk=7))


@pytest.mark.parametrize("edit", [*EDITS[:4], Slerp(0.3)], ids=lambda e: type(e).__name__)
def test_terms_are_what_apply_does(edit: DeltaEdit) -> None:
    tensors = operands(k=1 if isinstance(edit, Slerp) else 3)
    terms = edit.terms(edit.prepare("w", [Held(t) for t in tensors]))
    assert terms is not None
    want = sum(w * tensors[i] for w, i in terms)
    np.testing.assert_allclose(run(edit, tensors), want, rtol=1e-13, atol=1e-14)


def test_slerp_keeps_the_norm_and_the_share_of_the_angle() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=400), rng.normal(size=400)
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    angle = math.acos(a @ b / (a @ a))
    for t in (0.0, 0.25, 1.0):
        out = run(Slerp(t), [a, b])
        assert np.linalg.norm(out) == pytest.approx(np.linalg.norm(a), rel=1e-12)
        assert math.acos(min(1.0, float(out @ a / (a @ a)))) == pytest.approx(t * angle, abs=1e-7)
    np.testing.assert_allclose(run(Slerp(0.25), [a, 2 * a]), 1.25 * a, rtol=1e-14)
    np.testing.assert_array_equal(run(Slerp(0.25), [np.zeros(3), np.zeros(3)]), np.zeros(3))


def test_model_stock_of_known_angles() -> None:
    base = np.zeros(3)
    first, second = np.array([1.0, 0, 0]), np.array([0.5, math.sqrt(3) / 2, 0])  # 60 degrees
    np.testing.assert_allclose(run(ModelStock(), [base, first, second]), (2 / 3) * (first + second) / 2, rtol=1e-14)
    np.testing.assert_allclose(run(ModelStock(), [base, first, np.array([0, 1.0, 0])]), base, atol=1e-15)
    np.testing.assert_allclose(run(ModelStock(), [base, first, first]), first)
    with pytest.raises(InputError, match="at least two"):
        run(ModelStock(), [base, first])


def test_magnitude_and_breadcrumbs_keep_what_a_sort_keeps() -> None:
    base, model = operands(k=1)
    delta = model - base
    order = np.argsort(-np.abs(delta))
    kept = run(Sparse((1.0,), (Magnitude(0.2),)), [base, model]) - base
    assert set(np.flatnonzero(kept)) == set(order[:100])
    kept = run(Sparse((1.0,), (Breadcrumbs(0.2, 0.1),)), [base, model]) - base
    assert set(np.flatnonzero(kept)) == set(order[50:150])
    kept = run(Sparse((1.0,), (Breadcrumbs(1.0, 0.1),)), [base, model]) - base
    assert np.flatnonzero(kept).size == 500  # density wins over gamma


def test_random_masks_keep_their_share_and_their_mean() -> None:
    base, delta = np.zeros(200_000), np.ones(200_000)
    out = run(Sparse((1.0,), (Random(0.1, seed=1),)), [base, delta])
    kept = np.count_nonzero(out)
    assert abs(kept - 20_000) < 5 * math.sqrt(18_000)
    assert set(np.unique(out)) == {0.0, 10.0}
    again = run(Sparse((1.0,), (Random(0.1, seed=1),)), [base, delta], chunk=1001)
    np.testing.assert_array_equal(out, again)
    for other in (
        run(Sparse((1.0,), (Random(0.1, seed=2),)), [base, delta]),
        run(Sparse((1.0,), (Random(0.1, seed=1),)), [base, delta], name="v"),
    ):
        assert np.mean((out > 0) & (other > 0)) == pytest.approx(0.01, abs=0.002)
    assert set(np.unique(run(Sparse((1.0,), (Random(0.5, rescale=False),)), [base, delta]))) == {0.0, 1.0}


def ties_by_loops(tensors: list[FloatArray], density: float, weights: Sequence[float], scale: float) -> FloatArray:
    """TIES merging (arXiv 2306.01708, algorithm 1) with weights: trim, elect signs, mean of those that agree."""
    base = tensors[0]
    trimmed = []
    for t in tensors[1:]:
        delta = t - base
        threshold = sorted(map(abs, delta))[-int(density * len(delta))]
        trimmed.append([d if abs(d) >= threshold else 0.0 for d in delta])
    out = []
    for i, b in enumerate(base):
        column = [w * t[i] for w, t in zip(weights, trimmed, strict=True)]
        sign = 1 if sum(column) > 0 else -1
        agree = [(w, c) for w, c in zip(weights, column, strict=True) if c * sign > 0]
        out.append(b + (scale * sum(c for _, c in agree) / sum(w for w, _ in agree) if agree else 0.0))
    return np.array(out)


def test_ties_against_loops() -> None:
    tensors = operands(n=200)
    edit = Sparse((0.5, 0.3, 1.0), (Magnitude(0.4),) * 3, scale=0.9, elect=True, normalize=True)
    np.testing.assert_allclose(run(edit, tensors), ties_by_loops(tensors, 0.4, (0.5, 0.3, 1.0), 0.9), rtol=1e-12)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Linear((1.0,)), "coefficients"),
        (Weighted((1.0,)), "weights"),
        (Slerp(0.5), "two models"),
        (Sparse((1.0,) * 3, (Magnitude(1.5),) * 3), "density"),
        (Sparse((1.0, -1.0, 0.0), (Magnitude(1.0),) * 3, normalize=True), "add up to 0"),
    ],
)
def test_what_does_not_fit_is_refused(edit: DeltaEdit, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(edit, operands())
