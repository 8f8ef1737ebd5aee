"""Advice on stopping: the rules, the bound on risk, what waits and why, runs that grow, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import polars as pl
import pytest

from curves.simulated import from_runs, power_runs
from farfield import Advice, Adviser, Curves, InputError, Metric, StopStatus, stop_advice
from farfield.curves.forecaster import EnsembleForecaster
from farfield.curves.forecasting import forecast
from farfield.curves.stopping.standing import standing

CONTEXT = power_runs(90, seed=10, noise=0.02, status="finished", prefix="old")


def going(n: int = 12, seen: float = 0.4, seed: int = 3, **changes: object) -> Curves:
    """Runs under way; `changes` are attribute columns."""
    curves = power_runs(n, seed=seed, noise=0.02, seen=seen, per_group=1, status="running")
    columns = [pl.Series(name, values) for name, values in changes.items()]
    return dataclasses.replace(curves, attributes=curves.attributes.with_columns(columns))


def advised(curves: Curves, **settings: object) -> Advice:
    return stop_advice(curves, context=CONTEXT, **settings)  # type: ignore[arg-type]


def test_the_rule_of_the_paper_is_the_greatest_chance_at_any_step() -> None:
    curves = going()
    found = advised(curves, risk=1.0)
    forecaster = EnsembleForecaster(censoring="reweight").fit(curves.concat(CONTEXT))
    path = forecaster.predict_path(curves, np.full(12, 400.0), np.arange(1, 13) / 12).predictive
    best = float(curves.y.min())
    expected = path.cdf(np.full((12, 12), best)).max(axis=1)
    np.testing.assert_allclose(found.p_beats_best, expected, rtol=1e-12)
    assert found.best == best
    assert found.stop.tolist() == (expected <= 0.05).tolist()
    assert 0 < found.stop.sum() < 12
    assert advised(curves, risk=1.0, threshold=1.0).stop.all()


def test_a_higher_goal_is_the_mirror_image() -> None:
    low = going()
    high = dataclasses.replace(low, y=-low.y, metric=Metric("loss", "max"))
    mirrored = dataclasses.replace(CONTEXT, y=-CONTEXT.y, metric=Metric("loss", "max"))
    for rule in ("probability", "regret"):
        a, b = advised(low, rule=rule), stop_advice(high, context=mirrored, rule=rule)
        assert a.status == b.status
        np.testing.assert_allclose(a.p_beats_best, b.p_beats_best, atol=1e-9)
        np.testing.assert_allclose(a.median, -b.median, rtol=2e-3)
        assert b.best == -a.best


def test_all_stops_together_stay_within_the_risk_of_the_way_gone() -> None:
    curves = going(20, seen=0.2)
    for risk in (0.0, 0.05, 0.4):
        found = advised(curves, rule="winner", risk=risk)
        assert found.p_lose_winner == pytest.approx(found.p_best[found.stop].sum())
        assert found.p_lose_winner <= risk * np.sqrt(0.2)
        kept = np.array([s is StopStatus.RISK for s in found.status])
        assert (kept | found.stop).all()
        # one more stop would be one too many, and the least likely went first
        assert found.p_lose_winner + found.p_best[kept].min() > risk * np.sqrt(0.2)
        assert found.p_best[kept].min() >= found.p_best[found.stop].max(initial=0.0)
        assert found.stop.any() == (risk > 0)
    assert advised(curves, threshold=1.0, risk=1.0).stop.all()


def test_what_a_stop_risked_when_it_was_made_is_spent_for_good() -> None:
    whole = power_runs(20, seed=3, noise=0.02, per_group=1, status="running")
    forecaster = EnsembleForecaster().fit(CONTEXT)
    adviser = Adviser(forecaster=forecaster, rule="winner", risk=0.2)
    live, cut, spent = np.ones(20, dtype=bool), whole.last_x.copy(), 0.0
    for x in (40.0, 80.0, 160.0, 320.0):
        seen = whole.upto(np.where(live, x, cut))
        state = pl.Series("status", np.where(live, "running", "pruned"))
        found = adviser.update(dataclasses.replace(seen, attributes=seen.attributes.with_columns(state)))
        assert not (found.stop & ~live).any()
        spent += float(found.p_best[found.stop].sum())
        # what was spent before does not come back, however hopeless those runs look now
        assert found.p_lose_winner == pytest.approx(spent)
        assert spent <= 0.2 * np.sqrt(x / 400.0) + 1e-12
        cut[found.stop] = x
        live &= ~found.stop
    assert 0 < live.sum() < 20


def test_values_at_equal_x_count_only_where_runs_end_alike() -> None:
    alike = advised(going())
    apart = advised(going(planned_end=np.where(np.arange(12) % 2, 400.0, 1600.0)))
    field = np.ones(12, dtype=bool)
    last = alike.curves.last_y
    for found, rank in ((alike, (last[:, None] > last).sum(axis=1) + 1.0), (apart, None)):
        reach = float(np.median(found.at / found.curves.last_x))
        np.testing.assert_allclose(found.p_best, standing(found.ends, field, field, rank, reach, None), rtol=1e-9)
    drawn = apart.ends.p_best + 0.002
    np.testing.assert_allclose(apart.p_best, drawn / drawn.sum(), rtol=1e-9)


def test_runs_stopped_by_others_use_up_the_risk() -> None:
    free = advised(going(20, seen=0.2), threshold=1.0, risk=0.1)
    state = np.full(20, "running", dtype=object)
    best = int(np.argmax(free.ends.p_wins_yet[:20]))
    state[best] = "pruned"
    found = advised(going(20, seen=0.2, status=state), threshold=1.0, risk=0.1)
    assert found.status[best] is StopStatus.STOPPED
    assert not found.stop[best]
    assert found.remaining[best] == 0
    assert found.p_lose_winner > 0.1
    assert not found.stop.any()


def test_the_regret_rule_stops_what_gains_less_than_the_price() -> None:
    curves = going()
    found = advised(curves, rule="regret", risk=1.0)
    stays = np.flatnonzero(~found.stop)
    assert 0 < stays.size < 12
    assert (found.gain[stays] / found.remaining[stays] >= found.price - 1e-15).any()
    assert found.expected_regret == pytest.approx(found.ends.regret(found.stop))
    assert advised(curves, rule="regret", risk=1.0, price=1e9).stop.all()
    assert not advised(curves, rule="regret", price=0.0).stop.any()
    assert found.price == pytest.approx(found.ends.fresh_gain() / 400.0)
    with pytest.raises(InputError, match=r"price is -1; allowed: .* 0 or more"):
        advised(curves, rule="regret", price=-1)


def test_a_budget_is_kept_when_runs_fall_as_one_over_x() -> None:
    curves = going(20, seen=0.2)
    whole = advised(curves, threshold=0.0, budget=1e9)
    tight = advised(curves, threshold=0.0, budget=1500.0)
    assert not whole.stop.any()
    k = int((~tight.stop).sum())
    assert 0 < k < 20
    x = CONTEXT.x[CONTEXT.points(0)]
    looks = [80.0, *x[(x > 80) & (x < 400)], 400.0]

    def cost(k: int) -> float:
        return sum(max(k * 80.0 / a, 1.0) * (b - a) for a, b in itertools.pairwise(looks))

    assert cost(k) <= 1500.0 < cost(k + 1)
    assert tight.p_best[~tight.stop].min() >= tight.p_best[tight.stop].max()


def test_a_budget_stops_runs_that_are_too_short_to_forecast() -> None:
    whole = power_runs(12, seed=3, noise=0.02, per_group=1, status="running")
    curves = whole.upto(20.0)
    assert (curves.lengths == 2).all()
    found = advised(curves, budget=500.0)
    order = np.argsort(curves.last_y)
    assert 0 < found.stop.sum() < 12
    assert not found.stop[order[: (~found.stop).sum()]].any()
    assert {s.key for s in advised(curves).status} == {"too_short"}


def test_what_may_not_be_stopped_waits_and_says_why() -> None:
    alone = stop_advice(going())
    assert set(alone.status) == {StopStatus.UNCALIBRATED}
    assert not alone.stop.any()
    assert "uncalibrated" in alone.why[0]
    assert "12 of 12 runs wait" in alone.warnings[0]
    assert stop_advice(going(), despite=["uncalibrated", "schedule"], risk=1.0, threshold=1.0).stop.all()

    unknown = dataclasses.replace(CONTEXT, attributes=CONTEXT.attributes.with_columns(pl.lit("unknown").alias("status")))
    assert set(stop_advice(going(), context=unknown).status) == {StopStatus.SCHEDULE}
    assert stop_advice(going(), context=unknown, despite=["schedule"]).stop.any()

    decay = advised(going(), lr_schedule="cosine:400")
    assert StopStatus.DECAY not in decay.status  # the others went through the same one
    early = dataclasses.replace(CONTEXT, attributes=CONTEXT.attributes.with_columns(pl.lit(4000.0).alias("planned_end")))
    config = pl.lit("wsd").alias("config.lr_scheduler_type")
    early = dataclasses.replace(early, attributes=early.attributes.with_columns(config))
    assert not stop_advice(going(), context=early, lr_schedule="wsd:4000,0.9", to=4000.0).stop.any()


def test_runs_that_cannot_be_judged() -> None:
    x = np.arange(10.0, 210.0, 10.0)
    curve = 1 + 5 / x
    runs = {
        n: (x[: 2 if n == "short" else 20], curve[: 2 if n == "short" else 20]) for n in ("short", "lost", "done", "cut", "live")
    }
    state = {"short": "running", "lost": "diverged", "done": "finished", "cut": "killed", "live": "running"}
    curves = from_runs(runs, end=400.0, rows={n: {"status": s} for n, s in state.items()})
    found = stop_advice(curves)
    expected = [StopStatus.TOO_SHORT, StopStatus.DIVERGED, StopStatus.ENDED, StopStatus.STOPPED, StopStatus.UNCALIBRATED]
    assert list(found.status) == expected
    assert found.stop.tolist() == [False, True, False, False, False]
    assert found.remaining.tolist() == [380.0, 0.0, 0.0, 0.0, 200.0]
    nowhere = dataclasses.replace(
        curves, attributes=curves.attributes.with_columns(pl.lit(None, dtype=pl.Float64).alias("planned_end"))
    )
    assert stop_advice(nowhere).status[4] is StopStatus.NO_END
    assert stop_advice(curves.take([])).summary() == "no run is still going: nothing to stop"
    assert stop_advice(curves.take([2])).to_frame()["why"].to_list() == ["has ended"]


def test_a_value_to_beat_from_outside() -> None:
    curves = going()
    found = advised(curves, best=-5.0)
    assert found.best == -5.0
    assert found.stop.all()
    assert found.p_lose_winner == 0.0
    assert found.p_best.sum() < 0.01
    np.testing.assert_allclose(found.p_beats(-5.0), 0.0, atol=1e-6)


def test_p_beats_is_the_distribution_of_the_forecast() -> None:
    curves = going()
    found = advised(curves)
    whole = forecast(curves, method="forms", context=CONTEXT, with_backtest=False)
    np.testing.assert_allclose(found.p_beats(0.5), whole.predictive.cdf(np.full((12, 1), 0.5))[:, 0], rtol=1e-9)
    with pytest.raises(InputError, match="NaN"):
        found.p_beats(float("nan"))


def test_an_adviser_that_is_asked_again_and_again_learns_only_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []
    plain = EnsembleForecaster.fit
    monkeypatch.setattr(EnsembleForecaster, "fit", lambda self, curves: fits.append(len(curves)) or plain(self, curves))
    adviser = Adviser(context=CONTEXT)
    whole = power_runs(8, seed=3, noise=0.02, per_group=1, status="running")
    for x in np.arange(200.0, 300.0, 10.0):
        last = adviser.update(whole.upto(x))
    assert 1 < len(fits) < 5
    again = Adviser(forecaster=adviser.forecaster).update(whole.upto(290.0))
    assert again.status == last.status
    np.testing.assert_array_equal(again.p_beats_best, last.p_beats_best)
    assert len(fits) < 5


def test_the_same_seed_gives_the_same_advice_and_the_future_none() -> None:
    whole = power_runs(12, seed=3, noise=0.02, per_group=1, status="running")
    a, b = advised(whole.upto(160.0)), advised(whole.upto(160.0))
    assert a.to_dict() == b.to_dict()
    spoilt = dataclasses.replace(whole, y=np.where(whole.x > 160.0, 99.0, whole.y))
    assert advised(spoilt.upto(160.0)).to_dict() == a.to_dict()


def test_one_line_and_a_table_and_json() -> None:
    found = advised(going())
    n = int(found.stop.sum())
    assert found.summary().startswith(f"stop {n} runs: saves {240 * n:,} of {240 * 12:,} steps, P(lose the winner) ")
    assert repr(found) == f"Advice({found.summary()})"
    frame = found.to_frame()
    assert frame["stop"].to_list() == [True] * n + [False] * (12 - n)
    assert frame.height == 12
    assert set(frame["status"]) <= {s.key for s in StopStatus}
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["stops"] == n
    assert all("\n" not in w for w in found.why)
    assert "P(beats" in found.why[0]
    assert "per unit" in advised(going(), rule="regret").why[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rule": "hunch"}, "probability"),
        ({"threshold": 1.5}, "at most 1"),
        ({"threshold": -1.0, "rule": "regret"}, "0 or more"),
        ({"risk": 2.0}, "0 to 1"),
        ({"despite": ["doubt"]}, "schedule"),
        ({"budget": -1.0}, "budget"),
        ({"best": float("nan")}, "best"),
        ({"method": "pow33"}, "pow3"),
        ({"to": [1.0, 2.0]}, "one a run"),
    ],
)
def test_bad_settings_are_refused_with_what_is_allowed(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        advised(going(), **settings)
