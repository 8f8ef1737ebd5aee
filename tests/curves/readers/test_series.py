"""How points become a series: restarts, unsorted tables, runs without steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.curves.readers.record import as_number, config_of, flatten, scalar_of_text, settle


def settle_slowly(step: list[float]) -> tuple[list[int], int]:
    """Indices that survive, one point at a time: a step that falls back throws out what stands at or beyond it."""
    kept: list[int] = []
    dropped = 0
    for i, s in enumerate(step):
        if i and s < step[i - 1]:
            dropped += sum(step[k] >= s for k in kept)
            kept = [k for k in kept if step[k] < s]
        kept.append(i)
    return kept, dropped


@given(st.lists(st.lists(st.integers(0, 30), min_size=12, max_size=20).map(sorted), min_size=1, max_size=3))
def test_restarts_match_the_slow_definition(segments: list[list[int]]) -> None:
    step = [float(s) for segment in segments for s in segment]
    series = settle(step, np.arange(len(step)))
    if len(set(step)) > 1:
        kept, dropped = settle_slowly(step)
        assert series.value.tolist() == kept
        assert series.n_overlap == dropped


def test_a_later_segment_wins_even_where_it_ends_before() -> None:
    series = settle([0, 1, 2, 3, 4, 5, 6, 7, 3, 4], np.arange(10))
    assert series.step.tolist() == [0, 1, 2, 3, 4]
    assert series.value.tolist() == [0, 1, 2, 8, 9]
    assert series.n_overlap == 5


def test_an_unsorted_table_is_sorted_not_restarted() -> None:
    series = settle([5, 3, 1, 4, 2, 0], [5.0, 3, 1, 4, 2, 0])
    assert series.step.tolist() == series.value.tolist() == [0, 1, 2, 3, 4, 5]
    assert series.n_overlap == 0


def test_points_that_were_all_logged_at_one_step_are_numbered() -> None:
    series = settle([0, 0, 0, 0], [4.0, 3, 2, 1])
    assert series.renumbered
    assert series.step.tolist() == [0, 1, 2, 3]


def test_steps_that_are_not_numbers_stay_to_be_counted() -> None:
    series = settle([0, np.nan, 2], [1.0, 2.0, 3.0])
    assert np.isnan(series.step).sum() == 1


@pytest.mark.parametrize(
    ("logged", "number"),
    [(1, 1.0), (2.5, 2.5), ("inf", np.inf), ("-Infinity", -np.inf), (True, None), (None, None), ("1.5", None), (10**400, np.inf)],
)
def test_what_counts_as_a_number(logged: object, number: float | None) -> None:
    assert as_number(logged) == number


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.1", 0.1), ("3", 3), ("1e-4", 1e-4), ("True", True), ("None", None), ("adam", "adam"), ("'7'", "7"), ("1_000", "1_000")],
)
def test_hyperparameters_kept_as_text(text: str, value: object) -> None:
    assert scalar_of_text(text) == value


def test_nested_configuration_is_flat() -> None:
    tree = {"a": {"b": {"c": 1}, "d": "x"}, "e": [1, 2], "f": {}, "g": list(range(100)), "h": 10**30}
    assert config_of(tree) == {"a.b.c": 1, "a.d": "x", "e": "[1, 2]", "h": float("inf")}


def test_depth_is_no_risk() -> None:
    tree: dict[str, object] = {"x": 1}
    for _ in range(5000):
        tree = {"a": tree}
    assert len(flatten(tree)) == 1
