"""From numbers to a verdict: intervals that are valid at five seeds, one rule per kind of criterion, one rule to combine them.

The interval of a mean is the hull of two: Student's t, and the exact sign-flip (randomisation) interval, whose ends are order
statistics of the 2**n - 1 means of subsets (Hartigan, "Using subsample values as typical values", JASA 64, 1969). The second is
exact whenever the differences are symmetric about their centre, however heavy their tails: a comparison of two methods that do
not differ is. At n = 5 and alpha = 0.05 it asks all five differences to lie on the same side, which for a continuous
distribution of any shape happens with probability 1/32 about the median. Fewer than five replicates bound nothing and decide
nothing.

With T what the criterion claims and [low, high] the interval (alpha on each side) of the improvement:

========== ================================================ =====================================
verdict    superiority, noninferiority, trend               bound
========== ================================================ =====================================
holds      low > T                                          high <= rate + margin
weaker     high < T and low > 0                             never
inconclusive  otherwise                                     otherwise
fails      high < T and not low > 0                         low > rate + margin
========== ================================================ =====================================

``exact`` holds when every seed is within its tolerance and fails when one is not. A claim is its worst criterion (an
intersection-union test: each criterion at alpha keeps the claim at alpha). An ablation must be worse than ours, significantly
at the same alpha, in every criterion where it was measured; otherwise, or when none was measured and the record gives no
reason, a claim that would hold is *weaker*: the effect is there, the key idea was not shown to cause it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from farfield.claims.criteria import Count, Criterion, Trend, Value
from farfield.errors import InputError, short

FloatArray = NDArray[np.float64]

_ENUMERATE = 12  # up to here all 2**n - 1 subsets; beyond, this many random ones (the test stays exact, Hartigan's theorem 2)
_RANDOM_SUBSETS = 1999


class Verdict(Enum):
    """What a run says about a claim, best first: the order of `farfield claims status --check`."""

    HOLDS = "holds"
    WEAKER = "weaker"
    INCONCLUSIVE = "inconclusive"
    FAILS = "fails"
    NOT_RUN = "not run"

    @property
    def rank(self) -> int:
        """0 for holds, rising with worse verdicts; *not run* is the worst: it says nothing."""
        return list(Verdict).index(self)


@dataclass(frozen=True)
class Decision:
    """One criterion (or one ablation) decided.

    Attributes
    ----------
    verdict, reason : the verdict and, in words, why
    estimate, low, high : improvement (or violation rate, slope, largest error), interval with alpha on each side
    threshold : what `low` (bound: `high`) had to pass
    n : replicates the interval rests on
    differences : (n,) paired improvements, or rates, or slopes
    """

    verdict: Verdict
    reason: str
    estimate: float
    low: float
    high: float
    threshold: float
    n: int
    differences: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; an unbounded end is None."""
        ends = {k: v if math.isfinite(v) else None for k, v in (("low", self.low), ("high", self.high))}
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "estimate": self.estimate,
            **ends,
            "threshold": self.threshold,
            "n": self.n,
            "differences": list(self.differences),
        }


@cache
def _subsets(n: int) -> FloatArray:
    """(k, n) rows that average a nonempty subset of n values."""
    if n <= _ENUMERATE:
        member = (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1
    else:
        member = np.random.default_rng(n).integers(0, 2, (_RANDOM_SUBSETS, n))
        member[member.sum(1) == 0, 0] = 1
    return np.asarray(member / member.sum(1, keepdims=True), dtype=np.float64)


def mean_interval(values: ArrayLike, alpha: float = 0.05) -> tuple[FloatArray, FloatArray]:
    """Interval of the centre of independent replicates, `alpha` on each side.

    Parameters
    ----------
    values : (..., n); leading axes are separate experiments
    alpha : one-sided error, so the two-sided level is 1 - 2 alpha

    Returns (low, high), each (...); infinite where n is too small to bound at this alpha (n < 5 at 0.05).
    """
    v = np.asarray(values, dtype=np.float64)
    n = v.shape[-1]
    unbounded = np.full(v.shape[:-1], np.inf)
    weights = _subsets(n) if n else np.zeros((0, 0))
    k = math.floor(alpha * (len(weights) + 1) + 1e-9)
    if n < 2 or k < 1:
        return -unbounded, unbounded
    typical = np.partition(v @ weights.T, (k - 1, len(weights) - k), axis=-1)
    half = special.stdtrit(n - 1, 1 - alpha) * v.std(axis=-1, ddof=1) / math.sqrt(n)
    mean = v.mean(axis=-1)
    rounding = 1e-12 * np.abs(v).max(axis=-1)  # so that a tie between subsets is never broken by the last bit
    low = np.minimum(typical[..., k - 1], mean - half) - rounding
    return low, np.maximum(typical[..., -k], mean + half) + rounding


def rate_interval(violations: int, trials: int, alpha: float = 0.05) -> tuple[float, float]:
    """Clopper-Pearson interval of a rate, `alpha` on each side (exact: at most alpha each, whatever the rate)."""
    if trials < 1 or not 0 <= violations <= trials:
        raise InputError(f"{violations} violations in {trials} trials; allowed: at least one trial, 0 <= violations <= trials")
    low = 0.0 if violations == 0 else float(special.betaincinv(violations, trials - violations + 1, alpha))
    high = 1.0 if violations == trials else float(special.betaincinv(violations + 1, trials - violations, 1 - alpha))
    return low, high


# -- from the values of the seeds to replicates ---------------------------------------------------------------------------------


def replicates(values: Sequence[Value], what: str) -> FloatArray:
    """(n,) independent replicates from one value a seed: the seeds themselves, or units averaged over seeds."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"{what}: values are {short(values)}; allowed: one number a seed, or the same number of units in each"
        ) from None
    if array.ndim == 2:
        array = array.mean(axis=0)
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{what}: values have shape {array.shape}; allowed: one number a seed, or one a unit in each seed")
    if not np.isfinite(array).all():
        raise InputError(f"{what}: not a finite number in {short(values)}")
    return array


def _slopes(values: Sequence[Value], what: str) -> FloatArray:
    slopes = []
    for v in values:
        if not isinstance(v, Trend):
            raise InputError(f"{what}: value is {short(v)}; a trend criterion needs Trend(x, y)")
        x, y = np.asarray(v.x, dtype=np.float64), np.asarray(v.y, dtype=np.float64)
        if x.shape != y.shape or x.ndim != 1 or np.unique(x).size < 2 or not np.isfinite(np.concatenate([x, y])).all():
            raise InputError(f"{what}: Trend has x {short(v.x)} and y {short(v.y)}; allowed: finite, same length, two distinct x")
        centred = x - x.mean()
        slopes.append(float(centred @ y / (centred @ centred)))
    return np.asarray(slopes)


def _counts(values: Sequence[Value], what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(violations, trials), each (n,): by seed, or by unit summed over seeds."""
    per_seed = [v if isinstance(v, Sequence) else [v] for v in values]
    for v in (v for row in per_seed for v in row):
        whole = isinstance(v, Count) and isinstance(v.violations, int) and isinstance(v.trials, int)
        if not (isinstance(v, Count) and whole and 0 <= v.violations <= v.trials and v.trials > 0):
            raise InputError(
                f"{what}: value is {short(v)}; a bound needs Count(violations, trials), 0 <= violations <= trials, trials > 0"
            )
    if len({len(row) for row in per_seed}) != 1:
        raise InputError(
            f"{what}: seeds have {sorted({len(row) for row in per_seed})} units; allowed: the same units in every seed"
        )
    pairs = np.array([[(c.violations, c.trials) for c in row if isinstance(c, Count)] for row in per_seed], dtype=np.int64)
    pairs = pairs.sum(axis=0) if pairs.shape[1] > 1 else pairs[:, 0]
    return pairs[:, 0], pairs[:, 1]


# -- one rule a kind --------------------------------------------------------------------------------------------------------------


def classify(low: ArrayLike, high: ArrayLike, low_direction: ArrayLike) -> NDArray[np.int64]:
    """Ranks of `Verdict` from intervals of (improvement - threshold) and of the improvement itself; any shape, elementwise."""
    lo, hi, direction = np.asarray(low), np.asarray(high), np.asarray(low_direction)
    missed = (hi < 0) | ((lo == hi) & (lo <= 0))  # no spread and not beyond: a tie in every seed is not "better"
    out = np.where(missed, np.where(direction > 0, Verdict.WEAKER.rank, Verdict.FAILS.rank), Verdict.INCONCLUSIVE.rank)
    return np.asarray(np.where(lo > 0, Verdict.HOLDS.rank, out), dtype=np.int64)


def improvements(criterion: Criterion, ours: FloatArray, against: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(beyond the threshold, plain): how far ours is past what `criterion` claims, and past `against`; shapes of the inputs.

    A relative margin is a contrast of means, (1 -+ margin) against - ours, not a mean of ratios: zeros and outliers do no harm.
    """
    sign = 1.0 if criterion.better == "lower" else -1.0
    margin = criterion.margin if criterion.kind == "superiority" else -criterion.margin
    plain = sign * (against - ours)
    return plain - margin * (against if criterion.relative else 1.0), plain


def decide(criterion: Criterion, ours: Sequence[Value], against: Sequence[Value]) -> Decision:
    """The verdict on one criterion from one value a seed for ours and (bound, trend: empty) for the side it is held against."""
    decision = _decide(criterion, ours, against)
    return dataclasses.replace(decision, reason=f"{criterion.name}: {decision.reason}")


def _decide(criterion: Criterion, ours: Sequence[Value], against: Sequence[Value]) -> Decision:
    what = f"criterion {criterion.name!r}"
    if criterion.kind == "bound":
        return _decide_bound(criterion, *_counts(ours, f"{what}, ours"))
    if criterion.kind == "exact":
        return _decide_exact(criterion, ours, against)
    if criterion.kind == "trend":
        slopes = (1.0 if criterion.better == "higher" else -1.0) * _slopes(ours, f"{what}, ours")
        return _decide_mean(slopes - criterion.margin, slopes, criterion.margin, criterion)
    o, b = replicates(ours, f"{what}, ours"), replicates(against, f"{what}, {criterion.against}")
    if o.shape != b.shape:
        raise InputError(f"{what}: ours has {o.size} values and {criterion.against} {b.size}; they are compared in pairs")
    if criterion.relative and b.mean() <= 0:
        raise InputError(f"{what}: {criterion.against} averages {b.mean():g}; a relative margin needs a positive one")
    beyond, plain = improvements(criterion, o, b)
    return _decide_mean(beyond, plain, float((plain - beyond).mean()), criterion)


def _decide_mean(beyond: FloatArray, plain: FloatArray, threshold: float, criterion: Criterion) -> Decision:
    low, high = (float(v) for v in mean_interval(beyond, criterion.alpha))
    direction, _ = (float(v) for v in mean_interval(plain, criterion.alpha))
    verdict = list(Verdict)[int(classify(low, high, direction))]
    n = plain.size
    if not math.isfinite(low):
        reason = f"{n} replicates cannot decide at alpha {criterion.alpha:g}"
    else:
        what = "slope" if criterion.kind == "trend" else "improvement"
        reason = f"{what} {plain.mean():.4g} [{low + threshold:.4g}, {high + threshold:.4g}], claimed > {threshold:.4g}"
    return Decision(verdict, reason, float(plain.mean()), low + threshold, high + threshold, threshold, n, tuple(plain.tolist()))


def _decide_bound(criterion: Criterion, violations: NDArray[np.int64], trials: NDArray[np.int64]) -> Decision:
    """Pooled Clopper-Pearson, widened to the interval of the seeds' (or units') own rates: trials of one seed may be dependent."""
    k, n, limit = int(violations.sum()), int(trials.sum()), criterion.rate + criterion.margin
    exact_low, exact_high = rate_interval(k, n, criterion.alpha)
    rates = violations / trials
    mean_low, mean_high = (float(v) for v in mean_interval(rates, criterion.alpha))
    low, high = max(0.0, min(exact_low, mean_low)), min(1.0, max(exact_high, mean_high))
    if not math.isfinite(mean_low):
        verdict, reason = Verdict.INCONCLUSIVE, f"{rates.size} replicates cannot decide at alpha {criterion.alpha:g}"
    else:
        verdict = Verdict.HOLDS if high <= limit else Verdict.FAILS if low > limit else Verdict.INCONCLUSIVE
        reason = f"violated in {k} of {n} trials, rate {k / n:.4g} [{low:.4g}, {high:.4g}], claimed <= {limit:.4g}"
    return Decision(verdict, reason, k / n, low, high, limit, int(rates.size), tuple(rates.tolist()))


def _errors(ours: Sequence[Value], against: Sequence[Value], what: str) -> tuple[FloatArray, FloatArray]:
    try:
        o, b = np.asarray(ours, dtype=np.float64), np.asarray(against, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what}: values are {short(ours)} and {short(against)}; allowed: numbers") from None
    if o.shape != b.shape or o.size == 0 or not (np.isfinite(o).all() and np.isfinite(b).all()):
        raise InputError(f"{what}: values are {short(ours)} and {short(against)}; allowed: finite numbers in pairs")
    return np.abs(o - b), b


def _decide_exact(criterion: Criterion, ours: Sequence[Value], against: Sequence[Value]) -> Decision:
    error, target = _errors(ours, against, f"criterion {criterion.name!r}")
    tolerance = criterion.margin * np.abs(target) if criterion.relative else np.full_like(error, criterion.margin)
    missed = int((error > tolerance).sum())
    worst, allowed = float(error.max()), float(tolerance.flat[error.argmax()])
    verdict = Verdict.FAILS if missed else Verdict.HOLDS
    reason = f"{missed} of {error.size} values off by more than allowed; largest error {worst:.4g}, allowed {allowed:.4g}"
    return Decision(verdict, reason, worst, float(error.min()), worst, allowed, error.shape[0], tuple(error.ravel().tolist()))


def decide_ablation(criterion: Criterion, ours: Sequence[Value], ablation: Sequence[Value], against: Sequence[Value]) -> Decision:
    """Does leaving the key idea out hurt? *holds* when the ablation is worse than ours, significantly, by any amount."""
    what = f"criterion {criterion.name!r}, ablation"
    if criterion.kind == "bound":
        ko, no = _counts(ours, f"criterion {criterion.name!r}, ours")
        ka, na = _counts(ablation, what)
        worse = ka / na - ko / no
    elif criterion.kind == "trend":
        sign = 1.0 if criterion.better == "higher" else -1.0
        worse = sign * (_slopes(ours, f"criterion {criterion.name!r}, ours") - _slopes(ablation, what))
    elif criterion.kind == "exact":
        target = against
        inside = _decide_exact(criterion, ablation, target)
        error, _ = _errors(ablation, target, what)
        ours_error, _ = _errors(ours, target, what)
        hurt = bool((error > ours_error).all() and inside.verdict is Verdict.FAILS)
        verdict = Verdict.HOLDS if hurt else Verdict.FAILS
        reason = f"without the key idea errors reach {error.max():.4g}, with it {ours_error.max():.4g}"
        return Decision(verdict, reason, float(error.max()), float(error.min()), float(error.max()), 0.0, error.shape[0], ())
    else:
        o, a = replicates(ours, f"criterion {criterion.name!r}, ours"), replicates(ablation, what)
        if o.shape != a.shape:
            raise InputError(f"{what}: {a.size} values beside {o.size} of ours; they are compared in pairs")
        worse = (a - o) if criterion.better == "lower" else (o - a)
    return _decide_mean(worse, worse, 0.0, Criterion(f"{criterion.name}, ablation", "superiority", alpha=criterion.alpha))


def combine(criteria: Sequence[Decision], ablations: Sequence[Decision], no_ablation: str | None) -> tuple[Verdict, str]:
    """A claim's verdict and the reason for it, by the rule at the top of this module.

    Parameters
    ----------
    criteria : one decision a criterion, at least one
    ablations : one decision for every criterion where an ablation was measured
    no_ablation : the record's reason why no ablation makes sense, None where it gives none
    """
    if not criteria:
        raise InputError("a claim without criteria cannot be decided; state at least one in its record")
    worst = max(criteria, key=lambda d: d.verdict.rank)
    if worst.verdict is not Verdict.HOLDS:
        return worst.verdict, worst.reason
    if not ablations:
        if no_ablation:
            return Verdict.HOLDS, worst.reason
        return Verdict.WEAKER, "no ablation was measured and the record does not say why none makes sense"
    harmless = [d for d in ablations if d.verdict is not Verdict.HOLDS]
    if harmless:
        return Verdict.WEAKER, f"the ablation was not shown to hurt: {harmless[0].reason}"
    return Verdict.HOLDS, worst.reason
