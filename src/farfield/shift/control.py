"""The effect of interventions outside those applied, when the state they move is known (Saengkyongam et al. 2023, 2310.04295).

    Z = M A + c + V        the exogenous A moves the state Z linearly; V is hidden, and hidden causes link it to the outcome
    Y = l(Z) + U           U depends on V, not on A

E[Y | do(A = a)] is no continuation of E[Y | A = a] in a, yet it can be had (section 2): with V^ the residuals of Z on A, regress Y
on nu(Z) + psi(V^), additively; psi takes up what V says of U, and nu is l up to a constant, since M A moves Z while V^ stays. Then

    E[Y | do(A = a)] = mean_i nu(M a + c + V^_i) + mean Y - mean_i nu(Z_i).

It holds as far as the states M a + c + V^_i stay among those observed; their share outside is reported (`outside`). Any affine
image of Z does as well as Z (section 3), which is what makes :mod:`farfield.shift.rep4ex` possible.

nu and psi are linear terms, or linear and quadratic ones, and multiquadrics sqrt(1 + |z - c_j|^2 / h^2), whose tails are straight.
Only the multiquadrics' weights are shrunk, by ridge regression: shrunk linear terms would divide what Z and V^ share between nu and
psi by their sizes. Degree and strength are those of least generalised cross-validation, which sees the inside only: closed form.
Deviation: the paper fits generalised additive models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks, seeds
from farfield.errors import InputError
from farfield.estimator import Parameters
from farfield.splits.hull import hull_distance

FloatArray = NDArray[np.float64]

_STRENGTHS = np.logspace(-4, 4, 33)  # weaker ones let nearly equal multiquadrics cancel, which explodes outside
_DEARER = 1.02  # by how much monomials of degree 2 have to lower the score


def linear_fit(target: FloatArray, A: FloatArray) -> FloatArray:
    """(k + 1, d) least-squares coefficients of `target` (n, d) on A (n, k) and, last, a constant."""
    return np.asarray(np.linalg.lstsq(np.column_stack([A, np.ones(len(A))]), target, rcond=None)[0])


def linear_invariance(codes: ArrayLike, A: ArrayLike, bandwidth: float | None = None) -> float:
    """How far E[code - its linear fit in A | A] is from 0: the maximum moment restriction with a Gaussian kernel.

    Parameters
    ----------
    codes : (n, d); each column is divided by its standard deviation, so that scale does not count
    A : (n, k); `bandwidth` of the kernel, None for the median distance

    Returns 1 / (n (n - 1)) sum over i != j of r_i . r_j exp(-|A_i - A_j|^2 / (2 h^2)), 0 in expectation if and only if codes are
    linear in A up to noise with conditional mean 0. Source: Saengkyongam et al. 2023, section 5; Muandet et al. 2020.
    """
    z, a = checks.finite("codes", codes, ndim=2), checks.finite("A", A, ndim=2)
    if len(z) != len(a) or len(z) < a.shape[1] + 2:
        raise InputError(f"codes has {len(z)} rows and A {len(a)}; allowed: as many, more than {a.shape[1] + 1}")
    residual = (z - np.column_stack([a, np.ones(len(a))]) @ linear_fit(z, a)) / z.std(axis=0)
    squared = ((a[:, None] - a[None]) ** 2).sum(axis=-1)
    h2 = (
        float(np.median(squared[np.triu_indices(len(a), 1)])) if bandwidth is None else checks.positive("bandwidth", bandwidth) ** 2
    )
    product = (residual @ residual.T) * np.exp(-squared / (2 * h2))
    return float((product.sum() - np.trace(product)) / (len(a) * (len(a) - 1)))


class _Basis:
    """Monomials up to a degree, and multiquadrics around centres drawn from the data, in units of the data's spread."""

    def __init__(self, points: FloatArray, n_centres: int, rng: np.random.Generator) -> None:
        self.middle, self.spread = points.mean(axis=0), points.std(axis=0)
        if not (self.spread > 0).all():
            raise InputError(f"column {int(np.argmin(self.spread))} of the state, or of its residual, is constant")
        self.centres = self._scaled(points)[np.sort(rng.permutation(len(points))[:n_centres])]

    def _scaled(self, points: FloatArray) -> FloatArray:
        return np.asarray((points - self.middle) / self.spread)

    def monomials(self, points: FloatArray, degree: int) -> FloatArray:
        """(n, d) or, of degree 2, (n, d + d (d + 1) / 2)."""
        x = self._scaled(points)
        first, second = np.triu_indices(x.shape[1])
        return x if degree == 1 else np.column_stack([x, x[:, first] * x[:, second]])

    def multiquadrics(self, points: FloatArray) -> FloatArray:
        """(n, n_centres)"""
        x = self._scaled(points)
        squared = (x**2).sum(axis=1)[:, None] + (self.centres**2).sum(axis=1) - 2 * x @ self.centres.T
        return np.asarray(np.sqrt(1 + np.maximum(squared, 0.0)))


@dataclass(frozen=True)
class _Additive:
    """A fit of y: weights of free columns, of shrunk columns, the strength of the shrinking and its score."""

    free: FloatArray
    shrunk: FloatArray
    strength: float
    score: float

    @classmethod
    def fit(cls, free: FloatArray, bent: FloatArray, y: FloatArray) -> _Additive:
        """Least squares with a ridge on the weights of `bent` alone, of least generalised cross-validation; all is centred."""
        q = np.linalg.qr(free)[0]
        u, s, vt = np.linalg.svd(bent - q @ (q.T @ bent), full_matrices=False)
        left, n = y - q @ (q.T @ y), len(y)
        uy = u.T @ left
        rest = float((left**2).sum() - (uy**2).sum())

        def gcv(strength: float) -> float:
            kept = s**2 / (s**2 + strength * n)
            return float(n * (rest + (((1 - kept) * uy) ** 2).sum()) / (n - 1 - free.shape[1] - kept.sum()) ** 2)

        strength = float(min(_STRENGTHS, key=gcv))
        shrunk = vt.T @ (s / (s**2 + strength * n) * uy)
        return cls(np.asarray(np.linalg.lstsq(free, y - bent @ shrunk, rcond=None)[0]), np.asarray(shrunk), strength, gcv(strength))


@dataclass(eq=False)
class ControlFunctionRegressor(Parameters):
    """Mean outcome under interventions on A, from a known state Z: the additive control function.

    Parameters
    ----------
    n_centres : multiquadrics of nu and of psi
    control : False leaves psi out: plain regression on the state, which hidden causes bias
    random_state : seed of the centres

    Learned
    -------
    matrix_ (k, d) and offset_ (d,) of the state's linear fit in A, residuals_ (n, d), degree_ of the monomials, strength_ of the
    ridge
    """

    n_centres: int = 60
    control: bool = True
    random_state: Any = 0

    def fit(self, Z: ArrayLike, A: ArrayLike, Y: ArrayLike) -> Self:
        """Fit on states (n, d), exogenous values (n, k) and outcomes (n,).

        Raises InputError for lengths that differ, fewer rows than features, a constant state, and A that does not move the state in
        all its directions (rank below d: then nothing outside can be said).
        """
        z, a = checks.finite("Z", Z, ndim=2), checks.finite("A", A, ndim=2)
        y = checks.finite("Y", Y, shape=(len(z),))
        least = max(10, 6 * z.shape[1])
        if len(a) != len(z) or len(z) < least:
            raise InputError(f"Z has {len(z)} rows and A {len(a)}; allowed: as many, {least} at least")
        fitted = linear_fit(z, a)
        self.matrix_, self.offset_ = fitted[:-1], fitted[-1]
        if np.linalg.matrix_rank(self.matrix_ * a.std(axis=0)[:, None], tol=1e-8 * float(z.std())) < z.shape[1]:
            raise InputError(f"A moves the state in fewer than its {z.shape[1]} directions; the effect outside is not identified")
        self.residuals_ = z - a @ self.matrix_ - self.offset_
        rng = seeds.generator(self.random_state)
        centres = min(checks.count("n_centres", self.n_centres), len(z) // 6)
        self.states_, self._nu, self._mean_y = z, _Basis(z, centres, rng), float(y.mean())
        parts = [(self._nu, z), *([(_Basis(self.residuals_, centres, rng), self.residuals_)] if self.control else [])]
        bent = np.column_stack([basis.multiquadrics(points) for basis, points in parts])
        bent -= bent.mean(axis=0)
        fits = []
        for degree in (1, 2):
            free = np.column_stack([basis.monomials(points, degree) for basis, points in parts])
            if degree == 1 or free.shape[1] < len(z) // 3:
                fits.append((degree, _Additive.fit(free - free.mean(axis=0), bent, y - self._mean_y)))
        # curved only where it shows: near a tie the last digits would decide
        self.degree_, best = min(fits, key=lambda fit: fit[1].score * (1 if fit[0] == 1 else _DEARER))
        self.strength_ = best.strength
        self._weights = best.free[: self._nu.monomials(z[:1], self.degree_).shape[1]], best.shrunk[:centres]
        self._middle = float(self._raw(z).mean())
        return self

    def _raw(self, z: FloatArray) -> FloatArray:
        free, shrunk = self._weights
        return np.asarray(self._nu.monomials(z, self.degree_) @ free + self._nu.multiquadrics(z) @ shrunk)

    def nu(self, Z: ArrayLike) -> FloatArray:
        """(m,) the effect of states (m, d) on the outcome, 0 on average over the states observed."""
        checks.fitted(self, "states_", "fit(Z, A, Y)")
        return self._raw(checks.finite("Z", Z, shape=(None, self.states_.shape[1]))) - self._middle

    def predict_do(self, A: ArrayLike) -> FloatArray:
        """(m,) mean outcome if A were set to each row of (m, k)."""
        return np.array([self.nu(self._moved(row)).mean() + self._mean_y for row in self._checked(A)])

    def outside(self, A: ArrayLike, n_points: int = 100) -> FloatArray:
        """(m,) share of (`n_points`) shifted states outside the hull of those observed, where nu is itself extrapolated."""
        pick = np.linspace(0, len(self.states_) - 1, min(checks.count("n_points", n_points), len(self.states_))).astype(int)
        moved = [self._moved(row)[pick] for row in self._checked(A)]
        return np.array([float((hull_distance(points, self.states_) > 0).mean()) for points in moved])

    def _checked(self, A: ArrayLike) -> FloatArray:
        checks.fitted(self, "states_", "fit(Z, A, Y)")
        return checks.finite("A", A, shape=(None, self.matrix_.shape[0]))

    def _moved(self, row: FloatArray) -> FloatArray:
        return np.asarray(row @ self.matrix_ + self.offset_ + self.residuals_)
