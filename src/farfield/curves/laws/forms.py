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
- *m4*: (L - E) / ((L0 - L) / span)^kappa = A N^-alpha + B D^-beta, with L0 = E + span the loss that nothing learnt leaves:
  chinchilla where losses are far below L0, level where they come near it. In one variable Alabdulmohsin et al. 2022, arXiv
  2209.06640, eq. 4 (kappa is their alpha, and A has span^kappa in it); the right-hand side in two is ours.
- *broken*: chinchilla with one smooth break in each variable, A N^-alpha (1 + (N/d_N)^(1/f_N))^(-c_N f_N) and the same in D: the
  exponent turns from alpha to alpha + c_N about N = d_N, over f_N e-folds (Caballero et al. 2023, arXiv 2210.14891, eq. 1, once a
  variable). A break beyond the runs cannot be seen, so breaks are looked for within them.

Parameters are fitted as log E, log A, log B, alpha, beta; of the rest c_N and c_D as they are, the others as logs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.curves.forms import logit_of_share
from farfield.errors import unknown_name

FloatArray = NDArray[np.float64]
# theta (b, p), log X (d, n) or (d, b, n) -> log loss (b, n), its derivatives (b, p, n)
LogLoss = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]
# log X (d, n), losses (n,), floor -> starts (k, parameters beyond the first five)
ExtraStarts = Callable[[FloatArray, FloatArray, float], FloatArray]
# log X (d, n) -> (parameters beyond the first five, 2) limits
ExtraBox = Callable[[FloatArray], FloatArray]
_BASE = ("E", "A", "B", "alpha", "beta")
EXPONENTS = (1e-3, 5.0)


def _always(*values: float) -> ExtraStarts:
    return lambda log_x, y, floor: np.array([values])


@dataclass(frozen=True)
class Form:
    """A law: what it is called, what it needs, and how it is computed.

    Attributes
    ----------
    columns : the variables, in the order of the columns of X
    parameters : names, in the order of theta
    log_loss : theta (b, p), log X (d, n) -> log loss (b, n) and derivatives (b, p, n)
    powers : (alpha, beta) -> exponents of N and D in ``(L - E)^(1/root)``, and root; what starts are computed from
    extra : starts of the parameters beyond the first five
    extra_box : their limits; None for logs of 0.01 to 10,000
    plain : places in theta of the parameters that are fitted as they are; the others are logs there
    """

    name: str
    columns: tuple[str, ...]
    parameters: tuple[str, ...]
    log_loss: LogLoss
    powers: Callable[[float, float], tuple[float, float, float]]
    extra: ExtraStarts | None = None
    extra_box: ExtraBox | None = None
    plain: tuple[int, ...] = (3, 4)

    def box(self, log_x: FloatArray, log_y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(lower (p,), upper (p,)) limits of theta for runs with log X (d, n) and log losses (n,)."""
        low, high = np.full(len(self.parameters), -50.0), np.full(len(self.parameters), 200.0)
        low[0], high[0] = log_y.min() - 12.0, log_y.max()
        low[3:5], high[3:5] = EXPONENTS
        if self.extra_box is None:
            low[5:], high[5:] = np.log(1e-2), np.log(1e4)
        else:
            low[5:], high[5:] = self.extra_box(log_x).T
        return low, high

    def to_user(self, theta: FloatArray) -> FloatArray:
        """(..., p) parameters as the formulas above have them."""
        plain = list(self.plain)
        out: FloatArray = np.array(theta, dtype=np.float64)
        logs = np.setdiff1d(np.arange(out.shape[-1]), plain)
        out[..., logs] = np.exp(out[..., logs])
        return out

    def from_user(self, parameters: dict[str, float]) -> FloatArray:
        """(p,) from values by name; the inverse of `to_user`."""
        values = np.array([parameters[name] for name in self.parameters], dtype=np.float64)
        logs = np.setdiff1d(np.arange(values.size), self.plain)
        values[logs] = np.log(values[logs])
        return values


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


def _m4(theta: FloatArray, log_x: FloatArray) -> tuple[FloatArray, FloatArray]:
    e, a, b, alpha, beta, span, log_kappa = _columns(theta)
    kappa = np.exp(log_kappa)
    log_r, (of_n, of_d) = _softmax([a - alpha * log_x[0], b - beta * log_x[1]])
    # L = E + span s with s / (1 - s)^kappa = r / span
    z = logit_of_share(log_r - span, kappa)
    soft = np.logaddexp(0.0, z)
    s = 1.0 / (1.0 + np.exp(-np.clip(z, -600.0, 600.0)))
    value, (of_e, rest) = _softmax([np.broadcast_to(e, z.shape), span + z - soft])
    slope = rest * (1.0 - s) / (1.0 + (kappa - 1.0) * s)  # d log L / d log r
    return value, np.stack(
        [
            of_e, slope * of_n, slope * of_d, -slope * of_n * log_x[0], -slope * of_d * log_x[1],
            rest - slope, -slope * kappa * soft,
        ],
        axis=1,
    )  # fmt: skip


def _break(log_x: FloatArray, place: FloatArray, turn: FloatArray, log_width: FloatArray) -> tuple[FloatArray, list[FloatArray]]:
    """log (1 + (x/d)^(1/f))^(-c f) and its derivatives in log d, c, log f."""
    width = np.exp(log_width)
    z = (log_x - place) / width
    soft = np.logaddexp(0.0, z)
    share = 1.0 / (1.0 + np.exp(-np.clip(z, -600.0, 600.0)))
    return -turn * width * soft, [turn * share, -width * soft, -turn * width * (soft - share * z)]


def _broken(theta: FloatArray, log_x: FloatArray) -> tuple[FloatArray, FloatArray]:
    e, a, b, alpha, beta, *rest = _columns(theta)
    bend_n, slopes_n = _break(log_x[0], *rest[:3])
    bend_d, slopes_d = _break(log_x[1], *rest[3:])
    value, (of_e, of_n, of_d) = _softmax(
        [np.broadcast_to(e, bend_n.shape), a - alpha * log_x[0] + bend_n, b - beta * log_x[1] + bend_d]
    )
    own = [of_e, of_n, of_d, -of_n * log_x[0], -of_d * log_x[1]]
    return value, np.stack([*own, *(of_n * s for s in slopes_n), *(of_d * s for s in slopes_d)], axis=1)


def _spans(log_x: FloatArray, y: FloatArray, floor: float) -> FloatArray:
    """log span and log kappa: the loss of nothing learnt just above the worst run, or far above it."""
    return np.array([[np.log(k * (y.max() - floor)), np.log(kappa)] for k, kappa in ((1.2, 1.0), (4.0, 0.3))])


def _spans_box(log_x: FloatArray) -> FloatArray:
    return np.log([[1e-2, 1e4], [1e-2, 20.0]])


def _breaks(log_x: FloatArray, y: FloatArray, floor: float) -> FloatArray:
    """A break a third or two thirds of the way along each variable, towards steeper or flatter."""
    low, span = log_x[:2].min(axis=1), np.ptp(log_x[:2], axis=1)
    starts = []
    for n, d in ((1 / 3, 1 / 3), (2 / 3, 2 / 3), (1 / 3, 2 / 3), (2 / 3, 1 / 3)):
        for turn in (-0.1, 0.2):
            starts.append([low[0] + n * span[0], turn, -0.7, low[1] + d * span[1], turn, -0.7])
    return np.array(starts)


def _breaks_box(log_x: FloatArray) -> FloatArray:
    limits = []
    for column in log_x[:2]:
        limits += [(column.min(), column.max()), (-5.0, 5.0), (np.log(0.05), np.log(5.0))]
    return np.array(limits)


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
            _always(float(np.log(10.0)), float(np.log(5.0))),
        ),
        Form("precision", ("params", "tokens", "bits"), (*_BASE, "gamma"), _precision, _own, _always(float(np.log(2.5)))),
        Form("m4", ("params", "tokens"), (*_BASE, "span", "kappa"), _m4, _own, _spans, _spans_box),
        Form(
            "broken",
            ("params", "tokens"),
            (*_BASE, "d_N", "c_N", "f_N", "d_D", "c_D", "f_D"),
            _broken,
            _own,
            _breaks,
            _breaks_box,
            (3, 4, 6, 9),
        ),
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
                own = [np.log(floor), log_a / p * alpha / root if form.name != "kaplan" else log_a / p, log_b, alpha, beta]
                rows += [[*own, *extra] for extra in (form.extra(log_x, y, floor) if form.extra else [()])]
    return np.array(rows)
