"""Extrapolation near zero: how far the model's answers lie from the reference's says how its value scatters.

Where not having seen such rows costs little, the model's answers f and the reference's r lie close together, and the cost
Q = loss(f) - loss(r) is no sum of many small independent parts any more: along the way from r to f a smooth loss is a parabola, so
that with D = four times what the average of the two answers gains over their losses' mean (for squares D = mean (f - r)^2)

    Q = D (1 - 2 t),     t: where on the way (0: at r, 1: at f) the loss is least.

* Q + D and the variance of Q grow with the square of the distance: Q above by chance scatters more, Q below by chance less. An
  interval made with the scatter found is too short exactly when Q is too low. (With the rows fixed, the variance of the loss
  difference is about 4 sigma^2 D / n; what other training rows change is of the same order.) On the scale of the root of Q + D the
  scatter is the same everywhere, so the interval is made even on it: Q +- w becomes Q +- w + w^2 / (4 (Q + D)) (`leant`).
* In a single repeat, two rows beyond of different folds meet twice: i is scored by a model that trained on j, and j by one that
  trained on i. For least squares both terms are 2 e_i l_ij e_j, so their sum has twice the variance of two independent ones, and
  the rows' losses tell of the one half only. This doubles what the differences f - r that are chance of training rows make of the
  variance. Such differences give D and no Q, others give a Q of D or more where r is the better: at most 1 - Q / D is chance
  (`by_chance`). Over repeats the variance is found from the fits instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield.gap.scores import Score, Seen
from farfield.splits.rows import FloatArray


class Pair(NamedTuple):
    """Targets, answers and losses of the model and of a reference on the same rows of one split."""

    split: int
    y: NDArray[Any]
    answers: tuple[NDArray[Any], NDArray[Any]]
    losses: tuple[FloatArray, FloatArray]
    seen: tuple[Seen, Seen]


def apart(pairs: Iterable[Pair], score: Score) -> float:
    """How far model and reference lie apart, in units of the mean loss, the mean over splits.

    0 where that is not known: no reference, answers that cannot be averaged (classes), probabilities of other classes.
    """
    if score.rows is None or not score.averages:
        return 0.0
    gains: dict[int, list[FloatArray]] = {}
    for split, y, (a, b), losses, (seen, other) in pairs:
        if a.shape != b.shape or not np.array_equal(seen.classes, other.classes):
            return 0.0
        gain = (losses[0] + losses[1]) / 2 - score.rows(y, (a + b) / 2, other)
        gains.setdefault(split, []).append(gain if score.lower_is_better else -gain)
    if not gains:
        return 0.0
    return max(4.0 * float(np.mean([np.concatenate(g).mean() for g in gains.values()])), 0.0)


def leant(value: float, low: float, high: float, far: float) -> tuple[float, float]:
    """The interval of an extrapolation moved up: as wide as before, and even on the scale of the root of value + `far`."""
    half = (high - low) / 2
    least = far + max(value, 0.0)
    lean = min(half**2 / (4 * least), half / 2) if least > 0 else 0.0  # at half / 2 its lower end is at the root of zero
    return min(low + lean, value), high + lean


def by_chance(value: float, far: float) -> float:
    """The greatest share of the distance that can be chance of the reference's training rows."""
    return min(max(1.0 - value / far, 0.0), 1.0) if far > 0 else 0.0
