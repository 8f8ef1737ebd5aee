"""Loss-to-loss prediction (Brandfonbrener et al. 2024, arXiv 2411.12925): losses of matched models follow one curve.

    L1 = K (L0 - E0)^kappa + E1

- *train-to-train*: L0, L1 are the training losses of two models of the same N and D on two data sets; E0, E1 are the floors of
  scaling laws fitted to each set alone (eq. 2).
- *train-to-test*: L0 is the training loss and L1 the loss of the same model on another set; E0 as before, E1 fitted (eq. 3).
- *test-to-test*: two losses of the same model elsewhere, floors from laws fitted to those losses, or E1 fitted (eq. 4).

K, kappa (and E1 where it is not given) minimise Huber's loss of log residuals, as the laws do. What is predicted is L1 *given* L0:
the loss of the first model at the new scale has to be known or forecast otherwise.

Deviations: runs that occur twice are averaged; resampled pairs, and draws of the floors where given, make intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.curves.laws.fitter import Minima, minimise
from farfield.curves.laws.law import ScalingLaw
from farfield.errors import InputError
from farfield.estimator import Parameters
from farfield.predictive import Samples
from farfield.seeds import Seed, child, generator, root

FloatArray = NDArray[np.float64]
# a floor must lie this far below the least loss, as a share: at the floor the power is 0 / 0
_CLEAR = 1e-3


@dataclass(frozen=True)
class Pairs:
    """Losses of runs matched in size and tokens.

    Attributes
    ----------
    x : (n, 2) params and tokens of the first set; loss_a, loss_b : (n,)
    unpaired : runs of either set without a partner; averaged : runs that were averaged with another of the same setting
    """

    x: FloatArray
    loss_a: FloatArray
    loss_b: FloatArray
    unpaired: int
    averaged: int

    def __len__(self) -> int:
        return self.loss_a.size


def pair_runs(x_a: ArrayLike, loss_a: ArrayLike, x_b: ArrayLike, loss_b: ArrayLike, *, rtol: float = 0.01) -> Pairs:
    """Match the runs of two data sets by params and tokens.

    Parameters
    ----------
    x_a, x_b : (n_a, 2), (n_b, 2) params and tokens above 0; loss_a, loss_b : losses
    rtol : params and tokens are the same when they agree to this share

    Runs of one set at the same setting are averaged. Raises InputError where no two runs match.
    """
    checks.positive("rtol", rtol)
    (xa, la, merged_a), (xb, lb, merged_b) = (
        _average(checks.finite(f"x_{s}", x, shape=(None, 2)), checks.finite(f"loss_{s}", y, ndim=1), rtol, s)
        for s, x, y in (("a", x_a, loss_a), ("b", x_b, loss_b))
    )
    apart = np.abs(np.log(xa)[:, None] - np.log(xb)[None]).max(axis=2)
    near_b, near_a = apart.argmin(axis=1), apart.argmin(axis=0)
    rows = np.flatnonzero((apart.min(axis=1) <= rtol) & (near_a[near_b] == np.arange(len(xa))))
    if not rows.size:
        raise InputError(
            f"none of {len(xa)} and {len(xb)} runs agree in params and tokens to {rtol:g}; loss-to-loss needs matched runs"
        )
    unpaired = len(xa) + len(xb) - 2 * rows.size
    return Pairs(xa[rows], la[rows], lb[near_b[rows]], unpaired, merged_a + merged_b)


def translate(
    x_a: ArrayLike,
    loss_a: ArrayLike,
    x_b: ArrayLike,
    loss_b: ArrayLike,
    *,
    fit_floor: bool = False,
    n_boot: int = 1000,
    rng: Seed = 0,
) -> tuple[LossToLoss, Pairs, ScalingLaw]:
    """Floors, pairs and curve in one step, from two sweeps.

    Parameters
    ----------
    x_a, x_b : (n_a, 2), (n_b, 2) params and tokens; loss_a, loss_b : losses
    fit_floor : fit the second floor (train-to-test) instead of taking it from a law of the second sweep (train-to-train)
    n_boot, rng : refits, and their seed

    Returns the fitted curve, the pairs, and the law of the first sweep. A floor is that of the law, chinchilla or kaplan, that fits
    the sweep at lower cost, and its refits carry its uncertainty on.
    """
    seed = root(rng)
    laws = [
        min(
            (ScalingLaw(form, n_boot=n_boot, random_state=child(seed, i)).fit(x, y) for form in ("chinchilla", "kaplan")), key=_cost
        )
        for i, (x, y) in enumerate(((x_a, loss_a), (x_b, loss_b))[: 1 if fit_floor else 2])
    ]
    pairs = pair_runs(x_a, loss_a, x_b, loss_b)
    floors = [law.parameters_["E"] for law in laws]
    draws = [np.exp(law.draws_[:, 0]) for law in laws]
    fitted = LossToLoss(n_boot=n_boot, random_state=child(seed, 2)).fit(
        pairs.loss_a, pairs.loss_b, *floors, draws_a=draws[0], draws_b=None if fit_floor else draws[1]
    )
    return fitted, pairs, laws[0]


def _cost(law: ScalingLaw) -> float:
    return law.cost_


def _average(x: FloatArray, loss: FloatArray, rtol: float, side: str) -> tuple[FloatArray, FloatArray, int]:
    if loss.size != len(x) or not loss.size:
        raise InputError(f"loss_{side} has {loss.size} losses for {len(x)} runs; allowed: one loss a run, at least one run")
    if (x <= 0).any():
        raise InputError(f"x_{side} holds params or tokens that are not above 0; leave such rows out")
    keys = np.round(np.log(x) / (rtol / 4)).astype(np.int64)
    _, label = np.unique(keys, axis=0, return_inverse=True)
    count = np.bincount(label)
    mean = np.bincount(label, loss) / count
    where = np.stack([np.bincount(label, x[:, j]) / count for j in (0, 1)], axis=1)
    return where, mean, int(loss.size - count.size)


class LossToLoss(Parameters):
    """The shifted power law between two losses.

    Parameters
    ----------
    n_boot : refits of resampled pairs; 0 for none
    delta : limit of Huber's loss on log residuals
    random_state : seed of the resampling

    Learned: ``K_``, ``kappa_``, ``e_a_``, ``e_b_``, ``draws_`` (n_boot, 4) of log K, kappa, floor a, floor b, ``residuals_`` (n,)
    of the log loss.
    """

    def __init__(self, *, n_boot: int = 1000, delta: float = 1e-3, random_state: Seed = None) -> None:
        self.n_boot = n_boot
        self.delta = delta
        self.random_state = random_state

    def __repr__(self) -> str:
        if not hasattr(self, "K_"):
            return "LossToLoss()"
        return f"LossToLoss(L1 = {self.K_:.4g} (L0 - {self.e_a_:.4g})^{self.kappa_:.4g} + {self.e_b_:.4g})"

    def fit(
        self,
        loss_a: ArrayLike,
        loss_b: ArrayLike,
        e_a: float,
        e_b: float | None = None,
        *,
        draws_a: ArrayLike | None = None,
        draws_b: ArrayLike | None = None,
    ) -> Self:
        """Fit to losses of matched models.

        Parameters
        ----------
        loss_a, loss_b : (n,) losses above 0
        e_a : floor of the first loss, below all of loss_a; e_b : of the second, or None to fit it (then n >= 3)
        draws_a, draws_b : draws of the floors, whose uncertainty then enters the intervals; those above the losses are moved below

        Raises InputError for losses that are not above 0 or not above their floor, and for too few pairs.
        """
        a, b = checks.finite("loss_a", loss_a, ndim=1), checks.finite("loss_b", loss_b, ndim=1)
        n_boot = checks.count("n_boot", self.n_boot, least=0)
        least = 2 + (e_b is None)
        if a.shape != b.shape or a.size < least:
            raise InputError(f"got {a.size} and {b.size} losses; allowed: the same number, at least {least} for {least} parameters")
        if np.ptp(a) == 0:
            raise InputError(f"all of loss_a are {a[0]:g}; kappa is not identified by one value of the first loss")
        self._least = np.array([a.min(), b.min()])
        for name, floor, low in (("e_a", e_a, a.min()), ("e_b", 0.0 if e_b is None else e_b, b.min())):
            if not np.isfinite(floor) or floor < 0 or low <= 0 or floor >= low:
                raise InputError(
                    f"{name} is {floor:g} and the least of its losses {low:g}; allowed: losses above 0 and a floor below them"
                )
        floors = np.array([[e_a, 0.0 if e_b is None else e_b]])
        self._fitted_floor = e_b is None
        one = np.ones((1, a.size))
        found = self._solve(a, b, floors, one, None)
        self.K_, self.kappa_, self.e_a_, self.e_b_ = self._values(found.theta, floors)[0].tolist()
        self.K_ = float(np.exp(self.K_))
        self.residuals_ = np.log(b) - np.log(self.K_ * (a - self.e_a_) ** self.kappa_ + self.e_b_)
        self.draws_ = self._values(found.theta, floors)
        if n_boot:
            rng = generator(self.random_state)
            drawn = rng.multinomial(a.size, np.full(a.size, 1 / a.size), n_boot).astype(np.float64)
            floors = np.tile(floors, (n_boot, 1))
            for j, draws in enumerate((draws_a, draws_b)):
                if draws is not None:
                    pool = checks.finite("draws of a floor", draws, ndim=1)
                    floors[:, j] = np.clip(rng.choice(pool, n_boot), 0.0, self._least[j] * (1 - _CLEAR))
            self.draws_ = self._values(self._solve(a, b, floors, drawn, found.theta).theta, floors)
        return self

    def _solve(self, a: FloatArray, b: FloatArray, floors: FloatArray, weight: FloatArray, start: FloatArray | None) -> Minima:
        log_b = np.log(b)
        above, floor = np.log(a[None] - floors[:, :1]), np.log(np.maximum(floors[:, 1:], 1e-300))

        def model(theta: FloatArray, rows: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
            power = theta[:, 0, None] + theta[:, 1, None] * above[rows % len(above)]
            base = theta[:, 2, None] if self._fitted_floor else floor[rows % len(floor)]
            value = np.logaddexp(power, base)
            share = np.exp(power - value)
            slopes = [share, share * above[rows % len(above)], 1.0 - share]
            return value, np.stack(slopes[: theta.shape[1]], axis=1)

        if start is None:
            # a line through log(L1 - E1) against log(L0 - E0), for several floors where the floor is free
            tries = np.array([0.1, 0.5, 0.9]) * b.min() if self._fitted_floor else floors[:, 1]
            rows = []
            for low in tries:
                slope, height = np.polyfit(above[0], np.log(b - low), 1)
                rows.append([height, slope, *([np.log(low)] if self._fitted_floor else [])])
            theta = np.array(rows)
        else:
            theta = np.tile(start, (len(floors), 1))
        p = theta.shape[1]
        low_, high_ = np.array([-50.0, 1e-3, np.log(b.min()) - 12.0])[:p], np.array([50.0, 50.0, np.log(b.max())])[:p]
        found = minimise(model, theta, log_b[None], weight, delta=self.delta, bounds=(low_, high_))
        if start is not None:
            return found
        best = int(np.argmin(found.cost))
        return Minima(found.theta[best : best + 1], found.cost[best : best + 1], found.converged[best : best + 1])

    def _values(self, theta: FloatArray, floors: FloatArray) -> FloatArray:
        """(b, 4): log K, kappa and both floors."""
        e_b = np.exp(theta[:, 2]) if self._fitted_floor else floors[:, 1]
        return np.asarray(np.column_stack([theta[:, 0], theta[:, 1], floors[:, 0], e_b]))

    def expected(self, loss_a: ArrayLike) -> FloatArray:
        """(m,) second losses at first losses (m,) above the floor."""
        self._fitted()
        return np.asarray(self._at(np.array([[np.log(self.K_), self.kappa_, self.e_a_, self.e_b_]]), loss_a)[0])

    def predict(self, loss_a: ArrayLike, *, target: str = "latent") -> Samples:
        """Distribution of the second loss given first losses (m,): of the curve, or (``logged``) of one pair with its scatter.

        Raises InputError for a loss at or below the fitted floor. A draw whose floor lies above the loss gives that draw's E1.
        """
        checks.choice("target", target, ("latent", "logged"))
        self._fitted()
        draws = self._at(self.draws_, loss_a)
        if target == "logged":
            # one residual a refit, the same for every loss, so that a row does not depend on the others
            draws = draws * np.exp(generator(1).choice(self.residuals_, (len(draws), 1)))
        return Samples(draws)

    def _fitted(self) -> None:
        checks.fitted(self, "K_", "fit(loss_a, loss_b, e_a, e_b)")

    def _at(self, values: FloatArray, loss_a: ArrayLike) -> FloatArray:
        a = checks.finite("loss_a", loss_a, ndim=1)
        if a.size and a.min() <= self.e_a_:
            raise InputError(
                f"loss_a holds {a.min():g}, at or below the floor {self.e_a_:g} of its law; allowed: losses above the floor"
            )
        log_k, kappa, e_a, e_b = (values[:, j, None] for j in range(4))
        return np.asarray(np.exp(log_k) * np.maximum(a[None] - e_a, 0.0) ** kappa + e_b, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """K, kappa and the floors with 90 % intervals, as plain values."""
        out: dict[str, Any] = {}
        values = {"K": self.K_, "kappa": self.kappa_, "e_a": self.e_a_, "e_b": self.e_b_}
        low, high = np.quantile(self.draws_, [0.05, 0.95], axis=0)
        low[0], high[0] = np.exp(low[0]), np.exp(high[0])
        for j, (name, value) in enumerate(values.items()):
            out[name] = {"value": value, "low": float(low[j]), "high": float(high[j])}
        return out

    def summary(self) -> str:
        """One line: the curve and its scatter."""
        return f"{self!r}, {self.residuals_.size} pairs, median residual {100 * float(np.median(np.abs(self.residuals_))):.2g} %"
