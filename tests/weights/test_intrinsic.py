"""The intrinsic dimension: the toy's ten, the bookkeeping against a loop over resamples, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from farfield.cli import main
from farfield.errors import InputError
from farfield.weights.intrinsic import TOY_TARGET, IntrinsicStatus, intrinsic_dimension, toy_training
from farfield.weights.projections import PROJECTIONS

DIMS = [1, 2, 4, 8]
TABLE = np.array([[0.1, 0.5, 0.8, 0.9], [0.2, 0.4, 0.95, 0.7], [0.1, 0.2, 0.3, 0.96]])


def by_table(d: int | None, seed: int) -> float:
    return 1.0 if d is None else float(TABLE[seed, DIMS.index(d)])


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_the_toy_of_ten_constraints_has_dimension_ten(kind: str) -> None:
    for seed in range(5):
        found = intrinsic_dimension(toy_training(kind), range(1, 14), n_seeds=1, target=TOY_TARGET, seed=seed)
        assert found.dimension == found.low == found.high == 10
        assert found.scores[0, 8] < 0.99
        assert found.scores[0, 9:] == pytest.approx(1, abs=1e-12)


def test_another_number_of_constraints() -> None:
    found = intrinsic_dimension(toy_training(n_params=84, constraints=3), [1, 2, 3, 4], target=TOY_TARGET)
    assert found.dimension == 3


def test_the_smallest_that_reaches_its_interval_and_its_crossing() -> None:
    found = intrinsic_dimension(by_table, DIMS, target=0.6, n_boot=500, level=0.8, seed=0, n_params=50)
    mean = TABLE.mean(0)
    assert found.dimension == 4
    assert found.crossing == pytest.approx(2 * 2 ** ((0.6 - mean[1]) / (mean[2] - mean[1])), rel=1e-12)
    draws = []
    for picked in np.random.default_rng(0).integers(3, size=(500, 3)):
        means = [sum(TABLE[i, j] for i in picked) / 3 for j in range(4)]
        draws.append(next((d for d, v in zip(DIMS, means, strict=True) if v >= 0.6 - 1e-15), math.inf))
    draws.sort()
    assert (found.low, found.high) == (draws[50], draws[449])
    assert found.low < found.high
    assert found.to_frame()["reached"].to_list() == [False, False, True, True]
    assert "50 parameters" in found.summary()


def test_what_lies_outside_of_the_sweep_is_said() -> None:
    none = intrinsic_dimension(by_table, DIMS, target=0.99)
    assert none.status is IntrinsicStatus.NOT_REACHED
    assert (none.dimension, none.crossing, none.high) == (math.inf, math.inf, math.inf)
    assert "above 8" in none.summary()
    assert intrinsic_dimension(by_table, [4, 8], target=0.3).status is IntrinsicStatus.EDGE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dims": []}, "at least one dimension"),
        ({"dims": [2, 2]}, "each once"),
        ({"dims": [0]}, "dims is 0"),
        ({"target": 1.5}, "target is 1.5"),
        ({"n_seeds": 0}, "n_seeds is 0"),
        ({"train": lambda d, seed: math.nan}, "score is nan with all weights"),
        ({"train": lambda d, seed: 1.0 if d is None else math.inf}, "score is inf with d = 1"),
        ({"train": lambda d, seed: -1.0}, "above 0"),
    ],
)
def test_refusals(change: dict[str, object], says: str) -> None:
    arguments = {"train": by_table, "dims": DIMS, **change}
    with pytest.raises(InputError, match=says):
        intrinsic_dimension(**arguments)  # type: ignore[arg-type]


def test_the_command_on_the_toy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["intrinsic-dim", "toy", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["dimension"], shown["low"], shown["high"], shown["status"]) == (10, 10, 10, "found")
    assert main(["intrinsic-dim", "toy", "--projection", "dense"]) == 0
    assert "intrinsic dimension 10 " in capsys.readouterr().out
    assert main(["intrinsic-dim", "toy", "--dims", "4,9"]) == 1
    assert "above 9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["toyy"], "the problem is 'toy' or path.py:factory"),
        (["toy", "--dims", "1,x"], "whole numbers and commas"),
        (["toy", "--dims", "2000"], "there are 1000 parameters"),
        (["toy", "--projection", "fast"], "fastfood"),
    ],
)
def test_the_command_refuses(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["intrinsic-dim", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_the_figure_shows_what_is_to_be_reached(tmp_path: Path) -> None:
    found = intrinsic_dimension(by_table, DIMS, target=0.6, n_boot=200, level=0.8)
    ax = found.plot()
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["a seed", "mean score", "60 % of training all", "80 % over seeds", "d = 4"]
    assert ax.lines[3].get_ydata() == pytest.approx(TABLE.mean(0))
    assert len(intrinsic_dimension(by_table, DIMS, target=0.99).plot().lines) == 3 + 2
    figure = tmp_path / "toy.png"
    assert main(["intrinsic-dim", "toy", "--dims", "9,10", "--seeds", "1", "--plot", str(figure), "-q"]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert main(["intrinsic-dim", "toy", "--dims", "9,10", "--plot", str(tmp_path / "toy.txt")]) == 2
