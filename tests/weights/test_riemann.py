"""The Riemann sum against loss changes in closed form and as evaluated; edits in memory against edits of checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from farfield import formats
from farfield.errors import InputError
from farfield.weights.algebra import execute, open_operands, plan
from farfield.weights.edits import DeltaEdit, Linear, Magnitude, Random, Sparse
from farfield.weights.io import Checkpoint, CheckpointWriter
from farfield.weights.riemann import EditClass, edited, riemann_gap

FloatArray = NDArray[np.float64]
rng = np.random.default_rng(0)
A = rng.normal(size=(6, 6))
H = A @ A.T
BEFORE = {"w": rng.normal(size=6), "v": np.array([0.5]), "steps": np.array([3])}
STEP = {"w": rng.normal(size=6), "v": np.array([-0.25])}
AFTER = {**BEFORE, **{n: BEFORE[n] + s for n, s in STEP.items()}}


def quadratic(weights: Mapping[str, Any]) -> tuple[float, dict[str, FloatArray]]:
    """1/2 w' H w + v^2."""
    w, v = weights["w"], weights["v"]
    return float(0.5 * w @ H @ w + v[0] ** 2), {"w": H @ w, "v": 2 * v}


def exponential(weights: Mapping[str, Any]) -> tuple[float, dict[str, FloatArray]]:
    value = np.exp(weights["w"])
    return float(value.sum()), {"w": value, "v": np.zeros(1)}


def true_change(loss: Any) -> float:
    return float(loss(AFTER)[0] - loss(BEFORE)[0])


@pytest.mark.parametrize("points", [1, 2, 7])
def test_the_midpoint_rule_is_exact_for_a_quadratic_and_the_left_rule_off_by_the_curvature(points: int) -> None:
    change = true_change(quadratic)
    assert riemann_gap(quadratic, BEFORE, AFTER, points=points).estimate == pytest.approx(change, rel=1e-12)
    curvature = float(STEP["w"] @ H @ STEP["w"] + 2 * STEP["v"][0] ** 2)
    left = riemann_gap(quadratic, BEFORE, AFTER, points=points, rule="left")
    assert left.estimate == pytest.approx(change - curvature / (2 * points), rel=1e-12)
    assert left.loss == quadratic(BEFORE)[0]


@pytest.mark.parametrize(("rule", "order"), [("left", 1), ("midpoint", 2)])
def test_the_error_falls_with_the_order_of_the_rule(rule: str, order: int) -> None:
    errors = [
        abs(riemann_gap(exponential, BEFORE, AFTER, points=c, rule=rule).estimate - true_change(exponential)) for c in (16, 32, 64)
    ]
    assert np.log2(np.array(errors[:-1]) / errors[1:]) == pytest.approx(order, abs=0.1)


def test_parts_and_classes() -> None:
    found = riemann_gap(quadratic, BEFORE, AFTER)
    assert set(found.by_tensor) == {"w", "v"}
    assert sum(found.by_tensor.values()) == pytest.approx(found.estimate, rel=1e-12)
    assert found.slopes.mean() == pytest.approx(found.estimate)
    v = float((AFTER["v"] ** 2 - BEFORE["v"] ** 2)[0])
    assert found.by_tensor["v"] == pytest.approx(v, rel=1e-12)
    up = riemann_gap(quadratic, BEFORE, {**BEFORE, "w": 2 * BEFORE["w"]})
    down = riemann_gap(quadratic, BEFORE, {**BEFORE, "w": 0.5 * BEFORE["w"]})
    nothing = riemann_gap(quadratic, BEFORE, BEFORE)
    assert [g.status for g in (up, down, nothing)] == [EditClass.DECREASED, EditClass.IMPROVED, EditClass.COMPETITIVE]
    assert riemann_gap(quadratic, BEFORE, {**BEFORE, "w": 2 * BEFORE["w"]}, tolerance=1e9).status is EditClass.COMPETITIVE
    assert "improved" in repr(down)
    assert down.status.value in down.summary()
    assert down.to_dict()["status"] == "improved"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": np.zeros(5)}, "shape"),
        ({"x": np.zeros(1)}, "different names"),
        ({"steps": np.array([4])}, "only floats"),
        ({"w": np.full(6, np.inf)}, "not finite|finite losses|finite"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message), np.errstate(all="ignore"):
        riemann_gap(quadratic, BEFORE, {**AFTER, **change})


def test_a_gradient_that_leaves_out_what_changes() -> None:
    with pytest.raises(InputError, match="no gradient of"):
        riemann_gap(lambda w: (1.0, {"w": np.zeros(6)}), BEFORE, AFTER)
    with pytest.raises(InputError, match="rule"):
        riemann_gap(quadratic, BEFORE, AFTER, rule="right")


@pytest.mark.parametrize(
    "edit",
    [Linear((1.7,)), Sparse((1.0,), (Magnitude(0.4),)), Sparse((1.0,), (Magnitude(0.3, "model"),)), Sparse((1.0,), (Random(0.5),))],
    ids=["linear", "trim", "across", "dare"],
)
def test_edits_in_memory_are_those_of_checkpoints(tmp_path: Path, edit: DeltaEdit) -> None:
    models = {
        name: {"a": rng.normal(size=(5, 4)), "b": rng.normal(size=7), "n": np.array([i])} for i, name in enumerate(("pre", "post"))
    }
    for name, tensors in models.items():
        layout = [("model.safetensors", [(n, "I64" if n == "n" else "F64", v.shape) for n, v in tensors.items()])]
        with CheckpointWriter(tmp_path / name, layout, sync=False) as writer:
            for n, v in tensors.items():
                writer.write(n, 0, v.astype("<i8").view("<u8") if n == "n" else formats.round_to(v, "F64").reshape(-1))
            writer.finish()
    execute(plan(open_operands([tmp_path / "pre", tmp_path / "post"]), lambda _: edit), tmp_path / "out")
    got = edited(edit, models["pre"], models["post"])
    assert got["n"].tolist() == [0]
    with Checkpoint.open(tmp_path / "out") as out:
        for name in ("a", "b"):
            np.testing.assert_array_equal(got[name].reshape(-1), out.read_float64(name))


def test_models_that_differ_are_refused_in_memory() -> None:
    with pytest.raises(InputError, match="not in every model"):
        edited(Linear((1.0,)), {"a": np.zeros(2)}, {"b": np.zeros(2)})
    with pytest.raises(InputError, match=r"shape \(2,\)"):
        edited(Linear((1.0,)), {"a": np.zeros(2)}, {"a": np.zeros(3)})


def test_dropping_at_random_changes_a_locally_linear_loss_by_nothing_on_average() -> None:
    """The paper's reason for DARE: the expectation of the sum is zero; without rescaling it is not."""
    pre, post = {"w": np.zeros(200)}, {"w": rng.normal(1, 0.3, 200)}

    def linear(weights: Mapping[str, Any]) -> tuple[float, dict[str, FloatArray]]:
        return float(weights["w"].sum()), {"w": np.ones(200)}

    for rescale in (True, False):
        gaps = [
            riemann_gap(linear, post, edited(Sparse((1.0,), (Random(0.3, s, rescale),)), pre, post), points=1).estimate
            for s in range(300)
        ]
        error = float(np.std(gaps)) / math.sqrt(300)
        assert (abs(np.mean(gaps)) < 4 * error) == rescale
