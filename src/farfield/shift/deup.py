"""DEUP: how wrong a model will be where it saw too little, learned from errors on rows it had not seen (Lahlou and others 2023).

arXiv 2102.08501. Epistemic uncertainty of a model f at x is its excess risk: the expected loss there less the part that no model
avoids, E[(f(x) - y)^2] - a(x) (their equation 3). A second model u learns the first term from pairs (features, squared error) of
rows held out from the fit; u(x) - a(x) is the answer. Unlike a variance it contains the model's bias. Since u will be asked where
no error was ever seen, its features are to mean the same there (section 3.2, "stationarizing"): the log density of x among the
rows fitted on, the log variance of a model at x, a bit that says whether x was seen, and x itself. Fixed data: every fold's
held-out rows give pairs under that fold's model (algorithm 2). Interactive: each new row gives a pair before it is learned and
another after (algorithm 1).

Symbols: u error model on log squared errors, a noise variance, K folds. Deviations: predicted log errors are corrected by Duan's
smearing factor before they are used (the exponential of a mean logarithm is a median); a negative excess is cut at zero and its
share reported (`clipped_share_`); most partitions leave out what lies to one side, so that errors beyond the data are seen; the
variance is that of the fold models that did not see the row, beside their squared distance from the model in question, or that of a
Gaussian process; the error model is linear in the features, which goes on beyond, and a forest in x alone on what that leaves, in
place of a network; the seen bit selects between two such models; the length scale of the Gaussian process is learned once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from farfield import checks, seeds
from farfield.errors import InputError, require
from farfield.estimator import Parameters
from farfield.splits.clouds import k_means

FloatArray = NDArray[np.float64]
Noise = float | Literal["replicates"] | Callable[[FloatArray], ArrayLike]
FEATURES = ("x", "density", "gp", "spread", "disagreement")
DEFAULT = ("x", "density", "spread", "disagreement")
PARTITIONS = ("random", "clusters", "directions")
MOSTLY_BEYOND = ("random", "directions", "directions", "directions")
OF_FOLDS = ("spread", "disagreement")  # features that need the models of the folds
FLOOR = 1e-9  # of the target's variance: the least squared error that counts, against log 0
_ROWS_AT_ONCE = 1 << 22


class _Pairs(NamedTuple):
    """Features (n, k) and squared errors (n,) of rows that were not seen, or were."""

    features: FloatArray
    errors: FloatArray


class DEUPRegressor(Parameters):
    """A regressor that also says how wrong it expects to be, squared, because of what it did not see.

    Parameters
    ----------
    base : regressor with ``fit`` and ``predict``; copied
    features : of the error model, any of ``x``, ``density`` (log kernel density), ``gp`` (log variance of a Gaussian process),
        ``spread`` (log variance of the fold models that did not see the row), ``disagreement`` (log mean square of their distance
        from the model that is asked)
    folds : parts of each partition of the rows
    partitions : ``random`` folds, ``clusters``, or slabs across a random direction (``directions``); repeated names draw anew
    noise : variance of y that no model can avoid: a number, a function X -> (n,), or ``replicates``: pooled from rows with equal x
    error_model : regressor for log squared errors in place of the linear one with a forest
    on_seen : True collects the errors on the rows fitted on instead (the ablation; it does not work)
    random_state : seed of folds, the error model, and of each copy of `base` that has a `random_state`

    After ``fit``: ``model_``, ``noise_``, ``clipped_share_`` of the last prediction. Source: algorithms 1 and 2.
    """

    def __init__(
        self, base: Any, *, features: tuple[str, ...] = DEFAULT, folds: int = 3, partitions: tuple[str, ...] = MOSTLY_BEYOND,
        noise: Noise = 0.0, error_model: Any = None, on_seen: bool = False, random_state: int = 0,
    ) -> None:  # fmt: skip
        self.base, self.features, self.folds, self.partitions = base, features, folds, partitions
        self.noise, self.error_model, self.on_seen, self.random_state = noise, error_model, on_seen, random_state

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn is to know of it; called by scikit-learn alone."""
        from sklearn.utils import RegressorTags, Tags, TargetTags

        return Tags(estimator_type="regressor", target_tags=TargetTags(required=True), regressor_tags=RegressorTags())

    def fit(self, X: ArrayLike, y: ArrayLike) -> DEUPRegressor:
        """Fit the model, and the error model on rows held out from it. X (n, d), y (n,), n at least 4 times `folds`.

        InputError for unknown features, too few rows, values that are not finite; MissingExtraError without scikit-learn.
        """
        require("sklearn", "DEUPRegressor")
        self._check()
        self.X_, self.y_ = checks.finite("X", X, ndim=2), checks.finite("y", y, ndim=1)
        n = self.y_.size
        if self.X_.shape[0] != n or n < 4 * self.folds:
            raise InputError(f"X has {self.X_.shape[0]} rows and y {n}; allowed: as many, at least {4 * self.folds}")
        self._refit()
        self._fold_models: list[Any] = []
        self._unseen = _Pairs(np.empty((0, self._width())), np.empty(0))
        self._unseen = self._held_out()
        self._learn()
        return self

    def predict(self, X: ArrayLike, return_epistemic: bool = False) -> Any:
        """(m,) predictions, and with `return_epistemic` also the (m,) epistemic squared errors."""
        at = self._rows(X)
        answers = np.asarray(self.model_.predict(at), dtype=np.float64)
        return (answers, self.epistemic(at)) if return_epistemic else answers

    def expected_error(self, X: ArrayLike) -> FloatArray:
        """(m,) the squared error to expect, noise included."""
        at = self._rows(X)
        seen = self._is_seen(at)
        features = self._at(at)
        out = self._error_unseen.predict(features)
        if seen.any():
            out[seen] = self._error_seen.predict(features[seen])
        return np.asarray(out)

    def epistemic(self, X: ArrayLike) -> FloatArray:
        """(m,) the expected squared error less the noise, cut at zero (their equation 3)."""
        at = self._rows(X)
        excess = self.expected_error(at) - self._noise_at(at)
        self.clipped_share_ = float((excess < 0).mean()) if excess.size else 0.0
        return np.asarray(np.maximum(excess, 0.0))

    def update(self, X: ArrayLike, y: ArrayLike) -> DEUPRegressor:
        """Learn new rows (m, d), (m,): their errors before and after join those the error model is fitted on (algorithm 1).

        InputError with the features ``spread`` and ``disagreement``, whose fold models would be stale.
        """
        stale = [name for name in self.features if name in OF_FOLDS]
        if stale:
            raise InputError(
                f"update cannot be used with the feature {stale[0]!r}, which needs new folds; leave it out or call fit"
            )
        at, target = self._rows(X), checks.finite("y", y, ndim=1)
        if target.size != at.shape[0]:
            raise InputError(f"X has {at.shape[0]} rows and y {target.size}; they must be as many")
        before = _Pairs(self._at(at), (np.asarray(self.model_.predict(at)) - target) ** 2)
        self._unseen = _Pairs(*(np.concatenate(pair) for pair in zip(self._unseen, before, strict=True)))
        self.X_, self.y_ = np.concatenate([self.X_, at]), np.concatenate([self.y_, target])
        self._refit()
        self._learn()
        return self

    # -- the model and its features -------------------------------------------------------------------------------------------

    def _check(self) -> None:
        for name in self.features:
            checks.choice("features", name, FEATURES)
        for name in self.partitions:
            checks.choice("partitions", name, PARTITIONS)
        checks.count("folds", self.folds, least=2)
        if not self.features or not self.partitions:
            raise InputError("features and partitions need at least one name each")
        needing = [name for name in self.features if name in OF_FOLDS]
        if needing and len(self.partitions) < 2:
            raise InputError(f"the feature {needing[0]!r} needs two partitions, since each leaves one model that did not see a row")

    def _width(self) -> int:
        return sum(int(self.X_.shape[1]) if name == "x" else 1 for name in self.features)

    def _copy(self, *index: int) -> Any:
        from sklearn.base import clone

        model = clone(self.base, safe=False)
        if hasattr(model, "get_params") and "random_state" in model.get_params():
            seed = int(seeds.child(seeds.root(self.random_state), *index).integers(2**31))
            model.set_params(random_state=seed)
        return model

    def _refit(self) -> None:
        self.model_ = self._copy(0).fit(self.X_, self.y_)
        self._scale = np.where(self.X_.std(axis=0) > 0, self.X_.std(axis=0), 1.0)
        self._kernel: Any = None
        self._process = self._gp(self.X_, self.y_)
        self._noise = self._replicates() if self.noise == "replicates" else self.noise
        self.noise_ = float(np.mean(self._noise_at(self.X_)))

    def _gp(self, X: FloatArray, y: FloatArray) -> Any:
        """A Gaussian process; its length scale is learned once, on at most 400 rows, and kept for the folds."""
        if "gp" not in self.features:
            return None
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        rng = seeds.child(seeds.root(self.random_state), 2)
        some = np.sort(rng.permutation(y.size)[:400])
        kernel, optimise = self._kernel, None
        if kernel is None:
            kernel, optimise = ConstantKernel(1.0) * RBF(1.0) + WhiteKernel(0.01), "fmin_l_bfgs_b"
        found = GaussianProcessRegressor(kernel, optimizer=optimise, normalize_y=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound ranks all the same
            fitted = found.fit(X[some] / self._scale, y[some])
        self._kernel = fitted.kernel_
        return fitted

    def _features(
        self, at: FloatArray, fitted_on: FloatArray, process: Any, others: FloatArray, own: FloatArray, within: bool
    ) -> FloatArray:
        """(m, k) for a model with answers `own` (m,).

        `others` (models, m): answers of models that did not see the rows, NaN for one that did; `within`: own is among them.
        """
        parts: list[FloatArray] = []
        least = FLOOR * self.y_.var()
        for name in self.features:
            if name == "x":
                parts.append(at / self._scale)
            elif name == "density":
                parts.append(log_density(at / self._scale, fitted_on / self._scale)[:, None])
            elif name == "gp":
                variance = process.predict(at / self._scale, return_std=True)[1] ** 2
                parts.append(np.log(variance + least)[:, None])
            elif name == "spread":
                parts.append(np.log(np.nanvar(others, axis=0, ddof=1) + least)[:, None])
            else:
                count = np.isfinite(others).sum(axis=0) - within
                parts.append(np.log(np.nansum((others - own) ** 2, axis=0) / count + least)[:, None])
        return np.concatenate(parts, axis=1)

    def _at(self, at: FloatArray) -> FloatArray:
        needed = any(name in OF_FOLDS for name in self.features)
        others = np.array([m.predict(at) for m in self._fold_models]) if needed else np.empty((0, len(at)))
        own = np.asarray(self.model_.predict(at)) if "disagreement" in self.features else np.empty(len(at))
        return self._features(at, self.X_, self._process, others, own, within=False)

    def _folds(self, kind: str, rng: np.random.Generator) -> NDArray[np.int64]:
        """(n,) the fold of each row."""
        n = self.y_.size
        points = (self.X_ - self.X_.mean(axis=0)) / self._scale
        if kind == "clusters":
            return np.asarray(k_means(points, self.folds, np.arange(n), rng), dtype=np.int64)
        fold = np.empty(n, dtype=np.int64)
        order = rng.permutation(n)
        if kind == "directions":
            order = np.argsort(points @ rng.normal(size=points.shape[1]), kind="stable")
        fold[order] = np.arange(n) * self.folds // n
        return fold

    def _held_out(self) -> _Pairs:
        """The pairs of every partition's held-out rows; keeps the fold models, for the features that need them."""
        root = seeds.root(self.random_state)
        hidden = []
        for p, kind in enumerate(self.partitions):
            fold = self._folds(kind, seeds.child(root, 1, p))
            for f in range(self.folds):
                self._fold_models.append(self._copy(1, p, f).fit(self.X_[fold != f], self.y_[fold != f]))
                hidden.append(fold == f)
        answers = np.array([np.asarray(m.predict(self.X_), dtype=np.float64) for m in self._fold_models])
        others = np.where(hidden, answers, np.nan)
        features, errors = [], []
        for own, unseen in zip(answers, hidden, strict=True):
            asked = ~unseen if self.on_seen else unseen
            rest = self.X_[~unseen]
            process = self._gp(rest, self.y_[~unseen])
            features.append(self._features(self.X_[asked], rest, process, others[:, asked], own[asked], within=not self.on_seen))
            errors.append((own[asked] - self.y_[asked]) ** 2)
        return _Pairs(np.concatenate(features), np.concatenate(errors))

    def _learn(self) -> None:
        least = FLOOR * float(self.y_.var())
        seed = int(seeds.child(seeds.root(self.random_state), 3).integers(2**31))
        model = _LinearAndForest(seed, self._columns()) if self.error_model is None else self.error_model
        self._error_unseen = _LogErrors(model, least).fit(*self._unseen)
        after = (np.asarray(self.model_.predict(self.X_)) - self.y_) ** 2
        self._error_seen = _LogErrors(model, least).fit(self._at(self.X_), after)

    def _columns(self) -> list[int]:
        """The columns of x among the features, or all of them without x: what the forest may see, which does not go on beyond."""
        if "x" not in self.features:
            return list(range(self._width()))
        start = self.features.index("x")
        return list(range(start, start + self.X_.shape[1]))

    def _rows(self, X: ArrayLike) -> FloatArray:
        checks.fitted(self, "model_", "fit(X, y)")
        return checks.finite("X", X, shape=(None, self.X_.shape[1]))

    def _is_seen(self, at: FloatArray) -> NDArray[np.bool_]:
        known = {row.tobytes() for row in self.X_ + 0.0}
        return np.array([row.tobytes() in known for row in at + 0.0], dtype=bool)

    def _noise_at(self, at: FloatArray) -> FloatArray:
        noise = self._noise
        values = checks.finite("noise", noise(at) if callable(noise) else noise)
        if (values < 0).any():
            raise InputError("noise is negative somewhere; it is a variance, 0 or more")
        return np.broadcast_to(values, (at.shape[0],))

    def _replicates(self) -> float:
        """The variance within rows of equal x, pooled."""
        _, codes = np.unique(self.X_, axis=0, return_inverse=True)
        codes = codes.ravel()
        counts = np.bincount(codes)
        free = int((counts - 1).sum())
        if free < 1:
            raise InputError("noise='replicates' needs rows with equal x; no two rows have it")
        means = np.bincount(codes, self.y_) / counts
        return float(((self.y_ - means[codes]) ** 2).sum() / free)


class _LogErrors:
    """Squared errors on the log scale, brought back by the smearing factor (Duan 1983)."""

    def __init__(self, model: Any, least: float) -> None:
        self.model, self.least = model, least

    def fit(self, features: FloatArray, errors: FloatArray) -> _LogErrors:
        from sklearn.base import clone

        target = np.log(np.maximum(errors, self.least))
        self.fitted = clone(self.model, safe=False).fit(features, target)
        self.smearing = float(np.exp(target - self.fitted.predict(features)).mean())
        return self

    def predict(self, features: FloatArray) -> FloatArray:
        return np.asarray(np.exp(self.fitted.predict(features)) * self.smearing)


class _LinearAndForest:
    """Ridge regression on standardised features, which goes on beyond them, and a forest in some columns on what it leaves."""

    def __init__(self, seed: int, columns: list[int]) -> None:
        self.seed, self.columns = seed, columns

    def fit(self, F: FloatArray, target: FloatArray) -> _LinearAndForest:
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.line = make_pipeline(StandardScaler(), Ridge(1.0)).fit(F, target)
        forest = RandomForestRegressor(40, min_samples_leaf=20, random_state=self.seed)
        self.rest = forest.fit(F[:, self.columns], target - self.line.predict(F))
        return self

    def predict(self, F: FloatArray) -> FloatArray:
        return np.asarray(self.line.predict(F) + self.rest.predict(F[:, self.columns]))


def log_density(at: ArrayLike, of: ArrayLike) -> FloatArray:
    """(m,) log of a Gaussian kernel density at the rows `at` (m, d) of the rows `of` (n, d), Scott's bandwidth per column."""
    points, data = checks.finite("at", at, ndim=2), checks.finite("of", of, ndim=2)
    n, d = data.shape
    width = n ** (-1 / (d + 4)) * data.std(axis=0, ddof=1)
    width = np.where(width > 0, width, 1.0)
    a, b = points / width, data / width
    out = np.empty(points.shape[0])
    step = max(1, _ROWS_AT_ONCE // (n * d))
    for start in range(0, out.size, step):
        block = a[start : start + step]
        out[start : start + step] = logsumexp(-0.5 * ((block[:, None] - b) ** 2).sum(axis=2), axis=1)
    return np.asarray(out - np.log(n) - 0.5 * d * np.log(2 * np.pi) - np.log(width).sum())


@dataclass(frozen=True)
class Search:
    """What a search measured: X (n, d) and y (n,) in the order measured, the first `n_initial` of them drawn at random."""

    X: FloatArray
    y: FloatArray
    n_initial: int
    model: DEUPRegressor

    @property
    def best(self) -> FloatArray:
        """(n,) the largest value so far."""
        return np.asarray(np.maximum.accumulate(self.y), dtype=np.float64)


def deup_search(
    objective: Callable[[FloatArray], float],
    candidates: ArrayLike,
    base: Any,
    *,
    n_initial: int = 12,
    n_steps: int = 20,
    acquisition: Literal["improvement", "epistemic"] = "improvement",
    features: tuple[str, ...] = ("x", "density", "gp"),
    rng: seeds.Seed = 0,
) -> Search:
    """Measure `objective` where it is expected to rise most, or where the model knows least, one candidate at a time.

    Parameters
    ----------
    objective : (d,) -> number, larger is better
    candidates : (m, d) rows that may be measured, each once
    base : regressor, as in :class:`DEUPRegressor`
    acquisition : ``improvement``: expected improvement with the epistemic error's root as standard deviation (maximisation);
        ``epistemic``: the largest epistemic error (active learning)

    InputError for fewer candidates than measurements. Source: algorithm 1 and section 4.1.
    """
    checks.choice("acquisition", acquisition, ("improvement", "epistemic"))
    rows = checks.finite("candidates", candidates, ndim=2)
    n = checks.count("n_initial", n_initial, least=12) + checks.count("n_steps", n_steps)
    if rows.shape[0] < n:
        raise InputError(f"{rows.shape[0]} candidates; {n} are to be measured")
    from scipy.special import ndtr

    generate = seeds.generator(rng)
    left = np.ones(rows.shape[0], dtype=bool)
    first = generate.permutation(rows.shape[0])[:n_initial]
    left[first] = False
    y = [float(objective(rows[i])) for i in first]
    model = DEUPRegressor(base, features=features, partitions=("random",), random_state=int(generate.integers(2**31)))
    model.fit(rows[first], y)
    for _ in range(n_steps):
        free = np.flatnonzero(left)
        mean, squared = model.predict(rows[free], return_epistemic=True)
        value = squared
        if acquisition == "improvement":
            spread = np.sqrt(np.maximum(squared, 1e-300))
            z = (mean - max(y)) / spread
            value = spread * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
        chosen = int(free[int(np.argmax(value))])
        left[chosen] = False
        y.append(float(objective(rows[chosen])))
        model.update(rows[chosen : chosen + 1], y[-1:])
    return Search(model.X_, model.y_, n_initial, model)
