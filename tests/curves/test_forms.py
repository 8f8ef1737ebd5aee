"""Curve forms against mpmath: every formula is written down again here from the literature, and differentiated numerically."""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest

from farfield.curves.forms import ALIASES, FORMS, Form, get_form
from farfield.errors import InputError

# u seen far below, at and beyond the last point
U = np.array([1e-3, 0.03, 0.4, 1.0, 2.5, 40.0])


def bounded_power(u: mp.mpf, k: mp.mpf, b: mp.mpf, alpha: mp.mpf) -> mp.mpf:
    """The root s in (0, 1) of s / (1 - s)^alpha = (k u)^-b, searched in z = log(s / (1 - s))."""
    target = -b * mp.log(k * u)
    z = mp.findroot(lambda z: z + (alpha - 1) * mp.log1p(mp.exp(z)) - target, (-400, 400), solver="anderson", tol=mp.mpf(10) ** -70)
    return 1 / (1 + mp.exp(-z))


def broken(u: mp.mpf, c0: mp.mpf, *breaks: mp.mpf) -> mp.mpf:
    out = u ** -mp.exp(c0)
    for log_d, c, log_f in zip(breaks[::3], breaks[1::3], breaks[2::3], strict=True):
        d, f = mp.exp(log_d), mp.exp(log_f)
        out *= (1 + (u / d) ** (1 / f)) ** (-c * f)
    return out


# theta as searched: positive parameters by their logarithms
ORACLES = {
    "pow2": lambda u, b: u ** -mp.exp(b),
    "pow3": lambda u, b: u ** -mp.exp(b),
    "pow4": lambda u, b, d: (u + mp.exp(d)) ** -mp.exp(b),
    "exp2": lambda u, k: mp.exp(-mp.exp(k) * u),
    "exp3": lambda u, k: mp.exp(-mp.exp(k) * u),
    "exp4": lambda u, k, d: mp.exp(-mp.exp(k) * u ** mp.exp(d)),
    "mmf": lambda u, k, d: 1 / (1 + (mp.exp(k) * u) ** mp.exp(d)),
    "logpower": lambda u, k, d: 1 / (1 + (mp.exp(k) * u) ** mp.exp(d)),
    "sigmoid": lambda u, k, d: 1 / (1 + (mp.exp(k) * u) ** -mp.exp(d)),
    "ilog2": lambda x: 1 / mp.log(x + 1),
    "loglin": lambda u: -mp.log(u),
    "loglog": lambda x, d: -mp.log(mp.log(x + 1) + mp.exp(d)),
    "vapour": lambda u, b, d: mp.exp(b / u + d * mp.log(u)),
    "m3": lambda u, b, d: (1 / u + mp.exp(d)) ** mp.exp(b),
    "m4": lambda u, k, b, alpha: bounded_power(u, mp.exp(k), mp.exp(b), mp.exp(alpha)),
    "bnsl1": broken,
    "bnsl2": broken,
}


def thetas(form: Form, n: int, seed: int = 0) -> np.ndarray:
    """Starts of the form, moved off the grid and kept inside its box."""
    rng = np.random.default_rng(seed)
    starts = form.starts[rng.integers(len(form.starts), size=n)]
    return np.clip(starts + rng.uniform(-0.3, 0.3, starts.shape), form.lower + 0.01, form.upper - 0.01)


def partial(oracle: Callable[..., mp.mpf], u: mp.mpf, t: list[mp.mpf], k: int) -> float:
    """Central difference in t[k], at the precision in force."""
    return float(mp.diff(lambda v: oracle(u, *t[:k], v, *t[k + 1 :]), t[k], h=mp.mpf(10) ** -25))


def test_every_form_has_an_oracle():
    assert set(ORACLES) == set(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_values_and_derivatives_against_mpmath(name):
    form, oracle = FORMS[name], ORACLES[name]
    for theta in thetas(form, 4):
        phi, dphi = form.basis(U[None], theta[None])
        g, dg = phi[0, -1], dphi[0, :, -1]
        with mp.workdps(80):
            t = [mp.mpf(float(v)) for v in theta]
            want = np.array([float(oracle(mp.mpf(u), *t)) for u in U])
            slopes = np.array([[partial(oracle, mp.mpf(u), t, k) for u in U] for k in range(len(t))]).reshape(len(t), U.size)
        # an exponent of size E carries E units in the last place into its power, and E is log g
        digits = 1e-12 + 4e-16 * np.abs(np.log(np.maximum(np.abs(want), 1e-300)))
        assert np.all(np.abs(g - want) <= digits * np.abs(want) + 1e-300), (theta, g, want)
        # a derivative may be a difference of terms of the size of g
        assert np.all(np.abs(dg - slopes) <= digits * (np.abs(slopes) + 1e-2 * np.abs(want)) + 1e-300), (theta, dg, slopes)
        assert phi.shape[1] == 1 + form.offset
        assert not form.offset or (phi[0, 0] == 1).all()
        assert not dphi[0, :, :-1].any()


def test_the_implicit_root_holds_far_out():
    form = FORMS["m4"]
    rng = np.random.default_rng(1)
    theta = rng.uniform(form.lower, form.upper, (200, 3))
    u = np.exp(rng.uniform(-12, 4, (200, 6)))
    s = form.values(u, theta)
    assert np.all((s >= 0) & (s <= 1))
    k, b, alpha = np.exp(theta.T)[:, :, None]
    inside = (s > 1e-200) & (s < 1 - 1e-6)  # where 1 - s keeps its digits
    left = np.log(s, where=inside, out=np.zeros_like(s)) - alpha * np.log1p(-s, where=inside, out=np.zeros_like(s))
    right = -b * np.log(k * u)
    assert inside.mean() > 0.3
    assert np.all(np.abs(left - right)[inside] <= 1e-9 * (1 + np.abs(right[inside])))


def test_the_implicit_root_with_alpha_one_is_the_hill_form():
    theta = np.array([[0.4, 0.2, 0.0]])
    np.testing.assert_allclose(FORMS["m4"].values(U[None], theta), FORMS["mmf"].values(U[None], theta[:, :2]), rtol=1e-12)


def test_no_derivative_is_wrong_anywhere_in_the_box():
    # central differences in double precision, all over the box, where the form is neither saturated nor cut off
    rng = np.random.default_rng(2)
    for form in FORMS.values():
        theta = rng.uniform(np.maximum(form.lower, -3) + 0.01, np.minimum(form.upper, 3) - 0.01, (300, len(form.parameters)))
        u = np.exp(rng.uniform(-2, 2, (300, 5)))
        _, dphi = form.basis(u, theta)
        g = form.values(u, theta)
        for k in range(len(form.parameters)):
            step = np.zeros(len(form.parameters))
            step[k] = 1e-5
            difference = (form.values(u, theta + step) - form.values(u, theta - step)) / 2e-5
            fine = (np.abs(g) > 1e-100) & (np.abs(g) < 1e100)
            error = np.abs(dphi[:, k, -1] - difference)
            scale = np.abs(difference) + np.abs(g) + 1e-12
            # the difference quotient's own error grows with the cube of the logarithmic slope
            bend = 1 + (np.abs(dphi[:, k, -1]) / np.maximum(np.abs(g), 1e-12)) ** 2
            assert np.all((error / (scale * bend))[fine] < 1e-7), (form, form.parameters[k])


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_whole(name):
    form = FORMS[name]
    p = len(form.parameters)
    assert form.name == name
    assert form.starts.shape[1:] == form.lower.shape == form.upper.shape == (p,)
    assert np.all((form.starts >= form.lower) & (form.starts <= form.upper))
    assert len(np.unique(form.starts, axis=0)) == len(form.starts)
    assert form.n_parameters == p + 1 + form.offset
    assert repr(form) == f"Form({name}: {form.formula})"
    # finite at every corner of the box, over 18 decades of u, with squares that are finite too
    corners = np.array(np.meshgrid(*zip(form.lower, form.upper, strict=True))).reshape(p, -1).T if p else np.zeros((1, 0))
    u = np.broadcast_to(np.geomspace(1e-9, 1e9, 37), (len(corners), 37))
    phi, dphi = form.basis(u, corners)
    assert np.isfinite(phi**2).all()
    assert np.isfinite(dphi).all()


@pytest.mark.parametrize("name", [n for n, f in FORMS.items() if f.offset and not n.startswith("bnsl")])
def test_forms_with_an_offset_fall(name):
    form = FORMS[name]
    rng = np.random.default_rng(3)
    theta = rng.uniform(form.lower, form.upper, (200, len(form.parameters)))
    g = form.values(np.broadcast_to(np.geomspace(1e-3, 1e3, 60), (200, 60)), theta)
    assert np.all(np.diff(g, axis=1) <= 1e-12 * np.abs(g).max(axis=1, keepdims=True))


def test_values_broadcast_over_leading_axes():
    form = FORMS["exp4"]
    u = np.linspace(0.1, 1, 12).reshape(3, 1, 4)
    g = form.values(u, form.starts[None])
    assert g.shape == (3, len(form.starts), 4)
    np.testing.assert_array_equal(g[1, 5], form.values(u[1], form.starts[5]).ravel())


def test_aliases():
    for alias, name in ALIASES.items():
        assert alias not in FORMS
        assert get_form(alias) is FORMS[name]
    assert get_form("POW3") is get_form("Power") is FORMS["pow3"]
    assert get_form("Janoschek") is get_form("weibull") is FORMS["exp4"]


def test_an_unknown_form_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown curve form 'powr3'; nearest: pow3, .*are allowed"):
        get_form("powr3")


@pytest.mark.parametrize("n", [3, 4])
def test_a_broken_power_law_with_more_breaks_is_made_when_asked_for(n: int) -> None:
    form = get_form(f"bnsl{n}")
    assert form is get_form(f"BNSL{n}")
    assert form.n_parameters == 3 * n + 3
    rng = np.random.default_rng(n)
    u, theta = np.exp(rng.uniform(-3, 1, 9)), form.starts[5]
    t = dict(zip(form.parameters, theta, strict=True))
    slow = u ** -np.exp(t["log c0"])
    for i in range(1, n + 1):
        d, c, f = np.exp(t[f"log d{i}"]), t[f"c{i}"], np.exp(t[f"log f{i}"])
        slow = slow * (1 + (u / d) ** (1 / f)) ** (-c * f)
    np.testing.assert_allclose(form.values(u[None], theta[None])[0], slow, rtol=1e-12)
