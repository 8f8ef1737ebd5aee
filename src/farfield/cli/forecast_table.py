"""How a forecast and a backtest read on a terminal: a table, and beneath it what a reader must know to use it.

Widths follow the terminal; what is piped is never cut or wrapped.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from farfield.curves.results import Backtest, Forecast, ForecastStatus
from farfield.wording import count, name_of, number, percent, position, reach_band

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

MOST_ROWS = 40  # runs shown before --all is needed
MOST_REFUSED = 10
_DROPPED = ("last_x", "last", "at")

_COLOURS = {
    ForecastStatus.CONTINUE: "green",
    ForecastStatus.UNLIKELY_BEST: "yellow",
    ForecastStatus.PLATEAU: "yellow",
    ForecastStatus.TURNED: "yellow",
    ForecastStatus.DECAY_TO_COME: "magenta",
    ForecastStatus.SCHEDULE_UNKNOWN: "magenta",
    ForecastStatus.FAR: "magenta",
    ForecastStatus.FINISHED: "dim",
    ForecastStatus.TOO_SHORT: "red",
    ForecastStatus.DIVERGED: "red",
    ForecastStatus.NO_END: "red",
}


def show_forecast(forecast: Forecast, console: Console, *, everything: bool = False) -> None:
    """The table of runs, best first, then statuses, intervals, backtest, warnings and what was not forecast."""
    shown = [int(i) for i in forecast.order if not forecast.status[i].refused]
    chosen = shown if everything else _best(forecast, shown)
    if shown:
        console.print(_runs(forecast, chosen, console))
        if len(chosen) < len(shown):
            console.print(Text(f"{len(chosen)} of {count(len(shown), 'run')}, the best first; --all shows every one", "dim"))
        console.print()
    for line in _beneath(forecast, everything):
        console.print(line)


def _best(forecast: Forecast, shown: list[int]) -> list[int]:
    """The best MOST_ROWS, best first; finished runs fill at most a quarter of them while others wait."""
    if len(shown) <= MOST_ROWS:
        return shown
    live = [i for i in shown if forecast.status[i].forecasts]
    done = [i for i in shown if not forecast.status[i].forecasts]
    room = max(MOST_ROWS - len(live), MOST_ROWS // 4)
    kept = {*done[:room], *live[: MOST_ROWS - min(room, len(done))]}
    return [i for i in shown if i in kept]


def _runs(forecast: Forecast, index: list[int], console: Console) -> Table:
    curves, (low, high), median = forecast.curves, forecast.interval, forecast.median
    at = [position(forecast.at[i]) for i in index]
    one_end = len(set(at)) == 1
    loose = [forecast.status[i].forecasts and not forecast.calibrated[i] for i in index]
    between = [f"{number(low[i])} to {number(high[i])}" if forecast.status[i].forecasts else "–" for i in index]
    # heading, justification, cells; what a narrow terminal has no room for is left out in the order of _DROPPED
    columns: dict[str, tuple[str, list[str]]] = {
        "run": ("run", [name_of(curves.runs[i]) for i in index]),
        "last_x": (f"last {name_of(curves.x_name, 12)}", [position(curves.last_x[i]) for i in index]),
        "last": ("last", [number(curves.last_y[i]) for i in index]),
        **({} if one_end else {"at": ("at", at)}),
        "forecast": (f"at {at[0]}" if one_end else "forecast", [number(median[i]) for i in index]),
        "interval": (
            f"{100 * forecast.level:g} % interval",
            [text + (" *" if mark else "  " * any(loose)) for text, mark in zip(between, loose, strict=True)],
        ),
        **({} if forecast.hidden is None else {"came": ("came", [_came(forecast, i) for i in index])}),
        **({} if forecast.p_best is None else {"p": ("P(ends best)", [percent(p) for p in forecast.p_best[index]])}),
        "status": ("status", [forecast.status[i].words for i in index]),
    }
    if console.width < _width(columns) and "p" in columns:
        columns["p"] = ("P(best)", columns["p"][1])
    for name in _DROPPED:
        if console.width < _width(columns):
            columns.pop(name, None)
    over = _width(columns) - console.width
    if over > 0:
        cut = [name_of(text, max(16, max(map(len, columns["run"][1])) - over)) for text in columns["run"][1]]
        if len(set(cut)) == len(cut):  # otherwise the whole names, folded onto further lines
            columns["run"] = ("run", cut)
    table = _table()
    for name, (heading, _) in columns.items():
        table.add_column(
            heading,
            justify="left" if name in ("run", "status") else "right",
            no_wrap=name not in ("run", "status"),
            overflow="fold",
        )
    for k, i in enumerate(index):
        status = forecast.status[i]
        styles = {"forecast": "bold" if status.forecasts else "", "status": _COLOURS[status]}
        table.add_row(*(Text(cells[k], styles.get(name, "")) for name, (_, cells) in columns.items()))
    return table


def _came(forecast: Forecast, i: int) -> str:
    (low, high), value = forecast.interval, forecast.came[i]
    return number(value) + ("  " if not math.isfinite(value) or low[i] <= value <= high[i] else " ✗")


def _width(columns: dict[str, tuple[str, list[str]]]) -> int:
    return sum(max(len(heading), *map(len, cells)) + 2 for heading, cells in columns.values()) - 2


def _beneath(forecast: Forecast, everything: bool) -> Iterator[Text | Table]:
    tally = Counter(s for s in forecast.status if not s.refused)
    if tally:
        yield _tally(tally)
    loose = int((~forecast.calibrated[forecast.forecast_index]).sum())
    if forecast.forecast_index.size:
        yield Text(forecast.interval_label + (" (*)" if 0 < loose < forecast.forecast_index.size else ""))
        if forecast.calibration.n_runs and (forecast.calibration.source or forecast.calibration.caveat):
            yield Text(f"calibration: {'; '.join(filter(None, (forecast.calibration.source, forecast.calibration.caveat)))}", "dim")
    if forecast.p_best is None and forecast.p_best_withheld:
        yield Text(f"P(ends best) is withheld: {forecast.p_best_withheld}")
    if forecast.came_label:
        yield Text(f"{forecast.came_label}; ✗ marks the others", "bold")
    if forecast.backtest is not None:
        yield Text(forecast.backtest.summary())
    for warning in forecast.warnings:
        yield Text.assemble(("warning: ", "bold yellow"), name_of(warning))
    refused = forecast.refused_index if everything else forecast.refused_index[:MOST_REFUSED]
    for i in refused:
        note = f" ({name_of(forecast.notes[i])})" if forecast.notes and forecast.notes[i] else ""
        yield Text.assemble(("not forecast: ", "bold red"), f"{name_of(forecast.curves.runs[i])}: {forecast.status[i].short}{note}")
    if len(refused) < forecast.refused_index.size:
        more = forecast.refused_index.size - len(refused)
        yield Text.assemble(("not forecast: ", "bold red"), f"and {count(more, 'more run')}; --all names every one")


def _tally(tally: Counter[ForecastStatus]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for status in ForecastStatus:
        if tally[status]:
            table.add_row(Text(str(tally[status])), Text(status.words, _COLOURS[status]), Text(status.value, "dim"))
    return table


def show_backtest(backtest: Backtest, console: Console) -> None:
    """The table of scores by method and reach, then the one-line result and warnings."""
    measured = [s for s in backtest.SCORES if s in backtest.scores.columns and backtest.scores[s].is_not_null().any()]
    fit = sorted(measured, key=_PRIORITY.index)[: max(1, (console.width - 32) // 12)]  # the rest is in --json and --csv
    names = [s for s in measured if s in fit]
    table = _table()
    table.add_column("reach", no_wrap=True)
    table.add_column("method", overflow="fold", min_width=10)
    table.add_column("n", justify="right", no_wrap=True)
    for name in names:
        table.add_column(_HEADS.get(name, name), justify="right")
    wide = console.width >= 72 + 12 * len(names)
    for frame in (backtest.pooled, backtest.by_reach.sort("reach_low", maintain_order=True)):
        band = None
        for row in frame.iter_rows(named=True):
            reach = "all" if row["reach_low"] is None else reach_band(row["reach_low"], row["reach_high"])
            if reach != band and table.row_count:
                table.add_section()
            style = "bold" if row["method"] == backtest.method else ""
            cells = [Text(_score(row, name, wide), style) for name in names]
            table.add_row(Text("" if reach == band else reach), Text(name_of(row["method"]), style), Text(f"{row['n']:,}"), *cells)
            band = reach
    if table.row_count:
        console.print(table)
        console.print()
    console.print(Text(backtest.summary(), "bold"))
    for warning in backtest.warnings:
        console.print(Text.assemble(("warning: ", "bold yellow"), name_of(warning)))


_PRIORITY = (
    "mae",
    "coverage80",
    "width80",
    "crps",
    "log_likelihood",
    "interval_score80",
    "coverage50",
    "coverage90",
    "width50",
    "width90",
)
_WITH_INTERVAL = ("mae", "coverage80")  # the others' are in --json and --csv
_HEADS = {
    "mae": "MAE",
    "crps": "CRPS",
    "log_likelihood": "log-lik.",
    "interval_score80": "int. score 80",
    **{f"coverage{level}": f"held {level} %" for level in (50, 80, 90)},
    **{f"width{level}": f"width {level}" for level in (50, 80, 90)},
}


def _score(row: dict[str, Any], name: str, wide: bool) -> str:
    def shown(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return "–"
        return f"{100 * value:.0f} %" if name.startswith("coverage") else number(value, 3)

    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    interval = f" [{shown(low)}, {shown(high)}]" if wide and name in _WITH_INTERVAL and low is not None and high is not None else ""
    return shown(row[name]) + interval


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
