"""Order statistics in passes against a sort, by compiled loops and by NumPy: any values, ties, more of them than are gathered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farfield.errors import InputError
from farfield.weights import compiled, order


@pytest.fixture(autouse=True, params=[pytest.param("compiled", marks=pytest.mark.compiled), "NumPy"], scope="module")
def loops(request: pytest.FixtureRequest) -> object:
    """Every test runs with the compiled loops and without them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "NumPy":
            patch.setattr(compiled, "library", lambda: None)
        yield


def blocks_of(array: np.ndarray, width: int) -> order.Blocks:
    return lambda: iter([array[i : i + width] for i in range(0, array.size, width)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=60), st.data(), st.sampled_from([1, 8, 1 << 19]))
def test_against_a_sort(values: list[float], data: st.DataObject, few: int) -> None:
    array = np.array(values)
    ranks = data.draw(st.lists(st.integers(1, len(values)), min_size=1, max_size=3))
    want = np.sort(np.abs(array))[::-1][np.array(ranks) - 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_FEW", few)
        assert order.largest(blocks_of(array, 7), ranks) == want.tolist()


def test_many_equal_magnitudes_are_counted_to_the_last_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_FEW", 100)
    rng = np.random.default_rng(0)
    array = rng.choice([0.1, -0.1, np.nextafter(0.1, 1), 0.2, 3e-300, 0.0], 5000)
    array[17] = np.inf
    ranks = [1, 2, 800, 2500, 5000]
    want = np.sort(np.abs(array))[::-1][np.array(ranks) - 1]
    assert order.largest(blocks_of(array, 999), ranks) == want.tolist()


def test_nan_comes_before_numbers_and_ranks_start_at_one() -> None:
    array = np.array([1.0, np.nan, -np.inf, 2.0])
    found = order.largest(blocks_of(array, 3), [1, 2, 3])
    assert np.isnan(found[0])
    assert found[1:] == [np.inf, 2.0]
    with pytest.raises(InputError, match="k"):
        order.largest(blocks_of(array, 3), [0])
