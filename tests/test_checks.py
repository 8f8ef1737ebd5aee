"""Input checks, random generators and progress: what they accept, and what they say of what they refuse."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield import checks, seeds
from farfield.curves.benchmarks import CapabilityFit
from farfield.curves.frontier import FrontierLaw
from farfield.curves.mixtures import MixtureScaling
from farfield.errors import InputError
from farfield.progress import progress
from farfield.shift.control import ControlFunctionRegressor
from farfield.shift.invariance import InvariantSubset
from farfield.shift.retrievers import BM25, LSA, Embedding, TrainedEncoder


def test_accepted_values_come_back_ready_to_use() -> None:
    assert checks.finite("x", [1, 2]).dtype == np.float64
    assert checks.numbers("x", [True, np.nan], shape=(2,)).tolist()[0] == 1.0
    assert checks.level("level", np.float32(0.5)) == 0.5
    assert checks.positive("scale", 3) == 3.0
    assert checks.count("n", np.int32(3)) == 3
    assert checks.choice("method", "auto", ["auto", "pow3"]) == "auto"


@pytest.mark.parametrize(
    "ask",
    [
        lambda: FrontierLaw().expected([1e3], 3),
        lambda: FrontierLaw().predict([1e3], size=3),
        lambda: FrontierLaw().compute_for(-1.0, 3),
        lambda: MixtureScaling().expected([[0.5, 0.5]], 100),
        lambda: MixtureScaling().select(100),
        lambda: CapabilityFit().expected([1e20]),
        lambda: CapabilityFit(n_boot=0).predict([1e20]),
        lambda: ControlFunctionRegressor().predict_do([[0.0]]),
        lambda: ControlFunctionRegressor().nu([[0.0]]),
        lambda: InvariantSubset().predict([[0.0]]),
        lambda: BM25().scores(["a"]),
        lambda: LSA().scores(["a"]),
        lambda: Embedding(lambda texts: np.ones((len(texts), 2))).scores(["a"]),
        lambda: TrainedEncoder().scores(["a"]),
    ],
)
def test_what_is_not_fitted_says_which_call_it_needs(ask: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=r"this \w+ is not fitted; call fit\(.+\) first"):
        ask()


def test_a_checked_array_is_a_copy() -> None:
    given_array = np.zeros(3)
    checks.finite("x", given_array)[0] = 1.0
    assert given_array[0] == 0.0


REFUSED: list[tuple[Any, tuple[Any, ...], dict[str, Any], str]] = [
    (checks.finite, ("x", [1, np.nan, np.inf]), {}, r"x holds 2 values that are not finite \(of 3\); the first is nan at index 1"),
    (checks.finite, ("x", [[1, 2], [3, -np.inf]]), {}, r"the first is -inf at index \(1, 1\)"),
    (checks.finite, ("x", np.nan), {}, "x is nan; allowed: a finite number"),
    (checks.numbers, ("x", ["a"]), {}, r"x is \['a'\]; allowed: real numbers"),
    (checks.numbers, ("x", [[1], [2, 3]]), {}, "allowed: real numbers"),
    (checks.numbers, ("x", [1j]), {}, "allowed: real numbers"),
    (checks.numbers, ("x", [[1]]), {"ndim": 1}, r"x has shape \(1, 1\); allowed: 1 axis"),
    (checks.numbers, ("x", [1, 2]), {"shape": (None, 3)}, r"x has shape \(2,\); allowed: \(any, 3\)"),
    (checks.level, ("level", 80), {}, r"level is 80; allowed: above 0 and below 1 \(did you mean 0.8\?\)"),
    (checks.level, ("level", 1.0), {}, "level is 1; allowed: above 0 and below 1$"),
    (checks.level, ("level", float("nan")), {}, "level is nan; allowed"),
    (checks.level, ("level", "0.8"), {}, "level is '0.8'; allowed: a number between 0 and 1"),
    (checks.level, ("level", None), {}, "level is None"),
    (checks.positive, ("scale", 0), {}, "scale is 0; allowed: a finite number above 0"),
    (checks.positive, ("scale", np.inf), {}, "scale is inf; allowed: a finite number above 0"),
    (checks.count, ("n", 0), {}, "n is 0; allowed: an integer from 1 up"),
    (checks.count, ("n", 2.0), {}, "n is 2.0; allowed: an integer from 1 up"),
    (checks.count, ("n", True), {"least": 0}, "n is True; allowed: an integer from 0 up"),
    (checks.choice, ("method", "pwo3", ["pow3", "exp3", "auto", "last"]), {}, r"unknown method 'pwo3'; nearest: pow3"),
    (seeds.generator, (-1,), {}, "rng is -1; allowed: None, an integer from 0 up"),
    (seeds.generator, ("seed",), {}, "rng is 'seed'; allowed: None"),
    (seeds.root, (True,), {}, "rng is True; allowed: None"),
]


@pytest.mark.parametrize(("check", "args", "options", "says"), REFUSED)
def test_refusals_say_what_was_got_and_what_is_allowed(check: Any, args: Any, options: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check(*args, **options)


# -- seeds --------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers_and_a_generator_goes_on() -> None:
    assert seeds.generator(3).normal() == seeds.generator(np.int64(3)).normal()
    rng = np.random.default_rng(3)
    assert seeds.generator(rng) is rng
    assert seeds.generator(None).normal() != seeds.generator(None).normal()


@given(st.integers(0, 2**64), st.permutations(range(6)))
def test_an_item_has_its_own_numbers_whatever_the_order_of_work(seed: int, order: list[int]) -> None:
    in_order = [seeds.child(seeds.root(seed), i).integers(2**62) for i in range(6)]
    parent = seeds.root(seed)
    shuffled = {i: seeds.child(parent, i).integers(2**62) for i in order}
    assert [shuffled[i] for i in range(6)] == in_order
    assert len(set(in_order)) == 6


def test_children_equal_those_numpy_spawns() -> None:
    spawned = np.random.SeedSequence(5).spawn(3)
    for i, sequence in enumerate(spawned):
        assert seeds.child(seeds.root(5), i).normal() == np.random.default_rng(sequence).normal()


def test_a_generator_gives_a_new_root_each_time_and_the_same_ones_from_the_same_state() -> None:
    first, second = np.random.default_rng(1), np.random.default_rng(1)
    roots = [seeds.child(seeds.root(first), 0).normal() for _ in range(2)]
    assert roots == [seeds.child(seeds.root(second), 0).normal() for _ in range(2)]
    assert roots[0] != roots[1]


# -- progress -----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with progress("fitting", total=4) as advance:
        advance(4)
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("fitting", total=4, quiet=True) as advance:
        advance(4)
    assert terminal.getvalue() == ""
    with progress("fitting", total=4) as advance:
        advance(4)
    assert "fitting" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_progress_needs_no_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with progress("fitting") as advance:
        advance(1)
