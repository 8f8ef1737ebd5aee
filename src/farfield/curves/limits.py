"""Metrics at infinity: what a score of n samples becomes with as many samples as one likes (Chong & Forsyth, arXiv 1911.07023).

A smooth function of a distribution, taken at the empirical one, is biased by c / N, with a c that differs from model to model:

    E score(N, M) = limit + a / N + b / M      (N rows of the sample, M of the reference)

The score is computed on subsets of several sizes of one pool, and a line in 1/N is followed to zero. Here, given the pool of n
rows, its own score has no error, so the line passes through it: every subset gives one slope (score - score_n) / (1/N - 1/n). The
subsets of one size do not overlap. Noise of the first order, by which a subset differs from the pool, is removed where the score's
influence function is known. All slopes are then equally precise, and what they change with 1/N + 1/n is seen: in heavy tails, or
with few rows a feature, the bias bends, and the slope that leads on from the pool, at 1/n, is followed, not that of the subsets.
Otherwise the slope is the mean, in which those of small subsets weigh more, in proportion to 1/N - 1/n.

What is uncertain is the score of the pool, sampling noise of sample and reference, and the two slopes. Noise of the first order is
the influence values' variance over n and m; of the second, which is all there is where both come from the same distribution, it has
the standard deviation s / n + t / m, with s and t those of single slopes, or better known. What the bend changes is added to the
error of a slope: the next terms of the bias are of that size or less. Without influence values a nested bootstrap resamples the
rows of both pools and repeats everything: subsets share rows, so the errors of least squares would be too small.

Deviations from the paper: subsets of one size are disjoint and as many as there are, not one, and no smaller than a fifth of the
pool, not a tenth; the line passes through the pool's score and may bend; the reference's own bias b / M is extrapolated too
(``at(None, reference="as is")`` leaves it in, as the paper does).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield import checks
from farfield.curves.features import Source, load
from farfield.errors import InputError, short
from farfield.seeds import Seed, child, root

if TYPE_CHECKING:
    import polars as pl

FloatArray = NDArray[np.float64]
Index = NDArray[np.int64]
# score of the rows `index` of the sample and of the reference, None for all of them
Score = Callable[["Index | None", "Index | None"], float]

SIZES = 15  # of the paper
SMALLEST = 0.2  # of the pool: slopes of smaller subsets are no more precise, and the bias of heavy tails bends there
_CURVED = 3.0  # standard errors between the slopes of small and of large subsets


class LimitStatus(enum.Enum):
    """What stands behind a limit; the value is the advice."""

    OK = "ok"
    FEW = "the smallest subsets have fewer than two rows a feature, where the bias is not yet a multiple of 1/N: take more samples"
    CURVED = "small and large subsets disagree about the slope in 1/N: raise min_size, or take more samples"


class Estimate(NamedTuple):
    """A value with its standard error and interval."""

    value: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Limit:
    """A score extrapolated to infinitely many samples, and what was seen.

    Attributes
    ----------
    metric : its name
    n, m : rows of the sample and of the reference (None: its moments are taken as exact, or there is none)
    score : the metric on everything
    slope, reference_slope : a and b of score(N, M) = limit + a / N + b / M
    covariance : (3, 3) of the errors of score, slope and reference_slope
    level : of intervals
    sizes : (k,) subset sizes of the sample; values : (k,) mean score of each, less first-order noise where that is known
    subsets : scores computed
    degrees : degrees of freedom of the intervals; inf without a bootstrap
    status : a `LimitStatus`; its value is the advice
    """

    metric: str
    n: int
    m: int | None
    score: float
    slope: float
    reference_slope: float
    covariance: FloatArray
    level: float
    sizes: FloatArray
    values: FloatArray
    subsets: int
    degrees: float
    status: LimitStatus

    @property
    def estimate(self) -> float:
        """The limit in both sample and reference."""
        return self.at().value

    @property
    def error(self) -> float:
        """Standard error of `estimate`."""
        return self.at().error

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high) of `estimate` at `level`."""
        return self.at()[2:]

    def at(self, n: float | None = None, reference: Literal["infinite", "as is"] | None = None) -> Estimate:
        """The expected score of `n` rows (None: infinitely many), with its standard error and interval.

        `reference` is taken "as is", with its own bias, for finite n, as a published score would be, and "infinite" for n None.
        Raises InputError for n below 1.
        """
        if n is not None:
            checks.positive("n", n)
        kept = checks.choice("reference", reference or ("infinite" if n is None else "as is"), ("infinite", "as is"))
        to = (0.0 if n is None else 1 / n) - 1 / self.n
        of_reference = -1 / self.m if self.m and kept == "infinite" else 0.0
        weights = np.array([1.0, to, of_reference])
        value = self.score + to * self.slope + of_reference * self.reference_slope
        error = math.sqrt(max(float(weights @ self.covariance @ weights), 0.0))
        half = error * _quantile(self.level, self.degrees)
        return Estimate(value, error, value - half, value + half)

    def to_frame(self, at: Sequence[float] = (50_000,)) -> pl.DataFrame:
        """A row each for the score as measured, at the sizes in `at`, and at infinity: n, reference, value, error, low, high."""
        import polars as pl

        wanted: list[tuple[float | None, Literal["infinite", "as is"]]] = [
            (float(self.n), "as is"),
            *((float(n), "as is") for n in at),
        ]
        wanted += [(None, "as is")] if self.m else []
        wanted += [(None, "infinite")]
        rows: list[dict[str, Any]] = []
        for size, reference in wanted:
            rows.append({"n": math.inf if size is None else size, "reference": reference, **self.at(size, reference)._asdict()})
        return pl.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "metric": self.metric,
            "n": self.n,
            "m": self.m,
            "score": self.score,
            "estimate": self.estimate,
            "error": self.error,
            "interval": list(self.interval),
            "level": self.level,
            "slope": self.slope,
            "reference_slope": self.reference_slope,
            "covariance": self.covariance.tolist(),
            "sizes": self.sizes.tolist(),
            "values": self.values.tolist(),
            "subsets": self.subsets,
            "status": self.status.value,
        }

    def summary(self) -> str:
        """One line."""
        low, high = self.interval
        text = f"{self.metric} {self.score:.5g} of {self.n} samples, {self.estimate:.5g} [{low:.5g}, {high:.5g}] of infinitely many"
        return text if self.status is LimitStatus.OK else f"{text}; {self.status.value}"

    def __repr__(self) -> str:
        return f"Limit({self.summary()})"


def limit(
    metric: Callable[..., float],
    sample: Source,
    reference: Source | None = None,
    *,
    sizes: int = SIZES,
    min_size: int | None = None,
    n_boot: int = 50,
    level: float = 0.8,
    rng: Seed = None,
    name: str | None = None,
) -> Limit:
    """Any metric whose bias is a multiple of 1/N, at infinity, with an interval from a nested bootstrap.

    Parameters
    ----------
    metric : ``metric(rows)`` or, with a reference, ``metric(rows, reference_rows)`` -> number; called some 25 (with a reference
        50) times a resample, with float64 arrays (k, d)
    sample, reference : (n, d) and (m, e) arrays, or files that `farfield.curves.features` reads
    sizes : subset sizes, evenly spaced from `min_size` to the pool's
    min_size : smallest subset; default a fifth of the pool
    n_boot : resamples of both pools, at least 10
    level : coverage of intervals
    rng : seed or generator
    name : of the metric, for texts; default that of the callable

    Raises InputError for pools too small for `sizes` (fewer than 20 rows), a metric that is not a finite number, other bad values.
    """
    if not callable(metric):
        raise InputError(f"metric is {short(metric)}; allowed: a function metric(rows) -> number, or metric(rows, reference_rows)")
    x = load("sample", sample)
    y = None if reference is None else load("reference", reference)
    checks.count("n_boot", n_boot, least=10)
    plan = Plan(sizes, min_size, level, None)

    def rows(array: NDArray[Any], resample: Index | None, index: Index | None) -> FloatArray:
        chosen = resample if index is None else index if resample is None else resample[index]
        return np.asarray(array if chosen is None else array[chosen], dtype=np.float64)

    def scored(of_x: Index | None, of_y: Index | None) -> Score:
        def score(i: Index | None, j: Index | None) -> float:
            value = metric(rows(x, of_x, i)) if y is None else metric(rows(x, of_x, i), rows(y, of_y, j))
            return float(checks.finite("the metric's value", value, ndim=0))

        return score

    label = name or str(getattr(metric, "__name__", "metric"))
    return bootstrapped(label, scored, x.shape[0], None if y is None else y.shape[0], plan, n_boot, rng)


@dataclass(frozen=True)
class Plan:
    """Which subsets are drawn: `sizes` sizes from `min_size` up, at most `most` of a size (None: all that do not overlap)."""

    sizes: int = SIZES
    min_size: int | None = None
    level: float = 0.8
    most: int | None = None
    width: int = 0

    def of(self, n: int, what: str) -> tuple[Index, Index]:
        """Sizes (k,), all below n, and how many subsets of each (k,)."""
        checks.level("level", self.level)
        count = checks.count("sizes", self.sizes, least=2)
        if n < 20:
            raise InputError(f"the {what} has {n} rows; a line in 1/N needs at least 20")
        default = max(n * SMALLEST, min(2 * self.width, n / 2), 2)
        least = math.ceil(default) if self.min_size is None else checks.count("min_size", self.min_size, least=2)
        if least > n * 0.9:
            raise InputError(
                f"min_size is {least} and the {what} has {n} rows; allowed: up to nine tenths of it, or take more samples"
            )
        chosen = np.unique(np.linspace(least, n, count).astype(np.int64)[:-1])
        counts = n // chosen
        return chosen, np.minimum(counts, checks.count("subsets", self.most)) if self.most is not None else counts


class _Side(NamedTuple):
    """The slope in 1/N of one pool, its variance and that of a single one, mean value by size, and how many scores it took."""

    slope: float
    variance: float
    single: float
    curved: bool
    sizes: FloatArray
    values: FloatArray
    n_scores: int


def _slope(
    score: Callable[[Index], float],
    whole: float,
    n: int,
    chosen: Index,
    counts: Index,
    influence: FloatArray | None,
    rng: np.random.Generator,
) -> _Side:
    found, steps, values = [], [], []
    for size, count in zip(chosen.tolist(), counts.tolist(), strict=True):
        order, step = rng.permutation(n), 1 / size - 1 / n
        here = []
        for k in range(count):
            index = np.sort(order[k * size : (k + 1) * size])  # in order, so that a mapped file is read forwards
            here.append(score(index) - (0.0 if influence is None else float(influence[index].mean())))
        values.append(float(np.mean(here)))
        found += [(value - whole) / step for value in here]
        steps += [step] * count
    slopes, step_of = np.array(found), np.array(steps)
    weights = np.ones(len(slopes)) if influence is not None else step_of
    slope, variance = _mean(slopes, weights)
    single = float(slopes.var(ddof=1)) if len(slopes) > 1 else 0.0
    if influence is not None and len(chosen) > 2:
        straight = slope
        slope, variance = _leading(slopes, step_of * n + 1)
        variance += (slope - straight) ** 2
    small = step_of > np.median(step_of)
    parts = [_mean(slopes[part], weights[part]) for part in (small, ~small) if part.sum() >= 2]
    curved = False
    if influence is not None and len(parts) == 2:
        gap, noise = abs(parts[0][0] - parts[1][0]), math.sqrt(parts[0][1] + parts[1][1])
        curved = gap > _CURVED * noise and gap > 0.1 * abs(slope)
    return _Side(slope, variance, single, curved, np.append(chosen, n).astype(np.float64), np.append(values, whole), len(slopes))


def _leading(slopes: FloatArray, place: FloatArray) -> tuple[float, float]:
    """The slope from the pool to infinity, of slopes that change linearly with `place` = n / N, and its variance.

    The chord between two sizes of a + b / N has the slope a + b (1/N + 1/n); that from n to infinity a + b / n, at place 0.
    """
    design = np.stack([np.ones_like(place), place], axis=1)
    inverse = np.linalg.pinv(design)
    found = inverse @ slopes
    scatter = ((slopes - design @ found) ** 2).sum() / (len(slopes) - 2)
    return float(found[0]), float(scatter * (inverse[0] ** 2).sum())


def _mean(values: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Weighted mean and its variance, from the values' scatter."""
    mean = float(np.average(values, weights=weights))
    if len(values) < 2:
        return mean, 0.0
    return mean, float((weights * (values - mean) ** 2).sum() / weights.sum() / (len(values) - 1))


class Line(NamedTuple):
    """The pool's score and its slopes in 1/N and 1/M, with their variances."""

    score: float
    sample: _Side
    reference: _Side | None


def line(
    score: Score,
    n: int,
    m: int | None,
    plan: Plan,
    rng: Seed,
    influence: tuple[FloatArray, FloatArray | None] | None = None,
) -> Line:
    """Follow `score` from subsets of the sample, then of the reference (m None: it stays whole), to the pool's own value.

    `influence` holds the score's influence values, centred: (n,) of the sample and (m,) of the reference.
    """
    chosen, counts = plan.of(n, "sample")
    whole, seed = score(None, None), root(rng)
    of_x = None if influence is None else influence[0]
    sample = _slope(lambda i: score(i, None), whole, n, chosen, counts, of_x, child(seed, 0))
    reference = None
    if m is not None:
        of_y = None if influence is None else influence[1]
        reference = _slope(lambda j: score(None, j), whole, m, *plan.of(m, "reference"), of_y, child(seed, 1))
    return Line(whole, sample, reference)


def influenced(
    metric: str,
    score: Score,
    n: int,
    m: int | None,
    plan: Plan,
    influence: tuple[FloatArray, FloatArray | None],
    variance: tuple[float, float],
    noise: tuple[float, float] | None,
    rng: Seed,
) -> Limit:
    """The limit of a score whose influence values are known, with their `variance`: its interval needs no resampling.

    `noise` is s and t, the standard deviations times n and m of noise of the second order; None for those of single slopes.
    """
    found = line(score, n, m, plan, rng, influence)
    of_x, of_y = found.sample, found.reference
    first = variance[0] / n + (variance[1] / m if m else 0.0)
    s, t = noise or (math.sqrt(of_x.single), math.sqrt(of_y.single) if of_y else 0.0)
    second = s / n + (t / m if m else 0.0)
    covariance = np.diag([first + second**2, of_x.variance, of_y.variance if of_y else 0.0])
    return _limit(metric, n, m, plan, found, covariance, math.inf)


def bootstrapped(
    metric: str,
    scored: Callable[[Index | None, Index | None], Score],
    n: int,
    m: int | None,
    plan: Plan,
    n_boot: int,
    rng: Seed,
    influence: tuple[FloatArray, FloatArray | None] | None = None,
) -> Limit:
    """The limit of any score, with the covariance of a nested bootstrap.

    Parameters
    ----------
    scored : gives the score of resampled pools: rows drawn of the sample and of the reference, None for all as they are
    influence : as in `line`; a resample takes its rows' values
    """
    seed = root(rng)
    found = line(scored(None, None), n, m, plan, child(seed, 0), influence)
    draws = []
    for k in range(n_boot):
        generator = child(seed, 1, k)
        i = generator.integers(n, size=n)
        j = None if m is None else generator.integers(m, size=m)
        again = line(scored(i, j), n, m, plan, generator, None if influence is None else _resampled(influence, i, j))
        draws.append([again.score, again.sample.slope, 0.0 if again.reference is None else again.reference.slope])
    return _limit(metric, n, m, plan, found, np.cov(np.array(draws).T), n_boot - 1)


def _resampled(influence: tuple[FloatArray, FloatArray | None], i: Index, j: Index | None) -> tuple[FloatArray, FloatArray | None]:
    drawn = [v if k is None or v is None else v[k] - v[k].mean() for v, k in zip(influence, (i, j), strict=True)]
    assert drawn[0] is not None
    return drawn[0], drawn[1]


def _limit(metric: str, n: int, m: int | None, plan: Plan, found: Line, covariance: FloatArray, degrees: float) -> Limit:
    sides = [side for side in (found.sample, found.reference) if side is not None]
    status = LimitStatus.OK
    if any(side.curved for side in sides):
        status = LimitStatus.CURVED
    if any(side.sizes[0] < 2 * plan.width for side in sides):
        status = LimitStatus.FEW
    return Limit(
        metric=metric,
        n=n,
        m=m,
        score=found.score,
        slope=found.sample.slope,
        reference_slope=0.0 if found.reference is None else found.reference.slope,
        covariance=np.asarray(covariance, dtype=np.float64),
        level=plan.level,
        sizes=found.sample.sizes,
        values=found.sample.values,
        subsets=1 + sum(side.n_scores for side in sides),
        degrees=degrees,
        status=status,
    )


def _quantile(level: float, degrees: float) -> float:
    from scipy import special

    tail = (1 + level) / 2
    return float(special.ndtri(tail) if math.isinf(degrees) else special.stdtrit(degrees, tail))
