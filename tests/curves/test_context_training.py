"""The context network in torch and in NumPy are one function; training it repeats itself, learns and is a command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from farfield.cli import cli
from farfield.curves.pfn import LCPFN
from farfield.curves.pfn.context import ContextPFN
from farfield.curves.pfn.context_architecture import ContextArchitecture
from farfield.curves.pfn.context_engine import ContextEngine
from farfield.curves.pfn.context_network import ContextNetwork
from farfield.curves.pfn.context_training import drawn_questions, tensors, train_context
from farfield.curves.priors import SweepPrior
from farfield.nn.trainer import Recipe

pytestmark = pytest.mark.extra("torch")

FIRST = LCPFN.load("wide").engine


def test_numpy_and_torch_agree() -> None:
    arch = ContextArchitecture.on(FIRST.arch)
    torch.manual_seed(0)
    network = ContextNetwork(arch)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    rng = np.random.default_rng(0)
    asked, _, _ = drawn_questions(FIRST, SweepPrior().sample(6, 7, 20, rng), 5, rng)
    weights = {k: v.numpy() for k, v in network.state_dict().items()}
    with torch.no_grad():
        log_weight, loc, scale = (t.numpy() for t in network(*tensors(asked)))
    ours = ContextEngine.of(arch, weights)(asked)
    for a, b in zip(ours, (np.exp(log_weight), loc, scale), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_untrained_network_changes_little_and_sees_only_what_is_shown() -> None:
    network = ContextNetwork(ContextArchitecture.on(FIRST.arch))
    rng = np.random.default_rng(1)
    asked, _, _ = drawn_questions(FIRST, SweepPrior().sample(3, 6, 15, rng), 4, rng)
    given = list(tensors(asked))
    with torch.no_grad():
        _, loc, scale = network(*given)
        assert loc.abs().max() < 0.5
        assert (scale - 1).abs().max() < 0.5
        # guesses of tokens that are not shown may be anything
        given[4] = torch.where(given[3][..., None], given[4], torch.full_like(given[4], 3.0))
        torch.testing.assert_close(network(*given)[1], loc)


def test_questions_know_nothing_of_their_answers() -> None:
    sweeps = SweepPrior().sample(4, 5, 20, 3)
    asked, truth, counted = drawn_questions(FIRST, sweeps, 6, np.random.default_rng(2))
    assert truth.shape == counted.shape == (24, 5)
    # no run is shown its own later values, and of runs that do not count nothing is learnt
    assert not asked.shown[:, np.arange(5), np.arange(5)].any()
    assert 0.5 < counted.mean() < 1


def test_training_learns_and_repeats_itself() -> None:
    arch = ContextArchitecture.on(FIRST.arch, width=24, hidden=24, pair_hidden=8, pointers=2, pointer_width=8, components=3)
    twice = [train_context(FIRST, arch, Recipe(steps=3), curves=12, questions=3, seed=3)[0].state_dict() for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(t.values() for t in twice), strict=True))
    network, log = train_context(FIRST, arch, Recipe(steps=40, learning_rate=5e-3), curves=24, questions=6, seed=3)
    assert log[-1].step == 40
    gains = [gain(net) for net in (ContextNetwork(arch), network)]
    assert gains[1] > gains[0] + 0.02


def gain(network: ContextNetwork) -> float:
    """Mean log density over that of the first network, all other runs finished."""
    from farfield.curves.rescored import normal_scores

    rng = np.random.default_rng(9)
    asked, truth, counted = drawn_questions(FIRST, SweepPrior().sample(12, 8, 20, rng), 6, rng)
    score = normal_scores(truth, asked.weight, asked.loc, asked.scale).clip(-8, 8)
    with torch.no_grad():
        log_weight, loc, scale = (t.double().numpy() for t in network(*tensors(asked)))
    density = np.exp(log_weight - 0.5 * ((score[..., None] - loc) / scale) ** 2 - np.log(scale)).sum(-1)
    return float((np.log(density) + 0.5 * score**2)[counted].mean())


def test_the_command_trains_and_scores(tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    command = ["pfn", "train", "--prior", "sweeps", "--steps", "2", "--batch", "8", "--asked", "2", "-q", "--width", "16"]
    command += ["--layers", "1", "--scored-on", "3", "-o", str(out)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    model = ContextPFN.load(out)
    assert model.card["prior"] == "sweeps"
    assert model.card["base"] == "wide"
    assert [s["situation"] for s in model.card["scores"]] == ["finished", "as far", "alone", "strangers"]
    before = out.read_bytes()
    # the finished checkpoint is found again, so nothing is trained anew
    assert CliRunner().invoke(cli, command).exit_code == 0
    assert out.read_bytes() == before
    scored = CliRunner().invoke(cli, ["pfn", "score", str(out), "--curves", "4", "--json"])
    assert scored.exit_code == 0, scored.output
    assert len(json.loads(scored.output)) == 4
