"""Laws of several variables as data: log loss and its derivatives, for many parameter vectors at once.

All are sums of an irreducible part E and what size N and tokens D still leave (Hoffmann et al. 2022, arXiv 2203.15556, eq. 2):

- *chinchilla*: L = E + A N^-alpha + B D^-beta.
- *kaplan*: L = E + ((A/N)^(alpha/beta) + B/D)^beta (Kaplan et al. 2020, arXiv 2001.08361, eq. 1.5, with a floor E as in
  Brandfonbrener et al. 2024, arXiv 2411.12925).
- *data-constrained*: chinchilla in effective size and tokens (Muennighoff et al. 2023, arXiv 2305.16264, eq. 5-7): of D tokens U
  are unique, D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)); U_N is the size optimal for U tokens (at most N) and
  N' = U_N + U_N R_N (1 - exp(-(N/U_N - 1)/R_N)).
- *precision*: chinchilla with N' = N (1 - exp(-P/gamma))^3 when weights, activations and cache are trained in P bits (Kumar et al.
  2024, arXiv 2411.04330, eq. 4 with one gamma).

Parameters are fitted as log E, log A, log B, alpha, beta and logs of the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.errors import unknown_name

FloatArray = NDArray[np.float64]
# theta (b, p), log X (d, n) or (d, b, n) -> log loss (b, n), its derivatives (b, p, n)
LogLoss = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
_BASE = ("E", "A", "B", "alpha", "beta")
EXPONENTS = (1e-3, 5.0)


@dataclass(frozen=True)
class Form:
    """A law: what it is called, what it needs, and how it is computed.

    Attributes
    ----------
    columns : the variables, in the order of the columns of X
    parameters : names, in the order of theta; all but alpha and beta are logs there
    log_loss : theta (b, p), log X (d, n) -> log loss (b, n) and derivatives (b, p, n)
    powers : (alpha, beta) -> exponents of N and D in ``(L - E)^(1/root)``, and root; what starts are computed from
    extra : starts of the parameters beyond the first five
    """

    name: str
    columns: tuple[str, ...]
    parameters: tuple[str, ...]
    log_loss: LogLoss
    powers: Callable[[float, float], tuple[float, float, float]]
    extra: tuple[float, ...] = ()

    def to_user(self, theta: FloatArray) -> FloatArray:
        """(..., p) parameters as the formulas above have them."""
        out: FloatArray = np.exp(theta)
        out[..., 3:5] = theta[..., 3:5]
        return out

    def from_user(self, parameters: dict[str, float]) -> FloatArray:
        """(p,) from values by name; the inverse of `to_user`."""
        values = np.array([parameters[name] for name in self.parameters], dtype=np.float64)
        out: FloatArray = np.log(values)
        out[3:5] = values[3:5]
        return out


def _softmax(parts: list[FloatArray]) -> tuple[FloatArray, list[FloatArray]]:
    """log of the sum of exponentials, and each part's share."""
    top = np.maximum.reduce(parts)
    powers = [np.exp(part - top) for part in parts]
    total = sum(powers[1:], powers[0])
    return top + np.log(total), [power / total for power in powers]


def _columns(theta: FloatArray) -> list[FloatArray]:
    return [theta[:, i, None] for i in range(theta.shape[1])]


def _separable(theta: FloatArray, log_n: FloatArray, log_d: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    e, a, b, alpha, beta = _columns(theta)[:5]
    value, (of_e, of_n, of_d) = _softmax([np.broadcast_to(e, log_n.shape), a - alpha * log_n, b - beta * log_d])
    return value, [of_e, of_n, of_d, -of_n * log_n, -of_d * log_d]


def _chinchilla(theta: FloatArray, log_x: FloatArray) -> tuple[FloatArray, FloatArray]:
    shape = np.broadcast_shapes((theta.shape[0], 1), log_x[0].shape)
    value, slopes = _separable(theta, np.broadcast_to(log_x[0], shape), np.broadcast_to(log_x[1], shape))
    return value, np.stack(slopes, axis=1)


def _kaplan(theta: FloatArray, log_x: FloatArray) -> tuple[FloatArray, FloatArray]:
    e, a, b, alpha, beta = _columns(theta)
    ratio = alpha / beta
    size, tokens = ratio * (a - log_x[0]), b - log_x[1]
    inner, (of_n, of_d) = _softmax([size, tokens])
    value, (of_e, rest) = _softmax([np.broadcast_to(e, inner.shape), beta * inner])
    d_alpha = rest * of_n * (a - log_x[0])
    return value, np.stack([of_e, rest * of_n * alpha, rest * of_d * beta, d_alpha, rest * (inner - of_n * size)], axis=1)


def _saturating(more: FloatArray, limit: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """log(1 + r (1 - exp(-m/r))) for m = `more` repetitions and r = `limit`, and its derivatives in m and in log r."""
    ratio = more / limit
    decay = np.exp(-ratio)
    inside = 1.0 - limit * np.expm1(-ratio)
    return np.log(inside), decay / inside, limit * (-np.expm1(-ratio) - ratio * decay) / inside


def _data_constrained(theta: FloatArray, log_x: FloatArray) -> tuple[FloatArray, FloatArray]:
    _, a, b, alpha, beta, r_d, r_n = _columns(theta)
    log_n, log_d, log_u = log_x
    log_u = np.minimum(log_u, log_d)
    gain_d, _, slope_rd = _saturating(np.expm1(log_d - log_u), np.exp(r_d))
    # the size that is optimal for U tokens: log G + (beta/alpha) (log U + log G), G^(alpha+beta) = alpha A / (beta B)
    log_g = (np.log(alpha / beta) + a - b) / (alpha + beta)
    wanted = log_g + beta / alpha * (log_u + log_g)
    free = wanted < log_n
    log_un = np.where(free, wanted, log_n)
    excess = np.minimum(log_n - log_un, 50.0)  # saturated long before
    gain_n, slope_n, slope_rn = _saturating(np.expm1(excess), np.exp(r_n))
    value, slopes = _separable(theta, log_un + gain_n, log_u + gain_d)
    # d log N' / d log U_N = 1 - slope_n N/U_N
    through = -alpha * slopes[1] * np.where(free, 1.0 - slope_n * np.exp(excess), 0.0)
    over = 1.0 + beta / alpha
    g_alpha, g_beta = (1 / alpha - log_g) / (alpha + beta), (-1 / beta - log_g) / (alpha + beta)
    slopes[1] = slopes[1] + through * over / (alpha + beta)
    of_n = slopes[1] - through * over / (alpha + beta)
    of_d = slopes[2]
    slopes[2] = of_d - through * over / (alpha + beta)
    slopes[3] = slopes[3] + through * (over * g_alpha - beta / alpha**2 * (log_u + log_g))
    slopes[4] = slopes[4] + through * (over * g_beta + (log_u + log_g) / alpha)
    return value, np.stack([*slopes, -beta * of_d * slope_rd, -alpha * of_n * slope_rn], axis=1)


def _precision(theta: FloatArray, log_x: FloatArray) -> tuple[FloatArray, FloatArray]:
    alpha, gamma = theta[:, 3, None], np.exp(theta[:, 5, None])
    ratio = np.exp(log_x[2]) / gamma
    log_n = log_x[0] + 3.0 * np.log(-np.expm1(-ratio))
    value, slopes = _separable(theta, log_n, np.broadcast_to(log_x[1], log_n.shape))
    # d log N' / d log gamma = -3 ratio / (exp(ratio) - 1)
    return value, np.stack([*slopes, alpha * slopes[1] * 3.0 * ratio / np.expm1(ratio)], axis=1)


def _own(alpha: float, beta: float) -> tuple[float, float, float]:
    return alpha, beta, 1.0


def _coupled(alpha: float, beta: float) -> tuple[float, float, float]:
    return alpha / beta, 1.0, beta


FORMS = {
    form.name: form
    for form in (
        Form("chinchilla", ("params", "tokens"), _BASE, _chinchilla, _own),
        Form("kaplan", ("params", "tokens"), _BASE, _kaplan, _coupled),
        Form(
            "data-constrained",
            ("params", "tokens", "unique_tokens"),
            (*_BASE, "R_D", "R_N"),
            _data_constrained,
            _own,
            (float(np.log(10.0)), float(np.log(5.0))),
        ),
        Form("precision", ("params", "tokens", "bits"), (*_BASE, "gamma"), _precision, _own, (float(np.log(2.5)),)),
    )
}


def form_of(name: str) -> Form:
    """The law of that name; an unknown one is answered with the nearest three."""
    if name not in FORMS:
        raise unknown_name("law", name, FORMS)
    return FORMS[name]


def starts(form: Form, log_x: FloatArray, log_y: FloatArray) -> FloatArray:
    """(s, p) starts: a grid of exponents and of floors, with A and B by least squares on relative deviations."""
    y = np.exp(log_y)
    rows = []
    for alpha in (0.15, 0.3, 0.5, 0.9):
        for beta in (0.15, 0.3, 0.5, 0.9):
            for share in (0.2, 0.6, 0.9):
                floor = share * y.min()
                p, q, root = form.powers(alpha, beta)
                goal = np.log(y - floor) / root
                columns = np.stack([-p * log_x[0], -q * log_x[1]])
                shift = (columns - goal).mean(axis=1)
                basis = np.exp(columns - goal - shift[:, None])
                pair, *_ = np.linalg.lstsq(basis.T, np.ones(goal.size), rcond=None)
                # a share below 5 % (or below 0) of the typical value is raised to it: a start needs all its parts
                log_a, log_b = np.log(np.maximum(pair, 0.05 / basis.mean(axis=1))) - shift
                rows.append([np.log(floor), log_a / p * alpha / root if form.name != "kaplan" else log_a / p, log_b, alpha, beta])
    return np.hstack([np.array(rows), np.tile(form.extra, (len(rows), 1))])
