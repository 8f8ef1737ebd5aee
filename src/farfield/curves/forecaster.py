"""The forecaster: each curve's own outlook, corrected and widened by how outlooks fared on other runs.

``EnsembleForecaster().fit(other_runs).predict(runs, at)``. For every run the reach (asked x over last x) selects how the
other runs are cut: so that their known end lies as far beyond their cut as the asked x beyond the run's last point. Their
errors there become the law of the run's own error (`farfield.curves.analogues`). Reaches are rounded to steps of about ten
per cent of their logarithm, so that runs share the work; nothing else couples one run's forecast to another run of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.curves.analogues import (
    EDGE,
    LEAST_RUNS,
    Description,
    ErrorLaw,
    Evidence,
    conformal_factor,
    edge_of,
    weighted_quantile,
    within,
)
from farfield.curves.binning import binned
from farfield.curves.censoring import censored
from farfield.curves.censoring import weights as censoring_weights
from farfield.curves.data import Curves, FloatArray, IntArray, Metric, as_curves
from farfield.curves.drive import Drive
from farfield.curves.edged import Edged
from farfield.curves.ensemble import AUTO, NAIVE, NETWORK, Outlook, outlook
from farfield.curves.forms import FORMS, get_form
from farfield.curves.schedule_sources import schedules_of
from farfield.errors import InputError, short, unknown_name
from farfield.predictive import Mixture, Predictive

LEAST_POINTS = 3
LARGEST = 1e100
CONTEXT = "context"
SHARES = np.array([0.25, 0.5, 0.75, 1.0])
# step of log(log(reach)) to which reaches are rounded
_REACH_STEP = 0.1
_LEAST_REACH = 1.02
MOST_CONTEXT = 8000
# the factor is a quantile of the scores of so many held-out runs at most: more would not move it
_MOST_CALIBRATION = 2000
# with more other runs than these the network says nothing that their errors do not say, and costs more than all else
_MOST_FOR_NETWORK = 3000
# a schedule nobody knows, or a stretch that other runs went through in part: little evidence says what follows, so wider by half
_UNKNOWN_SCHEDULE = 1.5


@dataclass(frozen=True)
class Look:
    """Outlook of the runs of a batch and what else their forecast needs."""

    at: FloatArray
    outlook: Outlook
    reach: FloatArray
    runs: Description
    noise: FloatArray
    fall: FloatArray

    def take(self, rows: IntArray) -> Look:
        """The named runs."""
        o = self.outlook
        outlook = Outlook(o.members, *(getattr(o, f.name)[rows] for f in fields(o)[1:]))
        return Look(self.at[rows], outlook, self.reach[rows], self.runs.take(rows), self.noise[rows], self.fall[rows])


@dataclass(frozen=True)
class Predicted:
    """Forecasts of n runs at m positions each, before they are dressed for a user.

    at : (n, m) positions in the user's x; predictive : (n, m); outlook : at the same positions
    calibrated : (n,); n_runs, n_groups : (n,) size of the evidence behind each run's interval
    fall : (n,) part of the peak learning rate still to go, NaN where unknown
    source : how the other runs came to be evidence
    """

    at: FloatArray
    predictive: Mixture
    outlook: Outlook
    calibrated: NDArray[np.bool_]
    n_runs: IntArray
    n_groups: IntArray
    fall: FloatArray
    source: str = "cut at the same reach, whole groups held out"


class EnsembleForecaster:
    """Forecasts learning curves from their own seen part and from other runs.

    Parameters
    ----------
    members : curve forms (`farfield.curves.forms.FORMS`) and naive continuations (``last``, ``best``, ``mean5``), ``lcpfn``
    level : at which intervals are calibrated
    estimate : ``final``, ``mean:k`` or ``best``: what of a run is forecast
    target : ``logged`` value or ``latent`` curve (they differ for long logs, which are binned)
    lr_schedule : schedule of every run (`farfield.curves.schedules.parse_schedule`); None to read it from the runs
    censoring : what runs that were pruned or killed mean for those that were not: ``ignore``, or ``reweight``, where a run that got
        through stands for those like it that did not (`farfield.curves.censoring`)

    Raises InputError for no or unknown members, and for an unknown estimate, target or schedule.
    """

    def __init__(
        self, members: tuple[str, ...] = AUTO, *, level: float = 0.8, estimate: str = "final", target: str = "logged",
        lr_schedule: str | None = None, censoring: str = "ignore",
    ) -> None:  # fmt: skip
        if not members:
            raise InputError(f"members is empty; allowed: one or more of {', '.join((*NAIVE, NETWORK, *FORMS))}")
        checks.level("level", level)
        checks.choice("target", target, ("logged", "latent"))
        self.censoring = checks.choice("censoring", censoring, ("ignore", "reweight"))
        self.members = self._named = tuple(m if m in (*NAIVE, NETWORK) else get_form(m).name for m in members)
        self.level, self.estimate, self.target, self.lr_schedule = level, estimate, target, lr_schedule
        parse_estimate(estimate)
        self._context: Curves | None = None
        self._evidence: dict[float, tuple[Evidence, Look, Curves]] = {}
        self._laws: dict[float, tuple[ErrorLaw, float]] = {}

    def __repr__(self) -> str:
        seen = "not fitted" if self._context is None else f"{len(self._context)} runs of context"
        return f"EnsembleForecaster({len(self.members)} members, {seen})"

    @property
    def context(self) -> Curves | None:
        """The runs learnt from; None before `fit`."""
        return self._context

    # -- the protocol ---------------------------------------------------------------------------------------------------

    def fit(self, curves: Curves) -> Self:
        """Learn from other runs; those that diverged or are too short are left out.

        With more than 3,000 of them a network among other members is left out: `members` says so.
        """
        as_curves("curves", curves)
        keep = (curves.lengths >= LEAST_POINTS + 1) & (curves.column("status").to_numpy() != "diverged") & ~too_large(curves)
        rows = np.flatnonzero(keep)
        if rows.size > MOST_CONTEXT:
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_CONTEXT, replace=False))
        self._context = curves.take(rows)
        many = rows.size > _MOST_FOR_NETWORK and len(self._named) > 1
        self.members = tuple(m for m in self._named if m != NETWORK) if many else self._named
        _check_bounds(self._context)
        self._evidence, self._laws = {}, {}
        return self

    def predict(self, curves: Curves, at: ArrayLike) -> Mixture:
        """Predictive distributions at `at`, (n_at,) or (n_runs, n_at), as (n_runs, n_at).

        Raises InputError where a run has fewer than 3 points or `at` does not lie beyond its last point.
        """
        as_curves("curves", curves)
        positions = checks.numbers("at", at)
        if positions.ndim == 1:
            positions = np.broadcast_to(positions, (len(curves), positions.size))
        if positions.ndim != 2 or len(positions) != len(curves) or not positions.shape[1]:
            raise InputError(f"at has shape {np.shape(at)}; allowed: (n_at,) or ({len(curves)}, n_at)")
        if not len(curves):
            nothing = np.ones((0, positions.shape[1], 1))
            return Edged(nothing, nothing, nothing)
        columns = [self.predict_path(curves, positions[:, j], np.ones(1)).predictive for j in range(positions.shape[1])]
        return type(columns[0]).concatenate(columns, axis=1)

    # -- the work -------------------------------------------------------------------------------------------------------

    def predict_path(self, curves: Curves, end: FloatArray, shares: FloatArray) -> Predicted:
        """Forecasts at the given `shares` (m,) of the log reach to `end` (n,); the last share is 1."""
        self._check(curves, end)
        look = self.look(curves, end, shares)
        n, m = len(curves), shares.size
        k = 0
        parts: list[tuple[IntArray, FloatArray, FloatArray, FloatArray]] = []
        calibrated = np.zeros(n, dtype=bool)
        n_runs, n_groups = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        rounded = round_reach(look.reach)
        for reach in np.unique(rounded):
            rows = np.flatnonzero(rounded == reach)
            law, factor = self.law(float(reach))
            calibrated[rows] = law.supports(look.runs.take(rows))
            n_runs[rows], n_groups[rows] = len(law.evidence), np.unique(law.evidence.groups).size
            # what other runs needed holds for those they say anything of; of part of a decay they say too little
            informed = law.informs(look.runs.take(rows))
            widen = np.where(informed, factor, 1.0)
            widen[~calibrated[rows] & (np.isnan(look.fall[rows]) | (informed & law.calibrates))] *= _UNKNOWN_SCHEDULE
            values, weights, widths = law.errors(look.runs.take(rows), shares)
            median = weighted_quantile(values, weights[:, None, :], 0.5)
            by = widen[:, None, None]
            parts.append((rows, median + by * (values - median), weights, by * widths))
            k = max(k, values.shape[2])
        lower, upper = self.bounds(curves)
        loc, scale, weight = np.zeros((n, m, k)), np.ones((n, m, k)), np.zeros((n, m, k))
        for rows, values, weights, widths in parts:
            width = values.shape[2]
            centre, unit = look.outlook.centre[rows][:, :, None], look.outlook.scale[rows][:, :, None]
            spread = unit * widths
            if self.target == "logged":
                spread = np.hypot(spread, look.noise[rows][:, None, None] * self._noise_left())
            low, high = lower[rows][:, :, None], upper[rows][:, :, None]
            loc[rows, :, :width], scale[rows, :, :width] = within(centre + unit * values, spread, unit, low, high)
            weight[rows, :, :width] = weights[:, None, :]
        predictive = Edged(
            weight, loc, scale, lower=np.repeat(lower, m, axis=1), upper=np.repeat(upper, m, axis=1),
            edge=edge_of(look.outlook.scale, lower, upper),
        )  # fmt: skip
        return Predicted(look.at, predictive, look.outlook, calibrated, n_runs, n_groups, look.fall)

    def look(self, curves: Curves, end: FloatArray, shares: FloatArray) -> Look:
        """The outlook of every run towards `end` (n,) at `shares` of the log reach."""
        data = binned(curves)
        batch = data.batch
        reach = (end + batch.shift) / batch.last
        at = batch.last[:, None] * np.exp(np.log(reach)[:, None] * shares)
        drive = None
        if _scheduled(curves, self.lr_schedule):
            drive = Drive.of(schedules_of(curves, self.lr_schedule), batch, at)
        planned = curves.column("planned_end").fill_null(np.nan).to_numpy() + batch.shift
        seen = outlook(batch, at, curves.metric, self.members, drive, planned)
        fall = np.full(len(curves), np.nan) if drive is None else drive.fall[:, -1]
        runs = Description(seen.features, seen.course, kinds_of(curves, self._context))
        return Look(at - batch.shift[:, None], seen, reach, runs, data.noise, fall)

    def evidence(self, reach: float) -> tuple[Evidence, Look, Curves]:
        """Errors of the context's runs, cut so that their last point lies at `reach`; also their outlook and cut curves."""
        if reach not in self._evidence:
            self._evidence[reach] = self._gather(reach)
        return self._evidence[reach]

    def _gather(self, reach: float) -> tuple[Evidence, Look, Curves]:
        context = self._context
        if context is None:
            raise InputError("no other runs were given; call fit(curves) first")
        last = context.last_x
        shift = origin_shift(context)
        cut = context.upto((last + shift) / reach * (1 + 1e-12) - shift)
        rows = np.flatnonzero((cut.lengths >= LEAST_POINTS) & (cut.lengths < context.lengths))
        weights = None
        if self.censoring == "reweight" and rows.size and censored(context).any():
            weights = censoring_weights(context, rows, cut.last_x[rows], groups_of(context))
        context, cut, last = context.take(rows), cut.take(rows), last[rows]
        if not rows.size:
            return _no_evidence(self.members), _no_look(self.members), cut
        look = self.look(cut, last, SHARES)
        truth = self._truth(context, look)
        errors = (truth - look.outlook.centre) / look.outlook.scale
        return Evidence(look.runs, errors, groups_of(context), SHARES, weights), look, cut

    def law(self, reach: float) -> tuple[ErrorLaw, float]:
        """The law of errors at `reach` from the context, and the factor that makes its intervals cover; cached."""
        if reach not in self._laws:
            if self._context is None or not len(self._context):
                self._laws[reach] = (ErrorLaw.fit(_no_evidence(self.members)), 1.0)
            else:
                evidence, look, cut = self.evidence(reach)
                seen = look.outlook
                self._laws[reach] = calibrate(evidence, seen.centre[:, -1], seen.scale[:, -1], cut.metric, self.level)
        return self._laws[reach]

    def _truth(self, whole: Curves, look: Look) -> FloatArray:
        """(n, n_shares) what each context run really did where it is looked at: the estimate at the last of the positions."""
        truth = np.empty(look.at.shape)
        for i in range(len(whole)):
            points = whole.points(i)
            truth[i] = np.interp(look.at[i], whole.x[points], whole.y[points])
            truth[i, -1] = estimate_of(whole.y[points], self.estimate, self.target, whole.metric)
        return truth

    def _noise_left(self) -> float:
        kind, k = parse_estimate(self.estimate)
        return 1.0 / np.sqrt(k) if kind == "mean" else 1.0

    def held_out(self, cut: Curves, look: Look, test: IntArray, train: IntArray) -> Predictive | None:
        """Forecasts of runs `test` of the cut context from runs `train`; None: they are made from the law of errors."""
        return None

    def naive(self, curves: Curves, name: str) -> FloatArray | None:
        """(n,) a naive continuation of the seen curves, whether or not it is a member; None for other names."""
        if name not in NAIVE:
            return None
        batch = binned(curves).batch
        return outlook(batch, batch.last[:, None] * 2.0, curves.metric, (name,)).values[:, 0, 0]

    def bounds(self, curves: Curves) -> tuple[FloatArray, FloatArray]:
        """(n, 1) bounds of what is forecast: the metric's, and for ``best`` the best value already seen."""
        n = len(curves)
        lower, upper = np.full((n, 1), float(curves.metric.lower)), np.full((n, 1), float(curves.metric.upper))
        if self.estimate == "best" and n:
            if curves.metric.goal == "min":
                upper[:, 0] = np.minimum.reduceat(curves.y, curves.offsets[:-1])
            else:
                lower[:, 0] = np.maximum.reduceat(curves.y, curves.offsets[:-1])
            # a best value at the bound of the metric leaves no room: the least that a distribution needs
            room = np.where(lower < upper, 0.0, 1e-15 * np.abs(lower) + 1e-290)
            return (lower, upper + room) if curves.metric.goal == "min" else (lower - room, upper)
        return lower, upper

    def _check(self, curves: Curves, end: FloatArray) -> None:
        short = curves.lengths < LEAST_POINTS
        if short.any():
            name = curves.runs[int(np.argmax(short))]
            raise InputError(f"run {name!r} has {int(curves.lengths[short][0])} points; a forecast needs at least {LEAST_POINTS}")
        wild = too_large(curves)
        if wild.any():
            name = curves.runs[int(np.argmax(wild))]
            raise InputError(f"run {name!r} has values beyond {LARGEST:g}; leave it out, or give it the status 'diverged'")
        _check_bounds(curves)
        near = ~(np.isfinite(end) & (end > curves.last_x))
        if near.any():
            i = int(np.argmax(near))
            if not np.isfinite(end[i]):
                raise InputError(f"at is {end[i]} for run {curves.runs[i]!r}; allowed: finite x beyond its last point")
            raise InputError(f"at {end[i]:g} does not lie beyond the last point of run {curves.runs[i]!r}, {curves.last_x[i]:g}")


def too_large(curves: Curves) -> NDArray[np.bool_]:
    """(n_runs,) whether a run has values whose squares are not safely floats: it has diverged, whatever its status says."""
    wild: NDArray[np.bool_] = np.bincount(curves.run_index[np.abs(curves.y) > LARGEST], minlength=len(curves)) > 0
    return wild


def _check_bounds(curves: Curves) -> None:
    metric = curves.metric
    outside = (curves.y < metric.lower) | (curves.y > metric.upper)
    if outside.any():
        i = int(np.argmax(outside))
        raise InputError(
            f"run {curves.runs[curves.run_index[i]]!r} has the value {curves.y[i]:g}; {metric.name!r} is said to lie in "
            f"[{metric.lower:g}, {metric.upper:g}]: correct the bounds of the metric or the value"
        )


def calibrate(evidence: Evidence, centre: FloatArray, scale: FloatArray, metric: Metric, level: float) -> tuple[ErrorLaw, float]:
    """The law of errors and the conformal factor at `level`, each group's intervals made without its own runs."""
    law = ErrorLaw.fit(evidence)
    if not law.calibrates:
        return law, 1.0
    rows = np.flatnonzero(law.informs(evidence.runs))
    if rows.size < LEAST_RUNS:
        return law, 1.0
    if rows.size > _MOST_CALIBRATION:
        rows = np.sort(np.random.default_rng(0).choice(rows, _MOST_CALIBRATION, replace=False))
    truth = centre + scale * evidence.errors[:, -1]
    held_out = law.predictive(
        evidence.runs.take(rows), centre[rows], scale[rows], exclude=evidence.groups[rows], lower=metric.lower, upper=metric.upper
    )
    weights = None if evidence.weights is None else evidence.weights[rows]
    return law, conformal_factor(held_out, truth[rows], level, weights, least=held_out.edge / EDGE)


def _no_look(members: tuple[str, ...]) -> Look:
    none, at = np.zeros((0, 0)), np.zeros((0, SHARES.size))
    outlook = Outlook(members, np.zeros((0, len(members), SHARES.size)), np.zeros((0, len(members))), at, at, none, none)
    return Look(at, outlook, np.zeros(0), Description(none, none, np.zeros((0, 0), dtype=np.int64)), np.zeros(0), np.zeros(0))


def _no_evidence(members: tuple[str, ...]) -> Evidence:
    return Evidence(_no_look(members).runs, np.zeros((0, SHARES.size)), np.zeros(0, dtype=np.int64), SHARES)


def round_reach(reach: FloatArray) -> FloatArray:
    """Reaches rounded so that runs a few per cent apart share their evidence."""
    log = np.log(np.maximum(reach, _LEAST_REACH))
    return np.exp(np.exp(np.round(np.log(log) / _REACH_STEP) * _REACH_STEP))


def groups_of(curves: Curves) -> IntArray:
    """(n_runs,) code of each run's group; a run without one is its own."""
    names = [g if g is not None else f"\0{r}" for g, r in zip(curves.column("group"), curves.runs, strict=True)]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([index[n] for n in names], dtype=np.int64)


def kinds_of(curves: Curves, context: Curves | None) -> IntArray:
    """(n_runs, n_kinds) codes of the text-valued settings in which the runs of the context differ."""
    base = curves if context is None else context
    out = []
    for name, dtype in base.attributes.schema.items():
        if not name.startswith("config.") or dtype != pl.String:
            continue
        levels = base.column(name).unique().drop_nulls().sort().to_list()
        if not 2 <= len(levels) <= 50 or len(levels) > 0.5 * len(base):
            continue
        code = {level: i for i, level in enumerate(levels)}
        values = curves.column(name).to_list() if name in curves.attributes.columns else [None] * len(curves)
        out.append([code.get(v, -1) for v in values])
    return np.array(out, dtype=np.int64).reshape(len(out), len(curves)).T


def parse_estimate(text: str) -> tuple[str, int]:
    """``final`` -> (final, 1), ``mean:5`` -> (mean, 5), ``best`` -> (best, 1); InputError otherwise."""
    kind, _, number = text.partition(":") if isinstance(text, str) else ("", "", "")
    if kind == "mean" and number.isdecimal() and int(number) >= 1:
        return "mean", int(number)
    if kind in ("final", "best") and kind == text:
        return kind, 1
    raise InputError(f"estimate is {short(text)}; allowed: 'final', 'mean:k' with k >= 1, 'best'")


def estimate_of(y: FloatArray, estimate: str, target: str, metric: Metric) -> float:
    """The estimate from all values of a run, (n,); for the latent curve of a long log, the mean of its last 64th."""
    kind, k = parse_estimate(estimate)
    if kind == "best":
        return float(y.min() if metric.goal == "min" else y.max())
    if kind == "final" and target == "latent":
        k = max(1, y.size // 64)
    return float(y[-k:].mean())


def make_forecaster(method: str, **settings: object) -> EnsembleForecaster:
    """``auto``: forms, naive continuations and the network; ``forms``: without the network; ``context``: the network that reads
    the other runs; or a form, naive continuation or the network (``lcpfn``) by name."""
    if not isinstance(method, str):
        raise unknown_name("method", method, ["auto", "forms", CONTEXT, NETWORK, *NAIVE, *FORMS])
    if method == CONTEXT:
        from farfield.curves.pfn.forecaster import ContextForecaster

        return ContextForecaster(**settings)
    if method in ("auto", "forms"):
        return EnsembleForecaster((*AUTO, NETWORK) if method == "auto" else AUTO, **settings)  # type: ignore[arg-type]
    if method not in (*NAIVE, NETWORK):
        try:
            method = get_form(method).name
        except InputError:
            raise unknown_name("method", method, ["auto", "forms", CONTEXT, NETWORK, *FORMS, *NAIVE]) from None
    return EnsembleForecaster((method,), **settings)  # type: ignore[arg-type]


def _scheduled(curves: Curves, spec: str | None) -> bool:
    """Whether the runs say anything of a learning-rate schedule."""
    if spec is not None or any(n in curves.covariates for n in ("lr", "learning_rate")):
        return True
    return any(c.startswith("config.") and "sched" in c.casefold() for c in curves.attributes.columns)


def origin_shift(curves: Curves) -> FloatArray:
    """(n,) what makes x positive, as `Batch.from_padded` does it, from the first two points alone."""
    n = len(curves)
    start = np.minimum(curves.offsets[:-1], max(curves.x.size - 1, 0))
    first = curves.x[start] if curves.x.size else np.zeros(n)
    second = curves.x[np.minimum(start + 1, curves.x.size - 1)] if curves.x.size else np.zeros(n)
    return np.where(first > 0, 0.0, np.where(curves.lengths > 1, second - first, 1.0) - first)
