"""The network in torch and in NumPy are one function, and training is resumable, seeded and does learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from farfield.cli import cli
from farfield.curves.pfn import LCPFN
from farfield.curves.pfn.architecture import Architecture
from farfield.curves.pfn.engine import Engine
from farfield.curves.pfn.network import Network, log_likelihood
from farfield.curves.pfn.training import inputs, pairs, train_network
from farfield.curves.priors import DomhanPrior, WidePrior
from farfield.nn.trainer import Recipe
from farfield.predictive import Mixture

pytestmark = pytest.mark.extra("torch")

SMALL = {"width": 32, "layers": 2, "heads": 2, "hidden": 32, "pointers": 2, "pointer_width": 8, "components": 3}


@pytest.mark.parametrize("clock", ["steps", "relative"])
def test_numpy_and_torch_agree(clock: str) -> None:
    arch = Architecture(clock=clock)
    torch.manual_seed(0)
    network = Network(arch)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.03 * torch.randn_like(p))
    engine = Engine.of(arch, {k: v.numpy() for k, v in network.state_dict().items()})
    curves = (DomhanPrior() if clock == "steps" else WidePrior()).sample(9, 0)
    cut, target = pairs(curves.lengths, 7, np.random.default_rng(1))
    at = np.take_along_axis(curves.x, target, 1)
    most = int(cut.max())
    x, y = (np.where(np.isnan(v), 1.0, v)[:, :most] for v in (curves.x, curves.y))
    with torch.no_grad():
        log_weight, loc, scale = (t.numpy() for t in network(*inputs(curves.x, curves.y, cut, at, curves.horizon, arch)))
    weight, loc_, scale_ = engine(x, y, cut, at, curves.horizon)
    np.testing.assert_allclose(weight, np.exp(log_weight), atol=1e-5)
    np.testing.assert_allclose(loc_, loc, atol=1e-5)
    np.testing.assert_allclose(scale_, scale, rtol=1e-4, atol=1e-5)


def test_the_likelihood_is_that_of_the_mixture() -> None:
    rng = np.random.default_rng(0)
    weight, loc, scale = rng.dirichlet(np.ones(4), (2, 3)), rng.normal(size=(2, 3, 4)), np.exp(rng.normal(size=(2, 3, 4)))
    y = rng.normal(size=(2, 3))
    ours = log_likelihood((torch.tensor(np.log(weight)), torch.tensor(loc), torch.tensor(scale)), torch.tensor(y))
    np.testing.assert_allclose(ours.numpy(), Mixture(weight, loc, scale).log_prob(y), atol=1e-12)


def test_pairs_cover_every_cut_and_later_point() -> None:
    cut, target = pairs(np.full(200, 5), 200, np.random.default_rng(0))
    found = {(int(c), int(t)) for c, t in zip(cut.ravel(), target.ravel(), strict=True)}
    assert found == {(c, t) for c in range(1, 5) for t in range(c, 5)}


def test_training_learns_and_repeats_itself() -> None:
    arch = Architecture(clock="steps", **SMALL)
    recipe = Recipe(steps=60, learning_rate=4e-3)
    first, log = train_network(DomhanPrior(), arch, recipe, batch=16, asked=16, seed=3)
    again, _ = train_network(DomhanPrior(), arch, recipe, batch=16, asked=16, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    untrained = Network(arch)
    curves = DomhanPrior().sample(64, 9)
    cut, target = pairs(curves.lengths, 16, np.random.default_rng(0))
    given = inputs(curves.x, curves.y, cut, np.take_along_axis(curves.x, target, 1), np.full(64, np.nan), arch)
    y = torch.tensor(np.take_along_axis(curves.y, target, 1))
    with torch.no_grad():
        assert log_likelihood(first(*given), y).mean() > log_likelihood(untrained(*given), y).mean() + 0.5
    assert log[-1].step == 60


def test_the_command_trains_scores_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    command = ["pfn", "train", "--prior", "domhan", "--steps", "3", "--batch", "4", "--asked", "4", "-q"]
    command += ["--width", "32", "--layers", "1", "-o", str(out)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    model = LCPFN.load(out)
    assert model.card["prior"] == "domhan"
    assert model.card["curves"] == 12
    assert len(model.card["scores"]) == 4
    before = out.read_bytes()
    # the finished checkpoint is found again, so nothing is trained anew
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert out.read_bytes() == before
    assert CliRunner().invoke(cli, [*command[:-1], "net.txt"]).exit_code != 0
