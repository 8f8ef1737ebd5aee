"""The next runs: expected improvement and the surrogate against direct evaluations, and that they look in the right place."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from scipy import integrate, stats

from curves.simulated import from_runs
from farfield import Curves, InputError, stop_advice
from farfield.curves.stopping import next_runs
from farfield.curves.stopping.suggest import Surrogate, expected_improvement, settings_of


@pytest.mark.parametrize(("mean", "sd", "best"), [(0.0, 1.0, 0.3), (2.0, 0.5, 0.0), (-1.0, 0.1, 0.0)])
def test_expected_improvement_is_its_integral(mean: float, sd: float, best: float) -> None:
    value, _ = integrate.quad(lambda y: (best - y) * stats.norm.pdf(y, mean, sd), mean - 12 * sd, best)
    found = expected_improvement(np.array([mean]), np.array([sd]), best)[0]
    assert found == pytest.approx(value, rel=1e-6, abs=1e-9)


def some_surrogate() -> Surrogate:
    rng = np.random.default_rng(0)
    x = rng.random((12, 2))
    y = np.sin(3 * x[:, 0]) + 5.0
    return Surrogate(x, y, rng.uniform(0, 0.1, 12), np.array([0.4, 1.6]), 0.05, float(y.mean()), float(y.std()))


def test_the_surrogate_is_the_conditional_normal() -> None:
    s = some_surrogate()
    at = np.array([[0.2, 0.9], [0.7, 0.1]])

    def matern(a: np.ndarray, b: np.ndarray) -> float:
        r = np.sqrt(5 * (((a - b) / s.scales) ** 2).sum())
        return float((1 + r + r * r / 3) * np.exp(-r))

    k = np.array([[matern(a, b) for b in s.x] for a in s.x]) + np.diag(s.noise / s.unit**2 + s.nugget)
    c = np.array([[matern(a, b) for b in s.x] for a in at])
    target = (s.y - s.centre) / s.unit
    mean, sd = s.predict(at)
    np.testing.assert_allclose(mean, s.centre + s.unit * c @ np.linalg.solve(k, target), rtol=1e-10)
    np.testing.assert_allclose(sd, s.unit * np.sqrt(1 - np.diag(c @ np.linalg.solve(k, c.T))), rtol=1e-8)
    exact = stats.multivariate_normal(np.zeros(12), k).logpdf(target)
    assert s.evidence() == pytest.approx(exact + 6 * np.log(2 * np.pi), rel=1e-10)


def test_a_setting_that_is_not_finite_is_no_end_of_its_scale() -> None:
    frame = pl.DataFrame({"config.clip": [1.0, 2.0, np.inf, np.nan], "config.none": [np.inf, np.nan, np.inf, 1.0]})
    (setting,) = settings_of(frame)
    assert (setting.name, setting.low, setting.high) == ("config.clip", 1.0, 2.0)
    np.testing.assert_array_equal(setting.encode(frame["config.clip"].to_list())[:, 0], [0.0, 1.0, 1.0, 0.5])


def test_leaving_one_out_is_leaving_one_out() -> None:
    s = some_surrogate()
    errors, naive = [], []
    for i in range(12):
        keep = np.arange(12) != i
        rest = Surrogate(s.x[keep], s.y[keep], s.noise[keep], s.scales, s.nugget, s.centre, s.unit)
        errors.append(abs(s.y[i] - rest.mean(s.x[i : i + 1])[0]))
        naive.append(abs(s.y[i] - s.y[keep].mean()))
    assert f"{np.mean(errors) / np.mean(naive):.2f} of the error" in s.left_out()


def sweep(n: int = 40, seed: int = 0, seen: int = 20) -> Curves:
    """Runs whose end is best at learning rate 0.01 with adam."""
    rng = np.random.default_rng(seed)
    x = np.arange(10.0, 210.0, 10.0)
    runs, rows = {}, {}
    for i in range(n):
        rate, optimiser = 10 ** rng.uniform(-4, 0), ["adam", "sgd"][i % 2]
        floor = 0.5 + 0.1 * (np.log10(rate) + 2) ** 2 + 0.3 * (optimiser == "sgd")
        k = 20 if i < n // 2 else seen
        runs[f"r{i}"] = (x[:k], (floor + 3 / x + 0.002 * rng.normal(size=20))[:k])
        config = {
            "config.lr": rate,
            "config.optimiser": optimiser,
            "config.layers": float(rng.integers(1, 5)),
            "config.seed": float(i),
        }
        rows[f"r{i}"] = {"status": "finished" if k == 20 else "running", "planned_end": 200.0, **config}
    return from_runs(runs, rows=rows)


def test_settings_are_read_from_the_runs() -> None:
    found = {s.name: s for s in settings_of(sweep().attributes)}
    assert set(found) == {"config.lr", "config.optimiser", "config.layers"}
    assert found["config.lr"].log
    assert not found["config.layers"].log
    assert found["config.layers"].whole
    assert found["config.optimiser"].levels == ("adam", "sgd")
    assert found["config.lr"].encode([found["config.lr"].low, found["config.lr"].high, None]).ravel() == pytest.approx([0, 1, 0.5])


def test_the_next_runs_lie_where_the_best_are() -> None:
    found = next_runs(stop_advice(sweep(seen=8)), 4, rng=0)
    table = found.to_frame()
    assert table.height == 4
    assert set(table["optimiser"]) == {"adam"}
    assert np.abs(np.log10(table["lr"].to_numpy()) + 2).max() < 0.8
    assert (table["improvement"].to_numpy() >= 0).all()
    assert table["layers"].dtype == pl.Int64
    assert table.unique().height == 4
    assert found.n_runs == 40
    assert next_runs(stop_advice(sweep(seen=8)), 4, rng=0).to_dict() == found.to_dict()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["settings"] == ["lr", "optimiser", "layers"]
    assert "error of the mean" in found.summary()


def test_too_little_to_learn_from_is_refused() -> None:
    with pytest.raises(InputError, match="at least 5"):
        next_runs(stop_advice(sweep(4)))
    same = from_runs({f"r{i}": ([1.0, 2.0], [2.0, 1.0]) for i in range(6)}, rows={})
    with pytest.raises(InputError, match="no setting"):
        next_runs(stop_advice(same))
    with pytest.raises(InputError, match="n is 0"):
        next_runs(stop_advice(sweep()), 0)
