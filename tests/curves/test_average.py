"""Averages over a form's grid against a loop over curves, weightings and cells with a least-squares solver."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.curves import average
from farfield.curves.average import average_form
from farfield.curves.fit import Batch
from farfield.curves.forms import FORMS, get_form
from tolerances import assert_close

NAMES = ("pow3", "exp3", "exp4", "mmf", "ilog2", "loglin", "loglog", "pow2", "logpower")


def slow(
    name: str, x: np.ndarray, y: np.ndarray, weights: np.ndarray, at: np.ndarray, falling: bool, lower: float, upper: float
) -> tuple[np.ndarray, np.ndarray]:
    """For one curve: values at `at` (m,) by the first weighting, and at x (n,) by each other one; a loop over cells."""
    form = get_form(name)
    last = x[-1]
    unit = last if form.scale_free else 1.0
    out = []
    for k, w in enumerate(weights):
        used = w > 0
        freedom = max(w.sum() ** 2 / (w**2).sum() - form.n_parameters, 1.0)
        fits = []
        for theta in form.starts:

            def columns(u: np.ndarray, theta: np.ndarray = theta) -> np.ndarray:
                g = form.values(u, theta)
                return np.stack([np.ones_like(g), g], axis=1) if form.offset else g[:, None]

            root = np.sqrt(w[used])
            design = columns(x[used] / unit)
            size = np.abs(design).max(axis=0)  # shapes may be as small as 1e-40; the solver would take them for zero
            beta = np.linalg.lstsq(design / size * root[:, None], y[used] * root, rcond=None)[0] / size
            rss = float((w[used] * (design @ beta - y[used]) ** 2).sum())
            target = at if k == 0 else x
            value = columns(target / unit) @ beta
            improves = not form.offset or (beta[-1] > 0) == falling
            fits.append((rss, improves, np.clip(value, lower, upper) if k == 0 else value))
        least = min(rss for rss, _, _ in fits)
        shares = [np.exp(-0.5 / 3.0 * freedom * (rss / least - 1.0)) * improves for rss, improves, _ in fits]
        out.append(sum(s * v for s, (_, _, v) in zip(shares, fits, strict=True)) / sum(shares))
    return out[0], np.stack(out[1:])


def problem(n: int, width: int, *, shared: bool, rising: bool = False, seed: int = 0) -> tuple[Batch, np.ndarray, np.ndarray]:
    """Noisy power laws, weights of the whole curve and two beginnings, and positions ahead."""
    rng = np.random.default_rng(seed)
    count = np.full(n, width) if shared else rng.integers(8, width + 1, n)
    x = np.arange(1.0, width + 1) * 3 if shared else np.cumsum(rng.uniform(0.5, 3, (n, width)), axis=1)
    x = np.broadcast_to(x, (n, width))
    y = 0.4 + rng.uniform(0.5, 2, (n, 1)) * x ** -rng.uniform(0.2, 1.2, (n, 1)) + 0.03 * rng.normal(size=(n, width))
    seen = np.arange(width) < count[:, None]
    batch = Batch.from_padded(x, (1.0 - y if rising else y) * seen, seen)
    index = np.arange(width)
    begins = np.stack([seen, index < (count // 2)[:, None], index < (3 * count // 4)[:, None]], axis=1)
    weights = begins * np.sqrt(batch.x / batch.last[:, None])[:, None, :]
    at = batch.last[:, None] * np.array([1.3, 2.0, 5.0])
    return batch, weights, at


@pytest.mark.parametrize("rising", [False, True], ids=["falling", "rising"])
@pytest.mark.parametrize("shared", [False, True], ids=["ragged", "shared grid"])
@pytest.mark.parametrize("name", NAMES)
def test_against_the_slow_loop(name: str, shared: bool, rising: bool) -> None:
    batch, weights, at = problem(5, 20, shared=shared, rising=rising)
    ahead, back = average_form(get_form(name), batch, weights, at, falling=not rising, lower=0.1, upper=0.9)
    for i in range(len(batch)):
        n = int(batch.count[i])
        want, behind = slow(name, batch.x[i, :n], batch.y[i, :n], weights[i, :, :n], at[i], not rising, 0.1, 0.9)
        # shares are exponentials of ratios of residuals, which lose some digits
        np.testing.assert_allclose(ahead[i], want, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(back[i, :, :n], behind, rtol=1e-8, atol=1e-9 * np.abs(behind).max())


@pytest.mark.parametrize("name", NAMES)
def test_a_shared_grid_gives_what_each_curve_gets_alone(name: str) -> None:
    batch, weights, at = problem(6, 15, shared=True)
    whole = average_form(get_form(name), batch, weights, at, falling=True, lower=-np.inf, upper=np.inf)
    for i in range(len(batch)):
        row = slice(i, i + 1)
        alone = average_form(get_form(name), batch.take(row), weights[row], at[row], falling=True, lower=-np.inf, upper=np.inf)
        for one, all_ in zip(alone, whole, strict=True):
            np.testing.assert_allclose(one[0], all_[i], rtol=1e-10, atol=1e-10)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, weights, at = problem(30, 25, shared=False)
    settings = {"falling": True, "lower": -np.inf, "upper": np.inf}
    whole = average_form(get_form("mmf"), batch, weights, at, **settings)  # type: ignore[arg-type]
    monkeypatch.setattr(average, "_BLOCK", 1)
    for one, all_ in zip(average_form(get_form("mmf"), batch, weights, at, **settings), whole, strict=True):  # type: ignore[arg-type]
        assert_close(one, all_)


@pytest.mark.parametrize("name", [n for n in NAMES if FORMS[n].offset])
def test_a_mirrored_curve_has_the_mirrored_forecast(name: str) -> None:
    batch, weights, at = problem(4, 18, shared=False)
    down = average_form(get_form(name), batch, weights, at, falling=True, lower=-1.0, upper=0.5)
    mirrored = Batch(batch.x, -batch.y, batch.weight, batch.last, batch.shift)
    up = average_form(get_form(name), mirrored, weights, at, falling=False, lower=-0.5, upper=1.0)
    for a, b in zip(down, up, strict=True):
        np.testing.assert_array_equal(a, -b)


@pytest.mark.parametrize("cell", [0, 5, 15])
def test_a_curve_of_the_grid_is_continued_exactly(cell: int) -> None:
    form = get_form("pow3")
    b = float(np.exp(form.starts[cell, 0]))
    x = np.arange(1.0, 41.0)[None]
    batch = Batch.from_padded(x, 0.3 + 2.0 * x**-b, np.ones_like(x))
    at = np.array([[80.0, 400.0]])
    ahead, back = average_form(form, batch, np.ones((1, 2, 40)), at, falling=True, lower=-np.inf, upper=np.inf)
    # residuals of the right cell are floored at 1e-12 of the variance: every other cell has no share
    np.testing.assert_allclose(ahead, 0.3 + 2.0 * at**-b, rtol=1e-9)
    np.testing.assert_allclose(back[0, 0], batch.y[0], rtol=1e-9)


@pytest.mark.parametrize("name", [n for n in NAMES if FORMS[n].offset])
@pytest.mark.parametrize("shape", ["worsens", "constant"])
def test_a_curve_that_does_not_improve_gets_no_forecast(name: str, shape: str) -> None:
    x = np.arange(1.0, 21.0)[None]
    batch = Batch.from_padded(x, {"worsens": np.log(x), "constant": np.full(x.shape, 0.5)}[shape], np.ones_like(x))
    for goal in (True,) if shape == "worsens" else (True, False):
        ahead, back = average_form(get_form(name), batch, np.ones((1, 2, 20)), 2 * x, falling=goal, lower=-9.0, upper=9.0)
        assert np.isnan(ahead).all()
        assert np.isnan(back).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", [np.geomspace(1e-9, 1e9, 30), 1e12 + np.arange(30.0), np.r_[1.0, 1e6 + 1e-3 * np.arange(29)]])
def test_grids_on_which_shapes_hardly_vary_give_finite_values(name: str, x: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    batch = Batch.from_padded(x[None], 0.5 + 0.1 * rng.normal(size=(1, 30)), np.ones((1, 30)))
    weights = np.ones((1, 2, 30)) * (np.arange(30) < np.array([[30], [15]]))
    ahead, back = average_form(get_form(name), batch, weights, 2 * batch.last[:, None], falling=True, lower=-1e3, upper=1e3)
    assert not np.isinf(ahead).any()
    # squares of what was forecast at seen points must stay finite
    assert not (np.abs(back) > 1e100).any()
