"""Extrapolation near zero: the distance of two models' answers against slow loops, and intervals against what they are made of."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

from farfield.gap import extrapolation_gap, get_score, measure
from farfield.gap.apart import Pair, apart, by_chance, leant
from farfield.gap.scores import Seen
from farfield.splits import RangeSplit
from gap_models import Line

NOTHING = Seen(0.0, 4.0, np.empty(0))


def pair(name: str, split: int, y: Any, a: Any, b: Any, seen: Seen = NOTHING) -> Pair:
    rows = get_score(name).rows
    assert rows is not None
    return Pair(split, y, (a, b), (rows(y, a, seen), rows(y, b, seen)), (seen, seen))


def data(n: int = 200) -> tuple[Any, Any, RangeSplit]:
    rng = np.random.default_rng(1)
    X = rng.uniform(size=(n, 2))
    return X, X[:, 0] + rng.normal(0, 0.5, size=n), RangeSplit(0, n_repeats=4, random_state=0)


def test_for_squares_the_distance_is_the_mean_square_of_the_difference() -> None:
    rng = np.random.default_rng(0)
    y, a, b = rng.normal(size=(3, 50))
    cuts = [slice(0, 8), slice(8, 30), slice(30, 50)]
    pairs = [pair("mse", split, y[c], a[c], b[c]) for split, c in zip((0, 0, 1), cuts, strict=True)]
    square = (a - b) ** 2
    assert apart(pairs, get_score("mse")) == pytest.approx((square[:30].mean() + square[30:].mean()) / 2, rel=1e-12)
    share = [pair("r2", split, y[c], a[c], b[c]) for split, c in zip((0, 0, 1), cuts, strict=True)]
    assert apart(share, get_score("r2")) == pytest.approx((square[:30].mean() + square[30:].mean()) / 2 / 4.0, rel=1e-12)


def test_for_the_brier_score_it_is_the_mean_square_of_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    p, q = (v / v.sum(axis=1, keepdims=True) for v in rng.uniform(size=(2, 40, 3)))
    y = rng.integers(3, size=40)
    seen = Seen(0.0, 0.0, np.arange(3))
    score = get_score("brier")
    assert apart([pair("brier", 0, y, p, q, seen)], score) == pytest.approx(((p - q) ** 2).sum(axis=1).mean(), rel=1e-12)
    other = pair("brier", 0, y, p, q, seen)._replace(seen=(seen, Seen(0.0, 0.0, np.array([0, 1, 5]))))
    assert apart([other], score) == 0.0  # probabilities of other classes


@pytest.mark.parametrize("name", ["mae", "log_loss"])
def test_for_other_losses_it_is_what_the_second_answer_costs_where_the_first_is_right(name: str) -> None:
    rng = np.random.default_rng(0)
    n = 400_000
    score = get_score(name)
    if name == "mae":  # the median is right
        a = rng.uniform(size=n)
        y, b, seen = a + rng.normal(size=n), a + 0.3, NOTHING
    else:
        p = rng.uniform(0.3, 0.7, size=n)
        y = (rng.uniform(size=n) < p).astype(int)
        a, b, seen = np.c_[1 - p, p], np.c_[0.95 - p, p + 0.05], Seen(0.0, 0.0, np.arange(2))
    here = pair(name, 0, y, a, b, seen)
    assert apart([here], score) == pytest.approx(float((here.losses[1] - here.losses[0]).mean()), rel=0.1)


def test_words_have_no_distance() -> None:
    y = np.array(["a", "b", "a"])
    assert apart([pair("accuracy", 0, y, y, y[::-1])], get_score("accuracy")) == 0.0
    assert apart([], get_score("mse")) == 0.0


@pytest.mark.parametrize(("value", "half", "far"), [(0.3, 0.2, 0.1), (0.0, 0.02, 0.4), (2.0, 0.5, 0.01), (0.1, 0.3, 0.2)])
def test_the_leaning_interval_is_even_on_the_scale_of_the_root(value: float, half: float, far: float) -> None:
    root, step = np.sqrt(value + far), half / (2 * np.sqrt(value + far))
    low, high = leant(value, value - half, value + half, far)
    assert low == pytest.approx((root - step) ** 2 - far, rel=1e-12, abs=1e-15)
    assert high == pytest.approx((root + step) ** 2 - far, rel=1e-12)


@pytest.mark.parametrize("value", [-0.4, 0.0, 0.05])
def test_past_the_end_of_that_scale_it_leans_no_further(value: float) -> None:
    low, high = leant(value, value - 1.0, value + 1.0, 0.01)
    assert (low, high) == pytest.approx((value - 0.5, value + 1.5))
    assert leant(0.0, -1.0, 1.0, 0.0) == (-1.0, 1.0)
    assert leant(0.0, -0.1, 1.9, 0.01) == (0.0, 2.4)  # never past the value


def test_pairs_of_rows_in_two_folds_have_twice_the_variance_that_their_losses_show() -> None:
    """Least squares through no bias: every sign of the errors, the losses' differences of all rows that are scored by others."""
    rng = np.random.default_rng(0)
    n, folds = 10, np.repeat(np.arange(5), 2)
    effect = rng.normal(size=(n, n))
    effect = (effect + effect.T) * (folds[:, None] != folds)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    size = rng.uniform(0.5, 2, size=n)
    terms = (signs * size) * ((signs * size) @ effect)
    assert terms.sum(axis=1).var() == pytest.approx(2 * (terms**2).sum(axis=1).mean(), rel=1e-12)


def test_the_share_that_may_be_chance() -> None:
    assert [by_chance(q, 2.0) for q in (-1.0, 0.0, 0.5, 2.0, 9.0)] == [1.0, 1.0, 0.75, 0.0, 0.0]
    assert by_chance(0.0, 0.0) == 0.0


@pytest.mark.parametrize("scoring", ["mse", "rmse", "r2"])
def test_over_repeats_the_extrapolation_alone_leans(scoring: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, split = data()
    found = extrapolation_gap(Line(), X, y, split=split, scoring=scoring, n_boot=300)
    monkeypatch.setattr(measure, "apart", lambda pairs, score: 0.0)
    plain = extrapolation_gap(Line(), X, y, split=split, scoring=scoring, n_boot=300)
    for name in ("inside", "reference", "beyond", "gap", "difficulty"):
        assert getattr(found, name) == getattr(plain, name)
    square, reference = [], []
    for s in split.regions(X, y):
        model = Line().fit(X[s.train], y[s.train])
        parts = [(model.predict(X[t]), Line().fit(X[f], y[f]).predict(X[t]), y[t]) for f, t in s.reference]
        scale = y[s.train].var() if scoring == "r2" else 1.0
        square.append(np.concatenate([(a - b) ** 2 for a, b, _ in parts]).mean() / scale)
        reference.append(np.concatenate([(b - t) ** 2 for _, b, t in parts]).mean())
    far = np.mean(square) / (2 * np.sqrt(np.mean(reference)) if scoring == "rmse" else 1.0)
    assert found.extrapolation is not None
    assert plain.extrapolation is not None
    value, low, high = plain.extrapolation[:3]
    lean = min((high - low) ** 2 / 16 / (far + max(value, 0.0)), (high - low) / 4)
    assert found.extrapolation.high == pytest.approx(high + lean, rel=1e-5)
    assert found.extrapolation.low == pytest.approx(min(low + lean, value), rel=1e-5)


def test_from_one_repeat_the_pairs_widen_what_hangs_on_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, _ = data()
    split = RangeSplit(0, n_repeats=1, random_state=11)
    found = extrapolation_gap(Line(), X, y, split=split, scoring="mse", n_boot=300)
    [s] = split.regions(X, y)
    model = Line().fit(X[s.train], y[s.train])
    square = [(model.predict(X[t]) - Line().fit(X[f], y[f]).predict(X[t])) ** 2 for f, t in s.reference]
    monkeypatch.setattr(measure, "apart", lambda pairs, score: 0.0)
    plain = extrapolation_gap(Line(), X, y, split=split, scoring="mse", n_boot=300)
    assert found.extrapolation is not None
    assert plain.extrapolation is not None
    share = by_chance(plain.extrapolation.value, float(np.concatenate(square).mean()))
    assert 0 < share < 1
    pairs = share * plain.extrapolation.std_error**2
    for name in ("reference", "difficulty", "extrapolation"):
        before, after = getattr(plain, name), getattr(found, name)
        wider = np.sqrt(1 + pairs / before.std_error**2)
        assert after.high - after.value == pytest.approx(wider * (before.high - before.value), rel=1e-9)
        assert after.value - after.low == pytest.approx(wider * (before.value - before.low), rel=1e-9)
    for name in ("inside", "beyond", "gap"):
        assert getattr(found, name) == getattr(plain, name)


def test_a_line_on_a_line_costs_nothing_beyond_and_the_intervals_say_so() -> None:
    """From one repeat: the truth is the fitted models' own, by quadrature; without the pairs it is held in 0.88 of such trials."""
    nodes, weights = np.polynomial.legendre.leggauss(6)
    far = 0.9 + 0.1 * nodes
    grid = np.column_stack([np.repeat(far, 6), np.tile((nodes + 1) / 2, 6)])
    weight = np.outer(weights, weights).ravel() / 4
    hits, n_trials = 0, 200
    for trial in range(n_trials):
        rng = np.random.default_rng(trial)
        X = np.column_stack([np.r_[rng.uniform(0, 0.8, 160), rng.uniform(0.8, 1, 40)], rng.uniform(size=200)])
        y = X[:, 0] + rng.normal(0, 0.5, size=200)
        split = RangeSplit(0, threshold=0.8, n_repeats=1, random_state=trial)
        [s] = split.regions(X, y)
        ours = Line().fit(X[s.train], y[s.train]).predict(grid)
        others = [Line().fit(X[f], y[f]).predict(grid) for f, _ in s.reference]
        truth = weight @ (ours - grid[:, 0]) ** 2 - np.mean([weight @ (o - grid[:, 0]) ** 2 for o in others])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            e = extrapolation_gap(Line(), X, y, split=split, scoring="mse", n_boot=300, rng=trial).extrapolation
        assert e is not None
        hits += e.low <= truth <= e.high
    assert 0.92 <= hits / n_trials <= 0.985
