"""Which runs to stop: the paper's rule, a rule by what going on earns, and the risk of all stops taken together.

Three rules find the candidates:

* ``probability`` (Adriaensen et al. 2023, arXiv 2310.20447, section 5.3): stop where P(y_t < best) <= 0.05 at *every* step t asked
  up to the end, `best` being the best value that any run has logged so far.
* ``regret``: letting run i go on improves the best value by G_i = E[(best of the others kept - V_i)+] on average and costs the
  x it still needs. Stop where G_i per unit of x is below the price: what a unit earns in a fresh run of the same kind, or the
  price given. Rivals that go raise the gain of those that stay, so runs go one at a time, the least gainful first.
* ``winner``: every run is a candidate, and `risk` alone decides.

Looking at every epoch with a threshold for each run kills winners in the end. So `risk` is spent: a run that is stopped takes its
P(ends best) *at that moment* with it for good, whatever is found later, and the sum over all stops, now and before, stays below
risk * sqrt(share of the way gone). With calibrated chances the expected share of sweeps that lose their winner is that sum, however
often one looks (were the chances of stopped runs judged anew, what they give back could be spent again and again). Late looks
know more, hence the root. The least likely go first. P(ends best) itself is found in `farfield.curves.stopping.standing`.

Nothing is stopped on an uncalibrated forecast, before a learning-rate decay that too few other runs went through, or under an
unknown schedule while too few runs were seen to their end, unless `despite` says so.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray

from farfield import checks
from farfield.curves.analogues import LEAST_LIKE
from farfield.curves.data import Curves, FloatArray, IntArray, as_curves
from farfield.curves.forecaster import EnsembleForecaster, Predicted, groups_of, make_forecaster, origin_shift, round_reach
from farfield.curves.forecasting import LEAST_FALL, first_status, horizons, joined
from farfield.curves.results import ForecastStatus
from farfield.curves.stopping.advice import Advice, StopStatus, plural, reason
from farfield.curves.stopping.joint import PRIOR_SHARE, Ends, ends, inverse, shared_part
from farfield.curves.stopping.standing import SettingsScore, ranks, standing
from farfield.curves.stopping.sweep import best_values
from farfield.errors import InputError, short
from farfield.predictive import Mixture
from farfield.seeds import Seed, generator
from farfield.wording import position

RULES = ("probability", "regret", "winner")
CAVEATS = ("uncalibrated", "decay", "schedule")
DEFAULT_THRESHOLD = {"probability": 0.05, "regret": 1.0, "winner": 1.0}
N_STEPS = 12
_DRAWS = 2000
# other runs are learnt from anew when they have grown by this share in all
_GROWTH = 1.2
_STOPPED = ("pruned", "killed")
_LIKELIER = 2.0


def stop_advice(
    curves: Curves,
    *,
    rule: str = "probability",
    threshold: float | None = None,
    risk: float = 0.05,
    to: ArrayLike | None = None,
    context: Curves | None = None,
    best: float | None = None,
    price: float | None = None,
    budget: float | None = None,
    despite: Collection[str] = (),
    estimate: str = "final",
    method: str = "forms",
    lr_schedule: str | None = None,
    rng: Seed = 0,
) -> Advice:
    """Which of the runs still going to stop now.

    Parameters
    ----------
    rule : ``probability`` (P(beats the best so far) <= threshold at every step), ``regret`` (gain per unit of x below the price) or
        ``winner`` (whatever the risk allows)
    threshold : None for 0.05 (``probability``) or 1.0, in units of the price (``regret``); without effect for ``winner``
    risk : bound on P(the winner is among the stopped), runs stopped earlier counted, spent as sqrt(share of the way); 1 for none
    to : x where the runs end; None for each run's planned end
    context : further runs to learn from
    best : a value to beat besides those logged, e.g. of a model in use
    price : for ``regret``: least gain worth a unit of x; None for what a fresh run of this kind earns
    budget : x that may still be spent on all runs. It then decides how many are stopped, instead of the rule and `risk`: so many
        that it suffices when the number of runs falls as 1 / x, as in successive halving; the least likely to end best go first,
        runs of fewer than 3 points among them
    despite : caveats to stop in spite of, of ``uncalibrated``, ``decay`` and ``schedule``
    estimate, method, lr_schedule : as in `farfield.forecast`
    rng : seed of the joint draws

    Raises InputError for an unknown rule, caveat, method, estimate or schedule, a number out of range, or a context of another
    metric.
    """
    adviser = Adviser(
        rule=rule, threshold=threshold, risk=risk, to=to, context=context, best=best, price=price, despite=despite,
        estimate=estimate, method=method, lr_schedule=lr_schedule, rng=rng,
    )  # fmt: skip
    return adviser.update(curves, budget=budget)


class Adviser:
    """Advice on runs that grow: `update(curves)` as often as points arrive.

    What is learnt from other runs is kept until they, or the number of those that finished, have grown by a fifth; the forecasts
    themselves are made anew each time, a fraction of a millisecond a run. Parameters as of `stop_advice`, and

    forecaster : fitted already: it is used as it is, nothing is learnt from the runs themselves, and `context`, `estimate`,
        `method` and `lr_schedule` have no effect

    `spent` holds P(ends best) of each run, by name, when it was last advised to stop it, `advised_at` the x it had then. Such a run
    is not forecast again once it has stopped; until it has grown, that others were stopped meanwhile does not raise its chance. For
    a run that was stopped by others it is what the draws say now.
    """

    def __init__(
        self, *, rule: str = "probability", threshold: float | None = None, risk: float = 0.05, to: ArrayLike | None = None,
        context: Curves | None = None, best: float | None = None, price: float | None = None, despite: Collection[str] = (),
        estimate: str = "final", method: str = "forms", lr_schedule: str | None = None, rng: Seed = 0,
        forecaster: EnsembleForecaster | None = None,
    ) -> None:  # fmt: skip
        self.rule = checks.choice("rule", rule, RULES)
        self.threshold = DEFAULT_THRESHOLD[rule] if threshold is None else float(checks.finite("threshold", threshold, ndim=0))
        if self.threshold < 0 or (rule == "probability" and self.threshold > 1):
            raise InputError(f"threshold is {threshold}; allowed: 0 or more" + (", at most 1" if rule == "probability" else ""))
        self.risk = float(checks.finite("risk", risk, ndim=0))
        if not 0 <= self.risk <= 1:
            raise InputError(f"risk is {risk}; allowed: a probability, 0 to 1 (1 for no bound)")
        despite = (despite,) if isinstance(despite, str) else despite
        if not isinstance(despite, Collection):
            raise InputError(f"despite is {short(despite)}; allowed: names of caveats, such as ('decay',)")
        for name in despite:
            checks.choice("despite", name, CAVEATS)
        self.best = None if best is None else float(checks.finite("best", best, ndim=0))
        self.price = None if price is None else float(checks.finite("price", price, ndim=0))
        if self.price is not None and self.price < 0:
            raise InputError(f"price is {price}; allowed: a gain per unit of x, 0 or more")
        self.to, self.context, self.despite, self.rng = to, context, frozenset(despite), rng
        self._fixed = forecaster is not None
        self.forecaster = forecaster or make_forecaster(method, estimate=estimate, lr_schedule=lr_schedule, censoring="reweight")
        self._learnt: tuple[int, ...] | None = None
        self._n_ended = 0 if forecaster is None else _n_ended(forecaster.context)
        self._shares: dict[float, float] = {}
        self.spent: dict[str, float] = {}
        self.advised_at: dict[str, float] = {}
        self._settings = None if forecaster is None else SettingsScore.fit(forecaster.context)

    def update(self, curves: Curves, *, budget: float | None = None) -> Advice:
        """Advice on `curves` as they stand. `budget`: x that may still be spent on all of them.

        Raises InputError as `stop_advice`.
        """
        as_curves("curves", curves)
        if budget is not None:
            checks.positive("budget", budget)
        self._learn(curves)
        at = horizons(curves, self.to)
        state = curves.column("status").to_list()
        first = first_status(curves, at, self.to is None)
        # a run that has ended does not go on, wherever it is asked about
        first = [ForecastStatus.FINISHED if s == "finished" else f for s, f in zip(state, first, strict=True)]
        gone = np.array([s in _STOPPED for s in state], dtype=bool)
        # what a stop advised here has risked is known, and nobody asks where the run would have ended
        closed = np.array([run in self.spent for run in curves.runs], dtype=bool) & gone
        rows = np.flatnonzero(np.array([s is ForecastStatus.CONTINUE for s in first], dtype=bool) & ~closed)
        predicted = None
        if rows.size:
            predicted = self.forecaster.predict_path(curves.take(rows), at[rows], np.arange(1, N_STEPS + 1) / N_STEPS)
        return self._decide(curves, at, first, gone, rows, predicted, budget)

    # -- learning -------------------------------------------------------------------------------------------------------

    def _learn(self, curves: Curves) -> None:
        """Fit on the runs and the context, where they have changed enough since."""
        if self._fixed:
            return
        finished = int((curves.column("status") == "finished").sum())
        steps = (int(np.log(max(k, 1)) / np.log(_GROWTH)) for k in (curves.x.size, finished))
        size = (*steps, len(curves))
        if size == self._learnt:
            return
        self.forecaster.fit(curves if self.context is None else joined(curves, self.context))
        self._learnt, self._shares, self._n_ended = size, {}, _n_ended(self.forecaster.context)
        self._settings = SettingsScore.fit(self.forecaster.context)

    def _share(self, curves: Curves, at: FloatArray) -> float:
        """The part of the errors that runs of a group share, at the middle of the reaches asked; `at` (n,) their ends."""
        shift = origin_shift(curves)
        reach = float(round_reach(np.array([np.median((at + shift) / (curves.last_x + shift))]))[0])
        if reach not in self._shares:
            self._shares[reach] = self._found_share(reach)
        return self._shares[reach]

    def _found_share(self, reach: float) -> float:
        evidence, look, cut = self.forecaster.evidence(reach)
        if len(evidence) < 2:
            return PRIOR_SHARE
        law, factor = self.forecaster.law(reach)
        seen, metric = look.outlook, cut.metric
        held_out = law.predictive(
            evidence.runs, seen.centre[:, -1], seen.scale[:, -1], exclude=evidence.groups, lower=metric.lower, upper=metric.upper
        )
        truth = seen.centre[:, -1] + seen.scale[:, -1] * evidence.errors[:, -1]
        return shared_part(held_out.rescaled(np.full(len(truth), factor)).cdf(truth), evidence.groups)

    # -- deciding -------------------------------------------------------------------------------------------------------

    def _decide(
        self, curves: Curves, at: FloatArray, first: list[ForecastStatus], gone: NDArray[np.bool_], rows: IntArray,
        predicted: Predicted | None, budget: float | None,
    ) -> Advice:  # fmt: skip
        n, goal = len(curves), curves.metric.goal
        sign = 1.0 if goal == "min" else -1.0
        had = best_values(curves, sign)
        incumbent = min(float(had.min()) if n else np.inf, np.inf if self.best is None else sign * self.best)
        share = PRIOR_SHARE if predicted is None else self._share(curves.take(rows), at[rows])
        final = None if predicted is None else predicted.predictive[:, -1:]
        if self.best is not None:  # the value to beat is one more run that has ended
            had = np.append(had, sign * self.best)
        groups = np.append(groups_of(curves), -1)[: had.size]
        flat = None if final is None else final[:, 0]
        drawn = ends(flat if flat is not None else _nothing(), rows, had, groups, share, goal, _DRAWS, generator(self.rng))

        p_beats, calibrated, fall = np.full(n, np.nan), np.zeros(n, dtype=bool), np.full(n, np.nan)
        median = np.where([s is ForecastStatus.FINISHED for s in first], curves.last_y, np.nan)
        if predicted is not None and final is not None:
            # strictly better: a value at the bound of the metric, which has a chance of its own, is not beaten by another there
            below = predicted.predictive.cdf(np.nextafter(incumbent, -np.inf) if sign > 0 else sign * incumbent)
            p_beats[rows] = (below if sign > 0 else 1.0 - below).max(axis=1)
            calibrated[rows], fall[rows] = predicted.calibrated, predicted.fall
            median[rows] = inverse(final[:, 0], np.full((1, rows.size), 0.5))[0]
        status = self._caveats(first, gone, calibrated, fall)
        live = np.array([s.live for s in status], dtype=bool)
        # nobody knows whether a diverged run is still going, so stopping it is not said to save anything
        going = live & np.isfinite(at) & np.array([s is not StopStatus.DIVERGED for s in status], dtype=bool)
        remaining = np.where(going, np.maximum(at - np.nan_to_num(curves.last_x), 0.0), 0.0)
        open_ = np.array([s is StopStatus.CONTINUE for s in status], dtype=bool)
        stopping, gain, price = self._candidates(drawn, open_, gone, p_beats, remaining, at)
        field = going & (curves.lengths > 0)
        reach = _reach(curves, at, field)
        told = field & np.isfinite(median)
        # values at equal x say nothing of runs that end elsewhere, or whose rate will fall
        unlike = bool(told.any()) and (_ends_differ(at[told]) or bool((np.nan_to_num(fall[told]) > LEAST_FALL).any()))
        rank = None if unlike else ranks(curves, field, sign)
        p_best = self._p_best(curves, drawn, field, rows, rank, reach)
        lost = self._lost(curves, np.where(field, p_best * drawn.new_part[:n], drawn.p_wins_yet[:n]), gone)
        if budget is None:
            self._within_risk(status, lost, stopping, gone, reach)
        else:
            short = np.array([s is StopStatus.TOO_SHORT for s in status], dtype=bool)
            _fit_budget(status, p_best, field & (open_ | short), at, curves.last_x, budget, self.forecaster.context)
        to_stop = [i for i, s in enumerate(status) if s is StopStatus.STOP]
        self.spent.update({curves.runs[i]: float(lost[i]) for i in to_stop})
        self.advised_at.update({curves.runs[i]: float(curves.last_x[i]) for i in to_stop})
        stopped = np.array([s.stops for s in status], dtype=bool) | gone
        ends_at = [f"{curves.x_name} {position(a)}" for a in at]
        why = tuple(
            reason(
                s, rule=self.rule, p=float(p_beats[i]), p_best=float(p_best[i]), best=sign * incumbent, end=ends_at[i], price=price,
                rate=float(gain[i] / remaining[i]) if remaining[i] > 0 else 0.0,
            )
            for i, s in enumerate(status)
        )  # fmt: skip
        return Advice(
            curves=curves, rule=self.rule, threshold=self.threshold, risk=self.risk, status=tuple(status), why=why,
            p_beats_best=p_beats, p_best=np.where(np.isfinite(had[:n]), p_best, np.nan), gain=gain, remaining=remaining, at=at,
            median=median, calibrated=calibrated, best=sign * incumbent if np.isfinite(incumbent) else np.nan,
            p_lose_winner=float(lost[stopped].sum()),
            expected_regret=drawn.regret(np.append(stopped, False)[: had.size]) if n and np.isfinite(incumbent) else 0.0,
            price=price, ends=drawn, final=final, forecast_index=rows, warnings=tuple(self._warnings(curves, status, at)),
        )  # fmt: skip

    def _p_best(
        self, curves: Curves, drawn: Ends, field: NDArray[np.bool_], rows: IntArray, rank: FloatArray | None, reach: float
    ) -> FloatArray:  # fmt: skip
        """(n,) P(ends best): draws, standing and settings together."""
        n = len(curves)
        forecast = np.zeros(drawn.had.size, dtype=bool)
        forecast[rows] = True
        extra = drawn.had.size - n
        score = None if self._settings is None else np.pad(self._settings.of(curves), (0, extra))
        if rank is not None:
            rank = np.pad(rank, (0, extra), constant_values=np.nan)
        return standing(drawn, np.pad(field, (0, extra)), forecast, rank, reach, score)[:n]

    def _lost(self, curves: Curves, chance: FloatArray, gone: NDArray[np.bool_]) -> FloatArray:
        """(n,) what stopping each run loses: its `chance` to end best now, or, where advice stands, that when it was given.

        Advice that stands costs no more than it did, unless the run has become much likelier to win.
        """
        spent = np.array([self.spent.get(run, np.nan) for run in curves.runs])
        same = np.array([self.advised_at.get(run, np.nan) for run in curves.runs]) == curves.last_x
        stands = np.isfinite(spent) & (gone | ((spent < chance) & (same | (chance <= _LIKELIER * spent))))
        return np.where(stands, spent, chance)

    def _caveats(
        self, first: list[ForecastStatus], gone: NDArray[np.bool_], calibrated: NDArray[np.bool_], fall: FloatArray
    ) -> list[StopStatus]:
        """What is known before any rule: CONTINUE where the run may be stopped if a rule says so."""
        plain = {
            ForecastStatus.DIVERGED: StopStatus.DIVERGED, ForecastStatus.TOO_SHORT: StopStatus.TOO_SHORT,
            ForecastStatus.NO_END: StopStatus.NO_END, ForecastStatus.FINISHED: StopStatus.ENDED,
        }  # fmt: skip
        out = []
        for i, status in enumerate(first):
            if gone[i]:
                out.append(StopStatus.STOPPED)
            elif status in plain:
                out.append(plain[status])
            elif fall[i] > LEAST_FALL and not calibrated[i] and "decay" not in self.despite:
                out.append(StopStatus.DECAY)
            elif not calibrated[i] and "uncalibrated" not in self.despite:
                out.append(StopStatus.UNCALIBRATED)
            elif np.isnan(fall[i]) and self._n_ended < LEAST_LIKE and "schedule" not in self.despite:
                out.append(StopStatus.SCHEDULE)
            else:
                out.append(StopStatus.CONTINUE)
        return out

    def _candidates(
        self,
        drawn: Ends,
        open_: NDArray[np.bool_],
        gone: NDArray[np.bool_],
        p_beats: FloatArray,
        remaining: FloatArray,
        at: FloatArray,
    ) -> tuple[NDArray[np.bool_], FloatArray, float]:
        """Runs the rule would stop, each run's gain, and the price."""
        n = open_.size
        gain = np.zeros(n)
        if not open_.any():
            return np.zeros(n, dtype=bool), gain, np.nan
        order, gains = _ordered(drawn, open_, gone, remaining)
        gain[order] = gains
        if self.rule == "winner":
            return open_.copy(), gain, np.nan
        if self.rule == "probability":
            return open_ & (p_beats <= self.threshold), gain, np.nan
        price = self.price
        if price is None:
            price = drawn.fresh_gain() / float(np.median(at[open_]))
        stopping = np.zeros(n, dtype=bool)
        # the first in the order that is worth its budget, and all after it, stay
        worth = gains >= self.threshold * price * remaining[order]
        stopping[order[: int(worth.argmax()) if worth.any() else order.size]] = True
        return stopping, gain, price

    def _within_risk(
        self, status: list[StopStatus], lost: FloatArray, stopping: NDArray[np.bool_], gone: NDArray[np.bool_], reach: float
    ) -> None:
        """Mark the candidates STOP, the least likely winner first, as long as what all stops lose stays within the risk spent."""
        rows = np.flatnonzero(stopping)
        rows = rows[np.argsort(lost[rows], kind="stable")]
        total = lost[gone].sum() + np.cumsum(lost[rows])
        # a run that cannot win costs nothing, whatever was spent before
        within = (total <= self.risk * np.sqrt(1.0 / reach)) | (lost[rows] <= 0) | (self.risk >= 1)
        for i, stops in zip(rows, within, strict=True):
            status[i] = StopStatus.STOP if stops else StopStatus.RISK

    def _warnings(self, curves: Curves, status: list[StopStatus], at: FloatArray) -> list[str]:
        out = []
        n = len(status)
        for kind in (StopStatus.UNCALIBRATED, StopStatus.DECAY, StopStatus.SCHEDULE, StopStatus.NO_END):
            some = sum(s is kind for s in status)
            if some:
                out.append(f"{some} of {n} runs wait: {kind.value.partition(': ')[2]}")
        going = np.array([s.live for s in status], dtype=bool) & np.isfinite(at)
        if going.any() and _ends_differ(at[going]):
            out.append(f"the runs end at different {plural(curves.x_name)}: each is judged at its own end")
        return out


def _ordered(drawn: Ends, open_: NDArray[np.bool_], gone: NDArray[np.bool_], remaining: FloatArray) -> tuple[IntArray, FloatArray]:
    extra = drawn.had.size - open_.size
    return drawn.least_gainful(
        np.pad(open_, (0, extra)), np.pad(remaining, (0, extra), constant_values=1.0), np.pad(gone, (0, extra))
    )


def _ends_differ(at: FloatArray) -> bool:
    return bool(np.ptp(at) > 0.01 * np.abs(at).max())


def _reach(curves: Curves, at: FloatArray, field: NDArray[np.bool_]) -> float:
    """The middle of end over last x in the field, 1 without any; x that begins at 0 is moved where a run is still there."""
    if not field.any():
        return 1.0
    shift = np.where(curves.last_x > 0, 0.0, origin_shift(curves))[field]
    return float(max(np.median((at[field] + shift) / (curves.last_x[field] + shift)), 1.0))


def _fit_budget(
    status: list[StopStatus], p_best: FloatArray, left: NDArray[np.bool_], at: FloatArray, last: FloatArray, budget: float,
    known: Curves | None,
) -> None:  # fmt: skip
    """Stop runs, in place, until the budget suffices for those that stay when their number falls as 1 / x down to one.

    Runs can be stopped at the x that the other runs log at; without any, everywhere.
    """
    n = int(left.sum())
    if n < 2 or (at - last)[left].sum() <= budget:
        return
    rows = np.flatnonzero(left)
    order = rows[np.argsort(p_best[rows], kind="stable")]
    end, now = float(at[left].mean()), max(float(last[left].mean()), 1e-9 * float(np.abs(at[left]).mean()))
    k = np.arange(1, n + 1)
    looks = _looks(known, now, end)
    if looks is None:
        alone = np.minimum(k * now, end)  # where one run is left
        cost = k * now * np.log(alone / now) + end - alone
    else:
        begin, length = looks[:-1], np.diff(looks)
        cost = np.maximum(k[:, None] * now / begin, 1.0) @ length
    keep = max(int((cost <= budget).sum()), 1)
    for i in order[: n - keep]:
        status[i] = StopStatus.STOP


def _looks(known: Curves | None, now: float, end: float) -> FloatArray | None:
    """Every x from `now` to `end` at which runs can be looked at: those of the run that ends nearest."""
    if known is None or not len(known) or not end > now:
        return None
    near = int(np.argmin(np.abs(known.last_x - end)))
    x = known.x[known.points(near)]
    between = x[(x > now * (1 + 1e-9)) & (x < end * (1 - 1e-9))]
    return np.concatenate([[now], between, [end]]) if between.size else None


def _n_ended(known: Curves | None) -> int:
    """Runs that were seen to their planned end, or that finished and had none."""
    if known is None:
        return 0
    planned = known.column("planned_end").cast(float).to_numpy()
    return int(((known.column("status") == "finished").to_numpy() & ~(known.last_x < 0.99 * planned)).sum())


def _nothing() -> Mixture:
    blank = np.zeros((0, 1))
    return Mixture(blank + 1.0, blank, blank + 1.0)
