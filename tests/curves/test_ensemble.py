"""The outlook of single curves: shares by hidden tails in a slow loop, naive members by hand, and no look at what is hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from farfield.curves import ensemble
from farfield.curves.data import Metric
from farfield.curves.drive import Drive
from farfield.curves.ensemble import ANNEALING, AUTO, outlook
from farfield.curves.fit import Batch
from farfield.curves.forms import FORMS
from farfield.curves.schedules import Schedule, constant, decaying, unknown
from tolerances import assert_close

LOSS, ACCURACY = Metric("loss", "min", lower=0.0), Metric("accuracy", "max", 0.0, 1.0)
EVERY = (*AUTO, *(n for n in FORMS if n not in AUTO))


def curves(n: int = 6, width: int = 30, *, seed: int = 0, rising: bool = False) -> tuple[Batch, np.ndarray]:
    """Noisy curves of 3 to `width` points and two positions beyond each."""
    rng = np.random.default_rng(seed)
    count = np.concatenate([[3, 4, 5], rng.integers(6, width + 1, n - 3)])
    x = np.cumsum(rng.uniform(0.5, 3, (n, width)), axis=1)
    y = 0.3 + rng.uniform(0.2, 0.5, (n, 1)) * x ** -rng.uniform(0.2, 1.2, (n, 1)) + 0.01 * rng.normal(size=(n, width))
    seen = np.arange(width) < count[:, None]
    batch = Batch.from_padded(x, np.where(seen, 1 - y if rising else y, 0), seen)
    return batch, batch.last[:, None] * np.array([1.5, 4.0])


def beginnings(count: int) -> list[int]:
    return [int(np.clip(np.ceil(count * share), 2, count - 1)) for share in (0.5, 0.7, 0.85)]


def parts(
    batch: Batch, at: np.ndarray, metric: Metric, members: tuple[str, ...], drive: Drive | None = None
) -> tuple[np.ndarray, ...]:
    """Members' values ahead, and at the batch's points from each beginning."""
    index = np.arange(batch.x.shape[1])
    kept = np.array([[int(c), *beginnings(int(c))] for c in batch.count])
    return ensemble._forecasts(batch, index < kept[:, :, None], at, metric, members, drive, None)


def test_shares_fall_with_the_errors_on_hidden_tails() -> None:
    batch, at = curves(8)
    found = outlook(batch, at, LOSS)
    ahead, back = parts(batch, at, LOSS, AUTO)
    for i in range(len(batch)):
        n, y = int(batch.count[i]), batch.y[i]
        error = np.array(
            [[np.sqrt(np.mean((back[i, j, t, k:n] - y[k:n]) ** 2)) for t, k in enumerate(beginnings(n))] for j in range(9)]
        )
        floor = 0.1 * np.median(error) + 1e-9 * np.abs(y[:n]).max()
        share = np.prod(error + floor, axis=1) ** -ensemble._SHARPNESS
        share /= share.sum()
        np.testing.assert_allclose(found.weights[i], share, rtol=1e-10)
        centre = sum(share[j] * ahead[i, j] for j in range(9))
        spread = np.sqrt(sum(share[j] * (ahead[i, j] - centre) ** 2 for j in range(9)))
        typical = np.prod((error + floor).min(axis=0)) ** (1 / 3)
        np.testing.assert_allclose(found.centre[i], centre, rtol=1e-10)
        np.testing.assert_allclose(found.scale[i], np.abs(centre - y[n - 1]) + spread + typical, rtol=1e-9)
    np.testing.assert_array_equal(found.values, ahead)


@pytest.mark.parametrize("metric", [LOSS, ACCURACY], ids=["min", "max"])
def test_naive_members_by_hand(metric: Metric) -> None:
    batch, at = curves(7, rising=metric.goal == "max")
    best = min if metric.goal == "min" else max
    ahead, back = parts(batch, at, metric, ("last", "best", "mean5"))
    for i in range(len(batch)):
        n = int(batch.count[i])
        for t, k in enumerate([n, *beginnings(n)]):
            y = batch.y[i, :k].tolist()
            want = [y[-1], best(y), float(np.mean(y[-5:]))]
            got = ahead[i] if t == 0 else back[i, :, t - 1]
            assert_close(got, np.tile(np.array(want)[:, None], got.shape[1]))


@pytest.mark.parametrize("name", EVERY)
def test_what_a_beginning_says_is_blind_to_the_rest(name: str) -> None:
    """Values after a beginning may be anything: what was forecast from it stays the same bit for bit."""
    batch, at = curves(6)
    _, back = parts(batch, at, LOSS, (name,))
    rng = np.random.default_rng(1)
    for t in range(3):
        kept = np.array([beginnings(int(c))[t] for c in batch.count])
        after = (np.arange(batch.x.shape[1]) >= kept[:, None]) & (batch.weight > 0)
        altered = replace(batch, y=np.where(after, rng.uniform(0, 100, batch.y.shape), batch.y))
        _, again = parts(altered, at, LOSS, (name,))
        np.testing.assert_array_equal(again[:, 0, t], back[:, 0, t])


@pytest.mark.parametrize("name", EVERY)
def test_every_member_stays_within_the_bounds(name: str) -> None:
    batch, at = curves(6)
    at = np.concatenate([at, 1e6 * batch.last[:, None]], axis=1)
    narrow = Metric("loss", "min", lower=float(batch.y[batch.weight > 0].min()), upper=float(batch.y.max()))
    ahead, back = parts(batch, at, narrow, (name,))
    for values in (ahead, back):
        # means of clipped values may leave the bounds by rounding
        assert (values >= narrow.lower - 1e-12).all()
        assert (values <= narrow.upper + 1e-12).all()


def test_a_member_that_only_worsens_abstains_to_the_last_value() -> None:
    x = np.arange(1.0, 31.0)[None]
    batch = Batch.from_padded(x, np.sqrt(x), np.ones_like(x))
    found = outlook(batch, 2 * batch.last[:, None], Metric())
    forms = [j for j, name in enumerate(found.members) if name not in ensemble.NAIVE]
    np.testing.assert_array_equal(found.values[0, forms, 0], batch.y[0, -1])


def test_the_description_of_the_seen_curve() -> None:
    x = np.array([[1.0, 2, 4, 8, 16, 32, 64, 100]])
    y = np.array([[9.0, 7, 5, 4, 2, 3.5, 3, 2.5]])
    batch = Batch.from_padded(x, y, np.ones_like(x))
    found = outlook(batch, np.array([[150.0, 200.0]]), Metric())
    scale = found.scale[0, -1]
    nearest = [2.5, 3, 3, 3.5, 3.5, 2, 4]  # in log x to 90, 70, 50, 35, 25, 12 and 6
    want = [(v - 2.5) / scale for v in [*nearest, 2.0]] + [(found.centre[0, -1] - 2.5) / scale]
    assert_close(found.features[0, :9], want)
    assert 0 < found.features[0, 9] < 1  # disagreement, a part of the scale
    assert_close(found.features[0, 10:13], [2.5, np.log(scale), np.log(8)])


def test_roughness_is_how_far_late_points_lie_off_the_line_through_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.uniform(0.5, 3.0, (3, 15)), axis=1)
    y = 1.0 / x + rng.normal(0.0, [[0.01], [0.1], [0.0]], (3, 15))
    y[2] = 2.0 - 0.3 * np.log(x[2])  # a line in log x has none
    counts = [15, 6, 15]
    weight = (np.arange(15) < np.array(counts)[:, None]).astype(float)
    batch = Batch.from_padded(x, y, weight)
    found = outlook(batch, 2 * batch.last[:, None], Metric())
    for i, count in enumerate(counts):
        off = []
        for j in range(max(1, count - 9), count - 1):
            a, b, c = np.log(x[i, j - 1 : j + 2])
            to = (b - a) / (c - a)
            line = (1 - to) * y[i, j - 1] + to * y[i, j + 1]
            off.append((y[i, j] - line) ** 2 / (1 + to**2 + (1 - to) ** 2))
        assert len(off) == min(8, count - 2)
        assert_close(found.features[i, 13], np.log(np.sqrt(np.mean(off)) / found.scale[i, -1] + 0.01))


def test_roughness_measures_noise() -> None:
    rng = np.random.default_rng(1)
    x = np.tile(np.arange(1.0, 41.0), (400, 1))
    batch = Batch.from_padded(x, 2.0 - 0.3 * np.log(x) + 0.05 * rng.normal(size=x.shape), np.ones_like(x))
    rough = np.sqrt(np.mean(ensemble._roughness(batch) ** 2))
    assert 0.045 < rough < 0.055


def test_a_row_is_what_it_is_alone_and_padding_does_not_matter() -> None:
    batch, at = curves(8)
    whole = outlook(batch, at, LOSS)
    for i in range(len(batch)):
        n = int(batch.count[i])
        one = Batch(batch.x[i : i + 1, :n], batch.y[i : i + 1, :n], batch.weight[i : i + 1, :n], batch.last[[i]], batch.shift[[i]])
        alone = outlook(one, at[i : i + 1], LOSS)
        for name in ("values", "weights", "centre", "scale", "features"):
            np.testing.assert_allclose(getattr(alone, name)[0], getattr(whole, name)[i], rtol=1e-9, atol=1e-12)


def test_mirrored_curves_have_mirrored_outlooks() -> None:
    batch, at = curves(8)
    down = outlook(batch, at, Metric("y", "min", 0.1, 0.9))
    up = outlook(replace(batch, y=-batch.y), at, Metric("y", "max", -0.9, -0.1))
    np.testing.assert_allclose(up.centre, -down.centre, rtol=1e-12)
    for name in ("weights", "scale"):
        np.testing.assert_allclose(getattr(up, name), getattr(down, name), rtol=1e-12)


def test_a_constant_curve_is_continued() -> None:
    x = np.arange(1.0, 11.0)[None]
    found = outlook(Batch.from_padded(x, np.full(x.shape, 0.7), np.ones_like(x)), 3 * x[:, -1:], LOSS)
    assert_close(found.centre, [[0.7]])
    assert 0 < found.scale[0, 0] < 1e-8


# -- schedules ------------------------------------------------------------------------------------------------------------------


def scheduled(kinds: list[Schedule]) -> tuple[Batch, np.ndarray, Drive]:
    rng = np.random.default_rng(0)
    x = np.tile(np.arange(10.0, 610.0, 10.0), (len(kinds), 1))
    batch = Batch.from_padded(x, 0.4 + x**-0.3 + 0.01 * rng.normal(size=x.shape), np.ones_like(x))
    at = np.tile([[800.0, 1000.0]], (len(kinds), 1))
    return batch, at, Drive.of(kinds, batch, at)


def test_the_annealing_law_is_a_member_only_of_runs_whose_schedule_is_known() -> None:
    kinds = [decaying("cosine", 1000.0), unknown(), constant()]
    batch, at, drive = scheduled(kinds)
    whole = outlook(batch, at, LOSS, drive=drive)
    assert whole.members == (*AUTO, ANNEALING)
    assert whole.weights[1, -1] == 0
    assert (whole.weights[[0, 2], -1] > 0).all()
    assert_close(whole.weights.sum(axis=1), np.ones(3))
    # the run without a schedule is not moved by what is known of others
    one, at_one, drive_one = batch.take(np.array([1])), at[1:2], drive.take(np.array([1]))
    alone = outlook(one, at_one, LOSS, drive=drive_one)
    assert alone.members == AUTO
    for name in ("centre", "scale", "features", "course"):
        np.testing.assert_allclose(getattr(alone, name)[0], getattr(whole, name)[1], rtol=1e-9)


def test_a_decay_to_come_and_an_unknown_schedule_widen_the_outlook() -> None:
    batch, at, drive = scheduled([constant(), decaying("wsd", 1000.0, start=700.0), unknown()])
    batch = replace(batch, y=np.tile(batch.y[:1], (3, 1)))
    found = outlook(batch, at, LOSS, members=("last", "mean5"), drive=drive.take(np.array([0, 1, 2])))
    assert (found.scale[1, -1] > 1.5 * found.scale[0, -1]).all()
    assert (found.scale[2] > 1.5 * found.scale[0]).all()
    assert_close(found.course, [[1, 1, 0], [1, 0, 0], [0, 0, 1]])
