"""Writes the tables of docs/benchmarks.md from the rows in results/: what was asked, what was measured.

python benchmarks/report.py [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from farfield import documents

HERE = Path(__file__).resolve().parent.parent
PAGE = HERE / "docs" / "benchmarks.md"


def row(name: str) -> dict[str, Any]:
    found = json.loads((HERE / "results" / f"bench_{name}.json").read_text())
    return found[-1] if isinstance(found, list) else found


def span(value: dict[str, float], digits: int = 3) -> str:
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def met(yes: bool) -> str:
    return "met" if yes else "**missed**"


def accuracy() -> str:
    r = row("forecast_accuracy")
    lcdb, tasks, gems, own = r["lcdb"], r["taskset"], r["gemstones"], r["examples"]
    rows: list[tuple[object, ...]] = []

    def ratio(on: str, what: str, value: dict[str, float], bar: float) -> None:
        rows.append((on, what, f"<= {bar:g}", span(value), met(value["value"] <= bar)))

    where = f"LCDB, {lcdb['curves']} curves of {lcdb['data_sets']} data sets, a quarter of the size seen"
    ratio(where, "error alone / last value", lcdb["alone_over_last"], 0.60)
    ratio("", "error alone / pow3", lcdb["alone_over_pow3"], 0.70)
    ratio("", "error with other data sets' curves / last value", lcdb["with_others_over_last"], 0.55)
    ratio("", "interval score / best constant band", lcdb["intervals"]["interval_score_over_best_constant_band"], 0.75)
    cover = lcdb["intervals"]["coverage80"]
    rows.append(("", "coverage of 80 % intervals", "0.75 to 0.85", span(cover), met(0.75 <= cover["value"] <= 0.85)))
    edge, inner = (lcdb["intervals"][f"coverage80_worst_tenth_of_groups_{k}"] for k in ("edge", "mean"))
    rows.append(("", "coverage in the worst tenth of data sets: best of them", ">= 0.60", f"{edge:.3f}", met(edge >= 0.6)))
    rows.append(("", "coverage in the worst tenth of data sets: their mean", ">= 0.60", f"{inner:.3f}", met(inner >= 0.6)))
    for cut in ("cut 5", "cut 10", "cut 20", "cut 40"):
        t = tasks[cut]
        ratio(f"TaskSet, {t['runs']} runs, seen to epoch {cut[4:]} of 50", "error / better of last value and best so far",
              t["all"]["over_better_baseline"], 0.9)  # fmt: skip
        if cut in ("cut 5", "cut 10"):
            ratio("", "the same, each task's final top tenth", t["final_top_tenth"]["over_better_baseline"], 0.7)
        ratio("", "interval score / best constant band", t["intervals"]["interval_score_over_best_constant_band"], 0.75)
        cover = t["intervals"]["coverage80"]
        worst = t["intervals"]["coverage80_worst_tenth_of_groups_mean"]
        rows.append(("", "coverage of 80 % intervals", "0.75 to 0.85", span(cover), met(0.75 <= cover["value"] <= 0.85)))
        rows.append(("", "coverage in the worst of 8 tasks", ">= 0.60", f"{worst:.3f}", met(worst >= 0.6)))
    mae = gems["mae"]
    rows.append(("Gemstones, 30 % of the tokens seen", "mean error, each run alone", "<= 0.0105", span(mae["alone"], 4),
                 met(mae["alone"]["value"] <= 0.0105)))  # fmt: skip
    rows.append(("", "mean error, the other 14 runs known to their end", "", span(mae["with others"], 4), ""))
    rows.append(("", "coverage of 80 % intervals, with the others", "reported", f"{gems['coverage80_reported']:.3f}", ""))
    for kind in ("both", "wsd", "cosine"):
        on = f"Example runs cut before the decay: {kind}"
        ratio(on, "error / best of four schedule-blind forms (chosen in hindsight)", own[kind]["over_best_blind"], 0.5)
        cover = own[kind]["coverage80"]
        rows.append(("", "coverage of 80 % intervals", "0.75 to 0.85", span(cover), met(0.75 <= cover["value"] <= 0.85)))
    return documents.table(("on", "measure", "asked", "measured [95 % interval]", ""), rows)


def speed() -> str:
    cli, board = row("cli_speed"), row("read_tensorboard")
    rows: list[tuple[object, ...]] = [
        ("`farfield --version`", "<= 0.3 s", f"{cli['version_s']:.2f} s", met(cli["version_s"] <= 0.3)),
        ("`farfield forecast` of the example runs, with its backtest", "<= 3 s", f"{cli['forecast_examples_s']:.1f} s",
         met(cli["forecast_examples_s"] <= 3)),
        ("10,000 curves of 50 points, Parquet to Parquet", "<= 60 s, <= 2 GiB",
         f"{cli['curves_10000_s']:.0f} s, {cli['curves_10000_peak_gib']:.1f} GiB",
         met(cli["curves_10000_s"] <= 60 and cli["curves_10000_peak_gib"] <= 2)),
        ("`farfield papers list`", "<= 0.35 s", f"{cli['papers_list_s']:.2f} s", met(cli["papers_list_s"] <= 0.35)),
        ("`farfield papers search`", "<= 0.5 s", f"{cli['papers_search_s']:.2f} s", met(cli["papers_search_s"] <= 0.5)),
        ("TensorBoard scalars, against its own reader", ">= 1.5x", f"{board['ratio']:.1f}x", met(board["ratio"] >= 1.5)),
    ]  # fmt: skip
    fits = HERE / "results" / "bench_fit_speed.json"
    if fits.exists():
        rows += fit_rows(json.loads(fits.read_text()))
    return documents.table(("what", "asked", "measured", ""), rows)


def fit_rows(found: Any) -> list[tuple[object, ...]]:
    """The fitter's speed against loops over SciPy's curve_fit: its default, with derivatives given, and without the box."""
    table = found[-1]
    rows: list[tuple[object, ...]] = []
    for key, curves in (("synthetic", "500 synthetic curves of 50 points"), ("lcdb", "500 curves of LCDB")):
        if key not in table:
            continue
        part = table[key]
        least = min(part["forms"].items(), key=lambda f: f[1]["ratio"])
        rows += [
            (f"fit of {len(part['forms'])} forms to {curves}, against `curve_fit`", ">= 20x",
             f"{part['ratio']:.0f}x ({least[0]}, the least: {least[1]['ratio']:.0f}x)", met(least[1]["ratio"] >= 20)),
            ("- the same, `curve_fit` given the derivatives", "", f"{part['ratio_jac']:.0f}x", ""),
            ("- the same, `curve_fit` without bounds (MINPACK)", "", f"{part['ratio_lm']:.0f}x", ""),
            ("- residuals equal or lower than the loops': ours, theirs", "ours not below",
             f"{part['equal_or_better']:.1%}, {part['peer_equal_or_better']:.1%}",
             met(part["equal_or_better"] >= part["peer_equal_or_better"])),
        ]  # fmt: skip
    return rows


def networks() -> str:
    r = row("lc_pfn")
    domhan, real = r["prior"]["domhan"], r["real"]
    rows: list[tuple[object, ...]] = []
    for k, cut in enumerate(("10", "20", "40", "80")):
        p1, p2, p3, chains = (r["prior"]["paper"][name][k] for name in ("P1, 0.7 M", "P2, 2.2 M", "P3, 27 M", "MCMC M3"))
        rows.append(
            (
                f"1,000 curves of the paper's prior, {cut} % seen",
                "log-likelihood (paper: 0.7, 2.2, 27 M parameters; chains)",
                f">= {p1}",
                f"{domhan['log_likelihood'][k]:.3f} ({p1}, {p2}, {p3}; {chains})",
                met(domhan["log_likelihood"][k] >= p1),
            )
        )
    above, kept, better = [], [], []
    for name, label in (("lcdb", "LCDB"), ("taskset", "TaskSet"), ("gemstones", "Gemstones"), ("examples", "example runs")):
        part = real[name]
        likelihood = {k: v["value"] for k, v in part["log_likelihood"].items()}
        best = max((k for k in likelihood if k != "network"), key=lambda k: likelihood[k])
        above.append(likelihood["network"] > likelihood[best])
        median = part["median_log_likelihood"]
        rival = max((k for k in median if k != "network"), key=lambda k: median[k])
        rows.append(
            (
                f"{label}, {part['forecasts']:,} forecasts",
                f"mean log-likelihood: network, best form ({best})",
                "network above",
                f"{likelihood['network']:.2f}, {likelihood[best]:.3g}",
                met(above[-1]),
            )
        )
        rows.append(
            ("", f"median log-likelihood: network, best form ({rival})", "", f"{median['network']:.2f}, {median[rival]:.2f}", "")
        )
        square = part["network_squared_error_over_last"]
        kept.append(square["value"] <= 1)
        rows.append(("", "squared error / last value", "<= 1", span(square), met(kept[-1])))
        rows.append(("", "coverage of the network's own 80 % intervals", "", span(part["network_coverage80"]), ""))
        score = part["interval_score_with_over_without_network"]
        better.append(score["value"] < 1)
        rows.append(("", "interval score of auto with the network / without", "< 1", span(score), met(better[-1])))
    rows.append(
        (
            "of the four collections",
            "likelihood above every form; squared error kept; auto better",
            ">= 3; 4; >= 3",
            f"{sum(above)}; {sum(kept)}; {sum(better)}",
            met(sum(above) >= 3 and sum(kept) == 4 and sum(better) >= 3),
        )
    )
    if "published" in r:
        small = r["published"]["P1"]
        for n, bar in ((1, 2.5), (64, 1.6)):
            part = small[f"{n} curves"]
            rows.append(
                (
                    f"the published network of 0.7 M parameters, {n} curve{'s' * (n > 1)}",
                    "its own layers in torch / ours, same weights",
                    f">= {bar}x",
                    f"{part['ratio']:.2f}x ({part['ours_ms_a_curve']:.2f} ms a curve)",
                    met(part["ratio"] >= bar),
                )
            )
        share = small["share_of_matrix_product_rate_at_64"]
        rows.append(("", "share of the core's rate of matrix products, 64 curves", ">= 0.6", f"{share:.2f}", met(share >= 0.6)))
    if "partitions" in r:
        wall = r["partitions"]["wall_s"]
        rows.append(
            (
                "100,000 curves of 50 points, Parquet to Parquet, two cores",
                "wall time",
                "<= 180 s",
                f"{wall:.0f} s",
                met(wall <= 180),
            )
        )
    return documents.table(("on", "measure", "asked", "measured", ""), rows)


def context() -> str:
    """The network that reads other runs, over the first network alone, the first calibrated on the same runs, and auto."""
    r = row("context")
    rows: list[tuple[object, ...]] = []
    for name, label in (("taskset", "TaskSet"), ("lcdb", "LCDB"), ("gemstones", "Gemstones"), ("examples", "example runs")):
        for situation in ("finished", "as far"):
            part = r[name][situation]
            over, median = part["context_over"], part["median_log_likelihood"]
            strangers = over.get("context, runs of another group")
            rows.append(
                (
                    f"{label}, {part['forecasts']:,} forecasts, other runs {situation}",
                    span(over["first"]["log_likelihood_gain"]),
                    ", ".join(f"{median[k]:.2f}" for k in ("context", "first", "calibrated", "auto")),
                    span(over["first"]["squared_error"]),
                    *(span(over[k]["interval_score"]) for k in ("first", "calibrated", "auto")),
                    f"{part['mean']['context']['coverage80']:.3f}",
                    span(strangers["log_likelihood_gain"]) if strangers else "-",
                )
            )
    head = (
        "on", "gain in mean log-likelihood over the first network", "median log-likelihood: context, first, calibrated, auto",
        "squared error / first", "interval score / first", "/ calibrated", "/ auto", "coverage of 80 %",
        "gain over runs of another group",
    )  # fmt: skip
    return documents.table(head, rows)


def following() -> str:
    rows: list[tuple[object, ...]] = []
    for part in row("watch")["formats"]:
        share = part["share_of_a_core"]
        rows.append(
            (
                f"`farfield watch` on {part['runs']} live runs, {part['format']}, a point a second each",
                "share of a core",
                "<= 0.3",
                f"{share:.2f}",
                met(share <= 0.3),
            )
        )
    for part in row("transport")["rows"]:
        rows.append(
            (
                f"optimal transport of 66 mixtures at {100 * part['eps_share']:g} % of the mean cost, against POT",
                "its solvers / ours: log domain, kernel",
                "",
                f"{part['ratio_pot_log']:.0f}x, {part['ratio_pot_kernel']:.1f}x",
                "",
            )
        )
    return documents.table(("on", "measure", "asked", "measured", ""), rows)


def stopping() -> str:
    r = row("stopping")
    rows: list[tuple[object, ...]] = []
    found = r["orderings"]["taskset"]
    for name in ("other tasks seen", "each run alone"):
        part = found[name]
        on = f"TaskSet, {found['orderings']} orderings of each of {found['tasks']} tasks, {name}"
        fast, least = part["speedup_geometric_mean"], part["speedup_least"]
        rows.append((on, "epochs of 20 full trainings / epochs to match the best they found, geometric mean (least)", ">= 3x",
                     f"{fast:.1f}x ({least:.1f}x)", met(fast >= 3)))  # fmt: skip
        rows.append(("", "epochs on the same 20 configurations, of 1,000", "", span(part["same_20_epochs"], 0), ""))
        rows.append(("", "orderings in which the best of the 20 was lost", "", span(part["same_20_lost"]), ""))
    for key, what in (("taskset", "TaskSet"), ("lcdb", "LCDB")):
        part = r["peeking"][key]
        sets = f"{part['groups']} {'tasks' if key == 'taskset' else 'data sets'}"
        on = f"{what}, {part['sweeps']} sweeps of {sets}, advice at every step"
        for name, rule in (("ours", "default rule"), ("winner", "--rule winner")):
            ours, last = part[name], part[f"last value at {name}'s"]
            rows.append((on, f"{rule}: share of the sweep's budget used", "", span(ours["budget"]), ""))
            on = ""
            lost = ours["killed"]["value"]
            rows.append(("", "sweeps whose winner was lost", "<= 0.05", span(ours["killed"]), met(lost <= 0.05)))
            rows.append(("", "sweeps whose winner the last value loses at that budget", "", span(last["killed"]), ""))
            both = f"{ours['regret']['value']:.4f}, {last['regret']['value']:.4f}"
            better = met(ours["regret"]["value"] < last["regret"]["value"])
            rows.append(("", "regret within its own budget: ours, last value", "ours lower", both, better))
        for peer in ("asha", "median"):
            mine = part[f"ours at {peer}'s"]["regret"]
            for rival in (peer, f"last value at {peer}'s"):
                theirs = part[rival]["regret"]
                rows.append(("", f"regret within the budget of {peer}: ours, {rival.split(' at ')[0]}", "ours lower",
                             f"{mine['value']:.4f}, {theirs['value']:.4f}", met(mine["value"] < theirs["value"])))  # fmt: skip
    for key, what in (("taskset", "TaskSet"), ("lcdb", "LCDB")):
        part = r["reliability"][key]
        for name in ("ends best", "beats X"):
            on, score = f"{what}, P({name}), {part[name]['n']:,} forecasts", part[name]["ratio"]
            rows.append((on, "Brier score / last value", "< 1", span(score), met(score["value"] < 1)))
            slope = part[name]["slope"]
            rows.append(("", "slope of the reliability curve", "0.8 to 1.2", span(slope), met(0.8 <= slope["value"] <= 1.2)))
    part = r["censored"]["taskset"]
    for at in ("3", "9"):
        for mode in ("reweight", "ignore"):
            cell = part[f"{mode}, seen to epoch {at}"]
            on = f"TaskSet pruned by halving, seen to epoch {at}, {'censoring weights' if mode == 'reweight' else 'without them'}"
            for who, low, high in (("survivors", 0.75, 0.85), ("pruned", 0.70, 1.0)):
                asked = f"{low:.2f} to {high:.2f}" if high < 1 else f">= {low:.2f}"
                yes = met(low <= cell[who]["value"] <= high) if mode == "reweight" else ""
                rows.append(
                    (on, f"coverage of 80 % intervals, {cell['n_' + who]:,} {who}", asked if yes else "", span(cell[who]), yes)
                )
                on = ""
    return documents.table(("on", "measure", "asked", "measured [95 % interval]", ""), rows)


def laws() -> str:
    found = {r["name"]: r for r in json.loads((HERE / "results" / "bench_scaling_laws.json").read_text())}
    fit, hidden = found["scaling_laws"], found["hidden_decades"]
    limits = {(r["name"], r.get("width")): r for r in json.loads((HERE / "results" / "bench_fid.json").read_text())}
    off, seconds = fit["largest_relative_difference"], fit["refits_4000_s"]
    rows: list[tuple[object, ...]] = [
        ("Chinchilla's points", "largest relative difference from the known parameters", "< 0.0005", f"{off:.1e}", met(off < 5e-4)),
        ("", "seconds of 4,000 refits", "<= 60", f"{seconds:.1f}", met(seconds <= 60)),
    ]
    for noise, held in fit["coverage_90"].items():
        where = f"{fit['sweeps']} simulated sweeps of that design, {'normal scatter' if noise == 'normal' else 'real residuals'}"
        shown = ("alpha_bootstrap", "beta_bootstrap", "alpha_profile", "beta_profile", "loss_decade_out")
        text = ", ".join(f"{held[k]:.3f}" for k in shown)
        what = "coverage of 90 % intervals: alpha, beta (bootstrap), alpha, beta (profile), loss a decade out"
        rows.append((where, what, "0.86 to 0.94", text, met(all(0.86 <= held[k] <= 0.94 for k in shown))))
    for r in hidden["rows"]:
        where = f"Chinchilla's points above 1/{r['ratio']:.0f} hidden ({r['hidden']}), {', '.join(r['laws'].split())}"
        bar = f">= {hidden['wanted']:g}" if "broken" in r["laws"] else ""
        told = met(r["covered_widened"] >= hidden["wanted"]) if bar else ""
        text = f"{r['covered_by_refits']:.2f}, {r['covered_widened']:.2f}"
        rows.append((where, "coverage of 80 % intervals: by refits alone, widened by a backtest of what is seen", bar, text, told))
    broken = row("broken_power_law")
    for name, r in broken["sets"].items():
        what = "simulated curves with a break" if name == "simulated" else "curves of LCDB, a quarter seen"
        where = f"{r['curves']} {what}, broken power law"
        speeds = f"{r['speed']['one at a time']:.0f}x, {r['speed']['together']:.0f}x"
        rows.append(
            (where, "the authors' search / ours, one at a time and together", f">= {broken['wanted']:g}x", speeds,
             met(r["speed"]["one at a time"] >= broken["wanted"]))
        )  # fmt: skip
        ratio, medians = r["ratio"], r["median"]
        text = f"{span(ratio, 2)} (medians {medians['ours']:.3f}, {medians['theirs']:.3f})"
        rows.append(("", "mean error beyond, in log y: ours / theirs", "<= 1", text, met(ratio["value"] <= 1)))
    speed = limits["fid_speed", 2048]
    text = f"{speed['ratio']:.1f}x ({speed['ours_s']:.2f} s)"
    rows.append(("Frechet distance, 2048 features", "SciPy's sqrtm / ours", ">= 10x", text, met(speed["ratio"] >= 10)))
    for (name, _), r in limits.items():
        if "covered" in r:
            where = f"{name.replace('fid_infinity', 'FID at infinity,')}, {r['pools']} pools of 5,000"
            ratio, cover = r["error_ratio"], r["covered"]
            rows.append((where, "error / plain FID's", "<= 0.2", f"{ratio:.3f}", met(ratio <= 0.2)))
            text = f"{cover:.3f} [{r['covered_95'][0]:.3f}, {r['covered_95'][1]:.3f}]"
            rows.append(("", "coverage of 80 % intervals", "0.75 to 0.85", text, met(0.75 <= cover <= 0.85)))
    return documents.table(("on", "measure", "asked", "measured", ""), rows)


def gap() -> str:
    cover, cost = row("gap_coverage"), row("gap")
    rows: list[tuple[object, ...]] = []
    low, high = cover["allowed"]
    designs = {
        "row": "one repeat, rows", "group": "one repeat, groups of 4", "default": "5 repeats, rows", "repeated": "10 repeats, rows",
        "grouped": "10 repeats, groups of 4",
    }  # fmt: skip
    for key in cover:
        design, _, of = key.partition(", ")
        if design not in designs:
            continue
        what = designs[design] + (f", {of}" if of else "")
        for kind in (False, True):
            part = {
                k: v for k, v in cover[key]["covers"].items() if (" minus " in k) is kind and v["trials"] == cover[key]["trials"]
            }
            least, most = (min(part, key=lambda k: part[k]["value"]), max(part, key=lambda k: part[k]["value"]))
            within = sum(low <= v["value"] <= high for v in part.values())
            rows.append((what, "differences of two learners" if kind else "scores, gap and its parts", f"{low} to {high}",
                         f"{span(part[least])} ({least}) to {span(part[most])} ({most})",
                         met(True) if within == len(part) else f"**missed** by {len(part) - within} of {len(part)}"))  # fmt: skip
    for key, v in cover.get("foretold", {}).get("covers", {}).items():
        rows.append((f"`gap check`, {key}", "mean error of 200 new rows", "", span(v), ""))
    over, boot = cost["overhead"], cost["bootstrap"]
    rows += [
        ("20,000 rows, 10 repeats, 2,000 resamples, against `cross_validate`", "time", "<= 1.10x", f"{over['ratio']:.2f}x",
         met(over["ratio"] <= over["bar"])),
        ("2,000 resamples of 20,000 rows", "a loop in Python / ours", ">= 20x", f"{boot['over_python_loop']:.0f}x",
         met(boot["over_python_loop"] >= boot["bar"])),
        ("", "a loop in NumPy / ours", "", f"{boot['over_numpy_loop']:.1f}x", ""),
    ]  # fmt: skip
    for d, part in cost.get("hull", {}).items():
        if d != "bar":
            rows.append((f"hull of {part['n']:,} points in {d[1:]} dimensions", "one `linprog` a point / ours", ">= 5x",
                         f"{part['ratio']:.0f}x", met(part["ratio"] >= 5)))  # fmt: skip
    return documents.table(("on", "measure", "asked", "measured", ""), rows)


def main() -> int:
    blocks = {
        "accuracy": accuracy(),
        "networks": networks(),
        "context": context(),
        "stopping": stopping(),
        "following": following(),
        "gap": gap(),
        "speed": speed(),
    }
    blocks["laws"] = laws()
    stale = documents.update(PAGE, blocks, check="--check" in sys.argv)
    print(f"{PAGE.name}: {'stale' if stale and '--check' in sys.argv else 'written' if stale else 'unchanged'}")
    return int(stale and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
