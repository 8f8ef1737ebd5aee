"""Curves: whatever order points come in, a plain dictionary per run says what the columnar arrays must hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield import Curves, InputError, Metric
from farfield.curves.data import ATTRIBUTE_SCHEMA, attribute_frame

POINTS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from([-1.0, 0.0, 1.0, 2.5, 7.0, math.nan, math.inf]),
        st.sampled_from([0.0, 1.5, -3.0, math.nan, -math.inf]),
    ),
    max_size=30,
)


def curves_of(points: list[tuple[str, float, float]], **options: Any) -> Curves:
    run, x, y = zip(*points, strict=True) if points else ((), (), ())
    return Curves.from_points(run, x, y, **options)


def small() -> Curves:
    """Run a at x 1, 2, 4; run b without points; run c at x 3."""
    return Curves.from_points(
        ["a", "a", "c", "a"],
        [1, 2, 3, 4],
        [0.9, 0.5, 0.7, 0.2],
        covariates={"lr": [1.0, 0.5, 0.25, 0.1]},
        attributes=[{"run": "a", "seed": 0, "config.width": 8}, {"run": "b", "status": "killed"}, {"run": "c"}],
        metric=Metric("loss", "min", lower=0.0),
        x_name="epoch",
    )


@given(POINTS)
def test_from_points_keeps_the_last_finite_value_at_each_x_and_counts_the_rest(points: list[tuple[str, float, float]]) -> None:
    expected: dict[str, dict[float, float]] = {}
    dropped: dict[str, list[int]] = {}
    for run, x, y in points:
        seen = expected.setdefault(run, {})
        count = dropped.setdefault(run, [0, 0])
        if not (math.isfinite(x) and math.isfinite(y)):
            count[0] += 1
        else:
            count[1] += x in seen
            seen[x] = y
    curves = curves_of(points)
    assert curves.runs == tuple(expected)
    for i, run in enumerate(curves.runs):
        at = curves.points(i)
        assert dict(zip(curves.x[at].tolist(), curves.y[at].tolist(), strict=True)) == expected[run]
        assert curves.x[at].tolist() == sorted(expected[run])
        assert [curves.column("n_nonfinite")[i], curves.column("n_duplicate")[i]] == dropped[run]


@given(POINTS, st.floats(-2, 8))
def test_a_cut_shows_what_a_filter_of_the_long_frame_shows(points: list[tuple[str, float, float]], cut: float) -> None:
    curves = curves_of(points)
    seen = curves.upto(cut)
    assert seen.runs == curves.runs
    assert seen.to_frame().equals(curves.to_frame().filter(pl.col("step") <= cut))
    assert seen.attributes.equals(curves.attributes)


@given(POINTS, st.data())
def test_taking_runs_keeps_each_as_it_was(points: list[tuple[str, float, float]], data: st.DataObject) -> None:
    curves = curves_of(points)
    order = data.draw(st.permutations(range(len(curves)))) if len(curves) else []
    taken = curves.take(order)
    assert taken.runs == tuple(curves.runs[i] for i in order)
    for new, old in enumerate(order):
        assert np.array_equal(taken.y[taken.points(new)], curves.y[curves.points(old)])
        assert taken.attributes.row(new) == curves.attributes.row(old)
    assert curves.take(np.ones(len(curves), dtype=bool)).runs == curves.runs


@given(POINTS)
def test_padding_loses_nothing(points: list[tuple[str, float, float]]) -> None:
    curves = curves_of(points)
    x, y, seen = curves.padded()
    assert x.shape == y.shape == seen.shape == (len(curves), max(curves.lengths, default=0))
    assert np.array_equal(x[seen], curves.x)
    assert np.array_equal(y[seen], curves.y)
    assert np.isnan(x[~seen]).all()
    assert np.isnan(y[~seen]).all()
    assert np.array_equal(seen.sum(axis=1), curves.lengths)


def test_views_of_a_small_example() -> None:
    curves = small()
    assert repr(curves) == "Curves(3 runs, 4 points of 'loss' by epoch, goal min)"
    assert len(curves) == 3
    assert curves.lengths.tolist() == [3, 0, 1]
    assert curves.run_index.tolist() == [0, 0, 0, 2]
    np.testing.assert_array_equal(curves.last_x, [4, np.nan, 3])
    np.testing.assert_array_equal(curves.last_y, [0.2, np.nan, 0.7])
    assert curves.covariates["lr"].tolist() == [1.0, 0.5, 0.1, 0.25]
    assert curves.column("status").to_list() == ["unknown", "killed", "unknown"]
    assert curves.column("config.width").to_list() == [8.0, None, None]
    assert curves.to_frame().columns == ["run", "epoch", "loss", "lr"]
    assert curves.to_frame().rows()[-1] == ("c", 3.0, 0.7, 0.25)


def test_a_cut_of_its_own_for_every_run() -> None:
    assert small().upto([2, 0, 3]).lengths.tolist() == [2, 0, 1]
    assert small().upto([2, 0, 2.9]).covariates["lr"].tolist() == [1.0, 0.5]


def test_no_runs_at_all() -> None:
    empty = Curves.from_points([], [], [])
    assert len(empty) == 0
    assert empty.last_y.shape == (0,)
    assert empty.padded()[0].shape == (0, 0)
    assert empty.to_frame().shape == (0, 3)
    assert empty.attributes.columns == list(ATTRIBUTE_SCHEMA)
    assert len(empty.take([])) == 0


def test_attributes_take_the_widest_type_of_their_values() -> None:
    frame = attribute_frame(
        [{"run": "a", "config.n": 1, "config.on": True, "config.mix": 1}, {"run": "b", "config.n": 0.5, "config.mix": "two"}]
    )
    types = {name: frame.schema[name] for name in ("run", "seed", "config.n", "config.on", "config.mix")}
    assert types == {
        "run": pl.String,
        "seed": pl.Int64,
        "config.n": pl.Float64,
        "config.on": pl.Boolean,
        "config.mix": pl.String,
    }
    assert frame["config.mix"].to_list() == ["1", "two"]


ONE = {"runs": ("a",), "offsets": [0, 2], "x": [1.0, 2.0], "y": [0.5, 0.4]}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"y": [0.5]}, r"x has shape \(2,\) and y \(1,\)"),
        ({"x": [[1.0, 2.0]], "y": [[1.0, 2.0]]}, r"both must be \(n_points,\)"),
        ({"offsets": [0, 1]}, "offsets must rise from 0 to 2 in 2 entries"),
        ({"offsets": [0, 1, 2]}, "offsets must rise from 0 to 2 in 2 entries"),
        ({"runs": ("a", "a"), "offsets": [0, 1, 2]}, "run name 'a' occurs more than once"),
        ({"x": [2.0, 1.0]}, "x of run 'a' does not increase at 1; Curves.from_points sorts"),
        ({"x": [1.0, 1.0]}, "does not increase"),
        ({"y": [0.5, np.nan]}, "must be finite; Curves.from_points drops and counts"),
        ({"x": [1.0, np.inf]}, "must be finite"),
        ({"covariates": {"lr": [1.0]}}, r"covariate 'lr' has shape \(1,\); allowed: \(2,\)"),
        ({"attributes": attribute_frame([])}, "attributes has 0 rows for 1 runs"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Curves(**{**ONE, **changed})


def test_x_may_fall_where_one_run_ends_and_the_next_begins() -> None:
    curves = Curves(runs=("a", "empty", "b"), offsets=[0, 2, 2, 4], x=[5, 6, 1, 2], y=[0, 0, 0, 0])  # type: ignore[arg-type]
    assert curves.last_x.tolist()[::2] == [6.0, 2.0]
    with pytest.raises(InputError, match="x of run 'b' does not increase at 1"):
        Curves(runs=("a", "empty", "b"), offsets=[0, 2, 2, 4], x=[5, 6, 2, 1], y=[0, 0, 0, 0])  # type: ignore[arg-type]


# -- joining --------------------------------------------------------------------------------------------------------------------


@given(POINTS, POINTS)
def test_joined_runs_keep_their_points_and_attributes(
    one: list[tuple[str, float, float]], two: list[tuple[str, float, float]]
) -> None:
    a, b = curves_of(one), curves_of(two)
    both = a.concat(b)
    assert len(both) == len(a) + len(b) == len(set(both.runs))
    assert both.runs[: len(a)] == a.runs
    for i in range(len(both)):
        of, k = (a, i) if i < len(a) else (b, i - len(a))
        assert both.x[both.points(i)].tolist() == of.x[of.points(k)].tolist()
        assert both.y[both.points(i)].tolist() == of.y[of.points(k)].tolist()
        assert both.runs[i].startswith(of.runs[k])
        assert both.attributes.row(i)[1:] == of.attributes.row(k)[1:]
    assert both.column("run").to_list() == list(both.runs)
    assert both.metric == a.metric


def test_what_one_side_lacks_is_missing_there() -> None:
    other = Curves.from_points(
        ["d", "a", "d"],
        [1, 1, 2],
        [1.0, 2.0, 3.0],
        covariates={"tokens": [10.0, 20.0, 30.0]},
        attributes=[{"run": "d", "config.depth": 2, "config.width": "wide"}],
        metric=Metric("val_loss", "min"),
    )
    both = small().concat(other)
    assert both.runs == ("a", "b", "c", "d", "a (2)")
    assert both.lengths.tolist() == [3, 0, 1, 2, 1]
    nan = math.nan
    np.testing.assert_array_equal(both.covariates["lr"], [1.0, 0.5, 0.1, 0.25, nan, nan, nan])
    np.testing.assert_array_equal(both.covariates["tokens"], [nan, nan, nan, nan, 10.0, 30.0, 20.0])
    assert both.column("config.depth").to_list() == [None, None, None, 2.0, None]
    assert both.column("config.width").to_list() == ["8.0", None, None, "wide", None]  # the type that holds both
    assert both.column("status").to_list() == ["unknown", "killed", "unknown", "unknown", "unknown"]
    assert (both.metric, both.x_name) == (small().metric, "epoch")


def test_numbers_are_given_to_names_until_one_is_free() -> None:
    taken = curves_of([("a", 1, 1), ("a (2)", 1, 1), ("b", 1, 1)])
    assert taken.concat(taken).runs == ("a", "a (2)", "b", "a (3)", "a (2) (2)", "b (2)")
    assert taken.concat(taken).concat(taken).runs[6:] == ("a (4)", "a (2) (3)", "b (3)")


def test_joining_nothing_changes_nothing() -> None:
    empty = Curves.from_points([], [], [])
    for both in (small().concat(empty), empty.concat(small())):
        assert both.runs == small().runs
        assert np.array_equal(both.y, small().y)
        assert both.attributes.select(small().attributes.columns).equals(small().attributes)
    assert len(empty.concat(empty)) == 0


def test_joining_leaves_both_sides_as_they_are() -> None:
    a, b = small(), small()
    a.concat(b).y[:] = -1.0
    assert np.array_equal(a.y, small().y)
    assert np.array_equal(b.y, small().y)
    assert b.runs == tuple(b.column("run")) == ("a", "b", "c")


def test_runs_with_other_goals_are_not_joined() -> None:
    with pytest.raises(InputError, match="the goals differ: min and max; runs of one metric can be joined"):
        small().concat(curves_of([("a", 1, 1)], metric=Metric("accuracy", "max")))


def test_points_of_unequal_length_are_refused() -> None:
    with pytest.raises(InputError, match=r"shapes \(1,\), \(2,\), \(2,\); all must be \(n_points,\)"):
        Curves.from_points(["a"], [1, 2], [1, 2])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"goal": "low"}, "goal of metric 'y' is 'low'; allowed: 'min', 'max'"),
        ({"lower": 1.0, "upper": 1.0}, r"bounds of metric 'y' are \[1.0, 1.0\]; lower must be below upper"),
        ({"lower": math.nan}, "lower must be below upper"),
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Metric(**options)
