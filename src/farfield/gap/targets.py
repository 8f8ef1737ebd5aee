"""Targets as they come: numbers, classes, words; what a score cannot be taken of is refused with what to do instead."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.errors import InputError
from farfield.gap.scores import Score
from farfield.splits.rows import labels

_HELD = {
    "U": ("words", "use accuracy, log_loss or auc"),
    "c": ("complex numbers", "measure the real and the imaginary part each by itself"),
    "M": ("dates", "make them numbers first, such as days since the first"),
    "m": ("spans of time", "make them numbers first, such as seconds"),
}


def target_of(y: ArrayLike, n: int, score: Score) -> NDArray[Any]:
    """(n,) targets: finite float64 for a score of numbers, labels otherwise; InputError that says what `y` holds instead."""
    try:
        target = np.asarray(y)
    except ValueError:
        raise InputError(f"y is ragged: its rows have different lengths; allowed: ({n},), one target a row of X") from None
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if target.shape != (n,):
        raise InputError(f"y has shape {target.shape}; allowed: ({n},), one target a row of X")
    if target.dtype.kind == "O":
        target = _of_one_kind(target)
    if score.numeric:
        if target.dtype.kind not in "biuf":
            held, instead = _HELD.get(target.dtype.kind, _HELD["U"])
            one = next((str(v) for v in target.tolist() if not _missing(v)), "")
            raise InputError(f"y holds {held}, such as {one!r}, and {score.label} needs numbers; {instead}")
        return checks.finite("y", target)
    labels("y", target, n)
    return target


def _of_one_kind(target: NDArray[Any]) -> NDArray[Any]:
    """Objects as an array of bools or numbers where they are all such, NaN where none is; words stay as they are."""
    values = [v.item() if isinstance(v, np.generic) else v for v in target.tolist()]
    there = [v for v in values if not _missing(v)]
    plain = [isinstance(v, numbers.Real) for v in there]
    if any(plain) and not all(plain):
        word, number = (there[plain.index(which)] for which in (False, True))
        raise InputError(f"y mixes words and numbers, such as {str(word)!r} and {number}; make every row one or the other")
    if there and not any(plain):
        return target
    if len(there) == len(values) and all(isinstance(v, bool) for v in there):
        return np.array(values, dtype=np.bool_)
    whole = len(there) == len(values) and all(isinstance(v, int) and abs(v) < 2**62 for v in there)
    return np.array([np.nan if _missing(v) else v for v in values], dtype=np.int64 if whole else np.float64)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)
