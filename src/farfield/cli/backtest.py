"""`farfield backtest`: how the forecasts do where the far end of every run is hidden, by method and reach."""

from __future__ import annotations

from typing import Any

import click

from farfield.cli.output import emit, format_of, hand_over, notes, output_options, plot_option
from farfield.cli.reading import ESTIMATE, LR_SCHEDULE, SEED, read, reading_options
from farfield.figures import save_figure


@click.command("backtest")
@reading_options
@ESTIMATE
@click.option("--method", default="auto", show_default=True, help="One curve form by name, or auto: all, weighted by success.")
@LR_SCHEDULE
@plot_option("A figure of coverage, error and width by reach")
@SEED
@output_options
def command(
    estimate: str,
    method: str,
    lr_schedule: str | None,
    plot: str | None,
    seed: int,
    as_json: bool,
    as_csv: bool,
    out: str | None,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Hide the end of every run in PATH..., forecast it, and score the forecasts against what was hidden.

    Nothing of the scored run's group, and nothing beyond its cut, is used for its forecast. Exit code 0: scored. 2: bad input.
    """
    fmt = format_of(as_json, as_csv, out)
    with notes(quiet):
        from farfield.curves.backtesting import backtest

        curves = read(chosen)
        found = backtest(curves, estimate=estimate, method=method, lr_schedule=lr_schedule, rng=seed)
    if plot is not None:
        from farfield.curves.plot import backtest_figure

        save_figure(backtest_figure(found), plot)
    if fmt == "table":
        from farfield.cli.forecast_table import show_backtest

        hand_over(lambda console: show_backtest(found, console), out)
    else:
        emit(found.to_frame() if fmt != "json" else [], fmt, out, document=found.to_dict() if fmt == "json" else None)
