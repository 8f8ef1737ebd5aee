"""Torch modules trained in a subspace: their weights and gradients against the explicit projection, and the sweep on them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from farfield.cli import main
from farfield.errors import InputError
from farfield.nn.trainer import Recipe
from farfield.weights.intrinsic import intrinsic_dimension, subspace, subspace_training
from farfield.weights.projections import PROJECTIONS, projection

pytestmark = pytest.mark.extra("torch")

PROBLEM = '''
import torch
from torch import nn


def linear():
    """Six targets of a linear model with 120 weights: the loss is zero in a subspace of six dimensions or more."""
    model = nn.Linear(20, 6, bias=False).double()
    x = torch.ones(1, 20, dtype=torch.float64)
    y = torch.arange(1.0, 7.0, dtype=torch.float64)
    return model, lambda m, rng: ((m(x) - y) ** 2).sum(), lambda m: float(torch.exp(-((m(x) - y) ** 2).sum()))


def wrong():
    return 3


def broken():
    raise RuntimeError("no data")
'''


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


@pytest.mark.parametrize("kind", PROJECTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_weights_and_gradients_against_the_projection_in_numpy(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    model = network(dtype)
    before = copy.deepcopy(model.state_dict())
    moved = subspace(model, 11, kind, rng=4)
    n = sum(p.numel() for p in model.parameters())
    assert moved.n_params == n
    assert [name for name, p in moved.named_parameters() if p.requires_grad] == ["z"]
    x = torch.randn(7, 5, dtype=dtype)
    assert torch.equal(moved.eval()(x), model.eval()(x))  # z = 0
    p = projection(kind, n, 11, 4, np.float32 if dtype == torch.float32 else np.float64)
    z = np.random.default_rng(0).normal(size=11)
    with torch.no_grad():
        moved.z.copy_(torch.from_numpy(z))
    theta = np.concatenate([v.detach().double().numpy().ravel() for v in model.parameters()]) + p.forward(z)
    other = network(dtype).eval()
    nn.utils.vector_to_parameters(torch.from_numpy(theta).to(dtype), other.parameters())
    loss, expected = moved(x).square().sum(), other(x).square().sum()
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    loss.backward()
    expected.backward()
    gradient = np.concatenate([v.grad.numpy().ravel() for v in other.parameters()])
    wanted = p.transpose(gradient)
    assert moved.z.grad.numpy() == pytest.approx(wanted, rel=tolerance, abs=tolerance * float(np.abs(wanted).max()))
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())


def test_frozen_parameters_stay_and_modules_without_any_to_move_are_refused() -> None:
    model = network(torch.float32)
    model[0].weight.requires_grad_(False)
    moved = subspace(model, 4)
    assert "0.weight" not in moved.weights()
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(InputError, match="trainable parameters are none"):
        subspace(model, 4)
    with pytest.raises(InputError, match="float16"):
        subspace(network(torch.float16), 4)


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_training_finds_the_dimension_of_a_linear_problem(kind: str, tmp_path: Path) -> None:
    scope: dict[str, object] = {}
    exec(PROBLEM, scope)
    train = subspace_training(scope["linear"], Recipe(150, 0.1, clip=float("inf")), kind)  # type: ignore[arg-type]
    found = intrinsic_dimension(train, [4, 24], n_seeds=1, seed=3)
    assert found.dimension == 24
    assert found.scores[0, 0] < 0.9 < found.scores[0, 1]
    assert train(24, 3) == found.scores[0, 1]


def test_the_command_on_a_factory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "problem.py"
    file.write_text(PROBLEM)
    common = ["--dims", "4,40", "--seeds", "1", "--steps", "150", "--rate", "0.1"]
    assert main(["intrinsic-dim", f"{file}:linear", *common]) == 0
    assert "of 120 parameters" in capsys.readouterr().out
    for name, says in [("wrong", "returned a int"), ("broken", "RuntimeError: no data"), ("linaer", "linear")]:
        assert main(["intrinsic-dim", f"{file}:{name}", *common]) == 2
        assert says in capsys.readouterr().err
    assert main(["intrinsic-dim", f"{file}:linear", "--dims", "500"]) == 2
    assert "120 parameters" in capsys.readouterr().err
