"""The trainer: a resumed run ends with the very weights of one that was never interrupted, and refuses what is not its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from farfield.errors import FormatError, InputError
from farfield.nn.trainer import Logged, Recipe, train

pytestmark = pytest.mark.extra("torch")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))


def loss(model: nn.Module, rng: np.random.Generator) -> torch.Tensor:
    x = torch.tensor(rng.standard_normal((16, 3)), dtype=torch.float32)
    return (model(x)[:, 0] - x.sum(1)).square().mean()


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    recipe = Recipe(steps=60, learning_rate=1e-2, weight_decay=0.1)
    whole = network()
    log = train(whole, loss, recipe, seed=4, log_every=10)

    def kill(line: Logged) -> None:
        if line.step == 30:
            raise Killed

    path = tmp_path / "run.pt"
    with pytest.raises(Killed):
        train(network(), loss, recipe, seed=4, log_every=10, checkpoint=path, save_every=0.0, on_log=kill)
    resumed = network()
    again = train(resumed, loss, recipe, seed=4, log_every=10, checkpoint=path, save_every=0.0)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert [(line.step, line.loss) for line in again] == [(line.step, line.loss) for line in log]
    assert log[-1].loss < 0.2 * log[0].loss
    # a finished run is not trained again
    assert [line.step for line in train(network(), loss, recipe, seed=4, log_every=10, checkpoint=path)] == [
        line.step for line in log
    ]


def test_the_global_generator_is_left_as_it_was() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    model = nn.Linear(3, 1)
    torch.random.set_rng_state(before)
    train(model, loss, Recipe(steps=2))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_accumulation_is_the_mean_gradient() -> None:
    """Two half batches to an update give the update of the mean of their losses."""
    drawn: list[np.ndarray] = []

    def recording(model: nn.Module, rng: np.random.Generator) -> torch.Tensor:
        drawn.append(rng.standard_normal((4, 3)))
        return model(torch.tensor(drawn[-1], dtype=torch.float32)).square().mean()

    torch.manual_seed(0)
    split, joint = nn.Linear(3, 1), nn.Linear(3, 1)
    joint.load_state_dict(split.state_dict())
    recipe = Recipe(steps=1, warmup=0.0)
    train(split, recording, Recipe(steps=1, warmup=0.0, accumulate=2))
    both = torch.tensor(np.concatenate(drawn), dtype=torch.float32)
    train(joint, lambda model, rng: model(both).square().mean(), recipe)
    for a, b in zip(split.parameters(), joint.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_the_learning_rate_rises_then_falls_to_its_end() -> None:
    recipe = Recipe(steps=1000, learning_rate=2.0, warmup=0.1, final=0.25)
    rates = [recipe.rate(k) for k in range(1000)]
    assert rates[0] == pytest.approx(2.0 / 101)
    assert max(rates) == pytest.approx(2.0)
    assert rates.index(max(rates)) == 100
    assert rates[-1] == pytest.approx(0.5, abs=1e-4)
    assert rates[550] == pytest.approx(0.5 * (2.0 + 0.5))


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    train(network(), loss, Recipe(steps=3), checkpoint=path)
    with pytest.raises(FormatError, match="seed differ"):
        train(network(), loss, Recipe(steps=3), checkpoint=path, seed=1)
    with pytest.raises(FormatError, match="recipe differ"):
        train(network(), loss, Recipe(steps=4), checkpoint=path)
    with pytest.raises(FormatError, match="shapes differ"):
        train(nn.Linear(3, 1), loss, Recipe(steps=3), checkpoint=path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(FormatError, match="not a checkpoint"):
        train(network(), loss, Recipe(steps=3), checkpoint=path)


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(InputError, match="step 1 of 5"):
        train(nn.Linear(3, 1), lambda model, rng: loss(model, rng) * float("nan"), Recipe(steps=5))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"warmup": 1.5}, {"learning_rate": -1.0}, {"accumulate": 0}])
def test_recipes_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Recipe(**{"steps": 10, **wrong})  # type: ignore[arg-type]
