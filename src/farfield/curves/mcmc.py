"""Markov chain Monte Carlo over a prior of curves: what LC-PFN is held against (arXiv 2310.20447, section 4.1, Table 3).

*Sampler*: the stretch move of Goodman & Weare 2010 (the one of emcee, Foreman-Mackey et al. 2013). Walkers are split in two halves;
walker X of one half is moved along its line to a random walker Z of the other, Y = Z + u (X - Z) with density of u proportional to
u^-1/2 on [1/a, a], a = 2, and accepted with probability min(1, u^(d-1) p(Y) / p(X)). All curves and walkers move at once.

*Posterior*: parameters of a prior (MCMC-PP: :class:`~farfield.curves.priors.DomhanPrior`; MCMC-OP: the eleven forms with flat
priors, :class:`~farfield.curves.priors.FlatPrior`) given the seen values, y_t = f(t) + sigma e_t, rejection by the prior included.

*Prediction*: a mixture of normals, one for every kept draw, of curve and noise.

Settings of the paper (`SETTINGS`), steps in all / walkers / steps dropped at first / every which step is kept: M1 2000 / 100 / 500
/ 1, M2 4000 / 100 / 100 / 100, M3 4000 / 100 / 500 / 1. Deviations: at most `draws` draws are kept, evenly spaced, as chains
correlate over far more steps than that; walkers start from draws of the prior resampled by likelihood, not around a fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.predictive import Mixture
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float64]
_STRETCH = 2.0
_LOG_ROOT = 0.5 * np.log(2 * np.pi)


class Setting(NamedTuple):
    """Length of the chains: `steps` in all, the first `burn_in` dropped, of the rest every `thin`-th."""

    steps: int
    walkers: int = 100
    burn_in: int = 500
    thin: int = 1


SETTINGS = {"M1": Setting(2000, 100, 500, 1), "M2": Setting(4000, 100, 100, 100), "M3": Setting(4000, 100, 500, 1)}


class CurvePrior(Protocol):
    """A density over parameter vectors of a curve; the last parameter is the logarithm of the noise's standard deviation."""

    @property
    def parameters(self) -> tuple[str, ...]: ...
    @property
    def steps(self) -> FloatArray:
        """(m,) where the constraint looks."""
        ...

    def curve(self, parameters: ArrayLike, t: ArrayLike) -> FloatArray: ...
    def log_density(self, parameters: ArrayLike) -> FloatArray: ...
    def admitted(self, parameters: FloatArray) -> tuple[NDArray[np.bool_], FloatArray]:
        """Which rows (n, d) the constraint keeps, and the curves (k, m) of those at `steps`."""
        ...

    def starts(self, n: int, rng: Seed = None) -> FloatArray:
        """(n, d) admitted vectors, spread over what is plausible."""
        ...


class Chains(NamedTuple):
    """draws (n, k, d), their log densities (n, k) and the share of moves accepted (n,)."""

    draws: FloatArray
    log_density: FloatArray
    accepted: FloatArray


def ensemble(
    log_density: Callable[[FloatArray], FloatArray],
    starts: ArrayLike,
    steps: int,
    *,
    burn_in: int = 0,
    thin: int = 1,
    rng: Seed = None,
) -> Chains:
    """Draws from `n` densities at once by the stretch move.

    Parameters
    ----------
    log_density : (n, w, d) -> (n, w), up to a constant of each density; -inf is allowed
    starts : (n, walkers, d), of finite density; an even number of walkers, at least 2 d
    steps, burn_in, thin : moves of every walker in all, dropped at first, and every which of the rest is kept

    Raises InputError for starts of no density or of the wrong shape. Source: Goodman & Weare 2010, algorithm 2.
    """
    z = generator(rng)
    x = checks.finite("starts", starts, ndim=3).copy()
    n, walkers, d = x.shape
    if walkers % 2 or walkers < 2 * d:
        raise InputError(f"starts hold {walkers} walkers in {d} dimensions; allowed: an even number from {2 * d} up")
    steps, burn_in, thin = checks.count("steps", steps), checks.count("burn_in", burn_in, least=0), checks.count("thin", thin)
    if burn_in + thin > steps:
        raise InputError(f"steps is {steps}; allowed: at least burn_in + thin, {burn_in + thin}, so that a draw is kept")
    p = log_density(x)
    if not np.isfinite(p).all():
        raise InputError(f"{int((~np.isfinite(p)).sum())} of the starts have no density; start where the log density is finite")
    half = walkers // 2
    sides = (slice(None, half), slice(half, None))
    rows = np.arange(n)[:, None]
    draws, densities, moved = [], [], np.zeros(n)
    for step in range(1, steps + 1):
        for mine, other in (sides, sides[::-1]):
            here, away = x[:, mine], x[:, other][rows, z.integers(half, size=(n, half))]
            # u = ((a^1/2 - a^-1/2) r + a^-1/2)^2 has the density u^-1/2
            u = ((np.sqrt(_STRETCH) - 1 / np.sqrt(_STRETCH)) * z.random((n, half)) + 1 / np.sqrt(_STRETCH)) ** 2
            proposed = away + u[..., None] * (here - away)
            q = log_density(proposed)
            take = -z.standard_exponential((n, half)) < (d - 1) * np.log(u) + q - p[:, mine]
            here[take] = proposed[take]
            p[:, mine][take] = q[take]
            moved += take.sum(axis=1)
        if step > burn_in and (step - burn_in) % thin == 0:
            draws.append(x.copy())
            densities.append(p.copy())
    return Chains(np.concatenate(draws, axis=1), np.concatenate(densities, axis=1), moved / (steps * walkers))


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws of the parameters of each curve.

    Attributes
    ----------
    prior : what they are parameters of
    chains : draws (n, k, d), their log densities (n, k) up to a constant, share of moves accepted (n,)
    """

    prior: CurvePrior
    chains: Chains

    def predict(self, at: ArrayLike) -> Mixture:
        """Distribution of the noisy values at steps `at` (k,): (n, k)."""
        values = np.swapaxes(self.prior.curve(self.chains.draws, at), 1, 2)
        return Mixture(np.ones(1), values, np.exp(self.chains.draws[:, None, :, -1]))

    def log_likelihood(self, y: ArrayLike, at: ArrayLike) -> FloatArray:
        """Log density of the prediction at values `y` (n, k) at steps `at` (k,), each by itself: (n, k)."""
        at = checks.finite("at", at, ndim=1)
        values = checks.numbers("y", y, shape=(len(self.chains.draws), len(at)))
        out = np.empty_like(values)
        for i, draws in enumerate(self.chains.draws):
            log_sigma = draws[:, -1:]
            e = (values[i] - self.prior.curve(draws, at)) * np.exp(-log_sigma)
            terms = -0.5 * e * e - log_sigma - _LOG_ROOT
            most = terms.max(axis=0)
            out[i] = most + np.log(np.exp(terms - most).mean(axis=0))
        return out


def log_posterior(prior: CurvePrior, y: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Log density, up to a constant, of parameters (n, w, d) given `y` (n, m) at the prior's steps, NaN where not seen."""
    seen = ~np.isnan(y)
    reach = int(np.flatnonzero(seen.any(axis=0))[-1]) + 1
    seen, values, count = seen[:, :reach], np.where(seen, y, 0.0)[:, :reach], seen.sum(axis=1)

    def evaluate(parameters: FloatArray) -> FloatArray:
        shape = parameters.shape[:2]
        flat = parameters.reshape(-1, parameters.shape[-1])
        out = prior.log_density(flat)
        inside = np.flatnonzero(np.isfinite(out))
        admitted, curves = prior.admitted(flat[inside])
        out[inside[~admitted]] = -np.inf
        kept = inside[admitted]
        owner = kept // shape[1]
        log_sigma = flat[kept, -1]
        e = values[owner] - curves[:, :reach]
        e *= seen[owner]
        squares = np.einsum("ij,ij->i", e, e)
        out[kept] += -0.5 * squares * np.exp(-2 * log_sigma) - count[owner] * (log_sigma + _LOG_ROOT)
        return out.reshape(shape)

    return evaluate


def sample_posterior(
    prior: CurvePrior,
    y: ArrayLike,
    setting: Setting | str = "M3",
    *,
    draws: int = 2000,
    bank: int = 10_000,
    rng: Seed = None,
) -> Posterior:
    """Draws of the posterior of `n` curves.

    Parameters
    ----------
    prior : DomhanPrior or FlatPrior
    y : (n, m) normalised values at the prior's steps, NaN where not seen; at least one a curve
    setting : "M1", "M2", "M3" or a Setting
    draws : most draws kept of each curve
    bank : draws of the prior among which the walkers' starts are drawn in proportion to their likelihood

    Raises InputError for curves without a seen value, infinite values or an unknown setting.
    """
    if isinstance(setting, str):
        setting = SETTINGS[checks.choice("setting", setting, SETTINGS)]
    values = checks.numbers("y", y, shape=(None, len(prior.steps)))
    if np.isinf(values).any() or np.isnan(values).all(axis=1).any():
        raise InputError("y holds infinite values or a curve without a seen one; allowed: finite values, NaN where not seen")
    z = generator(rng)
    starts = _starts(prior, values, prior.starts(max(bank, setting.walkers), z), setting.walkers, z)
    kept_steps = max(1, draws // setting.walkers)
    spacing = max(1, (setting.steps - setting.burn_in) // kept_steps)
    thin = setting.thin * max(1, round(spacing / setting.thin))
    return Posterior(
        prior, ensemble(log_posterior(prior, values), starts, setting.steps, burn_in=setting.burn_in, thin=thin, rng=z)
    )


def _starts(prior: CurvePrior, y: FloatArray, candidates: FloatArray, walkers: int, rng: np.random.Generator) -> FloatArray:
    """(n, walkers, d) candidates drawn without replacement in proportion to their likelihood (the largest Gumbel keys)."""
    log_sigma = candidates[:, -1]
    curves = prior.curve(candidates, prior.steps)
    out = np.empty((len(y), walkers, candidates.shape[1]))
    for row, start in zip(y, out, strict=True):
        seen = ~np.isnan(row)
        squares = ((row[seen] - curves[:, seen]) ** 2).sum(axis=1)
        key = rng.gumbel(size=len(candidates)) - 0.5 * squares * np.exp(-2 * log_sigma) - seen.sum() * log_sigma
        start[:] = candidates[rng.permutation(np.argpartition(-key, walkers - 1)[:walkers])]
    return out
