"""Benchmark scores against compute: how predictable they are (P018), and whether a jump is the model's or the metric's (P026).

*How predictable is language model benchmark performance?* (Owen 2024, arXiv 2401.04757) in short:

- The loss of a model of N parameters trained on D tokens is L = E + A/N^alpha + B/D^beta (Hoffmann et al. 2022, approach 3: E 1.69,
  A 406.4, B 410.7, alpha 0.34, beta 0.28).
- Its *scaled compute* is the least compute C = 6 N D that reaches this loss; on the frontier L - E = k C^-g with
  g = alpha beta / (alpha + beta), so it has a closed form. Models trained past or short of the optimum become comparable.
- A score is chance + (ceiling - chance) sigmoid(slope (log10 C - midpoint)), fitted by least squares; a straight line is the
  form without floor and ceiling.
- Backtest: fit below a cut in compute, predict the models up to one decade above it.

*Emergent abilities of large language models* (Wei et al. 2022, arXiv 2206.07682): a score is at chance below a scale and well above
it beyond. Where success needs L tokens to be right, exact match is p^L for independent errors of token accuracy p, and a smooth p
looks like a jump (Schaeffer et al. 2023, arXiv 2304.15004): the *metric swap* forecasts p and raises it to L. And other benchmarks
tell more of a model than its compute: the first principal component of their scores is a *capability axis*, along which jumps over
compute become sigmoids (Ruan et al. 2024, arXiv 2405.10938, section 3).

Deviations: the papers state no fitting procedure; here it is Levenberg-Marquardt from a grid of starts, and intervals come from
resampling whole model families, since models of one family are not independent, and from a backtest within the seen models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.estimator import Parameters
from farfield.predictive import Samples
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float64]
Form = Literal["sigmoid", "linear"]

HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
_SLOPES = np.array([0.5, 1.5, 4.0, 12.0])  # starts, per unit of x over its range, see _starts
_MIDPOINTS = np.array([0.1, 0.5, 0.9, 1.3, 2.0])  # as fractions of the range of x, beyond it too


def scaled_compute(params: ArrayLike, tokens: ArrayLike) -> FloatArray:
    """Least training compute (FLOP) that reaches the loss a model of `params` parameters on `tokens` tokens has by Hoffmann's law.

    Shapes broadcast. At the optimal ratio it is 6 params tokens, elsewhere less.
    """
    n, d = checks.finite("params", params), checks.finite("tokens", tokens)
    if (n <= 0).any() or (d <= 0).any():
        raise InputError("params and tokens must be above 0")
    a, b, alpha, beta = (HOFFMANN[k] for k in ("A", "B", "alpha", "beta"))
    # minimise A/N^alpha + B/D^beta at N D = C/6: N = G (C/6)^(beta/(alpha+beta)), G = (alpha A / beta B)^(1/(alpha+beta))
    g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    frontier = a * g**-alpha + b * g**beta  # L - E at C/6 = 1
    exponent = alpha * beta / (alpha + beta)
    reducible = a / n**alpha + b / d**beta
    return np.asarray(6 * (frontier / reducible) ** (1 / exponent), dtype=np.float64)


def sigmoid(x: ArrayLike, midpoint: ArrayLike, slope: ArrayLike, chance: ArrayLike = 0.0, ceiling: ArrayLike = 1.0) -> FloatArray:
    """chance + (ceiling - chance) / (1 + exp(-slope (x - midpoint))); shapes broadcast."""
    z = np.asarray(slope) * (np.asarray(x, dtype=np.float64) - np.asarray(midpoint))
    return np.asarray(chance + (np.asarray(ceiling) - chance) * (0.5 + 0.5 * np.tanh(0.5 * z)))


def fit_sigmoid(
    x: ArrayLike, y: ArrayLike, *, chance: ArrayLike = 0.0, ceiling: ArrayLike = 1.0, weights: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Least squares of `sigmoid` on many curves at once, best of a grid of starts.

    Parameters
    ----------
    x, y : (..., n) positions and scores; leading axes are separate curves and broadcast
    chance, ceiling : (...) known bounds of each curve
    weights : (..., n) weight of each point, 0 or more; leading axes broadcast (resamples of one curve)

    Returns midpoint, slope and weighted sum of squares, each of the broadcast leading shape. The slope is never negative.
    """
    x_, y_ = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    w_ = np.ones(y_.shape[-1]) if weights is None else np.asarray(weights, dtype=np.float64)
    shape = np.broadcast_shapes(x_.shape, y_.shape, w_.shape)
    lead = np.broadcast_shapes(shape[:-1], np.shape(chance), np.shape(ceiling))
    x_, y_, w_ = (np.broadcast_to(v, (*lead, shape[-1])).reshape(-1, 1, shape[-1]) for v in (x_, y_, w_))
    low, high = (np.broadcast_to(np.asarray(v, dtype=np.float64), lead).reshape(-1, 1) for v in (chance, ceiling))

    start = x_.min(-1)
    span = np.maximum(x_.max(-1) - start, 1e-12)
    middles, slopes = (g.ravel() for g in np.meshgrid(_MIDPOINTS, _SLOPES))
    m, s = start + span * middles, np.log(slopes * 4 / span)  # (curves, starts); the slope through its logarithm
    best_m, best_s, cost = _levenberg_marquardt(x_, y_, w_, low, high, m, s)
    pick = np.argmin(cost, axis=1)[:, None]
    m, s, cost = (np.take_along_axis(v, pick, 1).reshape(lead) for v in (best_m, best_s, cost))
    return m, np.exp(s), cost


def _levenberg_marquardt(
    x: FloatArray, y: FloatArray, w: FloatArray, low: FloatArray, high: FloatArray, m: FloatArray, s: FloatArray, steps: int = 60
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Two parameters, (curves, starts) of them at once: x, y, w are (curves, 1, n), the rest (curves, starts or 1)."""
    scale = (high - low)[..., None]
    damping = np.full(m.shape, 1e-2)

    def residual(m: FloatArray, s: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        z = np.exp(s)[..., None] * (x - m[..., None])
        p = 0.5 + 0.5 * np.tanh(0.5 * z)
        r = low[..., None] + scale * p - y
        return r, scale * p * (1 - p), z

    r, dz, z = residual(m, s)
    cost = (w * r * r).sum(-1)
    for _ in range(steps):
        jm, js = -dz * np.exp(s)[..., None], dz * z  # d residual / d midpoint, d residual / d log slope
        gm, gs = (w * jm * r).sum(-1), (w * js * r).sum(-1)
        hmm, hss, hms = (w * jm * jm).sum(-1), (w * js * js).sum(-1), (w * jm * js).sum(-1)
        am, as_ = hmm * (1 + damping) + 1e-300, hss * (1 + damping) + 1e-300
        det = np.maximum(am * as_ - hms * hms, 1e-300)
        dm, ds = -(as_ * gm - hms * gs) / det, -(am * gs - hms * gm) / det
        reach = x.max(-1) - x.min(-1)
        new_m = m + np.clip(dm, -reach, reach)
        new_s = np.clip(s + np.clip(ds, -1.0, 1.0), -20.0, 20.0)
        r_new, dz_new, z_new = residual(new_m, new_s)
        new_cost = (w * r_new * r_new).sum(-1)
        better = new_cost < cost
        m, s, cost = np.where(better, new_m, m), np.where(better, new_s, s), np.where(better, new_cost, cost)
        r, dz, z = (np.where(better[..., None], a, b) for a, b in ((r_new, r), (dz_new, dz), (z_new, z)))
        damping = np.clip(np.where(better, damping * 0.3, damping * 4.0), 1e-12, 1e12)
    return m, s, cost


def _fit_line(x: FloatArray, y: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weighted least-squares intercept and slope over the last axis."""
    total = w.sum(-1)
    mx, my = (w * x).sum(-1) / total, (w * y).sum(-1) / total
    cx = x - mx[..., None]
    slope = (w * cx * (y - my[..., None])).sum(-1) / np.maximum((w * cx * cx).sum(-1), 1e-300)
    return my - slope * mx, slope


class CapabilityFit(Parameters):
    """Score of a benchmark against log10 compute, with intervals from resampled model families (P018).

    Parameters
    ----------
    form : "sigmoid" between chance and ceiling, or "linear"
    chance, ceiling : score of guessing, and the best possible
    n_boot : resamples of the groups; 0 for none (then `predict` gives one sample, the fit)
    random_state : seed of the resamples
    """

    def __init__(
        self,
        form: Form = "sigmoid",
        *,
        chance: float = 0.0,
        ceiling: float = 1.0,
        n_boot: int = 200,
        random_state: Seed = None,
    ) -> None:
        self.form = checks.choice("form", form, ("sigmoid", "linear"))
        if not chance < ceiling:
            raise InputError(f"chance is {chance} and ceiling {ceiling}; chance must be below ceiling")
        self.chance, self.ceiling = float(chance), float(ceiling)
        self.n_boot = checks.count("n_boot", n_boot, least=0)
        self.random_state = random_state

    def __repr__(self) -> str:
        return f"CapabilityFit(form={self.form!r}, chance={self.chance:g}, ceiling={self.ceiling:g}, n_boot={self.n_boot})"

    def fit(self, compute: ArrayLike, score: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit on `compute` (n,) in FLOP and `score` (n,); `groups` (n,) names what is resampled as one, such as model families.

        Raises InputError for fewer than three models, compute that is not above 0, or values that are not finite.
        """
        c = checks.finite("compute", compute, ndim=1)
        y = checks.finite("score", score, shape=(c.size,))
        if c.size < 3 or (c <= 0).any():
            raise InputError(
                f"{c.size} models with compute from {c.min() if c.size else 0:g}; needed: three or more, compute above 0"
            )
        names = np.arange(c.size) if groups is None else np.asarray(groups)
        if names.shape != c.shape:
            raise InputError(f"groups has shape {names.shape}; allowed: ({c.size},), one name a model")
        x = np.log10(c)
        rng = generator(self.random_state)
        _, code = np.unique(names, return_inverse=True)
        n_groups = int(code.max()) + 1
        draws = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=self.n_boot).astype(np.float64)
        weights = np.concatenate([np.ones((1, c.size)), draws[:, code]])
        # a resample in which all models stand at one compute determines nothing: the plain fit stands in for it
        spread = np.array([np.unique(x[w > 0]).size for w in weights])
        weights[spread < 2] = 1.0
        if self.form == "sigmoid":
            first, second, _ = fit_sigmoid(x, y, chance=self.chance, ceiling=self.ceiling, weights=weights)
        else:
            first, second = _fit_line(np.broadcast_to(x, weights.shape), np.broadcast_to(y, weights.shape), weights)
        self.parameters_ = np.stack([first, second], axis=1)  # (1 + n_boot, 2); row 0 is the fit itself
        self.residuals_ = self._errors_beyond(x, y)
        return self

    def _errors_beyond(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """How far models lay from a fit that had not seen them or anything larger: the upper half of `x`, rolling by a quarter.

        With too few models for that, the residuals of the fit itself.
        """
        errors = []
        for share in (0.5, 0.75):
            cut = np.quantile(x, share)
            seen = x <= cut
            if np.unique(x[seen]).size >= 4 and (~seen).sum() >= 3:
                if self.form == "sigmoid":
                    first, second, _ = fit_sigmoid(x[seen], y[seen], chance=self.chance, ceiling=self.ceiling)
                else:
                    first, second = _fit_line(x[seen], y[seen], np.ones(int(seen.sum())))
                errors.append(y[~seen] - self._value(np.array([[float(first), float(second)]]), x[~seen])[0])
        if errors:
            return np.concatenate(errors)
        inside: FloatArray = (y - self._value(self.parameters_[:1], x)[0]) * np.sqrt(x.size / max(x.size - 2, 1))
        return inside

    def _value(self, parameters: FloatArray, x: FloatArray) -> FloatArray:
        first, second = parameters[:, :1], parameters[:, 1:]
        if self.form == "sigmoid":
            return sigmoid(x, first, second, self.chance, self.ceiling)
        return np.asarray(first + second * x, dtype=np.float64)

    def expected(self, compute: ArrayLike) -> FloatArray:
        """(n_at,) fitted score at `compute` (n_at,) in FLOP."""
        checks.fitted(self, "parameters_", "fit(compute, score)")
        value: FloatArray = self._value(self.parameters_[:1], np.log10(checks.finite("compute", compute, ndim=1)))[0]
        return value

    def predict(self, compute: ArrayLike) -> Samples:
        """Distribution of a new model's score at `compute` (n_at,): resampled fits plus errors of a backtest on the seen models.

        Every resample meets 10 evenly spaced quantiles of the absolute error, added and taken off: on the wide side, since the
        backtest's errors hold some of what resampling adds. Sigmoid scores stay within 0 (or chance, if lower) and the ceiling.
        """
        checks.fitted(self, "parameters_", "fit(compute, score)")
        value = self._value(
            self.parameters_[1:] if self.n_boot else self.parameters_, np.log10(checks.finite("compute", compute, ndim=1))
        )
        size = np.quantile(np.abs(self.residuals_), (np.arange(10) + 0.5) / 10)
        noise = np.concatenate([-size, size])
        draws = (value[:, None, :] + noise[:, None]).reshape(-1, value.shape[-1])
        return Samples(np.clip(draws, min(0.0, self.chance), self.ceiling) if self.form == "sigmoid" else draws)


class CapabilityAxis:
    """First principal component of benchmark scores: a scale to fit another benchmark's score over, in place of compute (P026).

    ``CapabilityFit().fit(axis.scale(seen), score)`` forecasts a score that was hidden from the scores that were not: the models
    asked about need their other scores only, and the axis knows the seen models alone.

    Learned: ``mean_``, ``spread_`` (k,) of the seen scores, ``loadings_`` (k,) of unit length and positive sum, ``explained_``, the
    share of the standardised scores' variance along the axis. Source: Ruan et al. 2024, arXiv 2405.10938, section 3.2.
    """

    def fit(self, scores: ArrayLike) -> Self:
        """Fit on scores (n, k) of the seen models; raises InputError for fewer than three models or a constant benchmark."""
        y = checks.finite("scores", scores, ndim=2)
        if y.shape[0] < 3 or not y.shape[1]:
            raise InputError(f"scores has shape {y.shape}; needed: three models or more, one benchmark or more")
        self.mean_, self.spread_ = y.mean(axis=0), y.std(axis=0)
        if (self.spread_ <= 1e-12 * (1 + np.abs(self.mean_))).any():
            raise InputError(f"benchmark {int(self.spread_.argmin())} has one score for all models; leave it out")
        _, size, axes = np.linalg.svd((y - self.mean_) / self.spread_, full_matrices=False)
        self.loadings_: FloatArray = axes[0] * (1.0 if axes[0].sum() >= 0 else -1.0)
        self.explained_ = float(size[0] ** 2 / (size @ size))
        return self

    def transform(self, scores: ArrayLike) -> FloatArray:
        """(n,) positions of models with scores (n, k) on the axis; 0 is the mean of the seen."""
        checks.fitted(self, "loadings_", "fit(scores) of the seen models")
        y = checks.finite("scores", scores, shape=(None, self.mean_.size))
        # a sum over columns, not a product of matrices, whose rounding would depend on the other rows
        return np.asarray(((y - self.mean_) / self.spread_ * self.loadings_).sum(axis=1))

    def scale(self, scores: ArrayLike) -> FloatArray:
        """10 to the power of `transform`, for `CapabilityFit` and `emergence`, which take logarithms."""
        return np.asarray(10.0 ** self.transform(scores))


# -- emergence --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Emergence:
    """Does a score sit at chance up to a scale and rise beyond it?

    Attributes
    ----------
    threshold : log10 of the scale at which it leaves chance, by the hinge
    low, high : 80 % interval of the threshold, from resampled models
    sharpness : decades of scale in which the sigmoid climbs from 10 to 90 % of the way; small is sharp
    preference : AICc of the sigmoid less that of the hinge; positive speaks for a kink
    emergent : whether models below the threshold are at chance and some are well above it beyond
    """

    threshold: float
    low: float
    high: float
    sharpness: float
    preference: float
    emergent: bool

    def __repr__(self) -> str:
        said = "emergent" if self.emergent else "not emergent"
        where = f"10^{self.threshold:.2f} [10^{self.low:.2f}, 10^{self.high:.2f}]"
        return f"Emergence({said}, threshold {where}, {self.sharpness:.2g} decades wide)"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dict(self.__dict__)


def emergence(
    scale: ArrayLike, score: ArrayLike, *, chance: float = 0.0, ceiling: float = 1.0, n_boot: int = 200, rng: Seed = 0
) -> Emergence:
    """Look for a kink in `score` (n,) over log10 `scale` (n,): a hinge at chance against a smooth sigmoid.

    *Emergent*: at least two models stand below the threshold and on average within a tenth of the way from chance to ceiling, and
    the best beyond is more than a quarter of the way up (the two limits are ours; the paper draws the line by eye). Raises
    InputError for fewer than five models.
    """
    s = checks.finite("scale", scale, ndim=1)
    y = checks.finite("score", score, shape=(s.size,))
    if s.size < 5 or (s <= 0).any():
        raise InputError(f"{s.size} models; needed: five or more, with scale above 0")
    x = np.log10(s)
    order = np.argsort(x)
    x, y = x[order], y[order]
    draws = generator(rng).multinomial(x.size, np.full(x.size, 1 / x.size), size=checks.count("n_boot", n_boot, least=0))
    thresholds, costs = _hinge(x, y - chance, np.concatenate([np.ones((1, x.size)), draws]))
    threshold = float(thresholds[0])
    low, high = np.quantile(thresholds[1:] if n_boot else thresholds, (0.1, 0.9))
    _, steepness, cost = fit_sigmoid(x, y, chance=chance, ceiling=ceiling)
    below = x <= threshold
    way = (y - chance) / (ceiling - chance)
    emergent = bool(below.sum() >= 2 and way[below].mean() < 0.1 and (~below).any() and way[~below].max() > 0.25)
    return Emergence(
        threshold=threshold,
        low=float(low),
        high=float(high),
        sharpness=float(2 * np.log(9) / steepness),
        preference=float(x.size * (np.log(max(float(cost), 1e-300)) - np.log(max(float(costs[0]), 1e-300)))),  # equal parameters
        emergent=emergent,
    )


def _hinge(x: FloatArray, y: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Threshold and cost, each (k,), of the hinge slope max(x - t, 0) fitted to y (n,) with weights (k, n).

    The threshold t is on a grid of 400 over the range of x, the slope in closed form and never negative.
    """
    grid = np.linspace(x[0], x[-1], 401)[:-1]
    ramp = np.maximum(x - grid[:, None], 0.0)
    ry, rr, yy = weights @ (ramp * y).T, weights @ (ramp * ramp).T, weights @ (y * y)
    costs = yy[:, None] - np.maximum(ry, 0.0) ** 2 / np.maximum(rr, 1e-300)
    at = np.argmin(costs, axis=1)
    return grid[at], np.maximum(costs[np.arange(len(at)), at], 0.0)


def metric_swap(scale: ArrayLike, token_accuracy: ArrayLike, at: ArrayLike, *, length: int, chance: float = 0.0) -> FloatArray:
    """Forecast of exact match at scales `at` (n_at,): token accuracy (n,) fitted over log10 scale (n,), to the power of the length.

    Parameters
    ----------
    length : tokens that all have to be right
    chance : token accuracy of guessing
    """
    length = checks.count("length", length)
    s, p = checks.finite("scale", scale, ndim=1), checks.finite("token_accuracy", token_accuracy, ndim=1)
    if ((p < 0) | (p > 1)).any():
        raise InputError(f"token_accuracy runs from {p.min():g} to {p.max():g}; allowed: 0 to 1")
    return CapabilityFit(chance=chance, n_boot=0).fit(s, p).expected(at) ** length
