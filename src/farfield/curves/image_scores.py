"""FID and Inception Score, as measured and at infinity, on features of whatever network (Chong & Forsyth, arXiv 1911.07023).

The Frechet distance of two Gaussians with the samples' means and covariances,

    FID = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2      (Heusel and others 2017, arXiv 1706.08500, equation 6),

and the Inception Score, exp of the mean Kullback-Leibler divergence of each image's class probabilities from their average
(Salimans and others 2016, arXiv 1606.03498, section 4). FID of few samples is too high, the score too low, both by c / N.

Influence values, the change by one more row at x, times n: of FID (x - m1)^T (2 (m1 - m2) + (I - T)(x - m1)), centred, with T the
map that carries S1 to S2; of IS, IS (KL(x) - ln IS). They remove the subsets' first-order noise and give the pool's sampling error.
Where two samples hardly differ, I - T is mostly noise and its square biased; the variance of FID's influence is therefore the mean
product of two sets of values at rows of one third of the data, from T of the two others. Noise of the second order has the standard
deviation sqrt(2 E k^2) / n, with k half the second derivative of FID by the weights of two rows.
"""

from __future__ import annotations

import math
import os
import zipfile
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.curves.features import Index, Moments, Source, chunks, load, moments, read_array
from farfield.curves.limits import SIZES, Limit, Plan, Score, bootstrapped, influenced
from farfield.errors import InputError
from farfield.linalg import nuclear_norm, psd, psd_factor, trace_sqrt_product, transport_root
from farfield.seeds import Seed, generator

FloatArray = NDArray[np.float64]
Reference: TypeAlias = "Source | tuple[ArrayLike, ArrayLike]"

_WIDE = 512  # from here on an evaluation takes a second or so: one subset a size
_PARTS = 3  # of the rows, for the variance of influence values
_PAIRED = 4096  # rows whose pairs tell the second-order noise


def fid(fake: Reference, reference: Reference) -> float:
    """Frechet distance of two sets of features, as measured; :func:`fid_infinity` removes its bias.

    Parameters
    ----------
    fake, reference : (n, d) features, n >= 2: an array or a file (.npy mapped, .npz, .safetensors, Parquet); or moments: a pair
        (mean (d,), covariance (d, d)), or an .npz file with arrays mu and sigma

    Covariances have ddof 1. With n <= d it is exact, through the Gram matrix. Raises InputError for widths that differ, rows that
    are not finite, and matrices that are no covariances. Source: Heusel and others 2017, equation 6.
    """
    first, second = (_given(name, value)[0] for name, value in (("fake", fake), ("reference", reference)))
    _same_width(first, second)
    return frechet(first, second)


def frechet(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2 of two sets of moments of the same width."""
    if first.cov is not None and second.cov is not None:
        root = trace_sqrt_product(first.cov, second.cov)
    else:
        root = nuclear_norm(first.dense_factor(), second.dense_factor())
    return float(((first.mean - second.mean) ** 2).sum()) + first.trace + second.trace - 2 * root


def fid_infinity(
    fake: Source,
    reference: Reference,
    *,
    sizes: int = SIZES,
    min_size: int | None = None,
    subsets: int | None = None,
    n_boot: int = 0,
    level: float = 0.8,
    rng: Seed = None,
) -> Limit:
    """FID with infinitely many samples, with an interval that includes the reference's own sampling.

    Parameters
    ----------
    fake : (n, d) features, at least 20 rows and better several times d; an array or a file as in :func:`fid`
    reference : features likewise, whose bias is then removed too; or moments as in :func:`fid`, taken as exact
    sizes : subset sizes, evenly spaced from `min_size` to n
    min_size : smallest subset; default a fifth of the pool, but two rows a feature where half the pool has them
    subsets : at most so many of a size; default all that do not overlap, from 512 features on one
    n_boot : 0 for the error by influence values; otherwise resamples of a nested bootstrap (at least 10), at as many times the cost
    level : coverage of intervals
    rng : seed or generator

    Raises InputError as :func:`fid`, and for pools of fewer than 20 rows. Source: arXiv 1911.07023, section 3.
    """
    x = load("fake", fake)
    first = moments("fake", x)
    second, y = _given("reference", reference)
    _same_width(first, second)
    width = x.shape[1]
    plan = Plan(sizes, min_size, level, 1 if subsets is None and width >= _WIDE else subsets, width)
    m = None if y is None else y.shape[0]
    plan.of(x.shape[0], "fake sample")
    influence = _influence(first, second, x), None if y is None else _influence(second, first, y)

    def scored(of_x: Index | None, of_y: Index | None) -> Score:
        ours, theirs = _part("fake", x, of_x, first), second if y is None else _part("reference", y, of_y, second)

        def score(i: Index | None, j: Index | None) -> float:
            one = ours if i is None else moments("fake", x, i if of_x is None else of_x[i])
            two = theirs if j is None or y is None else moments("reference", y, j if of_y is None else of_y[j])
            return frechet(one, two)

        return score

    if n_boot:
        checks.count("n_boot", n_boot, least=10)
        return bootstrapped("FID", scored, x.shape[0], m, plan, n_boot, rng, influence)
    variance, noise = _variances(x, y, second, influence), _noise(first, second, x, y)
    return influenced("FID", scored(None, None), x.shape[0], m, plan, influence, variance, noise, rng)


def is_infinity(
    probabilities: Source,
    *,
    sizes: int = SIZES,
    min_size: int | None = None,
    level: float = 0.8,
    rng: Seed = None,
) -> Limit:
    """Inception Score with infinitely many samples, with an interval.

    Parameters
    ----------
    probabilities : (n, classes) of a classifier, a row a generated image, at least 20; an array or a file as in :func:`fid`
    sizes, min_size, level, rng : as in :func:`fid_infinity`

    One score of all images, not the mean over ten parts, each of which has ten times the bias. Raises InputError for rows that are
    not finite, below 0, or do not add up to 1 within 1e-3 (logits: take their softmax first). Source: arXiv 1911.07023, section 3.
    """
    x = load("probabilities", probabilities)
    entropy = np.empty(x.shape[0])  # negative entropy of every row; with the mean row it is all the score needs
    total = np.zeros(x.shape[1])
    for start, chunk in chunks(x):
        bad = np.flatnonzero(~((chunk >= 0).all(axis=1) & (np.abs(chunk.sum(axis=1) - 1) <= 1e-3)))
        if bad.size:
            row = start + int(bad[0])
            raise InputError(
                f"row {row} of probabilities adds up to {chunk[bad[0]].sum():.4g}, its smallest is {chunk[bad[0]].min():.4g}; "
                "allowed: numbers from 0 up that add up to 1; of logits take the softmax first"
            )
        chunk /= chunk.sum(axis=1, keepdims=True)
        entropy[start : start + len(chunk)] = _xlogx(chunk).sum(axis=1)
        total += chunk.sum(axis=0)
    mean = total / x.shape[0]

    def score(i: Index | None, j: Index | None) -> float:
        if i is None:
            return math.exp(float(entropy.mean()) - float(_xlogx(mean).sum()))
        part = np.zeros(x.shape[1])
        for _, chunk in chunks(x, i):
            part += (chunk / chunk.sum(axis=1, keepdims=True)).sum(axis=0)
        return math.exp(float(entropy[i].mean()) - float(_xlogx(part / len(i)).sum()))

    whole = score(None, None)
    log_mean = np.log(np.where(mean > 0, mean, 1.0))
    cross = np.concatenate([(chunk / chunk.sum(axis=1, keepdims=True)) @ log_mean for _, chunk in chunks(x)])
    divergence = entropy - cross
    plan = Plan(sizes, min_size, level, None)
    influence = whole * (divergence - divergence.mean())
    return influenced("IS", score, x.shape[0], None, plan, (influence, None), (float(influence.var(ddof=1)), 0.0), None, rng)


def sobol_normal(n: int, d: int, *, rng: Seed = None) -> FloatArray:
    """Standard normals (n, d) from a scrambled Sobol sequence: latent points that cover the space more evenly than random ones.

    Parameters
    ----------
    n : points; drawn in a power-of-two block, the first n are kept, so that n a power of two is best balanced
    d : dimensions, 1 to 21201
    rng : seed or generator of the scrambling

    A point with a coordinate of exactly 0, which has no normal quantile, is dropped and replaced by the next of the sequence.
    Raises InputError for other n or d. Source: arXiv 1911.07023, section 4 (inverse of the normal distribution, not Box-Muller).
    """
    from scipy import special
    from scipy.stats import qmc

    n, d = checks.count("n", n), checks.count("d", d)
    if d > qmc.Sobol.MAXDIM:
        raise InputError(f"d is {d}; allowed: 1 to {qmc.Sobol.MAXDIM}, the dimensions of the Sobol table")
    engine = qmc.Sobol(d, scramble=True, rng=generator(rng))
    points = engine.random_base2(max(0, (n - 1).bit_length()))
    kept = points[(points > 0).all(axis=1)]
    while len(kept) < n:
        more = engine.random_base2(int(engine.num_generated).bit_length() - 1)
        kept = np.concatenate([kept, more[(more > 0).all(axis=1)]])
    return np.asarray(special.ndtri(kept[:n]))


def _given(name: str, value: Reference) -> tuple[Moments, NDArray[Any] | None]:
    """Moments, and the rows they are of where there are rows."""
    if isinstance(value, tuple) and len(value) == 2:
        return _pair(name, *value), None
    if isinstance(value, str | os.PathLike) and holds_moments(value):
        return _pair(name, read_array(f"{os.fspath(value)}::mu"), read_array(f"{os.fspath(value)}::sigma")), None
    rows = load(name, value)
    return moments(name, rows), rows


def holds_moments(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an ``.npz`` with the arrays mu and sigma."""
    if not (os.fspath(path).casefold().endswith(".npz") and zipfile.is_zipfile(path)):
        return False
    with np.load(path, allow_pickle=False) as archive:
        return {"mu", "sigma"} <= set(archive.files)


def _pair(name: str, mean: ArrayLike, cov: ArrayLike) -> Moments:
    checked = psd(f"covariance of the {name}", cov)
    psd_factor(f"covariance of the {name}", checked)
    return Moments(0, checks.finite(f"mean of the {name}", mean, shape=(len(checked),)), cov=checked)


def _same_width(first: Moments, second: Moments) -> None:
    a, b = len(first.mean), len(second.mean)
    if a != b:
        raise InputError(f"fake has {a} features and reference {b}; allowed: the same network's features for both")


def _part(name: str, rows: NDArray[Any], index: Index | None, whole: Moments) -> Moments:
    return whole if index is None else moments(name, rows, index)


def _influence(own: Moments, other: Moments, rows: NDArray[Any]) -> FloatArray:
    """Influence values (n,), centred, of the Frechet distance at the rows of `own`."""
    root = transport_root(own.dense_cov(), other.dense_cov())
    offset = 2 * (own.mean - other.mean)
    values = []
    for _, chunk in chunks(rows):
        chunk -= own.mean
        values.append(chunk @ offset + (chunk**2).sum(axis=1) - ((chunk @ root) ** 2).sum(axis=1))
    out = np.concatenate(values)
    return np.asarray(out - out.mean())


def _few(*sides: NDArray[Any] | None) -> bool:
    """Whether a third of the rows says too little of a covariance."""
    return any(rows.shape[0] < 2 * _PARTS * rows.shape[1] for rows in sides if rows is not None)


def _variances(
    x: NDArray[Any], y: NDArray[Any] | None, reference: Moments, influence: tuple[FloatArray, FloatArray | None]
) -> tuple[float, float]:
    """Variances of the influence values at fake and reference rows, without what the noise of I - T adds to them.

    Every third of the rows is given values from T of each of the two others: the noise of those is independent, and no row has a
    say in its own value, which in heavy tails would outweigh all else. With few rows a feature, the plain variance: too large.
    """
    if _few(x, y):
        return float(influence[0].var(ddof=1)), 0.0 if influence[1] is None else float(influence[1].var(ddof=1))
    of_x, of_y = [], []
    for part in range(_PARTS):
        one = moments("fake", x, np.arange(part, x.shape[0], _PARTS))
        two = reference if y is None else moments("reference", y, np.arange(part, y.shape[0], _PARTS))
        of_x.append(_influence(one, two, x))
        of_y.append(np.zeros(_PARTS) if y is None else _influence(two, one, y))
    return _crossed(of_x), _crossed(of_y)


def _crossed(values: list[FloatArray]) -> float:
    """Mean over the parts of the covariance, within a part, of the values that the two others give it."""
    found = []
    for part in range(_PARTS):
        one, two = (values[(part + by) % _PARTS][part::_PARTS] for by in (1, 2))
        found.append(float(((one - one.mean()) * (two - two.mean())).mean()))
    return max(float(np.mean(found)), 0.0)


def _noise(first: Moments, second: Moments, x: NDArray[Any], y: NDArray[Any] | None) -> tuple[float, float] | None:
    """Second-order noise of FID, times n, of fake and reference rows; None where there are few rows a feature."""
    if _few(x, y):
        return None
    return _second_order(first, second, x), 0.0 if y is None else _second_order(second, first, y)


def _second_order(own: Moments, other: Moments, rows: NDArray[Any]) -> float:
    """sqrt(2 E k(x, x')^2) over pairs of different rows: the standard deviation, times n, of what is not linear in the rows."""
    picked = np.linspace(0, rows.shape[0] - 1, min(rows.shape[0], _PAIRED)).astype(np.int64)
    values = _kernel(own, other, rows[picked], rows[np.roll(picked, len(picked) // 2)])
    return math.sqrt(2 * float((values**2).mean()))


def _kernel(own: Moments, other: Moments, some: NDArray[Any], others: NDArray[Any]) -> FloatArray:
    """k (n,) of the Frechet distance at pairs of rows of `own`: half its second derivative by their weights.

    From the second derivative of -2 tr (S1^1/2 S2 S1^1/2)^1/2 in S1. With T = K K^T, q = K^T (x - m), K^T S1 K = diag(l) and p the
    product of q and q': k = p . 1 + (sum_ab p_a p_b / (l_a + l_b) - (|q|^2 + |q'|^2 - sum l) / 2) / 2.
    """
    cov = own.dense_cov()
    root = transport_root(cov, other.dense_cov())
    spread = np.einsum("da,da->a", root, cov @ root)
    q, r = ((chunk.astype(np.float64) - own.mean) @ root for chunk in (some, others))
    p = q * r
    squares = ((p @ (1 / np.add.outer(spread, spread))) * p).sum(axis=1)
    return np.asarray(p.sum(axis=1) + (squares - ((q**2).sum(axis=1) + (r**2).sum(axis=1) - spread.sum()) / 2) / 2)


def _xlogx(p: FloatArray) -> FloatArray:
    return np.asarray(p * np.log(np.where(p > 0, p, 1.0)))
