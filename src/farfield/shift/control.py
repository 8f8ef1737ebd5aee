"""The effect of interventions outside those applied, when the state they move is known (Saengkyongam et al. 2023, 2310.04295).

    Z = M A + c + V        the exogenous A moves the state Z linearly; V is hidden, and hidden causes link it to the outcome
    Y = l(Z) + U           U depends on V, not on A

E[Y | do(A = a)] is no continuation of E[Y | A = a] in a, yet it can be had (section 2): with V^ the residuals of Z on A, regress Y
on nu(Z) + psi(V^), additively; psi takes up what V says of U, and nu is l up to a constant, since M A moves Z while V^ stays. Then

    E[Y | do(A = a)] = mean_i nu(M a + c + V^_i) + mean Y - mean_i nu(Z_i).

It holds as far as the states M a + c + V^_i stay among those observed; their share outside is reported (`outside`). Any affine
image of Z does as well as Z (section 3), which is what makes :mod:`farfield.shift.rep4ex` possible.

nu and psi are linear terms and multiquadrics sqrt(1 + |z - c_j|^2 / h^2), whose tails are straight, fitted by ridge regression with
the strength of least generalised cross-validation: closed form. Deviation: the paper fits generalised additive models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks, seeds
from farfield.errors import InputError
from farfield.splits.hull import hull_distance

FloatArray = NDArray[np.float64]

_STRENGTHS = np.logspace(-4, 4, 33)  # weaker ones let nearly equal multiquadrics cancel, which explodes outside


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
    """Linear terms and multiquadrics around centres drawn from the data, in units of the data's spread."""

    def __init__(self, points: FloatArray, n_centres: int, rng: np.random.Generator) -> None:
        self.middle, self.spread = points.mean(axis=0), points.std(axis=0)
        if not (self.spread > 0).all():
            raise InputError(f"column {int(np.argmin(self.spread))} of the state, or of its residual, is constant")
        scaled = self._scaled(points)
        self.centres = scaled[np.sort(rng.permutation(len(points))[:n_centres])]

    def _scaled(self, points: FloatArray) -> FloatArray:
        return np.asarray((points - self.middle) / self.spread)

    def __call__(self, points: FloatArray) -> FloatArray:
        x = self._scaled(points)
        squared = (x**2).sum(axis=1)[:, None] + (self.centres**2).sum(axis=1) - 2 * x @ self.centres.T
        return np.column_stack([x, np.sqrt(1 + np.maximum(squared, 0.0))])


@dataclass(eq=False)
class ControlFunctionRegressor:
    """Mean outcome under interventions on A, from a known state Z: the additive control function.

    Parameters
    ----------
    n_centres : multiquadrics of nu and of psi
    control : False leaves psi out: plain regression on the state, which hidden causes bias
    random_state : seed of the centres

    Learned
    -------
    matrix_ (k, d) and offset_ (d,) of the state's linear fit in A, residuals_ (n, d), strength_ of the ridge
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
        if len(a) != len(z) or len(z) < 10:
            raise InputError(f"Z has {len(z)} rows and A {len(a)}; allowed: as many, 10 at least")
        fitted = linear_fit(z, a)
        self.matrix_, self.offset_ = fitted[:-1], fitted[-1]
        if np.linalg.matrix_rank(self.matrix_ * a.std(axis=0)[:, None], tol=1e-8 * float(z.std())) < z.shape[1]:
            raise InputError(f"A moves the state in fewer than its {z.shape[1]} directions; the effect outside is not identified")
        self.residuals_ = z - a @ self.matrix_ - self.offset_
        rng = seeds.generator(self.random_state)
        centres = min(checks.count("n_centres", self.n_centres), len(z) // 3)
        self.states_, self._nu = z, _Basis(z, centres, rng)
        features = self._nu(z)
        self._width = features.shape[1]
        if self.control:
            features = np.column_stack([features, _Basis(self.residuals_, centres, rng)(self.residuals_)])
        self._mean = features.mean(axis=0)
        self._mean_y = float(y.mean())
        u, s, vt = np.linalg.svd(features - self._mean, full_matrices=False)
        uy, n = u.T @ (y - self._mean_y), len(y)
        rest = float(((y - self._mean_y) ** 2).sum() - (uy**2).sum())

        def gcv(strength: float) -> float:
            kept = s**2 / (s**2 + strength * n)
            return n * (rest + float((((1 - kept) * uy) ** 2).sum())) / (n - 1 - float(kept.sum())) ** 2

        self.strength_ = float(min(_STRENGTHS, key=gcv))
        self._weights = (vt.T @ (s / (s**2 + self.strength_ * n) * uy))[: self._width]
        return self

    def nu(self, Z: ArrayLike) -> FloatArray:
        """(m,) the effect of states (m, d) on the outcome, 0 on average over the states observed."""
        z = checks.finite("Z", Z, shape=(None, self.states_.shape[1]))
        return np.asarray((self._nu(z) - self._mean[: self._width]) @ self._weights)

    def predict_do(self, A: ArrayLike) -> FloatArray:
        """(m,) mean outcome if A were set to each row of (m, k)."""
        return np.array([self.nu(self._moved(row)).mean() + self._mean_y for row in self._checked(A)])

    def outside(self, A: ArrayLike, n_points: int = 100) -> FloatArray:
        """(m,) share of (`n_points`) shifted states outside the hull of those observed, where nu is itself extrapolated."""
        pick = np.linspace(0, len(self.states_) - 1, min(checks.count("n_points", n_points), len(self.states_))).astype(int)
        moved = [self._moved(row)[pick] for row in self._checked(A)]
        return np.array([float((hull_distance(points, self.states_) > 0).mean()) for points in moved])

    def _checked(self, A: ArrayLike) -> FloatArray:
        return checks.finite("A", A, shape=(None, self.matrix_.shape[0]))

    def _moved(self, row: FloatArray) -> FloatArray:
        return np.asarray(row @ self.matrix_ + self.offset_ + self.residuals_)
