"""Measure the gap: fit once a region, score inside and beyond, refit the matched reference, and say how sure the figures are.

Intervals. Means over rows get bootstrap-t intervals (Efron & Tibshirani 1993, section 12.5), since losses are skewed; other scores
percentile ones. The unit of resampling is the row, or the group where rows depend on each other. One resample draws units with
replacement from all of them, so that reference and beyond, which share rows, are compared on the same ones. Over repeats, which
share training rows, what the training rows add to the variance is added by a delete-d jackknife, and the corrected resampled t
interval (Nadeau & Bengio 2003) is reported where it is wider: the intervals are about the learner at this training size. From a
single repeat nothing is known of that, and they are about the fitted models.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from farfield import checks
from farfield.errors import InputError
from farfield.gap.result import Estimate, GapResult
from farfield.gap.scores import Score, Seen, get_score
from farfield.intervals import corrected_resampled_t, resample_counts
from farfield.seeds import Seed, generator
from farfield.splits import RegionIndices, RegionSplitter
from farfield.splits.rows import FloatArray, IntArray, labels, n_rows, take_rows

INSIDE, REFERENCE, BEYOND = 0, 1, 2
FEW_ROWS, FEW_GROUPS = 30, 5


class _Scored(NamedTuple):
    """Answers on some rows, of one part of one split."""

    part: int
    split: int
    rows: IntArray
    answers: NDArray[Any]
    values: FloatArray | None
    reach: FloatArray


def extrapolation_gap(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    *,
    split: RegionSplitter,
    scoring: str | Score | Callable[[Any, Any], float] = "neg_mean_absolute_error",
    groups: ArrayLike | None = None,
    unit: ArrayLike | None = None,
    reference: Literal["matched"] | None = "matched",
    level: float = 0.95,
    n_boot: int = 2000,
    name: str | None = None,
    rng: Seed = 0,
    **row_data: Any,
) -> GapResult:
    """How much worse a model is beyond what it saw, and how much of that is harder data.

    Parameters
    ----------
    estimator : anything with ``fit(X, y)`` and ``predict(X)``; it is copied, never changed. One without ``fit`` is used as it is:
        it must not have seen the rows inside, and there is no reference
    X, y : samples (array, data frame, list) and targets (n,)
    split : a splitter of :mod:`farfield.splits`; its `random_state` decides the parts
    scoring : a name (scikit-learn's, or mae, rmse, auc, ...), a :class:`Score`, or a function (y, answers), higher better
    groups : (n,) handed to the splitter; also the unit of resampling, unless they are the splitter's environments
    unit : (n,) unit of resampling: rows of one patient, sequence or query, which depend on each other
    reference : ``matched`` refits on as many rows, some of them beyond; None gives the raw gap alone
    level, n_boot, rng : of the intervals

    Raises
    ------
    InputError : a region that is empty, or of one class where the score needs two; a model that fails to fit or to predict, or
        predicts NaN; lengths that differ
    """
    checks.level("level", level)
    checks.count("n_boot", n_boot, least=100)
    if reference is not None:
        checks.choice("reference", reference, ("matched",))
    score = get_score(scoring)
    n = n_rows(X)
    target = _target(y, n, score)
    label = name or _name(estimator)
    fitted = not hasattr(estimator, "fit")
    notes: list[str] = []
    if fitted and reference is not None:
        reference = None
        notes.append("the model has no fit, so there is no reference: the gap mixes difficulty and extrapolation")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        regions = list(split.regions(X, target, groups, **row_data))
    for w in caught:
        notes.append(str(w.message))
    if reference is not None and not all(r.reference for r in regions):
        reference = None
        notes.append("a region beyond is a single group or row, so that no reference can be fitted without what it scores")
    scored: list[_Scored] = []
    for j, region in enumerate(regions):
        _check_classes(target, region, score)
        scored += _run(estimator, X, target, region, j, score, reference is not None, label)
    codes, unit_name = _units(unit, groups, n, split)
    per_split = _per_split(scored, regions, target, score)
    if score.rows is not None:
        sums, used = _sums(scored, regions, codes)
        resamples = resampled(sums[used], n_boot, generator(rng))
        draws = resamples.ratios if score.finish is None else score.finish(resamples.ratios)
    else:
        resamples = None
        draws = _whole_draws(scored, regions, target, codes, n_boot, generator(rng), score)
    sure = _Intervals(scored, codes, per_split, draws, resamples, score, level, unit_name, notes)
    has = reference is not None
    parts = [sure.of(lambda v: v[INSIDE], (INSIDE,)), None, sure.of(lambda v: v[BEYOND], (BEYOND,))]
    sign = 1.0 if score.lower_is_better else -1.0
    difficulty = extrapolation = None
    if has:
        parts[REFERENCE] = sure.of(lambda v: v[REFERENCE], (REFERENCE,))
        difficulty = sure.of(lambda v: sign * (v[REFERENCE] - v[INSIDE]), (INSIDE, REFERENCE))
        extrapolation = sure.of(lambda v: sign * (v[BEYOND] - v[REFERENCE]), (REFERENCE, BEYOND))
    gap = sure.of(lambda v: sign * (v[BEYOND] - v[INSIDE]), (INSIDE, BEYOND))
    if difficulty is not None and extrapolation is not None:
        gap = gap._replace(value=difficulty.value + extrapolation.value)
    if score.finish is not None:
        for part in ("inside", "reference", "beyond"):
            per_split[part] = score.finish(per_split[part])
    inside, beyond = parts[INSIDE], parts[BEYOND]
    assert inside is not None
    assert beyond is not None
    for note in dict.fromkeys(notes):
        warnings.warn(note, stacklevel=2)
    return GapResult(
        model=label, scoring=score, inside=inside, beyond=beyond, reference=parts[REFERENCE], gap=gap, difficulty=difficulty,
        extrapolation=extrapolation, level=level, unit=unit_name, split=repr(split),
        regions=tuple(dict.fromkeys(r.tag for r in regions)),
        selection=_selection(estimator), seed=rng if isinstance(rng, int) else None, warnings=tuple(dict.fromkeys(notes)),
        per_split=per_split, per_row=_per_row(scored) if score.rows is not None else None, draws=draws,
    )  # fmt: skip


# -- models --------------------------------------------------------------------------------------------------------------------


def _run(
    estimator: Any, X: Any, y: NDArray[Any], region: RegionIndices, j: int, score: Score, reference: bool, label: str
) -> list[_Scored]:
    where = f"{label!r}, region {region.tag}"
    both = np.concatenate([region.inside, region.beyond])
    model, seen = _fit(estimator, X, y, region.train, score, where)
    answers = _answer(model, X, both, score, where)
    cut = region.inside.size
    values = None if score.rows is None else score.rows(y[both], answers, seen)
    ones = np.ones(cut)
    out = [
        _Scored(INSIDE, j, region.inside, answers[:cut], None if values is None else values[:cut], ones),
        _Scored(BEYOND, j, region.beyond, answers[cut:], None if values is None else values[cut:], region.reach),
    ]
    if not reference:
        return out
    place = {int(row): i for i, row in enumerate(region.beyond)}
    pieces = []
    for fit, rows in region.reference:
        # R2 keeps the denominator of what was seen, so the reference is scored as the model is
        model, other = _fit(estimator, X, y, fit, score, f"{where}, reference")
        got = _answer(model, X, rows, score, f"{where}, reference")
        scale = other if score.needs == "proba" else seen
        reach = region.reach[[place[int(r)] for r in rows]]
        pieces.append(_Scored(REFERENCE, j, rows, got, None if score.rows is None else score.rows(y[rows], got, scale), reach))
    return out + pieces


def _fit(estimator: Any, X: Any, y: NDArray[Any], rows: IntArray, score: Score, where: str) -> tuple[Any, Seen]:
    target = y[rows]
    if hasattr(estimator, "fit"):
        model = _copied(estimator)
        try:
            fitted = model.fit(take_rows(X, rows), target)
        except Exception as error:
            raise InputError(f"model {where}: fit failed with {type(error).__name__}: {_first_line(error)}") from error
        model = model if fitted is None else fitted
    else:
        model = estimator
    classes = np.asarray(getattr(model, "classes_", np.unique(target))) if score.needs == "proba" else np.empty(0)
    if score.numeric:
        return model, Seen(float(target.mean()), float(target.var()), classes)
    return model, Seen(np.nan, np.nan, classes)


def _answer(model: Any, X: Any, rows: IntArray, score: Score, where: str) -> NDArray[Any]:
    call = getattr(model, "predict_proba" if score.needs == "proba" else "predict", None)
    if call is None:
        raise InputError(
            f"model {where} has no {'predict_proba' if score.needs == 'proba' else 'predict'}, which {score.name} needs"
        )
    try:
        answers = np.asarray(call(take_rows(X, rows)))
    except Exception as error:
        raise InputError(f"model {where}: predict failed with {type(error).__name__}: {_first_line(error)}") from error
    if answers.ndim == 2 and answers.shape[1] == 1:
        answers = answers[:, 0]
    if answers.shape[:1] != (rows.size,):
        raise InputError(f"model {where} gave answers of shape {answers.shape} for {rows.size} rows")
    if answers.dtype.kind in "fc":
        bad = ~np.isfinite(answers)
        if bad.any():
            raise InputError(f"model {where} predicted {int(bad.sum())} values that are NaN or infinite, of {answers.size}")
    elif score.numeric and answers.dtype.kind not in "biu":
        raise InputError(f"model {where} predicted {answers.dtype} values; {score.name} needs numbers")
    return answers


def _copied(estimator: Any) -> Any:
    if hasattr(estimator, "get_params") and "sklearn" in sys.modules:
        from sklearn.base import clone

        return clone(estimator, safe=False)
    return copy.deepcopy(estimator)


def _name(estimator: Any) -> str:
    steps = getattr(estimator, "steps", None)
    return type(steps[-1][1] if steps else estimator).__name__


def _selection(estimator: Any) -> str:
    if hasattr(estimator, "cv") and hasattr(estimator, "refit"):
        return "inside: the model's own search, on training rows alone"
    return "none"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["(no message)"])[0]


# -- data ----------------------------------------------------------------------------------------------------------------------


def _target(y: ArrayLike, n: int, score: Score) -> NDArray[Any]:
    target = np.asarray(y)
    if score.numeric:
        target = checks.finite("y", target)
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if target.shape != (n,):
        raise InputError(f"y has shape {target.shape}; allowed: ({n},), one target a row of X")
    if not score.numeric:
        labels("y", target, n)
    return target


def _check_classes(y: NDArray[Any], region: RegionIndices, score: Score) -> None:
    if score.numeric:
        return
    for part, rows in (("train", region.train), ("inside", region.inside), ("beyond", region.beyond)):
        if np.unique(y[rows]).size < 2 and (part == "train" or score.rows is None):
            raise InputError(f"the {part} rows of the region {region.tag} are all of one class, {y[rows[0]]}")


def _units(unit: ArrayLike | None, groups: ArrayLike | None, n: int, split: RegionSplitter) -> tuple[IntArray, str]:
    if unit is not None:
        return labels("unit", unit, n)[1], "group"
    if groups is not None and not split.needs_groups and "actions" not in split.row_data:
        return labels("groups", groups, n)[1], "group"
    return np.arange(n), "row"


def _per_row(scored: list[_Scored]) -> NDArray[Any]:
    sizes = [s.rows.size for s in scored]
    kinds = [("row", np.int64), ("split", np.int32), ("part", np.int8), ("reach", np.float64), ("loss", np.float64)]
    out = np.empty(sum(sizes), dtype=kinds)
    out["row"] = np.concatenate([s.rows for s in scored])
    out["split"] = np.repeat([s.split for s in scored], sizes)
    out["part"] = np.repeat([s.part for s in scored], sizes)
    out["reach"] = np.concatenate([s.reach for s in scored])
    out["loss"] = np.concatenate([s.values for s in scored if s.values is not None])
    return out


# -- figures and how sure they are ---------------------------------------------------------------------------------------------


def _score_of(y: NDArray[Any], pieces: list[_Scored], score: Score) -> float:
    if not pieces:
        return float("nan")
    if score.rows is not None:
        mean = np.concatenate([p.values for p in pieces if p.values is not None]).mean()
        return float(mean)  # `finish` comes after the mean over splits
    assert score.whole is not None
    rows, answers = np.concatenate([p.rows for p in pieces]), np.concatenate([p.answers for p in pieces])
    return float(score.whole(y[rows], answers, np.ones((1, rows.size)))[0])


def _per_split(scored: list[_Scored], regions: list[RegionIndices], y: NDArray[Any], score: Score) -> NDArray[Any]:
    kinds: list[tuple[str, Any]] = [("region", "U64"), ("repeat", np.int32)]
    kinds += [(k, np.int64) for k in ("n_train", "n_inside", "n_beyond")] + [
        (k, np.float64) for k in ("inside", "reference", "beyond")
    ]
    out = np.empty(len(regions), dtype=kinds)
    times: dict[str, int] = {}
    by_split: list[list[list[_Scored]]] = [[[], [], []] for _ in regions]
    for s in scored:
        by_split[s.split][s.part].append(s)
    for j, r in enumerate(regions):
        repeat = times[r.tag] = times.get(r.tag, -1) + 1
        found = [_score_of(y, pieces, score) for pieces in by_split[j]]
        out[j] = (r.tag[:64], repeat, r.train.size, r.inside.size, r.beyond.size, *found)
    return out


def _sums(scored: list[_Scored], regions: list[RegionIndices], codes: IntArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """(n_units, 6): for each part the units' shares of the mean of the splits' means, and of one; and which units have any."""
    n_units = int(codes.max()) + 1
    out = np.zeros((n_units, 6))
    sizes = np.array([[r.inside.size, r.beyond.size, r.beyond.size] for r in regions], dtype=np.float64)
    for part in (INSIDE, REFERENCE, BEYOND):
        pieces = [s for s in scored if s.part == part]
        if not pieces:
            continue
        unit = codes[np.concatenate([s.rows for s in pieces])]
        weight = np.concatenate([np.full(s.rows.size, 1.0 / (sizes[s.split, part] * len(regions))) for s in pieces])
        values = np.concatenate([s.values for s in pieces if s.values is not None])
        out[:, part] = np.bincount(unit, weight * values, n_units)
        out[:, 3 + part] = np.bincount(unit, weight, n_units)
    return out, np.asarray((out[:, 3:] > 0).any(axis=1))


def _whole_draws(
    scored: list[_Scored], regions: list[RegionIndices], y: NDArray[Any], codes: IntArray, n_boot: int, rng: np.random.Generator,
    score: Score,
) -> FloatArray:  # fmt: skip
    """(n_boot, 3) the three scores of whole regions in every resample of units; NaN where a part is not there."""
    assert score.whole is not None
    used = np.zeros(int(codes.max()) + 1, dtype=bool)
    for s in scored:
        used[codes[s.rows]] = True
    place = np.cumsum(used) - 1
    out = np.zeros((n_boot, 3))
    start = 0
    pieces = {(j, p): [s for s in scored if s.split == j and s.part == p] for j in range(len(regions)) for p in range(3)}
    for counts in resample_counts(int(used.sum()), n_boot, rng):
        block = slice(start, start + counts.shape[0])
        start += counts.shape[0]
        for (_, part), some in pieces.items():
            if not some:
                out[block, part] = np.nan
                continue
            rows, answers = np.concatenate([s.rows for s in some]), np.concatenate([s.answers for s in some])
            out[block, part] += score.whole(y[rows], answers, counts[:, place[codes[rows]]]) / len(regions)
    return out


class Resamples(NamedTuple):
    """Ratios of sums in every resample, and what their standard errors within each resample need."""

    ratios: FloatArray  # (n_boot, k)
    totals: FloatArray  # (n_boot, k) the denominators
    moments: FloatArray  # (n_boot, 2 k, 2 k) sums of products of the columns
    whole: tuple[FloatArray, FloatArray, FloatArray]  # the same of the data themselves, n_boot = 1


def resampled(sums: FloatArray, n_boot: int, rng: np.random.Generator) -> Resamples:
    """sum(num) / sum(den) over units drawn with replacement; `sums` (n, 2 k) holds the k nums and then the k dens."""
    columns = sums.shape[1]
    k = columns // 2
    first, second = np.triu_indices(columns)
    wide = np.concatenate([sums, sums[:, first] * sums[:, second]], axis=1)

    def parts(total: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        dens = np.where(total[:, k:columns] > 0, total[:, k:columns], np.nan)
        moments = np.empty((total.shape[0], columns, columns))
        moments[:, first, second] = moments[:, second, first] = total[:, columns:]
        return total[:, :k] / dens, dens, moments

    blocks = [counts @ wide for counts in resample_counts(sums.shape[0], n_boot, rng)]
    return Resamples(*parts(np.concatenate(blocks)), parts(wide.sum(axis=0, keepdims=True)))


def linear_error(ratios: FloatArray, totals: FloatArray, moments: FloatArray, weights: FloatArray) -> FloatArray:
    """(b,) standard error of the sum of `weights` (b, k) times the ratios, by the delta method, units being independent."""
    over = np.where(weights == 0, 0.0, weights / totals)
    v = np.concatenate([over, np.where(weights == 0, 0.0, -over * ratios)], axis=1)
    return np.asarray(np.sqrt(np.maximum(np.einsum("bi,bij,bj->b", v, moments, v), 0.0)))


class _Intervals:
    """The estimate of any combination of the three scores, with the wider of its intervals."""

    def __init__(
        self, scored: list[_Scored], codes: IntArray, per_split: NDArray[Any], draws: FloatArray, resamples: Resamples | None,
        score: Score, level: float, unit: str, notes: list[str],
    ) -> None:  # fmt: skip
        self.draws, self.resamples, self.level, self.per_split, self.score = draws, resamples, level, per_split, score
        self.n = [0, 0, 0]
        for part in range(3):
            rows = [s.rows for s in scored if s.part == part]
            self.n[part] = int(np.unique(codes[np.concatenate(rows)]).size) if rows else 0
        splits = np.array([per_split[k] for k in ("inside", "reference", "beyond")])
        means = splits.mean(axis=1)
        finish = score.finish or (lambda v: v)
        self.value, self.splits = finish(means), finish(splits)
        few = FEW_GROUPS if unit == "group" else FEW_ROWS
        counted = [c for c in self.n if c]
        self.few = min(counted) < few
        if self.few:
            notes.append(f"only {min(counted)} {unit}s in a part: intervals are wider, by Student's t, and rough")

    def of(self, combine: Callable[[FloatArray], FloatArray], parts: tuple[int, ...]) -> Estimate:
        """The combination of the scores (3, ...), which needs these `parts`."""
        value = float(combine(self.value))
        draws = combine(self.draws.T)
        kept = np.isfinite(draws)
        n = min(self.n[p] for p in parts)
        if kept.sum() < 2:
            return Estimate(value, np.nan, np.nan, n, np.nan)
        error = float(draws[kept].std(ddof=1))
        tails = [(1 - self.level) / 2, (1 + self.level) / 2]
        low, high = (float(q) for q in np.quantile(draws[kept], tails))
        if self.resamples is not None:
            within, own = self._errors(self.resamples, combine(np.eye(3)))
            kept &= within > 1e-9 * own
            if own > 0 and kept.mean() > 0.9:
                upper, lower = (float(q) for q in np.quantile((draws[kept] - value) / within[kept], tails))
                low, high, error = min(value, value - lower * own), max(value, value - upper * own), own
        weights = combine(np.eye(3))
        extra, df = self._from_training(weights)
        if extra > 0 and error > 0:
            total = np.hypot(error, extra)
            df *= (total / extra) ** 4  # Satterthwaite: the rows' part of the variance is known well
            wider = total / error * float(special.stdtrit(df, tails[1]) / special.ndtri(tails[1]))
            low, high, error = value - wider * (value - low), value + wider * (high - value), float(total)
        if self.few and n > 1:
            # the bootstrap's variance lacks a factor n / (n - 1), and its normal tails are too light
            half = float(special.stdtrit(n - 1, (1 + self.level) / 2)) * error * np.sqrt(n / (n - 1))
            low, high = min(low, value - half), max(high, value + half)
        half = self._over_repeats(combine)
        if half > (high - low) / 2:
            low, high = value - half, value + half
        return Estimate(value, low, high, n, error)

    def _from_training(self, weights: FloatArray) -> tuple[float, float]:
        """Standard error that the training rows add, and its degrees of freedom; 0 from a single repeat.

        The rows beyond are the same in every repeat, so that scores beyond vary by the training rows alone. They are f of the seen
        rows, and the delete-d jackknife (Shao & Wu 1989) makes the variance over data sets of them: s^2 (1 / J + f / (1 - f)).
        """
        names = np.unique(self.per_split["region"])
        varied = weights[REFERENCE] * self.splits[REFERENCE] if weights[REFERENCE] else 0.0
        varied = varied + (weights[BEYOND] * self.splits[BEYOND] if weights[BEYOND] else 0.0)
        if not np.ndim(varied):
            return 0.0, 1.0
        total, df = 0.0, 0
        for name in names:
            here = self.per_split["region"] == name
            some = self.per_split[here]
            if some.size > 1:
                share = float((some["n_train"] / some["n_inside"]).mean())
                total += float(np.var(np.asarray(varied)[here], ddof=1)) * (1 / some.size + share)
                df += some.size - 1
        return float(np.sqrt(total)) / names.size, float(max(df, 1))

    def _errors(self, r: Resamples, weights: FloatArray) -> tuple[FloatArray, float]:
        """The standard error of the combination in every resample, and in the data."""

        def slope(ratios: FloatArray) -> FloatArray:
            if self.score.finish is None:
                return np.ones_like(ratios)
            step = 1e-6 * np.maximum(np.abs(ratios), 1e-300)
            return np.asarray((self.score.finish(ratios + step) - self.score.finish(ratios)) / step)

        within = linear_error(r.ratios, r.totals, r.moments, weights * slope(r.ratios))
        return within, float(linear_error(*r.whole, weights * slope(r.whole[0]))[0])

    def _over_repeats(self, combine: Callable[[FloatArray], FloatArray]) -> float:
        """Half the width of the corrected resampled t interval, the regions' in quadrature; 0 without repeats."""
        found = combine(self.splits)
        halves = []
        names = np.unique(self.per_split["region"])
        for name in names:
            here = self.per_split["region"] == name
            if here.sum() < 2:
                return 0.0
            some = self.per_split[here]
            t = corrected_resampled_t(found[here], float(some["n_train"].mean()), float(some["n_inside"].mean()), self.level)
            halves.append((t.high - t.low) / 2)
        return float(np.sqrt(np.square(halves).sum()) / names.size)
