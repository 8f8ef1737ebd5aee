"""Which parameters of a law a design and its runs determine: what is told before anyone reads meaning into an exponent.

Three ways in which a law is not identified: fewer settings than parameters; a design without the contrast (one size, one number of
tokens, or all runs at tokens = k x params, where size and data cannot be told apart); and contrast too weak for the scatter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farfield.curves.laws.forms import Form
from farfield.errors import InputError

FloatArray = NDArray[np.float64]
# scatter of log tokens about a power of params below which a design is a line: a twentieth either way
_LINE = 0.05
# standard errors that leave a parameter open: of a log, of an exponent as a share of it, and of a change of exponent
_OPEN_LOG, _OPEN_SHARE, _OPEN_TURN = 2.5, 0.5, 0.5


@dataclass(frozen=True)
class Identifiability:
    """What the runs do not determine.

    Attributes
    ----------
    not_identified : names of the parameters that are open, in the order of the law
    reason : why, in one sentence; empty where all are identified
    split : whether the effects of size and of data can be told apart, which a compute-optimal split needs
    errors : (p,) robust standard errors of the fitted parameters (logs but for the exponents); infinite where open by design
    """

    not_identified: tuple[str, ...]
    reason: str
    split: bool
    errors: FloatArray


def refuse_too_few(form: Form, x: FloatArray) -> None:
    """Refuse designs with fewer different settings than parameters, naming those that are out of reach."""
    settings = len(np.unique(x, axis=0))
    if settings >= len(form.parameters):
        return
    open_ = [*design_gaps(form, x)[0]] or list(form.parameters[settings - len(form.parameters) :])
    raise InputError(
        f"{len(x)} runs at {settings} different settings of {', '.join(form.columns)} for the {len(form.parameters)} parameters "
        f"of the {form.name} law ({', '.join(form.parameters)}); not identified: {', '.join(open_)}. Add runs "
        "at other sizes and token counts"
    )


def design_gaps(form: Form, x: FloatArray) -> tuple[tuple[str, ...], str]:
    """Parameters that no loss could determine with runs at x (n, d), and why."""
    log_n, log_d = np.log(x[:, 0]), np.log(x[:, 1])
    if np.ptp(log_n) < _LINE:
        return ("E", "A", "alpha"), f"all runs have params = {np.exp(log_n.mean()):.3g}"
    if np.ptp(log_d) < _LINE:
        return ("E", "B", "beta"), f"all runs have tokens = {np.exp(log_d.mean()):.3g}"
    power = float(np.cov(log_n, log_d)[0, 1] / np.var(log_n, ddof=1))
    scatter = log_d - log_d.mean() - power * (log_n - log_n.mean())
    if scatter.std() < _LINE:
        line = f"{np.exp(log_d.mean() - log_n.mean()):.3g} x params" if abs(power - 1) < 0.02 else f"c x params^{power:.2f}"
        return ("A", "B", "alpha", "beta"), f"all runs lie on one line, tokens = {line}, so size and data cannot be told apart"
    for column, names in (("unique_tokens", ("R_D", "R_N")), ("bits", ("gamma",))):
        if column in form.columns:
            values = x[:, form.columns.index(column)]
            if column == "bits" and np.ptp(values) == 0:
                return names, f"all runs have bits = {values[0]:g}"
            if column == "unique_tokens" and np.all(values >= x[:, 1]):
                return names, "no run repeats its tokens"
    return (), ""


def identify(
    form: Form, x: FloatArray, theta: FloatArray, slope: FloatArray, scale: float, edges: NDArray[np.bool_]
) -> Identifiability:
    """The diagnosis of a fit.

    Parameters
    ----------
    x : (n, d) design; theta : (p,) fitted; slope : (p, n) derivatives of the log loss; scale : robust scatter of the log loss
    edges : (p,) whether the fit lies at the edge of the box
    """
    names, reason = design_gaps(form, x)
    size = np.sqrt((slope**2).mean(axis=1)) + 1e-300
    normal = (slope / size[:, None]) @ (slope / size[:, None]).T
    value, vector = np.linalg.eigh(normal)
    flat = value <= 1e-12 * value[-1]
    variance = np.where(flat, np.inf, scale**2 / np.where(flat, 1.0, value))
    share = np.where(vector**2 > 1e-6, vector**2, 0.0)
    errors = np.sqrt(np.where(share > 0, share * np.where(share > 0, variance, 0.0), 0.0).sum(axis=1)) / size
    limit = np.full(theta.size, _OPEN_LOG)
    limit[list(form.plain)] = _OPEN_TURN
    limit[3:5] = _OPEN_SHARE * theta[3:5]
    weak = tuple(name for name, e, most, edge in zip(form.parameters, errors, limit, edges, strict=True) if e > most or edge)
    if not names and weak:
        reason = "the runs differ too little in size and tokens for their scatter"
    split = not {"A", "alpha", "B", "beta"} & set(names)
    errors = np.where([n in names for n in form.parameters], np.inf, errors)
    open_ = tuple(n for n in form.parameters if n in names or n in weak)
    return Identifiability(open_, reason, split, np.asarray(errors, dtype=np.float64))
