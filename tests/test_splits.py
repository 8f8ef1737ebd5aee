"""Splitters: which rows are seen and which lie beyond, by hand; laws of all of them; scikit-learn's contract; the grammar."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield.errors import InputError
from farfield.splits import (
    ClusterSplit,
    ConditionSplit,
    DistanceSplit,
    EnvironmentSplit,
    HorizonSplit,
    HullSplit,
    InterventionSplit,
    LeaveRegionOut,
    LengthSplit,
    NeighborResample,
    RangeSplit,
    RegionSplitter,
    TargetRangeSplit,
)
from farfield.splits.condition import holds, parse, resolve
from farfield.splits.hull import hull_distance

RNG = np.random.default_rng(0)
N = 150
X = np.column_stack([RNG.normal(size=(N, 2)), RNG.permutation(np.arange(1.0, N + 1))])
Y = X @ np.array([1.0, -1.0, 0.1]) + RNG.normal(size=N)
GROUPS = np.arange(N) % 5

# every splitter; a new one is one line. The second entry: what it needs besides X and y
SPLITTERS: dict[str, tuple[Callable[[], RegionSplitter], dict[str, Any]]] = {
    "range": (lambda: RangeSplit(2, random_state=3), {}),
    "target": (lambda: TargetRangeSplit(random_state=3), {}),
    "cluster": (lambda: ClusterSplit(3, metric="euclidean", n_repeats=2, random_state=3), {}),
    "neighbours": (lambda: NeighborResample(2, metric="euclidean", n_repeats=2, random_state=3), {}),
    "environment": (lambda: EnvironmentSplit(n_repeats=2, random_state=3), {"groups": GROUPS}),
    "intervention": (lambda: InterventionSplit(random_state=3), {"actions": X[:, :2]}),
    "length": (lambda: LengthSplit(2, train_max=40, n_repeats=2, random_state=3), {}),
    "horizon": (lambda: HorizonSplit(2, cutoff=100, horizons=(10, 30), n_repeats=2, random_state=3), {}),
    "distance": (lambda: DistanceSplit(random_state=3), {}),
    "knn": (lambda: DistanceSplit(metric="knn", random_state=3), {}),
    "hull": (lambda: HullSplit(n_repeats=3, random_state=3), {}),
}
every = pytest.mark.parametrize("name", SPLITTERS)


@every
def test_the_regions_are_disjoint_and_the_reference_sees_no_row_it_scores(name: str) -> None:
    make, needs = SPLITTERS[name]
    splitter = make()
    regions = list(splitter.regions(X, Y, **needs))
    masks = splitter.seen_mask(X, Y, **needs)
    assert masks.shape[1] == N
    for r in regions:
        assert r.train.dtype == r.inside.dtype == r.beyond.dtype == np.int64
        union = np.concatenate([r.train, r.inside, r.beyond])
        assert np.unique(union).size == union.size
        assert r.distance.shape == r.beyond.shape
        assert np.all(r.distance > -1e-12)
        assert np.allclose(r.reach, 1 + r.distance)
        scored = np.concatenate([score for _, score in r.reference])
        assert sorted(scored) == sorted(r.beyond)
        for fit, score in r.reference:
            assert np.unique(fit).size == fit.size <= r.train.size
            assert not np.isin(fit, score).any()
            assert not np.isin(fit, r.inside).any()
        assert any(set(np.flatnonzero(mask)) >= set(r.train) for mask in masks)
    assert np.unique([r.beyond.size for r in regions]).size >= 1
    pairs = list(splitter.split(X, Y, **needs))
    assert splitter.get_n_splits(X, Y, **needs) == len(pairs)


@every
def test_the_order_of_the_rows_changes_nothing(name: str) -> None:
    make, needs = SPLITTERS[name]
    shuffle = np.random.default_rng(7).permutation(N)
    moved = {k: v[shuffle] for k, v in needs.items()}
    before, after = list(make().regions(X, Y, **needs)), list(make().regions(X[shuffle], Y[shuffle], **moved))
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        for one, other in ((a.train, b.train), (a.inside, b.inside), (a.beyond, b.beyond)):
            assert np.array_equal(X[one], X[shuffle][other])
        for (fit, score), (fit2, score2) in zip(a.reference, b.reference, strict=True):
            assert np.array_equal(X[fit], X[shuffle][fit2])
            assert np.array_equal(X[score], X[shuffle][score2])
        np.testing.assert_allclose(a.distance, b.distance, rtol=1e-9, atol=1e-12)


@every
def test_a_seed_fixes_the_split_and_none_does_not(name: str) -> None:
    make, needs = SPLITTERS[name]
    one, two = ([r.train.tolist() for r in make().regions(X, Y, **needs)] for _ in range(2))
    assert one == two
    free = [r.inside.tolist() + r.train.tolist() for r in make().set_params(random_state=None).regions(X, Y, **needs)]
    assert free != [r.inside.tolist() + r.train.tolist() for r in make().set_params(random_state=None).regions(X, Y, **needs)]


@every
def test_max_train_caps_the_training_rows_and_those_of_the_reference(name: str) -> None:
    make, needs = SPLITTERS[name]
    for region in make().set_params(max_train=20).regions(X, Y, **needs):
        assert region.train.size == 20
        assert all(fit.size <= 20 for fit, _ in region.reference)


def test_range_by_hand() -> None:
    x = np.arange(10.0)[:, None]
    [r] = RangeSplit(0, threshold=6.0, n_repeats=1, random_state=0).regions(x)
    assert sorted(r.beyond) == [7, 8, 9]
    np.testing.assert_allclose(r.distance[np.argsort(r.beyond)], [1 / 6, 2 / 6, 3 / 6])
    assert r.tag == "column 0>6"
    [r] = RangeSplit(0, threshold=6.0, gap=2.0, n_repeats=1).regions(x)
    assert sorted([*r.train, *r.inside]) == [0, 1, 2, 3, 4]
    [r] = RangeSplit(0, threshold=(3.0, 6.0), side="inner", n_repeats=1).regions(x)
    assert sorted(r.beyond) == [4, 5]
    [r] = RangeSplit(0, threshold=(2.0, 7.0), side="both", n_repeats=1).regions(x)
    assert sorted(r.beyond) == [0, 1, 8, 9]
    [r] = TargetRangeSplit(side="lower", n_repeats=1).regions(x, np.arange(10.0))
    assert sorted(r.beyond) == [0, 1]


def test_lengths_and_horizons_by_hand() -> None:
    words = ["a" * n for n in (1, 2, 3, 4, 5, 6, 9, 16, 17)]
    regions = list(LengthSplit(train_max=4, n_repeats=1, random_state=0).regions(words))
    assert [sorted(r.beyond) for r in regions] == [[4, 5], [6, 7], [8]]
    assert regions[1].reach[np.argsort(regions[1].beyond)].tolist() == [9 / 4, 16 / 4]
    t = pl.DataFrame({"t": np.arange(20.0), "v": np.arange(20.0) ** 2})
    first, second = HorizonSplit("t", cutoff=10, horizons=(2, 6), n_repeats=1, random_state=0).regions(t)
    assert first.beyond.tolist() == [11, 12]
    assert second.beyond.tolist() == [13, 14, 15, 16]
    assert second.distance.tolist() == [0.3, 0.4, 0.5, 0.6]
    assert np.all(np.diff(first.inside) == 1)
    assert first.inside[0] > 0
    assert first.inside[-1] < 10  # neither at the start nor at the end of what is seen
    assert np.all(np.diff(first.train) > 0)


def test_groups_stay_whole_inside_and_in_the_reference() -> None:
    x = np.arange(60.0)[:, None]
    groups = np.repeat(np.arange(20), 3)
    for r in RangeSplit(0, threshold=44.5, random_state=0).regions(x, None, groups):
        assert not np.isin(groups[r.inside], groups[r.train]).any()
        for fit, score in r.reference:
            assert not np.isin(groups[fit], groups[score]).any()
    with pytest.warns(UserWarning, match="1 groups have rows both seen and beyond"):
        list(RangeSplit(0, threshold=43.5, n_repeats=1).regions(x, None, groups))


def test_the_reference_keeps_the_shares_of_both_sides_and_cuts_one_group_at_most() -> None:
    x = np.arange(600.0)[:, None]
    groups = np.repeat(np.arange(200), 3)
    for r in RangeSplit(0, threshold=449.5, random_state=0).regions(x, None, groups):
        for fit, score in r.reference:
            pool = r.beyond.size - score.size
            for rows, size in ((np.intersect1d(fit, r.beyond), pool), (np.intersect1d(fit, r.train), r.train.size)):
                assert rows.size == pytest.approx(r.train.size * size / (pool + r.train.size), abs=0.51)
                assert (np.unique(groups[rows], return_counts=True)[1] < 3).sum() <= 1


@every
def test_a_region_can_be_left_out_of_what_is_seen(name: str) -> None:
    make, needs = SPLITTERS[name]
    outer = make()
    seen = np.flatnonzero(outer.seen_mask(X, Y, **needs)[0])
    inner = LeaveRegionOut(outer)
    pairs = list(inner.split(X[seen], Y[seen], **{k: np.asarray(v)[seen] for k, v in needs.items()}))
    assert pairs
    for fit, score in pairs:
        assert fit.size
        assert score.size
        assert not np.intersect1d(fit, score).size


def test_what_is_left_out_is_the_seen_end() -> None:
    x = np.arange(100.0)[:, None]
    [(fit, score)] = LeaveRegionOut(RangeSplit(0, threshold=79.0)).split(x[:80])
    assert sorted(score) == list(range(64, 80))
    assert sorted(fit) == list(range(64))
    [(_, score)] = LeaveRegionOut(HorizonSplit(0, cutoff=50, horizons=(2, 9)), share=0.1).split(x[:51])
    assert sorted(score) == [46, 47, 48, 49, 50]
    [(_, score)] = LeaveRegionOut(LengthSplit(train_max=4)).split(["a" * n for n in (1, 1, 2, 2, 2, 2, 3, 3, 3, 4)])
    assert sorted(score) == [9]
    frame = pl.DataFrame({"a b": np.arange(80.0), "g": ["x", "y"] * 40})
    [(_, score)] = LeaveRegionOut(ConditionSplit("`a b` > 79")).split(frame)
    assert sorted(score) == list(range(64, 80))
    with pytest.raises(InputError, match="told by one value"):
        list(LeaveRegionOut(ConditionSplit("g == x")).split(frame))


@pytest.mark.extra("sklearn")
def test_scikit_learn_searches_with_a_region_left_out() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    cv = LeaveRegionOut(RangeSplit(0, random_state=0))
    found = GridSearchCV(Ridge(), {"alpha": [0.1, 1e6]}, cv=cv).fit(X, X[:, 0])
    assert found.best_params_ == {"alpha": 0.1}
    assert found.n_splits_ == 1


def test_environments_are_held_out_inside_each_seen_one() -> None:
    for r in EnvironmentSplit(n_repeats=1).regions(X, Y, GROUPS):
        assert np.unique(GROUPS[r.beyond]).size == 1
        assert np.bincount(GROUPS[r.inside], minlength=5)[np.unique(GROUPS[r.train])].tolist() == [6, 6, 6, 6]


def test_neighbours_are_removed_from_one_training_set_and_kept_in_the_other() -> None:
    for r in NeighborResample(1, metric="euclidean", n_repeats=3, random_state=1).regions(X[:, :2]):
        z = (X[:, :2] - X[:, :2].mean(0)) / X[:, :2].std(0)
        others = np.setdiff1d(np.arange(N), r.beyond)
        nearest = others[np.argmin(((z[r.beyond][:, None] - z[others][None]) ** 2).sum(-1), axis=1)]
        assert not np.isin(nearest, r.train).any()
        [(near, test)] = r.reference
        assert near.size == r.train.size
        assert np.array_equal(test, r.beyond)
        assert np.isin(nearest, near).all()


@pytest.mark.parametrize("d", [1, 2, 3, 6, 9])
def test_hull_membership_agrees_with_a_linear_programme_a_point(d: int) -> None:
    from scipy.optimize import linprog

    rng = np.random.default_rng(d)
    cloud, points = rng.normal(size=(80, d)), rng.normal(size=(60, d)) * 0.9
    constraints = np.vstack([cloud.T, np.ones(80)])
    solved = [linprog(np.zeros(80), A_eq=constraints, b_eq=[*p, 1.0], method="highs").status == 0 for p in points]
    assert (hull_distance(points, cloud) == 0).tolist() == solved
    assert 0 < sum(solved) < 60


def test_hull_distance_against_shapes_whose_distance_is_known() -> None:
    square = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]], dtype=float)
    points = np.array([[2, 0.5], [2, 2], [0.5, 0.2], [1, 1], [-3, -4]], dtype=float)
    np.testing.assert_allclose(hull_distance(points, square), [1, np.sqrt(2), 0, 0, 5], atol=1e-12)
    flat = np.column_stack([square, np.zeros((5, 4))])  # no facets: six columns, two dimensions
    np.testing.assert_allclose(hull_distance(np.array([[0.5, 0.5, 0, 3, 0, 4.0]]), flat), [5.0], rtol=1e-9)
    np.testing.assert_allclose(hull_distance(1e6 + 1e-3 * points, 1e6 + 1e-3 * square)[:2], [1e-3, np.sqrt(2) * 1e-3], rtol=1e-5)


# -- refusals and warnings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("splitter", "data", "message"),
    [
        (RangeSplit(0, threshold=99.0), (X,), "is empty: no row lies beyond"),
        (RangeSplit(0, threshold=-99.0), (X,), "nothing is seen|leaves 0"),
        (RangeSplit(0, gap=50.0), (X,), "gap=50 is wider than the data"),
        (RangeSplit(7), (X,), "column 7 of 3"),
        (RangeSplit("a"), (X,), "X has no named columns"),
        (RangeSplit("b"), (pl.DataFrame({"a": [1, 2, 3, 4]}),), "unknown column 'b'; allowed: a"),
        (RangeSplit("a"), (pl.DataFrame({"a": ["x", "y", "z", "w"]}),), "holds text"),
        (RangeSplit(0), (np.array([[1.0], [np.nan], [2], [3], [4]]),), "missing for 1 of 5"),
        (RangeSplit(0), (np.ones((10, 2)),), "all 10 rows are copies"),
        (RangeSplit(0), (X[:3],), "3 rows"),
        (RangeSplit(0, side="above"), (X,), "unknown side 'above'"),  # type: ignore[arg-type]
        (RangeSplit(0, inside_size=20), (X,), "inside_size"),
        (TargetRangeSplit(), (X,), "needs y"),
        (EnvironmentSplit(), (X,), "needs groups="),
        (EnvironmentSplit(), (X, Y, GROUPS[:3]), "groups has shape"),
        (EnvironmentSplit(), (X, Y, [None, *GROUPS[1:]]), "missing for 1"),
        (InterventionSplit(), (X,), "needs actions="),
        (ClusterSplit(), (np.array([["a"]] * 5 + [["b"]]),), "give embed="),
        (HullSplit(), (np.random.default_rng(0).normal(size=(60, 20)),), "every held-out row .* components="),
        (LengthSplit(train_max=4), (["a", "bb", "ccc", "dddd"],), "longer than train_max"),
        (HorizonSplit(2, cutoff=100, horizons=(4, 2)), (X,), "rising"),
        (HorizonSplit(2, cutoff="qq"), (X,), "cutoff is 'qq'; allowed: .* a quantile as q70"),
        (HorizonSplit(2, cutoff="q700"), (X,), "cutoff is 'q700'"),
        (HorizonSplit(2, cutoff="soon"), (X,), "cutoff is 'soon'"),
        (HorizonSplit(2, cutoff=np.nan), (X,), "cutoff is nan"),
        (NeighborResample(200), (X,), "n_neighbors is 200"),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(splitter: RegionSplitter, data: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(splitter.regions(*data))


def test_copies_across_the_edge_are_counted() -> None:
    x = np.vstack([X, X[:4]])
    with pytest.warns(UserWarning, match="4 of 4 rows beyond .* are copies of seen rows"):
        list(_Explicit(np.arange(N), np.arange(N, N + 4)).regions(x))


class _Explicit(RegionSplitter):
    def __init__(self, seen: Any, beyond: Any) -> None:
        super().__init__(n_repeats=1)
        self.seen, self.beyond = seen, beyond

    def _parts(self, table: Any, rng: Any) -> Any:
        from farfield.splits.base import Part

        yield Part(self.seen, self.beyond, np.zeros(self.beyond.size), "explicit")


# -- scikit-learn ---------------------------------------------------------------------------------------------------------------


def test_no_scikit_learn_is_imported() -> None:
    code = (
        "import sys, farfield.splits as s; [*s.RangeSplit(0).regions([[1],[2],[3],[4],[5]])]; assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.extra("sklearn")
@pytest.mark.parametrize("routing", [False, True])
@every
def test_scikit_learn_takes_every_splitter(name: str, routing: bool) -> None:
    import sklearn
    from sklearn.base import clone
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate

    make, needs = SPLITTERS[name]
    splitter = make()
    copy = clone(splitter)
    assert copy is not splitter
    assert repr(copy) == repr(splitter)
    assert copy.get_params() == splitter.get_params()
    expected = splitter.get_n_splits(X, Y, **needs)
    with sklearn.config_context(enable_metadata_routing=routing), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if routing:
            given_data: dict[str, Any] = {"params": needs}
        else:
            given_data = {"groups": next(iter(needs.values()), None)}
        scores = cross_val_score(Ridge(), X, Y, cv=splitter, scoring="neg_mean_absolute_error", **given_data)
        assert scores.shape == (expected,)
        by_hand = []
        for train, test in splitter.split(X, Y, **needs):
            by_hand.append(-np.abs(Ridge().fit(X[train], Y[train]).predict(X[test]) - Y[test]).mean())
        np.testing.assert_allclose(scores, by_hand)
        assert len(cross_validate(Ridge(), X, Y, cv=splitter, **given_data)["test_score"]) == expected
        search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=splitter)
        search.fit(X, Y, **(needs if routing else given_data))
        assert search.best_params_["alpha"] in (0.1, 1.0)


def test_unknown_parameters_and_row_data_are_refused() -> None:
    with pytest.raises(InputError, match="unknown parameter of RangeSplit 'quantil'; nearest: quantile"):
        RangeSplit(0).set_params(quantil=0.1)
    with pytest.raises(InputError, match="row data of RangeSplit 'actions'"):
        list(RangeSplit(0).regions(X, actions=X))


# -- the grammar ----------------------------------------------------------------------------------------------------------------

CARS = pl.DataFrame({
    "weight": [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    "year": [70, 71, 72, 73, 74, 75, 76, 77, 78, 79],
    "origin": ["usa", "usa", "japan", "europe", "usa", "japan", "europe", "usa", "usa", "japan"],
    "my col": [1.5, None, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5],
})  # fmt: skip


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("weight>q80", [8, 9]),
        ("weight >= 9", [8, 9]),
        ("weight<=2", [0, 1]),
        ("origin==japan", [2, 5, 9]),
        ("origin = 'europe'", [3, 6]),
        ("origin!=usa and weight>5", [5, 6, 9]),
        ("weight>9 or year==70 and origin==usa", [0, 9]),
        ("(weight>9 or year==70) and origin==japan", [9]),
        ("`my col` > 8", [8, 9]),
        ("weight > -1e0 AND weight < +2.5", [0, 1]),
    ],
)
def test_conditions_hold_where_they_should(text: str, rows: list[int]) -> None:
    assert np.flatnonzero(holds(resolve(parse(text), CARS), CARS)).tolist() == rows
    again = parse(str(resolve(parse(text), CARS)))  # what is shown can be read back
    assert np.flatnonzero(holds(resolve(again, CARS), CARS)).tolist() == rows


@pytest.mark.parametrize(
    ("text", "column"),
    [("", 1), ("weight", 7), ("weight >", 9), ("weight > 1 year", 12), ("(weight > 1", 12), ("weight > 1 and", 15), (">1", 1),
     ("weight == q80", 11), ("weight > q0", 10), ("weight > > 1", 10), ("and > 1", 1), ("weight ! 1", 8), ("weight > 1)", 11)],
)  # fmt: skip
def test_a_condition_that_cannot_be_read_is_pointed_at(text: str, column: int) -> None:
    with pytest.raises(InputError, match=rf"letter {column}\b") as caught:
        parse(text)
    assert str(caught.value).splitlines()[-1] == "  " + " " * (column - 1) + "^"


@given(st.text(alphabet="ab1 ()<>=!q.'\"`andor", max_size=25))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        condition = parse(text)
    except InputError:
        return
    assert str(parse(str(condition))) == str(condition)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wieght>q80", "unknown column 'wieght'; nearest: weight"),
        ("origin>q80", "holds text, which > cannot compare"),
        ("weight==usa", "holds numbers and is compared with the word 'usa'"),
        ("weight>99", "no row lies beyond"),
        ("weight>0", "every row lies beyond"),
        ("weight>3 and weight<6", "lies inside the seen range of weight"),
    ],
)
def test_a_region_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(ConditionSplit(text).regions(CARS))


def test_a_corner_no_seen_row_reaches_lies_beyond() -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.uniform(size=300), "b": rng.uniform(size=300)})
    with warnings.catch_warnings(record=True) as caught:  # a few near the diagonal lie in the hull
        warnings.simplefilter("always")
        [r] = ConditionSplit("a>q70 and b>q70", n_repeats=1).regions(frame)
    assert all("lie inside the seen range" in str(w.message) for w in caught)
    assert (r.distance > 0).all()


def test_rows_that_lack_a_value_are_on_neither_side() -> None:
    with pytest.warns(UserWarning, match="1 of 10 rows lack my col"):
        [r] = ConditionSplit("`my col`>8", n_repeats=1).regions(CARS)
    assert 1 not in {*r.train, *r.inside, *r.beyond}


def test_an_unseen_category_has_no_distance() -> None:
    [r] = ConditionSplit("origin==japan", n_repeats=1).regions(CARS)
    assert sorted(r.beyond) == [2, 5, 9]
    assert np.isnan(r.distance).all()
