"""The options that the commands on runs share: which runs, what of them, what else to learn from, when to stop; and the reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from farfield.curves.data import Curves

_F = TypeVar("_F", bound=Callable[..., None])

PATHS = click.argument("paths", nargs=-1, required=True, metavar="PATH...")
RUN_COLUMN = click.option("--run-column", metavar="COLUMN", help="The column of a table that tells runs apart.")


def reading_options(function: _F) -> _F:
    """``PATH...``, ``--metric``, ``--x``, ``--goal``, ``--run``, ``--run-column``, passed on by the names that `read` takes."""
    options: tuple[Callable[[_F], _F], ...] = (
        RUN_COLUMN,
        click.option("--run", "runs", metavar="NAME", multiple=True, help="Only runs of this name or pattern (repeatable)."),
        click.option("--goal", type=click.Choice(["min", "max"]), help="Which way is better, where the name does not tell."),
        click.option("--x", metavar="step|tokens|epoch|time|COLUMN", help="The x of a point; default: what the logs count."),
        click.option("--metric", metavar="NAME", help="The metric, where several were logged."),
        PATHS,
    )
    for option in options:
        function = option(function)
    return function


ESTIMATE = click.option("--estimate", default="final", show_default=True, metavar="final|mean:K|best", help="What is forecast.")
LR_SCHEDULE = click.option(
    "--lr-schedule", metavar="cosine:T|wsd:T,D|constant", help="The learning-rate schedule, where the logs have none."
)
CONTEXT = click.option("--context", multiple=True, metavar="PATH", help="Other runs to learn from, and no more (repeatable).")
SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of whatever is drawn.")


def stopping_options(function: _F) -> _F:
    """``--rule``, ``--threshold``, ``--risk``, ``--to``, ``--despite``, as `farfield.Adviser` takes them."""
    options: tuple[Callable[[_F], _F], ...] = (
        click.option(
            "--despite", type=click.Choice(["uncalibrated", "decay", "schedule"]), multiple=True,
            help="Stop although the forecast is uncalibrated, a decay is to come, or the schedule is unknown (repeatable).",
        ),
        click.option("--to", type=float, metavar="X", help="Where the runs end; default: each run's planned end."),
        click.option(
            "--risk", type=float, default=0.05, show_default=True, help="Bound on P(the winner is stopped) by the end; less early."
        ),
        click.option(
            "--threshold", type=float, help="The probability, default 0.05; or multiples of a fresh run's gain, default 1."
        ),
        click.option(
            "--rule", type=click.Choice(["probability", "regret", "winner"]), default="probability", show_default=True,
            help="Stop what is unlikely to beat the best so far at any step, what gains less than a fresh run, or all that --risk "
            "allows.",
        ),
    )  # fmt: skip
    for option in options:
        function = option(function)
    return function


def read(chosen: Mapping[str, Any]) -> Curves:
    """The curves that the options of `reading_options` name; warnings say what was left out."""
    from farfield.curves.readers import read_runs

    return read_runs(
        list(chosen["paths"]),
        metric=chosen["metric"],
        x=chosen["x"],
        goal=chosen["goal"],
        runs=list(chosen["runs"]) or None,
        run_column=chosen["run_column"],
    )


def read_context(chosen: Mapping[str, Any], paths: tuple[str, ...], curves: Curves | None = None) -> Curves | None:
    """The runs of ``--context``, read as `curves` were (where they were read already); None if there is none."""
    if not paths:
        return None
    same = {} if curves is None else {"metric": curves.metric.name, "goal": curves.metric.goal, "x": curves.x_name}
    return read({**chosen, **same, "paths": paths, "runs": ()})
