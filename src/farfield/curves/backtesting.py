"""Backtest: hide the far end of every run, forecast it, and score the forecasts against what was hidden. Nested.

Every run is cut so that its own last point lies at a given reach. The runs of its whole group leave before anything is
learnt: error law, scaling of the intervals, choice of the best single form and the bands of the baselines come from
the other groups, cut at the same reach. What lies beyond a run's cut enters nothing but its score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from farfield import checks
from farfield.curves.analogues import LEAST_RUNS
from farfield.curves.data import Curves, FloatArray, IntArray, as_curves
from farfield.curves.ensemble import ANNEALING, NAIVE
from farfield.curves.forecaster import EnsembleForecaster, calibrate, make_forecaster, round_reach
from farfield.curves.results import Backtest
from farfield.errors import InputError, short
from farfield.intervals import cluster_bootstrap_ratio, interval_score
from farfield.predictive import Mixture, Predictive
from farfield.seeds import Seed, child, root
from farfield.wording import count

REACHES = (1.25, 2.0, 4.0)
OURS = "farfield"
BASELINES = {"last value": "last", "mean of last 5": "mean5", "best so far": "best", "best single form": ""}
_LEVELS = (0.5, 0.8, 0.9)
_FOLDS = 10
# a baseline's band: so many quantiles of the errors it made on the other groups
_BAND = 41


def backtest(
    curves: Curves,
    *,
    estimate: str = "final",
    method: str = "auto",
    lr_schedule: str | None = None,
    level: float = 0.8,
    reaches: Sequence[float] = REACHES,
    n_boot: int = 1000,
    rng: Seed = 0,
) -> Backtest:
    """Score `method` on the hidden ends of `curves`, against simple continuations and the best single form.

    Parameters
    ----------
    estimate, method, lr_schedule, level : as in `farfield.forecast`
    reaches : how far beyond its cut each run's end is to lie, as last x over cut x; each above 1
    n_boot, rng : resamples (of whole groups) of the scores' intervals, and their seed

    Raises InputError where no run is long enough to be cut, or a reach is not above 1.
    """
    as_curves("curves", curves)
    asked = checks.numbers("reaches", reaches)
    if asked.ndim != 1 or not asked.size or not (asked > 1.0).all():
        raise InputError(f"reaches is {short(reaches)}; allowed: numbers above 1, e.g. {REACHES}")
    forecaster = make_forecaster(method, level=level, estimate=estimate, lr_schedule=lr_schedule).fit(curves)
    found = scored(forecaster, reaches=asked, n_boot=n_boot, rng=rng)
    if found is None:
        raise InputError(
            f"none of {count(len(curves), 'run')} can be scored: a run needs 3 points before its cut and 1 beyond, and runs of at "
            f"least 2 groups; the longest has {int(curves.lengths.max()) if len(curves) else 0} points"
        )
    return found


def scored(
    forecaster: EnsembleForecaster, *, reaches: Sequence[float] | FloatArray = REACHES, n_boot: int = 300,
    most: int | None = None, rng: Seed = 0,
) -> Backtest | None:  # fmt: skip
    """The backtest of a fitted forecaster on its own context; None where nothing can be scored.

    most : runs to score at each reach, whole groups drawn at random; None for all
    """
    parts: list[pl.DataFrame] = []
    predictions: dict[str, list[FloatArray]] = {name: [] for name in (OURS, *BASELINES)}
    context = None
    for reach in np.unique(round_reach(np.asarray(reaches, dtype=np.float64))):
        evidence, look, context = forecaster.evidence(float(reach))
        if np.unique(evidence.groups).size < 2:
            continue
        if most is not None and len(evidence) > most:
            some = _some_groups(evidence.groups, most)
            evidence, look, context = evidence.take(some), look.take(some), context.take(some)
        folds = _folds(evidence.groups)
        seen = look.outlook
        centre, scale, truth = (
            seen.centre[:, -1],
            seen.scale[:, -1],
            seen.centre[:, -1] + seen.scale[:, -1] * evidence.errors[:, -1],
        )
        forecasts: dict[str, list[tuple[IntArray, Mixture]]] = {name: [] for name in predictions}
        factors, others = np.ones(len(truth)), np.full((len(truth), len(_COLUMNS)), np.nan)
        lower, upper = forecaster.bounds(context)
        for fold in np.unique(folds):
            test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            own = forecaster.held_out(context, look, test, train)
            if own is not None:
                others[test] = _columns(own, truth[test])
            law, factor = calibrate(evidence.take(train), centre[train], scale[train], context.metric, forecaster.level)
            factors[test] = np.where(law.informs(evidence.runs.take(test)), factor, 1.0)
            ours = law.predictive(evidence.runs.take(test), centre[test], scale[test], lower=lower[test, 0], upper=upper[test, 0])
            forecasts[OURS].append((test, ours))
            for name, member in BASELINES.items():
                column = _member(seen.members, member) if member else _chosen(seen.members, seen.values[:, :, -1], truth, train)
                value = seen.values[:, column, -1] if column is not None else forecaster.naive(context, member)
                if value is not None:
                    forecasts[name].append((test, _band(value[test], truth[train] - value[train])))
        table = {name: np.full((len(truth), len(_COLUMNS)), np.nan) for name in predictions}
        for name, found in forecasts.items():
            if found:
                # as one batch: quantiles of many rows cost little more than those of few
                order, mixture = np.concatenate([rows for rows, _ in found]), type(found[0][1]).concatenate([m for _, m in found])
                table[name][order] = _columns(mixture.rescaled(factors[order]) if name == OURS else mixture, truth[order])
        table[OURS] = np.where(np.isnan(others), table[OURS], others)
        parts.append(_rows(context, look.at[:, -1], look.reach, float(reach), truth, table[OURS], evidence.groups))
        for name, values in table.items():
            predictions[name].append(values)
    if not parts or context is None:
        return None
    rows = pl.concat(parts)
    scores = _scores(rows, {k: np.concatenate(v) for k, v in predictions.items()}, n_boot, rng)
    warnings = []
    if rows.height < LEAST_RUNS:
        warnings.append(f"only {rows.height} forecasts could be scored: the figures say little")
    return Backtest(
        scores=scores, rows=rows.drop("band", "code"), metric=context.metric, x_name=context.x_name, method=OURS,
        target="latent" if forecaster.target == "latent" else "logged", warnings=tuple(warnings),
    )  # fmt: skip


# -- one fold -------------------------------------------------------------------------------------------------------------

_QUANTILES = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
_COLUMNS = ("log_likelihood", "crps", *(f"q{q:g}" for q in _QUANTILES))


def _columns(predictive: Predictive, truth: FloatArray) -> FloatArray:
    """(n, n_columns): log-likelihood (kept finite), CRPS and quantiles of each forecast."""
    likelihood = np.maximum(predictive.log_prob(truth), -1e9)
    return np.column_stack([likelihood, predictive.crps(truth), predictive.quantile(_QUANTILES).T])


def _band(value: FloatArray, errors: FloatArray) -> Mixture:
    """A constant band about a point forecast: the errors it made on other runs, smoothed."""
    levels = (np.arange(_BAND) + 0.5) / _BAND
    shape = np.quantile(errors, levels)
    spread = min(float(errors.std()), float(np.subtract(*np.quantile(errors, [0.75, 0.25]))) / 1.349) or float(errors.std())
    width = 0.9 * spread * errors.size**-0.2 + 1e-9 * (1.0 + float(np.abs(value).max()))
    loc = value[:, None] + shape
    return Mixture(np.full(loc.shape, 1.0 / _BAND), loc, np.full(loc.shape, width))


def _member(members: tuple[str, ...], name: str) -> int | None:
    return members.index(name) if name in members else None


def _chosen(members: tuple[str, ...], values: FloatArray, truth: FloatArray, train: IntArray) -> int | None:
    """The curve form with the least mean error on the other groups."""
    forms = [j for j, name in enumerate(members) if name not in NAIVE and name != ANNEALING]
    if not forms:
        return None
    errors = np.abs(values[train][:, forms] - truth[train, None]).mean(axis=0)
    return forms[int(errors.argmin())]


def _some_groups(groups: IntArray, most: int) -> IntArray:
    """Rows of whole groups, drawn at random until there are `most` of them."""
    names = np.random.default_rng(0).permutation(np.unique(groups))
    size = np.bincount(groups)[names]
    chosen = names[: max(2, int(np.searchsorted(np.cumsum(size), most, side="right")))]
    return np.flatnonzero(np.isin(groups, chosen))


def _folds(groups: IntArray) -> IntArray:
    """Fold of each run: whole groups, the large ones spread first."""
    names, code, size = np.unique(groups, return_inverse=True, return_counts=True)
    n_folds = min(_FOLDS, names.size)
    load, place = np.zeros(n_folds), np.zeros(names.size, dtype=np.int64)
    for group in np.argsort(-size, kind="stable"):
        place[group] = int(load.argmin())
        load[place[group]] += size[group]
    fold: IntArray = place[code]
    return fold


# -- tables ---------------------------------------------------------------------------------------------------------------


def _rows(
    cut: Curves, at: FloatArray, reach: FloatArray, band: float, truth: FloatArray, ours: FloatArray, groups: IntArray
) -> pl.DataFrame:
    quantile = dict(zip(_COLUMNS, ours.T, strict=True))
    return pl.DataFrame(
        {
            "run": pl.Series(cut.runs, dtype=pl.String),
            "group": cut.column("group"),
            "cut": cut.last_x,
            "at": at,
            "reach": reach,
            "y_true": truth,
            "median": quantile["q0.5"],
            "low80": quantile["q0.1"],
            "high80": quantile["q0.9"],
            "band": np.full(len(cut), band),
            "code": groups,
        }
    )


def _scores(rows: pl.DataFrame, tables: dict[str, FloatArray], n_boot: int, rng: Seed) -> pl.DataFrame:
    """Mean scores a method and band of reach, each with its cluster-bootstrap interval."""
    truth, band, code = (rows[c].to_numpy() for c in ("y_true", "band", "code"))
    _, cluster = np.unique(
        pl.Series(rows["group"].fill_null("") + "\0" + rows["code"].cast(pl.String)).to_numpy(), return_inverse=True
    )
    edges = np.unique(band)
    middle = np.sqrt(edges[1:] * edges[:-1])
    limits = np.concatenate([[1.0], middle, [max(float(rows["reach"].max() or 1.0), float(edges[-1]))]])  # type: ignore[arg-type]
    seeds = root(rng)
    out = []
    for i, (name, table) in enumerate(tables.items()):
        values = _score_columns(table, truth)
        for j, reach in enumerate([None, *edges]):
            use = np.isfinite(table[:, 1]) & (np.ones(len(band), dtype=bool) if reach is None else band == reach)
            if not use.any():
                continue
            row: dict[str, object] = {
                "method": name,
                "reach_low": None if reach is None else float(limits[j - 1]),
                "reach_high": None if reach is None else float(limits[j]),
                "n": int(use.sum()),
                "n_runs": rows.filter(pl.Series(use))["run"].n_unique(),
                "n_groups": int(np.unique(code[use]).size),
            }
            data = np.column_stack([values[s][use] for s in Backtest.SCORES])
            mean = data.mean(axis=0)
            low = high = np.full(mean.shape, np.nan)
            if np.unique(cluster[use]).size >= 2:
                low, high = cluster_bootstrap_ratio(data, np.ones(data.shape), cluster[use], n_boot=n_boot, rng=child(seeds, i, j))
            for s, score in enumerate(Backtest.SCORES):
                row[score], row[f"{score}_low"], row[f"{score}_high"] = float(mean[s]), float(low[s]), float(high[s])
            out.append(row)
    return pl.DataFrame(out, infer_schema_length=None).with_columns(pl.col(pl.Float64).fill_nan(None))


def _score_columns(table: FloatArray, truth: FloatArray) -> dict[str, FloatArray]:
    quantile = dict(zip(_COLUMNS, table.T, strict=True))
    out = {
        "mae": np.abs(quantile["q0.5"] - truth),
        "crps": quantile["crps"],
        "log_likelihood": quantile["log_likelihood"],
        "interval_score80": interval_score(quantile["q0.1"], quantile["q0.9"], truth, 0.8),
    }
    for level in _LEVELS:
        low, high = quantile[f"q{(1 - level) / 2:g}"], quantile[f"q{(1 + level) / 2:g}"]
        out[f"coverage{100 * level:.0f}"] = ((truth >= low) & (truth <= high)).astype(np.float64)
        out[f"width{100 * level:.0f}"] = high - low
    return out
