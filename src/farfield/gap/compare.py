"""Beyond one number: loss by reach, the horizon, groups, several models on the same rows, effective robustness."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from farfield import checks
from farfield.errors import InputError
from farfield.gap.estimates import FEW_GROUPS, FEW_ROWS, Intervals, slopes, weights_of
from farfield.gap.measure import in_threads
from farfield.gap.resample import resampled
from farfield.gap.result import Estimate, GapResult
from farfield.gap.training import BEYOND, INSIDE, REFERENCE
from farfield.intervals import cluster_bootstrap_ratio
from farfield.seeds import Seed, generator
from farfield.splits.rows import labels

if TYPE_CHECKING:
    import polars as pl


def score_by_reach(result: GapResult, bins: int = 10, *, n_boot: int = 1000, rng: Seed = 0) -> pl.DataFrame:
    """The score beyond by how far beyond: columns reach_low, reach_high, reach, n, value, low, high, and reference (or null).

    Bins hold as many rows each; `reach` is their median; intervals resample rows. InputError where the region has no order, or the
    score is no mean over rows.
    """
    import polars as pl

    rows = _rows(result)
    beyond, reference = rows[rows["part"] == BEYOND], rows[rows["part"] == REFERENCE]
    reach = beyond["reach"]
    if not np.isfinite(reach).all():
        raise InputError(f"the rows beyond have no order of reach in {result.split}; score_by_reach needs distances")
    edges = np.unique(np.quantile(reach, np.linspace(0, 1, checks.count("bins", bins) + 1)))
    finish = result.scoring.finish or (lambda v: v)
    table = []
    for low, high in itertools.pairwise(edges) if edges.size > 1 else [(edges[0], edges[0])]:
        last = high == edges[-1]
        here = (reach >= low) & ((reach < high) | (last & (reach <= high)))
        if not here.any():
            continue
        some = beyond[here]
        units = np.unique(some["row"])
        value = float(finish(some["loss"].mean()))
        ends: tuple[float, float] = (np.nan, np.nan)
        if units.size > 1:
            found = cluster_bootstrap_ratio(
                some["loss"], np.ones(some.size), some["row"], n_boot=n_boot, level=result.level, rng=rng
            )  # fmt: skip
            ends = (float(finish(found[0])), float(finish(found[1])))
        same = reference["loss"][np.isin(reference["row"], units)]
        table.append({
            "reach_low": float(low), "reach_high": float(high), "reach": float(np.median(some["reach"])), "n": int(units.size),
            "value": value, "low": ends[0], "high": ends[1], "reference": float(finish(same.mean())) if same.size else None,
        })  # fmt: skip
    return pl.DataFrame(table)


def extrapolation_horizon(result: GapResult, tolerance: float = 0.1, *, bins: int = 10) -> float:
    """The largest reach up to which the score stays within `tolerance` (a share) of that inside; 1 where it never does.

    It is the upper end of the last bin of :func:`score_by_reach` before the first that fails; where none fails it is the largest
    reach in the data, beyond which nothing is known.
    """
    inside = result.inside.value
    slack = checks.positive("tolerance", tolerance) * abs(inside)
    horizon = 1.0
    for row in score_by_reach(result, bins, n_boot=100).iter_rows(named=True):
        worse = row["value"] - inside if result.scoring.lower_is_better else inside - row["value"]
        if worse > slack:
            break
        horizon = row["reach_high"]
    return horizon


def score_by_group(
    result: GapResult, groups: ArrayLike, *, part: Literal["inside", "beyond"] = "beyond", rng: Seed = 0
) -> pl.DataFrame:
    """The score of each group of rows, the worst first: group, n, value, low, high. A group without rows is not listed.

    `groups` (n,) labels every row of the data that was measured; a group of one row has no interval.
    """
    import polars as pl

    rows = _rows(result)
    rows = rows[rows["part"] == (BEYOND if checks.choice("part", part, ("inside", "beyond")) == "beyond" else INSIDE)]
    array = np.asarray(groups)
    names, codes = labels("groups", array, array.shape[0] if array.ndim else 0)
    if rows["row"].max() >= codes.size:
        raise InputError(f"groups has {codes.size} labels; every row of the data needs one")
    finish = result.scoring.finish or (lambda v: v)
    table = []
    for i, name in enumerate(names):
        some = rows[codes[rows["row"]] == i]
        if not some.size:
            continue
        n = int(np.unique(some["row"]).size)
        ends: tuple[float | None, float | None] = (None, None)
        if n > 1:
            found = cluster_bootstrap_ratio(some["loss"], np.ones(some.size), some["row"], n_boot=1000, level=result.level, rng=rng)
            ends = (float(finish(found[0])), float(finish(found[1])))
        table.append({"group": str(name), "n": n, "value": float(finish(some["loss"].mean())), "low": ends[0], "high": ends[1]})
    return pl.DataFrame(table).sort("value", descending=result.scoring.lower_is_better)


def worst_group(result: GapResult, groups: ArrayLike) -> dict[str, object]:
    """The group that is scored worst beyond, as a row of :func:`score_by_group`."""
    return score_by_group(result, groups).row(0, named=True)


CHOSEN_BY = {
    "inside": "the score inside",
    "leave_region_out": "the score on regions left out of what is seen",
    "oracle": "the score beyond",
}


@dataclass(frozen=True)
class Comparison:
    """Several models measured on the same regions.

    `differences` holds, for every other model and every quantity, its value minus that of the model selected, paired row by row.
    The choice is made by the score inside, or on regions left out of what is seen, which never read what lies beyond; ``oracle``
    chooses by the score beyond.
    """

    results: tuple[GapResult, ...]
    selected: str
    selection: str
    differences: tuple[tuple[str, str, Estimate], ...]

    def __repr__(self) -> str:
        return f"Comparison({', '.join(r.model for r in self.results)}; {self.selected} by {self.selection})"

    def to_frame(self) -> pl.DataFrame:
        """One row a model and quantity: model, minus, quantity, value, low, high, n, std_error."""
        import polars as pl

        return pl.DataFrame([{"model": m, "minus": self.selected, "quantity": q, **e._asdict()} for m, q, e in self.differences])

    def summary(self) -> str:
        """The models one below the other, and how each differs from the one selected."""
        lines = [r.summary() for r in self.results]
        lines.append(f"selected by {CHOSEN_BY[self.selection]}: {self.selected}")
        lines += [f"  {m} minus {self.selected}, {q}: {e}" for m, q, e in self.differences if q in ("beyond", "extrapolation")]
        return "\n".join(lines)


def compare(
    results: list[GapResult] | Mapping[str, GapResult], *, selection: Literal["inside", "leave_region_out", "oracle"] = "inside",
    n_jobs: int | None = None,
) -> Comparison:  # fmt: skip
    """Compare models measured on the same regions with the same seed; differences are paired row by row.

    Their intervals are made as those of one model, from the differences of losses: over repeats they hold what other training rows
    would have changed in both. `n_jobs` models at a time, in threads (-1: one a core); the values do not depend on it.

    Raises InputError where the regions, the score or the resamples differ; warns where the choice reads what lies beyond.
    """
    some = tuple(results.values()) if isinstance(results, Mapping) else tuple(results)
    checks.choice("selection", selection, ("inside", "leave_region_out", "oracle"))
    if len(some) < 2:
        raise InputError(f"{len(some)} result to compare; at least two are needed")
    if len({r.model for r in some}) < len(some):
        raise InputError("two results have the same model name; give each its own name=")
    first = some[0]
    for r in some[1:]:
        keys = ("region", "repeat", "n_train", "n_inside", "n_beyond")
        same = r.split == first.split and r.scoring.name == first.scoring.name and r.seed is not None and r.seed == first.seed
        if not same or r.draws.shape != first.draws.shape or any(list(r.per_split[k]) != list(first.per_split[k]) for k in keys):
            raise InputError(
                f"{first.model} and {r.model} were not measured on the same regions, score and seed; use one splitter with a"
                " random_state and one integer rng"
            )
    if selection == "oracle":
        warnings.warn("selection='oracle' reads the rows beyond: the score of the model chosen is too good", stacklevel=2)
    scores = [
        r.left_out if selection == "leave_region_out" else r.inside.value if selection == "inside" else r.beyond.value for r in some
    ]
    lacking = [r.model for r, s in zip(some, scores, strict=True) if s is None]
    if lacking:
        raise InputError(
            f"{', '.join(lacking)}: measured without selection='leave_region_out', so there is no such score to choose by"
        )
    sign = -1.0 if first.scoring.lower_is_better else 1.0
    best = max(zip(some, scores, strict=True), key=lambda pair: sign * (pair[1] or 0.0))[0]
    others = [r for r in some if r is not best]
    differences = in_threads(lambda r: _differences(r, best), others, n_jobs)
    return Comparison(some, best.model, selection, tuple(d for of_one in differences for d in of_one))


def effective_robustness(
    results: list[GapResult] | Mapping[str, GapResult], transform: Literal["logit", "probit", "log", "identity"] = "logit"
) -> dict[str, float]:
    """Score beyond minus what the line through the *other* models' (inside, beyond) foretells, by model; positive is better.

    `transform` is applied before the line is fitted: ``logit`` and ``probit`` for scores in (0, 1), ``log`` for errors. Each
    model's line leaves it out.

    InputError for fewer than four models or scores the transform does not take. Source: Taori et al. 2020,
    "Measuring robustness to natural distribution shifts", section 3 (their line goes through standard models only).
    """
    some = list(results.values()) if isinstance(results, Mapping) else list(results)
    if len(some) < 4:
        raise InputError(f"{len(some)} models; a line through the others needs at least four in all")
    there, back = {
        "logit": (special.logit, special.expit), "probit": (special.ndtri, special.ndtr), "log": (np.log, np.exp),
        "identity": (np.asarray, np.asarray),
    }[checks.choice("transform", transform, ("logit", "probit", "log", "identity"))]  # fmt: skip
    with np.errstate(all="ignore"):
        x = there(np.array([r.inside.value for r in some]))
        y = there(np.array([r.beyond.value for r in some]))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(f"{transform} does not take every score; allowed: within (0, 1) for logit and probit, above 0 for log")
    out = {}
    for i, r in enumerate(some):
        others = np.arange(len(some)) != i
        spread = x[others] - x[others].mean()
        slope = float(spread @ y[others] / (spread @ spread)) if spread @ spread > 0 else 0.0
        foretold = float(back(y[others].mean() + slope * (x[i] - x[others].mean())))
        sign = -1.0 if r.scoring.lower_is_better else 1.0
        out[r.model] = sign * (r.beyond.value - foretold)
    return out


def _differences(a: GapResult, b: GapResult) -> list[tuple[str, str, Estimate]]:
    """Every quantity of `a` minus that of `b`; the same intervals as a model's own, on the differences of losses."""
    score, keys = a.scoring, ("inside", "reference", "beyond")
    per_split = a.per_split.copy()
    for k in keys:
        per_split[k] -= b.per_split[k]
    means = np.array([per_split[k].mean() for k in keys])
    ratios, evidence, resamples = a.draws - b.draws, None, None
    if a.evidence is not None and b.evidence is not None:
        evidence = a.evidence.minus(b.evidence, slopes(score, a.evidence.means()), slopes(score, b.evidence.means()))
        resamples = resampled(evidence.sums(), a.draws.shape[0], generator(a.seed))
        ratios = resamples.ratios + (means - evidence.means())
    n = [min(e.n, o.n) if e and o else 0 for e, o in zip(*((r.inside, r.reference, r.beyond) for r in (a, b)), strict=True)]
    few = min(c for c in n if c) < (FEW_GROUPS if a.unit == "group" else FEW_ROWS)
    sure = Intervals(score, a.level, means, ratios, (n[0], n[1], n[2]), few, per_split, resamples, evidence, linear=True)
    out = []
    for name, weights in weights_of(score.lower_is_better).items():
        first, second = getattr(a, name), getattr(b, name)
        if first is not None and second is not None:
            out.append((a.model, name, sure.of(weights, first.value - second.value)))
    return out


def _rows(result: GapResult) -> NDArray[np.void]:
    if result.per_row is None:
        raise InputError(f"{result.scoring.label} is no mean over rows, so it cannot be split up; use another score")
    return result.per_row
