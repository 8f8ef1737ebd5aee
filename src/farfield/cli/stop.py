"""`farfield stop`: which runs of a sweep to stop, what that saves and risks, and which to run next."""

from __future__ import annotations

from typing import Any

import click

from farfield.cli.output import emit, format_of, notes, output_options
from farfield.cli.reading import CONTEXT, ESTIMATE, LR_SCHEDULE, SEED, read, read_context, reading_options, stopping_options


@click.command("stop")
@reading_options
@stopping_options
@click.option("--best", type=float, metavar="VALUE", help="A value to beat besides those logged.")
@click.option("--price", type=float, help="For --rule regret: the least gain worth a unit of x.")
@click.option("--budget", type=float, metavar="X", help="What all runs may still spend, in x: it decides how many are stopped.")
@ESTIMATE
@click.option(
    "--method", default="forms", show_default=True, help="A curve form by name, forms: all of them, auto: the network too."
)
@LR_SCHEDULE
@CONTEXT
@click.option("--as-of", type=float, metavar="X", help="What the advice would have been when the runs stood at X, and what came.")
@click.option("--rank", is_flag=True, help="Rank the runs instead, at equal x and at their own ends.")
@click.option("--rank-at", type=float, metavar="X", help="The equal x of --rank; default: the largest that all runs have logged.")
@click.option("--next", "n_next", type=int, metavar="N", help="Propose the N settings to run next instead.")
@click.option("--all", "everything", is_flag=True, help="Every run in the table.")
@SEED
@output_options
def command(
    as_of: float | None, rank: bool, rank_at: float | None, n_next: int | None, context: tuple[str, ...], everything: bool,
    seed: int, as_json: bool, as_csv: bool, out: str | None, quiet: bool, rule: str, threshold: float | None, risk: float,
    to: float | None, best: float | None, price: float | None, budget: float | None, despite: tuple[str, ...], estimate: str,
    method: str, lr_schedule: str | None, **chosen: Any,
) -> None:  # fmt: skip
    """Which of the runs in PATH... to stop now. Nothing is stopped: this only advises.

    Exit code 0: advised. 2: bad input.
    """
    fmt = format_of(as_json, as_csv, out)
    if n_next is not None and (rank or rank_at is not None):
        raise click.UsageError("--rank and --next cannot both be given; each prints a table of its own")
    if price is not None and rule != "regret":
        raise click.UsageError(f"--price belongs to --rule regret; the rule is {rule}")
    with notes(quiet):
        from farfield.curves import stopping

        curves = read(chosen)
        others = read_context(chosen, context, curves)
        if others is not None:
            # a run is no evidence on itself, least of all when its end is hidden
            others = others.take([i for i, run in enumerate(others.runs) if run not in set(curves.runs)])
        seen = curves if as_of is None else stopping.as_of(curves, as_of)
        advice = stopping.stop_advice(
            seen, rule=rule, threshold=threshold, risk=risk, to=to, context=others, best=best, price=price, budget=budget,
            despite=despite, estimate=estimate, method=method, lr_schedule=lr_schedule, rng=seed,
        )  # fmt: skip
    lines = [advice.summary(), *(f"warning: {w}" for w in advice.warnings)]
    document: dict[str, Any] = advice.to_dict()
    if as_of is not None:
        replay = stopping.replayed(advice, curves, as_of)
        lines.insert(1, replay.summary())
        document["replay"] = replay.to_dict()
    if n_next is not None:
        proposed = stopping.next_runs(advice, n_next, rng=seed)
        emit(proposed.to_frame(), fmt, out, footer=proposed.summary(), document=proposed.to_dict(), every_row=True)
    elif rank or rank_at is not None:
        table = stopping.ranking(advice, rank_at)
        emit(table, fmt, out, footer="\n".join(lines), every_row=everything)
    else:
        frame = advice.to_frame()
        brief = frame.select("run", "status", "last_x", "last", "at", "forecast", "p_best", "why")
        emit(frame, fmt, out, shown=brief, footer="\n".join(lines), document=document, every_row=everything)
