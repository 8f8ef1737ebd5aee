"""The annealing law inside a forecast: what schedules did, its coefficients against a bounded solver, what it can recover."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from farfield.curves import drive as module
from farfield.curves.average import average_form
from farfield.curves.drive import Drive, average_annealing
from farfield.curves.fit import Batch
from farfield.curves.forms import get_form
from farfield.curves.schedules import Schedule, constant, decaying, observed, unknown
from tolerances import assert_close

COSINE = decaying("cosine", 1000.0, warmup=20.0)
WSD = decaying("wsd", 1000.0, start=700.0)
AT = np.array([[800.0, 1000.0]])


def grid(n: int, last: float, width: int = 60) -> Batch:
    x = np.linspace(last / width, last, width)
    return Batch.from_padded(np.tile(x, (n, 1)), np.ones((n, width)), np.ones((n, width)))


def with_values(batch: Batch, y: np.ndarray) -> Batch:
    return replace(batch, y=y)


def law(drive: Drive, memory: int, exponent: float, c: float, a: float, fall: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of the law at the seen points and at the positions, area in units of its last seen value."""
    unit = drive.area[:, -1:]
    seen = c + a * (drive.area / unit) ** -exponent - fall * drive.annealed[memory]
    return seen, c + a * (drive.area_at / unit) ** -exponent - fall * drive.annealed_at[memory]


# -- what the schedules did -----------------------------------------------------------------------------------------------------


def test_rates_and_areas_are_those_of_the_schedules() -> None:
    batch = grid(3, 600.0)
    drive = Drive.of([COSINE, WSD, constant()], batch, np.tile(AT, (3, 1)))
    assert drive.known.all()
    for i, schedule in enumerate((COSINE, WSD, constant())):
        assert_close(drive.now[i], schedule.relative(600.0))
        assert_close(drive.then[i], schedule.relative(AT[0]))
        assert_close(drive.fall[i], schedule.relative(600.0) - schedule.relative(AT[0]))
        fine = np.linspace(0, 1000, 200_001)
        for x, area in ((batch.x[i], drive.area[i]), (AT[0], drive.area_at[i])):
            pieces = np.concatenate([[0], np.cumsum(0.5 * (schedule.relative(fine[1:]) + schedule.relative(fine[:-1])) * 0.005)])
            np.testing.assert_allclose(area, np.interp(x, fine, pieces), rtol=1e-6)
    # one minus a moving average of the rate: nothing where the rate never fell, all of it long after it reached zero
    assert (drive.annealed[:, 2] == 0).all()
    assert (drive.annealed[:, 1] == 0).all()
    assert (drive.annealed_at[:, 1, 1] > 0).all()
    assert ((drive.annealed >= 0) & (drive.annealed <= 1)).all()


def test_a_rate_that_rises_has_no_fall() -> None:
    drive = Drive.of([decaying("linear", 1000.0, warmup=900.0)], grid(1, 600.0), np.array([[800.0, 950.0]]))
    np.testing.assert_array_equal(drive.fall[0, 0], 0.0)


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        (unknown(), "nothing"),
        (observed(np.array([10.0, 500.0, 600.0]), np.array([0.1, 0.1, 0.1])), "known as far as it is logged"),
        (decaying("cosine", 900.0), "ends before the last position"),
    ],
)
def test_where_the_rate_is_not_known_there_is_no_forecast(schedule: Schedule, why: str) -> None:
    batch = grid(2, 600.0)
    drive = Drive.of([schedule, COSINE], batch, np.tile(AT, (2, 1)))
    assert drive.known.tolist() == [False, True], why
    assert np.isnan(drive.fall[0, -1])
    ahead, back = average_annealing(drive, with_values(batch, batch.x**-0.5), np.ones((2, 2, 60)), falling=True)
    assert np.isnan(ahead[0]).all()
    assert np.isnan(back[0]).all()
    assert np.isfinite(ahead[1]).all()
    assert np.isfinite(back[1]).all()


def test_taking_runs_takes_all_of_each() -> None:
    batch = grid(3, 600.0)
    whole = Drive.of([COSINE, unknown(), WSD], batch, np.tile(AT, (3, 1)))
    rows = np.array([2, 0])
    part, again = whole.take(rows), Drive.of([WSD, COSINE], batch.take(rows), np.tile(AT, (2, 1)))
    for name in ("known", "now", "then", "area", "annealed", "area_at", "annealed_at"):
        np.testing.assert_array_equal(getattr(part, name), getattr(again, name))


# -- coefficients ---------------------------------------------------------------------------------------------------------------


def test_coefficients_are_those_of_a_bounded_solver() -> None:
    """Reference: SciPy's bounded linear least squares, with the shrinkage of C as one more residual."""
    rng = np.random.default_rng(0)
    n, t, width = 40, 3, 25
    power, fallen = rng.uniform(0.5, 3, (n, width)), rng.uniform(0, 1, (n, width))
    y = 0.5 + power - rng.uniform(-1, 1, (n, 1)) * fallen + 0.2 * rng.normal(size=(n, width))
    weights = rng.uniform(0, 1, (n, t, width)) * (rng.uniform(size=(n, t, width)) > 0.2)
    beta, cost = module._fit(power, -fallen, y, weights)
    negative = 0
    for i in range(n):
        for k in range(t):
            root = np.sqrt(weights[i, k])
            design = np.stack([np.ones(width), power[i], -fallen[i]], axis=1) * root[:, None]
            design = np.vstack([design, [0, 0, module._SHRINK]])
            want = lsq_linear(design, np.append(y[i] * root, 0), ([-np.inf, -np.inf, 0], np.inf), method="bvls", tol=1e-14)
            np.testing.assert_allclose(beta[i, k], want.x, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(cost[i, k], want.cost, rtol=1e-9)
            negative += beta[i, k, 2] == 0
    assert 20 < negative < 100  # both cases occur


def test_an_exact_curve_gives_back_its_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = grid(1, 600.0)
    drive = Drive.of([COSINE], batch, AT)
    exponent = float(module._EXPONENTS[2])
    seen, _ = law(drive, 1, exponent, 0.5, 0.3, 0.4)
    power = (drive.area / drive.area[:, -1:]) ** -exponent
    shrunk, _ = module._fit(power, -drive.annealed[1], seen, np.ones((1, 1, 60)))
    assert 0.5 * 0.4 < shrunk[0, 0, 2] < 0.4
    monkeypatch.setattr(module, "_SHRINK", 1e-8)
    beta, cost = module._fit(power, -drive.annealed[1], seen, np.ones((1, 1, 60)))
    np.testing.assert_allclose(beta[0, 0], [0.5, 0.3, 0.4], rtol=1e-8)
    assert cost[0, 0] < 1e-15


@pytest.mark.parametrize("memory", [0, 1, 2])
@pytest.mark.parametrize("falling", [True, False])
def test_the_end_of_a_cosine_is_told_from_its_first_60_per_cent(memory: int, falling: bool) -> None:
    """The law's own curve: what is averaged over exponents and memories and shrunk misses little; a power law most of it."""
    batch = grid(1, 600.0)
    drive = Drive.of([COSINE], batch, AT)
    seen, truth = law(drive, memory, float(module._EXPONENTS[2]), 0.5, 0.3, 0.4)
    sign = 1.0 if falling else -1.0
    batch = with_values(batch, sign * seen)
    weights = np.ones((1, 2, 60))
    weights[0, 1, 40:] = 0
    ahead, back = average_annealing(drive, batch, weights, falling=falling)
    to_come = seen[0, -1] - truth[0, -1]
    assert abs(sign * ahead[0, -1] - truth[0, -1]) < 0.1 * to_come
    np.testing.assert_allclose(sign * back[0, 0], seen[0], atol=0.2 * np.ptp(seen))
    blind, _ = average_form(get_form("pow3"), batch, weights, AT, falling=falling, lower=-np.inf, upper=np.inf)
    assert abs(sign * blind[0, -1] - truth[0, -1]) > 0.3 * to_come


def test_a_fall_that_has_not_begun_is_worth_nothing() -> None:
    batch = grid(1, 600.0)
    rng = np.random.default_rng(0)
    batch = with_values(batch, 0.5 + 0.3 * (batch.x / 600) ** -0.4 + 0.01 * rng.normal(size=batch.x.shape))
    weights = np.ones((1, 2, 60))
    drives = [Drive.of([s], batch, AT) for s in (WSD, decaying("wsd", 1000.0, start=601.0, shape="sqrt"))]
    power = (drives[0].area / drives[0].area[:, -1:]) ** -0.4
    beta, _ = module._fit(power, -drives[0].annealed[1], batch.y, weights)
    np.testing.assert_array_equal(beta[0, :, 2], 0.0)
    # so the forecast sees of the decay only that it slows the area down: it stays above that of a constant rate
    held = average_annealing(Drive.of([constant()], batch, AT), batch, weights, falling=True)[0]
    for drive in drives:
        ahead = average_annealing(drive, batch, weights, falling=True)[0]
        assert (held[0] < ahead[0]).all()
        assert (ahead[0] < batch.y[0].min() + 0.05).all()
        assert drive.fall[0, -1] == 1.0


def test_too_few_points_and_positions_before_the_peak_abstain() -> None:
    x = np.array([[100.0, 200.0, 300.0, 400.0, 0.0], [100.0, 200.0, 300.0, 400.0, 500.0]])
    batch = Batch.from_padded(x, 1 / np.maximum(x, 1), x > 0)
    drive = Drive.of([COSINE, COSINE], batch, np.tile(AT, (2, 1)))
    ahead, _ = average_annealing(drive, batch, (batch.weight)[:, None, :] * np.ones((1, 2, 1)), falling=True)
    assert np.isnan(ahead[0]).all()  # five coefficients and exponents want five points
    assert np.isfinite(ahead[1]).all()


def test_a_run_gets_in_a_batch_what_it_gets_alone() -> None:
    rng = np.random.default_rng(2)
    batch = grid(4, 600.0)
    batch = with_values(batch, 0.4 + (batch.x / 600) ** -0.5 + 0.02 * rng.normal(size=batch.x.shape))
    weights = np.ones((4, 3, 60))
    weights[:, 1, 30:] = 0
    weights[:, 2, 45:] = 0
    schedules = [COSINE, WSD, unknown(), constant()]
    whole = average_annealing(Drive.of(schedules, batch, np.tile(AT, (4, 1))), batch, weights, falling=True)
    for i, schedule in enumerate(schedules):
        row = slice(i, i + 1)
        alone = average_annealing(Drive.of([schedule], batch.take(row), AT), batch.take(row), weights[row], falling=True)
        for one, all_ in zip(alone, whole, strict=True):
            assert_close(one[0], all_[i])
