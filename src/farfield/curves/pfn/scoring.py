"""How well a network knows the prior it was trained on: log-likelihood of what lies beyond a cut (LC-PFN, table 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from farfield import checks
from farfield.curves.pfn.model import LCPFN
from farfield.curves.priors import DomhanPrior, PriorCurves, WidePrior
from farfield.errors import InputError
from farfield.seeds import Seed

PRIORS: Mapping[str, type[DomhanPrior] | type[WidePrior]] = {"domhan": DomhanPrior, "wide": WidePrior}
CUTS = (0.1, 0.2, 0.4, 0.8)
_LEAST = 3


@dataclass(frozen=True)
class PriorScore:
    """Scores of curves cut at a share of their points: means over curves of the mean over all later points.

    log_likelihood, its standard error over curves, absolute error of the median, share of values inside the central 80 %.
    """

    cut: float
    n_curves: int
    log_likelihood: float
    standard_error: float
    absolute_error: float
    coverage_80: float


def score_on_prior(
    model: LCPFN, prior: str, *, n: int = 1000, cuts: tuple[float, ...] = CUTS, rng: Seed = 0
) -> tuple[PriorScore, ...]:
    """Scores of `model` on `n` fresh curves of a prior (`PRIORS`), cut at shares of their points (three points at least).

    Raises InputError for an unknown prior and for cuts outside (0, 1).
    """
    checks.choice("prior", prior, PRIORS)
    if not all(0 < cut < 1 for cut in cuts):
        raise InputError(f"cuts are {cuts}; allowed: shares between 0 and 1")
    curves = PRIORS[prior]().sample(checks.count("n", n), rng)
    return tuple(_score(model, curves, cut) for cut in cuts)


def _score(model: LCPFN, curves: PriorCurves, cut: float) -> PriorScore:
    seen = np.maximum(np.round(cut * curves.lengths).astype(np.int64), _LEAST)
    rows = np.flatnonzero(seen < curves.lengths)
    asked = np.full((rows.size, int((curves.lengths - seen)[rows].max())), np.nan)
    truth = asked.copy()
    for k, i in enumerate(rows):
        later = slice(seen[i], curves.lengths[i])
        asked[k, : later.stop - later.start], truth[k, : later.stop - later.start] = curves.x[i, later], curves.y[i, later]
    # a curve with fewer later points is asked at its last one again
    at = np.where(np.isnan(asked), np.nanmax(asked, axis=1, keepdims=True), asked)
    mixture = model.predict(
        [curves.x[i, : seen[i]] for i in rows], [curves.y[i, : seen[i]] for i in rows], at, horizon=curves.horizon[rows]
    )
    low, middle, high = mixture.quantile([0.1, 0.5, 0.9])
    there = ~np.isnan(truth)

    def by_curve(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(there, values, 0.0).sum(axis=1) / there.sum(axis=1))

    likelihood = by_curve(mixture.log_prob(truth))
    return PriorScore(
        cut=cut,
        n_curves=rows.size,
        log_likelihood=float(likelihood.mean()),
        standard_error=float(likelihood.std(ddof=1) / np.sqrt(rows.size)) if rows.size > 1 else float("nan"),
        absolute_error=float(by_curve(np.abs(middle - truth)).mean()),
        coverage_80=float(by_curve(((truth >= low) & (truth <= high)).astype(np.float64)).mean()),
    )
