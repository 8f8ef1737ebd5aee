"""The context network against the first one: the same forecasts of real runs, with other runs of their group known.

    FARFIELD_DATA=... python benchmarks/context.py [taskset] [lcdb] [gemstones] [examples] [--network FILE]

Groups are the tasks of TaskSet, the data sets of LCDB, Gemstones as one and the tasks of the example runs. The runs of a group fall
into two parts, each forecast with (at most 48 of) the other as context, in two situations: the other runs are *finished*, or they
are *as far* as the run that is forecast. On each forecast: the first network alone, the same calibrated with the same other runs
(`--method lcpfn`), `auto` with the same other runs, the context network, and the context network given runs of another group
instead. Log-likelihoods are in the units of the metric. Rows go to results/bench_context.json.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
from forecast_accuracy import DATA, HERE, gemstones_curves, lcdb_curves, mean, ratio, taskset_curves

import farfield as ff
from farfield.curves.forecaster import make_forecaster
from farfield.curves.pfn import LCPFN
from farfield.curves.pfn.context import ContextPFN
from farfield.intervals import interval_score
from farfield.predictive import Predictive

MOST_OTHERS = 48
METHODS = ("first", "calibrated", "auto", "context", "context, runs of another group")
# a group with its name, and the positions up to which its runs are seen and at which they are asked
Group = tuple[str, ff.Curves, np.ndarray, np.ndarray]


def with_columns(curves: ff.Curves, **columns: object) -> ff.Curves:
    return dataclasses.replace(curves, attributes=curves.attributes.with_columns(**columns))  # type: ignore[arg-type]


def lcdb() -> Iterator[Group]:
    whole = lcdb_curves()
    groups = np.array([int(g) for g in whole.column("group")])
    for name in np.unique(groups)[::4]:
        part = whole.take(groups == name)
        yield str(name), part, 0.25 * part.last_x, part.last_x


def taskset() -> Iterator[Group]:
    """Every tenth run of a task, with its eight hyperparameters, at four cuts."""
    frame = pl.read_csv(DATA / "taskset_imdb_valid_loss.csv.gz", infer_schema_length=None)
    settings = [c for c in frame.columns if c not in ("task", "config") and not (c[0] == "e" and c[1:].isdecimal())]
    for cut in (5, 10, 20, 40):
        whole = taskset_curves(cut).take(np.arange(0, len(taskset_curves(cut)), 10))
        rows = [int(r.rpartition("/")[2]) for r in whole.runs]
        whole = with_columns(whole, **{f"config.{s}": frame[s][rows] for s in settings})
        groups = whole.column("group").to_numpy()
        for name in np.unique(groups):
            part = whole.take(groups == name)
            yield str(name), part, np.full(len(part), float(cut)), part.last_x


def gemstones() -> Iterator[Group]:
    whole = gemstones_curves()
    table = pl.read_csv(DATA / "gemstones_train_loss.csv.gz").unique("run_name")
    size = {r: (w, d, p) for r, w, d, p in table.select("run_name", "width", "depth", "params").iter_rows()}
    sizes = {f"config.{k}": [size[r][i] for r in whole.runs] for i, k in enumerate(("width", "depth", "params"))}
    whole = with_columns(whole, **{k: pl.Series(v, dtype=pl.Float64) for k, v in sizes.items()})
    for share in (0.2, 0.3, 0.5):
        yield "gemstones", whole, share * whole.last_x, whole.last_x


def examples() -> Iterator[Group]:
    whole = ff.read_runs(HERE / "examples" / "runs", metric="val_loss")
    whole = whole.take(whole.column("status").to_numpy() == "finished")
    tasks = whole.column("config.task").to_numpy()
    for share in (0.3, 0.5, 0.7):
        for name in np.unique(tasks):
            part = whole.take(tasks == name)
            yield str(name), part, share * part.last_x, part.last_x


COLLECTIONS: dict[str, Callable[[], Iterator[Group]]] = {
    "taskset": taskset, "lcdb": lcdb, "gemstones": gemstones, "examples": examples,
}  # fmt: skip


def forecasts(
    first: LCPFN, network: ContextPFN, seen: ff.Curves, at: np.ndarray, others: ff.Curves, strangers: ff.Curves | None
) -> dict[str, Predictive]:
    out: dict[str, Predictive] = {"first": first.forecast(seen, at)}
    for label, method in (("calibrated", "lcpfn"), ("auto", "auto")):
        out[label] = make_forecaster(method).fit(others).predict(seen, at)
    out["context"] = network.forecast(seen, at, others)
    if strangers is not None:
        out["context, runs of another group"] = network.forecast(seen, at, strangers)
    return out


def score(found: Predictive, truth: np.ndarray) -> dict[str, np.ndarray]:
    low, middle, high = found.quantile([0.1, 0.5, 0.9])[:, :, 0]
    return {
        "log_likelihood": found.log_prob(truth[:, None])[:, 0],
        "squared_error": (middle - truth) ** 2,
        "interval_score": interval_score(low, high, truth, 0.8),
        "coverage80": ((truth >= low) & (truth <= high)).astype(float),
    }


def collection(name: str, network: ContextPFN) -> dict[str, object]:
    first = LCPFN.load("wide")
    groups = [(g, with_columns(c, group=pl.lit(None, dtype=pl.String)), cut, at) for g, c, cut, at in COLLECTIONS[name]()]
    rng = np.random.default_rng(0)
    out: dict[str, object] = {}
    for situation in ("finished", "as far"):
        rows: dict[str, dict[str, list[np.ndarray]]] = {}
        names: list[str] = []
        # intervals resample groups, and runs where there is one group
        single = len({g[0] for g in groups}) == 1
        for k, (group, whole, cut, at) in enumerate(groups):
            known = whole if situation == "finished" else whole.upto(cut)
            part = rng.permutation(len(whole)) % 2
            stranger = next((g for g in groups[k + 1 :] + groups[:k] if g[0] != group), None)
            for half in (0, 1):
                target = np.flatnonzero(part == half)
                other = np.flatnonzero(part != half)[:MOST_OTHERS]
                if not target.size or not other.size:
                    continue
                strange = None
                if stranger is not None:
                    strange = stranger[1] if situation == "finished" else stranger[1].upto(stranger[2])
                    strange = strange.take(np.arange(min(len(strange), other.size)))
                seen = whole.upto(cut).take(target)
                truth = whole.last_y[target]
                for label, found in forecasts(first, network, seen, at[target, None], known.take(other), strange).items():
                    for measure, values in score(found, truth).items():
                        rows.setdefault(label, {}).setdefault(measure, []).append(values)
                names += [whole.runs[i] if single else group for i in target]
        joined = np.array(names)
        values = {label: {m: np.concatenate(v) for m, v in by.items()} for label, by in rows.items()}
        ours = values["context"]
        out[situation] = {
            "forecasts": int(joined.size),
            "clusters": int(np.unique(joined).size),
            "mean": {label: {m: float(v.mean()) for m, v in by.items()} for label, by in values.items()},
            "median_log_likelihood": {label: float(np.median(by["log_likelihood"])) for label, by in values.items()},
            "context_over": {
                label: {
                    "log_likelihood_gain": mean(ours["log_likelihood"] - by["log_likelihood"], joined),
                    "squared_error": ratio(ours["squared_error"], by["squared_error"], joined),
                    "interval_score": ratio(ours["interval_score"], by["interval_score"], joined),
                }
                for label, by in values.items()
                if label != "context"
            },
        }  # fmt: skip
        print(name, situation, json.dumps(out[situation], indent=1), flush=True)
    return out


def main() -> None:
    arguments = sys.argv[1:]
    network = ContextPFN.load(arguments.pop(arguments.index("--network") + 1) if "--network" in arguments else "context")
    wanted = [a for a in arguments if a != "--network"] or list(COLLECTIONS)
    path = HERE / "results" / "bench_context.json"
    results = json.loads(path.read_text()) if path.exists() else {"name": "context"}
    for name in wanted:
        started = time.process_time()
        results[name] = collection(name, network)
        results[name]["cpu_seconds"] = round(time.process_time() - started, 1)
    results["versions"] = {"farfield": ff.__version__, "numpy": np.__version__}
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
