"""Does stopping on forecasts save budget without losing the winner? TaskSet and LCDB, true ends known.

    FARFIELD_DATA=... python benchmarks/stopping.py [orderings] [peeking] [reliability] [censored] [skip-lcdb] [skip-taskset]

* orderings: the protocol of LC-PFN (arXiv 2310.20447, section 5.3). Configurations in random order, each trained until the rule
  stops it; epochs until the best found matches what 20 full trainings found, on average over 20 orderings.
* peeking: sweeps that advance together, advice at every epoch (LCDB: at every size); ours against asynchronous halving, Optuna's
  median rule and the last value, each peer at the budget it used itself. Regret is in units of (median start - best of the task).
* reliability: P(ends best) and P(beats X) of sweeps left alone, against the last value.
* censored: a sweep pruned by halving; coverage of 80 % intervals for runs that got through and for those that were pruned.

Peeking takes only tasks and data sets on which nothing was designed (`Collection.held_out`); so does reliability on LCDB, while on
TaskSet it takes all eight tasks, for four have too few sweeps in which the last value errs at all.
A forecaster has seen 300 runs of other tasks (data sets), never one of the sweep's own. Intervals: bootstrap over tasks (sets).
Rows go to results/bench_stopping.json.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from stopping_data import Collection, lcdb, taskset

import farfield as ff
from farfield.curves.forecaster import EnsembleForecaster
from farfield.curves.stopping.sweep import best_values
from farfield.intervals import bootstrap, cluster_bootstrap_ratio

RESULTS = Path(__file__).resolve().parent.parent / "results" / "bench_stopping.json"
N_RUNS = 30
STEPS = np.arange(1, 13) / 12
Decide = Callable[[float, np.ndarray, np.ndarray], np.ndarray]


def mean(values: list[float] | np.ndarray, groups: list[str] | np.ndarray) -> dict[str, float]:
    """A mean with its 95 % cluster-bootstrap interval."""
    v = np.asarray(values, dtype=float)
    low, high = bootstrap(v, clusters=np.asarray(groups), n_boot=1000, rng=0)
    return {"value": float(v.mean()), "low": float(low), "high": float(high)}


# -- orderings ----------------------------------------------------------------------------------------------------------------

POOL, ORDERINGS, FULL, NODES = 40, 20, 20, 12


def chances(whole: ff.Curves, forecaster: EnsembleForecaster, values: np.ndarray) -> np.ndarray:
    """(51, n_runs, n_values) greatest P(beats the value) over the steps to epoch 50, seen to each epoch; 1 where not forecast."""
    out = np.ones((51, len(whole), values.size))
    for epoch in range(2, 50):
        rows = np.flatnonzero(whole.last_x > epoch)
        found = forecaster.predict_path(whole.take(rows).upto(float(epoch)), np.full(rows.size, 50.0), STEPS).predictive
        for k, value in enumerate(values):
            out[epoch, rows, k] = found.cdf(value).max(axis=1)
    return out


def trained(y: np.ndarray, p: np.ndarray, values: np.ndarray, order: np.ndarray, threshold: float, budget: int) -> np.ndarray:
    """(n_epochs,) best loss after each epoch spent, configurations one after another; y (n, 51), NaN after divergence."""
    best, trace = np.inf, []
    for i in order:
        for epoch in range(1, 51):
            if not np.isfinite(y[i, epoch]):
                trace.append(best)
                break
            best = min(best, y[i, 0], y[i, epoch])
            trace.append(best)
            if len(trace) >= budget:
                return np.array(trace)
            if threshold and 2 <= epoch < 50 and np.interp(best, values, p[epoch, i]) <= threshold:
                break
    return np.array(trace)


def orderings(collection: Collection) -> dict[str, object]:
    rng = np.random.default_rng(11)
    rows: dict[str, list[dict[str, float | str]]] = {"other tasks seen": [], "each run alone": []}
    budget = 50 * FULL
    for task in np.unique(collection.groups):
        pool = np.sort(rng.choice(np.flatnonzero(collection.groups == task), POOL, replace=False))
        whole = collection.whole.take(pool)
        y = np.full((POOL, 51), np.nan)
        y[whole.run_index, whole.x.astype(int)] = whole.y
        values = np.unique(np.quantile(best_values(whole, 1.0), np.linspace(0, 1, NODES)))
        scale = float(np.median(y[:, 0]) - np.nanmin(y))
        orders = [rng.permutation(POOL) for _ in range(ORDERINGS)]
        full = np.array([trained(y, y, values, o, 0.0, budget)[-1] for o in orders])
        for name in rows:
            forecaster = collection.forecaster(task) if name == "other tasks seen" else EnsembleForecaster()
            p = chances(whole, forecaster, values)
            traces = [trained(y, p, values, o, 0.05, budget) for o in orders]
            best = np.array([np.pad(t, (0, budget - t.size), mode="edge") for t in traces])
            reached = np.flatnonzero(best.mean(axis=0) <= full.mean() + 1e-12)
            same = [trained(y, p, values, o[:FULL], 0.05, budget) for o in orders]
            rows[name].append(
                {
                    "task": str(task),
                    "speedup": budget / (int(reached[0]) + 1) if reached.size else np.nan,
                    "same_20_epochs": float(np.mean([t.size for t in same])),
                    "same_20_loss": float(np.mean([t[-1] - f for t, f in zip(same, full, strict=True)]) / scale),
                    "same_20_lost": float(np.mean([t[-1] > f + 1e-12 for t, f in zip(same, full, strict=True)])),
                }
            )
            print(name, json.dumps(rows[name][-1]), file=sys.stderr, flush=True)
    out: dict[str, object] = {"threshold": 0.05, "pool": POOL, "orderings": ORDERINGS, "tasks": len(rows["each run alone"])}
    for name, table in rows.items():
        tasks = [r["task"] for r in table]
        speed = np.array([r["speedup"] for r in table], dtype=float)
        out[name] = {
            "tasks_never_reached": int(np.isnan(speed).sum()),
            "speedup_geometric_mean": float(np.exp(np.nanmean(np.log(speed)))),
            "speedup_least": float(np.nanmin(speed)),
            **{k: mean([r[k] for r in table], tasks) for k in table[0] if k.startswith("same")},
            "by_task": table,
        }
    return out


# -- peeking ------------------------------------------------------------------------------------------------------------------


def follow(sweep: ff.Curves, steps: np.ndarray, decide: Decide) -> np.ndarray:
    """(n_runs,) x at which each run was stopped (its last x if never), with `decide(x, live, cut)` asked at every step."""
    live, cut = np.ones(len(sweep), dtype=bool), np.minimum(sweep.last_x, steps[-1])
    for x in steps[:-1]:
        live &= sweep.last_x > x
        if not live.any():
            break
        stop = decide(float(x), live, cut) & live
        cut[stop] = x
        live &= ~stop
    return cut


def advised(sweep: ff.Curves, forecaster: EnsembleForecaster, budget: float | None = None, **settings: object) -> Decide:
    adviser = ff.Adviser(forecaster=forecaster, **settings)  # type: ignore[arg-type]

    def decide(x: float, live: np.ndarray, cut: np.ndarray) -> np.ndarray:
        if budget is not None and live.sum() < 2:  # what a budget leaves is one run
            return np.zeros(len(sweep), dtype=bool)
        seen = sweep.upto(np.where(live, x, cut))
        state = np.where(live, "running", np.where(cut < sweep.last_x, "pruned", "diverged"))
        seen = dataclasses.replace(seen, attributes=seen.attributes.with_columns(status=pl.Series(state)))
        left = None if budget is None else max(budget - float(np.nan_to_num(seen.last_x).sum()), 1e-9)
        return adviser.update(seen, budget=left).stop

    return decide


def halving(sweep: ff.Curves, steps: np.ndarray, rng: np.random.Generator, eta: int = 3) -> Decide:
    """ASHA, stopping form: runs reach a rung in random order; one goes on if it is in the best third of those that have."""
    rungs = {float(steps[eta**k - 1]) for k in range(10) if eta**k < steps.size}

    def decide(x: float, live: np.ndarray, cut: np.ndarray) -> np.ndarray:
        stop, came, value = np.zeros(len(sweep), dtype=bool), [], sweep.upto(x).last_y
        if x not in rungs:
            return stop
        for i in rng.permutation(np.flatnonzero(live & np.isfinite(value))):
            came.append(value[i])
            stop[i] = value[i] > np.sort(came)[max(1, len(came) // eta) - 1]
        return stop

    return decide


def median_rule(sweep: ff.Curves, steps: np.ndarray, rng: np.random.Generator, startup: int = 5) -> np.ndarray:
    """Optuna's median pruner, trial after trial: stopped where the best value so far is worse than the median, at that very step,
    of the trials that were completed; not before five of them."""
    x, y, seen = sweep.padded()
    cut, done = np.minimum(sweep.last_x, steps[-1]), []
    for i in rng.permutation(len(sweep)):
        mine_x, mine_y = x[i][seen[i]], y[i][seen[i]]
        for step in steps[:-1]:
            there = np.array([y[j][seen[j] & (x[j] == step)] for j in done if (seen[j] & (x[j] == step)).any()])
            if step < mine_x[0] or step >= mine_x[-1] or len(done) < startup or not there.size:
                continue
            if mine_y[mine_x <= step].min() > np.median(there):
                cut[i] = step
                break
        else:
            if mine_x[-1] >= steps[-1]:
                done.append(i)
    return cut


def last_value(sweep: ff.Curves, steps: np.ndarray, budget: float) -> Decide:
    """The best k by the last value go on, k falling as 1 / x so that the budget suffices."""

    def decide(x: float, live: np.ndarray, cut: np.ndarray) -> np.ndarray:
        left = budget - float(np.minimum(np.where(live, x, cut), sweep.last_x).sum())
        n = int(live.sum())
        k = np.arange(1, n + 1)
        alone = np.minimum(k * x, steps[-1])
        cost = k * x * np.log(alone / x) + steps[-1] - alone
        keep = n if n * (steps[-1] - x) <= left else max(int((cost <= left).sum()), 1)
        value = np.where(live, np.nan_to_num(sweep.upto(x).last_y, nan=np.inf), np.inf)
        stop = np.zeros(len(sweep), dtype=bool)
        stop[np.argsort(value, kind="stable")[keep:]] = True
        return stop

    return decide


def peeking(collection: Collection, sweeps: int, groups: np.ndarray) -> dict[str, object]:
    """`sweeps` sweeps of each group, one of each group after another; progress on standard error."""
    rows: list[dict[str, object]] = []
    for k in range(sweeps):
        for code, group in enumerate(groups):
            rows += _one_sweep(collection, str(group), k, np.random.default_rng((12, code)))
        print(json.dumps({"sweeps": (k + 1) * len(groups), **_policies(rows)}), file=sys.stderr, flush=True)
    return {"sweeps": sweeps * len(groups), "groups": len(groups), "runs_each": N_RUNS, **_policies(rows)}


def _one_sweep(collection: Collection, group: str, k: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """What each policy used and lost in the group's k-th sweep; no run is in two sweeps."""
    mine = np.flatnonzero(collection.groups == group)
    forecaster = collection.forecaster(group)
    sweep = collection.sweep(rng.permutation(mine)[k * N_RUNS : (k + 1) * N_RUNS])
    steps = np.unique(sweep.x)
    steps = steps[steps > 0]
    end = best_values(sweep, 1.0)
    best_of_all = float(best_values(collection.whole.take(mine), 1.0).min())
    scale = float(np.median(sweep.y[sweep.offsets[:-1]])) - best_of_all + 1e-12
    full = float(sweep.last_x.sum())
    rows: list[dict[str, object]] = []

    def put(name: str, cut: np.ndarray) -> float:
        had = best_values(sweep.upto(cut), 1.0)
        used = float(np.minimum(sweep.last_x, cut).sum())
        found = {"group": group, "sweep": k, "policy": name, "budget": used / full}
        rows.append({**found, "regret": (had.min() - end.min()) / scale, "killed": float(had.min() > end.min())})
        return used

    spent = {
        "asha": put("asha", follow(sweep, steps, halving(sweep, steps, rng))),
        "median": put("median", median_rule(sweep, steps, rng)),
        "ours": put("ours", follow(sweep, steps, advised(sweep, forecaster))),
        "winner": put("winner", follow(sweep, steps, advised(sweep, forecaster, rule="winner"))),
    }
    for peer in ("asha", "median"):
        put(f"ours at {peer}'s", follow(sweep, steps, advised(sweep, forecaster, spent[peer])))
    for peer, budget in spent.items():
        put(f"last value at {peer}'s", follow(sweep, steps, last_value(sweep, steps, budget)))
    return rows


def _policies(rows: list[dict[str, object]]) -> dict[str, object]:
    table = pl.DataFrame(rows)
    out: dict[str, object] = {}
    by = {name: table.filter(pl.col("policy") == name) for name in table["policy"].unique(maintain_order=True)}
    for name, part in by.items():
        out[name] = {c: mean(part[c].to_numpy(), part["group"].to_numpy()) for c in ("budget", "regret", "killed")}
    pairs = [(rival, f"ours at {peer}'s") for peer in ("asha", "median") for rival in (peer, f"last value at {peer}'s")]
    for rival, name in [*pairs, ("last value at ours's", "ours"), ("last value at winner's", "winner"), ("median", "winner")]:
        less = by[rival]["regret"].to_numpy() - by[name]["regret"].to_numpy()
        out[f"regret of {rival} less that of {name}"] = mean(less, by[name]["group"].to_numpy())
    return out


# -- reliability --------------------------------------------------------------------------------------------------------------


def slope(p: np.ndarray, came: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """Slope of the least-squares line of what came on the probability stated."""
    centred = p - p.mean()
    low, high = cluster_bootstrap_ratio(centred * (came - came.mean()), centred**2, groups, n_boot=1000, rng=0)
    return {"value": float(centred @ (came - came.mean()) / (centred @ centred)), "low": float(low), "high": float(high)}


def reliability(collection: Collection, sweeps: int, groups: np.ndarray) -> dict[str, object]:
    rng = np.random.default_rng(13)
    best: list[np.ndarray] = []
    beats: list[np.ndarray] = []
    for code, group in enumerate(groups):
        mine = np.flatnonzero(collection.groups == group)
        adviser = ff.Adviser(forecaster=collection.forecaster(group))
        for _ in range(sweeps):
            sweep = collection.sweep(rng.choice(mine, min(N_RUNS, mine.size), replace=False))
            x = np.unique(sweep.x)
            ends, top = sweep.last_y, best_values(sweep, 1.0)
            for share in (0.1, 0.2, 0.4, 0.65) if collection.name == "taskset" else (0.3, 0.45, 0.6, 0.75):
                seen = sweep.upto(x[int(share * (x.size - 1))])
                advice = adviser.update(seen)
                last = np.where(seen.lengths > 0, seen.last_y, np.inf)
                won, leads = (v == v.min() for v in (top, last))
                stated = np.nan_to_num(advice.p_best)
                best.append(np.column_stack([np.full(len(sweep), code), stated, won / won.sum(), leads / leads.sum()]))
                for q in (0.1, 0.25):
                    level = float(np.quantile(last[np.isfinite(last)], q))
                    p = advice.p_beats(level)
                    told = np.isfinite(p)
                    part = [np.full(told.sum(), code), p[told], ends[told] < level, last[told] < level]
                    beats.append(np.column_stack(part))
    out: dict[str, object] = {"groups": len(groups), "sweeps": sweeps * len(groups)}
    for name, parts in (("ends best", best), ("beats X", beats)):
        code, p, came, last = np.concatenate(parts).T
        ours, theirs = (p - came) ** 2, (last - came) ** 2
        low, high = cluster_bootstrap_ratio(ours, theirs, code, n_boot=1000, rng=0)
        out[name] = {
            "n": int(p.size),
            "brier": float(ours.mean()),
            "brier_last_value": float(theirs.mean()),
            "ratio": {"value": float(ours.mean() / theirs.mean()), "low": float(low), "high": float(high)},
            "slope": slope(p, came, code),
        }
    return out


# -- censored sweeps ----------------------------------------------------------------------------------------------------------


def censored(collection: Collection, n_runs: int, sweeps: int) -> dict[str, object]:
    """Sweeps of `n_runs` a task, halved at epochs 3, 9 and 27 within the task; each task forecast from the pruned others."""
    held: dict[str, list[np.ndarray]] = {}
    for k in range(sweeps):
        for name, rows in _one_censored(collection, n_runs, np.random.default_rng(14 + k)).items():
            held.setdefault(name, []).append(rows)
    out: dict[str, object] = {"sweeps": sweeps, "runs_each": n_runs * np.unique(collection.groups).size}
    for name, parts in held.items():
        covered, through, group = np.concatenate(parts).T
        passed = through > 0
        out[name] = {
            "survivors": mean(covered[passed], group[passed]),
            "pruned": mean(covered[~passed], group[~passed]),
            "n_survivors": int(passed.sum()),
            "n_pruned": int((~passed).sum()),
        }
    return out


def _one_censored(collection: Collection, n_runs: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """By mode and cut, (n, 3): whether each run's 80 % interval held, whether it got through, and its task."""
    names = np.unique(collection.groups)
    finished = (collection.whole.column("status") == "finished").to_numpy()
    picked = [rng.choice(np.flatnonzero((collection.groups == g) & finished), n_runs, replace=False) for g in names]
    cuts = []
    for rows in picked:
        sweep = collection.whole.take(rows)
        asked = halving(sweep, np.arange(1.0, 51.0), rng)
        cuts.append(follow(sweep, np.arange(3.0, 51.0), asked))
    rows, cut = np.concatenate(picked), np.concatenate(cuts)
    whole, through, group = collection.whole.take(rows), cut >= 50, np.searchsorted(names, collection.groups[rows])
    seen = whole.upto(cut)
    state = pl.Series(np.where(through, "finished", "pruned"))
    seen = dataclasses.replace(seen, attributes=seen.attributes.with_columns(status=state))
    out = {}
    for mode in ("ignore", "reweight"):
        for at in (3.0, 9.0):
            asked_rows = np.flatnonzero(cut >= at)
            held = np.zeros(asked_rows.size)
            for g in range(names.size):
                mine = np.flatnonzero(group[asked_rows] == g)
                forecaster = EnsembleForecaster(censoring=mode).fit(seen.take(group != g))
                found = forecaster.predict(whole.take(asked_rows[mine]).upto(at), np.full((mine.size, 1), 50.0))
                low, high = found.quantile(np.array([0.1, 0.9]))[:, :, 0]
                truth = whole.last_y[asked_rows[mine]]
                held[mine] = (truth >= low) & (truth <= high)
            out[f"{mode}, seen to epoch {at:g}"] = np.column_stack([held, through[asked_rows], group[asked_rows]])
    return out


def main() -> None:
    asked = set(sys.argv[1:])
    wanted = {a for a in asked if not a.startswith("skip-")} or {"orderings", "peeking", "reliability", "censored"}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"name": "stopping"}
    tasks, sets = taskset(), lcdb()
    jobs: dict[tuple[str, str], Callable[[], dict[str, object]]] = {
        ("reliability", "taskset"): lambda: reliability(tasks, 3, np.unique(tasks.groups)),
        ("orderings", "taskset"): lambda: orderings(tasks),
        ("peeking", "lcdb"): lambda: peeking(sets, 1, np.array(sets.held_out)),
        ("peeking", "taskset"): lambda: peeking(tasks, 15, np.array(tasks.held_out)),
        ("reliability", "lcdb"): lambda: reliability(sets, 1, np.array(sets.held_out)),
        ("censored", "taskset"): lambda: censored(tasks, 240, 2),
    }
    for (section, name), job in jobs.items():
        if section not in wanted or f"skip-{name}" in asked:
            continue
        started = time.process_time()
        results.setdefault(section, {})[name] = {**job(), "cpu_seconds": round(time.process_time() - started, 1)}
        print(json.dumps({section: {name: results[section][name]}}, indent=1), flush=True)
        results["versions"] = {"farfield": ff.__version__, "numpy": np.__version__}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
