"""Experts don't cheat: predict pairs of answers, and what the first answer gives away about the second is what is not known.

Johnson and others 2024, arXiv 2402.08733. A model of p(y1, y2 | x) is fitted to pairs of independent answers to the same x. With
the marginal p1 and p2(y' | y, x) = p(y, y') / p1(y), the *cheating* of an answer y is its epistemic variance (section 3)

    V(y | x) = p1(y | x) (p2(y | y, x) - p1(y | x)),    which is E[(p*(y | x) - p1(y | x))^2]

over the inputs that the model does not tell apart, if it is calibrated about pairs (second-order calibration, theorem 3.2); the
covariance is p(y, y') - p1(y) p1(y'). Hence |p* - p1| <= sqrt(V / beta) with probability 1 - beta (theorem 4.1), and an answer with
confidence p1(y) / p2(y | y) >= 1 - beta has p*(y | x) = 0 with probability beta at most (theorem 4.2: by Cauchy and Schwarz
P(p* > 0) >= E[p*]^2 / E[p*^2]). Calibration is measured without knowing p*: the product (1[y1 = y] - p1)(1[y2 = y] - p1) of a
fresh pair is unbiased for (p* - p1)^2.

Deviations: any classifier with ``predict_proba`` fits the pairs, as one class an unordered pair, which makes the joint symmetric
and its marginals equal by construction. V below zero is cut there. `calibrate` replaces V by its isotonic regression on those
products over held-out pairs, above a floor, the least variance that so many pairs tell from none; without it a V cut at zero
gives an interval of no width, which covers nothing. Besides theorem 4.1's interval there is a narrower one, from the Beta
distribution with mean p1 and variance V: its coverage assumes a shape of p*, where Chebyshev's holds for every one.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from farfield import checks
from farfield.errors import InputError, require
from farfield.estimator import Parameters

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
LEAST = 1e-6  # the least variance a calibrated model answers with


class PairPredictor(Parameters):
    """A classifier fitted to pairs of answers, which knows how far off its probabilities may be.

    Parameters
    ----------
    classifier : classifier with ``fit(X, labels)`` and ``predict_proba(X)``; copied. It sees one class an unordered pair of
        answers: with k answers up to k (k + 1) / 2 classes

    After ``fit``: ``classes_`` (k,) the answers, sorted; ``model_``. After ``calibrate``: ``resolution_``, the least variance.
    """

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier

    def fit(self, X: Any, y1: ArrayLike, y2: ArrayLike) -> PairPredictor:
        """Fit to the answers `y1` and `y2` (n,), independent given the row of X: two annotators, two measurements.

        InputError where lengths differ or there is one answer only; warns where the two answers are equal in every row: either
        answers are certain everywhere, or one was copied, which makes the model take every doubt for ignorance.
        """
        require("sklearn", "PairPredictor")
        from sklearn.base import clone

        first, second = _answers("y1", y1), _answers("y2", y2)
        if first.shape != second.shape:
            raise InputError(f"y1 has {first.size} answers and y2 {second.size}; they must be paired")
        self.classes_, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
        a, b = codes[: first.size], codes[first.size :]
        if self.classes_.size < 2:
            raise InputError(f"every answer is {str(self.classes_[0])!r}; there is nothing to predict")
        if first.size > 50 and np.array_equal(a, b):
            warnings.warn("the two answers are equal in every row; pairs must be independent answers, not copies", stacklevel=2)
        self.model_ = clone(self.classifier).fit(X, self._code(a, b))
        self._levels: tuple[FloatArray, FloatArray] | None = None
        return self

    def joint(self, X: Any) -> FloatArray:
        """(n, k, k) probabilities of pairs of answers, symmetric."""
        checks.fitted(self, "model_", "fit(X, y1, y2)")
        found = checks.finite("predict_proba", self.model_.predict_proba(X), ndim=2)
        k = self.classes_.size
        low, high = np.divmod(np.asarray(self.model_.classes_, dtype=np.int64), k)
        out = np.zeros((found.shape[0], k, k))
        share = np.where(low == high, 1.0, 0.5) * found
        out[:, low, high] = share
        out[:, high, low] = share
        return out

    def predict_proba(self, X: Any) -> FloatArray:
        """(n, k) probabilities of the answers, the joint's marginal."""
        return np.asarray(self.joint(X).sum(axis=2))

    def predict(self, X: Any) -> NDArray[Any]:
        """(n,) the likeliest answers."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def covariance(self, X: Any) -> FloatArray:
        """(n, k, k) epistemic covariance of the probabilities, as the pairs say; not cut at zero."""
        joint = self.joint(X)
        marginal = joint.sum(axis=2)
        return np.asarray(joint - marginal[:, :, None] * marginal[:, None, :])

    def epistemic_variance(self, X: Any) -> FloatArray:
        """(n, k) variance of the true probability of each answer around the predicted one; calibrated after `calibrate`."""
        raw = np.einsum("nii->ni", self.covariance(X))
        if self._levels is None:
            return np.asarray(np.maximum(raw, 0.0))
        return np.asarray(np.interp(raw, *self._levels))

    def calibrate(self, X: Any, y1: ArrayLike, y2: ArrayLike) -> PairPredictor:
        """Make variances agree with pairs held out from the fit: isotonic regression, above a floor.

        Rows with the least raw variances share the floor, `resolution_`: the mean of a variance that is not negative given what
        their pairs show and its error, of order 0.25 / sqrt(rows). They are as many as make what is shown plus its error least.
        """
        from sklearn.isotonic import IsotonicRegression

        raw = np.einsum("nii->ni", self.covariance(X)).ravel()
        products = pair_products(self.predict_proba(X), self.code(y1), self.code(y2)).ravel()
        found = IsotonicRegression(out_of_bounds="clip").fit(raw, products)
        at, levels = np.asarray(found.X_thresholds_, dtype=np.float64), np.asarray(found.y_thresholds_, dtype=np.float64)
        edge, floor = _floor(raw, products, self.classes_.size)
        self.resolution_ = max(floor, LEAST)
        levels = np.where(at <= edge, self.resolution_, np.maximum(levels, self.resolution_))
        self._levels = (at, levels)
        return self

    def interval(self, X: Any, level: float = 0.95, *, shape: Literal["any", "beta"] = "any") -> tuple[FloatArray, FloatArray]:
        """(low, high), (n, k) each, of the true probability of each answer.

        ``any``: Chebyshev's, whatever the distribution of the truth (theorem 4.1 with beta = 1 - level). ``beta``: the central
        interval of the Beta distribution with this mean and variance.
        """
        checks.level("level", level)
        checks.choice("shape", shape, ("any", "beta"))
        p, v = self.predict_proba(X), self.epistemic_variance(X)
        if shape == "any":
            half = np.sqrt(v / (1 - level))
            return np.maximum(p - half, 0.0), np.minimum(p + half, 1.0)
        return beta_interval(p, v, level)

    def confidence(self, X: Any, y: ArrayLike) -> FloatArray:
        """(n,) p1(y) / p2(y | y), at most 1: at 1 - beta or above, the answer `y` is impossible with probability beta at most."""
        codes = self.code(y)
        p = self.predict_proba(X)
        if codes.size != p.shape[0]:
            raise InputError(f"y has {codes.size} answers for {p.shape[0]} rows")
        rows = np.arange(codes.size)
        chance, v = p[rows, codes], self.epistemic_variance(X)[rows, codes]
        # p1 / p2 = p1^2 / (p1^2 + V)
        square = chance**2
        return np.asarray(np.where(square > 0, square / np.where(square > 0, square + v, 1.0), 0.0))

    def code(self, y: ArrayLike) -> IntArray:
        """(n,) the numbers of answers; InputError for one that was not seen."""
        answers = _answers("y", y)
        at = np.minimum(np.searchsorted(self.classes_, answers), self.classes_.size - 1)
        wrong = self.classes_[at] != answers
        if wrong.any():
            raise InputError(
                f"answer {str(answers[wrong][0])!r} was not seen; allowed: {', '.join(map(str, self.classes_[:5]))}, ..."
            )
        return np.asarray(at, dtype=np.int64)

    def _code(self, a: IntArray, b: IntArray) -> IntArray:
        return np.asarray(np.minimum(a, b) * self.classes_.size + np.maximum(a, b))


def pair_products(p: ArrayLike, y1: ArrayLike, y2: ArrayLike) -> FloatArray:
    """(n, k) products (1[y1 = c] - p)(1[y2 = c] - p), unbiased for (p*(c | x) - p)^2 if the pair is independent of p.

    `p` (n, k) predicted probabilities; `y1`, `y2` (n,) numbers of the answers, 0 to k - 1.
    """
    chance = checks.finite("p", p, ndim=2)
    k = np.arange(chance.shape[1])
    first = np.asarray(y1, dtype=np.int64)[:, None] == k
    second = np.asarray(y2, dtype=np.int64)[:, None] == k
    return np.asarray((first - chance) * (second - chance))


def second_order_calibration_error(variance: ArrayLike, squares: ArrayLike, bins: int = 20) -> float:
    """Mean distance between predicted variance and squared error of the probabilities, over bins of predicted variance.

    `variance` (n,) predicted; `squares` (n,) of (p* - p)^2 where the truth is known, or :func:`pair_products` where it is not; bins
    hold as many rows each and weigh by their rows. Source: section 5 (ECE-2).
    """
    v, s = checks.finite("variance", variance, ndim=1), checks.finite("squares", squares, ndim=1)
    if v.size != s.size or v.size < checks.count("bins", bins):
        raise InputError(f"variance has {v.size} values and squares {s.size}; allowed: as many, at least {bins}")
    order = np.argsort(v, kind="stable")
    gaps = [len(part) * abs(v[part].mean() - s[part].mean()) for part in np.array_split(order, bins)]
    return float(sum(gaps) / v.size)


def beta_interval(p: FloatArray, variance: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    """Central intervals of Beta distributions with these means and variances, the latter cut below p (1 - p)."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    most = p * (1 - p)
    size = most / np.clip(variance, 1e-12, 0.999 * most) - 1.0
    a, b = p * size, (1 - p) * size
    low, high = special.betaincinv(a, b, (1 - level) / 2), special.betaincinv(a, b, (1 + level) / 2)
    return np.asarray(low), np.asarray(high)


def _floor(raw: FloatArray, products: FloatArray, n_answers: int) -> tuple[float, float]:
    """The raw variance up to which rows share a floor, and the floor: the mean of N(mean, error^2) above zero."""
    order = np.argsort(raw, kind="stable")
    least = min(100, order.size)
    count = np.arange(1, order.size + 1)
    mean = np.cumsum(products[order]) / count
    spread = np.sqrt(np.maximum(np.cumsum(products[order] ** 2) / count - mean**2, 1e-12))
    # the products of a row's answers sum to a multiple of one another: with two answers they are equal
    error = spread / np.sqrt(count * (n_answers - 1) / n_answers)
    last = least - 1 + int(np.argmin((np.maximum(mean, 0.0) + error)[least - 1 :]))
    t = mean[last] / error[last]
    density = np.exp(-0.5 * t**2 - special.log_ndtr(t)) / np.sqrt(2 * np.pi)
    return float(raw[order[last]]), float(mean[last] + error[last] * density)


def _answers(name: str, y: ArrayLike) -> NDArray[Any]:
    out = np.asarray(y)
    if out.ndim != 1 or out.size == 0:
        raise InputError(f"{name} has shape {out.shape}; allowed: (n,), one answer a row")
    if out.dtype.kind == "f":
        checks.finite(name, out)
    return out
