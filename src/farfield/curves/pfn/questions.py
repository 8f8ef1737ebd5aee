"""What a set of runs has to say about a question: where will run i, seen up to c, be at x?

Every run whose values are known at some position beyond some cut has *answered* a question already. Asked the same reach x / c, as
late as its data permit but not beyond x, it yields a token: what the first network predicted there, and what came. A run that is
finished answers the very question (cut c, position x). A run that is no farther than c, and run i itself, answer the one before
(c^2 / x, c). So other runs that ended, that are half-way and that are just as far are all evidence, in one form.

Answers are told as *normal scores*: Phi^-1 F(z), with F what the first network predicted; 0 is its median, and where it knows all,
scores of all runs are independent standard normal. To a token belong, for each asked run, *pair* features (how alike the two runs
are: level, course, settings) and three guesses at its score: the other run's score, the score of the level that the other run came
to, and that of the asked run's last value plus the other run's change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from farfield.curves.normalize import Normaliser
from farfield.curves.pfn.architecture import FloatArray, IntArray, asked_inputs
from farfield.curves.pfn.context_answers import Answers
from farfield.curves.pfn.engine import Engine
from farfield.curves.priors.sweeps import MOST_SETTINGS
from farfield.curves.rescored import normal_scores

BoolArray = NDArray[np.bool_]
GUESSES = 3
_CHUNK = 64
_SLACK = 1 + 1e-9  # positions that differ by rounding alone are the same
_LEAST_DEVIATION = 1e-5
_FARTHEST = 5.0  # scores beyond which a guess is not told apart


@dataclass(frozen=True, eq=False)
class Runs:
    """T sets of n runs of up to m points.

    x, y : (T, n, m), beyond a run's end its last values; y in the units of the metric
    z : (T, n, m) y, each run by its own normaliser
    count : (T, n) points
    normaliser : the T * n maps
    settings : (T, n, MOST_SETTINGS) standardised within a set, 0 where there is none
    horizon : (T, n) planned last step, NaN where unknown
    number : (T, n) what `Answers` call them, where the first network's answers are kept
    """

    x: FloatArray
    y: FloatArray
    z: FloatArray
    count: IntArray
    normaliser: Normaliser
    settings: FloatArray
    horizon: FloatArray
    number: IntArray | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """B = T * Q questions put to p runs each, with k tokens.

    tokens : (B, k, token_inputs); targets : (B, p, target_inputs); pairs : (B, p, k, PAIR_INPUTS)
    shown : (B, p, k) which tokens a target may use; guesses : (B, p, k, GUESSES) normal scores
    weight, loc, scale : (B, p, components) what the first network predicts of the targets
    truth : (B, p) what came, by the data that tokens are made from; NaN where they do not reach
    """

    tokens: FloatArray
    targets: FloatArray
    pairs: FloatArray
    shown: BoolArray
    guesses: FloatArray
    weight: FloatArray
    loc: FloatArray
    scale: FloatArray
    truth: FloatArray


PAIR_INPUTS = 9


def target_inputs(engine_inputs: int, components: int) -> int:
    """Numbers a target is made from."""
    return engine_inputs + 4 + 3 * components + MOST_SETTINGS + 1


def token_inputs(engine_inputs: int, components: int) -> int:
    """Numbers a token is made from."""
    return engine_inputs + 4 + 3 * components + MOST_SETTINGS + 6


@dataclass(frozen=True, eq=False)
class Places:
    """Where each run is asked: its answer nearest below x, that nearest below c, and the question itself.

    ahead : (T, n, Q) points up to c
    answers, cuts : (T, n, Q) twice, the point that is the answer and the points before its question
    valid : (T, n, Q) twice, whether there is one
    cut, at : (T, n, 3 Q) points seen and position of all three; horizon : (T, n) planned last step, NaN where it says nothing
    """

    ahead: IntArray
    answers: tuple[IntArray, IntArray]
    cuts: tuple[IntArray, IntArray]
    valid: tuple[BoolArray, BoolArray]
    cut: IntArray
    at: FloatArray
    horizon: FloatArray


def places(runs: Runs, seen: IntArray, c: FloatArray, x: FloatArray) -> Places:
    """Where runs are asked; arguments as of :func:`ask`."""
    t, n, _ = runs.x.shape
    # (T, n, Q): the point of each run that is the answer, and the point before which the question was asked
    ahead = _points(runs, np.broadcast_to(c[:, None], (t, n, c.shape[1])), runs.count[:, :, None])
    (one, one_cut, some), (two, two_cut, other) = (_answered(runs, limit, c, x, seen) for limit in (x, c))
    cut = np.concatenate([one_cut, two_cut, np.maximum(ahead, 1)], axis=2)
    at = np.concatenate([*(_take(runs.x, a - 1) for a in (one, two)), np.broadcast_to(x[:, None], ahead.shape)], axis=2)
    # a question that cannot be asked is asked somewhere else, and not shown
    at = np.maximum(at, _take(runs.x, cut - 1) * 1.001)
    horizon = np.where(runs.horizon >= at.max(axis=2), runs.horizon, np.nan)
    return Places(ahead, (one, two), (one_cut, two_cut), (some & (one != two), other), cut, at, horizon)


def announce(first: Answers, runs: Runs, asked: Places) -> None:
    """Let `first` know what it will be asked about `runs`, which have numbers."""
    assert runs.number is not None
    k = asked.cut.shape[2]
    first.announce(runs.number.ravel(), asked.cut.reshape(-1, k), asked.at.reshape(-1, k), asked.horizon.ravel())


def ask(
    first: Engine | Answers,
    runs: Runs,
    seen: IntArray,
    c: FloatArray,
    x: FloatArray,
    targets: IntArray,
    visible: BoolArray,
    where: Places | None = None,
) -> Asked:
    """The inputs of the context network.

    first : the network that reads single runs, or its answers where runs have numbers
    seen : (T, n, Q) points of each run that are known when a question is asked
    c, x : (T, Q) the last seen and the asked position of each question
    targets : (p,) which runs are asked; they must be seen up to c at least
    visible : (p, n) which other runs each of them may use; its own beginning it always may
    where : what :func:`places` makes of the same, where it is known
    """
    t, n, _ = runs.x.shape
    q, p = c.shape[1], targets.size
    where = places(runs, seen, c, x) if where is None else where
    answers, cuts, valid, cut = where.answers, where.cuts, where.valid, where.cut
    weight, loc, scale = _base(first, runs, where)
    mean = (weight * loc).sum(axis=-1)
    variance = (weight * (scale**2 + loc**2)).sum(axis=-1) - mean**2
    deviation = np.sqrt(np.maximum(variance, _LEAST_DEVIATION**2))
    last = _take(runs.z, cut - 1)
    state = _described(first, runs, where, weight, loc, scale, mean, deviation, last)

    def by_question(values: FloatArray, part: int) -> FloatArray:
        """(T * Q, n, ...) of what was asked of all runs for a part: answers ahead, answers back, the question itself."""
        moved = np.moveaxis(values[:, :, part * q : (part + 1) * q], 2, 1)
        return moved.reshape(t * q, *moved.shape[2:])

    both = [np.concatenate([by_question(v, 0), by_question(v, 1)], axis=1) for v in (state, weight, loc, scale, mean, deviation)]
    token_state, token_weight, token_loc, token_scale, token_mean, token_deviation = both
    truth = np.concatenate([by_question(_take(runs.z, a - 1), 0) for a in answers], axis=1)
    before = np.concatenate([by_question(last, 0), by_question(last, 1)], axis=1)
    score = normal_scores(truth, token_weight, token_loc, token_scale)
    own = slice(2 * q, 3 * q)
    target_deviation, target_last = (by_question(v, 2)[:, targets] for v in (deviation, last))
    settings = np.repeat(runs.settings, q, axis=0)
    shift = np.concatenate([by_question(np.log(_take(runs.x, a - 1) / x[:, None]), 0) for a in answers], axis=1).clip(-4.0, 0.0)
    ahead_flag = np.repeat([1.0, 0.0], n)[None, :, None] + np.zeros((t * q, 1, 1))
    error = np.arcsinh((truth - token_mean) / token_deviation)
    sharp = _sharpness(truth, token_weight, token_loc, token_scale, token_deviation)
    tokens = np.concatenate(
        [
            token_state,
            np.stack([error, np.arcsinh(score), sharp, np.arcsinh((truth - before) * 50) / 2], axis=-1),
            shift[:, :, None],
            ahead_flag,
            np.concatenate([settings, settings], axis=1),
        ],
        axis=-1,
    )
    every = np.concatenate([np.concatenate([by_question(v.astype(np.float64), 0) for v in valid], axis=1)[:, None] > 0] * p, axis=1)
    mine = targets[:, None] == np.arange(n)
    shown = every & np.concatenate([visible & ~mine, visible | mine], axis=1)
    evidence = np.log1p(shown.sum(axis=2))
    asked = np.concatenate([by_question(state, 2)[:, targets], settings[:, targets], evidence[:, :, None] / 2], axis=-1)
    near = _levels(runs, targets, answers, cuts, q)
    rms, common = _likeness(runs, targets, seen, where.ahead)
    pairs = _pairs(near, rms, common, settings, targets, mine, shift, target_deviation, target_last, token_deviation)
    mixture = [np.moveaxis(v[:, targets, own], 2, 1).reshape(t * q, p, -1) for v in (weight, loc, scale)]
    level, before_ = near
    reached = [_coarse_scores(z, mixture) for z in (level, target_last[:, :, None] + level - before_)]
    guesses = np.stack([np.broadcast_to(score.clip(-_FARTHEST, _FARTHEST)[:, None], level.shape), *reached], axis=-1)
    came = np.where(every[:, 0, targets], truth[:, targets], np.nan)
    return Asked(tokens, asked, pairs, shown, guesses, mixture[0], mixture[1], mixture[2], came)


# -- positions ----------------------------------------------------------------------------------------------------------------


def _take(values: FloatArray, index: IntArray) -> FloatArray:
    """(T, n, Q) values (T, n, m) at points `index`, those below 0 read as 0."""
    return np.take_along_axis(values, np.maximum(index, 0), axis=2)


def _points(runs: Runs, limit: FloatArray, most: IntArray) -> IntArray:
    """(T, n, Q) how many points lie up to `limit`, at most `most`."""
    return np.asarray(np.minimum((runs.x[:, :, None, :] <= limit[..., None] * _SLACK).sum(axis=3), most))


def _answered(runs: Runs, limit: FloatArray, c: FloatArray, x: FloatArray, seen: IntArray) -> tuple[IntArray, IntArray, BoolArray]:
    """The answer nearest below `limit` (T, Q) that is known: its point, the points before its question, whether there is one."""
    answer = _points(runs, np.broadcast_to(limit[:, None], seen.shape), seen)
    cut = _points(runs, _take(runs.x, answer - 1) * (c / x)[:, None], seen)
    return answer, np.maximum(cut, 1), (cut >= 1) & (cut < answer)


# -- the first network --------------------------------------------------------------------------------------------------------


def _base(first: Engine | Answers, runs: Runs, where: Places) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(T, n, questions, components): weights, locations and scales."""
    t, n, m = runs.x.shape
    cut, at, horizon = where.cut.reshape(t * n, -1), where.at.reshape(t * n, -1), where.horizon.ravel()
    if isinstance(first, Answers):
        assert runs.number is not None
        found = first(runs.number.ravel(), cut, at, horizon)
        return tuple(v.reshape(*where.at.shape, -1) for v in found)  # type: ignore[return-value]
    x, z = runs.x.reshape(-1, m), runs.z.reshape(-1, m)
    parts = []
    for start in range(0, t * n, _CHUNK):
        rows = slice(start, start + _CHUNK)
        most = int(cut[rows].max())
        parts.append(first(x[rows, :most], z[rows, :most], cut[rows], at[rows], horizon[rows]))
    return tuple(np.concatenate(v).reshape(*where.at.shape, -1) for v in zip(*parts, strict=True))  # type: ignore[return-value]


def _described(
    first: Engine | Answers, runs: Runs, where: Places, weight: FloatArray, loc: FloatArray, scale: FloatArray,
    mean: FloatArray, deviation: FloatArray, last: FloatArray,
) -> FloatArray:  # fmt: skip
    """(T, n, questions, state): the question and the mixture with which the first network answered it."""
    t, n, m = runs.x.shape
    cut, at = where.cut.reshape(t * n, -1), where.at.reshape(t * n, -1)
    question = asked_inputs(runs.x.reshape(-1, m), cut, at, where.horizon.ravel(), first.arch).reshape(*where.at.shape, -1)
    plain = [
        (np.log(deviation) + 4) / 2,
        (last - 0.5) * 3.46,
        np.arcsinh((mean - last) * 50) / 2,
        np.arcsinh((mean - last) / deviation),
    ]
    off = np.clip((loc - mean[..., None]) / deviation[..., None], -5, 5) / 2
    narrow = np.log(scale / deviation[..., None]).clip(-6, 3) / 2
    return np.concatenate([question, np.stack(plain, axis=-1), weight, off, narrow], axis=-1)


def _coarse_scores(values: FloatArray, mixture: list[FloatArray]) -> FloatArray:
    """Normal scores of values (B, p, k) under mixtures (B, p, components), within `_FARTHEST`."""
    weight, loc, scale = (v[:, :, None] for v in mixture)
    below = (weight * special.ndtr((values[..., None] - loc) / scale)).sum(axis=-1)
    edge = special.ndtr(-_FARTHEST)
    return np.asarray(special.ndtri(below.clip(edge, 1 - edge)))


def _sharpness(truth: FloatArray, weight: FloatArray, loc: FloatArray, scale: FloatArray, deviation: FloatArray) -> FloatArray:
    """Log density of the truth under a mixture, in units of the deviation."""
    z = (truth[..., None] - loc) / scale
    density = special.logsumexp(-0.5 * z**2 - np.log(scale / deviation[..., None]), b=weight, axis=-1)
    return np.asarray(density.clip(-8, 8) / 3)


# -- pairs --------------------------------------------------------------------------------------------------------------------


def _levels(
    runs: Runs, targets: IntArray, answers: tuple[IntArray, ...], cuts: tuple[IntArray, ...], q: int
) -> tuple[FloatArray, FloatArray]:
    """(B, p, 2 n) values of every run at its answer, and before its question, by the normaliser of the asked run."""
    t, n, _ = runs.x.shape
    p = targets.size
    rows = (np.arange(t)[:, None] * n + targets).ravel()
    maps = runs.normaliser[rows]
    out = []
    for points in (answers, cuts):
        y = np.concatenate([_take(runs.y, index - 1) for index in points], axis=1)  # (T, 2 n, Q)
        z = maps.forward(np.repeat(y.reshape(t, 1, -1), p, axis=1).reshape(t * p, -1))
        out.append(np.moveaxis(z.reshape(t, p, 2 * n, q), 3, 1).reshape(t * q, p, 2 * n).clip(-0.5, 1.5))
    return out[0], out[1]


def _likeness(runs: Runs, targets: IntArray, seen: IntArray, ahead: IntArray) -> tuple[FloatArray, BoolArray]:
    """(B, p, n): root mean square difference of two runs over what is seen of both up to c, and whether there is any."""
    t, n, _ = runs.x.shape
    q, p = seen.shape[2], targets.size
    end = np.minimum(ahead, runs.count[:, :, None])[:, targets]
    m = max(int(end.max()), 1)
    square, reached = np.empty((t, p, n, m)), np.empty((t, p, n, q), dtype=np.int64)
    for k in range(t):
        asked, grid = np.unique(runs.x[k, targets, :m], axis=0, return_inverse=True)
        grid = grid.ravel()
        last = np.take_along_axis(runs.x[k], np.maximum(seen[k] - 1, 0), axis=1)
        values = np.empty((p, n, m))
        # runs that were logged at the same steps are alike here
        theirs, code = np.unique(np.column_stack([runs.x[k], runs.count[k]]), axis=0, return_inverse=True)
        for j, x in enumerate(theirs):
            alike = np.flatnonzero(code.ravel() == j)
            # the other run's last value up to each step of the asked one
            index = (np.searchsorted(x[: int(x[-1])], asked * _SLACK, side="right") - 1)[grid]
            found = runs.y[k, alike[None, :, None], np.maximum(index, 0)[:, None]]
            values[:, alike] = np.where(index[:, None] >= 0, found, np.nan)
        for j in range(len(asked)):
            some = np.flatnonzero(grid == j)
            reached[k, some] = np.searchsorted(asked[j], last * _SLACK, side="right")
        z = runs.normaliser[k * n + targets].forward(values.reshape(p, n * m)).reshape(p, n, m)
        square[k] = np.square(z.clip(-0.5, 1.5) - runs.z[k, targets, :m][:, None])
    there = np.isfinite(square)
    end = np.minimum(reached, end[:, :, None])
    if q == 1:
        there &= np.arange(m) < end
        total, count = np.where(there, square, 0.0).sum(axis=3, keepdims=True), there.sum(axis=3, keepdims=True)
    else:
        index = np.maximum(end - 1, 0)
        total = np.take_along_axis(np.cumsum(np.where(there, square, 0.0), axis=3), index, axis=3)
        count = np.where(end > 0, np.take_along_axis(np.cumsum(there, axis=3), index, axis=3), 0)
    rms = np.sqrt(total / np.maximum(count, 1))
    common = count > 0
    return tuple(np.moveaxis(v, 3, 1).reshape(t * q, p, n) for v in (np.where(common, rms, 1.0), common))  # type: ignore[return-value]


def _pairs(
    near: tuple[FloatArray, FloatArray],
    rms: FloatArray,
    common: BoolArray,
    settings: FloatArray,
    targets: IntArray,
    mine: BoolArray,
    shift: FloatArray,
    deviation: FloatArray,
    last: FloatArray,
    token_deviation: FloatArray,
) -> FloatArray:
    """Pair features (B, p, k, PAIR_INPUTS)."""
    level, before = near
    b, p, k = level.shape
    away = before - last[:, :, None]
    unit = deviation[:, :, None]
    used = (settings != 0).any(axis=1)
    gap = (
        np.square(settings[:, targets][:, :, None] - settings[:, None]).sum(axis=3) / np.maximum(used.sum(axis=1), 1)[:, None, None]
    )
    rms = np.concatenate([rms, rms], axis=2)
    return np.stack(
        [
            np.arcsinh(away / unit) / 2,
            np.arcsinh(away * 50) / 2,
            np.log(token_deviation[:, None] / unit).clip(-4, 4) / 2,
            np.concatenate([np.sqrt(gap), np.sqrt(gap)], axis=2),
            np.broadcast_to(used.any(axis=1)[:, None, None], (b, p, k)),
            np.broadcast_to(np.concatenate([mine, mine], axis=1), (b, p, k)),
            np.arcsinh(rms / unit) / 2,
            (np.log(rms + 1e-4) + 4) / 2,
            np.broadcast_to(shift[:, None], (b, p, k)) * np.concatenate([common, common], axis=2),
        ],
        axis=-1,
    )
