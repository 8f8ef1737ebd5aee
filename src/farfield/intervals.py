"""Intervals for measured numbers: bootstrap over whole clusters, proportions, conformal scales, resampled tests, interval score.

Everything here answers "how sure is this figure": resampling keeps together what is dependent (runs of one data set, seeds of one
configuration), and finite-sample guarantees are kept by answering with infinity when there is too little data for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from farfield import checks
from farfield.errors import InputError
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float64]
Method = Literal["percentile", "bca"]

_BLOCK = 1 << 16  # resampled indices at a time: what fits the cache
_METHODS = ("percentile", "bca")


def bootstrap(
    values: ArrayLike,
    statistic: Callable[[FloatArray], ArrayLike] | None = None,
    *,
    clusters: ArrayLike | None = None,
    n_boot: int = 2000,
    level: float = 0.95,
    method: Method = "percentile",
    rng: Seed = None,
) -> tuple[FloatArray, FloatArray]:
    """(low, high) of a bootstrap interval for a statistic of `values`, the mean unless another is given.

    Parameters
    ----------
    values : (n, ...) finite; observations along the first axis, which the mean keeps the others of
    statistic : maps resampled values (m, ...) to a number or an array; called once a resample
    clusters : (n,) labels; whole clusters are drawn with replacement, so what is dependent stays together
    n_boot : resamples
    level : coverage aimed at
    method : ``percentile``, or ``bca``: bias-corrected and accelerated, the jackknife leaving out whole clusters

    Raises
    ------
    InputError : fewer than two clusters, values that are not finite, shapes that differ

    Source: Efron & Tibshirani 1993, chapters 13 and 14; clusters: Davison & Hinkley 1997, section 3.8.
    """
    data = _rows("values", values)
    if statistic is None:
        return cluster_bootstrap_ratio(data, np.ones(data.shape), clusters, n_boot=n_boot, level=level, method=method, rng=rng)
    _check(n_boot, level, method)
    labels, n_clusters = _labels(clusters, data.shape[0])
    order = np.argsort(labels, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(labels))[:-1])
    draws = np.stack([
        np.asarray(statistic(data[np.concatenate([members[c] for c in pick])]), dtype=np.float64)
        for block in _picks(n_clusters, n_boot, generator(rng))
        for pick in block
    ])  # fmt: skip
    if method == "percentile":
        return _percentile(draws, level)
    left_out = np.stack([np.asarray(statistic(data[labels != c]), dtype=np.float64) for c in range(n_clusters)])
    return _bca(draws, np.asarray(statistic(data), dtype=np.float64), left_out, level)


def cluster_bootstrap_ratio(
    num: ArrayLike,
    den: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    n_boot: int = 2000,
    level: float = 0.95,
    method: Method = "percentile",
    rng: Seed = None,
) -> tuple[FloatArray, FloatArray]:
    """(low, high) of a bootstrap interval for sum(num) / sum(den), such as one method's total error over another's.

    Parameters
    ----------
    num, den : (n, ...) finite, broadcast against each other; rows are paired
    clusters, n_boot, level, method, rng : as in :func:`bootstrap`

    A resample is a row of counts, how often each cluster was drawn, so all resamples are one matrix product with the clusters'
    sums. A resample whose denominator is zero has no ratio: refused.
    """
    _check(n_boot, level, method)
    top, bottom = _rows("num", num), _rows("den", den)
    try:
        top, bottom = np.broadcast_arrays(top, bottom)
    except ValueError:
        raise InputError(f"num has shape {top.shape} and den {bottom.shape}; rows must be paired") from None
    labels, n_clusters = _labels(clusters, top.shape[0])
    shape = top.shape[1:]
    sums = []
    for part in (top, bottom):
        columns = part.reshape(part.shape[0], -1)
        sums.append(columns if clusters is None else np.stack([np.bincount(labels, c, n_clusters) for c in columns.T], axis=1))
    draws = np.concatenate([
        _ratio(counts @ sums[0], counts @ sums[1]) for counts in resample_counts(n_clusters, n_boot, generator(rng))
    ])  # fmt: skip
    if method == "percentile":
        low, high = _percentile(draws, level)
    else:
        totals = [s.sum(axis=0) for s in sums]
        low, high = _bca(draws, _ratio(*totals), _ratio(totals[0] - sums[0], totals[1] - sums[1]), level)
    return low.reshape(shape), high.reshape(shape)


def bootstrap_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    n_boot: int = 2000,
    level: float = 0.95,
    method: Method = "percentile",
    rng: Seed = None,
) -> tuple[FloatArray, FloatArray]:
    """(low, high) of a bootstrap interval for mean(a - b) over paired rows (n, ...); parameters as in :func:`bootstrap`."""
    first, second = _rows("a", a), _rows("b", b)
    if first.shape != second.shape:
        raise InputError(f"a has shape {first.shape} and b {second.shape}; paired values need one shape")
    return bootstrap(first - second, clusters=clusters, n_boot=n_boot, level=level, method=method, rng=rng)


def wilson(k: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """(low, high) of Wilson's interval for a proportion: `k` successes of `n`, broadcast; (0, 1) where n is 0.

    Source: Wilson 1927; recommended by Brown, Cai & DasGupta 2001.
    """
    checks.level("level", level)
    hits, total = np.broadcast_arrays(checks.finite("k", k), checks.finite("n", n))
    if not np.all((hits >= 0) & (hits <= total)):
        raise InputError("k must lie between 0 and n everywhere")
    z2 = float(special.ndtri(0.5 + level / 2)) ** 2
    some = np.where(total > 0, total, 1.0)
    p = hits / some
    centre = (p + z2 / (2 * some)) / (1 + z2 / some)
    half = np.sqrt(z2 * (p * (1 - p) / some + z2 / (4 * some**2))) / (1 + z2 / some)
    low = np.where(hits == 0, 0.0, centre - half)
    high = np.where(hits == total, 1.0, centre + half)
    return low, high


def interval_score(low: ArrayLike, high: ArrayLike, y: ArrayLike, level: float) -> FloatArray:
    """Width of the central interval of probability `level`, plus 2 / (1 - level) times the distance by which `y` misses it.

    Negatively oriented, proper; arguments broadcast. Source: Gneiting & Raftery 2007, equation 43.
    """
    checks.level("level", level)
    lo, hi, at = np.broadcast_arrays(*(checks.numbers(n, v) for n, v in (("low", low), ("high", high), ("y", y))))
    if np.any(lo > hi):
        raise InputError("low is above high somewhere; an interval needs low <= high")
    miss = np.maximum(lo - at, 0) + np.maximum(at - hi, 0)
    return np.asarray(hi - lo + 2 / (1 - level) * miss)


def conformal_scale(
    scores: ArrayLike,
    level: float,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> FloatArray:
    """The split-conformal quantile of calibration scores: a new exchangeable score lies at or below it with P >= `level`.

    Parameters
    ----------
    scores : (n, ...) nonconformity scores, larger is worse, infinity allowed; each column by itself
    level : coverage wanted
    groups : (n,) labels. Groups, not scores, are exchangeable (several scores of one data set): each of K groups weighs
        1 / (K + 1) in total, shared among its scores, and a new group 1 / (K + 1) at infinity.
    weights : (n,) >= 0, relative weights of the scores; within its group where groups are given, else of the score itself, the
        new point then being given the largest of them (the cautious choice)

    Returns the smallest score that reaches the level, infinity where there are too few scores or groups for it: without groups
    and weights this is the ceil((n + 1) level)-th smallest of n.

    Source: Vovk et al. 2005; Lei et al. 2018, section 2; weights: Tibshirani et al. 2019, equation 7; groups: Lee, Barber &
    Willett 2023, "Distribution-free inference with hierarchical data".
    """
    checks.level("level", level)
    values = checks.numbers("scores", scores)
    if values.ndim == 0 or np.isnan(values).any():
        raise InputError(f"scores has shape {values.shape} or holds NaN; allowed: (n, ...) numbers or infinity")
    n = values.shape[0]
    share = np.ones(n)
    if weights is not None:
        share = _rows("weights", weights)
        if share.shape != (n,) or np.any(share < 0) or (n and not np.any(share > 0)):
            raise InputError(f"weights has shape {share.shape}; allowed: ({n},) values >= 0, not all zero")
    if groups is not None:
        names, labels = np.unique(np.asarray(groups), return_inverse=True)
        if labels.shape != (n,):
            raise InputError(f"groups has shape {labels.shape}; allowed: ({n},), one label a score")
        total = np.bincount(labels, share, names.size)
        if np.any(total <= 0):
            raise InputError("a group's weights are all zero; leave the group out instead")
        share, newcomer = share / total[labels], 1.0
    else:
        newcomer = float(share.max(initial=0.0)) or 1.0
    share = share / (share.sum() + newcomer)
    columns = values.reshape(n, int(np.prod(values.shape[1:])))
    order = np.argsort(columns, axis=0, kind="stable")
    reached = np.cumsum(share[order], axis=0) >= level - 1e-12
    ordered = np.concatenate([np.take_along_axis(columns, order, axis=0), np.full((1, columns.shape[1]), np.inf)])
    first = np.where(reached.any(axis=0), reached.argmax(axis=0) if n else 0, n)
    return np.asarray(np.take_along_axis(ordered, first[None], axis=0)[0].reshape(values.shape[1:]))


class ResampledT(NamedTuple):
    """Result of :func:`corrected_resampled_t`."""

    mean: float
    low: float
    high: float
    t: float
    p_value: float


def corrected_resampled_t(differences: ArrayLike, n_train: float, n_test: float, level: float = 0.95) -> ResampledT:
    """Mean difference of two methods over J random train/test splits, with interval and two-sided p-value.

    The splits share training data, so the variance of the mean is (1 / J + n_test / n_train) times the sample variance.

    Parameters
    ----------
    differences : (J,) finite differences of the two methods' scores, one a split, J >= 2
    n_train, n_test : rows in each split's training and test part

    Source: Nadeau & Bengio 2003, "Inference for the generalization error", section 3.
    """
    checks.level("level", level)
    d = _rows("differences", differences)
    if d.ndim != 1 or d.size < 2:
        raise InputError(f"differences has shape {d.shape}; allowed: (J,) with J >= 2 splits")
    ratio = checks.positive("n_test", n_test) / checks.positive("n_train", n_train)
    mean, error = float(d.mean()), float(np.sqrt((1 / d.size + ratio) * d.var(ddof=1)))
    half = float(special.stdtrit(d.size - 1, 0.5 + level / 2)) * error
    if error == 0:
        t = 0.0 if mean == 0 else float(np.copysign(np.inf, mean))
    else:
        t = mean / error
    return ResampledT(mean, mean - half, mean + half, t, float(2 * special.stdtr(d.size - 1, -abs(t))))


# -- resampling -----------------------------------------------------------------------------------------------------------


def _check(n_boot: int, level: float, method: str) -> None:
    checks.level("level", level)
    checks.count("n_boot", n_boot)
    checks.choice("method", method, _METHODS)


def _rows(name: str, values: ArrayLike) -> FloatArray:
    out = checks.finite(name, values)
    if out.ndim == 0:
        raise InputError(f"{name} is a single number; allowed: (n, ...), observations along the first axis")
    return out


def _labels(clusters: ArrayLike | None, n: int) -> tuple[NDArray[np.int64], int]:
    if clusters is None:
        labels, count = np.arange(n), n
    else:
        names, labels = np.unique(np.asarray(clusters), return_inverse=True)
        count = names.size
    if labels.shape != (n,):
        raise InputError(f"clusters has shape {labels.shape}; allowed: ({n},), one label a row")
    if count < 2:
        raise InputError(f"{count} cluster(s) to resample; at least two are needed for an interval")
    return labels.astype(np.int64), int(count)


def _picks(n: int, n_boot: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Blocks of (b, n) cluster indices, n_boot rows in all."""
    step = max(1, _BLOCK // n)
    for start in range(0, n_boot, step):
        yield rng.integers(n, size=(min(step, n_boot - start), n))


def resample_counts(n: int, n_boot: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Blocks of (b, n) counts of how often each cluster is in a resample."""
    for pick in _picks(n, n_boot, rng):
        rows = pick.shape[0]
        pick += np.arange(rows)[:, None] * n
        yield np.bincount(pick.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def poisson_counts(n: int, n_boot: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Blocks of (b, n) counts that are Poisson(1), each by itself: :func:`resample_counts` for ratios of sums over many units.

    The number of units drawn varies by a share 1 / sqrt(n), which a ratio of sums cancels; in exchange nothing is sorted or
    counted. Counts come from 16 bits each, so their probabilities are off by 1 / 65,536 at most. Source: Chamandy et al. 2012,
    "Estimating uncertainty for massive data streams", section 3.
    """
    step = max(1, 4 * _BLOCK // n)
    for start in range(0, n_boot, step):
        rows = min(step, n_boot - start)
        words = rng.integers(2**64, size=-(-rows * n // 4), dtype=np.uint64)
        bits = words.view(np.uint16)[: rows * n].reshape(rows, n)
        counts = np.zeros((rows, n), dtype=np.uint8)
        for edge in _POISSON_EDGES:
            counts += bits >= edge
        yield counts.astype(np.float64)


_POISSON_EDGES = np.array([e for e in np.rint(65536 * special.pdtr(np.arange(9), 1.0)) if e < 65536], dtype=np.uint16)


def _ratio(num: FloatArray, den: FloatArray) -> FloatArray:
    if np.any(den == 0):
        raise InputError("the denominator of a resample sums to zero, so its ratio does not exist; use a difference instead")
    return np.asarray(num / den)


def _percentile(draws: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


def _bca(draws: FloatArray, estimate: FloatArray, left_out: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    """Efron 1987: quantile levels moved by the bias z0 and the acceleration a. Ties with the estimate count half."""
    n_boot, shape = draws.shape[0], estimate.shape
    flat, point, jack = draws.reshape(n_boot, -1), estimate.ravel(), left_out.reshape(left_out.shape[0], -1)
    share = (flat < point).mean(axis=0) + 0.5 * (flat == point).mean(axis=0)
    z0 = special.ndtri(np.clip(share, 0.5 / n_boot, 1 - 0.5 / n_boot))
    pull = jack.mean(axis=0) - jack
    size = (pull**2).sum(axis=0)
    acceleration = np.where(size > 0, (pull**3).sum(axis=0) / (6 * np.where(size > 0, size, 1.0) ** 1.5), 0.0)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = z0 + special.ndtri(tail)
        moved = special.ndtr(z0 + z / (1 - acceleration * z))
        ends.append(np.array([np.quantile(flat[:, c], moved[c]) for c in range(flat.shape[1])]).reshape(shape))
    return ends[0], ends[1]
