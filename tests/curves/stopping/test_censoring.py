"""Runs stopped early: who gets through, the weights that follow, and what they mend."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from curves.simulated import from_runs, power_runs
from farfield import Curves, EnsembleForecaster, InputError
from farfield.curves.analogues import conformal_factor
from farfield.curves.censoring import MOST_WEIGHT, censored, through, weights
from farfield.predictive import Gaussian, Mixture


def halved(n: int = 300, share: float = 0.5, seed: int = 0) -> tuple[Curves, np.ndarray]:
    """Runs of 3 points; after the second, the worse part by a noisy value is pruned. Returns them and all true ends."""
    rng = np.random.default_rng(seed)
    level = rng.normal(size=n)
    end = level + rng.normal(size=n)
    passed = level + 0.5 * rng.normal(size=n) < np.quantile(level, share)
    runs, rows = {}, {}
    for i in range(n):
        y = [level[i] + 2, level[i], end[i]]
        k = 3 if passed[i] else 2
        runs[f"r{i}"] = ([1.0, 2.0, 4.0][:k], y[:k])
        rows[f"r{i}"] = {"status": "finished" if passed[i] else "pruned"}
    return from_runs(runs, end=4.0, rows=rows), end


def test_only_pruned_and_killed_runs_are_censored() -> None:
    names = ["finished", "running", "pruned", "killed", "diverged", "unknown"]
    curves = from_runs({s: ([1.0], [1.0]) for s in names}, rows={s: {"status": s} for s in names})
    assert censored(curves).tolist() == [False, False, True, True, False, False]


def test_chance_to_get_through_never_rises_with_rank() -> None:
    rng = np.random.default_rng(1)
    rank = rng.integers(1, 40, 200) / 40
    p = through(rank, rng.random(200) < 1 - rank)
    order = np.argsort(rank, kind="stable")
    assert (np.diff(p[order]) <= 1e-12).all()
    for r in np.unique(rank):
        assert np.ptp(p[rank == r]) < 1e-12


def test_weights_are_one_where_nobody_was_stopped() -> None:
    curves = power_runs(40, status="finished")
    rows = np.arange(40)
    assert (weights(curves, rows, np.full(40, 100.0), rows) == 1.0).all()


def test_weights_undo_what_pruning_did_to_the_mean() -> None:
    curves, end = halved(3000)
    passed = np.flatnonzero(curves.lengths == 3)
    w = weights(curves, passed, np.full(passed.size, 2.0), np.zeros(len(curves), dtype=np.int64))
    biased, mended = end[passed].mean() - end.mean(), np.average(end[passed], weights=w) - end.mean()
    assert biased < -0.3
    assert abs(mended) < 0.5 * abs(biased)  # the rest is in ranks from which hardly any got through
    assert w.max() <= MOST_WEIGHT
    assert 0.7 < w.mean() <= 1.01


def test_too_few_stops_change_nothing() -> None:
    curves, _ = halved(30, share=0.98, seed=3)
    state = pl.Series(["pruned" if i == int(np.argmin(curves.lengths)) else "finished" for i in range(30)])
    curves = dataclasses.replace(curves, attributes=curves.attributes.with_columns(status=state))
    rows = np.flatnonzero(curves.lengths == 3)
    assert (weights(curves, rows, np.full(rows.size, 2.0), np.zeros(30, dtype=np.int64)) == 1.0).all()


def test_equal_weights_scale_as_none_and_whole_weights_as_copies() -> None:
    rng = np.random.default_rng(4)
    truth = rng.standard_t(3, 57)
    unit = Mixture(np.ones((57, 1)), np.zeros((57, 1)), np.ones((57, 1)))
    for level in (0.5, 0.8, 0.9):
        plain = conformal_factor(unit, truth, level)
        assert conformal_factor(unit, truth, level, np.full(57, 2.5)) == pytest.approx(plain, rel=1e-12)
    copies = rng.integers(1, 4, 57)
    score = np.sort(np.repeat(np.abs(truth), copies))
    half = float(Gaussian(np.zeros(1), np.ones(1)).interval(0.8)[1][0])
    room = 0.8 * (score.size + copies.mean())
    expected = score[int(np.ceil(room - 1e-9)) - 1] / half
    assert conformal_factor(unit, truth, 0.8, copies.astype(float)) == pytest.approx(expected, rel=1e-6)


def test_a_forecaster_that_reweights_differs_only_where_runs_were_stopped() -> None:
    whole = power_runs(60, seed=5, noise=0.05, status="finished")
    asked = power_runs(3, seed=6, seen=0.5, prefix="asked")
    at = np.array([400.0])
    same = [EnsembleForecaster(censoring=c).fit(whole).predict(asked, at).median() for c in ("ignore", "reweight")]
    assert (same[0] == same[1]).all()
    bad = np.flatnonzero(whole.upto(200.0).last_y > np.median(whole.upto(200.0).last_y))
    state = pl.Series(["pruned" if i in bad else "finished" for i in range(60)])
    pruned = whole.upto(np.where(np.isin(np.arange(60), bad), 200.0, 400.0))
    pruned = dataclasses.replace(pruned, attributes=pruned.attributes.with_columns(status=state))
    other = [EnsembleForecaster(censoring=c).fit(pruned).predict(asked, at).median() for c in ("ignore", "reweight")]
    assert (other[0] != other[1]).any()


def test_an_unknown_treatment_is_refused() -> None:
    with pytest.raises(InputError, match="reweight"):
        EnsembleForecaster(censoring="drop")
