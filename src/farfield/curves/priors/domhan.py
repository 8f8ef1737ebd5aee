"""The prior of LC-PFN: a sum of three rising curves and noise (Adriaensen et al. 2023, arXiv 2310.20447, section 3.1, appendix A).

    y_t = w1 pow3(t) + w2 janoschek(t) + w3 ilog2(t) + sigma e_t,   e_t ~ N(0, 1) iid,   t = 1 ... m,   m = 100

    pow3       c - a t^-alpha                c ~ U(0, 1.25)   a ~ U(-0.6, 0.6)   log alpha ~ N(0, 2)
    janoschek  a - (a - b) exp(-k t^d)       a ~ U(0, 1)      b ~ U(0, 2)        log k ~ N(-2, 1)     log d ~ N(0, 0.5)
    ilog2      c - a / log(t + 1)            c ~ U(0, 1)      a ~ U(-0.5, 0.5)
    weights    w ~ U(0, 1) each, not normalised;  log sigma ~ N(-4, 1)  (second arguments are standard deviations)

A curve without noise is kept if it ends above its start, y_m > y_1, and stays within [0, 1]; about 20.6 % are. Noise may leave
[0, 1]. The curves are those of Domhan et al. 2015. A parameter vector holds, in this order, the names of `PARAMETERS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.curves.priors.drawn import PriorCurves
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float64]

# name, kind ("uniform": low, high; "normal": mean, standard deviation)
_TABLE: tuple[tuple[str, str, float, float], ...] = (
    ("w_pow3", "uniform", 0.0, 1.0),
    ("w_janoschek", "uniform", 0.0, 1.0),
    ("w_ilog2", "uniform", 0.0, 1.0),
    ("pow3_c", "uniform", 0.0, 1.25),
    ("pow3_a", "uniform", -0.6, 0.6),
    ("pow3_log_alpha", "normal", 0.0, 2.0),
    ("janoschek_a", "uniform", 0.0, 1.0),
    ("janoschek_b", "uniform", 0.0, 2.0),
    ("janoschek_log_k", "normal", -2.0, 1.0),
    ("janoschek_log_d", "normal", 0.0, 0.5),
    ("ilog2_c", "uniform", 0.0, 1.0),
    ("ilog2_a", "uniform", -0.5, 0.5),
    ("log_sigma", "normal", -4.0, 1.0),
)
PARAMETERS = tuple(name for name, *_ in _TABLE)
_UNIFORM = np.array([kind == "uniform" for _, kind, *_ in _TABLE])
_FIRST, _SECOND = (np.array([row[i] for row in _TABLE], dtype=np.float64) for i in (2, 3))
_SHAPE_LIMIT = 500.0  # exponents are cut off here, far beyond where a curve has become constant in float64


@dataclass(frozen=True)
class DomhanPrior:
    """The three-curve prior of LC-PFN over curves of `m` points at t = 1 ... m."""

    m: int = 100

    def __post_init__(self) -> None:
        checks.count("m", self.m, least=2)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of a parameter vector."""
        return PARAMETERS

    @property
    def steps(self) -> FloatArray:
        """(m,) 1 ... m."""
        return np.arange(1.0, self.m + 1)

    def propose(self, n: int, rng: Seed = None) -> FloatArray:
        """(n, 13) parameter vectors before rejection."""
        z = generator(rng)
        n = checks.count("n", n)
        out = np.empty((n, len(PARAMETERS)))
        k = int(_UNIFORM.sum())
        out[:, _UNIFORM] = _FIRST[_UNIFORM] + (_SECOND - _FIRST)[_UNIFORM] * z.random((n, k))
        out[:, ~_UNIFORM] = _FIRST[~_UNIFORM] + _SECOND[~_UNIFORM] * z.standard_normal((n, len(PARAMETERS) - k))
        return out

    def curve(self, parameters: ArrayLike, t: ArrayLike) -> FloatArray:
        """Noiseless values at steps `t` (m,) for parameter vectors (..., 13): (..., m)."""
        p = np.moveaxis(checks.numbers("parameters", parameters), -1, 0)[..., None]
        return _curve(p, checks.finite("t", t, ndim=1))

    def admits(self, parameters: ArrayLike) -> NDArray[np.bool_]:
        """Whether the noiseless curve of each vector (..., 13) passes the rejection: y_m > y_1, all of it in [0, 1]."""
        p = checks.numbers("parameters", parameters)
        return self.admitted(p.reshape(-1, p.shape[-1]))[0].reshape(p.shape[:-1])

    def admitted(self, parameters: FloatArray) -> tuple[NDArray[np.bool_], FloatArray]:
        """Which rows (n, 13) pass the rejection, and the curves (k, m) of those; both ends are looked at before the rest."""
        t = self.steps
        ends = _curve(parameters.T[..., None], t[[0, -1]])
        ok = (ends[:, 0] >= 0) & (ends[:, 1] <= 1) & (ends[:, 1] > ends[:, 0])
        values = _curve(parameters[ok].T[..., None], t)
        inside = (values.min(axis=1) >= 0) & (values.max(axis=1) <= 1)
        ok[ok] = inside
        return ok, values[inside]

    def starts(self, n: int, rng: Seed = None) -> FloatArray:
        """(n, 13) parameter vectors that passed the rejection."""
        z, kept, have = generator(rng), [], 0
        while have < checks.count("n", n):
            proposed = self.propose(4096, z)
            kept.append(proposed[self.admits(proposed)])
            have += len(kept[-1])
        return np.concatenate(kept)[:n]

    def log_density(self, parameters: ArrayLike) -> FloatArray:
        """Log density of the proposals at vectors (..., 13), -inf outside; the rejection divides it by a constant only."""
        p = checks.numbers("parameters", parameters)
        inside = ((p >= _FIRST) & (p <= _SECOND) | ~_UNIFORM).all(axis=-1)
        z = (p - _FIRST)[..., ~_UNIFORM] / _SECOND[~_UNIFORM]
        constant = np.log((_SECOND - _FIRST)[_UNIFORM]).sum() + np.log(np.sqrt(2 * np.pi) * _SECOND[~_UNIFORM]).sum()
        return np.where(inside, -0.5 * (z * z).sum(axis=-1) - constant, -np.inf)

    def sample(self, n: int, rng: Seed = None) -> PriorCurves:
        """`n` curves that passed the rejection, with noise.

        Raises InputError for n below 1. Source: section 3.1; the published sampler draws one curve at a time.
        """
        n, z, t = checks.count("n", n), generator(rng), self.steps
        latent, sigma, have = np.empty((n, self.m)), np.empty(n), 0
        while have < n:
            proposed = self.propose(min(4096, 64 + 5 * (n - have)), z)
            kept, values = self.admitted(proposed)
            take = min(len(values), n - have)
            latent[have : have + take] = values[:take]
            sigma[have : have + take] = np.exp(proposed[kept, -1][:take])
            have += take
        y = z.standard_normal((n, self.m))
        y *= sigma[:, None]
        y += latent
        x = np.broadcast_to(t, (n, self.m)).copy()
        return PriorCurves(x, y, latent, sigma, np.full(n, self.m), np.full(n, float(self.m)))


def _curve(p: FloatArray, t: FloatArray) -> FloatArray:
    """Values for parameters p (13, ..., 1) at t (m,)."""
    w1, w2, w3, c1, a1, log_alpha, a2, b2, log_k, log_d, c3, a3, _ = p
    log_t: FloatArray = np.log(t)
    with np.errstate(over="ignore", under="ignore"):
        power: FloatArray = np.exp(-np.minimum(np.exp(log_alpha), _SHAPE_LIMIT) * log_t)
        power *= -w1 * a1
        growth = np.minimum(np.exp(np.minimum(log_d, 5.0)), _SHAPE_LIMIT) * log_t
        growth += log_k
        np.exp(growth, out=growth)
        np.negative(growth, out=growth)
        np.exp(growth, out=growth)
        growth *= -w2 * (a2 - b2)
    power += growth
    power += (-w3 * a3) / np.log(t + 1)
    power += w1 * c1 + w2 * a2 + w3 * c3
    return power
