"""When two readings of the same logs say the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from farfield.curves.readers import RunLog
from farfield.curves.readers.record import Series

FIELDS = ("source", "config", "status", "step_name", "group", "folder", "planned", "seed", "goals")


def assert_same(got: Sequence[RunLog], want: Sequence[RunLog], *, to_the_note: bool = False) -> None:
    """Every run with its points and what is known of it alike; `to_the_note`: the notes and the types of settings too."""
    assert [run.name for run in got] == [run.name for run in want]
    for a, b in zip(got, want, strict=True):
        for field in (*FIELDS, "notes") if to_the_note else FIELDS:
            assert getattr(a, field) == getattr(b, field), (a.name, field)
        if to_the_note:
            assert [type(v) for v in a.config.values()] == [type(v) for v in b.config.values()]
        assert list(a.metrics) == list(b.metrics)
        for name, series in a.metrics.items():
            assert_same_series(series, b.metrics[name])


def assert_same_series(a: Series, b: Series) -> None:
    """Points and counts alike, NaN being NaN."""
    np.testing.assert_array_equal(a.step, b.step)
    np.testing.assert_array_equal(a.value, b.value)
    assert (a.time is None) == (b.time is None)
    if a.time is not None and b.time is not None:
        np.testing.assert_array_equal(a.time, b.time)
    assert (a.n_overlap, a.renumbered) == (b.n_overlap, b.renumbered)
