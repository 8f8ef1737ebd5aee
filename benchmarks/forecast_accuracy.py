"""Forecasts of real learning curves against simple ones: LCDB, TaskSet, Gemstones and the example runs.

    FARFIELD_DATA=... python benchmarks/forecast_accuracy.py [lcdb] [taskset] [gemstones] [examples]

Every figure is for runs whose whole group (data set, task, setting) was left out of everything that was learnt. Intervals
are cluster bootstraps over those groups. Rows go to results/bench_forecast_accuracy.json.

Some numbers of the method (recency, temper, sharpness of the weights, number of neighbours, weight of the schedule) were chosen
with these collections in view, first on every other data set of LCDB; its other half is reported apart as ``other_half``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import farfield as ff
from farfield.curves.fit import Batch, fit_form
from farfield.curves.forecaster import make_forecaster
from farfield.curves.forms import get_form
from farfield.intervals import bootstrap, cluster_bootstrap_ratio, interval_score

DATA = Path(os.environ.get("FARFIELD_DATA", "data")) / "curves"
HERE = Path(__file__).resolve().parent.parent
QUANTILES = np.array([0.1, 0.5, 0.9])


def ratio(ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Mean of ours over mean of theirs, with a 95 % cluster-bootstrap interval."""
    low, high = cluster_bootstrap_ratio(ours, theirs, groups, n_boot=1000, rng=0)
    return {"value": float(ours.mean() / theirs.mean()), "low": float(low), "high": float(high)}


def mean(values: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    low, high = bootstrap(values, clusters=groups, n_boot=1000, rng=0)
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def best_band_score(change: np.ndarray, level: float = 0.8) -> np.ndarray:
    """Interval scores of the best constant band about the last value, its two edges chosen in hindsight on these very runs."""
    lows, highs = np.quantile(change, np.linspace(0.0, 0.3, 31)), np.quantile(change, np.linspace(0.7, 1.0, 31))
    scores = [interval_score(np.full_like(change, a), np.full_like(change, b), change, level) for a in lows for b in highs]
    return min(scores, key=lambda s: float(s.mean()))


def interval_rows(q: np.ndarray, truth: np.ndarray, last: np.ndarray, groups: np.ndarray) -> dict[str, object]:
    covered = ((truth >= q[0]) & (truth <= q[2])).astype(float)
    names = np.unique(groups)
    each = np.sort([covered[groups == g].mean() for g in names])
    worst = each[: max(1, round(0.1 * names.size))]
    return {
        "coverage80": mean(covered, groups),
        "coverage80_worst_tenth_of_groups_mean": float(worst.mean()),
        "coverage80_worst_tenth_of_groups_edge": float(worst[-1]),
        "interval_score_over_best_constant_band": ratio(
            interval_score(q[0], q[2], truth, 0.8), best_band_score(truth - last), groups
        ),
    }


def held_out(curves: ff.Curves, whole: ff.Curves, at: np.ndarray, folds: np.ndarray, method: str = "auto") -> np.ndarray:
    """(3, n) quantiles for `curves` cut from `whole`, each fold forecast by a forecaster fitted on the others."""
    q = np.empty((3, len(curves)))
    for fold in np.unique(folds):
        test = folds == fold
        forecaster = make_forecaster(method).fit(whole.take(~test))
        q[:, test] = forecaster.predict(curves.take(test), at[test, None]).quantile(QUANTILES)[:, :, 0]
    return q


def single_form(name: str, curves: ff.Curves, at: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Least-squares fit of one form, within the metric's bounds; the last value where it is not finite."""
    x, y, seen = curves.padded()
    batch = Batch.from_padded(np.nan_to_num(x), np.nan_to_num(y), seen.astype(float))
    value = fit_form(get_form(name), batch).predict(at[:, None])[:, 0]
    value = np.where(np.isfinite(value), value, last)
    return np.clip(value, curves.metric.lower, curves.metric.upper)


# -- LCDB ---------------------------------------------------------------------------------------------------------------------


def lcdb_curves() -> ff.Curves:
    """Error rates of learners against training sizes, ten sizes or more, by data set."""
    frame = pl.read_csv(DATA / "lcdb_accuracy.csv.gz").with_columns(error=1 - pl.col("test")).filter(pl.col("error").is_finite())
    frame = frame.with_columns(run=pl.col("openmlid").cast(pl.String) + "/" + pl.col("learner"))
    frame = frame.filter(pl.len().over("run") >= 10).sort("openmlid", "learner", "size_train")
    table = frame.group_by("run", maintain_order=True).agg(pl.first("openmlid"), pl.first("learner"))
    attributes = [{"run": r, "group": str(g), "config.learner": m, "status": "finished"} for r, g, m in table.iter_rows()]
    return ff.Curves.from_points(
        frame["run"].to_list(), frame["size_train"].to_numpy(), frame["error"].to_numpy(), attributes=attributes,
        metric=ff.Metric("error", "min", 0.0, 1.0), x_name="size_train",
    )  # fmt: skip


def lcdb() -> dict[str, object]:
    whole = lcdb_curves()
    at, truth = whole.last_x, whole.last_y
    seen = whole.upto(0.25 * at)
    last = seen.last_y
    groups = np.array([int(g) for g in whole.column("group")])
    ids, code = np.unique(groups, return_inverse=True)
    errors = {"last": np.abs(last - truth)}
    for name in ("pow3", "exp3", "mmf"):
        errors[name] = np.abs(single_form(name, seen, at, last) - truth)
    alone = make_forecaster("auto").predict(seen, at[:, None]).quantile(QUANTILES)[:, :, 0]
    started = time.perf_counter()
    q = held_out(seen, whole, at, code % 5)
    errors["alone"], errors["with others"] = np.abs(alone[1] - truth), np.abs(q[1] - truth)
    other = ~np.isin(groups, ids[::2])
    return {
        "curves": len(whole),
        "data_sets": int(ids.size),
        "mae": {k: mean(v, groups) for k, v in errors.items()},
        "median_error": {k: float(np.median(v)) for k, v in errors.items()},
        "alone_over_last": ratio(errors["alone"], errors["last"], groups),
        "alone_over_pow3": ratio(errors["alone"], errors["pow3"], groups),
        "with_others_over_last": ratio(errors["with others"], errors["last"], groups),
        "other_half": {
            "alone_over_last": ratio(errors["alone"][other], errors["last"][other], groups[other]),
            "with_others_over_last": ratio(errors["with others"][other], errors["last"][other], groups[other]),
        },
        "intervals": interval_rows(q, truth, last, groups),
        "intervals_alone_uncalibrated": interval_rows(alone, truth, last, groups),
        "seconds_with_others": time.perf_counter() - started,
    }


# -- TaskSet ------------------------------------------------------------------------------------------------------------------


def taskset_curves(cut: int) -> ff.Curves:
    """Losses clipped at twice the task's median start; finite runs whose loss at epoch `cut` lies below the clip."""
    frame = pl.read_csv(DATA / "taskset_imdb_valid_loss.csv.gz", infer_schema_length=None)
    task = frame["task"].to_numpy()
    loss = frame.select(f"e{i}" for i in range(51)).cast(pl.Float64, strict=False).to_numpy()
    clips = {t: 2 * np.nanmedian(loss[task == t, 0]) for t in np.unique(task)}
    clip = np.array([clips[t] for t in task])
    rows = np.flatnonzero(np.isfinite(loss).all(axis=1) & (loss[:, cut] < clip))
    y = np.minimum(loss[rows], clip[rows, None])
    return ff.Curves.from_points(
        np.repeat([f"{task[r]}/{r}" for r in rows], 51), np.tile(np.arange(51.0), rows.size), y.ravel(),
        attributes=[{"run": f"{task[r]}/{r}", "group": task[r], "status": "finished"} for r in rows],
        metric=ff.Metric("valid_loss", "min", 0.0), x_name="epoch",
    )  # fmt: skip


def taskset() -> dict[str, object]:
    """Loss of the last epoch of `taskset_curves`."""
    out: dict[str, object] = {}
    for cut in (5, 10, 20, 40):
        whole = taskset_curves(cut)
        n = len(whole)
        seen, truth = whole.upto(float(cut)), whole.last_y
        last, best = seen.last_y, np.minimum.reduceat(seen.y, seen.offsets[:-1])
        groups = np.unique(whole.column("group").to_numpy(), return_inverse=True)[1]
        q = held_out(seen, whole, np.full(n, 50.0), groups)
        top = np.zeros(n, dtype=bool)
        for g in np.unique(groups):
            members = np.flatnonzero(groups == g)
            top[members[np.argsort(truth[members])[: members.size // 10]]] = True
        errors = {"last": np.abs(last - truth), "best so far": np.abs(best - truth), "ours": np.abs(q[1] - truth)}
        row: dict[str, object] = {"runs": n}
        for label, mask in (("all", np.ones(n, dtype=bool)), ("final_top_tenth", top)):
            base = min(("last", "best so far"), key=lambda k: float(errors[k][mask].mean()))
            row[label] = {
                "mae": {k: float(v[mask].mean()) for k, v in errors.items()},
                "over_better_baseline": ratio(errors["ours"][mask], errors[base][mask], groups[mask]),
            }
        row["intervals"] = interval_rows(q, truth, last, groups)
        out[f"cut {cut}"] = row
        print(f"taskset cut {cut}: {json.dumps(row, default=float)[:400]}", file=sys.stderr, flush=True)
    return out


# -- Gemstones ----------------------------------------------------------------------------------------------------------------


def gemstones_curves() -> ff.Curves:
    frame = pl.read_csv(DATA / "gemstones_train_loss.csv.gz")
    return ff.Curves.from_points(
        frame["run_name"].to_list(), frame["tokens"].to_numpy(), frame["train_loss"].to_numpy(),
        metric=ff.Metric("train_loss", "min", 0.0), x_name="tokens",
    )  # fmt: skip


def gemstones() -> dict[str, object]:
    """Every later point after 30 % of the tokens; 15 runs that move together, each forecast alone and with the others."""
    whole = gemstones_curves()
    end = whole.last_x
    seen = whole.upto(0.3 * end)
    x, y, mask = whole.padded()
    later = mask & (x > 0.3 * end[:, None])
    batch_x, batch_y, batch_mask = seen.padded()
    batch = Batch.from_padded(np.nan_to_num(batch_x), np.nan_to_num(batch_y), batch_mask.astype(float))
    at = np.where(mask, x, end[:, None])
    values = {
        "last 5": np.repeat(np.array([seen.y[seen.points(i)][-5:].mean() for i in range(len(seen))])[:, None], at.shape[1], 1)
    }
    for name in ("pow3", "exp3", "pow4", "mmf"):
        values[name] = fit_form(get_form(name), batch).predict(at)
    shares = np.linspace(0.05, 1.0, 20)
    covered = []
    for label in ("alone", "with others"):
        middle = np.empty_like(at)
        for i in range(len(whole)):
            forecaster = make_forecaster("auto")
            if label == "with others":
                forecaster.fit(whole.take([j for j in range(len(whole)) if j != i]))
            found = forecaster.predict_path(seen.take([i]), end[i : i + 1], shares)
            q = found.predictive.quantile(QUANTILES)[:, 0]
            low, middle[i], high = (np.interp(at[i], found.at[0], q[k]) for k in range(3))
            if label == "with others":
                covered.append(((y[i] >= low) & (y[i] <= high))[later[i]].mean())
        values[label] = middle
    runs = np.repeat(np.arange(len(whole)), later.sum(axis=1))
    return {
        "runs": len(whole),
        "mae": {k: mean(np.abs(v - y)[later], runs) for k, v in values.items()},
        "coverage80_reported": float(np.mean(covered)),
    }


# -- example runs -------------------------------------------------------------------------------------------------------------


def examples() -> dict[str, object]:
    """Runs with cosine and WSD schedules, cut before (WSD) or early in (cosine, 55 %) the decay; against schedule-blind forms."""
    whole = ff.read_runs(HERE / "examples" / "runs", metric="val_loss")
    status, kind = (whole.column(c).to_numpy() for c in ("status", "config.schedule"))
    task = whole.column("config.task").to_numpy()
    finished = whole.take((status == "finished") & (task != "diabetes"))
    kind = finished.column("config.schedule").to_numpy()
    planned = finished.column("planned_end").to_numpy()
    decay = finished.column("config.decay_fraction").fill_null(0.45).to_numpy()
    names = sorted(set(finished.column("group").to_list()))
    groups = np.array([names.index(g) for g in finished.column("group")])
    use = np.flatnonzero(np.isin(kind, ("wsd", "cosine")))
    cut = planned * (1 - decay)
    seen = finished.upto(cut)
    q = np.empty((3, use.size))
    for k, i in enumerate(use):
        forecaster = make_forecaster("auto").fit(finished.take(groups != groups[i]))
        q[:, k] = forecaster.predict(seen.take([i]), np.array([finished.last_x[i]])).quantile(QUANTILES)[:, 0, 0]
    truth, some, at = finished.last_y[use], seen.take(use), finished.last_x[use]
    blind = {name: np.abs(single_form(name, some, at, some.last_y) - truth) for name in ("pow3", "exp3", "pow4", "mmf")}
    ours = np.abs(q[1] - truth)
    covered = ((truth >= q[0]) & (truth <= q[2])).astype(float)
    out: dict[str, object] = {"runs": int(use.size), "groups": int(np.unique(groups[use]).size)}
    for label, mask in (("both", np.ones(use.size, dtype=bool)), ("wsd", kind[use] == "wsd"), ("cosine", kind[use] == "cosine")):
        g = groups[use][mask]
        out[label] = {
            "mae": {"ours": mean(ours[mask], g), **{k: mean(v[mask], g) for k, v in blind.items()}},
            "over_pow3": ratio(ours[mask], blind["pow3"][mask], g),
            "over_best_blind": ratio(ours[mask], min((v[mask] for v in blind.values()), key=lambda v: float(v.mean())), g),
            "coverage80": mean(covered[mask], g),
        }
    return out


def measure(name: str, parts: Mapping[str, Callable[[], dict[str, Any]]], usual: Sequence[str]) -> None:
    """Run the parts that the command line names (else the usual ones) and put their rows in results/bench_NAME.json."""
    path = HERE / "results" / f"bench_{name}.json"
    results = json.loads(path.read_text()) if path.exists() else {"name": name}
    for part in sys.argv[1:] or usual:
        started = time.perf_counter()
        results[part] = parts[part]()
        results[part]["seconds"] = round(time.perf_counter() - started, 1)
        print(json.dumps({part: results[part]}, indent=1))
    results["versions"] = {"farfield": ff.__version__, "numpy": np.__version__}
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parts = {"lcdb": lcdb, "taskset": taskset, "gemstones": gemstones, "examples": examples}
    measure("forecast_accuracy", parts, list(parts))
