"""Domhan's eleven curves with flat priors: the model of MCMC-OP (Domhan, Springenberg & Hutter 2015, Table 1 and section 3).

    y_t = sum_k w_k f_k(t) + sigma e_t,   w_k >= 0

    vap        exp(a + b / t + c log t)            log_log_linear  log(a log t + b)
    pow3       c - a t^-alpha                      pow4            c - (a t + b)^-alpha
    hill       theta t^eta / (kappa^eta + t^eta)   log_power       a / (1 + (t / e^b)^c)
    mmf        a - (a - b) / (1 + (k t)^d)         exp4            c - exp(-a t^alpha + b)
    janoschek  a - (a - b) exp(-k t^d)             weibull         a - (a - b) exp(-(k t)^d)
    ilog2      c - a / log(t + 1)

The priors of parameters, weights and log sigma are flat, and a curve must end above its start, y_m > y_1, within [0, 1]. Deviation:
flat in the boxes of `FORMS` (published: unbounded, so improper), which are wide around the published starting values, given beside
them. Starts of the walkers are those values with log-normal jitter, and weights that add up to about one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float64]
_MOST = 300.0  # exponents are cut off here


def _exp(z: FloatArray) -> FloatArray:
    return np.asarray(np.exp(np.minimum(z, _MOST)))


class Form(NamedTuple):
    """Curve of (t, *parameters), names of the parameters, and (low, high, start) of each."""

    curve: Callable[..., FloatArray]
    parameters: tuple[str, ...]
    box: tuple[tuple[float, float, float], ...]


def _vap(t: FloatArray, a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    return _exp(a + b / t + c * np.log(t))


def _pow3(t: FloatArray, c: FloatArray, a: FloatArray, alpha: FloatArray) -> FloatArray:
    return np.asarray(c - a * _exp(-alpha * np.log(t)))


def _log_log_linear(t: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    return np.asarray(np.log(a * np.log(t) + b))


def _hill(t: FloatArray, theta: FloatArray, eta: FloatArray, kappa: FloatArray) -> FloatArray:
    return np.asarray(theta / (1 + _exp(eta * (np.log(kappa) - np.log(t)))))


def _log_power(t: FloatArray, a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    return np.asarray(a / (1 + _exp(c * (np.log(t) - b))))


def _pow4(t: FloatArray, c: FloatArray, a: FloatArray, b: FloatArray, alpha: FloatArray) -> FloatArray:
    return np.asarray(c - _exp(-alpha * np.log(a * t + b)))


def _mmf(t: FloatArray, a: FloatArray, b: FloatArray, k: FloatArray, d: FloatArray) -> FloatArray:
    return np.asarray(a - (a - b) / (1 + _exp(d * np.log(k * t))))


def _exp4(t: FloatArray, c: FloatArray, a: FloatArray, b: FloatArray, alpha: FloatArray) -> FloatArray:
    return np.asarray(c - _exp(b - a * _exp(alpha * np.log(t))))


def _janoschek(t: FloatArray, a: FloatArray, b: FloatArray, k: FloatArray, d: FloatArray) -> FloatArray:
    return np.asarray(a - (a - b) * _exp(-k * _exp(d * np.log(t))))


def _weibull(t: FloatArray, a: FloatArray, b: FloatArray, k: FloatArray, d: FloatArray) -> FloatArray:
    return np.asarray(a - (a - b) * _exp(-_exp(d * np.log(k * t))))


def _ilog2(t: FloatArray, c: FloatArray, a: FloatArray) -> FloatArray:
    return np.asarray(c - a / np.log(t + 1))


FORMS: dict[str, Form] = {
    "vap": Form(_vap, ("a", "b", "c"), ((-5, 1, -0.622), (-5, 5, -0.47), (-1, 1, 0.042))),
    "pow3": Form(_pow3, ("c", "a", "alpha"), ((0, 2, 0.84), (-2, 2, 0.52), (1e-3, 5, 0.1))),
    "log_log_linear": Form(_log_log_linear, ("a", "b"), ((0, 5, 0.23), (1e-3, 5, 1.0))),
    "hill": Form(_hill, ("theta", "eta", "kappa"), ((0, 2, 0.772), (1e-3, 10, 0.586), (1e-3, 100, 2.46))),
    "log_power": Form(_log_power, ("a", "b", "c"), ((0, 2, 0.77), (-5, 10, 2.98), (-10, 0, -0.51))),
    "pow4": Form(_pow4, ("c", "a", "b", "alpha"), ((0, 2, 0.8), (1e-3, 500, 200.0), (0, 10, 0.1), (1e-3, 5, 0.1))),
    "mmf": Form(_mmf, ("a", "b", "k", "d"), ((0, 2, 0.7), (0, 2, 0.1), (1e-4, 10, 0.01), (1e-3, 10, 5.0))),
    "exp4": Form(_exp4, ("c", "a", "b", "alpha"), ((0, 2, 0.7), (1e-3, 5, 0.8), (-5, 5, -0.8), (1e-3, 5, 0.3))),
    "janoschek": Form(_janoschek, ("a", "b", "k", "d"), ((0, 2, 0.73), (0, 2, 0.07), (1e-4, 10, 0.355), (1e-3, 10, 0.46))),
    "weibull": Form(_weibull, ("a", "b", "k", "d"), ((0, 2, 0.7), (0, 2, 0.1), (1e-4, 10, 0.01), (1e-3, 10, 1.0))),
    "ilog2": Form(_ilog2, ("c", "a"), ((0, 2, 0.78), (-2, 2, 0.43))),
}
_SIGMA = (-12.0, 0.0, -4.0)
_TABLE = [(0.0, 1.0, 1 / len(FORMS))] * len(FORMS) + [row for form in FORMS.values() for row in form.box] + [_SIGMA]
_LOW, _HIGH, _START = (np.array([row[i] for row in _TABLE], dtype=np.float64) for i in range(3))


@dataclass(frozen=True)
class FlatPrior:
    """Eleven curves with flat priors over t = 1 ... m; 48 parameters: weights, parameters in the order of `FORMS`, log sigma."""

    m: int = 100

    def __post_init__(self) -> None:
        checks.count("m", self.m, least=2)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of a parameter vector."""
        own = (f"{name}_{p}" for name, form in FORMS.items() for p in form.parameters)
        return (*(f"w_{name}" for name in FORMS), *own, "log_sigma")

    @property
    def steps(self) -> FloatArray:
        """(m,) 1 ... m."""
        return np.arange(1.0, self.m + 1)

    def curve(self, parameters: ArrayLike, t: ArrayLike) -> FloatArray:
        """Noiseless values at steps `t` (k,) for vectors (..., 48): (..., k); NaN where a form is not defined."""
        p = np.moveaxis(checks.numbers("parameters", parameters), -1, 0)[..., None]
        steps = checks.finite("t", t, ndim=1)
        total, at = np.zeros((*p.shape[1:-1], len(steps))), len(FORMS)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            for weight, form in zip(p, FORMS.values(), strict=False):
                total += weight * form.curve(steps, *p[at : at + len(form.parameters)])
                at += len(form.parameters)
        return total

    def log_density(self, parameters: ArrayLike) -> FloatArray:
        """Constant in the box, -inf outside, for vectors (..., 48)."""
        p = checks.numbers("parameters", parameters)
        inside = ((p >= _LOW) & (p <= _HIGH)).all(axis=-1)
        return np.where(inside, -np.log(_HIGH - _LOW).sum(), -np.inf)

    def admitted(self, parameters: FloatArray) -> tuple[NDArray[np.bool_], FloatArray]:
        """Which rows (n, 48) end above their start within [0, 1], and the curves (k, m) of those."""
        values = self.curve(parameters, self.steps)
        # comparisons with NaN are false
        ok = (values[:, -1] > values[:, 0]) & (values >= 0).all(axis=1) & (values <= 1).all(axis=1)
        return ok, values[ok]

    def starts(self, n: int, rng: Seed = None) -> FloatArray:
        """(n, 48) admitted vectors around the published starting values."""
        z, kept, have, n = generator(rng), [], 0, checks.count("n", n)
        k = len(FORMS)
        while have < n:
            p = _START * np.exp(0.7 * z.standard_normal((2048, len(_START))))
            p[:, :k] = z.standard_exponential((2048, k))
            p[:, :k] *= z.uniform(0.6, 1.4, (2048, 1)) / p[:, :k].sum(axis=1, keepdims=True)
            p[:, -1] = _START[-1] + z.standard_normal(2048)
            p = p[np.isfinite(self.log_density(p))]
            kept.append(p[self.admitted(p)[0]])
            have += len(kept[-1])
        return np.concatenate(kept)[:n]
