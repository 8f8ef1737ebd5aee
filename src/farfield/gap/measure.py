"""Measure the gap: fit once a region, score inside and beyond, refit the matched reference.

How sure the figures are is in :mod:`farfield.gap.estimates` (intervals) and :mod:`farfield.gap.training` (what training rows add).
Over repeats, which draw other training rows, the intervals are about the learner at this training size; from a single repeat
nothing is known of that, and they are about the fitted models.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks, processors
from farfield.errors import InputError, short
from farfield.gap.apart import Pair, apart
from farfield.gap.estimates import FEW_GROUPS, FEW_ROWS, Intervals, weights_of
from farfield.gap.models import answer, fit, name_of, selection_of
from farfield.gap.resample import resampled
from farfield.gap.result import Estimate, GapResult
from farfield.gap.scores import Score, Seen, get_score
from farfield.gap.targets import target_of
from farfield.gap.training import BEYOND, INSIDE, REFERENCE, Evidence
from farfield.intervals import resample_counts
from farfield.seeds import Seed, generator
from farfield.splits import LeaveRegionOut, RegionIndices, RegionSplitter
from farfield.splits.rows import FloatArray, IntArray, labels, n_rows, take_rows


class _Scored(NamedTuple):
    """Answers on some rows, of one part of one split; `fold` of the reference."""

    part: int
    split: int
    fold: int
    rows: IntArray
    answers: NDArray[Any]
    values: FloatArray | None
    reach: FloatArray
    seen: Seen


def extrapolation_gap(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    *,
    split: RegionSplitter,
    scoring: str | Score | Callable[..., float] = "neg_mean_absolute_error",
    groups: ArrayLike | None = None,
    unit: ArrayLike | None = None,
    reference: Literal["matched"] | None = "matched",
    level: float = 0.95,
    n_boot: int = 2000,
    n_jobs: int | None = None,
    selection: Literal["inside", "leave_region_out"] = "inside",
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
    scoring : a name (scikit-learn's, or mae, rmse, auc, ...), a :class:`Score`, a scorer of scikit-learn's, or a function
        (y, answers) -> number, higher better
    groups : (n,) handed to the splitter; also the unit of resampling, unless they are the splitter's environments
    unit : (n,) unit of resampling: rows of one patient, sequence or query, which depend on each other
    reference : ``matched`` refits on as many rows, some of them beyond; None gives the raw gap alone
    level, n_boot, rng : of the intervals
    n_jobs : fits at a time, in threads (-1: one a core); the values do not depend on it
    selection : ``leave_region_out`` also scores the model on regions left out of the seen rows
        (:class:`farfield.splits.LeaveRegionOut`), for :func:`compare` to choose by

    Raises
    ------
    InputError : a region that is empty, or of one class where the score needs two; a model that fails to fit or to predict, or
        predicts NaN; lengths that differ
    """
    checks.level("level", level)
    checks.count("n_boot", n_boot, least=100)
    checks.choice("selection", selection, ("inside", "leave_region_out"))
    if reference is not None:
        checks.choice("reference", reference, ("matched",))
    if not hasattr(split, "regions"):
        raise InputError(f"split is {short(split)}; allowed: a splitter of farfield's, such as RangeSplit(0)")
    score = get_score(scoring)
    n = n_rows(X)
    target = target_of(y, n, score)
    label = name or name_of(estimator)
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
    has = reference is not None
    for region in regions:
        _check_classes(target, region, score)
    scored = _scored(estimator, X, target, regions, score, has, label, n_jobs)
    left_out = None
    if selection == "leave_region_out":
        left_out = _left_out(estimator, X, target, regions, split, {"groups": groups, **row_data}, score, label, n_jobs)
    codes, unit_name = _units(unit, groups, n, split)
    per_split = _per_split(scored, regions, target, score)
    means = np.array([per_split[k].mean() for k in ("inside", "reference", "beyond")])
    evidence = resamples = None
    if score.rows is not None:
        evidence = _evidence(scored, regions, codes, has)
        resamples = resampled(evidence.sums(), n_boot, generator(rng))
        ratios = resamples.ratios
    else:
        ratios = _whole_draws(scored, regions, target, codes, n_boot, generator(rng), score)
    counts, few = _counts(scored, codes, unit_name, notes)
    far = apart(_pairs(scored, target), score)
    sure = Intervals(score, level, means, ratios, counts, few, per_split, resamples, evidence, apart=far)
    finished = means if score.finish is None else score.finish(means)
    found: dict[str, Estimate] = {}
    for quantity, weights in weights_of(score.lower_is_better).items():
        parts = np.flatnonzero(weights)
        if has or REFERENCE not in parts:
            found[quantity] = sure.of(weights, float(finished[parts] @ weights[parts]))
    if has:
        total = found["difficulty"].value + found["extrapolation"].value
        found["gap"] = found["gap"]._replace(value=total)
    if score.finish is not None:
        for part in ("inside", "reference", "beyond"):
            per_split[part] = score.finish(per_split[part])
    draws = ratios if score.finish is None else score.finish(ratios)
    for note in dict.fromkeys(notes):
        warnings.warn(note, stacklevel=2)
    return GapResult(
        model=label, scoring=score, inside=found["inside"], beyond=found["beyond"], reference=found.get("reference"),
        gap=found["gap"], difficulty=found.get("difficulty"), extrapolation=found.get("extrapolation"), level=level, unit=unit_name,
        split=repr(split), regions=tuple(dict.fromkeys(r.tag for r in regions)), selection=selection_of(estimator),
        seed=rng if isinstance(rng, int) else None, warnings=tuple(dict.fromkeys(notes)), per_split=per_split,
        per_row=_per_row(scored) if score.rows is not None else None, draws=draws,
        evidence=evidence, left_out=left_out,
    )  # fmt: skip


# -- fits ----------------------------------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """One fit and the rows it is asked about."""

    split: int
    fold: int  # -1: the model itself
    fit: IntArray
    score: IntArray


def _tasks(regions: list[RegionIndices], reference: bool) -> Iterator[_Task]:
    for j, region in enumerate(regions):
        yield _Task(j, -1, region.train, np.concatenate([region.inside, region.beyond]))
        if reference:
            for k, (rows, asked) in enumerate(region.reference):
                yield _Task(j, k, rows, asked)


def _scored(
    estimator: Any, X: Any, y: NDArray[Any], regions: list[RegionIndices], score: Score, reference: bool, label: str,
    n_jobs: int | None,
) -> list[_Scored]:  # fmt: skip
    def run(task: _Task) -> tuple[NDArray[Any], Seen]:
        where = f"{label!r}, region {regions[task.split].tag}{', reference' * (task.fold >= 0)}"
        model, seen = fit(estimator, X, y, task.fit, score, where)
        return answer(model, X, task.score, score, where), seen

    tasks = list(_tasks(regions, reference))
    out: list[_Scored] = []
    scale: Seen | None = None
    for task, (answers, seen) in zip(tasks, in_threads(run, tasks, n_jobs), strict=True):
        region = regions[task.split]
        if task.fold < 0:
            scale, cut = seen, region.inside.size
            values = None if score.rows is None else score.rows(y[task.score], answers, seen)
            for part, rows, some, reach in (
                (INSIDE, region.inside, slice(None, cut), np.ones(cut)), (BEYOND, region.beyond, slice(cut, None), region.reach)
            ):  # fmt: skip
                out.append(_Scored(part, task.split, 0, rows, answers[some], None if values is None else values[some], reach, seen))
            order = np.argsort(region.beyond, kind="stable")
            continue
        # R2 keeps the denominator of what was seen, so the reference is scored as the model is
        scale = seen if score.needs == "proba" or scale is None else scale
        values = None if score.rows is None else score.rows(y[task.score], answers, scale)
        reach = region.reach[order[np.searchsorted(region.beyond[order], task.score)]]
        out.append(_Scored(REFERENCE, task.split, task.fold, task.score, answers, values, reach, scale))
    return out


def _left_out(
    estimator: Any, X: Any, y: NDArray[Any], regions: list[RegionIndices], split: RegionSplitter, row_data: dict[str, Any],
    score: Score, label: str, n_jobs: int | None,
) -> float:  # fmt: skip
    """The mean score on regions left out of what is seen, over the regions."""
    tasks, given = [], {k: np.asarray(v) for k, v in row_data.items() if v is not None}
    for j, region in enumerate(regions):
        if region.tag in [r.tag for r in regions[:j]]:
            continue  # the same rows are seen in every repeat
        seen = np.sort(np.concatenate([region.train, region.inside]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pairs = list(LeaveRegionOut(split).split(take_rows(X, seen), y[seen], **{k: v[seen] for k, v in given.items()}))
        tasks += [_Task(j, k, seen[rows], seen[asked]) for k, (rows, asked) in enumerate(pairs)]

    def run(task: _Task) -> float:
        where = f"{label!r}, left out of what is seen of {regions[task.split].tag}"
        model, seen = fit(estimator, X, y, task.fit, score, where)
        answers = answer(model, X, task.score, score, where)
        values = None if score.rows is None else score.rows(y[task.score], answers, seen)
        mean = _score_of(y, [_Scored(BEYOND, 0, 0, task.score, answers, values, np.empty(0), seen)], score)
        return mean if score.finish is None else float(score.finish(np.array(mean)))

    return float(np.mean(list(in_threads(run, tasks, n_jobs))))


def in_threads(run: Callable[[Any], Any], tasks: list[Any], n_jobs: int | None) -> Iterator[Any]:
    """What `run` makes of each task, in their order, on `n_jobs` threads (None: no threads; -1: one a core)."""
    jobs = threads(n_jobs)
    if jobs == 1:
        yield from map(run, tasks)
        return
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, task) for task in tasks]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def threads(n_jobs: int | None) -> int:
    """The number of threads: 1 for None, one a core for -1; InputError for anything else below 1."""
    if n_jobs is None:
        return 1
    if n_jobs == -1:
        return processors.usable()
    return checks.count("n_jobs", n_jobs)


# -- data ----------------------------------------------------------------------------------------------------------------------


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


def _counts(scored: list[_Scored], codes: IntArray, unit: str, notes: list[str]) -> tuple[tuple[int, int, int], bool]:
    """Units in each part, and whether they are too few for a bootstrap."""
    counts = [0, 0, 0]
    for part in range(3):
        rows = [s.rows for s in scored if s.part == part]
        counts[part] = int(np.unique(codes[np.concatenate(rows)]).size) if rows else 0
    least = min(c for c in counts if c)
    few = least < (FEW_GROUPS if unit == "group" else FEW_ROWS)
    if few:
        notes.append(f"only {least} {unit}s in a part: intervals are wider, by Student's t, and rough")
    return (counts[0], counts[1], counts[2]), few


def _evidence(scored: list[_Scored], regions: list[RegionIndices], codes: IntArray, reference: bool) -> Evidence:
    sizes = [s.rows.size for s in scored]
    n = codes.size
    fits = [task for task in _tasks(regions, reference) if task.fold >= 0]

    def held(rows: list[IntArray]) -> NDArray[np.bool_]:
        out = np.zeros((len(rows), n), dtype=bool)
        for i, some in enumerate(rows):
            out[i, some] = True
        return out

    return Evidence(
        row=np.concatenate([s.rows for s in scored]),
        split=np.repeat([s.split for s in scored], sizes),
        part=np.repeat([s.part for s in scored], sizes),
        fold=np.repeat([s.fold for s in scored], sizes),
        loss=np.concatenate([s.values for s in scored if s.values is not None]),
        codes=codes,
        region=np.unique([r.tag for r in regions], return_inverse=True)[1],
        train=held([r.train for r in regions]),
        fits=held([task.fit for task in fits]),
        fit_split=np.array([task.split for task in fits], dtype=np.int64),
        fit_fold=np.array([task.fold for task in fits], dtype=np.int64),
    )


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


# -- figures --------------------------------------------------------------------------------------------------------------------


def _score_of(y: NDArray[Any], pieces: list[_Scored], score: Score) -> float:
    if not pieces:
        return float("nan")
    if score.rows is not None:
        mean = np.concatenate([p.values for p in pieces if p.values is not None]).mean()
        return float(mean)  # `finish` comes after the mean over splits
    assert score.whole is not None
    rows, answers = np.concatenate([p.rows for p in pieces]), np.concatenate([p.answers for p in pieces])
    return float(score.whole(y[rows], answers, np.ones((1, rows.size)))[0])


def _pairs(scored: list[_Scored], y: NDArray[Any]) -> Iterator[Pair]:
    """The model of each split beside its references, on the rows of each."""
    models = {s.split: (s, np.argsort(s.rows, kind="stable")) for s in scored if s.part == BEYOND}
    for s in scored:
        model, order = models[s.split]
        if s.part == REFERENCE and s.values is not None and model.values is not None:
            at = order[np.searchsorted(model.rows[order], s.rows)]
            yield Pair(s.split, y[s.rows], (model.answers[at], s.answers), (model.values[at], s.values), (model.seen, s.seen))


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
