"""Curve forms: y = c + a g(u; theta), one registry entry each.

A form is its *shape* g with derivatives in the nonlinear parameters theta, which are unconstrained (positive ones as
logarithms), a grid of starts for theta, and whether the offset c is free. The linear coefficients a and c are never
searched: they are solved for (see `farfield.leastsquares`). In every form with a free offset g falls towards the far end, so
that a > 0 is a falling curve and a < 0 a rising one (in the broken power laws, for ordinary parameters).

x is measured in units of the last seen point, u = x / x_last, except in the forms whose literature definition depends on
the unit (``scale_free=False``), which take x as it is.

Sources: pow2-4, exp2-4, ilog2, Janoschek, MMF/Hill, log-power, vapour pressure and log-log-linear as in Domhan et al. 2015
(Table 1) and Mohr et al. 2022; M1-M4 Alabdulmohsin et al. 2022 (Eqs. 1-4); broken power law Caballero et al. 2023 (Eq. 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from farfield.errors import unknown_name

FloatArray = NDArray[np.float64]

# (u (..., n), theta (p, ..., 1)) -> g (..., n), [dg/dtheta_k (..., n)]
Shape = Callable[[FloatArray, FloatArray], tuple[FloatArray, list[FloatArray]]]


@dataclass(frozen=True)
class Form:
    """One curve form ``y = c + a g(u; theta)``.

    Attributes
    ----------
    name, formula : its name and its formula in the parameters `parameters`
    parameters : names of the nonlinear parameters after their transforms (``log k`` is searched on the log scale)
    shape : g and its derivatives
    starts : (n_starts, p) grid of starts
    lower, upper : (p,) box for theta
    offset : whether c is free (else it is the given floor: 0, or the chance level)
    scale_free : whether u = x / x_last (else u = x)
    """

    name: str
    formula: str
    parameters: tuple[str, ...]
    shape: Shape
    starts: FloatArray
    lower: FloatArray
    upper: FloatArray
    offset: bool = True
    scale_free: bool = True

    def __repr__(self) -> str:
        return f"Form({self.name}: {self.formula})"

    @property
    def n_parameters(self) -> int:
        """Free parameters in all, linear ones included."""
        return len(self.parameters) + 1 + self.offset

    def values(self, u: FloatArray, theta: FloatArray) -> FloatArray:
        """g at `u` (..., n) for parameters `theta` (..., p), broadcast over the leading axes."""
        return self.shape(u, np.moveaxis(theta, -1, 0)[..., None])[0]

    def basis(self, u: FloatArray, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Columns ([1,] g) as (b, q, n) and their derivatives (b, p, q, n), for `u` (b, n) and `theta` (b, p)."""
        g, dg = self.shape(u, np.moveaxis(theta, -1, 0)[..., None])
        q = 1 + self.offset
        phi = np.ones((*g.shape[:1], q, g.shape[1]))
        phi[:, -1] = g
        dphi = np.zeros((g.shape[0], len(dg), q, g.shape[1]))
        for k, d in enumerate(dg):
            dphi[:, k, -1] = d
        return phi, dphi


def _grid(*axes: Sequence[float] | FloatArray) -> FloatArray:
    return np.array(list(product(*axes)), dtype=np.float64).reshape(-1, len(axes))


def _logs(low: float, high: float, n: int) -> FloatArray:
    return np.linspace(np.log(low), np.log(high), n)


_LOGS = (-300.0, 300.0)  # logarithms of g: its squares stay finite


def _share(z: FloatArray) -> FloatArray:
    """The logistic function, the share of which z is the logit."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(z, -600.0, 600.0))))


# -- shapes: u > 0, theta unconstrained ----------------------------------------------------------------------------------


def _power(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    b = np.exp(t[0])
    log_u = np.log(u)
    g = np.exp(-b * log_u)
    return g, [-b * log_u * g]


def _shifted_power(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    b, d = np.exp(t[0]), np.exp(t[1])
    log_v = np.log(u + d)
    g = np.exp(-b * log_v)
    return g, [-b * log_v * g, -b * g * d / (u + d)]


def _exponential(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    ku = np.exp(t[0]) * u
    g = np.exp(-ku)
    return g, [-ku * g]


def _stretched(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    d, log_u = np.exp(t[1]), np.log(u)
    z = np.exp(np.minimum(t[0] + d * log_u, 600.0))
    g = np.exp(-z)
    return g, [-z * g, -z * g * d * log_u]


def _logistic(u: FloatArray, t: FloatArray, sign: float) -> tuple[FloatArray, list[FloatArray]]:
    d = np.exp(t[1])
    z = np.clip(d * (t[0] + np.log(u)), -600.0, 600.0)
    odds = np.exp(sign * z)
    g = 1.0 / (1.0 + odds)
    slope = -sign * g * (odds * g)  # odds g is 1 - g with all its digits
    return g, [slope * d, slope * z]


def _hill(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    return _logistic(u, t, 1.0)


def _rising_hill(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    return _logistic(u, t, -1.0)


def _inverse_log(x: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    return 1.0 / np.log1p(np.maximum(x, 1e-12)), []


def _negative_log(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    return -np.log(u), []


def _log_log(x: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    d = np.exp(t[0])
    inner = np.log1p(np.maximum(x, 0.0)) + d
    return -np.log(inner), [-d / inner]


def _vapour(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    log_u, inverse = np.log(u), 1.0 / u
    g = np.exp(np.clip(t[0] * inverse + t[1] * log_u, *_LOGS))
    return g, [g * inverse, g * log_u]


def _saturating_power(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    b, floor = np.exp(t[0]), np.exp(t[1])
    v = 1.0 / u + floor
    log_v = np.log(v)
    g = np.exp(b * log_v)
    return g, [b * log_v * g, b * g * floor / v]


def logit_of_share(target: FloatArray, alpha: FloatArray) -> FloatArray:
    """z = logit s of the share s in (0, 1) with log(s / (1 - s)^alpha) = target; shapes broadcast, alpha > 0.

    Newton on z, in which the left-hand side z + (alpha - 1) log(1 + e^z) is increasing and convex or concave throughout.
    """
    # start on the side from which Newton is monotone: the asymptotes are z (z -> -inf) and alpha z (z -> inf)
    z = np.where(target < 0, target, target / np.maximum(alpha, 1e-3))
    away = np.ones(z.shape, dtype=bool)  # a root is left alone once found, whatever the others still need
    for _ in range(60):
        soft = np.logaddexp(0.0, z)
        share = _share(z)
        step = (z + (alpha - 1.0) * soft - target) / (1.0 + (alpha - 1.0) * share)
        z = z - np.where(away, np.clip(step, -20.0, 20.0), 0.0)
        away &= np.abs(step) > 1e-13 * (1.0 + np.abs(z))
        if not away.any():
            break
    return z


def _bounded_power(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    # M4: s / (1 - s)^alpha = (k u)^-c, s the share of the way still to go
    c, alpha = np.exp(t[1]), np.exp(t[2])
    target = -c * (t[0] + np.log(u))
    z = logit_of_share(target, alpha)
    soft = np.logaddexp(0.0, z)
    s = _share(z)
    ds = s * (1.0 - s) / (1.0 + (alpha - 1.0) * s)
    return s, [-c * ds, target * ds, -alpha * soft * ds]


def _broken_power(n_breaks: int) -> Shape:
    def shape(u: FloatArray, t: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
        # theta: log c0, then (log d_i, c_i, log f_i) a break; log g = -c0 log u - sum c_i f_i log(1 + (u / d_i)^(1 / f_i))
        log_u = np.log(u)
        c0 = np.exp(t[0])
        log_g = -c0 * log_u
        parts = [-c0 * log_u]
        for i in range(n_breaks):
            where, slope, width = t[1 + 3 * i], t[2 + 3 * i], np.exp(t[3 + 3 * i])
            z = (log_u - where) / width
            soft = np.logaddexp(0.0, z)
            share = _share(z)
            log_g = log_g - slope * width * soft
            parts += [slope * share, -width * soft, -slope * width * (soft - share * z)]
        g = np.exp(np.clip(log_g, *_LOGS))
        return g, [g * d for d in parts]

    return shape


def _form(
    name: str,
    formula: str,
    parameters: str,
    shape: Shape,
    starts: FloatArray,
    box: Sequence[tuple[float, float]],
    *,
    offset: bool = True,
    scale_free: bool = True,
) -> Form:
    names = tuple(s.strip() for s in parameters.split(",") if s.strip())
    limits = np.array(box, dtype=np.float64).reshape(len(names), 2)
    return Form(name, formula, names, shape, starts, limits[:, 0], limits[:, 1], offset, scale_free)


_NONE = np.zeros((1, 0))
_RATE, _EXPONENT, _SHIFT, _FREE = (-9.0, 7.0), (-5.0, 2.5), (-9.0, 5.0), (-8.0, 8.0)
_POWERS, _RATES = _logs(0.05, 3.0, 16), _logs(0.1, 100.0, 16)


@cache
def _broken(n: int) -> Form:
    """The broken power law with `n` breaks. Up to two breaks have a grid of places; more are spread over the seen part."""
    breaks = ", ".join(f"log d{i}, c{i}, log f{i}" for i in range(1, n + 1))
    where = [np.log([0.1, 0.4]), np.log([0.03, 0.2])][:n] if n <= 2 else list(_logs(0.02, 0.7, n)[:, None])
    widths = np.log([0.1, 0.5] if n <= 2 else [0.3])
    axes: list[Sequence[float] | FloatArray] = [_logs(0.05, 1.0, 4)]
    for i in range(n):
        axes += [where[i], [-0.3, 0.4], widths]
    box = [_EXPONENT] + [(-9.0, 5.0), (-8.0, 8.0), (-4.0, 3.0)] * n
    formula = "c + a u^-c0 prod_i (1 + (u/d_i)^(1/f_i))^(-c_i f_i)"
    return _form(f"bnsl{n}", formula, f"log c0, {breaks}", _broken_power(n), _grid(*axes), box)


# fmt: off
FORMS: dict[str, Form] = {
    f.name: f
    for f in (
        _form("pow2", "a u^-b", "log b", _power, _grid(_POWERS), [_EXPONENT], offset=False),
        _form("pow3", "c + a u^-b", "log b", _power, _grid(_POWERS), [_EXPONENT]),
        _form(
            "pow4", "c + a (u + d)^-b", "log b, log d", _shifted_power,
            _grid(_logs(0.1, 4.0, 8), _logs(0.01, 3.0, 6)), [_EXPONENT, _SHIFT],
        ),
        _form("exp2", "a exp(-k u)", "log k", _exponential, _grid(_RATES), [_RATE], offset=False),
        _form("exp3", "c + a exp(-k u)", "log k", _exponential, _grid(_RATES), [_RATE]),
        _form(
            "exp4", "c + a exp(-k u^d)", "log k, log d", _stretched,
            _grid(_logs(0.05, 100.0, 12), _logs(0.2, 2.5, 7)), [_RATE, _EXPONENT],
        ),
        _form(
            "mmf", "c + a / (1 + (k u)^d)", "log k, log d", _hill,
            _grid(_logs(0.02, 100.0, 12), _logs(0.3, 4.0, 7)), [_RATE, _EXPONENT],
        ),
        _form(
            "logpower", "a / (1 + (k u)^d)", "log k, log d", _hill,
            _grid(_logs(0.02, 50.0, 12), _logs(0.1, 4.0, 8)), [_RATE, _EXPONENT], offset=False,
        ),
        _form(
            "sigmoid", "chance + a / (1 + (k u)^-d)", "log k, log d", _rising_hill,
            _grid(_logs(0.02, 20.0, 12), _logs(0.3, 6.0, 8)), [_RATE, _EXPONENT], offset=False,
        ),
        _form("ilog2", "c + a / log(x + 1)", "", _inverse_log, _NONE, [], scale_free=False),
        _form("loglin", "c - a log u", "", _negative_log, _NONE, []),
        _form(
            "loglog", "c - a log(log(x + 1) + d)", "log d", _log_log, _grid(_logs(0.01, 10.0, 8)), [_SHIFT], scale_free=False,
        ),
        _form(
            "vapour", "a exp(b / u + d log u)", "b, d", _vapour,
            _grid([-1.0, -0.2, 0.0, 0.05, 0.3, 1.0], [-2.0, -0.7, -0.2, 0.0, 0.2]), [_FREE, _FREE], offset=False,
        ),
        _form(
            "m3", "c + a (1/u + d)^b", "log b, log d", _saturating_power,
            _grid(_logs(0.1, 4.0, 8), _logs(0.01, 3.0, 6)), [_EXPONENT, _SHIFT],
        ),
        _form(
            "m4", "c + a s, s / (1 - s)^alpha = (k u)^-b", "log k, log b, log alpha", _bounded_power,
            _grid(_logs(0.1, 30.0, 6), _logs(0.2, 3.0, 5), _logs(0.3, 3.0, 3)), [_RATE, _EXPONENT, (-4.0, 3.0)],
        ),
        _broken(1),
        _broken(2),
    )
}
# fmt: on

# other names the literature uses for the same form
ALIASES = {
    "power": "pow3", "m1": "pow2", "m2": "pow3", "exponential": "exp3", "weibull": "exp4", "janoschek": "exp4",
    "hill": "mmf", "log-power": "logpower", "log-log-linear": "loglog", "vapour-pressure": "vapour",
    "vapor": "vapour", "broken": "bnsl1", "bnsl": "bnsl1",
}  # fmt: skip


def get_form(name: str) -> Form:
    """The form called `name`, by its own name or an alias; ``bnsl3`` to ``bnsl6`` are made when asked for.

    Raises InputError with the nearest three names otherwise.
    """
    key = ALIASES.get(name.casefold(), name.casefold())
    if key in ("bnsl3", "bnsl4", "bnsl5", "bnsl6"):
        return _broken(int(key[-1]))
    if key not in FORMS:
        raise unknown_name("curve form", name, [*FORMS, *ALIASES])
    return FORMS[key]
