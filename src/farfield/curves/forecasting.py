"""Where will every run end? `forecast` puts a user's question to the forecaster and dresses the answer.

Runs that cannot be forecast are named with the reason; the others get a predictive distribution at their horizon and on the
way there, the advice that follows from it, P(ends best) from joint draws, and what the intervals were calibrated on.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from farfield import checks
from farfield.curves.backtesting import scored
from farfield.curves.data import Curves, FloatArray, IntArray, as_curves
from farfield.curves.edged import Edged
from farfield.curves.forecaster import LEAST_POINTS, Predicted, groups_of, make_forecaster, too_large
from farfield.curves.results import Calibration, Forecast, ForecastStatus, seen_estimate
from farfield.curves.schedule_sources import schedules_of
from farfield.errors import InputError
from farfield.predictive import Mixture, Predictive
from farfield.seeds import Seed, generator

N_PATH = 12
_DRAWS = 2000
# runs the one-line backtest beneath a forecast scores at each reach; `farfield backtest` scores all
_MOST_SCORED = 600
# beyond this reach a forecast without evidence from other runs is a guess
_FAR = 3.0
# falls of the rate by less than this part of the peak do not count as a decay
LEAST_FALL = 0.05
_UNLIKELY = 0.05
# how alike the errors of runs of one group are: the correlation of their draws
_GROUP_CORRELATION = 0.3


def forecast(
    curves: Curves,
    *,
    to: ArrayLike | None = None,
    level: float = 0.8,
    estimate: str = "final",
    method: str = "auto",
    lr_schedule: str | None = None,
    context: Curves | None = None,
    compare: Literal["same", "own-end"] = "same",
    target: Literal["logged", "latent"] = "logged",
    with_backtest: bool = True,
    rng: Seed = 0,
) -> Forecast:
    """Forecast every run of `curves` at its horizon.

    Parameters
    ----------
    to : x to forecast at, a number or (n_runs,); None for each run's planned end
    level : level of the stated intervals, and the one they are calibrated at
    estimate : ``final``, ``mean:k`` (mean of the last k logged values) or ``best`` (best value until then)
    method : ``auto``, ``forms`` (no network), ``context`` (the network that reads the other runs), or by name one curve form, naive
        continuation or the network (``lcpfn``)
    lr_schedule : schedule of every run, e.g. ``cosine:10000``; None to read it from settings and logged rates
    context : further runs to learn from, themselves not forecast; must have the same metric
    compare : P(ends best) needs runs at one x (``same``) or compares each at its own end (``own-end``)
    target : the value a logger will write, or the latent curve (they differ for long, noisy logs)
    with_backtest : also hide the runs' own ends and score (see `farfield.backtest`)
    rng : seed of the joint draws

    Raises InputError for an unknown method, estimate or schedule, or a context of another metric.
    """
    as_curves("curves", curves)
    checks.level("level", level)
    checks.choice("compare", compare, ("same", "own-end"))
    checks.choice("target", target, ("logged", "latent"))
    forecaster = make_forecaster(method, level=level, estimate=estimate, target=target, lr_schedule=lr_schedule)
    known = curves if context is None else joined(curves, context)
    forecaster.fit(known)
    at = horizons(curves, to)
    status = first_status(curves, at, to is None)
    at = _ends(curves, at, status)
    rows = np.flatnonzero([s is ForecastStatus.CONTINUE for s in status])
    shares = np.arange(1, N_PATH + 1) / N_PATH
    n = len(curves)
    path_at = np.full((n, N_PATH), np.nan)
    members: tuple[str, ...] = forecaster.members
    weights = np.zeros((n, len(members)))
    fall, calibrated = np.full(n, np.nan), np.zeros(n, dtype=bool)
    predicted: Predicted | None = None
    if rows.size:
        some = curves.take(rows)
        predicted = forecaster.predict_path(some, at[rows], shares)
        members = predicted.outlook.members
        weights = np.zeros((n, len(members)))
        weights[rows], fall[rows], calibrated[rows] = predicted.outlook.weights, predicted.fall, predicted.calibrated
        path_at[rows] = predicted.at
    path = _spread(predicted, rows, n)
    final = path[:, -1:]

    p_best, withheld = None, "no run could be forecast"
    if rows.size:
        p_best, withheld = _p_best(curves, at, status, final, estimate, compare, rng)
        _advise(status, curves, at, rows, predicted, fall, p_best, level)
    decay_at, notes, warnings = _schedule_words(curves, lr_schedule, rows, fall)
    warnings += _other_warnings(curves, rows, calibrated, at)
    evidence = scored(forecaster, most=_MOST_SCORED, rng=rng) if with_backtest else None
    return Forecast(
        curves=curves, at=at, predictive=final, path_at=path_at, path=path, level=level, estimate=estimate, target=target,
        members=members, weights=weights, status=tuple(status), calibration=_calibration(predicted, context),
        calibrated=calibrated, p_best=p_best, p_best_withheld=withheld, warnings=tuple(warnings), backtest=evidence,
        decay_at=decay_at, notes=tuple(notes),
    )  # fmt: skip


def horizons(curves: Curves, to: ArrayLike | None) -> FloatArray:
    """(n_runs,) where each run is forecast: `to`, or its planned end; NaN where neither is known."""
    if to is None:
        return curves.column("planned_end").cast(float).fill_null(np.nan).to_numpy().astype(np.float64)
    asked = checks.numbers("to", to)
    if asked.ndim > 1 or (asked.ndim == 1 and asked.shape != (len(curves),)):
        raise InputError(f"to has shape {asked.shape}; allowed: one x, or ({len(curves)},), one a run")
    if asked.ndim == 0 and not np.isfinite(asked):
        raise InputError(f"to is {asked}; allowed: a finite x")
    return np.broadcast_to(asked, (len(curves),)).copy()


def joined(curves: Curves, context: Curves) -> Curves:
    """Both sets of runs as one; runs of the context whose names are taken are renamed."""
    as_curves("context", context)
    if (curves.metric.name, curves.metric.goal, curves.x_name) != (context.metric.name, context.metric.goal, context.x_name):
        raise InputError(
            f"the context is {context.metric.name} by {context.x_name} (goal {context.metric.goal}), the runs are "
            f"{curves.metric.name} by {curves.x_name} (goal {curves.metric.goal}); they must be the same"
        )
    return curves.concat(context)


def first_status(curves: Curves, at: FloatArray, planned: bool) -> list[ForecastStatus]:
    """What can be told before any forecast; CONTINUE where one is to be made. `planned`: `at` is each run's planned end."""
    out = []
    last, wild = curves.last_x, too_large(curves)
    for i, state in enumerate(curves.column("status")):
        if state == "diverged" or wild[i]:
            out.append(ForecastStatus.DIVERGED)
        elif curves.lengths[i] < LEAST_POINTS:
            out.append(ForecastStatus.TOO_SHORT)
        elif planned and state == "finished":
            out.append(ForecastStatus.FINISHED)
        elif not np.isfinite(at[i]):
            out.append(ForecastStatus.NO_END)
        elif last[i] >= at[i] - 1e-9 * abs(at[i]):
            out.append(ForecastStatus.FINISHED)
        else:
            out.append(ForecastStatus.CONTINUE)
    return out


def _ends(curves: Curves, at: FloatArray, status: list[ForecastStatus]) -> FloatArray:
    """(n_runs,) `at`, but for finished runs the x of their last point, unless that is the one logged nearest to `at`."""
    out = at.copy()
    for i in np.flatnonzero([s is ForecastStatus.FINISHED for s in status]):
        x = curves.x[curves.points(int(i))]
        if not abs(at[i] - x[-1]) <= x[-1] - x[-2]:
            out[i] = x[-1]
    return out


def _spread(predicted: Predicted | None, rows: IntArray, n: int) -> Predictive:
    """The distributions of the forecast runs in the rows of all; what stands in the others is never read."""
    if predicted is None:
        blank = np.zeros((n, N_PATH, 1))
        return Mixture(blank + 1.0, blank, blank + 1.0)
    p: Predictive = predicted.predictive
    if not isinstance(p, Edged):
        index = np.zeros(n, dtype=np.int64)
        index[rows] = np.arange(rows.size)
        return p[index]
    m, k = p.loc.shape[1:]
    weights, loc, scale = np.zeros((n, m, k)), np.zeros((n, m, k)), np.ones((n, m, k))
    weights[:, :, 0] = 1.0
    weights[rows], loc[rows], scale[rows] = p.weights, p.loc, p.scale
    lower, upper, edge = np.full((n, m), -np.inf), np.full((n, m), np.inf), np.zeros((n, m))
    lower[rows], upper[rows], edge[rows] = p.lower, p.upper, p.edge
    return Edged(weights, loc, scale, lower=lower, upper=upper, edge=edge)


# -- comparing runs -------------------------------------------------------------------------------------------------------


def _p_best(
    curves: Curves, at: FloatArray, status: list[ForecastStatus], final: Predictive, estimate: str, compare: str, rng: Seed
) -> tuple[FloatArray | None, str]:
    """(n_runs,) probability to end best, from joint draws with errors shared in a group; or None and the reason."""
    open_ = np.array([s.forecasts for s in status])
    done = np.array([s is ForecastStatus.FINISHED for s in status])
    field = np.flatnonzero(open_ | done)
    if field.size < 2:
        return None, "there is only one run to compare"
    ends = at[field]
    if compare == "same" and np.ptp(ends) > 0.01 * np.abs(ends).max():
        return None, "the runs end at different x; --compare own-end compares each at its own end"
    draws = np.empty((_DRAWS, field.size))
    g = generator(rng)
    groups = groups_of(curves)[field]
    shared = g.standard_normal((_DRAWS, int(groups.max()) + 1))[:, groups]
    own = g.standard_normal((_DRAWS, field.size))
    uniform = ndtr(np.sqrt(_GROUP_CORRELATION) * shared + np.sqrt(1 - _GROUP_CORRELATION) * own)
    levels = np.concatenate([[0.001, 0.005], np.linspace(0.02, 0.98, 25), [0.995, 0.999]])
    live = np.flatnonzero(open_[field])
    if live.size:
        table = final[field[live]].quantile(levels)[:, :, 0]
        for j, column in enumerate(live):
            draws[:, column] = np.interp(uniform[:, column], levels, table[:, j])
    for column in np.flatnonzero(done[field]):
        draws[:, column] = seen_estimate(curves.y[curves.points(int(field[column]))], estimate, curves.metric)
    extreme = draws.min(axis=1) if curves.metric.goal == "min" else draws.max(axis=1)
    best = draws == extreme[:, None]
    out = np.full(len(curves), np.nan)
    out[field] = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)  # runs that tie share the draw
    return out, ""


def _advise(
    status: list[ForecastStatus], curves: Curves, at: FloatArray, rows: IntArray, predicted: Predicted | None, fall: FloatArray,
    p_best: FloatArray | None, level: float,
) -> None:  # fmt: skip
    """Replace CONTINUE by what the forecast says, in place."""
    assert predicted is not None
    sign = 1.0 if curves.metric.goal == "min" else -1.0
    tail = (1 - level) / 2
    low, mid, high = predicted.predictive[:, -1:].quantile(np.array([tail, 0.5, 1 - tail]))[:, :, 0]
    hopeful = low if sign > 0 else high
    for k, i in enumerate(rows):
        y = sign * curves.y[curves.points(int(i))]
        best, made = y.min(), max(float(np.median(y[: max(1, y.size // 10)]) - y.min()), 1e-300)
        to_gain, turned = best - sign * hopeful[k], y[-1] - best
        reach = at[i] / curves.last_x[i] if curves.last_x[i] > 0 else np.inf
        if np.isfinite(fall[i]) and fall[i] > LEAST_FALL:
            status[i] = ForecastStatus.DECAY_TO_COME
        elif not predicted.calibrated[k] and reach > _FAR:
            status[i] = ForecastStatus.FAR
        else:
            found = ForecastStatus.CONTINUE
            if p_best is not None and p_best[i] < _UNLIKELY:
                found = ForecastStatus.UNLIKELY_BEST
            elif turned > 0.1 * made and sign * mid[k] - best > 0.05 * made and y.argmin() < 0.8 * y.size:
                found = ForecastStatus.TURNED
            elif to_gain < 0.01 * made or np.ptp(y) <= 1e-9 * abs(best):
                found = ForecastStatus.PLATEAU
            # nobody knows whether a decay will still come: then nothing speaks for stopping
            status[i] = ForecastStatus.SCHEDULE_UNKNOWN if found.may_stop and np.isnan(fall[i]) else found


# -- words ----------------------------------------------------------------------------------------------------------------


def _calibration(predicted: Predicted | None, context: Curves | None) -> Calibration:
    if predicted is None or not predicted.calibrated.any():
        return Calibration(caveat="too few runs were observed at this reach: the intervals rest on the run's own past")
    k = int(np.argmax(predicted.n_runs * predicted.calibrated))
    others = "these runs" if context is None else "these runs and the context"
    return Calibration(
        n_runs=int(predicted.n_runs[k]),
        n_groups=int(predicted.n_groups[k]),
        source=f"{others} {predicted.source}",
        caveat="only runs that got that far could be used",
    )


def _schedule_words(
    curves: Curves, spec: str | None, rows: IntArray, fall: FloatArray
) -> tuple[FloatArray | None, list[str], list[str]]:
    """Where decays begin, a note a run, and warnings about rates that will fall or that nobody knows."""
    schedules = schedules_of(curves, spec)
    decay_at = np.array([s.decay_start for s in schedules], dtype=np.float64)
    forecast = set(rows.tolist())
    notes = [s.note if i in forecast else "" for i, s in enumerate(schedules)]  # no schedule is why a run was refused
    for i, (bad, doubled) in enumerate(zip(curves.column("n_nonfinite"), curves.column("n_duplicate"), strict=True)):
        if bad or doubled:
            found = [f"{bad} not finite"] * bool(bad) + [f"{doubled} at a doubled {curves.x_name}"] * bool(doubled)
            notes[i] = "; ".join(filter(None, [notes[i], f"left out: {', '.join(found)}"]))
    warnings = []
    coming = int((np.nan_to_num(fall[rows]) > LEAST_FALL).sum())
    unknown = int(np.isnan(fall[rows]).sum())
    if coming:
        warnings.append(
            f"a learning-rate decay is still to come in {_runs(coming, rows.size)}: {_ending(coming)} depends on it, so "
            f"{'none is' if coming > 1 else 'it is not'} called hopeless"
        )
    if unknown:
        warnings.append(
            f"the learning-rate schedule of {_runs(unknown, rows.size)} is unknown: a decay would change {_ending(unknown)} "
            "(say it with --lr-schedule)"
        )
    return (decay_at if np.isfinite(decay_at).any() else None), notes, warnings


def _other_warnings(curves: Curves, rows: IntArray, calibrated: NDArray[np.bool_], at: FloatArray) -> list[str]:
    out = []
    wild = int((~calibrated[rows]).sum())
    if wild:
        whose = _runs(wild, rows.size)
        out.append(f"the intervals of {whose} are uncalibrated: too few runs with such a schedule were observed at their reach")
    bad = int(curves.column("n_nonfinite").sum())
    if bad:
        some = int((curves.column("n_nonfinite") > 0).sum())
        out.append(f"{bad} value{'s' * (bad != 1)} in {some} run{'s' * (some != 1)} not finite: reported, not fitted")
    return out


def _ending(n: int) -> str:
    return "where they end" if n > 1 else "where it ends"


def _runs(n: int, total: int) -> str:
    return f"all {n} forecast runs" if n == total and n > 1 else f"{n} of {total} forecast runs" if total > 1 else "the run"
