"""The size effect against closed forms of balanced designs and a dense restricted likelihood; coverage; refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from farfield.errors import InputError
from farfield.evals.size_effect import size_effect


def simulated(rng, families=9, models=5, slope=6.0, family_sd=4.0, residual_sd=1.5):
    count = rng.integers(1, models + 1, families) if models > 1 else np.ones(families, int)
    group = np.repeat(np.arange(families), count)
    x = rng.uniform(8, 12, group.size)
    u = rng.normal(0, family_sd, families)
    return 10**x, 10 + slope * x + u[group] + rng.normal(0, residual_sd, group.size), group


def test_balanced_families_have_a_closed_form():
    rng = np.random.default_rng(0)
    m, n_families = 4, 12
    x = np.tile([8.0, 9.0, 10.5, 12.0], n_families)
    group = np.repeat(np.arange(n_families), m)
    y = 3 * x + rng.normal(0, 2, n_families)[group] + rng.normal(0, 1, x.size)
    found = size_effect(10**x, y, group)
    centre = x[:m] - x[:m].mean()
    slope = np.mean([(centre @ y[group == g]) / (centre @ centre) for g in range(n_families)])
    means = np.array([y[group == g].mean() for g in range(n_families)])
    rest = y - means[group] - slope * (x - x[:m].mean())
    residual = (rest @ rest) / (x.size - n_families - 1)
    family = (m * means.var(ddof=1) - residual) / m
    assert found.slope == pytest.approx(slope, rel=1e-9)
    assert found.residual_sd**2 == pytest.approx(residual, rel=1e-6)
    assert found.family_sd**2 == pytest.approx(family, rel=1e-6)
    shrunk = family / (family + residual / m) * (means - means.mean())
    np.testing.assert_allclose([found.families[str(g)] for g in range(n_families)], shrunk, rtol=1e-5, atol=1e-9)
    assert found.covariance[1, 1] == pytest.approx(residual / (n_families * (centre @ centre)), rel=1e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_unbalanced_families_against_a_dense_restricted_likelihood(seed):
    rng = np.random.default_rng(seed)
    size, y, group = simulated(rng)
    z = rng.normal(size=y.size)
    found = size_effect(size, y + 2 * z, group, covariates={"data": z})
    x = np.stack([np.ones(y.size), np.log10(size), z], axis=1)
    same = (group[:, None] == group).astype(float)

    def deviance(theta):
        v = np.exp(2 * theta[0]) * same + np.exp(2 * theta[1]) * np.eye(y.size)
        inverse = np.linalg.inv(v)
        normal = x.T @ inverse @ x
        rest = y + 2 * z - x @ np.linalg.solve(normal, x.T @ inverse @ (y + 2 * z))
        return np.linalg.slogdet(v)[1] + np.linalg.slogdet(normal)[1] + rest @ inverse @ rest

    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
    best = min(
        (optimize.minimize(deviance, s, method="Nelder-Mead", options=options) for s in ([1, 0.5], [0, 0])), key=lambda r: r.fun
    )
    assert found.family_sd == pytest.approx(np.exp(best.x[0]), rel=1e-4)
    assert found.residual_sd == pytest.approx(np.exp(best.x[1]), rel=1e-4)
    v = found.family_sd**2 * same + found.residual_sd**2 * np.eye(y.size)
    inverse = np.linalg.inv(v)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(x.T @ inverse @ x), rtol=1e-8)
    np.testing.assert_allclose(found.coefficients, found.covariance @ x.T @ inverse @ (y + 2 * z), rtol=1e-8)
    effects = found.family_sd**2 * np.array([(inverse @ (y + 2 * z - x @ found.coefficients))[group == g].sum() for g in range(9)])
    np.testing.assert_allclose(list(found.families.values()), effects, rtol=1e-7, atol=1e-9)


def test_without_family_effects_it_is_least_squares_and_simpson_s_paradox_shows():
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(8), 4)
    x = 11 - 0.4 * group + np.tile([0.0, 0.3, 0.6, 0.9], 8)
    y = 5 * x + 4 * group + rng.normal(0, 0.5, 32)  # families of small models are the better ones
    plain = size_effect(10**x, y, group, family_effects=False)
    np.testing.assert_allclose(plain.coefficients[::-1], np.polyfit(x, y, 1), rtol=1e-9)
    assert plain.family_sd == 0
    assert plain.slope < 0 < 4 < size_effect(10**x, y, group).slope < 6


def test_intervals_cover_the_slope_and_new_families():
    hits, inside = 0, 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        size, y, group = simulated(rng, families=10)
        keep = group != 9
        found = size_effect(size[keep], y[keep], group[keep])
        low, high = found.interval(0.8)["log10 size"]
        hits += low <= 6 <= high
        a, b = found.predict(size[~keep][:1]).interval(0.8)
        inside += bool(a[0] <= y[~keep][0] <= b[0])
    # 100 draws of 0.8 lie in 66..92 with probability 0.999; the slope's intervals are meant to be on the wide side
    assert 66 <= hits <= 97
    assert 66 <= inside <= 92


def test_one_model_a_family_is_least_squares_in_effect():
    size, y, group = simulated(np.random.default_rng(5), families=20, models=1)
    found = size_effect(size, y, group)
    np.testing.assert_allclose(found.coefficients[::-1], np.polyfit(np.log10(size), y, 1), rtol=1e-8)


def test_what_it_prints_and_draws(tmp_path):
    found = size_effect(*simulated(np.random.default_rng(6)))
    assert "a decade" in repr(found)
    rows = found.brackets(1.0)
    assert sum(r["models"] for r in rows) == found.size.size
    assert found.to_dict()["coefficients"]["log10 size"] == found.slope
    assert len(found.summary().splitlines()) == 3 + len(found.brackets())
    assert found.to_frame().height == 9
    found.plot().figure.savefig(tmp_path / "size.svg")
    assert 0 < found.r2[0] < found.r2[1] < 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"size": [0.0, 1, 2, 3]}, "above 0"),
        ({"score": [1, 2, np.nan, 3]}, "not finite"),
        ({"group": ["a", "a", "b", "b"]}, "2 families for 2"),
        ({"group": ["a", "b"]}, "one family a model"),
        ({"covariates": {"data": np.log10([1e8, 1e9, 1e10, 1e11])}}, "told apart"),
    ],
)
def test_refusals(change, match):
    options = {"size": [1e8, 1e9, 1e10, 1e11], "score": [1.0, 2, 3, 5], "group": ["a", "b", "c", "d"]} | change
    with pytest.raises(InputError, match=match):
        size_effect(options.pop("size"), options.pop("score"), options.pop("group"), **options)
    with pytest.raises(InputError, match="needed: none"):
        size_effect(*simulated(np.random.default_rng(0))).predict([1e9], {"data": [1.0]})
