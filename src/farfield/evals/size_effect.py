"""What a score gains with model size, over model families that differ in more than size (P035, arXiv 2406.14051, section 4).

    score_ij = a + b log10 size_ij + c z_ij + u_i + e_ij,    u_i ~ N(0, family_sd^2),  e_ij ~ N(0, residual_sd^2)

for model j of family i with further covariates z, fitted by restricted maximum likelihood (Patterson and Thompson 1971): the
ratio of the two variances is searched on a line, all else is in closed form, since a family's covariance is a constant plus a
diagonal. Without the random effects families of different size ranges are mixed, and the slope is that between families as much
as that within (Simpson's paradox). Intervals are Student's t with as many degrees of freedom as families less coefficients,
which is cautious.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from farfield import checks
from farfield.errors import InputError
from farfield.figures import axes_or_new, style
from farfield.predictive import Gaussian

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]
_LOG_RATIOS = np.linspace(-14.0, 14.0, 57)  # of family to residual variance


@dataclass(frozen=True)
class SizeEffect:
    """The regression of a score on log10 size with families as random effects.

    Attributes
    ----------
    names : of the coefficients: intercept, log10 size, further covariates
    coefficients, covariance : (p,) and (p, p)
    family_sd, residual_sd : spread of families about the line, and of models about their family's
    families : family -> its deviation from the line, shrunk (best linear unbiased prediction)
    degrees : degrees of freedom of the intervals
    r2 : share of the score's variance that size and covariates explain, and with families (Nakagawa and Schielzeth 2013)
    size, score, group : (n,) what was fitted
    """

    names: tuple[str, ...]
    coefficients: FloatArray
    covariance: FloatArray
    family_sd: float
    residual_sd: float
    families: Mapping[str, float]
    degrees: int
    r2: tuple[float, float]
    size: FloatArray
    score: FloatArray
    group: NDArray[np.str_]

    @property
    def slope(self) -> float:
        """Score gained by ten times the size."""
        return float(self.coefficients[1])

    def interval(self, level: float = 0.8) -> dict[str, tuple[float, float]]:
        """(low, high) of every coefficient."""
        half = special.stdtrit(self.degrees, 0.5 + checks.level("level", level) / 2) * np.sqrt(np.diag(self.covariance))
        ends = zip(self.names, (self.coefficients - half).tolist(), (self.coefficients + half).tolist(), strict=True)
        return {name: (low, high) for name, low, high in ends}

    def predict(self, size: ArrayLike, covariates: Mapping[str, ArrayLike] | None = None) -> Gaussian:
        """Score of a model of a new family: `size` (m,) and covariates (m,) -> (m,), spread of families and models included."""
        x = _design(checks.finite("size", size, ndim=1), covariates or {}, self.names[2:])
        spread = np.einsum("ip,pq,iq->i", x, self.covariance, x) + self.family_sd**2 + self.residual_sd**2
        return Gaussian(x @ self.coefficients, np.sqrt(np.maximum(spread, 1e-300)))

    def brackets(self, decades: float = 0.5) -> list[dict[str, float]]:
        """Models of like size: a row for each bracket of log10 size that holds any, with how far their scores spread."""
        x = np.log10(self.size)
        place = np.floor(x / checks.positive("decades", decades)).astype(int)
        rows = []
        for k in np.unique(place):
            y = self.score[place == k]
            sd = float(y.std(ddof=1)) if y.size > 1 else float("nan")
            low, high = float(10 ** (k * decades)), float(10 ** ((k + 1) * decades))
            rows.append(
                {"from": low, "to": high, "models": int(y.size), "lowest": float(y.min()), "highest": float(y.max()), "sd": sd}
            )
        return rows

    def __repr__(self) -> str:
        low, high = self.interval()[self.names[1]]
        return (
            f"SizeEffect({self.slope:.3g} [{low:.3g}, {high:.3g}] a decade, families +-{self.family_sd:.3g}, "
            f"models +-{self.residual_sd:.3g}, R2 {self.r2[0]:.2f} and {self.r2[1]:.2f} with families)"
        )

    def summary(self) -> str:
        """The coefficients, then the brackets, a line each."""
        rows = [
            f"{n}: {c:.4g} [{a:.4g}, {b:.4g}]" for (n, (a, b)), c in zip(self.interval().items(), self.coefficients, strict=True)
        ]
        spread = [
            f"{r['from']:.3g} to {r['to']:.3g}: {r['models']} models, {r['lowest']:.3g} to {r['highest']:.3g}"
            for r in self.brackets()
        ]
        return "\n".join([repr(self), *rows, *spread])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "coefficients": dict(zip(self.names, self.coefficients.tolist(), strict=True)),
            "intervals_80": {k: list(v) for k, v in self.interval().items()},
            "family_sd": self.family_sd,
            "residual_sd": self.residual_sd,
            "families": dict(self.families),
            "r2": list(self.r2),
        }

    def to_frame(self) -> pl.DataFrame:
        """One row a family: its deviation from the line."""
        import polars as pl

        return pl.DataFrame({"family": list(self.families), "deviation": list(self.families.values())})

    @style()
    def plot(self, ax: Axes | None = None) -> Axes:
        """Scores over size, a colour a family, and the line with its 80 % band for a new family (covariates at their means)."""
        ax = axes_or_new(ax, (6.4, 4.0))
        for name in self.families:
            own = self.group == name
            ax.semilogx(self.size[own], self.score[own], "o", ms=4, alpha=0.7)
        if len(self.names) == 2:
            at = np.geomspace(self.size.min(), self.size.max(), 60)
            said = self.predict(at)
            ax.plot(at, said.mean(), color="black")
            ax.fill_between(at, *said.interval(0.8), color="black", alpha=0.1, lw=0)
        ax.set(xlabel="parameters", ylabel="score")
        return ax


def size_effect(
    size: ArrayLike,
    score: ArrayLike,
    group: ArrayLike,
    *,
    covariates: Mapping[str, ArrayLike] | None = None,
    family_effects: bool = True,
) -> SizeEffect:
    """Fit score over log10 size with families as random effects.

    Parameters
    ----------
    size : (n,) parameters or any scale, above 0; score : (n,) ; group : (n,) family of each model
    covariates : name -> (n,), entered as they are (take logarithms first)
    family_effects : False for ordinary least squares, all models alike

    Raises InputError for values that are not finite, scores without a family, fewer families than coefficients plus one, or
    covariates that cannot be told from each other.
    """
    s = checks.finite("size", size, ndim=1)
    y = checks.finite("score", score, shape=(s.size,))
    labels = np.asarray(group).astype(str)
    if labels.shape != s.shape:
        raise InputError(f"group has shape {labels.shape}; allowed: ({s.size},), one family a model")
    names = ("intercept", "log10 size", *(covariates or {}))
    x = _design(s, covariates or {}, names[2:])
    families, code, count = np.unique(labels, return_inverse=True, return_counts=True)
    p = x.shape[1]
    if families.size <= p:
        raise InputError(f"{families.size} families for {p} coefficients; allowed: at least {p + 1}")
    if np.linalg.matrix_rank(x) < p:
        raise InputError(
            f"{', '.join(names[1:])} and a constant cannot be told apart over these models; leave one out, or add models"
        )
    sums_x = np.zeros((families.size, p))
    np.add.at(sums_x, code, x)
    sums_y = np.bincount(code, y)

    def solve(ratio: float) -> tuple[float, FloatArray, FloatArray, float]:
        """-2 restricted log-likelihood up to a constant, coefficients, (X' V^-1 X)^-1, residual variance, for V = I + ratio ZZ'."""
        shrink = ratio / (1 + ratio * count)
        normal = x.T @ x - (sums_x.T * shrink) @ sums_x
        beta = np.asarray(np.linalg.solve(normal, x.T @ y - (sums_x.T * shrink) @ sums_y), dtype=np.float64)
        rest = y - x @ beta
        left = np.bincount(code, rest)
        variance = max(float((rest @ rest - shrink @ (left * left)) / (y.size - p)), 1e-300)
        value = (y.size - p) * np.log(variance) + np.log1p(ratio * count).sum() + np.linalg.slogdet(normal)[1]
        return float(value), beta, np.asarray(np.linalg.inv(normal), dtype=np.float64), variance

    ratio = 0.0
    if family_effects:
        values = [solve(float(np.exp(r)))[0] for r in _LOG_RATIOS]
        best = int(np.argmin(values))
        ends = _LOG_RATIOS[max(best - 1, 0)], _LOG_RATIOS[min(best + 1, len(values) - 1)]
        found = optimize.minimize_scalar(
            lambda r: solve(float(np.exp(r)))[0], bounds=ends, method="bounded", options={"xatol": 1e-10}
        )
        # with one model a family the two variances cannot be told apart, and all is put down to models
        ratio = float(np.exp(found.x)) if found.fun < solve(0.0)[0] - 1e-7 else 0.0
    _, beta, inverse, variance = solve(ratio)
    rest = np.bincount(code, y - x @ beta)
    effects = ratio * rest / (1 + ratio * count)
    fixed = float((x @ beta).var())
    total = fixed + (1 + ratio) * variance
    return SizeEffect(
        names, beta, inverse * variance, float(np.sqrt(ratio * variance)), float(np.sqrt(variance)),
        dict(zip(families.tolist(), effects.tolist(), strict=True)), int(families.size - p) if family_effects else int(y.size - p),
        (fixed / total, (fixed + ratio * variance) / total), s, y, labels,
    )  # fmt: skip


def _design(size: FloatArray, covariates: Mapping[str, ArrayLike], names: tuple[str, ...]) -> FloatArray:
    if (size <= 0).any():
        raise InputError(f"size holds {size.min():g}; allowed: numbers above 0")
    if set(covariates) != set(names):
        raise InputError(f"covariates are {', '.join(covariates) or 'none'}; needed: {', '.join(names) or 'none'}")
    columns = [checks.finite(name, covariates[name], shape=(size.size,)) for name in names]
    return np.stack([np.ones(size.size), np.log10(size), *columns], axis=1)
