"""P018: across a decade of compute the mean of several benchmarks is predicted better than the benchmarks one by one.

Data: open base models with known training compute and eight benchmark scores. Scores count from chance:
(score - chance) / (1 - chance). With the top 0.5, 1 and 1.5 decades of compute hidden, curves are fitted to what is left and
predict what is hidden; the error, in percentage points, is averaged over a model family's models and the cuts. Families are what is
compared: models of one family are not independent. Each seed fits on a resample of the families.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from farfield.claims import base_models
from farfield.claims.criteria import Count, Curve, Measured
from farfield.curves.benchmarks import CapabilityFit, Form

SIGMOID: Form = "sigmoid"
LINE: Form = "linear"
FloatArray = NDArray[np.float64]


def load() -> tuple[FloatArray, FloatArray, list[str]]:
    """Compute (n,) in FLOP, scores above chance (n, 8), family (n,): the models of which all nine numbers are known."""
    rows = base_models.models((base_models.FLOPS, *base_models.CHANCE))
    return base_models.compute(rows), base_models.above_chance(rows), base_models.families(rows)


def run(budget: str, seed: int) -> Measured:
    """Mean absolute errors and misses of 80 % intervals, by family of the hidden models.

    aggregate_error: of the mean score, against the mean over single scores. error_by_form: of single scores by sigmoids, against
    straight lines. miscoverage_80: intervals of the mean score, which leave out the true one.
    """
    compute, scores, families = load()
    names, log, mean = np.array(families), np.log10(compute), scores.mean(1)
    rng = np.random.default_rng(seed)
    errors: dict[str, dict[str, list[float]]] = {"aggregate": {}, "single": {}, "line": {}}
    misses: dict[str, list[bool]] = {}
    for hidden in (1.0,) if budget == "tiny" else (0.5, 1.0, 1.5):
        seen, beyond = np.flatnonzero(log <= log.max() - hidden), np.flatnonzero(log > log.max() - hidden)
        drawn = rng.choice(np.unique(names[seen]), size=np.unique(names[seen]).size)
        fitted_on = np.concatenate([seen[names[seen] == family] for family in drawn])
        for what, columns, form in (("aggregate", mean[:, None], SIGMOID), ("single", scores, SIGMOID), ("line", scores, LINE)):
            for column in columns.T:
                fit = CapabilityFit(form, n_boot=0).fit(compute[fitted_on], column[fitted_on])
                for i, error in zip(beyond, np.abs(fit.expected(compute[beyond]) - column[beyond]), strict=True):
                    errors[what].setdefault(families[i], []).append(100 * float(error))
        whole = CapabilityFit(n_boot=20 if budget == "tiny" else 500, random_state=rng).fit(compute[seen], mean[seen], names[seen])
        low, high = whole.predict(compute[beyond]).interval(0.8)
        for i, missed in zip(beyond, (mean[beyond] < low) | (mean[beyond] > high), strict=True):
            misses.setdefault(families[i], []).append(bool(missed))
    units = sorted(misses)
    by_family = {what: [float(np.mean(by[u])) for u in units] for what, by in errors.items()}
    return Measured(
        ours={
            "aggregate_error": by_family["aggregate"],
            "error_by_form": by_family["single"],
            "miscoverage_80": [Count(sum(misses[u]), len(misses[u])) for u in units],
        },
        baseline={"aggregate_error": by_family["single"]},
        ablation={"error_by_form": by_family["line"]},
        units=units,
        curves=_curves(compute, scores),
        axes=("log10 compute (FLOP)", "mean score above chance"),
        notes={"models": len(names), "families hidden": len(units), "intervals": sum(map(len, misses.values()))},
    )


def _curves(compute: FloatArray, scores: FloatArray) -> list[Curve]:
    """The mean score, and its fit on all but the last decade."""
    mean, log = scores.mean(1), np.log10(compute)
    seen = log <= log.max() - 1.0
    at = np.linspace(log.min(), log.max(), 60)
    fit = CapabilityFit(n_boot=0).fit(compute[seen], mean[seen])
    line = CapabilityFit("linear", n_boot=0).fit(compute[seen], mean[seen])
    return [
        Curve(".seen", log[seen].tolist(), mean[seen].tolist()),
        Curve(".beyond", log[~seen].tolist(), mean[~seen].tolist()),
        Curve("sigmoid", at.tolist(), fit.expected(10**at).tolist()),
        Curve("line", at.tolist(), line.expected(10**at).tolist()),
    ]
