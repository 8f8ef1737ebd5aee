"""`farfield forecast`: where every run will end, with intervals, the advice that follows, and the evidence beneath."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shlex
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from farfield.cli.output import emit, format_of, hand_over, notes, output_options, plot_option, report_option
from farfield.cli.reading import CONTEXT, ESTIMATE, LR_SCHEDULE, SEED, read, read_context, reading_options
from farfield.errors import InputError
from farfield.figures import save_figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from farfield.curves.data import Curves, FloatArray
    from farfield.curves.results import Forecast

_BY = re.compile(r"(?P<factor>\d*\.?\d+(e\d+)?)x|\+(?P<more>\d*\.?\d+(e\d+)?)")


@click.command("forecast")
@reading_options
@click.option("--to", type=float, metavar="X", help="Forecast every run at this x; default: each run's planned end.")
@click.option("--by", metavar="2x|+N", help="Forecast each run at twice its last x (any multiple), or N further on.")
@click.option("--level", type=float, default=0.8, show_default=True, help="Level of the intervals.")
@ESTIMATE
@click.option(
    "--target",
    type=click.Choice(["logged", "latent"]),
    default="logged",
    show_default=True,
    help="Intervals for the value that will be logged, or for the curve beneath its noise.",
)
@click.option(
    "--method",
    default="auto",
    show_default=True,
    help="A curve form by name, lcpfn (the network), context (a network that reads the other runs), forms (all), or auto: "
    "forms and network, weighted by success.",
)
@LR_SCHEDULE
@CONTEXT
@click.option(
    "--compare",
    type=click.Choice(["same", "own-end"]),
    default="same",
    show_default=True,
    help="P(ends best): at one x, or each at its own end.",
)
@click.option(
    "--hide", type=float, metavar="SHARE", help="Hide this share of each run's length, 0.4 say, and show what came beside it."
)
@plot_option("A figure of the best runs")
@report_option("All of it in one HTML file that works offline.")
@click.option("--all", "everything", is_flag=True, help="Every run in the table, not only the best 40.")
@SEED
@click.option("--jobs", type=int, metavar="N", help="With -o DIR/: worker processes; default, the processors.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="With -o DIR/: who works.")
@output_options
@click.pass_context
def command(
    context_: click.Context,
    /,
    to: float | None,
    by: str | None,
    level: float,
    estimate: str,
    target: Any,
    method: str,
    lr_schedule: str | None,
    context: tuple[str, ...],
    compare: Any,
    hide: float | None,
    plot: str | None,
    report: str | None,
    everything: bool,
    seed: int,
    jobs: int | None,
    engine: str,
    as_json: bool,
    as_csv: bool,
    out: str | None,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Where each run in PATH... will end, best first. PATH is a log, a folder of logs, or - for standard input.

    With -o DIR/ each PATH is a partition: forecast by itself, written to DIR/NAME.parquet and not repeated when asked again.

    Exit code 0: forecast. 2: bad input, or none of the runs could be forecast.
    """
    if out is not None and (out.endswith("/") or os.path.isdir(out)):
        if by is not None and not by.endswith("x"):
            raise InputError(f"--by {by}: with -o DIR/ allowed: a multiple of the last x such as 2x")
        apart = {"--context": context, "--hide": hide, "--plot": plot, "--report": report, "--run": chosen["runs"]}
        given = [name for name, value in apart.items() if value]
        if given:
            raise InputError(f"{', '.join(given)}: not with -o DIR/, where each file is forecast by itself")
        partitions(
            chosen, out, jobs, engine, quiet, to=to, factor=None if by is None else parse_by(by)[0], level=level, estimate=estimate,
            target=target, method=method, lr_schedule=lr_schedule, seed=seed,
        )  # fmt: skip
        return
    if jobs is not None or engine != "local":
        raise InputError("--jobs and --engine divide partitions among workers; say where they go with -o DIR/")
    fmt = format_of(as_json, as_csv, out)
    if to is not None and by is not None:
        raise click.UsageError("--to and --by cannot both be given; one says where, the other how much further")
    further = None if by is None else parse_by(by)

    with notes(quiet):
        from farfield.curves.forecasting import forecast

        curves = read(chosen)
        curves, hidden = (curves, None) if hide is None else split(curves, hide)
        others = read_context(chosen, context, curves)
        found = forecast(
            curves,
            to=to if further is None else beyond(curves, *further),
            level=level,
            estimate=estimate,
            method=method,
            lr_schedule=lr_schedule,
            context=others,
            compare=compare,
            target=target,
            rng=seed,
        )
        found = dataclasses.replace(found, hidden=hidden)
    draw(found, plot, report, command_line(context_))
    if fmt == "table":
        from farfield.cli.forecast_table import show_forecast

        hand_over(lambda console: show_forecast(found, console, everything=everything), out)
    else:
        emit(found.to_frame() if fmt != "json" else [], fmt, out, document=found.to_dict() if fmt == "json" else None)
    if found.refused_index.size == len(curves):
        from farfield.curves.results import ForecastStatus
        from farfield.wording import count

        reasons = "; ".join(sorted({status.short for status in found.status}))
        remedy = "; say how far with --to X or --by 2x" if ForecastStatus.NO_END in found.status else ""
        raise InputError(f"none of {count(len(curves), 'run')} could be forecast: {reasons}{remedy}")


def partitions(chosen: Mapping[str, Any], out: str, jobs: int | None, engine: str, quiet: bool, **settings: Any) -> None:
    """Forecast every path by itself into the folder `out`, and say what became of each."""
    from farfield.curves.partitions import Settings, forecast_partitions

    reading = {name: chosen[name] for name in ("metric", "x", "goal", "run_column")}
    found = forecast_partitions(chosen["paths"], out, Settings(**reading, **settings), jobs=jobs, engine=engine, quiet=quiet)
    failed = [one for one in found if one.problem is not None]
    for one in failed:
        click.echo(f"left out: {one.source}: {one.problem}", err=True)
    if not quiet:
        reused = sum(one.reused for one in found)
        runs, done = sum(one.n_runs for one in found), sum(one.n_forecast for one in found)
        again = f" ({reused} of them before)" if reused else ""
        click.echo(f"{len(found) - len(failed)} of {len(found)} partitions forecast{again}: {done} of {runs} runs, in {out}")
    if failed:
        raise InputError(f"{len(failed)} of {len(found)} partitions could not be forecast; the others are in {out}")


def parse_by(text: str) -> tuple[float, float]:
    """``2x`` as (2, 0) and ``+500`` as (1, 500): the multiple of the last x, and what is added to it."""
    found = _BY.fullmatch(text.strip())
    if found is None:
        raise InputError(f"--by {text}: allowed: a multiple of the last x such as 2x, or a distance such as +500")
    factor, more = float(found["factor"] or 1), float(found["more"] or 0)
    if math.isinf(factor) or math.isinf(more):
        raise InputError(f"--by {text}: allowed: a finite number")
    if found["factor"] and factor <= 1:
        raise InputError(f"--by {text}: the multiple must be above 1, such as 2x")
    if found["more"] and more <= 0:
        raise InputError(f"--by {text}: the distance must be above 0, such as +500")
    return factor, more


def beyond(curves: Curves, factor: float, more: float) -> FloatArray:
    """(n_runs,) where each run is forecast: `factor` times its last x, and `more` further on."""
    target: FloatArray = factor * curves.last_x + more
    return target


def split(curves: Curves, share: float) -> tuple[Curves, Curves]:
    """What is seen and what is hidden when the last `share` of each run's planned (else logged) length is hidden.

    Of a run that has hidden points nothing in the seen part tells how it went on: its status is ``running``, its counts of
    dropped points are 0, and its end is where it was planned (or, where nobody planned, logged).
    """
    import polars as pl

    if not 0 < share < 1:
        raise InputError(f"--hide {share:g}: the share must lie between 0 and 1, e.g. 0.4")
    planned = curves.column("planned_end")
    end = planned.fill_null(pl.Series(curves.last_x)).to_numpy()
    cut = (1 - share) * end
    hidden = curves.where(curves.x > cut[curves.run_index])
    some = pl.Series(hidden.lengths > 0)
    told = {"status": pl.lit("running"), "n_nonfinite": pl.lit(0), "n_duplicate": pl.lit(0)}
    attributes = curves.attributes.with_columns(
        pl.Series("planned_end", end),
        *(
            pl.when(some).then(value).otherwise(pl.col(name)).cast(curves.attributes.schema[name]).alias(name)
            for name, value in told.items()
        ),
    )
    return dataclasses.replace(curves.upto(cut), attributes=attributes), hidden


def draw(found: Forecast, plot: str | None, report: str | None, line: str) -> None:
    """Write the figure and the report that were asked for."""
    if plot is not None:
        from farfield.curves.plot import forecast_figure

        save_figure(forecast_figure(found), plot)
    if report is not None:
        from farfield.curves.report import save_report

        save_report(found, report, command=line)


def command_line(context: click.Context) -> str:
    """The command as it was given, ready to paste."""
    words = [context.command_path]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if context.get_parameter_source(str(parameter.name)) is not ParameterSource.COMMANDLINE:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(parameter, click.Option):
                words.append(max(parameter.opts, key=len))
            if not (isinstance(parameter, click.Option) and parameter.is_flag):
                words.append(shlex.quote(f"{one:g}" if isinstance(one, float) else str(one)))
    return " ".join(words)
