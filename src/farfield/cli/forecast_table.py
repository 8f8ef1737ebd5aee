"""How a forecast and a backtest read on a terminal: a table, and beneath it what a reader must know to use it.

Widths follow the terminal; what is piped is never cut or wrapped.
"""

from __future__ import annotations

import io
import math
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from farfield.curves.results import Backtest, Forecast, ForecastStatus
from farfield.curves.wording import count, name_of, number, percent, tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_ROWS = 40  # runs shown before --all is needed
MOST_REFUSED = 10
PIPE_WIDTH = 100_000

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


def hand_over(show: Callable[[Console], None], out: str | None) -> None:
    """Print what `show` draws, as wide as the terminal; into a pipe or the file `out`, as wide as the text and without colours."""
    to_stdout = out is None or out == "-"
    if to_stdout and sys.stdout.isatty():
        show(Console(highlight=False, markup=False, emoji=False))
        return
    drawn = io.StringIO()
    show(Console(file=drawn, width=PIPE_WIDTH, highlight=False, markup=False, emoji=False, no_color=True))
    text = "".join(f"{line.rstrip()}\n" for line in drawn.getvalue().splitlines())
    if out is None or out == "-":
        click.echo(text, nl=False)
        return
    from farfield.files import write_atomic

    write_atomic(out, text.encode())


def show_forecast(forecast: Forecast, console: Console, *, everything: bool = False) -> None:
    """The table of runs, best first, then statuses, intervals, backtest, warnings and what was not forecast."""
    shown = [int(i) for i in forecast.order if not forecast.status[i].refused]
    if shown:
        console.print(_runs(forecast, shown if everything else shown[:MOST_ROWS], console))
        if len(shown) > MOST_ROWS and not everything:
            console.print(Text(f"the best {MOST_ROWS} of {count(len(shown), 'run')}; --all shows every one", "dim"))
        console.print()
    for line in _beneath(forecast, everything):
        console.print(line)


def _runs(forecast: Forecast, index: list[int], console: Console) -> Table:
    curves, (low, high), median = forecast.curves, forecast.interval, forecast.median
    ends = {tick(forecast.at[i]) for i in index if math.isfinite(forecast.at[i])}
    table = _table()
    table.add_column("run", overflow="fold", min_width=12)
    wide = console.width >= 100
    table.add_column(("last " if wide else "") + name_of(curves.x_name, 12), justify="right", no_wrap=True)
    table.add_column("last", justify="right", no_wrap=True)
    if len(ends) > 1:
        table.add_column("at", justify="right", no_wrap=True)
    table.add_column("forecast" if len(ends) != 1 else f"at {next(iter(ends))}", justify="right", no_wrap=True)
    table.add_column(f"{100 * forecast.level:g} % interval", justify="right", no_wrap=True)
    if forecast.p_best is not None:
        table.add_column("P(ends best)" if wide else "P(best)", justify="right", no_wrap=True)
    table.add_column("status", min_width=8)
    for i in index:
        status = forecast.status[i]
        interval = f"{number(low[i])} to {number(high[i])}" if status.forecasts else "–"
        if len(ends) > 1:
            at = [Text(tick(forecast.at[i]) if math.isfinite(forecast.at[i]) else "–")]
        else:
            at = []
        probability = [] if forecast.p_best is None else [Text(percent(forecast.p_best[i]))]
        table.add_row(
            Text(name_of(curves.runs[i], 0 if console.width == PIPE_WIDTH else max(12, console.width - 68))),
            Text(tick(curves.last_x[i])),
            Text(number(curves.last_y[i])),
            *at,
            Text(number(median[i]), "bold" if status.forecasts else ""),
            Text(interval + ("" if forecast.calibrated[i] or not status.forecasts else " *")),
            *probability,
            Text(_words(status), _COLOURS[status]),
        )
    return table


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
            table.add_row(Text(str(tally[status])), Text(_words(status), _COLOURS[status]), Text(status.value, "dim"))
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
    wide = console.width >= 60 + 22 * len(names)
    for frame in (backtest.pooled, backtest.by_reach.sort("reach_low", maintain_order=True)):
        band = None
        for row in frame.iter_rows(named=True):
            reach = "all" if row["reach_low"] is None else f"{tick(row['reach_low'])}–{tick(row['reach_high'])}x"
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
    interval = f" [{shown(low)}, {shown(high)}]" if wide and low is not None and high is not None else ""
    return shown(row[name]) + interval


def _words(status: ForecastStatus) -> str:
    return status.key.replace("_", " ")


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
