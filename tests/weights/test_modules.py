"""Torch modules under other weights: swept, asked for gradients, and left as they were."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from farfield.errors import InputError
from farfield.weights.extrapolate import SweepStatus, sweep
from farfield.weights.modules import loss_and_gradient
from farfield.weights.riemann import riemann_gap

pytestmark = pytest.mark.extra("torch")


def network(dtype: torch.dtype, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_sweep_moves_the_module_and_gives_it_back(dtype: torch.dtype) -> None:
    base, tuned = network(dtype), network(dtype, 1)
    before = copy.deepcopy(tuned.state_dict())
    seen: dict[float, dict[str, torch.Tensor]] = {}
    alphas = [0.0, 0.375, 1.0]  # of few digits, so that float64 holds the exact result

    def score(model: nn.Module) -> float:
        assert model is tuned
        seen[alphas[len(seen)]] = copy.deepcopy(model.state_dict())
        return float(len(seen))

    result = sweep(base, tuned, score, alphas=alphas)
    assert result.best_alpha == 1.0
    assert result.status is SweepStatus.EDGE
    for name, value in tuned.state_dict().items():
        assert torch.equal(value, before[name])
    for alpha, state in seen.items():
        for name, value in state.items():
            x, y = before[name], base.state_dict()[name]
            if not x.is_floating_point():
                assert torch.equal(value, x)
                continue
            exact = x.double() + alpha * (x.double() - y.double())
            assert torch.equal(value, exact.to(torch.float32).to(dtype) if dtype is torch.bfloat16 else exact.to(dtype))
    tuned.train()
    with pytest.raises(RuntimeError, match="by design"):
        sweep(base, tuned, lambda model: (_ for _ in ()).throw(RuntimeError("by design")))
    for name, value in tuned.state_dict().items():
        assert torch.equal(value, before[name])


def test_shared_parameters_move_once() -> None:
    def tied(value: float) -> nn.Module:
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        model[1].weight = model[0].weight
        nn.init.constant_(model[0].weight, value)
        return model

    values = []
    sweep(tied(1.0), tied(2.0), lambda m: values.append(m[1].weight[0, 0].item()) or 0.0, alphas=[0, 0.5])
    assert values == [2.0, 2.5]


def test_modules_that_do_not_fit() -> None:
    one, other = network(torch.float32), nn.Linear(5, 8)
    with pytest.raises(InputError, match="different names"):
        sweep(one, other, lambda m: 0.0)
    with pytest.raises(InputError, match="same module"):
        sweep(one, one, lambda m: 0.0)
    with pytest.raises(InputError, match="shape"):
        sweep(nn.Linear(2, 2), nn.Linear(3, 2), lambda m: 0.0)
    with pytest.raises(InputError, match="both be modules"):
        sweep({"w": np.zeros(2)}, one, lambda m: 0.0)


def test_the_sum_over_gradients_is_the_loss_change_of_a_module() -> None:
    model, other = network(torch.float64), network(torch.float64, 1)
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.arange(40) % 3

    def loss(module: nn.Module) -> torch.Tensor:
        return nn.functional.cross_entropy(module(x), y)

    before, after = ({n: p.detach().numpy().copy() for n, p in m.named_parameters()} for m in (model, other))
    found = riemann_gap(loss_and_gradient(model, loss), before, after, points=64)
    want = (loss(other) - loss(model)).item()
    assert found.estimate == pytest.approx(want, rel=1e-3)
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.detach().numpy(), before[name])
    with pytest.raises(InputError, match="unknown parameter"):
        loss_and_gradient(model, loss)({"9.weight": np.zeros(3)})
