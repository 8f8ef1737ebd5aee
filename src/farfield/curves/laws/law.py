"""A fitted scaling law: parameters with intervals, the loss elsewhere, the compute-optimal next run, and what the fit hangs on.

Refits of resampled runs give the intervals (whole groups are resampled where groups are given), profiles of the cost a second kind,
and leaving out each run in turn its influence. No run is dropped. Besiroglu et al. 2024 (arXiv 2404.10102) show on Hoffmann's own
points why: five runs of highest loss move E and beta by more than their intervals.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.curves.laws.fitter import Minima, minimise
from farfield.curves.laws.forms import FORMS, FloatArray, Form, form_of, starts
from farfield.curves.laws.identify import Identifiability, design_gaps, identify, refuse_too_few
from farfield.errors import ConvergenceWarning, InputError
from farfield.estimator import Parameters
from farfield.predictive import Samples
from farfield.seeds import Seed, generator

# resamples of fewer groups than this repeat one another
_FEW = 6
# starts above which most are left after a few steps
_MANY = 64
Target = Literal["latent", "logged"]


@dataclass(frozen=True)
class Allocation:
    """The split of a compute budget that a law holds for best.

    Attributes
    ----------
    budget : training FLOPs; flops_per : FLOPs per parameter and token
    params, tokens, loss : by the fitted law
    draws : distributions of (params, tokens, loss), one joint draw a refit: shape (3,)
    """

    budget: float
    flops_per: float
    params: float
    tokens: float
    loss: float
    draws: Samples

    def interval(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """(low, high) of params, tokens and loss."""
        low, high = self.draws.interval(level)
        return {name: (float(a), float(b)) for name, a, b in zip(("params", "tokens", "loss"), low, high, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """The budget, and params, tokens and loss with their 90 % intervals, as plain values."""
        out: dict[str, Any] = {"budget": self.budget}
        for name, (low, high) in self.interval().items():
            out |= {name: getattr(self, name), f"{name}_low": low, f"{name}_high": high}
        return out

    def summary(self) -> str:
        """One line: the split and its loss."""
        return f"{self.budget:.3g} FLOPs: {self.params:.3g} params, {self.tokens:.3g} tokens, loss {self.loss:.4g}"

    __repr__ = summary


@dataclass(frozen=True)
class Influence:
    """What leaving out each run does: parameters (n, p) without it, and the largest shift (n,), in standard errors."""

    parameters: FloatArray
    shift: FloatArray

    def largest(self, k: int = 5) -> NDArray[np.int64]:
        """Rows of the k runs that move the fit most, the strongest first."""
        return np.argsort(-self.shift, kind="stable")[:k]


class ScalingLaw(Parameters):
    """Loss as a law of model size, tokens and what else it names; intervals by resampling.

    Parameters
    ----------
    form : chinchilla, kaplan, data-constrained, precision, m4 or broken (see `farfield.curves.laws.forms`)
    delta : limit of Huber's loss on log residuals
    n_boot : refits of resampled runs; 0 for none, and then no intervals
    random_state : seed of the resampling

    Learned: ``theta_`` (p,), ``parameters_`` by name, ``draws_`` (n_boot, p), ``residuals_`` (n,) of the log loss, ``cost_``,
    ``identifiability_``, ``n_unconverged_`` refits.
    """

    theta_: FloatArray
    parameters_: dict[str, float]
    draws_: FloatArray
    residuals_: FloatArray
    cost_: float
    identifiability_: Identifiability
    n_unconverged_: int

    def __init__(self, form: str = "chinchilla", *, delta: float = 1e-3, n_boot: int = 1000, random_state: Seed = None) -> None:
        self.form = form
        self.delta = delta
        self.n_boot = n_boot
        self.random_state = random_state

    def __repr__(self) -> str:
        if not hasattr(self, "theta_"):
            return f"ScalingLaw({self.form!r})"
        return f"ScalingLaw({self.form!r}: {', '.join(f'{k} {v:.4g}' for k, v in self.parameters_.items())})"

    # -- fitting ------------------------------------------------------------------------------------------------------------

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit to finished runs.

        Parameters
        ----------
        X : (n, d) variables above 0, columns as the law names them: params, tokens [, unique_tokens | bits]
        y : (n,) losses above 0
        groups : (n,) labels of runs that are not independent; resampled as wholes

        Raises InputError for values that are not finite or not above 0 and for fewer settings than parameters. Warns where
        parameters are not identified (`identifiability_` says which and why) or the fit did not converge.
        """
        form = form_of(self.form)
        n_boot = checks.count("n_boot", self.n_boot, least=0)
        x, loss = _design(form, X), checks.finite("y", y, ndim=1)
        if loss.shape[0] != x.shape[0]:
            raise InputError(f"y has {loss.shape[0]} losses and X {x.shape[0]} rows; allowed: one loss a row")
        if (loss <= 0).any():
            first = int(np.argmax(loss <= 0))
            raise InputError(
                f"y holds {int((loss <= 0).sum())} losses that are not above 0; the first is {loss[first]:g} at index {first}. "
                "A law of log loss needs losses above 0: leave such rows out, or fit the negative of a score only after shifting it"
            )
        refuse_too_few(form, x)
        if (loss == loss[0]).all():
            raise InputError(
                f"y is {loss[0]:g} in all {loss.size} rows; allowed: losses that differ, or nothing can be told from them"
            )
        self._form, self._x, self._log_x, self._log_y = form, x, np.ascontiguousarray(np.log(x).T), np.log(loss)
        self._labels = _cluster_labels(groups, loss.size)
        theta, even = starts(form, self._log_x, self._log_y), np.ones((1, loss.size))
        if len(theta) > _MANY:  # a few steps tell most of them apart
            tried = self._solve(theta, even, max_iter=12)
            theta = tried.theta[np.argsort(tried.cost, kind="stable")[: _MANY // 2]]
        found = self._solve(theta, even)
        best = int(np.argmin(found.cost))
        if not found.converged[best] and not design_gaps(form, x)[0]:
            warnings.warn(f"the {form.name} fit did not converge", ConvergenceWarning, stacklevel=2)
        self.theta_, self.cost_ = found.theta[best], float(found.cost[best])
        self.parameters_ = dict(zip(form.parameters, form.to_user(self.theta_).tolist(), strict=True))
        value, slope = form.log_loss(self.theta_[None], self._log_x)
        self.residuals_ = self._log_y - value[0]
        low, high = self._box()
        edges = (self.theta_ <= low + 1e-9) | (self.theta_ >= high - 1e-9)
        self.identifiability_ = identify(form, x, self.theta_, slope[0], self._scale(), edges)
        self._resample(n_boot)
        if self.identifiability_.not_identified:
            i = self.identifiability_
            warnings.warn(f"{form.name}: {', '.join(i.not_identified)} not identified: {i.reason}", UserWarning, stacklevel=2)
        return self

    def _box(self) -> tuple[FloatArray, FloatArray]:
        return self._form.box(self._log_x, self._log_y)

    def _solve(
        self, theta: FloatArray, weight: FloatArray, held: NDArray[np.bool_] | None = None, *, max_iter: int = 300
    ) -> Minima:
        log_x, log_loss = self._log_x, self._form.log_loss
        y, box = self._log_y[None], self._box()
        return minimise(
            lambda t, _: log_loss(t, log_x), theta, y, weight, delta=self.delta, bounds=box, held=held, max_iter=max_iter
        )

    def _resample(self, n_boot: int) -> None:
        self.n_unconverged_ = 0
        self.draws_ = self.theta_[None]
        if not n_boot:
            return
        labels = self._labels
        count = int(labels.max()) + 1
        if count < 2:
            raise InputError(f"{count} group to resample; at least two are needed for intervals, or n_boot=0")
        if count < _FEW:
            warnings.warn(f"intervals rest on {count} groups, too few to trust (at least {_FEW})", UserWarning, stacklevel=3)
        drawn = generator(self.random_state).multinomial(count, np.full(count, 1 / count), n_boot)
        refits = self._solve(np.tile(self.theta_, (n_boot, 1)), drawn[:, labels].astype(np.float64))
        self.draws_ = refits.theta
        self.n_unconverged_ = int((~refits.converged).sum())
        # along a valley that the design leaves flat there is nothing to converge to, which is told elsewhere
        if self.n_unconverged_ > n_boot // 20 and not self.identifiability_.not_identified:
            warnings.warn(f"{self.n_unconverged_} of {n_boot} refits did not converge", ConvergenceWarning, stacklevel=3)

    def _scale(self) -> float:
        """tau = sqrt(E psi^2) / E psi': what the standard error is, times sqrt(n), for a location (Huber 1981, section 3.2)."""
        n, p = self._log_y.size, self.theta_.size
        size = np.abs(self.residuals_)
        # the slope of psi is the density at 0; with few residuals within delta it is taken from a wider window
        window = max(self.delta, 0.79 * 1.35 * float(np.median(size)) * n**-0.2, 1e-12)
        slope = max(float((size <= window).mean()), 1.0 / n) * self.delta / window
        spread = float(np.sqrt((np.minimum(size / self.delta, 1.0) ** 2).mean()))
        return float(self.delta * spread / slope * np.sqrt(n / max(n - p, 1)))

    def cost_unit(self) -> float:
        """What twice a difference of costs is divided by to be chi-squared: E psi^2 / E psi' (Ronchetti 1982, the tau test)."""
        self._fitted()
        spread = float(np.sqrt((np.minimum(np.abs(self.residuals_) / self.delta, 1.0) ** 2).mean()))
        return max(spread * self._scale() / self.delta, 1e-12)

    # -- what the law says --------------------------------------------------------------------------------------------------

    def expected(self, X: ArrayLike) -> FloatArray:
        """(n,) losses of the fitted law at X (n, d)."""
        self._fitted()
        return np.asarray(np.exp(self._form.log_loss(self.theta_[None], np.log(_design(self._form, X)).T)[0][0]))

    def predict(self, X: ArrayLike, *, target: Target = "latent") -> Samples:
        """Distribution of the loss at X (n, d): of the law, or (``logged``) of one run, whose scatter is that of the residuals."""
        self._fitted()
        checks.choice("target", target, ("latent", "logged"))
        draws = self._form.log_loss(self.draws_, np.log(_design(self._form, X)).T)[0]
        if target == "logged":
            n, p = self._log_y.size, self.theta_.size
            # one residual a refit, the same for every row: a row's distribution must not depend on the others asked with it
            scatter = generator(1).choice(self.residuals_, size=(len(draws), 1))
            draws = draws + scatter * np.sqrt(n / max(n - p, 1))
        return Samples(np.exp(draws))

    def minimise(self, budget: float, *, flops_per: float = 6.0, **fixed: float) -> Allocation:
        """The params and tokens of least loss with ``flops_per * params * tokens = budget``.

        Parameters
        ----------
        budget : FLOPs; flops_per : FLOPs per parameter and token
        fixed : the law's other columns, ``unique_tokens=...`` or ``bits=...``

        Raises InputError where the runs do not tell size from data.
        """
        self._fitted()
        total, per = checks.positive("budget", budget), checks.positive("flops_per", flops_per)
        others = self._form.columns[2:]
        if set(fixed) != set(others):
            raise InputError(
                f"got {sorted(fixed) or 'no fixed columns'}; the {self.form} law needs exactly: {', '.join(others) or 'none'}"
            )
        if not self.identifiability_.split:
            i = self.identifiability_
            raise InputError(f"the split is not identified: {i.reason}. Add runs off that line; predict still works along it")
        rest = [float(np.log(checks.positive(name, fixed[name]))) for name in others]
        theta = np.vstack([self.theta_[None], self.draws_])
        log_n, log_loss = _best_split(self._form, theta, float(np.log(total / per)), rest)
        found = np.exp(np.stack([log_n, np.log(total / per) - log_n, log_loss], axis=1))
        params, tokens, loss = found[0].tolist()
        return Allocation(total, per, params, tokens, loss, Samples(found[1:]))

    def interval(self, level: float = 0.9, method: Literal["bootstrap", "profile"] = "bootstrap") -> dict[str, tuple[float, float]]:
        """(low, high) of every parameter; ``profile`` is infinite (or 0) where the cost never rises enough."""
        self._fitted()
        checks.level("level", level)
        checks.choice("method", method, ("bootstrap", "profile"))
        if method == "profile":
            ends = self._profile(level)
        else:
            if self.draws_.shape[0] < 2:
                raise InputError("the law was fitted with n_boot=0; allowed: n_boot of 2 or more, or method='profile'")
            ends = np.quantile(self.draws_, [(1 - level) / 2, (1 + level) / 2], axis=0)
        low, high = (self._form.to_user(e) for e in ends)
        return {n: (float(a), float(b)) for n, a, b in zip(self._form.parameters, low, high, strict=True)}

    def _profile(self, level: float) -> FloatArray:
        """(2, p) where twice the rise of the cost, in its unit, reaches the F quantile."""
        from scipy import special

        n, p = self._log_y.size, self.theta_.size
        rise = float(special.fdtri(1, max(n - p, 1), level)) * self.cost_unit() / 2
        side = np.tile([-1.0, 1.0], p)
        which = np.repeat(np.arange(p), 2)
        rows = np.arange(2 * p)
        held = np.zeros((2 * p, p), dtype=bool)
        held[rows, which] = True
        error = np.clip(np.where(np.isfinite(self.identifiability_.errors), self.identifiability_.errors, 1.0), 1e-6, 5.0)
        low, high = self._box()
        inside, outside = np.zeros(2 * p), np.full(2 * p, np.inf)
        step, theta = error[which].copy(), np.tile(self.theta_, (2 * p, 1))
        one = np.ones((1, n))
        for _ in range(26):
            trial = theta.copy()
            trial[rows, which] = np.clip(self.theta_[which] + side * step, low[which], high[which])
            found = self._solve(trial, one, held)
            below = found.cost - self.cost_ < rise
            theta = np.where(below[:, None], found.theta, theta)
            inside, outside = np.where(below, step, inside), np.where(below, outside, step)
            at_edge = np.isinf(outside) & (
                np.abs(step) > np.where(side < 0, self.theta_[which] - low[which], high[which] - self.theta_[which])
            )
            step = np.where(np.isinf(outside), np.where(at_edge, step, 2.0 * step), 0.5 * (inside + np.minimum(outside, 1e9)))
        ends = self.theta_[which] + side * np.where(np.isinf(outside), np.inf, inside)
        ends[6:10] = np.maximum(ends[6:10], 0.0)  # an exponent that nothing bounds from below
        return np.asarray(ends.reshape(p, 2).T)

    def influence(self) -> Influence:
        """Refits without each run in turn."""
        self._fitted()
        n = self._log_y.size
        refits = self._solve(np.tile(self.theta_, (n, 1)), 1.0 - np.eye(n))
        error = self.draws_.std(axis=0) if self.draws_.shape[0] > 1 else self.identifiability_.errors
        shift = np.abs(refits.theta - self.theta_) / np.maximum(error, 1e-12)
        return Influence(self._form.to_user(refits.theta), shift.max(axis=1))

    def summary(self) -> str:
        """One line: the law, its parameters, its scatter."""
        self._fitted()
        share = 100 * float(np.median(np.abs(self.residuals_)))
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.parameters_.items())
        return f"{self.form}: {values}; {self._log_y.size} runs, median residual {share:.2g} %"

    def to_dict(self, level: float = 0.9) -> dict[str, Any]:
        """Parameters with intervals, as plain values."""
        ends = self.interval(level) if self.draws_.shape[0] > 1 else {}
        rows = {n: {"value": v, **dict(zip(("low", "high"), ends.get(n, ()), strict=False))} for n, v in self.parameters_.items()}
        open_ = list(self.identifiability_.not_identified)
        return {"law": self.form, "parameters": rows, "cost": self.cost_, "not_identified": open_, "runs": int(self._log_y.size)}

    def to_frame(self, level: float = 0.9) -> Any:
        """A polars frame, one row a parameter."""
        import polars as pl

        return pl.DataFrame([{"law": self.form, "parameter": n, **row} for n, row in self.to_dict(level)["parameters"].items()])

    def _fitted(self) -> None:
        checks.fitted(self, "theta_", "fit(X, y)")


def _design(form: Form, X: ArrayLike) -> FloatArray:
    x = checks.finite("X", _in_order(form, X), shape=(None, len(form.columns)))
    for j, name in enumerate(form.columns):
        if (x[:, j] <= 0).any():
            i = int(np.argmax(x[:, j] <= 0))
            raise InputError(f"{name} is {x[i, j]:g} in row {i} of X; allowed: numbers above 0")
    return x


def _in_order(form: Form, X: Any) -> Any:
    """X, the columns of a data frame that are named as the law names them in the law's order."""
    given = [c for c in getattr(X, "columns", ()) if isinstance(c, str)]
    named = [c for c in form.columns if c in given]
    if not named:
        return X
    if len(named) < len(form.columns):
        lacking = ", ".join(c for c in form.columns if c not in given)
        raise InputError(
            f"X has no column {lacking}; it has {', '.join(given[:10])}; name all of {', '.join(form.columns)} or none"
        )
    return np.asarray(X[named])


def _cluster_labels(groups: ArrayLike | None, n: int) -> NDArray[np.int64]:
    if groups is None:
        return np.arange(n)
    labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    if labels.shape != (n,):
        raise InputError(f"groups has shape {labels.shape}; allowed: ({n},), one label a run")
    return labels.astype(np.int64)


def _best_split(form: Form, theta: FloatArray, log_nd: float, rest: list[float]) -> tuple[FloatArray, FloatArray]:
    """Golden section on log N for every row of theta, from the best of a grid: log N (b,) and log loss (b,)."""

    def loss(log_n: FloatArray) -> FloatArray:
        return form.log_loss(theta, np.stack([log_n, log_nd - log_n, *(np.full_like(log_n, r) for r in rest)]))[0]

    grid = np.linspace(0.0, log_nd, 201)
    best = np.argmin(loss(np.broadcast_to(grid, (theta.shape[0], grid.size)).copy()), axis=1)
    low, high = grid[np.maximum(best - 1, 0)][:, None], grid[np.minimum(best + 1, grid.size - 1)][:, None]
    ratio = (np.sqrt(5.0) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        lower = loss(left) < loss(right)
        low, high = np.where(lower, low, left), np.where(lower, right, high)
    middle = (low + high) / 2
    return middle[:, 0], loss(middle)[:, 0]


LAWS = tuple(FORMS)
