"""P(ends best) from rank, forecast and settings: by a slow loop, by hand, and where parts are missing."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from curves.simulated import from_runs, power_runs
from farfield import Curves
from farfield.curves.stopping.joint import Ends
from farfield.curves.stopping.standing import SettingsScore, exponents, ranks, standing


def drawn(n: int = 6, seed: int = 0) -> Ends:
    rng = np.random.default_rng(seed)
    return Ends(rng.normal(rng.normal(0, 1, n), 1.0, (500, n)), np.full(n, 5.0))


def test_exponents_far_from_the_end_and_near_it() -> None:
    np.testing.assert_allclose(exponents(1.0), (1.4, 0.9, 0.3))
    np.testing.assert_allclose(exponents(np.e), (1.12, 0.4 + 0.5 / np.e, 0.7))
    assert exponents(1e4)[0] == 0.3


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_the_product_by_a_loop(scored: bool, told: bool) -> None:
    ends, rank = drawn(), np.array([1.0, 2, 3.5, 3.5, 5, np.nan])
    field = np.array([True, True, True, True, True, False])
    forecast = np.array([told, told, told, told, False, False])
    score = np.array([0.2, -1.0, 0.5, 0.0, 1.0, 0.3]) if scored else None
    a, b, c = exponents(4.0)
    weight = []
    for i in range(5):
        w = rank[i] ** -(a + (0 if scored else c / 4) + (0 if told else b))
        if told:
            w *= ((ends.p_best[i] if i < 4 else 1 / 5) + 0.002) ** b
        weight.append(w * np.exp(c * score[i]) if score is not None else w)
    expected = np.array(weight) / sum(weight) * (1 - ends.p_best[5])
    found = standing(ends, field, forecast, rank, 4.0, score)
    np.testing.assert_allclose(found[:5], expected, rtol=1e-12)
    assert found[5] == ends.p_best[5]
    assert found.sum() == pytest.approx(1.0)


def test_without_a_field_the_draws_stand() -> None:
    ends, nobody = drawn(), np.zeros(6, dtype=bool)
    np.testing.assert_array_equal(standing(ends, nobody, nobody, np.full(6, np.nan), 1.0, None), ends.p_best)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ranks_at_equal_x_by_a_loop(sign: float) -> None:
    rng = np.random.default_rng(1)
    runs = [(np.sort(rng.choice(40, k, replace=False)) + 1.0, np.round(rng.normal(0, 1, k), 1)) for k in (3, 9, 1, 20, 12, 12)]
    curves = from_runs({f"run {i}": run for i, run in enumerate(runs)})
    field = np.array([True, True, True, False, True, True])
    found = ranks(curves, field, sign)
    for i, (x, y) in enumerate(runs):
        if not field[i]:
            assert np.isnan(found[i])
            continue
        ahead = level = 0
        for j, (u, v) in enumerate(runs):
            there = v[u <= x[-1]]
            if field[j] and there.size:
                ahead += sign * there[-1] < sign * y[-1]
                level += there[-1] == y[-1]
        assert found[i] == ahead + (level + 1) / 2


def with_settings(curves: Curves, **columns: object) -> Curves:
    return dataclasses.replace(
        curves, attributes=curves.attributes.with_columns([pl.Series(f"config.{k}", v) for k, v in columns.items()])
    )


def groups_by_rate(n: int = 40, status: str = "finished") -> Curves:
    """Four groups, of different levels; within each the end is the better the nearer the rate is to 1e-2."""
    rng = np.random.default_rng(5)
    rate = 10 ** rng.uniform(-4, 0, n)
    group = np.arange(n) % 4
    y = [np.array([9.0, 8.0, 10.0 * g + abs(np.log10(r) + 2) + 0.01 * rng.normal()]) for g, r in zip(group, rate, strict=True)]
    curves = from_runs({f"run {i}": ([1.0, 2.0, 3.0], v) for i, v in enumerate(y)})
    labels = {"group": [f"g{g}" for g in group], "status": [status] * n}
    curves = dataclasses.replace(curves, attributes=curves.attributes.with_columns([pl.Series(k, v) for k, v in labels.items()]))
    return with_settings(curves, rate=rate, kind=["a", "b"] * (n // 2))


def test_settings_that_ended_well_elsewhere_score_well() -> None:
    known = SettingsScore.fit(groups_by_rate())
    assert known is not None
    asked = with_settings(power_runs(3, seed=0), rate=[1e-2, 1e-3, 1e-4])
    score = known.of(asked)
    assert score[0] > score[1] > score[2]
    # settings that are not there, or of another type, say what the mean of all says; far outside nothing goes wild
    np.testing.assert_array_equal(known.of(power_runs(2, seed=0)), known.of(with_settings(power_runs(2, seed=0), rate=["x", "y"])))
    assert np.abs(known.of(with_settings(power_runs(1, seed=0), rate=[1e30]))).max() < 5


def test_settings_say_nothing_without_enough_ended_runs() -> None:
    assert SettingsScore.fit(None) is None
    assert SettingsScore.fit(groups_by_rate(16)) is None
    assert SettingsScore.fit(groups_by_rate(status="running")) is None
    assert SettingsScore.fit(power_runs(40, seed=0, status="finished")) is None
