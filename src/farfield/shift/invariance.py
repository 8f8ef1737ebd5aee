"""Features whose relation to the target survives interventions, and on how many unseen ones (Parulekar et al. 2022, 2205.15196).

Environments are draws from a family D of interventions on one linear structural equation model. A representation Phi (here: a set S
of features) with a head w is eps-invariant in environment e if w does nearly as well there as the environment's own best head w_e:

    |w - w_e|_{S_e} = sqrt((w - w_e)^T E_e[x_S x_S^T] (w - w_e)) <= eps        (`norm`, as in the paper)
    share of w's squared error in e that w_e would save            <= eps        (`share`, free of units)

If it is so in n training environments, on what share of D is it not? For one fixed pair with share above alpha the probability of n
passes is (1 - alpha)^n; over |H| pairs, with probability 1 - delta, none that passed has a share above

    alpha = 1 - (delta / |H|)^(1/n)  <=  (ln |H| + ln 1/delta) / n.

Three forms of |H|: sets of features (`log_subsets`); any class whatever, even infinite, where interventions sit at sites with p
parameters in all: environments in one cell of a grid are alike, so at most 2^cells patterns of failure differ (`log_patterns`,
which does not grow with the dimension of x); or your own. |H| must not depend on the n environments: heads are fitted on a
reference environment that is not among them. (Heads fitted on the pooled environments are chosen by them, and the count is void.)

With m rows an environment the check itself errs. A head that is not invariant passes with probability `miss` at most if the check
allows for it, which turns alpha into alpha / (1 - miss). For Gaussian rows this is exact: the sample squared multiple correlation
of w's residual with x_S is, given K ~ NegBin(m/2, 1 - rho^2), Beta(|S|/2 + K, (m - |S|)/2), where rho^2 is the share.

Deviations: the constants are those of the counting argument, exact rather than the paper's orders; sets of features, searched
exhaustively up to 16 and by backward elimination beyond, instead of continuous projections; a set must predict.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.estimator import Parameters

FloatArray = NDArray[np.float64]
Measure = Literal["share", "norm"]

MOST_EXHAUSTIVE = 16


# -- how many environments are enough ----------------------------------------------------------------------------------------


def pac_level(n_environments: int, log_hypotheses: float, delta: float = 0.05, miss: float = 0.0) -> float:
    """alpha: with probability 1 - delta whatever passed in all environments fails on at most this share of unseen ones; 1: on any.

    Parameters
    ----------
    n_environments : independent draws from the family, the reference not counted
    log_hypotheses : natural logarithm of the number of hypotheses that could have passed
    delta : probability that the statement is wrong
    miss : probability with which the check of one environment passes a hypothesis that fails there

    Raises InputError for numbers out of range.
    """
    n = checks.count("n_environments", n_environments, least=0)
    bits = _nonnegative("log_hypotheses", log_hypotheses) - math.log(checks.level("delta", delta))
    return 1.0 if n == 0 else min(1.0, -math.expm1(-bits / n) / (1 - _miss(miss)))


def pac_environments(log_hypotheses: float, alpha: float, delta: float = 0.05, miss: float = 0.0) -> int:
    """How many training environments are enough: the least number with ``pac_level(...) <= alpha``.

    Parameters
    ----------
    log_hypotheses : natural logarithm of the number of hypotheses, such as `log_subsets(n_features)`
    alpha : largest share of unseen environments on which what passed may fail
    delta, miss : as in :func:`pac_level`

    Raises InputError for numbers out of range. Source: as the module.
    """
    bits = _nonnegative("log_hypotheses", log_hypotheses) - math.log(checks.level("delta", delta))
    return math.ceil(bits / -math.log1p(-checks.level("alpha", alpha) * (1 - _miss(miss))) - 1e-12)


def log_subsets(n_features: int, most: int | None = None) -> float:
    """ln of the number of sets of at most `most` of `n_features` features, the empty one left out."""
    d = checks.count("n_features", n_features)
    k = d if most is None else min(d, checks.count("most", most))
    return math.log(sum(math.comb(d, i) for i in range(1, k + 1)))


def log_patterns(n_parameters: int, extent: float, resolution: float) -> float:
    """ln of the number of patterns of failure over a grid of interventions: (extent / resolution)^n_parameters cells, ln 2 each.

    Holds for any class of representations. What passed at eps then fails at eps plus the most by which a violation differs between
    two interventions of one cell, on at most ``pac_level`` of the family. With sites of bounded in-degree, `n_parameters` is the
    number of sites times (in-degree + 1), whatever the dimension.
    """
    per_axis = math.ceil(checks.positive("extent", extent) / checks.positive("resolution", resolution))
    return math.log(2) * float(per_axis) ** checks.count("n_parameters", n_parameters)


def _miss(miss: float) -> float:
    if not 0 <= miss < 1:
        raise InputError(f"miss is {miss}; allowed: from 0 up to, not including, 1")
    return float(miss)


def _nonnegative(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name} is {value}; allowed: a finite number from 0 up")
    return float(value)


# -- invariance of one head in one environment --------------------------------------------------------------------------------


class Violation(NamedTuple):
    """How far a head is from an environment's own best: (...) arrays."""

    excess: FloatArray  # (w - w_e)^T E[x_S x_S^T] (w - w_e)
    own: FloatArray  # squared error of the environment's own best head

    @property
    def norm(self) -> FloatArray:
        """|w - w_e| in the environment's second moments, in units of the target."""
        return np.sqrt(self.excess)

    @property
    def share(self) -> FloatArray:
        """Share of the head's squared error that the environment's own head would save, 0 to 1."""
        total = self.excess + self.own
        return np.asarray(self.excess / np.where(total > 0, total, 1.0))


def best_head(moments: FloatArray, subset: Sequence[int]) -> FloatArray:
    """(..., |S|) least-squares head on the features `subset`; moments (..., d + 1, d + 1), the target last."""
    s = list(subset)
    return np.asarray(np.linalg.solve(moments[..., s, :][..., s], moments[..., s, -1:])[..., 0])


def invariance_violation(moments: FloatArray, subset: Sequence[int], head: FloatArray) -> Violation:
    """How much worse `head` is than the best head of each environment.

    Parameters
    ----------
    moments : (..., d + 1, d + 1) second moments of features and, last, target
    subset : numbers of the features used
    head : (..., |S|), broadcast against the environments

    Source: Parulekar and others 2022, definition of approximate invariance.
    """
    own = best_head(moments, subset)
    s = list(subset)
    within = moments[..., s, :][..., s]
    away = head - own
    excess = np.einsum("...i,...ij,...j->...", away, within, away)
    residual = moments[..., -1, -1] - np.einsum("...i,...i->...", own, moments[..., s, -1])
    return Violation(np.maximum(excess, 0.0), np.maximum(residual, 0.0))


def multiple_correlation_cdf(r2: float, rho2: float, n_features: int, n_rows: int) -> float:
    """P(R^2 <= r2) of the sample squared multiple correlation (no intercept) of Gaussian rows whose true one is rho2.

    A mixture: K ~ NegBin(n_rows / 2, 1 - rho2), R^2 given K ~ Beta(n_features / 2 + K, (n_rows - n_features) / 2). Source: Fisher
    1928; Muirhead 1982, section 5.2.
    """
    from scipy import special, stats

    if n_rows <= n_features:
        raise InputError(f"{n_rows} rows for {n_features} features; more rows than features are needed")
    mixing = stats.nbinom(n_rows / 2, 1 - rho2)
    low, high = (int(v) for v in mixing.ppf([1e-14, 1 - 1e-14]))
    k = np.arange(low, high + 1)
    return float(mixing.pmf(k) @ special.betainc(n_features / 2 + k, (n_rows - n_features) / 2, np.clip(r2, 0, 1)))


@lru_cache(maxsize=4096)
def certified_share(eps: float, n_features: int, n_rows: int, miss: float) -> float:
    """The sample share up to which a head passes, so that a true share above `eps` passes with probability `miss` at most."""
    from scipy import optimize

    checks.level("eps", eps)
    checks.level("miss", miss)
    return float(
        optimize.brentq(lambda c: multiple_correlation_cdf(c, eps, n_features, n_rows) - miss, 0.0, 1.0, xtol=1e-12, rtol=1e-12)
    )


# -- choosing features ----------------------------------------------------------------------------------------------------------


class InvarianceStatus(Enum):
    """What the search found; the value is the advice."""

    FOUND = "the features predict alike in every environment given; level_ says on what share of new ones they may not"
    FEW = "the features predict alike in every environment given, but these are too few to promise anything: collect more"
    NONE = "no set of features predicts alike everywhere: raise eps, give more features, or leave out what touched the target"


@dataclass(eq=False)
class InvariantSubset(Parameters):
    """The best predicting set of features among those whose head holds in every environment.

    Parameters
    ----------
    eps : largest violation that counts as invariant
    measure : ``share`` of the squared error that an environment's own head would save, or ``norm`` in units of the target
    delta : probability that :attr:`level_` is wrong
    miss : None: the environments with their rows are the draws, and the statement is about new ones with as many rows, whatever
        their law. A probability (``share`` only): the statement is about the environments themselves, for Gaussian rows
    most : largest set searched
    least_gain : share of the target's variance in the reference that a set must explain
    reference : label of the environment that heads are fitted on; None takes the one with most rows. It is not counted as a draw

    Learned
    -------
    subset_, coef_, intercept_ : the chosen features, their head, and the constant that makes it fit the reference's means
    consistent_ : every set that passed, best predicting first
    violations_ : (n_environments,) of the chosen one, in the order of environments_
    level_ : share of new environments on which, with probability 1 - delta, any consistent set may fail
    status_ : :class:`InvarianceStatus`
    """

    eps: float = 0.05
    measure: Measure = "share"
    delta: float = 0.05
    miss: float | None = None
    most: int | None = None
    least_gain: float = 0.01
    reference: Any = None

    consistent_: list[tuple[int, ...]] = field(init=False, repr=False)

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike) -> Self:
        """Search the sets.

        Parameters
        ----------
        X : (n, d) finite features; y : (n,) finite; groups : (n,) environment of each row

        Second moments are about the reference's means, so an environment that moves the means must be followed by the same head.

        Raises InputError for fewer than two environments, one with no more rows than features, a constant or repeated feature.
        """
        checks.choice("measure", self.measure, ("share", "norm"))
        checks.positive("eps", self.eps)
        if self.miss is not None:
            checks.level("miss", self.miss)
            if self.measure != "share":
                raise InputError(
                    f"miss is {self.miss} and measure {self.measure!r}; a check that allows for it exists for 'share' alone"
                )
        data = np.column_stack([checks.finite("X", X, ndim=2), checks.finite("y", y, ndim=1)])
        d = data.shape[1] - 1
        names, codes = np.unique(np.asarray(groups), return_inverse=True)
        if codes.shape != data.shape[:1] or names.size < 2:
            raise InputError(f"groups holds {names.size} environments for {data.shape[0]} rows; one label a row, two at least")
        rows = np.bincount(codes)
        if rows.min() <= d + 1:
            raise InputError(
                f"environment {names[rows.argmin()]} has {rows.min()} rows; allowed: more than {d + 1} for {d} features"
            )
        at = int(rows.argmax())
        if self.reference is not None:
            found = np.flatnonzero(names == self.reference)
            if found.size == 0:
                raise InputError(f"reference is {self.reference!r}; allowed: one of {', '.join(map(str, names[:8]))}")
            at = int(found[0])
        means = data[codes == at].mean(axis=0)
        centred = data - means
        moments = np.stack([centred[codes == e].T @ centred[codes == e] / rows[e] for e in range(names.size)])
        scale = np.sqrt(np.diag(moments[at])[:d])
        if not scale.all() or np.linalg.eigvalsh(moments[at][:d, :d] / np.outer(scale, scale))[0] < 1e-10:
            raise InputError("a feature is constant in the reference, or a combination of others; leave it out")
        others = np.arange(names.size) != at
        self.environments_, self.n_features_ = names[others], d
        self._search(moments[at], moments[others], rows[others])
        count = log_subsets(d, self.most)
        self.level_ = pac_level(int(others.sum()), count, self.delta, self.miss or 0.0)
        self.subset_: tuple[int, ...] = ()
        self.coef_, self.intercept_ = np.zeros(0), float(means[-1])
        self.violations_ = np.full(int(others.sum()), np.nan)
        self.status_ = InvarianceStatus.NONE
        if self.consistent_:
            self.subset_ = self.consistent_[0]
            self.coef_ = best_head(moments[at], self.subset_)
            self.intercept_ = float(means[-1] - self.coef_ @ means[list(self.subset_)])
            self.violations_ = self._violations(moments[at], moments[others], self.subset_)
            self.status_ = InvarianceStatus.FOUND if self.level_ < 0.5 else InvarianceStatus.FEW
        return self

    def predict(self, X: ArrayLike) -> FloatArray:
        """(n,) predictions of the chosen features' head; InputError where no set was invariant."""
        checks.fitted(self, "subset_", "fit(X, y, groups)")
        if not self.subset_:
            raise InputError(f"no set of features was found; {InvarianceStatus.NONE.value}")
        x = checks.finite("X", X, shape=(None, self.n_features_))
        return np.asarray(x[:, list(self.subset_)] @ self.coef_ + self.intercept_)

    def _violations(self, reference: FloatArray, moments: FloatArray, subset: Sequence[int]) -> FloatArray:
        found = invariance_violation(moments, subset, best_head(reference, subset))
        return found.share if self.measure == "share" else found.norm

    def _passes(self, reference: FloatArray, moments: FloatArray, rows: NDArray[Any], subset: Sequence[int]) -> bool:
        found = self._violations(reference, moments, subset)
        if self.miss is None:
            return bool((found <= self.eps).all())
        allowed = [certified_share(self.eps, len(subset), int(n), self.miss) for n in rows]
        return bool((found <= allowed).all())

    def _search(self, reference: FloatArray, moments: FloatArray, rows: NDArray[Any]) -> None:
        d = reference.shape[0] - 1
        most = d if self.most is None else min(d, checks.count("most", self.most))
        variance = reference[-1, -1]
        found = []
        for subset in _all_subsets(d, most) if d <= MOST_EXHAUSTIVE else self._eliminate(reference, moments, most):
            left = variance - float(best_head(reference, subset) @ reference[list(subset), -1])
            if left <= (1 - self.least_gain) * variance and self._passes(reference, moments, rows, subset):
                found.append((left, len(subset), subset))
        self.consistent_ = [subset for _, _, subset in sorted(found)]

    def _eliminate(self, reference: FloatArray, moments: FloatArray, most: int) -> Sequence[tuple[int, ...]]:
        """Backward elimination: from all features on, leave out the one without which the worst violation is least."""
        subset = tuple(range(reference.shape[0] - 1))
        path = [subset]
        while len(subset) > 1:
            fewer = [tuple(i for i in subset if i != out) for out in subset]
            subset = min(fewer, key=lambda s: float(self._violations(reference, moments, s).max()))
            path.append(subset)
        return [s for s in path if len(s) <= most]


def _all_subsets(d: int, most: int) -> Sequence[tuple[int, ...]]:
    return [s for k in range(1, most + 1) for s in itertools.combinations(range(d), k)]
