"""Extrapolation and its sweep: the chosen step, resumed scores, disk use, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield import formats
from farfield.errors import FormatError, InputError
from farfield.weights.extrapolate import Sweep, SweepStatus, extrapolate, sweep
from farfield.weights.io import Checkpoint, CheckpointWriter

BASE = {"w": np.array([0.0, 0.0]), "steps": np.array([1, 2])}
TUNED = {"w": np.array([1.0, 1.0]), "steps": np.array([3, 4])}


def at_best(best: float) -> Any:
    """A score of single weights that is highest at this alpha; per-example noise cancels in pairs."""

    def score(model: Mapping[str, Any] | Path) -> list[float]:
        if isinstance(model, Path):
            with Checkpoint.open(model) as checkpoint:
                w = checkpoint.read_float64("w")
        else:
            w = model["w"]
        return [-((float(w[0]) - 1 - best) ** 2) + noise for noise in (-0.3, 0.1, 0.2, 0.0)]

    return score


def write(path: Path, values: Mapping[str, Any]) -> Path:
    with CheckpointWriter(path, [("model.safetensors", [("w", "BF16", (2,)), ("steps", "I64", (2,))])], sync=False) as writer:
        writer.write("w", 0, formats.round_to(values["w"], "BF16"))
        writer.write("steps", 0, values["steps"].astype("<i8").view("<u8"))
        writer.finish()
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "sft", BASE), write(tmp_path / "dpo", TUNED)


def test_extrapolate_moves_beyond_the_tuned_model(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    out = extrapolate(*pair, tmp_path / "out", alpha=0.5)
    with Checkpoint.open(out) as checkpoint:
        assert checkpoint.read_float64("w").tolist() == [1.5, 1.5]
        assert checkpoint.read("steps").tolist() == [3, 4]
    with Checkpoint.open(extrapolate(*pair, tmp_path / "back", alpha=-1)) as checkpoint:
        assert checkpoint.read_float64("w").tolist() == [0.0, 0.0]


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_a_step_that_is_no_number(tmp_path: Path, pair: tuple[Path, Path], alpha: float) -> None:
    with pytest.raises(InputError, match="alpha"):
        extrapolate(*pair, tmp_path / "out", alpha=alpha)
    assert not (tmp_path / "out").exists()


def test_grid_in_memory_finds_the_best_and_its_gain() -> None:
    result = sweep(BASE, TUNED, at_best(1.0), alphas=[0.5, 1, 2], test=at_best(0.75))
    assert result.alphas.tolist() == [0, 0.5, 1, 2]
    assert result.best_alpha == 1
    assert result.test == pytest.approx((-(0.75**2), -(0.25**2)))
    assert result.gain == pytest.approx(0.5)
    assert result.interval == pytest.approx((0.5, 0.5))  # the pairs differ by the same amount
    assert result.status is SweepStatus.GAIN
    assert "best alpha 1" in result.summary()


def test_statuses() -> None:
    assert sweep(BASE, TUNED, at_best(9.0), alphas=[1]).status is SweepStatus.EDGE
    nothing = sweep(BASE, TUNED, at_best(-0.5), alphas=[1])
    assert (nothing.status, nothing.best_alpha, nothing.gain) == (SweepStatus.NO_GAIN, 0.0, 0.0)

    def noisy(model: Mapping[str, Any]) -> list[float]:
        step = float(model["w"][0]) - 1
        return [5 * step, -4.9 * step, 0.0]

    assert sweep(BASE, TUNED, noisy, alphas=[1]).status is SweepStatus.UNSURE
    worse = sweep(BASE, TUNED, at_best(1.0), alphas=[1, 2], test=at_best(-1.0))
    assert worse.status is SweepStatus.NO_GAIN  # what the dev examples chose does not hold on the test examples


def test_golden_section_closes_in_on_one_maximum() -> None:
    result = sweep(BASE, TUNED, at_best(1.37), alphas=[0, 4], search="golden", evaluations=16)
    assert abs(result.best_alpha - 1.37) < 0.01
    assert 0.0 in result.alphas
    assert result.alphas.size <= 17


def test_on_disk_one_checkpoint_at_a_time(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    seen = []

    def score(model: Path) -> list[float]:
        seen.append([p.name for p in scratch.iterdir()])
        values: list[float] = at_best(1.0)(model)
        return values

    result = sweep(*pair, score, alphas=[1, 2], scratch=scratch)
    assert result.best_alpha == 1
    assert [len(s) for s in seen] == [1, 1, 1]
    assert list(scratch.iterdir()) == []
    with pytest.raises(InputError, match="no directory"):
        sweep(*pair, score, scratch=tmp_path / "none")


def test_an_interrupted_sweep_goes_on(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    state = tmp_path / "state.json"
    calls = []

    def score(model: Path) -> float:
        calls.append(model)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return float(np.mean(at_best(1.0)(model)))

    with pytest.raises(KeyboardInterrupt):
        sweep(*pair, score, alphas=[1, 2, 3], state=state)
    result = sweep(*pair, score, alphas=[1, 2, 3], state=state)
    assert len(calls) == 5  # two kept, one lost, two more
    assert result.best_alpha == 1
    assert result.interval is None
    with pytest.raises(InputError, match="another sweep"):
        sweep(*pair, score, alphas=[1], state=state, identity="other examples")
    write(tmp_path / "new", {"w": np.array([2.0, 2.0]), "steps": np.array([3, 4])})
    with pytest.raises(InputError, match="another sweep"):
        sweep(pair[0], tmp_path / "new", score, alphas=[1], state=state)
    for text in ("{}", "[1]", '{"sweep": "", "scores": {"dev": {"0.0": ["x"]}, "test": {}}}', "not json"):
        state.write_text(text)
        with pytest.raises(FormatError, match="not the state"):
            sweep(*pair, score, alphas=[1], state=state)


@pytest.mark.parametrize("value", [float("nan"), [], [[1.0]], "high", [1.0, float("inf")]])
def test_scores_that_are_none(value: Any) -> None:
    with pytest.raises(InputError, match="score"):
        sweep(BASE, TUNED, lambda model: value, alphas=[1])


def test_scores_of_different_examples() -> None:
    with pytest.raises(InputError, match="same examples"):
        sweep(BASE, TUNED, lambda model: [float(model["w"][0])] * (2 + int(model["w"][0] > 1)), alphas=[1])


@pytest.mark.parametrize(
    ("base", "message"), [({"v": BASE["w"]}, "different names"), ({**BASE, "w": np.zeros(3)}, "shape"), ("path", "both")]
)
def test_mappings_that_do_not_fit(base: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(base, TUNED, at_best(1.0), alphas=[1])


def test_result_as_frame_dict_and_figure() -> None:
    result: Sweep = sweep(BASE, TUNED, at_best(1.0), alphas=[-0.5, 1, 2])
    assert result.to_frame()["part"].to_list() == ["interpolation", "tuned", "beyond", "beyond"]
    assert json.loads(json.dumps(result.to_dict()))["status"] == "gain"
    ax = result.plot()
    assert ax.get_xlabel().startswith("alpha")
    assert {text.get_text() for text in ax.get_legend().get_texts()} >= {"between base and tuned", "tuned model"}
