"""Scores: what a model's answers are worth, row by row where it is a mean over rows, and in all resamples at once where not.

R2 beyond is measured against the mean and variance of what was *seen*: the rows beyond often span a narrow range, whose own
variance would make any model look bad.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield.errors import InputError, installed, unknown_name

FloatArray = NDArray[np.float64]
_FEW_CLASSES = 10  # so many classes that are fractions may a region lack; a regressor predicts more different ones


class Seen(NamedTuple):
    """What a score may know of the training rows: the target's mean and variance, or its classes in the order of probabilities."""

    mean: float
    variance: float
    classes: NDArray[Any]


@dataclass(frozen=True)
class Score:
    """One way to score answers.

    Parameters
    ----------
    name : as scikit-learn calls it
    label : as figures call it
    lower_is_better : True for an error
    needs : ``predict`` or ``proba``
    rows : (y, answers, Seen) -> (n,) values whose mean is the score, up to `finish`
    finish : what is done to the mean, such as a square root
    whole : (y, answers, counts (B, n)) -> (B,) for a score that is no mean; `counts`: how often each row is in a resample
    regression : True where the target must be numbers
    """

    name: str
    label: str
    lower_is_better: bool
    needs: Literal["predict", "proba"] = "predict"
    rows: Callable[[NDArray[Any], NDArray[Any], Seen], FloatArray] | None = None
    finish: Callable[[FloatArray], FloatArray] | None = None
    whole: Callable[[NDArray[Any], NDArray[Any], FloatArray], FloatArray] | None = None
    regression: bool = False

    @property
    def numeric(self) -> bool:
        """Whether the target must be numbers."""
        return self.regression or self.name in _NUMERIC

    @property
    def averages(self) -> bool:
        """Whether answers may be averaged: numbers and probabilities may, words may not."""
        return self.rows is not None and (self.numeric or self.needs == "proba")

    def __repr__(self) -> str:
        return f"Score({self.name!r})"


def get_score(scoring: str | Score | Callable[..., float]) -> Score:
    """The score that is meant by a name, a function or a scorer.

    Parameters
    ----------
    scoring : a name (ours, or any scorer's of scikit-learn where that is installed), a :class:`Score`, a scorer as
        ``sklearn.metrics.make_scorer`` makes it, or a function (y, answers) -> number, higher better

    Scores that are no mean over rows are computed once a resample. InputError for anything else.
    """
    if isinstance(scoring, Score):
        return scoring
    if isinstance(scoring, str):
        name = _ALIASES.get(scoring, scoring)
        if name in SCORES:
            return SCORES[name]
        scorer = _of_scikit_learn(name)
        if scorer is None:
            raise unknown_name("score", scoring, [*SCORES, *_ALIASES])
        return _from_scorer(scorer, name)
    if hasattr(scoring, "_score_func") and hasattr(scoring, "_sign"):
        return _from_scorer(scoring, None)
    if not callable(scoring):
        raise InputError(
            f"scoring is {scoring!r}; allowed: a name, a Score, a scorer or a function (y, answers) -> number, higher better"
        )
    if _asks_for_a_model(scoring):
        raise InputError(
            f"the score {getattr(scoring, '__name__', scoring)!r} takes (model, X, y), which cannot be resampled; give the function"
            " (y, answers) -> number that it calls, or what sklearn.metrics.make_scorer makes of that"
        )
    name = str(getattr(scoring, "__name__", "score"))
    return Score(name, name, lower_is_better=False, whole=_one_by_one(scoring, name))


def _one_by_one(function: Callable[[Any, Any], float], name: str) -> Callable[[NDArray[Any], NDArray[Any], FloatArray], FloatArray]:
    def whole(y: NDArray[Any], answers: NDArray[Any], counts: FloatArray) -> FloatArray:
        out = np.empty(counts.shape[0])
        for b, row in enumerate(counts.astype(np.int64)):
            index = np.repeat(np.arange(y.shape[0]), row)
            try:
                out[b] = function(y[index], answers[index])
            except Exception as error:
                if counts.shape[0] > 1:  # it was computed on the data themselves: a resample it cannot take, say of one class
                    out[b] = np.nan
                    continue
                said = (str(error).strip().splitlines() or ["(no message)"])[0]
                raise InputError(f"the score {name} failed with {type(error).__name__}: {said}") from error
        return out

    return whole


def _asks_for_a_model(function: Callable[..., float]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # built in, without a signature
        return False
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) == 3


def _of_scikit_learn(name: str) -> Any:
    """Its scorer of that name, None where there is none or it is not installed."""
    if not installed("sklearn"):
        return None
    from sklearn import metrics

    return metrics.get_scorer(name) if name in metrics.get_scorer_names() else None


def _from_scorer(scorer: Any, name: str | None) -> Score:
    """A scorer as a score: its function, its arguments and what it asks the model for; ours where it is one that is known."""
    function, arguments, sign = scorer._score_func, dict(getattr(scorer, "_kwargs", {})), scorer._sign
    called = str(getattr(function, "__name__", "score"))
    known = _SAME.get(called)
    if known is not None and not arguments:
        return SCORES[known]
    asks = getattr(scorer, "_response_method", "predict")
    asks = (asks,) if isinstance(asks, str) else tuple(asks)
    if not {"predict", "predict_proba"} & set(asks):
        raise InputError(f"the scorer {called} asks a model for {' or '.join(asks)}; allowed: predict, predict_proba")
    needs: Literal["predict", "proba"] = "predict" if "predict" in asks else "proba"

    def score(y: NDArray[Any], answers: NDArray[Any]) -> float:
        if needs == "proba" and answers.ndim == 2 and answers.shape[1] == 2:
            first = "pos_label" in arguments and arguments["pos_label"] == np.unique(y)[0]
            answers = answers[:, 0 if first else 1]
        return float(function(y, answers, **arguments))

    regression = str(getattr(function, "__module__", "")).endswith("._regression")
    return Score(name or called, called.replace("_", " "), sign < 0, needs, whole=_one_by_one(score, called), regression=regression)


# -- scores that are means over rows -------------------------------------------------------------------------------------------


def _absolute(y: NDArray[Any], p: NDArray[Any], seen: Seen) -> FloatArray:
    return np.asarray(np.abs(y - p))


def _square(y: NDArray[Any], p: NDArray[Any], seen: Seen) -> FloatArray:
    return np.asarray((y - p) ** 2)


def _explained(y: NDArray[Any], p: NDArray[Any], seen: Seen) -> FloatArray:
    if seen.variance == 0:
        raise InputError("the target is constant over the training rows, so R2 does not exist; use another score")
    return np.asarray(1.0 - (y - p) ** 2 / seen.variance)


def _as_classes(y: NDArray[Any], p: NDArray[Any]) -> None:
    """Refuse a regressor's answers: compared with classes they are always wrong, which would look like a score of zero."""
    other = p[~np.isin(p, y) & (p != np.round(p))] if p.dtype.kind == "f" else p[:0]
    if np.unique(other).size > _FEW_CLASSES:
        raise InputError(
            f"accuracy compares answers with classes, and the model predicts numbers that are none of them, such as {other[0]:.6g};"
            " use mae, rmse or r2, or a classifier"
        )


def _hit(y: NDArray[Any], p: NDArray[Any], seen: Seen) -> FloatArray:
    _as_classes(y, p)
    return np.asarray(y == p, dtype=np.float64)


def _chance(y: NDArray[Any], p: NDArray[Any], seen: Seen) -> FloatArray:
    """Probability given to the true class; zero to a class that was not seen."""
    return np.asarray(np.where(y[:, None] == seen.classes[None, :], p, 0.0).sum(axis=1))


def _log_loss(y: NDArray[Any], p: NDArray[Any], seen: Seen) -> FloatArray:
    return np.asarray(-np.log(np.maximum(_chance(y, p, seen), 1e-15)))


def _brier(y: NDArray[Any], p: NDArray[Any], seen: Seen) -> FloatArray:
    known = y[:, None] == seen.classes[None, :]
    return np.asarray(((p - known) ** 2).sum(axis=1) + ~known.any(axis=1))


# -- scores that are not -------------------------------------------------------------------------------------------------------


def _auc(y: NDArray[Any], p: NDArray[Any], counts: FloatArray) -> FloatArray:
    """Area under the ROC curve of the second class, ties counting half, in every resample at once."""
    classes = np.unique(y)
    if classes.size != 2:
        raise InputError(f"roc_auc needs two classes in every region; one has {classes.size}: {', '.join(map(str, classes[:3]))}")
    score = p[:, -1] if p.ndim == 2 else p
    order = np.argsort(score, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])
    positive = y[order] == classes[1]
    plus = np.add.reduceat(counts[:, order] * positive, first, axis=1)
    minus = np.add.reduceat(counts[:, order] * ~positive, first, axis=1)
    below = np.cumsum(minus, axis=1) - minus
    pairs = plus.sum(axis=1) * minus.sum(axis=1)
    return np.asarray(((below + 0.5 * minus) * plus).sum(axis=1) / np.where(pairs > 0, pairs, np.nan))


def _balanced(y: NDArray[Any], p: NDArray[Any], counts: FloatArray) -> FloatArray:
    _as_classes(y, p)
    hit, recalls = y == p, []
    for c in np.unique(y):
        of = y == c
        total = counts[:, of].sum(axis=1)
        recalls.append(counts[:, of & hit].sum(axis=1) / np.where(total > 0, total, np.nan))
    table = np.stack(recalls)
    there = np.isfinite(table)
    return np.asarray(np.where(there, table, 0.0).sum(axis=0) / there.sum(axis=0))


def _median(y: NDArray[Any], p: NDArray[Any], counts: FloatArray) -> FloatArray:
    """Median absolute error: the smallest error that at least half of the resample does not exceed."""
    error = np.abs(y - p)
    order = np.argsort(error, kind="stable")
    share = np.cumsum(counts[:, order], axis=1)
    return np.asarray(error[order][np.argmax(share >= 0.5 * share[:, -1:], axis=1)], dtype=np.float64)


SCORES = {
    s.name: s
    for s in (
        Score("neg_mean_absolute_error", "MAE", True, rows=_absolute),
        Score("neg_mean_squared_error", "MSE", True, rows=_square),
        Score("neg_root_mean_squared_error", "RMSE", True, rows=_square, finish=np.sqrt),
        Score("neg_median_absolute_error", "median absolute error", True, whole=_median),
        Score("r2", "R2", False, rows=_explained),
        Score("accuracy", "accuracy", False, rows=_hit),
        Score("balanced_accuracy", "balanced accuracy", False, whole=_balanced),
        Score("neg_log_loss", "log loss", True, "proba", rows=_log_loss),
        Score("neg_brier_score", "Brier score", True, "proba", rows=_brier),
        Score("roc_auc", "AUC", False, "proba", whole=_auc),
    )
}
_NUMERIC = {n for n in SCORES if n.endswith("_error")} | {"r2"}
_SAME = {  # functions of scikit-learn's that are scores of ours; its Brier score of two classes is half of ours
    "mean_absolute_error": "neg_mean_absolute_error",
    "mean_squared_error": "neg_mean_squared_error",
    "root_mean_squared_error": "neg_root_mean_squared_error",
    "median_absolute_error": "neg_median_absolute_error",
    "r2_score": "r2",
    "accuracy_score": "accuracy",
    "balanced_accuracy_score": "balanced_accuracy",
    "log_loss": "neg_log_loss",
    "roc_auc_score": "roc_auc",
}
_ALIASES = {
    "mae": "neg_mean_absolute_error",
    "mse": "neg_mean_squared_error",
    "rmse": "neg_root_mean_squared_error",
    "median": "neg_median_absolute_error",
    "log_loss": "neg_log_loss",
    "brier": "neg_brier_score",
    "auc": "roc_auc",
}
