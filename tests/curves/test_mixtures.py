"""Scores of mixtures: the regression by a loop, gradients by finite differences, stage 2 by its formula, the choice by search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from farfield.curves import mixtures
from farfield.curves.mixtures import MixtureScaling, mixture_counts, pilot_scores, project_simplex, simplex_grid
from farfield.errors import InputError
from tolerances import assert_close

SIZES = (100, 200)


def clouds(seed=0, n=25):
    """Three sources of two labels, and a target that looks like the first two mixed."""
    rng = np.random.default_rng(seed)
    out = []
    for shift, flipped in ((-1.0, 0.0), (1.5, 0.0), (0.0, 0.5)):
        y = rng.integers(0, 2, n)
        x = rng.normal(size=(n, 3)) + np.outer(np.where(y, 2.0, -2.0), [1, 0, 0]) + [0, shift, 0]
        out.append((x, np.where(rng.uniform(size=n) < flipped, 1 - y, y)))
    y = rng.integers(0, 2, 40)
    target = rng.normal(size=(40, 3)) + np.outer(np.where(y, 2.0, -2.0), [1, 0, 0]), y
    return out, target


@pytest.fixture(name="fitted", scope="module")
def _fitted():
    sources, target = clouds()
    tried = simplex_grid(3, 4)
    at = MixtureScaling(n_boot=0).fit(sources, target, tried, np.full((15, 2), 0.5), SIZES).distance(tried)
    truth = np.stack([0.8 - 0.6 * at - 0.1 * tried[:, 2], 0.9 - 0.7 * at - 0.15 * tried[:, 2] ** 2], axis=1)
    noisy = truth + 0.003 * np.random.default_rng(1).normal(size=truth.shape)
    return MixtureScaling(n_boot=40, random_state=0).fit(sources, target, tried, noisy, SIZES), tried, truth


def test_the_grid_and_the_counts_by_enumeration():
    grid = simplex_grid(3, 10)
    every = {t for t in itertools.product(range(11), repeat=3) if sum(t) == 10}
    assert {tuple(np.rint(10 * q).astype(int)) for q in grid} == every
    assert len(grid) == len(every) == 66
    assert mixture_counts([1 / 3, 1 / 3, 1 / 3], 100).tolist() == [34, 33, 33]
    assert mixture_counts([0.25, 0.0, 0.75], 3).tolist() == [1, 0, 2]
    assert all(mixture_counts(q, 37).sum() == 37 for q in grid)


def test_projection_is_the_nearest_point_of_the_simplex():
    rng = np.random.default_rng(0)
    fine = simplex_grid(3, 200)
    for v in rng.normal(size=(20, 3)):
        p = project_simplex(v)
        assert p.sum() == pytest.approx(1)
        assert p.min() >= 0
        assert ((p - v) ** 2).sum() <= ((fine - v) ** 2).sum(1).min() + 1e-12


@pytest.mark.parametrize("strength", [0.0, 0.05])
def test_ridge_and_its_left_out_residuals_by_a_loop(strength):
    rng = np.random.default_rng(2)
    design = np.c_[np.ones(14), rng.normal(size=(14, 4)) * [1, 10, 0.1, 3]]
    y = rng.normal(size=14)

    def slow(rows):
        # the scales and centre of the whole design stay: leaving a row out changes the fit, not the penalty
        z = (design[:, 1:] - design[:, 1:].mean(0)) / design[:, 1:].std(0)
        a = np.c_[np.ones(len(rows)), z[rows]]
        penalty = 14 * strength * np.diag([0.0, 1, 1, 1, 1])
        beta = np.linalg.solve(a.T @ a + penalty, a.T @ y[rows])
        return np.c_[np.ones(14), z] @ beta

    found = mixtures._ridge(design, y, strength)
    assert_close(design @ found.coefficients, slow(np.arange(14)))
    assert_close(found.solve @ y, found.coefficients)
    left = [y[i] - slow(np.delete(np.arange(14), i))[i] for i in range(14)]
    assert_close(found.left_out, left)


def test_stage_two_by_its_formula_and_the_clamp(fitted):
    model, tried, _ = fitted
    p0, p1 = (model.expected(tried, n) for n in SIZES)
    for n in (400, 1000):
        line = (np.log(n / 100) * p1 - np.log(n / 200) * p0) / np.log(2)
        assert_close(model.expected(tried, n), np.clip(line, 0, 1))
    assert model.expected(tried, 10**9).max() == 1.0


def test_power_growth_is_a_power_law_of_the_error():
    sources, target = clouds()
    tried = simplex_grid(3, 3)
    error = np.outer(1 + tried[:, 0], [0.3, 0.2])
    model = MixtureScaling(growth="power", ridge=0.0, n_boot=0, use_distance=False).fit(sources, target, tried, 1 - error, SIZES)
    assert model.expected(tried, 800) == pytest.approx(1 - error[:, 0] * (2 / 3) ** 3, rel=1e-6)


def test_a_surface_of_this_form_is_recovered(fitted):
    model, tried, truth = fitted
    assert np.abs(model.expected(tried, 200) - truth[:, 1]).max() < 0.01
    spread = model.predict(tried, 800)
    assert spread.values.shape == (40, 15)
    assert (spread.std() > model.predict(tried, 200).std()).mean() > 0.8  # stage 2 enlarges noise


@pytest.mark.parametrize("options", [{}, {"form": "pseudo-quadratic"}, {"growth": "power"}, {"use_distance": False}])
def test_the_gradient_is_finite_differences(fitted, options):
    _, tried, truth = fitted
    sources, target = clouds()
    model = MixtureScaling(n_boot=0, **options).fit(sources, target, tried, truth, SIZES)
    q, h = np.array([0.5, 0.3, 0.2]), 1e-3
    found = model.gradient(q, 400)
    for i, j in ((0, 1), (1, 2)):
        move = h * (np.eye(3)[i] - np.eye(3)[j])
        up, down = (model._unclamped(q + s * move, 400) for s in (1, -1))
        assert found[i] - found[j] == pytest.approx((up - down) / (2 * h), rel=2e-3, abs=1e-5)


def test_the_choice_is_no_worse_than_a_grid(fitted):
    model, *_ = fitted
    found = model.select(400)
    assert found.unclamped >= max(model._unclamped(q, 400) for q in simplex_grid(3, 10)) - 1e-4
    assert found.mixture.sum() == pytest.approx(1)
    assert found.mixture[2] < 0.2  # the noisy source
    assert "400 rows mixed" in found.summary()


def test_pilots_are_drawn_from_revealed_rows_in_the_mixture_asked_for():
    sources = [(np.full((30, 2), i, dtype=float), np.full(30, i)) for i in range(3)]
    seen = []

    def train(x, y):
        seen.append(np.bincount(y, minlength=3).tolist())
        return float((x[:, 0] == 0).mean())

    found = pilot_scores(sources, [[0.5, 0.5, 0], [1, 0, 0]], (10, 20), train, repeats=2, rng=0)
    assert found.tolist() == [[0.5, 0.5], [1.0, 1.0]]
    assert seen == [[5, 5, 0]] * 2 + [[10, 0, 0]] * 2 + [[10, 10, 0]] * 2 + [[20, 0, 0]] * 2


def test_refusals(fitted):
    model, tried, truth = fitted
    sources, target = clouds()
    for arguments, message in (
        ((sources[:1], target, tried, truth, SIZES), "two or more"),
        ((sources, target, tried * 1.1, truth, SIZES), "sum 1"),
        ((sources, target, tried, truth + 1, SIZES), "outside bounds"),
        ((sources, target, tried, truth[:4], SIZES), "scores has shape"),
        ((sources, target, tried, truth, (200, 100)), "smaller first"),
        ((sources, target, tried[:2], truth[:2], SIZES), "three or more"),
        (([*sources[:2], (np.zeros((4, 9)), np.zeros(4))], target, tried, truth, SIZES), "must agree"),
    ):
        with pytest.raises(InputError, match=message):
            MixtureScaling().fit(*arguments)
    with pytest.raises(InputError, match="mixtures has shape"):
        model.expected([[0.5, 0.5]], 100)
    for one_mixture in (lambda q: mixture_counts(q, 10), lambda q: model.gradient(q, 100)):
        with pytest.raises(InputError, match="mixture has shape"):
            one_mixture([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]])
    with pytest.raises(InputError, match="unknown form"):
        MixtureScaling("cubic")
    with pytest.raises(InputError, match="give bounds"):
        MixtureScaling(growth="power", bounds=None)
    with pytest.raises(InputError, match="revealed 25"):
        pilot_scores(sources, [[1, 0, 0]], (10, 26), lambda x, y: 0.0)
